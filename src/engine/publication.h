/*-------------------------------------------------------------------------
 *
 * publication.h
 *	  Which tables, operations, columns and rows a publication covers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_PUBLICATION_H
#define RTSYNC_PUBLICATION_H

#include "postgres.h"

#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"

/* What a publication says of one table, read from the catalogs as the active
 * (or historic) snapshot shows them */
typedef struct PublicationRel
{
	bool		published;		/* the table's changes are published at all */
	bool		insert,
				update,
				delete,
				truncate;
	Oid			publish_as;		/* the table itself, or its partition root */
	Bitmapset  *columns;		/* attnums of publish_as; NULL: all of them */
	Node	   *row_filter;		/* expression over publish_as (varno 1), not
								 * yet planned; NULL: every row */
} PublicationRel;

extern bool publication_exists(const char *pubname);
extern void publication_describe(const char *pubname, Oid relid,
								 PublicationRel *result);
extern uint64 publication_signature(const char *pubname, Oid publish_as);
extern bool publication_publishes(const char *pubname, Oid publish_as);
extern List *publication_tables(const char *pubname);

#endif							/* RTSYNC_PUBLICATION_H */
