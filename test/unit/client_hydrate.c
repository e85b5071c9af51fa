/*
 * client_hydrate.c - the snapshot stream, whole, cut and wrong; pages of the log; memory that runs
 * out.
 */
#include "client.h"

#include <limits.h>

static const char sql[] =
    "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT UNIQUE, n INTEGER);"
    "CREATE TABLE posts (id BLOB PRIMARY KEY, u TEXT NOT NULL REFERENCES users)";

#define TABLE(name, columns)                                                                       \
    "{\"schema\":\"public\",\"table\":\"" name "\",\"key\":[\"id\"],\"columns\":[\"id\"" columns   \
    "]}"
#define HEADER                                                                                     \
    "{\"seq\":45,\"schema_version\":1,\"tables\":[" TABLE(                                         \
        "users", ",\"new\",\"name\",\"n\"") "," TABLE("others", "") "," TABLE("posts",             \
                                                                              ",\"u\"") "]}\n"
#define ROWS                                                                                       \
    "[0,3,\"a\",{\"x\":1},\"Ann\",1]\n[0,4,\"b\",null,\"B\\u00f6b\",null]\n[1,5,\"x\"]\n"          \
    "[2,6,\"550e8400-e29b-41d4-a716-446655440000\",\"a\"]\n"
#define END "{\"end\":true,\"rows\":4,\"digest\":\"76fe2c503552fdd68963b4d4cae9e80c\"}\n"
#define NOTHING_NEW "{\"changes\":[],\"has_more\":false,\"next_after\":45,\"window_until\":45}"
#define CHANGE(seq, table, pk, payload)                                                            \
    "{\"server_id\":" seq ",\"schema\":\"public\",\"table\":\"" table                              \
    "\",\"op\":\"INSERT\",\"pk\":\"" pk "\",\"payload\":" payload ",\"server_version\":" seq       \
    ",\"deleted\":false,\"source_id\":\"\"}"

static sqlite3 *db;
static rowsync *client;
static Script script;
static rowsync_report report;

static void
fresh(const char *rows_sql)
{
    static const char *const tracked[] = {"users", "posts", NULL};

    client = open_scripted(sql, tracked, NULL, (rowsync_options){0}, &script, &db);
    app(db, rows_sql);
}

static rowsync_code
pull(const char *first, const char *second, const char *third)
{
    rowsync_sync_options options = {0, 0, 1};

    script.answers[0] = first;
    script.answers[1] = second;
    script.answers[2] = third;
    script.count = third != NULL ? 3 : second != NULL ? 2 : 1;
    script.asked = 0;
    return rowsync_pull(client, &options, &report);
}

static const char state[] =
    "SELECT (SELECT group_concat(id || name || coalesce(n, '-')) FROM users), (SELECT hex(id) || u "
    "FROM"
    " posts), (SELECT count(*) FROM _sync_dirty), last_server_seq_seen, hydrated FROM"
    " _sync_client_info";

