/*-------------------------------------------------------------------------
 *
 * catalogs.h
 *	  Keeps the catalogs of the past and of the present apart.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_CATALOGS_H
#define RTSYNC_CATALOGS_H

#include "postgres.h"

#include "access/xlogdefs.h"

extern void catalogs_enter_past(XLogRecPtr decoded);
extern void catalogs_begin(XLogRecPtr decoded);
extern void catalogs_commit(void);
extern void catalogs_abort(void);

#endif							/* RTSYNC_CATALOGS_H */
