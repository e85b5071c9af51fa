/*
 * client_upload.c - what goes out, and what each status does: recorded answers of the protocol, and
 * answers of a server that means ill.
 */
#include "client.h"

static const char users_sql[] =
    "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT, n REAL, b BLOB)";

static sqlite3 *db;
static rowsync *client;
static Script script;
static rowsync_report report;

/* The change id of the only pending row, put in place of %ID% of an answer. */
static const char *
with_id(const char *answer)
{
    static char text[8][4096];
    static int slot;
    char *out = text[slot = (slot + 1) % 8];
    char id[32];
    const char *at;

    snprintf(id, sizeof(id), "%s", rows(db, "SELECT max(change_id) FROM _sync_dirty"));
    for (*out = '\0'; (at = strstr(answer, "%ID%")) != NULL; answer = at + 4)
    {
        strncat(out, answer, (size_t)(at - answer));
        strcat(out, id);
    }
    strcat(out, answer);
    return out;
}

/* A device that has what `sql` writes, and so far has nothing to hydrate. */
static void
fresh_with(const char *sql, rowsync_policy policy, rowsync_options options)
{
    static const char *const tracked[] = {"users", NULL};
    rowsync_track_options track = {"business", policy, NULL};

    client = open_scripted(users_sql, tracked, &track, options, &script, &db);
    app(db, "UPDATE _sync_client_info SET hydrated = 2");
    app(db, sql);
}

static void
fresh(const char *sql, rowsync_policy policy)
{
    fresh_with(sql, policy, (rowsync_options){0});
}

static rowsync_code
push(const char *first, const char *second)
{
    rowsync_sync_options options = {0, 0, 1};

    script.answers[0] = with_id(first);
    script.answers[1] = second;
    script.count = second != NULL ? 2 : 1;
    script.asked = 0;
    return rowsync_push(client, &options, &report);
}

#define STATUS(rest)                                                                               \
    "{\"accepted\":true,\"highest_server_seq\":9,\"statuses\":[{\"source_change_id\":%ID%," rest   \
    "}]}"
#define APPLIED STATUS("\"status\":\"applied\",\"new_server_version\":9")
#define INVALID(reason)                                                                            \
    STATUS("\"status\":\"invalid\",\"message\":\"no\",\"invalid\":{\"reason\":\"" reason           \
           "\",\"details\":{\"error\":\"e\"}}")
#define CONFLICT(row)                                                                              \
    STATUS("\"status\":\"conflict\",\"server_row\":{\"schema_name\":\"business\",\"table_name\":"  \
           "\"users\",\"id\":\"a\"," row "}")
#define THEIRS                                                                                     \
    CONFLICT(                                                                                      \
        "\"server_version\":8,\"deleted\":false,\"payload\":{\"id\":\"a\",\"name\":\"Theirs\","    \
        "\"n\":2.5,\"b\":\"AP8=\",\"new\":[1]}")

static const char known[] = "INSERT INTO users VALUES ('a', 'Ann', 1.5, x'01'); DELETE FROM"
                            " _sync_dirty; INSERT INTO _sync_version VALUES (1, 'a', 7, 0);"
                            "UPDATE users SET name = 'Mine'";

static void
edit_again(void *context)
{
    (void)context;
    app(db, "UPDATE users SET n = 99");
}

