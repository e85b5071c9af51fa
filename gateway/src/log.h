/*
 * log.h: JSON lines on standard error.
 */
#ifndef ROWSYNC_GATEWAY_LOG_H
#define ROWSYNC_GATEWAY_LOG_H

#include "text.h"

enum log_level
{
    LOG_DEBUG,
    LOG_INFO,
    LOG_WARNING,
    LOG_ERROR,
    LOG_OFF
};

/* The most that one line may take; longer values are cut by their writers. */
#define LOG_LINE_MAX 4096

/* A line being written: `text` is open for more members until log_end. */
struct log_line
{
    struct text text;
    char memory[LOG_LINE_MAX];
};

/* Lines below this level are dropped. Set at start and on reload. */
void log_set_level(enum log_level level);

/* Would a line of this level be written? */
bool log_enabled(enum log_level level);

/* Begins a line with its time, level and event name. */
void log_begin(struct log_line *line, enum log_level level, const char *event);

/* Adds a member: a string (may be NULL: then nothing is added), a sized string, or a number. */
void log_string(struct log_line *line, const char *name, const char *value);
void log_bytes(struct log_line *line, const char *name, const char *value, size_t size);
void log_number(struct log_line *line, const char *name, int64_t value);

/* Ends the line and writes it with one write(2), so that lines of several threads never mix. */
void log_end(struct log_line *line);

/* A whole line with a message and nothing else. */
void log_message(enum log_level level, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Microseconds on a clock that only goes forward. */
uint64_t clock_us(void);

#endif
