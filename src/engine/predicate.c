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
 *		column, NOT column			a boolean column
 *		false, or a null parameter	no row at all
 *		a OR b ...					if each of them covers
 *		a AND b ...					if one of them does
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
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "engine/predicate.h"

/* A condition with more values than this is not worth indexing. */
#define MAX_KEYS 1000

/* A column by which items are found, with the way to hash it */
typedef struct IndexColumn
{
	AttrNumber	attnum;
	Oid			typid;
	Oid			collation;
	Oid			function;
	FmgrInfo	finfo;
} IndexColumn;

struct PredicateIndex
{
	MemoryContext context;
	List	   *columns;		/* of IndexColumn */
	HTAB	   *buckets;
};

/* A column, by its number in the list, and the hash of a value */
typedef struct IndexKey
{
	int			column;
	uint32		hash;
} IndexKey;

typedef struct Bucket
{
	IndexKey	key;			/* hash key */
	dlist_head	entries;		/* IndexEntry.in_bucket */
} Bucket;

typedef struct IndexEntry
{
	dlist_node	in_bucket;
	dlist_node	in_item;
	Bucket	   *bucket;
	IndexItem  *item;
} IndexEntry;

/* What is being found out about one item */
typedef struct Cover
{
	PredicateIndex *index;
	ParamListInfo params;
	int			nkeys;
	IndexKey	keys[MAX_KEYS];
} Cover;

static bool cover_clause(Cover *cover, Node *clause);

/* Make an empty index. */
PredicateIndex *
predicate_create(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent,
												  "rtsync predicate index",
												  ALLOCSET_DEFAULT_SIZES);
	PredicateIndex *index = MemoryContextAllocZero(context,
												   sizeof(PredicateIndex));
	HASHCTL		ctl = {
		.keysize = sizeof(IndexKey),
		.entrysize = sizeof(Bucket),
		.hcxt = context
	};

	index->context = context;
	index->buckets = hash_create("rtsync predicate index", 256, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return index;
}

/* Free it.  The items that are still in it must not be removed any more. */
void
predicate_delete(PredicateIndex *index)
{
	MemoryContextDelete(index->context);
}

/* The number of a column in the index, which gets to know it if need be */
static int
index_column(PredicateIndex *index, const Var *var, Oid function,
			 Oid collation)
{
	IndexColumn *column;
	MemoryContext old;
	ListCell   *lc;

	foreach(lc, index->columns)
	{
		column = lfirst(lc);
		if (column->attnum == var->varattno && column->typid == var->vartype &&
			column->collation == collation && column->function == function)
			return foreach_current_index(lc);
	}
	old = MemoryContextSwitchTo(index->context);
	column = palloc(sizeof(IndexColumn));
	column->attnum = var->varattno;
	column->typid = var->vartype;
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
	if (cover->nkeys == MAX_KEYS)
		return false;
	memset(&cover->keys[cover->nkeys], 0, sizeof(IndexKey));
	cover->keys[cover->nkeys].column = column;
	cover->keys[cover->nkeys].hash = hash;
	cover->nkeys++;
	return true;
}

