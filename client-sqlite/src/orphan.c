/*
 * orphan.c - rows whose parent is missing, which no commit would let through.
 *
 * They come about where the server's rows and those of this device meet: a parent that was deleted
 * there and got a child here, a parent that could not be stored, a change given up. They are looked
 * for only when SQLite counts a violation, and not by PRAGMA foreign_key_check, which does not name
 * the rows of a table without rowid.
 */
#include "client.h"

#include <string.h>

/* Does SQLite look at foreign keys here? */
bool
rs_enforced(rowsync *client)
{
    int enforced = 0;

    sqlite3_db_config(client->db, SQLITE_DBCONFIG_ENABLE_FKEY, -1, &enforced);
    return enforced != 0;
}

/* Would the transaction's commit fail now for a foreign key? */
bool
rs_orphans(rowsync *client)
{
    int now = 0, high = 0;

    return sqlite3_db_status(client->db, SQLITE_DBSTATUS_DEFERRED_FKS, &now, &high, 0) ==
               SQLITE_OK &&
           now > 0;
}

/*
 * Rows of tables that are not tracked may refer to one that the server has deleted (row_put() sees
 * that), or to one whose parent it has deleted: then that row cannot go, and its parent's going
 * makes an orphan of it. Where that is so after everything was taken in, the transaction is given
 * up and begun anew, once in a call, with all deletions held (row_take()): those that make no
 * orphans are then done one by one by held_retry(), the others stay held, and block nothing.
 */
bool
orphans_stuck(rowsync *client)
{
    if (client->code != ROWSYNC_OK || client->cautious || !rs_orphans(client))
        return false;
    rs_log(client, "rows that are not synced hold on to deleted ones: deletions are done singly");
    client->cautious = true;
    return true;
}

/* Rows that are `whose` have to go, and cannot. */
rowsync_code
orphans_fail(rowsync *client, const char *whose)
{
    return rs_fail(client, ROWSYNC_DATABASE,
                   "Delete the rows that refer to them first, or let their reference say ON DELETE"
                   " CASCADE or SET NULL.",
                   "Rows of a table that is not tracked refer to %s, which cannot go.", whose);
}

/* The tracked table of a name, as references have it, or NULL. */
Table *
table_referred(const rowsync *client, const char *name)
{
    int i;

    for (i = 0; i < client->table_count; i++)
        if (sqlite3_stricmp(client->tables[i].name, name) == 0)
            return &client->tables[i];
    return NULL;
}

/*
 * INSERT … SELECT: adds the rows of a table to those to be taken out of which a reference has no
 * parent that is there and stays. Empty where the table refers to nothing. A NULL in a reference
 * refers to nothing either.
 */
static rowsync_code
write_query(rowsync *client, const Table *table, Buffer *sql)
{
    sqlite3_stmt *statement = NULL;
    const Table *parent = NULL;
    Buffer given = {0}, match = {0};
    int references = 0;
    bool more;
    rowsync_code code = rs_prepare(
        client,
        "SELECT f.\"table\", f.seq, f.\"from\", coalesce(f.\"to\", (SELECT name FROM"
        " pragma_table_xinfo(f.\"table\", 'main') WHERE pk = f.seq + 1)) FROM"
        " pragma_foreign_key_list(?1, 'main') f JOIN main.sqlite_schema m ON m.type = 'table'"
        " AND m.name = f.\"table\" COLLATE NOCASE ORDER BY f.id, f.seq",
        &statement);

    if (code != ROWSYNC_OK)
        return code;
    sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
    buffer_printf(sql, "INSERT OR IGNORE INTO temp._sync_taken SELECT %lld, ",
                  (long long)table->id);
    sql_key(sql, table, "t");
    buffer_text(sql, " FROM main.");
    buffer_name(sql, table->name);
    buffer_text(sql, " t WHERE ");
    do
    {
        more = rs_row(client, statement);
        if (match.length > 0 && (!more || sqlite3_column_int(statement, 1) == 0))
        {
            if (parent != NULL)
            {
                buffer_printf(&match,
                              " AND NOT EXISTS (SELECT 1 FROM temp._sync_taken x WHERE x.table_id ="
                              " %lld AND x.pk = ",
                              (long long)parent->id);
                sql_key(&match, parent, "p");
                buffer_text(&match, ")");
            }
            buffer_printf(sql, "%s(%s AND NOT EXISTS (%s))", references++ > 0 ? " OR " : "",
                          buffer_string(&given), buffer_string(&match));
            sql->failed |= match.failed;
            buffer_clear(&given);
            buffer_clear(&match);
        }
        if (!more)
            break;
        if (match.length == 0)
        {
            parent = table_referred(client, rs_text(statement, 0));
            buffer_text(&match, "SELECT 1 FROM main.");
            buffer_name(&match, rs_text(statement, 0));
            buffer_text(&match, " p WHERE p.");
        }
        else
        {
            buffer_text(&given, " AND ");
            buffer_text(&match, " AND p.");
        }
        /* The parent's column first: its collation counts. */
        buffer_name(&match, rs_text(statement, 3));
        buffer_text(&match, " = t.");
        buffer_name(&match, rs_text(statement, 2));
        buffer_text(&given, "t.");
        buffer_name(&given, rs_text(statement, 2));
        buffer_text(&given, " IS NOT NULL");
        sql->failed |= given.failed || match.failed;
    } while (more);
    sqlite3_finalize(statement);
    if (sql->failed)
        rs_nomem(client);
    if (references == 0)
        buffer_clear(sql);
    buffer_free(&given);
    buffer_free(&match);
    return client->code;
}

