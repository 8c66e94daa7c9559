/*-------------------------------------------------------------------------
 *
 * setcheck.c
 *	  Conditions with sub-queries, asked for many rows and many principals at
 *	  once.
 *
 * Policies with sub-queries need the executor.  Asked for one row and one
 * principal at a time, its start and end cost more than the answer.  So we
 * plan
 *
 *		SELECT r.number, p.number FROM rows r, principals p WHERE conditions
 *
 * once, run it for all rows and principals at hand, and get the pairs that
 * match: what a row costs then follows from who sees it.  Rows and principals
 * are tuplestores.
 *
 * The conditions are prepared as follows.
 *
 * 1. The rewriter adds the row security of the tables inside, as everywhere.
 * 2. SQL functions are inlined, "(SELECT f())" replaced by f().
 * 3. What depends on the principal's claims, row security of the inner tables
 *	  included, is taken out (fold.c): it is evaluated once for each principal
 *	  and becomes columns of the relation of principals.
 * 4. What is left must give all principals of the role the same answer, as it
 *	  is evaluated for all of them at once, without the claims of any.  If that
 *	  is not certain, there is no SetCheck, and each principal is asked alone.
 * 5. Where the conditions consist of them, OR becomes several queries and
 *	  sub-queries become joins (unnest.c), where the planner thinks that this
 *	  is cheaper.
 *
 * So nothing that a user wrote runs here but for SQL that has been inlined,
 * and C functions that are called IMMUTABLE.  An error in the query (a
 * division by zero, say) may be one that the conditions themselves would not
 * have raised, and its text may speak of rows that row security hides: the
 * caller must forget it, and ask again in smaller sets, at last one by one.
 *
 * Called by policy.c, under the role; setcheck_create under a principal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "jit/jit.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/plannodes.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "engine/compat.h"
#include "engine/fold.h"
#include "engine/principal.h"
#include "engine/setcheck.h"
#include "engine/setseek.h"
#include "engine/unnest.h"

/* The names of the query's relations */
#define ROWS_NAME "rtsync_rows"
#define PRINCIPALS_NAME "rtsync_principals"

/* There are two plans, for so many rows at most and for more of them. */
#define FEW_ROWS 10

/* What the planner is told */
#define EXPECTED_FEW_ROWS 2
#define EXPECTED_MANY_ROWS 200
#define EXPECTED_PRINCIPALS 1000

/* About what a pair costs, in microseconds, if each is looked at or not */
#define PAIR_COST_SUBPLANS 1.0
#define PAIR_COST_JOINS 0.02
#define PAIR_COST_SOUGHT 0.002	/* there is a way from rows to principals */

struct SetCheck
{
	MemoryContext run_context;	/* for one run */
	TupleDesc	desc;			/* the table's columns, with missing values */
	Bitmapset  *attnums;		/* the columns that the conditions read */
	List	   *params;			/* the principals' columns, from the second on */
	PlannedStmt *params_query;	/* evaluates them; NULL: they have no
								 * sub-queries */
	EphemeralNamedRelation rows;	/* its store set at each run */
	EphemeralNamedRelation principals;	/* likewise */
	QueryEnvironment *query_env;
	List	   *few;			/* of PlannedStmt, for few rows ... */
	List	   *many;			/* ... and for many; the results of all are to
								 * be united */
	bool		subplans;		/* some plan looks at each pair */
	List	   *quals;			/* under which a pair can match; NIL: there is
								 * no way from rows to principals ... */
	List	   *few_seeks;		/* of PlannedStmt, for few rows ... */
	List	   *many_seeks;		/* ... and for many: they find what quals say */
};

/* Takes the pairs that a query finds */
typedef struct PairReceiver
{
	DestReceiver pub;
	SetAnswers *answers;
} PairReceiver;

/* Takes the values that a query finds */
typedef struct FindReceiver
{
	DestReceiver pub;
	SetFinds   *finds;
	int			number;			/* of the query */
	int16		typlen;			/* of the values; 0: not known yet */
	bool		byval;
} FindReceiver;

/*--------------------------------------------------------------------------
 * Preparing the query
 *--------------------------------------------------------------------------
 */

