/*
 * client_calls.h - the public calls, each on a database that gives it something to do; and what
 * must hold when something fails in them: the call ends with a code and a message, leaves no memory
 * behind and a sound database, and done again it comes to what it would have come to.
 */
#ifndef TEST_CLIENT_CALLS_H
#define TEST_CLIENT_CALLS_H

#include "client_memory.h"
#include "client_peer.h"

static const rowsync_transport transport_of_peer = {NULL, perform, NULL};
static const rowsync_options peer_options = {.transport = &transport_of_peer};
static const rowsync_sync_options sync_options = {0, 3, 1};

static const char tables[] =
    "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT UNIQUE, n INTEGER);"
    "CREATE TABLE posts (id BLOB PRIMARY KEY, u TEXT NOT NULL REFERENCES users DEFERRABLE"
    " INITIALLY DEFERRED);"
    "CREATE TRIGGER theirs AFTER UPDATE ON users BEGIN SELECT 1; END;";

/* Edits of each sort, one of them of a row that conflicts, others that are refused or wait. */
static const char edits[] =
    "INSERT INTO users VALUES ('mine', 'Mine', 1), ('bad', 'Bad', 2), ('late', 'Late', 3),"
    " ('fix', 'Fix', 4);"
    "INSERT INTO posts VALUES (x'550e8400e29b41d4a716446655448888', 'mine');"
    "UPDATE users SET n = n + 100 WHERE id IN ('u01', 'u03'); DELETE FROM users WHERE id = 'u10';";

/* Posts have a column that stays here: one has to go with its user, another one comes back. */
static const char taken_out[] =
    "ALTER TABLE posts ADD mine;"
    "UPDATE _sync_table SET local_columns = '[\"mine\"]' WHERE table_id = 2;"
    "UPDATE _sync_client_info SET apply_mode = 1;"
    "UPDATE posts SET u = 'u09', mine = 'x' WHERE u = 'u01';"
    "UPDATE _sync_client_info SET apply_mode = 0;"
    "INSERT INTO _sync_held (table_id, pk, pk_text, state, server_version, deleted, payload) VALUES"
    " (2, x'550e8400e29b41d4a716446655447777', '550e8400-e29b-41d4-a716-446655447777', 2, 90, 0,"
    " '{\"id\":\"550e8400-e29b-41d4-a716-446655447777\",\"u\":\"u02\"}');"
    "INSERT INTO _sync_local VALUES (2, x'550e8400e29b41d4a716446655447777', 'mine', 'kept')";

/* Steps that make the database for a call, one after the other. */
static inline rowsync_code
make_tracked(rowsync *client)
{
    rowsync_code code = rowsync_init(client);

    if (code == ROWSYNC_OK)
        code = rowsync_track(client, "users", NULL);
    return code == ROWSYNC_OK ? rowsync_track(client, "posts", NULL) : code;
}

static inline rowsync_code
make_attached(rowsync *client)
{
    rowsync_code code = rowsync_attach(client, "http://sync.test", "ann", "phone");

    return code == ROWSYNC_OK ? rowsync_set_token(client, "t") : code;
}

static inline rowsync_code
call_hydrate(rowsync *client)
{
    rowsync_code code = rowsync_set_token(client, "t");

    return code == ROWSYNC_OK ? rowsync_hydrate(client, &sync_options, NULL) : code;
}

static inline rowsync_code
make_manual(rowsync *client)
{
    static const rowsync_track_options manual = {NULL, ROWSYNC_MANUAL, NULL};
    rowsync_code code = call_hydrate(client);

    return code == ROWSYNC_OK ? rowsync_track(client, "users", &manual) : code;
}

static inline rowsync_code
call_push(rowsync *client)
{
    rowsync_code code = rowsync_set_token(client, "t");

    return code == ROWSYNC_OK ? rowsync_push(client, &sync_options, NULL) : code;
}

static inline rowsync_code
call_pull(rowsync *client)
{
    rowsync_code code = rowsync_set_token(client, "t");

    return code == ROWSYNC_OK ? rowsync_pull(client, &sync_options, NULL) : code;
}

