/*
 * store.h: direct access to rowsync's own tables.
 *
 * Our tables have no triggers, no policies and no foreign keys, so their rows are read and written
 * through the table access method: no plan, no permission check of the caller's role, a fraction of
 * SPI's cost.
 */
#ifndef ROWSYNC_STORE_H
#define ROWSYNC_STORE_H

#include "postgres.h"

#include "access/genam.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/snapshot.h"

#include "registry.h"

/* A row to write; what its values point to must live until it is written. */
typedef struct StoreRow
{
    bool *isnull;
    ItemPointerData tid; /* once it is written */
    Datum values[FLEXIBLE_ARRAY_MEMBER];
} StoreRow;

/* One of our tables, opened for reading by one of its indexes, and perhaps for writing. */
typedef struct Store
{
    MemoryContext context; /* of everything below */
    Relation relation;
    Relation index;
    IndexScanDesc scan;    /* kept open from one lookup to the next */
    TupleTableSlot *slot;  /* what the last lookup found */
    ResultRelInfo *result; /* NULL until the first write */
    EState *estate;
    TupleTableSlot **slots; /* reused for each call that writes rows */
    int nslots;
    StoreRow **pending; /* rows collected for store_flush */
    int npending;
    int pending_room;
} Store;

void store_open(Store *store, OwnRelation table, OwnRelation index, LOCKMODE lock);
bool store_find(Store *store, Snapshot snapshot, ScanKey keys, int nkeys);
StoreRow *store_insert(Store *store);
void store_flush(Store *store);
void store_update(Store *store, ItemPointer tid, const Datum *values, Snapshot snapshot);
bool store_lock(Store *store, Snapshot snapshot, bool wait);
void store_close(Store *store);

/* Value of a not-null column of the row that was found. */
static inline Datum
store_value(Store *store, AttrNumber att)
{
    bool isnull;

    return slot_getattr(store->slot, att, &isnull);
}

#endif
