/*
 * upload.c: rowsync.upload, from the request's text to the answer's.
 *
 * Lock the scope, then look: everything decided below holds until commit. Changes of different rows
 * are handled together, as one wave; a second change of a row waits for the next wave. A wave is
 * written with one statement for each table and kind, in one subtransaction. When that fails, a
 * second path finds the bad changes: the wave in pieces, a failed piece singly, over and over until
 * a pass gets nothing more done. So one bad row costs the others nothing but time.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply.h"
#include "capture.h"
#include "errors.h"
#include "guc.h"
#include "upload.h"

PG_FUNCTION_INFO_V1(rowsync_upload);

/* ------------------------------------------------------------------ errors */

/*
 * Whether the same change may work at another time: the error is about other transactions, or about
 * something broken that somebody will mend. All else, whatever SQLSTATE a trigger chose, is a
 * refusal of this row.
 */
static bool
may_pass(int category)
{
    return category == ERRCODE_TRANSACTION_ROLLBACK ||
           category == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE ||
           category == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION ||
           category == ERRCODE_INTERNAL_ERROR || category == ERRCODE_FEATURE_NOT_SUPPORTED ||
           category == ERRCODE_TO_CATEGORY(ROWSYNC_DAMAGED);
}

/*
 * Answers a change with what a statement or an input function raised. The detail is left out: it
 * may quote a row of somebody else.
 */
void
change_refuse_error(Change *change, ErrorData *error)
{
    int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
    InvalidReason reason = REASON_INTERNAL_ERROR;
    const char *message = error->message;
    const char *column = change->converting;

    if (change->converting != NULL)
        reason = REASON_BAD_PAYLOAD;
    else if (error->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION && change->request->op != 'D')
    {
        reason = REASON_FK_MISSING;
        message = "a row that this change refers to is not there yet";
    }
    else if (error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && change->apply.kind == APPLY_INSERT &&
             error->constraint_name != NULL && error->table_name != NULL &&
             strcmp(error->constraint_name, change->table->key_name) == 0 &&
             strcmp(error->table_name, change->table->name) == 0)
    {
        /* In this scope the key is free, or the change would be an update. */
        change_refuse(change, REASON_FORBIDDEN, "this row is not yours to write", NULL);
        return;
    }
    else if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
        reason = REASON_FORBIDDEN;
    else if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
        message = "another transaction is writing to this row";
    else if (!may_pass(category))
    {
        reason = REASON_CONSTRAINT;
        column = error->column_name;
    }
    change_refuse(change, reason, message, column);
    change->constraint = error->constraint_name;
    strlcpy(change->sqlstate, unpack_sql_state(error->sqlerrcode), sizeof(change->sqlstate));
}

/* Whether an error is about the server or the session, not about a row. */
static bool
is_fatal(const ErrorData *error)
{
    int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

    return category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_SYSTEM_ERROR ||
           category == ERRCODE_INSUFFICIENT_RESOURCES;
}

/*
 * Runs work in a subtransaction that commits only if it returns true. An error inside is returned,
 * in the current context, unless it ends the request. work must not use the change log: its pins
 * and scans belong to the transaction outside.
 */
static bool
in_subtransaction(bool (*work)(void *arg), void *arg, ErrorData **error)
{
    MemoryContext context = CurrentMemoryContext;
    ResourceOwner owner = CurrentResourceOwner;
    volatile bool done = false;

    *error = NULL;
    BeginInternalSubTransaction(NULL);
    MemoryContextSwitchTo(context);
    PG_TRY();
    {
        done = work(arg);
        if (done)
            ReleaseCurrentSubTransaction();
        else
            RollbackAndReleaseCurrentSubTransaction();
        MemoryContextSwitchTo(context);
        CurrentResourceOwner = owner;
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        *error = CopyErrorData();
        FlushErrorState();
        RollbackAndReleaseCurrentSubTransaction();
        MemoryContextSwitchTo(context);
        CurrentResourceOwner = owner;
        if (is_fatal(*error))
            ReThrowError(*error);
    }
    PG_END_TRY();
    return done;
}

/* ------------------------------------------------------------------ resolving */

