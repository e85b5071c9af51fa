/*
 * auth.c: who is asking: bearer tokens of requests, with a cache of verified ones.
 *
 * The cache knows a token by a digest keyed with random bytes of this process, never by itself:
 * looking one up tells nothing about others by its timing, and no token stays in memory.
 */
#include "auth.h"
#include "log.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#define DIGEST_SIZE 32

/* Tokens whose digests begin alike share a set of so many places. */
#define WAYS 4

struct entry
{
    unsigned char digest[DIGEST_SIZE];
    struct jwt_claims *claims; /* NULL: free */
    uint64_t used;             /* when last, in look-ups */
};

struct auth
{
    struct jwt_keys *keys;
    struct jwt_rules rules;
    unsigned char salt[DIGEST_SIZE];
    EVP_MD *algorithm;
    EVP_MD_CTX *context;
    uint64_t lookups;
    size_t sets;
    struct entry entries[];
};

/* Reads a whole small JWK Set; the caller frees. NULL with the cause in `error`. */
static char *
read_file(const char *path, size_t *size, char *error, size_t error_size)
{
    static const size_t most = 1048576;
    FILE *file = fopen(path, "rbe");
    char *content;

    if (file == NULL)
    {
        snprintf(error, error_size, "jwks_file: %s: %s", path, strerror(errno));
        return NULL;
    }
    content = malloc(most);
    if (content == NULL)
        abort();
    *size = fread(content, 1, most, file);
    if (ferror(file) || *size == most)
    {
        snprintf(error, error_size, "jwks_file: %s: %s", path,
                 *size == most ? "larger than 1 MiB" : "cannot be read");
        free(content);
        content = NULL;
    }
    fclose(file);
    return content;
}

struct jwt_keys *
auth_load_keys(const struct config *config, char *error, size_t error_size)
{
    char reason[512];
    char *set = NULL;
    size_t size = 0;
    struct jwt_keys *keys;

    if (config->jwks_file != NULL)
    {
        set = read_file(config->jwks_file, &size, error, error_size);
        if (set == NULL)
            return NULL;
    }
    keys = jwt_keys_create(config->jwt_secret, set, size, reason, sizeof(reason));
    if (keys == NULL)
        snprintf(error, error_size, "%s: %s",
                 config->jwks_file == NULL ? "jwt_secret" : config->jwks_file, reason);
    else if (jwt_keys_skipped(keys)[0] != '\0')
        log_message(LOG_WARNING, "keys_skipped", "%s: %s", config->jwks_file,
                    jwt_keys_skipped(keys));
    free(set);
    return keys;
}

void
auth_set_rules(struct auth *auth, const struct config *config)
{
    auth->rules = (struct jwt_rules){
        .issuer = config->jwt_issuer,
        .audience = config->jwt_audience,
        .leeway = config->jwt_leeway,
        .role = config->role_claim,
        .roles = config->roles,
    };
}

struct auth *
auth_create(const struct config *config, struct jwt_keys *keys)
{
    size_t sets = ((size_t)config->token_cache + WAYS - 1) / WAYS;
    struct auth *auth = calloc(1, sizeof(*auth) + sets * WAYS * sizeof(auth->entries[0]));

    if (auth == NULL)
        abort();
    auth->keys = jwt_keys_hold(keys);
    auth_set_rules(auth, config);
    auth->sets = sets;
    auth->algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
    auth->context = EVP_MD_CTX_new();
    if (auth->algorithm == NULL || auth->context == NULL ||
        RAND_bytes(auth->salt, sizeof(auth->salt)) != 1)
        abort();
    return auth;
}

static void
forget(struct entry *entry)
{
    jwt_claims_release(entry->claims);
    entry->claims = NULL;
}

void
auth_set_keys(struct auth *auth, struct jwt_keys *keys)
{
    jwt_keys_hold(keys);
    jwt_keys_release(auth->keys);
    auth->keys = keys;
    for (size_t i = 0; i < auth->sets * WAYS; i++)
        forget(&auth->entries[i]);
}

/* The salted digest by which the cache knows a token. */
static void
digest_token(struct auth *auth, const char *token, size_t size, unsigned char *digest)
{
    if (EVP_DigestInit_ex2(auth->context, auth->algorithm, NULL) != 1 ||
        EVP_DigestUpdate(auth->context, auth->salt, sizeof(auth->salt)) != 1 ||
        EVP_DigestUpdate(auth->context, token, size) != 1 ||
        EVP_DigestFinal_ex(auth->context, digest, NULL) != 1)
        abort();
}

/* Verifies a token by way of the cache. */
static struct jwt_claims *
check_token(struct auth *auth, const char *token, size_t size, time_t now, struct problem *problem)
{
    unsigned char digest[DIGEST_SIZE];
    struct jwt_claims *claims;
    struct entry *set;
    struct entry *victim;
    uint64_t start;

    if (auth->sets == 0 || size > TOKEN_MAX)
        return jwt_verify(auth->keys, &auth->rules, token, size, now, problem);
    digest_token(auth, token, size, digest);
    memcpy(&start, digest, sizeof(start));
    set = victim = &auth->entries[start % auth->sets * WAYS];
    auth->lookups++;
    for (struct entry *entry = set; entry < set + WAYS; entry++)
    {
        if (entry->claims != NULL && (int64_t)now >= entry->claims->expires + auth->rules.leeway)
            forget(entry);
        if (entry->claims != NULL && CRYPTO_memcmp(entry->digest, digest, DIGEST_SIZE) == 0)
        {
            entry->used = auth->lookups;
            return jwt_claims_hold(entry->claims);
        }
        if (victim->claims != NULL && (entry->claims == NULL || entry->used < victim->used))
            victim = entry;
    }
    claims = jwt_verify(auth->keys, &auth->rules, token, size, now, problem);
    if (claims == NULL)
        return NULL;
    forget(victim);
    memcpy(victim->digest, digest, DIGEST_SIZE);
    victim->claims = jwt_claims_hold(claims);
    victim->used = auth->lookups;
    return claims;
}

struct jwt_claims *
auth_check(struct auth *auth, const char *header, size_t size, time_t now, struct problem *problem)
{
    static const char scheme[] = "bearer ";
    size_t at = 0;

    for (; at < sizeof(scheme) - 1; at++)
    {
        if (at >= size || (header[at] | 0x20) != scheme[at])
        {
            problem_set(problem, PROBLEM_UNSUPPORTED_SCHEME,
                        "The Authorization header must be \"Bearer\", a space and the token.");
            return NULL;
        }
    }
    while (at < size && header[at] == ' ')
        at++;
    return check_token(auth, header + at, size - at, now, problem);
}

bool
auth_allows(struct auth *auth, const char *header, size_t size, struct problem *problem)
{
    struct jwt_claims *claims = auth_check(auth, header, size, time(NULL), problem);

    jwt_claims_release(claims);
    return claims != NULL;
}

void
auth_free(struct auth *auth)
{
    for (size_t i = 0; i < auth->sets * WAYS; i++)
        forget(&auth->entries[i]);
    jwt_keys_release(auth->keys);
    EVP_MD_free(auth->algorithm);
    EVP_MD_CTX_free(auth->context);
    OPENSSL_cleanse(auth->salt, sizeof(auth->salt));
    free(auth);
}
