/*
 * statement.c - the library's own tables in the app's database, and its statements.
 */
#include "client.h"

/*
 * The library's own tables. _sync_log is what the triggers write: one entry for each edit, in its
 * columns v0, v1, … (made as tables need them) the fields of a row, where `holds` says so: 1, its
 * last content, 2, its content before the edit. 3 is an entry of the library's own.
 *
 * _sync_dirty has the rows to be uploaded, one mark a row, made from the log by capture.c: the
 * change id of the last edit, the version that the first edit was made on, the columns changed
 * since as a bit mask, for a deleted row its last content and for merging its first, as an object
 * of SQL literals (quote() is exact for every type and cannot fail, which no JSON function is in
 * all SQLite versions). The view _sync_edited has the keys of both: see view.c.
 *
 * _sync_rejected has what the server refused, with the old_row of the mark. That is NULL for a new
 * row which the server never had: it refused every upload of it, which was of one edit, so that
 * none was taken unheard. '{}' where edits went together, and one of them may have been taken
 * before.
 *
 * _sync_held keeps what the server says of a row that could not be applied: because edits of the
 * row are pending (state 0), because the app is to decide (1), or because something local is in the
 * way, such as a missing parent (2): the reason says what. The latest one counts. The version of a
 * row that is stuck stays that of what is in its table, so that edits are made on what was seen;
 * which columns the server took edits of since, the last one with which version, is in `changed`
 * and `changed_version`.
 *
 * _sync_local has the columns that stay here of rows that are out of their tables for a while.
 *
 * _sync_overwritten has what was written here and lost against the server in a conflict, the last
 * thousand of it.
 */
static const char schema_sql[] =
    "CREATE TABLE IF NOT EXISTS main._sync_client_info ("
    " id INTEGER PRIMARY KEY CHECK (id = 1),"
    " apply_mode INTEGER NOT NULL DEFAULT 0,"
    " next_change_id INTEGER NOT NULL,"
    " last_server_seq_seen INTEGER NOT NULL DEFAULT 0,"
    " current_window_until INTEGER NOT NULL DEFAULT 0,"
    " hydrated INTEGER NOT NULL DEFAULT 0,"
    " format INTEGER NOT NULL DEFAULT 1,"
    " epoch INTEGER NOT NULL DEFAULT 0,"
    " epochs TEXT NOT NULL DEFAULT '',"
    " last_upload INTEGER NOT NULL DEFAULT 0,"
    " user_id TEXT, source_id TEXT, url TEXT);"
    "INSERT OR IGNORE INTO main._sync_client_info (id, next_change_id)"
    " VALUES (1," ROWSYNC_CLOCK ");"
    "CREATE TABLE IF NOT EXISTS main._sync_table ("
    " table_id INTEGER PRIMARY KEY, table_name TEXT NOT NULL UNIQUE, schema_name TEXT NOT NULL,"
    " policy INTEGER NOT NULL DEFAULT 0, local_columns TEXT NOT NULL DEFAULT '[]',"
    " layout TEXT NOT NULL DEFAULT '', refill INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE IF NOT EXISTS main._sync_version ("
    " table_id INTEGER NOT NULL, pk NOT NULL, server_version INTEGER NOT NULL,"
    " deleted INTEGER NOT NULL, PRIMARY KEY (table_id, pk)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS main._sync_dirty ("
    " table_id INTEGER NOT NULL, pk NOT NULL, change_id INTEGER NOT NULL, queued INTEGER NOT NULL,"
    " base_version INTEGER NOT NULL, changed INTEGER NOT NULL, old_row TEXT, base_row TEXT,"
    " PRIMARY KEY (table_id, pk)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS main._sync_log ("
    " seq INTEGER PRIMARY KEY, table_id, pk, holds, changed);"
    "CREATE TABLE IF NOT EXISTS main._sync_rejected ("
    " table_id INTEGER NOT NULL, pk NOT NULL, pk_text TEXT NOT NULL, change_id INTEGER NOT NULL,"
    " op TEXT NOT NULL, base_version INTEGER NOT NULL, changed INTEGER NOT NULL,"
    " reason TEXT NOT NULL, message TEXT, details TEXT, payload TEXT, old_row TEXT,"
    " rejected_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),"
    " PRIMARY KEY (table_id, pk)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS main._sync_held ("
    " table_id INTEGER NOT NULL, pk NOT NULL, pk_text TEXT NOT NULL, state INTEGER NOT NULL,"
    " server_version INTEGER NOT NULL, deleted INTEGER NOT NULL, payload TEXT, reason TEXT,"
    " changed INTEGER NOT NULL DEFAULT 0, changed_version INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY (table_id, pk)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS main._sync_local ("
    " table_id INTEGER NOT NULL, pk NOT NULL, name TEXT NOT NULL, value,"
    " PRIMARY KEY (table_id, pk, name)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS main._sync_overwritten ("
    " id INTEGER PRIMARY KEY, table_name TEXT NOT NULL, pk_uuid TEXT NOT NULL, op TEXT NOT NULL,"
    " base_version INTEGER NOT NULL, server_version INTEGER NOT NULL, payload TEXT,"
    " overwritten_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')));"
    "CREATE VIEW IF NOT EXISTS main._sync_row_meta AS SELECT t.table_name,"
    " CASE WHEN typeof(v.pk) <> 'blob' THEN CAST(v.pk AS TEXT)"
    " WHEN length(v.pk) <> 16 THEN lower(hex(v.pk)) ELSE lower(substr(hex(v.pk), 1, 8) || '-' ||"
    " substr(hex(v.pk), 9, 4) || '-' || substr(hex(v.pk), 13, 4) || '-' ||"
    " substr(hex(v.pk), 17, 4) || '-' || substr(hex(v.pk), 21)) END AS pk_uuid,"
    " v.server_version, v.deleted FROM _sync_version v JOIN _sync_table t USING (table_id);"
    "CREATE VIEW IF NOT EXISTS main._sync_conflict AS SELECT t.table_name, h.pk_text AS pk_uuid,"
    " d.base_version, h.server_version, h.deleted AS server_deleted, h.payload AS server_payload"
    " FROM _sync_held h JOIN _sync_table t USING (table_id)"
    " LEFT JOIN _sync_dirty d USING (table_id, pk) WHERE h.state = 1;";

