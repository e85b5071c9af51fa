/*
 * clone.c - a new database from nothing but a URL and a token: the server's tables, with all rows.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

/* The text of a member; "" where it is none. */
static const char *
text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text != NULL ? text : "";
}

/* Does the schema that --schema names, or any, have this table? */
static int
wanted(const Session *session, const json_t *table)
{
    const char *schema = session->arguments->schema;

    return schema == NULL || strcmp(schema, text_of(table, "schema")) == 0;
}

/* Appends a list of columns in parentheses. */
static void
append_columns(sqlite3_str *sql, const json_t *names)
{
    const json_t *name;
    size_t i;

    json_array_foreach(names, i, name)
        sqlite3_str_appendf(sql, "%s\"%w\"", i > 0 ? ", " : " (", json_string_value(name));
    sqlite3_str_appendf(sql, ")");
}

/*
 * Appends the CREATE TABLE of one table of /sync/schema. References wait for the end of the
 * transaction, for rows may arrive before their parents; RESTRICT would not wait, and deletes come
 * in the server's order, so that it becomes NO ACTION. What the server computes may be absent in a
 * row made here.
 */
static void
append_table(sqlite3_str *sql, const Session *session, const json_t *table)
{
    const json_t *one;
    size_t i;

    sqlite3_str_appendf(sql, "CREATE TABLE \"%w\" (\n", text_of(table, "table"));
    json_array_foreach(json_object_get(table, "columns"), i, one)
    {
        sqlite3_str_appendf(sql, "    \"%w\" %s%s,\n", text_of(one, "name"),
                            strcmp(text_of(one, "sqlite"), "INTEGER") == 0  ? "INTEGER"
                            : strcmp(text_of(one, "sqlite"), "REAL") == 0   ? "REAL"
                            : strcmp(text_of(one, "sqlite"), "BLOB") == 0   ? "BLOB"
                            : strncmp(text_of(one, "type"), "json", 4) == 0 ? "JSON TEXT"
                                                                            : "TEXT",
                            json_is_true(json_object_get(one, "not_null")) &&
                                    !json_is_true(json_object_get(one, "generated"))
                                ? " NOT NULL"
                                : "");
    }
    sqlite3_str_appendf(sql, "    PRIMARY KEY");
    append_columns(sql, json_object_get(table, "primary_key"));
    json_array_foreach(json_object_get(table, "unique"), i, one)
    {
        sqlite3_str_appendf(sql, ",\n    UNIQUE");
        append_columns(sql, one);
    }
    json_array_foreach(json_object_get(table, "references"), i, one)
    {
        const char *action = text_of(one, "on_delete");

        if (!wanted(session, one))
            continue;
        sqlite3_str_appendf(sql, ",\n    FOREIGN KEY");
        append_columns(sql, json_object_get(one, "columns"));
        sqlite3_str_appendf(sql, " REFERENCES \"%w\"", text_of(one, "table"));
        append_columns(sql, json_object_get(one, "to"));
        sqlite3_str_appendf(sql, " ON DELETE %s DEFERRABLE INITIALLY DEFERRED",
                            strcmp(action, "CASCADE") == 0       ? "CASCADE"
                            : strcmp(action, "SET NULL") == 0    ? "SET NULL"
                            : strcmp(action, "SET DEFAULT") == 0 ? "SET DEFAULT"
                                                                 : "NO ACTION");
    }
    sqlite3_str_appendf(sql, "\n);\n");
}

/* Creates the tables, all or none. */
static int
create_tables(const Session *session, const json_t *tables)
{
    sqlite3_str *text = sqlite3_str_new(session->db);
    const json_t *table;
    char *sql, message[600], *error = NULL;
    size_t i;
    int result = EXIT_DONE;

    sqlite3_str_appendf(text, "BEGIN;\n");
    json_array_foreach(tables, i, table) if (wanted(session, table))
        append_table(text, session, table);
    sqlite3_str_appendf(text, "COMMIT;");
    if ((sql = sqlite3_str_finish(text)) == NULL)
        return complain(session, "nomem", "Out of memory.", NULL);
    if (sqlite3_exec(session->db, sql, NULL, NULL, &error) != SQLITE_OK)
    {
        snprintf(message, sizeof(message), "The server's tables cannot be made here: %.400s.",
                 error != NULL ? error : "");
        result = complain(session, "schema", message,
                          "Where two schemas have a table of one name, choose one by --schema.");
    }
    sqlite3_free(error);
    sqlite3_free(sql);
    return result;
}

