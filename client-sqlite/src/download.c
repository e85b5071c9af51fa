/*
 * download.c - pull: pages of the server's log, each taken in with its cursor in one transaction.
 *
 * A row with edits pending is not touched: what the server says of it is held until the edit's
 * upload is answered. A page whose rows need a parent of a later page takes the next pages into its
 * transaction; what still lacks its parent at the window's end is held too.
 */
#include "client.h"

#include <string.h>

#define PAGE_SIZE 1000

/* A page as it was answered. */
typedef struct Page
{
    Slice changes;
    int64_t next_after;
    int64_t window_until;
    int64_t epoch;       /* -1: not told; 0: the server knows nothing yet */
    int64_t last_upload; /* where the log stood after the last upload of this source; 0: not told */
    int64_t head;        /* where it ends; -1: not told */
    bool has_more;
} Page;

/* Reads the frame of a page and checks that it leads on. */
static rowsync_code
read_page(rowsync *client, const Exchange *answer, int64_t after, int64_t until, Page *page)
{
    static const char *const names[] = {"changes", "has_more",    "next_after", "window_until",
                                        "epoch",   "last_upload", "head"};
    Slice fields[7];

    if (!scan_fields((Slice){buffer_string(&answer->body), answer->body.length}, names, fields,
                     7) ||
        fields[0].data == NULL || fields[0].data[0] != '[' ||
        !scan_boolean(fields[1], &page->has_more) || !scan_int64(fields[2], &page->next_after) ||
        !scan_int64(fields[3], &page->window_until) || page->next_after < after ||
        (page->has_more && page->next_after == after) || page->window_until < page->next_after ||
        (until > 0 && page->window_until > until))
        return rs_fail(client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                       "The answer to a download after %lld is no page of changes.",
                       (long long)after);
    if (!scan_int64(fields[4], &page->epoch))
        page->epoch = -1;
    if (!scan_int64(fields[5], &page->last_upload) || page->last_upload < 0)
        page->last_upload = 0;
    if (!scan_int64(fields[6], &page->head))
        page->head = -1;
    page->changes = fields[0];
    return ROWSYNC_OK;
}

/* Are edits of the row pending, or was one refused? */
rowsync_code
has_edits(rowsync *client, const Table *table, const Key *key, bool *edited)
{
    sqlite3_stmt *statement = rs_keyed(client, SQL_EDITED, table, key);
    int result;

    *edited = false;
    if (statement == NULL)
        return client->code;
    result = sqlite3_step(statement);
    *edited = result == SQLITE_ROW && sqlite3_column_int(statement, 0);
    if (result != SQLITE_ROW)
        rs_fail_sqlite(client, "looking for pending edits");
    sqlite3_reset(statement);
    return client->code;
}

/*
 * Takes in what the server says of a row, unless it is known already. Edits of the row that are
 * pending keep it as it is. Of a version that is known a table that is to be filled again takes
 * what is not edited here.
 */
rowsync_code
take_row(rowsync *client, Table *table, const Key *key, const RowState *state,
         rowsync_report *report)
{
    int64_t version;
    bool edited, deleted, refused, again;

    if (row_version(client, table, key, &version, &deleted) != ROWSYNC_OK)
        return client->code;
    again = version == state->version && (table->refill & REFILL_COLUMNS) != 0 && !deleted &&
            !state->deleted;
    if (version > state->version && (table->refill & REFILL_COLUMNS) != 0 && !deleted)
        table->refill |= REFILL_LATER;
    if (version >= state->version && !again)
        return ROWSYNC_OK;
    if (has_edits(client, table, key, &edited) != ROWSYNC_OK)
        return client->code;
    if (edited)
        return (again ? take_unedited : conflict_meet)(client, table, key, state);
    if (row_take(client, table, key, state, &refused) != ROWSYNC_OK)
        return client->code;
    if (refused)
        return held_put(client, table, key, state, HELD_STUCK);
    report->downloaded += !again;
    return ROWSYNC_OK;
}

/* Takes in one change of a page. Tables that are not tracked here are passed over. */
static rowsync_code
take_change(rowsync *client, Slice text, Key *key, rowsync_report *report)
{
    static const char *const names[] = {"schema",  "table",   "pk",
                                        "payload", "deleted", "server_version"};
    Slice fields[6];
    Table *table;
    RowState state;

    if (!scan_fields(text, names, fields, 6) || fields[1].data == NULL ||
        fields[1].data[0] != '"' || !scan_int64(fields[5], &state.version) || state.version <= 0 ||
        !scan_boolean(fields[4], &state.deleted) ||
        (!state.deleted && (fields[3].data == NULL || fields[3].data[0] != '{')))
        return rs_fail(client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                       "A page has something that is no change: %.*s",
                       text.length < 200 ? (int)text.length : 200, text.data);
    table = table_by_name(
        client, fields[0].data != NULL && fields[0].data[0] == '"' ? fields[0] : (Slice){0},
        fields[1]);
    if (table == NULL || !table->exists)
        return ROWSYNC_OK;
    if (!key_from_wire(table, fields[2], key))
        return key->bytes.failed
                   ? rs_nomem(client)
                   : rs_fail(
                         client, ROWSYNC_SCHEMA, "Give the key the type that it has on the server.",
                         "A key of the server does not fit the table \"%s\" here.", table->name);
    state.payload = state.deleted ? (Slice){0} : fields[3];
    return take_row(client, table, key, &state, report);
}

