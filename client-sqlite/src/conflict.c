/*
 * conflict.c - a row that was changed here and on the server since they last agreed.
 *
 * There is one place where this is decided: the answer to the upload of the edit. A download that
 * meets a pending edit only keeps what the server says in _sync_held (held.c); should the edit go
 * away for another reason, it is applied from there. The one exception are new rows that the server
 * has already at the first hydration, see conflict_meet().
 */
#include "client.h"

#include <string.h>

/* Puts the edit on top of another version, to be sent again with the columns of `changed`. */
static rowsync_code
rebase(rowsync *client, const Change *change, int64_t version, int64_t changed)
{
    sqlite3_stmt *statement;
    int64_t id = 0;

    if (take_change_id(client, &id) != ROWSYNC_OK ||
        (statement = rs_keyed(client, SQL_DIRTY_RENEW, change->table, &change->key)) == NULL)
        return client->code;
    sqlite3_bind_int64(statement, 3, version);
    sqlite3_bind_int64(statement, 4, id);
    sqlite3_bind_int64(statement, 5, changed);
    client->renewed++;
    return rs_finish(client, statement, "moving an edit");
}

/* Does what was written here in the columns of `mask` say anything else than the server does? */
static bool
differs(const Change *change, const RowState *theirs, Slice local_payload, int64_t mask)
{
    const Table *table = change->table;
    bool gone = change->op == OP_DELETE, differ = gone != theirs->deleted;
    int i;

    for (i = 0; i < table->column_count && !gone && !differ; i++)
    {
        Slice name = {table->columns[i].member, strlen(table->columns[i].member) - 1};
        Slice mine = scan_member(local_payload, name), other = scan_member(theirs->payload, name);

        differ = (table->columns[i].mask & mask) != 0 && mine.data != NULL && other.data != NULL &&
                 !value_same(&table->columns[i], mine, other);
    }
    return differ;
}

/*
 * Keeps what was written here and is about to be overwritten in the columns of `mask`, so that the
 * app can show it. An edit that says what the server says loses nothing.
 */
rowsync_code
keep_overwritten(rowsync *client, const Change *change, const RowState *theirs, Slice local_payload,
                 int64_t mask)
{
    const Table *table = change->table;
    sqlite3_stmt *statement;
    Buffer text = {0}, here = {0};
    rowsync_code code;

    if (!differs(change, theirs, local_payload, mask))
        return ROWSYNC_OK;
    if ((statement = rs_statement(client, SQL_OVERWRITTEN_PUT)) == NULL)
        return client->code;
    key_to_text(&text, table, &change->key);
    sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
    sqlite3_bind_text64(statement, 2, buffer_string(&text), text.length, SQLITE_STATIC,
                        SQLITE_UTF8);
    sqlite3_bind_text(statement, 3, operation_name(change->op), -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 4, change->base_version);
    sqlite3_bind_int64(statement, 5, theirs->version);
    if (change->op != OP_DELETE && local_payload.data != NULL)
    {
        payload_beside(table, local_payload, theirs->payload, &here);
        sqlite3_bind_text64(statement, 6, here.data, here.length, SQLITE_STATIC, SQLITE_UTF8);
    }
    code = text.failed || here.failed
               ? rs_nomem(client)
               : rs_finish(client, statement, "keeping what a conflict overwrites");
    sqlite3_clear_bindings(statement);
    buffer_free(&text);
    buffer_free(&here);
    client->overwritten++;
    return code == ROWSYNC_OK ? rs_run(client, SQL_OVERWRITTEN_TRIM) : code;
}

/* Marks a row as it is here now for upload on top of that version, edits of it included. */
rowsync_code
queue_again(rowsync *client, const Table *table, const Key *key, int64_t base)
{
    const Change change = {.table = (Table *)table, .key = *key};
    sqlite3_stmt *put;
    int64_t id = 0;
    rowsync_code code;

    if (take_change_id(client, &id) != ROWSYNC_OK ||
        (put = rs_keyed(client, SQL_DIRTY_PUT, table, key)) == NULL)
        return client->code;
    sqlite3_bind_int64(put, 3, id);
    sqlite3_bind_int64(put, 4, base);
    sqlite3_bind_int64(put, 5, -1);
    code = rs_finish(client, put, "queueing a row");
    return code == ROWSYNC_OK ? rebase(client, &change, base, -1) : code;
}

