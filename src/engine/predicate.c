/*-------------------------------------------------------------------------
 *
 * predicate.c
 *	  From a row to those whom it may concern.
 *
 * Most conditions have the form "column = value of this subscriber", with
 * something more perhaps.  So instead of asking each subscriber's conditions
 * about a row, we put the subscribers into a hash by (column, value) and look
 * the row's values up: what a change costs then follows from how many match.
 *
 * A list of conditions, all of which must hold, "covers" the rows that pass
 * if one of them can only hold for rows with certain values in a column:
 *
 *		column = value				a parameter or a constant, by an operator
 *									that can be hashed
 *		column = ANY(array)			likewise
 *		jsonb ? column				a key, or a string in an array
 *		jsonb @> to_jsonb(column)	an element of an array
 *		column, NOT column			a boolean column
 *		false, or a null parameter	no row at all
 *		a OR b ...					if each of them covers
 *		a AND b ...					if one of them does
 *
 * In the place of a column there may be what a few built-in functions, which
 * cannot fail, make of columns: column::text, lower(column), column ->> 'key'.
 *
 * What the lookup finds is only a candidate: all conditions are still to be
 * checked, and the hash is kept by hash value alone, whose collisions cost
 * but a check.  So equality is never decided here, and the collation matters
 * only in that it must be the operator's, for equal values to have equal
 * hash values.
 *
 * Used by decide.c; one index for each table and role.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "engine/predicate.h"

/* A condition with more values than this is not worth indexing. */
#define MAX_KEYS 1000

/* So many different keys, with what hangs on them, may be in no cache. */
#define LARGE_INDEX 1000

/* A column by which items are found, or what is made of columns, with the way
 * to hash it */
typedef struct IndexColumn
{
	Expr	   *expr;			/* a Var, or an expression of Vars */
	List	   *vars;			/* those in it */
	ExprState  *state;			/* NULL for a Var */
	Oid			collation;
	Oid			function;
	FmgrInfo	finfo;
} IndexColumn;

/* What has the same key, in an open hash table: one access finds it */
typedef struct Bucket
{
	IndexKey	key;			/* hash key */
	IndexEntry *first;
	char		status;			/* of simplehash.h */
} Bucket;

static inline uint32
bucket_hash(IndexKey key)
{
	return murmurhash32(key.hash ^ ((uint32) key.column * 0x9e3779b9));
}

#define SH_PREFIX buckets
#define SH_ELEMENT_TYPE Bucket
#define SH_KEY_TYPE IndexKey
#define SH_KEY key
#define SH_HASH_KEY(tb, k) bucket_hash(k)
#define SH_EQUAL(tb, a, b) ((a).hash == (b).hash && (a).column == (b).column)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct PredicateIndex
{
	MemoryContext context;
	List	   *columns;		/* of IndexColumn */
	buckets_hash *buckets;

	/* to evaluate expressions; NULL at first */
	ExprContext *econtext;
	TupleTableSlot *slot;
};

/* What is being found out about one item */
typedef struct Cover
{
	PredicateIndex *index;		/* NULL: of no item in particular; whatever
								 * parameters may be, they are taken for null */
	ParamListInfo params;
	int			nkeys;
	IndexKey	keys[MAX_KEYS];
} Cover;

static bool cover_clause(Cover *cover, Node *clause);

/* Make an empty index.  It goes with its parent context; the items that are
 * still in it must not be removed any more then. */
PredicateIndex *
predicate_create(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent,
												  "rtsync predicate index",
												  ALLOCSET_DEFAULT_SIZES);
	PredicateIndex *index = MemoryContextAllocZero(context,
												   sizeof(PredicateIndex));

	index->context = context;
	index->buckets = buckets_create(context, 64, NULL);
	return index;
}

