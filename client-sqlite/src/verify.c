/*
 * verify.c - the sweep for changes that no trigger could see.
 */
#include "client.h"

/*
 * AND the row of a key has neither an edit nor a dead letter, and is not kept out of its table by
 * something local: for all of those it is known why it is here or not.
 */
static void
append_unknown(Buffer *sql, const char *key, int64_t table_id)
{
    static const char *const notes[] = {"dirty", "rejected", "held"};
    size_t i;

    for (i = 0; i < sizeof(notes) / sizeof(*notes); i++)
        buffer_printf(sql,
                      " AND NOT EXISTS (SELECT 1 FROM main._sync_%s n WHERE n.table_id = %lld AND"
                      " n.pk = %s)",
                      notes[i], (long long)table_id, key);
}

/* Counts, or with `queue` marks, the rows whose change no trigger has seen. */
static rowsync_code
sweep_table(rowsync *client, Table *table, bool queue, int64_t *found)
{
    /* Known as live but gone; there but never seen. */
    Buffer gone = {0}, fresh = {0}, sql = {0};
    sqlite3_stmt *statement = NULL;
    rowsync_code code = ROWSYNC_OK;

    buffer_printf(&gone,
                  "SELECT v.pk, 0 AS changed FROM main._sync_version v"
                  " WHERE v.table_id = %lld AND NOT v.deleted AND NOT EXISTS (SELECT 1 FROM main.",
                  (long long)table->id);
    buffer_name(&gone, table->name);
    buffer_text(&gone, " t WHERE ");
    sql_match(&gone, table, "v.pk");
    buffer_text(&gone, ")");
    append_unknown(&gone, "v.pk", table->id);
    buffer_text(&fresh, "SELECT pk, -1 AS changed FROM (SELECT ");
    sql_key(&fresh, table, "t");
    buffer_text(&fresh, " AS pk FROM main.");
    buffer_name(&fresh, table->name);
    buffer_printf(&fresh,
                  " t) r WHERE pk IS NOT NULL AND NOT EXISTS (SELECT 1 FROM main._sync_version v"
                  " WHERE v.table_id = %lld AND v.pk = r.pk AND NOT v.deleted)",
                  (long long)table->id);
    append_unknown(&fresh, "r.pk", table->id);
    buffer_printf(&sql, "SELECT count(*) FROM (%s UNION ALL %s)", buffer_string(&gone),
                  buffer_string(&fresh));
    if (sql.failed || gone.failed || fresh.failed)
        code = rs_nomem(client);
    else if ((code = rs_prepare(client, sql.data, &statement)) == ROWSYNC_OK &&
             rs_row(client, statement))
    {
        int64_t count = sqlite3_column_int64(statement, 0);

        sqlite3_finalize(statement);
        statement = NULL;
        *found += count;
        buffer_clear(&sql);
        buffer_printf(&sql,
                      "INSERT INTO main._sync_log (table_id, pk, holds, changed)"
                      " SELECT %lld, pk, 3, changed FROM (%s UNION ALL %s)",
                      (long long)table->id, buffer_string(&gone), buffer_string(&fresh));
        if (queue && count > 0)
            code = sql.failed ? rs_nomem(client) : rs_exec(client, sql.data);
        if (queue && code == ROWSYNC_OK)
            code = capture_fold(client);
    }
    sqlite3_finalize(statement);
    buffer_free(&gone);
    buffer_free(&fresh);
    buffer_free(&sql);
    return client->code;
}

rowsync_code
rowsync_verify(rowsync *client, int repair, int64_t *found)
{
    rowsync_code code = rs_enter(client, true);
    int64_t count = 0;
    int i;

    if (code != ROWSYNC_OK || (code = tables_check(client)) != ROWSYNC_OK ||
        (code = rs_begin(client)) != ROWSYNC_OK)
        return code;
    for (i = 0; i < client->table_count && code == ROWSYNC_OK; i++)
        code = sweep_table(client, &client->tables[i], repair != 0, &count);
    code = rs_end(client, code);
    if (found != NULL)
        *found = count;
    if (code == ROWSYNC_OK && count > 0 && !repair)
        return rs_fail(client, ROWSYNC_DIFFERENT, "Queue them for upload by verify with repair.",
                       "%lld changed row%s seen by no trigger.", (long long)count,
                       count == 1 ? " was" : "s were");
    return code;
}
