/*
 * tables.c - which tables are tracked, what they look like, and the statements about their rows.
 */
#include "client.h"

#include <string.h>
#include <strings.h>

/* Frees what a table owns, except the struct itself. */
static void
table_free(Table *table)
{
    int i;

    for (i = 0; i < table->column_count; i++)
    {
        rs_free(table->columns[i].name);
        rs_free(table->columns[i].member);
    }
    for (i = 0; i < TABLE_STATEMENTS; i++)
        sqlite3_finalize(table->statements[i]);
    sqlite3_finalize(table->upsert);
    sqlite3_finalize(table->update);
    rs_free(table->shape);
    rs_free(table->shape_names);
    buffer_free(&table->shape_text);
    rs_free(table->columns);
    rs_free(table->keys);
    rs_free(table->name);
    rs_free(table->schema);
    rs_free(table->local);
    for (i = 0; i < table->local_count; i++)
        rs_free(table->locals[i]);
    rs_free(table->locals);
    rs_free(table->layout);
    buffer_free(&table->head);
}

void
tables_free(rowsync *client)
{
    int i;

    for (i = 0; i < client->table_count; i++)
        table_free(&client->tables[i]);
    rs_free(client->tables);
    client->tables = NULL;
    client->table_count = 0;
    client->loaded = false;
}

/* Does a declared type contain this word, in any case? SQLite's own rule for affinity. */
static bool
type_has(const char *type, const char *word)
{
    size_t length = strlen(word);

    for (; *type != '\0'; type++)
        if (strncasecmp(type, word, length) == 0)
            return true;
    return false;
}

/* The kind of a declared type: https://www.sqlite.org/datatype3.html section 3.1, and JSON. */
static ColumnKind
kind_of(const char *type, bool *untyped)
{
    *untyped = false;
    if (type_has(type, "JSON"))
        return KIND_JSON;
    if (type_has(type, "INT"))
        return KIND_INTEGER;
    if (type_has(type, "CHAR") || type_has(type, "CLOB") || type_has(type, "TEXT"))
        return KIND_TEXT;
    if (type_has(type, "BLOB"))
    {
        *untyped = true;
        return KIND_BLOB;
    }
    if (type_has(type, "REAL") || type_has(type, "FLOA") || type_has(type, "DOUB"))
        return KIND_REAL;
    *untyped = true;
    return KIND_ANY;
}

/* Is the name an element of a JSON array of strings? False with the error remembered as well. */
static bool
has_column_of(rowsync *client, const char *json_array, const char *name)
{
    JsonReader reader = scan_reader((Slice){json_array, strlen(json_array)});
    Buffer text = {0};
    bool first, found = false;
    Slice element;

    if (scan_enter(&reader, '['))
        for (first = true; !found && scan_next_element(&reader, first, &element); first = false)
        {
            buffer_clear(&text);
            found = scan_string(element, &text) && strcasecmp(buffer_string(&text), name) == 0;
            if (text.failed)
                rs_nomem(client);
        }
    buffer_free(&text);
    return found;
}

/* Adds a column that stays on the device. */
static bool
add_local(Table *table, const char *name)
{
    char **grown =
        rs_realloc(table->locals, (size_t)(table->local_count + 1) * sizeof(*table->locals));

    if (grown == NULL)
        return false;
    table->locals = grown;
    if ((grown[table->local_count] = rs_copy(name)) == NULL)
        return false;
    table->local_count++;
    return true;
}

