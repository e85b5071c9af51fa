/*
 * client_problem.c - fuzzes refusals: any status with any body. The first byte chooses the route,
 * the second the status.
 */
#include "client.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const Call calls[] = {rowsync_push, rowsync_pull, rowsync_hydrate};
    static const long statuses[] = {0,   100, 204, 301, 302, 304, 400, 401, 403,
                                    404, 409, 410, 413, 415, 429, 500, 502, 503};

    if (size > 1)
        answer_with(calls[data[0] % 3], "",
                    statuses[data[1] % (sizeof(statuses) / sizeof(*statuses))], 1 + data[0],
                    data + 2, size - 2);
    return 0;
}
