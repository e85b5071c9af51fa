/*
 * local.c - what the columns that stay on the device have of a row that leaves its table for a
 * while.
 *
 * Nobody else has it. It is kept in _sync_local when a row has to go that may come back: from what
 * is held, with a dead letter that is sent again, or from the server. It is put in with the row,
 * and forgotten when the server has deleted that.
 */
#include "client.h"

/* Keeps the local columns of a row that is about to go. */
rowsync_code
local_keep(rowsync *client, const Table *table, const Key *key)
{
    sqlite3_stmt *statement = NULL;
    Buffer sql = {0};
    int i;

    for (i = 0; i < table->local_count && client->code == ROWSYNC_OK; i++)
    {
        buffer_clear(&sql);
        buffer_printf(&sql, "INSERT OR REPLACE INTO main._sync_local SELECT %lld, ?1, ",
                      (long long)table->id);
        buffer_literal(&sql, table->locals[i]);
        buffer_text(&sql, ", ");
        sql_field(&sql, "t", table->locals[i]);
        buffer_text(&sql, " FROM main.");
        buffer_name(&sql, table->name);
        buffer_text(&sql, " t WHERE ");
        sql_row_is(&sql, table, "t.", 2);
        if (sql.failed)
            rs_nomem(client);
        else if (rs_prepare(client, sql.data, &statement) == ROWSYNC_OK)
        {
            key_bind(statement, 1, key);
            key_bind_columns(table, statement, 2, key);
            rs_finish(client, statement, "keeping a local column");
        }
        sqlite3_finalize(statement);
        statement = NULL;
    }
    buffer_free(&sql);
    return client->code;
}

/* Is anything kept of the row? See client->code. */
bool
local_kept(rowsync *client, const Table *table, const Key *key)
{
    sqlite3_stmt *statement =
        table->local_count > 0 ? rs_keyed(client, SQL_LOCAL_ANY, table, key) : NULL;
    bool kept = statement != NULL && rs_row(client, statement);

    return statement != NULL && rs_reset(client, statement) == ROWSYNC_OK && kept;
}

/* Puts one column back, unless a constraint is against it by now, or what it refers to is gone. */
static rowsync_code
put_column(rowsync *client, Table *table, const Key *key, sqlite3_stmt *statement)
{
    Outcome out = {0};
    bool orphans = rs_orphans(client);

    if (rs_run(client, SQL_SAVE) != ROWSYNC_OK)
        return client->code;
    key_bind(statement, 1, key);
    key_bind_columns(table, statement, 2, key);
    if (effects_step(client, table, key, statement, false, false, &out) == ROWSYNC_OK &&
        (out.result != SQLITE_DONE || (!orphans && rs_orphans(client))))
        rs_run(client, SQL_UNDO);
    return client->code == ROWSYNC_OK ? rs_run(client, SQL_RELEASE) : client->code;
}

/* Puts back what is kept of a row that is in its table again. */
rowsync_code
local_return(rowsync *client, Table *table, const Key *key)
{
    sqlite3_stmt *statement = NULL;
    Buffer sql = {0};
    int i;

    for (i = 0; i < table->local_count && client->code == ROWSYNC_OK; i++)
    {
        buffer_clear(&sql);
        buffer_text(&sql, "UPDATE OR ABORT main.");
        buffer_name(&sql, table->name);
        buffer_text(&sql, " AS t SET ");
        buffer_name(&sql, table->locals[i]);
        buffer_text(&sql, " = s.value FROM main._sync_local s WHERE ");
        sql_row_is(&sql, table, "t.", 2);
        buffer_printf(&sql,
                      " AND s.table_id = %lld AND s.pk = ?1 AND s.name = ", (long long)table->id);
        buffer_literal(&sql, table->locals[i]);
        if (sql.failed)
            rs_nomem(client);
        else if (rs_prepare(client, sql.data, &statement) == ROWSYNC_OK)
            put_column(client, table, key, statement);
        sqlite3_finalize(statement);
        statement = NULL;
    }
    buffer_free(&sql);
    return client->code == ROWSYNC_OK ? row_drop(client, SQL_LOCAL_DROP, table, key) : client->code;
}
