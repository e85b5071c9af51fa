/*
 * json.c - a strict reader of JSON (RFC 8259) that hands out slices of the text it reads.
 */
#include "json.h"

#include <stdlib.h>
#include <string.h>

/* Brackets within others that json_same() looks into, by recursion. */
#define COMPARED_DEPTH 64

/* A reader at the beginning of a text, which must outlive it and every slice that it hands out. */
JsonReader
scan_reader(Slice text)
{
    return (JsonReader){text.data, text.data != NULL ? text.data + text.length : NULL,
                        text.data == NULL, false};
}

/* Remembers that the text is no JSON. */
static bool
fail(JsonReader *reader)
{
    reader->failed = true;
    reader->at = reader->end;
    return false;
}

/* Skips white space; returns the byte that follows, or NUL at the end (which no JSON has). */
static char
look(JsonReader *reader)
{
    while (reader->at < reader->end && (*reader->at == ' ' || *reader->at == '\n' ||
                                        *reader->at == '\t' || *reader->at == '\r'))
        reader->at++;
    return reader->at < reader->end ? *reader->at : '\0';
}

/* Takes one byte of punctuation, or fails. */
static bool
take(JsonReader *reader, char punctuation)
{
    if (reader->failed || look(reader) != punctuation || reader->at == reader->end)
        return fail(reader);
    reader->at++;
    return true;
}

