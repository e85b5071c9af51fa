/*
 * gateway_gzip.c: fuzzes unpacking: never more than allowed, never memory left behind.
 */
#include "gzip.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int
LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size)
{
    char *unpacked;
    size_t length;

    if (gzip_unpack((const char *)bytes, size, 100000, &unpacked, &length) == GZIP_DONE &&
        length > 100000)
        abort();
    free(unpacked);
    return 0;
}
