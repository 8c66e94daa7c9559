/*-------------------------------------------------------------------------
 *
 * unnest.c
 *	  Turning conditions with sub-queries into joins.
 *
 * A policy says that somebody may see a row if EXISTS (a membership of his in
 * the row's group).  For one row and one user the server's planner does with
 * that what can be done; for many of both, which setcheck.c asks about at
 * once, it would try each pair.  The conditions are therefore rewritten so
 * that it has just tables to join, in any order:
 *
 *	- an OR becomes several queries, whose results are to be united;
 *	- EXISTS (SELECT FROM m WHERE ...) and x IN (SELECT y FROM m WHERE ...),
 *	  where all that matters is whether they are true, become a join with m,
 *	  which may find the same pair of row and user several times.
 *
 * Whoever uses this must not mind duplicates, nor that a condition is
 * evaluated where it would not have been before: errors must not count, and
 * conditions must have no side effects.  In particular the row security of
 * the tables inside becomes a condition like any other.
 *
 * Where the sub-query reads nothing but the claims, it is made an array:
 *
 *	- x IN (SELECT y FROM jsonb_array_elements_text(claim) y) becomes
 *	  x = ANY (ARRAY(SELECT ...)), and so does EXISTS (SELECT FROM ... WHERE
 *	  y = x); fold.c then takes the array for a value of the principal.
 *
 * Works on queries as the rewriter leaves them.  Called by policy.c and
 * setcheck.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"

#include "engine/compat.h"
#include "engine/fold.h"
#include "engine/unnest.h"

/* A condition that would fall into more queries than this is left alone. */
#define MAX_ARMS 8

/*--------------------------------------------------------------------------
 * Sub-queries that are none
 *--------------------------------------------------------------------------
 */

/* Has the query nothing but FROM, WHERE and a list of expressions? */
static bool
is_plain_select(Query *query)
{
	return IsA(query, Query) && query->commandType == CMD_SELECT &&
		!query->hasAggs && !query->hasWindowFuncs && !query->hasTargetSRFs &&
		!query->hasModifyingCTE && !query->hasForUpdate &&
		!query->hasDistinctOn && query->cteList == NIL &&
		query->groupClause == NIL && query->groupingSets == NIL &&
		query->havingQual == NULL && query->windowClause == NIL &&
		query->limitOffset == NULL && query->limitCount == NULL &&
		query->rowMarks == NIL && query->setOperations == NULL;
}

/* The expression, as it reads one level up; NULL if it is a real query. */
static Node *
trivial_subselect(SubLink *sublink)
{
	Query	   *query = (Query *) sublink->subselect;
	TargetEntry *target;
	Node	   *expr;

	if (sublink->subLinkType != EXPR_SUBLINK || !is_plain_select(query) ||
		query->rtable != NIL || query->jointree->fromlist != NIL ||
		query->jointree->quals != NULL || query->distinctClause != NIL ||
		list_length(query->targetList) != 1)
		return NULL;

	target = linitial_node(TargetEntry, query->targetList);
	if (target->resjunk)
		return NULL;
	expr = copyObject((Node *) target->expr);
	IncrementVarSublevelsUp(expr, -1, 1);
	return expr;
}

static Node *
trivial_mutator(Node *node, void *everywhere)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, SubLink))
	{
		Node	   *expr = trivial_subselect((SubLink *) node);

		if (expr != NULL)
			return trivial_mutator(expr, everywhere);
	}
	if (IsA(node, Query) && *(bool *) everywhere)
		return (Node *) query_tree_mutator((Query *) node, trivial_mutator,
										   everywhere, 0);
	return expression_tree_mutator(node, trivial_mutator, everywhere);
}

/*
 * Replace "(SELECT expression)" by the expression: everywhere, or only where
 * it is not inside of another sub-query.  There it has the use that it is
 * evaluated only once.
 */
Node *
unnest_trivial(Node *node, bool everywhere)
{
	return trivial_mutator(node, &everywhere);
}

