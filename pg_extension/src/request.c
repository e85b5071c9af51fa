/*
 * request.c: reads the JSON of an upload with PostgreSQL's own parser.
 *
 * Pure functions on bytes: no catalog, no table. The parser calls back at each value; where in the
 * request we are follows from the nesting depth alone:
 *
 *   1  {"last_server_seq_seen", "atomic", "changes": [
 *   3      {"source_change_id", "schema", "table", "op", "pk", "server_version", "payload": {
 *   4          "column": value
 *
 * A request that is wrong as a whole raises RS001. What is wrong inside one change is noted in
 * that change and costs the others nothing.
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "compat.h"
#include "errors.h"
#include "request.h"

/* Nesting depths at which something of ours stands. */
enum
{
    DEPTH_REQUEST = 1,
    DEPTH_CHANGES = 2,
    DEPTH_CHANGE = 3,
    DEPTH_PAYLOAD = 4
};

/* Fields of a change, as bits, to know which came. */
enum
{
    SEEN_ID = 1,
    SEEN_TABLE = 2,
    SEEN_OP = 4,
    SEEN_PK = 8
};

/* An escape that was set aside, see set_aside(). */
typedef struct BadEscape
{
    const char *place;
    const char *error;
} BadEscape;

/* Where the parser is. */
typedef struct Parse
{
    JsonLexContext *lex;
    Request *request;
    int capacity;        /* of request->changes */
    int member_capacity; /* of the current change's members */
    int depth;           /* open objects and arrays */
    int seen;            /* SEEN_ bits of the current change */
    bool in_changes;     /* below the top-level "changes" */
    bool saw_changes;
    bool in_payload; /* below the current change's "payload" */
    const char *top_field;
    const char *value_start[DEPTH_PAYLOAD + 1]; /* of the field being read, by depth */
    JsonValue scalar;                           /* the last scalar read */
    BadEscape *bad;                             /* ascending */
    int nbad;
} Parse;

/* The change that is being read. */
static RequestChange *
current(Parse *parse)
{
    return &parse->request->changes[parse->request->nchanges - 1];
}

/* Raises RS001. */
static void
refuse(const char *what)
{
    ereport(ERROR, (errcode(ROWSYNC_INVALID_REQUEST), errmsg("%s", what)));
}

/* Notes the first thing that is wrong with the current change. */
static void
blame(Parse *parse, const char *error)
{
    RequestChange *change = current(parse);

    if (change->error == NULL)
        change->error = error;
}

/* A whole number that JSON gave us, within 64 bits. */
static bool
whole_number(const JsonValue *value, int64 *number)
{
    char *end;

    if (value->kind != JSON_NUMBER)
        return false;
    errno = 0;
    *number = strtoll(value->text, &end, 10);
    return errno == 0 && *end == '\0';
}

/* The value that just ended, of any kind: a nested one as its raw bytes. */
static JsonValue
ended_value(JsonLexContext *lex, const char *start, const JsonValue *scalar)
{
    if (*start != '{' && *start != '[')
        return *scalar;
    return (JsonValue){*start == '{' ? JSON_OBJECT : JSON_ARRAY, lex->prev_token_terminator - start,
                       start};
}

/* Callback: an object opens. */
static RowsyncJsonAction
object_start(void *state)
{
    Parse *parse = state;

    parse->depth++;
    if (parse->in_changes && parse->depth == DEPTH_CHANGE)
    {
        Request *request = parse->request;
        RequestChange *change;

        if (request->nchanges == parse->capacity)
        {
            parse->capacity *= 2;
            request->changes =
                repalloc_huge(request->changes, parse->capacity * sizeof(RequestChange));
        }
        change = &request->changes[request->nchanges++];
        memset(change, 0, sizeof(*change));
        change->schema = "public";
        change->start = parse->lex->token_start;
        parse->seen = 0;
        parse->member_capacity = 0;
    }
    ROWSYNC_JSON_ACTION_DONE;
}

/* What is wrong with an escape between two places of the request; NULL if nothing. */
static const char *
bad_escape(Parse *parse, const char *start, const char *end)
{
    int low = 0;
    int high = parse->nbad;

    while (low < high)
    {
        int middle = (low + high) / 2;

        if (parse->bad[middle].place < start)
            low = middle + 1;
        else
            high = middle;
    }
    return low < parse->nbad && parse->bad[low].place < end ? parse->bad[low].error : NULL;
}

