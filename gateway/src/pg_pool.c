/*
 * pg_pool.c: asynchronous PostgreSQL connections of one event loop, and the queue before them.
 *
 * A job is one libpq pipeline: session settings, the statement, one Sync. That is one round trip
 * and one implicit transaction, after which the settings are gone. The job counts as done only when
 * the Sync is answered: an error at commit comes after the statement's result.
 *
 * h2o owns the descriptor that it polls and libpq owns its own, so the loop polls a duplicate.
 */
#include "pg_pool.h"
#include "canceller.h"
#include "log.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a connection is doing. */
enum state
{
    STATE_DOWN,       /* none; connects again at retry_at */
    STATE_CONNECTING, /* PQconnectPoll under way */
    STATE_IDLE,       /* ready; on the pool's idle list */
    STATE_BUSY,       /* runs `job` */
    STATE_SETTLING    /* its job was abandoned; waits for the rest of the answer and for PQcancel */
};

/* The parts of a job's pipeline, in the order of their answers. */
enum step
{
    STEP_FORGET,
    STEP_PREPARE_SETTINGS,
    STEP_PREPARE_STATEMENT,
    STEP_SETTINGS,
    STEP_STATEMENT
};

#define STEPS_MAX 5

/* Ends of answers before the Sync's: one a step, and one more where the commit itself fails. */
#define ENDS_MAX (STEPS_MAX + 1)

struct pg_connection
{
    struct pg_pool *pool;
    enum state state;
    PGconn *pg;
    h2o_socket_t *socket; /* polls a duplicate of pg's descriptor */
    h2o_linklist_t link;  /* in pool->idle */
    h2o_timeout_entry_t timer;
    h2o_timeout_entry_t insist;           /* until the cancellation is sent once more */
    uint64_t retry_at;                    /* ms of the loop's clock */
    struct pg_job *job;                   /* NULL once abandoned */
    uint64_t owner;                       /* the job's, known even then */
    const struct pg_statement *statement; /* the job's, known even then */
    const struct pg_statement *settings;  /* ... and what it sets before */
    PGresult *answer;                     /* of the statement, or the first error */
    bool failed;                          /* `answer` is an error */
    bool denied;                          /* ... of the session settings */
    enum step steps[STEPS_MAX];
    size_t step_count;
    size_t step;
    bool resting;               /* a row was handed out; nothing is read until pg_job_resume */
    size_t carried;             /* bytes of the job's request and answer */
    uint32_t prepared;          /* bits of statements prepared here */
    bool stale;                 /* what is prepared here is of no use any more */
    struct cancel_order *order; /* PQcancel under way */
};

struct pg_pool
{
    struct pg_pool_options options;
    char *conninfo;
    char statement_timeout[24];
    h2o_loop_t *loop;
    h2o_multithread_queue_t *queue;
    h2o_multithread_receiver_t cancelled;
    h2o_linklist_t waiting; /* jobs, oldest first */
    h2o_linklist_t idle;    /* connections, latest used first: few stay warm, the rest rest */
    h2o_timeout_t queue_timeout;
    h2o_timeout_t job_timeout;
    h2o_timeout_t connect_timeout;
    h2o_timeout_t tick;
    h2o_timeout_t insist;
    h2o_timeout_entry_t retry;
    unsigned failed_attempts; /* in a row */
    unsigned seed;
    size_t orders; /* cancellations that have not come back */
    bool closed;
    struct pg_pool_figures figures;
    struct pg_connection connections[];
};

/* Milliseconds between looks for connections to try again. */
#define RETRY_TICK 10
#define RETRY_FIRST 20
#define RETRY_MOST 500

/*
 * Milliseconds until a cancellation is repeated. The server forgets one that comes between two
 * statements of the pipeline.
 */
#define INSIST_AFTER 50

/* Time beyond the server's statement timeout after which the server counts as hung. */
#define JOB_GRACE 2000

#define SETTINGS                                                                                   \
    "SELECT pg_catalog.set_config('request.jwt.claims', $1, true),"                                \
    " pg_catalog.set_config('application_name', $2, true),"                                        \
    " pg_catalog.set_config('statement_timeout', $3, true)"

