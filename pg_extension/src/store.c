/*
 * store.c: direct access to rowsync's own tables.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "errors.h"
#include "store.h"

/* Rows written with one call; more gain nothing. */
#define ROWS_PER_CALL 64

/* Opens a table with one of its indexes. Resources live in the current context and resource owner.
 */
void
store_open(Store *store, OwnRelation table, OwnRelation index, LOCKMODE lock)
{
    memset(store, 0, sizeof(*store));
    store->context = CurrentMemoryContext;
    store->relation = table_open(registry_relation(table), lock);
    store->index = index_open(registry_relation(index), AccessShareLock);
    store->slot = table_slot_create(store->relation, NULL);
}

/*
 * Brings the version at the root tid that snapshot sees into store->slot. What an ordinary index
 * scan does besides, pruning the page after each update of one of its rows, costs as much as the
 * rest: store_update prunes when it needs the room.
 */
static bool
fetch_row(Store *store, Snapshot snapshot, ItemPointer tid)
{
    Buffer buffer = ReadBuffer(store->relation, ItemPointerGetBlockNumber(tid));
    BufferHeapTupleTableSlot *slot = (BufferHeapTupleTableSlot *)store->slot;
    ItemPointerData version = *tid;
    bool all_dead = false;
    bool found;

    LockBuffer(buffer, BUFFER_LOCK_SHARE);
    found = heap_hot_search_buffer(&version, store->relation, buffer, snapshot, &slot->base.tupdata,
                                   &all_dead, true);
    LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
    if (found)
        ExecStoreBufferHeapTuple(&slot->base.tupdata, store->slot, buffer);
    ReleaseBuffer(buffer);
    if (!store->scan->xactStartedInRecovery)
        store->scan->kill_prior_tuple = all_dead;
    return found;
}

/* Finds the first row with these index keys that snapshot sees; it is then in store->slot. */
bool
store_find(Store *store, Snapshot snapshot, ScanKey keys, int nkeys)
{
    ItemPointer tid;

    if (store->scan != NULL && store->scan->xs_snapshot != snapshot)
    {
        index_endscan(store->scan);
        store->scan = NULL;
    }
    if (store->scan == NULL)
    {
        MemoryContext old = MemoryContextSwitchTo(store->context);

        store->scan = index_beginscan(store->relation, store->index, snapshot, nkeys, 0);
        MemoryContextSwitchTo(old);
    }
    index_rescan(store->scan, keys, nkeys, NULL, 0);
    while ((tid = index_getnext_tid(store->scan, ForwardScanDirection)) != NULL)
    {
        if (fetch_row(store, snapshot, tid))
            return true;
    }
    ExecClearTuple(store->slot);
    return false;
}

/* Prepares for writing. */
static void
open_for_write(Store *store)
{
    MemoryContext old;

    if (store->result != NULL)
        return;
    old = MemoryContextSwitchTo(store->context);
    store->estate = CreateExecutorState();
    store->result = makeNode(ResultRelInfo);
    InitResultRelInfo(store->result, store->relation, 0, NULL, 0);
    ExecOpenIndices(store->result, false);
    MemoryContextSwitchTo(old);
}

/* A slot for writing, by number. */
static TupleTableSlot *
writing_slot(Store *store, int number)
{
    MemoryContext old = MemoryContextSwitchTo(store->context);

    if (store->slots == NULL)
        store->slots = palloc(ROWS_PER_CALL * sizeof(TupleTableSlot *));
    while (store->nslots <= number)
        store->slots[store->nslots++] = table_slot_create(store->relation, NULL);
    MemoryContextSwitchTo(old);
    return ExecClearTuple(store->slots[number]);
}

/*
 * Takes one more row for store_flush, in the current context: fill in its values, and set isnull
 * where one is null.
 */
StoreRow *
store_insert(Store *store)
{
    int natts = RelationGetNumberOfAttributes(store->relation);
    Size values = offsetof(StoreRow, values) + natts * sizeof(Datum);
    StoreRow *row = palloc(values + natts * sizeof(bool));

    row->isnull = (bool *)((char *)row + values);
    memset(row->isnull, 0, natts * sizeof(bool));
    if (store->npending == store->pending_room)
    {
        MemoryContext old = MemoryContextSwitchTo(store->context);
        int room = Max(store->pending_room * 2, 64);

        store->pending = store->pending ? repalloc(store->pending, room * sizeof(StoreRow *))
                                        : palloc(room * sizeof(StoreRow *));
        store->pending_room = room;
        MemoryContextSwitchTo(old);
    }
    store->pending[store->npending++] = row;
    return row;
}

