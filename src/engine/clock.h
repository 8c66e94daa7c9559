/*-------------------------------------------------------------------------
 *
 * clock.h
 *	  A clock that nobody sets, for spans of time.
 *
 * GetCurrentTimestamp() tells the time of day, which an operator or a time
 * service may set: a wait that was measured with it could last for hours, or
 * be over at once.  This clock only goes on, at an even pace, and shows the
 * same in all processes of the machine.  It says nothing about dates: tokens
 * expire, messages are partitioned, and transactions commit by the time of
 * day.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_CLOCK_H
#define RTSYNC_CLOCK_H

#include "postgres.h"

#include "portability/instr_time.h"

/* Microseconds since some moment, the machine's start for example; 0: never */
typedef int64 ClockTime;

static inline ClockTime
clock_now(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (ClockTime) INSTR_TIME_GET_MICROSEC(now);
}

/* The time that it will be in so many milliseconds */
static inline ClockTime
clock_in(int64 ms)
{
	return clock_now() + ms * 1000;
}

/* Has this been so many milliseconds ago?  "Never" has been long ago. */
static inline bool
clock_passed(ClockTime since, int64 ms)
{
	return since == 0 || clock_now() - since >= ms * 1000;
}

/* How many milliseconds remain until then, rounded up; 0: none */
static inline long
clock_ms_until(ClockTime when)
{
	ClockTime	left = when - clock_now();

	return left <= 0 ? 0 : (long) ((left + 999) / 1000);
}

#endif							/* RTSYNC_CLOCK_H */
