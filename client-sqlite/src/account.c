/*
 * account.c - whose the database is, and where it syncs: attach, detach, the token.
 */
#include "client.h"

#include <string.h>
#include <sys/time.h>

/* Can the text be part of a request's head? */
static bool
fits_header(const char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7F)
            return false;
    return true;
}

/* A token is kept no longer than it is needed. */
static void
forget_token(rowsync *client)
{
    if (client->token != NULL)
        memset(client->token, 0, strlen(client->token));
    rs_free(client->token);
    client->token = NULL;
}

rowsync_code
rowsync_set_token(rowsync *client, const char *token)
{
    char *copy;

    client->code = ROWSYNC_OK;
    if (token != NULL && !fits_header(token))
        return rs_fail(client, ROWSYNC_MISUSE, "Give the token alone, without a line break.",
                       "The token has a control character.");
    copy = rs_copy(token);
    if (token != NULL && copy == NULL)
        return rs_nomem(client);
    forget_token(client);
    client->token = copy;
    return ROWSYNC_OK;
}

rowsync_code
rowsync_get_state(rowsync *client, rowsync_state *state)
{
    Counts counts = {0};
    rowsync_code code;

    memset(state, 0, sizeof(*state));
    if ((code = rs_enter(client, false)) != ROWSYNC_OK)
        return code;
    state->url = client->url;
    state->user_id = client->user_id;
    state->source_id = client->source_id;
    state->head = client->cursor;
    state->hydrated = client->hydrated >= 2;
    state->tables = client->table_count;
    for (int i = 0; i < client->table_count; i++)
        state->gone += !client->tables[i].exists;
    code = rs_counts(client, &counts);
    state->pending = counts.pending;
    state->conflicts = counts.conflicts;
    state->rejected = counts.rejected;
    state->held = counts.held;
    return code;
}

/* Is the argument a URL that we speak? */
static bool
speakable(const char *url)
{
    return url != NULL && fits_header(url) &&
           (strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0);
}

rowsync_code
rowsync_attach(rowsync *client, const char *url, const char *user_id, const char *source_id)
{
    sqlite3_stmt *statement = NULL;
    struct timeval now;
    rowsync_code code = rs_enter(client, true);
    bool other_source;

    if (code != ROWSYNC_OK)
        return code;
    if (!speakable(url))
        return rs_fail(client, ROWSYNC_MISUSE, "It begins with https:// or http://.",
                       "\"%s\" is no URL of a rowsync gateway.", url != NULL ? url : "");
    if (user_id == NULL || *user_id == '\0' || strlen(user_id) > 255)
        return rs_fail(client, ROWSYNC_MISUSE, "Give the `sub` of the user's token.",
                       "The user id must have 1 to 255 bytes.");
    if (source_id != NULL &&
        (*source_id == '\0' || strlen(source_id) > 255 || !fits_header(source_id)))
        return rs_fail(client, ROWSYNC_MISUSE, "Leave it out to get one made.",
                       "The source id must have 1 to 255 bytes, none of them a control character.");
    if (client->user_id != NULL && strcmp(client->user_id, user_id) != 0)
        return rs_fail(client, ROWSYNC_PENDING, "Detach first; that removes this user's rows.",
                       "The database belongs to user \"%s\".", client->user_id);
    /* Another source has its own numbering and has not seen what this one uploaded itself. */
    other_source =
        source_id != NULL && client->source_id != NULL && strcmp(source_id, client->source_id) != 0;
    code = rs_prepare(client,
                      "UPDATE main._sync_client_info SET url = rtrim(?1, '/'), user_id = ?2,"
                      " source_id = coalesce(?3, source_id, lower(hex(randomblob(16)))),"
                      " next_change_id = max(next_change_id, ?4),"
                      " hydrated = CASE WHEN ?5 THEN 0 ELSE hydrated END",
                      &statement);
    if (code != ROWSYNC_OK)
        return code;
    gettimeofday(&now, NULL);
    sqlite3_bind_text(statement, 1, url, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 2, user_id, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 3, source_id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 4, (int64_t)now.tv_sec * 1000000 + now.tv_usec);
    sqlite3_bind_int(statement, 5, other_source);
    code = rs_finish(client, statement, "attaching");
    sqlite3_finalize(statement);
    return code == ROWSYNC_OK ? rs_load_info(client) : code;
}