/* Takes in the changes of a page. */
static rowsync_code
take_page(rowsync *client, const Page *page, rowsync_report *report)
{
    JsonReader reader = scan_reader(page->changes);
    Slice element;
    Key key = {0};
    rowsync_code code = ROWSYNC_OK;
    bool first;

    scan_enter(&reader, '[');
    for (first = true; code == ROWSYNC_OK && scan_next_element(&reader, first, &element);
         first = false)
        code = take_change(client, element, &key, report);
    report->pages += !first;
    key_free(&key);
    return code;
}

/*
 * Asks for a page. Where the source has uploaded more than this file knows of, the file is a copy
 * that was put back (or an answer was lost): then own changes must come along.
 */
static rowsync_code
fetch(rowsync *client, const rowsync_sync_options *options, int64_t after, int64_t until,
      bool include_self, Exchange *answer, Page *page)
{
    Buffer path = {0};
    rowsync_code code;

    buffer_printf(&path, "/sync/download?after=%lld&limit=%d", (long long)after,
                  options->page_size > 0 ? options->page_size : PAGE_SIZE);
    if (until > 0)
        buffer_printf(&path, "&until=%lld", (long long)until);
    if (include_self || client->forgetful)
        buffer_text(&path, "&include_self=true");
    code = path.failed ? rs_nomem(client)
                       : rs_request(client, "GET", path.data, NULL, options->max_tries, answer);
    buffer_free(&path);
    if (code == ROWSYNC_OK && answer->status == 410)
        return rs_fail(client, ROWSYNC_PRUNED, "Hydrate the database from a snapshot.",
                       "The server no longer has the changes after %lld.", (long long)after);
    if (code == ROWSYNC_OK && answer->status != 200)
        return rs_fail(client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                       "The server answered %ld to a download.", answer->status);
    if (code != ROWSYNC_OK || (code = read_page(client, answer, after, until, page)) != ROWSYNC_OK)
        return code;
    if ((code = log_continues(client, page->epoch, page->head)) != ROWSYNC_OK || include_self ||
        client->forgetful || page->last_upload <= client->last_upload)
        return code;
    client->forgetful = true;
    return fetch(client, options, after, until, include_self, answer, page);
}

/*
 * Is the server's log the one that was read here? It has another epoch where a backup was restored,
 * and that was declared; where it was not, it may end too early. -1: the server does not tell.
 */
rowsync_code
log_continues(rowsync *client, int64_t epoch, int64_t head)
{
    if (epoch >= 0 && client->epoch != 0 && epoch != client->epoch)
    {
        client->restored = true;
        client->new_epoch = epoch;
        return rs_fail(client, ROWSYNC_PRUNED, "Hydrate the database from a snapshot.",
                       "The server was restored from a backup; its log is another one now.");
    }
    if (head >= 0 && head < client->cursor)
        return rs_fail(client, ROWSYNC_REFUSED, HINT_RESTORED,
                       "The server's log ends at %lld, this database has read it up to %lld.",
                       (long long)head, (long long)client->cursor);
    return ROWSYNC_OK;
}

/* Remembers which log the cursor counts in, and its epochs as a snapshot tells them. */
rowsync_code
note_epoch(rowsync *client, int64_t epoch, Slice epochs)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_EPOCH);

    if (statement == NULL)
        return client->code;
    sqlite3_bind_int64(statement, 1, epoch);
    sqlite3_bind_text64(statement, 2, epochs.data != NULL ? epochs.data : "", epochs.length,
                        SQLITE_STATIC, SQLITE_UTF8);
    return rs_finish(client, statement, "noting the epoch");
}

/* Remembers up to where own changes are known. */
rowsync_code
note_last_upload(rowsync *client, int64_t last_upload)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_LAST_UPLOAD);

    if (statement == NULL)
        return client->code;
    sqlite3_bind_int64(statement, 1, last_upload);
    client->last_upload = last_upload;
    return rs_finish(client, statement, "noting the last upload");
}

