/*
 * snapshot.c: rowsync.snapshot, the live rows of a scope at one point in time, as lines of JSON.
 *
 *   {"seq":45,"schema_version":1,"epochs":[[1764140400000000,0]],
 *    "tables":[{"schema":"s","table":"t","key":["id"],"columns":["id","name"]}]}   (one line)
 *   [0,43,"550e…","Ann"]           table (its place in the header), version, values
 *   {"end":true,"rows":1,"digest":"…"}
 *
 * Tables come parents first, rows in the order of their packed keys. The function gives a chunk of
 * whole lines for each call and keeps no more than that in memory, so it belongs into the target
 * list of a query: in FROM, PostgreSQL would collect all of it first.
 *
 * The values come from the change log, where the row stands as JSON already (payload.c).
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "changelog.h"
#include "digest.h"
#include "errors.h"
#include "payload.h"
#include "registry.h"
#include "scope.h"
#include "store.h"

PG_FUNCTION_INFO_V1(rowsync_snapshot);

/* A chunk ends with the line that takes it over this size. */
#define CHUNK_SIZE 65536

typedef enum SnapshotState
{
    SNAPSHOT_HEADER,
    SNAPSHOT_ROWS,
    SNAPSHOT_END,
    SNAPSHOT_DONE
} SnapshotState;

/* A stream under way, in the memory of the set-returning call. */
typedef struct Stream
{
    SnapshotState state;
    Scope scope;
    Snapshot snapshot;
    SyncedTable **tables;
    int ntables;
    int table; /* the one whose rows are being read */
    Relation meta;
    Relation meta_index;
    IndexScanDesc scan;
    TupleTableSlot *slot;
    Store log;
    BlockNumber log_blocks;
    Digest digest;
    StringInfoData chunk;
} Stream;

/* Begins to read the rows of the current table. */
static void
start_table(Stream *stream)
{
    ScanKeyData keys[2];

    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ,
                Int64GetDatum(stream->scope.scope_id));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ,
                Int32GetDatum(stream->tables[stream->table]->table_id));
    index_rescan(stream->scan, keys, 2, NULL, 0);
}

/* Appends the first line. */
static void
append_header(Stream *stream)
{
    StringInfo out = &stream->chunk;
    Datum *epochs;
    int count;

    appendStringInfo(out, "{\"seq\":" INT64_FORMAT ",\"schema_version\":%d,\"epochs\":[",
                     stream->scope.head, registry_schema_version());
    deconstruct_array(scope_epochs(stream->scope.scope_id, stream->snapshot), INT8OID,
                      sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &epochs, NULL, &count);
    for (int i = 0; i + 1 < count; i += 2)
        appendStringInfo(out, "%s[" INT64_FORMAT "," INT64_FORMAT "]", i > 0 ? "," : "",
                         DatumGetInt64(epochs[i]), DatumGetInt64(epochs[i + 1]));
    appendStringInfoString(out, "],\"tables\":[");
    for (int t = 0; t < stream->ntables; t++)
    {
        SyncedTable *table = stream->tables[t];

        appendStringInfoString(out, t > 0 ? ",{\"schema\":" : "{\"schema\":");
        json_append_string(out, table->schema, strlen(table->schema));
        appendStringInfoString(out, ",\"table\":");
        json_append_string(out, table->name, strlen(table->name));
        appendStringInfoString(out, ",\"key\":[");
        for (int k = 0; k < table->nkeys; k++)
        {
            SyncedColumn *column = &table->columns[table->keys[k]];

            if (k > 0)
                appendStringInfoChar(out, ',');
            json_append_string(out, column->name, column->name_len);
        }
        appendStringInfoString(out, "],\"columns\":[");
        for (int i = 0; i < table->ncolumns; i++)
        {
            if (i > 0)
                appendStringInfoChar(out, ',');
            json_append_string(out, table->columns[i].name, table->columns[i].name_len);
        }
        appendStringInfoString(out, "]}");
    }
    appendStringInfoString(out, "]}\n");
}

/*
 * Brings a change into the slot of the log: from where row_meta says it lies, if it does, else by
 * the index, which costs as much again. The place is wrong where somebody has moved the log's rows.
 */
static bool
fetch_change(Stream *stream, int64 version, ItemPointer place)
{
    Store *log = &stream->log;

    if (place != NULL && ItemPointerGetBlockNumberNoCheck(place) < stream->log_blocks &&
        table_tuple_fetch_row_version(log->relation, place, stream->snapshot, log->slot) &&
        DatumGetInt64(store_value(log, LOG_SCOPE)) == stream->scope.scope_id &&
        DatumGetInt64(store_value(log, LOG_SEQ)) == version)
        return true;
    return changelog_find(log, stream->snapshot, stream->scope.scope_id, version);
}

/* Appends the line of a row. */
static void
append_row(Stream *stream, int64 version, ItemPointer place, RowKey key)
{
    SyncedTable *table = stream->tables[stream->table];
    StringInfo out = &stream->chunk;
    bool isnull = true;
    Datum stored = (Datum)0;
    text *payload;

    if (fetch_change(stream, version, place))
        stored = slot_getattr(stream->log.slot, LOG_PAYLOAD, &isnull);
    if (isnull)
        ereport(ERROR, (errcode(ROWSYNC_DAMAGED),
                        errmsg("change " INT64_FORMAT " of a live row of %s is not in "
                               "rowsync.change_log",
                               version, table->qualified_name),
                        errhint("SELECT * FROM rowsync.verify(...) tells what else is wrong.")));
    payload = DatumGetTextPP(stored);
    appendStringInfoCharMacro(out, '[');
    json_append_integer(out, stream->table);
    appendStringInfoCharMacro(out, ',');
    json_append_integer(out, version);
    payload_append_values(out, table, VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload));
    appendStringInfoString(out, "]\n");
    if ((Pointer)payload != DatumGetPointer(stored))
        pfree(payload);
    digest_add(&stream->digest, table, key, version);
}

