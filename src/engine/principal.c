/*-------------------------------------------------------------------------
 *
 * principal.c
 *	  Becoming the role and the claims that a decision is made for.
 *
 * The session looks to code that runs for a principal as it does to a query
 * that came through PostgREST: current_user and the setting "role" are the
 * token's role, "request.jwt.claims" is the token's payload, search_path is
 * what a new session in this database starts with; session_user remains the
 * engine's.  The setting "role" is assigned while the session is still itself,
 * because it cannot be assigned under SECURITY_LOCAL_USERID_CHANGE; that flag
 * then keeps the code from changing it.  The older settings "request.jwt.claim.NAME" are not made.
 *
 * The timeout is a ticking timer, so that an evaluation costs no system call
 * and no look at the clock: a tick that finds the same evaluation running as
 * the tick before cancels it.  An evaluation may therefore last from one to
 * two times rtsync.policy_timeout.  Code that catches the cancel gets it again
 * at every tick, and after CANCELS_BEFORE_EXIT of them the process is made to
 * exit: nothing else would stop it, and while it runs nobody else is served.
 *
 * Nothing is left over after an error: user, security context and settings
 * are restored by the abort of the (sub)transaction, and a callback of ours
 * stops the timer there, and gives back advisory locks.
 *
 * Used by the engine, in a transaction, with the superuser as session user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/principal.h"
#include "engine/settings.h"

#define CANCELS_BEFORE_EXIT 10

static const Principal *current_principal = NULL;

/* Scopes entered and not left, and the transaction nest level of the outermost */
static int	depth = 0;
static int	outermost_nest_level = 0;

/* The timer; what its handler writes or reads is volatile */
static TimeoutId timer;
static bool timer_registered = false;
static volatile uint32 evaluation = 0;
static volatile uint32 seen_evaluation = 0;
static volatile int cancels = 0;

/* Whose policies run, and whom to tell if they do not let themselves be ended */
static volatile Oid running_policies_of = InvalidOid;
static volatile bool running_in_preparation = false;
static PrincipalGaveUp gave_up = NULL;

static void forbid_nesting(void);
static void save_topic(const char *topic);
static void enter(Oid roleid, PrincipalScope *scope);
static void save_setting(const char *name, const char *value);
static void start_timer(void);
static void start_ticking(int ms);
static void stop_timer(void);
static void timer_cb(void);
static void release_session_locks(void);
static void transaction_cb(XactEvent event, void *arg);
static void subtransaction_cb(SubXactEvent event, SubTransactionId mySubid,
							  SubTransactionId parentSubid, void *arg);

/*
 * Be the principal until principal_leave.  Needs a transaction; must not be
 * called between another's enter and leave.
 */
void
principal_enter(const Principal *principal, PrincipalScope *scope)
{
	int			nestlevel;
	Oid			userid;
	int			sec_context;

	forbid_nesting();
	GetUserIdAndSecContext(&userid, &sec_context);
	if (sec_context != 0)
		elog(ERROR, "a principal cannot be entered inside another");

	nestlevel = NewGUCNestLevel();
	save_setting("role", principal->rolename);
	if (GetUserId() != principal->roleid)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" is no longer the one that the token named",
						principal->rolename)));
	save_setting("request.jwt.claims", principal->claims);
	save_topic(principal->topic);

	enter(principal->roleid, scope);
	scope->save_userid = userid;
	scope->save_nestlevel = nestlevel;
	current_principal = principal;
}

/*
 * Let the code run for the user that we are already, in a backend that is not
 * the engine: role and claims are as the session has them.
 */
void
principal_enter_session(const Principal *principal, PrincipalScope *scope)
{
	int			nestlevel = NewGUCNestLevel();

	forbid_nesting();
	if (GetUserId() != principal->roleid)
		elog(ERROR, "the session's user is not the principal");
	save_topic(principal->topic);

	enter(principal->roleid, scope);
	scope->save_nestlevel = nestlevel;
	current_principal = principal;
}

static void
forbid_nesting(void)
{
	if (depth > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("row security cannot be asked inside row security")));
}

/* Policies that came from Supabase read the second. */
static void
save_topic(const char *topic)
{
	if (topic == NULL)
		return;
	save_setting("rtsync.topic", topic);
	save_setting("realtime.topic", topic);
}

/*
 * Be the role, without claims, until principal_leave.  May be called inside
 * another scope, whose timeout then goes on.
 */
void
principal_enter_role(Oid roleid, PrincipalScope *scope)
{
	int			nestlevel = NewGUCNestLevel();

	enter(roleid, scope);
	scope->save_nestlevel = nestlevel;
}

