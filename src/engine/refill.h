/*-------------------------------------------------------------------------
 *
 * refill.h
 *	  Values that the WAL does not hold.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_REFILL_H
#define RTSYNC_REFILL_H

#include "engine/history.h"

extern void refill_rows(ChangeRows *rows);

#endif							/* RTSYNC_REFILL_H */
