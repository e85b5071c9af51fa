/*
 * client_schema.c - another connection changes the schema, or what is tracked, while a handle is
 * open: between its calls, before any of their requests, and where they tell how far they have
 * come. The handle notices, its triggers follow, and no failure stays.
 */
#include <unistd.h>

#include "client_peer.h"

static sqlite3 *db, *other;
static rowsync *client;
static char folder[] = "/tmp/rowsync-schema-XXXXXX";

/* When the change is made. */
typedef enum Moment
{
    BEFORE_CALL,
    IN_REQUEST, /* of that number */
    IN_PROGRESS /* told for that time */
} Moment;

/* What is changed, what the app writes then, and what must be sent of it. */
typedef struct Change
{
    const char *name;
    const char *sql;
    void (*make)(void);
    const char *then, *sent;
} Change;

static const Change *change;
static int at, requests, told;
static Moment moment;
static bool made;
static char sent[65536];

/* Makes the change, once; the database may be held by the call at that moment. */
static void
make_change(void)
{
    if (made)
        return;
    if (change->sql != NULL &&
        (app(other, "BEGIN IMMEDIATE") != SQLITE_OK || app(other, change->sql) != SQLITE_OK ||
         app(other, "COMMIT") != SQLITE_OK))
    {
        printf("# %s\n", sqlite3_errmsg(other));
        app(other, "ROLLBACK");
        return;
    }
    if (change->make != NULL)
        change->make();
    made = true;
}

/* The peer, and the change before it is asked. */
static rowsync_code
interrupted(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
            rowsync_response *response, const volatile int *cancelled)
{
    if (++requests == at && moment == IN_REQUEST)
        make_change();
    if (request->body != NULL)
        snprintf(sent + strlen(sent), sizeof(sent) - strlen(sent), "%s", text_of(request));
    return perform(context, request, sink, sink_context, response, cancelled);
}

static int
progress(void *context, const char *phase, int64_t done_rows, int64_t total, int64_t bytes)
{
    (void)context;
    (void)phase;
    (void)done_rows;
    (void)total;
    (void)bytes;
    if (++told == at && moment == IN_PROGRESS)
        make_change();
    return 0;
}

/* Another process, with a handle of its own. */
static rowsync *
second(void)
{
    rowsync *own;

    rowsync_open(other, NULL, &own);
    return own;
}

/* It tracks a table in place of another one, which may get the number that that had. */
static void
track_another(void)
{
    rowsync *own = second();

    rowsync_untrack(own, "posts", 1);
    rowsync_track(own, "tags", NULL);
    rowsync_close(own);
}

/* It tracks the same by another policy, and keeps a column here. */
static void
track_otherwise(void)
{
    static const char *const local[] = {"n", NULL};
    static const rowsync_track_options options = {NULL, ROWSYNC_MERGE, local};
    rowsync *own = second();

    rowsync_track(own, "users", &options);
    rowsync_close(own);
}

/* It tracks the same as a table of another schema, which no trigger tells of. */
static void
track_elsewhere(void)
{
    static const rowsync_track_options options = {"elsewhere", ROWSYNC_KEEP_POLICY, NULL};
    rowsync *own = second();

    rowsync_track(own, "posts", &options);
    rowsync_close(own);
}

/* Drops what SQLite would refuse to change a column for. */
#define FREE                                                                                       \
    "DROP VIEW _sync_pending; DROP TRIGGER _sync_users_insert; DROP TRIGGER _sync_users_update;"   \
    "DROP TRIGGER _sync_users_rekey; DROP TRIGGER _sync_users_delete;"                             \
    "DROP TRIGGER _sync_users_check; DROP TRIGGER _sync_users_recheck;"

static const Change changes[] = {
    {"a column more", "ALTER TABLE users ADD COLUMN y TEXT", NULL,
     "INSERT INTO users VALUES ('after', 'A', 1, 'why')", "\"y\":\"why\""},
    {"a column renamed", "DROP VIEW _sync_pending; ALTER TABLE users RENAME COLUMN n TO m", NULL,
     "INSERT INTO users (id, m) VALUES ('after', 77)", "\"m\":77"},
    {"a column less", FREE "ALTER TABLE users DROP COLUMN n", NULL,
     "INSERT INTO users VALUES ('after', 'A')", "{\"id\":\"after\",\"name\":\"A\"}"},
    {"a name that another column had",
     FREE "ALTER TABLE users RENAME COLUMN n TO m; ALTER TABLE users ADD COLUMN n TEXT", NULL,
     "INSERT INTO users VALUES ('after', 'A', 7, 'new n')", "\"m\":7,\"n\":\"new n\""},
    {"a table made anew", "DROP TABLE posts; CREATE TABLE posts (id BLOB PRIMARY KEY, u TEXT)",
     NULL, "INSERT INTO posts VALUES (x'550e8400e29b41d4a716446655448887', 'x')",
     "550e8400-e29b-41d4-a716-446655448887"},
    {"and with other columns",
     "DROP TABLE posts; CREATE TABLE posts (z TEXT, u TEXT, id BLOB PRIMARY KEY)", NULL,
     "INSERT INTO posts VALUES ('zed', 'x', x'550e8400e29b41d4a716446655448887')", "\"z\":\"zed\""},
    {"a trigger less", "DROP TRIGGER _sync_users_insert", NULL,
     "INSERT INTO users VALUES ('after', 'A', 1)", "\"after\""},
    {"another table in the place of one", NULL, track_another, "INSERT INTO tags VALUES ('after')",
     "\"table\":\"tags\""},
    {"another schema", NULL, track_elsewhere,
     "INSERT INTO posts VALUES (x'550e8400e29b41d4a716446655448887', 'x')",
     "\"schema\":\"elsewhere\",\"table\":\"posts\",\"op\":\"INSERT\",\"pk\":"
     "\"550e8400-e29b-41d4-a716-446655448887\""},
    {"another policy, and a column that stays here", NULL, track_otherwise,
     "INSERT INTO users VALUES ('after', 'A', 1)", "{\"id\":\"after\",\"name\":\"A\"}"},
};