static const struct pg_statement settings = {"rowsync_settings", SETTINGS, 0, 3};

/* The same, and the role. */
static const struct pg_statement settings_and_role = {
    "rowsync_settings_role", SETTINGS ", pg_catalog.set_config('role', $4, true)", 11, 4};

/* What a job sets before it runs. */
static const struct pg_statement *
settings_of(const struct pg_job *job)
{
    return job->role == NULL ? &settings : &settings_and_role;
}

static void start_connecting(struct pg_connection *connection);
static void run_job(struct pg_connection *connection, struct pg_job *job);
static void send_job(struct pg_connection *connection);

/* A pseudo-random number below `limit`, good enough to spread retries. */
static uint64_t
jitter(struct pg_pool *pool, uint64_t limit)
{
    return limit == 0 ? 0 : (uint64_t)rand_r(&pool->seed) % limit;
}

/* Starts or keeps the timer that looks for connections to try again. */
static void
schedule_retry(struct pg_pool *pool)
{
    if (!pool->closed && !h2o_timeout_is_linked(&pool->retry))
        h2o_timeout_link(pool->loop, &pool->tick, &pool->retry);
}

/* Begins to connect whatever has waited out its back-off. */
static void
on_retry(h2o_timeout_entry_t *entry)
{
    struct pg_pool *pool = H2O_STRUCT_FROM_MEMBER(struct pg_pool, retry, entry);
    bool more = false;

    for (size_t i = 0; i < pool->options.size; i++)
    {
        struct pg_connection *connection = &pool->connections[i];

        if (connection->state == STATE_DOWN && h2o_now(pool->loop) >= connection->retry_at)
            start_connecting(connection);
        more = more || connection->state == STATE_DOWN;
    }
    if (more)
        schedule_retry(pool);
}

/* Takes the job off its connection or the queue and tells its owner. */
static void
finish_job(struct pg_job *job, enum pg_end end, PGresult *result)
{
    h2o_timeout_unlink(&job->timer);
    if (job->state == PG_JOB_QUEUED)
    {
        h2o_linklist_unlink(&job->link);
        job->pool->figures.queued--;
    }
    job->state = PG_JOB_NEW;
    job->connection = NULL;
    job->done(job, end, result);
}

/*
 * The one place where a connection dies. What ran on it ends with `end`; it connects again after
 * a back-off that grows with failures, or at once when it was only renewed.
 */
static void
drop_connection(struct pg_connection *connection, enum pg_end end, bool failure)
{
    struct pg_pool *pool = connection->pool;
    struct pg_job *job = connection->job;

    if (connection->state == STATE_IDLE)
        h2o_linklist_unlink(&connection->link);
    if (connection->state == STATE_BUSY || connection->state == STATE_SETTLING)
        pool->figures.busy--;
    if (connection->state != STATE_CONNECTING && connection->state != STATE_DOWN)
        pool->figures.connected--;
    if (connection->socket != NULL)
        h2o_socket_close(connection->socket);
    PQclear(connection->answer);
    PQfinish(connection->pg);
    /* A cancellation may be stuck for minutes where the network is; nobody waits for it. */
    if (connection->order != NULL)
        connection->order->subject = NULL;
    connection->order = NULL;
    h2o_timeout_unlink(&connection->timer);
    h2o_timeout_unlink(&connection->insist);
    connection->socket = NULL;
    connection->answer = NULL;
    connection->pg = NULL;
    connection->job = NULL;
    connection->prepared = 0;
    connection->stale = false;
    connection->state = STATE_DOWN;
    connection->retry_at = h2o_now(pool->loop);
    if (failure)
    {
        unsigned exponent = pool->failed_attempts < 8 ? pool->failed_attempts : 8;
        uint64_t delay = (uint64_t)RETRY_FIRST << exponent;

        if (delay > RETRY_MOST)
            delay = RETRY_MOST;
        pool->failed_attempts++;
        pool->figures.failures++;
        connection->retry_at += delay / 2 + jitter(pool, delay / 2);
    }
    schedule_retry(pool);
    if (job != NULL)
        finish_job(job, end, NULL);
}

