/*
 * http2.h: HTTP/2 connections, and the limits that libh2o does not set them.
 */
#ifndef ROWSYNC_GATEWAY_HTTP2_H
#define ROWSYNC_GATEWAY_HTTP2_H

#include "connection.h"

struct http2;

/* Hands a connection whose TLS handshake has agreed on HTTP/2 to h2o, and keeps watch over it. */
void http2_begin(struct connection *connection);

/* May another request of this connection be handled? Not once it is about to be cut. */
bool http2_admits(const struct connection *connection);

/* A request of this connection has ended. While h2o is reading, that was not by being answered. */
void http2_ended(struct connection *connection);

/*
 * Has an HTTP/2 connection used up its time, for a body that comes slowly or an answer that is not
 * taken? `now` is the loop's clock. *bodies gets the bytes of bodies that it has in memory.
 */
bool http2_expired(struct connection *connection, uint64_t now, size_t *bodies);

/* The connection is closed. */
void http2_free(struct connection *connection);

#endif
