/*
 * router.c: which request goes to which handler, and what is checked before.
 */
#include "cors.h"
#include "http2.h"
#include "limiter.h"
#include "log.h"
#include "router.h"
#include "wire.h"

#include <string.h>

static const struct route routes[] = {
    {"/sync/upload", "POST", false, handle_upload},
    {"/sync/download", "GET", false, handle_download},
    {"/sync/snapshot", "GET", false, handle_snapshot},
    {"/sync/watch", "GET", false, handle_watch},
    {"/sync/schema-version", "GET", false, handle_schema_version},
    {"/sync/schema", "GET", false, handle_schema},
    {"/sync/digest", "GET", false, handle_digest},
    {"/healthz", "GET", true, handle_health},
    {"/readyz", "GET", true, handle_ready},
    {"/metrics", "GET", true, handle_metrics},
};

#define ROUTE_COUNT (sizeof(routes) / sizeof(routes[0]))

_Static_assert(ROUTE_COUNT < METRICS_ROUTES, "the last place is for requests without a route");

size_t
router_number(const struct route *route)
{
    return route == NULL ? METRICS_ROUTES - 1 : (size_t)(route - routes);
}

void
router_names(const char **names)
{
    memset(names, 0, METRICS_ROUTES * sizeof(*names));
    for (size_t i = 0; i < ROUTE_COUNT; i++)
        names[i] = routes[i].path;
    names[METRICS_ROUTES - 1] = "none";
}

/* h2o's handler with what ours needs beside it. */
struct router
{
    h2o_handler_t super;
    size_t header_limit;
};

/* What allows a method, for the Allow header. */
static const char *
allowed_methods(const struct route *route)
{
    return route->method[0] == 'P' ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
}

/*
 * Finds the route of a path, which must stand there as it is: whatever a proxy keeps from strangers
 * by its path cannot be reached by another spelling of it.
 */
static const struct route *
find_route(const h2o_req_t *req)
{
    size_t size = req->query_at == SIZE_MAX ? req->path.len : req->query_at;

    for (size_t i = 0; i < ROUTE_COUNT; i++)
        if (h2o_memis(req->path.base, size, routes[i].path, strlen(routes[i].path)))
            return &routes[i];
    return NULL;
}

/* Is the request's method the route's, or HEAD where that is GET? */
static bool
method_fits(const h2o_req_t *req, const struct route *route)
{
    return h2o_memis(req->method.base, req->method.len, route->method, strlen(route->method)) ||
           (route->method[0] == 'G' &&
            h2o_memis(req->method.base, req->method.len, H2O_STRLIT("HEAD")));
}

/* Reads the source from the header into the request; the token may already have said it. */
static bool
read_source(struct request *request, struct problem *problem)
{
    static const char name[] = "rowsync-source-id";
    const h2o_headers_t *headers = &request->req->headers;
    ssize_t at = h2o_find_header_by_str(headers, name, sizeof(name) - 1, -1);
    const char *claimed = request->claims->source;
    h2o_iovec_t given;

    if (claimed != NULL)
        memcpy(request->source, claimed, strlen(claimed) + 1);
    if (at == -1)
        return claimed != NULL ||
               problem_set(problem, PROBLEM_MISSING_CLAIM,
                           "The token has no claim \"did\" (the source), and the request no "
                           "Rowsync-Source-Id header instead.");
    given = headers->entries[at].value;
    if (h2o_find_header_by_str(headers, name, sizeof(name) - 1, at) != -1)
        return problem_set(problem, PROBLEM_INVALID_PARAMETER,
                           "There is more than one Rowsync-Source-Id header.");
    if (given.len == 0 || given.len > SOURCE_MAX || !utf8_valid(given.base, given.len))
        return problem_set(problem, PROBLEM_INVALID_PARAMETER,
                           "The Rowsync-Source-Id header must be 1 to %d bytes of UTF-8.",
                           SOURCE_MAX);
    if (claimed != NULL && !h2o_memis(given.base, given.len, claimed, strlen(claimed)))
        return problem_set(problem, PROBLEM_SOURCE_MISMATCH,
                           "The Rowsync-Source-Id header names another source than the token's "
                           "claim \"did\".");
    memcpy(request->source, given.base, given.len);
    request->source[given.len] = '\0';
    return true;
}

