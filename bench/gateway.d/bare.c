/*
 * bare.c: the least that libh2o and libpq can do for one query a request: the gateway's floor.
 *
 *   bare CONNINFO USER SOURCE POOL
 *
 * A POST uploads its body, anything else downloads a page. One loop, no token, no limits, no
 * timeouts: any failure ends the process. It prints the port it listens on.
 */
#include <h2o.h>
#include <libpq-fe.h>
#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One database connection and the request that it works for. */
struct connection
{
    PGconn *pg;
    h2o_socket_t *socket;
    h2o_req_t *req; /* NULL: idle */
    struct connection *next;
};

/* A request that waits for a connection; in the request's memory. */
struct waiting
{
    h2o_req_t *req;
    struct waiting *next;
};

static h2o_context_t context;
static h2o_accept_ctx_t accept_context;
static struct connection *idle;
static struct waiting *first;
static struct waiting **last = &first;
static const char *parameters[2];

/* Ends the process with a word about why. */
static void
fail(const char *what)
{
    fprintf(stderr, "bare: %s\n", what);
    exit(1);
}

/* Sends the query of one request. */
static void
begin(struct connection *connection, h2o_req_t *req)
{
    bool upload = h2o_memis(req->method.base, req->method.len, H2O_STRLIT("POST"));
    const char *values[] = {parameters[0], parameters[1], req->entity.base};
    int lengths[] = {0, 0, (int)req->entity.len};
    int formats[] = {0, 0, 1};

    connection->req = req;
    if (!PQsendQueryPrepared(connection->pg, upload ? "u" : "q", upload ? 3 : 2, values, lengths,
                             formats, 0) ||
        PQflush(connection->pg) != 0)
        fail(PQerrorMessage(connection->pg));
}

/* A result goes when its request goes. */
static void
dispose(void *memory)
{
    PQclear(*(PGresult **)memory);
}

/* Answers with the result's only value, without copying it. */
static void
answer(h2o_req_t *req, PGresult *result)
{
    static h2o_generator_t generator = {NULL, NULL};
    h2o_iovec_t body = h2o_iovec_init(PQgetvalue(result, 0, 0), PQgetlength(result, 0, 0));
    PGresult **hold = h2o_mem_alloc_shared(&req->pool, sizeof(*hold), dispose);

    *hold = result;
    req->res.status = 200;
    req->res.reason = "OK";
    req->res.content_length = body.len;
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL,
                   H2O_STRLIT("application/json"));
    h2o_start_response(req, &generator);
    h2o_send(req, &body, 1, H2O_SEND_STATE_FINAL);
}

/* The database has said something. */
static void
on_database(h2o_socket_t *socket, const char *error)
{
    struct connection *connection = socket->data;
    h2o_req_t *req = connection->req;
    PGresult *result;

    if (error != NULL || !PQconsumeInput(connection->pg))
        fail("the database has gone");
    if (PQisBusy(connection->pg))
        return;
    result = PQgetResult(connection->pg);
    if (PQresultStatus(result) != PGRES_TUPLES_OK || PQgetResult(connection->pg) != NULL)
        fail(PQerrorMessage(connection->pg));
    if (first != NULL)
    {
        begin(connection, first->req);
        first = first->next;
        if (first == NULL)
            last = &first;
    }
    else
    {
        connection->next = idle;
        idle = connection;
    }
    answer(req, result);
}

/* Every request, whatever it asks. */
static int
on_request(h2o_handler_t *self, h2o_req_t *req)
{
    struct connection *connection = idle;
    struct waiting *waiting;

    (void)self;
    if (connection != NULL)
    {
        idle = connection->next;
        begin(connection, req);
        return 0;
    }
    waiting = h2o_mem_alloc_pool(&req->pool, sizeof(*waiting));
    *waiting = (struct waiting){req, NULL};
    *last = waiting;
    last = &waiting->next;
    return 0;
}

/* A client. */
static void
on_accept(h2o_socket_t *listener, const char *error)
{
    h2o_socket_t *socket = error == NULL ? h2o_evloop_socket_accept(listener) : NULL;

    if (socket != NULL)
        h2o_accept(&accept_context, socket);
}

/* Opens one connection to the database with its prepared statement. */
static void
connect_database(const char *conninfo)
{
    struct connection *connection = calloc(1, sizeof(*connection));

    if (connection == NULL)
        abort();
    connection->pg = PQconnectdb(conninfo);
    if (PQstatus(connection->pg) != CONNECTION_OK)
        fail(PQerrorMessage(connection->pg));
    PQclear(PQprepare(connection->pg, "q", "SELECT rowsync.download($1, $2, 0, 10)", 0, NULL));
    PQclear(PQprepare(connection->pg, "u", "SELECT rowsync.upload($1, $2, $3)", 0, NULL));
    PQsetnonblocking(connection->pg, 1);
    connection->socket = h2o_evloop_socket_create(context.loop, dup(PQsocket(connection->pg)),
                                                  H2O_SOCKET_FLAG_DONT_READ);
    connection->socket->data = connection;
    h2o_socket_read_start(connection->socket, on_database);
    connection->next = idle;
    idle = connection;
}

int
main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    h2o_globalconf_t global;
    h2o_hostconf_t *host;
    h2o_socket_t *listener;

    if (argc != 5)
        fail("usage: bare CONNINFO USER SOURCE POOL");
    parameters[0] = argv[2];
    parameters[1] = argv[3];
    h2o_config_init(&global);
    host = h2o_config_register_host(&global, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    h2o_create_handler(h2o_config_register_path(host, "/", 0), sizeof(h2o_handler_t))->on_req =
        on_request;
    h2o_context_init(&context, h2o_evloop_create(), &global);
    accept_context = (h2o_accept_ctx_t){.ctx = &context, .hosts = global.hosts};
    for (int i = 0; i < atoi(argv[4]); i++)
        connect_database(argv[1]);
    if (bind(descriptor, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(descriptor, 512) != 0 ||
        getsockname(descriptor, (struct sockaddr *)&address, &size) != 0)
        fail("cannot listen");
    listener = h2o_evloop_socket_create(context.loop, descriptor, H2O_SOCKET_FLAG_DONT_READ);
    h2o_socket_read_start(listener, on_accept);
    printf("%u\n", ntohs(address.sin_port));
    fflush(stdout);
    while (h2o_evloop_run(context.loop, INT32_MAX) == 0)
        ;
    return 0;
}
