/*-------------------------------------------------------------------------
 *
 * certificate.c
 *	  The certificate and key that the gateway shows to its clients.
 *
 * Read from the server's own files, or from those that rtsync's settings name,
 * at the engine's start and at each reload.  The rules are the server's: a key
 * that others can read is refused, and an encrypted one is opened with the
 * passphrase that ssl_passphrase_command gives, at a reload only if
 * ssl_passphrase_command_supports_reload allows for it.
 *
 * The key leaves this file decrypted, as text for the gateway; what can be
 * found wrong with it without speaking TLS is found here.  Both texts are in
 * malloc'd memory, since they outlive everything but the process.
 *
 * Used by engine.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "storage/fd.h"
#include "utils/guc.h"

#include "engine/certificate.h"
#include "engine/compat.h"
#include "engine/settings.h"

/* Larger files are neither certificates nor keys. */
#define MAX_FILE_SIZE (256 * 1024)

#define PASSPHRASE_SIZE 1024

static char *chain = NULL;
static char *key = NULL;

/* May ssl_passphrase_command be run, and was it wanted? */
typedef struct Passphrase
{
	bool		allowed;
	bool		refused;
} Passphrase;

static const char *
server_setting(const char *name)
{
	const char *value = GetConfigOption(name, true, false);

	return value != NULL ? value : "";
}

/* The setting of ours, or else the server's */
static const char *
file_name(const char *ours, const char *servers)
{
	return ours[0] != '\0' ? ours : server_setting(servers);
}

/* Why OpenSSL failed; nothing of it is left in its queue. */
static const char *
openssl_reason(void)
{
	const char *text = ERR_reason_error_string(ERR_peek_error());

	ERR_clear_error();
	return text != NULL ? text : "it is not in PEM format";
}

/* Forget what may be a key. */
static void
forget(char *text)
{
	if (text == NULL)
		return;
	OPENSSL_cleanse(text, strlen(text));
	free(text);
}

/* The whole file as a malloc'd string; NULL with *why if it cannot be read */
static char *
read_file(const char *name, const char *what, char **why)
{
	char	   *text = malloc(MAX_FILE_SIZE + 1);
	FILE	   *file = AllocateFile(name, PG_BINARY_R);
	size_t		length = 0;

	if (file == NULL || text == NULL)
		*why = psprintf("could not open %s file \"%s\": %m", what, name);
	else
	{
		length = fread(text, 1, MAX_FILE_SIZE, file);
		if (ferror(file))
			*why = psprintf("could not read %s file \"%s\": %m", what, name);
		else if (length == MAX_FILE_SIZE)
			*why = psprintf("%s file \"%s\" is too large", what, name);
	}
	if (file != NULL)
		FreeFile(file);
	if (*why != NULL)
	{
		free(text);
		return NULL;
	}
	text[length] = '\0';
	return text;
}

/* OpenSSL's callback: the passphrase of an encrypted key */
static int
passphrase_cb(char *buf, int size, int rwflag, void *arg)
{
	Passphrase *passphrase = arg;

	/* without a command we would have to ask on a terminal, and have none */
	if (!passphrase->allowed || server_setting("ssl_passphrase_command")[0] == '\0')
	{
		passphrase->refused = true;
		return -1;
	}
	return run_ssl_passphrase_command("Enter PEM pass phrase:", false, buf,
									  Min(size, PASSPHRASE_SIZE));
}

/* The key as text that is not encrypted, malloc'd; NULL if that fails */
static char *
decrypted(EVP_PKEY *pkey)
{
	BIO		   *bio = BIO_new(BIO_s_secmem());
	char	   *text = NULL;
	char	   *data;
	long		length;

	if (PEM_write_bio_PKCS8PrivateKey(bio, pkey, NULL, NULL, 0, NULL, NULL) == 1)
	{
		length = BIO_get_mem_data(bio, &data);
		text = malloc(length + 1);
		if (text != NULL)
		{
			memcpy(text, data, length);
			text[length] = '\0';
		}
	}
	BIO_free(bio);
	return text;
}

/*
 * Read a key that fits the certificate.  NULL with *why, and perhaps *hint, if
 * there is none.
 */
