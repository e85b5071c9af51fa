/*
 * client_wire.c - what the client makes of every answer that docs/protocol.md lists, and of answers
 * that no server should give. A status, a reason or a code that stands there and has no case here
 * fails the test.
 */
#include "client.h"

#include <malloc.h>
#include <stdint.h>

static const char tables[] = "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT, n INTEGER);"
                             "CREATE TABLE posts (id TEXT PRIMARY KEY, u TEXT REFERENCES users)";

static sqlite3 *db;
static rowsync *client;
static Script script;
static rowsync_report report;
static int renewals;

/* The app's fresh token. */
static int
fresh_token(void *context, char *token, size_t size)
{
    (void)context;
    renewals++;
    return snprintf(token, size, "fresh") < 0;
}

/* A device that has one row of the server, and edits. */
static void
fresh(const char *edits)
{
    static const char *const tracked[] = {"users", "posts", NULL};

    renewals = 0;
    client =
        open_scripted(tables, tracked, NULL, (rowsync_options){.token = fresh_token}, &script, &db);
    app(db, "UPDATE _sync_client_info SET hydrated = 2, last_server_seq_seen = 4, epoch = 1");
    app(db, edits);
}

/* What is there, for comparison. */
static const char *
state(void)
{
    return rows(db, "SELECT (SELECT group_concat(id || name || n) FROM (SELECT * FROM users ORDER"
                    " BY id)), (SELECT group_concat(pk_uuid || op || base_version) FROM"
                    " _sync_pending), (SELECT group_concat(pk_text || reason) FROM _sync_rejected),"
                    " (SELECT count(*) FROM _sync_overwritten), last_server_seq_seen, hydrated"
                    " FROM _sync_client_info");
}

/* Pushes, the answers being these; $1, $2 … in them stand for the change ids. */
static rowsync_code
push(const char *first, const char *second)
{
    static char texts[2][4096];
    const char *const answers[] = {first, second};
    rowsync_sync_options options = {0, 0, 1};
    int i;

    script.count = script.asked = 0;
    for (i = 0; i < 2 && answers[i] != NULL; i++)
    {
        const char *in = answers[i];
        char *out = texts[i];

        for (; *in != '\0'; in++)
            if (*in == '$')
            {
                char sql[128];

                /* As they stand in the queue when the request is made: what pends, oldest first. */
                snprintf(sql, sizeof(sql),
                         "SELECT coalesce((SELECT change_id FROM _sync_dirty ORDER BY queued LIMIT"
                         " 1 OFFSET %c - 1), 0)",
                         *++in);
                out += sprintf(out, "%s", rows(db, sql));
            }
            else
                *out++ = *in;
        *out = '\0';
        script.answers[script.count++] = texts[i];
    }
    return rowsync_push(client, &options, &report);
}

#define ONE(status) "{\"accepted\":true,\"statuses\":[{\"source_change_id\":$1," status "}]}"
#define INVALID(reason)                                                                            \
    ONE("\"status\":\"invalid\",\"message\":\"why\",\"invalid\":{\"reason\":\"" reason             \
        "\",\"details\":{\"error\":\"e\",\"missing\":[\"public.users:z\"],\"limit\":1}}")
#define ROW(version, payload)                                                                      \
    "\"server_row\":{\"schema_name\":\"public\",\"table_name\":\"users\",\"id\":\"a\","            \
    "\"server_version\":" version ",\"deleted\":false,\"payload\":" payload "}"

/* One INSERT is pending; its answer, and what is there then. */
typedef struct StatusCase
{
    const char *name; /* in the protocol's tables of statuses and of reasons */
    const char *answer;
    rowsync_code code;
    const char *state;
} StatusCase;

