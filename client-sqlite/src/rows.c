/*
 * rows.c - puts what the server says of a row into the app's tables, and keeps the versions.
 *
 * Never INSERT OR REPLACE: that deletes, and cascades. An upsert writes only the columns that the
 * server sent; columns that the server does not have keep their content.
 */
#include "client.h"

#include <string.h>

/* The version of a row as last seen; 0 for one never seen. */
rowsync_code
row_version(rowsync *client, const Table *table, const Key *key, int64_t *version, bool *deleted)
{
    sqlite3_stmt *statement = rs_keyed(client, SQL_VERSION_GET, table, key);
    int result;

    *version = 0;
    *deleted = false;
    if (statement == NULL)
        return client->code;
    result = sqlite3_step(statement);
    if (result == SQLITE_ROW)
    {
        *version = sqlite3_column_int64(statement, 0);
        *deleted = sqlite3_column_int(statement, 1) != 0;
    }
    else if (result != SQLITE_DONE)
        rs_fail_sqlite(client, "reading a version");
    sqlite3_reset(statement);
    return client->code;
}

/* Runs one of the statements that note a version. */
static rowsync_code
note_version(rowsync *client, Statement which, const Table *table, const Key *key, int64_t version,
             bool deleted)
{
    sqlite3_stmt *statement = rs_keyed(client, which, table, key);

    if (statement == NULL)
        return client->code;
    sqlite3_bind_int64(statement, 3, version);
    sqlite3_bind_int(statement, 4, deleted);
    return rs_finish(client, statement, "noting a version");
}

rowsync_code
row_set_version(rowsync *client, const Table *table, const Key *key, int64_t version, bool deleted)
{
    return note_version(client, SQL_VERSION_PUT, table, key, version, deleted);
}

/* The same for a row that is likely to have a version already: cheaper where that is so. */
rowsync_code
row_move_version(rowsync *client, const Table *table, const Key *key, int64_t version, bool deleted)
{
    rowsync_code code = note_version(client, SQL_VERSION_MOVE, table, key, version, deleted);

    return code == ROWSYNC_OK && sqlite3_changes(client->db) == 0
               ? row_set_version(client, table, key, version, deleted)
               : code;
}

/* Has this payload the members that the prepared upsert is for, in the same order? */
static bool
same_shape(const Table *table, Slice payload)
{
    JsonReader reader = scan_reader(payload);
    Slice name, value;
    int i = 0;

    if (table->upsert == NULL || !scan_enter(&reader, '{'))
        return false;
    while (scan_next_member(&reader, i == 0, &name, &value))
    {
        if (i == table->shape_count || name.length != table->shape_names[i].length ||
            memcmp(name.data, table->shape_names[i].data, name.length) != 0)
            return false;
        i++;
    }
    return scan_finish(&reader) && i == table->shape_count;
}

/* The column that a member's name (with its quotes) means: a synced one that is no key, or -1. */
static int
column_of(const Table *table, Slice name, Buffer *scratch)
{
    int i;

    buffer_clear(scratch);
    scan_string(name, scratch);
    for (i = 0; i < table->column_count; i++)
        if (!table->columns[i].key && strcmp(table->columns[i].name, buffer_string(scratch)) == 0)
            return i;
    return -1;
}

/*
 * May the upsert be refused for columns that it leaves out, though the row is there and has them?
 * SQLite looks at a NOT NULL without a default, and at a CHECK, before it comes to the conflict.
 */
static bool
upsert_misjudges(rowsync *client, const Table *table)
{
    sqlite3_stmt *statement = NULL;
    bool found = false;
    int i;

    if (rs_prepare(client,
                   "SELECT c.name FROM main.sqlite_schema m, pragma_table_info(m.name, 'main') c"
                   " WHERE m.type = 'table' AND m.name = ?1 AND c.pk = 0 AND (m.sql LIKE '%check%'"
                   " OR c.\"notnull\" AND coalesce(c.dflt_value, 'NULL') = 'NULL' COLLATE NOCASE)",
                   &statement) != ROWSYNC_OK)
        return false;
    sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
    while (!found && rs_row(client, statement))
    {
        found = true;
        for (i = 0; i < table->shape_count && found; i++)
            found = table->shape[i] < 0 ||
                    strcmp(table->columns[table->shape[i]].name, rs_text(statement, 0)) != 0;
    }
    sqlite3_finalize(statement);
    return found;
}

