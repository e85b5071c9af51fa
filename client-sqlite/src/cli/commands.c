/*
 * commands.c - what the command line can do: each command, with the arguments and options that it
 * takes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "listing.h"

/* init: a second time is fine, and said. */
static int
run_init(Session *session)
{
    int64_t there = number(
        session, "SELECT count(*) FROM main.sqlite_schema WHERE name = '_sync_client_info'", NULL);

    if (rowsync_init(session->client) != ROWSYNC_OK)
        return failed(session);
    say(session, NULL,
        there ? "%s has rowsync's tables already" : "%s is ready for `rowsync track` and `attach`",
        session->arguments->file);
    return EXIT_DONE;
}

/* Views and virtual tables have no triggers that could capture: says so, rather than what lacks. */
static int
refuse_what_is_no_table(const Session *session, const char *name)
{
    int64_t kind = number(session,
                          "SELECT CASE WHEN type = 'view' THEN 1"
                          " WHEN sql LIKE 'create virtual%' THEN 2 END FROM main.sqlite_schema"
                          " WHERE name = ?1 COLLATE NOCASE AND type IN ('table', 'view')",
                          name);
    char message[600];

    if (kind == 0)
        return EXIT_DONE;
    snprintf(message, sizeof(message), "\"%.500s\" is a %s.", name,
             kind == 1 ? "view" : "virtual table");
    return complain(session, "schema", message,
                    kind == 1 ? "Track the tables that it reads."
                              : "Only ordinary tables can be tracked: SQLite has no triggers on"
                                " virtual ones.");
}

/* The policy of _sync_table t, as --policy names it. */
#define POLICY_NAME                                                                                \
    "CASE t.policy WHEN 0 THEN 'server' WHEN 1 THEN 'client' WHEN 2 THEN 'merge' ELSE 'manual' "   \
    "END"

/* Says how a table is tracked now. */
static int
say_tracked(const Session *session, const char *name)
{
    static const char sql[] =
        "SELECT schema_name || '.' || table_name, CASE policy WHEN 0 THEN 'the server''s row wins'"
        " WHEN 1 THEN 'the edit here wins' WHEN 2 THEN 'columns are merged'"
        " ELSE 'both sides are kept' END,"
        " (SELECT count(*) FROM main._sync_edited e WHERE e.table_id = t.table_id), " POLICY_NAME
        " FROM main._sync_table t WHERE table_name = ?1 COLLATE NOCASE";
    sqlite3_stmt *row = NULL;
    int64_t pending;
    int result = EXIT_DONE;

    if (sqlite3_prepare_v2(session->db, sql, -1, &row, NULL) == SQLITE_OK &&
        sqlite3_bind_text(row, 1, name, -1, SQLITE_STATIC) == SQLITE_OK &&
        sqlite3_step(row) == SQLITE_ROW)
    {
        const char *server = (const char *)sqlite3_column_text(row, 0);

        pending = sqlite3_column_int64(row, 2);
        say(session,
            json_pack("{s:o, s:o, s:s, s:I}", "table", json_text(name), "server", json_text(server),
                      "policy", (const char *)sqlite3_column_text(row, 3), "pending",
                      (json_int_t)pending),
            "tracking %s as %s on the server; in conflicts %s; %lld row%s to upload", name, server,
            (const char *)sqlite3_column_text(row, 1), (long long)pending, plural(pending));
    }
    else
        result = complain(session, "database", sqlite3_errmsg(session->db), NULL);
    sqlite3_finalize(row);
    return result;
}

/* track: one line a table. */
static int
run_track(Session *session)
{
    const Arguments *arguments = session->arguments;
    const char **local = arguments->local_columns;
    rowsync_track_options options = {arguments->schema, arguments->policy, NULL};
    int i;

    if (local != NULL && local[0] != NULL)
        options.local_columns = *local[0] == '\0' ? local + 1 : local;

    for (i = 0; arguments->rest[i] != NULL; i++)
    {
        if (refuse_what_is_no_table(session, arguments->rest[i]) != EXIT_DONE)
            return EXIT_FAILED;
        if (rowsync_track(session->client, arguments->rest[i], &options) != ROWSYNC_OK)
            return failed(session);
        if (say_tracked(session, arguments->rest[i]) != EXIT_DONE)
            return EXIT_FAILED;
    }
    return EXIT_DONE;
}

