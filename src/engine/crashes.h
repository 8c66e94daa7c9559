/*-------------------------------------------------------------------------
 *
 * crashes.h
 *	  Which transaction was at hand when the engine died.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_CRASHES_H
#define RTSYNC_CRASHES_H

#include "postgres.h"

#include "access/xlogdefs.h"

/* A transaction in which so many engines died is skipped. */
#define MAX_CRASHES 3

extern void crashes_open(const char *slot_name);
extern void crashes_close(void);
extern bool crashes_begin(XLogRecPtr commit_lsn);
extern void crashes_begin_routing(XLogRecPtr first, XLogRecPtr last);
extern void crashes_end(bool decoded);
extern bool crashes_suspects(XLogRecPtr commit_lsn);

#endif							/* RTSYNC_CRASHES_H */
