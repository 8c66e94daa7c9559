/*-------------------------------------------------------------------------
 *
 * cursor.h
 *	  The place of an event in the history of a database, as text.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_CURSOR_H
#define RTSYNC_CURSOR_H

#include "postgres.h"

#include "access/xlogdefs.h"

/* What cursor_format needs, with the terminating zero */
#define CURSOR_SIZE 64

/* The sequence number behind a transaction's last change */
#define CURSOR_WHOLE PG_UINT32_MAX

typedef struct Cursor
{
	uint64		epoch;			/* of the slot */
	XLogRecPtr	lsn;			/* start of the commit record */
	uint32		seq;			/* of the change within the transaction */
} Cursor;

extern void cursor_format(const Cursor *cursor, uint64 access, char *buf);
extern bool cursor_parse(const char *text, Cursor *cursor, uint64 *access);

#endif							/* RTSYNC_CURSOR_H */