/* Resolves a range of changes. */
typedef struct Range
{
    Change *changes;
    int count;
} Range;

/* Work of in_subtransaction: resolves changes whose values may raise errors. */
static bool
resolve_range(void *arg)
{
    Range *range = arg;
    ValueFormat saved;

    value_format_enter(&saved);
    PG_TRY();
    {
        for (int i = 0; i < range->count; i++)
        {
            Change *change = &range->changes[i];

            CHECK_FOR_INTERRUPTS();
            if (change->table == NULL || change->table->safe_input)
                continue;
            change->status = STATUS_OPEN;
            change_resolve(change);
        }
    }
    PG_FINALLY();
    {
        value_format_leave(&saved);
    }
    PG_END_TRY();
    return true;
}

/* Finds table, key, values and parents of every change. */
static void
resolve(Upload *upload)
{
    SyncedTable *last = NULL;
    Range all = {upload->changes, upload->nchanges};
    bool unsafe = false;
    ErrorData *error;

    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = &upload->changes[i];
        RequestChange *request = change->request;

        CHECK_FOR_INTERRUPTS();
        if (request->error != NULL)
        {
            change_refuse(change, REASON_BAD_PAYLOAD, request->error, NULL);
            continue;
        }
        if (last == NULL || strcmp(last->name, request->table) != 0 ||
            strcmp(last->schema, request->schema) != 0)
            last = registry_find_name(request->schema, request->table);
        if (last == NULL)
        {
            change_refuse(change, REASON_UNREGISTERED_TABLE,
                          psprintf("table %s.%s does not sync", request->schema, request->table),
                          NULL);
            continue;
        }
        change->table = last;
        if (last->safe_input)
            change_resolve(change);
        unsafe |= !last->safe_input;
    }
    if (!unsafe || in_subtransaction(resolve_range, &all, &error))
        return;
    /* One of them raised an error: find out which, one by one. */
    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = &upload->changes[i];
        Range one = {change, 1};

        if (change->table != NULL && !change->table->safe_input &&
            !in_subtransaction(resolve_range, &one, &error))
            change_refuse_error(change, error);
    }
}

/* Orders changes by the source's number, then by place. */
static int
compare_ids(const void *a, const void *b)
{
    const Change *left = *(Change *const *)a;
    const Change *right = *(Change *const *)b;

    if (left->request->source_change_id != right->request->source_change_id)
        return left->request->source_change_id < right->request->source_change_id ? -1 : 1;
    return left < right ? -1 : 1;
}

/*
 * The same number twice in one request: the same change again waits for the first one's answer,
 * another change under the number is refused.
 */
static void
find_repeated_ids(Upload *upload)
{
    Change **sorted = palloc(Max(upload->nchanges, 1) * sizeof(Change *));

    for (int i = 0; i < upload->nchanges; i++)
        sorted[i] = &upload->changes[i];
    qsort(sorted, upload->nchanges, sizeof(Change *), compare_ids);
    for (int i = 1; i < upload->nchanges; i++)
    {
        Change *change = sorted[i];
        Change *first = sorted[i - 1]->first ? sorted[i - 1]->first : sorted[i - 1];
        RequestChange *a = first->request;
        RequestChange *b = change->request;

        if (a->source_change_id != b->source_change_id)
            continue;
        if (a->end - a->start == b->end - b->start &&
            memcmp(a->start, b->start, a->end - a->start) == 0)
            change->first = first;
        else
            change_refuse(change, REASON_BAD_PAYLOAD,
                          "source_change_id is used twice in this request, for different changes",
                          NULL);
    }
    pfree(sorted);
}

/* ------------------------------------------------------------------ order */

/* Orders changes so that parents come before children; see visit(). */
typedef struct Order
{
    Change **ordered;
    int count;
    Change **stack;
    int depth;
    int visits;
    int units;
} Order;

/*
 * Tarjan's search for strongly connected components (SIAM Journal on Computing 1(2), 1972), along
 * the references inside the wave. A component is complete after all it refers to, so that they come
 * out parents first; the changes of one component refer to each other and form one unit.
 */
