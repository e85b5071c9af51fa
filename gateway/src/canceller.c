/*
 * canceller.c: threads that cancel statements.
 */
#include "canceller.h"

#include <stdbool.h>
#include <stdlib.h>

/* Belongs to its pool, and when that has closed it, to the last of its threads. */
struct canceller
{
    pthread_mutex_t lock;
    h2o_multithread_receiver_t *reply; /* NULL once closed */
    size_t running;                    /* threads */
    size_t most;
};

struct canceller *
canceller_create(h2o_multithread_receiver_t *reply, size_t most)
{
    struct canceller *canceller = h2o_mem_alloc(sizeof(*canceller));

    *canceller = (struct canceller){.reply = reply, .most = most};
    pthread_mutex_init(&canceller->lock, NULL);
    return canceller;
}

static void
destroy(struct canceller *canceller)
{
    pthread_mutex_destroy(&canceller->lock);
    free(canceller);
}

/* One cancellation. If it fails, that needs no report: the statement runs on. */
static void *
run(void *subject)
{
    struct cancel_order *order = subject;
    struct canceller *canceller = order->canceller;
    char reason[256];
    bool closed;
    bool last;

    PQcancel(order->cancel, reason, sizeof(reason));
    PQfreeCancel(order->cancel);
    pthread_mutex_lock(&canceller->lock);
    closed = canceller->reply == NULL;
    last = --canceller->running == 0;
    if (!closed)
        h2o_multithread_send_message(canceller->reply, &order->message);
    pthread_mutex_unlock(&canceller->lock);
    if (!closed)
        return NULL;
    free(order);
    if (last)
        destroy(canceller);
    return NULL;
}

/* Takes one of the places for threads, if there is one. */
static bool
take_place(struct canceller *canceller)
{
    bool taken;

    pthread_mutex_lock(&canceller->lock);
    taken = canceller->running < canceller->most;
    canceller->running += taken;
    pthread_mutex_unlock(&canceller->lock);
    return taken;
}

/* Gives it back without a thread. */
static void
leave_place(struct canceller *canceller)
{
    pthread_mutex_lock(&canceller->lock);
    canceller->running--;
    pthread_mutex_unlock(&canceller->lock);
}

struct cancel_order *
canceller_submit(struct canceller *canceller, PGconn *pg, void *subject)
{
    struct cancel_order *order;
    pthread_t thread;

    if (!take_place(canceller))
        return NULL;
    order = h2o_mem_alloc(sizeof(*order));
    *order = (struct cancel_order){
        .subject = subject, .canceller = canceller, .cancel = PQgetCancel(pg)};
    if (order->cancel != NULL && pthread_create(&thread, NULL, run, order) == 0)
    {
        pthread_detach(thread);
        return order;
    }
    leave_place(canceller);
    PQfreeCancel(order->cancel);
    free(order);
    return NULL;
}

size_t
canceller_close(struct canceller *canceller)
{
    size_t running;

    pthread_mutex_lock(&canceller->lock);
    canceller->reply = NULL;
    running = canceller->running;
    pthread_mutex_unlock(&canceller->lock);
    if (running == 0)
        destroy(canceller);
    return running;
}
