/*
 * rowsync.h - keep an app's SQLite database in step with PostgreSQL, offline first.
 *
 * This header is the manual of librowsync; docs/client.md tells the story around it.
 *
 * The library works on the app's own connection. Triggers in plain SQL note which rows of the
 * tracked tables change, whoever changes them; rowsync_sync() sends those rows and fetches what
 * others changed. Nothing happens in the background: the library starts no thread and keeps no
 * transaction open between calls.
 *
 *     rowsync *sync;
 *     if (rowsync_open(db, NULL, &sync) != ROWSYNC_OK) ...           // rowsync_close() even so
 *     rowsync_init(sync);                                            // once a database
 *     rowsync_track(sync, "notes", NULL);                            // once a table
 *     rowsync_attach(sync, "https://sync.example.com", "ann", NULL); // once a sign-in
 *     rowsync_set_token(sync, token);
 *     rowsync_sync(sync, NULL, &report);                             // as often as you like
 *     rowsync_close(sync);
 *
 * Threads: one handle belongs to one thread at a time, as its sqlite3 connection does. Different
 * handles (on different connections, also to the same file) are independent. rowsync_cancel() may
 * be called from any thread while the handle is open.
 *
 * Transactions: functions that write begin and commit their own transaction and refuse to run
 * inside one of the app's (ROWSYNC_MISUSE). A crash at any point leaves the database as it was
 * before or after one of these transactions, and the next sync goes on from there.
 *
 * Errors: every function that can fail returns a code, ROWSYNC_OK being 0. After a failure
 * rowsync_message() says what happened and rowsync_hint() what to do about it; both stay valid
 * until the next call with the same handle.
 */
