/*-------------------------------------------------------------------------
 *
 * filter.c
 *	  A binding's filter as a condition over the table's rows.
 *
 * Both sides of an operator are of the column's type: the value goes through
 * the type's input function, and the operators are those of the type's default
 * B-tree operator class, found by number and not by name, so that nobody's
 * search_path matters.  "like", "ilike", "match" and "imatch" are looked up by
 * name, in the schema of the type and then in pg_catalog.  The conditions are
 * ANDed, and NULL is no match.
 *
 * Errors carry the texts and the SQLSTATEs that Supabase's server sends:
 * clients show them to their users.
 *
 * Called by route.c, as the principal's role.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "parser/parse_oper.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "engine/compat.h"
#include "engine/filter.h"
#include "engine/filter_parse.h"
#include "engine/settings.h"
#include "engine/where.h"

#define SYNTAX_ERROR_PREFIX "Error parsing `filter` params: "

/* As many conditions may a filter have */
#define MAX_CONDITIONS 100

/*
 * So long may a pattern take for one row.  Patterns come from clients, and can
 * be made to take for ever; one that took too long is not tried again.
 */
#define PATTERN_TIMEOUT_MS 100

struct Filter
{
	Bitmapset  *attnums;
	RowCheck   *check;			/* NULL: everything matches */
	List	   *quals;			/* planned */
	bool		pure;			/* they run no code of a user, nor for long */
	bool		has_pattern;
	bool		too_slow;		/* what it was found to be */
	Payer	   *payer;			/* of the time it takes; NULL: nobody */
};

/* A condition's column */
typedef struct FilterColumn
{
	Node	   *var;			/* of the base type, if the type is a domain */
	Oid			type;			/* the base type */
	Oid			collation;
} FilterColumn;

static List *parse_conditions(Filter *filter, const char *text,
							  const char *where, Relation rel,
							  const Bitmapset *selectable);
static List *parse_filter(Filter *filter, const char *text, Relation rel,
						  const Bitmapset *selectable);
static void prepare_filter(Filter *filter, List *quals, TupleDesc desc,
						   MemoryContext context);
static bool is_pattern(FilterOp op);
static Verdict check_pattern(Filter *filter, const PolicyRow *row);
static List *compile_conditions(Filter *filter, const FilterParse *parse,
								Relation rel, const Bitmapset *selectable);
static void find_column(const char *name, Relation rel,
						const Bitmapset *selectable, FilterColumn *column);
static Node *compile_condition(const FilterCondition *condition,
							   const FilterColumn *column);
static Node *compile_comparison(const FilterColumn *column, FilterOp op,
								const char *value);
static Node *compile_list(const FilterColumn *column, const char *value);
static Node *compile_is(const FilterColumn *column, const char *value);
static Node *compile_pattern(const FilterColumn *column, FilterOp op,
							 const char *value);
static Oid	comparison_operator(Oid type, FilterOp op);
static Expr *binary_operator(NodeTag tag, Oid opno, const FilterColumn *column,
							 Node *left, Node *right);
static Const *parse_value(Oid type, Oid collation, const char *value);
static _Noreturn void no_operator(const char *op, Oid type);
static void try_pattern(Expr *expr);
static Oid	own_operator(Oid type, const char *name);
static Oid	btree_member(TypeCacheEntry *entry, int16 strategy);

/*
 * What is wrong with the filter's grammar, as the protocol words it; NULL if
 * nothing is.  Reads no catalog.
 */
char *
filter_syntax_error(const char *text)
{
	FilterParse parse;
	char	   *result = NULL;

	if (!filter_parse(text, strlen(text), &parse))
		result = psprintf(SYNTAX_ERROR_PREFIX "%s", parse.error);
	filter_parse_free(&parse);
	return result;
}

/*
 * Compile a filter and a "where" (where.c), both in the server's encoding and
 * either of them NULL, for a table.  "selectable" are
 * the columns that it may name.  Runs the input functions of the columns'
 * types: call it as the principal's role, with an active snapshot.
 *
 * Raises an error for the client otherwise: ERRCODE_SYNTAX_ERROR with the
 * protocol's text if the grammar is violated, or whatever the columns, values
 * and operators give.
 */
Filter *
filter_compile(const char *text, const char *where, Oid relid,
			   const Bitmapset *selectable, MemoryContext context)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	Filter	   *filter = palloc0(sizeof(Filter));
	Relation	rel = table_open(relid, AccessShareLock);
	TupleDesc	desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	List	   *quals = parse_conditions(filter, text, where, rel, selectable);

	table_close(rel, AccessShareLock);
	if (quals != NIL)
		prepare_filter(filter, quals, desc, context);
	MemoryContextSwitchTo(oldcontext);
	return filter;
}

