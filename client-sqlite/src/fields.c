/*
 * fields.c - SQL expressions about the fields of a tracked table's rows, which triggers, views and
 * sweeps are made of.
 */
#include "client.h"

#include <string.h>

/* More arguments than this SQLite does not take in one function call (127 in old versions). */
#define OBJECT_MEMBERS 60

/* NEW."column" or OLD."column" or another alias. */
void
sql_field(Buffer *sql, const char *alias, const char *column)
{
    buffer_text(sql, alias);
    buffer_byte(sql, '.');
    buffer_name(sql, column);
}

/* "a" = ?1 AND "b" = ?2 … for the key columns, from the parameter `first` on. */
void
sql_row_is(Buffer *sql, const Table *table, const char *alias, int first)
{
    int i;

    for (i = 0; i < table->key_count; i++)
    {
        buffer_text(sql, i > 0 ? " AND " : "");
        buffer_text(sql, alias);
        buffer_name(sql, table->columns[table->keys[i]].name);
        buffer_printf(sql, " = ?%d", first + i);
    }
}

/* An expression for a BLOB as text: a uuid's canonical form where it may be one, else \x and hex.
 */
void
sql_blob_text(Buffer *sql, const char *hex, bool uuid)
{
    if (uuid)
        buffer_printf(
            sql,
            "CASE length(%s) WHEN 32 THEN lower(substr(%s, 1, 8) || '-' || substr(%s, 9, 4)"
            " || '-' || substr(%s, 13, 4) || '-' || substr(%s, 17, 4) || '-' ||"
            " substr(%s, 21)) ELSE '\\x' || lower(%s) END",
            hex, hex, hex, hex, hex, hex, hex);
    else
        buffer_printf(sql, "'\\x' || lower(%s)", hex);
}

/*
 * The expression that makes _sync_dirty.pk of a row: the key column itself, or for several a JSON
 * array, which is also what travels. Key columns are never REAL, so that JSON holds them exactly.
 */
void
sql_key(Buffer *sql, const Table *table, const char *alias)
{
    Buffer hex = {0};
    int i;

    if (table->key_count == 1)
    {
        sql_field(sql, alias, table->columns[table->keys[0]].name);
        return;
    }
    buffer_text(sql, "json_array(");
    for (i = 0; i < table->key_count; i++)
    {
        const Column *column = &table->columns[table->keys[i]];

        buffer_text(sql, i > 0 ? ", " : "");
        if (column->kind == KIND_BLOB)
        {
            buffer_clear(&hex);
            buffer_text(&hex, "hex(");
            sql_field(&hex, alias, column->name);
            buffer_text(&hex, ")");
            sql_blob_text(sql, buffer_string(&hex), true);
        }
        else
            sql_field(sql, alias, column->name);
    }
    buffer_text(sql, ")");
    sql->failed |= hex.failed;
    buffer_free(&hex);
}

/*
 * The fields that an entry of the log holds as an object of SQL literals: {"name": "'text'", …}.
 * Their names are those of the layout, the JSON array that was noted when the triggers were made.
 */
void
sql_literals(Buffer *sql, const char *layout)
{
    JsonReader reader = scan_reader((Slice){layout, strlen(layout)});
    Buffer name = {0}, object = {0};
    Slice element;
    int i = 0;

    buffer_text(&object, "json_object(");
    if (scan_enter(&reader, '['))
        for (i = 0; scan_next_element(&reader, i == 0, &element); i++)
        {
            if (i > 0 && i % OBJECT_MEMBERS == 0)
            {
                buffer_text(sql, "json_patch(");
                buffer_text(&object, i > OBJECT_MEMBERS ? ")), json_object(" : "), json_object(");
            }
            else
                buffer_text(&object, i > 0 ? ", " : "");
            buffer_clear(&name);
            if (!scan_string(element, &name))
                object.failed = true;
            buffer_literal(&object, buffer_string(&name));
            buffer_printf(&object, ", quote(v%d)", i);
        }
    buffer_text(&object, i > OBJECT_MEMBERS ? "))" : ")");
    buffer_append(sql, object.data, object.length);
    sql->failed |= object.failed;
    buffer_free(&name);
    buffer_free(&object);
}

/* The value of t."column" as JSON text, exact for every type. */
void
sql_json_value(Buffer *sql, const Column *column)
{
    Buffer field = {0}, hex = {0};

    sql_field(&field, "t", column->name);
    buffer_printf(&hex, "hex(%s)", buffer_string(&field));
    buffer_printf(sql, "CASE typeof(%s) WHEN 'blob' THEN json_quote(", buffer_string(&field));
    sql_blob_text(sql, buffer_string(&hex), column->uuid);
    buffer_printf(sql,
                  ") WHEN 'real' THEN CASE WHEN abs(%s) <= 1.7976931348623157e308 THEN quote(%s)"
                  " WHEN %s > 0 THEN '\"Infinity\"' ELSE '\"-Infinity\"' END"
                  " ELSE json_quote(%s) END",
                  buffer_string(&field), buffer_string(&field), buffer_string(&field),
                  buffer_string(&field));
    sql->failed |= field.failed || hex.failed;
    buffer_free(&field);
    buffer_free(&hex);
}

/* t."a" = key, or for several columns each with its element of the array; `key` is an expression.
 */
void
sql_match(Buffer *sql, const Table *table, const char *key)
{
    int i;

    for (i = 0; i < table->key_count; i++)
    {
        const Column *column = &table->columns[table->keys[i]];

        buffer_text(sql, i > 0 ? " AND " : "");
        if (table->key_count > 1 && column->kind == KIND_BLOB)
        {
            buffer_text(sql, "lower(hex(");
            sql_field(sql, "t", column->name);
            buffer_printf(sql,
                          ")) = replace(replace(json_extract(%s, '$[%d]'), '-', ''),"
                          " '\\x', '')",
                          key, i);
            continue;
        }
        sql_field(sql, "t", column->name);
        if (table->key_count > 1)
            buffer_printf(sql, " = json_extract(%s, '$[%d]')", key, i);
        else
            buffer_printf(sql, " = %s", key);
    }
}
