/*
 * transport.c - requests to the gateway, and what all of them have in common: the token, retries,
 * limits, what a refusal means.
 */
#include "client.h"

#include <string.h>
#include <time.h>
#include <zlib.h>

/* Answers larger than this are refused: a download page has its own, smaller limits. */
#define MAX_RESPONSE (256u << 20)
/* So are refusals that say more than this. */
#define MAX_PROBLEM (64u << 10)

/* Seconds that a server may make a call wait; one that asks for more is left alone till the next.
 */
#define LONGEST_WAIT 120

/* Smaller bodies are not worth compressing. */
#define GZIP_FROM 1024

/* A transport's sink: hands a stream on, and collects everything else. */
static int
collect(void *context, const void *data, size_t length)
{
    Exchange *out = context;

    *out->bytes += (int64_t)length;
    if (out->stream != NULL && out->response.status == 200)
    {
        out->begun = true;
        out->refused = out->stream(out->stream_context, data, length) != 0;
        return out->refused;
    }
    out->too_long =
        length > (out->response.status == 200 ? MAX_RESPONSE : MAX_PROBLEM) - out->body.length;
    if (!out->too_long)
        buffer_append(&out->body, data, length);
    return out->too_long || out->body.failed;
}

/* zlib's memory comes from the app's allocator too. */
static void *
zlib_allocate(void *context, unsigned count, unsigned size)
{
    (void)context;
    return rs_realloc(NULL, (size_t)count * size);
}

static void
zlib_release(void *context, void *pointer)
{
    (void)context;
    rs_free(pointer);
}