/* The conditions of a filter and a "where"; either may be NULL. */
static List *
parse_conditions(Filter *filter, const char *text, const char *where,
				 Relation rel, const Bitmapset *selectable)
{
	List	   *quals = NIL;

	if (text != NULL)
		quals = parse_filter(filter, text, rel, selectable);
	if (where != NULL)
	{
		quals = list_concat(quals, where_parse(where, rel, selectable));
		filter->has_pattern = true; /* who knows */
	}
	return (List *) compat_expand_generated((Node *) quals, rel);
}

/*
 * The same conditions for a query over the table, which is its first range
 * table entry: to be ANDed, not planned, in the current memory context.
 * Called and fails as filter_compile.
 */
List *
filter_conditions(const char *text, const char *where, Relation rel,
				  const Bitmapset *selectable)
{
	Filter		filter = {0};

	return parse_conditions(&filter, text, where, rel, selectable);
}

/* The conditions of a filter's text */
static List *
parse_filter(Filter *filter, const char *text, Relation rel,
			 const Bitmapset *selectable)
{
	FilterParse parse;
	List	   *quals;

	if (!filter_parse(text, strlen(text), &parse))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg_internal(SYNTAX_ERROR_PREFIX "%s", parse.error)));
	if (parse.nconditions > MAX_CONDITIONS)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg_internal(SYNTAX_ERROR_PREFIX "too many conditions, the maximum is %d",
								 MAX_CONDITIONS)));
	quals = compile_conditions(filter, &parse, rel, selectable);
	filter_parse_free(&parse);
	return quals;
}

static void
prepare_filter(Filter *filter, List *quals, TupleDesc desc,
			   MemoryContext context)
{
	RowPlan		plan;
	RowColumns	columns;

	rowcheck_columns((Node *) quals, desc, &columns);
	rowcheck_plan(quals, &plan);
	filter->attnums = columns.attnums;
	filter->check = rowcheck_create(plan.quals, desc, columns.attnums,
									context);
	filter->quals = plan.quals;
	filter->pure = !filter->has_pattern && !plan.bound &&
		!rowcheck_reads_session((Node *) plan.quals);
}

/* Does the row match?  As the principal's role, with an active snapshot. */
Verdict
filter_check(Filter *filter, const PolicyRow *row)
{
	if (filter->check == NULL)
		return VERDICT_YES;
	if (filter->has_pattern)
		return check_pattern(filter, row);
	return rowcheck_run(filter->check, row);
}

/*
 * Can checking rows by this filter take long?  Only patterns can.  The text
 * need not be valid.
 */
bool
filter_costly(const char *text)
{
	FilterParse parse;
	bool		costly = false;

	if (filter_parse(text, strlen(text), &parse))
		for (int i = 0; i < parse.nconditions; i++)
			costly |= is_pattern(parse.conditions[i].op);
	filter_parse_free(&parse);
	return costly;
}

/* Let somebody pay for the time that the filter takes, for as long as it lives. */
void
filter_set_payer(Filter *filter, Payer *payer)
{
	filter->payer = payer;
}

static bool
is_pattern(FilterOp op)
{
	return op == FILTER_LIKE || op == FILTER_ILIKE ||
		op == FILTER_MATCH || op == FILTER_IMATCH;
}

static Verdict
check_pattern(Filter *filter, const PolicyRow *row)
{
	volatile Verdict verdict = VERDICT_UNKNOWN;
	instr_time	start;

	if (!filter->too_slow)
	{
		INSTR_TIME_SET_CURRENT(start);
		principal_limit(PATTERN_TIMEOUT_MS);
		PG_TRY();
		{
			verdict = rowcheck_run(filter->check, row);
		}
		PG_CATCH();
		{
			if (!principal_timed_out())
			{
				budget_charge(filter->payer, start);
				PG_RE_THROW();
			}
			FlushErrorState();
			filter->too_slow = true;
		}
		PG_END_TRY();
		principal_limit(0);
		budget_charge(filter->payer, start);
	}
	if (filter->too_slow)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("filter took longer than %d ms for a row",
						PATTERN_TIMEOUT_MS)));
	return verdict;
}

/*
 * Can it be checked without being its principal?  *quals becomes what it
 * consists of, which lives as long as the filter.
 */
bool
filter_pure(Filter *filter, List **quals)
{
	*quals = filter->quals;
	return filter->check == NULL || filter->pure;
}

/* The columns that have to be known for an answer. */
const Bitmapset *
filter_needed_columns(Filter *filter)
{
	return filter->attnums;
}