/* The row becomes the server's and the edit ends; where the row cannot be stored it is kept. */
static rowsync_code
server_wins(rowsync *client, const Change *change, const RowState *theirs, Slice local_payload)
{
    bool refused;

    if (keep_overwritten(client, change, theirs, local_payload, change->changed) != ROWSYNC_OK ||
        row_take(client, change->table, &change->key, theirs, &refused) != ROWSYNC_OK ||
        held_decide(client, change->table, &change->key, theirs, refused) != ROWSYNC_OK ||
        row_drop(client, SQL_REJECTED_DROP, change->table, &change->key) != ROWSYNC_OK)
        return client->code;
    return row_drop(client, SQL_DIRTY_DROP, change->table, &change->key);
}

/* Is the name (with its quotes) an element of the array? */
static bool
array_has(Slice array, Slice name)
{
    JsonReader reader = scan_reader(array);
    Slice element;
    bool first;

    if (array.data == NULL || !scan_enter(&reader, '['))
        return false;
    for (first = true; scan_next_element(&reader, first, &element); first = false)
        if (element.length == name.length && memcmp(element.data, name.data, name.length) == 0)
            return true;
    return false;
}

/*
 * Which of the columns edited here survive: those that the server left alone since the version that
 * the edit was made on. The server says which it changed; where it does not, the row before the
 * edit tells, kept by the triggers of merging tables. Where nobody tells, the server wins.
 */
static int64_t
surviving(rowsync *client, const Change *change, const RowState *theirs, Slice server_changed)
{
    sqlite3_stmt *dirty = rs_keyed(client, SQL_DIRTY_GET, change->table, &change->key);
    Buffer literal = {0}, value = {0};
    int64_t mask = 0;
    Slice base = {0};
    int i;

    if (dirty == NULL)
        return 0;
    if (rs_row(client, dirty) && sqlite3_column_text(dirty, 4) != NULL)
        base = (Slice){(const char *)sqlite3_column_text(dirty, 4),
                       (size_t)sqlite3_column_bytes(dirty, 4)};
    for (i = 0; i < change->table->column_count; i++)
    {
        const Column *column = &change->table->columns[i];
        Slice name = {column->member, strlen(column->member) - 1};
        Slice now = scan_member(theirs->payload, name);

        if ((column->mask & change->changed) == 0)
            continue;
        if (server_changed.data != NULL)
        {
            if (!array_has(server_changed, name))
                mask |= column->mask;
            continue;
        }
        buffer_clear(&literal);
        buffer_clear(&value);
        if (now.data != NULL && scan_string(scan_member(base, name), &literal) &&
            literal_write(&value, column, (Slice){buffer_string(&literal), literal.length}) &&
            value.length == now.length && memcmp(value.data, now.data, now.length) == 0)
            mask |= column->mask;
    }
    rs_reset(client, dirty);
    if (literal.failed || value.failed)
        rs_nomem(client);
    buffer_free(&literal);
    buffer_free(&value);
    return mask;
}

/* Puts the server's row in place, but for the columns of `mask`, which stay as they are here. */
static rowsync_code
put_around(rowsync *client, const Change *change, const RowState *theirs, Slice local_payload,
           int64_t mask, bool *refused)
{
    Buffer payload = {0};
    RowState merged = *theirs;

    payload_around(change->table, theirs->payload, local_payload, mask, &payload);
    merged.payload = (Slice){payload.data, payload.length};
    if (payload.failed)
        rs_nomem(client);
    else
        row_put(client, change->table, &change->key, &merged, refused);
    buffer_free(&payload);
    return client->code;
}

