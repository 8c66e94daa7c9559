/*-------------------------------------------------------------------------
 *
 * keyring.c
 *	  The secret and the keys that tokens are verified with.
 *
 * They come from rtsync.jwt_secret or rtsync.jwt_secret_file, and from
 * rtsync.jwt_jwks_file.  All are read when they are first needed and again
 * when the configuration is reloaded, so that keys are rotated without a
 * restart.  A file that cannot be read does not lock everybody out: what was
 * read before stays in force, and the log says why.
 *
 * Each key that verified a token has a number (credential.c), and one that is
 * not there any more is revoked.
 *
 * Secrets and keys are never logged.
 *
 * Used by token.c in the engine, in a transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/crypto.h>
#include <sys/stat.h>

#include "storage/fd.h"
#include "utils/memutils.h"

#include "engine/attempt.h"
#include "engine/credential.h"
#include "engine/keyring.h"
#include "engine/settings.h"

#define MAX_SECRET_SIZE (64 * 1024)
#define MAX_JWKS_SIZE (1024 * 1024)

/* A shorter secret is weaker than the hash */
#define GOOD_SECRET_SIZE 32

static bool loaded = false;
static char *secret = NULL;
static Size secret_length = 0;
static uint64 secret_number = 0;	/* 0: it verified nothing yet */
static JwkSet *key_set = NULL;

/*
 * The content of a file of at most "max" bytes, relative to the data
 * directory; NULL if it cannot be read, which is logged.  The memory is in the
 * current context.
 */
static char *
read_file(const char *path, Size max, Size *length)
{
	FILE	   *file = AllocateFile(path, "rb");
	char	   *buffer;

	*length = 0;
	if (file == NULL)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
		return NULL;
	}
	buffer = palloc(max + 1);
	*length = fread(buffer, 1, max + 1, file);
	if (ferror(file) || *length > max)
	{
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("could not read file \"%s\"", path),
				 *length > max ? errdetail("It is larger than %zu bytes.", max) : 0));
		pfree(buffer);
		buffer = NULL;
	}
	FreeFile(file);
	return buffer;
}

/*--------------------------------------------------------------------------
 * The secret
 *--------------------------------------------------------------------------
 */

static void
warn_if_others_have_access(const char *path)
{
	struct stat status;

	if (stat(path, &status) == 0 &&
		(status.st_mode & (S_IRWXO | S_IWGRP)) != 0)
		ereport(LOG,
				(errmsg("file \"%s\" holds the secret for tokens, and others have access to it",
						path)));
}

/* The file's content without the line end; NULL if it cannot be read. */
static char *
read_secret_file(const char *path, Size *length)
{
	char	   *buffer = read_file(path, MAX_SECRET_SIZE, length);

	if (buffer == NULL)
		return NULL;
	warn_if_others_have_access(path);
	while (*length > 0 &&
		   (buffer[*length - 1] == '\n' || buffer[*length - 1] == '\r'))
		(*length)--;
	return buffer;
}

static void
forget_secret(void)
{
	if (secret == NULL)
		return;
	if (secret_number != 0)
		credential_revoke(secret_number, CREDENTIAL_TOKEN_KEY);
	OPENSSL_cleanse(secret, secret_length);
	pfree(secret);
	secret = NULL;
	secret_length = 0;
	secret_number = 0;
}

/* The file counts if both are set: the setting may be readable by others. */
static void
load_secret(void)
{
	char	   *value = rtsync_jwt_secret;
	Size		length = value != NULL ? strlen(value) : 0;

	if (rtsync_jwt_secret_file != NULL && rtsync_jwt_secret_file[0] != '\0')
	{
		value = read_secret_file(rtsync_jwt_secret_file, &length);
		if (value == NULL)
		{
			if (secret != NULL)
				ereport(LOG,
						(errmsg("the secret that was read before stays in force")));
			return;
		}
	}
	if (secret != NULL && length == secret_length &&
		CRYPTO_memcmp(secret, value, length) == 0)
		return;
	forget_secret();
	if (length == 0)
		return;
	if (length < GOOD_SECRET_SIZE)
		ereport(LOG,
				(errmsg("the secret for tokens is shorter than %d bytes, and may be guessed",
						GOOD_SECRET_SIZE)));
	secret = MemoryContextAlloc(TopMemoryContext, length);
	memcpy(secret, value, length);
	secret_length = length;
}

/*--------------------------------------------------------------------------
 * The key set
 *--------------------------------------------------------------------------
 */

typedef struct SetAttempt
{
	const char *text;
	Size		length;
	JwkSet	   *set;			/* result, or NULL and why */
	const char *problem;
	int			skipped;
} SetAttempt;

static void
attempt_set(void *arg)
{
	SetAttempt *what = arg;

	what->set = jwk_parse_set(what->text, what->length, &what->problem,
							  &what->skipped);
}

static void
revoke_key(uint64 number)
{
	credential_revoke(number, CREDENTIAL_TOKEN_KEY);
}

static void
replace_key_set(JwkSet *set)
{
	jwk_succeed(set, key_set, revoke_key);
	jwk_free(key_set);
	key_set = set;
}

static void
load_key_set(void)
{
	const char *path = rtsync_jwt_jwks_file;
	SetAttempt	what = {0};
	ErrorData  *error;

	if (path == NULL || path[0] == '\0')
	{
		replace_key_set(NULL);
		return;
	}
	what.text = read_file(path, MAX_JWKS_SIZE, &what.length);
	if (what.text != NULL)
	{
		/* a database that is not in UTF-8 may not like what is in it */
		error = attempt(attempt_set, &what);
		if (error != NULL)
			what.problem = error->message;
		if (what.set == NULL)
			ereport(LOG,
					(errcode(ERRCODE_CONFIG_FILE_ERROR),
					 errmsg("could not read keys from file \"%s\"", path),
					 errdetail_internal("%s", what.problem)));
	}
	if (what.set == NULL)
	{
		if (key_set != NULL)
			ereport(LOG,
					(errmsg("the keys that were read before stay in force")));
		return;
	}
	ereport(LOG,
			(errmsg("read %d keys for tokens from file \"%s\"",
					jwk_count(what.set), path),
			 what.skipped > 0 ?
			 errdetail_plural("%d other is of no use here.",
							  "%d others are of no use here.",
							  what.skipped, what.skipped) : 0));
	replace_key_set(what.set);
}

/*--------------------------------------------------------------------------
 * Both
 *--------------------------------------------------------------------------
 */

/*
 * Read the secret and the keys anew.  Needs a transaction; raises no error for
 * what is wrong with them.
 */
void
keyring_reload(void)
{
	load_secret();
	load_key_set();
	loaded = true;
	if (secret == NULL && key_set == NULL)
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("no token can be verified because there is no secret"),
				 errhint("Set \"rtsync.jwt_secret_file\", \"rtsync.jwt_secret\" or \"rtsync.jwt_jwks_file\".")));
}

/*
 * Is the token's signature right?  If so, *number is what credential.c calls
 * the key.
 */
JwkVerdict
keyring_verify(const Jwt *jwt, uint64 *number)
{
	uint64	   *noted;
	JwkVerdict	verdict;

	if (!loaded)
		keyring_reload();
	verdict = jwk_verify(key_set, secret, secret_length, jwt, &noted);
	if (verdict != JWK_GOOD)
		return verdict;
	if (noted == NULL)
		noted = &secret_number;
	if (*noted == 0)
		*noted = credential_number();
	*number = *noted;
	return JWK_GOOD;
}