/* Says once an outage that the database is away, and once that it is back. */
static void
log_failure(struct pg_connection *connection, const char *what)
{
    struct pg_pool *pool = connection->pool;
    struct log_line line;

    if (!log_enabled(LOG_WARNING) || (pool->failed_attempts != 0 && !log_enabled(LOG_DEBUG)))
        return;
    log_begin(&line, LOG_WARNING, what);
    log_string(&line, "pool", pool->options.name);
    log_string(&line, "message", PQerrorMessage(connection->pg));
    log_end(&line);
}

static void
on_notice(void *unused, const PGresult *notice)
{
    struct log_line line;

    (void)unused;
    if (!log_enabled(LOG_DEBUG))
        return;
    log_begin(&line, LOG_DEBUG, "database_notice");
    log_string(&line, "message", PQresultErrorField(notice, PG_DIAG_MESSAGE_PRIMARY));
    log_end(&line);
}

/* How much of what a pool has one owner may take: a quarter is for others, if there are two. */
static size_t
share_of(size_t all)
{
    return all < 2 ? all : all - (all + 3) / 4;
}

/* May a job of this owner have one more connection? */
static bool
may_run(const struct pg_pool *pool, uint64_t owner)
{
    size_t most = share_of(pool->options.size);
    size_t count = 0;

    if (owner == 0 || pool->figures.busy < most)
        return true;
    for (size_t i = 0; i < pool->options.size; i++)
    {
        const struct pg_connection *connection = &pool->connections[i];

        count += connection->owner == owner &&
                 (connection->state == STATE_BUSY || connection->state == STATE_SETTLING);
    }
    return count < most;
}

/* May a job of this owner wait? */
static bool
may_wait(const struct pg_pool *pool, uint64_t owner)
{
    size_t most = share_of(pool->options.queue_length);
    size_t count = 0;

    if (pool->figures.queued >= pool->options.queue_length)
        return false;
    if (owner == 0 || pool->figures.queued < most)
        return true;
    for (const h2o_linklist_t *link = pool->waiting.next; link != &pool->waiting; link = link->next)
        count += H2O_STRUCT_FROM_MEMBER(struct pg_job, link, link)->owner == owner;
    return count < most;
}

/* Puts a connection to use: the oldest waiting job that may run, or the idle list. */
static void
make_ready(struct pg_connection *connection)
{
    struct pg_pool *pool = connection->pool;

    connection->state = STATE_IDLE;
    h2o_linklist_insert(pool->idle.next, &connection->link);
    for (h2o_linklist_t *link = pool->waiting.next; link != &pool->waiting; link = link->next)
    {
        struct pg_job *job = H2O_STRUCT_FROM_MEMBER(struct pg_job, link, link);

        if (may_run(pool, job->owner))
        {
            run_job(connection, job);
            return;
        }
    }
}

/*
 * After a job: ready again, unless a cancellation is still on its way (it would hit the next job),
 * libpq's buffers have grown large, for it never shrinks them, or a transaction is still open.
 */
static void
settle(struct pg_connection *connection)
{
    struct pg_pool *pool = connection->pool;

    if (connection->order != NULL)
    {
        connection->state = STATE_SETTLING;
        return;
    }
    h2o_timeout_unlink(&connection->timer);
    h2o_timeout_unlink(&connection->insist);
    if (connection->carried > pool->options.recycle_size ||
        PQtransactionStatus(connection->pg) != PQTRANS_IDLE)
    {
        drop_connection(connection, PG_END_LOST, false);
        return;
    }
    pool->figures.busy--;
    make_ready(connection);
}

/*
 * Did the job fail because what is prepared on its connection is gone, is there unexpectedly, or
 * has another result since a function was replaced? The last has no SQLSTATE of its own.
 */
static bool
found_stale(const PGresult *answer)
{
    const char *state = PQresultErrorField(answer, PG_DIAG_SQLSTATE);
    const char *place = PQresultErrorField(answer, PG_DIAG_SOURCE_FUNCTION);

    return state != NULL && (strcmp(state, "26000") == 0 || strcmp(state, "42P05") == 0 ||
                             (strcmp(state, "0A000") == 0 && place != NULL &&
                              strcmp(place, "RevalidateCachedQuery") == 0));
}

