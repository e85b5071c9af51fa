/*
 * print.c - what the command line shows: failures with what to do, rows in columns, counts in
 * words.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "listing.h"

/* A column other than the last is cut here on a terminal. */
#define WIDEST 40

/* Columns of the widest list. */
#define MOST_COLUMNS 16

/* Prints an object as one line and frees it. */
void
print_json(json_t *object)
{
    json_dumpf(object, stdout, JSON_COMPACT);
    puts("");
    fflush(stdout);
    json_decref(object);
}

/* A text as a JSON string, with U+FFFD for what JSON cannot have: bytes that are no UTF-8. */
json_t *
json_text(const char *text)
{
    Buffer plain = {0};
    json_t *string;

    if (text == NULL)
        return json_null();
    buffer_utf8(&plain, text, strlen(text));
    string = json_stringn(buffer_string(&plain), plain.length);
    buffer_free(&plain);
    return string;
}

/* The ending of a noun for so many. */
const char *
plural(int64_t count)
{
    return count == 1 ? "" : "s";
}

/* Writes a text with control characters as blanks, so that no row's value steers a terminal. */
void
put_plain(FILE *stream, const char *text)
{
    for (; *text != '\0'; text++)
        fputc((unsigned char)*text < 0x20 || *text == 0x7F ? ' ' : *text, stream);
}

/*
 * Reports a failure: what happened, and below it what to do. `hint` may be NULL; `members`, which
 * are freed, too: what JSON has beside the error.
 */
static int
report_failure(const Session *session, json_t *members, const char *code, const char *message,
               const char *hint)
{
    if (session->arguments->json)
    {
        json_t *object = json_pack("{s:{s:s, s:o, s:o}}", "error", "code", code, "message",
                                   json_text(message), "hint", json_text(hint != NULL ? hint : ""));

        json_object_update(object, members);
        print_json(object);
    }
    json_decref(members);
    fprintf(stderr, "%srowsync:%s ", style(stderr, STYLE_BAD), style(stderr, STYLE_PLAIN));
    put_plain(stderr, message);
    fputs(hint != NULL && *hint != '\0' ? "\n  " : "\n", stderr);
    if (hint != NULL && *hint != '\0')
    {
        put_plain(stderr, hint);
        fputs("\n", stderr);
    }
    return EXIT_FAILED;
}

/* Reports a failure in words of the command line's own. */
int
complain(const Session *session, const char *code, const char *message, const char *hint)
{
    return report_failure(session, NULL, code, message, hint);
}

/* Reports a wrong command line. */
int
usage(const Session *session, const char *format, ...)
{
    const char *command = session->arguments->command;
    char message[1200], hint[100];
    va_list values;

    va_start(values, format);
    vsnprintf(message, sizeof(message), format, values);
    va_end(values);
    snprintf(hint, sizeof(hint), "See `rowsync %.60s%s--help`.", command != NULL ? command : "",
             command != NULL ? " " : "");
    complain(session, "usage", message, hint);
    return EXIT_USAGE;
}

/*
 * A hint of the library in the words of the command line: "rowsync_x() (or y)" becomes y, and
 * "rowsync_x()" becomes `rowsync x`; who is to force it uses --force.
 */
static void
reword(const char *hint, char *out, size_t size)
{
    size_t used = 0;

    while (*hint != '\0' && used + 1 < size)
    {
        size_t name =
            strncmp(hint, "rowsync_", 8) == 0 ? strspn(hint + 8, "abcdefghijklmnopqrstuvwxyz_") : 0;
        const char *after = hint + 8 + name, *end;

        if (strncmp(hint, "force it", 8) == 0)
        {
            used += (size_t)snprintf(out + used, size - used, "use --force");
            hint += 8;
            used = used < size ? used : size - 1;
            continue;
        }
        if (name == 0 || strncmp(after, "()", 2) != 0)
        {
            out[used++] = *hint++;
            continue;
        }
        after += 2;
        if (strncmp(after, " (or ", 5) == 0 && (end = strchr(after, ')')) != NULL)
        {
            used += (size_t)snprintf(out + used, size - used, "%.*s", (int)(end - after - 5),
                                     after + 5);
            after = end + 1;
        }
        else
            used +=
                (size_t)snprintf(out + used, size - used, "`rowsync %.*s`", (int)name, hint + 8);
        hint = after;
        if (used >= size)
            used = size - 1;
    }
    out[used] = '\0';
}

