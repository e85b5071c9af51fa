/*
 * wire.c: a second look at the bytes of an HTTP/1 request head.
 */
#include "wire.h"

#include <string.h>
#include <strings.h>

/* Does the line begin with this header name and a colon? */
static bool
names(const char *line, size_t size, const char *name)
{
    size_t length = strlen(name);

    return size > length && strncasecmp(line, name, length) == 0 && line[length] == ':';
}

/* Notes what stands behind a header's colon, without the spaces around it. */
static void
take_value(const char *line, size_t size, const char **value, size_t *value_size)
{
    const char *at = memchr(line, ':', size);
    const char *end = line + size;

    do
        at++;
    while (at < end && (*at == ' ' || *at == '\t'));
    while (end > at && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *value = at;
    *value_size = (size_t)(end - at);
}

void
wire_scan(const char *bytes, size_t size, struct wire_head *head)
{
    bool first = true;

    memset(head, 0, sizeof(*head));
    head->size = size;
    for (size_t at = 0; at < size;)
    {
        const char *line = bytes + at;
        const char *end = memchr(line, '\n', size - at);
        size_t length = end == NULL ? size - at : (size_t)(end - line);

        at += length + (end != NULL);
        if (length != 0 && line[length - 1] == '\r')
            length--;
        else if (end != NULL)
            head->bare = true;
        /* Empty lines before the request line are tolerated by HTTP. */
        if (length == 0 && !first && end != NULL)
        {
            head->complete = true;
            head->size = at;
            return;
        }
        if (length == 0)
            continue;
        if (!first && (line[0] == ' ' || line[0] == '\t'))
            head->folded = true;
        if (!first && names(line, length, "content-length"))
            head->lengths++;
        if (!first && names(line, length, "transfer-encoding"))
            head->encodings++;
        if (!first && names(line, length, "host"))
            head->hosts++;
        if (!first && names(line, length, "authorization"))
            take_value(line, length, &head->authorization, &head->authorization_size);
        if (!first && names(line, length, "origin"))
            take_value(line, length, &head->origin, &head->origin_size);
        first = false;
    }
}
