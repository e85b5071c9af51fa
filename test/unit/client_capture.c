/*
 * client_capture.c - what the triggers see, and every way past them that SQLite offers.
 */
#include "client.h"

static const char users_sql[] = "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT COLLATE "
                                "NOCASE, email TEXT UNIQUE, n INTEGER)";

/* op:pk:base for everything pending, in edit order. */
static const char pending[] = "SELECT op || ':' || pk_uuid || ':' || p.base_version FROM"
                              " _sync_pending p JOIN _sync_dirty d ON d.pk = pk_uuid"
                              " ORDER BY d.change_id";
static const char synced[] =
    "DELETE FROM _sync_dirty; INSERT OR REPLACE INTO _sync_version SELECT 1, id, 7, 0 FROM users";

static sqlite3 *db;
static rowsync *client;

static void
fresh(const char *sql)
{
    client = open_client(sql, NULL, &db);
    if (rowsync_track(client, "users", NULL) != ROWSYNC_OK)
        printf("# %s %s\n", rowsync_message(client), rowsync_hint(client));
}

/* A database whose rows are all known to the server as version 7. */
static void
fresh_synced(const char *rows_sql)
{
    fresh(users_sql);
    app(db, rows_sql);
    app(db, synced);
}

static void
test_coalescing(void)
{
    fresh(users_sql);
    app(db, "INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1)");
    app(db, "UPDATE users SET name = 'Amy'; UPDATE users SET n = 4");
    is(rows(db, pending), "INSERT:a:0", "edits of a new row stay one INSERT");
    is(rows(db, "SELECT payload FROM _sync_pending"),
       "{\"id\":\"a\",\"name\":\"Amy\",\"email\":\"a@x\",\"n\":4}", "with its last state");
    app(db, "DELETE FROM users");
    is(rows(db, pending), "DELETE:a:0", "an INSERT deleted before any upload stays a DELETE");
    is(rows(db, "SELECT payload FROM _sync_pending"),
       "{\"id\":\"a\",\"name\":\"Amy\",\"email\":\"a@x\",\"n\":4}", "with the old row");
    app(db, "INSERT INTO users VALUES ('a', 'Al', NULL, 0); DELETE FROM users");
    is(rows(db, pending), "DELETE:a:0", "delete, insert, delete is a DELETE");
    close_client(client, db);
    fresh_synced("INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1)");
    app(db, "UPDATE users SET n = 2; UPDATE users SET n = 3");
    is(rows(db, "SELECT base_version, changed FROM _sync_dirty"), "7,4",
       "the base is the version before the first edit, the mask has the column");
    app(db, "UPDATE users SET name = 'ANN'");
    is(rows(db, "SELECT changed FROM _sync_dirty"), "5",
       "a change that the column's collation takes for none is seen");
    app(db, "DELETE FROM users; INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1)");
    is(rows(db, "SELECT op, changed FROM _sync_pending, _sync_dirty"), "UPDATE,-1",
       "deleted and made anew, a known row is updated whole");
    is(rows(db, "SELECT count(DISTINCT change_id) FROM _sync_dirty"), "1", "under one change id");
    close_client(client, db);
}

static void
test_conflict_clauses(void)
{
    fresh_synced("INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1)");
    app(db, "UPDATE users SET n = 2");
    app(db, "INSERT OR REPLACE INTO users VALUES ('a', 'New', 'a@x', 5)");
    is(rows(db, pending), "UPDATE:a:7", "INSERT OR REPLACE over a pending row keeps its base");
    app(db, "DELETE FROM users");
    app(db, "INSERT OR IGNORE INTO users VALUES ('a', 'Ann', 'a@x', 1)");
    is(rows(db, pending), "UPDATE:a:7", "INSERT OR IGNORE after a pending delete is seen");
    app(db, "UPDATE OR IGNORE users SET n = 9");
    app(db, "UPDATE OR REPLACE users SET n = 10");
    is(rows(db, "SELECT json_extract(payload, '$.n') FROM _sync_pending"), "10",
       "UPDATE OR IGNORE and OR REPLACE, second edits, are seen");
    ok(app(db, "INSERT OR FAIL INTO users VALUES ('b', 'B', 'b@x', 1)") == SQLITE_OK &&
           app(db, "INSERT OR ROLLBACK INTO users VALUES ('c', 'C', 'c@x', 1)") == SQLITE_OK &&
           app(db, "INSERT INTO users VALUES ('b', 'B2', 'b@x', 2) ON CONFLICT (id) DO UPDATE SET"
                   " name = excluded.name") == SQLITE_OK,
       "OR FAIL, OR ROLLBACK and the app's own upsert go through");
    is(rows(db, pending), "UPDATE:a:7|INSERT:c:0|INSERT:b:0", "and are seen");
    close_client(client, db);
}