/* What to do about the last problem document, where the command line has better words; or NULL. */
const char *
problem_hint(const Session *session)
{
    if (strcmp(session->problem, "source_mismatch") == 0)
        return "The token is for another source than this database: get a token for the one that"
               " `rowsync status` shows, or attach with --source as the token has it.";
    return strcmp(session->problem, "not_found") == 0
               ? "Give the gateway's URL alone, without a path of its own."
               : NULL;
}

/* Reports the handle's failure, with further members of the JSON, which are freed (or NULL). */
int
failed_with(const Session *session, json_t *members)
{
    rowsync_code code = rowsync_error(session->client);
    const char *hint = rowsync_hint(session->client);
    char words[1024];

    if (problem_hint(session) != NULL)
        hint = problem_hint(session);
    else if (code == ROWSYNC_BUSY)
        hint = "Close it, or let it end what it does; then try again.";
    else if (code == ROWSYNC_DIFFERENT && strstr(hint, "repair") != NULL)
        hint = "`rowsync verify --repair` queues them for upload, those that are gone as deleted.";
    else if (strstr(hint, "rowsync_set_token") != NULL)
        hint = "Set ROWSYNC_TOKEN, or give --token-file or --token-command.";
    else if (strstr(hint, "_sync_conflict") != NULL)
        hint = "`rowsync conflicts` shows what waits, with the keys.";
    else if (strstr(hint, "_sync_rejected") != NULL)
        hint = "`rowsync rejected` shows what was refused, with the keys.";
    reword(hint, words, sizeof(words));
    report_failure(session, members, rowsync_code_name(code), rowsync_message(session->client),
                   words);
    return code == ROWSYNC_DIFFERENT ? EXIT_ATTENTION : EXIT_FAILED;
}

/* The same alone. */
int
failed(const Session *session)
{
    return failed_with(session, NULL);
}

/* Says in one line what was done; as JSON with further members, an object that is freed (or NULL).
 */
void
say(const Session *session, json_t *members, const char *format, ...)
{
    char text[2048];
    va_list values;

    va_start(values, format);
    vsnprintf(text, sizeof(text), format, values);
    va_end(values);
    if (session->arguments->json)
    {
        json_t *object = json_pack("{s:o}", "done", json_text(text));

        json_object_update(object, members);
        print_json(object);
    }
    else
    {
        put_plain(stdout, text);
        puts("");
    }
    json_decref(members);
}

/* How many places a text takes: one for each code point. */
static int
width_of(const char *text)
{
    int width = 0;

    for (; *text != '\0'; text++)
        width += ((unsigned char)*text & 0xC0) != 0x80;
    return width;
}

/* Writes a cell: control characters as blanks, filled up to `width`, cut at `most` (0: never). */
static void
put_cell(const char *text, int width, int most, int last)
{
    int wide = width_of(text), at = 0, cut = most > 0 && wide > most;

    for (; *text != '\0'; text++)
    {
        at += ((unsigned char)*text & 0xC0) != 0x80;
        if (cut && at >= most)
            break;
        putchar((unsigned char)*text < 0x20 || *text == 0x7F ? ' ' : *text);
    }
    if (cut)
        fputs("…", stdout);
    if (!last)
        printf("%*s", width - (cut ? most : wide) + 2, "");
}

/* The text of a cell; "-" for NULL. */
static const char *
cell(sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);

    return text != NULL ? text : "-";
}

