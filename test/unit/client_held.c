/*
 * client_held.c - rows that are not here as the server has them, for a reason that is known:
 * something local is in their way, they were refused, or given up. What becomes of them, and that
 * nobody takes them for changes that a trigger missed.
 */
#include "client.h"

/* Notes and pins have users, and lines have notes; drafts are not tracked. */
static const char sql[] =
    "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, name TEXT UNIQUE);"
    "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, u TEXT REFERENCES users ON DELETE CASCADE,"
    " t TEXT UNIQUE);"
    "CREATE TABLE lines (id TEXT PRIMARY KEY NOT NULL, n TEXT REFERENCES notes ON DELETE CASCADE);"
    "CREATE TABLE pins (id TEXT PRIMARY KEY NOT NULL, u TEXT REFERENCES users ON DELETE RESTRICT);"
    "CREATE TABLE drafts (id INTEGER PRIMARY KEY, u TEXT REFERENCES users, n TEXT REFERENCES "
    "notes);";
static const char known[] =
    "INSERT INTO users VALUES ('a', 'A'), ('b', 'B'); INSERT INTO notes VALUES ('x', 'a', '1');"
    "INSERT INTO lines VALUES ('l', 'x'); DELETE FROM _sync_log; INSERT INTO _sync_version VALUES"
    " (1, 'a', 1, 0), (1, 'b', 2, 0), (2, 'x', 3, 0), (3, 'l', 4, 0)";

#define CHANGE(seq, table, pk, deleted, payload)                                                   \
    "{\"schema\":\"public\",\"table\":\"" table "\",\"pk\":\"" pk "\",\"payload\":" payload        \
    ",\"server_version\":" seq ",\"deleted\":" deleted "}"
#define PAGE(seq, changes)                                                                         \
    "{\"changes\":[" changes "],\"has_more\":false,\"next_after\":" seq ",\"window_until\":" seq "}"
#define SNAPSHOT(rows, end)                                                                        \
    "{\"seq\":30,\"tables\":[{\"schema\":\"public\",\"table\":\"users\",\"key\":[\"id\"],"         \
    "\"columns\":[\"id\",\"name\"]}]}\n" rows "{\"end\":true," end "}\n"

static sqlite3 *db;
static rowsync *client;
static Script script;
static rowsync_report report;

static char logged[1024];

/* The app's log. */
static void
note(void *context, const char *line)
{
    (void)context;
    snprintf(logged, sizeof(logged), "%s", line);
}

static void
fresh(const char *more)
{
    static const char *const tracked[] = {"users", "notes", "lines", "pins", NULL};

    client = open_scripted(sql, tracked, NULL, (rowsync_options){.log = note}, &script, &db);
    app(db, "UPDATE _sync_client_info SET hydrated = 2");
    app(db, known);
    app(db, more);
}

/* Pulls what these answers bring. */
static rowsync_code
pull(const char *first, const char *second)
{
    rowsync_sync_options options = {0, 0, 1};

    script.answers[0] = first;
    script.answers[1] = second;
    script.count = second != NULL ? 2 : 1;
    script.asked = 0;
    return rowsync_pull(client, &options, &report);
}

/* A dead letter of a row as it is here. */
static void
refuse(const char *table, const char *pk, const char *op, const char *base)
{
    char text[512];

    rowsync_verify(client, 0, NULL);
    snprintf(text, sizeof(text),
             "DELETE FROM _sync_dirty WHERE pk = '%s'; INSERT INTO _sync_rejected (table_id, pk,"
             " pk_text, change_id, op, base_version, changed, reason) SELECT table_id, '%s', '%s',"
             " 9, '%s', %s, 1, 'forbidden' FROM _sync_table WHERE table_name = '%s'",
             pk, pk, pk, op, base, table);
    app(db, text);
}

/* A row whose new state cannot be stored yet goes with the parent that it has left on the server.
 */
