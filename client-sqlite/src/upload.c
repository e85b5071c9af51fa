/*
 * upload.c - push: sends what is pending in edit order and takes in the statuses.
 *
 * Passes go over the queue until one brings nothing forward. What the server may take later
 * (a missing parent, a unique value not yet free, a fault of its own) is left for the next pass, so
 * that it holds up nothing. A refused constraint becomes a dead letter only in a pass that moved
 * nothing: there was nothing left that could have gone before it.
 */
#include "client.h"

#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#define FIRST_BATCH 200
#define LARGEST_BATCH 5000
/* How often a push begins anew for edits that met a conflict: others may go on writing the row. */
#define RENEWALS 3

/* One status of the answer. */
typedef struct Status
{
    int64_t id;
    int64_t version;
    Slice status;
    Slice reason;
    Slice message;
    Slice details;
    Slice server_row;
    Slice server_changed;
} Status;

/* What a round came to. */
typedef struct Round
{
    int settled;  /* changes that need not be sent again */
    int deferred; /* to be tried in the next pass */
    bool too_large;
    bool again;    /* nothing was taken in, and the same is to be sent again */
    bool refusals; /* there are dead letters, of these or other rows */
    bool held;     /* there is something held */
    int64_t
        known; /* up to where this file knows what its source has uploaded, once it is taken in */
    int64_t epoch; /* of the log that took the changes; -1: not told */
} Round;

/* Is the string value this word? Words of the protocol have no escapes. */
static bool
word_is(Slice value, const char *word)
{
    return value.data != NULL && value.length >= 2 && value.data[0] == '"' &&
           slice_is((Slice){value.data + 1, value.length - 2}, word);
}

/* Reads one status; false when it is of no such form. */
static bool
read_status(Slice text, Status *out)
{
    static const char *const names[] = {"source_change_id", "status",  "new_server_version",
                                        "message",          "invalid", "server_row",
                                        "server_changed"};
    static const char *const invalid_names[] = {"reason", "details"};
    Slice fields[7], invalid[2] = {{0}, {0}};

    memset(out, 0, sizeof(*out));
    if (!scan_fields(text, names, fields, 7) || !scan_int64(fields[0], &out->id) ||
        fields[1].data == NULL)
        return false;
    out->status = fields[1];
    out->message = fields[3];
    out->server_row = scan_is_null(fields[5]) ? (Slice){0} : fields[5];
    out->server_changed = scan_is_null(fields[6]) ? (Slice){0} : fields[6];
    if (word_is(out->status, "applied"))
        return scan_int64(fields[2], &out->version) && out->version > 0;
    if (word_is(out->status, "invalid"))
    {
        if (!scan_fields(fields[4], invalid_names, invalid, 2) || invalid[0].data == NULL)
            return false;
        out->reason = invalid[0];
        out->details = invalid[1];
        return true;
    }
    return word_is(out->status, "conflict") && out->server_row.data != NULL;
}

/* Reads a server_row into what row_put() takes. */
static bool
read_server_row(Slice text, RowState *out)
{
    static const char *const names[] = {"server_version", "deleted", "payload"};
    Slice fields[3];

    if (!scan_fields(text, names, fields, 3) || !scan_int64(fields[0], &out->version) ||
        out->version < 0 || !scan_boolean(fields[1], &out->deleted))
        return false;
    out->payload = scan_is_null(fields[2]) ? (Slice){0} : fields[2];
    if (out->payload.data == NULL)
        out->deleted = true;
    return out->payload.data == NULL || out->payload.data[0] == '{';
}

/* Runs a statement that takes a table, a key and perhaps a number; *changes is what it changed. */
static rowsync_code
run_keyed(rowsync *client, Statement which, const Change *change, int64_t number, int *changes)
{
    sqlite3_stmt *statement = rs_keyed(client, which, change->table, &change->key);

    if (statement == NULL)
        return client->code;
    if (sqlite3_bind_parameter_count(statement) > 2)
        sqlite3_bind_int64(statement, 3, number);
    if (rs_finish(client, statement, "taking in a status") == ROWSYNC_OK && changes != NULL)
        *changes = sqlite3_changes(client->db);
    return client->code;
}

/*
 * Puts an edit that was made since on the version that the one before it got. Another process may
 * have sent it already, on the version before: what is sent now says so otherwise, and needs a
 * number of its own. Taken twice, it says what is.
 */
