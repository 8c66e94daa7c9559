/*-------------------------------------------------------------------------
 *
 * metrics.h
 *	  What the gateway counts and measures for Prometheus.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_METRICS_H
#define GATEWAY_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/memory.h"

#define METRICS_MAX_BUCKETS 16
#define METRICS_MAX_LABELS 32

/* How often values were at most the bounds of metrics.c, the last having none */
typedef struct Histogram
{
	uint64_t	buckets[METRICS_MAX_BUCKETS];
	double		sum;
} Histogram;

/* All zero at the start; counters by label are in the order of metrics.c. */
typedef struct Metrics
{
	uint64_t	started;		/* seconds of the Unix epoch */
	uint64_t	opened;			/* WebSockets */
	uint64_t	closed[METRICS_MAX_LABELS]; /* by code */
	uint64_t	responses[METRICS_MAX_LABELS];	/* by HTTP status */
	uint64_t	joins[METRICS_MAX_LABELS];	/* by result */
	uint64_t	received_messages;
	uint64_t	received_bytes;
	uint64_t	queued_bytes;	/* frames that wait, of all clients */
	Histogram	commit_to_send; /* seconds */
	Histogram	blocked_queue;	/* bytes */
} Metrics;

/* What is counted elsewhere, or is so now */
typedef struct MetricsNow
{
	bool		ready;
	double		engine_silence; /* seconds */
	uint32_t	connections;
	uint32_t	max_connections;
	uint32_t	channels;
	uint64_t	frames_sent;
	uint64_t	bytes_sent;
	uint64_t	closed_slow;
} MetricsNow;

/* What one gateway tells the others */
typedef struct MetricsShare
{
	Metrics		counted;
	MetricsNow	now;
} MetricsShare;

extern void metrics_count_close(Metrics *metrics, uint16_t code);
extern void metrics_count_response(Metrics *metrics, Slice response);
extern void metrics_count_join(Metrics *metrics, Slice reason);
extern void metrics_sent_after(Metrics *metrics, double seconds);
extern void metrics_blocked(Metrics *metrics, uint64_t bytes);
extern void metrics_add(MetricsShare *sum, const MetricsShare *other);
extern void metrics_write(const Metrics *metrics, const MetricsNow *now,
						  Buffer *out);

#endif							/* GATEWAY_METRICS_H */
