/*-------------------------------------------------------------------------
 *
 * plugin_rel.c
 *	  The output plugin's knowledge of tables: what of their changes is
 *	  published, and how a change's tuples become published ones.
 *
 * A decoding session has a cache with one entry per changed table.  Callbacks
 * on invalidations only mark entries as stale; the next lookup makes a stale
 * entry anew from the catalogs, under the historic snapshot of the change at
 * hand.  Entries depend on
 *
 * - the table and the partitioned or inherited tables above it (relcache),
 * - the publications (their three catalogs) and the schemas (pg_namespace),
 * - the types of its columns (pg_type), of which the name is published,
 * - casts to json (pg_cast), for the text format.
 *
 * Callbacks cannot be unregistered, so they are registered once per process
 * and look through the list of live sessions.  A session leaves the list when
 * its memory context goes away, in whatever way.
 *
 * What an entry points to is in a memory context of its own, but for the
 * RelSchema, which is counted.  An entry whose making failed is not "built"
 * and is made again at the next lookup.
 *
 * Called by plugin.c alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "optimizer/optimizer.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/plugin_private.h"

/* Stale entries are swept out when there are more than this many */
#define SWEEP_STALE 256

/* The values of a tuple may have this size together; a tuple must be smaller
 * than MaxAllocSize, headers and alignment included */
#define MAX_TUPLE_VALUES (MaxAllocSize - 64 * 1024)

typedef struct RelHashEntry
{
	Oid			relid;
	char		status;
	RelEntry   *entry;
} RelHashEntry;

#define SH_PREFIX relhash
#define SH_ELEMENT_TYPE RelHashEntry
#define SH_KEY_TYPE Oid
#define SH_KEY relid
#define SH_HASH_KEY(tb, key) murmurhash32(key)
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static dlist_head live_sessions = DLIST_STATIC_INIT(live_sessions);

static void register_callbacks(void);
static void session_reset_cb(void *arg);
static void relation_changed_cb(Datum arg, Oid relid);
static void catalog_changed_cb(Datum arg, int cacheid, uint32 hashvalue);
static void type_changed_cb(Datum arg, int cacheid, uint32 hashvalue);
static void mark_stale(PluginState *state, RelEntry *entry);
static void mark_relation_stale(PluginState *state, Oid relid);
static bool is_below(const RelEntry *entry, Oid relid);
static void unref_schemas(RelEntry *entry);
static void free_above(PluginState *state, RelEntry **place);
static bool depends_on_type(const RelEntry *entry, uint32 hashvalue);
static void remove_entry(PluginState *state, RelEntry *entry);
static void clear_entry(PluginState *state, RelEntry *entry);
static void build_entry(PluginState *state, RelEntry *entry, Relation relation);
static void build_above(PluginState *state, RelEntry *entry, Relation relation);
static MemoryContext begin_entry(PluginState *state, RelEntry *entry,
								 Relation relation);
static void publish_entry(PluginState *state, RelEntry *entry,
						  Relation relation);
static void read_dependencies(PluginState *state, RelEntry *entry,
							  Relation relation);
static List *inheritance_ancestors(Oid relid);
static void read_schema(PluginState *state, RelEntry *entry,
						Relation relation, Relation root);
static void prepare_tuples(RelEntry *entry, Relation relation, Relation root);
static void prepare_filter(RelEntry *entry, Relation root);
static bool tells_too_little(const RelEntry *entry);
static bool identity_decides(const RelEntry *entry, Node *filter);
static bool is_plain(const RelEntry *entry, HeapTuple tuple);
static void rebuild_tuples(PluginState *state, RelEntry *entry,
						   Relation relation, PluginChange *out);
static Bitmapset *resolve_external(RelEntry *entry, TupleDesc desc,
								   bool have_old);
static Bitmapset *drop_oversize(RelEntry *entry, TupleDesc desc,
								Bitmapset *missing);
static HeapTuple form_published(RelEntry *entry, Datum *values, bool *nulls);
static bool filter_change(RelEntry *entry, PluginChange *out);
static bool filter_passes(RelEntry *entry, HeapTuple tuple);

