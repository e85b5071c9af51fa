/*
 * gateway_wire.c: the second look at a request's head.
 */
#include "gateway_tap.h"
#include "wire.h"

static struct wire_head head;

static void
scan(const char *bytes)
{
    wire_scan(bytes, strlen(bytes), &head);
}

int
main(void)
{
    scan("");
    ok(!head.complete && head.size == 0, "nothing");
    scan("GET / HTTP/1.1\r\nHost: x\r\n\r\nbody");
    ok(head.complete && head.size == 27 && head.lengths == 0 && head.encodings == 0,
       "a head, and where it ends");
    scan("GET / HTTP/1.1\nHost: x\n\n");
    ok(head.complete && head.size == 24 && head.bare, "bare line feeds");
    scan("\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    ok(head.complete && head.size == 22 && !head.bare, "empty lines before the request line");
    scan("GET / HTTP/1.1\r\nHost: x\r\n");
    ok(!head.complete, "a head that has not ended");
    scan("POST / HTTP/1.1\r\ncontent-LENGTH: 1\r\nContent-Length: 1\r\n\r\n");
    ok(head.lengths == 2, "two lengths, in any case");
    scan("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length:3\r\n\r\n");
    ok(head.lengths == 1 && head.encodings == 1, "a length and an encoding");
    scan("POST / HTTP/1.1\r\nX-Content-Length: 1\r\nContent-Length-X: 2\r\n\r\n");
    ok(head.lengths == 0, "names that only look alike");
    scan("POST / HTTP/1.1\r\nA: b\r\n\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\n");
    ok(head.lengths == 0 && head.encodings == 0, "what is in the body does not count");
    scan("POST / HTTP/1.1\r\nA: b\r\n c\r\n\r\n");
    ok(head.folded, "a folded line");
    scan("GET / HTTP/1.1\r\nOrigin:  https://a.example \r\nX-Origin: b\r\n\r\n");
    ok(head.origin_size == 17 && strncmp(head.origin, "https://a.example", 17) == 0, "an origin");
    scan("Content-Length: 5 HTTP/1.1\r\n\r\n");
    ok(head.lengths == 0, "the request line is no header");
    scan("POST / HTTP/1.1\r\nAUTHorization: \t Bearer x \r\n\r\nAuthorization: Bearer y\r\n");
    ok(head.authorization_size == 8 && memcmp(head.authorization, "Bearer x", 8) == 0,
       "the token's header, without the spaces around it");
    scan("POST / HTTP/1.1\r\nAuthorization:\r\n\r\n");
    ok(head.authorization != NULL && head.authorization_size == 0, "an empty one");
    scan("POST / HTTP/1.1\r\nX-Authorization: Bearer x\r\n\r\n");
    ok(head.authorization == NULL, "none");
    return done();
}