/* untrack: one line a table. */
static int
run_untrack(Session *session)
{
    const Arguments *arguments = session->arguments;
    int i;

    for (i = 0; arguments->rest[i] != NULL; i++)
    {
        if (rowsync_untrack(session->client, arguments->rest[i], arguments->force) != ROWSYNC_OK)
            return failed(session);
        say(session, json_pack("{s:o}", "table", json_text(arguments->rest[i])),
            "%s is not tracked any more; its rows stay", arguments->rest[i]);
    }
    return EXIT_DONE;
}

/* attach: a position in one server's log means nothing to another server. */
static int
run_attach(Session *session)
{
    const Arguments *arguments = session->arguments;
    rowsync_state state;
    char message[600];
    size_t length = arguments->url != NULL ? strlen(arguments->url) : 0;

    if (arguments->url == NULL || arguments->user == NULL)
        return usage(session, "attach needs --url and --user; --source may be left out");
    if (rowsync_get_state(session->client, &state) != ROWSYNC_OK)
        return failed(session);
    while (length > 0 && arguments->url[length - 1] == '/')
        length--;
    if (state.url != NULL && state.head > 0 && !arguments->force &&
        strcmp(arguments->user, state.user_id) == 0 &&
        (strncmp(state.url, arguments->url, length) != 0 || state.url[length] != '\0'))
    {
        snprintf(message, sizeof(message), "The database is at %lld of the log of %.400s.",
                 (long long)state.head, state.url);
        return complain(session, "pending", message,
                        "Use --force where the new URL is a door to the same server database;"
                        " for another one, detach first.");
    }
    if (rowsync_attach(session->client, arguments->url, arguments->user, arguments->source) !=
            ROWSYNC_OK ||
        rowsync_get_state(session->client, &state) != ROWSYNC_OK)
        return failed(session);
    say(session,
        json_pack("{s:o, s:o, s:o}", "url", json_text(state.url), "user", json_text(state.user_id),
                  "source", json_text(state.source_id)),
        "attached to %s as %s, source %s", state.url, state.user_id, state.source_id);
    return EXIT_DONE;
}

/* detach. */
static int
run_detach(Session *session)
{
    if (rowsync_detach(session->client, session->arguments->force) != ROWSYNC_OK)
        return failed(session);
    say(session, NULL, "detached; the tracked tables of %s are empty", session->arguments->file);
    return EXIT_DONE;
}

/* What a table's line in the status has: its rows that wait, each way. */
#define TRACKED                                                                                    \
    "t.schema_name || '.' || t.table_name AS SERVER,"                                              \
    " " POLICY_NAME " AS POLICY,"                                                                  \
    " (SELECT count(*) FROM main._sync_edited e WHERE e.table_id = t.table_id) AS PENDING,"        \
    " (SELECT count(*) FROM main._sync_held h WHERE h.table_id = t.table_id AND h.state = 2)"      \
    " AS HELD,"                                                                                    \
    " (SELECT count(*) FROM main._sync_held h WHERE h.table_id = t.table_id AND h.state = 1)"      \
    " AS CONFLICTS,"                                                                               \
    " (SELECT count(*) FROM main._sync_rejected r WHERE r.table_id = t.table_id) AS REJECTED"      \
    " FROM main._sync_table t ORDER BY t.table_name"

/* status */
static int
run_status(Session *session)
{
    static const char by_table[] =
        "SELECT \"TABLE\" AS \"table\", SERVER AS server, POLICY AS policy, PENDING AS pending,"
        " HELD AS held, CONFLICTS AS conflicts, REJECTED AS rejected, NOT EXISTS (SELECT 1 FROM"
        " pragma_table_info(\"TABLE\", 'main') WHERE pk > 0) AS gone"
        " FROM (SELECT t.table_name AS \"TABLE\", " TRACKED ")";
    rowsync_state state;
    int count, result = EXIT_DONE;

    if (rowsync_get_state(session->client, &state) != ROWSYNC_OK)
        return failed(session);
    if (session->arguments->json)
        print_json(json_pack("{s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:b, s:i, s:I, s:i, s:o*}", "url",
                             json_text(state.url), "user", json_text(state.user_id), "source",
                             json_text(state.source_id), "pending", (json_int_t)state.pending,
                             "conflicts", (json_int_t)state.conflicts, "rejected",
                             (json_int_t)state.rejected, "head", (json_int_t)state.head, "hydrated",
                             state.hydrated, "tables", state.tables, "held", (json_int_t)state.held,
                             "gone", state.gone, "by_table", query_rows(session, by_table)));
    else
    {
        if (state.url == NULL)
            puts("not attached: `rowsync attach` says where to sync, and for whom");
        else
            printf("%s as %s, source %s\n", state.url, state.user_id, state.source_id);
        printf("at %lld of the server's log%s\n", (long long)state.head,
               state.hydrated ? "" : "; the rows on the server were not fetched yet");
        result = print_rows(session, "SELECT t.table_name AS \"TABLE\", " TRACKED, NULL, &count);
        if (count == 0)
            puts("no table is tracked: `rowsync track`");
        printf("%lld pending, %lld conflict%s, %lld rejected\n", (long long)state.pending,
               (long long)state.conflicts, plural(state.conflicts), (long long)state.rejected);
        if (state.held > 0)
            print_held(session, state.held);
    }
    warn_of_absent(session);
    warn_of_gone(session);
    if (result == EXIT_DONE && state.conflicts + state.rejected + state.held + state.gone > 0)
        result = EXIT_ATTENTION;
    return result;
}