/* Prints the rows below their headings: once to measure, once to write. */
static void
print_grid(sqlite3_stmt *statement, int *count)
{
    int widths[MOST_COLUMNS] = {0}, columns = sqlite3_column_count(statement), i, used;
    int window = window_width(stdout);

    for (i = 0; i < columns; i++)
        widths[i] = width_of(sqlite3_column_name(statement, i));
    for (*count = 0; sqlite3_step(statement) == SQLITE_ROW; ++*count)
        for (i = 0; i < columns; i++)
            if (width_of(cell(statement, i)) > widths[i])
                widths[i] = width_of(cell(statement, i));
    sqlite3_reset(statement);
    if (*count == 0)
        return;
    for (i = 0, used = 0; i + 1 < columns; used += widths[i++] + 2)
        if (window > 0 && widths[i] > WIDEST)
            widths[i] = WIDEST;
    fputs(style(stdout, STYLE_HEADING), stdout);
    for (i = 0; i < columns; i++)
        put_cell(sqlite3_column_name(statement, i), widths[i], 0, i + 1 == columns);
    puts(style(stdout, STYLE_PLAIN));
    while (sqlite3_step(statement) == SQLITE_ROW)
    {
        for (i = 0; i < columns; i++)
        {
            Style colour = style_of(cell(statement, i));

            if (colour != STYLE_PLAIN)
                fputs(style(stdout, colour), stdout);
            put_cell(cell(statement, i), widths[i],
                     window == 0         ? 0
                     : i + 1 < columns   ? widths[i]
                     : window > used + 8 ? window - used
                                         : 8,
                     i + 1 == columns);
            if (colour != STYLE_PLAIN)
                fputs(style(stdout, STYLE_PLAIN), stdout);
        }
        puts("");
    }
}

