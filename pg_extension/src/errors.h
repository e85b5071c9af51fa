/*
 * errors.h: every SQLSTATE that rowsync raises itself. Class RS is ours; what a code means to an
 * HTTP client is in docs/protocol.md, what to do about it in docs/sql.md.
 */
#ifndef ROWSYNC_ERRORS_H
#define ROWSYNC_ERRORS_H

#include "utils/elog.h"

/* The body of an upload is no JSON or has the wrong form as a whole. */
#define ROWSYNC_INVALID_REQUEST MAKE_SQLSTATE('R', 'S', '0', '0', '1')
/* An argument of a public function is out of range. */
#define ROWSYNC_INVALID_PARAMETER MAKE_SQLSTATE('R', 'S', '0', '0', '2')
/* A download starts below what prune has kept. */
#define ROWSYNC_HISTORY_PRUNED MAKE_SQLSTATE('R', 'S', '0', '0', '3')
/* A row of a registered table has no scope. */
#define ROWSYNC_SCOPE_MISSING MAKE_SQLSTATE('R', 'S', '0', '0', '4')
/* A table cannot be registered as it is. */
#define ROWSYNC_TABLE_NOT_SYNCABLE MAKE_SQLSTATE('R', 'S', '0', '0', '5')
/* A table is not registered. */
#define ROWSYNC_TABLE_NOT_REGISTERED MAKE_SQLSTATE('R', 'S', '0', '0', '6')
/* The library and the installed SQL are of different versions. */
#define ROWSYNC_VERSION_MISMATCH MAKE_SQLSTATE('R', 'S', '0', '0', '7')
/* rowsync's own tables contradict each other. */
#define ROWSYNC_DAMAGED MAKE_SQLSTATE('R', 'S', '0', '0', '8')

#endif
