/*
 * values.c: one column value between JSON and PostgreSQL.
 *
 * The table "Values" of docs/protocol.md says what each type looks like in JSON. What goes out is
 * canonical: the same value always gives the same bytes, whatever the session's settings. What
 * comes in is checked by us for the common types, and by the type's own input function for the
 * rest, which may raise an error: callers convert inside a subtransaction.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/base64.h"
#include "common/shortest_dec.h"
#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/varlena.h"

#include "values.h"

/* Which of our kinds a base type is. */
static ValueKind
kind_of(Oid type)
{
    switch (type)
    {
        case BOOLOID:
            return VALUE_BOOL;
        case INT2OID:
            return VALUE_INT2;
        case INT4OID:
            return VALUE_INT4;
        case INT8OID:
            return VALUE_INT8;
        case FLOAT4OID:
            return VALUE_FLOAT4;
        case FLOAT8OID:
            return VALUE_FLOAT8;
        case NUMERICOID:
            return VALUE_NUMERIC;
        case TEXTOID:
        case VARCHAROID:
        case BPCHAROID:
            return VALUE_TEXT;
        case UUIDOID:
            return VALUE_UUID;
        case BYTEAOID:
            return VALUE_BYTEA;
        case TIMESTAMPTZOID:
            return VALUE_TIMESTAMPTZ;
        case TIMESTAMPOID:
            return VALUE_TIMESTAMP;
        case DATEOID:
            return VALUE_DATE;
        case JSONOID:
            return VALUE_JSON;
        case JSONBOID:
            return VALUE_JSONB;
        default:
            return VALUE_OTHER;
    }
}

/* Fills codec for a column of this type; function lookups live in context. */
void
value_codec_init(ValueCodec *codec, Oid type, int32 typmod, MemoryContext context)
{
    Oid base = getBaseType(type);
    Oid function;
    bool varlena;

    codec->type = type;
    codec->typmod = typmod;
    codec->kind = kind_of(base);
    codec->direct_input =
        base == type && typmod < 0 && codec->kind != VALUE_OTHER && base != BPCHAROID;
    codec->safe_input =
        codec->direct_input &&
        (codec->kind == VALUE_BOOL || codec->kind == VALUE_INT2 || codec->kind == VALUE_INT4 ||
         codec->kind == VALUE_INT8 || codec->kind == VALUE_TEXT || codec->kind == VALUE_UUID ||
         codec->kind == VALUE_BYTEA);
    codec->output_needs_format = codec->kind == VALUE_OTHER;
    codec->input_needs_format = !codec->direct_input || codec->kind == VALUE_TIMESTAMPTZ ||
                                codec->kind == VALUE_TIMESTAMP || codec->kind == VALUE_DATE;
    get_typlenbyval(type, &codec->typlen, &codec->typbyval);
    getTypeInputInfo(type, &function, &codec->ioparam);
    fmgr_info_cxt(function, &codec->input, context);
    getTypeOutputInfo(type, &function, &varlena);
    fmgr_info_cxt(function, &codec->output, context);
}

/*
 * While rowsync turns values into text, dates are ISO, intervals ISO 8601, floats exact, bytes in
 * arrays hexadecimal and the zone is UTC, whatever the session uses. Plain assignments, because
 * going through the settings machinery for each captured row would cost more than the capture;
 * always paired with value_format_leave, on errors too.
 */
void
value_format_enter(ValueFormat *saved)
{
    static pg_tz *gmt = NULL;

    saved->date_style = DateStyle;
    saved->date_order = DateOrder;
    saved->interval_style = IntervalStyle;
    saved->float_digits = extra_float_digits;
    saved->bytea_output = bytea_output;
    saved->timezone = session_timezone;
    if (gmt == NULL)
        gmt = pg_tzset("GMT");
    DateStyle = USE_ISO_DATES;
    DateOrder = DATEORDER_YMD;
    IntervalStyle = INTSTYLE_ISO_8601;
    extra_float_digits = 1;
    bytea_output = BYTEA_OUTPUT_HEX;
    session_timezone = gmt;
}