static void
visit(Order *order, Change *change)
{
    check_stack_depth();
    change->visit = change->lowest = ++order->visits;
    order->stack[order->depth++] = change;
    change->on_stack = true;
    for (int i = 0; i < change->nparents; i++)
    {
        RowState *row = change->parents[i].row;
        Change *parent = row ? row->user : NULL;

        if (parent == NULL || parent->status != STATUS_OPEN || parent->request->op == 'D')
            continue;
        if (parent->visit == 0)
        {
            visit(order, parent);
            change->lowest = Min(change->lowest, parent->lowest);
        }
        else if (parent->on_stack)
            change->lowest = Min(change->lowest, parent->visit);
    }
    if (change->lowest == change->visit)
    {
        Change *member;

        do
        {
            member = order->stack[--order->depth];
            member->on_stack = false;
            member->unit = order->units;
            order->ordered[order->count++] = member;
        } while (member != change);
        order->units++;
    }
}

/* Orders by table, parents first, then by place in the request. */
static int
compare_tables(const void *a, const void *b)
{
    const Change *left = *(Change *const *)a;
    const Change *right = *(Change *const *)b;

    if (left->table->upsert_order != right->table->upsert_order)
        return left->table->upsert_order < right->table->upsert_order ? -1 : 1;
    if (left->table->table_id != right->table->table_id)
        return left->table->table_id < right->table->table_id ? -1 : 1;
    return left < right ? -1 : left > right;
}

/*
 * Brings the open changes of a wave into the order of writing: rows that come or change, parents
 * first; then rows that go, children first.
 */
static void
sort_wave(Change **changes, int count)
{
    Order order = {0};
    Change **deletes = palloc(Max(count, 1) * sizeof(Change *));
    int ndeletes = 0;

    order.ordered = palloc(Max(count, 1) * sizeof(Change *));
    order.stack = palloc(Max(count, 1) * sizeof(Change *));
    qsort(changes, count, sizeof(Change *), compare_tables);
    for (int i = 0; i < count; i++)
    {
        if (changes[i]->request->op == 'D')
            deletes[ndeletes++] = changes[i];
        else if (changes[i]->visit == 0)
            visit(&order, changes[i]);
    }
    while (ndeletes > 0)
    {
        deletes[ndeletes - 1]->unit = order.units++;
        order.ordered[order.count++] = deletes[--ndeletes];
    }
    memcpy(changes, order.ordered, count * sizeof(Change *));
    pfree(order.ordered);
    pfree(order.stack);
    pfree(deletes);
}

/* ------------------------------------------------------------------ writing */

/* Changes that are written together or not at all. */
typedef struct Attempt
{
    Upload *upload;
    Change **changes;
    int count;
    bool probe; /* write, but leave deferred constraints unchecked and roll back */
} Attempt;

/* Orders changes for writing: what one statement can write lies together. */
static int
compare_statements(const void *a, const void *b)
{
    const Change *left = *(Change *const *)a;
    const Change *right = *(Change *const *)b;
    bool left_delete = left->apply.kind == APPLY_DELETE;
    int tables = compare_tables(a, b);
    int columns;

    if (left_delete != (right->apply.kind == APPLY_DELETE))
        return left_delete ? 1 : -1;
    if (left->table != right->table)
        return left_delete ? -tables : tables;
    if (left->apply.kind != right->apply.kind)
        return left->apply.kind < right->apply.kind ? -1 : 1;
    columns = left_delete ? 0 : bms_compare(left->apply.columns, right->apply.columns);
    if (columns != 0)
        return columns;
    /* The checks of a statement come at its end: its rows may come as the indexes like them. */
    return rowkey_compare(left->key, right->key);
}

/* Whether two changes can be written by one statement. */
static bool
same_statement(const Change *a, const Change *b)
{
    return a->table == b->table && a->apply.kind == b->apply.kind &&
           (a->apply.kind == APPLY_DELETE || bms_equal(a->apply.columns, b->apply.columns));
}

/* Defers or checks all deferrable constraints. */
static void
set_constraints(bool deferred)
{
    ConstraintsSetStmt *statement = makeNode(ConstraintsSetStmt);

    statement->constraints = NIL;
    statement->deferred = deferred;
    AfterTriggerSetState(statement);
}