static void
test_applied(void)
{
    fresh("INSERT INTO users VALUES ('a', 'A\"\n', 0.1 + 0.2, x'00ff')", ROWSYNC_SERVER_WINS);
    ok(push(APPLIED, NULL) == ROWSYNC_OK, "applied");
    ok(strstr(script.request,
              "\"schema\":\"business\",\"table\":\"users\",\"op\":\"INSERT\",\"pk\":\"a\","
              "\"server_version\":0,\"payload\":{\"id\":\"a\",\"name\":\"A\\\"\\n\","
              "\"n\":0.30000000000000004,\"b\":\"AP8=\"}}]}") != NULL,
       "an INSERT sends the whole row, exactly");
    is(rows(db, "SELECT server_version, deleted FROM _sync_row_meta"), "9,0",
       "the version is kept");
    ok(report.applied == 1 && report.rounds == 1 && report.pending == 0, "the report says so");
    app(db, "UPDATE users SET n = 4");
    push(APPLIED, NULL);
    ok(strstr(script.request, "\"op\":\"UPDATE\",\"pk\":\"a\",\"server_version\":9,"
                              "\"payload\":{\"n\":4}}") != NULL,
       "an UPDATE sends the changed columns only");
    app(db, "DELETE FROM users");
    push(STATUS("\"status\":\"applied\",\"new_server_version\":10"), NULL);
    ok(strstr(script.request,
              "\"op\":\"DELETE\",\"pk\":\"a\",\"server_version\":9,\"payload\":"
              "{\"id\":\"a\",\"name\":\"A\\\"\\n\",\"n\":4,\"b\":\"AP8=\"}}") != NULL,
       "a DELETE sends the old row");
    is(rows(db, "SELECT server_version, deleted FROM _sync_row_meta"), "10,1",
       "and leaves a tombstone");
    close_client(client, db);

    fresh("INSERT INTO users VALUES ('a', 'Ann', 1, NULL)", ROWSYNC_SERVER_WINS);
    script.before = edit_again;
    push(APPLIED, NULL);
    is(rows(db, "SELECT base_version, n FROM _sync_dirty, users"), "9,99.0",
       "an edit made while the first is on its way stays pending, on the new version");
    close_client(client, db);

    fresh(known, ROWSYNC_SERVER_WINS);
    script.before = edit_again;
    push(STATUS("\"status\":\"applied\",\"new_server_version\":9,\"server_row\":{\"id\":\"a\","
                "\"server_version\":9,\"deleted\":false,\"payload\":{\"id\":\"a\",\"name\":"
                "\"Other\",\"n\":2.5,\"b\":\"AP8=\"}}"),
         NULL);
    is(rows(db, "SELECT name, n, hex(b), base_version FROM users, _sync_dirty"), "Mine,99.0,00FF,9",
       "what the server made of other columns arrives nevertheless");
    close_client(client, db);

    fresh("INSERT INTO users (id) VALUES ('a')", ROWSYNC_SERVER_WINS);
    push(
        STATUS(
            "\"status\":\"applied\",\"new_server_version\":9,\"server_row\":{\"schema_name\":"
            "\"business\",\"table_name\":\"users\",\"id\":\"a\",\"server_version\":9,\"deleted\":"
            "false,\"payload\":{\"id\":\"a\",\"name\":\"default\",\"n\":\"Infinity\",\"b\":null}}"),
        NULL);
    is(rows(db, "SELECT name, n, b FROM users"), "default,Inf,NULL", "server_row is taken over");
    is(rows(db, "SELECT count(*) FROM _sync_dirty"), "0", "without being captured");
    close_client(client, db);

    /* Changes that the server applied so long ago that it only knows what has become of the row. */
    fresh("INSERT INTO users (id) VALUES ('a')", ROWSYNC_SERVER_WINS);
    push(STATUS("\"status\":\"applied\",\"new_server_version\":9,\"server_row\":{\"id\":\"a\","
                "\"server_version\":9,\"deleted\":true,\"payload\":null}"),
         NULL);
    is(rows(db, "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM _sync_dirty),"
                " server_version, deleted FROM _sync_row_meta"),
       "0,0,9,1", "an inserted row that is gone goes");
    close_client(client, db);

    fresh(known, ROWSYNC_SERVER_WINS);
    app(db, "DELETE FROM users");
    push(STATUS("\"status\":\"applied\",\"new_server_version\":9,\"server_row\":{\"id\":\"a\","
                "\"server_version\":9,\"deleted\":false,\"payload\":{\"id\":\"a\",\"name\":"
                "\"again\",\"n\":1,\"b\":null}}"),
         NULL);
    is(rows(db, "SELECT name, server_version, deleted FROM users, _sync_row_meta"), "again,9,0",
       "a deleted row that is there again comes");
    close_client(client, db);
}

