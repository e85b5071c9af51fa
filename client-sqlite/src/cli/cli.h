/*
 * cli.h - what the command line's parts share.
 *
 * Exit codes: 0 done; 1 failed; 2 the command line is wrong; 3 done, but something waits for the
 * user: conflicts to be resolved, refused changes, differences found.
 */
#ifndef ROWSYNC_CLI_H
#define ROWSYNC_CLI_H

#include <jansson.h>
#include <sqlite3.h>

#include "rowsync.h"

enum
{
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_ATTENTION = 3
};

/* The options of all commands; each command uses its own. */
typedef struct Arguments
{
    const char *command; /* the first argument */
    const char *file;
    const char **rest; /* what follows the file, ended by NULL */
    char *url;
    char *user;
    char *source;
    char *schema;
    char *policy;
    char *token_file;
    char *token_command;
    const char **local_columns;
    const char **claims;
    int batch_size;
    int page_size;
    int ttl;
    int json;
    int force;
    int repair;
} Arguments;

int token_command(const Arguments *arguments);
char *token_read(const Arguments *arguments);

#endif
