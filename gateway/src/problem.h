/*
 * problem.h: errors as RFC 9457 problem documents, each with a stable code.
 */
#ifndef ROWSYNC_GATEWAY_PROBLEM_H
#define ROWSYNC_GATEWAY_PROBLEM_H

#include "text.h"

/*
 * Every answer of the gateway that is an error: name, HTTP status, code, title. The codes are part
 * of the protocol (docs/protocol.md); a code once released keeps its meaning.
 */
#define PROBLEM_CODES(X)                                                                           \
    X(INVALID_REQUEST, 400, "invalid_request", "Malformed request")                                \
    X(INVALID_PARAMETER, 400, "invalid_parameter", "Invalid parameter")                            \
    X(INVALID_ENCODING, 400, "invalid_encoding", "Text that is not UTF-8")                         \
    X(SOURCE_MISMATCH, 400, "source_mismatch", "Token and header name different sources")          \
    X(MISSING_TOKEN, 401, "missing_token", "No token")                                             \
    X(UNSUPPORTED_SCHEME, 401, "unsupported_scheme", "Not a bearer token")                         \
    X(MALFORMED_TOKEN, 401, "malformed_token", "Malformed token")                                  \
    X(UNSUPPORTED_ALGORITHM, 401, "unsupported_algorithm", "Token algorithm not accepted")         \
    X(UNKNOWN_KEY, 401, "unknown_key", "Token signed with an unknown key")                         \
    X(INVALID_SIGNATURE, 401, "invalid_signature", "Token signature is wrong")                     \
    X(EXPIRED_TOKEN, 401, "expired_token", "Token expired")                                        \
    X(PREMATURE_TOKEN, 401, "premature_token", "Token not valid yet")                              \
    X(WRONG_ISSUER, 401, "wrong_issuer", "Token of another issuer")                                \
    X(WRONG_AUDIENCE, 401, "wrong_audience", "Token for another audience")                         \
    X(MISSING_CLAIM, 401, "missing_claim", "Token lacks a claim")                                  \
    X(INVALID_CLAIM, 401, "invalid_claim", "Token has an unusable claim")                          \
    X(ROLE_FORBIDDEN, 403, "role_forbidden", "Role not allowed")                                   \
    X(NOT_FOUND, 404, "not_found", "No such route")                                                \
    X(METHOD_NOT_ALLOWED, 405, "method_not_allowed", "Method not allowed")                         \
    X(HISTORY_PRUNED, 410, "history_pruned", "History pruned")                                     \
    X(BODY_TOO_LARGE, 413, "body_too_large", "Request body too large")                             \
    X(UNSUPPORTED_MEDIA_TYPE, 415, "unsupported_media_type", "Unsupported media type")             \
    X(EXPECTATION_FAILED, 417, "expectation_failed", "Expectation not supported")                  \
    X(TOO_MANY_REQUESTS, 429, "too_many_requests", "Too many requests of this user")               \
    X(HEADER_TOO_LARGE, 431, "header_too_large", "Request head too large")                         \
    X(CLIENT_GONE, 499, "client_gone", "Client gone")                                              \
    X(INTERNAL_ERROR, 500, "internal_error", "Internal error")                                     \
    X(UNAVAILABLE, 503, "unavailable", "Database unavailable")                                     \
    X(OVERLOADED, 503, "overloaded", "Too many requests at once")                                  \
    X(TIMEOUT, 503, "timeout", "Database took too long")                                           \
    X(DRAINING, 503, "draining", "Shutting down")

enum problem_code
{
#define X(name, status, code, title) PROBLEM_##name,
    PROBLEM_CODES(X)
#undef X
        PROBLEM_COUNT
};

/* One error on its way to the client. */
struct problem
{
    enum problem_code code;
    int retry_after;   /* seconds for Retry-After; 0: no such header */
    char detail[1024]; /* what is wrong, for people */
    char hint[512];    /* what to do about it; may be empty */
};

/* The registry's columns. */
int problem_status(enum problem_code code);
const char *problem_name(enum problem_code code);

/* Fills a problem with a detail by printf format and without a hint. False, for callers' returns.
 */
bool problem_set(struct problem *problem, enum problem_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The problem of a request for whose bytes there is no room. */
void problem_set_full(struct problem *problem);

/* Adds the sentence that says what to do. */
void problem_hint(struct problem *problem, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The most that problem_write needs. */
#define PROBLEM_BODY_MAX 12288

/* Writes the JSON document, with the request id under which the log has more. */
void problem_write(const struct problem *problem, const char *request_id, struct text *text);

#endif
