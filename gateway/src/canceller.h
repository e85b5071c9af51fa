/*
 * canceller.h: cancelling the statements of a pool, off its event loop.
 *
 * PQcancel opens a connection of its own and blocks for milliseconds, or for as long as a server
 * that hangs likes. So each has a thread of its own, for which nobody waits: one that hangs holds
 * up neither other cancellations nor the end of the process.
 */
#ifndef ROWSYNC_GATEWAY_CANCELLER_H
#define ROWSYNC_GATEWAY_CANCELLER_H

#include <h2o.h>
#include <libpq-fe.h>

struct canceller;

/* One statement to cancel. */
struct cancel_order
{
    h2o_multithread_message_t message; /* carries the order back */
    void *subject;                     /* the orderer's own */
    struct canceller *canceller;
    PGcancel *cancel; /* freed by the thread */
};

/* Creates the canceller of a pool, which runs at most so many threads. `reply` hears of their ends.
 */
struct canceller *canceller_create(h2o_multithread_receiver_t *reply, size_t most);

/*
 * Orders a cancellation of what runs on a connection. The order comes back to `reply`, which frees
 * it, when PQcancel has returned. NULL: there is no thread, or no memory, for one more.
 */
struct cancel_order *canceller_submit(struct canceller *canceller, PGconn *pg, void *subject);

/* Frees the canceller. Returns how many orders are under way, which will not come back now. */
size_t canceller_close(struct canceller *canceller);

#endif
