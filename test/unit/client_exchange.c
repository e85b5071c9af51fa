/*
 * client_exchange.c - requests that fail and come again: how long is waited, how large batches are,
 * who is asked for a token. The server is a function that takes every change, unless told to fail.
 */
#include "client.h"

#include <time.h>
#include <zlib.h>

static long slept; /* milliseconds since the last request */

/* In front of the C library's: nobody waits here, and how long is known. */
int
nanosleep(const struct timespec *wanted, struct timespec *left)
{
    (void)left;
    slept += wanted->tv_sec * 1000 + wanted->tv_nsec / 1000000;
    return 0;
}

/* What the server does instead of answering; a status of 0 breaks the connection. */
typedef struct Failure
{
    long status;
    long retry_after;
    const char *body;
} Failure;

static struct Server
{
    Failure failures[16];
    int failure_count;
    int largest; /* changes that it takes in a request; 0: any number */
    int requests;
    long pauses[16]; /* milliseconds before each of the first requests */
    int sizes[256];  /* changes in each upload */
    int uploads;
    int64_t version;
    char authorization[256];
    bool bad_header;
} server;

static sqlite3 *db;
static rowsync *client;
static rowsync_report report;
static int tokens_given, waits;
static const char *token_given;
static int64_t far[3]; /* what the progress callback was told last: done, total, bytes */

/* The body of a request as text, unpacked where it is packed; the caller frees it. */
static char *
unpacked(const rowsync_request *request)
{
    z_stream stream = {.next_in = (Bytef *)request->body, .avail_in = (uInt)request->body_length};
    size_t capacity = 64u << 20;
    char *text = calloc(1, capacity);

    if (request->body_length > 0 && *(const char *)request->body == '{')
        return memcpy(text, request->body, request->body_length);
    stream.next_out = (Bytef *)text;
    stream.avail_out = (uInt)capacity - 1;
    inflateInit2(&stream, 15 + 16);
    if (inflate(&stream, Z_FINISH) != Z_STREAM_END)
        *text = '\0';
    inflateEnd(&stream);
    return text;
}

/* Answers an upload: every change is applied, or there are too many. */
static char *
take(const char *body)
{
    static const char mark[] = "{\"source_change_id\":";
    size_t length = 0, capacity = strlen(body) + 1024;
    char *out = malloc(capacity);
    const char *at;
    int count = 0;

    for (at = body; (at = strstr(at, mark)) != NULL; at++)
        count++;
    server.sizes[server.uploads++] = count;
    length = (size_t)sprintf(out, "{\"accepted\":true,\"highest_server_seq\":9,\"statuses\":[");
    for (at = body; (at = strstr(at, mark)) != NULL; at++)
    {
        long long id = strtoll(at + strlen(mark), NULL, 10);

        length += (size_t)sprintf(out + length, "%s{\"source_change_id\":%lld,\"status\":",
                                  out[length - 1] == '[' ? "" : ",", id);
        length += (size_t)sprintf(
            out + length,
            server.largest > 0 && count > server.largest
                ? "\"invalid\",\"message\":\"m\",\"invalid\":{\"reason\":\"batch_too_large\"}}"
                : "\"applied\",\"new_server_version\":%lld}",
            (long long)++server.version);
        if (capacity - length < 512)
            out = realloc(out, capacity *= 2);
    }
    sprintf(out + length, "]}");
    return out;
}

