/*
 * rejected.c - dead letters, and what becomes of them: sent again, or given up.
 */
#include "client.h"

#include <string.h>

/*
 * Walks the dead letters of one row or of all. To requeue, the mark is put back on the row as it is
 * now; to discard, the row becomes what the server last said, or what it was before the refused
 * DELETE, or goes where the server never had it.
 */
static rowsync_code
walk_rejected(rowsync *client, const char *table_name, const char *pk, bool requeue)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code = rs_enter(client, true);
    int64_t seen = 0;
    Change change = {0};

    if (code != ROWSYNC_OK)
        return code;
    if (table_name != NULL && table_here(client, table_name) == NULL)
        return client->code;
    if ((code = rs_begin(client)) != ROWSYNC_OK)
        return code;
    code = rs_prepare(client,
                      "SELECT r.table_id, r.pk, r.base_version, r.changed, r.old_row, r.op"
                      " FROM _sync_rejected r JOIN _sync_table t USING (table_id)"
                      " WHERE (?1 IS NULL OR t.table_name = ?1) AND (?2 IS NULL OR pk_text = ?2)"
                      " ORDER BY r.change_id",
                      &statement);
    if (code == ROWSYNC_OK)
    {
        sqlite3_bind_text(statement, 1, table_name, -1, SQLITE_STATIC);
        sqlite3_bind_text(statement, 2, pk, -1, SQLITE_STATIC);
    }
    while (code == ROWSYNC_OK && rs_row(client, statement))
    {
        bool applied = false;

        seen++;
        change.table = table_by_id(client, sqlite3_column_int64(statement, 0));
        if (change.table == NULL || !change.table->exists ||
            (code = key_column(client, statement, 1, &change.key)) != ROWSYNC_OK)
            continue;
        if (requeue)
        {
            int64_t id = 0;
            sqlite3_stmt *put;

            code = take_change_id(client, &id);
            if (code != ROWSYNC_OK || (put = rs_statement(client, SQL_DIRTY_PUT)) == NULL)
                break;
            sqlite3_bind_int64(put, 1, change.table->id);
            key_bind(put, 2, &change.key);
            sqlite3_bind_int64(put, 3, id);
            sqlite3_bind_int64(put, 4, sqlite3_column_int64(statement, 2));
            sqlite3_bind_int64(put, 5, sqlite3_column_int64(statement, 3));
            sqlite3_bind_text(put, 6, (const char *)sqlite3_column_text(statement, 4), -1,
                              SQLITE_TRANSIENT);
            code = rs_finish(client, put, "queueing a refused change");
        }
        else
        {
            code = held_apply(client, change.table, &change.key, &applied);
            if (code == ROWSYNC_OK && !applied && sqlite3_column_int64(statement, 2) == 0)
            {
                RowState none = {0, true, {0}};
                bool refused;

                /* The server never had it. */
                code = row_put(client, change.table, &change.key, &none, &refused);
            }
            else if (code == ROWSYNC_OK && !applied)
            {
                /* The server's content is not at hand: it comes with the next hydration, which
                 * finds the row to be of no version yet, or removes it where it is gone there. */
                code =
                    rs_exec(client, "UPDATE _sync_client_info SET hydrated = 3 WHERE hydrated = 2");
                if (code == ROWSYNC_OK)
                    code = row_drop(client, SQL_VERSION_DROP, change.table, &change.key);
                if (code == ROWSYNC_OK)
                    code = row_set_version(client, change.table, &change.key, 0, false);
            }
            if (code == ROWSYNC_OK)
                code = row_drop(client, SQL_DIRTY_DROP, change.table, &change.key);
        }
    }
    sqlite3_finalize(statement);
    key_free(&change.key);
    code = client->code;
    if (code == ROWSYNC_OK && seen == 0 && pk != NULL)
        code = rs_fail(client, ROWSYNC_MISUSE, "See _sync_rejected.",
                       "The row %s of \"%s\" was not refused.", pk, table_name);
    if (code == ROWSYNC_OK)
    {
        code = rs_prepare(client,
                          "DELETE FROM _sync_rejected WHERE (?2 IS NULL OR pk_text = ?2) AND"
                          " (?1 IS NULL OR table_id = (SELECT table_id FROM _sync_table WHERE"
                          " table_name = ?1))",
                          &statement);
        if (code == ROWSYNC_OK)
        {
            sqlite3_bind_text(statement, 1, table_name, -1, SQLITE_STATIC);
            sqlite3_bind_text(statement, 2, pk, -1, SQLITE_STATIC);
            code = rs_finish(client, statement, "forgetting refusals");
            sqlite3_finalize(statement);
        }
    }
    /* Rows that refer to what was given up become dead letters of their own. */
    if (code == ROWSYNC_OK)
        code = take_out_orphans(client);
    return rs_end(client, code);
}

rowsync_code
rowsync_requeue(rowsync *client, const char *table, const char *pk)
{
    return walk_rejected(client, table, pk, true);
}

rowsync_code
rowsync_discard(rowsync *client, const char *table, const char *pk)
{
    return walk_rejected(client, table, pk, false);
}
