/*-------------------------------------------------------------------------
 *
 * policy.c
 *	  Privileges and row security of a table for a role, and the answer for
 *	  one row.
 *
 * The server itself says which policies apply (get_row_security_policies): we
 * ask it for the conditions that it would add to a SELECT by this role, so
 * permissive, restrictive, forced, inherited and bypassed policies are as the
 * server has them.  We differ only in where the row comes from.
 *
 * Conditions are prepared in two steps.
 *
 * 1. policy_table_access reads the catalogs, as the role but without claims,
 *	  and runs nothing that a user wrote.  "(SELECT f())" without a FROM, as
 *	  is often written to have f called once per statement, is replaced by f();
 *	  whatever has other sub-queries stays a query.
 *
 * 2. The first policy_check plans the conditions as the principal:
 *	  - without sub-queries, into an expression (rowcheck.c);
 *	  - with sub-queries, into the plan of "SELECT FROM row WHERE conditions",
 *		in which the row is a tuplestore that has the table's columns.
 *		Rewriting that query adds the row security of the tables inside, with
 *		the principal's rights, as it does inside a policy anywhere.
 *	- with sub-queries, for many principals at once, where that is possible
 *		(setcheck.c).
 *	  If the planner executed a user's function for a constant, the plan is
 *	  good only for the claims that it saw, and is made again for others.
 *
 * The cache is by (table, role, command).  Invalidation callbacks only mark entries, at
 * any moment, also while one is being built; marked entries are built again by
 * the next lookup.  An entry under construction is in a memory context that is
 * not yet the cache's, and which the next construction deletes if an error
 * left it behind.  Plans are kept without locks; the locks on a plan's tables
 * are taken before each run, as the server's plan cache does it.
 *
 * Everything that cannot be decided counts as not visible.
 *
 * Memory: one context per entry under PolicyContext, with one for the plan,
 * and in that one for the run of a query.
 *
 * Called by route.c and subscription.c, in a transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_enum.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "jit/jit.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/plannodes.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "rewrite/rowsecurity.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/catcache.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "engine/attempt.h"
#include "engine/clock.h"
#include "engine/compat.h"
#include "engine/fold.h"
#include "engine/policy.h"
#include "engine/predicate.h"
#include "engine/settings.h"
#include "engine/unnest.h"

/* The name of the row in the queries that we build */
#define ROW_NAME "rtsync_row"

/* Policies that took too long rest for this many times the timeout */
#define SUSPENSION_FACTOR 10

/* ... and those that waited for a lock, for so long */
#define LOCK_SUSPENSION_MS 1000

typedef struct AccessKey
{
	Oid			relid;
	Oid			roleid;
	CmdType		command;
} AccessKey;

/*
 * What groups were given, for as long as the access has the same basis, by a
 * plan that is gone: the next one must be able to take it.
 */
typedef struct Promise
{
	bool		plan;			/* there was a plan ... */
	bool		pure;			/* ... that was the same for all, or not, ... */
	List	   *quals;			/* ... with these conditions, over ... */
	List	   *params;			/* ... these expressions */
	bool		set_tried;		/* it was tried to make a SetCheck ... */
	bool		set;			/* ... with success, over ... */
	List	   *set_params;		/* ... these expressions ... */
	List	   *set_quals;		/* ... with these conditions for an index */
} Promise;

typedef struct CompiledPolicy
{
	MemoryContext context;		/* holds all of this */
	List	   *quals;			/* to be ANDed; not planned */
	TupleDesc	desc;			/* the table's columns, with missing values */
	RowColumns	columns;		/* that quals read */
	bool		sublinks;		/* quals have sub-queries */
	Promise		promise;

	/* the plan, for as long as planned is set */
	bool		planned;
	MemoryContext plan_context;
	MemoryContext run_context;	/* for one evaluation of the query */
	char	   *bound_to;		/* good for this principal only; NULL: for all */
	RowCheck   *expr;			/* without sub-queries */
	Folded		folded;			/* likewise: what depends on the session taken
								 * out ... */
	RowCheck   *folded_expr;	/* ... if the rest depends on it no more */
	PlannedStmt *query;			/* with sub-queries */
	EphemeralNamedRelation row; /* the query's row, its store set at each run */
	QueryEnvironment *query_env;
	bool		set_tried;		/* it was tried to make ... */
	SetCheck   *set;			/* likewise, for many principals; NULL: it
								 * cannot be made */
	List	   *relation_oids;	/* tables and views that the plan reads */
	List	   *inval_items;	/* functions and types that it depends on */
	uint64		query_signature;	/* of the query as it was rewritten */
} CompiledPolicy;

/* Something to be called under the time limit; arguments and results */
typedef struct Call
{
	TableAccess *access;
	const PolicyRow *row;
	Verdict		verdict;
	List	   *exprs;
	PlannedStmt *query;
	MemoryContext context;
	ParamListInfo params;
} Call;

/* Policies that ended the process before this one */
typedef struct BlamedPolicies
{
	Oid			relid;
	bool		preparing;
	ClockTime	until;
} BlamedPolicies;

static HTAB *accesses = NULL;
static List *blamed = NIL;
static MemoryContext PolicyContext = NULL;

/* An error left this half-built, if it is not NULL */
static MemoryContext building = NULL;

/* Counts invalidations, so that none is lost while an entry is being built */
static uint64 invalidations = 0;

static uint64 last_generation = 0;

static Verdict check_row(TableAccess *access, const PolicyRow *row);
static TableAccess *get_access(Oid relid, Oid roleid, CmdType command);
static void suspend_blamed(TableAccess *access);
static void require_principal(TableAccess *access);
static void call_check(Call *call);
static void call_prepare(Call *call);
static void call_evaluate(Call *call);
static void call_limited(void (*function) (Call *call), Call *call,
						 bool preparing);