/* Constraints and triggers of the app that let rows vanish, or end the transaction. */
static void
test_stubborn_tables(void)
{
    fresh("");
    app(db, "CREATE TRIGGER no BEFORE INSERT ON users WHEN NEW.name = 'Ann' BEGIN SELECT"
            " RAISE(IGNORE); END; UPDATE _sync_client_info SET hydrated = 2");
    ok(pull("{\"changes\":[" CHANGE("1", "users", "a",
                                    "{\"name\":\"Ann\"}") "],\"has_more\":false,"
                                                          "\"next_after\":1,\"window_until\":1}",
            NULL, NULL) == ROWSYNC_OK,
       "a trigger passes a row over");
    is(rows(db, "SELECT count(*) FROM _sync_version"), "0", "which is not taken for stored");
    is(rows(db, "SELECT pk_text, state FROM _sync_held"), "a,2", "but held");
    close_client(client, db);

    fresh("");
    app(db, "UPDATE _sync_client_info SET apply_mode = 1; INSERT INTO users (id, name) VALUES ('a',"
            " 'Ann'); INSERT INTO _sync_version SELECT table_id, 'a', 1, 0 FROM _sync_table WHERE"
            " table_name = 'users'; UPDATE _sync_client_info SET apply_mode = 0, hydrated = 2;"
            "CREATE TRIGGER no BEFORE DELETE ON users BEGIN SELECT RAISE(IGNORE); END");
    ok(pull("{\"changes\":[{\"server_id\":2,\"schema\":\"public\",\"table\":\"users\",\"op\":"
            "\"DELETE\",\"pk\":\"a\",\"payload\":null,\"server_version\":2,\"deleted\":true,"
            "\"source_id\":\"\"}],\"has_more\":false,\"next_after\":2,\"window_until\":2}",
            NULL, NULL) == ROWSYNC_OK,
       "a trigger passes a deletion over");
    is(rows(db, "SELECT server_version, deleted FROM _sync_version"), "1,0",
       "which is not taken for done");
    is(rows(db, "SELECT pk_text, state, deleted FROM _sync_held"), "a,2,1", "but held");
    close_client(client, db);

    fresh("");
    app(db, "CREATE TRIGGER no BEFORE INSERT ON users WHEN NEW.name = 'Ann' BEGIN SELECT"
            " RAISE(ROLLBACK, 'no'); END; UPDATE _sync_client_info SET hydrated = 2");
    ok(pull("{\"changes\":[" CHANGE("1", "users", "b", "{\"name\":\"B\"}") "," CHANGE(
                "2", "users", "a",
                "{\"name\":\"Ann\"}") "," CHANGE("3", "users", "c",
                                                 "{\"name\":\"C\"}") "],\"has_more\":false,"
                                                                     "\"next_after\":3,\"window_"
                                                                     "until\":3}",
            NULL, NULL) == ROWSYNC_DATABASE,
       "a trigger ends the transaction");
    is(rows(db, "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM _sync_dirty)"), "0,0",
       "and nothing is written outside of one");
    ok(strstr(rowsync_message(client), "ended the transaction") != NULL, "the message says so");
    close_client(client, db);
}

/*
 * The header of a snapshot tells the epochs of the log, known as those in `mine` here ("": the last
 * one alone). NULL for what is pending afterwards: the header is refused. `unseen` is what becomes
 * of the rows that the server does not have: "only" and "early" are here, "late" and "long" were
 * deleted.
 */
static void
test_epochs(const char *mine, const char *theirs, const char *dirty, const char *unseen,
            const char *what)
{
    char snapshot[4096], start[1024];

    snprintf(snapshot, sizeof(snapshot), "200 {\"epochs\":%s,%s%s%s", theirs,
             strchr(HEADER, '{') + 1, ROWS, END);
    snprintf(start, sizeof(start),
             "INSERT INTO users VALUES ('only', 'O', 0), ('b', 'newer', 1), ('a', 'other', 2),"
             " ('early', 'E', 4);"
             "DELETE FROM _sync_dirty; INSERT INTO _sync_version VALUES (1, 'only', 50, 0),"
             " (1, 'b', 60, 0), (1, 'a', 3, 0), (1, 'early', 1, 0), (1, 'late', 61, 1),"
             " (1, 'long', 2, 1); UPDATE _sync_client_info SET hydrated = 2, epoch = 2,"
             " epochs = '%s', last_server_seq_seen = 61",
             mine);
    fresh(start);
    ok((pull(
            "{\"changes\":[],\"has_more\":false,\"next_after\":61,\"window_until\":61,\"epoch\":9}",
            snapshot, NOTHING_NEW) == ROWSYNC_OK) == (dirty != NULL),
       "%s", what);
    is(rows(db, "SELECT pk, base_version, changed FROM _sync_dirty ORDER BY pk"),
       dirty != NULL ? dirty : "", theirs);
    if (dirty != NULL)
        is(rows(db, "SELECT pk, server_version, deleted FROM _sync_version WHERE table_id = 1 AND"
                    " length(pk) > 1 ORDER BY pk"),
           unseen, "and what is known of the rows that are not there");
    is(rows(db, "SELECT epochs FROM _sync_client_info"), dirty != NULL ? theirs : mine,
       "what the server says is noted");
    close_client(client, db);
}

