/*
 * partition.h: partitions that come to a registered table or leave it, with all their rows.
 */
#ifndef ROWSYNC_PARTITION_H
#define ROWSYNC_PARTITION_H

#include "postgres.h"

#include "registry.h"

List *partition_unknown(const SyncedTable *table);
void partition_adopt(SyncedTable *table, bool captured);
void partition_release(SyncedTable *table);
void partition_forget(SyncedTable *table);

#endif
