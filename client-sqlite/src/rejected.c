/*
 * rejected.c - dead letters, and what becomes of them: sent again, or given up.
 */
#include "client.h"

#include <string.h>

/*
 * Keeps the whole row in its dead letter, for it is about to go with what the server says of
 * another one: a letter may have only what was edited. Inside a transaction.
 */
rowsync_code
rejected_taken(rowsync *client, Table *table, const Key *key)
{
    sqlite3_stmt *statement;
    Buffer payload = {0};
    bool there;

    if (row_payload(client, table, key, &payload, &there) && there && !payload.failed &&
        (statement = rs_keyed(client, SQL_REJECTED_WHOLE, table, key)) != NULL)
    {
        sqlite3_bind_text64(statement, 3, buffer_string(&payload), payload.length, SQLITE_STATIC,
                            SQLITE_UTF8);
        rs_finish(client, statement, "keeping a refused row");
        sqlite3_clear_bindings(statement);
    }
    if (payload.failed)
        rs_nomem(client);
    buffer_free(&payload);
    return client->code;
}

/* The columns of the query for dead letters. */
typedef enum LetterColumn
{
    LETTER_TABLE,
    LETTER_KEY,
    LETTER_BASE,
    LETTER_CHANGED,
    LETTER_OLD_ROW,
    LETTER_PAYLOAD,
    LETTER_GONE,  /* nobody here has deleted the row: its going would be no deletion to send */
    LETTER_DELETE /* it is a deletion that was refused */
} LetterColumn;

/*
 * Puts the row of a dead letter in its table, as one of that version. *refused where it cannot be
 * stored, or has no parent: then nothing has changed.
 */
static rowsync_code
put_letter(rowsync *client, const Change *change, sqlite3_stmt *letter, int64_t version,
           bool *refused)
{
    RowState row = {version, false, {0}};

    row.payload = (Slice){(const char *)sqlite3_column_text(letter, LETTER_PAYLOAD),
                          (size_t)sqlite3_column_bytes(letter, LETTER_PAYLOAD)};
    *refused = row.payload.length == 0 || row.payload.data[0] != '{';
    if (*refused || rs_run(client, SQL_SAVE) != ROWSYNC_OK ||
        row_put(client, change->table, &change->key, &row, refused) != ROWSYNC_OK)
        return client->code;
    *refused |= rs_orphans(client);
    if (*refused)
        rs_run(client, SQL_UNDO);
    return client->code == ROWSYNC_OK ? rs_run(client, SQL_RELEASE) : client->code;
}

/* Makes the row of a dead letter again where it went with one that the server deleted. */
static rowsync_code
make_again(rowsync *client, const Change *change, sqlite3_stmt *letter, bool *refused)
{
    int64_t version;
    bool deleted;

    if (row_there(client, change->table, &change->key) || client->code != ROWSYNC_OK ||
        !sqlite3_column_int(letter, LETTER_GONE))
        return client->code;
    if (row_version(client, change->table, &change->key, &version, &deleted) != ROWSYNC_OK ||
        put_letter(client, change, letter, 0, refused) != ROWSYNC_OK || *refused || version != 0)
        return client->code;
    return row_drop(client, SQL_VERSION_DROP, change->table, &change->key);
}

/* Puts the mark of a dead letter back on its row. *refused where there is no row to put it on. */
static rowsync_code
requeue(rowsync *client, const Change *change, sqlite3_stmt *letter, bool *refused)
{
    int64_t id = 0;
    sqlite3_stmt *put;

    if (make_again(client, change, letter, refused) != ROWSYNC_OK || *refused ||
        take_change_id(client, &id) != ROWSYNC_OK ||
        (put = rs_keyed(client, SQL_DIRTY_PUT, change->table, &change->key)) == NULL)
        return client->code;
    sqlite3_bind_int64(put, 3, id);
    sqlite3_bind_int64(put, 4, change->base_version);
    sqlite3_bind_int64(put, 5, sqlite3_column_int64(letter, LETTER_CHANGED));
    sqlite3_bind_text(put, 6, (const char *)sqlite3_column_text(letter, LETTER_OLD_ROW), -1,
                      SQLITE_STATIC);
    return rs_finish(client, put, "queueing a refused change");
}

/*
 * Gives up a change of a row that the server has, whose content is not at hand: it is fetched. The
 * row keeps its version, so that edits made until then are on that. One that was deleted is put
 * back as it was.
 */
static rowsync_code
give_back(rowsync *client, const Change *change, sqlite3_stmt *letter, int64_t version)
{
    bool there = row_there(client, change->table, &change->key), refused;

    if (client->code == ROWSYNC_OK && !there && sqlite3_column_int(letter, LETTER_DELETE) &&
        put_letter(client, change, letter, version, &refused) == ROWSYNC_OK)
        there = !refused;
    if (client->code != ROWSYNC_OK || table_fetch_again(client, change->table) != ROWSYNC_OK ||
        (there && version > 0))
        return client->code;
    return there ? row_set_version(client, change->table, &change->key, 0, false)
                 : row_drop(client, SQL_VERSION_DROP, change->table, &change->key);
}

