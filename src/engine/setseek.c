/*-------------------------------------------------------------------------
 *
 * setseek.c
 *	  From rows through other tables to those whom they may concern.
 *
 * A policy says that somebody may see a row if EXISTS (SELECT FROM members m
 * WHERE m.org = row.org AND m.uid = claim).  Setcheck.c can ask that about many
 * principals at once, but must look at each of them.  So we turn it around:
 *
 *		SELECT r.number, m.uid FROM rows r, members m WHERE m.org = r.org
 *
 * gives values of which one must be the principal's claim, and the index
 * (predicate.c) leads from these to the principals, as it does from values in
 * the row itself.  What is found this way are candidates, about which the
 * whole question is still to be asked.
 *
 * An OR falls into arms; for each of them there must be a way to the
 * principals: by the row's columns, through other tables, or because all
 * principals are concerned by the same rows.
 *
 * Called by setcheck.c, with a query whose sub-queries have their row security
 * in them, and which gives all principals of the role the same answer but for
 * the columns that it has for each of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"

#include "engine/predicate.h"
#include "engine/setseek.h"
#include "engine/unnest.h"

static bool
is_about_principals(Node *node)
{
	return bms_is_member(PRINCIPALS_VARNO, pull_varnos(NULL, node));
}

/* Put parameters in the place of the principals' columns; the first of these
 * is their number. */
static Node *
params_mutator(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && ((Var *) node)->varno == PRINCIPALS_VARNO)
	{
		Var		   *var = (Var *) node;
		Param	   *param = makeNode(Param);

		param->paramkind = PARAM_EXTERN;
		param->paramid = var->varattno - 1;
		param->paramtype = var->vartype;
		param->paramtypmod = var->vartypmod;
		param->paramcollid = var->varcollid;
		param->location = -1;
		return (Node *) param;
	}
	return expression_tree_mutator(node, params_mutator, context);
}

/* The conditions that need no sub-query, over the row and parameters */
static List *
plain_quals(List *arm)
{
	List	   *quals = NIL;
	ListCell   *lc;

	foreach(lc, arm)
		if (!checkExprHasSubLink(lfirst(lc)))
		quals = lappend(quals, params_mutator(lfirst(lc), NULL));
	return quals;
}

/* The principal's column that an operand is */
static bool
is_principal(Node *node)
{
	while (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return IsA(node, Var) && ((Var *) node)->varno == PRINCIPALS_VARNO &&
		((Var *) node)->varlevelsup == 0;
}

/* The operand that has the principal's column on its other side; NULL: none */
static Node **
sought_operand(Node *clause)
{
	OpExpr	   *op = (OpExpr *) clause;
	Node	  **left;
	Node	  **right;

	if (!IsA(op, OpExpr) || list_length(op->args) != 2 ||
		!op_hashjoinable(op->opno, exprType(linitial(op->args))))
		return NULL;
	left = (Node **) &linitial(op->args);
	right = (Node **) &lsecond(op->args);
	if (is_principal(*left) && !is_about_principals(*right))
		return right;
	if (is_principal(*right) && !is_about_principals(*left))
		return left;
	return NULL;
}

/*
 * Have the query find values: "value" for each row.  The principals are no
 * part of it any more, nor are the conditions about them.  False if they
 * cannot be left out.
 */
static bool
seek_value(SetSeek *seek, Query *query, Node *value)
{
	TargetEntry *number = linitial_node(TargetEntry, query->targetList);
	List	   *quals = NIL;
	List	   *from = NIL;
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) query->jointree->quals))
		if (!is_about_principals(lfirst(lc)))
		quals = lappend(quals, lfirst(lc));
	foreach(lc, query->jointree->fromlist)
		if (!IsA(lfirst(lc), RangeTblRef) ||
			((RangeTblRef *) lfirst(lc))->rtindex != PRINCIPALS_VARNO)
		from = lappend(from, lfirst(lc));
	query->jointree = makeFromExpr(from, (Node *) make_ands_explicit(quals));
	query->targetList =
		list_make2(number, makeTargetEntry((Expr *) value, 2, NULL, false));
	if (is_about_principals((Node *) query))
		return false;
	seek->queries = lappend(seek->queries, query);
	return true;
}

/* What the last query finds */
static Node *
found_value(SetSeek *seek, Node *value)
{
	return (Node *) makeVar(PREDICATE_FOUND_VARNO, list_length(seek->queries),
							exprType(value), exprTypmod(value),
							exprCollation(value), 0);
}

/*
 * Seek an arm's principals through its sub-queries; returns the condition for
 * what is found, NULL if there is no way.
 */
static Node *
seek_arm(SetSeek *seek, const Query *query, List *arm)
{
	Query	   *joined = copyObject(unconstify(Query *, query));
	Node	   *value;
	ListCell   *lc;

	joined->jointree->quals = (Node *) make_ands_explicit(copyObject(arm));
	(void) unnest_sublinks(joined, PRINCIPALS_VARNO);
	foreach(lc, make_ands_implicit((Expr *) joined->jointree->quals))
	{
		Node	   *clause = copyObject(lfirst(lc));
		Node	  **operand = sought_operand(clause);

		if (operand == NULL)
			continue;
		value = *operand;
		if (!seek_value(seek, copyObject(joined), value))
			continue;
		*operand = found_value(seek, value);
		return params_mutator(clause, NULL);
	}
	if (is_about_principals(joined->jointree->quals))
		return NULL;

	/* whom it concerns is the same for all */
	value = makeBoolConst(true, false);
	return seek_value(seek, joined, value) ? found_value(seek, value) : NULL;
}

static Node *
cover_arm(SetSeek *seek, const Query *query, List *arm)
{
	List	   *plain = plain_quals(arm);

	return predicate_may_cover(plain) ? (Node *) make_ands_explicit(plain) :
		seek_arm(seek, query, arm);
}

/*
 * Find the way from rows to principals, by the conditions of a query over
 * both; false if there is none.  Allocates in the current memory context.
 */
bool
setseek_prepare(const Query *query, SetSeek *seek)
{
	List	   *arms = unnest_arms(make_ands_implicit((Expr *) query->jointree->quals));
	List	   *conditions = NIL;
	ListCell   *lc;

	seek->quals = seek->queries = NIL;
	foreach(lc, arms)
	{
		Node	   *condition = cover_arm(seek, query, lfirst(lc));

		if (condition == NULL)
			return false;
		conditions = lappend(conditions, condition);
	}
	seek->quals = list_make1(list_length(conditions) == 1 ?
							 linitial(conditions) :
							 (Node *) makeBoolExpr(OR_EXPR, conditions, -1));
	return true;
}
