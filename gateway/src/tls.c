/*
 * tls.c: certificates of the gateway's own TLS.
 */
#include "tls.h"

#include <openssl/err.h>

/* OpenSSL's first complaint, and forgets the rest. */
static void
explain(const char *path, char *error, size_t error_size)
{
    char reason[256];

    ERR_error_string_n(ERR_peek_error(), reason, sizeof(reason));
    ERR_clear_error();
    snprintf(error, error_size, "%s: %s", path, reason);
}

bool
tls_load(const struct config *config, SSL_CTX **context, char *error, size_t error_size)
{
    static const unsigned char protocols[] = "\x08http/1.1";
    const char *at = config->tls_certificate;

    *context = NULL;
    if (config->tls_certificate == NULL)
        return true;
    *context = SSL_CTX_new(TLS_server_method());
    if (*context != NULL && SSL_CTX_set_min_proto_version(*context, TLS1_2_VERSION) == 1 &&
        SSL_CTX_set_alpn_protos(*context, protocols, sizeof(protocols) - 1) == 0 &&
        SSL_CTX_use_certificate_chain_file(*context, config->tls_certificate) == 1)
    {
        at = config->tls_key;
        SSL_CTX_set_options(*context, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_RENEGOTIATION |
                                          SSL_OP_NO_COMPRESSION);
        if (SSL_CTX_use_PrivateKey_file(*context, config->tls_key, SSL_FILETYPE_PEM) == 1 &&
            SSL_CTX_check_private_key(*context) == 1)
            return true;
    }
    explain(at, error, error_size);
    SSL_CTX_free(*context);
    *context = NULL;
    return false;
}