/* Adds the rows of a table that lose their parent. Sets *progress where there are some. */
static rowsync_code
find(rowsync *client, const Table *table, bool *progress)
{
    Buffer sql = {0};

    if (write_query(client, table, &sql) == ROWSYNC_OK && sql.length > 0 &&
        rs_exec(client, sql.data) == ROWSYNC_OK)
        *progress |= sqlite3_changes(client->db) > 0;
    buffer_free(&sql);
    return client->code;
}

/*
 * Notes a row that is taken out. The server's row is held until the parent is there; an edit of
 * this device becomes a dead letter that keeps the row's content, and is no conflict any more.
 */
static rowsync_code
keep(rowsync *client, Table *table, const Key *key)
{
    static const char message[] = "The row that it refers to was deleted on the server.";
    Change change = {.table = table, .key = *key};
    Buffer payload = {0}, ignored = {0};
    RowState state = {0};
    const char *problem;
    bool edited, moved, deleted, there;

    if (local_keep(client, table, key) == ROWSYNC_OK &&
        has_edits(client, table, key, &edited) == ROWSYNC_OK &&
        row_version(client, table, key, &state.version, &deleted) == ROWSYNC_OK &&
        row_payload(client, table, key, &payload, &there))
    {
        state.payload = (Slice){buffer_string(&payload), there ? payload.length : 0};
        if (!edited)
        {
            row_refuse(client, REASON_ORPHAN);
            held_put(client, table, key, &state, HELD_STUCK);
        }
        else if (change_payload(client, &change, &ignored, true, &problem) == ROWSYNC_OK &&
                 change.change_id != 0)
        {
            pending_reject(client, &change, state.payload, "parent_deleted",
                           (Slice){message, strlen(message)}, (Slice){0}, &moved);
            if (client->code == ROWSYNC_OK)
                row_drop(client, SQL_HELD_DECIDED, table, key);
        }
    }
    if (client->code == ROWSYNC_OK && (payload.failed || ignored.failed))
        rs_nomem(client);
    buffer_free(&payload);
    buffer_free(&ignored);
    return client->code;
}

/*
 * Takes a row out of its table, unless a table that is not tracked forbids it. It has no version
 * then: what is held will be newer.
 */
static rowsync_code
take_out(rowsync *client, Table *table, const Key *key)
{
    const RowState gone = {0, true, {0}};
    bool refused;

    if (row_drop(client, SQL_VERSION_DROP, table, key) != ROWSYNC_OK ||
        row_put(client, table, key, &gone, &refused) != ROWSYNC_OK || refused)
        return client->code;
    return row_drop(client, SQL_VERSION_DROP, table, key);
}

/* Does this to each of the rows that were found. */
static rowsync_code
each_found(rowsync *client, rowsync_code (*act)(rowsync *, Table *, const Key *))
{
    sqlite3_stmt *statement = NULL;
    RowList list = {0};
    rowsync_code code = rs_prepare(client, "SELECT table_id, pk FROM temp._sync_taken", &statement);
    int i;

    if (code == ROWSYNC_OK)
        code = rows_read(client, statement, &list);
    for (i = 0; i < list.count && code == ROWSYNC_OK; i++)
        code = act(client, list.rows[i].table, &list.rows[i].key);
    sqlite3_finalize(statement);
    rows_free(&list);
    return code;
}

/*
 * Takes out every row whose parent is missing, and then theirs. All of them are noted before the
 * first one goes, for a foreign key's action may change or delete the others with it.
 */
rowsync_code
take_out_orphans(rowsync *client)
{
    rowsync_code code = ROWSYNC_OK;
    bool progress = true;
    int i;

    if (!rs_orphans(client))
        return ROWSYNC_OK;
    code = rs_exec(client, "CREATE TEMP TABLE IF NOT EXISTS _sync_taken (table_id INTEGER NOT NULL,"
                           " pk NOT NULL, PRIMARY KEY (table_id, pk)) WITHOUT ROWID;"
                           "DELETE FROM temp._sync_taken");
    while (code == ROWSYNC_OK && progress)
    {
        progress = false;
        for (i = 0; i < client->table_count && code == ROWSYNC_OK; i++)
            if (client->tables[i].exists)
                code = find(client, &client->tables[i], &progress);
    }
    if (code == ROWSYNC_OK && (code = each_found(client, keep)) == ROWSYNC_OK)
        code = each_found(client, take_out);
    return code;
}
