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

/* One who asks whether the loop is ready, until the database has said so. In the request's memory.
 */
struct asker
{
    h2o_linklist_t link; /* in loop->unready */
    struct request *request;
};

/* Whatever the reason is, one that is not ready says 503. */
static void
tell(struct request *request, enum pg_end end, const PGresult *result)
{
    struct problem problem;

    if (end == PG_END_RESULT)
    {
        answer_ready(request);
        return;
    }
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

/* The database's answer is for all who have asked meanwhile. */
static void
on_answer(struct pg_job *job, enum pg_end end, PGresult *result)
{
    struct loop *loop = H2O_STRUCT_FROM_MEMBER(struct loop, readiness, job);

    if (end == PG_END_RESULT)
        loop->database_good = h2o_now(loop->http.loop);
    while (!h2o_linklist_is_empty(&loop->unready))
    {
        struct asker *asker = H2O_STRUCT_FROM_MEMBER(struct asker, link, loop->unready.next);

        h2o_linklist_unlink(&asker->link);
        tell(asker->request, end, result);
    }
    PQclear(result);
}

/* h2o lets go of one who may still be waiting. */
static void
on_released(struct request *request)
{
    struct asker *asker = request->subject;

    if (h2o_linklist_is_linked(&asker->link))
        h2o_linklist_unlink(&asker->link);
}

/* The client has gone: an answer makes h2o see it. */
static void
on_departed(struct request *request)
{
    struct asker *asker = request->subject;

    if (!h2o_linklist_is_linked(&asker->link))
        return;
    h2o_linklist_unlink(&asker->link);
    tell(request, PG_END_ABANDONED, NULL);
}

/*
 * GET /readyz: the database answers and has the extension. Requests prove it all the time; only
 * without recent proof a question of our own does. Open to all, so it must not become a way to
 * flood the database, or the queue before it: there is one question at a time.
 */
void
handle_ready(struct request *request)
{
    static const struct pg_statement statement = {"rowsync_ready",
                                                  "SELECT rowsync.schema_version()", 4, 0};
    struct loop *loop = request->loop;
    struct asker *asker;

    if (pg_pool_figures(loop->pool)->unreachable)
    {
        tell(request, PG_END_UNREACHED, NULL);
        return;
    }
    if (loop->database_good != 0 && h2o_now(loop->http.loop) - loop->database_good < FRESH_MS)
    {
        answer_ready(request);
        return;
    }
    asker = request_memory(request, sizeof(*asker));
    *asker = (struct asker){.request = request};
    request->subject = asker;
    request->released = on_released;
    request->departed = on_departed;
    h2o_linklist_insert(&loop->unready, &asker->link);
    if (loop->readiness.state != PG_JOB_NEW)
        return;
    loop->readiness.statement = &statement;
    loop->readiness.done = on_answer;
    if (!pg_pool_submit(loop->pool, &loop->readiness))
        on_answer(&loop->readiness, PG_END_WAITED, NULL);
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
