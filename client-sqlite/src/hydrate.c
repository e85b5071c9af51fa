/*
 * hydrate.c - fills a database from the snapshot stream, in one transaction and constant memory.
 *
 *   {"seq":45,"tables":[{"schema":"s","table":"t","columns":["id","name"]}]}
 *   [0,43,"550e…","Ann"]                     table (its place in the header), version, values
 *   {"end":true,"rows":1}
 *
 * A stream without its last line, or with another number of rows, was cut: everything is rolled
 * back and the app never sees a part. Into an empty database rows are inserted plainly; where there
 * are rows, edits or versions already, each row is taken in as a download would be, and rows that
 * the server does not have any more are removed afterwards.
 */
#include "client.h"

#include <string.h>

#define MAX_LINE (64u << 20)
#define CACHE_KIB 65536

/* A table of the header. */
typedef struct Source
{
    Table *table; /* NULL: not tracked here */
    int *columns; /* for each column of the header that of the table, or -1 */
    Slice *names; /* as in the header, quotes included */
    int count;
    sqlite3_stmt *insert;
} Source;

/* A stream being read. */
typedef struct Reader
{
    rowsync *client;
    rowsync_report *report;
    Buffer rest;   /* the beginning of a line whose end has not come */
    Buffer header; /* kept, for names point into it */
    Source *sources;
    int source_count;
    int64_t seq;
    int64_t rows;
    bool plain; /* the database was empty */
    bool ended;
    Key key;
    Slice *values; /* of the row at hand */
    int value_capacity;
    Buffer object;
} Reader;

static void
reader_free(Reader *reader)
{
    int i;

    for (i = 0; i < reader->source_count; i++)
    {
        sqlite3_finalize(reader->sources[i].insert);
        rs_free(reader->sources[i].columns);
        rs_free(reader->sources[i].names);
    }
    rs_free(reader->sources);
    rs_free(reader->values);
    buffer_free(&reader->rest);
    buffer_free(&reader->header);
    buffer_free(&reader->object);
    key_free(&reader->key);
}

/* The stream is not what it should be. */
static rowsync_code
broken(Reader *reader)
{
    return rs_fail(reader->client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                   "The snapshot has a wrong line after %lld rows.", (long long)reader->rows);
}

/* Prepares the plain insert of a table, its parameters in the header's order. */
static rowsync_code
prepare_insert(rowsync *client, Source *source)
{
    Buffer sql = {0}, values = {0};
    rowsync_code code;
    int i, written = 0;

    /* OR FAIL spares SQLite the journal that it keeps to undo a statement with triggers. */
    buffer_text(&sql, "INSERT OR FAIL INTO main.");
    buffer_name(&sql, source->table->name);
    buffer_text(&sql, " (");
    for (i = 0; i < source->count; i++)
    {
        if (source->columns[i] < 0)
            continue;
        buffer_text(&sql, written > 0 ? ", " : "");
        buffer_name(&sql, source->table->columns[source->columns[i]].name);
        buffer_printf(&values, "%s?%d", written++ > 0 ? ", " : "", i + 1);
    }
    buffer_printf(&sql, ") VALUES (%s)", buffer_string(&values));
    code = sql.failed || values.failed ? rs_nomem(client)
                                       : rs_prepare(client, sql.data, &source->insert);
    buffer_free(&sql);
    buffer_free(&values);
    return code;
}

