/*
 * watch.c: server-sent events that tell when a scope's head moves.
 *
 * Writers pay nothing for being watched: no NOTIFY (a lock on the whole database at commit), no
 * trigger. One small query a loop asks for the heads of all scopes that are being watched, again
 * and again while there are any, and never takes more than a fifth of the poller's time. A stream
 * that cannot keep up is told only the latest head.
 */
#include "watch.h"
#include "log.h"
#include "router.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A comment keeps proxies from taking a quiet stream for a dead one. */
#define HEARTBEAT_MS 15000

/* How long a client should wait before it connects again, in ms. */
#define RECONNECT "500"

/* Buckets of the table of watched scopes. */
#define BUCKETS 4096

/* The time between polls is at least so many times what a poll takes. */
#define REST_FACTOR 4

/* A watched scope. Lives while it has streams. */
struct scope
{
    struct scope *next; /* in its bucket */
    h2o_linklist_t streams;
    int64_t stream_count;
    int64_t head; /* -1: not asked for yet */
    bool seen;    /* the running poll has answered for it */
    char user[];
};

/* One client's event stream. Lives in the request's memory. */
struct stream
{
    h2o_generator_t super;
    struct request *request;
    struct watch *watch;
    struct scope *scope;
    h2o_linklist_t link; /* in scope->streams */
    h2o_timeout_entry_t heartbeat;
    int64_t told;  /* the head that the client knows; -1: none */
    bool sending;  /* bytes are on their way */
    bool beating;  /* a comment is due */
    bool ending;   /* to be ended as soon as nothing is on its way */
    char text[96]; /* what is on its way */
};

struct watch
{
    struct loop *loop;
    struct pg_pool *pool;
    struct scope *buckets[BUCKETS];
    size_t streams;
    size_t scopes;
    struct pg_job poll;
    char *users; /* the poll's parameter: an array's text */
    size_t users_room;
    bool polling;
    uint64_t rest_until; /* ms of the loop's clock */
    h2o_timeout_t tick;
    h2o_timeout_entry_t next_poll;
    h2o_timeout_t heartbeats;
};

static void send_what_is_due(struct stream *stream);

/* Where a user's scope is, if it is watched. */
static size_t
bucket_of(const char *user)
{
    uint64_t hash = text_hash(user);

    return (hash ^ hash >> 32) % BUCKETS;
}

static struct scope *
find_scope(struct watch *watch, const char *user)
{
    struct scope *scope = watch->buckets[bucket_of(user)];

    while (scope != NULL && strcmp(scope->user, user) != 0)
        scope = scope->next;
    return scope;
}

static struct scope *
add_scope(struct watch *watch, const char *user)
{
    size_t size = strlen(user) + 1;
    size_t bucket = bucket_of(user);
    struct scope *scope = h2o_mem_alloc(sizeof(*scope) + size);

    scope->next = watch->buckets[bucket];
    scope->stream_count = 0;
    scope->head = -1;
    scope->seen = false;
    memcpy(scope->user, user, size);
    h2o_linklist_init_anchor(&scope->streams);
    watch->buckets[bucket] = scope;
    watch->scopes++;
    return scope;
}

static void
remove_scope(struct watch *watch, struct scope *scope)
{
    struct scope **link = &watch->buckets[bucket_of(scope->user)];

    while (*link != scope)
        link = &(*link)->next;
    *link = scope->next;
    watch->scopes--;
    free(scope);
}

/* Sends bytes of stream->text. After the last ones `sending` stays: nothing may follow them. */
static void
send_text(struct stream *stream, int size, h2o_send_state_t state)
{
    h2o_iovec_t bytes = h2o_iovec_init(stream->text, (size_t)size);

    stream->sending = true;
    if (h2o_send_state_is_in_progress(state))
    {
        h2o_timeout_unlink(&stream->heartbeat);
        h2o_timeout_link(stream->watch->loop->http.loop, &stream->watch->heartbeats,
                         &stream->heartbeat);
    }
    h2o_send(stream->request->req, &bytes, 1, state);
}

/* Is the token that opened the stream no longer good? */
static bool
outlived(const struct stream *stream)
{
    return (int64_t)time(NULL) >=
           stream->request->claims->expires + stream->watch->loop->config->jwt_leeway;
}

/*
 * Sends the most important thing that is due, unless something is on its way already. Nothing is
 * told once the token has expired.
 */
