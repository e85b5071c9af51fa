/*
 * parent.c: the rows that a change refers to, which must live in its scope or come with it.
 *
 * The foreign key alone would be satisfied by a row of another scope, whose existence would so
 * become known. What this upload knows of a row counts first. Any other row is looked up in its own
 * table, by primary key and scope; what is not found there, row_meta decides about.
 *
 * PostgreSQL checks a foreign key with a query for each row, which costs more than writing the row
 * does. So the first attempt to write new rows does without: with those checks switched off, the
 * rows' parents are looked up once, for the scope and for the foreign key, and locked. If one is
 * not there, the attempt is undone and everything looked at and checked in the ordinary way.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "upload.h"

/* Notes the parent that parts, in the order of its key, name. No parent if one of them is null. */
bool
change_add_parent(Change *change, const SyncedReference *reference, SyncedTable *parent,
                  const JsonValue *const *parts)
{
    Parent *added = &change->parents[change->nparents];
    const char *error = NULL;
    int wrong;

    for (int i = 0; i < parent->nkeys; i++)
    {
        if (parts[i]->kind == JSON_NULL)
            return true;
    }
    added->values = palloc(parent->nkeys * sizeof(Datum));
    if (!rowkey_from_values(parent, parts, added->values, &added->key, &error, &wrong))
    {
        change_refuse_value(change, change->table->columns[reference->columns[wrong]].name,
                            parts[wrong], error);
        return false;
    }
    added->table = parent;
    added->direct = reference->direct;
    change->nparents++;
    return true;
}

/* A table of parents, open for looking rows up by key. */
typedef struct ParentTable
{
    SyncedTable *table;
    Relation relation;
    Relation index; /* NULL where the table is partitioned, as everything below */
    IndexScanDesc scan;
    TupleTableSlot *slot;
} ParentTable;

/* Opens a table of parents. */
static ParentTable *
open_parents(SyncedTable *table, LOCKMODE lock)
{
    ParentTable *parents = palloc0(sizeof(ParentTable));
    SyncedTable *current;

    parents->table = table;
    parents->relation = table_open(table->relid, lock);
    if (parents->relation->rd_rel->relkind != RELKIND_RELATION)
        return parents;
    /* REINDEX CONCURRENTLY may have put another index into its place, but cannot under the lock. */
    current = registry_find_relid(table->relid);
    parents->index = index_open(current ? current->key_index : table->key_index, AccessShareLock);
    parents->slot = table_slot_create(parents->relation, NULL);
    parents->scan =
        index_beginscan(parents->relation, parents->index, GetActiveSnapshot(), table->nkeys, 0);
    return parents;
}

/* Releases it. */
static void
close_parents(ParentTable *parents)
{
    if (parents->index != NULL)
    {
        index_endscan(parents->scan);
        ExecDropSingleTupleTableSlot(parents->slot);
        index_close(parents->index, NoLock);
    }
    table_close(parents->relation, NoLock);
    pfree(parents);
}

/* Whether a parent stands in its table, in this scope. */
static bool
stands_in_table(ParentTable *parents, const Parent *parent, const char *scope)
{
    SyncedTable *table = parents->table;
    ScanKeyData keys[INDEX_MAX_KEYS];
    char *stored = NULL;
    bool there;

    for (int k = 0; k < table->nkeys; k++)
        ScanKeyEntryInitialize(&keys[k], 0, k + 1, BTEqualStrategyNumber,
                               parents->index->rd_opcintype[k], parents->index->rd_indcollation[k],
                               table->key_equal_procs[k], parent->values[k]);
    index_rescan(parents->scan, keys, table->nkeys, NULL, 0);
    if (index_getnext_slot(parents->scan, ForwardScanDirection, parents->slot))
        stored = synced_table_scope_of(table, parents->slot);
    there = stored != NULL && strcmp(stored, scope) == 0;
    if (stored != NULL)
        pfree(stored);
    return there;
}

