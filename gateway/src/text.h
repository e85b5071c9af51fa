/*
 * text.h: writing text into a fixed piece of memory.
 *
 * Log lines, problem documents and metrics are all built this way: no allocation, never past the
 * end, and one place that knows how JSON strings are escaped.
 */
#ifndef ROWSYNC_GATEWAY_TEXT_H
#define ROWSYNC_GATEWAY_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A piece of memory being filled. What no longer fits is dropped and `cut` says so. */
struct text
{
    char *start;
    char *at;
    char *end;
    bool cut;
};

/* Begins a text in `size` bytes at `memory`, which the caller keeps and frees. */
void text_begin(struct text *text, char *memory, size_t size);

/* Appends `size` bytes as they are: all of them, or none when they do not fit. */
void text_append(struct text *text, const char *bytes, size_t size);

/* Appends a NUL-terminated string as it is. */
void text_string(struct text *text, const char *string);

/* Appends a decimal number. */
void text_number(struct text *text, int64_t number);

/* Appends by printf format. */
void text_format(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Appends `size` bytes as a JSON string with its quotes. Bytes that are no UTF-8 become U+FFFD, so
 * that what an attacker sends never makes the line unreadable. Cut at `most` bytes of input.
 */
void text_json(struct text *text, const char *bytes, size_t size, size_t most);

/* The bytes written so far. */
static inline size_t
text_size(const struct text *text)
{
    return (size_t)(text->at - text->start);
}

/*
 * Length of the UTF-8 character at `bytes` (1 to 4), or 0 when the bytes are no valid UTF-8: a
 * stray or missing continuation byte, an overlong form, a surrogate, or beyond U+10FFFF.
 */
size_t utf8_length(const unsigned char *bytes, size_t size);

/* Is all of it valid UTF-8 without a NUL byte (what PostgreSQL's text can hold)? */
bool utf8_valid(const char *bytes, size_t size);

/* A hash of a string (FNV-1a), for names that come from signed tokens: nobody aims for collisions.
 */
uint64_t text_hash(const char *string);

#endif
