/*
 * loadable.c - the library as an extension of SQLite, for every language that can load one:
 *
 *     SELECT rowsync_init();
 *     SELECT rowsync_track('notes');                 -- also: schema, policy, local columns
 *     SELECT rowsync_attach('https://…', 'ann');     -- also: source
 *     SELECT rowsync_token('eyJ…');
 *     SELECT rowsync_sync();                         -- a report as JSON
 *     SELECT * FROM rowsync_rejected;                -- loadable_table.c
 *
 * Each connection has one client, made by the first call. A failure is an SQL error whose message
 * also has the hint. The functions write, so they are for top-level SQL only (SQLITE_DIRECTONLY):
 * no trigger or view of a foreign file can call them.
 */
#include "loadable.h"

#include <string.h>

/*
 * The client of the connection; NULL with a message for sqlite3_free() in *error, or with none for
 * want of memory.
 */
rowsync *
loadable_client(sqlite3 *db, rowsync **slot, char **error)
{
    if (*slot == NULL && rowsync_open(db, NULL, slot) != ROWSYNC_OK)
    {
        *error = *slot != NULL ? sqlite3_mprintf("%s", rowsync_message(*slot)) : NULL;
        rowsync_close(*slot);
        *slot = NULL;
    }
    return *slot;
}

/* The client of the connection; NULL with an error set. */
static rowsync *
client_of(sqlite3_context *context)
{
    char *error = NULL;
    rowsync *client =
        loadable_client(sqlite3_context_db_handle(context), sqlite3_user_data(context), &error);

    if (client == NULL && error == NULL)
        sqlite3_result_error_nomem(context);
    else if (client == NULL)
        sqlite3_result_error(context, error, -1);
    sqlite3_free(error);
    return client;
}

/*
 * Ends a function, with the failure in words if there was one. No statement stays prepared: the app
 * may close its connection at any time, and does not know of us.
 */
static void
finish(sqlite3_context *context, rowsync *client, rowsync_code code)
{
    Buffer text = {0};

    rs_idle(client);
    if (code == ROWSYNC_OK)
        return;
    buffer_printf(&text, "rowsync: %s %s", rowsync_message(client), rowsync_hint(client));
    if (code == ROWSYNC_NOMEM || text.failed)
        sqlite3_result_error_nomem(context);
    else
        sqlite3_result_error(context, text.data, -1);
    buffer_free(&text);
}

/* A text argument, or NULL where it is NULL or not given. */
static const char *
argument(int count, sqlite3_value **values, int at)
{
    return at < count ? (const char *)sqlite3_value_text(values[at]) : NULL;
}

static void
sql_init(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);

    (void)count;
    (void)values;
    if (client != NULL)
        finish(context, client, rowsync_init(client));
}

/* The policy of a name, ROWSYNC_KEEP_POLICY for NULL; false with an error set for other texts. */
static bool
read_policy(sqlite3_context *context, const char *name, rowsync_policy *policy)
{
    static const char *const names[] = {"server", "client", "merge", "manual"};

    *policy = ROWSYNC_KEEP_POLICY;
    if (name == NULL)
        return true;
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0)
        {
            *policy = (rowsync_policy)i;
            return true;
        }
    sqlite3_result_error(context, "rowsync: the policy is server, client, merge or manual", -1);
    return false;
}

/*
 * Reads names of columns, one or a JSON array of them, each ended by NUL, into `out`; an empty name
 * is none. False with an error set where it is neither, or for want of memory.
 */
static bool
read_names(sqlite3_context *context, const char *text, Buffer *out)
{
    JsonReader reader = scan_reader((Slice){text, strlen(text)});
    Buffer name = {0};
    Slice element;
    bool right = true;

    if (text[strspn(text, " \t\r\n")] != '[')
        buffer_append(out, text, *text != '\0' ? strlen(text) + 1 : 0);
    else if ((right = scan_enter(&reader, '[')))
    {
        for (bool first = true; right && scan_next_element(&reader, first, &element); first = false)
        {
            buffer_clear(&name);
            right =
                scan_string(element, &name) && name.length > 0 && strlen(name.data) == name.length;
            buffer_append(out, buffer_string(&name), name.length + 1);
        }
        right = right && scan_finish(&reader);
    }
    if (out->failed || name.failed)
        sqlite3_result_error_nomem(context);
    else if (!right)
        sqlite3_result_error(
            context, "rowsync: the local columns are one name or a JSON array of names", -1);
    right = right && !out->failed && !name.failed;
    buffer_free(&name);
    return right;
}

/* The names in such a buffer, ended by NULL, for rs_free(); NULL for want of memory. */
static const char **
list_names(const Buffer *names)
{
    const char **list = rs_realloc(NULL, (names->length + 1) * sizeof(*list));
    int count = 0;

    if (list == NULL)
        return NULL;
    for (size_t at = 0; at < names->length; at += strlen(names->data + at) + 1)
        list[count++] = names->data + at;
    list[count] = NULL;
    return list;
}

