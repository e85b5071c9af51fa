/*
 * hydrate.c - fills a database from a snapshot, in one transaction and constant memory.
 *
 * A stream that breaks off or is damaged leaves nothing: everything is rolled back and the app
 * never sees a part. Rows of a table that is empty are inserted plainly, with the capture triggers
 * and plain indexes of the table out of the way until the end (of the same transaction). Where
 * there are rows, edits or versions already, each row is taken in as a download would be, and rows
 * that the server does not have any more are removed afterwards.
 */
#include "snapshot.h"

#include <math.h>
#include <string.h>

/* While rows come in; a sort for an index gets less, on top of what the cache then still holds. */
#define CACHE_KIB 65536
#define CACHE_FOR_ROWS "PRAGMA main.cache_size = -65536"
#define CACHE_FOR_INDEXES "PRAGMA main.cache_size = -8192"

/* What becomes of the rows of a table of the snapshot. */
typedef struct Target
{
    bool plain; /* the table was empty */
    sqlite3_stmt *insert;
} Target;

/* A hydration under way. */
typedef struct Hydration
{
    rowsync *client;
    rowsync_report *report;
    bool begun;      /* the transaction is open */
    Target *targets; /* one for each table of the snapshot */
    int target_count;
    int64_t seq;    /* of the snapshot */
    int64_t shared; /* of a restored server: up to there its log is the one that was read here */
    sqlite3_stmt *version; /* notes the version of a row that has none */
    bool gentle;    /* what is here may be touched by putting rows: no table is filled plainly */
    Buffer indexes; /* the statements that make the dropped ones again */
    Buffer object;
} Hydration;

static void
hydration_free(Hydration *hydration)
{
    int i;

    for (i = 0; i < hydration->target_count; i++)
        sqlite3_finalize(hydration->targets[i].insert);
    sqlite3_finalize(hydration->version);
    rs_free(hydration->targets);
    buffer_free(&hydration->indexes);
    buffer_free(&hydration->object);
}

/* One number of a query that has one; its parameter, if it has one, is `value`. */
static rowsync_code
query_int(rowsync *client, const char *sql, int64_t value, int64_t *out)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code = rs_prepare(client, sql, &statement);

    if (code == ROWSYNC_OK && sqlite3_bind_parameter_count(statement) > 0)
        sqlite3_bind_int64(statement, 1, value);
    if (code == ROWSYNC_OK && sqlite3_step(statement) == SQLITE_ROW)
        *out = sqlite3_column_int64(statement, 0);
    else if (code == ROWSYNC_OK)
        code = rs_fail_sqlite(client, "looking at the database");
    sqlite3_finalize(statement);
    return code;
}

/*
 * Drops the indexes of a table that no constraint needs, to be made again at the end: sorting all
 * entries at once costs a fraction of inserting them at random. One that cannot be dropped, because
 * the app reads from it at this moment, stays.
 */
static rowsync_code
drop_indexes(Hydration *hydration, const Table *table)
{
    static const char head[] = "CREATE INDEX ";
    rowsync *client = hydration->client;
    sqlite3_stmt *statement = NULL;
    Buffer drops = {0}, *makes = &hydration->indexes;
    rowsync_code code = rs_prepare(
        client,
        "SELECT m.name, m.sql FROM pragma_index_list(?1, 'main') i JOIN main.sqlite_schema m ON"
        " m.type = 'index' AND m.name = i.name WHERE NOT i.\"unique\" AND m.sql IS NOT NULL",
        &statement);

    if (code != ROWSYNC_OK)
        return code;
    sqlite3_bind_text(statement, 1, table->name, -1, SQLITE_STATIC);
    while (rs_row(client, statement))
    {
        const char *sql = (const char *)sqlite3_column_text(statement, 1);

        if (sql == NULL || strncmp(sql, head, strlen(head)) != 0)
            continue;
        /* One by one, each beside the statement that makes it again. */
        buffer_text(&drops, "DROP INDEX main.");
        buffer_name(&drops, rs_text(statement, 0));
        buffer_byte(&drops, '\0');
        buffer_printf(&drops, "%smain.%s;", head, sql + strlen(head));
        buffer_byte(&drops, '\0');
    }
    sqlite3_finalize(statement);
    if (drops.failed)
        rs_nomem(client);
    code = client->code;
    for (size_t at = 0; code == ROWSYNC_OK && at < drops.length;)
    {
        const char *drop = drops.data + at, *make = drop + strlen(drop) + 1;

        if (sqlite3_exec(client->db, drop, NULL, NULL, NULL) == SQLITE_OK)
            buffer_text(makes, make);
        else if (sqlite3_get_autocommit(client->db))
            code = rs_fail_sqlite(client, "dropping an index");
        at = (size_t)(make + strlen(make) + 1 - drops.data);
    }
    if (makes->failed)
        code = rs_nomem(client);
    buffer_free(&drops);
    return code;
}

