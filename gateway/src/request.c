/*
 * request.c: one HTTP request in the gateway's hands, from routing to its line in the log.
 */
#include "request.h"
#include "log.h"
#include "router.h"
#include "sqlstate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Microseconds from a request's first byte to its last, by h2o's clock, which counts milliseconds.
 */
static int64_t
time_to_receive(const h2o_req_t *req)
{
    const struct timeval *from = &req->timestamps.request_begin_at;
    const struct timeval *to = &req->processed_at.at;
    int64_t us = (to->tv_sec - from->tv_sec) * (int64_t)1000000 + to->tv_usec - from->tv_usec;

    return us < 0 ? 0 : us;
}

/* Adds how long each stage took that the request has been through. */
static void
log_stages(const struct request *request, const h2o_req_t *req, struct log_line *line)
{
    const struct pg_job *job = &request->job;
    uint64_t now = clock_us();
    uint64_t ended = request->ended != 0 ? request->ended : now;
    uint64_t started = job->started_at != 0 ? job->started_at : ended;

    log_number(line, "receive_us", time_to_receive(req));
    if (job->queued_at != 0)
    {
        log_number(line, "check_us", (int64_t)(job->queued_at - request->began));
        log_number(line, "queue_us", (int64_t)(started - job->queued_at));
        log_number(line, "database_us", (int64_t)(ended - started));
        log_number(line, "send_us", (int64_t)(now - ended));
    }
    log_number(line, "total_us", (int64_t)(now - request->began));
}

/* Writes the request's line in the log, when everything about it is known. */
static void
log_request(const struct request *request, const h2o_req_t *req)
{
    struct log_line line;

    if (!log_enabled(LOG_INFO))
        return;
    log_begin(&line, LOG_INFO, "request");
    log_string(&line, "id", request->id);
    log_bytes(&line, "method", req->input.method.base, req->input.method.len);
    log_string(&line, "route", request->route == NULL ? "none" : request->route->path);
    log_number(&line, "status", req->res.status);
    log_string(&line, "code",
               request->problem == PROBLEM_COUNT ? NULL : problem_name(request->problem));
    log_string(&line, "user", request->user);
    if (request->source[0] != '\0')
        log_string(&line, "source", request->source);
    log_string(&line, "role", request->claims == NULL ? NULL : request->claims->role);
    log_number(&line, "received", (int64_t)req->entity.len);
    log_number(&line, "sent", (int64_t)req->bytes_sent);
    log_stages(request, req, &line);
    log_end(&line);
}

/* h2o lets go: all is sent, or the client has gone. Its request is still readable here. */
static void
on_release(void *memory)
{
    struct request *request = memory;
    h2o_req_t *req = request->req;

    /* Without an answer: an HTTP/2 client has taken the request back, or is gone. */
    if (req->res.status == 0)
    {
        request->problem = PROBLEM_CLIENT_GONE;
        req->res.status = problem_status(PROBLEM_CLIENT_GONE);
    }
    metrics_request(&request->loop->metrics, router_number(request->route), req->res.status,
                    request->problem, clock_us() - request->began, req->entity.len,
                    req->bytes_sent);
    log_request(request, req);
    request->req = NULL;
    if (request->released != NULL)
        request->released(request);
    h2o_linklist_unlink(&request->link);
    pg_job_abandon(&request->job);
    jwt_claims_release(request->claims);
}

struct request *
request_begin(h2o_req_t *req, struct loop *loop)
{
    struct request *request = h2o_mem_alloc_shared(&req->pool, sizeof(*request), on_release);

    memset(request, 0, sizeof(*request));
    request->req = req;
    request->loop = loop;
    request->connection = connection_of(req);
    request->problem = PROBLEM_COUNT;
    request->began = clock_us();
    h2o_linklist_insert(&request->connection->requests, &request->link);
    snprintf(request->id, sizeof(request->id), "%016llx", (unsigned long long)loop->next_request++);
    snprintf(request->application, sizeof(request->application), "rowsync-gateway %s", request->id);
    request_header(request, "rowsync-request-id", request->id);
    return request;
}

