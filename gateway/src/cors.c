/*
 * cors.c: which web pages may read our answers (the Fetch standard's CORS protocol).
 *
 * Tokens travel in a header that pages must set themselves, never in cookies: so no credentials
 * mode, and `*` is safe to configure.
 */
#include "cors.h"

#include <string.h>

/* The longest origin that is repeated where nobody has parsed the request. */
#define ORIGIN_MAX 255

/* Does the list name this origin? */
static bool
allows(const char *origins, h2o_iovec_t origin)
{
    const char *at = origins;

    if (strcmp(origins, "*") == 0)
        return true;
    while (*at != '\0')
    {
        size_t length = strcspn(at, ",");

        if (length == origin.len && memcmp(at, origin.base, length) == 0)
            return true;
        at += length + (at[length] == ',');
    }
    return false;
}

/* What a page may see of an answer beside the few headers that it always may. */
#define EXPOSED "rowsync-request-id, retry-after, etag, allow"

/* The request's origin where it may read answers, else nothing. */
static h2o_iovec_t
allowed_origin(const struct request *request)
{
    static const char name[] = "origin";
    const h2o_headers_t *headers = &request->req->headers;
    const char *origins = request->loop->config->cors_origins;
    ssize_t at = h2o_find_header_by_str(headers, name, sizeof(name) - 1, -1);

    if (origins == NULL || at == -1 || !allows(origins, headers->entries[at].value))
        return h2o_iovec_init(NULL, 0);
    return headers->entries[at].value;
}

void
cors_answer(struct request *request)
{
    h2o_iovec_t origin = allowed_origin(request);
    h2o_req_t *req = request->req;

    if (request->loop->config->cors_origins != NULL)
        h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_VARY, NULL, H2O_STRLIT("origin"));
    if (origin.base == NULL)
        return;
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("access-control-allow-origin"),
                          0, NULL, origin.base, origin.len);
    request_header(request, "access-control-expose-headers", EXPOSED);
}

void
cors_write(const struct config *config, const struct wire_head *head, struct text *text)
{
    if (config->cors_origins == NULL)
        return;
    text_string(text, "Vary: origin\r\n");
    if (head->origin == NULL || head->origin_size > ORIGIN_MAX ||
        !allows(config->cors_origins, h2o_iovec_init(head->origin, head->origin_size)))
        return;
    for (size_t i = 0; i < head->origin_size; i++)
        if (head->origin[i] <= ' ' || head->origin[i] > '~')
            return;
    text_format(text,
                "Access-Control-Allow-Origin: %.*s\r\n"
                "Access-Control-Expose-Headers: " EXPOSED "\r\n",
                (int)head->origin_size, head->origin);
}

void
cors_preflight(struct request *request, const char *methods)
{
    request_header(request, "allow", methods);
    if (allowed_origin(request).base != NULL)
    {
        request_header(request, "access-control-allow-methods", methods);
        request_header(request, "access-control-allow-headers",
                       "authorization, content-type, content-encoding, rowsync-source-id, "
                       "if-none-match");
        request_header(request, "access-control-max-age", "86400");
    }
    request_answer_empty(request, 204);
}
