/*-------------------------------------------------------------------------
 *
 * token.c
 *	  JSON Web Tokens: is it ours, is it good now, and for which role?
 *
 * A token is HEADER.PAYLOAD.SIGNATURE, each part in base64url.  It is accepted
 * if
 *	  - the header says "alg": "HS256", and asks for no extension ("crit");
 *	  - the signature is the HMAC-SHA-256 of HEADER.PAYLOAD under our secret;
 *	  - the payload is a JSON object whose "exp" is in the future, whose "nbf",
 *		if there is one, is not, and whose "iat", if there is one, is a number;
 *	  - its "role" is a role that has been granted to rtsync_authenticator,
 *		directly or not, and is no superuser.
 *
 * The bytes come from anybody.  Nothing of the payload is looked at before the
 * signature has been found right, and until then every answer depends on the
 * token alone, not on which roles or secrets there are.  Sizes and nesting are
 * limited before the JSON parser sees the text, so that it raises no error; in
 * a database whose encoding is not UTF-8 it may, and runs in a subtransaction.
 * A name that appears twice in an object is refused: readers disagree on which
 * value counts.
 *
 * Tokens, payloads and keys are never logged.
 *
 * Called by subscription.c, in a transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/stat.h>
#include <time.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/settings.h"
#include "engine/token.h"

#define AUTHENTICATOR "rtsync_authenticator"

#define MAX_TOKEN_SIZE (16 * 1024)
#define MAX_HEADER_SIZE 2048
#define MAX_SECRET_SIZE (64 * 1024)
#define MAX_JSON_DEPTH 64
#define MAX_NUMBER_DIGITS 1000
#define MAX_NUMBER_EXPONENT 1000

#define SIGNATURE_SIZE 32

/* "nbf" may be this much ahead of our clock; "exp" has no such grace */
#define CLOCK_SKEW_SECONDS 5

/* A role that may not connect is logged this often, at most */
#define ROLE_LOG_INTERVAL_MS 60000

typedef struct Fault
{
	const char *code;
	const char *message;
	const char *handshake;
} Fault;

static const Fault malformed = {
	"MalformedJWT", "The token provided is not a valid JWT",
	"The token provided is not a valid JWT"
};
static const Fault wrong_signature = {
	"JwtSignatureError", "Failed to validate JWT signature",
	"Failed to validate JWT signature"
};
static const Fault no_signer = {
	"JwtSignerError",
	"Failed to generate JWT signer, check your JWT secret or JWKS configuration",
	"Failed to generate JWT signer, check your JWT secret or JWKS configuration"
};
static const Fault missing_claims = {
	"InvalidJWTToken", "Fields `role` and `exp` are required in JWT",
	"Fields `role` and `exp` are required in JWT"
};
static const Fault expired = {
	"InvalidJWTToken", "Token has expired " INT64_FORMAT " seconds ago",
	"Token has expired"
};
static const Fault bad_expiry = {
	"InvalidJWTToken", "Token expiration time is invalid",
	"The token provided is not a valid JWT"
};
static const Fault not_yet_valid = {
	"InvalidJWTToken", "Token is not valid yet",
	"Token is not valid yet"
};
static const Fault role_refused = {
	"Unauthorized", "The role of the token is not allowed to connect",
	"The role of the token is not allowed to connect"
};

/* A part of the token, decoded */
typedef struct Bytes
{
	char	   *data;			/* terminated, though it may hold NULs */
	Size		length;
} Bytes;

/* A member of a JSON object */
typedef struct Member
{
	char	   *name;
	JsonTokenType type;			/* JSON_TOKEN_INVALID: an object or array */
	char	   *value;			/* a string without its escapes, or a number */
} Member;

typedef struct Members
{
	List	   *list;
	int			depth;
	bool		is_object;
	bool		invalid;		/* a name twice, or a number out of range */
} Members;

static char *secret = NULL;
static Size secret_length = 0;
static bool secret_loaded = false;
static TimestampTz role_logged = 0;

