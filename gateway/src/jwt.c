/*
 * jwt.c: verifying JSON Web Tokens (RFC 7519, 7515, 8725).
 *
 * libjose does the cryptography and the base64url; everything that has gone wrong in token
 * libraries is decided here and before it: which algorithm goes with which key (a public RSA key
 * is never an HMAC secret), that `none` does not exist, that critical extensions are refused, that
 * a claim occurring twice is refused instead of read differently by us and by PostgreSQL.
 */
#include "jwt.h"

#include <jansson.h>
#include <jose/b64.h>
#include <jose/jwk.h>
#include <jose/jws.h>
#include <jose/openssl.h>
#include <limits.h>
#include <math.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* More keys than that is no rotation but a mistake, and every token without `kid` may try all. */
#define KEYS_MAX 32

/* The longest HMAC secret that libjose takes, and the largest RSA modulus that OpenSSL does; bytes.
 */
#define SECRET_MAX 1024
#define MODULUS_MAX 2048

/* The largest RSA exponent that OpenSSL takes beside a large modulus. */
#define EXPONENT_BITS 64

/* What an algorithm asks of its key. */
static const struct algorithm
{
    const char *name;
    const char *type;  /* `kty` */
    const char *curve; /* `crv`, or NULL */
    size_t least;      /* least bytes of an `oct` key or an RSA modulus (RFC 7518) */
} algorithms[] = {
    {"HS256", "oct", NULL, 32},  {"HS384", "oct", NULL, 48},  {"HS512", "oct", NULL, 64},
    {"RS256", "RSA", NULL, 256}, {"RS384", "RSA", NULL, 256}, {"RS512", "RSA", NULL, 256},
    {"PS256", "RSA", NULL, 256}, {"PS384", "RSA", NULL, 256}, {"PS512", "RSA", NULL, 256},
    {"ES256", "EC", "P-256", 0}, {"ES384", "EC", "P-384", 0}, {"ES512", "EC", "P-521", 0},
};

#define ALGORITHM_COUNT (sizeof(algorithms) / sizeof(algorithms[0]))

/* A key with what decides whether a token may use it. Strings belong to `jwk`. */
struct key
{
    json_t *jwk;
    const char *id;        /* `kid`, or NULL: fits every token */
    const char *type;      /* `kty` */
    const char *curve;     /* `crv`, or NULL */
    const char *algorithm; /* `alg`, or NULL: any that fits the type */
    size_t size;           /* bytes of an `oct` key or an RSA modulus */
};

struct jwt_keys
{
    atomic_int references;
    char skipped[256]; /* which keys of the set are not here, and why */
    size_t count;
    struct key keys[KEYS_MAX];
};

/* libjose reports errors to a callback that prints by default; ours says nothing. */
static void
ignore_jose_error(void *misc, const char *file, int line, uint64_t error, const char *format,
                  va_list arguments)
{
    (void)misc, (void)file, (void)line, (void)error, (void)format, (void)arguments;
}

/* Length of what a base64url member decodes to; 0 when absent or malformed. */
static size_t
decoded_size(const json_t *jwk, const char *member)
{
    size_t size = jose_b64_dec(json_object_get(jwk, member), NULL, 0);

    return size == SIZE_MAX ? 0 : size;
}

/* Can this key verify signatures of this algorithm? */
static bool
key_fits(const struct key *key, const struct algorithm *algorithm)
{
    return strcmp(key->type, algorithm->type) == 0 &&
           (algorithm->curve == NULL ||
            (key->curve != NULL && strcmp(key->curve, algorithm->curve) == 0)) &&
           (key->algorithm == NULL || strcmp(key->algorithm, algorithm->name) == 0) &&
           key->size >= algorithm->least;
}

/* Is there `use` or `key_ops` that speaks against verifying? */
static bool
meant_for_verifying(const json_t *jwk)
{
    const char *use = json_string_value(json_object_get(jwk, "use"));
    const json_t *operations = json_object_get(jwk, "key_ops");
    const json_t *operation;
    size_t i;

    if (use != NULL && strcmp(use, "sig") != 0)
        return false;
    if (!json_is_array(operations))
        return operations == NULL;
    json_array_foreach(operations, i, operation)
    {
        const char *name = json_string_value(operation);

        if (name != NULL && strcmp(name, "verify") == 0)
            return true;
    }
    return false;
}