/* Reads one table of the header. */
static rowsync_code
read_source(Reader *reader, Slice text, Source *source)
{
    static const char *const names[] = {"schema", "table", "columns"};
    rowsync *client = reader->client;
    Slice fields[3], element;
    JsonReader array;
    int i, keys = 0;

    memset(source, 0, sizeof(*source));
    if (!scan_fields(text, names, fields, 3) || fields[1].data == NULL || fields[1].length < 2 ||
        fields[0].data == NULL || fields[0].length < 2 || fields[2].data == NULL)
        return broken(reader);
    array = scan_reader(fields[2]);
    if (!scan_enter(&array, '['))
        return broken(reader);
    while (scan_next_element(&array, source->count == 0, &element))
        source->count++;
    if (!scan_finish(&array) || source->count > 30000)
        return broken(reader);
    source->table = table_by_name(client, (Slice){fields[0].data + 1, fields[0].length - 2},
                                  (Slice){fields[1].data + 1, fields[1].length - 2});
    if (source->table == NULL || !source->table->exists)
    {
        source->table = NULL;
        return ROWSYNC_OK;
    }
    source->columns = rs_realloc(NULL, (size_t)source->count * sizeof(*source->columns));
    source->names = rs_realloc(NULL, (size_t)source->count * sizeof(*source->names));
    if (source->columns == NULL || source->names == NULL)
        return rs_nomem(client);
    array = scan_reader(fields[2]);
    scan_enter(&array, '[');
    for (i = 0; i < source->count && scan_next_element(&array, i == 0, &element); i++)
    {
        int j;

        source->names[i] = element;
        source->columns[i] = -1;
        for (j = 0; j < source->table->column_count; j++)
            if (strlen(source->table->columns[j].member) - 1 == element.length &&
                memcmp(source->table->columns[j].member, element.data, element.length) == 0)
            {
                source->columns[i] = j;
                keys += source->table->columns[j].key;
            }
    }
    if (keys != source->table->key_count)
        return rs_fail(client, ROWSYNC_SCHEMA, "Give it the key that it has on the server.",
                       "The key of \"%s\" is not that of the server.", source->table->name);
    return reader->plain ? prepare_insert(client, source) : ROWSYNC_OK;
}

/* Reads the first line. */
static rowsync_code
read_header(Reader *reader, Slice line)
{
    static const char *const names[] = {"seq", "tables"};
    Slice fields[2], element;
    JsonReader array;
    rowsync_code code = ROWSYNC_OK;
    bool first;

    buffer_append(&reader->header, line.data, line.length);
    if (reader->header.failed)
        return rs_nomem(reader->client);
    if (!scan_fields((Slice){reader->header.data, reader->header.length}, names, fields, 2) ||
        !scan_int64(fields[0], &reader->seq) || reader->seq < 0 || fields[1].data == NULL)
        return broken(reader);
    array = scan_reader(fields[1]);
    if (!scan_enter(&array, '['))
        return broken(reader);
    for (first = true; code == ROWSYNC_OK && scan_next_element(&array, first, &element);
         first = false)
    {
        Source *grown =
            rs_realloc(reader->sources, (size_t)(reader->source_count + 1) * sizeof(*grown));

        if (grown == NULL)
            return rs_nomem(reader->client);
        reader->sources = grown;
        code = read_source(reader, element, &grown[reader->source_count++]);
    }
    return code == ROWSYNC_OK && !scan_finish(&array) ? broken(reader) : code;
}

/* Makes the key of the row at hand. */
static rowsync_code
read_key(Reader *reader, const Source *source)
{
    const Table *table = source->table;
    Slice pk = {0};
    int i, k;

    buffer_clear(&reader->object);
    buffer_byte(&reader->object, '[');
    for (k = 0; k < table->key_count; k++)
        for (i = 0; i < source->count; i++)
            if (source->columns[i] == table->keys[k])
            {
                pk = reader->values[i];
                buffer_text(&reader->object, k > 0 ? "," : "");
                if (table->key_count > 1)
                    buffer_append(&reader->object, pk.data, pk.length);
            }
    buffer_byte(&reader->object, ']');
    if (table->key_count > 1)
        pk = (Slice){reader->object.data, reader->object.length};
    if (reader->object.failed)
        return rs_nomem(reader->client);
    if (key_from_wire(table, pk, &reader->key))
        return ROWSYNC_OK;
    return reader->key.bytes.failed ? rs_nomem(reader->client) : broken(reader);
}

