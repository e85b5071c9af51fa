/*
 * capture.c - takes in what the triggers have noted.
 *
 * Every edit of the app is an entry of _sync_log, in order. Before the library looks at what is
 * pending, in the transaction that it does so in, the entries are folded into _sync_dirty, which
 * has one mark for each row: with the change id of its last edit, the version that the server's row
 * has (which cannot have moved since the edit, for whatever moves it folds first), the columns
 * changed, the content of a row that is gone and, where edits are merged, what it was before the
 * first one. In the order of keys this costs much less than to look for the row's mark at every
 * edit. An UPDATE that changed nothing, or columns that stay here alone, leaves none.
 *
 * An edit of a row that is held, which conflict.c has put on the server's version, goes back to
 * that of the row here with the next one: who made that has not seen what is held.
 *
 * A row keeps the place in the queue that its first edit had, so that a parent that is edited again
 * does not fall behind its children. A deletion goes to the end, as does what comes after it. That
 * of a new row has no columns changed, unless there was an edit before it, which may have been
 * sent.
 */
#include "client.h"

/*
 * Prepares the statement that folds: what an entry holds gets the names of its table's columns.
 * They are those that the database has now: another process may have changed a table since we
 * looked. Where a table has columns that its triggers do not know yet, entries without a column
 * changed count too, for layout.c to see what they are about.
 */
static rowsync_code
prepare_fold(rowsync *client, sqlite3_stmt **fold)
{
    sqlite3_stmt *layouts = NULL;
    Buffer sql = {0}, grown = {0};

    if (rs_prepare(client,
                   "SELECT table_id, layout, EXISTS (SELECT lower(name) FROM"
                   " pragma_table_xinfo(table_name, 'main') WHERE hidden = 0 EXCEPT SELECT"
                   " lower(value) FROM json_each(CASE layout WHEN '' THEN '[]' ELSE layout END)"
                   " EXCEPT SELECT lower(value) FROM json_each(local_columns))"
                   " FROM main._sync_table",
                   &layouts) != ROWSYNC_OK)
        return client->code;
    buffer_text(
        &sql,
        "INSERT INTO main._sync_dirty (table_id, pk, change_id, queued, base_version, changed,"
        " old_row, base_row) SELECT table_id, pk, first + seq, first + seq, coalesce((SELECT"
        " server_version FROM main._sync_version v WHERE v.table_id = l.table_id AND"
        " v.pk = l.pk), 0), changed, CASE holds WHEN 1 THEN fields END,"
        " CASE holds WHEN 2 THEN fields END"
        " FROM (SELECT *, CASE table_id WHEN 0 THEN NULL");
    while (rs_row(client, layouts))
    {
        buffer_printf(&sql, " WHEN %lld THEN ", (long long)sqlite3_column_int64(layouts, 0));
        sql_literals(&sql, rs_text(layouts, 1));
        if (sqlite3_column_int(layouts, 2))
            buffer_printf(&grown, ", %lld", (long long)sqlite3_column_int64(layouts, 0));
    }
    sqlite3_finalize(layouts);
    buffer_text(
        &sql, " END AS fields FROM main._sync_log) l, (SELECT next_change_id - 1 - (SELECT max(seq)"
              " FROM main._sync_log) AS first FROM main._sync_client_info) WHERE pk IS NOT NULL"
              " AND (" LOG_COUNTS " OR table_id IN (0");
    buffer_text(&sql, buffer_string(&grown));
    buffer_text(&sql,
                ")) ORDER BY table_id, pk, seq ON CONFLICT (table_id, pk) DO UPDATE SET"
                " change_id = excluded.change_id, changed = CASE WHEN base_version = 0 AND"
                " excluded.old_row IS NOT NULL THEN -1 ELSE changed | excluded.changed END,"
                " queued = CASE WHEN excluded.old_row IS NOT NULL OR"
                " (excluded.changed = -1 AND old_row IS NOT NULL) THEN excluded.queued"
                " ELSE queued END, base_version = CASE WHEN EXISTS (SELECT 1 FROM main._sync_held h"
                " WHERE h.table_id = excluded.table_id AND h.pk = excluded.pk AND h.state = 2)"
                " THEN min(base_version, excluded.base_version) ELSE base_version END,"
                " old_row = coalesce(excluded.old_row, old_row)");
    if (sql.failed || grown.failed)
        rs_nomem(client);
    if (client->code == ROWSYNC_OK)
        rs_prepare(client, sql.data, fold);
    buffer_free(&sql);
    buffer_free(&grown);
    return client->code;
}

