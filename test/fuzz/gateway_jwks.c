/*
 * gateway_jwks.c: fuzzes what reads JWK Sets, and uses the keys that it takes.
 */
#include "jwt.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int
LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size)
{
    static const struct jwt_rules rules = {.leeway = 0};
    static const char *const tokens[] = {
        "eyJhbGciOiJIUzI1NiJ9.e30.AAAA", "eyJhbGciOiJSUzI1NiJ9.e30.AAAA",
        "eyJhbGciOiJQUzI1NiJ9.e30.AAAA", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"};
    char error[256];
    struct jwt_keys *keys = jwt_keys_create(NULL, (const char *)bytes, size, error, sizeof(error));

    if (keys == NULL)
        return 0;
    for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++)
    {
        struct problem problem;

        jwt_claims_release(
            jwt_verify(keys, &rules, tokens[i], strlen(tokens[i]), 1000000, &problem));
    }
    jwt_keys_release(keys);
    return 0;
}