/* Bits of an odd number that a key has as a member; 0: it has none, an even, or one too long. */
static size_t
odd_bits(const json_t *jwk, const char *member)
{
    unsigned char bytes[MODULUS_MAX];
    size_t size = jose_b64_dec(json_object_get(jwk, member), bytes, sizeof(bytes));
    size_t first = 0;
    size_t bits;

    if (size == SIZE_MAX || size == 0 || bytes[size - 1] % 2 == 0)
        return 0;
    while (bytes[first] == 0)
        first++;
    bits = (size - first - 1) * 8;
    for (unsigned char top = bytes[first]; top != 0; top >>= 1)
        bits++;
    return bits;
}

/*
 * Is an RSA key whole? With an exponent of 1 everybody can sign. That the modulus is no product of
 * small primes is left to its issuer: to find out takes OpenSSL seconds.
 */
static bool
measure_rsa(struct key *key)
{
    size_t exponent = odd_bits(key->jwk, "e");

    key->size = odd_bits(key->jwk, "n") / 8;
    return key->size != 0 && exponent > 1 && exponent <= EXPONENT_BITS;
}

/* Is this a point on its curve? OpenSSL knows. */
static bool
measure_point(struct key *key)
{
    EVP_PKEY *public = jose_openssl_jwk_to_EVP_PKEY(NULL, key->jwk);
    EVP_PKEY_CTX *context = public == NULL ? NULL : EVP_PKEY_CTX_new(public, NULL);
    bool good = context != NULL && EVP_PKEY_public_check(context) == 1;

    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(public);
    ERR_clear_error();
    key->size = 0;
    return good;
}

/* What keeps a key from verifying anything; NULL: nothing. Fills in its size. */
static const char *
fault_of(struct key *key)
{
    bool secret = strcmp(key->type, "oct") == 0;
    bool known = false;
    bool fits = false;

    key->size = SIZE_MAX;
    for (size_t i = 0; i < ALGORITHM_COUNT; i++)
        known = known || key_fits(key, &algorithms[i]);
    if (!known)
        return "is of a kind that no algorithm here uses";
    if (secret)
        key->size = decoded_size(key->jwk, "k");
    else if (strcmp(key->type, "RSA") == 0 ? !measure_rsa(key) : !measure_point(key))
        return "is broken";
    for (size_t i = 0; i < ALGORITHM_COUNT; i++)
        fits = fits || key_fits(key, &algorithms[i]);
    if (fits && key->size <= (secret ? SECRET_MAX : MODULUS_MAX))
        return NULL;
    return "is too short or too long";
}

/* Remembers why a key of the set is of no use. */
static void
skip_key(struct jwt_keys *keys, size_t number, const char *fault)
{
    size_t used = strlen(keys->skipped);

    snprintf(keys->skipped + used, sizeof(keys->skipped) - used, "%skey %zu %s",
             used == 0 ? "" : "; ", number, fault);
}

/*
 * Adds a key of a JWK Set. One for another purpose is skipped, and so is one of no use, with a
 * note: its issuer may well sign with another (RFC 7517, 5). False with the cause: all are refused.
 */
