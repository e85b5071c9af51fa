/*
 * client_memory.c - every allocation of the library, of SQLite and of libcurl fails in turn, alone
 * and with all that follow.
 *
 *     build/test/unit/client_memory all [CALL]
 *
 * makes every one fail (of one call only, such as "push"), some 300,000 in all; `make check` takes
 * forty of each. In the whole run a failure that leaves behind what one before has left, to the
 * byte, is not looked over again, but for one in sixteen (known() in client_calls.h): most leave
 * everything as it was. What the call answers and the memory it holds are looked at each time.
 */
#include <arpa/inet.h>
#include <limits.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client_calls.h"

static bool lasting; /* all that follow fail too */

/* Time stands still, so that failures which leave the same behind are seen to. */
static int
stand_still(sqlite3_vfs *vfs, sqlite3_int64 *now)
{
    (void)vfs;
    *now = 212600000000000;
    return SQLITE_OK;
}

/* Random numbers are those of the call before, for the same reason. */
static void
arm(void *context, sqlite3 *db, long at)
{
    Source *source = context;

    (void)db;
    sqlite3_test_control(SQLITE_TESTCTRL_PRNG_RESTORE);
    *source = (Source){at, lasting, false, source->held};
}

static bool
disarm(void *context, sqlite3 *db)
{
    Source *source = context;

    (void)db;
    source->left = -1;
    return source->failed;
}

/* What libcurl makes of it is its own affair. */
static bool
fitting(void *context, rowsync_code code)
{
    return code == ROWSYNC_NOMEM || context == &of_curl;
}

/* Allocations of the source fail, `most` of them (0: all). */
static void
test_memory(const Call *call, const rowsync_options *options, Source *source, const char *what,
            long most)
{
    const Failure failure = {what, NULL, arm, disarm, fitting, source};
    Image image = make_image(call);
    char *wanted;
    Tally tally = {0};
    long at, step = 1;

    source->left = LONG_MAX;
    wanted = undisturbed(call, &image, options);
    if (most > 0 && LONG_MAX - source->left > most)
        step = (LONG_MAX - source->left) / most;
    source->left = -1;
    for (lasting = false, at = 0; run_once(call, &image, options, &failure, at, wanted, &tally);
         at += step)
        ;
    for (lasting = true, at = step / 2;
         run_once(call, &image, options, &failure, at, wanted, &tally); at += step)
        ;
    told(&tally, call->name, what);
    sqlite3_free(wanted);
    sqlite3_free(image.bytes);
}

/* Writes the whole of it. */
static void
put(int fd, const char *data, size_t length)
{
    while (length > 0)
    {
        ssize_t done = send(fd, data, length, MSG_NOSIGNAL);

        if (done <= 0)
            return;
        data += done;
        length -= (size_t)done;
    }
}

/* A server of HTTP around the peer, for libcurl; one connection at a time. */
static void *
serve(void *context)
{
    static char head[65536], answer[65536], line[256];
    int listening = *(int *)context, fd;

    while ((fd = accept(listening, NULL, NULL)) >= 0)
    {
        size_t length = 0;
        ssize_t more;

        while ((more = recv(fd, head + length, sizeof(head) - 1 - length, 0)) > 0)
        {
            char *body, *size;
            long status;

            length += (size_t)more;
            head[length] = '\0';
            body = strstr(head, "\r\n\r\n");
            size = strstr(head, "Content-Length: ");
            if (body == NULL ||
                (size != NULL && length < (size_t)(body + 4 - head) + strtoul(size + 16, NULL, 10)))
                continue;
            status = respond(head, body + 4, answer);
            snprintf(line, sizeof(line),
                     "HTTP/1.1 %ld OK\r\nContent-Type: application/json\r\nContent-Length: "
                     "%zu\r\n\r\n",
                     status, strlen(answer));
            put(fd, line, strlen(line));
            put(fd, answer, strlen(answer));
            length = 0;
        }
        close(fd);
    }
    return NULL;
}

/* The server's port, and where the database says that it is. */
static int listening;
static char address[64];

static rowsync_code
call_sync_by_curl(rowsync *client)
{
    rowsync_code code = rowsync_attach(client, address, "ann", "phone");

    return code == ROWSYNC_OK ? call_sync(client) : code;
}

static const Call over_curl = {"sync over libcurl",
                               call_sync_by_curl,
                               {make_tracked, make_attached, call_hydrate},
                               NULL,
                               "INSERT INTO users VALUES ('mine', 'Mine', 1)",
                               true};

/* The transport over libcurl, with a real server. */
static void
test_curl(long most)
{
    static const rowsync_options options = {.transport = NULL};
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(name);
    pthread_t thread;

    listening = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listening, (struct sockaddr *)&name, sizeof(name)) != 0 || listen(listening, 8) != 0 ||
        getsockname(listening, (struct sockaddr *)&name, &size) != 0 ||
        pthread_create(&thread, NULL, serve, &listening) != 0)
        exit(1);
    snprintf(address, sizeof(address), "http://127.0.0.1:%d", ntohs(name.sin_port));
    test_memory(&over_curl, &options, &of_curl, "allocations of libcurl", most);
    test_memory(&over_curl, &options, &of_library, "allocations beside libcurl", most);
    shutdown(listening, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(listening);
}

int
main(int count, char **arguments)
{
    long most = count > 1 && strcmp(arguments[1], "all") == 0 ? 0 : 40;
    size_t i;

    take_over();
    if (most == 0)
        sparing = 16;
    sqlite3_vfs_find(NULL)->xCurrentTimeInt64 = stand_still;
    sqlite3_randomness(sizeof(i), &i);
    sqlite3_test_control(SQLITE_TESTCTRL_PRNG_SAVE);
    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
    {
        if (count > 2 && strcmp(calls[i].name, arguments[2]) != 0)
            continue;
        test_memory(&calls[i], &peer_options, &of_library, "allocations of the library", most);
        test_memory(&calls[i], &peer_options, &of_sqlite, "allocations of SQLite", most);
    }
    if (count < 3 || strcmp(over_curl.name, arguments[2]) == 0)
        test_curl(most);
    return done();
}
