/*
 * client.h - what the parts of the library share: the client, its tables, keys, statements.
 */
#ifndef ROWSYNC_CLIENT_H
#define ROWSYNC_CLIENT_H

#ifdef ROWSYNC_LOADABLE
#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT3
#define ROWSYNC_SET_TOKEN "rowsync_token()"
#else
#include <sqlite3.h>
/* How an app sets its token, for hints. */
#define ROWSYNC_SET_TOKEN "rowsync_set_token()"
#endif

#include "buffer.h"
#include "json.h"
#include "rowsync.h"

/* The time of day in microseconds, as an SQL expression that every SQLite has. */
#define ROWSYNC_CLOCK " CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"

/* What a column's declared type makes of a value that comes from the server. */
typedef enum ColumnKind
{
    KIND_ANY, /* no affinity, or NUMERIC: as it comes */
    KIND_TEXT,
    KIND_INTEGER,
    KIND_REAL,
    KIND_BLOB, /* a uuid becomes its 16 bytes, other strings are base64 */
    KIND_JSON  /* declared JSON or JSONB: the value's raw text */
} ColumnKind;

/* A column that travels; generated and local ones do not. */
typedef struct Column
{
    char *name;
    char *member; /* "name": as it stands in a request */
    ColumnKind kind;
    bool untyped;  /* compare types too when looking for a change */
    bool key;      /* part of the primary key */
    bool uuid;     /* a BLOB that is a uuid: a key, or a reference to one */
    bool required; /* NOT NULL */
    int64_t mask;  /* its bit in _sync_dirty.changed; 0 for a key column */
} Column;

/* Statements of a table, prepared when first needed. */
typedef enum TableStatement
{
    TABLE_PENDING, /* what is pending of a row, and the row: ?1 the key, ?2 … its columns */
    TABLE_ROW,     /* the row alone, in the same columns: ?2 … its key columns */
    TABLE_THERE,   /* 1 where there is a row of that key */
    TABLE_DELETE,  /* a row by its key */
    TABLE_RESTORE, /* puts a row back that differs: ?1 … all columns */
    TABLE_CLINGS,  /* 1 where a row of a table that is not tracked refers to the row */
    TABLE_STATEMENTS
} TableStatement;

/* What the next snapshot is to see to in a table, and what the last one had to say of it; bits. */
enum Refill
{
    REFILL_COLUMNS =
        1, /* rows lack the server's content, of a new column or of what was given up */
    REFILL_VERSIONS = 2, /* the versions here are of the table of another schema */
    REFILL_ABSENT = 4,   /* the server did not sync a table of that name */
    REFILL_LATER = 8     /* not noted: another process was ahead of the snapshot */
};

/* What may have effects on other rows; bits. */
enum Stirs
{
    STIRS_BY_DELETE = 1,
    STIRS_BY_PUT = 2,
    STIRS_KNOWN = 4
};

/* A tracked table. */
typedef struct Table
{
    int64_t id;
    char *name;
    char *schema;
    char *local;       /* JSON array of the columns that stay on the device */
    char **locals;     /* the names of those that it has, */
    int local_count;   /* and their number */
    char *layout;      /* JSON array of the columns that travelled when the triggers were made */
    Buffer head;       /* "schema", "table" and the beginning of "op" as a request has them */
    Slice schema_json; /* the two names as they stand there, with quotes and escapes */
    Slice name_json;
    rowsync_policy policy;
    bool exists;              /* with a primary key */
    int refill;               /* of enum Refill */
    int stirs;                /* of enum Stirs, once it was asked for */
    bool own_conflict_clause; /* its constraints may say ON CONFLICT REPLACE or IGNORE */
    bool hidden_unique;       /* has a unique index that no probe can foresee */
    Column *columns;
    int column_count;
    int *keys; /* positions in columns, in key order */
    int key_count;
    sqlite3_stmt *statements[TABLE_STATEMENTS];
    /* The upsert for the columns that the last downloaded row had, and which those are. */
    sqlite3_stmt *upsert;
    sqlite3_stmt *update; /* where rows that are there need one: see upsert_misjudges() */
    bool updates;         /* it has columns to write besides the key */
    int *shape;           /* for each member of the payload its column, or -1 */
    Slice *shape_names;
    Buffer shape_text;
    int shape_count;
} Table;