/* rowsync_track(table [, schema [, policy [, local]]]) */
static void
sql_track(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);
    rowsync_track_options options = {argument(count, values, 1), ROWSYNC_KEEP_POLICY, NULL};
    const char *local = argument(count, values, 3), **columns = NULL;
    Buffer names = {0};

    if (client != NULL && read_policy(context, argument(count, values, 2), &options.policy) &&
        (local == NULL || read_names(context, local, &names)))
    {
        if (local != NULL && (columns = list_names(&names)) == NULL)
            sqlite3_result_error_nomem(context);
        else
        {
            options.local_columns = columns;
            finish(context, client, rowsync_track(client, argument(count, values, 0), &options));
        }
    }
    rs_free(columns);
    buffer_free(&names);
}

/* rowsync_untrack(table [, force]) */
static void
sql_untrack(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);

    if (client != NULL)
        finish(context, client,
               rowsync_untrack(client, argument(count, values, 0),
                               count > 1 && sqlite3_value_int(values[1])));
}

static void
sql_attach(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);

    if (client != NULL)
        finish(context, client,
               rowsync_attach(client, argument(count, values, 0), argument(count, values, 1),
                              argument(count, values, 2)));
}

static void
sql_detach(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);

    if (client != NULL)
        finish(context, client, rowsync_detach(client, count > 0 && sqlite3_value_int(values[0])));
}

static void
sql_token(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);

    if (client != NULL)
        finish(context, client, rowsync_set_token(client, argument(count, values, 0)));
}

/* Returns a JSON text, which is freed. */
static void
result_json(sqlite3_context *context, Buffer *text)
{
    if (text->failed)
        sqlite3_result_error_nomem(context);
    else
        sqlite3_result_text(context, text->data, (int)text->length, SQLITE_TRANSIENT);
    buffer_free(text);
}

/* The report of a sync as JSON. */
static void
result_report(sqlite3_context *context, const rowsync_report *report)
{
    Buffer text = {0};

    buffer_printf(&text,
                  "{\"uploaded\":%lld,\"rounds\":%lld,\"downloaded\":%lld,\"pages\":%lld,"
                  "\"pending\":%lld,\"conflicts\":%lld,\"rejected\":%lld,\"head\":%lld,"
                  "\"overwritten\":%lld,\"held\":%lld}",
                  (long long)report->uploaded, (long long)report->rounds,
                  (long long)report->downloaded, (long long)report->pages,
                  (long long)report->pending, (long long)report->conflicts,
                  (long long)report->rejected, (long long)report->head,
                  (long long)report->overwritten, (long long)report->held);
    result_json(context, &text);
}

/* rowsync_sync, rowsync_push, rowsync_pull, rowsync_hydrate: the optional argument is a batch size.
 */
static void
run_sync(sqlite3_context *context, int count, sqlite3_value **values,
         rowsync_code (*call)(rowsync *, const rowsync_sync_options *, rowsync_report *))
{
    rowsync *client = client_of(context);
    rowsync_sync_options options = {0};
    rowsync_report report;
    rowsync_code code;

    if (client == NULL)
        return;
    if (count > 0)
        options.batch_size = sqlite3_value_int(values[0]);
    code = call(client, &options, &report);
    if (code == ROWSYNC_OK)
        result_report(context, &report);
    finish(context, client, code);
}

static void
sql_sync(sqlite3_context *context, int count, sqlite3_value **values)
{
    run_sync(context, count, values, rowsync_sync);
}

static void
sql_push(sqlite3_context *context, int count, sqlite3_value **values)
{
    run_sync(context, count, values, rowsync_push);
}

static void
sql_pull(sqlite3_context *context, int count, sqlite3_value **values)
{
    run_sync(context, count, values, rowsync_pull);
}

static void
sql_hydrate(sqlite3_context *context, int count, sqlite3_value **values)
{
    run_sync(context, count, values, rowsync_hydrate);
}

static void
sql_status(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);
    rowsync_state state;
    Buffer text = {0};
    const char *members[3];
    int i;

    (void)count;
    (void)values;
    if (client == NULL)
        return;
    if (rowsync_get_state(client, &state) != ROWSYNC_OK)
    {
        finish(context, client, rowsync_error(client));
        return;
    }
    members[0] = state.url;
    members[1] = state.user_id;
    members[2] = state.source_id;
    for (i = 0; i < 3; i++)
    {
        static const char *const names[] = {"{\"url\":", ",\"user\":", ",\"source\":"};

        buffer_text(&text, names[i]);
        if (members[i] != NULL)
            buffer_json_text(&text, members[i], strlen(members[i]));
        else
            buffer_text(&text, "null");
    }
    buffer_printf(&text,
                  ",\"pending\":%lld,\"conflicts\":%lld,\"rejected\":%lld,\"head\":%lld,"
                  "\"hydrated\":%s,\"tables\":%d,\"held\":%lld,\"gone\":%d}",
                  (long long)state.pending, (long long)state.conflicts, (long long)state.rejected,
                  (long long)state.head, state.hydrated ? "true" : "false", state.tables,
                  (long long)state.held, state.gone);
    result_json(context, &text);
    finish(context, client, ROWSYNC_OK);
}

