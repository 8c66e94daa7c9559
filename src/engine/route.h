/*-------------------------------------------------------------------------
 *
 * route.h
 *	  Takes transactions from the history to the groups that may see them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_ROUTE_H
#define RTSYNC_ROUTE_H

#include "postgres.h"

#include "access/xlogdefs.h"

#include "engine/cursor.h"
#include "engine/history.h"
#include "engine/linkio.h"

struct Channel;
struct SnapshotView;

typedef enum RouteState
{
	ROUTE_IDLE,					/* nothing left to route */
	ROUTE_MORE,					/* call again */
	ROUTE_BLOCKED,				/* the next transaction is not visible yet */
	ROUTE_CONGESTED				/* the gateway does not take what it has */
} RouteState;

/* Up to where changes were routed: a place between two records */
typedef struct RoutePosition
{
	uint64		position;		/* in the history's stream */
	HistoryTxn	txn;			/* the transaction there */
	uint32		seq;			/* its last change before the place */
} RoutePosition;

extern void route_init(XLogRecPtr confirmed);
extern void route_reset(XLogRecPtr confirmed);
extern RouteState route_run(void);
extern void route_cursor(const RoutePosition *place, Cursor *cursor);
extern void route_position(RoutePosition *place);
extern bool route_late(struct Channel *channel);
extern bool route_skip(RoutePosition *place, const struct SnapshotView *view);
extern bool route_caught_up(const RoutePosition *place);
extern bool route_passed(XLogRecPtr lsn);
extern Size route_unread(void);
extern XLogRecPtr route_done_lsn(void);
extern uint64 route_events(void);

#endif							/* RTSYNC_ROUTE_H */
