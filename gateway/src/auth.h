/*
 * auth.h: who is asking: bearer tokens of requests, with a cache of verified ones.
 */
#ifndef ROWSYNC_GATEWAY_AUTH_H
#define ROWSYNC_GATEWAY_AUTH_H

#include "config.h"
#include "jwt.h"

/* The keys, rules and cache of one event loop; not shared between threads. */
struct auth;

/* Reads the configured keys. NULL with the cause in `error`. One reference belongs to the caller.
 */
struct jwt_keys *auth_load_keys(const struct config *config, char *error, size_t error_size);

/* Creates a loop's authority. Holds the keys; the configuration must outlive it. */
struct auth *auth_create(const struct config *config, struct jwt_keys *keys);

/* Takes what another configuration asks of claims; it must outlive this one as well. */
void auth_set_rules(struct auth *auth, const struct config *config);

/* Takes new keys and forgets every token verified with the old ones. */
void auth_set_keys(struct auth *auth, struct jwt_keys *keys);

/*
 * Verifies the value of an Authorization header at time `now`. Returns a reference to the token's
 * claims for jwt_claims_release, or NULL with the cause in *problem.
 */
struct jwt_claims *auth_check(struct auth *auth, const char *header, size_t size, time_t now,
                              struct problem *problem);

/* The same for who wants to know only whether the token is good. */
bool auth_allows(struct auth *auth, const char *header, size_t size, struct problem *problem);

void auth_free(struct auth *auth);

#endif
