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

extern ErrorData *attempt(void (*function) (void *arg), void *arg);

#endif							/* RTSYNC_ATTEMPT_H */
