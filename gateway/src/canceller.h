/*
 * canceller.h: the thread that cancels statements.
 *
 * PQcancel opens a connection of its own and blocks for milliseconds, or as long as a dead network
 * likes: never on an event loop.
 */
#ifndef ROWSYNC_GATEWAY_CANCELLER_H
#define ROWSYNC_GATEWAY_CANCELLER_H

#include <h2o.h>
#include <libpq-fe.h>

/* One statement to cancel. Allocated by the loop that orders it and freed by the one that ordered.
 */
struct cancel_order
{
    h2o_multithread_message_t message; /* carries the order back */
    h2o_multithread_receiver_t *reply; /* who hears that PQcancel returned */
    PGcancel *cancel;                  /* freed by the canceller */
    struct cancel_order *next;
    void *subject; /* the orderer's own */
};

/* Starts the thread; once a process. */
void canceller_start(void);

/* Orders a cancellation. The order comes back to `reply` when PQcancel has returned. */
void canceller_submit(struct cancel_order *order);

/* Lets the thread finish what is ordered and ends it. */
void canceller_stop(void);

#endif
