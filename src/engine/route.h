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

#include "engine/linkio.h"

typedef enum RouteState
{
	ROUTE_IDLE,					/* nothing left to route */
	ROUTE_MORE,					/* call again */
	ROUTE_BLOCKED,				/* the next transaction is not visible yet */
	ROUTE_CONGESTED				/* the gateway does not take what it has */
} RouteState;

extern void route_init(void);
extern RouteState route_run(Link *link);
extern Size route_unread(void);
extern void route_forget_history(XLogRecPtr older_than);
extern XLogRecPtr route_done_lsn(void);
extern uint64 route_events(void);

#endif							/* RTSYNC_ROUTE_H */
