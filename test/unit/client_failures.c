/*
 * client_failures.c - every allocation of the library, of SQLite and of libcurl fails in turn, and
 * so does every request: each call then ends with a code and a message, leaves no memory behind and
 * a sound database, and done again it comes to what it would have come to.
 *
 *     build/test/unit/client_failures all [CALL]
 *
 * makes every allocation fail (of one call only, such as "push"); `make check` takes forty of each.
 */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <limits.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "client.h"

/* What fails: the allocation after so many more, and with `lasting` all that follow. */
typedef struct Source
{
    long left; /* negative: nothing fails */
    bool lasting;
    bool failed; /* something did */
    long held;   /* allocations that were not given back */
} Source;

static Source of_library, of_sqlite, of_curl;

/* Shall this allocation fail? */
static bool
fails(Source *source)
{
    if (source->left < 0)
        return false;
    if (source->left > 0)
    {
        source->left--;
        return false;
    }
    if (!source->lasting)
        source->left = -1;
    source->failed = true;
    return true;
}

/* realloc() that may fail. */
static void *
failing_realloc(Source *source, void *pointer, size_t size)
{
    if (fails(source))
        return NULL;
    source->held += pointer == NULL;
    return realloc(pointer, size);
}

/* free() that counts. */
static void
counting_free(Source *source, void *pointer)
{
    source->held -= pointer != NULL;
    free(pointer);
}

static void *
library_realloc(void *pointer, size_t size)
{
    return failing_realloc(&of_library, pointer, size);
}

static void
library_free(void *pointer)
{
    counting_free(&of_library, pointer);
}

static void *
curl_malloc(size_t size)
{
    return failing_realloc(&of_curl, NULL, size > 0 ? size : 1);
}

static void *
curl_realloc(void *pointer, size_t size)
{
    return failing_realloc(&of_curl, pointer, size > 0 ? size : 1);
}

static void *
curl_calloc(size_t count, size_t size)
{
    void *pointer = curl_malloc(count * size);

    return pointer != NULL ? memset(pointer, 0, count * size) : NULL;
}

static char *
curl_strdup(const char *text)
{
    char *copy = curl_malloc(strlen(text) + 1);

    return copy != NULL ? strcpy(copy, text) : NULL;
}

static void
curl_release(void *pointer)
{
    counting_free(&of_curl, pointer);
}

static sqlite3_mem_methods sqlite_memory;

static void *
sqlite_malloc(int size)
{
    return fails(&of_sqlite) ? NULL : sqlite_memory.xMalloc(size);
}

static void *
sqlite_realloc(void *pointer, int size)
{
    return fails(&of_sqlite) ? NULL : sqlite_memory.xRealloc(pointer, size);
}

/* Puts the three in place, once, before anything is allocated. */
static void
take_over(void)
{
    static const rowsync_allocator allocator = {library_realloc, library_free};
    sqlite3_mem_methods mine;

    of_library.left = of_sqlite.left = of_curl.left = -1;
    rowsync_set_allocator(&allocator);
    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &sqlite_memory);
    mine = sqlite_memory;
    mine.xMalloc = sqlite_malloc;
    mine.xRealloc = sqlite_realloc;
    /* No memory of its own for small things: they too shall fail. */
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &mine) != SQLITE_OK ||
        sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0) != SQLITE_OK ||
        curl_global_init_mem(CURL_GLOBAL_DEFAULT, curl_malloc, curl_release, curl_realloc,
                             curl_strdup, curl_calloc) != CURLE_OK)
        exit(1);
}

/* How a request may fail. */
typedef enum Fault
{
    FAULT_NONE,
    FAULT_BEFORE, /* it does not reach the server */
    FAULT_LOST,   /* the server has done its part, the answer is lost */
    FAULT_CUT,    /* half of the answer comes */
    FAULT_SHORT,  /* half of the answer, and it passes for the whole */
    FAULT_EMPTY,
    FAULT_NOMEM,
    FAULT_CANCELLED,
    FAULT_REDIRECT,
    FAULT_BUSY,
    FAULT_ERROR,
    FAULT_TOKEN,
    FAULTS
} Fault;

/* A server that knows one user, and gives a change that it has seen the same answer again. */
static struct Peer
{
    char seen[32][64]; /* change ids with their keys; the version is 200 + place */
    int count;
    int requests;
    int faulty; /* the request that fails, from 1 */
    Fault fault;
} peer;

