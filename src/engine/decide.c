/*-------------------------------------------------------------------------
 *
 * decide.c
 *	  Which groups get a change, and what of it.
 *
 * The groups of a role are decided together: what their policies take from the
 * claims is compiled into parameters, so that nobody needs to be entered, and
 * the index (predicate.c) finds the few groups that a row can concern.  Policies
 * with sub-queries are asked for all changes and groups at once, where that is
 * possible (setcheck.c); where the sub-queries lead from a row to those whom it
 * can concern, only these are asked.  Where nothing else is possible (functions that cannot
 * be looked into), a group is decided by itself, as its principal.
 *
 * What users wrote (policies, filters) can fail; decide_changes says what that
 * costs.  Only what is decided for many at once needs care: if that fails it is
 * done again in smaller parts, down to one group and one change.
 *
 * Called by route.c inside a transaction on the present.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "engine/attempt.h"
#include "engine/decide.h"
#include "engine/policy.h"
#include "engine/predicate.h"
#include "engine/settings.h"

static uint64 errors;

/* A compilation that takes less is not worth counting. */
#define COMPILE_FREE_SECONDS 0.002

/* For so many decisions a group that failed is asked with precautions. */
#define FAILURE_CREDIT 64

/* The columns that a group is shown; in the current memory context. */
static ColumnSets *
make_sets(RelSchema *schema, TableAccess *access, const BindingSpec *spec)
{
	ColumnSets *sets = palloc(sizeof(ColumnSets));
	Bitmapset  *shown = bms_intersect(access->columns, schema->published);

	sets->schema = schema;
	sets->access_basis = access->basis;
	sets->identity = bms_intersect(schema->identity, shown);
	sets->key = bms_intersect(schema_key(schema), shown);
	sets->record = sets->columns = shown;
	if (spec != NULL && spec->nselect >= 0)
	{
		sets->record = binding_selected(spec, schema->desc, shown);
		sets->columns = bms_union(sets->record, sets->key);
	}
	return sets;
}

/* The same ones for all groups of a role that select no columns.  Older ones
 * may still be in use, and live as long as the role's context. */
static const ColumnSets *
shared_sets(TableRole *role, TableAccess *access)
{
	RelSchema  *schema = role->route->schema;
	MemoryContext old;

	if (role->sets != NULL && role->sets->schema == schema &&
		role->sets->access_basis == access->basis)
		return role->sets;
	old = MemoryContextSwitchTo(role->context);
	role->sets = make_sets(schema, access, NULL);
	MemoryContextSwitchTo(old);
	return role->sets;
}

/*
 * Make the compiled part of a table group, under its principal.  An error
 * leaves it invalid: it is raised again for the next change.
 */
static void
compile_group(TableGroup *tg, TableAccess *access)
{
	RelSchema  *schema = tg->role->route->schema;
	const BindingSpec *spec = &tg->group->spec;
	MemoryContext old;

	if (tg->context == NULL)
		tg->context = AllocSetContextCreate(tg->group->context,
											"rtsync table group",
											ALLOCSET_SMALL_SIZES);
	else
		MemoryContextReset(tg->context);
	tg->valid = tg->placed = tg->pure = tg->in_set = false;
	tg->filter = NULL;
	tg->sets = NULL;

	old = MemoryContextSwitchTo(tg->context);
	tg->sets = spec->nselect < 0 ? shared_sets(tg->role, access) :
		make_sets(schema, access, spec);
	if (spec->filter != NULL || tg->group->options.where != NULL)
		tg->filter = filter_compile(spec->filter, tg->group->options.where,
									schema->relid, access->columns,
									tg->context);
	if (tg->filter != NULL)
		filter_set_payer(tg->filter, tg->group->payer);
	MemoryContextSwitchTo(old);
	tg->open = !access->row_security && tg->filter == NULL;
	tg->query = policy_is_query(access);
	tg->access_basis = access->basis;
	tg->valid = true;
}

static void
charge_compilation(Payer *payer, instr_time start)
{
	instr_time	taken;

	INSTR_TIME_SET_CURRENT(taken);
	INSTR_TIME_SUBTRACT(taken, start);
	if (INSTR_TIME_GET_DOUBLE(taken) > COMPILE_FREE_SECONDS)
		budget_charge(payer, start);
}

/* Likewise; the planner may run what is slow in a client's condition. */
static void
table_group_compile(TableGroup *tg, TableAccess *access)
{
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	PG_TRY();
	{
		compile_group(tg, access);
	}
	PG_CATCH();
	{
		charge_compilation(tg->group->payer, start);
		PG_RE_THROW();
	}
	PG_END_TRY();
	charge_compilation(tg->group->payer, start);
}