static bool refuse(TokenError *error, const Fault *fault);
static bool split_token(char *token, Bytes *header, Bytes *payload,
						Bytes *signature, Size *signed_length);
static char *clean_token(const char *data, Size length);
static bool decode_part(const char *text, Size length, Bytes *result);
static bool check_header(const Bytes *header, TokenError *error);
static bool check_signature(const char *text, Size length,
							const Bytes *signature, TokenError *error);
static bool check_payload(const Bytes *payload, Token *token,
						  TokenError *error);
static bool check_times(const Members *members, Token *token,
						TokenError *error);
static bool check_role(Token *token, TokenError *error);
static void log_refused_role(const char *rolename, const char *reason);
static bool parse_object(const Bytes *text, Members *members, char **converted);
static bool parse_object_unguarded(const Bytes *text, Members *members,
								   char **converted);
static bool nested_too_deeply(const Bytes *text);
static bool number_in_range(const char *number);
static const Member *find_member(const Members *members, const char *name);
static bool member_time(const Member *member, int64 *result);
static void load_secret(void);
static char *read_secret_file(const char *path, Size *length);

/*
 * Is this a good token?  On success fills *token, else *error.  Raises no
 * error for anything that the token holds.
 */
bool
token_verify(const char *data, Size length, Token *token, TokenError *error)
{
	char	   *cleaned;
	Bytes		header;
	Bytes		payload;
	Bytes		signature;
	Size		signed_length;

	memset(token, 0, sizeof(*token));
	memset(error, 0, sizeof(*error));

	if (length > MAX_TOKEN_SIZE)
		return refuse(error, &malformed);
	cleaned = clean_token(data, length);
	if (cleaned == NULL ||
		!split_token(cleaned, &header, &payload, &signature, &signed_length))
		return refuse(error, &malformed);

	return check_header(&header, error) &&
		check_signature(cleaned, signed_length, &signature, error) &&
		check_payload(&payload, token, error) &&
		check_role(token, error);
}

void
token_reload(void)
{
	secret_loaded = false;
}

static bool
refuse(TokenError *error, const Fault *fault)
{
	error->code = fault->code;
	error->message = pstrdup(fault->message);
	error->handshake = fault->handshake;
	return false;
}

/*--------------------------------------------------------------------------
 * The outer form
 *--------------------------------------------------------------------------
 */

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Undo URL-encoding and remove white space; NULL if it cannot be a token. */
static char *
clean_token(const char *data, Size length)
{
	char	   *result = palloc(length + 1);
	char	   *to = result;

	for (Size i = 0; i < length; i++)
	{
		char		c = data[i];

		if (c == '%')
		{
			int			high = i + 2 < length ? hex_digit(data[i + 1]) : -1;
			int			low = i + 2 < length ? hex_digit(data[i + 2]) : -1;

			if (high < 0 || low < 0)
				return NULL;
			c = (char) (high * 16 + low);
			i += 2;
		}
		if (c == '\0')
			return NULL;
		if (c != ' ' && !(c >= '\t' && c <= '\r'))
			*to++ = c;
	}
	*to = '\0';
	return result;
}

/* Take the three parts apart and decode them. */
static bool
split_token(char *token, Bytes *header, Bytes *payload, Bytes *signature,
			Size *signed_length)
{
	char	   *first = strchr(token, '.');
	char	   *second = first ? strchr(first + 1, '.') : NULL;

	if (second == NULL || strchr(second + 1, '.') != NULL)
		return false;
	*signed_length = second - token;
	return decode_part(token, first - token, header) &&
		decode_part(first + 1, second - first - 1, payload) &&
		decode_part(second + 1, strlen(second + 1), signature) &&
		header->length <= MAX_HEADER_SIZE &&
		signature->length == SIGNATURE_SIZE;
}

static int
base64url_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/*
 * Decode base64url as RFC 7515 has it: no padding, no other characters.  Bits
 * left over must be zero, so that a token has one spelling only.
 */
