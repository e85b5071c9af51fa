/*
 * client_peer.h - a transport with a server behind it that knows one user, in memory, and requests
 * that fail where a test wants them to.
 */
#ifndef TEST_CLIENT_PEER_H
#define TEST_CLIENT_PEER_H

#include <zlib.h>

#include "client.h"

/* How a request may fail. */
typedef enum Fault
{
    FAULT_NONE,
    FAULT_BEFORE, /* it does not reach the server */
    FAULT_LOST,   /* the server has done its part, the answer is lost */
    FAULT_CUT,    /* half of the answer comes */
    FAULT_SHORT,  /* half of the answer, and it passes for the whole */
    FAULT_EMPTY,
    FAULT_NOMEM,
    FAULT_CANCELLED,
    FAULT_REDIRECT,
    FAULT_BUSY,
    FAULT_ERROR,
    FAULT_TOKEN,
    FAULTS
} Fault;

static const char *const fault_names[FAULTS] = {
    [FAULT_BEFORE] = "unreached",    [FAULT_LOST] = "lost",         [FAULT_CUT] = "cut",
    [FAULT_SHORT] = "short",         [FAULT_EMPTY] = "empty",       [FAULT_NOMEM] = "nomem",
    [FAULT_CANCELLED] = "cancelled", [FAULT_REDIRECT] = "redirect", [FAULT_BUSY] = "busy",
    [FAULT_ERROR] = "error",         [FAULT_TOKEN] = "token"};

/* A server that knows one user, and gives a change that it has seen the same answer again. */
static struct Peer
{
    char seen[32][64]; /* change ids with their keys; the version is 200 + place */
    int count;
    int requests;
    int faulty; /* the request that fails, from 1 */
    Fault fault;
    int meanwhile_at; /* the request that the app does something in the middle of */
    const char *meanwhile;
    sqlite3 *app;
} peer;

#define SNAPSHOT                                                                                   \
    "{\"seq\":100,\"schema_version\":1,\"tables\":[{\"schema\":\"public\",\"table\":\"users\","    \
    "\"key\":[\"id\"],\"columns\":[\"id\",\"name\",\"n\"]},{\"schema\":\"public\",\"table\":"      \
    "\"posts\",\"key\":[\"id\"],\"columns\":[\"id\",\"u\"]}]}\n"

/* Of all rows, after the last page of the log. */
#define DIGEST "{\"at\":106,\"rows\":20,\"digest\":\"246bfabcd7cd6b3c05323c0188ecf08f\"}"

/* The rows of the snapshot: twelve users, four posts. */
static inline void
write_snapshot(char *out)
{
    int i;

    out += sprintf(out, SNAPSHOT);
    for (i = 0; i < 12; i++)
        out += sprintf(out, "[0,%d,\"u%02d\",\"N\\u00f6 %d\",%d]\n", 10 + i, i, i, i);
    for (i = 0; i < 4; i++)
        out += sprintf(out, "[1,%d,\"550e8400-e29b-41d4-a716-44665544%04d\",\"u%02d\"]\n", 30 + i,
                       i, i);
    strcpy(out, "{\"end\":true,\"rows\":16,\"digest\":\"4d389730f64f4b74912b8bce2d3e6157\"}\n");
}

/* A page of the log: six changes after the snapshot, three a page; a child before its parent. */
static inline void
write_page(char *out, long after)
{
    long at, last = after >= 103 ? 106 : 103;

    out += sprintf(out, "{\"changes\":[");
    for (at = after < 100 ? 101 : after + 1; at <= last; at++)
    {
        const char *post = "550e8400-e29b-41d4-a716-446655449999";

        out += sprintf(out, "%s{\"server_id\":%ld,\"schema\":\"public\",\"server_version\":%ld,",
                       at == 101 || at == after + 1 ? "" : ",", at, at);
        if (at == 103)
            out += sprintf(out,
                           "\"table\":\"posts\",\"op\":\"INSERT\",\"deleted\":false,\"pk\":\"%s\","
                           "\"payload\":{\"id\":\"%s\",\"u\":\"new105\"}}",
                           post, post);
        else if (at == 104)
            out += sprintf(out, "\"table\":\"users\",\"op\":\"DELETE\",\"deleted\":true,\"pk\":"
                                "\"u09\",\"payload\":null}");
        else
            out +=
                sprintf(out,
                        "\"table\":\"users\",\"op\":\"INSERT\",\"deleted\":false,\"pk\":"
                        "\"new%ld\",\"payload\":{\"id\":\"new%ld\",\"name\":\"New %ld\",\"n\":7}}",
                        at, at, at);
    }
    sprintf(out,
            "],\"has_more\":%s,\"next_after\":%ld,\"window_until\":%ld,\"floor\":0,\"epoch\":1}",
            last < 106 ? "true" : "false", after > last ? after : last, after > 106 ? after : 106L);
}

/* The version of a change, the same whenever it comes. */
static inline int
version_of(const char *id, const char *key)
{
    char name[64];
    int i;

    snprintf(name, sizeof(name), "%.20s %.40s", id, key);
    for (i = 0; i < peer.count; i++)
        if (strcmp(peer.seen[i], name) == 0)
            return 200 + i;
    if (peer.count == 32)
        exit(1);
    strcpy(peer.seen[peer.count], name);
    return 200 + peer.count++;
}

