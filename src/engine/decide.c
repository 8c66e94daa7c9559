/*-------------------------------------------------------------------------
 *
 * decide.c
 *	  Which groups get a change, and what of it.
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
 * The groups of a role are decided together: what their policies take from the
 * claims is compiled into parameters, so that nobody needs to be entered, and
 * the index (predicate.c) finds the few groups that a row can concern.  Where that
 * is not possible (sub-queries, functions that cannot be looked into), a group
 * is decided by itself, as its principal.  What users wrote (policies, filters)
 * can fail; decide_changes says what that costs.
 *
 * Called by route.c inside a transaction on the present.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "engine/attempt.h"
#include "engine/decide.h"
#include "engine/policy.h"
#include "engine/predicate.h"
#include "engine/settings.h"

static uint64 errors;

/*
 * Make the compiled part of a table group, under its principal.  An error
 * leaves it invalid: it is raised again for the next change.
 */
static void
table_group_compile(TableGroup *tg, TableAccess *access)
{
	RelSchema  *schema = tg->role->route->schema;
	const BindingSpec *spec = &tg->group->spec;
	Bitmapset  *shown;
	MemoryContext old;

	if (tg->context == NULL)
		tg->context = AllocSetContextCreate(tg->group->context,
											"rtsync table group",
											ALLOCSET_SMALL_SIZES);
	else
		MemoryContextReset(tg->context);
	tg->valid = tg->placed = tg->pure = false;
	tg->filter = NULL;
	tg->columns = tg->record = tg->identity = tg->key = NULL;

	old = MemoryContextSwitchTo(tg->context);
	shown = bms_intersect(access->columns, schema->published);
	tg->identity = bms_intersect(schema->identity, shown);
	tg->key = bms_intersect(schema_key(schema), shown);
	if (spec->nselect >= 0)
	{
		tg->record = binding_selected(spec, schema->desc, shown);
		tg->columns = bms_union(tg->record, tg->key);
	}
	else
		tg->record = tg->columns = shown;
	if (spec->filter != NULL || tg->group->options.where != NULL)
		tg->filter = filter_compile(spec->filter, tg->group->options.where,
									schema->relid, access->columns,
									tg->context);
	MemoryContextSwitchTo(old);
	tg->access_generation = access->generation;
	tg->valid = true;
}

/*--------------------------------------------------------------------------
 * Deciding
 *--------------------------------------------------------------------------
 */

/*
 * Do the policies let a row through?  For a pure group nobody needs to be
 * entered but its role; for others, the principal.
 */
static Verdict
check_policies(TableGroup *tg, TableAccess *access, const PolicyRow *row)
{
	if (!tg->pure)
		return policy_check(access, row);
	if (tg->access_generation != access->generation)
		elog(ERROR, "row security changed while a change was decided");
	return policy_check_folded(access, tg->params, row);
}

static Verdict
check_filter(TableGroup *tg, const PolicyRow *row)
{
	return tg->filter != NULL ? filter_check(tg->filter, row) : VERDICT_YES;
}

/*
 * P of one row.  The filter sees only rows that the policies certainly let
 * through: its author chooses what it does with them, and is told its errors.
 */
static Verdict
check_row(TableGroup *tg, TableAccess *access, const PolicyRow *row)
{
	Verdict		verdict = check_policies(tg, access, row);

	return verdict == VERDICT_YES ? check_filter(tg, row) : verdict;
}

/* The new row of a change that has one */
static PolicyRow
new_row(ChangeRows *rows)
{
	PolicyRow	row = {rows->schema, &rows->newtuple, rows->new_known};

	return row;
}

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

/* What of the old row an UPDATE may show, its new row being visible */
static OldPart
updated_old_part(TableGroup *tg, TableAccess *access, ChangeRows *rows)
{
	PolicyRow	row;
	Verdict		verdict;

	if (!rows->has_old)
		return OLD_IDENTITY;	/* the new row's own */
	if (!old_row(rows, &row))
		return OLD_EMPTY;
	verdict = check_policies(tg, access, &row);
	if (SCHEMA_OLD_FULL(rows->schema))
		return verdict == VERDICT_YES ? OLD_IDENTITY : OLD_EMPTY;

	/*
	 * The key changed.  Whoever holds the row under its old key must hear of
	 * it; only who certainly could not see the old row does not.
	 */
	return verdict == VERDICT_NO ? OLD_EMPTY : OLD_IDENTITY;
}

