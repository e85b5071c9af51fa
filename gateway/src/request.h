/*
 * request.h: one HTTP request in the gateway's hands, from routing to its line in the log.
 */
#ifndef ROWSYNC_GATEWAY_REQUEST_H
#define ROWSYNC_GATEWAY_REQUEST_H

#include "connection.h"
#include "params.h"

/* Lives in h2o's memory of the request, and as long. */
struct request
{
    h2o_req_t *req; /* NULL while h2o is letting go of it */
    struct loop *loop;
    struct connection *connection;
    h2o_linklist_t link;         /* in connection->requests */
    const struct route *route;   /* NULL: none was found */
    char id[17];                 /* hexadecimal, unique in the process's life */
    char application[40];        /* application_name for PostgreSQL, with the id */
    struct jwt_claims *claims;   /* NULL: not authenticated */
    const char *user;            /* claims->user */
    char source[SOURCE_MAX + 1]; /* from the token or the header */
    struct pg_job job;
    void (*answered)(struct request *request, PGresult *result); /* handler's, takes the result */
    void (*released)(struct request *request); /* handler's, when h2o lets go; may be NULL */
    void (*departed)(struct request *request); /* handler's, when the client goes; may be NULL */
    void *subject;                             /* handler's own */
    uint64_t began;                            /* µs */
    uint64_t ended;            /* µs when the database was done; 0: was not asked */
    enum problem_code problem; /* answered with; PROBLEM_COUNT: none */
};

/* Takes a request from h2o. */
struct request *request_begin(h2o_req_t *req, struct loop *loop);

/* Memory that lasts as long as the request. */
void *request_memory(struct request *request, size_t size);

/* Hands over `size` bytes of memory: `release` gets them when the request ends. */
void request_hold(struct request *request, void *memory, size_t size,
                  void (*release)(void *memory));

/* Reads the request's query string into `params`, as params_read does. */
bool request_params(const struct request *request, struct param *params, size_t count,
                    struct problem *problem);

/* Answers with a problem document. Without effect while h2o is letting go of the request. */
void request_fail(struct request *request, const struct problem *problem);

/* Answers 200 with `size` bytes at `body`, which must last as long as the request. */
void request_answer(struct request *request, const char *type, const char *body, size_t size);

/* Answers 200 with a result's first value, which is JSON, without copying it; takes the result. */
void request_answer_result(struct request *request, PGresult *result);

/*
 * Runs a statement whose parameters stand in request->job.values; `answered` gets its result. What
 * goes wrong in between is answered here.
 */
void request_query(struct request *request, const struct pg_statement *statement,
                   void (*answered)(struct request *request, PGresult *result));

/*
 * Hands request->job to `pool`, with the session settings of the request; job.done, and job.row for
 * a stream, are the caller's. False: the pool's queue is full, and the request was answered so.
 */
bool request_submit(struct request *request, struct pg_pool *pool,
                    const struct pg_statement *statement);

/* Sets status, type and common headers of an answer that is sent piece by piece. */
void request_prepare_stream(struct request *request, const char *type);

/* Answers HEAD, where the answer to GET is a stream, whose length nobody knows before. False: this
 * is no HEAD. */
bool request_answer_head(struct request *request, const char *type);

/* Answers with a status that has no body: 204 or 304. */
void request_answer_empty(struct request *request, int status);

/* Logs an error of the database (NULL: none) where its problem does not tell the client all. */
void request_log_database_error(const struct request *request, const struct problem *problem,
                                const PGresult *result);

/* The value of WWW-Authenticate beside a problem with status 401. */
const char *request_challenge(enum problem_code code);

/* The phrase beside a status, which only people read. */
const char *request_reason(int status);

/* Adds a response header with a value that must last as long as the request. */
void request_header(struct request *request, const char *name, const char *value);

/*
 * The client has gone: nobody waits for this request's answer any more. `departed`, or where there
 * is none the job's end, may make h2o free the request and its connection before this returns.
 */
void request_abandon(struct request *request);

#endif
