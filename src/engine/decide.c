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
 * Changes are decided group by group, so that role and claims are set once per
 * group.  What users wrote (policies, filters) can fail; decide_changes says
 * what that costs.
 *
 * Each table that somebody listens to, or that changed, has a TableRoute; on
 * it hang the roles that listen, as TableRoles, and on these their groups, as
 * TableGroups, with what was compiled for that group and table.  Table groups
 * live in their group's context, the rest in DecideContext.
 *
 * Called by route.c inside a transaction on the present; by subscription.c
 * when groups come and go.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "engine/attempt.h"
#include "engine/catalogs.h"
#include "engine/decide.h"
#include "engine/policy.h"
#include "engine/publication.h"
#include "engine/settings.h"
#include "engine/wal.h"

/* Instead of the signature of a table's access, which is odd */
#define NOT_PUBLISHED 2

/* A policy that ran into its time limit is not tried again for so long. */
#define SUSPEND_MS 60000

/* Groups are told of changed dependencies at most so often. */
#define TELL_INTERVAL_MS 1000

/* A table that policies read */
typedef struct Watched
{
	Oid			relid;			/* hash key */
	int			count;			/* of table roles that depend on it */
} Watched;

static MemoryContext DecideContext = NULL;
static HTAB *routes = NULL;
static HTAB *watched = NULL;
static uint64 generation = 1;
static bool recheck_all;		/* the access to all tables may have changed */
static bool recheck_some;		/* some route has "recheck" set */
static uint64 errors;

static void recheck_routes(void);

static void
syscache_cb(Datum arg, int cacheid, uint32 hashvalue)
{
	generation++;
	recheck_all = true;
}

static void
relcache_cb(Datum arg, Oid relid)
{
	if (routes == NULL)
		return;
	if (!OidIsValid(relid))
		syscache_cb(arg, 0, 0);
	else
	{
		TableRoute *route = hash_search(routes, &relid, HASH_FIND, NULL);

		if (route != NULL)
		{
			route->generation = 0;
			route->recheck = recheck_some = true;
		}
	}
}