static Outcome
decide_truncate(int wanted)
{
	return (wanted & EVENT_DELETE) ? OUTCOME_REFETCH : OUTCOME_NOTHING;
}

static Outcome
decide_insert(TableGroup *tg, TableAccess *access, ChangeRows *rows)
{
	PolicyRow	row = new_row(rows);

	if (!(tg->group->spec.events & EVENT_INSERT))
		return OUTCOME_NOTHING;
	return check_row(tg, access, &row) == VERDICT_YES ?
		OUTCOME_INSERT : OUTCOME_NOTHING;
}

static Outcome
decide_delete(TableGroup *tg, TableAccess *access, ChangeRows *rows,
			  OldPart *old)
{
	PolicyRow	row;
	Verdict		verdict;

	if (!(tg->group->spec.events & EVENT_DELETE) || !old_row(rows, &row))
		return OUTCOME_NOTHING;
	verdict = check_row(tg, access, &row);
	*old = access->row_security ? OLD_KEY : OLD_IDENTITY;
	if (verdict == VERDICT_UNKNOWN &&
		rtsync_delete_visibility == DELETE_VISIBILITY_KEY)
		return check_filter(tg, &row) != VERDICT_NO ?
			OUTCOME_DELETE : OUTCOME_NOTHING;
	return verdict == VERDICT_YES ? OUTCOME_DELETE : OUTCOME_NOTHING;
}

/* The new row does not pass: did it leave the view? */
static Outcome
decide_leave(TableGroup *tg, TableAccess *access, ChangeRows *rows,
			 OldPart *old)
{
	PolicyRow	row;

	if (!(tg->group->spec.events & EVENT_DELETE) || !rtsync_leave_events ||
		!old_row(rows, &row))
		return OUTCOME_NOTHING;
	*old = OLD_KEY;
	return check_row(tg, access, &row) == VERDICT_YES ?
		OUTCOME_DELETE : OUTCOME_NOTHING;
}

/* Did the row, whose new version passes, certainly not pass before? */
static bool
was_outside(TableGroup *tg, TableAccess *access, ChangeRows *rows)
{
	PolicyRow	row;

	return old_row(rows, &row) &&
		(check_policies(tg, access, &row) == VERDICT_NO ||
		 check_filter(tg, &row) == VERDICT_NO);
}

/* The new row passes.  With view semantics, it may have entered the view. */
static Outcome
decide_stay(TableGroup *tg, TableAccess *access, ChangeRows *rows,
			OldPart *old)
{
	int			wanted = tg->group->spec.events;

	if (tg->group->options.view && was_outside(tg, access, rows))
		return (wanted & EVENT_INSERT) ? OUTCOME_INSERT : OUTCOME_NOTHING;
	if (!(wanted & EVENT_UPDATE))
		return OUTCOME_NOTHING;
	*old = updated_old_part(tg, access, rows);
	return OUTCOME_UPDATE;
}

static Outcome
decide_update(TableGroup *tg, TableAccess *access, ChangeRows *rows,
			  OldPart *old)
{
	PolicyRow	row = new_row(rows);

	switch (check_row(tg, access, &row))
	{
		case VERDICT_YES:
			return decide_stay(tg, access, rows, old);
		case VERDICT_NO:
			return decide_leave(tg, access, rows, old);
		default:
			return OUTCOME_NOTHING;
	}
}

/* Apply the decision table to one change. */
static Outcome
decide(TableGroup *tg, TableAccess *access, ChangeRows *rows, OldPart *old)
{
	*old = OLD_EMPTY;
	if (rows->kind == CHANGE_TRUNCATE)
		return decide_truncate(tg->group->spec.events);
	if (rows->kind == CHANGE_DELETE)
		return decide_delete(tg, access, rows, old);
	if (!rows->has_new)
		return OUTCOME_NOTHING;
	if (rows->kind == CHANGE_INSERT)
		return decide_insert(tg, access, rows);
	return decide_update(tg, access, rows, old);
}

/* Bring the group's compiled state up to date and return what its role may
 * see; NULL if that is nothing. */
static TableAccess *
table_group_access(TableGroup *tg)
{
	TableRole  *role = tg->role;
	TableAccess *access;

	access = policy_table_access(role->route->relid, role->roleid);
	if (!access->readable)
		return NULL;
	if (!tg->valid || tg->access_generation != access->generation)
		table_group_compile(tg, access);
	return access;
}