static inline rowsync_code
call_sync(rowsync *client)
{
    rowsync_code code = rowsync_set_token(client, "t");

    return code == ROWSYNC_OK ? rowsync_sync(client, &sync_options, NULL) : code;
}

static inline rowsync_code
call_open(rowsync *client)
{
    rowsync_state state;

    return rowsync_get_state(client, &state);
}

/* Reads on. */
static inline int
pass_by(void *context, int count, const char *const *names, const char *const *values)
{
    (void)context;
    (void)count;
    (void)names;
    (void)values;
    return 0;
}

static inline rowsync_code
call_list(rowsync *client)
{
    rowsync_code code = ROWSYNC_OK;
    int i;

    for (i = ROWSYNC_LIST_PENDING; code == ROWSYNC_OK && i <= ROWSYNC_LIST_REJECTED; i++)
        code = rowsync_list(client, (rowsync_list_kind)i, pass_by, NULL);
    return code;
}

static inline rowsync_code
call_compare(rowsync *client)
{
    rowsync_code code = rowsync_set_token(client, "t");

    return code == ROWSYNC_OK ? rowsync_compare(client, &sync_options, NULL) : code;
}

/* Tracks anew by another policy, and lets go of the other table. */
static inline rowsync_code
call_track(rowsync *client)
{
    static const char *const local[] = {"n", NULL};
    const rowsync_track_options options = {NULL, ROWSYNC_MANUAL, local};
    rowsync_code code = rowsync_track(client, "users", &options);

    return code == ROWSYNC_OK ? rowsync_untrack(client, "posts", 1) : code;
}

static inline rowsync_code
call_resolve(rowsync *client)
{
    return rowsync_resolve(client, "users", "u03", ROWSYNC_MERGE);
}

static inline rowsync_code
call_requeue(rowsync *client)
{
    return rowsync_requeue(client, NULL, NULL);
}

static inline rowsync_code
call_discard(rowsync *client)
{
    return rowsync_discard(client, "users", "bad");
}

static inline rowsync_code
call_verify(rowsync *client)
{
    int64_t found;

    return rowsync_verify(client, 1, &found);
}

static inline rowsync_code
call_detach(rowsync *client)
{
    return rowsync_detach(client, 1);
}

/* A call, and what has happened to the database before. */
typedef struct Call
{
    const char *name;
    rowsync_code (*run)(rowsync *client);
    rowsync_code (*before[4])(rowsync *client);
    const char *edits;   /* after the first two of these */
    const char *changed; /* after all of them */
    bool requests;
} Call;

static const Call calls[] = {
    {"open", call_open, {make_tracked, make_attached}, edits, "ALTER TABLE users ADD x", false},
    {"init and track", make_tracked, {NULL}, NULL, NULL, false},
    {"track again, untrack", call_track, {make_tracked}, edits, NULL, false},
    {"attach", make_attached, {make_tracked}, edits, NULL, false},
    {"first hydration", call_hydrate, {make_tracked, make_attached}, NULL, NULL, true},
    {"hydration over rows", call_hydrate, {make_tracked, make_attached}, edits, NULL, true},
    {"push", call_push, {make_tracked, make_attached, call_hydrate}, NULL, edits, true},
    {"pull", call_pull, {make_tracked, make_attached, call_hydrate}, NULL, edits, true},
    {"pull of rows with local columns",
     call_pull,
     {make_tracked, make_attached, call_hydrate},
     NULL,
     taken_out,
     true},
    {"sync", call_sync, {make_tracked, make_attached, call_hydrate}, NULL, edits, true},
    {"compare", call_compare, {make_tracked, make_attached, call_hydrate}, NULL, edits, true},
    {"list", call_list, {make_tracked, make_attached, make_manual, call_push}, NULL, NULL, false},
    {"resolve",
     call_resolve,
     {make_tracked, make_attached, make_manual, call_push},
     NULL,
     NULL,
     false},
    {"requeue", call_requeue, {make_tracked, make_attached, call_sync}, edits, NULL, false},
    {"discard", call_discard, {make_tracked, make_attached, call_sync}, edits, NULL, false},
    {"verify",
     call_verify,
     {make_tracked, make_attached, call_sync},
     edits,
     "CREATE TABLE kept AS SELECT * FROM users; DROP TABLE users;"
     "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT UNIQUE, n INTEGER);"
     "INSERT INTO users SELECT * FROM kept WHERE id <> 'u07'; DROP TABLE kept;"
     "INSERT INTO users VALUES ('unseen', 'Unseen', 1)",
     false},
    {"detach", call_detach, {make_tracked, make_attached, call_sync}, edits, NULL, false},
};

