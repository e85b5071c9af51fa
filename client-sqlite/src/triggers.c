/*
 * triggers.c - which tables are tracked, what they look like, and the SQL that captures their
 * changes.
 *
 * The triggers are plain SQL without functions of ours, so that whoever writes to the file is
 * captured. They note the key only; what is uploaded is read from the row later. Four rules of
 * SQLite shape them:
 *  - An OR clause of the app's statement (INSERT OR IGNORE …) overrides those inside a trigger, but
 *    not an upsert: everything here is an upsert.
 *  - REPLACE deletes other rows without firing a trigger: a BEFORE trigger marks the row whose
 *    unique value is about to be taken. A mark that comes to nothing is dropped at upload.
 *  - A changed key is the end of one row and the start of another; the order of triggers is not
 *    defined, so neither relies on the other.
 *  - A comparison uses the column's collation: changes are looked for with COLLATE BINARY.
 */
#include "client.h"

#include <string.h>
#include <strings.h>

#define CAPTURING "WHEN (SELECT apply_mode FROM _sync_client_info) = 0"
/* Never below the clock, so that a restored copy of the file does not give old numbers again. */
#define NEXT_ID                                                                                    \
    "  UPDATE _sync_client_info SET next_change_id = max(next_change_id," ROWSYNC_CLOCK ") + 1;\n"
#define THIS_ID "(SELECT next_change_id - 1 FROM _sync_client_info)"
/*
 * A row keeps the place in the queue that its first edit had, so that a parent that is edited again
 * does not fall behind its children. A deletion goes to the end, as does what comes after it.
 */
#define STAYS_QUEUED "queued = CASE WHEN old_row IS NULL THEN queued ELSE excluded.queued END"

/* More arguments than this SQLite does not take in one function call (127 in old versions). */
#define OBJECT_MEMBERS 60

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
    rs_free(table->shape);
    rs_free(table->shape_names);
    buffer_free(&table->shape_text);
    rs_free(table->columns);
    rs_free(table->keys);
    rs_free(table->name);
    rs_free(table->schema);
    rs_free(table->local);
    rs_free(table->layout);
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
    if (strcasecmp(type, "JSON") == 0 || strcasecmp(type, "JSONB") == 0)
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

/* Is the name an element of a JSON array of strings? */
bool
rs_has_column_of(const char *json_array, const char *name)
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
        }
    buffer_free(&text);
    return found;
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
                                   "SELECT name, type, pk FROM pragma_table_xinfo(?1, 'main')"
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

        table->exists = true;
        if (position == 0 && rs_has_column_of(table->local, name))
            continue;
        grown = rs_realloc(table->columns, (size_t)(table->column_count + 1) * sizeof(*grown));
        if (grown == NULL)
            goto nomem;
        table->columns = grown;
        column = &grown[table->column_count++];
        memset(column, 0, sizeof(*column));
        column->name = rs_copy(name);
        column->kind = kind_of(type, &column->untyped);
        column->key = position > 0;
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

/* Reads _sync_table and what each tracked table looks like now. */
rowsync_code
tables_load(rowsync *client)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code;

    tables_free(client);
    code = rs_prepare(client,
                      "SELECT table_id, table_name, schema_name, policy, local_columns, layout,"
                      " (SELECT sql LIKE '%conflict%' FROM main.sqlite_schema WHERE type = 'table'"
                      " AND name = table_name) FROM _sync_table ORDER BY table_id",
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
        if (table->name == NULL || table->schema == NULL || table->local == NULL ||
            table->layout == NULL)
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

/* The tracked table of that name on the server; a schema that is not told is "public". */
Table *
table_by_name(rowsync *client, Slice schema, Slice name)
{
    int i;

    for (i = 0; i < client->table_count; i++)
        if (slice_is(name, client->tables[i].name) &&
            (schema.data != NULL ? slice_is(schema, client->tables[i].schema)
                                 : strcmp(client->tables[i].schema, "public") == 0))
            return &client->tables[i];
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

/* NEW."column" or OLD."column" or another alias. */
static void
append_field(Buffer *sql, const char *alias, const char *column)
{
    buffer_text(sql, alias);
    buffer_byte(sql, '.');
    buffer_name(sql, column);
}

/* "a" = ?1 AND "b" = ?2 … for the key columns. */
static void
append_key_match(Buffer *sql, const Table *table, const char *alias)
{
    int i;

    for (i = 0; i < table->key_count; i++)
    {
        buffer_text(sql, i > 0 ? " AND " : "");
        buffer_text(sql, alias);
        buffer_name(sql, table->columns[table->keys[i]].name);
        buffer_printf(sql, " = ?%d", i + 1);
    }
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
                   " _sync_table) ORDER BY m.name, f.id, f.seq",
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
            append_key_match(sql, table, "p.");
        }
        buffer_text(sql, " AND ");
        append_field(sql, "c", rs_text(statement, 2));
        buffer_text(sql, " = ");
        append_field(sql, "p", rs_text(statement, 3));
    }
    buffer_text(sql, i > 0 ? ")" : "");
    sqlite3_finalize(statement);
}