static const StatusCase status_cases[] = {
    {"applied", ONE("\"status\":\"applied\",\"new_server_version\":43"), ROWSYNC_OK,
     "aAnn1,NULL,NULL,0,4,2"},
    {"applied", ONE("\"status\":\"applied\",\"new_server_version\":43," ROW("43", "{\"n\":7}")),
     ROWSYNC_OK, "aAnn7,NULL,NULL,0,4,2"},
    {"conflict", ONE("\"status\":\"conflict\"," ROW("9", "{\"name\":\"Theirs\",\"n\":9}")),
     ROWSYNC_OK, "aTheirs9,NULL,NULL,1,4,2"},
    {"invalid", INVALID("something new"), ROWSYNC_OK, "aAnn1,NULL,asomething new,0,4,2"},
    {"fk_missing", INVALID("fk_missing"), ROWSYNC_OK, "aAnn1,aINSERT0,afk_missing,0,4,2"},
    {"bad_payload", INVALID("bad_payload"), ROWSYNC_OK, "aAnn1,NULL,abad_payload,0,4,2"},
    {"constraint", INVALID("constraint"), ROWSYNC_OK, "aAnn1,NULL,aconstraint,0,4,2"},
    {"forbidden", INVALID("forbidden"), ROWSYNC_OK, "aAnn1,NULL,aforbidden,0,4,2"},
    {"unregistered_table", INVALID("unregistered_table"), ROWSYNC_OK,
     "aAnn1,NULL,aunregistered_table,0,4,2"},
    /* One change alone is not to be sent in smaller batches. */
    {"batch_too_large", INVALID("batch_too_large"), ROWSYNC_OK, "aAnn1,NULL,abad_payload,0,4,2"},
    {"internal_error", INVALID("internal_error"), ROWSYNC_OK,
     "aAnn1,aINSERT0,ainternal_error,0,4,2"},
};

/* A refusal of a whole request, by HTTP status and code. */
typedef struct ProblemCase
{
    long status;
    const char *name;
    rowsync_code code;
    int requests; /* with two tries */
} ProblemCase;

static const ProblemCase problem_cases[] = {
    {400, "invalid_request", ROWSYNC_REFUSED, 1},
    {400, "invalid_parameter", ROWSYNC_REFUSED, 1},
    {400, "invalid_encoding", ROWSYNC_REFUSED, 1},
    {400, "source_mismatch", ROWSYNC_REFUSED, 1},
    /* Once more with a fresh token. */
    {401, "missing_token", ROWSYNC_AUTH, 2},
    {401, "unsupported_scheme", ROWSYNC_AUTH, 2},
    {401, "malformed_token", ROWSYNC_AUTH, 2},
    {401, "unsupported_algorithm", ROWSYNC_AUTH, 2},
    {401, "unknown_key", ROWSYNC_AUTH, 2},
    {401, "invalid_signature", ROWSYNC_AUTH, 2},
    {401, "expired_token", ROWSYNC_AUTH, 2},
    {401, "premature_token", ROWSYNC_AUTH, 2},
    {401, "wrong_issuer", ROWSYNC_AUTH, 2},
    {401, "wrong_audience", ROWSYNC_AUTH, 2},
    {401, "missing_claim", ROWSYNC_AUTH, 2},
    {401, "invalid_claim", ROWSYNC_AUTH, 2},
    {403, "role_forbidden", ROWSYNC_AUTH, 1},
    {404, "not_found", ROWSYNC_REFUSED, 1},
    {405, "method_not_allowed", ROWSYNC_REFUSED, 1},
    {410, "history_pruned", ROWSYNC_PROTOCOL, 1}, /* no answer to an upload; to a download below */
    {413, "body_too_large", ROWSYNC_OK, 1},       /* one change is the least: a dead letter */
    {415, "unsupported_media_type", ROWSYNC_REFUSED, 1},
    {417, "expectation_failed", ROWSYNC_REFUSED, 1},
    {429, "too_many_requests", ROWSYNC_UNAVAILABLE, 2},
    {431, "header_too_large", ROWSYNC_REFUSED, 1},
    {499, "client_gone", ROWSYNC_REFUSED, 1},
    {500, "internal_error", ROWSYNC_UNAVAILABLE, 2},
    {503, "unavailable", ROWSYNC_UNAVAILABLE, 2},
    {503, "overloaded", ROWSYNC_UNAVAILABLE, 2},
    {503, "timeout", ROWSYNC_UNAVAILABLE, 2},
    {503, "draining", ROWSYNC_UNAVAILABLE, 2},
};

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* Has one of the tables above a case of that name? */
static bool
has_case(const char *name, long status)
{
    size_t i;

    for (i = 0; status == 0 && i < COUNT(status_cases); i++)
        if (strcmp(status_cases[i].name, name) == 0)
            return true;
    for (i = 0; status != 0 && i < COUNT(problem_cases); i++)
        if (strcmp(problem_cases[i].name, name) == 0 && problem_cases[i].status == status)
            return true;
    return false;
}