/* Has the session the library of before an update of the extension? It keeps it until it ends. */
static bool
is_outdated(const PGresult *answer)
{
    const char *state = PQresultErrorField(answer, PG_DIAG_SQLSTATE);

    return state != NULL && strcmp(state, "RS007") == 0;
}

/* The pipeline is answered to its end. */
static void
finish_pipeline(struct pg_connection *connection)
{
    struct pg_job *job = connection->job;
    PGresult *answer = connection->answer;
    enum pg_end end = connection->denied   ? PG_END_DENIED
                      : connection->failed ? PG_END_ERROR
                                           : PG_END_RESULT;

    connection->answer = NULL;
    connection->step_count = 0;
    if (connection->failed && is_outdated(answer))
        connection->carried = SIZE_MAX; /* renewed, as one that carried too much */
    if (connection->failed && job != NULL && !job->repeated && found_stale(answer))
    {
        /* Nothing is done: once more, with everything prepared anew. */
        PQclear(answer);
        job->repeated = true;
        connection->stale = true;
        send_job(connection);
        return;
    }
    connection->job = NULL;
    if (job == NULL)
    {
        PQclear(answer);
        settle(connection);
        return;
    }
    if (answer != NULL && !connection->failed && PQntuples(answer) > 0)
        connection->carried += (size_t)PQgetlength(answer, 0, 0);
    /* The connection first: `done` may submit the next job, which then finds it free. */
    settle(connection);
    finish_job(job, end, answer);
}

/* Is this the role of a job being refused what the job is about? */
static bool
role_lacks_right(const struct pg_connection *connection, const PGresult *error)
{
    const char *state = PQresultErrorField(error, PG_DIAG_SQLSTATE);

    return connection->settings == &settings_and_role && state != NULL &&
           strcmp(state, "42501") == 0;
}

/* Takes one result of the pipeline. The statement's is kept, and the first error instead of it. */
static void
take_result(struct pg_connection *connection, PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);
    enum step step = connection->step < connection->step_count ? connection->steps[connection->step]
                                                               : STEP_STATEMENT;

    if (status == PGRES_FATAL_ERROR && !connection->failed)
    {
        PQclear(connection->answer);
        connection->answer = result;
        connection->failed = true;
        connection->denied = step == STEP_SETTINGS || role_lacks_right(connection, result);
        return;
    }
    if (status == PGRES_COMMAND_OK && step == STEP_PREPARE_SETTINGS)
        connection->prepared |= 1u << connection->settings->number;
    else if (status == PGRES_COMMAND_OK && step == STEP_PREPARE_STATEMENT)
        connection->prepared |= 1u << connection->statement->number;
    else if (status == PGRES_TUPLES_OK && step == STEP_STATEMENT && !connection->failed &&
             connection->answer == NULL)
    {
        connection->answer = result;
        return;
    }
    PQclear(result);
}

/* The next answer is a streaming job's statement: its rows are wanted singly. */
static void
expect_step(struct pg_connection *connection)
{
    if (connection->job != NULL && connection->job->row != NULL &&
        connection->step < connection->step_count &&
        connection->steps[connection->step] == STEP_STATEMENT)
        PQsetSingleRowMode(connection->pg);
}

/* Hands a row to its job, which then rests, and lets the server feel it: nothing more is read. */
static void
hand_out_row(struct pg_connection *connection, PGresult *row)
{
    struct pg_job *job = connection->job;
    size_t size = (size_t)PQgetlength(row, 0, 0);

    if (job == NULL)
    {
        PQclear(row);
        return;
    }
    if (size > connection->carried)
        connection->carried = size;
    /* Part of the answer is out: the job is not sent again. */
    job->repeated = true;
    connection->resting = true;
    h2o_socket_read_stop(connection->socket);
    job->row(job, row);
}

