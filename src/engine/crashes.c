/*-------------------------------------------------------------------------
 *
 * crashes.c
 *	  Which transaction was at hand when the engine died.
 *
 * An engine that is killed, or crashes, takes all of PostgreSQL's processes
 * with it, and the next one decodes the same WAL, for clients that come back to
 * the same place.  If it is something in there that kills it, or in what users
 * wrote about it (a policy's function, a type's output function), the server
 * would restart for ever.  So the engine notes, before it decodes a transaction,
 * where that one commits, and before it decides about changes and renders them,
 * where the first and the last of their transactions do; and takes the note
 * away when it has come out alive, by whatever way.  The next engine counts what
 * it finds, and a transaction that was found MAX_CRASHES times in a row is
 * not decoded from then on, so that nobody is told more of it than that.
 *
 * Who is suspected is not routed together with others, so that after a second
 * death there is one suspect only.  To be routed unharmed proves nothing, for
 * others may get it with other policies; to be decoded does, for those who were
 * decoded.
 *
 * An engine that is told to go at once (SIGQUIT), because the server is stopped
 * like that, or another process has crashed, did not die of its transaction; it
 * takes the note away.
 *
 * The notes are in a file beside the slot that is mapped into memory: a note
 * costs two stores, and outlives the process (but not a crash of the machine,
 * which says nothing about the transaction).  Shared memory would not do, as it
 * is made anew after a crash.  The file goes with the slot.
 *
 * Called by wal.c, route.c and, in a signal handler, engine.c.  Raises no errors:
 * without the file nothing is counted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "storage/fd.h"

#include "engine/crashes.h"

#define FILE_MAGIC UINT64CONST(0x7374737943726173)
#define MAX_SKIPPED 32

typedef struct CrashFile
{
	uint64		magic;
	XLogRecPtr	current;		/* the first at hand; invalid: nothing is */
	XLogRecPtr	suspect;		/* was, when the last engine died */
	uint32		times;			/* so often in a row */
	uint32		nskipped;		/* ever; the last ones are kept */
	XLogRecPtr	current_last;	/* the last at hand ... */
	XLogRecPtr	suspect_last;	/* ... then */
	uint32		current_routed; /* they are decided and rendered, not decoded */
	uint32		suspect_routed; /* likewise */
	XLogRecPtr	skipped[MAX_SKIPPED];
} CrashFile;

static CrashFile *file = NULL;

/* Map the file, which is filled up to its size; NULL with errno set if not. */
static CrashFile *
map_file(const char *path)
{
	CrashFile	empty = {0};
	void	   *map = MAP_FAILED;
	int			fd = BasicOpenFile(path, O_RDWR | O_CREAT | PG_BINARY);
	off_t		size;

	if (fd < 0)
		return NULL;
	errno = 0;
	size = lseek(fd, 0, SEEK_END);
	if (size == sizeof(empty) ||
		pg_pwrite(fd, &empty, sizeof(empty), 0) == sizeof(empty))
		map = mmap(NULL, sizeof(empty), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	else if (errno == 0)
		errno = ENOSPC;
	close(fd);
	return map == MAP_FAILED ? NULL : map;
}

static void
report_crash(void)
{
	if (file->suspect == file->suspect_last)
		ereport(LOG,
				(errmsg("rtsync engine died while it %s the transaction that committed at %X/%X",
						file->suspect_routed ? "routed" : "decoded",
						LSN_FORMAT_ARGS(file->suspect)),
				 errdetail("That was number %u in a row; after %d the transaction is skipped.",
						   file->times, MAX_CRASHES)));
	else
		ereport(LOG,
				(errmsg("rtsync engine died while it routed the transactions that committed from %X/%X to %X/%X",
						LSN_FORMAT_ARGS(file->suspect),
						LSN_FORMAT_ARGS(file->suspect_last)),
				 errdetail("They are routed one by one now.")));
}

/* The last engine died in a transaction, or in one of several. */
static void
count_crash(void)
{
	if (file->current > file->suspect_last ||
		file->current_last < file->suspect)
	{
		file->suspect = InvalidXLogRecPtr;
		file->suspect_last = file->current_last;
		file->times = 0;
	}
	file->suspect = Max(file->suspect, file->current);
	file->suspect_last = Min(file->suspect_last, file->current_last);
	file->suspect_routed = file->current_routed;
	file->times++;
	report_crash();
	if (file->times < MAX_CRASHES || file->suspect != file->suspect_last)
		return;
	file->skipped[file->nskipped++ % MAX_SKIPPED] = file->suspect;
	file->suspect = file->suspect_last = InvalidXLogRecPtr;
	file->times = 0;
}

/* The slot is open: look how the last engine ended. */
void
crashes_open(const char *slot_name)
{
	char		path[MAXPGPATH];

	crashes_close();
	snprintf(path, sizeof(path), "pg_replslot/%s/rtsync.decoding", slot_name);
	file = map_file(path);
	if (file == NULL)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not map file \"%s\": %m", path)));
		return;
	}
	if (file->magic != FILE_MAGIC)
	{
		memset(file, 0, sizeof(*file));
		file->magic = FILE_MAGIC;
	}
	if (file->current != InvalidXLogRecPtr)
		count_crash();
	file->current = InvalidXLogRecPtr;
}

/* The slot is not ours any more. */
void
crashes_close(void)
{
	CrashFile  *old = file;

	file = NULL;
	if (old != NULL)
		munmap(old, sizeof(*old));
}

/*
 * The transaction that commits here is about to be decoded.  Returns true if
 * it is to be skipped instead.
 */
bool
crashes_begin(XLogRecPtr commit_lsn)
{
	if (file == NULL)
		return false;
	file->current_last = commit_lsn;
	file->current_routed = false;
	file->current = commit_lsn;
	for (int i = 0; i < Min(file->nskipped, MAX_SKIPPED); i++)
		if (file->skipped[i] == commit_lsn)
			return true;
	return false;
}

/*
 * Changes are about to be decided and rendered, of the transactions that commit
 * from here to there.
 */
void
crashes_begin_routing(XLogRecPtr first, XLogRecPtr last)
{
	if (file == NULL)
		return;
	file->current_last = last;
	file->current_routed = true;
	file->current = first;
}

/*
 * It was done, or the process ends in good order before it was; "decoded" if
 * that proves that the transaction can be decoded.  Also for signal handlers.
 */
void
crashes_end(bool decoded)
{
	if (file == NULL)
		return;
	if (decoded && file->current == file->suspect && !file->suspect_routed)
	{
		file->suspect = file->suspect_last = InvalidXLogRecPtr;
		file->times = 0;
	}
	file->current = InvalidXLogRecPtr;
}

/* Is the transaction that commits here one that must be routed alone? */
bool
crashes_suspects(XLogRecPtr commit_lsn)
{
	return file != NULL && file->suspect != InvalidXLogRecPtr &&
		commit_lsn >= file->suspect && commit_lsn <= file->suspect_last;
}
