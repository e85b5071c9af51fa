/*
 * pg_pool.h: asynchronous PostgreSQL connections of one event loop, and the queue before them.
 *
 * A pool belongs to one loop and is touched by that loop's thread only. One job runs on one
 * connection at a time: a slow job then never delays another, and can be cancelled alone.
 */
#ifndef ROWSYNC_GATEWAY_PG_POOL_H
#define ROWSYNC_GATEWAY_PG_POOL_H

#include <h2o.h>
#include <libpq-fe.h>
#include <stdbool.h>

struct pg_pool;

/* The most parameters of a statement. */
#define PG_PARAMETERS_MAX 8

/*
 * A statement that jobs run. All are known at compile time; each connection prepares one when it
 * first needs it, in the same round trip.
 */
struct pg_statement
{
    const char *name; /* of the prepared statement */
    const char *sql;  /* schema-qualified throughout */
    unsigned number;  /* its bit in a connection's set of prepared statements, 1 to 31 */
    int parameters;
};

/* How a job ended. */
enum pg_end
{
    PG_END_RESULT,  /* done and committed; the result is the statement's */
    PG_END_ERROR,   /* the server refused; the result has SQLSTATE and message; nothing is done */
    PG_END_DENIED,  /* the same, for the job's role: it cannot be taken, or may not do this */
    PG_END_LOST,    /* the connection broke while the job ran: whether it is done is unknown */
    PG_END_TIMEOUT, /* no answer in time, though the server has a statement timeout: unknown too */
    PG_END_WAITED,  /* no connection became free in time; nothing is done */
    PG_END_UNREACHED, /* the same, and for want of any connection to the database */
    PG_END_ABANDONED, /* pg_job_abandon was called */
    PG_END_CLOSED     /* the pool was closed */
};

enum pg_job_state
{
    PG_JOB_NEW,    /* not with a pool */
    PG_JOB_QUEUED, /* waits for a connection */
    PG_JOB_RUNNING /* on a connection */
};

/*
 * One statement to run for one request, in a transaction of its own that begins with setting what
 * the session settings say. Embedded in whatever waits for it; that must live until `done`.
 * Everything pointed to must live until then as well.
 */
struct pg_job
{
    /* Filled in by the caller. */
    const struct pg_statement *statement;
    const char *claims;      /* JSON for request.jwt.claims; NULL: no session settings at all */
    const char *application; /* application_name while the job runs */
    const char *role;        /* whose rights the job has; NULL: those of the connection */
    uint64_t owner; /* a hash of whose it is, who may not have every connection; 0: nobody */
    const char *values[PG_PARAMETERS_MAX];
    int lengths[PG_PARAMETERS_MAX]; /* of binary values */
    int formats[PG_PARAMETERS_MAX]; /* 0: text with a NUL at its end, 1: binary */
    /* Called exactly once, never from within pg_pool_submit. The callee clears the result, which is
     * NULL for ends that have none. */
    void (*done)(struct pg_job *job, enum pg_end end, PGresult *result);
    /* Where set, rows come singly as the server makes them, and none is kept. After each the job
     * rests until pg_job_resume, so that the receiver sets the pace and memory stays constant. The
     * callee clears the row. */
    void (*row)(struct pg_job *job, PGresult *row);

    /* The pool's. */
    enum pg_job_state state;
    bool repeated; /* not to be sent once more, should its prepared statement be of no use */
    struct pg_pool *pool;
    struct pg_connection *connection;
    h2o_linklist_t link;
    h2o_timeout_entry_t timer;
    uint64_t queued_at;  /* µs, clock_us() */
    uint64_t started_at; /* µs; 0: never ran */
};

/* What a pool is made of; strings are copied. */
struct pg_pool_options
{
    const char *name; /* for the log: a literal */
    const char *conninfo;
    size_t size;
    size_t queue_length;
    uint64_t queue_timeout;     /* ms */
    uint64_t connect_timeout;   /* ms */
    uint64_t statement_timeout; /* ms */
    size_t recycle_size;        /* bytes */
    bool unnamed;               /* no prepared statements (PgBouncer) */
};

/* Creates a pool on a loop and begins to connect. `queue` carries messages to that loop. */
struct pg_pool *pg_pool_create(h2o_loop_t *loop, h2o_multithread_queue_t *queue,
                               const struct pg_pool_options *options);

/*
 * Ends all jobs with PG_END_CLOSED and disconnects. pg_pool_closed tells when the loop has heard of
 * every cancellation that has ended by then; nothing waits for the others. Then it may be freed.
 */
void pg_pool_close(struct pg_pool *pool);
bool pg_pool_closed(const struct pg_pool *pool);
void pg_pool_free(struct pg_pool *pool);

/* Hands a job over. False: the queue is full, the job was not taken, and `done` is not called. */
bool pg_pool_submit(struct pg_pool *pool, struct pg_job *job);

/*
 * Nobody waits for the job any more: `done` is called at once with PG_END_ABANDONED; a running
 * statement is cancelled. Without effect on a job that is not with a pool.
 */
void pg_job_abandon(struct pg_job *job);

/* Lets a job whose `row` was called go on. May call `row` or `done` before it returns. */
void pg_job_resume(struct pg_job *job);

/* Figures for readiness and metrics. */
struct pg_pool_figures
{
    size_t size;
    size_t connected; /* idle or busy */
    bool unreachable; /* none is connected, and the last attempt failed */
    size_t busy;
    size_t queued;
    uint64_t connects; /* connections ever established */
    uint64_t failures; /* attempts that failed, and connections lost */
    uint64_t cancels;
};

const struct pg_pool_figures *pg_pool_figures(struct pg_pool *pool);

#endif
