/*
 * client_curl.c - the transport over libcurl against a server that says one thing at a time: how
 * long silence is borne, and what Retry-After may look like. The clock is the test's, for libcurl
 * too, so that minutes take no time.
 */
#include "client.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

rowsync_code transport_curl(rowsync_transport *out);

static volatile long ahead, tick; /* seconds: that the clock is before the real one, and that each
                                     look at it takes */

/* In front of the C library's. */
int
clock_gettime(clockid_t which, struct timespec *now)
{
    long result = syscall(SYS_clock_gettime, which, now);

    now->tv_sec += which == CLOCK_REALTIME ? 0 : (ahead += tick);
    return (int)result;
}

static int listener, line; /* the server's sockets: a connection at a time */
static char url[64];

/* Listens on a free port. */
static void
listen_here(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);

    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, length) != 0 || listen(listener, 8) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) != 0)
        exit(1);
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/", ntohs(address.sin_port));
}

/* Says a piece of an answer. */
static void
say(const char *text)
{
    if (write(line, text, strlen(text)) < 0)
        perror("write");
}

static int heard, beats;
static volatile bool over; /* the request is */
static sem_t turn;         /* the server's */

/* A thread: takes one request, begins the answer, and goes on, after 15 seconds, when told to. */
static void *
answer(void *text)
{
    char request[4096];

    line = accept(listener, NULL, NULL);
    if (read(line, request, sizeof(request)) > 0)
        say(text);
    while (sem_wait(&turn) == 0 && !over)
    {
        usleep(10000); /* libcurl has seen that there is nothing to read */
        ahead += 15;
        say(":\n\n");
    }
    return NULL;
}

/* A sink: has the server say more, so many times; then time passes in silence. */
static int
hear(void *context, const void *data, size_t length)
{
    (void)context;
    (void)data;
    (void)length;
    if (++heard < beats)
        sem_post(&turn);
    else
        tick = 20;
    return 0;
}

/* One request, answered with `text` and what hear() makes of it. */
static rowsync_code
get(const char *text, rowsync_response *response)
{
    static const char *const headers[] = {NULL};
    const rowsync_request request = {"GET", url, headers, NULL, 0, (size_t)-1};
    rowsync_transport transport;
    volatile int cancelled = 0;
    rowsync_code code;
    pthread_t server;

    heard = tick = over = 0;
    *response = (rowsync_response){0, -1, ""};
    if (transport_curl(&transport) != ROWSYNC_OK ||
        pthread_create(&server, NULL, answer, (void *)text) != 0)
        exit(1);
    code = transport.perform(transport.context, &request, hear, NULL, response, &cancelled);
    over = true;
    sem_post(&turn);
    pthread_join(server, NULL);
    close(line);
    transport.close(transport.context);
    return code;
}

static void
test_silence(void)
{
    static const char stream[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n:\n\n";
    rowsync_response response;

    beats = 20;
    ok(get(stream, &response) == ROWSYNC_NETWORK && ahead > 19 * 15 + 60, "a stream ends");
    ok(heard == 20, "not while three bytes come every 15 seconds: %d times", heard);
    is(response.message, "nothing was heard of it for a minute", "a minute without it is the end");
    ok(response.status == 200, "of an answer that had begun");
}

/* The seconds that an answer with this header asks to wait. */
static long
retry_after(const char *value)
{
    char text[256];
    rowsync_response response;

    snprintf(text, sizeof(text), "HTTP/1.1 503 No\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n",
             value);
    beats = 0;
    ok(get(text, &response) == ROWSYNC_OK && response.status == 503, "503, Retry-After: %s", value);
    return response.retry_after;
}

static void
test_retry_after(void)
{
    time_t later = time(NULL) + 100;
    char date[64];
    struct tm parts;
    long wait;

    ok(retry_after("7") == 7, "in seconds");
    strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&later, &parts));
    wait = retry_after(date);
    ok(wait > 0 && wait <= 100 && labs(wait - (long)(later - time(NULL))) <= 1,
       "as a date: %ld s from now", wait);
    ok(retry_after("99999999999") == 86400, "a day at most");
    ok(retry_after("Thu, 26 Nov 1998 10:00:00 GMT") <= 0, "that is past");
    ok(retry_after("soon") <= 0, "and what is neither");
    ok(retry_after("-5") <= 0, "or negative");
}

int
main(void)
{
    sem_init(&turn, 0, 0);
    listen_here();
    test_silence();
    test_retry_after();
    close(listener);
    sem_destroy(&turn);
    return done();
}
