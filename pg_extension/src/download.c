/*
 * download.c: rowsync.download, one page of the change log.
 *
 * An index scan appends the stored payloads, which are JSON text already, to one buffer. A change
 * that a later one inside the window supersedes is left out: row_meta knows the latest version of
 * each row, one look each; where the row has moved on behind the window, the chain of its changes
 * leads back to what it was at its end.
 *
 * The look is what a page costs. Leaving out is needed where the source's own changes are left out:
 * an older change of somebody else must not undo them. Beyond the source's last upload it only
 * saves bytes; so there, where many looks have found nothing, as on a device that polls often, only
 * every few changes are looked up until one is superseded again.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "changelog.h"
#include "errors.h"
#include "guc.h"
#include "registry.h"
#include "scope.h"
#include "store.h"

PG_FUNCTION_INFO_V1(rowsync_download);

#define MAX_PAGE 10000
/* Log entries looked at for one page, for each change that it may have. */
#define LOOKS_PER_CHANGE 20
/* Looks without success after which only every SPARSE_STEP'th change is looked up. */
#define LOOKS_IN_VAIN 64
#define SPARSE_STEP 16
/* A source that only polls is noted as seen this often. */
#define SEEN_INTERVAL_MS (60 * 1000)

/* A page in the making. */
typedef struct DownloadPage
{
    const char *user_id;
    const char *source_id;
    const char *schema; /* NULL = all */
    int64 after;
    int64 until; /* -1 = the head */
    int limit;
    bool include_self;
    Scope scope;
    Source source; /* source_no is 0 where the source is unknown */
    Snapshot snapshot;
    Store meta;
    Store sources;
    Store log;
    int32 named_source; /* whose id stands in source_name */
    char *source_name;  /* as a JSON string */
    int64 next_after;
    int64 window_until;
    int count;
    int looks_in_vain;
    StringInfoData out;
} DownloadPage;

/* Whether a later change of the row lies inside the window. */
static bool
look_up_later(DownloadPage *page, int64 seq, Datum table_id, Datum row_key)
{
    ScanKeyData keys[3];
    int64 version;

    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(page->scope.scope_id));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ, table_id);
    ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_BYTEAEQ, row_key);
    if (!store_find(&page->meta, page->snapshot, keys, 3))
        return false;
    version = DatumGetInt64(store_value(&page->meta, META_VERSION));
    if (version > page->window_until)
        version = changelog_version_at(&page->log, page->snapshot, page->scope.scope_id, version,
                                       page->window_until);
    return version > seq;
}

/* Whether a change may be left out, as far as it pays to find out. */
static bool
superseded(DownloadPage *page, int64 seq, Datum table_id, Datum row_key)
{
    bool needed = !page->include_self && seq <= page->source.last_upload;

    if (!needed && page->looks_in_vain >= LOOKS_IN_VAIN && seq % SPARSE_STEP != 0)
        return false;
    if (look_up_later(page, seq, table_id, row_key))
    {
        page->looks_in_vain = 0;
        return true;
    }
    page->looks_in_vain++;
    return false;
}

/* The id of a source as a JSON string; the last one is kept, neighbours mostly share it. */
static const char *
source_name(DownloadPage *page, int32 source_no)
{
    ScanKeyData keys[2];
    StringInfoData name;

    if (source_no == page->named_source)
        return page->source_name;
    initStringInfo(&name);
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(page->scope.scope_id));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(source_no));
    if (source_no != 0 && store_find(&page->sources, page->snapshot, keys, 2))
    {
        text *id = DatumGetTextPP(store_value(&page->sources, SOURCE_ID));

        json_append_string(&name, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
    }
    else
        appendStringInfoString(&name, "\"\"");
    page->named_source = source_no;
    page->source_name = name.data;
    return name.data;
}

