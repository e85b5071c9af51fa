/*
 * scope.c: the rows of rowsync.scope and rowsync.source.
 *
 * The row of a scope is the lock under which its changes get their numbers: whoever holds it knows
 * that head is final, and keeps it until commit. That is what makes numbers dense and in commit
 * order, and a reader's cursor safe.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "errors.h"
#include "scope.h"
#include "store.h"

/* Names already looked up. Scopes are never renamed or removed. */
typedef struct KnownScope
{
    char name[ROWSYNC_MAX_ID + 1];
    int64 scope_id;
} KnownScope;

static HTAB *known_scopes = NULL;

/* What a timestamp of PostgreSQL is more since 1970, in microseconds. */
#define UNIX_TO_POSTGRES ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* Refuses an id that is empty or too long; what names it in the message. */
void
check_id(const char *what, const char *id)
{
    size_t len = strlen(id);

    if (len == 0 || len > ROWSYNC_MAX_ID)
        ereport(ERROR, (errcode(ROWSYNC_INVALID_PARAMETER),
                        errmsg("%s must have 1 to %d bytes, not %zu", what, ROWSYNC_MAX_ID, len)));
}

/* Forgets all names: after an abort, one of them may never have come to be. */
void
scope_forget(void)
{
    if (known_scopes != NULL)
        hash_destroy(known_scopes);
    known_scopes = NULL;
}

/* Keeps the id of a name for the next lookup. */
static void
remember(const char *name, int64 scope_id)
{
    KnownScope *known;

    if (known_scopes != NULL && hash_get_num_entries(known_scopes) >= 10000)
        scope_forget();
    if (known_scopes == NULL)
    {
        HASHCTL control = {0};

        control.keysize = ROWSYNC_MAX_ID + 1;
        control.entrysize = sizeof(KnownScope);
        known_scopes = hash_create("rowsync scopes", 64, &control, HASH_ELEM | HASH_STRINGS);
    }
    known = hash_search(known_scopes, name, HASH_ENTER, NULL);
    known->scope_id = scope_id;
}

/* Looks the name up in the table, as anybody has committed it. 0 if it is not there. */
static int64
find_in_table(const char *name)
{
    Store store;
    ScanKeyData key;
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    int64 scope_id = 0;

    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(name));
    key.sk_collation = C_COLLATION_OID;
    store_open(&store, REL_SCOPE, REL_SCOPE_NAME, AccessShareLock);
    if (store_find(&store, snapshot, &key, 1))
        scope_id = DatumGetInt64(store_value(&store, SCOPE_ID));
    store_close(&store);
    UnregisterSnapshot(snapshot);
    return scope_id;
}

/* How long a wait for a scope lasts before PostgreSQL looks for a deadlock, in ms. */
#define PATIENCE 60000

/*
 * Waits for the row of a scope, or for the lock on its name. An upload that holds it may for a
 * moment wait for a row of somebody who waits here: that looks like a deadlock and is none, for the
 * upload gives way (see limit_lock_waits). Who waits in a line of uploads may look at just such a
 * moment, so here one looks very late. A real deadlock is found by whoever holds a scope and waits
 * for a row.
 */
static void
wait_for_scope(Store *store, Snapshot snapshot, const char *name)
{
    int usual = DeadlockTimeout;

    DeadlockTimeout = Max(usual, PATIENCE);
    PG_TRY();
    {
        if (store != NULL)
            store_lock(store, snapshot, true);
        else
            LockDatabaseObject(registry_relation(REL_SCOPE),
                               hash_bytes((const unsigned char *)name, strlen(name)), 0,
                               ExclusiveLock);
    }
    PG_FINALLY();
    {
        DeadlockTimeout = usual;
    }
    PG_END_TRY();
}

/* The id of a scope by name, at most ROWSYNC_MAX_ID bytes; 0 if there is none yet. */
int64
scope_find(const char *name)
{
    KnownScope *known;
    int64 scope_id;

    (void)registry_relation(REL_SCOPE);
    known = known_scopes ? hash_search(known_scopes, name, HASH_FIND, NULL) : NULL;
    if (known != NULL)
        return known->scope_id;
    scope_id = find_in_table(name);
    if (scope_id != 0)
        remember(name, scope_id);
    return scope_id;
}

