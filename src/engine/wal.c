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
 * Called by engine.c, outside any transaction: a transaction around the
 * decoding would make it a subtransaction for each decoded one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xlog.h"
#include "access/xlogreader.h"
#include "access/xlogrecovery.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/wal.h"

#define PLUGIN_LIBRARY "rtsync"

/* Look at the clock after so many records of the WAL. */
#define RECORDS_PER_LOOK 64

/* What the file beside the slot holds */
typedef struct EpochFile
{
	uint64		epoch;
	uint64		timeline;		/* in which the epoch began */
} EpochFile;

static MemoryContext WalContext = NULL;
static LogicalDecodingContext *decoding = NULL;
static uint64 epoch;

/* how far the WAL was flushed when we last found nothing more to read */
static XLogRecPtr exhausted_at;

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

/* Make a new epoch and keep it beside the slot. */
static void
epoch_create(void)
{
	EpochFile	file = {.timeline = current_timeline()};
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
 * not be in this one.
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
		file.epoch != 0 && file.timeline == current_timeline();
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
				 errdetail("The server removed WAL that it still needed."),
				 errhint("Check max_slot_wal_keep_size.")));
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

/*
 * Start decoding: open the slot and place the reader.  Raises an error where
 * the server cannot decode, or has no slot to spare.
 */
void
wal_open(void)
{
	MemoryContext old;

	if (GetConfigOption("output_plugin_libraries", true, false) != NULL)
		SetConfigOption("output_plugin_libraries", PLUGIN_LIBRARY,
						PGC_SUSET, PGC_S_SESSION);

	CheckLogicalDecodingRequirements();
	WalContext = AllocSetContextCreate(TopMemoryContext, "rtsync WAL",
									   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(WalContext);
	slot_open();
	decoding = CreateDecodingContext(InvalidXLogRecPtr, NIL, false,
									 XL_ROUTINE(.page_read = page_read,
												.segment_open = wal_segment_open,
												.segment_close = wal_segment_close),
									 prepare_write, do_write, NULL);
	MemoryContextSwitchTo(old);
	clear_decoding_mark();
	XLogBeginRead(decoding->reader, MyReplicationSlot->data.restart_lsn);
	InvalidateSystemCaches();
}

/*
 * Decode what there is, until the WAL ends or pending() exceeds max_bytes at
 * the end of a transaction; returns false if the time, in milliseconds, was
 * up before.  (A transaction is decoded as a whole, whatever time that takes.)
 */
bool
wal_decode(Size max_bytes, Size (*pending) (void), int ms)
{
	MemoryContext old = MemoryContextSwitchTo(WalContext);
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
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
		LogicalDecodingProcessRecord(decoding, decoding->reader);
		CHECK_FOR_INTERRUPTS();
		if (++count % RECORDS_PER_LOOK == 0)
			in_time = GetCurrentTimestamp() < until;
	}
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

/* Is there WAL that was not there when wal_decode found the end? */
bool
wal_has_more(void)
{
	return wal_flushed_lsn() > exhausted_at;
}

/* The end of the last record decoded */
XLogRecPtr
wal_decoded_lsn(void)
{
	XLogRecPtr	lsn = decoding->reader->EndRecPtr;

	return lsn != InvalidXLogRecPtr ? lsn : MyReplicationSlot->data.restart_lsn;
}

/*
 * Let the server remove the WAL that is needed only for transactions that end
 * before lsn.
 */
void
wal_confirm(XLogRecPtr lsn)
{
	LogicalConfirmReceivedLocation(lsn);
	ReplicationSlotMarkDirty();
}

/* Up to where transactions were confirmed: decoding starts there */
XLogRecPtr
wal_confirmed_lsn(void)
{
	return MyReplicationSlot->data.confirmed_flush;
}

/* From where on the server keeps WAL for the slot */
XLogRecPtr
wal_restart_lsn(void)
{
	return MyReplicationSlot->data.restart_lsn;
}

/* The random number that makes the cursors of this slot unique */
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
	slot_drop();
}
