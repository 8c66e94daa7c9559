/*-------------------------------------------------------------------------
 *
 * credential.h
 *	  What clients come with, by number: API keys and the keys of tokens.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_CREDENTIAL_H
#define RTSYNC_CREDENTIAL_H

#include "postgres.h"

#include "nodes/pg_list.h"

typedef enum CredentialKind
{
	CREDENTIAL_API_KEY,
	CREDENTIAL_TOKEN_KEY		/* that tokens are signed with */
} CredentialKind;

typedef struct Revoked
{
	uint64		number;
	CredentialKind kind;
} Revoked;

extern uint64 credential_number(void);
extern void credential_revoke(uint64 number, CredentialKind kind);
extern bool credential_any_revoked(void);
extern List *credential_take_revoked(void);

#endif							/* RTSYNC_CREDENTIAL_H */
