/*
 * rowkey.c: packs and unpacks the name of a row; the format is in rowkey.h.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "errors.h"
#include "registry.h"
#include "request.h"
#include "rowkey.h"

/* An integer key column, whatever its width, as 64 bits. */
static int64
integer_of(const ValueCodec *codec, Datum value)
{
    switch (codec->kind)
    {
        case VALUE_INT2:
            return DatumGetInt16(value);
        case VALUE_INT4:
            return DatumGetInt32(value);
        default:
            return DatumGetInt64(value);
    }
}

/* Packs key values, given in key order, into memory of the current context. */
RowKey
rowkey_pack(const SyncedTable *table, const Datum *values)
{
    RowKey key;

    switch (table->key_kind)
    {
        case KEY_UUID:
            key.len = UUID_LEN;
            key.data = (const char *)DatumGetUUIDP(values[0])->data;
            break;
        case KEY_INTEGER:
        {
            uint64 *bytes = palloc(sizeof(uint64));

            *bytes =
                pg_hton64((uint64)integer_of(&table->columns[table->keys[0]].codec, values[0]));
            key.len = sizeof(uint64);
            key.data = (const char *)bytes;
            break;
        }
        case KEY_TEXT:
        {
            text *bytes = DatumGetTextPP(values[0]);

            key.len = VARSIZE_ANY_EXHDR(bytes);
            key.data = VARDATA_ANY(bytes);
            break;
        }
        default:
        {
            StringInfoData out;
            ValueFormat saved;

            initStringInfo(&out);
            value_format_enter(&saved);
            PG_TRY();
            {
                for (int i = 0; i < table->nkeys; i++)
                {
                    appendStringInfoChar(&out, i == 0 ? '[' : ',');
                    value_append_json(&out, &table->columns[table->keys[i]].codec, values[i]);
                }
                appendStringInfoChar(&out, ']');
            }
            PG_FINALLY();
            {
                value_format_leave(&saved);
            }
            PG_END_TRY();
            key.len = out.len;
            key.data = out.data;
        }
    }
    return key;
}

/* The key of a stored row. Points into the row, or into memory of the current context. */
RowKey
rowkey_from_slot(const SyncedTable *table, TupleTableSlot *slot)
{
    Datum values[INDEX_MAX_KEYS];
    bool isnull;

    for (int i = 0; i < table->nkeys; i++)
        values[i] = slot_getattr(slot, table->columns[table->keys[i]].attnum, &isnull);
    return rowkey_pack(table, values);
}

/* The element of a pk of several columns, or the pk itself, as the column's kind wants it. */
static bool
parse_part(const SyncedTable *table, int i, const JsonValue *part, Datum *value, const char **error)
{
    ValueCodec *codec = &table->columns[table->keys[i]].codec;
    JsonValue json = *part;
    bool isnull;

    /* A pk travels as a string, so a number's digits or a truth value may stand in one. */
    if (json.kind == JSON_STRING &&
        (codec->kind == VALUE_INT2 || codec->kind == VALUE_INT4 || codec->kind == VALUE_INT8 ||
         codec->kind == VALUE_FLOAT4 || codec->kind == VALUE_FLOAT8))
        json.kind = JSON_NUMBER;
    else if (json.kind == JSON_STRING && codec->kind == VALUE_BOOL &&
             (strcmp(json.text, "true") == 0 || strcmp(json.text, "false") == 0))
        json.kind = JSON_BOOL;
    *value = value_from_json(codec, &json, &isnull, error);
    if (*error == NULL && isnull)
        *error = "expected a value";
    return *error == NULL;
}

/*
 * Reads the pk of a change into key values (room for table->nkeys) and the packed key. false with a
 * constant *error if it does not fit. May raise the error of a type's input function.
 */
bool
rowkey_parse(const SyncedTable *table, const JsonValue *pk, Datum *values, RowKey *key,
             const char **error)
{
    if (table->nkeys == 1)
    {
        if (pk->kind != JSON_STRING)
        {
            *error = "expected a string";
            return false;
        }
        if (!parse_part(table, 0, pk, &values[0], error))
            return false;
    }
    else
    {
        JsonValue *parts;
        int nparts;

        /* The array itself, or the same in a string. */
        if ((pk->kind != JSON_ARRAY && pk->kind != JSON_STRING) ||
            !request_parse_array(pk->text, pk->len, &parts, &nparts) || nparts != table->nkeys)
        {
            *error = "expected an array with one value for each key column";
            return false;
        }
        for (int i = 0; i < nparts; i++)
        {
            if (!parse_part(table, i, &parts[i], &values[i], error))
                return false;
        }
    }
    *key = rowkey_pack(table, values);
    if (key->len > ROWSYNC_MAX_KEY)
    {
        *error = "expected at most 2000 bytes";
        return false;
    }
    return true;
}

