/*
 * client_app.c - what the app may be in the middle of when it calls, and what it may do on the same
 * connection while a request is under way: nothing is damaged, and the call says what was wrong.
 */
#include "client_calls.h"

/* A call inside the app's transaction is refused, and the transaction is as if it had not been. */
static void
test_transaction(void)
{
    static const char *const begins[] = {"BEGIN", "BEGIN IMMEDIATE", "SAVEPOINT theirs"};
    static const char *const ends[] = {"COMMIT", "ROLLBACK", "RELEASE theirs"};
    size_t i, j;

    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
    {
        Image image;
        int wrong = 0;

        if (only_looks(&calls[i]))
            continue;
        image = make_image(&calls[i]);
        for (j = 0; j < sizeof(begins) / sizeof(*begins); j++)
        {
            sqlite3 *db = open_image(&image), *same = open_image(&image);
            char *left, *wanted;
            rowsync *client;

            app(db, begins[j]);
            app(db, "INSERT INTO users VALUES ('theirs', 'T', 9)");
            rowsync_open(db, &peer_options, &client);
            wrong += calls[i].run(client) != ROWSYNC_MISUSE ||
                     strcmp(rowsync_hint(client), "Commit or roll back first.") != 0 ||
                     sqlite3_get_autocommit(db);
            rowsync_close(client);
            wrong += app(db, ends[j]) != SQLITE_OK;
            if (strcmp(ends[j], "ROLLBACK") != 0)
                app(same, "INSERT INTO users VALUES ('theirs', 'T', 9)");
            left = content(db);
            wanted = content(same);
            wrong += strcmp(left, wanted) != 0;
            sqlite3_free(left);
            sqlite3_free(wanted);
            wrong += sqlite3_close(db) != SQLITE_OK;
            sqlite3_close(same);
        }
        ok(wrong == 0, "%s in the app's transaction is refused, and does no harm", calls[i].name);
        sqlite3_free(image.bytes);
    }
}

/* A query that the app has not read to its end. */
static sqlite3_stmt *reading;

static void
read_one(void *context, sqlite3 *db, long at)
{
    (void)at;
    if (sqlite3_prepare_v2(db, context, -1, &reading, NULL) == SQLITE_OK)
        sqlite3_step(reading);
}

/* It goes on, or is told that it cannot; and that it was there is all that must hold. */
static bool
read_on(void *context, sqlite3 *db)
{
    (void)context;
    (void)db;
    while (sqlite3_step(reading) == SQLITE_ROW)
        continue;
    sqlite3_finalize(reading);
    return true;
}

/* No call need fail for it. */
static bool
never(void *context, rowsync_code code)
{
    (void)context;
    (void)code;
    return false;
}

static void
test_open_query(void)
{
    static const char *const queries[] = {
        "SELECT * FROM users", "SELECT * FROM posts ORDER BY u", "SELECT * FROM sqlite_schema",
        "SELECT * FROM _sync_pending", "SELECT * FROM _sync_row_meta"};
    size_t i, j;

    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
    {
        Image image = make_image(&calls[i]);
        char *wanted = undisturbed(&calls[i], &image, &peer_options);
        Tally tally = {0};

        for (j = 0; j < sizeof(queries) / sizeof(*queries); j++)
        {
            const Failure failure = {queries[j], NULL,  read_one,
                                     read_on,    never, (void *)(uintptr_t)queries[j]};

            run_once(&calls[i], &image, &peer_options, &failure, 0, wanted, &tally);
        }
        told(&tally, calls[i].name, "queries half read");
        sqlite3_free(wanted);
        sqlite3_free(image.bytes);
    }
}

