/*
 * attempt.c: writes changes to their tables together, in a subtransaction: one statement for each
 * table, kind and set of columns. Looks on while they are captured, and logs what came of it.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "apply.h"
#include "capture.h"
#include "lock_wait.h"
#include "subtransaction.h"
#include "upload.h"

/* Orders changes by table, parents first, then by place in the request. */
int
change_compare_tables(const void *a, const void *b)
{
    const Change *left = *(Change *const *)a;
    const Change *right = *(Change *const *)b;

    if (left->table->upsert_order != right->table->upsert_order)
        return left->table->upsert_order < right->table->upsert_order ? -1 : 1;
    if (left->table->table_id != right->table->table_id)
        return left->table->table_id < right->table->table_id ? -1 : 1;
    return left < right ? -1 : left > right;
}

/* Orders changes for writing: what one statement can write lies together. */
static int
compare_statements(const void *a, const void *b)
{
    const Change *left = *(Change *const *)a;
    const Change *right = *(Change *const *)b;
    bool left_delete = left->apply.kind == APPLY_DELETE;
    int tables = change_compare_tables(a, b);
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
    if (left->in_order && left->unit != right->unit)
        return left->unit < right->unit ? -1 : 1;
    /* References are checked at the end of a statement: its rows may come as the indexes like them.
     */
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
void
upload_set_constraints(bool deferred)
{
    ConstraintsSetStmt *statement = makeNode(ConstraintsSetStmt);

    statement->constraints = NIL;
    statement->deferred = deferred;
    AfterTriggerSetState(statement);
}

/* Whether a column as stored has another value than the one given. */
static bool
value_differs(const SyncedColumn *column, TupleTableSlot *new, Datum value, bool isnull)
{
    int att = column->attnum - 1;

    return new->tts_isnull[att] != isnull ||
           (!isnull && !datum_image_eq(new->tts_values[att], value, column->codec.typbyval,
                                       column->codec.typlen));
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
        Datum value = 0;
        bool isnull = true;

        if (bms_is_member(i, change->apply.columns))
        {
            value = change->apply.values[i];
            isnull = change->apply.nulls[i];
        }
        else if (old != NULL)
        {
            value = old->tts_values[att];
            isnull = old->tts_isnull[att];
        }
        if (value_differs(column, new, value, isnull))
            return true;
    }
    return false;
}

/* Whether a row as stored does not have the columns of a reference that were sent. */
static bool
strays(const Change *change, const SyncedReference *reference, TupleTableSlot *new)
{
    for (int k = 0; k < reference->nkeys; k++)
    {
        int i = reference->columns[k];

        if (change->given[i] != NULL &&
            value_differs(&change->table->columns[i], new, change->apply.values[i],
                          change->apply.nulls[i]))
            return true;
    }
    return false;
}

/* A row that a change turned out to refer to, not by what was sent alone. */
typedef struct UncheckedParent
{
    Parent parent;
    SyncedTable *child;
    Oid constraint;
} UncheckedParent;

/* Whether a row refers to somebody by a reference, and not to whom it referred before. */
static bool
refers_anew(SyncedTable *table, const SyncedReference *reference, TupleTableSlot *old,
            TupleTableSlot *new)
{
    bool moved = old == NULL;

    for (int i = 0; i < reference->nkeys; i++)
    {
        SyncedColumn *column = &table->columns[reference->columns[i]];
        int att = column->attnum - 1;

        if (new->tts_isnull[att])
            return false;
        moved = moved || value_differs(column, new, old->tts_values[att], old->tts_isnull[att]);
    }
    return moved;
}

