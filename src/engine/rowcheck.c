/*-------------------------------------------------------------------------
 *
 * rowcheck.c
 *	  Conditions over one row, evaluated on a tuple of the history.
 *
 * Conditions are expressions over the table as it is now (Vars of varno 1);
 * the tuple has the layout that the table had when the row changed.  Columns
 * keep their number for life, so a column is taken over by its number, if it
 * still means the same:
 *	  - same type: its value, whatever its name is now;
 *	  - in no tuple, as it had been added without a default: null;
 *	  - added since: what SELECT shows for rows stored before, if the catalog
 *		remembers a constant default (the "missing value"); otherwise it is
 *		not known: the table may have been rewritten with values that the
 *		tuple does not have;
 *	  - another type, or dropped then: not known.
 * What is not known decides nothing.
 *
 * A RowCheck is kept across transactions.  It holds no lock, no reference to a
 * relation, no snapshot and no counted tuple descriptor; functions that keep
 * state of their own in FmgrInfo (SQL functions, procedural languages) check
 * themselves whether it is of this transaction.  An error in the middle of an
 * evaluation leaves its state in doubt, and the next one builds it anew.
 *
 * Used by policy.c and filter.c, under the principal's role.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/transam.h"
#include "access/tupdesc_details.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/principal.h"
#include "engine/rowcheck.h"

struct RowCheck
{
	MemoryContext state_context;	/* holds state, econtext and slot */
	List	   *quals;
	TupleDesc	desc;			/* the table's columns, with missing values */
	Bitmapset  *attnums;		/* the columns that quals read */
	bool		opaque;			/* user's code runs: it may change settings */
	bool		running;		/* still set: the last evaluation failed */
	ExprState  *state;
	ExprContext *econtext;
	TupleTableSlot *slot;
};

typedef struct ColumnsContext
{
	RowColumns *columns;
	TupleDesc	desc;
	int			sublevels_up;
} ColumnsContext;

/* Does what users wrote run while we plan? */
static object_access_hook_type prev_object_access_hook = NULL;
static bool watch_installed = false;
static bool watched = false;

static bool columns_walker(Node *node, ColumnsContext *context);
static void watch_cb(ObjectAccessType access, Oid classId, Oid objectId,
					 int subId, void *arg);
static bool opaque_function(Oid funcid, void *context);
static bool opaque_walker(Node *node, void *context);
static bool session_walker(Node *node, void *context);
static void build_state(RowCheck *expr);

/*
 * Collect the columns that "node" reads of the table described by "desc",
 * those that its sub-queries read included.
 */
void
rowcheck_columns(Node *node, TupleDesc desc, RowColumns *columns)
{
	ColumnsContext context = {columns, desc, 0};

	memset(columns, 0, sizeof(*columns));
	(void) columns_walker(node, &context);

	if (columns->whole_row)
	{
		for (int i = 0; i < desc->natts; i++)
		{
			if (!TupleDescAttr(desc, i)->attisdropped)
				columns->attnums = bms_add_member(columns->attnums, i + 1);
		}
	}
}

static bool
columns_walker(Node *node, ColumnsContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varlevelsup != context->sublevels_up || var->varno != 1)
			return false;
		if (var->varattno > 0)
			context->columns->attnums =
				bms_add_member(context->columns->attnums, var->varattno);
		else if (var->varattno == 0)
			context->columns->whole_row = true;
		else
			context->columns->system_column = true;
		return false;
	}
	if (IsA(node, Query))
	{
		bool		result;

		context->sublevels_up++;
		result = query_tree_walker((Query *) node, columns_walker, context, 0);
		context->sublevels_up--;
		return result;
	}
	return expression_tree_walker(node, columns_walker, context);
}

/*
 * Plan conditions without sub-queries, under the current role (inlining checks
 * its rights) and, if they may be bound, under the claims they will be
 * evaluated with.  Everything is allocated in the current context.
 */
void
rowcheck_plan(List *quals, RowPlan *plan)
{
	Expr	   *expr = make_ands_explicit(copyObject(quals));

	plan->relation_oids = NIL;
	plan->inval_items = NIL;
	rowcheck_watch_begin();
	expr = expression_planner_with_deps(expr, &plan->relation_oids,
										&plan->inval_items);
	plan->bound = rowcheck_watch_end();
	plan->quals = make_ands_implicit(expr);
}

static Node *inline_clause(Node *node, void *plan);

/* Go on to the sub-queries of an expression that has been simplified. */
static Node *
inline_mutator(Node *node, void *plan)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
		return (Node *) query_tree_mutator((Query *) node, inline_clause,
										   plan, 0);
	return expression_tree_mutator(node, inline_mutator, plan);
}