static void
test_snapshot(void)
{
    fresh("");
    ok(pull(HEADER ROWS END, NOTHING_NEW, NULL) == ROWSYNC_OK, "a whole snapshot");
    is(rows(db, state),
       "aAnn1,bB\xc3\xb6"
       "b-,550E8400E29B41D4A716446655440000a,0,45,2",
       "rows, types and cursor are there, nothing is pending");
    is(rows(db, "SELECT pk_uuid, server_version FROM _sync_row_meta ORDER BY 2"),
       "a,3|b,4|550e8400-e29b-41d4-a716-446655440000,6", "with their versions");
    is(rows(db, "PRAGMA foreign_key_check"), "", "and foreign keys hold");
    close_client(client, db);

    fresh("INSERT INTO users VALUES ('mine', 'M', 0), ('a', 'edited', 9)");
    pull(HEADER ROWS END, NOTHING_NEW, NULL);
    is(rows(db, "SELECT group_concat(id || name) FROM (SELECT * FROM users ORDER BY id)"),
       "aAnn,bB\xc3\xb6"
       "b,mineM",
       "an edit from before the sign-in that knew nothing of the server's row is a conflict");
    is(rows(db, "SELECT pk_uuid, op, server_version, payload FROM _sync_overwritten"),
       "a,INSERT,3,{\"id\":\"a\",\"name\":\"edited\",\"n\":9}", "what was written is kept");
    ok(report.pending == 1 && report.overwritten == 1, "and reported; other rows are pending");
    close_client(client, db);

    fresh("INSERT INTO users VALUES ('only', 'O', 0), ('b', 'newer', 1), ('a', 'other', 2);"
          "DELETE FROM _sync_dirty; INSERT INTO _sync_version VALUES (1, 'only', 50, 0),"
          " (1, 'b', 60, 0), (1, 'a', 3, 0); UPDATE _sync_client_info SET hydrated = 2, epoch = 1,"
          " last_server_seq_seen = 61");
    ok(pull("{\"changes\":[],\"has_more\":false,\"next_after\":61,\"window_until\":61,\"epoch\":2}",
            HEADER ROWS END, NOTHING_NEW) == ROWSYNC_OK,
       "a server that was restored from a backup: the snapshot is taken");
    is(rows(db, "SELECT group_concat(id || name) FROM (SELECT * FROM users ORDER BY id)"),
       "aAnn,bnewer,onlyO", "what the device has and the server lost stays");
    is(rows(db, "SELECT pk, base_version, changed FROM _sync_dirty ORDER BY pk"),
       "b,4,-1|only,0,-1", "and is sent again");
    is(rows(db, "SELECT last_server_seq_seen, epoch FROM _sync_client_info"), "45,2",
       "the cursor counts in the new log");
    close_client(client, db);

    test_epochs("", "[[1,0],[2,0],[9,2]]", "a,2,-1|b,2,-1|only,0,-1",
                "early,45,1|long,2,1|only,2,1", "what is later than the backup is sent again");
    test_epochs("", "[[1,0],[2,0],[7,59],[9,2]]", "a,2,-1|b,2,-1|only,0,-1",
                "early,45,1|long,2,1|only,2,1", "the least of the restores counts");
    test_epochs("", "[[1,0],[2,1],[9,3]]", "b,3,-1|only,0,-1", "early,45,1|long,2,1|only,3,1",
                "what is not is the server's");
    test_epochs("[[1,0],[2,1]]", "[[1,0],[2,1],[9,3]]", "b,3,-1|only,0,-1",
                "early,45,1|long,2,1|only,3,1", "restores that both have seen do not count");
    test_epochs("[[1,0],[2,2]]", "[[1,0],[9,59]]", "a,2,-1|b,2,-1|only,0,-1",
                "early,45,1|long,2,1|only,2,1", "one that the server has lost does");
    test_epochs("[[1,0],[2,3]]", "[[9,0]]", "a,0,-1|b,0,-1|early,0,-1|only,0,-1", "",
                "a log that was begun anew has nothing that both know");
    test_epochs("", "[]", "a,0,-1|b,0,-1|early,0,-1|only,0,-1", "",
                "nor has one that is not there");
    test_epochs("", "[[\"9\",2]]", NULL, "", "what is no number");
    test_epochs("", "[[9,-1]]", NULL, "", "what is no place in a log");
    test_epochs("", "[[0,0]]", NULL, "", "what is no epoch");
    test_epochs("", "[[9]]", NULL, "", "what is no pair");
    test_epochs("", "[[9,2,2]]", NULL, "", "three");
    test_epochs("", "[9]", NULL, "", "no list of pairs");
    test_epochs("", "2", NULL, "", "what is no array");

    fresh("INSERT INTO users VALUES ('old', 'O', 0); DELETE FROM _sync_dirty; INSERT INTO"
          " _sync_version VALUES (1, 'old', 2, 0); UPDATE _sync_client_info SET hydrated = 2");
    ok(pull("410 {\"code\":\"history_pruned\"}", HEADER ROWS END, NOTHING_NEW) == ROWSYNC_OK,
       "pruned history: the snapshot is taken");
    is(rows(db, state),
       "aAnn1,bB\xc3\xb6"
       "b-,550E8400E29B41D4A716446655440000a,0,45,2",
       "rows that the server does not have any more are gone");
    close_client(client, db);

    fresh("");
    ok(pull("404 {}",
            "{\"changes\":[" CHANGE(
                "7", "users", "z",
                "{\"id\":\"z\",\"name\":\"Z\",\"n\":true}") "],\"has_more\":false,\"next_after\":9,"
                                                            "\"window_until\":9}",
            "{\"changes\":[],\"has_more\":false,\"next_after\":9,\"window_until\":9}") ==
           ROWSYNC_OK,
       "without snapshots the log is read");
    ok(strstr(script.request, "after=9") != NULL, "and gone on from there");
    is(rows(db, state), "zZ1,NULL,0,9,2", "with the same outcome");
    close_client(client, db);
}

