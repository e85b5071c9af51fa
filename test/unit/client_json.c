/*
 * client_json.c - the reader of JSON where the other tests do not come by: each byte of a string at
 * each place of a machine word, and what is equal.
 */
#include <unistd.h>

#include "client.h"

#include "json.h"

/* Is the text one JSON value? */
static bool
is_json(const char *text, size_t length)
{
    JsonReader reader = scan_reader((Slice){text, length});
    Slice value;

    return scan_value(&reader, &value) && value.length == length && scan_finish(&reader);
}

/* What stands between letters in a string, wherever it stands; the text ends right behind it. */
static void
test_strings(void)
{
    static const struct
    {
        const char *bytes;
        size_t length;
        bool right;
    } cases[] = {
        {"", 0, true},
        {" ", 1, true},
        {"!", 1, true},
        {"#", 1, true},
        {"[", 1, true},
        {"]", 1, true},
        {"\x7f", 1, true},
        {"\xc3\xa9", 2, true},
        {"\xf0\x9f\x98\x80", 4, true},
        {"\\n", 2, true},
        {"\\\"", 2, true},
        {"\\u00e9", 6, true},
        {"\\\\\\\\", 4, true},
        {"\"", 1, false},
        {"\\", 1, false},
        {"\0", 1, false},
        {"\x1f", 1, false},
        {"\n", 1, false},
        {"\x80", 1, false},
        {"\xff", 1, false},
        {"\xc3", 1, false},
        {"\xc3\xa9\"", 3, false},
        {"\x01\x7f!", 3, false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
    {
        int wrong = 0;

        for (size_t before = 0; before < 20; before++)
            for (size_t after = 0; after < 20; after++)
            {
                char text[64] = {'"'};
                size_t length = before + cases[i].length + after + 2;
                char *exact;

                memset(text + 1, 'a', length - 2);
                memcpy(text + 1 + before, cases[i].bytes, cases[i].length);
                text[length - 1] = '"';
                /* Not a byte more, so that a sanitizer sees a look beyond the end. */
                exact = malloc(length);
                memcpy(exact, text, length);
                wrong += is_json(exact, length) != cases[i].right;
                wrong += cases[i].right && is_json(exact, length - 1);
                free(exact);
            }
        ok(wrong == 0, "string %zu is %s", i, cases[i].right ? "right" : "wrong");
    }
}

/* Brackets are matched however deep they are, up to a limit. */
static void
test_depth(void)
{
    static const struct
    {
        const char *open, *close;
        int depth;
        bool right;
    } cases[] = {
        {"[", "]", 1, true},
        {"[", "]", JSON_MAX_DEPTH - 1, true},
        {"[", "]", JSON_MAX_DEPTH, false},
        {"{\"a\":[1,", "]}", JSON_MAX_DEPTH / 2 - 1, true},
        {"{\"a\":[1,", "}]", 1, false},
        {"[{\"a\":", "}]", 100, true},
        {"[1,", ",2]", 100, true},
        {"[1,", ",]", 100, false},
        {"{\"a\":", ",}", 100, false},
        {"{", "}", 2, false},
        {"{1:", "}", 1, false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
    {
        Buffer text = {0};

        for (int j = 0; j < cases[i].depth; j++)
            buffer_text(&text, cases[i].open);
        buffer_text(&text, "{}");
        for (int j = 0; j < cases[i].depth; j++)
            buffer_text(&text, cases[i].close);
        ok(is_json(text.data, text.length) == cases[i].right &&
               json_same((Slice){text.data, text.length}, (Slice){text.data, text.length}) ==
                   cases[i].right,
           "%s … %s, %d times, is %s", cases[i].open, cases[i].close, cases[i].depth,
           cases[i].right ? "right" : "wrong");
        ok(!is_json(text.data, text.length - 1), "and without its end it is wrong");
        buffer_free(&text);
    }
}

/* JSON is compared by its meaning. */
static void
test_same_json(void)
{
    static const struct
    {
        const char *one, *other;
        bool same;
    } cases[] = {
        {"{\"a\":1,\"b\":[2,{}]}", " { \"b\" : [2.0, {}] , \"a\" : 1e0 } ", true},
        {"{\"a\":1}", "{\"a\":1,\"b\":2}", false},
        {"{\"a\":1,\"b\":2}", "{\"a\":1}", false},
        {"{\"a\":1,\"b\":2}", "{\"a\":1,\"c\":2}", false},
        {"{\"b\":1,\"a\":2,\"c\":3}", "{\"c\":3,\"b\":1,\"a\":2}", true},
        {"{\"ab\":1,\"a\":2,\"\":{\"y\":[],\"x\":0}}", "{\"\":{\"x\":0,\"y\":[]},\"a\":2,\"ab\":1}",
         true},
        {"{\"ab\":1,\"a\":2}", "{\"ab\":2,\"a\":1}", false},
        {"{\"a\":1,\"a\":1}", "{\"a\":1,\"b\":1}", false},
        {"{\"a\":1,\"a\":1}", "{\"a\":1}", false},
        {"{}", "{}", true},
        {"{}", "[]", false},
        {"[]", "{}", false},
        {"[1,2]", "[1]", false},
        {"[1]", "[1,2]", false},
        {"[1,2]", "[2,1]", false},
        {"\"\\u00e9\\/\"", "\"\xc3\xa9/\"", true},
        {"{\"\\u0061\":null}", "{\"a\":null}", true},
        {"\"1\"", "1", false},
        {"null", "false", false},
        {"100", "1e+2", true},
        {"0.0500", "5E-2", true},
        {"0", "-0.0", true},
        {"1", "-1", false},
        {"10", "1", false},
        {"12345678901234567890", "12345678901234567891", false},
        {"0.1", "0.10000000000000000001", false},
        {"1e99999999999999999999", "1e99999999999999999998", false},
        {"{", "{", false},
        {"1 2", "1 2", false},
        {"", "", false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        ok(json_same((Slice){cases[i].one, strlen(cases[i].one)},
                     (Slice){cases[i].other, strlen(cases[i].other)}) == cases[i].same,
           "%s %s %s", cases[i].one, cases[i].same ? "is" : "is not", cases[i].other);
}

/* The members of a large object stand in the opposite order. */
static void
test_large_json(void)
{
    const int count = 200000;
    Buffer one = {0}, other = {0};

    for (int i = 0; i < count; i++)
    {
        buffer_printf(&one, "%c\"member %d\":%d", i > 0 ? ',' : '{', i, i);
        buffer_printf(&other, "%c\"member %d\":%d", i > 0 ? ',' : '{', count - 1 - i,
                      count - 1 - i);
    }
    buffer_byte(&one, '}');
    buffer_byte(&other, '}');
    alarm(100); /* were each looked for among all others, this would take an hour */
    ok(json_same((Slice){one.data, one.length}, (Slice){other.data, other.length}),
       "%d members in another order are the same", count);
    other.data[other.length - 2] = '1';
    ok(!json_same((Slice){one.data, one.length}, (Slice){other.data, other.length}),
       "and not the same when one of them has another value");
    alarm(0);
    buffer_free(&one);
    buffer_free(&other);
}

int
main(void)
{
    test_strings();
    test_depth();
    test_same_json();
    test_large_json();
    return done();
}
