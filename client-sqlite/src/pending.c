/*
 * pending.c - what waits for upload: the queue in edit order, and requests made from it.
 *
 * The operation is not recorded but seen: a row that is there is an INSERT or UPDATE, one that is
 * gone a DELETE, and the payload is what the row holds at this moment, which is the state after its
 * last edit because every edit is captured.
 */
#include "client.h"

#include <string.h>

/* Read at once from _sync_dirty: a scan of the whole table each time, so not too few. */
#define QUEUE_RUN 65536

/* A request larger than this is sent even if it holds fewer changes than asked for. */
#define BODY_TARGET (4u << 20)

/* The columns of the statement TABLE_PENDING. */
typedef enum PendingColumn
{
    PENDING_CHANGE_ID,
    PENDING_BASE,
    PENDING_CHANGED,
    PENDING_OLD_ROW,
    PENDING_DELETED, /* the server had deleted the row */
    PENDING_NEVER,   /* the server never had the row: it refused all there was of it */
    PENDING_THERE,   /* the row is in its table */
    PENDING_FIELDS   /* its first column */
} PendingColumn;

const char *
operation_name(Operation op)
{
    static const char *const names[] = {"INSERT", "UPDATE", "DELETE", "NOTHING"};

    return names[op];
}

/* Frees changes and their keys, up to `capacity` of them. */
static void
free_changes(Change *changes, int capacity)
{
    int i;

    for (i = 0; i < capacity; i++)
        key_free(&changes[i].key);
    rs_free(changes);
}

void
batch_free(Batch *batch)
{
    free_changes(batch->changes, batch->capacity);
    buffer_free(&batch->body);
    *batch = (Batch){0};
}

void
queue_free(Queue *queue)
{
    free_changes(queue->changes, queue->capacity);
    *queue = (Queue){0};
}

/* Makes room for one more change; NULL when out of memory. Keys keep their memory for reuse. */
static Change *
grow(Change **changes, int *capacity, int count)
{
    if (count == *capacity)
    {
        int more = *capacity > 0 ? *capacity * 2 : 256;
        Change *grown = rs_realloc(*changes, (size_t)more * sizeof(*grown));

        if (grown == NULL)
            return NULL;
        memset(grown + *capacity, 0, (size_t)(more - *capacity) * sizeof(*grown));
        *changes = grown;
        *capacity = more;
    }
    return &(*changes)[count];
}

/*
 * Refuses to lose edits: fails where some wait, of a table or of all (NULL), however they do, and
 * says what would keep them. Inside a transaction, with the log folded or not.
 */
rowsync_code
pending_spare(rowsync *client, const Table *table)
{
    sqlite3_stmt *statement = NULL;
    int64_t waiting = 0, conflicts = 0, refused = 0;
    Buffer hint = {0};
    rowsync_code code = rs_prepare(
        client,
        "SELECT (SELECT count(*) FROM main._sync_edited e WHERE ?1 IN (0, table_id) AND NOT EXISTS"
        " (SELECT 1 FROM main._sync_held h WHERE h.table_id = e.table_id AND h.pk = e.pk AND"
        " h.state = 1)), (SELECT count(*) FROM main._sync_held WHERE ?1 IN (0, table_id) AND"
        " state = 1), (SELECT count(*) FROM main._sync_rejected WHERE ?1 IN (0, table_id))",
        &statement);

    if (code != ROWSYNC_OK)
        return code;
    sqlite3_bind_int64(statement, 1, table != NULL ? table->id : 0);
    if (rs_row(client, statement))
    {
        waiting = sqlite3_column_int64(statement, 0);
        conflicts = sqlite3_column_int64(statement, 1);
        refused = sqlite3_column_int64(statement, 2);
    }
    sqlite3_finalize(statement);
    if (client->code != ROWSYNC_OK || waiting + conflicts + refused == 0)
        return client->code;
    if (table != NULL && !table->exists)
        buffer_text(&hint, "The table is gone: create it again");
    else
        buffer_printf(&hint, "First %s%s%s%srowsync_sync()",
                      conflicts > 0 ? "rowsync_resolve() what is in conflict, " : "",
                      refused > 0 ? "rowsync_requeue() or rowsync_discard() what was refused, "
                                  : "",
                      conflicts + refused > 0 ? "then " : "",
                      client->url == NULL ? "rowsync_attach() and " : "");
    buffer_text(&hint, "; or force it, which gives these edits up.");
    code = hint.failed
               ? rs_nomem(client)
               : rs_fail(client, ROWSYNC_PENDING, hint.data,
                         "Edits%s%.500s%s would be lost: %lld pending, %lld in conflict, %lld"
                         " refused.",
                         table != NULL ? " of \"" : "", table != NULL ? table->name : "",
                         table != NULL ? "\"" : "", (long long)waiting, (long long)conflicts,
                         (long long)refused);
    buffer_free(&hint);
    return code;
}

