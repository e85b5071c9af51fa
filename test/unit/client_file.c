/*
 * client_file.c - what the app's file and its connection may be: every journal, encoding and size
 * of cache, settings that change what SQL means, attached databases of the same names; a file that
 * may only be read, one that has no room left, and one that is damaged, and one whose every system
 * call fails in turn, alone and with all that follow.
 *
 *     build/test/unit/client_file all
 *
 * makes each system call fail; `make check` takes every ninth.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "client_calls.h"

static char folder[] = "/tmp/rowsync-file-XXXXXX";
static char path[64];

/* Opens the file, in a way that the URI tells. */
static sqlite3 *
open_file(const char *parameters)
{
    char uri[128];
    sqlite3 *db;

    snprintf(uri, sizeof(uri), "file:%s?%s", path, parameters);
    must(sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI,
                         NULL) == SQLITE_OK,
         uri, db);
    return db;
}

static void
remove_file(void)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    char name[80];
    size_t i;

    for (i = 0; i < sizeof(suffixes) / sizeof(*suffixes); i++)
    {
        snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
        unlink(name);
    }
}

/* Everything that a device does, on an empty database: what it comes to, for sqlite3_free(). */
static char *
live(sqlite3 *db, bool *right)
{
    rowsync *client;
    rowsync_code code;
    int64_t found = 0;

    memset(&peer, 0, sizeof(peer));
    must(app(db, tables) == SQLITE_OK, "tables", db);
    code = rowsync_open(db, &peer_options, &client);
    if (code == ROWSYNC_OK)
        code = make_tracked(client);
    if (code == ROWSYNC_OK)
        code = make_attached(client);
    if (code == ROWSYNC_OK)
        code = call_hydrate(client);
    must(code != ROWSYNC_OK || app(db, edits) == SQLITE_OK, "edits", db);
    if (code == ROWSYNC_OK)
        code = call_sync(client);
    if (code == ROWSYNC_OK)
        code = rowsync_verify(client, 0, &found);
    if (code != ROWSYNC_OK)
        printf("# %s: %s\n", rowsync_code_name(code), rowsync_message(client));
    rowsync_close(client);
    *right = code == ROWSYNC_OK && strcmp(rows(db, "PRAGMA integrity_check"), "ok") == 0;
    /* SQLite 3.40 takes json_object() in a view, here in _sync_pending, for unsafe. */
    app(db, "PRAGMA trusted_schema = ON");
    return content(db);
}

