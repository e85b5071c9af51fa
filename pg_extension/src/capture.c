/*
 * capture.c: every write to a registered table, whoever makes it, on its way to the change log.
 *
 * A row trigger appends each write to a buffer in the memory of the transaction; just before commit
 * the buffer is flushed through changelog.c: the scopes are locked in order, the last state of each
 * row gets a number. Numbers are given that late because the lock that makes them dense is then
 * held for the shortest time.
 *
 * The buffer is a sequence of bytes that only grows at its end and is only cut at its end. So a
 * subtransaction that rolls back is a cut at the place where it began, and one that commits is
 * nothing at all. Each event lies in it as an EventHeader, the key, and the payload as a text datum,
 * each padded to the platform's alignment. What has been written to the log stays in the buffer
 * below a mark, and the mark moves back when the subtransaction that wrote it rolls back: nothing
 * of an outer transaction is lost with an inner one.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "capture.h"
#include "compat.h"
#include "errors.h"

PG_FUNCTION_INFO_V1(rowsync_capture);
PG_FUNCTION_INFO_V1(rowsync_capture_truncate);

typedef struct EventHeader
{
    Size size; /* of the whole event */
    int32 table_id;
    int32 scope_no;
    CommandId command;
    int32 key_len;
    char op;
} EventHeader;

/* Where a subtransaction began. */
typedef struct SubStart
{
    SubTransactionId id;
    Size used;
    Size flushed;
} SubStart;

/* All of it lives in TopTransactionContext and is gone with the transaction. */
typedef struct CaptureBuffer
{
    char *bytes;
    Size used;
    Size flushed; /* everything before is in the log */
    Size room;
    char **scopes; /* names by scope_no */
    int nscopes;
    StringInfoData row; /* reused for each payload */
} CaptureBuffer;

static CaptureBuffer *buffer = NULL;
static SubStart *subs = NULL; /* in TopMemoryContext */
static int nsubs = 0;
static int subs_room = 0;
static CaptureObserver observer = NULL;
static void *observer_arg = NULL;

/* The transaction's buffer, made on first use. */
static CaptureBuffer *
get_buffer(void)
{
    if (buffer == NULL)
    {
        MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

        buffer = palloc0(sizeof(CaptureBuffer));
        initStringInfo(&buffer->row);
        MemoryContextSwitchTo(old);
    }
    return buffer;
}

/* Who looks on from now on; NULL for nobody. */
void
capture_set_observer(CaptureObserver function, void *arg)
{
    observer = function;
    observer_arg = arg;
}

/* The end of the buffer: events appended from now on lie behind it. */
Size
capture_position(void)
{
    return buffer ? buffer->used : 0;
}

/* Reads the event at *position and moves behind it; false at the end. */
bool
capture_next(Size *position, CaptureEvent *event)
{
    EventHeader *header;
    char *p;

    if (buffer == NULL || *position >= buffer->used)
        return false;
    header = (EventHeader *) (buffer->bytes + *position);
    p = (char *) header + MAXALIGN(sizeof(EventHeader));
    event->table_id = header->table_id;
    event->scope_no = header->scope_no;
    event->command = header->command;
    event->op = header->op;
    event->key.data = p;
    event->key.len = header->key_len;
    event->payload = (struct varlena *) (p + MAXALIGN(header->key_len));
    *position += header->size;
    return true;
}

/* Says that all events so far are in the change log, or need not be. */
void
capture_mark_flushed(void)
{
    if (buffer != NULL)
        buffer->flushed = buffer->used;
}

/* Appends a copy of an event. Its key and payload must not lie in the buffer. */
void
capture_append(const CaptureEvent *event)
{
    CaptureBuffer *buf = get_buffer();
    Size payload_size = VARSIZE(event->payload);
    Size size = MAXALIGN(sizeof(EventHeader)) + MAXALIGN(event->key.len) + MAXALIGN(payload_size);
    EventHeader *header;
    char *p;

    if (buf->used + size > buf->room)
    {
        Size room = Max(buf->room * 2, 8192);

        while (room < buf->used + size)
            room *= 2;
        buf->bytes = buf->bytes
                         ? repalloc_huge(buf->bytes, room)
                         : MemoryContextAllocHuge(TopTransactionContext, room);
        buf->room = room;
    }
    header = (EventHeader *) (buf->bytes + buf->used);
    header->size = size;
    header->table_id = event->table_id;
    header->scope_no = event->scope_no;
    header->command = event->command;
    header->key_len = event->key.len;
    header->op = event->op;
    p = (char *) header + MAXALIGN(sizeof(EventHeader));
    memcpy(p, event->key.data, event->key.len);
    memcpy(p + MAXALIGN(event->key.len), event->payload, payload_size);
    buf->used += size;
}

