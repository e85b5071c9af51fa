/*
 * tls.c: certificates of the gateway's own TLS.
 */
#include "tls.h"

#include <openssl/err.h>
#include <stdlib.h>

/* OpenSSL's first complaint, and forgets the rest. */
static void
explain(const char *setting, const char *path, char *error, size_t error_size)
{
    char reason[256];

    ERR_error_string_n(ERR_peek_error(), reason, sizeof(reason));
    ERR_clear_error();
    snprintf(error, error_size, "%s: %s: %s", setting, path, reason);
}

/* Nobody is there to be asked for the pass phrase of a key, least of all at SIGHUP. */
static int
refuse_to_ask(char *phrase, int size, int writing, void *asked)
{
    (void)phrase, (void)size, (void)writing;
    *(bool *)asked = true;
    return -1;
}

/*
 * Chooses the protocol of a connection from what the client offers (ALPN), in our order. A client
 * that offers none of ours is turned away (RFC 7301, 3.2).
 */
static int
select_protocol(SSL *ssl, const unsigned char **chosen, unsigned char *size,
                const unsigned char *offered, unsigned offered_size, void *http2)
{
    static const unsigned char known[] = "\x02h2\x08http/1.1";
    size_t skip = http2 == NULL ? 3 : 0;
    unsigned char *found;

    (void)ssl;
    if (SSL_select_next_proto(&found, size, known + skip, (unsigned)(sizeof(known) - 1 - skip),
                              offered, offered_size) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *chosen = found;
    return SSL_TLSEXT_ERR_OK;
}

bool
tls_load(const struct config *config, SSL_CTX **context, char *error, size_t error_size)
{
    static char yes[] = "HTTP/2 too";
    const char *at = config->tls_certificate;
    bool asked = false;

    *context = NULL;
    if (config->tls_certificate == NULL)
        return true;
    *context = SSL_CTX_new(TLS_server_method());
    if (*context == NULL || SSL_CTX_set_min_proto_version(*context, TLS1_2_VERSION) != 1)
        abort();
    SSL_CTX_set_alpn_select_cb(*context, select_protocol, config->http2 ? yes : NULL);
    SSL_CTX_set_options(*context, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_RENEGOTIATION |
                                      SSL_OP_NO_COMPRESSION);
    /* Event streams are idle nearly always: they need no buffers until there is something. */
    SSL_CTX_set_mode(*context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_default_passwd_cb(*context, refuse_to_ask);
    SSL_CTX_set_default_passwd_cb_userdata(*context, &asked);
    if (SSL_CTX_use_certificate_chain_file(*context, config->tls_certificate) == 1)
    {
        at = config->tls_key;
        if (SSL_CTX_use_PrivateKey_file(*context, config->tls_key, SSL_FILETYPE_PEM) == 1 &&
            SSL_CTX_check_private_key(*context) == 1)
        {
            SSL_CTX_set_default_passwd_cb_userdata(*context, NULL);
            return true;
        }
    }
    explain(at == config->tls_key ? "tls_key" : "tls_certificate", at, error, error_size);
    if (asked)
        snprintf(error, error_size, "tls_key: %s: has a pass phrase, for which nobody can be asked",
                 at);
    SSL_CTX_free(*context);
    *context = NULL;
    return false;
}
