/*-------------------------------------------------------------------------
 *
 * publication.c
 *	  Which tables, operations, columns and rows a publication covers.
 *
 * Nothing is cached here.  The output plugin asks under the historic snapshot
 * of a change and keeps the answer in its relation cache; the engine asks with
 * the current catalogs when somebody subscribes.  The rules are those of the
 * built-in replication for a single publication:
 *
 * - a table is covered by FOR ALL TABLES, by its schema, by itself, or through
 *	 a partitioned table above it;
 * - with publish_via_partition_root a partition's changes appear as those of
 *	 the topmost covered table above it;
 * - row filter and column list are those given for the table as which the
 *	 change appears; FOR ALL TABLES and TABLES IN SCHEMA have no row filter.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/catalog.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "common/hashfn.h"
#include "nodes/nodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "engine/publication.h"

/* A row of pg_publication, as far as it matters here */
typedef struct PublicationInfo
{
	Oid			oid;
	bool		alltables;
	bool		viaroot;
	bool		insert,
				update,
				delete,
				truncate;
} PublicationInfo;

static bool read_publication(const char *pubname, PublicationInfo *pub);
static void describe(const PublicationInfo *pub, Oid relid,
					 PublicationRel *result);
static bool is_publishable(Oid relid);
static Oid	topmost_published(const PublicationInfo *pub, Oid relid);
static bool covered_by_name(const PublicationInfo *pub, Oid relid);
static bool covered_by_schema(const PublicationInfo *pub, Oid relid);
static void read_restrictions(const PublicationInfo *pub,
							  PublicationRel *result);
static Bitmapset *column_list(Datum prattrs);

/* Is there a publication of this name? */
bool
publication_exists(const char *pubname)
{
	PublicationInfo pub;

	return read_publication(pubname, &pub);
}

/*
 * Say what the publication has for the changes of table "relid".  All false
 * and empty if it does not exist or does not cover the table.  Pointers in
 * the result are allocated in the current memory context.
 */
void
publication_describe(const char *pubname, Oid relid, PublicationRel *result)
{
	PublicationInfo pub;

	memset(result, 0, sizeof(*result));
	if (read_publication(pubname, &pub))
		describe(&pub, relid, result);
}

/*
 * Can changes appear as those of table "publish_as"?  False for a partition
 * whose changes appear as its root's, and for a partitioned table whose
 * partitions' changes appear as their own.
 */
bool
publication_publishes(const char *pubname, Oid publish_as)
{
	PublicationRel rel;

	publication_describe(pubname, publish_as, &rel);
	return rel.published && rel.publish_as == publish_as;
}

/*
 * The same number for as long as the publication shows the same of the changes
 * of table "publish_as"; 0 if it shows none.
 */
uint64
publication_signature(const char *pubname, Oid publish_as)
{
	PublicationRel rel;
	StringInfoData buf;

	publication_describe(pubname, publish_as, &rel);
	if (!rel.published || rel.publish_as != publish_as)
		return 0;
	initStringInfo(&buf);
	appendStringInfo(&buf, "%d %d %d %d ", rel.insert, rel.update, rel.delete,
					 rel.truncate);
	outBitmapset(&buf, rel.columns);
	if (rel.row_filter != NULL)
		appendStringInfoString(&buf, nodeToString(rel.row_filter));

	/* those that come below the table, or leave it, bring or take rows */
	if (has_subclass(publish_as))
	{
		ListCell   *lc;

		foreach(lc, find_all_inheritors(publish_as, NoLock, NULL))
			appendStringInfo(&buf, " %u", lfirst_oid(lc));
	}
	return hash_bytes_extended((unsigned char *) buf.data, buf.len, 0) | 1;
}

/*
 * The OIDs of all tables as which changes can appear, in no special order.
 * Looks at every table of the database: not for each message.
 */
List *
publication_tables(const char *pubname)
{
	PublicationInfo pub;
	Relation	pg_class;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *tables = NIL;

	if (!read_publication(pubname, &pub))
		return NIL;

	pg_class = table_open(RelationRelationId, AccessShareLock);
	scan = systable_beginscan(pg_class, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);
		PublicationRel rel;

		if (form->relkind != RELKIND_RELATION &&
			form->relkind != RELKIND_PARTITIONED_TABLE)
			continue;
		memset(&rel, 0, sizeof(rel));
		describe(&pub, form->oid, &rel);
		if (rel.published && rel.publish_as == form->oid)
			tables = lappend_oid(tables, form->oid);
	}
	systable_endscan(scan);
	table_close(pg_class, AccessShareLock);
	return tables;
}

