/*
 * request.h: the JSON of an upload, as C structs.
 */
#ifndef ROWSYNC_REQUEST_H
#define ROWSYNC_REQUEST_H

#include "postgres.h"

#include "values.h"

/* One member of an object. name is decoded and NUL-terminated. */
typedef struct JsonMember
{
    const char *name;
    int name_len;
    JsonValue value;
} JsonMember;

/* One change as it was sent. Everything points into the request or the context of the parse. */
typedef struct RequestChange
{
    int64 source_change_id;
    int64 server_version;
    const char *schema;
    const char *table;
    char op; /* 'I', 'U', 'D' */
    JsonValue pk;
    JsonValue payload; /* JSON_OBJECT or JSON_NULL */
    int nmembers;
    JsonMember *members; /* of the payload */
    const char *start;   /* the change's own bytes, to tell equal changes */
    const char *end;
    const char *error; /* what is wrong with this change by itself; NULL = nothing */
} RequestChange;

typedef struct Request
{
    int64 last_server_seq_seen;
    int64 epoch; /* of the log that the source has read; 0: of none yet, -1: it does not say */
    bool atomic;
    int nchanges;
    RequestChange *changes;
} Request;

void request_parse(const char *text, int len, Request *request);
bool request_parse_array(const char *text, int len, JsonValue **elements, int *count);
bool request_parse_object(const char *text, int len, JsonMember **members, int *count);

#endif
