/*
 * tracking.c - rowsync_track() and rowsync_untrack(): which tables of the app are synced.
 */
#include "client.h"

#include <string.h>
#include <strings.h>

/* Refuses a table that cannot be synced exactly, with the reason. */
static rowsync_code
check_trackable(rowsync *client, const Table *table)
{
    int i;

    if (table->column_count == 0)
        return rs_fail(client, ROWSYNC_SCHEMA, "Create it first; its name is the server's.",
                       "There is no table \"%s\".", table->name);
    if (!table->exists)
        return rs_fail(client, ROWSYNC_SCHEMA, "Declare a PRIMARY KEY.",
                       "Table \"%s\" has no primary key.", table->name);
    for (i = 0; i < table->key_count; i++)
    {
        const Column *column = &table->columns[table->keys[i]];
        const char *collation = NULL;

        if (column->kind == KIND_REAL || column->kind == KIND_ANY || column->kind == KIND_JSON)
            return rs_fail(
                client, ROWSYNC_SCHEMA,
                "Declare it TEXT, INTEGER or BLOB; a type such as UUID turns keys made of"
                " digits into numbers.",
                "The key column \"%s\" of \"%s\" does not keep every key as it is.", column->name,
                table->name);
        sqlite3_table_column_metadata(client->db, "main", table->name, column->name, NULL,
                                      &collation, NULL, NULL, NULL);
        if (collation != NULL && strcasecmp(collation, "BINARY") != 0)
            return rs_fail(client, ROWSYNC_SCHEMA, "Declare the key without COLLATE.",
                           "The key column \"%s\" of \"%s\" takes different keys for equal.",
                           column->name, table->name);
    }
    return ROWSYNC_OK;
}

/*
 * Refuses a local column that the table does not have, for it would travel under its right name,
 * and one of the key.
 */
static rowsync_code
check_local(rowsync *client, const Table *table, const char *const *columns)
{
    int i;

    for (; columns != NULL && *columns != NULL; columns++)
    {
        if (sqlite3_table_column_metadata(client->db, "main", table->name, *columns, NULL, NULL,
                                          NULL, NULL, NULL) != SQLITE_OK)
            return rs_fail(client, ROWSYNC_SCHEMA,
                           strchr(*columns, ',') == NULL
                               ? "Name a column of the table."
                               : "Name columns one by one: in SQL in a JSON array, on the command"
                                 " line by a --local for each.",
                           "Table \"%s\" has no column \"%s\" to keep local.", table->name,
                           *columns);
        for (i = 0; i < table->key_count; i++)
            if (strcasecmp(table->columns[table->keys[i]].name, *columns) == 0)
                return rs_fail(client, ROWSYNC_SCHEMA, "Name columns that are not of the key.",
                               "The column \"%s\" of \"%s\" says which row it is: it cannot stay"
                               " local.",
                               *columns, table->name);
    }
    return ROWSYNC_OK;
}

/* Captures the rows that a table already has, but for those that came from the server. */
static rowsync_code
capture_existing(rowsync *client, const Table *table)
{
    Buffer sql = {0};
    rowsync_code code;

    buffer_printf(&sql,
                  "INSERT INTO main._sync_log (table_id, pk, holds, changed) SELECT %lld, pk, 3, -1"
                  " FROM (SELECT ",
                  (long long)table->id);
    sql_key(&sql, table, "t");
    buffer_text(&sql, " AS pk FROM main.");
    buffer_name(&sql, table->name);
    buffer_printf(&sql,
                  " t) r WHERE pk IS NOT NULL AND NOT EXISTS (SELECT 1 FROM main._sync_version v"
                  " WHERE v.table_id = %lld AND v.pk = r.pk) AND NOT EXISTS (SELECT 1 FROM"
                  " main._sync_dirty d WHERE d.table_id = %lld AND d.pk = r.pk)",
                  (long long)table->id, (long long)table->id);
    code = sql.failed ? rs_nomem(client) : rs_exec(client, sql.data);
    buffer_free(&sql);
    return code == ROWSYNC_OK ? capture_fold(client) : code;
}

