/*-------------------------------------------------------------------------
 *
 * linkio.h
 *	  The engine's end of the link to its gateway.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_LINKIO_H
#define RTSYNC_LINKIO_H

#include "postgres.h"

#include "engine/clock.h"
#include "link/link.h"

/*
 * Messages are collected in "out" with the functions of link.h and leave with
 * linkio_flush.  Everything lives in a context of its own.
 */
typedef struct Link
{
	MemoryContext context;
	pgsocket	sock;
	LinkWriter	out;
	Size		sent;			/* bytes of out that are gone */
	ClockTime	stuck_since;	/* the gateway takes no more; 0: it does */
	char	   *in;
	Size		in_length;
	Size		in_capacity;
	Size		rows_size;		/* of LINK_ROWS that were not taken yet */
	Size		max_body;		/* larger messages from it are malformed */
	bool		broken;			/* ended, or the gateway spoke nonsense */
	int			number;			/* of the gateway, below rtsync.gateways */
	Size		mark;			/* see links_mark */
	bool		listing;		/* it was asked for LINK_LISTED */
	int			connections;	/* as LINK_STATS last said, ... */
	uint64		frames_sent;
	uint64		bytes_sent;
	uint64		closed_slow;
} Link;

typedef void (*LinkHandler) (Link *link, LinkType type, LinkReader *body);

extern Link *linkio_open(pgsocket sock);
extern void linkio_close(Link *link);
extern bool linkio_grow(LinkWriter *writer, size_t size, MemoryContext context,
						size_t least);
extern void linkio_put_text(Link *link, const char *text);
extern void linkio_end(Link *link);
extern void linkio_flush(Link *link);
extern bool linkio_receive(Link *link, LinkHandler handler);
extern Size linkio_pending(const Link *link);
extern bool linkio_stuck(const Link *link, int ms);
extern char *linkio_cstring(LinkString string);

#endif							/* RTSYNC_LINKIO_H */
