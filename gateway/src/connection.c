/*
 * connection.c: the client connections of a loop: accepting them, their timeouts, and their ends.
 *
 * libh2o 2.2.5 has one timeout for everything, does not notice an HTTP/1 client that leaves while
 * its request is handled, cuts connections so that the last answer may be lost, and waits for idle
 * connections when it should stop. What is missing is done here, from outside: the sweep looks at
 * each connection ten times a second and, where it must end, shuts its socket down, which h2o takes
 * for the client's own goodbye.
 */
#include "connection.h"
#include "early.h"
#include "http2.h"
#include "request.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <h2o/http1.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* While draining, a connection that was of use so recently may have its next request on the way. */
#define DRAIN_IDLE_MS 500

/* How long, and how much, a client is heard out after its connection was closed for an error. */
#define LINGER_MS 2000

/* Connections accepted in one go, so that accepting never starves the accepted. */
#define ACCEPT_BATCH 32

/* How long a connection may be idle while others wait to be accepted. */
#define CROWDED_IDLE_MS 1000

/* A closed connection whose client may still be sending. */
struct lingering
{
    struct loop *loop;
    h2o_linklist_t link;
    h2o_socket_t *socket;
    uint64_t until;
};

static void on_accept(h2o_socket_t *listener, const char *error);

struct connection *
connection_of(h2o_req_t *req)
{
    return req->conn->callbacks->get_socket(req->conn)->on_close.data;
}

/* Are there as many connections as there may be? Those being heard out hold descriptors as well. */
static bool
is_full(const struct loop *loop)
{
    return loop->connection_count + loop->lingering_count >= loop->connection_limit;
}

/* Starts or stops taking connections, by how many there are. */
static void
set_accepting(struct loop *loop, bool accepting)
{
    if (loop->accepting == accepting)
        return;
    loop->accepting = accepting;
    if (accepting)
        h2o_socket_read_start(loop->listener, on_accept);
    else
        h2o_socket_read_stop(loop->listener);
}

static void
stop_lingering(struct lingering *lingering)
{
    lingering->loop->lingering_count--;
    h2o_linklist_unlink(&lingering->link);
    h2o_socket_close(lingering->socket);
    free(lingering);
}

/* Reads and forgets what a client still sends to a connection that we have closed. */
static void
on_leftovers(h2o_socket_t *socket, const char *error)
{
    h2o_buffer_consume(&socket->input, socket->input->size);
    if (error != NULL)
        stop_lingering(socket->data);
}

/* h2o has closed the connection; we hold a duplicate and end it gently. */
static void
start_lingering(struct loop *loop, int descriptor)
{
    struct lingering *lingering = h2o_mem_alloc(sizeof(*lingering));

    shutdown(descriptor, SHUT_WR);
    *lingering = (struct lingering){.loop = loop, .until = h2o_now(loop->http.loop) + LINGER_MS};
    loop->lingering_count++;
    h2o_linklist_insert(&loop->lingering, &lingering->link);
    lingering->socket = h2o_evloop_socket_create(loop->http.loop, descriptor, 0);
    lingering->socket->data = lingering;
    h2o_socket_read_start(lingering->socket, on_leftovers);
}

/* h2o has closed a client's socket. */
static void
on_connection_closed(void *subject)
{
    struct connection *connection = subject;
    struct loop *loop = connection->loop;

    h2o_linklist_unlink(&connection->link);
    loop->connection_count--;
    if (connection->linger != -1)
        start_lingering(loop, connection->linger);
    SSL_CTX_free(connection->shaking);
    free(connection->refusal);
    free(connection);
    if (!loop->draining && !is_full(loop))
        set_accepting(loop, true);
}

/* Client and server have agreed on keys and on a protocol, or failed to. */
static void
on_handshake(h2o_socket_t *socket, const char *error)
{
    struct connection *connection = socket->on_close.data;
    struct loop *loop = connection->loop;
    h2o_iovec_t protocol;

    if (error != NULL)
    {
        h2o_socket_close(socket);
        return;
    }
    SSL_CTX_free(connection->shaking);
    connection->shaking = NULL;
    protocol = h2o_socket_ssl_get_selected_protocol(socket);
    if (h2o_memis(protocol.base, protocol.len, H2O_STRLIT("h2")))
        http2_begin(connection);
    else
        h2o_http1_accept(&loop->accept, socket, *h2o_get_timestamp(&loop->http, NULL, NULL));
}