/* Gives the session its own formats back. */
void
value_format_leave(const ValueFormat *saved)
{
    DateStyle = saved->date_style;
    DateOrder = saved->date_order;
    IntervalStyle = saved->interval_style;
    extra_float_digits = saved->float_digits;
    bytea_output = saved->bytea_output;
    session_timezone = saved->timezone;
}

/* Appends text as a JSON string. Copies runs that need no escape in one piece. */
void
json_append_string(StringInfo out, const char *text, int len)
{
    const char *end = text + len;
    const char *run = text;

    enlargeStringInfo(out, len + 2);
    appendStringInfoCharMacro(out, '"');
    for (; text < end; text++)
    {
        unsigned char c = (unsigned char)*text;

        if (likely(c >= 0x20 && c != '"' && c != '\\'))
            continue;
        appendBinaryStringInfo(out, run, text - run);
        run = text + 1;
        switch (c)
        {
            case '"':
                appendStringInfoString(out, "\\\"");
                break;
            case '\\':
                appendStringInfoString(out, "\\\\");
                break;
            case '\b':
                appendStringInfoString(out, "\\b");
                break;
            case '\f':
                appendStringInfoString(out, "\\f");
                break;
            case '\n':
                appendStringInfoString(out, "\\n");
                break;
            case '\r':
                appendStringInfoString(out, "\\r");
                break;
            case '\t':
                appendStringInfoString(out, "\\t");
                break;
            default:
                appendStringInfo(out, "\\u%04x", c);
        }
    }
    appendBinaryStringInfo(out, run, end - run);
    appendStringInfoCharMacro(out, '"');
}