/*
 * Prepares the plain insert of a table, its parameters in the order of the stream. A table whose
 * constraints say themselves what to do in a conflict (REPLACE, IGNORE) gets an error instead.
 */
static rowsync_code
prepare_insert(rowsync *client, const SnapshotTable *source, Target *target)
{
    const Table *table = source->table;
    Buffer sql = {0}, values = {0};
    rowsync_code code;
    int i, written = 0;

    buffer_printf(&sql, "INSERT %sINTO main.", table->own_conflict_clause ? "OR ABORT " : "");
    buffer_name(&sql, table->name);
    buffer_text(&sql, " (");
    for (i = 0; i < source->count; i++)
    {
        if (source->columns[i] < 0)
            continue;
        buffer_text(&sql, written > 0 ? ", " : "");
        buffer_name(&sql, table->columns[source->columns[i]].name);
        buffer_printf(&values, "%s?%d", written++ > 0 ? ", " : "", i + 1);
    }
    buffer_printf(&sql, ") VALUES (%s)", buffer_string(&values));
    code = sql.failed || values.failed ? rs_nomem(client)
                                       : rs_prepare(client, sql.data, &target->insert);
    buffer_free(&sql);
    buffer_free(&values);
    return code;
}

/*
 * Sees whether the snapshot is of the log that was read here. Another process may meanwhile have
 * taken in what a restored server has.
 */
static rowsync_code
see_log(Hydration *hydration, const Snapshot *snapshot)
{
    rowsync *client = hydration->client;
    int64_t epoch = 0;
    rowsync_code code = query_int(client, "SELECT epoch FROM main._sync_client_info", 0, &epoch);

    if (code != ROWSYNC_OK)
        return code;
    if (snapshot->epoch >= 0 && epoch == client->epoch &&
        log_continues(client, snapshot->epoch, snapshot->seq) != ROWSYNC_OK && !client->restored)
        return client->code;
    client->code = ROWSYNC_OK;
    if (snapshot->epoch >= 0)
        client->new_epoch = snapshot->epoch;
    client->restored = client->restored && epoch == client->epoch;
    hydration->seq = snapshot->seq;
    hydration->shared = snapshot_shared(snapshot);
    return ROWSYNC_OK;
}

/*
 * Versions of the table of another schema say nothing of this one: its rows count as ones of which
 * the server has said nothing yet.
 */
static rowsync_code
forget_versions(rowsync *client, const Table *table)
{
    Buffer sql = {0};
    rowsync_code code;

    if ((table->refill & REFILL_VERSIONS) == 0)
        return ROWSYNC_OK;
    buffer_printf(&sql,
                  "DELETE FROM main._sync_version WHERE table_id = %lld AND deleted;"
                  "UPDATE main._sync_version SET server_version = 0 WHERE table_id = %lld",
                  (long long)table->id, (long long)table->id);
    code = sql.failed ? rs_nomem(client) : rs_exec(client, sql.data);
    buffer_free(&sql);
    return code;
}

/*
 * Are there rows or edits here that may be touched when rows come into another table, by a trigger
 * of the app? A table that is filled plainly does not tell.
 */
static rowsync_code
see_effects(Hydration *hydration)
{
    rowsync *client = hydration->client;
    int64_t used = 0;
    int i;

    for (i = 0; i < client->table_count && !hydration->gentle; i++)
        hydration->gentle =
            client->tables[i].exists && effects_possible(client, &client->tables[i], false);
    if (hydration->gentle && client->code == ROWSYNC_OK)
        query_int(client,
                  "SELECT EXISTS (SELECT 1 FROM main._sync_version)"
                  " OR EXISTS (SELECT 1 FROM main._sync_dirty)"
                  " OR EXISTS (SELECT 1 FROM main._sync_rejected)",
                  0, &used);
    hydration->gentle = used != 0;
    return client->code;
}

