/*-------------------------------------------------------------------------
 *
 * fold.c
 *	  Taking out of conditions what depends on the session alone.
 *
 * A policy says "owner = uid()", and uid() is, once inlined, an expression
 * over current_setting('request.jwt.claims').  For one principal it has one
 * value.  So we replace such expressions by parameters, evaluate them once
 * for each principal, and can then check rows for many principals with the
 * same prepared conditions, without becoming each of them in turn; and we can
 * look for the principals of a row instead of trying them all (predicate.c).
 *
 * In a query over many principals at once (setcheck.c) it is a column of the
 * principal that takes the expression's place.
 *
 * Taken out is the largest part of an expression that reads no column and
 * whose functions are immutable, or are current_setting, or say who the
 * current user is.  A function that a user wrote and that could not be
 * inlined stays, as does now().  Sub-queries are taken out as well if they
 * read nothing else, like ARRAY(SELECT jsonb_array_elements_text(claim)).
 *
 * Taking a part out of a CASE or an OR means that it is evaluated even where
 * the server would not: an error in it must not count (see decide.c).
 *
 * Called by policy.c and setcheck.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "jit/jit.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "rewrite/rewriteManip.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "engine/compat.h"
#include "engine/fold.h"
#include "engine/rowcheck.h"

typedef struct FoldContext
{
	List	   *params;			/* the expressions taken out */
	Index		varno;			/* of the principals; 0: use parameters */
	int			before;			/* columns of the principals before these */
	int			sublevels_up;
} FoldContext;

/* Where the walker below is */
typedef struct VaryingContext
{
	int			depth;			/* sub-queries around the node */
	bool		element;		/* in what is done to each element of an array */
} VaryingContext;

/* Does the function depend on something that may change from row to row? */
static bool
varying_function(Oid funcid, void *context)
{
	if (funcid == F_CURRENT_SETTING_TEXT || funcid == F_CURRENT_SETTING_TEXT_BOOL)
		return false;
	return func_volatile(funcid) != PROVOLATILE_IMMUTABLE;
}

static bool varying_walker(Node *node, void *arg);

/* Does a sub-query read a table, or something of the queries around? */
static bool
varying_query(Query *query, int depth)
{
	VaryingContext inside = {.depth = depth + 1};

	if (query->commandType != CMD_SELECT || query->cteList != NIL ||
		query->hasForUpdate || query->rowMarks != NIL)
		return true;
	return query_tree_walker(query, varying_walker, &inside,
							 QTW_EXAMINE_RTES_BEFORE | QTW_EXAMINE_SORTGROUP);
}

static bool
varying_rte(RangeTblEntry *rte)
{
	switch (rte->rtekind)
	{
		case RTE_FUNCTION:
		case RTE_SUBQUERY:
		case RTE_VALUES:
		case RTE_JOIN:
		case RTE_RESULT:
			/* its parts are walked through by themselves */
			return false;
		default:
			return true;
	}
}

static bool
varying_operator(Oid opno)
{
	return OidIsValid(opno) && varying_function(get_opcode(opno), NULL);
}

/* An array's elements are cast: what stands for one of them is the array's. */
static bool
varying_array_cast(ArrayCoerceExpr *cast, VaryingContext *context)
{
	VaryingContext inside = {.depth = context->depth,.element = true};

	return varying_walker((Node *) cast->arg, context) ||
		varying_walker((Node *) cast->elemexpr, &inside);
}

