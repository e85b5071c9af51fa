/*
 * client_stuck.c - edits of a row that the server has changed to what the table here cannot take:
 * nothing of the server's goes back, nothing that was written here is lost.
 */
#include "client.h"

static const char sql[] = "CREATE TABLE memo (id TEXT PRIMARY KEY NOT NULL, a TEXT CONSTRAINT short"
                          " CHECK (length(a) < 3), b TEXT, c TEXT)";
/* The server's a came with version 8; what is here is of version 5. */
static const char stuck[] =
    "INSERT INTO memo VALUES ('r', '1', 'x', 'y'); DELETE FROM _sync_log;"
    "INSERT INTO _sync_version VALUES (1, 'r', 5, 0); INSERT INTO _sync_held VALUES (1, 'r', 'r', "
    "2,"
    " 8, 0, '{\"id\":\"r\",\"a\":\"long\",\"b\":\"x\",\"c\":\"y\"}', 'before', 0, 0)";
static const char state[] =
    "SELECT a, b, c, (SELECT server_version FROM _sync_version), (SELECT server_version || payload"
    " || reason FROM _sync_held), (SELECT base_version || ' ' || changed FROM _sync_dirty) FROM"
    " memo";

static sqlite3 *db;
static rowsync *client;
static Script script;

static void
fresh(const char *more, rowsync_policy policy)
{
    rowsync_transport transport = {&script, scripted, NULL};
    rowsync_options options = {.transport = &transport};
    rowsync_track_options track = {"public", policy, NULL};

    memset(&script, 0, sizeof(script));
    client = open_client(sql, &options, &db);
    rowsync_track(client, "memo", &track);
    rowsync_attach(client, "http://sync.test", "ann", "phone");
    rowsync_set_token(client, "t");
    app(db, "UPDATE _sync_client_info SET hydrated = 2");
    app(db, more);
}

/* Pushes; the one pending change gets this status, and a request after it no answer. */
static void
push(const char *status)
{
    static char answer[4096];
    rowsync_sync_options options = {0, 0, 1};
    rowsync_report report;

    rowsync_verify(client, 0, NULL); /* folds */
    snprintf(
        answer, sizeof(answer),
        "{\"accepted\":true,\"highest_server_seq\":9,\"statuses\":[{\"source_change_id\":%s,%s}]}",
        rows(db, "SELECT change_id FROM _sync_dirty"), status);
    script.answers[0] = answer;
    script.count = 1;
    script.asked = 0;
    rowsync_push(client, &options, &report);
}

/* Pulls nothing, which tries again what is held. */
static void
pull(void)
{
    script.answers[0] = "{\"changes\":[],\"has_more\":false,\"next_after\":9,\"window_until\":9}";
    script.count = 1;
    script.asked = 0;
    rowsync_pull(client, NULL, NULL);
}

#define APPLIED "\"status\":\"applied\",\"new_server_version\":9"
#define ROW(version, payload)                                                                      \
    "\"server_row\":{\"schema_name\":\"public\",\"table_name\":\"memo\",\"id\":\"r\","             \
    "\"server_version\":" version ",\"deleted\":false,\"payload\":" payload "}"
#define CONFLICT                                                                                   \
    "\"status\":\"conflict\",\"server_changed\":[\"a\"]," ROW(                                     \
        "8", "{\"id\":\"r\",\"a\":\"long\",\"b\":\"x\",\"c\":\"y\"}")
#define CHECK "CHECK constraint failed: short"

static void
edit_meanwhile(void *context)
{
    (void)context;
    app(db, "UPDATE memo SET b = 'more'");
    script.before = NULL;
}