/*
 * A row that a server restored from a backup lost, and has not got again: what is here of it is
 * sent as new. It counts as deleted up to where both logs are the same: a tombstone that the server
 * has from before the backup is known here, and no conflict (conflict.c). Of a deletion that is
 * lost with all of its row, nothing is left to be known.
 */
static rowsync_code
take_lost(rowsync *client, Table *table, const Key *key, int64_t shared, bool deleted)
{
    bool edited;

    if (has_edits(client, table, key, &edited) != ROWSYNC_OK ||
        row_drop(client, SQL_VERSION_DROP, table, key) != ROWSYNC_OK || (deleted && !edited))
        return client->code;
    if (shared > 0 && shared < INT64_MAX &&
        row_set_version(client, table, key, shared, true) != ROWSYNC_OK)
        return client->code;
    return queue_again(client, table, key, 0);
}

/*
 * A row that is held, of a version that the restored server lost. Where there is a row here, the
 * edits of it that the server had taken since are edits again, beside those that are pending. One
 * that is in no table, for it had to leave it or never got there, is put there to be sent as new;
 * what cannot be, is kept.
 */
static rowsync_code
recover_row(rowsync *client, Table *table, const Key *key, int64_t shared)
{
    const Change change = {.table = table, .key = *key, .op = OP_INSERT};
    const RowState none = {.deleted = true};
    sqlite3_stmt *again = NULL;
    Buffer text = {0};
    RowState theirs;
    HeldState state;
    int64_t version;
    bool there = row_there(client, table, key), deleted, edited, refused;

    if (client->code == ROWSYNC_OK && there &&
        (again = rs_keyed(client, SQL_HELD_RESEND, table, key)) != NULL)
    {
        sqlite3_bind_int64(again, 3, shared);
        rs_finish(client, again, "queueing an edit of a held row");
    }
    else if (client->code == ROWSYNC_OK && !there &&
             has_edits(client, table, key, &edited) == ROWSYNC_OK && !edited &&
             row_version(client, table, key, &version, &deleted) == ROWSYNC_OK &&
             (version == 0 || version > shared) &&
             held_get(client, table, key, &theirs, &state, &text) &&
             row_put(client, table, key, &theirs, &refused) == ROWSYNC_OK)
    {
        if (refused)
            keep_overwritten(client, &change, &none, theirs.payload, -1);
        else
            take_lost(client, table, key, shared, false);
    }
    buffer_free(&text);
    return client->code;
}

/*
 * What is held would pass for newer than anything of the log of a restored server, and goes, but
 * for what only this device may have of it. Edits that a decision was waited for are sent again,
 * and meet what there is now.
 */
static rowsync_code
forget_held_log(rowsync *client, int64_t shared)
{
    sqlite3_stmt *statement = NULL;
    RowList list = {0};
    rowsync_code code =
        rs_prepare(client,
                   "SELECT table_id, pk FROM main._sync_held WHERE state = 2 AND NOT"
                   " deleted AND server_version > ?1 ORDER BY server_version",
                   &statement);
    int i;

    if (code == ROWSYNC_OK)
    {
        sqlite3_bind_int64(statement, 1, shared);
        code = rows_read(client, statement, &list);
    }
    for (i = 0; i < list.count && code == ROWSYNC_OK; i++)
        code = recover_row(client, list.rows[i].table, &list.rows[i].key, shared);
    sqlite3_finalize(statement);
    rows_free(&list);
    if (code == ROWSYNC_OK)
        code = capture_fold(client);
    return code == ROWSYNC_OK ? rs_exec(client, "DELETE FROM main._sync_held") : client->code;
}

