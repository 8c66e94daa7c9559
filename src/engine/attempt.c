/*-------------------------------------------------------------------------
 *
 * attempt.c
 *	  Doing something that may fail without failing with it.
 *
 * Or without waiting for long: a lock that somebody else holds must not hold up
 * everybody.  It is waited for, as most are held for a moment; but not more
 * than LOCK_WAIT_MS in LOCK_REST_MS by all together.
 *
 * Called by binding.c, decide.c, policy.c, route.c and tables.c around what runs
 * users' code.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/proc.h"
#include "utils/resowner.h"

#include "engine/attempt.h"

/* So long a lock is waited for ... */
#define LOCK_WAIT_MS 50

/* ... and if that was in vain, others hardly at all for this long. */
#define LOCK_REST_MS 1000

/* When a lock was last waited for in vain */
static ClockTime waited;

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

/*
 * Until LockTimeout is set to what is returned, who waits for a lock has an
 * error of ERRCODE_LOCK_NOT_AVAILABLE soon.
 */
int
attempt_limit_waits(void)
{
	int			before = LockTimeout;

	LockTimeout = clock_passed(waited, LOCK_REST_MS) ? LOCK_WAIT_MS : 1;
	return before;
}

/*
 * An error of that kind was raised by what began then: was it a wait for a lock
 * that ended so, and not somebody who says so?
 */
bool
attempt_waited(ClockTime since)
{
	bool		result = clock_passed(since, 1);

	if (clock_passed(since, LOCK_WAIT_MS))
		waited = clock_now();
	return result;
}

/* Like attempt, but locks are not waited for for long. */
ErrorData *
attempt_briefly(void (*function) (void *arg), void *arg)
{
	ClockTime	start = clock_now();
	int			save_lock_timeout = attempt_limit_waits();
	ErrorData  *error = attempt(function, arg);

	LockTimeout = save_lock_timeout;
	if (attempt_met_lock(error))
		(void) attempt_waited(start);
	return error;
}

/* Was it a lock that could not be had?  Without an error, it was not. */
bool
attempt_met_lock(const ErrorData *error)
{
	return error != NULL && error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
}