/* Whether the row as stored differs from what was sent, beyond what the device cannot know. */
static bool
stored_differs(Change *change, TupleTableSlot *old, TupleTableSlot *new)
{
    SyncedTable *table = change->table;

    slot_getallattrs(new);
    if (old != NULL)
        slot_getallattrs(old);
    for (int i = 0; i < table->ncolumns; i++)
    {
        SyncedColumn *column = &table->columns[i];
        int att = column->attnum - 1;
        Datum value = new->tts_values[att];
        bool isnull = new->tts_isnull[att];

        if (bms_is_member(i, change->apply.columns))
        {
            if (isnull != change->apply.nulls[i] ||
                (!isnull && !datum_image_eq(value, change->apply.values[i], column->codec.typbyval,
                                            column->codec.typlen)))
                return true;
        }
        else if (old == NULL)
        {
            if (!isnull)
                return true;
        }
        else if (isnull != old->tts_isnull[att] ||
                 (!isnull && !datum_image_eq(value, old->tts_values[att], column->codec.typbyval,
                                             column->codec.typlen)))
            return true;
    }
    return false;
}

/* Looks on while the statements of an attempt are captured. */
static void
observe(void *arg, SyncedTable *table, const char *scope, RowKey key, TupleTableSlot *old,
        TupleTableSlot *new)
{
    Upload *upload = arg;
    RowState *row = changelog_peek(upload->log, table->table_id, key);
    Change *change = row ? row->user : NULL;

    if (change == NULL || change->status != STATUS_OPEN ||
        (new == NULL) != (change->request->op == 'D'))
        return;
    if (scope == NULL || strcmp(scope, upload->user_id) != 0)
    {
        change->moved = true;
        return;
    }
    change->written = true;
    /* A trigger may write to the row again: each of its writes counts. */
    if (new != NULL && !change->differs)
        change->differs = stored_differs(change, old, new);
}

/* Work of in_subtransaction: writes the rows of an attempt; true if every one was written. */
static bool
write_attempt(void *arg)
{
    Attempt *attempt = arg;
    Change **sorted = palloc(attempt->count * sizeof(Change *));
    ApplyRow **rows = palloc(attempt->count * sizeof(ApplyRow *));
    bool all_written = true;

    for (int i = 0; i < attempt->count; i++)
    {
        sorted[i] = attempt->changes[i];
        sorted[i]->written = sorted[i]->moved = sorted[i]->differs = false;
    }
    qsort(sorted, attempt->count, sizeof(Change *), compare_statements);
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    set_constraints(true);
    for (int first = 0; first < attempt->count;)
    {
        int last = first;

        while (last < attempt->count && same_statement(sorted[first], sorted[last]))
        {
            rows[last - first] = &sorted[last]->apply;
            last++;
        }
        apply_rows(sorted[first]->table, rows, last - first, attempt->upload->user_id);
        first = last;
    }
    if (!attempt->probe)
        set_constraints(false);
    SPI_finish();
    for (int i = 0; i < attempt->count && !attempt->probe; i++)
        all_written = all_written && sorted[i]->written && !sorted[i]->moved;
    pfree(sorted);
    pfree(rows);
    return all_written && !attempt->probe;
}

/* The events of one row, as one attempt caused them. */
typedef struct Harvest
{
    RowState *row;
    CaptureEvent final;
    CaptureEvent own; /* the last one of the kind that the row's change asked for */
    bool has_final;
    bool has_own;
} Harvest;

/* A copy of a payload that outlives the capture buffer. */
static struct varlena *
copy_payload(struct varlena *payload)
{
    Size size = VARSIZE(payload);

    return memcpy(palloc(size), payload, size);
}

/* A copy of an event that outlives the next look into the buffer. */
static CaptureEvent
keep(const CaptureEvent *event)
{
    CaptureEvent copy = *event;

    copy.key.data = memcpy(palloc(event->key.len), event->key.data, event->key.len);
    copy.payload = copy_payload(event->payload);
    return copy;
}

