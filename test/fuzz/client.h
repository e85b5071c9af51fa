/*
 * client.h - what the fuzzers of the client share: a small database with pending edits, a server
 * that gives one answer, and what must hold afterwards, whatever that answer was.
 */
#ifndef FUZZ_CLIENT_H
#define FUZZ_CLIENT_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rowsync.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef rowsync_code (*Call)(rowsync *client, const rowsync_sync_options *options,
                             rowsync_report *report);

/* The server's one answer; every later request gets none. */
typedef struct Answer
{
    long status;
    const uint8_t *data;
    size_t length;
    size_t piece; /* it comes in pieces of so many bytes */
    int asked;
} Answer;

static sqlite3 *db;
static rowsync *client;
static Answer answer;

/* The transport. */
static rowsync_code
perform(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
        rowsync_response *response, const volatile int *cancelled)
{
    size_t at, length;

    (void)context;
    (void)request;
    (void)cancelled;
    response->retry_after = -1;
    if (answer.asked++ > 0)
        return ROWSYNC_NETWORK;
    response->status = answer.status;
    for (at = 0; at < answer.length; at += length)
    {
        /* A copy of its own, so that the sanitizer sees a read behind its end. */
        uint8_t *copy;
        int refused;

        length = answer.length - at < answer.piece ? answer.length - at : answer.piece;
        if ((copy = malloc(length)) == NULL)
            abort();
        memcpy(copy, answer.data + at, length);
        refused = sink(sink_context, copy, length);
        free(copy);
        if (refused != 0)
            return ROWSYNC_NETWORK;
    }
    return ROWSYNC_OK;
}

/* Everything that an answer may change, as one text, to be freed by sqlite3_free(). */
static char *
content(void)
{
    static sqlite3_stmt *statement;
    char *text;

    if (statement == NULL &&
        sqlite3_prepare_v2(
            db,
            "SELECT (SELECT group_concat(quote(id) || quote(a) || quote(b) || quote(c)) FROM t) ||"
            " coalesce((SELECT group_concat(quote(x) || quote(y) || quote(r)) FROM u), '') ||"
            " coalesce((SELECT group_concat(table_id || quote(pk) || change_id || base_version)"
            " FROM _sync_dirty), '') ||"
            " coalesce((SELECT group_concat(table_id || quote(pk) || server_version || deleted)"
            " FROM _sync_version), '') || (SELECT count(*) FROM _sync_held) ||"
            " (SELECT count(*) FROM _sync_rejected) || (SELECT count(*) FROM _sync_overwritten) ||"
            " (SELECT apply_mode || ',' || last_server_seq_seen || ',' || current_window_until ||"
            " ',' || hydrated || ',' || epoch FROM _sync_client_info)",
            -1, &statement, NULL) != SQLITE_OK)
        abort();
    if (sqlite3_step(statement) != SQLITE_ROW)
        abort();
    text = sqlite3_mprintf("%s", sqlite3_column_text(statement, 0));
    sqlite3_reset(statement);
    return text;
}

/* The tables of an app, tracked and attached, once a process. */
static void
make_database(void)
{
    static const rowsync_transport transport = {NULL, perform, NULL};
    static const rowsync_options options = {.transport = &transport};

    sqlite3_open(":memory:", &db);
    sqlite3_exec(db,
                 "PRAGMA foreign_keys = ON;"
                 "CREATE TABLE t (id TEXT PRIMARY KEY, a REAL, b BLOB UNIQUE, c JSON);"
                 "CREATE TABLE u (x INTEGER, y BLOB, r TEXT REFERENCES t, PRIMARY KEY (x, y))",
                 NULL, NULL, NULL);
    if (rowsync_open(db, &options, &client) != ROWSYNC_OK || rowsync_init(client) != ROWSYNC_OK ||
        rowsync_track(client, "t", NULL) != ROWSYNC_OK ||
        rowsync_track(client, "u", NULL) != ROWSYNC_OK ||
        rowsync_attach(client, "http://sync.test", "ann", "phone") != ROWSYNC_OK ||
        rowsync_set_token(client, "t") != ROWSYNC_OK)
        abort();
}

/* Puts the database back to its beginning, and into what `setup` makes of it. */
static void
restore(const char *setup)
{
    if (sqlite3_exec(db,
                     "UPDATE _sync_client_info SET apply_mode = 1, last_server_seq_seen = 4,"
                     " current_window_until = 0, hydrated = 2, epoch = 1; DELETE FROM u;"
                     "DELETE FROM t; DELETE FROM _sync_dirty; DELETE FROM _sync_version;"
                     "DELETE FROM _sync_held; DELETE FROM _sync_rejected;"
                     "DELETE FROM _sync_overwritten; UPDATE _sync_table SET policy = 0;"
                     "INSERT INTO t VALUES ('k', 1, NULL, NULL), ('l', 2, x'01', '{}'),"
                     " ('s', 3, x'02', '1'); INSERT INTO u VALUES (7, x'00', 'k');"
                     "INSERT INTO _sync_version VALUES (1, 'l', 2, 0), (1, 's', 3, 0);"
                     "INSERT INTO _sync_dirty (table_id, pk, change_id, queued, base_version,"
                     " changed) VALUES (1, 'k', 5, 5, 0, -1), (1, 'l', 6, 6, 2, 1),"
                     " (1, 'gone', 7, 7, 1, -1);"
                     "UPDATE _sync_client_info SET apply_mode = 0",
                     NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db, setup, NULL, NULL, NULL) != SQLITE_OK)
    {
        fprintf(stderr, "%s\n", sqlite3_errmsg(db));
        abort();
    }
}

/*
 * Gives `data` as the answer to the first request of `call`, with the database as `setup` leaves
 * it. No transaction may stay open; foreign keys hold; and a call that fails over its only answer
 * has changed nothing.
 */
static void
answer_with(Call call, const char *setup, long status, size_t piece, const uint8_t *data,
            size_t size)
{
    static const rowsync_sync_options once = {0, 0, 1};
    static const char *ready; /* the database is as this setup leaves it */
    static char *before;
    sqlite3_stmt *statement;
    char *after;
    rowsync_code code;
    bool changed;

    if (db == NULL)
        make_database();
    if (ready != setup)
    {
        restore(setup);
        sqlite3_free(before);
        before = content();
    }
    answer = (Answer){status, data, size, piece, 0};
    code = call(client, &once, NULL);
    after = content();
    changed = strcmp(before, after) != 0;
    if (!sqlite3_get_autocommit(db) || (code != ROWSYNC_OK && *rowsync_message(client) == '\0') ||
        (code != ROWSYNC_OK && answer.asked == 1 && changed))
    {
        fprintf(stderr, "%d %s\n%s\n%s\n", code, rowsync_message(client), before, after);
        abort();
    }
    sqlite3_free(after);
    ready = changed ? NULL : setup;
    if (!changed)
        return;
    sqlite3_prepare_v2(db, "PRAGMA foreign_key_check", -1, &statement, NULL);
    if (sqlite3_step(statement) != SQLITE_DONE)
        abort();
    sqlite3_finalize(statement);
}

#endif
