/*-------------------------------------------------------------------------
 *
 * outcome.h
 *	  What one group gets of one change.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_OUTCOME_H
#define RTSYNC_OUTCOME_H

#include "postgres.h"

#include "engine/history.h"
#include "engine/policy.h"
#include "engine/tables.h"

typedef enum Outcome
{
	OUTCOME_NOTHING,
	OUTCOME_INSERT,
	OUTCOME_UPDATE,
	OUTCOME_DELETE,
	OUTCOME_REFETCH
} Outcome;

/* Which of the group's column sets "old_record" has */
typedef enum OldPart
{
	OLD_EMPTY,
	OLD_KEY,
	OLD_IDENTITY
} OldPart;

typedef enum RowSide
{
	ROW_OLD,
	ROW_NEW
} RowSide;

/* What does the group get of the change? */
typedef struct Question
{
	TableGroup *tg;
	TableAccess *access;
	ChangeRows *rows;

	/* what is known of the policies; without it, they are asked */
	const SetAnswers *answers;	/* or NULL */
	int			numbers[2];		/* of the rows there, by RowSide */
	int			principal;		/* of the group there */
} Question;

extern bool outcome_row(ChangeRows *rows, RowSide side, PolicyRow *row);
extern Verdict outcome_passes(const Question *question, RowSide side);
extern Outcome outcome_decide(const Question *question, OldPart *old);

#endif							/* RTSYNC_OUTCOME_H */
