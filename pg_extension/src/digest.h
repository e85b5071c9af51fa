/*
 * digest.h: a number that two equal sets of rows share, whatever their order.
 *
 * For each row: SHA-256 of "schema 0x1F table 0x1F pk 0x1F version" (pk as the protocol writes it,
 * version in decimal), its first 16 bytes read as two big-endian 64-bit numbers. The digest is the
 * sum of these over all rows, each modulo 2^64, written as 32 hexadecimal digits.
 */
#ifndef ROWSYNC_DIGEST_H
#define ROWSYNC_DIGEST_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "registry.h"

typedef struct Digest
{
    uint64 high;
    uint64 low;
    int64 rows;
    struct pg_cryptohash_ctx *hash;
    StringInfoData row; /* reused for each row */
} Digest;

void digest_init(Digest *digest);
void digest_add(Digest *digest, const SyncedTable *table, RowKey key, int64 version);
void digest_append(StringInfo out, const Digest *digest);
void digest_free(Digest *digest);

#endif
