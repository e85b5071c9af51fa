/*
 * server.c: the process's event loops: how they begin, hear of changes, and end.
 *
 * Each loop is a thread with everything it needs of its own. Loops share only what never changes,
 * and talk by messages.
 */
#include "server.h"
#include "connection.h"
#include "limiter.h"
#include "listener.h"
#include "log.h"
#include "watch.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Milliseconds between sweeps: the precision of all connection timeouts. */
#define SWEEP_MS 100

/* h2o's one timeout, longer than any that can be configured: the sweep keeps those. */
#define REQUEST_MS (24 * 3600 * 1000)

/* Descriptors that the process, and each loop, need beside those of clients and of the database. */
#define DESCRIPTORS 32
#define LOOP_DESCRIPTORS 16

struct server
{
    const struct config *config;
    struct jwt_keys *keys;
    SSL_CTX *tls;
    h2o_globalconf_t global;
    unsigned loop_count;
    pthread_barrier_t ready; /* all loops can take messages */
    struct listener listener;
    struct limiter *limiter;
    struct loop loops[];
};

/* A message to a loop: something to do on its thread. */
struct message
{
    h2o_multithread_message_t super;
    void (*act)(struct loop *loop, void *subject);
    void *subject;
};

/* Lets a loop do something on its own thread. */
static void
post(struct loop *loop, void (*act)(struct loop *loop, void *subject), void *subject)
{
    struct message *message = h2o_mem_alloc(sizeof(*message));

    memset(message, 0, sizeof(*message));
    message->act = act;
    message->subject = subject;
    h2o_multithread_send_message(&loop->inbox, &message->super);
}

static void
on_messages(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    struct loop *loop = H2O_STRUCT_FROM_MEMBER(struct loop, inbox, receiver);

    while (!h2o_linklist_is_empty(messages))
    {
        struct message *message =
            H2O_STRUCT_FROM_MEMBER(struct message, super.link, messages->next);

        h2o_linklist_unlink(&message->super.link);
        message->act(loop, message->subject);
        free(message);
    }
}

/* Publishes what is counted elsewhere. */
static void
publish(struct loop *loop)
{
    struct metrics *metrics = &loop->metrics;

    metrics_set(&metrics->connections, loop->connection_count);
    metrics_set(&metrics->streams, watch_count(loop->watch));
    metrics_pool(metrics, METRICS_POOL_REQUESTS, pg_pool_figures(loop->pool));
    metrics_pool(metrics, METRICS_POOL_STREAMS, pg_pool_figures(loop->streams));
    metrics_pool(metrics, METRICS_POOL_WATCH, pg_pool_figures(loop->heads));
    if (loop->replica != NULL)
    {
        metrics_pool(metrics, METRICS_POOL_REPLICA, pg_pool_figures(loop->replica));
        metrics_pool(metrics, METRICS_POOL_REPLICA_STREAMS, pg_pool_figures(loop->replica_streams));
    }
}

/* Looks after the loop's clients. */
static void
on_sweep(h2o_timeout_entry_t *entry)
{
    struct loop *loop = H2O_STRUCT_FROM_MEMBER(struct loop, sweep, entry);

    publish(loop);
    connections_sweep(loop);
    if (loop->draining &&
        (loop->connection_count == 0 || h2o_now(loop->http.loop) >= loop->drain_until))
        loop->finished = true;
    else
        h2o_timeout_link(loop->http.loop, &loop->sweep_interval, &loop->sweep);
}

/* Begins to drain: what is in the listeners' queues is still served, then no more is taken. */
static void
begin_drain(struct loop *loop, void *unused)
{
    (void)unused;
    /* A socket that the service manager keeps is its next process's, with all in the queue. */
    connections_drain(loop, !loop->server->listener.inherited);
    loop->draining = true;
    loop->http.shutdown_requested = 1;
    loop->drain_until = h2o_now(loop->http.loop) + (uint64_t)loop->config->drain_timeout;
    watch_drain(loop->watch);
}

/* Creates one of the loop's pools, each for another kind of work. */
static struct pg_pool *
create_pool(struct loop *loop, const char *name, const char *conninfo, int64_t size,
            int64_t statement_timeout)
{
    const struct config *config = loop->config;

    return pg_pool_create(loop->http.loop, loop->http.queue,
                          &(struct pg_pool_options){
                              .name = name,
                              .conninfo = conninfo,
                              .size = (size_t)size,
                              .queue_length = (size_t)config->queue_length,
                              .queue_timeout = (uint64_t)config->queue_timeout,
                              .connect_timeout = (uint64_t)config->connect_timeout,
                              .statement_timeout = (uint64_t)statement_timeout,
                              .recycle_size = (size_t)config->recycle_size,
                              .unnamed = config->pgbouncer,
                          });
}