/* Whether event shows a later state than the one kept. */
static bool
later(const CaptureEvent *event, const CaptureEvent *kept)
{
    return capture_supersedes(event->command, event->op, kept->command, kept->op);
}

/* Logs an applied change. */
static void
log_change(Upload *upload, Change *change)
{
    LogEntry entry = {.row = change->row,
                      .op = change->log_op,
                      .source_no = upload->source.source_no,
                      .source_change_id = change->request->source_change_id,
                      .payload = change->log_payload};

    change->version = changelog_append(upload->log, &entry);
    change->status = STATUS_APPLIED;
    if (change->differs && change->log_payload != NULL)
    {
        change->server_row = VARDATA(change->log_payload);
        change->server_row_len = VARSIZE(change->log_payload) - VARHDRSZ;
        change->server_version = change->version;
    }
}

/* Logs what a row became beyond what its change, if any, asked for. */
static void
log_server_change(Upload *upload, RowState *row, const CaptureEvent *event)
{
    LogEntry entry = {.row = row, .payload = copy_payload(event->payload)};

    /* Came and went: nobody has seen it. */
    if (event->op == 'D' && row->deleted)
        return;
    entry.op = event->op == 'D' ? 'D' : (row->deleted ? 'I' : 'U');
    changelog_append(upload->log, &entry);
}

/*
 * Logs what an attempt wrote: its own changes, and what triggers and cascades made of other rows of
 * the scope, in the order in which the rows were first touched. What happened in other scopes is
 * set aside, for commit.
 */
static void
harvest(Upload *upload, int64 start)
{
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "rowsync harvest", ALLOCSET_DEFAULT_SIZES);
    MemoryContext outer = MemoryContextSwitchTo(context);
    int64 position = start;
    CaptureEvent event;
    List *touched = NIL;
    ListCell *cell;

    while (capture_next(&position, &event))
    {
        RowState *row;
        Change *change;
        Harvest *item;

        CHECK_FOR_INTERRUPTS();
        if (strcmp(capture_scope_name(event.scope_no), upload->user_id) != 0)
        {
            CaptureEvent *copy;

            MemoryContextSwitchTo(outer);
            copy = palloc(sizeof(CaptureEvent));
            *copy = keep(&event);
            upload->foreign = lappend(upload->foreign, copy);
            MemoryContextSwitchTo(context);
            continue;
        }
        row = changelog_row(upload->log, event.table_id, event.key);
        if (row->harvest == NULL)
        {
            row->harvest = palloc0(sizeof(Harvest));
            ((Harvest *)row->harvest)->row = row;
            touched = lappend(touched, row->harvest);
        }
        item = row->harvest;
        if (!item->has_final || later(&event, &item->final))
            item->final = keep(&event);
        item->has_final = true;
        change = row->user;
        if (change != NULL && change->status == STATUS_OPEN && change->written &&
            (event.op == 'D') == (change->request->op == 'D') &&
            (!item->has_own || later(&event, &item->own)))
        {
            item->own = keep(&event);
            item->has_own = true;
        }
    }
    foreach (cell, touched)
    {
        Harvest *item = lfirst(cell);
        Change *change = item->row->user;

        item->row->harvest = NULL;
        MemoryContextSwitchTo(outer);
        if (item->has_own)
        {
            change->log_payload = copy_payload(item->own.payload);
            log_change(upload, change);
        }
        if (!item->has_own || (item->own.op == 'D') != (item->final.op == 'D'))
            log_server_change(upload, item->row, &item->final);
    }
    capture_mark_flushed();
    MemoryContextSwitchTo(outer);
    MemoryContextDelete(context);
}

/*
 * How long a statement of this upload may wait for a row that somebody else has locked, in ms.
 * Other writers lock rows first and the scope at commit, we the other way round: who of the two has
 * to give way must be the upload, which can be sent again. So it stops waiting before the other's
 * deadlock check can find anything, and after the first time hardly waits at all.
 */
static void
limit_lock_waits(bool again)
{
    int limit = again ? 10 : Max(DeadlockTimeout / 2, 1);
    char text[32];

    if (LockTimeout > 0 && LockTimeout < limit)
        return;
    snprintf(text, sizeof(text), "%d", limit);
    (void)set_config_option("lock_timeout", text, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true,
                            0, false);
}