/* Reads the columns and the key of a table. A table that is gone has no columns. */
static rowsync_code
load_columns(rowsync *client, Table *table)
{
    sqlite3_stmt *statement = NULL;
    Column *column;
    int64_t bit = 1;
    int i, key[64], keys = 0;
    rowsync_code code = rs_prepare(client,
                                   "SELECT name, type, pk, \"notnull\" FROM"
                                   " pragma_table_xinfo(?1, 'main')"
                                   " WHERE hidden = 0 ORDER BY cid",
                                   &statement);

    if (code != ROWSYNC_OK)
        return code;
    sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
    memset(key, -1, sizeof(key));
    while (rs_row(client, statement))
    {
        const char *name = rs_text(statement, 0);
        const char *type = rs_text(statement, 1);
        int position = sqlite3_column_int(statement, 2);
        Buffer member = {0};
        Column *grown;

        if (position == 0 && has_column_of(client, table->local, name))
        {
            if (!add_local(table, name))
                goto nomem;
            continue;
        }
        if (client->code != ROWSYNC_OK)
            break;
        grown = rs_realloc(table->columns, (size_t)(table->column_count + 1) * sizeof(*grown));
        if (grown == NULL)
            goto nomem;
        table->columns = grown;
        column = &grown[table->column_count++];
        memset(column, 0, sizeof(*column));
        column->name = rs_copy(name);
        column->kind = kind_of(type, &column->untyped);
        column->key = position > 0;
        column->required = sqlite3_column_int(statement, 3) != 0;
        column->uuid = column->key && column->kind == KIND_BLOB;
        /* Columns beyond the 63rd share the last bit: they travel together. */
        column->mask = column->key ? 0 : bit;
        if (!column->key && bit < (int64_t)1 << 62)
            bit <<= 1;
        buffer_json_text(&member, name, strlen(name));
        buffer_byte(&member, ':');
        column->member = member.data;
        if (column->name == NULL || member.failed)
            goto nomem;
        if (position > 0 && position <= 64)
        {
            key[position - 1] = table->column_count - 1;
            keys++;
        }
    }
    sqlite3_finalize(statement);
    if (client->code != ROWSYNC_OK)
        return client->code;
    table->keys = rs_realloc(NULL, (size_t)(keys + 1) * sizeof(*table->keys));
    if (table->keys == NULL)
        return rs_nomem(client);
    for (i = 0; i < keys; i++)
        table->keys[i] = key[i];
    table->key_count = keys;
    table->exists = keys > 0;
    return ROWSYNC_OK;
nomem:
    sqlite3_finalize(statement);
    return rs_nomem(client);
}

/* A BLOB column that refers to a BLOB key holds a uuid. */
static rowsync_code
load_references(rowsync *client, Table *table)
{
    sqlite3_stmt *statement = NULL;
    int i;
    rowsync_code code = rs_prepare(
        client,
        "SELECT f.\"from\" FROM pragma_foreign_key_list(?1, 'main') f"
        " JOIN pragma_table_xinfo(f.\"table\", 'main') p"
        " ON p.name = coalesce(f.\"to\", (SELECT name FROM pragma_table_xinfo(f.\"table\", 'main')"
        " WHERE pk = f.seq + 1)) COLLATE NOCASE WHERE p.pk > 0 AND p.type LIKE '%BLOB%'",
        &statement);

    if (code != ROWSYNC_OK)
        return code;
    sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
    while (rs_row(client, statement))
        for (i = 0; i < table->column_count; i++)
            if (table->columns[i].kind == KIND_BLOB &&
                strcasecmp(table->columns[i].name, rs_text(statement, 0)) == 0)
                table->columns[i].uuid = true;
    sqlite3_finalize(statement);
    return client->code;
}

/* Writes table->head, and finds the names in it. */
static void
write_head(Table *table, const char *schema, const char *name)
{
    static const char before_schema[] = ",\"schema\":", before_name[] = ",\"table\":";
    size_t schema_at = sizeof(before_schema) - 1, schema_end, name_at, name_end;

    buffer_text(&table->head, before_schema);
    buffer_json_text(&table->head, schema, strlen(schema));
    schema_end = table->head.length;
    buffer_text(&table->head, before_name);
    name_at = table->head.length;
    buffer_json_text(&table->head, name, strlen(name));
    name_end = table->head.length;
    buffer_text(&table->head, ",\"op\":\"");
    if (table->head.failed)
        return;
    table->schema_json = (Slice){table->head.data + schema_at, schema_end - schema_at};
    table->name_json = (Slice){table->head.data + name_at, name_end - name_at};
}

/* Appends what is tracked, and the definitions of those tables, as text to be compared. */
rowsync_code
tables_describe(rowsync *client, Buffer *out)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code = rs_prepare(
        client,
        "SELECT table_id || ' ' || policy || ' ' || quote(table_name) || quote(schema_name) ||"
        " quote(local_columns) FROM main._sync_table UNION ALL SELECT quote(name) || sql FROM"
        " main.sqlite_schema WHERE type IN ('table', 'view') AND name IN (SELECT table_name FROM"
        " main._sync_table)",
        &statement);

    if (code != ROWSYNC_OK)
        return code;
    while (rs_row(client, statement))
    {
        buffer_text(out, rs_text(statement, 0));
        buffer_byte(out, '\n');
    }
    sqlite3_finalize(statement);
    return out->failed ? rs_nomem(client) : client->code;
}

