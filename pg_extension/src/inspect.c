/*
 * inspect.c: keys and stored rows in a form that SQL can look at, for views and rowsync.verify; and
 * rowsync.restore_row.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "apply.h"
#include "capture.h"
#include "changelog.h"
#include "compat.h"
#include "errors.h"
#include "payload.h"
#include "registry.h"
#include "request.h"

PG_FUNCTION_INFO_V1(rowsync_key_text);
PG_FUNCTION_INFO_V1(rowsync_parse_key);
PG_FUNCTION_INFO_V1(rowsync_stored_rows);
PG_FUNCTION_INFO_V1(rowsync_write_row);
PG_FUNCTION_INFO_V1(rowsync_same_row);
PG_FUNCTION_INFO_V1(rowsync_is_row);

/* A packed key that came as an argument. */
static RowKey
packed(bytea *key)
{
    return (RowKey){VARSIZE_ANY_EXHDR(key), VARDATA_ANY(key)};
}

/* rowsync._key_text(table_id integer, row_key bytea) returns text; a damaged key as bytea is
 * written. */
Datum
rowsync_key_text(PG_FUNCTION_ARGS)
{
    SyncedTable *table = registry_find_id(PG_GETARG_INT32(0));
    RowKey key = packed(PG_GETARG_BYTEA_PP(1));
    StringInfoData out;

    /* A table that syncs no more: its change log is still there to be read. */
    if (table == NULL)
        PG_RETURN_NULL();
    initStringInfo(&out);
    if (rowkey_is_packed(table, key))
        rowkey_append_text(&out, table, key);
    else
    {
        appendStringInfoString(&out, "\\x");
        enlargeStringInfo(&out, key.len * 2 + 1);
        out.len += hex_encode(key.data, key.len, out.data + out.len);
    }
    PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

/* Whether the key columns of a payload, as far as it has all of them, name this row. */
static bool
payload_has_key(SyncedTable *table, RowKey key, const JsonMember *members, int nmembers)
{
    StringInfoData written;
    StringInfoData expected;
    bool multiple = table->nkeys > 1;

    initStringInfo(&written);
    initStringInfo(&expected);
    for (int k = 0; k < table->nkeys; k++)
    {
        const JsonValue *value = payload_value(members, nmembers, &table->columns[table->keys[k]]);

        if (value == NULL)
            return true;
        if (multiple)
            appendStringInfoChar(&written, k == 0 ? '[' : ',');
        if (multiple && value->kind == JSON_STRING)
            json_append_string(&written, value->text, value->len);
        else
            appendBinaryStringInfo(&written, value->text, value->len);
    }
    if (multiple)
        appendStringInfoChar(&written, ']');
    rowkey_append_text(&expected, table, key);
    return written.len == expected.len && memcmp(written.data, expected.data, written.len) == 0;
}

/*
 * rowsync._is_row(table_id integer, row_key bytea, payload text) returns boolean: for
 * rowsync.verify. Raises what is wrong with the table, where it no longer fits what is known of it.
 */
Datum
rowsync_is_row(PG_FUNCTION_ARGS)
{
    SyncedTable *table = registry_find_id(PG_GETARG_INT32(0));
    RowKey key = packed(PG_GETARG_BYTEA_PP(1));
    text *payload = PG_GETARG_TEXT_PP(2);
    JsonMember *members;
    int nmembers;

    if (!request_parse_object(VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload), &members,
                              &nmembers))
        PG_RETURN_BOOL(false);
    PG_RETURN_BOOL(table == NULL || (rowkey_is_packed(table, key) &&
                                     payload_has_key(table, key, members, nmembers)));
}

/* The registered table of an oid; RS006 if there is none. */
static SyncedTable *
registered(Oid relid)
{
    SyncedTable *table = registry_find_relid(relid);

    if (table == NULL)
        ereport(ERROR, (errcode(ROWSYNC_TABLE_NOT_REGISTERED),
                        errmsg("table %s is not registered",
                               get_rel_name(relid) ? get_rel_name(relid) : "?"),
                        errhint("SELECT relid FROM rowsync.synced_table shows what is.")));
    return table;
}

/* rowsync._parse_key(table_name regclass, key text) returns bytea */
Datum
rowsync_parse_key(PG_FUNCTION_ARGS)
{
    SyncedTable *table = registered(PG_GETARG_OID(0));
    char *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
    JsonValue pk = {JSON_STRING, strlen(name), name};
    Datum values[INDEX_MAX_KEYS];
    const char *error;
    RowKey key;
    bytea *result;

    if (!rowkey_parse(table, &pk, values, &key, &error))
        ereport(ERROR, (errcode(ROWSYNC_INVALID_PARAMETER),
                        errmsg("\"%s\" is no key of %s: %s", name, table->qualified_name, error)));
    result = palloc(VARHDRSZ + key.len);
    SET_VARSIZE(result, VARHDRSZ + key.len);
    memcpy(VARDATA(result), key.data, key.len);
    PG_RETURN_BYTEA_P(result);
}

