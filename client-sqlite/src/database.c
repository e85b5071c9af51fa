/*
 * database.c - the handle: its tables in the app's database, its statements, transactions, errors.
 */
#include "client.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/*
 * The library's own tables. _sync_log is what the triggers write: one entry for each edit, in its
 * columns v0, v1, … (made as tables need them) the fields of a row, where `holds` says so: 1, its
 * last content, 2, its content before the edit.
 *
 * _sync_dirty has the rows to be uploaded, one mark a row, made from the log by capture.c: the
 * change id of the last edit, the version that the first edit was made on, the columns changed
 * since as a bit mask, for a deleted row its last content and for merging its first, as an object
 * of SQL literals (quote() is exact for every type and cannot fail, which no JSON function is in
 * all SQLite versions). _sync_edited has the keys of both.
 *
 * _sync_held keeps what the server says of a row that could not be applied: because edits of the
 * row are pending (state 0), because the app is to decide (1), or because something local is in the
 * way, such as a missing parent (2). The latest one counts.
 *
 * _sync_overwritten has what was written here and lost against the server in a conflict, the last
 * thousand of it.
 */
static const char schema_sql[] =
    "CREATE TABLE IF NOT EXISTS _sync_client_info ("
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
    "INSERT OR IGNORE INTO _sync_client_info (id, next_change_id)"
    " VALUES (1," ROWSYNC_CLOCK ");"
    "CREATE TABLE IF NOT EXISTS _sync_table ("
    " table_id INTEGER PRIMARY KEY, table_name TEXT NOT NULL UNIQUE, schema_name TEXT NOT NULL,"
    " policy INTEGER NOT NULL DEFAULT 0, local_columns TEXT NOT NULL DEFAULT '[]',"
    " layout TEXT NOT NULL DEFAULT '', refill INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE IF NOT EXISTS _sync_version ("
    " table_id INTEGER NOT NULL, pk NOT NULL, server_version INTEGER NOT NULL,"
    " deleted INTEGER NOT NULL, PRIMARY KEY (table_id, pk)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS _sync_dirty ("
    " table_id INTEGER NOT NULL, pk NOT NULL, change_id INTEGER NOT NULL, queued INTEGER NOT NULL,"
    " base_version INTEGER NOT NULL, changed INTEGER NOT NULL, old_row TEXT, base_row TEXT,"
    " PRIMARY KEY (table_id, pk)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS _sync_log ("
    " seq INTEGER PRIMARY KEY, table_id, pk, holds, changed);"
    "CREATE VIEW IF NOT EXISTS _sync_edited AS SELECT table_id, pk FROM _sync_dirty UNION ALL"
    " SELECT DISTINCT table_id, pk FROM _sync_log l WHERE NOT EXISTS (SELECT 1 FROM _sync_dirty d"
    " WHERE d.table_id = l.table_id AND d.pk = l.pk);"
    "CREATE TABLE IF NOT EXISTS _sync_rejected ("
    " table_id INTEGER NOT NULL, pk NOT NULL, pk_text TEXT NOT NULL, change_id INTEGER NOT NULL,"
    " op TEXT NOT NULL, base_version INTEGER NOT NULL, changed INTEGER NOT NULL, reason TEXT NOT "
    "NULL,"
    " message TEXT, details TEXT, payload TEXT, old_row TEXT,"
    " rejected_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),"
    " PRIMARY KEY (table_id, pk)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS _sync_held ("
    " table_id INTEGER NOT NULL, pk NOT NULL, pk_text TEXT NOT NULL, state INTEGER NOT NULL,"
    " server_version INTEGER NOT NULL, deleted INTEGER NOT NULL, payload TEXT,"
    " PRIMARY KEY (table_id, pk)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS _sync_overwritten ("
    " id INTEGER PRIMARY KEY, table_name TEXT NOT NULL, pk_uuid TEXT NOT NULL, op TEXT NOT NULL,"
    " base_version INTEGER NOT NULL, server_version INTEGER NOT NULL, payload TEXT,"
    " overwritten_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')));"
    "CREATE VIEW IF NOT EXISTS _sync_row_meta AS SELECT t.table_name,"
    " CASE WHEN typeof(v.pk) <> 'blob' THEN CAST(v.pk AS TEXT)"
    " WHEN length(v.pk) <> 16 THEN lower(hex(v.pk)) ELSE lower(substr(hex(v.pk), 1, 8) || '-' ||"
    " substr(hex(v.pk), 9, 4) || '-' || substr(hex(v.pk), 13, 4) || '-' ||"
    " substr(hex(v.pk), 17, 4) || '-' || substr(hex(v.pk), 21)) END AS pk_uuid,"
    " v.server_version, v.deleted FROM _sync_version v JOIN _sync_table t USING (table_id);"
    "CREATE VIEW IF NOT EXISTS _sync_conflict AS SELECT t.table_name, h.pk_text AS pk_uuid,"
    " d.base_version, h.server_version, h.deleted AS server_deleted, h.payload AS server_payload"
    " FROM _sync_held h JOIN _sync_table t USING (table_id)"
    " LEFT JOIN _sync_dirty d USING (table_id, pk) WHERE h.state = 1;";

