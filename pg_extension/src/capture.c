/*
 * capture.c: every write to a registered table, whoever makes it, on its way to the change log.
 *
 * A row trigger appends each write to a buffer (capture_buffer.c); just before commit the buffer is
 * flushed through changelog.c: the scopes are locked in order, the last state of each row gets a
 * number. Numbers are given that late because the lock that makes them dense is then held for the
 * shortest time. What fits into work_mem is put together in a hash table, what does not is sorted
 * on disk.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"

#include "capture.h"
#include "changelog.h"
#include "compat.h"
#include "errors.h"
#include "partition.h"

PG_FUNCTION_INFO_V1(rowsync_capture);
PG_FUNCTION_INFO_V1(rowsync_capture_truncate);

/* Where a subtransaction began. */
typedef struct SubStart
{
    SubTransactionId id;
    int64 end;
    int64 flushed;
} SubStart;

static SubStart *subs = NULL; /* in TopMemoryContext */
static int nsubs = 0;
static int subs_room = 0;
static CaptureObserver observer = NULL;
static void *observer_arg = NULL;

/* Who looks on from now on; NULL for nobody. */
void
capture_set_observer(CaptureObserver function, void *arg)
{
    observer = function;
    observer_arg = arg;
}

/* Captures one state of one row. */
static void
capture_row(SyncedTable *table, char op, const char *scope, RowKey key, CommandId command,
            TupleTableSlot *row)
{
    StringInfoData text;
    CaptureEvent event;

    initStringInfo(&text);
    appendStringInfoSpaces(&text, VARHDRSZ);
    synced_table_append_row(&text, table, row);
    SET_VARSIZE(text.data, text.len);
    event.table_id = table->table_id;
    event.scope_no = capture_scope_no(scope);
    event.command = command;
    event.op = op;
    event.key = key;
    event.payload = (struct varlena *)text.data;
    capture_append(&event);
    pfree(text.data);
}

/* The registered table of a trigger; refuses a write that nobody would ever see. */
static SyncedTable *
triggered_table(TriggerData *trigger)
{
    SyncedTable *table = registry_find_root(trigger->tg_relation);

    if (table == NULL)
        ereport(ERROR,
                (errcode(ROWSYNC_TABLE_NOT_REGISTERED),
                 errmsg("table %s has rowsync's triggers but is not registered",
                        RelationGetRelationName(trigger->tg_relation)),
                 errhint("Run rowsync.register_table, or drop the triggers _rowsync_capture and "
                         "_rowsync_truncate.")));
    return table;
}

/*
 * A row of a partition as a row of its registered table, in the current context. The columns of a
 * partition may have other places; where they have the same ones, the row itself comes back.
 */
static TupleTableSlot *
root_row(SyncedTable *table, Relation relation, TupleTableSlot *row)
{
    Relation root;
    TupleConversionMap *map;
    TupleTableSlot *converted;

    if (row == NULL || RelationGetRelid(relation) == table->relid)
        return row;
    root = table_open(table->relid, AccessShareLock);
    map = convert_tuples_by_name(RelationGetDescr(relation), RelationGetDescr(root));
    if (map == NULL)
    {
        table_close(root, AccessShareLock);
        return row;
    }
    converted =
        MakeSingleTupleTableSlot(CreateTupleDescCopy(RelationGetDescr(root)), &TTSOpsVirtual);
    table_close(root, AccessShareLock);
    return execute_attr_map_slot(map->attrMap, row, converted);
}

/* Refuses a row without a scope where the scope column is ours: nobody could ever sync it. */
static void
check_scope(SyncedTable *table, const char *scope)
{
    if (scope == NULL && table->scope_added)
        ereport(ERROR, (errcode(ROWSYNC_SCOPE_MISSING),
                        errmsg("a row of %s has no scope", table->qualified_name),
                        errhint("Run SET rowsync.scope = '<user>' first, or write the user into "
                                "column %s.",
                                table->scope_name)));
}

