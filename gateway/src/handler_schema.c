/*
 * handler_schema.c: what the server's tables look like, and what rows they hold.
 */
#include "params.h"
#include "router.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Wraps the version number. */
static void
on_version(struct request *request, PGresult *result)
{
    enum
    {
        ROOM = 64
    };
    char *body = request_memory(request, ROOM);
    int size = snprintf(body, ROOM, "{\"schema_version\": %.20s}", PQgetvalue(result, 0, 0));

    PQclear(result);
    request_answer(request, "application/json", body, (size_t)size);
}

/* GET /sync/schema-version */
void
handle_schema_version(struct request *request)
{
    static const struct pg_statement statement = {"rowsync_schema_version",
                                                  "SELECT rowsync.schema_version()", 3, 0};

    request_query(request, &statement, on_version);
}

/* An entity tag that is the same for the same bytes on every server. */
static char *
make_tag(struct request *request, const PGresult *result)
{
    enum
    {
        ROOM = 40
    };
    unsigned char digest[EVP_MAX_MD_SIZE];
    char *tag = request_memory(request, ROOM);
    int at = snprintf(tag, ROOM, "\"");

    if (EVP_Digest(PQgetvalue(result, 0, 0), (size_t)PQgetlength(result, 0, 0), digest, NULL,
                   EVP_sha256(), NULL) != 1)
        abort();
    for (int i = 0; i < 16; i++)
        at += snprintf(tag + at, (size_t)(ROOM - at), "%02x", digest[i]);
    snprintf(tag + at, (size_t)(ROOM - at), "\"");
    return tag;
}

/* Does If-None-Match name this tag? Weak tags compare like strong ones here (RFC 9110, 13.1.2). */
static bool
client_has(const h2o_req_t *req, const char *tag)
{
    ssize_t at = h2o_find_header(&req->headers, H2O_TOKEN_IF_NONE_MATCH, -1);
    h2o_iovec_t value;

    if (at == -1)
        return false;
    value = req->headers.entries[at].value;
    return h2o_memis(value.base, value.len, H2O_STRLIT("*")) ||
           memmem(value.base, value.len, tag, strlen(tag)) != NULL;
}

static void
on_schema(struct request *request, PGresult *result)
{
    char *tag = make_tag(request, result);

    request_header(request, "etag", tag);
    if (client_has(request->req, tag))
    {
        PQclear(result);
        request_answer_empty(request, 304);
    }
    else
        request_answer_result(request, result);
}

/* GET /sync/schema */
void
handle_schema(struct request *request)
{
    static const struct pg_statement statement = {"rowsync_schema", "SELECT rowsync.schema()", 6,
                                                  0};

    request_query(request, &statement, on_schema);
}

/* GET /sync/digest */
void
handle_digest(struct request *request)
{
    static const struct pg_statement statement = {
        "rowsync_digest", "SELECT rowsync.digest($1::pg_catalog.text, $2::pg_catalog.int8)", 7, 2};
    enum
    {
        ROOM = 24
    };
    struct param at = {.name = "at", .kind = PARAM_INTEGER, .most = INT64_MAX};
    struct problem problem;
    char *number = request_memory(request, ROOM);

    if (!request_params(request, &at, 1, &problem))
    {
        request_fail(request, &problem);
        return;
    }
    snprintf(number, ROOM, "%lld", (long long)at.integer);
    request->job.values[0] = request->user;
    request->job.values[1] = at.given ? number : NULL;
    request_query(request, &statement, request_answer_result);
}