static void
test_replace_by_unique(void)
{
    fresh_synced("INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1), ('b', 'Bob', 'b@x', 2)");
    app(db, "REPLACE INTO users VALUES ('c', 'Cy', 'a@x', 3)");
    is(rows(db, pending), "DELETE:a:7|INSERT:c:0",
       "a row replaced by its unique column is deleted");
    is(rows(db, "SELECT json_extract(payload, '$.name') FROM _sync_pending WHERE op = 'DELETE'"),
       "Ann", "with its content");
    app(db, "UPDATE OR REPLACE users SET email = 'a@x' WHERE id = 'b'");
    is(rows(db, pending), "DELETE:a:7|DELETE:c:0|UPDATE:b:7", "likewise by UPDATE OR REPLACE");
    close_client(client, db);
    fresh_synced("INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1)");
    app(db, "INSERT OR IGNORE INTO users VALUES ('c', 'Cy', 'a@x', 3)");
    is(rows(db, "SELECT changed FROM _sync_dirty"), "0", "a false mark says that nothing changed");
    close_client(client, db);
}

static void
test_keys(void)
{
    fresh_synced("INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1), ('b', 'Bob', 'b@x', 2)");
    app(db, "UPDATE users SET id = 'z' WHERE id = 'a'");
    is(rows(db, "SELECT op || pk_uuid FROM _sync_pending ORDER BY pk_uuid"), "DELETEa|INSERTz",
       "a changed key is a DELETE and an INSERT");
    app(db, "UPDATE users SET id = 'a' WHERE id = 'b'");
    is(rows(db, "SELECT op || pk_uuid FROM _sync_pending ORDER BY pk_uuid"),
       "UPDATEa|DELETEb|INSERTz", "a key that another row takes over is an UPDATE");
    is(rows(db, "SELECT changed FROM _sync_dirty WHERE pk = 'a'"), "-1", "of every column");
    ok(app(db, "INSERT OR IGNORE INTO users VALUES (NULL, 'x', 'x', 1)") == SQLITE_CONSTRAINT,
       "a NULL key is refused under OR IGNORE too");
    close_client(client, db);

    fresh("CREATE TABLE users (id INTEGER PRIMARY KEY, v)");
    app(db,
        "INSERT INTO users (v) VALUES (1.5), (x'00ff'); UPDATE users SET rowid = 9 WHERE id = 1");
    is(rows(db, "SELECT op || pk_uuid || payload FROM _sync_pending ORDER BY 1"),
       "DELETE1{\"id\":1,\"v\":1.5}|INSERT2{\"id\":2,\"v\":\"\\\\x00ff\"}|INSERT9{\"id\":9,\"v\":1."
       "5}",
       "an INTEGER key, given out by SQLite and changed through rowid");
    close_client(client, db);

    fresh("CREATE TABLE users (id BLOB PRIMARY KEY, v TEXT) WITHOUT ROWID");
    app(db, "INSERT INTO users VALUES (x'550e8400e29b41d4a716446655440000', 'v')");
    is(rows(db, "SELECT pk_uuid, payload FROM _sync_pending"),
       "550e8400-e29b-41d4-a716-446655440000,"
       "{\"id\":\"550e8400-e29b-41d4-a716-446655440000\",\"v\":\"v\"}",
       "a BLOB key shows as uuid");
    ok(app(db, "INSERT INTO users VALUES ('550e8400-e29b-41d4-a716-446655440001', 'v')") ==
           SQLITE_CONSTRAINT,
       "a text in a BLOB key is refused");
    app(db, "DELETE FROM users");
    is(rows(db, "SELECT payload FROM _sync_pending"),
       "{\"id\":\"550e8400-e29b-41d4-a716-446655440000\",\"v\":\"v\"}", "also when deleted");
    close_client(client, db);

    /* STRICT came with 3.37. */
    fresh(
        sqlite3_libversion_number() >= 3037000
            ? "CREATE TABLE users (a TEXT, b INTEGER, \"odd \"\"name\" TEXT, g INTEGER AS (b + 1),"
              " PRIMARY KEY (a, b)) STRICT"
            : "CREATE TABLE users (a TEXT, b INTEGER, \"odd \"\"name\" TEXT, g INTEGER AS (b + 1),"
              " PRIMARY KEY (a, b))");
    app(db, "INSERT INTO users VALUES ('x\"\\', 2, 'v')");
    is(rows(db, "SELECT pk_uuid, payload FROM _sync_pending"),
       "[\"x\\\"\\\\\",2],{\"a\":\"x\\\"\\\\\",\"b\":2,\"odd \\\"name\":\"v\"}",
       "a composite key, a quoted name, a generated column that stays, STRICT");
    app(db, "UPDATE users SET b = 3");
    is(rows(db, "SELECT op || pk_uuid FROM _sync_pending ORDER BY 1"),
       "DELETE[\"x\\\"\\\\\",2]|INSERT[\"x\\\"\\\\\",3]", "its part changes");
    close_client(client, db);
}

