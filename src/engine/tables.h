/*-------------------------------------------------------------------------
 *
 * tables.h
 *	  The tables that somebody listens to, and who.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_TABLES_H
#define RTSYNC_TABLES_H

#include "postgres.h"

#include "lib/ilist.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "replication/reorderbuffer.h"

#include "engine/clock.h"
#include "engine/filter.h"
#include "engine/predicate.h"
#include "engine/schema.h"
#include "engine/subscription.h"

/* A table with subscribers */
typedef struct TableRoute
{
	Oid			relid;			/* hash key */
	char	   *nspname;		/* as the catalogs or the last change had it */
	char	   *relname;
	uint32		name_hash;		/* of the name that it had in the catalogs
								 * when that was last looked at; 0: none */
	RelSchema  *schema;			/* of the last change seen, a reference; NULL
								 * if none was */
	bool		recheck;		/* the access to it may have changed */
	bool		inherited;		/* other tables inherit, or did, from it */
	bool		failed;			/* that could not be found out ... */
	bool		locked;			/* ... because of somebody's lock */
	uint64		generation;		/* of the catalogs that the groups' compiled
								 * state was made from */
	dlist_head	roles;			/* TableRole.in_route */
	XLogRecPtr	tell_again;		/* the last TableRole.tell_again: they come
								 * and go with their groups */

	/* the changes to be decided next */
	struct RoutedChange *first;
	struct RoutedChange *last;
} TableRoute;

/* Which columns a group is shown */
typedef struct ColumnSets
{
	RelSchema  *schema;			/* that they are made of ... */
	uint64		access_basis;	/* ... and of this TableAccess */
	Bitmapset  *columns;		/* attnums described in "columns" */
	Bitmapset  *record;			/* attnums in "record" */
	Bitmapset  *identity;		/* identity that may be shown */
	Bitmapset  *key;			/* the part of it that identifies the row */
} ColumnSets;

/* A role whose groups listen to a table */
typedef struct TableRole
{
	dlist_node	in_route;
	TableRoute *route;
	Oid			roleid;
	dlist_head	groups;			/* TableGroup.in_role; never empty */
	int			ngroups;
	int			nshared;		/* of these, groups for all principals */
	uint64		grouped;		/* TableAccess.generation for which it was
								 * last seen whether they may be that */
	dlist_head	scan;			/* TableGroup.in_scan: those of them that must
								 * be asked about each row */
	MemoryContext context;		/* of the index, and what the groups share; it
								 * is reset when all have to be compiled anew */
	PredicateIndex *index;		/* of the others, but for late ones */
	ColumnSets *sets;			/* of groups that select no columns; NULL: not
								 * made yet */
	uint64		access_basis;	/* of the TableAccess that the index was made
								 * from */
	uint64		access_signature;	/* what the role could see when its groups
									 * were last told of it; 0: not known */
	uint64		query_signature;	/* likewise, of the sub-queries in it */
	bool		altered;		/* ... which may have changed */
	bool		dependencies_known;
	List	   *dependencies;	/* OIDs of tables that its policies read */
	TransactionId owed;			/* changed a dependency, but was not seen yet
								 * when the role began to depend on it */
	XLogRecPtr	tell_again;		/* its groups are told once more of a changed
								 * access when routing has passed this place;
								 * invalid: no */
	ClockTime	told_at;		/* its groups were told to refetch because a
								 * dependency changed */
	bool		tell_later;		/* ... and it changed again since */
	bool		withheld;		/* changes, because a dependency was locked;
								 * its groups are told when it no longer is
								 * ... */
	bool		withheld_told;	/* ... and were told that it is */
} TableRole;

/*
 * A group's view of one table.  Whatever a change needs of the group that it is
 * for is close together: with very many groups, memory is what takes the time.
 */
typedef struct TableGroup
{
	/* predicate_fetch has this fetched */
	IndexItem	item;
	uint32		id;				/* of the group ... */
	int			events;			/* ... and what it wants */
	TableRole  *role;
	uint64		access_basis;	/* of the TableAccess it was compiled from */
	ParamListInfo params;		/* of the policies, if it is pure, or in_set */
	Filter	   *filter;			/* NULL: none */
	const ColumnSets *sets;		/* the role's, or its own */
	int			failures;		/* private to decide.c; above 0: it failed
								 * lately, and is asked by itself and in a
								 * subtransaction */
	bool		view;			/* what the group wants */
	bool		misnamed;		/* the changes at hand are of a time when the
								 * table did not have the name that the group
								 * asked for */
	bool		valid;			/* what is said to be compiled is, from the
								 * catalogs and the route's schema ... */
	bool		placed;			/* ... and it was also seen whether it can be
								 * indexed */
	bool		pure;			/* rows can be checked for it without becoming
								 * its principal */
	bool		in_set;			/* its policies have sub-queries, and can be
								 * asked together with those of others */
	bool		open;			/* there is nothing to decide */
	bool		query;			/* its policies have sub-queries */

	SubscriptionGroup *group;
	MemoryContext context;		/* of what is compiled */
	uint64		set_turn;		/* private to decide.c */
	dlist_node	in_role;
	dlist_node	in_group;
	dlist_node	in_scan;		/* unless it is late, or item is indexed */
	bool		displaced;		/* the table no longer has the name that the
								 * group asked for ... */
	Oid			successor;		/* ... which stands for this one, if for any */
} TableGroup;

extern void tables_init(void);
extern void tables_add_group(SubscriptionGroup *group);
extern void tables_remove_group(SubscriptionGroup *group);

extern TableRoute *tables_route(RelSchema *schema);
extern void tables_regroup(TableRoute *route);
extern bool tables_route_pending(RelSchema *schema);
extern void tables_refresh(TableRoute *route);
extern void tables_reset_index(TableRole *role);

extern bool tables_group_depends(SubscriptionGroup *group, Oid relid);
extern bool tables_group_changed(SubscriptionGroup *group, XLogRecPtr since);
extern bool tables_group_untold(SubscriptionGroup *group);
extern XLogRecPtr tables_group_tell_again(SubscriptionGroup *group);
extern uint64 tables_group_signature(SubscriptionGroup *group);
extern bool tables_watches(Oid relid, ReorderBufferTXN *txn);
extern void tables_touched(Oid relid);
extern bool tables_lock(TableRole *role);
extern void tables_tell_late(XLogRecPtr oldest);
extern void tables_recheck_all(void);
extern void tables_recheck_access(void);
extern void tables_sweep(void);
extern bool tables_tell_again(void);
extern uint64 tables_moves(void);
extern void tables_moved(void);

#endif							/* RTSYNC_TABLES_H */
