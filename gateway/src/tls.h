/*
 * tls.h: certificates of the gateway's own TLS.
 */
#ifndef ROWSYNC_GATEWAY_TLS_H
#define ROWSYNC_GATEWAY_TLS_H

#include "config.h"

#include <openssl/ssl.h>

/*
 * Reads the configured certificate chain and key. False with the cause in `error`. *context is NULL
 * where TLS is not configured; else one reference belongs to the caller (SSL_CTX_free).
 */
bool tls_load(const struct config *config, SSL_CTX **context, char *error, size_t error_size);

#endif
