/*
 * apply.c: writes rows to business tables, many with one statement, with the caller's rights.
 *
 * The rows stand in a tuplestore that the statement reads as the relation rowsync_batch (the way
 * triggers read transition tables). Against arrays and unnest this takes columns of every type,
 * arrays too, and copies each value once. Statements are planned once for each table, kind and set
 * of columns, and kept with the table.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/tupdesc.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "nodes/bitmapset.h"
#include "optimizer/plancat.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "apply.h"
#include "miscadmin.h"

/* Plans kept for each table; a device normally needs a handful. */
#define MAX_PLANS 64
/* What the planner is told of the size of a batch, and at least of the size of tables. */
#define EXPECTED_ROWS 10
#define EXPECTED_TUPLES 1e5
#define EXPECTED_PAGES 2000

/* A kept statement. plan comes first: registry.c frees it through that. */
typedef struct ApplyPlan
{
    SPIPlanPtr plan;
    ApplyKind kind;
    Bitmapset *columns;
    TupleDesc batch; /* columns of rowsync_batch: those of the statement, then the scope */
    int ncolumns;
    int *column; /* column index of each, without the scope */
} ApplyPlan;

#define BATCH_NAME "rowsync_batch"

static get_relation_info_hook_type next_relation_info = NULL;
static ExecutorStart_hook_type next_executor_start = NULL;
static bool expecting_growth = false;

/* The statement that is to leave foreign keys unchecked, known by its rows; set for each anew. */
static const Tuplestorestate *unchecked_rows = NULL;
static const List *unchecked_constraints = NIL;

/*
 * Plans are kept, and those of foreign keys and triggers too: what is planned while an upload
 * writes is planned for large tables. A table that was small then must not be scanned for each row
 * when it has grown.
 */
static void
expect_growth(PlannerInfo *root, Oid relid, bool inhparent, RelOptInfo *rel)
{
    ListCell *cell;

    if (next_relation_info != NULL)
        next_relation_info(root, relid, inhparent, rel);
    if (!expecting_growth || inhparent || relid < FirstNormalObjectId ||
        rel->tuples >= EXPECTED_TUPLES)
        return;
    rel->tuples = EXPECTED_TUPLES;
    rel->pages = Max(rel->pages, EXPECTED_PAGES);
    foreach (cell, rel->indexlist)
    {
        IndexOptInfo *index = lfirst(cell);

        if (index->indpred == NIL)
            index->tuples = rel->tuples;
    }
}

/*
 * Switches the checks of some foreign keys off for one statement of apply_rows, and for no other
 * that its triggers run: its own copy of the triggers' descriptions says that they are disabled.
 */
static void
leave_unchecked(QueryDesc *query, int flags)
{
    EphemeralNamedRelation batch = NULL;
    ListCell *cell;

    if (next_executor_start != NULL)
        next_executor_start(query, flags);
    else
        standard_ExecutorStart(query, flags);
    if (unchecked_rows != NULL && query->queryEnv != NULL)
        batch = get_ENR(query->queryEnv, BATCH_NAME);
    if (batch == NULL || batch->reldata != unchecked_rows)
        return;
    foreach (cell, query->estate->es_opened_result_relations)
    {
        TriggerDesc *triggers = ((ResultRelInfo *)lfirst(cell))->ri_TrigDesc;

        for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
        {
            Trigger *trigger = &triggers->triggers[i];

            if (trigger->tgfoid == F_RI_FKEY_CHECK_INS &&
                list_member_oid(unchecked_constraints, trigger->tgconstraint))
                trigger->tgenabled = TRIGGER_DISABLED;
        }
    }
}

/* Called once, when the library is loaded. */
void
apply_init(void)
{
    next_relation_info = get_relation_info_hook;
    get_relation_info_hook = expect_growth;
    next_executor_start = ExecutorStart_hook;
    ExecutorStart_hook = leave_unchecked;
}

/* Statements planned from now on are to expect large tables. */
void
apply_begin(void)
{
    expecting_growth = true;
}

/* No more, and no statement leaves anything unchecked; also after an error. */
void
apply_end(void)
{
    expecting_growth = false;
    unchecked_rows = NULL;
}

