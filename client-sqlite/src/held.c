/*
 * held.c - rows of the server that could not be applied: edits of them are pending, the app is to
 * decide, or something local is in the way, such as a missing parent. They are tried again whenever
 * something has changed.
 */
#include "client.h"

#include <string.h>

/* Keeps what the server says of a row, the latest of it; one that is stuck with client->reason. */
rowsync_code
held_put(rowsync *client, const Table *table, const Key *key, const RowState *theirs,
         HeldState state)
{
    sqlite3_stmt *statement = rs_keyed(client, SQL_HELD_PUT, table, key);
    Buffer text = {0};
    rowsync_code code;

    if (statement == NULL)
        return client->code;
    key_to_text(&text, table, key);
    sqlite3_bind_text64(statement, 3, buffer_string(&text), text.length, SQLITE_STATIC,
                        SQLITE_UTF8);
    sqlite3_bind_int(statement, 4, state);
    sqlite3_bind_int64(statement, 5, theirs->version);
    sqlite3_bind_int(statement, 6, theirs->deleted);
    sqlite3_bind_text64(statement, 7, theirs->payload.data, theirs->payload.length, SQLITE_STATIC,
                        SQLITE_UTF8);
    if (state == HELD_STUCK)
        sqlite3_bind_text(statement, 8, buffer_string(&client->reason), -1, SQLITE_STATIC);
    code = text.failed ? rs_nomem(client) : rs_finish(client, statement, "keeping a server row");
    sqlite3_clear_bindings(statement);
    buffer_free(&text);
    return code;
}

/* Reads what is held of a row into `text`; false when there is nothing. */
bool
held_get(rowsync *client, const Table *table, const Key *key, RowState *theirs, HeldState *state,
         Buffer *text)
{
    sqlite3_stmt *statement = rs_keyed(client, SQL_HELD_GET, table, key);
    bool found = false;

    if (statement == NULL)
        return false;
    if (rs_row(client, statement))
    {
        found = true;
        theirs->version = sqlite3_column_int64(statement, 0);
        theirs->deleted = sqlite3_column_int(statement, 1) != 0;
        *state = (HeldState)sqlite3_column_int(statement, 3);
        buffer_clear(text);
        buffer_append(text, sqlite3_column_text(statement, 2),
                      (size_t)sqlite3_column_bytes(statement, 2));
        theirs->payload = (Slice){theirs->deleted ? NULL : text->data, text->length};
        if (text->failed)
            rs_nomem(client);
    }
    return rs_reset(client, statement) == ROWSYNC_OK && found;
}

/*
 * A conflict of the row is decided and the server's row in place; where that was `refused` it is
 * held, and with it what is noted of edits taken before.
 */
rowsync_code
held_decide(rowsync *client, const Table *table, const Key *key, const RowState *theirs,
            bool refused)
{
    rowsync_code code = row_drop(client, refused ? SQL_HELD_DECIDED : SQL_HELD_DROP, table, key);

    return code == ROWSYNC_OK && refused ? held_put(client, table, key, theirs, HELD_STUCK) : code;
}

/* Notes which columns of a row that is held the server took an edit of. */
static rowsync_code
note_edit(rowsync *client, const Change *change, int64_t mask, int64_t version)
{
    sqlite3_stmt *statement = rs_keyed(client, SQL_HELD_EDIT, change->table, &change->key);

    if (statement == NULL)
        return client->code;
    sqlite3_bind_int64(statement, 3, mask);
    sqlite3_bind_int64(statement, 4, version);
    return rs_finish(client, statement, "noting an edit of a held row");
}

/*
 * The server took what was `sent` of a row; `row` has its version then, and its payload where the
 * server told it. Of a row that is stuck nobody has seen here what others wrote: it stays held, as
 * it is there now, and its version that of what is in the table. *held says whether it is so.
 */