/* JSON has no NaN, no infinity, and most readers lose the sign of a bare -0. */
static void
append_float(StringInfo out, double value, const char *digits)
{
    if (isnan(value))
        appendStringInfoString(out, "\"NaN\"");
    else if (isinf(value))
        appendStringInfoString(out, value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
    else if (value == 0 && signbit(value))
        appendStringInfoString(out, "-0.0");
    else
        appendStringInfoString(out, digits);
}

/* The 36 characters of a uuid. */
static void
append_uuid(StringInfo out, const unsigned char *bytes)
{
    static const char hex[] = "0123456789abcdef";
    char text[38];
    char *p = text;

    *p++ = '"';
    for (int i = 0; i < UUID_LEN; i++)
    {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *p++ = '-';
        *p++ = hex[bytes[i] >> 4];
        *p++ = hex[bytes[i] & 15];
    }
    *p++ = '"';
    appendBinaryStringInfo(out, text, p - text);
}

/* bytea as base64, in place at the end of out. */
static void
append_base64(StringInfo out, const char *bytes, int len)
{
    int room = pg_b64_enc_len(len);
    int written;

    appendStringInfoCharMacro(out, '"');
    enlargeStringInfo(out, room + 1);
    written = pg_b64_encode(bytes, len, out->data + out->len, room);
    if (written < 0)
        elog(ERROR, "could not encode %d bytes as base64", len);
    out->len += written;
    out->data[out->len] = '\0';
    appendStringInfoCharMacro(out, '"');
}

/* Appends a whole number; printf would take several times as long. */
void
json_append_integer(StringInfo out, int64 value)
{
    enlargeStringInfo(out, MAXINT8LEN + 1);
    out->len += pg_lltoa(value, out->data + out->len);
}

/* Writes a number of exactly this many digits, and the separator behind it; returns the end. */
static char *
put_digits(char *p, int value, int digits, char separator)
{
    for (int i = digits - 1; i >= 0; i--)
    {
        p[i] = (char)('0' + value % 10);
        value /= 10;
    }
    p[digits] = separator;
    return p + digits + 1;
}

/* Date and time with all six digits; years before our era end in " BC", as PostgreSQL reads it. */
static void
append_timestamp(StringInfo out, Timestamp value, const char *zone)
{
    struct pg_tm tm;
    fsec_t fsec;
    char text[32];
    char *p = text;
    bool bc;

    if (TIMESTAMP_NOT_FINITE(value))
    {
        appendStringInfoString(out, value < 0 ? "\"-infinity\"" : "\"infinity\"");
        return;
    }
    if (timestamp2tm(value, NULL, &tm, &fsec, NULL, NULL) != 0)
        ereport(ERROR,
                (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
    bc = tm.tm_year <= 0;
    /* A year has four digits or, far off, as many as it needs. */
    appendStringInfoCharMacro(out, '"');
    if (bc || tm.tm_year > 9999)
        appendStringInfo(out, "%04d-", bc ? 1 - tm.tm_year : tm.tm_year);
    else
        p = put_digits(p, tm.tm_year, 4, '-');
    p = put_digits(p, tm.tm_mon, 2, '-');
    p = put_digits(p, tm.tm_mday, 2, 'T');
    p = put_digits(p, tm.tm_hour, 2, ':');
    p = put_digits(p, tm.tm_min, 2, ':');
    p = put_digits(p, tm.tm_sec, 2, '.');
    p = put_digits(p, fsec, 6, '\0');
    appendBinaryStringInfo(out, text, p - text - 1);
    appendStringInfoString(out, zone);
    if (bc)
        appendStringInfoString(out, " BC");
    appendStringInfoCharMacro(out, '"');
}

/* A date, with the same rule for years before our era. */
static void
append_date(StringInfo out, DateADT value)
{
    int year;
    int month;
    int day;

    if (DATE_NOT_FINITE(value))
    {
        appendStringInfoString(out, DATE_IS_NOBEGIN(value) ? "\"-infinity\"" : "\"infinity\"");
        return;
    }
    j2date(value + POSTGRES_EPOCH_JDATE, &year, &month, &day);
    if (year > 0)
        appendStringInfo(out, "\"%04d-%02d-%02d\"", year, month, day);
    else
        appendStringInfo(out, "\"%04d-%02d-%02d BC\"", 1 - year, month, day);
}

/*
 * A stored json goes out as it is, but on one line: a raw line end in valid JSON can only be
 * white space between tokens.
 */
static void
append_raw_json(StringInfo out, const char *text, int len)
{
    int start = out->len;

    appendBinaryStringInfo(out, text, len);
    for (int i = start; i < out->len; i++)
    {
        if (out->data[i] == '\n' || out->data[i] == '\r')
            out->data[i] = ' ';
    }
}

/* Frees what detoasting made, so that wide rows do not pile up. */
static void
free_detoasted(struct varlena *detoasted, Datum original)
{
    if ((Pointer)detoasted != DatumGetPointer(original))
        pfree(detoasted);
}

/* A point in time in UTC, as timestamptz columns travel. */
void
timestamp_append_json(StringInfo out, TimestampTz value)
{
    append_timestamp(out, value, "Z");
}

/* Appends a value that is not null. */
void
value_append_json(StringInfo out, ValueCodec *codec, Datum value)
{
    char digits[DOUBLE_SHORTEST_DECIMAL_LEN];

    switch (codec->kind)
    {
        case VALUE_BOOL:
            appendStringInfoString(out, DatumGetBool(value) ? "true" : "false");
            break;
        case VALUE_INT2:
            json_append_integer(out, DatumGetInt16(value));
            break;
        case VALUE_INT4:
            json_append_integer(out, DatumGetInt32(value));
            break;
        case VALUE_INT8:
            json_append_integer(out, DatumGetInt64(value));
            break;
        case VALUE_FLOAT4:
            /* A device reads it as a double: the digits must say this very number as a double. */
            double_to_shortest_decimal_buf((double)DatumGetFloat4(value), digits);
            append_float(out, DatumGetFloat4(value), digits);
            break;
        case VALUE_FLOAT8:
            double_to_shortest_decimal_buf(DatumGetFloat8(value), digits);
            append_float(out, DatumGetFloat8(value), digits);
            break;
        case VALUE_TEXT:
        case VALUE_BYTEA:
        case VALUE_JSON:
        {
            struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);
            char *data = VARDATA_ANY(bytes);
            int len = VARSIZE_ANY_EXHDR(bytes);

            if (codec->kind == VALUE_TEXT)
                json_append_string(out, data, len);
            else if (codec->kind == VALUE_BYTEA)
                append_base64(out, data, len);
            else
                append_raw_json(out, data, len);
            free_detoasted(bytes, value);
            break;
        }
        case VALUE_UUID:
            append_uuid(out, DatumGetUUIDP(value)->data);
            break;
        case VALUE_TIMESTAMPTZ:
            append_timestamp(out, DatumGetTimestampTz(value), "Z");
            break;
        case VALUE_TIMESTAMP:
            append_timestamp(out, DatumGetTimestamp(value), "");
            break;
        case VALUE_DATE:
            append_date(out, DatumGetDateADT(value));
            break;
        case VALUE_JSONB:
        {
            Jsonb *jsonb = DatumGetJsonbP(value);

            (void)JsonbToCString(out, &jsonb->root, VARSIZE(jsonb));
            free_detoasted((struct varlena *)jsonb, value);
            break;
        }
        case VALUE_NUMERIC:
        case VALUE_OTHER:
        {
            char *text = OutputFunctionCall(&codec->output, value);

            json_append_string(out, text, strlen(text));
            pfree(text);
            break;
        }
    }
}

/* Value of one hexadecimal digit, or -1. */
static inline int
hex_digit(char c)
{
    static const signed char above[256] = {
        ['0'] = 1, 2,  3,  4,  5,  6,          7,  8,  9,  10, ['A'] = 11,
        12,        13, 14, 15, 16, ['a'] = 11, 12, 13, 14, 15, 16};

    return above[(unsigned char)c] - 1;
}

/* Reads a uuid: canonical, 32 hex digits, or base64 of the 16 bytes. */
static bool
parse_uuid(const char *text, int len, unsigned char *bytes)
{
    if (len == 24)
        return text[22] == '=' && pg_b64_decode(text, len, (char *)bytes, UUID_LEN) == UUID_LEN;
    if (len != 32 && len != 36)
        return false;
    for (int i = 0; i < UUID_LEN; i++)
    {
        int high;
        int low;

        if (len == 36 && (i == 4 || i == 6 || i == 8 || i == 10) && *text++ != '-')
            return false;
        high = hex_digit(*text++);
        low = hex_digit(*text++);
        if (high < 0 || low < 0)
            return false;
        bytes[i] = (unsigned char)(high << 4 | low);
    }
    return true;
}

/* Reads bytea: standard base64, or PostgreSQL's \x form. NULL if it is neither. */
static bytea *
parse_bytea(const char *text, int len)
{
    bytea *bytes;

    if (len >= 2 && text[0] == '\\' && text[1] == 'x')
    {
        if (len % 2 != 0)
            return NULL;
        bytes = palloc(VARHDRSZ + len / 2);
        for (int i = 2; i < len; i += 2)
        {
            int high = hex_digit(text[i]);
            int low = hex_digit(text[i + 1]);

            if (high < 0 || low < 0)
                return NULL;
            VARDATA(bytes)[i / 2 - 1] = (char)(high << 4 | low);
        }
        SET_VARSIZE(bytes, VARHDRSZ + len / 2 - 1);
    }
    else
    {
        int room = pg_b64_dec_len(len);
        int decoded;

        if (len % 4 != 0)
            return NULL;
        bytes = palloc(VARHDRSZ + room);
        decoded = pg_b64_decode(text, len, VARDATA(bytes), room);
        if (decoded < 0)
            return NULL;
        SET_VARSIZE(bytes, VARHDRSZ + decoded);
    }
    return bytes;
}

/* Reads a whole number without fraction or exponent into 64 bits. */
static bool
parse_integer(const char *text, int64 *value)
{
    char *end;

    if (*text != '-' && (*text < '0' || *text > '9'))
        return false;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return errno == 0 && *end == '\0' && end != text;
}

/* 64-bit input narrowed to the column's width. */
static Datum
integer_datum(const ValueCodec *codec, const JsonValue *json, const char **error)
{
    int64 value;

    if (json->kind != JSON_NUMBER)
        *error = "expected a number";
    else if (!parse_integer(json->text, &value))
        *error = "expected a whole number of at most 64 bits";
    else if (codec->kind == VALUE_INT8)
        return Int64GetDatum(value);
    else if (codec->kind == VALUE_INT4 && value >= PG_INT32_MIN && value <= PG_INT32_MAX)
        return Int32GetDatum((int32)value);
    else if (codec->kind == VALUE_INT2 && value >= PG_INT16_MIN && value <= PG_INT16_MAX)
        return Int16GetDatum((int16)value);
    else
        *error = codec->kind == VALUE_INT2
                     ? "expected a whole number from -32768 to 32767"
                     : "expected a whole number from -2147483648 to 2147483647";
    return (Datum)0;
}

/*
 * A device keeps json as text, so an object or array may come as a string that holds it. A string
 * that holds anything else is the JSON string itself.
 */
static char *
json_text(const JsonValue *json)
{
    StringInfoData out;
    const char *p = json->text;

    if (json->kind != JSON_STRING)
        return pnstrdup(json->text, json->len);
    while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')
        p++;
    if (*p == '{' || *p == '[')
        return pnstrdup(json->text, json->len);
    initStringInfo(&out);
    json_append_string(&out, json->text, json->len);
    return out.data;
}

/*
 * The text form that the type's input function reads, after checking that the JSON kind fits.
 * Returns NULL and sets *error if it does not.
 */
static char *
input_text(const ValueCodec *codec, const JsonValue *json, const char **error)
{
    switch (codec->kind)
    {
        case VALUE_BOOL:
            if (json->kind == JSON_BOOL)
                return pnstrdup(json->text, json->len);
            if (json->kind == JSON_NUMBER &&
                (strcmp(json->text, "0") == 0 || strcmp(json->text, "1") == 0))
                return pstrdup(json->text);
            *error = "expected true or false";
            return NULL;
        case VALUE_INT2:
        case VALUE_INT4:
        case VALUE_INT8:
            (void)integer_datum(codec, json, error);
            return *error ? NULL : pstrdup(json->text);
        case VALUE_FLOAT4:
        case VALUE_FLOAT8:
            if (json->kind == JSON_NUMBER ||
                (json->kind == JSON_STRING &&
                 (strcmp(json->text, "NaN") == 0 || strcmp(json->text, "Infinity") == 0 ||
                  strcmp(json->text, "-Infinity") == 0)))
                return pstrdup(json->text);
            *error = "expected a number, \"NaN\", \"Infinity\" or \"-Infinity\"";
            return NULL;
        case VALUE_NUMERIC:
            if (json->kind == JSON_NUMBER || json->kind == JSON_STRING)
                return pstrdup(json->text);
            *error = "expected a number";
            return NULL;
        case VALUE_JSON:
        case VALUE_JSONB:
            return json_text(json);
        case VALUE_UUID:
        {
            unsigned char bytes[UUID_LEN];
            StringInfoData out;

            if (json->kind != JSON_STRING || !parse_uuid(json->text, json->len, bytes))
            {
                *error = "expected a uuid";
                return NULL;
            }
            initStringInfo(&out);
            append_uuid(&out, bytes);
            out.data[out.len - 1] = '\0';
            return out.data + 1;
        }
        case VALUE_BYTEA:
        {
            bytea *bytes = json->kind == JSON_STRING ? parse_bytea(json->text, json->len) : NULL;

            if (bytes == NULL)
            {
                *error = "expected bytes as base64";
                return NULL;
            }
            return DatumGetCString(DirectFunctionCall1(byteaout, PointerGetDatum(bytes)));
        }
        default:
            if (json->kind == JSON_STRING)
                return pstrdup(json->text);
            *error = "expected a text";
            return NULL;
    }
}

/*
 * Turns a JSON value into a value of the column's type, allocated in the current context. A value
 * of the wrong JSON kind sets *error to a constant string and returns 0; a value that the type's
 * input function refuses raises that function's error.
 */
Datum
value_from_json(ValueCodec *codec, const JsonValue *json, bool *isnull, const char **error)
{
    char *text;

    *error = NULL;
    *isnull = false;
    /* null in a json column could be SQL's or JSON's: SQL's, as a device has only that one. */
    if (json->kind == JSON_NULL)
    {
        *isnull = true;
        if (codec->direct_input)
            return (Datum)0;
        /* A domain may refuse null. */
        return InputFunctionCall(&codec->input, NULL, codec->ioparam, codec->typmod);
    }
    if (codec->direct_input)
    {
        switch (codec->kind)
        {
            case VALUE_INT2:
            case VALUE_INT4:
            case VALUE_INT8:
                return integer_datum(codec, json, error);
            case VALUE_TEXT:
                if (json->kind == JSON_STRING)
                    return PointerGetDatum(cstring_to_text_with_len(json->text, json->len));
                *error = "expected a text";
                return (Datum)0;
            case VALUE_UUID:
            {
                pg_uuid_t *uuid = palloc(sizeof(pg_uuid_t));

                if (json->kind == JSON_STRING && parse_uuid(json->text, json->len, uuid->data))
                    return UUIDPGetDatum(uuid);
                *error = "expected a uuid";
                return (Datum)0;
            }
            case VALUE_BYTEA:
            {
                bytea *bytes =
                    json->kind == JSON_STRING ? parse_bytea(json->text, json->len) : NULL;

                if (bytes != NULL)
                    return PointerGetDatum(bytes);
                *error = "expected bytes as base64";
                return (Datum)0;
            }
            case VALUE_BOOL:
                if (json->kind == JSON_BOOL)
                    return BoolGetDatum(json->text[0] == 't');
                break;
            default:
                break;
        }
    }
    text = input_text(codec, json, error);
    if (text == NULL)
        return (Datum)0;
    return InputFunctionCall(&codec->input, text, codec->ioparam, codec->typmod);
}

/*
 * Whether a value that was read from json goes out again as the same value for a device: not
 * rounded, not written in another way. To be called between value_format_enter and leave.
 */
bool
value_travels_as_sent(ValueCodec *codec, Datum value, const JsonValue *json)
{
    StringInfoData out;
    StringInfoData sent;
    bool same;

    switch (codec->kind)
    {
        case VALUE_BOOL:
        case VALUE_INT2:
        case VALUE_INT4:
        case VALUE_INT8:
        case VALUE_BYTEA:
            return true;
        case VALUE_FLOAT4:
            return json->kind != JSON_NUMBER ||
                   strtod(json->text, NULL) == (double)DatumGetFloat4(value);
        case VALUE_FLOAT8:
            return true;
        case VALUE_TEXT:
            if (codec->direct_input)
                return true;
            break;
        case VALUE_UUID:
            /* Base64 comes from a BLOB column, which takes the canonical form as the same bytes. */
            if (json->len == 24)
                return true;
            break;
        default:
            break;
    }
    initStringInfo(&out);
    initStringInfo(&sent);
    value_append_json(&out, codec, value);
    if (json->kind == JSON_STRING && out.data[0] == '"')
        json_append_string(&sent, json->text, json->len);
    else
        appendBinaryStringInfo(&sent, json->text, json->len);
    same = out.len == sent.len && memcmp(out.data, sent.data, out.len) == 0;
    pfree(out.data);
    pfree(sent.data);
    return same;
}