#define ROW_KEY "table_id = ?1 AND pk = ?2"

static const char *const statement_sql[SQL_STATEMENTS] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_BEGIN_READING] = "BEGIN",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_SAVE] = "SAVEPOINT _sync_row",
    [SQL_RELEASE] = "RELEASE _sync_row",
    [SQL_UNDO] = "ROLLBACK TO _sync_row",
    [SQL_APPLY_ON] = "UPDATE main._sync_client_info SET apply_mode = 1",
    [SQL_WATCH] = "SAVEPOINT _sync_effects",
    [SQL_WATCH_ON] = "UPDATE main._sync_client_info SET apply_mode = 2",
    [SQL_UNWATCH] = "ROLLBACK TO _sync_effects",
    [SQL_UNWATCHED] = "RELEASE _sync_effects",
    [SQL_EFFECTS] = "SELECT DISTINCT table_id, pk FROM main._sync_log WHERE pk IS NOT NULL"
                    " AND (holds = 1 OR changed <> 0) AND NOT (" ROW_KEY ")",
    [SQL_TEMP_TRIGGERS] = "SELECT EXISTS (SELECT 1 FROM sqlite_temp_schema WHERE type = 'trigger')",
    [SQL_APPLY_OFF] = "UPDATE main._sync_client_info SET apply_mode = 0",
    [SQL_INFO] = "SELECT url, user_id, source_id, last_server_seq_seen, current_window_until,"
                 " hydrated, format, epoch, last_upload, epochs FROM main._sync_client_info",
    [SQL_EPOCH] = "UPDATE main._sync_client_info SET epoch = ?1, epochs = ?2",
    [SQL_CURSOR] = "UPDATE main._sync_client_info SET last_server_seq_seen = ?1,"
                   " current_window_until = ?2, hydrated = ?3",
    [SQL_LAST_UPLOAD] = "UPDATE main._sync_client_info SET last_upload = ?1",
    /* Never below the clock, so that a restored copy of the file does not give old numbers again.
     */
    [SQL_TAKE_CHANGE_ID] =
        "UPDATE main._sync_client_info SET next_change_id = max(next_change_id," ROWSYNC_CLOCK
        ") + 1"
        " RETURNING next_change_id - 1",
    [SQL_LOG_ANY] = "SELECT 1 FROM main._sync_log LIMIT 1",
    /* As above. */
    [SQL_LOG_NUMBER] =
        "UPDATE main._sync_client_info SET next_change_id ="
        " max(next_change_id," ROWSYNC_CLOCK ") + (SELECT max(seq) FROM main._sync_log)",
    [SQL_LOG_CLEAR] = "DELETE FROM main._sync_log",
    [SQL_COUNTS] = "SELECT (SELECT count(*) FROM main._sync_edited),"
                   " (SELECT count(*) FROM main._sync_held WHERE state = 1),"
                   " (SELECT count(*) FROM main._sync_rejected),"
                   " (SELECT count(*) FROM main._sync_held WHERE state = 2)",
    [SQL_ASIDE] = "SELECT EXISTS (SELECT 1 FROM main._sync_rejected),"
                  " EXISTS (SELECT 1 FROM main._sync_held)",
    [SQL_VERSION_GET] = "SELECT server_version, deleted FROM main._sync_version WHERE " ROW_KEY,
    [SQL_VERSION_PUT] =
        "INSERT INTO main._sync_version VALUES (?1, ?2, ?3, ?4) ON CONFLICT (table_id, pk)"
        " DO UPDATE SET server_version = excluded.server_version, deleted = excluded.deleted"
        " WHERE excluded.server_version >= server_version",
    [SQL_VERSION_MOVE] = "UPDATE main._sync_version SET server_version = ?3, deleted = ?4"
                         " WHERE " ROW_KEY " AND server_version <= ?3",
    [SQL_VERSION_DROP] = "DELETE FROM main._sync_version WHERE " ROW_KEY,
    [SQL_EDITED] = "SELECT EXISTS (SELECT 1 FROM main._sync_dirty WHERE " ROW_KEY ")"
                   " OR EXISTS (SELECT 1 FROM main._sync_rejected WHERE " ROW_KEY ")",
    [SQL_EDITS] = "SELECT base_version, changed FROM main._sync_dirty WHERE " ROW_KEY
                  " UNION ALL SELECT base_version, changed FROM main._sync_rejected WHERE " ROW_KEY,
    [SQL_SEEN_PUT] = "INSERT OR IGNORE INTO temp._sync_seen VALUES (?1, ?2)",
    [SQL_DIRTY_GET] =
        "SELECT d.change_id, d.base_version, d.changed | coalesce(r.changed, 0), d.old_row,"
        " d.base_row, v.deleted FROM main._sync_dirty d LEFT JOIN main._sync_rejected r"
        " USING (table_id, pk) LEFT JOIN main._sync_version v USING (table_id, pk)"
        " WHERE d.table_id = ?1 AND d.pk = ?2",
    [SQL_DIRTY_QUEUE] =
        "SELECT d.table_id, d.pk, d.change_id, d.queued FROM main._sync_dirty d"
        " WHERE d.queued > ?1 AND d.change_id <= ?2 AND NOT EXISTS (SELECT 1 FROM main._sync_held h"
        " WHERE h.table_id = d.table_id AND h.pk = d.pk AND h.state = 1)"
        " ORDER BY d.queued LIMIT ?3",
    [SQL_DIRTY_CLEAR] = "DELETE FROM main._sync_dirty WHERE " ROW_KEY " AND change_id = ?3",
    [SQL_DIRTY_DROP] = "DELETE FROM main._sync_dirty WHERE " ROW_KEY,
    [SQL_DIRTY_REBASE] =
        "UPDATE main._sync_dirty SET base_version = ?3, change_id = ?4 WHERE " ROW_KEY
        " AND base_version < ?3",
    [SQL_DIRTY_RENEW] =
        "UPDATE main._sync_dirty SET base_version = ?3, change_id = ?4, changed = ?5,"
        " base_row = NULL WHERE " ROW_KEY,
    [SQL_DIRTY_PUT] =
        "INSERT INTO main._sync_dirty (table_id, pk, change_id, queued, base_version, changed,"
        " old_row) VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6) ON CONFLICT (table_id, pk) DO UPDATE SET"
        " change_id = excluded.change_id, changed = changed | excluded.changed,"
        " old_row = coalesce(old_row, excluded.old_row)",
    [SQL_FETCH_AGAIN] = "UPDATE main._sync_client_info SET hydrated = 3 WHERE hydrated = 2"
                        " AND EXISTS (SELECT 1 FROM main._sync_version v WHERE server_version = 0"
                        " AND NOT EXISTS (SELECT 1 FROM main._sync_held h"
                        " WHERE h.table_id = v.table_id AND h.pk = v.pk))",
    [SQL_REFILL] = "UPDATE main._sync_table SET refill = refill | ?1 WHERE table_id = ?2",
    [SQL_REFILLED] = "UPDATE main._sync_table SET refill = refill & ~1",
    [SQL_HELD_PUT] =
        "INSERT INTO main._sync_held (table_id, pk, pk_text, state, server_version, deleted,"
        " payload, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (table_id, pk)"
        " DO UPDATE SET state = CASE WHEN 1 IN (state, excluded.state) THEN 1"
        " ELSE max(state, excluded.state) END, server_version = excluded.server_version,"
        " deleted = excluded.deleted, payload = excluded.payload,"
        " reason = coalesce(excluded.reason, reason)"
        " WHERE excluded.server_version >= server_version",
    [SQL_HELD_GET] =
        "SELECT server_version, deleted, payload, state FROM main._sync_held WHERE " ROW_KEY,
    [SQL_HELD_DECIDED] = "UPDATE main._sync_held SET state = 0 WHERE " ROW_KEY " AND state = 1",
    [SQL_HELD_EDIT] = "UPDATE main._sync_held SET changed = changed | ?3,"
                      " changed_version = max(changed_version, ?4) WHERE " ROW_KEY,
    [SQL_HELD_RESEND] =
        "INSERT INTO main._sync_log (table_id, pk, holds, changed) SELECT table_id, pk, 3,"
        " CASE WHEN changed_version > ?3 THEN changed ELSE 0 END FROM main._sync_held h "
        "WHERE " ROW_KEY
        " AND (changed_version > ?3 OR EXISTS (SELECT 1 FROM main._sync_dirty d WHERE"
        " d.table_id = h.table_id AND d.pk = h.pk))",
    [SQL_HELD_WHY] =
        "UPDATE main._sync_held SET reason = ?3 WHERE " ROW_KEY " AND reason IS NOT ?3",
    [SQL_HELD_DROP] = "DELETE FROM main._sync_held WHERE " ROW_KEY,
    [SQL_LOCAL_ANY] = "SELECT 1 FROM main._sync_local WHERE " ROW_KEY " LIMIT 1",
    [SQL_LOCAL_DROP] = "DELETE FROM main._sync_local WHERE " ROW_KEY,
    [SQL_REJECTED_PUT] =
        "INSERT INTO main._sync_rejected (table_id, pk, pk_text, change_id, op, base_version,"
        " changed, reason, message, details, payload, old_row) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7,"
        " ?8, ?9, ?10, ?11,"
        " coalesce(old_row, CASE WHEN base_version = 0 AND change_id <> queued THEN '{}'"
        " END) FROM main._sync_dirty WHERE " ROW_KEY " AND change_id = ?4"
        " ON CONFLICT (table_id, pk) DO UPDATE SET change_id = excluded.change_id, "
        " op = excluded.op, base_version = excluded.base_version,"
        " changed = changed | excluded.changed, reason = excluded.reason,"
        " message = excluded.message, details = excluded.details, payload = excluded.payload,"
        " old_row = coalesce(excluded.old_row, old_row), rejected_at = excluded.rejected_at",
    [SQL_OVERWRITTEN_PUT] =
        "INSERT INTO main._sync_overwritten (table_name, pk_uuid, op, base_version, server_version,"
        " payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    [SQL_OVERWRITTEN_TRIM] = "DELETE FROM main._sync_overwritten WHERE id <="
                             " (SELECT max(id) FROM main._sync_overwritten) - 1000",
    [SQL_REJECTED_WHOLE] =
        "UPDATE main._sync_rejected SET payload = ?3 WHERE " ROW_KEY " AND op <> 'DELETE'",
    [SQL_REJECTED_SETTLE] = "DELETE FROM main._sync_rejected WHERE " ROW_KEY " AND change_id <= ?3",
    [SQL_REJECTED_DROP] = "DELETE FROM main._sync_rejected WHERE " ROW_KEY,
};

