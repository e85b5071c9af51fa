/*
 * config.h: the gateway's settings, from a JSON file and the environment.
 */
#ifndef ROWSYNC_GATEWAY_CONFIG_H
#define ROWSYNC_GATEWAY_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Values of all settings; what each means, its unit and its range stand in config.c's table. */
struct config
{
    char *listen;
    char *tls_certificate;
    char *tls_key;
    char *database_url;
    char *replica_url;
    char *jwt_secret;
    char *jwks_file;
    char *jwt_issuer;
    char *jwt_audience;
    char *log_level;
    char *cors_origins;
    int64_t rate_limit;
    int64_t rate_burst;
    int64_t jwt_leeway;
    int64_t token_cache;
    int64_t loops;
    int64_t pool_size;
    int64_t stream_pool_size;
    int64_t stream_timeout;
    int64_t watch_interval;
    int64_t queue_length;
    int64_t queue_timeout;
    int64_t connect_timeout;
    int64_t statement_timeout;
    int64_t recycle_size;
    int64_t body_limit;
    int64_t unpacked_limit;
    int64_t header_limit;
    int64_t header_timeout;
    int64_t body_timeout;
    int64_t idle_timeout;
    int64_t send_timeout;
    int64_t send_rate;
    int64_t memory_limit;
    int64_t max_connections;
    int64_t drain_timeout;
    int64_t gzip_level;
    bool pgbouncer;
    bool metrics;
    bool reuse_port;
};

/*
 * Fills *config from the defaults, then the file (NULL: none), then the environment. Returns false
 * with what, where and what to do in `error`; nothing needs freeing then. On success config_free
 * gives the memory back.
 */
bool config_load(struct config *config, const char *path, char *error, size_t error_size);

/* Reads a configuration from JSON text: what config_load does with a file's content. */
bool config_parse(struct config *config, const char *json, size_t size, char *error,
                  size_t error_size);

/*
 * Gives `config` the values that `old` has for the settings that only a restart can change, and
 * writes the names of those that differed into `names`, by commas.
 */
void config_keep(struct config *config, const struct config *old, char *names, size_t names_size);

void config_free(struct config *config);

/* Writes the table of settings that docs/gateway.md shows. */
void config_describe(FILE *out);

#endif