rowsync_code
held_follow(rowsync *client, const Change *change, const RowState *row, Slice sent, bool *held)
{
    Buffer text = {0}, payload = {0};
    int64_t mask = change->op == OP_INSERT ? -1 : change->changed;
    RowState theirs;
    HeldState state;

    *held = held_get(client, change->table, &change->key, &theirs, &state, &text) &&
            state == HELD_STUCK && !theirs.deleted && !row->deleted;
    if (*held && row->version > theirs.version)
    {
        if (row->payload.data != NULL)
            theirs.payload = row->payload;
        else
        {
            payload_around(change->table, theirs.payload, sent, mask, &payload);
            theirs.payload = (Slice){payload.data, payload.length};
        }
        theirs.version = row->version;
        if (payload.failed)
            rs_nomem(client);
        else /* which it stays, for the reason that it is */
            held_put(client, change->table, &change->key, &theirs, HELD_EDITED);
    }
    if (*held && client->code == ROWSYNC_OK)
        note_edit(client, change, mask, row->version);
    buffer_free(&text);
    buffer_free(&payload);
    return client->code;
}

/* Notes why a row is still held. */
static rowsync_code
note_reason(rowsync *client, const Table *table, const Key *key)
{
    sqlite3_stmt *statement = rs_keyed(client, SQL_HELD_WHY, table, key);

    if (statement == NULL)
        return client->code;
    sqlite3_bind_text(statement, 3, buffer_string(&client->reason), -1, SQLITE_STATIC);
    return rs_finish(client, statement, "noting why a row is held");
}

/*
 * Applies what is held of a row whose edits are gone. What still cannot be stored stays held.
 * Inside a transaction with capture off. *applied says whether it was.
 */
static rowsync_code
apply(rowsync *client, Table *table, const Key *key, bool together, bool *applied)
{
    Buffer text = {0};
    RowState theirs;
    int64_t version;
    HeldState state;
    bool deleted, refused = false, orphans = together || rs_orphans(client);

    *applied = false;
    if (held_get(client, table, key, &theirs, &state, &text) && state != HELD_MANUAL &&
        !(together && theirs.deleted) &&
        row_version(client, table, key, &version, &deleted) == ROWSYNC_OK)
    {
        if (rs_run(client, SQL_SAVE) == ROWSYNC_OK)
        {
            /* The same version: of that row, some columns could not be stored. */
            if (theirs.version >= version)
                row_put(client, table, key, &theirs, &refused);
            if (client->code == ROWSYNC_OK && !refused && !orphans && rs_orphans(client))
            {
                refused = true;
                row_refuse(client, theirs.deleted ? REASON_REFERRED : REASON_ORPHAN);
            }
            if (client->code == ROWSYNC_OK && refused)
                rs_run(client, SQL_UNDO);
            else if (client->code == ROWSYNC_OK)
                *applied = row_drop(client, SQL_HELD_DROP, table, key) == ROWSYNC_OK;
            rs_run(client, SQL_RELEASE);
            if (client->code == ROWSYNC_OK && refused)
                note_reason(client, table, key);
        }
    }
    buffer_free(&text);
    return client->code;
}

/* Applies what is held of one row, unless that would leave an orphan. */
rowsync_code
held_apply(rowsync *client, Table *table, const Key *key, bool *applied)
{
    return apply(client, table, key, false, applied);
}

/*
 * Applies what is held, again and again as long as that brings something forward; `together` for
 * rows that need each other, whatever orphans there are in between. The query must sort: after a
 * change of the schema in this transaction, as every hydration makes, apply()'s ROLLBACK TO ends
 * each statement that still reads a table, and one that reads from its sorter alone goes on.
 */
