/*
 * session.c - the file, the token and the line to the server of one command.
 *
 * The library's own transport works behind one that listens in: it tells the user when requests are
 * sent again, and remembers the codes of problems.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

#include "cli.h"

/* An answer is looked into up to this size. */
#define HEAR_AT_MOST (4u << 20)

/* Set by Ctrl-C; requests look at it. */
volatile int stopped;

/* The handle that a signal cancels. */
static rowsync *volatile running;

/* Breaks off what runs. A second signal ends the process, which harms no database. */
static void
on_signal(int number)
{
    if (stopped)
    {
        signal(number, SIG_DFL);
        raise(number);
    }
    stopped = 1;
    if (running != NULL)
        rowsync_cancel(running);
}

/* From here on Ctrl-C cancels the client's call in good order; other commands it just ends. */
void
session_signals(rowsync *client)
{
    struct sigaction action = {.sa_handler = on_signal};

    running = client;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* A locked database: waits, half a minute at most, unless the user has had enough. */
static int
wait_for_lock(void *context, int calls)
{
    const Session *session = context;

    if (stopped || calls >= 3000)
        return 0;
    if (calls == 100 && !session->arguments->json)
    {
        clear_progress(session);
        fprintf(stderr, "rowsync: another connection holds %s; waiting for it, up to 30 s\n",
                session->arguments->file);
    }
    usleep(10000);
    return 1;
}

/* Opens the file as a careful app would. Returns 0, or -1 with the reason printed. */
int
session_open(Session *session, int creates)
{
    const char *file = session->arguments->file;
    int flags = SQLITE_OPEN_READWRITE | (creates ? SQLITE_OPEN_CREATE : 0);
    char message[1200];

    if (sqlite3_open_v2(file, &session->db, flags, NULL) != SQLITE_OK)
    {
        snprintf(message, sizeof(message), "Cannot open %.1000s: %.100s.", file,
                 sqlite3_errmsg(session->db));
        complain(session, "database", message,
                 access(file, F_OK) != 0 && !creates
                     ? "Is it the right name? `rowsync init` makes a new database."
                     : "Is it a file that may be written, in a folder that exists?");
        return -1;
    }
    sqlite3_busy_handler(session->db, wait_for_lock, session);
    switch (sqlite3_exec(session->db, "PRAGMA schema_version", NULL, NULL, NULL))
    {
        case SQLITE_NOTADB:
            snprintf(message, sizeof(message), "%.1000s is not a SQLite database.", file);
            complain(session, "database", message, "Name the app's database file.");
            return -1;
        case SQLITE_BUSY: /* whoever holds it even against readers was waited for just now */
            snprintf(message, sizeof(message), "Another connection holds %.1000s.", file);
            complain(session, "busy", message,
                     "Close it, or let it end what it does; then try again.");
            return -1;
        default:
            break;
    }
    /* Keys are spread over the whole file: a small cache would read its pages again and again. */
    sqlite3_exec(session->db, "PRAGMA foreign_keys = ON; PRAGMA cache_size = -65536", NULL, NULL,
                 NULL);
    return 0;
}

/* The first number that a query gives; `value` is its ?1. 0 where it gives none. */
int64_t
number(const Session *session, const char *sql, const char *value)
{
    sqlite3_stmt *statement = NULL;
    int64_t result = 0;

    if (sqlite3_prepare_v2(session->db, sql, -1, &statement, NULL) == SQLITE_OK)
    {
        if (sqlite3_bind_parameter_count(statement) > 0)
            sqlite3_bind_text(statement, 1, value, -1, SQLITE_STATIC);
        if (sqlite3_step(statement) == SQLITE_ROW)
            result = sqlite3_column_int64(statement, 0);
    }
    sqlite3_finalize(statement);
    return result;
}

/* The token callback: the source of the token may have a fresh one. */
static int
fresh_token(void *context, char *token, size_t size)
{
    const Session *session = context;
    char *fresh = token_read(session);
    int length = fresh != NULL ? snprintf(token, size, "%s", fresh) : -1;

    free(fresh);
    return length > 0 && (size_t)length < size ? 0 : -1;
}

/* The progress callback. */
static int
note_progress(void *context, const char *phase, int64_t done, int64_t total, int64_t bytes)
{
    Session *session = context;

    if (done > 0)
        session->retrying = 0;
    draw_progress(session, phase, done, total, bytes);
    return stopped;
}

/* Where an answer goes: on to the library, and as far as it is short into `heard`. */
typedef struct Ear
{
    Session *session;
    rowsync_sink sink;
    void *context;
    const rowsync_response *response;
    int stream; /* too long to be looked into, unless it is a problem */
    int ended;  /* by the library, which had enough of it */
} Ear;

/* A transport's sink: keeps a copy and hands on. */
static int
hear(void *context, const void *data, size_t length)
{
    Ear *ear = context;
    Session *session = ear->session;
    char *longer;

    if ((!ear->stream || ear->response->status != 200) &&
        session->heard_length + length < HEAR_AT_MOST &&
        (longer = realloc(session->heard, session->heard_length + length + 1)) != NULL)
    {
        session->heard = longer;
        memcpy(session->heard + session->heard_length, data, length);
        session->heard_length += length;
        session->heard[session->heard_length] = '\0';
    }
    ear->ended = ear->sink(ear->context, data, length);
    return ear->ended;
}

/* Remembers the code of a problem. */
static void
learn(Session *session, long status)
{
    json_t *answer;

    *session->problem = '\0';
    if (status == 200 || session->heard_length == 0 ||
        (answer = json_loads(session->heard, 0, NULL)) == NULL)
        return;
    if (json_is_string(json_object_get(answer, "code")))
        snprintf(session->problem, sizeof(session->problem), "%s",
                 json_string_value(json_object_get(answer, "code")));
    json_decref(answer);
}

/* Tells that a request is being sent again: on a terminal each time, else once. */
static void
tell_retry(Session *session, const rowsync_response *response)
{
    int terminal = isatty(STDERR_FILENO);

    if (session->arguments->json || stopped || (session->retrying && !terminal))
        return;
    session->retrying = 1;
    clear_progress(session);
    fputs(terminal ? "" : "rowsync: ", stderr);
    if (response->status == 200)
        fputs("the answer broke off; trying again", stderr);
    else if (response->status != 0)
        fprintf(stderr, "the server answered %ld; trying again", response->status);
    else
        fprintf(stderr, "the server was not reached (%s); trying again", response->message);
    if (!terminal)
        fputs("\n", stderr);
}

/* The transport that listens in. */
static rowsync_code
listen_in(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
          rowsync_response *response, const volatile int *cancelled)
{
    Session *session = context;
    Ear ear = {
        session, sink, sink_context, response, strstr(request->url, "/sync/snapshot") != NULL, 0};
    rowsync_code code;

    session->heard_length = 0;
    code = session->wire.perform(session->wire.context, request, hear, &ear, response, cancelled);
    learn(session, response->status);
    session->retry_after = response->retry_after;
    if ((code == ROWSYNC_NETWORK && !ear.ended) || response->status == 429 ||
        response->status >= 500)
        tell_retry(session, response);
    return code;
}

/* Makes the client of the open file. Returns 0, or -1 with the reason printed. */
int
session_connect(Session *session)
{
    const rowsync_transport transport = {session, listen_in, NULL};
    const rowsync_options options = {.transport = &transport,
                                     .context = session,
                                     .token = fresh_token,
                                     .progress = note_progress};

    if (session->wire.perform == NULL && transport_curl(&session->wire) != ROWSYNC_OK)
        return complain(session, "nomem", "Out of memory.", NULL), -1;
    if (rowsync_open(session->db, &options, &session->client) != ROWSYNC_OK)
        return failed(session), -1;
    return 0;
}

/* Gets the token of a command that talks to the server. Returns 0, or -1 with the reason printed.
 */
int
session_token(Session *session)
{
    free(session->token);
    session->token = token_read(session);
    if (session->token == NULL)
        return -1;
    if (session->client != NULL && rowsync_set_token(session->client, session->token) != ROWSYNC_OK)
        return failed(session), -1;
    return 0;
}

/* Lets go of everything. */
void
session_close(Session *session)
{
    rowsync_close(session->client);
    if (session->wire.close != NULL)
        session->wire.close(session->wire.context);
    sqlite3_close(session->db);
    free(session->heard);
    free(session->token);
}

/* A GET that the library has no function for, over `wire`. `source` may be NULL. */
rowsync_code
session_get(Session *session, const char *url, const char *source, const rowsync_transport *wire,
            rowsync_sink sink, void *context, rowsync_response *response)
{
    char *bearer = sqlite3_mprintf("Authorization: Bearer %s", session->token);
    char *named = sqlite3_mprintf("Rowsync-Source-Id: %s", source != NULL ? source : "");
    const char *headers[] = {bearer, source != NULL ? named : NULL, NULL};
    const rowsync_request request = {"GET", url, headers, NULL, 0, (size_t)-1};
    rowsync_code code = ROWSYNC_NOMEM;

    *response = (rowsync_response){0, -1, ""};
    if (bearer != NULL && named != NULL)
        code = wire->perform(wire->context, &request, sink, context, response, &stopped);
    sqlite3_free(bearer);
    sqlite3_free(named);
    return code;
}

/* A sink for answers that are in `heard` anyway. */
static int
ignore(void *context, const void *data, size_t length)
{
    (void)context;
    (void)data;
    (void)length;
    return 0;
}

/* Reports a status that is no success, with what the problem document `answer` (or NULL) says. */
int
session_refused(const Session *session, long status, const char *answer)
{
    json_t *problem = answer != NULL ? json_loads(answer, 0, NULL) : NULL;
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    char message[512];

    snprintf(message, sizeof(message), "The server answered %ld%s%.400s", status,
             detail != NULL ? ": " : ".", detail != NULL ? detail : "");
    complain(session, status == 401 ? "auth" : "refused", message,
             status == 401                   ? "Get a fresh token for this user and source."
             : problem_hint(session) != NULL ? problem_hint(session)
             : problem == NULL               ? "Is the URL that of a rowsync gateway?"
                                             : json_string_value(json_object_get(problem, "hint")));
    json_decref(problem);
    return EXIT_FAILED;
}

/* Fetches a short answer: a copy for free(), or NULL with the reason printed. */
char *
session_fetch(Session *session, const char *url, const char *source)
{
    const rowsync_transport wire = {session, listen_in, NULL};
    rowsync_response response;
    rowsync_code code;
    char message[512];

    if (session->wire.perform == NULL && transport_curl(&session->wire) != ROWSYNC_OK)
        return complain(session, "nomem", "Out of memory.", NULL), NULL;
    session->retrying = 1; /* nothing is sent again here */
    code = session_get(session, url, source, &wire, ignore, NULL, &response);
    if (code == ROWSYNC_OK && response.status == 200 && session->heard_length > 0)
        return strdup(session->heard);
    if (code == ROWSYNC_CANCELLED)
        complain(session, "cancelled", "The call was cancelled.", NULL);
    else if (code != ROWSYNC_OK)
    {
        snprintf(message, sizeof(message), "The server was not reached: %s.", response.message);
        complain(session, "network", message, "Check the URL and the network.");
    }
    else
        session_refused(session, response.status,
                        session->heard_length > 0 ? session->heard : NULL);
    return NULL;
}