static void
rte_add_column(RangeTblEntry *rte, const char *name, Oid type, int32 typmod,
			   Oid collation)
{
	rte->eref->colnames = lappend(rte->eref->colnames,
								  makeString(pstrdup(name)));
	rte->coltypes = lappend_oid(rte->coltypes, type);
	rte->coltypmods = lappend_int(rte->coltypmods, typmod);
	rte->colcollations = lappend_oid(rte->colcollations, collation);
}

static RangeTblEntry *
store_rte(const char *name)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_NAMEDTUPLESTORE;
	rte->enrname = pstrdup(name);
	rte->inFromCl = true;
	rte->eref = makeAlias(name, NIL);
	return rte;
}

/* The table's columns, and behind them the row's number */
static RangeTblEntry *
rows_rte(TupleDesc desc)
{
	RangeTblEntry *rte = store_rte(ROWS_NAME);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			rte_add_column(rte, "", InvalidOid, 0, InvalidOid);
		else
			rte_add_column(rte, NameStr(att->attname), att->atttypid,
						   att->atttypmod, att->attcollation);
	}
	rte_add_column(rte, "", INT4OID, -1, InvalidOid);
	return rte;
}

static RangeTblRef *
range_table_ref(int rtindex)
{
	RangeTblRef *ref = makeNode(RangeTblRef);

	ref->rtindex = rtindex;
	return ref;
}

static TargetEntry *
number_target(Index varno, AttrNumber attno, AttrNumber resno)
{
	return makeTargetEntry((Expr *) makeVar(varno, attno, INT4OID, -1,
											InvalidOid, 0),
						   resno, pstrdup("number"), false);
}

/*
 * The query, as the parser would have left it; the principals have only their
 * number so far.
 */
static Query *
parsed_query(List *quals, TupleDesc desc)
{
	Query	   *query = makeNode(Query);
	RangeTblEntry *principals = store_rte(PRINCIPALS_NAME);

	rte_add_column(principals, "number", INT4OID, -1, InvalidOid);
	query->commandType = CMD_SELECT;
	query->querySource = QSRC_ORIGINAL;
	query->canSetTag = true;
	query->rtable = list_make2(rows_rte(desc), principals);
	query->jointree =
		makeFromExpr(list_make2(range_table_ref(ROWS_VARNO),
								range_table_ref(PRINCIPALS_VARNO)),
					 (Node *) make_ands_explicit(copyObject(quals)));
	query->targetList = list_make2(number_target(ROWS_VARNO, desc->natts + 1, 1),
								   number_target(PRINCIPALS_VARNO, 1, 2));
	query->hasSubLinks = true;
	query->hasRowSecurity = true;
	return query;
}

/* Have the server add the row security of the tables inside. */
static Query *
rewritten_query(Query *query, RowPlan *plan)
{
	List	   *rewritten;
	bool		has_row_security;

	AcquireRewriteLocks(query, true, false);
	rewritten = QueryRewrite(query);
	if (list_length(rewritten) != 1)
		elog(ERROR, "row security became %d queries", list_length(rewritten));
	extract_query_dependencies((Node *) rewritten, &plan->relation_oids,
							   &plan->inval_items, &has_row_security);
	return linitial_node(Query, rewritten);
}

/* Give the principals the columns that have been taken out. */
static void
add_principal_columns(RangeTblEntry *rte, List *params)
{
	ListCell   *lc;

	foreach(lc, params)
	{
		Node	   *expr = lfirst(lc);

		rte_add_column(rte, "", exprType(expr), exprTypmod(expr),
					   exprCollation(expr));
	}
}

/*--------------------------------------------------------------------------
 * Is it the same for all principals?
 *--------------------------------------------------------------------------
 */

static bool individual_walker(Node *node, void *context);

static bool
individual_query(Query *query)
{
	if (query->commandType != CMD_SELECT || query->hasModifyingCTE ||
		query->hasForUpdate || query->rowMarks != NIL)
		return true;
	return query_tree_walker(query, individual_walker, NULL,
							 QTW_EXAMINE_RTES_BEFORE | QTW_EXAMINE_SORTGROUP);
}

