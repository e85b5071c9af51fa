/*
 * handler_download.c: a page of changes.
 */
#include "params.h"
#include "router.h"

#include <stdio.h>
#include <string.h>

static void
on_page(struct request *request, PGresult *result)
{
    request_answer_result(request, "application/json", result);
}

/*
 * GET /sync/download. The numbers are checked here, with exact messages, and again by the
 * extension, which is also called by people.
 */
void
handle_download(struct request *request)
{
    static const struct pg_statement statement = {
        "rowsync_download",
        "SELECT rowsync.download($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.int8,"
        " $4::pg_catalog.int4, $5::pg_catalog.int8, $6::pg_catalog.bool, $7::pg_catalog.text)",
        2, 7};
    enum
    {
        AFTER,
        LIMIT,
        UNTIL,
        INCLUDE_SELF,
        SCHEMA,
        COUNT
    };
    struct param params[COUNT] = {
        [AFTER] = {.name = "after", .kind = PARAM_INTEGER, .most = INT64_MAX},
        [LIMIT] =
            {.name = "limit", .kind = PARAM_INTEGER, .least = 1, .most = 10000, .integer = 1000},
        [UNTIL] = {.name = "until", .kind = PARAM_INTEGER, .most = INT64_MAX},
        [INCLUDE_SELF] = {.name = "include_self", .kind = PARAM_BOOLEAN},
        [SCHEMA] = {.name = "schema", .kind = PARAM_TEXT},
    };
    struct problem problem;
    char *numbers;

    if (!request_params(request, params, COUNT, &problem))
    {
        request_fail(request, &problem);
        return;
    }
    if (params[UNTIL].given && params[UNTIL].integer < params[AFTER].integer)
    {
        problem_set(&problem, PROBLEM_INVALID_PARAMETER,
                    "\"until\" (%lld) must not be less than \"after\" (%lld).",
                    (long long)params[UNTIL].integer, (long long)params[AFTER].integer);
        request_fail(request, &problem);
        return;
    }
    numbers = request_memory(request, 3 * 24 + sizeof(params[SCHEMA].text));
    snprintf(numbers, 24, "%lld", (long long)params[AFTER].integer);
    snprintf(numbers + 24, 24, "%lld", (long long)params[LIMIT].integer);
    snprintf(numbers + 48, 24, "%lld", (long long)params[UNTIL].integer);
    memcpy(numbers + 72, params[SCHEMA].text, sizeof(params[SCHEMA].text));
    request->job.values[0] = request->user;
    request->job.values[1] = request->source;
    request->job.values[2] = numbers;
    request->job.values[3] = numbers + 24;
    request->job.values[4] = params[UNTIL].given ? numbers + 48 : NULL;
    request->job.values[5] = params[INCLUDE_SELF].boolean ? "true" : "false";
    request->job.values[6] = params[SCHEMA].given ? numbers + 72 : NULL;
    request_query(request, &statement, on_page);
}