/* Writes count rows of the ones collected, from first on. */
static void
write_rows(Store *store, int first, int count)
{
    int natts = RelationGetNumberOfAttributes(store->relation);

    for (int i = 0; i < count; i++)
    {
        StoreRow *row = store->pending[first + i];
        TupleTableSlot *slot = writing_slot(store, i);

        memcpy(slot->tts_values, row->values, natts * sizeof(Datum));
        memcpy(slot->tts_isnull, row->isnull, natts * sizeof(bool));
        ExecStoreVirtualTuple(slot);
    }
    table_multi_insert(store->relation, store->slots, count, GetCurrentCommandId(true), 0, NULL);
    for (int i = 0; i < count; i++)
    {
        CHECK_FOR_INTERRUPTS();
        store->pending[first + i]->tid = store->slots[i]->tts_tid;
        if (store->result->ri_NumIndices > 0)
            (void)rowsync_insert_index_entries(store->result, store->slots[i], store->estate,
                                               false);
        ResetPerTupleExprContext(store->estate);
        ExecClearTuple(store->slots[i]);
    }
}

/* Writes the rows collected. */
void
store_flush(Store *store)
{
    if (store->npending == 0)
        return;
    open_for_write(store);
    for (int done = 0; done < store->npending; done += ROWS_PER_CALL)
        write_rows(store, done, Min(store->npending - done, ROWS_PER_CALL));
    store->npending = 0;
}

/* Makes room on the page of a row for another version of it, out of versions nobody sees. */
static void
make_room(Store *store, ItemPointer tid, TupleTableSlot *row)
{
    Buffer buffer = ReadBuffer(store->relation, ItemPointerGetBlockNumber(tid));
    Size size = MAXALIGN(SizeofHeapTupleHeader) +
                heap_compute_data_size(row->tts_tupleDescriptor, row->tts_values, row->tts_isnull);

    if (PageGetHeapFreeSpace(BufferGetPage(buffer)) < MAXALIGN(size))
        heap_page_prune_opt(store->relation, buffer);
    ReleaseBuffer(buffer);
}

/* Replaces the row at tid, which nobody else can be changing: its scope is locked. */
void
store_update(Store *store, ItemPointer tid, const Datum *values, Snapshot snapshot)
{
    TupleTableSlot *slot = writing_slot(store, 0);
    int natts = RelationGetNumberOfAttributes(store->relation);
    RowsyncIndexUpdate update_indexes;

    open_for_write(store);
    memcpy(slot->tts_values, values, natts * sizeof(Datum));
    memset(slot->tts_isnull, 0, natts * sizeof(bool));
    ExecStoreVirtualTuple(slot);
    make_room(store, tid, slot);
    simple_table_tuple_update(store->relation, tid, slot, snapshot, &update_indexes);
    if (store->result->ri_NumIndices > 0 && ROWSYNC_NEEDS_INDEX_UPDATE(update_indexes))
        (void)rowsync_insert_index_entries(store->result, slot, store->estate, true);
    ResetPerTupleExprContext(store->estate);
    ExecClearTuple(slot);
}

/*
 * Locks the row that was found against other writers, and brings its latest version into
 * store->slot. Without wait, false if somebody holds it. Under REPEATABLE READ and SERIALIZABLE a
 * row that has changed since the transaction's snapshot is a serialization failure.
 */
bool
store_lock(Store *store, Snapshot snapshot, bool wait)
{
    ItemPointerData tid = store->slot->tts_tid;
    TM_FailureData failure;
    TM_Result result;

    result =
        table_tuple_lock(store->relation, &tid, snapshot, store->slot, GetCurrentCommandId(true),
                         LockTupleNoKeyExclusive, wait ? LockWaitBlock : LockWaitSkip,
                         TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure);
    if (result == TM_WouldBlock)
        return false;
    if (result == TM_Ok && !(failure.traversed && IsolationUsesXactSnapshot()))
        return true;
    if (IsolationUsesXactSnapshot() && (result == TM_Ok || result == TM_Updated))
        ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                        errmsg("could not serialize access due to concurrent update"),
                        errhint("Another transaction wrote to the same scope. Run this one "
                                "again.")));
    ereport(ERROR, (errcode(ROWSYNC_DAMAGED), errmsg("a row of rowsync.%s went away while in use",
                                                     RelationGetRelationName(store->relation))));
    return false;
}

/* Writes what is pending and releases everything; locks stay until the end of the transaction. */
void
store_close(Store *store)
{
    store_flush(store);
    if (store->scan != NULL)
        index_endscan(store->scan);
    for (int i = 0; i < store->nslots; i++)
        ExecDropSingleTupleTableSlot(store->slots[i]);
    if (store->result != NULL)
    {
        ExecCloseIndices(store->result);
        FreeExecutorState(store->estate);
    }
    ExecDropSingleTupleTableSlot(store->slot);
    index_close(store->index, NoLock);
    table_close(store->relation, NoLock);
}
