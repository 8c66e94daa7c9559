/*-------------------------------------------------------------------------
 *
 * engine_link.h
 *	  The gateway's end of the link to the engine.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_ENGINE_LINK_H
#define GATEWAY_ENGINE_LINK_H

#include <uv.h>

#include "gateway/memory.h"
#include "link/link.h"

typedef struct EngineLink
{
	uv_poll_t	poll;
	uv_idle_t	more;			/* active while whole messages wait in "in" */
	int			fd;
	bool		greeted;		/* LINK_HELLO was received */
	int			events;			/* what poll waits for */
	Buffer		in;				/* received; the next message is at in_start */
	size_t		in_start;
	LinkWriter	out;			/* to be sent from out_sent on */
	size_t		out_sent;
} EngineLink;

extern void engine_link_start(int fd);
extern LinkWriter *engine_link_begin(LinkType type);
extern bool engine_link_end(void);
extern bool engine_link_end_relay(void);
extern void engine_link_flush(void);
extern bool engine_link_congested(void);

#endif							/* GATEWAY_ENGINE_LINK_H */
