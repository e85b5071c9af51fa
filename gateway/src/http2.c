/*
 * http2.c: HTTP/2 connections: between nghttp2, which speaks it, and h2o, whose requests they
 * become.
 *
 * libh2o 2.2.5 has an HTTP/2 of its own, from before the attacks on it became known, and Debian
 * mends it no more. nghttp2 is mended, decodes nothing that we do not ask for, and knows limits to
 * most of what a client may do; those that are missing are here: how many requests it may take back
 * or have reset, how many frames that carry nothing it may send, how large a head may be, how long
 * a body or an answer may take.
 *
 * nghttp2 forbids to be called again from within its callbacks, and h2o to end a request from
 * within a call about it. So callbacks only take notes, and everything is done in turn(), which the
 * loop calls.
 */
#include "http2.h"
#include "log.h"

#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>

/* The time in which frames are counted, before counting begins anew. */
#define WINDOW_MS 10000

/* Frames that carry nothing and may come in that time; also, those that may wait to be sent. */
#define CONTROL_MAX 1000

/* Requests of a connection at a time. */
#define STREAMS_MAX 100

/* What a client may send of one body, and of all, before it must wait for us to say more. */
#define STREAM_WINDOW 262144
#define CONNECTION_WINDOW 1048576

/* Bytes to gather before they are handed to the socket. */
#define GATHER 65536

/* Headers of an answer that we add: the status, the length, the date. */
#define OWN_HEADERS 3

/* One request and its answer. */
struct stream
{
    h2o_req_t req;
    h2o_ostream_t end; /* where the answer leaves h2o */
    struct http2 *http2;
    h2o_linklist_t link;
    int32_t id;
    size_t head_size; /* or more than header_limit */
    size_t head_kept; /* bytes of it in memory */
    h2o_buffer_t *body;
    bool authorized; /* of several Authorization headers the first is looked at before the body */
    bool coming;     /* the client has not yet ended the request */
    bool ready;      /* is to be handled */
    bool handled;
    bool blamed;    /* a mistake of the client is counted */
    bool too_large; /* its body is */
    bool closed;    /* nothing more can be sent */
    bool answered;  /* the head of the answer is with nghttp2 */
    bool owed;      /* h2o waits for word that what it has sent is taken */
    bool taken;     /* ... and may have it */
    h2o_send_state_t state;
    h2o_iovec_t *parts; /* h2o's bytes, from `part` on, whose first `at` are taken */
    size_t part_room;   /* for how many of them there is memory */
    size_t part_count;
    size_t part;
    size_t at;
    uint64_t since; /* ms of the loop's clock: when it began, later when its answer last moved */
    size_t moved;   /* bytes sent then */
};

struct http2
{
    h2o_conn_t super;
    struct connection *connection;
    h2o_socket_t *socket;
    nghttp2_session *session;
    h2o_linklist_t streams;
    h2o_timeout_entry_t soon; /* to the next turn */
    h2o_buffer_t *output;     /* with the socket while `writing` */
    bool writing;
    bool cut;         /* has gone too far */
    bool noticed;     /* was told that the server ends */
    bool dismissed;   /* ... and that no further request will be handled */
    uint64_t window;  /* ms of the loop's clock: since when frames are counted */
    int64_t resets;   /* requests that the client took back, or had reset by mistakes */
    unsigned control; /* frames that carry nothing */
};

/* The loop's clock, in ms. */
static uint64_t
now_of(const struct http2 *http2)
{
    return h2o_now(http2->connection->loop->http.loop);
}

/* Lets the loop come to a connection soon. */
static void
schedule(struct http2 *http2)
{
    if (!h2o_timeout_is_linked(&http2->soon))
        h2o_timeout_link(http2->super.ctx->loop, &http2->super.ctx->zero_timeout, &http2->soon);
}