/* Prepare; once in the life of the engine. */
void
decide_init(void)
{
	HASHCTL		ctl = {
		.keysize = sizeof(Oid),
		.entrysize = sizeof(TableRoute),
	};

	DecideContext = AllocSetContextCreate(TopMemoryContext, "rtsync routes",
										  ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = DecideContext;
	routes = hash_create("rtsync routes", 64, &ctl,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(Watched);
	watched = hash_create("rtsync watched tables", 64, &ctl,
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

/* Depend on other tables than before. */
static void
table_role_watch(TableRole *role, List *dependencies)
{
	MemoryContext old;
	ListCell   *lc;

	foreach(lc, dependencies)
	{
		Oid			relid = lfirst_oid(lc);
		bool		found;
		Watched    *entry = hash_search(watched, &relid, HASH_ENTER, &found);

		entry->count = found ? entry->count + 1 : 1;
	}
	foreach(lc, role->dependencies)
	{
		Oid			relid = lfirst_oid(lc);
		Watched    *entry = hash_search(watched, &relid, HASH_FIND, NULL);

		if (--entry->count == 0)
			hash_search(watched, &relid, HASH_REMOVE, NULL);
	}
	list_free(role->dependencies);
	old = MemoryContextSwitchTo(DecideContext);
	role->dependencies = list_copy(dependencies);
	MemoryContextSwitchTo(old);
}

static TableRole *
table_role_find(TableRoute *route, Oid roleid)
{
	TableRole  *role;
	dlist_iter	iter;

	dlist_foreach(iter, &route->roles)
	{
		role = dlist_container(TableRole, in_route, iter.cur);
		if (role->roleid == roleid)
			return role;
	}
	role = MemoryContextAllocZero(DecideContext, sizeof(TableRole));
	role->route = route;
	role->roleid = roleid;
	dlist_init(&role->groups);
	dlist_push_tail(&route->roles, &role->in_route);

	/* its signature and dependencies are found out by the next recheck */
	route->recheck = recheck_some = true;
	return role;
}

static TableGroup *
table_group_create(TableRoute *route, SubscriptionGroup *group)
{
	TableGroup *tg = MemoryContextAllocZero(group->context, sizeof(TableGroup));

	tg->group = group;
	tg->role = table_role_find(route, group->principal->roleid);
	dlist_push_tail(&tg->role->groups, &tg->in_role);
	dlist_push_tail(&group->tables, &tg->in_group);
	return tg;
}

static void
table_group_free(TableGroup *tg)
{
	TableRole  *role = tg->role;

	dlist_delete(&tg->in_role);
	dlist_delete(&tg->in_group);
	if (tg->context != NULL)
		MemoryContextDelete(tg->context);
	pfree(tg);
	if (dlist_is_empty(&role->groups))
	{
		table_role_watch(role, NIL);
		dlist_delete(&role->in_route);
		pfree(role);
	}
}

static TableGroup *
table_group_find(TableRoute *route, SubscriptionGroup *group)
{
	dlist_iter	iter;

	dlist_foreach(iter, &group->tables)
	{
		TableGroup *tg = dlist_container(TableGroup, in_group, iter.cur);

		if (tg->role->route == route)
			return tg;
	}
	return NULL;
}

/* The route of a table, made where there is none */
static TableRoute *
route_find(Oid relid)
{
	bool		found;
	TableRoute *route = hash_search(routes, &relid, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) route + sizeof(Oid), 0,
			   sizeof(TableRoute) - sizeof(Oid));
		dlist_init(&route->roles);
	}
	return route;
}

/* The table has another name than before: other groups listen to it. */
static void
route_rename(TableRoute *route, const char *nspname, const char *relname)
{
	dlist_iter	iter;

	if (route->nspname != NULL)
	{
		pfree(route->nspname);
		pfree(route->relname);
	}
	route->nspname = MemoryContextStrdup(DecideContext, nspname);
	route->relname = MemoryContextStrdup(DecideContext, relname);

	dlist_foreach(iter, subscription_groups())
	{
		SubscriptionGroup *group = dlist_container(SubscriptionGroup, node,
												   iter.cur);
		TableGroup *tg = table_group_find(route, group);
		bool		matches = binding_matches(&group->spec, nspname, relname);

		if (matches && tg == NULL)
			table_group_create(route, group);
		else if (!matches && tg != NULL)
			table_group_free(tg);
	}
}

static bool
route_has_name(const TableRoute *route, const char *nspname,
			   const char *relname)
{
	return route->nspname != NULL && strcmp(route->nspname, nspname) == 0 &&
		strcmp(route->relname, relname) == 0;
}

/* The route of a change's table */
TableRoute *
decide_route(RelSchema *schema)
{
	TableRoute *route = route_find(schema->relid);

	if (route->schema == schema)
		return route;
	if (route->schema != NULL)
		schema_unref(route->schema);
	route->schema = schema_ref(schema);
	route->generation = 0;
	if (!route_has_name(route, schema->nspname, schema->relname))
		route_rename(route, schema->nspname, schema->relname);
	return route;
}

/* A new group listens to this table, which it names. */
static void
listen_to_table(SubscriptionGroup *group, Oid relid)
{
	TableRoute *route = route_find(relid);
	char	   *relname = get_rel_name(relid);
	char	   *nspname = get_namespace_name(get_rel_namespace(relid));

	if (relname == NULL || nspname == NULL)
		return;
	if (route->nspname == NULL)
		route_rename(route, nspname, relname);
	if (binding_matches(&group->spec, route->nspname, route->relname) &&
		table_group_find(route, group) == NULL)
		table_group_create(route, group);
}

/*
 * A new group: from now on it gets what is routed.  Called inside a
 * transaction on the present.
 */
void
decide_add_group(SubscriptionGroup *group)
{
	List	   *tables = binding_tables(&group->spec);
	ListCell   *lc;

	foreach(lc, tables)
		listen_to_table(group, lfirst_oid(lc));
	recheck_routes();
}

/* The group is about to be freed. */
void
decide_remove_group(SubscriptionGroup *group)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &group->tables)
		table_group_free(dlist_container(TableGroup, in_group, iter.cur));
}

/*
 * Is there a route for the table that has changes in another schema waiting?
 * What is compiled for a group is compiled for one schema, so these must be
 * decided first.
 */
bool
decide_route_pending(RelSchema *schema)
{
	TableRoute *route = hash_search(routes, &schema->relid, HASH_FIND, NULL);

	return route != NULL && route->first != NULL && route->schema != schema;
}