/* Callback: an object closes. A change that is complete is checked for what it lacks. */
static RowsyncJsonAction
object_end(void *state)
{
    Parse *parse = state;

    if (parse->in_changes && parse->depth == DEPTH_CHANGE)
    {
        RequestChange *change = current(parse);

        change->end = parse->lex->prev_token_terminator;
        if (!(parse->seen & SEEN_ID))
            refuse("every change needs a source_change_id: a whole number above 0");
        if (parse->nbad > 0 && bad_escape(parse, change->start, change->end) != NULL)
            blame(parse, bad_escape(parse, change->start, change->end));
        if (!(parse->seen & SEEN_TABLE))
            blame(parse, "table is missing");
        if (!(parse->seen & SEEN_OP))
            blame(parse, "op is missing");
        if (!(parse->seen & SEEN_PK))
            blame(parse, "pk is missing");
        if (change->op != 'D' && change->payload.kind != JSON_OBJECT)
            blame(parse, "payload must be an object for INSERT and UPDATE");
    }
    parse->depth--;
    ROWSYNC_JSON_ACTION_DONE;
}

/* Callback: an array opens. */
static RowsyncJsonAction
array_start(void *state)
{
    Parse *parse = state;

    parse->depth++;
    if (parse->depth == DEPTH_CHANGES && strcmp(parse->top_field, "changes") == 0)
        parse->in_changes = true;
    ROWSYNC_JSON_ACTION_DONE;
}

/* Callback: an array closes. */
static RowsyncJsonAction
array_end(void *state)
{
    Parse *parse = state;

    if (parse->depth == DEPTH_CHANGES)
        parse->in_changes = false;
    parse->depth--;
    ROWSYNC_JSON_ACTION_DONE;
}

/* Whether what comes begins with one of these bytes. At the end of the text nothing comes. */
static bool
next_is(const JsonLexContext *lex, const char *bytes)
{
    return lex->token_start != NULL && *lex->token_start != '\0' &&
           strchr(bytes, *lex->token_start) != NULL;
}

/* Callback: an element of an array begins; the elements of "changes" must be objects. */
static RowsyncJsonAction
element_start(void *state, bool isnull)
{
    Parse *parse = state;

    if (parse->in_changes && parse->depth == DEPTH_CHANGES &&
        next_is(parse->lex, "[\"-0123456789tfn"))
        refuse("every element of changes must be an object");
    ROWSYNC_JSON_ACTION_DONE;
}

/* The kind of a scalar token. */
static JsonKind
scalar_kind(JsonTokenType type)
{
    switch (type)
    {
        case JSON_TOKEN_STRING:
            return JSON_STRING;
        case JSON_TOKEN_NUMBER:
            return JSON_NUMBER;
        case JSON_TOKEN_NULL:
            return JSON_NULL;
        default:
            return JSON_BOOL;
    }
}

/* Callback: a scalar. */
static RowsyncJsonAction
scalar(void *state, char *token, JsonTokenType type)
{
    Parse *parse = state;

    parse->scalar = (JsonValue){scalar_kind(type), strlen(token), token};
    ROWSYNC_JSON_ACTION_DONE;
}

/* Callback: a field begins. Its value's first byte is the lexer's current token. */
static RowsyncJsonAction
field_start(void *state, char *name, bool isnull)
{
    Parse *parse = state;

    if (parse->depth <= DEPTH_PAYLOAD)
        parse->value_start[parse->depth] = parse->lex->token_start;
    if (parse->depth == DEPTH_REQUEST)
    {
        parse->top_field = name;
        if (strcmp(name, "changes") == 0 && next_is(parse->lex, "{\"-0123456789tfn"))
            refuse("changes must be an array");
    }
    else if (parse->in_changes && parse->depth == DEPTH_CHANGE)
    {
        parse->in_payload = strcmp(name, "payload") == 0;
        if (parse->in_payload)
            current(parse)->nmembers = 0;
    }
    ROWSYNC_JSON_ACTION_DONE;
}

