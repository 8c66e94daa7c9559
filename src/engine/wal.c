/*-------------------------------------------------------------------------
 *
 * wal.c
 *	  Reads the WAL of this database through the engine's own slot.
 *
 * The slot is called rtsync_<database oid> and is made here, in the engine's
 * process, because the server may restrict which libraries can be output
 * plugins (output_plugin_libraries): for its own session a superuser's
 * process may say so itself.
 *
 * The epoch is a random number made with the slot and kept in a file beside
 * it, so that it lives and dies with the slot: event cursors of another epoch
 * mean nothing here.
 *
 * A slot that holds back too much WAL is given up (engine.c says when): it is
 * dropped, and made anew only when all transactions have ended that ran then.
 * A slot that is made while one of them runs would have to wait for it, and
 * hold back WAL all the while.
 *
 * A transaction that cannot be decoded, because of an error in the contents of
 * it (a publication's row filter that divides by zero, say), is skipped: the
 * server has then cleaned up after it, and decoding goes on behind it.  So is
 * one in which the process has died again and again, then or when its changes
 * were decided and rendered (crashes.c).
 *
 * Called by engine.c, outside any transaction: a transaction around the
 * decoding would make it a subtransaction for each decoded one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/heapam_xlog.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogrecovery.h"
#include "access/xlogutils.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/standby.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "engine/clock.h"
#include "engine/compat.h"
#include "engine/crashes.h"
#include "engine/restartpoint.h"
#include "engine/settings.h"
#include "engine/wal.h"

#define PLUGIN_LIBRARY "rtsync"

/* Look at the clock after so many records of the WAL. */
#define RECORDS_PER_LOOK 64

/* Places where decoding could start again are kept so far apart, in bytes. */
#define RESTART_POINT_DISTANCE \
	((XLogRecPtr) rtsync_max_retained_wal * (1024 * 1024 / 128))

/* What the file beside the slot holds */
typedef struct EpochFile
{
	uint64		epoch;
	uint64		timeline;		/* in which the epoch began */
	uint64		publication;	/* a hash of its name */
} EpochFile;

static MemoryContext WalContext = NULL;
static LogicalDecodingContext *decoding = NULL;
static uint64 epoch;

/* The server's callback, and whether it is not to be called */
static ReorderBufferBeginCB begin_transaction;
static bool skip_this;

/* how far the WAL was flushed when we last found nothing more to read */
static XLogRecPtr exhausted_at;

/* while there is no slot: how far decoding had got when it was given up, and
 * the first transaction that had not begun then */
static XLogRecPtr given_up_at;
static TransactionId wait_for;

/* The name of this database's slot */
const char *
wal_slot_name(void)
{
	static char name[NAMEDATALEN];

	snprintf(name, sizeof(name), "rtsync_%u", MyDatabaseId);
	return name;
}

/*
 * Read a WAL page as far as it is flushed; never wait.  At the end of the WAL
 * XLogReadRecord returns nothing, without an error, and can be called again.
 */
static int
page_read(XLogReaderState *reader, XLogRecPtr page, int length,
		  XLogRecPtr record, char *buffer)
{
	XLogRecPtr	flushed;
	TimeLineID	tli;
	WALReadError error;
	int			count;

	flushed = RecoveryInProgress() ?
		GetXLogReplayRecPtr(&tli) : GetFlushRecPtr(&tli);
	if (page + length > flushed)
	{
		exhausted_at = flushed;
		return -1;
	}
	XLogReadDetermineTimeline(reader, page, length, tli);
	if (reader->currTLI != tli)
		tli = reader->currTLI;
	count = (int) Min((XLogRecPtr) XLOG_BLCKSZ, flushed - page);
	if (!WALRead(reader, buffer, page, count, tli, &error))
		WALReadRaiseError(&error);
	return count;
}

/* The engine's plugin has a sink, so nothing is ever written. */
static void
prepare_write(LogicalDecodingContext *ctx, XLogRecPtr lsn, TransactionId xid,
			  bool last_write)
{
}

