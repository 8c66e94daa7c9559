/*-------------------------------------------------------------------------
 *
 * metrics.h
 *	  What the engine counts and measures for Prometheus.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_METRICS_H
#define RTSYNC_METRICS_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "portability/instr_time.h"

#include "engine/shared.h"

extern void metrics_decided(const instr_time *started);
extern void metrics_refetch(RefetchReason reason);
extern void metrics_refetches(uint64 *counts);
extern const char *metrics_refetch_name(RefetchReason reason);
extern void metrics_render(StringInfo out, const EngineEntry *entry,
						   const char *database);

#endif							/* RTSYNC_METRICS_H */
