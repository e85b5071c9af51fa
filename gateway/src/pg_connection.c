/*
 * pg_connection.c: how a connection to PostgreSQL begins and ends.
 *
 * h2o owns the descriptor that it polls and libpq owns its own, so the loop polls a duplicate.
 */
#include "pg_connection.h"
#include "log.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>

/* The back-off in milliseconds: after a first failure, and at most. */
#define RETRY_FIRST 20
#define RETRY_MOST 500

static void start_connecting(struct pg_connection *connection);

/* A pseudo-random number below `limit`, good enough to spread retries. */
static uint64_t
jitter(struct pg_pool *pool, uint64_t limit)
{
    return limit == 0 ? 0 : (uint64_t)rand_r(&pool->seed) % limit;
}

static void
on_retry(h2o_timeout_entry_t *entry)
{
    pg_connection_open_all(H2O_STRUCT_FROM_MEMBER(struct pg_pool, retry, entry));
}

/* Starts or keeps the timer that looks for connections to try again. */
static void
schedule_retry(struct pg_pool *pool)
{
    pool->retry.cb = on_retry;
    if (!pool->closed && !h2o_timeout_is_linked(&pool->retry))
        h2o_timeout_link(pool->loop, &pool->tick, &pool->retry);
}

void
pg_connection_open_all(struct pg_pool *pool)
{
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

void
pg_connection_drop(struct pg_connection *connection, enum pg_end end, bool failure)
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
        pg_pool_finish(job, end, NULL);
}

void
pg_connection_fail(struct pg_connection *connection, const char *what)
{
    struct pg_pool *pool = connection->pool;
    struct log_line line;

    if (log_enabled(LOG_WARNING) && (pool->failed_attempts == 0 || log_enabled(LOG_DEBUG)))
    {
        log_begin(&line, LOG_WARNING, what);
        log_string(&line, "pool", pool->options.name);
        log_string(&line, "message", PQerrorMessage(connection->pg));
        log_end(&line);
    }
    pg_connection_drop(connection, PG_END_LOST, true);
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

/* Says once that the gateway may do anything in the database: no grant or policy stops it. */
static void
warn_of_superuser(const PGconn *pg)
{
    static atomic_flag warned = ATOMIC_FLAG_INIT;
    const char *superuser = PQparameterStatus(pg, "is_superuser");

    if (superuser != NULL && strcmp(superuser, "on") == 0 && !atomic_flag_test_and_set(&warned))
        log_message(LOG_WARNING, "superuser",
                    "%s is a superuser: no GRANT and no policy holds for devices; give "
                    "database_url a role of its own (rowsync.grant_gateway)",
                    PQuser(pg));
}

/* A connection is established. */
static void
finish_connecting(struct pg_connection *connection)
{
    struct pg_pool *pool = connection->pool;

    h2o_timeout_unlink(&connection->timer);
    if (PQsetnonblocking(connection->pg, 1) != 0 || PQenterPipelineMode(connection->pg) != 1)
    {
        pg_connection_fail(connection, "database_connect_failed");
        return;
    }
    if (pool->failed_attempts != 0)
        log_message(LOG_INFO, "database_connected", "pool %s is connected again",
                    pool->options.name);
    warn_of_superuser(connection->pg);
    pool->failed_attempts = 0;
    pool->figures.connected++;
    pool->figures.connects++;
    pg_pipeline_listen(connection);
    pg_pool_ready(connection);
}

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
        pg_connection_fail(connection, "database_connect_failed");
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

    pg_connection_fail(connection, "database_connect_timeout");
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
        pg_connection_fail(connection, "database_connect_failed");
        return;
    }
    connection->timer.cb = on_connect_timeout;
    h2o_timeout_link(pool->loop, &pool->connect_timeout, &connection->timer);
    h2o_socket_notify_write(connection->socket, on_connect_event);
}