/*
 * Is the group not to be asked for now, because its conditions took too much
 * time?  Then note that it may miss something.
 */
static bool
is_withheld(TableGroup *tg)
{
	if (!budget_suspended(tg->group->payer))
		return false;
	subscription_withhold(tg->group);
	return true;
}

/*--------------------------------------------------------------------------
 * One group
 *--------------------------------------------------------------------------
 */

/*
 * A group that is for all principals of its role can be decided only if the
 * claims do not matter.  (If that has just changed, the slice is tried again,
 * with other groups.)
 */
static void
require_same_for_all(TableAccess *access)
{
	if (access->reads_session)
		elog(ERROR, "row security changed while a change was decided");
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
	if (tg->group->shared)
		require_same_for_all(access);
	if (!tg->valid || tg->access_basis != access->basis)
		table_group_compile(tg, access);
	return access;
}

/* The change goes to the group; allocates in the current memory context. */
static void
append_match(RoutedChange *change, TableGroup *tg, Outcome outcome,
			 OldPart old)
{
	Match	   *match;

	if (tg->misnamed)
		return;
	match = palloc0(sizeof(Match));
	match->tg = tg;
	match->outcome = outcome;
	match->old = old;
	if (change->last_match != NULL)
		change->last_match->next = match;
	else
		change->matches = match;
	change->last_match = match;
}

/* Answer the question about the change, and note whom it goes to. */
static void
decide(const Question *question, RoutedChange *change)
{
	OldPart		old;
	Outcome		outcome = outcome_decide(question, &old);

	if (outcome != OUTCOME_NOTHING)
		append_match(change, question->tg, outcome, old);
}

/*
 * Decide the changes of one table for one group, from "change" on, or just
 * that one.  There may be many: each could be the one with which its conditions
 * take too much time.
 */
static void
decide_group(TableGroup *tg, RoutedChange *change, bool only_one)
{
	MemoryContext context = CurrentMemoryContext;
	PrincipalScope scope;
	Question	question = {.tg = tg};

	if (is_withheld(tg))
		return;
	principal_enter(tg->group->principal, &scope);
	question.access = table_group_access(tg);
	for (; question.access != NULL && change != NULL && !is_withheld(tg);
		 change = only_one ? NULL : change->next)
	{
		question.rows = &change->rows;
		decide(&question, change);
		MemoryContextSwitchTo(context);
	}
	principal_leave(&scope);
}

/*--------------------------------------------------------------------------
 * Many groups at once
 *--------------------------------------------------------------------------
 */

/* A group that is to be asked, not by parameters alone, about one change */
typedef struct Deferred
{
	struct Deferred *next;
	TableGroup *tg;
	RoutedChange *change;
	bool		in_set;			/* it can be asked together with others */
} Deferred;

/* Some groups of a role */
typedef struct GroupList
{
	TableGroup **groups;
	int			n;
	int			max;
} GroupList;

/* The changes of a table are being decided for the groups of a role */
typedef struct RoleTurn
{
	TableRole  *role;
	TableAccess *access;
	RoutedChange *change;		/* at hand ... */
	int			number;			/* ... and which one it is, from 0 */
	Deferred   *deferred;		/* newest first; not to be forgotten only if
								 * decide_pure did not fail */
	int			ndeferred;
	bool		ask_all;		/* no group is deferred; those that were
								 * indexed, and are not pure, are to be asked
								 * about each change */

	/* the changes as rows of a set */
	PolicyRow  *rows;
	int			nrows;
	int		   *numbers;		/* for each change, of its old and new row */
	SetFinds	finds;			/* for each row; without "first": nothing was
								 * sought */

	/* those that must be asked about each change */
	GroupList	pure;
	GroupList	set;
	GroupList	alone;
	GroupList	broken;			/* they could not even be compiled */
} RoleTurn;

/* What the index is to be asked about a change */
typedef struct Lookup
{
	bool		all;			/* it cannot tell: all in it are candidates */
	RowKeys    *keys[2];		/* of the rows, by RowSide; NULL: not asked */
} Lookup;

static void
group_list_add(GroupList *list, TableGroup *tg)
{
	if (list->n == list->max)
	{
		list->max = Max(list->max * 2, 64);
		list->groups = list->groups == NULL ?
			palloc(list->max * sizeof(TableGroup *)) :
			repalloc_huge(list->groups, list->max * sizeof(TableGroup *));
	}
	list->groups[list->n++] = tg;
}

