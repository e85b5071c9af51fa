/*
 * digest.c: rowsync.digest, and the sum behind it; defined in digest.h.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "changelog.h"
#include "digest.h"
#include "errors.h"
#include "scope.h"
#include "store.h"

PG_FUNCTION_INFO_V1(rowsync_digest);

/* An empty set. Memory in the current context; release with digest_free. */
void
digest_init(Digest *digest)
{
    memset(digest, 0, sizeof(*digest));
    initStringInfo(&digest->row);
    digest->hash = pg_cryptohash_create(PG_SHA256);
}

/* Adds a row. */
void
digest_add(Digest *digest, const SyncedTable *table, RowKey key, int64 version)
{
    uint8 sum[PG_SHA256_DIGEST_LENGTH];
    uint64 half;

    resetStringInfo(&digest->row);
    appendStringInfoString(&digest->row, table->schema);
    appendStringInfoCharMacro(&digest->row, '\x1f');
    appendStringInfoString(&digest->row, table->name);
    appendStringInfoCharMacro(&digest->row, '\x1f');
    rowkey_append_text(&digest->row, table, key);
    appendStringInfoCharMacro(&digest->row, '\x1f');
    json_append_integer(&digest->row, version);
    if (pg_cryptohash_init(digest->hash) < 0 ||
        pg_cryptohash_update(digest->hash, (const uint8 *)digest->row.data, digest->row.len) < 0 ||
        pg_cryptohash_final(digest->hash, sum, sizeof(sum)) < 0)
        elog(ERROR, "could not compute a digest: %s", pg_cryptohash_error(digest->hash));
    memcpy(&half, sum, sizeof(half));
    digest->high += pg_ntoh64(half);
    memcpy(&half, sum + sizeof(half), sizeof(half));
    digest->low += pg_ntoh64(half);
    digest->rows++;
}

/* Appends the 32 digits. */
void
digest_append(StringInfo out, const Digest *digest)
{
    appendStringInfo(out, "%016" INT64_MODIFIER "x%016" INT64_MODIFIER "x", digest->high,
                     digest->low);
}

/* Releases what init took. */
void
digest_free(Digest *digest)
{
    pg_cryptohash_free(digest->hash);
    pfree(digest->row.data);
}

/* The version of a row at a position of the log; 0 where it was not there, or was deleted. */
static int64
live_version_at(Store *log, Snapshot snapshot, int64 scope_id, int64 version, int64 at)
{
    version = changelog_version_at(log, snapshot, scope_id, version, at);
    if (version == 0)
        return 0;
    if (!changelog_find(log, snapshot, scope_id, version))
        ereport(ERROR, (errcode(ROWSYNC_HISTORY_PRUNED),
                        errmsg("the history since " INT64_FORMAT " is pruned", at),
                        errhint("Ask for the digest at the head.")));
    return DatumGetChar(store_value(log, LOG_OP)) == 'D' ? 0 : version;
}

/* Adds all rows of a scope that were live at a position of its log. */
static void
add_scope(Digest *digest, const Scope *scope, int64 at, Snapshot snapshot)
{
    Relation relation = table_open(registry_relation(REL_ROW_META), AccessShareLock);
    Relation index = index_open(registry_relation(REL_ROW_META_PKEY), AccessShareLock);
    TupleTableSlot *slot = table_slot_create(relation, NULL);
    IndexScanDesc scan = index_beginscan(relation, index, snapshot, 1, 0);
    SyncedTable *table = NULL;
    Store log;
    ScanKeyData key;

    store_open(&log, REL_CHANGE_LOG, REL_CHANGE_LOG_PKEY, AccessShareLock);
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(scope->scope_id));
    index_rescan(scan, &key, 1, NULL, 0);
    while (index_getnext_slot(scan, ForwardScanDirection, slot))
    {
        int32 table_id;
        int64 version;
        bytea *row_key;

        CHECK_FOR_INTERRUPTS();
        slot_getallattrs(slot);
        version = DatumGetInt64(slot->tts_values[META_VERSION - 1]);
        if (version > at)
            version = live_version_at(&log, snapshot, scope->scope_id, version, at);
        else if (DatumGetBool(slot->tts_values[META_DELETED - 1]))
            version = 0;
        if (version == 0)
            continue;
        table_id = DatumGetInt32(slot->tts_values[META_TABLE - 1]);
        if (table == NULL || table->table_id != table_id)
            table = registry_find_id(table_id);
        if (table == NULL)
            continue;
        row_key = DatumGetByteaPP(slot->tts_values[META_KEY - 1]);
        digest_add(digest, table, (RowKey){VARSIZE_ANY_EXHDR(row_key), VARDATA_ANY(row_key)},
                   version);
    }
    store_close(&log);
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    index_close(index, NoLock);
    table_close(relation, NoLock);
}

/* rowsync.digest(user_id text, at bigint) returns text */
Datum
rowsync_digest(PG_FUNCTION_ARGS)
{
    char *user_id;
    Scope scope = {0};
    Digest digest;
    StringInfoData out;
    Snapshot snapshot = GetActiveSnapshot();
    int64 scope_id;
    int64 at;

    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ROWSYNC_INVALID_PARAMETER), errmsg("user_id must not be null")));
    user_id = text_to_cstring(PG_GETARG_TEXT_PP(0));
    check_id("user_id", user_id);
    if (!PG_ARGISNULL(1) && PG_GETARG_INT64(1) < 0)
        ereport(ERROR, (errcode(ROWSYNC_INVALID_PARAMETER), errmsg("at must be 0 or more")));
    digest_init(&digest);
    scope_id = scope_find(user_id);
    if (scope_id != 0 && !scope_read(scope_id, snapshot, &scope))
        scope_id = 0;
    at = PG_ARGISNULL(1) ? scope.head : Min(PG_GETARG_INT64(1), scope.head);
    if (at < scope.floor)
        ereport(ERROR, (errcode(ROWSYNC_HISTORY_PRUNED),
                        errmsg("changes up to " INT64_FORMAT " are pruned, at is " INT64_FORMAT,
                               scope.floor, at),
                        errhint("Ask for the digest at the head.")));
    if (scope_id != 0)
        add_scope(&digest, &scope, at, snapshot);
    initStringInfo(&out);
    appendStringInfo(&out, "{\"at\":" INT64_FORMAT ",\"rows\":" INT64_FORMAT ",\"digest\":\"", at,
                     digest.rows);
    digest_append(&out, &digest);
    appendStringInfoString(&out, "\"}");
    digest_free(&digest);
    PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}