void
request_header(struct request *request, const char *name, const char *value)
{
    h2o_add_header_by_str(&request->req->pool, &request->req->res.headers, name, strlen(name), 1,
                          NULL, value, strlen(value));
}

void *
request_memory(struct request *request, size_t size)
{
    return h2o_mem_alloc_pool(&request->req->pool, size);
}

bool
request_params(const struct request *request, struct param *params, size_t count,
               struct problem *problem)
{
    const h2o_req_t *req = request->req;

    return req->query_at == SIZE_MAX ||
           params_read(req->path.base + req->query_at + 1, req->path.len - req->query_at - 1,
                       params, count, problem);
}

const char *
request_reason(int status)
{
    static const struct
    {
        int status;
        const char *reason;
    } reasons[] = {
        {200, "OK"},
        {204, "No Content"},
        {304, "Not Modified"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {410, "Gone"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {503, "Service Unavailable"},
    };

    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Status";
}

/* Is only the head of an answer wanted? */
static bool
is_head(const h2o_req_t *req)
{
    return h2o_memis(req->input.method.base, req->input.method.len, H2O_STRLIT("HEAD"));
}

/* Sends a whole answer. The bytes must last as long as the request. */
static void
send_whole(struct request *request, int status, const char *type, const char *body, size_t size)
{
    static h2o_generator_t generator = {NULL, NULL};
    h2o_req_t *req = request->req;
    h2o_iovec_t bytes = h2o_iovec_init(body, size);

    req->res.status = status;
    req->res.reason = request_reason(status);
    req->res.content_length = size;
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL, type, strlen(type));
    /* Answers are about one user's data at one moment. */
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store"));
    if (request->loop->draining)
        req->http1_is_persistent = 0;
    h2o_start_response(req, &generator);
    h2o_send(req, &bytes, is_head(req) ? 0 : 1, H2O_SEND_STATE_FINAL);
}

const char *
request_challenge(enum problem_code code)
{
    return code == PROBLEM_MISSING_TOKEN ? "Bearer realm=\"rowsync\""
                                         : "Bearer realm=\"rowsync\", error=\"invalid_token\"";
}

/* Headers that certain problems come with. */
static void
add_problem_headers(struct request *request, const struct problem *problem)
{
    int status = problem_status(problem->code);

    if (problem->retry_after != 0)
    {
        char *value = request_memory(request, 16);

        snprintf(value, 16, "%d", problem->retry_after);
        request_header(request, "retry-after", value);
    }
    if (status == 401)
    {
        request_header(request, "www-authenticate", request_challenge(problem->code));
    }
}

void
request_fail(struct request *request, const struct problem *problem)
{
    struct text text;
    char *body;

    request->problem = problem->code;
    if (request->req == NULL)
        return;
    body = request_memory(request, PROBLEM_BODY_MAX);
    text_begin(&text, body, PROBLEM_BODY_MAX);
    problem_write(problem, request->id, &text);
    add_problem_headers(request, problem);
    send_whole(request, problem_status(problem->code), "application/problem+json", body,
               text_size(&text));
}

void
request_answer(struct request *request, const char *type, const char *body, size_t size)
{
    if (request->req != NULL)
        send_whole(request, 200, type, body, size);
}

/* Large memory that belongs to a request. */
struct held
{
    struct loop *loop;
    size_t size;
    void *memory;
    void (*release)(void *memory);
};

/* The request that held it has ended. */
static void
dispose_held(void *memory)
{
    struct held *held = memory;

    held->loop->held -= held->size;
    held->release(held->memory);
}

void
request_hold(struct request *request, void *memory, size_t size, void (*release)(void *memory))
{
    struct held *held = h2o_mem_alloc_shared(&request->req->pool, sizeof(*held), dispose_held);

    *held = (struct held){request->loop, size, memory, release};
    request->loop->held += size;
}

/* PQclear for request_hold. */
static void
clear_result(void *result)
{
    PQclear(result);
}

void
request_answer_result(struct request *request, PGresult *result)
{
    if (request->req == NULL)
    {
        PQclear(result);
        return;
    }
    request_hold(request, result, (size_t)PQgetlength(result, 0, 0), clear_result);
    send_whole(request, 200, "application/json", PQgetvalue(result, 0, 0),
               (size_t)PQgetlength(result, 0, 0));
}

void
request_prepare_stream(struct request *request, const char *type)
{
    h2o_req_t *req = request->req;

    req->res.status = 200;
    req->res.reason = request_reason(200);
    req->res.content_length = SIZE_MAX;
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL, type, strlen(type));
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store"));
    /* HTTP/1.0 has no chunks: there the end of the connection is the end of the answer. */
    if (request->loop->draining || req->version < 0x101)
        req->http1_is_persistent = 0;
}

