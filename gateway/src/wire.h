/*
 * wire.h: a second look at the bytes of an HTTP/1 request head. A pure function, fuzzed.
 *
 * libh2o 2.2.5 takes a request with both Content-Length and Transfer-Encoding, or with several of
 * them, and hides these headers from handlers. Behind a proxy that reads such a request differently
 * that is request smuggling, so we look for ourselves.
 */
#ifndef ROWSYNC_GATEWAY_WIRE_H
#define ROWSYNC_GATEWAY_WIRE_H

#include <stdbool.h>
#include <stddef.h>

struct wire_head
{
    size_t size;      /* bytes up to and with the empty line; all there are when it is missing */
    bool complete;    /* the empty line is there */
    size_t lengths;   /* Content-Length headers */
    size_t encodings; /* Transfer-Encoding headers */
    size_t hosts;     /* Host headers */
    const char *authorization; /* value of the last Authorization header; NULL: there is none */
    size_t authorization_size;
    const char *origin; /* likewise */
    size_t origin_size;
    bool folded; /* a line begins with white space (obsolete folding) */
    bool bare;   /* a line ends with a line feed alone */
};

/* Scans the head at the beginning of `bytes`. */
void wire_scan(const char *bytes, size_t size, struct wire_head *head);

#endif
