/*
 * listing.c - what waits in a database, row by row: the queries behind rowsync_list(), the
 * table-valued functions of the loadable extension and the lists of the command line.
 */
#include "listing.h"

const Listing rs_listings[LISTINGS] = {
    [ROWSYNC_LIST_PENDING] = {"rowsync_pending", "op, table_name, pk, base_version, payload",
                              "SELECT op, table_name, pk_uuid AS pk, base_version, payload FROM"
                              " main._sync_pending"},
    [ROWSYNC_LIST_CONFLICTS] = {"rowsync_conflicts",
                                "table_name, pk, base_version, op, local_payload, server_version,"
                                " server_deleted, server_payload",
                                "SELECT c.table_name, c.pk_uuid AS pk, c.base_version, p.op,"
                                " CASE p.op WHEN 'DELETE' THEN NULL ELSE"
                                " coalesce(rowsync_beside(:client, c.table_name, c.pk_uuid,"
                                " c.server_payload), p.payload) END AS local_payload,"
                                " c.server_version, c.server_deleted, c.server_payload"
                                " FROM main._sync_conflict c LEFT JOIN main._sync_pending p"
                                " ON p.table_name = c.table_name AND p.pk_uuid = c.pk_uuid"},
    [ROWSYNC_LIST_REJECTED] = {"rowsync_rejected",
                               "table_name, pk, op, reason, message, details, payload, rejected_at",
                               "SELECT t.table_name, r.pk_text AS pk, r.op, r.reason, r.message,"
                               " r.details, r.payload, r.rejected_at FROM main._sync_rejected r"
                               " JOIN main._sync_table t USING (table_id) ORDER BY r.change_id"},
    [ROWSYNC_LIST_HELD] = {"rowsync_held",
                           "table_name, pk, reason, server_version, server_deleted, server_payload",
                           "SELECT t.table_name, h.pk_text AS pk, h.reason, h.server_version,"
                           " h.deleted AS server_deleted, h.payload AS server_payload"
                           " FROM main._sync_held h JOIN main._sync_table t USING (table_id)"
                           " WHERE h.state = 2 ORDER BY h.server_version"},
    [ROWSYNC_LIST_OVERWRITTEN] = {"rowsync_overwritten",
                                  "table_name, pk, op, base_version, server_version, payload,"
                                  " overwritten_at",
                                  "SELECT table_name, pk_uuid AS pk, op, base_version,"
                                  " server_version, payload, overwritten_at FROM"
                                  " main._sync_overwritten ORDER BY id"},
};

rowsync_code
rowsync_list(rowsync *client, rowsync_list_kind which, rowsync_list_callback callback,
             void *context)
{
    const char *names[MOST_LISTED], *values[MOST_LISTED];
    sqlite3_stmt *statement = NULL;
    int count, ended = 0;

    if (rs_enter(client, false) != ROWSYNC_OK)
        return client->code;
    if ((int)which < 0 || (int)which >= LISTINGS || callback == NULL)
        return rs_fail(client, ROWSYNC_MISUSE, "Name a list, and who is to get its rows.",
                       "There is no such list.");
    if (listing_prepare(client, rs_listings[which].sql, &statement) != SQLITE_OK)
    {
        sqlite3_finalize(statement);
        return rs_fail_sqlite(client, "reading a list");
    }
    count = sqlite3_column_count(statement);
    while (!ended && rs_row(client, statement))
    {
        for (int i = 0; i < count; i++)
        {
            names[i] = sqlite3_column_name(statement, i);
            values[i] = (const char *)sqlite3_column_text(statement, i);
            if (names[i] == NULL ||
                (values[i] == NULL && sqlite3_column_type(statement, i) != SQLITE_NULL))
                rs_nomem(client);
        }
        ended = client->code != ROWSYNC_OK || callback(context, count, names, values) != 0;
    }
    sqlite3_finalize(statement);
    return client->code;
}
