/*
 * digest.h - the digest of a set of rows by which a device proves that it has what the server has;
 * docs/protocol.md says what it is.
 */
#ifndef ROWSYNC_DIGEST_H
#define ROWSYNC_DIGEST_H

#include "buffer.h"

#define DIGEST_DIGITS 32

typedef struct Digest
{
    void *hash; /* EVP_MD_CTX, used again for each row */
    Buffer row;
    uint64_t high;
    uint64_t low;
    int64_t rows;
    bool failed; /* out of memory */
} Digest;

void digest_start(Digest *digest);
void digest_free(Digest *digest);
void digest_table(Buffer *out, Slice schema, Slice table);
void digest_add(Digest *digest, Slice table, Slice key, int64_t version);
void digest_text(const Digest *digest, char out[DIGEST_DIGITS + 1]);

#endif
