/*-------------------------------------------------------------------------
 *
 * token.h
 *	  JSON Web Tokens: who a client is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_TOKEN_H
#define RTSYNC_TOKEN_H

#include "postgres.h"

/* What a valid token says; strings in the memory context of the call */
typedef struct Token
{
	Oid			roleid;
	char	   *rolename;
	char	   *claims;			/* the payload's JSON text, in the server's
								 * encoding */
	int64		expires;		/* seconds of the Unix epoch; 0: never */
	uint64		key;			/* credential.c's number of the API key, or of
								 * what the token is signed with */
} Token;

/* The texts of the protocol for each way in which a token can be wrong; the
 * reason of a refused join is "code: message" */
typedef struct TokenError
{
	const char *code;			/* "InvalidJWTToken", "MalformedJWT", ... */
	char	   *message;		/* "Token has expired 3 seconds ago", ... */
	const char *handshake;		/* the handshake's text, "Token has expired" */
} TokenError;

extern bool token_verify(const char *data, Size length, Token *token,
						 TokenError *error);
extern bool token_check(const char *data, Size length, Token *token,
						TokenError *error);

extern bool token_role_allowed(const char *rolename, Oid roleid);

#endif							/* RTSYNC_TOKEN_H */