static Node *
inline_clause(Node *node, void *arg)
{
	RowPlan    *plan = arg;
	List	   *relation_oids = NIL;
	List	   *inval_items = NIL;

	if (node != NULL && !IsA(node, Query))
	{
		node = (Node *) expression_planner_with_deps((Expr *) node,
													 &relation_oids,
													 &inval_items);
		plan->relation_oids = list_concat_unique_oid(plan->relation_oids,
													 relation_oids);
		plan->inval_items = list_concat(plan->inval_items, inval_items);
	}
	return inline_mutator(node, plan);
}

/*
 * Inline the functions in an expression or a query, and in its sub-queries, as
 * rowcheck_plan does it.  Dependencies are added to *plan.
 */
Node *
rowcheck_inline(Node *node, RowPlan *plan)
{
	return inline_clause(node, plan);
}

/*
 * From here to rowcheck_watch_end, note whether the planner executes a function
 * that a user has written and called IMMUTABLE.  Such a function may look at
 * the claims nevertheless (a "current user" function is easily declared so),
 * and what it returned is now a constant in the plan.
 */
void
rowcheck_watch_begin(void)
{
	if (!watch_installed)
	{
		prev_object_access_hook = object_access_hook;
		object_access_hook = watch_cb;
		watch_installed = true;
	}
	watched = false;
}

bool
rowcheck_watch_end(void)
{
	return watched;
}

static void
watch_cb(ObjectAccessType access, Oid classId, Oid objectId, int subId,
		 void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if (access == OAT_FUNCTION_EXECUTE && !watched &&
		objectId >= FirstNormalObjectId)
	{
		HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(objectId));

		if (HeapTupleIsValid(tuple))
		{
			Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);

			/* C code is the superuser's; STABLE runs only for estimates */
			if (proc->provolatile == PROVOLATILE_IMMUTABLE &&
				proc->prolang != INTERNALlanguageId &&
				proc->prolang != ClanguageId)
				watched = true;
			ReleaseSysCache(tuple);
		}
	}
}

/*
 * Can this function run code that changes settings?  Whatever a user wrote
 * can, and so can built-in functions that evaluate a domain's constraints or
 * read a view (table_to_xml, for one); none of these is IMMUTABLE.
 */
static bool
opaque_function(Oid funcid, void *context)
{
	if (funcid == F_CURRENT_SETTING_TEXT ||
		funcid == F_CURRENT_SETTING_TEXT_BOOL || funcid == F_NOW)
		return false;
	return funcid >= FirstNormalObjectId ||
		func_volatile(funcid) != PROVOLATILE_IMMUTABLE;
}

static bool
opaque_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	/* a domain's constraints may call anything */
	if (IsA(node, CoerceToDomain))
		return true;
	if (check_functions_in_node(node, opaque_function, context))
		return true;
	return expression_tree_walker(node, opaque_walker, context);
}

static bool
is_c_function(Oid funcid)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	result = ((Form_pg_proc) GETSTRUCT(tuple))->prolang == ClanguageId;
	ReleaseSysCache(tuple);
	return result;
}

/* Built-in code that takes anything may call what the thing's type has. */
static bool
takes_anything(Oid funcid)
{
	Oid		   *types;
	int			ntypes;
	Oid			result = get_func_signature(funcid, &types, &ntypes);

	if (result == XMLOID || get_typtype(result) == TYPTYPE_PSEUDO)
		return true;
	for (int i = 0; i < ntypes; i++)
		if (get_typtype(types[i]) == TYPTYPE_PSEUDO)
			return true;
	return false;
}

/*
 * May the function look at the claims, or give another answer each time?
 * Built-in functions that are STABLE depend on settings and catalogs, which
 * are the same for all principals of a role, unless they run code of users:
 * by way of a type, or in XML.
 */
bool
rowcheck_individual_function(Oid funcid, void *context)
{
	char		volatility = func_volatile(funcid);

	if (volatility == PROVOLATILE_VOLATILE)
		return true;
	if (funcid >= FirstNormalObjectId)
		return volatility != PROVOLATILE_IMMUTABLE || !is_c_function(funcid);
	if (volatility == PROVOLATILE_IMMUTABLE)
		return false;
	return funcid == F_CURRENT_SETTING_TEXT ||
		funcid == F_CURRENT_SETTING_TEXT_BOOL || takes_anything(funcid);
}

/* Is this to_jsonb of a number, a text or the like? */
bool
rowcheck_is_scalar_jsonb(Node *node)
{
	if (!IsA(node, FuncExpr) || ((FuncExpr *) node)->funcid != F_TO_JSONB)
		return false;
	switch (exprType(linitial(((FuncExpr *) node)->args)))
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case UUIDOID:
			return true;
		default:
			return false;
	}
}

/* Likewise, for the functions that a node itself calls */
bool
rowcheck_individual_node(Node *node)
{
	return !rowcheck_is_scalar_jsonb(node) &&
		check_functions_in_node(node, rowcheck_individual_function, NULL);
}

static bool
session_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, CoerceToDomain) || IsA(node, SubLink) || IsA(node, Query) ||
		IsA(node, NextValueExpr) || IsA(node, XmlExpr) ||
		compat_is_json_expr(node))
		return true;
	if (rowcheck_individual_node(node))
		return true;
	return expression_tree_walker(node, session_walker, context);
}