/* Everything that the page lists has its case. */
static void
test_documented(void)
{
    char line[2048], name[64];
    FILE *page = fopen("docs/protocol.md", "r");
    bool words = false, codes = false;
    int listed = 0;

    if (page == NULL)
    {
        puts("Bail out! to be run where docs/protocol.md is");
        exit(1);
    }
    while (fgets(line, sizeof(line), page) != NULL)
    {
        long status = 0;

        if (strncmp(line, "| `status` |", 12) == 0 || strncmp(line, "| `reason` |", 12) == 0)
            words = true;
        else if (strncmp(line, "| status | `code` |", 19) == 0)
            codes = true;
        else if (*line != '|')
            words = codes = false;
        else if ((words && sscanf(line, "| `%63[a-z_]`", name) == 1) ||
                 (codes && sscanf(line, "| %ld | `%63[a-z_]`", &status, name) == 2))
        {
            listed++;
            ok(has_case(name, status), "docs/protocol.md: %s has a case", name);
        }
    }
    fclose(page);
    ok(listed >= 40, "the page was understood: %d words", listed);
}

static void
test_statuses(void)
{
    size_t i;

    for (i = 0; i < COUNT(status_cases); i++)
    {
        const StatusCase *one = &status_cases[i];

        fresh("INSERT INTO users VALUES ('a', 'Ann', 1)");
        /* What waits is sent once more, for nothing is left that could go before it. */
        ok(push(one->answer, one->answer) == one->code, "%s: %s", one->name,
           rowsync_message(client));
        is(state(), one->state, one->name);
        close_client(client, db);
    }
}

/* A problem document without a hint of its own: what to do is not guessed against its code. */
static void
test_hints(void)
{
    static const struct
    {
        const char *answer, *hint;
    } cases[] = {
        {"400 {\"code\":\"source_mismatch\",\"detail\":\"d\"}",
         "Get a token for the source of this database, which rowsync_get_state() tells, or attach"
         " with the source of the token."},
        {"404 {\"code\":\"not_found\",\"detail\":\"d\"}",
         "Give the gateway's URL alone, without a path of its own."},
        {"400 {\"code\":\"invalid_request\",\"detail\":\"d\"}",
         "Are the library and the gateway of one version?"},
        {"400 <html>", "Is the URL that of a rowsync gateway?"},
    };
    size_t i;

    for (i = 0; i < COUNT(cases); i++)
    {
        fresh("INSERT INTO users VALUES ('a', 'Ann', 1)");
        push(cases[i].answer, cases[i].answer);
        is(rowsync_hint(client), cases[i].hint, "the hint is not guessed");
        close_client(client, db);
    }
}

