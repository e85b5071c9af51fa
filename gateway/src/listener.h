/*
 * listener.h: the sockets on which clients arrive, one for each loop.
 */
#ifndef ROWSYNC_GATEWAY_LISTENER_H
#define ROWSYNC_GATEWAY_LISTENER_H

#include "config.h"

/* The most loops, as the setting `loops` has it. */
#define LISTENERS_MAX 256

struct listener
{
    int descriptors[LISTENERS_MAX]; /* the caller's to close, as many as were asked for */
    bool inherited;                 /* from the service manager, which keeps it open */
    char url[160];                  /* what clients can use, such as "http://127.0.0.1:8080" */
};

/* Whether `listen` is an address that there can be; false with what is wrong in `error`. */
bool listener_check(const struct config *config, char *error, size_t error_size);

/*
 * Listens on the socket that the service manager has passed (sd_listen_fds(3)), or else where
 * `config` says, as listener_check has found it good. False with the cause in `error`; nothing is
 * open then.
 */
bool listener_open(struct listener *listener, const struct config *config, unsigned count,
                   char *error, size_t error_size);

/* Removes the socket file, if it is ours, so that nobody knocks at a door that is being closed. */
void listener_withdraw(const struct listener *listener, const struct config *config);

#endif
