/*
 * subtransaction.c: work that may fail without taking the transaction with it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "lock_wait.h"
#include "subtransaction.h"

/* Whether an error is about the server or the session, not about a row. */
static bool
is_fatal(ErrorData *error)
{
    int category;

    if (lock_wait_gave_way(error))
        return false;
    category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
    return category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_SYSTEM_ERROR ||
           category == ERRCODE_INSUFFICIENT_RESOURCES;
}

/*
 * Runs work in a subtransaction that commits only if it returns true. An error inside is returned,
 * in the current context, unless it ends the request. work must not use the change log: its pins
 * and scans belong to the transaction outside.
 */
bool
in_subtransaction(bool (*work)(void *arg), void *arg, ErrorData **error)
{
    MemoryContext context = CurrentMemoryContext;
    ResourceOwner owner = CurrentResourceOwner;
    volatile bool done = false;

    *error = NULL;
    BeginInternalSubTransaction(NULL);
    MemoryContextSwitchTo(context);
    PG_TRY();
    {
        done = work(arg);
        if (done)
            ReleaseCurrentSubTransaction();
        else
            RollbackAndReleaseCurrentSubTransaction();
        MemoryContextSwitchTo(context);
        CurrentResourceOwner = owner;
    }
    PG_CATCH();
    {
        bool fatal;

        MemoryContextSwitchTo(context);
        *error = CopyErrorData();
        FlushErrorState();
        fatal = is_fatal(*error);
        RollbackAndReleaseCurrentSubTransaction();
        MemoryContextSwitchTo(context);
        CurrentResourceOwner = owner;
        if (fatal)
            ReThrowError(*error);
    }
    PG_END_TRY();
    return done;
}
