/*
 * registry.h: which tables sync.
 *
 * A SyncedTable is made from the catalogs on first use and remade after any change to the table.
 * A pointer to one stays valid until the end of the transaction, so holders need not care.
 */
#ifndef ROWSYNC_REGISTRY_H
#define ROWSYNC_REGISTRY_H

#include "postgres.h"

#include "executor/spi.h"
#include "utils/relcache.h"

#include "synced_table.h"

/* rowsync's own relations. */
typedef enum OwnRelation
{
    REL_SCOPE,
    REL_SCOPE_PKEY,
    REL_SCOPE_NAME,
    REL_SOURCE,
    REL_SOURCE_ID,
    REL_SYNCED_TABLE,
    REL_ROW_META,
    REL_ROW_META_PKEY,
    REL_CHANGE_LOG,
    REL_CHANGE_LOG_PKEY,
    REL_BATCH,
    REL_BATCH_PKEY,
    REL_SOURCE_PKEY,
    REL_SCOPE_SEQUENCE,
    REL_SYNCED_TABLE_RELID,
    REL_TABLE_SEQUENCE,
    REL_SCHEMA_CHANGE,
    REL_SCHEMA_CHANGE_PKEY,
    REL_REFUSAL,
    REL_REFUSAL_PKEY,
    OWN_RELATION_COUNT
} OwnRelation;

/* Columns of rowsync.synced_table, in their order. */
enum
{
    TABLE_ID = 1,
    TABLE_RELID,
    TABLE_UPSERT_ORDER,
    TABLE_SCHEMA_VERSION,
    TABLE_SCOPE_ADDED,
    TABLE_SCOPE_COLUMN,
    TABLE_KEY_FORMAT,
    TABLE_KEY_COLUMNS,
    TABLE_COLUMNS,
    TABLE_NATTS = TABLE_COLUMNS
};

Oid registry_relation(OwnRelation which);
bool registry_knows(Oid relid);
SyncedTable *registry_find_relid(Oid relid);
SyncedTable *registry_find_name(const char *schema, const char *name);
SyncedTable *registry_find_id(int32 table_id);
List *registry_relids(void);
int registry_ordered(SyncedTable ***tables);
int registry_schema_version(void);
SyncedTable *registry_find_root(Relation relation);
void registry_invalidate(Oid relid);
void registry_init(void);
void registry_end_transaction(void);

#endif