/* Notes whom a row as stored refers to with a reference. */
static void
note_parent(Upload *upload, SyncedTable *table, const SyncedReference *reference,
            TupleTableSlot *new)
{
    MemoryContext old = MemoryContextSwitchTo(upload->context);
    UncheckedParent *unchecked = palloc0(sizeof(UncheckedParent));
    const JsonValue *parts[INDEX_MAX_KEYS] = {NULL};
    StringInfoData text;
    JsonMember *members;
    int nmembers;
    int wrong;
    const char *error = NULL;

    initStringInfo(&text);
    for (int i = 0; i < reference->nkeys; i++)
    {
        SyncedColumn *column = &table->columns[reference->columns[i]];

        appendStringInfo(&text, "%c\"%d\":", i == 0 ? '{' : ',', i);
        synced_table_append_value(&text, column, new->tts_values[column->attnum - 1]);
    }
    appendStringInfoChar(&text, '}');
    unchecked->child = table;
    unchecked->constraint = reference->constraint_oid;
    unchecked->parent.table = registry_find_relid(reference->parent_relid);
    if (!request_parse_object(text.data, text.len, &members, &nmembers))
        elog(ERROR, "could not read a key: %s", text.data);
    for (int i = 0; i < reference->nkeys; i++)
        parts[i] = &members[i].value;
    unchecked->parent.values = palloc(reference->nkeys * sizeof(Datum));
    if (!rowkey_from_values(unchecked->parent.table, parts, unchecked->parent.values,
                            &unchecked->parent.key, &error, &wrong))
        elog(ERROR, "could not read a key: %s", error);
    upload->unchecked = lappend(upload->unchecked, unchecked);
    MemoryContextSwitchTo(old);
}

/*
 * Notes the references of a row that what was sent does not tell, or not alone: columns left to
 * their defaults, generated columns, columns that a trigger has changed.
 */
static void
note_references(Upload *upload, Change *change, TupleTableSlot *old, TupleTableSlot *new)
{
    SyncedTable *table = change->table;

    for (int r = 0; r < table->nreferences; r++)
    {
        SyncedReference *reference = &table->references[r];
        bool strayed = change->differs && strays(change, reference, new);
        int given = 0;

        for (int i = 0; i < reference->nkeys; i++)
            given += change->given[reference->columns[i]] != NULL;
        change->strays = change->strays || strayed;
        if ((given < reference->nkeys || strayed) && refers_anew(table, reference, old, new))
            note_parent(upload, table, reference, new);
    }
}

/*
 * Refuses a row that refers to a row of another scope, in the words in which PostgreSQL refuses one
 * that refers to nobody: the two cannot be told apart. The change log belongs to the transaction
 * outside.
 */
static void
check_references(Upload *upload)
{
    ResourceOwner owner = CurrentResourceOwner;
    UncheckedParent *missing = NULL;
    ListCell *cell;

    CurrentResourceOwner = upload->owner;
    foreach (cell, upload->unchecked)
    {
        UncheckedParent *unchecked = lfirst(cell);
        Parent *parent = &unchecked->parent;

        parent->row = changelog_row(upload->log, parent->table->table_id, parent->key);
        CurrentResourceOwner = owner;
        /* One that a trigger has made just now is not in the log yet. */
        if (!parent_is_there(upload, parent) && !parent_stands(upload, parent))
            missing = unchecked;
        CurrentResourceOwner = upload->owner;
    }
    CurrentResourceOwner = owner;
    if (missing != NULL)
    {
        const char *constraint = get_constraint_name(missing->constraint);

        ereport(ERROR,
                (errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
                 errmsg("insert or update on table \"%s\" violates foreign key constraint \"%s\"",
                        missing->child->name, constraint),
                 err_generic_string(PG_DIAG_SCHEMA_NAME, missing->child->schema),
                 err_generic_string(PG_DIAG_TABLE_NAME, missing->child->name),
                 err_generic_string(PG_DIAG_CONSTRAINT_NAME, constraint)));
    }
}

/*
 * The change of a row that the current attempt is to write. What a trigger makes of the row of a
 * change whose turn has not come is the server's doing.
 */
static Change *
change_of(const Upload *upload, const RowState *row)
{
    Change *change = row ? row->user : NULL;

    return change != NULL && change->status == STATUS_OPEN && change->attempt == upload->attempts
               ? change
               : NULL;
}

/* Looks on while the statements of an attempt are captured. */
static void
observe(void *arg, SyncedTable *table, const char *scope, RowKey key, TupleTableSlot *old,
        TupleTableSlot *new)
{
    Upload *upload = arg;
    Change *change = change_of(upload, changelog_peek(upload->log, table->table_id, key));

    if (change == NULL || (new == NULL) != (change->request->op == 'D'))
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
    if (new != NULL && table->nreferences > 0)
        note_references(upload, change, old, new);
}

