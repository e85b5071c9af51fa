/*
 * client_effects.c - what foreign keys and triggers of the app do to other rows while rows of the
 * server are taken in. Nobody on the device did that: none of it is sent, nothing that was written
 * here is lost, and the rows end as the server has them.
 */
#include "client.h"

/* Notes hang on users by drafts, which are not tracked. */
static const char sql[] =
    "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, name TEXT);"
    "CREATE TABLE drafts (id INTEGER PRIMARY KEY, u TEXT REFERENCES users ON DELETE CASCADE);"
    "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, d INTEGER REFERENCES drafts ON DELETE "
    "CASCADE,"
    " t TEXT, n INTEGER, b BLOB);";
static const char known[] =
    "INSERT INTO users VALUES ('a', 'A'), ('b', 'B'); INSERT INTO drafts VALUES (1, 'a');"
    "INSERT INTO notes VALUES ('x', 1, 'X', 1, x'00ff'), ('y', NULL, 'Y', 1, NULL);"
    "DELETE FROM _sync_log; INSERT INTO _sync_version VALUES (1, 'a', 1, 0), (1, 'b', 2, 0),"
    " (2, 'x', 3, 0), (2, 'y', 4, 0)";

#define CHANGE(seq, table, pk, deleted, payload)                                                   \
    "{\"schema\":\"public\",\"table\":\"" table "\",\"pk\":\"" pk "\",\"payload\":" payload        \
    ",\"server_version\":" seq ",\"deleted\":" deleted "}"
#define PAGE(seq, changes)                                                                         \
    "{\"changes\":[" changes "],\"has_more\":false,\"next_after\":" seq ",\"window_until\":" seq "}"

static sqlite3 *db;
static rowsync *client;
static Script script;
static rowsync_report report;

static void
fresh(const char *more, rowsync_policy policy)
{
    static const char *const tracked[] = {"users", NULL};
    rowsync_track_options track = {.policy = policy};

    client = open_scripted(sql, tracked, NULL, (rowsync_options){0}, &script, &db);
    rowsync_track(client, "notes", &track);
    app(db, "UPDATE _sync_client_info SET hydrated = 2");
    app(db, known);
    if (app(db, more) != SQLITE_OK)
        ok(false, "%s: %s", more, sqlite3_errmsg(db));
}

/* Pulls what this answer brings. */
static rowsync_code
pull(const char *page)
{
    rowsync_sync_options options = {0, 0, 1};

    script.answers[0] = page;
    script.count = 1;
    script.asked = 0;
    return rowsync_pull(client, &options, &report);
}

#define A_GOES PAGE("12", CHANGE("12", "users", "a", "true", "null"))
#define A_CHANGES PAGE("12", CHANGE("12", "users", "a", "false", "{\"name\":\"AA\"}"))

/* Rows, what is pending, held, overwritten. */
static const char state[] =
    "SELECT (SELECT group_concat(r) FROM (SELECT id || t || n AS r FROM notes ORDER BY id)),"
    " (SELECT group_concat(e) FROM (SELECT op || pk || changed AS e FROM _sync_pending JOIN"
    " _sync_dirty ON pk = pk_uuid ORDER BY pk)),"
    " (SELECT group_concat(pk || server_version) FROM _sync_held),"
    " (SELECT group_concat(op || pk_uuid) FROM _sync_overwritten)";

