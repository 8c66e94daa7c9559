/*-------------------------------------------------------------------------
 *
 * wal.h
 *	  Reads the WAL of this database through the engine's own slot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_WAL_H
#define RTSYNC_WAL_H

#include "postgres.h"

#include "access/xlogdefs.h"

/* Told of a transaction that could not be decoded */
typedef void (*WalSkipped) (TransactionId xid, XLogRecPtr commit_lsn,
							XLogRecPtr end_lsn);

extern const char *wal_slot_name(void);
extern void wal_init(XLogRecPtr limit);
extern bool wal_open(void);
extern bool wal_is_open(void);
extern void wal_give_up(void);
extern XLogRecPtr wal_retained(void);
extern bool wal_decode(Size max_bytes, Size (*pending) (void),
					   WalSkipped skipped, int ms);
extern void wal_log_running(XLogRecPtr distance);
extern XLogRecPtr wal_flushed_lsn(void);
extern XLogRecPtr wal_written_lsn(void);
extern void wal_flush_soon(XLogRecPtr lsn);
extern bool wal_has_more(void);
extern XLogRecPtr wal_decoded_lsn(void);
extern void wal_confirm(XLogRecPtr lsn);
extern XLogRecPtr wal_confirmed_lsn(void);
extern XLogRecPtr wal_restart_lsn(void);
extern uint64 wal_epoch(void);
extern void wal_drop_slot(void);
extern void wal_goodbye(void);

#endif							/* RTSYNC_WAL_H */