static bool
add_key(struct jwt_keys *keys, json_t *jwk, size_t number, char *error, size_t error_size)
{
    struct key key = {
        .jwk = jwk,
        .id = json_string_value(json_object_get(jwk, "kid")),
        .type = json_string_value(json_object_get(jwk, "kty")),
        .curve = json_string_value(json_object_get(jwk, "crv")),
        .algorithm = json_string_value(json_object_get(jwk, "alg")),
    };
    const char *fault;

    if (!json_is_object(jwk))
    {
        snprintf(error, error_size, "key %zu is no JSON object", number);
        return false;
    }
    if (!meant_for_verifying(jwk))
        return true;
    if (key.type == NULL)
    {
        snprintf(error, error_size, "key %zu has no \"kty\"", number);
        return false;
    }
    if (strcmp(key.type, "oct") != 0 && json_object_get(jwk, "d") != NULL)
    {
        snprintf(error, error_size,
                 "key %zu has a private part (\"d\"): the gateway needs, and should hold, only the "
                 "public one",
                 number);
        return false;
    }
    fault = fault_of(&key);
    if (fault != NULL)
    {
        skip_key(keys, number, fault);
        return true;
    }
    if (keys->count == KEYS_MAX)
    {
        snprintf(error, error_size, "more than %d keys", KEYS_MAX);
        return false;
    }
    json_incref(jwk);
    keys->keys[keys->count++] = key;
    return true;
}

/* Adds every key of a JWK Set's text. */
static bool
add_key_set(struct jwt_keys *keys, const char *text, size_t size, char *error, size_t error_size)
{
    json_error_t where;
    json_t *set = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);
    json_t *list = json_object_get(set, "keys");
    json_t *jwk;
    size_t i;
    bool good = true;

    if (set == NULL)
        snprintf(error, error_size, "line %d, column %d: %s", where.line, where.column, where.text);
    else if (!json_is_array(list))
        snprintf(error, error_size, "no JWK Set: a JSON object with an array \"keys\" is needed");
    if (!json_is_array(list))
    {
        json_decref(set);
        return false;
    }
    json_array_foreach(list, i, jwk)
    {
        good = add_key(keys, jwk, i + 1, error, error_size);
        if (!good)
            break;
    }
    json_decref(set);
    return good;
}

struct jwt_keys *
jwt_keys_create(const char *secret, const char *jwks, size_t jwks_size, char *error,
                size_t error_size)
{
    struct jwt_keys *keys = calloc(1, sizeof(*keys));
    bool good = true;

    if (keys == NULL)
        abort();
    atomic_init(&keys->references, 1);
    if (secret != NULL)
    {
        json_t *jwk =
            json_pack("{s:s, s:o}", "kty", "oct", "k", jose_b64_enc(secret, strlen(secret)));

        good = add_key(keys, jwk, 0, error, error_size);
        json_decref(jwk);
    }
    if (good && jwks != NULL)
        good = add_key_set(keys, jwks, jwks_size, error, error_size);
    if (good && keys->count == 0)
    {
        snprintf(error, error_size, "no key that could verify a signature%s%s",
                 keys->skipped[0] == '\0' ? "" : ": ", keys->skipped);
        good = false;
    }
    if (good)
        return keys;
    jwt_keys_release(keys);
    return NULL;
}

const char *
jwt_keys_skipped(const struct jwt_keys *keys)
{
    return keys->skipped;
}

struct jwt_keys *
jwt_keys_hold(struct jwt_keys *keys)
{
    atomic_fetch_add(&keys->references, 1);
    return keys;
}

void
jwt_keys_release(struct jwt_keys *keys)
{
    if (atomic_fetch_sub(&keys->references, 1) != 1)
        return;
    for (size_t i = 0; i < keys->count; i++)
        json_decref(keys->keys[i].jwk);
    free(keys);
}

/* A token's three parts, as they are between the dots. */
struct parts
{
    json_t *protected;
    json_t *payload;
    json_t *signature;
};

static void
free_parts(struct parts *parts)
{
    json_decref(parts->protected);
    json_decref(parts->payload);
    json_decref(parts->signature);
}

/*
 * Splits at exactly two dots. An unsigned token's empty last part passes here: `alg` says better
 * what is wrong with it.
 */
static bool
split_token(const char *token, size_t size, struct parts *parts)
{
    const char *first = memchr(token, '.', size);
    const char *second;
    const char *end = token + size;

    memset(parts, 0, sizeof(*parts));
    if (first == NULL)
        return false;
    second = memchr(first + 1, '.', (size_t)(end - first - 1));
    if (second == NULL || first == token || second == first + 1 ||
        memchr(second + 1, '.', (size_t)(end - second - 1)) != NULL)
        return false;
    parts->protected = json_stringn(token, (size_t)(first - token));
    parts->payload = json_stringn(first + 1, (size_t)(second - first - 1));
    parts->signature = json_stringn(second + 1, (size_t)(end - second - 1));
    return parts->protected != NULL && parts->payload != NULL && parts->signature != NULL;
}

