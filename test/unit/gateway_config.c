/*
 * gateway_config.c: settings: defaults, file, environment, and every way to get them wrong.
 */
#include "config.h"
#include "gateway_tap.h"

#include <stdlib.h>

#define SECRET "0123456789abcdef0123456789abcdef"
#define BASE "\"database_url\": \"dbname=x\", \"jwt_secret\": \"" SECRET "\""

static struct config config;
static char error[512];

/* Reads a configuration whose members come after the two that are required. */
static bool
parses(const char *json)
{
    error[0] = '\0';
    return config_parse(&config, json, strlen(json), error, sizeof(error));
}

/* It must be refused, with this message. */
static void
refuses(const char *json, const char *message, const char *name)
{
    if (parses(json))
    {
        config_free(&config);
        ok(false, name);
        return;
    }
    is(error, message, name);
}

static void
test_good(void)
{
    ok(parses("{" BASE "}") && config.pool_size == 8 && config.jwt_leeway == 60 &&
           strcmp(config.listen, "127.0.0.1:8080") == 0 && config.jwt_issuer == NULL,
       "defaults");
    config_free(&config);
    ok(parses("{" BASE ", \"pool_size\": 3, \"pgbouncer\": true, \"listen\": \"[::1]:0\"}") &&
           config.pool_size == 3 && config.pgbouncer && strcmp(config.listen, "[::1]:0") == 0,
       "a number, a boolean and a string from the file");
    config_free(&config);
    setenv("ROWSYNC_POOL_SIZE", "5", 1);
    setenv("DATABASE_URL", "postgresql://h/d", 1);
    ok(parses("{" BASE ", \"pool_size\": 3}") && config.pool_size == 5 &&
           strcmp(config.database_url, "postgresql://h/d") == 0,
       "the environment overrides the file");
    config_free(&config);
    setenv("ROWSYNC_POOL_SIZE", "many", 1);
    refuses("{}", "ROWSYNC_POOL_SIZE must be an integer from 1 to 1000 (connections)",
            "an environment variable that is no number");
    unsetenv("ROWSYNC_POOL_SIZE");
    unsetenv("DATABASE_URL");
}

static void
test_refusals(void)
{
    refuses("{" BASE ", \"pool_sise\": 3}",
            "unknown setting \"pool_sise\": did you mean \"pool_size\"?", "a misspelt key");
    refuses("{" BASE ", \"colour\": 3}",
            "unknown setting \"colour\": see rowsync-gateway --settings for all of them",
            "a key like none");
    refuses("{" BASE ", \"pool_size\": 0}",
            "\"pool_size\" must be an integer from 1 to 1000 (connections)",
            "a number out of range");
    refuses("{" BASE ", \"pool_size\": 1001}",
            "\"pool_size\" must be an integer from 1 to 1000 (connections)",
            "a number out of range at the other end");
    refuses("{" BASE ", \"pool_size\": \"3\"}",
            "\"pool_size\" must be an integer from 1 to 1000 (connections)",
            "a string for a number");
    refuses("{" BASE ", \"pool_size\": 1.5}",
            "\"pool_size\" must be an integer from 1 to 1000 (connections)", "a fraction");
    refuses("{" BASE ", \"pgbouncer\": 1}", "\"pgbouncer\" must be true or false",
            "a number for a boolean");
    refuses("{" BASE ", \"listen\": 8080}", "\"listen\" must be a string", "a number for a string");
    refuses("{" BASE ", \"replica_url\": \"\"}", "\"replica_url\" must not be empty",
            "an empty string");
    refuses(
        "{\"database_url\": \"postgresql://gw:pass/word@h/app\", \"jwt_secret\": \"" SECRET "\"}",
        "database_url is no libpq connection string: its port is no number; / : @ ? # and % of a "
        "password must be percent-encoded in a URI",
        "part of a password for a port");
    refuses("{" BASE ", \"log_level\": \"loud\"}",
            "log_level must be debug, info, warning, error or off, not \"loud\"",
            "an unknown log level");
    refuses("{" BASE ", \"roles\": \"a,b\"}",
            "roles without role_claim means nothing: say in which claim the role stands",
            "roles and no claim that names one");
    refuses("{" BASE ", \"http2\": true}",
            "http2 needs tls_certificate and tls_key: it is offered in TLS handshakes only",
            "HTTP/2 without TLS");
    refuses("[]", "the configuration must be a JSON object", "an array");
    refuses("{\"pool_size\": 3, \"pool_size\": 4}",
            "line 1, column 28: duplicate object key near '\"pool_size\"'", "a key given twice");
    refuses("{\"jwt_secret\": \"" SECRET "\"}",
            "database_url is not set: set DATABASE_URL, or \"database_url\" in the configuration "
            "file, to a libpq connection string",
            "no database");
    refuses("{\"database_url\": \"dbname=x\"}",
            "neither jwt_secret nor jwks_file is set: without a key no token can be verified",
            "no key");
    refuses("{\"database_url\": \"dbname=x\", \"jwt_secret\": \"short\"}",
            "jwt_secret has 5 bytes: HS256 needs at least 32 (RFC 7518, 3.2), and more "
            "than 1024 are not taken",
            "a short secret");
    ok(!parses("{\"database_url\": \"nonsense=1\", \"jwt_secret\": \"" SECRET "\"}") &&
           strstr(error, "database_url is no libpq connection string: ") == error,
       "a broken connection string");
    ok(!parses("{\"pool_size\": 3") && strstr(error, "line 1, column ") == error, "broken JSON");
}

static void
test_files(void)
{
    ok(!config_load(&config, "/nonexistent/x.json", error, sizeof(error)), "a missing file");
    is(error, "/nonexistent/x.json: No such file or directory", "its message");
}

int
main(void)
{
    unsetenv("DATABASE_URL");
    test_good();
    test_refusals();
    test_files();
    return done();
}