/* What is put out of the way while rows come in is there afterwards, as it was. */
/* What another process has sent or fetched after the snapshot was taken is not in it. */
static void
test_later_rows(void)
{
    fresh("INSERT INTO users VALUES ('old', 'Old', 1), ('new', 'New', 1); DELETE FROM _sync_log;"
          "INSERT INTO _sync_version VALUES (1, 'old', 45, 0), (1, 'new', 46, 0);"
          "INSERT INTO _sync_held (table_id, pk, pk_text, state, server_version, deleted, payload,"
          " reason) VALUES (1, 'then', 'then', 2, 44, 0, '{\"name\":\"Bob\"}', 'r'),"
          " (1, 'now', 'now', 2, 47, 0, '{\"name\":\"Bob\"}', 'r');"
          "CREATE TRIGGER no BEFORE INSERT ON users WHEN NEW.name = 'Bob' BEGIN"
          " SELECT RAISE(ABORT, 'r'); END");
    ok(pull(HEADER ROWS END, NOTHING_NEW, NULL) == ROWSYNC_OK, "a snapshot of before");
    is(rows(db, "SELECT group_concat(id), (SELECT group_concat(pk || state) FROM _sync_held) FROM"
                " (SELECT id FROM users ORDER BY id)"),
       "a,b,new,now2", "leaves later rows alone, and those that are held");
    close_client(client, db);

    fresh("INSERT INTO users VALUES ('a', 'Edited', 1); UPDATE _sync_client_info SET hydrated = 2");
    ok(pull("{\"changes\":[" CHANGE("46", "users", "a",
                                    "{\"name\":\"Sent\"}") "],\"has_more\":"
                                                           "false,\"next_after\":"
                                                           "46,"
                                                           "\"window_until\":46}",
            NULL, NULL) == ROWSYNC_OK,
       "a row comes that is new here, and may have been sent before it was edited");
    is(rows(db, "SELECT name, (SELECT count(*) FROM _sync_dirty), (SELECT count(*) FROM"
                " _sync_overwritten) FROM users"),
       "Edited,1,0", "the answer to the edit will decide");
    close_client(client, db);
}

