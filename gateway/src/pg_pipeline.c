/*
 * pg_pipeline.c: one job on one connection.
 *
 * A job is one libpq pipeline: session settings, the statement, one Sync. That is one round trip
 * and one implicit transaction, after which the settings are gone. The job counts as done only when
 * the Sync is answered: an error at commit comes after the statement's result.
 */
#include "pg_connection.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define SETTINGS                                                                                   \
    "SELECT pg_catalog.set_config('request.jwt.claims', $1, true),"                                \
    " pg_catalog.set_config('application_name', $2, true),"                                        \
    " pg_catalog.set_config('statement_timeout', $3, true)"

static const struct pg_statement settings = {"rowsync_settings", SETTINGS, 0, 3};

/* The same, and the role. */
static const struct pg_statement settings_and_role = {
    "rowsync_settings_role", SETTINGS ", pg_catalog.set_config('role', $4, true)", 11, 4};

static void send_job(struct pg_connection *connection);

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
    if (answer != NULL)
        connection->carried += PQresultMemorySize(answer);
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
        pg_pool_settle(connection);
        return;
    }
    /* The connection first: `done` may submit the next job, which then finds it free. */
    pg_pool_settle(connection);
    pg_pool_finish(job, end, answer);
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

/* Is this an answer that our statements can have? libpq would give out another again and again. */
static bool
is_answer(const PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);

    return status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK || status == PGRES_FATAL_ERROR ||
           status == PGRES_PIPELINE_ABORTED;
}

void
pg_pipeline_continue(struct pg_connection *connection)
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
        else if (is_answer(result))
            take_result(connection, result);
        else
        {
            PQclear(result);
            connection->step = ENDS_MAX + 1;
            break;
        }
    }
    if (PQstatus(connection->pg) == CONNECTION_BAD || connection->step > ENDS_MAX)
        pg_connection_fail(connection, "database_connection_lost");
}

/* Reads what has come. */
static void
on_readable(h2o_socket_t *socket, const char *error)
{
    struct pg_connection *connection = socket->data;

    (void)error;
    if (PQconsumeInput(connection->pg) == 0)
    {
        pg_connection_fail(connection, "database_connection_lost");
        return;
    }
    pg_pipeline_continue(connection);
}

void
pg_pipeline_listen(struct pg_connection *connection)
{
    connection->resting = false;
    h2o_socket_read_start(connection->socket, on_readable);
}

void
pg_job_resume(struct pg_job *job)
{
    struct pg_connection *connection = job->connection;

    if (job->state != PG_JOB_RUNNING || !connection->resting)
        return;
    pg_pipeline_listen(connection);
    pg_pipeline_continue(connection);
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

void
pg_pipeline_begin(struct pg_connection *connection)
{
    const struct pg_job *job = connection->job;

    connection->statement = job->statement;
    connection->settings = job->role == NULL ? &settings : &settings_and_role;
    connection->resting = false;
    connection->carried = 0;
    for (int i = 0; i < job->statement->parameters; i++)
        connection->carried += job->formats[i] == 1 ? (size_t)job->lengths[i] : 0;
    send_job(connection);
}
