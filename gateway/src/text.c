/*
 * text.c: writing text into a fixed piece of memory.
 */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void
text_begin(struct text *text, char *memory, size_t size)
{
    text->start = text->at = memory;
    text->end = memory + size;
    text->cut = false;
}

void
text_append(struct text *text, const char *bytes, size_t size)
{
    if ((size_t)(text->end - text->at) < size)
    {
        text->cut = true;
        return;
    }
    if (size != 0)
        memcpy(text->at, bytes, size);
    text->at += size;
}

void
text_string(struct text *text, const char *string)
{
    text_append(text, string, strlen(string));
}

void
text_number(struct text *text, int64_t number)
{
    text_format(text, "%lld", (long long)number);
}

void
text_format(struct text *text, const char *format, ...)
{
    size_t room = (size_t)(text->end - text->at);
    va_list arguments;
    int size;

    va_start(arguments, format);
    size = vsnprintf(text->at, room, format, arguments);
    va_end(arguments);
    /* vsnprintf needs a byte for its NUL, which the next piece overwrites. */
    if (size < 0 || (size_t)size >= room)
        text->cut = true;
    else
        text->at += size;
}

size_t
utf8_length(const unsigned char *bytes, size_t size)
{
    static const struct
    {
        unsigned char mask, lead;
        uint32_t least;
    } forms[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};

    for (size_t form = 0; form < 4; form++)
    {
        uint32_t point;

        if ((bytes[0] & forms[form].mask) != forms[form].lead)
            continue;
        if (form + 1 > size)
            return 0;
        point = bytes[0] & (unsigned char)~forms[form].mask;
        for (size_t i = 1; i <= form; i++)
        {
            if ((bytes[i] & 0xc0) != 0x80)
                return 0;
            point = point << 6 | (bytes[i] & 0x3f);
        }
        if (point < forms[form].least || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
            return 0;
        return form + 1;
    }
    return 0;
}

bool
utf8_valid(const char *bytes, size_t size)
{
    for (size_t at = 0; at < size;)
    {
        size_t length = utf8_length((const unsigned char *)bytes + at, size - at);

        if (length == 0 || bytes[at] == '\0')
            return false;
        at += length;
    }
    return true;
}

uint64_t
text_hash(const char *string)
{
    uint64_t hash = 14695981039346656037u;

    for (; *string != '\0'; string++)
        hash = (hash ^ (unsigned char)*string) * 1099511628211u;
    return hash;
}

/* The number of a character of so many bytes, as utf8_length has counted them. */
static unsigned
point_of(const unsigned char *bytes, size_t length)
{
    unsigned point = length == 1 ? bytes[0] : bytes[0] & 0xffu >> (length + 1);

    for (size_t i = 1; i < length; i++)
        point = point << 6 | (bytes[i] & 0x3fu);
    return point;
}

/*
 * Would a reader take this character for the end of a line, or a terminal for a command, or would
 * it turn around what stands beside it?
 */
static bool
disturbs(unsigned point)
{
    return point < 0x20 || (point >= 0x7f && point < 0xa0) || point == 0x200e || point == 0x200f ||
           (point >= 0x2028 && point <= 0x202e) || (point >= 0x2066 && point <= 0x2069);
}

void
text_json(struct text *text, const char *bytes, size_t size, size_t most)
{
    const unsigned char *at = (const unsigned char *)bytes;
    const unsigned char *end = at + (size < most ? size : most);

    text_append(text, "\"", 1);
    while (at < end)
    {
        size_t length = utf8_length(at, (size_t)(end - at));

        if (length == 0)
        {
            /* A character cut by `most` ends the string; anything else is replaced. */
            if (size > most && end - at < 4)
                break;
            text_string(text, "\\ufffd");
            at++;
            continue;
        }
        if (*at == '"' || *at == '\\')
            text_format(text, "\\%c", *at);
        else if (disturbs(point_of(at, length)))
            text_format(text, "\\u%04x", point_of(at, length));
        else
            text_append(text, (const char *)at, length);
        at += length;
    }
    if (size > most)
        text_string(text, "…");
    text_append(text, "\"", 1);
}