/*--------------------------------------------------------------------------
 * Row security of the tables inside
 *--------------------------------------------------------------------------
 */

static bool
only_inner_joins(Node *node)
{
	ListCell   *lc;

	if (IsA(node, RangeTblRef))
		return true;
	if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;

		return join->jointype == JOIN_INNER && only_inner_joins(join->larg) &&
			only_inner_joins(join->rarg);
	}
	foreach(lc, castNode(FromExpr, node)->fromlist)
		if (!only_inner_joins(lfirst(lc)))
		return false;
	return true;
}

static bool
security_walker(Node *node, void *context)
{
	ListCell   *lc;
	List	   *quals = NIL;
	Query	   *query = (Query *) node;

	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, security_walker, context);
	if (query->jointree != NULL && only_inner_joins((Node *) query->jointree))
		foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		quals = list_concat(quals, rte->securityQuals);
		rte->securityQuals = NIL;
	}
	if (quals != NIL)
	{
		if (query->jointree->quals != NULL)
			quals = lappend(quals, query->jointree->quals);
		query->jointree->quals = (Node *) make_ands_explicit(quals);
	}
	return query_tree_walker(query, security_walker, context, 0);
}

/*
 * Let the row security of tables in sub-queries be conditions like others,
 * where these are inner joins; modifies the query.  The planner could not join
 * what it would have to evaluate first.
 */
void
unnest_security(Query *query)
{
	(void) security_walker((Node *) query, NULL);
}

static bool
has_security_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
		return ((RangeTblEntry *) node)->securityQuals != NIL;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, has_security_walker, context,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, has_security_walker, context);
}

/*--------------------------------------------------------------------------
 * OR
 *--------------------------------------------------------------------------
 */

static List *arms_of(Node *clause);

static List *
arms_of_or(BoolExpr *expr)
{
	List	   *arms = NIL;
	ListCell   *lc;

	foreach(lc, expr->args)
		arms = list_concat(arms, arms_of(lfirst(lc)));
	return list_length(arms) <= MAX_ARMS ? arms :
		list_make1(list_make1(expr));
}

/* Each of the one with each of the other */
static List *
arms_product(List *left, List *right)
{
	List	   *arms = NIL;
	ListCell   *l;
	ListCell   *r;

	foreach(l, left)
		foreach(r, right)
		arms = lappend(arms, list_concat_copy(lfirst(l), lfirst(r)));
	return arms;
}

static List *
arms_of_and(List *clauses)
{
	List	   *arms = list_make1(NIL);
	ListCell   *lc;

	foreach(lc, clauses)
	{
		List	   *more = arms_of(lfirst(lc));

		if (list_length(arms) * list_length(more) > MAX_ARMS)
			more = list_make1(list_make1(lfirst(lc)));
		arms = arms_product(arms, more);
	}
	return arms;
}

static List *
arms_of(Node *clause)
{
	if (is_orclause(clause))
		return arms_of_or((BoolExpr *) clause);
	if (is_andclause(clause))
		return arms_of_and(((BoolExpr *) clause)->args);
	return list_make1(list_make1(clause));
}

/*
 * A list of lists of conditions: where all of the given conditions hold, all
 * of one of these lists do, and the other way round.
 */
List *
unnest_arms(List *quals)
{
	return arms_of_and(quals);
}

/*--------------------------------------------------------------------------
 * EXISTS and IN
 *--------------------------------------------------------------------------
 */

/*
 * Can the sub-query become part of the query, and is it to?  Only if it asks
 * about "varno", the users: else the planner knows better what to do.
 */
static bool
can_pull_up(SubLink *sublink, Index varno)
{
	Query	   *query = (Query *) sublink->subselect;

	if (sublink->subLinkType != EXISTS_SUBLINK &&
		(sublink->subLinkType != ANY_SUBLINK ||
		 checkExprHasSubLink(sublink->testexpr)))
		return false;
	return is_plain_select(query) && query->jointree->fromlist != NIL &&
		bms_is_member(varno, pull_varnos_of_level(NULL, (Node *) query, 1)) &&
		!has_security_walker((Node *) query, NULL);
}

