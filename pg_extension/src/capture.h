/*
 * capture.h: every write to a registered table, whoever makes it, on its way to the change log.
 */
#ifndef ROWSYNC_CAPTURE_H
#define ROWSYNC_CAPTURE_H

#include "postgres.h"

#include "capture_buffer.h"
#include "registry.h"

/*
 * An upload looks on while its own statements are captured, because only there the row as stored
 * stands beside the values that were sent. old or new is NULL where there is none, scope where the
 * row has none.
 */
typedef void (*CaptureObserver)(void *arg, SyncedTable *table, const char *scope, RowKey key,
                                TupleTableSlot *old, TupleTableSlot *new);

/* What capture_scan calls for each row. */
typedef void (*CaptureRow)(SyncedTable *table, TupleTableSlot *row);

void capture_init(void);
void capture_set_observer(CaptureObserver observer, void *arg);
void capture_scan(SyncedTable *table, CaptureRow function);
void capture_scan_relation(SyncedTable *table, Oid relid, CaptureRow function);
void capture_attached(SyncedTable *table, TupleTableSlot *row);
void capture_removed(SyncedTable *table, TupleTableSlot *row);
void capture_existing(SyncedTable *table, TupleTableSlot *row);
void capture_flush(void);

#endif