/* Takes one connection into the books and hands it to h2o. */
static void
begin_connection(struct loop *loop, h2o_socket_t *socket)
{
    struct connection *connection = h2o_mem_alloc(sizeof(*connection));

    *connection = (struct connection){
        .loop = loop, .socket = socket, .since = h2o_now(loop->http.loop), .linger = -1};
    h2o_linklist_insert(&loop->connections, &connection->link);
    h2o_linklist_init_anchor(&connection->requests);
    loop->connection_count++;
    metrics_add(&loop->metrics.accepted, 1);
    socket->on_close.cb = on_connection_closed;
    socket->on_close.data = connection;
    connection->shaking = loop->accept.ssl_ctx;
    if (connection->shaking != NULL && SSL_CTX_up_ref(connection->shaking) != 1)
        abort();
    if (connection->shaking != NULL)
        h2o_socket_ssl_handshake(socket, connection->shaking, NULL, on_handshake);
    else
        h2o_http1_accept(&loop->accept, socket, *h2o_get_timestamp(&loop->http, NULL, NULL));
}

static void
on_accept(h2o_socket_t *listener, const char *error)
{
    struct loop *loop = listener->data;

    (void)error;
    for (int i = 0; i < ACCEPT_BATCH; i++)
    {
        h2o_socket_t *socket;

        if (is_full(loop))
        {
            set_accepting(loop, false);
            return;
        }
        socket = h2o_evloop_socket_accept(listener);
        if (socket == NULL)
        {
            /* The system is short of something: the sweep tries again, instead of us without end.
             */
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                set_accepting(loop, false);
            return;
        }
        begin_connection(loop, socket);
    }
}

void
connection_watch(struct connection *connection)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.ptr = connection};

    if (connection->watched || connection->linger != -1)
        return;
    /* Where the kernel refuses, a departed client's query merely runs to its end. */
    connection->watched = epoll_ctl(connection->loop->departures, EPOLL_CTL_ADD,
                                    h2o_socket_get_fd(connection->socket), &event) == 0;
}

/* Clients have gone, or closed their sending side, which counts as the same. */
static void
on_departures(h2o_socket_t *socket, const char *error)
{
    struct loop *loop = socket->data;
    struct epoll_event event;

    (void)error;
    /* One at a time: ending one connection's requests may end other connections. */
    while (epoll_wait(loop->departures, &event, 1, 0) == 1)
    {
        const h2o_linklist_t *requests = &((struct connection *)event.data.ptr)->requests;
        h2o_linklist_t *link = requests->next;

        /* The last request may take the connection with it. */
        while (link != requests)
        {
            struct request *request = H2O_STRUCT_FROM_MEMBER(struct request, link, link);

            link = link->next;
            request_abandon(request);
        }
    }
}

void
connection_linger(struct connection *connection)
{
    int descriptor = h2o_socket_get_fd(connection->socket);

    if (connection->linger != -1)
        return;
    /*
     * The duplicate would keep the file in the epoll set when its descriptor is closed, and by then
     * it cannot be taken out any more: the set knows it by that descriptor.
     */
    if (connection->watched)
        epoll_ctl(connection->loop->departures, EPOLL_CTL_DEL, descriptor, NULL);
    connection->watched = false;
    connection->linger = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
}

/*
 * Has the client taken more than `enough` bytes of our answers since it was last said to have? Of a
 * socket file the kernel does not tell what was taken; there any change of what is on its way
 * counts, for the reader is a proxy beside us.
 */
static bool
has_taken(struct connection *connection, uint64_t enough)
{
    int descriptor = h2o_socket_get_fd(connection->socket);
    struct tcp_info info;
    socklen_t size = sizeof(info);
    int queued = 0;
    uint64_t taken;
    bool moved;

    if (getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &size) == 0)
    {
        taken = info.tcpi_bytes_acked;
        moved = taken - connection->moved > enough;
    }
    else
    {
        ioctl(descriptor, SIOCOUTQ, &queued);
        taken = connection->socket->bytes_written - (uint64_t)queued;
        moved = taken != connection->moved;
    }
    if (connection->metered && !moved)
        return false;
    connection->metered = true;
    connection->moved = taken;
    return true;
}

uint64_t
connection_least(const struct config *config)
{
    return (uint64_t)(config->send_rate * config->send_timeout / 1000);
}

