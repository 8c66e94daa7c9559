/*-------------------------------------------------------------------------
 *
 * credential.c
 *	  What clients come with, by number: API keys and the keys of tokens.
 *
 * Each API key, and each key that tokens are signed with, gets a number when
 * the first client comes with it.  The number goes with the client's channels
 * and connection, and by it those are found whose key counts no more.
 *
 * Called by apikey.c and keyring.c, which know when that is, and by
 * rights.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "engine/credential.h"

static uint64 last_number = 0;
static List *revoked = NIL;		/* of Revoked, in TopMemoryContext */

/* A number that was never used before, and is not 0 */
uint64
credential_number(void)
{
	return ++last_number;
}

/* What has this number counts no more. */
void
credential_revoke(uint64 number, CredentialKind kind)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	Revoked    *one = palloc(sizeof(Revoked));

	one->number = number;
	one->kind = kind;
	revoked = lappend(revoked, one);
	MemoryContextSwitchTo(old);
}

bool
credential_any_revoked(void)
{
	return revoked != NIL;
}

/* What was revoked since the last call, palloc'd: a list of Revoked */
List *
credential_take_revoked(void)
{
	List	   *result = revoked;

	revoked = NIL;
	return result;
}