/* Keys that pass from row to row, and that foreign keys change. */
static void
test_moving_keys(void)
{
    int64_t found;

    fresh("CREATE TABLE users (id INTEGER PRIMARY KEY, v TEXT)");
    app(db, "INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c'); DELETE FROM _sync_dirty;"
            "INSERT INTO _sync_version SELECT 1, id, 7, 0 FROM users");
    app(db, "UPDATE users SET id = id + 10; UPDATE users SET id = id - 9");
    is(rows(db, "SELECT op || pk_uuid || coalesce(json_extract(payload, '$.v'), '') FROM"
                " _sync_pending ORDER BY CAST(pk_uuid AS INTEGER)"),
       "DELETE1a|UPDATE2a|UPDATE3b|INSERT4c|DELETE11a|DELETE12b|DELETE13c",
       "keys that shift by one over a detour");
    ok(rowsync_verify(client, 0, &found) == ROWSYNC_OK, "verify has nothing to add");
    close_client(client, db);

    fresh(users_sql);
    app(db, "CREATE TABLE posts (u TEXT REFERENCES users ON UPDATE CASCADE, n INTEGER, v TEXT,"
            " PRIMARY KEY (u, n)) WITHOUT ROWID");
    ok(rowsync_track(client, "posts", NULL) == ROWSYNC_OK, "a key that is a reference");
    app(db,
        "INSERT INTO users VALUES ('a', 'Ann', NULL, 1); INSERT INTO posts VALUES ('a', 1, 'v');"
        "DELETE FROM _sync_dirty");
    app(db, "UPDATE users SET id = 'b'");
    is(rows(db, "SELECT op || pk_uuid FROM _sync_pending ORDER BY 1"),
       "DELETE[\"a\",1]|DELETEa|INSERT[\"b\",1]|INSERTb", "ON UPDATE CASCADE that changes a key");
    app(db, "DELETE FROM _sync_dirty; INSERT INTO users VALUES ('b', 'New', NULL, 2)"
            " ON CONFLICT (id) DO UPDATE SET id = 'c'");
    is(rows(db, "SELECT op || pk_uuid FROM _sync_pending ORDER BY 1"),
       "DELETE[\"b\",1]|DELETEb|INSERT[\"c\",1]|INSERTc", "and an upsert that does");
    close_client(client, db);
}

/* More columns than the mask has bits, and than a function has arguments. */
static void
test_wide(void)
{
    char sql[4096] = "CREATE TABLE users (id TEXT PRIMARY KEY";
    int i;

    for (i = 1; i <= 130; i++)
        snprintf(sql + strlen(sql), sizeof(sql) - strlen(sql), ", c%d DEFAULT %d", i, i);
    strcat(sql, ")");
    fresh(sql);
    app(db, "INSERT INTO users (id) VALUES ('a'); INSERT INTO users (id) VALUES ('b');"
            "DELETE FROM _sync_dirty; INSERT INTO _sync_version SELECT 1, id, 7, 0 FROM users");
    app(db, "UPDATE users SET c130 = 0, c1 = 0 WHERE id = 'a'; DELETE FROM users WHERE id = 'b'");
    is(rows(db, "SELECT changed FROM _sync_dirty WHERE pk = 'a'"), "4611686018427387905",
       "columns beyond the 63rd share a bit");
    is(rows(db, "SELECT count(*), sum(value) FROM _sync_pending, json_each(payload)"
                " WHERE op = 'DELETE' AND key <> 'id'"),
       "130,8515", "a deleted row has all of 130 columns");
    close_client(client, db);
}