static void
test_verify(void)
{
    int64_t found = 9;

    fresh("INSERT INTO notes VALUES ('mine', 'b', '2')");
    ok(pull(PAGE("11", CHANGE("10", "notes", "x", "false", "{\"u\":\"b\",\"t\":\"2\"}") "," CHANGE(
                           "11", "users", "a", "true", "null")),
            NULL) == ROWSYNC_OK,
       "a row moves to another parent, with a value that is in use here, and the old parent goes");
    is(rows(db, "SELECT pk_text, state FROM _sync_held"), "x,2|l,2",
       "it is held, and what went along");
    is(rows(db, "SELECT id FROM notes"), "mine", "and gone from its table");
    app(db, "DELETE FROM lines; DELETE FROM _sync_version WHERE pk = 'l'");
    ok(rowsync_verify(client, 1, &found) == ROWSYNC_OK && found == 0, "no trigger missed it");
    is(rows(db, "SELECT pk FROM _sync_dirty"), "mine", "and nothing is sent of it");
    app(db, "UPDATE notes SET t = '3'");
    pull(PAGE("11", ""), NULL);
    is(rows(db, "SELECT id, u, t FROM notes ORDER BY id"), "mine,b,3|x,b,2",
       "it comes when the value is free");
    close_client(client, db);

    fresh("DELETE FROM lines");
    refuse("lines", "l", "DELETE", "4");
    ok(rowsync_verify(client, 0, &found) == ROWSYNC_OK && found == 0,
       "a deletion that was refused is known too");
    close_client(client, db);
}

/* A row that waits for its parent takes those that follow it along, and they come back with it. */
static void
test_followers(void)
{
    static const char here[] =
        "SELECT (SELECT group_concat(id) FROM (SELECT id FROM notes ORDER BY id)), (SELECT"
        " group_concat(id) FROM lines), (SELECT count(*) FROM _sync_held)";

    fresh("INSERT INTO users VALUES ('mine', 'C')");
    ok(pull(PAGE("11", CHANGE("10", "users", "c", "false", "{\"name\":\"C\"}") "," CHANGE(
                           "11", "notes", "x", "false", "{\"u\":\"c\",\"t\":\"1\"}")),
            NULL) == ROWSYNC_OK,
       "a row moves to a parent whose name is in use here");
    is(rows(db, here), "NULL,NULL,3", "all three wait");
    is(rows(db, "SELECT pk, reason FROM _sync_held WHERE reason NOT LIKE 'UNIQUE%' ORDER BY pk"),
       "l,FOREIGN KEY constraint failed: a row that it refers to is not here|"
       "x,FOREIGN KEY constraint failed: a row that it refers to is not here",
       "for what they refer to");
    is(logged, "a row of users cannot be stored here yet: UNIQUE constraint failed: users.name",
       "and the app's log says why");
    app(db, "UPDATE users SET name = 'D' WHERE id = 'mine'");
    pull(PAGE("11", ""), NULL);
    is(rows(db, here), "x,l,0", "and come when the name is free");
    is(rows(db, "SELECT pk, server_version FROM _sync_version ORDER BY server_version"),
       "a,1|b,2|l,4|c,10|x,11", "with their versions");
    close_client(client, db);
}

#define TWO_USERS                                                                                  \
    SNAPSHOT("[0,1,\"a\",\"A\"]\n[0,2,\"b\",\"B\"]\n",                                             \
             "\"rows\":2,\"digest\":\"5fa1c97e4c126fb5379dfa0ac0c48866\"")

/* What was edited and is given up is fetched again. */
static void
test_discard(void)
{
    rowsync_state state;
    int64_t found = 9;

    fresh("UPDATE users SET name = 'mine'");
    refuse("users", "a", "UPDATE", "1");
    refuse("users", "b", "UPDATE", "2");
    ok(rowsync_discard(client, NULL, NULL) == ROWSYNC_OK, "edits are given up");
    ok(rowsync_verify(client, 0, &found) == ROWSYNC_OK && found == 0, "and no changes unseen");
    ok(rowsync_get_state(client, &state) == ROWSYNC_OK && state.hydrated,
       "all rows have arrived before");
    ok(pull(SNAPSHOT("[0,1,\"a\",\"A\"]\n",
                     "\"rows\":1,\"digest\":\"9486b0a7808eaee06d0df611728520e7\""),
            PAGE("30", "")) == ROWSYNC_OK,
       "the next sync takes a snapshot");
    is(rows(db, "SELECT id, name FROM users"), "a,A",
       "which has what the server has, and not what it deleted meanwhile");
    is(rows(db, "SELECT refill, hydrated FROM _sync_table, _sync_client_info LIMIT 1"), "0,2",
       "once");
    close_client(client, db);
}

