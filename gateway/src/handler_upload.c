/*
 * handler_upload.c: a batch of changes. The body passes through unparsed.
 */
#include "gzip.h"
#include "router.h"

#include <stdlib.h>
#include <string.h>

/* Undoes gzip. False when it was answered with a problem. */
static bool
unpack(struct request *request, h2o_iovec_t *body)
{
    size_t most = (size_t)request->loop->config->unpacked_limit;
    char *unpacked;
    struct problem problem;

    switch (gzip_unpack(body->base, body->len, most, &unpacked, &body->len))
    {
        case GZIP_DONE:
            body->base = unpacked;
            request_hold(request, unpacked, body->len, free);
            return true;
        case GZIP_BROKEN:
            problem_set(&problem, PROBLEM_INVALID_REQUEST, "The body is no intact gzip.");
            break;
        case GZIP_TOO_LARGE:
            problem_set(&problem, PROBLEM_BODY_TOO_LARGE,
                        "The unpacked body is larger than %zu bytes.", most);
            problem_hint(&problem, "Send fewer changes in one request.");
            break;
    }
    request_fail(request, &problem);
    return false;
}

/* Is a header's value this word, but for letter case, spaces around it and parameters behind? */
static bool
value_is(const h2o_header_t *header, const char *word)
{
    const char *at = header->value.base;
    const char *end = memchr(at, ';', header->value.len);

    if (end == NULL)
        end = at + header->value.len;
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    while (at < end && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    return h2o_lcstris(at, (size_t)(end - at), word, strlen(word)) != 0;
}

/* Checks what the headers say about the body. False when it was answered with a problem. */
static bool
check_headers(struct request *request, bool *packed)
{
    const h2o_headers_t *headers = &request->req->headers;
    ssize_t type = h2o_find_header(headers, H2O_TOKEN_CONTENT_TYPE, -1);
    ssize_t encoding = h2o_find_header(headers, H2O_TOKEN_CONTENT_ENCODING, -1);
    struct problem problem;

    *packed = encoding != -1 && value_is(&headers->entries[encoding], "gzip");
    if (type != -1 && !value_is(&headers->entries[type], "application/json"))
    {
        problem_set(&problem, PROBLEM_UNSUPPORTED_MEDIA_TYPE,
                    "The Content-Type must be application/json.");
        request_fail(request, &problem);
        return false;
    }
    if (encoding != -1 && !*packed && !value_is(&headers->entries[encoding], "identity"))
    {
        problem_set(&problem, PROBLEM_UNSUPPORTED_MEDIA_TYPE,
                    "The Content-Encoding must be gzip or absent.");
        request_header(request, "accept-encoding", "gzip");
        request_fail(request, &problem);
        return false;
    }
    return true;
}

/* POST /sync/upload */
void
handle_upload(struct request *request)
{
    static const struct pg_statement statement = {
        "rowsync_upload",
        "SELECT rowsync.upload($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.text)", 1,
        3};
    h2o_iovec_t body = request->req->entity;
    bool packed;

    if (!check_headers(request, &packed))
        return;
    if (packed && !unpack(request, &body))
        return;
    request->job.values[0] = request->user;
    request->job.values[1] = request->source;
    request->job.values[2] = body.base == NULL ? "" : body.base;
    /* Binary, for it may hold any byte: PostgreSQL itself refuses what is no UTF-8. */
    request->job.lengths[2] = (int)body.len;
    request->job.formats[2] = 1;
    request_query(request, &statement, request_answer_result);
}
