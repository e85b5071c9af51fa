/*
 * register.c: rowsync.register_table and unregister_table.
 *
 * Registering checks what could not sync and says so, adds the scope column where none is named,
 * puts the triggers on, orders all tables by their references, and gives every row that is there
 * already its place in the change log. It runs with the caller's rights: who may not alter the
 * table may not register it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/catalog.h"
#include "catalog/pg_am.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "capture.h"
#include "changelog.h"
#include "compat.h"
#include "errors.h"
#include "guc.h"
#include "registry.h"
#include "store.h"

PG_FUNCTION_INFO_V1(rowsync_register_table);
PG_FUNCTION_INFO_V1(rowsync_unregister_table);

/* The scope column that registering adds. */
#define ADDED_SCOPE_COLUMN "_rowsync_scope"

/* Columns of rowsync.synced_table, in their order. */
enum
{
    TABLE_ID = 1,
    TABLE_RELID,
    TABLE_UPSERT_ORDER,
    TABLE_SCHEMA_VERSION,
    TABLE_SCOPE_ADDED,
    TABLE_SCOPE_COLUMN,
    TABLE_KEY_COLUMNS,
    TABLE_NATTS = TABLE_KEY_COLUMNS
};

/* Runs a statement of our own making, as the caller. */
static void
run(const char *sql)
{
    int result = SPI_execute(sql, false, 0);

    if (result < 0)
        elog(ERROR, "could not run \"%s\": %s", sql, SPI_result_code_string(result));
}

/* Raises RS005. */
static void
refuse(const char *message, const char *hint)
{
    ereport(ERROR,
            (errcode(ROWSYNC_TABLE_NOT_SYNCABLE), errmsg("%s", message), errhint("%s", hint)));
}