/* Row trigger, AFTER INSERT OR UPDATE OR DELETE. */
Datum
rowsync_capture(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *)fcinfo->context;
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
        command = HeapTupleHeaderGetCmin((TRIGGER_FIRED_BY_INSERT(trigger->tg_event)
                                              ? trigger->tg_trigtuple
                                              : trigger->tg_newtuple)
                                             ->t_data);
    else
        command = HeapTupleHeaderGetCmax(trigger->tg_trigtuple->t_data);

    old = root_row(table, trigger->tg_relation, old);
    new = root_row(table, trigger->tg_relation, new);
    if (old != NULL)
    {
        old_scope = synced_table_scope_of(table, old);
        old_key = rowkey_from_slot(table, old);
    }
    if (new != NULL)
    {
        new_scope = synced_table_scope_of(table, new);
        new_key = rowkey_from_slot(table, new);
        if (old == NULL || old_scope != NULL)
            check_scope(table, new_scope);
    }
    if (observer != NULL)
        observer(observer_arg, table, new ? new_scope : old_scope, new ? new_key : old_key, old,
                 new);

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
    char *scope = synced_table_scope_of(table, row);

    if (scope != NULL)
        capture_row(table, 'I', scope, rowkey_from_slot(table, row), FirstCommandId, row);
}

/* Captures a row that has come with its partition. */
void
capture_attached(SyncedTable *table, TupleTableSlot *row)
{
    char *scope = synced_table_scope_of(table, row);

    check_scope(table, scope);
    if (scope != NULL)
        capture_row(table, 'I', scope, rowkey_from_slot(table, row), GetCurrentCommandId(false),
                    row);
}

/* Captures a row that TRUNCATE is about to remove, or that has gone with its partition. */
void
capture_removed(SyncedTable *table, TupleTableSlot *row)
{
    char *scope = synced_table_scope_of(table, row);

    if (scope != NULL)
        capture_row(table, 'D', scope, rowkey_from_slot(table, row), GetCurrentCommandId(false),
                    row);
}

/*
 * Calls function for each row of a table or partition, in a memory context of its own. The caller
 * has locked out other writers: every row that they have committed counts, whatever this
 * transaction's snapshot sees.
 */
void
capture_scan_relation(SyncedTable *table, Oid relid, CaptureRow function)
{
    Relation relation = table_open(relid, AccessShareLock);
    MemoryContext row_context =
        AllocSetContextCreate(CurrentMemoryContext, "rowsync row", ALLOCSET_DEFAULT_SIZES);

    PushActiveSnapshot(GetLatestSnapshot());
    if (relation->rd_rel->relkind == RELKIND_RELATION)
    {
        TupleTableSlot *slot = table_slot_create(relation, NULL);
        TableScanDesc scan = table_beginscan(relation, GetActiveSnapshot(), 0, NULL);

        while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
        {
            MemoryContext old = MemoryContextSwitchTo(row_context);

            CHECK_FOR_INTERRUPTS();
            function(table, root_row(table, relation, slot));
            MemoryContextSwitchTo(old);
            MemoryContextReset(row_context);
        }
        table_endscan(scan);
        ExecDropSingleTupleTableSlot(slot);
    }
    PopActiveSnapshot();
    MemoryContextDelete(row_context);
    table_close(relation, NoLock);
}

/* The same for a table with all its partitions. */
void
capture_scan(SyncedTable *table, CaptureRow function)
{
    List *relids = find_all_inheritors(table->relid, AccessShareLock, NULL);
    ListCell *cell;

    foreach (cell, relids)
        capture_scan_relation(table, lfirst_oid(cell), function);
    list_free(relids);
}

/*
 * Statement trigger, BEFORE TRUNCATE: captures the deletion of every row. Partitions have the
 * trigger too; a partitioned table answers for those alone that nobody has given it.
 */
Datum
rowsync_capture_truncate(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *)fcinfo->context;
    SyncedTable *table;
    ListCell *cell;

    if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
        !TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
        ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                        errmsg("rowsync._capture_truncate must be a trigger BEFORE TRUNCATE")));
    table = triggered_table(trigger);
    if (trigger->tg_relation->rd_rel->relkind == RELKIND_RELATION)
        capture_scan_relation(table, RelationGetRelid(trigger->tg_relation), capture_removed);
    else
    {
        foreach (cell, partition_unknown(table))
            capture_scan_relation(table, lfirst_oid(cell), capture_removed);
    }
    return PointerGetDatum(NULL);
}

/* ------------------------------------------------------------------ flush */

