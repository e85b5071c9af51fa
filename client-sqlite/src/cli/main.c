/*
 * main.c - the rowsync command line.
 */
#include <popt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* The handle that a signal cancels. */
static rowsync *volatile running;

/* What every command works with. */
typedef struct Session
{
    const Arguments *arguments;
    sqlite3 *db;
    rowsync *client;
    char *token;
} Session;

static void
on_signal(int number)
{
    (void)number;
    if (running != NULL)
        rowsync_cancel(running);
}

/* Reports the handle's failure: what happened, and below it what to do. */
static int
failed(const Session *session)
{
    rowsync_code code = rowsync_error(session->client);

    if (session->arguments->json)
    {
        json_t *error =
            json_pack("{s:{s:s, s:s, s:s}}", "error", "code", rowsync_code_name(code), "message",
                      rowsync_message(session->client), "hint", rowsync_hint(session->client));

        json_dumpf(error, stdout, JSON_COMPACT);
        puts("");
        json_decref(error);
    }
    fprintf(stderr, "rowsync: %s\n", rowsync_message(session->client));
    if (*rowsync_hint(session->client) != '\0')
        fprintf(stderr, "  %s\n", rowsync_hint(session->client));
    return code == ROWSYNC_DIFFERENT ? EXIT_ATTENTION : EXIT_FAILED;
}

/* A wrong command line. */
static int
usage(const char *message)
{
    fprintf(stderr, "rowsync: %s\n  See rowsync --help.\n", message);
    return EXIT_USAGE;
}

/* The token callback: the source of the token may have a fresh one. */
static int
fresh_token(void *context, char *token, size_t size)
{
    const Session *session = context;
    char *fresh = token_read(session->arguments);
    int length = fresh != NULL ? snprintf(token, size, "%s", fresh) : -1;

    free(fresh);
    return length > 0 && (size_t)length < size ? 0 : -1;
}

/* Draws how far things are, on a terminal only. */
static int
draw_progress(void *context, const char *phase, int64_t done, int64_t total)
{
    const Session *session = context;

    (void)total;
    if (!session->arguments->json && isatty(STDERR_FILENO) && done > 0)
        fprintf(stderr, "\r\033[K%s: %lld", phase, (long long)done);
    return 0;
}