/* Refuses to leave a user's rows behind, which the next one would see. */
static rowsync_code
check_empty(rowsync *client, const Table *table)
{
    sqlite3_stmt *statement = NULL;
    Buffer sql = {0};

    buffer_text(&sql, "SELECT 1 FROM main.");
    buffer_name(&sql, table->name);
    buffer_text(&sql, " LIMIT 1");
    if (sql.failed)
        rs_nomem(client);
    else if (rs_prepare(client, sql.data, &statement) == ROWSYNC_OK && rs_row(client, statement))
        rs_fail(client, ROWSYNC_DATABASE,
                "Let it do nothing while (SELECT apply_mode FROM _sync_client_info) = 1.",
                "A trigger of the app leaves rows of the user in \"%s\".", table->name);
    sqlite3_finalize(statement);
    buffer_free(&sql);
    return client->code;
}

/*
 * Empties the tracked tables. One whose rows may not go while others refer to them (ON DELETE
 * RESTRICT) comes after those.
 */
static rowsync_code
delete_rows(rowsync *client)
{
    bool *done = rs_realloc(NULL, (size_t)client->table_count * sizeof(*done));
    bool progress = true, complete = false;
    Buffer sql = {0};
    int i;

    if (done == NULL)
        return rs_nomem(client);
    memset(done, 0, (size_t)client->table_count * sizeof(*done));
    while (progress && !complete && client->code == ROWSYNC_OK)
    {
        progress = false;
        complete = true;
        for (i = 0; i < client->table_count && client->code == ROWSYNC_OK; i++)
        {
            int result;

            if (done[i] || !client->tables[i].exists)
                continue;
            buffer_clear(&sql);
            buffer_text(&sql, "DELETE FROM main.");
            buffer_name(&sql, client->tables[i].name);
            if (sql.failed)
            {
                rs_nomem(client);
                break;
            }
            result = sqlite3_exec(client->db, sql.data, NULL, NULL, NULL);
            done[i] = result == SQLITE_OK;
            progress |= done[i];
            complete &= done[i];
            if (result != SQLITE_OK && (result & 0xFF) != SQLITE_CONSTRAINT)
                rs_fail_sqlite(client, "removing the user's rows");
        }
    }
    if (client->code == ROWSYNC_OK && (!complete || rs_orphans(client)))
        orphans_fail(client, "the user's");
    for (i = 0; i < client->table_count && client->code == ROWSYNC_OK; i++)
        if (client->tables[i].exists)
            check_empty(client, &client->tables[i]);
    buffer_free(&sql);
    rs_free(done);
    return client->code;
}

rowsync_code
rowsync_detach(rowsync *client, int force)
{
    rowsync_code code = rs_enter(client, true);

    if (code != ROWSYNC_OK || (code = rs_begin(client)) != ROWSYNC_OK)
        return code;
    if (!force)
        code = pending_spare(client, NULL);
    if (code == ROWSYNC_OK)
        code = delete_rows(client);
    if (code == ROWSYNC_OK)
        code = rs_exec(client,
                       "DELETE FROM main._sync_dirty; DELETE FROM main._sync_version;"
                       "DELETE FROM main._sync_held; DELETE FROM main._sync_rejected;"
                       "DELETE FROM main._sync_overwritten; DELETE FROM main._sync_local;"
                       "UPDATE main._sync_client_info SET user_id = NULL, url = NULL, hydrated = 0,"
                       " last_server_seq_seen = 0, current_window_until = 0, epoch = 0,"
                       " epochs = '', last_upload = 0");
    if ((code = rs_end(client, code)) != ROWSYNC_OK)
        return code;
    forget_token(client);
    return rs_load_info(client);
}
