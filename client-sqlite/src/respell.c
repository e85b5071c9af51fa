/*
 * respell.c - a key that the server spells otherwise, such as a uuid in capitals in a TEXT column.
 *
 * All other devices get the row under the server's spelling. So this one takes it over as soon as
 * the answer to an upload tells: in the row, in the rows that refer to it, in what is noted of it.
 * Otherwise the next edit of another device would be a second row here.
 */
#include "client.h"

#include <string.h>

/* Are two keys the same value? */
static bool
same_key(const Key *one, const Key *other)
{
    if (one->type != other->type)
        return false;
    if (one->type == SQLITE_INTEGER)
        return one->integer == other->integer;
    return one->bytes.length == other->bytes.length &&
           memcmp(buffer_string(&one->bytes), buffer_string(&other->bytes), one->bytes.length) == 0;
}

/* Runs an UPDATE whose first parameters are the new key's columns and the next the old one's. */
static rowsync_code
run(rowsync *client, const Table *table, const Buffer *sql, const Key *from, const Key *to)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code =
        sql->failed ? rs_nomem(client) : rs_prepare(client, buffer_string(sql), &statement);

    if (code != ROWSYNC_OK)
        return code;
    key_bind_columns(table, statement, 1, to);
    key_bind_columns(table, statement, table->key_count + 1, from);
    code = rs_finish(client, statement, "taking over the server's spelling of a key");
    sqlite3_finalize(statement);
    return code;
}

/* The place of a column in the key, or -1. */
static int
place_in_key(const Table *table, const char *name)
{
    int i;

    for (i = 0; name != NULL && i < table->key_count; i++)
        if (sqlite3_stricmp(table->columns[table->keys[i]].name, name) == 0)
            return i;
    return -1;
}

/*
 * Lets every reference to the old key, of any table, be one to the new. Before the row itself
 * changes, so that no ON UPDATE of a reference has anything to do.
 */
static rowsync_code
move_references(rowsync *client, const Table *table, const Key *from, const Key *to)
{
    sqlite3_stmt *statement = NULL;
    Buffer sql = {0}, set = {0}, match = {0};
    bool more, usable = false;
    rowsync_code code = rs_prepare(
        client,
        "SELECT m.name, f.seq, f.\"from\", coalesce(f.\"to\", (SELECT name FROM"
        " pragma_table_xinfo(?1, 'main') WHERE pk = f.seq + 1)) FROM main.sqlite_schema m JOIN"
        " pragma_foreign_key_list(m.name, 'main') f WHERE m.type = 'table' AND f.\"table\" = ?1"
        " COLLATE NOCASE ORDER BY m.name, f.id, f.seq",
        &statement);

    if (code != ROWSYNC_OK)
        return code;
    sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
    do
    {
        int place;

        more = rs_row(client, statement);
        if (sql.length > 0 && (!more || sqlite3_column_int(statement, 1) == 0))
        {
            buffer_printf(&sql, " SET %s WHERE %s", buffer_string(&set), buffer_string(&match));
            sql.failed |= set.failed || match.failed;
            if (usable && client->code == ROWSYNC_OK)
                run(client, table, &sql, from, to);
            buffer_clear(&sql);
            buffer_clear(&set);
            buffer_clear(&match);
        }
        if (!more || client->code != ROWSYNC_OK)
            break;
        if (sql.length == 0)
        {
            usable = true;
            buffer_text(&sql, "UPDATE main.");
            buffer_name(&sql, rs_text(statement, 0));
        }
        /* A reference to other unique columns is none to the key. */
        place = place_in_key(table, rs_text(statement, 3));
        usable &= place >= 0;
        buffer_text(&set, set.length > 0 ? ", " : "");
        buffer_name(&set, rs_text(statement, 2));
        buffer_printf(&set, " = ?%d", place + 1);
        buffer_text(&match, match.length > 0 ? " AND " : "");
        buffer_name(&match, rs_text(statement, 2));
        buffer_printf(&match, " = ?%d", table->key_count + place + 1);
    } while (more);
    sqlite3_finalize(statement);
    buffer_free(&sql);
    buffer_free(&set);
    buffer_free(&match);
    return client->code;
}