/* The header has come: begins the transaction, and sees how each table is to be filled. */
static rowsync_code
prepare_targets(void *context, Snapshot *snapshot)
{
    Hydration *hydration = context;
    rowsync *client = hydration->client;
    size_t size = (size_t)snapshot->table_count * sizeof(*hydration->targets);
    rowsync_code code;
    int i;

    if ((code = rs_begin(client)) != ROWSYNC_OK)
        return code;
    hydration->begun = true;
    if ((code = tables_refill(client)) != ROWSYNC_OK ||
        (code = see_log(hydration, snapshot)) != ROWSYNC_OK ||
        (client->restored && (code = forget_held_log(client, hydration->shared)) != ROWSYNC_OK) ||
        (code = see_effects(hydration)) != ROWSYNC_OK)
        return code;
    if ((hydration->targets = rs_realloc(NULL, size)) == NULL)
        return rs_nomem(client);
    memset(hydration->targets, 0, size);
    hydration->target_count = snapshot->table_count;
    code = rs_prepare(client, "INSERT INTO main._sync_version VALUES (?1, ?2, ?3, 0)",
                      &hydration->version);
    for (i = 0; i < snapshot->table_count && code == ROWSYNC_OK; i++)
    {
        const Table *table = snapshot->tables[i].table;
        Target *target = &hydration->targets[i];
        int64_t used = 0;

        if (table == NULL)
            continue;
        if ((code = forget_versions(client, table)) != ROWSYNC_OK)
            break;
        code = query_int(client,
                         "SELECT EXISTS (SELECT 1 FROM main._sync_version WHERE table_id = ?1)"
                         " OR EXISTS (SELECT 1 FROM main._sync_dirty WHERE table_id = ?1)"
                         " OR EXISTS (SELECT 1 FROM main._sync_held WHERE table_id = ?1)"
                         " OR EXISTS (SELECT 1 FROM main._sync_rejected WHERE table_id = ?1)",
                         table->id, &used);
        target->plain = used == 0 && !hydration->gentle;
        if (code != ROWSYNC_OK || !target->plain)
            continue;
        if ((code = triggers_drop(client, table)) == ROWSYNC_OK &&
            (code = drop_indexes(hydration, table)) == ROWSYNC_OK)
            code = prepare_insert(client, &snapshot->tables[i], target);
    }
    return code;
}

/* Inserts the row at hand into an empty table. *done is false where something is in its way. */
static rowsync_code
insert_row(Hydration *hydration, const Snapshot *snapshot, int number, int64_t version, bool *done)
{
    rowsync *client = hydration->client;
    const SnapshotTable *source = &snapshot->tables[number];
    sqlite3_stmt *insert = hydration->targets[number].insert;
    int i, result = SQLITE_OK;

    for (i = 0; i < source->count && result == SQLITE_OK; i++)
        if (source->columns[i] >= 0)
            result = value_bind(insert, i + 1, &source->table->columns[source->columns[i]],
                                snapshot->values[i], &client->scratch);
    if (result == SQLITE_OK)
        result = sqlite3_step(insert);
    *done = result == SQLITE_DONE && sqlite3_changes(client->db) > 0;
    row_outcome(client, source->table, result);
    sqlite3_reset(insert);
    if (client->code != ROWSYNC_OK || !*done)
        return client->code;
    sqlite3_bind_int64(hydration->version, 1, source->table->id);
    key_bind(hydration->version, 2, &snapshot->key);
    sqlite3_bind_int64(hydration->version, 3, version);
    result = sqlite3_step(hydration->version);
    if (result == SQLITE_CONSTRAINT)
        rs_fail(client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                "The snapshot has a row of \"%s\" twice.", source->table->name);
    else if (result != SQLITE_DONE)
        rs_fail_sqlite(client, "noting a version");
    sqlite3_reset(hydration->version);
    hydration->report->downloaded++;
    return client->code;
}

/*
 * A row of a server that was restored from a backup. Up to `shared` its log is the one that was
 * read here, and the server's row is the later one. Above, equal numbers may mean other content:
 * what the device has was lost there and is sent again, on the last version that both know.
 */
static rowsync_code
take_restored(rowsync *client, Table *table, const Key *key, const RowState *state, int64_t shared,
              rowsync_report *report)
{
    int64_t version, base = state->version < shared ? state->version : shared;
    bool deleted, edited, refused;

    if (row_version(client, table, key, &version, &deleted) != ROWSYNC_OK ||
        has_edits(client, table, key, &edited) != ROWSYNC_OK)
        return client->code;
    if (version > base)
        return conflict_lost(client, table, key, state, base);
    if (edited)
        return version < state->version ? conflict_meet(client, table, key, state) : ROWSYNC_OK;
    report->downloaded += version < state->version;
    if (row_put(client, table, key, state, &refused) != ROWSYNC_OK || !refused)
        return client->code;
    return held_put(client, table, key, state, HELD_STUCK);
}

