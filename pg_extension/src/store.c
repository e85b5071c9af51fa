/*
 * store.c: direct access to rowsync's own tables.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "errors.h"
#include "store.h"

/* Rows written with one call; more gain nothing. */
#define ROWS_PER_CALL 500

/* Opens a table with one of its indexes. Resources live in the current context and resource owner. */
void
store_open(Store *store, OwnRelation table, OwnRelation index, LOCKMODE lock)
{
    memset(store, 0, sizeof(*store));
    store->context = CurrentMemoryContext;
    store->relation = table_open(registry_relation(table), lock);
    store->index = index_open(registry_relation(index), AccessShareLock);
    store->slot = table_slot_create(store->relation, NULL);
}

/* Finds the first row with these index keys that snapshot sees; it is then in store->slot. */
bool
store_find(Store *store, Snapshot snapshot, ScanKey keys, int nkeys)
{
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
    return index_getnext_slot(store->scan, ForwardScanDirection, store->slot);
}

/* Prepares for writing. */
static void
open_for_write(Store *store)
{
    if (store->result != NULL)
        return;
    store->estate = CreateExecutorState();
    store->result = makeNode(ResultRelInfo);
    InitResultRelInfo(store->result, store->relation, 0, NULL, 0);
    ExecOpenIndices(store->result, false);
}

/* An empty slot for the next row: fill tts_values and tts_isnull, then call store_insert. */
TupleTableSlot *
store_new_row(Store *store)
{
    MemoryContext old = MemoryContextSwitchTo(store->context);

    open_for_write(store);
    if (store->npending == store->nslots)
    {
        if (store->nslots % ROWS_PER_CALL == 0)
        {
            Size room = (store->nslots + ROWS_PER_CALL) * sizeof(TupleTableSlot *);

            store->pending = store->pending ? repalloc(store->pending, room) : palloc(room);
        }
        store->pending[store->nslots++] = table_slot_create(store->relation, NULL);
    }
    MemoryContextSwitchTo(old);
    return ExecClearTuple(store->pending[store->npending]);
}

/* Takes the row last prepared. What its values point to must live until store_flush. */
void
store_insert(Store *store)
{
    ExecStoreVirtualTuple(store->pending[store->npending++]);
}

/* Writes the rows collected. */
void
store_flush(Store *store)
{
    for (int done = 0; done < store->npending; done += ROWS_PER_CALL)
        table_multi_insert(store->relation, store->pending + done,
                           Min(store->npending - done, ROWS_PER_CALL), GetCurrentCommandId(true), 0,
                           NULL);
    for (int i = 0; i < store->npending; i++)
    {
        CHECK_FOR_INTERRUPTS();
        if (store->result->ri_NumIndices > 0)
            (void) rowsync_insert_index_entries(store->result, store->pending[i], store->estate,
                                                false);
        ResetPerTupleExprContext(store->estate);
        ExecClearTuple(store->pending[i]);
    }
    store->npending = 0;
}

/* Replaces the row at tid, which nobody else can be changing: its scope is locked. */
void
store_update(Store *store, ItemPointer tid, const Datum *values, const bool *nulls,
             Snapshot snapshot)
{
    TupleTableSlot *slot = store_new_row(store);
    RowsyncIndexUpdate update_indexes;

    memcpy(slot->tts_values, values, slot->tts_tupleDescriptor->natts * sizeof(Datum));
    if (nulls != NULL)
        memcpy(slot->tts_isnull, nulls, slot->tts_tupleDescriptor->natts * sizeof(bool));
    else
        memset(slot->tts_isnull, 0, slot->tts_tupleDescriptor->natts * sizeof(bool));
    ExecStoreVirtualTuple(slot);
    simple_table_tuple_update(store->relation, tid, slot, snapshot, &update_indexes);
    if (store->result->ri_NumIndices > 0 && ROWSYNC_NEEDS_INDEX_UPDATE(update_indexes))
        (void) rowsync_insert_index_entries(store->result, slot, store->estate, true);
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

    result = table_tuple_lock(store->relation, &tid, snapshot, store->slot,
                              GetCurrentCommandId(true), LockTupleNoKeyExclusive,
                              wait ? LockWaitBlock : LockWaitSkip,
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
        ExecDropSingleTupleTableSlot(store->pending[i]);
    if (store->result != NULL)
    {
        ExecCloseIndices(store->result);
        FreeExecutorState(store->estate);
    }
    ExecDropSingleTupleTableSlot(store->slot);
    index_close(store->index, NoLock);
    table_close(store->relation, NoLock);
}