/* Compresses a body at the fastest level, which costs the least of CPU and network together. */
static bool
gzip(const Buffer *body, Buffer *out)
{
    z_stream stream = {.zalloc = zlib_allocate, .zfree = zlib_release};
    bool done;

    if (deflateInit2(&stream, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return false;
    buffer_clear(out);
    if (!buffer_reserve(out, deflateBound(&stream, body->length)))
    {
        deflateEnd(&stream);
        return false;
    }
    stream.next_in = (Bytef *)body->data;
    stream.avail_in = (uInt)body->length;
    stream.next_out = (Bytef *)out->data;
    stream.avail_out = (uInt)(out->capacity - 1);
    done = deflate(&stream, Z_FINISH) == Z_STREAM_END;
    out->length = stream.total_out;
    deflateEnd(&stream);
    return done;
}

/* Waits, in short steps so that a cancel is noticed. */
static rowsync_code
wait_for(rowsync *client, long milliseconds)
{
    for (; milliseconds > 0 && !rowsync_cancelled(&client->cancelled); milliseconds -= 50)
    {
        struct timespec step = {0, (milliseconds < 50 ? milliseconds : 50) * 1000000L};

        nanosleep(&step, NULL);
    }
    return rs_progress(client, "waiting", 0, 0);
}

/* Between half of it and all of it: devices that failed together do not come back together. */
static long
jitter(long milliseconds)
{
    uint32_t random;

    sqlite3_randomness(sizeof(random), &random);
    return milliseconds / 2 + (long)(random % (unsigned long)(milliseconds / 2 + 1));
}

/*
 * Milliseconds to wait after so many tries (from 1 on) that failed: what the server asks for
 * (`retry_after` seconds; 0 or less where it does not say), else twice as long from try to try, up
 * to 26 seconds.
 */
long
rs_pause(long retry_after, int tries)
{
    return retry_after > 0 ? retry_after * 1000 + jitter(200)
                           : jitter(200L << (tries < 7 ? tries : 7));
}

/*
 * After a failure that may pass: waits before the request is sent again. Gives the failure back
 * where the server asks for more than anybody waits, and when cancelled.
 */
rowsync_code
rs_wait_again(rowsync *client, long retry_after, int tries)
{
    if (retry_after > LONGEST_WAIT)
        return client->code;
    client->code = ROWSYNC_OK;
    return wait_for(client, rs_pause(retry_after, tries));
}

/* Asks the app for a token. */
static rowsync_code
renew_token(rowsync *client)
{
    char token[16384] = "";
    rowsync_code code;

    if (client->options.token == NULL ||
        client->options.token(client->options.context, token, sizeof(token)) != 0 ||
        memchr(token, '\0', sizeof(token)) == NULL || *token == '\0')
        return rs_fail(client, ROWSYNC_AUTH,
                       "Set one by " ROWSYNC_SET_TOKEN ", signed for this user.",
                       "There is no token.");
    code = rowsync_set_token(client, token);
    memset(token, 0, sizeof(token));
    return code;
}

/*
 * Refuses a token that was signed for another user: the edits here would land among that one's
 * rows. Only a JWT tells; its signature is the gateway's business.
 */
static rowsync_code
check_subject(rowsync *client)
{
    static const char *const names[] = {"sub"};
    const char *dot = strchr(client->token, '.');
    const char *end = dot != NULL ? strchr(dot + 1, '.') : NULL;
    Buffer text = {0}, claims = {0}, subject = {0};
    Slice field = {0};
    size_t i;

    if (end == NULL)
        return ROWSYNC_OK;
    buffer_append(&text, dot + 1, (size_t)(end - dot - 1));
    for (i = 0; i < text.length; i++) /* base64url, without padding */
        text.data[i] = text.data[i] == '-' ? '+' : text.data[i] == '_' ? '/' : text.data[i];
    while (text.length % 4 != 0 && !text.failed)
        buffer_byte(&text, '=');
    if (base64_decode((Slice){buffer_string(&text), text.length}, &claims) &&
        scan_fields((Slice){buffer_string(&claims), claims.length}, names, &field, 1) &&
        field.data != NULL && scan_string(field, &subject) &&
        strcmp(buffer_string(&subject), client->user_id) != 0)
        rs_fail(client, ROWSYNC_AUTH,
                "Use a token of the attached user, or detach first to sync as another.",
                "The token is of user \"%.200s\", the database belongs to \"%.200s\".",
                buffer_string(&subject), client->user_id);
    if (text.failed || claims.failed || subject.failed)
        rs_nomem(client);
    buffer_free(&text);
    buffer_free(&claims);
    buffer_free(&subject);
    return client->code;
}

/* An answer that is no success, in words: what the gateway says of it, if it says something. */
static rowsync_code
explain(rowsync *client, const Exchange *answer)
{
    static const char *const names[] = {"detail", "hint", "code", "title"};
    Slice fields[4];
    Buffer detail = {0}, hint = {0}, problem = {0};
    rowsync_code code = answer->status == 401 || answer->status == 403   ? ROWSYNC_AUTH
                        : answer->status == 429 || answer->status >= 500 ? ROWSYNC_UNAVAILABLE
                                                                         : ROWSYNC_REFUSED;

    if (scan_fields((Slice){buffer_string(&answer->body), answer->body.length}, names, fields, 4))
    {
        if (!scan_string(fields[0], &detail))
            scan_string(fields[3], &detail);
        scan_string(fields[1], &hint);
        scan_string(fields[2], &problem);
    }
    code = rs_fail(client, code,
                   hint.length > 0               ? hint.data
                   : code == ROWSYNC_AUTH        ? "Get a fresh token for this user and source."
                   : code == ROWSYNC_UNAVAILABLE ? "Try again later; nothing is lost."
                   : strcmp(buffer_string(&problem), "source_mismatch") == 0
                       ? "Get a token for the source of this database, which rowsync_get_state()"
                         " tells, or attach with the source of the token."
                   : strcmp(buffer_string(&problem), "not_found") == 0
                       ? "Give the gateway's URL alone, without a path of its own."
                   : problem.length > 0 && answer->status >= 400
                       ? "Are the library and the gateway of one version?"
                       : "Is the URL that of a rowsync gateway?",
                   "The server answered %ld%s%.400s", answer->status,
                   detail.length > 0 ? ": " : ".", buffer_string(&detail));
    buffer_free(&detail);
    buffer_free(&hint);
    buffer_free(&problem);
    return code;
}

/*
 * One request with all its tries. Sent again: what never reached the server or got no answer (every
 * request may be repeated), 429 and 5xx after the time that the server asks for, and 401 once with
 * a new token. A stream that has begun is not asked for again: its taker has to begin anew. OK
 * means that there is an answer of status 200, 410 or 413 in `out`.
 */
rowsync_code
rs_request(rowsync *client, const char *method, const char *path, const Buffer *body, int max_tries,
           Exchange *out)
{
    Buffer url = {0}, bearer = {0}, source = {0}, packed = {0};
    const char *headers[6];
    bool renewed = false;
    int count, tries;
    rowsync_code code = ROWSYNC_OK;

    buffer_printf(&url, "%s%s", client->url, path);
    buffer_printf(&source, "Rowsync-Source-Id: %s", client->source_id);
    if (body != NULL && body->length >= GZIP_FROM && !gzip(body, &packed))
        code = rs_nomem(client);
    if (code == ROWSYNC_OK && client->token == NULL)
        code = renew_token(client);
    for (tries = 1; code == ROWSYNC_OK; tries++)
    {
        rowsync_request request = {method, url.data, headers,
                                   NULL,   0,        out->stream != NULL ? SIZE_MAX : MAX_RESPONSE};
        rowsync_response *response = &out->response;

        if ((code = check_subject(client)) != ROWSYNC_OK)
            break;
        buffer_clear(&bearer);
        buffer_printf(&bearer, "Authorization: Bearer %s", client->token);
        count = 0;
        headers[count++] = bearer.data;
        headers[count++] = source.data;
        if (body != NULL)
        {
            const Buffer *sent = packed.length > 0 ? &packed : body;

            headers[count++] = "Content-Type: application/json";
            if (packed.length > 0)
                headers[count++] = "Content-Encoding: gzip";
            request.body = sent->data;
            request.body_length = sent->length;
            client->bytes += (int64_t)body->length;
        }
        headers[count++] = "Expect:"; /* no round trip of its own before the body */
        headers[count] = NULL;
        if (url.failed || bearer.failed || source.failed)
        {
            code = rs_nomem(client);
            break;
        }
        buffer_clear(&out->body);
        out->begun = out->refused = out->too_long = false;
        *response = (rowsync_response){0, -1, ""};
        out->bytes = &client->bytes;
        code = client->transport.perform(client->transport.context, &request, collect, out,
                                         response, &client->cancelled);
        out->status = response->status;
        /* Who takes the stream has said why it broke off; whatever the transport makes of it. */
        if (out->refused)
            code = client->code;
        else if (code == ROWSYNC_NOMEM || out->body.failed)
            code = rs_nomem(client);
        else if (out->too_long)
            code = rs_fail(client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                           "The server's answer (status %ld) is longer than any of rowsync.",
                           out->status);
        else if (code == ROWSYNC_CANCELLED || rowsync_cancelled(&client->cancelled))
        {
            rowsync_cancel(client); /* also where the transport alone says so */
            code = rs_progress(client, "cancelled", 0, 0);
        }
        else if (code != ROWSYNC_OK)
            code =
                rs_fail(client, ROWSYNC_NETWORK, "Check the URL and the network; nothing is lost.",
                        "The server was not reached: %.300s.", response->message);
        else if (out->status == 200 || out->status == 410 || out->status == 413 ||
                 (out->status == 404 && out->stream != NULL))
            break;
        else
            code = explain(client, out);
        if (code == ROWSYNC_AUTH && out->status == 401 && !renewed && client->options.token != NULL)
        {
            renewed = true;
            client->code = ROWSYNC_OK;
            code = renew_token(client);
            continue;
        }
        if ((code != ROWSYNC_NETWORK && code != ROWSYNC_UNAVAILABLE) || tries >= max_tries ||
            out->begun)
            break;
        code = rs_wait_again(client, response->retry_after, tries);
    }
    buffer_free(&url);
    if (bearer.data != NULL)
        memset(bearer.data, 0, bearer.length);
    buffer_free(&bearer);
    buffer_free(&source);
    buffer_free(&packed);
    return code;
}