/* Changes of the schema between a request and its answer. */
static void
test_schema(void)
{
    static const char *const changes[] = {
        "ALTER TABLE users ADD y TEXT DEFAULT 'y'",
        "CREATE INDEX users_n ON users (n)",
        "DROP VIEW _sync_pending; ALTER TABLE users RENAME TO people",
        "DROP VIEW _sync_pending; ALTER TABLE posts RENAME u TO author",
        "DROP TABLE posts",
        "PRAGMA foreign_keys = OFF; DROP TABLE users; PRAGMA foreign_keys = ON",
        "DROP TABLE posts; CREATE TABLE posts (a TEXT, b TEXT, PRIMARY KEY (a, b))",
        "DROP TABLE posts; CREATE VIEW posts AS SELECT 1 AS id, 2 AS u",
        "DROP TRIGGER _sync_users_insert; DROP TRIGGER _sync_users_delete",
        "DROP TABLE _sync_dirty",
        "DROP TABLE _sync_client_info",
    };
    size_t i, j;
    int at;

    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
    {
        Image image = make_image(&calls[i]);
        int wrong = 0;

        for (j = 0; calls[i].requests && j < sizeof(changes) / sizeof(*changes); j++)
            for (at = 1; at <= 4; at++)
            {
                sqlite3 *db = open_image(&image);
                rowsync *client;
                rowsync_code code;

                peer.app = db;
                peer.meanwhile = changes[j];
                peer.meanwhile_at = at;
                rowsync_open(db, &peer_options, &client);
                code = calls[i].run(client);
                if (code != ROWSYNC_OK && code != ROWSYNC_DATABASE && code != ROWSYNC_SCHEMA &&
                    code != ROWSYNC_UNINITIALIZED &&
                    !(code == ROWSYNC_DIFFERENT && calls[i].run == call_compare))
                    wrong++;
                if (!sqlite3_get_autocommit(db) ||
                    strcmp(rows(db, "PRAGMA integrity_check"), "ok") != 0)
                    wrong++;
                if (strcmp(rows(db, "SELECT apply_mode FROM _sync_client_info"), "1") == 0)
                    wrong++;
                if (wrong)
                {
                    printf("# %s: %s: %s\n", changes[j], rowsync_code_name(code),
                           rowsync_message(client));
                    wrong = 100;
                }
                code = calls[i].run(client);
                /* A new column is filled from the peer's snapshot, which does not grow with it. */
                if (j < 2 && code != ROWSYNC_OK &&
                    !(code == ROWSYNC_DIFFERENT && calls[i].run == call_compare))
                    wrong++;
                if (code != ROWSYNC_OK &&
                    (*rowsync_message(client) == '\0' || *rowsync_hint(client) == '\0'))
                    wrong++;
                rowsync_close(client);
                wrong += sqlite3_close(db) != SQLITE_OK;
            }
        if (calls[i].requests)
            ok(wrong == 0, "%s while the schema changes", calls[i].name);
        sqlite3_free(image.bytes);
    }
}

/* A tracked table that is none any more: nothing is sent, nothing passes it by. */
static void
test_lost(void)
{
    static const struct
    {
        const char *sql, *message;
    } cases[] = {
        {"DROP TABLE posts", "The tracked table \"posts\" is gone."},
        {"DROP TABLE posts; CREATE TABLE posts (id BLOB, u TEXT)",
         "The tracked table \"posts\" has lost its primary key."},
        {"DROP TABLE posts; CREATE VIEW posts AS SELECT x'00' AS id, 'u' AS u",
         "The tracked table \"posts\" has lost its primary key."},
    };
    size_t i, j;

    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
        for (j = 0; j < sizeof(cases) / sizeof(*cases); j++)
        {
            Image image = make_image(&calls[i]);
            sqlite3 *db = open_image(&image);
            rowsync *client;
            rowsync_code code;

            app(db, cases[j].sql);
            rowsync_open(db, &peer_options, &client);
            code = calls[i].run(client);
            if (calls[i].requests || calls[i].run == call_verify)
                ok(code == ROWSYNC_SCHEMA && peer.requests == 0 &&
                       strcmp(rowsync_message(client), cases[j].message) == 0,
                   "%s: %s", calls[i].name, rowsync_message(client));
            else
                ok(code == ROWSYNC_OK || *rowsync_hint(client) != '\0', "%s: %s", calls[i].name,
                   rowsync_code_name(code));
            rowsync_close(client);
            ok(sqlite3_close(db) == SQLITE_OK, "and nothing is left");
            sqlite3_free(image.bytes);
        }
}