static List *
compile_conditions(Filter *filter, const FilterParse *parse, Relation rel,
				   const Bitmapset *selectable)
{
	List	   *result = NIL;

	for (int i = 0; i < parse->nconditions; i++)
	{
		FilterCondition *condition = &parse->conditions[i];
		FilterColumn column;
		Node	   *expr;

		filter->has_pattern |= is_pattern(condition->op);
		find_column(condition->column, rel, selectable, &column);
		expr = compile_condition(condition, &column);
		if (condition->negate)
			expr = (Node *) make_notclause((Expr *) expr);
		result = lappend(result, expr);
	}
	return result;
}

/* A column that the role may not see does not exist, for all it is told. */
static void
find_column(const char *name, Relation rel, const Bitmapset *selectable,
			FilterColumn *column)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		int32		typmod;

		if (att->attisdropped || strcmp(NameStr(att->attname), name) != 0 ||
			!bms_is_member(att->attnum, selectable))
			continue;

		column->var = (Node *) makeVar(1, att->attnum, att->atttypid,
									   att->atttypmod, att->attcollation, 0);
		typmod = att->atttypmod;
		column->type = getBaseTypeAndTypmod(att->atttypid, &typmod);
		column->collation = att->attcollation;
		if (column->type != att->atttypid)
			column->var = (Node *) makeRelabelType((Expr *) column->var,
												   column->type, typmod,
												   att->attcollation,
												   COERCE_IMPLICIT_CAST);
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_RAISE_EXCEPTION),
			 errmsg_internal("invalid column for filter %s", name)));
}

static Node *
compile_condition(const FilterCondition *condition, const FilterColumn *column)
{
	switch (condition->op)
	{
		case FILTER_IN:
			return compile_list(column, condition->value);
		case FILTER_IS:
			return compile_is(column, condition->value);
		case FILTER_LIKE:
		case FILTER_ILIKE:
		case FILTER_MATCH:
		case FILTER_IMATCH:
			return compile_pattern(column, condition->op, condition->value);
		case FILTER_EQ:
		case FILTER_NEQ:
		case FILTER_LT:
		case FILTER_LTE:
		case FILTER_GT:
		case FILTER_GTE:
		case FILTER_ISDISTINCT:
			break;
	}
	return compile_comparison(column, condition->op, condition->value);
}

static Node *
compile_comparison(const FilterColumn *column, FilterOp op, const char *value)
{
	Const	   *constant = parse_value(column->type, column->collation, value);
	Oid			opno = comparison_operator(column->type, op);
	NodeTag		tag = op == FILTER_ISDISTINCT ? T_DistinctExpr : T_OpExpr;
	Expr	   *expr = binary_operator(tag, opno, column, column->var,
									   (Node *) constant);

	if (op == FILTER_NEQ)
		expr = make_notclause(expr);
	return (Node *) expr;
}

static Node *
compile_list(const FilterColumn *column, const char *value)
{
	Oid			arraytype = get_array_type(column->type);
	ScalarArrayOpExpr *expr = makeNode(ScalarArrayOpExpr);
	Const	   *constant;
	ArrayType  *array;

	if (!OidIsValid(arraytype))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("could not find array type for data type %s",
						format_type_be(column->type))));
	constant = parse_value(arraytype, column->collation, value);
	array = DatumGetArrayTypeP(constant->constvalue);
	if (ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) > rtsync_max_in_list_size)
		ereport(ERROR,
				(errcode(ERRCODE_RAISE_EXCEPTION),
				 errmsg_internal("too many values for `in` filter. Maximum %d",
								 rtsync_max_in_list_size)));

	expr->opno = comparison_operator(column->type, FILTER_EQ);
	expr->opfuncid = get_opcode(expr->opno);
	expr->useOr = true;
	expr->inputcollid = column->collation;
	expr->args = list_make2(column->var, constant);
	expr->location = -1;
	return (Node *) expr;
}

/* "is" null, true, false or unknown */
static Node *
compile_is(const FilterColumn *column, const char *value)
{
	static const struct
	{
		const char *value;
		BoolTestType test;
	}			tests[] = {
		{"true", IS_TRUE}, {"false", IS_FALSE}, {"unknown", IS_UNKNOWN}
	};

	if (pg_strcasecmp(value, "null") == 0)
	{
		NullTest   *test = makeNode(NullTest);

		test->arg = (Expr *) column->var;
		test->nulltesttype = IS_NULL;
		test->argisrow = type_is_rowtype(column->type);
		test->location = -1;
		return (Node *) test;
	}
	for (int i = 0; i < lengthof(tests); i++)
	{
		if (pg_strcasecmp(value, tests[i].value) == 0 &&
			column->type == BOOLOID)
		{
			BooleanTest *test = makeNode(BooleanTest);

			test->arg = (Expr *) column->var;
			test->booltesttype = tests[i].test;
			test->location = -1;
			return (Node *) test;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_RAISE_EXCEPTION),
			 errmsg_internal("invalid value for `is` filter: %s", value)));
}