static char *
read_key(const char *name, const char *certificate_text, bool allowed,
		 char **why, const char **hint)
{
	char	   *encrypted;
	char	   *text = NULL;
	Passphrase	passphrase = {.allowed = allowed};
	BIO		   *bio;
	X509	   *certificate;
	EVP_PKEY   *pkey;

	if (!check_ssl_key_file_permissions(name, false))
	{
		/* the server's function has logged more about it */
		*why = psprintf("private key file \"%s\" cannot be used", name);
		*hint = "It must be a file of the server's user that nobody else can read; the log says more.";
		return NULL;
	}
	encrypted = read_file(name, "private key", why);
	if (encrypted == NULL)
		return NULL;
	bio = BIO_new_mem_buf(certificate_text, -1);
	certificate = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL);
	BIO_free(bio);
	bio = BIO_new_mem_buf(encrypted, -1);
	pkey = PEM_read_bio_PrivateKey(bio, NULL, passphrase_cb, &passphrase);
	BIO_free(bio);

	if (pkey == NULL && passphrase.refused)
	{
		*why = psprintf("private key file \"%s\" needs a passphrase", name);
		*hint = allowed ? "Set \"ssl_passphrase_command\"." :
			"Set \"ssl_passphrase_command_supports_reload\" if \"ssl_passphrase_command\" needs no terminal.";
		ERR_clear_error();
	}
	else if (pkey == NULL)
		*why = psprintf("could not load private key file \"%s\": %s",
						name, openssl_reason());
	else if (certificate == NULL || X509_check_private_key(certificate, pkey) != 1)
		*why = psprintf("private key file \"%s\" does not fit the certificate: %s",
						name, openssl_reason());
	else
	{
		text = decrypted(pkey);
		if (text == NULL)
			*why = psprintf("could not load private key file \"%s\": %s",
							name, openssl_reason());
	}
	EVP_PKEY_free(pkey);
	X509_free(certificate);
	forget(encrypted);
	return text;
}

/* Read a certificate, with those that it is signed by. */
static char *
read_chain(const char *name, char **why)
{
	char	   *text = read_file(name, "certificate", why);
	BIO		   *bio;
	X509	   *certificate;

	if (text == NULL)
		return NULL;
	bio = BIO_new_mem_buf(text, -1);
	certificate = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL);
	BIO_free(bio);
	if (certificate == NULL)
	{
		*why = psprintf("could not load certificate file \"%s\": %s",
						name, openssl_reason());
		free(text);
		return NULL;
	}
	X509_free(certificate);
	return text;
}

/* See certificate.h */
bool
certificate_load(bool reload, char **why, const char **hint)
{
	bool		allowed = !reload ||
		strcmp(server_setting("ssl_passphrase_command_supports_reload"), "on") == 0;
	char	   *new_chain;
	char	   *new_key;

	*why = NULL;
	*hint = NULL;
	if (!rtsync_ssl)
	{
		free(chain);
		forget(key);
		chain = key = NULL;
		return true;
	}
	if (strcmp(certificate_max_protocol(), "TLSv1") == 0 ||
		strcmp(certificate_max_protocol(), "TLSv1.1") == 0)
	{
		*why = psprintf("rtsync speaks TLS 1.2 at least, but \"ssl_max_protocol_version\" is %s",
						certificate_max_protocol());
		*hint = "Set \"rtsync.ssl_max_protocol_version\".";
		return false;
	}
	new_chain = read_chain(file_name(rtsync_ssl_cert_file, "ssl_cert_file"), why);
	if (new_chain == NULL)
		return false;
	new_key = read_key(file_name(rtsync_ssl_key_file, "ssl_key_file"), new_chain,
					   allowed, why, hint);
	if (new_key == NULL)
	{
		free(new_chain);
		return false;
	}
	free(chain);
	forget(key);
	chain = new_chain;
	key = new_key;
	return true;
}

/* See certificate.h */
const char *
certificate_chain(void)
{
	return chain;
}

/* See certificate.h */
const char *
certificate_key(void)
{
	return key;
}

/* See certificate.h */
const char *
certificate_ciphers(void)
{
	return server_setting("ssl_ciphers");
}

/* See certificate.h */
const char *
certificate_min_protocol(void)
{
	return file_name(GetConfigOption("rtsync.ssl_min_protocol_version", false, false),
					 "ssl_min_protocol_version");
}

/* See certificate.h */
const char *
certificate_max_protocol(void)
{
	return file_name(GetConfigOption("rtsync.ssl_max_protocol_version", false, false),
					 "ssl_max_protocol_version");
}