/* What the app does first, what the server says, and what comes of it. */
static void
test_each(void)
{
    static const struct
    {
        const char *what, *first, *page, *state;
    } cases[] = {
        {"a row of the server goes along with what is not tracked", "", A_GOES, "yY1,NULL,x3,NULL"},
        {"it may be there with another parent", "",
         PAGE("13", CHANGE("12", "users", "a", "true", "null") "," CHANGE(
                        "13", "notes", "x", "false", "{\"d\":null,\"t\":\"X\",\"n\":1}")),
         "xX1,yY1,NULL,NULL,NULL"},
        {"or be gone there too", "",
         PAGE("13", CHANGE("12", "users", "a", "true", "null") "," CHANGE("13", "notes", "x",
                                                                          "true", "null")),
         "yY1,NULL,NULL,NULL"},
        {"an edit of it is kept", "UPDATE notes SET t = 'mine' WHERE id = 'x'", A_GOES,
         "yY1,NULL,NULL,UPDATEx"},
        {"a new one too", "INSERT INTO notes VALUES ('new', 1, 'N', 1, NULL)", A_GOES,
         "yY1,NULL,x3,INSERTnew"},
        {"what the app has deleted stays so", "DELETE FROM notes", A_GOES,
         "NULL,DELETEx0,DELETEy0,NULL,NULL"},
        {"also what it has made again and deleted",
         "DELETE FROM notes WHERE id = 'x'; INSERT INTO notes VALUES ('x', 1, 'again', 1, NULL)",
         A_GOES, "yY1,NULL,NULL,UPDATEx"},
        {"a trigger deletes rows of the server: they come back",
         "CREATE TRIGGER t AFTER UPDATE ON users BEGIN DELETE FROM notes; END", A_CHANGES,
         "xX1,yY1,NULL,NULL,NULL"},
        {"and takes edits along: they are kept",
         "CREATE TRIGGER t AFTER UPDATE ON users BEGIN DELETE FROM notes; END;"
         "UPDATE notes SET t = 'mine' WHERE id = 'x'",
         A_CHANGES, "yY1,NULL,NULL,UPDATEx"},
        {"a trigger changes rows",
         "CREATE TRIGGER t AFTER UPDATE ON users BEGIN UPDATE notes SET n = n + 1, t = 't'; END",
         A_CHANGES, "xX1,yY1,NULL,NULL,NULL"},
        {"rows with edits too",
         "CREATE TRIGGER t AFTER UPDATE ON users BEGIN UPDATE notes SET n = n + 1, t = 't'; END;"
         "UPDATE notes SET n = 5 WHERE id = 'x'",
         A_CHANGES, "xX5,yY1,UPDATEx4,NULL,NULL"},
        {"and new ones",
         "CREATE TRIGGER t AFTER UPDATE ON users BEGIN UPDATE notes SET n = n + 1, t = 't'; END;"
         "DELETE FROM notes; INSERT INTO notes VALUES ('new', NULL, 'N', 1, NULL)",
         A_CHANGES, "newN1,INSERTnew-1,DELETEx0,DELETEy0,NULL,NULL"},
        {"a trigger of this connection alone",
         "CREATE TEMP TRIGGER t AFTER UPDATE ON main.users BEGIN DELETE FROM notes; END", A_CHANGES,
         "xX1,yY1,NULL,NULL,NULL"},
        {"a trigger brings back what the app has deleted",
         "CREATE TRIGGER t AFTER UPDATE ON users BEGIN"
         " INSERT OR IGNORE INTO notes VALUES ('x', NULL, 't', 9, NULL); END;"
         "DELETE FROM notes WHERE id = 'x'",
         A_CHANGES, "yY1,DELETEx0,NULL,NULL"},
        {"what a trigger makes anew stays here",
         "CREATE TRIGGER t AFTER UPDATE ON users BEGIN"
         " INSERT INTO notes VALUES ('z', NULL, 't', 9, NULL); END",
         A_CHANGES, "xX1,yY1,zt9,NULL,NULL,NULL"},
        {"a foreign key changes what is not tracked, and a trigger what is",
         "CREATE TABLE links (u TEXT REFERENCES users ON DELETE SET NULL, n TEXT); INSERT INTO "
         "links"
         " VALUES ('b', 'y'); CREATE TRIGGER t AFTER UPDATE ON links BEGIN UPDATE notes SET t = "
         "'t',"
         " n = 2 WHERE id = OLD.n; END; UPDATE notes SET t = 'mine' WHERE id = 'y'",
         PAGE("12", CHANGE("12", "users", "b", "true", "null")), "xX1,ymine1,UPDATEy2,NULL,NULL"},
        {"triggers that undo each other",
         "CREATE TRIGGER t AFTER UPDATE ON users BEGIN UPDATE notes SET t = 't'; END;"
         "CREATE TRIGGER o AFTER UPDATE ON notes WHEN NEW.t <> 't' BEGIN UPDATE notes SET t = 't'; "
         "END",
         A_CHANGES, "xt1,yt1,NULL,NULL,NULL"},
    };
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
    {
        fresh(cases[i].first, ROWSYNC_SERVER_WINS);
        pull(cases[i].page);
        ok(rowsync_error(client) == ROWSYNC_OK && script.asked == 1, "%s: %s", cases[i].what,
           rowsync_message(client));
        is(rows(db, state), cases[i].state, cases[i].what);
        is(rows(db, "SELECT (SELECT count(*) FROM _sync_log), apply_mode,"
                    " (SELECT b FROM notes WHERE id = 'x') IS NOT x'00ff' AND"
                    " EXISTS (SELECT 1 FROM _sync_version WHERE pk = 'x' AND server_version = 3)"
                    " AND NOT EXISTS (SELECT 1 FROM _sync_edited) FROM _sync_client_info"),
           "0,0,0", "and nothing else is left of it");
        close_client(client, db);
    }
}