/* The columns that stand in rowsync_batch: for UPDATE and DELETE the key is always there. */
static void
describe_batch(ApplyPlan *plan, SyncedTable *table)
{
    Bitmapset *all = plan->kind == APPLY_DELETE ? NULL : bms_copy(plan->columns);
    int i = -1;

    for (int k = 0; k < table->nkeys; k++)
        all = bms_add_member(all, table->keys[k]);
    plan->column = palloc(table->ncolumns * sizeof(int));
    plan->batch = CreateTemplateTupleDesc(bms_num_members(all) + 1);
    while ((i = bms_next_member(all, i)) >= 0)
    {
        SyncedColumn *column = &table->columns[i];
        char name[NAMEDATALEN];

        plan->column[plan->ncolumns++] = i;
        snprintf(name, sizeof(name), "c%d", i);
        TupleDescInitEntry(plan->batch, plan->ncolumns, name, column->codec.type,
                           column->codec.typmod, 0);
        TupleDescInitEntryCollation(plan->batch, plan->ncolumns, column->collation);
    }
    TupleDescInitEntry(plan->batch, plan->ncolumns + 1, "scope", table->scope_codec.type,
                       table->scope_codec.typmod, 0);
    TupleDescInitEntryCollation(plan->batch, plan->ncolumns + 1, table->scope_collation);
    bms_free(all);
}

/* Appends "WHERE the row of the table is the row of the batch", in the same scope. */
static void
append_match(StringInfo sql, SyncedTable *table)
{
    for (int k = 0; k < table->nkeys; k++)
        appendStringInfo(sql, "%s t.%s %s b.c%d", k == 0 ? " WHERE" : " AND",
                         quote_identifier(table->columns[table->keys[k]].name),
                         table->key_equals[k], table->keys[k]);
    appendStringInfo(sql, " AND t.%s %s b.scope", quote_identifier(table->scope_name),
                     table->scope_equals);
}

/* The SQL of a plan. Identifiers are quoted, operators qualified, values are none of it. */
static char *
write_sql(ApplyPlan *plan, SyncedTable *table)
{
    StringInfoData sql;
    const char *separator = "";
    int i = -1;

    initStringInfo(&sql);
    switch (plan->kind)
    {
        case APPLY_INSERT:
            appendStringInfo(&sql, "INSERT INTO %s (", table->qualified_name);
            for (int c = 0; c < plan->ncolumns; c++)
                appendStringInfo(&sql, "%s, ",
                                 quote_identifier(table->columns[plan->column[c]].name));
            appendStringInfo(&sql, "%s) OVERRIDING SYSTEM VALUE SELECT ",
                             quote_identifier(table->scope_name));
            for (int c = 0; c < plan->ncolumns; c++)
                appendStringInfo(&sql, "b.c%d, ", plan->column[c]);
            appendStringInfoString(&sql, "b.scope FROM rowsync_batch AS b");
            break;
        case APPLY_UPDATE:
            appendStringInfo(&sql, "UPDATE %s AS t SET ", table->qualified_name);
            while ((i = bms_next_member(plan->columns, i)) >= 0)
            {
                if (table->columns[i].is_key)
                    continue;
                appendStringInfo(&sql, "%s%s = b.c%d", separator,
                                 quote_identifier(table->columns[i].name), i);
                separator = ", ";
            }
            appendStringInfoString(&sql, " FROM rowsync_batch AS b");
            append_match(&sql, table);
            break;
        case APPLY_DELETE:
            appendStringInfo(&sql, "DELETE FROM %s AS t USING rowsync_batch AS b",
                             table->qualified_name);
            append_match(&sql, table);
            break;
    }
    return sql.data;
}

/* Makes the batch visible to SQL as rowsync_batch. */
static void
register_batch(EphemeralNamedRelation batch, ApplyPlan *plan, Tuplestorestate *rows)
{
    memset(batch, 0, sizeof(*batch));
    batch->md.name = BATCH_NAME;
    batch->md.reliddesc = InvalidOid;
    batch->md.tupdesc = plan->batch;
    batch->md.enrtype = ENR_NAMED_TUPLESTORE;
    batch->md.enrtuples = EXPECTED_ROWS;
    batch->reldata = rows;
    if (SPI_register_relation(batch) != SPI_OK_REL_REGISTER)
        elog(ERROR, "could not register a batch of rows");
}

