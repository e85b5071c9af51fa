/*
 * metrics.h: what the process counts, and how Prometheus gets to see it.
 */
#ifndef ROWSYNC_GATEWAY_METRICS_H
#define ROWSYNC_GATEWAY_METRICS_H

#include "pg_pool.h"
#include "problem.h"

#include <stdatomic.h>

/* The most routes; the last place is for requests without one. */
#define METRICS_ROUTES 16

/* Statuses counted apart; any other one is counted as 0. */
#define METRICS_STATUSES 18

/* Upper bounds of the latency histogram's buckets stand in metrics.c; one more is without bound. */
#define METRICS_BUCKETS 13

enum metrics_pool
{
    METRICS_POOL_REQUESTS,
    METRICS_POOL_STREAMS,
    METRICS_POOL_WATCH,
    METRICS_POOL_REPLICA,
    METRICS_POOL_REPLICA_STREAMS,
    METRICS_POOLS
};

/* A pool's figures as its loop last published them. */
struct metrics_figures
{
    atomic_uint_least64_t size, connected, busy, queued, connects, failures, cancels;
};

/*
 * One loop's numbers. Only the loop writes them, any thread reads them: relaxed atomics, no lock.
 */
struct metrics
{
    atomic_uint_least64_t requests[METRICS_ROUTES][METRICS_STATUSES];
    atomic_uint_least64_t latency[METRICS_ROUTES][METRICS_BUCKETS];
    atomic_uint_least64_t latency_us[METRICS_ROUTES];
    atomic_uint_least64_t problems[PROBLEM_COUNT];
    atomic_uint_least64_t received;
    atomic_uint_least64_t sent;
    atomic_uint_least64_t accepted;
    atomic_uint_least64_t connections; /* now */
    atomic_uint_least64_t streams;     /* event streams now */
    struct metrics_figures pools[METRICS_POOLS];
};

/* Counts an answered request. `problem` is PROBLEM_COUNT where there was none. */
void metrics_request(struct metrics *metrics, size_t route, int status, enum problem_code problem,
                     uint64_t us, size_t received, size_t sent);

/* Adds to a counter, or sets a gauge. */
static inline void
metrics_add(atomic_uint_least64_t *counter, uint64_t more)
{
    atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

static inline void
metrics_set(atomic_uint_least64_t *gauge, uint64_t value)
{
    atomic_store_explicit(gauge, value, memory_order_relaxed);
}

/* Publishes a pool's figures. */
void metrics_pool(struct metrics *metrics, enum metrics_pool which,
                  const struct pg_pool_figures *figures);

/*
 * Writes the sum over `count` loops in Prometheus' text format (0.0.4). `routes` has the names of
 * METRICS_ROUTES routes, NULL where there is none.
 */
void metrics_write(struct metrics *const *loops, size_t count, const char *const *routes,
                   struct text *text);

#endif