/* Prepares an UPDATE with the parameters of the upsert, for rows that are there. */
static rowsync_code
prepare_update(rowsync *client, Table *table, const Buffer *updates)
{
    const char *key = table->columns[table->keys[0]].name;
    Buffer sql = {0};

    buffer_text(&sql, "UPDATE OR ABORT main.");
    buffer_name(&sql, table->name);
    buffer_text(&sql, " SET ");
    if (updates->length > 0)
        buffer_append(&sql, updates->data, updates->length);
    else
    {
        buffer_name(&sql, key);
        buffer_text(&sql, " = ");
        buffer_name(&sql, key);
    }
    buffer_text(&sql, " WHERE ");
    sql_row_is(&sql, table, "", table->shape_count + 1);
    if (sql.failed)
        rs_nomem(client);
    else
        rs_prepare(client, sql.data, &table->update);
    buffer_free(&sql);
    return client->code;
}

/*
 * Prepares the upsert for the members of this payload. Parameters: one for each member, those that
 * stand for no column unused, then the key columns.
 */
static rowsync_code
take_shape(rowsync *client, Table *table, Slice payload)
{
    JsonReader reader = scan_reader(payload);
    Buffer sql = {0}, values = {0}, updates = {0}, scratch = {0};
    Slice name, value;
    rowsync_code code = ROWSYNC_OK;
    int i, members = 0;

    sqlite3_finalize(table->upsert);
    sqlite3_finalize(table->update);
    table->upsert = table->update = NULL;
    table->shape_count = 0;
    scan_enter(&reader, '{');
    while (scan_next_member(&reader, members == 0, &name, &value))
        members++;
    if (!scan_finish(&reader) || members > 30000)
        return rs_fail(client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                       "A row of %s is no JSON object.", table->name);
    rs_free(table->shape);
    rs_free(table->shape_names);
    table->shape = rs_realloc(NULL, (size_t)members * sizeof(*table->shape));
    table->shape_names = rs_realloc(NULL, (size_t)members * sizeof(*table->shape_names));
    buffer_clear(&table->shape_text);
    buffer_append(&table->shape_text, payload.data, payload.length);
    if (table->shape == NULL || table->shape_names == NULL || table->shape_text.failed)
        return rs_nomem(client);
    /* A constraint that says REPLACE must not make another row vanish. */
    buffer_text(&sql,
                table->own_conflict_clause ? "INSERT OR ABORT INTO main." : "INSERT INTO main.");
    buffer_name(&sql, table->name);
    buffer_text(&sql, " (");
    for (i = 0; i < table->key_count; i++)
    {
        buffer_text(&sql, i > 0 ? ", " : "");
        buffer_name(&sql, table->columns[table->keys[i]].name);
        buffer_printf(&values, "%s?%d", i > 0 ? ", " : "", members + i + 1);
    }
    /* The names must live as long as the shape: they are slices of its own copy. */
    reader = scan_reader((Slice){table->shape_text.data, table->shape_text.length});
    scan_enter(&reader, '{');
    for (i = 0; scan_next_member(&reader, i == 0, &name, &value); i++)
    {
        int column = column_of(table, name, &scratch);

        for (int j = 0; j < i; j++)
            if (table->shape[j] == column)
                table->shape[j] = -1; /* repeated: the last one counts */
        table->shape_names[i] = name;
        table->shape[i] = column;
    }
    for (i = 0; i < members; i++)
    {
        const char *column;

        if (table->shape[i] < 0)
            continue;
        column = table->columns[table->shape[i]].name;
        buffer_text(&sql, ", ");
        buffer_name(&sql, column);
        buffer_printf(&values, ", ?%d", i + 1);
        buffer_text(&updates, updates.length > 0 ? ", " : "");
        buffer_name(&updates, column);
        buffer_printf(&updates, " = ?%d", i + 1);
    }
    buffer_printf(&sql, ") VALUES (%s) ON CONFLICT (", buffer_string(&values));
    for (i = 0; i < table->key_count; i++)
    {
        buffer_text(&sql, i > 0 ? ", " : "");
        buffer_name(&sql, table->columns[table->keys[i]].name);
    }
    table->updates = updates.length > 0;
    if (updates.length > 0)
        buffer_printf(&sql, ") DO UPDATE SET %s", updates.data);
    else
        buffer_text(&sql, ") DO NOTHING");
    if (sql.failed || values.failed || updates.failed || scratch.failed)
        code = rs_nomem(client);
    else
        code = rs_prepare(client, sql.data, &table->upsert);
    if (code == ROWSYNC_OK)
        table->shape_count = members;
    if (code == ROWSYNC_OK && upsert_misjudges(client, table))
        prepare_update(client, table, &updates);
    if (client->code != ROWSYNC_OK) /* it would be used without */
    {
        sqlite3_finalize(table->upsert);
        table->upsert = NULL;
    }
    buffer_free(&sql);
    buffer_free(&values);
    buffer_free(&updates);
    buffer_free(&scratch);
    return client->code;
}

