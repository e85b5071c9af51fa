/*
 * connection.h: the client connections of a loop: accepting them, their timeouts, and their ends.
 */
#ifndef ROWSYNC_GATEWAY_CONNECTION_H
#define ROWSYNC_GATEWAY_CONNECTION_H

#include "server.h"

/* Where a client connection stands, as far as timeouts go. */
enum phase
{
    PHASE_IDLE,  /* between requests */
    PHASE_HEAD,  /* part of a request's head is there */
    PHASE_BODY,  /* the head is there, the body not yet */
    PHASE_ANSWER /* we have requests of it in hand, or of HTTP/2 parts of one */
};

/* One client connection: what h2o does not tell us about it, or does not do with it. */
struct connection
{
    struct loop *loop;
    h2o_socket_t *socket; /* h2o's */
    h2o_linklist_t link;
    h2o_linklist_t requests; /* struct request, in hand */
    enum phase phase;
    uint64_t since;       /* ms of the loop's clock: in this phase, or since an answer last moved */
    uint64_t moved;       /* bytes of answers that the client is known to have taken */
    bool watched;         /* in the loop's departures */
    bool metered;         /* `moved` is what it was at `since` */
    bool admitted;        /* the token of the body that is coming is good */
    SSL_CTX *shaking;     /* hands, by this, which h2o takes no hold of; NULL: no more */
    struct http2 *http2;  /* http2.c's; NULL: HTTP/1 */
    h2o_socket_cb reader; /* h2o's, once early.c has refused the request; else NULL */
    char *refusal;        /* what it was told then; NULL: nothing */
    int linger;           /* duplicate descriptor for a lingering close; -1: none */
};

/* The connection that a request came on. */
struct connection *connection_of(h2o_req_t *req);

/* From now on the client's departure abandons the connection's requests (HTTP/1). */
void connection_watch(struct connection *connection);

/*
 * The answer that is about to be sent ends the connection although the client may still be sending:
 * hear it out for a moment after closing, lest a reset destroy the answer on its way.
 */
void connection_linger(struct connection *connection);

/* The bytes of an answer that a client has to take more than within send_timeout. */
uint64_t connection_least(const struct config *config);

/* Prepares a loop, on its thread, for the clients of the listening socket `descriptor`, which
 * becomes the loop's. */
void connections_begin(struct loop *loop, int descriptor);

/* Takes connections from now on, as long as there are fewer than the loop's limit. */
void connections_accept(struct loop *loop);

/* To be called several times a second: ends what has used up its time or takes too much memory. */
void connections_sweep(struct loop *loop);

/* Takes no more connections, but first, if so said, those that the kernel holds. */
void connections_drain(struct loop *loop, bool whole_queue);

/* Gives back what connections_begin made. Connections that are still there stay. */
void connections_end(struct loop *loop);

#endif
