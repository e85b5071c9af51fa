/*
 * payload.c: a row as the change log keeps it, {"column":value,...}, taken apart again.
 *
 * A payload that has the columns the table has today is in a form that we know to the byte: a scan
 * for the expected labels finds the values. Only one from before a change of the columns is parsed.
 */
#include "postgres.h"

#include "errors.h"
#include "payload.h"
#include "request.h"

/* The end of the JSON value at p, which rowsync wrote and which ends before end. */
static const char *
skip_value(const char *p, const char *end)
{
    int depth = 0;

    for (; p < end; p++)
    {
        switch (*p)
        {
            case '"':
                for (p++; p < end && *p != '"'; p++)
                {
                    if (*p == '\\')
                        p++;
                }
                break;
            case '{':
            case '[':
                depth++;
                break;
            case '}':
            case ']':
                if (depth-- == 0)
                    return p;
                break;
            case ',':
                if (depth == 0)
                    return p;
                break;
            default:
                break;
        }
    }
    return end;
}

/* Appends the values of a payload that has exactly the table's columns; false if it does not. */
static bool
append_values(StringInfo out, SyncedTable *table, const char *payload, int len)
{
    const char *p = payload;
    const char *end = payload + len;

    if (len < 2 || *p++ != '{')
        return false;
    for (int i = 0; i < table->ncolumns; i++)
    {
        SyncedColumn *column = &table->columns[i];
        const char *value;

        if (i > 0 && (p >= end || *p++ != ','))
            return false;
        if (end - p < column->json_name_len ||
            memcmp(p, column->json_name, column->json_name_len) != 0)
            return false;
        value = p + column->json_name_len;
        p = skip_value(value, end);
        appendStringInfoCharMacro(out, ',');
        appendBinaryStringInfo(out, value, p - value);
    }
    return end - p == 1 && *p == '}';
}

/* The value of a column among the members of a payload; NULL if it has none. */
const JsonValue *
payload_value(const JsonMember *members, int nmembers, const SyncedColumn *column)
{
    for (int i = 0; i < nmembers; i++)
    {
        if (members[i].name_len == column->name_len &&
            memcmp(members[i].name, column->name, column->name_len) == 0)
            return &members[i].value;
    }
    return NULL;
}

/* The same for a payload from when the table had other columns: what it lacks is null. */
static void
append_parsed_values(StringInfo out, SyncedTable *table, const char *payload, int len)
{
    JsonMember *members = NULL;
    int nmembers = 0;

    if (!request_parse_object(payload, len, &members, &nmembers))
        ereport(ERROR, (errcode(ROWSYNC_DAMAGED),
                        errmsg("a payload of %s in rowsync.change_log is no JSON object",
                               table->qualified_name)));
    for (int i = 0; i < table->ncolumns; i++)
    {
        const JsonValue *value = payload_value(members, nmembers, &table->columns[i]);

        appendStringInfoChar(out, ',');
        if (value == NULL)
            appendStringInfoString(out, "null");
        else if (value->kind == JSON_STRING)
            json_append_string(out, value->text, value->len);
        else
            appendBinaryStringInfo(out, value->text, value->len);
    }
}

/*
 * Appends ",value" for each column that travels, in the table's order; null where the payload has
 * no such column.
 */
void
payload_append_values(StringInfo out, SyncedTable *table, const char *payload, int len)
{
    int start = out->len;

    if (append_values(out, table, payload, len))
        return;
    out->len = start;
    append_parsed_values(out, table, payload, len);
}

/* Whether two payloads say the same in the columns that the table has now. */
bool
payload_equal(SyncedTable *table, const char *a, int a_len, const char *b, int b_len)
{
    StringInfoData left;
    StringInfoData right;
    bool equal;

    if (a_len == b_len && memcmp(a, b, a_len) == 0)
        return true;
    initStringInfo(&left);
    initStringInfo(&right);
    payload_append_values(&left, table, a, a_len);
    payload_append_values(&right, table, b, b_len);
    equal = left.len == right.len && memcmp(left.data, right.data, left.len) == 0;
    pfree(left.data);
    pfree(right.data);
    return equal;
}