/* What comes of a row is the same whether the log was folded or not, and however wide it is. */
static void
test_log(void)
{
    int64_t found;

    fresh_synced("INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1), ('b', 'Bob', 'b@x', 1)");
    app(db, "UPDATE users SET n = 2 WHERE id = 'a'; DELETE FROM users WHERE id = 'b'");
    is(rows(db, "SELECT count(*) FROM _sync_log"), "2", "every edit is an entry of the log");
    app(db, "ALTER TABLE users ADD COLUMN more TEXT");
    is(rows(db, "SELECT payload FROM _sync_pending WHERE op = 'DELETE'"),
       "{\"id\":\"b\",\"name\":\"Bob\",\"email\":\"b@x\",\"n\":1}",
       "a deleted row is shown, also once the table has another column");
    ok(rowsync_verify(client, 0, &found) == ROWSYNC_OK, "the library looks");
    is(rows(db, "SELECT count(*) FROM _sync_log"), "0", "and takes the log in");
    is(rows(db, "SELECT payload FROM _sync_pending WHERE op = 'DELETE'"),
       "{\"id\":\"b\",\"name\":\"Bob\",\"email\":\"b@x\",\"n\":1}",
       "with the columns that the row had");
    app(db, "UPDATE users SET n = n");
    is(rows(db, "SELECT changed FROM _sync_dirty WHERE pk = 'a'"), "4",
       "an edit from before the new column keeps to what it changed");
    app(db, "DELETE FROM _sync_dirty; UPDATE users SET n = n, name = name");
    is(rows(db, "SELECT changed FROM _sync_dirty"), "",
       "an UPDATE that changes nothing is no edit");
    app(db, "UPDATE users SET n = 6; CREATE TABLE ids AS SELECT max(change_id) AS last FROM"
            " _sync_dirty; DELETE FROM _sync_dirty; UPDATE users SET n = 5");
    is(rows(db, "SELECT change_id > last FROM _sync_dirty, ids"), "1",
       "change ids are not used again when nothing is pending any more");
    close_client(client, db);

    test_wide();
}

