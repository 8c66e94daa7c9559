/*-------------------------------------------------------------------------
 *
 * schema.h
 *	  What a table looked like when one of its rows changed.
 *
 * A RelSchema is made by the output plugin under the historic snapshot of the
 * change, and travels with the change through the history to whoever decides
 * and renders it.  It never changes once made; a changed table gets a new one.
 * It lives in SchemaContext and is shared by reference count: the plugin's
 * relation cache holds one reference, each change in the history another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_SCHEMA_H
#define RTSYNC_SCHEMA_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "nodes/bitmapset.h"
#include "utils/rel.h"

typedef struct RelSchema
{
	int			refcount;
	Oid			relid;			/* the table as which it is published: with
								 * publish_via_partition_root the root */
	char	   *nspname;
	char	   *relname;
	char		replident;		/* REPLICA_IDENTITY_xxx */
	TupleDesc	desc;			/* own copy, no constraints */
	char	  **typnames;		/* pg_type.typname by attnum - 1; NULL if
								 * dropped */
	Bitmapset  *published;		/* attnums in the publication's column list
								 * and in the tuples: not dropped, and not
								 * generated at read time (18) */
	Bitmapset  *identity;		/* attnums known in the old row of an UPDATE
								 * or DELETE; empty if nothing is known */
	Bitmapset  *pkey;			/* attnums of the primary key, or empty */
	MemoryContext context;		/* private to schema.c: holds all of this */
} RelSchema;

/* Is the whole old row known? */
#define SCHEMA_OLD_FULL(schema) ((schema)->replident == REPLICA_IDENTITY_FULL)

extern RelSchema *schema_create(Relation publish_as, Relation changed,
								Bitmapset *published);
extern const Bitmapset *schema_key(const RelSchema *schema);
extern RelSchema *schema_ref(RelSchema *schema);
extern void schema_unref(RelSchema *schema);
extern bool schema_equal(const RelSchema *a, const RelSchema *b);

#endif							/* RTSYNC_SCHEMA_H */