/*--------------------------------------------------------------------------
 * Changes of what can be seen that touch no row
 *--------------------------------------------------------------------------
 */

static void
tell_role(TableRole *role, const char *extension, const char *status,
		  const char *message)
{
	dlist_iter	iter;

	dlist_foreach(iter, &role->groups)
	{
		SubscriptionGroup *group = dlist_container(TableGroup, in_role,
												   iter.cur)->group;

		group->told_at = 0;		/* this must get through */
		subscription_tell_group(group, extension, status, message);
	}
}

/* Tell a role's groups that its access to the table became another one. */
static void
tell_access(TableRole *role, bool published, bool readable)
{
	TableRoute *route = role->route;

	if (!published)
		tell_role(role, "postgres_changes", "error",
				  psprintf("table %s.%s is no longer published",
						   route->nspname, route->relname));
	else if (!readable)
		tell_role(role, "postgres_changes", "error",
				  psprintf("permission denied for table %s.%s",
						   route->nspname, route->relname));
	else
		tell_role(role, "rtsync", "refetch",
				  psprintf("access to table %s.%s has changed",
						   route->nspname, route->relname));
}

/* Which tables do the role's policies read, as seen by one of its groups? */
static List *
find_dependencies(TableRole *role, TableAccess *access)
{
	TableGroup *tg = dlist_head_element(TableGroup, in_role, &role->groups);
	PrincipalScope scope;

	principal_enter(tg->group->principal, &scope);
	policy_prepare(access);
	principal_leave(&scope);
	return policy_dependencies(access);
}

/*
 * See whether what the role may see of the table has changed since its groups
 * were last told, and tell them: rows may have entered or left their view that
 * nobody touched.
 */
static void
attempt_recheck(void *arg)
{
	TableRole  *role = arg;
	TableRoute *route = role->route;
	bool		published = publication_publishes(rtsync_publication,
												  route->relid);
	TableAccess *access = policy_table_access(route->relid, role->roleid);
	uint64		signature = published ? access->signature : NOT_PUBLISHED;
	bool		first = role->access_signature == 0;

	if (signature == role->access_signature)
		return;
	role->access_signature = signature;
	if (!first)
		tell_access(role, published, access->readable);
	table_role_watch(role, find_dependencies(role, access));
}

static void
route_recheck(TableRoute *route)
{
	dlist_iter	iter;

	route->recheck = false;
	dlist_foreach(iter, &route->roles)
	{
		ErrorData  *error;

		error = attempt(attempt_recheck,
						dlist_container(TableRole, in_route, iter.cur));
		if (error != NULL)
			ereport(LOG,
					(errcode(error->sqlerrcode),
					 errmsg("rtsync could not look at the row security of table \"%s.%s\": %s",
							route->nspname, route->relname, error->message)));
	}
}

/* Called inside a transaction on the present. */
static void
recheck_routes(void)
{
	bool		all = recheck_all;
	HASH_SEQ_STATUS scan;
	TableRoute *route;

	recheck_all = recheck_some = false;
	hash_seq_init(&scan, routes);
	while ((route = hash_seq_search(&scan)) != NULL)
		if (all || route->recheck)
			route_recheck(route);
}

/*
 * Has a catalog change that has been accepted changed what subscribers may
 * see?  Then tell them.  Called outside of any transaction.
 */
void
decide_recheck_access(void)
{
	if (!recheck_all && !recheck_some)
		return;
	catalogs_begin(wal_decoded_lsn());
	recheck_routes();
	catalogs_commit();
}

/* Does a policy depend on rows of this table? */
bool
decide_watches(Oid relid)
{
	return hash_search(watched, &relid, HASH_FIND, NULL) != NULL;
}

static void
tell_dependency(TableRole *role, TimestampTz now)
{
	role->told_at = now;
	role->tell_later = false;
	tell_role(role, "rtsync", "refetch",
			  psprintf("rows that the row security of table %s.%s depends on have changed",
					   role->route->nspname, role->route->relname));
}