static bool
decode_part(const char *text, Size length, Bytes *result)
{
	uint32		bits = 0;
	int			nbits = 0;

	if (length == 0 || length % 4 == 1)
		return false;
	result->data = palloc(length * 3 / 4 + 1);
	result->length = 0;
	for (Size i = 0; i < length; i++)
	{
		int			digit = base64url_digit(text[i]);

		if (digit < 0)
			return false;
		bits = (bits << 6) | digit;
		nbits += 6;
		if (nbits >= 8)
		{
			nbits -= 8;
			result->data[result->length++] = (char) (bits >> nbits);
			bits &= (1 << nbits) - 1;
		}
	}
	result->data[result->length] = '\0';
	return bits == 0;
}

/*--------------------------------------------------------------------------
 * Header and signature
 *--------------------------------------------------------------------------
 */

static bool
check_header(const Bytes *header, TokenError *error)
{
	Members		members;
	char	   *unused;
	const Member *algorithm;

	if (!parse_object(header, &members, &unused) ||
		find_member(&members, "crit") != NULL)
		return refuse(error, &malformed);
	algorithm = find_member(&members, "alg");
	if (algorithm == NULL || algorithm->type != JSON_TOKEN_STRING)
		return refuse(error, &malformed);

	/* never what the token would like, always what we were set up for */
	if (strcmp(algorithm->value, "HS256") != 0)
		return refuse(error, &no_signer);
	return true;
}

static bool
check_signature(const char *text, Size length, const Bytes *signature,
				TokenError *error)
{
	unsigned char expected[EVP_MAX_MD_SIZE];
	unsigned int expected_length = 0;
	bool		equal;

	if (!secret_loaded)
		load_secret();
	if (secret == NULL ||
		HMAC(EVP_sha256(), secret, (int) secret_length,
			 (const unsigned char *) text, length,
			 expected, &expected_length) == NULL ||
		expected_length != SIGNATURE_SIZE)
		return refuse(error, &no_signer);

	equal = CRYPTO_memcmp(expected, signature->data, SIGNATURE_SIZE) == 0;
	OPENSSL_cleanse(expected, sizeof(expected));
	return equal || refuse(error, &wrong_signature);
}

/* The file counts if both are set: the setting may be readable by others. */
static void
load_secret(void)
{
	char	   *value = NULL;
	Size		length = 0;

	if (secret != NULL)
	{
		OPENSSL_cleanse(secret, secret_length);
		pfree(secret);
		secret = NULL;
	}
	secret_loaded = true;

	if (rtsync_jwt_secret_file != NULL && rtsync_jwt_secret_file[0] != '\0')
		value = read_secret_file(rtsync_jwt_secret_file, &length);
	else if (rtsync_jwt_secret != NULL)
	{
		value = rtsync_jwt_secret;
		length = strlen(value);
	}

	if (length == 0)
	{
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("no token can be verified because there is no secret"),
				 errhint("Set \"rtsync.jwt_secret_file\" or \"rtsync.jwt_secret\".")));
		return;
	}
	if (length < SIGNATURE_SIZE)
		ereport(LOG,
				(errmsg("the secret for tokens is shorter than %d bytes, and may be guessed",
						SIGNATURE_SIZE)));
	secret = MemoryContextAlloc(TopMemoryContext, length);
	memcpy(secret, value, length);
	secret_length = length;
}

/* The file's content without the line end; relative to the data directory. */
static char *
read_secret_file(const char *path, Size *length)
{
	FILE	   *file = AllocateFile(path, "rb");
	char	   *buffer = palloc(MAX_SECRET_SIZE + 1);
	struct stat status;

	*length = 0;
	if (file == NULL)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
		return NULL;
	}
	if (fstat(fileno(file), &status) == 0 &&
		(status.st_mode & (S_IRWXO | S_IWGRP)) != 0)
		ereport(LOG,
				(errmsg("file \"%s\" holds the secret for tokens, and others have access to it",
						path)));
	*length = fread(buffer, 1, MAX_SECRET_SIZE + 1, file);
	if (ferror(file) || *length > MAX_SECRET_SIZE)
	{
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("could not read a secret from file \"%s\"", path)));
		*length = 0;
	}
	FreeFile(file);
	while (*length > 0 &&
		   (buffer[*length - 1] == '\n' || buffer[*length - 1] == '\r'))
		(*length)--;
	return buffer;
}

