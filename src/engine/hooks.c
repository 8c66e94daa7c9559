/*-------------------------------------------------------------------------
 *
 * hooks.c
 *	  What ordinary backends do for the engines.
 *
 *	- At every commit that wrote, they wake the engine of their database if it
 *	  sleeps.
 *	- When an extension or a database comes or goes, they tell the launcher and
 *	  the engine.  The hook on object access sees every way in which that can
 *	  happen; what it has seen is acted upon at commit.
 *	- Before a command that needs a database without anybody connected to it,
 *	  they have its engine stop, and keep it stopped until the end of their
 *	  transaction.
 *
 * Only in preloaded libraries; runs in every backend.
 *
 * An extension created in a prepared transaction is not noticed when that is
 * committed, but at the next start of the server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/wait_event.h"

#include "engine/clock.h"
#include "engine/compat.h"
#include "engine/hooks.h"
#include "engine/shared.h"

/* How long a command waits for an engine to end: first kindly, then with
 * SIGTERM; after that the command itself complains that the database is used */
#define HOLD_TERMINATE_MS 1000
#define HOLD_GIVE_UP_MS 5000

/*
 * What this transaction has done so far that matters to us; acted upon and
 * reset at its end.  Lists are in TopTransactionContext.  What a rolled back
 * subtransaction has added stays: the worst is a look for nothing.
 */
typedef struct PendingWork
{
	bool		any;
	bool		extensions_changed; /* in this database */
	bool		commit_prepared;	/* wakes the engine though this
									 * transaction has no xid */
	List	   *created;		/* databases */
	List	   *dropped;		/* databases */
	List	   *restart;		/* databases with changed settings */
	List	   *held;			/* databases; released at the end */
	bool		template_absent;	/* what was created has no extension */
} PendingWork;

static PendingWork pending;

static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility_hook = NULL;

/*------------------------------ end of a transaction --------------------*/

static void
watch_database(Oid dboid)
{
	bool		tracked = pending.template_absent ?
		shared_note_absent(dboid) : shared_request_check(dboid);

	if (!tracked && !pending.template_absent)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("rtsync cannot serve more than %d databases",
						MAX_ENGINES)));
}

/* The transaction has committed: tell whom it concerns.  No error here. */
static void
apply_pending(void)
{
	ListCell   *cell;

	if (pending.commit_prepared)
		shared_wake_engine();
	foreach(cell, pending.dropped)
		shared_forget(lfirst_oid(cell));
	foreach(cell, pending.created)
		watch_database(lfirst_oid(cell));
	foreach(cell, pending.restart)
		shared_request_restart(lfirst_oid(cell));
	if (pending.extensions_changed)
	{
		pending.template_absent = false;
		watch_database(MyDatabaseId);
	}
}

static void
reset_pending(void)
{
	ListCell   *cell;

	foreach(cell, pending.held)
		shared_release(lfirst_oid(cell));
	memset(&pending, 0, sizeof(pending));
}

static void
xact_cb(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
				shared_wake_engine();
			if (pending.any)
			{
				apply_pending();
				reset_pending();
			}
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			if (pending.any)
				reset_pending();
			break;
		default:
			break;
	}
}

/*------------------------------ object access ---------------------------*/

static void
pending_add(List **list, Oid dboid)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	*list = list_append_unique_oid(*list, dboid);
	pending.any = true;
	MemoryContextSwitchTo(old);
}

static void
object_access_cb(ObjectAccessType access, Oid class_id, Oid object_id,
				 int sub_id, void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, class_id, object_id, sub_id, arg);

	if (access != OAT_POST_CREATE && access != OAT_DROP)
		return;

	if (class_id == ExtensionRelationId)
	{
		pending.extensions_changed = true;
		pending.any = true;
	}
	else if (class_id == DatabaseRelationId)
		pending_add(access == OAT_DROP ? &pending.dropped : &pending.created,
					object_id);
}

/*------------------------------ commands --------------------------------*/

