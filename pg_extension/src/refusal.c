/*
 * refusal.c: what a change that is refused is told.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "utils/lsyscache.h"

#include "errors.h"
#include "upload.h"

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
        reason = REASON_BAD_PAYLOAD;
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
        change_refuse(change, REASON_FORBIDDEN, "this row is not yours to write", NULL);
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
