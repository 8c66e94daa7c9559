/*-------------------------------------------------------------------------
 *
 * setcheck.h
 *	  Conditions with sub-queries, asked for many rows and many principals at
 *	  once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_SETCHECK_H
#define RTSYNC_SETCHECK_H

#include "postgres.h"

#include "nodes/plannodes.h"

#include "engine/rowcheck.h"

/* Conditions ready to be asked; lives in the context given */
typedef struct SetCheck SetCheck;

/* Which rows do which principals see? */
typedef struct SetAnswers
{
	int			nrows;
	int			nprincipals;
	int			nwords;			/* of a row's bits */
	bool	   *unknown;		/* for each row: a column that matters is not
								 * known, so that nobody sees it */
	uint64	   *bits;			/* for each row, one for each principal */
} SetAnswers;

/* A value that was found for a row: one of the principals that it concerns may
 * have it, see setcheck_quals */
typedef struct SetFind
{
	struct SetFind *next;		/* for the same row */
	int			number;			/* of the Var there */
	Datum		value;
} SetFind;

/* What was found for each row; lives in the context given */
typedef struct SetFinds
{
	MemoryContext context;
	SetFind   **first;
} SetFinds;

extern SetCheck *setcheck_create(List *quals, TupleDesc desc,
								 const Bitmapset *attnums,
								 MemoryContext context, RowPlan *plan);
extern List *setcheck_params(SetCheck *check);
extern PlannedStmt *setcheck_params_query(SetCheck *check);
extern List *setcheck_quals(SetCheck *check);
extern double setcheck_pair_cost(SetCheck *check);
extern void setcheck_lock(SetCheck *check);
extern void setcheck_run(SetCheck *check, const PolicyRow *rows, int nrows,
						 ParamListInfo *principals, int nprincipals,
						 SetAnswers *answers);
extern void setcheck_seek(SetCheck *check, const PolicyRow *rows, int nrows,
						  SetFinds *finds);
extern void setcheck_lock_plan(PlannedStmt *plan);

extern SetAnswers *setcheck_answers(int nrows, int nprincipals);

/* What the answers say about one row and one principal */
static inline Verdict
setcheck_verdict(const SetAnswers *answers, int row, int principal)
{
	uint64		word;

	if (answers->unknown[row])
		return VERDICT_UNKNOWN;
	word = answers->bits[(size_t) row * answers->nwords + principal / 64];
	return (word >> (principal % 64)) & 1 ? VERDICT_YES : VERDICT_NO;
}

#endif							/* RTSYNC_SETCHECK_H */
