/*
 * main.c - the rowsync command line: reads it, and runs the command that it names.
 */
#include <popt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define OPTIONS 24

/* Is it a word of the list, which has blanks between words? */
static bool
has_word(const char *list, const char *word)
{
    size_t length = strlen(word);

    for (; *list != '\0'; list += strcspn(list, " "), list += *list == ' ')
        if (strncmp(list, word, length) == 0 && (list[length] == ' ' || list[length] == '\0'))
            return true;
    return false;
}

/* Does the command (NULL: every command) take the option? */
static bool
takes(const Command *command, const struct poptOption *option)
{
    return has_word("json help version", option->longName) ||
           (command != NULL && has_word(command->options, option->longName));
}

/* The command of that name; NULL when there is none. */
static const Command *
find_command(const char *name)
{
    const Command *command = commands;

    while (command->name != NULL && strcmp(command->name, name) != 0)
        command++;
    return command->name != NULL ? command : NULL;
}

/* Prints what a command does and takes, or, without one, which there are. */
static void
print_help(const Command *about, const struct poptOption *options)
{
    struct poptOption taken[OPTIONS];
    const char *argv[] = {"rowsync", NULL};
    poptContext context;
    const Command *command;
    char *text = NULL, *longer;
    int count = 0;

    for (; options->longName != NULL; options++)
        if (takes(about, options))
        {
            taken[count] = *options;
            if (about != NULL && strcmp(about->name, "resolve") == 0 &&
                strcmp(options->longName, "policy") == 0)
                taken[count].descrip = "who wins: server, client, merge";
            count++;
        }
    taken[count] = *options;
    if (about != NULL)
        text = sqlite3_mprintf("%s%s%s [OPTION...]\n\n%c%s.\n\nOptions", about->name,
                               *about->arguments != '\0' ? " " : "", about->arguments,
                               about->summary[0] - 'a' + 'A', about->summary + 1);
    else
        text = sqlite3_mprintf("COMMAND [FILE] [...]\n\n"
                               "Keeps a SQLite database in step with PostgreSQL.\n\n");
    for (command = commands; about == NULL && command->name != NULL; command++)
    {
        longer = sqlite3_mprintf("%z  %-11s %-18s %s\n", text, command->name, command->arguments,
                                 command->summary);
        text = longer;
    }
    if (about == NULL)
    {
        longer = sqlite3_mprintf(
            "%z\n`rowsync COMMAND --help` shows the options of one.\n\n"
            "Environment: ROWSYNC_TOKEN, the token of requests; ROWSYNC_JWT_SECRET, which `token`"
            " signs\nwith; NO_COLOR.\n"
            "Exit status: 0 done, 1 failed, 2 wrong command line, 3 conflicts, refused changes or"
            " held rows remain.\n\nOptions of every command",
            text);
        text = longer;
    }
    context = poptGetContext("rowsync", 1, argv, taken, 0);
    poptSetOtherOptionHelp(context, text);
    poptPrintHelp(context, stdout, 0);
    poptFreeContext(context);
    sqlite3_free(text);
}

/* How many arguments there are. */
static int
count_of(const char **arguments)
{
    int count = 0;

    while (arguments[count] != NULL)
        count++;
    return count;
}

/* Takes the policy's name. */
static int
take_policy(const Session *session, Arguments *arguments, const char *name)
{
    static const char *const names[] = {"server", "client", "merge", "manual"};
    int i;

    arguments->policy = ROWSYNC_KEEP_POLICY;
    for (i = 0; name != NULL && i < 4; i++)
        if (strcmp(name, names[i]) == 0)
        {
            arguments->policy = (rowsync_policy)i;
            return EXIT_DONE;
        }
    return name == NULL ? EXIT_DONE : usage(session, "--policy is server, client, merge or manual");
}

/* Runs a command with the arguments that follow its name. `given`: a bit for each option. */
static int
run(Session *session, Arguments *arguments, const Command *command,
    const struct poptOption *options, unsigned given, const char **rest)
{
    int i, count = count_of(rest), result = EXIT_FAILED;

    for (i = 0; options[i].longName != NULL; i++)
        if ((given & 1u << i) != 0 && !takes(command, &options[i]))
            return usage(session, "%s has no use for --%s", command->name, options[i].longName);
    if (count < command->least)
        return usage(session, "%s needs: %s", command->name, command->arguments);
    if (command->most >= 0 && count > command->most)
        return usage(session, "%s has no use for \"%.400s\"", command->name, rest[command->most]);
    for (i = 0; i < count && i < command->least; i++)
        if (*rest[i] == '\0')
            return usage(session, "%s needs: %s, and one is empty", command->name,
                         command->arguments);
    if (command->run == run_clone)
        arguments->url = *rest++;
    arguments->file = *rest;
    arguments->rest = *rest != NULL ? rest + 1 : rest;
    if (command->file == FILE_OF_ITS_OWN ||
        (session_open(session, command->file == FILE_MAY_BE_NEW) == 0 &&
         session_connect(session) == 0 && (!command->talks || session_token(session) == 0)))
        result = command->run(session);
    session_close(session);
    return result;
}

