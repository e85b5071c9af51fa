/*
 * listing.h - the lists of what waits in a database.
 */
#ifndef ROWSYNC_LISTING_H
#define ROWSYNC_LISTING_H

#include "client.h"

/* Columns of the widest list. */
#define MOST_LISTED 8

#define LISTINGS (ROWSYNC_LIST_OVERWRITTEN + 1)

typedef struct Listing
{
    const char *name;    /* of the table-valued function */
    const char *columns; /* the names of its columns, by commas */
    const char *sql;     /* the query, with these names; for listing_prepare() */
} Listing;

extern const Listing rs_listings[LISTINGS];

/* sides.c */
int listing_prepare(rowsync *client, const char *sql, sqlite3_stmt **statement);

#endif