/* A statement of the table, reset; NULL with the error remembered. */
sqlite3_stmt *
table_statement(rowsync *client, Table *table, TableStatement which)
{
    sqlite3_stmt **slot = &table->statements[which];
    Buffer sql = {0};
    int i;

    if (*slot == NULL)
    {
        if (which == TABLE_CLINGS)
            append_clings(client, &sql, table);
        else
        {
            buffer_text(&sql, which == TABLE_READ ? "SELECT " : "DELETE");
            for (i = 0; i < table->column_count && which == TABLE_READ; i++)
            {
                buffer_text(&sql, i > 0 ? ", " : "");
                buffer_name(&sql, table->columns[i].name);
            }
            buffer_text(&sql, " FROM main.");
            buffer_name(&sql, table->name);
            buffer_text(&sql, " WHERE ");
            append_key_match(&sql, table, "");
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

/* An expression for a BLOB as text: a uuid's canonical form where it may be one, else \x and hex.
 */
static void
append_blob_text(Buffer *sql, const char *hex, bool uuid)
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
static void
append_key(Buffer *sql, const Table *table, const char *alias)
{
    Buffer hex = {0};
    int i;

    if (table->key_count == 1)
    {
        append_field(sql, alias, table->columns[table->keys[0]].name);
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
            append_field(&hex, alias, column->name);
            buffer_text(&hex, ")");
            append_blob_text(sql, buffer_string(&hex), true);
        }
        else
            append_field(sql, alias, column->name);
    }
    buffer_text(sql, ")");
    sql->failed |= hex.failed;
    buffer_free(&hex);
}

/* The row as an object of SQL literals: {"name": "'text'", …}. */
static void
append_literals(Buffer *sql, const Table *table, const char *alias)
{
    int i, groups = (table->column_count + OBJECT_MEMBERS - 1) / OBJECT_MEMBERS;

    for (i = 1; i < groups; i++)
        buffer_text(sql, "json_patch(");
    for (i = 0; i < table->column_count; i++)
    {
        if (i % OBJECT_MEMBERS == 0)
            buffer_text(sql, i > 0 ? ", json_object(" : "json_object(");
        else
            buffer_text(sql, ", ");
        buffer_literal(sql, table->columns[i].name);
        buffer_text(sql, ", quote(");
        append_field(sql, alias, table->columns[i].name);
        buffer_text(sql, ")");
        if (i % OBJECT_MEMBERS == OBJECT_MEMBERS - 1 || i == table->column_count - 1)
            buffer_text(sql, i >= OBJECT_MEMBERS ? "))" : ")");
    }
}

/* The version that the server's row had when it was last seen here, as a subquery. */
static void
append_base(Buffer *sql, const Table *table, const char *alias)
{
    buffer_printf(sql,
                  "coalesce((SELECT server_version FROM _sync_version WHERE table_id = %lld"
                  " AND pk = ",
                  (long long)table->id);
    append_key(sql, table, alias);
    buffer_text(sql, "), 0)");
}

/* Starts a trigger: CREATE TRIGGER "_sync_users_kind" EVENT ON "users". */
static void
append_head(Buffer *sql, const Table *table, const char *kind, const char *event)
{
    Buffer name = {0};

    buffer_printf(&name, "_sync_%s_%s", table->name, kind);
    buffer_text(sql, "CREATE TRIGGER ");
    buffer_name(sql, buffer_string(&name));
    buffer_printf(sql, " %s ON ", event);
    buffer_name(sql, table->name);
    buffer_text(sql, "\n");
    sql->failed |= name.failed;
    buffer_free(&name);
}

/* OLD."a" IS NOT NEW."a", byte for byte. */
static void
append_differs(Buffer *sql, const Column *column)
{
    buffer_text(sql, "(");
    append_field(sql, "NEW", column->name);
    buffer_text(sql, " IS NOT ");
    append_field(sql, "OLD", column->name);
    buffer_text(sql, " COLLATE BINARY");
    if (column->untyped)
    {
        buffer_text(sql, " OR typeof(");
        append_field(sql, "NEW", column->name);
        buffer_text(sql, ") <> typeof(");
        append_field(sql, "OLD", column->name);
        buffer_text(sql, ")");
    }
    buffer_text(sql, ")");
}

/* Does any key column differ? */
static void
append_key_differs(Buffer *sql, const Table *table)
{
    int i;

    buffer_text(sql, "(");
    for (i = 0; i < table->key_count; i++)
    {
        buffer_text(sql, i > 0 ? " OR " : "");
        append_differs(sql, &table->columns[table->keys[i]]);
    }
    buffer_text(sql, ")");
}

/* INSERT INTO _sync_dirty … VALUES (id, key, change id, base, */
static void
append_mark(Buffer *sql, const Table *table, const char *alias, bool select)
{
    buffer_printf(
        sql,
        "  INSERT INTO _sync_dirty (table_id, pk, change_id, queued, base_version, changed,"
        " old_row, base_row)\n  %s%lld, ",
        select ? "SELECT " : "VALUES (", (long long)table->id);
    append_key(sql, table, alias);
    buffer_text(sql, ", " THIS_ID ", " THIS_ID ",\n    ");
    append_base(sql, table, alias);
    buffer_text(sql, ", ");
}

/* AFTER INSERT: every column is new. */
static void
write_insert(Buffer *sql, const Table *table)
{
    append_head(sql, table, "insert", "AFTER INSERT");
    buffer_text(sql, CAPTURING "\nBEGIN\n" NEXT_ID);
    append_mark(sql, table, "NEW", false);
    buffer_text(sql, "-1, NULL, NULL)\n  ON CONFLICT (table_id, pk) DO UPDATE SET change_id ="
                     " excluded.change_id, changed = -1, " STAYS_QUEUED ";\nEND");
}

/* AFTER UPDATE: the columns that changed. */
static void
write_update(Buffer *sql, const Table *table)
{
    int i, written = 0;

    append_head(sql, table, "update", "AFTER UPDATE");
    buffer_text(sql, CAPTURING "\nBEGIN\n" NEXT_ID);
    append_mark(sql, table, "NEW", false);
    for (i = 0; i < table->column_count; i++)
    {
        const Column *column = &table->columns[i];

        if (column->mask == 0)
            continue;
        buffer_text(sql, written++ > 0 ? "\n    | " : "\n    ");
        append_differs(sql, column);
        buffer_printf(sql, " * %lld", (long long)column->mask);
    }
    buffer_text(sql, written > 0 ? ", NULL, " : "0, NULL, ");
    if (table->policy == ROWSYNC_MERGE || table->policy == ROWSYNC_MANUAL)
        append_literals(sql, table, "OLD");
    else
        buffer_text(sql, "NULL");
    buffer_text(sql, ")\n  ON CONFLICT (table_id, pk) DO UPDATE SET change_id = excluded.change_id,"
                     " changed = changed | excluded.changed;\nEND");
}

/*
 * AFTER UPDATE that changes the key: the old row is gone, the new one is whole. Not UPDATE OF key,
 * which `SET rowid = …` would pass by.
 */
static void
write_rekey(Buffer *sql, const Table *table)
{
    append_head(sql, table, "rekey", "AFTER UPDATE");
    buffer_text(sql, CAPTURING " AND ");
    append_key_differs(sql, table);
    buffer_text(sql, "\nBEGIN\n" NEXT_ID);
    append_mark(sql, table, "OLD", false);
    buffer_text(sql, "0, ");
    append_literals(sql, table, "OLD");
    buffer_text(sql, ", NULL)\n  ON CONFLICT (table_id, pk) DO UPDATE SET change_id ="
                     " excluded.change_id, queued = excluded.queued, old_row ="
                     " excluded.old_row;\n" NEXT_ID);
    append_mark(sql, table, "NEW", false);
    buffer_text(sql, "-1, NULL, NULL)\n  ON CONFLICT (table_id, pk) DO UPDATE SET change_id ="
                     " excluded.change_id, changed = -1, " STAYS_QUEUED ";\nEND");
}

/* AFTER DELETE: keeps the row's last content. */
static void
write_delete(Buffer *sql, const Table *table)
{
    append_head(sql, table, "delete", "AFTER DELETE");
    buffer_text(sql, CAPTURING "\nBEGIN\n" NEXT_ID);
    append_mark(sql, table, "OLD", false);
    buffer_text(sql, "0, ");
    append_literals(sql, table, "OLD");
    buffer_text(sql, ", NULL)\n  ON CONFLICT (table_id, pk) DO UPDATE SET change_id ="
                     " excluded.change_id, queued = excluded.queued, old_row ="
                     " excluded.old_row;\nEND");
}

/* BEFORE INSERT or UPDATE: refuses keys that could not be uploaded, under every OR clause. */
static void
write_check(Buffer *sql, const Table *table, const char *kind, const char *event, bool rowid_key)
{
    Buffer wrong = {0};
    int i;

    for (i = 0; i < table->key_count; i++)
    {
        const Column *column = &table->columns[table->keys[i]];

        if (rowid_key)
            break;
        buffer_text(&wrong, i > 0 ? " OR " : "");
        append_field(&wrong, "NEW", column->name);
        buffer_text(&wrong, " IS NULL");
        if (column->kind == KIND_BLOB)
        {
            buffer_text(&wrong, " OR typeof(");
            append_field(&wrong, "NEW", column->name);
            buffer_text(&wrong, ") <> 'blob'");
        }
    }
    if (wrong.length > 0)
    {
        append_head(sql, table, kind, event);
        buffer_text(sql, CAPTURING " AND (");
        buffer_append(sql, wrong.data, wrong.length);
        buffer_text(sql, ")\nBEGIN\n  SELECT RAISE(ABORT, ");
        buffer_clear(&wrong);
        buffer_printf(
            &wrong, "rowsync: the key of %s must be given (and be a BLOB where it is declared so)",
            table->name);
        buffer_literal(sql, buffer_string(&wrong));
        buffer_text(sql, ");\nEND");
    }
    sql->failed |= wrong.failed;
    buffer_free(&wrong);
}

/*
 * BEFORE INSERT or UPDATE: the row that holds one of the unique values may be replaced. `match` is
 * the index's comparison of the table's row, named t, with NEW.
 */
static void
write_probe(Buffer *sql, const Table *table, const char *kind, const char *event, const char *match,
            const char *differs)
{
    Buffer other = {0};
    int i;

    buffer_printf(&other, "%s AND (", match);
    for (i = 0; i < table->key_count; i++)
    {
        buffer_text(&other, i > 0 ? " OR " : "");
        append_field(&other, "t", table->columns[table->keys[i]].name);
        buffer_text(&other, " IS NOT ");
        append_field(&other, *differs != '\0' ? "OLD" : "NEW", table->columns[table->keys[i]].name);
    }
    buffer_text(&other, ")");
    append_head(sql, table, kind, event);
    buffer_printf(sql, CAPTURING "%s AND EXISTS (SELECT 1 FROM ", differs);
    buffer_name(sql, table->name);
    buffer_printf(sql, " t WHERE %s)\nBEGIN\n" NEXT_ID, buffer_string(&other));
    append_mark(sql, table, "t", true);
    buffer_text(sql, "0, ");
    append_literals(sql, table, "t");
    buffer_text(sql, ", NULL FROM ");
    buffer_name(sql, table->name);
    buffer_printf(sql,
                  " t WHERE %s\n  ON CONFLICT (table_id, pk) DO UPDATE SET change_id ="
                  " excluded.change_id, queued = excluded.queued, old_row ="
                  " excluded.old_row;\nEND",
                  buffer_string(&other));
    sql->failed |= other.failed;
    buffer_free(&other);
}

/* Trigger texts of a table, one after the other, each ended by NUL. */
typedef struct Script
{
    Buffer text;
    int count;
} Script;

/* Closes the trigger that was written last, if any was. */
static void
script_next(Script *script, Buffer *one)
{
    if (one->length > 0)
    {
        buffer_append(&script->text, one->data, one->length + 1);
        script->count++;
    }
    script->text.failed |= one->failed;
    buffer_clear(one);
}

/* Two probes for each secondary unique index. Sets hidden_unique where an index allows none. */
static rowsync_code
write_probes(rowsync *client, Table *table, Script *script)
{
    sqlite3_stmt *indexes = NULL, *fields = NULL;
    Buffer one = {0}, match = {0}, differs = {0}, kind = {0};
    rowsync_code code;
    int number = 0;

    code = rs_prepare(client,
                      "SELECT name, partial FROM pragma_index_list(?1, 'main')"
                      " WHERE \"unique\" AND origin <> 'pk' ORDER BY name",
                      &indexes);
    if (code == ROWSYNC_OK)
        code = rs_prepare(client,
                          "SELECT name, coll FROM pragma_index_xinfo(?1, 'main')"
                          " WHERE key ORDER BY seqno",
                          &fields);
    if (code == ROWSYNC_OK)
        sqlite3_bind_text(indexes, 1, table->name, -1, SQLITE_STATIC);
    table->hidden_unique = false;
    while (code == ROWSYNC_OK && rs_row(client, indexes))
    {
        bool seen = sqlite3_column_int(indexes, 1) == 0;

        buffer_clear(&match);
        buffer_clear(&differs);
        sqlite3_reset(fields);
        sqlite3_bind_text(fields, 1, rs_text(indexes, 0), -1, SQLITE_TRANSIENT);
        while (rs_row(client, fields))
        {
            const char *column = (const char *)sqlite3_column_text(fields, 0);

            if (column == NULL)
            {
                seen = false; /* an expression */
                break;
            }
            buffer_text(&match, match.length > 0 ? " AND " : "");
            append_field(&match, "t", column);
            buffer_text(&match, " = ");
            append_field(&match, "NEW", column);
            buffer_text(&match, " COLLATE ");
            buffer_name(&match, rs_text(fields, 1));
            buffer_text(&differs, differs.length > 0 ? " OR " : " AND (");
            append_field(&differs, "NEW", column);
            buffer_text(&differs, " IS NOT ");
            append_field(&differs, "OLD", column);
        }
        sqlite3_reset(fields);
        if (!seen)
        {
            table->hidden_unique = true;
            continue;
        }
        buffer_text(&differs, ")");
        number++;
        buffer_clear(&kind);
        buffer_printf(&kind, "replace%d", number);
        write_probe(&one, table, buffer_string(&kind), "BEFORE INSERT", buffer_string(&match), "");
        script_next(script, &one);
        buffer_clear(&kind);
        buffer_printf(&kind, "reupdate%d", number);
        write_probe(&one, table, buffer_string(&kind), "BEFORE UPDATE", buffer_string(&match),
                    buffer_string(&differs));
        script_next(script, &one);
    }
    if (match.failed || differs.failed || kind.failed || script->text.failed)
        rs_nomem(client);
    code = client->code;
    sqlite3_finalize(indexes);
    sqlite3_finalize(fields);
    buffer_free(&one);
    buffer_free(&match);
    buffer_free(&differs);
    buffer_free(&kind);
    return code;
}

/* Is the key the rowid itself, which SQLite gives out and which is never NULL afterwards? */
static bool
is_rowid_key(rowsync *client, const Table *table)
{
    sqlite3_stmt *statement = NULL;
    bool found = false;

    /* An INTEGER PRIMARY KEY is the only key of a rowid table that has no index of its own. */
    if (table->key_count != 1 || table->columns[table->keys[0]].kind != KIND_INTEGER ||
        rs_prepare(client,
                   "SELECT NOT EXISTS (SELECT 1 FROM pragma_index_list(?1, 'main')"
                   " WHERE origin = 'pk')",
                   &statement) != ROWSYNC_OK)
        return false;
    sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
    found = rs_row(client, statement) && sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return found;
}

/* All triggers of a table. */
static rowsync_code
write_triggers(rowsync *client, Table *table, Script *script)
{
    Buffer one = {0};
    bool rowid_key = is_rowid_key(client, table);
    rowsync_code code;

    if (client->code != ROWSYNC_OK)
        return client->code;
    write_check(&one, table, "check", "BEFORE INSERT", rowid_key);
    script_next(script, &one);
    write_check(&one, table, "recheck", "BEFORE UPDATE", rowid_key);
    script_next(script, &one);
    write_insert(&one, table);
    script_next(script, &one);
    write_update(&one, table);
    script_next(script, &one);
    write_rekey(&one, table);
    script_next(script, &one);
    write_delete(&one, table);
    script_next(script, &one);
    buffer_free(&one);
    code = write_probes(client, table, script);
    if (code == ROWSYNC_OK && script->text.failed)
        code = rs_nomem(client);
    return code;
}

/* The value of t."column" as JSON text, exact for every type. */
static void
append_json_value(Buffer *sql, const Column *column)
{
    Buffer field = {0}, hex = {0};

    append_field(&field, "t", column->name);
    buffer_printf(&hex, "hex(%s)", buffer_string(&field));
    buffer_printf(sql, "CASE typeof(%s) WHEN 'blob' THEN json_quote(", buffer_string(&field));
    append_blob_text(sql, buffer_string(&hex), column->uuid);
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

/* t."a" = d.pk, or for several columns each with its element of the array. */
static void
append_join(Buffer *sql, const Table *table)
{
    int i;

    for (i = 0; i < table->key_count; i++)
    {
        const Column *column = &table->columns[table->keys[i]];

        buffer_text(sql, i > 0 ? " AND " : "");
        if (table->key_count > 1 && column->kind == KIND_BLOB)
        {
            buffer_text(sql, "lower(hex(");
            append_field(sql, "t", column->name);
            buffer_printf(sql,
                          ")) = replace(replace(json_extract(d.pk, '$[%d]'), '-', ''),"
                          " '\\x', '')",
                          i);
            continue;
        }
        append_field(sql, "t", column->name);
        if (table->key_count > 1)
            buffer_printf(sql, " = json_extract(d.pk, '$[%d]')", i);
        else
            buffer_text(sql, " = d.pk");
    }
}

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
        append_blob_text(sql, "hex(d.pk)", true);
    else
        buffer_text(sql, "CAST(d.pk AS TEXT)");
    buffer_text(sql, ", CASE WHEN ");
    append_field(sql, "t", first->name);
    buffer_text(sql, " IS NULL THEN 'DELETE' WHEN d.base_version = 0 OR v.deleted THEN 'INSERT'"
                     " ELSE 'UPDATE' END, d.base_version,\n  CASE WHEN ");
    append_field(sql, "t", first->name);
    buffer_text(sql, " IS NOT NULL THEN '{'");
    for (i = 0; i < table->column_count; i++)
    {
        Buffer member = {0};

        buffer_printf(&member, "%s%s", i > 0 ? "," : "", table->columns[i].member);
        buffer_text(sql, " || ");
        buffer_literal(sql, buffer_string(&member));
        buffer_text(sql, " || ");
        append_json_value(sql, &table->columns[i]);
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
    append_blob_text(sql, "substr(value, 3, length(value) - 3)", true);
    buffer_text(sql,
                " ELSE '\\x' || lower(substr(value, 3, length(value) - 3)) END)"
                " WHEN value LIKE '''%' THEN json_quote(replace(substr(value, 2,"
                " length(value) - 2), '''''', '''')) ELSE value END, ',') || '}'"
                " FROM json_each(d.old_row)) END\n"
                "FROM _sync_dirty d LEFT JOIN _sync_version v USING (table_id, pk) LEFT JOIN ");
    buffer_name(sql, table->name);
    buffer_text(sql, " t ON ");
    append_join(sql, table);
    buffer_printf(sql, " WHERE d.table_id = %lld", (long long)table->id);
}

/* The view of the seed, over what is captured and the rows as they are. */
static void
write_view(const rowsync *client, Buffer *sql)
{
    int i, written = 0;

    buffer_text(sql,
                "CREATE VIEW _sync_pending(table_name, pk_uuid, op, base_version, payload) AS\n");
    for (i = 0; i < client->table_count; i++)
        if (client->tables[i].exists && client->tables[i].key_count > 0)
        {
            buffer_text(sql, written++ > 0 ? "\nUNION ALL " : "");
            append_pending(sql, &client->tables[i]);
        }
    if (written == 0)
        buffer_text(sql, "SELECT NULL, NULL, NULL, NULL, NULL WHERE 0");
}

/* The columns that travel, as JSON, to notice when they change. */
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

/* Is this very statement in the schema? */
static bool
in_schema(rowsync *client, sqlite3_stmt *lookup, const char *text)
{
    bool found;

    sqlite3_reset(lookup);
    sqlite3_bind_text(lookup, 1, text, -1, SQLITE_STATIC);
    found = rs_row(client, lookup);
    sqlite3_reset(lookup);
    return found;
}

/* Drops the triggers of a table; those of a table that was renamed went along with it. */
rowsync_code
triggers_drop(rowsync *client, const Table *table)
{
    sqlite3_stmt *statement = NULL;
    Buffer sql = {0};
    rowsync_code code = rs_prepare(client,
                                   "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND"
                                   " substr(name, 1, length(?1)) = ?1 AND tbl_name = ?2"
                                   " COLLATE NOCASE",
                                   &statement);

    if (code != ROWSYNC_OK)
        return code;
    buffer_printf(&sql, "_sync_%s_", table->name);
    sqlite3_bind_text(statement, 1, buffer_string(&sql), -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(statement, 2, table->name, -1, SQLITE_STATIC);
    buffer_clear(&sql);
    while (rs_row(client, statement))
    {
        buffer_text(&sql, "DROP TRIGGER main.");
        buffer_name(&sql, rs_text(statement, 0));
        buffer_text(&sql, ";");
    }
    sqlite3_finalize(statement);
    if (sql.failed)
        rs_nomem(client);
    code = client->code == ROWSYNC_OK ? rs_exec(client, buffer_string(&sql)) : client->code;
    buffer_free(&sql);
    return code;
}

/* Puts the triggers of a table in place of whatever is there. */
static rowsync_code
install(rowsync *client, Table *table, const Script *script)
{
    const char *text = buffer_string(&script->text);
    sqlite3_stmt *statement = NULL;
    Buffer layout = {0};
    rowsync_code code = triggers_drop(client, table);
    int i;

    for (i = 0; i < script->count && code == ROWSYNC_OK; i++, text += strlen(text) + 1)
        code = rs_exec(client, text);
    if (code != ROWSYNC_OK)
        return code;
    write_layout(table, &layout);
    if (layout.failed)
        code = rs_nomem(client);
    else if (strcmp(layout.data, table->layout) != 0)
    {
        /*
         * The bits of the mask mean other columns now, and a mark without bits may stand for a
         * column that the old trigger did not know: whole rows are sent.
         */
        code = rs_prepare(client, "UPDATE _sync_dirty SET changed = -1 WHERE table_id = ?1",
                          &statement);
        sqlite3_bind_int64(statement, 1, table->id);
        if (code == ROWSYNC_OK)
            code = rs_finish(client, statement, "marking whole rows");
        sqlite3_finalize(statement);
        statement = NULL;
        if (code == ROWSYNC_OK)
            code = rs_prepare(client, "UPDATE _sync_table SET layout = ?2 WHERE table_id = ?1",
                              &statement);
        sqlite3_bind_int64(statement, 1, table->id);
        sqlite3_bind_text(statement, 2, layout.data, -1, SQLITE_STATIC);
        if (code == ROWSYNC_OK)
            code = rs_finish(client, statement, "noting the columns");
        sqlite3_finalize(statement);
    }
    buffer_free(&layout);
    return code;
}

/*
 * Makes triggers and view what they should be. Writes only where something differs, which a look at
 * the schema tells; with `apply` false it only says so by *stale.
 */
rowsync_code
triggers_check(rowsync *client, bool apply, bool *stale)
{
    sqlite3_stmt *lookup = NULL;
    Buffer view = {0};
    rowsync_code code =
        rs_prepare(client, "SELECT 1 FROM main.sqlite_schema WHERE sql = ?1", &lookup);
    int i, j;

    *stale = false;
    for (i = 0; i < client->table_count && code == ROWSYNC_OK; i++)
    {
        Table *table = &client->tables[i];
        Script script = {0};
        const char *text;
        bool right = true;

        if (!table->exists || table->key_count == 0)
            continue;
        code = write_triggers(client, table, &script);
        text = buffer_string(&script.text);
        for (j = 0; j < script.count && code == ROWSYNC_OK; j++, text += strlen(text) + 1)
            right &= in_schema(client, lookup, text);
        if (code == ROWSYNC_OK)
            code = client->code;
        if (code == ROWSYNC_OK && !right)
        {
            *stale = true;
            if (apply)
                code = install(client, table, &script);
        }
        buffer_free(&script.text);
    }
    write_view(client, &view);
    if (code == ROWSYNC_OK && view.failed)
        code = rs_nomem(client);
    if (code == ROWSYNC_OK && !in_schema(client, lookup, view.data) &&
        (code = client->code) == ROWSYNC_OK)
    {
        *stale = true;
        if (apply &&
            (code = rs_exec(client, "DROP VIEW IF EXISTS main._sync_pending")) == ROWSYNC_OK)
            code = rs_exec(client, view.data);
    }
    sqlite3_finalize(lookup);
    buffer_free(&view);
    return code;
}

/* PRAGMA schema_version: changes with every change of the schema, whoever made it. */
static rowsync_code
read_cookie(rowsync *client, int64_t *cookie)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code = rs_prepare(client, "PRAGMA main.schema_version", &statement);

    if (code == ROWSYNC_OK && sqlite3_step(statement) == SQLITE_ROW)
        *cookie = sqlite3_column_int64(statement, 0);
    else
        code = rs_fail_sqlite(client, "reading the schema version");
    sqlite3_finalize(statement);
    return code;
}

/* Follows the schema: reads the tables again and renews triggers, when the schema has changed. */
rowsync_code
tables_refresh(rowsync *client)
{
    int64_t cookie = 0;
    bool stale, own = sqlite3_get_autocommit(client->db);
    rowsync_code code = read_cookie(client, &cookie);

    if (code != ROWSYNC_OK || (client->loaded && cookie == client->schema_cookie))
        return code;
    if ((code = tables_load(client)) != ROWSYNC_OK ||
        (code = triggers_check(client, false, &stale)) != ROWSYNC_OK)
        return code;
    if (stale)
    {
        rs_log(client, "the schema has changed: triggers are renewed");
        if (own && (code = rs_start(client)) != ROWSYNC_OK)
            return code;
        code = triggers_check(client, true, &stale);
        if (own)
            code = rs_stop(client, code);
        if (code == ROWSYNC_OK && (code = read_cookie(client, &cookie)) == ROWSYNC_OK)
            code = tables_load(client);
    }
    client->schema_cookie = cookie;
    return code;
}

/* Refuses a table that cannot be synced exactly, with the reason. */
static rowsync_code
check_trackable(rowsync *client, const Table *table)
{
    int i;

    if (!table->exists)
        return rs_fail(client, ROWSYNC_SCHEMA, "Create it first; its name is the server's.",
                       "There is no table \"%s\".", table->name);
    if (table->key_count == 0)
        return rs_fail(client, ROWSYNC_SCHEMA, "Declare a PRIMARY KEY.",
                       "Table \"%s\" has no primary key.", table->name);
    for (i = 0; i < table->key_count; i++)
    {
        const Column *column = &table->columns[table->keys[i]];
        const char *collation = NULL;

        if (column->kind == KIND_REAL || column->kind == KIND_ANY || column->kind == KIND_JSON)
            return rs_fail(
                client, ROWSYNC_SCHEMA,
                "Declare it TEXT, INTEGER or BLOB; a type such as UUID turns keys made of"
                " digits into numbers.",
                "The key column \"%s\" of \"%s\" does not keep every key as it is.", column->name,
                table->name);
        sqlite3_table_column_metadata(client->db, "main", table->name, column->name, NULL,
                                      &collation, NULL, NULL, NULL);
        if (collation != NULL && strcasecmp(collation, "BINARY") != 0)
            return rs_fail(client, ROWSYNC_SCHEMA, "Declare the key without COLLATE.",
                           "The key column \"%s\" of \"%s\" takes different keys for equal.",
                           column->name, table->name);
    }
    return ROWSYNC_OK;
}

/* Refuses a local column that the table does not have: it would travel under its right name. */
static rowsync_code
check_local(rowsync *client, const Table *table, const char *const *columns)
{
    for (; columns != NULL && *columns != NULL; columns++)
        if (sqlite3_table_column_metadata(client->db, "main", table->name, *columns, NULL, NULL,
                                          NULL, NULL, NULL) != SQLITE_OK)
            return rs_fail(client, ROWSYNC_SCHEMA, "Name a column of the table.",
                           "Table \"%s\" has no column \"%s\" to keep local.", table->name,
                           *columns);
    return ROWSYNC_OK;
}

/* Marks the rows that a table already has, as INSERTs on version 0. */
static rowsync_code
mark_existing(rowsync *client, const Table *table)
{
    Buffer sql = {0};
    rowsync_code code;

    buffer_printf(&sql,
                  NEXT_ID
                  "INSERT INTO _sync_dirty (table_id, pk, change_id, queued, base_version, changed)"
                  " SELECT %lld, pk, id, id, 0, -1 FROM (SELECT *, (SELECT next_change_id FROM"
                  " _sync_client_info) + row_number() OVER () - 1 AS id FROM (SELECT ",
                  (long long)table->id);
    append_key(&sql, table, "t");
    buffer_text(&sql, " AS pk FROM main.");
    buffer_name(&sql, table->name);
    buffer_printf(&sql,
                  " t) r WHERE pk IS NOT NULL AND NOT EXISTS (SELECT 1 FROM _sync_version v"
                  " WHERE v.table_id = %lld AND v.pk = r.pk)) WHERE true"
                  " ON CONFLICT (table_id, pk) DO NOTHING;"
                  "UPDATE _sync_client_info SET next_change_id = max(next_change_id,"
                  " coalesce((SELECT max(change_id) FROM _sync_dirty), 0) + 1)",
                  (long long)table->id);
    code = sql.failed ? rs_nomem(client) : rs_exec(client, sql.data);
    buffer_free(&sql);
    return code;
}

rowsync_code
rowsync_track(rowsync *client, const char *table_name, const rowsync_track_options *options)
{
    static const rowsync_track_options standard = {NULL, ROWSYNC_KEEP_POLICY, NULL};
    sqlite3_stmt *statement = NULL;
    Buffer local = {0};
    Table *table = NULL;
    bool stale;
    int i, known;
    rowsync_code code = rs_enter(client, true);

    if (code != ROWSYNC_OK)
        return code;
    known = client->table_count;
    if (options == NULL)
        options = &standard;
    if (table_name == NULL || *table_name == '\0' || strncmp(table_name, "_sync_", 6) == 0 ||
        strncmp(table_name, "sqlite_", 7) == 0)
        return rs_fail(client, ROWSYNC_MISUSE, "Name a table of the app.",
                       "\"%s\" cannot be tracked.", table_name != NULL ? table_name : "");
    buffer_byte(&local, '[');
    for (i = 0; options->local_columns != NULL && options->local_columns[i] != NULL; i++)
    {
        buffer_text(&local, i > 0 ? "," : "");
        buffer_json_text(&local, options->local_columns[i], strlen(options->local_columns[i]));
    }
    buffer_byte(&local, ']');
    if (local.failed)
        code = rs_nomem(client);
    else if ((code = rs_start(client)) == ROWSYNC_OK)
    {
        code =
            rs_prepare(client,
                       "INSERT INTO _sync_table (table_name, schema_name, policy, local_columns)"
                       " VALUES (?1, coalesce(?2, 'public'), coalesce(?3, 0), coalesce(?4, '[]'))"
                       " ON CONFLICT (table_name) DO UPDATE SET"
                       " schema_name = coalesce(?2, schema_name), policy = coalesce(?3, policy),"
                       " local_columns = coalesce(?4, local_columns) RETURNING table_id",
                       &statement);
        if (code == ROWSYNC_OK)
        {
            sqlite3_bind_text(statement, 1, table_name, -1, SQLITE_STATIC);
            sqlite3_bind_text(statement, 2, options->schema, -1, SQLITE_STATIC);
            if (options->policy != ROWSYNC_KEEP_POLICY)
                sqlite3_bind_int(statement, 3, (int)options->policy);
            if (options->local_columns != NULL)
                sqlite3_bind_text(statement, 4, local.data, -1, SQLITE_STATIC);
            code = rs_finish(client, statement, "noting the table");
        }
        sqlite3_finalize(statement);
        if (code == ROWSYNC_OK)
            code = tables_load(client);
        for (i = 0; i < client->table_count; i++)
            if (strcmp(client->tables[i].name, table_name) == 0)
                table = &client->tables[i];
        if (code == ROWSYNC_OK)
            code = check_trackable(client, table);
        if (code == ROWSYNC_OK)
            code = check_local(client, table, options->local_columns);
        if (code == ROWSYNC_OK)
            code = triggers_check(client, true, &stale);
        if (code == ROWSYNC_OK)
            code = mark_existing(client, table);
        /* What the log has of a new table lies before the cursor: it is read from the start. */
        if (code == ROWSYNC_OK && client->table_count > known)
            code = rs_exec(client, "UPDATE _sync_client_info SET hydrated = 0");
        code = rs_stop(client, code);
        client->loaded = false;
    }
    buffer_free(&local);
    return code;
}

rowsync_code
rowsync_untrack(rowsync *client, const char *table_name, int force)
{
    static const char *const owned[] = {"_sync_dirty", "_sync_version", "_sync_held",
                                        "_sync_rejected", "_sync_table"};
    Table *table = NULL;
    Buffer sql = {0};
    bool stale;
    size_t i;
    int64_t pending = 0;
    sqlite3_stmt *statement = NULL;
    rowsync_code code = rs_enter(client, true);

    if (code != ROWSYNC_OK)
        return code;
    for (i = 0; i < (size_t)client->table_count; i++)
        if (strcmp(client->tables[i].name, table_name) == 0)
            table = &client->tables[i];
    if (table == NULL)
        return rs_fail(client, ROWSYNC_MISUSE, "See rowsync status for the tracked ones.",
                       "Table \"%s\" is not tracked.", table_name);
    if ((code = rs_start(client)) != ROWSYNC_OK)
        return code;
    code = rs_prepare(client, "SELECT count(*) FROM _sync_dirty WHERE table_id = ?1", &statement);
    if (code == ROWSYNC_OK)
    {
        sqlite3_bind_int64(statement, 1, table->id);
        if (rs_row(client, statement))
            pending = sqlite3_column_int64(statement, 0);
        code = client->code;
    }
    sqlite3_finalize(statement);
    if (code == ROWSYNC_OK && pending > 0 && !force)
        code = rs_fail(client, ROWSYNC_PENDING, "Sync first, or force it.",
                       "%lld edits of \"%s\" are pending.", (long long)pending, table_name);
    if (code == ROWSYNC_OK)
        code = triggers_drop(client, table);
    for (i = 0; i < sizeof(owned) / sizeof(*owned); i++)
        buffer_printf(&sql, "DELETE FROM %s WHERE table_id = %lld;", owned[i],
                      (long long)table->id);
    if (code == ROWSYNC_OK)
        code = sql.failed ? rs_nomem(client) : rs_exec(client, sql.data);
    if (code == ROWSYNC_OK)
        code = tables_load(client);
    if (code == ROWSYNC_OK)
        code = triggers_check(client, true, &stale);
    code = rs_stop(client, code);
    client->loaded = false;
    buffer_free(&sql);
    return code;
}

/* Counts, or with `queue` marks, the rows whose change no trigger has seen. */
static rowsync_code
sweep_table(rowsync *client, Table *table, bool queue, int64_t *found)
{
    /* Known as live but gone, without a pending delete; there but never seen, without a mark. */
    Buffer gone = {0}, fresh = {0}, sql = {0};
    sqlite3_stmt *statement = NULL;
    rowsync_code code = ROWSYNC_OK;

    buffer_printf(&gone,
                  "SELECT v.pk, v.server_version AS base, 0 AS changed FROM _sync_version v"
                  " WHERE v.table_id = %lld AND NOT v.deleted AND NOT EXISTS (SELECT 1 FROM"
                  " _sync_dirty d WHERE d.table_id = v.table_id AND d.pk = v.pk)"
                  " AND NOT EXISTS (SELECT 1 FROM main.",
                  (long long)table->id);
    buffer_name(&gone, table->name);
    buffer_text(&gone, " t WHERE ");
    {
        Buffer join = {0};

        append_join(&join, table);
        /* The same comparison as the view's, with the version's key in place of the mark's. */
        for (const char *at = buffer_string(&join); *at != '\0'; at++)
        {
            if (strncmp(at, "d.pk", 4) == 0)
            {
                buffer_text(&gone, "v.pk");
                at += 3;
            }
            else
                buffer_byte(&gone, *at);
        }
        gone.failed |= join.failed;
        buffer_free(&join);
    }
    buffer_text(&gone, ")");
    buffer_text(&fresh, "SELECT pk, 0 AS base, -1 AS changed FROM (SELECT ");
    append_key(&fresh, table, "t");
    buffer_text(&fresh, " AS pk FROM main.");
    buffer_name(&fresh, table->name);
    buffer_printf(
        &fresh,
        " t) r WHERE pk IS NOT NULL AND NOT EXISTS (SELECT 1 FROM _sync_dirty d WHERE"
        " d.table_id = %lld AND d.pk = r.pk) AND NOT EXISTS (SELECT 1 FROM _sync_version v"
        " WHERE v.table_id = %lld AND v.pk = r.pk AND NOT v.deleted)"
        " AND NOT EXISTS (SELECT 1 FROM _sync_rejected x WHERE x.table_id = %lld AND"
        " x.pk = r.pk)",
        (long long)table->id, (long long)table->id, (long long)table->id);
    buffer_printf(&sql, "SELECT count(*) FROM (%s UNION ALL %s)", buffer_string(&gone),
                  buffer_string(&fresh));
    if (sql.failed || gone.failed || fresh.failed)
        code = rs_nomem(client);
    else if ((code = rs_prepare(client, sql.data, &statement)) == ROWSYNC_OK &&
             rs_row(client, statement))
    {
        int64_t count = sqlite3_column_int64(statement, 0);

        sqlite3_finalize(statement);
        statement = NULL;
        *found += count;
        buffer_clear(&sql);
        buffer_printf(
            &sql,
            NEXT_ID "INSERT INTO _sync_dirty (table_id, pk, change_id, queued, base_version,"
                    " changed) SELECT %lld, pk, id, id, base, changed FROM (SELECT *,"
                    " (SELECT next_change_id FROM _sync_client_info) + row_number() OVER () - 1"
                    " AS id FROM (%s UNION ALL %s)) WHERE true"
                    " ON CONFLICT (table_id, pk) DO NOTHING;"
                    "UPDATE _sync_client_info SET next_change_id = next_change_id + %lld",
            (long long)table->id, buffer_string(&gone), buffer_string(&fresh), (long long)count);
        if (queue && count > 0)
            code = sql.failed ? rs_nomem(client) : rs_exec(client, sql.data);
    }
    sqlite3_finalize(statement);
    buffer_free(&gone);
    buffer_free(&fresh);
    buffer_free(&sql);
    return client->code;
}

rowsync_code
rowsync_verify(rowsync *client, int repair, int64_t *found)
{
    rowsync_code code = rs_enter(client, true);
    int64_t count = 0;
    int i;

    if (code != ROWSYNC_OK || (code = rs_begin(client)) != ROWSYNC_OK)
        return code;
    for (i = 0; i < client->table_count && code == ROWSYNC_OK; i++)
    {
        if (!client->tables[i].exists)
            code = rs_fail(client, ROWSYNC_SCHEMA,
                           "Create it again, or forget it by rowsync_untrack().",
                           "The tracked table \"%s\" is gone.", client->tables[i].name);
        else
            code = sweep_table(client, &client->tables[i], repair != 0, &count);
    }
    code = rs_end(client, code);
    if (found != NULL)
        *found = count;
    if (code == ROWSYNC_OK && count > 0 && !repair)
        return rs_fail(client, ROWSYNC_DIFFERENT, "Queue them for upload by verify with repair.",
                       "%lld changed rows were seen by no trigger.", (long long)count);
    return code;
}
