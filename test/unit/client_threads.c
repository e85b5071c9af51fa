/*
 * client_threads.c - what the library promises to threads: a call is broken off from another one,
 * handles of their own do not disturb each other, and one handle may be handed on. Built with
 * ThreadSanitizer, which ends the program with a failure when memory is shared without order.
 */
#include "client.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

static void
nap(long milliseconds)
{
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};

    nanosleep(&time, NULL);
}

/* A server that hangs, that is down, or that has rows without end. */
typedef enum Habit
{
    HANGS,
    DOWN,
    ENDLESS,
    ANSWERS
} Habit;

static int started; /* a request is under way */

static rowsync_code
perform(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
        rowsync_response *response, const volatile int *cancelled)
{
    static const char header[] = "{\"seq\":1,\"tables\":[{\"schema\":\"public\",\"table\":\"t\","
                                 "\"key\":[\"id\"],\"columns\":"
                                 "[\"id\"]}]}\n";
    static const char nothing[] =
        "{\"changes\":[],\"has_more\":false,\"next_after\":0,\"window_until\":0}";
    Habit habit = *(Habit *)context;
    char line[64];
    int i;

    response->status = 200;
    response->retry_after = -1;
    __atomic_store_n(&started, 1, __ATOMIC_RELEASE);
    if (habit == ANSWERS && strstr(request->url, "snapshot") != NULL)
        response->status = 404;
    if (habit == ANSWERS)
        return sink(sink_context, nothing, strlen(nothing)) == 0 ? ROWSYNC_OK : ROWSYNC_NETWORK;
    if (habit == DOWN)
        return ROWSYNC_NETWORK;
    if (habit == ENDLESS && sink(sink_context, header, strlen(header)) != 0)
        return ROWSYNC_NETWORK;
    for (i = 1; !rowsync_cancelled(cancelled); i++)
        if (habit == HANGS)
            nap(1);
        else if (sink(sink_context, line,
                      (size_t)snprintf(line, sizeof(line), "[0,%d,\"%d\"]\n", i, i)) != 0)
            return ROWSYNC_NETWORK;
    return ROWSYNC_CANCELLED;
}

static void *
cancel_soon(void *client)
{
    while (!__atomic_load_n(&started, __ATOMIC_ACQUIRE))
        nap(1);
    nap(20);
    rowsync_cancel(client);
    return NULL;
}

static void
test_cancel(void)
{
    static const char *const names[] = {"a request", "a pause between two tries", "a hydration"};
    Habit habit;

    for (habit = HANGS; habit <= ENDLESS; habit++)
    {
        rowsync_transport transport = {&habit, perform, NULL};
        rowsync_options options = {.transport = &transport};
        rowsync_sync_options sync = {0, 0, 1000};
        sqlite3 *db;
        rowsync *client = open_client("CREATE TABLE t (id TEXT PRIMARY KEY)", &options, &db);
        pthread_t thread;

        rowsync_track(client, "t", NULL);
        rowsync_attach(client, "http://sync.test", "ann", "phone");
        rowsync_set_token(client, "t");
        started = 0;
        pthread_create(&thread, NULL, cancel_soon, client);
        ok(rowsync_sync(client, &sync, NULL) == ROWSYNC_CANCELLED, "%s is broken off",
           names[habit]);
        pthread_join(thread, NULL);
        is(rowsync_message(client), "The call was cancelled.", "and the call says so");
        is(rows(db, "SELECT (SELECT count(*) FROM t), hydrated FROM _sync_client_info"), "0,0",
           "nothing of it is left");
        close_client(client, db);
    }
}

static char path[] = "/tmp/rowsync-threads-XXXXXX";

/* An app's thread with a connection of its own: writes, pushes, looks. */
static void *
work(void *name)
{
    Habit habit = ANSWERS;
    rowsync_transport transport = {&habit, perform, NULL};
    rowsync_options options = {.transport = &transport};
    sqlite3 *db;
    rowsync *client;
    rowsync_state state;
    char sql[128];
    int i;
    intptr_t failures = 0;

    if (sqlite3_open(path, &db) != SQLITE_OK || sqlite3_busy_timeout(db, 60000) != SQLITE_OK ||
        rowsync_open(db, &options, &client) != ROWSYNC_OK)
        return (void *)1;
    rowsync_set_token(client, "t");
    for (i = 0; i < 20; i++)
    {
        snprintf(sql, sizeof(sql), "INSERT INTO t VALUES ('%s %d')", (const char *)name, i);
        failures += app(db, sql) != SQLITE_OK;
        failures += rowsync_pull(client, NULL, NULL) != ROWSYNC_OK;
        failures += rowsync_get_state(client, &state) != ROWSYNC_OK;
    }
    rowsync_close(client);
    failures += sqlite3_close(db) != SQLITE_OK;
    return (void *)failures;
}

