/*
 * synced_table.h: one table that syncs, and everything about it that the other parts ask often.
 */
#ifndef ROWSYNC_SYNCED_TABLE_H
#define ROWSYNC_SYNCED_TABLE_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"

#include "rowkey.h"
#include "values.h"

/* The scope column that registering adds. It never travels, whatever column holds the scope. */
#define ROWSYNC_SCOPE_COLUMN "_rowsync_scope"

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

SyncedTable *synced_table_make(Oid relid, int32 table_id, int32 upsert_order,
                               const char *scope_column, bool scope_added);
int synced_table_find_column(const SyncedTable *table, const char *name, int len, int hint);
void synced_table_append_row(StringInfo out, SyncedTable *table, TupleTableSlot *slot);
void synced_table_append_value(StringInfo out, SyncedColumn *column, Datum value);
char *synced_table_scope_of(SyncedTable *table, TupleTableSlot *slot);

#endif
