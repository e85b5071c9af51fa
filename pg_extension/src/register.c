/*
 * register.c: rowsync.register_table and unregister_table, and what ALTER and DROP TABLE do.
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
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "capture.h"
#include "changelog.h"
#include "compat.h"
#include "components.h"
#include "errors.h"
#include "partition.h"
#include "guc.h"
#include "payload.h"
#include "registry.h"
#include "scope.h"
#include "store.h"

PG_FUNCTION_INFO_V1(rowsync_register_table);
PG_FUNCTION_INFO_V1(rowsync_unregister_table);
PG_FUNCTION_INFO_V1(rowsync_follow_table);
PG_FUNCTION_INFO_V1(rowsync_forget_table);

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

/* The name of a table as messages and rowsync.schema_change have it. */
static const char *
name_of(Oid relid)
{
    return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
                                      get_rel_name(relid));
}

/* Refuses kinds of relations that cannot sync. */
static void
check_relation(Relation relation, const char *name)
{
    bool partitioned = relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;

    if (relation->rd_rel->relispartition)
        refuse(psprintf("%s is a partition", name), "Register the partitioned table itself.");
    if (relation->rd_rel->relkind != RELKIND_RELATION && !partitioned)
        refuse(psprintf("%s is not a table", name), "Views and foreign tables cannot sync.");
    if (relation->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
        refuse(psprintf("%s is a temporary or unlogged table", name),
               "Its rows would not survive a crash, but their versions would: use a permanent "
               "table.");
    if (!partitioned && relation->rd_rel->relam != HEAP_TABLE_AM_OID)
        refuse(psprintf("%s does not use the table access method heap", name),
               "Only heap tables can be captured.");
    if ((!partitioned && relation->rd_rel->relhassubclass) ||
        has_superclass(RelationGetRelid(relation)))
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

    if (get_attnum(relid, ROWSYNC_SCOPE_COLUMN) != InvalidAttrNumber)
        return;
    initStringInfo(&sql);
    appendStringInfo(&sql, "ALTER TABLE %s ADD COLUMN " ROWSYNC_SCOPE_COLUMN " pg_catalog.text",
                     name);
    if (rowsync_scope != NULL && rowsync_scope[0] != '\0')
        appendStringInfo(&sql, " DEFAULT %s", quote_literal_cstr(rowsync_scope));
    run(sql.data);
    resetStringInfo(&sql);
    appendStringInfo(&sql,
                     "ALTER TABLE %s ALTER COLUMN " ROWSYNC_SCOPE_COLUMN " SET DEFAULT "
                     "NULLIF(pg_catalog.current_setting('rowsync.scope', true), '')",
                     name);
    run(sql.data);
}

/* Whether a table has a primary key at all; the relcache names only one that is immediate. */
static bool
has_primary_key(Relation relation)
{
    List *indexes = RelationGetIndexList(relation);
    bool found = false;
    ListCell *cell;

    foreach (cell, indexes)
    {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);

        found = found || index->rd_index->indisprimary;
        index_close(index, AccessShareLock);
    }
    list_free(indexes);
    return found;
}

/* The columns of the primary key, as name[]; refuses a table that has none that can be used. */
static Datum
key_columns(Relation relation)
{
    const char *name = name_of(RelationGetRelid(relation));
    Relation index;
    Datum *names;
    Datum result;
    int count;

    list_free(RelationGetIndexList(relation));
    if (!OidIsValid(relation->rd_pkindex))
    {
        if (has_primary_key(relation))
            refuse(psprintf("the primary key of %s is deferrable", name),
                   "Make it NOT DEFERRABLE.");
        refuse(psprintf("%s has no primary key", name),
               "Add one, best of type uuid, so that devices can make keys.");
    }
    index = index_open(relation->rd_pkindex, AccessShareLock);
    count = IndexRelationGetNumberOfKeyAttributes(index);
    names = palloc(count * sizeof(Datum));
    for (int i = 0; i < count; i++)
        names[i] = NameGetDatum(
            &TupleDescAttr(RelationGetDescr(relation), index->rd_index->indkey.values[i] - 1)
                 ->attname);
    result =
        PointerGetDatum(construct_array(names, count, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR));
    index_close(index, NoLock);
    return result;
}