/* Give a new session its (empty) cache. */
void
rel_cache_init(PluginState *state)
{
	register_callbacks();

	state->by_relid = relhash_create(state->context, 64, NULL);
	dlist_init(&state->entries);
	state->last = NULL;
	state->nstale = 0;

	state->reset_cb.func = session_reset_cb;
	state->reset_cb.arg = state;
	MemoryContextRegisterResetCallback(state->context, &state->reset_cb);
	dlist_push_tail(&live_sessions, &state->node);
}

/*
 * A transaction begins: no entry is in use now, so those of tables that are
 * long gone can go.
 */
void
rel_cache_begin(PluginState *state)
{
	dlist_mutable_iter iter;

	if (state->nstale <= SWEEP_STALE)
		return;

	dlist_foreach_modify(iter, &state->entries)
	{
		RelEntry   *entry = dlist_container(RelEntry, node, iter.cur);

		if (entry->stale)
			remove_entry(state, entry);
	}
	state->nstale = 0;
}

/* Forget everything, as after a change of the publication's name. */
void
rel_cache_invalidate(PluginState *state)
{
	dlist_iter	iter;

	dlist_foreach(iter, &state->entries)
		mark_stale(state, dlist_container(RelEntry, node, iter.cur));
}

/*
 * The entry of a changed table, up to date.  Needs the historic snapshot.
 * Good until the next lookup of the same table.
 */
RelEntry *
rel_cache_lookup(PluginState *state, Relation relation)
{
	Oid			relid = RelationGetRelid(relation);
	RelEntry   *entry = state->last;

	if (entry == NULL || entry->relid != relid)
	{
		bool		found;
		RelHashEntry *element = relhash_lookup(state->by_relid, relid);

		if (element == NULL)
		{
			entry = MemoryContextAllocZero(state->context, sizeof(RelEntry));
			entry->relid = relid;
			dlist_push_tail(&state->entries, &entry->node);
			element = relhash_insert(state->by_relid, relid, &found);
			element->entry = entry;
		}
		entry = element->entry;
		state->last = entry;
	}

	if (!entry->built || entry->stale)
		build_entry(state, entry, relation);
	return entry;
}

/*
 * Make a published change of a decoded one.  False if the row filter holds it
 * back.  Allocates in the current memory context, and what it returns may
 * point into "change".
 */
bool
rel_make_change(PluginState *state, RelEntry *entry, Relation relation,
				ReorderBufferChange *change, PluginChange *out)
{
	out->lsn = change->lsn;
	out->schema = entry->schema;
	out->oldtuple = compat_change_oldtuple(change);
	out->newtuple = compat_change_newtuple(change);
	out->missing = NULL;
	out->partial = false;

	switch (change->action)
	{
		case REORDER_BUFFER_CHANGE_INSERT:
			out->kind = CHANGE_INSERT;
			break;
		case REORDER_BUFFER_CHANGE_UPDATE:
			out->kind = CHANGE_UPDATE;
			break;
		case REORDER_BUFFER_CHANGE_DELETE:
			out->kind = CHANGE_DELETE;
			break;
		default:
			elog(ERROR, "unexpected change action %d", change->action);
	}

	if (out->kind != CHANGE_INSERT && entry->vague)
	{
		out->kind = CHANGE_TRUNCATE;
		out->partial = true;
		out->oldtuple = out->newtuple = NULL;
		return true;
	}
	if (!is_plain(entry, out->newtuple) || !is_plain(entry, out->oldtuple))
		rebuild_tuples(state, entry, relation, out);

	return entry->filter == NULL || filter_change(entry, out);
}

