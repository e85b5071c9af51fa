/*
 * snapshot.c - the snapshot stream: one JSON text a line, read as it comes.
 *
 *   {"seq":45,"epochs":[],"tables":[{"schema":"s","table":"t","key":["id"],"columns":["id","name"]}]}
 *   [0,43,"550e…","Ann"]                     table (its place in the header), version, values
 *   {"end":true,"rows":1,"digest":"…"}
 *
 * A stream without its last line was cut; one whose rows are not those that the last line counts
 * and digests is damaged. Either is an error, and whoever took the rows takes them back.
 */
#include "snapshot.h"

#include <string.h>

#define MAX_LINE (64u << 20)
#define MAX_COLUMNS 30000

void
snapshot_free(Snapshot *snapshot)
{
    int i;

    for (i = 0; i < snapshot->table_count; i++)
    {
        rs_free(snapshot->tables[i].names);
        rs_free(snapshot->tables[i].columns);
        rs_free(snapshot->tables[i].keys);
        buffer_free(&snapshot->tables[i].digest_name);
    }
    rs_free(snapshot->tables);
    rs_free(snapshot->values);
    buffer_free(&snapshot->rest);
    buffer_free(&snapshot->header);
    buffer_free(&snapshot->text);
    digest_free(&snapshot->digest);
    key_free(&snapshot->key);
}

/* The stream is not what it should be. */
static rowsync_code
broken(Snapshot *snapshot)
{
    return rs_fail(snapshot->client, ROWSYNC_PROTOCOL, "Is the URL that of a rowsync gateway?",
                   "The snapshot has a wrong line after row %lld.", (long long)snapshot->rows);
}

/* The string between its quotes. */
static Slice
unquoted(Slice string)
{
    return (Slice){string.data + 1, string.length - 2};
}

/*
 * Reads an array of strings, each a slice with its quotes, into memory that the caller owns.
 * *count is -1 where it is no such array.
 */
static rowsync_code
read_names(rowsync *client, Slice text, Slice **names, int *count)
{
    JsonReader array = scan_reader(text);
    Slice element;
    int i;

    *count = 0;
    if (!scan_enter(&array, '['))
        *count = -1;
    while (*count >= 0 && scan_next_element(&array, *count == 0, &element))
        *count = element.data[0] == '"' && *count < MAX_COLUMNS ? *count + 1 : -1;
    if (*count < 0 || !scan_finish(&array))
    {
        *count = -1;
        return ROWSYNC_OK;
    }
    *names = rs_realloc(NULL, (size_t)*count * sizeof(**names));
    if (*names == NULL)
        return rs_nomem(client);
    array = scan_reader(text);
    scan_enter(&array, '[');
    for (i = 0; i < *count; i++)
        scan_next_element(&array, i == 0, &(*names)[i]);
    return ROWSYNC_OK;
}

/* Finds out which columns of the stream are those of the table here. */
static rowsync_code
match_columns(rowsync *client, SnapshotTable *source)
{
    const Table *table = source->table;
    int i, j, keys = 0;

    for (i = 0; i < source->count; i++)
    {
        source->columns[i] = -1;
        for (j = 0; j < table->column_count; j++)
            if (strlen(table->columns[j].member) - 1 == source->names[i].length &&
                memcmp(table->columns[j].member, source->names[i].data, source->names[i].length) ==
                    0)
                source->columns[i] = j;
    }
    for (i = 0; i < source->key_count && source->key_count == table->key_count; i++)
        keys += source->columns[source->keys[i]] == table->keys[i];
    if (keys != table->key_count)
    {
        Buffer key = {0};

        for (i = 0; i < source->key_count; i++)
        {
            buffer_text(&key, i > 0 ? ", " : "");
            buffer_append(&key, source->names[source->keys[i]].data,
                          source->names[source->keys[i]].length);
        }
        rs_fail(client, ROWSYNC_SCHEMA, "Give it the key that it has on the server.",
                "The key of \"%s\" is not that of the server, which is (%.300s).", table->name,
                buffer_string(&key));
        buffer_free(&key);
        return client->code;
    }
    return ROWSYNC_OK;
}