/* The name of a scope that events refer to. */
const char *
capture_scope_name(int32 scope_no)
{
    return buffer->scopes[scope_no];
}

/* The number of a scope in this transaction. The latest ones are the likeliest. */
static int32
scope_number(const char *name)
{
    CaptureBuffer *buf = get_buffer();
    MemoryContext old;

    for (int i = buf->nscopes - 1; i >= 0; i--)
    {
        if (strcmp(buf->scopes[i], name) == 0)
            return i;
    }
    check_id("a scope", name);
    old = MemoryContextSwitchTo(TopTransactionContext);
    if ((buf->nscopes & (buf->nscopes - 1)) == 0)
    {
        Size room = Max(buf->nscopes * 2, 1) * sizeof(char *);

        buf->scopes = buf->scopes ? repalloc(buf->scopes, room) : palloc(room);
    }
    buf->scopes[buf->nscopes] = pstrdup(name);
    MemoryContextSwitchTo(old);
    return buf->nscopes++;
}

/* Captures one state of one row. */
static void
capture_row(SyncedTable *table, char op, const char *scope, RowKey key, CommandId command,
            TupleTableSlot *row)
{
    StringInfo text = &get_buffer()->row;
    CaptureEvent event;

    resetStringInfo(text);
    appendStringInfoSpaces(text, VARHDRSZ);
    registry_append_row(text, table, row);
    SET_VARSIZE(text->data, text->len);
    event.table_id = table->table_id;
    event.scope_no = scope_number(scope);
    event.command = command;
    event.op = op;
    event.key = key;
    event.payload = (struct varlena *) text->data;
    capture_append(&event);
}

/* The registered table of a trigger; refuses a write that nobody would ever see. */
static SyncedTable *
triggered_table(TriggerData *trigger)
{
    SyncedTable *table = registry_find_relid(RelationGetRelid(trigger->tg_relation));

    if (table == NULL)
        ereport(ERROR,
                (errcode(ROWSYNC_TABLE_NOT_REGISTERED),
                 errmsg("table %s has rowsync's triggers but is not registered",
                        RelationGetRelationName(trigger->tg_relation)),
                 errhint("Run rowsync.register_table, or drop the triggers _rowsync_capture and "
                         "_rowsync_truncate.")));
    return table;
}

/* Refuses a row without a scope where the scope column is ours: nobody could ever sync it. */
static void
check_scope(SyncedTable *table, const char *scope)
{
    if (scope == NULL && table->scope_added)
        ereport(ERROR, (errcode(ROWSYNC_SCOPE_MISSING),
                        errmsg("a row of %s has no scope", table->qualified_name),
                        errhint("Run SET rowsync.scope = '<user>' first, or write the user into "
                                "column %s.", table->scope_name)));
}

