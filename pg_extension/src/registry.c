/*
 * registry.c: which tables sync, and everything about them that the other parts ask often.
 *
 * Two layers, both filled on first use: the list of registered tables (rowsync.synced_table and the
 * oids of rowsync's own relations), dropped when that table changes; and a SyncedTable for each,
 * remade after a relcache invalidation of its table. What is replaced is kept until the end of the
 * transaction, because an upload or a trigger further up the stack may still hold it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "compat.h"
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

/* An operator, ready for SQL whatever the search_path. */
static const char *
operator_name(Oid operator_oid)
{
    HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator_oid));
    Form_pg_operator form;
    char *result;

    if (!HeapTupleIsValid(tuple))
        elog(ERROR, "cache lookup failed for operator %u", operator_oid);
    form = (Form_pg_operator)GETSTRUCT(tuple);
    result = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
                      NameStr(form->oprname));
    ReleaseSysCache(tuple);
    return result;
}

/* Columns that travel: all but the scope column. */
static void
load_columns(SyncedTable *table, Relation relation)
{
    TupleDesc desc = RelationGetDescr(relation);

    table->natts = desc->natts;
    table->safe_input = true;
    table->column_of_att = palloc(desc->natts * sizeof(int));
    table->columns = palloc0(desc->natts * sizeof(SyncedColumn));
    for (int i = 0; i < desc->natts; i++)
    {
        Form_pg_attribute att = TupleDescAttr(desc, i);
        SyncedColumn *column;
        StringInfoData label;

        table->column_of_att[i] = -1;
        if (att->attisdropped)
            continue;
        if (strcmp(NameStr(att->attname), table->scope_name) == 0)
        {
            table->scope_attnum = att->attnum;
            table->scope_collation = att->attcollation;
            value_codec_init(&table->scope_codec, att->atttypid, att->atttypmod, table->context);
            table->scope_equals = operator_name(
                lookup_type_cache(getBaseType(att->atttypid), TYPECACHE_EQ_OPR)->eq_opr);
            continue;
        }
        /* Left over from when it held the scope. */
        if (strcmp(NameStr(att->attname), ROWSYNC_SCOPE_COLUMN) == 0)
            continue;
        table->column_of_att[i] = table->ncolumns;
        column = &table->columns[table->ncolumns++];
        column->attnum = att->attnum;
        column->name = pstrdup(NameStr(att->attname));
        column->name_len = strlen(column->name);
        column->collation = att->attcollation;
        column->identity_always = att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
        column->generated = att->attgenerated != '\0';
        initStringInfo(&label);
        json_append_string(&label, column->name, column->name_len);
        appendStringInfoChar(&label, ':');
        column->json_name = label.data;
        column->json_name_len = label.len;
        value_codec_init(&column->codec, att->atttypid, att->atttypmod, table->context);
        table->output_needs_format |= column->codec.output_needs_format;
        table->input_needs_format |= column->codec.input_needs_format;
        table->safe_input &= column->codec.safe_input;
    }
    if (table->scope_attnum == 0)
        ereport(ERROR,
                (errcode(ROWSYNC_TABLE_NOT_SYNCABLE),
                 errmsg("table %s has lost its scope column \"%s\"", table->qualified_name,
                        table->scope_name),
                 errhint("Add the column again, or unregister the table and register it anew.")));
}

/*
 * Refuses a key column of a type in which equal values can be written differently (1.0 and 1.00,
 * 'a' and 'A' of citext): such a row would have two names.
 */