/* Writes changes together. If it works they are logged; if not, nothing has happened. */
static bool
attempt(Upload *upload, Change **changes, int count, ErrorData **error)
{
    Attempt work = {upload, changes, count, false};
    int64 start = capture_end();
    bool done;

    capture_set_observer(observe, upload);
    done = in_subtransaction(write_attempt, &work, error);
    capture_set_observer(NULL, NULL);
    if (done)
        harvest(upload, start);
    else if (*error != NULL && (*error)->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
        limit_lock_waits(true);
    return done;
}

/* Tells the changes of a unit why it could not be written. */
static void
refuse_unit(Change **changes, int count, ErrorData *error)
{
    for (int i = 0; i < count; i++)
    {
        Change *change = changes[i];

        if (error != NULL)
            change_refuse_error(change, error);
        else if (change->moved)
            change_refuse(change, REASON_FORBIDDEN, "the row would belong to another scope", NULL);
        else if (change->table->row_security)
            change_refuse(change, REASON_FORBIDDEN, "a policy of the table hides this row", NULL);
        else
            change_refuse(change, REASON_CONSTRAINT,
                          "the row was not written: a trigger of the table suppressed it", NULL);
    }
}

/* The number of changes from first on that form one unit. */
static int
unit_length(Change **changes, int first, int count)
{
    int length = 1;

    while (first + length < count && changes[first + length]->unit == changes[first]->unit)
        length++;
    return length;
}

/*
 * A unit of several changes, which need each other, could not be written. Finds out whose fault
 * that is: who can be written alone is; of the others, those that some check refuses get its error,
 * and the rest miss their parents.
 */
static bool
write_members(Upload *upload, Change **changes, int count)
{
    bool progress = false;
    ErrorData *error;

    for (int i = 0; i < count; i++)
        changes[i]->status = STATUS_INVALID;
    for (int i = 0; i < count; i++)
    {
        Change *change = changes[i];
        Attempt probe = {upload, &changes[i], 1, true};

        change->status = STATUS_OPEN;
        /* From here on each is tried by itself. */
        change->unit = -1 - upload->dissolved++;
        if (change_parents_there(upload, change))
        {
            if (attempt(upload, &changes[i], 1, &error))
                progress = true;
            else
                refuse_unit(&changes[i], 1, error);
            continue;
        }
        (void)in_subtransaction(write_attempt, &probe, &error);
        if (error != NULL)
            change_refuse_error(change, error);
    }
    return progress;
}

/* Tries one unit by itself; true if anything of it was written. */
static bool
write_unit(Upload *upload, Change **changes, int count)
{
    ErrorData *error;
    Change before = *changes[0];
    bool there = true;

    for (int i = 0; i < count; i++)
        changes[i]->status = STATUS_OPEN;
    for (int i = 0; i < count && there; i++)
        there = change_parents_there(upload, changes[i]);
    if (there && attempt(upload, changes, count, &error))
        return true;
    if (count > 1)
        return write_members(upload, changes, count);
    if (there)
        refuse_unit(changes, count, error);
    else if (before.status == STATUS_INVALID && before.reason != REASON_FK_MISSING)
        /* Found out by write_members to be wrong in itself: that is the better answer. */
        *changes[0] = before;
    return false;
}

/*
 * The second path: everything that can be written is. First in pieces of about the square root of
 * the whole, a failed piece unit by unit; then what is left, there and back, as long as it helps: a
 * value that a later delete frees, a parent that a later change brings.
 */
static void
write_in_pieces(Upload *upload, Change **changes, int count)
{
    int piece = Max((int)sqrt(count), 1);
    bool progress = false;
    bool forward = false;
    ErrorData *error;

    for (int first = 0; first < count;)
    {
        int last = first;
        bool there = true;

        while (last < count && last - first < piece)
            last += unit_length(changes, last, count);
        for (int i = first; i < last && there && last - first > 1; i++)
            there = change_parents_there(upload, changes[i]);
        if (last - first > 1)
        {
            for (int i = first; i < last; i++)
                changes[i]->status = STATUS_OPEN;
        }
        if (last - first > 1 && there && attempt(upload, changes + first, last - first, &error))
            progress = true;
        else
        {
            for (int i = first, length; i < last; i += length)
            {
                /* Before: a unit that cannot be written is dissolved. */
                length = unit_length(changes, i, last);
                progress |= write_unit(upload, changes + i, length);
            }
        }
        first = last;
    }
    while (progress)
    {
        progress = false;
        for (int i = forward ? 0 : count; forward ? i < count : i > 0;)
        {
            int first = i;
            int length;

            if (!forward)
            {
                first--;
                while (first > 0 && changes[first - 1]->unit == changes[first]->unit)
                    first--;
            }
            length = unit_length(changes, first, count);
            if (changes[first]->status == STATUS_INVALID)
                progress |= write_unit(upload, changes + first, length);
            i = forward ? first + length : first;
        }
        forward = !forward;
    }
}

/* Writes the open changes of a wave. */
static void
write_wave(Upload *upload, Change **changes, int count)
{
    ErrorData *error;
    int left = 0;

    sort_wave(changes, count);
    /* Parents first, so that who misses a parent is known to its own children. */
    for (int i = 0; i < count; i++)
    {
        if (change_parents_there(upload, changes[i]))
            changes[left++] = changes[i];
    }
    if (left == 0 || attempt(upload, changes, left, &error))
        return;
    if (left == 1)
        refuse_unit(changes, 1, error);
    else
        write_in_pieces(upload, changes, left);
}

/* Decides and writes the changes of one wave; true if there was one. */
static bool
process_wave(Upload *upload, int wave)
{
    Change **open = palloc(Max(upload->nchanges, 1) * sizeof(Change *));
    int count = 0;
    bool any = false;

    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = &upload->changes[i];

        if (change->row != NULL)
            change->row->user = NULL;
    }
    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = &upload->changes[i];

        CHECK_FOR_INTERRUPTS();
        if (change->row == NULL || change->wave != wave)
            continue;
        any = true;
        change_decide(upload, change);
        if (change->status != STATUS_OPEN)
            continue;
        if (change->action == ACTION_LOG_ONLY)
            log_change(upload, change);
        else
        {
            change->row->user = change;
            open[count++] = change;
        }
    }
    /* Parents are looked up before the order is made of them. */
    for (int i = 0; i < count; i++)
    {
        for (int p = 0; p < open[i]->nparents; p++)
        {
            Parent *parent = &open[i]->parents[p];

            parent->row = changelog_row(upload->log, parent->table->table_id, parent->key);
        }
    }
    if (count > 0)
        write_wave(upload, open, count);
    pfree(open);
    return any;
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

