/*
 * client_statuses.c - fuzzes the answer to an upload: three edits are pending, with the change ids
 * 5, 6 and 7.
 */
#include "client.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0)
        answer_with(rowsync_push,
                    data[0] % 2 == 0 ? ""
                                     : "UPDATE _sync_table SET policy = 2; INSERT INTO _sync_held"
                                       " VALUES (1, 'l', 'l', 0, 9, 0, '{\"a\":4}', NULL, 0, 0)",
                    200, 1 + data[0], data + 1, size - 1);
    return 0;
}