/* A row's key as _sync_dirty and _sync_version have it: TEXT, INTEGER or BLOB; REAL by mistake. */
typedef struct Key
{
    int type; /* SQLITE_TEXT, SQLITE_INTEGER, SQLITE_BLOB, SQLITE_FLOAT; 0 = none */
    int64_t integer;
    double real;
    Buffer bytes;
} Key;

/* Rows by their keys, in memory: whoever goes over them may roll back to a savepoint meanwhile,
 * which can end a query that is being read. */
typedef struct RowName
{
    Table *table;
    Key key;
} RowName;

typedef struct RowList
{
    RowName *rows;
    int count;
    int capacity;
} RowList;

/* The library's own statements; the texts stand beside each other in statement.c. */
typedef enum Statement
{
    SQL_BEGIN,
    SQL_BEGIN_READING,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_SAVE,
    SQL_RELEASE,
    SQL_UNDO,
    SQL_APPLY_ON,
    SQL_APPLY_OFF,
    SQL_WATCH,
    SQL_WATCH_ON,
    SQL_UNWATCH,
    SQL_UNWATCHED,
    SQL_EFFECTS,
    SQL_TEMP_TRIGGERS,
    SQL_INFO,
    SQL_CURSOR,
    SQL_LAST_UPLOAD,
    SQL_EPOCH,
    SQL_TAKE_CHANGE_ID,
    SQL_LOG_ANY,
    SQL_LOG_NUMBER,
    SQL_LOG_CLEAR,
    SQL_COUNTS,
    SQL_ASIDE,
    SQL_VERSION_GET,
    SQL_VERSION_PUT,
    SQL_VERSION_MOVE,
    SQL_VERSION_DROP,
    SQL_EDITED,
    SQL_EDITS,
    SQL_SEEN_PUT,
    SQL_DIRTY_GET,
    SQL_DIRTY_QUEUE,
    SQL_DIRTY_CLEAR,
    SQL_DIRTY_DROP,
    SQL_DIRTY_REBASE,
    SQL_DIRTY_RENEW,
    SQL_DIRTY_PUT,
    SQL_FETCH_AGAIN,
    SQL_REFILL,
    SQL_REFILLED,
    SQL_HELD_PUT,
    SQL_HELD_GET,
    SQL_HELD_DECIDED,
    SQL_HELD_EDIT,
    SQL_HELD_RESEND,
    SQL_HELD_WHY,
    SQL_HELD_DROP,
    SQL_LOCAL_ANY,
    SQL_LOCAL_DROP,
    SQL_REJECTED_PUT,
    SQL_OVERWRITTEN_PUT,
    SQL_OVERWRITTEN_TRIM,
    SQL_REJECTED_WHOLE,
    SQL_REJECTED_SETTLE, /* by a change that was made after the refusal */
    SQL_REJECTED_DROP,
    SQL_STATEMENTS
} Statement;

struct rowsync
{
    sqlite3 *db;
    rowsync_options options;
    rowsync_transport transport;
    bool own_transport;
    volatile int cancelled;

    rowsync_code code;
    Buffer message;
    Buffer hint;