/*
 * The server's row for one with edits, or a dead letter: the columns that these are not about are
 * taken over, so that the device does not miss what the server made of them. Where they cannot be
 * stored, the row is held. Where there are no edits, another process has taken the answer in; a
 * whole row is sent whole.
 */
rowsync_code
take_unedited(rowsync *client, Table *table, const Key *key, const RowState *theirs)
{
    const Change change = {.table = table, .key = *key};
    sqlite3_stmt *edits = rs_keyed(client, SQL_EDITS, table, key);
    Buffer local = {0};
    bool any = false, whole = false, there, refused = false;
    int64_t mask = 0;

    while (edits != NULL && rs_row(client, edits))
    {
        any = true;
        whole |= sqlite3_column_int64(edits, 0) == 0;
        mask |= sqlite3_column_int64(edits, 1);
    }
    if (edits == NULL || rs_reset(client, edits) != ROWSYNC_OK || !any || whole || mask == -1)
        return client->code;
    if (row_payload(client, table, key, &local, &there) && there)
        put_around(client, &change, theirs, (Slice){buffer_string(&local), local.length}, mask,
                   &refused);
    if (client->code == ROWSYNC_OK && refused)
        held_put(client, table, key, theirs, HELD_STUCK);
    buffer_free(&local);
    return client->code;
}

/*
 * Puts the server's row around the columns of `mask`, which are sent again on its version. A row
 * that cannot be stored here so is held, for nobody has seen what others wrote: it stays as it is,
 * and only what was edited is sent.
 */
static rowsync_code
send_around(rowsync *client, const Change *change, const RowState *theirs, Slice local_payload,
            int64_t mask)
{
    bool refused;

    if (put_around(client, change, theirs, local_payload, mask, &refused) != ROWSYNC_OK ||
        held_decide(client, change->table, &change->key, theirs, refused) != ROWSYNC_OK)
        return client->code;
    return rebase(client, change, theirs->version, mask);
}

/*
 * The edit is sent again on the server's version: the columns that were edited, around which the
 * row becomes the server's. Whole, where it is new or the server has none.
 */
static rowsync_code
client_wins(rowsync *client, const Change *change, const RowState *theirs, Slice local_payload)
{
    int64_t mask = change->op == OP_DELETE ? 0 : theirs->deleted ? -1 : change->changed;

    if (change->op != OP_DELETE && mask != -1)
        return send_around(client, change, theirs, local_payload, mask);
    if (row_set_version(client, change->table, &change->key, theirs->version, theirs->deleted) !=
            ROWSYNC_OK ||
        row_drop(client, SQL_HELD_DROP, change->table, &change->key) != ROWSYNC_OK)
        return client->code;
    return rebase(client, change, theirs->version, mask);
}

/*
 * Three-way merge: the row takes over what the server changed, the edits that survive stay pending
 * on the server's version. An edit of a row that is deleted on one side is not merged: server wins.
 */
static rowsync_code
merge(rowsync *client, const Change *change, const RowState *theirs, Slice server_changed,
      Slice local_payload)
{
    int64_t mask;

    if (theirs->deleted || change->op == OP_DELETE)
        return server_wins(client, change, theirs, local_payload);
    mask = surviving(client, change, theirs, server_changed);
    if (client->code != ROWSYNC_OK || mask == 0)
        return client->code != ROWSYNC_OK ? client->code
                                          : server_wins(client, change, theirs, local_payload);
    if (keep_overwritten(client, change, theirs, local_payload, change->changed & ~mask) !=
        ROWSYNC_OK)
        return client->code;
    return send_around(client, change, theirs, local_payload, mask);
}

/*
 * Settles a conflict by a policy. Where the server says of the row only what was known here when it
 * was written, nobody is against it, and it is sent as new: that the server does not know it at all
 * (its tombstone is long gone, or the server was restored from a backup), or that it was deleted
 * before the version that is here, which a restored server lost. The device may have the only copy.
 */
