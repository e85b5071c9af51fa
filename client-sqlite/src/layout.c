/*
 * layout.c - follows a change of a table's columns: a migration of the app, or columns that are to
 * stay here from now on.
 *
 * The bits of _sync_dirty.changed count the columns of the layout that was noted when the triggers
 * were made. When it changes, pending marks are put in terms of the new one, and a column that came
 * along is asked of the server for the rows that are there already, which have nothing in it yet.
 * A new row, and an edit that the app has written such a column of as well, is another one than
 * what may have been sent under its change id, and gets a new one; any other edit keeps its own, by
 * which the server knows it again. Had the server taken the row (and the answer was lost), nobody
 * else has moved it since, or the content is the same: it is no conflict with itself. So that it is
 * sent before it meets itself in a snapshot, that comes after the next push.
 */
#include "client.h"

#include <string.h>

/* Appends the columns that travel, as a JSON array. */
static void
write_layout(const Table *table, Buffer *out)
{
    int i;

    buffer_byte(out, '[');
    for (i = 0; i < table->column_count; i++)
    {
        buffer_text(out, i > 0 ? "," : "");
        buffer_append(out, table->columns[i].member, strlen(table->columns[i].member) - 1);
    }
    buffer_byte(out, ']');
}

/* Was the column in this layout? */
static bool
had(const char *layout, const Column *column)
{
    JsonReader reader = scan_reader((Slice){layout, strlen(layout)});
    size_t length = strlen(column->member) - 1;
    Slice element;
    bool first, found = false;

    if (scan_enter(&reader, '['))
        for (first = true; !found && scan_next_element(&reader, first, &element); first = false)
            found = element.length == length && memcmp(element.data, column->member, length) == 0;
    return found;
}

/* The column of a name as layouts have it, if the table still has it. */
static const Column *
column_named(const Table *table, Slice name)
{
    int i;

    for (i = 0; i < table->column_count; i++)
        if (strlen(table->columns[i].member) - 1 == name.length &&
            memcmp(table->columns[i].member, name.data, name.length) == 0)
            return &table->columns[i];
    return NULL;
}

/* Appends the new mask of the columns that `changed` has by the old layout. */
static void
write_old_bits(const Table *table, Buffer *sql)
{
    JsonReader reader = scan_reader((Slice){table->layout, strlen(table->layout)});
    int64_t bit = 1;
    Slice element;
    bool first;

    buffer_byte(sql, '0');
    if (scan_enter(&reader, '['))
        for (first = true; scan_next_element(&reader, first, &element); first = false)
        {
            const Column *column = column_named(table, element);

            if (column != NULL && column->key)
                continue;
            if (column != NULL)
                buffer_printf(sql, " | ((changed & %lld) <> 0) * %lld", (long long)bit,
                              (long long)column->mask);
            if (bit < (int64_t)1 << 62)
                bit <<= 1;
        }
}

/*
 * Appends the mask of the columns that came along and that the app has written to in the row of a
 * mark d, which the old triggers knew nothing of: those that do not have their default. *count is
 * the number of new ones.
 */
static rowsync_code
write_new_bits(rowsync *client, const Table *table, Buffer *sql, int *count)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code =
        rs_prepare(client,
                   "SELECT coalesce(dflt_value, 'NULL') FROM pragma_table_xinfo(?1, 'main')"
                   " WHERE name = ?2",
                   &statement);
    int i;

    *count = 0;
    if (code != ROWSYNC_OK)
        return code;
    buffer_text(sql, "coalesce((SELECT 0");
    for (i = 0; i < table->column_count && client->code == ROWSYNC_OK; i++)
    {
        const Column *column = &table->columns[i];

        if (column->key || had(table->layout, column))
            continue;
        ++*count;
        sqlite3_reset(statement);
        sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
        sqlite3_bind_text(statement, 2, column->name, -1, SQLITE_STATIC);
        buffer_text(sql, " | (");
        sql_field(sql, "t", column->name);
        buffer_printf(sql, " IS NOT (%s)) * %lld",
                      rs_row(client, statement) ? rs_text(statement, 0) : "NULL",
                      (long long)column->mask);
    }
    sqlite3_finalize(statement);
    buffer_text(sql, " FROM main.");
    buffer_name(sql, table->name);
    buffer_text(sql, " t WHERE ");
    sql_match(sql, table, "d.pk");
    buffer_text(sql, "), 0)");
    return client->code;
}

/* Puts the marks of one of the tables that have some in terms of the new layout. */
static void
write_update(const char *marks, const Table *table, const Buffer *mask, Buffer *sql)
{
    buffer_printf(sql, "UPDATE %s AS d SET changed = %s WHERE table_id = %lld AND changed <> -1;",
                  marks, buffer_string(mask), (long long)table->id);
}

/*
 * Notes the columns that the table has now, and sees to what depends on them. Inside a transaction,
 * with the log folded, for what it holds is in terms of the old ones.
 */
rowsync_code
layout_follow(rowsync *client, Table *table)
{
    Buffer layout = {0}, mask = {0}, written = {0}, sql = {0};
    rowsync_code code = ROWSYNC_OK;
    int added = 0, i;
    bool same_key = true;

    write_layout(table, &layout);
    if (!layout.failed && strcmp(layout.data, table->layout) == 0)
    {
        buffer_free(&layout);
        return ROWSYNC_OK;
    }
    if (*table->layout != '\0')
    {
        for (i = 0; i < table->key_count; i++)
            same_key &= had(table->layout, &table->columns[table->keys[i]]);
        write_old_bits(table, &mask);
        write_update("main._sync_held", table, &mask, &sql);
        code = write_new_bits(client, table, &written, &added);
        buffer_printf(&mask, " | %s", buffer_string(&written));
        if (!same_key) /* nothing is as it was */
        {
            buffer_clear(&mask);
            buffer_text(&mask, "-1");
        }
        write_update("main._sync_dirty", table, &mask, &sql);
        write_update("main._sync_rejected", table, &mask, &sql);
        if (added > 0)
            buffer_printf(
                &sql,
                "INSERT INTO main._sync_log (table_id, pk, holds, changed) SELECT table_id, pk,"
                " 3, 0 FROM main._sync_dirty d WHERE table_id = %lld AND (changed = -1 OR %s <> 0);"
                "UPDATE main._sync_client_info SET hydrated = 3 WHERE hydrated = 2 AND"
                " EXISTS (SELECT 1 FROM main._sync_version WHERE table_id = %lld);",
                (long long)table->id, buffer_string(&written), (long long)table->id);
    }
    buffer_printf(&sql, "UPDATE main._sync_table SET refill = refill | %d, layout = ",
                  added > 0 ? REFILL_COLUMNS : 0);
    buffer_literal(&sql, buffer_string(&layout));
    buffer_printf(&sql, " WHERE table_id = %lld", (long long)table->id);
    if (code == ROWSYNC_OK)
        code = sql.failed || mask.failed || written.failed || layout.failed
                   ? rs_nomem(client)
                   : rs_exec(client, sql.data);
    if (code == ROWSYNC_OK && added > 0)
        code = rs_load_info(client);
    if (code == ROWSYNC_OK)
    {
        table->refill |= added > 0 ? REFILL_COLUMNS : 0;
        rs_free(table->layout);
        table->layout = layout.data;
        layout = (Buffer){0};
    }
    buffer_free(&layout);
    buffer_free(&mask);
    buffer_free(&written);
    buffer_free(&sql);
    return code;
}