typedef struct FoldAttempt
{
	TableGroup *tg;
	TableAccess *access;
	List	   *quals;			/* by which it can be indexed, with ... */
	ParamListInfo params;		/* ... these values */
} FoldAttempt;

static void
attempt_fold(void *arg)
{
	FoldAttempt *what = arg;
	TableGroup *tg = what->tg;

	tg->pure = policy_fold(what->access, tg->context, &what->quals,
						   &tg->params);
	if (!tg->pure)
		tg->in_set = policy_fold_set(what->access, tg->context, &what->quals,
									 &tg->params);
	what->params = tg->params;
}

static void
attempt_cover(void *arg)
{
	FoldAttempt *what = arg;

	if (!policy_cover(what->access, what->tg->context, &what->quals,
					  &what->params))
		what->quals = NIL;
}

/*
 * Find out how the group can be asked; *filter_quals is its filter, as far as
 * an index can use it.  The policies' parameters may raise errors that the
 * policies themselves would not; the group is asked alone then.
 */
static void
fold_group(FoldAttempt *what, List **filter_quals)
{
	TableGroup *tg = what->tg;

	*filter_quals = NIL;
	if (attempt(attempt_fold, what) != NULL)
	{
		tg->pure = tg->in_set = false;
		what->quals = NIL;
	}
	if (!tg->pure && !tg->in_set && attempt(attempt_cover, what) != NULL)
		what->quals = NIL;
	if (tg->filter != NULL && !filter_pure(tg->filter, filter_quals))
		tg->pure = tg->in_set = false;
	tg->placed = true;
}

/* Index the group if its policies or its filter cover the rows that it can get. */
static void
index_group(TableGroup *tg, TableAccess *access)
{
	FoldAttempt what = {.tg = tg,.access = access};
	PredicateIndex *index = tg->role->index;
	List	   *filter_quals;

	fold_group(&what, &filter_quals);
	if ((what.quals != NIL &&
		 predicate_insert(index, &tg->item, what.quals, what.params)) ||
		(filter_quals != NIL &&
		 predicate_insert(index, &tg->item, filter_quals, NULL)))
		dlist_delete(&tg->in_scan);
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

typedef struct PrepareAttempt
{
	TableGroup *tg;
	TableAccess *access;
} PrepareAttempt;

static void
attempt_prepare(void *arg)
{
	PrepareAttempt *what = arg;

	decide_prepare(what->tg, what->access);
}

/* Make sure that the group is compiled; false if that failed. */
static bool
prepare_group(TableGroup *tg, TableAccess *access, bool carefully)
{
	PrepareAttempt what = {tg, access};

	if (tg->valid && tg->placed)
		return true;
	if (budget_suspended(tg->group->payer))
		return false;
	CHECK_FOR_INTERRUPTS();
	if (carefully || tg->failures > 0)
		return attempt(attempt_prepare, &what) == NULL;
	decide_prepare(tg, access);
	return true;
}

/* Compile the groups of the role that are not, and list those in "scan". */
static void
prepare_groups(RoleTurn *turn, bool carefully)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &turn->role->scan)
	{
		TableGroup *tg = dlist_container(TableGroup, in_scan, iter.cur);

		if (!prepare_group(tg, turn->access, carefully))
			group_list_add(&turn->broken, tg);
		else if (!tg->item.indexed)
			group_list_add(tg->failures > 0 ? &turn->alone :
						   tg->pure ? &turn->pure :
						   tg->in_set ? &turn->set : &turn->alone, tg);
	}
}

/* With the claims of so many groups it is tried to plan the policies. */
#define PLAN_ATTEMPTS 8

typedef struct PlanAttempt
{
	TableGroup *tg;
	TableAccess *access;
} PlanAttempt;

static void
attempt_plan(void *arg)
{
	PlanAttempt *what = arg;
	PrincipalScope scope;

	principal_enter(what->tg->group->principal, &scope);
	policy_prepare(what->access);
	policy_prepare_set(what->access);
	principal_leave(&scope);
}

/*
 * If the access was looked at anew, but the groups are still as they should
 * be, plan the policies again; without it, they would have to be compiled
 * for nothing, each of them.
 */
static void
prepare_plan(RoleTurn *turn)
{
	int			attempts = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &turn->role->groups)
	{
		PlanAttempt what = {
			.tg = dlist_container(TableGroup, in_role, iter.cur),
			.access = turn->access
		};

		if (turn->role->access_basis != turn->access->basis ||
			policy_prepared(turn->access) || attempts++ == PLAN_ATTEMPTS)
			return;
		(void) attempt(attempt_plan, &what);
	}
}

/*
 * Make everything ready for the role's groups; returns false if it may see
 * nothing.
 */