static void
test_conflicts(void)
{
    fresh(known, ROWSYNC_SERVER_WINS);
    ok(push(THEIRS, NULL) == ROWSYNC_OK && report.conflict == 1, "conflict, server wins");
    is(rows(db, "SELECT name, n, hex(b) FROM users"), "Theirs,2.5,00FF", "the row is theirs");
    is(rows(db, "SELECT server_version FROM _sync_row_meta"), "8", "with its version");
    ok(report.pending == 0, "nothing is pending");
    close_client(client, db);

    fresh(known, ROWSYNC_SERVER_WINS);
    push(CONFLICT("\"server_version\":8,\"deleted\":true,\"payload\":null"), NULL);
    is(rows(db, "SELECT (SELECT count(*) FROM users), deleted FROM _sync_row_meta"), "0,1",
       "deleted there: deleted here");
    close_client(client, db);

    fresh(known, ROWSYNC_SERVER_WINS);
    script.before = edit_again;
    push(THEIRS, NULL);
    is(rows(db, "SELECT name, n, base_version FROM users, _sync_dirty"), "Mine,99.0,7",
       "edited since: the conflict is left to the newer edit");
    close_client(client, db);

    fresh(known, ROWSYNC_CLIENT_WINS);
    push(THEIRS, NULL);
    is(rows(db, "SELECT name, n, base_version, changed FROM users, _sync_dirty"), "Mine,2.5,8,1",
       "client wins: the columns edited are sent again, the rest of the row is theirs");
    close_client(client, db);

    fresh(known, ROWSYNC_MERGE);
    push(THEIRS, NULL);
    is(rows(db, "SELECT name, n, count(d.pk) FROM users LEFT JOIN _sync_dirty d"), "Theirs,2.5,0",
       "merge: both changed the column, the server wins");
    close_client(client, db);

    fresh("INSERT INTO users VALUES ('a', 'Theirs', 1.5, x'01'); DELETE FROM _sync_dirty;"
          "INSERT INTO _sync_version VALUES (1, 'a', 7, 0); UPDATE users SET name = 'Mine'",
          ROWSYNC_MERGE);
    push(THEIRS, NULL);
    is(rows(db, "SELECT name, n, base_version, changed FROM users, _sync_dirty"), "Mine,2.5,8,1",
       "merge: each side changed a column of its own, by the base of the edit");
    close_client(client, db);

    fresh(known, ROWSYNC_MERGE);
    push(
        STATUS("\"status\":\"conflict\",\"server_changed\":[\"n\",\"b\"],\"server_row\":{\"server_"
               "version\":8,\"deleted\":false,\"payload\":{\"id\":\"a\",\"name\":\"Ann\",\"n\":2.5,"
               "\"b\":null}}"),
        NULL);
    is(rows(db, "SELECT name, n, base_version, changed FROM users, _sync_dirty"), "Mine,2.5,8,1",
       "merge: likewise by server_changed");
    close_client(client, db);

    fresh(known, ROWSYNC_MANUAL);
    push(THEIRS, NULL);
    ok(report.conflicts == 1 && report.pending == 1, "manual: waits for the app");
    is(rows(db, "SELECT name, json_extract(server_payload, '$.name') FROM users, _sync_conflict"),
       "Mine,Theirs", "with both sides");
    push("{}", NULL);
    ok(report.rounds == 0, "and is not sent meanwhile");
    ok(rowsync_resolve(client, "users", "a", ROWSYNC_CLIENT_WINS) == ROWSYNC_OK, "resolved");
    is(rows(db, "SELECT name, base_version FROM users, _sync_dirty"), "Mine,8",
       "client's side sent");
    ok(rowsync_resolve(client, "users", "a", ROWSYNC_SERVER_WINS) == ROWSYNC_MISUSE, "only once");
    close_client(client, db);

    fresh(known, ROWSYNC_MANUAL);
    push(THEIRS, NULL);
    app(db, "INSERT INTO _sync_rejected (table_id, pk, pk_text, change_id, op, base_version,"
            " changed, reason, payload) SELECT table_id, pk, pk, change_id, 'UPDATE', 7, 1,"
            " 'parent_deleted', '{}' FROM _sync_dirty; DELETE FROM _sync_dirty");
    ok(rowsync_resolve(client, "users", "a", ROWSYNC_SERVER_WINS) == ROWSYNC_OK,
       "a conflict whose edit has become a dead letter");
    is(rows(db, "SELECT name, (SELECT count(*) FROM _sync_conflict), (SELECT count(*) FROM"
                " _sync_rejected) FROM users"),
       "Mine,0,1", "waits no longer, and the dead letter stays");
    close_client(client, db);

    fresh(known, ROWSYNC_SERVER_WINS);
    push(CONFLICT("\"server_version\":0,\"deleted\":true,\"payload\":null"), NULL);
    is(rows(db, "SELECT op, base_version FROM _sync_pending"), "INSERT,0",
       "a row that the server does not know is sent as new, not deleted here");
    close_client(client, db);
}

