/*
 * triggers.c - the SQL that captures the changes of tracked tables, and its upkeep as their schema
 * changes.
 *
 * The triggers are plain SQL without functions of ours, so that whoever writes to the file is
 * captured. Each appends one entry to _sync_log (capture.c says what becomes of it): the key, a
 * mask of the columns that changed, and for a row that goes its last content. That is the least
 * that can be written: no look at what is pending already, no counter, no clock. What is uploaded
 * is read from the row later. Four rules of SQLite shape them:
 *  - An OR clause of the app's statement (INSERT OR IGNORE …) overrides those inside a trigger:
 *    the log has no constraint that it could act upon.
 *  - REPLACE deletes other rows without firing a trigger: a BEFORE trigger notes the row whose
 *    unique value is about to be taken. A note that comes to nothing is dropped at upload.
 *  - A changed key is the end of one row and the start of another; the order of triggers is not
 *    defined, so neither relies on the other.
 *  - A comparison uses the column's collation: changes are looked for with COLLATE BINARY.
 * A condition on the row stands before the look at apply_mode, which costs more.
 */
#include "client.h"

#include <string.h>

#define CAPTURING "(SELECT apply_mode FROM _sync_client_info) = 0"
/* Also while the library wants to know what its own statements do to other rows: see effects.c. */
#define NOTING "(SELECT apply_mode FROM _sync_client_info) <> 1"

/* The columns of _sync_log before those for a row's fields. */
#define LOG_COLUMNS 5

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
    buffer_text(sql, "\nWHEN ");
    sql->failed |= name.failed;
    buffer_free(&name);
}

/* OLD."a" IS NOT NEW."a", byte for byte. */
static void
append_differs(Buffer *sql, const Column *column)
{
    buffer_text(sql, "(");
    sql_field(sql, "NEW", column->name);
    buffer_text(sql, " IS NOT ");
    sql_field(sql, "OLD", column->name);
    buffer_text(sql, " COLLATE BINARY");
    if (column->untyped)
    {
        buffer_text(sql, " OR typeof(");
        sql_field(sql, "NEW", column->name);
        buffer_text(sql, ") <> typeof(");
        sql_field(sql, "OLD", column->name);
        buffer_text(sql, ")");
    }
    buffer_text(sql, ")");
}

/* What an entry of the log holds in its columns v0, v1, … */
typedef enum Holds
{
    HOLDS_NOTHING,
    HOLDS_LAST, /* the last content of a row that is gone, or may be */
    HOLDS_BASE  /* the content before the edit */
} Holds;

/* INSERT INTO _sync_log …, the values of `alias`; the changed mask is left to the caller. */
static void
append_entry(Buffer *sql, const Table *table, const char *alias, Holds holds, bool select)
{
    int i;

    buffer_text(sql, "  INSERT INTO _sync_log (table_id, pk, holds");
    for (i = 0; i < table->column_count && holds != HOLDS_NOTHING; i++)
        buffer_printf(sql, ", v%d", i);
    buffer_printf(sql, ", changed)\n  %s%lld, ", select ? "SELECT " : "VALUES (",
                  (long long)table->id);
    sql_key(sql, table, alias);
    buffer_printf(sql, ", %d", holds);
    for (i = 0; i < table->column_count && holds != HOLDS_NOTHING; i++)
    {
        buffer_text(sql, ", ");
        sql_field(sql, alias, table->columns[i].name);
    }
    buffer_text(sql, ", ");
}

/* AFTER INSERT: every column is new. */
static void
write_insert(Buffer *sql, const Table *table)
{
    append_head(sql, table, "insert", "AFTER INSERT");
    buffer_text(sql, NOTING "\nBEGIN\n");
    append_entry(sql, table, "NEW", HOLDS_NOTHING, false);
    buffer_text(sql, "-1);\nEND");
}

