/*-------------------------------------------------------------------------
 *
 * route.c
 *	  Takes transactions from the history to the groups that may see them.
 *
 * The history is read in slices: as many changes as are visible to everybody
 * and fit the bounds below.  A slice is decided in one read-only transaction,
 * group by group, so that role and claims are set once per group, and then
 * sent change by change, in commit order.
 *
 * What users wrote (policies, filters, output functions) can fail.  A slice
 * is first tried without precautions; if anything in it raises an error, it
 * is done again with a subtransaction around each group, and around each
 * change of a group that fails, so that exactly the changes that cannot be
 * decided for a group are withheld from it, and its channels are told.
 *
 * The decision itself follows this table, where P is: the role may SELECT the
 * table, the row passes its policies, and it passes the filter.
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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "engine/catalogs.h"
#include "engine/filter.h"
#include "engine/history.h"
#include "engine/policy.h"
#include "engine/publication.h"
#include "engine/render.h"
#include "engine/route.h"
#include "engine/settings.h"
#include "engine/wal.h"

/* Bounds of a slice */
#define SLICE_CHANGES 512
#define SLICE_BYTES ((Size) 1024 * 1024)

/* Routing rests while the gateway has not taken this much. */
#define LINK_HIGH_WATER ((Size) 8 * 1024 * 1024)

/* A policy that ran into its time limit is not tried again for so long. */
#define SUSPEND_MS 60000

/* A published table with subscribers */
typedef struct TableRoute
{
	Oid			relid;			/* hash key */
	RelSchema  *schema;			/* of the last change seen; a reference */
	uint64		generation;		/* of the catalogs that the groups' compiled
								 * state was made from */
	dlist_head	groups;			/* TableGroup.in_route */
	List	   *suspended;		/* of SuspendedRole */

	/* of the slice in the making */
	struct SliceChange *first;
	struct SliceChange *last;
} TableRoute;

/* A role whose policy on the table took too long */
typedef struct SuspendedRole
{
	Oid			roleid;
	TimestampTz until;
} SuspendedRole;

/* A group's view of one table */
typedef struct TableGroup
{
	dlist_node	in_route;
	dlist_node	in_group;
	SubscriptionGroup	   *group;
	TableRoute *route;

	/* compiled from the catalogs and the route's schema */
	MemoryContext context;
	bool		valid;
	Filter	   *filter;			/* NULL: none */
	Bitmapset  *columns;		/* attnums described in "columns" */
	Bitmapset  *record;			/* attnums in "record" */
	Bitmapset  *identity;		/* identity that may be shown */
	Bitmapset  *key;			/* the part of it that identifies the row */
} TableGroup;

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

/* A group that gets a change */
typedef struct Match
{
	struct Match *next;
	struct SliceChange *to;
	TableGroup *tg;
	Outcome		outcome;
	OldPart		old;
	bool		sent;
} Match;

typedef struct SliceChange
{
	struct SliceChange *next;	/* of the same table */
	HistoryChange *change;
	XLogRecPtr	commit_lsn;
	TimestampTz commit_time;
	Match	   *matches;
	Match	   *last_match;
} SliceChange;

typedef struct Slice
{
	int			count;
	SliceChange changes[SLICE_CHANGES];
	List	   *routes;			/* of TableRoute with changes in it */
} Slice;

static MemoryContext RouteContext = NULL;
static MemoryContext SliceContext = NULL;
static HTAB *routes = NULL;
static HistoryCursor cursor;
static HistoryTxn current;		/* the transaction at the cursor */
static bool current_visible;
static XLogRecPtr done_lsn;
static TransactionId visible_before = InvalidTransactionId;
static uint64 generation = 1;
static uint64 events;
static uint64 errors;

static void
syscache_cb(Datum arg, int cacheid, uint32 hashvalue)
{
	generation++;
}

static void
relcache_cb(Datum arg, Oid relid)
{
	if (routes == NULL)
		return;
	if (!OidIsValid(relid))
		generation++;
	else
	{
		TableRoute *route = hash_search(routes, &relid, HASH_FIND, NULL);

		if (route != NULL)
			route->generation = 0;
	}
}

