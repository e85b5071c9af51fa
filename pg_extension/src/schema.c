/*
 * schema.c: rowsync.schema, what a client needs to create the registered tables in SQLite.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "registry.h"

PG_FUNCTION_INFO_V1(rowsync_schema);
PG_FUNCTION_INFO_V1(rowsync_schema_version);

/* The SQLite type of the values table in docs/protocol.md. */
static const char *
sqlite_type(ValueKind kind)
{
    switch (kind)
    {
        case VALUE_BOOL:
        case VALUE_INT2:
        case VALUE_INT4:
        case VALUE_INT8:
            return "INTEGER";
        case VALUE_FLOAT4:
        case VALUE_FLOAT8:
            return "REAL";
        case VALUE_BYTEA:
            return "BLOB";
        default:
            return "TEXT";
    }
}

/* Appends a C string as JSON. */
static void
append_string(StringInfo out, const char *text)
{
    json_append_string(out, text, strlen(text));
}

/* Appends the names of columns, by their index, as a JSON array. */
static void
append_names(StringInfo out, const SyncedTable *table, const int *columns, int count)
{
    appendStringInfoChar(out, '[');
    for (int i = 0; i < count; i++)
    {
        if (i > 0)
            appendStringInfoChar(out, ',');
        append_string(out, table->columns[columns[i]].name);
    }
    appendStringInfoChar(out, ']');
}

/* The action of a foreign key, in SQL's words. */
static const char *
delete_action(char action)
{
    switch (action)
    {
        case FKCONSTR_ACTION_CASCADE:
            return "CASCADE";
        case FKCONSTR_ACTION_SETNULL:
            return "SET NULL";
        case FKCONSTR_ACTION_SETDEFAULT:
            return "SET DEFAULT";
        case FKCONSTR_ACTION_RESTRICT:
            return "RESTRICT";
        default:
            return "NO ACTION";
    }
}

/* Appends one reference to a registered table. */
static void
append_reference(StringInfo out, const SyncedTable *table, const SyncedReference *reference)
{
    SyncedTable *parent = registry_find_relid(reference->parent_relid);
    HeapTuple tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(reference->constraint_oid));
    Form_pg_constraint constraint;

    if (!HeapTupleIsValid(tuple) || parent == NULL)
        elog(ERROR, "foreign key %u of %s went away", reference->constraint_oid,
             table->qualified_name);
    constraint = (Form_pg_constraint)GETSTRUCT(tuple);
    appendStringInfoString(out, "{\"columns\":");
    append_names(out, table, reference->columns, reference->nkeys);
    appendStringInfoString(out, ",\"schema\":");
    append_string(out, parent->schema);
    appendStringInfoString(out, ",\"table\":");
    append_string(out, parent->name);
    appendStringInfoString(out, ",\"to\":");
    append_names(out, parent, parent->keys, parent->nkeys);
    appendStringInfo(out, ",\"on_delete\":\"%s\",\"deferrable\":%s}",
                     delete_action(constraint->confdeltype),
                     constraint->condeferrable ? "true" : "false");
    ReleaseSysCache(tuple);
}

/*
 * Appends the unique constraints other than the key whose columns all travel. A device has the rows
 * of one scope, so that there UNIQUE (owner, name) is UNIQUE (name).
 */
static void
append_unique(StringInfo out, const SyncedTable *table, Relation relation)
{
    List *indexes = RelationGetIndexList(relation);
    bool first = true;
    ListCell *cell;

    foreach (cell, indexes)
    {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        int columns[INDEX_MAX_KEYS];
        int count = 0;
        bool usable = index->rd_index->indisunique && !index->rd_index->indisprimary &&
                      index->rd_index->indisvalid &&
                      heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);

        for (int i = 0; usable && i < IndexRelationGetNumberOfKeyAttributes(index); i++)
        {
            int att = index->rd_index->indkey.values[i];

            if (att == table->scope_attnum)
                continue;
            columns[count] = att > 0 ? table->column_of_att[att - 1] : -1;
            usable = columns[count++] >= 0;
        }
        if (usable && count > 0)
        {
            if (!first)
                appendStringInfoChar(out, ',');
            append_names(out, table, columns, count);
            first = false;
        }
        index_close(index, AccessShareLock);
    }
    list_free(indexes);
}

/* Appends one table. */
static void
append_table(StringInfo out, SyncedTable *table)
{
    Relation relation = table_open(table->relid, AccessShareLock);

    appendStringInfoString(out, "{\"schema\":");
    append_string(out, table->schema);
    appendStringInfoString(out, ",\"table\":");
    append_string(out, table->name);
    appendStringInfoString(out, ",\"columns\":[");
    for (int i = 0; i < table->ncolumns; i++)
    {
        SyncedColumn *column = &table->columns[i];
        Form_pg_attribute att = TupleDescAttr(RelationGetDescr(relation), column->attnum - 1);

        appendStringInfoString(out, i > 0 ? ",{\"name\":" : "{\"name\":");
        append_string(out, column->name);
        appendStringInfoString(out, ",\"type\":");
        append_string(out, format_type_with_typemod(att->atttypid, att->atttypmod));
        appendStringInfo(out, ",\"sqlite\":\"%s\",\"not_null\":%s,\"generated\":%s}",
                         sqlite_type(column->codec.kind), att->attnotnull ? "true" : "false",
                         column->generated ? "true" : "false");
    }
    appendStringInfoString(out, "],\"primary_key\":");
    append_names(out, table, table->keys, table->nkeys);
    appendStringInfoString(out, ",\"references\":[");
    for (int r = 0; r < table->nreferences; r++)
    {
        if (r > 0)
            appendStringInfoChar(out, ',');
        append_reference(out, table, &table->references[r]);
    }
    appendStringInfoString(out, "],\"unique\":[");
    append_unique(out, table, relation);
    appendStringInfoString(out, "]}");
    table_close(relation, AccessShareLock);
}

/* rowsync.schema() returns text */
Datum
rowsync_schema(PG_FUNCTION_ARGS)
{
    SyncedTable **tables;
    int ntables = registry_ordered(&tables);
    StringInfoData out;

    initStringInfo(&out);
    appendStringInfo(&out, "{\"schema_version\":%d,\"tables\":[", registry_schema_version());
    for (int i = 0; i < ntables; i++)
    {
        if (i > 0)
            appendStringInfoChar(&out, ',');
        append_table(&out, tables[i]);
    }
    appendStringInfoString(&out, "]}");
    PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

/* rowsync.schema_version() returns integer */
Datum
rowsync_schema_version(PG_FUNCTION_ARGS)
{
    PG_RETURN_INT32(registry_schema_version());
}