/* What both have in common; the GUC nest level has been made. */
static void
enter(Oid roleid, PrincipalScope *scope)
{
	const char *search_path = GetConfigOptionResetString("search_path");

	scope->save_depth = depth;
	scope->save_principal = current_principal;
	GetUserIdAndSecContext(&scope->save_userid, &scope->save_sec_context);

	if (strcmp(namespace_search_path, search_path) != 0)
		save_setting("search_path", search_path);
	if (!XactReadOnly)
		save_setting("transaction_read_only", "on");

	SetUserIdAndSecContext(roleid,
						   scope->save_sec_context |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	current_principal = NULL;
	if (depth == 0)
		start_timer();
	depth++;
}

/* Be again what we were before the matching enter. */
void
principal_leave(PrincipalScope *scope)
{
	Assert(depth > 0);

	depth = scope->save_depth;
	if (depth == 0)
	{
		stop_timer();
		release_session_locks();
	}
	current_principal = scope->save_principal;

	/*
	 * Before the settings, as "role" cannot be assigned otherwise; and after
	 * them, as assigning it changes the user.
	 */
	SetUserIdAndSecContext(scope->save_userid, scope->save_sec_context);
	AtEOXact_GUC(false, scope->save_nestlevel);
	SetUserIdAndSecContext(scope->save_userid, scope->save_sec_context);
}

const Principal *
principal_current(void)
{
	return current_principal;
}

char *
principal_identity(void)
{
	const Principal *principal = current_principal;

	return psprintf("%zu:%s%s%s", strlen(principal->claims), principal->claims,
					principal->topic ? ":" : "",
					principal->topic ? principal->topic : "");
}

void
principal_progress(void)
{
	evaluation++;
}

void
principal_limit(int ms)
{
	if (depth == 0)
		return;
	start_ticking(ms > 0 && ms < rtsync_policy_timeout ?
				  ms : rtsync_policy_timeout);
}

/*
 * From here on the policies of this table run, or are prepared, until
 * InvalidOid is given.
 */
void
principal_run_policies(Oid relid, bool preparing)
{
	running_policies_of = InvalidOid;
	running_in_preparation = preparing;
	running_policies_of = relid;
}

/*
 * Have a function called, in a signal handler, when what runs cannot be ended
 * but with the process: whose policies that are, if they are.
 */
void
principal_on_give_up(PrincipalGaveUp function)
{
	gave_up = function;
}

bool
principal_timed_out(void)
{
	return cancels > 0;
}

/*
 * Set it until the scope is left, which puts all back that changed at its nest
 * level.  Not by GUC_ACTION_SAVE: from 16 on transaction_read_only refuses it.
 */
static void
save_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

static void
start_timer(void)
{
	if (!timer_registered)
	{
		timer = RegisterTimeout(USER_TIMEOUT, timer_cb);
		RegisterXactCallback(transaction_cb, NULL);
		RegisterSubXactCallback(subtransaction_cb, NULL);
		timer_registered = true;
	}

	cancels = 0;
	outermost_nest_level = GetCurrentTransactionNestLevel();
	start_ticking(rtsync_policy_timeout);
}

static void
start_ticking(int ms)
{
	seen_evaluation = evaluation;
	enable_timeout_every(timer,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms),
						 ms);
}

/* Also takes back a cancel of ours that came too late to be noticed. */
static void
stop_timer(void)
{
	disable_timeout(timer, false);
	if (cancels > 0)
		QueryCancelPending = false;
}

/* In a signal handler. */
static void
timer_cb(void)
{
	if (depth == 0)
		return;
	if (seen_evaluation != evaluation)
	{
		seen_evaluation = evaluation;
		return;
	}

	if (++cancels > CANCELS_BEFORE_EXIT)
	{
		if (gave_up != NULL && !ProcDiePending)
			gave_up(running_policies_of, running_in_preparation);
		ProcDiePending = true;
	}
	else
		QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/* The abort has restored everything else, or is about to. */
static void
forget_scopes(void)
{
	if (depth == 0)
		return;
	depth = 0;
	current_principal = NULL;
	running_policies_of = InvalidOid;
	stop_timer();
	release_session_locks();
}

/*
 * Give back the advisory locks that were taken for the session: nothing else
 * would, and the lock table is everybody's.  In a session that is not the
 * engine's, they may be its own.
 */
static void
release_session_locks(void)
{
	if (compat_is_background_worker())
		LockReleaseSession(USER_LOCKMETHOD);
}

static void
transaction_cb(XactEvent event, void *arg)
{
	forget_scopes();
}

static void
subtransaction_cb(SubXactEvent event, SubTransactionId mySubid,
				  SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB &&
		GetCurrentTransactionNestLevel() <= outermost_nest_level)
		forget_scopes();
}