/* Decodes a part and parses it as a JSON object. *text gets the decoded bytes, to be freed. */
static json_t *
decode_object(const json_t *part, char **text)
{
    size_t size = jose_b64_dec(part, NULL, 0);
    json_t *object;

    *text = NULL;
    if (size == SIZE_MAX || size == 0)
        return NULL;
    *text = malloc(size + 1);
    if (*text == NULL)
        abort();
    if (jose_b64_dec(part, *text, size) != size)
        return NULL;
    (*text)[size] = '\0';
    if (memchr(*text, '\0', size) != NULL)
        return NULL;
    object = json_loadb(*text, size, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(object))
        return object;
    json_decref(object);
    return NULL;
}

/* Finds the algorithm that a header names. */
static const struct algorithm *
find_algorithm(const json_t *header, struct problem *problem)
{
    const char *name = json_string_value(json_object_get(header, "alg"));

    for (size_t i = 0; name != NULL && i < ALGORITHM_COUNT; i++)
        if (strcmp(algorithms[i].name, name) == 0)
            return &algorithms[i];
    problem_set(problem, PROBLEM_UNSUPPORTED_ALGORITHM,
                "The token's \"alg\" is none of HS256, HS384, HS512, RS256, RS384, RS512, PS256, "
                "PS384, PS512, ES256, ES384, ES512.");
    return NULL;
}

/* Tries the signature with every key that the header allows. */
static bool
signature_good(const struct jwt_keys *keys, const json_t *header, const struct algorithm *algorithm,
               const struct parts *parts, struct problem *problem)
{
    const char *id = json_string_value(json_object_get(header, "kid"));
    jose_cfg_t *quiet;
    json_t *jws;
    bool tried = false;
    bool good = false;

    jws = json_pack("{s:O, s:O, s:O}", "protected", parts->protected, "payload", parts->payload,
                    "signature", parts->signature);
    quiet = jose_cfg();
    if (jws == NULL || quiet == NULL)
        abort();
    jose_cfg_set_err_func(quiet, ignore_jose_error, NULL);
    for (size_t i = 0; i < keys->count && !good; i++)
    {
        const struct key *key = &keys->keys[i];

        if (!key_fits(key, algorithm) ||
            (id != NULL && key->id != NULL && strcmp(id, key->id) != 0))
            continue;
        tried = true;
        good = jose_jws_ver(quiet, jws, NULL, key->jwk, false);
    }
    jose_cfg_decref(quiet);
    json_decref(jws);
    if (!tried)
        return problem_set(problem, PROBLEM_UNKNOWN_KEY,
                           "No configured key fits the token's \"alg\" (%s) and \"kid\".",
                           algorithm->name);
    if (!good)
        return problem_set(problem, PROBLEM_INVALID_SIGNATURE,
                           "The token's signature does not fit its content.");
    return true;
}

/* Reads a time claim, cut to whole seconds. False with a problem when it is no number. */
static bool
read_time(const json_t *claims, const char *name, bool *present, int64_t *seconds,
          struct problem *problem)
{
    const json_t *value = json_object_get(claims, name);
    double number;

    *present = value != NULL;
    if (value == NULL)
        return true;
    if (json_is_integer(value))
    {
        *seconds = json_integer_value(value);
        /* Room for the leeway on both sides. */
        if (*seconds > INT64_MAX / 2)
            *seconds = INT64_MAX / 2;
        if (*seconds < 0)
            *seconds = 0;
        return true;
    }
    number = json_real_value(value);
    if (!json_is_real(value) || !isfinite(number))
        return problem_set(problem, PROBLEM_INVALID_CLAIM,
                           "The token's claim \"%s\" must be a number of seconds.", name);
    *seconds = number < 0 ? 0 : number > 1e15 ? (int64_t)1e15 : (int64_t)number;
    return true;
}