/* Counts against the client. nghttp2 stops where that was too much. */
static int
judge(struct http2 *http2, int64_t resets, unsigned control)
{
    uint64_t now = now_of(http2);

    if (now - http2->window >= WINDOW_MS)
    {
        http2->window = now;
        http2->resets = 0;
        http2->control = 0;
    }
    http2->resets += resets;
    http2->control += control;
    http2->cut = http2->cut || http2->resets > http2->connection->loop->config->http2_resets ||
                 http2->control > CONTROL_MAX;
    return http2->cut ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* A stream by its number; NULL: it is not, or no more. */
static struct stream *
find_stream(struct http2 *http2, int32_t id)
{
    return nghttp2_session_get_stream_user_data(http2->session, id);
}

static int
on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *head, void *subject)
{
    struct http2 *http2 = subject;

    (void)session;
    switch (head->type)
    {
        case NGHTTP2_DATA:
            return judge(http2, 0,
                         head->length == 0 && (head->flags & NGHTTP2_FLAG_END_STREAM) == 0);
        case NGHTTP2_RST_STREAM:
            return find_stream(http2, head->stream_id) != NULL ? judge(http2, 1, 0)
                                                               : judge(http2, 0, 1);
        case NGHTTP2_HEADERS:
        case NGHTTP2_CONTINUATION:
        case NGHTTP2_WINDOW_UPDATE:
            return 0;
        default:
            return judge(http2, 0, 1);
    }
}

/* nghttp2 answers a mistake of the client with a reset. */
static int
on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error, void *subject)
{
    struct stream *stream = find_stream(subject, frame->hd.stream_id);

    (void)session;
    (void)error;
    if (stream != NULL)
        stream->blamed = true;
    return judge(subject, 1, 0);
}

static void on_send(h2o_ostream_t *self, h2o_req_t *req, h2o_iovec_t *parts, size_t count,
                    h2o_send_state_t state);

/* A request begins. */
static int
on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *subject)
{
    struct http2 *http2 = subject;
    struct stream *stream;

    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    stream = h2o_mem_alloc(sizeof(*stream));
    memset(stream, 0, sizeof(*stream));
    stream->http2 = http2;
    stream->id = frame->hd.stream_id;
    stream->coming = true;
    stream->since = now_of(http2);
    h2o_init_request(&stream->req, &http2->super, NULL);
    stream->req.version = 0x200;
    stream->req.input.scheme = &H2O_URL_SCHEME_HTTPS;
    stream->req.input.path = stream->req.input.authority = h2o_iovec_init(H2O_STRLIT(""));
    stream->req.timestamps.request_begin_at = *h2o_get_timestamp(http2->super.ctx, NULL, NULL);
    stream->end.do_send = on_send;
    stream->req._ostr_top = &stream->end;
    h2o_linklist_insert(&http2->streams, &stream->link);
    nghttp2_session_set_stream_user_data(session, stream->id, stream);
    return 0;
}

/* Takes one field of a head that is not too large. nghttp2 has checked its form. */
static void
take_field(struct stream *stream, const char *name, size_t name_size, h2o_iovec_t value)
{
    h2o_req_t *req = &stream->req;
    const h2o_token_t *token;

    value = h2o_strdup(&req->pool, value.base, value.len);
    if (h2o_memis(name, name_size, H2O_STRLIT(":method")))
        req->input.method = value;
    else if (h2o_memis(name, name_size, H2O_STRLIT(":path")))
        req->input.path = value;
    else if (h2o_memis(name, name_size, H2O_STRLIT(":authority")))
        req->input.authority = value;
    else if (h2o_memis(name, name_size, H2O_STRLIT("host")) && req->input.authority.len == 0)
        req->input.authority = value;
    else if (h2o_memis(name, name_size, H2O_STRLIT("content-length")))
        /* nghttp2 holds the client to it. */
        stream->too_large = h2o_strtosize(value.base, value.len) >
                            req->conn->ctx->globalconf->max_request_entity_size;
    else if ((token = h2o_lookup_token(name, name_size)) != NULL)
        h2o_add_header(&req->pool, &req->headers, token, NULL, value.base, value.len);
    else if (name[0] != ':')
        h2o_add_header_by_str(&req->pool, &req->headers,
                              h2o_strdup(&req->pool, name, name_size).base, name_size, 0, NULL,
                              value.base, value.len);
}