/* Takes the row at hand in as a download would be. */
static rowsync_code
take_in(Hydration *hydration, const Snapshot *snapshot, int number, int64_t version)
{
    const SnapshotTable *source = &snapshot->tables[number];
    rowsync *client = hydration->client;
    Buffer *object = &hydration->object;
    RowState state = {version, false, {0}};
    sqlite3_stmt *seen;
    rowsync_code code;
    int i;

    buffer_clear(object);
    for (i = 0; i < source->count; i++)
    {
        buffer_byte(object, i > 0 ? ',' : '{');
        buffer_append(object, source->names[i].data, source->names[i].length);
        buffer_byte(object, ':');
        buffer_append(object, snapshot->values[i].data, snapshot->values[i].length);
    }
    buffer_byte(object, '}');
    if (object->failed)
        return rs_nomem(client);
    state.payload = (Slice){object->data, object->length};
    code = client->restored
               ? take_restored(client, source->table, &snapshot->key, &state, hydration->shared,
                               hydration->report)
               : take_row(client, source->table, &snapshot->key, &state, hydration->report);
    if (code != ROWSYNC_OK || hydration->targets[number].plain)
        return code;
    if ((seen = rs_keyed(client, SQL_SEEN_PUT, source->table, &snapshot->key)) == NULL)
        return client->code;
    return rs_finish(client, seen, "noting a row of the snapshot");
}

/* Takes a row of the stream. */
static rowsync_code
take_snapshot_row(void *context, Snapshot *snapshot, int number, int64_t version)
{
    Hydration *hydration = context;
    bool inserted = false;
    rowsync_code code = ROWSYNC_OK;

    if (hydration->targets[number].plain)
        code = insert_row(hydration, snapshot, number, version, &inserted);
    if (code == ROWSYNC_OK && !inserted)
        code = take_in(hydration, snapshot, number, version);
    if (code == ROWSYNC_OK && snapshot->rows % 1000 == 0)
        code = rs_progress(hydration->client, "hydrate", snapshot->rows, 0);
    return code;
}

/* The place of the table in the snapshot; -1 where the server does not sync it. */
static int
place_of(const Snapshot *snapshot, const Table *table)
{
    int i;

    for (i = snapshot->table_count - 1; i >= 0 && snapshot->tables[i].table != table; i--)
        ;
    return i;
}

/* Sees to a row that the snapshot did not have, and that a restored server may have lost. */
static rowsync_code
settle_lost(const Hydration *hydration, Table *table, const Key *key)
{
    int64_t version, shared = hydration->shared;
    bool deleted;

    if (row_version(hydration->client, table, key, &version, &deleted) != ROWSYNC_OK ||
        (shared < INT64_MAX && version <= shared))
        return hydration->client->code;
    return take_lost(hydration->client, table, key, shared, deleted);
}

/*
 * Sees to a row that the server does not have any more: it has deleted it, later than whatever is
 * known of it, or held, and before the snapshot was taken. Unless another process has sent or
 * fetched the row since then.
 */
static rowsync_code
settle_gone(const Hydration *hydration, Table *table, const Key *key)
{
    rowsync *client = hydration->client;
    rowsync_report ignored = {0};
    Buffer text = {0};
    RowState gone = {0}, held = {0};
    HeldState state;
    int64_t version;
    bool deleted;

    if (row_version(client, table, key, &version, &deleted) != ROWSYNC_OK || deleted)
        return client->code;
    held_get(client, table, key, &held, &state, &text);
    buffer_free(&text);
    gone.deleted = true;
    gone.version = held.version > version ? held.version : version;
    if (client->code != ROWSYNC_OK || (held.deleted && held.version > version) ||
        (!client->restored && gone.version > hydration->seq))
        return client->code;
    if (gone.version < hydration->seq || gone.version == 0)
        gone.version = hydration->seq;
    else
        gone.version += gone.version < INT64_MAX;
    return take_row(client, table, key, &gone, &ignored);
}

