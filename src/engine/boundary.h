/*-------------------------------------------------------------------------
 *
 * boundary.h
 *	  Where transactions end, for clients that want cursors.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_BOUNDARY_H
#define RTSYNC_BOUNDARY_H

#include "nodes/pg_list.h"

#include "engine/subscription.h"

extern void boundary_event(SubscriptionGroup *group);
extern bool boundary_is_open(const Channel *channel);
extern void boundary_move(const SubscriptionGroup *from, SubscriptionGroup *to);
extern void boundary_forget(SubscriptionGroup *group);
extern void boundary_enter(Channel *channel);
extern void boundary_send(const Cursor *at);
extern void boundary_send_late(Channel *channel, List *followers, const Cursor *at);
extern void boundary_sent(void);
extern void boundary_undo(void);

#endif							/* RTSYNC_BOUNDARY_H */