/* Call a function for each role of each table. */
static void
for_each_role(void (*function) (TableRole *role, void *arg), void *arg)
{
	HASH_SEQ_STATUS scan;
	TableRoute *route;
	dlist_iter	iter;

	hash_seq_init(&scan, routes);
	while ((route = hash_seq_search(&scan)) != NULL)
		dlist_foreach(iter, &route->roles)
			function(dlist_container(TableRole, in_route, iter.cur), arg);
}

static void
role_touched(TableRole *role, void *arg)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!list_member_oid(role->dependencies, *(Oid *) arg))
		return;
	if (TimestampDifferenceExceeds(role->told_at, now, TELL_INTERVAL_MS))
		tell_dependency(role, now);
	else
		role->tell_later = true;
}

/*
 * Rows of a watched table have changed: whoever depends on it refetches.  A
 * table that changes all the time has its dependents told once a second.
 */
void
decide_touched(Oid relid)
{
	for_each_role(role_touched, &relid);
}

static void
role_tell_late(TableRole *role, void *arg)
{
	if (role->tell_later)
		tell_dependency(role, GetCurrentTimestamp());
}

/* Tell what was held back; about once a second. */
void
decide_tell_late(void)
{
	for_each_role(role_tell_late, NULL);
}

/*--------------------------------------------------------------------------
 * Compiling a group's view of a table
 *--------------------------------------------------------------------------
 */

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
	tg->valid = false;
	tg->filter = NULL;
	tg->columns = tg->record = tg->identity = tg->key = NULL;

	old = MemoryContextSwitchTo(tg->context);
	shown = bms_intersect(access->columns, schema->published);
	tg->identity = bms_intersect(schema->identity, shown);
	tg->key = bms_intersect(bms_is_empty(schema->pkey) ?
							schema->identity : schema->pkey, shown);
	if (spec->nselect >= 0)
	{
		tg->record = binding_selected(spec, schema->desc, shown);
		tg->columns = bms_union(tg->record, tg->key);
	}
	else
		tg->record = tg->columns = shown;
	if (spec->filter != NULL)
		tg->filter = filter_compile(spec->filter, schema->relid,
									access->columns, tg->context);
	MemoryContextSwitchTo(old);
	tg->access_generation = access->generation;
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
	TableRole  *role = tg->role;
	TableAccess *access;

	access = policy_table_access(role->route->relid, role->roleid);
	if (!access->readable)
		return NULL;
	if (!tg->valid || tg->access_generation != access->generation)
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
		RoutedChange *to = match->to;

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
decide_group(TableGroup *tg, RoutedChange *change, bool only_one)
{
	MemoryContext context = CurrentMemoryContext;
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

		MemoryContextSwitchTo(context);
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
	subscription_tell_group(group, "postgres_changes", "error",
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
		/* leave it alone for a while */
		tg->role->suspended_until =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SUSPEND_MS);
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

/* What was compiled for the groups of a table may be out of date. */
static void
route_refresh(TableRoute *route)
{
	dlist_iter	roles;
	dlist_iter	groups;

	if (route->generation == generation)
		return;
	route->generation = generation;
	dlist_foreach(roles, &route->roles)
	{
		TableRole  *role = dlist_container(TableRole, in_route, roles.cur);

		role->suspended_until = 0;
		dlist_foreach(groups, &role->groups)
			dlist_container(TableGroup, in_role, groups.cur)->valid = false;
	}
}

static void
decide_role(TableRole *role, bool carefully)
{
	dlist_iter	iter;

	if (role->suspended_until != 0 &&
		role->suspended_until > GetCurrentTimestamp())
	{
		errors++;
		return;
	}
	dlist_foreach(iter, &role->groups)
	{
		TableGroup *tg = dlist_container(TableGroup, in_role, iter.cur);

		CHECK_FOR_INTERRUPTS();
		if (carefully)
			decide_group_carefully(tg);
		else
			decide_group(tg, role->route->first, false);
		if (role->suspended_until > 0 && carefully &&
			role->suspended_until > GetCurrentTimestamp())
			break;				/* just now */
	}
}

/*
 * Decide the changes that hang on the routes, for all their groups.  Allocates
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

		route_refresh(route);
		dlist_foreach(iter, &route->roles)
			decide_role(dlist_container(TableRole, in_route, iter.cur),
						carefully);
	}
}

/* Changes withheld because of errors, since the start */
uint64
decide_errors(void)
{
	return errors;
}
