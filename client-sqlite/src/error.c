/*
 * error.c - what the app is told: failures in words, lines for its log, how far things are; and
 * that it has had enough.
 */
#include "client.h"

#include <stdarg.h>
#include <stdio.h>

/* Keeps words for people. They may quote a server: nothing stays that a terminal would obey. */
static void
put_words(Buffer *out, const char *words)
{
    char *text;

    buffer_clear(out);
    buffer_text(out, words);
    for (text = out->data; !out->failed && *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7F)
            *text = ' ';
        else if ((unsigned char)text[0] == 0xC2 && ((unsigned char)text[1] & 0xE0) == 0x80)
            text[0] = text[1] = ' ';
}

/* Remembers a failure. The message is one sentence of fact, the hint says what to do. */
rowsync_code
rs_fail(rowsync *client, rowsync_code code, const char *hint, const char *format, ...)
{
    va_list arguments;
    char text[1024];

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    put_words(&client->message, text);
    put_words(&client->hint, hint);
    if (client->message.failed || client->hint.failed)
        return rs_nomem(client);
    client->code = code;
    return code;
}

/* Out of memory: the one failure whose words are not kept in memory. */
rowsync_code
rs_nomem(rowsync *client)
{
    client->code = ROWSYNC_NOMEM;
    buffer_clear(&client->message);
    buffer_clear(&client->hint);
    return ROWSYNC_NOMEM;
}

/* What to do about an error of SQLite's. */
static const char *
hint_of(int code)
{
    switch (code)
    {
        case SQLITE_READONLY:
            return HINT_READ_ONLY;
        case SQLITE_FULL:
            return "Make room and call again; nothing is lost.";
        case SQLITE_IOERR:
        case SQLITE_CANTOPEN:
            return "See whether the disk works, and call again; nothing is lost.";
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
            return "The file is damaged: save what the app can still read, and begin a new one.";
        default:
            return "The database was left as it was before.";
    }
}

/* Turns SQLite's last error into ours. */
rowsync_code
rs_fail_sqlite(rowsync *client, const char *doing)
{
    int extended = sqlite3_extended_errcode(client->db), code = extended & 0xFF;

    if (client->code != ROWSYNC_OK)
        return client->code;
    if (code == SQLITE_NOMEM || extended == SQLITE_IOERR_NOMEM)
        return rs_nomem(client);
    if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
        return rs_fail(client, ROWSYNC_BUSY, "Try again, or set a busy timeout on the connection.",
                       "Another connection holds the database (%s).", doing);
    return rs_fail(client, ROWSYNC_DATABASE, hint_of(code), "SQLite refused (%s): %s.", doing,
                   sqlite3_errmsg(client->db));
}

void
rs_log(rowsync *client, const char *format, ...)
{
    va_list arguments;
    char text[512];

    if (client->options.log == NULL)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    client->options.log(client->options.context, text);
}

/* Tells how far things are; an app that returns non-zero cancels. */
rowsync_code
rs_progress(rowsync *client, const char *phase, int64_t done, int64_t total)
{
    if (client->options.progress != NULL &&
        client->options.progress(client->options.context, phase, done, total, client->bytes) != 0)
        rowsync_cancel(client);
    if (rowsync_cancelled(&client->cancelled))
        return rs_fail(client, ROWSYNC_CANCELLED, "Sync again to go on from here.",
                       "The call was cancelled.");
    return ROWSYNC_OK;
}

rowsync_code
rowsync_error(const rowsync *client)
{
    return client != NULL ? client->code : ROWSYNC_NOMEM;
}

const char *
rowsync_message(const rowsync *client)
{
    return rowsync_error(client) == ROWSYNC_NOMEM ? "Out of memory."
                                                  : buffer_string(&client->message);
}

const char *
rowsync_hint(const rowsync *client)
{
    return rowsync_error(client) == ROWSYNC_NOMEM ? "Free some memory and call again."
                                                  : buffer_string(&client->hint);
}

const char *
rowsync_code_name(rowsync_code code)
{
    static const char *const names[] = {
        "ok",         "nomem",     "misuse",  "database",    "busy",  "uninitialized",
        "unattached", "schema",    "network", "unavailable", "auth",  "protocol",
        "refused",    "cancelled", "pending", "different",   "pruned"};

    return (unsigned)code < sizeof(names) / sizeof(*names) ? names[code] : "unknown";
}

void
rowsync_cancel(rowsync *client)
{
    __atomic_store_n(&client->cancelled, 1, __ATOMIC_RELAXED);
}

int
rowsync_cancelled(const volatile int *cancelled)
{
    return __atomic_load_n(cancelled, __ATOMIC_RELAXED);
}