/* An edit that a foreign key changes is another one than what may have been sent before. */
static void
test_numbers(void)
{
    char sent[32];

    fresh("CREATE TABLE tags (id TEXT PRIMARY KEY NOT NULL, u TEXT REFERENCES users ON DELETE SET"
          " NULL)",
          ROWSYNC_SERVER_WINS);
    rowsync_track(client, "tags", NULL);
    app(db, "UPDATE _sync_client_info SET hydrated = 2; INSERT INTO tags VALUES ('k', 'a')");
    snprintf(sent, sizeof(sent), "%s", rows(db, "SELECT change_id FROM _sync_dirty"));
    ok(pull(A_GOES) == ROWSYNC_OK, "a parent of a row with edits goes");
    is(rows(db, "SELECT payload FROM _sync_pending"), "{\"id\":\"k\",\"u\":null}",
       "which it loses");
    ok(strcmp(rows(db, "SELECT change_id FROM _sync_dirty"), sent) > 0, "under another number");
    close_client(client, db);
}

/* Where the app is to decide, what would take an edit along waits. */
static void
test_manual(void)
{
    fresh("UPDATE notes SET t = 'mine' WHERE id = 'x'", ROWSYNC_MANUAL);
    ok(pull(A_GOES) == ROWSYNC_OK, "a deletion would take along what the app is to decide on");
    is(rows(db, state), "xmine1,yY1,UPDATEx2,a12,NULL", "it waits");
    app(db, "DELETE FROM _sync_dirty");
    pull(PAGE("12", ""));
    is(rows(db, state), "yY1,NULL,x3,NULL", "as long as the edit is there");
    close_client(client, db);
}

/* A dead letter whose row goes along is no deletion when it is sent again. */
static void
test_letters(void)
{
    static const char letter[] =
        "UPDATE notes SET t = 'mine' WHERE id = 'x'; DELETE FROM _sync_dirty; INSERT INTO"
        " _sync_rejected (table_id, pk, pk_text, change_id, op, base_version, changed, reason,"
        " payload) VALUES (2, 'x', 'x', 9, 'UPDATE', 3, 2, 'forbidden', '{\"t\":\"mine\"}')";

    fresh(letter, ROWSYNC_SERVER_WINS);
    ok(pull(A_GOES) == ROWSYNC_OK, "the row of a dead letter goes along");
    is(rows(db, "SELECT payload FROM _sync_rejected"),
       "{\"id\":\"x\",\"d\":1,\"t\":\"mine\",\"n\":1,\"b\":\"AP8=\"}", "all of it is kept");
    ok(rowsync_requeue(client, "notes", "x") == ROWSYNC_DATABASE &&
           strcmp(rowsync_message(client),
                  "The row x of \"notes\" is gone, and cannot be made again"
                  " from what was refused.") == 0 &&
           *rowsync_hint(client) != '\0',
       "it cannot be sent without its parent: %s", rowsync_message(client));
    ok(rowsync_requeue(client, NULL, NULL) == ROWSYNC_OK, "and with all others it stays");
    is(rows(db, "SELECT (SELECT count(*) FROM _sync_edited), (SELECT op || base_version FROM"
                " _sync_rejected), (SELECT count(*) FROM notes WHERE id = 'x')"),
       "0,UPDATE3,0", "where it is");
    app(db, "INSERT INTO drafts VALUES (1, 'b')");
    ok(rowsync_requeue(client, "notes", "x") == ROWSYNC_OK, "with a parent it is sent: %s",
       rowsync_message(client));
    is(rows(db, state), "xmine1,yY1,UPDATEx2,NULL,NULL", "as it was");
    is(rows(db, "SELECT hex(b), (SELECT count(*) FROM _sync_rejected), server_version FROM notes,"
                " _sync_version WHERE id = 'x' AND pk = 'x'"),
       "00FF,0,3", "the whole row is here again");
    close_client(client, db);

    fresh(letter, ROWSYNC_SERVER_WINS);
    app(db, "DELETE FROM notes WHERE id = 'x'");
    ok(rowsync_requeue(client, "notes", "x") == ROWSYNC_OK, "a row that the app has deleted since");
    is(rows(db, "SELECT op FROM _sync_pending"), "DELETE", "is sent as deleted");
    close_client(client, db);

    fresh("INSERT INTO _sync_rejected (table_id, pk, pk_text, change_id, op, base_version, changed,"
          " reason, payload) VALUES (2, 'p', 'p', 9, 'INSERT', 0, -1, 'parent_deleted',"
          " '{\"id\":\"p\",\"d\":7,\"t\":\"P\",\"n\":1,\"b\":null}')",
          ROWSYNC_SERVER_WINS);
    ok(rowsync_requeue(client, "notes", "p") == ROWSYNC_DATABASE, "one that lost its parent waits");
    app(db, "INSERT INTO drafts VALUES (7, 'b')");
    ok(rowsync_requeue(client, NULL, NULL) == ROWSYNC_OK, "for another one");
    is(rows(db, "SELECT op, pk_uuid, base_version, (SELECT count(*) FROM _sync_version WHERE pk ="
                " 'p') FROM _sync_pending"),
       "INSERT,p,0,0", "and is new then");
    close_client(client, db);
}