static rowsync_code
retry(rowsync *client, bool together)
{
    sqlite3_stmt *statement = NULL;
    RowList list = {0};
    bool progress = true, applied;
    int i;
    rowsync_code code =
        rs_prepare(client,
                   "SELECT table_id, pk FROM main._sync_held h WHERE state <> 1"
                   " AND NOT EXISTS (SELECT 1 FROM main._sync_dirty d WHERE d.table_id ="
                   " h.table_id AND d.pk = h.pk) AND NOT EXISTS (SELECT 1 FROM main._sync_rejected"
                   " r WHERE r.table_id = h.table_id AND r.pk = h.pk) ORDER BY server_version",
                   &statement);

    while (progress && code == ROWSYNC_OK)
    {
        progress = false;
        code = rows_read(client, statement, &list);
        for (i = 0; i < list.count && code == ROWSYNC_OK; i++)
        {
            code = apply(client, list.rows[i].table, &list.rows[i].key, together, &applied);
            progress |= applied;
        }
    }
    sqlite3_finalize(statement);
    rows_free(&list);
    return client->code;
}

/* Which columns of a table unique indexes depend on: all, where one is on an expression. */
static const char unique_columns[] =
    "SELECT c.name FROM pragma_table_info(?1, 'main') c WHERE c.pk = 0 AND EXISTS (SELECT 1 FROM"
    " pragma_index_list(?1, 'main') i JOIN pragma_index_info(i.name, 'main') f"
    " ON f.name IS NULL OR f.name = c.name WHERE i.\"unique\" AND i.origin <> 'pk')";

/* Writes an UPDATE of a row that gives these columns values that nobody has; false for none. */
static bool
write_vacate(rowsync *client, const Table *table, sqlite3_stmt *columns, Buffer *sql)
{
    bool any = false;
    int i;

    buffer_clear(sql);
    buffer_text(sql, "UPDATE OR IGNORE main.");
    buffer_name(sql, table->name);
    sqlite3_reset(columns);
    sqlite3_bind_text(columns, 1, table->name, -1, SQLITE_STATIC);
    while (rs_row(client, columns))
        for (i = 0; i < table->column_count; i++)
        {
            const Column *column = &table->columns[i];

            /* One that does not travel would not get its value back. */
            if (sqlite3_stricmp(column->name, rs_text(columns, 0)) != 0)
                continue;
            buffer_text(sql, any ? ", " : " SET ");
            buffer_name(sql, column->name);
            buffer_text(sql, !column->required              ? " = NULL"
                             : column->kind == KIND_INTEGER ? " = random()"
                             : column->kind == KIND_REAL    ? " = random() * 1.0"
                             : column->kind == KIND_BLOB    ? " = randomblob(16)"
                                                            : " = hex(randomblob(16))");
            any = true;
        }
    sqlite3_reset(columns);
    for (i = 0; i < table->key_count; i++)
    {
        buffer_text(sql, i == 0 ? " WHERE " : " AND ");
        buffer_name(sql, table->columns[table->keys[i]].name);
        buffer_printf(sql, " = ?%d", i + 1);
    }
    if (sql->failed)
        rs_nomem(client);
    return any && client->code == ROWSYNC_OK;
}

/* Does SQLite pass over CHECK constraints already? */
static bool
checks_ignored(rowsync *client)
{
    sqlite3_stmt *statement = NULL;
    bool ignored =
        rs_prepare(client, "PRAGMA ignore_check_constraints", &statement) == ROWSYNC_OK &&
        rs_row(client, statement) && sqlite3_column_int(statement, 0) != 0;

    sqlite3_finalize(statement);
    return ignored;
}

/*
 * Gives the unique columns of every row that is held a value that nobody has, so that rows which
 * pass their values on in a circle can be stored. A row that a trigger keeps as it is stays in the
 * way.
 */
