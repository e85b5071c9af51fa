/*
 * rowkey.h: how a row is named inside rowsync.
 *
 * Format of row_key:
 *   one uuid column              its 16 bytes
 *   one smallint, integer, bigint column   8 bytes, big-endian, two's complement
 *   one text or varchar column   its bytes
 *   anything else, or several columns      a JSON array of the values in key order, written as
 *                                values.c writes them, without white space
 */
#ifndef ROWSYNC_ROWKEY_H
#define ROWSYNC_ROWKEY_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "lib/stringinfo.h"

typedef enum KeyKind
{
    KEY_UUID,
    KEY_INTEGER,
    KEY_TEXT,
    KEY_JSON
} KeyKind;

/* Bytes of a key. Does not own them. */
typedef struct RowKey
{
    int len;
    const char *data;
} RowKey;

struct SyncedTable;
struct JsonValue;

/* Longest key in bytes: what fits into an index entry with room to spare. */
#define ROWSYNC_MAX_KEY 2000

RowKey rowkey_pack(const struct SyncedTable *table, const Datum *values);
RowKey rowkey_from_slot(const struct SyncedTable *table, TupleTableSlot *slot);
bool rowkey_from_values(const struct SyncedTable *table, const struct JsonValue *const *parts,
                        Datum *values, RowKey *key, const char **error, int *wrong);
bool rowkey_parse(const struct SyncedTable *table, const struct JsonValue *pk, Datum *values,
                  RowKey *key, const char **error);
bool rowkey_is_packed(const struct SyncedTable *table, RowKey key);
void rowkey_append_json(StringInfo out, const struct SyncedTable *table, RowKey key);
void rowkey_append_text(StringInfo out, const struct SyncedTable *table, RowKey key);

static inline bool
rowkey_equal(RowKey a, RowKey b)
{
    return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

/* The order of packed keys: that of bytea. */
static inline int
rowkey_compare(RowKey a, RowKey b)
{
    int result = memcmp(a.data, b.data, Min(a.len, b.len));

    return result != 0 ? result : a.len - b.len;
}

#endif
