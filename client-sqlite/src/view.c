/*
 * view.c - the views of what waits for upload: _sync_pending, as it will be sent, and below it
 * _sync_edited, its keys.
 */
#include "client.h"

/*
 * The rows with marks, and those in the log that will get one: an entry that holds no last content
 * and is not the library's own counts where a column that travels has changed.
 */
const char view_edited[] =
    "CREATE VIEW _sync_edited AS SELECT table_id, pk FROM _sync_dirty UNION ALL"
    " SELECT DISTINCT table_id, pk FROM _sync_log l WHERE pk IS NOT NULL AND (" LOG_COUNTS
    ") AND NOT EXISTS (SELECT 1 FROM _sync_dirty d WHERE d.table_id = l.table_id AND d.pk = l.pk)";

/* One table's part of the view _sync_pending. */
static void
append_pending(Buffer *sql, const Table *table)
{
    const Column *first = &table->columns[table->keys[0]];
    int i, uuids = 0;

    buffer_text(sql, "SELECT ");
    buffer_literal(sql, table->name);
    buffer_text(sql, ", ");
    if (table->key_count == 1 && first->kind == KIND_BLOB)
        sql_blob_text(sql, "hex(e.pk)", true);
    else
        buffer_text(sql, "CAST(e.pk AS TEXT)");
    buffer_text(sql, ", CASE WHEN ");
    sql_field(sql, "t", first->name);
    buffer_text(sql, " IS NULL THEN 'DELETE' WHEN coalesce(d.base_version, v.server_version, 0) = 0"
                     " OR v.deleted THEN 'INSERT' ELSE 'UPDATE' END,"
                     " coalesce(d.base_version, v.server_version, 0),\n  CASE WHEN ");
    sql_field(sql, "t", first->name);
    buffer_text(sql, " IS NOT NULL THEN '{'");
    for (i = 0; i < table->column_count; i++)
    {
        Buffer member = {0};

        buffer_printf(&member, "%s%s", i > 0 ? "," : "", table->columns[i].member);
        buffer_text(sql, " || ");
        buffer_literal(sql, buffer_string(&member));
        buffer_text(sql, " || ");
        sql_json_value(sql, &table->columns[i]);
        sql->failed |= member.failed;
        buffer_free(&member);
    }
    buffer_text(sql, " || '}'\n  ELSE (SELECT '{' || group_concat(json_quote(key) || ':' ||"
                     " CASE WHEN value = 'NULL' THEN 'null' WHEN value IN ('Inf', '9.0e+999')"
                     " THEN '\"Infinity\"' WHEN value IN ('-Inf', '-9.0e+999') THEN '\"-Infinity\"'"
                     " WHEN value LIKE 'X''%' THEN json_quote(CASE WHEN key IN (");
    for (i = 0; i < table->column_count; i++)
        if (table->columns[i].uuid)
        {
            buffer_text(sql, uuids++ > 0 ? ", " : "");
            buffer_literal(sql, table->columns[i].name);
        }
    buffer_text(sql, ") THEN ");
    sql_blob_text(sql, "substr(value, 3, length(value) - 3)", true);
    buffer_text(sql, " ELSE '\\x' || lower(substr(value, 3, length(value) - 3)) END)"
                     " WHEN value LIKE '''%' THEN json_quote(replace(substr(value, 2,"
                     " length(value) - 2), '''''', '''')) ELSE value END, ',') || '}'"
                     " FROM json_each(coalesce(l.old_row, d.old_row))) END\n"
                     "FROM _sync_edited e LEFT JOIN _sync_dirty d USING (table_id, pk)"
                     " LEFT JOIN _sync_version v USING (table_id, pk)\n"
                     "  LEFT JOIN (SELECT pk, max(seq), ");
    sql_literals(sql, table->layout);
    buffer_printf(sql,
                  " AS old_row FROM _sync_log WHERE table_id = %lld AND holds = 1 GROUP BY pk) l"
                  " ON l.pk = e.pk LEFT JOIN ",
                  (long long)table->id);
    buffer_name(sql, table->name);
    buffer_text(sql, " t ON ");
    sql_match(sql, table, "e.pk");
    buffer_printf(sql, " WHERE e.table_id = %lld", (long long)table->id);
}

/* The view of the seed, over what is captured and the rows as they are. */
void
view_write(const rowsync *client, Buffer *sql)
{
    int i, written = 0;

    buffer_text(sql,
                "CREATE VIEW _sync_pending(table_name, pk_uuid, op, base_version, payload) AS\n");
    for (i = 0; i < client->table_count; i++)
        if (client->tables[i].exists)
        {
            buffer_text(sql, written++ > 0 ? "\nUNION ALL " : "");
            append_pending(sql, &client->tables[i]);
        }
    if (written == 0)
        buffer_text(sql, "SELECT NULL, NULL, NULL, NULL, NULL WHERE 0");
}