/* ----- invalidation ----- */

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	CacheRegisterRelcacheCallback(relation_changed_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(PUBLICATIONOID, catalog_changed_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(PUBLICATIONRELMAP, catalog_changed_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(PUBLICATIONNAMESPACEMAP, catalog_changed_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, catalog_changed_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, catalog_changed_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, type_changed_cb, (Datum) 0);
	registered = true;
}

/*
 * The session's memory goes away.  Contexts below state->context are gone
 * already, the entries are not.
 */
static void
session_reset_cb(void *arg)
{
	PluginState *state = arg;
	dlist_iter	iter;

	dlist_delete(&state->node);
	dlist_foreach(iter, &state->entries)
		unref_schemas(dlist_container(RelEntry, node, iter.cur));
}

static void
relation_changed_cb(Datum arg, Oid relid)
{
	dlist_iter	iter;

	dlist_foreach(iter, &live_sessions)
	{
		PluginState *state = dlist_container(PluginState, node, iter.cur);

		if (OidIsValid(relid))
			mark_relation_stale(state, relid);
		else
			rel_cache_invalidate(state);
	}
}

static void
catalog_changed_cb(Datum arg, int cacheid, uint32 hashvalue)
{
	dlist_iter	iter;

	dlist_foreach(iter, &live_sessions)
		rel_cache_invalidate(dlist_container(PluginState, node, iter.cur));
}

static void
type_changed_cb(Datum arg, int cacheid, uint32 hashvalue)
{
	dlist_iter	sessions;
	dlist_iter	entries;

	dlist_foreach(sessions, &live_sessions)
	{
		PluginState *state = dlist_container(PluginState, node, sessions.cur);

		dlist_foreach(entries, &state->entries)
		{
			RelEntry   *entry = dlist_container(RelEntry, node, entries.cur);

			if (hashvalue == 0 || depends_on_type(entry, hashvalue))
				mark_stale(state, entry);
		}
	}
}

static void
mark_stale(PluginState *state, RelEntry *entry)
{
	if (!entry->stale)
		state->nstale++;
	entry->stale = true;
}

/* Mark the entry of a table, and of those below it. */
static void
mark_relation_stale(PluginState *state, Oid relid)
{
	RelHashEntry *element = relhash_lookup(state->by_relid, relid);
	dlist_iter	iter;

	if (element != NULL)
		mark_stale(state, element->entry);
	if (state->nbelow == 0)
		return;
	dlist_foreach(iter, &state->entries)
	{
		RelEntry   *entry = dlist_container(RelEntry, node, iter.cur);

		if (is_below(entry, relid))
			mark_stale(state, entry);
	}
}

static bool
is_below(const RelEntry *entry, Oid relid)
{
	for (int i = 0; i < entry->nancestors; i++)
	{
		if (entry->ancestors[i] == relid)
			return true;
	}
	return false;
}

static bool
depends_on_type(const RelEntry *entry, uint32 hashvalue)
{
	for (int i = 0; i < entry->ntypes; i++)
	{
		if (entry->type_hashes[i] == hashvalue)
			return true;
	}
	return false;
}

/* ----- making entries ----- */

static void
remove_entry(PluginState *state, RelEntry *entry)
{
	if (state->last == entry)
		state->last = NULL;
	free_above(state, &entry->above);
	clear_entry(state, entry);
	unref_schemas(entry);
	relhash_delete(state->by_relid, entry->relid);
	dlist_delete(&entry->node);
	pfree(entry);
}

/* Give back the schemas of a table's entries. */
static void
unref_schemas(RelEntry *entry)
{
	for (; entry != NULL; entry = entry->above)
		if (entry->schema != NULL)
			schema_unref(entry->schema);
}

/* Free the rest of a table's entries, from that in "place" on. */
static void
free_above(PluginState *state, RelEntry **place)
{
	RelEntry   *entry = *place;

	*place = NULL;
	unref_schemas(entry);
	while (entry != NULL)
	{
		RelEntry   *next = entry->above;

		clear_entry(state, entry);
		pfree(entry);
		entry = next;
	}
}

/* Back to the state of a new entry, but for the schema and the list. */
static void
clear_entry(PluginState *state, RelEntry *entry)
{
	dlist_node	node = entry->node;
	Oid			relid = entry->relid;
	RelSchema  *schema = entry->schema;
	RelEntry   *above = entry->above;

	if (entry->nancestors > 0)
		state->nbelow--;
	if (entry->context != NULL)
		MemoryContextDelete(entry->context);
	memset(entry, 0, sizeof(*entry));
	entry->node = node;
	entry->relid = relid;
	entry->schema = schema;
	entry->above = above;
}

/*
 * Fill an entry from the catalogs.  An invalidation that arrives meanwhile
 * marks it stale again, and it is made anew at the next lookup.
 */
static void
build_entry(PluginState *state, RelEntry *entry, Relation relation)
{
	MemoryContext oldcontext = begin_entry(state, entry, relation);

	publication_describe(state->publication, entry->relid, &entry->pub);
	read_dependencies(state, entry, relation);

	if (entry->pub.published)
		publish_entry(state, entry, relation);
	else if (entry->schema != NULL)
	{
		schema_unref(entry->schema);
		entry->schema = NULL;
	}
	MemoryContextSwitchTo(oldcontext);

	if (state->sink != NULL && !relation->rd_rel->relispartition)
		build_above(state, entry, relation);
	entry->built = true;
}

/*
 * Fill the list of what else the table's changes appear as.  Its elements are
 * used again, whatever table they were for.
 */
static void
build_above(PluginState *state, RelEntry *entry, Relation relation)
{
	RelEntry  **place = &entry->above;

	for (int i = 0; i < entry->nancestors; i++)
	{
		MemoryContext oldcontext;

		if (*place == NULL)
			*place = MemoryContextAllocZero(state->context, sizeof(RelEntry));
		(*place)->relid = entry->relid;
		oldcontext = begin_entry(state, *place, relation);
		publication_describe(state->publication, entry->ancestors[i],
							 &(*place)->pub);
		if ((*place)->pub.published)
		{
			publish_entry(state, *place, relation);
			place = &(*place)->above;
		}
		MemoryContextSwitchTo(oldcontext);
	}
	free_above(state, place);
}

/* Empty an entry; returns the memory context from before. */
static MemoryContext
begin_entry(PluginState *state, RelEntry *entry, Relation relation)
{
	clear_entry(state, entry);
	entry->context = AllocSetContextCreate(state->context,
										   "rtsync published table",
										   ALLOCSET_SMALL_SIZES);
	MemoryContextCopyAndSetIdentifier(entry->context,
									  RelationGetRelationName(relation));
	return MemoryContextSwitchTo(entry->context);
}

/* Fill in how the changes appear as those of entry->pub.publish_as. */
static void
publish_entry(PluginState *state, RelEntry *entry, Relation relation)
{
	Relation	root = relation;

	if (entry->pub.publish_as != entry->relid)
		root = RelationIdGetRelation(entry->pub.publish_as);
	if (!RelationIsValid(root))
		elog(ERROR, "could not open relation with OID %u",
			 entry->pub.publish_as);

	read_schema(state, entry, relation, root);
	prepare_tuples(entry, relation, root);
	prepare_filter(entry, root);
	entry->vague = tells_too_little(entry);
	if (state->sink == NULL)
		text_prepare(state, entry);

	if (root != relation)
		RelationClose(root);
}

static void
read_dependencies(PluginState *state, RelEntry *entry, Relation relation)
{
	TupleDesc	desc = RelationGetDescr(relation);
	List	   *ancestors = relation->rd_rel->relispartition ?
		get_partition_ancestors(entry->relid) :
		state->sink != NULL ? inheritance_ancestors(entry->relid) : NIL;
	ListCell   *lc;

	entry->ancestors = palloc(sizeof(Oid) * Max(list_length(ancestors), 1));
	foreach(lc, ancestors)
		entry->ancestors[entry->nancestors++] = lfirst_oid(lc);
	if (entry->nancestors > 0)
		state->nbelow++;
	else if (!entry->pub.published)
		return;

	/* those above have the same types in the columns that they have */
	entry->type_hashes = palloc(sizeof(uint32) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped)
			entry->type_hashes[entry->ntypes++] =
				GetSysCacheHashValue1(TYPEOID,
									  ObjectIdGetDatum(att->atttypid));
	}
}

/* The tables that a table inherits from, each once and the nearest first */
static List *
inheritance_ancestors(Oid relid)
{
	Relation	rel = table_open(InheritsRelationId, AccessShareLock);
	List	   *ancestors = NIL;
	Oid			child = relid;

	for (int next = 0;; next++)
	{
		ScanKeyData key;
		SysScanDesc scan;
		HeapTuple	tuple;

		ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber,
					F_OIDEQ, ObjectIdGetDatum(child));
		scan = systable_beginscan(rel, InheritsRelidSeqnoIndexId, true, NULL,
								  1, &key);
		while (HeapTupleIsValid(tuple = systable_getnext(scan)))
			ancestors =
				list_append_unique_oid(ancestors,
									   ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent);
		systable_endscan(scan);
		if (next == list_length(ancestors))
			break;
		child = list_nth_oid(ancestors, next);
	}
	table_close(rel, AccessShareLock);
	return ancestors;
}

