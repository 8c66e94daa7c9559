/*-------------------------------------------------------------------------
 *
 * crashes.h
 *	  Which transaction was being decoded when the engine died.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_CRASHES_H
#define RTSYNC_CRASHES_H

#include "postgres.h"

#include "access/xlogdefs.h"

/* A transaction in whose decoding so many engines died is skipped. */
#define MAX_CRASHES 3

extern void crashes_open(const char *slot_name);
extern void crashes_close(void);
extern bool crashes_begin(XLogRecPtr commit_lsn);
extern void crashes_end(bool decoded);

#endif							/* RTSYNC_CRASHES_H */