/* A new change id: the server remembers what it answered to the old one. */
rowsync_code
take_change_id(rowsync *client, int64_t *id)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_TAKE_CHANGE_ID);

    if (statement == NULL)
        return client->code;
    if (rs_row(client, statement))
        *id = sqlite3_column_int64(statement, 0);
    return client->code == ROWSYNC_OK ? rs_finish(client, statement, "taking a change id")
                                      : rs_reset(client, statement);
}

/* Starts at the oldest edit. Edits made from now on are left to the next push. */
rowsync_code
queue_start(rowsync *client, Queue *queue)
{
    rowsync_code code = rs_begin(client);
    int64_t until = 0;

    if (code != ROWSYNC_OK)
        return code;
    code = rs_end(client, take_change_id(client, &until));
    if (code != ROWSYNC_OK)
        return code;
    queue->count = queue->next = 0;
    queue->after = 0;
    queue->until = until;
    queue->done = false;
    return ROWSYNC_OK;
}

/* Reads the next run of keys. */
static rowsync_code
queue_read(rowsync *client, Queue *queue)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_DIRTY_QUEUE);
    rowsync_code code = ROWSYNC_OK;
    int result;

    if (statement == NULL)
        return client->code;
    queue->count = queue->next = 0;
    sqlite3_bind_int64(statement, 1, queue->after);
    sqlite3_bind_int64(statement, 2, queue->until);
    sqlite3_bind_int(statement, 3, QUEUE_RUN);
    while (code == ROWSYNC_OK && (result = sqlite3_step(statement)) == SQLITE_ROW)
    {
        Change *change = grow(&queue->changes, &queue->capacity, queue->count);

        if (change == NULL)
        {
            code = rs_nomem(client);
            break;
        }
        change->table = table_by_id(client, sqlite3_column_int64(statement, 0));
        change->change_id = sqlite3_column_int64(statement, 2);
        change->queued = queue->after = sqlite3_column_int64(statement, 3);
        code = key_column(client, statement, 1, &change->key);
        if (change->table != NULL && change->table->exists)
            queue->count++;
    }
    if (code == ROWSYNC_OK && result != SQLITE_DONE)
        code = rs_fail_sqlite(client, "reading what is pending");
    sqlite3_reset(statement);
    queue->done = queue->count == 0;
    return code;
}

/*
 * Would this value of a JSON column be stored otherwise by whom it comes to? Text that is no JSON
 * and BLOBs travel as JSON strings, and JSON's null is NULL.
 */
static bool
restated(const Column *column, sqlite3_stmt *row, int at, size_t written)
{
    const char *text;

    if (column->kind != KIND_JSON || sqlite3_column_type(row, at) == SQLITE_BLOB)
        return column->kind == KIND_JSON;
    if (sqlite3_column_type(row, at) != SQLITE_TEXT)
        return false;
    text = (const char *)sqlite3_column_text(row, at);
    return written != (size_t)sqlite3_column_bytes(row, at) ||
           (text != NULL && text[strspn(text, " \t\r\n")] == 'n');
}

/*
 * Writes {"column": value, …} of a row; only the columns of the mask unless `whole`. *other is set
 * where a value is restated.
 */