/*
 * The same, creating the scope where there is none. Two that create the same name at once are put
 * in line by a lock on the name, so that neither meets a unique violation.
 */
int64
scope_find_or_create(const char *name)
{
    int64 scope_id = scope_find(name);
    Store store;
    StoreRow *row;
    Datum began[2];

    if (scope_id != 0)
        return scope_id;
    wait_for_scope(NULL, NULL, name);
    scope_id = find_in_table(name);
    if (scope_id == 0)
    {
        store_open(&store, REL_SCOPE, REL_SCOPE_NAME, RowExclusiveLock);
        scope_id = nextval_internal(registry_relation(REL_SCOPE_SEQUENCE), false);
        row = store_insert(&store);
        row->values[SCOPE_ID - 1] = Int64GetDatum(scope_id);
        row->values[SCOPE_HEAD - 1] = Int64GetDatum(0);
        row->values[SCOPE_FLOOR - 1] = Int64GetDatum(0);
        /* As declare_restored numbers them: a scope that is made anew is not the one that was. */
        began[0] = Int64GetDatum(GetCurrentTimestamp() + UNIX_TO_POSTGRES);
        began[1] = Int64GetDatum(0);
        row->values[SCOPE_EPOCH - 1] = began[0];
        row->values[SCOPE_NAME - 1] = CStringGetTextDatum(name);
        row->values[SCOPE_EPOCHS - 1] = PointerGetDatum(construct_array(
            began, lengthof(began), INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
        store_close(&store);
        CommandCounterIncrement();
    }
    remember(name, scope_id);
    return scope_id;
}

/* Positions store on the row of a scope. */
static bool
find_by_id(Store *store, Snapshot snapshot, int64 scope_id)
{
    ScanKeyData key;

    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(scope_id));
    return store_find(store, snapshot, &key, 1);
}

/* Copies the row that was found. */
static void
fill(Store *store, Scope *scope)
{
    scope->scope_id = DatumGetInt64(store_value(store, SCOPE_ID));
    scope->head = DatumGetInt64(store_value(store, SCOPE_HEAD));
    scope->floor = DatumGetInt64(store_value(store, SCOPE_FLOOR));
    scope->epoch = DatumGetInt64(store_value(store, SCOPE_EPOCH));
}

/* Reads a scope as snapshot sees it; false if it does not see it. */
bool
scope_read(int64 scope_id, Snapshot snapshot, Scope *scope)
{
    Store store;
    bool found;

    store_open(&store, REL_SCOPE, REL_SCOPE_PKEY, AccessShareLock);
    found = find_by_id(&store, snapshot, scope_id);
    if (found)
        fill(&store, scope);
    store_close(&store);
    return found;
}

/*
 * The epochs of a scope as snapshot sees them, each with where the log stood when it began: an
 * array of bigint in the current memory context, which for a scope that is not there has no
 * elements.
 */
ArrayType *
scope_epochs(int64 scope_id, Snapshot snapshot)
{
    Store store;
    ArrayType *epochs;

    store_open(&store, REL_SCOPE, REL_SCOPE_PKEY, AccessShareLock);
    epochs = find_by_id(&store, snapshot, scope_id)
                 ? DatumGetArrayTypePCopy(store_value(&store, SCOPE_EPOCHS))
                 : construct_empty_array(INT8OID);
    store_close(&store);
    return epochs;
}

/* Locks a scope until the end of the transaction and reads its latest state. */
void
scope_lock(int64 scope_id, Scope *scope)
{
    Store store;
    Snapshot snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot()
                                                                     : GetLatestSnapshot());

    store_open(&store, REL_SCOPE, REL_SCOPE_PKEY, RowExclusiveLock);
    if (!find_by_id(&store, snapshot, scope_id))
        ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                        errmsg("could not serialize access: the scope is newer than this "
                               "transaction's snapshot"),
                        errhint("Run the transaction again.")));
    wait_for_scope(&store, snapshot, NULL);
    fill(&store, scope);
    store_close(&store);
    UnregisterSnapshot(snapshot);
}