/* Does this to the rows of a table that `sql` gives, by its id and from a key on. */
static rowsync_code
settle_rows(const Hydration *hydration, const Table *table, const char *sql,
            rowsync_code (*settle)(const Hydration *, Table *, const Key *))
{
    rowsync *client = hydration->client;
    sqlite3_stmt *statement = NULL;
    RowList list = {0};
    Key last = {0};
    rowsync_code code = rs_prepare(client, sql, &statement);
    int i;

    if (code == ROWSYNC_OK)
    {
        sqlite3_bind_int64(statement, 1, table->id);
        sqlite3_bind_double(statement, 2, -INFINITY); /* before every key */
    }
    do
    {
        if (code == ROWSYNC_OK)
            code = rows_read(client, statement, &list);
        for (i = 0; i < list.count && code == ROWSYNC_OK; i++)
            code = settle(hydration, list.rows[i].table, &list.rows[i].key);
        if (list.count > 0)
        {
            /* The list's memory is used again while this is bound. */
            Key spare = last;

            last = list.rows[list.count - 1].key;
            list.rows[list.count - 1].key = spare;
            key_bind(statement, 2, &last);
        }
    } while (code == ROWSYNC_OK && list.count > 0);
    sqlite3_finalize(statement);
    rows_free(&list);
    key_free(&last);
    return client->code;
}

#define UNSEEN(rows)                                                                               \
    "SELECT table_id, pk FROM " rows " v WHERE table_id = ?1 AND pk > ?2 AND NOT EXISTS (SELECT"   \
    " 1 FROM temp._sync_seen s WHERE s.table_id = v.table_id AND s.pk = v.pk) ORDER BY pk"         \
    " LIMIT 1000"

/*
 * Sees to the rows that the snapshot did not have. They go, but for those with edits; unless a
 * restored server has lost them, which it has where their version is later than its backup. Those
 * come first: they are edits then, of which nothing goes along with a row of another table
 * unnoticed.
 */
static rowsync_code
settle_unseen(const Hydration *hydration, const Snapshot *snapshot)
{
    static const char versions[] = UNSEEN("main._sync_version"), held[] = UNSEEN("main._sync_held"),
                      edits[] = UNSEEN("main._sync_dirty");
    rowsync *client = hydration->client;
    int i, gone;

    for (gone = !client->restored; gone < 2; gone++)
        for (i = 0; i < client->table_count && client->code == ROWSYNC_OK; i++)
        {
            Table *table = &client->tables[i];
            int place = place_of(snapshot, table);

            /* The server may have stopped to sync it. */
            if (place < 0 || hydration->targets[place].plain)
                continue;
            settle_rows(hydration, table, versions, gone ? settle_gone : settle_lost);
            if (gone && client->code == ROWSYNC_OK)
                settle_rows(hydration, table, held, settle_gone);
            /* Of a row that is new here the server may have taken an edit, unheard, and have
             * deleted it since. */
            if (gone && client->hydrated >= 2 && client->code == ROWSYNC_OK)
                settle_rows(hydration, table, edits, settle_gone);
        }
    return client->code;
}

/* Notes what the snapshot was good for: see enum Refill. */
static rowsync_code
note_refills(rowsync *client, const Snapshot *snapshot)
{
    Buffer sql = {0};
    rowsync_code code;
    int i;

    buffer_text(&sql, "UPDATE main._sync_table SET refill = CASE WHEN table_id IN (0");
    for (i = 0; i < client->table_count; i++)
    {
        const Table *table = &client->tables[i];

        if (place_of(snapshot, table) >= 0)
            continue;
        buffer_printf(&sql, ", %lld", (long long)table->id);
        if (table->exists)
            rs_log(client,
                   "the server syncs no table %s.%s: register it there, or track it with the"
                   " schema that it has",
                   table->schema, table->name);
    }
    buffer_printf(&sql, ") THEN refill | %d ELSE 0 END", REFILL_ABSENT);
    code = sql.failed ? rs_nomem(client) : rs_exec(client, sql.data);
    buffer_free(&sql);
    return code;
}

/* Puts triggers and indexes back. */
static rowsync_code
restore_schema(const Hydration *hydration)
{
    rowsync *client = hydration->client;
    rowsync_code code = triggers_install(client);

    if (code == ROWSYNC_OK && hydration->indexes.length > 0 &&
        (code = rs_progress(client, "index", 0, 0)) == ROWSYNC_OK &&
        (code = rs_exec(client, CACHE_FOR_INDEXES)) == ROWSYNC_OK)
        code = rs_exec(client, hydration->indexes.data);
    return code;
}

