/*
 * main.c: rowsync-gateway, the process: arguments, signals, start and end.
 */
#include "config.h"
#include "listener.h"
#include "log.h"
#include "notify.h"
#include "router.h"
#include "server.h"
#include "tls.h"

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXIT_USAGE 2

static const char usage[] =
    "Usage: rowsync-gateway [--config FILE]\n"
    "\n"
    "Serves the rowsync protocol over HTTP from a PostgreSQL database with the extension rowsync.\n"
    "\n"
    "  -c, --config FILE   JSON file with settings; the environment overrides it\n"
    "      --check-config  check settings and keys, say what is wrong, and exit\n"
    "      --settings      list every setting with default, unit and range\n"
    "  -V, --version       print the version\n"
    "  -h, --help          print this\n"
    "\n"
    "SIGTERM and SIGINT let requests in hand end, then the process exits with 0.\n"
    "SIGHUP reads settings, keys and certificates again; anything wrong leaves all as it was.\n";

/* Sets the log's level from a configuration that config.c has checked. */
static void
apply_log_level(const struct config *config)
{
    static const char *const names[] = {"debug", "info", "warning", "error", "off"};

    for (int level = LOG_DEBUG; level <= LOG_OFF; level++)
        if (strcmp(config->log_level, names[level]) == 0)
            log_set_level((enum log_level)level);
}

/*
 * The settings since one reload. Requests may point into old ones for as long as they last, so all
 * are kept: a reload costs a kilobyte.
 */
struct generation
{
    struct config config;
    struct generation *older;
};

/*
 * SIGHUP: settings, keys and certificates anew, or the old ones and a word in the log. What only a
 * restart can change is named, and stays.
 */
static void
reload(struct server *server, const char *path, struct generation **current)
{
    struct generation *next = calloc(1, sizeof(*next));
    struct jwt_keys *keys = NULL;
    SSL_CTX *tls = NULL;
    char error[1024];
    char kept[1024];
    bool good;

    if (next == NULL)
        abort();
    good = config_load(&next->config, path, error, sizeof(error));
    if (good)
    {
        config_keep(&next->config, &(*current)->config, kept, sizeof(kept));
        keys = auth_load_keys(&next->config, error, sizeof(error));
    }
    if (keys == NULL || !tls_load(&next->config, &tls, error, sizeof(error)))
    {
        log_message(LOG_ERROR, "reload_failed", "%s; everything stays as it was", error);
        if (good)
            config_free(&next->config);
        free(next);
    }
    else
    {
        next->older = *current;
        *current = next;
        server_renew(server, &next->config, keys, tls);
        apply_log_level(&next->config);
        if (kept[0] != '\0')
            log_message(LOG_WARNING, "restart_needed",
                        "these settings have changed and wait for a restart: %s", kept);
        log_message(LOG_INFO, "reloaded", "settings, keys and certificates read again");
    }
    SSL_CTX_free(tls);
    if (keys != NULL)
        jwt_keys_release(keys);
}

/* Frees all settings that ever were. */
static void
free_generations(struct generation *generation)
{
    while (generation != NULL)
    {
        struct generation *older = generation->older;

        config_free(&generation->config);
        free(generation);
        generation = older;
    }
}

/* Waits for signals until one asks to end. */
static void
serve(struct server *server, const char *path, struct generation **current, const sigset_t *signals)
{
    int received;

    for (;;)
    {
        if (sigwait(signals, &received) != 0)
            continue;
        if (received != SIGHUP)
            break;
        reload(server, path, current);
    }
    notify_manager("STOPPING=1");
    log_message(LOG_INFO, "draining", "%s", strsignal(received));
    server_drain(server);
    log_message(LOG_INFO, "stopped", "bye");
}

/* Runs the server to its end. Returns the exit status. */
static int
run(const char *path, struct generation **current, struct jwt_keys *keys, SSL_CTX *tls)
{
    const struct config *config = &(*current)->config;
    char error[512];
    struct server *server;
    sigset_t signals;

    /* Blocked here, before any thread: all of them inherit that, and only sigwait receives. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    server = server_create(config, keys, tls, router_configure, error, sizeof(error));
    if (server == NULL)
    {
        fprintf(stderr, "rowsync-gateway: %s\n", error);
        return EXIT_FAILURE;
    }
    server_start(server);
    printf("rowsync-gateway: listening on %s\n", server_url(server));
    fflush(stdout);
    log_message(LOG_INFO, "started", "listening on %s", server_url(server));
    notify_manager("READY=1");
    serve(server, path, current, &signals);
    server_free(server);
    return EXIT_SUCCESS;
}

/* Descriptors 0 to 2 are opened where whoever started us closed them: no socket shall get these. */
static void
keep_standard_files(void)
{
    int descriptor;

    do
        descriptor = open("/dev/null", O_RDWR);
    while (descriptor >= 0 && descriptor <= STDERR_FILENO);
    if (descriptor >= 0)
        close(descriptor);
}

int
main(int argc, char **argv)
{
    enum
    {
        CHECK = 256,
        SETTINGS
    };
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},  {"check-config", no_argument, NULL, CHECK},
        {"settings", no_argument, NULL, SETTINGS}, {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0}};
    const char *path = NULL;
    bool check = false;
    struct generation *settings;
    struct jwt_keys *keys;
    SSL_CTX *tls = NULL;
    char error[1024];
    int option;
    int status;

    keep_standard_files();
    while ((option = getopt_long(argc, argv, "c:Vh", options, NULL)) != -1)
    {
        switch (option)
        {
            case 'c':
                path = optarg;
                break;
            case CHECK:
                check = true;
                break;
            case SETTINGS:
                config_describe(stdout);
                return EXIT_SUCCESS;
            case 'V':
                puts("rowsync-gateway " ROWSYNC_VERSION);
                return EXIT_SUCCESS;
            case 'h':
                fputs(usage, stdout);
                return EXIT_SUCCESS;
            default:
                fputs("Try \"rowsync-gateway --help\".\n", stderr);
                return EXIT_USAGE;
        }
    }
    if (optind != argc)
    {
        fprintf(stderr, "rowsync-gateway: unexpected argument \"%s\"\n%s", argv[optind], usage);
        return EXIT_USAGE;
    }
    settings = calloc(1, sizeof(*settings));
    if (settings == NULL)
        abort();
    if (!config_load(&settings->config, path, error, sizeof(error)) ||
        !listener_check(&settings->config, error, sizeof(error)))
    {
        fprintf(stderr, "rowsync-gateway: %s\n", error);
        free_generations(settings);
        return EXIT_USAGE;
    }
    apply_log_level(&settings->config);
    keys = auth_load_keys(&settings->config, error, sizeof(error));
    if (keys == NULL || !tls_load(&settings->config, &tls, error, sizeof(error)))
    {
        if (keys != NULL)
            jwt_keys_release(keys);
        fprintf(stderr, "rowsync-gateway: %s\n", error);
        free_generations(settings);
        return EXIT_USAGE;
    }
    if (check)
        puts("rowsync-gateway: the configuration is good");
    status = check ? EXIT_SUCCESS : run(path, &settings, keys, tls);
    SSL_CTX_free(tls);
    jwt_keys_release(keys);
    free_generations(settings);
    return status;
}
