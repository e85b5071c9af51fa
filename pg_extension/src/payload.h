/*
 * payload.h: a row as the change log keeps it, taken apart again.
 */
#ifndef ROWSYNC_PAYLOAD_H
#define ROWSYNC_PAYLOAD_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "registry.h"

void payload_append_values(StringInfo out, SyncedTable *table, const char *payload, int len);
bool payload_equal(SyncedTable *table, const char *a, int a_len, const char *b, int b_len);

#endif