/* Binds the payload and the key to the upsert, or to the update. */
static int
bind_row(const Table *table, sqlite3_stmt *statement, const Key *key, Slice payload,
         Buffer *scratch)
{
    JsonReader reader = scan_reader(payload);
    Slice name, value;
    int i, result = SQLITE_OK;

    scan_enter(&reader, '{');
    for (i = 0; result == SQLITE_OK && scan_next_member(&reader, i == 0, &name, &value); i++)
        if (table->shape[i] >= 0)
            result = value_bind(statement, i + 1, &table->columns[table->shape[i]], value, scratch);
    return result == SQLITE_OK ? key_bind_columns(table, statement, table->shape_count + 1, key)
                               : result;
}

/* Is there a row of that key? See client->code. */
bool
row_there(rowsync *client, Table *table, const Key *key)
{
    sqlite3_stmt *statement = table_statement(client, table, TABLE_THERE);
    bool there;

    if (statement == NULL)
        return false;
    key_bind_columns(table, statement, 1, key);
    there = rs_row(client, statement);
    rs_reset(client, statement);
    sqlite3_clear_bindings(statement);
    return there;
}

/* Does a row of a table that is not tracked forbid to delete this one? */
static bool
clings(rowsync *client, Table *table, const Key *key)
{
    sqlite3_stmt *statement;
    bool found = false;

    if (!rs_enforced(client) || (statement = table_statement(client, table, TABLE_CLINGS)) == NULL)
        return false;
    if (sqlite3_bind_parameter_count(statement) > 0)
        key_bind_columns(table, statement, 1, key);
    found = rs_row(client, statement) && sqlite3_column_int(statement, 0);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return found;
}

/* Notes why a row cannot be stored, for held_put(). */
void
row_refuse(rowsync *client, const char *reason)
{
    buffer_clear(&client->reason);
    buffer_text(&client->reason, reason);
    if (client->reason.failed)
        rs_nomem(client);
}

/*
 * What came of storing a row of the server. OK where it is in, and where a constraint stands
 * against it; but a constraint or trigger that rolled everything back is a failure.
 */