#define SNAPSHOT                                                                                   \
    "{\"seq\":100,\"schema_version\":1,\"tables\":[{\"schema\":\"public\",\"table\":\"users\","    \
    "\"key\":[\"id\"],\"columns\":[\"id\",\"name\",\"n\"]},{\"schema\":\"public\",\"table\":"      \
    "\"posts\",\"key\":[\"id\"],\"columns\":[\"id\",\"u\"]}]}\n"

/* The rows of the snapshot: twelve users, four posts. */
static void
write_snapshot(char *out)
{
    int i;

    out += sprintf(out, SNAPSHOT);
    for (i = 0; i < 12; i++)
        out += sprintf(out, "[0,%d,\"u%02d\",\"N\\u00f6 %d\",%d]\n", 10 + i, i, i, i);
    for (i = 0; i < 4; i++)
        out += sprintf(out, "[1,%d,\"550e8400-e29b-41d4-a716-44665544%04d\",\"u%02d\"]\n", 30 + i,
                       i, i);
    strcpy(out, "{\"end\":true,\"rows\":16,\"digest\":\"4d389730f64f4b74912b8bce2d3e6157\"}\n");
}

/* A page of the log: six changes after the snapshot, three a page; a child before its parent. */
static void
write_page(char *out, long after)
{
    long at, last = after >= 103 ? 106 : 103;

    out += sprintf(out, "{\"changes\":[");
    for (at = after < 100 ? 101 : after + 1; at <= last; at++)
    {
        const char *post = "550e8400-e29b-41d4-a716-446655449999";

        out += sprintf(out, "%s{\"server_id\":%ld,\"schema\":\"public\",\"server_version\":%ld,",
                       at == 101 || at == after + 1 ? "" : ",", at, at);
        if (at == 103)
            out += sprintf(out,
                           "\"table\":\"posts\",\"op\":\"INSERT\",\"deleted\":false,\"pk\":\"%s\","
                           "\"payload\":{\"id\":\"%s\",\"u\":\"new105\"}}",
                           post, post);
        else if (at == 104)
            out += sprintf(out, "\"table\":\"users\",\"op\":\"DELETE\",\"deleted\":true,\"pk\":"
                                "\"u09\",\"payload\":null}");
        else
            out +=
                sprintf(out,
                        "\"table\":\"users\",\"op\":\"INSERT\",\"deleted\":false,\"pk\":"
                        "\"new%ld\",\"payload\":{\"id\":\"new%ld\",\"name\":\"New %ld\",\"n\":7}}",
                        at, at, at);
    }
    sprintf(out,
            "],\"has_more\":%s,\"next_after\":%ld,\"window_until\":%ld,\"floor\":0,\"epoch\":1}",
            last < 106 ? "true" : "false", after > last ? after : last, after > 106 ? after : 106L);
}

/* The version of a change, the same whenever it comes. */
static int
version_of(const char *id, const char *key)
{
    char name[64];
    int i;

    snprintf(name, sizeof(name), "%.20s %.40s", id, key);
    for (i = 0; i < peer.count; i++)
        if (strcmp(peer.seen[i], name) == 0)
            return 200 + i;
    if (peer.count == 32)
        exit(1);
    strcpy(peer.seen[peer.count], name);
    return 200 + peer.count++;
}

/* Copies the digits or the string behind a name; where the next one begins. */
static const char *
member(const char *text, const char *name, char *out)
{
    size_t length;

    if ((text = strstr(text, name)) == NULL)
        return NULL;
    text += strlen(name);
    length = strcspn(text, "\",}");
    sprintf(out, "%.*s", (int)(length < 60 ? length : 60), text);
    return text;
}