static void
test_invalid(void)
{
    static const char *const dead[] = {INVALID("bad_payload"), INVALID("constraint"),
                                       INVALID("forbidden"), INVALID("unregistered_table"),
                                       INVALID("something_new")};
    static const char *const waiting[] = {INVALID("fk_missing"), INVALID("internal_error")};
    size_t i;

    for (i = 0; i < sizeof(dead) / sizeof(*dead); i++)
    {
        fresh(known, ROWSYNC_SERVER_WINS);
        /* A constraint is asked about once more, when nothing else can go before it. */
        push(dead[i], i == 1 ? with_id(dead[i]) : NULL);
        ok(report.rejected == 1 && report.pending == 0, "a dead letter: %.120s", dead[i] + 40);
        is(rows(db,
                "SELECT name, op, json_extract(r.payload, '$.name') FROM users, _sync_rejected r"),
           "Mine,UPDATE,Mine", "which the app can see, and the row stays");
        if (i == 0)
        {
            app(db, "UPDATE users SET n = 3");
            push(APPLIED, NULL);
            ok(strstr(script.request, "{\"name\":\"Mine\",\"n\":3}") != NULL,
               "the corrected row is sent with what was refused before");
            ok(report.rejected == 0, "and is no dead letter any more");
        }
        else if (i == 2)
        {
            ok(rowsync_requeue(client, "users", "a") == ROWSYNC_OK, "requeued");
            is(rows(db, "SELECT base_version, changed FROM _sync_dirty"), "7,1", "as it was");
        }
        close_client(client, db);
    }
    for (i = 0; i < sizeof(waiting) / sizeof(*waiting); i++)
    {
        fresh(known, ROWSYNC_SERVER_WINS);
        push(waiting[i], with_id(waiting[i]));
        ok(report.pending == 1, "stays pending: %.80s", waiting[i] + 40);
        is(rows(db,
                "SELECT pk_text, message, json_extract(details, '$.error') FROM _sync_rejected"),
           "a,no,e", "with the reason");
        push(APPLIED, NULL);
        ok(report.pending == 0 && report.rejected == 0, "and is sent again by the next push");
        close_client(client, db);

        fresh("INSERT INTO users (id) VALUES ('a')", ROWSYNC_SERVER_WINS);
        push(waiting[i], with_id(waiting[i]));
        ok(rowsync_requeue(client, "users", "a") == ROWSYNC_OK, "requeued");
        is(rows(db, "SELECT count(*), (SELECT count(*) FROM _sync_rejected) FROM _sync_dirty"),
           "1,0", "it is pending without the reason");
        push(with_id(waiting[i]), with_id(waiting[i]));
        ok(rowsync_discard(client, NULL, NULL) == ROWSYNC_OK, "discarded");
        is(rows(db, "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM _sync_dirty),"
                    " (SELECT count(*) FROM _sync_rejected)"),
           "0,0,0", "nothing of it is left");
        close_client(client, db);
    }
    fresh("INSERT INTO users VALUES ('a', CAST(x'ff' AS TEXT), 1, NULL)", ROWSYNC_SERVER_WINS);
    push("{}", NULL);
    ok(report.rejected == 1 && report.rounds == 0, "text that is not UTF-8 never leaves");
    close_client(client, db);
    fresh(known, ROWSYNC_SERVER_WINS);
    push("413 {}", NULL);
    ok(report.rejected == 1, "a change that is too large by itself is a dead letter");
    close_client(client, db);
    fresh("INSERT INTO users (id) VALUES ('a'); UPDATE users SET id = 'a' WHERE 0;"
          "DELETE FROM _sync_dirty; INSERT INTO _sync_dirty VALUES (1, 'a', 5, 3, 0, NULL, NULL)",
          ROWSYNC_SERVER_WINS);
    push("{}", NULL);
    ok(report.rounds == 0 && report.pending == 0, "a mark that came to nothing is dropped");
    close_client(client, db);
}

/* What loses a conflict is kept; tokens of others are refused. */
/* A push that gets no answer; the client is as after a good call. */
static void
push_unheard(void)
{
    rowsync_state after;

    push("503 {}", NULL);
    rowsync_get_state(client, &after);
}

/* A new row is refused, perhaps edited, and deleted: what the last push sends. */
static void
test_rows_that_never_were(void)
{
    static const struct
    {
        const char *title;
        bool unheard;
        const char *edit, *sent;
    } cases[] = {
        {"a refused row that is deleted is forgotten", false, NULL, NULL},
        {"as is one that was edited and refused again", false, "UPDATE users SET n = 3", NULL},
        {"not one whose edits may have been taken unheard", true, "UPDATE users SET n = 3",
         "\"op\":\"DELETE\""},
        {"nor one that was sent again unheard", true, NULL, "\"op\":\"DELETE\""},
    };
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
    {
        bool refused_first = i != 2;

        fresh("INSERT INTO users VALUES ('a', 'Ann', 1, NULL)", ROWSYNC_SERVER_WINS);
        if (refused_first)
            push(INVALID("bad_payload"), NULL);
        if (cases[i].unheard)
        {
            app(db, "UPDATE users SET n = 2");
            push_unheard();
        }
        if (cases[i].edit != NULL)
        {
            app(db, cases[i].edit);
            push(INVALID("bad_payload"), NULL);
        }
        app(db, "DELETE FROM users");
        *script.request = '\0';
        push("503 {}", NULL);
        ok(cases[i].sent == NULL ? script.asked == 0 && report.pending + report.rejected == 0
                                 : strstr(script.request, cases[i].sent) != NULL,
           "%s", cases[i].title);
        is(rows(db, "SELECT count(*) FROM _sync_version"), "0", "and there is no tombstone");
        close_client(client, db);
    }

    fresh("INSERT INTO users VALUES ('a', 'Ann', 1, NULL)", ROWSYNC_SERVER_WINS);
    push_unheard();
    app(db, "UPDATE users SET n = 3");
    push(INVALID("bad_payload"), NULL);
    ok(rowsync_requeue(client, "users", "a") == ROWSYNC_OK, "requeued");
    push(INVALID("bad_payload"), NULL);
    app(db, "DELETE FROM users");
    push("503 {}", NULL);
    ok(strstr(script.request, "\"op\":\"DELETE\"") != NULL,
       "what was taken unheard is not forgotten by a requeue");
    close_client(client, db);
}

