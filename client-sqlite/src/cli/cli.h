/*
 * cli.h - what the command line's parts share.
 *
 * Exit codes: 0 done; 1 failed; 2 the command line is wrong; 3 done, but something waits for the
 * user: conflicts to be resolved, refused changes, differences found.
 */
#ifndef ROWSYNC_CLI_H
#define ROWSYNC_CLI_H

#include <jansson.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>

#include "rowsync.h"

enum
{
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_ATTENTION = 3
};

/* The options of all commands; each command uses its own. */
typedef struct Arguments
{
    const char *command; /* NULL where there is none of that name */
    const char *file;
    const char **rest; /* what follows the file, ended by NULL */
    const char *url;
    const char *user;
    const char *source;
    const char *schema;
    rowsync_policy policy; /* ROWSYNC_KEEP_POLICY where none is given */
    const char *token_file;
    const char *token_command;
    const char **local_columns;
    const char **claims;
    int batch_size;
    int page_size;
    int limit;
    int ttl;
    int json;
    int force;
    int repair;
    int server; /* verify compares with the server */
} Arguments;

/* What every command works with. */
typedef struct Session
{
    const Arguments *arguments;
    sqlite3 *db;
    rowsync *client;
    char *token;
    rowsync_transport wire; /* libcurl, behind the transport that listens in */
    char *heard;            /* an answer as far as it is looked into; owned */
    size_t heard_length;
    char problem[64]; /* the code in the last problem answer, or "" */
    int retrying;     /* the user was told that requests are sent again */
    long retry_after; /* seconds that the last answer asked to wait; 0 or less: none */
} Session;

/* A command: what it takes, and what it does. */
typedef struct Command
{
    const char *name;
    const char *arguments; /* as people read them */
    const char *summary;
    const char *options; /* their names, by blanks; those of every command are not among them */
    int (*run)(Session *session);
    enum
    {
        FILE_IS_THERE,
        FILE_MAY_BE_NEW,
        FILE_OF_ITS_OWN /* none, or one that the command opens itself */
    } file;
    bool talks; /* to the server: needs a token */
    int least;  /* arguments after the command */
    int most;   /* -1: any number */
} Command;

/* commands.c: ended by one without a name. */
extern const Command commands[];

/* session.c */
extern volatile int stopped;
int session_open(Session *session, int creates);
int session_connect(Session *session);
void session_close(Session *session);
void session_signals(rowsync *client);
int session_token(Session *session);
rowsync_code session_get(Session *session, const char *url, const char *source,
                         const rowsync_transport *wire, rowsync_sink sink, void *context,
                         rowsync_response *response);
int session_refused(const Session *session, long status, const char *answer);
char *session_fetch(Session *session, const char *url, const char *source);
int64_t number(const Session *session, const char *sql, const char *value);

/* The parents that a change of `reason` and `details` waits for, in words; else NULL. */
#define MISSING_PARENT                                                                             \
    "CASE WHEN reason = 'fk_missing' AND json_valid(details) THEN 'the server has no ' ||"         \
    " (SELECT group_concat(value, ', ') FROM json_each(details, '$.missing')) || ' yet' END"

/* The column that a change of `table_name` and `details` was refused for; "pk" is the key's. */
#define REFUSED_COLUMN                                                                             \
    "(SELECT coalesce((SELECT group_concat(k.name, ', ') FROM pragma_table_info(table_name) k"     \
    " WHERE k.pk > 0 AND c.name = 'pk' AND NOT EXISTS (SELECT 1 FROM "                             \
    "pragma_table_info(table_name)"                                                                \
    " o WHERE o.name = 'pk')), c.name) FROM (SELECT CASE WHEN json_valid(details) THEN"            \
    " json_extract(details, '$.column') END AS name) c)"

/* print.c */
int usage(const Session *session, const char *format, ...) __attribute__((format(printf, 2, 3)));
int failed(const Session *session);
int failed_with(const Session *session, json_t *members);
int complain(const Session *session, const char *code, const char *message, const char *hint);
void say(const Session *session, json_t *members, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void put_plain(FILE *stream, const char *text);
void print_json(json_t *object);
json_t *json_text(const char *text);
const char *plural(int64_t count);
json_t *query_rows(const Session *session, const char *sql);
int print_rows(const Session *session, const char *sql, const char *value, int *count);
const char *problem_hint(const Session *session);
void print_remedies(const Session *session);
void print_held(const Session *session, int64_t held);
void warn_of_absent(const Session *session);
void warn_of_gone(const Session *session);
#define REPORT_WORDS 256
json_t *report_json(const rowsync_report *report);
void report_words(const rowsync_report *report, char *words);
void print_attention(const Session *session, const rowsync_report *report);
void print_report(const Session *session, const rowsync_report *report);

/* terminal.c */
typedef enum Style
{
    STYLE_PLAIN,
    STYLE_HEADING,
    STYLE_GOOD,
    STYLE_BAD,
    STYLE_CHANGED
} Style;
const char *style(FILE *stream, Style which);
Style style_of(const char *cell);
int window_width(FILE *stream);
void draw_progress(const Session *session, const char *phase, int64_t done, int64_t total,
                   int64_t bytes);
void clear_progress(const Session *session);

/* clone.c, watch.c */
int run_clone(Session *session);
int run_watch(Session *session);
int run_log(Session *session);

/* token.c */
int run_token(Session *session);
char *token_read(const Session *session);
json_t *token_claims(const char *token);

#endif