/*
 * Can the conditions give two principals of one role different answers?
 * False only if it is certain that they cannot.
 */
bool
rowcheck_reads_session(Node *node)
{
	return session_walker(node, NULL);
}

/*
 * Prepare planned conditions for evaluation on rows of the table described by
 * "desc"; "attnums" are the columns they read.  The caller keeps quals, desc
 * and attnums for as long as the result.
 */
RowCheck *
rowcheck_create(List *quals, TupleDesc desc, const Bitmapset *attnums,
				MemoryContext context)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	RowCheck   *expr = palloc0(sizeof(RowCheck));

	expr->quals = quals;
	expr->desc = desc;
	expr->attnums = bms_copy(attnums);
	expr->opaque = opaque_walker((Node *) quals, NULL);
	expr->state_context = AllocSetContextCreate(context, "rtsync row check",
												ALLOCSET_SMALL_SIZES);
	build_state(expr);

	MemoryContextSwitchTo(oldcontext);
	return expr;
}

/*
 * Checks that the current role may execute the functions.  The expression has
 * no parent plan: so it is never compiled to machine code.
 */
static void
build_state(RowCheck *expr)
{
	MemoryContext oldcontext;

	expr->running = true;
	MemoryContextReset(expr->state_context);
	oldcontext = MemoryContextSwitchTo(expr->state_context);
	expr->econtext = CreateStandaloneExprContext();
	expr->slot = MakeSingleTupleTableSlot(expr->desc, &TTSOpsVirtual);
	expr->state = ExecInitQual(expr->quals, NULL);
	MemoryContextSwitchTo(oldcontext);
	expr->running = false;
}

/*
 * Evaluate the conditions on a row, as the current role; needs an active
 * snapshot.  Errors of what users wrote are raised.
 */
Verdict
rowcheck_run(RowCheck *expr, const PolicyRow *row)
{
	return rowcheck_run_with(expr, NULL, row);
}

/* Likewise, with values for the parameters in the conditions. */
Verdict
rowcheck_run_with(RowCheck *expr, ParamListInfo params, const PolicyRow *row)
{
	TupleTableSlot *slot;
	bool		result;
	int			nestlevel = 0;

	if (expr->running)
		build_state(expr);

	slot = ExecClearTuple(expr->slot);
	if (!rowcheck_fetch(expr->desc, expr->attnums, row,
						slot->tts_values, slot->tts_isnull))
		return VERDICT_UNKNOWN;
	ExecStoreVirtualTuple(slot);

	/* what one evaluation changes, the next one must not see */
	if (expr->opaque)
		nestlevel = NewGUCNestLevel();

	expr->running = true;
	expr->econtext->ecxt_scantuple = slot;
	expr->econtext->ecxt_param_list_info = params;
	result = ExecQual(expr->state, expr->econtext);
	ResetExprContext(expr->econtext);
	expr->running = false;

	if (expr->opaque)
		AtEOXact_GUC(false, nestlevel);
	principal_progress();
	return result ? VERDICT_YES : VERDICT_NO;
}

/*
 * Take the columns "attnums" of a row over into arrays in the layout of the
 * table as it is now; the others become NULL.  By-reference values point into
 * the row or into desc.
 *
 * Returns false if one of the columns is not known.
 */
bool
rowcheck_fetch(TupleDesc desc, const Bitmapset *attnums, const PolicyRow *row,
			   Datum *values, bool *isnull)
{
	TupleDesc	rowdesc = row->schema->desc;
	int			stored = HeapTupleHeaderGetNatts(row->tuple->t_data);
	int			attnum = -1;

	memset(isnull, true, desc->natts * sizeof(bool));
	while ((attnum = bms_next_member(attnums, attnum)) >= 0)
	{
		Form_pg_attribute now = TupleDescAttr(desc, attnum - 1);
		Form_pg_attribute then;

		if (row->known != NULL && !bms_is_member(attnum, row->known))
			return false;

		if (attnum > rowdesc->natts || attnum > stored)
		{
			AttrMissing *missing;

			if (now->atthasmissing && desc->constr && desc->constr->missing)
			{
				missing = &desc->constr->missing[attnum - 1];
				if (!missing->am_present)
					return false;
				values[attnum - 1] = missing->am_value;
				isnull[attnum - 1] = false;
			}
			else if (attnum > rowdesc->natts ||
					 TupleDescAttr(rowdesc, attnum - 1)->atttypid != now->atttypid)
				return false;

			/* else it was added without a default before: it is null */
			continue;
		}

		then = TupleDescAttr(rowdesc, attnum - 1);
		if (then->attisdropped || now->attisdropped ||
			then->atttypid != now->atttypid)
			return false;
		values[attnum - 1] = heap_getattr(row->tuple, attnum, rowdesc,
										  &isnull[attnum - 1]);
	}
	return true;
}
