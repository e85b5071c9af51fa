/*
 * sides.c - the two sides of a conflict in one form, so that an app can compare them.
 *
 * The form is that of the wire. A value here that means what the server's does is written as the
 * server writes it (`true` for a 1, a uuid for its bytes, JSON in the server's spacing): what
 * differs in writing differs.
 */
#include "client.h"

#include <stdlib.h>
#include <string.h>

#include "listing.h"

/* What a scalar says without its quotes: a string's text, in `text`, or the value as it stands. */
static Slice
bare(Slice value, Buffer *text)
{
    if (!scan_string(value, text))
        return value;
    return (Slice){buffer_string(text), text->length};
}

/* The bytes that a string stands for in a BLOB column. */
static bool
blob_of(Slice text, Buffer *bytes)
{
    unsigned char uuid[16];

    if (!uuid_decode(text, uuid))
        return base64_decode(text, bytes);
    buffer_append(bytes, uuid, sizeof(uuid));
    return !bytes->failed;
}

/* Do two texts stand for the same bytes? */
static bool
same_blob(Slice mine, Slice theirs)
{
    Buffer one = {0}, other = {0};
    bool same = blob_of(mine, &one) && blob_of(theirs, &other) && one.length == other.length &&
                memcmp(buffer_string(&one), buffer_string(&other), one.length) == 0;

    buffer_free(&one);
    buffer_free(&other);
    return same;
}

/* Are they the same double? Both are ended by something that is no part of a number. */
static bool
same_double(Slice mine, Slice theirs)
{
    char *my_end, *their_end;
    double one = strtod(mine.data, &my_end), other = strtod(theirs.data, &their_end);

    return my_end == mine.data + mine.length && their_end == theirs.data + theirs.length &&
           one == other;
}

/* Compares values of which at least one is bare, or both are strings. */
static bool
same_scalar(const Column *column, Slice mine, Slice theirs)
{
    Buffer my_text = {0}, their_text = {0};
    Slice one = bare(mine, &my_text), other = bare(theirs, &their_text);
    bool same, yes;

    if (scan_boolean(theirs, &yes))
        same = slice_is(one, yes ? "1" : "0") || slice_is(one, yes ? "true" : "false");
    else if (column->kind == KIND_BLOB && mine.data[0] == '"' && theirs.data[0] == '"')
        same = same_blob(one, other);
    else if (theirs.data[0] == '{' || theirs.data[0] == '[')
        same = json_same(one, theirs); /* of a column that is not declared JSON */
    else if (mine.data[0] != '"' || theirs.data[0] != '"')
        same = column->kind == KIND_REAL ? same_double(one, other) : json_same(one, other);
    else
        same = slice_same(one, other);
    same = same && !my_text.failed && !their_text.failed;
    buffer_free(&my_text);
    buffer_free(&their_text);
    return same;
}

/* Does a value of the wire form mean in this column what the server's does? */
bool
value_same(const Column *column, Slice mine, Slice theirs)
{
    if (slice_same(mine, theirs))
        return true;
    if (slice_is(mine, "null") || slice_is(theirs, "null"))
        return false;
    return column->kind == KIND_JSON ? json_same(mine, theirs) : same_scalar(column, mine, theirs);
}

/* Appends a value that is not the server's, as the server would write it as far as that shows. */
static void
write_like(Buffer *out, const Column *column, Slice mine, Slice theirs)
{
    Buffer text = {0}, bytes = {0};
    unsigned char uuid[16];
    Slice one = bare(mine, &text);
    bool yes;

    if (scan_boolean(theirs, &yes) && (slice_is(one, "0") || slice_is(one, "1")))
        buffer_text(out, *one.data == '1' ? "true" : "false");
    else if (scan_boolean(theirs, &yes) && scan_boolean(one, &yes))
        buffer_append(out, one.data, one.length);
    else if (column->kind == KIND_BLOB && theirs.length > 2 &&
             uuid_decode((Slice){theirs.data + 1, theirs.length - 2}, uuid) &&
             blob_of(one, &bytes) && bytes.length == sizeof(uuid))
    {
        buffer_byte(out, '"');
        buffer_uuid(out, (const unsigned char *)bytes.data);
        buffer_byte(out, '"');
    }
    else
        buffer_append(out, mine.data, mine.length);
    out->failed |= text.failed || bytes.failed;
    buffer_free(&text);
    buffer_free(&bytes);
}