static bool
individual_operator(Oid opno)
{
	return OidIsValid(opno) && rowcheck_individual_function(get_opcode(opno), NULL);
}

static bool
individual_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Query:
			return individual_query((Query *) node);
		case T_RangeTblEntry:
			/* its parts are walked through by themselves */
			return ((RangeTblEntry *) node)->rtekind == RTE_TABLEFUNC ||
				((RangeTblEntry *) node)->relkind == RELKIND_FOREIGN_TABLE;
		case T_SortGroupClause:
			return individual_operator(((SortGroupClause *) node)->eqop) ||
				individual_operator(((SortGroupClause *) node)->sortop);
			/* a domain's constraints may call anything */
		case T_CoerceToDomain:
		case T_CoerceToDomainValue:
		case T_NextValueExpr:
		case T_CurrentOfExpr:
		case T_XmlExpr:
			return true;
		default:
			break;
	}
	if (compat_is_json_expr(node) || rowcheck_individual_node(node))
		return true;
	return expression_tree_walker(node, individual_walker, context);
}

/*--------------------------------------------------------------------------
 * Planning
 *--------------------------------------------------------------------------
 */

static void
expect_rows(Query *query, int nrows)
{
	RangeTblEntry *rows = list_nth(query->rtable, ROWS_VARNO - 1);
	RangeTblEntry *principals = list_nth(query->rtable, PRINCIPALS_VARNO - 1);

	rows->enrtuples = nrows;
	principals->enrtuples = EXPECTED_PRINCIPALS;
}

static PlannedStmt *
plan_one(Query *query, int nrows)
{
	PlannedStmt *planned;

	expect_rows(query, nrows);
	planned = pg_plan_query(query, "row security", 0, NULL);
	planned->jitFlags = PGJIT_NONE;
	return planned;
}

/* Plan the query with these conditions, the cheaper way. */
static PlannedStmt *
plan_arm(const Query *query, List *quals, int nrows)
{
	Query	   *nested = copyObject(unconstify(Query *, query));
	Query	   *joined;
	PlannedStmt *planned;
	PlannedStmt *other;

	nested->jointree->quals = (Node *) make_ands_explicit(copyObject(quals));
	joined = copyObject(nested);
	planned = plan_one(nested, nrows);
	if (!unnest_sublinks(joined, PRINCIPALS_VARNO))
		return planned;
	other = plan_one(joined, nrows);
	return other->planTree->total_cost < planned->planTree->total_cost ?
		other : planned;
}

static List *
plan_arms(SetCheck *check, const Query *query, int nrows, RowPlan *plan)
{
	List	   *quals = make_ands_implicit((Expr *) query->jointree->quals);
	List	   *arms = unnest_arms(quals);
	List	   *planned = NIL;
	ListCell   *lc;

	foreach(lc, arms)
	{
		PlannedStmt *one = plan_arm(query, lfirst(lc), nrows);

		plan->relation_oids = list_concat_unique_oid(plan->relation_oids,
													 one->relationOids);
		plan->inval_items = list_concat(plan->inval_items, one->invalItems);
		check->subplans |= one->subplans != NIL;
		planned = lappend(planned, one);
	}
	return planned;
}

static List *
plan_seeks(List *queries, int nrows, RowPlan *plan)
{
	List	   *planned = NIL;
	ListCell   *lc;

	foreach(lc, queries)
	{
		PlannedStmt *one = plan_one(copyObject(lfirst(lc)), nrows);

		plan->relation_oids = list_concat_unique_oid(plan->relation_oids,
													 one->relationOids);
		plan->inval_items = list_concat(plan->inval_items, one->invalItems);
		planned = lappend(planned, one);
	}
	return planned;
}

/* Find a way from rows to principals, if there is one. */
static void
add_seeks(SetCheck *check, const Query *query, RowPlan *plan)
{
	SetSeek		seek;

	if (!setseek_prepare(query, &seek))
		return;
	check->quals = seek.quals;
	check->few_seeks = plan_seeks(seek.queries, EXPECTED_FEW_ROWS, plan);
	check->many_seeks = plan_seeks(seek.queries, EXPECTED_MANY_ROWS, plan);
}