/* What is edited after something was given up is an edit of the row that the server has. */
static void
test_edit_after_discard(void)
{
    fresh("ALTER TABLE users ADD COLUMN n INTEGER");
    rowsync_verify(client, 0, NULL);
    app(db, "UPDATE _sync_client_info SET hydrated = 2; UPDATE _sync_table SET refill = 0;"
            "UPDATE users SET name = 'refused' WHERE id = 'a'");
    refuse("users", "a", "UPDATE", "1");
    rowsync_discard(client, "users", "a");
    app(db, "UPDATE users SET n = 5 WHERE id = 'a'");
    is(rows(db, "SELECT op, pk_uuid, d.base_version, changed FROM _sync_pending JOIN _sync_dirty d"
                " ON pk = pk_uuid"),
       "UPDATE,a,1,2", "it is of its columns alone, on the row's version");
    ok(pull(TWO_USERS, PAGE("30", "")) == ROWSYNC_OK, "a snapshot comes");
    is(rows(db, "SELECT id, name, n FROM users ORDER BY id"), "a,A,5|b,B,NULL",
       "the edit stays, what was given up goes");
    close_client(client, db);

    /* As above, and the edit is refused too. */
    fresh("ALTER TABLE users ADD COLUMN n INTEGER");
    rowsync_verify(client, 0, NULL);
    app(db, "UPDATE _sync_client_info SET hydrated = 2; UPDATE _sync_table SET refill = 0;"
            "UPDATE users SET name = 'refused' WHERE id = 'a'");
    refuse("users", "a", "UPDATE", "1");
    rowsync_discard(client, "users", "a");
    app(db, "UPDATE users SET n = 5 WHERE id = 'a'");
    refuse("users", "a", "UPDATE", "1");
    app(db, "UPDATE _sync_rejected SET changed = 2");
    pull(TWO_USERS, PAGE("30", ""));
    is(rows(db, "SELECT name, n, (SELECT count(*) FROM _sync_rejected) FROM users WHERE id = 'a'"),
       "A,5,1", "also where the edit is refused by then");
    close_client(client, db);
}

/* Another handle, opened before, takes the snapshot. */
static void
test_discard_elsewhere(void)
{
    rowsync *other;

    fresh("UPDATE users SET name = 'refused' WHERE id = 'a'");
    refuse("users", "a", "UPDATE", "1");
    rowsync_open(db, NULL, &other);
    ok(rowsync_discard(other, NULL, NULL) == ROWSYNC_OK, "another process gives it up");
    pull(TWO_USERS, PAGE("30", ""));
    is(rows(db, "SELECT id, name FROM users ORDER BY id"), "a,A|b,B", "and this one fetches it");
    rowsync_close(other);
    close_client(client, db);
}

/* Another process sends an edit of the row while the snapshot is on its way. */
static void
send_meanwhile(void *context)
{
    (void)context;
    script.before = NULL;
    app(db, "UPDATE _sync_version SET server_version = 31 WHERE pk = 'a'");
}

static void
test_discard_overtaken(void)
{
    static const char here[] =
        "SELECT name, refill, hydrated FROM users u, _sync_table t, _sync_client_info WHERE"
        " u.id = 'a' AND table_id = 1";

    fresh("UPDATE users SET name = 'refused' WHERE id = 'a'");
    refuse("users", "a", "UPDATE", "1");
    rowsync_discard(client, NULL, NULL);
    script.before = send_meanwhile;
    pull(TWO_USERS, PAGE("30", ""));
    is(rows(db, here), "refused,1,3", "a snapshot that is older than the row is not the last one");
    app(db, "UPDATE _sync_version SET server_version = 1 WHERE pk = 'a'");
    pull(TWO_USERS, PAGE("30", ""));
    is(rows(db, here), "A,0,2", "the next one is");
    close_client(client, db);
}

