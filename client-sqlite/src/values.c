/*
 * values.c - keys and column values, between SQLite and the wire.
 *
 * Nothing may change by a round trip: doubles travel with as many digits as they need, BLOBs as
 * base64, a uuid in a BLOB in its canonical form. What comes back is stored by the column's
 * declared type, since JSON says less than SQLite knows.
 */
#include "client.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void
key_free(Key *key)
{
    buffer_free(&key->bytes);
    key->type = 0;
}

/* Takes a key from a result column. */
rowsync_code
key_column(rowsync *client, sqlite3_stmt *statement, int column, Key *key)
{
    key->type = sqlite3_column_type(statement, column);
    buffer_clear(&key->bytes);
    if (key->type == SQLITE_INTEGER)
        key->integer = sqlite3_column_int64(statement, column);
    else if (key->type == SQLITE_FLOAT)
        key->real = sqlite3_column_double(statement, column);
    else
    {
        const void *data = key->type == SQLITE_BLOB
                               ? sqlite3_column_blob(statement, column)
                               : (const void *)sqlite3_column_text(statement, column);

        if (data != NULL)
            buffer_append(&key->bytes, data, (size_t)sqlite3_column_bytes(statement, column));
        else if (key->type == SQLITE_TEXT)
            return rs_nomem(client);
    }
    return key->bytes.failed ? rs_nomem(client) : ROWSYNC_OK;
}

void
rows_free(RowList *list)
{
    int i;

    for (i = 0; i < list->capacity; i++)
        key_free(&list->rows[i].key);
    rs_free(list->rows);
    *list = (RowList){0};
}

/*
 * Reads a query of table ids and keys to its end and resets it. Rows of tables that are not there
 * are left out. The list's memory is used again; rows_free() frees it.
 */
rowsync_code
rows_read(rowsync *client, sqlite3_stmt *statement, RowList *out)
{
    out->count = 0;
    while (client->code == ROWSYNC_OK && rs_row(client, statement))
    {
        Table *table = table_by_id(client, sqlite3_column_int64(statement, 0));

        if (table == NULL || !table->exists)
            continue;
        if (out->count == out->capacity)
        {
            int more = out->capacity > 0 ? out->capacity * 2 : 16;
            RowName *grown = rs_realloc(out->rows, (size_t)more * sizeof(*grown));

            if (grown == NULL)
            {
                rs_nomem(client);
                break;
            }
            memset(grown + out->capacity, 0, (size_t)(more - out->capacity) * sizeof(*grown));
            out->rows = grown;
            out->capacity = more;
        }
        out->rows[out->count].table = table;
        if (key_column(client, statement, 1, &out->rows[out->count].key) == ROWSYNC_OK)
            out->count++;
    }
    return rs_reset(client, statement);
}

/* Binds a key as _sync_dirty and the others have it. The key must outlive the binding. */
int
key_bind(sqlite3_stmt *statement, int at, const Key *key)
{
    if (key->type == SQLITE_INTEGER)
        return sqlite3_bind_int64(statement, at, key->integer);
    if (key->type == SQLITE_FLOAT)
        return sqlite3_bind_double(statement, at, key->real);
    if (key->type == SQLITE_BLOB)
        return sqlite3_bind_blob64(statement, at, buffer_string(&key->bytes), key->bytes.length,
                                   SQLITE_STATIC);
    return sqlite3_bind_text64(statement, at, buffer_string(&key->bytes), key->bytes.length,
                               SQLITE_STATIC, SQLITE_UTF8);
}

/* Binds the key columns of a table from `at` on. */
int
key_bind_columns(const Table *table, sqlite3_stmt *statement, int at, const Key *key)
{
    JsonReader reader;
    Buffer scratch = {0};
    Slice element;
    int i, result = SQLITE_OK;

    if (table->key_count == 1)
        return key_bind(statement, at, key);
    reader = scan_reader((Slice){buffer_string(&key->bytes), key->bytes.length});
    reader.any_bytes = true;
    scan_enter(&reader, '[');
    for (i = 0; i < table->key_count && result == SQLITE_OK; i++)
        result =
            scan_next_element(&reader, i == 0, &element)
                ? value_bind(statement, at + i, &table->columns[table->keys[i]], element, &scratch)
                : SQLITE_ERROR;
    buffer_free(&scratch);
    return result;
}