#define HINT_READ_ONLY "Open it for writing."

#define ROW_KEY "table_id = ?1 AND pk = ?2"

static const char *const statement_sql[SQL_STATEMENTS] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_BEGIN_READING] = "BEGIN",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_SAVE] = "SAVEPOINT _sync_row",
    [SQL_RELEASE] = "RELEASE _sync_row",
    [SQL_UNDO] = "ROLLBACK TO _sync_row",
    [SQL_APPLY_ON] = "UPDATE _sync_client_info SET apply_mode = 1",
    [SQL_APPLY_OFF] = "UPDATE _sync_client_info SET apply_mode = 0",
    [SQL_INFO] = "SELECT url, user_id, source_id, last_server_seq_seen, current_window_until,"
                 " hydrated, format, epoch, last_upload, epochs FROM _sync_client_info",
    [SQL_EPOCH] = "UPDATE _sync_client_info SET epoch = ?1, epochs = ?2",
    [SQL_CURSOR] = "UPDATE _sync_client_info SET last_server_seq_seen = ?1,"
                   " current_window_until = ?2, hydrated = ?3",
    [SQL_LAST_UPLOAD] = "UPDATE _sync_client_info SET last_upload = ?1",
    /* As above. */
    [SQL_TAKE_CHANGE_ID] =
        "UPDATE _sync_client_info SET next_change_id = max(next_change_id," ROWSYNC_CLOCK ") + 1"
        " RETURNING next_change_id - 1",
    [SQL_LOG_ANY] = "SELECT 1 FROM _sync_log LIMIT 1",
    /* Never below the clock, so that a restored copy of the file does not give old numbers again.
     */
    [SQL_LOG_NUMBER] = "UPDATE _sync_client_info SET next_change_id ="
                       " max(next_change_id," ROWSYNC_CLOCK ") + (SELECT max(seq) FROM _sync_log)",
    [SQL_LOG_CLEAR] = "DELETE FROM _sync_log",
    [SQL_COUNTS] = "SELECT (SELECT count(*) FROM _sync_edited),"
                   " (SELECT count(*) FROM _sync_held WHERE state = 1),"
                   " (SELECT count(*) FROM _sync_rejected)",
    [SQL_ASIDE] = "SELECT EXISTS (SELECT 1 FROM _sync_rejected),"
                  " EXISTS (SELECT 1 FROM _sync_held)",
    [SQL_VERSION_GET] = "SELECT server_version, deleted FROM _sync_version WHERE " ROW_KEY,
    [SQL_VERSION_PUT] =
        "INSERT INTO _sync_version VALUES (?1, ?2, ?3, ?4) ON CONFLICT (table_id, pk)"
        " DO UPDATE SET server_version = excluded.server_version, deleted = excluded.deleted"
        " WHERE excluded.server_version >= server_version",
    [SQL_VERSION_MOVE] = "UPDATE _sync_version SET server_version = ?3, deleted = ?4"
                         " WHERE " ROW_KEY " AND server_version <= ?3",
    [SQL_VERSION_DROP] = "DELETE FROM _sync_version WHERE " ROW_KEY,
    [SQL_EDITED] = "SELECT EXISTS (SELECT 1 FROM _sync_dirty WHERE " ROW_KEY ")"
                   " OR EXISTS (SELECT 1 FROM _sync_rejected WHERE " ROW_KEY ")",
    [SQL_SEEN_PUT] = "INSERT OR IGNORE INTO temp._sync_seen VALUES (?1, ?2)",
    [SQL_DIRTY_GET] =
        "SELECT d.change_id, d.base_version, d.changed | coalesce(r.changed, 0), d.old_row,"
        " d.base_row, v.deleted FROM _sync_dirty d LEFT JOIN _sync_rejected r USING (table_id, pk)"
        " LEFT JOIN _sync_version v USING (table_id, pk) WHERE d.table_id = ?1 AND d.pk = ?2",
    [SQL_DIRTY_QUEUE] =
        "SELECT d.table_id, d.pk, d.change_id, d.queued FROM _sync_dirty d"
        " WHERE d.queued > ?1 AND d.change_id <= ?2 AND NOT EXISTS (SELECT 1 FROM _sync_held h"
        " WHERE h.table_id = d.table_id AND h.pk = d.pk AND h.state = 1)"
        " ORDER BY d.queued LIMIT ?3",
    [SQL_DIRTY_CLEAR] = "DELETE FROM _sync_dirty WHERE " ROW_KEY " AND change_id = ?3",
    [SQL_DIRTY_DROP] = "DELETE FROM _sync_dirty WHERE " ROW_KEY,
    [SQL_DIRTY_REBASE] = "UPDATE _sync_dirty SET base_version = ?3, change_id = ?4 WHERE " ROW_KEY
                         " AND base_version < ?3",
    [SQL_DIRTY_RENEW] = "UPDATE _sync_dirty SET base_version = ?3, change_id = ?4, changed = ?5,"
                        " base_row = NULL WHERE " ROW_KEY,
    [SQL_DIRTY_PUT] =
        "INSERT INTO _sync_dirty (table_id, pk, change_id, queued, base_version, changed, old_row)"
        " VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6) ON CONFLICT (table_id, pk) DO UPDATE SET"
        " change_id = excluded.change_id, changed = changed | excluded.changed,"
        " old_row = coalesce(old_row, excluded.old_row)",
    [SQL_HELD_PUT] =
        "INSERT INTO _sync_held (table_id, pk, pk_text, state, server_version, deleted,"
        " payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (table_id, pk)"
        " DO UPDATE SET state = max(state, excluded.state), server_version ="
        " excluded.server_version, deleted = excluded.deleted, payload ="
        " excluded.payload WHERE excluded.server_version >= server_version",
    [SQL_HELD_GET] =
        "SELECT server_version, deleted, payload, state FROM _sync_held WHERE " ROW_KEY,
    [SQL_HELD_DROP] = "DELETE FROM _sync_held WHERE " ROW_KEY,
    [SQL_REJECTED_PUT] =
        "INSERT INTO _sync_rejected (table_id, pk, pk_text, change_id, op, base_version, changed,"
        " reason, message, details, payload, old_row) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9,"
        " ?10, ?11, old_row FROM _sync_dirty WHERE " ROW_KEY " AND change_id = ?4"
        " ON CONFLICT (table_id, pk) DO UPDATE SET change_id = excluded.change_id, op = "
        "excluded.op, base_version ="
        " excluded.base_version, changed = changed | excluded.changed, reason = excluded.reason,"
        " message = excluded.message, details = excluded.details, payload = excluded.payload,"
        " old_row = excluded.old_row, rejected_at = excluded.rejected_at",
    [SQL_OVERWRITTEN_PUT] =
        "INSERT INTO _sync_overwritten (table_name, pk_uuid, op, base_version, server_version,"
        " payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    [SQL_OVERWRITTEN_TRIM] = "DELETE FROM _sync_overwritten WHERE id <="
                             " (SELECT max(id) FROM _sync_overwritten) - 1000",
    [SQL_REJECTED_SETTLE] = "DELETE FROM _sync_rejected WHERE " ROW_KEY " AND change_id <= ?3",
    [SQL_REJECTED_DROP] = "DELETE FROM _sync_rejected WHERE " ROW_KEY,
};

