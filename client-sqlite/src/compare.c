/*
 * compare.c - proves that a device has what the server has: both digest the versions of all their
 * rows at the same place of the log, and no row is held because its table here cannot take it.
 */
#include "client.h"
#include "digest.h"
#include "listing.h"

#include <string.h>

/* How often is begun anew where another process syncs the same database meanwhile. */
#define TRIES 3

/*
 * The version of every row as the server last told it: what is noted, or newer, what is held
 * because it cannot be stored yet.
 */
static const char rows_sql[] =
    "SELECT v.pk, CASE WHEN h.server_version > v.server_version THEN h.server_version ELSE"
    " v.server_version END AS version FROM main._sync_version v LEFT JOIN main._sync_held h"
    " USING (table_id, pk) WHERE v.table_id = ?1 AND NOT CASE WHEN h.server_version >"
    " v.server_version THEN h.deleted"
    " ELSE v.deleted END"
    " UNION ALL SELECT h.pk, h.server_version FROM main._sync_held h WHERE h.table_id = ?1 AND NOT"
    " h.deleted AND NOT EXISTS (SELECT 1 FROM main._sync_version v WHERE v.table_id = h.table_id"
    " AND v.pk = h.pk)";

/* Adds the rows of a table. */
static rowsync_code
add_table(rowsync *client, const Table *table, Digest *digest)
{
    sqlite3_stmt *statement = NULL;
    Buffer name = {0}, text = {0};
    Key key = {0};
    rowsync_code code = rs_prepare(client, rows_sql, &statement);
    int result = SQLITE_DONE;

    digest_table(&name, (Slice){table->schema, strlen(table->schema)},
                 (Slice){table->name, strlen(table->name)});
    if (code == ROWSYNC_OK)
        sqlite3_bind_int64(statement, 1, table->id);
    while (code == ROWSYNC_OK && (result = sqlite3_step(statement)) == SQLITE_ROW)
    {
        if ((code = key_column(client, statement, 0, &key)) != ROWSYNC_OK)
            break;
        buffer_clear(&text);
        key_to_text(&text, table, &key);
        digest->failed |= text.failed || name.failed;
        digest_add(digest, (Slice){name.data, name.length},
                   (Slice){buffer_string(&text), text.length}, sqlite3_column_int64(statement, 1));
        if (digest->failed)
            code = rs_nomem(client);
    }
    if (code == ROWSYNC_OK && result != SQLITE_DONE)
        code = rs_fail_sqlite(client, "reading versions");
    sqlite3_finalize(statement);
    buffer_free(&name);
    buffer_free(&text);
    key_free(&key);
    return code;
}

/* Digests this database, and notes up to which place of the log it has come. */
static rowsync_code
digest_here(rowsync *client, rowsync_comparison *out)
{
    Digest digest;
    rowsync_code code;
    int i;

    digest_start(&digest);
    code = digest.failed ? rs_nomem(client) : rs_start(client, SQL_BEGIN_READING);
    if (code == ROWSYNC_OK)
    {
        code = rs_load_info(client);
        for (i = 0; i < client->table_count && code == ROWSYNC_OK; i++)
            code = add_table(client, &client->tables[i], &digest);
        code = rs_stop(client, code);
    }
    out->at = client->cursor;
    out->rows_here = digest.rows;
    digest_text(&digest, out->digest_here);
    digest_free(&digest);
    return code;
}

/* Asks the server for its digest at the same place. */
static rowsync_code
digest_there(rowsync *client, const rowsync_sync_options *options, rowsync_comparison *out)
{
    static const char *const names[] = {"at", "rows", "digest"};
    Exchange answer = {0};
    Buffer path = {0};
    Slice fields[3];
    int64_t at = 0;
    rowsync_code code;

    buffer_printf(&path, "/sync/digest?at=%lld", (long long)out->at);
    code = path.failed ? rs_nomem(client)
                       : rs_request(client, "GET", path.data, NULL, options->max_tries, &answer);
    if (code == ROWSYNC_OK && answer.status == 410)
        code = rs_fail(client, ROWSYNC_PRUNED, "Sync, and compare again.",
                       "The server no longer knows what it had at %lld.", (long long)out->at);
    else if (code == ROWSYNC_OK &&
             (answer.status != 200 ||
              !scan_fields((Slice){buffer_string(&answer.body), answer.body.length}, names, fields,
                           3) ||
              !scan_int64(fields[0], &at) || !scan_int64(fields[1], &out->rows_there) ||
              fields[2].data == NULL || fields[2].length != DIGEST_DIGITS + 2))
        code = rs_fail(client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                       "The answer to a request for a digest is none.");
    else if (code == ROWSYNC_OK)
        memcpy(out->digest_there, fields[2].data + 1, DIGEST_DIGITS);
    if (code == ROWSYNC_OK && at != out->at)
        code = rs_fail(client, ROWSYNC_DIFFERENT, HINT_RESTORED,
                       "The server's log ends at %lld, this database has read it up to %lld.",
                       (long long)at, (long long)out->at);
    buffer_free(&answer.body);
    buffer_free(&path);
    return code;
}

/*
 * Lists the tables that the server syncs and that are not tracked here: for people by commas, and
 * in client->untracked.
 */
