/*
 * changelog.c: the one writer of versions and log entries.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "changelog.h"
#include "errors.h"

/* What changelog_append_state collects before it writes. */
#define MAX_BATCH_ROWS 500
#define MAX_BATCH_SIZE (4 * 1024 * 1024)

/* Hash table of RowState by (table_id, key). */
typedef struct RowSlot
{
    RowState *row;
    uint32 hash;
    char status;
} RowSlot;

/* The hash of a row's name. */
static inline uint32
row_hash(const RowState *row)
{
    return hash_combine(hash_bytes((const unsigned char *)row->key.data, row->key.len),
                        (uint32)row->table_id);
}

/* Whether two names are the same. */
static inline bool
row_equal(const RowState *a, const RowState *b)
{
    return a->table_id == b->table_id && rowkey_equal(a->key, b->key);
}

#define SH_PREFIX rows
#define SH_ELEMENT_TYPE RowSlot
#define SH_KEY_TYPE RowState *
#define SH_KEY row
#define SH_HASH_KEY(tb, key) row_hash(key)
#define SH_EQUAL(tb, a, b) row_equal(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) (a)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct ChangeLog
{
    MemoryContext context; /* owns all of it */
    int64 scope_id;
    int64 head;
    int64 stored_head;
    int32 own_source;
    TimestampTz now;
    Snapshot snapshot;
    Store log;       /* by (scope, seq) */
    Batches batches; /* of own_source, unless that is 0 */
    Store meta;
    rows_hash *rows;     /* NULL until first needed */
    MemoryContext batch; /* of changelog_append_state; NULL until first needed */
    Size batch_size;
    List *dirty; /* RowStates, in the order of their first change */
};

/*
 * Opens the log of a scope that the caller has locked, with a fresh snapshot pushed after that.
 * own_source is who appends (NULL: the server). What changelog_append takes is written when the log
 * is closed, so that an upload can still be abandoned. Everything belongs to a context below the
 * current one.
 */
ChangeLog *
changelog_open(const Scope *locked, const Source *own_source)
{
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "rowsync change log", ALLOCSET_DEFAULT_SIZES);
    MemoryContext old = MemoryContextSwitchTo(context);
    ChangeLog *log = palloc0(sizeof(ChangeLog));

    log->context = context;
    log->scope_id = locked->scope_id;
    log->head = log->stored_head = locked->head;
    log->own_source = own_source ? own_source->source_no : 0;
    log->now = GetCurrentTimestamp();
    log->snapshot = GetActiveSnapshot();
    store_open(&log->log, REL_CHANGE_LOG, REL_CHANGE_LOG_PKEY, RowExclusiveLock);
    store_open(&log->meta, REL_ROW_META, REL_ROW_META_PKEY, RowExclusiveLock);
    if (own_source != NULL)
        batches_open(&log->batches, log->scope_id, own_source);
    MemoryContextSwitchTo(old);
    return log;
}

/* Refuses a key that would not fit into the index. */
static void
check_key(RowKey key)
{
    if (key.len > ROWSYNC_MAX_KEY)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("the primary key of a row that syncs is %d bytes long, more than %d",
                               key.len, ROWSYNC_MAX_KEY)));
}

/* Finds the line of a row in row_meta. A row that was never captured may have too long a key. */
static bool
find_meta(Store *meta, Snapshot snapshot, int64 scope_id, int32 table_id, RowKey key)
{
    struct
    {
        int32 header;
        char data[ROWSYNC_MAX_KEY];
    } datum;
    ScanKeyData keys[3];

    if (key.len > ROWSYNC_MAX_KEY)
        return false;
    SET_VARSIZE(&datum, VARHDRSZ + key.len);
    memcpy(datum.data, key.data, key.len);
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(scope_id));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(table_id));
    ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_BYTEAEQ, PointerGetDatum(&datum));
    return store_find(meta, snapshot, keys, 3);
}

/* Reads the version of a row from row_meta. */
static void
read_meta(ChangeLog *log, RowState *row)
{
    row->stored = find_meta(&log->meta, log->snapshot, log->scope_id, row->table_id, row->key);
    if (row->stored)
    {
        row->version = DatumGetInt64(store_value(&log->meta, META_VERSION));
        row->deleted = DatumGetBool(store_value(&log->meta, META_DELETED));
        row->tid = log->meta.slot->tts_tid;
    }
    else
    {
        row->version = 0;
        row->deleted = true;
    }
    row->stored_version = row->version;
}