static bool
read_publication(const char *pubname, PublicationInfo *pub)
{
	HeapTuple	tuple;
	Form_pg_publication form;

	/* a longer name cannot exist, and would be compared as if cut */
	if (strlen(pubname) >= NAMEDATALEN)
		return false;

	tuple = SearchSysCache1(PUBLICATIONNAME, CStringGetDatum(pubname));
	if (!HeapTupleIsValid(tuple))
		return false;

	form = (Form_pg_publication) GETSTRUCT(tuple);
	pub->oid = form->oid;
	pub->alltables = form->puballtables;
	pub->viaroot = form->pubviaroot;
	pub->insert = form->pubinsert;
	pub->update = form->pubupdate;
	pub->delete = form->pubdelete;
	pub->truncate = form->pubtruncate;
	ReleaseSysCache(tuple);
	return true;
}

static void
describe(const PublicationInfo *pub, Oid relid, PublicationRel *result)
{
	Oid			root;

	if (!is_publishable(relid))
		return;

	/*
	 * A partitioned table has no changes of its own but TRUNCATE, and that is
	 * logged for its partitions too.
	 */
	if (!pub->viaroot && get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
		return;

	root = topmost_published(pub, relid);
	if (!OidIsValid(root))
		return;

	result->published = pub->insert || pub->update || pub->delete ||
		pub->truncate;
	result->insert = pub->insert;
	result->update = pub->update;
	result->delete = pub->delete;
	result->truncate = pub->truncate;
	result->publish_as = pub->viaroot ? root : relid;
	if (!pub->alltables)
		read_restrictions(pub, result);
}

/* Ordinary and partitioned tables that are logged and not the system's. */
static bool
is_publishable(Oid relid)
{
	HeapTuple	tuple;
	Form_pg_class form;
	bool		result;

	if (relid < FirstNormalObjectId || IsCatalogRelationOid(relid))
		return false;

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_class) GETSTRUCT(tuple);
	result = (form->relkind == RELKIND_RELATION ||
			  form->relkind == RELKIND_PARTITIONED_TABLE) &&
		form->relpersistence == RELPERSISTENCE_PERMANENT;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * The topmost table, "relid" itself or a partitioned table above it, that the
 * publication covers; InvalidOid if it covers none.
 */
static Oid
topmost_published(const PublicationInfo *pub, Oid relid)
{
	Oid			result = InvalidOid;
	List	   *ancestors;
	ListCell   *lc;

	if (pub->alltables ||
		covered_by_name(pub, relid) || covered_by_schema(pub, relid))
		result = relid;

	if (!get_rel_relispartition(relid))
		return result;

	ancestors = get_partition_ancestors(relid); /* from the bottom up */
	foreach(lc, ancestors)
	{
		Oid			ancestor = lfirst_oid(lc);

		if (pub->alltables ||
			covered_by_name(pub, ancestor) || covered_by_schema(pub, ancestor))
			result = ancestor;
	}
	list_free(ancestors);
	return result;
}

static bool
covered_by_name(const PublicationInfo *pub, Oid relid)
{
	return SearchSysCacheExists2(PUBLICATIONRELMAP,
								 ObjectIdGetDatum(relid),
								 ObjectIdGetDatum(pub->oid));
}

static bool
covered_by_schema(const PublicationInfo *pub, Oid relid)
{
	return SearchSysCacheExists2(PUBLICATIONNAMESPACEMAP,
								 ObjectIdGetDatum(get_rel_namespace(relid)),
								 ObjectIdGetDatum(pub->oid));
}

/* Read column list and row filter given for result->publish_as, if any. */
static void
read_restrictions(const PublicationInfo *pub, PublicationRel *result)
{
	HeapTuple	tuple;
	Datum		datum;
	bool		isnull;

	tuple = SearchSysCache2(PUBLICATIONRELMAP,
							ObjectIdGetDatum(result->publish_as),
							ObjectIdGetDatum(pub->oid));
	if (!HeapTupleIsValid(tuple))
		return;

	datum = SysCacheGetAttr(PUBLICATIONRELMAP, tuple,
							Anum_pg_publication_rel_prattrs, &isnull);
	if (!isnull)
		result->columns = column_list(datum);

	datum = SysCacheGetAttr(PUBLICATIONRELMAP, tuple,
							Anum_pg_publication_rel_prqual, &isnull);
	if (!isnull && !covered_by_schema(pub, result->publish_as))
		result->row_filter = stringToNode(TextDatumGetCString(datum));

	ReleaseSysCache(tuple);
}

static Bitmapset *
column_list(Datum prattrs)
{
	int2vector *vector = (int2vector *) PG_DETOAST_DATUM(prattrs);
	Bitmapset  *result = NULL;

	for (int i = 0; i < vector->dim1; i++)
		result = bms_add_member(result, vector->values[i]);
	return result;
}
