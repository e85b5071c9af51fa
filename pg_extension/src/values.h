/*
 * values.h: one column value between JSON and PostgreSQL, after the table "Values" of
 * docs/protocol.md. No value changes by a round trip.
 */
#ifndef ROWSYNC_VALUES_H
#define ROWSYNC_VALUES_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"

typedef enum ValueKind
{
    VALUE_BOOL,
    VALUE_INT2,
    VALUE_INT4,
    VALUE_INT8,
    VALUE_FLOAT4,
    VALUE_FLOAT8,
    VALUE_NUMERIC,
    VALUE_TEXT,
    VALUE_UUID,
    VALUE_BYTEA,
    VALUE_TIMESTAMPTZ,
    VALUE_TIMESTAMP,
    VALUE_DATE,
    VALUE_JSON,
    VALUE_JSONB,
    VALUE_OTHER /* PostgreSQL's text form */
} ValueKind;

/* How the values of one column travel. */
typedef struct ValueCodec
{
    ValueKind kind;           /* of the base type */
    bool direct_input;        /* our own parser is enough: no domain, no length to enforce */
    bool safe_input;          /* reading it never raises an error */
    bool output_needs_format; /* its text form depends on DateStyle and the like */
    bool input_needs_format;
    Oid type;
    int32 typmod;
    int16 typlen;
    bool typbyval;
    Oid ioparam;
    FmgrInfo input;
    FmgrInfo output;
} ValueCodec;

/* One value of a request. text is decoded for strings, raw for all other kinds. */
typedef enum JsonKind
{
    JSON_NULL,
    JSON_BOOL,
    JSON_NUMBER,
    JSON_STRING,
    JSON_OBJECT,
    JSON_ARRAY
} JsonKind;

typedef struct JsonValue
{
    JsonKind kind;
    int len;
    const char *text; /* NUL-terminated for scalars; for objects and arrays it is not */
} JsonValue;

/* The session's formats of dates and numbers, set aside while rowsync formats. */
typedef struct ValueFormat
{
    int date_style;
    int date_order;
    int interval_style;
    int float_digits;
    int bytea_output;
    void *timezone;
} ValueFormat;

void value_codec_init(ValueCodec *codec, Oid type, int32 typmod, MemoryContext context);
void value_append_json(StringInfo out, ValueCodec *codec, Datum value);
Datum value_from_json(ValueCodec *codec, const JsonValue *json, bool *isnull, const char **error);
void timestamp_append_json(StringInfo out, int64 value);
void json_append_integer(StringInfo out, int64 value);
void json_append_string(StringInfo out, const char *text, int len);

bool value_travels_as_sent(ValueCodec *codec, Datum value, const JsonValue *json);
void value_format_enter(ValueFormat *saved);
void value_format_leave(const ValueFormat *saved);

#endif