/* A scope with events in the buffer. */
typedef struct FlushScope
{
    int64 scope_id;
    int32 scope_no;
    struct FinalState *first; /* in the order of the rows' first events */
    struct FinalState *last;
} FlushScope;

/* The last state of a row. */
typedef struct FinalState
{
    CaptureEvent event;
    struct FinalState *next;
} FinalState;

/* Hash table of FinalState by scope, table and key. */
typedef struct FinalSlot
{
    FinalState *state;
    uint32 hash;
    char status;
} FinalSlot;

/* The hash of a row's name. */
static inline uint32
final_hash(const FinalState *state)
{
    const CaptureEvent *event = &state->event;

    return hash_combine(hash_bytes((const unsigned char *)event->key.data, event->key.len),
                        (uint32)event->table_id ^ (uint32)event->scope_no << 16);
}

/* Whether two events are about the same row. */
static inline bool
final_equal(const FinalState *a, const FinalState *b)
{
    return a->event.table_id == b->event.table_id && a->event.scope_no == b->event.scope_no &&
           rowkey_equal(a->event.key, b->event.key);
}

#define SH_PREFIX finals
#define SH_ELEMENT_TYPE FinalSlot
#define SH_KEY_TYPE FinalState *
#define SH_KEY state
#define SH_HASH_KEY(tb, key) final_hash(key)
#define SH_EQUAL(tb, a, b) final_equal(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) (a)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Orders scopes by name. */
static int
compare_names(const void *a, const void *b)
{
    return strcmp(capture_scope_name(((const FlushScope *)a)->scope_no),
                  capture_scope_name(((const FlushScope *)b)->scope_no));
}

/* Orders scopes by id, so that two transactions that share some never wait for each other. */
static int
compare_scopes(const void *a, const void *b)
{
    int64 left = ((const FlushScope *)a)->scope_id;
    int64 right = ((const FlushScope *)b)->scope_id;

    return left < right ? -1 : left > right;
}

/* The scopes of the events that are not flushed, in the order of locking; returns their number. */
static int
find_scopes(FlushScope **scopes)
{
    int32 count = capture_scope_count();
    bool *used = palloc0(count * sizeof(bool));
    int64 position = capture_flushed();
    CaptureEvent event;
    int found = 0;

    while (capture_next(&position, &event))
        used[event.scope_no] = true;
    *scopes = palloc0(count * sizeof(FlushScope));
    for (int32 i = 0; i < count; i++)
    {
        if (used[i])
            (*scopes)[found++].scope_no = i;
    }
    /* Names are locked to create a scope, so those have an order too. */
    qsort(*scopes, found, sizeof(FlushScope), compare_names);
    for (int i = 0; i < found; i++)
    {
        CHECK_FOR_INTERRUPTS();
        (*scopes)[i].scope_id = scope_find_or_create(capture_scope_name((*scopes)[i].scope_no));
    }
    qsort(*scopes, found, sizeof(FlushScope), compare_scopes);
    pfree(used);
    return found;
}

/* Locks a scope and opens its log; a snapshot is pushed until end_scope. */
static ChangeLog *
begin_scope(const FlushScope *scope)
{
    Scope locked;

    scope_lock(scope->scope_id, &locked);
    PushActiveSnapshot(GetTransactionSnapshot());
    return changelog_open(&locked, NULL);
}

/* Writes what was appended to a scope's log. */
static void
end_scope(ChangeLog *log)
{
    changelog_close(log);
    PopActiveSnapshot();
}

