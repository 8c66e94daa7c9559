/*-------------------------------------------------------------------------
 *
 * refill.c
 *	  Values that the WAL does not hold.
 *
 * An UPDATE that leaves a large value as it was (stored out of line, by TOAST)
 * does not log it.  With REPLICA IDENTITY FULL the plugin has it from the old
 * row; otherwise it is looked up here, by primary key, in the row as it is
 * now.  That may be a later version, which the subscriber need not be allowed
 * to see: so the value is taken only if nothing else in the row has changed,
 * for then row security decides about the very row that the value is from.
 * Otherwise, and if the row is gone, the value stays unknown; another event,
 * for those who may see it, follows.
 *
 * Nobody waits here for a lock: a table that is locked exclusively, or whose
 * index is, is not looked into.
 *
 * This reads the table with the engine's own rights; the value is shown to
 * nobody before it was decided who may see it.  An ordinary table is read by
 * an index scan, a partitioned one, published as such, by a query that finds
 * the partition.  Neither runs anything but the key's equality operators.  The
 * key of a table from which others inherit does not say in which the row is:
 * that one is not looked into.
 *
 * Called by route.c inside a transaction on the present.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "engine/compat.h"
#include "engine/refill.h"

/* The scan keys that find the tuple's row by the index; false if they cannot
 * be made */
static bool
make_keys(Relation index, const RelSchema *schema, HeapTuple tuple,
		  ScanKey keys)
{
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
	{
		AttrNumber	attnum = index->rd_index->indkey.values[i];
		StrategyNumber strategy;
		Oid			opno;
		Datum		value;
		bool		isnull;

		if (attnum > schema->desc->natts ||
			!bms_is_member(attnum, schema->pkey) ||
			!compat_equality(index, i, &strategy, &opno))
			return false;
		value = heap_getattr(tuple, attnum, schema->desc, &isnull);
		if (isnull)
			return false;
		ScanKeyEntryInitialize(&keys[i], 0, i + 1, strategy,
							   index->rd_opcintype[i],
							   index->rd_indcollation[i],
							   get_opcode(opno), value);
	}
	return true;
}

/* Has the table still this column of the change's schema, as it was then? */
static bool
same_column(TupleDesc then, TupleDesc now, int i)
{
	return i < now->natts && !TupleDescAttr(now, i)->attisdropped &&
		TupleDescAttr(now, i)->atttypid == TupleDescAttr(then, i)->atttypid;
}

/* Are two values of a column the same, byte for byte? */
static bool
same_value(Form_pg_attribute att, Datum a, bool a_null, Datum b, bool b_null)
{
	if (a_null || b_null)
		return a_null && b_null;
	return datum_image_eq(a, b, att->attbyval, att->attlen);
}

/*
 * Replace what is not known in the tuple by the row's values of now, unless
 * these are of a version that differs in what is known.
 */
static void
take_values(ChangeRows *rows, TupleDesc now, Datum *now_values,
			bool *now_nulls)
{
	TupleDesc	desc = rows->schema->desc;
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);
	Bitmapset  *known = bms_copy(rows->new_known);

	heap_deform_tuple(&rows->newtuple, desc, values, nulls);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || compat_att_is_virtual(att) ||
			!same_column(desc, now, i))
			continue;
		if (bms_is_member(i + 1, rows->new_known))
		{
			if (!same_value(att, values[i], nulls[i],
							now_values[i], now_nulls[i]))
				return;
			continue;
		}
		nulls[i] = now_nulls[i];
		values[i] = now_values[i];
		if (!nulls[i] && att->attlen == -1)
			values[i] = PointerGetDatum(PG_DETOAST_DATUM_COPY(values[i]));
		known = bms_add_member(known, i + 1);
	}
	rows->newtuple = *heap_form_tuple(desc, values, nulls);
	rows->new_known = known;
}