/* Keeps words for people. They may quote a server: nothing stays that a terminal would obey. */
static void
put_words(Buffer *out, const char *words)
{
    char *text;

    buffer_clear(out);
    buffer_text(out, words);
    for (text = out->data; !out->failed && *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7F)
            *text = ' ';
        else if ((unsigned char)text[0] == 0xC2 && ((unsigned char)text[1] & 0xE0) == 0x80)
            text[0] = text[1] = ' ';
}

/* Remembers a failure. The message is one sentence of fact, the hint says what to do. */
rowsync_code
rs_fail(rowsync *client, rowsync_code code, const char *hint, const char *format, ...)
{
    va_list arguments;
    char text[1024];

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    put_words(&client->message, text);
    put_words(&client->hint, hint);
    if (client->message.failed || client->hint.failed)
        return rs_nomem(client);
    client->code = code;
    return code;
}

/* Out of memory: the one failure whose words are not kept in memory. */
rowsync_code
rs_nomem(rowsync *client)
{
    client->code = ROWSYNC_NOMEM;
    buffer_clear(&client->message);
    buffer_clear(&client->hint);
    return ROWSYNC_NOMEM;
}

/* Turns SQLite's last error into ours. */
rowsync_code
rs_fail_sqlite(rowsync *client, const char *doing)
{
    int extended = sqlite3_extended_errcode(client->db), code = extended & 0xFF;

    if (client->code != ROWSYNC_OK)
        return client->code;
    if (code == SQLITE_NOMEM || extended == SQLITE_IOERR_NOMEM)
        return rs_nomem(client);
    if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
        return rs_fail(client, ROWSYNC_BUSY, "Try again, or set a busy timeout on the connection.",
                       "Another connection holds the database (%s).", doing);
    return rs_fail(client, ROWSYNC_DATABASE,
                   code == SQLITE_READONLY ? HINT_READ_ONLY
                   : code == SQLITE_FULL   ? "Make room and call again; nothing is lost."
                                           : "The database was left as it was before.",
                   "SQLite refused (%s): %s.", doing, sqlite3_errmsg(client->db));
}

