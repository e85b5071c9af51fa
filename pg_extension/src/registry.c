/*
 * registry.c: which tables sync.
 *
 * Two layers, both filled on first use: the list of registered tables (rowsync.synced_table and the
 * oids of rowsync's own relations), dropped when that table changes; and a SyncedTable for each
 * (synced_table.c), remade after a relcache invalidation of its table. What is replaced is kept
 * until the end of the transaction, because an upload or a trigger further up the stack may still
 * hold it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_extension.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "errors.h"
#include "registry.h"
#include "scope.h"

/* A line of rowsync.synced_table. */
typedef struct RegistryEntry
{
    Oid relid; /* hash key */
    int32 table_id;
    int32 upsert_order;
    bool scope_added;
    NameData scope_column;
    SyncedTable *table; /* NULL until asked for */
} RegistryEntry;

static const char *const relation_names[OWN_RELATION_COUNT] = {"scope",
                                                               "scope_pkey",
                                                               "scope_name_key",
                                                               "source",
                                                               "source_id_key",
                                                               "synced_table",
                                                               "row_meta",
                                                               "row_meta_pkey",
                                                               "change_log",
                                                               "change_log_pkey",
                                                               "batch",
                                                               "batch_pkey",
                                                               "source_pkey",
                                                               "scope_scope_id_seq",
                                                               "synced_table_relid_key",
                                                               "synced_table_table_id_seq",
                                                               "schema_change",
                                                               "schema_change_pkey",
                                                               "refusal",
                                                               "refusal_pkey"};

static MemoryContext registry_context = NULL;
static HTAB *entries = NULL;
static bool entries_valid = false;
static Oid relations[OWN_RELATION_COUNT];
static int32 schema_version = 1;
static List *retired = NIL; /* SyncedTables to free at the end of the transaction */

/* Has the description of a table, or of all (InvalidOid), made anew when it is next asked for. */
static void
mark_stale(Oid relid)
{
    HASH_SEQ_STATUS scan;
    RegistryEntry *entry;

    hash_seq_init(&scan, entries);
    while ((entry = hash_seq_search(&scan)) != NULL)
    {
        if (entry->table != NULL && (relid == InvalidOid || entry->relid == relid))
            entry->table->stale = true;
    }
}

/* Marks what a change to relid makes outdated. Must not touch the catalogs. */
static void
invalidate(Datum arg, Oid relid)
{
    if (entries == NULL)
        return;
    for (int i = 0; i < OWN_RELATION_COUNT; i++)
    {
        if (relid == InvalidOid || relations[i] == relid)
            entries_valid = false;
    }
    mark_stale(relid);
}

/* Called once, when the library is loaded. */
void
registry_init(void)
{
    CacheRegisterRelcacheCallback(invalidate, (Datum)0);
}

/* Sets a SyncedTable aside; it is freed when no one can hold it any more. */
static void
retire(SyncedTable *table)
{
    MemoryContext old = MemoryContextSwitchTo(registry_context);

    retired = lappend(retired, table);
    MemoryContextSwitchTo(old);
}

/* Frees what was set aside during the transaction that ends now. */
void
registry_end_transaction(void)
{
    ListCell *cell;

    foreach (cell, retired)
    {
        SyncedTable *table = lfirst(cell);
        ListCell *plan;

        foreach (plan, table->plans)
            SPI_freeplan(*(SPIPlanPtr *)lfirst(plan));
        MemoryContextDelete(table->context);
    }
    list_free(retired);
    retired = NIL;
}

/* Refuses to work with SQL objects of another version than this library. */
static void
check_version(void)
{
    Relation extensions = table_open(ExtensionRelationId, AccessShareLock);
    ScanKeyData key;
    SysScanDesc scan;
    HeapTuple tuple;
    bool isnull;
    char *version = NULL;

    ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
                CStringGetDatum("rowsync"));
    scan = systable_beginscan(extensions, ExtensionNameIndexId, true, NULL, 1, &key);
    tuple = systable_getnext(scan);
    if (HeapTupleIsValid(tuple))
    {
        Datum value = heap_getattr(tuple, Anum_pg_extension_extversion,
                                   RelationGetDescr(extensions), &isnull);

        if (!isnull)
            version = TextDatumGetCString(value);
    }
    systable_endscan(scan);
    table_close(extensions, AccessShareLock);
    if (version == NULL)
        ereport(ERROR, (errcode(ROWSYNC_VERSION_MISMATCH),
                        errmsg("extension rowsync is not installed in this database"),
                        errhint("Run CREATE EXTENSION rowsync.")));
    if (strcmp(version, ROWSYNC_VERSION) != 0)
        ereport(ERROR,
                (errcode(ROWSYNC_VERSION_MISMATCH),
                 errmsg("the rowsync library is version %s, but its SQL objects are version %s",
                        ROWSYNC_VERSION, version),
                 errhint("Run ALTER EXTENSION rowsync UPDATE, or install the library that "
                         "belongs to the SQL objects, and reconnect.")));
    if (GetDatabaseEncoding() != PG_UTF8)
        ereport(ERROR, (errcode(ROWSYNC_TABLE_NOT_SYNCABLE),
                        errmsg("rowsync needs a database with encoding UTF8"),
                        errhint("Create the database with ENCODING 'UTF8'.")));
}

