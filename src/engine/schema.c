/*-------------------------------------------------------------------------
 *
 * schema.c
 *	  What a table looked like when one of its rows changed.
 *
 * Each RelSchema has a memory context of its own, which is deleted with the
 * last reference.  While it is built that context is a child of the caller's,
 * so that an error in the middle leaves nothing behind; complete, it becomes
 * a child of SchemaContext, which lives as long as the process.
 *
 * Called by plugin.c, which makes them, and by everybody who keeps a change.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/schema.h"

static MemoryContext SchemaContext = NULL;

static Bitmapset *published_columns(Relation rel, Bitmapset *list);
static Bitmapset *identity_columns(Relation publish_as, Relation changed);
static Bitmapset *known_columns(Relation rel);
static Bitmapset *index_columns(Oid indexid);
static Bitmapset *map_columns(Bitmapset *columns, Relation from, Relation to);
static Bitmapset *primary_key_columns(Relation rel);
static char **type_names(TupleDesc desc);

/*
 * Describe "publish_as", the table as which the changes of "changed" are
 * published (usually the same), as the active snapshot shows it.
 *
 * published: the publication's column list, attnums of publish_as; NULL for
 * all columns.
 *
 * Returns it with one reference, the caller's.
 */
RelSchema *
schema_create(Relation publish_as, Relation changed, Bitmapset *published)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "rtsync schema",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	RelSchema  *schema = palloc0(sizeof(RelSchema));

	schema->refcount = 1;
	schema->context = context;
	schema->relid = RelationGetRelid(publish_as);
	schema->nspname = get_namespace_name(RelationGetNamespace(publish_as));
	schema->relname = pstrdup(RelationGetRelationName(publish_as));
	schema->replident = changed->rd_rel->relreplident;
	schema->desc = CreateTupleDescCopy(RelationGetDescr(publish_as));
	schema->typnames = type_names(schema->desc);
	schema->published = published_columns(publish_as, published);
	schema->identity = identity_columns(publish_as, changed);
	schema->pkey = primary_key_columns(publish_as);

	if (schema->nspname == NULL)
		elog(ERROR, "cache lookup failed for namespace %u",
			 RelationGetNamespace(publish_as));

	MemoryContextSwitchTo(oldcontext);

	if (SchemaContext == NULL)
		SchemaContext = AllocSetContextCreate(TopMemoryContext,
											  "rtsync schemas",
											  ALLOCSET_SMALL_SIZES);
	MemoryContextCopyAndSetIdentifier(context, schema->relname);
	MemoryContextSetParent(context, SchemaContext);
	return schema;
}

/*
 * What identifies a row in what is known of its old version: the primary key,
 * or the replica identity if that has not all of it.
 */
const Bitmapset *
schema_key(const RelSchema *schema)
{
	return !bms_is_empty(schema->pkey) &&
		bms_is_subset(schema->pkey, schema->identity) ?
		schema->pkey : schema->identity;
}

/* Take another reference. */
RelSchema *
schema_ref(RelSchema *schema)
{
	Assert(schema->refcount > 0);
	schema->refcount++;
	return schema;
}

/* Give a reference back; the last one frees the schema. */
void
schema_unref(RelSchema *schema)
{
	Assert(schema->refcount > 0);
	if (--schema->refcount == 0)
		MemoryContextDelete(schema->context);
}

/* Do both describe the same table in the same state? */
bool
schema_equal(const RelSchema *a, const RelSchema *b)
{
	if (a == b)
		return true;
	if (a->relid != b->relid ||
		a->replident != b->replident ||
		strcmp(a->nspname, b->nspname) != 0 ||
		strcmp(a->relname, b->relname) != 0 ||
		!equalTupleDescs(a->desc, b->desc) ||
		!bms_equal(a->published, b->published) ||
		!bms_equal(a->identity, b->identity) ||
		!bms_equal(a->pkey, b->pkey))
		return false;

	for (int i = 0; i < a->desc->natts; i++)
	{
		/* the descriptors are equal, so both names are NULL or none is */
		if (a->typnames[i] != NULL &&
			strcmp(a->typnames[i], b->typnames[i]) != 0)
			return false;
	}
	return true;
}

