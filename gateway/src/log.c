/*
 * log.c: JSON lines on standard error, one write a line.
 *
 * Nothing here ever sees a token: callers log the user, the source and the cause of a refusal.
 */
#include "log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Longest string value in a line. */
#define VALUE_MAX 512

static atomic_int lowest = LOG_INFO;

void
log_set_level(enum log_level level)
{
    atomic_store(&lowest, (int)level);
}

bool
log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&lowest, memory_order_relaxed);
}

uint64_t
clock_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void
log_begin(struct log_line *line, enum log_level level, const char *event)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    struct timespec now;
    struct tm utc;

    /* Two bytes stay free for the closing brace and the newline, whatever is cut. */
    text_begin(&line->text, line->memory, sizeof(line->memory) - 2);
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    text_format(&line->text,
                "{\"time\":\"%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ\",\"level\":\"%s\","
                "\"event\":\"%s\"",
                utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                utc.tm_sec, now.tv_nsec / 1000, names[level], event);
}

void
log_bytes(struct log_line *line, const char *name, const char *value, size_t size)
{
    char *before = line->text.at;
    bool cut = line->text.cut;

    line->text.cut = false;
    text_format(&line->text, ",\"%s\":", name);
    text_json(&line->text, value, size, VALUE_MAX);
    /* A member goes in whole or not at all: half a string would break the line. */
    if (line->text.cut)
        line->text.at = before;
    line->text.cut = cut;
}

void
log_string(struct log_line *line, const char *name, const char *value)
{
    if (value != NULL)
        log_bytes(line, name, value, strlen(value));
}

void
log_number(struct log_line *line, const char *name, int64_t value)
{
    text_format(&line->text, ",\"%s\":%lld", name, (long long)value);
}

void
log_end(struct log_line *line)
{
    size_t size;
    ssize_t written;

    line->text.at[0] = '}';
    line->text.at[1] = '\n';
    size = text_size(&line->text) + 2;
    /* Where standard error is gone there is nobody left to tell. */
    written = write(STDERR_FILENO, line->memory, size);
    (void)written;
}

void
log_message(enum log_level level, const char *event, const char *format, ...)
{
    struct log_line line;
    char message[1024];
    va_list arguments;

    if (!log_enabled(level))
        return;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    log_begin(&line, level, event);
    log_string(&line, "message", message);
    log_end(&line);
}