static void
test_handles_of_their_own(void)
{
    static const char *const names[] = {"a", "b", "c"};
    pthread_t threads[3];
    rowsync *client;
    sqlite3 *db;
    void *failures;
    int i;

    close(mkstemp(path));
    sqlite3_open(path, &db);
    app(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; CREATE TABLE t (id TEXT PRIMARY"
            " KEY)");
    rowsync_open(db, NULL, &client);
    rowsync_init(client);
    rowsync_track(client, "t", NULL);
    rowsync_attach(client, "http://sync.test", "ann", "phone");
    for (i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, work, (void *)names[i]);
    for (i = 0; i < 3; i++)
    {
        pthread_join(threads[i], &failures);
        ok(failures == NULL, "thread %s: %d failures", names[i], (int)(intptr_t)failures);
    }
    is(rows(db, "SELECT count(*), (SELECT count(*) FROM _sync_pending) FROM t"), "60,60",
       "every edit of every thread is captured");
    close_client(client, db);
    unlink(path);
}

/* A handle that is handed on. */
static struct Shared
{
    pthread_mutex_t mutex; /* the app's: who has it, has the handle */
    pthread_cond_t changed;
    int turn;
    sqlite3 *db;
    rowsync *client;
} shared = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, NULL, NULL};

/* One of the threads that the handle goes round. */
static void *
take_turns(void *number)
{
    intptr_t failures = 0;
    rowsync_state state;
    char sql[64];
    int i;

    for (i = 0; i < 10; i++)
    {
        pthread_mutex_lock(&shared.mutex);
        while (shared.turn % 3 != (int)(intptr_t)number)
            pthread_cond_wait(&shared.changed, &shared.mutex);
        snprintf(sql, sizeof(sql), "INSERT INTO t VALUES ('%d')", shared.turn);
        failures += app(shared.db, sql) != SQLITE_OK;
        failures += rowsync_pull(shared.client, NULL, NULL) != ROWSYNC_OK;
        failures += rowsync_get_state(shared.client, &state) != ROWSYNC_OK;
        failures += state.pending != shared.turn + 1;
        shared.turn++;
        pthread_cond_broadcast(&shared.changed);
        pthread_mutex_unlock(&shared.mutex);
    }
    return (void *)failures;
}

/* One after the other, any thread may use a handle, however SQLite guards the connection. */
static void
test_turns(int flags, const char *mode)
{
    Habit habit = ANSWERS;
    rowsync_transport transport = {&habit, perform, NULL};
    rowsync_options options = {.transport = &transport};
    pthread_t threads[3];
    void *failures;
    int i;

    sqlite3_open_v2(":memory:", &shared.db, SQLITE_OPEN_READWRITE | flags, NULL);
    app(shared.db, "CREATE TABLE t (id TEXT PRIMARY KEY)");
    rowsync_open(shared.db, &options, &shared.client);
    rowsync_init(shared.client);
    rowsync_track(shared.client, "t", NULL);
    rowsync_attach(shared.client, "http://sync.test", "ann", "phone");
    rowsync_set_token(shared.client, "t");
    shared.turn = 0;
    for (i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, take_turns, (void *)(intptr_t)i);
    for (i = 0; i < 3; i++)
    {
        pthread_join(threads[i], &failures);
        ok(failures == NULL, "%s: thread %d has the handle ten times", mode, i);
    }
    close_client(shared.client, shared.db);
}

int
main(void)
{
    test_cancel();
    test_handles_of_their_own();
    test_turns(SQLITE_OPEN_FULLMUTEX, "serialized");
    test_turns(SQLITE_OPEN_NOMUTEX, "multi-thread");
    return done();
}