/* Tracks the tables that were made. Returns their number, or -1 with the reason printed. */
static int
track_tables(const Session *session, const json_t *tables)
{
    const json_t *table;
    size_t i;
    int count = 0;

    json_array_foreach(tables, i, table)
    {
        rowsync_track_options options = {text_of(table, "schema"), session->arguments->policy,
                                         NULL};

        if (!wanted(session, table))
            continue;
        if (rowsync_track(session->client, text_of(table, "table"), &options) != ROWSYNC_OK)
            return failed(session), -1;
        count++;
    }
    return count;
}

/* Nothing to track: the schema that --schema names has no table, or the server none at all. */
static int
nothing_to_clone(const Session *session, const json_t *tables)
{
    json_t *schemas = json_object();
    char message[600], hint[900] = "The server syncs tables of: ";
    const json_t *table;
    json_t *ignored;
    const char *name;
    size_t i, used = strlen(hint);
    int result;

    json_array_foreach(tables, i, table)
        json_object_set_new(schemas, text_of(table, "schema"), json_null());
    json_object_foreach(schemas, name, ignored) if (used + strlen(name) + 3 < sizeof(hint)) used +=
        (size_t)snprintf(hint + used, sizeof(hint) - used, "%s%s",
                         hint[used - 1] == ' ' ? "" : ", ", name);
    if (json_object_size(schemas) == 0)
        result = complain(session, "schema", "The server has no table to sync.",
                          "Register one there: SELECT rowsync.register_table('schema.table').");
    else
    {
        snprintf(message, sizeof(message), "The server syncs no table of a schema \"%.400s\".",
                 session->arguments->schema);
        result = complain(session, "schema", message, hint);
    }
    json_decref(schemas);
    return result;
}

/* Gives the full file its name: all is in it once nobody has it open. */
static int
put_in_place(Session *session, const char *target)
{
    char message[1200];

    session_signals(NULL);
    rowsync_close(session->client);
    session->client = NULL;
    if (sqlite3_close(session->db) == SQLITE_OK)
        session->db = NULL;
    if (session->db == NULL && access(target, F_OK) != 0 &&
        rename(session->arguments->file, target) == 0)
        return EXIT_DONE;
    snprintf(message, sizeof(message), "%.1000s cannot be given its name.", target);
    return complain(session, "database", message, "Has another program made it meanwhile?");
}

/*
 * Makes the file of the session all that it is to be, which `target` is then the name of. `tables`
 * is the array of /sync/schema.
 */
static int
fill(Session *session, const json_t *tables, const char *user, const char *source,
     const char *target)
{
    const Arguments *arguments = session->arguments;
    const rowsync_sync_options options = {arguments->batch_size, arguments->page_size, 0};
    rowsync_report report;
    rowsync_state state;
    char named[600];
    json_t *members;
    int count, result;

    if (session_open(session, 1) != 0 || (result = create_tables(session, tables)) != EXIT_DONE ||
        session_connect(session) != 0)
        return EXIT_FAILED;
    session_signals(session->client);
    if (rowsync_set_token(session->client, session->token) != ROWSYNC_OK ||
        rowsync_init(session->client) != ROWSYNC_OK)
        return failed(session);
    if ((count = track_tables(session, tables)) < 0)
        return EXIT_FAILED;
    if (count == 0)
        return nothing_to_clone(session, tables);
    if (rowsync_attach(session->client, arguments->url, user, source) != ROWSYNC_OK)
        return failed(session);
    if (rowsync_sync(session->client, &options, &report) != ROWSYNC_OK ||
        rowsync_get_state(session->client, &state) != ROWSYNC_OK)
    {
        clear_progress(session);
        return failed(session);
    }
    clear_progress(session);
    snprintf(named, sizeof(named), "%.290s, source %.290s", state.user_id, state.source_id);
    /* What the state tells goes with the client that put_in_place() closes. */
    members =
        json_pack("{s:i, s:I, s:o, s:o}", "tables", count, "rows", (json_int_t)report.downloaded,
                  "user", json_text(state.user_id), "source", json_text(state.source_id));
    if (put_in_place(session, target) != EXIT_DONE)
    {
        json_decref(members);
        return EXIT_FAILED;
    }
    say(session, members, "cloned %d table%s with %lld row%s into %s as %s", count, plural(count),
        (long long)report.downloaded, plural(report.downloaded), target, named);
    return EXIT_DONE;
}