/* The statuses of an upload: by the key, it conflicts, is refused, waits, or is applied. */
static void
write_statuses(char *out, const char *body)
{
    char id[64], key[64];
    const char *comma = "";

    out += sprintf(out, "{\"accepted\":true,\"highest_server_seq\":300,\"statuses\":[");
    while ((body = member(body, "\"source_change_id\":", id)) != NULL &&
           (body = member(body, "\"pk\":\"", key)) != NULL)
    {
        out += sprintf(out, "%s{\"source_change_id\":%s,\"status\":", comma, id);
        comma = ",";
        if (strcmp(key, "u03") == 0)
            out += sprintf(out, "\"conflict\",\"server_row\":{\"schema_name\":\"public\","
                                "\"table_name\":\"users\",\"id\":\"u03\",\"server_version\":99,"
                                "\"deleted\":false,\"payload\":{\"id\":\"u03\",\"name\":\"Theirs\","
                                "\"n\":1}},\"server_changed\":[\"name\"]}");
        else if (strcmp(key, "bad") == 0)
            out += sprintf(out, "\"invalid\",\"message\":\"no\",\"invalid\":{\"reason\":"
                                "\"forbidden\",\"details\":{\"error\":\"not yours\"}}}");
        else if (strcmp(key, "late") == 0)
            out += sprintf(out, "\"invalid\",\"message\":\"later\",\"invalid\":{\"reason\":"
                                "\"fk_missing\",\"details\":{\"missing\":[\"public.users:x\"]}}}");
        else if (strcmp(key, "fix") == 0)
            out += sprintf(out,
                           "\"applied\",\"new_server_version\":%d,\"server_row\":{"
                           "\"server_version\":%d,\"deleted\":false,\"payload\":{\"id\":\"fix\","
                           "\"name\":\"Mended\",\"n\":5}}}",
                           version_of(id, key), version_of(id, key));
        else
            out += sprintf(out, "\"applied\",\"new_server_version\":%d}", version_of(id, key));
    }
    strcpy(out, "]}");
}

/* The body of the request as text. */
static const char *
text_of(const rowsync_request *request)
{
    static char text[65536];
    z_stream stream = {0};
    int i;

    for (i = 0; request->headers[i] != NULL; i++)
        if (strcmp(request->headers[i], "Content-Encoding: gzip") == 0)
        {
            stream.next_in = (Bytef *)request->body;
            stream.avail_in = (uInt)request->body_length;
            stream.next_out = (Bytef *)text;
            stream.avail_out = sizeof(text) - 1;
            if (inflateInit2(&stream, 31) != Z_OK || inflate(&stream, Z_FINISH) != Z_STREAM_END)
                exit(1);
            text[stream.total_out] = '\0';
            inflateEnd(&stream);
            return text;
        }
    snprintf(text, sizeof(text), "%.*s", (int)request->body_length, (const char *)request->body);
    return text;
}

/* Answers a request into `out`; returns the status. */
static long
respond(const char *url, const char *body, char *out)
{
    const char *after = strstr(url, "after=");

    if (strstr(url, "/sync/upload") != NULL)
        write_statuses(out, body);
    else if (strstr(url, "/sync/snapshot") != NULL)
        write_snapshot(out);
    else if (after != NULL)
        write_page(out, atol(after + 6));
    else
        return strcpy(out, "{}"), 404L;
    return 200;
}

/* The transport, in pieces of seven bytes. */
static rowsync_code
perform(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
        rowsync_response *response, const volatile int *cancelled)
{
    static const long statuses[FAULTS] = {
        [FAULT_REDIRECT] = 302, [FAULT_BUSY] = 503, [FAULT_ERROR] = 400, [FAULT_TOKEN] = 401};
    static char answer[65536];
    Fault fault = ++peer.requests == peer.faulty ? peer.fault : FAULT_NONE;
    size_t at, length;

    (void)context;
    (void)cancelled;
    response->retry_after = -1;
    if (fault == FAULT_BEFORE || fault == FAULT_NOMEM || fault == FAULT_CANCELLED)
        return fault == FAULT_BEFORE  ? ROWSYNC_NETWORK
               : fault == FAULT_NOMEM ? ROWSYNC_NOMEM
                                      : ROWSYNC_CANCELLED;
    response->status =
        respond(request->url, request->body != NULL ? text_of(request) : NULL, answer);
    if (statuses[fault] != 0)
    {
        response->status = statuses[fault];
        strcpy(answer, "{\"code\":\"x\",\"detail\":\"told by the server\"}");
    }
    length = fault == FAULT_LOST || fault == FAULT_EMPTY ? 0 : strlen(answer);
    if (fault == FAULT_CUT || fault == FAULT_SHORT)
        length /= 2;
    for (at = 0; at < length; at += 7)
        if (sink(sink_context, answer + at, length - at < 7 ? length - at : 7) != 0)
            return ROWSYNC_NETWORK;
    return fault == FAULT_LOST || fault == FAULT_CUT ? ROWSYNC_NETWORK : ROWSYNC_OK;
}

static const rowsync_transport transport = {NULL, perform, NULL};
static const rowsync_sync_options sync_options = {0, 3, 1};

static const char tables[] =
    "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT UNIQUE, n INTEGER);"
    "CREATE TABLE posts (id BLOB PRIMARY KEY, u TEXT NOT NULL REFERENCES users DEFERRABLE"
    " INITIALLY DEFERRED);";

