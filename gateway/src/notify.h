/*
 * notify.h: telling the service manager how we are.
 */
#ifndef ROWSYNC_GATEWAY_NOTIFY_H
#define ROWSYNC_GATEWAY_NOTIFY_H

/*
 * Sends a state such as "READY=1" to the service manager, by the protocol of sd_notify(3). Without
 * a service manager nothing happens.
 */
void notify_manager(const char *state);

#endif
