/*-------------------------------------------------------------------------
 *
 * monitor.h
 *	  Health and metrics over HTTP, and the list of connections.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_MONITOR_H
#define GATEWAY_MONITOR_H

#include <uv.h>

#include "gateway/config.h"
#include "gateway/connection.h"
#include "gateway/metrics.h"
#include "gateway/request.h"

#define MONITOR_MAX_COMMITS 128

typedef struct Monitor
{
	bool		ready;			/* as the engine last said */
	uint64_t	heard_at;		/* when it did, ms; 0: never */
	Buffer		reason;			/* why it is not ready */
	Buffer		metrics;		/* of the engine, text */
	MetricsShare *others[GATEWAY_MAX_NUMBER + 1];	/* what other gateways
													 * said last, or NULL */
	uint64_t	commits[MONITOR_MAX_COMMITS];	/* whose changes leave at the
												 * end of this turn */
	uint32_t	n_commits;
	bool		listing;		/* somebody wants a list of connections */
	uint32_t	list_request;
	Connection *list_next;		/* the next to be put there, or NULL */
	uv_idle_t	lister;			/* active meanwhile */
} Monitor;

extern void monitor_init(void);

/* From the engine */
extern void monitor_heard(bool ready, Slice reason, Slice metrics);
extern void monitor_committed(uint64_t commit_time);
extern void monitor_list(uint32_t request);
extern void monitor_counted(uint32_t number, Slice share);
extern void monitor_gone(uint32_t number);

/* About once a second */
extern void monitor_tell(void);

/* From clients */
extern bool monitor_concerns(const Request *request);
extern void monitor_answer(const Request *request, Buffer *response);

/* From connections */
extern void monitor_flushed(void);
extern void monitor_forget(const Connection *connection);

#endif							/* GATEWAY_MONITOR_H */