/* The column that an operand is, if it is one */
static Var *
as_column(Node *node)
{
	while (node != NULL && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (node != NULL && IsA(node, Var) && ((Var *) node)->varattno > 0 &&
		((Var *) node)->varlevelsup == 0)
		return (Var *) node;
	return NULL;
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
	Var		   *var;
	Datum		value;
	bool		isnull;
	bool		swapped = as_column(left) == NULL;

	var = as_column(swapped ? right : left);
	if (var == NULL ||
		!as_value(cover, swapped ? left : right, &value, &isnull) ||
		!hash_functions(op->opno, exprType(left), &left_hash, &right_hash))
		return false;
	if (isnull)
		return true;
	return add_key(cover,
				   index_column(cover->index, var,
								swapped ? right_hash : left_hash,
								op->inputcollid),
				   DatumGetUInt32(OidFunctionCall1Coll(swapped ? left_hash : right_hash,
													   op->inputcollid, value)));
}

/* column = ANY(array) */
static bool
cover_any(Cover *cover, ScalarArrayOpExpr *op)
{
	Var		   *var = as_column(linitial(op->args));
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

	if (!op->useOr || var == NULL ||
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
	column = index_column(cover->index, var, left_hash, op->inputcollid);
	for (int i = 0; i < nelements; i++)
		if (!nulls[i] &&
			!add_key(cover, column,
					 DatumGetUInt32(OidFunctionCall1Coll(right_hash,
														 op->inputcollid,
														 elements[i]))))
			return false;
	return true;
}

/* A boolean column must have this value. */
static bool
cover_boolean(Cover *cover, Var *var, bool value)
{
	if (var == NULL || var->vartype != BOOLOID)
		return false;
	return add_key(cover,
				   index_column(cover->index, var, F_HASHCHAR, InvalidOid),
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
				cover_equality(cover, (OpExpr *) clause);
		case T_ScalarArrayOpExpr:
			return cover_any(cover, (ScalarArrayOpExpr *) clause);
		case T_Var:
			return cover_boolean(cover, as_column(clause), true);
		case T_BoolExpr:
			{
				BoolExpr   *expr = (BoolExpr *) clause;

				if (expr->boolop == AND_EXPR)
					return cover_and(cover, expr->args);
				if (expr->boolop == OR_EXPR)
					return cover_or(cover, expr->args);
				return cover_boolean(cover, as_column(linitial(expr->args)),
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
	IndexEntry *entry = MemoryContextAlloc(index->context,
										   sizeof(IndexEntry));
	bool		found;

	entry->item = item;
	entry->bucket = hash_search(index->buckets, key, HASH_ENTER, &found);
	if (!found)
		dlist_init(&entry->bucket->entries);
	dlist_push_tail(&entry->bucket->entries, &entry->in_bucket);
	dlist_push_tail(&item->entries, &entry->in_item);
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
		dlist_init(&item->entries);
		for (int i = 0; i < cover->nkeys; i++)
			insert_key(index, item, &cover->keys[i]);
		item->indexed = true;
	}
	pfree(cover);
	return covered;
}

/* Take an item out of the index that it is in. */
void
predicate_remove(PredicateIndex *index, IndexItem *item)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &item->entries)
	{
		IndexEntry *entry = dlist_container(IndexEntry, in_item, iter.cur);
		Bucket	   *bucket = entry->bucket;

		dlist_delete(&entry->in_bucket);
		if (dlist_is_empty(&bucket->entries))
			hash_search(index->buckets, &bucket->key, HASH_REMOVE, NULL);
		pfree(entry);
	}
	item->indexed = false;
}

static void
visit_bucket(PredicateIndex *index, IndexKey *key, uint64 visit,
			 void (*function) (IndexItem *item, void *arg), void *arg)
{
	Bucket	   *bucket = hash_search(index->buckets, key, HASH_FIND, NULL);
	dlist_iter	iter;

	if (bucket == NULL)
		return;
	dlist_foreach(iter, &bucket->entries)
	{
		IndexItem  *item = dlist_container(IndexEntry, in_bucket,
										   iter.cur)->item;

		if (item->visit == visit)
			continue;
		item->visit = visit;
		function(item, arg);
	}
}

/*
 * Call the function for each item whose conditions may hold for the row, but
 * once only for each number "visit".  The function must not change the index.
 *
 * A column that is not known is passed over: no condition that needs it can
 * be found to hold.  Returns false, having called nothing, if the row's layout
 * is not the one that the items were indexed for.
 */
bool
predicate_visit(PredicateIndex *index, const PolicyRow *row, uint64 visit,
				void (*function) (IndexItem *item, void *arg), void *arg)
{
	TupleDesc	desc = row->schema->desc;
	ListCell   *lc;

	foreach(lc, index->columns)
	{
		IndexColumn *column = lfirst(lc);

		if (column->attnum > desc->natts ||
			TupleDescAttr(desc, column->attnum - 1)->atttypid != column->typid)
			return false;
	}
	foreach(lc, index->columns)
	{
		IndexColumn *column = lfirst(lc);
		IndexKey	key = {foreach_current_index(lc), 0};
		Datum		value;
		bool		isnull;

		if (row->known != NULL && !bms_is_member(column->attnum, row->known))
			continue;
		value = heap_getattr(row->tuple, column->attnum, desc, &isnull);
		if (isnull)
			continue;
		key.hash = DatumGetUInt32(FunctionCall1Coll(&column->finfo,
													column->collation, value));
		visit_bucket(index, &key, visit, function, arg);
	}
	return true;
}