/* One field. Of a head beyond the limit nothing more is of interest. */
static int
on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
          size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags, void *subject)
{
    struct http2 *http2 = subject;
    struct stream *stream = find_stream(http2, frame->hd.stream_id);
    size_t limit = (size_t)http2->connection->loop->config->header_limit;

    (void)session;
    (void)flags;
    if (stream == NULL || frame->headers.cat != NGHTTP2_HCAT_REQUEST || stream->head_size > limit)
        return 0;
    stream->head_size += name_size + value_size + 32;
    if (stream->head_size > limit)
        return 0;
    stream->head_kept = stream->head_size;
    take_field(stream, (const char *)name, name_size, h2o_iovec_init(value, value_size));
    return 0;
}

/* Is the token of a request good, whose body is still to come? */
static bool
authentic(const struct stream *stream)
{
    const h2o_headers_t *headers = &stream->req.headers;
    ssize_t at = h2o_find_header(headers, H2O_TOKEN_AUTHORIZATION, -1);
    struct problem problem;

    return at != -1 &&
           auth_allows(stream->http2->connection->loop->auth, headers->entries[at].value.base,
                       headers->entries[at].value.len, &problem);
}

/* A frame has come as a whole. A request that nobody waits for the rest of is handled at once. */
static int
on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *subject)
{
    struct http2 *http2 = subject;
    struct stream *stream = find_stream(http2, frame->hd.stream_id);
    bool head = frame->hd.type == NGHTTP2_HEADERS;

    (void)session;
    if (stream == NULL || (!head && frame->hd.type != NGHTTP2_DATA))
        return 0;
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
        stream->coming = false;
    if (!stream->handled)
        stream->ready =
            stream->ready || !stream->coming || stream->too_large || (head && !authentic(stream));
    return 0;
}

/* Part of a body. */
static int
on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes, size_t size,
        void *subject)
{
    struct stream *stream = find_stream(subject, id);
    h2o_iovec_t room;

    (void)session;
    (void)flags;
    if (stream == NULL || stream->handled || stream->ready)
        return 0;
    if (stream->body == NULL)
        h2o_buffer_init(&stream->body, &h2o_socket_buffer_prototype);
    stream->too_large =
        stream->body->size + size > stream->req.conn->ctx->globalconf->max_request_entity_size;
    stream->ready = stream->too_large;
    if (stream->too_large)
        return 0;
    room = h2o_buffer_reserve(&stream->body, size);
    if (room.base == NULL)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    memcpy(room.base, bytes, size);
    stream->body->size += size;
    return 0;
}

static int
on_stream_closed(nghttp2_session *session, int32_t id, uint32_t error, void *subject)
{
    struct stream *stream = find_stream(subject, id);

    (void)session;
    (void)error;
    if (stream != NULL)
        stream->closed = true;
    return 0;
}

/*
 * A frame is about to be with the socket. Who has heard the whole answer need send no more. Some
 * mistakes, in a body's length, are known by their resets alone.
 */
static int
on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *subject)
{
    struct stream *stream = find_stream(subject, frame->hd.stream_id);

    if (stream != NULL && frame->hd.type == NGHTTP2_RST_STREAM && !stream->blamed &&
        frame->rst_stream.error_code == NGHTTP2_PROTOCOL_ERROR)
        return judge(subject, 1, 0);
    if (stream != NULL && stream->coming &&
        (frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_NO_ERROR);
    return 0;
}

/* nghttp2 has room for bytes of an answer. */
static ssize_t
on_room(nghttp2_session *session, int32_t id, uint8_t *room, size_t size, uint32_t *flags,
        nghttp2_data_source *source, void *subject)
{
    struct stream *stream = source->ptr;
    size_t done = 0;

    (void)session;
    (void)id;
    (void)subject;
    while (done < size && stream->part < stream->part_count)
    {
        const h2o_iovec_t *part = &stream->parts[stream->part];
        size_t left = part->len - stream->at;
        size_t count = left < size - done ? left : size - done;

        memcpy(room + done, part->base + stream->at, count);
        done += count;
        stream->at += count;
        if (stream->at == part->len)
        {
            stream->part++;
            stream->at = 0;
        }
    }
    stream->req.bytes_sent += done;
    if (stream->part < stream->part_count)
        return (ssize_t)done;
    if (stream->state == H2O_SEND_STATE_FINAL)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    else if (stream->state == H2O_SEND_STATE_ERROR)
        return done != 0 ? (ssize_t)done : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    else
    {
        stream->taken = stream->taken || stream->owed;
        stream->owed = false;
        if (done == 0)
            return NGHTTP2_ERR_DEFERRED;
    }
    return (ssize_t)done;
}

/* Fills in one field of an answer's head, which must last until it is submitted. */
static nghttp2_nv
field(const char *name, size_t name_size, const char *value, size_t value_size)
{
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, name_size,
                        value_size, NGHTTP2_NV_FLAG_NONE};
}