static bool
prepare_role(RoleTurn *turn, bool carefully)
{
	TableRole  *role = turn->role;
	TableAccess *access = policy_table_access(role->route->relid,
											  role->roleid);

	turn->access = access;
	if (access->readable)
		prepare_plan(turn);
	if (role->access_basis != access->basis)
	{
		tables_reset_index(role);
		role->access_basis = access->basis;
	}
	if (!access->readable)
		return false;
	prepare_groups(turn, carefully);
	if (role->nshared > 0)
		require_same_for_all(access);
	if (role->access_basis != access->basis)
		elog(ERROR, "row security changed while a change was decided");
	return true;
}

/*
 * So many questions about groups that the index found are remembered; if there
 * are more, about all groups and changes, it is not worth it.
 */
#define MAX_DEFERRED 1000000

/* Decide the change at hand for a group that is pure; else defer it. */
static void
decide_candidate(TableGroup *tg, RoleTurn *turn)
{
	Question	question = {
		.tg = tg,
		.access = turn->access,
		.rows = &turn->change->rows
	};
	Deferred   *deferred;

	if (tg->pure && tg->failures == 0)
	{
		decide(&question, turn->change);
		return;
	}
	if (turn->ask_all)
		return;
	if (++turn->ndeferred > MAX_DEFERRED)
	{
		turn->ask_all = true;
		turn->deferred = NULL;
		return;
	}
	deferred = palloc(sizeof(Deferred));
	deferred->next = turn->deferred;
	deferred->tg = tg;
	deferred->change = turn->change;
	deferred->in_set = tg->in_set && tg->failures == 0;
	turn->deferred = deferred;
}

static void
candidate_cb(IndexItem *item, void *arg)
{
	decide_candidate((TableGroup *) ((char *) item - offsetof(TableGroup, item)),
					 arg);
}

static int
add_row(RoleTurn *turn, ChangeRows *rows, RowSide side)
{
	bool		known = (side == ROW_NEW || rows->kind != CHANGE_INSERT) &&
		outcome_row(rows, side, &turn->rows[turn->nrows]);

	return known ? turn->nrows++ : -1;
}

static int
count_changes(RoleTurn *turn)
{
	int			n = 0;

	for (RoutedChange *change = turn->role->route->first; change != NULL;
		 change = change->next)
		n++;
	return n;
}

/* Collect the rows of the turn's changes, unless that has been done. */
static void
collect_rows(RoleTurn *turn)
{
	int			nchanges = count_changes(turn);
	int		   *number;

	if (turn->rows != NULL)
		return;
	turn->rows = palloc(2 * nchanges * sizeof(PolicyRow));
	number = turn->numbers = palloc(2 * nchanges * sizeof(int));
	for (RoutedChange *change = turn->role->route->first; change != NULL;
		 change = change->next)
	{
		*number++ = add_row(turn, &change->rows, ROW_OLD);
		*number++ = add_row(turn, &change->rows, ROW_NEW);
	}
}

/* To ask all groups is cheaper than to seek if there are not more than this for
 * a change. */
#define FEW_GROUPS 1

/*
 * Where other tables lead from rows to groups: seek in these for all changes
 * of the turn.
 */
