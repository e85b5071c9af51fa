/*
 * gateway_chunked.c: bodies in chunks, at once and byte by byte.
 */
#include "chunked.h"
#include "gateway_tap.h"

#include <stdlib.h>

/* Decodes a body that comes in pieces of so many bytes: "broken", "more", or its data, "|", and
 * what lies behind its end. */
static const char *
decode(const char *body, size_t piece)
{
    static char text[256];
    struct phr_chunked_decoder decoder = {.consume_trailer = 1};
    size_t size = strlen(body);
    size_t length = 0;
    ssize_t rest = -2;

    for (size_t at = 0; at < size && rest == -2; at += piece)
    {
        size_t came = size - at < piece ? size - at : piece;
        size_t count = came;

        memcpy(text + length, body + at, count);
        rest = phr_decode_chunked(&decoder, text + length, &count);
        length += count;
        if (rest >= 0)
            snprintf(text + length, sizeof(text) - length, "|%s", body + at + came - rest);
    }
    return rest == -1 ? "broken" : rest == -2 ? "more" : text;
}

int
main(void)
{
    static const struct
    {
        const char *body;
        const char *result;
        const char *name;
    } cases[] = {
        {"5\r\nhello\r\n0\r\n\r\n", "hello|", "one chunk"},
        {"5\r\nhello\r\n006\r\n world\r\n00\r\n\r\n", "hello world|", "two, with zeros"},
        {"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n", "01234567890123456789a|",
         "digits of both cases"},
        {"0\r\n\r\n", "|", "no data"},
        {"2\r\n\r\n\r\n0\r\n\r\nGET", "\r\n|GET", "data that looks like an end, and more behind"},
        {"2;a=\"b\";c\r\nab\r\n0 ; d\r\n\r\n", "ab|", "extensions"},
        {"1\r\na\r\n0\r\nContent-Length: 5\r\nb: c\r\n\r\nrest", "a|rest", "trailers"},
        {"5\r\nhell", "more", "data that goes on"},
        {"0\r\n\r", "more", "the last line feed"},
        {"2x\r\nab\r\n0\r\n\r\n", "broken", "junk behind a size"},
        {"0x2\r\nab\r\n0\r\n\r\n", "broken", "a size with its base"},
        {"\r\n", "broken", "no size"},
        {"-1\r\n", "broken", "a sign"},
        {" 2\r\nab\r\n0\r\n\r\n", "broken", "a space before a size"},
        {"2 \r\nab\r\n0\r\n\r\n", "broken", "a space behind it"},
        {"00000000000000002\r\nab\r\n0\r\n\r\n", "broken", "more digits than a size has"},
        {"2\nab\r\n0\r\n\r\n", "broken", "a bare line feed behind a size"},
        {"2;a\nab\r\n0\r\n\r\n", "broken", "... and an extension"},
        {"2;a\rb\r\nab\r\n0\r\n\r\n", "broken", "a bare carriage return in an extension"},
        {"2\r\nab\n0\r\n\r\n", "broken", "a bare line feed behind data"},
        {"2\r\nab\r\r\n0\r\n\r\n", "broken", "two carriage returns"},
        {"2\r\nabc\r\n0\r\n\r\n", "broken", "more data than was said"},
        {"0\r\n\n", "broken", "a bare line feed at the end"},
        {"0\r\na: b\n\r\n", "broken", "a bare line feed behind a trailer"},
        {"0\r\n a: b\r\n\r\n", "broken", "a folded trailer"},
        {"0\r\na: \001\r\n\r\n", "broken", "a control character in a trailer"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
    {
        is(decode(cases[i].body, strlen(cases[i].body)), cases[i].result, cases[i].name);
        for (size_t piece = 1; piece < 4; piece++)
            is(decode(cases[i].body, piece), cases[i].result, "... in pieces");
    }
    return done();
}