static void
test_schema_is_put_back(void)
{
    static const char schema[] =
        "SELECT group_concat(type || name || coalesce(sql, ''), ';') FROM (SELECT * FROM"
        " sqlite_schema WHERE name NOT LIKE '\\_sync\\_%' ESCAPE '\\' OR type = 'trigger' ORDER BY"
        " name)";
    char before[16384];

    fresh("CREATE INDEX \"by \"\"n\"\"\" ON users (n) WHERE n > 0; CREATE INDEX main.\"posts u\" "
          "ON posts"
          " (u); PRAGMA main.cache_size = 500; INSERT INTO posts VALUES (x'00', 'a'); DELETE FROM"
          " _sync_dirty");
    snprintf(before, sizeof(before), "%s", rows(db, schema));
    ok(pull(HEADER ROWS "{\"end\":true,\"rows\":4,\"digest\":\"0\"}\n", NULL, NULL) ==
           ROWSYNC_NETWORK,
       "a damaged snapshot");
    is(rowsync_message(client),
       "The snapshot was damaged on its way: rows 4, digest"
       " 76fe2c503552fdd68963b4d4cae9e80c, not 0.",
       "is told from a wrong one");
    is(rows(db, schema), before, "and leaves triggers and indexes");
    ok(pull(HEADER ROWS END, NOTHING_NEW, NULL) == ROWSYNC_OK, "a whole one");
    is(rows(db, schema), before, "leaves them too");
    is(rows(db, "SELECT count(*) FROM users INDEXED BY \"by \"\"n\"\"\" WHERE n > 0"), "1",
       "with their entries");
    is(rows(db, "PRAGMA main.cache_size"), "500", "and the cache is the app's");
    app(db, "UPDATE users SET n = 9 WHERE id = 'a'");
    is(rows(db, "SELECT pk_uuid, op FROM _sync_pending"), "a,UPDATE", "edits are captured again");
    close_client(client, db);

    fresh("DROP TABLE posts; CREATE TABLE posts (id BLOB PRIMARY KEY, u TEXT UNIQUE ON CONFLICT"
          " REPLACE, CHECK (u <> 'no'))");
    ok(pull(HEADER "[2,6,\"550e8400-e29b-41d4-a716-446655440000\",\"a\"]\n"
                   "[2,7,\"550e8400-e29b-41d4-a716-446655440001\",\"a\"]\n"
                   "[2,8,\"550e8400-e29b-41d4-a716-446655440002\",\"no\"]\n"
                   "{\"end\":true,\"rows\":3,\"digest\":\"ed823675dbcf3096776722f5ceb323ec\"}\n",
            NOTHING_NEW, NULL) == ROWSYNC_OK,
       "rows that this database cannot take");
    is(rows(db, "SELECT server_version, state FROM _sync_held ORDER BY 1"), "7,2|8,2",
       "are held and replace no other, whatever the table says");
    is(rows(db, "SELECT server_version FROM _sync_version"), "6", "and not taken for stored");
    close_client(client, db);
}