/* Reads _sync_table and what each tracked table looks like now. */
rowsync_code
tables_load(rowsync *client)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code;

    tables_free(client);
    buffer_clear(&client->described);
    if (tables_describe(client, &client->described) != ROWSYNC_OK)
        return client->code;
    code = rs_prepare(client,
                      "SELECT table_id, table_name, schema_name, policy, local_columns, layout,"
                      " (SELECT sql LIKE '%conflict%' FROM main.sqlite_schema WHERE type = 'table'"
                      " AND name = table_name), refill FROM main._sync_table ORDER BY table_id",
                      &statement);
    if (code != ROWSYNC_OK)
        return code;
    while (code == ROWSYNC_OK && rs_row(client, statement))
    {
        Table *table,
            *grown = rs_realloc(client->tables, (size_t)(client->table_count + 1) * sizeof(*grown));

        if (grown == NULL)
        {
            code = rs_nomem(client);
            break;
        }
        client->tables = grown;
        table = &grown[client->table_count++];
        memset(table, 0, sizeof(*table));
        table->id = sqlite3_column_int64(statement, 0);
        table->name = rs_copy(rs_text(statement, 1));
        table->schema = rs_copy(rs_text(statement, 2));
        table->policy = (rowsync_policy)sqlite3_column_int(statement, 3);
        table->local = rs_copy(rs_text(statement, 4));
        table->layout = rs_copy(rs_text(statement, 5));
        table->own_conflict_clause = sqlite3_column_int(statement, 6) != 0;
        table->refill = sqlite3_column_int(statement, 7);
        write_head(table, rs_text(statement, 2), rs_text(statement, 1));
        if (table->head.failed || table->name == NULL || table->schema == NULL ||
            table->local == NULL || table->layout == NULL)
            code = rs_nomem(client);
        else if ((code = load_columns(client, table)) == ROWSYNC_OK)
            code = load_references(client, table);
    }
    sqlite3_finalize(statement);
    code = client->code;
    if (code != ROWSYNC_OK)
        tables_free(client);
    client->loaded = code == ROWSYNC_OK;
    return code;
}

/* Reads anew what a hydration is to see to: another process may have noted it. */
rowsync_code
tables_refill(rowsync *client)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code =
        rs_prepare(client, "SELECT table_id, refill FROM main._sync_table", &statement);

    while (code == ROWSYNC_OK && rs_row(client, statement))
    {
        Table *table = table_by_id(client, sqlite3_column_int64(statement, 0));

        if (table != NULL)
            table->refill = sqlite3_column_int(statement, 1);
    }
    sqlite3_finalize(statement);
    return client->code;
}

/*
 * Has the rows of the table written again by the snapshot that comes after the next push, also
 * those whose version is known. Reading by the log begins anew for that.
 */
rowsync_code
table_fetch_again(rowsync *client, const Table *table)
{
    sqlite3_stmt *statement;

    if (rs_exec(client, "UPDATE main._sync_client_info SET hydrated = CASE WHEN hydrated < 2 THEN 0"
                        " ELSE 3 END") != ROWSYNC_OK ||
        (statement = rs_statement(client, SQL_REFILL)) == NULL)
        return client->code;
    sqlite3_bind_int(statement, 1, REFILL_COLUMNS);
    sqlite3_bind_int64(statement, 2, table->id);
    return rs_finish(client, statement, "having a table filled again");
}

/*
 * A table that has lost its triggers and every row was dropped and made anew: that its rows are not
 * there is no deletion of anybody's. They are fetched again. Edits of them that were pending have
 * gone with them; deletions from before are sent.
 */
rowsync_code
table_made_anew(rowsync *client, const Table *table)
{
    sqlite3_stmt *statement = NULL;
    Buffer sql = {0};
    bool lost = false;

    buffer_text(&sql, "SELECT NOT EXISTS (SELECT 1 FROM main.");
    buffer_name(&sql, table->name);
    buffer_text(&sql, ") AND EXISTS (SELECT 1 FROM main._sync_version WHERE table_id = ?1 AND"
                      " NOT deleted)");
    if (sql.failed)
        rs_nomem(client);
    else if (rs_prepare(client, sql.data, &statement) == ROWSYNC_OK)
    {
        sqlite3_bind_int64(statement, 1, table->id);
        lost = rs_row(client, statement) && sqlite3_column_int(statement, 0);
    }
    sqlite3_finalize(statement);
    if (client->code == ROWSYNC_OK && lost)
    {
        rs_log(client, "%s was made anew: its rows are fetched again", table->name);
        buffer_clear(&sql);
        buffer_printf(&sql,
                      "DELETE FROM main._sync_dirty WHERE table_id = %lld AND old_row IS NULL;"
                      "DELETE FROM main._sync_held WHERE table_id = %lld;"
                      "DELETE FROM main._sync_version AS v WHERE table_id = %lld AND NOT deleted"
                      " AND NOT EXISTS (SELECT 1 FROM main._sync_dirty e WHERE"
                      " e.table_id = v.table_id AND e.pk = v.pk)",
                      (long long)table->id, (long long)table->id, (long long)table->id);
        if (sql.failed)
            rs_nomem(client);
        else if (rs_exec(client, sql.data) == ROWSYNC_OK &&
                 table_fetch_again(client, table) == ROWSYNC_OK)
            rs_load_info(client);
    }
    buffer_free(&sql);
    return client->code;
}

