/*
 * client.h - what the client's unit tests share: TAP, a database in memory, a transport that
 * answers from a list.
 */
#ifndef TEST_CLIENT_H
#define TEST_CLIENT_H

#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rowsync.h"

static int tap_count, tap_failed;

/* One test point. */
__attribute__((format(printf, 2, 3))) static inline bool
ok(bool right, const char *name, ...)
{
    va_list arguments;

    printf("%sok %d - ", right ? "" : "not ", ++tap_count);
    va_start(arguments, name);
    vprintf(name, arguments);
    va_end(arguments);
    puts("");
    tap_failed += !right;
    return right;
}

/* Compares text and shows both where they differ. */
static inline bool
is(const char *got, const char *wanted, const char *name)
{
    bool right = strcmp(got, wanted) == 0;

    ok(right, "%s", name);
    if (!right)
        printf("#      got: %s\n#   wanted: %s\n", got, wanted);
    return right;
}

/* Ends the program's TAP. */
static inline int
done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed > 0;
}

/* The library's own: takes in what the triggers have noted. */
rowsync_code capture_fold(rowsync *client);

static rowsync *opened; /* the client of the test */

/* Brings _sync_dirty up to date for SQL that names it: the tests look at the marks themselves. */
static inline void
fold_for(sqlite3 *db, const char *sql)
{
    bool own = sqlite3_get_autocommit(db);

    if (strstr(sql, "_sync_dirty") == NULL || opened == NULL)
        return;
    if (own)
        sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (capture_fold(opened) != ROWSYNC_OK)
        printf("# %s\n", rowsync_message(opened));
    if (own)
        sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
}

/* A database with what `sql` creates, rowsync's tables, and a client. */
static inline rowsync *
open_client(const char *sql, const rowsync_options *options, sqlite3 **db)
{
    rowsync *client;

    if (sqlite3_open(":memory:", db) != SQLITE_OK ||
        sqlite3_exec(*db, "PRAGMA foreign_keys = ON", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(*db, sql, NULL, NULL, NULL) != SQLITE_OK ||
        rowsync_open(*db, options, &client) != ROWSYNC_OK || rowsync_init(client) != ROWSYNC_OK)
    {
        printf("Bail out! %s\n", sqlite3_errmsg(*db));
        exit(1);
    }
    opened = client;
    return client;
}

static inline void
close_client(rowsync *client, sqlite3 *db)
{
    rowsync_close(client);
    opened = NULL;
    if (sqlite3_close(db) != SQLITE_OK)
    {
        printf("Bail out! the library left a statement open\n");
        exit(1);
    }
}

/* Runs the app's SQL; the answer is SQLite's code. */
static inline int
app(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement;
    int result = SQLITE_OK;

    while (result == SQLITE_OK && *sql != '\0')
    {
        const char *rest;

        result = sqlite3_prepare_v2(db, sql, -1, &statement, &rest);
        if (result != SQLITE_OK)
            break;
        if (statement != NULL)
            fold_for(db, sqlite3_sql(statement));
        while (statement != NULL && sqlite3_step(statement) == SQLITE_ROW)
            continue;
        result = sqlite3_finalize(statement) & 0xFF;
        sql = rest;
    }
    return result;
}

/* Collects the rows of a query as a,b,c|d,e,f in a buffer that the next call overwrites. */
static inline const char *
rows(sqlite3 *db, const char *sql)
{
    static char text[65536];
    sqlite3_stmt *statement;
    size_t length = 0;
    int i;

    text[0] = '\0';
    fold_for(db, sql);
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
        return sqlite3_errmsg(db);
    while (sqlite3_step(statement) == SQLITE_ROW)
        for (i = 0; i < sqlite3_column_count(statement) && length < sizeof(text) - 1; i++)
        {
            const char *value = (const char *)sqlite3_column_text(statement, i);

            length += (size_t)snprintf(text + length, sizeof(text) - length, "%s%s",
                                       i > 0        ? ","
                                       : length > 0 ? "|"
                                                    : "",
                                       value != NULL ? value : "NULL");
        }
    sqlite3_finalize(statement);
    return text;
}

/* Answers handed out one after the other, and what was asked. */
typedef struct Script
{
    const char *answers[16]; /* a body; one that begins with a digit: status, blank, body */
    int count;
    int asked;
    char request[65536];           /* the last body, or the URL of a GET */
    void (*before)(void *context); /* runs between request and answer */
    void *context;
} Script;

static inline rowsync_code
scripted(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
         rowsync_response *response, const volatile int *cancelled)
{
    Script *script = context;
    const char *answer;

    (void)cancelled;
    if (request->body != NULL)
        snprintf(script->request, sizeof(script->request), "%.*s", (int)request->body_length,
                 (const char *)request->body);
    else
        snprintf(script->request, sizeof(script->request), "%s", request->url);
    if (script->before != NULL)
        script->before(script->context);
    if (script->asked >= script->count)
    {
        snprintf(response->message, sizeof(response->message), "no answer left");
        return ROWSYNC_NETWORK;
    }
    answer = script->answers[script->asked++];
    response->status = 200;
    response->retry_after = -1;
    if (*answer >= '0' && *answer <= '9')
    {
        response->status = strtol(answer, NULL, 10);
        answer = strchr(answer, ' ') + 1;
    }
    return sink(sink_context, answer, strlen(answer)) == 0 ? ROWSYNC_OK : ROWSYNC_NOMEM;
}

/*
 * A device of ann's: a database with what `sql` creates, whose tables (up to NULL) are tracked as
 * `track` says.
 */
static inline rowsync *
open_attached(const char *sql, const char *const *tables, const rowsync_track_options *track,
              const rowsync_options *options, sqlite3 **db)
{
    rowsync *client = open_client(sql, options, db);

    for (; *tables != NULL; tables++)
        rowsync_track(client, *tables, track);
    rowsync_attach(client, "http://sync.test/", "ann", "phone");
    rowsync_set_token(client, "t");
    return client;
}

/* The same with the script, which begins anew, for a server. `options` without a transport. */
static inline rowsync *
open_scripted(const char *sql, const char *const *tables, const rowsync_track_options *track,
              rowsync_options options, Script *script, sqlite3 **db)
{
    const rowsync_transport transport = {script, scripted, NULL};

    memset(script, 0, sizeof(*script));
    options.transport = &transport;
    return open_attached(sql, tables, track, &options, db);
}

#endif
