/*
 * handover.c: unique values that rows of one wave pass on to each other, as when a list is put into
 * another order.
 *
 * Each statement checks a unique value row by row, so who takes a value must come after who gives
 * it up. Looked for only after a wave has failed for a unique value: it reads what the rows hold
 * now.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "payload.h"
#include "upload.h"

/* A value that a row holds now and gives up in this wave. */
typedef struct Holder
{
    char *value;
    Change *change;
} Holder;

/* Orders holders by value. */
static int
compare_holders(const void *a, const void *b)
{
    return strcmp(((const Holder *)a)->value, ((const Holder *)b)->value);
}

/* Whether a change writes one of the columns of a unique constraint. */
static bool
writes_unique(const Change *change, const SyncedUnique *unique)
{
    for (int i = 0; i < unique->ncolumns; i++)
    {
        if (bms_is_member(unique->columns[i], change->apply.columns))
            return true;
    }
    return false;
}

/*
 * The values of a row in the columns of a unique constraint, as one string that begins with the
 * constraint's own name; NULL where one of them is null or not known. With change->apply over
 * members, which is what the row holds now, or members alone.
 */
static char *
unique_value(const Change *change, int unique_no, bool after, const JsonMember *members,
             int nmembers)
{
    SyncedTable *table = change->table;
    SyncedUnique *unique = &table->uniques[unique_no];
    StringInfoData out;

    initStringInfo(&out);
    appendStringInfo(&out, "%d.%d", table->table_id, unique_no);
    for (int i = 0; i < unique->ncolumns; i++)
    {
        int c = unique->columns[i];
        const JsonValue *now;

        appendStringInfoChar(&out, ',');
        if (after && bms_is_member(c, change->apply.columns))
        {
            if (change->apply.nulls[c])
                return NULL;
            synced_table_append_value(&out, &table->columns[c], change->apply.values[c]);
            continue;
        }
        now = payload_value(members, nmembers, &table->columns[c]);
        if (now == NULL || now->kind == JSON_NULL)
            return NULL;
        if (now->kind == JSON_STRING)
            json_append_string(&out, now->text, now->len);
        else
            appendBinaryStringInfo(&out, now->text, now->len);
    }
    return out.data;
}

/* What a row holds now; false for a row that is not there. */
static bool
read_row(Upload *upload, const Change *change, JsonMember **members, int *nmembers)
{
    StoredChange stored;

    *members = NULL;
    *nmembers = 0;
    return change->apply.kind == APPLY_UPDATE &&
           changelog_read_latest(upload->log, change->row, &stored) && stored.payload != NULL &&
           request_parse_object(stored.payload, stored.payload_len, members, nmembers);
}

/* Notes which changes give up a value that another one takes. Returns whether there are any. */
bool
upload_find_handovers(Upload *upload, Change **changes, int count)
{
    Holder *holders = NULL;
    int nholders = 0;
    int room = 0;
    bool found = false;

    for (int i = 0; i < count; i++)
    {
        Change *change = changes[i];
        JsonMember *members;
        int nmembers;

        CHECK_FOR_INTERRUPTS();
        change->in_order = true;
        change->nwaits = 0;
        if (change->apply.kind != APPLY_UPDATE || !read_row(upload, change, &members, &nmembers))
            continue;
        for (int u = 0; u < change->table->nuniques; u++)
        {
            char *value;

            if (!writes_unique(change, &change->table->uniques[u]) ||
                (value = unique_value(change, u, false, members, nmembers)) == NULL)
                continue;
            if (nholders == room)
            {
                room = Max(room * 2, 64);
                holders = holders ? repalloc_huge(holders, room * sizeof(Holder))
                                  : palloc(room * sizeof(Holder));
            }
            holders[nholders++] = (Holder){value, change};
        }
    }
    if (nholders == 0)
        return false;
    qsort(holders, nholders, sizeof(Holder), compare_holders);
    for (int i = 0; i < count; i++)
    {
        Change *change = changes[i];
        JsonMember *members;
        int nmembers;

        CHECK_FOR_INTERRUPTS();
        if (change->apply.kind == APPLY_DELETE || change->table->nuniques == 0)
            continue;
        (void)read_row(upload, change, &members, &nmembers);
        change->waits = palloc(change->table->nuniques * sizeof(Change *));
        for (int u = 0; u < change->table->nuniques; u++)
        {
            Holder wanted = {.change = change};
            Holder *holder;

            if (!writes_unique(change, &change->table->uniques[u]) ||
                (wanted.value = unique_value(change, u, true, members, nmembers)) == NULL)
                continue;
            holder = bsearch(&wanted, holders, nholders, sizeof(Holder), compare_holders);
            if (holder != NULL && holder->change != change)
            {
                change->waits[change->nwaits++] = holder->change;
                found = true;
            }
        }
    }
    return found;
}