static rowsync_code
move_edited(rowsync *client, const Change *change, int64_t version)
{
    sqlite3_stmt *statement;
    int64_t id = 0;

    if (take_change_id(client, &id) != ROWSYNC_OK ||
        (statement = rs_keyed(client, SQL_DIRTY_REBASE, change->table, &change->key)) == NULL)
        return client->code;
    sqlite3_bind_int64(statement, 3, version);
    sqlite3_bind_int64(statement, 4, id);
    return rs_finish(client, statement, "moving an edit");
}

/*
 * Stores a row that the server took as everybody else stores what it sends, unless a constraint
 * that only this device has is against it.
 */
static rowsync_code
take_restated(rowsync *client, const Change *change, RowState *row)
{
    Buffer whole = {0};
    bool there, refused;

    if (row_payload(client, change->table, &change->key, &whole, &there) && whole.failed)
        rs_nomem(client);
    row->payload = (Slice){buffer_string(&whole), whole.length};
    if (client->code == ROWSYNC_OK && there)
        row_put(client, change->table, &change->key, row, &refused);
    buffer_free(&whole);
    return client->code;
}

/*
 * The server took the change. Only the very edit that was sent is done with: one made since stays,
 * on the new version.
 */
static rowsync_code
take_applied(rowsync *client, const Batch *batch, const Change *change, const Status *status,
             const Round *round)
{
    const Slice sent = {batch->body.data + change->payload_at, change->payload_length};
    int cleared = 0;
    bool refused, ignored, told, held = false;
    RowState row = {0};

    /* What the row is there, if it is not what was sent. Of a change that was applied so long ago
     * that history is pruned, it may be that it is gone, or that it is there again. */
    told = status->server_row.data != NULL && read_server_row(status->server_row, &row) &&
           !(row.deleted && change->op == OP_DELETE);
    if (!told)
        row.deleted = change->op == OP_DELETE;
    row.version = status->version;
    if ((round->held && held_follow(client, change, &row, sent, &held) != ROWSYNC_OK) ||
        (!held &&
         (change->base_version > 0 ? row_move_version : row_set_version)(
             client, change->table, &change->key, row.version, row.deleted) != ROWSYNC_OK) ||
        run_keyed(client, SQL_DIRTY_CLEAR, change, change->change_id, &cleared) != ROWSYNC_OK ||
        (round->refusals &&
         run_keyed(client, SQL_REJECTED_SETTLE, change, change->change_id, NULL) != ROWSYNC_OK))
        return client->code;
    if (held && cleared == 0)
        return ROWSYNC_OK;
    if (cleared == 0)
        return move_edited(client, change, row.version) == ROWSYNC_OK && told && !row.deleted &&
                       change->op != OP_DELETE
                   ? take_unedited(client, change->table, &change->key, &row)
                   : client->code;
    if (told && !held)
    {
        if (row_put(client, change->table, &change->key, &row, &refused) != ROWSYNC_OK ||
            (refused &&
             held_put(client, change->table, &change->key, &row, HELD_STUCK) != ROWSYNC_OK))
            return client->code;
        if (refused)
            return ROWSYNC_OK;
    }
    else if (change->restated && take_restated(client, change, &row) != ROWSYNC_OK)
        return client->code;
    /* Another process may have asked for a decision, not knowing that this was under way. */
    if (!round->held || run_keyed(client, SQL_HELD_DECIDED, change, 0, NULL) != ROWSYNC_OK)
        return client->code;
    return held_apply(client, change->table, &change->key, &ignored);
}

/*
 * The change was refused. For good, it becomes a dead letter; for now, only the reason is kept and
 * it stays pending. Neither where the row was edited since.
 */
static rowsync_code
take_refused(rowsync *client, const Batch *batch, const Change *change, const Status *status,
             bool for_good)
{
    Slice payload = {batch->body.data + change->payload_at, change->payload_length};
    Buffer reason = {0}, message = {0};
    bool kept;
    rowsync_code code;

    scan_string(status->reason, &reason);
    scan_string(status->message, &message);
    code = reason.failed || message.failed
               ? rs_nomem(client)
               : (for_good ? pending_reject : pending_note)(
                     client, change, payload, buffer_string(&reason),
                     (Slice){message.data, message.length}, status->details, &kept);
    if (code == ROWSYNC_OK)
        rs_log(client, "a change of %s was refused%s: %s: %.300s", change->table->name,
               for_good ? "" : " for now", buffer_string(&reason), buffer_string(&message));
    buffer_free(&reason);
    buffer_free(&message);
    return code;
}

