/*
 * lock_wait.c: how long the statements of an upload wait for what others have locked.
 *
 * lock_timeout would also end waits for a file that grows, which are over when its disk says so.
 * Most of them hold a page too, and with it interrupts: the timeout strikes when the lock has long
 * been got, or, once another wait has begun, as a cancel that nobody asked for. So a timer of our
 * own looks what is waited for, and cancels the statement as a user would, knowing that it did.
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "lock_wait.h"

static TimeoutId timer = MAX_TIMEOUTS; /* unless it is registered */
static int limit_ms;
static volatile sig_atomic_t gave_way = false; /* a cancel of ours is on its way */

/* Cancels a wait that has lasted too long. A signal handler: the wait may end this very moment. */
static void
look(void)
{
    LOCK *lock = MyProc->waitLock;
    TimestampTz start = pg_atomic_read_u64(&MyProc->waitStart);

    if (lock == NULL || start == 0 || lock->tag.locktag_type == LOCKTAG_RELATION_EXTEND ||
        lock->tag.locktag_type == LOCKTAG_PAGE ||
        !TimestampDifferenceExceeds(start, GetCurrentTimestamp(), limit_ms))
        return;
    /* Somebody else was first, and it is for him. */
    if (QueryCancelPending)
        return;
    gave_way = true;
    QueryCancelPending = true;
    InterruptPending = true;
    SetLatch(MyLatch);
}

/* From now on no wait for a lock lasts longer than between ms and twice that. */
void
lock_wait_limit(int ms)
{
    if (timer == MAX_TIMEOUTS)
        timer = RegisterTimeout(USER_TIMEOUT, look);
    gave_way = false;
    limit_ms = ms;
    enable_timeout_every(timer, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms), ms);
}

/* Lifts the limit, also after an error. A cancel of ours that came too late is taken back. */
void
lock_wait_unlimit(void)
{
    disable_timeout(timer, false);
    if (gave_way)
        QueryCancelPending = false;
    gave_way = false;
}

/* Whether an error is our own cancel: then it becomes what it stands for, a lock not available. */
bool
lock_wait_gave_way(ErrorData *error)
{
    if (!gave_way || error->sqlerrcode != ERRCODE_QUERY_CANCELED)
        return false;
    gave_way = false;
    error->sqlerrcode = ERRCODE_LOCK_NOT_AVAILABLE;
    return true;
}