static void
test_users_and_losers(void)
{
    /* {"alg":"none"} . {"sub":"bob"} */
    static const char *const token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJib2IifQ.x";

    fresh(known, ROWSYNC_SERVER_WINS);
    push(THEIRS, NULL);
    is(rows(db, "SELECT pk_uuid, op, base_version, server_version, payload FROM _sync_overwritten"),
       "a,UPDATE,7,8,{\"id\":\"a\",\"name\":\"Mine\",\"n\":1.5,\"b\":\"AQ==\"}",
       "an edit that lost a conflict is kept");
    ok(report.overwritten == 1, "and counted");
    close_client(client, db);

    fresh(known, ROWSYNC_SERVER_WINS);
    app(db, "UPDATE users SET name = 'Theirs'");
    push(THEIRS, NULL);
    ok(report.overwritten == 0, "an edit that says the same loses nothing");
    close_client(client, db);

    fresh(known, ROWSYNC_SERVER_WINS);
    rowsync_set_token(client, token);
    ok(push(APPLIED, NULL) == ROWSYNC_AUTH && script.asked == 0,
       "a token of another user: refused");
    is(rowsync_message(client), "The token is of user \"bob\", the database belongs to \"ann\".",
       "and says whose it is");
    close_client(client, db);
}

/* Tracking again changes only what is given; an edit that survives goes out in the same push. */
static void
test_options_and_renewals(void)
{
    fresh(known, ROWSYNC_SERVER_WINS);
    app(db, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT"
            " INTO _sync_overwritten (table_name, pk_uuid, op, base_version, server_version) SELECT"
            " 'users', i, 'UPDATE', 1, 2 FROM n");
    push(THEIRS, NULL);
    is(rows(db, "SELECT count(*), min(id), max(pk_uuid) FROM _sync_overwritten"), "1000,2,a",
       "the last thousand of what lost is kept");
    close_client(client, db);

    static const char *const local[] = {"n", NULL}, *const wrong[] = {"m", NULL};
    rowsync_track_options track = {NULL, ROWSYNC_KEEP_POLICY, local};

    fresh("", ROWSYNC_MERGE);
    ok(rowsync_track(client, "users", &track) == ROWSYNC_OK &&
           rowsync_track(client, "users", NULL) == ROWSYNC_OK,
       "tracked again");
    is(rows(db, "SELECT schema_name, policy, local_columns FROM _sync_table"), "business,2,[\"n\"]",
       "what was not given stays");
    track.local_columns = wrong;
    ok(rowsync_track(client, "users", &track) == ROWSYNC_SCHEMA, "unknown local columns: refused");
    is(rowsync_message(client), "Table \"users\" has no column \"m\" to keep local.", "by name");
    close_client(client, db);

    fresh(known, ROWSYNC_CLIENT_WINS);
    push(THEIRS, "{}");
    ok(script.asked == 2 &&
           strstr(script.request, "\"server_version\":8,\"payload\":{\"name\":\"Mine\"}}") != NULL,
       "an edit that won its conflict is sent again by the same push");
    close_client(client, db);
}

#define SNAPSHOT                                                                                   \
    "{\"seq\":9,\"tables\":[{\"schema\":\"business\",\"table\":\"users\",\"key\":[\"id\"],"        \
    "\"columns\":"                                                                                 \
    "[\"id\",\"name\",\"extra\",\"n\"]}]}\n[0,7,\"a\",\"Ann\",\"theirs\",2.5]\n"                   \
    "[0,3,\"b\",\"B\",\"more\",1]\n{\"end\":true,\"rows\":2,\"digest\":"                           \
    "\"4e21cd25f7e0f1a8d1e2b9020b69f797\"}\n"
static char told[512]; /* what the conflict callback was told */

/* The app's function: goes by what the row says here. */
static rowsync_policy
decide(void *context, const rowsync_conflict *conflict)
{
    snprintf(told, sizeof(told), "%s %s %lld %lld %s %s", conflict->table, conflict->pk,
             (long long)conflict->base_version, (long long)conflict->server_version,
             conflict->local_payload != NULL ? conflict->local_payload : "-",
             conflict->server_payload != NULL ? conflict->server_payload : "-");
    return *(const rowsync_policy *)context;
}

/* The app decides, whatever the policy of the table is. */
static void
test_conflict_callback(void)
{
    static const struct
    {
        rowsync_policy answer;
        const char *name;
        const char *left; /* the row's name, edits pending, edits overwritten, conflicts kept */
    } cases[] = {{ROWSYNC_SERVER_WINS, "server", "Theirs,0,1,0"},
                 {ROWSYNC_CLIENT_WINS, "client", "Mine,1,0,0"},
                 {ROWSYNC_MERGE, "merge", "Theirs,0,1,0"},
                 {ROWSYNC_MANUAL, "manual", "Mine,1,0,1"}};
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
    {
        rowsync_policy answer = cases[i].answer;

        fresh_with(known, ROWSYNC_CLIENT_WINS,
                   (rowsync_options){.conflict = decide, .context = &answer});
        push(THEIRS, "503 {}");
        is(rows(db, "SELECT name, (SELECT count(*) FROM _sync_dirty), (SELECT count(*) FROM"
                    " _sync_overwritten), (SELECT count(*) FROM _sync_conflict) FROM users"),
           cases[i].left, cases[i].name);
        ok(strncmp(told, "users a 7 8 {\"id\":\"a\",\"name\":\"Mine\"", 35) == 0 &&
               strstr(told, "\"name\":\"Theirs\"") != NULL,
           "by both sides: %s", told);
        if (answer == ROWSYNC_MANUAL)
        {
            app(db,
                "UPDATE users SET b = x'00112233445566778899aabbccddeeff'; DELETE FROM _sync_held");
            push(CONFLICT(
                     "\"server_version\":9,\"deleted\":false,\"payload\":{\"name\":"
                     "\"Theirs\",\"b\":\"00112233-4455-6677-8899-AABBCCDDEEFF\",\"n\":\"1.50\"}"),
                 "503 {}");
            ok(strstr(told, "\"n\":\"1.50\",\"b\":\"00112233-4455-6677-8899-AABBCCDDEEFF\"} {") !=
                   NULL,
               "what means the same is written alike: %s", told);
        }
        close_client(client, db);
    }
}