void
rs_log(rowsync *client, const char *format, ...)
{
    va_list arguments;
    char text[512];

    if (client->options.log == NULL)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    client->options.log(client->options.context, text);
}

/* Tells how far things are; an app that returns non-zero cancels. */
rowsync_code
rs_progress(rowsync *client, const char *phase, int64_t done, int64_t total)
{
    if (client->options.progress != NULL &&
        client->options.progress(client->options.context, phase, done, total, client->bytes) != 0)
        rowsync_cancel(client);
    if (rowsync_cancelled(&client->cancelled))
        return rs_fail(client, ROWSYNC_CANCELLED, "Sync again to go on from here.",
                       "The call was cancelled.");
    return ROWSYNC_OK;
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

/* Rolls back, now or, where that needs memory that is not there, with the next call. */
static void
go_back(rowsync *client)
{
    sqlite3_step(client->statements[SQL_ROLLBACK]);
    sqlite3_reset(client->statements[SQL_ROLLBACK]);
    client->stuck = !sqlite3_get_autocommit(client->db);
}

/* Begins a transaction. The way back is prepared first: it should not fail for lack of memory. */
rowsync_code
rs_start(rowsync *client, Statement begin)
{
    sqlite3_finalize(client->statements[SQL_ROLLBACK]);
    client->statements[SQL_ROLLBACK] = NULL;
    if (rs_statement(client, SQL_ROLLBACK) != NULL && rs_run(client, begin) != ROWSYNC_OK &&
        !sqlite3_get_autocommit(client->db))
        go_back(client);
    return client->code;
}

/* Commits where `code` is OK, else rolls back; returns what came of it. */
rowsync_code
rs_stop(rowsync *client, rowsync_code code)
{
    if (code == ROWSYNC_OK)
        code = rs_run(client, SQL_COMMIT);
    if (!sqlite3_get_autocommit(client->db))
        go_back(client);
    return code;
}

/*
 * Begins a transaction of the library's own, with everything captured taken in, capture off and
 * foreign keys deferred.
 */
rowsync_code
rs_begin(rowsync *client)
{
    rowsync_code code = rs_start(client, SQL_BEGIN);

    if (code != ROWSYNC_OK)
        return code;
    client->actions = false;
    code = capture_fold(client);
    if (code == ROWSYNC_OK)
        code = rs_run(client, SQL_APPLY_ON);
    if (code == ROWSYNC_OK)
        code = rs_exec(client, "PRAGMA defer_foreign_keys = ON");
    return code == ROWSYNC_OK ? ROWSYNC_OK : rs_end(client, code);
}

/* Ends it, with capture on again. */
rowsync_code
rs_end(rowsync *client, rowsync_code code)
{
    if (code == ROWSYNC_OK && client->actions)
        code = capture_actions(client);
    return rs_stop(client, code == ROWSYNC_OK ? rs_run(client, SQL_APPLY_OFF) : code);
}

/* Rolls back what rs_begin() began, without a failure. */
rowsync_code
rs_give_up(rowsync *client)
{
    rs_stop(client, ROWSYNC_CANCELLED);
    return client->code;
}

/* A copy of a text column in place of an older one. */
static bool
replace_text(char **slot, sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);
    char *copy = rs_copy(text);

    if (text != NULL && copy == NULL)
        return false;
    rs_free(*slot);
    *slot = copy;
    return true;
}