static void
test_problems(void)
{
    char answer[256];
    size_t i;
    int j;

    for (i = 0; i < COUNT(problem_cases); i++)
    {
        const ProblemCase *one = &problem_cases[i];
        rowsync_sync_options options = {0, 0, 2};

        snprintf(answer, sizeof(answer),
                 "%ld {\"status\":%ld,\"code\":\"%s\",\"detail\":\"because\",\"hint\":\"do\"}",
                 one->status, one->status, one->name);
        fresh("INSERT INTO users VALUES ('a', 'Ann', 1)");
        for (j = 0; j < 3; j++)
            script.answers[script.count++] = answer;
        ok(rowsync_push(client, &options, &report) == one->code, "%ld %s: %s", one->status,
           one->name, rowsync_message(client));
        ok(script.asked == one->requests && renewals == (one->status == 401),
           "after %d requests and %d new tokens", script.asked, renewals);
        ok(one->code == ROWSYNC_OK || one->code == ROWSYNC_PROTOCOL ||
               (strstr(rowsync_message(client), "because") != NULL &&
                strcmp(rowsync_hint(client), "do") == 0),
           "in the server's words");
        is(state(),
           one->code == ROWSYNC_OK ? "aAnn1,NULL,abad_payload,0,4,2" : "aAnn1,aINSERT0,NULL,0,4,2",
           "the edit is not lost");
        if (one->status != 404 && one->status != 410 && one->status != 413)
        {
            script.asked = 0;
            ok(rowsync_hydrate(client, &options, &report) == one->code, "to a snapshot likewise");
            script.asked = 0;
            ok(rowsync_pull(client, &options, &report) == one->code, "and to a download");
        }
        close_client(client, db);
    }
}

/* Answers to two pending changes that break the contract. */
static void
test_wrong_statuses(void)
{
#define TWO(first, second) "{\"accepted\":true,\"statuses\":[" first "," second "]}"
#define DONE(id) "{\"source_change_id\":" id ",\"status\":\"applied\",\"new_server_version\":43}"
#define HAS(id, rest) "{\"source_change_id\":" id "," rest "}"
    static const char *const answers[] = {
        "",
        "null",
        "[]",
        "\"statuses\"",
        "{\"statuses\":null}",
        "{\"statuses\":{}}",
        "{\"accepted\":true}",
        "{\"accepted\":true,\"statuses\":[]}",
        "{\"accepted\":true,\"statuses\":[" DONE("$1") "]}",
        TWO(DONE("$1"), DONE("$1")),
        TWO(DONE("$2"), DONE("$1")),
        TWO(DONE("$1"), DONE("7")),
        TWO(DONE("$1"), DONE("$2") "," DONE("$2")),
        TWO(DONE("$1"), "null"),
        TWO(DONE("$1"), "[]"),
        TWO(DONE("$1"), HAS("\"$2\"", "\"status\":\"applied\",\"new_server_version\":1")),
        TWO(DONE("$1"), HAS("$2.0", "\"status\":\"applied\",\"new_server_version\":1")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"applied\"")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"applied\",\"new_server_version\":0")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"applied\",\"new_server_version\":-1")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"applied\",\"new_server_version\":1e3")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"applied\",\"new_server_version\":\"9\"")),
        TWO(DONE("$1"),
            HAS("$2", "\"status\":\"applied\",\"new_server_version\":9223372036854775808")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"Applied\",\"new_server_version\":1")),
        TWO(DONE("$1"), HAS("$2", "\"status\":null")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"conflict\"")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"conflict\",\"server_row\":null")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"conflict\",\"server_row\":[]")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"conflict\",\"server_row\":{}")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"conflict\"," ROW("-4", "{}"))),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"conflict\"," ROW("4", "[]"))),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"conflict\"," ROW("4", "\"x\""))),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"invalid\"")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"invalid\",\"invalid\":{}")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"invalid\",\"invalid\":\"forbidden\"")),
        TWO(DONE("$1"), DONE("$2")) "x",
        TWO(DONE("$1"), DONE("$2")) TWO(DONE("$1"), DONE("$2")),
        TWO(DONE("$1"),
            HAS("$2", "\"status\":\"applied\",\"new_server_version\":4,\"x\":\"\xff\"")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"applied\",\"new_server_version\":4,\"x\":\"\\ud800"
                                  "\"")),
        TWO(DONE("$1"), HAS("$2", "\"status\":\"applied\",\"new_server_version\":4,\"x\":\"\t\"")),
        "200 {\"accepted\":true,\"statuses\":[",
        "204 ",
        "302 {}",
        "100 ",
        "0 ",
        "999 x",
    };
    size_t i;

    for (i = 0; i < COUNT(answers); i++)
    {
        rowsync_code code;

        fresh("INSERT INTO users VALUES ('a', 'Ann', 1); INSERT INTO users VALUES ('b', 'Bob', 2)");
        code = push(answers[i], NULL);
        ok(code != ROWSYNC_OK && *rowsync_message(client) != '\0' && *rowsync_hint(client) != '\0',
           "refused: %.90s: %s", answers[i], rowsync_message(client));
        is(state(), "aAnn1,bBob2,aINSERT0,bINSERT0,NULL,0,4,2", "and nothing has changed");
        close_client(client, db);
    }
    fresh("INSERT INTO users VALUES ('a', 'Ann', 1); INSERT INTO users VALUES ('b', 'Bob', 2)");
    ok(push(TWO(DONE("$1"), HAS("$2", "\"status\":\"applied\",\"new_server_version\":4,\"status\":"
                                      "\"applied\",\"new_server_version\":44,\"more\":[[{}]]")),
            NULL) == ROWSYNC_OK,
       "what is not known is passed over; of what is said twice the last counts");
    is(rows(db, "SELECT server_version FROM _sync_row_meta WHERE pk_uuid = 'b'"), "44", "the last");
    close_client(client, db);
}

