/*
 * capture_buffer.h: the captured writes of a transaction, until they are flushed to the change log.
 */
#ifndef ROWSYNC_CAPTURE_BUFFER_H
#define ROWSYNC_CAPTURE_BUFFER_H

#include "postgres.h"

#include "rowkey.h"

/* One captured write of one row. */
typedef struct CaptureEvent
{
    int32 table_id;
    int32 scope_no; /* capture_scope_name() gives its name */
    CommandId command;
    char op; /* 'I', 'U', 'D' */
    RowKey key;
    struct varlena *payload; /* the row after an I or U, before a D */
} CaptureEvent;

int64 capture_end(void);
int64 capture_flushed(void);
bool capture_spilled(void);
bool capture_next(int64 *position, CaptureEvent *event);
void capture_append(const CaptureEvent *event);
void capture_mark_flushed(void);
void capture_cut(int64 end, int64 flushed);
void capture_close_file(void);
void capture_forget(void);
int32 capture_scope_no(const char *name);
const char *capture_scope_name(int32 scope_no);
int32 capture_scope_count(void);

/* Whether event shows a later state of a row than the one kept. */
static inline bool
capture_supersedes(CommandId command, char op, CommandId kept_command, char kept_op)
{
    /*
     * A trigger may write to a row before the trigger that captures the statement which fired it,
     * so the order of capture is not the order of writing: the command counter is. Within one
     * command a key that one row leaves and another takes is there afterwards.
     */
    return command > kept_command || (command == kept_command && (op != 'D' || kept_op == 'D'));
}

#endif