static bool
varying_walker(Node *node, void *arg)
{
	VaryingContext *context = arg;
	int			depth = context->depth;

	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
			return (int) ((Var *) node)->varlevelsup >= depth;
		case T_SubLink:
			/* what is compared with it is the rest's, which see unnest.c */
			if (((SubLink *) node)->testexpr != NULL)
				return true;
			break;
		case T_Aggref:
			if ((int) ((Aggref *) node)->agglevelsup >= depth)
				return true;
			break;
		case T_Query:
			return varying_query((Query *) node, depth);
		case T_RangeTblEntry:
			return varying_rte((RangeTblEntry *) node);
		case T_SortGroupClause:
			return varying_operator(((SortGroupClause *) node)->eqop) ||
				varying_operator(((SortGroupClause *) node)->sortop);
		case T_SubPlan:
		case T_AlternativeSubPlan:
		case T_Param:
		case T_GroupingFunc:
		case T_WindowFunc:
		case T_CoerceToDomain:
		case T_CoerceToDomainValue:
		case T_NextValueExpr:
			return true;
		case T_CaseTestExpr:
			return !context->element;
		case T_ArrayCoerceExpr:
			return varying_array_cast((ArrayCoerceExpr *) node, context);
		case T_SQLValueFunction:
			switch (((SQLValueFunction *) node)->op)
			{
				case SVFOP_CURRENT_ROLE:
				case SVFOP_CURRENT_USER:
				case SVFOP_USER:
				case SVFOP_SESSION_USER:
				case SVFOP_CURRENT_CATALOG:
					return false;
				default:
					return true;
			}
		default:
			break;
	}
	if (check_functions_in_node(node, varying_function, context))
		return true;
	return expression_tree_walker(node, varying_walker, context);
}

/* The number of an expression among those taken out, from 1 */
static int
param_number(Node *node, FoldContext *context)
{
	ListCell   *lc;

	foreach(lc, context->params)
		if (equal(lfirst(lc), node))
		return foreach_current_index(lc) + 1;
	context->params = lappend(context->params, node);
	return list_length(context->params);
}

/* What stands for an expression, the same for equal ones */
static Node *
parameter(Node *node, FoldContext *context)
{
	int			number = param_number(node, context);
	Param	   *param;

	if (context->varno != 0)
		return (Node *) makeVar(context->varno, context->before + number,
								exprType(node), exprTypmod(node),
								exprCollation(node), context->sublevels_up);
	param = makeNode(Param);
	param->paramkind = PARAM_EXTERN;
	param->paramid = number;
	param->paramtype = exprType(node);
	param->paramtypmod = exprTypmod(node);
	param->paramcollid = exprCollation(node);
	param->location = -1;
	return (Node *) param;
}

/*
 * Is this an expression of its own?  There are nodes in an expression that are
 * but a part of the node above, like the WHEN of a CASE: they have no type,
 * and a parameter cannot stand in their place.
 */
static bool
is_value(Node *node)
{
	switch (nodeTag(node))
	{
		case T_FuncExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_CaseExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_SQLValueFunction:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_CollateExpr:
		case T_ArrayExpr:
		case T_SubscriptingRef:
			return true;
		case T_SubLink:
			switch (((SubLink *) node)->subLinkType)
			{
				case EXISTS_SUBLINK:
				case EXPR_SUBLINK:
				case ARRAY_SUBLINK:
					return true;
				default:
					return false;
			}
		default:
			return false;
	}
}

/* Does it have one value, which can be kept? */
static bool
is_constant_value(Node *node)
{
	VaryingContext context = {0};

	return is_value(node) && !varying_walker(node, &context) &&
		!expression_returns_set(node) &&
		get_typtype(exprType(node)) != TYPTYPE_PSEUDO;
}

static Node *
fold_mutator(Node *node, void *arg)
{
	FoldContext *context = arg;

	if (node == NULL || IsA(node, Const))
		return node;
	if (IsA(node, Query))
	{
		Query	   *query;

		context->sublevels_up++;
		query = query_tree_mutator((Query *) node, fold_mutator, context, 0);
		context->sublevels_up--;
		return (Node *) query;
	}
	if (is_constant_value(node))
		return parameter(node, context);
	return expression_tree_mutator(node, fold_mutator, context);
}

/* Does a sub-query, whose functions have been inlined, read nothing at all but
 * the session? */
bool
fold_is_session_query(Query *query)
{
	return !varying_query(query, 0);
}

/*
 * Fold conditions whose functions have been inlined; allocates in the current
 * memory context.
 */
void
fold_session(List *quals, Folded *folded)
{
	FoldContext context = {0};

	folded->quals = (List *) fold_mutator((Node *) quals, &context);
	folded->params = context.params;
	folded->query = fold_plan_params(context.params);
	folded->pure = !rowcheck_reads_session((Node *) folded->quals);
}

/*
 * Fold a query whose functions have been inlined: the nth expression taken
 * out becomes column "before" + n of its relation "varno".
 */
