/*
 * upload.h: one change of an upload on its way through decision, writing and answer.
 */
#ifndef ROWSYNC_UPLOAD_H
#define ROWSYNC_UPLOAD_H

#include "postgres.h"

#include "apply.h"
#include "changelog.h"
#include "registry.h"
#include "request.h"
#include "utils/resowner.h"

/* What to do with the row. */
typedef enum ChangeAction
{
    ACTION_WRITE,   /* by change->apply */
    ACTION_LOG_ONLY /* the row is already so: only the log learns of the change */
} ChangeAction;

typedef enum ChangeStatus
{
    STATUS_OPEN, /* not decided, or decided and not yet written */
    STATUS_APPLIED,
    STATUS_CONFLICT,
    STATUS_INVALID
} ChangeStatus;

/* The reasons of STATUS_INVALID, in the order of refusal.c's names. */
typedef enum InvalidReason
{
    REASON_FK_MISSING,
    REASON_BAD_PAYLOAD,
    REASON_CONSTRAINT,
    REASON_FORBIDDEN,
    REASON_UNREGISTERED_TABLE,
    REASON_INTERNAL_ERROR,
    REASON_BATCH_TOO_LARGE
} InvalidReason;

/* A row that a change refers to. */
typedef struct Parent
{
    SyncedTable *table;
    RowKey key;
    Datum *values; /* of the key */
    bool direct;   /* see SyncedReference */
    RowState *row; /* NULL until its change is decided, and where the row stands in its table */
} Parent;

typedef struct Change
{
    RequestChange *request;
    SyncedTable *table;
    RowKey key;
    RowState *row;
    bool guessed;         /* decided as if the row were new */
    struct Change *first; /* an earlier change of the request with the same id and content */
    struct Change *later; /* the next change of the same row */
    ChangeAction action;
    ApplyRow apply;
    const JsonValue **given; /* by column index: the value that was sent, or NULL */
    bool rewritten;          /* what goes out may be otherwise than what came */
    const char *converting;  /* the column whose value is being read, or KEY_OF_CHANGE */
    int nparents;
    Parent *parents;
    int nwaits;
    struct Change **waits;       /* changes that give up a unique value that this one takes */
    bool circular;               /* it takes a value from a row that waits for it in turn */
    bool in_order;               /* waits is known: rows are written in the order of their units */
    char log_op;                 /* what the log will call it */
    struct varlena *log_payload; /* the row as stored */
    bool wrong_in_itself;        /* refused whatever becomes of the rest */
    bool tried_as_orphan;        /* written in vain before its parents were looked for */
    int attempt;                 /* the last one that it was part of */
    bool written;                /* the last attempt wrote the row */
    bool moved;                  /* the last attempt wrote it, but into another scope */
    bool differs;                /* the row as stored differs from what was sent */
    bool strays;                 /* and refers to another row than what was sent */
    int unit;                    /* changes of one unit are written together or not at all */
    /* the answer */
    ChangeStatus status;
    int64 version;
    InvalidReason reason;
    const char *message;
    char sqlstate[6]; /* "" = none */
    const char *constraint;
    const char *column;
    char *missing;          /* JSON array */
    bool tells_row;         /* an applied change is answered with the row */
    const char *server_row; /* JSON object, or NULL */
    int server_row_len;
    int64 server_version;
    bool server_deleted;
    char *server_changed; /* JSON array */
} Change;

typedef struct Upload
{
    const char *user_id;
    const char *source_id;
    Request request;
    Scope scope;
    Source source;
    ChangeLog *log;
    Change *changes;
    int nchanges;
    bool guesses;          /* rows that look new are taken for new until row_meta says otherwise */
    List *foreign;         /* CaptureEvents of other scopes */
    List *unchecked;       /* UncheckedParents of the current attempt */
    MemoryContext context; /* of the whole upload */
    ResourceOwner owner;   /* of the change log */
    int attempts;          /* so many so far */
    int dissolved;         /* changes that were taken out of their units */
    bool waited_in_vain;   /* for a row that another transaction has locked */
    bool accepted;
} Upload;

/* Changes that are written together or not at all. */
typedef struct Attempt
{
    Upload *upload;
    Change **changes;
    int count;
    bool holds; /* looks for direct parents when the rows are written, not before */
    bool probe; /* write, but leave deferred constraints unchecked and roll back */
} Attempt;

/* refusal.c */
#define KEY_OF_CHANGE "pk" /* stands for a column where the key of a change is at fault */
void change_refuse(Change *change, InvalidReason reason, const char *message, const char *column);
void change_refuse_value(Change *change, const char *column, const JsonValue *value,
                         const char *expected);
void change_refuse_error(Change *change, ErrorData *error);
const char *refusal_reason(InvalidReason reason);
void upload_note_refusals(Upload *upload);
/* resolve.c */
void upload_resolve(Upload *upload);
/* decide.c */
void change_decide(Upload *upload, Change *change);
uint32 change_content_crc(const Change *change);
void change_answer_again(Upload *upload, Change *change, const KnownChange *known);
void change_answer_pruned(Upload *upload, Change *change);
/* parent.c */
bool change_add_parent(Change *change, const SyncedReference *reference, SyncedTable *parent,
                       const JsonValue *const *parts);
bool parent_can_wait(const Parent *parent);
bool parent_stands(Upload *upload, const Parent *parent);
void upload_find_parents(Upload *upload, Change **changes, int count, bool all);
List *upload_direct_references(Change **changes, int count);
bool upload_hold_parents(Upload *upload, Change **changes, int count);
bool parent_is_there(Upload *upload, Parent *parent);
bool change_parents_there(Upload *upload, Change *change);
/* handover.c */
bool upload_find_handovers(Upload *upload, Change **changes, int count);
/* attempt.c */
int change_compare_tables(const void *a, const void *b);
void upload_set_constraints(bool deferred);
bool upload_try(Attempt *work, ErrorData **error);
bool upload_attempt(Attempt *work, ErrorData **error);
void upload_log_change(Upload *upload, Change *change);
/* write.c */
void upload_write_wave(Upload *upload, Change **changes, int count);
/* upload.c */
bool upload_settle_guesses(Upload *upload, Change **changes, int *count);
/* answer.c */
void upload_append_answer(StringInfo out, Upload *upload);

#endif
