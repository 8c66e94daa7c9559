/*-------------------------------------------------------------------------
 *
 * tables.c
 *	  The tables that somebody listens to, and who.
 *
 * Each table that somebody listens to, or that changed, has a TableRoute; on
 * it hang the roles that listen, as TableRoles, and on these their groups, as
 * TableGroups, with what decide.c compiled for that group and table.  Table
 * groups live in their group's context, the rest in TablesContext.
 *
 * Here it is also noticed when what a role may see of a table changes without
 * a change of its rows: by a catalog change (policies, grants, publication),
 * or by changed rows of other tables that its policies read.  Those concerned
 * are told to refetch.
 *
 * Called by subscription.c when groups come and go, by route.c and decide.c
 * for the changes, by the plugin (tables_watches), and by engine.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "engine/attempt.h"
#include "engine/binding.h"
#include "engine/catalogs.h"
#include "engine/clock.h"
#include "engine/policy.h"
#include "engine/publication.h"
#include "engine/route.h"
#include "engine/settings.h"
#include "engine/tables.h"
#include "engine/wal.h"

/* Instead of the signature of a table's access, which is odd */
#define NOT_PUBLISHED 2

/* Groups are told of changed dependencies at most so often. */
#define TELL_INTERVAL_MS 1000

/* With the claims of so many clients it is tried to plan a role's policies. */
#define PREPARE_ATTEMPTS 8

/* As many tables' last changes are remembered without asking how old they are. */
#define MAX_CHANGED 10000

/* A table that policies read */
typedef struct Watched
{
	Oid			relid;			/* hash key */
	int			count;			/* of table roles that depend on it */
	bool		altered;		/* its definition may have changed */
	bool		locked;			/* by somebody else, and waited for in vain */
} Watched;

/* The last transaction in the history that changed rows of a table */
typedef struct Changed
{
	Oid			relid;			/* hash key */
	TransactionId xid;
	XLogRecPtr	commit_lsn;
} Changed;

static MemoryContext TablesContext = NULL;
static HTAB *routes = NULL;
static HTAB *watched = NULL;
static HTAB *changed = NULL;
static uint64 generation = 1;
static bool recheck_all;		/* the access to all tables may have changed */
static bool recheck_some;		/* some route has "recheck" set, or some
								 * watched table "altered" */
static bool some_inherited;		/* some route has "inherited" set */
static bool recheck_inherited;	/* those are to be rechecked */
static bool some_gone;			/* some route's table may have been dropped */
static bool some_again;			/* some role has "tell_again" set */
static int	ndisplaced;			/* table groups that are */
static int	nhomeless;			/* groups that are */
static uint64 moves;			/* see tables_moves */

static void recheck_routes(void);

static void
syscache_cb(Datum arg, int cacheid, uint32 hashvalue)
{
	generation++;
	recheck_all = true;
	some_gone = true;
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
		Watched    *entry = hash_search(watched, &relid, HASH_FIND, NULL);

		if (route != NULL)
			route->recheck = recheck_some = some_gone = true;
		if (entry != NULL)
			entry->altered = recheck_some = true;
		if (ndisplaced > 0 || nhomeless > 0)
			recheck_some = true;	/* it may have the name that they wait for */
		if (some_inherited)
			recheck_inherited = recheck_some = true;	/* or be below them */
	}
}