/* Rows that a snapshot brings, or does not have, have the same effects. */
static void
test_snapshot(void)
{
    static const char snapshot[] =
        "{\"seq\":30,\"tables\":[{\"schema\":\"public\",\"table\":\"users\",\"key\":[\"id\"],"
        "\"columns\":[\"id\",\"name\"]},{\"schema\":\"public\",\"table\":\"notes\",\"key\":"
        "[\"id\"],\"columns\":[\"id\",\"d\",\"t\",\"n\",\"b\"]}]}\n"
        "[0,2,\"b\",\"B\"]\n[1,4,\"y\",null,\"Y\",1,null]\n%s"
        "{\"end\":true,\"rows\":%d,\"digest\":\"%s\"}\n";
    rowsync_sync_options options = {0, 0, 1};
    char text[1024];
    int theirs;

    for (theirs = 0; theirs < 2; theirs++)
    {
        fresh("INSERT INTO notes VALUES ('new', 1, 'N', 1, NULL)", ROWSYNC_SERVER_WINS);
        snprintf(text, sizeof(text), snapshot, theirs ? "[1,3,\"x\",1,\"X\",1,\"AP8=\"]\n" : "",
                 theirs ? 3 : 2,
                 theirs ? "17a434cb5858522d3610e670fb4712d3" : "46d784c890f90aa91f323aac2fa5057f");
        script.answers[0] = text;
        script.count = 1;
        rowsync_hydrate(client, &options, &report);
        ok(rowsync_error(client) == ROWSYNC_OK, "a snapshot without a parent: %s",
           rowsync_message(client));
        is(rows(db, state), theirs ? "yY1,NULL,x3,INSERTnew" : "yY1,NULL,NULL,INSERTnew",
           theirs ? "its row is held" : "nothing is held that is not there");
        close_client(client, db);
    }
    /* Nothing of the first table is here, so that it could be filled without a look at each row. */
    fresh("DELETE FROM notes WHERE id = 'y'; UPDATE notes SET d = NULL; DELETE FROM users;"
          "DELETE FROM _sync_version; DELETE FROM _sync_log; UPDATE notes SET t = 'mine';"
          "CREATE TRIGGER t AFTER INSERT ON users BEGIN DELETE FROM notes; END",
          ROWSYNC_SERVER_WINS);
    snprintf(text, sizeof(text), snapshot, "", 2, "46d784c890f90aa91f323aac2fa5057f");
    script.answers[0] = text;
    script.count = 1;
    script.asked = 0;
    rowsync_hydrate(client, &options, &report);
    ok(rowsync_error(client) == ROWSYNC_OK, "the first rows of a table: %s",
       rowsync_message(client));
    is(rows(db, state), "yY1,NULL,NULL,INSERTx", "a trigger of theirs deletes no edit unseen");
    close_client(client, db);
}

int
main(void)
{
    test_each();
    test_numbers();
    test_manual();
    test_letters();
    test_snapshot();
    return done();
}
