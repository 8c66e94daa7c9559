/*-------------------------------------------------------------------------
 *
 * filter.h
 *	  The "filter" of a postgres_changes binding: col=op.value, col=op.value...
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_FILTER_H
#define RTSYNC_FILTER_H

#include "postgres.h"

#include "engine/policy.h"
#include "engine/schema.h"

/* A compiled filter of one group for one table; lives in the context given */
typedef struct Filter Filter;

extern Filter *filter_compile(const char *text, Oid relid,
							  const Bitmapset *selectable,
							  MemoryContext context);
extern Verdict filter_check(Filter *filter, const PolicyRow *row);

#endif							/* RTSYNC_FILTER_H */