static rowsync_code
settle(rowsync *client, const Change *change, const RowState *theirs, Slice server_changed,
       Slice local_payload, rowsync_policy policy)
{
    int64_t version;
    bool deleted;

    if (row_version(client, change->table, &change->key, &version, &deleted) != ROWSYNC_OK)
        return client->code;
    if (theirs->deleted && change->op != OP_DELETE && theirs->version <= (deleted ? version : 0))
        policy = ROWSYNC_CLIENT_WINS;
    switch (policy)
    {
        case ROWSYNC_CLIENT_WINS:
            return client_wins(client, change, theirs, local_payload);
        case ROWSYNC_MERGE:
            return merge(client, change, theirs, server_changed, local_payload);
        case ROWSYNC_MANUAL:
            return held_put(client, change->table, &change->key, theirs, HELD_MANUAL);
        default:
            return server_wins(client, change, theirs, local_payload);
    }
}

/* Who wins: what the app's function says, or else the table's policy. See client->code. */
static rowsync_policy
decide(rowsync *client, const Change *change, const RowState *theirs, Slice local_payload)
{
    rowsync_policy policy = change->table->policy;
    Buffer pk = {0}, server = {0}, here = {0};
    rowsync_conflict conflict = {change->table->name, NULL, change->base_version,
                                 theirs->version,     NULL, NULL};

    if (client->options.conflict == NULL)
        return policy;
    key_to_text(&pk, change->table, &change->key);
    buffer_append(&server, theirs->payload.data, theirs->payload.length);
    conflict.pk = buffer_string(&pk);
    if (change->op != OP_DELETE)
    {
        payload_beside(change->table, local_payload, theirs->payload, &here);
        conflict.local_payload = buffer_string(&here);
    }
    conflict.server_payload = theirs->deleted ? NULL : buffer_string(&server);
    if (pk.failed || server.failed || here.failed)
        rs_nomem(client);
    else
        policy = client->options.conflict(client->options.context, &conflict);
    buffer_free(&pk);
    buffer_free(&server);
    buffer_free(&here);
    return policy;
}

/*
 * Is something later than this held of the row? Another process has fetched it meanwhile. Of a
 * deletion a hydration knows only that it was before the snapshot: the server's answer counts.
 */
static bool
outdated(rowsync *client, const Change *change, const RowState *theirs)
{
    Buffer text = {0};
    RowState held = {0};
    HeldState state;
    bool later = held_get(client, change->table, &change->key, &held, &state, &text) &&
                 theirs->version > 0 && held.version > theirs->version;

    buffer_free(&text);
    if (later && held.deleted && theirs->deleted)
    {
        row_drop(client, SQL_HELD_DROP, change->table, &change->key);
        return false;
    }
    return later;
}

/*
 * Decides a conflict that the server answered. Nothing happens where the row was edited since, or
 * the server's side of it is outdated: that edit will meet the conflict again. Where both sides say
 * the same there is nothing to decide, whatever the policy. Inside a transaction with capture off.
 */
rowsync_code
conflict_settle(rowsync *client, const Change *change, const RowState *theirs, Slice server_changed)
{
    Change now = *change;
    const char *problem;
    Buffer local = {0};
    rowsync_code code = change_payload(client, &now, &local, true, &problem);

    if (code == ROWSYNC_OK && now.change_id == change->change_id)
    {
        Slice payload = {buffer_string(&local), local.length};
        rowsync_policy policy;

        if (outdated(client, change, theirs))
            client->renewed++;
        else if (client->code == ROWSYNC_OK)
        {
            policy = problem != NULL || differs(&now, theirs, payload, -1)
                         ? decide(client, &now, theirs, payload)
                         : ROWSYNC_SERVER_WINS;
            if (client->code == ROWSYNC_OK)
                settle(client, &now, theirs, server_changed, payload, policy);
        }
    }
    buffer_free(&local);
    return client->code;
}

/*
 * Looks at an edit whose row goes along with what the server says of another one. `theirs` is
 * what is known of the row on the server: that it is not where it was, and a version.
 */
