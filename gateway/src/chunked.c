/*
 * chunked.c: the decoder of chunked request bodies, in the place of libh2o's own.
 */
#include "chunked.h"

#include <stdbool.h>
#include <string.h>

/* The most digits of a chunk's size. */
#define DIGITS_MAX ((char)(2 * sizeof(size_t)))

/* What comes next. */
enum state
{
    STATE_SIZE,         /* a digit of a chunk's size, or what follows the last */
    STATE_SPACE,        /* spaces, or the semicolon that begins an extension */
    STATE_EXTENSION,    /* the rest of the line, to be passed over */
    STATE_SIZE_END,     /* the line feed of that line */
    STATE_DATA,         /* the chunk's data */
    STATE_DATA_CR,      /* the carriage return after it */
    STATE_DATA_END,     /* ... and the line feed */
    STATE_TRAILER,      /* a line after the last chunk, or the empty one that ends the body */
    STATE_TRAILER_LINE, /* the rest of it */
    STATE_TRAILER_END,  /* its line feed */
    STATE_END,          /* the line feed of the empty line */
    STATE_OVER,         /* nothing: the body has ended */
    STATE_BROKEN        /* nothing any more */
};

/* The value of a hexadecimal digit; -1: it is none. */
static int
digit_of(char byte)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = memchr(digits, byte >= 'A' && byte <= 'F' ? byte | 0x20 : byte, 16);

    return at == NULL ? -1 : (int)(at - digits);
}

/* May this byte stand in a line's text? */
static bool
is_text(char byte)
{
    return byte == '\t' || ((unsigned char)byte >= 0x20 && byte != 0x7f);
}

/* Takes one byte of a chunk's size, which has to have one digit at least. */
static enum state
take_size(struct phr_chunked_decoder *decoder, char byte)
{
    int digit = digit_of(byte);

    if (digit >= 0 && decoder->digits < DIGITS_MAX)
    {
        decoder->left = decoder->left << 4 | (size_t)digit;
        decoder->digits++;
        return STATE_SIZE;
    }
    if (digit >= 0 || decoder->digits == 0)
        return STATE_BROKEN;
    return byte == '\r'                  ? STATE_SIZE_END
           : byte == ';'                 ? STATE_EXTENSION
           : byte == ' ' || byte == '\t' ? STATE_SPACE
                                         : STATE_BROKEN;
}

/* What follows the line with a chunk's size. */
static enum state
after_size(struct phr_chunked_decoder *decoder)
{
    decoder->digits = 0;
    if (decoder->left != 0)
        return STATE_DATA;
    return decoder->consume_trailer ? STATE_TRAILER : STATE_OVER;
}

/* Takes one byte that is no data. */
static enum state
take_byte(struct phr_chunked_decoder *decoder, char byte)
{
    switch ((enum state)decoder->state)
    {
        case STATE_SIZE:
            return take_size(decoder, byte);
        case STATE_SPACE:
            return byte == ';'                   ? STATE_EXTENSION
                   : byte == ' ' || byte == '\t' ? STATE_SPACE
                                                 : STATE_BROKEN;
        case STATE_EXTENSION:
            return byte == '\r' ? STATE_SIZE_END : is_text(byte) ? STATE_EXTENSION : STATE_BROKEN;
        case STATE_SIZE_END:
            return byte == '\n' ? after_size(decoder) : STATE_BROKEN;
        case STATE_DATA_CR:
            return byte == '\r' ? STATE_DATA_END : STATE_BROKEN;
        case STATE_DATA_END:
            return byte == '\n' ? STATE_SIZE : STATE_BROKEN;
        case STATE_TRAILER:
            return byte == '\r'                  ? STATE_END
                   : byte == ' ' || byte == '\t' ? STATE_BROKEN
                   : is_text(byte)               ? STATE_TRAILER_LINE
                                                 : STATE_BROKEN;
        case STATE_TRAILER_LINE:
            return byte == '\r'    ? STATE_TRAILER_END
                   : is_text(byte) ? STATE_TRAILER_LINE
                                   : STATE_BROKEN;
        case STATE_TRAILER_END:
            return byte == '\n' ? STATE_TRAILER : STATE_BROKEN;
        case STATE_END:
            return byte == '\n' ? STATE_OVER : STATE_BROKEN;
        case STATE_DATA:
        case STATE_OVER:
        case STATE_BROKEN:
            break;
    }
    return STATE_BROKEN;
}

ssize_t
phr_decode_chunked(struct phr_chunked_decoder *decoder, char *bytes, size_t *size)
{
    size_t from = 0;
    size_t to = 0;
    size_t rest;

    while (from < *size && decoder->state != STATE_OVER && decoder->state != STATE_BROKEN)
    {
        size_t count = *size - from < decoder->left ? *size - from : decoder->left;

        if (decoder->state != STATE_DATA)
        {
            decoder->state = (char)take_byte(decoder, bytes[from++]);
            continue;
        }
        memmove(bytes + to, bytes + from, count);
        from += count;
        to += count;
        decoder->left -= count;
        if (decoder->left == 0)
            decoder->state = STATE_DATA_CR;
    }
    rest = *size - from;
    memmove(bytes + to, bytes + from, rest);
    *size = to;
    return decoder->state == STATE_OVER ? (ssize_t)rest : decoder->state == STATE_BROKEN ? -1 : -2;
}