/*
 * Set entry->schema.  Equal schemas are one and the same object, be it the
 * entry's own from before, or that of another table whose changes appear as
 * those of the same one, so that who receives changes sees a new one only when
 * something changed.
 */
static void
read_schema(PluginState *state, RelEntry *entry, Relation relation,
			Relation root)
{
	RelSchema  *schema = schema_create(root, relation, entry->pub.columns);
	RelSchema  *old = entry->schema;
	dlist_iter	iter;

	entry->schema = schema;
	if (old != NULL && schema_equal(old, schema))
	{
		entry->schema = old;
		schema_unref(schema);
		return;
	}
	if (old != NULL)
		schema_unref(old);

	if (root == relation && !relation->rd_rel->relhassubclass)
		return;
	dlist_foreach(iter, &state->entries)
	{
		RelEntry   *other = dlist_container(RelEntry, node, iter.cur);

		if (!other->built || other->stale)
			continue;
		for (; other != NULL; other = other->above)
		{
			if (other == entry || other->schema == NULL ||
				other->schema->relid != schema->relid ||
				!schema_equal(other->schema, schema))
				continue;
			entry->schema = schema_ref(other->schema);
			schema_unref(schema);
			return;
		}
	}
}

static void
prepare_tuples(RelEntry *entry, Relation relation, Relation root)
{
	TupleDesc	desc = RelationGetDescr(relation);
	int			space = Max(Max(desc->natts, entry->schema->desc->natts), 1);

	entry->natts = desc->natts;
	entry->has_missing = desc->constr != NULL && desc->constr->missing != NULL;
	if (root != relation)
		entry->map = compat_attrmap(desc, RelationGetDescr(root));

	entry->published_as = palloc0(sizeof(AttrNumber) * space);
	for (int i = 0; i < entry->natts && entry->map == NULL; i++)
		entry->published_as[i] = i + 1;
	for (int i = 0; entry->map != NULL && i < entry->map->maplen; i++)
	{
		if (entry->map->attnums[i] > 0)
			entry->published_as[entry->map->attnums[i] - 1] = i + 1;
	}

	entry->values = palloc(sizeof(Datum) * space);
	entry->old_values = palloc(sizeof(Datum) * space);
	entry->out_values = palloc(sizeof(Datum) * space);
	entry->nulls = palloc(sizeof(bool) * space);
	entry->old_nulls = palloc(sizeof(bool) * space);
	entry->out_nulls = palloc(sizeof(bool) * space);
}