/*--------------------------------------------------------------------------
 * Payload
 *--------------------------------------------------------------------------
 */

static bool
check_payload(const Bytes *payload, Token *token, TokenError *error)
{
	Members		members;
	const Member *role;

	if (!parse_object(payload, &members, &token->claims))
		return refuse(error, &malformed);

	role = find_member(&members, "role");
	if (role == NULL || role->type != JSON_TOKEN_STRING ||
		role->value[0] == '\0' || find_member(&members, "exp") == NULL)
		return refuse(error, &missing_claims);
	token->rolename = role->value;
	return check_times(&members, token, error);
}

static bool
check_times(const Members *members, Token *token, TokenError *error)
{
	const Member *not_before = find_member(members, "nbf");
	const Member *issued = find_member(members, "iat");
	int64		now = (int64) time(NULL);
	int64		seconds;

	if (!member_time(find_member(members, "exp"), &token->expires))
		return refuse(error, &bad_expiry);
	if (issued != NULL && !member_time(issued, &seconds))
		return refuse(error, &malformed);
	if (not_before != NULL && !member_time(not_before, &seconds))
		return refuse(error, &malformed);

	if (token->expires <= now)
	{
		(void) refuse(error, &expired);
		error->message = psprintf(expired.message, now - token->expires);
		return false;
	}
	if (not_before != NULL && seconds > now + CLOCK_SKEW_SECONDS)
		return refuse(error, &not_yet_valid);
	return true;
}

/* Why tokens for this role are refused, or NULL and the role's Oid */
static const char *
role_fault(const char *rolename, Oid *roleid)
{
	Oid			authenticator = get_role_oid(AUTHENTICATOR, true);

	*roleid = strlen(rolename) < NAMEDATALEN ?
		get_role_oid(rolename, true) : InvalidOid;
	if (!OidIsValid(authenticator))
		return "role \"" AUTHENTICATOR "\" does not exist";
	if (!OidIsValid(*roleid))
		return "it does not exist";
	if (superuser_arg(*roleid))
		return "it is a superuser";
	if (*roleid == authenticator ||
		!is_member_of_role_nosuper(authenticator, *roleid))
		return "it has not been granted to \"" AUTHENTICATOR "\"";
	return NULL;
}

/*
 * The same answer for a role that does not exist, was not granted, or is too
 * powerful.
 */
static bool
check_role(Token *token, TokenError *error)
{
	const char *fault = role_fault(token->rolename, &token->roleid);

	if (fault == NULL)
		return true;
	log_refused_role(token->rolename, fault);
	return refuse(error, &role_refused);
}

/*
 * Would a token for this role still be accepted, as far as the role goes?
 * Needs a transaction.
 */
bool
token_role_allowed(const char *rolename, Oid roleid)
{
	Oid			now;

	return role_fault(rolename, &now) == NULL && now == roleid;
}

/* The operator's only way to learn what the client is not told. */
static void
log_refused_role(const char *rolename, const char *reason)
{
	TimestampTz now = GetCurrentTimestamp();

	if (role_logged != 0 &&
		!TimestampDifferenceExceeds(role_logged, now, ROLE_LOG_INTERVAL_MS))
		return;
	role_logged = now;
	ereport(LOG,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("refused a valid token for role \"%s\"",
					pnstrdup(rolename, NAMEDATALEN)),
			 errdetail_internal("Reason: %s.", reason)));
}

/*--------------------------------------------------------------------------
 * JSON
 *--------------------------------------------------------------------------
 */

static const Member *
find_member(const Members *members, const char *name)
{
	ListCell   *lc;

	foreach(lc, members->list)
	{
		const Member *member = lfirst(lc);

		if (strcmp(member->name, name) == 0)
			return member;
	}
	return NULL;
}

