/*
 * jwt.h: verifying JSON Web Tokens. Pure functions on bytes: no clock, no cache, no HTTP.
 */
#ifndef ROWSYNC_GATEWAY_JWT_H
#define ROWSYNC_GATEWAY_JWT_H

#include "problem.h"

#include <time.h>

/* The longest token that is looked at. */
#define TOKEN_MAX 8192

/* Longest user (`sub`) and source (`did`), in bytes; the extension has the same limits. */
#define USER_MAX 255
#define SOURCE_MAX 255

/* Longest name of a database role; PostgreSQL would cut a longer one and so take another. */
#define ROLE_MAX 63

/* The keys that tokens may be signed with. Immutable, shared by all loops. */
struct jwt_keys;

/*
 * Builds the keys from a shared secret (NULL: none) and the text of a JWK Set (NULL: none). Keys of
 * the set that are broken, too short, or of a kind no algorithm here uses are skipped. Returns NULL
 * with the cause in `error`: no such set, a private key where a public one should be, too many, or
 * none left. One reference belongs to the caller.
 */
struct jwt_keys *jwt_keys_create(const char *secret, const char *jwks, size_t jwks_size,
                                 char *error, size_t error_size);

/* Which keys of the set were skipped, and why, for people; empty: none. */
const char *jwt_keys_skipped(const struct jwt_keys *keys);

/* References are counted atomically: loops keep old keys while a reload brings new ones. */
struct jwt_keys *jwt_keys_hold(struct jwt_keys *keys);
void jwt_keys_release(struct jwt_keys *keys);

/* What is asked of a token beyond its signature. */
struct jwt_rules
{
    const char *issuer;   /* NULL: any */
    const char *audience; /* NULL: any */
    int64_t leeway;       /* seconds */
    const char *role;     /* the claim that names the database role; NULL: none does */
    const char *roles;    /* those that it may name, by commas; NULL: any */
};

/* What a verified token says. References are counted, by one thread only. */
struct jwt_claims
{
    unsigned references;
    int64_t expires;    /* seconds since 1970, leeway not included */
    const char *user;   /* `sub` */
    const char *source; /* `did`, or NULL */
    const char *role;   /* the database role; NULL where rules.role is */
    const char *json;   /* the claims as the token has them: JSON, NUL-terminated */
    char memory[];
};

/*
 * Verifies a token at time `now`: its form, algorithm, key, signature, and then its claims. Returns
 * claims with one reference, or NULL with the cause in *problem, which never quotes the token.
 * Nothing a token says is believed before its signature is proven, except which key to try.
 */
struct jwt_claims *jwt_verify(const struct jwt_keys *keys, const struct jwt_rules *rules,
                              const char *token, size_t size, time_t now, struct problem *problem);

struct jwt_claims *jwt_claims_hold(struct jwt_claims *claims);
void jwt_claims_release(struct jwt_claims *claims); /* NULL is fine */

#endif