/* Copies the digits or the string behind a name; where the next one begins. */
static inline const char *
member(const char *text, const char *name, char *out)
{
    size_t length;

    if ((text = strstr(text, name)) == NULL)
        return NULL;
    text += strlen(name);
    length = strcspn(text, "\",}");
    sprintf(out, "%.*s", (int)(length < 60 ? length : 60), text);
    return text;
}

/* The statuses of an upload: by the key, it conflicts, is refused, waits, or is applied. */
static inline void
write_statuses(char *out, const char *body)
{
    char id[64], key[64];
    const char *comma = "";

    out += sprintf(out, "{\"accepted\":true,\"highest_server_seq\":300,\"statuses\":[");
    while ((body = member(body, "\"source_change_id\":", id)) != NULL &&
           (body = member(body, "\"pk\":\"", key)) != NULL)
    {
        out += sprintf(out, "%s{\"source_change_id\":%s,\"status\":", comma, id);
        comma = ",";
        if (strcmp(key, "u03") == 0)
            out += sprintf(out, "\"conflict\",\"server_row\":{\"schema_name\":\"public\","
                                "\"table_name\":\"users\",\"id\":\"u03\",\"server_version\":99,"
                                "\"deleted\":false,\"payload\":{\"id\":\"u03\",\"name\":\"Theirs\","
                                "\"n\":1}},\"server_changed\":[\"name\"]}");
        else if (strcmp(key, "bad") == 0)
            out += sprintf(out, "\"invalid\",\"message\":\"no\",\"invalid\":{\"reason\":"
                                "\"forbidden\",\"details\":{\"error\":\"not yours\"}}}");
        else if (strcmp(key, "late") == 0)
            out += sprintf(out, "\"invalid\",\"message\":\"later\",\"invalid\":{\"reason\":"
                                "\"fk_missing\",\"details\":{\"missing\":[\"public.users:x\"]}}}");
        else if (strcmp(key, "fix") == 0)
            out += sprintf(out,
                           "\"applied\",\"new_server_version\":%d,\"server_row\":{"
                           "\"server_version\":%d,\"deleted\":false,\"payload\":{\"id\":\"fix\","
                           "\"name\":\"Mended\",\"n\":5}}}",
                           version_of(id, key), version_of(id, key));
        else
            out += sprintf(out, "\"applied\",\"new_server_version\":%d}", version_of(id, key));
    }
    strcpy(out, "]}");
}

/* The body of the request as text. */
static inline const char *
text_of(const rowsync_request *request)
{
    static char text[65536];
    z_stream stream = {0};
    int i;

    for (i = 0; request->headers[i] != NULL; i++)
        if (strcmp(request->headers[i], "Content-Encoding: gzip") == 0)
        {
            stream.next_in = (Bytef *)request->body;
            stream.avail_in = (uInt)request->body_length;
            stream.next_out = (Bytef *)text;
            stream.avail_out = sizeof(text) - 1;
            if (inflateInit2(&stream, 31) != Z_OK || inflate(&stream, Z_FINISH) != Z_STREAM_END)
                exit(1);
            text[stream.total_out] = '\0';
            inflateEnd(&stream);
            return text;
        }
    snprintf(text, sizeof(text), "%.*s", (int)request->body_length, (const char *)request->body);
    return text;
}

/* Answers a request into `out`; returns the status. */
static inline long
respond(const char *url, const char *body, char *out)
{
    const char *after = strstr(url, "after=");

    if (strstr(url, "/sync/upload") != NULL)
        write_statuses(out, body);
    else if (strstr(url, "/sync/snapshot") != NULL)
        write_snapshot(out);
    else if (strstr(url, "/sync/digest") != NULL)
        strcpy(out, DIGEST);
    else if (after != NULL)
        write_page(out, atol(after + 6));
    else
        return strcpy(out, "{}"), 404L;
    return 200;
}

/* The transport, in pieces of seven bytes. */
static inline rowsync_code
perform(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
        rowsync_response *response, const volatile int *cancelled)
{
    static const long statuses[FAULTS] = {
        [FAULT_REDIRECT] = 302, [FAULT_BUSY] = 503, [FAULT_ERROR] = 400, [FAULT_TOKEN] = 401};
    static char answer[65536];
    Fault fault = ++peer.requests == peer.faulty ? peer.fault : FAULT_NONE;
    size_t at, length;

    (void)context;
    (void)cancelled;
    response->retry_after = -1;
    if (fault == FAULT_BEFORE || fault == FAULT_NOMEM || fault == FAULT_CANCELLED)
        return fault == FAULT_BEFORE  ? ROWSYNC_NETWORK
               : fault == FAULT_NOMEM ? ROWSYNC_NOMEM
                                      : ROWSYNC_CANCELLED;
    if (peer.requests == peer.meanwhile_at)
        app(peer.app, peer.meanwhile);
    response->status =
        respond(request->url, request->body != NULL ? text_of(request) : NULL, answer);
    if (statuses[fault] != 0)
    {
        response->status = statuses[fault];
        strcpy(answer, "{\"code\":\"x\",\"detail\":\"told by the server\"}");
    }
    length = fault == FAULT_LOST || fault == FAULT_EMPTY ? 0 : strlen(answer);
    if (fault == FAULT_CUT || fault == FAULT_SHORT)
        length /= 2;
    for (at = 0; at < length; at += 7)
        if (sink(sink_context, answer + at, length - at < 7 ? length - at : 7) != 0)
            return ROWSYNC_NETWORK;
    return fault == FAULT_LOST || fault == FAULT_CUT ? ROWSYNC_NETWORK : ROWSYNC_OK;
}

#endif
