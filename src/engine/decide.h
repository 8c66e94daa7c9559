/*-------------------------------------------------------------------------
 *
 * decide.h
 *	  Which groups get a change, and what of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_DECIDE_H
#define RTSYNC_DECIDE_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"

#include "engine/filter.h"
#include "engine/history.h"
#include "engine/schema.h"
#include "engine/subscription.h"

/* A table with subscribers */
typedef struct TableRoute
{
	Oid			relid;			/* hash key */
	char	   *nspname;		/* as the catalogs or the last change had it */
	char	   *relname;
	RelSchema  *schema;			/* of the last change seen, a reference; NULL
								 * if none was */
	bool		recheck;		/* the access to it may have changed */
	uint64		generation;		/* of the catalogs that the groups' compiled
								 * state was made from */
	dlist_head	roles;			/* TableRole.in_route */

	/* the changes to be decided next */
	struct RoutedChange *first;
	struct RoutedChange *last;
} TableRoute;

/* A role whose groups listen to a table */
typedef struct TableRole
{
	dlist_node	in_route;
	TableRoute *route;
	Oid			roleid;
	dlist_head	groups;			/* TableGroup.in_role; never empty */
	uint64		access_signature;	/* what the role could see when its groups
									 * were last told of it; 0: not known */
	List	   *dependencies;	/* OIDs of tables that its policies read */
	TimestampTz suspended_until;	/* its policies took too long */
	TimestampTz told_at;		/* its groups were told to refetch because a
								 * dependency changed */
	bool		tell_later;		/* ... and it changed again since */
} TableRole;

/* A group's view of one table */
typedef struct TableGroup
{
	dlist_node	in_role;
	dlist_node	in_group;
	SubscriptionGroup *group;
	TableRole  *role;

	/* compiled from the catalogs and the route's schema */
	MemoryContext context;
	bool		valid;
	uint64		access_generation;	/* of the TableAccess it was made from */
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
	struct RoutedChange *to;
	TableGroup *tg;
	Outcome		outcome;
	OldPart		old;
	bool		sent;
} Match;

/* A change on its way to the groups of its table */
typedef struct RoutedChange
{
	struct RoutedChange *next;	/* of the same table */
	HistoryChange *change;		/* NULL: a touch */
	Oid			touched;		/* table that policies read */
	XLogRecPtr	commit_lsn;
	TimestampTz commit_time;
	Match	   *matches;
	Match	   *last_match;
} RoutedChange;

extern void decide_init(void);
extern void decide_add_group(SubscriptionGroup *group);
extern void decide_remove_group(SubscriptionGroup *group);

extern TableRoute *decide_route(RelSchema *schema);
extern bool decide_route_pending(RelSchema *schema);
extern bool decide_watches(Oid relid);
extern void decide_touched(Oid relid);
extern void decide_tell_late(void);
extern void decide_recheck_access(void);
extern void decide_changes(List *routes, bool carefully);
extern void decide_report_error(TableGroup *tg, const ErrorData *error);
extern uint64 decide_errors(void);

#endif							/* RTSYNC_DECIDE_H */
