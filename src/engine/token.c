/*-------------------------------------------------------------------------
 *
 * token.c
 *	  Tokens: is it ours, is it good now, and for which role?
 *
 * A token (RFC 7519) is accepted if
 *	  - it has the form of one (jwt.c) and asks for no extension;
 *	  - its signature is right under the key that its header names, with the
 *		algorithm that this key is for (keyring.c, jwk.c);
 *	  - the payload is a JSON object whose "exp" is in the future, whose "nbf",
 *		if there is one, is not, and whose "iat", if there is one, is a number;
 *	  - "aud" and "iss" are those of rtsync.jwt_audience and rtsync.jwt_issuer,
 *		if these are set;
 *	  - its "role" is a role that has been granted to rtsync_authenticator,
 *		directly or not, and is no superuser.
 *
 * Instead of one there may be an API key, or nothing (apikey.c): these stand
 * for a role, and have no claim but that.
 *
 * The bytes come from anybody.  Nothing of the payload is looked at before the
 * signature has been found right, and until then every answer depends on the
 * token alone, not on which roles or secrets there are.  The size is limited
 * before anything else happens, and JSON is parsed by jsontree.c, so that no
 * error is raised; in a database whose encoding is not UTF-8 one may be, and
 * the parsing runs in a subtransaction.
 *
 * Tokens, payloads and keys are never logged.
 *
 * Called by requests.c and join.c, in a transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>
#include <time.h>

#include "catalog/pg_authid.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/json.h"
#include "utils/syscache.h"

#include "engine/apikey.h"
#include "engine/attempt.h"
#include "engine/clock.h"
#include "engine/compat.h"
#include "engine/jsontree.h"
#include "engine/jwt.h"
#include "engine/keyring.h"
#include "engine/settings.h"
#include "engine/token.h"

#define AUTHENTICATOR "rtsync_authenticator"

#define MAX_TOKEN_SIZE (16 * 1024)

/* A longer "kid" is not repeated to the client. */
#define MAX_KID_SHOWN 64

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
static const Fault wrong_audience = {
	"InvalidJWTToken", "The audience of the token is not this server's",
	"The audience of the token is not this server's"
};
static const Fault wrong_issuer = {
	"InvalidJWTToken", "The issuer of the token is not accepted",
	"The issuer of the token is not accepted"
};
static const Fault no_api_key = {
	"Unauthorized", "API key is missing", "API key is missing"
};
static const Fault wrong_api_key = {
	"Unauthorized", "Invalid API key", "Invalid API key"
};
static const Fault role_refused = {
	"Unauthorized", "The role of the token is not allowed to connect",
	"The role of the token is not allowed to connect"
};

static ClockTime role_logged = 0;

static bool refuse(TokenError *error, const Fault *fault);
static bool check_signature(const Jwt *jwt, Token *token, TokenError *error);
static bool check_payload(const JwtBytes *payload, Token *token,
						  TokenError *error);
static bool check_role(Token *token, TokenError *error);

/*--------------------------------------------------------------------------
 * JSON, guarded
 *--------------------------------------------------------------------------
 */

/* Something that parses JSON which a stranger wrote */
typedef struct Parsing
{
	const char *data;
	Size		length;
	Jwt		   *jwt;			/* a token; NULL: JSON text */
	bool		is_jwt;			/* result: */
	JsonTree   *tree;
	char	   *converted;		/* the text in the server's encoding */
} Parsing;

static void
attempt_parsing(void *arg)
{
	Parsing    *what = arg;

	if (what->jwt != NULL)
		what->is_jwt = jwt_parse(what->data, what->length, what->jwt);
	else
	{
		what->tree = jsontree_parse(what->data, what->length);
		if (what->tree != NULL)
			what->converted = pg_any_to_server(what->data, (int) what->length,
											   PG_UTF8);
	}
}

/* Characters that the server's encoding lacks raise errors: no result then. */
static void
parse(Parsing *what)
{
	if (GetDatabaseEncoding() == PG_UTF8)
		attempt_parsing(what);
	else if (attempt(attempt_parsing, what) != NULL)
	{
		what->is_jwt = false;
		what->tree = NULL;
	}
}

/*--------------------------------------------------------------------------
 * Tokens
 *--------------------------------------------------------------------------
 */

/* Whoever has no claims has the one. */
static bool
stand_for(Token *token, const char *rolename, TokenError *error)
{
	StringInfoData claims;

	initStringInfo(&claims);
	appendStringInfoString(&claims, "{\"role\":");
	escape_json(&claims, rolename);
	appendStringInfoChar(&claims, '}');
	token->claims = claims.data;
	token->rolename = pstrdup(rolename);
	return check_role(token, error);
}

/*
 * Who are clients that show nothing?  On success fills *token, else, if there
 * is no role for them, *error.
 */
static bool
stand_for_nobody(Token *token, TokenError *error)
{
	const char *rolename;

	memset(token, 0, sizeof(*token));
	memset(error, 0, sizeof(*error));
	if (!apikey_find_anonymous(&token->key, &rolename))
		return refuse(error, &no_api_key);
	return stand_for(token, rolename, error);
}

/*
 * Is this a good token?  On success fills *token, else *error.  Raises no
 * error for anything that the token holds.
 */