/*
 * What a SELECT of the listed columns would show.  That includes stored
 * generated columns, whose values are in the tuples like any other's (pgoutput
 * leaves them out because its receiver computes them again; ours do not).
 * Columns generated at read time are in no tuple and cannot be published.
 */
static Bitmapset *
published_columns(Relation rel, Bitmapset *list)
{
	Bitmapset  *known = known_columns(rel);

	if (list == NULL)
		return known;
	return bms_int_members(known, list);
}

/* Attnums that have a value in a full tuple. */
static Bitmapset *
known_columns(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Bitmapset  *result = NULL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && !compat_att_is_virtual(att))
			result = bms_add_member(result, att->attnum);
	}
	return result;
}

/* What the WAL holds of the old row, as attnums of publish_as. */
static Bitmapset *
identity_columns(Relation publish_as, Relation changed)
{
	Bitmapset  *result;

	switch (changed->rd_rel->relreplident)
	{
		case REPLICA_IDENTITY_FULL:
			result = known_columns(changed);
			break;
		case REPLICA_IDENTITY_DEFAULT:
		case REPLICA_IDENTITY_INDEX:
			result = index_columns(RelationGetReplicaIndex(changed));
			break;
		default:
			result = NULL;
			break;
	}
	return map_columns(result, changed, publish_as);
}

/* Key columns of an index; none if there is no such index. */
static Bitmapset *
index_columns(Oid indexid)
{
	HeapTuple	tuple;
	Form_pg_index index;
	Bitmapset  *result = NULL;

	if (!OidIsValid(indexid))
		return NULL;

	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(indexid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", indexid);
	index = (Form_pg_index) GETSTRUCT(tuple);

	for (int i = 0; i < index->indnkeyatts; i++)
	{
		AttrNumber	attnum = index->indkey.values[i];

		/* neither an identity nor a primary key has expressions */
		if (attnum > 0)
			result = bms_add_member(result, attnum);
	}
	ReleaseSysCache(tuple);
	return result;
}

/* Translate attnums of one table to those of another, by column name. */
static Bitmapset *
map_columns(Bitmapset *columns, Relation from, Relation to)
{
	AttrMap    *map;
	Bitmapset  *result = NULL;

	if (from == to)
		return columns;
	map = compat_attrmap(RelationGetDescr(from), RelationGetDescr(to));
	if (map == NULL)
		return columns;

	for (int i = 0; i < map->maplen; i++)
	{
		if (bms_is_member(map->attnums[i], columns))
			result = bms_add_member(result, i + 1);
	}
	return result;
}

/*
 * The primary key, be it deferrable or not.  (RelationGetIndexAttrBitmap
 * would open all indexes, which cannot be relied on under a historic
 * snapshot.)
 */
static Bitmapset *
primary_key_columns(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	Bitmapset  *result = NULL;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Oid			indexid = lfirst_oid(lc);
		HeapTuple	tuple = SearchSysCache1(INDEXRELID,
											ObjectIdGetDatum(indexid));
		bool		primary;

		if (!HeapTupleIsValid(tuple))
			continue;
		primary = ((Form_pg_index) GETSTRUCT(tuple))->indisprimary;
		ReleaseSysCache(tuple);
		if (primary)
		{
			result = index_columns(indexid);
			break;
		}
	}
	list_free(indexes);
	return result;
}

static char **
type_names(TupleDesc desc)
{
	char	  **names = palloc0(sizeof(char *) * Max(desc->natts, 1));

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		HeapTuple	tuple;

		if (att->attisdropped)
			continue;
		tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(att->atttypid));
		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for type %u", att->atttypid);
		names[i] = pstrdup(NameStr(((Form_pg_type) GETSTRUCT(tuple))->typname));
		ReleaseSysCache(tuple);
	}
	return names;
}