static EphemeralNamedRelation
add_store(QueryEnvironment *env, const char *name, RangeTblEntry *rte)
{
	EphemeralNamedRelation store = palloc0(sizeof(EphemeralNamedRelationData));

	store->md.name = pstrdup(name);
	store->md.tupdesc = BuildDescFromLists(rte->eref->colnames, rte->coltypes,
										   rte->coltypmods, rte->colcollations);
	store->md.enrtype = ENR_NAMED_TUPLESTORE;
	register_ENR(env, store);
	return store;
}

/*
 * What the tuplestore of rows holds: the table's columns, with their number
 * even where they have been dropped
 */
static EphemeralNamedRelation
add_rows(QueryEnvironment *env, TupleDesc desc)
{
	EphemeralNamedRelation store = palloc0(sizeof(EphemeralNamedRelationData));
	TupleDesc	rowdesc = CreateTemplateTupleDesc(desc->natts + 1);

	for (int i = 1; i <= desc->natts; i++)
		TupleDescCopyEntry(rowdesc, i, desc, i);
	TupleDescInitEntry(rowdesc, desc->natts + 1, "", INT4OID, -1, 0);
	store->md.name = pstrdup(ROWS_NAME);
	store->md.tupdesc = rowdesc;
	store->md.enrtype = ENR_NAMED_TUPLESTORE;
	register_ENR(env, store);
	return store;
}

static SetCheck *
make_check(Query *query, List *params, TupleDesc desc,
		   const Bitmapset *attnums, RowPlan *plan)
{
	SetCheck   *check = palloc0(sizeof(SetCheck));
	RangeTblEntry *principals = list_nth(query->rtable, PRINCIPALS_VARNO - 1);

	check->desc = desc;
	check->attnums = bms_copy(attnums);
	check->params = params;
	check->params_query = fold_plan_params(params);
	add_principal_columns(principals, params);
	check->query_env = create_queryEnv();
	check->rows = add_rows(check->query_env, desc);
	check->principals = add_store(check->query_env, PRINCIPALS_NAME,
								  principals);
	check->few = plan_arms(check, query, EXPECTED_FEW_ROWS, plan);
	check->many = plan_arms(check, query, EXPECTED_MANY_ROWS, plan);
	add_seeks(check, query, plan);
	check->run_context = AllocSetContextCreate(CurrentMemoryContext,
											   "rtsync set check",
											   ALLOCSET_DEFAULT_SIZES);
	return check;
}

/*
 * Prepare conditions on rows of the table described by "desc", as the
 * principal that has been entered; "attnums" are the columns they read, of
 * which none may be a system column or the whole row.  Returns NULL if they
 * cannot be asked for many principals at once.  Dependencies are set in
 * *plan.  The caller keeps quals and desc for as long as the result.
 */
SetCheck *
setcheck_create(List *quals, TupleDesc desc, const Bitmapset *attnums,
				MemoryContext context, RowPlan *plan)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	SetCheck   *check = NULL;
	Query	   *query;
	List	   *params;

	memset(plan, 0, sizeof(*plan));
	rowcheck_watch_begin();
	query = rewritten_query(parsed_query(quals, desc), plan);
	query = (Query *) unnest_trivial((Node *) query, true);
	query = (Query *) rowcheck_inline((Node *) query, plan);
	unnest_security(query);
	query->jointree->quals = unnest_arrays(query->jointree->quals);
	query = fold_query(query, PRINCIPALS_VARNO, 1, &params);
	if (!individual_query(query))
		check = make_check(query, params, desc, attnums, plan);
	if (rowcheck_watch_end())
		check = NULL;
	MemoryContextSwitchTo(old);
	return check;
}

/* The principals' expressions, for fold_evaluate */
List *
setcheck_params(SetCheck *check)
{
	return check->params;
}

/* Likewise, the query to evaluate them by */
PlannedStmt *
setcheck_params_query(SetCheck *check)
{
	return check->params_query;
}

/*
 * Conditions that hold for whoever sees a row, for an index: over the row,
 * their parameters, and as columns of PREDICATE_FOUND_VARNO what setcheck_seek
 * finds for the row.  NIL if there are none.
 */
