/*
 * http2.c: HTTP/2 connections, and the limits that libh2o does not set them.
 *
 * libh2o 2.2.5 lets a client take back requests without end (CVE-2023-44487, and CVE-2025-8671
 * where it makes the server reset them), demand answers to control frames that it never reads
 * (CVE-2019-9512, 9515), send bodies as slowly as it likes, a hundred at a time, and hold answers
 * up for ever by giving no flow-control window. So whatever is read on such a connection passes
 * here first: the frames are counted before h2o sees them. A client that goes too far loses its
 * connection.
 */
#include "http2.h"
#include "log.h"
#include "request.h"

#include <h2o/http2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* The time in which frames are counted, before counting begins anew. */
#define WINDOW_MS 10000

/* Frames that carry nothing and may come in that time. A PING is answered with 17 bytes. */
#define CONTROL_MAX 1000

/* What the kernel may hold of what a client sent, and so the most that is worked through in one go.
 */
#define RECEIVE_MAX 524288

/* Bodies under way; h2o refuses streams beyond 100. */
#define BODIES_MAX 128

/* What a client sends first (RFC 9113, 3.4), and the head of each frame after it (4.1). */
#define PREFACE_SIZE 24
#define FRAME_HEAD 9

enum frame
{
    FRAME_DATA = 0,
    FRAME_HEADERS = 1,
    FRAME_RST_STREAM = 3,
    FRAME_WINDOW_UPDATE = 8,
    FRAME_KNOWN = 9, /* the last that h2o knows */
};

#define FLAG_END_STREAM 1

/* A body that is coming. */
struct body
{
    uint32_t stream;
    size_t size;
    uint64_t since; /* ms of the loop's clock */
};

struct http2
{
    h2o_socket_cb reader; /* h2o's */
    bool prefaced;        /* the preface has come */
    uint64_t window;      /* ms of the loop's clock: since when frames are counted */
    int64_t resets;       /* requests that the client took back, or had reset by mistakes */
    unsigned control;     /* frames that carry nothing */
    size_t body_count;
    struct body bodies[BODIES_MAX];
};

/* Is this connection beyond what a client may do? */
static bool
condemned(const struct connection *connection)
{
    const struct http2 *http2 = connection->http2;
    return http2->resets > connection->loop->config->http2_resets || http2->control > CONTROL_MAX;
}

/* The body of a stream that is coming; NULL: none is. */
static struct body *
find_body(struct http2 *http2, uint32_t stream)
{
    for (size_t i = 0; i < http2->body_count; i++)
        if (http2->bodies[i].stream == stream)
            return &http2->bodies[i];
    return NULL;
}

/* Takes a body out of the books, if it is there. */
static void
forget_body(struct http2 *http2, struct body *body)
{
    if (body != NULL)
        *body = http2->bodies[--http2->body_count];
}

/* Counts one frame. */
static void
count_frame(struct http2 *http2, unsigned type, unsigned flags, uint32_t stream, size_t size,
            uint64_t now)
{
    struct body *body = find_body(http2, stream);
    bool last = (flags & FLAG_END_STREAM) != 0;

    switch (type)
    {
        case FRAME_DATA:
            if (body != NULL)
                body->size += size;
            if (last)
                forget_body(http2, body);
            else if (size == 0)
                http2->control++;
            break;
        case FRAME_HEADERS:
            if (last)
                forget_body(http2, body);
            else if (body == NULL && http2->body_count < BODIES_MAX)
                http2->bodies[http2->body_count++] = (struct body){stream, 0, now};
            break;
        case FRAME_RST_STREAM:
            /* Where the request is with its handler, http2_ended counts. */
            if (body != NULL)
                http2->resets++;
            else
                http2->control++;
            forget_body(http2, body);
            break;
        case FRAME_WINDOW_UPDATE:
            break;
        default:
            http2->control++;
    }
}

/*
 * Counts the frames that are whole, which are those that h2o will take. Frames of a kind that it
 * does not know go out of the buffer: it would write a line about each to standard error.
 */