/* Reads one table of the header. */
static rowsync_code
read_table(Snapshot *snapshot, Slice text, SnapshotTable *source)
{
    static const char *const names[] = {"schema", "table", "key", "columns"};
    rowsync *client = snapshot->client;
    Slice fields[4], *keys = NULL;
    int i, j, found = 0;
    rowsync_code code;

    memset(source, 0, sizeof(*source));
    if (!scan_fields(text, names, fields, 4) || fields[0].data == NULL ||
        fields[0].data[0] != '"' || fields[1].data == NULL || fields[1].data[0] != '"' ||
        fields[2].data == NULL || fields[3].data == NULL)
        return broken(snapshot);
    if ((code = read_names(client, fields[3], &source->names, &source->count)) != ROWSYNC_OK ||
        (code = read_names(client, fields[2], &keys, &source->key_count)) != ROWSYNC_OK)
        return code;
    if (source->count <= 0 || source->key_count <= 0)
    {
        rs_free(keys);
        return broken(snapshot);
    }
    source->columns = rs_realloc(NULL, (size_t)source->count * sizeof(*source->columns));
    source->keys = rs_realloc(NULL, (size_t)source->key_count * sizeof(*source->keys));
    for (i = 0; source->keys != NULL && i < source->key_count; i++)
        for (j = 0; j < source->count; j++)
            if (slice_same(source->names[j], keys[i]))
            {
                source->keys[i] = j;
                found++;
                break;
            }
    rs_free(keys);
    /* Names with escapes are digested as they are meant. */
    buffer_clear(&snapshot->text);
    if (scan_string(fields[0], &snapshot->text))
    {
        size_t schema = snapshot->text.length;

        if (scan_string(fields[1], &snapshot->text))
            digest_table(&source->digest_name, (Slice){snapshot->text.data, schema},
                         (Slice){snapshot->text.data + schema, snapshot->text.length - schema});
    }
    if (source->columns == NULL || source->keys == NULL || source->digest_name.failed ||
        source->digest_name.length == 0)
        return rs_nomem(client);
    if (found != source->key_count)
        return broken(snapshot);
    source->table = table_by_name(client, fields[0], fields[1]);
    if (source->table != NULL && !source->table->exists)
        source->table = NULL;
    return source->table != NULL ? match_columns(client, source) : ROWSYNC_OK;
}

/* Reads the next [epoch, head] of a list; false at its end, or where there is something else. */
static bool
next_epoch(JsonReader *list, bool first, int64_t *epoch, int64_t *head)
{
    Slice element;
    JsonReader pair;

    if (!scan_next_element(list, first, &element))
        return false;
    pair = scan_reader(element);
    return scan_enter(&pair, '[') && scan_next_element(&pair, true, &element) &&
           scan_int64(element, epoch) && *epoch > 0 && scan_next_element(&pair, false, &element) &&
           scan_int64(element, head) && *head >= 0 && !scan_next_element(&pair, false, &element) &&
           scan_finish(&pair);
}

/* Reads the epochs of the server's log, of which the last one is the present. */
static bool
read_epochs(Snapshot *snapshot)
{
    JsonReader list = scan_reader(snapshot->epochs);
    int64_t head;
    bool first;

    snapshot->epoch = snapshot->epochs.data != NULL ? 0 : -1;
    if (snapshot->epochs.data == NULL)
        return true;
    if (!scan_enter(&list, '['))
        return false;
    for (first = true; next_epoch(&list, first, &snapshot->epoch, &head); first = false)
        ;
    return scan_finish(&list);
}

/*
 * Of a server that was restored from a backup: up to where its log is the one that was read here.
 * That is where the first restore began of those that only one of the two has seen. INT64_MAX where
 * the snapshot does not tell, 0 where the log was begun anew. Epochs count up: where only the last
 * one is known here, those up to it are common.
 */
int64_t
snapshot_shared(const Snapshot *snapshot)
{
    const rowsync *client = snapshot->client;
    bool told = client->epochs != NULL && client->epochs[0] != '\0';
    JsonReader mine =
        scan_reader((Slice){told ? client->epochs : "", told ? strlen(client->epochs) : 0});
    JsonReader theirs = scan_reader(snapshot->epochs);
    bool mine_left = told && scan_enter(&mine, '['), theirs_left = scan_enter(&theirs, '[');
    int64_t my_epoch, my_head, their_epoch, their_head, shared = INT64_MAX;
    bool first, common = true;

    if (snapshot->epoch <= 0)
        return snapshot->epoch < 0 ? INT64_MAX : 0;
    for (first = true; mine_left || theirs_left; first = false)
    {
        mine_left = mine_left && next_epoch(&mine, first, &my_epoch, &my_head);
        theirs_left = theirs_left && next_epoch(&theirs, first, &their_epoch, &their_head);
        common = common && theirs_left &&
                 (told ? mine_left && my_epoch == their_epoch : their_epoch <= client->epoch);
        if (!common && mine_left && my_head < shared)
            shared = my_head;
        if (!common && theirs_left && their_head < shared)
            shared = their_head;
    }
    return shared;
}

