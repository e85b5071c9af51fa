/*
 * upload.c: rowsync.upload, from the request's text to the answer's.
 *
 * Lock the scope, then look: everything decided below holds until commit. Changes of different rows
 * are handled together, as one wave (decide.c, write.c); a second change of a row waits for the
 * next wave.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "capture.h"
#include "errors.h"
#include "guc.h"
#include "upload.h"

PG_FUNCTION_INFO_V1(rowsync_upload);

/*
 * Looks up the rows that the open changes of a wave were guessed to create, and decides again where
 * one was there; whether there was any. *count becomes the number of changes that are still open,
 * moved to the front.
 */
bool
upload_settle_guesses(Upload *upload, Change **changes, int *count)
{
    int left = 0;
    bool wrong = false;

    for (int i = 0; i < *count; i++)
    {
        Change *change = changes[i];

        CHECK_FOR_INTERRUPTS();
        changelog_confirm(upload->log, change->row);
        if (change->guessed && change->row->stored)
        {
            wrong = true;
            change_decide(upload, change);
            if (change->status == STATUS_OPEN && change->action == ACTION_LOG_ONLY)
                upload_log_change(upload, change);
        }
        change->guessed = false;
        if (change->status == STATUS_OPEN)
            changes[left++] = change;
        else
            change->row->user = NULL;
    }
    *count = left;
    return wrong;
}

/* Decides and writes the changes of one wave: each of another row. */
static void
process_wave(Upload *upload, Change **wave, int count)
{
    Change **open = palloc(count * sizeof(Change *));
    int nopen = 0;

    for (int i = 0; i < count; i++)
    {
        CHECK_FOR_INTERRUPTS();
        wave[i]->guessed = wave[i]->row->guessed;
        change_decide(upload, wave[i]);
        if (wave[i]->status != STATUS_OPEN)
            continue;
        if (wave[i]->action == ACTION_LOG_ONLY)
            upload_log_change(upload, wave[i]);
        else
        {
            wave[i]->row->user = wave[i];
            open[nopen++] = wave[i];
        }
    }
    /* Parents are looked up before the order is made of them. */
    upload_find_parents(upload, open, nopen, false);
    if (nopen > 0)
        upload_write_wave(upload, open, nopen);
    for (int i = 0; i < count; i++)
        wave[i]->row->user = NULL;
    pfree(open);
}

/* Orders changes by table and key. */
static int
compare_keys(const void *a, const void *b)
{
    const Change *left = *(Change *const *)a;
    const Change *right = *(Change *const *)b;

    if (left->table->table_id != right->table->table_id)
        return left->table->table_id < right->table->table_id ? -1 : 1;
    return rowkey_compare(left->key, right->key);
}

/*
 * Whether the row of a change may be taken for new. Hardly anybody but a device that has lost its
 * memory inserts a row that is there.
 */
static bool
looks_new(const Upload *upload, const Change *change)
{
    return upload->guesses && change->request->op == 'I' && change->request->server_version == 0;
}

/* Reads the versions of the rows of the open changes, new rows apart, in the order of their index.
 */
static void
look_up_rows(Upload *upload)
{
    Change **sorted = palloc(Max(upload->nchanges, 1) * sizeof(Change *));
    int count = 0;

    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = &upload->changes[i];

        if (change->status == STATUS_OPEN && !looks_new(upload, change))
            sorted[count++] = change;
    }
    qsort(sorted, count, sizeof(Change *), compare_keys);
    for (int i = 0; i < count; i++)
        (void)changelog_row(upload->log, sorted[i]->table->table_id, sorted[i]->key);
    pfree(sorted);
}

/*
 * Finds the row of every change that is still open, and puts the changes of each row into a chain.
 * Gives the first of each row; returns their number.
 */
static int
find_rows(Upload *upload, Change **firsts)
{
    int count = 0;

    look_up_rows(upload);
    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = &upload->changes[i];
        KnownChange known;

        CHECK_FOR_INTERRUPTS();
        if (change->status != STATUS_OPEN || change->first != NULL)
            continue;
        if (change->request->source_change_id <= upload->source.last_change_id &&
            changelog_find_change(upload->log, change->request->source_change_id,
                                  change->table->table_id, change->key, &known))
        {
            change_answer_again(upload, change, &known);
            continue;
        }
        if (change->request->source_change_id <= upload->source.last_change_id &&
            upload->scope.floor > 0 &&
            source_has_pruned(upload->scope.scope_id, upload->source_id,
                              change->request->source_change_id))
        {
            change_answer_pruned(upload, change);
            continue;
        }
        change->row = looks_new(upload, change)
                          ? changelog_guess(upload->log, change->table->table_id, change->key)
                          : changelog_row(upload->log, change->table->table_id, change->key);
        if (change->row->user == NULL)
            firsts[count++] = change;
        else
            ((Change *)change->row->user)->later = change;
        change->row->user = change;
    }
    for (int i = 0; i < count; i++)
        firsts[i]->row->user = NULL;
    return count;
}