/* The kept plan for this table, kind and columns; made when it is not there. */
static ApplyPlan *
find_plan(SyncedTable *table, ApplyKind kind, Bitmapset *columns, EphemeralNamedRelation batch,
          Tuplestorestate *rows)
{
    MemoryContext old;
    ApplyPlan *plan;
    ListCell *cell;

    foreach (cell, table->plans)
    {
        plan = lfirst(cell);
        if (plan->kind == kind && (kind == APPLY_DELETE || bms_equal(plan->columns, columns)))
        {
            register_batch(batch, plan, rows);
            return plan;
        }
    }
    old = MemoryContextSwitchTo(table->context);
    if (list_length(table->plans) >= MAX_PLANS)
    {
        ApplyPlan *oldest = linitial(table->plans);

        SPI_freeplan(oldest->plan);
        table->plans = list_delete_first(table->plans);
        bms_free(oldest->columns);
        pfree(oldest->column);
        FreeTupleDesc(oldest->batch);
        pfree(oldest);
    }
    plan = palloc0(sizeof(ApplyPlan));
    plan->kind = kind;
    plan->columns = bms_copy(columns);
    describe_batch(plan, table);
    MemoryContextSwitchTo(old);

    register_batch(batch, plan, rows);
    plan->plan = SPI_prepare(write_sql(plan, table), 0, NULL);
    if (plan->plan == NULL)
        elog(ERROR, "could not prepare a statement for %s: %s", table->qualified_name,
             SPI_result_code_string(SPI_result));
    SPI_keepplan(plan->plan);
    old = MemoryContextSwitchTo(table->context);
    table->plans = lappend(table->plans, plan);
    MemoryContextSwitchTo(old);
    return plan;
}

/* The scope as its column holds it; where it cannot, the error says which column that is. */
static Datum
scope_value(SyncedTable *table, const char *scope)
{
    MemoryContext context = CurrentMemoryContext;
    ErrorData *error;
    Datum value;

    PG_TRY();
    {
        value = InputFunctionCall(&table->scope_codec.input, unconstify(char *, scope),
                                  table->scope_codec.ioparam, table->scope_codec.typmod);
    }
    PG_CATCH();
    {
        if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION)
            PG_RE_THROW();
        MemoryContextSwitchTo(context);
        error = CopyErrorData();
        FlushErrorState();
        error->message =
            psprintf("the user does not fit the scope column %s of %s: %s",
                     quote_identifier(table->scope_name), table->qualified_name, error->message);
        ReThrowError(error);
    }
    PG_END_TRY();
    return value;
}

/*
 * Writes rows of one table that share their kind and columns, in the given scope. Must be called
 * inside SPI. Errors are the table's own: constraints, triggers, policies, missing rights. A row
 * that does not exist in the scope, or that a policy hides, is not written, without an error.
 * unchecked: constraints of foreign keys that the caller checks instead of PostgreSQL, for rows
 * that are inserted.
 */
void
apply_rows(SyncedTable *table, ApplyRow *const *rows, int nrows, const char *scope,
           const List *unchecked)
{
    Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
    EphemeralNamedRelationData batch;
    ApplyPlan *plan = find_plan(table, rows[0]->kind, rows[0]->columns, &batch, store);
    Datum *values = palloc((plan->ncolumns + 1) * sizeof(Datum));
    bool *nulls = palloc0((plan->ncolumns + 1) * sizeof(bool));
    int result;

    values[plan->ncolumns] = scope_value(table, scope);
    for (int r = 0; r < nrows; r++)
    {
        CHECK_FOR_INTERRUPTS();
        for (int c = 0; c < plan->ncolumns; c++)
        {
            values[c] = rows[r]->values[plan->column[c]];
            nulls[c] = rows[r]->nulls[plan->column[c]];
        }
        tuplestore_putvalues(store, plan->batch, values, nulls);
    }
    unchecked_constraints = unchecked;
    unchecked_rows = unchecked == NIL ? NULL : store;
    result = SPI_execute_plan(plan->plan, NULL, NULL, false, 0);
    if (result < 0)
        elog(ERROR, "could not write to %s: %s", table->qualified_name,
             SPI_result_code_string(result));
    SPI_unregister_relation(BATCH_NAME);
    tuplestore_end(store);
    pfree(values);
    pfree(nulls);
}