/* Wait until the engine that was asked to end is gone, but not for ever. */
static void
await_end_of_engine(Oid dboid, pid_t pid)
{
	ClockTime	start = clock_now();
	bool		terminated = false;

	/* Not before it has left the process array is its slot free for sure. */
	while (BackendPidGetProc(pid) != NULL)
	{
		if (clock_passed(start, HOLD_GIVE_UP_MS))
			break;
		if (!terminated && clock_passed(start, HOLD_TERMINATE_MS))
		{
			shared_terminate(dboid, pid);
			terminated = true;
		}
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 2, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static bool
may_create_databases(void)
{
	HeapTuple	tuple;
	bool		result = superuser();

	if (result)
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return result;
}

static bool
is_template(Oid dboid)
{
	HeapTuple	tuple;
	bool		result = false;

	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return result;
}

/* The database that CREATE DATABASE copies, if the user may copy it */
static Oid
template_database(CreatedbStmt *stmt)
{
	const char *name = "template1";
	ListCell   *cell;
	Oid			dboid;

	foreach(cell, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "template") == 0 && option->arg)
			name = defGetString(option);
	}
	dboid = get_database_oid(name, true);
	if (OidIsValid(dboid) && may_create_databases() &&
		(is_template(dboid) || compat_owns_database(dboid)))
		return dboid;
	return InvalidOid;
}

/* A database that is to be dropped, renamed or moved, if the user may do so */
static Oid
changed_database(const char *name)
{
	Oid			dboid = get_database_oid(name, true);

	if (OidIsValid(dboid) && dboid != MyDatabaseId &&
		compat_owns_database(dboid))
		return dboid;
	return InvalidOid;
}

static bool
moves_database(AlterDatabaseStmt *stmt)
{
	ListCell   *cell;

	foreach(cell, stmt->options)
	{
		if (strcmp(lfirst_node(DefElem, cell)->defname, "tablespace") == 0)
			return true;
	}
	return false;
}

/*
 * The database which a command wants for itself, InvalidOid if it does not or
 * will be refused anyway: nobody shall stop an engine who may not do more.
 */
static Oid
database_to_hold(Node *stmt, bool top_level)
{
	if (IsA(stmt, RenameStmt))
	{
		RenameStmt *rename = (RenameStmt *) stmt;

		return rename->renameType == OBJECT_DATABASE ?
			changed_database(rename->subname) : InvalidOid;
	}

	/* The others are refused in a transaction block. */
	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			return IsInTransactionBlock(top_level) ? InvalidOid :
				changed_database(((DropdbStmt *) stmt)->dbname);
		case T_AlterDatabaseStmt:
			return !moves_database((AlterDatabaseStmt *) stmt) ||
				IsInTransactionBlock(top_level) ? InvalidOid :
				changed_database(((AlterDatabaseStmt *) stmt)->dbname);
		case T_CreatedbStmt:
			return IsInTransactionBlock(top_level) ? InvalidOid :
				template_database((CreatedbStmt *) stmt);
		default:
			return InvalidOid;
	}
}

static void
hold_database(Oid dboid, bool copied)
{
	bool		absent;
	pid_t		pid;

	pending_add(&pending.held, dboid);
	pid = shared_hold(dboid, &absent);
	if (pid != 0)
		await_end_of_engine(dboid, pid);
	pending.template_absent = absent && copied;
}

/* Does ALTER DATABASE ... SET or RESET touch our settings?  Of which? */
static Oid
database_to_restart(Node *stmt)
{
	AlterDatabaseSetStmt *alter;
	VariableSetStmt *set;

	if (!IsA(stmt, AlterDatabaseSetStmt))
		return InvalidOid;
	alter = (AlterDatabaseSetStmt *) stmt;
	set = alter->setstmt;
	if (set->kind == VAR_RESET_ALL ||
		(set->name && pg_strncasecmp(set->name, "rtsync.", 7) == 0))
		return get_database_oid(alter->dbname, true);
	return InvalidOid;
}

static void
process_utility_cb(PlannedStmt *pstmt, const char *query_string,
				   bool read_only_tree, ProcessUtilityContext context,
				   ParamListInfo params, QueryEnvironment *query_env,
				   DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	Oid			hold = database_to_hold(stmt, context == PROCESS_UTILITY_TOPLEVEL);
	Oid			restart = database_to_restart(stmt);

	if (OidIsValid(hold))
		hold_database(hold, IsA(stmt, CreatedbStmt));
	if (IsA(stmt, TransactionStmt) &&
		((TransactionStmt *) stmt)->kind == TRANS_STMT_COMMIT_PREPARED)
	{
		pending.commit_prepared = true;
		pending.any = true;
	}

	if (prev_process_utility_hook)
		prev_process_utility_hook(pstmt, query_string, read_only_tree,
								  context, params, query_env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query_string, read_only_tree,
								context, params, query_env, dest, qc);

	/* The statement may be gone by now: it must not be looked at again. */
	if (OidIsValid(restart))
		pending_add(&pending.restart, restart);
}

void
hooks_init(void)
{
	RegisterXactCallback(xact_cb, NULL);
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access_cb;
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility_cb;
}
