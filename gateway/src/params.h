/*
 * params.h: reading query strings. Pure functions on bytes.
 */
#ifndef ROWSYNC_GATEWAY_PARAMS_H
#define ROWSYNC_GATEWAY_PARAMS_H

#include "problem.h"

/* Longest schema name, as PostgreSQL has it. */
#define PARAM_TEXT_MAX 63

enum param_kind
{
    PARAM_INTEGER,
    PARAM_BOOLEAN,
    PARAM_TEXT
};

/* One parameter: what it may be, and after params_read what it is. */
struct param
{
    const char *name;
    enum param_kind kind;
    int64_t least; /* of integers */
    int64_t most;
    bool given;
    int64_t integer;
    bool boolean;
    char text[PARAM_TEXT_MAX + 1];
};

/*
 * Reads a query string (what follows the '?'; may be empty) into `params`. Names that are not among
 * them are ignored, as the protocol asks of newer peers' fields; one given twice, or with a value
 * outside of its range, is a problem that says which and why.
 */
bool params_read(const char *query, size_t size, struct param *params, size_t count,
                 struct problem *problem);

#endif