/* Appends lines until the chunk is full or all rows are out. */
static void
append_rows(Stream *stream)
{
    while (stream->chunk.len < CHUNK_SIZE)
    {
        CHECK_FOR_INTERRUPTS();
        if (!index_getnext_slot(stream->scan, ForwardScanDirection, stream->slot))
        {
            if (++stream->table == stream->ntables)
            {
                stream->state = SNAPSHOT_END;
                return;
            }
            start_table(stream);
            continue;
        }
        slot_getallattrs(stream->slot);
        if (!DatumGetBool(stream->slot->tts_values[META_DELETED - 1]))
        {
            bytea *key = DatumGetByteaPP(stream->slot->tts_values[META_KEY - 1]);

            append_row(stream, DatumGetInt64(stream->slot->tts_values[META_VERSION - 1]),
                       stream->slot->tts_isnull[META_PLACE - 1]
                           ? NULL
                           : (ItemPointer)DatumGetPointer(stream->slot->tts_values[META_PLACE - 1]),
                       (RowKey){VARSIZE_ANY_EXHDR(key), VARDATA_ANY(key)});
        }
    }
}

/* Releases everything; called at the end of the stream, and when the query stops early. */
static void
close_stream(Datum arg)
{
    Stream *stream = (Stream *)DatumGetPointer(arg);

    if (stream->meta == NULL)
        return;
    digest_free(&stream->digest);
    store_close(&stream->log);
    index_endscan(stream->scan);
    ExecDropSingleTupleTableSlot(stream->slot);
    index_close(stream->meta_index, NoLock);
    table_close(stream->meta, NoLock);
    UnregisterSnapshot(stream->snapshot);
    stream->meta = NULL;
}

/* Opens a stream over the scope of a user, as the query's snapshot sees it. */
static Stream *
open_stream(const char *user_id)
{
    Stream *stream = palloc0(sizeof(Stream));
    int64 scope_id = scope_find(user_id);

    stream->snapshot = RegisterSnapshot(GetActiveSnapshot());
    if (scope_id != 0)
        (void)scope_read(scope_id, stream->snapshot, &stream->scope);
    stream->ntables = registry_ordered(&stream->tables);
    stream->meta = table_open(registry_relation(REL_ROW_META), AccessShareLock);
    stream->meta_index = index_open(registry_relation(REL_ROW_META_PKEY), AccessShareLock);
    stream->slot = table_slot_create(stream->meta, NULL);
    stream->scan = index_beginscan(stream->meta, stream->meta_index, stream->snapshot, 2, 0);
    store_open(&stream->log, REL_CHANGE_LOG, REL_CHANGE_LOG_PKEY, AccessShareLock);
    stream->log_blocks = RelationGetNumberOfBlocks(stream->log.relation);
    digest_init(&stream->digest);
    initStringInfo(&stream->chunk);
    return stream;
}

/* rowsync.snapshot(user_id text, source_id text) returns setof text */
Datum
rowsync_snapshot(PG_FUNCTION_ARGS)
{
    FuncCallContext *call;
    Stream *stream;
    MemoryContext old;

    if (SRF_IS_FIRSTCALL())
    {
        char *user_id = text_to_cstring(PG_GETARG_TEXT_PP(0));

        check_id("user_id", user_id);
        check_id("source_id", text_to_cstring(PG_GETARG_TEXT_PP(1)));
        call = SRF_FIRSTCALL_INIT();
        old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
        call->user_fctx = stream = open_stream(user_id);
        RegisterExprContextCallback(((ReturnSetInfo *)fcinfo->resultinfo)->econtext, close_stream,
                                    PointerGetDatum(stream));
        MemoryContextSwitchTo(old);
    }
    call = SRF_PERCALL_SETUP();
    stream = call->user_fctx;
    if (stream->state == SNAPSHOT_DONE)
    {
        UnregisterExprContextCallback(((ReturnSetInfo *)fcinfo->resultinfo)->econtext, close_stream,
                                      PointerGetDatum(stream));
        close_stream(PointerGetDatum(stream));
        SRF_RETURN_DONE(call);
    }

    old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
    resetStringInfo(&stream->chunk);
    if (stream->state == SNAPSHOT_HEADER)
    {
        append_header(stream);
        stream->state = stream->ntables > 0 ? SNAPSHOT_ROWS : SNAPSHOT_END;
        if (stream->ntables > 0)
            start_table(stream);
    }
    if (stream->state == SNAPSHOT_ROWS)
        append_rows(stream);
    if (stream->state == SNAPSHOT_END)
    {
        appendStringInfo(&stream->chunk, "{\"end\":true,\"rows\":" INT64_FORMAT ",\"digest\":\"",
                         stream->digest.rows);
        digest_append(&stream->chunk, &stream->digest);
        appendStringInfoString(&stream->chunk, "\"}\n");
        stream->state = SNAPSHOT_DONE;
    }
    MemoryContextSwitchTo(old);
    SRF_RETURN_NEXT(
        call, PointerGetDatum(cstring_to_text_with_len(stream->chunk.data, stream->chunk.len)));
}