/* May it be made in the app's transaction, and on a file that may only be read? */
static inline bool
only_looks(const Call *call)
{
    return call->run == call_open || call->run == call_list;
}

static inline const Call *
call_named(const char *name)
{
    size_t i = 0;

    while (strcmp(calls[i].name, name) != 0)
        i++;
    return &calls[i];
}

/* The database that a call begins with, as SQLite's bytes. */
typedef struct Image
{
    unsigned char *bytes;
    sqlite3_int64 size;
    struct Peer peer; /* as it stands then */
} Image;

/* Fails the test where the preparation of a case fails. */
static inline void
must(bool right, const char *what, sqlite3 *db)
{
    if (right)
        return;
    printf("Bail out! %s: %s\n", what, sqlite3_errmsg(db));
    exit(1);
}

/* Makes the image of a call. */
static inline Image
make_image(const Call *call)
{
    Image image = {0};
    rowsync *client;
    sqlite3 *db;
    size_t i;

    memset(&peer, 0, sizeof(peer));
    must(sqlite3_open(":memory:", &db) == SQLITE_OK, "open", db);
    must(app(db, "PRAGMA foreign_keys = ON") == SQLITE_OK && app(db, tables) == SQLITE_OK, "tables",
         db);
    must(rowsync_open(db, &peer_options, &client) == ROWSYNC_OK, "rowsync_open", db);
    for (i = 0; i < 4 && call->before[i] != NULL; i++)
    {
        if (call->before[i] == call_push && app(db, edits) != SQLITE_OK)
            must(false, "edits", db);
        if (call->before[i](client) != ROWSYNC_OK)
            must(false, rowsync_message(client), db);
        if (i == (call->before[1] != NULL) && call->edits != NULL)
            must(app(db, call->edits) == SQLITE_OK, "edits", db);
    }
    if (call->changed != NULL)
        must(app(db, "PRAGMA foreign_keys = OFF; DROP VIEW IF EXISTS _sync_pending") == SQLITE_OK &&
                 app(db, call->changed) == SQLITE_OK,
             "changes", db);
    rowsync_close(client);
    image.bytes = sqlite3_serialize(db, "main", &image.size, 0);
    image.peer = peer;
    sqlite3_close(db);
    return image;
}

/* A new database as the image has it. */
static inline sqlite3 *
open_image(const Image *image)
{
    unsigned char *copy = sqlite3_malloc64((sqlite3_uint64)image->size);
    sqlite3 *db;

    memcpy(copy, image->bytes, (size_t)image->size);
    must(sqlite3_open(":memory:", &db) == SQLITE_OK &&
             sqlite3_deserialize(db, "main", copy, image->size, image->size,
                                 SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_RESIZEABLE) ==
                 SQLITE_OK &&
             app(db, "PRAGMA foreign_keys = ON") == SQLITE_OK,
         "image", db);
    peer = image->peer;
    peer.requests = 0;
    return db;
}

