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
 * inlined stays, as does now().
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
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "engine/fold.h"
#include "engine/rowcheck.h"

typedef struct FoldContext
{
	List	   *params;			/* the expressions taken out */
	Index		varno;			/* of the principals; 0: use parameters */
	int			before;			/* columns of the principals before these */
	int			sublevels_up;
} FoldContext;

/* Does the function depend on something that may change from row to row? */
static bool
varying_function(Oid funcid, void *context)
{
	if (funcid == F_CURRENT_SETTING_TEXT || funcid == F_CURRENT_SETTING_TEXT_BOOL)
		return false;
	return func_volatile(funcid) != PROVOLATILE_IMMUTABLE;
}

static bool
varying_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Param:
		case T_SubLink:
		case T_SubPlan:
		case T_AlternativeSubPlan:
		case T_Aggref:
		case T_GroupingFunc:
		case T_WindowFunc:
		case T_CaseTestExpr:
		case T_CoerceToDomain:
		case T_CoerceToDomainValue:
		case T_NextValueExpr:
			return true;
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
		default:
			return false;
	}
}

/* Does it have one value, which can be kept? */
static bool
is_constant_value(Node *node)
{
	return is_value(node) && !varying_walker(node, NULL) &&
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

/*
 * Fold planned conditions without sub-queries; allocates in the current
 * memory context.
 */
void
fold_session(List *quals, Folded *folded)
{
	FoldContext context = {0};

	folded->quals = (List *) fold_mutator((Node *) quals, &context);
	folded->params = context.params;
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
 * Evaluate the parameters as the principal that has been entered.  The values
 * live in the context given.  Errors of the expressions are raised.
 */
ParamListInfo
fold_evaluate(List *params, MemoryContext context)
{
	int			n = list_length(params);
	ExprContext *econtext = CreateStandaloneExprContext();
	MemoryContext old = MemoryContextSwitchTo(context);
	ParamListInfo values = makeParamList(n);

	for (int i = 0; i < n; i++)
	{
		Expr	   *expr = list_nth(params, i);
		ParamExternData *value = &values->params[i];
		int16		typlen;
		bool		byval;

		value->ptype = exprType((Node *) expr);
		value->pflags = PARAM_FLAG_CONST;
		value->value = ExecEvalExprSwitchContext(ExecInitExpr(expr, NULL),
												 econtext, &value->isnull);
		get_typlenbyval(value->ptype, &typlen, &byval);
		if (!value->isnull)
			value->value = datumCopy(value->value, byval, typlen);
	}
	MemoryContextSwitchTo(old);
	FreeExprContext(econtext, true);
	return values;
}