/* Makes the tables, where they are not there. */
rowsync_code
rs_create(rowsync *client)
{
    return rs_exec(client, schema_sql);
}

rowsync_code
rs_prepare(rowsync *client, const char *sql, sqlite3_stmt **statement)
{
    if (sqlite3_prepare_v3(client->db, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, NULL) !=
        SQLITE_OK)
        return rs_fail_sqlite(client, "preparing a statement");
    return ROWSYNC_OK;
}

/* Runs SQL without values. */
rowsync_code
rs_exec(rowsync *client, const char *sql)
{
    if (sqlite3_exec(client->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return rs_fail_sqlite(client, "changing its own tables");
    return ROWSYNC_OK;
}

/* One of the library's statements, reset and without values; NULL with the error remembered. */
sqlite3_stmt *
rs_statement(rowsync *client, Statement which)
{
    sqlite3_stmt **slot = &client->statements[which];

    if (*slot == NULL && rs_prepare(client, statement_sql[which], slot) != ROWSYNC_OK)
        return NULL;
    sqlite3_reset(*slot);
    sqlite3_clear_bindings(*slot);
    return *slot;
}

/* A statement about one row: its first parameters are the row's table and key. As above. */
sqlite3_stmt *
rs_keyed(rowsync *client, Statement which, const Table *table, const Key *key)
{
    sqlite3_stmt *statement = rs_statement(client, which);

    if (statement != NULL)
    {
        sqlite3_bind_int64(statement, 1, table->id);
        key_bind(statement, 2, key);
    }
    return statement;
}

/* Runs a statement whose rows do not matter to its end, and resets it. */
rowsync_code
rs_finish(rowsync *client, sqlite3_stmt *statement, const char *doing)
{
    int result;

    if (statement == NULL)
        return client->code;
    do
        result = sqlite3_step(statement);
    while (result == SQLITE_ROW);
    if (result != SQLITE_DONE)
    {
        rowsync_code code = rs_fail_sqlite(client, doing);

        sqlite3_reset(statement);
        return code;
    }
    sqlite3_reset(statement);
    return ROWSYNC_OK;
}

/*
 * The next row of a query; false at its end, and after an error, which is then in client->code. So
 * whoever has read all rows returns client->code.
 */
bool
rs_row(rowsync *client, sqlite3_stmt *statement)
{
    int result = sqlite3_step(statement);

    if (result != SQLITE_ROW && result != SQLITE_DONE)
        rs_fail_sqlite(client, "reading the database");
    return result == SQLITE_ROW;
}

/* Ends a query of which one row was read. Memory that ran out while reading a column shows here. */
rowsync_code
rs_reset(rowsync *client, sqlite3_stmt *statement)
{
    if (sqlite3_reset(statement) != SQLITE_OK)
        rs_fail_sqlite(client, "reading the database");
    return client->code;
}

/* The text of a column that is not NULL. Empty where memory ran out, which rs_row() or rs_reset()
 * tells next. */
const char *
rs_text(sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);

    return text != NULL ? text : "";
}

/* Runs one of the library's statements that takes no values. */
rowsync_code
rs_run(rowsync *client, Statement which)
{
    return rs_finish(client, rs_statement(client, which), statement_sql[which]);
}