static rowsync_code
vacate(rowsync *client)
{
    sqlite3_stmt *columns = NULL, *held = NULL;
    Buffer sql = {0};
    Key key = {0};
    rowsync_code code = rs_prepare(client, unique_columns, &columns);
    bool checks = checks_ignored(client);

    /* The values are not for long. */
    if (code == ROWSYNC_OK && !checks)
        code = rs_exec(client, "PRAGMA ignore_check_constraints = ON");
    if (code == ROWSYNC_OK)
        code = rs_prepare(
            client, "SELECT table_id, pk FROM main._sync_held WHERE state = 2 AND NOT deleted",
            &held);
    while (code == ROWSYNC_OK && rs_row(client, held))
    {
        Table *table = table_by_id(client, sqlite3_column_int64(held, 0));
        sqlite3_stmt *update = NULL;

        if (table == NULL || !table->exists ||
            (code = key_column(client, held, 1, &key)) != ROWSYNC_OK)
            continue;
        if (write_vacate(client, table, columns, &sql) &&
            rs_prepare(client, sql.data, &update) == ROWSYNC_OK)
        {
            key_bind_columns(table, update, 1, &key);
            row_outcome(client, table, sqlite3_step(update));
        }
        sqlite3_finalize(update);
        code = client->code;
    }
    sqlite3_finalize(columns);
    sqlite3_finalize(held);
    buffer_free(&sql);
    key_free(&key);
    if (!checks)
        sqlite3_exec(client->db, "PRAGMA ignore_check_constraints = OFF", NULL, NULL, NULL);
    return client->code;
}

/* The number of rows that are held because something local is in the way; see client->code. */
static int64_t
count_stuck(rowsync *client)
{
    sqlite3_stmt *statement = NULL;
    int64_t count = 0;

    if (rs_prepare(client, "SELECT count(*) FROM main._sync_held WHERE state = 2", &statement) ==
            ROWSYNC_OK &&
        rs_row(client, statement))
        count = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return count;
}

/* Writes an UPDATE that sets those rows aside; nothing where none is stuck. */
static rowsync_code
write_aside(rowsync *client, Buffer *sql)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code = rs_prepare(client,
                                   "SELECT group_concat('(' || table_id || ',' || quote(pk) || ')')"
                                   " FROM main._sync_held WHERE state = 2",
                                   &statement);

    buffer_clear(sql);
    if (code == ROWSYNC_OK && rs_row(client, statement) &&
        sqlite3_column_type(statement, 0) != SQLITE_NULL)
        buffer_printf(sql,
                      "UPDATE main._sync_held SET state = 3 WHERE (table_id, pk) IN (VALUES %s)",
                      rs_text(statement, 0));
    sqlite3_finalize(statement);
    return client->code == ROWSYNC_OK && sql->failed ? rs_nomem(client) : client->code;
}

/*
 * Tries what is stuck with all its unique values out of the way. That is undone where rows stay
 * stuck, for whatever reason, and tried again without them: in the end all are stored that make
 * room for each other.
 */
static rowsync_code
retry_vacated(rowsync *client)
{
    Buffer aside = {0};
    rowsync_code code = ROWSYNC_OK;

    while (code == ROWSYNC_OK && count_stuck(client) > 0)
    {
        if ((code = rs_exec(client, "SAVEPOINT _sync_vacate")) != ROWSYNC_OK ||
            (code = vacate(client)) != ROWSYNC_OK || (code = retry(client, false)) != ROWSYNC_OK ||
            (code = write_aside(client, &aside)) != ROWSYNC_OK)
            break;
        if (aside.length > 0)
            code = rs_exec(client, "ROLLBACK TO _sync_vacate");
        if (code == ROWSYNC_OK)
            code = rs_exec(client, "RELEASE _sync_vacate");
        if (code == ROWSYNC_OK && aside.length > 0)
            code = rs_exec(client, aside.data);
    }
    buffer_free(&aside);
    return client->code == ROWSYNC_OK
               ? rs_exec(client, "UPDATE main._sync_held SET state = 2 WHERE state = 3")
               : client->code;
}

/* Tries again what could not be stored: a parent may have come, a unique value been freed. */
rowsync_code
held_retry(rowsync *client)
{
    rowsync_code code = retry(client, false);

    /* Rows that refer to each other in a circle go in together; what stays an orphan comes out. */
    if (code == ROWSYNC_OK && count_stuck(client) > 1 && (code = retry(client, true)) == ROWSYNC_OK)
        code = take_out_orphans(client);
    return code == ROWSYNC_OK && count_stuck(client) > 0 ? retry_vacated(client) : client->code;
}
