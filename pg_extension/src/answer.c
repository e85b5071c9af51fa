/*
 * answer.c: the JSON that answers an upload, one status for each change in request order.
 */
#include "postgres.h"

#include "guc.h"
#include "upload.h"

/* Appends "name":"text". */
static void
append_field(StringInfo out, const char *name, const char *text)
{
    appendStringInfo(out, "\"%s\":", name);
    json_append_string(out, text, strlen(text));
}

/* Appends the row as the server has it, in the form that go-oversync clients know. */
static void
append_server_row(StringInfo out, Change *change)
{
    appendStringInfoString(out, ",\"server_row\":{");
    append_field(out, "schema_name", change->table->schema);
    appendStringInfoChar(out, ',');
    append_field(out, "table_name", change->table->name);
    appendStringInfoString(out, ",\"id\":");
    rowkey_append_json(out, change->table, change->key);
    appendStringInfo(out, ",\"server_version\":" INT64_FORMAT ",\"deleted\":%s,\"payload\":",
                     change->server_version, change->server_deleted ? "true" : "false");
    if (change->server_row != NULL)
        appendBinaryStringInfo(out, change->server_row, change->server_row_len);
    else
        appendStringInfoString(out, "null");
    appendStringInfoChar(out, '}');
}

/* Appends what is wrong, by reason. */
static void
append_invalid(StringInfo out, Change *change)
{
    appendStringInfoString(out, ",\"status\":\"invalid\",");
    append_field(out, "message", change->message);
    appendStringInfo(out, ",\"invalid\":{\"reason\":\"%s\",\"details\":{",
                     refusal_reason(change->reason));
    if (change->reason == REASON_FK_MISSING)
    {
        appendStringInfo(out, "\"missing\":%s", change->missing ? change->missing : "[]");
        if (change->missing == NULL && change->constraint != NULL)
        {
            appendStringInfoChar(out, ',');
            append_field(out, "constraint", change->constraint);
        }
    }
    else if (change->reason == REASON_BATCH_TOO_LARGE)
        appendStringInfo(out, "\"limit\":%d", rowsync_max_changes);
    else
    {
        append_field(out, "error", change->message);
        if (change->column != NULL)
        {
            appendStringInfoChar(out, ',');
            append_field(out, "column", change->column);
        }
        if (change->sqlstate[0] != '\0')
        {
            appendStringInfoChar(out, ',');
            append_field(out, "sqlstate", change->sqlstate);
        }
        if (change->constraint != NULL)
        {
            appendStringInfoChar(out, ',');
            append_field(out, "constraint", change->constraint);
        }
    }
    appendStringInfoString(out, "}}");
}

/* Appends the whole answer. */
void
upload_append_answer(StringInfo out, Upload *upload)
{
    appendStringInfo(
        out,
        "{\"accepted\":%s,\"highest_server_seq\":" INT64_FORMAT ",\"last_upload\":" INT64_FORMAT,
        upload->accepted ? "true" : "false", upload->scope.head, upload->source.last_upload);
    /* Clients that know nothing of epochs get the answer that they always got. */
    if (!upload->accepted || upload->request.epoch >= 0)
        appendStringInfo(out, ",\"epoch\":" INT64_FORMAT, upload->scope.epoch);
    appendStringInfoString(out, ",\"statuses\":[");
    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = &upload->changes[i];

        if (change->first != NULL)
            change = change->first;
        if (i > 0)
            appendStringInfoChar(out, ',');
        appendStringInfoString(out, "{\"source_change_id\":");
        json_append_integer(out, change->request->source_change_id);
        switch (change->status)
        {
            case STATUS_APPLIED:
                appendStringInfoString(out, ",\"status\":\"applied\",\"new_server_version\":");
                json_append_integer(out, change->version);
                if (change->tells_row)
                    append_server_row(out, change);
                break;
            case STATUS_CONFLICT:
                appendStringInfoString(out, ",\"status\":\"conflict\"");
                append_server_row(out, change);
                if (change->server_changed != NULL)
                    appendStringInfo(out, ",\"server_changed\":%s", change->server_changed);
                break;
            case STATUS_INVALID:
                append_invalid(out, change);
                break;
            case STATUS_OPEN:
                elog(ERROR, "change " INT64_FORMAT " was left undecided",
                     change->request->source_change_id);
        }
        appendStringInfoChar(out, '}');
    }
    appendStringInfoString(out, "]}");
}
