/*
 * capture.h: every write to a registered table, whoever makes it, on its way to the change log.
 */
#ifndef ROWSYNC_CAPTURE_H
#define ROWSYNC_CAPTURE_H

#include "postgres.h"

#include "changelog.h"
#include "registry.h"

/* One captured write of one row. Points into the buffer: valid until the buffer next changes. */
typedef struct CaptureEvent
{
    int32 table_id;
    int32 scope_no; /* capture_scope_name() gives its name */
    CommandId command;
    char op; /* 'I', 'U', 'D' */
    RowKey key;
    struct varlena *payload; /* the row after an I or U, before a D */
} CaptureEvent;

/*
 * An upload looks on while its own statements are captured, because only there the row as stored
 * stands beside the values that were sent. old or new is NULL where there is none.
 */
typedef void (*CaptureObserver)(void *arg, SyncedTable *table, RowKey key, TupleTableSlot *old,
                                TupleTableSlot *new);

void capture_init(void);
void capture_set_observer(CaptureObserver observer, void *arg);
void capture_existing(SyncedTable *table, TupleTableSlot *row);
void capture_flush(void);
Size capture_position(void);
bool capture_next(Size *position, CaptureEvent *event);
void capture_mark_flushed(void);
void capture_append(const CaptureEvent *event);
const char *capture_scope_name(int32 scope_no);

/* Whether event shows a later state of a row than the one kept. */
static inline bool
capture_supersedes(const CaptureEvent *event, const CaptureEvent *kept)
{
    /*
     * A trigger may write to a row before the trigger that captures the statement which fired it,
     * so the order of capture is not the order of writing: the command counter is. Within one
     * command a key that one row leaves and another takes is there afterwards.
     */
    return event->command > kept->command ||
           (event->command == kept->command && (event->op != 'D' || kept->op == 'D'));
}

#endif