/*
 * Get the row filter ready.  It has only built-in immutable functions (CREATE
 * PUBLICATION sees to that), so it needs no executor state.
 */
static void
prepare_filter(RelEntry *entry, Relation root)
{
	Node	   *filter = entry->pub.row_filter;

	if (filter == NULL)
		return;
	filter = compat_expand_generated(filter, root);
	entry->identity_decides = identity_decides(entry, filter);
	entry->econtext = CreateStandaloneExprContext();
	entry->slot = MakeSingleTupleTableSlot(entry->schema->desc,
										   &TTSOpsHeapTuple);
	entry->filter = ExecInitExpr(expression_planner((Expr *) filter), NULL);
}

/* ----- tuples ----- */

/*
 * Rows of a table that is not published itself may be updated and deleted
 * without a replica identity, and that of a table below need not have any column
 * of the one above: nothing tells which row it was then.  Nor need it have those
 * that the row filter above reads, so that nothing tells whether the row passed
 * it before.
 */
static bool
tells_too_little(const RelEntry *entry)
{
	return entry->pub.publish_as != entry->relid &&
		(bms_is_empty(entry->schema->identity) ||
		 (entry->filter != NULL && !entry->identity_decides));
}

/* Does the WAL tell of an old row what the row filter reads? */
static bool
identity_decides(const RelEntry *entry, Node *filter)
{
	Bitmapset  *columns = NULL;
	int			attnum = -1;

	pull_varattnos(filter, 1, &columns);
	while ((attnum = bms_next_member(columns, attnum)) >= 0)
		if (!bms_is_member(attnum + FirstLowInvalidHeapAttributeNumber,
						   entry->schema->identity))
			return false;
	return true;
}