/* The rows as an array of objects, whose names are the headings in lower case. */
static json_t *
rows_as_json(sqlite3_stmt *statement, int *count)
{
    json_t *rows = json_array();
    int i;

    for (*count = 0; sqlite3_step(statement) == SQLITE_ROW; ++*count)
    {
        json_t *row = json_object();

        for (i = 0; i < sqlite3_column_count(statement); i++)
        {
            const char *text = (const char *)sqlite3_column_text(statement, i);
            char name[64];

            snprintf(name, sizeof(name), "%s", sqlite3_column_name(statement, i));
            for (char *letter = name; *letter != '\0'; letter++)
                *letter = (char)tolower((unsigned char)*letter);
            json_object_set_new(row, name,
                                sqlite3_column_type(statement, i) == SQLITE_INTEGER
                                    ? json_integer(sqlite3_column_int64(statement, i))
                                    : json_text(text));
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

/* The rows of a query that has no parameter; NULL, with the reason printed, where it fails. */
json_t *
query_rows(const Session *session, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    json_t *rows = NULL;
    int count;

    if (sqlite3_prepare_v2(session->db, sql, -1, &statement, NULL) == SQLITE_OK)
        rows = rows_as_json(statement, &count);
    else
        complain(session, "database", sqlite3_errmsg(session->db), NULL);
    sqlite3_finalize(statement);
    return rows;
}

/*
 * Prints the rows of a query, whose ?1 is `value` where there is one: as JSON, or in columns with
 * headings.
 */
int
print_rows(const Session *session, const char *sql, const char *value, int *count)
{
    sqlite3_stmt *statement = NULL;

    *count = 0;
    if (listing_prepare(session->client, sql, &statement) != SQLITE_OK)
        return complain(session, "database", sqlite3_errmsg(session->db), NULL);
    if (value != NULL)
        sqlite3_bind_text(statement, 1, value, -1, SQLITE_STATIC);
    if (session->arguments->json)
        print_json(rows_as_json(statement, count));
    else
        print_grid(statement, count);
    if (sqlite3_finalize(statement) != SQLITE_OK)
        return complain(session, "database", sqlite3_errmsg(session->db), NULL);
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

/* What to do about refused tables, which most often have another schema on the server, about a
 * forgotten GRANT, and about columns that only the device has. */
void
print_remedies(const Session *session)
{
    if (number(session,
               "SELECT count(*) FROM main._sync_rejected WHERE reason = 'unregistered_table'",
               NULL) > 0)
        printf("The server syncs no such table: register it there, or name its schema by"
               " `rowsync track %s TABLE --schema NAME`; then `rowsync requeue`.\n",
               session->arguments->file);
    if (number(session,
               "SELECT count(*) FROM main._sync_rejected WHERE reason = 'forbidden'"
               " AND message LIKE '%permission denied for%'",
               NULL) > 0)
        printf("The gateway's role lacks a right on the server: GRANT USAGE ON the schema and"
               " SELECT, INSERT, UPDATE, DELETE ON the table TO it; then `rowsync requeue`.\n");
    if (number(session,
               "SELECT count(*) FROM main._sync_rejected WHERE reason = 'bad_payload'"
               " AND message LIKE '%has no column%'",
               NULL) > 0)
        printf("The server's table lacks a column: add it there, or keep it here by"
               " `rowsync track %s TABLE --local COLUMN`, with --local for those that stay here"
               " already (in an app: local_columns of rowsync_track(), the fourth argument of the"
               " SQL function); then `rowsync requeue`.\n",
               session->arguments->file);
}

/*
 * Warns of tracked tables that the server did not sync when the rows were fetched, until rows of
 * theirs have come all the same. On standard error, for it is no part of what was asked for.
 */
void
warn_of_absent(const Session *session)
{
    static const char sql[] =
        "SELECT schema_name || '.' || table_name, table_name FROM main._sync_table t WHERE"
        " refill & 4 AND (refill & 2 OR NOT EXISTS (SELECT 1 FROM main._sync_version v WHERE"
        " v.table_id = t.table_id)) ORDER BY table_name";
    sqlite3_stmt *statement = NULL;

    if (sqlite3_prepare_v2(session->db, sql, -1, &statement, NULL) == SQLITE_OK)
        while (sqlite3_step(statement) == SQLITE_ROW)
        {
            fprintf(stderr, "%srowsync:%s the server syncs no table ", style(stderr, STYLE_BAD),
                    style(stderr, STYLE_PLAIN));
            put_plain(stderr, cell(statement, 0));
            fprintf(stderr, "\n  Register it there, or name its schema by `rowsync track %s ",
                    session->arguments->file);
            put_plain(stderr, cell(statement, 1));
            fputs(" --schema NAME`.\n", stderr);
        }
    sqlite3_finalize(statement);
}

/* Warns of tracked tables that are not there any more, or not with a key: every sync fails. */
void
warn_of_gone(const Session *session)
{
    static const char sql[] =
        "SELECT 'the tracked table \"' || table_name || CASE WHEN EXISTS (SELECT 1 FROM"
        " pragma_table_info(table_name, 'main')) THEN '\" has lost its primary key' ELSE '\" is"
        " gone' END, table_name FROM main._sync_table t WHERE NOT EXISTS (SELECT 1 FROM"
        " pragma_table_info(table_name, 'main') WHERE pk > 0) ORDER BY table_name";
    sqlite3_stmt *statement = NULL;

    if (sqlite3_prepare_v2(session->db, sql, -1, &statement, NULL) == SQLITE_OK)
        while (sqlite3_step(statement) == SQLITE_ROW)
        {
            fprintf(stderr, "%srowsync:%s ", style(stderr, STYLE_BAD), style(stderr, STYLE_PLAIN));
            put_plain(stderr, cell(statement, 0));
            fprintf(stderr, "\n  No sync works until it is there again, or `rowsync untrack %s ",
                    session->arguments->file);
            put_plain(stderr, cell(statement, 1));
            fputs("` has forgotten it.\n", stderr);
        }
    sqlite3_finalize(statement);
}

/* Prints the rows of a query, the first few of `count`, a line each. */
static void
print_few(const Session *session, const char *sql, int64_t count)
{
    sqlite3_stmt *statement = NULL;
    int64_t shown = 0;

    if (sqlite3_prepare_v2(session->db, sql, -1, &statement, NULL) == SQLITE_OK)
        for (; sqlite3_step(statement) == SQLITE_ROW; shown++)
        {
            fputs("  ", stdout);
            put_cell(cell(statement, 0), 0, 0, 1);
            puts("");
        }
    sqlite3_finalize(statement);
    if (count > shown)
        printf("  and %lld more\n", (long long)(count - shown));
}

/* The first few rows of the server that cannot be stored here, and where the rest is. */
void
print_held(const Session *session, int64_t held)
{
    printf("%lld row%s of the server held, for the tables here cannot take %s:\n", (long long)held,
           plural(held), held == 1 ? "it" : "them");
    print_few(session,
              "SELECT t.table_name || ' ' || h.pk_text || ': ' || coalesce(h.reason, '-') FROM"
              " main._sync_held h JOIN main._sync_table t USING (table_id) WHERE h.state = 2"
              " ORDER BY h.server_version DESC LIMIT 3",
              held);
    printf("See `rowsync held %s`; they are tried again with every pull.\n",
           session->arguments->file);
}

/* A change of _sync_rejected r is pending all the same. */
#define AGAIN "SELECT 1 FROM main._sync_dirty d WHERE d.table_id = r.table_id AND d.pk = r.pk"

/* The first few refused changes, causes before what follows from them, and where the rest is. */
static void
print_refusals(const Session *session, int64_t rejected)
{
    static const char sql[] = "SELECT t.table_name || ' ' || r.pk_text ||"
                              " ': ' || coalesce(" MISSING_PARENT ", r.message, '') ||"
                              " ' (' || r.reason || ')'"
                              " FROM main._sync_rejected r JOIN main._sync_table t USING (table_id)"
                              " ORDER BY r.reason = 'fk_missing', r.rejected_at DESC, r.change_id"
                              " LIMIT 3";

    static const char over[] = "SELECT max(1 + (op <> 'DELETE')) FROM main._sync_rejected r WHERE"
                               " NOT EXISTS (" AGAIN ")";
    int64_t left = number(session, over, NULL);

    puts("refused:");
    print_few(session, sql, rejected);
    printf("See `rowsync rejected %s`%s.\n", session->arguments->file,
           left > 1    ? "; then edit the row, or `rowsync requeue` or `discard` it"
           : left == 1 ? "; then `rowsync requeue` or `discard` it"
                       : "");
    if (number(session, "SELECT count(*) FROM main._sync_rejected r WHERE EXISTS (" AGAIN ")",
               NULL) > 0)
        puts("What waits for another row, or for the server to work, is sent again by every sync.");
    print_remedies(session);
}

/* What a sync came to, for programs; for json_decref(). */
json_t *
report_json(const rowsync_report *report)
{
    return json_pack("{s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "uploaded",
                     (json_int_t)report->uploaded, "rounds", (json_int_t)report->rounds, "statuses",
                     statuses_of(report), "downloaded", (json_int_t)report->downloaded, "pages",
                     (json_int_t)report->pages, "pending", (json_int_t)report->pending, "conflicts",
                     (json_int_t)report->conflicts, "rejected", (json_int_t)report->rejected,
                     "held", (json_int_t)report->held, "overwritten",
                     (json_int_t)report->overwritten, "head", (json_int_t)report->head);
}

/* The same for people, in REPORT_WORDS bytes. */
void
report_words(const rowsync_report *report, char *words)
{
    snprintf(words, REPORT_WORDS,
             "%lld uploaded in %lld round%s, %lld downloaded in %lld page%s; "
             "%lld pending, %lld conflict%s, %lld rejected",
             (long long)report->uploaded, (long long)report->rounds, plural(report->rounds),
             (long long)report->downloaded, (long long)report->pages, plural(report->pages),
             (long long)report->pending, (long long)report->conflicts, plural(report->conflicts),
             (long long)report->rejected);
}

/* What a sync left to do. */
void
print_attention(const Session *session, const rowsync_report *report)
{
    if (report->overwritten > 0)
        printf("%lld edit%s lost to the server: see `rowsync overwritten %s`\n",
               (long long)report->overwritten, plural(report->overwritten),
               session->arguments->file);
    if (report->rejected > 0)
        print_refusals(session, report->rejected);
    if (report->conflicts > 0)
        printf("See `rowsync conflicts %s`, then `rowsync resolve`.\n", session->arguments->file);
    if (report->held > 0)
        print_held(session, report->held);
    fflush(stdout);
}

/* What a sync came to, and what is left to do. */
void
print_report(const Session *session, const rowsync_report *report)
{
    char words[REPORT_WORDS];

    if (session->arguments->json)
    {
        print_json(report_json(report));
        return;
    }
    report_words(report, words);
    puts(words);
    print_attention(session, report);
}