/* One element of a composite key, written as the trigger writes it. */
static bool
append_key_element(Buffer *out, const Column *column, Slice element, Buffer *scratch)
{
    int64_t number;

    buffer_clear(scratch);
    if (column->kind == KIND_INTEGER)
    {
        if (element.data[0] == '"')
        {
            if (!scan_string(element, scratch) ||
                !scan_int64((Slice){buffer_string(scratch), scratch->length}, &number))
                return false;
        }
        else if (!scan_int64(element, &number))
            return false;
        buffer_int(out, number);
        return true;
    }
    return scan_string(element, scratch) &&
           buffer_json_text(out, buffer_string(scratch), scratch->length);
}

/* Reads an array of key elements into the form of _sync_dirty.pk. */
static bool
composite_from_wire(const Table *table, Slice array, Key *key)
{
    JsonReader reader = scan_reader(array);
    Buffer scratch = {0};
    Slice element;
    bool right = scan_enter(&reader, '[');
    int i;

    key->type = SQLITE_TEXT;
    buffer_byte(&key->bytes, '[');
    for (i = 0; right && i < table->key_count; i++)
    {
        if (i > 0)
            buffer_byte(&key->bytes, ',');
        right = scan_next_element(&reader, i == 0, &element) &&
                append_key_element(&key->bytes, &table->columns[table->keys[i]], element, &scratch);
    }
    right = right && !scan_next_element(&reader, false, &element) && scan_finish(&reader);
    buffer_byte(&key->bytes, ']');
    key->bytes.failed |= scratch.failed;
    buffer_free(&scratch);
    return right && !key->bytes.failed;
}

/* Reads a key that is no number on the wire, or any key in its readable form. */
static bool
key_from_slice(const Table *table, Slice text, Key *key)
{
    unsigned char bytes[16];

    buffer_clear(&key->bytes);
    if (!table->exists)
        return false;
    if (table->key_count > 1)
        return composite_from_wire(table, text, key);
    switch (table->columns[table->keys[0]].kind)
    {
        case KIND_INTEGER:
            key->type = SQLITE_INTEGER;
            return scan_int64(text, &key->integer);
        case KIND_BLOB:
            key->type = SQLITE_BLOB;
            if (!uuid_decode(text, bytes))
                return base64_decode(text, &key->bytes);
            buffer_append(&key->bytes, bytes, 16);
            return !key->bytes.failed;
        default:
            key->type = SQLITE_TEXT;
            buffer_append(&key->bytes, text.data, text.length);
            return !key->bytes.failed;
    }
}

/* Reads a key in its readable form (see key_to_text). */
bool
key_from_text(const Table *table, const char *text, Key *key)
{
    return key_from_slice(table, (Slice){text, strlen(text)}, key);
}

/* Reads the `pk` of a change. False with key->bytes.failed set means out of memory. */
bool
key_from_wire(const Table *table, Slice pk, Key *key)
{
    Buffer text = {0};
    bool right;

    buffer_clear(&key->bytes);
    if (pk.data == NULL)
        return false;
    if (pk.data[0] == '[' && table->key_count > 1)
        return composite_from_wire(table, pk, key);
    if (pk.data[0] != '"')
    {
        key->type = SQLITE_INTEGER;
        return table->key_count == 1 && table->columns[table->keys[0]].kind == KIND_INTEGER &&
               scan_int64(pk, &key->integer);
    }
    if (memchr(pk.data, '\\', pk.length) == NULL)
        return key_from_slice(table, (Slice){pk.data + 1, pk.length - 2}, key);
    right = scan_string(pk, &text) && memchr(text.data, '\0', text.length) == NULL &&
            key_from_slice(table, (Slice){text.data, text.length}, key);
    key->bytes.failed |= text.failed;
    buffer_free(&text);
    return right;
}

/*
 * The key readable: text, what cannot be shown of it as U+FFFD, a number, a uuid, or the JSON array
 * of several columns.
 */
