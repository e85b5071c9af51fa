/*
 * handler_download.c: a page of changes.
 */
#include "log.h"
#include "params.h"
#include "router.h"
#include "sqlstate.h"

#include <stdio.h>
#include <string.h>

#define ARGUMENTS                                                                                  \
    "$1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.int8, $4::pg_catalog.int4,"          \
    " $5::pg_catalog.int8, $6::pg_catalog.bool, $7::pg_catalog.text"

static const struct pg_statement on_primary = {"rowsync_download",
                                               "SELECT rowsync.download(" ARGUMENTS ")", 2, 7};

/* No row where the replica has not yet got as far as the device has already seen. */
static const struct pg_statement on_replica = {
    "rowsync_download_replica",
    "SELECT rowsync.download(" ARGUMENTS ")"
    " FROM rowsync.heads(ARRAY[$1::pg_catalog.text]) AS h"
    " WHERE h.head OPERATOR(pg_catalog.>=) $8::pg_catalog.int8",
    9, 8};

/* The replica's answer, or else the primary is asked, if anybody still waits. */
static void
on_replica_done(struct pg_job *job, enum pg_end end, PGresult *result)
{
    struct request *request = H2O_STRUCT_FROM_MEMBER(struct request, job, job);
    struct problem problem;

    request->ended = clock_us();
    if (end == PG_END_RESULT && PQntuples(result) == 1)
    {
        request_answer_result(request, result);
        return;
    }
    PQclear(result);
    if (end == PG_END_ABANDONED)
    {
        problem_from_database(&problem, end, NULL);
        request_fail(request, &problem);
    }
    else if (request->req != NULL)
        request_query(request, &on_primary, request_answer_result);
}

/*
 * GET /sync/download. The numbers are checked here, with exact messages, and again by the
 * extension, which is also called by people.
 */
void
handle_download(struct request *request)
{
    enum
    {
        AFTER,
        LIMIT,
        UNTIL,
        INCLUDE_SELF,
        SCHEMA,
        SEEN,
        COUNT
    };
    struct param params[COUNT] = {
        [AFTER] = {.name = "after", .kind = PARAM_INTEGER, .most = INT64_MAX},
        [LIMIT] =
            {.name = "limit", .kind = PARAM_INTEGER, .least = 1, .most = 10000, .integer = 1000},
        [UNTIL] = {.name = "until", .kind = PARAM_INTEGER, .most = INT64_MAX},
        [INCLUDE_SELF] = {.name = "include_self", .kind = PARAM_BOOLEAN},
        [SCHEMA] = {.name = "schema", .kind = PARAM_TEXT},
        [SEEN] = {.name = "seen", .kind = PARAM_INTEGER, .most = INT64_MAX},
    };
    struct pg_pool *replica = request->loop->replica;
    struct problem problem;
    int64_t seen;
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
    seen = params[SEEN].integer;
    if (seen < params[AFTER].integer)
        seen = params[AFTER].integer;
    if (seen < params[UNTIL].integer)
        seen = params[UNTIL].integer;
    numbers = request_memory(request, 4 * 24 + sizeof(params[SCHEMA].text));
    snprintf(numbers, 24, "%lld", (long long)params[AFTER].integer);
    snprintf(numbers + 24, 24, "%lld", (long long)params[LIMIT].integer);
    snprintf(numbers + 48, 24, "%lld", (long long)params[UNTIL].integer);
    snprintf(numbers + 72, 24, "%lld", (long long)seen);
    memcpy(numbers + 96, params[SCHEMA].text, sizeof(params[SCHEMA].text));
    request->job.values[0] = request->user;
    request->job.values[1] = request->source;
    request->job.values[2] = numbers;
    request->job.values[3] = numbers + 24;
    request->job.values[4] = params[UNTIL].given ? numbers + 48 : NULL;
    request->job.values[5] = params[INCLUDE_SELF].boolean ? "true" : "false";
    request->job.values[6] = params[SCHEMA].given ? numbers + 96 : NULL;
    request->job.values[7] = numbers + 72;
    if (replica != NULL && !pg_pool_figures(replica)->unreachable)
    {
        request->job.done = on_replica_done;
        request_submit(request, replica, &on_replica);
    }
    else
        request_query(request, &on_primary, request_answer_result);
}
