/*
 * gateway_params.c: fuzzes what reads query strings. A value that is taken is within its range.
 */
#include "params.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int
LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size)
{
    struct param params[] = {
        {.name = "after", .kind = PARAM_INTEGER, .most = INT64_MAX},
        {.name = "limit", .kind = PARAM_INTEGER, .least = 1, .most = 10000, .integer = 1},
        {.name = "include_self", .kind = PARAM_BOOLEAN},
        {.name = "schema", .kind = PARAM_TEXT},
    };
    struct problem problem;

    if (!params_read((const char *)bytes, size, params, 4, &problem))
        return 0;
    if (params[0].integer < 0 || params[1].integer < 1 || params[1].integer > 10000 ||
        !utf8_valid(params[3].text, strlen(params[3].text)))
        abort();
    return 0;
}