/* What is known of a row already, without a look at the table; NULL if nothing. */
RowState *
changelog_peek(ChangeLog *log, int32 table_id, RowKey key)
{
    RowState probe = {.table_id = table_id, .key = key};
    RowSlot *slot = log->rows ? rows_lookup(log->rows, &probe) : NULL;

    return slot ? slot->row : NULL;
}

/* A row of which nothing is known, in the current context, with a copy of its key. */
static RowState *
new_row(int32 table_id, RowKey key)
{
    RowState *row = palloc0(sizeof(RowState) + key.len);

    row->table_id = table_id;
    row->key.len = key.len;
    row->key.data = memcpy(row + 1, key.data, key.len);
    row->own = true;
    row->deleted = true;
    return row;
}

/*
 * What is known of a row; of one that nobody has asked for yet, that it is new: a guess, which
 * saves looking for a row that is most likely not there. Copies the key. If the guess is wrong and
 * a change of the row is appended all the same, changelog_close raises a unique violation of
 * row_meta.
 */
RowState *
changelog_guess(ChangeLog *log, int32 table_id, RowKey key)
{
    RowState probe = {.table_id = table_id, .key = key};
    uint32 hash = row_hash(&probe);
    RowSlot *slot;
    MemoryContext old;
    RowState *row;
    bool found;

    if (log->rows == NULL)
        log->rows = rows_create(log->context, 256, NULL);
    slot = rows_lookup_hash(log->rows, &probe, hash);
    if (slot != NULL)
        return slot->row;
    check_key(key);
    old = MemoryContextSwitchTo(log->context);
    row = new_row(table_id, key);
    row->guessed = true;
    MemoryContextSwitchTo(old);
    slot = rows_insert_hash(log->rows, row, hash, &found);
    slot->row = row;
    return row;
}

/* Looks up a row of which nothing is known but a guess. */
void
changelog_confirm(ChangeLog *log, RowState *row)
{
    MemoryContext old;

    if (!row->guessed)
        return;
    old = MemoryContextSwitchTo(log->context);
    read_meta(log, row);
    row->guessed = false;
    MemoryContextSwitchTo(old);
}

/* What is known of a row, a guess included; looked up if nobody has asked yet. Copies the key. */
RowState *
changelog_row(ChangeLog *log, int32 table_id, RowKey key)
{
    RowState *row = changelog_peek(log, table_id, key);

    if (row == NULL)
    {
        row = changelog_guess(log, table_id, key);
        changelog_confirm(log, row);
    }
    return row;
}

/* The key of a row as a datum of the current context. */
static Datum
key_datum(RowKey key)
{
    bytea *datum = palloc(VARHDRSZ + key.len);

    SET_VARSIZE(datum, VARHDRSZ + key.len);
    memcpy(VARDATA(datum), key.data, key.len);
    return PointerGetDatum(datum);
}

/* Gives a change the next number and takes it for writing. */
static void
append(ChangeLog *log, const LogEntry *entry)
{
    StoreRow *stored = store_insert(&log->log);
    RowState *row = entry->row;

    log->head++;
    stored->values[LOG_SCOPE - 1] = Int64GetDatum(log->scope_id);
    stored->values[LOG_SEQ - 1] = Int64GetDatum(log->head);
    stored->values[LOG_SOURCE_CHANGE_ID - 1] = Int64GetDatum(entry->source_change_id);
    stored->values[LOG_PRIOR_VERSION - 1] = Int64GetDatum(row->version);
    stored->values[LOG_TS - 1] = TimestampTzGetDatum(log->now);
    stored->values[LOG_TABLE - 1] = Int32GetDatum(row->table_id);
    stored->values[LOG_SOURCE - 1] = Int32GetDatum(entry->source_no);
    stored->values[LOG_CONTENT_CRC - 1] = UInt32GetDatum(entry->content_crc);
    stored->values[LOG_OP - 1] = CharGetDatum(entry->op);
    stored->values[LOG_KEY - 1] = key_datum(row->key);
    stored->values[LOG_PAYLOAD - 1] = PointerGetDatum(entry->payload);
    stored->isnull[LOG_PAYLOAD - 1] = entry->payload == NULL;
    row->version = log->head;
    row->deleted = entry->op == 'D';
    row->change = stored;
}

/* Writes the version of a row to row_meta. */
static void
write_version(ChangeLog *log, RowState *row)
{
    Datum values[META_NATTS];

    values[META_SCOPE - 1] = Int64GetDatum(log->scope_id);
    values[META_VERSION - 1] = Int64GetDatum(row->version);
    values[META_TABLE - 1] = Int32GetDatum(row->table_id);
    values[META_DELETED - 1] = BoolGetDatum(row->deleted);
    values[META_KEY - 1] = key_datum(row->key);
    values[META_PLACE - 1] = PointerGetDatum(&row->change->tid);
    if (row->stored)
        store_update(&log->meta, &row->tid, values, log->snapshot);
    else
        memcpy(store_insert(&log->meta)->values, values, sizeof(values));
}

