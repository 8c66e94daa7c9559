/*-------------------------------------------------------------------------
 *
 * outcome.c
 *	  What one group gets of one change.
 *
 * The decision follows this table, where P is: the role may SELECT the table,
 * the row passes its policies, and it passes the filter.
 *
 *		old row		new row		the group gets
 *		-			yes			INSERT
 *		yes or not	yes			UPDATE
 *		yes			no			DELETE with the key alone: it left the view
 *		yes			-			DELETE
 *		otherwise				nothing
 *
 * Of the old row only the replica identity is known.  Where that does not
 * suffice to decide P, rtsync.delete_visibility says what becomes of a DELETE.
 *
 * Called by decide.c, with the group's principal entered, or its role if the
 * policies' answers are known or need no more (TableGroup.pure).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/outcome.h"
#include "engine/settings.h"

/*
 * The old row as far as it is known; false if nothing is.  An UPDATE that
 * left the identity as it was has it in the new row.
 */
static bool
old_row(ChangeRows *rows, PolicyRow *row)
{
	RelSchema  *schema = rows->schema;

	row->schema = schema;
	row->known = SCHEMA_OLD_FULL(schema) ? NULL : schema->identity;
	row->tuple = rows->has_old ? &rows->oldtuple : &rows->newtuple;
	if (rows->has_old)
		return true;
	if (row->known != NULL && rows->new_known != NULL)
		row->known = bms_intersect(row->known, rows->new_known);
	return rows->has_new && !bms_is_empty(row->known);
}

/* One of the rows of a change; false if nothing is known of it. */
bool
outcome_row(ChangeRows *rows, RowSide side, PolicyRow *row)
{
	if (side == ROW_OLD)
		return old_row(rows, row);
	row->schema = rows->schema;
	row->tuple = &rows->newtuple;
	row->known = rows->new_known;
	return rows->has_new;
}

/* Do the policies let a row through? */
static Verdict
check_policies(const Question *question, RowSide side, const PolicyRow *row)
{
	TableGroup *tg = question->tg;

	if (question->answers != NULL)
		return setcheck_verdict(question->answers, question->numbers[side],
								question->principal);
	if (!tg->pure || !policy_has_folded(question->access))
		return policy_check(question->access, row);
	if (tg->access_basis != question->access->basis)
		elog(ERROR, "row security changed while a change was decided");
	return policy_check_folded(question->access, tg->params, row);
}

static Verdict
check_filter(const Question *question, const PolicyRow *row)
{
	Filter	   *filter = question->tg->filter;

	return filter != NULL ? filter_check(filter, row) : VERDICT_YES;
}

/*
 * P of one row, UNKNOWN if nothing is known of it.  The filter sees only rows
 * that the policies certainly let through: its author chooses what it does
 * with them, and is told its errors.
 */
Verdict
outcome_passes(const Question *question, RowSide side)
{
	PolicyRow	row;
	Verdict		verdict;

	if (!outcome_row(question->rows, side, &row))
		return VERDICT_UNKNOWN;
	verdict = check_policies(question, side, &row);
	return verdict == VERDICT_YES ? check_filter(question, &row) : verdict;
}

static int
wanted_events(const Question *question)
{
	return question->tg->events;
}

/* What of the old row an UPDATE may show, its new row being visible */
static OldPart
updated_old_part(const Question *question)
{
	ChangeRows *rows = question->rows;
	PolicyRow	row;
	Verdict		verdict;

	if (!rows->has_old)
		return OLD_IDENTITY;	/* the new row's own */
	if (!outcome_row(rows, ROW_OLD, &row))
		return OLD_EMPTY;
	verdict = check_policies(question, ROW_OLD, &row);
	if (SCHEMA_OLD_FULL(rows->schema))
		return verdict == VERDICT_YES ? OLD_IDENTITY : OLD_EMPTY;

	/*
	 * The key changed.  Whoever holds the row under its old key must hear of
	 * it; only who certainly could not see the old row does not.
	 */
	return verdict == VERDICT_NO ? OLD_EMPTY : OLD_IDENTITY;
}

static Outcome
decide_truncate(const Question *question)
{
	return (wanted_events(question) & EVENT_DELETE) ? OUTCOME_REFETCH :
		OUTCOME_NOTHING;
}

static Outcome
decide_insert(const Question *question)
{
	if (!(wanted_events(question) & EVENT_INSERT))
		return OUTCOME_NOTHING;
	return outcome_passes(question, ROW_NEW) == VERDICT_YES ?
		OUTCOME_INSERT : OUTCOME_NOTHING;
}

static Outcome
decide_delete(const Question *question, OldPart *old)
{
	PolicyRow	row;
	Verdict		verdict;

	if (!(wanted_events(question) & EVENT_DELETE) ||
		!outcome_row(question->rows, ROW_OLD, &row))
		return OUTCOME_NOTHING;
	verdict = outcome_passes(question, ROW_OLD);
	*old = question->access->row_security ? OLD_KEY : OLD_IDENTITY;
	if (verdict == VERDICT_UNKNOWN &&
		rtsync_delete_visibility == DELETE_VISIBILITY_KEY)
		return check_filter(question, &row) != VERDICT_NO ?
			OUTCOME_DELETE : OUTCOME_NOTHING;
	return verdict == VERDICT_YES ? OUTCOME_DELETE : OUTCOME_NOTHING;
}

/* The new row does not pass: did it leave the view? */
static Outcome
decide_leave(const Question *question, OldPart *old)
{
	if (!(wanted_events(question) & EVENT_DELETE) || !rtsync_leave_events)
		return OUTCOME_NOTHING;
	*old = OLD_KEY;
	return outcome_passes(question, ROW_OLD) == VERDICT_YES ?
		OUTCOME_DELETE : OUTCOME_NOTHING;
}

/* Did the row, whose new version passes, certainly not pass before? */
static bool
was_outside(const Question *question)
{
	PolicyRow	row;

	return outcome_row(question->rows, ROW_OLD, &row) &&
		(check_policies(question, ROW_OLD, &row) == VERDICT_NO ||
		 check_filter(question, &row) == VERDICT_NO);
}

/* The new row passes.  With view semantics, it may have entered the view. */
static Outcome
decide_stay(const Question *question, OldPart *old)
{
	int			wanted = wanted_events(question);

	if (question->tg->view && was_outside(question))
		return (wanted & EVENT_INSERT) ? OUTCOME_INSERT : OUTCOME_NOTHING;
	if (!(wanted & EVENT_UPDATE))
		return OUTCOME_NOTHING;
	*old = updated_old_part(question);
	return OUTCOME_UPDATE;
}

static Outcome
decide_update(const Question *question, OldPart *old)
{
	switch (outcome_passes(question, ROW_NEW))
	{
		case VERDICT_YES:
			return decide_stay(question, old);
		case VERDICT_NO:
			return decide_leave(question, old);
		default:
			return OUTCOME_NOTHING;
	}
}

/* Apply the decision table. */
Outcome
outcome_decide(const Question *question, OldPart *old)
{
	*old = OLD_EMPTY;
	switch (question->rows->kind)
	{
		case CHANGE_TRUNCATE:
			return decide_truncate(question);
		case CHANGE_DELETE:
			return decide_delete(question, old);
		case CHANGE_INSERT:
			return decide_insert(question);
		default:
			return decide_update(question, old);
	}
}