/* How the keys of a table are packed: a change of it would make every row_key wrong. */
static Datum
key_format(const SyncedTable *table)
{
    StringInfoData out;

    switch (table->key_kind)
    {
        case KEY_UUID:
            return CStringGetTextDatum("uuid");
        case KEY_INTEGER:
            return CStringGetTextDatum("integer");
        case KEY_TEXT:
            return CStringGetTextDatum("text");
        default:
            initStringInfo(&out);
            for (int k = 0; k < table->nkeys; k++)
                appendStringInfo(&out, "%s%s", k > 0 ? "," : "",
                                 format_type_be(table->columns[table->keys[k]].codec.type));
            return CStringGetTextDatum(out.data);
    }
}

/* What a device sees of the columns: "name type" each, after the table's own name. */
static Datum
column_signature(const SyncedTable *table)
{
    Datum *parts = palloc(table->ncolumns * sizeof(Datum));

    for (int i = 0; i < table->ncolumns; i++)
    {
        const SyncedColumn *column = &table->columns[i];

        parts[i] = CStringGetTextDatum(
            psprintf("%s %s", column->name,
                     format_type_with_typemod(column->codec.type, column->codec.typmod)));
    }
    return PointerGetDatum(
        construct_array(parts, table->ncolumns, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Adds the line of a table to rowsync.synced_table and returns its table_id. */
static int32
add_line(Oid relid, const char *scope_column, bool scope_added)
{
    Store store;
    StoreRow *row;
    NameData scope_name;
    Relation relation = table_open(relid, AccessShareLock);
    int32 table_id = (int32)nextval_internal(registry_relation(REL_TABLE_SEQUENCE), false);

    namestrcpy(&scope_name, scope_column);
    store_open(&store, REL_SYNCED_TABLE, REL_SYNCED_TABLE_RELID, RowExclusiveLock);
    row = store_insert(&store);
    row->values[TABLE_ID - 1] = Int32GetDatum(table_id);
    row->values[TABLE_RELID - 1] = ObjectIdGetDatum(relid);
    row->values[TABLE_UPSERT_ORDER - 1] = Int32GetDatum(0);
    row->values[TABLE_SCHEMA_VERSION - 1] = Int32GetDatum(1);
    row->values[TABLE_SCOPE_ADDED - 1] = BoolGetDatum(scope_added);
    row->values[TABLE_SCOPE_COLUMN - 1] = NameGetDatum(&scope_name);
    row->values[TABLE_KEY_COLUMNS - 1] = key_columns(relation);
    /* The next two become known with the table's description: write_order fills them in. */
    row->values[TABLE_KEY_FORMAT - 1] = CStringGetTextDatum("");
    row->values[TABLE_COLUMNS - 1] = PointerGetDatum(construct_empty_array(TEXTOID));
    store_close(&store);
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

/* All registered tables, with the number of each one's component in the graph of references. */
typedef struct TableGraph
{
    SyncedTable **tables;
    int count;
    int *order;
} TableGraph;

/* The place of a table, or COMPONENT_NO_EDGE. */
static int
find_table(const TableGraph *graph, Oid relid)
{
    for (int i = 0; i < graph->count; i++)
    {
        if (graph->tables[i]->relid == relid)
            return i;
    }
    return COMPONENT_NO_EDGE;
}

/* The references of a table to registered ones. */
static int
table_edge(void *graph, int node, int n)
{
    SyncedTable *table = ((TableGraph *)graph)->tables[node];

    if (n >= table->nreferences)
        return COMPONENT_LAST_EDGE;
    return find_table(graph, table->references[n].parent_relid);
}

/* Whether a foreign key is deferrable. */
static bool
is_deferrable(Oid constraint)
{
    HeapTuple tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
    bool deferrable;

    if (!HeapTupleIsValid(tuple))
        elog(ERROR, "cache lookup failed for constraint %u", constraint);
    deferrable = ((Form_pg_constraint)GETSTRUCT(tuple))->condeferrable;
    ReleaseSysCache(tuple);
    return deferrable;
}

/* Refuses a cycle of references that no order of writing satisfies. */
static void
check_cycles(const TableGraph *graph)
{
    for (int i = 0; i < graph->count; i++)
    {
        SyncedTable *table = graph->tables[i];

        for (int r = 0; r < table->nreferences; r++)
        {
            SyncedReference *reference = &table->references[r];
            int parent = find_table(graph, reference->parent_relid);
            const char *name;

            if (parent < 0 || parent == i || graph->order[parent] != graph->order[i] ||
                is_deferrable(reference->constraint_oid))
                continue;
            name = get_constraint_name(reference->constraint_oid);
            refuse(psprintf("foreign key \"%s\" of %s is part of a cycle of references and is not "
                            "deferrable",
                            name, table->qualified_name),
                   psprintf("Run ALTER TABLE %s ALTER CONSTRAINT %s DEFERRABLE.",
                            table->qualified_name, quote_identifier(name)));
        }
    }
}

/* Whether two text arrays, or two texts, are equal to the byte. */
static bool
same_bytes(Datum a, Datum b)
{
    return datum_image_eq(a, b, false, -1);
}

/* Writes a new schema version down. No columns: the table syncs no more. */
static void
add_schema_change(int32 version, const char *name, Datum columns)
{
    Store store;
    StoreRow *row;

    store_open(&store, REL_SCHEMA_CHANGE, REL_SCHEMA_CHANGE_PKEY, RowExclusiveLock);
    row = store_insert(&store);
    row->values[0] = Int32GetDatum(version);
    row->values[1] = TimestampTzGetDatum(GetCurrentTimestamp());
    row->values[2] = CStringGetTextDatum(name);
    row->values[3] = columns;
    store_close(&store);
}

/*
 * Writes one line of rowsync.synced_table anew: order, key and columns. True if the columns were
 * other ones, in which case the schema version grows. Refuses another key format.
 */
static bool
write_line(Store *store, SyncedTable *table, int order, int32 *schema_version)
{
    Relation relation = table_open(table->relid, AccessShareLock);
    Datum values[TABLE_NATTS];
    ArrayType *known;
    bool fresh;
    bool changed;
    Datum format = key_format(table);
    Datum columns = column_signature(table);

    slot_getallattrs(store->slot);
    memcpy(values, store->slot->tts_values, sizeof(values));
    known = DatumGetArrayTypeP(values[TABLE_COLUMNS - 1]);
    fresh = ArrayGetNItems(ARR_NDIM(known), ARR_DIMS(known)) == 0;
    if (!fresh && !same_bytes(values[TABLE_KEY_FORMAT - 1], format))
        refuse(psprintf("the type of the primary key of %s cannot change while it is registered",
                        table->qualified_name),
               "Unregister the table, alter it, and register it anew.");
    changed = !fresh && !same_bytes(PointerGetDatum(known), columns);
    values[TABLE_UPSERT_ORDER - 1] = Int32GetDatum(order);
    if (changed)
    {
        add_schema_change(++*schema_version, name_of(table->relid), columns);
        values[TABLE_SCHEMA_VERSION - 1] = Int32GetDatum(*schema_version);
    }
    values[TABLE_KEY_FORMAT - 1] = format;
    values[TABLE_KEY_COLUMNS - 1] = key_columns(relation);
    values[TABLE_COLUMNS - 1] = columns;
    store_update(store, &store->slot->tts_tid, values, GetActiveSnapshot());
    table_close(relation, NoLock);
    return changed;
}

/*
 * Orders all registered tables by their references and writes their lines anew. True if the columns
 * of the table relid have changed.
 */
static bool
write_tables(Oid relid)
{
    TableGraph graph;
    int *unused;
    bool changed = false;
    int32 schema_version = registry_schema_version();
    Store store;

    graph.count = registry_ordered(&graph.tables);
    graph.order = palloc((graph.count + 1) * sizeof(int));
    unused = palloc((graph.count + 1) * sizeof(int));
    (void)find_components(graph.count, table_edge, &graph, graph.order, unused);
    check_cycles(&graph);

    PushActiveSnapshot(GetTransactionSnapshot());
    store_open(&store, REL_SYNCED_TABLE, REL_SYNCED_TABLE_RELID, RowExclusiveLock);
    for (int i = 0; i < graph.count; i++)
    {
        ScanKeyData key;

        ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ,
                    ObjectIdGetDatum(graph.tables[i]->relid));
        if (store_find(&store, GetActiveSnapshot(), &key, 1) &&
            write_line(&store, graph.tables[i], graph.order[i] + 1, &schema_version) &&
            graph.tables[i]->relid == relid)
            changed = true;
    }
    store_close(&store);
    PopActiveSnapshot();
    announce();
    return changed;
}

/* ------------------------------------------------------------------ registering */

/* Captures a row if the change log knows it in another form than the one it has now. */
static void
capture_if_changed(SyncedTable *table, TupleTableSlot *row)
{
    char *scope = synced_table_scope_of(table, row);
    int64 scope_id = scope ? scope_find(scope) : 0;
    StoredChange stored;
    StringInfoData payload;

    if (scope_id == 0)
        return;
    if (changelog_read_row(scope_id, table->table_id, rowkey_from_slot(table, row), &stored) &&
        stored.payload != NULL)
    {
        initStringInfo(&payload);
        synced_table_append_row(&payload, table, row);
        if (payload_equal(table, stored.payload, stored.payload_len, payload.data, payload.len))
            return;
    }
    capture_existing(table, row);
}

/* Rows that backfill has found to be nobody's; capture_scan takes no argument for its function. */
static int64 rows_without_scope;

/* Captures a row that is there already, if it is somebody's. */
static void
backfill(SyncedTable *table, TupleTableSlot *row)
{
    if (synced_table_scope_of(table, row) == NULL)
        rows_without_scope++;
    else
        capture_existing(table, row);
}

/* Tells of what is allowed but often not meant. */
static void
give_notice(SyncedTable *table)
{
    Relation relation = table_open(table->relid, AccessShareLock);
    List *indexes = RelationGetIndexList(relation);
    ListCell *cell;

    if (rows_without_scope > 0)
        ereport(
            NOTICE,
            (errmsg_plural(INT64_FORMAT " row of %s has no scope and syncs nowhere yet",
                           INT64_FORMAT " rows of %s have no scope and sync nowhere yet",
                           (unsigned long)rows_without_scope, rows_without_scope,
                           table->qualified_name),
             errhint("Set %s to the user it belongs to.", quote_identifier(table->scope_name))));
    if (table->key_kind == KEY_INTEGER || table->key_kind == KEY_TEXT)
        ereport(NOTICE,
                (errmsg("the primary key of %s is a %s, and one for all users",
                        table->qualified_name, table->key_kind == KEY_INTEGER ? "number" : "text"),
                 errhint("Two devices that choose the same key collide. Best is a uuid "
                         "made on the device.")));
    foreach (cell, indexes)
    {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        bool scoped = false;

        for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
            scoped = scoped || index->rd_index->indkey.values[i] == table->scope_attnum;
        if (index->rd_index->indisunique && !index->rd_index->indisprimary && !scoped)
            ereport(NOTICE,
                    (errmsg("\"%s\" of %s is unique across all users",
                            RelationGetRelationName(index), table->qualified_name),
                     errhint("If each user may have a value, make it unique together with %s.",
                             quote_identifier(table->scope_name))));
        index_close(index, AccessShareLock);
    }
    list_free(indexes);
    table_close(relation, AccessShareLock);
}

/*
 * Whether a table of this name has synced before. What became of its rows since then nobody knows:
 * devices may have some that are deleted, or somebody else's by now.
 */
static bool
has_synced_before(const char *name)
{
    Relation changes = table_open(registry_relation(REL_SCHEMA_CHANGE), AccessShareLock);
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    SysScanDesc scan = systable_beginscan(changes, InvalidOid, false, snapshot, 0, NULL);
    bool found = false;
    HeapTuple tuple;

    while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
    {
        TupleDesc desc = RelationGetDescr(changes);
        bool isnull;
        ArrayType *columns = DatumGetArrayTypeP(heap_getattr(tuple, 4, desc, &isnull));

        found = ArrayGetNItems(ARR_NDIM(columns), ARR_DIMS(columns)) == 0 &&
                strcmp(TextDatumGetCString(heap_getattr(tuple, 3, desc, &isnull)), name) == 0;
    }
    systable_endscan(scan);
    UnregisterSnapshot(snapshot);
    table_close(changes, AccessShareLock);
    return found;
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
    scope_column = scope_added ? ROWSYNC_SCOPE_COLUMN : NameStr(*PG_GETARG_NAME(1));

    /* Nobody may write between the look at the rows and the triggers. */
    relation = relation_open(relid, ShareRowExclusiveLock);
    if (!rowsync_owns_relation(relid))
        aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, RelationGetRelationName(relation));
    name = name_of(relid);
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
    (void)write_tables(InvalidOid);
    partition_adopt(registry_find_relid(relid), true);
    if (has_synced_before(name))
        scope_require_snapshots();
    rows_without_scope = 0;
    capture_scan(registry_find_relid(relid), backfill);
    give_notice(registry_find_relid(relid));
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

/*
 * Removes the line and the versions of a table, and notes that it syncs no more; false if it is not
 * registered.
 */
static bool
remove_line(Oid relid, const char *name)
{
    ScanKeyData key;
    Relation own;
    SysScanDesc scan;
    HeapTuple tuple;
    int32 table_id = 0;
    bool isnull;

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
        return false;
    add_schema_change(registry_schema_version() + 1, name,
                      PointerGetDatum(construct_empty_array(TEXTOID)));
    announce();
    forget_versions(table_id);
    return true;
}

/* rowsync.unregister_table(table_name regclass) returns void */
Datum
rowsync_unregister_table(PG_FUNCTION_ARGS)
{
    Oid relid = PG_GETARG_OID(0);
    Relation relation = relation_open(relid, ShareRowExclusiveLock);
    const char *name = name_of(relid);
    SyncedTable *table;

    if (!rowsync_owns_relation(relid))
        aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, RelationGetRelationName(relation));
    relation_close(relation, NoLock);
    /* What this transaction wrote to it before still counts. */
    capture_flush();
    table = registry_find_relid(relid);
    if (table != NULL)
        partition_forget(table);
    if (!remove_line(relid, name))
        ereport(ERROR, (errcode(ROWSYNC_TABLE_NOT_REGISTERED), errmsg("%s is not registered", name),
                        errhint("The view rowsync.table_status shows what is.")));
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    run(psprintf("DROP TRIGGER IF EXISTS _rowsync_capture ON %s", name));
    run(psprintf("DROP TRIGGER IF EXISTS _rowsync_truncate ON %s", name));
    SPI_finish();
    (void)write_tables(InvalidOid);
    PG_RETURN_VOID();
}

/*
 * rowsync._follow_table(relid oid) returns void: after ALTER TABLE. Refuses what could no longer
 * sync. Rows that devices must now see differently are captured as changed.
 */
Datum
rowsync_follow_table(PG_FUNCTION_ARGS)
{
    Oid relid = PG_GETARG_OID(0);

    /*
     * While a dump is restored, tables are completed piece by piece in any order, and in the end
     * everything is as it was. pg_dump's scripts and pg_restore set this in each of their sessions.
     */
    if (!check_function_bodies)
        PG_RETURN_VOID();
    registry_invalidate(relid);
    if (registry_find_relid(relid) == NULL)
        PG_RETURN_VOID();
    if (write_tables(relid))
    {
        capture_flush();
        capture_scan(registry_find_relid(relid), capture_if_changed);
    }
    partition_release(registry_find_relid(relid));
    partition_adopt(registry_find_relid(relid), false);
    PG_RETURN_VOID();
}

/* rowsync._forget_table(relid oid, table_name text) returns void: after DROP TABLE. */
Datum
rowsync_forget_table(PG_FUNCTION_ARGS)
{
    if (remove_line(PG_GETARG_OID(0), text_to_cstring(PG_GETARG_TEXT_PP(1))))
        (void)write_tables(InvalidOid);
    PG_RETURN_VOID();
}
