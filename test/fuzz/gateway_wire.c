/*
 * gateway_wire.c: fuzzes the second look at a request's head, against libh2o's own parser: where
 * that finds a whole head, ours must find the same end, and every framing header that it hides.
 */
#include "wire.h"

#include <stdlib.h>
#include <strings.h>
#include <sys/types.h>

/* picohttpparser's, as libh2o has it. */
struct phr_header
{
    const char *name;
    size_t name_len;
    const char *value;
    size_t value_len;
};

int phr_parse_request(const char *buf, size_t len, const char **method, size_t *method_len,
                      const char **path, size_t *path_len, int *minor_version,
                      struct phr_header *headers, size_t *num_headers, size_t last_len);
int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int
LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size)
{
    struct phr_header headers[100];
    size_t count = 100;
    size_t method_size;
    size_t path_size;
    size_t lengths = 0;
    size_t encodings = 0;
    size_t hosts = 0;
    const char *method;
    const char *path;
    struct wire_head head;
    int minor;
    int end = phr_parse_request((const char *)bytes, size, &method, &method_size, &path, &path_size,
                                &minor, headers, &count, 0);

    wire_scan((const char *)bytes, size, &head);
    if (end < 0)
        return 0;
    for (size_t i = 0; i < count; i++)
    {
        lengths +=
            headers[i].name_len == 14 && strncasecmp(headers[i].name, "content-length", 14) == 0;
        encodings +=
            headers[i].name_len == 17 && strncasecmp(headers[i].name, "transfer-encoding", 17) == 0;
        hosts += headers[i].name_len == 4 && strncasecmp(headers[i].name, "host", 4) == 0;
    }
    if (!head.complete || head.size != (size_t)end || head.lengths != lengths ||
        head.encodings != encodings || head.hosts != hosts)
        abort();
    return 0;
}
