/*
 * payload.h: a row as the change log keeps it, taken apart again.
 */
#ifndef ROWSYNC_PAYLOAD_H
#define ROWSYNC_PAYLOAD_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "registry.h"
#include "request.h"

void payload_append_values(StringInfo out, SyncedTable *table, const char *payload, int len);
const JsonValue *payload_value(const JsonMember *members, int nmembers, const SyncedColumn *column);
bool payload_equal(SyncedTable *table, const char *a, int a_len, const char *b, int b_len);

#endif