/* What an app may say to its connection. Another one is there too. */
static void
test_settings(void)
{
    static const struct
    {
        const char *uri, *sql;
    } cases[] = {
        {"", "PRAGMA journal_mode = DELETE"},
        {"", "PRAGMA journal_mode = TRUNCATE"},
        {"", "PRAGMA journal_mode = PERSIST"},
        {"", "PRAGMA journal_mode = MEMORY"},
        {"", "PRAGMA journal_mode = WAL"},
        {"", "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL"},
        {"", "PRAGMA foreign_keys = OFF"},
        {"", "PRAGMA cache_size = 1; PRAGMA page_size = 512; PRAGMA temp_store = FILE"},
        {"", "PRAGMA cache_spill = OFF; PRAGMA mmap_size = 1000000"},
        {"", "PRAGMA page_size = 65536; PRAGMA secure_delete = ON"},
        {"", "PRAGMA auto_vacuum = FULL"},
        {"", "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA automatic_index = OFF"},
        {"", "PRAGMA encoding = 'UTF-16le'"},
        {"", "PRAGMA encoding = 'UTF-16be'"},
        {"", "PRAGMA recursive_triggers = ON"},
        {"", "PRAGMA reverse_unordered_selects = ON"},
        {"", "PRAGMA case_sensitive_like = ON"},
        {"", "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON"},
        {"", "PRAGMA legacy_alter_table = ON; PRAGMA ignore_check_constraints = ON"},
        {"", "PRAGMA read_uncommitted = ON"},
        {"", "PRAGMA full_column_names = ON"},
        {"", "PRAGMA short_column_names = OFF"},
        {"", "PRAGMA empty_result_callbacks = ON"},
        {"", "PRAGMA writable_schema = ON"},
        {"", "PRAGMA defer_foreign_keys = ON"},
        {"cache=shared", ""},
        {"", "ATTACH ':memory:' AS other; CREATE TABLE other.users (id, name, n);"
             "CREATE TABLE other._sync_client_info (id, apply_mode); INSERT INTO"
             " other._sync_client_info VALUES (1, 1); CREATE TABLE other._sync_log (seq);"
             "CREATE VIEW other._sync_pending AS SELECT 1"},
    };
    sqlite3 *db, *beside;
    bool right;
    char *wanted, *found;
    size_t i;

    must(sqlite3_open(":memory:", &db) == SQLITE_OK, "open", db);
    wanted = live(db, &right);
    ok(right, "a database in memory");
    sqlite3_close(db);
    for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
    {
        db = open_file(cases[i].uri);
        beside = open_file(cases[i].uri);
        must(app(db, "PRAGMA foreign_keys = ON") == SQLITE_OK && app(db, cases[i].sql) == SQLITE_OK,
             cases[i].sql, db);
        found = live(db, &right);
        if (!ok(right && strcmp(found, wanted) == 0, "%s %s", cases[i].uri, cases[i].sql))
            printf("# %s\n# not %s\n", found, wanted);
        sqlite3_free(found);
        must(sqlite3_close(beside) == SQLITE_OK && sqlite3_close(db) == SQLITE_OK, "close", db);
        remove_file();
    }
    sqlite3_free(wanted);
}

/* Settings that no PRAGMA has. */
static void
test_configurations(void)
{
    static const struct
    {
        int option, value;
        const char *name;
    } cases[] = {
        {SQLITE_DBCONFIG_DEFENSIVE, 1, "defensive"},
        {SQLITE_DBCONFIG_DQS_DDL, 0, "no strings in double quotes in the schema"},
        {SQLITE_DBCONFIG_DQS_DML, 0, "no strings in double quotes in statements"},
        {SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, "no checkpoint on close"},
        {SQLITE_DBCONFIG_ENABLE_QPSG, 1, "stable query plans"},
    };
    sqlite3 *db;
    bool right;
    char *wanted, *found;
    size_t i;

    must(sqlite3_open(":memory:", &db) == SQLITE_OK, "open", db);
    app(db, "PRAGMA foreign_keys = ON");
    wanted = live(db, &right);
    sqlite3_close(db);
    for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
    {
        db = open_file("");
        must(app(db, "PRAGMA foreign_keys = ON") == SQLITE_OK &&
                 sqlite3_db_config(db, cases[i].option, cases[i].value, NULL) == SQLITE_OK,
             cases[i].name, db);
        found = live(db, &right);
        if (!ok(right && strcmp(found, wanted) == 0, "%s", cases[i].name))
            printf("# %s\n# not %s\n", found, wanted);
        sqlite3_free(found);
        must(sqlite3_close(db) == SQLITE_OK, "close", db);
        remove_file();
    }
    sqlite3_free(wanted);
}