/* The server syncs the table by now, though it did not when the rows were fetched. */
static rowsync_code
note_present(rowsync *client, Table *table)
{
    Buffer sql = {0};
    rowsync_code code;

    table->refill &= ~REFILL_ABSENT;
    buffer_printf(&sql, "UPDATE main._sync_table SET refill = refill & ~%d WHERE table_id = %lld",
                  REFILL_ABSENT, (long long)table->id);
    code = sql.failed ? rs_nomem(client) : rs_exec(client, sql.data);
    buffer_free(&sql);
    return code;
}

/* Takes in one status. `last` says that nothing can go before a refused constraint any more. */
static rowsync_code
take_status(rowsync *client, const Batch *batch, Change *change, const Status *status, bool last,
            Round *round, rowsync_report *report)
{
    static const char *const names[] = {"id"};
    RowState theirs;
    Slice id;

    if (status->server_row.data != NULL && scan_fields(status->server_row, names, &id, 1) &&
        id.data != NULL && key_respell(client, change->table, id, &change->key) != ROWSYNC_OK)
        return client->code;
    if ((change->table->refill & REFILL_ABSENT) != 0 &&
        !word_is(status->reason, "unregistered_table") &&
        note_present(client, change->table) != ROWSYNC_OK)
        return client->code;
    if (word_is(status->status, "applied"))
    {
        round->settled++;
        report->applied++;
        report->uploaded++;
        return take_applied(client, batch, change, status, round);
    }
    if (word_is(status->status, "conflict"))
    {
        if (!read_server_row(status->server_row, &theirs))
            return rs_fail(client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                           "A conflict came without a proper server_row.");
        round->settled++;
        report->conflict++;
        return conflict_settle(client, change, &theirs, status->server_changed);
    }
    if (word_is(status->reason, "fk_missing") || word_is(status->reason, "internal_error"))
    {
        if (word_is(status->reason, "fk_missing"))
            report->fk_missing++;
        else
            report->internal_error++;
        round->deferred++;
        return last ? take_refused(client, batch, change, status, false) : ROWSYNC_OK;
    }
    if (word_is(status->reason, "batch_too_large"))
    {
        round->too_large = true;
        return ROWSYNC_OK;
    }
    if (word_is(status->reason, "constraint"))
    {
        if (!last)
        {
            report->constraint++;
            round->deferred++;
            return ROWSYNC_OK;
        }
        report->constraint++;
    }
    else if (word_is(status->reason, "bad_payload"))
        report->bad_payload++;
    else if (word_is(status->reason, "forbidden"))
        report->forbidden++;
    else if (word_is(status->reason, "unregistered_table"))
        report->unregistered_table++;
    else
        report->other++;
    round->settled++;
    return take_refused(client, batch, change, status, true);
}

/*
 * Reads the answer: the statuses, one for each change in order, and what it says of the log. A
 * server that has another log than the one that was read here decides nothing.
 */
static rowsync_code
read_answer(rowsync *client, const Batch *batch, const Exchange *answer, Status *statuses,
            Round *round)
{
    static const char *const names[] = {"accepted", "statuses", "highest_server_seq", "last_upload",
                                        "epoch"};
    Slice fields[5], element;
    JsonReader reader;
    int64_t head = -1, before;
    bool accepted = true;
    int count = 0;

    round->known = client->last_upload;
    round->epoch = -1;
    if (scan_fields((Slice){buffer_string(&answer->body), answer->body.length}, names, fields, 5) &&
        fields[1].data != NULL)
    {
        scan_boolean(fields[0], &accepted);
        scan_int64(fields[2], &head);
        scan_int64(fields[4], &round->epoch);
        if (!accepted && log_continues(client, round->epoch, head) != ROWSYNC_OK)
            return client->code;
        /* Uploads before this one that the file does not know of are left for the pull to find. */
        if (accepted && scan_int64(fields[3], &before) && before <= round->known &&
            head > round->known)
            round->known = head;
        reader = scan_reader(fields[1]);
        if (scan_enter(&reader, '['))
            while (scan_next_element(&reader, count == 0, &element) && count < batch->count &&
                   read_status(element, &statuses[count]) &&
                   statuses[count].id == batch->changes[count].change_id)
                count++;
        if (count == batch->count && scan_finish(&reader))
            return ROWSYNC_OK;
    }
    return rs_fail(client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                   "The answer to an upload of %d changes has no fitting status after %d.",
                   batch->count, count);
}