/* Reads rowsync.synced_table, keeping what is known of tables that are still registered. */
static void
load_entries(void)
{
    Oid namespace;
    Relation relation;
    SysScanDesc scan;
    HeapTuple tuple;
    HASHCTL control = {0};
    HTAB *fresh;
    HTAB *old = entries;
    Snapshot snapshot;
    bool changed = false;

    if (registry_context == NULL)
        registry_context =
            AllocSetContextCreate(TopMemoryContext, "rowsync registry", ALLOCSET_SMALL_SIZES);
    check_version();
    namespace = get_namespace_oid("rowsync", false);
    for (int i = 0; i < OWN_RELATION_COUNT; i++)
    {
        Oid before = relations[i];

        relations[i] = get_relname_relid(relation_names[i], namespace);
        /* The extension was dropped and created again. */
        if (i == REL_SCOPE && relations[i] != before)
            scope_forget();
        if (!OidIsValid(relations[i]))
            ereport(ERROR,
                    (errcode(ROWSYNC_DAMAGED), errmsg("rowsync.%s is missing", relation_names[i]),
                     errhint("Restore it from a backup, or recreate the extension.")));
    }
    control.keysize = sizeof(Oid);
    control.entrysize = sizeof(RegistryEntry);
    control.hcxt = registry_context;
    fresh = hash_create("rowsync registry", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

    relation = table_open(relations[REL_SYNCED_TABLE], AccessShareLock);
    snapshot = RegisterSnapshot(GetLatestSnapshot());
    scan = systable_beginscan(relation, InvalidOid, false, snapshot, 0, NULL);
    while (HeapTupleIsValid(tuple = systable_getnext(scan)))
    {
        TupleDesc desc = RelationGetDescr(relation);
        bool isnull;
        Oid relid = DatumGetObjectId(heap_getattr(tuple, TABLE_RELID, desc, &isnull));
        RegistryEntry *known = old ? hash_search(old, &relid, HASH_FIND, NULL) : NULL;
        RegistryEntry *entry = hash_search(fresh, &relid, HASH_ENTER, NULL);

        entry->table_id = DatumGetInt32(heap_getattr(tuple, TABLE_ID, desc, &isnull));
        entry->upsert_order = DatumGetInt32(heap_getattr(tuple, TABLE_UPSERT_ORDER, desc, &isnull));
        entry->scope_added = DatumGetBool(heap_getattr(tuple, TABLE_SCOPE_ADDED, desc, &isnull));
        namestrcpy(&entry->scope_column,
                   NameStr(*DatumGetName(heap_getattr(tuple, TABLE_SCOPE_COLUMN, desc, &isnull))));
        entry->table = NULL;
        if (known && known->table && known->table_id == entry->table_id &&
            known->upsert_order == entry->upsert_order)
        {
            entry->table = known->table;
            known->table = NULL;
        }
        changed |= known == NULL;
    }
    systable_endscan(scan);
    table_close(relation, AccessShareLock);

    relation = table_open(relations[REL_SCHEMA_CHANGE], AccessShareLock);
    scan = systable_beginscan(relation, InvalidOid, false, snapshot, 0, NULL);
    schema_version = 1;
    while (HeapTupleIsValid(tuple = systable_getnext(scan)))
    {
        bool isnull;

        schema_version =
            Max(schema_version,
                DatumGetInt32(heap_getattr(tuple, 1, RelationGetDescr(relation), &isnull)));
    }
    systable_endscan(scan);
    UnregisterSnapshot(snapshot);
    table_close(relation, AccessShareLock);

    if (old != NULL)
    {
        HASH_SEQ_STATUS leftover;
        RegistryEntry *entry;

        hash_seq_init(&leftover, old);
        while ((entry = hash_seq_search(&leftover)) != NULL)
        {
            if (entry->table != NULL)
                retire(entry->table);
        }
        changed |= hash_get_num_entries(old) != hash_get_num_entries(fresh);
        hash_destroy(old);
    }
    entries = fresh;
    /* Which references count depends on which tables are registered. */
    if (changed)
        mark_stale(InvalidOid);
    entries_valid = true;
}

/* Makes sure the list of registered tables is there and current. */
static inline void
ensure_entries(void)
{
    if (unlikely(!entries_valid))
        load_entries();
}

/* The oid of one of rowsync's own relations. */
Oid
registry_relation(OwnRelation which)
{
    ensure_entries();
    return relations[which];
}

/* Is the table registered, as far as the list that was read last tells? */
bool
registry_knows(Oid relid)
{
    return hash_search(entries, &relid, HASH_FIND, NULL) != NULL;
}

/* The current description of a registered table; NULL if relid is not registered. */
SyncedTable *
registry_find_relid(Oid relid)
{
    RegistryEntry *entry;

    ensure_entries();
    entry = hash_search(entries, &relid, HASH_FIND, NULL);
    if (entry == NULL)
        return NULL;
    if (unlikely(entry->table == NULL || entry->table->stale))
    {
        SyncedTable *fresh;
        MemoryContext before = CurrentMemoryContext;

        fresh = synced_table_make(entry->relid, entry->table_id, entry->upsert_order,
                                  NameStr(entry->scope_column), entry->scope_added);
        MemoryContextSwitchTo(before);
        if (fresh == NULL)
            return NULL;
        MemoryContextSetParent(fresh->context, registry_context);
        /* Building opens relations, which may have reloaded the list. */
        ensure_entries();
        entry = hash_search(entries, &relid, HASH_FIND, NULL);
        if (entry == NULL)
        {
            retire(fresh);
            return NULL;
        }
        if (entry->table != NULL)
            retire(entry->table);
        entry->table = fresh;
    }
    return entry->table;
}

/* The same for the relation of a trigger, which may be a partition of a registered table. */
SyncedTable *
registry_find_root(Relation relation)
{
    SyncedTable *table = registry_find_relid(RelationGetRelid(relation));
    List *ancestors;
    ListCell *cell;

    if (table != NULL || !relation->rd_rel->relispartition)
        return table;
    ancestors = get_partition_ancestors(RelationGetRelid(relation));
    foreach (cell, ancestors)
    {
        if (table == NULL)
            table = registry_find_relid(lfirst_oid(cell));
    }
    list_free(ancestors);
    return table;
}

/* Has the description of a table made anew, though nothing has invalidated it. */
void
registry_invalidate(Oid relid)
{
    ensure_entries();
    mark_stale(relid);
}

/* The same by schema and name; both NUL-terminated, of any length. */
SyncedTable *
registry_find_name(const char *schema, const char *name)
{
    Oid namespace;
    Oid relid;

    /* The catalogs would look up a truncated name. */
    if (strlen(schema) >= NAMEDATALEN || strlen(name) >= NAMEDATALEN)
        return NULL;
    namespace = get_namespace_oid(schema, true);
    relid = OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;
    return OidIsValid(relid) ? registry_find_relid(relid) : NULL;
}

/* The same by table_id. */
SyncedTable *
registry_find_id(int32 table_id)
{
    HASH_SEQ_STATUS scan;
    RegistryEntry *entry;

    ensure_entries();
    hash_seq_init(&scan, entries);
    while ((entry = hash_seq_search(&scan)) != NULL)
    {
        if (entry->table_id == table_id)
        {
            Oid relid = entry->relid;

            hash_seq_term(&scan);
            return registry_find_relid(relid);
        }
    }
    return NULL;
}

/* Oids of all registered tables, as a list of the current context. */
List *
registry_relids(void)
{
    HASH_SEQ_STATUS scan;
    RegistryEntry *entry;
    List *result = NIL;

    ensure_entries();
    hash_seq_init(&scan, entries);
    while ((entry = hash_seq_search(&scan)) != NULL)
        result = lappend_oid(result, entry->relid);
    return result;
}

/* Orders tables parents first. */
static int
compare_order(const void *a, const void *b)
{
    const SyncedTable *left = *(SyncedTable *const *)a;
    const SyncedTable *right = *(SyncedTable *const *)b;

    if (left->upsert_order != right->upsert_order)
        return left->upsert_order < right->upsert_order ? -1 : 1;
    return left->table_id < right->table_id ? -1 : left->table_id > right->table_id;
}

/* All registered tables, parents first, as an array of the current context. Returns their number.
 */
int
registry_ordered(SyncedTable ***tables)
{
    List *relids = registry_relids();
    ListCell *cell;
    int count = 0;

    *tables = palloc((list_length(relids) + 1) * sizeof(SyncedTable *));
    foreach (cell, relids)
    {
        SyncedTable *table = registry_find_relid(lfirst_oid(cell));

        if (table != NULL)
            (*tables)[count++] = table;
    }
    qsort(*tables, count, sizeof(SyncedTable *), compare_order);
    list_free(relids);
    return count;
}

/* Grows by one with each change of the columns that travel; 1 at first. */
int
registry_schema_version(void)
{
    ensure_entries();
    return schema_version;
}