Query *
fold_query(Query *query, Index varno, int before, List **params)
{
	FoldContext context = {.varno = varno,.before = before};

	query = query_tree_mutator(query, fold_mutator, &context, 0);
	*params = context.params;
	return query;
}

/*
 * The query that evaluates expressions that were taken out; NULL if they have
 * no sub-queries, and so need none.  In the current memory context.
 */
PlannedStmt *
fold_plan_params(List *params)
{
	Query	   *query;
	PlannedStmt *planned;
	ListCell   *lc;

	if (!checkExprHasSubLink((Node *) params))
		return NULL;
	query = makeNode(Query);
	query->commandType = CMD_SELECT;
	query->querySource = QSRC_ORIGINAL;
	query->canSetTag = true;
	query->hasSubLinks = true;
	query->jointree = makeFromExpr(NIL, NULL);
	foreach(lc, params)
		query->targetList =
		lappend(query->targetList,
				makeTargetEntry(copyObject(lfirst(lc)),
								foreach_current_index(lc) + 1, NULL, false));
	planned = pg_plan_query(query, "claims", 0, NULL);
	planned->jitFlags = PGJIT_NONE;
	return planned;
}

/* Keep a value for longer than what it was computed with. */
static void
keep_value(ParamExternData *param, Datum value, bool isnull)
{
	int16		typlen;
	bool		byval;

	get_typlenbyval(param->ptype, &typlen, &byval);
	param->isnull = isnull;
	param->value = isnull ? (Datum) 0 : datumCopy(value, byval, typlen);
}

static void
evaluate_exprs(List *exprs, ParamListInfo values, MemoryContext context)
{
	ExprContext *econtext = CreateStandaloneExprContext();

	for (int i = 0; i < values->numParams; i++)
	{
		ExprState  *state = ExecInitExpr(list_nth(exprs, i), NULL);
		bool		isnull;
		Datum		value = ExecEvalExprSwitchContext(state, econtext, &isnull);
		MemoryContext old = MemoryContextSwitchTo(context);

		keep_value(&values->params[i], value, isnull);
		MemoryContextSwitchTo(old);
	}
	FreeExprContext(econtext, true);
}

/* Takes the row of values that a query gives */
typedef struct ValuesReceiver
{
	DestReceiver pub;
	ParamListInfo values;
	MemoryContext context;
} ValuesReceiver;

static bool
receive_values(TupleTableSlot *slot, DestReceiver *self)
{
	ValuesReceiver *receiver = (ValuesReceiver *) self;
	MemoryContext old = MemoryContextSwitchTo(receiver->context);

	slot_getallattrs(slot);
	for (int i = 0; i < receiver->values->numParams; i++)
		keep_value(&receiver->values->params[i], slot->tts_values[i],
				   slot->tts_isnull[i]);
	MemoryContextSwitchTo(old);
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

static void
evaluate_query(PlannedStmt *query, ParamListInfo values, MemoryContext context)
{
	ValuesReceiver receiver = {
		.pub = {receive_values, receiver_startup, receiver_end, receiver_end,
		DestNone},
		.values = values,
		.context = context
	};
	QueryDesc  *desc = CreateQueryDesc(query, "claims", GetActiveSnapshot(),
									   InvalidSnapshot, &receiver.pub, NULL,
									   NULL, 0);

	ExecutorStart(desc, 0);
	compat_executor_run(desc, 0);
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
}

/*
 * Evaluate the parameters as the principal that has been entered, by the query
 * that fold_plan_params has made for them.  The values live in the context
 * given.  Errors of the expressions are raised.
 */
ParamListInfo
fold_evaluate(List *params, PlannedStmt *query, MemoryContext context)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext,
											   "rtsync claims",
											   ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	ParamListInfo values = makeParamList(list_length(params));

	MemoryContextSwitchTo(work);
	for (int i = 0; i < values->numParams; i++)
	{
		values->params[i].ptype = exprType(list_nth(params, i));
		values->params[i].pflags = PARAM_FLAG_CONST;
		values->params[i].isnull = true;
	}
	if (query != NULL)
		evaluate_query(query, values, context);
	else
		evaluate_exprs(params, values, context);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(work);
	return values;
}
