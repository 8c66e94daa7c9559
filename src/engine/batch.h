/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  Channels with an interval that get the same in each batch.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_BATCH_H
#define RTSYNC_BATCH_H

#include "nodes/pg_list.h"

#include "engine/subscription.h"

extern bool batch_begin(Channel *channel);
extern List *batch_followers(Channel *leader);
extern List *batch_confirm(Channel *leader, List *followers);
extern SubscriptionGroup *batch_group(const Channel *follower,
									  SubscriptionGroup *group);
extern void batch_move(const Channel *leader, List *followers);
extern void batch_leave(Channel *channel);

#endif							/* RTSYNC_BATCH_H */