/* Reads the versions of the rows of all open changes in the order of their index. */
static void
look_up_rows(Upload *upload)
{
    Change **sorted = palloc(Max(upload->nchanges, 1) * sizeof(Change *));
    int count = 0;

    for (int i = 0; i < upload->nchanges; i++)
    {
        if (upload->changes[i].status == STATUS_OPEN)
            sorted[count++] = &upload->changes[i];
    }
    qsort(sorted, count, sizeof(Change *), compare_keys);
    for (int i = 0; i < count; i++)
        (void)changelog_row(upload->log, sorted[i]->table->table_id, sorted[i]->key);
    pfree(sorted);
}

/* Finds the row of every change that is still open, and its place among the changes of that row. */
static void
assign_waves(Upload *upload)
{
    look_up_rows(upload);
    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = &upload->changes[i];
        int64 known = 0;

        CHECK_FOR_INTERRUPTS();
        if (change->status != STATUS_OPEN || change->first != NULL)
            continue;
        if (change->request->source_change_id <= upload->source.last_change_id)
            known = changelog_find_change(upload->log, upload->source.source_no,
                                          change->request->source_change_id);
        if (known != 0)
        {
            change_answer_again(upload, change, known);
            continue;
        }
        change->row = changelog_row(upload->log, change->table->table_id, change->key);
        if (change->request->source_change_id <= upload->source.last_change_id &&
            upload->scope.floor > 0 &&
            source_has_pruned(upload->scope.scope_id, upload->source_id,
                              change->request->source_change_id))
        {
            /* Applied, and superseded since: the row's version now is all there is to tell. */
            change->status = STATUS_APPLIED;
            change->version = change->row->version;
            change->row = NULL;
            continue;
        }
        change->wave = change->row->waves++;
    }
}