/* One top-level field is complete. */
static void
top_field_end(Parse *parse, const char *name)
{
    JsonValue value;

    if (strcmp(name, "changes") == 0)
    {
        if (parse->saw_changes)
            refuse("changes must be given once");
        parse->saw_changes = true;
    }
    else if (strcmp(name, "last_server_seq_seen") == 0)
    {
        value = ended_value(parse->lex, parse->value_start[parse->depth], &parse->scalar);
        if (!whole_number(&value, &parse->request->last_server_seq_seen) ||
            parse->request->last_server_seq_seen < 0)
            refuse("last_server_seq_seen must be a whole number, 0 or more");
    }
    else if (strcmp(name, "epoch") == 0)
    {
        value = ended_value(parse->lex, parse->value_start[parse->depth], &parse->scalar);
        if (!whole_number(&value, &parse->request->epoch) || parse->request->epoch < 0)
            refuse("epoch must be a whole number, 0 or more");
    }
    else if (strcmp(name, "atomic") == 0)
    {
        value = ended_value(parse->lex, parse->value_start[parse->depth], &parse->scalar);
        if (value.kind != JSON_BOOL)
            refuse("atomic must be true or false");
        parse->request->atomic = value.text[0] == 't';
    }
}

/* A field of a change is complete. */
static void
change_field_end(Parse *parse, const char *name)
{
    RequestChange *change = current(parse);
    JsonValue value = ended_value(parse->lex, parse->value_start[parse->depth], &parse->scalar);

    if (strcmp(name, "source_change_id") == 0)
    {
        if (!whole_number(&value, &change->source_change_id) || change->source_change_id < 1)
            refuse("source_change_id must be a whole number above 0");
        parse->seen |= SEEN_ID;
    }
    else if (strcmp(name, "schema") == 0)
    {
        if (value.kind != JSON_STRING)
            blame(parse, "schema must be a string");
        else
            change->schema = value.text;
    }
    else if (strcmp(name, "table") == 0)
    {
        parse->seen |= SEEN_TABLE;
        if (value.kind != JSON_STRING)
            blame(parse, "table must be a string");
        else
            change->table = value.text;
    }
    else if (strcmp(name, "op") == 0)
    {
        parse->seen |= SEEN_OP;
        if (value.kind == JSON_STRING && strcmp(value.text, "INSERT") == 0)
            change->op = 'I';
        else if (value.kind == JSON_STRING && strcmp(value.text, "UPDATE") == 0)
            change->op = 'U';
        else if (value.kind == JSON_STRING && strcmp(value.text, "DELETE") == 0)
            change->op = 'D';
        else
            blame(parse, "op must be INSERT, UPDATE or DELETE");
    }
    else if (strcmp(name, "pk") == 0)
    {
        parse->seen |= SEEN_PK;
        change->pk = value;
    }
    else if (strcmp(name, "server_version") == 0)
    {
        if (!whole_number(&value, &change->server_version) || change->server_version < 0)
            blame(parse, "server_version must be a whole number, 0 or more");
    }
    else if (strcmp(name, "payload") == 0)
    {
        if (value.kind != JSON_OBJECT && value.kind != JSON_NULL)
            blame(parse, "payload must be an object or null");
        else
            change->payload = value;
    }
}

/* Grows an array of members by one and returns the new one. */
static JsonMember *
add_member(JsonMember **members, int *count, int *capacity)
{
    if (*count == *capacity)
    {
        *capacity = *capacity ? *capacity * 2 : 16;
        *members = *members ? repalloc(*members, *capacity * sizeof(JsonMember))
                            : palloc(*capacity * sizeof(JsonMember));
    }
    return &(*members)[(*count)++];
}

/* Callback: a field is complete. */
static RowsyncJsonAction
field_end(void *state, char *name, bool isnull)
{
    Parse *parse = state;

    if (parse->depth == DEPTH_REQUEST)
        top_field_end(parse, name);
    else if (parse->in_changes && parse->depth == DEPTH_CHANGE)
        change_field_end(parse, name);
    else if (parse->in_payload && parse->depth == DEPTH_PAYLOAD)
    {
        RequestChange *change = current(parse);
        JsonMember *member =
            add_member(&change->members, &change->nmembers, &parse->member_capacity);

        member->name = name;
        member->name_len = strlen(name);
        member->value = ended_value(parse->lex, parse->value_start[DEPTH_PAYLOAD], &parse->scalar);
    }
    ROWSYNC_JSON_ACTION_DONE;
}

