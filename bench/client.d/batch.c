/*
 * batch.c - what a batch of changes costs on the device: building the request, and taking its
 * answer in.
 *
 *     batch FOLDER ROUNDS
 *
 * The server answers from memory, and its time is taken off. The floor does to the same rows the
 * least that SQLite needs: reads the row, moves its version, removes its mark.
 */
#include "client.h"

#include <unistd.h>

#define ROWS 10000
#define CHANGES 1000

static User *users;

/* The i-th row that the round is about. */
static const User *
user(int round, int i)
{
    return &users[(round * CHANGES + i) * 7919 % ROWS];
}

/* Edits the rows that the round is about. */
static void
edit(sqlite3 *db, int round)
{
    sqlite3_stmt *statement = prepare(
        db, "UPDATE users SET name = 'Edit ' || ?2, updated_at = updated_at + 1 WHERE id = ?1");
    int i;

    run(db, "BEGIN");
    for (i = 0; i < CHANGES; i++)
    {
        sqlite3_bind_text(statement, 1, user(round, i)->id, -1, SQLITE_STATIC);
        sqlite3_bind_int(statement, 2, round + i);
        step(statement);
    }
    run(db, "COMMIT");
    sqlite3_finalize(statement);
}

/* The floor, in seconds. Its tables stand beside the library's, and hold the same. */
static double
floor_of(sqlite3 *db, int round)
{
    sqlite3_stmt *row = prepare(db, "SELECT id, name, updated_at FROM users WHERE id = ?1");
    sqlite3_stmt *move = prepare(db, "UPDATE bench_version SET version = ?2 WHERE id = ?1");
    sqlite3_stmt *clear = prepare(db, "DELETE FROM bench_mark WHERE id = ?1");
    double took;
    int i;

    run(db, "INSERT INTO bench_mark SELECT pk_uuid FROM _sync_pending");
    took = -now(CPU);
    run(db, "BEGIN");
    for (i = 0; i < CHANGES; i++)
    {
        const char *id = user(round, i)->id;

        sqlite3_bind_text(row, 1, id, -1, SQLITE_STATIC);
        if (sqlite3_step(row) != SQLITE_ROW)
            die("a row is gone");
        sqlite3_reset(row);
        sqlite3_bind_text(move, 1, id, -1, SQLITE_STATIC);
        sqlite3_bind_int(move, 2, round);
        step(move);
        sqlite3_bind_text(clear, 1, id, -1, SQLITE_STATIC);
        step(clear);
    }
    run(db, "COMMIT");
    took += now(CPU);
    sqlite3_finalize(row);
    sqlite3_finalize(move);
    sqlite3_finalize(clear);
    return took;
}

int
main(int argc, char **argv)
{
    rowsync_sync_options options;
    rowsync_report report;
    Server server = {0};
    rowsync *client;
    sqlite3 *db;
    char path[4096];
    int round;

    if (argc != 3)
        die("usage: batch FOLDER ROUNDS");
    snprintf(path, sizeof(path), "%s/batch.db", argv[1]);
    users = make_users(ROWS);
    db = create(path, 0);
    fill(db, users, ROWS);
    client = sync_first(db, &server);
    run(db, "CREATE TABLE bench_version (id TEXT PRIMARY KEY, version INTEGER) WITHOUT ROWID;"
            "INSERT INTO bench_version SELECT id, 0 FROM users ORDER BY id;"
            "CREATE TABLE bench_mark (id TEXT PRIMARY KEY) WITHOUT ROWID");
    memset(&options, 0, sizeof(options));
    options.batch_size = CHANGES;
    for (round = 0; round < atoi(argv[2]); round++)
    {
        double floor, began, ended;

        edit(db, round);
        run(db, "PRAGMA wal_checkpoint(TRUNCATE)");
        floor = floor_of(db, round);
        run(db, "PRAGMA wal_checkpoint(TRUNCATE)");
        server.spent = 0;
        memset(&report, 0, sizeof(report));
        began = now(CPU);
        need(client, rowsync_push(client, &options, &report));
        ended = now(CPU);
        if (report.applied != CHANGES || report.rounds != 1)
            die("%lld changes were applied", (long long)report.applied);
        printf("{\"count\": %d, \"floor\": %.9f, \"build\": %.9f, \"acknowledge\": %.9f}\n",
               CHANGES, floor, server.entered - began, ended - server.entered - server.spent);
        fflush(stdout);
    }
    rowsync_close(client);
    if (sqlite3_close(db) != SQLITE_OK)
        die("a statement was left open");
    unlink(path);
    free(users);
    free(server.request);
    free(server.answer);
    return 0;
}
