/*
 * subtransaction.h: work that may fail without taking the transaction with it.
 */
#ifndef ROWSYNC_SUBTRANSACTION_H
#define ROWSYNC_SUBTRANSACTION_H

#include "postgres.h"

bool in_subtransaction(bool (*work)(void *arg), void *arg, ErrorData **error);

#endif
