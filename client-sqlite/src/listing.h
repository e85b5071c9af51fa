/*
 * listing.h - the lists of what waits in a database.
 */
#ifndef ROWSYNC_LISTING_H
#define ROWSYNC_LISTING_H

typedef enum ListingKind
{
    LISTING_PENDING,   /* edits that wait for upload */
    LISTING_CONFLICTS, /* rows that wait for rowsync_resolve() */
    LISTING_REJECTED,  /* dead letters */
    LISTINGS
} ListingKind;

typedef struct Listing
{
    const char *name;    /* of the table-valued function */
    const char *columns; /* their names, by commas */
    const char *sql;     /* a query that gives these columns */
} Listing;

extern const Listing rs_listings[LISTINGS];

#endif
