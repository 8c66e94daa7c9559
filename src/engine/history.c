/*-------------------------------------------------------------------------
 *
 * history.c
 *	  The decoded transactions of the recent past, in commit order.
 *
 * Owned by the engine's process: the plugin's sink (below) appends, route.c
 * reads.  Chunks live in HistoryContext, oldest first.  A chunk is given back
 * as a whole, and only when the reader has passed it.
 *
 * The engine stops decoding between transactions while much is unread, but a
 * transaction comes as a whole, however large it is.  What exceeds
 * rtsync.history_size then goes to a temporary file and comes back chunk by
 * chunk when it is read.  (Records hold pointers to schemas, which stay valid:
 * the file is this process's own.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "lib/ilist.h"
#include "storage/buffile.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/cursor.h"
#include "engine/history.h"
#include "engine/message.h"
#include "engine/settings.h"

#define CHUNK_SIZE ((Size) 256 * 1024)

/* Transactions in one chunk end within this part of rtsync.max_retained_wal. */
#define SPAN_SHARE 32

typedef struct HistoryChunk
{
	dlist_node	node;
	uint64		start;			/* stream position of data[0] */
	Size		size;			/* of data */
	Size		used;
	XLogRecPtr	first_end_lsn;	/* end_lsn of the first transaction that
								 * begins in this chunk, or of a message that
								 * is not transactional; or invalid */
	XLogRecPtr	begun_end_lsn;	/* of the last one */
	TimestampTz begun_time;		/* commit time of the first of these, or 0 */
	char	   *data;			/* MAXALIGNed; NULL while it is on disk */
	int			spill_file;		/* where on disk, as BufFileTell has it */
	off_t		spill_offset;
} HistoryChunk;

static MemoryContext HistoryContext = NULL;
static dlist_head chunks = DLIST_STATIC_INIT(chunks);
static Size total_size;			/* of the chunks in memory */
static BufFile *spill = NULL;	/* chunks that went to disk */
static int	nspilled;			/* how many chunks are there */
static uint64 stream_end;		/* stream position behind the last record */

/* data of chunks given back, to be used again: fresh memory is slow */
#define MAX_SPARE 16
static char *spare[MAX_SPARE];
static int	nspare;

static HistoryCursor *reader;	/* what it has not passed is kept */

/* transactions up to here have been forgotten, wholly or in part */
static XLogRecPtr forgotten_lsn;

static bool in_transaction;		/* a begin without its commit is at the end */
static uint32 next_seq;
static uint64 transactions;
static uint64 changes;
static uint64 refused_messages; /* that are not what they seem */

/*
 * Prepare an empty history; once in the life of the engine.  "confirmed" is
 * the slot's confirmed position: decoding begins there.  What the cursor
 * "live" has not passed is never forgotten.
 */
void
history_init(XLogRecPtr confirmed, HistoryCursor *live)
{
	Assert(HistoryContext == NULL);
	HistoryContext = AllocSetContextCreate(TopMemoryContext,
										   "rtsync history",
										   ALLOCSET_DEFAULT_SIZES);
	forgotten_lsn = confirmed;
	reader = live;
}

static char *
data_alloc(Size size)
{
	if (size == CHUNK_SIZE && nspare > 0)
		return spare[--nspare];
	return MemoryContextAllocHuge(HistoryContext, size);
}

static void
data_free(char *data, Size size)
{
	if (size == CHUNK_SIZE && nspare < MAX_SPARE)
		spare[nspare++] = data;
	else
		pfree(data);
}

/*
 * Move a chunk to disk.  The file is not bound to the transaction, or its
 * resource owner, in which the first chunk happens to be written.
 */
