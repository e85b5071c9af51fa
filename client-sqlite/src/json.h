/*
 * json.h - a strict reader of JSON (RFC 8259) that hands out slices of the text it reads.
 *
 * It builds no tree, and allocates only where texts are compared: a value is found as the slice of
 * bytes that it occupies, and converted only where somebody wants it. Everything that it passes
 * over is checked all the same: grammar, UTF-8, surrogate pairs, depth. A mistake is remembered,
 * and every later call returns nothing.
 */
#ifndef ROWSYNC_JSON_H
#define ROWSYNC_JSON_H

#include "buffer.h"

/* Deeper than PostgreSQL's own stack goes by default, some 15,000. A multiple of 64. */
#define JSON_MAX_DEPTH 65536

typedef struct JsonReader
{
    const char *at;
    const char *end;
    bool failed;
    bool any_bytes; /* strings need not be UTF-8: what SQLite has written of an app's text */
} JsonReader;

JsonReader scan_reader(Slice text);
bool scan_value(JsonReader *reader, Slice *value);
bool scan_enter(JsonReader *reader, char bracket);
bool scan_next_member(JsonReader *reader, bool first, Slice *name, Slice *value);
bool scan_next_element(JsonReader *reader, bool first, Slice *value);
bool scan_finish(JsonReader *reader);

bool scan_fields(Slice object, const char *const *names, Slice *values, int count);
Slice scan_member(Slice object, Slice name);
bool scan_int64(Slice value, int64_t *out);
bool scan_string(Slice value, Buffer *out);
bool scan_is_null(Slice value);
bool scan_boolean(Slice value, bool *out);

bool json_same(Slice one, Slice other);

#endif