/* sync, push, pull, hydrate. */
static int
run_sync(Session *session)
{
    const Arguments *arguments = session->arguments;
    rowsync_sync_options options = {arguments->batch_size, arguments->page_size, 0};
    rowsync_report report;
    rowsync_code code;

    session_signals(session->client);
    code =
        strcmp(arguments->command, "push") == 0   ? rowsync_push(session->client, &options, &report)
        : strcmp(arguments->command, "pull") == 0 ? rowsync_pull(session->client, &options, &report)
        : strcmp(arguments->command, "hydrate") == 0
            ? rowsync_hydrate(session->client, &options, &report)
            : rowsync_sync(session->client, &options, &report);
    clear_progress(session);
    if (code != ROWSYNC_OK)
        return failed(session);
    print_report(session, &report);
    warn_of_absent(session);
    return report.rejected + report.conflicts + report.held > 0 ? EXIT_ATTENTION : EXIT_DONE;
}

/*
 * Shows a list: as JSON, or by a query over it, `list`, for people, who read `none` where it is
 * empty.
 */
static int
show(Session *session, rowsync_list_kind kind, const char *sql, const char *none, int result)
{
    rowsync_state state;
    int count;
    char *query;

    if (rowsync_get_state(session->client, &state) != ROWSYNC_OK)
        return failed(session);
    query = sqlite3_mprintf("WITH list AS (%s)%s", rs_listings[kind].sql,
                            session->arguments->json ? " SELECT * FROM list" : sql);
    if (query == NULL)
        return complain(session, "nomem", "Out of memory.", NULL);
    if (print_rows(session, query, NULL, &count) != EXIT_DONE)
        result = EXIT_FAILED;
    else if (count == 0)
    {
        if (!session->arguments->json)
            puts(none);
        result = EXIT_DONE;
    }
    sqlite3_free(query);
    return result;
}

/* diff: what is pending. */
static int
run_diff(Session *session)
{
    return show(session, ROWSYNC_LIST_PENDING,
                " SELECT op AS OP, table_name AS \"TABLE\", pk AS \"KEY\","
                " base_version AS \"MADE ON\", payload AS \"ROW\" FROM list",
                "nothing is pending", EXIT_DONE);
}

/* A value of json_each() as JSON has it: true, where SQLite says 1. */
#define AS_TOLD "CASE WHEN type IN ('true', 'false') THEN type ELSE value END"

/* conflicts: a line for each column that differs. */
static int
run_conflicts(Session *session)
{
    return show(
        session, ROWSYNC_LIST_CONFLICTS,
        ", cell AS (SELECT s.*, j.key AS name,"
        " (SELECT " AS_TOLD " FROM json_each(s.local_payload) l WHERE l.key = j.key) AS here,"
        " (SELECT " AS_TOLD " FROM json_each(s.server_payload) r WHERE r.key = j.key) AS there"
        " FROM list s, json_each(coalesce(s.local_payload, s.server_payload, '{}')) j)"
        " SELECT table_name AS \"TABLE\", pk AS \"KEY\", name AS \"COLUMN\","
        " CASE WHEN local_payload IS NULL THEN '(deleted)' ELSE here END AS \"HERE\","
        " CASE WHEN server_payload IS NULL THEN '(deleted)' ELSE there END AS \"SERVER\""
        " FROM cell WHERE local_payload IS NULL OR server_payload IS NULL OR here IS NOT there",
        "no conflict waits", EXIT_ATTENTION);
}