/* Prepare; once in the life of the engine. */
void
route_init(void)
{
	HASHCTL		ctl = {
		.keysize = sizeof(Oid),
		.entrysize = sizeof(TableRoute),
	};

	RouteContext = AllocSetContextCreate(TopMemoryContext, "rtsync routes",
										 ALLOCSET_DEFAULT_SIZES);
	SliceContext = AllocSetContextCreate(TopMemoryContext, "rtsync slice",
										 ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = RouteContext;
	routes = hash_create("rtsync routes", 64, &ctl,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(relcache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, syscache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMMEMROLE, syscache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, syscache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, syscache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, syscache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, syscache_cb, (Datum) 0);
}

/*--------------------------------------------------------------------------
 * Tables and the groups that listen to them
 *--------------------------------------------------------------------------
 */

static void
table_group_create(TableRoute *route, SubscriptionGroup *group)
{
	TableGroup *tg = MemoryContextAllocZero(group->context, sizeof(TableGroup));

	tg->group = group;
	tg->route = route;
	dlist_push_tail(&route->groups, &tg->in_route);
	dlist_push_tail(&group->tables, &tg->in_group);
}

static void
table_group_free(TableGroup *tg)
{
	dlist_delete(&tg->in_route);
	dlist_delete(&tg->in_group);
	if (tg->context != NULL)
		MemoryContextDelete(tg->context);
	pfree(tg);
}

static void
route_forget_groups(TableRoute *route)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &route->groups)
		table_group_free(dlist_container(TableGroup, in_route, iter.cur));
}

static void
route_find_groups(TableRoute *route)
{
	dlist_iter	iter;

	dlist_foreach(iter, subscription_groups())
	{
		SubscriptionGroup	   *group = dlist_container(SubscriptionGroup, node, iter.cur);

		if (subscription_matches(&group->spec, route->schema->nspname,
								 route->schema->relname))
			table_group_create(route, group);
	}
}

/* The route of a change's table, made when first seen */
static TableRoute *
route_of(RelSchema *schema)
{
	TableRoute *route;
	bool		found;
	bool		renamed;

	route = hash_search(routes, &schema->relid, HASH_ENTER, &found);
	if (!found)
	{
		route->schema = NULL;
		route->generation = 0;
		dlist_init(&route->groups);
		route->suspended = NIL;
		route->first = route->last = NULL;
	}
	if (route->schema == schema)
		return route;

	renamed = route->schema == NULL ||
		strcmp(route->schema->nspname, schema->nspname) != 0 ||
		strcmp(route->schema->relname, schema->relname) != 0;
	if (route->schema != NULL)
		schema_unref(route->schema);
	route->schema = schema_ref(schema);
	route->generation = 0;
	if (renamed)
	{
		route_forget_groups(route);
		route_find_groups(route);
	}
	return route;
}

/* A new group: from now on it gets what is routed. */
void
route_add_group(SubscriptionGroup *group)
{
	HASH_SEQ_STATUS scan;
	TableRoute *route;

	hash_seq_init(&scan, routes);
	while ((route = hash_seq_search(&scan)) != NULL)
	{
		if (route->schema != NULL &&
			subscription_matches(&group->spec, route->schema->nspname,
								 route->schema->relname))
			table_group_create(route, group);
	}
}

/* The group is about to be freed. */
void
route_remove_group(SubscriptionGroup *group)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &group->tables)
		table_group_free(dlist_container(TableGroup, in_group, iter.cur));
}

/*--------------------------------------------------------------------------
 * Compiling a group's view of a table
 *--------------------------------------------------------------------------
 */

