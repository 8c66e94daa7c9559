/*-------------------------------------------------------------------------
 *
 * attempt.h
 *	  Doing something that may fail without failing with it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_ATTEMPT_H
#define RTSYNC_ATTEMPT_H

#include "postgres.h"

#include "engine/clock.h"

extern ErrorData *attempt(void (*function) (void *arg), void *arg);
extern ErrorData *attempt_briefly(void (*function) (void *arg), void *arg);
extern bool attempt_met_lock(const ErrorData *error);
extern int	attempt_limit_waits(void);
extern bool attempt_waited(ClockTime since);

#endif							/* RTSYNC_ATTEMPT_H */