/* Refuses kinds of relations that cannot sync. */
static void
check_relation(Relation relation, const char *name)
{
    if (relation->rd_rel->relkind != RELKIND_RELATION || relation->rd_rel->relispartition)
        refuse(psprintf("%s is not an ordinary table", name),
               "Register an ordinary table: no view, no foreign table, no partition.");
    if (relation->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
        refuse(psprintf("%s is a temporary or unlogged table", name),
               "Its rows would not survive a crash, but their versions would: use a permanent "
               "table.");
    if (relation->rd_rel->relam != HEAP_TABLE_AM_OID)
        refuse(psprintf("%s does not use the table access method heap", name),
               "Only heap tables can be captured.");
    if (relation->rd_rel->relhassubclass || has_superclass(RelationGetRelid(relation)))
        refuse(psprintf("%s takes part in inheritance", name),
               "A primary key does not hold across tables that inherit: use separate tables.");
    if (IsCatalogRelation(relation) ||
        RelationGetNamespace(relation) == get_namespace_oid("rowsync", false))
        refuse(psprintf("%s belongs to the system", name), "Register tables of your own.");
}

/* Adds the scope column; rows that are there get the session's scope, where it has one. */
static void
add_scope_column(const char *name, Oid relid)
{
    StringInfoData sql;

    if (get_attnum(relid, ADDED_SCOPE_COLUMN) != InvalidAttrNumber)
        return;
    initStringInfo(&sql);
    appendStringInfo(&sql, "ALTER TABLE %s ADD COLUMN " ADDED_SCOPE_COLUMN " pg_catalog.text", name);
    if (rowsync_scope != NULL && rowsync_scope[0] != '\0')
        appendStringInfo(&sql, " DEFAULT %s", quote_literal_cstr(rowsync_scope));
    run(sql.data);
    resetStringInfo(&sql);
    appendStringInfo(&sql,
                     "ALTER TABLE %s ALTER COLUMN " ADDED_SCOPE_COLUMN " SET DEFAULT "
                     "NULLIF(pg_catalog.current_setting('rowsync.scope', true), '')",
                     name);
    run(sql.data);
}

/* Adds the line of a table to rowsync.synced_table and returns its table_id. */
static int32
add_line(Oid relid, const char *scope_column, bool scope_added)
{
    Store store;
    TupleTableSlot *slot;
    NameData scope_name;
    Relation relation;
    Relation index;
    Datum *keys;
    int nkeys;
    int32 table_id = (int32) nextval_internal(registry_relation(REL_TABLE_SEQUENCE), false);

    relation = table_open(relid, AccessShareLock);
    list_free(RelationGetIndexList(relation));
    if (!OidIsValid(relation->rd_pkindex))
        refuse(psprintf("%s has no primary key", RelationGetRelationName(relation)),
               "Add one, best of type uuid, so that devices can make keys.");
    index = index_open(relation->rd_pkindex, AccessShareLock);
    if (!index->rd_index->indimmediate)
        refuse(psprintf("the primary key of %s is deferrable", RelationGetRelationName(relation)),
               "Make it NOT DEFERRABLE.");
    nkeys = IndexRelationGetNumberOfKeyAttributes(index);
    keys = palloc(nkeys * sizeof(Datum));
    for (int i = 0; i < nkeys; i++)
        keys[i] = NameGetDatum(&TupleDescAttr(RelationGetDescr(relation),
                                              index->rd_index->indkey.values[i] - 1)
                                    ->attname);

    namestrcpy(&scope_name, scope_column);
    store_open(&store, REL_SYNCED_TABLE, REL_SYNCED_TABLE_RELID, RowExclusiveLock);
    slot = store_new_row(&store);
    memset(slot->tts_isnull, 0, TABLE_NATTS * sizeof(bool));
    slot->tts_values[TABLE_ID - 1] = Int32GetDatum(table_id);
    slot->tts_values[TABLE_RELID - 1] = ObjectIdGetDatum(relid);
    slot->tts_values[TABLE_UPSERT_ORDER - 1] = Int32GetDatum(0);
    slot->tts_values[TABLE_SCHEMA_VERSION - 1] = Int32GetDatum(1);
    slot->tts_values[TABLE_SCOPE_ADDED - 1] = BoolGetDatum(scope_added);
    slot->tts_values[TABLE_SCOPE_COLUMN - 1] = NameGetDatum(&scope_name);
    slot->tts_values[TABLE_KEY_COLUMNS - 1] =
        PointerGetDatum(construct_array(keys, nkeys, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR));
    store_insert(&store);
    store_close(&store);
    index_close(index, NoLock);
    table_close(relation, NoLock);
    return table_id;
}

/* Tells every session that the list of tables has changed. */
static void
announce(void)
{
    CacheInvalidateRelcacheByRelid(registry_relation(REL_SYNCED_TABLE));
    CommandCounterIncrement();
}

/* ------------------------------------------------------------------ order of tables */

/* A registered table in the graph of references. */
typedef struct TableNode
{
    SyncedTable *table;
    int visit;
    int lowest;
    bool on_stack;
    int order;
} TableNode;

typedef struct Graph
{
    TableNode *nodes;
    int count;
    TableNode **stack;
    int depth;
    int visits;
    int orders;
} Graph;

/* The node of a table. */
static TableNode *
find_node(Graph *graph, Oid relid)
{
    for (int i = 0; i < graph->count; i++)
    {
        if (graph->nodes[i].table->relid == relid)
            return &graph->nodes[i];
    }
    return NULL;
}

/* Tarjan's search, as for changes in upload.c: parents get lower numbers, a cycle shares one. */
static void
visit(Graph *graph, TableNode *node)
{
    check_stack_depth();
    node->visit = node->lowest = ++graph->visits;
    graph->stack[graph->depth++] = node;
    node->on_stack = true;
    for (int i = 0; i < node->table->nreferences; i++)
    {
        TableNode *parent = find_node(graph, node->table->references[i].parent_relid);

        if (parent == NULL || parent == node)
            continue;
        if (parent->visit == 0)
        {
            visit(graph, parent);
            node->lowest = Min(node->lowest, parent->lowest);
        }
        else if (parent->on_stack)
            node->lowest = Min(node->lowest, parent->visit);
    }
    if (node->lowest == node->visit)
    {
        TableNode *member;

        graph->orders++;
        do
        {
            member = graph->stack[--graph->depth];
            member->on_stack = false;
            member->order = graph->orders;
        } while (member != node);
    }
}

/* Whether a foreign key is deferrable. */
static bool
is_deferrable(Oid constraint)
{
    HeapTuple tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
    bool deferrable;

    if (!HeapTupleIsValid(tuple))
        elog(ERROR, "cache lookup failed for constraint %u", constraint);
    deferrable = ((Form_pg_constraint) GETSTRUCT(tuple))->condeferrable;
    ReleaseSysCache(tuple);
    return deferrable;
}

/* Refuses a cycle of references that no order of writing satisfies. */
static void
check_cycles(Graph *graph)
{
    for (int i = 0; i < graph->count; i++)
    {
        SyncedTable *table = graph->nodes[i].table;

        for (int r = 0; r < table->nreferences; r++)
        {
            TableNode *parent = find_node(graph, table->references[r].parent_relid);

            if (parent == NULL || parent == &graph->nodes[i] ||
                parent->order != graph->nodes[i].order ||
                is_deferrable(table->references[r].constraint_oid))
                continue;
            refuse(psprintf("foreign key \"%s\" of %s is part of a cycle of references and is not "
                            "deferrable",
                            get_constraint_name(table->references[r].constraint_oid),
                            table->qualified_name),
                   psprintf("Run ALTER TABLE %s ALTER CONSTRAINT %s DEFERRABLE.",
                            table->qualified_name,
                            quote_identifier(
                                get_constraint_name(table->references[r].constraint_oid))));
        }
    }
}

/* Orders all registered tables by their references and writes the order down. */
static void
order_tables(void)
{
    Graph graph = {0};
    List *relids = registry_relids();
    ListCell *cell;
    Store store;

    graph.nodes = palloc0((list_length(relids) + 1) * sizeof(TableNode));
    graph.stack = palloc((list_length(relids) + 1) * sizeof(TableNode *));
    foreach (cell, relids)
    {
        SyncedTable *table = registry_find_relid(lfirst_oid(cell));

        if (table != NULL)
            graph.nodes[graph.count++].table = table;
    }
    for (int i = 0; i < graph.count; i++)
    {
        if (graph.nodes[i].visit == 0)
            visit(&graph, &graph.nodes[i]);
    }
    check_cycles(&graph);

    PushActiveSnapshot(GetTransactionSnapshot());
    store_open(&store, REL_SYNCED_TABLE, REL_SYNCED_TABLE_RELID, RowExclusiveLock);
    for (int i = 0; i < graph.count; i++)
    {
        ScanKeyData key;
        Datum values[TABLE_NATTS];

        ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ,
                    ObjectIdGetDatum(graph.nodes[i].table->relid));
        if (!store_find(&store, GetActiveSnapshot(), &key, 1))
            continue;
        slot_getallattrs(store.slot);
        memcpy(values, store.slot->tts_values, sizeof(values));
        values[TABLE_UPSERT_ORDER - 1] = Int32GetDatum(graph.nodes[i].order);
        store_update(&store, &store.slot->tts_tid, values, NULL, GetActiveSnapshot());
    }
    store_close(&store);
    PopActiveSnapshot();
    announce();
}