/* Keys of several columns and with escapes are digested as the server does. */
static void
test_digested_keys(void)
{
    fresh("CREATE TABLE places (a TEXT, b INTEGER, PRIMARY KEY (a, b))");
    rowsync_track(client, "places", NULL);
    ok(pull("{\"seq\":9,\"tables\":[{\"schema\":\"public\",\"table\":\"places\",\"key\":[\"a\","
            "\"b\"],"
            "\"columns\":[\"b\",\"a\"]}," TABLE(
                "users", ",\"name\"") ",{\"schema\":\"x\",\"table\":"
                                      "\"un\\\"tracked\",\"key\":[\"k\"],\"columns\":[\"k\"]}]}\n"
                                      "[0,3,7,\"r,\\\"\"]\n[1,4,\"\\\\\\n\",\"N\"]\n[2,5,-8]\n"
                                      "{\"end\":true,\"rows\":3,\"digest\":"
                                      "\"c45128ae3426f9c61603887efc6dc429\"}\n",
            NOTHING_NEW, NULL) == ROWSYNC_OK,
       "keys of several columns, with escapes, of tables that are not tracked");
    close_client(client, db);
}

static void
test_broken(void)
{
    static const char *const streams[] = {"",
                                          HEADER,
                                          HEADER ROWS,
                                          HEADER ROWS "{\"end\":true,\"rows\":4}",
                                          "{}\n",
                                          "[]\n",
                                          HEADER ROWS "{\"end\":true,\"rows\":3}\n",
                                          HEADER ROWS "{\"end\":true,\"rows\":4}\n",
                                          HEADER ROWS "{\"end\":true,\"rows\":4,\"digest\":"
                                                      "\"76fe2c503552fdd68963b4d4cae9e80d\"}\n",
                                          HEADER ROWS "{\"end\":true,\"rows\":4,\"digest\":7}\n",
                                          HEADER ROWS END "x\n",
                                          HEADER ROWS END "more",
                                          HEADER "[9,1,\"a\"]\n",
                                          HEADER "[0,0,\"a\",1,\"b\",2]\n",
                                          HEADER "[0,1,\"a\"]\n",
                                          HEADER "[0,1,\"a\",1,\"b\",2,3]\n",
                                          HEADER "[0,1,7,1,\"b\",2]\n",
                                          HEADER "[0,1,\"a\",,\"b\"]\n",
                                          HEADER "[0,1,\"\xff\",1,\"b\",2]\n",
                                          HEADER "[0,1,\"a\",1,\"\\ud800\",2]\n",
                                          HEADER "\n",
                                          HEADER "[2,1,null,\"a\"]\n",
                                          "503 {}",
                                          "302 {}"};
    size_t i;

    for (i = 0; i < sizeof(streams) / sizeof(*streams); i++)
    {
        fresh("");
        ok(pull(streams[i], NULL, NULL) != ROWSYNC_OK, "refused: stream %d: %s", (int)i,
           rowsync_message(client));
        is(rows(db, state), "NULL,NULL,0,0,0", "and nothing of it is left");
        close_client(client, db);
    }
}