/* The attnums of the selected columns; an unknown name is an error. */
static Bitmapset *
selected_columns(const BindingSpec *spec, TupleDesc desc,
				 const Bitmapset *allowed)
{
	Bitmapset  *result = NULL;

	for (int i = 0; i < spec->nselect; i++)
	{
		int			attnum = 0;

		for (int j = 0; j < desc->natts; j++)
			if (!TupleDescAttr(desc, j)->attisdropped &&
				strcmp(NameStr(TupleDescAttr(desc, j)->attname),
					   spec->select[i]) == 0)
				attnum = j + 1;
		if (attnum == 0 || !bms_is_member(attnum, allowed))
			ereport(ERROR,
					(errcode(ERRCODE_RAISE_EXCEPTION),
					 errmsg("invalid column for select %s", spec->select[i])));
		result = bms_add_member(result, attnum);
	}
	return result;
}

/*
 * Make the compiled part of a table group, under its principal.  An error
 * leaves it invalid: it is raised again for the next change.
 */
static void
table_group_compile(TableGroup *tg, TableAccess *access)
{
	RelSchema  *schema = tg->route->schema;
	const BindingSpec *spec = &tg->group->spec;
	Bitmapset  *shown;
	MemoryContext old;

	if (tg->context == NULL)
		tg->context = AllocSetContextCreate(tg->group->context,
											"rtsync table group",
											ALLOCSET_SMALL_SIZES);
	else
		MemoryContextReset(tg->context);
	tg->filter = NULL;
	tg->columns = tg->record = tg->identity = tg->key = NULL;

	old = MemoryContextSwitchTo(tg->context);
	shown = bms_intersect(access->columns, schema->published);
	tg->identity = bms_intersect(schema->identity, shown);
	tg->key = bms_intersect(bms_is_empty(schema->pkey) ?
							schema->identity : schema->pkey, shown);
	if (spec->nselect >= 0)
	{
		tg->record = selected_columns(spec, schema->desc, shown);
		tg->columns = bms_union(tg->record, tg->key);
	}
	else
		tg->record = tg->columns = shown;
	if (spec->filter != NULL)
		tg->filter = filter_compile(spec->filter, schema->relid,
									access->columns, tg->context);
	MemoryContextSwitchTo(old);
	tg->valid = true;
}

/*--------------------------------------------------------------------------
 * Deciding
 *--------------------------------------------------------------------------
 */

static Verdict
verdict_and(Verdict a, Verdict b)
{
	if (a == VERDICT_NO || b == VERDICT_NO)
		return VERDICT_NO;
	return a == VERDICT_YES ? b : a;
}

/* P of one row; the filter sees only rows that the policies let through. */
static Verdict
check_row(TableGroup *tg, TableAccess *access, const PolicyRow *row)
{
	Verdict		verdict = policy_check(access, row);

	if (verdict == VERDICT_NO || tg->filter == NULL)
		return verdict;
	return verdict_and(verdict, filter_check(tg->filter, row));
}

static Bitmapset *
all_but_missing(const HistoryChange *change)
{
	Bitmapset  *known = bms_copy(change->schema->published);

	for (int i = 0; i < change->schema->desc->natts; i++)
		known = bms_add_member(known, i + 1);
	for (int i = 0; i < change->nmissing; i++)
		known = bms_del_member(known, change->missing[i]);
	return known;
}

/* The new row; false if there is none. */
static bool
new_row(HistoryChange *change, HeapTuple tuple, PolicyRow *row)
{
	if (!history_newtuple(change, tuple))
		return false;
	row->schema = change->schema;
	row->tuple = tuple;
	row->known = change->nmissing == 0 ? NULL : all_but_missing(change);
	return true;
}

/*
 * The old row as far as it is known; false if nothing is.  An UPDATE that
 * left the identity as it was has it in the new row.
 */
static bool
old_row(HistoryChange *change, HeapTuple tuple, PolicyRow *row)
{
	RelSchema  *schema = change->schema;

	row->schema = schema;
	row->tuple = tuple;
	if (history_oldtuple(change, tuple))
	{
		row->known = SCHEMA_OLD_FULL(schema) ? NULL : schema->identity;
		return true;
	}
	if (SCHEMA_OLD_FULL(schema) || bms_is_empty(schema->identity) ||
		!history_newtuple(change, tuple))
		return false;
	row->known = change->nmissing == 0 ? schema->identity :
		bms_intersect(schema->identity, all_but_missing(change));
	return true;
}

