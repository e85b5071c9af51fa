/*
 * digest.c - the digest of a set of rows; SHA-256 is that of OpenSSL, which libcurl brings along.
 */
#include "digest.h"

#include <openssl/evp.h>
#include <stdio.h>

#define SEPARATOR '\x1f'

/* The empty set. To be released by digest_free(), also after a failure. */
void
digest_start(Digest *digest)
{
    *digest = (Digest){.hash = EVP_MD_CTX_new()};
    digest->failed =
        digest->hash == NULL || EVP_DigestInit_ex(digest->hash, EVP_sha256(), NULL) != 1;
}

void
digest_free(Digest *digest)
{
    EVP_MD_CTX_free(digest->hash);
    buffer_free(&digest->row);
    digest->hash = NULL;
}

/* Appends what digest_add() takes for a table. */
void
digest_table(Buffer *out, Slice schema, Slice table)
{
    buffer_append(out, schema.data, schema.length);
    buffer_byte(out, SEPARATOR);
    buffer_append(out, table.data, table.length);
    buffer_byte(out, SEPARATOR);
}

/* The number that eight bytes are, the most significant first. */
static uint64_t
big_endian(const unsigned char *bytes)
{
    uint64_t number = 0;
    int i;

    for (i = 0; i < 8; i++)
        number = number << 8 | bytes[i];
    return number;
}

/* Adds a row. The key is that of the wire, without quotes. */
void
digest_add(Digest *digest, Slice table, Slice key, int64_t version)
{
    unsigned char hash[EVP_MAX_MD_SIZE];

    if (digest->failed)
        return;
    buffer_clear(&digest->row);
    buffer_append(&digest->row, table.data, table.length);
    buffer_append(&digest->row, key.data, key.length);
    buffer_byte(&digest->row, SEPARATOR);
    buffer_int(&digest->row, version);
    digest->failed = digest->row.failed ||
                     EVP_DigestUpdate(digest->hash, digest->row.data, digest->row.length) != 1 ||
                     EVP_DigestFinal_ex(digest->hash, hash, NULL) != 1 ||
                     EVP_DigestInit_ex(digest->hash, NULL, NULL) != 1;
    if (digest->failed)
        return;
    digest->high += big_endian(hash);
    digest->low += big_endian(hash + 8);
    digest->rows++;
}

/* The digits, as the server writes them. */
void
digest_text(const Digest *digest, char out[DIGEST_DIGITS + 1])
{
    snprintf(out, DIGEST_DIGITS + 1, "%016llx%016llx", (unsigned long long)digest->high,
             (unsigned long long)digest->low);
}