/* The number of a column in the index, which gets to know it if need be */
static int
index_column(PredicateIndex *index, Node *expr, Oid function, Oid collation)
{
	IndexColumn *column;
	MemoryContext old;
	ListCell   *lc;

	if (index == NULL)
		return 0;
	foreach(lc, index->columns)
	{
		column = lfirst(lc);
		if (column->collation == collation && column->function == function &&
			equal(column->expr, expr))
			return foreach_current_index(lc);
	}
	old = MemoryContextSwitchTo(index->context);
	column = palloc0(sizeof(IndexColumn));
	column->expr = copyObject((Expr *) expr);
	column->vars = pull_var_clause((Node *) column->expr, 0);
	if (!IsA(expr, Var))
		column->state = ExecInitExpr(column->expr, NULL);
	column->collation = collation;
	column->function = function;
	fmgr_info_cxt(function, &column->finfo, index->context);
	index->columns = lappend(index->columns, column);
	MemoryContextSwitchTo(old);
	return list_length(index->columns) - 1;
}

/*--------------------------------------------------------------------------
 * What conditions cover
 *--------------------------------------------------------------------------
 */

static bool
add_key(Cover *cover, int column, uint32 hash)
{
	if (cover->index == NULL)
		return true;
	if (cover->nkeys == MAX_KEYS)
		return false;
	memset(&cover->keys[cover->nkeys], 0, sizeof(IndexKey));
	cover->keys[cover->nkeys].column = column;
	cover->keys[cover->nkeys].hash = hash;
	cover->nkeys++;
	return true;
}

/* Can this function be called for any row, without harm or error? */
static bool
is_key_function(Oid funcid)
{
	switch (funcid)
	{
		case F_INT4_INT2:
		case F_INT8_INT2:
		case F_INT8_INT4:
		case F_NUMERIC_INT4:
		case F_NUMERIC_INT8:
		case F_TEXT_BPCHAR:
		case F_LOWER_TEXT:
		case F_UPPER_TEXT:
		case F_JSONB_OBJECT_FIELD:
		case F_JSONB_OBJECT_FIELD_TEXT:
			return true;
		default:
			return false;
	}
}

/* Likewise, for what makes a text of a value */
static bool
is_key_cast(CoerceViaIO *cast)
{
	Oid			function;
	bool		varlena;

	if (cast->resulttype != TEXTOID && cast->resulttype != VARCHAROID)
		return false;
	getTypeOutputInfo(exprType((Node *) cast->arg), &function, &varlena);
	return function < FirstNormalObjectId &&
		(func_volatile(function) == PROVOLATILE_IMMUTABLE ||
		 function == F_ENUM_OUT);
}

static bool
not_key_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
			return ((Var *) node)->varattno <= 0 ||
				((Var *) node)->varlevelsup != 0 ||
				((Var *) node)->varno == PREDICATE_FOUND_VARNO;
		case T_Const:
		case T_RelabelType:
		case T_List:
			break;
		case T_CoerceViaIO:
			if (!is_key_cast((CoerceViaIO *) node))
				return true;
			break;
		case T_FuncExpr:
			if (!is_key_function(((FuncExpr *) node)->funcid) &&
				!rowcheck_is_scalar_jsonb(node))
				return true;
			break;
		case T_OpExpr:
			if (!is_key_function(get_opcode(((OpExpr *) node)->opno)))
				return true;
			break;
		default:
			return true;
	}
	return expression_tree_walker(node, not_key_walker, context);
}