/* Put what the sub-query selects in the place of its parameters. */
static Node *
testexpr_mutator(Node *node, void *targets)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_SUBLINK)
	{
		ListCell   *lc;

		foreach(lc, (List *) targets)
		{
			TargetEntry *target = lfirst_node(TargetEntry, lc);

			if (target->resno == ((Param *) node)->paramid)
				return copyObject((Node *) target->expr);
		}
		elog(ERROR, "a sub-query does not select what is compared");
	}
	return expression_tree_mutator(node, testexpr_mutator, targets);
}

/* What was a reference to an upper level is one to a neighbour now. */
static void
allow_lateral(List *rtable)
{
	ListCell   *lc;

	foreach(lc, rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_SUBQUERY || rte->rtekind == RTE_FUNCTION ||
			rte->rtekind == RTE_VALUES)
			rte->lateral = true;
	}
}

/* Make the sub-query part of the query; returns its conditions. */
static List *
pull_up(Query *query, SubLink *sublink)
{
	Query	   *sub = copyObject((Query *) sublink->subselect);
	List	   *quals = NIL;

	OffsetVarNodes((Node *) sub, list_length(query->rtable), 0);
	IncrementVarSublevelsUp((Node *) sub, -1, 1);

	allow_lateral(sub->rtable);
	if (sub->jointree->quals != NULL)
		quals = lappend(quals, sub->jointree->quals);
	if (sublink->subLinkType == ANY_SUBLINK)
		quals = lappend(quals, testexpr_mutator(sublink->testexpr,
												sub->targetList));
	compat_combine_range_tables(query, sub);
	query->jointree->fromlist = list_concat(query->jointree->fromlist,
											sub->jointree->fromlist);
	return quals;
}

/*
 * Make the sub-queries that the query's conditions consist of part of it, if
 * they are about the users, its relation "varno".  Returns false if there was
 * nothing to do.
 */
bool
unnest_sublinks(Query *query, Index varno)
{
	List	   *todo = make_ands_implicit((Expr *) query->jointree->quals);
	List	   *quals = NIL;
	bool		found = false;

	while (todo != NIL)
	{
		Node	   *clause = linitial(todo);

		todo = list_delete_first(todo);
		if (is_andclause(clause))
			todo = list_concat_copy(((BoolExpr *) clause)->args, todo);
		else if (IsA(clause, SubLink) &&
				 can_pull_up((SubLink *) clause, varno))
		{
			todo = list_concat(pull_up(query, (SubLink *) clause), todo);
			found = true;
		}
		else
			quals = lappend(quals, clause);
	}
	query->jointree->quals = (Node *) make_ands_explicit(quals);
	return found;
}

/*--------------------------------------------------------------------------
 * Sub-queries over claims
 *--------------------------------------------------------------------------
 */

/* "left op ANY (ARRAY(query))"; NULL if there are no such arrays */
static Node *
any_of_array(OpExpr *op, Oid opno, Node *left, Query *query)
{
	ScalarArrayOpExpr *any = makeNode(ScalarArrayOpExpr);
	SubLink    *array = makeNode(SubLink);
	TargetEntry *target = linitial_node(TargetEntry, query->targetList);

	if (list_length(query->targetList) != 1 ||
		!OidIsValid(get_array_type(exprType((Node *) target->expr))) ||
		!fold_is_session_query(query))
		return NULL;
	array->subLinkType = ARRAY_SUBLINK;
	array->subselect = (Node *) query;
	array->location = -1;
	any->opno = opno;
	any->opfuncid = get_opcode(opno);
	any->useOr = true;
	any->inputcollid = op->inputcollid;
	any->args = list_make2(left, array);
	any->location = -1;
	return (Node *) any;
}

