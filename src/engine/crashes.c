/*-------------------------------------------------------------------------
 *
 * crashes.c
 *	  Which transaction was being decoded when the engine died.
 *
 * An engine that is killed, or crashes, takes all of PostgreSQL's processes
 * with it, and the next one decodes the same WAL.  If it is something in there
 * that kills it, the server would restart for ever.  So the engine notes, before
 * it decodes a transaction, where that one commits, and takes the note away
 * when it has come out alive, by whatever way.  The next engine counts what it
 * finds, and a transaction that was found MAX_CRASHES times in a row is
 * skipped from then on.
 *
 * The notes are in a file beside the slot that is mapped into memory: a note
 * costs two stores, and outlives the process (but not a crash of the machine,
 * which says nothing about the transaction).  Shared memory would not do, as it
 * is made anew after a crash.  The file goes with the slot.
 *
 * Called by wal.c.  Raises no errors: without the file nothing is counted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "storage/fd.h"

#include "engine/crashes.h"

#define FILE_MAGIC UINT64CONST(0x7274737943726173)
#define MAX_SKIPPED 32

typedef struct CrashFile
{
	uint64		magic;
	XLogRecPtr	current;		/* being decoded; invalid: nothing is */
	XLogRecPtr	suspect;		/* was, when the last engine died */
	uint32		times;			/* so often in a row */
	uint32		nskipped;		/* ever; the last ones are kept */
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

/* The last engine died while it decoded a transaction. */
static void
count_crash(void)
{
	if (file->current != file->suspect)
		file->times = 0;
	file->suspect = file->current;
	file->times++;
	ereport(LOG,
			(errmsg("rtsync engine died while it decoded the transaction that committed at %X/%X",
					LSN_FORMAT_ARGS(file->suspect)),
			 errdetail("That was number %u in a row; after %d the transaction is skipped.",
					   file->times, MAX_CRASHES)));
	if (file->times < MAX_CRASHES)
		return;
	file->skipped[file->nskipped++ % MAX_SKIPPED] = file->suspect;
	file->suspect = InvalidXLogRecPtr;
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
	if (file != NULL)
		munmap(file, sizeof(*file));
	file = NULL;
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
	file->current = commit_lsn;
	for (int i = 0; i < Min(file->nskipped, MAX_SKIPPED); i++)
		if (file->skipped[i] == commit_lsn)
			return true;
	return false;
}

/* It was decoded, or the process ends in good order before it was. */
void
crashes_end(bool decoded)
{
	if (file == NULL)
		return;
	if (decoded && file->current == file->suspect)
	{
		file->suspect = InvalidXLogRecPtr;
		file->times = 0;
	}
	file->current = InvalidXLogRecPtr;
}
