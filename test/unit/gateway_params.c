/*
 * gateway_params.c: query strings.
 */
#include "gateway_tap.h"
#include "params.h"

static struct param params[3];
static struct problem problem;

/* Reads a query string into fresh parameters. */
static bool
reads(const char *query)
{
    params[0] = (struct param){.name = "after", .kind = PARAM_INTEGER, .most = INT64_MAX};
    params[1] = (struct param){.name = "flag", .kind = PARAM_BOOLEAN};
    params[2] = (struct param){.name = "schema", .kind = PARAM_TEXT};
    problem.detail[0] = '\0';
    return params_read(query, strlen(query), params, 3, &problem);
}

static void
test_values(void)
{
    ok(reads("") && !params[0].given, "an empty query gives nothing");
    ok(reads("after=42&flag=true&schema=caf%C3%A9+x") && params[0].integer == 42 &&
           params[1].boolean && strcmp(params[2].text, "caf\xc3\xa9 x") == 0,
       "an integer, a boolean and encoded text");
    ok(reads("after=9223372036854775807") && params[0].integer == INT64_MAX, "the largest integer");
    ok(reads("flag=false") && params[1].given && !params[1].boolean, "a false boolean is given");
    ok(reads("&&new=1&Afteri=x&=5&after=1&") && params[0].integer == 1,
       "unknown names and empty pairs are ignored");
}

static void
test_refusals(void)
{
    static const char *const bad[] = {
        "after=",    "after",      "after=-1",    "after=+1",       "after=1.0",
        "after=0x1", "after=1e3",  "after=%201",  "after=1%00",     "after=9223372036854775808",
        "after=%zz", "after=%4",   "flag=1",      "flag=TRUE",      "flag=",
        "schema=",   "schema=%ff", "schema=a%00", "after=1&after=1"};
    char query[2048] = "schema=";

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ok(!reads(bad[i]) && problem.code == PROBLEM_INVALID_PARAMETER, bad[i]);
    memset(query + 7, 'a', 64);
    ok(!reads(query), "text longer than a name can be");
    memset(query + 7, '1', 1500);
    ok(!reads(query), "a value longer than is looked at");
    reads("after=abc");
    is(problem.detail, "\"after\" must be an integer from 0 to 9223372036854775807, not \"abc\".",
       "the message says what, which range, and what was given");
}

int
main(void)
{
    test_values();
    test_refusals();
    return done();
}