/* Where rowsync._stored_rows collects; capture_scan takes no argument for its function. */
static Tuplestorestate *collected;
static TupleDesc collected_desc;

/* Adds one row to the collection. */
static void
collect(SyncedTable *table, TupleTableSlot *row)
{
    char *scope = synced_table_scope_of(table, row);
    RowKey key = rowkey_from_slot(table, row);
    bytea *key_bytes = palloc(VARHDRSZ + key.len);
    StringInfoData payload;
    Datum values[3];
    bool nulls[3] = {scope == NULL, false, false};

    SET_VARSIZE(key_bytes, VARHDRSZ + key.len);
    memcpy(VARDATA(key_bytes), key.data, key.len);
    initStringInfo(&payload);
    synced_table_append_row(&payload, table, row);
    values[0] = scope ? CStringGetTextDatum(scope) : (Datum)0;
    values[1] = PointerGetDatum(key_bytes);
    values[2] = PointerGetDatum(cstring_to_text_with_len(payload.data, payload.len));
    tuplestore_putvalues(collected, collected_desc, values, nulls);
}

/* rowsync._stored_rows(table_name regclass) returns table (scope text, row_key bytea, payload text)
 */
Datum
rowsync_stored_rows(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
    SyncedTable *table = registered(PG_GETARG_OID(0));
    MemoryContext old;

    if (result == NULL || !(result->allowedModes & SFRM_Materialize))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("rowsync._stored_rows must be called in FROM")));
    old = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
    if (get_call_result_type(fcinfo, NULL, &collected_desc) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "rowsync._stored_rows must return rows");
    collected_desc = CreateTupleDescCopy(collected_desc);
    collected = tuplestore_begin_heap(false, false, work_mem);
    MemoryContextSwitchTo(old);
    result->returnMode = SFRM_Materialize;
    result->setResult = collected;
    result->setDesc = collected_desc;
    capture_scan(table, collect);
    return (Datum)0;
}

/*
 * rowsync._write_row(table_name regclass, scope text, payload text, live boolean)
 * returns void: writes a row as a payload of the change log has it, as an ordinary statement of the
 * caller.
 */
Datum
rowsync_write_row(PG_FUNCTION_ARGS)
{
    SyncedTable *table = registered(PG_GETARG_OID(0));
    char *scope = text_to_cstring(PG_GETARG_TEXT_PP(1));
    char *payload = text_to_cstring(PG_GETARG_TEXT_PP(2));
    ApplyRow row = {.kind = PG_GETARG_BOOL(3) ? APPLY_UPDATE : APPLY_INSERT};
    ApplyRow *rows[1] = {&row};
    JsonMember *members;
    int nmembers;

    if (!request_parse_object(payload, strlen(payload), &members, &nmembers))
        ereport(ERROR, (errcode(ROWSYNC_DAMAGED),
                        errmsg("a payload of %s in rowsync.change_log is no JSON object",
                               table->qualified_name)));
    row.values = palloc0(table->ncolumns * sizeof(Datum));
    row.nulls = palloc0(table->ncolumns * sizeof(bool));
    for (int m = 0; m < nmembers; m++)
    {
        int i = synced_table_find_column(table, members[m].name, members[m].name_len, m);
        const char *error;

        /* A column that has gone since, or that the server computes. */
        if (i < 0 || table->columns[i].generated)
            continue;
        row.values[i] =
            value_from_json(&table->columns[i].codec, &members[m].value, &row.nulls[i], &error);
        if (error != NULL)
            ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                            errmsg("the old value of column \"%s\" no longer fits: %s",
                                   table->columns[i].name, error)));
        row.columns = bms_add_member(row.columns, i);
    }
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    apply_rows(table, rows, 1, scope, NIL);
    if (SPI_processed == 0)
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("a policy or a trigger of %s kept the row from being written",
                               table->qualified_name)));
    SPI_finish();
    PG_RETURN_VOID();
}

/* rowsync._same_row(table_name regclass, stored text, now text) returns boolean */
Datum
rowsync_same_row(PG_FUNCTION_ARGS)
{
    SyncedTable *table = registered(PG_GETARG_OID(0));
    text *stored = PG_GETARG_TEXT_PP(1);
    text *now = PG_GETARG_TEXT_PP(2);

    PG_RETURN_BOOL(payload_equal(table, VARDATA_ANY(stored), VARSIZE_ANY_EXHDR(stored),
                                 VARDATA_ANY(now), VARSIZE_ANY_EXHDR(now)));
}
