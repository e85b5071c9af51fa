/*
 * refusal.c: what a change that is refused is told, and how often that was.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_collation.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "errors.h"
#include "upload.h"

static const char *const reason_names[] = {"fk_missing",     "bad_payload",        "constraint",
                                           "forbidden",      "unregistered_table", "internal_error",
                                           "batch_too_large"};

/* Columns of rowsync.refusal, in their order. */
enum
{
    REFUSAL_SCOPE = 1,
    REFUSAL_REFUSED,
    REFUSAL_FIRST,
    REFUSAL_LAST,
    REFUSAL_TABLE,
    REFUSAL_SOURCE,
    REFUSAL_REASON,
    REFUSAL_MESSAGE,
    REFUSAL_NATTS = REFUSAL_MESSAGE
};

/* Longest message that rowsync.refusal keeps, in bytes. */
#define MAX_MESSAGE 500

/* Longest part of a value that a message shows, in bytes. */
#define MAX_VALUE 60

/* The name of a reason on the wire. */
const char *
refusal_reason(InvalidReason reason)
{
    return reason_names[reason];
}

/* Answers a change with "invalid". The first reason counts. */
void
change_refuse(Change *change, InvalidReason reason, const char *message, const char *column)
{
    change->status = STATUS_INVALID;
    change->reason = reason;
    change->message = message;
    change->column = column;
    change->sqlstate[0] = '\0';
    change->constraint = NULL;
    change->missing = NULL;
}

/* Appends a value for people, cut where it is long. */
static void
append_shown(StringInfo out, const JsonValue *value)
{
    const char *quote = value->kind == JSON_STRING ? "\"" : "";
    int len = pg_mbcliplen(value->text, value->len, MAX_VALUE);

    appendStringInfo(out, "%s%.*s%s%s", quote, len, value->text, len < value->len ? "..." : "",
                     quote);
}

/* What a message begins with that is about a column's value. */
static char *
about_column(const char *column)
{
    return strcmp(column, KEY_OF_CHANGE) == 0 ? "key" : psprintf("column \"%s\"", column);
}

/* Refuses a change for a value that its column cannot be; `expected` says what it can. */
void
change_refuse_value(Change *change, const char *column, const JsonValue *value,
                    const char *expected)
{
    StringInfoData message;

    initStringInfo(&message);
    appendStringInfo(&message, "%s: %s, not ", about_column(column), expected);
    append_shown(&message, value);
    change_refuse(change, REASON_BAD_PAYLOAD, message.data, column);
}

/*
 * Whether the same change may work at another time: the error is about other transactions, or about
 * something broken that somebody will mend. All else, whatever SQLSTATE a trigger chose, is a
 * refusal of this row.
 */
static bool
may_pass(int category)
{
    return category == ERRCODE_TRANSACTION_ROLLBACK || category == ERRCODE_CONNECTION_EXCEPTION ||
           category == ERRCODE_INVALID_TRANSACTION_STATE || category == ERRCODE_FDW_ERROR ||
           category == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE ||
           category == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION ||
           category == ERRCODE_INTERNAL_ERROR || category == ERRCODE_FEATURE_NOT_SUPPORTED ||
           category == ERRCODE_TO_CATEGORY(ROWSYNC_DAMAGED);
}

/* Whether the table or index that an error names is this one, or that of a partition of it. */
static bool
is_part_of(Oid whole, const char *schema, const char *name)
{
    Oid namespace = schema && name ? get_namespace_oid(schema, true) : InvalidOid;
    Oid relid = OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;

    return OidIsValid(relid) &&
           (relid == whole || list_member_oid(get_partition_ancestors(relid), whole));
}

/* Whether an error is about the table of the change: not about its children, or a trigger's doing.
 */
static bool
is_own_table(const Change *change, const ErrorData *error)
{
    return is_part_of(change->table->relid, error->schema_name, error->table_name);
}

/*
 * Answers a change with what a statement or an input function raised. The detail is left out: it
 * may quote a row of somebody else.
 */
void
change_refuse_error(Change *change, ErrorData *error)
{
    int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
    InvalidReason reason = REASON_INTERNAL_ERROR;
    const char *message = error->message;
    const char *column = change->converting;

    if (change->converting != NULL)
    {
        reason = REASON_BAD_PAYLOAD;
        message = psprintf("%s: %s", about_column(change->converting), message);
    }
    else if (error->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION && change->request->op != 'D' &&
             is_own_table(change, error))
    {
        reason = REASON_FK_MISSING;
        message = "a row that this change refers to is not there yet";
    }
    else if (error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && change->apply.kind == APPLY_INSERT &&
             is_part_of(change->table->key_index, error->schema_name, error->constraint_name))
    {
        /* In this scope the key is free, or the change would be an update. */
        change_refuse(change, REASON_FORBIDDEN,
                      "this key is not yours to use: give the row another one", NULL);
        return;
    }
    else if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
        reason = REASON_FORBIDDEN;
    else if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
        message = "another transaction is writing to this row";
    else if (!may_pass(category))
    {
        reason = REASON_CONSTRAINT;
        column = error->column_name;
        if (change->circular && error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION)
            message = psprintf("%s: rows of this request exchange its values, which only a "
                               "DEFERRABLE constraint allows",
                               message);
    }
    change_refuse(change, reason, message, column);
    change->constraint = error->constraint_name;
    strlcpy(change->sqlstate, unpack_sql_state(error->sqlerrcode), sizeof(change->sqlstate));
}