static void
do_write(LogicalDecodingContext *ctx, XLogRecPtr lsn, TransactionId xid,
		 bool last_write)
{
}

static void
epoch_path(char *path)
{
	snprintf(path, MAXPGPATH, "pg_replslot/%s/rtsync.epoch", wal_slot_name());
}

/* The timeline that the server writes or, on a standby, follows */
static TimeLineID
current_timeline(void)
{
	TimeLineID	tli;

	if (RecoveryInProgress())
		(void) GetXLogReplayRecPtr(&tli);
	else
		tli = GetWALInsertionTimeLine();
	return tli;
}

/* The name of the publication that is decoded, as a number */
static uint64
current_publication(void)
{
	return hash_bytes_extended((const unsigned char *) rtsync_publication,
							   strlen(rtsync_publication), 0);
}

/* Make a new epoch and keep it beside the slot. */
static void
epoch_create(void)
{
	EpochFile	file = {
		.timeline = current_timeline(),
		.publication = current_publication()
	};
	char		path[MAXPGPATH];
	int			fd;

	do
	{
		if (!pg_strong_random(&file.epoch, sizeof(file.epoch)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random epoch")));
		file.epoch &= PG_INT64_MAX;
	} while (file.epoch == 0);
	epoch = file.epoch;

	epoch_path(path);
	fd = OpenTransientFile(path, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0 ||
		write(fd, &file, sizeof(file)) != sizeof(file) ||
		pg_fsync(fd) != 0 || CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
}

/*
 * Read the slot's epoch.  A slot without one gets a new one, and so does one
 * that has come to another timeline: what was committed on the old one may
 * not be in this one.  If another publication is decoded, the changes of a
 * transaction are not counted as they were.
 */
static void
epoch_load(void)
{
	EpochFile	file = {0};
	char		path[MAXPGPATH];
	int			fd;
	bool		ok;

	epoch_path(path);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	ok = fd >= 0 && read(fd, &file, sizeof(file)) == sizeof(file) &&
		file.epoch != 0 && file.timeline == current_timeline() &&
		file.publication == current_publication();
	if (fd >= 0)
		CloseTransientFile(fd);
	if (ok)
		epoch = file.epoch;
	else
		epoch_create();
}

/* Make the slot; waits until the transactions that run now have ended. */
static void
slot_create(void)
{
	LogicalDecodingContext *ctx;

	compat_slot_create(wal_slot_name());
	ctx = CreateInitDecodingContext(PLUGIN_LIBRARY, NIL, false,
									InvalidXLogRecPtr,
									XL_ROUTINE(.page_read = read_local_xlog_page,
											   .segment_open = wal_segment_open,
											   .segment_close = wal_segment_close),
									prepare_write, do_write, NULL);
	DecodingContextFindStartpoint(ctx);
	FreeDecodingContext(ctx);
	ReplicationSlotPersist();
	epoch_create();
	ereport(LOG,
			(errmsg("rtsync created replication slot \"%s\"", wal_slot_name())));
}

static bool
slot_exists(void)
{
	return SearchNamedReplicationSlot(wal_slot_name(), true) != NULL;
}

static void
slot_drop(void)
{
	if (MyReplicationSlot != NULL)
		ReplicationSlotRelease();
	ReplicationSlotDrop(wal_slot_name(), false);
}

/* Acquire the slot, or make it where there is none that can be used. */
static void
slot_open(void)
{
	if (slot_exists())
	{
		compat_slot_acquire(wal_slot_name());
		if (!compat_slot_invalidated())
		{
			epoch_load();
			return;
		}
		ereport(LOG,
				(errmsg("replication slot \"%s\" was invalidated and is created anew",
						wal_slot_name()),
				 errdetail("The server no longer keeps what it still needed."),
				 errhint("Check max_slot_wal_keep_size, and idle_replication_slot_timeout where the server has it.")));
		slot_drop();
	}
	slot_create();
}

/*
 * Decoding marks a process as one whose snapshots hold back nothing, since a
 * slot does that.  The engine also runs queries of its own (policies), whose
 * snapshots must count like everybody's.
 */
static void
clear_decoding_mark(void)
{
	LWLockAcquire(ProcArrayLock, LW_EXCLUSIVE);
	MyProc->statusFlags &= ~PROC_IN_LOGICAL_DECODING;
	ProcGlobal->statusFlags[MyProc->pgxactoff] = MyProc->statusFlags;
	LWLockRelease(ProcArrayLock);
}

/* A transaction is decoded from its begin on, if it contains anything. */
static void
begin_unless_skipped(ReorderBuffer *buffer, ReorderBufferTXN *txn)
{
	if (skip_this)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("the engine has died %d times in it", MAX_CRASHES)));
	begin_transaction(buffer, txn);
}

static void
start_decoding(void)
{
	MemoryContext old = MemoryContextSwitchTo(WalContext);

	slot_open();
	restartpoint_reset();
	decoding = CreateDecodingContext(InvalidXLogRecPtr, NIL, false,
									 XL_ROUTINE(.page_read = page_read,
												.segment_open = wal_segment_open,
												.segment_close = wal_segment_close),
									 prepare_write, do_write, NULL);
	MemoryContextSwitchTo(old);
	begin_transaction = decoding->reorder->begin;
	decoding->reorder->begin = begin_unless_skipped;
	crashes_open(wal_slot_name());
	clear_decoding_mark();
	XLogBeginRead(decoding->reader, MyReplicationSlot->data.restart_lsn);
	exhausted_at = InvalidXLogRecPtr;
	InvalidateSystemCaches();
}

/* From here on a slot can only be made when what runs now has ended. */
static void
expect_slot(void)
{
	wait_for = ReadNextTransactionId();
}

/* What an existing slot holds back */
static XLogRecPtr
slot_retains(void)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(wal_slot_name(), true);
	XLogRecPtr	restart_lsn;

	if (slot == NULL)
		return 0;
	SpinLockAcquire(&slot->mutex);
	restart_lsn = slot->data.restart_lsn;
	SpinLockRelease(&slot->mutex);
	if (restart_lsn == InvalidXLogRecPtr || restart_lsn > wal_flushed_lsn())
		return 0;
	return wal_flushed_lsn() - restart_lsn;
}

