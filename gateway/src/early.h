/*
 * early.h: refusing a request while its body is still coming.
 */
#ifndef ROWSYNC_GATEWAY_EARLY_H
#define ROWSYNC_GATEWAY_EARLY_H

#include "connection.h"

/* A body that has come so far in bytes needs a good token, and room, before more of it is taken. */
#define EARLY_SIZE 65536

/*
 * Looks at a connection in PHASE_BODY of which more than EARLY_SIZE has come, or for which the loop
 * has no room (`crowded`), and refuses its request where that is so or its token is not good. The
 * refusal is on its way when this returns; the connection ends by itself.
 */
void early_check(struct connection *connection, bool crowded);

#endif
