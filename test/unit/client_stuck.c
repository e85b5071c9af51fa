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
    static const char *const tracked[] = {"memo", NULL};
    rowsync_track_options track = {"public", policy, NULL};

    client = open_scripted(sql, tracked, &track, (rowsync_options){0}, &script, &db);
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

/* Pulls this, or nothing, which tries again what is held. */
static void
pull(const char *changes)
{
    static char page[2048];

    snprintf(page, sizeof(page),
             "{\"changes\":[%s],\"has_more\":false,\"next_after\":9,\"window_until\":9}", changes);
    script.answers[0] = page;
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
    pull("");
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
    pull("");
    is(rows(db, "SELECT count(*) FROM _sync_held"), "1", "as long as it cannot be stored");
    app(db, "PRAGMA ignore_check_constraints = ON");
    pull("");
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

#define PART(version, pk, payload)                                                                 \
    "{\"schema\":\"public\",\"table\":\"part\",\"pk\":\"" pk "\",\"server_version\":" version      \
    ",\"deleted\":false,\"payload\":" payload "}"

/*
 * Columns that the server has not, or no more: what they ask of a new row is not asked of one that
 * is there.
 */
static void
test_left_out(void)
{
    static const char *const local[] = {"gone", NULL};
    static const struct
    {
        const char *what, *create, *sent, *there, *reason;
        bool keep;
    } cases[] = {
        {"NOT NULL", "a TEXT, gone TEXT NOT NULL", "\"a\":\"new\"", "new,1",
         "NOT NULL constraint failed: part.gone", false},
        {"NOT NULL, local", "a TEXT, gone TEXT NOT NULL", "\"a\":\"new\"", "new,1",
         "NOT NULL constraint failed: part.gone", true},
        {"NOT NULL, as all of the server's columns", "a TEXT, gone TEXT NOT NULL DEFAULT NULL",
         "\"id\":\"r\"", "old,1", "NOT NULL constraint failed: part.gone", true},
        {"a CHECK", "a TEXT, gone TEXT, CONSTRAINT any CHECK (a IS NOT NULL OR gone IS NOT NULL)",
         "\"a\":null", "NULL,1", "CHECK constraint failed: any", true},
    };
    rowsync_track_options track = {0};
    char text[1024];
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
    {
        fresh("", ROWSYNC_SERVER_WINS);
        snprintf(text, sizeof(text), "CREATE TABLE part (id TEXT PRIMARY KEY NOT NULL, %s)",
                 cases[i].create);
        app(db, text);
        track.local_columns = cases[i].keep ? local : NULL;
        rowsync_track(client, "part", &track);
        app(db, "INSERT INTO part VALUES ('r', 'old', '1'); DELETE FROM _sync_log; INSERT INTO"
                " _sync_version VALUES (2, 'r', 5, 0); UPDATE _sync_client_info SET hydrated = 2");
        snprintf(text, sizeof(text), PART("6", "r", "{%s}") "," PART("7", "s", "{%s}"),
                 cases[i].sent, cases[i].sent);
        pull(text);
        is(rows(db, "SELECT a, gone FROM part"), cases[i].there, cases[i].what);
        snprintf(text, sizeof(text), "s,%s", cases[i].reason);
        is(rows(db, "SELECT pk, reason FROM _sync_held"), text, "a new row is held, and says why");
        close_client(client, db);
    }
}

int
main(void)
{
    test_edit(ROWSYNC_CLIENT_WINS);
    test_edit(ROWSYNC_MERGE);
    test_edit_again();
    test_told();
    test_left_out();
    return done();
}
