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

#include "components.h"
#include "upload.h"

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

    qsort(changes, count, sizeof(Change *), change_compare_tables);
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

/* Attempts of the second path after which no further pass begins: some seconds. */
#define MAX_TRIES 30000

/* Writes changes together, with everything looked at before. */
static bool
attempt(Upload *upload, Change **changes, int count, ErrorData **error)
{
    Attempt work = {upload, changes, count, false, false};

    return upload_attempt(&work, error);
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
        (void)upload_try(&probe, &error);
        if (error != NULL)
        {
            change_refuse_error(change, error);
            change->wrong_in_itself = true;
        }
    }
    return progress;
}

/*
 * Tries a change whose parents are missing, if its table has triggers that may make them: once, and
 * the parents are looked for when it is written, as in the first attempt of all.
 */
static bool
write_orphan(Upload *upload, Change *change)
{
    Attempt work = {upload, &change, 1, true, false};
    ErrorData *error;

    if (!change->table->has_triggers || change->tried_as_orphan)
        return false;
    for (int p = 0; p < change->nparents; p++)
    {
        if (!change->parents[p].direct && !parent_is_there(upload, &change->parents[p]))
            return false;
    }
    change->tried_as_orphan = true;
    change->status = STATUS_OPEN;
    if (upload_attempt(&work, &error))
        return true;
    (void)change_parents_there(upload, change);
    return false;
}

/*
 * Whether what other changes have done by triggers and cascades has answered a change: its row has
 * come, or gone, before its turn. It is then decided anew; *written becomes whether it is applied.
 */
static bool
is_overtaken(Upload *upload, Change *change, bool *written)
{
    *written = false;
    if ((change->apply.kind == APPLY_INSERT) == change->row->deleted)
        return false;
    change->status = STATUS_OPEN;
    change_decide(upload, change);
    if (change->status == STATUS_OPEN && change->action == ACTION_LOG_ONLY)
    {
        upload_log_change(upload, change);
        *written = true;
    }
    return change->status != STATUS_OPEN;
}

/* Tries one unit by itself; true if anything of it was written. */
static bool
write_unit(Upload *upload, Change **changes, int count)
{
    ErrorData *error;
    Change before = *changes[0];
    bool there = true;
    bool written;

    if (count == 1 && is_overtaken(upload, changes[0], &written))
        return written;
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
    else
        return write_orphan(upload, changes[0]);
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
 * Writes changes in pieces of about the square root of the whole, a failed piece unit by unit; true
 * if anything was written.
 */
static bool
write_in_pieces(Upload *upload, Change **changes, int count)
{
    int piece = Max((int)sqrt(count), 1);
    bool progress = false;
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
    return progress;
}

/*
 * When something was written: what is left is tried again, there and back, as long as it helps. A
 * later delete frees a value, a later change or a trigger brings a parent.
 */
static void
write_rest(Upload *upload, Change **changes, int count)
{
    bool progress = true;
    bool forward = false;
    int before = upload->attempts;

    while (progress)
    {
        if (upload->attempts - before >= MAX_TRIES)
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
                progress |= write_unit(upload, changes + first, length);
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
 * Puts the changes whose parents are missing behind the others, refused as they stand. Returns the
 * number of the others. Parents come first, so that who misses one is known to its own children.
 */
static int
put_orphans_last(Upload *upload, Change **changes, int count)
{
    Change **orphans = palloc(count * sizeof(Change *));
    int norphans = 0;
    int left = 0;

    for (int i = 0; i < count; i++)
    {
        if (change_parents_there(upload, changes[i]))
            changes[left++] = changes[i];
        else
            orphans[norphans++] = changes[i];
    }
    memcpy(changes + left, orphans, norphans * sizeof(Change *));
    pfree(orphans);
    return left;
}

/*
 * Writes changes whose parents are known to be there or to come with them; true if anything was
 * written. error: what they were refused for when they were tried together, or NULL.
 */
static bool
write_known(Upload *upload, Change **changes, int count, ErrorData *error)
{
    if (error == NULL && attempt(upload, changes, count, &error))
        return true;
    if (count == 1)
    {
        refuse_unit(changes, 1, error);
        return false;
    }
    if (upload_find_handovers(upload, changes, count))
    {
        sort_wave(changes, count);
        if (error != NULL && error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
            attempt(upload, changes, count, &error))
            return true;
    }
    return write_in_pieces(upload, changes, count);
}

/*
 * Writes the open changes of a wave. Guesses hold in nearly all requests; what does not go well
 * with them is looked at again without.
 */
void
upload_write_wave(Upload *upload, Change **changes, int count)
{
    ErrorData *error = NULL;
    bool progress = false;
    int left;
    Attempt guess = {upload, changes, count, true, false};
    bool tried = can_guess(upload, changes, count);

    sort_wave(changes, count);
    if (tried && upload_attempt(&guess, &error))
        return;
    /* An error of the tables would come again, if it was not about a guess. */
    tried = tried && error != NULL;
    if (upload_settle_guesses(upload, changes, &count))
        tried = false;
    upload_find_parents(upload, changes, count, true);
    left = put_orphans_last(upload, changes, count);
    if (left > 0)
        progress = write_known(upload, changes, left, tried && left == count ? error : NULL);
    for (int i = left; i < count; i++)
        progress |= write_orphan(upload, changes[i]);
    if (progress)
        write_rest(upload, changes, count);
}
