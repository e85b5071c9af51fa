/*
 * gzip.c: unpacking request bodies. A pure function on bytes.
 */
#include "gzip.h"

#include <stdlib.h>
#include <zlib.h>

/* First piece of memory; it doubles from there. */
#define FIRST 65536

/* zlib's window bits for gzip and nothing else. */
#define GZIP_WINDOW (15 + 16)

/* Gives the output more room. False: it is as large as it may be. */
static int
grow(char **memory, size_t *room, size_t most)
{
    size_t larger = *room < most / 2 ? *room * 2 : most;

    if (*room == most)
        return 0;
    *memory = realloc(*memory, larger);
    if (*memory == NULL)
        abort();
    *room = larger;
    return 1;
}

enum gzip_end
gzip_unpack(const char *packed, size_t size, size_t most, char **unpacked, size_t *unpacked_size)
{
    z_stream stream = {0};
    size_t room = most < FIRST ? most : FIRST;
    size_t filled = 0;
    enum gzip_end end = GZIP_BROKEN;
    char *memory = malloc(room);

    if (memory == NULL || inflateInit2(&stream, GZIP_WINDOW) != Z_OK)
        abort();
    /* One call can take no more than 4 GiB, and body_limit is far below. */
    stream.next_in = (unsigned char *)(size_t)packed;
    stream.avail_in = (unsigned)size;
    for (;;)
    {
        int status;

        stream.next_out = (unsigned char *)memory + filled;
        stream.avail_out = (unsigned)(room - filled);
        status = inflate(&stream, Z_NO_FLUSH);
        filled = room - stream.avail_out;
        if (status == Z_STREAM_END && stream.avail_in == 0)
        {
            end = GZIP_DONE;
            break;
        }
        if (status == Z_STREAM_END)
            status = inflateReset(&stream);
        if (status != Z_OK && status != Z_BUF_ERROR)
            break;
        if (stream.avail_out != 0 && stream.avail_in == 0)
            break; /* cut */
        if (stream.avail_out == 0 && !grow(&memory, &room, most))
        {
            end = GZIP_TOO_LARGE;
            break;
        }
    }
    inflateEnd(&stream);
    if (end != GZIP_DONE)
    {
        free(memory);
        memory = NULL;
    }
    *unpacked = memory;
    *unpacked_size = filled;
    return end;
}
