/*
 * gzip.h: unpacking request bodies. A pure function on bytes.
 */
#ifndef ROWSYNC_GATEWAY_GZIP_H
#define ROWSYNC_GATEWAY_GZIP_H

#include <stddef.h>

enum gzip_end
{
    GZIP_DONE,
    GZIP_BROKEN,   /* no gzip, or cut, or a wrong checksum, or bytes after the end */
    GZIP_TOO_LARGE /* more than `most` bytes would come out */
};

/*
 * Unpacks `size` bytes of gzip (one member or several, RFC 1952) into memory that the caller frees.
 * Memory grows with what comes out, never beyond `most`, whatever the input promises.
 */
enum gzip_end gzip_unpack(const char *packed, size_t size, size_t most, char **unpacked,
                          size_t *unpacked_size);

#endif