static bool
write_row(const Table *table, sqlite3_stmt *row, int64_t mask, bool whole, Buffer *out, bool *other,
          const char **problem)
{
    bool first = true;
    size_t start;
    int i;

    *other = false;
    buffer_byte(out, '{');
    for (i = 0; i < table->column_count; i++)
    {
        const Column *column = &table->columns[i];

        if (!whole && (column->mask & mask) == 0)
            continue;
        if (!first)
            buffer_byte(out, ',');
        first = false;
        buffer_text(out, column->member);
        start = out->length;
        if (!value_write(out, column, row, PENDING_FIELDS + i))
        {
            *problem = column->name;
            return false;
        }
        *other |= restated(column, row, PENDING_FIELDS + i, out->length - start);
    }
    buffer_byte(out, '}');
    return true;
}

/* Writes the old row of a DELETE from its SQL literals, or null. */
static void
write_old_row(const Table *table, Slice literals, Buffer *out)
{
    JsonReader reader = scan_reader(literals);
    Buffer name = {0}, literal = {0};
    Slice key, value;
    bool first = true;
    size_t start = out->length;
    int i;

    if (literals.data == NULL || !scan_enter(&reader, '{'))
    {
        buffer_text(out, "null");
        return;
    }
    buffer_byte(out, '{');
    for (bool one = true; scan_next_member(&reader, one, &key, &value); one = false)
    {
        buffer_clear(&name);
        buffer_clear(&literal);
        if (!scan_string(key, &name) || !scan_string(value, &literal))
            continue;
        for (i = 0; i < table->column_count; i++)
            if (strcmp(table->columns[i].name, buffer_string(&name)) == 0)
                break;
        if (i == table->column_count)
            continue;
        if (!first)
            buffer_byte(out, ',');
        first = false;
        buffer_text(out, table->columns[i].member);
        if (!literal_write(out, &table->columns[i],
                           (Slice){buffer_string(&literal), literal.length}))
        {
            /* No UTF-8: the server needs no old row to delete one. */
            out->length = start;
            buffer_text(out, "null");
            buffer_free(&name);
            buffer_free(&literal);
            return;
        }
    }
    buffer_byte(out, '}');
    out->failed |= name.failed || literal.failed;
    buffer_free(&name);
    buffer_free(&literal);
}

/*
 * Looks at a change as it is now: its operation, and its payload appended to `out`. The change id
 * of the row goes to change->change_id; 0 when nothing is pending any more. *problem is the column
 * that cannot be sent, if any.
 */
rowsync_code
change_payload(rowsync *client, Change *change, Buffer *out, bool whole, const char **problem)
{
    sqlite3_stmt *statement = table_statement(client, change->table, TABLE_PENDING);

    *problem = NULL;
    change->change_id = 0;
    change->restated = false;
    if (statement == NULL)
        return client->code;
    key_bind(statement, 1, &change->key);
    key_bind_columns(change->table, statement, 2, &change->key);
    if (rs_row(client, statement))
    {
        change->change_id = sqlite3_column_int64(statement, PENDING_CHANGE_ID);
        change->base_version = sqlite3_column_int64(statement, PENDING_BASE);
        change->changed = sqlite3_column_int64(statement, PENDING_CHANGED);
        change->payload_at = out->length;
        if (sqlite3_column_int(statement, PENDING_THERE))
        {
            bool new = change->base_version == 0 || sqlite3_column_int(statement, PENDING_DELETED);

            change->op = new ? OP_INSERT : change->changed == 0 ? OP_NOTHING : OP_UPDATE;
            write_row(change->table, statement, change->changed, whole || new, out,
                      &change->restated, problem);
        }
        else
        {
            /* A row that was refused and is gone again came to nothing. */
            change->op = sqlite3_column_int(statement, PENDING_NEVER) ? OP_NOTHING : OP_DELETE;
            write_old_row(change->table,
                          (Slice){(const char *)sqlite3_column_text(statement, PENDING_OLD_ROW),
                                  (size_t)sqlite3_column_bytes(statement, PENDING_OLD_ROW)},
                          out);
        }
        change->payload_length = out->length - change->payload_at;
    }
    rs_reset(client, statement);
    sqlite3_clear_bindings(statement);
    return client->code == ROWSYNC_OK && out->failed ? rs_nomem(client) : client->code;
}

/* A field of the row that TABLE_ROW is at. */
sqlite3_value *
row_field(sqlite3_stmt *row, int column)
{
    return sqlite3_column_value(row, PENDING_FIELDS + column);
}

