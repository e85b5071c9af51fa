/*
 * sqlstate.c: what the database's errors are over HTTP.
 */
#include "sqlstate.h"

#include <string.h>

static const char not_set_up[] = "The database is not set up for rowsync.";

/* A SQLSTATE, or the beginning that a class of them shares, and what it becomes. */
static const struct rule
{
    const char *state;
    enum problem_code code;
    const char *detail; /* NULL: the error's own message */
} rules[] = {
    {"RS001", PROBLEM_INVALID_REQUEST, NULL},
    {"RS002", PROBLEM_INVALID_PARAMETER, NULL},
    {"RS003", PROBLEM_HISTORY_PRUNED, NULL},
    {"RS007", PROBLEM_UNAVAILABLE, "The database is not set up for this version of rowsync."},
    {"22021", PROBLEM_INVALID_ENCODING, "The request has bytes that are not UTF-8, or a NUL byte."},
    {"22P05", PROBLEM_INVALID_ENCODING,
     "The request has a character that the database cannot hold."},
    {"54001", PROBLEM_INVALID_REQUEST, "The request is nested too deeply."},
    {"57014", PROBLEM_TIMEOUT,
     "The database took longer than the statement timeout. Nothing was changed."},
    {"57P", PROBLEM_UNAVAILABLE, "The database is restarting."},
    {"08", PROBLEM_UNAVAILABLE, "The database cannot be reached."},
    {"53", PROBLEM_OVERLOADED, "The database is short of resources. Nothing was changed."},
    {"40", PROBLEM_UNAVAILABLE,
     "The transaction met another one and was undone. Nothing was changed."},
    {"55P03", PROBLEM_UNAVAILABLE,
     "What the transaction needed was locked for too long. Nothing was changed."},
    {"25006", PROBLEM_UNAVAILABLE, "The database takes no writes at present."},
    {"3F000", PROBLEM_UNAVAILABLE, not_set_up},
    {"42501", PROBLEM_UNAVAILABLE, not_set_up},
    {"42883", PROBLEM_UNAVAILABLE, not_set_up},
};

/* By which problem an error of the server is answered. */
static void
from_error(struct problem *problem, const PGresult *result)
{
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);

    for (size_t i = 0; state != NULL && i < sizeof(rules) / sizeof(rules[0]); i++)
    {
        const struct rule *rule = &rules[i];

        if (strncmp(state, rule->state, strlen(rule->state)) != 0)
            continue;
        problem_set(problem, rule->code, "%s",
                    rule->detail != NULL ? rule->detail
                    : message == NULL    ? ""
                                         : message);
        if (rule->detail == NULL && hint != NULL)
            problem_hint(problem, "%s", hint);
        else if (rule->detail == not_set_up)
            problem_hint(problem, "Its owner makes it so: CREATE EXTENSION rowsync; SELECT"
                                  " rowsync.grant_gateway('ROLE') with the gateway's role.");
        if (problem_status(rule->code) == 503)
            problem->retry_after = 1;
        return;
    }
    problem_set(problem, PROBLEM_INTERNAL_ERROR,
                "The server failed on this request; its log has more under the request id.");
}

/* The same before the statement, where only the role comes from outside, and about its rights. */
static void
from_role(struct problem *problem, const PGresult *result)
{
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

    if (state == NULL || (strcmp(state, "22023") != 0 && strcmp(state, "42501") != 0))
    {
        from_error(problem, result);
        return;
    }
    problem_set(problem, PROBLEM_ROLE_FORBIDDEN,
                "The gateway cannot act as the role that the token names.");
    problem_hint(problem,
                 "The role must exist, be granted to the gateway's own role, and have been "
                 "given to rowsync.grant_gateway.");
}

void
problem_from_database(struct problem *problem, enum pg_end end, const PGresult *result)
{
    switch (end)
    {
        case PG_END_ERROR:
            from_error(problem, result);
            return;
        case PG_END_DENIED:
            from_role(problem, result);
            return;
        case PG_END_RESULT:
            problem_set(problem, PROBLEM_INTERNAL_ERROR,
                        "The database gave no answer to this request.");
            return;
        case PG_END_LOST:
            problem_set(problem, PROBLEM_UNAVAILABLE,
                        "The connection to the database broke. Sending the request again is safe.");
            break;
        case PG_END_TIMEOUT:
            problem_set(problem, PROBLEM_TIMEOUT,
                        "The database did not answer in time. Sending the request again is safe.");
            break;
        case PG_END_WAITED:
            problem_set(problem, PROBLEM_OVERLOADED,
                        "No database connection became free in time. Nothing was changed.");
            break;
        case PG_END_UNREACHED:
            problem_set(problem, PROBLEM_UNAVAILABLE,
                        "The database cannot be reached. Nothing was changed.");
            break;
        case PG_END_ABANDONED:
            problem_set(problem, PROBLEM_CLIENT_GONE, "Nobody hears this; it is for the log.");
            return;
        case PG_END_CLOSED:
            problem_set(problem, PROBLEM_DRAINING, "The server is shutting down.");
            break;
    }
    problem->retry_after = 1;
}