/* x IN (SELECT y ...), whatever it is compared by; NULL if it stays that */
static Node *
in_to_array(SubLink *sublink)
{
	OpExpr	   *op = (OpExpr *) sublink->testexpr;
	Query	   *query = (Query *) sublink->subselect;
	TargetEntry *target;

	if (sublink->subLinkType != ANY_SUBLINK || !IsA(op, OpExpr) ||
		list_length(op->args) != 2 || list_length(query->targetList) != 1)
		return NULL;
	query = copyObject(query);
	target = linitial_node(TargetEntry, query->targetList);
	if (!IsA(lsecond(op->args), Param))
	{
		/* let the sub-query make of y what it is compared as */
		if (target->ressortgroupref != 0 || query->setOperations != NULL)
			return NULL;
		target->expr = (Expr *) testexpr_mutator(lsecond(op->args),
												 query->targetList);
	}
	return any_of_array(op, op->opno, linitial(op->args), query);
}

/* Does the expression read columns of the query around, and no others? */
static bool
is_outer(Node *node)
{
	return contain_vars_of_level(node, 1) && !contain_vars_of_level(node, 0) &&
		!checkExprHasSubLink(node);
}

/* The comparison in it, of some expression with one of the query around */
static OpExpr *
take_comparison(Query *query)
{
	List	   *quals = make_ands_implicit((Expr *) query->jointree->quals);
	ListCell   *lc;

	foreach(lc, quals)
	{
		OpExpr	   *op = lfirst(lc);

		if (!IsA(op, OpExpr) || list_length(op->args) != 2 ||
			(!is_outer(linitial(op->args)) && !is_outer(lsecond(op->args))))
			continue;
		quals = foreach_delete_current(quals, lc);
		query->jointree->quals = (Node *) make_ands_explicit(quals);
		return op;
	}
	return NULL;
}

/* EXISTS (SELECT FROM ... WHERE y = x); NULL if it stays that */
static Node *
exists_to_array(SubLink *sublink)
{
	Query	   *query = (Query *) sublink->subselect;
	OpExpr	   *op;
	Node	   *x;
	Node	   *y;
	Oid			opno;

	if (sublink->subLinkType != EXISTS_SUBLINK || !is_plain_select(query))
		return NULL;
	query = copyObject(query);
	op = take_comparison(query);
	if (op == NULL)
		return NULL;
	x = linitial(op->args);
	y = lsecond(op->args);
	opno = op->opno;
	if (!is_outer(x))
	{
		x = y;
		y = linitial(op->args);
		opno = get_commutator(opno);
	}
	if (!OidIsValid(opno))
		return NULL;
	IncrementVarSublevelsUp(x, -1, 1);
	query->targetList = list_make1(makeTargetEntry((Expr *) y, 1, NULL, false));
	query->distinctClause = query->sortClause = NIL;
	return any_of_array(op, opno, x, query);
}

static Node *
arrays_mutator(Node *node, void *context)
{
	Node	   *array;

	if (node == NULL)
		return NULL;
	if (IsA(node, SubLink) && (array = in_to_array((SubLink *) node)) != NULL)
		return arrays_mutator(array, context);
	return expression_tree_mutator(node, arrays_mutator, context);
}

/*
 * Make arrays of sub-queries that read nothing but the session, in conditions
 * whose functions have been inlined.  Where false and null are the same, which
 * is outside of all but AND and OR, this goes for EXISTS too.
 */
Node *
unnest_arrays(Node *clause)
{
	Node	   *array;

	if (clause != NULL && (is_andclause(clause) || is_orclause(clause)))
	{
		BoolExpr   *expr = copyObject((BoolExpr *) clause);
		ListCell   *lc;

		foreach(lc, expr->args)
			lfirst(lc) = unnest_arrays(lfirst(lc));
		return (Node *) expr;
	}
	if (clause != NULL && IsA(clause, SubLink) &&
		(array = exists_to_array((SubLink *) clause)) != NULL)
		return array;
	return arrays_mutator(clause, NULL);
}