/* The stream has come to its good end: settles what only the whole of it tells. */
static rowsync_code
complete(const Hydration *hydration, const Snapshot *snapshot)
{
    rowsync *client = hydration->client;
    rowsync_code code = settle_unseen(hydration, snapshot);
    int i;

    if (code == ROWSYNC_OK && (client->restored || snapshot->epoch >= 0))
        code = note_epoch(client, client->new_epoch, snapshot->epochs);
    if (code == ROWSYNC_OK)
        code = restore_schema(hydration);
    if (code == ROWSYNC_OK)
        code = held_retry(client);
    if (code == ROWSYNC_OK)
        code = take_out_orphans(client);
    if (orphans_stuck(client))
        return rs_fail(client, ROWSYNC_DATABASE, "Sync again.",
                       "Rows of tables that are not tracked hold on to deleted ones.");
    if (code == ROWSYNC_OK)
        code = note_refills(client, snapshot);
    /* Own changes up to there are in it. */
    if (code == ROWSYNC_OK)
        code = note_last_upload(client, snapshot->seq);
    if (code == ROWSYNC_OK)
        code = move_cursor(client, snapshot->seq, 0, 2);
    for (i = 0; i < client->table_count && code == ROWSYNC_OK; i++)
        if ((client->tables[i].refill & REFILL_LATER) != 0)
            code = table_fetch_again(client, &client->tables[i]);
    return code;
}

/*
 * One try: the stream in one transaction. *absent: the gateway has no snapshots. *cut: the stream
 * had begun when something happened to it.
 */
static rowsync_code
hydrate_once(rowsync *client, int max_tries, bool *absent, bool *cut, rowsync_report *report)
{
    Hydration hydration = {.client = client, .report = report};
    Snapshot snapshot = {.client = client,
                         .taker = {&hydration, prepare_targets, take_snapshot_row}};
    rowsync_report before = *report;
    rowsync_code code;

    *absent = false;
    code = rs_exec(client, "CREATE TEMP TABLE IF NOT EXISTS _sync_seen (table_id INTEGER, pk,"
                           " PRIMARY KEY (table_id, pk)) WITHOUT ROWID;"
                           "DELETE FROM temp._sync_seen");
    if (code == ROWSYNC_OK)
        code = snapshot_read(&snapshot, max_tries, absent);
    if (code == ROWSYNC_OK && !*absent)
        code = complete(&hydration, &snapshot);
    *cut = code == ROWSYNC_NETWORK && hydration.begun;
    if (hydration.begun)
        code = rs_end(client, code);
    report->pages += snapshot.rows > 0;
    if (code != ROWSYNC_OK)
        *report = before;
    hydration_free(&hydration);
    snapshot_free(&snapshot);
    sqlite3_exec(client->db, "DELETE FROM temp._sync_seen", NULL, NULL, NULL);
    return code;
}

/*
 * Fills the database from a snapshot, with a cache large enough for the pages that the keys are
 * spread over. A stream that is cut is asked for again.
 */
rowsync_code
hydrate_snapshot(rowsync *client, const rowsync_sync_options *options, bool *absent,
                 rowsync_report *report)
{
    bool cut, cautious;
    rowsync_code code = client->cache_lent
                            ? ROWSYNC_OK
                            : query_int(client, "PRAGMA main.cache_size", 0, &client->cache_size);
    const bool larger = client->cache_size > -CACHE_KIB && client->cache_size < CACHE_KIB / 4;
    int tries;

    if (code != ROWSYNC_OK)
        return code;
    for (tries = 1;; tries++)
    {
        client->cache_lent = true;
        if (larger)
            sqlite3_exec(client->db, CACHE_FOR_ROWS, NULL, NULL, NULL);
        client->code = ROWSYNC_OK;
        cautious = client->cautious;
        code = hydrate_once(client, options->max_tries, absent, &cut, report);
        rs_cache_back(client);
        if (code != ROWSYNC_OK && client->cautious != cautious)
            continue;
        if (!cut || tries >= options->max_tries || rs_wait_again(client, 0, tries) != ROWSYNC_OK)
            break;
    }
    if (code == ROWSYNC_OK)
    {
        client->restored = false;
        code = rs_load_info(client);
    }
    return code;
}