    char *token;
    /* A copy of the one row of _sync_client_info, refreshed at the start of each call. */
    char *url;
    char *user_id;
    char *source_id;
    int64_t cursor;
    int64_t window_until;
    int hydrated;  /* 0 not yet, 1 begun by the log, 2 done, 3 to be done again after a push */
    int64_t epoch; /* of the server's log when it was last read; 0: not yet told */
    char *epochs;  /* all of its epochs, as the snapshot told them; "": it did not */
    int64_t last_upload; /* where the server's log stood after what this file knows to have sent */
    bool forgetful;      /* the source has sent more than that: own changes are fetched too */
    bool restored;       /* the server was restored from a backup: its log is another one */
    int64_t new_epoch;   /* of that log; 0: the server knows nothing yet */
    bool cautious;       /* deletions are kept aside, see orphans_stuck() */
    bool temp_triggers;  /* the connection has some of its own, on whatever table */
    bool actions;        /* this transaction's rows changed others too: see capture_actions() */
    bool missed;         /* it took rows along that the server may have: see conflict_taken() */
    int64_t bytes;       /* of bodies that went either way, in this call */
    int64_t renewed;     /* edits put on top of another version, in this call */
    int64_t overwritten; /* local edits that lost a conflict, in this call */

    Table *tables;
    int table_count;
    int64_t schema_cookie; /* PRAGMA schema_version when the tables were read */
    bool loaded;
    Buffer described; /* what they were then: see tables_settled() */
    bool moved;       /* they are no longer, which ended what was under way */

    sqlite3_stmt *statements[SQL_STATEMENTS];
    bool stuck;         /* in a transaction of ours that could not be rolled back */
    bool cache_lent;    /* a hydration has changed the size of the connection's cache */
    int64_t cache_size; /* what it is without */
    Buffer reason;      /* why the last row was refused: see row_put() */
    Buffer untracked;   /* of the last comparison */
    Buffer scratch;
};