/* Creates the loop's pools. */
static void
open_pools(struct loop *loop)
{
    const struct config *config = loop->config;

    loop->pool = create_pool(loop, "requests", config->database_url, config->pool_size,
                             config->statement_timeout);
    loop->streams = create_pool(loop, "streams", config->database_url, config->stream_pool_size,
                                config->stream_timeout);
    loop->heads = create_pool(loop, "watch", config->database_url, 1, config->statement_timeout);
    if (config->replica_url == NULL)
        return;
    loop->replica = create_pool(loop, "replica", config->replica_url, config->pool_size,
                                config->statement_timeout);
    loop->replica_streams = create_pool(loop, "replica_streams", config->replica_url,
                                        config->stream_pool_size, config->stream_timeout);
}

/* Closes all pools, then frees each when no word from a cancellation is on its way to it. */
static void
close_pools(struct loop *loop)
{
    struct pg_pool *pools[] = {loop->pool, loop->streams, loop->heads, loop->replica,
                               loop->replica_streams};
    enum
    {
        COUNT = sizeof(pools) / sizeof(pools[0])
    };

    for (size_t i = 0; i < COUNT; i++)
        if (pools[i] != NULL)
            pg_pool_close(pools[i]);
    for (size_t i = 0; i < COUNT; i++)
    {
        while (pools[i] != NULL && !pg_pool_closed(pools[i]))
            h2o_evloop_run(loop->http.loop, INT32_MAX);
        if (pools[i] != NULL)
            pg_pool_free(pools[i]);
    }
}

/*
 * Prepares what belongs to h2o, on the loop's own thread: sockets recycle their buffers by lists of
 * the thread that created them, which no other thread may touch.
 */
static void
open_loop(struct loop *loop)
{
    h2o_linklist_init_anchor(&loop->snapshots);
    h2o_linklist_init_anchor(&loop->unready);
    h2o_context_init(&loop->http, h2o_evloop_create(), &loop->server->global);
    loop->accept.ctx = &loop->http;
    loop->accept.hosts = loop->server->global.hosts;
    h2o_multithread_register_receiver(loop->http.queue, &loop->inbox, on_messages);
    connections_begin(loop, loop->descriptor);
    loop->descriptor = -1;
    h2o_timeout_init(loop->http.loop, &loop->sweep_interval, SWEEP_MS);
    loop->sweep.cb = on_sweep;
    open_pools(loop);
    loop->watch = watch_create(loop, loop->heads);
    connections_accept(loop);
    h2o_timeout_link(loop->http.loop, &loop->sweep_interval, &loop->sweep);
}

/* Takes it all down again. */
static void
close_loop(struct loop *loop)
{
    close_pools(loop);
    connections_end(loop);
    /* Connections cut by the drain timeout still point into the rest; the process ends anyway. */
    if (loop->connection_count != 0)
        return;
    watch_free(loop->watch);
    h2o_multithread_unregister_receiver(loop->http.queue, &loop->inbox);
    h2o_timeout_dispose(loop->http.loop, &loop->sweep_interval);
    h2o_context_dispose(&loop->http);
}

/* A loop's thread. */
static void *
run_loop(void *subject)
{
    struct loop *loop = subject;

    open_loop(loop);
    pthread_barrier_wait(&loop->server->ready);
    while (!loop->finished)
        h2o_evloop_run(loop->http.loop, INT32_MAX);
    close_loop(loop);
    return NULL;
}

/*
 * Gives the process as many descriptors as it may have, and says how many are left for each loop's
 * clients when the database's connections have theirs, two each. 0: not one, with the cause.
 */
static size_t
share_descriptors(const struct server *server, char *error, size_t error_size)
{
    const struct config *config = server->config;
    size_t pools = (size_t)(config->pool_size + config->stream_pool_size);
    size_t own = LOOP_DESCRIPTORS + 2 * (pools * (config->replica_url == NULL ? 1 : 2) + 1);
    struct rlimit limit;
    size_t share;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        abort();
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 && getrlimit(RLIMIT_NOFILE, &limit) != 0)
        abort();
    share = limit.rlim_cur < DESCRIPTORS ? 0 : (limit.rlim_cur - DESCRIPTORS) / server->loop_count;
    if (share > own)
        return share - own;
    snprintf(error, error_size,
             "%zu open files (ulimit -n) are too few for %u loops with %zu database connections "
             "each",
             (size_t)limit.rlim_cur, server->loop_count, (own - LOOP_DESCRIPTORS) / 2);
    return 0;
}

/* Says how many clients each loop may have; false with the cause where it can have none. */
static bool
limit_connections(struct server *server, char *error, size_t error_size)
{
    size_t wanted =
        ((size_t)server->config->max_connections + server->loop_count - 1) / server->loop_count;
    size_t possible = share_descriptors(server, error, error_size);

    if (possible != 0 && possible < wanted)
        log_message(LOG_WARNING, "few_descriptors",
                    "the limit of open files (ulimit -n) leaves room for %zu client connections, "
                    "not for max_connections = %lld",
                    possible * server->loop_count, (long long)server->config->max_connections);
    for (unsigned i = 0; i < server->loop_count; i++)
        server->loops[i].connection_limit = possible < wanted ? possible : wanted;
    return possible != 0;
}