/* Reads _sync_client_info again: another process may have moved it. */
rowsync_code
rs_load_info(rowsync *client)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_INFO);
    rowsync_code code = ROWSYNC_OK;

    if (statement == NULL)
        return client->code;
    if (!rs_row(client, statement))
        code = client->code != ROWSYNC_OK
                   ? client->code
                   : rs_fail(client, ROWSYNC_UNINITIALIZED, "Run rowsync_init() once.",
                             "_sync_client_info has no row.");
    else if (sqlite3_column_int(statement, 6) != 1)
        code = rs_fail(client, ROWSYNC_SCHEMA, "Use the newer library on this database.",
                       "The database has the tables of a newer rowsync.");
    else if (!replace_text(&client->url, statement, 0) ||
             !replace_text(&client->user_id, statement, 1) ||
             !replace_text(&client->source_id, statement, 2) ||
             !replace_text(&client->epochs, statement, 9))
        code = rs_nomem(client);
    else
    {
        client->cursor = sqlite3_column_int64(statement, 3);
        client->window_until = sqlite3_column_int64(statement, 4);
        client->hydrated = sqlite3_column_int(statement, 5);
        client->epoch = sqlite3_column_int64(statement, 7);
        client->last_upload = sqlite3_column_int64(statement, 8);
    }
    return rs_reset(client, statement) != ROWSYNC_OK ? client->code : code;
}

/* Is there a table _sync_client_info? A failure to tell is in client->code. */
static bool
initialized(rowsync *client)
{
    int result = sqlite3_table_column_metadata(client->db, "main", "_sync_client_info", NULL, NULL,
                                               NULL, NULL, NULL, NULL);

    if (result != SQLITE_OK && result != SQLITE_ERROR)
        rs_fail_sqlite(client, "looking for its own tables");
    return result == SQLITE_OK;
}

/* Refuses a call that writes where that is not possible. */
static rowsync_code
check_writable(rowsync *client)
{
    if (!sqlite3_get_autocommit(client->db))
        return rs_fail(client, ROWSYNC_MISUSE, "Commit or roll back first.",
                       "The connection is inside a transaction.");
    if (sqlite3_db_readonly(client->db, "main") == 1)
        return rs_fail(client, ROWSYNC_DATABASE, HINT_READ_ONLY, "The database is read-only.");
    return ROWSYNC_OK;
}

/*
 * Every public call begins here: forgets the last error, checks that the call is possible, and
 * brings what the handle knows of the database up to date.
 */
rowsync_code
rs_enter(rowsync *client, bool writes)
{
    rowsync_code code;

    client->code = ROWSYNC_OK;
    __atomic_store_n(&client->cancelled, 0, __ATOMIC_RELAXED);
    client->overwritten = client->renewed = client->bytes = 0;
    client->cautious = false;
    client->restored = false;
    buffer_clear(&client->message);
    buffer_clear(&client->hint);
    if (client->stuck)
        go_back(client);
    if (writes && check_writable(client) != ROWSYNC_OK)
        return client->code;
    /* A schema that another connection changed is seen only by a statement. */
    if (!initialized(client) && client->code == ROWSYNC_OK &&
        rs_exec(client, "SELECT 1 FROM sqlite_schema LIMIT 1") == ROWSYNC_OK &&
        !initialized(client) && client->code == ROWSYNC_OK)
        rs_fail(client, ROWSYNC_UNINITIALIZED, "Run rowsync_init() (or `rowsync init`) once.",
                "The database has no rowsync tables yet.");
    if (client->code != ROWSYNC_OK)
        return client->code;
    code = rs_load_info(client);
    return code == ROWSYNC_OK ? tables_refresh(client) : code;
}