/* Frees what popt allocated for the options that take a word. */
static void
free_options(const struct poptOption *options)
{
    size_t j;

    for (; options->longName != NULL; options++)
    {
        if (options->argInfo == POPT_ARG_STRING)
            free(*(char **)options->arg);
        else if (options->argInfo == POPT_ARG_ARGV && *(char ***)options->arg != NULL)
        {
            for (j = 0; (*(char ***)options->arg)[j] != NULL; j++)
                free((*(char ***)options->arg)[j]);
            free(*(char ***)options->arg);
        }
    }
}

/* Reads the command line. */
int
main(int argc, char **argv)
{
    Arguments arguments = {.ttl = 3600, .limit = 20};
    Session session = {.arguments = &arguments};
    char *url = NULL, *user = NULL, *source = NULL, *schema = NULL, *policy = NULL;
    char *token_file = NULL, *token_command = NULL, **local_columns = NULL, **claims = NULL;
    static const char *nothing[] = {NULL};
    int show_version = 0, show_help = 0, result;
    unsigned given = 0;
    const char **rest;
    const Command *command;
    /* Each gives its number when it is met, from 1 on. */
    struct poptOption options[OPTIONS] = {
        {"url", 0, POPT_ARG_STRING, &url, 0, "the gateway", "URL"},
        {"user", 0, POPT_ARG_STRING, &user, 0, "user, as the token's sub", "USER"},
        {"source", 0, POPT_ARG_STRING, &source, 0, "this installation", "ID"},
        {"schema", 0, POPT_ARG_STRING, &schema, 0, "schema on the server", "NAME"},
        {"policy", 0, POPT_ARG_STRING, &policy, 0, "who wins: server, client, merge, manual",
         "POLICY"},
        {"local", 0, POPT_ARG_ARGV, &local_columns, 0, "a column that stays here (repeat)",
         "COLUMN"},
        {"batch-size", 0, POPT_ARG_INT, &arguments.batch_size, 0, "changes a request (adapts)",
         "N"},
        {"page-size", 0, POPT_ARG_INT, &arguments.page_size, 0, "changes a page (1000)", "N"},
        {"token-file", 0, POPT_ARG_STRING, &token_file, 0, "file that has the token", "FILE"},
        {"token-command", 0, POPT_ARG_STRING, &token_command, 0, "command that prints the token",
         "COMMAND"},
        {"limit", 0, POPT_ARG_INT, &arguments.limit, 0, "changes that are shown (20)", "N"},
        {"ttl", 0, POPT_ARG_INT, &arguments.ttl, 0, "lifetime of the token (3600)", "SECONDS"},
        {"claim", 0, POPT_ARG_ARGV, &claims, 0, "another claim of the token (repeat)",
         "NAME=VALUE"},
        {"force", 0, POPT_ARG_NONE, &arguments.force, 0,
         "even though edits are lost, or the server is another", NULL},
        {"repair", 0, POPT_ARG_NONE, &arguments.repair, 0, "queue what is found", NULL},
        {"server", 0, POPT_ARG_NONE, &arguments.server, 0, "also compare with the server", NULL},
        {"json", 0, POPT_ARG_NONE, &arguments.json, 0, "print JSON", NULL},
        {"version", 0, POPT_ARG_NONE, &show_version, 0, "print the version", NULL},
        {"help", 'h', POPT_ARG_NONE, &show_help, 0, "print this", NULL},
        POPT_TABLEEND};
    poptContext context;
    int i;

    for (i = 0; options[i].longName != NULL; i++)
        options[i].val = i + 1;
    context = poptGetContext("rowsync", argc, (const char **)argv, options, 0);
    while ((result = poptGetNextOpt(context)) > 0)
        given |= 1u << (result - 1);
    arguments.url = url;
    arguments.user = user;
    arguments.source = source;
    arguments.schema = schema;
    arguments.token_file = token_file;
    arguments.token_command = token_command;
    arguments.local_columns = (const char **)local_columns;
    arguments.claims = (const char **)claims;
    if ((rest = poptGetArgs(context)) == NULL)
        rest = nothing;
    if (*rest != NULL && strcmp(*rest, "help") == 0)
    {
        show_help = 1;
        rest++;
    }
    command = *rest != NULL ? find_command(*rest) : NULL;
    arguments.command = command != NULL ? command->name : NULL;
    if (result < -1)
    {
        /* What follows the wrong option has not been read. */
        for (i = 1; i < argc; i++)
            arguments.json |= strcmp(argv[i], "--json") == 0;
        result = usage(&session, "%s: %s", poptBadOption(context, POPT_BADOPTION_NOALIAS),
                       poptStrerror(result));
    }
    else if (show_version)
        result = printf("rowsync %s\n", ROWSYNC_VERSION) < 0;
    else if (*rest != NULL && command == NULL)
        result = usage(&session, "there is no command \"%.400s\"", *rest);
    else if (show_help)
    {
        print_help(command, options);
        result = EXIT_DONE;
    }
    else if (command == NULL)
        result = usage(&session, "say what to do");
    else if ((result = take_policy(&session, &arguments, policy)) == EXIT_DONE)
        result = run(&session, &arguments, command, options, given, rest + 1);
    poptFreeContext(context);
    free_options(options);
    if ((fflush(stdout) != 0 || ferror(stdout)) && result != EXIT_USAGE)
        result =
            complain(&session, "output", "Standard output cannot be written.",
                     "What the command did is done; `rowsync status` shows where things stand.");
    return result;
}