/* rejected: the dead letters. */
static int
run_rejected(Session *session)
{
    int result = show(session, ROWSYNC_LIST_REJECTED,
                      " SELECT table_name AS \"TABLE\", pk AS \"KEY\", op AS OP, reason AS REASON,"
                      " coalesce(" REFUSED_COLUMN ", '-') AS \"COLUMN\", coalesce(" MISSING_PARENT
                      ", message) AS MESSAGE"
                      " FROM list",
                      "nothing was refused", EXIT_ATTENTION);

    if (result == EXIT_ATTENTION && !session->arguments->json)
        print_remedies(session);
    return result;
}

/* held: rows of the server that cannot be stored here. */
static int
run_held(Session *session)
{
    return show(session, ROWSYNC_LIST_HELD,
                " SELECT table_name AS \"TABLE\", pk AS \"KEY\", reason AS REASON,"
                " coalesce(server_payload, '(deleted)') AS \"SERVER\" FROM list",
                "nothing is held", EXIT_ATTENTION);
}

/* overwritten: edits that lost a conflict. They wait for nothing. */
static int
run_overwritten(Session *session)
{
    return show(session, ROWSYNC_LIST_OVERWRITTEN,
                " SELECT overwritten_at AS \"AT\", op AS OP, table_name AS \"TABLE\", pk AS"
                " \"KEY\", coalesce(payload, '(deleted)') AS \"ROW\" FROM list",
                "no edit has lost a conflict", EXIT_DONE);
}

/* requeue, discard: all, those of a table, or one row. */
static int
run_rejected_fate(Session *session)
{
    const Arguments *arguments = session->arguments;
    const char *table = arguments->rest[0], *pk = table != NULL ? arguments->rest[1] : NULL;
    int again = strcmp(arguments->command, "requeue") == 0;
    int64_t before = number(session, "SELECT count(*) FROM main._sync_rejected", NULL), count;
    bool fetch;
    rowsync_code code = again ? rowsync_requeue(session->client, table, pk)
                              : rowsync_discard(session->client, table, pk);

    if (code != ROWSYNC_OK)
        return failed(session);
    count = before - number(session, "SELECT count(*) FROM main._sync_rejected", NULL);
    fetch = number(session, "SELECT hydrated = 3 FROM main._sync_client_info", NULL) != 0;
    say(session, json_pack("{s:I}", "changes", (json_int_t)count),
        count == 0 ? "nothing was refused"
        : again    ? "%lld change%s will be sent again by the next sync"
        : fetch    ? "%lld change%s given up; the next sync fetches what the server has"
                   : "%lld change%s given up",
        (long long)count, plural(count));
    return EXIT_DONE;
}

/* resolve: one row. */
static int
run_resolve(Session *session)
{
    const Arguments *arguments = session->arguments;
    rowsync_policy policy = arguments->policy;

    if (policy == ROWSYNC_KEEP_POLICY || policy == ROWSYNC_MANUAL)
        return usage(session, "resolve needs --policy server, client or merge");
    if (rowsync_resolve(session->client, arguments->rest[0], arguments->rest[1], policy) !=
        ROWSYNC_OK)
        return failed(session);
    say(session, NULL, "resolved %s %s: %s", arguments->rest[0], arguments->rest[1],
        policy == ROWSYNC_SERVER_WINS   ? "the row is the server's"
        : policy == ROWSYNC_CLIENT_WINS ? "the edit here will be sent on top of the server's row"
                                        : "merged; what differs from the server will be sent");
    return EXIT_DONE;
}

/* verify --server: the rows here and there, compared by their digests. */
static int
verify_server(Session *session)
{
    const Arguments *arguments = session->arguments;
    rowsync_sync_options options = {arguments->batch_size, arguments->page_size, 0};
    rowsync_comparison result;
    rowsync_code code;

    if (session_token(session) != 0)
        return EXIT_FAILED;
    code = rowsync_compare(session->client, &options, &result);
    clear_progress(session);
    if (code == ROWSYNC_DIFFERENT)
        return failed_with(
            session, json_pack("{s:I, s:I, s:I, s:s, s:s, s:I, s:o*}", "at", (json_int_t)result.at,
                               "rows_here", (json_int_t)result.rows_here, "rows_there",
                               (json_int_t)result.rows_there, "digest_here", result.digest_here,
                               "digest_there", result.digest_there, "held", (json_int_t)result.held,
                               "untracked", json_loads(result.untracked, 0, NULL)));
    if (code != ROWSYNC_OK)
        return failed(session);
    if (arguments->json)
        print_json(json_pack("{s:I,s:I,s:s}", "at", (json_int_t)result.at, "rows",
                             (json_int_t)result.rows_here, "digest", result.digest_here));
    else
        printf("%lld row%s at %lld, as the server has them (digest %s)\n",
               (long long)result.rows_here, plural(result.rows_here), (long long)result.at,
               result.digest_here);
    return EXIT_DONE;
}