/* Everything between opening and closing the log. */
static void
process(Upload *upload)
{
    Change **wave = palloc(Max(upload->nchanges, 1) * sizeof(Change *));
    int count = find_rows(upload, wave);

    while (count > 0)
    {
        int left = 0;

        process_wave(upload, wave, count);
        for (int i = 0; i < count; i++)
        {
            if (wave[i]->later != NULL)
                wave[left++] = wave[i]->later;
        }
        count = left;
    }
    pfree(wave);
}

/* Whether every change was applied. */
static bool
all_applied(Upload *upload)
{
    for (int i = 0; i < upload->nchanges; i++)
    {
        if (upload->changes[i].first == NULL && upload->changes[i].status != STATUS_APPLIED)
            return false;
    }
    return true;
}

/* Whether an error says that a row which was taken for new is in row_meta. */
static bool
is_wrong_guess(const ErrorData *error)
{
    return error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && error->schema_name != NULL &&
           error->table_name != NULL && strcmp(error->schema_name, "rowsync") == 0 &&
           strcmp(error->table_name, "row_meta") == 0;
}

/* How it went. */
typedef enum Outcome
{
    OUTCOME_DONE,
    OUTCOME_REFUSED,    /* an atomic request, one of whose changes was refused: nothing is done */
    OUTCOME_WRONG_GUESS /* nothing is done, and it must be done without guesses */
} Outcome;

/* Processes all changes and closes the log. */
static Outcome
process_all(Upload *upload)
{
    int64 head;

    process(upload);
    if (upload->request.atomic && !all_applied(upload))
        return OUTCOME_REFUSED;
    head = changelog_head(upload->log);
    changelog_close(upload->log);
    upload->scope.head = head;
    return OUTCOME_DONE;
}

/*
 * The same in a subtransaction, for what may have to be undone. The change log belongs to the
 * transaction outside, so its resources must too.
 */
static Outcome
process_undoably(Upload *upload)
{
    MemoryContext context = CurrentMemoryContext;
    ResourceOwner owner = CurrentResourceOwner;
    volatile Outcome outcome;

    BeginInternalSubTransaction(NULL);
    MemoryContextSwitchTo(context);
    CurrentResourceOwner = owner;
    PG_TRY();
    {
        outcome = process_all(upload);
    }
    PG_CATCH();
    {
        ErrorData *error;

        MemoryContextSwitchTo(context);
        error = CopyErrorData();
        FlushErrorState();
        if (!upload->guesses || !is_wrong_guess(error))
        {
            /* Left open, it is all that the server would undo: the transaction would stay. */
            RollbackAndReleaseCurrentSubTransaction();
            MemoryContextSwitchTo(context);
            CurrentResourceOwner = owner;
            ReThrowError(error);
        }
        outcome = OUTCOME_WRONG_GUESS;
    }
    PG_END_TRY();
    if (outcome == OUTCOME_DONE)
        ReleaseCurrentSubTransaction();
    else
        RollbackAndReleaseCurrentSubTransaction();
    MemoryContextSwitchTo(context);
    CurrentResourceOwner = owner;
    if (outcome != OUTCOME_DONE)
        changelog_abandon(upload->log);
    return outcome;
}

/* Tells the changes of an atomic request that were applied that they are not. */
static void
refuse_applied(Upload *upload)
{
    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = &upload->changes[i];

        /* What was applied before this request has no row here, and stays applied. */
        if (change->status != STATUS_APPLIED || change->row == NULL)
            continue;
        change_refuse(change, REASON_INTERNAL_ERROR,
                      "not applied: the request is atomic and another of its changes was refused",
                      NULL);
        strlcpy(change->sqlstate, unpack_sql_state(ERRCODE_TRANSACTION_ROLLBACK),
                sizeof(change->sqlstate));
    }
}

/* Makes of the request changes that nothing has been decided about. */
static void
begin_changes(Upload *upload)
{
    memset(upload->changes, 0, upload->nchanges * sizeof(Change));
    for (int i = 0; i < upload->nchanges; i++)
        upload->changes[i].request = &upload->request.changes[i];
    upload->foreign = NIL;
}

/* Opens the log and processes all changes, guessing that what looks new is new. */
static Outcome
process_request(Upload *upload)
{
    bool any = false;
    Outcome outcome;

    upload->guesses = true;
    for (int i = 0; i < upload->nchanges; i++)
        any = any || looks_new(upload, &upload->changes[i]);
    upload->guesses = any;
    upload->log = changelog_open(&upload->scope, &upload->source);
    outcome = any || upload->request.atomic ? process_undoably(upload) : process_all(upload);
    if (outcome != OUTCOME_WRONG_GUESS)
        return outcome;
    upload->guesses = false;
    begin_changes(upload);
    upload_resolve(upload);
    upload->log = changelog_open(&upload->scope, &upload->source);
    return upload->request.atomic ? process_undoably(upload) : process_all(upload);
}