/* Where a connection stands, as seen from outside of h2o. */
static enum phase
phase_of(struct connection *connection)
{
    const h2o_buffer_t *input = connection->socket->input;
    size_t limit = (size_t)connection->loop->config->header_limit;
    struct wire_head head;

    if (connection->shaking != NULL)
        return PHASE_HEAD;
    if (connection->http2 != NULL)
        return http2_busy(connection) ? PHASE_ANSWER : PHASE_IDLE;
    if (!h2o_linklist_is_empty(&connection->requests))
        return PHASE_ANSWER;
    if (input->size == 0)
        return PHASE_IDLE;
    wire_scan(input->bytes, input->size < limit ? input->size : limit, &head);
    return head.complete || input->size >= limit ? PHASE_BODY : PHASE_HEAD;
}

/* Has this connection used up its time? */
static bool
expired(struct connection *connection, uint64_t now)
{
    const struct loop *loop = connection->loop;
    const struct config *config = loop->config;
    enum phase phase = phase_of(connection);
    uint64_t waited;

    if (phase != connection->phase)
    {
        connection->phase = phase;
        connection->since = now;
        connection->metered = false;
        connection->admitted = false;
    }
    waited = now - connection->since;
    switch (phase)
    {
        case PHASE_IDLE:
            return (loop->draining && waited >= DRAIN_IDLE_MS) ||
                   waited >= (uint64_t)config->idle_timeout ||
                   (is_full(loop) && waited >= CROWDED_IDLE_MS);
        case PHASE_HEAD:
            return waited >= (uint64_t)config->header_timeout;
        case PHASE_BODY:
            return waited >= (uint64_t)config->body_timeout;
        case PHASE_ANSWER:
            break;
    }
    /* Waiting for the database has limits of its own; here it is about a reader that does not read.
     */
    if (!h2o_socket_is_writing(connection->socket))
    {
        connection->since = now;
        connection->metered = false;
    }
    else if (has_taken(connection, connection_least(config)))
        connection->since = now;
    return now - connection->since >= (uint64_t)config->send_timeout;
}

void
connections_sweep(struct loop *loop)
{
    uint64_t now = h2o_now(loop->http.loop);
    size_t most = loop->memory_limit;
    size_t single = (size_t)(loop->config->header_limit + loop->config->body_limit);
    size_t received = 0;
    h2o_linklist_t *link;

    for (link = loop->connections.next; link != &loop->connections; link = link->next)
    {
        struct connection *connection = H2O_STRUCT_FROM_MEMBER(struct connection, link, link);
        size_t size = connection->socket->input->size;
        bool late = connection->http2 != NULL && http2_expired(connection, now, &size);
        /* The oldest stay: they come first. One body alone is always taken, but HTTP/2 has many. */
        bool crowded = (received != 0 || size > single) && loop->held + received + size > most;

        received += size;
        if (expired(connection, now) || late || (crowded && connection->http2 != NULL && size != 0))
            shutdown(h2o_socket_get_fd(connection->socket), SHUT_RDWR);
        else if (connection->phase == PHASE_BODY && (size > EARLY_SIZE || crowded))
            early_check(connection, crowded);
    }
    loop->received = received;
    while (!h2o_linklist_is_empty(&loop->lingering))
    {
        struct lingering *lingering =
            H2O_STRUCT_FROM_MEMBER(struct lingering, link, loop->lingering.next);

        if (now < lingering->until && !(loop->draining && loop->connection_count == 0))
            break;
        stop_lingering(lingering);
    }
    if (!loop->draining && !is_full(loop))
        set_accepting(loop, true);
}

void
connections_begin(struct loop *loop, int descriptor)
{
    h2o_linklist_init_anchor(&loop->connections);
    h2o_linklist_init_anchor(&loop->lingering);
    loop->departures = epoll_create1(EPOLL_CLOEXEC);
    if (loop->departures < 0)
        abort();
    loop->departures_socket =
        h2o_evloop_socket_create(loop->http.loop, loop->departures, H2O_SOCKET_FLAG_DONT_READ);
    loop->departures_socket->data = loop;
    h2o_socket_read_start(loop->departures_socket, on_departures);
    loop->listener =
        h2o_evloop_socket_create(loop->http.loop, descriptor, H2O_SOCKET_FLAG_DONT_READ);
    loop->listener->data = loop;
}

void
connections_accept(struct loop *loop)
{
    set_accepting(loop, true);
}

void
connections_drain(struct loop *loop, bool whole_queue)
{
    h2o_socket_t *socket;

    while (whole_queue && (socket = h2o_evloop_socket_accept(loop->listener)) != NULL)
        begin_connection(loop, socket);
    h2o_socket_close(loop->listener);
    loop->listener = NULL;
}

void
connections_end(struct loop *loop)
{
    h2o_socket_close(loop->departures_socket);
}