/* Everything between opening and closing the log. */
static void
process(Upload *upload)
{
    int wave = 0;

    assign_waves(upload);
    while (process_wave(upload, wave))
        wave++;
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

/*
 * The same for an atomic request: false, with nothing done, if one change was refused. The change
 * log belongs to the transaction outside, so its resources must too.
 */
static bool
process_atomic(Upload *upload)
{
    MemoryContext context = CurrentMemoryContext;
    ResourceOwner owner = CurrentResourceOwner;
    bool done;

    BeginInternalSubTransaction(NULL);
    MemoryContextSwitchTo(context);
    CurrentResourceOwner = owner;
    process(upload);
    done = all_applied(upload);
    if (done)
        ReleaseCurrentSubTransaction();
    else
        RollbackAndReleaseCurrentSubTransaction();
    MemoryContextSwitchTo(context);
    CurrentResourceOwner = owner;
    if (done)
        return true;
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
    return false;
}

/* Answers every change of a request that has too many. */
static void
refuse_all(Upload *upload)
{
    const char *message = psprintf("%d changes in one request are more than %d: send fewer",
                                   upload->nchanges, rowsync_max_changes);

    for (int i = 0; i < upload->nchanges; i++)
        change_refuse(&upload->changes[i], REASON_BATCH_TOO_LARGE, message, NULL);
    upload->accepted = false;
}

/* Applies a request in a scope of its own lock and snapshot. */
static void
run(Upload *upload)
{
    int64 highest_id;
    bool keep = true;

    resolve(upload);
    find_repeated_ids(upload);
    scope_lock(scope_find_or_create(upload->user_id), &upload->scope);
    PushActiveSnapshot(GetTransactionSnapshot());
    source_find_or_create(upload->scope.scope_id, upload->source_id, &upload->source);
    highest_id = upload->source.last_change_id;
    limit_lock_waits(false);

    upload->log = changelog_open(&upload->scope, upload->source.source_no);
    if (upload->request.atomic)
        keep = process_atomic(upload);
    else
        process(upload);
    if (keep)
    {
        ListCell *cell;

        upload->scope.head = changelog_head(upload->log);
        changelog_close(upload->log);
        foreach (cell, upload->foreign)
            capture_append(lfirst(cell));
        for (int i = 0; i < upload->nchanges; i++)
        {
            if (upload->changes[i].status == STATUS_APPLIED)
                highest_id = Max(highest_id, upload->changes[i].request->source_change_id);
        }
    }
    else
        changelog_abandon(upload->log);
    PopActiveSnapshot();

    PushActiveSnapshot(GetTransactionSnapshot());
    source_update(upload->scope.scope_id, upload->source_id,
                  Min(upload->request.last_server_seq_seen, upload->scope.head), highest_id,
                  upload->scope.head, true);
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

    check_id("user_id", upload.user_id);
    check_id("source_id", upload.source_id);
    /* What this transaction wrote before belongs before the upload. */
    capture_flush();

    context = AllocSetContextCreate(outer, "rowsync upload", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(context);
    request_parse(VARDATA_ANY(request), VARSIZE_ANY_EXHDR(request), &upload.request);
    upload.nchanges = upload.request.nchanges;
    upload.changes = MemoryContextAllocExtended(context, Max(upload.nchanges, 1) * sizeof(Change),
                                                MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
    for (int i = 0; i < upload.nchanges; i++)
        upload.changes[i].request = &upload.request.changes[i];

    if (upload.nchanges > rowsync_max_changes)
    {
        int64 scope_id = scope_find(upload.user_id);

        if (scope_id != 0)
            (void)scope_read(scope_id, GetActiveSnapshot(), &upload.scope);
        refuse_all(&upload);
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