static void
seek_groups(void *arg)
{
	RoleTurn   *turn = arg;
	PrincipalScope scope;

	if (!predicate_needs_found(turn->role->index))
		return;
	turn->ask_all = policy_set_suspended(turn->access) ||
		turn->role->ngroups <= FEW_GROUPS * count_changes(turn);
	if (turn->ask_all)
		return;
	collect_rows(turn);
	turn->finds.context = CurrentMemoryContext;
	principal_enter_role(turn->role->roleid, &scope);
	policy_seek_set(turn->access, turn->rows, turn->nrows, &turn->finds);
	principal_leave(&scope);
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

/* Go to the groups that what was sought for a row leads to. */
static void
visit_finds(RoleTurn *turn, RowSide side, uint64 visit)
{
	int			row = turn->numbers[2 * turn->number + side];

	if (row < 0)
		return;
	for (SetFind *find = turn->finds.first[row]; find != NULL; find = find->next)
		predicate_visit_found(turn->role->index, find->number, find->value,
							  visit, candidate_cb, turn);
}

/* Find out what the index is to be asked about a change. */
static void
prepare_lookup(PredicateIndex *index, ChangeRows *rows, Lookup *lookup)
{
	PolicyRow	row;

	lookup->all = !index_decides(rows);
	for (int side = ROW_NEW; side >= ROW_OLD && !lookup->all; side--)
	{
		if ((side == ROW_OLD && !rows->has_old) ||
			!outcome_row(rows, side, &row))
			continue;
		lookup->keys[side] = predicate_keys(index, &row);
		lookup->all = lookup->keys[side] == NULL;
	}
}

static void
fetch_params(const IndexItem *item)
{
	const TableGroup *tg;

	if (item == NULL)
		return;
	tg = (const TableGroup *) ((const char *) item - offsetof(TableGroup, item));
	predicate_prefetch(tg->params, PREDICATE_FETCHED);
}

/*
 * Have the memory of the groups that the index will find fetched, of all
 * changes at once.
 */
static void
fetch_groups(PredicateIndex *index, const Lookup *lookups, int n)
{
	if (!predicate_is_large(index))
		return;
	for (int step = 0; step <= PREDICATE_FETCHES; step++)
		for (int i = 0; i < 2 * n; i++)
		{
			const RowKeys *keys = lookups[i / 2].keys[i % 2];

			if (keys == NULL)
				continue;
			if (step < PREDICATE_FETCHES)
				predicate_fetch(index, keys, step);
			else
				fetch_params(predicate_first(index, keys));
		}
}

/* What the index is to be asked about the turn's changes */
static Lookup *
prepare_lookups(RoleTurn *turn)
{
	PredicateIndex *index = turn->role->index;
	int			n = count_changes(turn);
	Lookup	   *lookups = palloc0(n * sizeof(Lookup));
	Lookup	   *next = lookups;

	for (RoutedChange *change = turn->role->route->first; change != NULL;
		 change = change->next)
		prepare_lookup(index, &change->rows, next++);
	fetch_groups(index, lookups, n);
	return lookups;
}

/* Decide the change at hand for the groups that the index finds. */
static void
decide_indexed(RoleTurn *turn, const Lookup *lookup)
{
	static uint64 visit = 0;

	visit++;
	if (lookup->all)
	{
		decide_all_indexed(turn);
		return;
	}
	for (int side = ROW_NEW; side >= ROW_OLD; side--)
		if (lookup->keys[side] != NULL)
			predicate_visit(turn->role->index, lookup->keys[side], visit,
							candidate_cb, turn);
	if (turn->finds.first != NULL)
	{
		visit_finds(turn, ROW_NEW, visit);
		visit_finds(turn, ROW_OLD, visit);
	}
}

/*
 * Decide the changes of the table for the groups that need no principal, and
 * find the others that the index knows of.
 */
static void
decide_pure(void *arg)
{
	RoleTurn   *turn = arg;
	PrincipalScope scope;
	Lookup	   *lookups;

	turn->number = 0;
	principal_enter_role(turn->role->roleid, &scope);
	lookups = prepare_lookups(turn);
	for (turn->change = turn->role->route->first; turn->change != NULL;
		 turn->change = turn->change->next, turn->number++)
	{
		decide_indexed(turn, &lookups[turn->number]);
		for (int i = 0; i < turn->pure.n; i++)
			decide_candidate(turn->pure.groups[i], turn);
	}
	principal_leave(&scope);
}

/*--------------------------------------------------------------------------
 * Groups whose policies have sub-queries
 *--------------------------------------------------------------------------
 */

/* About what it costs to ask, in microseconds */
#define ALONE_COST 15.0			/* one group about one row */
#define SET_COST 60.0			/* a set, and for each of its members ... */
#define MEMBER_COST 0.5			/* ... a row or a group */

/* A set should not run for longer than this. */
#define SET_TARGET_COST 50000.0

/* So often a set may fail in one turn, until all are asked alone */
#define MAX_SET_FAILURES 40

/* Some groups that are asked about all rows of the turn */
typedef struct SetTurn
{
	RoleTurn   *turn;
	TableGroup **groups;		/* part of them is asked at a time, from ... */
	int			first;			/* ... this one on ... */
	int			n;				/* ... so many */
	int			failures;
} SetTurn;

/* May the change concern somebody who sees none of its rows? */
static bool
concerns_all(ChangeRows *rows, const SetAnswers *answers, const int *numbers)
{
	return !index_decides(rows) &&
		(rows->kind == CHANGE_TRUNCATE ||
		 (numbers[ROW_OLD] >= 0 && answers->unknown[numbers[ROW_OLD]]));
}

/* 64 groups of the part, of which some see one of the change's rows */
static uint64
seeing_word(const SetAnswers *answers, const int *numbers, int word)
{
	uint64		bits = 0;

	for (int side = ROW_OLD; side <= ROW_NEW; side++)
		if (numbers[side] >= 0)
			bits |= answers->bits[(size_t) numbers[side] * answers->nwords + word];
	return bits;
}

/* Decide a change for the part, given what the policies say. */
static void
decide_answered(SetTurn *set, RoutedChange *change, SetAnswers *answers,
				const int *numbers)
{
	bool		all = concerns_all(&change->rows, answers, numbers);
	Question	question = {
		.access = set->turn->access,
		.rows = &change->rows,
		.answers = answers,
		.numbers = {numbers[ROW_OLD], numbers[ROW_NEW]}
	};

	for (int word = 0; word < answers->nwords; word++)
	{
		uint64		bits = all ? ~UINT64CONST(0) :
			seeing_word(answers, numbers, word);

		for (; bits != 0; bits &= bits - 1)
		{
			question.principal = word * 64 + pg_rightmost_one_pos64(bits);
			if (question.principal >= set->n)
				break;
			question.tg = set->groups[set->first + question.principal];
			decide(&question, change);
		}
	}
}

/* Decide all changes for the part. */
static void
decide_part(void *arg)
{
	SetTurn    *set = arg;
	RoleTurn   *turn = set->turn;
	SetAnswers *answers = setcheck_answers(turn->nrows, set->n);
	ParamListInfo *params = palloc(set->n * sizeof(ParamListInfo));
	const int  *numbers = turn->numbers;
	PrincipalScope scope;

	for (int i = 0; i < set->n; i++)
	{
		TableGroup *tg = set->groups[set->first + i];

		if (!tg->in_set ||
			tg->access_basis != turn->access->basis)
			elog(ERROR, "row security changed while a change was decided");
		params[i] = tg->params;
	}
	principal_enter_role(turn->role->roleid, &scope);
	if (turn->nrows > 0)
		policy_check_set(turn->access, turn->rows, turn->nrows, params,
						 set->n, answers);
	for (RoutedChange *change = turn->role->route->first; change != NULL;
		 change = change->next, numbers += 2)
		decide_answered(set, change, answers, numbers);
	principal_leave(&scope);
	pfree(params);
}

static void decide_part_carefully(SetTurn *set);

/* Decide all changes for some groups at once, in parts of a fitting size. */
static void
decide_set(RoleTurn *turn, const GroupList *list, bool carefully)
{
	SetTurn		set = {.turn = turn,.groups = list->groups};
	double		cost;
	int			size;

	collect_rows(turn);
	cost = policy_set_cost(turn->access) * Max(turn->nrows, 1);
	size = (int) Min(Max(SET_TARGET_COST / cost, 1.0), 1000000.0);
	for (int first = 0; first < list->n; first += size)
	{
		CHECK_FOR_INTERRUPTS();
		set.first = first;
		set.n = Min(size, list->n - first);
		if (carefully)
			decide_part_carefully(&set);
		else
			decide_part(&set);
	}
}

/* Is it cheaper to ask the groups together than in so many single questions? */
static bool
set_pays(RoleTurn *turn, int ngroups, double nquestions)
{
	double		nrows = count_changes(turn);

	if (ngroups == 0 || policy_set_suspended(turn->access))
		return false;
	return SET_COST + MEMBER_COST * (nrows + ngroups) +
		policy_set_cost(turn->access) * nrows * ngroups <
		ALONE_COST * nquestions;
}

/* The groups of a set that have been deferred, each once */
static double
deferred_to_set(RoleTurn *turn, GroupList *list)
{
	static uint64 set_turn = 0;
	double		n = 0;

	set_turn++;
	for (Deferred *deferred = turn->deferred; deferred != NULL;
		 deferred = deferred->next)
	{
		TableGroup *tg = deferred->tg;

		if (!deferred->in_set)
			continue;
		n++;
		if (tg->set_turn != set_turn)
			group_list_add(list, tg);
		tg->set_turn = set_turn;
	}
	return n;
}

/*--------------------------------------------------------------------------
 * A role
 *--------------------------------------------------------------------------
 */

static void decide_group_carefully(TableGroup *tg, RoutedChange *change,
								   bool only_one);

static void
ask_alone(TableGroup *tg, RoutedChange *change, bool only_one, bool carefully)
{
	CHECK_FOR_INTERRUPTS();
	if (carefully || tg->failures > 0)
		decide_group_carefully(tg, change, only_one);
	else
		decide_group(tg, change, only_one);
}

static void
ask_list_alone(RoleTurn *turn, const GroupList *list, bool carefully)
{
	for (int i = 0; i < list->n; i++)
		ask_alone(list->groups[i], turn->role->route->first, false, carefully);
}

/* Decide for the groups that the index found. */
static void
decide_deferred(RoleTurn *turn, bool carefully)
{
	GroupList	list = {0};
	double		nquestions = deferred_to_set(turn, &list);
	bool		pays = set_pays(turn, list.n, nquestions);

	if (pays)
		decide_set(turn, &list, carefully);
	for (Deferred *deferred = turn->deferred; deferred != NULL;
		 deferred = deferred->next)
		if (!pays || !deferred->in_set)
			ask_alone(deferred->tg, deferred->change, true, carefully);
}

/* All that were indexed, and need more than parameters, are asked like those
 * that were not. */
static void
list_indexed(RoleTurn *turn)
{
	dlist_iter	iter;

	dlist_foreach(iter, &turn->role->groups)
	{
		TableGroup *tg = dlist_container(TableGroup, in_role, iter.cur);

		if (tg->item.indexed && !tg->pure)
			group_list_add(tg->in_set ? &turn->set : &turn->alone, tg);
	}
}

static void
decide_others(RoleTurn *turn, bool carefully)
{
	double		nquestions;

	if (turn->ask_all)
		list_indexed(turn);
	nquestions = (double) turn->set.n * count_changes(turn);
	decide_deferred(turn, carefully);
	if (set_pays(turn, turn->set.n, nquestions))
		decide_set(turn, &turn->set, carefully);
	else
		ask_list_alone(turn, &turn->set, carefully);
	ask_list_alone(turn, &turn->alone, carefully);
	ask_list_alone(turn, &turn->broken, carefully);
}

static void
decide_role(TableRole *role)
{
	RoleTurn	turn = {.role = role};

	if (!tables_lock(role) || !prepare_role(&turn, false))
		return;
	seek_groups(&turn);
	decide_pure(&turn);
	decide_others(&turn, false);
}

/*--------------------------------------------------------------------------
 * Precautions against errors
 *--------------------------------------------------------------------------
 */

/*
 * A change could not be decided or rendered for a group: say so, and see that
 * its next errors cost the others nothing.
 */
void
decide_report_error(TableGroup *tg, const ErrorData *error)
{
	SubscriptionGroup *group = tg->group;
	RelSchema  *schema = tg->role->route->schema;
	bool		told = group->told_at != 0;

	errors++;
	tg->failures = FAILURE_CREDIT;
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

/*
 * Run a function on changes of the route in a subtransaction; returns NULL, or
 * the error, and then all matches that it appended are taken back.
 */
static ErrorData *
attempt_matches(TableRoute *route, void (*function) (void *arg), void *arg)
{
	ErrorData  *error;

	for (RoutedChange *change = route->first; change != NULL;
		 change = change->next)
		change->mark = change->last_match;
	error = attempt(function, arg);
	if (error == NULL)
		return NULL;
	for (RoutedChange *change = route->first; change != NULL;
		 change = change->next)
	{
		change->last_match = change->mark;
		if (change->mark != NULL)
			change->mark->next = NULL;
		else
			change->matches = NULL;
	}
	return error;
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

/* Like decide_group, but errors cost only what they concern. */
static void
decide_group_carefully(TableGroup *tg, RoutedChange *change, bool only_one)
{
	TableRoute *route = tg->role->route;
	GroupAttempt what = {tg, change, only_one};
	ErrorData  *error = attempt_matches(route, attempt_group, &what);

	if (error == NULL)
	{
		if (tg->failures > 0)
			tg->failures--;
		return;
	}
	if (only_one || error->sqlerrcode == ERRCODE_QUERY_CANCELED)
	{
		/* policy.c will not let it take that long again */
		decide_report_error(tg, error);
		return;
	}
	what.only_one = true;
	for (; what.change != NULL; what.change = what.change->next)
	{
		error = attempt_matches(route, attempt_group, &what);
		if (error != NULL)
			decide_report_error(tg, error);
	}
}

/*
 * Like decide_part, but an error costs only whom it concerns: they are looked
 * for by halves.  What the set's error says must not be told to anybody.
 */
static void
decide_part_carefully(SetTurn *set)
{
	TableRoute *route = set->turn->role->route;
	SetTurn		half = *set;

	if (set->n > 1 && set->failures < MAX_SET_FAILURES &&
		!policy_set_suspended(set->turn->access))
	{
		if (attempt_matches(route, decide_part, set) == NULL)
			return;
		half.failures++;
		half.n = set->n / 2;
		decide_part_carefully(&half);
		half.first += half.n;
		half.n = set->n - half.n;
		decide_part_carefully(&half);
		set->failures = half.failures;
		return;
	}
	for (int i = 0; i < set->n; i++)
		decide_group_carefully(set->groups[set->first + i], route->first,
							   false);
}

/* All groups of the role, or only those that are pure or indexed */
static void
decide_each_carefully(TableRole *role, bool all)
{
	dlist_iter	iter;

	dlist_foreach(iter, &role->groups)
	{
		TableGroup *tg = dlist_container(TableGroup, in_role, iter.cur);

		CHECK_FOR_INTERRUPTS();
		if (!tg->group->late && (all || tg->pure || tg->item.indexed))
			decide_group_carefully(tg, role->route->first, false);
	}
}

static void
attempt_prepare_role(void *arg)
{
	if (!prepare_role(arg, true))
		((RoleTurn *) arg)->access = NULL;
}

static void
decide_role_carefully(TableRole *role)
{
	RoleTurn	turn = {.role = role};

	if (!tables_lock(role))
		return;
	if (attempt(attempt_prepare_role, &turn) != NULL)
	{
		decide_each_carefully(role, true);
		return;
	}
	if (turn.access == NULL)
		return;
	if (attempt(seek_groups, &turn) != NULL)
	{
		turn.ask_all = true;
		turn.finds.first = NULL;
	}
	if (attempt_matches(role->route, decide_pure, &turn) != NULL)
	{
		turn.deferred = NULL;
		turn.ask_all = false;
		decide_each_carefully(role, false);
	}
	decide_others(&turn, true);
}

/*
 * Decide the changes that hang on the routes, for all their groups that are
 * not late.  Allocates the matches in the current memory context.  Not carefully, any error in what
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

/* Compile a group that is late, and so in neither list nor index. */
static void
prepare_late(TableGroup *tg, TableAccess *access)
{
	FoldAttempt what = {.tg = tg,.access = access};
	PrincipalScope scope;
	List	   *filter_quals;

	principal_enter(tg->group->principal, &scope);
	table_group_compile(tg, access);
	fold_group(&what, &filter_quals);
	principal_leave(&scope);
}

/*
 * Decide the changes of a table for one group.  One that is late and pure costs
 * its parameters and no more.
 */
static void
decide_alone(TableGroup *tg)
{
	TableRole  *role = tg->role;
	RoutedChange *change = role->route->first;
	PrincipalScope scope;
	Question	question = {.tg = tg};

	if (!tg->group->late)
	{
		decide_group(tg, change, false);
		return;
	}
	if (is_withheld(tg))
		return;
	question.access = policy_table_access(role->route->relid, role->roleid);
	if (!question.access->readable)
		return;
	Assert(!tg->group->shared);
	if (!tg->valid || !tg->placed ||
		tg->access_basis != question.access->basis)
		prepare_late(tg, question.access);
	if (!tg->pure || tg->failures > 0 || !policy_has_folded(question.access))
	{
		decide_group(tg, change, false);
		return;
	}
	principal_enter_role(role->roleid, &scope);
	for (; change != NULL; change = change->next)
	{
		question.rows = &change->rows;
		decide(&question, change);
	}
	principal_leave(&scope);
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
		if (!tables_lock(tg->role))
			continue;
		if (carefully)
			decide_group_carefully(tg, tg->role->route->first, false);
		else
			decide_alone(tg);
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
	Question	question = {.tg = tg,.rows = rows};

	*old_verdict = *new_verdict = VERDICT_UNKNOWN;
	principal_enter(tg->group->principal, &scope);
	question.access = table_group_access(tg);
	if (question.access == NULL)
		*old_verdict = *new_verdict = VERDICT_NO;
	else
	{
		if (rows->kind != CHANGE_INSERT)
			*old_verdict = outcome_passes(&question, ROW_OLD);
		*new_verdict = outcome_passes(&question, ROW_NEW);
	}
	principal_leave(&scope);
}

/* The columns of the match's group that "old_record" has */
const Bitmapset *
decide_old_columns(const Match *match)
{
	const ColumnSets *sets = match->tg->sets;

	return match->old == OLD_KEY ? sets->key :
		match->old == OLD_IDENTITY ? sets->identity : NULL;
}

/* What of the change is to be shown */
void
decide_render_spec(const Match *match, RenderSpec *spec)
{
	spec->kind = match->outcome == OUTCOME_INSERT ? CHANGE_INSERT :
		match->outcome == OUTCOME_UPDATE ? CHANGE_UPDATE : CHANGE_DELETE;
	spec->columns = match->tg->sets->columns;
	spec->record = match->tg->sets->record;
	spec->old_record = decide_old_columns(match);
}

/* Changes withheld because of errors, since the start */
uint64
decide_errors(void)
{
	return errors;
}