/* Messages of the server reach people, but not their terminals. */
static void
test_words(void)
{
    fresh("INSERT INTO users VALUES ('a', 'Ann', 1)");
    push("400 {\"detail\":\"red\\u001b[31m\\u009b2J\\u0007\\r\\n\\u007fend \\u00e4\",\"hint\":"
         "\"\\u001b]0;x\"}",
         NULL);
    is(rowsync_message(client), "The server answered 400: red [31m  2J    end \xc3\xa4",
       "control characters are taken out of messages");
    is(rowsync_hint(client), " ]0;x", "and of hints");
    close_client(client, db);
}

#define HEADER                                                                                     \
    "{\"seq\":45,\"tables\":[{\"schema\":\"public\",\"table\":\"users\",\"key\":[\"id\"],"         \
    "\"columns\":[\"id\",\"name\",\"n\"]}]}\n"
#define PAGE(rest, more, next, until)                                                              \
    "{\"changes\":[" rest "],\"has_more\":" more ",\"next_after\":" next                           \
    ",\"window_until\":" until ",\"epoch\":1}"
#define PUT(rest)                                                                                  \
    "{\"server_id\":5,\"schema\":\"public\",\"table\":\"users\",\"op\":\"INSERT\"," rest "}"

/* Pages and snapshots that break the contract; those of client_hydrate.c are not told again. */
static void
test_wrong_rows(void)
{
    static const struct
    {
        bool snapshot;
        const char *answer;
    } cases[] = {
        {false, PAGE("", "true", "4", "9")},  /* it does not lead on */
        {false, PAGE("", "true", "3", "9")},  /* it leads back */
        {false, PAGE("", "false", "9", "5")}, /* the window ends before it */
        {false, PAGE("", "false", "-9", "-9")},
        {false, PAGE("", "false", "9e0", "9")},
        {false, PAGE("", "false", "9223372036854775808", "9223372036854775808")},
        {false, PAGE("", "\"false\"", "9", "9")},
        {false, PAGE("", "0", "9", "9")},
        {false, PAGE("null", "false", "9", "9")},
        {false, PAGE(PUT("\"pk\":\"x\",\"payload\":{}"), "false", "9", "9")},
        {false, PAGE(PUT("\"pk\":\"x\",\"payload\":{},\"server_version\":5"), "false", "9", "9")},
        {false, PAGE(PUT("\"pk\":\"x\",\"payload\":null,\"server_version\":5,\"deleted\":false"),
                     "false", "9", "9")},
        {false, PAGE(PUT("\"pk\":\"x\",\"payload\":{},\"server_version\":0,\"deleted\":false"),
                     "false", "9", "9")},
        {false, PAGE(PUT("\"pk\":\"x\",\"payload\":{},\"server_version\":-5,\"deleted\":false"),
                     "false", "9", "9")},
        {false, PAGE(PUT("\"pk\":\"x\",\"payload\":{},\"server_version\":5,\"deleted\":\"no\""),
                     "false", "9", "9")},
        {false, PAGE(PUT("\"pk\":7,\"payload\":{},\"server_version\":5,\"deleted\":false"), "false",
                     "9", "9")},
        {false, PAGE(PUT("\"pk\":[\"x\"],\"payload\":{},\"server_version\":5,\"deleted\":false"),
                     "false", "9", "9")},
        {false,
         PAGE(PUT("\"payload\":{},\"server_version\":5,\"deleted\":false"), "false", "9", "9")},
        {false, PAGE(PUT("\"pk\":\"x\",\"payload\":{\"id\":\"x\",},\"server_version\":5,"
                         "\"deleted\":false"),
                     "false", "9", "9")},
        {true, HEADER "[0,3,\"a\",\"A\"]\n{\"end\":true,\"rows\":1}\n"},
        {true, HEADER "[0,3,\"a\",\"A\",1,2]\n{\"end\":true,\"rows\":1}\n"},
        {true, HEADER "[1,3,\"a\",\"A\",1]\n{\"end\":true,\"rows\":1}\n"},
        {true, HEADER "[-1,3,\"a\",\"A\",1]\n{\"end\":true,\"rows\":1}\n"},
        {true, HEADER "[99999999999,3,\"a\",\"A\",1]\n{\"end\":true,\"rows\":1}\n"},
        {true, HEADER "[0,-3,\"a\",\"A\",1]\n{\"end\":true,\"rows\":1}\n"},
        {true, HEADER "[0,3,null,\"A\",1]\n{\"end\":true,\"rows\":1}\n"},
        {true, HEADER "[0,3,\"a\",\"A\",1]\n[0,3,\"a\",\"A\",1]\n{\"end\":true,\"rows\":2,"
                      "\"digest\":\"00000000000000000000000000000000\"}\n"},
        {true, HEADER "[0,3,\"a\",\"A\",1]\n{\"end\":true,\"rows\":1,"
                      "\"digest\":\"00000000000000000000000000000000\"}\n"},
        {true, HEADER "{\"end\":true,\"rows\":1}\n"},
        {true, HEADER "{\"end\":true,\"rows\":-1}\n"},
        {true, HEADER "{\"end\":false,\"rows\":0}\n"},
        {true, HEADER HEADER},
        {true, "{\"seq\":-1,\"tables\":[]}\n{\"end\":true,\"rows\":0}\n"},
        {true, "{\"seq\":1}\n{\"end\":true,\"rows\":0}\n"},
        {true, "{\"seq\":1,\"tables\":{}}\n{\"end\":true,\"rows\":0}\n"},
        {true, "{\"seq\":1,\"tables\":[1]}\n{\"end\":true,\"rows\":0}\n"},
        {true, "{\"seq\":1,\"tables\":[{\"schema\":\"public\",\"table\":\"users\",\"key\":[\"id\"],"
               "\"columns\":[\"name\"]}]}\n{\"end\":true,\"rows\":0}\n"},
        {true, "{\"seq\":1,\"tables\":[{\"schema\":\"public\",\"table\":\"users\",\"key\":[],"
               "\"columns\":[\"id\"]}]}\n{\"end\":true,\"rows\":0}\n"},
    };
    size_t i;

    for (i = 0; i < COUNT(cases); i++)
    {
        rowsync_sync_options options = {0, 0, 1};
        rowsync_code code;

        fresh("INSERT INTO users VALUES ('mine', 'M', 1); UPDATE _sync_client_info SET"
              " current_window_until = 9");
        script.answers[script.count++] = cases[i].answer;
        code = (cases[i].snapshot ? rowsync_hydrate : rowsync_pull)(client, &options, &report);
        ok(code != ROWSYNC_OK && script.asked == 1 && *rowsync_message(client) != '\0',
           "refused: %.100s: %s", cases[i].answer, rowsync_message(client));
        is(state(), "mineM1,mineINSERT0,NULL,0,4,2", "and nothing has changed");
        close_client(client, db);
    }
    fresh("UPDATE _sync_client_info SET current_window_until = 9");
    ok(push(NULL, NULL) == ROWSYNC_OK, "nothing to push");
    script.count = script.asked = 0;
    script.answers[script.count++] = PAGE("", "false", "12", "12");
    ok(rowsync_pull(client, NULL, &report) == ROWSYNC_PROTOCOL,
       "a window that was begun does not grow");
    close_client(client, db);
}

