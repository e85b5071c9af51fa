/*
 * gateway_text.c: text in fixed memory: nothing is written past its end, JSON strings stay valid.
 */
#include "gateway_tap.h"
#include "problem.h"
#include "text.h"

/* Escapes a string and returns it in static memory. */
static const char *
escaped(const char *bytes, size_t size, size_t most)
{
    static char memory[4096];
    struct text text;

    text_begin(&text, memory, sizeof(memory) - 1);
    text_json(&text, bytes, size, most);
    *text.at = '\0';
    return memory;
}

static void
test_escaping(void)
{
    is(escaped("a\"b\\c", 5, 99), "\"a\\\"b\\\\c\"", "quotes and backslashes");
    is(escaped("\n\x01\x7f", 3, 99), "\"\\u000a\\u0001\\u007f\"", "control characters");
    is(escaped("\xc2\x85\xc2\x9b\xe2\x80\xa8\xe2\x80\xae\xe2\x81\xa6", 13, 99),
       "\"\\u0085\\u009b\\u2028\\u202e\\u2066\"",
       "what ends lines, commands terminals or turns text");
    is(escaped("a\0b", 3, 99), "\"a\\u0000b\"", "a NUL byte");
    is(escaped("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 9, 99),
       "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"", "characters of two, three and four bytes");
    is(escaped("\xff"
               "a\xc3",
               3, 99),
       "\"\\ufffda\\ufffd\"", "bytes that are no UTF-8");
    is(escaped("\xc0\x80", 2, 99), "\"\\ufffd\\ufffd\"", "an overlong NUL");
    is(escaped("\xed\xa0\x80", 3, 99), "\"\\ufffd\\ufffd\\ufffd\"", "a surrogate");
    is(escaped("abcdef", 6, 3), "\"abc…\"", "a value cut to its most");
    is(escaped("ab\xe2\x82\xac", 5, 3), "\"ab…\"", "a cut within a character drops it");
}

static void
test_limits(void)
{
    char memory[8];
    struct text text;

    memset(memory, 'x', sizeof(memory));
    text_begin(&text, memory, 4);
    text_append(&text, "abcde", 5);
    ok(text.cut && text_size(&text) == 0, "what does not fit is not begun");
    text_append(&text, "abcd", 4);
    ok(text_size(&text) == 4 && memory[4] == 'x', "what fits exactly is written");
    text_format(&text, "%d", 1);
    ok(text_size(&text) == 4 && memory[4] == 'x', "nothing goes past the end");
}

static void
test_utf8(void)
{
    ok(utf8_valid("", 0), "nothing is valid UTF-8");
    ok(utf8_valid("\xf4\x8f\xbf\xbf", 4), "U+10FFFF is valid");
    ok(!utf8_valid("\xf4\x90\x80\x80", 4), "beyond U+10FFFF is not");
    ok(!utf8_valid("a\0", 2), "a NUL byte is not");
    ok(!utf8_valid("\xe2\x82", 2), "a cut character is not");
    ok(!utf8_valid("\x80", 1), "a lone continuation is not");
}

static void
test_problem(void)
{
    static char memory[PROBLEM_BODY_MAX];
    struct problem problem;
    struct text text;

    problem_set(&problem, PROBLEM_BODY_TOO_LARGE, "The \"body\" has %d bytes.", 5);
    text_begin(&text, memory, sizeof(memory) - 1);
    problem_write(&problem, "0123456789abcdef", &text);
    *text.at = '\0';
    is(memory,
       "{\"type\":\"urn:rowsync:problem:body_too_large\",\"title\":\"Request body too large\","
       "\"status\":413,\"code\":\"body_too_large\",\"detail\":\"The \\\"body\\\" has 5 bytes.\","
       "\"request_id\":\"0123456789abcdef\"}\n",
       "a problem document");
    memset(problem.detail, 1, sizeof(problem.detail) - 1);
    problem.detail[sizeof(problem.detail) - 1] = '\0';
    problem_hint(&problem, "%s", problem.detail);
    text_begin(&text, memory, sizeof(memory) - 1);
    problem_write(&problem, "0123456789abcdef", &text);
    ok(!text.cut, "the longest detail and hint fit, however they are escaped");
}

int
main(void)
{
    test_escaping();
    test_limits();
    test_utf8();
    test_problem();
    return done();
}