/* Writes the head, and the floor, of a locked scope; a floor that is below stays what it is. */
static void
write_ends(int64 scope_id, int64 head, int64 floor)
{
    Store store;
    Snapshot snapshot = GetActiveSnapshot();
    Datum values[SCOPE_NATTS];

    store_open(&store, REL_SCOPE, REL_SCOPE_PKEY, RowExclusiveLock);
    if (!find_by_id(&store, snapshot, scope_id))
        elog(ERROR, "scope " INT64_FORMAT " is not visible to its own lock holder", scope_id);
    slot_getallattrs(store.slot);
    memcpy(values, store.slot->tts_values, sizeof(values));
    values[SCOPE_HEAD - 1] = Int64GetDatum(head);
    values[SCOPE_FLOOR - 1] = Int64GetDatum(Max(floor, DatumGetInt64(values[SCOPE_FLOOR - 1])));
    store_update(&store, &store.slot->tts_tid, values, snapshot);
    store_close(&store);
}

/* Moves the head of a locked scope. */
void
scope_set_head(int64 scope_id, int64 head)
{
    write_ends(scope_id, head, 0);
}

/*
 * Makes every device begin again with a snapshot: uses up a number of each scope for no change, and
 * takes what is up to it for pruned. Locks all scopes, in the order in which a commit does.
 */
void
scope_require_snapshots(void)
{
    Relation relation = table_open(registry_relation(REL_SCOPE), RowExclusiveLock);
    Relation index = index_open(registry_relation(REL_SCOPE_PKEY), AccessShareLock);
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    SysScanDesc scan = systable_beginscan_ordered(relation, index, snapshot, 0, NULL);
    HeapTuple tuple;

    while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
    {
        bool isnull;
        Scope scope;

        CHECK_FOR_INTERRUPTS();
        scope_lock(
            DatumGetInt64(heap_getattr(tuple, SCOPE_ID, RelationGetDescr(relation), &isnull)),
            &scope);
        PushActiveSnapshot(GetTransactionSnapshot());
        write_ends(scope.scope_id, scope.head + 1, scope.head + 1);
        PopActiveSnapshot();
    }
    systable_endscan_ordered(scan);
    UnregisterSnapshot(snapshot);
    index_close(index, AccessShareLock);
    table_close(relation, NoLock);
    CommandCounterIncrement();
}

/* Positions store on the row of a source. */
static bool
find_source(Store *store, Snapshot snapshot, int64 scope_id, const char *source_id)
{
    ScanKeyData keys[2];

    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(scope_id));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(source_id));
    keys[1].sk_collation = C_COLLATION_OID;
    return store_find(store, snapshot, keys, 2);
}

/* Copies the row that was found. */
static void
fill_source(Store *store, Source *source)
{
    source->source_no = DatumGetInt32(store_value(store, SOURCE_NO));
    source->last_download = DatumGetInt64(store_value(store, SOURCE_LAST_DOWNLOAD));
    source->last_change_id = DatumGetInt64(store_value(store, SOURCE_LAST_CHANGE_ID));
    source->last_upload = DatumGetInt64(store_value(store, SOURCE_LAST_UPLOAD));
    source->last_seen = DatumGetTimestampTz(store_value(store, SOURCE_LAST_SEEN));
}

/* Reads a source as the active snapshot sees it; false if it does not see it. */
bool
source_find(int64 scope_id, const char *source_id, Source *source)
{
    Store store;
    bool found;

    store_open(&store, REL_SOURCE, REL_SOURCE_ID, AccessShareLock);
    found = find_source(&store, GetActiveSnapshot(), scope_id, source_id);
    if (found)
        fill_source(&store, source);
    store_close(&store);
    return found;
}

/* The highest source_no of a scope, or 0. */
static int32
highest_source_no(int64 scope_id)
{
    Relation relation = table_open(registry_relation(REL_SOURCE), AccessShareLock);
    Relation index = index_open(registry_relation(REL_SOURCE_PKEY), AccessShareLock);
    TupleTableSlot *slot = table_slot_create(relation, NULL);
    IndexScanDesc scan = index_beginscan(relation, index, GetActiveSnapshot(), 1, 0);
    ScanKeyData key;
    int32 highest = 0;
    bool isnull;

    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(scope_id));
    index_rescan(scan, &key, 1, NULL, 0);
    if (index_getnext_slot(scan, BackwardScanDirection, slot))
        highest = DatumGetInt32(slot_getattr(slot, SOURCE_NO, &isnull));
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    index_close(index, NoLock);
    table_close(relation, NoLock);
    return highest;
}

