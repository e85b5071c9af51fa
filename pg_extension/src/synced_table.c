/*
 * synced_table.c: one table that syncs: what the catalogs say of it, and how its rows travel.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "errors.h"
#include "registry.h"

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

        if (!registry_knows(info->confrelid))
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

/*
 * Builds the description of a registered table from the catalogs, in a context of its own below the
 * current one; NULL if the table has been dropped. The rest is as rowsync.synced_table has it.
 */
SyncedTable *
synced_table_make(Oid relid, int32 table_id, int32 upsert_order, const char *scope_column,
                  bool scope_added)
{
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "rowsync table", ALLOCSET_SMALL_SIZES);
    MemoryContext old = MemoryContextSwitchTo(context);
    Relation relation = try_relation_open(relid, AccessShareLock);
    SyncedTable *table;

    if (relation == NULL)
    {
        MemoryContextSwitchTo(old);
        MemoryContextDelete(context);
        return NULL;
    }
    table = palloc0(sizeof(SyncedTable));

    table->relid = relid;
    table->table_id = table_id;
    table->upsert_order = upsert_order;
    table->context = context;
    table->schema = get_namespace_name(RelationGetNamespace(relation));
    table->name = pstrdup(RelationGetRelationName(relation));
    table->qualified_name = quote_qualified_identifier(table->schema, table->name);
    table->scope_name = pstrdup(scope_column);
    table->scope_added = scope_added;
    table->row_security = relation->rd_rel->relrowsecurity;
    table->has_triggers = find_triggers(relation);
    load_columns(table, relation);
    load_key(table, relation);
    load_references(table, relation);
    load_uniques(table, relation);
    relation_close(relation, AccessShareLock);
    MemoryContextSwitchTo(old);
    return table;
}

/* Index of the column of this name, or -1. The search begins at hint: payloads keep an order. */
int
synced_table_find_column(const SyncedTable *table, const char *name, int len, int hint)
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
synced_table_append_row(StringInfo out, SyncedTable *table, TupleTableSlot *slot)
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
synced_table_append_value(StringInfo out, SyncedColumn *column, Datum value)
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
synced_table_scope_of(SyncedTable *table, TupleTableSlot *slot)
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