static void
report_given_up(XLogRecPtr retained)
{
	ereport(LOG,
			(errmsg("rtsync gives up replication slot \"%s\" and its history: it keeps %llu MB of WAL",
					wal_slot_name(),
					(unsigned long long) (retained / (1024 * 1024))),
			 errdetail("Clients will be told to fetch their rows again."),
			 errhint("Consider increasing the configuration parameter \"rtsync.max_retained_wal\".")));
}

/*
 * Prepare, and drop a slot that holds back more WAL than "limit" already.
 * Raises an error where the server cannot decode.
 */
void
wal_init(XLogRecPtr limit)
{
	if (GetConfigOption("output_plugin_libraries", true, false) != NULL)
		SetConfigOption("output_plugin_libraries", PLUGIN_LIBRARY,
						PGC_SUSET, PGC_S_SESSION);

	CheckLogicalDecodingRequirements();
	WalContext = AllocSetContextCreate(TopMemoryContext, "rtsync WAL",
									   ALLOCSET_DEFAULT_SIZES);
	if (slot_retains() > limit)
	{
		report_given_up(slot_retains());
		slot_drop();
	}
	expect_slot();
}

/*
 * Start decoding: open the slot, or make it, and place the reader.  Returns
 * false if there is none and it has to wait for transactions that still run.
 * Raises an error where the server has no slot to spare.
 */
bool
wal_open(void)
{
	if (!slot_exists() && !RecoveryInProgress() &&
		TransactionIdPrecedes(GetOldestActiveTransactionId(), wait_for))
		return false;
	start_decoding();
	return true;
}

