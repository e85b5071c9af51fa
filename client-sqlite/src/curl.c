/*
 * curl.c - the transport that the library brings, over libcurl; a build with CURL=no has none.
 */
#include "client.h"

#ifdef ROWSYNC_WITHOUT_CURL

rowsync_code
transport_curl(rowsync_transport *out)
{
    (void)out;
    return ROWSYNC_MISUSE;
}

#else

#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

/* Seconds without a byte: the other side is gone, or does not answer in time. libcurl's own limit
 * is one of bytes a second, which the heartbeat of an event stream does not reach. */
#define LONGEST_SILENCE 60

/* What a request hands to libcurl's callbacks. */
typedef struct CurlSink
{
    rowsync_sink sink;
    void *context;
    rowsync_response *response;
    const volatile int *cancelled;
    CURL *curl;
    curl_off_t moved; /* bytes, both ways */
    time_t since;     /* when there were as many for the first time, in seconds of some clock */
    bool silent;      /* that was too long ago */
} CurlSink;

/* Seconds that no change of the date moves. */
static time_t
seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* libcurl has a part of the body. */
static size_t
curl_body(char *data, size_t size, size_t count, void *context)
{
    CurlSink *sink = context;

    if (sink->response->status == 0)
        curl_easy_getinfo(sink->curl, CURLINFO_RESPONSE_CODE, &sink->response->status);
    if (rowsync_cancelled(sink->cancelled) || sink->sink(sink->context, data, size * count) != 0)
        return 0;
    return size * count;
}

/* libcurl asks now and then whether to go on. */
static int
curl_progress(void *context, curl_off_t total, curl_off_t now, curl_off_t up, curl_off_t sent)
{
    CurlSink *sink = context;

    (void)total;
    (void)up;
    if (now + sent != sink->moved)
    {
        sink->moved = now + sent;
        sink->since = seconds();
    }
    sink->silent = seconds() - sink->since > LONGEST_SILENCE;
    return sink->silent || rowsync_cancelled(sink->cancelled);
}

/* One request by libcurl. The handle is kept: its connection is used again. */
static rowsync_code
curl_perform(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
             rowsync_response *response, const volatile int *cancelled)
{
    CURL *curl = context;
    CurlSink state = {sink, sink_context, response, cancelled, curl, 0, seconds(), false};
    struct curl_slist *headers = NULL;
    char message[CURL_ERROR_SIZE] = "";
    CURLcode result;
    curl_off_t wait;
    int i;

    response->retry_after = -1;
    for (i = 0; request->headers[i] != NULL; i++)
    {
        struct curl_slist *longer = curl_slist_append(headers, request->headers[i]);

        if (longer == NULL)
        {
            curl_slist_free_all(headers);
            return ROWSYNC_NOMEM;
        }
        headers = longer;
    }
    curl_easy_reset(curl);
    /* Those that take memory can fail. */
    if ((result = curl_easy_setopt(curl, CURLOPT_URL, request->url)) == CURLE_OK &&
        (result = curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https")) == CURLE_OK)
        result = curl_easy_setopt(curl, CURLOPT_ACCEPT_ENCODING, "gzip");
    /* A snapshot is large: fewer, larger reads leave more of the time to whoever takes it in. */
    curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 128L << 10);
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 15L);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, message);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, curl_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &state);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, curl_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &state);
    if (request->body != NULL)
    {
        curl_easy_setopt(curl, CURLOPT_POST, 1L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->body);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_length);
    }
    if (result == CURLE_OK)
        result = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &response->status);
    if (curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &wait) == CURLE_OK && wait > 0)
        response->retry_after = wait < 86400 ? (long)wait : 86400;
    curl_slist_free_all(headers);
    if (result == CURLE_OK)
        return ROWSYNC_OK;
    if (rowsync_cancelled(cancelled))
        return ROWSYNC_CANCELLED;
    if (result == CURLE_OUT_OF_MEMORY)
        return ROWSYNC_NOMEM;
    snprintf(response->message, sizeof(response->message), "%s",
             state.silent    ? "nothing was heard of it for a minute"
             : *message != 0 ? message
                             : curl_easy_strerror(result));
    return ROWSYNC_NETWORK;
}

static void
curl_close(void *context)
{
    curl_easy_cleanup(context);
}

static void
curl_start(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* The transport that the library brings. */
rowsync_code
transport_curl(rowsync_transport *out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    CURL *curl;

    pthread_once(&once, curl_start);
    if ((curl = curl_easy_init()) == NULL)
        return ROWSYNC_NOMEM;
    *out = (rowsync_transport){curl, curl_perform, curl_close};
    return ROWSYNC_OK;
}

#endif
