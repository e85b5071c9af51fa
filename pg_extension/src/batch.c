/*
 * batch.c: where the changes of each upload lie in the log, to know one that is sent again.
 *
 * An index of all changes by their sources' numbers would cost each change a place in it, though
 * hardly any is ever sent again. A row for each upload costs next to nothing; who asks for a number
 * reads the changes of the upload that it must have come with, once for all numbers of a request.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "batch.h"
#include "changelog.h"

/* Columns of rowsync.batch, in their order. */
enum
{
    BATCH_SCOPE = 1,
    BATCH_HIGHEST,
    BATCH_FIRST_SEQ,
    BATCH_LAST_SEQ,
    BATCH_SOURCE,
    BATCH_LATE,
    BATCH_NATTS = BATCH_LATE
};

/* In larger batches than this, so many changes of an upload are looked for by their hints first. */
#define HINTS_FROM 100
#define MAX_HINTS 20

/* A change of the source that is in the log. */
typedef struct KnownId
{
    int64 change_id; /* hash key; for a batch that has been read, its first seq below 0 */
    int64 seq;
} KnownId;

/* Opens the batches of a source, in the current memory context and resource owner. */
void
batches_open(Batches *batches, int64 scope_id, const Source *source)
{
    memset(batches, 0, sizeof(*batches));
    batches->context = CurrentMemoryContext;
    batches->scope_id = scope_id;
    batches->source_no = source->source_no;
    batches->last_change_id = source->last_change_id;
    store_open(&batches->store, REL_BATCH, REL_BATCH_PKEY, RowExclusiveLock);
}

/* Finds the late change of this number, or else the first batch that reaches it. */
static bool
find_batch(Batches *batches, Snapshot snapshot, bool late, int64 change_id)
{
    ScanKeyData keys[4];

    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(batches->scope_id));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(batches->source_no));
    ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_BOOLEQ, BoolGetDatum(late));
    ScanKeyInit(&keys[3], 4, late ? BTEqualStrategyNumber : BTGreaterEqualStrategyNumber,
                late ? F_INT8EQ : F_INT8GE, Int64GetDatum(change_id));
    return store_find(&batches->store, snapshot, keys, 4);
}

/* Remembers a number and its place; the place that was remembered already stays. */
static void
remember(Batches *batches, int64 change_id, int64 seq)
{
    bool found;
    KnownId *known = hash_search(batches->known, &change_id, HASH_ENTER, &found);

    if (!found)
        known->seq = seq;
}

/* Reads the changes of a batch. */
static void
read_batch(Batches *batches, Store *log, Snapshot snapshot, int64 first_seq, int64 last_seq)
{
    remember(batches, -first_seq, 0);
    for (int64 seq = first_seq; seq <= last_seq; seq++)
    {
        CHECK_FOR_INTERRUPTS();
        if (changelog_find(log, snapshot, batches->scope_id, seq) &&
            DatumGetInt32(store_value(log, LOG_SOURCE)) == batches->source_no)
            remember(batches, DatumGetInt64(store_value(log, LOG_SOURCE_CHANGE_ID)), seq);
    }
}

/* Whether it is worth while to find out where a change most likely is. */
bool
batches_want_hint(const Batches *batches)
{
    return batches->hints < MAX_HINTS;
}

/* Whether the log has this change of the source at seq, of which log then shows the change. */
static bool
is_at(Batches *batches, Store *log, Snapshot snapshot, int64 change_id, int64 seq)
{
    return changelog_find(log, snapshot, batches->scope_id, seq) &&
           DatumGetInt32(store_value(log, LOG_SOURCE)) == batches->source_no &&
           DatumGetInt64(store_value(log, LOG_SOURCE_CHANGE_ID)) == change_id;
}

/*
 * The place in the log of a change of the source that was applied before this upload; 0 if none is
 * there: it never was, or is pruned. log is open by its primary key, which this moves. hint: where
 * it most likely is, or 0; worth a look before a large batch is read for the sake of a few changes.
 */
int64
batches_find(Batches *batches, Store *log, Snapshot snapshot, int64 change_id, int64 hint)
{
    KnownId *known;
    int64 first_seq;
    int64 last_seq;

    if (change_id > batches->last_change_id)
        return 0;
    if (batches->known == NULL)
    {
        HASHCTL control = {0};

        control.keysize = sizeof(int64);
        control.entrysize = sizeof(KnownId);
        control.hcxt = batches->context;
        batches->known = hash_create("rowsync known changes", 256, &control,
                                     HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    }
    known = hash_search(batches->known, &change_id, HASH_FIND, NULL);
    if (known != NULL)
        return known->seq;
    if (find_batch(batches, snapshot, true, change_id))
        return DatumGetInt64(store_value(&batches->store, BATCH_FIRST_SEQ));
    if (!find_batch(batches, snapshot, false, change_id))
        return 0;
    first_seq = -DatumGetInt64(store_value(&batches->store, BATCH_FIRST_SEQ));
    last_seq = DatumGetInt64(store_value(&batches->store, BATCH_LAST_SEQ));
    if (hash_search(batches->known, &first_seq, HASH_FIND, NULL) == NULL)
    {
        if (hint != 0 && last_seq + first_seq > HINTS_FROM && batches->hints++ < MAX_HINTS &&
            is_at(batches, log, snapshot, change_id, hint))
            return hint;
        read_batch(batches, log, snapshot, -first_seq, last_seq);
    }
    known = hash_search(batches->known, &change_id, HASH_FIND, NULL);
    return known ? known->seq : 0;
}

/* Takes a row of rowsync.batch for writing. */
static void
add_batch(Batches *batches, bool late, int64 highest, int64 first_seq, int64 last_seq)
{
    StoreRow *row = store_insert(&batches->store);

    row->values[BATCH_SCOPE - 1] = Int64GetDatum(batches->scope_id);
    row->values[BATCH_HIGHEST - 1] = Int64GetDatum(highest);
    row->values[BATCH_FIRST_SEQ - 1] = Int64GetDatum(first_seq);
    row->values[BATCH_LAST_SEQ - 1] = Int64GetDatum(last_seq);
    row->values[BATCH_SOURCE - 1] = Int32GetDatum(batches->source_no);
    row->values[BATCH_LATE - 1] = BoolGetDatum(late);
}

/* Notes a change of this upload. The current context must live until batches_write. */
void
batches_note(Batches *batches, int64 change_id, int64 seq)
{
    if (change_id > batches->last_change_id)
        batches->highest = Max(batches->highest, change_id);
    else
        add_batch(batches, true, change_id, seq, seq);
}

/* Writes what was noted, of an upload whose changes lie in the log from first_seq to last_seq. */
void
batches_write(Batches *batches, int64 first_seq, int64 last_seq)
{
    if (batches->highest > 0)
        add_batch(batches, false, batches->highest, first_seq, last_seq);
    store_flush(&batches->store);
}

/* Releases everything; what was noted and not written is forgotten. */
void
batches_close(Batches *batches)
{
    batches->store.npending = 0;
    store_close(&batches->store);
}