/* A gateway without snapshots is read from the start. */
static void
test_discard_by_the_log(void)
{
    fresh("UPDATE users SET name = 'refused' WHERE id = 'a'");
    refuse("users", "a", "UPDATE", "1");
    rowsync_discard(client, NULL, NULL);
    pull("404 {}", PAGE("12", CHANGE("1", "users", "a", "false", "{\"name\":\"A\"}")));
    is(rows(db, "SELECT name, refill, hydrated FROM users, _sync_table t, _sync_client_info WHERE"
                " users.id = 'a' AND table_id = 1"),
       "A,0,2", "the log has it");
    close_client(client, db);
}

/* A deletion that is given up. */
static void
test_discard_deletion(void)
{
    static const char here[] = "SELECT (SELECT group_concat(id || n) FROM lines), (SELECT"
                               " group_concat(pk || server_version) FROM _sync_version WHERE"
                               " table_id = 3), (SELECT hydrated FROM _sync_client_info)";
    int64_t found = 9;

    fresh("DELETE FROM lines");
    refuse("lines", "l", "DELETE", "4");
    app(db, "UPDATE _sync_rejected SET payload = '{\"id\":\"l\",\"n\":\"x\"}'");
    ok(rowsync_discard(client, NULL, NULL) == ROWSYNC_OK, "a deletion is given up");
    is(rows(db, here), "lx,l4,3", "the row is back at once, and looked at again");
    close_client(client, db);

    fresh("DELETE FROM lines; DELETE FROM notes");
    refuse("lines", "l", "DELETE", "4");
    app(db, "UPDATE _sync_rejected SET payload = '{\"id\":\"l\",\"n\":\"x\"}'");
    ok(rowsync_discard(client, NULL, NULL) == ROWSYNC_OK, "of a row whose parent is gone");
    is(rows(db, here), "NULL,NULL,3", "it comes with the next sync");
    ok(rowsync_verify(client, 0, &found) == ROWSYNC_OK && found == 0,
       "and is nothing that a trigger missed");
    close_client(client, db);

    fresh("DELETE FROM lines");
    refuse("lines", "l", "DELETE", "4");
    app(db, "UPDATE _sync_rejected SET payload = '{\"id\":\"l\",\"n\":\"x\"}', op = 'INSERT';"
            "UPDATE _sync_version SET deleted = 1 WHERE pk = 'l'; INSERT INTO lines VALUES ('l',"
            " 'x')");
    ok(rowsync_discard(client, NULL, NULL) == ROWSYNC_OK, "a new row where one was deleted before");
    is(rows(db, here), "NULL,l4,2", "goes at once");
    close_client(client, db);
}

/* A row has to go that others refer to: the app is told, and nothing is half done. */
static void
test_discard_what_cannot_go(void)
{
    fresh("INSERT INTO users VALUES ('n', 'N'); INSERT INTO drafts VALUES (1, 'n', NULL)");
    refuse("users", "n", "INSERT", "0");
    ok(rowsync_discard(client, "users", "n") == ROWSYNC_DATABASE &&
           strstr(rowsync_message(client), "refer to what is discarded, which cannot go") != NULL,
       "a table that is not tracked refers to it");
    is(rows(db, "SELECT (SELECT count(*) FROM users WHERE id = 'n'), (SELECT pk FROM"
                " _sync_rejected)"),
       "1,n", "it stays as it was");
    app(db, "DELETE FROM drafts");
    ok(rowsync_discard(client, "users", "n") == ROWSYNC_OK, "until nothing refers to it");
    is(rows(db, "SELECT (SELECT count(*) FROM users WHERE id = 'n'), (SELECT count(*) FROM"
                " _sync_rejected), (SELECT count(*) FROM _sync_edited)"),
       "0,0,0", "then it goes");
    close_client(client, db);

    fresh("INSERT INTO users VALUES ('n', 'N'); INSERT INTO notes VALUES ('m', 'n', '9');"
          "INSERT INTO drafts VALUES (1, NULL, 'm')");
    refuse("users", "n", "INSERT", "0");
    ok(rowsync_discard(client, NULL, NULL) == ROWSYNC_DATABASE, "or to a row that would go along");
    is(rows(db, "SELECT id FROM notes ORDER BY id"), "m|x", "that stays too");
    close_client(client, db);

    fresh("INSERT INTO users VALUES ('n', 'N'); INSERT INTO pins VALUES ('p', 'n')");
    refuse("users", "n", "INSERT", "0");
    refuse("pins", "p", "INSERT", "0");
    ok(rowsync_discard(client, NULL, NULL) == ROWSYNC_OK, "children are given up before parents");
    is(rows(db, "SELECT (SELECT count(*) FROM users WHERE id = 'n'), (SELECT count(*) FROM pins),"
                " (SELECT count(*) FROM _sync_rejected)"),
       "0,0,0", "and all is gone");
    close_client(client, db);
}