/* Rows whose parent goes, in a table without rowid with a reference of two columns. */
static void
test_orphans(void)
{
    static const char tables[] =
        "CREATE TABLE rooms (h INTEGER, n TEXT, PRIMARY KEY (h, n));"
        "CREATE TABLE beds (h INTEGER, n TEXT, b INTEGER, v, PRIMARY KEY (b, n), FOREIGN KEY (h, n)"
        " REFERENCES rooms) WITHOUT ROWID;"
        "INSERT INTO rooms VALUES (1, 'a'), (1, 'b'); INSERT INTO beds (h, n, b) VALUES (1, 'a', "
        "1),"
        " (1, 'a', 2), (NULL, 'a', 3), (1, 'b', 4)";

    fresh(tables);
    rowsync_track(client, "rooms", NULL);
    rowsync_track(client, "beds", NULL);
    app(db, "UPDATE _sync_client_info SET hydrated = 2; DELETE FROM _sync_dirty; INSERT INTO"
            " _sync_version SELECT 3, json_array(h, n), 1, 0 FROM rooms UNION ALL SELECT 4,"
            " json_array(b, n), 1, 0 FROM beds; UPDATE beds SET v = 1 WHERE b = 2");
    ok(pull("{\"changes\":[{\"server_id\":7,\"schema\":\"public\",\"table\":\"rooms\",\"op\":"
            "\"DELETE\","
            "\"pk\":\"[1,\\\"a\\\"]\",\"payload\":null,\"server_version\":7,\"deleted\":true,"
            "\"source_id\":\"\"}],\"has_more\":false,\"next_after\":7,\"window_until\":7}",
            NULL, NULL) == ROWSYNC_OK,
       "a parent goes of which rows without rowid are left");
    is(rows(db, "SELECT b FROM beds ORDER BY 1"), "3|4", "they go");
    is(rows(db, "SELECT pk_text, state FROM _sync_held"), "[1,\"a\"],2", "and are held");
    is(rows(db, "SELECT pk_text, reason, op FROM _sync_rejected"),
       "[2,\"a\"],parent_deleted,UPDATE", "or, with an edit of this device, kept as refused");
    is(rows(db, "PRAGMA foreign_key_check"), "", "no orphan stays");
    close_client(client, db);
}

static void
test_pages(void)
{
    static const char *const pages[] = {
        "{}",
        "[]",
        "{\"changes\":[],\"has_more\":true,\"next_after\":0,\"window_until\":9}",
        "{\"changes\":[],\"has_more\":false,\"next_after\":-1,\"window_until\":9}",
        "{\"changes\":[1],\"has_more\":false,\"next_after\":9,\"window_until\":9}",
        "{\"changes\":[" CHANGE("1", "users", "z",
                                "[]") "],\"has_more\":false,\"next_after\":9,\"window_until\":9}",
        "{\"changes\":[" CHANGE("99999999999999999999", "users", "z",
                                "{}") "],\"has_more\":false,\"next_after\":9,\"window_until\":9}",
        "{\"changes\":[" CHANGE("1", "users", "z", "{\"id\":\"z\"}") "}"};
    size_t i;

    fresh("UPDATE _sync_client_info SET hydrated = 2");
    ok(pull("{\"changes\":[" CHANGE(
                "1", "posts", "550e8400-e29b-41d4-a716-446655440000",
                "{\"u\":\"a\"}") "],\"has_more\":true,\"next_after\":1,\"window_until\":2}",
            "{\"changes\":[" CHANGE(
                "2", "users", "a",
                "{\"id\":\"a\",\"name\":\"A\",\"n\":1}") "],\"has_more\":false,\"next_after\":2,"
                                                         "\"window_until\":2}",
            NULL) == ROWSYNC_OK,
       "a child before its parent's page");
    is(rows(db, state), "aA1,550E8400E29B41D4A716446655440000a,0,2,2", "is taken in with it");
    close_client(client, db);
    fresh("UPDATE _sync_client_info SET hydrated = 2");
    ok(pull("{\"changes\":[" CHANGE(
                "1", "posts", "550e8400-e29b-41d4-a716-446655440000",
                "{\"u\":\"a\"}") "],\"has_more\":false,\"next_after\":1,\"window_until\":1}",
            NULL, NULL) == ROWSYNC_OK,
       "a child whose parent does not come blocks nothing");
    is(rows(db, state), "NULL,NULL,0,1,2", "it is held");
    ok(pull("{\"changes\":[" CHANGE(
                "2", "users", "a",
                "{\"id\":\"a\",\"name\":\"A\",\"n\":1}") "],\"has_more\":false,\"next_after\":2,"
                                                         "\"window_until\":2}",
            NULL, NULL) == ROWSYNC_OK,
       "until the parent is there");
    is(rows(db, state), "aA1,550E8400E29B41D4A716446655440000a,0,2,2", "then it is stored");
    close_client(client, db);
    for (i = 0; i < sizeof(pages) / sizeof(*pages); i++)
    {
        fresh("UPDATE _sync_client_info SET hydrated = 2");
        ok(pull(pages[i], NULL, NULL) == ROWSYNC_PROTOCOL, "refused: %.60s", pages[i]);
        is(rows(db, state), "NULL,NULL,0,0,2", "and nothing has changed");
        close_client(client, db);
    }
}