/* Has the user requests left? */
static bool
within_rate(struct request *request, struct problem *problem)
{
    struct limiter *limiter = request->loop->limiter;
    int wait;

    if (limiter == NULL || limiter_take(limiter, request->user, request->began, &wait))
        return true;
    problem_set(problem, PROBLEM_TOO_MANY_REQUESTS,
                "This user sends more than %lld requests a second.",
                (long long)request->loop->config->rate_limit);
    problem->retry_after = wait;
    return false;
}

/* Finds out who is asking. */
static bool
authenticate(struct request *request, struct problem *problem)
{
    h2o_req_t *req = request->req;
    ssize_t at = h2o_find_header(&req->headers, H2O_TOKEN_AUTHORIZATION, -1);
    h2o_iovec_t value;

    if (at == -1)
        return problem_set(problem, PROBLEM_MISSING_TOKEN,
                           "The request has no Authorization header with a bearer token.");
    if (h2o_find_header(&req->headers, H2O_TOKEN_AUTHORIZATION, at) != -1)
        return problem_set(problem, PROBLEM_MALFORMED_TOKEN,
                           "There is more than one Authorization header.");
    value = req->headers.entries[at].value;
    request->claims = auth_check(request->loop->auth, value.base, value.len,
                                 req->processed_at.at.tv_sec, problem);
    if (request->claims == NULL)
        return false;
    request->user = request->claims->user;
    return read_source(request, problem) && within_rate(request, problem);
}

static bool
refuse_head(size_t limit, struct problem *problem)
{
    return problem_set(problem, PROBLEM_HEADER_TOO_LARGE,
                       "The request's head is larger than %zu bytes.", limit);
}

static bool
refuse_body(size_t limit, struct problem *problem)
{
    problem_set(problem, PROBLEM_BODY_TOO_LARGE, "The request body is larger than %zu bytes.",
                limit);
    problem_hint(problem, "Send fewer changes in one request, or pack it with gzip.");
    return false;
}

/* The same limits for a request that came by HTTP/2, whose framing is nghttp2's business. */
static bool
check_http2(h2o_req_t *req, size_t limit, struct problem *problem)
{
    if (http2_head_size(req) > limit)
        return refuse_head(limit, problem);
    return !http2_body_too_large(req) ||
           refuse_body(req->conn->ctx->globalconf->max_request_entity_size, problem);
}

/*
 * Looks at the bytes of an HTTP/1 head for what h2o lets pass: framing that a proxy before us may
 * have read differently, and sheer size. Such a connection is not used again.
 */
static bool
check_head(struct request *request, size_t limit, struct problem *problem)
{
    const h2o_buffer_t *input = request->connection->socket->input;
    int version = request->req->version;
    struct wire_head head;

    if (version >= 0x200)
        return check_http2(request->req, limit, problem);
    wire_scan(input->bytes, input->size, &head);
    /* HTTP/1.0 knows neither Host nor Transfer-Encoding (RFC 9112, 3.2 and 6.1). */
    if (head.size <= limit && head.lengths + head.encodings <= 1 && !head.folded && !head.bare &&
        (version == 0x100 ? head.hosts <= 1 && head.encodings == 0 : head.hosts == 1))
        return true;
    request->req->http1_is_persistent = 0;
    connection_linger(request->connection);
    if (head.size > limit)
        return refuse_head(limit, problem);
    if (head.folded)
        return problem_set(problem, PROBLEM_INVALID_REQUEST,
                           "The request's head has a folded header line.");
    if (head.bare)
        return problem_set(problem, PROBLEM_INVALID_REQUEST,
                           "The request's head has a line that does not end with CR LF.");
    if (head.lengths + head.encodings <= 1 && (version != 0x100 || head.encodings == 0))
        return problem_set(problem, PROBLEM_INVALID_REQUEST,
                           "The request has %zu Host headers instead of one.", head.hosts);
    return problem_set(problem, PROBLEM_INVALID_REQUEST,
                       "The request has %zu Content-Length and %zu Transfer-Encoding headers: "
                       "where its body ends is ambiguous.",
                       head.lengths, head.encodings);
}

