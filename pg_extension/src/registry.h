/*
 * registry.h: which tables sync, and everything about them that the other parts ask often.
 *
 * A SyncedTable is made from the catalogs on first use and remade after any change to the table.
 * A pointer to one stays valid until the end of the transaction, so holders need not care.
 */
#ifndef ROWSYNC_REGISTRY_H
#define ROWSYNC_REGISTRY_H

#include "postgres.h"

#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "utils/relcache.h"

#include "rowkey.h"
#include "values.h"

/* The scope column that registering adds. It never travels, whatever column holds the scope. */
#define ROWSYNC_SCOPE_COLUMN "_rowsync_scope"

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

typedef struct SyncedColumn
{
    AttrNumber attnum;
    int name_len;
    const char *name;
    const char *json_name; /* "name": with quotes, escaped, and the colon */
    int json_name_len;
    bool is_key;
    bool generated;
    bool identity_always;
    Oid collation;
    ValueCodec codec;
} SyncedColumn;

/* A foreign key to a registered table, in the order of the parent's key. */
typedef struct SyncedReference
{
    Oid constraint_oid;
    Oid parent_relid;
    int nkeys;
    int *columns; /* indexes into the child's columns */
    bool direct;  /* one look at the parent's key tells all that PostgreSQL's check does */
} SyncedReference;

/* A unique constraint other than the key. */
typedef struct SyncedUnique
{
    int ncolumns;
    int *columns; /* indexes into columns; the scope column left out */
} SyncedUnique;

typedef struct SyncedTable
{
    Oid relid;
    int32 table_id;
    int32 upsert_order;
    const char *schema;
    const char *name;
    const char *qualified_name; /* quoted, for SQL */
    KeyKind key_kind;
    int nkeys;
    int *keys;               /* indexes into columns, in key order */
    const char **key_equals; /* OPERATOR(schema.=) of each key column */
    Oid *key_equal_procs;
    int natts;
    int *column_of_att; /* attnum - 1 -> index into columns, or -1 */
    int ncolumns;       /* columns that travel, in the table's order */
    SyncedColumn *columns;
    AttrNumber scope_attnum;
    const char *scope_name;
    bool scope_added;
    ValueCodec scope_codec;
    Oid scope_collation;
    const char *scope_equals; /* OPERATOR(schema.=) of the scope column */
    Oid key_index;            /* of the primary key */
    bool output_needs_format;
    bool input_needs_format;
    bool safe_input; /* no column's reading raises an error, nor that of a reference */
    bool row_security;
    bool has_triggers; /* of somebody else, that may write to other tables */
    int nreferences;
    SyncedReference *references;
    int nuniques;
    SyncedUnique *uniques;
    List *plans; /* of ApplyPlan, apply.c */
    MemoryContext context;
    bool stale;
} SyncedTable;

Oid registry_relation(OwnRelation which);
SyncedTable *registry_find_relid(Oid relid);
SyncedTable *registry_find_name(const char *schema, const char *name);
SyncedTable *registry_find_id(int32 table_id);
List *registry_relids(void);
int registry_ordered(SyncedTable ***tables);
int registry_schema_version(void);
int registry_find_column(const SyncedTable *table, const char *name, int len, int hint);
void registry_append_row(StringInfo out, SyncedTable *table, TupleTableSlot *slot);
void registry_append_value(StringInfo out, SyncedColumn *column, Datum value);
char *registry_scope_of(SyncedTable *table, TupleTableSlot *slot);
SyncedTable *registry_find_root(Relation relation);
void registry_invalidate(Oid relid);
void registry_init(void);
void registry_end_transaction(void);

#endif