/* Appends one change. */
static void
append_change(DownloadPage *page, SyncedTable *table, TupleTableSlot *slot)
{
    StringInfo out = &page->out;
    int64 seq = DatumGetInt64(slot->tts_values[LOG_SEQ - 1]);
    char op = DatumGetChar(slot->tts_values[LOG_OP - 1]);
    bytea *key = DatumGetByteaPP(slot->tts_values[LOG_KEY - 1]);
    RowKey row_key = {VARSIZE_ANY_EXHDR(key), VARDATA_ANY(key)};

    appendStringInfoString(out, page->count++ > 0 ? ",{\"server_id\":" : "{\"server_id\":");
    json_append_integer(out, seq);
    appendStringInfoString(out, ",\"schema\":");
    json_append_string(out, table->schema, strlen(table->schema));
    appendStringInfoString(out, ",\"table\":");
    json_append_string(out, table->name, strlen(table->name));
    appendStringInfoString(out, op == 'D'   ? ",\"op\":\"DELETE\",\"pk\":"
                                : op == 'I' ? ",\"op\":\"INSERT\",\"pk\":"
                                            : ",\"op\":\"UPDATE\",\"pk\":");
    rowkey_append_json(out, table, row_key);
    appendStringInfoString(out, ",\"payload\":");
    if (op == 'D' || slot->tts_isnull[LOG_PAYLOAD - 1])
        appendStringInfoString(out, "null");
    else
    {
        text *payload = DatumGetTextPP(slot->tts_values[LOG_PAYLOAD - 1]);

        appendBinaryStringInfo(out, VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload));
        if ((Pointer)payload != DatumGetPointer(slot->tts_values[LOG_PAYLOAD - 1]))
            pfree(payload);
    }
    appendStringInfoString(out, ",\"server_version\":");
    json_append_integer(out, seq);
    appendStringInfoString(out, op == 'D' ? ",\"deleted\":true,\"source_id\":"
                                          : ",\"deleted\":false,\"source_id\":");
    appendStringInfoString(out, source_name(page, DatumGetInt32(slot->tts_values[LOG_SOURCE - 1])));
    appendStringInfoString(out, ",\"source_change_id\":");
    json_append_integer(out, DatumGetInt64(slot->tts_values[LOG_SOURCE_CHANGE_ID - 1]));
    appendStringInfoString(out, ",\"ts\":");
    timestamp_append_json(out, DatumGetTimestampTz(slot->tts_values[LOG_TS - 1]));
    appendStringInfoChar(out, '}');
}

/* Appends the changes of the page and moves next_after behind the last one looked at. */
static void
append_changes(DownloadPage *page)
{
    Relation relation = table_open(registry_relation(REL_CHANGE_LOG), AccessShareLock);
    Relation index = index_open(registry_relation(REL_CHANGE_LOG_PKEY), AccessShareLock);
    TupleTableSlot *slot = table_slot_create(relation, NULL);
    IndexScanDesc scan = index_beginscan(relation, index, page->snapshot, 3, 0);
    int64 looks = (int64)page->limit * LOOKS_PER_CHANGE;
    int most_bytes = rowsync_page_size * 1024;
    ScanKeyData keys[3];

    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(page->scope.scope_id));
    ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(page->after));
    ScanKeyInit(&keys[2], 2, BTLessEqualStrategyNumber, F_INT8LE,
                Int64GetDatum(page->window_until));
    index_rescan(scan, keys, 3, NULL, 0);

    page->next_after = page->window_until;
    while (index_getnext_slot(scan, ForwardScanDirection, slot))
    {
        int64 seq;
        SyncedTable *table;

        CHECK_FOR_INTERRUPTS();
        slot_getallattrs(slot);
        seq = DatumGetInt64(slot->tts_values[LOG_SEQ - 1]);
        if (page->count == page->limit || looks-- == 0 || page->out.len >= most_bytes)
        {
            page->next_after = seq - 1;
            break;
        }
        if (!page->include_self && page->source.source_no != 0 &&
            DatumGetInt32(slot->tts_values[LOG_SOURCE - 1]) == page->source.source_no)
            continue;
        table = registry_find_id(DatumGetInt32(slot->tts_values[LOG_TABLE - 1]));
        if (table == NULL || (page->schema != NULL && strcmp(page->schema, table->schema) != 0))
            continue;
        if (!superseded(page, seq, slot->tts_values[LOG_TABLE - 1], slot->tts_values[LOG_KEY - 1]))
            append_change(page, table, slot);
    }
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    index_close(index, NoLock);
    table_close(relation, NoLock);
}

