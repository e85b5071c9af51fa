/*
 * handler_health.c: is the process alive, is it of use, and what has it done.
 */
#include "log.h"
#include "router.h"
#include "sqlstate.h"

#include <string.h>

/* An answer of the database no older than this proves that it can be reached. */
#define FRESH_MS 500

/* GET /healthz: the loop turns; nothing else is asked. */
void
handle_health(struct request *request)
{
    request_answer(request, "application/json", H2O_STRLIT("{\"status\":\"ok\"}\n"));
}

static void
answer_ready(struct request *request)
{
    request_answer(request, "application/json", H2O_STRLIT("{\"status\":\"ready\"}\n"));
}

/* Whatever the reason is, one that is not ready says 503. */
static void
on_answer(struct pg_job *job, enum pg_end end, PGresult *result)
{
    struct request *request = H2O_STRUCT_FROM_MEMBER(struct request, job, job);
    struct problem problem;

    request->ended = clock_us();
    if (end == PG_END_RESULT)
    {
        request->loop->database_good = h2o_now(request->loop->http.loop);
        answer_ready(request);
    }
    else
    {
        problem_from_database(&problem, end, result);
        request_log_database_error(request, &problem, result);
        if (problem_status(problem.code) == 500)
        {
            problem_set(&problem, PROBLEM_UNAVAILABLE,
                        "The database does not answer as it should; the log has more.");
            problem.retry_after = 1;
        }
        request_fail(request, &problem);
    }
    PQclear(result);
}

/*
 * GET /readyz: the database answers and has the extension. Requests prove it all the time; only
 * without recent proof a question of our own does. Open to all, so it must not become a way to
 * flood the database.
 */
void
handle_ready(struct request *request)
{
    static const struct pg_statement statement = {"rowsync_ready",
                                                  "SELECT rowsync.schema_version()", 4, 0};
    struct loop *loop = request->loop;
    struct problem problem;

    if (pg_pool_figures(loop->pool)->unreachable)
    {
        problem_from_database(&problem, PG_END_UNREACHED, NULL);
        request_fail(request, &problem);
    }
    else if (loop->database_good != 0 && h2o_now(loop->http.loop) - loop->database_good < FRESH_MS)
        answer_ready(request);
    else
    {
        request->job.done = on_answer;
        request_submit(request, loop->pool, &statement);
    }
}

/* GET /metrics */
void
handle_metrics(struct request *request)
{
    enum
    {
        ROOM = 65536
    };
    const char *names[METRICS_ROUTES];
    struct problem problem;
    struct text text;
    char *body;

    if (!request->loop->config->metrics)
    {
        problem_set(&problem, PROBLEM_NOT_FOUND, "There is nothing at this path.");
        request_fail(request, &problem);
        return;
    }
    body = request_memory(request, ROOM);
    text_begin(&text, body, ROOM);
    router_names(names);
    server_write_metrics(request->loop->server, names, &text);
    request_answer(request, "text/plain; version=0.0.4; charset=utf-8", body, text_size(&text));
}