/* Works through what libpq has read. */
static void
process_input(struct pg_connection *connection)
{
    /* Between jobs only notices and new settings can come: parsing is all they need. */
    if (connection->step_count == 0)
        (void)PQisBusy(connection->pg);
    while (connection->step_count != 0 && !connection->resting && !PQisBusy(connection->pg))
    {
        PGresult *result = PQgetResult(connection->pg);

        if (result == NULL)
        {
            if (PQstatus(connection->pg) == CONNECTION_BAD || connection->step++ >= ENDS_MAX)
                break;
            expect_step(connection);
            continue;
        }
        if (PQresultStatus(result) == PGRES_PIPELINE_SYNC)
        {
            PQclear(result);
            finish_pipeline(connection);
            return;
        }
        if (PQresultStatus(result) == PGRES_SINGLE_TUPLE)
            hand_out_row(connection, result);
        else
            take_result(connection, result);
    }
    if (PQstatus(connection->pg) == CONNECTION_BAD || connection->step > ENDS_MAX)
    {
        log_failure(connection, "database_connection_lost");
        drop_connection(connection, PG_END_LOST, true);
    }
}

/* Reads what has come. */
static void
on_readable(h2o_socket_t *socket, const char *error)
{
    struct pg_connection *connection = socket->data;

    (void)error;
    if (PQconsumeInput(connection->pg) == 0)
    {
        log_failure(connection, "database_connection_lost");
        drop_connection(connection, PG_END_LOST, true);
        return;
    }
    process_input(connection);
}

void
pg_job_resume(struct pg_job *job)
{
    struct pg_connection *connection = job->connection;

    if (job->state != PG_JOB_RUNNING || !connection->resting)
        return;
    connection->resting = false;
    h2o_socket_read_start(connection->socket, on_readable);
    process_input(connection);
}

/* Sends what libpq still holds. */
static void
on_writable(h2o_socket_t *socket, const char *error)
{
    struct pg_connection *connection = socket->data;
    int more;

    (void)error;
    more = PQflush(connection->pg);
    /* A failed write leaves reading to find out: the server may have said why. */
    if (more == 1)
        h2o_socket_notify_write(socket, on_writable);
}

/* The job has run longer than the server itself would have let it. */
static void
on_job_timeout(h2o_timeout_entry_t *entry)
{
    struct pg_job *job = H2O_STRUCT_FROM_MEMBER(struct pg_job, timer, entry);

    drop_connection(job->connection, PG_END_TIMEOUT, true);
}

/* Adds one statement to the pipeline, preparing it first where this connection has not yet. */
static bool
send_statement(struct pg_connection *connection, const struct pg_statement *statement,
               const char *const *values, const int *lengths, const int *formats, enum step prepare,
               enum step execute)
{
    if (connection->pool->options.unnamed)
    {
        connection->steps[connection->step_count++] = execute;
        return PQsendQueryParams(connection->pg, statement->sql, statement->parameters, NULL,
                                 values, lengths, formats, 0) == 1;
    }
    if ((connection->prepared & 1u << statement->number) == 0)
    {
        connection->steps[connection->step_count++] = prepare;
        if (PQsendPrepare(connection->pg, statement->name, statement->sql, 0, NULL) != 1)
            return false;
    }
    connection->steps[connection->step_count++] = execute;
    return PQsendQueryPrepared(connection->pg, statement->name, statement->parameters, values,
                               lengths, formats, 0) == 1;
}

/* Adds a statement that forgets everything prepared on a connection. */
static bool
send_forget(struct pg_connection *connection)
{
    connection->steps[connection->step_count++] = STEP_FORGET;
    connection->stale = false;
    connection->prepared = 0;
    return PQsendQueryParams(connection->pg, "DEALLOCATE ALL", 0, NULL, NULL, NULL, NULL, 0) == 1;
}

/* Sends the pipeline of a connection's job. */
static void
send_job(struct pg_connection *connection)
{
    struct pg_job *job = connection->job;
    const char *values[] = {job->claims, job->application, connection->pool->statement_timeout,
                            job->role};
    bool sent;

    connection->failed = connection->denied = false;
    connection->step = connection->step_count = 0;
    sent = (!connection->stale || send_forget(connection)) &&
           (job->claims == NULL || send_statement(connection, connection->settings, values, NULL,
                                                  NULL, STEP_PREPARE_SETTINGS, STEP_SETTINGS)) &&
           send_statement(connection, job->statement, job->values, job->lengths, job->formats,
                          STEP_PREPARE_STATEMENT, STEP_STATEMENT) &&
           PQpipelineSync(connection->pg) == 1;
    /* Where sending failed the connection is broken: reading will find it so, on a clean stack. */
    if (!sent)
        shutdown(PQsocket(connection->pg), SHUT_RDWR);
    else
        expect_step(connection);
    if (sent && !h2o_socket_is_writing(connection->socket) && PQflush(connection->pg) == 1)
        h2o_socket_notify_write(connection->socket, on_writable);
}

