/*
 * effects.c - what foreign key actions and triggers of the app do to other tracked rows while a row
 * of the server is put in place.
 *
 * Nobody did that here: nothing of it is sent, and no edit is lost without a trace. Where the
 * schema allows any such thing, the statement first runs with apply_mode 2, in which our triggers
 * note what it does. Should that be anything, it is undone, the rows are seen to, and the statement
 * runs again. So it does not matter which way it came: through tables that are not tracked, through
 * triggers, through several of them. A row that goes is kept: its edits in _sync_overwritten, a
 * dead letter with its whole content, and else, for the server may have it still, in _sync_held
 * until it can come back. A row that changes gets its content back, unless it would lose its parent
 * by that.
 */
#include "client.h"

#include <string.h>

/* What a statement does to another row. */
typedef struct Effect
{
    bool gone;              /* takes it out */
    bool back;              /* brings a row back that was deleted here */
    sqlite3_value **fields; /* what was in it, where it is changed */
} Effect;

/* All that it does. */
typedef struct Effects
{
    RowList rows;
    Effect *each;
} Effects;

/* Frees what was noted. */
static void
effects_free(Effects *effects)
{
    int i, j;

    for (i = 0; i < effects->rows.count && effects->each != NULL; i++)
        if (effects->each[i].fields != NULL)
        {
            for (j = 0; j < effects->rows.rows[i].table->column_count; j++)
                sqlite3_value_free(effects->each[i].fields[j]);
            rs_free(effects->each[i].fields);
        }
    rs_free(effects->each);
    rows_free(&effects->rows);
}

/* May putting (or, with `deletes`, deleting) a row of the table do anything to others? */
bool
effects_possible(rowsync *client, Table *table, bool deletes)
{
    sqlite3_stmt *statement = NULL;

    if ((table->stirs & STIRS_KNOWN) == 0 &&
        rs_prepare(client,
                   "SELECT 3 * EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger' AND"
                   " tbl_name = ?1 COLLATE NOCASE AND substr(name, 1, 6) <> '_sync_')"
                   " | coalesce(max(f.on_delete NOT IN ('NO ACTION', 'RESTRICT')), 0)"
                   " | 2 * coalesce(max(f.on_update NOT IN ('NO ACTION', 'RESTRICT')), 0)"
                   " FROM main.sqlite_schema m JOIN pragma_foreign_key_list(m.name, 'main') f"
                   " WHERE m.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE",
                   &statement) == ROWSYNC_OK)
    {
        sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
        if (rs_row(client, statement))
            table->stirs = STIRS_KNOWN | sqlite3_column_int(statement, 0);
        sqlite3_finalize(statement);
    }
    return client->temp_triggers ||
           (table->stirs & (deletes ? STIRS_BY_DELETE : STIRS_BY_PUT)) != 0;
}

/* Runs the statement; *changes is what it did itself. A failure is in client->code. */
static int
run(rowsync *client, const Table *table, sqlite3_stmt *statement, int *changes)
{
    int result = sqlite3_step(statement);

    *changes = sqlite3_changes(client->db);
    row_outcome(client, table, result);
    sqlite3_reset(statement);
    return result;
}

/* Reads what the triggers have noted of rows other than this one. */
static rowsync_code
collect(rowsync *client, const Table *table, const Key *key, Effects *effects)
{
    sqlite3_stmt *statement = rs_keyed(client, SQL_EFFECTS, table, key);
    size_t size;
    int i;

    if (statement == NULL || rows_read(client, statement, &effects->rows) != ROWSYNC_OK ||
        effects->rows.count == 0)
        return client->code;
    size = (size_t)effects->rows.count * sizeof(*effects->each);
    if ((effects->each = rs_realloc(NULL, size)) == NULL)
        return rs_nomem(client);
    memset(effects->each, 0, size);
    for (i = 0; i < effects->rows.count && client->code == ROWSYNC_OK; i++)
        effects->each[i].gone =
            !row_there(client, effects->rows.rows[i].table, &effects->rows.rows[i].key);
    return client->code;
}

/* Copies the fields of a row that will be changed. */
static rowsync_code
remember(rowsync *client, const RowName *row, Effect *effect)
{
    sqlite3_stmt *statement = table_statement(client, row->table, TABLE_ROW);
    size_t size = (size_t)row->table->column_count * sizeof(*effect->fields);
    bool edited = false;
    int i;

    if (statement == NULL || has_edits(client, row->table, &row->key, &edited) != ROWSYNC_OK)
        return client->code;
    key_bind_columns(row->table, statement, 2, &row->key);
    if (!rs_row(client, statement))
        effect->back = edited;
    else if ((effect->fields = rs_realloc(NULL, size)) == NULL)
        rs_nomem(client);
    else
        for (i = 0; i < row->table->column_count; i++)
            if ((effect->fields[i] = sqlite3_value_dup(row_field(statement, i))) == NULL)
                rs_nomem(client);
    rs_reset(client, statement);
    sqlite3_clear_bindings(statement);
    return client->code;
}

/*
 * Keeps a row that is about to go, and `why`. Without edits it is the server's: it is held, with no
 * version until it is back, as any row that cannot be stored. Should it be gone there too, that is
 * newer.
 */