/* Answers every change of a request of which nothing is done. */
static void
refuse_all(Upload *upload, InvalidReason reason, const char *message)
{
    for (int i = 0; i < upload->nchanges; i++)
        change_refuse(&upload->changes[i], reason, message, NULL);
    upload->accepted = false;
}

/*
 * Whether the source has read the log that there is, as far as it says. If not, a backup was
 * restored: its versions name other changes than ours, and no change can be decided by them.
 */
static bool
knows_this_log(const Upload *upload)
{
    const Request *request = &upload->request;

    return request->epoch <= 0 || (request->epoch == upload->scope.epoch &&
                                   request->last_server_seq_seen <= upload->scope.head);
}

/* Applies a request in a scope of its own lock and snapshot. */
static void
run(Upload *upload)
{
    int64 highest_id;

    upload_resolve(upload);
    scope_lock(scope_find_or_create(upload->user_id), &upload->scope);
    PushActiveSnapshot(GetTransactionSnapshot());
    source_find_or_create(upload->scope.scope_id, upload->source_id, 0, &upload->source);
    if (!knows_this_log(upload))
    {
        refuse_all(upload, REASON_INTERNAL_ERROR,
                   "the server was restored from a backup: read its log anew");
        PopActiveSnapshot();
        return;
    }
    highest_id = upload->source.last_change_id;

    upload->context = CurrentMemoryContext;
    upload->owner = CurrentResourceOwner;
    if (process_request(upload) == OUTCOME_DONE)
    {
        ListCell *cell;

        foreach (cell, upload->foreign)
            capture_append(lfirst(cell));
        for (int i = 0; i < upload->nchanges; i++)
        {
            if (upload->changes[i].status == STATUS_APPLIED)
                highest_id = Max(highest_id, upload->changes[i].request->source_change_id);
        }
    }
    else
        refuse_applied(upload);
    PopActiveSnapshot();

    PushActiveSnapshot(GetTransactionSnapshot());
    source_update(upload->scope.scope_id, upload->source_id,
                  Min(upload->request.last_server_seq_seen, upload->scope.head), highest_id,
                  upload->scope.head, true);
    upload_note_refusals(upload);
    PopActiveSnapshot();
}

/* rowsync.upload(user_id text, source_id text, request text) returns text */
Datum
rowsync_upload(PG_FUNCTION_ARGS)
{
    text *request = PG_GETARG_TEXT_PP(2);
    Upload upload = {.user_id = text_to_cstring(PG_GETARG_TEXT_PP(0)),
                     .source_id = text_to_cstring(PG_GETARG_TEXT_PP(1)),
                     .accepted = true};
    MemoryContext outer = CurrentMemoryContext;
    MemoryContext context;
    StringInfoData answer;
    int settings;

    PreventCommandIfReadOnly("rowsync.upload()");
    PreventCommandDuringRecovery("rowsync.upload()");
    check_id("user_id", upload.user_id);
    check_id("source_id", upload.source_id);
    /* What this transaction wrote before belongs before the upload; no change is refused for it. */
    upload_set_constraints(false);
    capture_flush();

    context = AllocSetContextCreate(outer, "rowsync upload", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(context);
    request_parse(VARDATA_ANY(request), VARSIZE_ANY_EXHDR(request), &upload.request);
    upload.nchanges = upload.request.nchanges;
    upload.changes = MemoryContextAllocExtended(context, Max(upload.nchanges, 1) * sizeof(Change),
                                                MCXT_ALLOC_HUGE);
    begin_changes(&upload);

    if (upload.nchanges > rowsync_max_changes)
    {
        int64 scope_id = scope_find(upload.user_id);

        if (scope_id != 0)
            (void)scope_read(scope_id, GetActiveSnapshot(), &upload.scope);
        refuse_all(&upload, REASON_BATCH_TOO_LARGE,
                   psprintf("%d changes in one request are more than %d: send fewer",
                            upload.nchanges, rowsync_max_changes));
    }
    else
    {
        /* Triggers of business tables may insert rows of their own. */
        settings = NewGUCNestLevel();
        (void)set_config_option("rowsync.scope", upload.user_id, PGC_USERSET, PGC_S_SESSION,
                                GUC_ACTION_SAVE, true, 0, false);
        run(&upload);
        AtEOXact_GUC(true, settings);
    }
    MemoryContextSwitchTo(outer);
    initStringInfo(&answer);
    appendStringInfoSpaces(&answer, VARHDRSZ);
    upload_append_answer(&answer, &upload);
    SET_VARSIZE(answer.data, answer.len);
    MemoryContextDelete(context);
    PG_RETURN_TEXT_P((text *)answer.data);
}
