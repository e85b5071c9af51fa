/*
 * listener.c: the sockets on which clients arrive, one for each loop.
 */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Connections that may wait for a loop; the kernel has a limit of its own. */
#define BACKLOG 65535

/* The first descriptor that a service manager passes (sd_listen_fds(3)). */
#define FIRST_PASSED 3

/*
 * Opens one TCP listener. One that is `alone` fails where anybody else listens: it takes the port
 * for itself and opens it to our other loops only when it has it. Checking first and binding then
 * would let two gateways that start together slip past each other.
 */
static int
listen_on(const struct addrinfo *address, bool alone, char *error, size_t error_size)
{
    int yes = 1;
    int shared = !alone;
    int descriptor = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (descriptor >= 0 &&
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) == 0 &&
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &shared, sizeof(shared)) == 0 &&
        bind(descriptor, address->ai_addr, address->ai_addrlen) == 0 &&
        listen(descriptor, BACKLOG) == 0 &&
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof(yes)) == 0)
        return descriptor;
    snprintf(error, error_size, "%s", strerror(errno));
    if (descriptor >= 0)
        close(descriptor);
    return -1;
}

/* Splits `host:port`, with brackets around an IPv6 host. */
static bool
split_address(const char *listen, char *host, size_t host_size, const char **port)
{
    const char *colon = strrchr(listen, ':');
    size_t length;

    if (colon == NULL || colon[1] == '\0' || colon == listen)
        return false;
    length = (size_t)(colon - listen);
    if (listen[0] == '[' && listen[length - 1] == ']')
    {
        listen++;
        length -= 2;
    }
    if (length >= host_size)
        return false;
    memcpy(host, listen, length);
    host[length] = '\0';
    *port = colon + 1;
    return true;
}

/* Closes what was opened before something failed. */
static bool
give_up(struct listener *listener, unsigned opened)
{
    while (opened > 0)
        close(listener->descriptors[--opened]);
    return false;
}

/* Gives every loop the same socket: they share its queue, and whoever is free takes the next. */
static bool
share(struct listener *listener, int descriptor, unsigned count, char *error, size_t error_size)
{
    for (unsigned i = 0; i < count; i++)
    {
        listener->descriptors[i] = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
        if (listener->descriptors[i] < 0)
        {
            snprintf(error, error_size, "cannot listen: %s", strerror(errno));
            return give_up(listener, i);
        }
    }
    return true;
}

/* Writes down under which address clients find a socket. */
static void
name_socket(struct listener *listener, int descriptor, bool tls)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    const struct sockaddr_un *local = (const struct sockaddr_un *)(const void *)&address;
    char host[64] = "";
    char port[8] = "";

    memset(&address, 0, sizeof(address));
    getsockname(descriptor, (struct sockaddr *)&address, &size);
    if (address.ss_family == AF_UNIX)
    {
        snprintf(listener->url, sizeof(listener->url), "unix:%s", local->sun_path);
        return;
    }
    getnameinfo((struct sockaddr *)&address, size, host, sizeof(host), port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(listener->url, sizeof(listener->url),
             address.ss_family == AF_INET6 ? "http%s://[%s]:%s" : "http%s://%s:%s", tls ? "s" : "",
             host, port);
}

/* The address of a TCP listener; the caller frees it with freeaddrinfo. */
static bool
find_address(const struct config *config, struct addrinfo **address, char *error, size_t error_size)
{
    static const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                          .ai_socktype = SOCK_STREAM,
                                          .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
    const char *port = NULL;
    char host[64];

    /* getaddrinfo takes any number for a port, and cuts it to 16 bits. */
    if (split_address(config->listen, host, sizeof(host), &port) &&
        port[strspn(port, "0123456789")] == '\0' && strtol(port, NULL, 10) <= UINT16_MAX &&
        getaddrinfo(host, port, &hints, address) == 0)
        return true;
    snprintf(error, error_size,
             "listen: \"%.64s\" is no numeric address and port such as 127.0.0.1:8080 or "
             "[::1]:8080 (the port from 0 to 65535), and no unix:/path",
             config->listen);
    return false;
}

