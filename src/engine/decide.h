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

#include "nodes/pg_list.h"

#include "engine/history.h"
#include "engine/route.h"
#include "engine/outcome.h"
#include "engine/render.h"
#include "engine/tables.h"

/* A group that gets a change */
typedef struct Match
{
	struct Match *next;
	TableGroup *tg;
	Outcome		outcome;
	OldPart		old;
	bool		sent;
} Match;

/* A change on its way to the groups of its table */
typedef struct RoutedChange
{
	struct RoutedChange *next;	/* of the same table */
	ChangeRows	rows;			/* schema NULL: a touch, broadcast or gap */
	uint32		seq;
	Oid			touched;		/* a table that policies read */
	HistoryMessage *message;	/* a broadcast */
	bool		gap;			/* or else: changes are missing here */
	RoutePosition place;		/* before it, and its transaction ... */
	bool		ends;			/* ... which has nothing behind it */
	Match	   *matches;
	Match	   *last_match;

	/* private to decide.c */
	Match	   *mark;			/* the last match that is certain */
} RoutedChange;

extern void decide_changes(List *routes, bool carefully);
extern void decide_changes_for(SubscriptionGroup *group, bool carefully);
extern void decide_prepare(TableGroup *tg, TableAccess *access);
extern void decide_verdicts(TableGroup *tg, ChangeRows *rows,
							Verdict *old_verdict, Verdict *new_verdict);
extern const Bitmapset *decide_old_columns(const Match *match);
extern void decide_render_spec(const Match *match, RenderSpec *spec);
extern void decide_report_error(TableGroup *tg, const ErrorData *error);
extern uint64 decide_errors(void);

#endif							/* RTSYNC_DECIDE_H */
