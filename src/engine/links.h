/*-------------------------------------------------------------------------
 *
 * links.h
 *	  The links to all gateways of the server, and what goes to all of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_LINKS_H
#define RTSYNC_LINKS_H

#include "postgres.h"

#include "engine/linkio.h"

#define LINKS_MAX 16			/* what rtsync.gateways can be */

/* A gateway that takes nothing for so long holds up nobody else. */
#define LINKS_STALLED_MS 250

extern void links_add(Link *link, int number);
extern void links_remove(Link *link);
extern int	links_count(void);
extern Link *links_get(int number);

extern LinkWriter *links_begin(Link *only, LinkType type);
extern void links_end(Link *only);
extern void links_mark(void);
extern void links_rollback(void);
extern Size links_output(Link *only);
extern bool links_congested(Link *only);
extern bool links_overdue(Link *link);
extern bool links_rows_wait(Size window);
extern void links_count_rows(Size size);

extern LinkWriter *links_begin_relay(LinkType type);
extern void links_end_relay(const Link *from, uint32 to);
extern void links_presence_wanted(Link *link);

#endif							/* RTSYNC_LINKS_H */
