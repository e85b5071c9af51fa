/*
 * sync.c - the public calls that talk to the server: what they check, and what they report.
 */
#include "client.h"

#include <string.h>

/* How often a call begins anew where the tracked tables were changed under it. */
#define TRIES 5

/* Which parts a call is made of. */
enum
{
    PUSH = 1,
    PULL = 2,
    HYDRATE = 4
};

/* Fills in what the app left open. */
static rowsync_code
take_options(rowsync *client, const rowsync_sync_options *given, rowsync_sync_options *out)
{
    memset(out, 0, sizeof(*out));
    if (given != NULL)
        *out = *given;
    if (out->batch_size < 0 || out->batch_size > 10000 || out->page_size < 0 ||
        out->page_size > 10000 || out->max_tries < 0)
        return rs_fail(client, ROWSYNC_MISUSE, "0 leaves the choice to the library.",
                       "Batches and pages have 1 to 10000 changes.");
    if (out->max_tries == 0)
        out->max_tries = 5;
    return ROWSYNC_OK;
}

/* Counts what waits now. A failure in that does not hide the one that came before. */
static rowsync_code
finish_report(rowsync *client, rowsync_report *report)
{
    rowsync_code failure = client->code;
    Buffer message = client->message, hint = client->hint;
    Counts counts = {0};

    client->code = ROWSYNC_OK;
    client->message = client->hint = (Buffer){0};
    if (rs_counts(client, &counts) == ROWSYNC_OK && failure == ROWSYNC_OK)
        rs_load_info(client);
    report->pending = counts.pending;
    report->conflicts = counts.conflicts;
    report->rejected = counts.rejected;
    report->held = counts.held;
    report->head = client->cursor;
    report->overwritten = client->overwritten;
    if (failure == ROWSYNC_OK && client->code != ROWSYNC_OK)
    {
        buffer_free(&message);
        buffer_free(&hint);
        return client->code;
    }
    buffer_free(&client->message);
    buffer_free(&client->hint);
    client->message = message;
    client->hint = hint;
    return client->code = failure;
}

/*
 * Hydration first, so that the edits made before it are decided upon as conflicts and not sent as
 * news; then push, so that the pull (or one more hydration) meets as few pending edits as possible.
 */
static rowsync_code
go(rowsync *client, const rowsync_sync_options *options, rowsync_report *report, int parts)
{
    rowsync_code code = tables_check(client);
    bool absent;

    if (code == ROWSYNC_OK && ((parts & HYDRATE) != 0 || client->hydrated < 2))
        code = hydrate_all(client, options, report);
    if (code == ROWSYNC_OK && (parts & PUSH) != 0)
        code = push_all(client, options, report);
    if (code == ROWSYNC_OK && client->hydrated == 3)
        code = hydrate_all(client, options, report);
    if (code == ROWSYNC_OK && (parts & PULL) != 0)
        code = pull_all(client, options, false, report);
    if (code == ROWSYNC_PRUNED)
    {
        /*
         * Away for longer than the server keeps its log, or the log is not the one that was read:
         * what it has now is taken whole. What only this device has is sent again.
         */
        bool restored = client->restored;

        client->code = ROWSYNC_OK;
        if ((code = hydrate_snapshot(client, options, &absent, report)) == ROWSYNC_OK && absent)
            code = rs_fail(client, ROWSYNC_PRUNED, "Use a gateway that has /sync/snapshot.",
                           "The server no longer has the changes that this database lacks.");
        if (code == ROWSYNC_OK && restored && (parts & PUSH) != 0)
            code = push_all(client, options, report);
        if (code == ROWSYNC_OK && (parts & PULL) != 0)
            code = pull_all(client, options, false, report);
    }
    return code;
}

/* Does all of that, anew where another connection has changed the tracked tables meanwhile. */
static rowsync_code
run(rowsync *client, const rowsync_sync_options *given, rowsync_report *report, int parts)
{
    rowsync_report local;
    rowsync_sync_options options;
    rowsync_code code;
    int tries;

    if (report == NULL)
        report = &local;
    memset(report, 0, sizeof(*report));
    if ((code = rs_enter(client, true)) != ROWSYNC_OK ||
        (code = rs_attached(client)) != ROWSYNC_OK || (code = tables_check(client)) != ROWSYNC_OK ||
        (code = take_options(client, given, &options)) != ROWSYNC_OK)
        return code;
    for (tries = 1;
         go(client, &options, report, parts) != ROWSYNC_OK && client->moved && tries < TRIES;
         tries++)
    {
        rs_log(client, "%s", rowsync_message(client));
        client->code = ROWSYNC_OK;
        client->moved = false;
        if (rs_load_info(client) != ROWSYNC_OK || tables_refresh(client) != ROWSYNC_OK)
            break;
    }
    return finish_report(client, report);
}

rowsync_code
rowsync_sync(rowsync *client, const rowsync_sync_options *options, rowsync_report *report)
{
    return run(client, options, report, PUSH | PULL);
}

rowsync_code
rowsync_push(rowsync *client, const rowsync_sync_options *options, rowsync_report *report)
{
    return run(client, options, report, PUSH);
}

rowsync_code
rowsync_pull(rowsync *client, const rowsync_sync_options *options, rowsync_report *report)
{
    return run(client, options, report, PULL);
}

rowsync_code
rowsync_hydrate(rowsync *client, const rowsync_sync_options *options, rowsync_report *report)
{
    return run(client, options, report, HYDRATE);
}