/*
 * TEMP tables, and those of an attached database, that are named as the app's tracked tables and
 * rowsync's own are: what a call does is done in the database alone.
 */
static void
test_shadowed(void)
{
    static const char *const names[] = {
        "users",          "posts",        "_sync_client_info", "_sync_table",
        "_sync_version",  "_sync_dirty",  "_sync_log",         "_sync_edited",
        "_sync_rejected", "_sync_held",   "_sync_overwritten", "_sync_row_meta",
        "_sync_conflict", "_sync_pending"};
    static const char *const schemas[] = {"temp", "other"};
    const size_t count = sizeof(names) / sizeof(*names);
    size_t i, j, k;

    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
    {
        Image image = make_image(&calls[i]);
        char *wanted = undisturbed(&calls[i], &image, &peer_options), *found, *sql;
        sqlite3 *db = open_image(&image);
        rowsync *client;
        int touched = 0;

        app(db, "ATTACH ':memory:' AS other");
        for (j = 0; j < count; j++)
            for (k = 0; k < 2; k++)
            {
                sql = sqlite3_mprintf("CREATE TABLE %s.%s (id, theirs); INSERT INTO %s.%s VALUES"
                                      " ('u02', 'theirs')",
                                      schemas[k], names[j], schemas[k], names[j]);
                must(app(db, sql) == SQLITE_OK, sql, db);
                sqlite3_free(sql);
            }
        rowsync_open(db, &peer_options, &client);
        if (!ok(calls[i].run(client) == ROWSYNC_OK, "%s with tables of the same names elsewhere",
                calls[i].name))
            printf("# %s\n", rowsync_message(client));
        rowsync_close(client);
        touched += strcmp(rows(db, "SELECT count(*) FROM temp.sqlite_schema WHERE type <> 'table'"
                                   " AND name NOT LIKE 'sqlite_autoindex%'"),
                          "0") != 0;
        for (j = 0; j < count; j++)
            for (k = 0; k < 2; k++)
            {
                sql = sqlite3_mprintf("SELECT id || theirs || count(*) FROM %s.%s", schemas[k],
                                      names[j]);
                touched += strcmp(rows(db, sql), "u02theirs1") != 0;
                sqlite3_free(sql);
                sql = sqlite3_mprintf("DROP TABLE %s.%s", schemas[k], names[j]);
                app(db, sql);
                sqlite3_free(sql);
            }
        found = content(db);
        if (!ok(strcmp(found, wanted) == 0, "does what it does without them"))
            printf("# got\n%s\n# wanted\n%s\n", found, wanted);
        ok(touched == 0, "and leaves them alone");
        app(db, "UPDATE users SET n = 7");
        is(rows(db, "SELECT NOT EXISTS (SELECT 1 FROM users) OR EXISTS (SELECT 1 FROM _sync_log)"),
           "1", "and edits are captured");
        sqlite3_free(found);
        sqlite3_free(wanted);
        sqlite3_close(db);
        sqlite3_free(image.bytes);
    }
}

/* The connection is the app's to close, after the client; what happens where it is not. */
static void
test_close(void)
{
    Image image = make_image(call_named("sync"));
    sqlite3 *db = open_image(&image);
    rowsync *client;

    rowsync_open(db, &peer_options, &client);
    call_sync(client);
    ok(sqlite3_close(db) == SQLITE_BUSY, "a connection with a client is not closed");
    ok(call_sync(client) == ROWSYNC_OK, "and goes on");
    ok(sqlite3_close_v2(db) == SQLITE_OK, "one that is to be closed when nobody needs it");
    rowsync_close(client);
    ok(of_library.held == 0, "goes with the client");
    sqlite3_free(image.bytes);
}

int
main(void)
{
    take_over();
    test_transaction();
    test_open_query();
    test_schema();
    test_lost();
    test_shadowed();
    test_close();
    return done();
}