/* Removes what SQLite keeps beside a file. */
static void
remove_endings(const char *file)
{
    static const char *const endings[] = {"-journal", "-wal", "-shm"};
    char path[4096];
    size_t i;

    for (i = 0; i < sizeof(endings) / sizeof(*endings); i++)
    {
        snprintf(path, sizeof(path), "%s%s", file, endings[i]);
        unlink(path);
    }
}

/*
 * Opens the file that is filled, and empties it where a clone that was killed has left it. The lock
 * goes with the descriptor: of two clones into one file the second is refused. Returns -1 with the
 * reason printed.
 */
static int
take_file(const Session *session, const char *file)
{
    int taken = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct stat state;
    char message[1200];

    if (taken >= 0 && flock(taken, LOCK_EX | LOCK_NB) == 0 && fstat(taken, &state) == 0 &&
        state.st_nlink > 0 && ftruncate(taken, 0) == 0)
    {
        remove_endings(file);
        return taken;
    }
    snprintf(message, sizeof(message), "Cannot fill %.1000s: %s.", file, strerror(errno));
    complain(session, "database", message,
             taken >= 0 ? "Another clone is at work on it."
                        : "Is it a file that may be written, in a folder that exists?");
    if (taken >= 0)
        close(taken);
    return -1;
}

/*
 * clone: user and source are the token's, unless given. All or nothing: a file beside is filled,
 * and gets its name in the end.
 */
int
run_clone(Session *session)
{
    const Arguments *arguments = session->arguments;
    Arguments filled = *arguments;
    json_t *claims, *schema;
    const char *user, *source, *separator;
    char url[2048], message[1200], side[4096], *answer = NULL;
    int taken, result = EXIT_FAILED;

    snprintf(message, sizeof(message), "%.1000s is there already.", arguments->file);
    if (access(arguments->file, F_OK) == 0)
        return complain(session, "misuse", message,
                        "clone makes a new file; into this one, `rowsync init`, `track`, `attach`"
                        " and `sync`.");
    if (strncmp(arguments->url, "http://", 7) != 0 && strncmp(arguments->url, "https://", 8) != 0)
    {
        snprintf(message, sizeof(message), "\"%.1000s\" is no URL of a rowsync gateway.",
                 arguments->url);
        return complain(session, "misuse", message, "It begins with https:// or http://.");
    }
    if (session_token(session) != 0)
        return EXIT_FAILED;
    claims = token_claims(session->token);
    user = arguments->user != NULL ? arguments->user : text_of(claims, "sub");
    source = arguments->source != NULL ? arguments->source : text_of(claims, "did");
    separator = arguments->url[strlen(arguments->url) - 1] == '/' ? "" : "/";
    snprintf(url, sizeof(url), "%.2000s%ssync/schema", arguments->url, separator);
    snprintf(side, sizeof(side), "%.4000s-clone", arguments->file);
    filled.file = side;
    session_signals(NULL);
    if (*user == '\0' && claims == NULL)
        complain(session, "unauthorized", "The token is no JWT.",
                 "ROWSYNC_TOKEN, --token-file or --token-command must give the whole of it.");
    else if (*user == '\0')
        result = usage(session, "the token names no user: give --user");
    else
        answer = session_fetch(session, url, *source != '\0' ? source : "rowsync-clone");
    if (answer != NULL)
    {
        schema = json_loads(answer, 0, NULL);
        if (!json_is_array(json_object_get(schema, "tables")))
            complain(session, "protocol", "The answer is no list of tables.",
                     "Is the URL that of a rowsync gateway?");
        else if ((taken = take_file(session, filled.file)) >= 0)
        {
            session->arguments = &filled;
            result = fill(session, json_object_get(schema, "tables"), user,
                          *source != '\0' ? source : NULL, arguments->file);
            session->arguments = arguments;
            if (result != EXIT_DONE)
            {
                unlink(filled.file);
                remove_endings(filled.file);
            }
            close(taken);
        }
        json_decref(schema);
    }
    free(answer);
    json_decref(claims);
    return result;
}
