/*
 * gateway_jwt.c: fuzzes what reads tokens. The first byte says what the rest is: a token as it is;
 * or a header and claims with a zero byte between them, put into the form of a token, which is
 * signed by the right key or not at all. Only the right key gets anybody in, and only with claims
 * that were asked for.
 */
#include "jwt.h"

#include <jansson.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#define SECRET "0123456789abcdef0123456789abcdef0123456789abcdef"

/* The present, and what is allowed beside it. */
#define NOW 1000000
#define LEEWAY 60

/* The largest input that is tried has this room as a token. */
#define ROOM 16384

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

/* Appends base64url without padding. Returns the new length. */
static size_t
encode(const unsigned char *bytes, size_t size, char *out, size_t length)
{
    EVP_EncodeBlock((unsigned char *)out + length, bytes, (int)size);
    for (; out[length] != '\0' && out[length] != '='; length++)
        out[length] = out[length] == '+' ? '-' : out[length] == '/' ? '_' : out[length];
    return length;
}

/* Makes a token of a header and claims. Returns its length. */
static size_t
compose(const unsigned char *bytes, size_t size, bool sign, char *out)
{
    const unsigned char *zero = memchr(bytes, 0, size);
    size_t header_size = zero == NULL ? size : (size_t)(zero - bytes);
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    unsigned digest_size = 32;
    size_t length = encode(bytes, header_size, out, 0);

    out[length++] = '.';
    if (zero != NULL)
        length = encode(zero + 1, size - header_size - 1, out, length);
    if (sign)
        HMAC(EVP_sha256(), SECRET, strlen(SECRET), (unsigned char *)out, length, digest,
             &digest_size);
    out[length++] = '.';
    return encode(digest, digest_size, out, length);
}

/* What was let in had to say all this. */
static void
check(const struct jwt_claims *claims)
{
    json_t *json = json_loads(claims->json, JSON_REJECT_DUPLICATES, NULL);
    const char *user = json_string_value(json_object_get(json, "sub"));

    if (user == NULL || strcmp(user, claims->user) != 0 || strlen(user) > USER_MAX ||
        user[0] == '\0' || !utf8_valid(user, strlen(user)) || claims->expires + LEEWAY <= NOW)
        abort();
    if (claims->source != NULL && strlen(claims->source) > SOURCE_MAX)
        abort();
    json_decref(json);
}

int
LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size)
{
    static const struct jwt_rules strict = {
        .issuer = "i", .audience = "a", .leeway = LEEWAY, .role = "role", .roles = "r,reader"};
    static const struct jwt_rules lax = {.leeway = LEEWAY};
    static char composed[ROOM];
    static struct jwt_keys *keys;
    const char *token = composed;
    size_t length;
    struct jwt_claims *claims;
    struct problem problem;
    char error[256];

    if (keys == NULL)
        keys = jwt_keys_create(SECRET, NULL, 0, error, sizeof(error));
    if (size == 0 || size > ROOM / 2)
        return 0;
    if ((bytes[0] & 1) == 0)
    {
        token = (const char *)bytes + 1;
        length = size - 1;
    }
    else
        length = compose(bytes + 1, size - 1, (bytes[0] & 2) != 0, composed);
    claims = jwt_verify(keys, (bytes[0] & 4) != 0 ? &strict : &lax, token, length, NOW, &problem);
    if (claims == NULL && problem_status(problem.code) != 401 &&
        problem_status(problem.code) != 403)
        abort();
    if (claims != NULL && (bytes[0] & 3) != 3)
        abort();
    if (claims != NULL)
        check(claims);
    jwt_claims_release(claims);
    return 0;
}