static void
test_refused_tables(void)
{
    static const char *const wrong[][2] = {
        {"CREATE TABLE users (id UUID PRIMARY KEY)",
         "The key column \"id\" of \"users\" does not keep"
         " every key as it is."},
        {"CREATE TABLE users (id TEXT COLLATE NOCASE PRIMARY KEY)",
         "The key column \"id\" of \"users\" takes different keys for equal."},
        {"CREATE TABLE users (id TEXT)", "Table \"users\" has no primary key."},
        {"CREATE TABLE other (id TEXT)", "There is no table \"users\"."},
    };
    size_t i;

    for (i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
    {
        client = open_client(wrong[i][0], NULL, &db);
        ok(rowsync_track(client, "users", NULL) == ROWSYNC_SCHEMA, "not trackable: %s",
           wrong[i][0]);
        is(rowsync_message(client), wrong[i][1], "says why");
        is(rows(db, "SELECT count(*) FROM _sync_table"), "0", "and nothing is left of it");
        close_client(client, db);
    }
}

static void
test_statements(void)
{
    fresh(users_sql);
    app(db, "CREATE TABLE posts (id TEXT PRIMARY KEY, u TEXT REFERENCES users ON DELETE CASCADE,"
            " w TEXT REFERENCES users ON DELETE SET NULL)");
    ok(rowsync_track(client, "posts", NULL) == ROWSYNC_OK, "a second table");
    app(db, "INSERT INTO users VALUES ('a', 'Ann', NULL, 1), ('b', 'Bob', NULL, 2);"
            "INSERT INTO posts VALUES ('p', 'a', 'b'), ('q', 'b', 'a'); DELETE FROM _sync_dirty");
    app(db, "DELETE FROM users WHERE id = 'a'");
    is(rows(db, "SELECT op || pk_uuid FROM _sync_pending ORDER BY pk_uuid"),
       "DELETEa|DELETEp|INSERTq", "cascades and SET NULL are seen");
    app(db, "DELETE FROM _sync_dirty; BEGIN; SAVEPOINT s; UPDATE users SET n = 5; ROLLBACK TO s;"
            "COMMIT");
    is(rows(db, pending), "", "what is rolled back is not pending");
    app(db, "DELETE FROM users");
    is(rows(db, "SELECT count(*) FROM _sync_dirty"), "2", "DELETE without WHERE is seen");
    is(rows(db, "INSERT INTO users VALUES ('r', 'R', NULL, 1) RETURNING id"), "r", "RETURNING");
    is(rows(db, "SELECT op FROM _sync_pending WHERE pk_uuid = 'r'"), "INSERT", "is seen");
    app(db, "INSERT INTO users VALUES ('k', 'K', NULL, 1)");
    ok(sqlite3_changes(db) == 1, "changes() is the app's");
    close_client(client, db);
    fresh("CREATE TABLE users (id INTEGER PRIMARY KEY, v TEXT)");
    app(db, "INSERT INTO users VALUES (41, 'v')");
    ok(sqlite3_last_insert_rowid(db) == 41, "last_insert_rowid() is the app's");
    close_client(client, db);
}

/* A table that is dropped takes its references along, and says so before anything is sent. */
static void
test_dropped(void)
{
    fresh(users_sql);
    app(db,
        "CREATE TABLE \"odd \"\"posts\" (\"the key\" TEXT PRIMARY KEY, u TEXT REFERENCES users ON"
        " DELETE CASCADE)");
    ok(rowsync_track(client, "odd \"posts", NULL) == ROWSYNC_OK, "a table of a strange name");
    app(db, "INSERT INTO users VALUES ('a', 'Ann', NULL, 1);"
            "INSERT INTO \"odd \"\"posts\" VALUES ('p', 'a')");
    is(rows(db,
            "SELECT table_name, pk_uuid, payload FROM _sync_pending WHERE table_name <> 'users'"),
       "odd \"posts,p,{\"the key\":\"p\",\"u\":\"a\"}", "is captured");
    app(db, "DELETE FROM _sync_dirty; DROP VIEW _sync_pending; DROP TABLE users");
    is(rows(db, "SELECT t.table_name, d.pk FROM _sync_dirty d JOIN _sync_table t USING (table_id)"),
       "odd \"posts,p", "a dropped parent deletes its children");
    ok(rowsync_verify(client, 0, NULL) == ROWSYNC_SCHEMA, "and is missed");
    is(rowsync_message(client), "The tracked table \"users\" is gone.", "by its name");
    close_client(client, db);
}

static void
test_values(void)
{
    fresh("CREATE TABLE users (id TEXT PRIMARY KEY, v)");
    app(db,
        "INSERT INTO users VALUES ('a', 0.1 + 0.2), ('b', 1e999), ('c', -1e999),"
        " ('d', 9223372036854775807), ('e', 5e-324), ('f', NULL), ('g', 'a' || char(10) || '\"')");
    is(rows(db, "SELECT group_concat(json_extract(payload, '$.v'), ';') FROM (SELECT payload FROM"
                " _sync_pending WHERE pk_uuid IN ('b', 'c', 'd', 'f', 'g') ORDER BY pk_uuid)"),
       "Infinity;-Infinity;9223372036854775807;a\n\"", "payloads of values that JSON writes badly");
    /* Old versions of SQLite do not read the smallest double right. */
    is(rows(db,
            "SELECT count(*) FROM _sync_pending JOIN users ON id = pk_uuid WHERE id IN ('a', 'e')"
            " AND (json_extract(payload, '$.v') = v OR payload LIKE '%4.940656458412465%e-324%')"),
       "2", "doubles are exact to the last bit");
    app(db, "DELETE FROM users");
    is(rows(db, "SELECT group_concat(json_extract(payload, '$.v'), ';') FROM (SELECT payload FROM"
                " _sync_pending WHERE pk_uuid IN ('b', 'c', 'd', 'f', 'g') ORDER BY pk_uuid)"),
       "Infinity;-Infinity;9223372036854775807;a\n\"", "the same from old rows");
    close_client(client, db);
}

static void
test_schema_changes(void)
{
    rowsync_state state;

    fresh_synced("INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1)");
    app(db, "UPDATE users SET n = 2");
    app(db, "ALTER TABLE users ADD COLUMN extra TEXT");
    app(db, "UPDATE users SET extra = 'e'");
    ok(rowsync_get_state(client, &state) == ROWSYNC_OK, "a column was added");
    is(rows(db, "SELECT json_extract(payload, '$.extra'), changed FROM _sync_pending, _sync_dirty"),
       "e,12", "the triggers follow, what is pending is what was edited");
    app(db, "DELETE FROM _sync_dirty; UPDATE users SET extra = 'f'");
    is(rows(db, "SELECT changed FROM _sync_dirty"), "8", "and the new column has a bit of its own");
    ok(app(db, "BEGIN; CREATE TABLE new_users (id TEXT); DROP TABLE users;"
               "ALTER TABLE new_users RENAME TO users") == SQLITE_ERROR,
       "SQLite refuses to rename while a view lacks its table");
    app(db, "ROLLBACK");
    app(db, "BEGIN; DROP VIEW _sync_pending; CREATE TABLE new_users (id TEXT PRIMARY KEY, name "
            "TEXT, n INTEGER);"
            "INSERT INTO new_users SELECT id, name, n FROM users; DROP TABLE users;"
            "ALTER TABLE new_users RENAME TO users; COMMIT; DELETE FROM _sync_dirty");
    app(db, "UPDATE users SET n = 77");
    is(rows(db, "SELECT count(*) FROM _sync_dirty"), "0",
       "a table that was rebuilt has lost its triggers");
    ok(rowsync_get_state(client, &state) == ROWSYNC_OK, "the next call notices");
    app(db, "UPDATE users SET n = 78");
    is(rows(db, pending), "UPDATE:a:7", "and captures again");
    close_client(client, db);

    fresh_synced("INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1)");
    app(db, "UPDATE users SET n = 2; ALTER TABLE users RENAME COLUMN n TO m");
    ok(rowsync_get_state(client, &state) == ROWSYNC_OK, "a column was renamed");
    is(rows(db, "SELECT op, json_extract(payload, '$.m'), json_extract(payload, '$.n') FROM"
                " _sync_pending"),
       "UPDATE,2,NULL", "an edit of it goes out under the new name");
    app(db, "DELETE FROM _sync_dirty; UPDATE users SET m = 3");
    is(rows(db, "SELECT json_extract(payload, '$.m') FROM _sync_pending"), "3",
       "as do those after it");
    close_client(client, db);
}

static void
test_sweep(void)
{
    int64_t found = 0;

    fresh_synced("INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1), ('b', 'Bob', 'b@x', 1)");
    ok(rowsync_verify(client, 0, &found) == ROWSYNC_OK && found == 0, "nothing slipped by");
    app(db, "INSERT OR REPLACE INTO users (rowid, id, name) SELECT rowid, 'c', 'C' FROM users"
            " WHERE id = 'a'");
    app(db, "DELETE FROM _sync_dirty WHERE pk = 'a'");
    ok(rowsync_verify(client, 0, &found) == ROWSYNC_DIFFERENT && found == 1,
       "a row replaced through its rowid is found by verify");
    ok(rowsync_verify(client, 1, &found) == ROWSYNC_OK, "repaired");
    is(rows(db, "SELECT op || pk_uuid FROM _sync_pending ORDER BY 1"), "DELETEa|INSERTc",
       "and is pending as deleted");
    close_client(client, db);
}

/* An UPDATE that changes nothing that travels is no edit; what may have been replaced is one. */
static void
test_edits_of_nothing(void)
{
    static const char *const local[] = {"n", NULL};
    static const char counts[] = "SELECT (SELECT count(*) FROM _sync_edited), count(*) FROM"
                                 " _sync_pending";
    static const rowsync_policy policies[] = {ROWSYNC_SERVER_WINS, ROWSYNC_MERGE};
    rowsync_state state;
    size_t i;

    for (i = 0; i < sizeof(policies) / sizeof(*policies); i++)
    {
        rowsync_track_options options = {NULL, policies[i], local};

        fresh_synced("INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1), ('b', 'Bob', 'b@x', 1)");
        rowsync_track(client, "users", &options);
        app(db, "UPDATE users SET n = n + 1; UPDATE users SET name = name");
        is(rows(db, counts), "0,0", "an UPDATE of local columns, or of nothing, is not pending");
        ok(rowsync_get_state(client, &state) == ROWSYNC_OK && state.pending == 0, "nor counted");
        is(rows(db, "SELECT count(*) FROM _sync_dirty"), "0", "nor is it once it is taken in");
        app(db, "UPDATE users SET n = 9, name = 'Eve' WHERE id = 'a'; UPDATE users SET n = 3");
        is(rows(db, counts), "1,1", "beside an edit it changes nothing");
        is(rows(db, "SELECT pk, changed, coalesce(json_extract(base_row, '$.name'), '-') FROM"
                    " _sync_dirty"),
           i == 0 ? "a,1,-" : "a,1,'Ann'", "of what that is");
        app(db, "CREATE TEMP TABLE before AS SELECT change_id FROM _sync_dirty;"
                "UPDATE users SET n = 4");
        is(rows(db, "SELECT change_id FROM _sync_dirty EXCEPT SELECT change_id FROM before"), "",
           "or was already");
        app(db, "INSERT OR IGNORE INTO users VALUES ('c', 'C', 'b@x', 1)");
        is(rows(db, counts), "2,2", "a row that may have been replaced counts until it is sent");
        ok(rowsync_untrack(client, "users", 1) == ROWSYNC_OK, "untracked");
        close_client(client, db);
    }
    fresh_synced("INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1)");
    app(db, "UPDATE users SET name = name");
    ok(rowsync_detach(client, 0) == ROWSYNC_OK, "detach has nothing to lose");
    app(db, "DROP VIEW _sync_edited; CREATE VIEW _sync_edited AS SELECT table_id, pk FROM"
            " _sync_dirty UNION ALL SELECT DISTINCT table_id, pk FROM _sync_log l WHERE NOT EXISTS"
            " (SELECT 1 FROM _sync_dirty d WHERE d.table_id = l.table_id AND d.pk = l.pk)");
    app(db, "INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1)");
    app(db, synced);
    app(db, "UPDATE users SET name = name");
    ok(rowsync_get_state(client, &state) == ROWSYNC_OK && state.pending == 0,
       "a file with the view of an earlier version gets the new one");
    close_client(client, db);
}

static void
test_tracking(void)
{
    static const char *const local[] = {"n", NULL};
    rowsync_track_options options = {"business", ROWSYNC_SERVER_WINS, local};

    client = open_client(users_sql, NULL, &db);
    app(db, "INSERT INTO users VALUES ('a', 'Ann', 'a@x', 1)");
    ok(rowsync_track(client, "users", &options) == ROWSYNC_OK, "tracked with a local column");
    is(rows(db, "SELECT payload FROM _sync_pending"),
       "{\"id\":\"a\",\"name\":\"Ann\",\"email\":\"a@x\"}",
       "rows from before are pending, without the local column");
    ok(rowsync_track(client, "users", &options) == ROWSYNC_OK, "tracking again");
    is(rows(db, "SELECT count(*) FROM _sync_dirty"), "1", "changes nothing");
    ok(rowsync_untrack(client, "users", 0) == ROWSYNC_PENDING, "untrack refuses to lose edits");
    ok(rowsync_untrack(client, "users", 1) == ROWSYNC_OK, "unless forced");
    is(rows(db, "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"), "0",
       "no trigger is left");
    ok(rowsync_track(client, "_sync_dirty", NULL) == ROWSYNC_MISUSE,
       "its own tables are not tracked");
    app(db, "BEGIN");
    ok(rowsync_track(client, "users", NULL) == ROWSYNC_MISUSE, "not inside a transaction");
    is(rowsync_hint(client), "Commit or roll back first.", "says what to do");
    app(db, "COMMIT");
    close_client(client, db);
}

int
main(void)
{
    test_coalescing();
    test_conflict_clauses();
    test_replace_by_unique();
    test_keys();
    test_moving_keys();
    test_log();
    test_refused_tables();
    test_statements();
    test_dropped();
    test_values();
    test_schema_changes();
    test_sweep();
    test_edits_of_nothing();
    test_tracking();
    return done();
}
