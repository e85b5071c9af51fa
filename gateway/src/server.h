/*
 * server.h: the process's event loops, their listeners and their client connections.
 *
 * Each loop is a thread with everything it needs of its own: listeners (SO_REUSEPORT), database
 * pool, token cache. Loops share only what never changes, and talk by messages.
 */
#ifndef ROWSYNC_GATEWAY_SERVER_H
#define ROWSYNC_GATEWAY_SERVER_H

#include "auth.h"
#include "config.h"
#include "metrics.h"
#include "pg_pool.h"

#include <h2o.h>

struct server;
struct request;

/* One event loop. Only its own thread touches it, once started. */
struct loop
{
    struct server *server;
    const struct config *config;
    unsigned number; /* from 0 */
    pthread_t thread;
    h2o_context_t http;
    h2o_accept_ctx_t accept;
    h2o_multithread_receiver_t inbox;
    struct auth *auth;
    struct pg_pool *pool;            /* for requests */
    struct pg_pool *streams;         /* for snapshots */
    struct pg_pool *replica;         /* for downloads; NULL: there is none */
    struct pg_pool *replica_streams; /* for snapshots; NULL: there is none */
    struct pg_pool *heads;           /* for the watcher: one connection */
    struct watch *watch;
    h2o_linklist_t snapshots; /* those that wait or stream; handler_snapshot.c's */
    struct pg_job readiness;  /* the question whether the database answers; handler_health.c's */
    h2o_linklist_t unready;   /* those who have asked and wait for it */
    struct metrics metrics;
    struct limiter *limiter;    /* the process's; NULL: no limit */
    int descriptor;             /* the listener's, until the thread takes it; -1 then */
    h2o_socket_t *listener;     /* NULL once draining */
    h2o_linklist_t connections; /* struct connection */
    size_t connection_count;
    size_t connection_limit;
    bool accepting;
    size_t held;              /* bytes of answers and unpacked bodies in memory */
    size_t received;          /* bytes of requests in memory, at the last sweep */
    size_t memory_limit;      /* for both together */
    h2o_linklist_t lingering; /* closed connections whose sender is being heard out */
    size_t lingering_count;
    int departures; /* epoll that watches for clients going away */
    h2o_socket_t *departures_socket;
    h2o_timeout_t sweep_interval;
    h2o_timeout_entry_t sweep;
    bool draining;
    uint64_t drain_until; /* ms of the loop's clock */
    bool finished;
    uint64_t next_request;  /* for request ids */
    uint64_t database_good; /* ms of the loop's clock when the database last answered; 0: never */
};

/*
 * Opens the listeners of `config`, with TLS unless `tls` is NULL, and creates the loops, without
 * running them. `configure` fills h2o's configuration. NULL with the cause in `error`. Keys and
 * config must outlive it.
 */
struct server *server_create(const struct config *config, struct jwt_keys *keys, SSL_CTX *tls,
                             void (*configure)(h2o_globalconf_t *global,
                                               const struct config *config),
                             char *error, size_t error_size);

/* Starts the loops' threads. */
void server_start(struct server *server);

/* The address that clients can use, such as "http://127.0.0.1:8080". Owned by the server. */
const char *server_url(const struct server *server);

/* Writes the metrics of all loops. Any loop's thread may ask. */
void server_write_metrics(const struct server *server, const char *const *routes,
                          struct text *text);

/*
 * Hands other settings, which must outlive the server, new keys and, unless NULL, a new TLS context
 * to every loop. References to the latter two are taken.
 */
void server_renew(struct server *server, struct config *config, struct jwt_keys *keys,
                  SSL_CTX *tls);

/* Stops accepting, lets requests in hand end within the drain timeout, and waits for it. */
void server_drain(struct server *server);

/* Frees everything; after server_drain, or when never started. */
void server_free(struct server *server);

#endif
