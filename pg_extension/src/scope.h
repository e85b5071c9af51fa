/*
 * scope.h: the rows of rowsync.scope and rowsync.source.
 */
#ifndef ROWSYNC_SCOPE_H
#define ROWSYNC_SCOPE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/array.h"
#include "utils/snapshot.h"

/* Longest user id and source id, in bytes. */
#define ROWSYNC_MAX_ID 255

/* Columns of rowsync.scope and rowsync.source, in their order. */
enum
{
    SCOPE_ID = 1,
    SCOPE_HEAD,
    SCOPE_FLOOR,
    SCOPE_EPOCH,
    SCOPE_NAME,
    SCOPE_EPOCHS,
    SCOPE_NATTS = SCOPE_EPOCHS
};

enum
{
    SOURCE_SCOPE = 1,
    SOURCE_LAST_DOWNLOAD,
    SOURCE_LAST_CHANGE_ID,
    SOURCE_LAST_UPLOAD,
    SOURCE_FIRST_SEEN,
    SOURCE_LAST_SEEN,
    SOURCE_NO,
    SOURCE_ID,
    SOURCE_PRUNED_IDS,
    SOURCE_NATTS = SOURCE_PRUNED_IDS
};

/* A scope as it was read; current only while it is locked. */
typedef struct Scope
{
    int64 scope_id;
    int64 head;
    int64 floor;
    int64 epoch;
} Scope;

/* A source as it was read. */
typedef struct Source
{
    int32 source_no;
    int64 last_download;
    int64 last_change_id;
    int64 last_upload;
    TimestampTz last_seen;
} Source;

int64 scope_find(const char *name);
int64 scope_find_or_create(const char *name);
bool scope_read(int64 scope_id, Snapshot snapshot, Scope *scope);
ArrayType *scope_epochs(int64 scope_id, Snapshot snapshot);
void scope_lock(int64 scope_id, Scope *scope);
void scope_set_head(int64 scope_id, int64 head);
void scope_require_snapshots(void);
void scope_forget(void);

bool source_find(int64 scope_id, const char *source_id, Source *source);
void source_find_or_create(int64 scope_id, const char *source_id, int64 last_download,
                           Source *source);
bool source_has_pruned(int64 scope_id, const char *source_id, int64 source_change_id);
void source_update(int64 scope_id, const char *source_id, int64 last_download, int64 last_change_id,
                   int64 last_upload, bool wait);

void check_id(const char *what, const char *id);

#endif
