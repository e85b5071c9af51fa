/*
 * early.c: refusing a request while its body is still coming.
 *
 * libh2o 2.2.5 shows a request to its handler when all of the body is there. Anybody could make the
 * gateway hold bodies then. So the sweep looks at the head of a large one itself, as soon as it
 * sees it, and answers past h2o where nothing good can come of the rest.
 */
#include "early.h"
#include "cors.h"
#include "log.h"
#include "router.h"
#include "wire.h"

#include <stdio.h>

/* The answer is with the kernel: h2o is told that the client has gone, and closes. */
static void
on_refused(h2o_socket_t *socket, const char *error)
{
    struct connection *connection = socket->on_close.data;

    if (error == NULL)
        connection_linger(connection);
    connection->reader(socket, "refused");
}

/* Counts and logs a request that no handler has seen. */
static void
record(struct connection *connection, const struct problem *problem, const char *id, size_t sent)
{
    size_t received = connection->socket->input->size;
    struct log_line line;

    metrics_request(&connection->loop->metrics, router_number(NULL), problem_status(problem->code),
                    problem->code, 0, received, sent);
    if (!log_enabled(LOG_INFO))
        return;
    log_begin(&line, LOG_INFO, "request");
    log_string(&line, "id", id);
    log_string(&line, "route", "none");
    log_number(&line, "status", problem_status(problem->code));
    log_string(&line, "code", problem_name(problem->code));
    log_number(&line, "received", (int64_t)received);
    log_number(&line, "sent", (int64_t)sent);
    log_end(&line);
}

/* Sends a problem document past h2o, which reads no further. */
static void
refuse(struct connection *connection, const struct problem *problem)
{
    static const size_t room = PROBLEM_BODY_MAX + 1024;
    const h2o_buffer_t *input = connection->socket->input;
    char *body = h2o_mem_alloc(PROBLEM_BODY_MAX);
    int status = problem_status(problem->code);
    struct wire_head head;
    struct text text;
    h2o_iovec_t bytes;
    size_t size;
    char id[17];

    snprintf(id, sizeof(id), "%016llx", (unsigned long long)connection->loop->next_request++);
    text_begin(&text, body, PROBLEM_BODY_MAX);
    problem_write(problem, id, &text);
    size = text_size(&text);
    connection->refusal = h2o_mem_alloc(room);
    text_begin(&text, connection->refusal, room);
    text_format(&text,
                "HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nContent-Length: %zu"
                "\r\nConnection: close\r\nCache-Control: no-store\r\nRowsync-Request-Id: %s\r\n",
                status, request_reason(status), size, id);
    if (status == 401)
        text_format(&text, "WWW-Authenticate: %s\r\n", request_challenge(problem->code));
    if (problem->retry_after != 0)
        text_format(&text, "Retry-After: %d\r\n", problem->retry_after);
    wire_scan(input->bytes, input->size, &head);
    cors_write(connection->loop->config, &head, &text);
    text_string(&text, "\r\n");
    text_append(&text, body, size);
    free(body);
    record(connection, problem, id, size);
    connection->reader = connection->socket->_cb.read;
    h2o_socket_read_stop(connection->socket);
    bytes = h2o_iovec_init(connection->refusal, text_size(&text));
    h2o_socket_write(connection->socket, &bytes, 1, on_refused);
}

/* Is the head's token good? */
static bool
authentic(struct connection *connection, struct problem *problem)
{
    const h2o_buffer_t *input = connection->socket->input;
    struct wire_head head;

    wire_scan(input->bytes, input->size, &head);
    if (head.authorization == NULL)
        return problem_set(problem, PROBLEM_MISSING_TOKEN,
                           "The request has no Authorization header with a bearer token.");
    return auth_allows(connection->loop->auth, head.authorization, head.authorization_size,
                       problem);
}

void
early_check(struct connection *connection, bool crowded)
{
    struct problem problem;

    /* Refused already, or "100 Continue" is still on its way. */
    if (connection->reader != NULL || h2o_socket_is_writing(connection->socket) ||
        connection->socket->_cb.read == NULL)
        return;
    if (!connection->admitted && !authentic(connection, &problem))
    {
        refuse(connection, &problem);
        return;
    }
    connection->admitted = true;
    if (!crowded)
        return;
    problem_set_full(&problem);
    refuse(connection, &problem);
}