static rowsync_code
serve(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
      rowsync_response *response, const volatile int *cancelled)
{
    Failure failure = {0};
    char *body = NULL;
    const char *answer;
    int i, result;

    (void)context;
    (void)cancelled;
    for (i = 0; request->headers[i] != NULL; i++)
    {
        server.bad_header |= strpbrk(request->headers[i], "\r\n") != NULL;
        if (strncmp(request->headers[i], "Authorization: ", 15) == 0)
            snprintf(server.authorization, sizeof(server.authorization), "%s",
                     request->headers[i] + 15);
    }
    if (server.requests < server.failure_count)
        failure = server.failures[server.requests];
    if (server.requests < 16)
        server.pauses[server.requests] = slept;
    slept = 0;
    server.requests++;
    response->status = failure.status > 0 ? failure.status : 200;
    response->retry_after = failure.retry_after != 0 ? failure.retry_after : -1;
    if (failure.body != NULL && failure.status == 0)
    {
        /* The request arrived, the answer did not. */
        char *text = unpacked(request);

        free(take(text));
        free(text);
        snprintf(response->message, sizeof(response->message), "%s", failure.body);
        return ROWSYNC_NETWORK;
    }
    if (failure.status != 0 && failure.status != 200)
        answer = failure.body;
    else if (request->body != NULL)
    {
        char *text = unpacked(request);

        answer = body = take(text);
        free(text);
    }
    else
        answer = "{\"changes\":[],\"has_more\":false,\"next_after\":0,\"window_until\":0}";
    result = sink(sink_context, answer, strlen(answer));
    free(body);
    return result == 0 ? ROWSYNC_OK : ROWSYNC_NETWORK;
}

static int
give_token(void *context, char *token, size_t size)
{
    (void)context;
    tokens_given++;
    if (token_given == NULL)
        return 1;
    snprintf(token, size, "%s", token_given);
    return 0;
}

static int
watch_progress(void *context, const char *phase, int64_t count, int64_t total, int64_t bytes)
{
    (void)context;
    far[0] = count;
    far[1] = total;
    far[2] = bytes;
    waits += strcmp(phase, "waiting") == 0;
    return 0;
}

/* A device with so many rows pending. */
static void
fresh(int pending)
{
    static const char *const tracked[] = {"t", NULL};
    rowsync_transport transport = {NULL, serve, NULL};
    rowsync_options options = {
        .transport = &transport, .token = give_token, .progress = watch_progress};
    char sql[512];

    memset(&server, 0, sizeof(server));
    tokens_given = waits = 0;
    slept = 0;
    token_given = NULL;
    client =
        open_attached("CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT)", tracked, NULL, &options, &db);
    rowsync_set_token(client, "first");
    snprintf(sql, sizeof(sql),
             "UPDATE _sync_client_info SET hydrated = 2; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL"
             " SELECT i + 1 FROM n WHERE i < %d) INSERT INTO t SELECT 'k' || i, i FROM n",
             pending);
    app(db, sql);
}

static void
fail_next(long status, long retry_after, const char *body)
{
    server.failures[server.failure_count++] = (Failure){status, retry_after, body};
}

static rowsync_code
push(int batch_size, int max_tries)
{
    rowsync_sync_options options = {batch_size, 0, max_tries};

    return rowsync_push(client, &options, &report);
}

/* The sizes of the uploads, as text. */
static const char *
sizes(void)
{
    static char text[2048];
    size_t length = 0;
    int i;

    for (i = 0, *text = '\0'; i < server.uploads; i++)
        length += (size_t)sprintf(text + length, "%s%d", i > 0 ? " " : "", server.sizes[i]);
    return text;
}

