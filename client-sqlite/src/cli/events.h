/*
 * events.h - a reader of the server-sent events of /sync/watch, byte by byte.
 *
 *   event: head
 *   data: {"head": 45}
 *                               an empty line ends an event; a line of ":" is a sign of life
 *
 * Lines end in LF, CR LF or CR. The memory is fixed: a line that is longer than any of these means
 * nothing.
 */
#ifndef ROWSYNC_EVENTS_H
#define ROWSYNC_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a byte has completed. */
typedef enum Event
{
    EVENT_NOTHING,
    EVENT_HEAD,     /* the head of the log is now that of the reader */
    EVENT_ALIVE,    /* a comment */
    EVENT_RECONNECT /* the server asks to connect again */
} Event;

/* A stream as it is read; all zero at its beginning. */
typedef struct EventReader
{
    char line[256];
    size_t length;
    bool after_cr; /* a LF that comes now belongs to the CR */
    bool has_head; /* the event that has begun has told a head */
    bool reconnect;
    int64_t head;
} EventReader;

Event events_byte(EventReader *reader, char byte);

#endif