/* All that the app can see, with what is noted of it; for sqlite3_free(). */
static inline char *
content(sqlite3 *db)
{
    static const char *const queries[] = {
        "SELECT group_concat(quote(id) || quote(name) || quote(n)) FROM (SELECT * FROM users"
        " ORDER BY id)",
        "SELECT group_concat(quote(id) || quote(u)) FROM (SELECT * FROM posts ORDER BY id)",
        "SELECT group_concat(quote(pk) || quote(value)) FROM (SELECT * FROM _sync_local)",
        "SELECT group_concat(name) FROM (SELECT name FROM sqlite_schema ORDER BY name)",
        "SELECT group_concat(table_name || pk_uuid || op || base_version || ifnull(payload, '-'))"
        " FROM (SELECT * FROM _sync_pending ORDER BY table_name, pk_uuid)",
        "SELECT group_concat(table_name || pk_uuid || server_version || deleted) FROM"
        " (SELECT * FROM _sync_row_meta ORDER BY table_name, pk_uuid)",
        "SELECT group_concat(table_name || pk_uuid || server_version || ifnull(server_payload,"
        " '-')) FROM (SELECT * FROM _sync_conflict ORDER BY table_name, pk_uuid)",
        "SELECT group_concat(pk_text || op || reason || ifnull(payload, '-')) FROM"
        " (SELECT * FROM _sync_rejected ORDER BY pk_text)",
        "SELECT group_concat(pk_uuid || server_version || ifnull(payload, '-')) FROM"
        " (SELECT * FROM _sync_overwritten ORDER BY id)",
        "SELECT apply_mode, last_server_seq_seen, current_window_until, hydrated, epoch, user_id,"
        " url FROM _sync_client_info"};
    char *text = NULL, *more;
    size_t i;

    for (i = 0; i < sizeof(queries) / sizeof(*queries); i++)
    {
        more = sqlite3_mprintf("%s%s\n", text != NULL ? text : "", rows(db, queries[i]));
        sqlite3_free(text);
        text = more;
    }
    return text;
}

#define KNOWN 16

/* What went wrong with a call, over all its failures. */
typedef struct Tally
{
    int failures, silent, wrong, unsound, leaks, astray;
    char *known[KNOWN]; /* what was left behind and looked over, the latest: see known() */
    int lengths[KNOWN], next;
} Tally;

/* What is made to fail in a call, at each place in turn. */
typedef struct Failure
{
    const char *what;
    sqlite3 *(*open)(const Image *image); /* NULL: in memory */
    void (*arm)(void *context, sqlite3 *db, long at);
    bool (*disarm)(void *context, sqlite3 *db);        /* was it met? */
    bool (*fitting)(void *context, rowsync_code code); /* may a call that met it end so? */
    void *context;
} Failure;

/*
 * What a call left behind: the database's bytes, those of the temporary tables, what a call changes
 * of its connection's settings for a while, the peer. For sqlite3_free(); NULL for a database that
 * is not in memory.
 */
static inline char *
left_behind(sqlite3 *db, int *length)
{
    sqlite3_str *text = sqlite3_str_new(NULL);
    sqlite3_int64 size = 0, more = 0;
    unsigned char *bytes = sqlite3_serialize(db, "main", &size, SQLITE_SERIALIZE_NOCOPY);
    unsigned char *temporary = sqlite3_serialize(db, "temp", &more, 0);

    sqlite3_str_append(text, (char *)bytes, bytes != NULL ? (int)size : 0);
    sqlite3_str_append(text, (char *)temporary, temporary != NULL ? (int)more : 0);
    sqlite3_free(temporary);
    sqlite3_str_appendall(text, rows(db, "SELECT cache_size, defer_foreign_keys, foreign_keys FROM"
                                         " pragma_cache_size, pragma_defer_foreign_keys,"
                                         " pragma_foreign_keys"));
    peer.requests = 0;
    sqlite3_str_append(text, (char *)&peer, sizeof(peer));
    *length = sqlite3_str_length(text);
    if (bytes == NULL)
        sqlite3_str_reset(text);
    return sqlite3_str_finish(text);
}

/* Of failures that leave behind what is known, one in so many is looked over all the same. */
static long sparing = 1;

/*
 * Has a failure of this call left the same behind before? It was looked over then: whether that is
 * sound, and that the call made again comes to what it should, which nothing else has a part in.
 */
static inline bool
known(sqlite3 *db, long at, Tally *tally)
{
    char *left = NULL;
    int length, i;

    if (at % sparing == 0 || (left = left_behind(db, &length)) == NULL)
        return false;
    for (i = 0; i < KNOWN; i++)
        if (tally->lengths[i] == length && memcmp(tally->known[i], left, (size_t)length) == 0)
        {
            sqlite3_free(left);
            return true;
        }
    i = tally->next++ % KNOWN;
    sqlite3_free(tally->known[i]);
    tally->known[i] = left;
    tally->lengths[i] = length;
    return false;
}

/*
 * What must hold after a call that ended with `code`: the database is sound, and the call made
 * again comes to `wanted`.
 */