/* Hands the head of an answer to nghttp2. */
static void
begin_answer(struct stream *stream, bool empty)
{
    h2o_req_t *req = &stream->req;
    const h2o_headers_t *headers = &req->res.headers;
    nghttp2_nv *fields =
        h2o_mem_alloc_pool(&req->pool, sizeof(*fields) * (headers->size + OWN_HEADERS));
    nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = on_room};
    char status[4];
    char length[24];
    size_t count = 0;

    fields[count++] = field(H2O_STRLIT(":status"), status,
                            (size_t)snprintf(status, sizeof(status), "%03d", req->res.status));
    fields[count++] = field(H2O_STRLIT("date"), req->processed_at.str->rfc1123,
                            strlen(req->processed_at.str->rfc1123));
    if (req->res.content_length != SIZE_MAX)
        fields[count++] =
            field(H2O_STRLIT("content-length"), length,
                  (size_t)snprintf(length, sizeof(length), "%zu", req->res.content_length));
    for (size_t i = 0; i < headers->size; i++)
    {
        const h2o_header_t *header = &headers->entries[i];

        fields[count++] =
            field(header->name->base, header->name->len, header->value.base, header->value.len);
    }
    stream->answered = true;
    stream->moved = 0;
    stream->since = now_of(stream->http2);
    nghttp2_submit_response(stream->http2->session, stream->id, fields, count,
                            empty ? NULL : &provider);
}

/* The last of h2o's output streams: what comes here goes to the client. */
static void
on_send(h2o_ostream_t *self, h2o_req_t *req, h2o_iovec_t *parts, size_t count,
        h2o_send_state_t state)
{
    struct stream *stream = H2O_STRUCT_FROM_MEMBER(struct stream, end, self);
    struct http2 *http2 = stream->http2;

    (void)req;
    schedule(http2);
    if (stream->closed)
        return;
    if (stream->part_room < count)
    {
        /* Not of the request's memory: a stream of events would gather all that it ever sent. */
        stream->parts = h2o_mem_realloc(stream->parts, sizeof(*parts) * count);
        stream->part_room = count;
    }
    if (count != 0)
        memcpy(stream->parts, parts, sizeof(*parts) * count);
    stream->part_count = count;
    stream->part = stream->at = 0;
    stream->state = state;
    stream->owed = state == H2O_SEND_STATE_IN_PROGRESS;
    if (stream->answered)
        nghttp2_session_resume_data(http2->session, stream->id);
    else if (state == H2O_SEND_STATE_ERROR)
        nghttp2_submit_rst_stream(http2->session, NGHTTP2_FLAG_NONE, stream->id,
                                  NGHTTP2_INTERNAL_ERROR);
    else
        begin_answer(stream, count == 0 && state == H2O_SEND_STATE_FINAL);
}

/* Ends what is left of a request. */
static void
free_stream(struct stream *stream)
{
    h2o_linklist_unlink(&stream->link);
    h2o_dispose_request(&stream->req);
    if (stream->body != NULL)
        h2o_buffer_dispose(&stream->body);
    free(stream->parts);
    free(stream);
}

/* Ends a connection. The one place where one dies. */
static void
close_connection(struct http2 *http2)
{
    if (http2->cut)
        log_message(LOG_WARNING, "http2_cut",
                    "a client took back %lld requests and sent %u frames that carry nothing",
                    (long long)http2->resets, http2->control);
    h2o_timeout_unlink(&http2->soon);
    nghttp2_session_del(http2->session);
    while (!h2o_linklist_is_empty(&http2->streams))
        free_stream(H2O_STRUCT_FROM_MEMBER(struct stream, link, http2->streams.next));
    h2o_buffer_dispose(&http2->output);
    /* The socket stays until the kernel has taken TLS's goodbye, and the connection with it. */
    http2->connection->http2 = NULL;
    h2o_socket_close(http2->socket);
    free(http2);
}