/* rowsync_requeue, rowsync_discard: all, those of a table, or one row. */
static void
sql_requeue(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);

    if (client != NULL)
        finish(context, client,
               rowsync_requeue(client, argument(count, values, 0), argument(count, values, 1)));
}

static void
sql_discard(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);

    if (client != NULL)
        finish(context, client,
               rowsync_discard(client, argument(count, values, 0), argument(count, values, 1)));
}

/* rowsync_resolve(table, pk, policy) */
static void
sql_resolve(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);
    rowsync_policy policy;

    if (client != NULL && read_policy(context, argument(count, values, 2), &policy))
        finish(context, client,
               rowsync_resolve(client, argument(count, values, 0), argument(count, values, 1),
                               policy));
}

/* rowsync_verify([repair]): how many changes were found that no trigger saw. */
static void
sql_verify(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);
    int64_t found = 0;
    rowsync_code code;

    if (client == NULL)
        return;
    code = rowsync_verify(client, count > 0 && sqlite3_value_int(values[0]), &found);
    sqlite3_result_int64(context, found);
    finish(context, client, code == ROWSYNC_DIFFERENT ? ROWSYNC_OK : code);
}

/* rowsync_compare(): both sides' rows and digests as JSON, equal or not. */
static void
sql_compare(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = client_of(context);
    rowsync_comparison both;
    Buffer text = {0};
    rowsync_code code;

    (void)count;
    (void)values;
    if (client == NULL)
        return;
    code = rowsync_compare(client, NULL, &both);
    if (code == ROWSYNC_OK || code == ROWSYNC_DIFFERENT)
    {
        buffer_printf(&text,
                      "{\"equal\":%s,\"at\":%lld,\"rows_here\":%lld,\"rows_there\":%lld,"
                      "\"digest_here\":\"%s\",\"digest_there\":\"%s\",\"held\":%lld,"
                      "\"untracked\":%s}",
                      code == ROWSYNC_OK ? "true" : "false", (long long)both.at,
                      (long long)both.rows_here, (long long)both.rows_there, both.digest_here,
                      both.digest_there, (long long)both.held, both.untracked);
        result_json(context, &text);
        code = ROWSYNC_OK;
    }
    finish(context, client, code);
}

/* Forgets the client with the connection. */
static void
release(void *slot)
{
    rowsync_close(*(rowsync **)slot);
    rs_free(slot);
}

SQLITE_EXTENSION_INIT1

int sqlite3_rowsync_init(sqlite3 *db, char **message, const sqlite3_api_routines *api);

/* What SQLite calls when it loads the extension. */
int
sqlite3_rowsync_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
    static const struct
    {
        const char *name;
        void (*call)(sqlite3_context *, int, sqlite3_value **);
        int least, most; /* arguments */
    } functions[] = {
        {"rowsync_init", sql_init, 0, 0},       {"rowsync_track", sql_track, 1, 4},
        {"rowsync_untrack", sql_untrack, 1, 2}, {"rowsync_attach", sql_attach, 2, 3},
        {"rowsync_detach", sql_detach, 0, 1},   {"rowsync_token", sql_token, 1, 1},
        {"rowsync_sync", sql_sync, 0, 1},       {"rowsync_push", sql_push, 0, 1},
        {"rowsync_pull", sql_pull, 0, 1},       {"rowsync_hydrate", sql_hydrate, 0, 1},
        {"rowsync_status", sql_status, 0, 0},   {"rowsync_resolve", sql_resolve, 3, 3},
        {"rowsync_requeue", sql_requeue, 0, 2}, {"rowsync_discard", sql_discard, 0, 2},
        {"rowsync_verify", sql_verify, 0, 1},   {"rowsync_compare", sql_compare, 0, 0},
    };
    rowsync **slot;
    int result = SQLITE_OK;
    size_t i;

    SQLITE_EXTENSION_INIT2(api);
    (void)message;
    if (sqlite3_libversion_number() < 3035000)
    {
        *message = sqlite3_mprintf("rowsync needs SQLite 3.35 or later");
        return SQLITE_ERROR;
    }
    slot = rs_realloc(NULL, sizeof(*slot));
    if (slot == NULL)
        return SQLITE_NOMEM;
    *slot = NULL;
    /* The first one owns the slot: SQLite releases it when the connection closes. */
    for (i = 0; i < sizeof(functions) / sizeof(*functions); i++)
        for (int count = functions[i].least; count <= functions[i].most && result == SQLITE_OK;
             count++)
            result = sqlite3_create_function_v2(
                db, functions[i].name, count, SQLITE_UTF8 | SQLITE_DIRECTONLY, slot,
                functions[i].call, NULL, NULL, i == 0 ? release : NULL);
    return result == SQLITE_OK ? loadable_register_tables(db, slot) : result;
}