List *
setcheck_quals(SetCheck *check)
{
	return check->quals;
}

/* About what a pair of row and principal costs, in microseconds */
double
setcheck_pair_cost(SetCheck *check)
{
	if (!check->subplans && check->quals != NIL)
		return PAIR_COST_SOUGHT;
	return check->subplans ? PAIR_COST_SUBPLANS : PAIR_COST_JOINS;
}

/*--------------------------------------------------------------------------
 * Running
 *--------------------------------------------------------------------------
 */

/* The executor expects a plan's tables to be locked. */
void
setcheck_lock_plan(PlannedStmt *plan)
{
	ListCell   *lc;

	foreach(lc, plan->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		/* a view that became a sub-query has an OID from 16 on */
		if (rte->rtekind == RTE_RELATION ||
			(rte->rtekind == RTE_SUBQUERY && OidIsValid(rte->relid)))
			LockRelationOid(rte->relid, rte->rellockmode);
	}
}

/* Lock what a run reads; the news that come with it may end the check. */
void
setcheck_lock(SetCheck *check)
{
	ListCell   *lc;

	foreach(lc, check->few)
		setcheck_lock_plan(lfirst(lc));
	foreach(lc, check->many)
		setcheck_lock_plan(lfirst(lc));
	foreach(lc, check->few_seeks)
		setcheck_lock_plan(lfirst(lc));
	foreach(lc, check->many_seeks)
		setcheck_lock_plan(lfirst(lc));
}

/* No answers yet, in the current memory context */
SetAnswers *
setcheck_answers(int nrows, int nprincipals)
{
	SetAnswers *answers = palloc(sizeof(SetAnswers));

	answers->nrows = nrows;
	answers->nprincipals = nprincipals;
	answers->nwords = (nprincipals + 63) / 64;
	answers->unknown = palloc0(nrows * sizeof(bool));
	answers->bits = palloc0((Size) nrows * answers->nwords * sizeof(uint64));
	return answers;
}

static bool
receive_pair(TupleTableSlot *slot, DestReceiver *self)
{
	SetAnswers *answers = ((PairReceiver *) self)->answers;
	int			row;
	int			principal;

	slot_getallattrs(slot);
	row = DatumGetInt32(slot->tts_values[0]);
	principal = DatumGetInt32(slot->tts_values[1]);
	answers->bits[(size_t) row * answers->nwords + principal / 64] |=
		UINT64CONST(1) << (principal % 64);
	return true;
}