/* Inserts the row at hand into an empty table. *done is false where something is in its way. */
static rowsync_code
insert_row(Reader *reader, Source *source, int64_t version, bool *done)
{
    rowsync *client = reader->client;
    int i, result = SQLITE_OK;

    for (i = 0; i < source->count && result == SQLITE_OK; i++)
        if (source->columns[i] >= 0)
            result = value_bind(source->insert, i + 1, &source->table->columns[source->columns[i]],
                                reader->values[i], &client->scratch);
    if (result == SQLITE_OK)
        result = sqlite3_step(source->insert);
    *done = result == SQLITE_DONE && sqlite3_changes(client->db) > 0;
    if (sqlite3_get_autocommit(client->db))
        rs_fail(client, ROWSYNC_DATABASE,
                "Use RAISE(ABORT) and ON CONFLICT ABORT in tracked tables, not ROLLBACK.",
                "A constraint or trigger of \"%s\" ended the transaction of the sync.",
                source->table->name);
    else if (!*done && result != SQLITE_DONE && (result & 0xFF) != SQLITE_CONSTRAINT)
        rs_fail_sqlite(client, "storing a row of the snapshot");
    sqlite3_reset(source->insert);
    if (client->code != ROWSYNC_OK || !*done)
        return client->code;
    reader->report->downloaded++;
    return row_set_version(client, source->table, &reader->key, version, false);
}

/*
 * A row of a server that was restored from a backup. Versions above the server's are of the log
 * that is gone: what the device has is newer and is sent again. Below, equal numbers may mean other
 * content, so the server's is taken.
 */
static rowsync_code
take_restored(rowsync *client, Table *table, const Key *key, const RowState *state,
              rowsync_report *report)
{
    int64_t version;
    bool deleted, edited, refused;

    if (row_version(client, table, key, &version, &deleted) != ROWSYNC_OK ||
        has_edits(client, table, key, &edited) != ROWSYNC_OK)
        return client->code;
    if (version > state->version)
    {
        if (row_drop(client, SQL_VERSION_DROP, table, key) != ROWSYNC_OK ||
            row_set_version(client, table, key, state->version, false) != ROWSYNC_OK)
            return client->code;
        return queue_again(client, table, key, state->version);
    }
    if (edited)
        return version < state->version ? conflict_meet(client, table, key, state) : ROWSYNC_OK;
    report->downloaded += version < state->version;
    if (row_put(client, table, key, state, &refused) != ROWSYNC_OK || !refused)
        return client->code;
    return conflict_hold(client, table, key, state, 2);
}

/* Takes the row at hand in as a download would be. */
static rowsync_code
take_in(Reader *reader, Source *source, int64_t version)
{
    RowState state = {version, false, {0}};
    Buffer *object = &reader->object;
    sqlite3_stmt *seen;
    rowsync_code code;
    int i;

    buffer_clear(object);
    for (i = 0; i < source->count; i++)
    {
        buffer_byte(object, i > 0 ? ',' : '{');
        buffer_append(object, source->names[i].data, source->names[i].length);
        buffer_byte(object, ':');
        buffer_append(object, reader->values[i].data, reader->values[i].length);
    }
    buffer_byte(object, '}');
    if (object->failed)
        return rs_nomem(reader->client);
    state.payload = (Slice){object->data, object->length};
    code = (reader->client->new_epoch != 0 ? take_restored : take_row)(
        reader->client, source->table, &reader->key, &state, reader->report);
    if (code != ROWSYNC_OK || reader->plain)
        return code;
    if ((seen = rs_statement(reader->client, SQL_SEEN_PUT)) == NULL)
        return reader->client->code;
    sqlite3_bind_int64(seen, 1, source->table->id);
    key_bind(seen, 2, &reader->key);
    return rs_finish(reader->client, seen, "noting a row of the snapshot");
}

/* Reads the line of a row. */
static rowsync_code
read_row(Reader *reader, Slice line)
{
    JsonReader array = scan_reader(line);
    Slice element;
    int64_t number, version;
    Source *source;
    bool inserted = false;
    rowsync_code code;
    int i;

    if (!scan_enter(&array, '[') || !scan_next_element(&array, true, &element) ||
        !scan_int64(element, &number) || number < 0 || number >= reader->source_count ||
        !scan_next_element(&array, false, &element) || !scan_int64(element, &version) ||
        version <= 0)
        return broken(reader);
    source = &reader->sources[number];
    reader->rows++;
    if (source->count > reader->value_capacity)
    {
        Slice *grown = rs_realloc(reader->values, (size_t)source->count * sizeof(*grown));

        if (grown == NULL)
            return rs_nomem(reader->client);
        reader->values = grown;
        reader->value_capacity = source->count;
    }
    for (i = 0; i < source->count; i++)
        if (!scan_next_element(&array, false, &reader->values[i]))
            return broken(reader);
    if (scan_next_element(&array, false, &element) || !scan_finish(&array))
        return broken(reader);
    if (source->table == NULL)
        return ROWSYNC_OK;
    if ((code = read_key(reader, source)) != ROWSYNC_OK)
        return code;
    if (reader->plain)
        code = insert_row(reader, source, version, &inserted);
    if (code == ROWSYNC_OK && !inserted)
        code = take_in(reader, source, version);
    if (code == ROWSYNC_OK && reader->rows % 1000 == 0)
        code = rs_progress(reader->client, "hydrate", reader->rows, 0);
    return code;
}

