/*
 * config.h: the gateway's settings, from a JSON file and the environment.
 */
#ifndef ROWSYNC_GATEWAY_CONFIG_H
#define ROWSYNC_GATEWAY_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define TEXT(name, ...) char *name;
#define INTEGER(name, ...) int64_t name;
#define BOOLEAN(name, ...) bool name;

/* Values of all settings, by the names that settings.h has. */
struct config
{
#include "settings.h"
};

#undef TEXT
#undef INTEGER
#undef BOOLEAN

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