/* The value of four hex digits, or -1. */
static int
hex4(const char *text)
{
    int value = 0, i;

    for (i = 0; i < 4; i++)
    {
        char c = text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;

        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* Checks the escape at `at` (a backslash); returns its length, 0 when it is none. */
static size_t
escape_length(const char *at, const char *end)
{
    int code;

    if (end - at < 2)
        return 0;
    if (strchr("\"\\/bfnrt", at[1]) != NULL && at[1] != '\0')
        return 2;
    if (at[1] != 'u' || end - at < 6 || (code = hex4(at + 2)) < 0)
        return 0;
    if (code >= 0xDC00 && code <= 0xDFFF)
        return 0;
    if (code < 0xD800 || code > 0xDBFF)
        return 6;
    if (end - at < 12 || at[6] != '\\' || at[7] != 'u')
        return 0;
    code = hex4(at + 8);
    return code >= 0xDC00 && code <= 0xDFFF ? 12 : 0;
}

/*
 * Passes over bytes that mean themselves in a string, eight at a time: a look at each alone is what
 * reading a snapshot would spend most on. May stop before it has to.
 */
static const char *
skip_plain(const char *at, const char *end)
{
    const uint64_t ones = UINT64_MAX / 255;

    for (; end - at >= 8; at += 8)
    {
        uint64_t bytes, special;

        /* High bits: bytes below 0x20, quotes, backslashes and, by both differences, bytes beyond
         * ASCII. The lowest is right; those above it may be its borrow. */
        memcpy(&bytes, at, 8);
        special = ((bytes - ones * 0x20) | ((bytes ^ ones * '"') - ones) |
                   ((bytes ^ ones * '\\') - ones)) &
                  ones * 0x80;
        if (special != 0)
            return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? at + __builtin_ctzll(special) / 8
                                                             : at;
    }
    return at;
}

/* Passes over a string. */
static bool
skip_string(JsonReader *reader)
{
    const char *at = reader->at + 1;

    while ((at = skip_plain(at, reader->end)) < reader->end)
    {
        unsigned char c = (unsigned char)*at;
        size_t length = 1;

        if (c == '"')
        {
            reader->at = at + 1;
            return true;
        }
        if (c < 0x20)
            break;
        if (c == '\\')
            length = escape_length(at, reader->end);
        else if (c >= 0x80 && !reader->any_bytes)
            length = utf8_length((const unsigned char *)at, (size_t)(reader->end - at));
        if (length == 0)
            break;
        at += length;
    }
    return fail(reader);
}

/* Passes over digits; false when there is none. */
static bool
skip_digits(JsonReader *reader)
{
    const char *start = reader->at;

    while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9')
        reader->at++;
    return reader->at > start;
}

/* Passes over a number. */
static bool
skip_number(JsonReader *reader)
{
    if (*reader->at == '-')
        reader->at++;
    if (reader->at < reader->end && *reader->at == '0')
        reader->at++;
    else if (!skip_digits(reader))
        return fail(reader);
    if (reader->at < reader->end && *reader->at == '.')
    {
        reader->at++;
        if (!skip_digits(reader))
            return fail(reader);
    }
    if (reader->at < reader->end && (*reader->at == 'e' || *reader->at == 'E'))
    {
        reader->at++;
        if (reader->at < reader->end && (*reader->at == '+' || *reader->at == '-'))
            reader->at++;
        if (!skip_digits(reader))
            return fail(reader);
    }
    return true;
}

/* Passes over one of the three words. */
static bool
skip_word(JsonReader *reader, const char *word)
{
    size_t length = strlen(word);

    if ((size_t)(reader->end - reader->at) < length || memcmp(reader->at, word, length) != 0)
        return fail(reader);
    reader->at += length;
    return true;
}

/* Passes over a value that holds no others; `c` is its first byte. */
static bool
skip_scalar(JsonReader *reader, char c)
{
    switch (c)
    {
        case '"':
            return skip_string(reader);
        case 't':
            return skip_word(reader, "true");
        case 'f':
            return skip_word(reader, "false");
        case 'n':
            return skip_word(reader, "null");
        default:
            return (c == '-' || (c >= '0' && c <= '9')) ? skip_number(reader) : fail(reader);
    }
}

/* What closes the innermost of so many open brackets; `objects` has a set bit for each brace. */
static char
closing(const uint64_t *objects, int depth)
{
    return (objects[(depth - 1) / 64] >> (depth - 1) % 64 & 1) != 0 ? '}' : ']';
}

/*
 * Passes over a value of any kind, without recursion: the server's rows may be nested as deep as
 * PostgreSQL takes them, and one that could not be read would keep all others from coming.
 */
static bool
skip_value(JsonReader *reader)
{
    uint64_t objects[JSON_MAX_DEPTH / 64];
    int depth = 0;

    do
    {
        char c = look(reader);
        bool opened = false;

        if (c == '{' || c == '[')
        {
            if (reader->failed || depth == JSON_MAX_DEPTH)
                return fail(reader);
            if (depth % 64 == 0)
                objects[depth / 64] = 0;
            if (c == '{')
                objects[depth / 64] |= (uint64_t)1 << depth % 64;
            else
                objects[depth / 64] &= ~((uint64_t)1 << depth % 64);
            depth++;
            reader->at++;
            opened = look(reader) != closing(objects, depth);
        }
        else if (!skip_scalar(reader, c))
            return false;
        if (!opened)
        {
            for (; depth > 0 && look(reader) == closing(objects, depth); depth--)
                reader->at++;
            if (depth > 0 && !take(reader, ','))
                return false;
        }
        if (depth > 0 && closing(objects, depth) == '}' &&
            (look(reader) != '"' || !skip_string(reader) || !take(reader, ':')))
            return fail(reader);
    } while (depth > 0);
    return true;
}

/* Reads the next value whole; *value is the slice that it occupies. */
bool
scan_value(JsonReader *reader, Slice *value)
{
    if (reader->failed)
        return false;
    look(reader);
    value->data = reader->at;
    if (!skip_value(reader))
        return false;
    value->length = (size_t)(reader->at - value->data);
    return true;
}

/* Enters an object or array: takes its opening bracket. */
bool
scan_enter(JsonReader *reader, char bracket)
{
    return take(reader, bracket);
}

/*
 * The next member of the object that was entered; false at its end, which is taken, and after a
 * mistake (see reader->failed). The name comes with its quotes.
 */
bool
scan_next_member(JsonReader *reader, bool first, Slice *name, Slice *value)
{
    if (reader->failed)
        return false;
    if (look(reader) == '}')
    {
        reader->at++;
        return false;
    }
    if ((!first && !take(reader, ',')) || look(reader) != '"')
        return fail(reader);
    return scan_value(reader, name) && take(reader, ':') && scan_value(reader, value);
}

/* The next element of the array that was entered; as above. */
bool
scan_next_element(JsonReader *reader, bool first, Slice *value)
{
    if (reader->failed)
        return false;
    if (look(reader) == ']')
    {
        reader->at++;
        return false;
    }
    if (!first && !take(reader, ','))
        return false;
    return scan_value(reader, value);
}

/* True when the text was right up to its end and nothing follows. */
bool
scan_finish(JsonReader *reader)
{
    return !reader->failed && look(reader) == '\0' && reader->at == reader->end;
}

/*
 * Finds the members of an object by name: values[i] is that of names[i], or no slice where it is
 * absent. Other members are ignored; of a repeated name the last one counts. The object must be the
 * whole text. False when it is no JSON object.
 */
bool
scan_fields(Slice object, const char *const *names, Slice *values, int count)
{
    JsonReader reader = scan_reader(object);
    Slice name, value;
    bool first;
    int i;

    memset(values, 0, (size_t)count * sizeof(*values));
    if (!scan_enter(&reader, '{'))
        return false;
    for (first = true; scan_next_member(&reader, first, &name, &value); first = false)
        for (i = 0; i < count; i++)
            if (slice_is((Slice){name.data + 1, name.length - 2}, names[i]))
                values[i] = value;
    return scan_finish(&reader);
}

/* The member of an object with this name (with its quotes). */
Slice
scan_member(Slice object, Slice name)
{
    JsonReader reader = scan_reader(object);
    Slice key, value, found = {0};
    bool first;

    if (object.data == NULL || !scan_enter(&reader, '{'))
        return found;
    for (first = true; scan_next_member(&reader, first, &key, &value); first = false)
        if (slice_same(key, name))
            found = value;
    return found;
}

/* An integer that fits 64 bits; nothing with a fraction or exponent. */
bool
scan_int64(Slice value, int64_t *out)
{
    uint64_t number = 0, limit = INT64_MAX;
    size_t i = 0;

    if (value.data == NULL || value.length == 0)
        return false;
    if (value.data[0] == '-')
    {
        limit++;
        i++;
    }
    if (i == value.length)
        return false;
    for (; i < value.length; i++)
    {
        unsigned digit = (unsigned char)value.data[i] - (unsigned)'0';

        if (digit > 9 || number > (limit - digit) / 10)
            return false;
        number = number * 10 + digit;
    }
    *out = value.data[0] == '-' ? (int64_t)(0 - number) : (int64_t)number;
    return true;
}

/* Appends a code point as UTF-8. */
static void
append_code_point(Buffer *out, uint32_t code)
{
    char bytes[4];
    size_t length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4, i;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};

    for (i = length; i-- > 1; code >>= 6)
        bytes[i] = (char)(0x80 | (code & 0x3F));
    bytes[0] = (char)(lead[length] | code);
    buffer_append(out, bytes, length);
}

/* Appends the text of a string value (a slice that a reader handed out); false for other kinds. */
bool
scan_string(Slice value, Buffer *out)
{
    const char *at, *end, *stop;

    if (value.data == NULL || value.length < 2 || value.data[0] != '"')
        return false;
    at = value.data + 1;
    end = value.data + value.length - 1;
    while ((stop = memchr(at, '\\', (size_t)(end - at))) != NULL)
    {
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";

        buffer_append(out, at, (size_t)(stop - at));
        if (stop[1] == 'u')
        {
            uint32_t code = (uint32_t)hex4(stop + 2);

            at = stop + 6;
            if (code >= 0xD800 && code <= 0xDBFF)
            {
                code = 0x10000 + ((code - 0xD800) << 10) + ((uint32_t)hex4(stop + 8) - 0xDC00);
                at = stop + 12;
            }
            append_code_point(out, code);
        }
        else
        {
            buffer_byte(out, to[strchr(from, stop[1]) - from]);
            at = stop + 2;
        }
    }
    buffer_append(out, at, (size_t)(end - at));
    return !out->failed;
}

/* Is it null, or absent? */
bool
scan_is_null(Slice value)
{
    return value.data == NULL || slice_is(value, "null");
}

/* true or false. */
bool
scan_boolean(Slice value, bool *out)
{
    *out = slice_is(value, "true");
    return *out || slice_is(value, "false");
}

/*
 * Appends the digits of a number without zeros at either end; *point is where its decimal point
 * stands, from the first digit on. False for what is no number, or has an exponent out of reason.
 */
static bool
decimal(Slice number, Buffer *digits, int64_t *point)
{
    size_t i = number.data[0] == '-', last = 0;
    bool fraction = false;
    int64_t exponent = 0;

    *point = 0;
    for (; i < number.length && (number.data[i] | 0x20) != 'e'; i++)
        if (number.data[i] == '.')
            fraction = true;
        else if (number.data[i] < '0' || number.data[i] > '9')
            return false;
        else
        {
            bool leading = digits->length == 0 && number.data[i] == '0';

            *point += leading ? -(int64_t)fraction : !fraction;
            if (!leading)
                buffer_byte(digits, number.data[i]);
            if (number.data[i] != '0')
                last = digits->length;
        }
    digits->length = last;
    if (i < number.length)
    {
        i += 1 + (i + 1 < number.length && number.data[i + 1] == '+');
        if (!scan_int64((Slice){number.data + i, number.length - i}, &exponent) ||
            exponent > INT32_MAX || exponent < -INT32_MAX)
            return false;
    }
    *point = last > 0 ? *point + exponent : 0;
    return true;
}

/* Are two numbers the same, whatever digits they are written with? */
static bool
same_number(Slice one, Slice other)
{
    Buffer digits = {0}, others = {0};
    int64_t point, other_point;
    bool same = decimal(one, &digits, &point) && decimal(other, &others, &other_point) &&
                !digits.failed && !others.failed && point == other_point &&
                digits.length == others.length &&
                (digits.length == 0 || ((one.data[0] == '-') == (other.data[0] == '-') &&
                                        memcmp(digits.data, others.data, digits.length) == 0));

    buffer_free(&digits);
    buffer_free(&others);
    return same;
}

/* Are two strings the same, whatever is escaped in them? */
static bool
same_string(Slice one, Slice other)
{
    Buffer text = {0}, others = {0};
    bool same = scan_string(one, &text) && scan_string(other, &others) &&
                text.length == others.length &&
                memcmp(buffer_string(&text), buffer_string(&others), text.length) == 0;

    buffer_free(&text);
    buffer_free(&others);
    return same;
}

static bool same_value(Slice one, Slice other, int depth);

/* A member of an object that is compared, its name without escapes. */
typedef struct Member
{
    Slice name;
    Slice value;
} Member;

/* In the order of names; those of one name as they stand in the text. */
static int
compare_members(const void *left, const void *right)
{
    const Member *one = left, *other = right;
    size_t shorter = one->name.length < other->name.length ? one->name.length : other->name.length;
    int order = memcmp(one->name.data, other->name.data, shorter);

    if (order == 0)
        order = (one->name.length > other->name.length) - (one->name.length < other->name.length);
    return order != 0
               ? order
               : (one->value.data > other->value.data) - (one->value.data < other->value.data);
}

/* The members of an object, sorted; as many as *count. The slices of their names are of `names`. */
static Member *
sorted_members(Slice object, Buffer *list, Buffer *names, size_t *count)
{
    JsonReader reader = scan_reader(object);
    Member member, *members;
    const char *name;
    bool first;
    size_t i;

    scan_enter(&reader, '{');
    for (first = true; scan_next_member(&reader, first, &member.name, &member.value); first = false)
    {
        size_t before = names->length;

        scan_string(member.name, names);
        member.name.length = names->length - before;
        buffer_append(list, &member, sizeof(member));
    }
    members = (Member *)(void *)list->data;
    *count = list->length / sizeof(member);
    for (i = 0, name = buffer_string(names); i < *count; name += members[i++].name.length)
        members[i].name.data = name;
    if (*count > 0)
        qsort(members, *count, sizeof(member), compare_members);
    return members;
}

/* Have two objects the same members, in whatever order? That of a hostile row costs no more. */
static bool
same_object(Slice one, Slice other, int depth)
{
    Buffer lists[2] = {0}, names[2] = {0};
    size_t count, others, i;
    Member *mine = sorted_members(one, &lists[0], &names[0], &count);
    Member *theirs = sorted_members(other, &lists[1], &names[1], &others);
    bool same = count == others;

    for (i = 0; i < 2; i++)
        same &= !lists[i].failed && !names[i].failed;
    for (i = 0; i < count && same; i++)
        same = slice_same(mine[i].name, theirs[i].name) &&
               same_value(mine[i].value, theirs[i].value, depth + 1);
    for (i = 0; i < 2; i++)
    {
        buffer_free(&lists[i]);
        buffer_free(&names[i]);
    }
    return same;
}

/* Have two arrays the same elements? */
static bool
same_array(Slice one, Slice other, int depth)
{
    JsonReader mine = scan_reader(one), theirs = scan_reader(other);
    Slice value, others;
    bool first;

    scan_enter(&mine, '[');
    scan_enter(&theirs, '[');
    for (first = true; scan_next_element(&mine, first, &value); first = false)
        if (!scan_next_element(&theirs, first, &others) || !same_value(value, others, depth + 1))
            return false;
    return !scan_next_element(&theirs, first, &others);
}

/*
 * json_same() of values that so many others are around, each a slice that a reader handed out;
 * deep inside only their bytes count.
 */
static bool
same_value(Slice one, Slice other, int depth)
{
    char kind = depth < COMPARED_DEPTH ? one.data[0] : '\0';

    if (kind == '{')
        return other.data[0] == '{' && same_object(one, other, depth);
    if (kind == '[')
        return other.data[0] == '[' && same_array(one, other, depth);
    if (kind == '"')
        return same_string(one, other);
    if (kind == '-' || (kind >= '0' && kind <= '9'))
        return same_number(one, other);
    return slice_same(one, other);
}

/*
 * Do two JSON texts mean the same: members in any order, numbers with any digits, strings with any
 * escapes? Texts that are no JSON never do. An object that repeats a name equals none that does
 * not.
 */
bool
json_same(Slice one, Slice other)
{
    JsonReader mine = scan_reader(one), theirs = scan_reader(other);

    return scan_value(&mine, &one) && scan_finish(&mine) && scan_value(&theirs, &other) &&
           scan_finish(&theirs) && same_value(one, other, 0);
}