/* Reads one line. */
static rowsync_code
read_line(Reader *reader, Slice line)
{
    static const char *const names[] = {"end", "rows"};
    Slice fields[2];
    int64_t rows;

    if (reader->ended)
        return broken(reader);
    if (reader->header.length == 0)
        return read_header(reader, line);
    if (line.length > 0 && line.data[0] == '[')
        return read_row(reader, line);
    if (!scan_fields(line, names, fields, 2) || !slice_is(fields[0], "true") ||
        !scan_int64(fields[1], &rows) || rows != reader->rows)
        return broken(reader);
    reader->ended = true;
    return ROWSYNC_OK;
}

/* Takes a piece of the stream: reads the lines that it completes. */
static int
take_piece(void *context, const char *data, size_t length)
{
    Reader *reader = context;
    const char *end;

    while (length > 0 && (end = memchr(data, '\n', length)) != NULL)
    {
        size_t size = (size_t)(end - data);
        rowsync_code code;

        if (reader->rest.length > 0)
        {
            buffer_append(&reader->rest, data, size);
            code = reader->rest.failed
                       ? rs_nomem(reader->client)
                       : read_line(reader, (Slice){reader->rest.data, reader->rest.length});
            buffer_clear(&reader->rest);
        }
        else
            code = read_line(reader, (Slice){data, size});
        if (code != ROWSYNC_OK)
            return 1;
        data = end + 1;
        length -= size + 1;
    }
    if (reader->rest.length + length > MAX_LINE)
    {
        broken(reader);
        return 1;
    }
    buffer_append(&reader->rest, data, length);
    if (reader->rest.failed)
        rs_nomem(reader->client);
    return reader->rest.failed;
}

/* One number of a query that has one. */
static rowsync_code
query_int(rowsync *client, const char *sql, int64_t *out)
{
    sqlite3_stmt *statement = NULL;
    rowsync_code code = rs_prepare(client, sql, &statement);

    if (code == ROWSYNC_OK && sqlite3_step(statement) == SQLITE_ROW)
        *out = sqlite3_column_int64(statement, 0);
    else if (code == ROWSYNC_OK)
        code = rs_fail_sqlite(client, "looking at the database");
    sqlite3_finalize(statement);
    return code;
}

/* Is the table one that the snapshot had? The server may have stopped to sync others. */
static bool
had_table(const Reader *reader, const Table *table)
{
    int i;

    for (i = 0; i < reader->source_count; i++)
        if (reader->sources[i].table == table)
            return true;
    return false;
}

/*
 * Removes the rows that the snapshot did not have, but for those with edits. A server that was
 * restored has lost them: they are sent as new.
 */
static rowsync_code
remove_unseen(Reader *reader)
{
    rowsync *client = reader->client;
    sqlite3_stmt *statement = NULL;
    rowsync_report ignored = {0};
    Key key = {0};
    rowsync_code code = rs_prepare(client,
                                   "SELECT table_id, pk, server_version FROM _sync_version v WHERE"
                                   " NOT deleted AND NOT EXISTS (SELECT 1 FROM temp._sync_seen s"
                                   " WHERE s.table_id = v.table_id AND s.pk = v.pk)",
                                   &statement);

    while (code == ROWSYNC_OK && sqlite3_step(statement) == SQLITE_ROW)
    {
        RowState gone = {sqlite3_column_int64(statement, 2) + 1, true, {0}};
        Table *table = table_by_id(client, sqlite3_column_int64(statement, 0));

        if (table == NULL || !had_table(reader, table))
            continue;
        if ((code = key_column(client, statement, 1, &key)) != ROWSYNC_OK)
            continue;
        if (client->new_epoch == 0)
            code = take_row(client, table, &key, &gone, &ignored);
        else if ((code = row_drop(client, SQL_VERSION_DROP, table, &key)) == ROWSYNC_OK)
            code = queue_again(client, table, &key, 0);
    }
    sqlite3_finalize(statement);
    key_free(&key);
    return code;
}