/* What is sent is what was edited, and what is held is what the server has with it. */
static void
test_edit(rowsync_policy policy)
{
    fresh(stuck, policy);
    app(db, "UPDATE memo SET b = 'mine'");
    push(CONFLICT);
    ok(strstr(script.request, "\"server_version\":8,\"payload\":{\"b\":\"mine\"}") != NULL,
       "policy %d: the edited column is sent on the server's version", policy);
    is(rows(db, state),
       "1,mine,y,5,8{\"id\":\"r\",\"a\":\"long\",\"b\":\"x\",\"c\":\"y\"}" CHECK ",8 2",
       "the row stays, and what the server has is held");
    push(APPLIED);
    is(rows(db, state),
       "1,mine,y,5,9{\"id\":\"r\",\"a\":\"long\",\"b\":\"mine\",\"c\":\"y\"}" CHECK ",NULL",
       "taken: it is held with the edit");
    app(db, "PRAGMA ignore_check_constraints = ON");
    pull();
    is(rows(db, state), "long,mine,y,9,NULL,NULL", "and comes with it");
    close_client(client, db);
}

/* Who edits a row that is held has not seen what is. */
static void
test_edit_again(void)
{
    fresh(stuck, ROWSYNC_MERGE);
    app(db, "UPDATE memo SET b = 'mine'");
    push(CONFLICT);
    app(db, "UPDATE memo SET a = '9'");
    push(CONFLICT);
    ok(strstr(script.request, "\"server_version\":8,\"payload\":{\"b\":\"mine\"}") != NULL,
       "an edit of the server's column, made after another was put on its version, is none on it");
    is(rows(db, "SELECT payload FROM _sync_overwritten"),
       "{\"id\":\"r\",\"a\":\"9\",\"b\":\"mine\",\"c\":\"y\"}", "it lost, and is kept");

    script.before = edit_meanwhile;
    push(APPLIED);
    is(rows(db, state),
       "9,more,y,5,9{\"id\":\"r\",\"a\":\"long\",\"b\":\"mine\",\"c\":\"y\"}" CHECK ",5 2",
       "an edit made while another is on its way stays pending, on what is here");
    close_client(client, db);
}

/* The answer tells what the server made of the row. */
static void
test_told(void)
{
    static const char told[] =
        APPLIED "," ROW("9", "{\"id\":\"r\",\"a\":\"longer\",\"b\":\"MINE\",\"c\":\"y\"}");
    static const char *const expected =
        "1,mine,y,5,9{\"id\":\"r\",\"a\":\"longer\",\"b\":\"MINE\",\"c\":\"y\"}" CHECK ",NULL";

    fresh(stuck, ROWSYNC_CLIENT_WINS);
    app(db, "UPDATE memo SET b = 'mine'");
    push(told);
    is(rows(db, state), expected, "that is held");
    close_client(client, db);

    fresh("INSERT INTO memo VALUES ('r', '1', 'mine', 'y')", ROWSYNC_SERVER_WINS);
    push(told);
    is(rows(db, "SELECT a, b, (SELECT count(*) FROM _sync_edited), (SELECT state || reason FROM"
                " _sync_held) FROM memo"),
       "1,mine,0,2" CHECK, "of a row that was not held too");
    pull();
    is(rows(db, "SELECT count(*) FROM _sync_held"), "1", "as long as it cannot be stored");
    app(db, "PRAGMA ignore_check_constraints = ON");
    pull();
    is(rows(db, state), "longer,MINE,y,9,NULL,NULL", "then it comes");
    close_client(client, db);

    fresh("INSERT INTO memo VALUES ('r', '1', 'x', 'y'); DELETE FROM _sync_log;"
          "INSERT INTO _sync_version VALUES (1, 'r', 5, 0); UPDATE memo SET b = 'mine'",
          ROWSYNC_SERVER_WINS);
    script.before = edit_meanwhile;
    push(told);
    is(rows(db, "SELECT a, b, (SELECT state || reason FROM _sync_held), base_version FROM memo,"
                " _sync_dirty"),
       "1,more,2" CHECK ",9", "of one that was edited since");
    close_client(client, db);
}

int
main(void)
{
    test_edit(ROWSYNC_CLIENT_WINS);
    test_edit(ROWSYNC_MERGE);
    test_edit_again();
    test_told();
    return done();
}
