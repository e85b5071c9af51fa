/*
 * events.c - reads the server-sent events of /sync/watch (HTML standard, 9.2), of which rowsync
 * uses two: `head` and `reconnect`.
 */
#include <string.h>

#include "events.h"
#include "json.h"

/* The value of a field where the line is one; no slice where it is another. */
static Slice
value_of(Slice line, const char *field)
{
    size_t length = strlen(field);

    if (line.length <= length || memcmp(line.data, field, length) != 0 || line.data[length] != ':')
        return (Slice){0};
    length += 1 + (line.length > length + 1 && line.data[length + 1] == ' ');
    return (Slice){line.data + length, line.length - length};
}

/* Takes a whole line. */
static Event
take_line(EventReader *reader)
{
    static const char *const names[] = {"head"};
    Slice line = {reader->line, reader->length}, value, head;
    int64_t number;

    if (line.length == 0)
    {
        Event event = reader->has_head    ? EVENT_HEAD
                      : reader->reconnect ? EVENT_RECONNECT
                                          : EVENT_NOTHING;

        reader->has_head = reader->reconnect = false;
        return event;
    }
    if (line.data[0] == ':')
        return EVENT_ALIVE;
    if (slice_is(value_of(line, "event"), "reconnect"))
        reader->reconnect = true;
    value = value_of(line, "data");
    if (value.data != NULL && scan_fields(value, names, &head, 1) && scan_int64(head, &number) &&
        number >= 0)
    {
        reader->has_head = true;
        reader->head = number;
    }
    return EVENT_NOTHING;
}

/* Takes the next byte; says what it has completed. */
Event
events_byte(EventReader *reader, char byte)
{
    Event event = EVENT_NOTHING;
    bool after_cr = reader->after_cr;

    reader->after_cr = byte == '\r';
    if (byte == '\n' && after_cr)
        return EVENT_NOTHING;
    if (byte != '\n' && byte != '\r')
    {
        /* One more than fits is remembered, so that the line is known to be too long. */
        if (reader->length < sizeof(reader->line))
            reader->line[reader->length++] = byte;
        return EVENT_NOTHING;
    }
    if (reader->length < sizeof(reader->line))
        event = take_line(reader);
    reader->length = 0;
    return event;
}