/* Edits of each sort, one of them of a row that conflicts, others that are refused or wait. */
static const char edits[] =
    "INSERT INTO users VALUES ('mine', 'Mine', 1), ('bad', 'Bad', 2), ('late', 'Late', 3),"
    " ('fix', 'Fix', 4);"
    "INSERT INTO posts VALUES (x'550e8400e29b41d4a716446655448888', 'mine');"
    "UPDATE users SET n = n + 100 WHERE id IN ('u01', 'u03'); DELETE FROM users WHERE id = 'u10';";

/* Steps that make the database for a call, one after the other. */
static rowsync_code
make_tracked(rowsync *client)
{
    rowsync_code code = rowsync_init(client);

    if (code == ROWSYNC_OK)
        code = rowsync_track(client, "users", NULL);
    return code == ROWSYNC_OK ? rowsync_track(client, "posts", NULL) : code;
}

static rowsync_code
make_attached(rowsync *client)
{
    rowsync_code code = rowsync_attach(client, "http://sync.test", "ann", "phone");

    return code == ROWSYNC_OK ? rowsync_set_token(client, "t") : code;
}

static rowsync_code
call_hydrate(rowsync *client)
{
    rowsync_code code = rowsync_set_token(client, "t");

    return code == ROWSYNC_OK ? rowsync_hydrate(client, &sync_options, NULL) : code;
}

static rowsync_code
make_manual(rowsync *client)
{
    static const rowsync_track_options manual = {NULL, ROWSYNC_MANUAL, NULL};
    rowsync_code code = call_hydrate(client);

    return code == ROWSYNC_OK ? rowsync_track(client, "users", &manual) : code;
}

static rowsync_code
call_push(rowsync *client)
{
    rowsync_code code = rowsync_set_token(client, "t");

    return code == ROWSYNC_OK ? rowsync_push(client, &sync_options, NULL) : code;
}

static rowsync_code
call_pull(rowsync *client)
{
    rowsync_code code = rowsync_set_token(client, "t");

    return code == ROWSYNC_OK ? rowsync_pull(client, &sync_options, NULL) : code;
}

static rowsync_code
call_sync(rowsync *client)
{
    rowsync_code code = rowsync_set_token(client, "t");

    return code == ROWSYNC_OK ? rowsync_sync(client, &sync_options, NULL) : code;
}

static rowsync_code
call_open(rowsync *client)
{
    rowsync_state state;

    return rowsync_get_state(client, &state);
}

/* Tracks anew by another policy, and lets go of the other table. */
static rowsync_code
call_track(rowsync *client)
{
    static const char *const local[] = {"n", NULL};
    const rowsync_track_options options = {NULL, ROWSYNC_MANUAL, local};
    rowsync_code code = rowsync_track(client, "users", &options);

    return code == ROWSYNC_OK ? rowsync_untrack(client, "posts", 1) : code;
}

static rowsync_code
call_resolve(rowsync *client)
{
    return rowsync_resolve(client, "users", "u03", ROWSYNC_MERGE);
}

static rowsync_code
call_requeue(rowsync *client)
{
    return rowsync_requeue(client, NULL, NULL);
}

static rowsync_code
call_discard(rowsync *client)
{
    return rowsync_discard(client, "users", "bad");
}

static rowsync_code
call_verify(rowsync *client)
{
    int64_t found;

    return rowsync_verify(client, 1, &found);
}

static rowsync_code
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
    {"sync", call_sync, {make_tracked, make_attached, call_hydrate}, NULL, edits, true},
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

/* The database that a call begins with, as SQLite's bytes. */
typedef struct Image
{
    unsigned char *bytes;
    sqlite3_int64 size;
    struct Peer peer; /* as it stands then */
} Image;

/* Fails the test where the preparation of a case fails. */
static void
must(bool right, const char *what, sqlite3 *db)
{
    if (right)
        return;
    printf("Bail out! %s: %s\n", what, sqlite3_errmsg(db));
    exit(1);
}