/* Gives a job to an idle connection. */
static void
run_job(struct pg_connection *connection, struct pg_job *job)
{
    struct pg_pool *pool = connection->pool;

    h2o_linklist_unlink(&connection->link);
    if (job->state == PG_JOB_QUEUED)
    {
        h2o_linklist_unlink(&job->link);
        h2o_timeout_unlink(&job->timer);
        pool->figures.queued--;
    }
    job->state = PG_JOB_RUNNING;
    job->connection = connection;
    job->started_at = clock_us();
    job->timer.cb = on_job_timeout;
    h2o_timeout_link(pool->loop, &pool->job_timeout, &job->timer);
    connection->state = STATE_BUSY;
    connection->job = job;
    connection->owner = job->owner;
    connection->statement = job->statement;
    connection->settings = settings_of(job);
    connection->resting = false;
    connection->carried = 0;
    for (int i = 0; i < job->statement->parameters; i++)
        connection->carried += job->formats[i] == 1 ? (size_t)job->lengths[i] : 0;
    pool->figures.busy++;
    send_job(connection);
}

static void
on_queue_timeout(h2o_timeout_entry_t *entry)
{
    struct pg_job *job = H2O_STRUCT_FROM_MEMBER(struct pg_job, timer, entry);

    finish_job(job, job->pool->figures.connected == 0 ? PG_END_UNREACHED : PG_END_WAITED, NULL);
}

bool
pg_pool_submit(struct pg_pool *pool, struct pg_job *job)
{
    job->pool = pool;
    job->state = PG_JOB_NEW;
    job->link = (h2o_linklist_t){NULL, NULL};
    job->timer = (h2o_timeout_entry_t){0};
    job->connection = NULL;
    job->repeated = false;
    job->queued_at = clock_us();
    job->started_at = 0;
    if (pool->closed)
        return false;
    if (!h2o_linklist_is_empty(&pool->idle) && may_run(pool, job->owner))
    {
        run_job(H2O_STRUCT_FROM_MEMBER(struct pg_connection, link, pool->idle.next), job);
        return true;
    }
    if (!may_wait(pool, job->owner))
        return false;
    job->state = PG_JOB_QUEUED;
    job->timer.cb = on_queue_timeout;
    h2o_linklist_insert(&pool->waiting, &job->link);
    h2o_timeout_link(pool->loop, &pool->queue_timeout, &job->timer);
    pool->figures.queued++;
    return true;
}

/* An abandoned statement did not end although cancelled. */
static void
on_settle_timeout(h2o_timeout_entry_t *entry)
{
    drop_connection(H2O_STRUCT_FROM_MEMBER(struct pg_connection, timer, entry), PG_END_LOST, true);
}

/* Orders the running statement's cancellation. */
static void
order_cancel(struct pg_connection *connection)
{
    struct pg_pool *pool = connection->pool;
    PGcancel *cancel = PQgetCancel(connection->pg);
    struct cancel_order *order;

    if (cancel == NULL)
        return;
    order = h2o_mem_alloc(sizeof(*order));
    memset(order, 0, sizeof(*order));
    order->reply = &pool->cancelled;
    order->cancel = cancel;
    order->subject = connection;
    connection->order = order;
    pool->orders++;
    canceller_submit(order);
}

/* The statement still runs, though it was cancelled. */
static void
on_insist(h2o_timeout_entry_t *entry)
{
    order_cancel(H2O_STRUCT_FROM_MEMBER(struct pg_connection, insist, entry));
}

