/*
 * hydrate.c - fills a new device from a gateway, and does the floor of it.
 *
 *     hydrate device FILE SCHEMA URL USER     token in ROWSYNC_TOKEN
 *     hydrate floor FILE FROM CACHE           CACHE in KiB
 *
 * SCHEMA is a file with the device's tables. The floor puts the rows of FROM, a device that was
 * filled, into a new file by prepared inserts, each with its version, in one transaction; it has
 * them all in memory before the clock starts.
 */
#include "client.h"

static const char *const tables[] = {"users", "posts"};
static const char *const selects[] = {
    "SELECT * FROM users ORDER BY id",
    "SELECT * FROM posts ORDER BY id",
};
static const char *const inserts[] = {
    "INSERT INTO users VALUES (?1, ?2, ?3, ?4, ?5)",
    "INSERT INTO posts VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
};
#define TABLES 2
#define COLUMNS 6

/* A row in memory. */
typedef struct Row
{
    int table;
    int64_t version;
    int64_t numbers[COLUMNS];
    char *texts[COLUMNS]; /* NULL where it is a number */
    int lengths[COLUMNS];
} Row;

/* Peak resident memory in bytes. Not by getrusage(), which counts what ran before exec(). */
static long
peak(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long kilobytes = 0;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "VmHWM: %ld", &kilobytes) == 1)
            break;
    if (file != NULL)
        fclose(file);
    return kilobytes * 1024;
}

/* When something began, by both clocks. */
typedef struct Begin
{
    double clock, cpu;
} Begin;

static Begin
begin(void)
{
    return (Begin){now(CLOCK_MONOTONIC), now(CPU)};
}

/* Prints how long that is ago. */
static void
finish(Begin begun, int64_t rows)
{
    printf("{\"rows\": %lld, \"took\": %.9f, \"cpu\": %.9f, \"peak\": %ld}\n", (long long)rows,
           now(CLOCK_MONOTONIC) - begun.clock, now(CPU) - begun.cpu, peak());
}

