/*
 * gateway_request.c: fuzzes everything between the socket and the database: a real server on a
 * socket file, whose database nobody can reach, gets the input as one connection's bytes. A byte
 * 0x7f stands for a good token, which no fuzzer would find. Whatever is answered begins as an
 * answer does, with a status that the gateway has.
 */
#include "log.h"
#include "router.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

/* HS256 by the secret below, of "ann" on "phone", good until the year 2286. */
#define TOKEN                                                                                      \
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4iLCJkaWQiOiJwaG9uZSIsImV4cCI6OTk5OTk5OTk5OX0."            \
    "GaJFKWq7bMG3Gl53jn8lBTJ5cBkddVEPjB5KE0WQ_Nc"

/* The largest input that is tried, with every byte a token. */
#define ROOM 65536

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

static struct sockaddr_un address = {.sun_family = AF_UNIX};

/* The socket file goes with the process. */
static void
remove_socket(void)
{
    unlink(address.sun_path);
}

/* Starts the server, once. */
static void
start(void)
{
    static struct config config;
    static char text[1024];
    struct jwt_keys *keys;
    struct server *server;
    char error[512];

    snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/rowsync-fuzz-%d.sock",
             (int)getpid());
    snprintf(text, sizeof(text),
             "{\"listen\": \"unix:%s\", \"database_url\": \"host=/nowhere\", \"loops\": 1,"
             " \"jwt_secret\": \"0123456789abcdef0123456789abcdef\", \"queue_length\": 0,"
             " \"body_limit\": 1024, \"unpacked_limit\": 4096, \"header_limit\": 1024,"
             " \"cors_origins\": \"https://app.example\", \"log_level\": \"off\"}",
             address.sun_path);
    if (!config_parse(&config, text, strlen(text), error, sizeof(error)))
        abort();
    log_set_level(LOG_OFF);
    signal(SIGPIPE, SIG_IGN);
    keys = jwt_keys_create(config.jwt_secret, NULL, 0, error, sizeof(error));
    server = server_create(&config, keys, NULL, router_configure, error, sizeof(error));
    if (server == NULL)
        abort();
    atexit(remove_socket);
    server_start(server);
}

/* Puts tokens where the input asks for them. Returns the length. */
static size_t
expand(const unsigned char *bytes, size_t size, char *out)
{
    size_t length = 0;

    for (size_t at = 0; at < size && length < ROOM - sizeof(TOKEN); at++)
    {
        if (bytes[at] != 0x7f)
        {
            out[length++] = (char)bytes[at];
            continue;
        }
        memcpy(out + length, TOKEN, sizeof(TOKEN) - 1);
        length += sizeof(TOKEN) - 1;
    }
    return length;
}

/* An answer of the gateway, or libh2o's own to what is no HTTP. */
static void
check(const char *answer, size_t size)
{
    static const char *const beginnings[] = {
        "HTTP/1.1 100 ", "HTTP/1.1 200 ", "HTTP/1.1 204 ", "HTTP/1.1 304 ", "HTTP/1.1 400 ",
        "HTTP/1.1 401 ", "HTTP/1.1 403 ", "HTTP/1.1 404 ", "HTTP/1.1 405 ", "HTTP/1.1 413 ",
        "HTTP/1.1 415 ", "HTTP/1.1 417 ", "HTTP/1.1 431 ", "HTTP/1.1 503 "};

    for (size_t i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++)
        if (size < strlen(beginnings[i]) ||
            memcmp(answer, beginnings[i], strlen(beginnings[i])) == 0)
            return;
    abort();
}

int
LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size)
{
    static char input[ROOM];
    static char answer[ROOM];
    size_t length;
    size_t received = 0;
    ssize_t count;
    int peer;

    if (address.sun_path[0] == '\0')
        start();
    length = expand(bytes, size, input);
    peer = socket(AF_UNIX, SOCK_STREAM, 0);
    if (peer < 0 || connect(peer, (struct sockaddr *)&address, sizeof(address)) != 0)
        abort();
    /* The server may hang up before it has read all. */
    (void)!send(peer, input, length, MSG_NOSIGNAL);
    shutdown(peer, SHUT_WR);
    while ((count = recv(peer, answer + received, sizeof(answer) - received, 0)) > 0)
        received += (size_t)count;
    close(peer);
    check(answer, received);
    return 0;
}