static void
test_batch_sizes(void)
{
    fresh(7000);
    ok(push(0, 0) == ROWSYNC_OK && report.uploaded == 7000, "everything is taken");
    is(sizes(), "200 400 800 1600 3200 800", "batches grow from 200 while rounds are quick");
    ok(far[0] == 7000 && far[1] == 7000 && far[2] > 7000 * 100 && far[2] < 7000 * 400,
       "progress is told by changes and bytes: %d", (int)far[2]);
    is(rows(db, "SELECT count(*) FROM _sync_dirty"), "0", "and nothing stays pending");
    close_client(client, db);

    fresh(7000);
    server.largest = 500;
    ok(push(0, 0) == ROWSYNC_OK && report.uploaded == 7000, "batch_too_large: everything is taken");
    ok(server.sizes[2] == 800 && server.sizes[3] == 400, "by half the batch: %s", sizes());
    close_client(client, db);

    fresh(500);
    fail_next(413, 0, "{\"code\":\"body_too_large\"}");
    ok(push(0, 0) == ROWSYNC_OK && report.uploaded == 500, "413: everything is taken");
    is(sizes(), "100 200 200", "by half the batch");
    close_client(client, db);

    fresh(500);
    fail_next(0, 0, "timed out");
    fail_next(503, 0, "{\"code\":\"timeout\"}");
    ok(push(0, 0) == ROWSYNC_OK && report.uploaded == 500 && report.applied == 500,
       "a lost answer and a timeout: everything is taken");
    is(sizes(), "200 50 100 200 150", "by ever smaller batches, which grow again");
    ok(waits == 2, "after a pause each");
    close_client(client, db);

    fresh(500);
    fail_next(429, 1, "{\"code\":\"too_many_requests\"}");
    ok(push(0, 0) == ROWSYNC_OK, "429: everything is taken");
    is(sizes(), "200 300", "by batches as before, for more requests is not what is asked for");
    close_client(client, db);

    fresh(500);
    fail_next(0, 0, "timed out");
    ok(push(250, 0) == ROWSYNC_OK, "with a batch size that the app has set");
    is(sizes(), "250 250 250", "that one is kept to");
    close_client(client, db);
}

static void
test_tries(void)
{
    fresh(1);
    fail_next(503, 1000, "{\"detail\":\"Later.\",\"hint\":\"Wait.\"}");
    ok(push(0, 0) == ROWSYNC_UNAVAILABLE && server.requests == 1,
       "a server that asks for a quarter of an hour is left alone");
    is(rowsync_message(client), "The server answered 503: Later.", "with its own words");
    is(rowsync_hint(client), "Wait.", "and hint");
    close_client(client, db);

    fresh(1);
    fail_next(0, 0, "gone");
    fail_next(0, 0, "gone");
    fail_next(0, 0, "gone");
    ok(push(0, 2) == ROWSYNC_NETWORK && server.requests == 2, "as many tries as allowed");
    is(rowsync_message(client), "The server was not reached: gone.", "and the reason of the last");
    is(rows(db, "SELECT count(*) FROM _sync_dirty"), "1", "the edit stays pending");
    close_client(client, db);

    fresh(1);
    fail_next(400, 0, "{\"detail\":\"No.\"}");
    ok(push(0, 0) == ROWSYNC_REFUSED && server.requests == 1, "what is refused is not sent again");
    close_client(client, db);
}

/* Ten tries of an upload or a download, after answers of status 503 or none: how long is waited. */
static void
test_growing_pauses(bool up, long status)
{
    rowsync_sync_options options = {0, 0, 10};
    int i, right = 0;

    fresh(up);
    for (i = 0; i < 9; i++)
        fail_next(status, 0, status == 0 ? "gone" : "{}");
    ok((up ? rowsync_push(client, &options, &report) : rowsync_pull(client, &options, &report)) ==
               ROWSYNC_OK &&
           server.requests == 10,
       "%s, status %ld: the tenth try is answered", up ? "push" : "pull", status);
    for (i = 1; i < 10; i++)
        right += server.pauses[i] >= 100 << (i < 7 ? i : 7) &&
                 server.pauses[i] <= 200 << (i < 7 ? i : 7);
    ok(server.pauses[0] == 0 && right == 9,
       "after pauses twice as long from try to try, up to 26 s: %ld %ld %ld … %ld %ld %ld ms",
       server.pauses[1], server.pauses[2], server.pauses[3], server.pauses[7], server.pauses[8],
       server.pauses[9]);
    close_client(client, db);
}