/* Is there a slot that is decoded from? */
bool
wal_is_open(void)
{
	return decoding != NULL;
}

/* Give up the slot, with all that was not decoded yet. */
void
wal_give_up(void)
{
	report_given_up(wal_retained());
	given_up_at = wal_decoded_lsn();
	FreeDecodingContext(decoding);
	decoding = NULL;
	crashes_close();
	epoch = 0;
	slot_drop();
	expect_slot();
}

/* Bytes of WAL that the slot holds back */
XLogRecPtr
wal_retained(void)
{
	XLogRecPtr	flushed = wal_flushed_lsn();

	if (decoding == NULL || flushed < MyReplicationSlot->data.restart_lsn)
		return 0;
	return flushed - MyReplicationSlot->data.restart_lsn;
}

/*--------------------------------------------------------------------------
 * Decoding
 *--------------------------------------------------------------------------
 */

/*
 * Is it the transaction's own fault that it could not be decoded?  Not if the
 * server lacks something, is asked to end, or has trouble with its files.
 */
static bool
is_poison(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return false;
		default:
			return true;
	}
}

/* An error came out of a commit record: skip the transaction, or raise it. */
static void
skip_transaction(MemoryContext context, WalSkipped skipped)
{
	XLogReaderState *reader = decoding->reader;
	xl_xact_parsed_commit parsed;
	TransactionId xid;
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (!is_poison(error))
		PG_RE_THROW();
	FlushErrorState();
	ParseCommitRecord(XLogRecGetInfo(reader),
					  (xl_xact_commit *) XLogRecGetData(reader), &parsed);
	xid = TransactionIdIsValid(parsed.twophase_xid) ? parsed.twophase_xid :
		XLogRecGetXid(reader);
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("rtsync skipped transaction %u, which committed at %X/%X: %s",
					xid, LSN_FORMAT_ARGS(reader->ReadRecPtr), error->message),
			 errdetail("It could not be decoded.  Clients are told to fetch their rows again."),
			 error->context ? errcontext("%s", error->context) : 0));
	FreeErrorData(error);
	skipped(xid, reader->ReadRecPtr, reader->EndRecPtr);
}

/* Is this the record with which a transaction is decoded? */
static bool
is_commit(XLogReaderState *reader)
{
	uint8		info = XLogRecGetInfo(reader) & XLOG_XACT_OPMASK;

	return XLogRecGetRmid(reader) == RM_XACT_ID &&
		(info == XLOG_XACT_COMMIT || info == XLOG_XACT_COMMIT_PREPARED);
}

static void
process_record(WalSkipped skipped)
{
	MemoryContext context = CurrentMemoryContext;

	if (!is_commit(decoding->reader))
	{
		LogicalDecodingProcessRecord(decoding, decoding->reader);
		return;
	}
	PG_TRY();
	{
		skip_this = crashes_begin(decoding->reader->ReadRecPtr);
		LogicalDecodingProcessRecord(decoding, decoding->reader);
		crashes_end(true);
	}
	PG_CATCH();
	{
		crashes_end(false);
		skip_transaction(context, skipped);
	}
	PG_END_TRY();
	skip_this = false;
}

/*
 * Decode what there is, until the WAL ends or pending() exceeds max_bytes at
 * the end of a transaction; returns false if the time, in milliseconds, was
 * up before.  (A transaction is decoded as a whole, whatever time that takes.)
 * "skipped" is told of transactions that could not be decoded; some of their
 * changes may have been given to the sink.
 */
