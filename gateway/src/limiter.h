/*
 * limiter.h: how many requests a user may send.
 */
#ifndef ROWSYNC_GATEWAY_LIMITER_H
#define ROWSYNC_GATEWAY_LIMITER_H

#include <stdbool.h>
#include <stdint.h>

/* Token buckets of all users, shared by the loops. */
struct limiter;

/* `rate` requests a second with bursts of `burst`. */
struct limiter *limiter_create(int64_t rate, int64_t burst);

/*
 * Takes one request of a user at time `now` (µs of a steady clock). False: too many; *wait is then
 * after how many seconds, rounded up, the next one is taken.
 */
bool limiter_take(struct limiter *limiter, const char *user, uint64_t now, int *wait);

void limiter_free(struct limiter *limiter);

#endif