/* The change goes to the group; allocates in the current memory context. */
static void
append_match(RoutedChange *change, TableGroup *tg, Outcome outcome,
			 OldPart old)
{
	Match	   *match = palloc0(sizeof(Match));

	match->tg = tg;
	match->outcome = outcome;
	match->old = old;
	if (change->last_match != NULL)
		change->last_match->next = match;
	else
		change->matches = match;
	change->last_match = match;
}

typedef struct Found
{
	struct Found *next;
	RoutedChange *change;
	Outcome		outcome;
	OldPart		old;
} Found;

/*
 * Decide the changes of one table for one group, from "change" on, or just
 * that one; append the matches only when all went well.
 */
static void
decide_group(TableGroup *tg, RoutedChange *change, bool only_one)
{
	MemoryContext context = CurrentMemoryContext;
	PrincipalScope scope;
	TableAccess *access;
	Found	   *found = NULL;
	Found	  **tail = &found;

	principal_enter(tg->group->principal, &scope);
	access = table_group_access(tg);
	for (; access != NULL && change != NULL;
		 change = only_one ? NULL : change->next)
	{
		OldPart		old;
		Outcome		outcome = decide(tg, access, &change->rows, &old);
		Found	   *one;

		MemoryContextSwitchTo(context);
		if (outcome == OUTCOME_NOTHING)
			continue;
		one = palloc0(sizeof(Found));
		one->change = change;
		one->outcome = outcome;
		one->old = old;
		*tail = one;
		tail = &one->next;
	}
	principal_leave(&scope);
	for (; found != NULL; found = found->next)
		append_match(found->change, tg, found->outcome, found->old);
}

/*--------------------------------------------------------------------------
 * Many groups at once
 *--------------------------------------------------------------------------
 */

/* A group that is to be asked, as its principal, about one change */
typedef struct Deferred
{
	struct Deferred *next;
	TableGroup *tg;
	RoutedChange *change;
} Deferred;

/* The changes of a table are being decided for the groups of a role */
typedef struct RoleTurn
{
	TableRole  *role;
	TableAccess *access;
	RoutedChange *change;		/* at hand */
	Deferred   *deferred;		/* newest first */
} RoleTurn;

typedef struct FoldAttempt
{
	TableGroup *tg;
	TableAccess *access;
	List	   *quals;
} FoldAttempt;

static void
attempt_fold(void *arg)
{
	FoldAttempt *what = arg;
	TableGroup *tg = what->tg;

	tg->pure = policy_fold(what->access, tg->context, &what->quals,
						   &tg->params);
}

/*
 * Find out whether the group is pure, and index it if its policies or its
 * filter cover the rows that it can get.  The policies' parameters may raise
 * errors that the policies themselves would not; the group is not pure then.
 */
static void
index_group(TableGroup *tg, TableAccess *access)
{
	FoldAttempt what = {tg, access, NIL};
	List	   *filter_quals = NIL;
	PredicateIndex *index = tg->role->index;

	if (attempt(attempt_fold, &what) != NULL)
	{
		tg->pure = false;
		what.quals = NIL;
	}
	if (tg->filter != NULL && !filter_pure(tg->filter, &filter_quals))
		tg->pure = false;
	if ((what.quals != NIL &&
		 predicate_insert(index, &tg->item, what.quals, tg->params)) ||
		(filter_quals != NIL &&
		 predicate_insert(index, &tg->item, filter_quals, NULL)))
		dlist_delete(&tg->in_scan);
	tg->placed = true;
}

/*
 * Compile the group, which is in its role's scan list, and index it if that is
 * possible; it then is no longer in that list.
 */
void
decide_prepare(TableGroup *tg, TableAccess *access)
{
	PrincipalScope scope;

	principal_enter(tg->group->principal, &scope);
	table_group_compile(tg, access);
	index_group(tg, access);
	principal_leave(&scope);
}

/*
 * Compile and index the groups of a role that are not; returns what the role
 * may see, or NULL if that is nothing.
 */
static TableAccess *
prepare_role(TableRole *role)
{
	TableAccess *access = policy_table_access(role->route->relid,
											  role->roleid);
	dlist_mutable_iter iter;

	if (role->access_generation != access->generation)
	{
		tables_reset_index(role);
		role->access_generation = access->generation;
	}
	if (!access->readable)
		return NULL;
	dlist_foreach_modify(iter, &role->scan)
	{
		TableGroup *tg = dlist_container(TableGroup, in_scan, iter.cur);

		if (tg->valid && tg->placed)
			continue;
		CHECK_FOR_INTERRUPTS();
		decide_prepare(tg, access);
	}
	if (role->access_generation != access->generation)
		elog(ERROR, "row security changed while a change was decided");
	return access;
}

