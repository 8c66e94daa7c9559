/*-------------------------------------------------------------------------
 *
 * join.h
 *	  Clients join channels.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_JOIN_H
#define RTSYNC_JOIN_H

#include "engine/linkio.h"

extern void join_handle(Link *link, LinkReader *body);
extern void join_refuse(Link *link, uint64 id, const char *reason);

#endif							/* RTSYNC_JOIN_H */