bool
token_verify(const char *data, Size length, Token *token, TokenError *error)
{
	Jwt			jwt;
	Parsing		parsing = {.data = data,.length = length,.jwt = &jwt};

	memset(token, 0, sizeof(*token));
	memset(error, 0, sizeof(*error));

	if (apikey_is_one(data, length))
	{
		const char *rolename;

		if (!apikey_find(data, length, &token->key, &rolename))
			return refuse(error, &wrong_api_key);
		return stand_for(token, rolename, error);
	}
	if (length <= MAX_TOKEN_SIZE)
		parse(&parsing);
	if (!parsing.is_jwt)
		return refuse(error, &malformed);
	return check_signature(&jwt, token, error) &&
		check_payload(&jwt.payload, token, error) &&
		check_role(token, error);
}

static bool
refuse(TokenError *error, const Fault *fault)
{
	error->code = fault->code;
	error->message = pstrdup(fault->message);
	error->handshake = fault->handshake;
	return false;
}

static bool
check_signature(const Jwt *jwt, Token *token, TokenError *error)
{
	JwkVerdict	verdict = keyring_verify(jwt, &token->key);

	if (verdict == JWK_GOOD)
		return true;
	if (verdict == JWK_WRONG_SIGNATURE)
		return refuse(error, &wrong_signature);
	(void) refuse(error, &no_signer);
	if (jwt->kid != NULL && strlen(jwt->kid) <= MAX_KID_SHOWN)
		error->handshake = error->message =
			psprintf("Failed to generate JWT signer for key ID (kid) \"%s\", check your JWT secret or JWKS configuration",
					 jwt->kid);
	return false;
}

/* A point in time as the number of seconds since 1970. */
static bool
get_time(const JsonTree *value, int64 *result)
{
	double		seconds;

	if (value->kind != '0')
		return false;
	seconds = rint(strtod(value->value, NULL));
	if (!(seconds > -1e15 && seconds < 1e15))
		return false;
	*result = (int64) seconds;
	return true;
}

static bool
check_times(const JsonTree *claims, Token *token, TokenError *error)
{
	const JsonTree *not_before = jsontree_member(claims, "nbf");
	const JsonTree *issued = jsontree_member(claims, "iat");
	int64		now = (int64) time(NULL);
	int64		seconds;

	if (!get_time(jsontree_member(claims, "exp"), &token->expires))
		return refuse(error, &bad_expiry);
	if (issued != NULL && !get_time(issued, &seconds))
		return refuse(error, &malformed);
	if (not_before != NULL && !get_time(not_before, &seconds))
		return refuse(error, &malformed);

	token->expires += rtsync_jwt_leeway;
	if (token->expires <= now)
	{
		(void) refuse(error, &expired);
		error->message = psprintf(expired.message, now - token->expires);
		return false;
	}
	if (not_before != NULL && seconds > now + rtsync_jwt_leeway)
		return refuse(error, &not_yet_valid);
	return true;
}

/* Is the claim this string, or a list that has it? */
static bool
claim_has(const JsonTree *claim, const char *string)
{
	if (claim == NULL)
		return false;
	if (claim->kind == 's')
		return strcmp(claim->value, string) == 0;
	for (const JsonTree *one = claim->first;
		 one != NULL && claim->kind == '['; one = one->next)
		if (one->kind == 's' && strcmp(one->value, string) == 0)
			return true;
	return false;
}

/* Is the token for us, and from whom we accept them? */
static bool
check_parties(const JsonTree *claims, TokenError *error)
{
	const char *issuer = jsontree_string(claims, "iss");

	if (rtsync_jwt_audience != NULL && rtsync_jwt_audience[0] != '\0' &&
		!claim_has(jsontree_member(claims, "aud"), rtsync_jwt_audience))
		return refuse(error, &wrong_audience);
	if (rtsync_jwt_issuer != NULL && rtsync_jwt_issuer[0] != '\0' &&
		(issuer == NULL || strcmp(issuer, rtsync_jwt_issuer) != 0))
		return refuse(error, &wrong_issuer);
	return true;
}

/* The payload of a token whose signature is right */
static bool
check_payload(const JwtBytes *payload, Token *token, TokenError *error)
{
	Parsing		parsing = {.data = payload->data,.length = payload->length};
	const char *role;

	parse(&parsing);
	if (parsing.tree == NULL || parsing.tree->kind != '{')
		return refuse(error, &malformed);
	token->claims = parsing.converted;

	role = jsontree_string(parsing.tree, "role");
	if (role == NULL || role[0] == '\0' ||
		jsontree_member(parsing.tree, "exp") == NULL)
		return refuse(error, &missing_claims);
	token->rolename = pstrdup(role);
	return check_times(parsing.tree, token, error) &&
		check_parties(parsing.tree, error);
}

/*--------------------------------------------------------------------------
 * Roles
 *--------------------------------------------------------------------------
 */

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

/* The operator's only way to learn what the client is not told. */
static void
log_refused_role(const char *rolename, const char *reason)
{
	if (!clock_passed(role_logged, ROLE_LOG_INTERVAL_MS))
		return;
	role_logged = clock_now();
	ereport(LOG,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("refused a valid token for role \"%s\"",
					pnstrdup(rolename, NAMEDATALEN)),
			 errdetail_internal("Reason: %s.", reason)));
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

/*
 * Who is a client that shows this token, or nothing at all?  On success fills
 * *token, else *error.  Raises no error for anything that the token holds.
 */
bool
token_check(const char *data, Size length, Token *token, TokenError *error)
{
	if (data == NULL || length == 0)
		return stand_for_nobody(token, error);
	return token_verify(data, length, token, error);
}
