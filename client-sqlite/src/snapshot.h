/*
 * snapshot.h - reads the snapshot stream and hands out its rows.
 */
#ifndef ROWSYNC_SNAPSHOT_H
#define ROWSYNC_SNAPSHOT_H

#include "client.h"
#include "digest.h"

/* A table of the header. */
typedef struct SnapshotTable
{
    Table *table; /* NULL: not tracked here */
    Slice *names; /* the columns as in the header, quotes included */
    int *columns; /* for each of them that of the table, or -1 */
    int count;
    int *keys; /* which of them make the key, in its order */
    int key_count;
    Buffer digest_name;
} SnapshotTable;

typedef struct Snapshot Snapshot;

/* Who takes the rows. Both run while the request does; what they return other than OK ends it. */
typedef struct SnapshotTaker
{
    void *context;
    rowsync_code (*header)(void *context, Snapshot *snapshot);
    /* A row of a tracked table: its values are in snapshot->values, its key in snapshot->key. */
    rowsync_code (*row)(void *context, Snapshot *snapshot, int table, int64_t version);
} SnapshotTaker;

struct Snapshot
{
    rowsync *client;
    SnapshotTaker taker;
    int64_t seq;
    int64_t epoch; /* of the server's log; 0: it knows nothing yet; -1: not told */
    Slice epochs;  /* all of them, each with the head that it began with; no slice: not told */
    SnapshotTable *tables;
    int table_count;
    int64_t rows; /* read so far */
    Slice *values;
    Key key;

    /* Of the reader itself. */
    Buffer rest;   /* the beginning of a line whose end has not come */
    Buffer header; /* kept, for names point into it */
    Buffer text;
    Digest digest;
    int value_capacity;
    bool ended;
};

rowsync_code snapshot_read(Snapshot *snapshot, int max_tries, bool *absent);
int64_t snapshot_shared(const Snapshot *snapshot);
void snapshot_free(Snapshot *snapshot);

#endif