/* ------------------------------------------------------------------ registering */

/* Captures every row of a table as new; commit writes them to the change log. */
static void
backfill(Oid relid)
{
    SyncedTable *table = registry_find_relid(relid);
    Relation relation = table_open(relid, AccessShareLock);
    TupleTableSlot *slot = table_slot_create(relation, NULL);
    MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "rowsync backfill",
                                                      ALLOCSET_DEFAULT_SIZES);
    TableScanDesc scan;

    PushActiveSnapshot(GetTransactionSnapshot());
    scan = table_beginscan(relation, GetActiveSnapshot(), 0, NULL);
    while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
    {
        MemoryContext old = MemoryContextSwitchTo(row_context);

        CHECK_FOR_INTERRUPTS();
        capture_existing(table, slot);
        MemoryContextSwitchTo(old);
        MemoryContextReset(row_context);
    }
    table_endscan(scan);
    PopActiveSnapshot();
    ExecDropSingleTupleTableSlot(slot);
    table_close(relation, NoLock);
    MemoryContextDelete(row_context);
}

/* rowsync.register_table(table_name regclass, scope_column name) returns integer */
Datum
rowsync_register_table(PG_FUNCTION_ARGS)
{
    Oid relid;
    const char *name;
    const char *scope_column;
    bool scope_added = PG_ARGISNULL(1);
    Relation relation;
    int32 table_id;

    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ROWSYNC_INVALID_PARAMETER), errmsg("table_name must not be null")));
    relid = PG_GETARG_OID(0);
    scope_column = scope_added ? ADDED_SCOPE_COLUMN : NameStr(*PG_GETARG_NAME(1));

    /* Nobody may write between the look at the rows and the triggers. */
    relation = relation_open(relid, ShareRowExclusiveLock);
    if (!rowsync_owns_relation(relid))
        aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, RelationGetRelationName(relation));
    name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
                                      RelationGetRelationName(relation));
    check_relation(relation, name);
    relation_close(relation, NoLock);
    if (registry_find_relid(relid) != NULL)
        refuse(psprintf("%s is registered already", name),
               "To change its scope column, unregister it first.");
    if (!scope_added && get_attnum(relid, scope_column) <= 0)
        refuse(psprintf("%s has no column \"%s\"", name, scope_column),
               "Name a column that holds each row's user, or none, and one is added.");

    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    if (scope_added)
        add_scope_column(name, relid);
    run(psprintf("CREATE TRIGGER _rowsync_capture AFTER INSERT OR UPDATE OR DELETE ON %s "
                 "FOR EACH ROW EXECUTE FUNCTION rowsync._capture()",
                 name));
    run(psprintf("CREATE TRIGGER _rowsync_truncate BEFORE TRUNCATE ON %s "
                 "FOR EACH STATEMENT EXECUTE FUNCTION rowsync._capture_truncate()",
                 name));
    SPI_finish();
    table_id = add_line(relid, scope_column, scope_added);
    announce();
    order_tables();
    backfill(relid);
    PG_RETURN_INT32(table_id);
}