/* A database in a file with rows of the server and edits, a handle that has synced, and another
 * connection. */
static void
make(const char *mode)
{
    static const rowsync_transport transport = {NULL, interrupted, NULL};
    static const rowsync_options options = {.transport = &transport, .progress = progress};
    char path[128];

    snprintf(path, sizeof(path), "%s/app.db", folder);
    unlink(path);
    memset(&peer, 0, sizeof(peer));
    at = 0;
    made = false;
    if (sqlite3_open(path, &db) != SQLITE_OK || sqlite3_open(path, &other) != SQLITE_OK ||
        app(db, mode) != SQLITE_OK || app(other, "PRAGMA synchronous = OFF") != SQLITE_OK ||
        app(db, "PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON; CREATE TABLE users (id TEXT "
                "PRIMARY KEY, name TEXT, n"
                " INTEGER); CREATE TABLE posts (id BLOB PRIMARY KEY, u TEXT); CREATE TABLE tags (id"
                " TEXT PRIMARY KEY)") != SQLITE_OK ||
        rowsync_open(db, &options, &client) != ROWSYNC_OK || rowsync_init(client) != ROWSYNC_OK ||
        rowsync_track(client, "users", NULL) != ROWSYNC_OK ||
        rowsync_track(client, "posts", NULL) != ROWSYNC_OK ||
        rowsync_attach(client, "http://sync.test", "ann", "phone") != ROWSYNC_OK ||
        rowsync_set_token(client, "t") != ROWSYNC_OK)
    {
        printf("Bail out! %s\n", sqlite3_errmsg(db));
        exit(1);
    }
}

static void
leave(void)
{
    rowsync_close(client);
    ok(sqlite3_close(db) == SQLITE_OK && sqlite3_close(other) == SQLITE_OK, "nothing is left open");
}

/* Makes one change at one moment, and looks at what comes after. */
static void
change_at(const Change *which, Moment when, int number, bool hydrated, const char *mode)
{
    static const rowsync_sync_options options = {0, 3, 1};
    static const char *const moments[] = {"before", "in request", "in progress"};
    rowsync_state state;
    rowsync_code code;
    char text[256];

    make(mode);
    if (hydrated && rowsync_sync(client, &options, NULL) != ROWSYNC_OK)
        ok(false, "the first sync: %s", rowsync_message(client));
    app(other, "UPDATE users SET n = 100 WHERE id IN ('u01', 'u02');"
               "INSERT INTO users VALUES ('mine', 'M', 1), ('yours', 'Y', 2)");
    change = which;
    moment = when;
    at = number;
    requests = told = 0;
    *sent = '\0';
    if (when == BEFORE_CALL)
        make_change();
    code = rowsync_sync(client, &options, NULL);
    snprintf(text, sizeof(text), "%s %d%s", moments[when], number, hydrated ? "" : ", first sync");
    if (code != ROWSYNC_OK)
        ok(false, "%s, %s: %s: %s", which->name, text, rowsync_code_name(code),
           rowsync_message(client));
    if (!made)
        make_change(); /* the call came to its end before, or held the database */
    /* Triggers that went with a table come with the next call, which a migration is to make. */
    rowsync_get_state(client, &state);
    app(other, which->then);
    code = rowsync_sync(client, &options, NULL);
    ok(code == ROWSYNC_OK && made && strstr(sent, which->sent) != NULL, "%s, %s: %s", which->name,
       text, rowsync_message(client));
    is(rows(db, "SELECT (SELECT count(*) FROM _sync_edited), (SELECT count(*) FROM _sync_rejected),"
                " (SELECT count(*) FROM _sync_overwritten), (SELECT count(*) FROM _sync_held),"
                " apply_mode, (SELECT count(*) FROM _sync_version WHERE table_id NOT IN (SELECT"
                " table_id FROM _sync_table)), (SELECT group_concat(pk) FROM _sync_version v JOIN"
                " _sync_table t USING (table_id) WHERE table_name = 'tags') IS 'after' OR NOT"
                " EXISTS (SELECT 1 FROM _sync_table WHERE table_name = 'tags') FROM"
                " _sync_client_info"),
       "0,0,0,0,0,0,1", "all is sent, and nothing is left of what there was");
    leave();
}

int
main(void)
{
    static const char *const modes[] = {"PRAGMA journal_mode = DELETE",
                                        "PRAGMA journal_mode = WAL"};
    size_t i;
    int j, number;

    if (mkdtemp(folder) == NULL)
        return 1;
    for (i = 0; i < sizeof(changes) / sizeof(*changes); i++)
        for (j = 0; j < 2; j++)
        {
            const char *mode = modes[(i + (size_t)j) % 2];

            change_at(&changes[i], BEFORE_CALL, 0, j, mode);
            for (number = 1; number <= 4; number++)
            {
                change_at(&changes[i], IN_REQUEST, number, j, mode);
                change_at(&changes[i], IN_PROGRESS, number, j, mode);
            }
        }
    snprintf(sent, sizeof(sent), "%s/app.db", folder);
    unlink(sent);
    rmdir(folder);
    return done();
}