/* Checks `exp` (required) and `nbf`. */
static bool
times_good(const json_t *claims, const struct jwt_rules *rules, time_t now, int64_t *expires,
           struct problem *problem)
{
    int64_t from = 0;
    bool present;

    if (!read_time(claims, "exp", &present, expires, problem))
        return false;
    if (!present)
        return problem_set(problem, PROBLEM_MISSING_CLAIM,
                           "The token has no claim \"exp\" (when it expires).");
    if ((int64_t)now >= *expires + rules->leeway)
        return problem_set(problem, PROBLEM_EXPIRED_TOKEN, "The token expired %lld second%s ago.",
                           (long long)((int64_t)now - *expires),
                           (int64_t)now - *expires == 1 ? "" : "s");
    if (!read_time(claims, "nbf", &present, &from, problem))
        return false;
    if (present && (int64_t)now + rules->leeway < from)
        return problem_set(problem, PROBLEM_PREMATURE_TOKEN,
                           "The token is valid only from %lld seconds from now (\"nbf\").",
                           (long long)(from - (int64_t)now));
    return true;
}

/* Checks `iss` and `aud` where the configuration asks for them. */
static bool
origin_good(const json_t *claims, const struct jwt_rules *rules, struct problem *problem)
{
    const char *issuer = json_string_value(json_object_get(claims, "iss"));
    const json_t *audience = json_object_get(claims, "aud");

    if (rules->issuer != NULL && (issuer == NULL || strcmp(issuer, rules->issuer) != 0))
        return problem_set(problem, PROBLEM_WRONG_ISSUER,
                           "The token's \"iss\" is not the issuer that this server trusts.");
    if (rules->audience != NULL)
    {
        const json_t *entry;
        size_t i;
        bool found =
            json_is_string(audience) && strcmp(json_string_value(audience), rules->audience) == 0;

        json_array_foreach(audience, i, entry) found =
            found ||
            (json_is_string(entry) && strcmp(json_string_value(entry), rules->audience) == 0);
        if (!found)
            return problem_set(problem, PROBLEM_WRONG_AUDIENCE,
                               "The token's \"aud\" does not name this server.");
    }
    return true;
}

/* Reads a claim that is a name: absent gives NULL, anything but a fitting string is refused. */
static bool
read_name(const json_t *claims, const char *name, size_t most, const char **value,
          struct problem *problem)
{
    const json_t *claim = json_object_get(claims, name);

    *value = json_string_value(claim);
    if (claim != NULL && (*value == NULL || **value == '\0' || strlen(*value) > most))
        return problem_set(problem, PROBLEM_INVALID_CLAIM,
                           "The token's claim \"%s\" must be a string of 1 to %zu bytes.", name,
                           most);
    return true;
}

/* Does a list with commas have this word? */
static bool
list_has(const char *list, const char *word)
{
    size_t size = strlen(word);

    for (const char *at = list;; at += strcspn(at, ",") + 1)
    {
        if (strcspn(at, ",") == size && memcmp(at, word, size) == 0)
            return true;
        if (at[strcspn(at, ",")] == '\0')
            return false;
    }
}

/*
 * Reads the claim that names the database role. "none" is no role but the way back to the gateway's
 * own (SET ROLE NONE).
 */
static bool
read_role(const json_t *claims, const struct jwt_rules *rules, const char **role,
          struct problem *problem)
{
    *role = NULL;
    if (rules->role == NULL)
        return true;
    if (!read_name(claims, rules->role, ROLE_MAX, role, problem))
        return false;
    if (*role == NULL)
        return problem_set(problem, PROBLEM_MISSING_CLAIM,
                           "The token has no claim \"%.64s\" (the database role).", rules->role);
    if (strcmp(*role, "none") == 0 || (rules->roles != NULL && !list_has(rules->roles, *role)))
        return problem_set(problem, PROBLEM_ROLE_FORBIDDEN,
                           "The role that the token names is none of those allowed here.");
    return true;
}