/* The server spells keys otherwise: in a conflict, and keys of several columns. */
static void
test_respelled_keys(void)
{
    fresh("INSERT INTO users VALUES ('A', 'Mine', 1, NULL)", ROWSYNC_SERVER_WINS);
    push(THEIRS, NULL);
    is(rows(db, "SELECT id, name FROM users"), "a,Theirs", "a conflict: one row, by its right key");
    is(rows(db, "SELECT pk_uuid, server_version FROM _sync_row_meta"), "a,8", "and one version");
    close_client(client, db);

    fresh("CREATE TABLE rooms (h TEXT, n TEXT, v TEXT, PRIMARY KEY (n, h)) WITHOUT ROWID;"
          "CREATE TABLE beds (id INTEGER PRIMARY KEY, h TEXT, n TEXT, FOREIGN KEY (h, n) REFERENCES"
          " rooms (h, n) DEFERRABLE INITIALLY DEFERRED)",
          ROWSYNC_SERVER_WINS);
    rowsync_track(client, "rooms", NULL);
    app(db, "INSERT INTO rooms VALUES ('H', 'N', 'v'), ('I', 'N', 'w'); INSERT INTO beds VALUES"
            " (1, 'H', 'N'), (2, 'I', 'N'), (3, NULL, 'N'); DELETE FROM _sync_log WHERE seq > 1;"
            "UPDATE _sync_client_info SET hydrated = 2");
    rowsync_verify(client, 0, NULL);
    ok(push(STATUS("\"status\":\"applied\",\"new_server_version\":9,\"server_row\":{\"id\":"
                   "\"[\\\"n\\\",\\\"h\\\"]\",\"server_version\":9,\"deleted\":false,\"payload\":{"
                   "\"h\":"
                   "\"h\",\"n\":\"n\",\"v\":\"v\"}}"),
            NULL) == ROWSYNC_OK,
       "a key of two columns");
    is(rows(db, "SELECT n, h, v FROM rooms"), "N,I,w|n,h,v", "is taken over");
    is(rows(db, "SELECT h, n FROM beds"), "h,n|I,N|NULL,N", "and so are references to it alone");
    close_client(client, db);
}

static const char two[] =
    "INSERT INTO users VALUES ('a', 'Ann', 1.5, NULL), ('b', 'B', 1, NULL); DELETE FROM _sync_log;"
    "INSERT INTO _sync_version VALUES (1, 'a', 7, 0), (1, 'b', 3, 0)";

/* Pulls the snapshot in and sends what is still pending. */
static void
refill(void)
{
    rowsync_sync_options options = {0, 0, 1};

    script.answers[0] = SNAPSHOT;
    script.answers[1] = "{\"changes\":[],\"has_more\":false,\"next_after\":9,\"window_until\":9}";
    script.count = 2;
    script.asked = 0;
    rowsync_pull(client, &options, &report);
    push(APPLIED, NULL);
}

/*
 * Migrations of the app: a column is added, and filled or not, before the library has seen it. Rows
 * that are there get what the server has in it; edits of the app stay, and send what they changed.
 */