/* Flushes a buffer that lies in memory. */
static void
flush_in_memory(FlushScope *scopes, int nscopes)
{
    finals_hash *finals = finals_create(CurrentMemoryContext, 64, NULL);
    FlushScope **by_no = palloc0(capture_scope_count() * sizeof(FlushScope *));
    int64 position = capture_flushed();
    FinalState probe;

    for (int i = 0; i < nscopes; i++)
        by_no[scopes[i].scope_no] = &scopes[i];
    while (capture_next(&position, &probe.event))
    {
        FlushScope *scope = by_no[probe.event.scope_no];
        FinalState *state;
        FinalSlot *slot;
        bool found;

        CHECK_FOR_INTERRUPTS();
        slot = finals_insert(finals, &probe, &found);
        if (found)
        {
            state = slot->state;
            if (capture_supersedes(probe.event.command, probe.event.op, state->event.command,
                                   state->event.op))
                state->event = probe.event;
            continue;
        }
        state = slot->state = palloc(sizeof(FinalState));
        state->event = probe.event;
        state->next = NULL;
        if (scope->first == NULL)
            scope->first = state;
        else
            scope->last->next = state;
        scope->last = state;
    }
    for (int i = 0; i < nscopes; i++)
    {
        ChangeLog *log = begin_scope(&scopes[i]);

        for (FinalState *state = scopes[i].first; state != NULL; state = state->next)
        {
            CHECK_FOR_INTERRUPTS();
            changelog_append_state(log, state->event.table_id, state->event.key,
                                   state->event.op == 'D', state->event.payload);
        }
        end_scope(log);
    }
}

/* A sort of rows of fixed columns, all not null. */
typedef struct EventSort
{
    Tuplesortstate *state;
    TupleTableSlot *slot;
} EventSort;

/* Begins a sort by all columns, of the given types, in half of work_mem. */
static void
begin_sort(EventSort *sort, const Oid *types, int count)
{
    TupleDesc desc = CreateTemplateTupleDesc(count);
    AttrNumber *columns = palloc(count * sizeof(AttrNumber));
    Oid *operators = palloc(count * sizeof(Oid));
    Oid *collations = palloc0(count * sizeof(Oid));
    bool *nulls_first = palloc0(count * sizeof(bool));

    for (int i = 0; i < count; i++)
    {
        TupleDescInitEntry(desc, i + 1, NULL, types[i], -1, 0);
        columns[i] = i + 1;
        operators[i] = lookup_type_cache(types[i], TYPECACHE_LT_OPR)->lt_opr;
    }
    sort->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
    sort->state = tuplesort_begin_heap(desc, count, columns, operators, collations, nulls_first,
                                       work_mem / 2, NULL, false);
}

/* Adds a row. */
static void
sort_row(EventSort *sort, TupleTableSlot *row, const Datum *values)
{
    ExecClearTuple(row);
    memcpy(row->tts_values, values, row->tts_tupleDescriptor->natts * sizeof(Datum));
    memset(row->tts_isnull, 0, row->tts_tupleDescriptor->natts * sizeof(bool));
    ExecStoreVirtualTuple(row);
    tuplesort_puttupleslot(sort->state, row);
}

/* The next row of a sort that is complete; false at the end. */
static bool
next_row(EventSort *sort)
{
    CHECK_FOR_INTERRUPTS();
    if (!tuplesort_gettupleslot(sort->state, true, false, sort->slot, NULL))
        return false;
    slot_getallattrs(sort->slot);
    return true;
}

/* Ends a sort. */
static void
end_sort(EventSort *sort)
{
    ExecClearTuple(sort->slot);
    tuplesort_end(sort->state);
}

/*
 * Flushes a buffer that lies in a file. A first sort brings the events of each row together and
 * keeps the last; a second one orders what is left for the devices: rows that come or change,
 * parents first, then rows that go, children first.
 */
