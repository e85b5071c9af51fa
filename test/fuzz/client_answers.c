/*
 * client_answers.c - libFuzzer on everything that the client reads from a server: statuses, pages
 * and the snapshot. The first byte picks which; the rest is the answer. Whatever comes, the
 * database stays sound and no transaction stays open.
 *
 *     make -C client-sqlite fuzz && build/fuzz/client_answers -max_total_time=600
 */
#include <sqlite3.h>
#include <stdint.h>
#include <stdlib.h>

#include "rowsync.h"

typedef struct Answer
{
    const uint8_t *data;
    size_t length;
    int given;
} Answer;

static rowsync_code
perform(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
        rowsync_response *response, const volatile int *cancelled)
{
    Answer *answer = context;

    (void)request;
    (void)cancelled;
    if (answer->given++ > 0)
        return ROWSYNC_NETWORK;
    response->status = 200;
    response->retry_after = -1;
    return sink(sink_context, answer->data, answer->length) == 0 ? ROWSYNC_OK : ROWSYNC_NETWORK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sqlite3 *db;
    static rowsync *client;
    static Answer answer;
    rowsync_transport transport = {&answer, perform, NULL};
    rowsync_options options = {.transport = &transport};
    rowsync_sync_options sync = {0, 0, 1};

    if (db == NULL)
    {
        sqlite3_open(":memory:", &db);
        sqlite3_exec(db,
                     "PRAGMA foreign_keys = ON;"
                     "CREATE TABLE t (id TEXT PRIMARY KEY, a REAL, b BLOB UNIQUE, c JSON);"
                     "CREATE TABLE u (x INTEGER, y BLOB, r TEXT REFERENCES t, PRIMARY KEY (x, y))",
                     NULL, NULL, NULL);
        if (rowsync_open(db, &options, &client) != ROWSYNC_OK ||
            rowsync_init(client) != ROWSYNC_OK || rowsync_track(client, "t", NULL) != ROWSYNC_OK ||
            rowsync_track(client, "u", NULL) != ROWSYNC_OK ||
            rowsync_attach(client, "http://sync.test", "ann", "phone") != ROWSYNC_OK ||
            rowsync_set_token(client, "t") != ROWSYNC_OK)
            abort();
    }
    if (size == 0)
        return 0;
    sqlite3_exec(db,
                 "UPDATE _sync_client_info SET apply_mode = 1, last_server_seq_seen = 0,"
                 " current_window_until = 0, hydrated = 2; DELETE FROM u; DELETE FROM t;"
                 "DELETE FROM _sync_dirty; DELETE FROM _sync_version; DELETE FROM _sync_held;"
                 "DELETE FROM _sync_rejected; INSERT INTO t VALUES ('k', 1, NULL, NULL);"
                 "INSERT INTO _sync_dirty VALUES (1, 'k', 5, 3, -1, NULL, NULL);"
                 "UPDATE _sync_client_info SET apply_mode = 0",
                 NULL, NULL, NULL);
    answer = (Answer){data + 1, size - 1, 0};
    if (data[0] % 3 == 0)
        rowsync_push(client, &sync, NULL);
    else if (data[0] % 3 == 1)
        rowsync_pull(client, &sync, NULL);
    else
    {
        sqlite3_exec(db, "UPDATE _sync_client_info SET hydrated = 0", NULL, NULL, NULL);
        rowsync_hydrate(client, &sync, NULL);
    }
    if (!sqlite3_get_autocommit(db))
        abort();
    return 0;
}
