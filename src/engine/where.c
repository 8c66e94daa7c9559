/*-------------------------------------------------------------------------
 *
 * where.c
 *	  The "where" of a binding: any condition over the table's rows, in SQL.
 *
 * PostgreSQL's own parser reads it, so it may use every operator, type and
 * function that the role may; but it is a condition over the row alone, whose
 * answer must be the same whenever it is asked: no sub-query, no aggregate or
 * window function, no set-returning function, nothing VOLATILE.  It names the
 * columns that the role may SELECT, and no others.
 *
 * It is evaluated after the table's policies, on rows that they let through,
 * and as the role, so that it can tell its author nothing that a SELECT would
 * not.
 *
 * Called by filter.c, as the principal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"

#include "engine/compat.h"
#include "engine/rowcheck.h"
#include "engine/where.h"

/* A longer text is refused. */
#define MAX_LENGTH 10000

static void
refuse(const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("invalid \"where\": %s", why)));
}

/* The expression that a text is; one, and nothing else */
static Node *
parse_text(const char *text)
{
	List	   *statements;
	SelectStmt *select;

	if (strlen(text) > MAX_LENGTH)
		refuse("it is too long");
	statements = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	if (list_length(statements) != 1)
		refuse("it must be one expression");
	select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (!IsA(select, SelectStmt) || list_length(select->targetList) != 1 ||
		select->fromClause != NIL || select->whereClause != NULL ||
		select->distinctClause != NIL || select->groupClause != NIL ||
		select->havingClause != NULL || select->windowClause != NIL ||
		select->valuesLists != NIL || select->sortClause != NIL ||
		select->limitOffset != NULL || select->limitCount != NULL ||
		select->lockingClause != NIL || select->withClause != NULL ||
		select->intoClause != NULL || select->op != SETOP_NONE)
		refuse("it must be one expression");
	return linitial_node(ResTarget, select->targetList)->val;
}

/* The columns it reads must be among those that the role may SELECT. */
static void
check_columns(Node *expr, Relation rel, const Bitmapset *selectable)
{
	RowColumns	columns;
	int			attnum = -1;

	rowcheck_columns(expr, RelationGetDescr(rel), &columns);
	if (columns.system_column)
		refuse("it reads a system column");
	while ((attnum = bms_next_member(columns.attnums, attnum)) >= 0)
		if (!bms_is_member(attnum, selectable))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied for column \"%s\"",
							NameStr(TupleDescAttr(RelationGetDescr(rel),
												  attnum - 1)->attname))));
}

/*
 * Parse a condition over a table's rows; returns it as a list of one, Vars
 * having number 1, in the current memory context.  Anything but a condition
 * as described above is an error.
 */
List *
where_parse(const char *text, Relation rel, const Bitmapset *selectable)
{
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *item;
	Node	   *expr;

	pstate->p_sourcetext = text;
	item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL,
										 false, true);
	addNSItemToQuery(pstate, item, false, true, true);
	expr = transformExpr(pstate, parse_text(text), EXPR_KIND_CHECK_CONSTRAINT);
	expr = coerce_to_boolean(pstate, expr, "WHERE");
	assign_expr_collations(pstate, expr);
	if (contain_volatile_functions(expr))
		refuse("it calls a volatile function");
	check_columns(expr, rel, selectable);
	free_parsestate(pstate);
	return list_make1(expr);
}