static void
test_new_column(void)
{
    char sent[32];

    fresh(two, ROWSYNC_SERVER_WINS);
    app(db, "UPDATE users SET name = 'Mine' WHERE id = 'a';"
            "ALTER TABLE users ADD COLUMN extra TEXT DEFAULT 'd'");
    refill();
    is(rows(db, "SELECT id, name, extra, n FROM users ORDER BY id"),
       "a,Mine,theirs,2.5|b,B,more,1.0",
       "rows that are there get what the server has in it, edits stay");
    ok(strstr(script.request, "\"payload\":{\"name\":\"Mine\"}") != NULL,
       "and send what they changed: %s", script.request);
    is(rows(db, "SELECT hydrated, (SELECT refill FROM _sync_table) FROM _sync_client_info"), "2,0",
       "once");
    close_client(client, db);

    fresh(two, ROWSYNC_SERVER_WINS);
    app(db, "UPDATE users SET name = 'Mine' WHERE id = 'a'");
    snprintf(sent, sizeof(sent), "%s", rows(db, "SELECT change_id FROM _sync_dirty"));
    app(db, "ALTER TABLE users ADD COLUMN extra TEXT");
    rowsync_verify(client, 0, NULL);
    is(rows(db, "SELECT change_id FROM _sync_dirty"), sent,
       "an edit of before may have been sent, and is known by its number");
    app(db, "INSERT INTO users (id) VALUES ('new')");
    snprintf(sent, sizeof(sent), "%s",
             rows(db, "SELECT change_id FROM _sync_dirty WHERE pk = 'new'"));
    app(db, "ALTER TABLE users ADD COLUMN more TEXT");
    rowsync_verify(client, 0, NULL);
    ok(strcmp(rows(db, "SELECT change_id FROM _sync_dirty WHERE pk = 'new'"), sent) > 0,
       "a new row, which has a column more, gets another one");
    app(db, "DELETE FROM users WHERE id = 'new'; DELETE FROM _sync_dirty WHERE pk = 'new'");
    ok(push(APPLIED, SNAPSHOT) == ROWSYNC_OK && report.applied == 1,
       "and goes out before the snapshot comes");
    close_client(client, db);

    fresh(two, ROWSYNC_SERVER_WINS);
    app(db, "ALTER TABLE users ADD COLUMN extra TEXT; UPDATE users SET extra = 'e' WHERE id = 'a'");
    refill();
    is(rows(db, "SELECT id, extra FROM users ORDER BY id"), "a,e|b,more",
       "a first edit of it stays");
    ok(strstr(script.request, "\"payload\":{\"extra\":\"e\"}") != NULL, "and is sent: %s",
       script.request);
    close_client(client, db);

    fresh(two, ROWSYNC_SERVER_WINS);
    app(db, "UPDATE users SET name = 'Mine' WHERE id = 'a'");
    rowsync_verify(client, 0, NULL);
    push(INVALID("forbidden"), NULL);
    app(db, "UPDATE users SET n = 3 WHERE id = 'b'");
    ok(app(db, "ALTER TABLE users DROP COLUMN name") == SQLITE_ERROR,
       "SQLite refuses to drop a column that triggers name");
    ok(app(db, "DROP VIEW _sync_pending; DROP TRIGGER _sync_users_update; DROP TRIGGER"
               " _sync_users_insert; DROP TRIGGER _sync_users_delete; DROP TRIGGER"
               " _sync_users_rekey; ALTER TABLE users DROP COLUMN name;"
               "ALTER TABLE users ADD COLUMN extra TEXT") == SQLITE_OK,
       "but not without them");
    refill();
    ok(strstr(script.request, "\"payload\":{\"n\":3}") != NULL,
       "a column is dropped: edits of others are sent as they are: %s", script.request);
    is(rows(db, "SELECT changed FROM _sync_rejected"), "0", "what was refused of it is forgotten");
    close_client(client, db);
}

static const char *meanwhile;

/* What another process does while the answer is on its way. */
static void
another_process(void *context)
{
    (void)context;
    app(db, meanwhile);
}