/* Prepare; once in the life of the engine. */
void
tables_init(void)
{
	HASHCTL		ctl = {
		.keysize = sizeof(Oid),
		.entrysize = sizeof(TableRoute),
	};

	TablesContext = AllocSetContextCreate(TopMemoryContext, "rtsync routes",
										  ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = TablesContext;
	routes = hash_create("rtsync routes", 64, &ctl,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(Watched);
	watched = hash_create("rtsync watched tables", 64, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(Changed);
	changed = hash_create("rtsync changed tables", 64, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(relcache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, syscache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMMEMROLE, syscache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, syscache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, syscache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, syscache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, syscache_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(ENUMOID, syscache_cb, (Datum) 0);
}

/*--------------------------------------------------------------------------
 * Tables and the groups that listen to them
 *--------------------------------------------------------------------------
 */

/*
 * From now on changes of the table are noted in the history.  One that is in
 * it already, but not seen by queries yet, has to be told when it is.
 */
static void
table_role_depend(TableRole *role, Oid relid)
{
	bool		found;
	Watched    *entry = hash_search(watched, &relid, HASH_ENTER, &found);
	Changed    *last = hash_search(changed, &relid, HASH_FIND, NULL);

	if (!found)
	{
		entry->count = 0;
		entry->altered = entry->locked = false;
	}
	entry->count++;
	if (last != NULL && !list_member_oid(role->dependencies, relid) &&
		TransactionIdIsInProgress(last->xid))
	{
		role->owed = last->xid;
		moves++;
	}
}

/* Depend on other tables than before. */
static void
table_role_watch(TableRole *role, List *dependencies)
{
	MemoryContext old;
	ListCell   *lc;

	foreach(lc, dependencies)
		table_role_depend(role, lfirst_oid(lc));
	foreach(lc, role->dependencies)
	{
		Oid			relid = lfirst_oid(lc);
		Watched    *entry = hash_search(watched, &relid, HASH_FIND, NULL);

		if (--entry->count == 0)
			hash_search(watched, &relid, HASH_REMOVE, NULL);
	}
	list_free(role->dependencies);
	old = MemoryContextSwitchTo(TablesContext);
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
	role = MemoryContextAllocZero(TablesContext, sizeof(TableRole));
	role->route = route;
	role->roleid = roleid;
	dlist_init(&role->groups);
	dlist_init(&role->scan);
	role->context = AllocSetContextCreate(TablesContext, "rtsync role",
										  ALLOCSET_SMALL_SIZES);
	role->index = predicate_create(role->context);
	dlist_push_tail(&route->roles, &role->in_route);

	/* there may have been another that had something to tell */
	if (!route_passed(route->tell_again))
	{
		role->tell_again = route->tell_again;
		some_again = true;
		moves++;
	}

	/* its signature and dependencies are found out by the next recheck */
	route->recheck = recheck_some = true;
	return role;
}

static TableGroup *
table_group_create(TableRoute *route, SubscriptionGroup *group)
{
	TableGroup *tg = MemoryContextAllocZero(group->context, sizeof(TableGroup));

	tg->group = group;
	tg->id = group->id;
	tg->events = group->spec.events;
	tg->view = group->options.view;
	tg->role = table_role_find(route, group->principal->roleid);
	dlist_push_tail(&tg->role->groups, &tg->in_role);
	tg->role->ngroups++;
	tg->role->nshared += group->shared;
	dlist_push_tail(&group->tables, &tg->in_group);
	if (!group->late)
		dlist_push_tail(&tg->role->scan, &tg->in_scan);
	return tg;
}

static void
table_group_free(TableGroup *tg)
{
	TableRole  *role = tg->role;

	dlist_delete(&tg->in_role);
	role->ngroups--;
	role->nshared -= tg->group->shared;
	if (tg->displaced)
		ndisplaced--;
	dlist_delete(&tg->in_group);
	if (tg->item.indexed)
		predicate_remove(role->index, &tg->item);
	else if (!tg->group->late)
		dlist_delete(&tg->in_scan);
	if (tg->context != NULL)
		MemoryContextDelete(tg->context);
	pfree(tg);
	if (dlist_is_empty(&role->groups))
	{
		table_role_watch(role, NIL);
		MemoryContextDelete(role->context);
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
		some_gone = true;		/* the change may be one from long ago */
	}
	return route;
}

static bool
names_one_table(const BindingSpec *spec)
{
	return spec->schema != NULL && spec->table != NULL;
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
	route->nspname = MemoryContextStrdup(TablesContext, nspname);
	route->relname = MemoryContextStrdup(TablesContext, relname);

	dlist_foreach(iter, subscription_groups())
	{
		SubscriptionGroup *group = dlist_container(SubscriptionGroup, node,
												   iter.cur);
		TableGroup *tg = table_group_find(route, group);
		bool		matches = binding_matches(&group->spec, nspname, relname);

		if (matches && tg == NULL)
			table_group_create(route, group);
		else if (tg != NULL && names_one_table(&group->spec))
			tg->misnamed = !matches;	/* it waits for the name to return */
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
tables_route(RelSchema *schema)
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
	char	   *relname = get_rel_name(relid);
	char	   *nspname = get_namespace_name(get_rel_namespace(relid));
	TableRoute *route;

	if (relname == NULL || nspname == NULL)
		return;
	route = route_find(relid);
	if (route->nspname == NULL)
		route_rename(route, nspname, relname);
	if (binding_matches(&group->spec, route->nspname, route->relname) &&
		table_group_find(route, group) == NULL)
		table_group_create(route, group);
}

/*
 * A new group with a wildcard listens also to the tables that have a route but
 * are not published: their names will be no news when they are again.
 */
static void
listen_to_routes(SubscriptionGroup *group)
{
	HASH_SEQ_STATUS scan;
	TableRoute *route;

	if (group->spec.schema != NULL && group->spec.table != NULL)
		return;
	hash_seq_init(&scan, routes);
	while ((route = hash_seq_search(&scan)) != NULL)
		listen_to_table(group, route->relid);
}

/*
 * A new group: from now on it gets what is routed.  Called inside a
 * transaction on the present.
 */
void
tables_add_group(SubscriptionGroup *group)
{
	List	   *tables = binding_tables(&group->spec);
	ListCell   *lc;

	foreach(lc, tables)
		listen_to_table(group, lfirst_oid(lc));
	listen_to_routes(group);
	group->homeless = tables == NIL && names_one_table(&group->spec);
	nhomeless += group->homeless;
	recheck_routes();
}

/* The group is about to be freed. */
void
tables_remove_group(SubscriptionGroup *group)
{
	dlist_mutable_iter iter;

	nhomeless -= group->homeless;
	dlist_foreach_modify(iter, &group->tables)
		table_group_free(dlist_container(TableGroup, in_group, iter.cur));
}

typedef struct RegroupAttempt
{
	TableRole  *role;
	TableAccess *access;
	TableGroup *tg;
} RegroupAttempt;

static void
attempt_access(void *arg)
{
	RegroupAttempt *what = arg;

	what->access = policy_table_access(what->role->route->relid,
									   what->role->roleid);
}

static void
attempt_regroup(void *arg)
{
	subscription_regroup(((RegroupAttempt *) arg)->tg->group);
}

/* One that waits for the next table of a name may have that already. */
static bool
has_one_table(SubscriptionGroup *group)
{
	return dlist_head_node(&group->tables) == dlist_tail_node(&group->tables);
}

/*
 * A group that is for all principals, or for one, and should not be; or NULL.
 * Those that are as they should be go to the end of the list, so that looking
 * for one after the other does not pass them again and again.
 */
static TableGroup *
misplaced_group(TableRole *role, bool same_for_all)
{
	if (!same_for_all && role->nshared == 0)
		return NULL;
	for (int i = role->ngroups; i > 0; i--)
	{
		TableGroup *tg = dlist_head_element(TableGroup, in_role, &role->groups);

		if (tg->group->shared ? !same_for_all :
			same_for_all && tg->group->may_share && !tg->displaced &&
			has_one_table(tg->group))
			return tg;
		dlist_delete(&tg->in_role);
		dlist_push_tail(&role->groups, &tg->in_role);
	}
	return NULL;
}

/* Has the role, whose last group may have gone elsewhere, no groups any more? */
static bool
role_is_gone(TableRoute *route, TableRole *role)
{
	dlist_iter	iter;

	dlist_foreach(iter, &route->roles)
		if (dlist_container(TableRole, in_route, iter.cur) == role)
		return false;
	return true;
}

/* Returns false if the table is locked, so that others would find the same. */
static bool
role_regroup(TableRoute *route, TableRole *role)
{
	RegroupAttempt what = {.role = role};
	ErrorData  *error;
	uint64		generation_seen;

	what.access = policy_known_access(route->relid, role->roleid);
	if (what.access == NULL &&
		(error = attempt_briefly(attempt_access, &what)) != NULL)
		return !attempt_met_lock(error);	/* nothing can be decided */
	generation_seen = what.access->generation;

	/* a group may have come since, shared because of another table */
	if (role->grouped == generation_seen &&
		!(what.access->reads_session && role->nshared > 0))
		return true;
	while ((what.tg = misplaced_group(role,
									  !what.access->reads_session)) != NULL)
		if (attempt(attempt_regroup, &what) != NULL ||
			role_is_gone(route, role))
			return true;
	role->grouped = generation_seen;
	return true;
}

/*
 * See that groups are for all principals of a role where the claims decide
 * nothing, and only there.  Raises no error; who decides looks again.  Called
 * in a transaction on the present.
 */
void
tables_regroup(TableRoute *route)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &route->roles)
		if (!role_regroup(route, dlist_container(TableRole, in_route, iter.cur)))
		break;
}

/*
 * Is there a route for the table that has changes in another schema waiting?
 * What is compiled for a group is compiled for one schema, so these must be
 * decided first.
 */
bool
tables_route_pending(RelSchema *schema)
{
	TableRoute *route = hash_search(routes, &schema->relid, HASH_FIND, NULL);

	return route != NULL && route->first != NULL && route->schema != schema;
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

/*--------------------------------------------------------------------------
 * Changes of what can be seen that touch no row
 *--------------------------------------------------------------------------
 */

static void
tell_role(TableRole *role, const char *extension, const char *status,
		  const char *message)
{
	dlist_iter	iter;

	moves++;
	dlist_foreach(iter, &role->groups)
	{
		SubscriptionGroup *group = dlist_container(TableGroup, in_role,
												   iter.cur)->group;

		subscription_tell_group(group, extension, status, message);
	}
}

/* Likewise, to read their rows again */
static void
refetch_role(TableRole *role, RefetchReason reason, const char *message)
{
	dlist_iter	iter;

	moves++;
	dlist_foreach(iter, &role->groups)
	{
		SubscriptionGroup *group = dlist_container(TableGroup, in_role,
												   iter.cur)->group;

		subscription_refetch_group(group, reason, message);
	}
}

/*
 * Counts what changes what somebody may see, or is still to be told: what was
 * made of the signatures of groups may be another for another number.
 */
uint64
tables_moves(void)
{
	return moves;
}

/* Something of that kind has changed that is not known here. */
void
tables_moved(void)
{
	moves++;
}

/*
 * Channels with an interval were told with the others, but may get what came
 * before only with their next batch.
 */
static void
mark_throttled(TableRole *role)
{
	dlist_iter	iter;

	dlist_foreach(iter, &role->groups)
	{
		SubscriptionGroup *group = dlist_container(TableGroup, in_role,
												   iter.cur)->group;
		dlist_iter	inner;

		dlist_foreach(inner, &group->bindings)
		{
			Channel    *channel = dlist_container(Binding, in_group,
												  inner.cur)->channel;

			if (channel->interval == 0 || channel->pace != CHANNEL_LATE)
				continue;
			if (!route_caught_up(&channel->place))
				subscription_tell_again(channel, InvalidXLogRecPtr);
			else if (route_passed(channel->tell_lsn))
				channel->access_changed = false;
		}
	}
}

/*
 * The role's groups were told of a changed access.  Changes from before it may
 * still come, in the layout that the table had then, and a client that has
 * fetched its rows already must not keep these: it is told once more behind
 * them.
 */
static void
mark_tell_again(TableRole *role)
{
	XLogRecPtr	lsn = wal_written_lsn();
	dlist_iter	iter;

	dlist_foreach(iter, &role->groups)
	{
		SubscriptionGroup *group = dlist_container(TableGroup, in_role,
												   iter.cur)->group;
		dlist_iter	inner;

		if (!group->late)
			continue;
		dlist_foreach(inner, &group->bindings)
			subscription_tell_again(dlist_container(Binding, in_group,
													inner.cur)->channel, lsn);
	}
	if (route_passed(lsn))
	{
		mark_throttled(role);
		return;
	}
	role->tell_again = role->route->tell_again = lsn;
	some_again = true;
	wal_flush_soon(lsn);
}

static void
tell_changed(TableRole *role)
{
	refetch_role(role, REFETCH_ACCESS,
				 psprintf("access to table %s.%s has changed",
						  role->route->nspname, role->route->relname));
}

static void
role_tell_again(TableRole *role, void *arg)
{
	if (role->tell_again == InvalidXLogRecPtr)
		return;
	if (!route_passed(role->tell_again))
	{
		some_again = true;
		return;
	}
	role->tell_again = InvalidXLogRecPtr;
	tell_changed(role);
	mark_throttled(role);
}

/*
 * Tell once more of changed accesses where routing has passed what came before
 * them; returns whether there are others.
 */
bool
tables_tell_again(void)
{
	if (some_again)
	{
		some_again = false;
		for_each_role(role_tell_again, NULL);
	}
	return some_again;
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
	{
		tell_changed(role);
		mark_tell_again(role);
	}
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
	PrincipalScope scope;

	principal_enter(what->tg->group->principal, &scope);
	policy_prepare(what->access);
	principal_leave(&scope);
}

/*
 * Plan the role's policies, as one of its groups.  The planner may evaluate
 * what depends on the claims, which some client's make fail: then another's
 * may do.
 */
static void
prepare_policies(TableRole *role, TableAccess *access)
{
	ErrorData  *error = NULL;
	int			attempts = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &role->groups)
	{
		PrepareAttempt what = {
			dlist_container(TableGroup, in_role, iter.cur), access
		};

		error = attempt(attempt_prepare, &what);
		if (error == NULL || error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			++attempts == PREPARE_ATTEMPTS)
			break;
	}
	if (error != NULL)
		ReThrowError(error);
}

/*
 * Find out which tables the role's policies read; returns whether what the
 * policies take from these has become something else.
 */
static bool
find_dependencies(TableRole *role, TableAccess *access)
{
	uint64		before = role->query_signature;
	bool		missed = role->route->failed && !role->dependencies_known;

	prepare_policies(role, access);
	table_role_watch(role, policy_dependencies(access));
	role->query_signature = policy_query_signature(access);
	moves++;
	role->tell_later |= missed; /* who knows what was changed meanwhile */
	if (!role->dependencies_known)
		before = role->query_signature;
	role->dependencies_known = true;
	return role->query_signature != before;
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
	uint64		published = publication_signature(rtsync_publication,
												  route->relid);
	TableAccess *access = policy_table_access(route->relid, role->roleid);
	uint64		signature = published == 0 ? NOT_PUBLISHED :
		hash_combine64(access->signature, published) | 1;
	bool		same = signature == role->access_signature;
	bool		first = role->access_signature == 0;

	if (same && role->dependencies_known && !role->altered)
		return;
	moves++;
	role->access_signature = signature;
	route->inherited = published != 0 && has_subclass(route->relid);
	some_inherited |= route->inherited;
	if (!same && !first)
		tell_access(role, published != 0, access->readable);
	if (!same)
		role->dependencies_known = false;
	if (find_dependencies(role, access))
		tell_access(role, published != 0, access->readable);
	role->altered = false;
}

/*
 * Does the table still have the name that the group asked for?  If no
 * other has it either, say so; else group_find_successor does.
 */
static void
table_group_check_name(TableGroup *tg, const char *nspname,
					   const char *relname)
{
	const BindingSpec *spec = &tg->group->spec;
	bool		displaced = relname == NULL || nspname == NULL ||
		!binding_matches(spec, nspname, relname);

	if (displaced == tg->displaced || spec->table == NULL ||
		spec->schema == NULL)
		return;
	ndisplaced += displaced ? 1 : -1;
	tg->displaced = displaced;
	tg->successor = InvalidOid;
	if (!displaced)
	{
		moves++;
		subscription_refetch_group(tg->group, REFETCH_ACCESS,
								   psprintf("access to table %s.%s has changed",
											spec->schema, spec->table));
		mark_tell_again(tg->role);
	}
	else if (relname != NULL && binding_tables(spec) == NIL)
		subscription_tell_group(tg->group, "postgres_changes", "error",
								psprintf("table %s.%s is no longer published",
										 spec->schema, spec->table));
}

/*
 * Has the table another name than when this was last asked?  The name it had
 * may stand for another table now.
 */
static bool
route_was_renamed(TableRoute *route, const char *nspname, const char *relname)
{
	uint32		before = route->name_hash;

	route->name_hash = relname == NULL || nspname == NULL ? 0 :
		string_hash(psprintf("%s.%s", nspname, relname),
					MAXPGPATH) | 1;
	return before != 0 && route->name_hash != 0 && route->name_hash != before;
}

static bool
has_wildcards(TableRole *role)
{
	dlist_iter	iter;

	dlist_foreach(iter, &role->groups)
	{
		TableGroup *tg = dlist_container(TableGroup, in_role, iter.cur);

		if (tg->group->spec.schema == NULL || tg->group->spec.table == NULL)
			return true;
	}
	return false;
}

static void
route_check_name(TableRoute *route)
{
	char	   *relname = get_rel_name(route->relid);
	char	   *nspname = get_namespace_name(get_rel_namespace(route->relid));
	bool		renamed = route_was_renamed(route, nspname, relname);
	dlist_iter	roles;
	dlist_iter	groups;

	dlist_foreach(roles, &route->roles)
	{
		TableRole  *role = dlist_container(TableRole, in_route, roles.cur);

		if (renamed && has_wildcards(role))
		{
			tell_changed(role);
			mark_tell_again(role);
		}

		dlist_foreach(groups, &role->groups)
			table_group_check_name(dlist_container(TableGroup, in_role,
												   groups.cur),
								   nspname, relname);
	}
}

/* A group listens to the table that has the name now which it asked for, and
 * fetches its rows. */
static void
group_take_table(SubscriptionGroup *group, Oid relid)
{
	TableGroup *tg;

	listen_to_table(group, relid);
	subscription_refetch_group(group, REFETCH_TABLE,
							   psprintf("%s.%s is another table now",
										group->spec.schema,
										group->spec.table));
	tg = table_group_find(route_find(relid), group);
	if (tg != NULL)
		mark_tell_again(tg->role);
}

/*
 * If another table has the name that a displaced group asked for, the group
 * listens to that one too.
 */
static void
group_find_successor(TableGroup *tg)
{
	List	   *tables = binding_tables(&tg->group->spec);
	Oid			relid = tables != NIL ? linitial_oid(tables) : InvalidOid;

	if (relid == tg->successor || relid == tg->role->route->relid)
		return;
	tg->successor = relid;
	if (OidIsValid(relid))
		group_take_table(tg->group, relid);
}

/*
 * Likewise groups that have none.  (They were made for channels that were
 * there when the table still was.)
 */
static void
find_homes(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, subscription_groups())
	{
		SubscriptionGroup *group = dlist_container(SubscriptionGroup, node,
												   iter.cur);
		List	   *tables = group->homeless ?
			binding_tables(&group->spec) : NIL;

		if (tables == NIL)
			continue;
		group->homeless = false;
		nhomeless--;
		group_take_table(group, linitial_oid(tables));
	}
}

static void
role_find_successors(TableRole *role, void *arg)
{
	dlist_iter	iter;

	dlist_foreach(iter, &role->groups)
	{
		TableGroup *tg = dlist_container(TableGroup, in_role, iter.cur);

		if (tg->displaced)
			group_find_successor(tg);
	}
}

/*
 * Look at the access of all roles, as far as that can be done without waiting
 * for those who have locked the table, or one that its policies read.
 */
static void
route_recheck(TableRoute *route)
{
	bool		failed = false;
	dlist_iter	iter;

	route->recheck = route->locked = false;
	route_check_name(route);
	dlist_foreach(iter, &route->roles)
	{
		ErrorData  *error;

		error = attempt_briefly(attempt_recheck,
								dlist_container(TableRole, in_route, iter.cur));
		if (error == NULL)
			continue;
		failed = true;			/* tables_tell_late tries again */
		if (!route->failed)
			ereport(LOG,
					(errcode(error->sqlerrcode),
					 errmsg("rtsync could not look at the row security of table \"%s.%s\": %s",
							route->nspname, route->relname, error->message)));
		if (attempt_met_lock(error))
		{
			route->locked = true;
			break;				/* the others would find the same */
		}
	}
	route->failed = failed;
}

static void
note_altered(TableRole *role, void *arg)
{
	ListCell   *lc;

	foreach(lc, role->dependencies)
	{
		Watched    *entry = hash_search(watched, &lfirst_oid(lc), HASH_FIND,
										NULL);

		if (entry->altered || *(bool *) arg)
			role->altered = role->route->recheck = true;
	}
}

/* Find the roles whose policies read tables that have been altered. */
static void
find_altered(bool all)
{
	HASH_SEQ_STATUS scan;
	Watched    *entry;

	for_each_role(note_altered, &all);
	hash_seq_init(&scan, watched);
	while ((entry = hash_seq_search(&scan)) != NULL)
		entry->altered = false;
}

/* Called inside a transaction on the present. */
static void
recheck_routes(void)
{
	bool		all = recheck_all;
	bool		some = recheck_all || recheck_some;
	bool		inherited = recheck_inherited;
	HASH_SEQ_STATUS scan;
	TableRoute *route;

	recheck_all = recheck_some = recheck_inherited = false;
	find_altered(all);
	hash_seq_init(&scan, routes);
	while ((route = hash_seq_search(&scan)) != NULL)
		if ((all || route->recheck || (inherited && route->inherited)) &&
			!dlist_is_empty(&route->roles))
			route_recheck(route);
	if (some && ndisplaced > 0)
		for_each_role(role_find_successors, NULL);
	if (some && nhomeless > 0)
		find_homes();
}

static void
regroup_routes(void)
{
	HASH_SEQ_STATUS scan;
	TableRoute *route;

	hash_seq_init(&scan, routes);
	while ((route = hash_seq_search(&scan)) != NULL)
		if (recheck_all || route->recheck)
			tables_regroup(route);
}

/* The access to all tables may have changed: look at them. */
void
tables_recheck_all(void)
{
	recheck_all = true;
}

/*
 * Has a catalog change that has been accepted changed what subscribers may
 * see?  Then tell them.  Called outside of any transaction.
 */
void
tables_recheck_access(void)
{
	if (!recheck_all && !recheck_some)
		return;
	catalogs_begin(wal_decoded_lsn());
	regroup_routes();
	recheck_routes();
	catalogs_commit();
}

/*
 * Does a group no longer need its place at a table that is gone?  One that
 * asked for a table by name waits there for the next of that name, unless it
 * does so elsewhere, or has it.
 */
static bool
table_group_is_over(TableGroup *tg)
{
	return !tg->displaced || !has_one_table(tg->group);
}

/* Take the groups that need it no longer off the route of a table that is gone. */
static void
route_release(TableRoute *route)
{
	List	   *over = NIL;
	ListCell   *lc;
	dlist_iter	roles;
	dlist_iter	groups;

	dlist_foreach(roles, &route->roles)
	{
		TableRole  *role = dlist_container(TableRole, in_route, roles.cur);

		dlist_foreach(groups, &role->groups)
		{
			TableGroup *tg = dlist_container(TableGroup, in_role, groups.cur);

			if (table_group_is_over(tg))
				over = lappend(over, tg);
		}
	}
	foreach(lc, over)
		table_group_free(lfirst(lc));
	list_free(over);
}

static void
route_free(TableRoute *route)
{
	if (route->schema != NULL)
		schema_unref(route->schema);
	if (route->nspname != NULL)
	{
		pfree(route->nspname);
		pfree(route->relname);
	}
	hash_search(routes, &route->relid, HASH_REMOVE, NULL);
}

/*
 * Free what was made for tables that have been dropped since.  Should a change
 * of one still come, for a channel that is far behind, its route is made anew.
 * Called outside of any transaction, while no changes are being routed.
 */
void
tables_sweep(void)
{
	HASH_SEQ_STATUS scan;
	TableRoute *route;

	if (!some_gone)
		return;
	some_gone = false;
	catalogs_begin(wal_decoded_lsn());
	recheck_routes();			/* those who listen are told first */
	hash_seq_init(&scan, routes);
	while ((route = hash_seq_search(&scan)) != NULL)
	{
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(route->relid)))
			continue;
		route_release(route);
		if (dlist_is_empty(&route->roles))
			route_free(route);
	}
	policy_sweep();
	catalogs_commit();
}

/*
 * A transaction changes rows of this table.  Remember it, for whoever will
 * have to catch up, and say whether somebody's policies read them now.
 */
bool
tables_watches(Oid relid, ReorderBufferTXN *txn)
{
	Changed    *last = hash_search(changed, &relid, HASH_ENTER, NULL);

	last->xid = txn->xid;
	last->commit_lsn = txn->final_lsn;
	return hash_search(watched, &relid, HASH_FIND, NULL) != NULL;
}

static void
tell_dependency(TableRole *role)
{
	role->told_at = clock_now();
	role->tell_later = false;
	refetch_role(role, REFETCH_DEPENDENCY,
				 psprintf("rows that the row security of table %s.%s depends on have changed",
						  role->route->nspname, role->route->relname));
}

static void
role_touched(TableRole *role, void *arg)
{
	if (!list_member_oid(role->dependencies, *(Oid *) arg))
		return;
	if (clock_passed(role->told_at, TELL_INTERVAL_MS))
		tell_dependency(role);
	else if (!role->tell_later)
	{
		dlist_iter	iter;

		role->tell_later = true;
		moves++;
		dlist_foreach(iter, &role->groups)
			subscription_send_group_access(dlist_container(TableGroup, in_role,
														   iter.cur)->group);
	}
}

/*
 * Rows of a watched table have changed: whoever depends on it refetches.  A
 * table that changes all the time has its dependents told once a second.
 */
void
tables_touched(Oid relid)
{
	for_each_role(role_touched, &relid);
}

/* Do the policies that a group is subject to read this table? */
bool
tables_group_depends(SubscriptionGroup *group, Oid relid)
{
	dlist_iter	iter;

	dlist_foreach(iter, &group->tables)
	{
		TableGroup *tg = dlist_container(TableGroup, in_group, iter.cur);

		if (list_member_oid(tg->role->dependencies, relid))
			return true;
	}
	return false;
}

/*
 * Has a table that the group's policies read been changed by a transaction
 * that committed at this place or later?
 */
bool
tables_group_changed(SubscriptionGroup *group, XLogRecPtr since)
{
	dlist_iter	iter;
	ListCell   *lc;

	dlist_foreach(iter, &group->tables)
	{
		TableGroup *tg = dlist_container(TableGroup, in_group, iter.cur);

		foreach(lc, tg->role->dependencies)
		{
			Changed    *last = hash_search(changed, &lfirst_oid(lc), HASH_FIND,
										   NULL);

			if (last != NULL && last->commit_lsn >= since)
				return true;
		}
	}
	return false;
}

/* Is the group still to be told of changed rows that its policies read? */
bool
tables_group_untold(SubscriptionGroup *group)
{
	dlist_iter	iter;

	dlist_foreach(iter, &group->tables)
	{
		TableRole  *role = dlist_container(TableGroup, in_group,
										   iter.cur)->role;

		if (role->tell_later || role->withheld ||
			TransactionIdIsValid(role->owed) ||
			role->tell_again != InvalidXLogRecPtr)
			return true;
	}
	return false;
}

/*
 * The place in the WAL that routing must have passed before the group is told
 * once more of a changed access; InvalidXLogRecPtr if it is not.
 */
XLogRecPtr
tables_group_tell_again(SubscriptionGroup *group)
{
	XLogRecPtr	lsn = InvalidXLogRecPtr;
	dlist_iter	iter;

	dlist_foreach(iter, &group->tables)
		lsn = Max(lsn, dlist_container(TableGroup, in_group,
									   iter.cur)->role->tell_again);
	return lsn;
}

/* What the group may see, but for rows, as a number; 0: it is not known */
uint64
tables_group_signature(SubscriptionGroup *group)
{
	uint64		result = 1;
	dlist_iter	iter;

	dlist_foreach(iter, &group->tables)
	{
		TableRole  *role = dlist_container(TableGroup, in_group,
										   iter.cur)->role;

		if (role->access_signature == 0 || role->route->failed)
			return 0;
		result ^= hash_combine64(hash_combine64(role->route->relid,
												role->access_signature),
								 role->query_signature);
	}
	return result != 0 ? result : 1;
}

static void
attempt_lock(void *arg)
{
	LockRelationOid(*(Oid *) arg, AccessShareLock);
}

/*
 * Lock a table that policies read until the end of the transaction; returns
 * false if somebody else has.  That is waited for once, and not again until
 * the lock is gone.
 */
static bool
watched_lock(Watched *entry)
{
	if (ConditionalLockRelationOid(entry->relid, AccessShareLock))
		entry->locked = false;
	else if (!entry->locked)
		entry->locked = attempt_briefly(attempt_lock, &entry->relid) != NULL;
	return !entry->locked;
}

/* Likewise all that the role's policies read, which must be known. */
static bool
lock_dependencies(TableRole *role)
{
	ListCell   *lc;

	if (role->route->locked && !role->dependencies_known)
		return false;			/* until the next recheck */
	foreach(lc, role->dependencies)
		if (!watched_lock(hash_search(watched, &lfirst_oid(lc), HASH_FIND,
									  NULL)))
		return false;
	return true;
}

/*
 * The tables that the role's policies read are locked until the end of the
 * transaction.  If that cannot be, as somebody else has locked one, false is
 * returned: the role's changes are to be withheld, and its groups are told to
 * refetch when the lock is gone.  Called in a transaction on the present.
 */
bool
tables_lock(TableRole *role)
{
	if (lock_dependencies(role))
		return true;
	if (!role->withheld)
		moves++;
	role->withheld = true;
	return false;
}

/* Tell of changes that were withheld from the role. */
static void
tell_withheld(TableRole *role)
{
	TableRoute *route = role->route;

	if (lock_dependencies(role))
	{
		role->withheld = role->withheld_told = false;
		refetch_role(role, REFETCH_WITHHELD,
					 psprintf("changes of table %s.%s were withheld while a table that its row security reads was locked",
							  route->nspname, route->relname));
	}
	else if (!role->withheld_told)
	{
		role->withheld_told = true;
		tell_role(role, "postgres_changes", "error",
				  psprintf("Changes of table %s.%s are withheld for now because a table that its row security reads is locked",
						   route->nspname, route->relname));
	}
}

static void
role_tell_withheld(TableRole *role, void *arg)
{
	if (!role->withheld)
		return;
	if (!IsTransactionState())
		catalogs_begin(wal_decoded_lsn());
	tell_withheld(role);
}

static void
role_tell_late(TableRole *role, void *arg)
{
	if (TransactionIdIsValid(role->owed) &&
		!TransactionIdIsInProgress(role->owed))
	{
		role->owed = InvalidTransactionId;
		role->tell_later = true;
	}
	if (role->tell_later)
		tell_dependency(role);
	if (role->route->failed)
		role->route->recheck = recheck_some = true;
}

/*
 * Tell what was held back, and try again what failed; about once a second,
 * outside of any transaction.  The history begins at "oldest".
 */
void
tables_tell_late(XLogRecPtr oldest)
{
	HASH_SEQ_STATUS scan;
	Changed    *last;

	for_each_role(role_tell_late, NULL);
	for_each_role(role_tell_withheld, NULL);
	if (IsTransactionState())
		catalogs_commit();
	if (hash_get_num_entries(changed) <= MAX_CHANGED)
		return;
	hash_seq_init(&scan, changed);
	while ((last = hash_seq_search(&scan)) != NULL)
		if (last->commit_lsn < oldest)
			hash_search(changed, &last->relid, HASH_REMOVE, NULL);
}

/*
 * What was compiled for the groups of the role is out of date: all of them are
 * to be compiled, and indexed, anew.
 */
void
tables_reset_index(TableRole *role)
{
	dlist_iter	iter;

	MemoryContextReset(role->context);
	role->index = predicate_create(role->context);
	role->sets = NULL;
	role->access_basis = 0;
	dlist_foreach(iter, &role->groups)
	{
		TableGroup *tg = dlist_container(TableGroup, in_role, iter.cur);

		tg->valid = false;
		if (tg->item.indexed)
			dlist_push_tail(&role->scan, &tg->in_scan);
		tg->item.indexed = false;
	}
}

/*
 * Functions, types or operators have changed: so may have what is compiled for
 * groups whose filter is more than built-in functions.  Policies see to that
 * themselves.
 */
static void
reset_filters(TableRole *role)
{
	dlist_iter	iter;

	dlist_foreach(iter, &role->groups)
	{
		TableGroup *tg = dlist_container(TableGroup, in_role, iter.cur);

		if (tg->pure || tg->in_set)
			continue;
		tg->valid = false;
		if (tg->item.indexed)
		{
			predicate_remove(role->index, &tg->item);
			dlist_push_tail(&role->scan, &tg->in_scan);
		}
	}
}

/*
 * If the table's layout or catalogs have changed: what was compiled for its
 * groups may be out of date.  What the role may see of it is not looked at
 * here, see TableAccess.basis.
 */
void
tables_refresh(TableRoute *route)
{
	bool		layout = route->generation == 0;
	dlist_iter	iter;

	if (route->generation == generation)
		return;
	route->generation = generation;
	dlist_foreach(iter, &route->roles)
	{
		TableRole  *role = dlist_container(TableRole, in_route, iter.cur);

		if (layout)
			tables_reset_index(role);
		else
			reset_filters(role);
	}
}