/* Reads the first line. */
static rowsync_code
read_header(Snapshot *snapshot, Slice line)
{
    static const char *const names[] = {"seq", "tables", "epochs"};
    Slice fields[3], element;
    JsonReader array;
    rowsync_code code = ROWSYNC_OK;
    bool first;

    buffer_append(&snapshot->header, line.data, line.length);
    if (snapshot->header.failed)
        return rs_nomem(snapshot->client);
    if (!scan_fields((Slice){snapshot->header.data, snapshot->header.length}, names, fields, 3) ||
        !scan_int64(fields[0], &snapshot->seq) || snapshot->seq < 0 || fields[1].data == NULL)
        return broken(snapshot);
    snapshot->epochs = fields[2];
    if (!read_epochs(snapshot))
        return broken(snapshot);
    array = scan_reader(fields[1]);
    if (!scan_enter(&array, '['))
        return broken(snapshot);
    for (first = true; code == ROWSYNC_OK && scan_next_element(&array, first, &element);
         first = false)
    {
        SnapshotTable *grown =
            rs_realloc(snapshot->tables, (size_t)(snapshot->table_count + 1) * sizeof(*grown));

        if (grown == NULL)
            return rs_nomem(snapshot->client);
        snapshot->tables = grown;
        code = read_table(snapshot, element, &grown[snapshot->table_count++]);
    }
    if (code == ROWSYNC_OK && !scan_finish(&array))
        return broken(snapshot);
    return code == ROWSYNC_OK ? snapshot->taker.header(snapshot->taker.context, snapshot) : code;
}

/*
 * The key of the row at hand as it stands in `pk` of a change, quotes included where it has some;
 * no slice when out of memory. Valid until the next row.
 */
static Slice
row_key(Snapshot *snapshot, const SnapshotTable *source)
{
    Buffer *text = &snapshot->text;
    int i;

    if (source->key_count == 1)
        return snapshot->values[source->keys[0]];
    buffer_clear(text);
    for (i = 0; i < source->key_count; i++)
    {
        Slice part = snapshot->values[source->keys[i]];

        buffer_byte(text, i > 0 ? ',' : '[');
        buffer_append(text, part.data, part.length);
    }
    buffer_byte(text, ']');
    return (Slice){text->failed ? NULL : text->data, text->length};
}

/* Adds the row at hand to the digest. */
static void
digest_row(Snapshot *snapshot, const SnapshotTable *source, Slice key, int64_t version)
{
    Slice name = {source->digest_name.data, source->digest_name.length};

    if (source->key_count == 1 && key.data[0] == '"')
    {
        if (memchr(key.data, '\\', key.length) != NULL)
        {
            buffer_clear(&snapshot->text);
            scan_string(key, &snapshot->text);
            snapshot->digest.failed |= snapshot->text.failed;
            key = (Slice){buffer_string(&snapshot->text), snapshot->text.length};
        }
        else
            key = unquoted(key);
    }
    digest_add(&snapshot->digest, name, key, version);
}

/* Makes room for the values of a row. */
static bool
reserve_values(Snapshot *snapshot, int count)
{
    Slice *grown;

    if (count <= snapshot->value_capacity)
        return true;
    grown = rs_realloc(snapshot->values, (size_t)count * sizeof(*grown));
    if (grown == NULL)
        return false;
    snapshot->values = grown;
    snapshot->value_capacity = count;
    return true;
}

/* Reads the line of a row. */
static rowsync_code
read_row(Snapshot *snapshot, Slice line)
{
    JsonReader array = scan_reader(line);
    Slice element, key;
    int64_t number, version;
    const SnapshotTable *source;
    int i;

    if (!scan_enter(&array, '[') || !scan_next_element(&array, true, &element) ||
        !scan_int64(element, &number) || number < 0 || number >= snapshot->table_count ||
        !scan_next_element(&array, false, &element) || !scan_int64(element, &version) ||
        version <= 0)
        return broken(snapshot);
    source = &snapshot->tables[number];
    if (!reserve_values(snapshot, source->count))
        return rs_nomem(snapshot->client);
    for (i = 0; i < source->count; i++)
        if (!scan_next_element(&array, false, &snapshot->values[i]))
            return broken(snapshot);
    if (scan_next_element(&array, false, &element) || !scan_finish(&array))
        return broken(snapshot);
    key = row_key(snapshot, source);
    if (key.data == NULL)
        return rs_nomem(snapshot->client);
    if (source->table != NULL && !key_from_wire(source->table, key, &snapshot->key))
        return snapshot->key.bytes.failed ? rs_nomem(snapshot->client) : broken(snapshot);
    digest_row(snapshot, source, key, version);
    if (snapshot->digest.failed)
        return rs_nomem(snapshot->client);
    snapshot->rows++;
    return source->table != NULL
               ? snapshot->taker.row(snapshot->taker.context, snapshot, (int)number, version)
               : ROWSYNC_OK;
}

