/*-------------------------------------------------------------------------
 *
 * requests.h
 *	  What the gateways ask for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_REQUESTS_H
#define RTSYNC_REQUESTS_H

#include "engine/linkio.h"

/* What the gateways have counted altogether, as the present one last said */
typedef struct GatewayCounts
{
	uint64		frames_sent;
	uint64		bytes_sent;
	uint64		closed_slow;
} GatewayCounts;

extern void requests_init(void);
extern void requests_handle(Link *link, LinkType type, LinkReader *body);
extern const GatewayCounts *requests_gateway_counts(void);

#endif							/* RTSYNC_REQUESTS_H */
