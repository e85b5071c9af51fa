/*
 * database.c - the handle on the app's database: how calls begin, transactions, opening and
 * closing.
 */
#include "client.h"

#include <stdio.h>
#include <string.h>

/* Rolls back, now or, where that needs memory that is not there, with the next call. */
static void
go_back(rowsync *client)
{
    sqlite3_step(client->statements[SQL_ROLLBACK]);
    sqlite3_reset(client->statements[SQL_ROLLBACK]);
    client->stuck = !sqlite3_get_autocommit(client->db);
}

/* Gives the connection the size of cache that it had, now or, as above, with the next call. */
void
rs_cache_back(rowsync *client)
{
    char sql[64];

    if (!client->cache_lent)
        return;
    snprintf(sql, sizeof(sql), "PRAGMA main.cache_size = %lld", (long long)client->cache_size);
    client->cache_lent = sqlite3_exec(client->db, sql, NULL, NULL, NULL) != SQLITE_OK;
}

/* Puts back what an earlier call could not. */
static void
catch_up(rowsync *client)
{
    if (client->stuck)
        go_back(client);
    rs_cache_back(client);
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

/* Has the connection triggers that the schema of the file says nothing of? */
static rowsync_code
see_temp_triggers(rowsync *client)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_TEMP_TRIGGERS);

    if (statement == NULL)
        return client->code;
    client->temp_triggers = rs_row(client, statement) && sqlite3_column_int(statement, 0);
    return rs_reset(client, statement);
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
    client->actions = client->missed = false;
    code = tables_settled(client);
    if (code == ROWSYNC_OK)
        code = capture_fold(client);
    if (code == ROWSYNC_OK)
        code = see_temp_triggers(client);
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
    if (code == ROWSYNC_OK && client->missed)
        code = rs_run(client, SQL_FETCH_AGAIN);
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

/* Is a setting of the connection on? */
static bool
is_on(rowsync *client, const char *pragma)
{
    sqlite3_stmt *statement = NULL;
    bool on = rs_prepare(client, pragma, &statement) == ROWSYNC_OK && rs_row(client, statement) &&
              sqlite3_column_int(statement, 0);

    sqlite3_finalize(statement);
    return on;
}

/* Refuses what would have statements mean something else, or the connection's edits be missed. */
static rowsync_code
check_settings(rowsync *client)
{
    int triggers = 1;

    sqlite3_db_config(client->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, -1, &triggers);
    if (!triggers)
        return rs_fail(client, ROWSYNC_MISUSE,
                       "Switch SQLITE_DBCONFIG_ENABLE_TRIGGER on; rowsync_verify() finds rows that"
                       " came or went without.",
                       "Triggers are switched off: edits by this connection are not captured.");
    if (is_on(client, "PRAGMA count_changes"))
        rs_fail(client, ROWSYNC_MISUSE, "Switch it off; SQLite advises against it.",
                "PRAGMA count_changes is on: statements that write would give rows.");
    else if (is_on(client, "PRAGMA full_column_names") &&
             !is_on(client, "PRAGMA short_column_names"))
        rs_fail(client, ROWSYNC_MISUSE, "Switch short_column_names on again.",
                "PRAGMA short_column_names is off and full_column_names on: subqueries would have"
                " other names.");
    return client->code;
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
    return check_settings(client);
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
    client->restored = client->moved = false;
    buffer_clear(&client->message);
    buffer_clear(&client->hint);
    catch_up(client);
    if (writes && check_writable(client) != ROWSYNC_OK)
        return client->code;
    /* A schema that another connection changed is seen only by a statement. */
    if (!initialized(client) && client->code == ROWSYNC_OK &&
        rs_exec(client, "SELECT 1 FROM main.sqlite_schema LIMIT 1") == ROWSYNC_OK &&
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
rs_counts(rowsync *client, Counts *counts)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_COUNTS);

    if (statement == NULL)
        return client->code;
    if (rs_row(client, statement))
    {
        counts->pending = sqlite3_column_int64(statement, 0);
        counts->conflicts = sqlite3_column_int64(statement, 1);
        counts->rejected = sqlite3_column_int64(statement, 2);
        counts->held = sqlite3_column_int64(statement, 3);
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
        return code == ROWSYNC_NOMEM
                   ? rs_nomem(client)
                   : rs_fail(client, code, "Give one in rowsync_options.",
                             "This library was built without libcurl: it has no transport.");
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
    catch_up(client);
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
    buffer_free(&client->described);
    buffer_free(&client->reason);
    buffer_free(&client->untracked);
    rs_free(client);
}

rowsync_code
rowsync_init(rowsync *client)
{
    rowsync_code code;

    client->code = ROWSYNC_OK;
    catch_up(client);
    if (check_writable(client) != ROWSYNC_OK || (code = rs_start(client, SQL_BEGIN)) != ROWSYNC_OK)
        return client->code;
    if ((code = rs_create(client)) == ROWSYNC_OK)
        code = rs_run(client, SQL_APPLY_OFF);
    code = rs_stop(client, code);
    return code == ROWSYNC_OK ? rs_enter(client, true) : code;
}