/* Moves the cursor, in the transaction of the rows that it counts. */
rowsync_code
move_cursor(rowsync *client, int64_t cursor, int64_t window_until, int hydrated)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_CURSOR);

    if (statement == NULL)
        return client->code;
    sqlite3_bind_int64(statement, 1, cursor);
    sqlite3_bind_int64(statement, 2, window_until);
    sqlite3_bind_int(statement, 3, hydrated);
    return rs_finish(client, statement, "moving the cursor");
}

/*
 * Takes a page in, and those after it as long as foreign keys need them. *more tells whether the
 * window goes on behind.
 */
static rowsync_code
take_pages(rowsync *client, const rowsync_sync_options *options, bool hydrate, Exchange *answer,
           Page *page, rowsync_report *report)
{
    int64_t asked_after = client->cursor, overwritten = client->overwritten;
    rowsync_report before = *report;
    rowsync_code code = rs_begin(client);

    if (code != ROWSYNC_OK)
        return code;
    /* Another process may have synced meanwhile: its cursor counts, this page is asked for again.
     */
    if ((code = rs_load_info(client)) == ROWSYNC_OK && client->cursor != asked_after)
    {
        page->has_more = true;
        return rs_end(client, code);
    }
    if (code == ROWSYNC_OK && hydrate)
        code = tables_refill(client);
    while (code == ROWSYNC_OK && (code = take_page(client, page, report)) == ROWSYNC_OK &&
           page->has_more && rs_orphans(client))
        code = fetch(client, options, page->next_after, page->window_until, hydrate, answer, page);
    if (code == ROWSYNC_OK && (!page->has_more || client->cautious))
        code = held_retry(client);
    if (code == ROWSYNC_OK)
        code = take_out_orphans(client);
    if (orphans_stuck(client))
    {
        *report = before;
        client->overwritten = overwritten;
        page->has_more = true; /* it is asked for again */
        return rs_give_up(client);
    }
    if (code == ROWSYNC_OK && page->epoch > 0 && client->epoch == 0)
        code = note_epoch(client, page->epoch, (Slice){0});
    if (code == ROWSYNC_OK && !page->has_more && page->last_upload > client->last_upload &&
        page->last_upload <= page->window_until)
        code = note_last_upload(client, page->last_upload);
    if (code == ROWSYNC_OK && hydrate && !page->has_more)
        code = rs_run(client, SQL_REFILLED);
    if (code == ROWSYNC_OK)
        code = move_cursor(client, page->next_after, page->has_more ? page->window_until : 0,
                           !hydrate         ? client->hydrated
                           : page->has_more ? 1
                                            : 2);
    code = rs_end(client, code);
    if (code != ROWSYNC_OK)
        *report = before;
    return code;
}

/*
 * Hydrates: by the snapshot where there is one and no log reading has begun, else by the log from
 * its start, own changes included.
 */
rowsync_code
hydrate_all(rowsync *client, const rowsync_sync_options *options, rowsync_report *report)
{
    bool absent = true;
    rowsync_code code = ROWSYNC_OK;

    if (client->hydrated != 1)
        code = hydrate_snapshot(client, options, &absent, report);
    return code == ROWSYNC_OK && absent ? pull_all(client, options, true, report) : code;
}

/* Pulls to the end of a window; with `hydrate` from the start, own changes included. */
rowsync_code
pull_all(rowsync *client, const rowsync_sync_options *options, bool hydrate, rowsync_report *report)
{
    Exchange answer = {0};
    Page page = {.has_more = true};
    int windows = 1;
    rowsync_code code = ROWSYNC_OK;

    client->forgetful = false;
    /* 0 is "not begun", 1 "begun": a hydration that was broken off goes on where it was. */
    if (hydrate && client->hydrated != 1 &&
        ((code = rs_begin(client)) != ROWSYNC_OK ||
         (code = rs_end(client, move_cursor(client, 0, 0, 1))) != ROWSYNC_OK))
        return code;
    /* After a window that an earlier call began comes one that goes up to now. */
    if (!hydrate && client->window_until > 0)
        windows = 2;
    for (; windows > 0 && code == ROWSYNC_OK; windows -= !page.has_more)
    {
        if ((code = rs_load_info(client)) != ROWSYNC_OK)
            break;
        if (hydrate && client->hydrated == 2)
            break; /* another process came to the end of it */
        code =
            fetch(client, options, client->cursor, client->window_until, hydrate, &answer, &page);
        if (code == ROWSYNC_OK)
            code = take_pages(client, options, hydrate, &answer, &page, report);
        if (code == ROWSYNC_OK)
            code = rs_progress(client, hydrate ? "hydrate" : "pull", report->downloaded, 0);
    }
    buffer_free(&answer.body);
    return code;
}
