/*
 * client_events.c - fuzzes the stream of events. Cut into lines by whatever ending, it says the
 * same; a head is never negative.
 */
#include <stdint.h>
#include <stdlib.h>

#include "events.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Runs a stream with the ending given for each of its line feeds; returns a sum of what it says. */
static uint64_t
listen(const uint8_t *data, size_t size, const char *ending)
{
    EventReader reader = {0};
    uint64_t sum = 0;
    size_t i;

    for (i = 0; i < size; i++)
    {
        const char one[2] = {(char)data[i], '\0'};
        const char *byte = *one == '\n' ? ending : one;

        if (*one == '\0' || *one == '\r')
            continue;
        for (; *byte != '\0'; byte++)
        {
            Event event = events_byte(&reader, *byte);

            if (event == EVENT_HEAD && reader.head < 0)
                abort();
            if (event != EVENT_NOTHING)
                sum = sum * 31 + event * 7 + (event == EVENT_HEAD ? (uint64_t)reader.head : 0);
        }
    }
    return sum;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    EventReader reader = {0};
    uint64_t sum = listen(data, size, "\n");
    size_t i;

    for (i = 0; i < size; i++)
        if (events_byte(&reader, (char)data[i]) == EVENT_HEAD && reader.head < 0)
            abort();
    if (listen(data, size, "\r\n") != sum || listen(data, size, "\r") != sum)
        abort();
    return 0;
}