/* Gives the row its new key. Where a download has brought that row before, the old one goes. */
static rowsync_code
move_row(rowsync *client, Table *table, const Key *from, const Key *to)
{
    Buffer sql = {0};
    bool there = row_there(client, table, to);
    int i;

    if (client->code != ROWSYNC_OK)
        return client->code;
    if (there)
    {
        sqlite3_stmt *statement;

        if (local_keep(client, table, from) != ROWSYNC_OK ||
            (statement = table_statement(client, table, TABLE_DELETE)) == NULL)
            return client->code;
        key_bind_columns(table, statement, 1, from);
        return rs_finish(client, statement, "removing a row under its old key");
    }
    buffer_text(&sql, "UPDATE main.");
    buffer_name(&sql, table->name);
    for (i = 0; i < table->key_count; i++)
    {
        buffer_text(&sql, i > 0 ? ", " : " SET ");
        buffer_name(&sql, table->columns[table->keys[i]].name);
        buffer_printf(&sql, " = ?%d", i + 1);
    }
    for (i = 0; i < table->key_count; i++)
    {
        buffer_text(&sql, i > 0 ? " AND " : " WHERE ");
        buffer_name(&sql, table->columns[table->keys[i]].name);
        buffer_printf(&sql, " = ?%d", table->key_count + i + 1);
    }
    run(client, table, &sql, from, to);
    buffer_free(&sql);
    return client->code;
}

/* Lets what is noted of the row be that of the new key. */
static rowsync_code
move_notes(rowsync *client, const Table *table, const Key *from, const Key *to)
{
    static const char *const updates[] = {
        "UPDATE OR REPLACE main._sync_version SET pk = ?3 WHERE table_id = ?1 AND pk = ?2",
        "UPDATE OR REPLACE main._sync_dirty SET pk = ?3 WHERE table_id = ?1 AND pk = ?2",
        ("UPDATE OR REPLACE main._sync_held SET pk = ?3, pk_text = ?4 WHERE table_id = ?1 AND"
         " pk = ?2"),
        "UPDATE OR REPLACE main._sync_local SET pk = ?3 WHERE table_id = ?1 AND pk = ?2",
        ("UPDATE OR REPLACE main._sync_rejected SET pk = ?3, pk_text = ?4 WHERE table_id = ?1 AND"
         " pk = ?2")};
    Buffer text = {0};
    size_t i;

    key_to_text(&text, table, to);
    if (text.failed)
        rs_nomem(client);
    for (i = 0; i < sizeof(updates) / sizeof(*updates) && client->code == ROWSYNC_OK; i++)
    {
        sqlite3_stmt *statement = NULL;

        if (rs_prepare(client, updates[i], &statement) != ROWSYNC_OK)
            break;
        sqlite3_bind_int64(statement, 1, table->id);
        key_bind(statement, 2, from);
        key_bind(statement, 3, to);
        if (sqlite3_bind_parameter_count(statement) > 3)
            sqlite3_bind_text64(statement, 4, buffer_string(&text), text.length, SQLITE_STATIC,
                                SQLITE_UTF8);
        rs_finish(client, statement, "noting the server's spelling of a key");
        sqlite3_finalize(statement);
    }
    buffer_free(&text);
    return client->code;
}

/*
 * Takes over the key of a row as the server spells it, in *key too. `id` is as it stands in a
 * server_row. Inside a transaction with capture off.
 */
rowsync_code
key_respell(rowsync *client, Table *table, Slice id, Key *key)
{
    Key to = {0};

    if (!key_from_wire(table, id, &to))
    {
        bool failed = to.bytes.failed;

        key_free(&to);
        return failed ? rs_nomem(client) : ROWSYNC_OK; /* of no use for anything */
    }
    if (!same_key(key, &to) && move_references(client, table, key, &to) == ROWSYNC_OK &&
        move_row(client, table, key, &to) == ROWSYNC_OK &&
        move_notes(client, table, key, &to) == ROWSYNC_OK &&
        (!local_kept(client, table, &to) || local_return(client, table, &to) == ROWSYNC_OK) &&
        client->code == ROWSYNC_OK)
    {
        Key from = *key;

        *key = to;
        to = from;
    }
    key_free(&to);
    return client->code;
}
