/*
 * main.c - the rowsync command line: its commands on a file, and what they are called.
 */
#include <popt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "listing.h"

/* A wrong command line. */
int
usage(const char *message)
{
    fprintf(stderr, "rowsync: %s\n  See rowsync --help.\n", message);
    return EXIT_USAGE;
}

/* "server", "client", "merge", "manual" as a policy; -1 for others. */
static int
policy_of(const char *name)
{
    static const char *const names[] = {"server", "client", "merge", "manual"};
    int i;

    for (i = 0; i < 4; i++)
        if (name != NULL && strcmp(name, names[i]) == 0)
            return i;
    return -1;
}

/* init: a second time is fine, and said. */
static int
run_init(Session *session)
{
    int64_t there = number(
        session, "SELECT count(*) FROM sqlite_schema WHERE name = '_sync_client_info'", NULL);

    if (rowsync_init(session->client) != ROWSYNC_OK)
        return failed(session);
    say(session,
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
                          " WHEN sql LIKE 'create virtual%' THEN 2 END FROM sqlite_schema"
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

/* Says how a table is tracked now. */
static int
say_tracked(const Session *session, const char *name)
{
    static const char sql[] =
        "SELECT schema_name || '.' || table_name, CASE policy WHEN 0 THEN 'the server''s row wins'"
        " WHEN 1 THEN 'the edit here wins' WHEN 2 THEN 'columns are merged'"
        " ELSE 'both sides are kept' END,"
        " (SELECT count(*) FROM _sync_edited e WHERE e.table_id = t.table_id)"
        " FROM _sync_table t WHERE table_name = ?1 COLLATE NOCASE";
    sqlite3_stmt *row = NULL;
    int64_t pending;
    int result = EXIT_DONE;

    if (sqlite3_prepare_v2(session->db, sql, -1, &row, NULL) == SQLITE_OK &&
        sqlite3_bind_text(row, 1, name, -1, SQLITE_STATIC) == SQLITE_OK &&
        sqlite3_step(row) == SQLITE_ROW)
    {
        pending = sqlite3_column_int64(row, 2);
        say(session, "tracking %s as %s on the server; in conflicts %s; %lld row%s to upload", name,
            (const char *)sqlite3_column_text(row, 0), (const char *)sqlite3_column_text(row, 1),
            (long long)pending, plural(pending));
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
    rowsync_track_options options = {arguments->schema, ROWSYNC_KEEP_POLICY,
                                     arguments->local_columns != NULL &&
                                             arguments->local_columns[0] != NULL
                                         ? arguments->local_columns
                                         : NULL};
    int i, policy;

    if (arguments->rest[0] == NULL)
        return usage("track needs the names of tables");
    if (arguments->policy != NULL)
    {
        if ((policy = policy_of(arguments->policy)) < 0)
            return usage("--policy is server, client, merge or manual");
        options.policy = (rowsync_policy)policy;
    }
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

    if (arguments->rest[0] == NULL)
        return usage("untrack needs the names of tables");
    for (i = 0; arguments->rest[i] != NULL; i++)
    {
        if (rowsync_untrack(session->client, arguments->rest[i], arguments->force) != ROWSYNC_OK)
            return failed(session);
        say(session, "%s is not tracked any more; its rows stay", arguments->rest[i]);
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
        return usage("attach needs --url and --user; --source may be left out");
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
    say(session, "attached to %s as %s, source %s", state.url, state.user_id, state.source_id);
    return EXIT_DONE;
}

/* detach. */
static int
run_detach(Session *session)
{
    if (rowsync_detach(session->client, session->arguments->force) != ROWSYNC_OK)
        return failed(session);
    say(session, "detached; the tracked tables of %s are empty", session->arguments->file);
    return EXIT_DONE;
}

/* What a table's line in the status has: its rows that wait, each way. */
#define TRACKED                                                                                    \
    "t.schema_name || '.' || t.table_name AS SERVER,"                                              \
    " CASE t.policy WHEN 0 THEN 'server' WHEN 1 THEN 'client' WHEN 2 THEN 'merge'"                 \
    " ELSE 'manual' END AS POLICY,"                                                                \
    " (SELECT count(*) FROM _sync_edited e WHERE e.table_id = t.table_id) AS PENDING,"             \
    " (SELECT count(*) FROM _sync_held h WHERE h.table_id = t.table_id AND h.state = 2) AS HELD,"  \
    " (SELECT count(*) FROM _sync_held h WHERE h.table_id = t.table_id AND h.state = 1)"           \
    " AS CONFLICTS,"                                                                               \
    " (SELECT count(*) FROM _sync_rejected r WHERE r.table_id = t.table_id) AS REJECTED"           \
    " FROM _sync_table t ORDER BY t.table_name"

/* status */
static int
run_status(Session *session)
{
    static const char by_table[] =
        "SELECT \"TABLE\" AS \"table\", SERVER AS server, POLICY AS policy, PENDING AS pending,"
        " HELD AS held, CONFLICTS AS conflicts, REJECTED AS rejected"
        " FROM (SELECT t.table_name AS \"TABLE\", " TRACKED ")";
    rowsync_state state;
    int64_t held;
    int count, result = EXIT_DONE;

    if (rowsync_get_state(session->client, &state) != ROWSYNC_OK)
        return failed(session);
    held = number(session, "SELECT count(*) FROM _sync_held WHERE state = 2", NULL);
    if (session->arguments->json)
        print_json(json_pack("{s:s?, s:s?, s:s?, s:I, s:I, s:I, s:I, s:b, s:i, s:I, s:o*}", "url",
                             state.url, "user", state.user_id, "source", state.source_id, "pending",
                             (json_int_t)state.pending, "conflicts", (json_int_t)state.conflicts,
                             "rejected", (json_int_t)state.rejected, "head", (json_int_t)state.head,
                             "hydrated", state.hydrated, "tables", state.tables, "held",
                             (json_int_t)held, "by_table", query_rows(session, by_table)));
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
        if (held > 0)
            printf("%lld row%s of the server held back: a parent is missing here, or a unique"
                   " value is in use\n",
                   (long long)held, plural(held));
    }
    warn_of_absent(session);
    if (result == EXIT_DONE && state.conflicts + state.rejected > 0)
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
    return report.rejected + report.conflicts > 0 ? EXIT_ATTENTION : EXIT_DONE;
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

/* conflicts: a line for each column that differs. */
static int
run_conflicts(Session *session)
{
    return show(
        session, ROWSYNC_LIST_CONFLICTS,
        ", cell AS (SELECT s.*, j.key AS name,"
        " (SELECT value FROM json_each(s.local_payload) l WHERE l.key = j.key) AS here,"
        " (SELECT value FROM json_each(s.server_payload) r WHERE r.key = j.key) AS there"
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
        print_unregistered(session);
    return result;
}

/* requeue, discard: all, those of a table, or one row. */
static int
run_rejected_fate(Session *session)
{
    const Arguments *arguments = session->arguments;
    const char *table = arguments->rest[0], *pk = table != NULL ? arguments->rest[1] : NULL;
    int again = strcmp(arguments->command, "requeue") == 0;
    int64_t before = number(session, "SELECT count(*) FROM _sync_rejected", NULL), count;
    rowsync_code code = again ? rowsync_requeue(session->client, table, pk)
                              : rowsync_discard(session->client, table, pk);

    if (code != ROWSYNC_OK)
        return failed(session);
    count = before - number(session, "SELECT count(*) FROM _sync_rejected", NULL);
    if (count == 0)
        say(session, "nothing was refused");
    else if (again)
        say(session, "%lld change%s will be sent again by the next sync", (long long)count,
            plural(count));
    else
        say(session, "%lld change%s given up", (long long)count, plural(count));
    return EXIT_DONE;
}

/* resolve: one row. */
static int
run_resolve(Session *session)
{
    const Arguments *arguments = session->arguments;
    int policy = policy_of(arguments->policy);

    if (arguments->rest[0] == NULL || arguments->rest[1] == NULL || policy < 0 ||
        policy == ROWSYNC_MANUAL)
        return usage("resolve needs a table, a key and --policy server, client or merge");
    if (rowsync_resolve(session->client, arguments->rest[0], arguments->rest[1],
                        (rowsync_policy)policy) != ROWSYNC_OK)
        return failed(session);
    say(session, "resolved %s %s: %s", arguments->rest[0], arguments->rest[1],
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

/* All commands on a file. */
static const struct
{
    const char *name;
    int (*run)(Session *session);
    int creates; /* the file may not exist yet */
    int talks;   /* to the server: needs a token */
    int most;    /* arguments after the file; -1: any number */
} commands[] = {
    {"init", run_init, 1, 0, 0},
    {"track", run_track, 0, 0, -1},
    {"untrack", run_untrack, 0, 0, -1},
    {"attach", run_attach, 0, 0, 0},
    {"detach", run_detach, 0, 0, 0},
    {"status", run_status, 0, 0, 0},
    {"sync", run_sync, 0, 1, 0},
    {"push", run_sync, 0, 1, 0},
    {"pull", run_sync, 0, 1, 0},
    {"hydrate", run_sync, 0, 1, 0},
    {"watch", run_watch, 0, 1, 0},
    {"log", run_log, 0, 1, 0},
    {"diff", run_diff, 0, 0, 0},
    {"conflicts", run_conflicts, 0, 0, 0},
    {"resolve", run_resolve, 0, 0, 2},
    {"rejected", run_rejected, 0, 0, 0},
    {"requeue", run_rejected_fate, 0, 0, 2},
    {"discard", run_rejected_fate, 0, 0, 2},
    {"verify", run_verify, 0, 0, 0},
};

/* Runs one command on a file. */
static int
run_command(const Arguments *arguments, size_t which)
{
    Session session = {.arguments = arguments};
    int result = EXIT_FAILED;

    if (session_open(&session, commands[which].creates) == 0 && session_connect(&session) == 0 &&
        (!commands[which].talks || session_token(&session) == 0))
        result = commands[which].run(&session);
    session_close(&session);
    return result;
}

/* clone URL FILE: the file is made, so that it is not opened here. */
static int
clone_command(Arguments *arguments)
{
    Session session = {.arguments = arguments};
    int result;

    if (arguments->file == NULL || arguments->rest[0] == NULL || arguments->rest[1] != NULL)
        return usage("clone needs a URL and the name of the new database file");
    free(arguments->url);
    arguments->url = strdup(arguments->file);
    arguments->file = arguments->rest[0];
    arguments->rest++;
    result = run_clone(&session);
    session_close(&session);
    return result;
}

/* How many arguments there are from here. */
static int
count_of(const char **arguments)
{
    int count = 0;

    while (arguments[count] != NULL)
        count++;
    return count;
}

/* Finds the command and runs it. */
static int
dispatch(Arguments *arguments)
{
    char message[600];
    size_t i;

    if (strcmp(arguments->command, "token") == 0)
        return arguments->file == NULL ? token_command(arguments)
                                       : usage("token takes options only: --user, --source, --ttl");
    if (strcmp(arguments->command, "clone") == 0)
        return clone_command(arguments);
    for (i = 0; i < sizeof(commands) / sizeof(*commands); i++)
    {
        if (strcmp(arguments->command, commands[i].name) != 0)
            continue;
        if (arguments->file == NULL)
            return usage("name the database file");
        if (commands[i].most >= 0 && count_of(arguments->rest) > commands[i].most)
        {
            snprintf(message, sizeof(message), "%s has no use for \"%.400s\"", arguments->command,
                     arguments->rest[commands[i].most]);
            return usage(message);
        }
        return run_command(arguments, i);
    }
    fprintf(stderr, "rowsync: there is no command \"%s\"\n  See rowsync --help.\n",
            arguments->command);
    return EXIT_USAGE;
}

static const char help_text[] =
    "COMMAND [FILE] [...]\n\n"
    "Keeps a SQLite database in step with PostgreSQL.\n\n"
    "  clone URL FILE                make a database with the server's tables and rows\n"
    "  init FILE                     create rowsync's tables in the file\n"
    "  track FILE TABLE...           capture changes of these tables\n"
    "  untrack FILE TABLE...         forget tables\n"
    "  attach FILE --url --user      say where to sync, and for whom\n"
    "  detach FILE                   sign off: remove the user's rows\n"
    "  status FILE                   where things stand\n"
    "  sync FILE                     upload, then download (also: push, pull, hydrate)\n"
    "  watch FILE                    stay in step until Ctrl-C\n"
    "  log FILE                      the latest changes on the server\n"
    "  diff FILE                     what is pending\n"
    "  conflicts FILE                rows that wait for a decision\n"
    "  resolve FILE TABLE KEY        decide one, by --policy\n"
    "  rejected FILE                 changes that the server refused\n"
    "  requeue FILE [TABLE [KEY]]    send them again (discard: give them up)\n"
    "  verify FILE                   look for changes that no trigger saw\n"
    "  token --user [--source]       print a development token\n\n"
    "Environment: ROWSYNC_TOKEN, the token of requests; ROWSYNC_JWT_SECRET, which `token` signs"
    " with; NO_COLOR.\n"
    "Exit status: 0 done, 1 failed, 2 wrong command line, 3 conflicts or refused changes "
    "remain.\n\n"
    "Options";

/* Frees what popt allocated for the options that take a word. */
static void
free_options(const struct poptOption *options, size_t count)
{
    size_t i, j;

    for (i = 0; i < count; i++)
    {
        if (options[i].argInfo == POPT_ARG_STRING)
            free(*(char **)options[i].arg);
        else if (options[i].argInfo == POPT_ARG_ARGV && *(char ***)options[i].arg != NULL)
        {
            for (j = 0; (*(char ***)options[i].arg)[j] != NULL; j++)
                free((*(char ***)options[i].arg)[j]);
            free(*(char ***)options[i].arg);
        }
    }
}

/* Reads the command line. */
int
main(int argc, char **argv)
{
    Arguments arguments = {0};
    char **local_columns = NULL, **claims = NULL;
    static const int default_ttl = 3600, default_limit = 20;
    static const char *nothing[] = {NULL};
    int show_version = 0;
    struct poptOption options[] = {
        {"url", 0, POPT_ARG_STRING, &arguments.url, 0, "the gateway", "URL"},
        {"user", 0, POPT_ARG_STRING, &arguments.user, 0, "user, as the token's sub", "USER"},
        {"source", 0, POPT_ARG_STRING, &arguments.source, 0, "this installation", "ID"},
        {"schema", 0, POPT_ARG_STRING, &arguments.schema, 0, "schema on the server (public)",
         "NAME"},
        {"policy", 0, POPT_ARG_STRING, &arguments.policy, 0,
         "for conflicts: server, client, merge, manual", "POLICY"},
        {"local", 0, POPT_ARG_ARGV, &local_columns, 0, "a column that stays here (repeat)",
         "COLUMN"},
        {"batch-size", 0, POPT_ARG_INT, &arguments.batch_size, 0, "changes a request (adapts)",
         "N"},
        {"page-size", 0, POPT_ARG_INT, &arguments.page_size, 0, "changes a page (1000)", "N"},
        {"token-file", 0, POPT_ARG_STRING, &arguments.token_file, 0, "file that has the token",
         "FILE"},
        {"token-command", 0, POPT_ARG_STRING, &arguments.token_command, 0,
         "command that prints the token", "COMMAND"},
        {"limit", 0, POPT_ARG_INT, &arguments.limit, 0, "changes that log shows (20)", "N"},
        {"ttl", 0, POPT_ARG_INT, &arguments.ttl, 0, "lifetime of a development token (3600)",
         "SECONDS"},
        {"claim", 0, POPT_ARG_ARGV, &claims, 0, "another claim of it (repeat)", "NAME=VALUE"},
        {"json", 0, POPT_ARG_NONE, &arguments.json, 0, "print JSON", NULL},
        {"force", 0, POPT_ARG_NONE, &arguments.force, 0,
         "even though edits are lost, or the server is another", NULL},
        {"repair", 0, POPT_ARG_NONE, &arguments.repair, 0, "queue what verify finds", NULL},
        {"server", 0, POPT_ARG_NONE, &arguments.server, 0, "verify: compare with the server", NULL},
        {"version", 0, POPT_ARG_NONE, &show_version, 0, "print the version", NULL},
        POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("rowsync", argc, (const char **)argv, options, 0);
    int result;

    arguments.ttl = default_ttl;
    arguments.limit = default_limit;
    poptSetOtherOptionHelp(context, help_text);
    if ((result = poptGetNextOpt(context)) < -1)
    {
        fprintf(stderr, "rowsync: %s: %s\n  See rowsync --help.\n",
                poptBadOption(context, POPT_BADOPTION_NOALIAS), poptStrerror(result));
        result = EXIT_USAGE;
    }
    else if (show_version)
    {
        puts("rowsync " ROWSYNC_VERSION);
        result = EXIT_DONE;
    }
    else if ((arguments.command = poptGetArg(context)) == NULL)
        result = usage("say what to do");
    else
    {
        arguments.file = poptGetArg(context);
        arguments.rest = poptGetArgs(context);
        if (arguments.rest == NULL)
            arguments.rest = nothing;
        arguments.local_columns = (const char **)local_columns;
        arguments.claims = (const char **)claims;
        result = dispatch(&arguments);
    }
    poptFreeContext(context);
    free_options(options, sizeof(options) / sizeof(*options));
    return result;
}
