/*-------------------------------------------------------------------------
 *
 * certificate.c
 *	  What the gateway shows and accepts when it speaks TLS.
 *
 * The engine reads the files, decrypts the key where it must, and sends both
 * as settings.  Of them an OpenSSL context is made here, anew at each reload:
 * connections that are open keep the one that they began with.  A context that
 * cannot be made leaves the one before in use.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/certificate.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/log.h"

static SSL_CTX *current;

/* Why OpenSSL failed; nothing of it is left in its queue. */
static const char *
reason(void)
{
	const char *text = ERR_reason_error_string(ERR_peek_error());

	ERR_clear_error();
	return text != NULL ? text : "unknown error";
}

/* The certificate, followed by those that it is signed by */
static bool
use_chain(SSL_CTX *context, const char *text)
{
	BIO		   *bio = BIO_new_mem_buf(text, -1);
	X509	   *certificate = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL);
	bool		ok = certificate != NULL &&
		SSL_CTX_use_certificate(context, certificate) == 1;

	X509_free(certificate);
	while (ok && (certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL)
	{
		ok = SSL_CTX_add0_chain_cert(context, certificate) == 1;
		if (!ok)
			X509_free(certificate);
	}
	BIO_free(bio);
	/* The end of the text is an error, too. */
	if (ok)
		ERR_clear_error();
	return ok;
}

static bool
use_key(SSL_CTX *context, const char *text)
{
	BIO		   *bio = BIO_new_mem_buf(text, -1);
	EVP_PKEY   *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
	bool		ok = key != NULL && SSL_CTX_use_PrivateKey(context, key) == 1 &&
		SSL_CTX_check_private_key(context) == 1;

	EVP_PKEY_free(key);
	BIO_free(bio);
	return ok;
}

static int
version_number(const char *name, int otherwise)
{
	if (strcmp(name, "TLSv1.3") == 0)
		return TLS1_3_VERSION;
	if (strcmp(name, "TLSv1.2") == 0)
		return TLS1_2_VERSION;
	return otherwise;
}

/* HTTP/1.1 is what we speak, also to who would like something newer. */
static int
choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *length,
				const unsigned char *in, unsigned int in_length, void *argument)
{
	static const unsigned char http[] = "\x08http/1.1";

	(void) ssl;
	(void) argument;
	if (SSL_select_next_proto((unsigned char **) out, length, http,
							  sizeof(http) - 1, in, in_length) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_NOACK;
	return SSL_TLSEXT_ERR_OK;
}

static bool
configure(SSL_CTX *context, const Config *config)
{
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
					 SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
						SSL_OP_CIPHER_SERVER_PREFERENCE |
						SSL_OP_IGNORE_UNEXPECTED_EOF);
	/* Tickets let a client come back cheaply and cost us no memory. */
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(context, 1);
	SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
	return SSL_CTX_set_min_proto_version(context, version_number(config->ssl_min_protocol_version,
																 TLS1_2_VERSION)) == 1 &&
		SSL_CTX_set_max_proto_version(context, version_number(config->ssl_max_protocol_version,
															  0)) == 1 &&
		(config->ssl_ciphers[0] == '\0' ||
		 SSL_CTX_set_cipher_list(context, config->ssl_ciphers) == 1);
}

/*
 * Use the certificate, key and bounds of the settings for connections that
 * begin from now on, and forget the key's text.  Returns false, with a line in
 * the log and what was in use before kept, if that cannot be done.
 */
bool
certificate_apply(Config *config)
{
	SSL_CTX    *context = SSL_CTX_new(TLS_server_method());
	const char *failed = NULL;

	if (context == NULL || !configure(context, config))
		failed = "the protocol versions or ciphers";
	else if (!use_chain(context, config->ssl_certificate))
		failed = "the certificate";
	else if (!use_key(context, config->ssl_key))
		failed = "the private key";
	OPENSSL_cleanse(config->ssl_key, strlen(config->ssl_key));
	if (failed != NULL)
	{
		log_message("WARNING", "could not use %s for TLS: %s", failed, reason());
		SSL_CTX_free(context);
		return false;
	}
	SSL_CTX_free(current);
	current = context;
	return true;
}

/* What a connection is to be made with; NULL before there is a certificate */
SSL_CTX *
certificate_context(void)
{
	return current;
}
