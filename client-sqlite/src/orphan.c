/*
 * orphan.c - rows whose parent is missing, which no commit would let through.
 *
 * They come about where the server's rows and those of this device meet: a parent that was deleted
 * there and got a child here, a parent that could not be stored, a change given up. They are looked
 * for only when SQLite counts a violation, and not by PRAGMA foreign_key_check, which does not name
 * the rows of a table without rowid.
 */
#include "client.h"

#include <string.h>

/* Would the transaction's commit fail now for a foreign key? */
bool
rs_orphans(rowsync *client)
{
    int now = 0, high = 0;

    return sqlite3_db_status(client->db, SQLITE_DBSTATUS_DEFERRED_FKS, &now, &high, 0) ==
               SQLITE_OK &&
           now > 0;
}

/*
 * Rows of tables that are not tracked may refer to one that the server has deleted (row_put() sees
 * that), or to one whose parent it has deleted: then that row cannot go, and its parent's going
 * makes an orphan of it. Where that is so after everything was taken in, the transaction is given
 * up and begun anew, once in a call, with all deletions held (row_take()): those that make no
 * orphans are then done one by one by held_retry(), the others stay held, and block nothing.
 */
bool
orphans_stuck(rowsync *client)
{
    if (client->code != ROWSYNC_OK || client->cautious || !rs_orphans(client))
        return false;
    rs_log(client, "rows that are not synced hold on to deleted ones: deletions are done singly");
    client->cautious = true;
    return true;
}

/* Rows that are `whose` have to go, and cannot. */
rowsync_code
orphans_fail(rowsync *client, const char *whose)
{
    return rs_fail(client, ROWSYNC_DATABASE,
                   "Delete the rows that refer to them first, or let their reference say ON DELETE"
                   " CASCADE or SET NULL.",
                   "Rows of a table that is not tracked refer to %s, which cannot go.", whose);
}

/*
 * SELECT the columns FROM "child" t WHERE a reference of t has no parent. Empty where the table
 * refers to nothing. A NULL in a reference refers to nothing either.
 */
static rowsync_code
write_query(rowsync *client, const Table *table, Buffer *sql)
{
    sqlite3_stmt *statement = NULL;
    Buffer given = {0}, match = {0};
    int i, references = 0;
    bool more;
    rowsync_code code = rs_prepare(
        client,
        "SELECT f.\"table\", f.seq, f.\"from\", coalesce(f.\"to\", (SELECT name FROM"
        " pragma_table_xinfo(f.\"table\", 'main') WHERE pk = f.seq + 1)) FROM"
        " pragma_foreign_key_list(?1, 'main') f JOIN main.sqlite_schema m ON m.type = 'table'"
        " AND m.name = f.\"table\" COLLATE NOCASE ORDER BY f.id, f.seq",
        &statement);

    if (code != ROWSYNC_OK)
        return code;
    sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
    buffer_text(sql, "SELECT ");
    for (i = 0; i < table->column_count; i++)
    {
        buffer_text(sql, i > 0 ? ", t." : "t.");
        buffer_name(sql, table->columns[i].name);
    }
    buffer_text(sql, " FROM main.");
    buffer_name(sql, table->name);
    buffer_text(sql, " t WHERE ");
    do
    {
        more = rs_row(client, statement);
        if (match.length > 0 && (!more || sqlite3_column_int(statement, 1) == 0))
        {
            buffer_printf(sql, "%s(%s AND NOT EXISTS (%s))", references++ > 0 ? " OR " : "",
                          buffer_string(&given), buffer_string(&match));
            buffer_clear(&given);
            buffer_clear(&match);
        }
        if (!more)
            break;
        if (match.length == 0)
        {
            buffer_text(&match, "SELECT 1 FROM main.");
            buffer_name(&match, rs_text(statement, 0));
            buffer_text(&match, " p WHERE p.");
        }
        else
        {
            buffer_text(&given, " AND ");
            buffer_text(&match, " AND p.");
        }
        /* The parent's column first: its collation counts. */
        buffer_name(&match, rs_text(statement, 3));
        buffer_text(&match, " = t.");
        buffer_name(&match, rs_text(statement, 2));
        buffer_text(&given, "t.");
        buffer_name(&given, rs_text(statement, 2));
        buffer_text(&given, " IS NOT NULL");
    } while (more);
    sqlite3_finalize(statement);
    if (references == 0)
        buffer_clear(sql);
    if (sql->failed || given.failed || match.failed)
        rs_nomem(client);
    buffer_free(&given);
    buffer_free(&match);
    return client->code;
}