rowsync_code
rs_attached(rowsync *client)
{
    if (client->url == NULL || client->user_id == NULL || client->source_id == NULL)
        return rs_fail(
            client, ROWSYNC_UNATTACHED,
            "Run rowsync_attach() (or `rowsync attach`) with the server's URL and a user.",
            "The database is not attached to a user.");
    return ROWSYNC_OK;
}

rowsync_code
rs_counts(rowsync *client, int64_t *pending, int64_t *conflicts, int64_t *rejected)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_COUNTS);

    if (statement == NULL)
        return client->code;
    if (rs_row(client, statement))
    {
        *pending = sqlite3_column_int64(statement, 0);
        *conflicts = sqlite3_column_int64(statement, 1);
        *rejected = sqlite3_column_int64(statement, 2);
    }
    return rs_reset(client, statement);
}

rowsync_code
rowsync_open(sqlite3 *db, const rowsync_options *options, rowsync **out)
{
    rowsync *client = rs_realloc(NULL, sizeof(*client));
    rowsync_code code;

    *out = client;
    if (client == NULL)
        return ROWSYNC_NOMEM;
    memset(client, 0, sizeof(*client));
    client->db = db;
    if (options != NULL)
        client->options = *options;
    if (client->options.transport != NULL)
        client->transport = *client->options.transport;
    else if ((code = transport_curl(&client->transport)) != ROWSYNC_OK)
        return rs_nomem(client);
    if (!initialized(client))
        return client->code;
    if (!sqlite3_get_autocommit(db))
        return ROWSYNC_OK; /* the first call outside the transaction does the rest */
    return rs_enter(client, false);
}

/* Lets go of every prepared statement, without which the connection cannot be closed. */
void
rs_idle(rowsync *client)
{
    int i;

    tables_free(client);
    for (i = 0; i < SQL_STATEMENTS; i++)
    {
        sqlite3_finalize(client->statements[i]);
        client->statements[i] = NULL;
    }
}

void
rowsync_close(rowsync *client)
{
    if (client == NULL)
        return;
    if (client->stuck)
        go_back(client);
    rs_idle(client);
    if (client->transport.close != NULL)
        client->transport.close(client->transport.context);
    rowsync_set_token(client, NULL);
    rs_free(client->url);
    rs_free(client->user_id);
    rs_free(client->source_id);
    rs_free(client->epochs);
    buffer_free(&client->message);
    buffer_free(&client->hint);
    buffer_free(&client->scratch);
    rs_free(client);
}

rowsync_code
rowsync_error(const rowsync *client)
{
    return client != NULL ? client->code : ROWSYNC_NOMEM;
}

const char *
rowsync_message(const rowsync *client)
{
    return rowsync_error(client) == ROWSYNC_NOMEM ? "Out of memory."
                                                  : buffer_string(&client->message);
}

const char *
rowsync_hint(const rowsync *client)
{
    return rowsync_error(client) == ROWSYNC_NOMEM ? "Free some memory and call again."
                                                  : buffer_string(&client->hint);
}

const char *
rowsync_code_name(rowsync_code code)
{
    static const char *const names[] = {
        "ok",         "nomem",     "misuse",  "database",    "busy",  "uninitialized",
        "unattached", "schema",    "network", "unavailable", "auth",  "protocol",
        "refused",    "cancelled", "pending", "different",   "pruned"};

    return (unsigned)code < sizeof(names) / sizeof(*names) ? names[code] : "unknown";
}

void
rowsync_cancel(rowsync *client)
{
    __atomic_store_n(&client->cancelled, 1, __ATOMIC_RELAXED);
}

int
rowsync_cancelled(const volatile int *cancelled)
{
    return __atomic_load_n(cancelled, __ATOMIC_RELAXED);
}

rowsync_code
rowsync_init(rowsync *client)
{
    rowsync_code code;

    client->code = ROWSYNC_OK;
    if (client->stuck)
        go_back(client);
    if (check_writable(client) != ROWSYNC_OK || (code = rs_start(client, SQL_BEGIN)) != ROWSYNC_OK)
        return client->code;
    if ((code = rs_exec(client, schema_sql)) == ROWSYNC_OK)
        code = rs_run(client, SQL_APPLY_OFF);
    code = rs_stop(client, code);
    return code == ROWSYNC_OK ? rs_enter(client, true) : code;
}
