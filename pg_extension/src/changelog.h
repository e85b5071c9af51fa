/*
 * changelog.h: the one writer of versions and log entries.
 *
 * Uploads and captured writes go through it alike: lock the scope, open, append the changes in
 * order, close. It keeps, for the rows touched, their version as of now, written or not yet.
 */
#ifndef ROWSYNC_CHANGELOG_H
#define ROWSYNC_CHANGELOG_H

#include "postgres.h"

#include "registry.h"
#include "scope.h"
#include "store.h"

/* What is known of one row of the scope. Owned by the ChangeLog. */
typedef struct RowState
{
    int32 table_id;
    RowKey key;
    int64 version;           /* as of now; 0 = never seen */
    bool deleted;            /* true where version is 0 */
    int64 stored_version;    /* as it was when the log was opened */
    bool own;                /* everything appended since came from own_source */
    bool stored;             /* row_meta has it, at tid */
    bool dirty;              /* row_meta must be written */
    bool guessed;            /* taken for new: row_meta has not been looked at */
    struct varlena *payload; /* of the last change appended; NULL if none or a deletion */
    StoreRow *change;        /* the last change appended; NULL if none */
    ItemPointerData tid;
    /* For upload.c; NULL at first. */
    void *user;    /* the change of the current wave */
    void *harvest; /* what the current attempt captured */
    void *chain;   /* its versions before, as far as they were asked for */
} RowState;

/* One change to append. key and payload must live until the log is closed. */
typedef struct LogEntry
{
    RowState *row;
    char op;         /* 'I', 'U', 'D' */
    int32 source_no; /* 0 = the server */
    int64 source_change_id;
    uint32 content_crc;      /* of the change as it was sent; 0 for the server's */
    struct varlena *payload; /* text, or NULL */
} LogEntry;

/* A stored change. payload is NULL where there is none; memory of the current context. */
typedef struct StoredChange
{
    int64 seq;
    int64 prior_version;
    int64 source_change_id;
    int32 source_no;
    uint32 content_crc;
    char op;
    char *payload;
    int payload_len;
} StoredChange;

/* Where a change that the uploading source sends again stands in the log. */
typedef struct KnownChange
{
    int64 seq;
    int32 table_id;
    bool same_key;
} KnownChange;

typedef struct ChangeLog ChangeLog;

ChangeLog *changelog_open(const Scope *locked, const Source *own_source);
RowState *changelog_row(ChangeLog *log, int32 table_id, RowKey key);
RowState *changelog_guess(ChangeLog *log, int32 table_id, RowKey key);
void changelog_confirm(ChangeLog *log, RowState *row);
RowState *changelog_peek(ChangeLog *log, int32 table_id, RowKey key);
int64 changelog_append(ChangeLog *log, const LogEntry *entry);
void changelog_append_state(ChangeLog *log, int32 table_id, RowKey key, bool deleted,
                            struct varlena *payload);
bool changelog_find_change(ChangeLog *log, int64 source_change_id, int32 table_id, RowKey key,
                           KnownChange *known);
bool changelog_read(ChangeLog *log, int64 seq, StoredChange *change);
bool changelog_read_latest(ChangeLog *log, const RowState *row, StoredChange *change);
bool changelog_read_row(int64 scope_id, int32 table_id, RowKey key, StoredChange *change);
bool changelog_find(Store *log, Snapshot snapshot, int64 scope_id, int64 seq);
int64 changelog_version_at(Store *log, Snapshot snapshot, int64 scope_id, int64 version, int64 at);
int64 changelog_head(const ChangeLog *log);
void changelog_close(ChangeLog *log);
void changelog_abandon(ChangeLog *log);

/* Columns of rowsync.change_log and rowsync.row_meta, in their order. */
enum
{
    LOG_SCOPE = 1,
    LOG_SEQ,
    LOG_SOURCE_CHANGE_ID,
    LOG_PRIOR_VERSION,
    LOG_TS,
    LOG_TABLE,
    LOG_SOURCE,
    LOG_CONTENT_CRC,
    LOG_OP,
    LOG_KEY,
    LOG_PAYLOAD,
    LOG_NATTS = LOG_PAYLOAD
};

enum
{
    META_SCOPE = 1,
    META_VERSION,
    META_TABLE,
    META_DELETED,
    META_KEY,
    META_PLACE,
    META_NATTS = META_PLACE
};

#endif