/* Appends the payload `mine`, written as the server writes `theirs`. */
void
payload_beside(const Table *table, Slice mine, Slice theirs, Buffer *out)
{
    bool first = true;
    int i;

    buffer_byte(out, '{');
    for (i = 0; i < table->column_count; i++)
    {
        const Column *column = &table->columns[i];
        Slice name = {column->member, strlen(column->member) - 1};
        Slice value = scan_member(mine, name), other = scan_member(theirs, name);

        if (value.data == NULL)
            continue;
        buffer_text(out, first ? "" : ",");
        first = false;
        buffer_text(out, column->member);
        if (other.data == NULL)
            buffer_append(out, value.data, value.length);
        else if (value_same(column, value, other))
            buffer_append(out, other.data, other.length);
        else
            write_like(out, column, value, other);
    }
    buffer_byte(out, '}');
}

/* Appends the server's payload with the columns of `mask` as they are in `mine`. */
void
payload_around(const Table *table, Slice theirs, Slice mine, int64_t mask, Buffer *out)
{
    JsonReader reader = scan_reader(theirs);
    size_t start = out->length;
    Slice name, value;
    bool first;
    int i;

    scan_enter(&reader, '{');
    buffer_byte(out, '{');
    for (first = true; scan_next_member(&reader, first, &name, &value); first = false)
    {
        for (i = 0; i < table->column_count; i++)
        {
            const Column *column = &table->columns[i];

            if ((column->mask & mask) != 0 && name.length == strlen(column->member) - 1 &&
                memcmp(name.data, column->member, name.length) == 0)
                value = scan_member(mine, name);
        }
        if (value.data == NULL)
            continue;
        buffer_text(out, out->length > start + 1 ? "," : "");
        buffer_append(out, name.data, name.length);
        buffer_byte(out, ':');
        buffer_append(out, value.data, value.length);
    }
    buffer_byte(out, '}');
}

/*
 * rowsync_beside(client, table, key, server payload): the row here as payload_beside() has it; NULL
 * where it is not there, or holds text that is no UTF-8. Nothing but a client can be the pointer.
 */
static void
sql_beside(sqlite3_context *context, int count, sqlite3_value **values)
{
    rowsync *client = sqlite3_value_pointer(values[0], CLIENT_POINTER);
    const char *name = (const char *)sqlite3_value_text(values[1]);
    const char *pk = (const char *)sqlite3_value_text(values[2]);
    const char *theirs = (const char *)sqlite3_value_text(values[3]);
    Buffer row = {0}, out = {0};
    Table *table = NULL;
    Key key = {0};
    bool there = false;

    (void)count;
    if (client == NULL || name == NULL || pk == NULL)
        return;
    client->code = ROWSYNC_OK;
    if ((client->loaded || tables_load(client) == ROWSYNC_OK) &&
        (table = table_here(client, name)) != NULL && table->exists &&
        key_from_text(table, pk, &key) && row_payload(client, table, &key, &row, &there) && there)
        payload_beside(table, (Slice){row.data, row.length},
                       (Slice){theirs, theirs != NULL ? strlen(theirs) : 0}, &out);
    if (row.failed || out.failed || key.bytes.failed)
        sqlite3_result_error_nomem(context);
    else if (client->code != ROWSYNC_OK)
        sqlite3_result_error(context, rowsync_message(client), -1);
    else if (out.length > 0)
        sqlite3_result_text64(context, out.data, out.length, SQLITE_TRANSIENT, SQLITE_UTF8);
    key_free(&key);
    buffer_free(&row);
    buffer_free(&out);
}

/*
 * Prepares a list's query, or one that has it as a part, on the client's connection; returns
 * SQLite's code. The function stays with the connection, since it cannot be taken back while other
 * statements run; the client comes with the statement.
 */
int
listing_prepare(rowsync *client, const char *sql, sqlite3_stmt **statement)
{
    int at, result = sqlite3_prepare_v2(client->db, sql, -1, statement, NULL);

    if (result == SQLITE_ERROR && strstr(sql, "rowsync_beside(") != NULL)
    {
        result = sqlite3_create_function_v2(client->db, "rowsync_beside", 4,
                                            SQLITE_UTF8 | SQLITE_DIRECTONLY, NULL, sql_beside, NULL,
                                            NULL, NULL);
        if (result == SQLITE_OK)
            result = sqlite3_prepare_v2(client->db, sql, -1, statement, NULL);
    }
    if (result == SQLITE_OK && (at = sqlite3_bind_parameter_index(*statement, ":client")) > 0)
        result = sqlite3_bind_pointer(*statement, at, client, CLIENT_POINTER, NULL);
    return result;
}
