/*
 * batch.h: where the changes of each upload lie in the log, to know one that is sent again.
 *
 * sql/tables/batch.sql says what the rows of rowsync.batch mean.
 */
#ifndef ROWSYNC_BATCH_H
#define ROWSYNC_BATCH_H

#include "postgres.h"

#include "scope.h"
#include "store.h"

/* The batches of one source, for the time of one upload. */
typedef struct Batches
{
    MemoryContext context; /* of everything below */
    int64 scope_id;
    int32 source_no;
    int64 last_change_id; /* the highest number before this upload */
    int64 highest;        /* the highest number in it; 0 = none above last_change_id */
    Store store;
    HTAB *known; /* NULL until somebody asks */
    int hints;   /* so many times a hint was taken */
} Batches;

void batches_open(Batches *batches, int64 scope_id, const Source *source);
bool batches_want_hint(const Batches *batches);
int64 batches_find(Batches *batches, Store *log, Snapshot snapshot, int64 change_id, int64 hint);
void batches_note(Batches *batches, int64 change_id, int64 seq);
void batches_write(Batches *batches, int64 first_seq, int64 last_seq);
void batches_close(Batches *batches);

#endif
