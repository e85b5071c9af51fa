/*
 * notes.c - a notes app: everything works offline, `notes FILE sync` brings it in step.
 *
 *     cc notes.c -o notes $(pkg-config --cflags --libs rowsync)
 *     ./notes my.db setup http://127.0.0.1:8080 ann
 *     ./notes my.db add "Buy milk"
 *     ROWSYNC_TOKEN=... ./notes my.db sync
 *     ./notes my.db list
 *     ./notes my.db done 1
 */
#include <rowsync.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Keys are made on the device, so that no two devices make the same. */
static const char schema[] =
    "CREATE TABLE IF NOT EXISTS notes ("
    " id TEXT PRIMARY KEY NOT NULL DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2))"
    "  || '-4' || substr(hex(randomblob(2)), 2) || '-8' || substr(hex(randomblob(2)), 2) || '-'"
    "  || hex(randomblob(6)))),"
    " body TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0)";

/* Says what the library has to say of a failure. */
static int
sync_failed(const rowsync *client)
{
    fprintf(stderr, "%s\n  %s\n", rowsync_message(client), rowsync_hint(client));
    return 1;
}

/* Once: the table, what rowsync needs, and whose notes these are. */
static int
setup(sqlite3 *db, rowsync *client, const char *url, const char *user)
{
    if (sqlite3_exec(db, schema, NULL, NULL, NULL) != SQLITE_OK)
    {
        fprintf(stderr, "%s\n", sqlite3_errmsg(db));
        return 1;
    }
    if (rowsync_init(client) != ROWSYNC_OK || rowsync_track(client, "notes", NULL) != ROWSYNC_OK ||
        rowsync_attach(client, url, user, NULL) != ROWSYNC_OK)
        return sync_failed(client);
    return 0;
}

/* Runs a statement with one text value: plain SQL is all that the app's own work takes. */
static int
run(sqlite3 *db, const char *sql, const char *value)
{
    sqlite3_stmt *statement = NULL;
    int result = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);

    if (result == SQLITE_OK)
    {
        sqlite3_bind_text(statement, 1, value, -1, SQLITE_STATIC);
        sqlite3_step(statement);
        result = sqlite3_finalize(statement);
    }
    if (result != SQLITE_OK)
        fprintf(stderr, "%s\n", sqlite3_errmsg(db));
    return result != SQLITE_OK;
}

/* Prints the notes with their place in the list. */
static int
list(sqlite3 *db)
{
    sqlite3_stmt *statement = NULL;
    int place = 0;

    if (sqlite3_prepare_v2(db, "SELECT body, done FROM notes ORDER BY body, id", -1, &statement,
                           NULL) != SQLITE_OK)
    {
        fprintf(stderr, "%s\n", sqlite3_errmsg(db));
        return 1;
    }
    while (sqlite3_step(statement) == SQLITE_ROW)
        printf("%d [%s] %s\n", ++place, sqlite3_column_int(statement, 1) ? "x" : " ",
               (const char *)sqlite3_column_text(statement, 0));
    sqlite3_finalize(statement);
    return 0;
}

/* Up with what was done here, down with what was done elsewhere. */
static int
synchronize(rowsync *client)
{
    rowsync_report report;

    if (rowsync_set_token(client, getenv("ROWSYNC_TOKEN")) != ROWSYNC_OK ||
        rowsync_sync(client, NULL, &report) != ROWSYNC_OK)
        return sync_failed(client);
    printf("%lld up, %lld down, %lld rejected\n", (long long)report.uploaded,
           (long long)report.downloaded, (long long)report.rejected);
    return 0;
}

int
main(int argc, char **argv)
{
    const char *command = argc > 2 ? argv[2] : "";
    sqlite3 *db = NULL;
    rowsync *client = NULL;
    int result = 2;

    if (argc < 3 || sqlite3_open(argv[1], &db) != SQLITE_OK)
        fprintf(stderr, "usage: notes FILE setup URL USER | add TEXT | done PLACE | list | sync\n");
    else if (rowsync_open(db, NULL, &client) != ROWSYNC_OK)
        result = sync_failed(client);
    else if (strcmp(command, "setup") == 0 && argc == 5)
        result = setup(db, client, argv[3], argv[4]);
    else if (strcmp(command, "add") == 0 && argc == 4)
        result = run(db, "INSERT INTO notes (body) VALUES (?1)", argv[3]);
    else if (strcmp(command, "done") == 0 && argc == 4)
        result = run(db,
                     "UPDATE notes SET done = 1 WHERE id = (SELECT id FROM notes"
                     " ORDER BY body, id LIMIT 1 OFFSET CAST(?1 AS INTEGER) - 1)",
                     argv[3]);
    else if (strcmp(command, "list") == 0)
        result = list(db);
    else if (strcmp(command, "sync") == 0)
        result = synchronize(client);
    else
        fprintf(stderr, "notes: there is no such command\n");
    rowsync_close(client);
    sqlite3_close(db);
    return result;
}