bool
wal_decode(Size max_bytes, Size (*pending) (void), WalSkipped skipped, int ms)
{
	MemoryContext old = MemoryContextSwitchTo(WalContext);
	ClockTime	until = clock_in(ms);
	uint32		count = 0;
	bool		in_time = true;

	while (in_time && pending() <= max_bytes)
	{
		char	   *error = NULL;
		XLogRecord *record = XLogReadRecord(decoding->reader, &error);

		if (error != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("could not read WAL at %X/%X: %s",
							LSN_FORMAT_ARGS(decoding->reader->EndRecPtr),
							error)));
		if (record == NULL)
			break;
		process_record(skipped);
		CHECK_FOR_INTERRUPTS();
		if (++count % RECORDS_PER_LOOK == 0)
			in_time = clock_now() < until;
	}
	restartpoint_take(RESTART_POINT_DISTANCE);
	MemoryContextSwitchTo(old);
	return in_time;
}

/* Up to where there is WAL to decode */
XLogRecPtr
wal_flushed_lsn(void)
{
	TimeLineID	tli;

	return RecoveryInProgress() ?
		GetXLogReplayRecPtr(&tli) : GetFlushRecPtr(&tli);
}

/* Up to where changes can have been committed */
XLogRecPtr
wal_written_lsn(void)
{
	XLogRecPtr	lsn;

	if (RecoveryInProgress())
		return wal_flushed_lsn();
	lsn = GetXLogInsertRecPtr();

	/* at the start of a page it counts the header, which nobody wrote yet */
	if (XLogSegmentOffset(lsn, wal_segment_size) == SizeOfXLogLongPHD)
		lsn -= SizeOfXLogLongPHD;
	else if (lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		lsn -= SizeOfXLogShortPHD;
	return lsn;
}

/*
 * Let what was written up to this place be decoded soon, also what was
 * committed with synchronous_commit off.
 */
void
wal_flush_soon(XLogRecPtr lsn)
{
	if (!RecoveryInProgress())
		XLogSetAsyncXactLSN(lsn);
}

/* Is there WAL that was not there when wal_decode found the end? */
bool
wal_has_more(void)
{
	return decoding != NULL && wal_flushed_lsn() > exhausted_at;
}

/* The end of the last record decoded */
XLogRecPtr
wal_decoded_lsn(void)
{
	XLogRecPtr	lsn;

	if (decoding == NULL)
		return given_up_at;
	lsn = decoding->reader->EndRecPtr;
	return lsn != InvalidXLogRecPtr ? lsn : MyReplicationSlot->data.restart_lsn;
}

/*
 * Let the server remove the WAL that is needed only for transactions that end
 * before lsn.
 */
void
wal_confirm(XLogRecPtr lsn)
{
	restartpoint_offer(lsn);
	LogicalConfirmReceivedLocation(lsn);
	ReplicationSlotMarkDirty();
	ReplicationSlotsComputeRequiredLSN();
}

/*
 * What the slot holds back follows what is confirmed only where the WAL tells
 * which transactions were running; the server writes that every 15 seconds.
 * Have it written now, if there are "distance" bytes of WAL since we last did.
 */
void
wal_log_running(XLogRecPtr distance)
{
	static XLogRecPtr last = InvalidXLogRecPtr;

	if (RecoveryInProgress() || wal_flushed_lsn() < last + distance)
		return;
	last = LogStandbySnapshot();
}

/* Up to where transactions were confirmed: decoding starts there */
XLogRecPtr
wal_confirmed_lsn(void)
{
	return decoding != NULL ? MyReplicationSlot->data.confirmed_flush :
		given_up_at;
}

/* From where on the server keeps WAL for the slot */
XLogRecPtr
wal_restart_lsn(void)
{
	return decoding != NULL ? MyReplicationSlot->data.restart_lsn :
		InvalidXLogRecPtr;
}

/* The random number that makes the cursors of this slot unique; 0: no slot */
uint64
wal_epoch(void)
{
	return epoch;
}

/* Drop the slot for good (the extension is gone); ends the decoding. */
void
wal_drop_slot(void)
{
	if (!slot_exists())
		return;
	decoding = NULL;
	crashes_close();
	slot_drop();
}

/* The process ends, in good order. */
void
wal_goodbye(void)
{
	crashes_end(false);
}