/*
 * The same, creating the source where there is none, as one that has read up to `last_download`.
 * The scope must be locked.
 */
void
source_find_or_create(int64 scope_id, const char *source_id, int64 last_download, Source *source)
{
    Store store;
    StoreRow *row;
    TimestampTz now = GetCurrentTimestamp();

    if (source_find(scope_id, source_id, source))
        return;
    memset(source, 0, sizeof(*source));
    source->source_no = highest_source_no(scope_id) + 1;
    source->last_download = last_download;
    source->last_seen = now;
    store_open(&store, REL_SOURCE, REL_SOURCE_ID, RowExclusiveLock);
    row = store_insert(&store);
    row->values[SOURCE_SCOPE - 1] = Int64GetDatum(scope_id);
    row->values[SOURCE_LAST_DOWNLOAD - 1] = Int64GetDatum(last_download);
    row->values[SOURCE_LAST_CHANGE_ID - 1] = Int64GetDatum(0);
    row->values[SOURCE_LAST_UPLOAD - 1] = Int64GetDatum(0);
    row->values[SOURCE_FIRST_SEEN - 1] = TimestampTzGetDatum(now);
    row->values[SOURCE_LAST_SEEN - 1] = TimestampTzGetDatum(now);
    row->values[SOURCE_NO - 1] = Int32GetDatum(source->source_no);
    row->values[SOURCE_ID - 1] = CStringGetTextDatum(source_id);
    row->values[SOURCE_PRUNED_IDS - 1] =
        OidInputFunctionCall(F_MULTIRANGE_IN, pstrdup("{}"), INT8MULTIRANGEOID, -1);
    store_close(&store);
    CommandCounterIncrement();
}

/* Whether prune has removed this change of a source from the log. */
bool
source_has_pruned(int64 scope_id, const char *source_id, int64 source_change_id)
{
    Store store;
    bool pruned = false;

    store_open(&store, REL_SOURCE, REL_SOURCE_ID, AccessShareLock);
    if (find_source(&store, GetActiveSnapshot(), scope_id, source_id))
        pruned = DatumGetBool(OidFunctionCall2(F_MULTIRANGE_CONTAINS_ELEM,
                                               store_value(&store, SOURCE_PRUNED_IDS),
                                               Int64GetDatum(source_change_id)));
    store_close(&store);
    return pruned;
}

/*
 * Notes what a source has done; the three numbers only ever grow. Without wait,
 * leaves the note out if somebody else is writing one.
 */
void
source_update(int64 scope_id, const char *source_id, int64 last_download, int64 last_change_id,
              int64 last_upload, bool wait)
{
    Store store;
    Snapshot snapshot = GetActiveSnapshot();
    Datum values[SOURCE_NATTS];

    store_open(&store, REL_SOURCE, REL_SOURCE_ID, RowExclusiveLock);
    if (find_source(&store, snapshot, scope_id, source_id) && store_lock(&store, snapshot, wait))
    {
        slot_getallattrs(store.slot);
        memcpy(values, store.slot->tts_values, sizeof(values));
        values[SOURCE_LAST_DOWNLOAD - 1] =
            Int64GetDatum(Max(last_download, DatumGetInt64(values[SOURCE_LAST_DOWNLOAD - 1])));
        values[SOURCE_LAST_CHANGE_ID - 1] =
            Int64GetDatum(Max(last_change_id, DatumGetInt64(values[SOURCE_LAST_CHANGE_ID - 1])));
        values[SOURCE_LAST_UPLOAD - 1] =
            Int64GetDatum(Max(last_upload, DatumGetInt64(values[SOURCE_LAST_UPLOAD - 1])));
        values[SOURCE_LAST_SEEN - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
        store_update(&store, &store.slot->tts_tid, values, snapshot);
    }
    store_close(&store);
    /* For a second request in the same statement. */
    CommandCounterIncrement();
}