#ifndef ROWSYNC_H
#define ROWSYNC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C"
{
#endif

#define ROWSYNC_VERSION "0.1.0"

    struct sqlite3;

    /* A client for one database connection. */
    typedef struct rowsync rowsync;

    /* What a call came to. */
    typedef enum rowsync_code
    {
        ROWSYNC_OK = 0,
        ROWSYNC_NOMEM = 1,    /* out of memory; the database is as before the call */
        ROWSYNC_MISUSE = 2,   /* the call does not fit here: bad argument, inside a transaction */
        ROWSYNC_DATABASE = 3, /* SQLite refused, or may only read; see the message */
        ROWSYNC_BUSY = 4,     /* another connection holds the database; try again */
        ROWSYNC_UNINITIALIZED = 5, /* rowsync_init() was never run on this database */
        ROWSYNC_UNATTACHED = 6,    /* rowsync_attach() was never run, or was undone */
        ROWSYNC_SCHEMA = 7,        /* a table cannot be tracked, or no longer can be */
        ROWSYNC_NETWORK = 8,       /* the server was not reached, or the connection broke */
        ROWSYNC_UNAVAILABLE = 9,   /* the server is there but asks to come back later */
        ROWSYNC_AUTH = 10,         /* the token is missing, expired or not accepted */
        ROWSYNC_PROTOCOL = 11,     /* the server's answer is not of the rowsync protocol */
        ROWSYNC_REFUSED = 12,      /* by the server, as a whole; or by us: it has gone back */
        ROWSYNC_CANCELLED = 13,    /* rowsync_cancel() was called */
        ROWSYNC_PENDING = 14,      /* refused because local edits would be lost */
        ROWSYNC_DIFFERENT = 15,    /* rowsync_verify() or rowsync_compare() found something */
        ROWSYNC_PRUNED = 16        /* the server's history does not reach back far enough */
    } rowsync_code;

    /*
     * What happens when a row was changed here and on the server since they last agreed.
     * The server's side never arrives over a pending edit unseen: the upload of the edit is refused
     * as a conflict, and the policy of the row's table decides.
     */
    typedef enum rowsync_policy
    {
        ROWSYNC_KEEP_POLICY = -1, /* to rowsync_track() only: as it is, or the server wins */
        ROWSYNC_SERVER_WINS = 0,  /* the row becomes what the server has; what was written here
                                     is kept in _sync_overwritten */
        ROWSYNC_CLIENT_WINS = 1,  /* the columns edited are sent again, on top of the server's
                                     version;  the whole row where it is new or was deleted there */
        ROWSYNC_MERGE = 2, /* by column: columns that only one side changed are kept from that
                              side; where both changed the same column, the server wins */
        ROWSYNC_MANUAL = 3 /* both sides are kept in _sync_conflict until rowsync_resolve() */
    } rowsync_policy;

    /*
     * A conflict, as the conflict callback sees it. All strings belong to the library. Both
     * payloads are in the form of the wire (BLOBs in base64 or as uuids, booleans as true and
     * false, JSON as it is), and a value here that means what the server's does is written as the
     * server's, byte by byte: members that differ in their text differ. Members that only one side
     * has are columns that the other does not sync.
     */
    typedef struct rowsync_conflict
    {
        const char *table;
        const char *pk;             /* as on the wire: text, uuid, number, or JSON array */
        int64_t base_version;       /* version that the local edit was made on */
        int64_t server_version;     /* version that the server has */
        const char *local_payload;  /* JSON object of the row here; NULL when it is deleted here */
        const char *server_payload; /* JSON object of the server's row; NULL when it is deleted */
    } rowsync_conflict;

    /* What went on in a sync. Counts are of this call. */
    typedef struct rowsync_report
    {
        int64_t uploaded; /* changes that the server took */
        int64_t rounds;   /* upload requests answered */
        int64_t applied;  /* statuses by kind, resent changes counted each time */
        int64_t conflict;
        int64_t fk_missing;
        int64_t bad_payload;
        int64_t constraint;
        int64_t forbidden;
        int64_t unregistered_table;
        int64_t internal_error;
        int64_t other;
        int64_t downloaded;  /* changes of others that were applied here */
        int64_t pages;       /* download pages that held changes */
        int64_t pending;     /* rows that still wait for upload, after the call */
        int64_t conflicts;   /* rows that wait for rowsync_resolve(), after the call */
        int64_t rejected;    /* dead letters, after the call */
        int64_t head;        /* position in the server's log that this database has reached */
        int64_t overwritten; /* edits made here that lost a conflict: ROWSYNC_LIST_OVERWRITTEN */
        int64_t held;        /* rows of the server that cannot be stored here, after the call */
    } rowsync_report;

    /* How a sync is done. NULL stands for all zero. */
    typedef struct rowsync_sync_options
    {
        int batch_size; /* changes a request; 0: start with 200 and adapt */
        int page_size;  /* changes a download page; 0: 1000 */
        int max_tries;  /* of one request before giving up; 0: 5 */
    } rowsync_sync_options;

    /* The state of a database. Strings belong to the library, valid until the next call. */
    typedef struct rowsync_state
    {
        const char *url; /* NULL when not attached, as the next two */
        const char *user_id;
        const char *source_id;
        int64_t pending;
        int64_t conflicts;
        int64_t rejected;
        int64_t head; /* position in the server's log */
        int hydrated; /* 1 once all of the user's rows have arrived */
        int tables;   /* number of tracked tables */
        int64_t held; /* rows of the server that cannot be stored here: ROWSYNC_LIST_HELD */
        int gone;     /* tracked tables that are not there, or without a key: no sync works */
    } rowsync_state;

    /* What a comparison with the server came to. */
    typedef struct rowsync_comparison
    {
        int64_t at; /* the place in the server's log that both were looked at */
        int64_t rows_here;
        int64_t rows_there;
        char digest_here[33]; /* see docs/protocol.md; equal digests, equal rows and versions */
        char digest_there[33];
        int64_t held;          /* of the rows here, those that are not in their tables */
        const char *untracked; /* where the digests differ, a JSON array of the tables that the
                                  server syncs and that are not tracked here, "schema.table" each,
                                  to the next call; else, or where it did not say, "[]" */
    } rowsync_comparison;

    /* One request, as a transport gets it. All memory belongs to the library. */
    typedef struct rowsync_request
    {
        const char *method;
        const char *url;
        const char *const *headers; /* "Name: value", ended by NULL */
        const void *body;           /* NULL for a GET */
        size_t body_length;
        size_t max_response; /* the sink refuses what is longer; a transport may do so before */
    } rowsync_request;

    /* Takes a piece of the answer's body; returns 0, or non-zero to break off. */
    typedef int (*rowsync_sink)(void *sink, const void *data, size_t length);

    /* What a transport tells of an answer besides its body. */
    typedef struct rowsync_response
    {
        long status;       /* HTTP status */
        long retry_after;  /* seconds that a Retry-After header asks for, or -1 */
        char message[256]; /* where the request failed: why, for people */
    } rowsync_response;

    /*
     * How requests travel. The library brings one over libcurl; an app may bring its own, and must
     * where the library was built without (ROWSYNC_MISUSE).
     * perform() blocks until the answer is complete. It sets response->status before it hands the
     * body to `sink` in pieces, and returns ROWSYNC_OK with any status, ROWSYNC_NETWORK,
     * ROWSYNC_CANCELLED or ROWSYNC_NOMEM. It must ask rowsync_cancelled(cancelled) now and then,
     * must not follow redirects to another host, and must decode any content coding that it asked
     * for.
     */
    typedef struct rowsync_transport
    {
        void *context;
        rowsync_code (*perform)(void *context, const rowsync_request *request, rowsync_sink sink,
                                void *sink_context, rowsync_response *response,
                                const volatile int *cancelled);
        void (*close)(void *context); /* called by rowsync_close(); may be NULL */
    } rowsync_transport;

    /*
     * The token callback writes a fresh token into `token`, which has room for `size` bytes
     * (16384), the ending zero included; returns 0, or non-zero when it has none or it is longer:
     * then the call fails with ROWSYNC_AUTH.
     */
    typedef int (*rowsync_token_callback)(void *context, char *token, size_t size);

    /*
     * Decides a conflict: returns one of ROWSYNC_SERVER_WINS, ROWSYNC_CLIENT_WINS, ROWSYNC_MERGE,
     * ROWSYNC_MANUAL. It is called inside the library's transaction and must not use the
     * connection.
     */
    typedef rowsync_policy (*rowsync_conflict_callback)(void *context,
                                                        const rowsync_conflict *conflict);

    /*
     * Is told how far a call has come: in the phases "push" (changes taken by the server, of so
     * many that were pending), "pull" and "hydrate" (rows, every thousand of a snapshot), "index"
     * (the indexes of the tables filled are made), "waiting" (before a request is sent again).
     * `total` is 0 where it is unknown; `bytes` are those of all requests and answers of the call
     * so far, before compression. Returns non-zero to cancel. It must not use the connection.
     */
    typedef int (*rowsync_progress_callback)(void *context, const char *phase, int64_t done,
                                             int64_t total, int64_t bytes);

    /* Is told what may interest a developer. */
    typedef void (*rowsync_log_callback)(void *context, const char *message);

    /* The lists of rowsync_list(). */
    typedef enum rowsync_list_kind
    {
        ROWSYNC_LIST_PENDING = 0,    /* edits that wait for upload */
        ROWSYNC_LIST_CONFLICTS = 1,  /* rows that wait for rowsync_resolve() */
        ROWSYNC_LIST_REJECTED = 2,   /* dead letters: changes that the server refused */
        ROWSYNC_LIST_HELD = 3,       /* rows of the server that cannot be stored here */
        ROWSYNC_LIST_OVERWRITTEN = 4 /* edits that lost a conflict, the last thousand */
    } rowsync_list_kind;

    /*
     * Is given one row of a list: `count` names and as many values in UTF-8, NULL for SQL's NULL.
     * They belong to the library, for the time of the call. Returns non-zero to end the list.
     */
    typedef int (*rowsync_list_callback)(void *context, int count, const char *const *names,
                                         const char *const *values);

    /* What an app may bring along. Everything may be zero; NULL instead of the struct likewise. */
    typedef struct rowsync_options
    {
        const rowsync_transport *transport; /* copied; NULL: libcurl */
        void *context;                      /* handed to the callbacks */
        rowsync_token_callback token;       /* asked when there is no token, or after a 401 */
        rowsync_conflict_callback conflict; /* overrides the tables' policies */
        rowsync_progress_callback progress;
        rowsync_log_callback log;
    } rowsync_options;

    /* How a table is tracked. */
    typedef struct rowsync_track_options
    {
        const char *schema;               /* the server's schema; NULL: as it is, or "public" */
        rowsync_policy policy;            /* for conflicts */
        const char *const *local_columns; /* all columns that stay on the device, none of the key,
                                           * ended by NULL; NULL: as they are */
    } rowsync_track_options;

    /* Memory functions of the whole process; to be set before the first rowsync_open(). */
    typedef struct rowsync_allocator
    {
        void *(*reallocate)(void *pointer, size_t size); /* as realloc(), also for new memory */
        void (*release)(void *pointer);                  /* as free() */
    } rowsync_allocator;

    /* NULL goes back to realloc() and free(). */
    void rowsync_set_allocator(const rowsync_allocator *allocator);

    /*
     * Makes a client for `db`, which stays the app's and must outlive the client. Reads nothing but
     * the library's own tables, writes only when triggers are out of date. *out is set even when
     * the call fails (except for NOMEM, which makes it NULL), so that rowsync_message() can be
     * asked.
     */
    rowsync_code rowsync_open(struct sqlite3 *db, const rowsync_options *options, rowsync **out);

    /* Frees the client, never the connection. NULL is fine. */
    void rowsync_close(rowsync *client);

    /* The failure of the last call: its code, what happened, what to do. Never NULL. */
    rowsync_code rowsync_error(const rowsync *client);
    const char *rowsync_message(const rowsync *client);
    const char *rowsync_hint(const rowsync *client);

    /* A code's name, such as "busy"; never NULL. */
    const char *rowsync_code_name(rowsync_code code);

    /* Creates the library's tables, all named _sync_*; does nothing when they are there. */
    rowsync_code rowsync_init(rowsync *client);

    /*
     * Captures every change to a table from now on, and marks the rows that it already has as to be
     * uploaded. The table has the name, the key and the columns of a table on the server. Its key
     * must be declared and of a type that compares exactly: TEXT, INTEGER, BLOB (a uuid's 16
     * bytes). Tracking a tracked table again changes the options that are given, and leaves
     * what is pending; another schema makes the next sync fetch the rows of that table.
     */
    rowsync_code rowsync_track(rowsync *client, const char *table,
                               const rowsync_track_options *options);

    /*
     * Forgets a table: its triggers, versions and what is pending. Its rows stay. Refuses with
     * ROWSYNC_PENDING while edits of it are pending, in conflict or refused, unless `force`.
     */
    rowsync_code rowsync_untrack(rowsync *client, const char *table, int force);

    /*
     * Says where to sync, for whom and as which source (installation). `source_id` NULL keeps the
     * one that the database has, or makes a random one. Another user than before is refused until
     * rowsync_detach(); edits made before the first attach belong to the first user. Another URL is
     * taken for another door to the same server: to one that has other data, the next sync sends
     * all rows that are here, as to a server that was restored from a backup. Detach first where
     * that is not meant.
     */
    rowsync_code rowsync_attach(rowsync *client, const char *url, const char *user_id,
                                const char *source_id);

    /*
     * Signs the user off: deletes the rows of all tracked tables, their versions and the position
     * in the server's log, and forgets the token. Tables stay tracked, the source id stays the
     * database's, for whoever is attached next. Refuses with ROWSYNC_PENDING while edits are
     * pending, in conflict or refused, unless `force`, and with ROWSYNC_DATABASE while rows of a
     * table that is not tracked refer to the user's; then nothing has changed.
     */
    rowsync_code rowsync_detach(rowsync *client, int force);

    /* The bearer token of the requests from now on; copied. NULL: ask the callback. */
    rowsync_code rowsync_set_token(rowsync *client, const char *token);

    /*
     * Sync: hydrate where that was never done, push, pull. Each can be had alone; push and pull too
     * hydrate first where that was never done. `options` and `report` may be NULL; the report is
     * filled as far as things came, also after a failure.
     */
    rowsync_code rowsync_sync(rowsync *client, const rowsync_sync_options *options,
                              rowsync_report *report);
    rowsync_code rowsync_push(rowsync *client, const rowsync_sync_options *options,
                              rowsync_report *report);
    rowsync_code rowsync_pull(rowsync *client, const rowsync_sync_options *options,
                              rowsync_report *report);

    /*
     * Fetches all rows of the user from a snapshot of the server, in one transaction that begins
     * with the first row: the app sees all of them or none. A snapshot that breaks off, or whose
     * rows do not have the digest that the server gave it, is asked for again, and leaves nothing
     * if that does not help. Rows that are up to date are left alone, pending edits too; rows that
     * the server does not have any more go. Memory does not grow with the number of rows: about 100
     * MB, most of it the page cache that SQLite gets for the time.
     *
     * A gateway without snapshots is read page by page, and what was broken off goes on later.
     */
    rowsync_code rowsync_hydrate(rowsync *client, const rowsync_sync_options *options,
                                 rowsync_report *report);

    /* How the database stands. */
    rowsync_code rowsync_get_state(rowsync *client, rowsync_state *state);

    /*
     * Hands each row of a list to `callback`, in autocommit mode or in the app's transaction. The
     * callback may read by the connection, and must not write or call the library. The columns of a
     * list, each a text or NULL:
     *
     * PENDING: op, table_name, pk, base_version, payload.
     * CONFLICTS: table_name, pk, base_version, op, local_payload, server_version, server_deleted,
     *   server_payload. A payload is NULL on the side that deleted the row; both are written as in
     *   rowsync_conflict.
     * REJECTED: table_name, pk, op, reason, message, details, payload, rejected_at.
     * HELD: table_name, pk, reason, server_version, server_deleted, server_payload.
     * OVERWRITTEN: table_name, pk, op, base_version, server_version (the one that won), payload
     *   (the row as it was here, NULL where it was deleted), overwritten_at.
     *
     * op is INSERT, UPDATE or DELETE. `pk` is what rowsync_resolve(), rowsync_requeue() and
     * rowsync_discard() take. Payloads are JSON objects in the form of the wire. server_deleted is
     * 0 or 1, a time is in UTC (2026-01-31T09:30:00.000Z), and base_version 0 that of a row which
     * the server has not told of.
     *
     * The reason of a REJECTED change, and what its details have, a JSON object or NULL. error is
     * the message again, sqlstate PostgreSQL's code where it was PostgreSQL that refused:
     *
     *   fk_missing          a row that it refers to is not on the server yet. Still pending, sent
     *                       again with every push. missing: an array of "schema.table:pk"; empty,
     *                       with constraint, where a default or trigger made the reference
     *   internal_error      a fault of the server. Still pending, as above. error, sqlstate
     *   bad_payload         a value that the server cannot take, or a column that it does not have:
     *                       error, and column where one is to blame; no details where the library
     *                       refused it itself (text that is no UTF-8, a change too large to send)
     *   constraint          a constraint of the server's table stands against it: error, sqlstate,
     *                       and constraint (its name) where it has one
     *   forbidden           the user must not write this row, or the key is taken: error
     *   unregistered_table  the server syncs no such table: error
     *   parent_deleted      the server has deleted the row that it refers to; it was taken out of
     *                       its table, and its content is in payload. No details
     *
     * A server newer than this library may give others, which are dead letters too.
     *
     * The reason of a HELD row is SQLite's words for the constraint that stands against it, such as
     * "UNIQUE constraint failed: users.email", or what the app's trigger says by RAISE(); or one
     * of:
     *
     *   FOREIGN KEY constraint failed: a row that it refers to is not here
     *   FOREIGN KEY constraint failed: a row that stays here refers to it
     *   a trigger or an ON CONFLICT IGNORE of the table passed it over
     *   an edit of a row that would go along waits for a decision
     *   a row that the server deleted took it along
     *   a trigger deleted it when a row of the server came
     *
     * or NULL, in a database that an earlier version has left, until it is tried again.
     */
    rowsync_code rowsync_list(rowsync *client, rowsync_list_kind which,
                              rowsync_list_callback callback, void *context);

    /*
     * Settles a conflict of a table whose policy is ROWSYNC_MANUAL: by ROWSYNC_SERVER_WINS,
     * ROWSYNC_CLIENT_WINS or ROWSYNC_MERGE. `pk` as rowsync_list() has it. A deletion of the server
     * that cannot be done here yet, because rows that are not synced refer to the row, is done by
     * the pull that finds them gone.
     */
    rowsync_code rowsync_resolve(rowsync *client, const char *table, const char *pk,
                                 rowsync_policy how);

    /*
     * Sends a dead letter again with the next push; `table` and `pk` NULL: all of them. A row that
     * went along with one that the server deleted is made again; where that cannot be, because what
     * it refers to is missing, the call fails if it named that row, and else leaves it refused.
     */
    rowsync_code rowsync_requeue(rowsync *client, const char *table, const char *pk);

    /*
     * Gives a dead letter up, and what was edited in the row since. NULL as above. A row that the
     * server does not have goes at once; one that was deleted comes back as it was, but for its
     * local columns. One that was changed stays as it is until the next sync, which fetches the
     * table's rows by a snapshot, unless what the server has is here already (ROWSYNC_LIST_HELD).
     * What is edited until then is an edit like any other: only its columns are sent. Fails with
     * ROWSYNC_DATABASE, and leaves all as it was, where a row must go that rows of a table which is
     * not tracked refer to.
     */
    rowsync_code rowsync_discard(rowsync *client, const char *table, const char *pk);

    /*
     * Looks for changes that no trigger can see (a row replaced through its rowid, a table that
     * lost its triggers), and queues them where `repair`: rows that came
     * or went. An UPDATE that no trigger saw leaves no trace. *found is their number. Returns
     * ROWSYNC_DIFFERENT when there are some and they were not repaired.
     */
    rowsync_code rowsync_verify(rowsync *client, int repair, int64_t *found);

    /*
     * Pulls, and proves that this database then knows every row that the server has for the user,
     * in the server's version, and no other: both digest them at the same place of the log. Edits
     * that are pending are not part of it, nor what triggers of the app made of rows as they
     * arrived. ROWSYNC_DIFFERENT where the digests differ, and where they are the same but rows of
     * the server are held, for the tables here cannot take them. All tables that the server syncs
     * must be tracked here, for the digest of the server is that of all; untracked and the
     * message name those that are not. `out` (may be NULL) has both sides, also when they differ.
     */
    rowsync_code rowsync_compare(rowsync *client, const rowsync_sync_options *options,
                                 rowsync_comparison *out);

    /*
     * Breaks off the call that runs on this handle, from any thread: a request at once, the taking
     * in of rows within a page or a thousand rows, a pause between two tries. The call returns
     * ROWSYNC_CANCELLED, with everything taken in so far or, of a hydration, nothing. Without a
     * call under way it does nothing.
     */
    void rowsync_cancel(rowsync *client);

    /* For transports: was the call broken off? `cancelled` is what perform() got. */
    int rowsync_cancelled(const volatile int *cancelled);

#ifdef __cplusplus
}
#endif

#endif