static void
flush_sorted(FlushScope *scopes, int nscopes)
{
    static const Oid by_row[] = {INT4OID, INT4OID, BYTEAOID, INT8OID, BOOLOID, INT8OID};
    static const Oid by_place[] = {INT4OID, INT4OID, INT8OID};
    int32 *place = palloc0(capture_scope_count() * sizeof(int32));
    EventSort rows;
    EventSort places;
    TupleTableSlot *input;
    int64 position = capture_flushed();
    int64 start = position;
    CaptureEvent event;
    ChangeLog *log = NULL;
    int current = -1;
    StringInfoData key;
    bool more;

    for (int i = 0; i < nscopes; i++)
        place[scopes[i].scope_no] = i;
    begin_sort(&rows, by_row, lengthof(by_row));
    input = MakeSingleTupleTableSlot(rows.slot->tts_tupleDescriptor, &TTSOpsVirtual);
    initStringInfo(&key);
    for (; capture_next(&position, &event); start = position)
    {
        Datum values[lengthof(by_row)];

        CHECK_FOR_INTERRUPTS();
        resetStringInfo(&key);
        appendStringInfoSpaces(&key, VARHDRSZ);
        appendBinaryStringInfo(&key, event.key.data, event.key.len);
        SET_VARSIZE(key.data, key.len);
        values[0] = Int32GetDatum(place[event.scope_no]);
        values[1] = Int32GetDatum(event.table_id);
        values[2] = PointerGetDatum(key.data);
        values[3] = Int64GetDatum((int64)event.command);
        values[4] = BoolGetDatum(event.op != 'D');
        values[5] = Int64GetDatum(start);
        sort_row(&rows, input, values);
    }
    ExecDropSingleTupleTableSlot(input);
    tuplesort_performsort(rows.state);

    begin_sort(&places, by_place, lengthof(by_place));
    input = MakeSingleTupleTableSlot(places.slot->tts_tupleDescriptor, &TTSOpsVirtual);
    for (more = next_row(&rows); more;)
    {
        Datum *values = rows.slot->tts_values;
        SyncedTable *table = registry_find_id(DatumGetInt32(values[1]));
        int32 order = table ? table->upsert_order : 0;
        Datum placed[lengthof(by_place)];
        bytea *row_key = DatumGetByteaPP(values[2]);
        int32 table_id = DatumGetInt32(values[1]);

        placed[0] = values[0];
        resetStringInfo(&key);
        appendBinaryStringInfo(&key, VARDATA_ANY(row_key), VARSIZE_ANY_EXHDR(row_key));
        do
        {
            placed[1] = Int32GetDatum(DatumGetBool(values[4]) ? order : PG_INT32_MAX - order);
            placed[2] = values[5];
            more = next_row(&rows);
            values = rows.slot->tts_values;
            row_key = more ? DatumGetByteaPP(values[2]) : NULL;
        } while (more && values[0] == placed[0] && DatumGetInt32(values[1]) == table_id &&
                 VARSIZE_ANY_EXHDR(row_key) == key.len &&
                 memcmp(VARDATA_ANY(row_key), key.data, key.len) == 0);
        sort_row(&places, input, placed);
    }
    ExecDropSingleTupleTableSlot(input);
    end_sort(&rows);
    tuplesort_performsort(places.state);

    while (next_row(&places))
    {
        int32 scope = DatumGetInt32(places.slot->tts_values[0]);

        if (scope != current)
        {
            if (log != NULL)
                end_scope(log);
            log = begin_scope(&scopes[scope]);
            current = scope;
        }
        position = DatumGetInt64(places.slot->tts_values[2]);
        (void)capture_next(&position, &event);
        changelog_append_state(log, event.table_id, event.key, event.op == 'D', event.payload);
    }
    if (log != NULL)
        end_scope(log);
    end_sort(&places);
}

/* Writes everything captured so far in this transaction to the change log. */
void
capture_flush(void)
{
    MemoryContext context;
    MemoryContext old;
    FlushScope *scopes;
    int nscopes;

    if (capture_end() == capture_flushed())
        return;
    context = AllocSetContextCreate(TopTransactionContext, "rowsync flush", ALLOCSET_DEFAULT_SIZES);
    old = MemoryContextSwitchTo(context);
    PushActiveSnapshot(GetTransactionSnapshot());
    nscopes = find_scopes(&scopes);
    if (capture_spilled())
        flush_sorted(scopes, nscopes);
    else
        flush_in_memory(scopes, nscopes);
    PopActiveSnapshot();
    MemoryContextSwitchTo(old);
    MemoryContextDelete(context);
    capture_mark_flushed();
}

/* ------------------------------------------------------------------ transactions */

/* The end of a transaction. */
static void
at_transaction_event(XactEvent event, void *arg)
{
    switch (event)
    {
        case XACT_EVENT_PRE_COMMIT:
        case XACT_EVENT_PRE_PREPARE:
            capture_flush();
            capture_close_file();
            break;
        case XACT_EVENT_ABORT:
        case XACT_EVENT_PREPARE:
            /* A scope that the transaction made is not there, or not yet. */
            scope_forget();
            /* FALLTHROUGH */
        case XACT_EVENT_COMMIT:
            capture_forget();
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
        subs[nsubs].end = capture_end();
        subs[nsubs++].flushed = capture_flushed();
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
            capture_cut(start.end, start.flushed);
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