/* What of the old row an UPDATE may show, its new row being visible */
static OldPart
updated_old_part(TableAccess *access, HistoryChange *change)
{
	HeapTupleData tuple;
	PolicyRow	row;
	Verdict		verdict;

	if (!history_oldtuple(change, &tuple))
		return OLD_IDENTITY;	/* the new row's own */
	if (!old_row(change, &tuple, &row))
		return OLD_EMPTY;
	verdict = policy_check(access, &row);
	if (SCHEMA_OLD_FULL(change->schema))
		return verdict == VERDICT_YES ? OLD_IDENTITY : OLD_EMPTY;

	/*
	 * The key changed.  Whoever holds the row under its old key must hear of
	 * it; only who certainly could not see the old row does not.
	 */
	return verdict == VERDICT_NO ? OLD_EMPTY : OLD_IDENTITY;
}

/* Apply the decision table to one change. */
static Outcome
decide(TableGroup *tg, TableAccess *access, HistoryChange *change,
	   OldPart *old)
{
	int			wanted = tg->group->spec.events;
	HeapTupleData tuple;
	PolicyRow	row;
	Verdict		verdict;

	*old = OLD_EMPTY;
	if (change->kind == CHANGE_TRUNCATE)
		return (wanted & EVENT_DELETE) ? OUTCOME_REFETCH : OUTCOME_NOTHING;
	if (change->kind == CHANGE_INSERT && !(wanted & EVENT_INSERT))
		return OUTCOME_NOTHING;
	if (change->kind == CHANGE_DELETE && !(wanted & EVENT_DELETE))
		return OUTCOME_NOTHING;

	if (change->kind != CHANGE_DELETE)
	{
		if (!new_row(change, &tuple, &row))
			return OUTCOME_NOTHING;
		verdict = check_row(tg, access, &row);
		if (verdict == VERDICT_YES && change->kind == CHANGE_INSERT)
			return OUTCOME_INSERT;
		if (verdict == VERDICT_YES)
		{
			if (!(wanted & EVENT_UPDATE))
				return OUTCOME_NOTHING;
			*old = updated_old_part(access, change);
			return OUTCOME_UPDATE;
		}
		if (verdict == VERDICT_UNKNOWN || change->kind == CHANGE_INSERT ||
			!(wanted & EVENT_DELETE))
			return OUTCOME_NOTHING;
	}

	/* a DELETE, or an UPDATE whose new row is not visible */
	if (!old_row(change, &tuple, &row))
		return OUTCOME_NOTHING;
	verdict = check_row(tg, access, &row);
	*old = change->kind == CHANGE_DELETE && !access->row_security ?
		OLD_IDENTITY : OLD_KEY;
	if (verdict == VERDICT_YES ||
		(verdict == VERDICT_UNKNOWN && change->kind == CHANGE_DELETE &&
		 rtsync_delete_visibility == DELETE_VISIBILITY_KEY))
		return OUTCOME_DELETE;
	return OUTCOME_NOTHING;
}

/* Bring the group's compiled state up to date and return what its role may
 * see; NULL if that is nothing. */
static TableAccess *
table_group_access(TableGroup *tg)
{
	TableRoute *route = tg->route;
	TableAccess *access;

	access = policy_table_access(route->relid, tg->group->principal->roleid);
	if (!access->readable)
		return NULL;
	if (!tg->valid)
		table_group_compile(tg, access);
	return access;
}

/* Put each match of a list into the list of the change that it is for. */
static void
append_matches(Match *match)
{
	while (match != NULL)
	{
		Match	   *next = match->next;
		SliceChange *to = match->to;

		match->next = NULL;
		if (to->last_match != NULL)
			to->last_match->next = match;
		else
			to->matches = match;
		to->last_match = match;
		match = next;
	}
}

/*
 * Decide the changes of one table for one group, from "change" on, or just
 * that one; append the matches only when all went well.
 */