static void
receiver_startup(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static void
receiver_end(DestReceiver *self)
{
}

static bool
receive_find(TupleTableSlot *slot, DestReceiver *self)
{
	FindReceiver *receiver = (FindReceiver *) self;
	SetFinds   *finds = receiver->finds;
	MemoryContext old;
	SetFind    *find;
	int			row;

	slot_getallattrs(slot);
	if (slot->tts_isnull[1])
		return true;
	if (receiver->typlen == 0)
		get_typlenbyval(TupleDescAttr(slot->tts_tupleDescriptor, 1)->atttypid,
						&receiver->typlen, &receiver->byval);
	row = DatumGetInt32(slot->tts_values[0]);
	old = MemoryContextSwitchTo(finds->context);
	find = palloc(sizeof(SetFind));
	find->number = receiver->number;
	find->value = datumCopy(slot->tts_values[1], receiver->byval,
							receiver->typlen);
	find->next = finds->first[row];
	finds->first[row] = find;
	MemoryContextSwitchTo(old);
	return true;
}

static void
run_plan(SetCheck *check, PlannedStmt *planned, DestReceiver *receiver)
{
	QueryDesc  *desc = CreateQueryDesc(planned, "row security",
									   GetActiveSnapshot(), InvalidSnapshot,
									   receiver, NULL, check->query_env, 0);

	ExecutorStart(desc, 0);
	compat_executor_run(desc, 0);
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
}

/* Store the rows that are known well enough, and note which ones are not
 * (unless "unknown" is NULL); returns how many. */
static int
store_rows(SetCheck *check, Tuplestorestate *store, const PolicyRow *rows,
		   int nrows, bool *unknown)
{
	int			natts = check->desc->natts;
	Datum	   *values = palloc((natts + 1) * sizeof(Datum));
	bool	   *isnull = palloc((natts + 1) * sizeof(bool));
	int			stored = 0;

	isnull[natts] = false;
	for (int i = 0; i < nrows; i++)
	{
		if (!rowcheck_fetch(check->desc, check->attnums, &rows[i],
							values, isnull))
		{
			if (unknown != NULL)
				unknown[i] = true;
			continue;
		}
		values[natts] = Int32GetDatum(i);
		tuplestore_putvalues(store, check->rows->md.tupdesc, values, isnull);
		stored++;
	}
	return stored;
}

static void
store_principals(SetCheck *check, Tuplestorestate *store,
				 ParamListInfo *principals, int nprincipals)
{
	int			nparams = list_length(check->params);
	Datum	   *values = palloc((nparams + 1) * sizeof(Datum));
	bool	   *isnull = palloc((nparams + 1) * sizeof(bool));

	isnull[0] = false;
	for (int i = 0; i < nprincipals; i++)
	{
		values[0] = Int32GetDatum(i);
		for (int j = 0; j < nparams; j++)
		{
			values[j + 1] = principals[i]->params[j].value;
			isnull[j + 1] = principals[i]->params[j].isnull;
		}
		tuplestore_putvalues(store, check->principals->md.tupdesc,
							 values, isnull);
	}
}

/*
 * Ask which of the principals, given by their parameters, see which of the
 * rows; the locks are held.  Needs an active snapshot.  Any error may be
 * raised.
 */
void
setcheck_run(SetCheck *check, const PolicyRow *rows, int nrows,
			 ParamListInfo *principals, int nprincipals, SetAnswers *answers)
{
	PairReceiver receiver = {
		.pub = {receive_pair, receiver_startup, receiver_end, receiver_end,
		DestNone},
		.answers = answers
	};
	MemoryContext old;
	int			stored;
	ListCell   *lc;

	/* also frees what an error left */
	MemoryContextReset(check->run_context);
	old = MemoryContextSwitchTo(check->run_context);
	check->rows->reldata = tuplestore_begin_heap(false, false, work_mem);
	check->principals->reldata = tuplestore_begin_heap(false, false, work_mem);
	stored = store_rows(check, check->rows->reldata, rows, nrows,
						answers->unknown);
	if (stored > 0)
	{
		store_principals(check, check->principals->reldata, principals,
						 nprincipals);
		foreach(lc, stored <= FEW_ROWS ? check->few : check->many)
			run_plan(check, lfirst(lc), &receiver.pub);
	}
	tuplestore_end(check->rows->reldata);
	tuplestore_end(check->principals->reldata);
	check->rows->reldata = check->principals->reldata = NULL;
	MemoryContextSwitchTo(old);
	principal_progress();
}

/*
 * Find for each row what the check's quals say of it, in the context of *finds;
 * the locks are held.  Of rows that are not known well enough nothing is found.
 * Needs an active snapshot.  Any error may be raised.
 */
void
setcheck_seek(SetCheck *check, const PolicyRow *rows, int nrows,
			  SetFinds *finds)
{
	FindReceiver receiver = {
		.pub = {receive_find, receiver_startup, receiver_end, receiver_end,
		DestNone},
		.finds = finds
	};
	MemoryContext old;
	int			stored;
	ListCell   *lc;

	finds->first = MemoryContextAllocZero(finds->context,
										  Max(nrows, 1) * sizeof(SetFind *));
	MemoryContextReset(check->run_context);
	old = MemoryContextSwitchTo(check->run_context);
	check->rows->reldata = tuplestore_begin_heap(false, false, work_mem);
	stored = store_rows(check, check->rows->reldata, rows, nrows, NULL);
	if (stored > 0)
		foreach(lc, stored <= FEW_ROWS ? check->few_seeks : check->many_seeks)
	{
		receiver.number++;
		receiver.typlen = 0;
		run_plan(check, lfirst(lc), &receiver.pub);
	}
	tuplestore_end(check->rows->reldata);
	check->rows->reldata = NULL;
	MemoryContextSwitchTo(old);
	principal_progress();
}