/*
 * Appends the whole row as it is now, pending or not, as an upload would have it. *there is false,
 * and `out` of no use, where there is none or it holds text that is no UTF-8. False with the error
 * remembered.
 */
bool
row_payload(rowsync *client, Table *table, const Key *key, Buffer *out, bool *there)
{
    sqlite3_stmt *statement = table_statement(client, table, TABLE_ROW);
    const char *problem = NULL;
    bool other;

    if (statement == NULL)
        return false;
    key_bind_columns(table, statement, 2, key);
    *there =
        rs_row(client, statement) && write_row(table, statement, 0, true, out, &other, &problem);
    rs_reset(client, statement);
    sqlite3_clear_bindings(statement);
    return client->code == ROWSYNC_OK;
}

/*
 * Keeps the reason why the server did not take a change, unless the row was edited since or another
 * process has taken the same answer in. *noted tells whether it was. The change stays pending.
 * Inside a transaction.
 */
rowsync_code
pending_note(rowsync *client, const Change *change, Slice payload, const char *reason,
             Slice message, Slice details, bool *noted)
{
    sqlite3_stmt *statement = rs_keyed(client, SQL_REJECTED_PUT, change->table, &change->key);
    Buffer text = {0};
    rowsync_code code;

    *noted = false;
    if (statement == NULL)
        return client->code;
    key_to_text(&text, change->table, &change->key);
    sqlite3_bind_text64(statement, 3, buffer_string(&text), text.length, SQLITE_STATIC,
                        SQLITE_UTF8);
    sqlite3_bind_int64(statement, 4, change->change_id);
    sqlite3_bind_text(statement, 5, operation_name(change->op), -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 6, change->base_version);
    sqlite3_bind_int64(statement, 7, change->changed);
    sqlite3_bind_text(statement, 8, reason, -1, SQLITE_STATIC);
    sqlite3_bind_text64(statement, 9, message.data, message.length, SQLITE_STATIC, SQLITE_UTF8);
    sqlite3_bind_text64(statement, 10, details.data, details.length, SQLITE_STATIC, SQLITE_UTF8);
    sqlite3_bind_text64(statement, 11, payload.data, payload.length, SQLITE_STATIC, SQLITE_UTF8);
    code =
        text.failed ? rs_nomem(client) : rs_finish(client, statement, "keeping a refused change");
    buffer_free(&text);
    *noted = code == ROWSYNC_OK && sqlite3_changes(client->db) > 0;
    return code;
}

/* Makes a dead letter of a change: as above, and it is not sent any more. */
rowsync_code
pending_reject(rowsync *client, const Change *change, Slice payload, const char *reason,
               Slice message, Slice details, bool *moved)
{
    sqlite3_stmt *statement;

    if (pending_note(client, change, payload, reason, message, details, moved) != ROWSYNC_OK ||
        !*moved ||
        (statement = rs_keyed(client, SQL_DIRTY_CLEAR, change->table, &change->key)) == NULL)
        return client->code;
    sqlite3_bind_int64(statement, 3, change->change_id);
    return rs_finish(client, statement, "taking a refused change out");
}

/* Settles what needs no server: marks that came to nothing, rows that cannot be sent. */
static rowsync_code
settle_here(rowsync *client, Change *change, const char *problem, int64_t *rejected)
{
    rowsync_code code = rs_begin(client);
    bool moved = false;

    if (code != ROWSYNC_OK)
        return code;
    if (problem != NULL)
    {
        Buffer message = {0};

        buffer_printf(&message,
                      "Column %s holds text that is not UTF-8, or a BLOB where the key is text.",
                      problem);
        code = message.failed
                   ? rs_nomem(client)
                   : pending_reject(client, change, (Slice){0}, "bad_payload",
                                    (Slice){message.data, message.length}, (Slice){0}, &moved);
        buffer_free(&message);
        *rejected += moved;
    }
    else
    {
        static const Statement what[] = {SQL_DIRTY_CLEAR, SQL_REJECTED_SETTLE};
        size_t i;

        for (i = 0; i < 2 && code == ROWSYNC_OK; i++)
        {
            sqlite3_stmt *statement = rs_keyed(client, what[i], change->table, &change->key);

            if (statement != NULL)
                sqlite3_bind_int64(statement, 3, change->change_id);
            code = rs_finish(client, statement, "dropping a mark");
        }
    }
    return rs_end(client, code);
}

