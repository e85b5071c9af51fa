/*
 * client_snapshot.c - fuzzes the snapshot stream, into an empty database and into one with rows and
 * edits.
 */
#include "client.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0)
        answer_with(rowsync_hydrate,
                    data[0] % 2 == 0
                        ? "UPDATE _sync_client_info SET hydrated = 0"
                        : "UPDATE _sync_client_info SET hydrated = 0, apply_mode = 1;"
                          "DELETE FROM u; DELETE FROM t; DELETE FROM _sync_dirty;"
                          "DELETE FROM _sync_version; UPDATE _sync_client_info SET apply_mode = 0",
                    200, 1 + data[0], data + 1, size - 1);
    return 0;
}
