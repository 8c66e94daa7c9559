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

/* A column, by its number in the index, and the hash of a value */
typedef struct IndexKey
{
	int			column;
	uint32		hash;
} IndexKey;

/* An item's place in the hash; private */
typedef struct IndexEntry
{
	struct IndexItem *item;
	struct IndexEntry *next;	/* with the same key */
	struct IndexEntry *prev;
	struct IndexEntry *more;	/* of the same item */
	IndexKey	key;
} IndexEntry;

/* To be embedded in what is indexed; zero it before the first use */
typedef struct IndexItem
{
	IndexEntry	entry;			/* private: the first; item is NULL if there
								 * is none */
	bool		indexed;
	uint64		visit;			/* the last visit that came by */
} IndexItem;

/* The keys that a row has in an index */
typedef struct RowKeys
{
	int			n;
	IndexKey	keys[FLEXIBLE_ARRAY_MEMBER];
} RowKeys;

#define CACHE_LINE 64

/* Steps of predicate_fetch, and what is fetched of an item and of what it is
 * embedded in */
#define PREDICATE_FETCHES 3
#define PREDICATE_FETCHED 128

/* Have memory fetched that will be read soon.  Any address will do. */
static inline void
predicate_prefetch(const void *memory, Size size)
{
	for (Size at = 0; at < size + CACHE_LINE; at += CACHE_LINE)
		__builtin_prefetch((const char *) memory + at);
}

extern PredicateIndex *predicate_create(MemoryContext parent);
extern bool predicate_insert(PredicateIndex *index, IndexItem *item,
							 List *quals, ParamListInfo params);
extern bool predicate_may_cover(List *quals);
extern void predicate_remove(PredicateIndex *index, IndexItem *item);
extern RowKeys *predicate_keys(PredicateIndex *index, const PolicyRow *row);
extern bool predicate_is_large(const PredicateIndex *index);
extern void predicate_fetch(PredicateIndex *index, const RowKeys *keys,
							int step);
extern void predicate_visit(PredicateIndex *index, const RowKeys *keys,
							uint64 visit,
							void (*function) (IndexItem *item, void *arg),
							void *arg);
extern IndexItem *predicate_first(PredicateIndex *index, const RowKeys *keys);
extern bool predicate_needs_found(PredicateIndex *index);
extern void predicate_visit_found(PredicateIndex *index, int number,
								  Datum value, uint64 visit,
								  void (*function) (IndexItem *item, void *arg),
								  void *arg);

#endif							/* RTSYNC_PREDICATE_H */