/* Orders rows as the index of row_meta does, which likes to be filled in order. */
static int
compare_rows(const ListCell *a, const ListCell *b)
{
    const RowState *left = lfirst(a);
    const RowState *right = lfirst(b);

    if (left->table_id != right->table_id)
        return left->table_id < right->table_id ? -1 : 1;
    return rowkey_compare(left->key, right->key);
}

/* Writes what was appended: the changes, then the versions, which say where the changes lie. */
static void
write_appended(ChangeLog *log)
{
    ListCell *cell;

    store_flush(&log->log);
    list_sort(log->dirty, compare_rows);
    foreach (cell, log->dirty)
    {
        CHECK_FOR_INTERRUPTS();
        write_version(log, lfirst(cell));
    }
    store_flush(&log->meta);
    log->dirty = NIL;
}

/* Appends a change of a row that changelog_row knows. Returns its number. */
int64
changelog_append(ChangeLog *log, const LogEntry *entry)
{
    MemoryContext old = MemoryContextSwitchTo(log->context);
    RowState *row = entry->row;

    append(log, entry);
    if (entry->source_no != 0)
        batches_note(&log->batches, entry->source_change_id, log->head);
    row->guessed = false;
    row->own = row->own && entry->source_no == log->own_source;
    row->payload = entry->payload;
    if (!row->dirty)
        log->dirty = lappend(log->dirty, row);
    row->dirty = true;
    MemoryContextSwitchTo(old);
    return log->head;
}

/*
 * Appends what a row has become by the server's own writes, in constant memory: each row may come
 * only once, and none that changelog_row knows. A row that came and went leaves no trace. Copies
 * key and payload.
 */
void
changelog_append_state(ChangeLog *log, int32 table_id, RowKey key, bool deleted,
                       struct varlena *payload)
{
    MemoryContext old;
    RowState *row;
    LogEntry entry = {0};

    check_key(key);
    if (log->batch == NULL)
        log->batch = AllocSetContextCreate(log->context, "rowsync batch", ALLOCSET_DEFAULT_SIZES);
    old = MemoryContextSwitchTo(log->batch);
    row = new_row(table_id, key);
    log->batch_size += sizeof(RowState) + key.len;
    MemoryContextSwitchTo(log->context);
    read_meta(log, row);
    MemoryContextSwitchTo(log->batch);
    if (!deleted || !row->deleted)
    {
        entry.row = row;
        entry.op = deleted ? 'D' : (row->deleted ? 'I' : 'U');
        entry.payload = memcpy(palloc(VARSIZE(payload)), payload, VARSIZE(payload));
        append(log, &entry);
        log->dirty = lappend(log->dirty, row);
        log->batch_size += VARSIZE(payload) + key.len;
    }
    if (log->log.npending >= MAX_BATCH_ROWS || log->batch_size >= MAX_BATCH_SIZE)
    {
        write_appended(log);
        MemoryContextReset(log->batch);
        log->batch_size = 0;
    }
    MemoryContextSwitchTo(old);
}

/*
 * Finds a change of the uploading source that is known already, and whether it was one of a row
 * with this key. Most likely it is the latest of the row that it names now.
 */
bool
changelog_find_change(ChangeLog *log, int64 source_change_id, int32 table_id, RowKey key,
                      KnownChange *known)
{
    int64 hint = batches_want_hint(&log->batches) ? changelog_row(log, table_id, key)->version : 0;
    MemoryContext old = MemoryContextSwitchTo(log->context);
    int64 seq = batches_find(&log->batches, &log->log, log->snapshot, source_change_id, hint);
    bytea *stored;

    MemoryContextSwitchTo(old);
    if (seq == 0 || !changelog_find(&log->log, log->snapshot, log->scope_id, seq))
        return false;
    stored = DatumGetByteaPP(store_value(&log->log, LOG_KEY));
    known->seq = seq;
    known->table_id = DatumGetInt32(store_value(&log->log, LOG_TABLE));
    known->same_key = rowkey_equal(key, (RowKey){VARSIZE_ANY_EXHDR(stored), VARDATA_ANY(stored)});
    return true;
}

