/*
 * buffer.c - bytes that grow, and what is written into them: JSON, base64, SQL names.
 */
#include "buffer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rowsync.h"

static rowsync_allocator allocator = {realloc, free};

void
rowsync_set_allocator(const rowsync_allocator *functions)
{
    static const rowsync_allocator standard = {realloc, free};

    allocator = functions != NULL ? *functions : standard;
}

/* realloc() by the app's allocator; a size of 0 is never asked of it. */
void *
rs_realloc(void *pointer, size_t size)
{
    return allocator.reallocate(pointer, size > 0 ? size : 1);
}

/* free() by the app's allocator. */
void
rs_free(void *pointer)
{
    if (pointer != NULL)
        allocator.release(pointer);
}

/* A copy of a string for rs_free(); NULL for NULL and when out of memory. */
char *
rs_copy(const char *text)
{
    size_t size;
    char *copy;

    if (text == NULL)
        return NULL;
    size = strlen(text) + 1;
    copy = rs_realloc(NULL, size);
    return copy != NULL ? memcpy(copy, text, size) : NULL;
}

/* Gives the bytes back; the buffer is empty and usable again. */
void
buffer_free(Buffer *buffer)
{
    rs_free(buffer->data);
    *buffer = (Buffer){0};
}

/* Empties the buffer and keeps its memory for the next use. */
void
buffer_clear(Buffer *buffer)
{
    buffer->length = 0;
    buffer->failed = false;
    if (buffer->data != NULL)
        buffer->data[0] = '\0';
}

