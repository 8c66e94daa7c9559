/*-------------------------------------------------------------------------
 *
 * where.h
 *	  The "where" of a binding: any condition over the table's rows, in SQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_WHERE_H
#define RTSYNC_WHERE_H

#include "postgres.h"

#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

extern List *where_parse(const char *text, Relation rel,
						 const Bitmapset *selectable);

#endif							/* RTSYNC_WHERE_H */