/* Devices that failed together: the pauses before their second tries lie apart. */
static void
test_scattered_pauses(long retry_after, long least, long most)
{
    long pause, first = most, last = least;
    int i, outside = 0;

    for (i = 0; i < 40; i++)
    {
        fresh(1);
        fail_next(503, retry_after, "{}");
        push(0, 0);
        pause = server.pauses[1];
        outside += pause < least || pause > most;
        first = pause < first ? pause : first;
        last = pause > last ? pause : last;
        close_client(client, db);
    }
    ok(outside == 0, "Retry-After %ld: 40 pauses of %ld to %ld ms", retry_after, least, most);
    ok(last - first > (most - least) / 2, "scattered over most of it: %ld to %ld", first, last);
}

/* What the server asks for is waited for, also where a first pause would be shorter. */
static void
test_pauses(void)
{
    static const long statuses[] = {429, 503};
    size_t i;

    for (i = 0; i < 2; i++)
    {
        test_growing_pauses(i == 0, 503);
        test_growing_pauses(i == 0, 0);
        fresh(1);
        fail_next(statuses[i], 120, "{}");
        ok(push(0, 0) == ROWSYNC_OK, "%ld, Retry-After 120: sent again", statuses[i]);
        ok(server.pauses[1] >= 120100 && server.pauses[1] <= 120200, "after so long: %ld ms",
           server.pauses[1]);
        close_client(client, db);

        fresh(1);
        fail_next(statuses[i], 121, "{}");
        ok(push(0, 0) == ROWSYNC_UNAVAILABLE && server.requests == 1 && slept == 0,
           "%ld, Retry-After 121: not waited for", statuses[i]);
        close_client(client, db);
    }
    test_scattered_pauses(0, 200, 400);
    test_scattered_pauses(3, 3100, 3200);
}

static void
test_tokens(void)
{
    fresh(1);
    fail_next(401, 0, "{\"detail\":\"Expired.\"}");
    token_given = "second";
    ok(push(0, 0) == ROWSYNC_OK && tokens_given == 1, "401: the app is asked for a token");
    is(server.authorization, "Bearer second", "which is used");
    ok(push(0, 0) == ROWSYNC_OK && tokens_given == 1, "and kept");
    close_client(client, db);

    fresh(1);
    fail_next(401, 0, "{\"detail\":\"Expired.\"}");
    fail_next(401, 0, "{\"detail\":\"Still.\"}");
    token_given = "second";
    ok(push(0, 0) == ROWSYNC_AUTH && tokens_given == 1 && server.requests == 2,
       "401 again: no third try");
    is(rowsync_message(client), "The server answered 401: Still.", "but the reason");
    close_client(client, db);

    fresh(1);
    fail_next(401, 0, "{\"detail\":\"Expired.\"}");
    ok(push(0, 0) == ROWSYNC_AUTH && tokens_given == 1, "an app without a token");
    close_client(client, db);

    fresh(1);
    rowsync_set_token(client, NULL);
    token_given = "asked";
    ok(push(0, 0) == ROWSYNC_OK, "no token was set: the app is asked before the first request");
    is(server.authorization, "Bearer asked", "and it is sent");
    close_client(client, db);

    fresh(1);
    ok(rowsync_set_token(client, "two\r\nlines") == ROWSYNC_MISUSE, "a token of two lines");
    is(rowsync_message(client), "The token has a control character.", "is refused");
    rowsync_set_token(client, NULL);
    token_given = "two\nlines";
    ok(push(0, 0) == ROWSYNC_MISUSE && server.requests == 0 && !server.bad_header,
       "and sent to nobody");
    ok(rowsync_attach(client, "http://x/\nHost: y", "ann", NULL) == ROWSYNC_MISUSE &&
           rowsync_attach(client, "http://x", "ann", "a\r\nb: c") == ROWSYNC_MISUSE,
       "nor does a URL or a source bring a header along");
    close_client(client, db);
}

int
main(void)
{
    test_batch_sizes();
    test_tries();
    test_pauses();
    test_tokens();
    return done();
}
