/*
 * watch.h: server-sent events that tell when a scope's head moves.
 */
#ifndef ROWSYNC_GATEWAY_WATCH_H
#define ROWSYNC_GATEWAY_WATCH_H

#include "request.h"

/* All event streams of one loop, and the poller that feeds them. */
struct watch;

/* `pool` is for the poller alone: its question must not wait behind others. */
struct watch *watch_create(struct loop *loop, struct pg_pool *pool);

/* Tells every stream to connect again elsewhere, and ends it. */
void watch_drain(struct watch *watch);

/* Streams open now. */
size_t watch_count(const struct watch *watch);

/* After the loop's connections and its pool are closed. */
void watch_free(struct watch *watch);

#endif