/* Decide the change at hand for a group that is pure; else defer it. */
static void
decide_candidate(TableGroup *tg, RoleTurn *turn)
{
	OldPart		old;
	Outcome		outcome;

	if (tg->pure)
	{
		outcome = decide(tg, turn->access, &turn->change->rows, &old);
		if (outcome != OUTCOME_NOTHING)
			append_match(turn->change, tg, outcome, old);
	}
	else
	{
		Deferred   *deferred = palloc(sizeof(Deferred));

		deferred->next = turn->deferred;
		deferred->tg = tg;
		deferred->change = turn->change;
		turn->deferred = deferred;
	}
}

static void
candidate_cb(IndexItem *item, void *arg)
{
	decide_candidate((TableGroup *) ((char *) item - offsetof(TableGroup, item)),
					 arg);
}

/* All groups of the role that are indexed are candidates. */
static void
decide_all_indexed(RoleTurn *turn)
{
	dlist_iter	iter;

	dlist_foreach(iter, &turn->role->groups)
	{
		TableGroup *tg = dlist_container(TableGroup, in_role, iter.cur);

		if (tg->item.indexed)
			decide_candidate(tg, turn);
	}
}

/*
 * Can the index tell whom the change may concern?  Not a TRUNCATE, which
 * concerns all, nor a DELETE that goes to those too who cannot be decided.
 */
static bool
index_decides(ChangeRows *rows)
{
	return rows->kind != CHANGE_TRUNCATE &&
		(rows->kind != CHANGE_DELETE ||
		 rtsync_delete_visibility != DELETE_VISIBILITY_KEY);
}

/* Decide the change at hand for the groups that the index finds. */
static void
decide_indexed(RoleTurn *turn)
{
	static uint64 visit = 0;
	ChangeRows *rows = &turn->change->rows;
	PredicateIndex *index = turn->role->index;
	PolicyRow	row;
	bool		done = index_decides(rows);

	visit++;
	if (done && rows->has_new)
	{
		row = new_row(rows);
		done = predicate_visit(index, &row, visit, candidate_cb, turn);
	}
	if (done && rows->has_old && old_row(rows, &row))
		done = predicate_visit(index, &row, visit, candidate_cb, turn);
	if (!done)
		decide_all_indexed(turn);
}

/* Decide the changes of the table for the groups that need no principal. */
static void
decide_pure(RoleTurn *turn)
{
	TableRole  *role = turn->role;
	PrincipalScope scope;
	dlist_iter	iter;

	principal_enter_role(role->roleid, &scope);
	for (turn->change = role->route->first; turn->change != NULL;
		 turn->change = turn->change->next)
	{
		decide_indexed(turn);
		dlist_foreach(iter, &role->scan)
		{
			TableGroup *tg = dlist_container(TableGroup, in_scan, iter.cur);

			if (tg->pure)
				decide_candidate(tg, turn);
		}
	}
	principal_leave(&scope);
}

static void
decide_role(TableRole *role)
{
	RoleTurn	turn = {.role = role};
	dlist_iter	iter;

	turn.access = prepare_role(role);
	if (turn.access == NULL)
		return;
	decide_pure(&turn);
	for (Deferred *deferred = turn.deferred; deferred != NULL;
		 deferred = deferred->next)
		decide_group(deferred->tg, deferred->change, true);
	dlist_foreach(iter, &role->scan)
	{
		TableGroup *tg = dlist_container(TableGroup, in_scan, iter.cur);

		CHECK_FOR_INTERRUPTS();
		if (!tg->pure)
			decide_group(tg, role->route->first, false);
	}
}

/*--------------------------------------------------------------------------
 * Precautions against errors
 *--------------------------------------------------------------------------
 */

/* A change could not be decided or rendered for a group: say so. */
void
decide_report_error(TableGroup *tg, const ErrorData *error)
{
	SubscriptionGroup	   *group = tg->group;
	RelSchema  *schema = tg->role->route->schema;
	bool		told = group->told_at != 0;

	errors++;
	if (!told)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("rtsync withheld a change of table \"%s.%s\" from role \"%s\": %s",
						schema->nspname, schema->relname,
						group->principal->rolename, error->message)));
	subscription_tell_error(group,
							psprintf("A change of table %s.%s was withheld because its row security could not be evaluated: %s",
									 schema->nspname, schema->relname,
									 error->message));
}