/* Gives a request to its handler. */
static void
handle(struct stream *stream)
{
    h2o_req_t *req = &stream->req;

    stream->ready = false;
    stream->handled = true;
    if (stream->body != NULL)
        req->entity = h2o_iovec_init(stream->body->bytes, stream->body->size);
    h2o_process_request(req);
}

static void on_written(h2o_socket_t *socket, const char *error);

/* Hands to the socket what nghttp2 has to send; false: something is wrong. */
static bool
send_output(struct http2 *http2)
{
    h2o_iovec_t bytes;

    while (http2->output->size < GATHER)
    {
        const uint8_t *frame;
        ssize_t size = nghttp2_session_mem_send(http2->session, &frame);

        if (size < 0)
            return false;
        if (size == 0)
            break;
        bytes = h2o_buffer_reserve(&http2->output, (size_t)size);
        memcpy(bytes.base, frame, (size_t)size);
        http2->output->size += (size_t)size;
    }
    if (http2->output->size == 0)
        return true;
    http2->writing = true;
    bytes = h2o_iovec_init(http2->output->bytes, http2->output->size);
    h2o_socket_write(http2->socket, &bytes, 1, on_written);
    return true;
}

/* Does what the notes say for one stream: ends it, begins it, or lets it go on. */
static void
attend(struct stream *stream)
{
    if (stream->closed)
        free_stream(stream);
    else if (stream->ready)
        handle(stream);
    else if (stream->taken && !stream->http2->writing)
    {
        stream->taken = false;
        h2o_proceed_response(&stream->req);
    }
}

/* Everything that is due on a connection, which may be gone afterwards. */
static void
turn(struct http2 *http2)
{
    h2o_linklist_t *link = http2->streams.next;

    h2o_timeout_unlink(&http2->soon);
    while (link != &http2->streams)
    {
        struct stream *stream = H2O_STRUCT_FROM_MEMBER(struct stream, link, link);

        link = link->next;
        attend(stream);
    }
    if (!http2->writing && !send_output(http2))
        http2->cut = true;
    if (nghttp2_session_get_outbound_queue_size(http2->session) > CONTROL_MAX)
        http2->cut = true;
    if (http2->cut || (!http2->writing && !nghttp2_session_want_read(http2->session) &&
                       !nghttp2_session_want_write(http2->session)))
        close_connection(http2);
}

static void
on_soon(h2o_timeout_entry_t *entry)
{
    turn(H2O_STRUCT_FROM_MEMBER(struct http2, soon, entry));
}

/* The socket has taken our bytes. */
static void
on_written(h2o_socket_t *socket, const char *error)
{
    struct connection *connection = socket->on_close.data;
    struct http2 *http2 = connection->http2;

    http2->writing = false;
    h2o_buffer_dispose(&http2->output);
    h2o_buffer_init(&http2->output, &h2o_socket_buffer_prototype);
    if (error != NULL)
        close_connection(http2);
    else
        turn(http2);
}

/* Bytes have come, or the client has gone. */
static void
on_readable(h2o_socket_t *socket, const char *error)
{
    struct connection *connection = socket->on_close.data;
    struct http2 *http2 = connection->http2;
    ssize_t taken;

    if (error != NULL)
    {
        close_connection(http2);
        return;
    }
    taken = nghttp2_session_mem_recv(http2->session, (const uint8_t *)socket->input->bytes,
                                     socket->input->size);
    h2o_buffer_consume(&socket->input, socket->input->size);
    if (taken == NGHTTP2_ERR_FLOODED)
        http2->cut = true;
    if (taken < 0)
        close_connection(http2);
    else
        turn(http2);
}

static socklen_t
get_own_name(h2o_conn_t *conn, struct sockaddr *address)
{
    return h2o_socket_getsockname(((struct http2 *)conn)->socket, address);
}

static socklen_t
get_peer_name(h2o_conn_t *conn, struct sockaddr *address)
{
    return h2o_socket_getpeername(((struct http2 *)conn)->socket, address);
}

static h2o_socket_t *
get_socket(h2o_conn_t *conn)
{
    return ((struct http2 *)conn)->socket;
}

