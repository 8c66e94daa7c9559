/*-------------------------------------------------------------------------
 *
 * jwk.h
 *	  Keys that tokens are signed with, and the algorithms that they are for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_JWK_H
#define RTSYNC_JWK_H

#include "postgres.h"

#include "engine/jwt.h"

/* A set of keys; not in a memory context, see jwk_free */
typedef struct JwkSet JwkSet;

typedef enum JwkVerdict
{
	JWK_GOOD,
	JWK_WRONG_SIGNATURE,
	JWK_NO_KEY					/* we have none for this algorithm and kid */
} JwkVerdict;

extern JwkSet *jwk_parse_set(const char *text, Size length,
							 const char **problem, int *skipped);
extern int	jwk_count(const JwkSet *set);
extern void jwk_free(JwkSet *set);

extern void jwk_succeed(JwkSet *set, const JwkSet *old,
						void (*gone) (uint64 number));

extern JwkVerdict jwk_verify(JwkSet *set, const char *secret,
							 Size secret_length, const Jwt *jwt,
							 uint64 **number);

#endif							/* RTSYNC_JWK_H */