/* Removes the versions of all rows of a table that syncs no more. */
static void
forget_versions(int32 table_id)
{
    Relation meta = table_open(registry_relation(REL_ROW_META), RowExclusiveLock);
    ScanKeyData key;
    SysScanDesc scan;
    HeapTuple tuple;

    ScanKeyInit(&key, META_TABLE, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(table_id));
    PushActiveSnapshot(GetTransactionSnapshot());
    scan = systable_beginscan(meta, InvalidOid, false, GetActiveSnapshot(), 1, &key);
    while (HeapTupleIsValid(tuple = systable_getnext(scan)))
    {
        CHECK_FOR_INTERRUPTS();
        simple_heap_delete(meta, &tuple->t_self);
    }
    systable_endscan(scan);
    PopActiveSnapshot();
    table_close(meta, NoLock);
}

/* rowsync.unregister_table(table_name regclass) returns void */
Datum
rowsync_unregister_table(PG_FUNCTION_ARGS)
{
    Oid relid = PG_GETARG_OID(0);
    Relation relation = relation_open(relid, ShareRowExclusiveLock);
    const char *name = quote_qualified_identifier(
        get_namespace_name(RelationGetNamespace(relation)), RelationGetRelationName(relation));
    ScanKeyData key;
    Relation own;
    SysScanDesc scan;
    HeapTuple tuple;
    int32 table_id = 0;
    bool isnull;

    if (!rowsync_owns_relation(relid))
        aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, RelationGetRelationName(relation));
    relation_close(relation, NoLock);
    /* What this transaction wrote to it before still counts. */
    capture_flush();

    own = table_open(registry_relation(REL_SYNCED_TABLE), RowExclusiveLock);
    ScanKeyInit(&key, TABLE_RELID, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
    PushActiveSnapshot(GetTransactionSnapshot());
    scan = systable_beginscan(own, registry_relation(REL_SYNCED_TABLE_RELID), true,
                              GetActiveSnapshot(), 1, &key);
    tuple = systable_getnext(scan);
    if (HeapTupleIsValid(tuple))
    {
        table_id = DatumGetInt32(heap_getattr(tuple, TABLE_ID, RelationGetDescr(own), &isnull));
        simple_heap_delete(own, &tuple->t_self);
    }
    systable_endscan(scan);
    PopActiveSnapshot();
    table_close(own, NoLock);
    if (table_id == 0)
        ereport(ERROR, (errcode(ROWSYNC_TABLE_NOT_REGISTERED), errmsg("%s is not registered", name),
                        errhint("SELECT relid FROM rowsync.synced_table shows what is.")));
    announce();

    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    run(psprintf("DROP TRIGGER IF EXISTS _rowsync_capture ON %s", name));
    run(psprintf("DROP TRIGGER IF EXISTS _rowsync_truncate ON %s", name));
    SPI_finish();
    forget_versions(table_id);
    order_tables();
    PG_RETURN_VOID();
}