/* What no library can work with is refused before anything is done, and told of. */
static void
test_refused_settings(void)
{
    static const struct
    {
        const char *on, *off, *words;
    } cases[] = {
        {"PRAGMA count_changes = ON", "PRAGMA count_changes = OFF", "count_changes"},
        {"PRAGMA full_column_names = ON; PRAGMA short_column_names = OFF",
         "PRAGMA full_column_names = OFF", "full_column_names"},
        {NULL, NULL, "Triggers are switched off"},
    };
    rowsync *client;
    int64_t found = 0;
    sqlite3 *db;
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
    {
        memset(&peer, 0, sizeof(peer));
        must(sqlite3_open(":memory:", &db) == SQLITE_OK && app(db, tables) == SQLITE_OK &&
                 rowsync_open(db, &peer_options, &client) == ROWSYNC_OK &&
                 make_tracked(client) == ROWSYNC_OK && make_attached(client) == ROWSYNC_OK,
             "a device", db);
        if (cases[i].on != NULL)
            app(db, cases[i].on);
        else
            sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
        app(db, "INSERT INTO users (id, name, n) VALUES ('unseen', 'x', 1)");
        ok(call_sync(client) == ROWSYNC_MISUSE && peer.requests == 0 &&
               strstr(rowsync_message(client), cases[i].words) != NULL &&
               strstr(rowsync_hint(client), "Switch ") != NULL,
           "%s", rowsync_message(client));
        if (cases[i].off != NULL)
            app(db, cases[i].off);
        else
            sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 1, NULL);
        ok(rowsync_verify(client, 1, &found) == ROWSYNC_OK && found == (cases[i].on == NULL),
           "afterwards verify finds what was not captured: %d", (int)found);
        ok(call_sync(client) == ROWSYNC_OK, "and a sync goes on");
        rowsync_close(client);
        must(sqlite3_close(db) == SQLITE_OK, "close", db);
    }
}

/* Writes the image into the file. */
static void
write_image(const Image *image)
{
    FILE *file = fopen(path, "wb");

    must(file != NULL && fwrite(image->bytes, (size_t)image->size, 1, file) == 1 &&
             fclose(file) == 0,
         "cannot write", NULL);
}

static int
count_row(void *context, int count, const char *const *names, const char *const *values)
{
    (void)count;
    (void)names;
    (void)values;
    ++*(int *)context;
    return 0;
}

/* Reads what can be read of a database where nothing can be written. */
static void
look(sqlite3 *db, const char *name)
{
    rowsync *client;
    rowsync_state state;
    int counts[3] = {0}, i;

    ok(rowsync_open(db, &peer_options, &client) == ROWSYNC_OK, "%s: open", name);
    ok(rowsync_get_state(client, &state) == ROWSYNC_OK && state.pending == 2 &&
           state.conflicts == 1 && state.rejected == 2 && state.hydrated,
       "the state");
    for (i = ROWSYNC_LIST_PENDING; i <= ROWSYNC_LIST_REJECTED; i++)
        ok(rowsync_list(client, (rowsync_list_kind)i, count_row, &counts[i]) == ROWSYNC_OK,
           "list %d", i);
    ok(counts[0] == 2 && counts[1] == 1 && counts[2] == 2, "%d %d %d rows", counts[0], counts[1],
       counts[2]);
    rowsync_close(client);
}

/* Every way to open a file that may only be read: what can be told is told, the rest is refused. */
static void
test_read_only(void)
{
    static const struct
    {
        const char *name, *uri, *sql;
        uid_t user; /* who opens the file, which is root's */
    } cases[] = {
        {"mode=ro", "mode=ro", "", 0},
        {"immutable", "immutable=1&mode=ro", "", 0},
        {"no permission", "", "", 65534},
        {"query_only", "", "PRAGMA query_only = ON", 0},
    };
    Image image = make_image(call_named("resolve"));
    sqlite3 *db;
    rowsync *client;
    size_t i, j;

    write_image(&image);
    chmod(path, 0444);
    for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
    {
        if (cases[i].user != 0 && geteuid() != 0)
            continue; /* a user of its own is refused by the mode alone */
        must(seteuid(cases[i].user) == 0, "seteuid", NULL);
        db = open_file(cases[i].uri);
        must(app(db, cases[i].sql) == SQLITE_OK, cases[i].sql, db);
        look(db, cases[i].name);
        for (j = 0; j < sizeof(calls) / sizeof(*calls); j++)
        {
            rowsync_code code;

            if (only_looks(&calls[j]))
                continue;
            peer.requests = 0;
            rowsync_open(db, &peer_options, &client);
            code = calls[j].run(client);
            ok(code == ROWSYNC_DATABASE && (peer.requests == 0 || *cases[i].sql != '\0') &&
                   strcmp(rowsync_hint(client), "Open it for writing.") == 0,
               "%s is refused: %s", calls[j].name, rowsync_message(client));
            rowsync_close(client);
        }
        must(sqlite3_close(db) == SQLITE_OK, "close", db);
        must(seteuid(0) == 0, "seteuid", NULL);
    }
    sqlite3_free(image.bytes);
    remove_file();
    /* The schema has changed, and nobody may renew the triggers. */
    image = make_image(call_named("open"));
    write_image(&image);
    db = open_file("mode=ro");
    ok(rowsync_open(db, &peer_options, &client) == ROWSYNC_OK && call_open(client) == ROWSYNC_OK,
       "the state of a database whose schema has changed");
    rowsync_close(client);
    sqlite3_close(db);
    sqlite3_free(image.bytes);
    remove_file();
}