/* Can the tuple (or NULL) be handed on as it is? */
static bool
is_plain(const RelEntry *entry, HeapTuple tuple)
{
	return tuple == NULL ||
		(entry->map == NULL &&
		 !HeapTupleHasExternal(tuple) &&
		 !(entry->has_missing &&
		   HeapTupleHeaderGetNatts(tuple->t_data) < entry->natts));
}

/*
 * Replace the tuples of "out" by such that have the published layout, no
 * external values, and the values of columns that were added with a default
 * after the row was written.
 */
static void
rebuild_tuples(PluginState *state, RelEntry *entry, Relation relation,
			   PluginChange *out)
{
	TupleDesc	desc = RelationGetDescr(relation);

	if (desc->natts != entry->natts)
		elog(ERROR, "table \"%s\" changed without notice",
			 RelationGetRelationName(relation));

	if (out->oldtuple != NULL)
	{
		heap_deform_tuple(out->oldtuple, desc,
						  entry->old_values, entry->old_nulls);
	}
	if (out->newtuple != NULL)
	{
		heap_deform_tuple(out->newtuple, desc, entry->values, entry->nulls);
		out->missing = resolve_external(entry, desc, out->oldtuple != NULL);
		if (state->sink != NULL)
			out->missing = drop_oversize(entry, desc, out->missing);
		out->newtuple = form_published(entry, entry->values, entry->nulls);
	}
	if (out->oldtuple != NULL)
		out->oldtuple = form_published(entry, entry->old_values,
									   entry->old_nulls);
}

/*
 * Make the external values in entry->values flat.  A changed value comes as a
 * pointer to memory.  An unchanged one comes as the pointer to disk that it
 * is in the table; what is there must not be read, it may be gone.  If the old
 * row is known it has the value; else the column's attnum (as published) is in
 * the result, and its value becomes NULL.
 */
static Bitmapset *
resolve_external(RelEntry *entry, TupleDesc desc, bool have_old)
{
	Bitmapset  *missing = NULL;

	for (int i = 0; i < desc->natts; i++)
	{
		AttrNumber	published_as = entry->published_as[i];
		struct varlena *value;

		if (published_as == 0)
			entry->nulls[i] = true; /* a column of its own */

		if (entry->nulls[i] || TupleDescAttr(desc, i)->attlen != -1)
			continue;
		value = (struct varlena *) DatumGetPointer(entry->values[i]);
		if (!VARATT_IS_EXTERNAL(value))
			continue;

		if (TupleDescAttr(desc, i)->attisdropped)
			entry->nulls[i] = true;
		else if (!VARATT_IS_EXTERNAL_ONDISK(value))
			entry->values[i] = PointerGetDatum(detoast_external_attr(value));
		else if (have_old && !entry->old_nulls[i] &&
				 bms_is_member(published_as, entry->schema->identity) &&
				 !VARATT_IS_EXTERNAL(DatumGetPointer(entry->old_values[i])))
			entry->values[i] = entry->old_values[i];
		else
		{
			entry->nulls[i] = true;
			missing = bms_add_member(missing, published_as);
		}
	}
	return missing;
}