static void
send_what_is_due(struct stream *stream)
{
    char *text = stream->text;
    size_t room = sizeof(stream->text);

    if (stream->sending)
        return;
    if (stream->ending || outlived(stream))
    {
        h2o_timeout_unlink(&stream->heartbeat);
        send_text(stream,
                  snprintf(text, room, "retry: " RECONNECT "\nevent: reconnect\ndata: {}\n\n"),
                  H2O_SEND_STATE_FINAL);
        return;
    }
    if (stream->scope->head != stream->told)
    {
        stream->told = stream->scope->head;
        stream->beating = false;
        send_text(stream,
                  snprintf(text, room, "event: head\ndata: {\"head\": %lld}\n\n",
                           (long long)stream->told),
                  H2O_SEND_STATE_IN_PROGRESS);
    }
    else if (stream->beating)
    {
        stream->beating = false;
        send_text(stream, snprintf(text, room, ":\n\n"), H2O_SEND_STATE_IN_PROGRESS);
    }
}

static void
on_proceed(h2o_generator_t *self, h2o_req_t *req)
{
    struct stream *stream = (struct stream *)self;

    (void)req;
    stream->sending = false;
    send_what_is_due(stream);
}

/* Nothing was sent for a while. */
static void
on_heartbeat(h2o_timeout_entry_t *entry)
{
    struct stream *stream = H2O_STRUCT_FROM_MEMBER(struct stream, heartbeat, entry);
    struct watch *watch = stream->watch;

    h2o_timeout_link(watch->loop->http.loop, &watch->heartbeats, &stream->heartbeat);
    stream->beating = true;
    send_what_is_due(stream);
}

/* Takes an answer about one scope. */
static void
take_head(struct watch *watch, const char *user, int64_t head)
{
    struct scope *scope = find_scope(watch, user);
    h2o_linklist_t *link;

    if (scope == NULL)
        return;
    scope->seen = true;
    if (scope->head == head)
        return;
    scope->head = head;
    for (link = scope->streams.next; link != &scope->streams; link = link->next)
        send_what_is_due(H2O_STRUCT_FROM_MEMBER(struct stream, link, link));
}

/* Whom the database did not name has no scope yet: nothing was ever written. */
static void
take_absences(struct watch *watch)
{
    for (size_t i = 0; i < BUCKETS; i++)
    {
        for (struct scope *scope = watch->buckets[i]; scope != NULL; scope = scope->next)
        {
            if (!scope->seen && scope->head == -1)
                take_head(watch, scope->user, 0);
            scope->seen = false;
        }
    }
}

/* Plans the next poll, if anybody watches. */
static void
schedule_poll(struct watch *watch)
{
    if (watch->streams != 0 && !watch->polling && !h2o_timeout_is_linked(&watch->next_poll))
        h2o_timeout_link(watch->loop->http.loop, &watch->tick, &watch->next_poll);
}

static void
on_heads(struct pg_job *job, enum pg_end end, PGresult *result)
{
    struct watch *watch = H2O_STRUCT_FROM_MEMBER(struct watch, poll, job);
    uint64_t took = clock_us() - job->queued_at;

    watch->polling = false;
    watch->rest_until = h2o_now(watch->loop->http.loop) + took * REST_FACTOR / 1000;
    if (end == PG_END_RESULT)
    {
        for (int i = 0; i < PQntuples(result); i++)
            take_head(watch, PQgetvalue(result, i, 0), strtoll(PQgetvalue(result, i, 1), NULL, 10));
        take_absences(watch);
    }
    PQclear(result);
    if (end != PG_END_CLOSED)
        schedule_poll(watch);
}

/* Writes the watched users as the text of a PostgreSQL array. */
static void
write_users(struct watch *watch)
{
    size_t most = 3 + watch->scopes * (2 * USER_MAX + 3);
    char *at;

    if (watch->users_room < most)
    {
        watch->users = h2o_mem_realloc(watch->users, most);
        watch->users_room = most;
    }
    at = watch->users;
    *at++ = '{';
    for (size_t i = 0; i < BUCKETS; i++)
    {
        for (struct scope *scope = watch->buckets[i]; scope != NULL; scope = scope->next)
        {
            if (at != watch->users + 1)
                *at++ = ',';
            *at++ = '"';
            for (const char *from = scope->user; *from != '\0'; from++)
            {
                if (*from == '"' || *from == '\\')
                    *at++ = '\\';
                *at++ = *from;
            }
            *at++ = '"';
        }
    }
    *at++ = '}';
    *at = '\0';
}

static void
on_next_poll(h2o_timeout_entry_t *entry)
{
    static const struct pg_statement statement = {
        "rowsync_heads", "SELECT h.user_id, h.head FROM rowsync.heads($1::pg_catalog.text[]) AS h",
        8, 1};
    struct watch *watch = H2O_STRUCT_FROM_MEMBER(struct watch, next_poll, entry);

    if (h2o_now(watch->loop->http.loop) < watch->rest_until || watch->streams == 0)
    {
        schedule_poll(watch);
        return;
    }
    write_users(watch);
    watch->poll.statement = &statement;
    watch->poll.values[0] = watch->users;
    watch->poll.done = on_heads;
    watch->polling = pg_pool_submit(watch->pool, &watch->poll);
    schedule_poll(watch);
}