/* An answer without end: a piece again and again, until the library has enough. */
typedef struct Endless
{
    long status;
    const char *first, *piece;
    size_t taken;
} Endless;

static rowsync_code
endless(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
        rowsync_response *response, const volatile int *cancelled)
{
    Endless *one = context;

    (void)request;
    (void)cancelled;
    response->status = one->status;
    response->retry_after = -1;
    if (sink(sink_context, one->first, strlen(one->first)) != 0)
        return ROWSYNC_NETWORK;
    for (one->taken = 0; sink(sink_context, one->piece, strlen(one->piece)) == 0;)
        if ((one->taken += strlen(one->piece)) > (size_t)4 << 30)
            return ROWSYNC_OK; /* that is enough: it has failed the test */
    return ROWSYNC_NETWORK;
}

/* The library's memory, now and at most. */
static size_t memory, most_memory;

static void *
measured_realloc(void *pointer, size_t size)
{
    memory -= malloc_usable_size(pointer);
    pointer = realloc(pointer, size);
    memory += malloc_usable_size(pointer);
    most_memory = memory > most_memory ? memory : most_memory;
    return pointer;
}

static void
measured_free(void *pointer)
{
    memory -= malloc_usable_size(pointer);
    free(pointer);
}

static void
test_endless(void)
{
    static const rowsync_allocator measured = {measured_realloc, measured_free};
    static char spaces[65537], depth[65537];
    static Endless cases[] = {
        {200, "{\"changes\":[", spaces, 0},
        {200, HEADER, spaces, 0},
        {200, HEADER "[0,1,\"", spaces, 0},
        {200, HEADER, depth, 0},
        {400, "{\"detail\":\"", spaces, 0},
        {503, "", spaces, 0},
        {404, "", depth, 0},
        {302, "", spaces, 0},
    };
    static const char *const tracked[] = {"users", NULL};
    static const size_t limits[] = {520, 130, 130, 130, 1, 1, 1, 1}; /* MB */
    size_t i;

    memset(spaces, ' ', 65536);
    memset(depth, '[', 65536);
    rowsync_set_allocator(&measured);
    for (i = 0; i < COUNT(cases); i++)
    {
        rowsync_transport transport = {&cases[i], endless, NULL};
        rowsync_options options = {.transport = &transport};
        rowsync_sync_options once = {0, 0, 1};
        rowsync_code code;

        most_memory = memory;
        client = open_attached(tables, tracked, NULL, &options, &db);
        app(db, "INSERT INTO users VALUES ('mine', 'M', 1)");
        if (i == 0)
            app(db, "UPDATE _sync_client_info SET hydrated = 2");
        code = i == 0 ? rowsync_pull(client, &once, NULL) : rowsync_hydrate(client, &once, NULL);
        ok(code != ROWSYNC_OK && cases[i].taken < (size_t)512 << 20,
           "an answer of status %ld without end is refused: %s", cases[i].status,
           rowsync_message(client));
        ok(most_memory < limits[i] << 20, "with at most %zu MB", most_memory >> 20);
        is(rows(db, "SELECT group_concat(id) FROM users"), "mine", "and nothing has changed");
        close_client(client, db);
    }
    rowsync_set_allocator(NULL);
}

int
main(void)
{
    test_documented();
    test_statuses();
    test_hints();
    test_problems();
    test_wrong_statuses();
    test_words();
    test_wrong_rows();
    test_endless();
    return done();
}
