/*-------------------------------------------------------------------------
 *
 * watch.h
 *	  Says in the log when something crosses a threshold.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_WATCH_H
#define RTSYNC_WATCH_H

#include "postgres.h"

#include "engine/shared.h"

extern void watch_thresholds(const EngineEntry *entry);

#endif							/* RTSYNC_WATCH_H */