rowsync_code
row_outcome(rowsync *client, const Table *table, int result)
{
    bool constraint = (result & 0xFF) == SQLITE_CONSTRAINT;

    if (result == SQLITE_NOMEM)
        return rs_nomem(client);
    if (result != SQLITE_DONE && !constraint)
        return rs_fail_sqlite(client, "storing a row of the server");
    if (sqlite3_get_autocommit(client->db))
        return rs_fail(client, ROWSYNC_DATABASE,
                       "Use RAISE(ABORT) and ON CONFLICT ABORT in tracked tables, not ROLLBACK.",
                       "A constraint or trigger of \"%s\" ended the transaction of the sync: %s.",
                       table->name, sqlite3_errmsg(client->db));
    if (constraint)
    {
        row_refuse(client, sqlite3_errmsg(client->db));
        rs_log(client, "a row of %s cannot be stored here yet: %s", table->name,
               buffer_string(&client->reason));
    }
    return client->code;
}

/*
 * Makes the row what `state` says and notes its version. Where a constraint of the local table
 * stands against it, *refused is set, client->reason says why, and nothing has changed. Inside a
 * transaction with capture off.
 */
rowsync_code
row_put(rowsync *client, Table *table, const Key *key, const RowState *state, bool *refused)
{
    sqlite3_stmt *statement;
    Outcome out = {0};
    bool kept = local_kept(client, table, key), back;

    *refused = false;
    back = kept && !state->deleted && !row_there(client, table, key);
    if (client->code != ROWSYNC_OK)
        return client->code;
    if (state->deleted)
    {
        if ((*refused = clings(client, table, key)))
            row_refuse(client, REASON_REFERRED);
        if (*refused || client->code != ROWSYNC_OK ||
            (statement = table_statement(client, table, TABLE_DELETE)) == NULL)
            return client->code;
        out.result = key_bind_columns(table, statement, 1, key);
    }
    else
    {
        if (!same_shape(table, state->payload) &&
            take_shape(client, table, state->payload) != ROWSYNC_OK)
            return client->code;
        statement =
            table->update != NULL && row_there(client, table, key) ? table->update : table->upsert;
        if (client->code != ROWSYNC_OK)
            return client->code;
        sqlite3_reset(statement);
        out.result = bind_row(table, statement, key, state->payload, &client->scratch);
    }
    if (out.result != SQLITE_OK)
        row_outcome(client, table, out.result);
    else if (effects_step(client, table, key, statement, state->deleted,
                          state->deleted && state->version > 0, &out) == ROWSYNC_OK &&
             out.result == SQLITE_DONE && out.changes == 0 &&
             (state->deleted ? row_there(client, table, key) : table->updates))
    {
        out.result = SQLITE_CONSTRAINT; /* without an error */
        row_refuse(client, "a trigger or an ON CONFLICT IGNORE of the table passed it over");
    }
    if (out.waits)
        row_refuse(client, "an edit of a row that would go along waits for a decision");
    *refused = out.waits || out.result != SQLITE_DONE;
    /* The bindings point into the answer, which does not outlive this call for long. */
    sqlite3_clear_bindings(statement);
    if (client->code != ROWSYNC_OK || *refused)
        return client->code;
    if (back)
        local_return(client, table, key);
    else if (kept && (!state->deleted || state->version > 0))
        row_drop(client, SQL_LOCAL_DROP, table, key);
    return client->code == ROWSYNC_OK
               ? row_set_version(client, table, key, state->version, state->deleted)
               : client->code;
}

/* As row_put(), but a deletion is refused where all of them are to be held. */
rowsync_code
row_take(rowsync *client, Table *table, const Key *key, const RowState *state, bool *refused)
{
    *refused = client->cautious && state->deleted;
    if (!*refused)
        return row_put(client, table, key, state, refused);
    row_refuse(client, REASON_REFERRED);
    return client->code;
}

/* Runs one of the statements that take a table and a key. */
rowsync_code
row_drop(rowsync *client, Statement which, const Table *table, const Key *key)
{
    sqlite3_stmt *statement = rs_keyed(client, which, table, key);

    if (statement == NULL)
        return client->code;
    return rs_finish(client, statement, "clearing a row's state");
}