static void
check_key_column(const SyncedTable *table, const SyncedColumn *column)
{
    Oid base = getBaseType(column->codec.type);
    bool exact = column->codec.kind == VALUE_UUID || column->codec.kind == VALUE_INT2 ||
                 column->codec.kind == VALUE_INT4 || column->codec.kind == VALUE_INT8 ||
                 column->codec.kind == VALUE_BOOL || column->codec.kind == VALUE_BYTEA ||
                 column->codec.kind == VALUE_DATE || column->codec.kind == VALUE_TIMESTAMP ||
                 column->codec.kind == VALUE_TIMESTAMPTZ || type_is_enum(base) ||
                 (column->codec.kind == VALUE_TEXT && base != BPCHAROID &&
                  get_collation_isdeterministic(column->collation));

    if (!exact)
        ereport(ERROR,
                (errcode(ROWSYNC_TABLE_NOT_SYNCABLE),
                 errmsg("key column \"%s\" of %s has type %s, in which equal values can differ in "
                        "writing",
                        column->name, table->qualified_name, format_type_be(column->codec.type)),
                 errhint("Use uuid, text, varchar, an integer type, boolean, date, timestamp, "
                         "bytea or an enum.")));
}

/* The primary key, and how it is packed into a row_key. */
static void
load_key(SyncedTable *table, Relation relation)
{
    Relation index;
    List *unused = RelationGetIndexList(relation);
    Oid index_oid = relation->rd_pkindex;

    list_free(unused);
    if (!OidIsValid(index_oid))
        ereport(ERROR, (errcode(ROWSYNC_TABLE_NOT_SYNCABLE),
                        errmsg("table %s has no primary key", table->qualified_name),
                        errhint("Add one, best of type uuid, so that devices can make keys.")));
    index = index_open(index_oid, AccessShareLock);
    table->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
    table->keys = palloc(table->nkeys * sizeof(int));
    table->key_equals = palloc(table->nkeys * sizeof(char *));
    table->key_equal_procs = palloc(table->nkeys * sizeof(Oid));
    for (int i = 0; i < table->nkeys; i++)
    {
        int column = table->column_of_att[index->rd_index->indkey.values[i] - 1];
        Oid equals;

        if (column < 0)
            ereport(ERROR,
                    (errcode(ROWSYNC_TABLE_NOT_SYNCABLE),
                     errmsg("the primary key of %s contains the scope column \"%s\"",
                            table->qualified_name, table->scope_name),
                     errhint("The scope is no part of a row's name: use a key that is unique "
                             "without it, best a uuid.")));
        check_key_column(table, &table->columns[column]);
        table->keys[i] = column;
        table->columns[column].is_key = true;
        equals = get_opfamily_member(index->rd_opfamily[i], index->rd_opcintype[i],
                                     index->rd_opcintype[i], BTEqualStrategyNumber);
        table->key_equals[i] = operator_name(equals);
        table->key_equal_procs[i] = get_opcode(equals);
    }
    table->key_index = index_oid;
    index_close(index, AccessShareLock);

    table->key_kind = KEY_JSON;
    if (table->nkeys == 1)
    {
        ValueCodec *codec = &table->columns[table->keys[0]].codec;

        if (codec->kind == VALUE_UUID)
            table->key_kind = KEY_UUID;
        else if (codec->kind == VALUE_INT2 || codec->kind == VALUE_INT4 ||
                 codec->kind == VALUE_INT8)
            table->key_kind = KEY_INTEGER;
        else if (codec->kind == VALUE_TEXT && getBaseType(codec->type) != BPCHAROID)
            table->key_kind = KEY_TEXT;
    }
}

/* Unique constraints other than the key, over plain columns that travel. */
static void
load_uniques(SyncedTable *table, Relation relation)
{
    List *indexes = RelationGetIndexList(relation);
    ListCell *cell;

    table->uniques = palloc0((list_length(indexes) + 1) * sizeof(SyncedUnique));
    foreach (cell, indexes)
    {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        int count = IndexRelationGetNumberOfKeyAttributes(index);
        SyncedUnique *unique = &table->uniques[table->nuniques];
        bool usable = index->rd_index->indisunique && !index->rd_index->indisprimary;

        unique->columns = palloc(count * sizeof(int));
        unique->ncolumns = 0;
        for (int i = 0; usable && i < count; i++)
        {
            int att = index->rd_index->indkey.values[i];

            if (att == table->scope_attnum)
                continue;
            usable = att > 0 && table->column_of_att[att - 1] >= 0;
            if (usable)
                unique->columns[unique->ncolumns++] = table->column_of_att[att - 1];
        }
        if (usable && unique->ncolumns > 0)
            table->nuniques++;
        index_close(index, AccessShareLock);
    }
    list_free(indexes);
}

