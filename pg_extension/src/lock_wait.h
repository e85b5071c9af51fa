/*
 * lock_wait.h: how long the statements of an upload wait for what others have locked.
 */
#ifndef ROWSYNC_LOCK_WAIT_H
#define ROWSYNC_LOCK_WAIT_H

#include "postgres.h"

void lock_wait_limit(int ms);
void lock_wait_unlimit(void);
bool lock_wait_gave_way(ErrorData *error);

#endif