/* One try: the stream in one transaction. *absent: the gateway has no snapshots. */
static rowsync_code
hydrate_once(rowsync *client, bool *absent, rowsync_report *report)
{
    Reader reader = {.client = client, .report = report};
    Exchange answer = {.stream = take_piece, .stream_context = &reader};
    rowsync_report before = *report;
    int64_t used = 0;
    rowsync_code code;

    *absent = false;
    code = rs_exec(client, "CREATE TEMP TABLE IF NOT EXISTS _sync_seen (table_id INTEGER, pk,"
                           " PRIMARY KEY (table_id, pk)) WITHOUT ROWID;"
                           "DELETE FROM temp._sync_seen");
    if (code == ROWSYNC_OK && (code = rs_begin(client)) == ROWSYNC_OK)
    {
        code = query_int(client,
                         "SELECT EXISTS (SELECT 1 FROM _sync_version) OR EXISTS (SELECT 1"
                         " FROM _sync_dirty) OR EXISTS (SELECT 1 FROM _sync_rejected)",
                         &used);
        reader.plain = used == 0;
        /* What was kept of the log that is gone would pass for newer than anything of this one. */
        if (code == ROWSYNC_OK && client->new_epoch != 0)
            code = rs_exec(client, "DELETE FROM _sync_held WHERE state <> 1");
        if (code == ROWSYNC_OK)
        {
            /* What the sink met is the reason, not that it broke off. */
            rowsync_code sent = rs_request(client, "GET", "/sync/snapshot", NULL, 1, &answer);

            code = client->code != ROWSYNC_OK ? client->code : sent;
        }
        if (code == ROWSYNC_OK && answer.status != 200)
            *absent = true;
        else if (code == ROWSYNC_OK && (!reader.ended || reader.rest.length > 0))
            code = rs_fail(client, ROWSYNC_NETWORK, "Sync again; nothing was changed.",
                           "The snapshot was cut off after %lld rows.", (long long)reader.rows);
        if (code == ROWSYNC_OK && !*absent)
        {
            if (!reader.plain)
                code = remove_unseen(&reader);
            if (code == ROWSYNC_OK && client->new_epoch != 0)
                code = note_epoch(client, client->new_epoch);
            if (code == ROWSYNC_OK)
                code = held_retry(client);
            if (code == ROWSYNC_OK)
                code = take_out_orphans(client);
            if (code == ROWSYNC_OK)
                code = move_cursor(client, reader.seq, 0, 2);
            report->pages += reader.rows > 0;
        }
        code = rs_end(client, code);
    }
    if (code != ROWSYNC_OK)
        *report = before;
    reader_free(&reader);
    buffer_free(&answer.body);
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
    Buffer restore = {0};
    int64_t cache = 0;
    rowsync_code code = query_int(client, "PRAGMA main.cache_size", &cache);
    int tries;

    if (code != ROWSYNC_OK)
        return code;
    buffer_printf(&restore, "PRAGMA main.cache_size = %lld", (long long)cache);
    if (restore.failed)
        return rs_nomem(client);
    if (cache > -CACHE_KIB && cache < CACHE_KIB / 4)
        sqlite3_exec(client->db, "PRAGMA main.cache_size = -65536", NULL, NULL, NULL);
    for (tries = 1;; tries++)
    {
        client->code = ROWSYNC_OK;
        code = hydrate_once(client, absent, report);
        if ((code != ROWSYNC_NETWORK && code != ROWSYNC_UNAVAILABLE) ||
            tries >= options->max_tries || rs_pause(client, tries) != ROWSYNC_OK)
            break;
    }
    sqlite3_exec(client->db, restore.data, NULL, NULL, NULL);
    buffer_free(&restore);
    if (code == ROWSYNC_OK)
    {
        client->new_epoch = 0;
        code = rs_load_info(client);
    }
    return code;
}