/* Notes how far the source has read; a standby has nowhere to note it. */
static void
note_progress(DownloadPage *page)
{
    int64 read = Min(page->after, page->scope.head);

    if (RecoveryInProgress() || XactReadOnly || page->scope.scope_id == 0)
        return;
    if (page->source.source_no == 0)
    {
        Scope locked;

        scope_lock(page->scope.scope_id, &locked);
        PushActiveSnapshot(GetTransactionSnapshot());
        source_find_or_create(page->scope.scope_id, page->source_id, read, &page->source);
        PopActiveSnapshot();
    }
    else if (page->after > page->source.last_download ||
             TIMESTAMP_IS_NOBEGIN(page->source.last_seen) ||
             TimestampDifferenceExceeds(page->source.last_seen, GetCurrentTimestamp(),
                                        SEEN_INTERVAL_MS))
        source_update(page->scope.scope_id, page->source_id, read, 0, 0, false);
}

/* Finds the scope and refuses a cursor that the history no longer reaches. */
static void
open_window(DownloadPage *page)
{
    int64 scope_id = scope_find(page->user_id);

    if (scope_id != 0 && scope_read(scope_id, page->snapshot, &page->scope))
    {
        if (!source_find(scope_id, page->source_id, &page->source))
            page->source.source_no = 0;
    }
    if (page->after < page->scope.floor)
        ereport(ERROR, (errcode(ROWSYNC_HISTORY_PRUNED),
                        errmsg("changes up to " INT64_FORMAT " are pruned, after is " INT64_FORMAT,
                               page->scope.floor, page->after),
                        errhint("Hydrate from a snapshot, then download from its seq on.")));
    page->window_until = page->until >= 0 ? Min(page->until, page->scope.head) : page->scope.head;
    if (page->window_until < page->after)
        page->window_until = page->after;
}

/* Refuses an argument that is out of range. */
static void
check_argument(bool ok, const char *message)
{
    if (!ok)
        ereport(ERROR, (errcode(ROWSYNC_INVALID_PARAMETER), errmsg("%s", message)));
}

/* rowsync.download(user_id, source_id, after, page_limit, until, include_self, schema_name) */
Datum
rowsync_download(PG_FUNCTION_ARGS)
{
    DownloadPage page = {0};

    check_argument(!PG_ARGISNULL(0) && !PG_ARGISNULL(1), "user_id and source_id must not be null");
    page.user_id = text_to_cstring(PG_GETARG_TEXT_PP(0));
    page.source_id = text_to_cstring(PG_GETARG_TEXT_PP(1));
    page.after = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2);
    page.limit = PG_ARGISNULL(3) ? 1000 : PG_GETARG_INT32(3);
    page.until = PG_ARGISNULL(4) ? -1 : PG_GETARG_INT64(4);
    page.include_self = !PG_ARGISNULL(5) && PG_GETARG_BOOL(5);
    page.schema = PG_ARGISNULL(6) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(6));
    check_id("user_id", page.user_id);
    check_id("source_id", page.source_id);
    check_argument(page.after >= 0, "after must be 0 or more");
    check_argument(page.limit >= 1 && page.limit <= MAX_PAGE, "limit must be from 1 to 10000");
    check_argument(PG_ARGISNULL(4) || page.until >= page.after, "until must not be below after");

    page.snapshot = GetActiveSnapshot();
    open_window(&page);
    initStringInfo(&page.out);
    appendStringInfoSpaces(&page.out, VARHDRSZ);
    appendStringInfoString(&page.out, "{\"changes\":[");
    if (page.window_until > page.after)
    {
        page.named_source = -1;
        store_open(&page.meta, REL_ROW_META, REL_ROW_META_PKEY, AccessShareLock);
        store_open(&page.sources, REL_SOURCE, REL_SOURCE_PKEY, AccessShareLock);
        store_open(&page.log, REL_CHANGE_LOG, REL_CHANGE_LOG_PKEY, AccessShareLock);
        append_changes(&page);
        store_close(&page.log);
        store_close(&page.sources);
        store_close(&page.meta);
    }
    else
        page.next_after = page.window_until;
    appendStringInfo(
        &page.out,
        "],\"has_more\":%s,\"next_after\":" INT64_FORMAT ",\"window_until\":" INT64_FORMAT
        ",\"floor\":" INT64_FORMAT ",\"epoch\":" INT64_FORMAT ",\"last_upload\":" INT64_FORMAT
        ",\"head\":" INT64_FORMAT "}",
        page.next_after < page.window_until ? "true" : "false", page.next_after, page.window_until,
        page.scope.floor, page.scope.epoch, page.source.last_upload, page.scope.head);
    note_progress(&page);
    SET_VARSIZE(page.out.data, page.out.len);
    PG_RETURN_TEXT_P((text *)page.out.data);
}
