/*-------------------------------------------------------------------------
 *
 * rate.h
 *	  Limits of how often something may happen.
 *
 * A bucket that holds as many as the limit says, and is filled again within
 * the window.  It is kept as the time when it will be full.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_RATE_H
#define GATEWAY_RATE_H

#include <stdbool.h>
#include <stdint.h>

/* All zero is a full one. */
typedef struct Rate
{
	uint64_t	full_at;		/* microseconds */
} Rate;

/* May it happen once more?  The window is in ms; a limit of 0 is none. */
static inline bool
rate_allows(Rate *rate, uint64_t now_ms, uint32_t limit, uint32_t window_ms)
{
	uint64_t	now = now_ms * 1000;
	uint64_t	window = (uint64_t) window_ms * 1000;
	uint64_t	start = rate->full_at > now ? rate->full_at : now;

	if (limit == 0)
		return true;
	if (start + window / limit > now + window)
		return false;
	rate->full_at = start + window / limit;
	return true;
}

/* How often may it happen more at once?  The limit is not 0. */
static inline uint32_t
rate_left(const Rate *rate, uint64_t now_ms, uint32_t limit, uint32_t window_ms)
{
	uint64_t	now = now_ms * 1000;
	uint64_t	window = (uint64_t) window_ms * 1000;
	uint64_t	start = rate->full_at > now ? rate->full_at : now;
	uint64_t	step = window / limit > 0 ? window / limit : 1;
	uint64_t	left = start < now + window ? (now + window - start) / step : 0;

	return left < limit ? (uint32_t) left : limit;
}

#endif							/* GATEWAY_RATE_H */