/* Reads the last line and compares what it says with what was read. */
static rowsync_code
read_end(Snapshot *snapshot, Slice line)
{
    static const char *const names[] = {"end", "rows", "digest"};
    char digest[DIGEST_DIGITS + 1];
    Slice fields[3];
    int64_t rows;

    if (!scan_fields(line, names, fields, 3) || fields[0].data == NULL ||
        !slice_is(fields[0], "true") || !scan_int64(fields[1], &rows) || rows != snapshot->rows ||
        fields[2].data == NULL || fields[2].data[0] != '"')
        return broken(snapshot);
    digest_text(&snapshot->digest, digest);
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (!slice_is(unquoted(fields[2]), digest))
        return rs_fail(snapshot->client, ROWSYNC_NETWORK, "Sync again; nothing was changed.",
                       "The snapshot was damaged on its way: rows %lld, digest %s, not "
                       "%.*s.",
                       (long long)rows, digest, (int)(fields[2].length - 2) % 64,
                       fields[2].data + 1);
#endif
    snapshot->ended = true;
    return ROWSYNC_OK;
}

/* Reads one line. */
static rowsync_code
read_line(Snapshot *snapshot, Slice line)
{
    if (snapshot->ended)
        return broken(snapshot);
    if (snapshot->header.length == 0)
        return read_header(snapshot, line);
    if (line.length > 0 && line.data[0] == '[')
        return read_row(snapshot, line);
    return read_end(snapshot, line);
}

/* Takes a piece of the stream: reads the lines that it completes. */
static int
take_piece(void *context, const char *data, size_t length)
{
    Snapshot *snapshot = context;
    Buffer *rest = &snapshot->rest;
    const char *end;

    while (length > 0 && (end = memchr(data, '\n', length)) != NULL)
    {
        size_t size = (size_t)(end - data);
        rowsync_code code;

        if (rest->length > 0)
        {
            buffer_append(rest, data, size);
            code = rest->failed ? rs_nomem(snapshot->client)
                                : read_line(snapshot, (Slice){rest->data, rest->length});
            buffer_clear(rest);
        }
        else
            code = read_line(snapshot, (Slice){data, size});
        if (code != ROWSYNC_OK)
            return 1;
        data = end + 1;
        length -= size + 1;
    }
    if (rest->length + length > MAX_LINE)
    {
        broken(snapshot);
        return 1;
    }
    buffer_append(rest, data, length);
    if (rest->failed)
        rs_nomem(snapshot->client);
    return rest->failed;
}

/*
 * Asks for a snapshot and reads it to its end. `client` and `taker` are set, everything else is
 * zero; the caller frees it, also after a failure, and takes back what it took of a stream that
 * broke. *absent: the gateway has no snapshots.
 */
rowsync_code
snapshot_read(Snapshot *snapshot, int max_tries, bool *absent)
{
    rowsync *client = snapshot->client;
    Exchange answer = {.stream = take_piece, .stream_context = snapshot};
    Buffer path = {0};
    rowsync_code code;

    *absent = false;
    digest_start(&snapshot->digest);
    if (snapshot->digest.failed)
        return rs_nomem(client);
    buffer_printf(&path, "/sync/snapshot?seen=%lld", (long long)client->cursor);
    code = path.failed ? rs_nomem(client)
                       : rs_request(client, "GET", path.data, NULL, max_tries, &answer);
    buffer_free(&path);
    buffer_free(&answer.body);
    if (code == ROWSYNC_OK && answer.status != 200)
        *absent = true;
    else if (code == ROWSYNC_OK && (!snapshot->ended || snapshot->rest.length > 0))
        code = rs_fail(client, ROWSYNC_NETWORK, "Sync again; nothing was changed.",
                       "The snapshot was cut off after row %lld.", (long long)snapshot->rows);
    return code;
}
