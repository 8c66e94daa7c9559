/*-------------------------------------------------------------------------
 *
 * attempt.c
 *	  Doing something that may fail without failing with it.
 *
 * Called by binding.c, decide.c and route.c around what runs users' code.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/resowner.h"

#include "engine/attempt.h"

/*
 * Run a function in a subtransaction of the current transaction.  Returns
 * NULL if it went well; if it raised an error, what it did is rolled back and
 * a copy of the error returned, in the memory context of the call, which is
 * the current one inside the function too.
 */
ErrorData *
attempt(void (*function) (void *arg), void *arg)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		function(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}