/* SQL patterns and regular expressions, on types that read as text */
static Node *
compile_pattern(const FilterColumn *column, FilterOp op, const char *value)
{
	const char *name = op == FILTER_LIKE ? "~~" : op == FILTER_ILIKE ? "~~*" :
		op == FILTER_MATCH ? "~" : "~*";
	bool		is_string = TypeCategory(column->type) == TYPCATEGORY_STRING;
	Oid			type = column->type;
	Oid			opno = own_operator(type, name);
	Expr	   *expr;
	Const	   *constant;

	if (!OidIsValid(opno))
	{
		if (is_string)
			type = TEXTOID;
		opno = compatible_oper_opid(list_make2(makeString("pg_catalog"),
											   makeString(pstrdup(name))),
									column->type, type, true);
	}
	if (!OidIsValid(opno) || get_op_rettype(opno) != BOOLOID)
		no_operator(name, column->type);

	constant = parse_value(type, column->collation, value);
	expr = binary_operator(T_OpExpr, opno, column, column->var,
						   (Node *) constant);
	if (is_string)
		try_pattern(binary_operator(T_OpExpr, opno, column,
									(Node *) parse_value(column->type,
														 column->collation, ""),
									(Node *) constant));
	return (Node *) expr;
}

/* Better now than at the first row: is it a regular expression? */
static void
try_pattern(Expr *expr)
{
	ExprState  *state = ExecInitExpr(expr, NULL);
	ExprContext *econtext = CreateStandaloneExprContext();
	bool		isnull;

	principal_limit(PATTERN_TIMEOUT_MS);
	(void) ExecEvalExprSwitchContext(state, econtext, &isnull);
	principal_limit(0);
	FreeExprContext(econtext, true);
}

/* The operator of this name that came with the type, which is not built in. */
static Oid
own_operator(Oid type, const char *name)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid			nspid;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	nspid = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;
	ReleaseSysCache(tuple);

	if (nspid == PG_CATALOG_NAMESPACE)
		return InvalidOid;
	return GetSysCacheOid4(OPERNAMENSP, Anum_pg_operator_oid,
						   CStringGetDatum(name), ObjectIdGetDatum(type),
						   ObjectIdGetDatum(type), ObjectIdGetDatum(nspid));
}

/* From the default B-tree operator class, or just equality from hash. */
static Oid
comparison_operator(Oid type, FilterOp op)
{
	TypeCacheEntry *entry = lookup_type_cache(type,
											  TYPECACHE_EQ_OPR |
											  TYPECACHE_LT_OPR |
											  TYPECACHE_GT_OPR);
	Oid			opno = InvalidOid;

	switch (op)
	{
		case FILTER_LT:
			opno = entry->lt_opr;
			break;
		case FILTER_GT:
			opno = entry->gt_opr;
			break;
		case FILTER_LTE:
			opno = btree_member(entry, BTLessEqualStrategyNumber);
			break;
		case FILTER_GTE:
			opno = btree_member(entry, BTGreaterEqualStrategyNumber);
			break;
		default:
			opno = entry->eq_opr;
	}
	if (!OidIsValid(opno))
		no_operator(op == FILTER_LT ? "<" : op == FILTER_GT ? ">" :
					op == FILTER_LTE ? "<=" : op == FILTER_GTE ? ">=" : "=",
					type);
	return opno;
}

static Oid
btree_member(TypeCacheEntry *entry, int16 strategy)
{
	/* unset where the type's elements cannot be ordered */
	if (!OidIsValid(entry->lt_opr) || !OidIsValid(entry->btree_opf))
		return InvalidOid;
	return get_opfamily_member(entry->btree_opf, entry->btree_opintype,
							   entry->btree_opintype, strategy);
}

static Expr *
binary_operator(NodeTag tag, Oid opno, const FilterColumn *column,
				Node *left, Node *right)
{
	OpExpr	   *expr = (OpExpr *) newNode(sizeof(OpExpr), tag);

	expr->opno = opno;
	expr->opfuncid = get_opcode(opno);
	expr->opresulttype = BOOLOID;
	expr->inputcollid = column->collation;
	expr->args = list_make2(left, right);
	expr->location = -1;
	return (Expr *) expr;
}

/* The value as the type reads it. */
static Const *
parse_value(Oid type, Oid collation, const char *value)
{
	Oid			input;
	Oid			ioparam;
	int16		length;
	bool		byval;
	Datum		datum;

	getTypeInputInfo(type, &input, &ioparam);
	get_typlenbyval(type, &length, &byval);
	datum = OidInputFunctionCall(input, pstrdup(value), ioparam, -1);
	return makeConst(type, -1, collation, length, datum, false, byval);
}

static void
no_operator(const char *op, Oid type)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FUNCTION),
			 errmsg("operator does not exist: %s %s %s",
					format_type_be(type), op, format_type_be(type))));
}
