/*-------------------------------------------------------------------------
 *
 * merge.c
 *	  Changes of one row, merged into one.
 *
 *		INSERT, UPDATE		INSERT of the last row
 *		INSERT, DELETE		nothing
 *		UPDATE, UPDATE		UPDATE from the first old row to the last row
 *		UPDATE, DELETE		DELETE of the first old row
 *		DELETE, INSERT		UPDATE from the old row to the new one
 *
 * What comes out is a change like any other, to be decided and rendered like
 * one: it is what a single transaction would have done to the row.
 *
 * A row is known by its primary key, or by the index that is its replica
 * identity.  The place of a merged change is that of the last one in it, which
 * others can be moved behind only because all between them concern other
 * rows.  So a change of the key stands for itself, and what comes later for
 * either key is not merged with what came before; the same holds for a change
 * whose key is not known, and for TRUNCATE, with regard to all rows.
 *
 * Called by route.c, in the context of the slice, where all of this lies.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "utils/datum.h"

#include "engine/compat.h"
#include "engine/merge.h"

typedef struct MergeEntry
{
	ChangeRows *rows;			/* the caller's */
	uint32		hash;			/* of the key */
	int			next;			/* in the bucket, or -1 */
	bool		closed;			/* nothing more is merged into it */
	bool		nothing;		/* the row came and went */
	HeapTuple	own;			/* rows->newtuple, if it was made here */
} MergeEntry;

struct MergeTable
{
	uint32		nbuckets;		/* a power of 2 */
	int		   *buckets;		/* first entries, or -1 */
	MergeEntry *entries;		/* by the caller's number */
};

static void
forget_all(MergeTable *table)
{
	for (uint32 i = 0; i < table->nbuckets; i++)
		table->buckets[i] = -1;
}

/* Make an empty table, in the current memory context, for so many changes. */
MergeTable *
merge_create(int max)
{
	MergeTable *table = palloc(sizeof(MergeTable));

	table->nbuckets = 16;
	while (table->nbuckets < max)
		table->nbuckets *= 2;
	table->buckets = palloc(sizeof(int) * table->nbuckets);
	table->entries = palloc0(sizeof(MergeEntry) * max);
	forget_all(table);
	return table;
}

/* The columns that tell the rows of a table apart, or NULL */
static const Bitmapset *
row_key(const RelSchema *schema)
{
	const Bitmapset *key = schema_key(schema);

	if (bms_is_empty(key) ||
		(key != schema->pkey && schema->replident != REPLICA_IDENTITY_INDEX))
		return NULL;
	return key;
}

static HeapTuple
unconst_tuple(const HeapTupleData *tuple)
{
	return unconstify(HeapTupleData *, tuple);
}

