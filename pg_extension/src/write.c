/*
 * write.c: writes the changes of a wave to their tables, together if it works, else so that one bad
 * row costs the others nothing but time; and logs what came of it.
 *
 * First everything in one subtransaction, one statement for each table, kind and set of columns.
 * When that fails: in pieces of about the square root of the whole, a failed piece unit by unit;
 * then what is left, there and back, until a pass gets nothing more done.
 */
#include "postgres.h"

#include <math.h>

#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "apply.h"
#include "capture.h"
#include "components.h"
#include "lock_wait.h"
#include "subtransaction.h"
#include "upload.h"

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

/* What a change needs of the wave before it: its parents, and who gives up a value it takes. */
static int
wave_edge(void *graph, int node, int n)
{
    Change *change = ((Change **)graph)[node];
    RowState *row;
    Change *before;

    if (n >= change->nparents + change->nwaits)
        return COMPONENT_LAST_EDGE;
    if (n < change->nparents)
    {
        row = change->parents[n].row;
        before = row ? row->user : NULL;
    }
    else
        before = change->waits[n - change->nparents];
    if (before == NULL || before->status != STATUS_OPEN || before->request->op == 'D')
        return COMPONENT_NO_EDGE;
    return before->unit;
}

/*
 * Brings the open changes of a wave into the order of writing: rows that come or change, parents
 * first, those that refer to each other as one unit; then rows that go, children first.
 */
static void
sort_wave(Change **changes, int count)
{
    Change **sorted = palloc(Max(count, 1) * sizeof(Change *));
    int *component = palloc(Max(count, 1) * sizeof(int));
    int *order = palloc(Max(count, 1) * sizeof(int));
    int upserts = 0;
    int units;

    qsort(changes, count, sizeof(Change *), compare_tables);
    for (int i = 0; i < count; i++)
    {
        if (changes[i]->request->op != 'D')
            sorted[upserts++] = changes[i];
    }
    for (int i = count - 1, next = upserts; i >= 0; i--)
    {
        if (changes[i]->request->op == 'D')
            sorted[next++] = changes[i];
    }
    memcpy(changes, sorted, count * sizeof(Change *));
    /* Until it has its unit, a change has its place there. */
    for (int i = 0; i < upserts; i++)
        changes[i]->unit = i;
    units = find_components(upserts, wave_edge, changes, component, order);
    for (int i = 0; i < upserts; i++)
        sorted[i] = changes[order[i]];
    for (int i = 0; i < upserts; i++)
        changes[i]->unit = component[i];
    memcpy(changes, sorted, upserts * sizeof(Change *));
    for (int i = upserts; i < count; i++)
        changes[i]->unit = units++;
    pfree(sorted);
    pfree(component);
    pfree(order);
}

/* Tries of the second path after which no further pass begins: some seconds. */
#define MAX_TRIES 30000