/*
 * Whether a parent stands in its table, in this scope, as of now. Of a partitioned table nothing is
 * known.
 */
bool
parent_stands(Upload *upload, const Parent *parent)
{
    ParentTable *parents;
    bool there;

    PushActiveSnapshot(GetTransactionSnapshot());
    parents = open_parents(parent->table, AccessShareLock);
    there = parents->index != NULL && stands_in_table(parents, parent, upload->user_id);
    close_parents(parents);
    PopActiveSnapshot();
    return there;
}

/* The table among those open, opened if it is not there yet. */
static ParentTable *
find_table(List **open, SyncedTable *table, LOCKMODE lock)
{
    ParentTable *parents;
    ListCell *cell;

    foreach (cell, *open)
    {
        parents = lfirst(cell);
        if (parents->table == table)
            return parents;
    }
    parents = open_parents(table, lock);
    *open = lappend(*open, parents);
    return parents;
}

/* Closes them all. */
static void
close_tables(List *open)
{
    ListCell *cell;

    foreach (cell, open)
        close_parents(lfirst(cell));
    list_free(open);
}

/*
 * Whether a parent that nobody knows of need not be looked for before the change is written: then
 * upload_hold_parents looks for it, once for the scope and for the foreign key. Where each
 * statement must not see more than the one before, PostgreSQL's own check knows better.
 */
bool
parent_can_wait(const Parent *parent)
{
    return parent->direct && parent->row == NULL && !IsolationUsesXactSnapshot();
}

/*
 * Finds the rows that changes refer to: parent->row becomes what this upload knows of the row, or
 * NULL where it stands in its table, or where it can wait, unless all are to be looked for. One
 * that comes with the wave may be a guess.
 */
void
upload_find_parents(Upload *upload, Change **changes, int count, bool all)
{
    List *open = NIL;

    for (int i = 0; i < count; i++)
    {
        for (int p = 0; p < changes[i]->nparents; p++)
        {
            Parent *parent = &changes[i]->parents[p];
            int32 table_id = parent->table->table_id;
            ParentTable *parents;

            CHECK_FOR_INTERRUPTS();
            parent->row = changelog_peek(upload->log, table_id, parent->key);
            if (parent->row != NULL || (!all && parent_can_wait(parent)))
                continue;
            parents = find_table(&open, parent->table, AccessShareLock);
            if (parents->index == NULL || !stands_in_table(parents, parent, upload->user_id))
                parent->row = changelog_row(upload->log, table_id, parent->key);
        }
    }
    close_tables(open);
}

/*
 * The foreign keys that each of these new rows of one table gives whole and that are direct, as a
 * list of constraints: upload_hold_parents can check them.
 */
List *
upload_direct_references(Change **changes, int count)
{
    SyncedTable *table = changes[0]->table;
    List *direct = NIL;

    for (int r = 0; r < table->nreferences && !IsolationUsesXactSnapshot(); r++)
    {
        SyncedReference *reference = &table->references[r];
        bool whole = reference->direct;

        for (int i = 0; i < count && whole; i++)
        {
            for (int k = 0; k < reference->nkeys; k++)
                whole = whole && changes[i]->given[reference->columns[k]] != NULL;
        }
        if (whole)
            direct = lappend_oid(direct, reference->constraint_oid);
    }
    return direct;
}

/* Orders parents by table and key. */
static int
compare_parents(const void *a, const void *b)
{
    const Parent *left = *(Parent *const *)a;
    const Parent *right = *(Parent *const *)b;

    if (left->table->table_id != right->table->table_id)
        return left->table->table_id < right->table->table_id ? -1 : 1;
    return rowkey_compare(left->key, right->key);
}