/* What a loop has before its thread runs. */
static void
create_loop(struct server *server, unsigned number)
{
    struct loop *loop = &server->loops[number];
    uint64_t random;

    if (RAND_bytes((unsigned char *)&random, sizeof(random)) != 1)
        abort();
    loop->server = server;
    loop->config = server->config;
    loop->number = number;
    loop->limiter = server->limiter;
    loop->next_request = random;
    loop->memory_limit = (size_t)server->config->memory_limit / server->loop_count;
    loop->descriptor = -1;
    loop->auth = auth_create(server->config, server->keys);
    if (server->tls != NULL)
        SSL_CTX_up_ref(server->tls);
    loop->accept.ssl_ctx = server->tls;
}

struct server *
server_create(const struct config *config, struct jwt_keys *keys, SSL_CTX *tls,
              void (*configure)(h2o_globalconf_t *global, const struct config *config), char *error,
              size_t error_size)
{
    unsigned count =
        config->loops != 0 ? (unsigned)config->loops : (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    struct server *server = calloc(1, sizeof(*server) + count * sizeof(server->loops[0]));

    if (server == NULL)
        abort();
    server->config = config;
    server->keys = jwt_keys_hold(keys);
    server->tls = tls;
    server->loop_count = count;
    pthread_barrier_init(&server->ready, NULL, count + 1);
    if (config->rate_limit != 0)
        server->limiter = limiter_create(config->rate_limit, config->rate_burst);
    h2o_config_init(&server->global);
    server->global.server_name = h2o_iovec_init(H2O_STRLIT(""));
    server->global.max_request_entity_size = (size_t)config->body_limit;
    server->global.http1.req_timeout = REQUEST_MS;
    server->global.http1.upgrade_to_http2 = 0;
    configure(&server->global, config);
    for (unsigned i = 0; i < count; i++)
        create_loop(server, i);
    if (!limit_connections(server, error, error_size) ||
        !listener_open(&server->listener, config, count, error, error_size))
    {
        server_free(server);
        return NULL;
    }
    for (unsigned i = 0; i < count; i++)
        server->loops[i].descriptor = server->listener.descriptors[i];
    return server;
}

void
server_start(struct server *server)
{
    for (unsigned i = 0; i < server->loop_count; i++)
        h2o_multithread_create_thread(&server->loops[i].thread, NULL, run_loop, &server->loops[i]);
    pthread_barrier_wait(&server->ready);
}

const char *
server_url(const struct server *server)
{
    return server->listener.url;
}

void
server_write_metrics(const struct server *server, const char *const *routes, struct text *text)
{
    struct metrics **loops = h2o_mem_alloc(server->loop_count * sizeof(*loops));

    for (unsigned i = 0; i < server->loop_count; i++)
        loops[i] = (struct metrics *)(size_t)&server->loops[i].metrics;
    metrics_write(loops, server->loop_count, routes, text);
    free(loops);
}

/* Takes over new keys, with the reference that came with them. */
static void
take_keys(struct loop *loop, void *keys)
{
    auth_set_keys(loop->auth, keys);
    jwt_keys_release(keys);
}

/* The same for a TLS context. Connections keep the one that they began with. */
static void
take_tls(struct loop *loop, void *tls)
{
    SSL_CTX_free(loop->accept.ssl_ctx);
    loop->accept.ssl_ctx = tls;
}

/* Takes over other settings. The new keys that follow make the cache forget by which it judged. */
static void
take_config(struct loop *loop, void *config)
{
    loop->config = config;
    auth_set_rules(loop->auth, config);
}

void
server_renew(struct server *server, struct config *config, struct jwt_keys *keys, SSL_CTX *tls)
{
    for (unsigned i = 0; i < server->loop_count; i++)
    {
        post(&server->loops[i], take_config, config);
        post(&server->loops[i], take_keys, jwt_keys_hold(keys));
        if (tls != NULL)
        {
            SSL_CTX_up_ref(tls);
            post(&server->loops[i], take_tls, tls);
        }
    }
}

void
server_drain(struct server *server)
{
    listener_withdraw(&server->listener, server->config);
    for (unsigned i = 0; i < server->loop_count; i++)
        post(&server->loops[i], begin_drain, NULL);
    for (unsigned i = 0; i < server->loop_count; i++)
        pthread_join(server->loops[i].thread, NULL);
}

void
server_free(struct server *server)
{
    bool all_closed = true;

    for (unsigned i = 0; i < server->loop_count; i++)
    {
        struct loop *loop = &server->loops[i];

        auth_free(loop->auth);
        SSL_CTX_free(loop->accept.ssl_ctx);
        if (loop->descriptor != -1)
            close(loop->descriptor);
        all_closed = all_closed && loop->connection_count == 0;
    }
    jwt_keys_release(server->keys);
    limiter_free(server->limiter);
    if (!all_closed)
        return;
    h2o_config_dispose(&server->global);
    pthread_barrier_destroy(&server->ready);
    free(server);
}