/* AFTER UPDATE: the columns that changed, and where edits are merged what they were. */
static void
write_update(Buffer *sql, const Table *table)
{
    bool base = table->policy == ROWSYNC_MERGE || table->policy == ROWSYNC_MANUAL;
    int i, written = 0;

    append_head(sql, table, "update", "AFTER UPDATE");
    buffer_text(sql, NOTING "\nBEGIN\n");
    if (base)
        append_entry(sql, table, "OLD", HOLDS_BASE, false);
    else
        append_entry(sql, table, "NEW", HOLDS_NOTHING, false);
    for (i = 0; i < table->column_count; i++)
    {
        const Column *column = &table->columns[i];

        if (column->mask == 0)
            continue;
        buffer_text(sql, written++ > 0 ? "\n    | " : "\n    ");
        append_differs(sql, column);
        buffer_printf(sql, " * %lld", (long long)column->mask);
    }
    buffer_text(sql, written > 0 ? ");\nEND" : "0);\nEND");
}

/*
 * AFTER UPDATE that changes the key: the old row is gone, the new one is whole. A key that is the
 * rowid may also be set by that name, which UPDATE OF would pass by.
 */
static void
write_rekey(Buffer *sql, const Table *table, bool rowid_key)
{
    Buffer event = {0};
    int i;

    buffer_text(&event, "AFTER UPDATE");
    for (i = 0; i < table->key_count && !rowid_key; i++)
    {
        buffer_text(&event, i > 0 ? ", " : " OF ");
        buffer_name(&event, table->columns[table->keys[i]].name);
    }
    append_head(sql, table, "rekey", buffer_string(&event));
    for (i = 0; i < table->key_count; i++)
    {
        buffer_text(sql, i > 0 ? " OR " : "(");
        append_differs(sql, &table->columns[table->keys[i]]);
    }
    buffer_text(sql, ") AND " NOTING "\nBEGIN\n");
    append_entry(sql, table, "OLD", HOLDS_LAST, false);
    buffer_text(sql, "0);\n");
    append_entry(sql, table, "NEW", HOLDS_NOTHING, false);
    buffer_text(sql, "-1);\nEND");
    sql->failed |= event.failed;
    buffer_free(&event);
}

/* AFTER DELETE: keeps the row's last content. */
static void
write_delete(Buffer *sql, const Table *table)
{
    append_head(sql, table, "delete", "AFTER DELETE");
    buffer_text(sql, NOTING "\nBEGIN\n");
    append_entry(sql, table, "OLD", HOLDS_LAST, false);
    buffer_text(sql, "0);\nEND");
}

/*
 * BEFORE INSERT or UPDATE: refuses keys that could not be uploaded, under every OR clause. None
 * where the table's own declarations keep them out.
 */