static rowsync_code
keep(rowsync *client, const RowName *row, const char *why)
{
    Buffer payload = {0};
    RowState state = {0};
    bool edited, there;

    if (has_edits(client, row->table, &row->key, &edited) != ROWSYNC_OK)
        return client->code;
    if (edited)
        return conflict_taken(client, row->table, &row->key);
    if (row_version(client, row->table, &row->key, &state.version, &state.deleted) == ROWSYNC_OK &&
        state.version > 0 && !state.deleted &&
        row_payload(client, row->table, &row->key, &payload, &there) && there)
    {
        state.payload = (Slice){payload.data, payload.length};
        row_refuse(client, why);
        if (payload.failed)
            rs_nomem(client);
        else if (client->code == ROWSYNC_OK &&
                 held_put(client, row->table, &row->key, &state, HELD_STUCK) == ROWSYNC_OK)
            row_drop(client, SQL_VERSION_DROP, row->table, &row->key);
    }
    buffer_free(&payload);
    return client->code;
}

/* Sees to the rows as they are before. *waits: the app is to decide on one of them first. */
static rowsync_code
foresee(rowsync *client, Effects *effects, const char *why, bool may_wait, bool *waits)
{
    const RowName *rows = effects->rows.rows;
    int i;

    for (i = 0; i < effects->rows.count && may_wait && !*waits && client->code == ROWSYNC_OK; i++)
        if (effects->each[i].gone)
            conflict_waits(client, rows[i].table, &rows[i].key, waits);
    for (i = 0; i < effects->rows.count && !*waits && client->code == ROWSYNC_OK; i++)
        if (!effects->each[i].gone)
            remember(client, &rows[i], &effects->each[i]);
        else if (local_keep(client, rows[i].table, &rows[i].key) == ROWSYNC_OK)
            keep(client, &rows[i], why);
    return client->code;
}

/* Puts a row back as it was, unless something is against it. */
static rowsync_code
put_back(rowsync *client, const RowName *row, const Effect *effect)
{
    const Table *table = row->table;
    sqlite3_stmt *statement;
    int i, changes;

    if ((effect->fields == NULL && !effect->back) || table->column_count == table->key_count ||
        rs_orphans(client) || rs_run(client, SQL_SAVE) != ROWSYNC_OK ||
        (statement = table_statement(client, row->table,
                                     effect->back ? TABLE_DELETE : TABLE_RESTORE)) == NULL)
        return client->code;
    if (effect->back)
        key_bind_columns(table, statement, 1, &row->key);
    for (i = 0; i < table->column_count && !effect->back; i++)
        if (sqlite3_bind_value(statement, i + 1, effect->fields[i]) != SQLITE_OK)
            return rs_nomem(client);
    if (run(client, table, statement, &changes) != SQLITE_DONE || rs_orphans(client))
        rs_run(client, SQL_UNDO);
    sqlite3_clear_bindings(statement);
    return client->code == ROWSYNC_OK ? rs_run(client, SQL_RELEASE) : client->code;
}

/*
 * Runs the statement that puts a row of the server, with its values bound, and sees to what it does
 * to other rows. Where the app is to decide on the edits of one that would go, and this `may_wait`,
 * out->waits is set and nothing has changed. Inside a transaction with capture off.
 */
rowsync_code
effects_step(rowsync *client, Table *table, const Key *key, sqlite3_stmt *statement, bool deletes,
             bool may_wait, Outcome *out)
{
    /* A deletion that need not wait for anybody is of a row that only leaves its table here. */
    const char *why = !deletes   ? "a trigger deleted it when a row of the server came"
                      : may_wait ? "a row that the server deleted took it along"
                                 : REASON_ORPHAN;
    Effects effects = {0};
    bool possible;
    int i;

    out->waits = false;
    possible = effects_possible(client, table, deletes);
    if (client->code != ROWSYNC_OK) /* which may have ended the transaction */
        return client->code;
    if (!possible)
    {
        out->result = run(client, table, statement, &out->changes);
        return client->code;
    }
    if (rs_run(client, SQL_WATCH) != ROWSYNC_OK || rs_run(client, SQL_WATCH_ON) != ROWSYNC_OK)
        return client->code;
    out->result = run(client, table, statement, &out->changes);
    if (client->code == ROWSYNC_OK && collect(client, table, key, &effects) == ROWSYNC_OK &&
        effects.rows.count > 0 && rs_run(client, SQL_UNWATCH) == ROWSYNC_OK &&
        foresee(client, &effects, why, may_wait, &out->waits) == ROWSYNC_OK && !out->waits)
    {
        client->actions = true;
        out->result = run(client, table, statement, &out->changes);
        for (i = 0; i < effects.rows.count && client->code == ROWSYNC_OK; i++)
            put_back(client, &effects.rows.rows[i], &effects.each[i]);
    }
    effects_free(&effects);
    if (client->code == ROWSYNC_OK && rs_run(client, SQL_LOG_CLEAR) == ROWSYNC_OK &&
        rs_run(client, SQL_APPLY_ON) == ROWSYNC_OK)
        rs_run(client, SQL_UNWATCHED);
    return client->code;
}