/* Locks the row that was found as a foreign key does; false if it has changed meanwhile. */
static bool
hold_row(ParentTable *parents)
{
    ItemPointerData tid = parents->slot->tts_tid;
    TM_FailureData failure;

    return table_tuple_lock(parents->relation, &tid, GetActiveSnapshot(), parents->slot,
                            GetCurrentCommandId(false), LockTupleKeyShare, LockWaitBlock,
                            TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS, &failure) == TM_Ok;
}

/*
 * What PostgreSQL's check of a foreign key does for each new row with a query, for many at once: to
 * be called when an attempt has written its rows, with that check switched off for the references
 * that upload_direct_references gave. Whether the direct parents of all rows live in this scope,
 * also those to which a row referred before: they may have left it. They are then locked, so that
 * nobody takes them away before we commit. If not, nothing is said: the rows must be written again,
 * with everything looked at and checked by PostgreSQL.
 */
bool
upload_hold_parents(Upload *upload, Change **changes, int count)
{
    Parent **sorted;
    List *open = NIL;
    bool there = true;
    int total = 0;

    for (int i = 0; i < count; i++)
    {
        if (changes[i]->strays)
            return false;
        total += changes[i]->nparents;
    }
    if (total == 0)
        return true;
    sorted = palloc(total * sizeof(Parent *));
    total = 0;
    for (int i = 0; i < count; i++)
    {
        for (int p = 0; p < changes[i]->nparents; p++)
        {
            if (changes[i]->parents[p].direct)
                sorted[total++] = &changes[i]->parents[p];
        }
    }
    qsort(sorted, total, sizeof(Parent *), compare_parents);
    PushActiveSnapshot(GetTransactionSnapshot());
    for (int i = 0; i < total && there; i++)
    {
        ParentTable *parents;

        CHECK_FOR_INTERRUPTS();
        if (i > 0 && compare_parents(&sorted[i - 1], &sorted[i]) == 0)
            continue;
        parents = find_table(&open, sorted[i]->table, RowShareLock);
        there = stands_in_table(parents, sorted[i], upload->user_id) && hold_row(parents);
    }
    close_tables(open);
    PopActiveSnapshot();
    pfree(sorted);
    return there;
}

/* Appends "schema.table:key" of a missing parent as a JSON string. */
static void
append_missing(StringInfo out, const Parent *parent)
{
    StringInfoData name;

    initStringInfo(&name);
    appendStringInfo(&name, "%s.%s:", parent->table->schema, parent->table->name);
    rowkey_append_text(&name, parent->table, parent->key);
    if (out->len > 1)
        appendStringInfoChar(out, ',');
    json_append_string(out, name.data, name.len);
}

/* Whether a row that a change refers to lives in this scope, or comes with the same wave. */
bool
parent_is_there(Upload *upload, Parent *parent)
{
    Change *coming;

    /* A trigger may have touched it meanwhile. */
    if (parent->row == NULL)
        parent->row = changelog_peek(upload->log, parent->table->table_id, parent->key);
    if (parent->row == NULL)
        return true;
    coming = parent->row->user;
    return !parent->row->deleted ||
           (coming != NULL && coming->status == STATUS_OPEN && coming->request->op != 'D');
}

/*
 * Whether all rows that a change refers to are there. If not, the change is refused with what is
 * missing; the caller may open it again.
 */
bool
change_parents_there(Upload *upload, Change *change)
{
    StringInfoData missing;

    missing.len = 0;
    for (int i = 0; i < change->nparents; i++)
    {
        Parent *parent = &change->parents[i];

        if (parent_is_there(upload, parent))
            continue;
        if (missing.len == 0)
        {
            initStringInfo(&missing);
            appendStringInfoChar(&missing, '[');
        }
        append_missing(&missing, parent);
    }
    if (missing.len == 0)
        return true;
    appendStringInfoChar(&missing, ']');
    change_refuse(change, REASON_FK_MISSING, "a row that this change refers to is not there yet",
                  NULL);
    change->missing = missing.data;
    return false;
}