static rowsync_code
list_untracked(rowsync *client, const rowsync_sync_options *options, Buffer *out)
{
    Buffer *list = &client->untracked;
    static const char *const names[] = {"tables"};
    static const char *const table_names[] = {"schema", "table"};
    Exchange answer = {0};
    JsonReader reader;
    Slice tables, table, fields[2];
    Buffer schema = {0}, name = {0};
    bool first = true;
    rowsync_code code =
        rs_request(client, "GET", "/sync/schema", NULL, options->max_tries, &answer);

    if (code == ROWSYNC_OK && answer.status == 200 &&
        scan_fields((Slice){buffer_string(&answer.body), answer.body.length}, names, &tables, 1) &&
        tables.data != NULL)
    {
        reader = scan_reader(tables);
        if (scan_enter(&reader, '['))
            for (; scan_next_element(&reader, first, &table); first = false)
            {
                buffer_clear(&schema);
                buffer_clear(&name);
                if (scan_fields(table, table_names, fields, 2) && scan_string(fields[0], &schema) &&
                    scan_string(fields[1], &name) &&
                    table_by_name(client, fields[0], fields[1]) == NULL)
                {
                    buffer_byte(&schema, '.');
                    buffer_append(&schema, buffer_string(&name), name.length);
                    buffer_printf(out, "%s%s", out->length > 0 ? ", " : "", buffer_string(&schema));
                    buffer_byte(list, list->length > 0 ? ',' : '[');
                    buffer_json_text(list, buffer_string(&schema), schema.length);
                }
            }
    }
    if (list->length > 0)
        buffer_byte(list, ']');
    if (code == ROWSYNC_OK && (out->failed || list->failed || schema.failed || name.failed))
        code = rs_nomem(client);
    buffer_free(&answer.body);
    buffer_free(&schema);
    buffer_free(&name);
    return code;
}

/* The digests differ: says why, as far as that can be told. */
static rowsync_code
fail_different(rowsync *client, const rowsync_sync_options *options, rowsync_comparison *out)
{
    Buffer untracked = {0};
    rowsync_code code = list_untracked(client, options, &untracked);

    if (code != ROWSYNC_NOMEM && code != ROWSYNC_CANCELLED)
        code = client->code = ROWSYNC_OK; /* they differ all the same */
    if (code == ROWSYNC_OK && untracked.length > 0)
    {
        out->untracked = client->untracked.data;
        code = rs_fail(client, ROWSYNC_DIFFERENT,
                       "Track them to compare: the digests are those of all tables.",
                       "The rows differ: the server has %lld, here are %lld. The server also syncs"
                       " tables that are not tracked here: %.600s.",
                       (long long)out->rows_there, (long long)out->rows_here, untracked.data);
    }
    else if (code == ROWSYNC_OK)
        code = rs_fail(client, ROWSYNC_DIFFERENT,
                       "rowsync_hydrate() takes what the server has, and leaves pending edits.",
                       "The rows differ: on the server %lld with the digest %s, here %lld with %s.",
                       (long long)out->rows_there, out->digest_there, (long long)out->rows_here,
                       out->digest_here);
    buffer_free(&untracked);
    return code;
}

/* All rows are known here. Fails where some of them are not in their tables. */
static rowsync_code
check_held(rowsync *client, rowsync_comparison *out)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code = rs_prepare(client, rs_listings[ROWSYNC_LIST_HELD].sql, &statement);
    Buffer first = {0};

    for (; code == ROWSYNC_OK && rs_row(client, statement); out->held++)
        if (out->held == 0)
            buffer_printf(&first, "%s %s (%s)", rs_text(statement, 0), rs_text(statement, 1),
                          rs_text(statement, 2));
    sqlite3_finalize(statement);
    if (client->code == ROWSYNC_OK && first.failed)
        rs_nomem(client);
    if (client->code == ROWSYNC_OK && out->held > 0)
        rs_fail(client, ROWSYNC_DIFFERENT,
                "See the list of held rows (`rowsync held`); they are tried again with every pull.",
                "%lld of the server's rows cannot be stored here: %s%s.", (long long)out->held,
                first.data, out->held > 1 ? ", ..." : "");
    buffer_free(&first);
    return client->code;
}

rowsync_code
rowsync_compare(rowsync *client, const rowsync_sync_options *given, rowsync_comparison *out)
{
    rowsync_sync_options options = {.max_tries = 5};
    rowsync_comparison local;
    rowsync_code code = ROWSYNC_OK;
    int tries;

    if (given != NULL && given->max_tries > 0)
        options.max_tries = given->max_tries;
    if (out == NULL)
        out = &local;
    memset(out, 0, sizeof(*out));
    out->untracked = "[]";
    buffer_clear(&client->untracked);
    for (tries = 0; tries < TRIES; tries++)
    {
        if ((code = rowsync_pull(client, given, NULL)) != ROWSYNC_OK ||
            (code = digest_here(client, out)) != ROWSYNC_OK ||
            (code = digest_there(client, &options, out)) != ROWSYNC_OK ||
            strcmp(out->digest_here, out->digest_there) == 0 ||
            (code = rs_load_info(client)) != ROWSYNC_OK || client->cursor == out->at)
            break;
    }
    if (code == ROWSYNC_OK && strcmp(out->digest_here, out->digest_there) != 0)
        return fail_different(client, &options, out);
    return code == ROWSYNC_OK ? check_held(client, out) : code;
}
