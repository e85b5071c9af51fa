/*
 * partition.c: partitions that come to a registered table or leave it, with all their rows.
 *
 * TRUNCATE of a partition fires only that partition's own triggers, so each has _rowsync_truncate
 * too. That also tells which partitions are known: one without the trigger has just come, and a
 * table that has it, but belongs to nobody any more, has just left. Its argument is the table_id.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "capture.h"
#include "partition.h"

/* Leaves of table $1 without the trigger; foreign tables never have it. */
static const char unknown_sql[] =
    "SELECT p.relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree($1) AS p"
    "  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) p.relid"
    " WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND NOT EXISTS ("
    "    SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid OPERATOR(pg_catalog.=) p.relid"
    "        AND t.tgname OPERATOR(pg_catalog.=) '_rowsync_truncate')";

/* Tables that have the trigger of table_id $2 and are not table $1 or a partition of it. */
static const char orphans_sql[] =
    "SELECT t.tgrelid FROM pg_catalog.pg_trigger AS t"
    " WHERE t.tgname OPERATOR(pg_catalog.=) '_rowsync_truncate'"
    "   AND t.tgargs OPERATOR(pg_catalog.=) (pg_catalog.convert_to($2, 'UTF8')"
    "       OPERATOR(pg_catalog.||) '\\x00'::pg_catalog.bytea)"
    "   AND coalesce(pg_catalog.pg_partition_root(t.tgrelid), t.tgrelid)"
    "       OPERATOR(pg_catalog.<>) $1";

/* The oids that one of these queries finds, as a list of the caller's context. Inside SPI. */
static List *
find(MemoryContext context, const char *sql, Oid relid, int32 table_id)
{
    Oid types[2] = {REGCLASSOID, TEXTOID};
    Datum values[2] = {ObjectIdGetDatum(relid), CStringGetTextDatum(psprintf("%d", table_id))};
    List *result = NIL;

    if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
        elog(ERROR, "could not look for the partitions of table %u", relid);
    for (uint64 i = 0; i < SPI_processed; i++)
    {
        bool isnull;
        Datum oid = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
        MemoryContext old = MemoryContextSwitchTo(context);

        result = lappend_oid(result, DatumGetObjectId(oid));
        MemoryContextSwitchTo(old);
    }
    SPI_freetuptable(SPI_tuptable);
    return result;
}

/* Runs a statement about a table: format has one %s for its name. Inside SPI. */
static void
run(const char *format, Oid relid)
{
    char *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
                                            get_rel_name(relid));
    int result = SPI_execute(psprintf(format, name), false, 0);

    if (result < 0)
        elog(ERROR, "could not change the triggers of %s: %s", name,
             SPI_result_code_string(result));
}

/* Partitions that are not known, as a list of oids of the current context. */
List *
partition_unknown(const SyncedTable *table)
{
    MemoryContext context = CurrentMemoryContext;
    List *result;

    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    result = find(context, unknown_sql, table->relid, table->table_id);
    SPI_finish();
    return result;
}

/*
 * Makes new partitions known; captures their rows as inserted unless they are captured already, as
 * all rows are when a table is registered.
 */
void
partition_adopt(SyncedTable *table, bool captured)
{
    List *unknown = partition_unknown(table);
    char *create = psprintf("CREATE TRIGGER _rowsync_truncate BEFORE TRUNCATE ON %%s FOR EACH "
                            "STATEMENT EXECUTE FUNCTION rowsync._capture_truncate('%d')",
                            table->table_id);
    ListCell *cell;

    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    foreach (cell, unknown)
        run(create, lfirst_oid(cell));
    SPI_finish();
    foreach (cell, unknown)
    {
        if (!captured)
            capture_scan_relation(table, lfirst_oid(cell), capture_attached);
    }
}

/* Drops the trigger of tables. */
static void
drop_triggers(const List *relids)
{
    ListCell *cell;

    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    foreach (cell, relids)
        run("DROP TRIGGER _rowsync_truncate ON %s", lfirst_oid(cell));
    SPI_finish();
}

/* Tables with the trigger of a table that are no partition of relid, as a list of the context. */
static List *
find_orphans(const SyncedTable *table, Oid relid)
{
    MemoryContext context = CurrentMemoryContext;
    List *result;

    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    result = find(context, orphans_sql, relid, table->table_id);
    SPI_finish();
    return result;
}

/* Captures the rows of partitions that have left as deleted. */
void
partition_release(SyncedTable *table)
{
    List *orphans = find_orphans(table, table->relid);
    ListCell *cell;

    foreach (cell, orphans)
        capture_scan_relation(table, lfirst_oid(cell), capture_removed);
    drop_triggers(orphans);
}

/* Forgets all partitions of a table that syncs no more. */
void
partition_forget(SyncedTable *table)
{
    drop_triggers(find_orphans(table, InvalidOid));
}