/* The client has gone, or all is sent. */
static void
on_released(struct request *request)
{
    struct stream *stream = request->subject;
    struct scope *scope = stream->scope;

    h2o_timeout_unlink(&stream->heartbeat);
    h2o_linklist_unlink(&stream->link);
    stream->watch->streams--;
    scope->stream_count--;
    if (h2o_linklist_is_empty(&scope->streams))
        remove_scope(stream->watch, scope);
}

/* The client has gone: an end makes h2o see it, which does not look at a quiet connection. */
static void
on_departed(struct request *request)
{
    struct stream *stream = request->subject;

    stream->ending = true;
    request->req->http1_is_persistent = 0;
    send_what_is_due(stream);
}

/* Begins a stream of events. */
static void
open_stream(struct request *request)
{
    struct watch *watch = request->loop->watch;
    struct stream *stream;
    struct scope *scope;
    struct problem problem;

    if (request_answer_head(request, "text/event-stream"))
        return;
    if (request->loop->draining)
    {
        problem_set(&problem, PROBLEM_DRAINING, "The server is shutting down.");
        problem.retry_after = 1;
        request_fail(request, &problem);
        return;
    }
    scope = find_scope(watch, request->user);
    if (scope != NULL && scope->stream_count >= request->loop->config->watch_limit)
    {
        problem_set(&problem, PROBLEM_TOO_MANY_REQUESTS,
                    "This user already has as many event streams as one user may.");
        problem.retry_after = 5;
        request_fail(request, &problem);
        return;
    }
    stream = request_memory(request, sizeof(*stream));
    memset(stream, 0, sizeof(*stream));
    stream->super.proceed = on_proceed;
    stream->request = request;
    stream->watch = watch;
    stream->told = -1;
    stream->heartbeat.cb = on_heartbeat;
    stream->scope = scope != NULL ? scope : add_scope(watch, request->user);
    stream->scope->stream_count++;
    h2o_linklist_insert(&stream->scope->streams, &stream->link);
    watch->streams++;
    request->subject = stream;
    request->released = on_released;
    request->departed = on_departed;
    request->req->compress_hint = H2O_COMPRESS_HINT_DISABLE;
    request_prepare_stream(request, "text/event-stream");
    h2o_start_response(request->req, &stream->super);
    /* The head of the answer goes out at once, so that the client knows that it is connected. */
    stream->beating = true;
    send_what_is_due(stream);
    schedule_poll(watch);
}

/* The role that the token names may look. */
static void
on_allowed(struct request *request, PGresult *result)
{
    PQclear(result);
    open_stream(request);
}

/*
 * GET /sync/watch. The heads are asked for all streams together, with the gateway's own rights: so
 * whoever comes in a role asks for one in that role first.
 */
void
handle_watch(struct request *request)
{
    static const struct pg_statement statement = {
        "rowsync_may_watch",
        "SELECT pg_catalog.count(*) FROM rowsync.heads(ARRAY[$1::pg_catalog.text])", 12, 1};

    request->job.values[0] = request->user;
    if (request->claims->role == NULL)
        open_stream(request);
    else
        request_query(request, &statement, on_allowed);
}

struct watch *
watch_create(struct loop *loop, struct pg_pool *pool)
{
    struct watch *watch = calloc(1, sizeof(*watch));

    if (watch == NULL)
        abort();
    watch->loop = loop;
    watch->pool = pool;
    watch->next_poll.cb = on_next_poll;
    h2o_timeout_init(loop->http.loop, &watch->tick, (uint64_t)loop->config->watch_interval);
    h2o_timeout_init(loop->http.loop, &watch->heartbeats, HEARTBEAT_MS);
    return watch;
}

void
watch_drain(struct watch *watch)
{
    for (size_t i = 0; i < BUCKETS; i++)
    {
        for (struct scope *scope = watch->buckets[i]; scope != NULL; scope = scope->next)
        {
            h2o_linklist_t *link;

            for (link = scope->streams.next; link != &scope->streams; link = link->next)
            {
                struct stream *stream = H2O_STRUCT_FROM_MEMBER(struct stream, link, link);

                stream->ending = true;
                send_what_is_due(stream);
            }
        }
    }
}

size_t
watch_count(const struct watch *watch)
{
    return watch->streams;
}

void
watch_free(struct watch *watch)
{
    h2o_timeout_unlink(&watch->next_poll);
    h2o_timeout_dispose(watch->loop->http.loop, &watch->tick);
    h2o_timeout_dispose(watch->loop->http.loop, &watch->heartbeats);
    free(watch->users);
    free(watch);
}
