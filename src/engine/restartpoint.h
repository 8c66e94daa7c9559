/*-------------------------------------------------------------------------
 *
 * restartpoint.h
 *	  Where decoding could start again, and what the slot needs for that.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_RESTARTPOINT_H
#define RTSYNC_RESTARTPOINT_H

#include "postgres.h"

#include "access/xlogdefs.h"

extern void restartpoint_take(XLogRecPtr distance);
extern void restartpoint_offer(XLogRecPtr lsn);
extern void restartpoint_reset(void);

#endif							/* RTSYNC_RESTARTPOINT_H */