/* How much room there is beyond what the database has, and whether a call found it too little. */
static bool full;

static void
limit_room(void *context, sqlite3 *db, long at)
{
    char sql[64];

    (void)context;
    snprintf(sql, sizeof(sql), "PRAGMA max_page_count = %ld",
             atol(rows(db, "PRAGMA page_count")) + at);
    app(db, sql);
    full = false;
}

static bool
give_room(void *context, sqlite3 *db)
{
    (void)context;
    app(db, "PRAGMA max_page_count = 1000000");
    return true;
}

static bool
is_full(void *context, rowsync_code code)
{
    (void)context;
    full = true;
    return code == ROWSYNC_DATABASE;
}

/* The image as a file of small and well filled pages, so that a call soon needs more of them. */
static sqlite3 *
open_filled(const Image *image)
{
    sqlite3 *db;

    remove_file();
    write_image(image);
    peer = image->peer;
    peer.requests = 0;
    db = open_file("");
    app(db, "PRAGMA synchronous = OFF; PRAGMA page_size = 512; VACUUM; PRAGMA foreign_keys = ON");
    return db;
}

static sqlite3 *
open_filled_wal(const Image *image)
{
    sqlite3 *db = open_filled(image);

    app(db, "PRAGMA journal_mode = WAL");
    return db;
}

/* The disk is full after each number of pages that a call takes. */
static void
test_full(void)
{
    static const Failure failures[] = {
        {"WAL", open_filled_wal, limit_room, give_room, is_full, NULL},
        {"rollback journal", open_filled, limit_room, give_room, is_full, NULL},
    };
    size_t i, j;
    int sizes = 0;

    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
    {
        Image image = make_image(&calls[i]);
        char *wanted = undisturbed(&calls[i], &image, &peer_options);
        Tally tally = {0};
        long at;

        for (j = 0; j < 2; j++)
        {
            at = 0;
            do
                run_once(&calls[i], &image, &peer_options, &failures[j], at++, wanted, &tally);
            while (full);
        }
        told(&tally, calls[i].name, "sizes of the disk");
        sizes += tally.failures;
        sqlite3_free(wanted);
        sqlite3_free(image.bytes);
        remove_file();
    }
    ok(sizes > 200, "%d sizes in all", sizes);
}

/* The calls of the file system, and its methods with those of SQLite's own behind them. */
static Source of_files = {.left = -1};
static sqlite3_vfs *real_vfs;

typedef struct Methods
{
    sqlite3_io_methods mine;
    const sqlite3_io_methods *real;
} Methods;

#define REAL(file) (((const Methods *)(file)->pMethods)->real)

static int
failing_read(sqlite3_file *file, void *to, int size, sqlite3_int64 at)
{
    return fails(&of_files) ? SQLITE_IOERR_READ : REAL(file)->xRead(file, to, size, at);
}

