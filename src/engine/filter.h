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

#include "engine/budget.h"
#include "engine/policy.h"
#include "engine/schema.h"

/*
 * A compiled filter of one group for one table; lives in the context given.
 * To be compiled again when the table or the role's rights have changed; until
 * then it answers UNKNOWN for rows whose columns no longer fit.
 */
typedef struct Filter Filter;

extern char *filter_syntax_error(const char *text);
extern Filter *filter_compile(const char *text, const char *where, Oid relid,
							  const Bitmapset *selectable,
							  MemoryContext context);
extern bool filter_costly(const char *text);
extern void filter_set_payer(Filter *filter, Payer *payer);
extern List *filter_conditions(const char *text, const char *where,
							   Relation rel, const Bitmapset *selectable);
extern Verdict filter_check(Filter *filter, const PolicyRow *row);
extern bool filter_pure(Filter *filter, List **quals);
extern const Bitmapset *filter_needed_columns(Filter *filter);

#endif							/* RTSYNC_FILTER_H */