/* Copies what outlives the parsed token into one piece of memory. */
static struct jwt_claims *
keep_claims(const char *json, const char *user, const char *source, const char *role,
            int64_t expires)
{
    const char *strings[] = {json, user, source, role};
    const char *copies[] = {NULL, NULL, NULL, NULL};
    size_t size = sizeof(struct jwt_claims);
    struct jwt_claims *kept;
    char *at;

    for (size_t i = 0; i < 4; i++)
        size += strings[i] == NULL ? 0 : strlen(strings[i]) + 1;
    kept = malloc(size);
    if (kept == NULL)
        abort();
    at = kept->memory;
    for (size_t i = 0; i < 4; i++)
    {
        if (strings[i] == NULL)
            continue;
        copies[i] = at;
        at = stpcpy(at, strings[i]) + 1;
    }
    kept->references = 1;
    kept->expires = expires;
    kept->json = copies[0];
    kept->user = copies[1];
    kept->source = copies[2];
    kept->role = copies[3];
    return kept;
}

/* Checks the claims of a token whose signature is proven. */
static struct jwt_claims *
read_claims(const json_t *claims, const char *json, const struct jwt_rules *rules, time_t now,
            struct problem *problem)
{
    const char *user;
    const char *source;
    const char *role;
    int64_t expires;

    if (!times_good(claims, rules, now, &expires, problem) ||
        !origin_good(claims, rules, problem) ||
        !read_name(claims, "sub", USER_MAX, &user, problem) ||
        !read_name(claims, "did", SOURCE_MAX, &source, problem) ||
        !read_role(claims, rules, &role, problem))
        return NULL;
    if (user == NULL)
    {
        problem_set(problem, PROBLEM_MISSING_CLAIM, "The token has no claim \"sub\" (the user).");
        return NULL;
    }
    return keep_claims(json, user, source, role, expires);
}

struct jwt_claims *
jwt_verify(const struct jwt_keys *keys, const struct jwt_rules *rules, const char *token,
           size_t size, time_t now, struct problem *problem)
{
    struct jwt_claims *verified = NULL;
    const struct algorithm *algorithm;
    struct parts parts = {0};
    json_t *header = NULL;
    json_t *claims = NULL;
    char *header_text = NULL;
    char *claims_text = NULL;

    if (size > TOKEN_MAX)
    {
        problem_set(problem, PROBLEM_MALFORMED_TOKEN, "The token is longer than %d bytes.",
                    TOKEN_MAX);
        return NULL;
    }
    if (!split_token(token, size, &parts))
    {
        problem_set(problem, PROBLEM_MALFORMED_TOKEN,
                    "The token is not three base64url parts with dots between them.");
        goto done;
    }
    header = decode_object(parts.protected, &header_text);
    if (header == NULL)
    {
        problem_set(problem, PROBLEM_MALFORMED_TOKEN,
                    "The token's header is no base64url-encoded JSON object.");
        goto done;
    }
    algorithm = find_algorithm(header, problem);
    if (algorithm == NULL)
        goto done;
    /* Extensions that must be understood (RFC 7515, 4.1.11): none is, not even unencoded payloads.
     */
    if (json_object_get(header, "crit") != NULL)
    {
        problem_set(problem, PROBLEM_MALFORMED_TOKEN,
                    "The token's header demands an extension (\"crit\") that is not supported.");
        goto done;
    }
    if (!signature_good(keys, header, algorithm, &parts, problem))
        goto done;
    claims = decode_object(parts.payload, &claims_text);
    if (claims == NULL)
    {
        problem_set(problem, PROBLEM_MALFORMED_TOKEN,
                    "The token's claims are no base64url-encoded JSON object.");
        goto done;
    }
    verified = read_claims(claims, claims_text, rules, now, problem);
done:
    json_decref(header);
    json_decref(claims);
    free(header_text);
    free(claims_text);
    free_parts(&parts);
    return verified;
}

struct jwt_claims *
jwt_claims_hold(struct jwt_claims *claims)
{
    claims->references++;
    return claims;
}

void
jwt_claims_release(struct jwt_claims *claims)
{
    if (claims != NULL && --claims->references == 0)
        free(claims);
}