/* Refuses to go on where a tracked table is no longer one that can be synced. */
rowsync_code
tables_check(rowsync *client)
{
    int i;

    for (i = 0; i < client->table_count; i++)
    {
        const Table *table = &client->tables[i];

        if (table->column_count > 0 && !table->exists)
            return rs_fail(client, ROWSYNC_SCHEMA,
                           "Make it anew with the key that it has on the server, or forget it by"
                           " untrack.",
                           "The tracked table \"%s\" has lost its primary key.", table->name);
        if (!table->exists)
            return rs_fail(client, ROWSYNC_SCHEMA,
                           "Create it again, or forget it by untrack; rows that its loss deleted in"
                           " other tables are pending as deleted.",
                           "The tracked table \"%s\" is gone.", table->name);
    }
    return ROWSYNC_OK;
}

/*
 * The tracked table of that name on the server. Both are JSON strings, as PostgreSQL writes them,
 * which escapes what we do; a schema that is not told is "public".
 */
Table *
table_by_name(rowsync *client, Slice schema, Slice name)
{
    int i;

    for (i = 0; i < client->table_count; i++)
    {
        Table *table = &client->tables[i];

        if (slice_same(name, table->name_json) &&
            (schema.data != NULL ? slice_same(schema, table->schema_json)
                                 : strcmp(table->schema, "public") == 0))
            return table;
    }
    return NULL;
}

Table *
table_by_id(rowsync *client, int64_t id)
{
    int i;

    for (i = 0; i < client->table_count; i++)
        if (client->tables[i].id == id)
            return &client->tables[i];
    return NULL;
}

/*
 * SELECT 0 OR EXISTS (…) …: does a table that is not tracked refer to the row, in a way that
 * forbids to delete it? Such rows are not the library's to take out.
 */
static void
append_clings(rowsync *client, Buffer *sql, const Table *table)
{
    sqlite3_stmt *statement = NULL;
    int i;

    buffer_text(sql, "SELECT 0");
    if (rs_prepare(client,
                   "SELECT m.name, f.seq, f.\"from\", coalesce(f.\"to\", (SELECT name FROM"
                   " pragma_table_xinfo(?1, 'main') WHERE pk = f.seq + 1))"
                   " FROM main.sqlite_schema m JOIN pragma_foreign_key_list(m.name, 'main') f"
                   " WHERE m.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE AND f.on_delete NOT"
                   " IN ('CASCADE', 'SET NULL') AND m.name NOT IN (SELECT table_name FROM"
                   " main._sync_table) ORDER BY m.name, f.id, f.seq",
                   &statement) != ROWSYNC_OK)
        return;
    sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
    for (i = 0; rs_row(client, statement); i++)
    {
        if (sqlite3_column_int(statement, 1) == 0)
        {
            buffer_text(sql, i > 0 ? ") OR EXISTS (SELECT 1 FROM main."
                                   : " OR EXISTS (SELECT 1 FROM main.");
            buffer_name(sql, rs_text(statement, 0));
            buffer_text(sql, " c JOIN main.");
            buffer_name(sql, table->name);
            buffer_text(sql, " p WHERE ");
            sql_row_is(sql, table, "p.", 1);
        }
        buffer_text(sql, " AND ");
        sql_field(sql, "c", rs_text(statement, 2));
        buffer_text(sql, " = ");
        sql_field(sql, "p", rs_text(statement, 3));
    }
    buffer_text(sql, i > 0 ? ")" : "");
    sqlite3_finalize(statement);
}

/* A mark with all that its upload takes, and the row that it is on, or the `row` alone: see
 * PendingColumn. */
