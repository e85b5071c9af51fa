/*
 * canceller.c: the thread that cancels statements.
 */
#include "canceller.h"

#include <stdbool.h>

static struct
{
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct cancel_order *first;
    struct cancel_order **last;
    bool stopping;
} canceller = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

/* Takes orders one by one. A cancellation that fails needs no report: the statement runs on. */
static void *
run(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&canceller.lock);
    for (;;)
    {
        struct cancel_order *order = canceller.first;
        char reason[256];

        if (order == NULL)
        {
            if (canceller.stopping)
                break;
            pthread_cond_wait(&canceller.wake, &canceller.lock);
            continue;
        }
        canceller.first = order->next;
        if (canceller.first == NULL)
            canceller.last = &canceller.first;
        pthread_mutex_unlock(&canceller.lock);
        PQcancel(order->cancel, reason, sizeof(reason));
        PQfreeCancel(order->cancel);
        h2o_multithread_send_message(order->reply, &order->message);
        pthread_mutex_lock(&canceller.lock);
    }
    pthread_mutex_unlock(&canceller.lock);
    return NULL;
}

void
canceller_start(void)
{
    canceller.last = &canceller.first;
    h2o_multithread_create_thread(&canceller.thread, NULL, run, NULL);
}

void
canceller_submit(struct cancel_order *order)
{
    order->next = NULL;
    pthread_mutex_lock(&canceller.lock);
    *canceller.last = order;
    canceller.last = &order->next;
    pthread_cond_signal(&canceller.wake);
    pthread_mutex_unlock(&canceller.lock);
}

void
canceller_stop(void)
{
    pthread_mutex_lock(&canceller.lock);
    canceller.stopping = true;
    pthread_cond_signal(&canceller.wake);
    pthread_mutex_unlock(&canceller.lock);
    pthread_join(canceller.thread, NULL);
}