/* The same where the app decides for the server, which has deleted the row. */
static void
test_resolve_what_cannot_go(void)
{
    static const char *const drafts[] = {"(1, 'a', NULL)", "(1, NULL, 'x')"};
    char text[512];
    size_t i;

    for (i = 0; i < 2; i++)
    {
        snprintf(text, sizeof(text),
                 "UPDATE users SET name = 'mine' WHERE id = 'a'; INSERT INTO drafts VALUES %s;"
                 "INSERT INTO _sync_held VALUES (1, 'a', 'a', 1, 12, 1, NULL, NULL, 0, 0)",
                 drafts[i]);
        fresh(text);
        ok(rowsync_resolve(client, "users", "a", ROWSYNC_SERVER_WINS) == ROWSYNC_OK,
           "decided for a deletion that cannot be done yet");
        is(rows(db, "SELECT (SELECT count(*) FROM users WHERE id = 'a'), (SELECT count(*) FROM"
                    " _sync_edited), (SELECT count(*) FROM _sync_overwritten), state, deleted FROM"
                    " _sync_held"),
           "1,0,1,2,1", "it is held, the edit is done with");
        app(db, "DELETE FROM drafts");
        pull(PAGE("12", ""), NULL);
        is(rows(
               db,
               "SELECT (SELECT group_concat(id) FROM users), (SELECT count(*) FROM _sync_held WHERE"
               " deleted), (SELECT count(*) FROM _sync_edited)"),
           "b,0,0", "and done when nothing refers to the row");
        close_client(client, db);
    }
}

/*
 * A deletion of the server takes rows with edits along. These are not sent as deletions: what was
 * written is kept, and what the server may have of the row comes with a hydration.
 */
static void
test_taken_along(void)
{
    static const char state[] =
        "SELECT (SELECT group_concat(id) FROM notes), (SELECT group_concat(id) FROM lines), (SELECT"
        " count(*) FROM _sync_pending), hydrated FROM _sync_client_info";
    static const char kept[] =
        "SELECT table_name, op, payload FROM _sync_overwritten ORDER BY table_name, pk_uuid";
    int policy;

    for (policy = ROWSYNC_SERVER_WINS; policy <= ROWSYNC_MERGE; policy++)
    {
        rowsync_track_options options = {.policy = (rowsync_policy)policy};

        fresh("UPDATE users SET name = 'mine' WHERE id = 'b'; INSERT INTO notes VALUES ('n', 'a', "
              "'N');"
              "DELETE FROM lines; INSERT INTO lines VALUES ('m', 'x')");
        rowsync_track(client, "notes", &options);
        rowsync_track(client, "lines", &options);
        ok(pull(PAGE("12", CHANGE("12", "users", "a", "true", "null")), NULL) == ROWSYNC_OK &&
               report.overwritten == 2,
           "a deletion takes new rows along, policy %d", policy);
        is(rows(db, kept),
           "lines,INSERT,{\"id\":\"m\",\"n\":\"x\"}|notes,INSERT,{\"id\":\"n\",\"u\":\"a\",\"t\":"
           "\"N\"}",
           "what was written is kept, also of a row behind one without edits");
        is(rows(db, state), "NULL,NULL,2,2", "what the app deleted and edited elsewhere is sent");
        close_client(client, db);

        fresh("UPDATE notes SET u = 'b', t = 'mine'");
        rowsync_track(client, "notes", &options);
        ok(pull(PAGE("12", CHANGE("12", "users", "b", "true", "null")), NULL) == ROWSYNC_OK,
           "a row was moved to one that is deleted");
        is(rows(db, kept), "notes,UPDATE,{\"id\":\"x\",\"u\":\"b\",\"t\":\"mine\"}",
           "that is kept");
        is(rows(db, state), "NULL,NULL,0,3", "and what the server has of it is fetched");
        close_client(client, db);

        fresh("UPDATE notes SET u = 'b', t = 'mine'");
        rowsync_track(client, "notes", &options);
        pull(PAGE("13", CHANGE("12", "users", "b", "true", "null") "," CHANGE(
                            "13", "notes", "x", "false", "{\"u\":\"a\",\"t\":\"2\"}")),
             NULL);
        is(rows(db, "SELECT n.id, u, t, hydrated FROM notes n, _sync_client_info"), "x,a,2,2",
           "unless it comes");
        close_client(client, db);
    }
}