void
key_to_text(Buffer *out, const Table *table, const Key *key)
{
    (void)table;
    if (key->type == SQLITE_INTEGER)
        buffer_int(out, key->integer);
    else if (key->type == SQLITE_FLOAT)
        buffer_json_double(out, key->real);
    else if (key->type == SQLITE_BLOB && key->bytes.length == 16)
        buffer_uuid(out, (const unsigned char *)key->bytes.data);
    else if (key->type == SQLITE_BLOB)
        buffer_base64(out, (const unsigned char *)buffer_string(&key->bytes), key->bytes.length);
    else
        buffer_utf8(out, buffer_string(&key->bytes), key->bytes.length);
}

/* Is the text one JSON value? */
static bool
is_json(const char *text, size_t length)
{
    JsonReader reader = scan_reader((Slice){text, length});
    Slice value;

    return scan_value(&reader, &value) && scan_finish(&reader);
}

/*
 * The key as a JSON value; false where no server can have it: text that is not UTF-8, or a BLOB in
 * a column declared TEXT, which would come back as text.
 */
bool
key_to_wire(Buffer *out, const Table *table, const Key *key)
{
    if (key->type == SQLITE_TEXT && table->key_count > 1)
    {
        key_to_text(out, table, key);
        return is_json(buffer_string(&key->bytes), key->bytes.length);
    }
    if (key->type == SQLITE_TEXT)
        return buffer_json_text(out, buffer_string(&key->bytes), key->bytes.length);
    buffer_byte(out, '"');
    key_to_text(out, table, key);
    buffer_byte(out, '"');
    return key->type != SQLITE_BLOB || table->columns[table->keys[0]].kind == KIND_BLOB;
}

/* A BLOB as a JSON string. */
static void
write_blob(Buffer *out, const Column *column, const unsigned char *data, size_t length)
{
    buffer_byte(out, '"');
    if (column->uuid && length == 16)
        buffer_uuid(out, data);
    else
        buffer_base64(out, data, length);
    buffer_byte(out, '"');
}

/* A column of a row as a JSON value; false where it holds text that is no UTF-8. */
bool
value_write(Buffer *out, const Column *column, sqlite3_stmt *row, int at)
{
    const char *text;
    size_t length;

    switch (sqlite3_column_type(row, at))
    {
        case SQLITE_INTEGER:
            buffer_int(out, sqlite3_column_int64(row, at));
            return true;
        case SQLITE_FLOAT:
            buffer_json_double(out, sqlite3_column_double(row, at));
            return true;
        case SQLITE_NULL:
            buffer_text(out, "null");
            return true;
        case SQLITE_BLOB:
            text = sqlite3_column_blob(row, at);
            write_blob(out, column, (const unsigned char *)(text != NULL ? text : ""),
                       (size_t)sqlite3_column_bytes(row, at));
            return true;
        default:
            text = (const char *)sqlite3_column_text(row, at);
            length = (size_t)sqlite3_column_bytes(row, at);
            if (text == NULL)
            {
                out->failed = true;
                return true;
            }
            if (column->kind == KIND_JSON && is_json(text, length))
            {
                buffer_append(out, text, length);
                return true;
            }
            return buffer_json_text(out, text, length);
    }
}

/* The number that two hex digits stand for. */
static unsigned char
hex_byte(const char *text)
{
    char digits[3] = {text[0], text[1], '\0'};

    return (unsigned char)strtoul(digits, NULL, 16);
}

/*
 * An SQL literal as quote() writes it, as a JSON value; false for what is none or no UTF-8.
 * Infinity is Inf in old versions of SQLite and 9.0e+999 in new ones.
 */
bool
literal_write(Buffer *out, const Column *column, Slice literal)
{
    Buffer bytes = {0};
    bool right = true;
    size_t i;

    if (literal.length == 0)
        return false;
    if (literal.data[0] == '\'')
    {
        for (i = 1; i + 1 < literal.length; i++)
        {
            buffer_byte(&bytes, literal.data[i]);
            if (literal.data[i] == '\'')
                i++;
        }
        if (column->kind == KIND_JSON && is_json(buffer_string(&bytes), bytes.length))
            buffer_append(out, bytes.data, bytes.length);
        else
            right = buffer_json_text(out, buffer_string(&bytes), bytes.length);
    }
    else if (literal.data[0] == 'X' && literal.length >= 3)
    {
        for (i = 2; i + 2 < literal.length; i += 2)
            buffer_byte(&bytes, (char)hex_byte(literal.data + i));
        write_blob(out, column, (const unsigned char *)buffer_string(&bytes), bytes.length);
    }
    else if (slice_is(literal, "NULL"))
        buffer_text(out, "null");
    else if (memchr(literal.data, 'I', literal.length) != NULL ||
             memchr(literal.data, '.', literal.length) != NULL)
    {
        buffer_append(&bytes, literal.data, literal.length);
        buffer_json_double(out, strtod(buffer_string(&bytes), NULL));
    }
    else
        buffer_append(out, literal.data, literal.length);
    out->failed |= bytes.failed;
    buffer_free(&bytes);
    return right;
}

