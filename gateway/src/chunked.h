/*
 * chunked.h: the decoder of chunked request bodies, in the place of libh2o's own.
 *
 * libh2o 2.2.5 takes chunks that are framed in ways that the standard does not know: junk behind a
 * size, bare line feeds, anything before the line feed that ends a chunk's data. Behind a proxy
 * that reads such a body differently that is request smuggling. Its decoder works in place, so that
 * nobody can look afterwards; but it calls it by a public name, which the program's own definition
 * takes over, as the linker has it. test_gateway_body.py sees that it does.
 */
#ifndef ROWSYNC_GATEWAY_CHUNKED_H
#define ROWSYNC_GATEWAY_CHUNKED_H

#include <stddef.h>
#include <sys/types.h>

/* Where a body stands. Laid out as libh2o has it, which zeroes it and sets consume_trailer. */
struct phr_chunked_decoder
{
    size_t left;          /* bytes of the chunk that are still to come, or its size so far */
    char consume_trailer; /* whether lines may follow the last chunk, to be dropped */
    char digits;          /* of the size so far */
    char state;
};

/*
 * Decodes the next *size bytes in place; *size becomes that of their data. Returns how many bytes
 * after the body's end lie behind the data, -2 where the body goes on, and -1 where it is not
 * framed as RFC 9112, 7.1, has it. A pure function, fuzzed against libh2o's own.
 */
ssize_t phr_decode_chunked(struct phr_chunked_decoder *decoder, char *bytes, size_t *size);

#endif