/* Work of in_subtransaction: writes the rows of an attempt; true if every one was written. */
static bool
write_attempt(void *arg)
{
    Attempt *attempt = arg;
    Change **sorted = palloc(attempt->count * sizeof(Change *));
    ApplyRow **rows = palloc(attempt->count * sizeof(ApplyRow *));
    bool all_written = true;

    attempt->upload->unchecked = NIL;
    attempt->upload->attempts++;
    for (int i = 0; i < attempt->count; i++)
    {
        sorted[i] = attempt->changes[i];
        sorted[i]->written = sorted[i]->moved = sorted[i]->differs = false;
        sorted[i]->strays = false;
        sorted[i]->attempt = attempt->upload->attempts;
    }
    qsort(sorted, attempt->count, sizeof(Change *), compare_statements);
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    upload_set_constraints(true);
    for (int first = 0; first < attempt->count;)
    {
        bool holds = attempt->holds && sorted[first]->apply.kind == APPLY_INSERT;
        int last = first;

        while (last < attempt->count && same_statement(sorted[first], sorted[last]))
        {
            rows[last - first] = &sorted[last]->apply;
            last++;
        }
        apply_rows(sorted[first]->table, rows, last - first, attempt->upload->user_id,
                   holds ? upload_direct_references(sorted + first, last - first) : NIL);
        first = last;
    }
    if (attempt->holds)
        all_written = upload_hold_parents(attempt->upload, sorted, attempt->count);
    if (!attempt->probe && all_written)
        upload_set_constraints(false);
    SPI_finish();
    if (!attempt->probe && all_written)
        check_references(attempt->upload);
    for (int i = 0; i < attempt->count && !attempt->probe; i++)
        all_written = all_written && sorted[i]->written && !sorted[i]->moved;
    pfree(sorted);
    pfree(rows);
    /* Who wants it cancelled, the limit of waits among them, is heard before it counts. */
    CHECK_FOR_INTERRUPTS();
    return all_written && !attempt->probe;
}

/*
 * How many milliseconds the statements of an attempt may wait for what somebody else has locked.
 * Other writers lock rows first and the scope at commit, we the other way round: who has written a
 * row of this scope cannot commit before we are done. So waiting is mostly in vain, and who has to
 * give way is the upload, which can be sent again; soon, or everybody who waits for the scope, and
 * who waits for them, would stand still long enough to be taken for a deadlock. A moment is due to
 * locks that are not about this scope: a unique value of somebody else.
 */
static int
patience(const Upload *upload)
{
    return upload->waited_in_vain ? 1 : 10;
}

/* Writes changes together; true if it worked, and else nothing has happened. */
bool
upload_try(Attempt *work, ErrorData **error)
{
    volatile bool done = false;

    capture_set_observer(observe, work->upload);
    apply_begin();
    lock_wait_limit(patience(work->upload));
    PG_TRY();
    {
        done = in_subtransaction(write_attempt, work, error);
    }
    PG_FINALLY();
    {
        lock_wait_unlimit();
        apply_end();
        capture_set_observer(NULL, NULL);
    }
    PG_END_TRY();
    if (!done && *error != NULL && (*error)->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
        work->upload->waited_in_vain = true;
    return done;
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
void
upload_log_change(Upload *upload, Change *change)
{
    LogEntry entry = {.row = change->row,
                      .op = change->log_op,
                      .source_no = upload->source.source_no,
                      .source_change_id = change->request->source_change_id,
                      .content_crc = change_content_crc(change),
                      .payload = change->log_payload};

    change->version = changelog_append(upload->log, &entry);
    change->status = STATUS_APPLIED;
    if ((change->differs || change->rewritten) && change->log_payload != NULL)
    {
        change->tells_row = true;
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
        change = change_of(upload, row);
        if (change != NULL && change->written &&
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
            upload_log_change(upload, change);
        }
        if (!item->has_own || (item->own.op == 'D') != (item->final.op == 'D'))
            log_server_change(upload, item->row, &item->final);
    }
    capture_mark_flushed();
    MemoryContextSwitchTo(outer);
    MemoryContextDelete(context);
}

/* The same, and if it worked the changes are logged. */
bool
upload_attempt(Attempt *work, ErrorData **error)
{
    int64 start = capture_end();

    if (!upload_try(work, error))
        return false;
    harvest(work->upload, start);
    return true;
}