/* Creates nghttp2's part of a connection. */
static nghttp2_session *
create_session(struct http2 *http2)
{
    const struct config *config = http2->connection->loop->config;
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, STREAMS_MAX},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)config->header_limit},
    };
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    nghttp2_session *session;

    if (nghttp2_session_callbacks_new(&callbacks) != 0 || nghttp2_option_new(&option) != 0)
        abort();
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_closed);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
    /* Its memory of streams that are no more serves priorities only. */
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_max_outbound_ack(option, CONTROL_MAX);
    /* Our own count is the limit, for http2_resets can be changed. */
    nghttp2_option_set_stream_reset_rate_limit(option, UINT32_MAX, UINT32_MAX);
    if (nghttp2_session_server_new2(&session, callbacks, http2, option) != 0 ||
        nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings,
                                sizeof(settings) / sizeof(settings[0])) != 0 ||
        nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW) !=
            0)
        abort();
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    return session;
}

void
http2_begin(struct connection *connection)
{
    static const h2o_conn_callbacks_t callbacks = {
        .get_sockname = get_own_name, .get_peername = get_peer_name, .get_socket = get_socket};
    struct loop *loop = connection->loop;
    h2o_conn_t *conn =
        h2o_create_connection(sizeof(struct http2), &loop->http, loop->accept.hosts,
                              *h2o_get_timestamp(&loop->http, NULL, NULL), &callbacks);
    struct http2 *http2 = (struct http2 *)conn;

    *http2 = (struct http2){.super = *conn,
                            .connection = connection,
                            .socket = connection->socket,
                            .window = h2o_now(loop->http.loop),
                            .soon.cb = on_soon};
    connection->http2 = http2;
    h2o_linklist_init_anchor(&http2->streams);
    h2o_buffer_init(&http2->output, &h2o_socket_buffer_prototype);
    http2->session = create_session(http2);
    h2o_socket_read_start(connection->socket, on_readable);
    on_readable(connection->socket, NULL);
}

size_t
http2_head_size(h2o_req_t *req)
{
    return H2O_STRUCT_FROM_MEMBER(struct stream, req, req)->head_size;
}

bool
http2_body_too_large(h2o_req_t *req)
{
    return H2O_STRUCT_FROM_MEMBER(struct stream, req, req)->too_large;
}

bool
http2_busy(const struct connection *connection)
{
    return !h2o_linklist_is_empty(&connection->http2->streams);
}

/* Has this stream used up its time? */
static bool
late(struct stream *stream, uint64_t now)
{
    const struct config *config = stream->http2->connection->loop->config;

    if (!stream->handled)
        return now - stream->since >= (uint64_t)(config->header_timeout + config->body_timeout);
    /* Before its answer begins, and while all of it that there is has been taken, it is our turn.
     */
    if (!stream->answered || (stream->state == H2O_SEND_STATE_IN_PROGRESS && !stream->owed) ||
        stream->req.bytes_sent - stream->moved > connection_least(config))
    {
        stream->since = now;
        stream->moved = stream->req.bytes_sent;
    }
    return now - stream->since >= (uint64_t)config->send_timeout;
}

/* Says goodbye while the loop is draining: first that the end is near, later that it is there. */
static void
take_leave(struct http2 *http2)
{
    if (!http2->noticed)
        nghttp2_submit_shutdown_notice(http2->session);
    else if (!http2->dismissed)
        nghttp2_submit_goaway(http2->session, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(http2->session),
                              NGHTTP2_NO_ERROR, NULL, 0);
    http2->dismissed = http2->noticed;
    http2->noticed = true;
    schedule(http2);
}

bool
http2_expired(struct connection *connection, uint64_t now, size_t *held)
{
    struct http2 *http2 = connection->http2;
    bool expired = false;

    *held = 0;
    for (h2o_linklist_t *link = http2->streams.next; link != &http2->streams; link = link->next)
    {
        struct stream *stream = H2O_STRUCT_FROM_MEMBER(struct stream, link, link);

        *held += stream->head_kept + (stream->body == NULL ? 0 : stream->body->size);
        expired = late(stream, now) || expired;
    }
    if (connection->loop->draining && !http2->dismissed)
        take_leave(http2);
    return expired;
}
