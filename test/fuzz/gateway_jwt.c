/*
 * gateway_jwt.c: fuzzes what reads tokens. Whatever comes, nobody gets in: the fuzzer has no key.
 */
#include "jwt.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int
LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size)
{
    static const struct jwt_rules rules = {"issuer", "audience", 60, "role", "one,two"};
    static struct jwt_keys *keys;
    struct problem problem;
    char error[256];

    if (keys == NULL)
        keys = jwt_keys_create("0123456789abcdef0123456789abcdef0123456789abcdef", NULL, 0, error,
                               sizeof(error));
    if (jwt_verify(keys, &rules, (const char *)bytes, size, 1000000, &problem) != NULL)
        abort();
    if (problem_status(problem.code) != 401)
        abort();
    return 0;
}
