/*
 * resolve.c: makes of changes as they were sent rows of tables: key, values, parents.
 *
 * Here is found what is wrong with a change by itself, before anything is locked or looked up.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "subtransaction.h"
#include "upload.h"

/*
 * Sorts the members of the payload by column, and refuses a column that the table does not have.
 * The scope column and generated columns are the server's: what was sent for them is left out.
 */
static bool
take_payload(Change *change)
{
    RequestChange *request = change->request;
    SyncedTable *table = change->table;
    int hint = 0;

    change->given = palloc0(table->ncolumns * sizeof(JsonValue *));
    if (change->request->op == 'D')
        return true;
    for (int m = 0; m < request->nmembers; m++)
    {
        JsonMember *member = &request->members[m];
        int i = synced_table_find_column(table, member->name, member->name_len, hint);

        if (i >= 0)
        {
            hint = i + 1;
            change->given[i] = table->columns[i].generated ? NULL : &member->value;
        }
        else if (strcmp(member->name, table->scope_name) != 0)
        {
            change_refuse(change, REASON_BAD_PAYLOAD,
                          psprintf("table %s.%s has no column \"%s\"", table->schema, table->name,
                                   member->name),
                          member->name);
            return false;
        }
    }
    return true;
}

/* Reads the values that were sent into values of the columns' types. */
static bool
convert(Change *change)
{
    SyncedTable *table = change->table;
    const char *error;

    for (int i = 0; i < table->ncolumns; i++)
    {
        SyncedColumn *column = &table->columns[i];

        if (change->given[i] == NULL)
            continue;
        change->converting = column->name;
        change->apply.values[i] =
            value_from_json(&column->codec, change->given[i], &change->apply.nulls[i], &error);
        if (error != NULL)
        {
            change_refuse_value(change, column->name, change->given[i], error);
            return false;
        }
        change->apply.columns = bms_add_member(change->apply.columns, i);
        if (!change->apply.nulls[i] &&
            !value_travels_as_sent(&column->codec, change->apply.values[i], change->given[i]))
            change->rewritten = true;
    }
    change->converting = NULL;
    return true;
}

/* Takes the key from the pk, and refuses a payload that names another row. */
static bool
take_key(Change *change, const Datum *named)
{
    SyncedTable *table = change->table;
    Datum sent[INDEX_MAX_KEYS];
    bool any = false;

    for (int k = 0; k < table->nkeys; k++)
    {
        int i = table->keys[k];

        sent[k] = named[k];
        if (change->given[i] != NULL)
        {
            if (change->apply.nulls[i])
            {
                change_refuse_value(change, table->columns[i].name, change->given[i],
                                    "expected a value");
                return false;
            }
            sent[k] = change->apply.values[i];
            any = true;
        }
        change->apply.values[i] = named[k];
        change->apply.nulls[i] = false;
        change->apply.columns = bms_add_member(change->apply.columns, i);
    }
    if (any && !rowkey_equal(rowkey_pack(table, sent), change->key))
    {
        change_refuse(change, REASON_BAD_PAYLOAD, "pk and payload name different rows",
                      table->columns[table->keys[0]].name);
        return false;
    }
    return true;
}

/* Notes the rows that the payload refers to with all columns of a reference. */
static bool
take_parents(Change *change)
{
    SyncedTable *table = change->table;

    if (change->request->op == 'D' || table->nreferences == 0)
        return true;
    change->parents = palloc0(table->nreferences * sizeof(Parent));
    for (int r = 0; r < table->nreferences; r++)
    {
        SyncedReference *reference = &table->references[r];
        SyncedTable *parent = registry_find_relid(reference->parent_relid);
        const JsonValue *parts[INDEX_MAX_KEYS];
        bool whole = parent != NULL && parent->nkeys == reference->nkeys;

        for (int i = 0; whole && i < reference->nkeys; i++)
        {
            parts[i] = change->given[reference->columns[i]];
            whole = parts[i] != NULL;
        }
        if (whole && !change_add_parent(change, reference, parent, parts))
            return false;
    }
    return true;
}

/*
 * Makes of a change as it was sent a row of a table: key, values, parents. What does not fit
 * refuses the change; what a type's input function refuses is raised, with change->converting set.
 */
static void
resolve_change(Change *change)
{
    RequestChange *request = change->request;
    SyncedTable *table = change->table;
    Datum named[INDEX_MAX_KEYS];
    const char *error = NULL;

    change->apply.values = palloc0(table->ncolumns * sizeof(Datum));
    change->apply.nulls = palloc0(table->ncolumns * sizeof(bool));
    change->apply.columns = NULL;
    change->nparents = 0;
    change->rewritten = false;
    change->converting = KEY_OF_CHANGE;
    if (!rowkey_parse(table, &request->pk, named, &change->key, &error))
    {
        change_refuse_value(change, KEY_OF_CHANGE, &request->pk, error);
        return;
    }
    change->converting = NULL;
    if (take_payload(change) && convert(change) && take_key(change, named))
        (void)take_parents(change);
    change->converting = NULL;
}

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
            resolve_change(change);
        }
    }
    PG_FINALLY();
    {
        value_format_leave(&saved);
    }
    PG_END_TRY();
    return true;
}

/* A registered table by name; those that the request has named before are in tables. */
static SyncedTable *
find_table(List **tables, const char *schema, const char *name)
{
    SyncedTable *table;
    ListCell *cell;

    foreach (cell, *tables)
    {
        table = lfirst(cell);
        if (strcmp(table->name, name) == 0 && strcmp(table->schema, schema) == 0)
            return table;
    }
    table = registry_find_name(schema, name);
    if (table != NULL && list_length(*tables) < 16)
        *tables = lappend(*tables, table);
    return table;
}

/* Finds table, key, values and parents of every change. */
static void
resolve_changes(Upload *upload)
{
    List *tables = NIL;
    Range all = {upload->changes, upload->nchanges};
    bool unsafe = false;
    ErrorData *error;

    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = &upload->changes[i];
        RequestChange *request = change->request;
        SyncedTable *table;

        CHECK_FOR_INTERRUPTS();
        if (request->error != NULL)
        {
            change_refuse(change, REASON_BAD_PAYLOAD, request->error, NULL);
            continue;
        }
        table = find_table(&tables, request->schema, request->table);
        if (table == NULL)
        {
            change_refuse(change, REASON_UNREGISTERED_TABLE,
                          psprintf("table %s.%s does not sync", request->schema, request->table),
                          NULL);
            continue;
        }
        change->table = table;
        if (table->safe_input)
            resolve_change(change);
        unsafe |= !table->safe_input;
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
    Change *first = NULL;

    for (int i = 0; i < upload->nchanges; i++)
        sorted[i] = &upload->changes[i];
    qsort(sorted, upload->nchanges, sizeof(Change *), compare_ids);
    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = sorted[i];
        RequestChange *a = first ? first->request : NULL;
        RequestChange *b = change->request;

        if (first == NULL || a->source_change_id != b->source_change_id)
            first = change;
        else if (a->end - a->start == b->end - b->start &&
                 memcmp(a->start, b->start, a->end - a->start) == 0)
            change->first = first;
        else
            change_refuse(change, REASON_BAD_PAYLOAD,
                          "source_change_id is used twice in this request, for different changes",
                          NULL);
    }
    pfree(sorted);
}

/* Resolves all changes of a request. What is wrong in itself is answered. */
void
upload_resolve(Upload *upload)
{
    resolve_changes(upload);
    find_repeated_ids(upload);
}