static void
write_check(Buffer *sql, const Table *table, const char *kind, const char *event, bool rowid_key)
{
    Buffer wrong = {0};
    int i;

    for (i = 0; i < table->key_count && !rowid_key; i++)
    {
        const Column *column = &table->columns[table->keys[i]];

        if (column->required && column->kind != KIND_BLOB)
            continue;
        buffer_text(&wrong, wrong.length > 0 ? " OR " : "(");
        sql_field(&wrong, "NEW", column->name);
        buffer_text(&wrong, " IS NULL");
        if (column->kind == KIND_BLOB)
        {
            buffer_text(&wrong, " OR typeof(");
            sql_field(&wrong, "NEW", column->name);
            buffer_text(&wrong, ") <> 'blob'");
        }
    }
    if (wrong.length > 0)
    {
        append_head(sql, table, kind, event);
        buffer_append(sql, wrong.data, wrong.length);
        buffer_text(sql, ") AND " CAPTURING "\nBEGIN\n  SELECT RAISE(ABORT, ");
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
 * the index's comparison of the table's row, named t, with NEW; `differs` says when an UPDATE
 * concerns it.
 */
static void
write_probe(Buffer *sql, const Table *table, const char *kind, const char *event, const char *match,
            const char *differs)
{
    int i;

    append_head(sql, table, kind, event);
    buffer_printf(sql, "%s" CAPTURING "\nBEGIN\n", differs);
    append_entry(sql, table, "t", HOLDS_LAST, true);
    buffer_text(sql, "0 FROM ");
    buffer_name(sql, table->name);
    buffer_printf(sql, " t WHERE %s AND (", match);
    for (i = 0; i < table->key_count; i++)
    {
        buffer_text(sql, i > 0 ? " OR " : "");
        sql_field(sql, "t", table->columns[table->keys[i]].name);
        buffer_text(sql, " IS NOT ");
        sql_field(sql, *differs != '\0' ? "OLD" : "NEW", table->columns[table->keys[i]].name);
    }
    buffer_text(sql, ");\nEND");
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
        sqlite3_bind_text(fields, 1, rs_text(indexes, 0), -1, SQLITE_STATIC);
        while (rs_row(client, fields))
        {
            const char *column = (const char *)sqlite3_column_text(fields, 0);

            if (column == NULL)
            {
                seen = false; /* an expression */
                break;
            }
            buffer_text(&match, match.length > 0 ? " AND " : "");
            sql_field(&match, "t", column);
            buffer_text(&match, " = ");
            sql_field(&match, "NEW", column);
            buffer_text(&match, " COLLATE ");
            buffer_name(&match, rs_text(fields, 1));
            buffer_text(&differs, differs.length > 0 ? " OR " : "(");
            sql_field(&differs, "NEW", column);
            buffer_text(&differs, " IS NOT ");
            sql_field(&differs, "OLD", column);
        }
        sqlite3_reset(fields);
        if (!seen)
        {
            table->hidden_unique = true;
            continue;
        }
        buffer_text(&differs, ") AND ");
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
    write_rekey(&one, table, rowid_key);
    script_next(script, &one);
    write_delete(&one, table);
    script_next(script, &one);
    buffer_free(&one);
    code = write_probes(client, table, script);
    if (code == ROWSYNC_OK && script->text.failed)
        code = rs_nomem(client);
    return code;
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

/* Drops the triggers of a table, and says how many; those of one that was renamed went with it. */
static rowsync_code
drop(rowsync *client, const Table *table, int *count)
{
    sqlite3_stmt *statement = NULL;
    Buffer prefix = {0}, sql = {0};
    rowsync_code code = rs_prepare(client,
                                   "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND"
                                   " substr(name, 1, length(?1)) = ?1 AND tbl_name = ?2"
                                   " COLLATE NOCASE",
                                   &statement);

    if (code != ROWSYNC_OK)
        return code;
    buffer_printf(&prefix, "_sync_%s_", table->name);
    if (prefix.failed)
        rs_nomem(client); /* an empty one would be that of the app's triggers too */
    sqlite3_bind_text(statement, 1, buffer_string(&prefix), -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 2, table->name, -1, SQLITE_STATIC);
    while (client->code == ROWSYNC_OK && rs_row(client, statement))
    {
        buffer_text(&sql, "DROP TRIGGER main.");
        buffer_name(&sql, rs_text(statement, 0));
        buffer_text(&sql, ";");
        (*count)++;
    }
    sqlite3_finalize(statement);
    buffer_free(&prefix);
    if (sql.failed)
        rs_nomem(client);
    code = client->code == ROWSYNC_OK ? rs_exec(client, buffer_string(&sql)) : client->code;
    buffer_free(&sql);
    return code;
}

rowsync_code
triggers_drop(rowsync *client, const Table *table)
{
    int count = 0;

    return drop(client, table, &count);
}

/*
 * Creates a trigger or view as its text has it, but for the schema: SQLite leaves that out of the
 * text that it keeps, and without it a TEMP table of the app's would get the trigger of one of the
 * same name. What the text itself names is looked for in main alone.
 */
static rowsync_code
create_in_main(rowsync *client, const char *text)
{
    size_t name = strlen("CREATE ") + strcspn(text + strlen("CREATE "), " ") + 1;
    Buffer sql = {0};
    rowsync_code code;

    buffer_append(&sql, text, name);
    buffer_printf(&sql, "main.%s", text + name);
    code = sql.failed ? rs_nomem(client) : rs_exec(client, sql.data);
    buffer_free(&sql);
    return code;
}

/* Puts the triggers of a table in place of whatever is there. */
static rowsync_code
install(rowsync *client, Table *table, const Script *script)
{
    const char *text = buffer_string(&script->text);
    int before = 0, i;
    rowsync_code code = drop(client, table, &before);

    for (i = 0; i < script->count && code == ROWSYNC_OK; i++, text += strlen(text) + 1)
        code = create_in_main(client, text);
    if (code == ROWSYNC_OK)
        code = layout_follow(client, table);
    return code == ROWSYNC_OK && before == 0 ? table_made_anew(client, table) : code;
}

/* Adds what databases made by earlier versions lack; with `apply` false it only says whether. */
static rowsync_code
check_own(rowsync *client, bool apply, bool *stale)
{
    static const struct
    {
        const char *table, *column, *definition; /* none: the table is new */
    } later[] = {{"_sync_held", "reason", "TEXT"},
                 {"_sync_held", "changed", "INTEGER NOT NULL DEFAULT 0"},
                 {"_sync_held", "changed_version", "INTEGER NOT NULL DEFAULT 0"},
                 {"_sync_local", "value", NULL}};
    Buffer sql = {0};
    size_t i;

    for (i = 0; i < sizeof(later) / sizeof(*later) && client->code == ROWSYNC_OK; i++)
    {
        int result = sqlite3_table_column_metadata(client->db, "main", later[i].table,
                                                   later[i].column, NULL, NULL, NULL, NULL, NULL);

        if (result == SQLITE_ERROR)
        {
            *stale = true;
            if (later[i].definition != NULL)
                buffer_printf(&sql, "ALTER TABLE main.%s ADD COLUMN %s %s;", later[i].table,
                              later[i].column, later[i].definition);
            else if (apply)
                rs_create(client);
        }
        else if (result != SQLITE_OK)
            rs_fail_sqlite(client, "looking at its tables");
    }
    if (sql.failed)
        rs_nomem(client);
    if (client->code == ROWSYNC_OK && apply)
        rs_exec(client, buffer_string(&sql));
    buffer_free(&sql);
    return client->code;
}

/* Makes the log wide enough for the rows of every table; with `apply` false it only says whether.
 */
static rowsync_code
check_log(rowsync *client, bool apply, bool *stale)
{
    sqlite3_stmt *statement = NULL;
    Buffer sql = {0};
    int i, have = 0, wanted = 0;
    rowsync_code code = rs_prepare(
        client, "SELECT count(*) FROM pragma_table_info('_sync_log', 'main')", &statement);

    if (code == ROWSYNC_OK && rs_row(client, statement))
        have = sqlite3_column_int(statement, 0) - LOG_COLUMNS;
    sqlite3_finalize(statement);
    for (i = 0; i < client->table_count; i++)
        if (client->tables[i].column_count > wanted)
            wanted = client->tables[i].column_count;
    *stale |= have < wanted;
    for (; have < wanted && apply; have++)
        buffer_printf(&sql, "ALTER TABLE main._sync_log ADD COLUMN v%d;", have);
    if (sql.failed)
        rs_nomem(client);
    if (client->code == ROWSYNC_OK && apply)
        rs_exec(client, buffer_string(&sql));
    buffer_free(&sql);
    return client->code;
}

/* Puts a view in place of whatever is there under its name, where its text is not in the schema. */
static rowsync_code
check_view(rowsync *client, sqlite3_stmt *lookup, const char *name, const char *text, bool apply,
           bool *stale)
{
    Buffer drop = {0};
    rowsync_code code;

    if (in_schema(client, lookup, text) || client->code != ROWSYNC_OK)
        return client->code;
    *stale = true;
    if (!apply)
        return ROWSYNC_OK;
    buffer_printf(&drop, "DROP VIEW IF EXISTS main.%s", name);
    code = drop.failed ? rs_nomem(client) : rs_exec(client, drop.data);
    buffer_free(&drop);
    return code == ROWSYNC_OK ? create_in_main(client, text) : code;
}

/*
 * Makes log, triggers and views what they should be. Writes only where something differs, which a
 * look at the schema tells; with `apply` false it only says so by *stale.
 */
static rowsync_code
check(rowsync *client, bool apply, bool *stale)
{
    sqlite3_stmt *lookup = NULL;
    Buffer view = {0};
    rowsync_code code =
        rs_prepare(client, "SELECT 1 FROM main.sqlite_schema WHERE sql = ?1", &lookup);
    int i, j;

    *stale = false;
    if (code == ROWSYNC_OK)
        code = check_own(client, apply, stale);
    /* What is in the log was written by the old triggers: its fields are those of the old layout.
     */
    if (code == ROWSYNC_OK && apply)
        code = capture_fold(client);
    if (code == ROWSYNC_OK)
        code = check_log(client, apply, stale);
    for (i = 0; i < client->table_count && code == ROWSYNC_OK; i++)
    {
        Table *table = &client->tables[i];
        Script script = {0};
        const char *text;
        bool right = true;

        if (!table->exists)
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
    view_write(client, &view);
    if (code == ROWSYNC_OK && view.failed)
        code = rs_nomem(client);
    if (code == ROWSYNC_OK)
        code = check_view(client, lookup, "_sync_edited", view_edited, apply, stale);
    if (code == ROWSYNC_OK)
        code = check_view(client, lookup, "_sync_pending", view.data, apply, stale);
    sqlite3_finalize(lookup);
    buffer_free(&view);
    return code;
}

rowsync_code
triggers_install(rowsync *client)
{
    bool stale;

    return check(client, true, &stale);
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

/* Are the tracked tables what they were when they were read, as far as their rows are concerned? */
static bool
as_described(rowsync *client)
{
    Buffer now = {0};
    bool same = tables_describe(client, &now) == ROWSYNC_OK &&
                strcmp(buffer_string(&now), buffer_string(&client->described)) == 0;

    buffer_free(&now);
    return same;
}

/*
 * Follows the schema: reads the tables again and renews triggers, when the schema has changed, or
 * what is tracked. What is written is made from what is read in the same transaction: another
 * connection may go on changing the schema until then, and after.
 */
rowsync_code
tables_refresh(rowsync *client)
{
    int64_t cookie = 0;
    bool stale, own = sqlite3_get_autocommit(client->db);
    rowsync_code code = read_cookie(client, &cookie);

    if (code != ROWSYNC_OK ||
        (client->loaded && cookie == client->schema_cookie && as_described(client)))
        return code;
    if ((code = tables_load(client)) != ROWSYNC_OK ||
        (code = check(client, false, &stale)) != ROWSYNC_OK)
        return code;
    /* Who may not write makes no edits that they would miss. */
    if (stale && sqlite3_db_readonly(client->db, "main") != 1)
    {
        rs_log(client, "the schema has changed: triggers are renewed");
        if (own && (code = rs_start(client, SQL_BEGIN)) != ROWSYNC_OK)
            return code;
        if ((code = tables_load(client)) == ROWSYNC_OK &&
            (code = triggers_install(client)) == ROWSYNC_OK &&
            (code = read_cookie(client, &cookie)) == ROWSYNC_OK)
            code = tables_load(client);
        if (own)
            code = rs_stop(client, code);
        client->loaded = code == ROWSYNC_OK;
    }
    if (code == ROWSYNC_OK)
        client->schema_cookie = cookie;
    return code;
}

/*
 * Fails where the tracked tables are not what they were when they were read: another connection has
 * changed them since, or what is tracked. Inside a transaction, in which they stay as they are.
 */
rowsync_code
tables_settled(rowsync *client)
{
    if (as_described(client) || client->code != ROWSYNC_OK)
        return client->code;
    client->moved = true;
    return rs_fail(client, ROWSYNC_BUSY, "Try again.",
                   "Another connection has changed the tracked tables meanwhile.");
}
