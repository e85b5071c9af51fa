/*
 * listing.c - what waits in a database, row by row: the queries behind the table-valued functions
 * of the loadable extension and the lists of the command line, so that both show the same.
 *
 * The key `pk` is as on the wire, and what rowsync_resolve(), rowsync_requeue() and
 * rowsync_discard() take.
 */
#include "listing.h"

const Listing rs_listings[LISTINGS] = {
    [LISTING_PENDING] = {"rowsync_pending", "op, table_name, pk, base_version, payload",
                         "SELECT op, table_name, pk_uuid, base_version, payload FROM"
                         " _sync_pending"},
    /* The payload of the side that deleted the row is NULL. */
    [LISTING_CONFLICTS] = {"rowsync_conflicts",
                           "table_name, pk, base_version, op, local_payload, server_version,"
                           " server_deleted, server_payload",
                           "SELECT c.table_name, c.pk_uuid, c.base_version, p.op,"
                           " CASE p.op WHEN 'DELETE' THEN NULL ELSE p.payload END,"
                           " c.server_version, c.server_deleted, c.server_payload"
                           " FROM _sync_conflict c LEFT JOIN _sync_pending p"
                           " ON p.table_name = c.table_name AND p.pk_uuid = c.pk_uuid"},
    [LISTING_REJECTED] = {"rowsync_rejected",
                          "table_name, pk, op, reason, message, details, payload, rejected_at",
                          "SELECT t.table_name, r.pk_text, r.op, r.reason, r.message, r.details,"
                          " r.payload, r.rejected_at FROM _sync_rejected r"
                          " JOIN _sync_table t USING (table_id) ORDER BY r.change_id"},
};