/* error.c */
#define HINT_READ_ONLY "Open it for writing."
rowsync_code rs_fail(rowsync *client, rowsync_code code, const char *hint, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
rowsync_code rs_fail_sqlite(rowsync *client, const char *doing);
rowsync_code rs_nomem(rowsync *client);
void rs_log(rowsync *client, const char *format, ...) __attribute__((format(printf, 2, 3)));
rowsync_code rs_progress(rowsync *client, const char *phase, int64_t done, int64_t total);

/* statement.c */
rowsync_code rs_create(rowsync *client);
rowsync_code rs_prepare(rowsync *client, const char *sql, sqlite3_stmt **statement);
rowsync_code rs_exec(rowsync *client, const char *sql);
sqlite3_stmt *rs_statement(rowsync *client, Statement which);
sqlite3_stmt *rs_keyed(rowsync *client, Statement which, const Table *table, const Key *key);
rowsync_code rs_run(rowsync *client, Statement which);
rowsync_code rs_finish(rowsync *client, sqlite3_stmt *statement, const char *doing);
bool rs_row(rowsync *client, sqlite3_stmt *statement);
rowsync_code rs_reset(rowsync *client, sqlite3_stmt *statement);
const char *rs_text(sqlite3_stmt *statement, int column);

/* database.c */
rowsync_code rs_enter(rowsync *client, bool writes);
rowsync_code rs_start(rowsync *client, Statement begin);
rowsync_code rs_stop(rowsync *client, rowsync_code code);
rowsync_code rs_begin(rowsync *client);
rowsync_code rs_end(rowsync *client, rowsync_code code);
rowsync_code rs_give_up(rowsync *client);
void rs_cache_back(rowsync *client);
void rs_idle(rowsync *client);
rowsync_code rs_attached(rowsync *client);
rowsync_code rs_load_info(rowsync *client);

/* How many rows wait, and for what. */
typedef struct Counts
{
    int64_t pending;
    int64_t conflicts;
    int64_t rejected;
    int64_t held; /* something local is in the way */
} Counts;
rowsync_code rs_counts(rowsync *client, Counts *counts);

/* tables.c */
rowsync_code tables_describe(rowsync *client, Buffer *out);
rowsync_code tables_load(rowsync *client);
void tables_free(rowsync *client);
Table *table_by_name(rowsync *client, Slice schema, Slice name);
Table *table_by_id(rowsync *client, int64_t id);
Table *table_here(rowsync *client, const char *name);
rowsync_code tables_refill(rowsync *client); /* inside a transaction, as the next two */
rowsync_code table_fetch_again(rowsync *client, const Table *table);
rowsync_code table_made_anew(rowsync *client, const Table *table);
rowsync_code tables_check(rowsync *client);
sqlite3_stmt *table_statement(rowsync *client, Table *table, TableStatement which);

/* fields.c */
void sql_field(Buffer *sql, const char *alias, const char *column);
void sql_key(Buffer *sql, const Table *table, const char *alias);
void sql_row_is(Buffer *sql, const Table *table, const char *alias, int first);
void sql_match(Buffer *sql, const Table *table, const char *key);
void sql_literals(Buffer *sql, const char *layout);
void sql_blob_text(Buffer *sql, const char *hex, bool uuid);
void sql_json_value(Buffer *sql, const Column *column);

/* triggers.c */
rowsync_code tables_refresh(rowsync *client);
rowsync_code tables_settled(rowsync *client);   /* inside a transaction */
rowsync_code triggers_install(rowsync *client); /* inside a transaction, as the next two */
rowsync_code triggers_drop(rowsync *client, const Table *table);

/* layout.c */
rowsync_code layout_follow(rowsync *client, Table *table);

/* capture.c */
rowsync_code capture_fold(rowsync *client); /* inside a transaction */
rowsync_code capture_snapshot(rowsync *client);
rowsync_code capture_actions(rowsync *client); /* inside a transaction */

/* view.c */
#define LOG_COUNTS "holds IN (1, 3) OR changed <> 0"
extern const char view_edited[];
void view_write(const rowsync *client, Buffer *sql);

/* values.c */
void key_free(Key *key);
void rows_free(RowList *list);
rowsync_code rows_read(rowsync *client, sqlite3_stmt *statement, RowList *out);
rowsync_code key_column(rowsync *client, sqlite3_stmt *statement, int column, Key *key);
int key_bind(sqlite3_stmt *statement, int at, const Key *key);
int key_bind_columns(const Table *table, sqlite3_stmt *statement, int at, const Key *key);
bool key_from_wire(const Table *table, Slice pk, Key *key);
bool key_from_text(const Table *table, const char *text, Key *key);
bool key_to_wire(Buffer *out, const Table *table, const Key *key);
void key_to_text(Buffer *out, const Table *table, const Key *key);
bool value_write(Buffer *out, const Column *column, sqlite3_stmt *row, int at);
bool literal_write(Buffer *out, const Column *column, Slice literal);
int value_bind(sqlite3_stmt *statement, int at, const Column *column, Slice value, Buffer *scratch);

/* pending.c */
typedef enum Operation
{
    OP_INSERT,
    OP_UPDATE,
    OP_DELETE,
    OP_NOTHING /* a mark that came to nothing */
} Operation;

typedef struct Change
{
    Table *table;
    Key key;
    int64_t change_id;
    int64_t queued; /* its place in the queue */
    int64_t base_version;
    int64_t changed;
    Operation op;
    size_t payload_at; /* where its payload stands in the request */
    size_t payload_length;
    bool restated; /* the payload has values that are stored otherwise everywhere else */
} Change;

/* One request in the making; its memory is used again from batch to batch. */
typedef struct Batch
{
    Change *changes;
    int count;
    int capacity;
    Buffer body;
} Batch;

/* The next pending changes in edit order, read in runs, so that no index has to be kept. */
typedef struct Queue
{
    Change *changes;
    int count;
    int next;
    int capacity;
    int64_t after; /* everything up to this change id was handed out */
    int64_t until; /* the last change id of this push */
    int64_t total; /* rows that were pending when it began */
    bool done;
} Queue;

void batch_free(Batch *batch);
void queue_free(Queue *queue);
rowsync_code pending_spare(rowsync *client, const Table *table);
rowsync_code take_change_id(rowsync *client, int64_t *id);
rowsync_code queue_start(rowsync *client, Queue *queue);
rowsync_code batch_fill(rowsync *client, Queue *queue, Batch *batch, int limit, int64_t *rejected);
rowsync_code change_payload(rowsync *client, Change *change, Buffer *out, bool whole,
                            const char **problem);
sqlite3_value *row_field(sqlite3_stmt *row, int column);
bool row_payload(rowsync *client, Table *table, const Key *key, Buffer *out, bool *there);
rowsync_code pending_note(rowsync *client, const Change *change, Slice payload, const char *reason,
                          Slice message, Slice details, bool *noted);
rowsync_code pending_reject(rowsync *client, const Change *change, Slice payload,
                            const char *reason, Slice message, Slice details, bool *moved);
const char *operation_name(Operation op);

/* rows.c */
typedef struct RowState /* what the server says of a row */
{
    int64_t version;
    bool deleted;
    Slice payload; /* JSON object; none when deleted */
} RowState;

rowsync_code row_put(rowsync *client, Table *table, const Key *key, const RowState *state,
                     bool *refused);
rowsync_code row_take(rowsync *client, Table *table, const Key *key, const RowState *state,
                      bool *refused);
bool row_there(rowsync *client, Table *table, const Key *key);
rowsync_code row_outcome(rowsync *client, const Table *table, int result);

/* Why a row is not stored where SQLite has no words for it, or none that help. */
#define REASON_ORPHAN "FOREIGN KEY constraint failed: a row that it refers to is not here"
#define REASON_REFERRED "FOREIGN KEY constraint failed: a row that stays here refers to it"
void row_refuse(rowsync *client, const char *reason);
rowsync_code row_version(rowsync *client, const Table *table, const Key *key, int64_t *version,
                         bool *deleted);
rowsync_code row_set_version(rowsync *client, const Table *table, const Key *key, int64_t version,
                             bool deleted);
rowsync_code row_move_version(rowsync *client, const Table *table, const Key *key, int64_t version,
                              bool deleted);
rowsync_code row_drop(rowsync *client, Statement which, const Table *table, const Key *key);

/* effects.c */
typedef struct Outcome /* of a statement that puts a row of the server */
{
    int result;  /* SQLite's */
    int changes; /* rows that it changed itself */
    bool waits;  /* it has to wait for a decision of the app */
} Outcome;

bool effects_possible(rowsync *client, Table *table, bool deletes);
rowsync_code effects_step(rowsync *client, Table *table, const Key *key, sqlite3_stmt *statement,
                          bool deletes, bool may_wait, Outcome *out);

/* held.c */
typedef enum HeldState /* why it is, as _sync_held.state has it */
{
    HELD_EDITED = 0, /* edits of the row are pending */
    HELD_MANUAL = 1, /* the app is to decide */
    HELD_STUCK = 2   /* something local is in the way */
} HeldState;

rowsync_code held_put(rowsync *client, const Table *table, const Key *key, const RowState *theirs,
                      HeldState state);
bool held_get(rowsync *client, const Table *table, const Key *key, RowState *theirs,
              HeldState *state, Buffer *text);
rowsync_code held_follow(rowsync *client, const Change *change, const RowState *row, Slice sent,
                         bool *held);
rowsync_code held_decide(rowsync *client, const Table *table, const Key *key,
                         const RowState *theirs, bool refused);
rowsync_code held_apply(rowsync *client, Table *table, const Key *key, bool *applied);
rowsync_code held_retry(rowsync *client);

/* local.c */
rowsync_code local_keep(rowsync *client, const Table *table, const Key *key);
bool local_kept(rowsync *client, const Table *table, const Key *key);
rowsync_code local_return(rowsync *client, Table *table, const Key *key);

/* conflict.c */
rowsync_code conflict_settle(rowsync *client, const Change *change, const RowState *theirs,
                             Slice server_changed);
rowsync_code keep_overwritten(rowsync *client, const Change *change, const RowState *theirs,
                              Slice local_payload, int64_t mask);
rowsync_code take_unedited(rowsync *client, Table *table, const Key *key, const RowState *theirs);
rowsync_code queue_again(rowsync *client, const Table *table, const Key *key, int64_t base);
rowsync_code conflict_meet(rowsync *client, Table *table, const Key *key, const RowState *theirs);
rowsync_code conflict_waits(rowsync *client, Table *table, const Key *key, bool *waits);
rowsync_code conflict_taken(rowsync *client, Table *table, const Key *key);
rowsync_code conflict_lost(rowsync *client, Table *table, const Key *key, const RowState *theirs,
                           int64_t base);

/* rejected.c */
rowsync_code rejected_taken(rowsync *client, Table *table, const Key *key);

/* sides.c */
#define CLIENT_POINTER "rowsync" /* what sqlite3_bind_pointer() hands on a client as */
bool value_same(const Column *column, Slice mine, Slice theirs);
void payload_beside(const Table *table, Slice mine, Slice theirs, Buffer *out);
void payload_around(const Table *table, Slice theirs, Slice mine, int64_t mask, Buffer *out);

/* respell.c */
rowsync_code key_respell(rowsync *client, Table *table, Slice id, Key *key);

/* orphan.c */
bool rs_enforced(rowsync *client);
Table *table_referred(const rowsync *client, const char *name);
bool rs_orphans(rowsync *client);
bool orphans_stuck(rowsync *client);
rowsync_code orphans_fail(rowsync *client, const char *whose);
rowsync_code take_out_orphans(rowsync *client);

/* transport.c */
rowsync_code transport_curl(rowsync_transport *out);
long rs_pause(long retry_after, int tries);
rowsync_code rs_wait_again(rowsync *client, long retry_after, int tries);

/* Takes a piece of a 200 answer as it comes; returns non-zero to break off. */
typedef int (*StreamSink)(void *context, const char *data, size_t length);

typedef struct Exchange
{
    long status;
    Buffer body;       /* of a 200 only where there is no stream */
    int64_t *bytes;    /* where those that come are counted */
    StreamSink stream; /* NULL: collect the body */
    void *stream_context;
    bool begun;    /* the stream's taker has got something */
    bool refused;  /* the stream's taker broke off and has set the client's error */
    bool too_long; /* the body was, and is not there to its end */
    rowsync_response response;
} Exchange;
rowsync_code rs_request(rowsync *client, const char *method, const char *path, const Buffer *body,
                        int max_tries, Exchange *out);

/* What to do where the server's log ends before the place up to which it was read. */
#define HINT_RESTORED                                                                              \
    "Was the server restored from a backup? Run rowsync.declare_restored() there, then sync."

/* upload.c */
rowsync_code push_all(rowsync *client, const rowsync_sync_options *options, rowsync_report *report);

/* download.c */
rowsync_code take_row(rowsync *client, Table *table, const Key *key, const RowState *state,
                      rowsync_report *report);
rowsync_code has_edits(rowsync *client, const Table *table, const Key *key, bool *edited);
rowsync_code log_continues(rowsync *client, int64_t epoch, int64_t head);
rowsync_code note_epoch(rowsync *client, int64_t epoch, Slice epochs);
rowsync_code move_cursor(rowsync *client, int64_t cursor, int64_t window_until, int hydrated);
rowsync_code note_last_upload(rowsync *client, int64_t last_upload);
rowsync_code hydrate_all(rowsync *client, const rowsync_sync_options *options,
                         rowsync_report *report);
rowsync_code pull_all(rowsync *client, const rowsync_sync_options *options, bool hydrate,
                      rowsync_report *report);

/* hydrate.c */
rowsync_code hydrate_snapshot(rowsync *client, const rowsync_sync_options *options, bool *absent,
                              rowsync_report *report);

#endif