/*
 * Whether a foreign key is of the plain kind: between two tables without partitions, its columns of
 * the same types as the key's, and not MATCH FULL.
 */
static bool
is_direct(Relation child, Relation parent, const ForeignKeyCacheInfo *info)
{
    HeapTuple tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(info->conoid));
    Form_pg_constraint constraint;
    bool direct;

    if (!HeapTupleIsValid(tuple))
        return false;
    constraint = (Form_pg_constraint)GETSTRUCT(tuple);
    direct = child->rd_rel->relkind == RELKIND_RELATION &&
             parent->rd_rel->relkind == RELKIND_RELATION &&
             constraint->confmatchtype == FKCONSTR_MATCH_SIMPLE;
    for (int k = 0; k < info->nkeys && direct; k++)
    {
        Form_pg_attribute from = TupleDescAttr(RelationGetDescr(child), info->conkey[k] - 1);
        Form_pg_attribute to = TupleDescAttr(RelationGetDescr(parent), info->confkey[k] - 1);

        direct = from->atttypid == to->atttypid && from->atttypmod == to->atttypmod &&
                 from->attcollation == to->attcollation;
    }
    ReleaseSysCache(tuple);
    return direct;
}

/* Foreign keys to registered tables. */
static void
load_references(SyncedTable *table, Relation relation)
{
    List *keys = RelationGetFKeyList(relation);
    ListCell *cell;

    table->references = palloc0((list_length(keys) + 1) * sizeof(SyncedReference));
    foreach (cell, keys)
    {
        ForeignKeyCacheInfo *info = lfirst(cell);
        SyncedReference *reference = &table->references[table->nreferences];
        Relation parent;
        Bitmapset *parent_key;
        Relation index;
        bool whole_key;

        if (hash_search(entries, &info->confrelid, HASH_FIND, NULL) == NULL)
            continue;
        parent = table_open(info->confrelid, AccessShareLock);
        parent_key = RelationGetIndexAttrBitmap(parent, INDEX_ATTR_BITMAP_PRIMARY_KEY);
        whole_key = bms_num_members(parent_key) == info->nkeys;
        if (whole_key)
        {
            index = index_open(parent->rd_pkindex, AccessShareLock);
            reference->columns = palloc(info->nkeys * sizeof(int));
            reference->nkeys = info->nkeys;
            for (int i = 0; i < info->nkeys; i++)
            {
                reference->columns[i] = -1;
                for (int k = 0; k < info->nkeys; k++)
                {
                    if (info->confkey[k] == index->rd_index->indkey.values[i])
                        reference->columns[i] = table->column_of_att[info->conkey[k] - 1];
                }
                whole_key = whole_key && reference->columns[i] >= 0;
            }
            index_close(index, AccessShareLock);
        }
        reference->direct = is_direct(relation, parent, info);
        table_close(parent, AccessShareLock);
        if (!whole_key)
            ereport(ERROR,
                    (errcode(ROWSYNC_TABLE_NOT_SYNCABLE),
                     errmsg("foreign key \"%s\" of %s does not refer to the primary key of its "
                            "parent, or contains the scope column",
                            get_constraint_name(info->conoid), table->qualified_name),
                     errhint("Let it refer to the whole primary key of %s, or drop it.",
                             get_rel_name(info->confrelid))));
        reference->constraint_oid = info->conoid;
        reference->parent_relid = info->confrelid;
        table->nreferences++;
    }
}

/* Whether somebody's triggers fire when rows of a table are written, besides our own. */
static bool
find_triggers(Relation relation)
{
    TriggerDesc *triggers = relation->trigdesc;

    for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
    {
        const Trigger *trigger = &triggers->triggers[i];

        if (!trigger->tgisinternal && strncmp(trigger->tgname, "_rowsync_", 9) != 0)
            return true;
    }
    return false;
}