static int
failing_write(sqlite3_file *file, const void *from, int size, sqlite3_int64 at)
{
    return fails(&of_files) ? SQLITE_IOERR_WRITE : REAL(file)->xWrite(file, from, size, at);
}

static int
failing_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    return fails(&of_files) ? SQLITE_IOERR_TRUNCATE : REAL(file)->xTruncate(file, size);
}

/* No machine stops here: nothing needs to reach the disk. */
static int
failing_sync(sqlite3_file *file, int flags)
{
    (void)file;
    (void)flags;
    return fails(&of_files) ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

static int
failing_size(sqlite3_file *file, sqlite3_int64 *size)
{
    return fails(&of_files) ? SQLITE_IOERR_FSTAT : REAL(file)->xFileSize(file, size);
}

static int
failing_lock(sqlite3_file *file, int level)
{
    return fails(&of_files) ? SQLITE_IOERR_LOCK : REAL(file)->xLock(file, level);
}

static int
failing_check(sqlite3_file *file, int *reserved)
{
    return fails(&of_files) ? SQLITE_IOERR_CHECKRESERVEDLOCK
                            : REAL(file)->xCheckReservedLock(file, reserved);
}

static int
failing_map(sqlite3_file *file, int page, int size, int extend, void volatile **to)
{
    return fails(&of_files) ? SQLITE_IOERR_SHMMAP
                            : REAL(file)->xShmMap(file, page, size, extend, to);
}

/* Locks are given back all the same: that is no call that can fail. */
static int
failing_shared_lock(sqlite3_file *file, int offset, int count, int flags)
{
    return (flags & SQLITE_SHM_LOCK) && fails(&of_files)
               ? SQLITE_IOERR_SHMLOCK
               : REAL(file)->xShmLock(file, offset, count, flags);
}

static int
failing_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
    static Methods methods[4]; /* SQLite has some, for files that are locked and that are not */
    int i, result;

    (void)vfs;
    file->pMethods = NULL;
    if (fails(&of_files))
        return SQLITE_CANTOPEN;
    if ((result = real_vfs->xOpen(real_vfs, name, file, flags, out)) != SQLITE_OK)
        return result;
    for (i = 0; methods[i].real != NULL && methods[i].real != file->pMethods; i++)
        must(i < 3, "methods", NULL);
    methods[i] = (Methods){*file->pMethods, file->pMethods};
    methods[i].mine.xRead = failing_read;
    methods[i].mine.xWrite = failing_write;
    methods[i].mine.xTruncate = failing_truncate;
    methods[i].mine.xSync = failing_sync;
    methods[i].mine.xFileSize = failing_size;
    methods[i].mine.xLock = failing_lock;
    methods[i].mine.xCheckReservedLock = failing_check;
    methods[i].mine.xShmMap = failing_map;
    methods[i].mine.xShmLock = failing_shared_lock;
    file->pMethods = &methods[i].mine;
    return SQLITE_OK;
}

static int
failing_delete(sqlite3_vfs *vfs, const char *name, int flush)
{
    (void)vfs;
    return fails(&of_files) ? SQLITE_IOERR_DELETE : real_vfs->xDelete(real_vfs, name, flush);
}

static int
failing_access(sqlite3_vfs *vfs, const char *name, int flags, int *out)
{
    (void)vfs;
    return fails(&of_files) ? SQLITE_IOERR_ACCESS : real_vfs->xAccess(real_vfs, name, flags, out);
}

/* The image as a file, on that file system. */
static sqlite3 *
open_failing(const Image *image)
{
    sqlite3 *db;

    remove_file();
    write_image(image);
    peer = image->peer;
    peer.requests = 0;
    db = open_file("vfs=failing");
    app(db, "PRAGMA foreign_keys = ON");
    return db;
}

static sqlite3 *
open_failing_wal(const Image *image)
{
    sqlite3 *db = open_failing(image);

    app(db, "PRAGMA journal_mode = WAL");
    return db;
}

