/*-------------------------------------------------------------------------
 *
 * jwt.h
 *	  The form of a JSON Web Token: its parts and its header.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_JWT_H
#define RTSYNC_JWT_H

#include "postgres.h"

/* Bytes, terminated though they may hold NULs */
typedef struct JwtBytes
{
	char	   *data;
	Size		length;
} JwtBytes;

/* A token taken apart, not yet believed; in the memory context of the call */
typedef struct Jwt
{
	const char *algorithm;		/* what it says that it is signed with */
	const char *kid;			/* with which key, or NULL */
	JwtBytes	signed_part;	/* HEADER.PAYLOAD as it came */
	JwtBytes	payload;		/* decoded, as is the next */
	JwtBytes	signature;
} Jwt;

extern bool jwt_parse(const char *data, Size length, Jwt *jwt);
extern bool jwt_decode_base64url(const char *text, Size length,
								 JwtBytes *result);

#endif							/* RTSYNC_JWT_H */