static void
decide_group(TableGroup *tg, SliceChange *change, bool only_one)
{
	MemoryContext old = MemoryContextSwitchTo(SliceContext);
	PrincipalScope scope;
	TableAccess *access;
	Match	   *found = NULL;
	Match	  **tail = &found;

	principal_enter(tg->group->principal, &scope);
	access = table_group_access(tg);
	for (; access != NULL && change != NULL;
		 change = only_one ? NULL : change->next)
	{
		OldPart		part;
		Outcome		outcome = decide(tg, access, change->change, &part);
		Match	   *match;

		MemoryContextSwitchTo(SliceContext);
		if (outcome == OUTCOME_NOTHING)
			continue;
		match = palloc0(sizeof(Match));
		match->to = change;
		match->tg = tg;
		match->outcome = outcome;
		match->old = part;
		*tail = match;
		tail = &match->next;
	}
	principal_leave(&scope);
	append_matches(found);
	MemoryContextSwitchTo(old);
}

/*--------------------------------------------------------------------------
 * Precautions against errors
 *--------------------------------------------------------------------------
 */

/*
 * Run a function in a subtransaction; on error return a copy of it, in
 * SliceContext, else NULL.
 */
static ErrorData *
attempt(void (*function) (void *arg), void *arg)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext old = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(SliceContext);
	PG_TRY();
	{
		function(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(SliceContext);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;
	return error;
}

/* A change could not be decided or rendered for a group: say so. */
static void
report_error(TableGroup *tg, const ErrorData *error)
{
	SubscriptionGroup	   *group = tg->group;
	RelSchema  *schema = tg->route->schema;
	bool		told = group->told_at != 0;

	errors++;
	if (!told)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("rtsync withheld a change of table \"%s.%s\" from role \"%s\": %s",
						schema->nspname, schema->relname,
						group->principal->rolename, error->message)));
	subscription_tell_group(group, "postgres_changes", "error",
							psprintf("A change of table %s.%s was withheld because its row security could not be evaluated: %s",
									 schema->nspname, schema->relname,
									 error->message));
}

typedef struct GroupAttempt
{
	TableGroup *tg;
	SliceChange *change;
	bool		only_one;
} GroupAttempt;

static void
attempt_group(void *arg)
{
	GroupAttempt *what = arg;

	decide_group(what->tg, what->change, what->only_one);
}

static bool
is_suspended(TableGroup *tg)
{
	ListCell   *lc;

	foreach(lc, tg->route->suspended)
	{
		SuspendedRole *role = lfirst(lc);

		if (role->roleid == tg->group->principal->roleid &&
			role->until > GetCurrentTimestamp())
			return true;
	}
	return false;
}

/* The role's policy took too long: leave it alone for a while. */
static void
suspend(TableGroup *tg)
{
	MemoryContext old = MemoryContextSwitchTo(RouteContext);
	SuspendedRole *role = NULL;
	ListCell   *lc;

	foreach(lc, tg->route->suspended)
	{
		if (((SuspendedRole *) lfirst(lc))->roleid == tg->group->principal->roleid)
			role = lfirst(lc);
	}
	if (role == NULL)
	{
		role = palloc(sizeof(SuspendedRole));
		role->roleid = tg->group->principal->roleid;
		tg->route->suspended = lappend(tg->route->suspended, role);
	}
	role->until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											  SUSPEND_MS);
	MemoryContextSwitchTo(old);
}

/* Like decide_group for all changes, but errors cost only what they concern. */
static void
decide_group_carefully(TableGroup *tg)
{
	GroupAttempt what = {tg, tg->route->first, false};
	ErrorData  *error = attempt(attempt_group, &what);

	if (error == NULL)
		return;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
	{
		suspend(tg);
		report_error(tg, error);
		return;
	}
	what.only_one = true;
	for (; what.change != NULL; what.change = what.change->next)
	{
		error = attempt(attempt_group, &what);
		if (error != NULL)
			report_error(tg, error);
	}
}

