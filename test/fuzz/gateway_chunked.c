/*
 * gateway_chunked.c: fuzzes the decoder of chunked bodies: byte by byte it says the same as at
 * once, and where it takes a body, libh2o's own finds the same data and the same end.
 */
#include "chunked.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* The longest input that is looked at. */
#define ROOM 4096

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int
LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size)
{
    static ssize_t (*theirs)(struct phr_chunked_decoder *, char *, size_t *);
    static char once[ROOM];
    static char other[ROOM];
    struct phr_chunked_decoder decoder = {.consume_trailer = 1};
    struct phr_chunked_decoder again = decoder;
    struct phr_chunked_decoder foreign = decoder;
    size_t length = size;
    size_t used = 0;
    size_t at = 0;
    ssize_t rest;
    ssize_t result = -2;

    if (theirs == NULL)
        *(void **)&theirs = dlsym(RTLD_NEXT, "phr_decode_chunked");
    if (size > ROOM || size == 0)
        return 0;
    memcpy(once, bytes, size);
    rest = phr_decode_chunked(&decoder, once, &length);
    while (at < size && result == -2)
    {
        size_t one = 1;

        other[used] = (char)bytes[at++];
        result = phr_decode_chunked(&again, other + used, &one);
        used += one;
    }
    if (used != length || memcmp(once, other, used) != 0 || (rest < 0 && result != rest) ||
        (rest >= 0 && (result != 0 || at + (size_t)rest != size)))
        abort();
    if (rest == -1)
        return 0;
    memcpy(other, bytes, size);
    if (theirs(&foreign, other, &size) != rest || size != length || memcmp(once, other, size) != 0)
        abort();
    return 0;
}