/* Where the app decides on conflicts, a deletion waits for it. */
static void
test_taken_along_later(void)
{
    rowsync_track_options options = {.policy = ROWSYNC_MANUAL};

    fresh("UPDATE notes SET t = 'mine'; INSERT INTO lines VALUES ('m', 'x');"
          "INSERT INTO _sync_held VALUES (2, 'x', 'x', 1, 11, 1, NULL, NULL, 0, 0)");
    rowsync_track(client, "notes", &options);
    ok(pull(PAGE("12", CHANGE("12", "users", "a", "true", "null")), NULL) == ROWSYNC_OK &&
           report.conflicts == 1,
       "a deletion would take a row along on which the app is to decide");
    is(rows(db, "SELECT t, (SELECT group_concat(op) FROM _sync_pending), (SELECT group_concat(pk ||"
                " state) FROM _sync_held), (SELECT count(*) FROM _sync_overwritten) FROM notes"),
       "mine,UPDATE,INSERT,a2,x1,0", "it waits, and leaves all as it was");
    ok(rowsync_resolve(client, "notes", "x", ROWSYNC_SERVER_WINS) == ROWSYNC_OK, "decided");
    is(rows(db, "SELECT table_name, op FROM _sync_overwritten ORDER BY table_name"),
       "lines,INSERT|notes,UPDATE", "both edits are kept");
    pull(PAGE("12", ""), NULL);
    is(rows(db, "SELECT (SELECT group_concat(id) FROM users), (SELECT count(*) FROM _sync_edited),"
                " (SELECT count(*) FROM _sync_held WHERE deleted)"),
       "b,0,0", "and all goes");
    close_client(client, db);
}

/* Rows that a snapshot lacks take others along, each of them, while the schema has changed. */
static void
test_unseen(void)
{
    static const rowsync_sync_options once = {0, 0, 1};

    fresh("INSERT INTO notes VALUES ('y', 'b', '2'); DELETE FROM _sync_log; INSERT INTO"
          " _sync_version VALUES (2, 'y', 5, 0)");
    script.answers[0] =
        "{\"seq\":30,\"tables\":[{\"schema\":\"public\",\"table\":\"users\",\"key\":[\"id\"],"
        "\"columns\":[\"id\",\"name\"]},{\"schema\":\"public\",\"table\":\"pins\",\"key\":"
        "[\"id\"],\"columns\":[\"id\",\"u\"]}]}\n[1,20,\"p\",null]\n{\"end\":true,\"rows\":1,"
        "\"digest\":\"8a8d5ea76ca3ec10fcd74c2cb44fe478\"}\n";
    script.count = 1;
    ok(rowsync_hydrate(client, &once, &report) == ROWSYNC_OK, "a snapshot without the users");
    is(rows(db, "SELECT count(*) FROM users"), "0", "they go");
    is(rows(db, "SELECT pk_text FROM _sync_held ORDER BY 1"), "l|x|y",
       "and what belongs to them is kept");
    close_client(client, db);
}

int
main(void)
{
    test_verify();
    test_followers();
    test_discard();
    test_edit_after_discard();
    test_discard_elsewhere();
    test_discard_overtaken();
    test_discard_by_the_log();
    test_discard_deletion();
    test_discard_what_cannot_go();
    test_resolve_what_cannot_go();
    test_taken_along();
    test_taken_along_later();
    test_unseen();
    return done();
}