/* Makes room for so many bytes and the NUL behind them. */
bool
buffer_reserve(Buffer *buffer, size_t more)
{
    size_t need, capacity;
    char *data;

    if (buffer->failed)
        return false;
    need = buffer->length + more + 1;
    if (more < SIZE_MAX / 4 && need <= buffer->capacity)
        return true;
    capacity = buffer->capacity > 0 ? buffer->capacity : 64;
    while (capacity < need && capacity < SIZE_MAX / 4)
        capacity *= 2;
    data = capacity >= need && more < SIZE_MAX / 4 ? rs_realloc(buffer->data, capacity) : NULL;
    if (data == NULL)
    {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

void
buffer_append(Buffer *buffer, const void *data, size_t length)
{
    if (!buffer_reserve(buffer, length))
        return;
    if (length > 0)
        memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
    buffer->data[buffer->length] = '\0';
}

void
buffer_text(Buffer *buffer, const char *text)
{
    buffer_append(buffer, text, strlen(text));
}

void
buffer_byte(Buffer *buffer, char byte)
{
    buffer_append(buffer, &byte, 1);
}

/* An integer in decimal; written by hand, for it is what requests have most of. */
void
buffer_int(Buffer *buffer, int64_t value)
{
    char digits[24];
    size_t at = sizeof(digits);
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;

    do
        digits[--at] = (char)('0' + rest % 10);
    while ((rest /= 10) > 0);
    if (value < 0)
        digits[--at] = '-';
    buffer_append(buffer, digits + at, sizeof(digits) - at);
}

void
buffer_printf(Buffer *buffer, const char *format, ...)
{
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0 || !buffer_reserve(buffer, (size_t)length))
    {
        buffer->failed = true;
        return;
    }
    va_start(arguments, format);
    vsnprintf(buffer->data + buffer->length, (size_t)length + 1, format, arguments);
    va_end(arguments);
    buffer->length += (size_t)length;
}

/* The content as a string; "" for an empty buffer. */
const char *
buffer_string(const Buffer *buffer)
{
    return buffer->data != NULL ? buffer->data : "";
}

/*
 * Length of the UTF-8 sequence that begins at `text` with `left` bytes to go, 0 when it is none:
 * overlong forms, surrogates and what lies beyond U+10FFFF are refused (Unicode, table 3-7).
 */
size_t
utf8_length(const unsigned char *text, size_t left)
{
    unsigned char first = text[0], low = 0x80, high = 0xBF;
    size_t length, i;

    if (first < 0x80)
        return 1;
    if (first < 0xC2 || first > 0xF4)
        return 0;
    length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (length > left)
        return 0;
    if (first == 0xE0)
        low = 0xA0;
    else if (first == 0xED)
        high = 0x9F;
    else if (first == 0xF0)
        low = 0x90;
    else if (first == 0xF4)
        high = 0x8F;
    if (text[1] < low || text[1] > high)
        return 0;
    for (i = 2; i < length; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    return length;
}

/* A JSON string, quotes included; false where the text is no UTF-8 (what was written stays). */
bool
buffer_json_text(Buffer *buffer, const char *text, size_t length)
{
    static const char hex[] = "0123456789abcdef";
    size_t start = 0, i = 0;

    buffer_byte(buffer, '"');
    while (i < length)
    {
        unsigned char c = (unsigned char)text[i];
        char escape[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};

        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\')
        {
            i++;
            continue;
        }
        if (c >= 0x80)
        {
            size_t sequence = utf8_length((const unsigned char *)text + i, length - i);

            if (sequence == 0)
                return false;
            i += sequence;
            continue;
        }
        buffer_append(buffer, text + start, i - start);
        if (c == '"' || c == '\\')
        {
            escape[1] = (char)c;
            buffer_append(buffer, escape, 2);
        }
        else if (c == '\n' || c == '\r' || c == '\t' || c == '\b' || c == '\f')
        {
            escape[1] = c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c == '\b' ? 'b' : 'f';
            buffer_append(buffer, escape, 2);
        }
        else
            buffer_append(buffer, escape, 6);
        start = ++i;
    }
    buffer_append(buffer, text + start, length - start);
    buffer_byte(buffer, '"');
    return true;
}

/*
 * The shortest decimal that reads back as the same double, as a JSON number; what JSON has no
 * number for becomes a string, as the protocol says.
 */
void
buffer_json_double(Buffer *buffer, double value)
{
    char text[40], *comma;
    int digits;

    if (isnan(value))
        buffer_text(buffer, "\"NaN\"");
    else if (isinf(value))
        buffer_text(buffer, value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
    else
    {
        for (digits = 15; digits <= 17; digits++)
        {
            snprintf(text, sizeof(text), "%.*g", digits, value);
            if (strtod(text, NULL) == value)
                break;
        }
        comma = strchr(text, ','); /* an app may have set a locale */
        if (comma != NULL)
            *comma = '.';
        buffer_text(buffer, text);
    }
}

/* Standard base64 with padding, without quotes. */
void
buffer_base64(Buffer *buffer, const unsigned char *data, size_t length)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out;
    size_t i;

    if (!buffer_reserve(buffer, length / 3 * 4 + 4))
        return;
    out = buffer->data + buffer->length;
    for (i = 0; i + 2 < length; i += 3)
    {
        uint32_t group = (uint32_t)data[i] << 16 | (uint32_t)data[i + 1] << 8 | data[i + 2];

        *out++ = digits[group >> 18];
        *out++ = digits[group >> 12 & 63];
        *out++ = digits[group >> 6 & 63];
        *out++ = digits[group & 63];
    }
    if (i < length)
    {
        uint32_t group =
            (uint32_t)data[i] << 16 | (i + 1 < length ? (uint32_t)data[i + 1] << 8 : 0);

        *out++ = digits[group >> 18];
        *out++ = digits[group >> 12 & 63];
        *out++ = i + 1 < length ? digits[group >> 6 & 63] : '=';
        *out++ = '=';
    }
    *out = '\0';
    buffer->length = (size_t)(out - buffer->data);
}

/* A uuid's 16 bytes in the canonical lower-case form, without quotes. */
void
buffer_uuid(Buffer *buffer, const unsigned char bytes[16])
{
    static const char hex[] = "0123456789abcdef";
    char text[36];
    size_t at = 0;
    int i;

    for (i = 0; i < 16; i++)
    {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            text[at++] = '-';
        text[at++] = hex[bytes[i] >> 4];
        text[at++] = hex[bytes[i] & 15];
    }
    buffer_append(buffer, text, sizeof(text));
}

/* Text between quotes, with the quotes inside doubled: SQL's only escape. */
static void
append_quoted(Buffer *buffer, const char *text, char quote)
{
    buffer_byte(buffer, quote);
    for (; *text != '\0'; text++)
    {
        if (*text == quote)
            buffer_byte(buffer, quote);
        buffer_byte(buffer, *text);
    }
    buffer_byte(buffer, quote);
}

/* An SQL identifier, quoted. */
void
buffer_name(Buffer *buffer, const char *name)
{
    append_quoted(buffer, name, '"');
}

/* An SQL string literal; for names inside trigger text, which cannot have parameters. */
void
buffer_literal(Buffer *buffer, const char *text)
{
    append_quoted(buffer, text, '\'');
}

/* The value of a base64 digit, or -1. */
static int
base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes standard base64 strictly: right length, padding only at the end, no stray bits. */
bool
base64_decode(Slice text, Buffer *out)
{
    size_t length = text.length, i;
    uint32_t group = 0;
    int padding = 0;

    if (length % 4 != 0)
        return false;
    while (padding < 2 && length > 0 && text.data[length - 1] == '=')
    {
        length--;
        padding++;
    }
    if (!buffer_reserve(out, length / 4 * 3 + 3))
        return false;
    for (i = 0; i < length; i++)
    {
        int digit = base64_digit(text.data[i]);

        if (digit < 0)
            return false;
        group = group << 6 | (uint32_t)digit;
        if (i % 4 == 3)
        {
            char bytes[3] = {(char)(group >> 16), (char)(group >> 8), (char)group};

            buffer_append(out, bytes, 3);
            group = 0;
        }
    }
    if (padding == 1)
    {
        char bytes[2] = {(char)(group >> 10), (char)(group >> 2)};

        buffer_append(out, bytes, 2);
        return (group & 3) == 0;
    }
    if (padding == 2)
    {
        buffer_byte(out, (char)(group >> 4));
        return (group & 15) == 0;
    }
    return true;
}

/* The value of a hex digit, or -1. */
static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Reads a uuid in its form with dashes; case does not matter. */
bool
uuid_decode(Slice text, unsigned char bytes[16])
{
    size_t at = 0;
    int i;

    if (text.length != 36)
        return false;
    for (i = 0; i < 16; i++)
    {
        int high, low;

        if ((i == 4 || i == 6 || i == 8 || i == 10) && text.data[at++] != '-')
            return false;
        high = hex_digit(text.data[at++]);
        low = hex_digit(text.data[at++]);
        if (high < 0 || low < 0)
            return false;
        bytes[i] = (unsigned char)(high << 4 | low);
    }
    return true;
}

/* Appends text for the eye: each byte that is not UTF-8, and NUL, becomes U+FFFD. */
void
buffer_utf8(Buffer *buffer, const char *text, size_t length)
{
    size_t i, sequence;

    for (i = 0; i < length; i += sequence)
    {
        sequence = utf8_length((const unsigned char *)text + i, length - i);
        if (sequence > 0 && text[i] != '\0')
            buffer_append(buffer, text + i, sequence);
        else
        {
            buffer_text(buffer, "\xEF\xBF\xBD");
            sequence = 1;
        }
    }
}

/* Is the slice this very text? */
bool
slice_is(Slice slice, const char *text)
{
    return slice.data != NULL && slice.length == strlen(text) &&
           memcmp(slice.data, text, slice.length) == 0;
}

/* Are the two the same bytes? */
bool
slice_same(Slice one, Slice other)
{
    return one.length == other.length && memcmp(one.data, other.data, one.length) == 0;
}