static bool lasting; /* all that follow fail too */

static void
arm(void *context, sqlite3 *db, long at)
{
    (void)context;
    (void)db;
    of_files = (Source){at, lasting, false, 0};
}

static bool
disarm(void *context, sqlite3 *db)
{
    (void)context;
    (void)db;
    of_files.left = -1;
    return of_files.failed;
}

static bool
is_told(void *context, rowsync_code code)
{
    (void)context;
    return code == ROWSYNC_DATABASE;
}

/* A call that the file system fails in says what to do. */
static void
test_hint(void)
{
    Image image = make_image(call_named("sync"));
    sqlite3 *db = open_failing(&image);
    rowsync *client;

    rowsync_open(db, &peer_options, &client);
    lasting = true;
    arm(NULL, db, 0);
    ok(call_sync(client) == ROWSYNC_DATABASE && disarm(NULL, db), "a disk that does not work");
    is(rowsync_hint(client), "See whether the disk works, and call again; nothing is lost.",
       "says what to do");
    ok(call_sync(client) == ROWSYNC_OK, "and the same client goes on when it does");
    rowsync_close(client);
    sqlite3_close(db);
    sqlite3_free(image.bytes);
    remove_file();
}

/* Every so manyth call of the file system fails. */
static void
test_system_calls(long step)
{
    static const Failure failures[] = {
        {"system calls with a WAL", open_failing_wal, arm, disarm, is_told, NULL},
        {"system calls with a rollback journal", open_failing, arm, disarm, is_told, NULL},
    };
    static sqlite3_vfs vfs;
    size_t i, j;

    real_vfs = sqlite3_vfs_find(NULL);
    vfs = *real_vfs;
    vfs.zName = "failing";
    vfs.xOpen = failing_open;
    vfs.xDelete = failing_delete;
    vfs.xAccess = failing_access;
    must(sqlite3_vfs_register(&vfs, 0) == SQLITE_OK, "vfs", NULL);
    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
    {
        Image image = make_image(&calls[i]);
        char *wanted = undisturbed(&calls[i], &image, &peer_options);

        for (j = 0; j < 2; j++)
        {
            Tally tally = {0};
            long at;

            for (lasting = false, at = 0;
                 run_once(&calls[i], &image, &peer_options, &failures[j], at, wanted, &tally);
                 at += step)
                ;
            for (lasting = true, at = step / 2;
                 run_once(&calls[i], &image, &peer_options, &failures[j], at, wanted, &tally);
                 at += step)
                ;
            told(&tally, calls[i].name, failures[j].what);
        }
        sqlite3_free(wanted);
        sqlite3_free(image.bytes);
        remove_file();
    }
    test_hint();
    sqlite3_vfs_unregister(&vfs);
}

/* Each page of the file in turn is rubbish: a call ends, and tells what it could not do. */
static void
test_damaged(void)
{
    static const char hint[] =
        "The file is damaged: save what the app can still read, and begin a new one.";
    size_t i;

    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
    {
        Image image = make_image(&calls[i]);
        int size = 256 * image.bytes[16] + image.bytes[17], found = 0, wrong = 0;
        sqlite3_int64 at;

        for (at = 0; at < image.size; at += size)
        {
            unsigned char page[65536];
            rowsync *client;
            rowsync_code code;
            sqlite3 *db;

            memcpy(page, image.bytes + at, (size_t)size);
            memset(image.bytes + at, 0xA5, (size_t)size);
            write_image(&image);
            memcpy(image.bytes + at, page, (size_t)size);
            db = open_file("");
            peer = image.peer;
            if ((code = rowsync_open(db, &peer_options, &client)) == ROWSYNC_OK)
                code = calls[i].run(client);
            found += code == ROWSYNC_DATABASE && strcmp(rowsync_hint(client), hint) == 0;
            if (!sqlite3_get_autocommit(db) ||
                (code != ROWSYNC_OK &&
                 (*rowsync_message(client) == '\0' || *rowsync_hint(client) == '\0')))
            {
                wrong++;
                printf("# page %lld: %s: %s\n", at / size, rowsync_code_name(code),
                       rowsync_message(client));
            }
            rowsync_close(client);
            wrong += sqlite3_close(db) != SQLITE_OK || of_library.held != 0;
            remove_file();
        }
        ok(wrong == 0 && found > 0, "%s: %d damaged pages of %lld are met and told", calls[i].name,
           found, image.size / size);
        sqlite3_free(image.bytes);
    }
}