/* Makes the image of a call. */
static Image
make_image(const Call *call)
{
    const rowsync_options options = {.transport = &transport};
    Image image = {0};
    rowsync *client;
    sqlite3 *db;
    size_t i;

    memset(&peer, 0, sizeof(peer));
    must(sqlite3_open(":memory:", &db) == SQLITE_OK, "open", db);
    must(app(db, "PRAGMA foreign_keys = ON") == SQLITE_OK && app(db, tables) == SQLITE_OK, "tables",
         db);
    must(rowsync_open(db, &options, &client) == ROWSYNC_OK, "rowsync_open", db);
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
static sqlite3 *
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

/* All that the app can see, with what is noted of it; for free(). */
static char *
content(sqlite3 *db)
{
    static const char *const queries[] = {
        "SELECT group_concat(quote(id) || quote(name) || quote(n)) FROM (SELECT * FROM users"
        " ORDER BY id)",
        "SELECT group_concat(quote(id) || quote(u)) FROM (SELECT * FROM posts ORDER BY id)",
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

/* What went wrong with a call, over all its failures. */
typedef struct Tally
{
    int failures, silent, wrong, unsound, leaks, astray;
} Tally;

/* May a call end with this code when this failed? What libcurl makes of it is its own affair. */
static bool
fitting(rowsync_code code, const Source *source)
{
    return code == ROWSYNC_NOMEM || source == &of_curl;
}

/*
 * One call with its failure: `source` is told to fail, or the peer. Returns whether it was met. The
 * call then is made again, and comes to `wanted`.
 */
static bool
run_once(const Call *call, const Image *image, const rowsync_options *options, Source *source,
         long at, bool lasting, const char *wanted, Tally *tally)
{
    long held = of_library.held + of_curl.held;
    sqlite3 *db = open_image(image);
    rowsync *client;
    rowsync_code code;
    bool met;
    char *found;

    peer.faulty = source == NULL ? (int)at : 0;
    if (source != NULL)
        *source = (Source){at, lasting, false, source->held};
    if ((code = rowsync_open(db, options, &client)) == ROWSYNC_OK)
        code = call->run(client);
    met = source != NULL ? source->failed : peer.requests >= peer.faulty;
    if (source != NULL)
        source->left = -1;
    tally->failures += met;
    if (code != ROWSYNC_OK && (*rowsync_message(client) == '\0' || *rowsync_hint(client) == '\0' ||
                               rowsync_error(client) != code))
    {
        tally->silent++;
        printf("# %s, %ld%s: %d %d: %s\n", call->name, at, lasting ? " lasting" : "", code,
               rowsync_error(client), rowsync_message(client));
    }
    if (met ? source != NULL && code != ROWSYNC_OK && !fitting(code, source) : code != ROWSYNC_OK)
    {
        tally->wrong++;
        printf("# %s, %ld%s, fault %d: %s: %s\n", call->name, at, lasting ? " lasting" : "",
               (int)peer.fault, rowsync_code_name(code), rowsync_message(client));
    }
    rowsync_close(client);
    if (!sqlite3_get_autocommit(db) || strcmp(rows(db, "PRAGMA integrity_check"), "ok") != 0 ||
        strcmp(rows(db, "SELECT count(*) FROM pragma_foreign_key_check"), "0") != 0)
        tally->unsound++;
    peer.faulty = 0;
    if (rowsync_open(db, options, &client) != ROWSYNC_OK || call->run(client) != ROWSYNC_OK)
    {
        /* What was done is not there to be done again. */
        if (code != ROWSYNC_OK)
        {
            tally->astray++;
            printf("# %s, %ld, again: %s\n", call->name, at, rowsync_message(client));
        }
    }
    rowsync_close(client);
    found = content(db);
    if (strcmp(found, wanted) != 0)
    {
        tally->astray++;
        printf("# %s, %ld, fault %d, after %s, ends as\n%s\n# not as\n%s\n", call->name, at,
               (int)peer.fault, rowsync_code_name(code), found, wanted);
    }
    sqlite3_free(found);
    if (sqlite3_close(db) != SQLITE_OK || of_library.held + of_curl.held != held)
    {
        tally->leaks++;
        printf("# %s, %ld: left behind\n", call->name, at);
    }
    return met;
}

/* What a call comes to when nothing fails; for sqlite3_free(). */
static char *
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

static void
told(const Tally *tally, const char *call, const char *what)
{
    ok(tally->failures > 0 &&
           tally->silent + tally->wrong + tally->unsound + tally->leaks + tally->astray == 0,
       "%s: each of %d %s: a code and a message, nothing broken, nothing left behind, and done "
       "again it is done",
       call, tally->failures, what);
}

/* Allocations of the source fail, `most` of them (0: all), alone and with all that follow. */
static void
test_memory(const Call *call, const rowsync_options *options, Source *source, const char *what,
            long most)
{
    Image image = make_image(call);
    char *wanted;
    Tally tally = {0};
    int lasting;
    long at, step = 1;

    source->left = LONG_MAX;
    wanted = undisturbed(call, &image, options);
    if (most > 0 && LONG_MAX - source->left > most)
        step = (LONG_MAX - source->left) / most;
    source->left = -1;
    for (lasting = 0; lasting < 2; lasting++)
        for (at = lasting * step / 2;
             run_once(call, &image, options, source, at, lasting, wanted, &tally); at += step)
            ;
    told(&tally, call->name, what);
    sqlite3_free(wanted);
    sqlite3_free(image.bytes);
}

/* Every request of a call fails in every way. */
static void
test_requests(const Call *call)
{
    const rowsync_options options = {.transport = &transport};
    Image image = make_image(call);
    char *wanted = undisturbed(call, &image, &options);
    Tally tally = {0};
    long at;

    for (image.peer.fault = FAULT_BEFORE; image.peer.fault < FAULTS; image.peer.fault++)
        for (at = 1; run_once(call, &image, &options, NULL, at, false, wanted, &tally); at++)
            ;
    told(&tally, call->name, "requests that fail");
    sqlite3_free(wanted);
    sqlite3_free(image.bytes);
}

/* Writes the whole of it. */
static void
put(int fd, const char *data, size_t length)
{
    while (length > 0)
    {
        ssize_t done = send(fd, data, length, MSG_NOSIGNAL);

        if (done <= 0)
            return;
        data += done;
        length -= (size_t)done;
    }
}

/* A server of HTTP around the peer, for libcurl; one connection at a time. */
static void *
serve(void *context)
{
    static char head[65536], answer[65536], line[256];
    int listening = *(int *)context, fd;

    while ((fd = accept(listening, NULL, NULL)) >= 0)
    {
        size_t length = 0;
        ssize_t more;

        while ((more = recv(fd, head + length, sizeof(head) - 1 - length, 0)) > 0)
        {
            char *body, *size;
            long status;

            length += (size_t)more;
            head[length] = '\0';
            body = strstr(head, "\r\n\r\n");
            size = strstr(head, "Content-Length: ");
            if (body == NULL ||
                (size != NULL && length < (size_t)(body + 4 - head) + strtoul(size + 16, NULL, 10)))
                continue;
            status = respond(head, body + 4, answer);
            snprintf(line, sizeof(line),
                     "HTTP/1.1 %ld OK\r\nContent-Type: application/json\r\nContent-Length: "
                     "%zu\r\n\r\n",
                     status, strlen(answer));
            put(fd, line, strlen(line));
            put(fd, answer, strlen(answer));
            length = 0;
        }
        close(fd);
    }
    return NULL;
}

/* The server's port, and where the database says that it is. */
static int listening;
static char address[64];

static rowsync_code
call_sync_by_curl(rowsync *client)
{
    rowsync_code code = rowsync_attach(client, address, "ann", "phone");

    return code == ROWSYNC_OK ? call_sync(client) : code;
}

/* The transport over libcurl, with a real server. */
static void
test_curl(long most)
{
    static const Call call = {"sync over libcurl",
                              call_sync_by_curl,
                              {make_tracked, make_attached, call_hydrate},
                              NULL,
                              "INSERT INTO users VALUES ('mine', 'Mine', 1)",
                              true};
    static const rowsync_options options = {.transport = NULL};
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(name);
    pthread_t thread;

    listening = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listening, (struct sockaddr *)&name, sizeof(name)) != 0 || listen(listening, 8) != 0 ||
        getsockname(listening, (struct sockaddr *)&name, &size) != 0 ||
        pthread_create(&thread, NULL, serve, &listening) != 0)
        exit(1);
    snprintf(address, sizeof(address), "http://127.0.0.1:%d", ntohs(name.sin_port));
    test_memory(&call, &options, &of_curl, "allocations of libcurl", most);
    test_memory(&call, &options, &of_library, "allocations beside libcurl", most);
    shutdown(listening, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(listening);
}

int
main(int count, char **arguments)
{
    const rowsync_options options = {.transport = &transport};
    long most = count > 1 && strcmp(arguments[1], "all") == 0 ? 0 : 40;
    size_t i;

    take_over();
    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
    {
        if (count > 2 && strcmp(calls[i].name, arguments[2]) != 0)
            continue;
        test_memory(&calls[i], &options, &of_library, "allocations of the library", most);
        test_memory(&calls[i], &options, &of_sqlite, "allocations of SQLite", most);
        if (calls[i].requests)
            test_requests(&calls[i]);
    }
    test_curl(most);
    return done();
}