static void
chunk_spill(HistoryChunk *chunk)
{
	static int	end_file;
	static off_t end_offset;

	if (spill == NULL)
	{
		ResourceOwner owner = CurrentResourceOwner;
		MemoryContext old = MemoryContextSwitchTo(HistoryContext);

		CurrentResourceOwner = NULL;
		spill = BufFileCreateTemp(true);
		CurrentResourceOwner = owner;
		MemoryContextSwitchTo(old);
		BufFileTell(spill, &end_file, &end_offset);
	}
	if (BufFileSeek(spill, end_file, end_offset, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not seek in temporary file of the history")));
	chunk->spill_file = end_file;
	chunk->spill_offset = end_offset;
	BufFileWrite(spill, chunk->data, chunk->used);
	BufFileTell(spill, &end_file, &end_offset);
	nspilled++;
	data_free(chunk->data, chunk->size);
	chunk->data = NULL;
	total_size -= chunk->size;
}

/* Have the chunk's data in memory, where it stays. */
static void
chunk_load(HistoryChunk *chunk)
{
	if (chunk->data != NULL)
		return;
	chunk->data = data_alloc(chunk->size);
	total_size += chunk->size;
	if (BufFileSeek(spill, chunk->spill_file, chunk->spill_offset,
					SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not seek in temporary file of the history")));
	compat_buffile_read(spill, chunk->data, chunk->used);
	if (--nspilled == 0)
	{
		BufFileClose(spill);
		spill = NULL;
	}
}

static HistoryChunk *
chunk_create(Size needed)
{
	HistoryChunk *chunk;

	chunk = MemoryContextAlloc(HistoryContext, sizeof(HistoryChunk));
	chunk->size = Max(CHUNK_SIZE, needed);
	chunk->used = 0;
	chunk->start = stream_end;
	chunk->first_end_lsn = InvalidXLogRecPtr;
	chunk->begun_end_lsn = InvalidXLogRecPtr;
	chunk->begun_time = 0;
	chunk->data = data_alloc(chunk->size);
	dlist_push_tail(&chunks, &chunk->node);
	total_size += chunk->size;
	return chunk;
}

static void
chunk_free(HistoryChunk *chunk)
{
	chunk_load(chunk);
	for (Size offset = 0; offset < chunk->used;)
	{
		HistoryRecord *record = (HistoryRecord *) (chunk->data + offset);

		if (record->type == HISTORY_CHANGE)
			schema_unref(((HistoryChange *) record)->schema);
		offset += record->size;
	}
	if (chunk->begun_end_lsn != InvalidXLogRecPtr)
		forgotten_lsn = chunk->begun_end_lsn;
	dlist_delete(&chunk->node);
	total_size -= chunk->size;
	data_free(chunk->data, chunk->size);
	pfree(chunk);
}

static bool
over_limit(void)
{
	return total_size > (Size) rtsync_history_size * 1024;
}

/*
 * Does a transaction that ends here need another chunk than the last one?  A
 * chunk is forgotten as a whole: where little is published and much else is
 * written, one that is filled up first would never become old.
 */
static bool
ends_too_late(XLogRecPtr end_lsn)
{
	HistoryChunk *chunk;

	if (dlist_is_empty(&chunks))
		return false;
	chunk = dlist_tail_element(HistoryChunk, node, &chunks);
	return chunk->first_end_lsn != InvalidXLogRecPtr &&
		end_lsn > chunk->first_end_lsn +
		(XLogRecPtr) rtsync_max_retained_wal * (1024 * 1024 / SPAN_SHARE);
}

/* Append a record of the given size; the caller fills it at once. */
static HistoryRecord *
append(HistoryRecordType type, Size size, HistoryChunk **where)
{
	HistoryChunk *chunk = NULL;
	HistoryRecord *record;

	size = MAXALIGN(size);
	if (size > PG_UINT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("row is too large for the history")));
	if (!dlist_is_empty(&chunks))
		chunk = dlist_tail_element(HistoryChunk, node, &chunks);
	if (chunk == NULL || chunk->size - chunk->used < size)
	{
		history_forget(InvalidXLogRecPtr);
		if (chunk != NULL && over_limit() && in_transaction)
			chunk_spill(chunk);
		chunk = chunk_create(size);
	}
	record = (HistoryRecord *) (chunk->data + chunk->used);
	record->size = (uint32) size;
	record->type = type;
	chunk->used += size;
	stream_end += size;
	if (where != NULL)
		*where = chunk;
	return record;
}

/* Begin a chunk, with room for a record, if what ends here is too late for the
 * last one. */
static void
part_chunks(XLogRecPtr end_lsn, Size size)
{
	if (!ends_too_late(end_lsn))
		return;
	history_forget(InvalidXLogRecPtr);
	chunk_create(MAXALIGN(size));
}

/* Decoding may be resumed here when the chunk has been forgotten. */
static void
note_end(HistoryChunk *chunk, XLogRecPtr end_lsn)
{
	if (chunk->first_end_lsn == InvalidXLogRecPtr)
		chunk->first_end_lsn = end_lsn;
	chunk->begun_end_lsn = end_lsn;
}

static void
begin(TransactionId xid, XLogRecPtr commit_lsn, XLogRecPtr end_lsn,
	  TimestampTz commit_time)
{
	HistoryChunk *chunk;
	HistoryTxn *record;

	part_chunks(end_lsn, sizeof(HistoryTxn));
	record = (HistoryTxn *) append(HISTORY_BEGIN, sizeof(HistoryTxn), &chunk);
	record->xid = xid;
	record->commit_lsn = commit_lsn;
	record->end_lsn = end_lsn;
	record->commit_time = commit_time;
	note_end(chunk, end_lsn);
	if (chunk->begun_time == 0)
		chunk->begun_time = commit_time;
	in_transaction = true;
	next_seq = 1;
	transactions++;
}

static void
begin_cb(ReorderBufferTXN *txn)
{
	begin(txn->xid, txn->final_lsn, txn->end_lsn, txn->xact_time.commit_time);
}

static void
commit_cb(ReorderBufferTXN *txn, XLogRecPtr commit_lsn)
{
	append(HISTORY_COMMIT, sizeof(HistoryRecord), NULL);
	in_transaction = false;
}

/* Where the tuples of a change begin */
static Size
tuples_offset(int nmissing)
{
	return MAXALIGN(offsetof(HistoryChange, missing) +
					sizeof(AttrNumber) * nmissing);
}

static void
change_cb(ReorderBufferTXN *txn, const PluginChange *from)
{
	Size		oldlen = from->oldtuple ? from->oldtuple->t_len : 0;
	Size		newlen = from->newtuple ? from->newtuple->t_len : 0;
	int			nmissing = bms_num_members(from->missing);
	Size		old_at = tuples_offset(nmissing);
	Size		new_at = old_at + MAXALIGN(oldlen);
	HistoryChange *change;
	int			attnum = -1;

	change = (HistoryChange *) append(HISTORY_CHANGE, new_at + newlen, NULL);
	change->lsn = from->lsn;
	change->schema = schema_ref(from->schema);
	change->seq = next_seq++;
	change->oldlen = (uint32) oldlen;
	change->newlen = (uint32) newlen;
	change->nmissing = (uint16) nmissing;
	change->kind = from->kind;
	for (int i = 0; (attnum = bms_next_member(from->missing, attnum)) >= 0; i++)
		change->missing[i] = (AttrNumber) attnum;
	if (oldlen > 0)
		memcpy((char *) change + old_at, from->oldtuple->t_data, oldlen);
	if (newlen > 0)
		memcpy((char *) change + new_at, from->newtuple->t_data, newlen);
	changes++;
}

static void
touch_cb(ReorderBufferTXN *txn, Oid relid)
{
	HistoryTouch *touch;

	touch = (HistoryTouch *) append(HISTORY_TOUCH, sizeof(HistoryTouch), NULL);
	touch->relid = relid;
}

/*
 * Somebody has written a message with our prefix.  What is not transactional
 * must not keep decoding from being resumed behind it.
 */
static void
message_cb(ReorderBufferTXN *txn, XLogRecPtr lsn, bool transactional,
		   const char *prefix, Size size, const char *message)
{
	Size		needed = offsetof(HistoryMessage, data) + size;
	HistoryChunk *chunk;
	HistoryMessage *record;

	if (!message_genuine(message, size, transactional,
						 transactional ? txn->xid : InvalidTransactionId, lsn))
	{
		refused_messages++;
		ereport(DEBUG1,
				(errmsg_internal("rtsync ignored a message at %X/%X that is not genuine, the " UINT64_FORMAT "th",
								 LSN_FORMAT_ARGS(lsn), refused_messages)));
		return;
	}
	if (!transactional)
		part_chunks(lsn, needed);
	record = (HistoryMessage *) append(HISTORY_MESSAGE, needed, &chunk);
	record->size = (uint32) size;
	memcpy(record->data, message, size);
	if (!transactional)
		note_end(chunk, lsn);
}

/*
 * This transaction, of which some changes may be here, could not be decoded to
 * its end.
 */
void
history_gap(TransactionId xid, XLogRecPtr commit_lsn, XLogRecPtr end_lsn)
{
	if (!in_transaction)
		begin(xid, commit_lsn, end_lsn, GetCurrentTimestamp());
	append(HISTORY_GAP, sizeof(HistoryRecord), NULL);
	append(HISTORY_COMMIT, sizeof(HistoryRecord), NULL);
	in_transaction = false;
}

/*
 * Give up everything, also what was not read; what comes begins behind
 * "confirmed".
 */
void
history_reset(XLogRecPtr confirmed)
{
	reader->chunk = NULL;
	reader->offset = 0;
	while (!dlist_is_empty(&chunks))
		chunk_free(dlist_head_element(HistoryChunk, node, &chunks));
	forgotten_lsn = confirmed;
	in_transaction = false;
}

/* What the plugin tells us; watches_cb is for others to say. */
void
history_fill_sink(PluginSink *sink)
{
	sink->begin_cb = begin_cb;
	sink->change_cb = change_cb;
	sink->touch_cb = touch_cb;
	sink->message_cb = message_cb;
	sink->commit_cb = commit_cb;
}

/*
 * The record behind the cursor, or NULL at the end of the stream.  Good until
 * history_forget gives up its chunk.
 */
HistoryRecord *
history_peek(HistoryCursor *cursor)
{
	if (cursor->chunk == NULL)
	{
		if (dlist_is_empty(&chunks))
			return NULL;
		cursor->chunk = dlist_head_element(HistoryChunk, node, &chunks);
		cursor->offset = 0;
	}
	if (cursor->offset == cursor->chunk->used)
	{
		if (!dlist_has_next(&chunks, &cursor->chunk->node))
			return NULL;
		cursor->chunk = dlist_container(HistoryChunk, node,
										dlist_next_node(&chunks,
														&cursor->chunk->node));
		cursor->offset = 0;
	}
	chunk_load(cursor->chunk);
	return (HistoryRecord *) (cursor->chunk->data + cursor->offset);
}

/* Like history_peek, and moves the cursor behind the record. */
HistoryRecord *
history_next(HistoryCursor *cursor)
{
	HistoryRecord *record = history_peek(cursor);

	if (record != NULL)
		cursor->offset += record->size;
	return record;
}

static bool
fill_tuple(HistoryChange *change, Size offset, uint32 length, HeapTuple tuple)
{
	if (length == 0)
		return false;
	tuple->t_len = length;
	ItemPointerSetInvalid(&tuple->t_self);
	tuple->t_tableOid = change->schema->relid;
	tuple->t_data = (HeapTupleHeader) ((char *) change + offset);
	return true;
}

static Bitmapset *
known_columns(HistoryChange *change)
{
	Bitmapset  *known = NULL;

	if (change->nmissing == 0)
		return NULL;
	known = bms_add_range(NULL, 1, change->schema->desc->natts);
	for (int i = 0; i < change->nmissing; i++)
		known = bms_del_member(known, change->missing[i]);
	return known;
}

/*
 * Describe a change.  The result points into the record; its set of known
 * columns is allocated in the current memory context.
 */
void
history_rows(HistoryChange *change, ChangeRows *rows)
{
	Size		old_at = tuples_offset(change->nmissing);

	rows->kind = change->kind;
	rows->schema = change->schema;
	rows->has_old = fill_tuple(change, old_at, change->oldlen,
							   &rows->oldtuple);
	rows->has_new = fill_tuple(change, old_at + MAXALIGN(change->oldlen),
							   change->newlen, &rows->newtuple);
	rows->new_known = known_columns(change);
}

/*
 * Give up the oldest chunks, never one that the live cursor has not passed:
 * as many as rtsync.history_size demands, and all whose last transaction ends
 * before older_than.
 */
void
history_forget(XLogRecPtr older_than)
{
	while (!dlist_is_empty(&chunks))
	{
		HistoryChunk *chunk = dlist_head_element(HistoryChunk, node, &chunks);

		if (reader->chunk == NULL)
			break;
		if (reader->chunk == chunk)
		{
			/* only if it is also the last one, read to its end, and too old */
			if (dlist_has_next(&chunks, &chunk->node) || in_transaction ||
				reader->offset != chunk->used ||
				chunk->begun_end_lsn >= older_than)
				break;
			reader->chunk = NULL;
		}
		else if (!over_limit() && chunk->begun_end_lsn >= older_than)
			break;
		chunk_free(chunk);
	}
}

/* The cursor's position in the stream, which stays good for history_seek */
uint64
history_tell(const HistoryCursor *cursor)
{
	if (cursor->chunk != NULL)
		return cursor->chunk->start + cursor->offset;
	return dlist_is_empty(&chunks) ? stream_end :
		dlist_head_element(HistoryChunk, node, &chunks)->start;
}

/* Place a cursor; false if what was there has been forgotten. */
bool
history_seek(HistoryCursor *cursor, uint64 position)
{
	dlist_iter	iter;

	cursor->chunk = NULL;
	cursor->offset = 0;
	dlist_reverse_foreach(iter, &chunks)
	{
		HistoryChunk *chunk = dlist_container(HistoryChunk, node, iter.cur);

		if (position < chunk->start)
			continue;
		cursor->chunk = chunk;
		cursor->offset = position - chunk->start;
		return true;
	}
	return position == stream_end && dlist_is_empty(&chunks);
}

/* Move the cursor to the first chunk that can have what begins at lsn. */
static void
seek_chunk(HistoryCursor *cursor, XLogRecPtr lsn)
{
	dlist_iter	iter;

	cursor->chunk = NULL;
	cursor->offset = 0;
	dlist_foreach(iter, &chunks)
	{
		cursor->chunk = dlist_container(HistoryChunk, node, iter.cur);
		if (cursor->chunk->begun_end_lsn > lsn)
			break;
	}
}

/*
 * Find the place behind the change "seq" of the transaction whose commit
 * record begins at lsn, and the transaction there.  If there is no such
 * transaction, the place is where it would be, but not behind the live cursor:
 * a transaction that is being read may be large, and not all in memory.  Returns
 * false if the history does not reach back to it.
 */
bool
history_find(XLogRecPtr lsn, uint32 seq, uint64 *position, HistoryTxn *txn)
{
	HistoryCursor at;
	HistoryRecord *record;
	bool		found = false;

	if (lsn < forgotten_lsn)
		return false;
	memset(txn, 0, sizeof(HistoryTxn));
	seek_chunk(&at, lsn);
	while (history_tell(&at) < history_tell(reader) &&
		   (record = history_peek(&at)) != NULL)
	{
		if (record->type == HISTORY_BEGIN)
		{
			if (found || ((HistoryTxn *) record)->commit_lsn > lsn)
				break;
			*txn = *(HistoryTxn *) record;
			found = txn->commit_lsn == lsn;
		}
		else if (found && record->type == HISTORY_CHANGE &&
				 ((HistoryChange *) record)->seq > seq)
			break;
		else if (found && seq != CURSOR_WHOLE &&
				 (record->type == HISTORY_GAP ||
				  record->type == HISTORY_COMMIT))
			break;				/* who got a part misses the rest, or the end */
		history_next(&at);
	}
	*position = history_tell(&at);
	return true;
}

/* Bytes behind the cursor */
Size
history_unread(const HistoryCursor *cursor)
{
	return stream_end - history_tell(cursor);
}

/* Is the last transaction unfinished?  Only inside the plugin's callbacks. */
bool
history_in_transaction(void)
{
	return in_transaction;
}

/*
 * From where decoding must begin after a restart to have this history again:
 * "decoded", how far decoding got, if nothing is held.
 */
XLogRecPtr
history_resume_lsn(XLogRecPtr decoded)
{
	if (dlist_is_empty(&chunks))
		return decoded;
	return forgotten_lsn;
}

/* Transactions and changes recorded since the start */
uint64
history_transactions(void)
{
	return transactions;
}

uint64
history_changes(void)
{
	return changes;
}

/* Memory that the history takes now */
Size
history_size(void)
{
	return total_size;
}

/* When the oldest transaction in it was committed; 0 if there is none */
TimestampTz
history_oldest(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &chunks)
	{
		HistoryChunk *chunk = dlist_container(HistoryChunk, node, iter.cur);

		if (chunk->begun_time != 0)
			return chunk->begun_time;
	}
	return 0;
}