/* Builds the description of a registered table from the catalogs; NULL if it has been dropped. */
static SyncedTable *
make_table(const RegistryEntry *entry)
{
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "rowsync table", ALLOCSET_SMALL_SIZES);
    MemoryContext old = MemoryContextSwitchTo(context);
    Relation relation = try_relation_open(entry->relid, AccessShareLock);
    SyncedTable *table;

    if (relation == NULL)
    {
        MemoryContextSwitchTo(old);
        MemoryContextDelete(context);
        return NULL;
    }
    table = palloc0(sizeof(SyncedTable));

    table->relid = entry->relid;
    table->table_id = entry->table_id;
    table->upsert_order = entry->upsert_order;
    table->context = context;
    table->schema = get_namespace_name(RelationGetNamespace(relation));
    table->name = pstrdup(RelationGetRelationName(relation));
    table->qualified_name = quote_qualified_identifier(table->schema, table->name);
    table->scope_name = pstrdup(NameStr(entry->scope_column));
    table->scope_added = entry->scope_added;
    table->row_security = relation->rd_rel->relrowsecurity;
    table->has_triggers = find_triggers(relation);
    load_columns(table, relation);
    load_key(table, relation);
    load_references(table, relation);
    load_uniques(table, relation);
    relation_close(relation, AccessShareLock);
    MemoryContextSwitchTo(old);
    MemoryContextSetParent(context, registry_context);
    return table;
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

        fresh = make_table(entry);
        MemoryContextSwitchTo(before);
        if (fresh == NULL)
            return NULL;
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

/* Index of the column of this name, or -1. The search begins at hint: payloads keep an order. */
int
registry_find_column(const SyncedTable *table, const char *name, int len, int hint)
{
    for (int n = 0; n < table->ncolumns; n++)
    {
        int i = (hint + n) % table->ncolumns;

        if (table->columns[i].name_len == len && memcmp(table->columns[i].name, name, len) == 0)
            return i;
    }
    return -1;
}

/* Appends the columns of a row that travel, as one JSON object. */
static void
append_columns(StringInfo out, SyncedTable *table, TupleTableSlot *slot)
{
    slot_getallattrs(slot);
    appendStringInfoCharMacro(out, '{');
    for (int i = 0; i < table->ncolumns; i++)
    {
        SyncedColumn *column = &table->columns[i];
        int att = column->attnum - 1;

        if (i > 0)
            appendStringInfoCharMacro(out, ',');
        appendBinaryStringInfo(out, column->json_name, column->json_name_len);
        if (slot->tts_isnull[att])
            appendBinaryStringInfo(out, "null", 4);
        else
            value_append_json(out, &column->codec, slot->tts_values[att]);
    }
    appendStringInfoCharMacro(out, '}');
}

/* The same, independent of the session's formats. */
void
registry_append_row(StringInfo out, SyncedTable *table, TupleTableSlot *slot)
{
    ValueFormat saved;

    if (!table->output_needs_format)
    {
        append_columns(out, table, slot);
        return;
    }
    value_format_enter(&saved);
    PG_TRY();
    {
        append_columns(out, table, slot);
    }
    PG_FINALLY();
    {
        value_format_leave(&saved);
    }
    PG_END_TRY();
}

/* One value that is not null, independent of the session's formats. */
void
registry_append_value(StringInfo out, SyncedColumn *column, Datum value)
{
    ValueFormat saved;

    if (!column->codec.output_needs_format)
    {
        value_append_json(out, &column->codec, value);
        return;
    }
    value_format_enter(&saved);
    PG_TRY();
    {
        value_append_json(out, &column->codec, value);
    }
    PG_FINALLY();
    {
        value_format_leave(&saved);
    }
    PG_END_TRY();
}

/* The scope of a row, in the current context; NULL if the row has none. */
char *
registry_scope_of(SyncedTable *table, TupleTableSlot *slot)
{
    bool isnull;
    Datum value = slot_getattr(slot, table->scope_attnum, &isnull);
    char *scope;

    if (isnull)
        return NULL;
    if (table->scope_codec.kind == VALUE_TEXT)
        scope = TextDatumGetCString(value);
    else
        scope = OutputFunctionCall(&table->scope_codec.output, value);
    return scope[0] == '\0' ? NULL : scope;
}
