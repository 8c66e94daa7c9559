/*-------------------------------------------------------------------------
 *
 * relay.h
 *	  What clients of one gateway say to those of others.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_RELAY_H
#define RTSYNC_RELAY_H

#include "engine/subscription.h"

extern void relay_message(Link *link, LinkType type, LinkReader *body);
extern void relay_broadcast(const Link *from, bool private, LinkString topic,
							LinkReader *body);
extern void relay_untrack(Channel *channel);

#endif							/* RTSYNC_RELAY_H */
