/*
 * held.c - rows of the server that could not be applied: edits of them are pending, the app is to
 * decide, or something local is in the way, such as a missing parent. They are tried again whenever
 * something has changed.
 */
#include "client.h"

#include <string.h>

/* Keeps what the server says of a row, the latest of it. */
rowsync_code
held_put(rowsync *client, const Table *table, const Key *key, const RowState *theirs, int state)
{
    sqlite3_stmt *statement = rs_keyed(client, SQL_HELD_PUT, table, key);
    Buffer text = {0};
    rowsync_code code;

    if (statement == NULL)
        return client->code;
    key_to_text(&text, table, key);
    sqlite3_bind_text64(statement, 3, buffer_string(&text), text.length, SQLITE_STATIC,
                        SQLITE_UTF8);
    sqlite3_bind_int(statement, 4, state);
    sqlite3_bind_int64(statement, 5, theirs->version);
    sqlite3_bind_int(statement, 6, theirs->deleted);
    sqlite3_bind_text64(statement, 7, theirs->payload.data, theirs->payload.length, SQLITE_STATIC,
                        SQLITE_UTF8);
    code = text.failed ? rs_nomem(client) : rs_finish(client, statement, "keeping a server row");
    sqlite3_clear_bindings(statement);
    buffer_free(&text);
    return code;
}

/* Reads what is held of a row into `text`; false when there is nothing. */
bool
held_get(rowsync *client, const Table *table, const Key *key, RowState *theirs, int *state,
         Buffer *text)
{
    sqlite3_stmt *statement = rs_keyed(client, SQL_HELD_GET, table, key);
    bool found = false;

    if (statement == NULL)
        return false;
    if (rs_row(client, statement))
    {
        found = true;
        theirs->version = sqlite3_column_int64(statement, 0);
        theirs->deleted = sqlite3_column_int(statement, 1) != 0;
        *state = sqlite3_column_int(statement, 3);
        buffer_clear(text);
        buffer_append(text, sqlite3_column_text(statement, 2),
                      (size_t)sqlite3_column_bytes(statement, 2));
        theirs->payload = (Slice){theirs->deleted ? NULL : text->data, text->length};
        if (text->failed)
            rs_nomem(client);
    }
    return rs_reset(client, statement) == ROWSYNC_OK && found;
}

/*
 * Applies what is held of a row whose edits are gone. What still cannot be stored stays held.
 * Inside a transaction with capture off. *applied says whether it was.
 */
static rowsync_code
apply(rowsync *client, Table *table, const Key *key, bool together, bool *applied)
{
    Buffer text = {0};
    RowState theirs;
    int64_t version;
    int state;
    bool deleted, refused = false, orphans = together || rs_orphans(client);

    *applied = false;
    if (held_get(client, table, key, &theirs, &state, &text) && state != 1 &&
        !(together && theirs.deleted) &&
        row_version(client, table, key, &version, &deleted) == ROWSYNC_OK)
    {
        if (rs_run(client, SQL_SAVE) == ROWSYNC_OK)
        {
            if (theirs.version > version)
                row_put(client, table, key, &theirs, &refused);
            if (client->code == ROWSYNC_OK && (refused || (!orphans && rs_orphans(client))))
                rs_run(client, SQL_UNDO);
            else if (client->code == ROWSYNC_OK)
                *applied = row_drop(client, SQL_HELD_DROP, table, key) == ROWSYNC_OK;
            rs_run(client, SQL_RELEASE);
        }
    }
    buffer_free(&text);
    return client->code;
}

/* Applies what is held of one row, unless that would leave an orphan. */
rowsync_code
held_apply(rowsync *client, Table *table, const Key *key, bool *applied)
{
    return apply(client, table, key, false, applied);
}

/*
 * Applies what is held, again and again as long as that brings something forward; `together` for
 * rows that need each other, whatever orphans there are in between. The query must sort: after a
 * change of the schema in this transaction, as every hydration makes, apply()'s ROLLBACK TO ends
 * each statement that still reads a table, and one that reads from its sorter alone goes on.
 */
static rowsync_code
retry(rowsync *client, bool together)
{
    sqlite3_stmt *statement = NULL;
    RowList list = {0};
    bool progress = true, applied;
    int i;
    rowsync_code code =
        rs_prepare(client,
                   "SELECT table_id, pk FROM _sync_held h WHERE state <> 1"
                   " AND NOT EXISTS (SELECT 1 FROM _sync_dirty d WHERE d.table_id ="
                   " h.table_id AND d.pk = h.pk) AND NOT EXISTS (SELECT 1 FROM _sync_rejected"
                   " r WHERE r.table_id = h.table_id AND r.pk = h.pk) ORDER BY server_version",
                   &statement);

    while (progress && code == ROWSYNC_OK)
    {
        progress = false;
        code = rows_read(client, statement, &list);
        for (i = 0; i < list.count && code == ROWSYNC_OK; i++)
        {
            code = apply(client, list.rows[i].table, &list.rows[i].key, together, &applied);
            progress |= applied;
        }
    }
    sqlite3_finalize(statement);
    rows_free(&list);
    return client->code;
}

