/*
 * problem.c: errors as RFC 9457 problem documents, each with a stable code.
 */
#include "problem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct
{
    int status;
    const char *code;
    const char *title;
} registry[PROBLEM_COUNT] = {
#define X(name, status, code, title) {status, code, title},
    PROBLEM_CODES(X)
#undef X
};

int
problem_status(enum problem_code code)
{
    return registry[code].status;
}

const char *
problem_name(enum problem_code code)
{
    return registry[code].code;
}

bool
problem_set(struct problem *problem, enum problem_code code, const char *format, ...)
{
    va_list arguments;

    problem->code = code;
    problem->retry_after = 0;
    problem->hint[0] = '\0';
    va_start(arguments, format);
    vsnprintf(problem->detail, sizeof(problem->detail), format, arguments);
    va_end(arguments);
    return false;
}

void
problem_set_full(struct problem *problem)
{
    problem_set(problem, PROBLEM_OVERLOADED,
                "The server holds as many bytes of requests and answers as it may.");
    problem->retry_after = 1;
}

void
problem_hint(struct problem *problem, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(problem->hint, sizeof(problem->hint), format, arguments);
    va_end(arguments);
}

void
problem_write(const struct problem *problem, const char *request_id, struct text *text)
{
    text_format(text, "{\"type\":\"urn:rowsync:problem:%s\",\"title\":\"%s\",\"status\":%d,",
                registry[problem->code].code, registry[problem->code].title,
                registry[problem->code].status);
    text_format(text, "\"code\":\"%s\",\"detail\":", registry[problem->code].code);
    text_json(text, problem->detail, strlen(problem->detail), sizeof(problem->detail));
    if (problem->hint[0] != '\0')
    {
        text_string(text, ",\"hint\":");
        text_json(text, problem->hint, strlen(problem->hint), sizeof(problem->hint));
    }
    text_format(text, ",\"request_id\":\"%s\"}\n", request_id);
}