/* The table of a change, as rowsync.refusal names it. */
static int32
table_of(const Change *change)
{
    return change->table != NULL ? change->table->table_id : 0;
}

/*
 * What changes of tables that do not sync were told, and before them others: each table once, the
 * new ones first. They share a line, for a device may invent any number of names.
 */
static char *
gather_tables(Change *const *refused, int64 count, const char *before)
{
    StringInfoData out;

    initStringInfo(&out);
    for (int64 i = 0; i < count && out.len <= MAX_MESSAGE; i++)
    {
        const char *message = refused[i]->message;

        CHECK_FOR_INTERRUPTS();
        if (strstr(out.data, message) == NULL && strstr(before, message) == NULL)
            appendStringInfo(&out, "%s%s", out.len > 0 ? "; " : "", message);
    }
    if (out.len > 0 && *before != '\0')
        appendStringInfoString(&out, "; ");
    appendStringInfoString(&out, before);
    return out.data;
}

/* Adds the refusals of one table for one reason. */
static void
note_refusals(Upload *upload, Store *store, Change *const *refused, int64 count)
{
    const Change *change = refused[count - 1];
    Datum values[REFUSAL_NATTS];
    const char *reason = reason_names[change->reason];
    const char *message = change->missing != NULL
                              ? psprintf("%s: %s", change->message, change->missing)
                              : change->message;
    ScanKeyData keys[3];
    bool known;

    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ,
                Int64GetDatum(upload->scope.scope_id));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(table_of(change)));
    ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(reason));
    keys[2].sk_collation = C_COLLATION_OID;
    known = store_find(store, GetActiveSnapshot(), keys, lengthof(keys));
    values[REFUSAL_SCOPE - 1] = Int64GetDatum(upload->scope.scope_id);
    values[REFUSAL_TABLE - 1] = Int32GetDatum(table_of(change));
    values[REFUSAL_REASON - 1] = CStringGetTextDatum(reason);
    values[REFUSAL_LAST - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
    values[REFUSAL_FIRST - 1] =
        known ? store_value(store, REFUSAL_FIRST) : values[REFUSAL_LAST - 1];
    if (change->reason == REASON_UNREGISTERED_TABLE)
        message = gather_tables(
            refused, count, known ? TextDatumGetCString(store_value(store, REFUSAL_MESSAGE)) : "");
    if (known)
        count += DatumGetInt64(store_value(store, REFUSAL_REFUSED));
    values[REFUSAL_REFUSED - 1] = Int64GetDatum(count);
    values[REFUSAL_SOURCE - 1] = Int32GetDatum(upload->source.source_no);
    values[REFUSAL_MESSAGE - 1] = PointerGetDatum(
        cstring_to_text_with_len(message, pg_mbcliplen(message, strlen(message), MAX_MESSAGE)));
    if (known)
        store_update(store, &store->slot->tts_tid, values, GetActiveSnapshot());
    else
        memcpy(store_insert(store)->values, values, sizeof(values));
}

/* Orders refused changes by table and reason, then by place. */
static int
compare_refusals(const void *a, const void *b)
{
    const Change *left = *(Change *const *)a;
    const Change *right = *(Change *const *)b;

    if (table_of(left) != table_of(right))
        return table_of(left) < table_of(right) ? -1 : 1;
    if (left->reason != right->reason)
        return left->reason < right->reason ? -1 : 1;
    return left < right ? -1 : left > right;
}

/*
 * Counts what the upload has refused in rowsync.refusal, for who looks after the server. The scope
 * is locked, so nobody else counts there. Costs nothing where nothing was refused.
 */
void
upload_note_refusals(Upload *upload)
{
    Change **refused = NULL;
    int count = 0;
    int first = 0;
    Store store;

    for (int i = 0; i < upload->nchanges; i++)
    {
        Change *change = &upload->changes[i];

        if (change->first != NULL || change->status != STATUS_INVALID)
            continue;
        if (refused == NULL)
            refused = palloc(upload->nchanges * sizeof(Change *));
        refused[count++] = change;
    }
    if (count == 0)
        return;
    qsort(refused, count, sizeof(Change *), compare_refusals);
    store_open(&store, REL_REFUSAL, REL_REFUSAL_PKEY, RowExclusiveLock);
    for (int i = 1; i <= count; i++)
    {
        CHECK_FOR_INTERRUPTS();
        if (i < count && table_of(refused[i]) == table_of(refused[first]) &&
            refused[i]->reason == refused[first]->reason)
            continue;
        note_refusals(upload, &store, refused + first, i - first);
        first = i;
    }
    store_close(&store);
}