/* A point in time as the number of seconds since 1970. */
static bool
member_time(const Member *member, int64 *result)
{
	double		value;

	if (member->type != JSON_TOKEN_NUMBER)
		return false;
	value = rint(strtod(member->value, NULL));
	if (!(value > -1e15 && value < 1e15))
		return false;
	*result = (int64) value;
	return true;
}

/*
 * Collect the members of a JSON object that is valid as jsonb; *converted is
 * the text in the server's encoding.  False for anything else.
 */
static bool
parse_object(const Bytes *text, Members *members, char **converted)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool result = false;

	if (GetDatabaseEncoding() == PG_UTF8)
		return parse_object_unguarded(text, members, converted);

	/* characters that the server's encoding lacks raise errors */
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		result = parse_object_unguarded(text, members, converted);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		result = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return result;
}

static CompatJsonResult
open_cb(void *state)
{
	Members    *members = state;

	members->depth++;
	COMPAT_JSON_RETURN;
}

static CompatJsonResult
open_object_cb(void *state)
{
	Members    *members = state;

	if (members->depth == 0)
		members->is_object = true;
	members->depth++;
	COMPAT_JSON_RETURN;
}

static CompatJsonResult
close_cb(void *state)
{
	Members    *members = state;

	members->depth--;
	COMPAT_JSON_RETURN;
}

static CompatJsonResult
field_cb(void *state, char *name, bool isnull)
{
	Members    *members = state;

	if (members->depth == 1)
	{
		Member	   *member = palloc0(sizeof(Member));

		if (find_member(members, name) != NULL)
			members->invalid = true;
		member->name = name;
		member->type = JSON_TOKEN_INVALID;
		members->list = lappend(members->list, member);
	}
	COMPAT_JSON_RETURN;
}

static CompatJsonResult
scalar_cb(void *state, char *value, JsonTokenType type)
{
	Members    *members = state;

	if (type == JSON_TOKEN_NUMBER && !number_in_range(value))
		members->invalid = true;
	if (members->depth == 1 && members->list != NIL)
	{
		Member	   *member = llast(members->list);

		member->type = type;
		member->value = value;
	}
	COMPAT_JSON_RETURN;
}

static bool
parse_object_unguarded(const Bytes *text, Members *members, char **converted)
{
	JsonSemAction actions = {
		.semstate = members,
		.object_start = open_object_cb,
		.object_end = close_cb,
		.array_start = open_cb,
		.array_end = close_cb,
		.object_field_start = field_cb,
		.scalar = scalar_cb
	};

	memset(members, 0, sizeof(*members));
	if (text->length == 0 || nested_too_deeply(text) ||
		pg_encoding_verifymbstr(PG_UTF8, text->data,
								(int) text->length) != (int) text->length)
		return false;
	if (pg_parse_json(compat_json_lex(text->data, text->length),
					  &actions) != JSON_SUCCESS)
		return false;
	if (!members->is_object || members->invalid)
		return false;
	*converted = pg_any_to_server(text->data, (int) text->length, PG_UTF8);
	return true;
}

/* Looks at brackets outside strings, well-formed or not. */
static bool
nested_too_deeply(const Bytes *text)
{
	int			depth = 0;
	bool		quoted = false;

	for (Size i = 0; i < text->length; i++)
	{
		char		c = text->data[i];

		if (quoted && c == '\\')
			i++;
		else if (c == '"')
			quoted = !quoted;
		else if (quoted)
			continue;
		else if ((c == '{' || c == '[') && ++depth > MAX_JSON_DEPTH)
			return true;
		else if (c == '}' || c == ']')
			depth--;
	}
	return false;
}

/* Does numeric, as which jsonb keeps it, have room for this JSON number? */
static bool
number_in_range(const char *number)
{
	const char *exponent = strpbrk(number, "eE");
	Size		digits = exponent ? exponent - number : strlen(number);

	if (digits > MAX_NUMBER_DIGITS)
		return false;
	if (exponent == NULL)
		return true;
	return strlen(exponent + 1) <= 5 &&
		abs(atoi(exponent + 1)) <= MAX_NUMBER_EXPONENT;
}