static sqlite3 *
open_file(const char *path)
{
    sqlite3 *db;

    if (sqlite3_open(path, &db) != SQLITE_OK)
        die("%s: %s", path, sqlite3_errmsg(db));
    run(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON");
    return db;
}

/* Runs a file of SQL. */
static void
load(sqlite3 *db, const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = calloc(1, 1 << 20);

    if (file == NULL || text == NULL || fread(text, 1, (1 << 20) - 1, file) == 0)
        die("%s cannot be read", path);
    fclose(file);
    run(db, text);
    free(text);
}

/* Fills a new device and prints how long it took. */
static void
device(const char *path, const char *schema, const char *url, const char *user)
{
    rowsync_track_options options = {"business", ROWSYNC_KEEP_POLICY, NULL};
    rowsync_report report = {0};
    rowsync *client;
    sqlite3 *db = open_file(path);
    Begin begun;
    int i;

    load(db, schema);
    if (rowsync_open(db, NULL, &client) == ROWSYNC_NOMEM)
        die("out of memory");
    need(client, rowsync_init(client));
    for (i = 0; i < TABLES; i++)
        need(client, rowsync_track(client, tables[i], &options));
    need(client, rowsync_attach(client, url, user, "tablet"));
    need(client, rowsync_set_token(client, getenv("ROWSYNC_TOKEN")));
    begun = begin();
    need(client, rowsync_hydrate(client, NULL, &report));
    finish(begun, report.downloaded);
    rowsync_close(client);
    sqlite3_close(db);
}

/* Creates in `db` the tables and indexes that `from` has, without its triggers and views. */
static void
copy_schema(sqlite3 *from, sqlite3 *db)
{
    sqlite3_stmt *schema = prepare(from, "SELECT sql FROM sqlite_schema WHERE type IN ('table',"
                                         " 'index') AND sql IS NOT NULL ORDER BY type DESC");

    while (sqlite3_step(schema) == SQLITE_ROW)
        run(db, (const char *)sqlite3_column_text(schema, 0));
    sqlite3_finalize(schema);
}

/* Reads all rows, in the order in which a snapshot has them. */
static Row *
read_rows(sqlite3 *from, int *count)
{
    sqlite3_stmt *version =
        prepare(from, "SELECT server_version FROM _sync_version WHERE table_id ="
                      " (SELECT table_id FROM _sync_table WHERE table_name = ?1) AND pk = ?2");
    Row *rows = NULL;
    int i, t, capacity = 0;

    *count = 0;
    for (t = 0; t < TABLES; t++)
    {
        sqlite3_stmt *select = prepare(from, selects[t]);

        while (sqlite3_step(select) == SQLITE_ROW)
        {
            Row *row;

            if (*count == capacity)
            {
                capacity = capacity > 0 ? capacity * 2 : 1024;
                rows = realloc(rows, (size_t)capacity * sizeof(*rows));
                if (rows == NULL)
                    die("out of memory");
            }
            row = &rows[(*count)++];
            memset(row, 0, sizeof(*row));
            row->table = t;
            for (i = 0; i < sqlite3_column_count(select); i++)
            {
                row->lengths[i] = sqlite3_column_bytes(select, i);
                if (sqlite3_column_type(select, i) == SQLITE_INTEGER)
                    row->numbers[i] = sqlite3_column_int64(select, i);
                else
                    row->texts[i] = strdup((const char *)sqlite3_column_text(select, i));
            }
            sqlite3_bind_text(version, 1, tables[t], -1, SQLITE_STATIC);
            sqlite3_bind_text(version, 2, row->texts[0], -1, SQLITE_STATIC);
            if (sqlite3_step(version) != SQLITE_ROW)
                die("a row has no version");
            row->version = sqlite3_column_int64(version, 0);
            sqlite3_reset(version);
        }
        sqlite3_finalize(select);
    }
    sqlite3_finalize(version);
    return rows;
}

/* The floor. */
static void
floor_of(const char *path, const char *source, const char *cache)
{
    sqlite3_stmt *insert[TABLES], *version;
    sqlite3 *from = open_file(source), *db = open_file(path);
    char pragma[64];
    int i, t, count;
    Row *row, *rows;
    Begin begun;

    snprintf(pragma, sizeof(pragma), "PRAGMA cache_size = -%d", atoi(cache));
    run(db, pragma);
    copy_schema(from, db);
    rows = read_rows(from, &count);
    sqlite3_close(from);
    for (t = 0; t < TABLES; t++)
        insert[t] = prepare(db, inserts[t]);
    version = prepare(db, "INSERT INTO _sync_version VALUES (?1, ?2, ?3, 0)");
    begun = begin();
    run(db, "BEGIN");
    for (row = rows; row < rows + count; row++)
    {
        for (i = 0; i < sqlite3_bind_parameter_count(insert[row->table]); i++)
            if (row->texts[i] != NULL)
                sqlite3_bind_text(insert[row->table], i + 1, row->texts[i], row->lengths[i],
                                  SQLITE_STATIC);
            else
                sqlite3_bind_int64(insert[row->table], i + 1, row->numbers[i]);
        step(insert[row->table]);
        sqlite3_bind_int(version, 1, row->table + 1);
        sqlite3_bind_text(version, 2, row->texts[0], row->lengths[0], SQLITE_STATIC);
        sqlite3_bind_int64(version, 3, row->version);
        step(version);
    }
    run(db, "COMMIT");
    finish(begun, count);
    for (t = 0; t < TABLES; t++)
        sqlite3_finalize(insert[t]);
    sqlite3_finalize(version);
    sqlite3_close(db);
}

int
main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "device") == 0)
        device(argv[2], argv[3], argv[4], argv[5]);
    else if (argc == 5 && strcmp(argv[1], "floor") == 0)
        floor_of(argv[2], argv[3], argv[4]);
    else
        die("usage: hydrate device FILE SCHEMA URL USER | hydrate floor FILE FROM CACHE");
    return 0;
}