static void
count_frames(struct http2 *http2, h2o_buffer_t *input, uint64_t now)
{
    size_t at = 0;

    if (!http2->prefaced)
    {
        if (input->size < PREFACE_SIZE)
            return;
        at = PREFACE_SIZE;
        http2->prefaced = true;
    }
    while (input->size - at >= FRAME_HEAD)
    {
        const unsigned char *head = (const unsigned char *)input->bytes + at;
        size_t size = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
        uint32_t stream = (uint32_t)(head[5] & 0x7f) << 24 | (uint32_t)head[6] << 16 |
                          (uint32_t)head[7] << 8 | head[8];
        size_t next = at + FRAME_HEAD + size;

        if (next > input->size)
            break;
        count_frame(http2, head[3], head[4], stream, size, now);
        if (head[3] <= FRAME_KNOWN)
            at = next;
        else
        {
            memmove(input->bytes + at, input->bytes + next, input->size - next);
            input->size -= next - at;
        }
    }
}

/* Passes on what has come, unless it is too much. */
static void
on_readable(h2o_socket_t *socket, const char *error)
{
    struct connection *connection = socket->on_close.data;
    struct http2 *http2 = connection->http2;
    struct loop *loop = connection->loop;
    uint64_t now = h2o_now(loop->http.loop);

    if (now - http2->window >= WINDOW_MS)
    {
        http2->window = now;
        http2->resets = 0;
        http2->control = 0;
    }
    count_frames(http2, socket->input, now);
    if (!condemned(connection))
    {
        loop->reading = connection;
        http2->reader(socket, error);
        /* The connection may be gone by now. */
        if (loop->reading == NULL)
            return;
        loop->reading = NULL;
    }
    if (condemned(connection))
    {
        log_message(LOG_WARNING, "http2_cut",
                    "a client took back %lld requests and sent %u frames that carry nothing",
                    (long long)http2->resets, http2->control);
        socket->_cb.read = http2->reader;
        http2->reader(socket, "too much");
    }
}

void
http2_begin(struct connection *connection)
{
    h2o_socket_t *socket = connection->socket;
    struct loop *loop = connection->loop;
    struct http2 *http2 = calloc(1, sizeof(*http2));
    h2o_buffer_t *early = socket->input;
    int most = RECEIVE_MAX;

    if (http2 == NULL)
        abort();
    connection->http2 = http2;
    http2->window = h2o_now(loop->http.loop);
    (void)setsockopt(h2o_socket_get_fd(socket), SOL_SOCKET, SO_RCVBUF, &most, sizeof(most));
    /* What came along with the handshake is held back, for h2o would work through it at once. */
    h2o_buffer_init(&socket->input, &h2o_socket_buffer_prototype);
    h2o_http2_accept(&loop->accept, socket, *h2o_get_timestamp(&loop->http, NULL, NULL));
    h2o_buffer_dispose(&socket->input);
    socket->input = early;
    http2->reader = socket->_cb.read;
    socket->_cb.read = on_readable;
    if (early->size != 0)
        on_readable(socket, NULL);
}

bool
http2_admits(const struct connection *connection)
{
    return connection->http2 == NULL || !condemned(connection);
}

void
http2_ended(struct connection *connection)
{
    if (connection->http2 != NULL && connection->loop->reading == connection)
        connection->http2->resets++;
}

/* Has the client taken too little of an answer for too long? */
static bool
stalled(struct request *request, uint64_t now)
{
    const struct config *config = request->loop->config;
    uint64_t sent = request->req->bytes_sent;

    if (!request->sending || request->moved_at == 0 ||
        sent - request->moved > (uint64_t)(config->send_rate * config->send_timeout / 1000))
    {
        request->moved_at = now;
        request->moved = sent;
    }
    return now - request->moved_at >= (uint64_t)config->send_timeout;
}

bool
http2_expired(struct connection *connection, uint64_t now, size_t *bodies)
{
    const struct config *config = connection->loop->config;
    const struct http2 *http2 = connection->http2;
    uint64_t most = (uint64_t)(config->header_timeout + config->body_timeout);
    bool late = false;

    *bodies = 0;
    for (size_t i = 0; i < http2->body_count; i++)
    {
        *bodies += http2->bodies[i].size;
        late = late || now - http2->bodies[i].since >= most;
    }
    for (h2o_linklist_t *link = connection->requests.next; link != &connection->requests;
         link = link->next)
    {
        struct request *request = H2O_STRUCT_FROM_MEMBER(struct request, link, link);

        *bodies += request->req->entity.len;
        late = stalled(request, now) || late;
    }
    return late;
}

void
http2_free(struct connection *connection)
{
    free(connection->http2);
}