static uint32
hash_key(const RelSchema *schema, const Bitmapset *key,
		 const HeapTupleData *tuple)
{
	uint32		result = (uint32) schema->relid;
	int			attnum = -1;

	while ((attnum = bms_next_member(key, attnum)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(schema->desc, attnum - 1);
		bool		isnull;
		Datum		value = heap_getattr(unconst_tuple(tuple), attnum,
										 schema->desc, &isnull);

		result = hash_combine(result, isnull ? 0 :
							  datum_image_hash(value, att->attbyval,
											   att->attlen));
	}
	return result;
}

static bool
same_key(const RelSchema *schema, const Bitmapset *key,
		 const HeapTupleData *a, const HeapTupleData *b)
{
	int			attnum = -1;

	while ((attnum = bms_next_member(key, attnum)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(schema->desc, attnum - 1);
		bool		a_null;
		bool		b_null;
		Datum		a_value = heap_getattr(unconst_tuple(a), attnum,
										   schema->desc, &a_null);
		Datum		b_value = heap_getattr(unconst_tuple(b), attnum,
										   schema->desc, &b_null);

		if (a_null || b_null ||
			!datum_image_eq(a_value, b_value, att->attbyval, att->attlen))
			return false;
	}
	return true;
}

/* The row, old or new, that has the key; both have the same, or it moves */
static const HeapTupleData *
keyed_row(const ChangeRows *rows)
{
	return rows->has_new ? &rows->newtuple : &rows->oldtuple;
}

/* Is the key known of all that the change has? */
static bool
key_is_known(const ChangeRows *rows, const Bitmapset *key)
{
	if (rows->kind == CHANGE_TRUNCATE || key == NULL ||
		!(rows->has_new || rows->has_old))
		return false;
	return !rows->has_new || rows->new_known == NULL ||
		bms_is_subset(key, rows->new_known);
}

/* The open entry of the row with this key, or -1 */
static int
find_row(MergeTable *table, const RelSchema *schema, const Bitmapset *key,
		 const HeapTupleData *tuple, uint32 hash)
{
	int			i = table->buckets[hash & (table->nbuckets - 1)];

	for (; i >= 0; i = table->entries[i].next)
	{
		MergeEntry *entry = &table->entries[i];

		if (!entry->closed && entry->hash == hash &&
			entry->rows->schema == schema &&
			same_key(schema, key, keyed_row(entry->rows), tuple))
			return i;
	}
	return -1;
}

static void
close_row(MergeTable *table, const RelSchema *schema, const Bitmapset *key,
		  const HeapTupleData *tuple)
{
	int			i = find_row(table, schema, key, tuple,
							 hash_key(schema, key, tuple));

	if (i >= 0)
		table->entries[i].closed = true;
}

/*
 * The new row takes what the change left as it was, and does not know, from
 * the row before it.
 */
static void
complete_row(MergeEntry *entry, const ChangeRows *change)
{
	ChangeRows *rows = entry->rows;
	TupleDesc	desc = rows->schema->desc;
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);
	Datum	   *before = palloc(sizeof(Datum) * desc->natts);
	bool	   *before_nulls = palloc(sizeof(bool) * desc->natts);
	Bitmapset  *known = bms_copy(change->new_known);
	bool		all = rows->new_known == NULL;
	HeapTuple	made;

	heap_deform_tuple(unconst_tuple(&change->newtuple), desc, values, nulls);
	heap_deform_tuple(&rows->newtuple, desc, before, before_nulls);
	for (int i = 0; i < desc->natts; i++)
	{
		if (bms_is_member(i + 1, change->new_known) ||
			!(all || bms_is_member(i + 1, rows->new_known)))
			continue;
		values[i] = before[i];
		nulls[i] = before_nulls[i];
		known = bms_add_member(known, i + 1);
	}
	made = heap_form_tuple(desc, values, nulls);
	if (entry->own != NULL)
		heap_freetuple(entry->own);
	entry->own = made;
	rows->newtuple = *made;
	rows->new_known = all ? NULL : known;
	pfree(values);
	pfree(nulls);
	pfree(before);
	pfree(before_nulls);
}

static void
take_new_row(MergeEntry *entry, const ChangeRows *change)
{
	ChangeRows *rows = entry->rows;

	if (rows->has_new && change->has_new && change->new_known != NULL)
	{
		complete_row(entry, change);
		return;
	}
	if (entry->own != NULL)
		heap_freetuple(entry->own);
	entry->own = NULL;
	rows->has_new = change->has_new;
	rows->newtuple = change->newtuple;
	rows->new_known = change->new_known;
}

static void
take_old_row(ChangeRows *rows, const ChangeRows *change)
{
	if (rows->has_old)
		return;
	rows->has_old = change->has_old;
	rows->oldtuple = change->oldtuple;
}

/* Merge a later change of its row into the entry; false if they do not fit. */
static bool
merge(MergeEntry *entry, const ChangeRows *change)
{
	ChangeRows *rows = entry->rows;

	if (entry->nothing || rows->kind == CHANGE_DELETE)
	{
		if (change->kind != CHANGE_INSERT)
			return false;
		if (entry->nothing)
			rows->has_old = false;
		rows->kind = entry->nothing ? CHANGE_INSERT : CHANGE_UPDATE;
		entry->nothing = false;
		take_new_row(entry, change);
		return true;
	}
	if (change->kind == CHANGE_INSERT)
		return false;
	if (rows->kind == CHANGE_INSERT)
		entry->nothing = change->kind == CHANGE_DELETE;
	else
	{
		take_old_row(rows, change);
		rows->kind = change->kind;
	}
	if (!entry->nothing)		/* else the row still tells the key */
		take_new_row(entry, change);
	return true;
}

/*
 * Merge a change into an earlier one of its row, whose place then is that of
 * this change.  Returns the number of the earlier one; or -1 if the change
 * stands for itself, and may be entered with merge_enter.
 */
int
merge_into(MergeTable *table, const ChangeRows *change)
{
	RelSchema  *schema = change->schema;
	const Bitmapset *key = row_key(schema);
	const HeapTupleData *tuple = keyed_row(change);
	int			i;

	if (key == NULL && change->kind != CHANGE_TRUNCATE)
		return -1;
	if (!key_is_known(change, key))
	{
		forget_all(table);
		return -1;
	}
	if (change->has_new && change->has_old &&
		!same_key(schema, key, &change->oldtuple, &change->newtuple))
	{
		close_row(table, schema, key, &change->oldtuple);
		close_row(table, schema, key, &change->newtuple);
		return -1;
	}
	i = find_row(table, schema, key, tuple, hash_key(schema, key, tuple));
	if (i < 0)
		return -1;
	if (merge(&table->entries[i], change))
		return i;
	table->entries[i].closed = true;
	return -1;
}

/*
 * Enter a change that merge_into has left alone, so that later ones can be
 * merged into it; "rows" is altered by them.
 */
void
merge_enter(MergeTable *table, int number, ChangeRows *rows)
{
	MergeEntry *entry = &table->entries[number];
	const Bitmapset *key = row_key(rows->schema);
	int		   *bucket;

	if (!key_is_known(rows, key) ||
		(rows->has_new && rows->has_old &&
		 !same_key(rows->schema, key, &rows->oldtuple, &rows->newtuple)))
		return;
	entry->rows = rows;
	entry->hash = hash_key(rows->schema, key, keyed_row(rows));
	bucket = &table->buckets[entry->hash & (table->nbuckets - 1)];
	entry->next = *bucket;
	*bucket = number;
}

/* Has the row of this entry come and gone? */
bool
merge_is_nothing(const MergeTable *table, int number)
{
	return table->entries[number].nothing;
}
