/*
 * handler_snapshot.c: the live rows of a scope, as a stream.
 *
 * The database makes a chunk of whole lines at a time. While a chunk is on its way to the client
 * nothing is read from the database, which then waits as well: memory is one chunk a stream,
 * however large the scope and however slow the reader. Streams have a pool of their own, so that
 * slow readers keep no upload waiting.
 */
#include "log.h"
#include "router.h"
#include "sqlstate.h"

#include <stdio.h>
#include <string.h>

static const struct pg_statement on_primary = {
    "rowsync_snapshot", "SELECT rowsync.snapshot($1::pg_catalog.text, $2::pg_catalog.text)", 5, 2};

/* No row where the replica has not yet got as far as the device has already seen. */
static const struct pg_statement on_replica = {
    "rowsync_snapshot_replica",
    "SELECT rowsync.snapshot($1::pg_catalog.text, $2::pg_catalog.text)"
    " FROM rowsync.heads(ARRAY[$1::pg_catalog.text]) AS h"
    " WHERE h.head OPERATOR(pg_catalog.>=) $3::pg_catalog.int8",
    10, 3};

/* One snapshot, waiting or being streamed. Lives in the request's memory. */
struct stream
{
    h2o_generator_t super;
    struct request *request;
    h2o_linklist_t link; /* in loop->snapshots */
    PGresult *chunk;     /* on its way to the client; NULL: none is */
    bool replica;        /* the replica is being asked */
    bool started;        /* the head of the answer is sent */
    bool over;           /* the database has given all */
    bool failed;         /* ... or failed: the client must not take it for all */
};

/* Ends the answer. A broken one has no end: the connection is cut before the last chunk. */
static void
finish(struct stream *stream)
{
    h2o_send(stream->request->req, NULL, 0,
             stream->failed ? H2O_SEND_STATE_ERROR : H2O_SEND_STATE_FINAL);
}

/* The client's socket has taken the chunk. */
static void
on_proceed(h2o_generator_t *self, h2o_req_t *req)
{
    struct stream *stream = (struct stream *)self;

    (void)req;
    PQclear(stream->chunk);
    stream->chunk = NULL;
    if (stream->over)
        finish(stream);
    else
        pg_job_resume(&stream->request->job);
}

/* The next chunk. */
static void
on_chunk(struct pg_job *job, PGresult *row)
{
    struct request *request = H2O_STRUCT_FROM_MEMBER(struct request, job, job);
    struct stream *stream = request->subject;
    h2o_iovec_t bytes = h2o_iovec_init(PQgetvalue(row, 0, 0), PQgetlength(row, 0, 0));

    stream->chunk = row;
    if (!stream->started)
    {
        stream->started = true;
        request->req->compress_hint = H2O_COMPRESS_HINT_ENABLE;
        request_prepare_stream(request, "application/x-ndjson");
        h2o_start_response(request->req, &stream->super);
    }
    h2o_send(request->req, &bytes, 1, H2O_SEND_STATE_IN_PROGRESS);
}

/* The database has given all, or failed. */
static void
on_done(struct pg_job *job, enum pg_end end, PGresult *result)
{
    struct request *request = H2O_STRUCT_FROM_MEMBER(struct request, job, job);
    struct stream *stream = request->subject;
    struct problem problem;

    request->ended = clock_us();
    if (stream->replica && !stream->started && request->req != NULL && end != PG_END_ABANDONED)
    {
        /* Behind, or broken before it began: the primary knows. */
        PQclear(result);
        stream->replica = false;
        request_submit(request, request->loop->streams, &on_primary);
        return;
    }
    stream->over = true;
    stream->failed = end != PG_END_RESULT;
    if (stream->failed || !stream->started)
    {
        problem_from_database(&problem, end, result);
        request->problem = problem.code;
        request_log_database_error(request, &problem, result);
    }
    PQclear(result);
    if (request->req == NULL)
        return;
    if (!stream->started)
        request_fail(request, &problem);
    else if (stream->chunk == NULL)
        finish(stream);
}

static void
on_released(struct request *request)
{
    struct stream *stream = request->subject;

    h2o_linklist_unlink(&stream->link);
    PQclear(stream->chunk);
    stream->chunk = NULL;
}

/* Has the user snapshots left? Half of the connections are for others, if there are two. */
static bool
within_share(struct request *request, struct problem *problem)
{
    const struct loop *loop = request->loop;
    int64_t most = (loop->config->stream_pool_size + 1) / 2;
    int64_t count = 0;

    for (h2o_linklist_t *link = loop->snapshots.next; link != &loop->snapshots; link = link->next)
    {
        struct stream *other = H2O_STRUCT_FROM_MEMBER(struct stream, link, link);

        count += strcmp(other->request->user, request->user) == 0;
    }
    if (count < most)
        return true;
    problem_set(problem, PROBLEM_TOO_MANY_REQUESTS,
                "This user is already receiving as many snapshots as one user may at once.");
    problem->retry_after = 5;
    return false;
}

/* GET /sync/snapshot */
void
handle_snapshot(struct request *request)
{
    enum
    {
        ROOM = 24
    };
    struct param seen = {.name = "seen", .kind = PARAM_INTEGER, .most = INT64_MAX};
    struct pg_pool *replica = request->loop->replica_streams;
    struct problem problem;
    char *number = request_memory(request, ROOM);
    struct stream *stream = request_memory(request, sizeof(*stream));

    if (request_answer_head(request, "application/x-ndjson"))
        return;
    if (!request_params(request, &seen, 1, &problem) || !within_share(request, &problem))
    {
        request_fail(request, &problem);
        return;
    }
    snprintf(number, ROOM, "%lld", (long long)seen.integer);
    *stream = (struct stream){.super = {on_proceed, NULL}, .request = request};
    h2o_linklist_insert(&request->loop->snapshots, &stream->link);
    request->subject = stream;
    request->released = on_released;
    request->job.values[0] = request->user;
    request->job.values[1] = request->source;
    request->job.row = on_chunk;
    request->job.done = on_done;
    request->job.values[2] = number;
    stream->replica = replica != NULL && !pg_pool_figures(replica)->unreachable;
    if (stream->replica)
        request_submit(request, replica, &on_replica);
    else
        request_submit(request, request->loop->streams, &on_primary);
}