/* Row trigger, AFTER INSERT OR UPDATE OR DELETE. */
Datum
rowsync_capture(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *) fcinfo->context;
    SyncedTable *table;
    TupleTableSlot *old = NULL;
    TupleTableSlot *new = NULL;
    CommandId command;
    char *old_scope = NULL;
    char *new_scope = NULL;
    RowKey old_key = {0};
    RowKey new_key = {0};

    if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
        !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
        ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                        errmsg("rowsync._capture must be a trigger AFTER ... FOR EACH ROW")));
    table = triggered_table(trigger);
    if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
        new = trigger->tg_trigslot;
    else if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
    {
        old = trigger->tg_trigslot;
        new = trigger->tg_newslot;
    }
    else
        old = trigger->tg_trigslot;

    /* The command that made this state: of the new version, or of the deletion. */
    if (new != NULL)
        command = HeapTupleHeaderGetCmin(
            (TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ? trigger->tg_trigtuple
                                                        : trigger->tg_newtuple)
                ->t_data);
    else
        command = HeapTupleHeaderGetCmax(trigger->tg_trigtuple->t_data);

    if (old != NULL)
    {
        old_scope = registry_scope_of(table, old);
        old_key = rowkey_from_slot(table, old);
    }
    if (new != NULL)
    {
        new_scope = registry_scope_of(table, new);
        new_key = rowkey_from_slot(table, new);
        if (old == NULL || old_scope != NULL)
            check_scope(table, new_scope);
    }
    if (observer != NULL)
        observer(observer_arg, table, new ? new_key : old_key, old, new);

    if (old_scope != NULL && new_scope != NULL && strcmp(old_scope, new_scope) == 0 &&
        rowkey_equal(old_key, new_key))
        capture_row(table, 'U', new_scope, new_key, command, new);
    else
    {
        /* A changed key or scope: the row leaves under the one name and comes under the other. */
        if (old_scope != NULL)
            capture_row(table, 'D', old_scope, old_key, command, old);
        if (new_scope != NULL)
            capture_row(table, 'I', new_scope, new_key, command, new);
    }
    return PointerGetDatum(NULL);
}

/* Captures a row that was there before its table was registered. */
void
capture_existing(SyncedTable *table, TupleTableSlot *row)
{
    char *scope = registry_scope_of(table, row);

    if (scope != NULL)
        capture_row(table, 'I', scope, rowkey_from_slot(table, row), FirstCommandId, row);
}

/* Statement trigger, BEFORE TRUNCATE: captures the deletion of every row. */
Datum
rowsync_capture_truncate(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *) fcinfo->context;
    SyncedTable *table;
    TableScanDesc scan;
    TupleTableSlot *slot;
    MemoryContext row_context;
    MemoryContext old;
    CommandId command = GetCurrentCommandId(false);

    if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
        !TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
        ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                        errmsg("rowsync._capture_truncate must be a trigger BEFORE TRUNCATE")));
    table = triggered_table(trigger);
    row_context = AllocSetContextCreate(CurrentMemoryContext, "rowsync truncate",
                                        ALLOCSET_DEFAULT_SIZES);
    slot = table_slot_create(trigger->tg_relation, NULL);
    scan = table_beginscan(trigger->tg_relation, GetActiveSnapshot(), 0, NULL);
    while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
    {
        char *scope;

        CHECK_FOR_INTERRUPTS();
        old = MemoryContextSwitchTo(row_context);
        scope = registry_scope_of(table, slot);
        if (scope != NULL)
            capture_row(table, 'D', scope, rowkey_from_slot(table, slot), command, slot);
        MemoryContextSwitchTo(old);
        MemoryContextReset(row_context);
    }
    table_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    MemoryContextDelete(row_context);
    return PointerGetDatum(NULL);
}

/* A scope with events in the buffer, for locking in order. */
typedef struct FlushScope
{
    int64 scope_id;
    int32 scope_no;
} FlushScope;

/* Orders scopes by id, so that two transactions that share some never wait for each other. */
static int
compare_scopes(const void *a, const void *b)
{
    int64 left = ((const FlushScope *) a)->scope_id;
    int64 right = ((const FlushScope *) b)->scope_id;

    return left < right ? -1 : left > right;
}