/* Removes the progress line. */
static void
clear_progress(const Session *session)
{
    if (!session->arguments->json && isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}

/* Prints an object as one line and frees it. */
static void
print_json(json_t *object)
{
    json_dumpf(object, stdout, JSON_COMPACT);
    puts("");
    json_decref(object);
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

static int
run_init(Session *session)
{
    return rowsync_init(session->client) == ROWSYNC_OK ? EXIT_DONE : failed(session);
}

static int
run_track(Session *session)
{
    const Arguments *arguments = session->arguments;
    rowsync_track_options options = {arguments->schema, ROWSYNC_SERVER_WINS,
                                     arguments->local_columns};
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
        if (rowsync_track(session->client, arguments->rest[i], &options) != ROWSYNC_OK)
            return failed(session);
    return EXIT_DONE;
}

static int
run_untrack(Session *session)
{
    const Arguments *arguments = session->arguments;
    int i;

    if (arguments->rest[0] == NULL)
        return usage("untrack needs the names of tables");
    for (i = 0; arguments->rest[i] != NULL; i++)
        if (rowsync_untrack(session->client, arguments->rest[i], arguments->force) != ROWSYNC_OK)
            return failed(session);
    return EXIT_DONE;
}

static int
run_attach(Session *session)
{
    const Arguments *arguments = session->arguments;

    if (arguments->url == NULL || arguments->user == NULL)
        return usage("attach needs --url and --user");
    if (rowsync_attach(session->client, arguments->url, arguments->user, arguments->source) !=
        ROWSYNC_OK)
        return failed(session);
    return EXIT_DONE;
}

static int
run_detach(Session *session)
{
    return rowsync_detach(session->client, session->arguments->force) == ROWSYNC_OK
               ? EXIT_DONE
               : failed(session);
}

static int
run_status(Session *session)
{
    rowsync_state state;

    if (rowsync_get_state(session->client, &state) != ROWSYNC_OK)
        return failed(session);
    if (session->arguments->json)
        print_json(json_pack("{s:s?, s:s?, s:s?, s:I, s:I, s:I, s:I, s:b, s:i}", "url", state.url,
                             "user", state.user_id, "source", state.source_id, "pending",
                             (json_int_t)state.pending, "conflicts", (json_int_t)state.conflicts,
                             "rejected", (json_int_t)state.rejected, "head", (json_int_t)state.head,
                             "hydrated", state.hydrated, "tables", state.tables));
    else
    {
        if (state.url == NULL)
            puts("not attached");
        else
            printf("%s as %s, source %s\n", state.url, state.user_id, state.source_id);
        printf("%d tables, at %lld of the server's log%s\n", state.tables, (long long)state.head,
               state.hydrated ? "" : ", not hydrated yet");
        printf("%lld pending, %lld conflicts, %lld rejected\n", (long long)state.pending,
               (long long)state.conflicts, (long long)state.rejected);
    }
    return EXIT_DONE;
}

/* The statuses of a report that occurred. */
static json_t *
statuses_of(const rowsync_report *report)
{
    const struct
    {
        const char *name;
        int64_t count;
    } all[] = {{"applied", report->applied},
               {"conflict", report->conflict},
               {"fk_missing", report->fk_missing},
               {"bad_payload", report->bad_payload},
               {"constraint", report->constraint},
               {"forbidden", report->forbidden},
               {"unregistered_table", report->unregistered_table},
               {"internal_error", report->internal_error},
               {"other", report->other}};
    json_t *statuses = json_object();
    size_t i;

    for (i = 0; i < sizeof(all) / sizeof(*all); i++)
        if (all[i].count > 0)
            json_object_set_new(statuses, all[i].name, json_integer(all[i].count));
    return statuses;
}

/* sync, push, pull, hydrate. */
static int
run_sync(Session *session)
{
    const Arguments *arguments = session->arguments;
    rowsync_sync_options options = {arguments->batch_size, arguments->page_size, 0};
    rowsync_report report;
    rowsync_code code;

    running = session->client;
    code =
        strcmp(arguments->command, "push") == 0   ? rowsync_push(session->client, &options, &report)
        : strcmp(arguments->command, "pull") == 0 ? rowsync_pull(session->client, &options, &report)
        : strcmp(arguments->command, "hydrate") == 0
            ? rowsync_hydrate(session->client, &options, &report)
            : rowsync_sync(session->client, &options, &report);
    running = NULL;
    clear_progress(session);
    if (code != ROWSYNC_OK)
        return failed(session);
    if (arguments->json)
        print_json(json_pack("{s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I}", "uploaded",
                             (json_int_t)report.uploaded, "rounds", (json_int_t)report.rounds,
                             "statuses", statuses_of(&report), "downloaded",
                             (json_int_t)report.downloaded, "pages", (json_int_t)report.pages,
                             "pending", (json_int_t)report.pending, "conflicts",
                             (json_int_t)report.conflicts, "rejected", (json_int_t)report.rejected,
                             "head", (json_int_t)report.head));
    else
        printf("%lld uploaded in %lld rounds, %lld downloaded in %lld pages; "
               "%lld pending, %lld conflicts, %lld rejected\n",
               (long long)report.uploaded, (long long)report.rounds, (long long)report.downloaded,
               (long long)report.pages, (long long)report.pending, (long long)report.conflicts,
               (long long)report.rejected);
    return report.rejected + report.conflicts > 0 ? EXIT_ATTENTION : EXIT_DONE;
}

/* Prints the rows of a query: as an array of objects, or as lines with the columns apart. */
static int
print_rows(Session *session, const char *sql, int *count)
{
    sqlite3_stmt *statement = NULL;
    json_t *rows = json_array();
    int i;

    *count = 0;
    if (sqlite3_prepare_v2(session->db, sql, -1, &statement, NULL) != SQLITE_OK)
    {
        json_decref(rows);
        fprintf(stderr, "rowsync: %s\n  Run rowsync init on this file first.\n",
                sqlite3_errmsg(session->db));
        return EXIT_FAILED;
    }
    for (; sqlite3_step(statement) == SQLITE_ROW; ++*count)
    {
        json_t *row = json_object();

        for (i = 0; i < sqlite3_column_count(statement); i++)
        {
            const char *text = (const char *)sqlite3_column_text(statement, i);

            if (session->arguments->json)
                json_object_set_new(row, sqlite3_column_name(statement, i),
                                    text == NULL ? json_null()
                                    : sqlite3_column_type(statement, i) == SQLITE_INTEGER
                                        ? json_integer(sqlite3_column_int64(statement, i))
                                        : json_string(text));
            else
                printf("%s%s", i > 0 ? "  " : "", text != NULL ? text : "-");
        }
        if (!session->arguments->json)
            puts("");
        json_array_append_new(rows, row);
    }
    sqlite3_finalize(statement);
    if (session->arguments->json)
        print_json(rows);
    else
        json_decref(rows);
    return EXIT_DONE;
}

/* diff: what is pending. */
static int
run_diff(Session *session)
{
    int count;

    return print_rows(session,
                      "SELECT op, table_name, pk_uuid, base_version, payload"
                      " FROM _sync_pending",
                      &count);
}

static int
run_conflicts(Session *session)
{
    int count, result = print_rows(session, "SELECT * FROM _sync_conflict", &count);

    return result == EXIT_DONE && count > 0 ? EXIT_ATTENTION : result;
}

static int
run_rejected(Session *session)
{
    int count,
        result =
            print_rows(session,
                       "SELECT t.table_name, r.pk_text AS pk, r.op, r.reason, r.message, r.payload,"
                       " r.rejected_at FROM _sync_rejected r JOIN _sync_table t USING (table_id)"
                       " ORDER BY r.change_id",
                       &count);

    return result == EXIT_DONE && count > 0 ? EXIT_ATTENTION : result;
}

/* requeue, discard: all, those of a table, or one row. */
static int
run_rejected_fate(Session *session)
{
    const Arguments *arguments = session->arguments;
    const char *table = arguments->rest[0], *pk = table != NULL ? arguments->rest[1] : NULL;
    rowsync_code code = strcmp(arguments->command, "requeue") == 0
                            ? rowsync_requeue(session->client, table, pk)
                            : rowsync_discard(session->client, table, pk);

    return code == ROWSYNC_OK ? EXIT_DONE : failed(session);
}

static int
run_resolve(Session *session)
{
    const Arguments *arguments = session->arguments;
    int policy = policy_of(arguments->policy);

    if (arguments->rest[0] == NULL || arguments->rest[1] == NULL || policy < 0)
        return usage("resolve needs a table, a key and --policy server, client or merge");
    return rowsync_resolve(session->client, arguments->rest[0], arguments->rest[1],
                           (rowsync_policy)policy) == ROWSYNC_OK
               ? EXIT_DONE
               : failed(session);
}

static int
run_verify(Session *session)
{
    int64_t found = 0;
    rowsync_code code = rowsync_verify(session->client, session->arguments->repair, &found);

    if (code != ROWSYNC_OK)
        return failed(session);
    if (session->arguments->json)
        print_json(json_pack("{s:I}", "found", (json_int_t)found));
    else
        printf("%lld changes that no trigger saw%s\n", (long long)found,
               found > 0 ? ": queued" : "");
    return EXIT_DONE;
}

/* All commands on a file. */
static const struct
{
    const char *name;
    int (*run)(Session *session);
    int creates; /* the file may not exist yet */
    int talks;   /* to the server: needs a token */
} commands[] = {
    {"init", run_init, 1, 0},
    {"track", run_track, 0, 0},
    {"untrack", run_untrack, 0, 0},
    {"attach", run_attach, 0, 0},
    {"detach", run_detach, 0, 0},
    {"status", run_status, 0, 0},
    {"sync", run_sync, 0, 1},
    {"push", run_sync, 0, 1},
    {"pull", run_sync, 0, 1},
    {"hydrate", run_sync, 0, 1},
    {"diff", run_diff, 0, 0},
    {"conflicts", run_conflicts, 0, 0},
    {"resolve", run_resolve, 0, 0},
    {"rejected", run_rejected, 0, 0},
    {"requeue", run_rejected_fate, 0, 0},
    {"discard", run_rejected_fate, 0, 0},
    {"verify", run_verify, 0, 0},
};

/* Opens the file as a careful app would. */
static int
open_file(Session *session, int creates)
{
    const char *file = session->arguments->file;
    int flags = SQLITE_OPEN_READWRITE | (creates ? SQLITE_OPEN_CREATE : 0);

    if (sqlite3_open_v2(file, &session->db, flags, NULL) != SQLITE_OK)
    {
        fprintf(stderr, "rowsync: cannot open %s: %s\n  Create it with rowsync init.\n", file,
                sqlite3_errmsg(session->db));
        return -1;
    }
    sqlite3_busy_timeout(session->db, 30000);
    /* Keys are spread over the whole file: a small cache would read its pages again and again. */
    sqlite3_exec(session->db, "PRAGMA foreign_keys = ON; PRAGMA cache_size = -65536", NULL, NULL,
                 NULL);
    return 0;
}

/* Runs one command on a file. */
static int
run_command(const Arguments *arguments, size_t which)
{
    Session session = {.arguments = arguments};
    rowsync_options options = {
        .context = &session, .token = fresh_token, .progress = draw_progress};
    int result = EXIT_FAILED;

    if (open_file(&session, commands[which].creates) == 0)
    {
        if (rowsync_open(session.db, &options, &session.client) != ROWSYNC_OK)
            result = failed(&session);
        else if (commands[which].talks && (session.token = token_read(arguments)) == NULL)
            fprintf(stderr, "rowsync: there is no token\n  Set ROWSYNC_TOKEN, or give --token-file"
                            " or --token-command.\n");
        else if (rowsync_set_token(session.client, session.token) != ROWSYNC_OK)
            result = failed(&session);
        else
            result = commands[which].run(&session);
    }
    rowsync_close(session.client);
    sqlite3_close(session.db);
    free(session.token);
    return result;
}

/* Finds the command and runs it. */
static int
dispatch(const Arguments *arguments)
{
    size_t i;

    if (strcmp(arguments->command, "token") == 0)
        return token_command(arguments);
    for (i = 0; i < sizeof(commands) / sizeof(*commands); i++)
        if (strcmp(arguments->command, commands[i].name) == 0)
            return arguments->file != NULL ? run_command(arguments, i)
                                           : usage("name the database file");
    fprintf(stderr, "rowsync: there is no command \"%s\"\n  See rowsync --help.\n",
            arguments->command);
    return EXIT_USAGE;
}

static const char help_text[] =
    "COMMAND [FILE] [...]\n\n"
    "Keeps a SQLite database in step with PostgreSQL.\n\n"
    "  init FILE                     create rowsync's tables in the file\n"
    "  track FILE TABLE...           capture changes of these tables\n"
    "  untrack FILE TABLE...         forget tables\n"
    "  attach FILE --url --user      say where to sync, and for whom\n"
    "  detach FILE                   sign off: remove the user's rows\n"
    "  status FILE                   where things stand\n"
    "  sync FILE                     upload, then download (also: push, pull, hydrate)\n"
    "  diff FILE                     what is pending\n"
    "  conflicts FILE                rows that wait for a decision\n"
    "  resolve FILE TABLE KEY        decide one, by --policy\n"
    "  rejected FILE                 changes that the server refused\n"
    "  requeue FILE [TABLE [KEY]]    send them again (discard: give them up)\n"
    "  verify FILE                   look for changes that no trigger saw\n"
    "  token --user --source         print a development token\n\n"
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

int
main(int argc, char **argv)
{
    Arguments arguments = {0};
    char **local_columns = NULL, **claims = NULL;
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
        {"ttl", 0, POPT_ARG_INT, &arguments.ttl, 0, "lifetime of a development token (3600)",
         "SECONDS"},
        {"claim", 0, POPT_ARG_ARGV, &claims, 0, "another claim of it (repeat)", "NAME=VALUE"},
        {"json", 0, POPT_ARG_NONE, &arguments.json, 0, "print JSON", NULL},
        {"force", 0, POPT_ARG_NONE, &arguments.force, 0, "even though edits are lost", NULL},
        {"repair", 0, POPT_ARG_NONE, &arguments.repair, 0, "queue what verify finds", NULL},
        {"version", 0, POPT_ARG_NONE, &show_version, 0, "print the version", NULL},
        POPT_AUTOHELP POPT_TABLEEND};
    struct sigaction action = {.sa_handler = on_signal};
    poptContext context = poptGetContext("rowsync", argc, (const char **)argv, options, 0);
    int result;

    poptSetOtherOptionHelp(context, help_text);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
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
