/*
 * handler_schema.c: what the server's tables look like.
 */
#include "router.h"

#include <stdio.h>

/* Wraps the version number. */
static void
on_version(struct request *request, PGresult *result)
{
    enum
    {
        ROOM = 64
    };
    char *body;
    int size;

    if (request->req != NULL)
    {
        body = request_memory(request, ROOM);
        size = snprintf(body, ROOM, "{\"schema_version\": %.20s}", PQgetvalue(result, 0, 0));
        request_answer(request, "application/json", body, (size_t)size);
    }
    PQclear(result);
}

/* GET /sync/schema-version */
void
handle_schema_version(struct request *request)
{
    static const struct pg_statement statement = {"rowsync_schema_version",
                                                  "SELECT rowsync.schema_version()", 3, 0};

    request_query(request, &statement, on_version);
}