/*
 * The key that column values of a payload name, in key order: a row's own key, or its parent's.
 * values and errors as with rowkey_parse; *wrong is the part that does not fit, the first where it
 * is all of them.
 */
bool
rowkey_from_values(const SyncedTable *table, const JsonValue *const *parts, Datum *values,
                   RowKey *key, const char **error, int *wrong)
{
    bool isnull;

    for (int i = 0; i < table->nkeys; i++)
    {
        values[i] =
            value_from_json(&table->columns[table->keys[i]].codec, parts[i], &isnull, error);
        if (*error == NULL && isnull)
            *error = "expected a value";
        if (*error != NULL)
        {
            *wrong = i;
            return false;
        }
    }
    *key = rowkey_pack(table, values);
    if (key->len > ROWSYNC_MAX_KEY)
    {
        *error = "expected at most 2000 bytes";
        *wrong = 0;
        return false;
    }
    return true;
}

/* The integer in a packed key. */
static int64
unpack_integer(RowKey key)
{
    uint64 bytes;

    memcpy(&bytes, key.data, sizeof(bytes));
    return (int64)pg_ntoh64(bytes);
}

/* Whether bytes can be a packed key of this table at all. */
bool
rowkey_is_packed(const SyncedTable *table, RowKey key)
{
    JsonValue *parts;
    int nparts;

    switch (table->key_kind)
    {
        case KEY_UUID:
            return key.len == UUID_LEN;
        case KEY_INTEGER:
            return key.len == sizeof(int64);
        case KEY_TEXT:
            return pg_verify_mbstr(PG_UTF8, key.data, key.len, true);
        default:
            return pg_verify_mbstr(PG_UTF8, key.data, key.len, true) &&
                   request_parse_array(key.data, key.len, &parts, &nparts) &&
                   nparts == table->nkeys;
    }
}

/* Refuses to read a key of fixed length beyond its end. */
static void
check_length(const SyncedTable *table, RowKey key, int len)
{
    if (key.len != len)
        ereport(ERROR, (errcode(ROWSYNC_DAMAGED),
                        errmsg("a row_key of %s has %d bytes instead of %d", table->qualified_name,
                               key.len, len),
                        errhint("SELECT * FROM rowsync.verify() tells what else is wrong.")));
}

/* Appends the key as the "pk" of the protocol: a JSON string, or an array for several columns. */
void
rowkey_append_json(StringInfo out, const SyncedTable *table, RowKey key)
{
    switch (table->key_kind)
    {
        case KEY_UUID:
        {
            pg_uuid_t uuid;

            check_length(table, key, UUID_LEN);
            memcpy(uuid.data, key.data, UUID_LEN);
            value_append_json(out, &table->columns[table->keys[0]].codec, UUIDPGetDatum(&uuid));
            break;
        }
        case KEY_INTEGER:
            check_length(table, key, sizeof(int64));
            appendStringInfo(out, "\"" INT64_FORMAT "\"", unpack_integer(key));
            break;
        case KEY_TEXT:
            json_append_string(out, key.data, key.len);
            break;
        default:
            if (table->nkeys > 1)
                appendBinaryStringInfo(out, key.data, key.len);
            else if (key.len > 2 && key.data[1] == '"')
                appendBinaryStringInfo(out, key.data + 1, key.len - 2);
            else
            {
                /* A lone number or truth value: without the brackets, as a string. */
                appendStringInfoChar(out, '"');
                appendBinaryStringInfo(out, key.data + 1, key.len - 2);
                appendStringInfoChar(out, '"');
            }
    }
}

/* Appends the key as plain text: the pk without quotes and escapes, or the array's JSON. */
void
rowkey_append_text(StringInfo out, const SyncedTable *table, RowKey key)
{
    JsonValue *parts;
    int nparts;

    if (table->key_kind == KEY_UUID)
    {
        int start = out->len;

        rowkey_append_json(out, table, key);
        memmove(out->data + start, out->data + start + 1, out->len - start - 2);
        out->len -= 2;
        out->data[out->len] = '\0';
    }
    else if (table->key_kind == KEY_INTEGER)
    {
        check_length(table, key, sizeof(int64));
        appendStringInfo(out, INT64_FORMAT, unpack_integer(key));
    }
    else if (table->key_kind == KEY_TEXT || table->nkeys > 1)
        appendBinaryStringInfo(out, key.data, key.len);
    else if (request_parse_array(key.data, key.len, &parts, &nparts) && nparts == 1)
        appendBinaryStringInfo(out, parts[0].text, parts[0].len);
}