static _Noreturn void suspend(TableAccess *access);
static void refuse_suspended(TableAccess *access);
static void build_access(TableAccess *access);
static uint64 access_signature(TableAccess *access, TupleDesc desc);
static uint64 signature_of(const char *text);
static void read_privileges(TableAccess *access, Relation rel);
static Bitmapset *permitted_columns(Relation rel, Oid roleid, AclMode mode);
static CompiledPolicy *compile_quals(Relation rel, List *quals,
									 MemoryContext context);
static List *security_quals(Relation rel, CmdType command);
static List *check_quals(List *checks);
static void describe_compiled(TableAccess *access, CompiledPolicy *compiled);
static void ensure_plan(TableAccess *access);
static bool has_plan(CompiledPolicy *compiled);
static bool ensure_set(TableAccess *access);
static void make_set(TableAccess *access, CompiledPolicy *compiled);
static bool same_basis(TableAccess *old, TableAccess *new);
static void take_promise(CompiledPolicy *from, CompiledPolicy *to);
static bool keeps_plan_promise(CompiledPolicy *compiled);
static bool keeps_set_promise(CompiledPolicy *compiled);
static void remember_functions(TableAccess *access, List *items);
static void make_plan(TableAccess *access, CompiledPolicy *compiled);
static void fold_plan(CompiledPolicy *compiled, RowPlan *plan);
static void fold_query_plan(CompiledPolicy *compiled, RowPlan *plan);
static void plan_query(CompiledPolicy *compiled, RowPlan *plan);
static RangeTblEntry *row_rte(TupleDesc desc);
static Verdict check_query(CompiledPolicy *compiled, const PolicyRow *row);
static bool run_query(CompiledPolicy *compiled, Tuplestorestate *store);
static void invalidate_relation_cb(Datum arg, Oid relid);
static void invalidate_item_cb(Datum arg, int cacheid, uint32 hashvalue);
static void invalidate_all_cb(Datum arg, int cacheid, uint32 hashvalue);

