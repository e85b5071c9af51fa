/*
 * apply.h: writes rows to business tables, many with one statement, with the caller's rights.
 */
#ifndef ROWSYNC_APPLY_H
#define ROWSYNC_APPLY_H

#include "postgres.h"

#include "registry.h"

typedef enum ApplyKind
{
    APPLY_INSERT,
    APPLY_UPDATE,
    APPLY_DELETE
} ApplyKind;

/* One row to write. values and nulls are by column index; columns says which are set. */
typedef struct ApplyRow
{
    ApplyKind kind;
    Bitmapset *columns;
    Datum *values;
    bool *nulls;
} ApplyRow;

void apply_init(void);
void apply_begin(void);
void apply_end(void);
void apply_rows(SyncedTable *table, ApplyRow *const *rows, int nrows, const char *scope,
                const List *unchecked);

#endif