static void
look_up_by_index(ChangeRows *rows, Relation rel, Relation index)
{
	ScanKeyData keys[INDEX_MAX_KEYS];
	TupleTableSlot *slot;
	IndexScanDesc scan;

	if (!make_keys(index, rows->schema, &rows->newtuple, keys))
		return;
	slot = table_slot_create(rel, NULL);
	scan = compat_index_beginscan(rel, index, GetActiveSnapshot(),
								  IndexRelationGetNumberOfKeyAttributes(index));
	index_rescan(scan, keys, IndexRelationGetNumberOfKeyAttributes(index),
				 NULL, 0);
	/* not every kind of index tells the rows apart as the values do */
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		slot_getallattrs(slot);
		take_values(rows, RelationGetDescr(rel), slot->tts_values,
					slot->tts_isnull);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/* SELECT * FROM table WHERE key = $1 AND ..., and its parameters */
static char *
lookup_query(ChangeRows *rows, Relation rel, Oid *types, Datum *values,
			 int *nvalues)
{
	RelSchema  *schema = rows->schema;
	StringInfoData buf;
	int			attnum = -1;
	bool		isnull;

	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT * FROM %s WHERE true",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												RelationGetRelationName(rel)));
	*nvalues = 0;
	while ((attnum = bms_next_member(schema->pkey, attnum)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);

		values[*nvalues] = heap_getattr(&rows->newtuple, attnum, schema->desc,
										&isnull);
		types[*nvalues] = att->atttypid;
		appendStringInfo(&buf, " AND %s OPERATOR(pg_catalog.=) $%d",
						 quote_identifier(NameStr(att->attname)),
						 ++*nvalues);
	}
	return buf.data;
}

static void
look_up_by_query(ChangeRows *rows, Relation rel)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[INDEX_MAX_KEYS];
	Datum		keys[INDEX_MAX_KEYS];
	int			nkeys;
	char	   *query = lookup_query(rows, rel, types, keys, &nkeys);

	int			nestlevel = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", "1ms", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	if (SPI_execute_with_args(query, nkeys, types, keys, NULL, true,
							  1) == SPI_OK_SELECT && SPI_processed == 1)
	{
		TupleDesc	desc = SPI_tuptable->tupdesc;
		int			natts = RelationGetDescr(rel)->natts;
		Datum	   *values = palloc0(sizeof(Datum) * natts);
		bool	   *nulls = palloc0(sizeof(bool) * natts);
		int			column = 0;

		/* "*" does not have the dropped columns */
		for (int i = 0; i < natts; i++)
			if (!TupleDescAttr(RelationGetDescr(rel), i)->attisdropped)
				values[i] = SPI_getbinval(SPI_tuptable->vals[0], desc,
										  ++column, &nulls[i]);
		MemoryContextSwitchTo(context);
		take_values(rows, RelationGetDescr(rel), values, nulls);
	}
	SPI_finish();
	AtEOXact_GUC(false, nestlevel);
	MemoryContextSwitchTo(context);
}

/*
 * Look up what is not known of the new row, as far as that is possible; the
 * result is in the current memory context.  May raise errors.
 */
void
refill_rows(ChangeRows *rows)
{
	Relation	rel;
	Oid			indexid;

	if (!rows->has_new || rows->new_known == NULL ||
		!ConditionalLockRelationOid(rows->schema->relid, AccessShareLock))
		return;
	rel = try_table_open(rows->schema->relid, NoLock);
	if (rel == NULL)
	{
		UnlockRelationOid(rows->schema->relid, AccessShareLock);
		return;
	}
	(void) RelationGetIndexList(rel);	/* finds rd_pkindex */
	indexid = rel->rd_pkindex;
	if (!OidIsValid(indexid))
		;
	else if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		look_up_by_query(rows, rel);
	else if (!rel->rd_rel->relhassubclass &&
			 ConditionalLockRelationOid(indexid, AccessShareLock))
	{
		Relation	index = index_open(indexid, NoLock);

		look_up_by_index(rows, rel, index);
		index_close(index, AccessShareLock);
	}
	table_close(rel, AccessShareLock);
}