/* Binds a number by the column's type. */
static int
bind_number(sqlite3_stmt *statement, int at, const Column *column, Slice value, Buffer *scratch)
{
    int64_t number;

    if (column->kind == KIND_TEXT || column->kind == KIND_JSON)
        return sqlite3_bind_text64(statement, at, value.data, value.length, SQLITE_STATIC,
                                   SQLITE_UTF8);
    if (scan_int64(value, &number) && column->kind != KIND_REAL)
        return sqlite3_bind_int64(statement, at, number);
    buffer_clear(scratch);
    buffer_append(scratch, value.data, value.length);
    return sqlite3_bind_double(statement, at, strtod(buffer_string(scratch), NULL));
}

/* Binds decoded text by the column's type; the bytes are copied. */
static int
bind_text(sqlite3_stmt *statement, int at, const Column *column, Slice text)
{
    unsigned char uuid[16];
    Buffer bytes = {0};
    int result;

    if (column->kind == KIND_BLOB)
    {
        if (uuid_decode(text, uuid))
            return sqlite3_bind_blob64(statement, at, uuid, 16, SQLITE_TRANSIENT);
        if (base64_decode(text, &bytes))
        {
            result = sqlite3_bind_blob64(statement, at, buffer_string(&bytes), bytes.length,
                                         SQLITE_TRANSIENT);
            buffer_free(&bytes);
            return result;
        }
        buffer_free(&bytes);
    }
    if (column->kind == KIND_REAL && slice_is(text, "Infinity"))
        return sqlite3_bind_double(statement, at, INFINITY);
    if (column->kind == KIND_REAL && slice_is(text, "-Infinity"))
        return sqlite3_bind_double(statement, at, -INFINITY);
    return sqlite3_bind_text64(statement, at, text.data, text.length, SQLITE_TRANSIENT,
                               SQLITE_UTF8);
}

/*
 * Binds a JSON value as the column stores it. Text without escapes is bound where it lies: the
 * answer that it is part of must outlive the statement's run.
 */
int
value_bind(sqlite3_stmt *statement, int at, const Column *column, Slice value, Buffer *scratch)
{
    switch (value.data[0])
    {
        case 'n':
            return sqlite3_bind_null(statement, at);
        case '{':
        case '[':
            return sqlite3_bind_text64(statement, at, value.data, value.length, SQLITE_STATIC,
                                       SQLITE_UTF8);
        case '"':
            break;
        case 't':
        case 'f':
            if (column->kind != KIND_JSON && column->kind != KIND_TEXT)
                return sqlite3_bind_int(statement, at, value.data[0] == 't');
            return sqlite3_bind_text64(statement, at, value.data, value.length, SQLITE_STATIC,
                                       SQLITE_UTF8);
        default:
            return bind_number(statement, at, column, value, scratch);
    }
    if (column->kind == KIND_JSON)
        return sqlite3_bind_text64(statement, at, value.data, value.length, SQLITE_STATIC,
                                   SQLITE_UTF8);
    if (memchr(value.data, '\\', value.length) == NULL)
    {
        if (column->kind == KIND_TEXT)
            return sqlite3_bind_text64(statement, at, value.data + 1, value.length - 2,
                                       SQLITE_STATIC, SQLITE_UTF8);
        return bind_text(statement, at, column, (Slice){value.data + 1, value.length - 2});
    }
    buffer_clear(scratch);
    if (!scan_string(value, scratch))
        return SQLITE_NOMEM;
    return bind_text(statement, at, column, (Slice){buffer_string(scratch), scratch->length});
}
