/*-------------------------------------------------------------------------
 *
 * fold.h
 *	  Taking out of conditions what depends on the session alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_FOLD_H
#define RTSYNC_FOLD_H

#include "postgres.h"

#include "nodes/params.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "nodes/plannodes.h"

/* Planned conditions with parameters in the place of expressions that have
 * one value for all rows that a principal asks about */
typedef struct Folded
{
	List	   *quals;			/* Param n stands for the nth of ... */
	List	   *params;			/* ... these expressions ... */
	PlannedStmt *query;			/* ... which are evaluated by this; NULL: they
								 * have no sub-queries */
	bool		pure;			/* what is left gives everybody the same
								 * answer, and runs no code of a user */
} Folded;

extern void fold_session(List *quals, Folded *folded);
extern Query *fold_query(Query *query, Index varno, int before, List **params);
extern bool fold_is_session_query(Query *query);
extern PlannedStmt *fold_plan_params(List *params);
extern ParamListInfo fold_evaluate(List *params, PlannedStmt *query,
								   MemoryContext context);

#endif							/* RTSYNC_FOLD_H */