/* The code unit of a \uXXXX escape at p; -1 if none stands there. */
static int
code_unit(const char *p, const char *end)
{
    int unit = 0;

    if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
        return -1;
    for (int i = 2; i < 6; i++)
    {
        const char *digits = "0123456789abcdef";
        const char *digit = strchr(digits, pg_ascii_tolower((unsigned char)p[i]));

        if (digit == NULL || *digit == '\0')
            return -1;
        unit = unit * 16 + (int)(digit - digits);
    }
    return unit;
}

/* Overwrites the escape at offset of the request by a harmless one of the same length. */
static void
set_aside(Parse *parse, char **copy, const char *text, int len, size_t offset, const char *error)
{
    if (*copy == NULL)
        *copy = memcpy(palloc_extended(len + 1, MCXT_ALLOC_HUGE), text, len);
    if ((parse->nbad & (parse->nbad - 1)) == 0)
    {
        Size room = Max(parse->nbad * 2, 1) * sizeof(BadEscape);

        parse->bad = parse->bad ? repalloc_huge(parse->bad, room) : palloc(room);
    }
    parse->bad[parse->nbad].error = error;
    parse->bad[parse->nbad++].place = *copy + offset;
    memcpy(*copy + offset, "\\u0020", 6);
}

/*
 * The parser refuses a whole request for one \u0000, or for half of a surrogate pair. So each is
 * overwritten, in a copy, and its place kept: the change that has it is refused alone.
 */
static const char *
set_bad_escapes_aside(Parse *parse, const char *text, int len)
{
    char *copy = NULL;
    const char *end = text + len;
    const char *p = text;

    while (p < end && (p = memchr(p, '\\', end - p)) != NULL)
    {
        int unit = code_unit(p, end);

        if (unit == 0)
            set_aside(parse, &copy, text, len, p - text,
                      "a string has a NUL character (\\u0000), which PostgreSQL cannot hold");
        else if (unit >= 0xD800 && unit <= 0xDBFF)
        {
            int low = code_unit(p + 6, end);

            if (low >= 0xDC00 && low <= 0xDFFF)
                p += 6;
            else
                unit = 0xDC00;
        }
        if (unit >= 0xDC00 && unit <= 0xDFFF)
            set_aside(parse, &copy, text, len, p - text,
                      "a string has half of a surrogate pair, which is no character");
        /* Step over the escaped character too: it may be a backslash itself. */
        p += 2;
    }
    return copy ? copy : text;
}

/* Turns a verdict of the parser into RS001. The detail may quote the request: keep it short. */
static void
check_syntax(JsonParseErrorType result, JsonLexContext *lex)
{
    char *detail;

    if (result == JSON_SUCCESS)
        return;
    detail = json_errdetail(result, lex);
    ereport(ERROR, (errcode(ROWSYNC_INVALID_REQUEST),
                    errmsg("the request is not valid JSON, near line %d: %.*s", lex->line_number,
                           pg_mbcliplen(detail, strlen(detail), 200), detail)));
}

/*
 * Reads a request of len bytes of valid UTF-8. What request points to lives in the current context
 * and in text. Raises RS001 if the request is no JSON, or has the wrong form as a whole.
 */
void
request_parse(const char *text, int len, Request *request)
{
    Parse parse = {0};
    JsonSemAction actions = {0};
    const char *first = text;

    request->last_server_seq_seen = 0;
    request->epoch = -1;
    request->atomic = false;
    request->nchanges = 0;
    parse.capacity = 64;
    request->changes = palloc(parse.capacity * sizeof(RequestChange));
    while (first < text + len && strchr(" \t\r\n", *first))
        first++;
    if (first == text + len || *first != '{')
        refuse("the request must be a JSON object");

    parse.request = request;
    text = set_bad_escapes_aside(&parse, text, len);
    parse.lex = rowsync_make_json_lexer((char *)text, len);
    actions.semstate = &parse;
    actions.object_start = object_start;
    actions.object_end = object_end;
    actions.array_start = array_start;
    actions.array_end = array_end;
    actions.array_element_start = element_start;
    actions.object_field_start = field_start;
    actions.object_field_end = field_end;
    actions.scalar = scalar;
    check_syntax(pg_parse_json(parse.lex, &actions), parse.lex);
    if (!parse.saw_changes)
        refuse("changes is missing");
}