/* Positions a Store of the change log, by its primary key, on change seq of a scope. */
bool
changelog_find(Store *log, Snapshot snapshot, int64 scope_id, int64 seq)
{
    ScanKeyData keys[2];

    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(scope_id));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(seq));
    return store_find(log, snapshot, keys, 2);
}

/*
 * The version that a row had at a position of the log, following its changes back from a later one;
 * 0 where it was not there yet. RS003 where the chain is pruned.
 */
int64
changelog_version_at(Store *log, Snapshot snapshot, int64 scope_id, int64 version, int64 at)
{
    while (version > at)
    {
        CHECK_FOR_INTERRUPTS();
        if (!changelog_find(log, snapshot, scope_id, version))
            ereport(ERROR, (errcode(ROWSYNC_HISTORY_PRUNED),
                            errmsg("the history since " INT64_FORMAT " is pruned", at),
                            errhint("Begin again at the head.")));
        version = DatumGetInt64(store_value(log, LOG_PRIOR_VERSION));
    }
    return version;
}

/* Reads change seq of a scope through such a Store. */
static bool
read_change(Store *log, Snapshot snapshot, int64 scope_id, int64 seq, StoredChange *change)
{
    Datum payload;
    bool isnull;

    if (!changelog_find(log, snapshot, scope_id, seq))
        return false;
    change->seq = seq;
    change->prior_version = DatumGetInt64(store_value(log, LOG_PRIOR_VERSION));
    change->source_change_id = DatumGetInt64(store_value(log, LOG_SOURCE_CHANGE_ID));
    change->source_no = DatumGetInt32(store_value(log, LOG_SOURCE));
    change->content_crc = DatumGetUInt32(store_value(log, LOG_CONTENT_CRC));
    change->op = DatumGetChar(store_value(log, LOG_OP));
    payload = slot_getattr(log->slot, LOG_PAYLOAD, &isnull);
    change->payload = isnull ? NULL : TextDatumGetCString(payload);
    change->payload_len = isnull ? 0 : strlen(change->payload);
    return true;
}

/* Reads a stored change; false if it is pruned, or not yet written. */
bool
changelog_read(ChangeLog *log, int64 seq, StoredChange *change)
{
    return read_change(&log->log, log->snapshot, log->scope_id, seq, change);
}

/* Reads the latest change of a row without a log open, as the active snapshot sees it. */
bool
changelog_read_row(int64 scope_id, int32 table_id, RowKey key, StoredChange *change)
{
    Store store;
    int64 version = 0;
    bool found;

    store_open(&store, REL_ROW_META, REL_ROW_META_PKEY, AccessShareLock);
    if (find_meta(&store, GetActiveSnapshot(), scope_id, table_id, key))
        version = DatumGetInt64(store_value(&store, META_VERSION));
    store_close(&store);
    if (version == 0)
        return false;
    store_open(&store, REL_CHANGE_LOG, REL_CHANGE_LOG_PKEY, AccessShareLock);
    found = read_change(&store, GetActiveSnapshot(), scope_id, version, change);
    store_close(&store);
    return found;
}

/* Reads the latest change of a row, whether it is written yet or not. */
bool
changelog_read_latest(ChangeLog *log, const RowState *row, StoredChange *change)
{
    if (row->version == row->stored_version)
        return changelog_read(log, row->version, change);
    memset(change, 0, sizeof(*change));
    change->seq = row->version;
    /* Others must not follow the chain from here: -1 is no change's number. */
    change->prior_version = -1;
    if (row->payload != NULL)
    {
        change->payload = text_to_cstring((text *)row->payload);
        change->payload_len = strlen(change->payload);
    }
    return true;
}

/* Number of the latest change, appended ones included. */
int64
changelog_head(const ChangeLog *log)
{
    return log->head;
}

/* Releases what open took, without writing what is left. */
static void
release(ChangeLog *log)
{
    if (log->own_source != 0)
        batches_close(&log->batches);
    store_close(&log->log);
    store_close(&log->meta);
    MemoryContextDelete(log->context);
}

/* Writes everything appended, moves the scope's head and releases the log. */
void
changelog_close(ChangeLog *log)
{
    MemoryContext old = MemoryContextSwitchTo(log->context);

    write_appended(log);
    if (log->own_source != 0)
        batches_write(&log->batches, log->stored_head + 1, log->head);
    if (log->head != log->stored_head)
        scope_set_head(log->scope_id, log->head);
    MemoryContextSwitchTo(old);
    release(log);
    CommandCounterIncrement();
}

/* Releases the log without writing what changelog_append took. */
void
changelog_abandon(ChangeLog *log)
{
    log->log.npending = 0;
    log->meta.npending = 0;
    release(log);
}