void
pg_job_abandon(struct pg_job *job)
{
    struct pg_connection *connection = job->connection;

    if (job->state == PG_JOB_NEW)
        return;
    if (job->state == PG_JOB_RUNNING)
    {
        connection->job = NULL;
        connection->state = STATE_SETTLING;
        if (connection->resting)
        {
            connection->resting = false;
            h2o_socket_read_start(connection->socket, on_readable);
        }
        connection->timer.cb = on_settle_timeout;
        h2o_timeout_link(connection->pool->loop, &connection->pool->connect_timeout,
                         &connection->timer);
        connection->pool->figures.cancels++;
        order_cancel(connection);
    }
    finish_job(job, PG_END_ABANDONED, NULL);
}

/* Cancellations that have come back. */
static void
on_cancelled(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    struct pg_pool *pool = H2O_STRUCT_FROM_MEMBER(struct pg_pool, cancelled, receiver);

    while (!h2o_linklist_is_empty(messages))
    {
        struct cancel_order *order =
            H2O_STRUCT_FROM_MEMBER(struct cancel_order, message.link, messages->next);
        struct pg_connection *connection = order->subject;

        h2o_linklist_unlink(&order->message.link);
        free(order);
        pool->orders--;
        if (connection == NULL)
            continue;
        connection->order = NULL;
        /* Still waiting for the statement's end, or for us only? */
        if (connection->state == STATE_SETTLING && connection->step_count == 0)
            settle(connection);
        else if (connection->state == STATE_SETTLING)
            h2o_timeout_link(pool->loop, &pool->insist, &connection->insist);
    }
}

/* A connection is established. */
static void
finish_connecting(struct pg_connection *connection)
{
    struct pg_pool *pool = connection->pool;

    h2o_timeout_unlink(&connection->timer);
    if (PQsetnonblocking(connection->pg, 1) != 0 || PQenterPipelineMode(connection->pg) != 1)
    {
        log_failure(connection, "database_connect_failed");
        drop_connection(connection, PG_END_LOST, true);
        return;
    }
    if (pool->failed_attempts != 0)
        log_message(LOG_INFO, "database_connected", "pool %s is connected again",
                    pool->options.name);
    pool->failed_attempts = 0;
    pool->figures.connected++;
    pool->figures.connects++;
    h2o_socket_read_start(connection->socket, on_readable);
    make_ready(connection);
}

static void on_connect_event(h2o_socket_t *socket, const char *error);

/* Polls libpq's current descriptor, which may change with every step of connecting. */
static bool
watch_socket(struct pg_connection *connection)
{
    int descriptor = fcntl(PQsocket(connection->pg), F_DUPFD_CLOEXEC, 0);

    if (connection->socket != NULL)
        h2o_socket_close(connection->socket);
    connection->socket = NULL;
    if (descriptor < 0)
        return false;
    connection->socket =
        h2o_evloop_socket_create(connection->pool->loop, descriptor, H2O_SOCKET_FLAG_DONT_READ);
    connection->socket->data = connection;
    return true;
}

/* Takes libpq's next step towards a connection. */
static void
on_connect_event(h2o_socket_t *socket, const char *error)
{
    struct pg_connection *connection = socket->data;
    PostgresPollingStatusType wanted = PQconnectPoll(connection->pg);

    (void)error;
    if (wanted == PGRES_POLLING_FAILED || !watch_socket(connection))
    {
        log_failure(connection, "database_connect_failed");
        drop_connection(connection, PG_END_LOST, true);
        return;
    }
    if (wanted == PGRES_POLLING_OK)
        finish_connecting(connection);
    else if (wanted == PGRES_POLLING_READING)
        h2o_socket_read_start(connection->socket, on_connect_event);
    else
        h2o_socket_notify_write(connection->socket, on_connect_event);
}

static void
on_connect_timeout(h2o_timeout_entry_t *entry)
{
    struct pg_connection *connection = H2O_STRUCT_FROM_MEMBER(struct pg_connection, timer, entry);

    log_failure(connection, "database_connect_timeout");
    drop_connection(connection, PG_END_LOST, true);
}

/*
 * Begins a connection. Name resolution is libpq's and blocks: configuration and documentation
 * therefore recommend a socket directory, `hostaddr`, or a name that /etc/hosts knows.
 */
