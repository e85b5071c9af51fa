/*
 * watch.c - what goes on on the server: the events of /sync/watch, and the latest changes.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client.h"

#include "cli.h"
#include "events.h"

/* A stream of events as it is read. */
typedef struct Watcher
{
    Session *session;
    EventReader events;
    rowsync_report before; /* what the last sync came to */
    int synced;            /* there was one */
    int blind;             /* sync before the stream speaks: it may never do so */
    int watched;           /* the user was told so */
    int lost;              /* and that this has ended */
    int failed;            /* a sync did */
    int heard;             /* the stream is alive */
    int ended;             /* by the server, which wants to be asked again */
    const char *url;       /* of the gateway */
    const char *source;
    rowsync_response response;
    char problem[4096]; /* the answer that is no stream, as far as it fits */
    size_t problem_length;
} Watcher;

/*
 * Says what happened, and when: people read the local time and the words, programs one line of JSON
 * with `event`, `at` (UTC) and `facts`, which are given away.
 */
static void
tell(const Watcher *watcher, const char *event, Style which, json_t *facts, const char *format, ...)
{
    time_t now = time(NULL);
    struct tm parts;
    char at[32], text[1024];
    va_list values;

    clear_progress(watcher->session);
    if (watcher->session->arguments->json)
    {
        json_t *line;

        strftime(at, sizeof(at), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
        line = json_pack("{s:s, s:s}", "event", event, "at", at);
        json_object_update(line, facts);
        json_decref(facts);
        print_json(line);
        return;
    }
    json_decref(facts);
    strftime(at, sizeof(at), "%H:%M:%S", localtime_r(&now, &parts));
    va_start(values, format);
    vsnprintf(text, sizeof(text), format, values);
    va_end(values);
    printf("%s  %s", at, style(stdout, which));
    put_plain(stdout, text);
    puts(style(stdout, STYLE_PLAIN));
    fflush(stdout);
}

/* Syncs, and tells the first time how things stand, later what has changed. */
static void
sync_now(Watcher *watcher)
{
    Session *session = watcher->session;
    const rowsync_sync_options options = {session->arguments->batch_size,
                                          session->arguments->page_size, 0};
    const rowsync_report *before = &watcher->before;
    rowsync_report report;
    char words[REPORT_WORDS];
    int attention;

    watcher->failed = rowsync_sync(session->client, &options, &report) != ROWSYNC_OK;
    clear_progress(session);
    if (watcher->failed)
        return;
    attention = report.overwritten > 0 || report.rejected != before->rejected ||
                report.conflicts != before->conflicts;
    if (!watcher->synced || attention || report.uploaded + report.downloaded > 0 ||
        report.pending != before->pending)
    {
        report_words(&report, words);
        tell(watcher, "synced", STYLE_PLAIN, report_json(&report), "%s", words);
        if (attention && !session->arguments->json)
            print_attention(session, &report);
    }
    watcher->synced = 1;
    watcher->before = report;
}

/* The stream speaks: fetches what came while nobody listened, and tells where it is news. */
static void
note_heard(Watcher *watcher)
{
    watcher->heard = 1;
    if (!watcher->blind)
        sync_now(watcher);
    if (watcher->failed)
        return;
    if (!watcher->watched)
        tell(watcher, "watching", STYLE_GOOD,
             json_pack("{s:o, s:o}", "url", json_text(watcher->url), "source",
                       json_text(watcher->source)),
             "watching %s as source %s; Ctrl-C ends it", watcher->url, watcher->source);
    else if (watcher->lost)
        tell(watcher, "connected", STYLE_GOOD, NULL, "connected again");
    watcher->watched = 1;
    watcher->lost = 0;
}

/* Are edits pending? */
static int
has_pending(Session *session)
{
    rowsync_state state;

    return rowsync_get_state(session->client, &state) == ROWSYNC_OK && state.pending > 0;
}

/* A transport's sink: syncs where an event, or the comment that comes now and then, is a reason. */
static int
take_events(void *context, const void *data, size_t length)
{
    Watcher *watcher = context;
    const char *byte = data, *end = byte + length;

    if (watcher->response.status != 200)
    {
        size_t room = sizeof(watcher->problem) - 1 - watcher->problem_length;

        memcpy(watcher->problem + watcher->problem_length, data, length < room ? length : room);
        watcher->problem_length += length < room ? length : room;
        watcher->problem[watcher->problem_length] = '\0';
        return stopped;
    }
    for (; byte < end && !stopped && !watcher->failed; byte++)
    {
        Event event = events_byte(&watcher->events, *byte);

        if (event == EVENT_RECONNECT)
        {
            watcher->ended = 1;
            return 1;
        }
        if (event != EVENT_NOTHING && !watcher->heard)
            note_heard(watcher);
        if (!watcher->failed &&
            ((event == EVENT_HEAD && watcher->events.head > watcher->before.head) ||
             (event == EVENT_ALIVE && has_pending(watcher->session))))
            sync_now(watcher);
    }
    return stopped || watcher->failed;
}

/* Waits before the next try, in short steps so that Ctrl-C is noticed. */
static void
rest(int64_t milliseconds)
{
    struct timespec step = {0, 50 * 1000000L};

    for (; milliseconds > 0 && !stopped; milliseconds -= 50)
        nanosleep(&step, NULL);
}

/* Tells why there is no connection, or no sync over it, and how long the next try is waited for. */
static void
tell_lost(Watcher *watcher, rowsync_code code, long pause)
{
    const rowsync_response *response = &watcher->response;
    char reason[512];

    if (watcher->failed)
        snprintf(reason, sizeof(reason), "%s", rowsync_message(watcher->session->client));
    else if (code == ROWSYNC_OK && response->status == 200)
        snprintf(reason, sizeof(reason), "The server ended the stream.");
    else if (response->status != 0 && response->status != 200)
        snprintf(reason, sizeof(reason), "The server answered %ld.", response->status);
    else
        snprintf(reason, sizeof(reason), "The server was not reached: %s.", response->message);
    code = watcher->failed ? rowsync_error(watcher->session->client) : ROWSYNC_NETWORK;
    tell(watcher, code == ROWSYNC_BUSY ? "busy" : "lost", STYLE_BAD,
         json_pack("{s:o, s:I}", "reason", json_text(reason), "next_try_ms", (json_int_t)pause),
         "%s, next try in %.1f s: %s",
         code == ROWSYNC_BUSY ? "no sync"
         : watcher->watched   ? "connection lost"
                              : "no connection",
         (double)pause / 1000, reason);
    watcher->lost = 1;
}

/* Does trying again help against the failure of a sync? */
static int
may_pass(const Session *session)
{
    rowsync_code code = rowsync_error(session->client);

    return code == ROWSYNC_NETWORK || code == ROWSYNC_UNAVAILABLE || code == ROWSYNC_BUSY;
}

/*
 * watch: syncs, then again with each head that the server tells of, and every 15 seconds where
 * edits are pending. A stream that breaks is begun anew. Where a proxy holds events back, it is
 * begun now and then and synced each time. Ctrl-C is its proper end.
 */
int
run_watch(Session *session)
{
    Watcher watcher = {.session = session, .blind = 1};
    rowsync_response *response = &watcher.response;
    rowsync_transport stream;
    rowsync_state state;
    rowsync_code code;
    char *url, *gateway, *source;
    long pause;
    int refused = 0, tries = 0, result = EXIT_DONE;

    if (rowsync_get_state(session->client, &state) != ROWSYNC_OK)
        return failed(session);
    if (transport_curl(&stream) != ROWSYNC_OK)
        return complain(session, "nomem", "Out of memory.", NULL);
    watcher.url = gateway = sqlite3_mprintf("%s", state.url != NULL ? state.url : "");
    watcher.source = source = sqlite3_mprintf("%s", state.source_id != NULL ? state.source_id : "");
    url = sqlite3_mprintf("%s/sync/watch", gateway);
    session_signals(session->client);
    while (!stopped)
    {
        watcher.events = (EventReader){0};
        watcher.failed = watcher.heard = watcher.ended = 0;
        code = ROWSYNC_OK;
        if (watcher.blind)
            sync_now(&watcher);
        *response = (rowsync_response){0, -1, ""};
        *watcher.problem = '\0';
        watcher.problem_length = 0;
        if (!watcher.failed)
            code = session_get(session, url, source, &stream, take_events, &watcher, response);
        if (stopped)
            break;
        if (watcher.failed && !may_pass(session))
        {
            result = failed(session);
            break;
        }
        /* A token that has run out is asked for once again; 4xx otherwise does not get better. */
        if (response->status == 401 && refused++ == 0)
        {
            if (session_token(session) == 0)
                continue;
            result = EXIT_FAILED;
            break;
        }
        if (response->status >= 400 && response->status < 500 && response->status != 429)
        {
            result = session_refused(session, response->status, watcher.problem);
            break;
        }
        if (watcher.heard)
            tries = refused = 0;
        watcher.blind = response->status == 200 && !watcher.heard;
        pause = rs_pause(watcher.failed ? session->retry_after : response->retry_after, ++tries);
        if (!watcher.ended)
            tell_lost(&watcher, code, pause);
        rest(pause);
    }
    stream.close(stream.context);
    sqlite3_free(url);
    sqlite3_free(gateway);
    sqlite3_free(source);
    clear_progress(session);
    return result;
}

/* The member of an answer that is an integer. */
static int64_t
integer_of(const char *answer, const char *name)
{
    json_t *object = json_loads(answer, 0, NULL);
    int64_t value = json_integer_value(json_object_get(object, name));

    json_decref(object);
    return value;
}

/* Fetches a page of the log, this device's own changes too; for free(). NULL: the reason is
 * printed. */
static char *
fetch_page(Session *session, const char *url, const char *source, int64_t after, int limit)
{
    char *path = sqlite3_mprintf("%s/sync/download?after=%lld&limit=%d&include_self=true", url,
                                 (long long)after, limit);
    char *answer = session_fetch(session, path, source);

    sqlite3_free(path);
    return answer;
}

/*
 * log: the latest changes on the server, the newest first. A change that a later one of the same
 * row has replaced is not among them.
 */
int
run_log(Session *session)
{
    static const char sql[] =
        "SELECT json_extract(value, '$.server_id') AS \"SEQ\", json_extract(value, '$.ts') AS "
        "\"AT\","
        " json_extract(value, '$.op') AS \"OP\", json_extract(value, '$.schema') || '.' ||"
        " json_extract(value, '$.table') AS \"TABLE\", json_extract(value, '$.pk') AS \"KEY\","
        " CASE json_extract(value, '$.source_id') WHEN '' THEN '(server)'"
        " ELSE json_extract(value, '$.source_id') END AS \"BY\""
        " FROM json_each(?1, '$.changes') ORDER BY 1 DESC";
    rowsync_state state;
    char *url, *source, *answer;
    int64_t head, floor;
    int count, limit = session->arguments->limit, result = EXIT_FAILED;

    if (limit < 1 || limit > 10000)
        return usage(session, "--limit is a number from 1 to 10000");
    if (rowsync_get_state(session->client, &state) != ROWSYNC_OK)
        return failed(session);
    if (state.url == NULL)
        return complain(session, "unattached", "The database is not attached to a user.",
                        "`rowsync attach` says where to sync, and for whom.");
    url = sqlite3_mprintf("%s", state.url);
    source = sqlite3_mprintf("%s", state.source_id);
    session_signals(NULL);
    if ((answer = fetch_page(session, url, source, state.head, 1)) != NULL)
    {
        head = integer_of(answer, "window_until");
        floor = integer_of(answer, "floor");
        free(answer);
        answer =
            fetch_page(session, url, source, head - limit > floor ? head - limit : floor, limit);
        if (answer != NULL)
        {
            result = print_rows(session, sql, answer, &count);
            if (result == EXIT_DONE && count == 0 && !session->arguments->json && head == 0)
                puts("nothing has happened yet");
            else if (result == EXIT_DONE && count == 0 && !session->arguments->json)
                printf("nothing since %lld: the server has pruned what was before\n",
                       (long long)floor);
        }
    }
    free(answer);
    sqlite3_free(url);
    sqlite3_free(source);
    return result;
}