static rowsync_code
look_taken(rowsync *client, Change *change, RowState *theirs, HeldState *state, Buffer *local)
{
    Buffer text = {0};
    const char *problem;
    int64_t version;
    bool deleted;

    *state = HELD_EDITED;
    if (change_payload(client, change, local, true, &problem) == ROWSYNC_OK &&
        row_version(client, change->table, &change->key, &version, &deleted) == ROWSYNC_OK)
    {
        if (!held_get(client, change->table, &change->key, theirs, state, &text) ||
            theirs->version < version)
            theirs->version = version;
        theirs->deleted = true;
        theirs->payload = (Slice){0};
        if (problem != NULL)
            buffer_clear(local);
    }
    buffer_free(&text);
    return client->code;
}

/*
 * Is the app to decide on an edit before its row may be taken along? A row that the app has deleted
 * was gone before.
 */
rowsync_code
conflict_waits(rowsync *client, Table *table, const Key *key, bool *waits)
{
    Change change = {.table = table, .key = *key};
    RowState theirs = {0};
    Buffer local = {0};
    HeldState state;

    *waits = false;
    if (look_taken(client, &change, &theirs, &state, &local) == ROWSYNC_OK &&
        change.change_id != 0 && change.op != OP_DELETE && change.op != OP_NOTHING)
        *waits = state == HELD_MANUAL ||
                 decide(client, &change, &theirs, (Slice){buffer_string(&local), local.length}) ==
                     ROWSYNC_MANUAL;
    buffer_free(&local);
    return client->code;
}

/*
 * Ends an edit whose row is about to be taken along (a dead letter stays one): it loses, under any
 * policy, for without its parent it cannot be sent. It is no deletion of the user's: should the
 * server have the row, with another parent, it comes again, from what is held or with a hydration.
 */
rowsync_code
conflict_taken(rowsync *client, Table *table, const Key *key)
{
    Change change = {.table = table, .key = *key};
    RowState theirs = {0};
    Buffer local = {0};
    int64_t version;
    bool deleted;
    HeldState state;

    if (look_taken(client, &change, &theirs, &state, &local) != ROWSYNC_OK)
        ;
    else if (change.change_id == 0)
        rejected_taken(client, table, key);
    else if (change.op != OP_DELETE &&
             (change.op == OP_NOTHING ||
              keep_overwritten(client, &change, &theirs,
                               (Slice){local.length > 0 ? local.data : NULL, local.length},
                               change.changed) == ROWSYNC_OK) &&
             row_drop(client, SQL_REJECTED_DROP, table, key) == ROWSYNC_OK &&
             row_drop(client, SQL_DIRTY_DROP, table, key) == ROWSYNC_OK &&
             row_version(client, table, key, &version, &deleted) == ROWSYNC_OK && version > 0 &&
             !deleted && row_drop(client, SQL_VERSION_DROP, table, key) == ROWSYNC_OK)
    {
        client->missed = true;
        row_set_version(client, table, key, 0, false);
    }
    buffer_free(&local);
    return client->code;
}

/*
 * A download brings a row of which an edit is pending. In the first hydration an edit that knew
 * nothing of the server's row (the app was installed again and wrote before its first sync) is
 * decided upon now: the server would take it for a newer one of the same source. Any other waits
 * for the answer to its upload. Later on such a row may be this device's own, of which the answer
 * was lost or is on its way to another process.
 */
rowsync_code
conflict_meet(rowsync *client, Table *table, const Key *key, const RowState *theirs)
{
    Change change = {.table = table, .key = *key};
    Buffer ignored = {0};
    const char *problem;
    rowsync_code code = change_payload(client, &change, &ignored, true, &problem);

    buffer_free(&ignored);
    if (code != ROWSYNC_OK)
        return code;
    if (client->hydrated < 2 && change.change_id != 0 && change.base_version == 0 &&
        change.op == OP_INSERT && !theirs->deleted && problem == NULL)
        return conflict_settle(client, &change, theirs, (Slice){0});
    return held_put(client, table, key, theirs, HELD_EDITED);
}