static void
test_two_processes(void)
{
    fresh(known, ROWSYNC_SERVER_WINS);
    script.before = another_process;
    meanwhile = "INSERT INTO _sync_rejected (table_id, pk, pk_text, change_id, op, base_version,"
                " changed, reason) SELECT table_id, pk, pk, change_id, 'UPDATE', 7, 1, 'forbidden'"
                " FROM _sync_dirty; DELETE FROM _sync_dirty";
    ok(push(INVALID("forbidden"), NULL) == ROWSYNC_OK, "two processes get the same refusal");
    is(rows(db, "SELECT reason FROM _sync_rejected"), "forbidden", "the dead letter stays");
    close_client(client, db);

    fresh(known, ROWSYNC_SERVER_WINS);
    script.before = another_process;
    meanwhile = "UPDATE users SET n = 5; INSERT INTO _sync_rejected (table_id, pk, pk_text,"
                " change_id, op, base_version, changed, reason) SELECT table_id, pk, pk, change_id,"
                " 'UPDATE', 7, 1, 'forbidden' FROM _sync_dirty; DELETE FROM _sync_dirty";
    ok(push(APPLIED, NULL) == ROWSYNC_OK, "an edit is taken after a later one was refused");
    is(rows(db, "SELECT reason FROM _sync_rejected"), "forbidden",
       "the later one's dead letter stays");
    close_client(client, db);

    fresh(known, ROWSYNC_SERVER_WINS);
    script.before = another_process;
    meanwhile = "INSERT OR IGNORE INTO _sync_held (table_id, pk, pk_text, state, server_version,"
                " deleted, payload) VALUES (1, 'a', 'a', 0, 12, 0, '{\"name\":\"Later\"}')";
    ok(push(THEIRS, "503 {}") == ROWSYNC_UNAVAILABLE,
       "an edit meets a conflict of which another process has fetched more: it is sent again");
    is(rows(db, "SELECT name, server_version, (SELECT count(*) FROM _sync_dirty) FROM users,"
                " _sync_held"),
       "Mine,12,1", "and nothing is decided by what was");
    push(CONFLICT("\"server_version\":12,\"deleted\":false,\"payload\":{\"name\":\"Later\"}"),
         NULL);
    is(rows(db, "SELECT name, v.server_version, (SELECT count(*) FROM _sync_held) FROM users,"
                " _sync_version v"),
       "Later,12,0", "until the server says the same");
    close_client(client, db);

    fresh(known, ROWSYNC_MANUAL);
    script.before = another_process;
    meanwhile = "INSERT INTO _sync_held (table_id, pk, pk_text, state, server_version, deleted,"
                " payload) VALUES (1, 'a', 'a', 1, 8, 0, '{\"name\":\"Theirs\"}')";
    ok(push(APPLIED, NULL) == ROWSYNC_OK, "an edit is taken that another process asks the app of");
    is(rows(db, "SELECT name, (SELECT count(*) FROM _sync_dirty), (SELECT count(*) FROM"
                " _sync_held) FROM users"),
       "Mine,0,0", "there is nothing to decide then");
    close_client(client, db);

    fresh(known, ROWSYNC_MANUAL);
    app(db, "INSERT INTO _sync_held (table_id, pk, pk_text, state, server_version, deleted)"
            " VALUES (1, 'a', 'a', 0, 15, 1)");
    push(CONFLICT("\"server_version\":12,\"deleted\":true,\"payload\":null"), NULL);
    is(rows(db, "SELECT pk_uuid, server_version, server_deleted FROM _sync_conflict"), "a,12,1",
       "a deletion that a hydration knew of is told by the answer");
    close_client(client, db);

    fresh(known, ROWSYNC_MANUAL);
    ok(push(CONFLICT("\"server_version\":9,\"deleted\":false,\"payload\":{\"id\":\"a\","
                     "\"name\":\"Mine\",\"n\":1.5,\"b\":\"AQ==\"}"),
            NULL) == ROWSYNC_OK,
       "what both sides say");
    is(rows(db, "SELECT server_version, (SELECT count(*) FROM _sync_dirty), (SELECT count(*) FROM"
                " _sync_held), (SELECT count(*) FROM _sync_overwritten) FROM _sync_version"),
       "9,0,0,0", "is no conflict that waits");
    close_client(client, db);

    fresh(known, ROWSYNC_SERVER_WINS);
    app(db, "UPDATE _sync_client_info SET next_change_id = 5; UPDATE users SET n = 8");
    is(rows(db, "SELECT change_id > 1000000000000000 FROM _sync_dirty"), "1",
       "an edit in a restored copy of the file gets a number that was never given");
    close_client(client, db);
}

static void
test_hostile(void)
{
    static const char *const answers[] = {
        "",
        "null",
        "[]",
        "{}",
        "{\"statuses\":[]}",
        "{\"statuses\":{}}",
        "{\"statuses\":[1]}",
        STATUS("\"status\":\"applied\""),
        STATUS("\"status\":\"applied\",\"new_server_version\":-1"),
        STATUS("\"status\":\"applied\",\"new_server_version\":99999999999999999999"),
        STATUS("\"status\":7"),
        STATUS("\"status\":\"fine\""),
        STATUS("\"status\":\"conflict\""),
        STATUS("\"status\":\"conflict\",\"server_row\":{\"server_version\":\"1\"}"),
        STATUS("\"status\":\"conflict\",\"server_row\":[]"),
        STATUS("\"status\":\"invalid\""),
        STATUS("\"status\":\"invalid\",\"invalid\":{\"details\":{}}"),
        "{\"statuses\":[{\"source_change_id\":1,\"status\":\"applied\",\"new_server_version\":1}]}",
        APPLIED "x",
        "{\"statuses\":[{\"source_change_id\":%ID%,\"status\":\"applied\",",
        "302 <html>",
        "404 not here",
        "400 {\"detail\":\"d\",\"hint\":\"h\",\"code\":1}"};
    size_t i;

    for (i = 0; i < sizeof(answers) / sizeof(*answers); i++)
    {
        fresh(known, ROWSYNC_SERVER_WINS);
        ok(push(answers[i], NULL) != ROWSYNC_OK, "refused: %.60s", answers[i]);
        is(rows(db, "SELECT name, server_version, d.base_version FROM users, _sync_row_meta,"
                    " _sync_dirty d"),
           "Mine,7,7", "and nothing has changed");
        ok(*rowsync_message(client) != '\0' && *rowsync_hint(client) != '\0',
           "with a message and a hint: %.60s", rowsync_message(client));
        close_client(client, db);
    }
}

int
main(void)
{
    test_applied();
    test_conflicts();
    test_invalid();
    test_rows_that_never_were();
    test_users_and_losers();
    test_options_and_renewals();
    test_conflict_callback();
    test_respelled_keys();
    test_new_column();
    test_two_processes();
    test_hostile();
    return done();
}