/* What an operand makes of columns, if items can be found by that */
static Node *
as_key(Node *node)
{
	while (node != NULL && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (node != NULL && IsA(node, Var) &&
		((Var *) node)->varno == PREDICATE_FOUND_VARNO)
		return node;
	if (node == NULL || IsA(node, Const) || not_key_walker(node, NULL) ||
		!contain_var_clause(node))
		return NULL;
	return node;
}

/* The value that an operand has for this item, if it is no column */
static bool
as_value(Cover *cover, Node *node, Datum *value, bool *isnull)
{
	while (node != NULL && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (node != NULL && IsA(node, Const))
	{
		*value = ((Const *) node)->constvalue;
		*isnull = ((Const *) node)->constisnull;
		return true;
	}
	if (node != NULL && IsA(node, Param) && cover->index == NULL)
	{
		*value = (Datum) 0;
		*isnull = true;
		return true;
	}
	if (node != NULL && IsA(node, Param) && cover->params != NULL &&
		((Param *) node)->paramkind == PARAM_EXTERN &&
		((Param *) node)->paramid <= cover->params->numParams)
	{
		ParamExternData *param = &cover->params->params[((Param *) node)->paramid - 1];

		*value = param->value;
		*isnull = param->isnull;
		return true;
	}
	return false;
}

/*
 * The functions that hash both sides of an equality operator; user-defined
 * ones do not count, as they could do anything.
 */
static bool
hash_functions(Oid opno, Oid left_type, RegProcedure *left,
			   RegProcedure *right)
{
	return op_hashjoinable(opno, left_type) &&
		get_op_hash_functions(opno, left, right) &&
		*left < FirstNormalObjectId && *right < FirstNormalObjectId;
}

/* column = value, or value = column */
static bool
cover_equality(Cover *cover, OpExpr *op)
{
	Node	   *left = linitial(op->args);
	Node	   *right = lsecond(op->args);
	RegProcedure left_hash;
	RegProcedure right_hash;
	Node	   *key;
	Datum		value;
	bool		isnull;
	bool		swapped = as_key(left) == NULL;

	key = as_key(swapped ? right : left);
	if (key == NULL ||
		!as_value(cover, swapped ? left : right, &value, &isnull) ||
		!hash_functions(op->opno, exprType(left), &left_hash, &right_hash))
		return false;
	if (isnull)
		return true;
	return add_key(cover,
				   index_column(cover->index, key,
								swapped ? right_hash : left_hash,
								op->inputcollid),
				   DatumGetUInt32(OidFunctionCall1Coll(swapped ? left_hash : right_hash,
													   op->inputcollid, value)));
}

/* column = ANY(array) */
static bool
cover_any(Cover *cover, ScalarArrayOpExpr *op)
{
	Node	   *key = as_key(linitial(op->args));
	RegProcedure left_hash;
	RegProcedure right_hash;
	ArrayType  *array;
	Datum		value;
	bool		isnull;
	Datum	   *elements;
	bool	   *nulls;
	int			nelements;
	int16		typlen;
	bool		byval;
	char		align;
	int			column;

	if (!op->useOr || key == NULL ||
		!as_value(cover, lsecond(op->args), &value, &isnull) ||
		!hash_functions(op->opno, exprType(linitial(op->args)),
						&left_hash, &right_hash))
		return false;
	if (isnull)
		return true;
	array = DatumGetArrayTypeP(value);
	get_typlenbyvalalign(ARR_ELEMTYPE(array), &typlen, &byval, &align);
	deconstruct_array(array, ARR_ELEMTYPE(array), typlen, byval, align,
					  &elements, &nulls, &nelements);
	column = index_column(cover->index, key, left_hash, op->inputcollid);
	for (int i = 0; i < nelements; i++)
		if (!nulls[i] &&
			!add_key(cover, column,
					 DatumGetUInt32(OidFunctionCall1Coll(right_hash,
														 op->inputcollid,
														 elements[i]))))
			return false;
	return true;
}

/* The keys and strings of a JSON value, for jsonb ? key */
static bool
add_jsonb_names(Cover *cover, Node *key, Jsonb *jsonb)
{
	int			column = index_column(cover->index, key, F_HASHTEXT,
									  C_COLLATION_OID);
	JsonbIterator *it = JsonbIteratorInit(&jsonb->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		Datum		name;

		if ((token != WJB_KEY && token != WJB_ELEM) || value.type != jbvString)
			continue;
		name = PointerGetDatum(cstring_to_text_with_len(value.val.string.val,
														value.val.string.len));
		if (!add_key(cover, column,
					 DatumGetUInt32(OidFunctionCall1Coll(F_HASHTEXT,
														 C_COLLATION_OID, name))))
			return false;
	}
	return true;
}

/* What no array is in an array, or is the value, for jsonb @> scalar */
static bool
add_jsonb_scalars(Cover *cover, Node *key, Jsonb *jsonb)
{
	int			column = index_column(cover->index, key, F_JSONB_HASH,
									  InvalidOid);
	JsonbIterator *it = JsonbIteratorInit(&jsonb->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		Datum		scalar;

		if (token != WJB_ELEM || value.type == jbvBinary)
			continue;
		scalar = JsonbPGetDatum(JsonbValueToJsonb(&value));
		if (!add_key(cover, column,
					 DatumGetUInt32(OidFunctionCall1(F_JSONB_HASH, scalar))))
			return false;
	}
	return true;
}

/* jsonb ? key; jsonb @> scalar, scalar <@ jsonb */
static bool
cover_jsonb(Cover *cover, OpExpr *op)
{
	Oid			function = get_opcode(op->opno);
	bool		exists = function == F_JSONB_EXISTS;
	bool		swapped = function == F_JSONB_CONTAINED;
	Node	   *container = linitial(op->args);
	Node	   *key = lsecond(op->args);
	Datum		value;
	bool		isnull;

	if (!exists && !swapped && function != F_JSONB_CONTAINS)
		return false;
	if (swapped)
	{
		container = lsecond(op->args);
		key = linitial(op->args);
	}
	key = as_key(key);
	if (key == NULL || (!exists && !rowcheck_is_scalar_jsonb(key)) ||
		!as_value(cover, container, &value, &isnull))
		return false;
	if (isnull)
		return true;
	return exists ? add_jsonb_names(cover, key, DatumGetJsonbP(value)) :
		add_jsonb_scalars(cover, key, DatumGetJsonbP(value));
}

/* A boolean column must have this value. */
static bool
cover_boolean(Cover *cover, Node *key, bool value)
{
	if (key == NULL || !IsA(key, Var) || ((Var *) key)->vartype != BOOLOID)
		return false;
	return add_key(cover,
				   index_column(cover->index, key, F_HASHCHAR, InvalidOid),
				   DatumGetUInt32(OidFunctionCall1(F_HASHCHAR,
												   BoolGetDatum(value))));
}

/* All must hold: it suffices that one covers. */
static bool
cover_and(Cover *cover, List *clauses)
{
	int			before = cover->nkeys;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		if (cover_clause(cover, lfirst(lc)))
			return true;
		cover->nkeys = before;
	}
	return false;
}

static bool
cover_or(Cover *cover, List *clauses)
{
	ListCell   *lc;

	foreach(lc, clauses)
		if (!cover_clause(cover, lfirst(lc)))
		return false;
	return true;
}

/*
 * Find keys such that the condition holds only for rows that have one of
 * them; false if there are none.
 */
static bool
cover_clause(Cover *cover, Node *clause)
{
	Datum		value;
	bool		isnull;

	if (as_value(cover, clause, &value, &isnull))
		return isnull || !DatumGetBool(value);
	switch (nodeTag(clause))
	{
		case T_OpExpr:
			return list_length(((OpExpr *) clause)->args) == 2 &&
				(cover_equality(cover, (OpExpr *) clause) ||
				 cover_jsonb(cover, (OpExpr *) clause));
		case T_ScalarArrayOpExpr:
			return cover_any(cover, (ScalarArrayOpExpr *) clause);
		case T_Var:
			return cover_boolean(cover, as_key(clause), true);
		case T_BoolExpr:
			{
				BoolExpr   *expr = (BoolExpr *) clause;

				if (expr->boolop == AND_EXPR)
					return cover_and(cover, expr->args);
				if (expr->boolop == OR_EXPR)
					return cover_or(cover, expr->args);
				return cover_boolean(cover, as_key(linitial(expr->args)),
									 false);
			}
		default:
			return false;
	}
}

/*--------------------------------------------------------------------------
 * The hash
 *--------------------------------------------------------------------------
 */

static void
insert_key(PredicateIndex *index, IndexItem *item, IndexKey *key)
{
	IndexEntry *entry = &item->entry;
	Bucket	   *bucket;
	bool		found;

	if (entry->item != NULL)
	{
		entry = MemoryContextAlloc(index->context, sizeof(IndexEntry));
		entry->more = item->entry.more;
		item->entry.more = entry;
	}
	bucket = buckets_insert(index->buckets, *key, &found);
	if (!found)
		bucket->first = NULL;
	entry->item = item;
	entry->key = *key;
	entry->prev = NULL;
	entry->next = bucket->first;
	if (entry->next != NULL)
		entry->next->prev = entry;
	bucket->first = entry;
}

/*
 * Put an item into the index by conditions of which all must hold, with these
 * values of their parameters (NULL: they have none).  Returns false, with
 * nothing done, if they do not cover the rows that pass.
 */
bool
predicate_insert(PredicateIndex *index, IndexItem *item, List *quals,
				 ParamListInfo params)
{
	Cover	   *cover = palloc(sizeof(Cover));
	bool		covered;

	cover->index = index;
	cover->params = params;
	cover->nkeys = 0;
	covered = cover_and(cover, quals);
	if (covered)
	{
		memset(&item->entry, 0, sizeof(IndexEntry));
		for (int i = 0; i < cover->nkeys; i++)
			insert_key(index, item, &cover->keys[i]);
		item->indexed = true;
	}
	pfree(cover);
	return covered;
}

/* Could such conditions put items into an index?  It depends on parameters. */
bool
predicate_may_cover(List *quals)
{
	Cover	   *cover = palloc0(sizeof(Cover));
	bool		result = cover_and(cover, quals);

	pfree(cover);
	return result;
}

static void
remove_entry(PredicateIndex *index, IndexEntry *entry)
{
	if (entry->next != NULL)
		entry->next->prev = entry->prev;
	if (entry->prev != NULL)
		entry->prev->next = entry->next;
	else if (entry->next != NULL)
		buckets_lookup(index->buckets, entry->key)->first = entry->next;
	else
		buckets_delete(index->buckets, entry->key);
}

/* Take an item out of the index that it is in. */
void
predicate_remove(PredicateIndex *index, IndexItem *item)
{
	IndexEntry *entry = item->entry.item != NULL ? &item->entry : NULL;

	while (entry != NULL)
	{
		IndexEntry *more = entry->more;

		remove_entry(index, entry);
		if (entry != &item->entry)
			pfree(entry);
		entry = more;
	}
	item->entry.item = NULL;
	item->entry.more = NULL;
	item->indexed = false;
}

static void
visit_bucket(PredicateIndex *index, const IndexKey *key, uint64 visit,
			 void (*function) (IndexItem *item, void *arg), void *arg)
{
	Bucket	   *bucket = buckets_lookup(index->buckets, *key);

	if (bucket == NULL)
		return;
	for (IndexEntry *entry = bucket->first; entry != NULL; entry = entry->next)
	{
		IndexItem  *item = entry->item;

		if (item->visit == visit)
			continue;
		item->visit = visit;
		function(item, arg);
	}
}

/* Has the row the columns, with the types, that the index was made for? */
static bool
fits_layout(IndexColumn *column, TupleDesc desc)
{
	ListCell   *lc;

	foreach(lc, column->vars)
	{
		Var		   *var = lfirst_node(Var, lc);

		if (var->varno == PREDICATE_FOUND_VARNO)
			continue;
		if (var->varattno > desc->natts ||
			TupleDescAttr(desc, var->varattno - 1)->atttypid != var->vartype)
			return false;
	}
	return true;
}

/* Is it a value that is found otherwise? */
static bool
is_found(IndexColumn *column)
{
	return IsA(column->expr, Var) &&
		((Var *) column->expr)->varno == PREDICATE_FOUND_VARNO;
}

static bool
is_known(IndexColumn *column, const PolicyRow *row)
{
	ListCell   *lc;

	if (is_found(column))
		return false;
	if (row->known == NULL)
		return true;
	foreach(lc, column->vars)
		if (!bms_is_member(lfirst_node(Var, lc)->varattno, row->known))
		return false;
	return true;
}

/* Be ready to evaluate expressions on rows like this one. */
static void
init_slot(PredicateIndex *index, TupleDesc desc)
{
	MemoryContext old = MemoryContextSwitchTo(index->context);

	index->econtext = CreateStandaloneExprContext();
	index->slot = MakeSingleTupleTableSlot(CreateTupleDescCopy(desc),
										   &TTSOpsHeapTuple);
	MemoryContextSwitchTo(old);
}

/* The row's value, which lives until the row has been looked up */
static Datum
key_value(PredicateIndex *index, IndexColumn *column, const PolicyRow *row,
		  bool *isnull)
{
	if (column->state == NULL)
		return heap_getattr(row->tuple, ((Var *) column->expr)->varattno,
							row->schema->desc, isnull);
	if (index->slot == NULL)
		init_slot(index, row->schema->desc);
	ExecStoreHeapTuple(row->tuple, index->slot, false);
	index->econtext->ecxt_scantuple = index->slot;
	return ExecEvalExprSwitchContext(column->state, index->econtext, isnull);
}

static void
forget_row(PredicateIndex *index)
{
	if (index->slot == NULL)
		return;
	ExecClearTuple(index->slot);
	ResetExprContext(index->econtext);
}

/*
 * By what the items are found whose conditions may hold for the row, palloc'd.
 * All rows have one schema, which is that of the items.
 *
 * A column that is not known is passed over: no condition that needs it can
 * be found to hold.  Returns NULL if the row's layout is not the one that the
 * items were indexed for.
 */
RowKeys *
predicate_keys(PredicateIndex *index, const PolicyRow *row)
{
	RowKeys    *keys;
	ListCell   *lc;

	foreach(lc, index->columns)
		if (!fits_layout(lfirst(lc), row->schema->desc))
		return NULL;
	keys = palloc(offsetof(RowKeys, keys) +
				  list_length(index->columns) * sizeof(IndexKey));
	keys->n = 0;
	foreach(lc, index->columns)
	{
		IndexColumn *column = lfirst(lc);
		Datum		value;
		bool		isnull;

		if (!is_known(column, row))
			continue;
		value = key_value(index, column, row, &isnull);
		if (isnull)
			continue;
		keys->keys[keys->n].column = foreach_current_index(lc);
		keys->keys[keys->n++].hash =
			DatumGetUInt32(FunctionCall1Coll(&column->finfo, column->collation,
											 value));
	}
	forget_row(index);
	return keys;
}

/* Are there so many items that they cannot all be in a cache? */
bool
predicate_is_large(const PredicateIndex *index)
{
	return index->buckets->members >= LARGE_INDEX;
}

/*
 * Have the memory fetched that predicate_visit will read.  It is read in
 * steps, from 0 to PREDICATE_FETCHES - 1; each needs what the one before has
 * fetched, so do the same step for many rows in turn.
 */
void
predicate_fetch(PredicateIndex *index, const RowKeys *keys, int step)
{
	for (int i = 0; i < keys->n; i++)
	{
		const IndexKey *key = &keys->keys[i];
		Bucket	   *bucket;

		if (step == 0)
		{
			predicate_prefetch(&index->buckets->data[bucket_hash(*key) &
													 index->buckets->sizemask],
							   sizeof(Bucket));
			continue;
		}
		bucket = buckets_lookup(index->buckets, *key);
		if (bucket == NULL)
			continue;
		if (step == 1)
			predicate_prefetch(bucket->first, sizeof(IndexEntry));
		else
			predicate_prefetch(bucket->first->item, PREDICATE_FETCHED);
	}
}

/*
 * Call the function for each item that has one of the keys, but once only for
 * each number "visit".  The function must not change the index.
 */
void
predicate_visit(PredicateIndex *index, const RowKeys *keys, uint64 visit,
				void (*function) (IndexItem *item, void *arg), void *arg)
{
	for (int i = 0; i < keys->n; i++)
		visit_bucket(index, &keys->keys[i], visit, function, arg);
}

/* The first item that has one of the keys, or NULL */
IndexItem *
predicate_first(PredicateIndex *index, const RowKeys *keys)
{
	for (int i = 0; i < keys->n; i++)
	{
		Bucket	   *bucket = buckets_lookup(index->buckets, keys->keys[i]);

		if (bucket != NULL)
			return bucket->first->item;
	}
	return NULL;
}

/* Are there items that only what was found otherwise can lead to? */
bool
predicate_needs_found(PredicateIndex *index)
{
	ListCell   *lc;

	foreach(lc, index->columns)
		if (is_found(lfirst(lc)))
		return true;
	return false;
}

/* Likewise, for a value that was found for the row; it is not null. */
void
predicate_visit_found(PredicateIndex *index, int number, Datum value,
					  uint64 visit,
					  void (*function) (IndexItem *item, void *arg), void *arg)
{
	ListCell   *lc;

	foreach(lc, index->columns)
	{
		IndexColumn *column = lfirst(lc);
		IndexKey	key = {foreach_current_index(lc), 0};

		if (!is_found(column) || ((Var *) column->expr)->varattno != number)
			continue;
		key.hash = DatumGetUInt32(FunctionCall1Coll(&column->finfo,
													column->collation, value));
		visit_bucket(index, &key, visit, function, arg);
	}
}
