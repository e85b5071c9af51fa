/*
 * loadable.h - what the parts of the loadable extension share.
 */
#ifndef ROWSYNC_LOADABLE_H
#define ROWSYNC_LOADABLE_H

#include "client.h"

/* loadable_table.c */
int loadable_register_tables(sqlite3 *db);

#endif