/* Are all refusals of this answer for now only, and constraints among them? */
static bool
only_waiting(const Status *statuses, int count)
{
    int i;

    for (i = 0; i < count; i++)
        if (!word_is(statuses[i].reason, "fk_missing") &&
            !word_is(statuses[i].reason, "internal_error") &&
            !word_is(statuses[i].reason, "constraint"))
            return false;
    return true;
}

/* Sees whether there are dead letters or held rows at all: mostly not, and then none is looked for.
 */
static rowsync_code
look_aside(rowsync *client, Round *round)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_ASIDE);

    if (statement == NULL || sqlite3_step(statement) != SQLITE_ROW)
        return rs_fail_sqlite(client, "looking for refused changes");
    round->refusals = sqlite3_column_int(statement, 0) != 0;
    round->held = sqlite3_column_int(statement, 1) != 0;
    sqlite3_reset(statement);
    return ROWSYNC_OK;
}

/* Takes in an answer, in one transaction. */
static rowsync_code
take_answer(rowsync *client, Batch *batch, const Status *statuses, bool last, Round *round,
            rowsync_report *report)
{
    rowsync_report before = *report;
    int64_t overwritten = client->overwritten, renewed = client->renewed;
    rowsync_code code = rs_begin(client);
    int i;

    if (code != ROWSYNC_OK)
        return code;
    code = look_aside(client, round);
    for (i = 0; i < batch->count && code == ROWSYNC_OK; i++)
        code = take_status(client, batch, &batch->changes[i], &statuses[i], last, round, report);
    if (code == ROWSYNC_OK && round->known > client->last_upload)
        code = note_last_upload(client, round->known);
    /* The versions are of that log: should it be another one before the first pull, it is noticed.
     */
    if (code == ROWSYNC_OK && round->epoch > 0 && client->epoch == 0)
        code = note_epoch(client, round->epoch, (Slice){0});
    if (code == ROWSYNC_OK && client->cautious)
        code = held_retry(client);
    /* A row of the server may need a parent that only the pull brings. */
    if (code == ROWSYNC_OK)
        code = take_out_orphans(client);
    round->again = orphans_stuck(client);
    if (round->again)
    {
        *report = before;
        client->overwritten = overwritten;
        client->renewed = renewed;
        return rs_give_up(client);
    }
    code = rs_end(client, code);
    if (code != ROWSYNC_OK)
        *report = before;
    else if (client->epoch == 0 && round->epoch > 0)
        client->epoch = round->epoch;
    return code;
}

/* A single change that is too large for the server is a dead letter. */
static rowsync_code
reject_large(rowsync *client, const Batch *batch, rowsync_report *report)
{
    static const char message[] = "The change is larger than the server takes in one request.";
    const Change *change = &batch->changes[0];
    bool moved;
    rowsync_code code = rs_begin(client);

    if (code != ROWSYNC_OK)
        return code;
    code = pending_reject(client, change,
                          (Slice){batch->body.data + change->payload_at, change->payload_length},
                          "bad_payload", (Slice){message, strlen(message)}, (Slice){0}, &moved);
    report->bad_payload++;
    return rs_end(client, code);
}

/* Microseconds of a clock, to see how long a round takes. */
static int64_t
now_us(void)
{
    struct timeval now;

    gettimeofday(&now, NULL);
    return (int64_t)now.tv_sec * 1000000 + now.tv_usec;
}

/* The batch is not sent in one piece: back to where it began, with so many changes a request. */
static void
send_again(Queue *queue, const Batch *batch, int *size, int count)
{
    *size = count > 0 ? count : 1;
    queue->after = batch->changes[0].queued - 1;
    queue->count = queue->next = 0;
    queue->done = false;
}

/*
 * One pass over the queue. *size adapts: down where the server finds a batch too large, and unless
 * it is `fixed` also where no answer came in time, for what is sent may be more than the network or
 * the server gets through; up again while rounds are quick.
 */