/* Fails the allocation that the countdown comes to, and all after it. */
static long countdown;

static void *
failing(void *pointer, size_t size)
{
    return countdown-- > 0 ? realloc(pointer, size) : NULL;
}

/* Everything once: 0 when it went through. */
static rowsync_code
whole_run(void)
{
    rowsync_transport transport = {&script, scripted, NULL};
    rowsync_options options = {.transport = &transport};
    rowsync_sync_options sync = {0, 0, 1};
    rowsync_code code;

    memset(&script, 0, sizeof(script));
    script.answers[0] = HEADER ROWS END;
    script.answers[1] =
        "{\"statuses\":[{\"source_change_id\":5,\"status\":\"conflict\",\"server_row\":"
        "{\"server_version\":50,\"deleted\":false,\"payload\":{\"id\":\"q\",\"name\":"
        "\"Theirs\",\"n\":1}}}]}";
    script.answers[2] = "{\"changes\":[" CHANGE(
        "51", "users", "c", "{\"id\":\"c\",\"name\":\"C\"}") "],\"has_more\":false,\"next_after\":"
                                                             "51,\"window_until\":51}";
    script.count = 3;
    sqlite3_open(":memory:", &db);
    app(db, sql);
    code = rowsync_open(db, &options, &client);
    if (code == ROWSYNC_OK && (code = rowsync_init(client)) == ROWSYNC_OK &&
        (code = rowsync_track(client, "users", NULL)) == ROWSYNC_OK &&
        (code = rowsync_track(client, "posts", NULL)) == ROWSYNC_OK &&
        (code = rowsync_attach(client, "http://sync.test", "ann", "phone")) == ROWSYNC_OK &&
        (code = rowsync_set_token(client, "t")) == ROWSYNC_OK)
    {
        long left = countdown;

        /* What the test does itself succeeds. */
        countdown = LONG_MAX;
        opened = client;
        app(db, "INSERT INTO users VALUES ('q', 'Q', 1); UPDATE _sync_dirty SET change_id = 5");
        opened = NULL;
        countdown = left;
        code = rowsync_sync(client, &sync, &report);
    }
    return code;
}

static void
test_memory(void)
{
    static const rowsync_allocator allocator = {failing, free};
    rowsync_code code;
    long at, wrong = 0, unsound = 0;

    rowsync_set_allocator(&allocator);
    for (at = 0;; at++)
    {
        countdown = at;
        code = whole_run();
        if (code != ROWSYNC_OK && code != ROWSYNC_NOMEM)
        {
            wrong++;
            printf("# allocation %ld: %s %s\n", at, rowsync_code_name(code),
                   rowsync_message(client));
        }
        rowsync_close(client);
        /* Whatever happened: the file is whole, no transaction is open, and the two sides of what
         * was taken in fit. */
        unsound += !sqlite3_get_autocommit(db) ||
                   strcmp(rows(db, "PRAGMA integrity_check"), "ok") != 0 ||
                   strcmp(rows(db, "PRAGMA foreign_key_check"), "") != 0;
        if (sqlite3_close(db) != SQLITE_OK)
            unsound++;
        if (code == ROWSYNC_OK)
            break;
    }
    rowsync_set_allocator(NULL);
    ok(wrong == 0, "each of %ld allocations fails with NOMEM", at);
    ok(unsound == 0, "and leaves a sound database");
}

int
main(void)
{
    test_stubborn_tables();
    test_snapshot();
    test_later_rows();
    test_schema_is_put_back();
    test_digested_keys();
    test_broken();
    test_orphans();
    test_pages();
    test_memory();
    return done();
}