rowsync_code
rowsync_track(rowsync *client, const char *table_name, const rowsync_track_options *options)
{
    static const rowsync_track_options standard = {NULL, ROWSYNC_KEEP_POLICY, NULL};
    sqlite3_stmt *statement = NULL;
    Buffer local = {0};
    Table *table = NULL;
    int i, known;
    rowsync_code code = rs_enter(client, true);

    if (code != ROWSYNC_OK)
        return code;
    known = client->table_count;
    if (options == NULL)
        options = &standard;
    if (table_name == NULL || *table_name == '\0' || strncmp(table_name, "_sync_", 6) == 0 ||
        strncmp(table_name, "sqlite_", 7) == 0)
        return rs_fail(client, ROWSYNC_MISUSE, "Name a table of the app.",
                       "\"%s\" cannot be tracked.", table_name != NULL ? table_name : "");
    buffer_byte(&local, '[');
    for (i = 0; options->local_columns != NULL && options->local_columns[i] != NULL; i++)
    {
        buffer_text(&local, i > 0 ? "," : "");
        buffer_json_text(&local, options->local_columns[i], strlen(options->local_columns[i]));
    }
    buffer_byte(&local, ']');
    if (local.failed)
        code = rs_nomem(client);
    else if ((code = rs_start(client, SQL_BEGIN)) == ROWSYNC_OK)
    {
        code = rs_prepare(
            client,
            "INSERT INTO main._sync_table (table_name, schema_name, policy, local_columns)"
            " VALUES (?1, coalesce(?2, 'public'), coalesce(?3, 0), coalesce(?4, '[]'))"
            " ON CONFLICT (table_name) DO UPDATE SET"
            " schema_name = coalesce(?2, schema_name), policy = coalesce(?3, policy),"
            " refill = CASE WHEN ?2 <> schema_name THEN refill & 1 | 2 ELSE refill END,"
            " local_columns = coalesce(?4, local_columns) RETURNING table_id",
            &statement);
        if (code == ROWSYNC_OK)
        {
            sqlite3_bind_text(statement, 1, table_name, -1, SQLITE_STATIC);
            sqlite3_bind_text(statement, 2, options->schema, -1, SQLITE_STATIC);
            if (options->policy != ROWSYNC_KEEP_POLICY)
                sqlite3_bind_int(statement, 3, (int)options->policy);
            if (options->local_columns != NULL)
                sqlite3_bind_text(statement, 4, local.data, -1, SQLITE_STATIC);
            code = rs_finish(client, statement, "noting the table");
        }
        sqlite3_finalize(statement);
        if (code == ROWSYNC_OK)
            code = tables_load(client);
        for (i = 0; i < client->table_count; i++)
            if (strcmp(client->tables[i].name, table_name) == 0)
                table = &client->tables[i];
        if (code == ROWSYNC_OK)
            code = check_trackable(client, table);
        if (code == ROWSYNC_OK)
            code = check_local(client, table, options->local_columns);
        if (code == ROWSYNC_OK)
            code = triggers_install(client);
        if (code == ROWSYNC_OK)
            code = capture_existing(client, table);
        /* What the log has of another table than before lies before the cursor: it is read from the
         * start. */
        if (code == ROWSYNC_OK &&
            (client->table_count > known || (table->refill & REFILL_VERSIONS) != 0))
            code = rs_exec(client, "UPDATE main._sync_client_info SET hydrated = 0");
        code = rs_stop(client, code);
        client->loaded = false;
    }
    buffer_free(&local);
    return code;
}

rowsync_code
rowsync_untrack(rowsync *client, const char *table_name, int force)
{
    static const char *const owned[] = {"_sync_log",  "_sync_dirty",    "_sync_version",
                                        "_sync_held", "_sync_rejected", "_sync_local",
                                        "_sync_table"};
    Table *table;
    Buffer sql = {0};
    size_t i;
    rowsync_code code = rs_enter(client, true);

    if (code != ROWSYNC_OK)
        return code;
    if ((table = table_here(client, table_name)) == NULL)
        return client->code;
    if ((code = rs_start(client, SQL_BEGIN)) != ROWSYNC_OK)
        return code;
    if ((code = tables_settled(client)) == ROWSYNC_OK && !force)
        code = pending_spare(client, table);
    if (code == ROWSYNC_OK)
        code = triggers_drop(client, table);
    for (i = 0; i < sizeof(owned) / sizeof(*owned); i++)
        buffer_printf(&sql, "DELETE FROM main.%s WHERE table_id = %lld;", owned[i],
                      (long long)table->id);
    if (code == ROWSYNC_OK)
        code = sql.failed ? rs_nomem(client) : rs_exec(client, sql.data);
    if (code == ROWSYNC_OK)
        code = tables_load(client);
    if (code == ROWSYNC_OK)
        code = triggers_install(client);
    code = rs_stop(client, code);
    client->loaded = false;
    buffer_free(&sql);
    return code;
}
