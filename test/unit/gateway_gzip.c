/*
 * gateway_gzip.c: unpacking bodies: intact, cut, corrupt, and bombs.
 */
#include "gateway_tap.h"
#include "gzip.h"

#include <stdlib.h>
#include <zlib.h>

/* Packs bytes as one gzip member; returns the size. */
static size_t
pack(const char *bytes, size_t size, char *out, size_t room)
{
    z_stream stream = {0};

    deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY);
    stream.next_in = (unsigned char *)(size_t)bytes;
    stream.avail_in = (unsigned)size;
    stream.next_out = (unsigned char *)out;
    stream.avail_out = (unsigned)room;
    deflate(&stream, Z_FINISH);
    deflateEnd(&stream);
    return room - stream.avail_out;
}

int
main(void)
{
    static char large[1000000];
    static char packed[100000];
    char *unpacked;
    size_t size;
    size_t length;
    bool all_broken = true;

    memset(large, 'z', sizeof(large));
    length = pack("hello", 5, packed, sizeof(packed));
    ok(gzip_unpack(packed, length, 100, &unpacked, &size) == GZIP_DONE && size == 5 &&
           memcmp(unpacked, "hello", 5) == 0,
       "a small body");
    free(unpacked);
    ok(gzip_unpack(packed, length, 5, &unpacked, &size) == GZIP_DONE, "exactly the limit");
    free(unpacked);
    ok(gzip_unpack(packed, length, 4, &unpacked, &size) == GZIP_TOO_LARGE && unpacked == NULL,
       "a byte over the limit");
    for (size_t cut = 0; cut < length; cut++)
        all_broken = all_broken && gzip_unpack(packed, cut, 100, &unpacked, &size) == GZIP_BROKEN;
    ok(all_broken, "cut anywhere");
    packed[length - 6] ^= 1;
    ok(gzip_unpack(packed, length, 100, &unpacked, &size) == GZIP_BROKEN, "a wrong checksum");
    packed[length - 6] ^= 1;
    memcpy(packed + length, packed, length);
    ok(gzip_unpack(packed, 2 * length, 100, &unpacked, &size) == GZIP_DONE && size == 10 &&
           memcmp(unpacked, "hellohello", 10) == 0,
       "two members");
    free(unpacked);
    packed[length] = 'x';
    ok(gzip_unpack(packed, length + 1, 100, &unpacked, &size) == GZIP_BROKEN,
       "rubbish after the end");
    ok(gzip_unpack("", 0, 100, &unpacked, &size) == GZIP_BROKEN, "nothing");
    length = pack("", 0, packed, sizeof(packed));
    ok(gzip_unpack(packed, length, 100, &unpacked, &size) == GZIP_DONE && size == 0,
       "nothing, packed");
    free(unpacked);
    length = pack(large, sizeof(large), packed, sizeof(packed));
    ok(gzip_unpack(packed, length, sizeof(large), &unpacked, &size) == GZIP_DONE &&
           size == sizeof(large) && memcmp(unpacked, large, size) == 0,
       "a large body");
    free(unpacked);
    ok(gzip_unpack(packed, length, 70000, &unpacked, &size) == GZIP_TOO_LARGE, "a bomb");
    return done();
}