bool
request_answer_head(struct request *request, const char *type)
{
    if (!is_head(request->req))
        return false;
    request_prepare_stream(request, type);
    request_answer_empty(request, 200);
    return true;
}

void
request_answer_empty(struct request *request, int status)
{
    static h2o_generator_t generator = {NULL, NULL};
    h2o_req_t *req = request->req;

    req->res.status = status;
    req->res.reason = request_reason(status);
    h2o_start_response(req, &generator);
    h2o_send(req, NULL, 0, H2O_SEND_STATE_FINAL);
}

void
request_log_database_error(const struct request *request, const struct problem *problem,
                           const PGresult *result)
{
    struct log_line line;

    if (result == NULL || !log_enabled(LOG_ERROR) ||
        (problem_status(problem->code) < 500 && problem->code != PROBLEM_ROLE_FORBIDDEN))
        return;
    log_begin(&line, LOG_ERROR, "database_error");
    log_string(&line, "id", request->id);
    log_string(&line, "user", request->user);
    log_string(&line, "sqlstate", PQresultErrorField(result, PG_DIAG_SQLSTATE));
    log_string(&line, "message", PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
    log_string(&line, "detail", PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL));
    log_string(&line, "hint", PQresultErrorField(result, PG_DIAG_MESSAGE_HINT));
    log_string(&line, "context", PQresultErrorField(result, PG_DIAG_CONTEXT));
    log_end(&line);
}

/* The database's answer, or what came instead of it. */
static void
on_job_done(struct pg_job *job, enum pg_end end, PGresult *result)
{
    struct request *request = H2O_STRUCT_FROM_MEMBER(struct request, job, job);
    struct problem problem;

    request->ended = clock_us();
    if (end == PG_END_RESULT && result != NULL && PQntuples(result) > 0 &&
        !PQgetisnull(result, 0, 0))
    {
        request->loop->database_good = h2o_now(request->loop->http.loop);
        request->answered(request, result);
    }
    else
    {
        problem_from_database(&problem, end, result);
        request_log_database_error(request, &problem, result);
        PQclear(result);
        request_fail(request, &problem);
    }
}

bool
request_submit(struct request *request, struct pg_pool *pool, const struct pg_statement *statement)
{
    struct loop *loop = request->loop;
    struct problem problem;

    if (loop->held != 0 && loop->held + loop->received > loop->memory_limit)
    {
        problem_set_full(&problem);
        request_fail(request, &problem);
        return false;
    }
    request->job.statement = statement;
    request->job.claims = request->claims == NULL ? NULL : request->claims->json;
    request->job.application = request->application;
    request->job.owner = request->user == NULL ? 0 : text_hash(request->user);
    request->job.role = request->claims == NULL ? NULL : request->claims->role;
    if (pg_pool_submit(pool, &request->job))
        return true;
    problem_set(&problem, PROBLEM_OVERLOADED,
                "The server has as many requests waiting as it may hold.");
    problem.retry_after = 1;
    request_fail(request, &problem);
    return false;
}

void
request_query(struct request *request, const struct pg_statement *statement,
              void (*answered)(struct request *request, PGresult *result))
{
    request->job.done = on_job_done;
    request->answered = answered;
    request_submit(request, request->loop->pool, statement);
}

void
request_abandon(struct request *request)
{
    if (request->departed != NULL)
        request->departed(request);
    else
        pg_job_abandon(&request->job);
}