/* One TCP listener a loop: with SO_REUSEPORT the kernel spreads connections over them. */
static bool
open_tcp(struct listener *listener, const struct config *config, unsigned count, char *error,
         size_t error_size)
{
    struct addrinfo *address;
    char reason[128];

    if (!find_address(config, &address, error, error_size))
        return false;
    for (unsigned i = 0; i < count; i++)
    {
        bool alone = i == 0 && !config->reuse_port;

        listener->descriptors[i] = listen_on(address, alone, reason, sizeof(reason));
        if (listener->descriptors[i] < 0)
        {
            snprintf(error, error_size, "cannot listen on %.64s: %s", config->listen, reason);
            freeaddrinfo(address);
            return give_up(listener, i);
        }
        /* With port 0 the first listener gets a port, and the others share it. */
        getsockname(listener->descriptors[i], address->ai_addr, &address->ai_addrlen);
    }
    freeaddrinfo(address);
    return true;
}

/* Is this a socket, and neither another file nor a link to anything? */
static bool
is_socket(const char *path)
{
    struct stat status;

    return lstat(path, &status) == 0 && S_ISSOCK(status.st_mode);
}

/* A socket file. One that nobody listens on any more is replaced; anything else that is there
 * stays.
 */
static bool
open_unix(struct listener *listener, const char *path, unsigned count, char *error,
          size_t error_size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool good = probe >= 0 && descriptor >= 0;

    /* Its length is listener_check's. */
    if (good)
    {
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        if (connect(probe, (struct sockaddr *)&address, sizeof(address)) != 0 &&
            errno == ECONNREFUSED && is_socket(path))
            unlink(path);
        good = bind(descriptor, (struct sockaddr *)&address, sizeof(address)) == 0 &&
               listen(descriptor, BACKLOG) == 0;
    }
    if (!good)
        snprintf(error, error_size, "cannot listen on unix:%.100s: %s", path, strerror(errno));
    good = good && share(listener, descriptor, count, error, error_size);
    if (probe >= 0)
        close(probe);
    if (descriptor >= 0)
        close(descriptor);
    return good;
}

/*
 * How many sockets the service manager has passed to this very process. The protocol is two
 * variables (sd_listen_fds(3)); for that no library is worth its dependency.
 */
static long
count_passed(void)
{
    const char *process = getenv("LISTEN_PID");
    const char *number = getenv("LISTEN_FDS");

    if (process == NULL || number == NULL || strtol(process, NULL, 10) != (long)getpid())
        return 0;
    return strtol(number, NULL, 10);
}

/* Takes over the socket that was passed. */
static bool
take_passed(struct listener *listener, long passed, unsigned count, char *error, size_t error_size)
{
    int listening = 0;
    socklen_t size = sizeof(listening);

    if (passed != 1)
        snprintf(error, error_size, "the service manager has passed %ld sockets instead of one",
                 passed);
    else if (getsockopt(FIRST_PASSED, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 ||
             !listening)
        snprintf(error, error_size,
                 "what the service manager has passed is no listening stream socket");
    else if (fcntl(FIRST_PASSED, F_SETFL, O_NONBLOCK) == 0 &&
             share(listener, FIRST_PASSED, count, error, error_size))
    {
        close(FIRST_PASSED);
        listener->inherited = true;
        return true;
    }
    return false;
}

bool
listener_check(const struct config *config, char *error, size_t error_size)
{
    struct addrinfo *address;

    if (strncmp(config->listen, "unix:", 5) == 0)
    {
        size_t length = strlen(config->listen + 5);

        if (length > 0 && length < sizeof(((struct sockaddr_un *)NULL)->sun_path))
            return true;
        snprintf(error, error_size, "listen: \"%.64s\" %s", config->listen,
                 length == 0 ? "names no socket file" : "is longer than a socket's path can be");
        return false;
    }
    if (!find_address(config, &address, error, error_size))
        return false;
    freeaddrinfo(address);
    return true;
}

bool
listener_open(struct listener *listener, const struct config *config, unsigned count, char *error,
              size_t error_size)
{
    long passed = count_passed();
    bool good;

    listener->inherited = false;
    if (passed != 0)
        good = take_passed(listener, passed, count, error, error_size);
    else if (strncmp(config->listen, "unix:", 5) == 0)
        good = open_unix(listener, config->listen + 5, count, error, error_size);
    else
        good = open_tcp(listener, config, count, error, error_size);
    if (good)
        name_socket(listener, listener->descriptors[0], config->tls_certificate != NULL);
    return good;
}

void
listener_withdraw(const struct listener *listener, const struct config *config)
{
    if (!listener->inherited && strncmp(config->listen, "unix:", 5) == 0)
        unlink(config->listen + 5);
}