/* Set the cache up, once per process. */
void
policy_init(void)
{
	HASHCTL		ctl = {0};

	if (accesses != NULL)
		return;

	PolicyContext = AllocSetContextCreate(TopMemoryContext, "rtsync policies",
										  ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(AccessKey);
	ctl.entrysize = sizeof(TableAccess);
	ctl.hcxt = PolicyContext;
	accesses = hash_create("rtsync table accesses", 64, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	/* pg_class, pg_attribute and pg_policy arrive as relcache messages */
	CacheRegisterRelcacheCallback(invalidate_relation_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, invalidate_item_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, invalidate_item_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, invalidate_all_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, invalidate_all_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, invalidate_all_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, invalidate_all_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(AMOPOPID, invalidate_all_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(ENUMOID, invalidate_all_cb, (Datum) 0);
}

/*
 * What may the role see of the table?  Never NULL: a table or a role that does
 * not exist is simply not readable.  Raises an error if the policies cannot be
 * read now, for one because somebody holds an exclusive lock on the table for
 * longer than the policy timeout.
 */
TableAccess *
policy_table_access(Oid relid, Oid roleid)
{
	return get_access(relid, roleid, CMD_SELECT);
}

/* Likewise, if that is known already; else NULL.  Raises no error. */
TableAccess *
policy_known_access(Oid relid, Oid roleid)
{
	AccessKey	key = {relid, roleid, CMD_SELECT};
	TableAccess *access = hash_search(accesses, &key, HASH_FIND, NULL);

	return access != NULL && access->valid ? access : NULL;
}

/*
 * Likewise for adding rows: policy_check then says whether the role may add
 * the row, as INSERT without RETURNING would.
 */
TableAccess *
policy_insert_access(Oid relid, Oid roleid)
{
	return get_access(relid, roleid, CMD_INSERT);
}

/* Counts what may have changed an access: the same number, the same answers */
uint64
policy_invalidations(void)
{
	return invalidations;
}

static void
access_free(TableAccess *access)
{
	AccessKey	key = {access->relid, access->roleid, access->command};

	if (access->functions != NULL)
		pfree(access->functions);
	if (access->context != NULL)
		MemoryContextDelete(access->context);
	hash_search(accesses, &key, HASH_REMOVE, NULL);
}

/*
 * Free what was made for tables and roles that have been dropped since.  Called
 * in a transaction on the present, while nobody has a TableAccess in hand.
 */
void
policy_sweep(void)
{
	HASH_SEQ_STATUS status;
	TableAccess *access;

	hash_seq_init(&status, accesses);
	while ((access = hash_seq_search(&status)) != NULL)
		if ((!access->valid || access->desc == NULL) &&
			(!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(access->relid)) ||
			 !SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(access->roleid))))
			access_free(access);
}

/*
 * Locks are not waited for for long in the engine, as everybody would wait, too.
 * Returns what LockTimeout is to be set to again.
 */
static int
limit_waits(void)
{
	return compat_is_background_worker() ? attempt_limit_waits() : LockTimeout;
}

/* Is the error at hand that of a lock that was waited for since then? */
static bool
waited_in_vain(ClockTime start)
{
	return compat_is_background_worker() &&
		geterrcode() == ERRCODE_LOCK_NOT_AVAILABLE && attempt_waited(start);
}

/* build_access, not waiting for long for a lock */
static void
build_access_briefly(TableAccess *access)
{
	ClockTime	start = clock_now();
	int			lock_timeout = limit_waits();

	PG_TRY();
	{
		build_access(access);
		LockTimeout = lock_timeout;
	}
	PG_CATCH();
	{
		LockTimeout = lock_timeout;
		(void) waited_in_vain(start);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

static TableAccess *
get_access(Oid relid, Oid roleid, CmdType command)
{
	AccessKey	key = {relid, roleid, command};
	TableAccess *access;
	bool		found;
	bool		first;

	access = hash_search(accesses, &key, HASH_ENTER, &found);
	if (!found)
		memset((char *) access + sizeof(AccessKey), 0,
			   sizeof(TableAccess) - sizeof(AccessKey));
	first = access->generation == 0;
	if (!access->valid)
		build_access_briefly(access);
	if (first)
		suspend_blamed(access);
	return access;
}

/*
 * An earlier process had to end because of the policies of this table: they
 * rest until then, or until they are changed.
 */
void
policy_blame(Oid relid, bool preparing, ClockTime until)
{
	MemoryContext old = MemoryContextSwitchTo(PolicyContext);
	BlamedPolicies *entry = palloc(sizeof(BlamedPolicies));

	entry->relid = relid;
	entry->preparing = preparing;
	entry->until = until;
	blamed = lappend(blamed, entry);
	MemoryContextSwitchTo(old);
}

static void
suspend_blamed(TableAccess *access)
{
	ListCell   *lc;

	foreach(lc, blamed)
	{
		BlamedPolicies *entry = lfirst(lc);

		if (entry->relid != access->relid)
			continue;
		access->suspended_until = entry->until;
		access->slow_to_prepare |= entry->preparing;
	}
}

/*
 * The columns that have to be known for an answer: none without row security.
 * "all" is set if it must be the whole row, or if nothing would suffice.
 */
const Bitmapset *
policy_needed_columns(TableAccess *access, bool *all)
{
	*all = false;
	if (!access->row_security)
		return NULL;
	*all = access->compiled == NULL || access->undecidable != NULL ||
		access->compiled->columns.whole_row;
	return access->compiled ? access->compiled->columns.attnums : NULL;
}

/*
 * May the principal that has been entered see the row?  Needs an active
 * snapshot.  Errors of what users wrote are raised.  If it takes too long it
 * is cancelled, and for a while not tried again but refused with an error at
 * once: a slow policy takes a small part of everybody's time, and no more.
 */
Verdict
policy_check(TableAccess *access, const PolicyRow *row)
{
	Call		call = {.access = access,.row = row};

	require_principal(access);
	if (row->schema->relid != access->relid)
		elog(ERROR, "row security asked about a row of another table");
	refuse_suspended(access);
	call_limited(call_check, &call, false);
	return call.verdict;
}

static void
call_check(Call *call)
{
	call->verdict = check_row(call->access, call->row);
}

/*
 * Call what may run code of users.  If that takes too long, the access is
 * suspended; also from being prepared, if it happened there.  If a check waits
 * for a lock, too, for a moment.
 */
static void
call_limited(void (*function) (Call *call), Call *call, bool preparing)
{
	ClockTime	start = clock_now();
	int			lock_timeout = limit_waits();

	principal_run_policies(call->access->relid, preparing);
	PG_TRY();
	{
		function(call);
		principal_run_policies(InvalidOid, false);
		LockTimeout = lock_timeout;
	}
	PG_CATCH();
	{
		principal_run_policies(InvalidOid, false);
		LockTimeout = lock_timeout;
		if (principal_timed_out())
		{
			call->access->slow_to_prepare |= preparing;
			suspend(call->access);
		}
		if (waited_in_vain(start) && !preparing)
			call->access->suspended_until = clock_in(LOCK_SUSPENSION_MS);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

static Verdict
check_row(TableAccess *access, const PolicyRow *row)
{
	ensure_plan(access);
	if (!access->readable)
		return VERDICT_NO;
	if (!access->row_security)
		return VERDICT_YES;
	if (access->undecidable != NULL)
		return VERDICT_UNKNOWN;

	if (access->compiled->expr != NULL)
		return rowcheck_run(access->compiled->expr, row);
	return check_query(access->compiled, row);
}

static void
require_principal(TableAccess *access)
{
	if (GetUserId() != access->roleid || principal_current() == NULL)
		elog(ERROR, "row security asked outside its principal");
}

/* Put the error of a cancelled evaluation into words, and remember it. */
static void
suspend(TableAccess *access)
{
	FlushErrorState();
	access->suspended_until =
		clock_in((int64) rtsync_policy_timeout * SUSPENSION_FACTOR);
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("row security took longer than %d ms",
					rtsync_policy_timeout)));
}

static void
refuse_suspended(TableAccess *access)
{
	if (access->suspended_until == 0)
		return;

	/* a policy that has changed meanwhile has another chance */
	if (!access->valid)
		build_access(access);
	if (clock_now() < access->suspended_until)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("row security took too long and is suspended")));
	access->suspended_until = 0;
	access->slow_to_prepare = false;
}

/*
 * Make what a check would need, as the principal that has been entered, so
 * that policy_dependencies is known.  Errors like policy_check's; but policies
 * that were suspended because of a row are prepared nevertheless.
 */
void
policy_prepare(TableAccess *access)
{
	Call		call = {.access = access};

	require_principal(access);
	if (access->slow_to_prepare)
		refuse_suspended(access);
	call_limited(call_prepare, &call, true);
}

/* The planner may execute functions that claim to be IMMUTABLE. */
static void
call_prepare(Call *call)
{
	ensure_plan(call->access);
}

/* The values of expressions over the session, in the context given */
static ParamListInfo
evaluate_params(TableAccess *access, List *exprs, PlannedStmt *query,
				MemoryContext context)
{
	Call		call = {
		.access = access,
		.exprs = exprs,
		.query = query,
		.context = context
	};

	call_limited(call_evaluate, &call, true);
	return call.params;
}

static void
call_evaluate(Call *call)
{
	call->params = fold_evaluate(call->exprs, call->query, call->context);
}

/*
 * The tables and views that the sub-queries of the policies read, those behind
 * the row security of these included, in the current memory context.  Known
 * once the access was prepared or a row checked; what functions read is never
 * known.
 */
List *
policy_dependencies(TableAccess *access)
{
	if (access->compiled == NULL || !access->compiled->planned ||
		!access->compiled->sublinks)
		return NIL;
	return list_copy(access->compiled->relation_oids);
}

/*
 * The same for as long as the sub-queries of the policies say the same: views
 * and row security of the tables that they read are part of it.  Known once
 * the access was prepared; 0 without sub-queries.
 */
uint64
policy_query_signature(TableAccess *access)
{
	if (access->compiled == NULL || !access->compiled->planned ||
		!access->compiled->sublinks)
		return 0;
	return access->compiled->query_signature;
}

/* Look everything up anew, as the role. */
static void
build_access(TableAccess *access)
{
	uint64		invalidations_before = invalidations;
	PrincipalScope scope;
	Relation	rel;
	MemoryContext context;
	MemoryContext oldcontext;
	MemoryContext oldown;
	TableAccess new = {
		.relid = access->relid,
		.roleid = access->roleid,
		.command = access->command,
		.function_changes = access->function_changes,
		.functions = access->functions,
		.nfunctions = access->nfunctions,
	};

	if (building != NULL)
		MemoryContextDelete(building);
	building = context = AllocSetContextCreate(PolicyContext, "rtsync policy",
											   ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(context);

	principal_enter_role(access->roleid, &scope);
	rel = try_table_open(access->relid, AccessShareLock);
	if (rel != NULL)
	{
		read_privileges(&new, rel);
		if (new.readable && check_enable_rls(new.relid, new.roleid,
											 true) == RLS_ENABLED)
		{
			new.row_security = true;
			new.compiled = compile_quals(rel, security_quals(rel, new.command),
										 context);
			describe_compiled(&new, new.compiled);
		}
		new.desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
		new.signature = access_signature(&new, new.desc);
		table_close(rel, AccessShareLock);
	}
	else
		new.signature = access_signature(&new, NULL);
	principal_leave(&scope);
	if (new.signature == access->signature)
	{
		new.suspended_until = access->suspended_until;
		new.slow_to_prepare = access->slow_to_prepare;
	}
	new.generation = new.basis = ++last_generation;
	if (same_basis(access, &new))
	{
		new.basis = access->basis;
		if (new.compiled != NULL)
			take_promise(access->compiled, new.compiled);
	}
	MemoryContextSwitchTo(oldcontext);

	/* from here on nothing can fail; changes may have been counted meanwhile */
	oldown = access->context;
	new.context = context;
	new.valid = invalidations == invalidations_before;
	new.function_changes = access->function_changes;
	*access = new;
	building = NULL;
	if (oldown != NULL)
		MemoryContextDelete(oldown);
}

/* May what groups were compiled from be the same as before? */
static bool
same_basis(TableAccess *old, TableAccess *new)
{
	return old->context != NULL && old->signature == new->signature &&
		(old->undecidable == NULL) == (new->undecidable == NULL) &&
		(old->compiled == NULL) == (new->compiled == NULL) &&
		old->desc != NULL && new->desc != NULL &&
		equalTupleDescs(old->desc, new->desc);
}

/* Promise what another promised, or has given; in the current context. */
static void
take_promise(CompiledPolicy *from, CompiledPolicy *to)
{
	Promise    *promise = &to->promise;

	*promise = from->promise;
	if (from->planned)
	{
		promise->plan = true;
		promise->pure = from->folded_expr != NULL;
		promise->quals = from->folded.quals;
		promise->params = from->folded.params;
		if (from->set_tried)
		{
			promise->set_tried = true;
			promise->set = from->set != NULL;
			promise->set_params = from->set ? setcheck_params(from->set) : NIL;
			promise->set_quals = from->set ? setcheck_quals(from->set) : NIL;
		}
	}
	promise->quals = copyObject(promise->quals);
	promise->params = copyObject(promise->params);
	promise->set_params = copyObject(promise->set_params);
	promise->set_quals = copyObject(promise->set_quals);
}

static bool
keeps_plan_promise(CompiledPolicy *compiled)
{
	Promise    *promise = &compiled->promise;

	return !promise->plan ||
		(promise->pure == (compiled->folded_expr != NULL) &&
		 equal(promise->quals, compiled->folded.quals) &&
		 equal(promise->params, compiled->folded.params));
}

static bool
keeps_set_promise(CompiledPolicy *compiled)
{
	Promise    *promise = &compiled->promise;

	return !promise->set_tried ||
		(promise->set == (compiled->set != NULL) &&
		 (!promise->set ||
		  (equal(promise->set_params, setcheck_params(compiled->set)) &&
		   equal(promise->set_quals, setcheck_quals(compiled->set)))));
}

/* The labels of an enum, or of an array of one, which can be renamed */
static void
append_labels(StringInfo buf, Oid type)
{
	Oid			element = get_base_element_type(type);
	CatCList   *labels;

	type = OidIsValid(element) ? getBaseType(element) : getBaseType(type);
	if (!type_is_enum(type))
		return;
	labels = SearchSysCacheList1(ENUMTYPOIDNAME, ObjectIdGetDatum(type));
	for (int i = 0; i < labels->n_members; i++)
	{
		HeapTuple	tuple = &labels->members[i]->tuple;
		Form_pg_enum label = (Form_pg_enum) GETSTRUCT(tuple);

		appendStringInfo(buf, "%u %s ", label->oid, NameStr(label->enumlabel));
	}
	ReleaseCatCacheList(labels);
}

/*
 * What a SELECT depends on, but for rows, as a number.  The names and types of
 * the columns are part of it: they change all rows, without any event.
 */
static uint64
access_signature(TableAccess *access, TupleDesc desc)
{
	StringInfoData buf;
	int			attnum = -1;

	initStringInfo(&buf);
	appendStringInfo(&buf, "%d %d %u ", access->readable, access->row_security,
					 access->function_changes);
	while ((attnum = bms_next_member(access->columns, attnum)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(desc, attnum - 1);

		appendStringInfo(&buf, "%d %s %u %d ", attnum, NameStr(att->attname),
						 att->atttypid, att->atttypmod);
		append_labels(&buf, att->atttypid);
	}
	if (access->compiled != NULL)
		appendStringInfoString(&buf, nodeToString(access->compiled->quals));
	return signature_of(buf.data);
}

/* A number for a text, never 0 */
static uint64
signature_of(const char *text)
{
	return hash_bytes_extended((const unsigned char *) text, strlen(text), 0) | 1;
}

/* Privileges on schema, table and columns. */
static void
read_privileges(TableAccess *access, Relation rel)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(access->roleid)))
		return;
	if (!compat_namespace_usage(RelationGetNamespace(rel), access->roleid))
		return;
	access->columns = permitted_columns(rel, access->roleid,
										access->command == CMD_INSERT ?
										ACL_INSERT : ACL_SELECT);
	access->readable = !bms_is_empty(access->columns);
}

static Bitmapset *
permitted_columns(Relation rel, Oid roleid, AclMode mode)
{
	Oid			relid = RelationGetRelid(rel);
	TupleDesc	desc = RelationGetDescr(rel);
	bool		all = pg_class_aclcheck(relid, roleid, mode) == ACLCHECK_OK;
	Bitmapset  *result = NULL;

	for (int i = 0; i < desc->natts; i++)
	{
		AttrNumber	attnum = i + 1;

		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		if (all ||
			pg_attribute_aclcheck(relid, attnum, roleid, mode) == ACLCHECK_OK)
			result = bms_add_member(result, attnum);
	}
	return result;
}

/* Conditions over the table, ready to be planned; lives in the context given,
 * which is the current one */
static CompiledPolicy *
compile_quals(Relation rel, List *quals, MemoryContext context)
{
	CompiledPolicy *compiled = palloc0(sizeof(CompiledPolicy));

	compiled->context = context;
	compiled->desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	compiled->quals = (List *)
		unnest_trivial(compat_expand_generated((Node *) quals, rel), false);
	compiled->sublinks = checkExprHasSubLink((Node *) compiled->quals);
	rowcheck_columns((Node *) compiled->quals, compiled->desc,
					 &compiled->columns);
	return compiled;
}

/*
 * An access in which one condition takes the place of all policies, to see
 * what it says by itself.  Not cached: it is good for one policy_check, and
 * lives in the current memory context.
 */
TableAccess *
policy_single(Relation rel, Oid roleid, Node *qual)
{
	TableAccess *access = palloc0(sizeof(TableAccess));

	access->relid = RelationGetRelid(rel);
	access->roleid = roleid;
	access->command = CMD_SELECT;
	access->valid = access->readable = access->row_security = true;
	access->compiled = compile_quals(rel, list_make1(copyObject(qual)),
									 CurrentMemoryContext);
	describe_compiled(access, access->compiled);
	return access;
}

/* Do the policies have sub-queries, so that they are evaluated by a query? */
bool
policy_is_query(TableAccess *access)
{
	return access->compiled != NULL && access->compiled->sublinks;
}

/*
 * The conditions that the server would add to a command by the current role.
 * Only called if check_enable_rls said that row security applies: for anybody
 * else no conditions come back, and these would look the same as none.
 */
static List *
security_quals(Relation rel, CmdType command)
{
	Query	   *query = makeNode(Query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	List	   *quals;
	List	   *checks;
	bool		has_row_security;
	bool		has_sublinks;

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(rel);
	rte->relkind = rel->rd_rel->relkind;
	rte->rellockmode = AccessShareLock;
	query->commandType = command;
	query->resultRelation = command == CMD_INSERT ? 1 : 0;
	query->rtable = list_make1(rte);
	compat_require_privilege(query, rte, command == CMD_INSERT ?
							 ACL_INSERT : ACL_SELECT);

	get_row_security_policies(query, rte, 1, &quals, &checks,
							  &has_row_security, &has_sublinks);
	if (command == CMD_INSERT)
		quals = check_quals(checks);

	/* at least "false" must have come back */
	if (!has_row_security || quals == NIL)
		elog(ERROR, "no row security found for table \"%s\"",
			 RelationGetRelationName(rel));
	return copyObject(quals);
}

/* The conditions of a list of WithCheckOption, which a new row must meet */
static List *
check_quals(List *checks)
{
	List	   *quals = NIL;
	ListCell   *lc;

	foreach(lc, checks)
		quals = lappend(quals, lfirst_node(WithCheckOption, lc)->qual);
	return quals;
}

/* What callers may know about the conditions. */
static void
describe_compiled(TableAccess *access, CompiledPolicy *compiled)
{
	access->reads_session = rowcheck_reads_session((Node *) compiled->quals);
	if (compiled->columns.system_column)
		access->undecidable = "a policy of the table reads a system column";
}

/*
 * Have a plan that is good for the current principal, and the locks to run it.
 * May build the access anew.
 *
 * Locking the tables of an old plan may bring the news that it is out of date.
 * Planning takes the same locks before it looks at anything, so that a new
 * plan can be used at once, even if unrelated news came with them and marked
 * it for the next time.
 */
static void
ensure_plan(TableAccess *access)
{
	if (access->valid && has_plan(access->compiled))
	{
		if (access->compiled->query != NULL)
			setcheck_lock_plan(access->compiled->query);
		if (access->valid)
			return;
	}

	if (!access->valid)
		build_access(access);
	if (access->compiled != NULL && access->undecidable == NULL &&
		!has_plan(access->compiled))
		make_plan(access, access->compiled);
}

/* Is there a plan, and is it good for the principal? */
static bool
has_plan(CompiledPolicy *compiled)
{
	return compiled != NULL && compiled->planned &&
		(compiled->bound_to == NULL ||
		 strcmp(compiled->bound_to, principal_identity()) == 0);
}

/*
 * Plan the conditions as the current principal.  After an error the entry has
 * no plan, and plan_context holds what is to be thrown away.
 */
static void
make_plan(TableAccess *access, CompiledPolicy *compiled)
{
	uint64		invalidations_before = invalidations;
	MemoryContext oldcontext;
	RowPlan		plan;

	/* the callbacks must not see lists that are about to go */
	compiled->planned = false;
	compiled->relation_oids = NIL;
	compiled->inval_items = NIL;
	compiled->expr = NULL;
	compiled->folded_expr = NULL;
	memset(&compiled->folded, 0, sizeof(Folded));
	compiled->query = NULL;
	compiled->set = NULL;
	compiled->set_tried = false;
	compiled->bound_to = NULL;
	if (compiled->plan_context != NULL)
		MemoryContextReset(compiled->plan_context);
	else
		compiled->plan_context = AllocSetContextCreate(compiled->context,
													   "rtsync policy plan",
													   ALLOCSET_SMALL_SIZES);

	oldcontext = MemoryContextSwitchTo(compiled->plan_context);
	if (compiled->sublinks)
	{
		plan_query(compiled, &plan);
		if (!plan.bound)
			fold_query_plan(compiled, &plan);
	}
	else
	{
		rowcheck_plan(compiled->quals, &plan);
		compiled->expr = rowcheck_create(plan.quals, compiled->desc,
										 compiled->columns.attnums,
										 compiled->plan_context);
		if (!plan.bound)
			fold_plan(compiled, &plan);
	}
	if (plan.bound)
		compiled->bound_to = principal_identity();
	MemoryContextSwitchTo(oldcontext);

	compiled->relation_oids = plan.relation_oids;
	compiled->inval_items = plan.inval_items;
	remember_functions(access, compiled->inval_items);
	compiled->planned = true;
	if (!keeps_plan_promise(compiled))
		access->basis = ++last_generation;

	/* what was read may be out of date already */
	if (invalidations != invalidations_before)
		access->valid = false;
}

/*
 * Remember which functions a plan depends on, for as long as there is no other
 * plan: one that changes while there is none must be noticed.
 */
static void
remember_functions(TableAccess *access, List *items)
{
	uint32	   *functions = NULL;
	int			n = 0;
	ListCell   *lc;

	if (access->context == NULL)
		return;					/* policy_single's */
	if (items != NIL)
		functions = MemoryContextAlloc(PolicyContext,
									   list_length(items) * sizeof(uint32));
	foreach(lc, items)
	{
		PlanInvalItem *item = lfirst_node(PlanInvalItem, lc);

		if (item->cacheId == PROCOID)
			functions[n++] = item->hashValue;
	}
	if (access->functions != NULL)
		pfree(access->functions);
	access->functions = functions;
	access->nfunctions = n;
}

/* Take out of planned conditions what depends on the session alone. */
static void
fold_plan(CompiledPolicy *compiled, RowPlan *plan)
{
	fold_session(plan->quals, &compiled->folded);
	if (compiled->folded.pure)
		compiled->folded_expr = rowcheck_create(compiled->folded.quals,
												compiled->desc,
												compiled->columns.attnums,
												compiled->plan_context);
}

/*
 * Likewise, of conditions with sub-queries: it may be that the claims are all
 * that these read.
 */
static void
fold_query_plan(CompiledPolicy *compiled, RowPlan *plan)
{
	Node	   *quals = (Node *) make_ands_explicit(copyObject(compiled->quals));

	rowcheck_watch_begin();
	quals = rowcheck_inline(unnest_trivial(quals, true), plan);
	fold_session(make_ands_implicit((Expr *) unnest_arrays(quals)),
				 &compiled->folded);
	if (rowcheck_watch_end())
		compiled->folded.pure = false;
	if (compiled->folded.query != NULL)
		plan->inval_items = list_concat(plan->inval_items,
										compiled->folded.query->invalItems);
	if (compiled->folded.pure)
		compiled->folded_expr = rowcheck_create(compiled->folded.quals,
												compiled->desc,
												compiled->columns.attnums,
												compiled->plan_context);
}

/*
 * Has everything been made that groups ask with?  Until then what they were
 * given for the basis that the access has is of no use.
 */
bool
policy_prepared(TableAccess *access)
{
	CompiledPolicy *compiled = access->compiled;

	return access->valid &&
		(compiled == NULL || access->undecidable != NULL ||
		 (compiled->planned && (!compiled->sublinks || compiled->set_tried)));
}

/* Can policy_check_folded be asked now, by whom it could be before? */
bool
policy_has_folded(TableAccess *access)
{
	return !access->row_security ||
		(access->compiled != NULL && access->compiled->folded_expr != NULL);
}

/*
 * Can rows be checked for many principals without becoming each of them?
 * Then returns true and evaluates the parameters of the principal that has
 * been entered, into the context given; without any, *params is NULL.  They
 * are good for as long as the access has the same basis, as is *quals,
 * the conditions over these parameters.  Errors like policy_check's.
 */
bool
policy_fold(TableAccess *access, MemoryContext context, List **quals,
			ParamListInfo *params)
{
	*quals = NIL;
	*params = NULL;
	policy_prepare(access);
	if (!access->readable || access->undecidable != NULL)
		return false;
	if (!access->row_security)
		return true;
	if (access->compiled->folded_expr == NULL)
		return false;
	*quals = access->compiled->folded.quals;
	*params = evaluate_params(access, access->compiled->folded.params,
							  access->compiled->folded.query, context);
	return true;
}

/*
 * Are there conditions that hold whenever the policies do, and by which the
 * principal that has been entered can be indexed, although it must be asked
 * itself?  Otherwise like policy_fold.  Not if a function in them might change
 * what the parameters were made of.
 */
bool
policy_cover(TableAccess *access, MemoryContext context, List **quals,
			 ParamListInfo *params)
{
	Folded	   *folded;

	policy_prepare(access);
	if (!access->readable || access->undecidable != NULL ||
		access->compiled == NULL)
		return false;
	folded = &access->compiled->folded;
	if (contain_volatile_functions((Node *) folded->quals) ||
		!predicate_may_cover(folded->quals))
		return false;
	*quals = folded->quals;
	*params = evaluate_params(access, folded->params, folded->query, context);
	return true;
}

/*
 * policy_check for the principal whose parameters these are, if policy_fold
 * said that it can be; no principal needs to be entered.
 */
Verdict
policy_check_folded(TableAccess *access, ParamListInfo params,
					const PolicyRow *row)
{
	if (!access->row_security)
		return VERDICT_YES;
	if (!policy_has_folded(access))
		elog(ERROR, "row security changed while it was asked");
	return rowcheck_run_with(access->compiled->folded_expr, params, row);
}

/*
 * Can policies with sub-queries be asked about many principals at once?  Then
 * returns true and evaluates what they take from the principal that has been
 * entered, into the context given; good for as long as the access has the same
 * basis, as is *quals, conditions by which they can be indexed (see
 * setcheck_quals).  Errors like policy_check's.
 */
bool
policy_fold_set(TableAccess *access, MemoryContext context,
				List **quals, ParamListInfo *params)
{
	*params = NULL;
	*quals = NIL;
	policy_prepare(access);
	if (!ensure_set(access))
		return false;
	*params = evaluate_params(access, setcheck_params(access->compiled->set),
							  setcheck_params_query(access->compiled->set),
							  context);
	*quals = setcheck_quals(access->compiled->set);
	return true;
}

/* Make what policy_check_set needs, if that is possible. */
void
policy_prepare_set(TableAccess *access)
{
	(void) ensure_set(access);
}

/* Is there, or can there be made, what asks about many principals? */
static bool
ensure_set(TableAccess *access)
{
	CompiledPolicy *compiled = access->compiled;

	if (!access->readable || access->undecidable != NULL || compiled == NULL ||
		!compiled->sublinks || compiled->bound_to != NULL ||
		compiled->columns.whole_row)
		return false;
	if (!compiled->set_tried)
		make_set(access, compiled);
	return compiled->set != NULL;
}

/* After an error, there is none, and it is not tried again. */
static void
make_set(TableAccess *access, CompiledPolicy *compiled)
{
	uint64		invalidations_before = invalidations;
	MemoryContext oldcontext;
	SetCheck   *set;
	RowPlan		plan;

	compiled->set_tried = true;
	set = setcheck_create(compiled->quals, compiled->desc,
						  compiled->columns.attnums, compiled->plan_context,
						  &plan);
	oldcontext = MemoryContextSwitchTo(compiled->plan_context);
	compiled->relation_oids = list_concat_unique_oid(compiled->relation_oids,
													 plan.relation_oids);
	compiled->inval_items = list_concat(compiled->inval_items,
										plan.inval_items);
	MemoryContextSwitchTo(oldcontext);
	remember_functions(access, compiled->inval_items);
	compiled->set = set;
	if (!keeps_set_promise(compiled))
		access->basis = ++last_generation;
	if (invalidations != invalidations_before)
		access->valid = false;
}

/* Does asking about many at once rest, because it took too long? */
bool
policy_set_suspended(TableAccess *access)
{
	return access->set_suspended_until != 0 &&
		clock_now() < access->set_suspended_until;
}

/*
 * About what it costs per row and principal, in microseconds.  Infinite if the
 * access has been built anew since policy_fold_set, as it may have been by any
 * question that was asked alone.
 */
double
policy_set_cost(TableAccess *access)
{
	if (access->compiled == NULL || access->compiled->set == NULL)
		return HUGE_VAL;
	return setcheck_pair_cost(access->compiled->set);
}

/* Be ready to ask about many rows and principals. */
static void
begin_set(TableAccess *access, const PolicyRow *rows, int nrows)
{
	if (GetUserId() != access->roleid || principal_current() != NULL)
		elog(ERROR, "row security of many asked as somebody");
	for (int i = 0; i < nrows; i++)
		if (rows[i].schema->relid != access->relid)
			elog(ERROR, "row security asked about a row of another table");
	if (access->compiled == NULL || access->compiled->set == NULL)
		elog(ERROR, "row security changed while it was asked");
	setcheck_lock(access->compiled->set);
	if (!access->valid)
		elog(ERROR, "row security changed while it was asked");
}

/* After an error: if it took too long, it is not tried for a while. */
static void
suspend_set(TableAccess *access)
{
	if (principal_timed_out())
		access->set_suspended_until =
			clock_in((int64) rtsync_policy_timeout * SUSPENSION_FACTOR);
}

/*
 * Ask about many rows and the principals with these parameters, for whom
 * policy_fold_set said that it can be done.  The role has been entered, but no
 * principal.  An error says only that it must be asked otherwise; it must not
 * be shown to anybody.
 */
void
policy_check_set(TableAccess *access, const PolicyRow *rows, int nrows,
				 ParamListInfo *principals, int nprincipals,
				 SetAnswers *answers)
{
	begin_set(access, rows, nrows);
	PG_TRY();
	{
		setcheck_run(access->compiled->set, rows, nrows, principals,
					 nprincipals, answers);
	}
	PG_CATCH();
	{
		suspend_set(access);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * Find what leads from rows to those of these principals that were indexed by
 * the conditions that policy_fold_set gave for them; otherwise likewise.
 */
void
policy_seek_set(TableAccess *access, const PolicyRow *rows, int nrows,
				SetFinds *finds)
{
	begin_set(access, rows, nrows);
	PG_TRY();
	{
		setcheck_seek(access->compiled->set, rows, nrows, finds);
	}
	PG_CATCH();
	{
		suspend_set(access);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * Plan "SELECT FROM row WHERE conditions".  The query is built as the parser
 * would have left it; the rewriter then adds the row security of the tables in
 * the sub-queries.
 */
static void
plan_query(CompiledPolicy *compiled, RowPlan *plan)
{
	Query	   *query = makeNode(Query);
	RangeTblRef *ref = makeNode(RangeTblRef);
	List	   *rewritten;
	bool		has_row_security;

	ref->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->querySource = QSRC_ORIGINAL;
	query->canSetTag = true;
	query->rtable = list_make1(row_rte(compiled->desc));
	query->jointree = makeFromExpr(list_make1(ref),
								   (Node *) make_ands_explicit(copyObject(compiled->quals)));
	query->hasSubLinks = true;
	query->hasRowSecurity = true;

	AcquireRewriteLocks(query, true, false);
	rewritten = QueryRewrite(query);
	if (list_length(rewritten) != 1)
		elog(ERROR, "row security became %d queries", list_length(rewritten));
	compiled->query_signature = signature_of(nodeToString(rewritten));
	extract_query_dependencies((Node *) rewritten, &plan->relation_oids,
							   &plan->inval_items, &has_row_security);

	rowcheck_watch_begin();
	compiled->query = pg_plan_query(linitial_node(Query, rewritten),
									"row security", 0, NULL);
	plan->bound = rowcheck_watch_end();

	/* it runs for one row: never worth compiling */
	compiled->query->jitFlags = PGJIT_NONE;
	plan->relation_oids = list_concat_unique_oid(NIL,
												 list_concat(plan->relation_oids,
															 compiled->query->relationOids));
	plan->inval_items = list_concat(plan->inval_items,
									compiled->query->invalItems);

	compiled->row = palloc0(sizeof(EphemeralNamedRelationData));
	compiled->row->md.name = ROW_NAME;
	compiled->row->md.tupdesc = CreateTupleDescCopy(compiled->desc);
	compiled->row->md.enrtype = ENR_NAMED_TUPLESTORE;
	compiled->row->md.enrtuples = 1;
	compiled->query_env = create_queryEnv();
	register_ENR(compiled->query_env, compiled->row);
	compiled->run_context = AllocSetContextCreate(compiled->plan_context,
												  "rtsync policy run",
												  ALLOCSET_DEFAULT_SIZES);
}

/* The tuplestore as a range table entry with the table's columns. */
static RangeTblEntry *
row_rte(TupleDesc desc)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_NAMEDTUPLESTORE;
	rte->enrname = ROW_NAME;
	rte->enrtuples = 1;
	rte->inFromCl = true;
	rte->eref = makeAlias(ROW_NAME, NIL);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		dropped = att->attisdropped;

		rte->eref->colnames =
			lappend(rte->eref->colnames,
					makeString(dropped ? "" : pstrdup(NameStr(att->attname))));
		rte->coltypes = lappend_oid(rte->coltypes,
									dropped ? InvalidOid : att->atttypid);
		rte->coltypmods = lappend_int(rte->coltypmods,
									  dropped ? 0 : att->atttypmod);
		rte->colcollations = lappend_oid(rte->colcollations,
										 dropped ? InvalidOid : att->attcollation);
	}
	return rte;
}

/* Evaluate conditions with sub-queries; the locks are held. */
static Verdict
check_query(CompiledPolicy *compiled, const PolicyRow *row)
{
	MemoryContext oldcontext;
	int			natts = compiled->desc->natts;
	Datum	   *values;
	bool	   *isnull;
	Tuplestorestate *store;
	Verdict		verdict = VERDICT_UNKNOWN;

	/* also frees what an error left */
	MemoryContextReset(compiled->run_context);
	oldcontext = MemoryContextSwitchTo(compiled->run_context);

	values = palloc(natts * sizeof(Datum));
	isnull = palloc(natts * sizeof(bool));
	if (rowcheck_fetch(compiled->desc, compiled->columns.attnums, row,
					   values, isnull))
	{
		int			nestlevel = NewGUCNestLevel();

		store = tuplestore_begin_heap(false, false, work_mem);
		tuplestore_putvalues(store, compiled->row->md.tupdesc, values, isnull);
		verdict = run_query(compiled, store) ? VERDICT_YES : VERDICT_NO;
		tuplestore_end(store);

		/* what one evaluation changes, the next one must not see */
		AtEOXact_GUC(false, nestlevel);
		principal_progress();
	}
	MemoryContextSwitchTo(oldcontext);
	return verdict;
}

/* Did the row come out? */
static bool
run_query(CompiledPolicy *compiled, Tuplestorestate *store)
{
	QueryDesc  *desc;
	bool		result;

	compiled->row->reldata = store;
	desc = CreateQueryDesc(compiled->query, "row security",
						   GetActiveSnapshot(), InvalidSnapshot,
						   None_Receiver, NULL, compiled->query_env, 0);
	ExecutorStart(desc, 0);
	compat_executor_run(desc, 1);
	result = desc->estate->es_processed > 0;
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
	compiled->row->reldata = NULL;
	return result;
}

/*--------------------------------------------------------------------------
 * Invalidation: mark, nothing else
 *--------------------------------------------------------------------------
 */

static void
invalidate_relation_cb(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	TableAccess *access;

	invalidations++;
	hash_seq_init(&status, accesses);
	while ((access = hash_seq_search(&status)) != NULL)
	{
		if (!access->valid)
			continue;
		if (relid == InvalidOid || access->relid == relid ||
			(access->compiled != NULL &&
			 list_member_oid(access->compiled->relation_oids, relid)))
			access->valid = false;
	}
}

static bool
calls_function(const TableAccess *access, uint32 hashvalue)
{
	for (int i = 0; i < access->nfunctions; i++)
		if (access->functions[i] == hashvalue)
			return true;
	return false;
}

static bool
depends_on_item(const TableAccess *access, int cacheid, uint32 hashvalue)
{
	ListCell   *lc;

	if (access->compiled == NULL)
		return false;
	foreach(lc, access->compiled->inval_items)
	{
		PlanInvalItem *item = lfirst_node(PlanInvalItem, lc);

		if (item->cacheId == cacheid && item->hashValue == hashvalue)
			return true;
	}
	return false;
}

/*
 * A function or a type has changed.  That of a function counts whether or not
 * the entry is valid, or planned, just now.
 */
static void
invalidate_item_cb(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS status;
	TableAccess *access;

	invalidations++;
	hash_seq_init(&status, accesses);
	while ((access = hash_seq_search(&status)) != NULL)
	{
		if (hashvalue != 0 && cacheid == PROCOID &&
			calls_function(access, hashvalue))
		{
			access->function_changes++;
			access->valid = false;
		}
		else if (access->compiled != NULL &&
				 (hashvalue == 0 ||
				  depends_on_item(access, cacheid, hashvalue)))
			access->valid = false;
	}
}

/* A role, a membership, a schema or an operator has changed. */
static void
invalidate_all_cb(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidate_relation_cb(arg, InvalidOid);
}