/* Decide the whole slice. */
static void
decide_slice(Slice *slice, bool carefully)
{
	ListCell   *lc;

	foreach(lc, slice->routes)
	{
		TableRoute *route = lfirst(lc);
		dlist_iter	iter;

		if (route->generation != generation)
		{
			route->generation = generation;
			list_free_deep(route->suspended);
			route->suspended = NIL;

			dlist_foreach(iter, &route->groups)
				dlist_container(TableGroup, in_route, iter.cur)->valid = false;
		}
		dlist_foreach(iter, &route->groups)
		{
			TableGroup *tg = dlist_container(TableGroup, in_route, iter.cur);

			CHECK_FOR_INTERRUPTS();
			if (route->suspended != NIL && is_suspended(tg))
				errors++;
			else if (carefully)
				decide_group_carefully(tg);
			else
				decide_group(tg, route->first, false);
		}
	}
}

/*--------------------------------------------------------------------------
 * Sending
 *--------------------------------------------------------------------------
 */

static const Bitmapset *
old_columns(const Match *match)
{
	return match->old == OLD_KEY ? match->tg->key :
		match->old == OLD_IDENTITY ? match->tg->identity : NULL;
}

/* May two groups be sent the same bytes? */
static bool
same_rendering(const Match *a, const Match *b)
{
	return a->outcome == b->outcome && a->old == b->old &&
		a->tg->group->principal->roleid == b->tg->group->principal->roleid &&
		bms_equal(a->tg->columns, b->tg->columns) &&
		bms_equal(a->tg->record, b->tg->record) &&
		bms_equal(old_columns(a), old_columns(b));
}

typedef struct RenderAttempt
{
	SliceChange *change;
	Match	   *match;
	StringInfoData buf;
} RenderAttempt;

static void
attempt_render(void *arg)
{
	RenderAttempt *what = arg;
	Match	   *match = what->match;
	PrincipalScope scope;
	RenderSpec	spec;

	spec.kind = match->outcome == OUTCOME_INSERT ? CHANGE_INSERT :
		match->outcome == OUTCOME_UPDATE ? CHANGE_UPDATE : CHANGE_DELETE;
	spec.columns = match->tg->columns;
	spec.record = match->tg->record;
	spec.old_record = old_columns(match);
	initStringInfo(&what->buf);
	principal_enter_role(match->tg->group->principal->roleid, &scope);
	render_event(&what->buf, what->change->commit_time, what->change->change,
				 &spec);
	principal_leave(&scope);
}

/* Send one rendering to the groups that share it, and mark them sent. */
static void
send_event(Link *link, SliceChange *change, Match *first, StringInfo data)
{
	uint32		ngroups = 0;
	Match	   *match;

	for (match = first; match != NULL; match = match->next)
		if (!match->sent && same_rendering(first, match))
			ngroups++;

	link_begin(&link->out, LINK_EVENT);
	link_put_u64(&link->out, wal_epoch());
	link_put_u64(&link->out, change->commit_lsn);
	link_put_u32(&link->out, change->change->seq);
	link_put_u32(&link->out, ngroups);
	for (match = first; match != NULL; match = match->next)
	{
		if (match->sent || !same_rendering(first, match))
			continue;
		link_put_u32(&link->out, match->tg->group->id);
		if (match != first)
			match->sent = true;
	}
	first->sent = true;
	link_put_bytes(&link->out, data->data, data->len);
	linkio_end(link);
	events += ngroups;
}

/* The rendering failed: nobody who shares it gets the change. */
static void
withhold_event(Match *first, const ErrorData *error)
{
	for (Match *match = first->next; match != NULL; match = match->next)
	{
		if (!match->sent && same_rendering(first, match))
		{
			match->sent = true;
			report_error(match->tg, error);
		}
	}
	first->sent = true;
	report_error(first->tg, error);
}