/*
 * A row can be larger than a tuple in memory may be.  Give up its largest
 * columns then, rather than stop at this row forever.
 */
static Bitmapset *
drop_oversize(RelEntry *entry, TupleDesc desc, Bitmapset *missing)
{
	for (;;)
	{
		Size		total = 0;
		Size		largest_size = 0;
		int			largest = -1;

		for (int i = 0; i < desc->natts; i++)
		{
			Size		size;

			if (entry->nulls[i] || TupleDescAttr(desc, i)->attlen != -1)
				continue;
			size = VARSIZE_ANY(DatumGetPointer(entry->values[i]));
			total += size;
			if (size > largest_size)
			{
				largest = i;
				largest_size = size;
			}
		}
		if (total <= MAX_TUPLE_VALUES)
			return missing;

		entry->nulls[largest] = true;
		missing = bms_add_member(missing, entry->published_as[largest]);
	}
}

static HeapTuple
form_published(RelEntry *entry, Datum *values, bool *nulls)
{
	AttrMap    *map = entry->map;

	if (map == NULL)
		return heap_form_tuple(entry->schema->desc, values, nulls);

	for (int i = 0; i < map->maplen; i++)
	{
		int			from = map->attnums[i] - 1;

		entry->out_nulls[i] = from < 0 || nulls[from];
		entry->out_values[i] = entry->out_nulls[i] ? (Datum) 0 : values[from];
	}
	return heap_form_tuple(entry->schema->desc, entry->out_values,
						   entry->out_nulls);
}

/* ----- row filter ----- */

/* Apply the row filter to a change; false: nothing is published. */
static bool
filter_change(RelEntry *entry, PluginChange *out)
{
	bool		has_old = out->oldtuple != NULL;
	bool		has_new = out->newtuple != NULL;
	bool		published;

	published = plugin_filtered(&out->kind, &has_old, &has_new,
								has_old && filter_passes(entry, out->oldtuple),
								has_new && filter_passes(entry, out->newtuple));
	if (!has_old)
		out->oldtuple = NULL;
	if (!has_new)
	{
		out->newtuple = NULL;
		out->missing = NULL;
	}
	return published;
}

/*
 * What becomes of a change of which these rows pass the row filter; false:
 * nothing is published.  An UPDATE that moves a row into the filter becomes an
 * INSERT, one that moves it out a DELETE, whether those operations are
 * published or not, as in the built-in replication.  Without an old row
 * nothing that the filter looks at can have changed (its columns must be part
 * of the replica identity), so the new row decides alone.
 */
bool
plugin_filtered(ChangeKind *kind, bool *has_old, bool *has_new,
				bool old_passes, bool new_passes)
{
	if (*kind != CHANGE_UPDATE || !*has_old)
		return *kind == CHANGE_DELETE ? old_passes : new_passes;

	if (new_passes && !old_passes)
	{
		*kind = CHANGE_INSERT;
		*has_old = false;
	}
	else if (old_passes && !new_passes)
	{
		*kind = CHANGE_DELETE;
		*has_new = false;
	}
	return old_passes || new_passes;
}

/* NULL counts as false. */
static bool
filter_passes(RelEntry *entry, HeapTuple tuple)
{
	Datum		result;
	bool		isnull;

	ResetExprContext(entry->econtext);
	ExecStoreHeapTuple(tuple, entry->slot, false);
	entry->econtext->ecxt_scantuple = entry->slot;
	result = ExecEvalExprSwitchContext(entry->filter, entry->econtext, &isnull);
	ExecClearTuple(entry->slot);
	return !isnull && DatumGetBool(result);
}