typedef struct GroupAttempt
{
	TableGroup *tg;
	RoutedChange *change;
	bool		only_one;
} GroupAttempt;

static void
attempt_group(void *arg)
{
	GroupAttempt *what = arg;

	decide_group(what->tg, what->change, what->only_one);
}

/* Like decide_group for all changes, but errors cost only what they concern. */
static void
decide_group_carefully(TableGroup *tg)
{
	GroupAttempt what = {tg, tg->role->route->first, false};
	ErrorData  *error = attempt(attempt_group, &what);

	if (error == NULL)
		return;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
	{
		/* policy.c will not let it take that long again */
		decide_report_error(tg, error);
		return;
	}
	what.only_one = true;
	for (; what.change != NULL; what.change = what.change->next)
	{
		error = attempt(attempt_group, &what);
		if (error != NULL)
			decide_report_error(tg, error);
	}
}

static void
decide_role_carefully(TableRole *role)
{
	dlist_iter	iter;

	dlist_foreach(iter, &role->groups)
	{
		TableGroup *tg = dlist_container(TableGroup, in_role, iter.cur);

		CHECK_FOR_INTERRUPTS();
		if (!tg->group->late)
			decide_group_carefully(tg);
	}
}

/*
 * Decide the changes that hang on the routes, for all their groups that are
 * not late.  Allocates
 * the matches in the current memory context.  Not carefully, any error in what
 * users wrote is raised; carefully, it costs only the change and group that
 * it concerns.
 */
void
decide_changes(List *routes, bool carefully)
{
	ListCell   *lc;

	foreach(lc, routes)
	{
		TableRoute *route = lfirst(lc);
		dlist_iter	iter;

		tables_refresh(route);
		dlist_foreach(iter, &route->roles)
		{
			TableRole  *role = dlist_container(TableRole, in_route, iter.cur);

			if (carefully)
				decide_role_carefully(role);
			else
				decide_role(role);
		}
	}
}

/* Likewise, but for one group alone, late or not. */
void
decide_changes_for(SubscriptionGroup *group, bool carefully)
{
	dlist_iter	iter;

	dlist_foreach(iter, &group->tables)
	{
		TableGroup *tg = dlist_container(TableGroup, in_group, iter.cur);

		if (tg->role->route->first == NULL)
			continue;
		tables_refresh(tg->role->route);
		if (carefully)
			decide_group_carefully(tg);
		else
			decide_group(tg, tg->role->route->first, false);
	}
}

/*
 * What the decision about a change rests on: does the old row pass, and the
 * new one?  What the change does not have is unknown.  Errors are raised.
 */
void
decide_verdicts(TableGroup *tg, ChangeRows *rows,
				Verdict *old_verdict, Verdict *new_verdict)
{
	PrincipalScope scope;
	TableAccess *access;
	PolicyRow	old;
	PolicyRow	new = new_row(rows);

	*old_verdict = *new_verdict = VERDICT_UNKNOWN;
	principal_enter(tg->group->principal, &scope);
	access = table_group_access(tg);
	if (access == NULL)
		*old_verdict = *new_verdict = VERDICT_NO;
	else
	{
		if (rows->kind != CHANGE_INSERT && old_row(rows, &old))
			*old_verdict = check_row(tg, access, &old);
		if (rows->has_new)
			*new_verdict = check_row(tg, access, &new);
	}
	principal_leave(&scope);
}

/* The columns of the match's group that "old_record" has */
const Bitmapset *
decide_old_columns(const Match *match)
{
	return match->old == OLD_KEY ? match->tg->key :
		match->old == OLD_IDENTITY ? match->tg->identity : NULL;
}

/* What of the change is to be shown */
void
decide_render_spec(const Match *match, RenderSpec *spec)
{
	spec->kind = match->outcome == OUTCOME_INSERT ? CHANGE_INSERT :
		match->outcome == OUTCOME_UPDATE ? CHANGE_UPDATE : CHANGE_DELETE;
	spec->columns = match->tg->columns;
	spec->record = match->tg->record;
	spec->old_record = decide_old_columns(match);
}

/* Changes withheld because of errors, since the start */
uint64
decide_errors(void)
{
	return errors;
}
