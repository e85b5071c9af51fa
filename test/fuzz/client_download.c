/*
 * client_download.c - fuzzes a page of the server's log.
 */
#include "client.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0)
        answer_with(rowsync_pull,
                    data[0] % 2 == 0 ? "" : "UPDATE _sync_client_info SET current_window_until = 9",
                    200, 1 + data[0], data + 1, size - 1);
    return 0;
}