/* Reads the key and the content of the row at hand. */
static rowsync_code
read_row(rowsync *client, const Table *table, sqlite3_stmt *row, Key *key, Buffer *payload)
{
    Buffer array = {0};
    rowsync_code code = ROWSYNC_OK;
    int i;

    buffer_clear(payload);
    for (i = 0; i < table->column_count; i++)
    {
        buffer_byte(payload, i > 0 ? ',' : '{');
        buffer_text(payload, table->columns[i].member);
        value_write(payload, &table->columns[i], row, i);
    }
    buffer_byte(payload, '}');
    if (payload->failed)
        return rs_nomem(client);
    if (table->key_count == 1)
        return key_column(client, row, table->keys[0], key);
    for (i = 0; i < table->key_count; i++)
    {
        buffer_byte(&array, i > 0 ? ',' : '[');
        value_write(&array, &table->columns[table->keys[i]], row, table->keys[i]);
    }
    buffer_byte(&array, ']');
    if (array.failed || !key_from_wire(table, (Slice){buffer_string(&array), array.length}, key))
        code = rs_nomem(client);
    buffer_free(&array);
    return code;
}

/*
 * Takes a row without its parent out of the table. The server's row is held until the parent is
 * there; an edit of this device becomes a dead letter that keeps the row's content. *taken is false
 * where a table that is not tracked forbids it.
 */
static rowsync_code
take_out(rowsync *client, Table *table, const Key *key, Slice payload, bool *taken)
{
    static const char message[] = "The row that it refers to was deleted on the server.";
    /* Version 0: what is held will be newer. */
    const RowState gone = {0, true, {0}};
    Change change = {.table = table, .key = *key};
    Buffer ignored = {0};
    RowState state = {.payload = payload};
    const char *problem;
    bool edited, moved, deleted, refused;

    *taken = false;
    if (has_edits(client, table, key, &edited) != ROWSYNC_OK ||
        row_version(client, table, key, &state.version, &deleted) != ROWSYNC_OK)
        return client->code;
    if (edited)
        change_payload(client, &change, &ignored, true, &problem);
    buffer_free(&ignored);
    if (client->code != ROWSYNC_OK ||
        row_drop(client, SQL_VERSION_DROP, table, key) != ROWSYNC_OK ||
        row_put(client, table, key, &gone, &refused) != ROWSYNC_OK)
        return client->code;
    if (refused)
        return row_set_version(client, table, key, state.version, deleted);
    *taken = true;
    if (row_drop(client, SQL_VERSION_DROP, table, key) != ROWSYNC_OK)
        return client->code;
    if (!edited)
        return held_put(client, table, key, &state, 2);
    return change.change_id == 0
               ? ROWSYNC_OK
               : pending_reject(client, &change, payload, "parent_deleted",
                                (Slice){message, strlen(message)}, (Slice){0}, &moved);
}

/* Takes out the rows of one table whose parents are missing. Sets *progress where there are some.
 */
static rowsync_code
take_out_of(rowsync *client, Table *table, bool *progress)
{
    sqlite3_stmt *statement = NULL;
    Buffer sql = {0}, payload = {0};
    Key key = {0};
    rowsync_code code = write_query(client, table, &sql);

    if (code == ROWSYNC_OK && sql.length > 0)
        code = rs_prepare(client, sql.data, &statement);
    while (code == ROWSYNC_OK && statement != NULL && rs_row(client, statement))
    {
        bool taken = false;

        if ((code = read_row(client, table, statement, &key, &payload)) == ROWSYNC_OK)
            code = take_out(client, table, &key, (Slice){payload.data, payload.length}, &taken);
        *progress |= taken;
    }
    sqlite3_finalize(statement);
    buffer_free(&sql);
    buffer_free(&payload);
    key_free(&key);
    return client->code;
}

/* Takes out every row whose parent is missing, and then theirs, until the commit can go through. */
rowsync_code
take_out_orphans(rowsync *client)
{
    rowsync_code code = ROWSYNC_OK;
    bool progress = true;
    int i;

    while (code == ROWSYNC_OK && progress && rs_orphans(client))
    {
        progress = false;
        for (i = 0; i < client->table_count && code == ROWSYNC_OK; i++)
            if (client->tables[i].exists)
                code = take_out_of(client, &client->tables[i], &progress);
    }
    return code;
}