static void
tell_refetch(SliceChange *change, Match *match)
{
	RelSchema  *schema = change->change->schema;

	match->sent = true;
	match->tg->group->told_at = 0;
	subscription_tell_group(match->tg->group, "rtsync", "refetch",
							psprintf("table %s.%s was truncated",
									 schema->nspname, schema->relname));
}

static void
send_slice(Link *link, Slice *slice, bool carefully)
{
	for (int i = 0; i < slice->count; i++)
	{
		SliceChange *change = &slice->changes[i];

		for (Match *match = change->matches; match != NULL; match = match->next)
		{
			RenderAttempt what = {change, match};
			ErrorData  *error = NULL;

			if (match->sent)
				continue;
			if (match->outcome == OUTCOME_REFETCH)
			{
				tell_refetch(change, match);
				continue;
			}
			if (carefully)
				error = attempt(attempt_render, &what);
			else
				attempt_render(&what);
			if (error != NULL)
				withhold_event(match, error);
			else
			{
				send_event(link, change, match, &what.buf);
				pfree(what.buf.data);
			}
		}
	}
}

static void
forget_matches(Slice *slice)
{
	for (int i = 0; i < slice->count; i++)
		slice->changes[i].matches = slice->changes[i].last_match = NULL;
}

/*
 * Decide and send a slice; returns false, with nothing sent, if an error
 * prevented it.
 */
static bool
try_slice(Link *link, Slice *slice, bool carefully)
{
	Size		out_length = link->out.length;
	uint64		events_before = events;
	volatile bool done = false;

	forget_matches(slice);
	PG_TRY();
	{
		catalogs_begin(wal_decoded_lsn());
		MemoryContextSwitchTo(SliceContext);
		decide_slice(slice, carefully);
		send_slice(link, slice, carefully);
		catalogs_commit();
		done = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(SliceContext);
		if (carefully)
			PG_RE_THROW();
		FlushErrorState();
		catalogs_abort();
		link->out.length = out_length;
		events = events_before;
	}
	PG_END_TRY();
	return done;
}

/*--------------------------------------------------------------------------
 * Reading the history
 *--------------------------------------------------------------------------
 */

/*
 * Does everybody see this transaction?  A transaction is in the WAL before
 * it is visible; a client that hears of it must find its rows.
 */
static bool
is_visible(TransactionId xid)
{
	if (TransactionIdIsValid(visible_before) &&
		TransactionIdPrecedes(xid, visible_before))
		return true;
	visible_before = GetOldestActiveTransactionId();
	return TransactionIdPrecedes(xid, visible_before) ||
		!TransactionIdIsInProgress(xid);
}

static void
slice_add(Slice *slice, HistoryChange *change)
{
	TableRoute *route = route_of(change->schema);
	SliceChange *added;

	if (dlist_is_empty(&route->groups))
		return;
	added = &slice->changes[slice->count++];
	memset(added, 0, sizeof(*added));
	added->change = change;
	added->commit_lsn = current.commit_lsn;
	added->commit_time = current.commit_time;
	if (route->first == NULL)
	{
		route->first = added;
		slice->routes = lappend(slice->routes, route);
	}
	else
		route->last->next = added;
	route->last = added;
}

/*
 * A slice holds changes of one table in one schema only, else it is ended
 * before the change: what is compiled is compiled for one.
 */
static bool
schema_changes(Slice *slice, HistoryChange *change)
{
	TableRoute *route = hash_search(routes, &change->schema->relid, HASH_FIND,
									NULL);

	return route != NULL && route->first != NULL &&
		route->schema != change->schema;
}

/* Collect the next slice. */
static RouteState
slice_collect(Slice *slice)
{
	Size		bytes = 0;
	HistoryRecord *record;

	while ((record = history_peek(&cursor)) != NULL)
	{
		if (record->type == HISTORY_BEGIN)
		{
			current = *(HistoryTxn *) record;
			current_visible = is_visible(current.xid);
			if (!current_visible)
				return ROUTE_BLOCKED;
		}
		else if (record->type == HISTORY_COMMIT)
			done_lsn = current.end_lsn;
		else if (subscription_group_count() > 0)
		{
			if (slice->count == SLICE_CHANGES || bytes > SLICE_BYTES ||
				schema_changes(slice, (HistoryChange *) record))
				return ROUTE_MORE;
			slice_add(slice, (HistoryChange *) record);
			bytes += record->size;
		}
		history_next(&cursor);
	}
	return ROUTE_IDLE;
}