/* Every request comes here first. */
static int
on_request(h2o_handler_t *self, h2o_req_t *req)
{
    struct router *router = (struct router *)self;
    struct request *request;
    struct problem problem;

    request = request_begin(req, H2O_STRUCT_FROM_MEMBER(struct loop, http, req->conn->ctx));
    request->route = find_route(req);
    cors_answer(request);
    if (!check_head(request, router->header_limit, &problem))
        request_fail(request, &problem);
    else if (request->route == NULL)
    {
        problem_set(&problem, PROBLEM_NOT_FOUND, "There is nothing at this path.");
        request_fail(request, &problem);
    }
    else if (h2o_memis(req->method.base, req->method.len, H2O_STRLIT("OPTIONS")))
        cors_preflight(request, allowed_methods(request->route));
    else if (!method_fits(req, request->route))
    {
        problem_set(&problem, PROBLEM_METHOD_NOT_ALLOWED, "%s takes %s only.", request->route->path,
                    allowed_methods(request->route));
        request_header(request, "allow", allowed_methods(request->route));
        request_fail(request, &problem);
    }
    else if (!request->route->open && !authenticate(request, &problem))
        request_fail(request, &problem);
    else
    {
        if (request->connection->http2 == NULL)
            connection_watch(request->connection);
        request->route->handle(request);
    }
    return 0;
}

/* The answer to a request that h2o itself refused, being replaced by a problem document. */
struct refusal
{
    h2o_ostream_t super;
    h2o_iovec_t body;
};

static void
send_refusal(h2o_ostream_t *self, h2o_req_t *req, h2o_iovec_t *unused, size_t count,
             h2o_send_state_t state)
{
    struct refusal *refusal = (struct refusal *)self;

    (void)unused;
    h2o_ostream_send_next(self, req, &refusal->body, count == 0 ? 0 : 1, state);
}

/* Which problem h2o's own status stands for. */
static void
refused_as(int status, size_t body_limit, struct problem *problem)
{
    switch (status)
    {
        case 413:
            refuse_body(body_limit, problem);
            break;
        case 417:
            problem_set(problem, PROBLEM_EXPECTATION_FAILED,
                        "The only expectation known is 100-continue.");
            break;
        case 404:
            problem_set(problem, PROBLEM_NOT_FOUND, "There is nothing at this path.");
            break;
        default:
            problem_set(problem, PROBLEM_INVALID_REQUEST,
                        "The request's body is not framed as HTTP asks.");
            break;
    }
}

/* h2o answers some requests before any handler sees them. Only those have the fallback path. */
static void
on_refusal(h2o_filter_t *self, h2o_req_t *req, h2o_ostream_t **slot)
{
    struct request *request =
        request_begin(req, H2O_STRUCT_FROM_MEMBER(struct loop, http, req->conn->ctx));
    struct refusal *refusal = (struct refusal *)h2o_add_ostream(req, sizeof(*refusal), slot);
    struct problem problem;
    struct text text;
    char *body = request_memory(request, PROBLEM_BODY_MAX);

    (void)self;
    cors_answer(request);
    refused_as(req->res.status, req->conn->ctx->globalconf->max_request_entity_size, &problem);
    request->problem = problem.code;
    text_begin(&text, body, PROBLEM_BODY_MAX);
    problem_write(&problem, request->id, &text);
    refusal->super.do_send = send_refusal;
    refusal->body = h2o_iovec_init(body, text_size(&text));
    req->res.content_length = refusal->body.len;
    h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE,
                   H2O_STRLIT("application/problem+json"), 1);
    /* The rest of the body may still be coming. */
    if (!req->http1_is_persistent && request->connection->http2 == NULL)
        connection_linger(request->connection);
    h2o_setup_next_ostream(req, &refusal->super.next);
}

void
router_configure(h2o_globalconf_t *global, const struct config *config)
{
    h2o_hostconf_t *host =
        h2o_config_register_host(global, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    h2o_pathconf_t *path = h2o_config_register_path(host, "/", 0);
    struct router *router = (struct router *)h2o_create_handler(path, sizeof(*router));
    h2o_filter_t *filter = h2o_create_filter(&host->fallback_path, sizeof(*filter));

    router->super.on_req = on_request;
    router->header_limit = (size_t)config->header_limit;
    filter->on_setup_ostream = on_refusal;
    if (config->gzip_level != 0)
    {
        h2o_compress_args_t arguments = {
            .min_size = 1024, .gzip = {(int)config->gzip_level}, .brotli = {-1}};

        h2o_compress_register(path, &arguments);
    }
}
