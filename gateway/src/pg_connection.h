/*
 * pg_connection.h: one connection of a pool, as the files behind pg_pool.h know it.
 *
 * pg_connection.c opens and closes connections, pg_pipeline.c runs a job on one, and pg_pool.c says
 * which job on which.
 */
#ifndef ROWSYNC_GATEWAY_PG_CONNECTION_H
#define ROWSYNC_GATEWAY_PG_CONNECTION_H

#include "canceller.h"
#include "pg_pool.h"

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
    struct canceller *canceller;
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
    size_t orders; /* cancellations that have not come back and will */
    bool closed;
    struct pg_pool_figures figures;
    struct pg_connection connections[];
};

/* pg_connection.c: begins to connect all that have waited out their back-off, now and later. */
void pg_connection_open_all(struct pg_pool *pool);

/*
 * The one place where a connection dies. What ran on it ends with `end`; it connects again after
 * a back-off that grows with failures, or at once when it was only renewed.
 */
void pg_connection_drop(struct pg_connection *connection, enum pg_end end, bool failure);

/* The same for a failure, which the log is told, once an outage: `what`, and libpq's own words. */
void pg_connection_fail(struct pg_connection *connection, const char *what);

/* pg_pipeline.c: takes what the server sends, from now on. */
void pg_pipeline_listen(struct pg_connection *connection);

/* Works through what libpq has read, of which the socket may tell nothing more. */
void pg_pipeline_continue(struct pg_connection *connection);

/* Sends the connection's job. At its end comes pg_pool_settle, or pg_connection_drop. */
void pg_pipeline_begin(struct pg_connection *connection);

/* pg_pool.c: puts a connection to use: the oldest waiting job that may run, or the idle list. */
void pg_pool_ready(struct pg_connection *connection);

/*
 * After a job: ready again, unless a cancellation is still on its way (it would hit the next job),
 * libpq's buffers have grown large, for it never shrinks them, or a transaction is still open.
 */
void pg_pool_settle(struct pg_connection *connection);

/* Takes a job off its connection or the queue and tells its owner. */
void pg_pool_finish(struct pg_job *job, enum pg_end end, PGresult *result);

#endif