/* Another connection of the same shared cache, which has locks on tables, and its query. */
static sqlite3 *beside;
static sqlite3_stmt *reading;

static sqlite3 *
open_shared(const Image *image)
{
    sqlite3 *db;

    remove_file();
    write_image(image);
    peer = image->peer;
    peer.requests = 0;
    db = open_file("cache=shared");
    app(db, "PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON");
    return db;
}

static void
read_beside(void *context, sqlite3 *db, long at)
{
    static const char *const queries[] = {"SELECT * FROM users", "SELECT * FROM sqlite_schema"};

    (void)context;
    (void)db;
    beside = open_file("cache=shared");
    sqlite3_prepare_v2(beside, queries[at], -1, &reading, NULL);
    sqlite3_step(reading);
}

static bool
close_beside(void *context, sqlite3 *db)
{
    (void)context;
    (void)db;
    sqlite3_finalize(reading);
    sqlite3_close(beside);
    return true;
}

static bool
is_busy(void *context, rowsync_code code)
{
    (void)context;
    return code == ROWSYNC_BUSY;
}

static void
test_shared(void)
{
    static const Failure failure = {"beside",     open_shared, read_beside,
                                    close_beside, is_busy,     NULL};
    size_t i;

    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
    {
        Image image = make_image(&calls[i]);
        char *wanted = undisturbed(&calls[i], &image, &peer_options);
        Tally tally = {0};
        long at;

        for (at = 0; at < 2; at++)
            run_once(&calls[i], &image, &peer_options, &failure, at, wanted, &tally);
        told(&tally, calls[i].name, "locks in a shared cache");
        sqlite3_free(wanted);
        sqlite3_free(image.bytes);
        remove_file();
    }
}

/* Triggers that could not be renewed for lack of room are renewed by the client's next call. */
static void
test_renewal(void)
{
    Image image = make_image(call_named("open"));
    sqlite3 *db = open_filled(&image);
    rowsync *client;

    limit_room(NULL, db, 0);
    ok(rowsync_open(db, &peer_options, &client) == ROWSYNC_DATABASE, "no room for new triggers");
    is(rowsync_hint(client), "Make room and call again; nothing is lost.", "says what to do");
    give_room(NULL, db);
    ok(call_open(client) == ROWSYNC_OK, "room");
    app(db, "UPDATE users SET x = 1 WHERE id = 'mine'");
    is(rows(db, "SELECT payload FROM _sync_pending WHERE pk_uuid = 'mine'"),
       "{\"id\":\"mine\",\"name\":\"Mine\",\"n\":1,\"x\":1}", "and triggers");
    rowsync_close(client);
    sqlite3_close(db);
    sqlite3_free(image.bytes);
    remove_file();
}

int
main(int count, char **arguments)
{
    must(mkdtemp(folder) != NULL && chmod(folder, 0755) == 0, folder, NULL);
    snprintf(path, sizeof(path), "%s/app.db", folder);
    take_over();
    test_settings();
    test_configurations();
    test_refused_settings();
    test_read_only();
    test_full();
    test_system_calls(count > 1 && strcmp(arguments[1], "all") == 0 ? 1 : 9);
    test_damaged();
    test_shared();
    test_renewal();
    rmdir(folder);
    return done();
}
