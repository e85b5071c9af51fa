/*
 * http2.h: HTTP/2 connections.
 */
#ifndef ROWSYNC_GATEWAY_HTTP2_H
#define ROWSYNC_GATEWAY_HTTP2_H

#include "connection.h"

struct http2;

/* Takes over a connection whose TLS handshake has agreed on HTTP/2. */
void http2_begin(struct connection *connection);

/* The size of a request's head once it is unpacked, counted as RFC 9113, 6.5.2 has it. */
size_t http2_head_size(h2o_req_t *req);

/* Is the request's body larger than body_limit? Then it is not there. */
bool http2_body_too_large(h2o_req_t *req);

/* Has a client a request under way, be it that only part of it has come? */
bool http2_busy(const struct connection *connection);

/*
 * To be called at every sweep, with the loop's clock. Has a client used up its time, by a body that
 * comes slowly or an answer that it does not take? *held gets the bytes of requests that its
 * connection has in memory.
 */
bool http2_expired(struct connection *connection, uint64_t now, size_t *held);

#endif