/* Is there anything in the log? */
static bool
noted(rowsync *client)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_LOG_ANY);
    bool found = statement != NULL && rs_row(client, statement);

    return statement != NULL && rs_reset(client, statement) == ROWSYNC_OK && found;
}

rowsync_code
capture_fold(rowsync *client)
{
    sqlite3_stmt *fold = NULL;

    if (!noted(client) || rs_run(client, SQL_LOG_NUMBER) != ROWSYNC_OK ||
        prepare_fold(client, &fold) != ROWSYNC_OK)
        return client->code;
    rs_finish(client, fold, "taking in what was captured");
    sqlite3_finalize(fold);
    return client->code == ROWSYNC_OK ? rs_run(client, SQL_LOG_CLEAR) : client->code;
}

/*
 * Gives new change ids to the marks of a table whose rows a foreign key's action may have changed
 * or deleted: what is sent of them now is not what may have been sent under the old ones.
 */
static rowsync_code
renew_marks(rowsync *client, const Table *table, sqlite3_stmt *references)
{
    Buffer sql = {0};
    int64_t set = 0;
    bool any = false;
    int i;

    sqlite3_reset(references);
    sqlite3_bind_text(references, 1, table->name, -1, SQLITE_STATIC);
    for (; rs_row(client, references); any = true)
        for (i = 0; i < table->column_count; i++)
            if (sqlite3_column_int(references, 1) &&
                sqlite3_stricmp(table->columns[i].name, rs_text(references, 0)) == 0)
                set |= table->columns[i].mask;
    if (!any || client->code != ROWSYNC_OK)
        return client->code;
    buffer_printf(
        &sql,
        "INSERT INTO main._sync_log (table_id, pk, holds, changed) SELECT table_id, pk, 3, 0"
        " FROM main._sync_dirty d WHERE table_id = %lld AND (changed & %lld <> 0 OR NOT EXISTS"
        " (SELECT 1 FROM main.",
        (long long)table->id, (long long)set);
    buffer_name(&sql, table->name);
    buffer_text(&sql, " t WHERE ");
    sql_match(&sql, table, "d.pk");
    buffer_text(&sql, "))");
    if (sql.failed)
        rs_nomem(client);
    else
        rs_exec(client, sql.data);
    buffer_free(&sql);
    return client->code;
}

/*
 * Takes in what foreign keys did to rows with edits when their parents became what the server says:
 * triggers did not note it. Marks of rows that were deleted before are renewed along with the
 * others, which harms nothing.
 */
rowsync_code
capture_actions(rowsync *client)
{
    sqlite3_stmt *references = NULL;
    rowsync_code code = rs_prepare(client,
                                   "SELECT \"from\", on_delete LIKE 'SET%' OR on_update NOT IN ('NO"
                                   " ACTION', 'RESTRICT') FROM pragma_foreign_key_list(?1, 'main')"
                                   " WHERE on_delete NOT IN ('NO ACTION', 'RESTRICT') OR on_update"
                                   " NOT IN ('NO ACTION', 'RESTRICT')",
                                   &references);
    int i;

    for (i = 0; i < client->table_count && code == ROWSYNC_OK; i++)
        if (client->tables[i].exists)
            code = renew_marks(client, &client->tables[i], references);
    sqlite3_finalize(references);
    return code == ROWSYNC_OK ? capture_fold(client) : code;
}

/*
 * Begins a transaction in which marks and rows are read as they were at one moment, with everything
 * captured taken in; rs_stop() ends it. An app that writes faster than we look, in another process,
 * gets ahead by an edit: its row then goes out twice.
 */
rowsync_code
capture_snapshot(rowsync *client)
{
    rowsync_code code = rs_start(client, SQL_BEGIN_READING);
    int tries;

    for (tries = 0; code == ROWSYNC_OK && tries < 10 && noted(client); tries++)
    {
        if ((code = rs_stop(client, code)) == ROWSYNC_OK &&
            (code = rs_start(client, SQL_BEGIN)) == ROWSYNC_OK &&
            (code = rs_stop(client, capture_fold(client))) == ROWSYNC_OK)
            code = rs_start(client, SQL_BEGIN_READING);
    }
    if (code == ROWSYNC_OK && (code = tables_settled(client)) != ROWSYNC_OK)
        code = rs_stop(client, code);
    return client->code;
}