/* Changes that are written together or not at all. */
typedef struct Attempt
{
    Upload *upload;
    Change **changes;
    int count;
    bool holds; /* looks for direct parents when the rows are written, not before */
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

/* Whether a row as stored does not have the columns of a reference that were sent. */
static bool
strays(const Change *change, const SyncedReference *reference, TupleTableSlot *new)
{
    SyncedTable *table = change->table;

    for (int k = 0; k < reference->nkeys; k++)
    {
        int i = reference->columns[k];
        SyncedColumn *column = &table->columns[i];
        int att = column->attnum - 1;

        if (change->given[i] != NULL &&
            (new->tts_isnull[att] != change->apply.nulls[i] ||
             (!new->tts_isnull[att] &&
              !datum_image_eq(new->tts_values[att], change->apply.values[i], column->codec.typbyval,
                              column->codec.typlen))))
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
        moved = moved || old->tts_isnull[att] ||
                !datum_image_eq(old->tts_values[att], new->tts_values[att], column->codec.typbyval,
                                column->codec.typlen);
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
    const char *error = NULL;

    initStringInfo(&text);
    for (int i = 0; i < reference->nkeys; i++)
    {
        SyncedColumn *column = &table->columns[reference->columns[i]];

        appendStringInfo(&text, "%c\"%d\":", i == 0 ? '{' : ',', i);
        registry_append_value(&text, column, new->tts_values[column->attnum - 1]);
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
                            &unchecked->parent.key, &error))
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
        if (!parent_is_there(upload, parent))
            missing = unchecked;
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
    for (int i = 0; i < attempt->count; i++)
    {
        sorted[i] = attempt->changes[i];
        sorted[i]->written = sorted[i]->moved = sorted[i]->differs = false;
        sorted[i]->strays = false;
    }
    qsort(sorted, attempt->count, sizeof(Change *), compare_statements);
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    set_constraints(true);
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
        set_constraints(false);
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
static bool
try_to_write(Attempt *work, ErrorData **error)
{
    volatile bool done = false;

    capture_set_observer(observe, work->upload);
    apply_expect_growth(true);
    lock_wait_limit(patience(work->upload));
    PG_TRY();
    {
        done = in_subtransaction(write_attempt, work, error);
    }
    PG_FINALLY();
    {
        lock_wait_unlimit();
        apply_expect_growth(false);
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
            upload_log_change(upload, change);
        }
        if (!item->has_own || (item->own.op == 'D') != (item->final.op == 'D'))
            log_server_change(upload, item->row, &item->final);
    }
    capture_mark_flushed();
    MemoryContextSwitchTo(outer);
    MemoryContextDelete(context);
}

/* Writes changes together, and if it works logs them. */
static bool
make_attempt(Attempt *work, ErrorData **error)
{
    int64 start = capture_end();

    if (!try_to_write(work, error))
        return false;
    harvest(work->upload, start);
    return true;
}

/* The same, with everything looked at before. */
static bool
attempt(Upload *upload, Change **changes, int count, ErrorData **error)
{
    Attempt work = {upload, changes, count, false, false};

    return make_attempt(&work, error);
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
        Attempt probe = {upload, &changes[i], 1, false, true};

        change->status = STATUS_OPEN;
        change->circular = change->nwaits > 0;
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
        (void)try_to_write(&probe, &error);
        if (error != NULL)
        {
            change_refuse_error(change, error);
            change->wrong_in_itself = true;
        }
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
    else if (before.wrong_in_itself)
        /* Found out by write_members: that is the better answer. */
        *changes[0] = before;
    return false;
}

/*
 * Says of the changes that more passes might still write that they are to be sent again: what is
 * left of them waits for others of this request, and the next request begins where this one ended.
 */
static void
put_off(Change **changes, int count)
{
    for (int i = 0; i < count; i++)
    {
        const char *state = changes[i]->sqlstate;

        if (changes[i]->status != STATUS_INVALID ||
            (strcmp(state, "23505") != 0 && strcmp(state, "23503") != 0 &&
             strcmp(state, "23P01") != 0))
            continue;
        change_refuse(changes[i], REASON_INTERNAL_ERROR,
                      "not written yet: too many changes of this request wait for each other",
                      NULL);
        strlcpy(changes[i]->sqlstate, unpack_sql_state(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                sizeof(changes[i]->sqlstate));
    }
}

/* Whether a change was refused because another transaction is at its row: soon it still will be. */
static bool
is_locked(const Change *change)
{
    return strcmp(change->sqlstate, "55P03") == 0;
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
    int tries = 0;
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
        if (tries >= MAX_TRIES)
        {
            put_off(changes, count);
            break;
        }
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
            if (changes[first]->status == STATUS_INVALID && !is_locked(changes[first]))
            {
                progress |= write_unit(upload, changes + first, length);
                tries++;
            }
            i = forward ? first + length : first;
        }
        forward = !forward;
    }
}

/*
 * Whether something about the changes has not been looked at, a row that is guessed to be new or a
 * parent that is expected to be there, and what is known does not speak against them.
 */
static bool
can_guess(Upload *upload, Change **changes, int count)
{
    bool guesses = false;

    for (int i = 0; i < count; i++)
    {
        guesses = guesses || changes[i]->guessed;
        for (int p = 0; p < changes[i]->nparents; p++)
        {
            if (!parent_is_there(upload, &changes[i]->parents[p]))
                return false;
            guesses = guesses || parent_can_wait(&changes[i]->parents[p]);
        }
    }
    return guesses;
}

/*
 * Writes the open changes of a wave. Guesses hold in nearly all requests; what does not go well
 * with them is looked at again without.
 */
void
upload_write_wave(Upload *upload, Change **changes, int count)
{
    ErrorData *error;
    int left = 0;
    Attempt guess = {upload, changes, count, true, false};
    bool tried = can_guess(upload, changes, count);

    sort_wave(changes, count);
    if (tried && make_attempt(&guess, &error))
        return;
    /* An error of the tables would come again, if it was not about a guess. */
    tried = tried && error != NULL;
    if (upload_settle_guesses(upload, changes, &count))
        tried = false;
    upload_find_parents(upload, changes, count, true);
    /* Parents first, so that who misses a parent is known to its own children. */
    for (int i = 0; i < count; i++)
    {
        if (change_parents_there(upload, changes[i]))
            changes[left++] = changes[i];
    }
    if (left == 0 || ((!tried || left < count) && attempt(upload, changes, left, &error)))
        return;
    if (left == 1)
    {
        refuse_unit(changes, 1, error);
        return;
    }
    if (upload_find_handovers(upload, changes, left))
    {
        sort_wave(changes, left);
        if (error != NULL && error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
            attempt(upload, changes, left, &error))
            return;
    }
    write_in_pieces(upload, changes, left);
}
