/*-------------------------------------------------------------------------
 *
 * rowcheck.h
 *	  Conditions over one row of a table, asked on a tuple that need not be in
 *	  the table any more: what policies and filters have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_ROWCHECK_H
#define RTSYNC_ROWCHECK_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "nodes/bitmapset.h"
#include "nodes/params.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

#include "engine/schema.h"

/* NO for a NULL result too; UNKNOWN if a column that matters is not known */
typedef enum Verdict
{
	VERDICT_NO,
	VERDICT_YES,
	VERDICT_UNKNOWN
} Verdict;

/*
 * A row as the history holds it.  A tuple with fewer attributes than the
 * schema was stored before ADD COLUMN: what it lacks is the table's missing
 * value, if there is one, or else null.
 */
typedef struct PolicyRow
{
	RelSchema  *schema;
	HeapTuple	tuple;			/* in schema->desc's layout */
	const Bitmapset *known;		/* attnums whose values are known; NULL: all */
} PolicyRow;

/* Conditions ready to be evaluated; lives in the context given */
typedef struct RowCheck RowCheck;

/* What planning conditions found out, for caches */
typedef struct RowPlan
{
	List	   *quals;			/* to be ANDed */
	List	   *relation_oids;	/* invalid when one of these changes, ... */
	List	   *inval_items;	/* ... or one of these PlanInvalItems */
	bool		bound;			/* a function that a user wrote was executed,
								 * so the plan is good for the claims that it
								 * was made under, and no others */
} RowPlan;

/* Which columns do conditions (Vars of varno 1) read? */
typedef struct RowColumns
{
	Bitmapset  *attnums;
	bool		whole_row;
	bool		system_column;	/* they cannot be evaluated on a tuple */
} RowColumns;

extern void rowcheck_columns(Node *node, TupleDesc desc, RowColumns *columns);
extern void rowcheck_plan(List *quals, RowPlan *plan);
extern Node *rowcheck_inline(Node *node, RowPlan *plan);
extern bool rowcheck_reads_session(Node *node);
extern bool rowcheck_individual_function(Oid funcid, void *context);
extern bool rowcheck_individual_node(Node *node);
extern bool rowcheck_is_scalar_jsonb(Node *node);

extern RowCheck *rowcheck_create(List *quals, TupleDesc desc,
								 const Bitmapset *attnums,
								 MemoryContext context);
extern Verdict rowcheck_run(RowCheck *expr, const PolicyRow *row);
extern Verdict rowcheck_run_with(RowCheck *expr, ParamListInfo params,
								 const PolicyRow *row);

extern bool rowcheck_fetch(TupleDesc desc, const Bitmapset *attnums,
						   const PolicyRow *row, Datum *values, bool *isnull);

/* Plan-time execution of what users wrote, between begin and end */
extern void rowcheck_watch_begin(void);
extern bool rowcheck_watch_end(void);

#endif							/* RTSYNC_ROWCHECK_H */
