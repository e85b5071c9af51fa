/*
 * pg_pool.c: the connections of one event loop, shared among the jobs that want them, and the queue
 * before them.
 */
#include "pg_connection.h"
#include "log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Milliseconds between looks for connections to try again. */
#define RETRY_TICK 10

/*
 * Milliseconds until a cancellation is repeated. The server forgets one that comes between two
 * statements of the pipeline.
 */
#define INSIST_AFTER 50

/*
 * Cancellations under way for each connection: one for what it runs, and as many again that hang
 * though their connections were given up.
 */
#define CANCELS_MOST 2

/* Time beyond the server's statement timeout after which the server counts as hung. */
#define JOB_GRACE 2000

static void run_job(struct pg_connection *connection, struct pg_job *job);

void
pg_pool_finish(struct pg_job *job, enum pg_end end, PGresult *result)
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

void
pg_pool_ready(struct pg_connection *connection)
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

void
pg_pool_settle(struct pg_connection *connection)
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
        pg_connection_drop(connection, PG_END_LOST, false);
        return;
    }
    pool->figures.busy--;
    pg_pool_ready(connection);
}

/* The job has run longer than the server itself would have let it. */
static void
on_job_timeout(h2o_timeout_entry_t *entry)
{
    struct pg_job *job = H2O_STRUCT_FROM_MEMBER(struct pg_job, timer, entry);

    pg_connection_drop(job->connection, PG_END_TIMEOUT, true);
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
    pool->figures.busy++;
    pg_pipeline_begin(connection);
}

static void
on_queue_timeout(h2o_timeout_entry_t *entry)
{
    struct pg_job *job = H2O_STRUCT_FROM_MEMBER(struct pg_job, timer, entry);

    pg_pool_finish(job, job->pool->figures.connected == 0 ? PG_END_UNREACHED : PG_END_WAITED, NULL);
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
    pg_connection_drop(H2O_STRUCT_FROM_MEMBER(struct pg_connection, timer, entry), PG_END_LOST,
                       true);
}

/* Orders the running statement's cancellation. */
static void
order_cancel(struct pg_connection *connection)
{
    struct pg_pool *pool = connection->pool;

    connection->order = canceller_submit(pool->canceller, connection->pg, connection);
    if (connection->order != NULL)
        pool->orders++;
    else
        h2o_timeout_link(pool->loop, &pool->insist, &connection->insist);
}

/* The statement still runs, though it was cancelled, or could not be. */
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
        pg_pipeline_listen(connection);
        connection->timer.cb = on_settle_timeout;
        h2o_timeout_link(connection->pool->loop, &connection->pool->connect_timeout,
                         &connection->timer);
        connection->pool->figures.cancels++;
        order_cancel(connection);
    }
    pg_pool_finish(job, PG_END_ABANDONED, NULL);
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
        /* Did it wait for us only? Or is the rest of the answer here, where a job had rested? */
        if (connection->state == STATE_SETTLING && connection->step_count == 0)
            pg_pool_settle(connection);
        else if (connection->state == STATE_SETTLING)
            pg_pipeline_continue(connection);
        if (connection->state == STATE_SETTLING)
            h2o_timeout_link(pool->loop, &pool->insist, &connection->insist);
    }
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
    pool->canceller = canceller_create(&pool->cancelled, CANCELS_MOST * options->size);
    for (size_t i = 0; i < options->size; i++)
    {
        pool->connections[i].pool = pool;
        pool->connections[i].state = STATE_DOWN;
        pool->connections[i].insist.cb = on_insist;
    }
    pg_connection_open_all(pool);
    return pool;
}

void
pg_pool_close(struct pg_pool *pool)
{
    pool->closed = true;
    while (!h2o_linklist_is_empty(&pool->waiting))
        pg_pool_finish(H2O_STRUCT_FROM_MEMBER(struct pg_job, link, pool->waiting.next),
                       PG_END_CLOSED, NULL);
    for (size_t i = 0; i < pool->options.size; i++)
        if (pool->connections[i].state != STATE_DOWN)
            pg_connection_drop(&pool->connections[i], PG_END_CLOSED, false);
    h2o_timeout_unlink(&pool->retry);
    pool->orders -= canceller_close(pool->canceller);
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