/*
 * Gives the unique columns of every row that is held a value that nobody has, so that rows which
 * pass their values on in a circle can be stored. The caller undoes it for rows that cannot.
 */
static rowsync_code
vacate(rowsync *client)
{
    sqlite3_stmt *columns = NULL, *held = NULL;
    Key key = {0};
    rowsync_code code = rs_prepare(
        client,
        "SELECT DISTINCT f.name, c.\"notnull\", c.type FROM pragma_index_list(?1, 'main') i"
        " JOIN pragma_index_info(i.name, 'main') f JOIN pragma_table_info(?1, 'main') c"
        " ON c.name = f.name WHERE i.\"unique\" AND i.origin <> 'pk' AND c.pk = 0",
        &columns);

    if (code == ROWSYNC_OK)
        code = rs_prepare(
            client, "SELECT table_id, pk FROM _sync_held WHERE state = 2 AND NOT deleted", &held);
    while (code == ROWSYNC_OK && rs_row(client, held))
    {
        Table *table = table_by_id(client, sqlite3_column_int64(held, 0));
        Buffer sql = {0};
        int i, count = 0;

        if (table == NULL || !table->exists ||
            (code = key_column(client, held, 1, &key)) != ROWSYNC_OK)
            continue;
        buffer_text(&sql, "UPDATE OR IGNORE main.");
        buffer_name(&sql, table->name);
        sqlite3_reset(columns);
        sqlite3_bind_text(columns, 1, table->name, -1, SQLITE_STATIC);
        for (; rs_row(client, columns); count++)
        {
            buffer_text(&sql, count == 0 ? " SET " : ", ");
            buffer_name(&sql, rs_text(columns, 0));
            buffer_text(&sql, !sqlite3_column_int(columns, 1) ? " = NULL"
                              : sqlite3_stricmp(rs_text(columns, 2), "INTEGER") == 0
                                  ? " = random()"
                                  : " = hex(randomblob(16))");
        }
        sqlite3_reset(columns);
        for (i = 0; i < table->key_count; i++)
        {
            buffer_text(&sql, i == 0 ? " WHERE " : " AND ");
            buffer_name(&sql, table->columns[table->keys[i]].name);
            buffer_printf(&sql, " = ?%d", i + 1);
        }
        if (sql.failed)
            rs_nomem(client);
        code = client->code;
        if (code == ROWSYNC_OK && count > 0)
        {
            sqlite3_stmt *update = NULL;

            code = rs_prepare(client, sql.data, &update);
            if (code == ROWSYNC_OK)
            {
                key_bind_columns(table, update, 1, &key);
                code = rs_finish(client, update, "making room for unique values");
            }
            sqlite3_finalize(update);
        }
        buffer_free(&sql);
    }
    sqlite3_finalize(columns);
    sqlite3_finalize(held);
    key_free(&key);
    return client->code;
}

/* The number of rows that are held because something local is in the way; see client->code. */
static int64_t
count_stuck(rowsync *client)
{
    sqlite3_stmt *statement = NULL;
    int64_t count = 0;

    if (rs_prepare(client, "SELECT count(*) FROM _sync_held WHERE state = 2", &statement) ==
            ROWSYNC_OK &&
        rs_row(client, statement))
        count = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return count;
}

/*
 * Tries again what could not be stored: a parent may have come, a unique value been freed. What is
 * left is tried once more with all its unique values out of the way, all or nothing.
 */
rowsync_code
held_retry(rowsync *client)
{
    rowsync_code code = retry(client, false);

    /* Rows that refer to each other in a circle go in together; what stays an orphan comes out. */
    if (code == ROWSYNC_OK && count_stuck(client) > 1 && (code = retry(client, true)) == ROWSYNC_OK)
        code = take_out_orphans(client);
    if (code != ROWSYNC_OK || count_stuck(client) == 0)
        return client->code;
    if ((code = rs_exec(client, "SAVEPOINT _sync_vacate")) != ROWSYNC_OK)
        return code;
    if ((code = vacate(client)) == ROWSYNC_OK && (code = retry(client, false)) == ROWSYNC_OK)
    {
        bool stuck = count_stuck(client) > 0;

        if (client->code == ROWSYNC_OK)
            rs_exec(client, stuck ? "ROLLBACK TO _sync_vacate; RELEASE _sync_vacate"
                                  : "RELEASE _sync_vacate");
    }
    return client->code;
}
