/*
 * loadable.h - what the parts of the loadable extension share.
 */
#ifndef ROWSYNC_LOADABLE_H
#define ROWSYNC_LOADABLE_H

#include "client.h"

/* loadable.c */
rowsync *loadable_client(sqlite3 *db, rowsync **slot, char **error);

/* loadable_table.c */
int loadable_register_tables(sqlite3 *db, rowsync **slot);

#endif