static inline void
look_over(const Call *call, sqlite3 *db, const rowsync_options *options, const Failure *failure,
          long at, rowsync_code code, const char *wanted, Tally *tally)
{
    rowsync *client;
    char *found;

    if (strcmp(rows(db, "PRAGMA integrity_check"), "ok") != 0 ||
        strcmp(rows(db, "SELECT count(*) FROM pragma_foreign_key_check"), "0") != 0)
        tally->unsound++;
    if (rowsync_open(db, options, &client) != ROWSYNC_OK || call->run(client) != ROWSYNC_OK)
    {
        /* What was done is not there to be done again. */
        if (code != ROWSYNC_OK)
        {
            tally->astray++;
            printf("# %s, %s %ld, again: %s\n", call->name, failure->what, at,
                   rowsync_message(client));
        }
    }
    rowsync_close(client);
    found = content(db);
    if (strcmp(found, wanted) != 0)
    {
        tally->astray++;
        printf("# %s, %s %ld, after %s, ends as\n%s\n# not as\n%s\n", call->name, failure->what, at,
               rowsync_code_name(code), found, wanted);
    }
    sqlite3_free(found);
}

/* One call with its failure, and what must hold then. Returns whether the failure was met. */
static inline bool
run_once(const Call *call, const Image *image, const rowsync_options *options,
         const Failure *failure, long at, const char *wanted, Tally *tally)
{
    long held = of_library.held + of_curl.held;
    sqlite3 *db = (failure->open != NULL ? failure->open : open_image)(image);
    rowsync *client;
    rowsync_code code;
    bool met;
    char *cache = sqlite3_mprintf("%s", rows(db, "PRAGMA cache_size"));

    failure->arm(failure->context, db, at);
    if ((code = rowsync_open(db, options, &client)) == ROWSYNC_OK)
        code = call->run(client);
    met = failure->disarm(failure->context, db);
    tally->failures += met;
    if (code != ROWSYNC_OK && (*rowsync_message(client) == '\0' || *rowsync_hint(client) == '\0' ||
                               rowsync_error(client) != code))
    {
        tally->silent++;
        printf("# %s, %s %ld: %d %d: %s\n", call->name, failure->what, at, code,
               rowsync_error(client), rowsync_message(client));
    }
    if (code != ROWSYNC_OK && !(met && failure->fitting(failure->context, code)))
    {
        tally->wrong++;
        printf("# %s, %s %ld: %s: %s\n", call->name, failure->what, at, rowsync_code_name(code),
               rowsync_message(client));
    }
    rowsync_close(client);
    if (!sqlite3_get_autocommit(db) || strcmp(rows(db, "PRAGMA cache_size"), cache) != 0)
        tally->unsound++;
    sqlite3_free(cache);
    if (code == ROWSYNC_OK || !known(db, at, tally))
        look_over(call, db, options, failure, at, code, wanted, tally);
    if (sqlite3_close(db) != SQLITE_OK || of_library.held + of_curl.held != held)
    {
        tally->leaks++;
        printf("# %s, %s %ld: left behind\n", call->name, failure->what, at);
    }
    return met;
}

/* What a call comes to when nothing fails; for sqlite3_free(). */
static inline char *
undisturbed(const Call *call, const Image *image, const rowsync_options *options)
{
    sqlite3 *db = open_image(image);
    rowsync *client;
    char *text;

    if (rowsync_open(db, options, &client) != ROWSYNC_OK || call->run(client) != ROWSYNC_OK)
        must(false, rowsync_message(client), db);
    rowsync_close(client);
    text = content(db);
    sqlite3_close(db);
    return text;
}

/* Tells how it went, and ends the tally. */
static inline void
told(Tally *tally, const char *call, const char *what)
{
    int i;

    ok(tally->failures > 0 &&
           tally->silent + tally->wrong + tally->unsound + tally->leaks + tally->astray == 0,
       "%s: each of %d %s: a code and a message, nothing broken, nothing left behind, and done "
       "again it is done",
       call, tally->failures, what);
    for (i = 0; i < KNOWN; i++)
        sqlite3_free(tally->known[i]);
}

#endif
