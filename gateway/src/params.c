/*
 * params.c: reading query strings. Pure functions on bytes.
 */
#include "params.h"

#include <string.h>

/* Longest value that is looked at: longer than any that could be right. */
#define VALUE_MAX 1024

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* Undoes form encoding. Returns the length, or SIZE_MAX when it is malformed or does not fit. */
static size_t
decode(const char *bytes, size_t size, char *out, size_t room)
{
    size_t length = 0;

    for (size_t at = 0; at < size; at++)
    {
        char c = bytes[at];

        if (length == room)
            return SIZE_MAX;
        if (c == '+')
            c = ' ';
        else if (c == '%')
        {
            if (size - at < 3 || hex_digit(bytes[at + 1]) < 0 || hex_digit(bytes[at + 2]) < 0)
                return SIZE_MAX;
            c = (char)(hex_digit(bytes[at + 1]) << 4 | hex_digit(bytes[at + 2]));
            at += 2;
        }
        out[length++] = c;
    }
    return length;
}

/* Reads digits only: no sign, no space, no exponent, and nothing beyond 63 bits. */
static bool
read_integer(const char *value, size_t size, int64_t *number)
{
    int64_t sum = 0;

    if (size == 0)
        return false;
    for (size_t at = 0; at < size; at++)
    {
        if (value[at] < '0' || value[at] > '9' || __builtin_mul_overflow(sum, 10, &sum) ||
            __builtin_add_overflow(sum, value[at] - '0', &sum))
            return false;
    }
    *number = sum;
    return true;
}

/* Quotes a value for a message, cut to what a person needs to recognise it. */
static const char *
quote(const char *value, size_t size, char *out, size_t room)
{
    struct text text;

    text_begin(&text, out, room - 1);
    text_json(&text, value, size, 32);
    *text.at = '\0';
    return out;
}

static bool
read_value(struct param *param, const char *value, size_t size, struct problem *problem)
{
    char quoted[256];

    switch (param->kind)
    {
        case PARAM_INTEGER:
            if (read_integer(value, size, &param->integer) && param->integer >= param->least &&
                param->integer <= param->most)
                return true;
            return problem_set(problem, PROBLEM_INVALID_PARAMETER,
                               "\"%s\" must be an integer from %lld to %lld, not %s.", param->name,
                               (long long)param->least, (long long)param->most,
                               quote(value, size, quoted, sizeof(quoted)));
        case PARAM_BOOLEAN:
            param->boolean = size == 4 && memcmp(value, "true", 4) == 0;
            if (param->boolean || (size == 5 && memcmp(value, "false", 5) == 0))
                return true;
            return problem_set(problem, PROBLEM_INVALID_PARAMETER,
                               "\"%s\" must be true or false, not %s.", param->name,
                               quote(value, size, quoted, sizeof(quoted)));
        case PARAM_TEXT:
            if (size == 0 || size > PARAM_TEXT_MAX || !utf8_valid(value, size))
                return problem_set(problem, PROBLEM_INVALID_PARAMETER,
                                   "\"%s\" must be 1 to %d bytes of UTF-8, not %s.", param->name,
                                   PARAM_TEXT_MAX, quote(value, size, quoted, sizeof(quoted)));
            memcpy(param->text, value, size);
            param->text[size] = '\0';
            return true;
    }
    return false;
}

/* Reads one `name=value`. */
static bool
read_pair(const char *pair, size_t size, struct param *params, size_t count,
          struct problem *problem)
{
    const char *equals = memchr(pair, '=', size);
    size_t name_size = equals == NULL ? size : (size_t)(equals - pair);
    const char *raw = equals == NULL ? pair + size : equals + 1;
    size_t raw_size = (size_t)(pair + size - raw);
    char value[VALUE_MAX];
    size_t value_size;
    size_t i = 0;

    while (i < count &&
           (strlen(params[i].name) != name_size || memcmp(params[i].name, pair, name_size) != 0))
        i++;
    if (i == count)
        return true;
    if (params[i].given)
        return problem_set(problem, PROBLEM_INVALID_PARAMETER, "\"%s\" is given twice.",
                           params[i].name);
    params[i].given = true;
    value_size = decode(raw, raw_size, value, sizeof(value));
    if (value_size == SIZE_MAX)
        return problem_set(problem, PROBLEM_INVALID_PARAMETER,
                           "\"%s\" is longer than %d bytes or has a broken percent-encoding.",
                           params[i].name, VALUE_MAX);
    return read_value(&params[i], value, value_size, problem);
}

bool
params_read(const char *query, size_t size, struct param *params, size_t count,
            struct problem *problem)
{
    for (size_t at = 0; at < size;)
    {
        const char *end = memchr(query + at, '&', size - at);
        size_t length = end == NULL ? size - at : (size_t)(end - query) - at;

        if (!read_pair(query + at, length, params, count, problem))
            return false;
        at += length + 1;
    }
    return true;
}
