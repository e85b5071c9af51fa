/*
 * watch.c - what goes on on the server: the events of /sync/watch, and the latest changes.
 */
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
    int64_t head; /* that this database has reached */
    int failed;   /* a sync did: the exit code */
    int heard;    /* the stream is alive */
    rowsync_code code;
} Watcher;

/* Syncs, and tells when something came or went. Remembers a failure. */
static void
sync_now(Watcher *watcher)
{
    Session *session = watcher->session;
    const rowsync_sync_options options = {session->arguments->batch_size,
                                          session->arguments->page_size, 0};
    rowsync_report report;

    watcher->code = rowsync_sync(session->client, &options, &report);
    clear_progress(session);
    if (watcher->code != ROWSYNC_OK)
    {
        watcher->failed = 1;
        if (!stopped)
            failed(session);
        return;
    }
    if (report.uploaded + report.downloaded > 0 || report.head > watcher->head || watcher->head < 0)
        print_report(session, &report);
    watcher->head = report.head;
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

    for (; byte < end && !stopped && !watcher->failed; byte++)
    {
        Event event = events_byte(&watcher->events, *byte);

        watcher->heard |= event != EVENT_NOTHING;
        if ((event == EVENT_HEAD && watcher->events.head > watcher->head) ||
            (event == EVENT_ALIVE && has_pending(watcher->session)))
            sync_now(watcher);
        if (event == EVENT_RECONNECT)
            return 1;
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

/*
 * watch: syncs, then again with each head that the server tells of, and every 15 seconds where
 * edits are pending. A stream that breaks is begun anew. Ctrl-C is its proper end.
 */
int
run_watch(Session *session)
{
    Watcher watcher = {.session = session, .head = -1};
    rowsync_transport stream;
    rowsync_response response;
    rowsync_state state;
    char *url, *source;
    int64_t pause = 500;
    int refused = 0;

    if (rowsync_get_state(session->client, &state) != ROWSYNC_OK)
        return failed(session);
    if (transport_curl(&stream) != ROWSYNC_OK)
        return complain(session, "nomem", "Out of memory.", NULL);
    url = sqlite3_mprintf("%s/sync/watch", state.url != NULL ? state.url : "");
    source = sqlite3_mprintf("%s", state.source_id != NULL ? state.source_id : "");
    session_signals(session->client);
    while (!stopped)
    {
        watcher.events = (EventReader){0};
        watcher.failed = watcher.heard = 0;
        response = (rowsync_response){0, -1, ""};
        sync_now(&watcher);
        if (!watcher.failed)
            session_get(session, url, source, &stream, take_events, &watcher, &response);
        if (stopped)
            break;
        if (watcher.failed && watcher.code != ROWSYNC_NETWORK &&
            watcher.code != ROWSYNC_UNAVAILABLE && watcher.code != ROWSYNC_BUSY)
            break;
        /* A token that has run out is asked for once again; 4xx otherwise does not get better. */
        if (response.status == 401
                ? refused++ > 0 || session_token(session) != 0
                : response.status >= 400 && response.status < 500 && response.status != 429)
        {
            if (response.status != 401 || refused > 1)
                fprintf(stderr, "rowsync: the server answered %ld to a watch\n  %s\n",
                        response.status,
                        response.status == 401 ? "Get a fresh token for this user and source."
                                               : "Is the URL that of a rowsync gateway?");
            watcher.failed = 1;
            break;
        }
        if (watcher.heard)
            pause = 500, refused = 0;
        rest(pause);
        pause = pause < 15000 ? pause * 2 : 30000;
    }
    stream.close(stream.context);
    sqlite3_free(url);
    sqlite3_free(source);
    clear_progress(session);
    return stopped ? EXIT_DONE : EXIT_FAILED;
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