/* State for reading the members of one object, or the elements of one array. */
typedef struct Flat
{
    JsonLexContext *lex;
    int depth;
    const char *value_start;
    JsonValue scalar;
    JsonMember *members;
    int count;
    int capacity;
} Flat;

/* Callback: something opens. */
static RowsyncJsonAction
flat_open(void *state)
{
    ((Flat *)state)->depth++;
    ROWSYNC_JSON_ACTION_DONE;
}

/* Callback: something closes. */
static RowsyncJsonAction
flat_close(void *state)
{
    ((Flat *)state)->depth--;
    ROWSYNC_JSON_ACTION_DONE;
}

/* Callback: a scalar. */
static RowsyncJsonAction
flat_scalar(void *state, char *token, JsonTokenType type)
{
    ((Flat *)state)->scalar = (JsonValue){scalar_kind(type), strlen(token), token};
    ROWSYNC_JSON_ACTION_DONE;
}

/* Callback: a member begins. */
static RowsyncJsonAction
flat_field_start(void *state, char *name, bool isnull)
{
    Flat *flat = state;

    if (flat->depth == 1)
        flat->value_start = flat->lex->token_start;
    ROWSYNC_JSON_ACTION_DONE;
}

/* Callback: a member is complete. */
static RowsyncJsonAction
flat_field_end(void *state, char *name, bool isnull)
{
    Flat *flat = state;
    JsonMember *member;

    if (flat->depth == 1)
    {
        member = add_member(&flat->members, &flat->count, &flat->capacity);
        member->name = name;
        member->name_len = name ? strlen(name) : 0;
        member->value = ended_value(flat->lex, flat->value_start, &flat->scalar);
    }
    ROWSYNC_JSON_ACTION_DONE;
}

/* Callback: an element begins. */
static RowsyncJsonAction
flat_element_start(void *state, bool isnull)
{
    return flat_field_start(state, NULL, isnull);
}

/* Callback: an element is complete. */
static RowsyncJsonAction
flat_element_end(void *state, bool isnull)
{
    return flat_field_end(state, NULL, isnull);
}

/* Reads one object or array, not what is nested in it. false if it is neither. */
static bool
parse_flat(const char *text, int len, char opening, Flat *flat)
{
    JsonSemAction actions = {0};

    memset(flat, 0, sizeof(*flat));
    if (len == 0 || *text != opening)
        return false;
    flat->lex = rowsync_make_json_lexer((char *)text, len);
    actions.semstate = flat;
    actions.object_start = flat_open;
    actions.array_start = flat_open;
    actions.object_end = flat_close;
    actions.array_end = flat_close;
    actions.scalar = flat_scalar;
    if (opening == '{')
    {
        actions.object_field_start = flat_field_start;
        actions.object_field_end = flat_field_end;
    }
    else
    {
        actions.array_element_start = flat_element_start;
        actions.array_element_end = flat_element_end;
    }
    return pg_parse_json(flat->lex, &actions) == JSON_SUCCESS;
}

/* The elements of a JSON array; false if text is none. */
bool
request_parse_array(const char *text, int len, JsonValue **elements, int *count)
{
    Flat flat;

    if (!parse_flat(text, len, '[', &flat))
        return false;
    *elements = palloc(Max(flat.count, 1) * sizeof(JsonValue));
    for (int i = 0; i < flat.count; i++)
        (*elements)[i] = flat.members[i].value;
    *count = flat.count;
    return true;
}

/* The members of a JSON object; false if text is none. */
bool
request_parse_object(const char *text, int len, JsonMember **members, int *count)
{
    Flat flat;

    if (!parse_flat(text, len, '{', &flat))
        return false;
    *members = flat.members;
    *count = flat.count;
    return true;
}