/* verify: what no trigger saw; with --server also the rows that the server has. */
static int
run_verify(Session *session)
{
    int64_t found = 0;
    rowsync_code code = rowsync_verify(session->client, session->arguments->repair, &found);

    if (code != ROWSYNC_OK)
        return failed(session);
    if (session->arguments->json && !session->arguments->server)
        print_json(json_pack("{s:I}", "found", (json_int_t)found));
    else if (!session->arguments->json)
        printf("%lld change%s that no trigger saw%s\n", (long long)found, plural(found),
               found > 0 ? ": queued" : "");
    return session->arguments->server ? verify_server(session) : EXIT_DONE;
}

#define TOKENS " token-file token-command"
#define SIZES " batch-size page-size"

const Command commands[] = {
    {"clone", "URL FILE", "make a database with the server's tables and rows",
     "user source schema policy" SIZES TOKENS, run_clone, FILE_OF_ITS_OWN, false, 2, 2},
    {"init", "FILE", "create rowsync's tables in the file", "", run_init, FILE_MAY_BE_NEW, false, 1,
     1},
    {"track", "FILE TABLE...", "capture changes of these tables", "schema policy local", run_track,
     FILE_IS_THERE, false, 2, -1},
    {"untrack", "FILE TABLE...", "forget tables; their rows stay", "force", run_untrack,
     FILE_IS_THERE, false, 2, -1},
    {"attach", "FILE", "say where to sync, and for whom", "url user source force", run_attach,
     FILE_IS_THERE, false, 1, 1},
    {"detach", "FILE", "sign off: remove the user's rows", "force", run_detach, FILE_IS_THERE,
     false, 1, 1},
    {"status", "FILE", "where things stand", "", run_status, FILE_IS_THERE, false, 1, 1},
    {"sync", "FILE", "upload, then download", SIZES TOKENS, run_sync, FILE_IS_THERE, true, 1, 1},
    {"push", "FILE", "upload only", SIZES TOKENS, run_sync, FILE_IS_THERE, true, 1, 1},
    {"pull", "FILE", "download only", SIZES TOKENS, run_sync, FILE_IS_THERE, true, 1, 1},
    {"hydrate", "FILE", "fetch everything anew", SIZES TOKENS, run_sync, FILE_IS_THERE, true, 1, 1},
    {"watch", "FILE", "stay in step until Ctrl-C", SIZES TOKENS, run_watch, FILE_IS_THERE, true, 1,
     1},
    {"log", "FILE", "the latest changes on the server", "limit" TOKENS, run_log, FILE_IS_THERE,
     true, 1, 1},
    {"diff", "FILE", "what is pending", "", run_diff, FILE_IS_THERE, false, 1, 1},
    {"conflicts", "FILE", "rows that wait for a decision", "", run_conflicts, FILE_IS_THERE, false,
     1, 1},
    {"resolve", "FILE TABLE KEY", "decide one of them", "policy", run_resolve, FILE_IS_THERE, false,
     3, 3},
    {"rejected", "FILE", "changes that the server refused", "", run_rejected, FILE_IS_THERE, false,
     1, 1},
    {"requeue", "FILE [TABLE [KEY]]", "send them again", "", run_rejected_fate, FILE_IS_THERE,
     false, 1, 3},
    {"discard", "FILE [TABLE [KEY]]", "give them up", "", run_rejected_fate, FILE_IS_THERE, false,
     1, 3},
    {"held", "FILE", "rows of the server that cannot be stored here", "", run_held, FILE_IS_THERE,
     false, 1, 1},
    {"overwritten", "FILE", "edits that lost a conflict", "", run_overwritten, FILE_IS_THERE, false,
     1, 1},
    {"verify", "FILE", "look for changes that no trigger saw", "repair server page-size" TOKENS,
     run_verify, FILE_IS_THERE, false, 1, 1},
    {"token", "", "print a development token", "user source ttl claim", run_token, FILE_OF_ITS_OWN,
     false, 0, 0},
    {0}};