/*
 * A row of which the server lost the version that is here, for it was restored from a backup:
 * `base` is the last one that both know. Unless the server says the same by now, the row is sent
 * again, and the answer to that decides. Should that edit go away, what the server says is there to
 * be applied.
 */
rowsync_code
conflict_lost(rowsync *client, Table *table, const Key *key, const RowState *theirs, int64_t base)
{
    Change change = {.table = table, .key = *key};
    Buffer local = {0};
    const char *problem;
    bool same = false;

    if (row_drop(client, SQL_VERSION_DROP, table, key) == ROWSYNC_OK &&
        queue_again(client, table, key, base) == ROWSYNC_OK &&
        change_payload(client, &change, &local, true, &problem) == ROWSYNC_OK)
        same = problem == NULL &&
               !differs(&change, theirs, (Slice){buffer_string(&local), local.length}, -1);
    buffer_free(&local);
    if (client->code == ROWSYNC_OK && same)
        row_drop(client, SQL_DIRTY_DROP, table, key);
    if (client->code == ROWSYNC_OK && (same || base > 0))
        row_set_version(client, table, key, same ? theirs->version : base, false);
    if (client->code == ROWSYNC_OK && !same && base < theirs->version)
        held_put(client, table, key, theirs, HELD_EDITED);
    return client->code;
}

rowsync_code
rowsync_resolve(rowsync *client, const char *table_name, const char *pk, rowsync_policy how)
{
    Buffer text = {0}, local = {0};
    Change change = {0};
    RowState theirs;
    const char *problem;
    HeldState state = HELD_EDITED;
    bool again = false;
    rowsync_code code = rs_enter(client, true);

    if (code != ROWSYNC_OK)
        return code;
    if (how == ROWSYNC_MANUAL)
        return rs_fail(client, ROWSYNC_MISUSE, "Say which side wins, or merge.",
                       "\"manual\" resolves nothing.");
    if ((change.table = table_here(client, table_name)) == NULL)
        return client->code;
    if (pk == NULL || !key_from_text(change.table, pk, &change.key))
    {
        bool failed = change.key.bytes.failed;

        key_free(&change.key);
        if (failed)
            return rs_nomem(client);
        return rs_fail(client, ROWSYNC_MISUSE, "Take it from _sync_conflict.",
                       "\"%s\" is no key of \"%s\".", pk != NULL ? pk : "", table_name);
    }
    do
    {
        if ((code = rs_begin(client)) != ROWSYNC_OK)
            break;
        if (!held_get(client, change.table, &change.key, &theirs, &state, &text) ||
            state != HELD_MANUAL)
            code = client->code != ROWSYNC_OK
                       ? client->code
                       : rs_fail(client, ROWSYNC_MISUSE, "See _sync_conflict.",
                                 "The row %s of \"%s\" waits for no decision.", pk, table_name);
        buffer_clear(&local);
        if (code == ROWSYNC_OK)
            code = change_payload(client, &change, &local, true, &problem);
        /* An edit that has become a dead letter stays one, and is not decided upon. */
        if (code == ROWSYNC_OK && change.change_id == 0)
        {
            code = row_drop(client, SQL_HELD_DECIDED, change.table, &change.key);
            if (code == ROWSYNC_OK)
                code = held_retry(client);
        }
        else if (code == ROWSYNC_OK)
            code = settle(client, &change, &theirs, (Slice){0},
                          (Slice){buffer_string(&local), local.length}, how);
        if (code == ROWSYNC_OK)
            code = take_out_orphans(client);
        /* A row that has to go and cannot is held as deleted, as a pull would. */
        again = orphans_stuck(client);
        code = again ? rs_give_up(client) : rs_end(client, code);
    } while (again && code == ROWSYNC_OK);
    buffer_free(&text);
    buffer_free(&local);
    key_free(&change.key);
    return code;
}
