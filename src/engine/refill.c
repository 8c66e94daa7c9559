/*-------------------------------------------------------------------------
 *
 * refill.c
 *	  Values that the WAL does not hold.
 *
 * An UPDATE that leaves a large value as it was (stored out of line, by TOAST)
 * does not log it.  With REPLICA IDENTITY FULL the plugin has it from the old
 * row; otherwise it is looked up here, by primary key, in the row as it is
 * now.  A later transaction may have changed it; then the subscriber gets the
 * later value a little early, and its own event follows.  If the row is gone,
 * the value stays unknown, and the event that says so follows too.
 *
 * This reads the table with the engine's own rights, by an index scan and no
 * query, so that no code of a user runs; the value is shown to nobody before
 * it was decided who may see it.
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
#include "executor/tuptable.h"
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
		Oid			opno;
		Datum		value;
		bool		isnull;

		if (attnum > schema->desc->natts ||
			!bms_is_member(attnum, schema->pkey))
			return false;
		opno = get_opfamily_member(index->rd_opfamily[i],
								   index->rd_opcintype[i],
								   index->rd_opcintype[i],
								   BTEqualStrategyNumber);
		value = heap_getattr(tuple, attnum, schema->desc, &isnull);
		if (isnull || !OidIsValid(opno))
			return false;
		ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber,
							   index->rd_opcintype[i],
							   index->rd_indcollation[i],
							   get_opcode(opno), value);
	}
	return true;
}

/* Replace what is not known in the tuple by the row's values of now. */
static void
take_values(ChangeRows *rows, Relation rel, TupleTableSlot *slot)
{
	TupleDesc	desc = rows->schema->desc;
	TupleDesc	now = RelationGetDescr(rel);
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);

	heap_deform_tuple(&rows->newtuple, desc, values, nulls);
	for (int i = 0; i < desc->natts; i++)
	{
		if (bms_is_member(i + 1, rows->new_known))
			continue;
		if (i >= now->natts || TupleDescAttr(now, i)->attisdropped ||
			TupleDescAttr(now, i)->atttypid != TupleDescAttr(desc, i)->atttypid)
			continue;
		values[i] = slot_getattr(slot, i + 1, &nulls[i]);
		if (!nulls[i] && TupleDescAttr(now, i)->attlen == -1)
			values[i] = PointerGetDatum(PG_DETOAST_DATUM_COPY(values[i]));
		rows->new_known = bms_add_member(rows->new_known, i + 1);
	}
	rows->newtuple = *heap_form_tuple(desc, values, nulls);
}

static void
look_up(ChangeRows *rows, Relation rel, Relation index)
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
	if (index_getnext_slot(scan, ForwardScanDirection, slot))
		take_values(rows, rel, slot);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Look up what is not known of the new row, as far as that is possible; the
 * result is in the current memory context.
 */
void
refill_rows(ChangeRows *rows)
{
	Relation	rel;
	Oid			indexid;

	if (!rows->has_new || rows->new_known == NULL)
		return;
	rel = try_table_open(rows->schema->relid, AccessShareLock);
	if (rel == NULL)
		return;
	(void) RelationGetIndexList(rel);	/* finds rd_pkindex */
	indexid = rel->rd_pkindex;
	if (OidIsValid(indexid) && rel->rd_rel->relkind == RELKIND_RELATION)
	{
		Relation	index = index_open(indexid, AccessShareLock);

		look_up(rows, rel, index);
		index_close(index, AccessShareLock);
	}
	table_close(rel, AccessShareLock);
}