static void
start_connecting(struct pg_connection *connection)
{
    struct pg_pool *pool = connection->pool;
    const char *keywords[] = {"dbname", "fallback_application_name", "client_encoding", NULL};
    const char *values[] = {pool->conninfo, "rowsync-gateway", "UTF8", NULL};

    connection->pg = PQconnectStartParams(keywords, values, 1);
    if (connection->pg == NULL)
        abort();
    /* From the first: libpq's own receiver writes into the log. */
    PQsetNoticeReceiver(connection->pg, on_notice, NULL);
    connection->state = STATE_CONNECTING;
    if (PQstatus(connection->pg) == CONNECTION_BAD || !watch_socket(connection))
    {
        log_failure(connection, "database_connect_failed");
        drop_connection(connection, PG_END_LOST, true);
        return;
    }
    connection->timer.cb = on_connect_timeout;
    h2o_timeout_link(pool->loop, &pool->connect_timeout, &connection->timer);
    h2o_socket_notify_write(connection->socket, on_connect_event);
}

struct pg_pool *
pg_pool_create(h2o_loop_t *loop, h2o_multithread_queue_t *queue,
               const struct pg_pool_options *options)
{
    struct pg_pool *pool = calloc(1, sizeof(*pool) + options->size * sizeof(pool->connections[0]));

    if (pool == NULL)
        abort();
    pool->options = *options;
    pool->conninfo = strdup(options->conninfo);
    if (pool->conninfo == NULL)
        abort();
    snprintf(pool->statement_timeout, sizeof(pool->statement_timeout), "%llu",
             (unsigned long long)options->statement_timeout);
    pool->loop = loop;
    pool->queue = queue;
    pool->seed = (unsigned)clock_us();
    pool->figures.size = options->size;
    h2o_linklist_init_anchor(&pool->waiting);
    h2o_linklist_init_anchor(&pool->idle);
    h2o_timeout_init(loop, &pool->queue_timeout, options->queue_timeout);
    h2o_timeout_init(loop, &pool->job_timeout, options->statement_timeout + JOB_GRACE);
    h2o_timeout_init(loop, &pool->connect_timeout, options->connect_timeout);
    h2o_timeout_init(loop, &pool->tick, RETRY_TICK);
    h2o_timeout_init(loop, &pool->insist, INSIST_AFTER);
    h2o_multithread_register_receiver(queue, &pool->cancelled, on_cancelled);
    pool->retry.cb = on_retry;
    for (size_t i = 0; i < options->size; i++)
    {
        pool->connections[i].pool = pool;
        pool->connections[i].state = STATE_DOWN;
        pool->connections[i].insist.cb = on_insist;
    }
    on_retry(&pool->retry);
    return pool;
}

void
pg_pool_close(struct pg_pool *pool)
{
    pool->closed = true;
    while (!h2o_linklist_is_empty(&pool->waiting))
        finish_job(H2O_STRUCT_FROM_MEMBER(struct pg_job, link, pool->waiting.next), PG_END_CLOSED,
                   NULL);
    for (size_t i = 0; i < pool->options.size; i++)
        if (pool->connections[i].state != STATE_DOWN)
            drop_connection(&pool->connections[i], PG_END_CLOSED, false);
    h2o_timeout_unlink(&pool->retry);
}

bool
pg_pool_closed(const struct pg_pool *pool)
{
    return pool->closed && pool->orders == 0;
}

void
pg_pool_free(struct pg_pool *pool)
{
    h2o_multithread_unregister_receiver(pool->queue, &pool->cancelled);
    h2o_timeout_dispose(pool->loop, &pool->queue_timeout);
    h2o_timeout_dispose(pool->loop, &pool->job_timeout);
    h2o_timeout_dispose(pool->loop, &pool->connect_timeout);
    h2o_timeout_dispose(pool->loop, &pool->tick);
    h2o_timeout_dispose(pool->loop, &pool->insist);
    free(pool->conninfo);
    free(pool);
}

const struct pg_pool_figures *
pg_pool_figures(struct pg_pool *pool)
{
    pool->figures.unreachable = pool->figures.connected == 0 && pool->failed_attempts != 0;
    return &pool->figures;
}