static void
append_pending(Buffer *sql, const Table *table, bool row)
{
    int i;

    /* Only a row that was inserted can be one that the server has deleted. */
    buffer_text(
        sql,
        row ? "SELECT 0, 0, 0, NULL, 0, 0, "
            : "SELECT d.change_id, d.base_version, d.changed | coalesce((SELECT changed FROM"
              " main._sync_rejected r WHERE r.table_id = d.table_id AND r.pk = d.pk), 0),"
              " d.old_row, CASE d.changed WHEN -1 THEN (SELECT deleted FROM main._sync_version v"
              " WHERE v.table_id = d.table_id AND v.pk = d.pk) END, d.base_version = 0 AND"
              " d.changed = 0 AND EXISTS (SELECT 1 FROM main._sync_rejected r WHERE r.table_id ="
              " d.table_id AND r.pk = d.pk AND r.op = 'INSERT' AND r.base_version = 0 AND"
              " r.old_row IS NULL) AND NOT EXISTS (SELECT 1 FROM main._sync_held h WHERE"
              " h.table_id = d.table_id AND h.pk = d.pk), ");
    sql_field(sql, "t", table->columns[table->keys[0]].name);
    buffer_text(sql, " IS NOT NULL");
    for (i = 0; i < table->column_count; i++)
    {
        buffer_text(sql, ", ");
        sql_field(sql, "t", table->columns[i].name);
    }
    buffer_text(sql, row ? " FROM main." : " FROM main._sync_dirty d LEFT JOIN main.");
    buffer_name(sql, table->name);
    buffer_text(sql, row ? " t WHERE " : " t ON ");
    sql_row_is(sql, table, "t.", 2);
    if (!row)
        buffer_printf(sql, " WHERE d.table_id = %lld AND d.pk = ?1", (long long)table->id);
}

/* UPDATE … of all columns but those of the key, where one of them differs. */
static void
append_restore(Buffer *sql, const Table *table)
{
    const char *before = " SET ";
    int i, pass;

    buffer_text(sql, "UPDATE OR ABORT main.");
    buffer_name(sql, table->name);
    for (pass = 0; pass < 2; pass++, before = " AND (")
    {
        for (i = 0; i < table->column_count; i++)
        {
            if (table->columns[i].key)
                continue;
            buffer_text(sql, before);
            before = pass == 0 ? ", " : " OR ";
            buffer_name(sql, table->columns[i].name);
            buffer_printf(sql, pass == 0 ? " = ?%d" : " IS NOT ?%d COLLATE BINARY", i + 1);
        }
        for (i = 0; i < table->key_count && pass == 0; i++)
        {
            buffer_text(sql, i == 0 ? " WHERE " : " AND ");
            buffer_name(sql, table->columns[table->keys[i]].name);
            buffer_printf(sql, " = ?%d", table->keys[i] + 1);
        }
    }
    buffer_byte(sql, ')');
}

/* A statement of the table, reset; NULL with the error remembered. */
sqlite3_stmt *
table_statement(rowsync *client, Table *table, TableStatement which)
{
    sqlite3_stmt **slot = &table->statements[which];
    Buffer sql = {0};

    if (*slot == NULL)
    {
        if (which == TABLE_CLINGS)
            append_clings(client, &sql, table);
        else if (which == TABLE_PENDING || which == TABLE_ROW)
            append_pending(&sql, table, which == TABLE_ROW);
        else if (which == TABLE_RESTORE)
            append_restore(&sql, table);
        else
        {
            buffer_text(&sql, which == TABLE_THERE ? "SELECT 1 FROM main." : "DELETE FROM main.");
            buffer_name(&sql, table->name);
            buffer_text(&sql, " WHERE ");
            sql_row_is(&sql, table, "", 1);
        }
        if (sql.failed)
            rs_nomem(client);
        else if (client->code == ROWSYNC_OK)
            rs_prepare(client, sql.data, slot);
        buffer_free(&sql);
    }
    if (*slot != NULL)
        sqlite3_reset(*slot);
    return *slot;
}

/* The tracked table of that name here; NULL with the error remembered. */
Table *
table_here(rowsync *client, const char *name)
{
    int i;

    for (i = 0; name != NULL && i < client->table_count; i++)
        if (strcmp(client->tables[i].name, name) == 0)
            return &client->tables[i];
    rs_fail(client, ROWSYNC_MISUSE, "See rowsync status for the tracked ones.",
            "Table \"%s\" is not tracked.", name != NULL ? name : "");
    return NULL;
}
