/*-------------------------------------------------------------------------
 *
 * history.h
 *	  The decoded transactions of the recent past, in commit order.
 *
 * The WAL is the history, this is its cache in the engine's memory: bounded
 * by rtsync.history_size, written by the output plugin's sink at one end,
 * forgotten at the other, and rebuilt by decoding again after a restart,
 * because the slot's confirmed position never passes its oldest transaction.
 *
 * It is a stream of records in chunks.  A record is one begin, one change, one
 * touch, one message, one gap or one commit; records are MAXALIGNed, so that the tuples
 * in them can be used where they lie.  A message that is not transactional is
 * between transactions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_HISTORY_H
#define RTSYNC_HISTORY_H

#include "postgres.h"

#include "access/htup.h"
#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

#include "engine/plugin.h"
#include "engine/schema.h"

typedef enum HistoryRecordType
{
	HISTORY_BEGIN,
	HISTORY_CHANGE,
	HISTORY_TOUCH,
	HISTORY_MESSAGE,
	HISTORY_GAP,				/* not all of the transaction is here */
	HISTORY_COMMIT
} HistoryRecordType;

/* What all records begin with */
typedef struct HistoryRecord
{
	uint32		size;			/* of the record, MAXALIGNed */
	uint32		type;			/* a HistoryRecordType */
} HistoryRecord;

/* HISTORY_BEGIN: the transaction that the following records belong to */
typedef struct HistoryTxn
{
	HistoryRecord head;
	TransactionId xid;
	XLogRecPtr	commit_lsn;		/* start of the commit record: the cursor */
	XLogRecPtr	end_lsn;		/* its end: where decoding may resume */
	TimestampTz commit_time;
} HistoryTxn;

/* HISTORY_CHANGE; read it through history_rows */
typedef struct HistoryChange
{
	HistoryRecord head;
	XLogRecPtr	lsn;
	RelSchema  *schema;			/* holds a reference */
	uint32		seq;			/* from 1 within the transaction */
	uint32		oldlen;			/* bytes of the old tuple, 0 if none */
	uint32		newlen;			/* likewise */
	uint16		nmissing;
	ChangeKind	kind;
	AttrNumber	missing[FLEXIBLE_ARRAY_MEMBER];
	/* then, MAXALIGNed, the old tuple and the new one */
} HistoryChange;

/* HISTORY_TOUCH: the transaction changed this table, whose rows policies read */
typedef struct HistoryTouch
{
	HistoryRecord head;
	Oid			relid;
} HistoryTouch;

/* HISTORY_MESSAGE: a broadcast, known to be genuine; for message_read */
typedef struct HistoryMessage
{
	HistoryRecord head;
	uint32		size;			/* of the data */
	char		data[FLEXIBLE_ARRAY_MEMBER];
} HistoryMessage;

/* A change as its readers see it; the tuples lie in the record */
typedef struct ChangeRows
{
	ChangeKind	kind;
	RelSchema  *schema;
	bool		has_old;		/* something of the old row is known: the
								 * columns of schema->identity */
	bool		has_new;
	HeapTupleData oldtuple;
	HeapTupleData newtuple;
	Bitmapset  *new_known;		/* attnums that are known of the new row;
								 * NULL: all */
} ChangeRows;

/* A place in the stream, between two records */
typedef struct HistoryCursor
{
	struct HistoryChunk *chunk; /* NULL: nothing read yet */
	Size		offset;
} HistoryCursor;


extern void history_init(XLogRecPtr confirmed, HistoryCursor *live);
extern void history_fill_sink(PluginSink *sink);
extern HistoryRecord *history_next(HistoryCursor *cursor);
extern HistoryRecord *history_peek(HistoryCursor *cursor);
extern uint64 history_tell(const HistoryCursor *cursor);
extern bool history_seek(HistoryCursor *cursor, uint64 position);
extern bool history_find(XLogRecPtr lsn, uint32 seq, uint64 *position,
						 HistoryTxn *txn);
extern void history_rows(HistoryChange *change, ChangeRows *rows);

extern void history_gap(TransactionId xid, XLogRecPtr commit_lsn,
						XLogRecPtr end_lsn);
extern void history_reset(XLogRecPtr confirmed);
extern void history_forget(XLogRecPtr older_than);
extern Size history_unread(const HistoryCursor *cursor);
extern bool history_in_transaction(void);
extern XLogRecPtr history_resume_lsn(XLogRecPtr decoded);
extern Size history_size(void);
extern TimestampTz history_oldest(void);
extern uint64 history_transactions(void);
extern uint64 history_changes(void);

#endif							/* RTSYNC_HISTORY_H */