/* Appends a change to the request; false when it is not to be sent. */
static rowsync_code
append_change(rowsync *client, Batch *batch, Change *change, bool *sent, const char **problem)
{
    Buffer *body = &batch->body;
    int64_t queued = change->change_id;
    size_t start = body->length;
    bool fits = true;
    rowsync_code code;

    /* The head is written before the payload but tells the operation: it is put in afterwards. */
    code = change_payload(client, change, body, false, problem);
    *sent = code == ROWSYNC_OK && change->change_id == queued && *problem == NULL &&
            change->op != OP_NOTHING;
    if (*sent)
    {
        Buffer *head = &client->scratch;

        buffer_clear(head);
        buffer_text(head, batch->count > 0 ? ",{\"source_change_id\":" : "{\"source_change_id\":");
        buffer_int(head, change->change_id);
        buffer_append(head, change->table->head.data, change->table->head.length);
        buffer_text(head, operation_name(change->op));
        buffer_text(head, "\",\"pk\":");
        fits = key_to_wire(head, change->table, &change->key);
        buffer_text(head, ",\"server_version\":");
        buffer_int(head, change->base_version);
        buffer_text(head, ",\"payload\":");
        if (head->failed || !buffer_reserve(body, head->length))
            return rs_nomem(client);
        memmove(body->data + start + head->length, body->data + start, change->payload_length);
        memcpy(body->data + start, head->data, head->length);
        body->length += head->length;
        change->payload_at += head->length;
        buffer_byte(body, '}');
    }
    /* Of a row with such a key there is nothing to delete. */
    if (*sent && !fits && change->op == OP_DELETE)
        change->op = OP_NOTHING;
    else if (*sent && !fits)
        *problem = change->table->columns[change->table->keys[0]].name;
    *sent = *sent && fits;
    if (!*sent)
        body->length = start;
    return code;
}

/*
 * Fills a request with the next changes of the queue, at most `limit`. An empty batch means that
 * the queue has come to its end.
 */
rowsync_code
batch_fill(rowsync *client, Queue *queue, Batch *batch, int limit, int64_t *rejected)
{
    rowsync_code code;

    batch->count = 0;
    buffer_clear(&batch->body);
    buffer_text(&batch->body, "{\"last_server_seq_seen\":");
    buffer_int(&batch->body, client->cursor);
    buffer_text(&batch->body, ",\"epoch\":");
    buffer_int(&batch->body, client->epoch);
    buffer_text(&batch->body, ",\"changes\":[");
    code = capture_snapshot(client);
    while (code == ROWSYNC_OK && batch->count < limit && batch->body.length < BODY_TARGET)
    {
        Change *change, *queued;
        const char *problem;
        bool sent;

        if (queue->next == queue->count && (code = queue_read(client, queue)) != ROWSYNC_OK)
            break;
        if (queue->done)
            break;
        queued = &queue->changes[queue->next++];
        change = grow(&batch->changes, &batch->capacity, batch->count);
        if (change == NULL)
        {
            code = rs_nomem(client);
            break;
        }
        {
            /* Each slot keeps a key's memory: the two trade theirs. */
            Key spare = change->key;

            *change = *queued;
            queued->key = spare;
        }
        code = append_change(client, batch, change, &sent, &problem);
        if (code == ROWSYNC_OK && !sent && change->change_id != 0 &&
            (problem != NULL || change->op == OP_NOTHING) &&
            (code = rs_stop(client, code)) == ROWSYNC_OK &&
            (code = settle_here(client, change, problem, rejected)) == ROWSYNC_OK)
            code = capture_snapshot(client);
        batch->count += sent;
    }
    if (!sqlite3_get_autocommit(client->db))
        code = rs_stop(client, code);
    buffer_text(&batch->body, "]}");
    return code == ROWSYNC_OK && batch->body.failed ? rs_nomem(client) : code;
}