static void
slice_forget(Slice *slice)
{
	ListCell   *lc;

	foreach(lc, slice->routes)
	{
		TableRoute *route = lfirst(lc);

		route->first = route->last = NULL;
	}
}

/*
 * Route a slice of what the history holds behind the last one.  Without a
 * link there are no groups, and the history is just passed.  Called outside
 * of any transaction.
 */
RouteState
route_run(Link *link)
{
	RouteState	state;
	Slice	   *slice;
	MemoryContext old;

	if (link != NULL && linkio_pending(link) > LINK_HIGH_WATER)
		return ROUTE_CONGESTED;

	old = MemoryContextSwitchTo(SliceContext);
	slice = palloc(sizeof(Slice));
	slice->count = 0;
	slice->routes = NIL;
	state = slice_collect(slice);
	if (slice->count > 0 && !try_slice(link, slice, false))
		try_slice(link, slice, true);
	slice_forget(slice);
	MemoryContextSwitchTo(old);
	MemoryContextReset(SliceContext);
	return state;
}

/* Bytes of history not yet routed */
Size
route_unread(void)
{
	return history_unread(&cursor);
}

/* Let the history forget what is routed and too much or too old. */
void
route_forget_history(XLogRecPtr older_than)
{
	history_forget(&cursor, older_than);
}

/* The end of the last transaction that was routed as a whole */
XLogRecPtr
route_done_lsn(void)
{
	return done_lsn;
}

/* Events sent, and changes withheld because of errors, since the start */
uint64
route_events(void)
{
	return events;
}

uint64
route_errors(void)
{
	return errors;
}

/*--------------------------------------------------------------------------
 * Checking a binding when it is made
 *--------------------------------------------------------------------------
 */

static void
check_table_binding(const Principal *principal, const BindingSpec *spec)
{
	Oid			nspid = LookupExplicitNamespace(spec->schema, true);
	Oid			relid = OidIsValid(nspid) ?
		get_relname_relid(spec->table, nspid) : InvalidOid;
	TableAccess *access;

	if (!OidIsValid(relid) || !publication_publishes(rtsync_publication, relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"%s.%s\" is not published",
						spec->schema, spec->table)));
	access = policy_table_access(relid, principal->roleid);
	if (!access->readable)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table %s", spec->table)));
	if (spec->nselect >= 0)
	{
		Relation	rel = table_open(relid, AccessShareLock);

		selected_columns(spec, RelationGetDescr(rel), access->columns);
		table_close(rel, AccessShareLock);
	}
	if (spec->filter != NULL)
		filter_compile(spec->filter, relid, access->columns,
					   CurrentMemoryContext);
}

static void
check_wildcard_binding(const BindingSpec *spec)
{
	List	   *tables = publication_tables(rtsync_publication);
	ListCell   *lc;

	foreach(lc, tables)
	{
		char	   *table = get_rel_name(lfirst_oid(lc));
		char	   *schema = get_namespace_name(get_rel_namespace(lfirst_oid(lc)));

		if (table != NULL && schema != NULL &&
			subscription_matches(spec, schema, table))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("no published table matches")));
}

/*
 * Can this binding be served to this principal?  Raises an error that says
 * why not: ERRCODE_UNDEFINED_TABLE if nothing of the kind is published, else
 * with a message for the client.  Called inside a transaction on the present.
 */
void
route_check_binding(const Principal *principal, const BindingSpec *spec)
{
	PrincipalScope scope;

	if (spec->schema == NULL || spec->table == NULL)
		check_wildcard_binding(spec);
	else
	{
		principal_enter(principal, &scope);
		check_table_binding(principal, spec);
		principal_leave(&scope);
	}
}
