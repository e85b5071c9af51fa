/*
 * buffer.h - bytes that grow, and what is written into them: JSON, base64, SQL names.
 *
 * A Buffer remembers that an allocation failed and ignores what is appended from then on, so that
 * only its user at the end has to look.
 */
#ifndef ROWSYNC_BUFFER_H
#define ROWSYNC_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Owned bytes, always followed by a NUL once something was appended. All zero is an empty one. */
typedef struct Buffer
{
    char *data;
    size_t length;
    size_t capacity;
    bool failed; /* out of memory, or more than SIZE_MAX / 4 */
} Buffer;

/* A piece of somebody else's bytes; data NULL means there is none. */
typedef struct Slice
{
    const char *data;
    size_t length;
} Slice;

void *rs_realloc(void *pointer, size_t size);
void rs_free(void *pointer);
char *rs_copy(const char *text);

void buffer_free(Buffer *buffer);
void buffer_clear(Buffer *buffer);
bool buffer_reserve(Buffer *buffer, size_t more);
void buffer_append(Buffer *buffer, const void *data, size_t length);
void buffer_text(Buffer *buffer, const char *text);
void buffer_byte(Buffer *buffer, char byte);
void buffer_int(Buffer *buffer, int64_t value);
void buffer_printf(Buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *buffer_string(const Buffer *buffer);

bool buffer_json_text(Buffer *buffer, const char *text, size_t length);
void buffer_json_double(Buffer *buffer, double value);
void buffer_base64(Buffer *buffer, const unsigned char *data, size_t length);
void buffer_uuid(Buffer *buffer, const unsigned char bytes[16]);
void buffer_name(Buffer *buffer, const char *name);
void buffer_utf8(Buffer *buffer, const char *text, size_t length);
void buffer_literal(Buffer *buffer, const char *text);

bool base64_decode(Slice text, Buffer *out);
bool uuid_decode(Slice text, unsigned char bytes[16]);
size_t utf8_length(const unsigned char *text, size_t left);
bool slice_is(Slice slice, const char *text);
bool slice_same(Slice one, Slice other);

#endif
