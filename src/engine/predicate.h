/*-------------------------------------------------------------------------
 *
 * predicate.h
 *	  From a row to those whom it may concern.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_PREDICATE_H
#define RTSYNC_PREDICATE_H

#include "postgres.h"

#include "lib/ilist.h"
#include "nodes/params.h"
#include "nodes/pg_list.h"

#include "engine/rowcheck.h"

/*
 * Conditions are over the row's columns, Vars of varno 1, and over values that
 * the caller found out otherwise about the row: Vars of this varno, by number.
 */
#define PREDICATE_FOUND_VARNO 3

/* Opaque: a hash from (column, value) to items */
typedef struct PredicateIndex PredicateIndex;

/* To be embedded in what is indexed; zero it before the first use */
typedef struct IndexItem
{
	dlist_head	entries;		/* private */
	bool		indexed;
	uint64		visit;			/* the last visit that came by */
} IndexItem;

extern PredicateIndex *predicate_create(MemoryContext parent);
extern void predicate_delete(PredicateIndex *index);
extern bool predicate_insert(PredicateIndex *index, IndexItem *item,
							 List *quals, ParamListInfo params);
extern bool predicate_may_cover(List *quals);
extern void predicate_remove(PredicateIndex *index, IndexItem *item);
extern bool predicate_visit(PredicateIndex *index, const PolicyRow *row,
							uint64 visit,
							void (*function) (IndexItem *item, void *arg),
							void *arg);
extern bool predicate_needs_found(PredicateIndex *index);
extern void predicate_visit_found(PredicateIndex *index, int number,
								  Datum value, uint64 visit,
								  void (*function) (IndexItem *item, void *arg),
								  void *arg);

#endif							/* RTSYNC_PREDICATE_H */