static rowsync_code
push_pass(rowsync *client, Queue *queue, Batch *batch, int *size, bool fixed, bool last,
          int max_tries, Round *pass, rowsync_report *report)
{
    rowsync_code code = ROWSYNC_OK;
    Exchange answer = {0};
    Status *statuses = NULL;
    int capacity = 0, tries = 1;

    for (;;)
    {
        Round round = {0};
        int64_t started, rejected = 0;

        code = batch_fill(client, queue, batch, *size, &rejected);
        report->bad_payload += rejected;
        if (code != ROWSYNC_OK || batch->count == 0)
            break;
        if (batch->count > capacity)
        {
            Status *grown = rs_realloc(statuses, (size_t)batch->count * sizeof(*grown));

            if (grown == NULL)
            {
                code = rs_nomem(client);
                break;
            }
            statuses = grown;
            capacity = batch->count;
        }
        started = now_us();
        code = rs_request(client, "POST", "/sync/upload", &batch->body, 1, &answer);
        if ((code == ROWSYNC_NETWORK || code == ROWSYNC_UNAVAILABLE) && tries < max_tries &&
            (code = rs_wait_again(client, answer.response.retry_after, tries++)) == ROWSYNC_OK)
        {
            /* Smaller batches are more requests, which is not what 429 asks for. */
            send_again(queue, batch, size,
                       fixed || answer.status == 429 ? *size : batch->count / 2);
            continue;
        }
        if (code != ROWSYNC_OK)
            break;
        tries = 1;
        report->rounds++;
        round.too_large = answer.status == 413;
        if (answer.status == 200 &&
            ((code = read_answer(client, batch, &answer, statuses, &round)) != ROWSYNC_OK ||
             (code = take_answer(client, batch, statuses,
                                 last && pass->settled == 0 && only_waiting(statuses, batch->count),
                                 &round, report)) != ROWSYNC_OK))
            break;
        if (answer.status == 410)
        {
            code = rs_fail(client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                           "The server answered 410 to an upload.");
            break;
        }
        if (round.again)
        {
            send_again(queue, batch, size, *size);
            continue;
        }
        pass->settled += round.settled;
        pass->deferred += round.deferred;
        if (round.too_large)
        {
            if (batch->count == 1 && (code = reject_large(client, batch, report)) != ROWSYNC_OK)
                break;
            send_again(queue, batch, size, batch->count / 2);
        }
        else if (!fixed && batch->count == *size && now_us() - started < 500000 &&
                 *size < LARGEST_BATCH)
            *size = *size * 2 < LARGEST_BATCH ? *size * 2 : LARGEST_BATCH;
        if ((code = rs_progress(client, "push", report->uploaded, queue->total)) != ROWSYNC_OK)
            break;
    }
    rs_free(statuses);
    buffer_free(&answer.body);
    return code;
}

/* Sends everything that is pending now. */
rowsync_code
push_all(rowsync *client, const rowsync_sync_options *options, rowsync_report *report)
{
    bool fixed = options->batch_size > 0, last = false;
    int size = fixed ? options->batch_size : FIRST_BATCH;
    Queue queue = {0};
    Batch batch = {0};
    rowsync_code code = ROWSYNC_OK;
    int64_t renewed = client->renewed;
    Counts counts = {0};
    int again = 0;

    if ((code = queue_start(client, &queue)) == ROWSYNC_OK &&
        (code = rs_counts(client, &counts)) == ROWSYNC_OK)
        for (queue.total = counts.pending;;)
        {
            Round pass = {0};

            queue.after = 0;
            queue.count = queue.next = 0;
            queue.done = false;
            code = push_pass(client, &queue, &batch, &size, fixed, last, options->max_tries, &pass,
                             report);
            if (code != ROWSYNC_OK)
                break;
            if (client->renewed > renewed && again < RENEWALS)
            {
                /* Edits that a conflict put on top of the server's version are news. */
                renewed = client->renewed;
                again++;
                last = false;
                if ((code = queue_start(client, &queue)) != ROWSYNC_OK)
                    break;
                continue;
            }
            if (pass.deferred == 0 || (last && pass.settled == 0))
                break;
            last = pass.settled == 0;
        }
    queue_free(&queue);
    batch_free(&batch);
    return code;
}