/* Appends the final state of every row of one scope to its log. */
static void
flush_scope(FlushScope *scope)
{
    Scope locked;
    ChangeLog *log;
    Size position = buffer->flushed;
    CaptureEvent event;
    List *rows = NIL;
    ListCell *cell;

    scope_lock(scope->scope_id, &locked);
    PushActiveSnapshot(GetTransactionSnapshot());
    log = changelog_open(&locked, 0, false);
    while (capture_next(&position, &event))
    {
        RowState *row;

        CHECK_FOR_INTERRUPTS();
        if (event.scope_no != scope->scope_no)
            continue;
        row = changelog_row(log, event.table_id, event.key);
        if (row->user == NULL)
        {
            row->user = palloc(sizeof(CaptureEvent));
            rows = lappend(rows, row);
        }
        else if (!capture_supersedes(&event, row->user))
            continue;
        *(CaptureEvent *) row->user = event;
    }
    foreach (cell, rows)
    {
        RowState *row = lfirst(cell);
        CaptureEvent *final = row->user;
        LogEntry entry = {.row = row, .payload = final->payload};

        CHECK_FOR_INTERRUPTS();
        /* Came and went within the transaction: nobody has seen it. */
        if (final->op == 'D' && row->deleted)
            continue;
        entry.op = final->op == 'D' ? 'D' : (row->deleted ? 'I' : 'U');
        changelog_append(log, &entry);
    }
    changelog_close(log);
    PopActiveSnapshot();
}

/* Writes everything captured so far in this transaction to the change log. */
void
capture_flush(void)
{
    MemoryContext context;
    MemoryContext old;
    FlushScope *scopes;
    bool *used;
    int nscopes = 0;
    Size position;
    CaptureEvent event;

    if (buffer == NULL || buffer->used == buffer->flushed)
        return;
    context = AllocSetContextCreate(TopTransactionContext, "rowsync flush",
                                    ALLOCSET_DEFAULT_SIZES);
    old = MemoryContextSwitchTo(context);
    PushActiveSnapshot(GetTransactionSnapshot());

    position = buffer->flushed;
    used = palloc0(buffer->nscopes * sizeof(bool));
    while (capture_next(&position, &event))
        used[event.scope_no] = true;
    scopes = palloc0(buffer->nscopes * sizeof(FlushScope));
    for (int i = 0; i < buffer->nscopes; i++)
    {
        if (used[i])
        {
            scopes[nscopes].scope_no = i;
            scopes[nscopes++].scope_id = scope_find_or_create(buffer->scopes[i]);
        }
    }
    qsort(scopes, nscopes, sizeof(FlushScope), compare_scopes);
    for (int i = 0; i < nscopes; i++)
        flush_scope(&scopes[i]);

    PopActiveSnapshot();
    MemoryContextSwitchTo(old);
    MemoryContextDelete(context);
    capture_mark_flushed();
}

/* The end of a transaction. */
static void
at_transaction_event(XactEvent event, void *arg)
{
    switch (event)
    {
        case XACT_EVENT_PRE_COMMIT:
        case XACT_EVENT_PRE_PREPARE:
            capture_flush();
            break;
        case XACT_EVENT_ABORT:
            scope_forget();
            /* FALLTHROUGH */
        case XACT_EVENT_COMMIT:
        case XACT_EVENT_PREPARE:
            buffer = NULL;
            nsubs = 0;
            observer = NULL;
            registry_end_transaction();
            break;
        default:
            break;
    }
}

/* The beginning and the end of a subtransaction. */
static void
at_subtransaction_event(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
    if (event == SUBXACT_EVENT_START_SUB)
    {
        if (nsubs == subs_room)
        {
            int room = Max(subs_room * 2, 16);
            Size size = room * sizeof(SubStart);

            subs = subs ? repalloc(subs, size) : MemoryContextAlloc(TopMemoryContext, size);
            subs_room = room;
        }
        subs[nsubs].id = id;
        subs[nsubs].used = capture_position();
        subs[nsubs++].flushed = buffer ? buffer->flushed : 0;
    }
    else if (event == SUBXACT_EVENT_COMMIT_SUB || event == SUBXACT_EVENT_ABORT_SUB)
    {
        /*
         * A subtransaction that began before this library was loaded is not on the stack; the
         * buffer was empty then.
         */
        SubStart start = {0};

        if (nsubs > 0 && subs[nsubs - 1].id == id)
            start = subs[--nsubs];
        if (event == SUBXACT_EVENT_ABORT_SUB)
        {
            if (buffer != NULL)
            {
                buffer->used = start.used;
                buffer->flushed = start.flushed;
            }
            scope_forget();
        }
    }
}

/* Called once, when the library is loaded. */
void
capture_init(void)
{
    RegisterXactCallback(at_transaction_event, NULL);
    RegisterSubXactCallback(at_subtransaction_event, NULL);
}