/*
 * Gives a dead letter up, with what was edited since: the row becomes what the server last said, or
 * goes where the server does not have it. *refused where it cannot go, because of a row that refers
 * to it.
 */
static rowsync_code
discard(rowsync *client, const Change *change, sqlite3_stmt *letter, bool *refused)
{
    const RowState none = {0, true, {0}};
    int64_t version;
    bool applied, deleted;

    *refused = false;
    if (held_apply(client, change->table, &change->key, &applied) != ROWSYNC_OK ||
        row_version(client, change->table, &change->key, &version, &deleted) != ROWSYNC_OK)
        return client->code;
    if (!applied && (change->base_version == 0 || deleted))
    {
        if (row_put(client, change->table, &change->key, &none, refused) == ROWSYNC_OK && !*refused)
            row_drop(client, SQL_LOCAL_DROP, change->table, &change->key);
    }
    else if (!applied)
        give_back(client, change, letter, version);
    if (client->code != ROWSYNC_OK || *refused)
        return client->code;
    return row_drop(client, SQL_DIRTY_DROP, change->table, &change->key);
}

/*
 * Walks the dead letters of one row or of all. *seen is their number, *left that of those which
 * wait for others: to be given up, or to be made again.
 */
static rowsync_code
walk(rowsync *client, const char *table_name, const char *pk, bool again, int64_t *seen,
     int64_t *left)
{
    sqlite3_stmt *statement = NULL;
    Change change = {0};
    rowsync_code code = rs_prepare(
        client,
        "SELECT r.table_id, r.pk, r.base_version, r.changed, r.old_row, r.payload, r.op <> 'DELETE'"
        " AND NOT EXISTS (SELECT 1 FROM main._sync_dirty d WHERE d.table_id = r.table_id AND"
        " d.pk = r.pk), r.op = 'DELETE' FROM main._sync_rejected r JOIN main._sync_table t USING "
        "(table_id)"
        " WHERE (?1 IS NULL OR t.table_name = ?1) AND (?2 IS NULL OR pk_text = ?2)"
        " ORDER BY r.change_id",
        &statement);

    *seen = *left = 0;
    if (code == ROWSYNC_OK)
    {
        sqlite3_bind_text(statement, 1, table_name, -1, SQLITE_STATIC);
        sqlite3_bind_text(statement, 2, pk, -1, SQLITE_STATIC);
    }
    while (code == ROWSYNC_OK && rs_row(client, statement))
    {
        bool refused = false;

        ++*seen;
        change.table = table_by_id(client, sqlite3_column_int64(statement, LETTER_TABLE));
        if ((code = key_column(client, statement, LETTER_KEY, &change.key)) != ROWSYNC_OK)
            break;
        change.base_version = sqlite3_column_int64(statement, LETTER_BASE);
        if (change.table == NULL)
            continue;
        if (change.table->exists)
            code = again ? requeue(client, &change, statement, &refused)
                         : discard(client, &change, statement, &refused);
        *left += refused;
        if (code == ROWSYNC_OK && !refused)
            code = row_drop(client, SQL_REJECTED_DROP, change.table, &change.key);
    }
    sqlite3_finalize(statement);
    key_free(&change.key);
    return client->code;
}

/* Requeues (`again`) or discards. */
static rowsync_code
settle_letters(rowsync *client, const char *table_name, const char *pk, bool again)
{
    rowsync_code code = rs_enter(client, true);
    int64_t seen, left, before = 0;

    if (code != ROWSYNC_OK)
        return code;
    if (table_name != NULL && table_here(client, table_name) == NULL)
        return client->code;
    if ((code = rs_begin(client)) != ROWSYNC_OK)
        return code;
    code = walk(client, table_name, pk, again, &seen, &left);
    if (code == ROWSYNC_OK && seen == 0 && pk != NULL)
        code = rs_fail(client, ROWSYNC_MISUSE, "See _sync_rejected.",
                       "The row %s of \"%s\" was not refused.", pk, table_name);
    /* A row goes once those that refer to it are gone, or comes once what is in its way is, which
     * may be dead letters too. */
    while (code == ROWSYNC_OK && left > 0 && left != before)
    {
        before = left;
        code = walk(client, table_name, pk, again, &seen, &left);
    }
    /* Rows that refer to what was given up become dead letters of their own. */
    if (code == ROWSYNC_OK)
        code = take_out_orphans(client);
    if (code == ROWSYNC_OK && !again && (left > 0 || rs_orphans(client)))
        code = orphans_fail(client, "what is discarded");
    else if (code == ROWSYNC_OK && pk != NULL && left > 0)
        code = rs_fail(client, ROWSYNC_DATABASE,
                       "Make what it refers to again, or free its unique values, and requeue it; or"
                       " discard it.",
                       "The row %s of \"%s\" is gone, and cannot be made again from what was"
                       " refused.",
                       pk, table_name);
    return rs_end(client, code);
}

rowsync_code
rowsync_requeue(rowsync *client, const char *table, const char *pk)
{
    return settle_letters(client, table, pk, true);
}

rowsync_code
rowsync_discard(rowsync *client, const char *table, const char *pk)
{
    return settle_letters(client, table, pk, false);
}
