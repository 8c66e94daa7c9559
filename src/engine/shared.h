/*-------------------------------------------------------------------------
 *
 * shared.h
 *	  What the launcher, the engines and the backends share.
 *
 * A fixed array with one entry per database that has, or may have, an engine.
 * Entries are protected by SharedState->lock, but for the few fields that say
 * otherwise.  Everything in shared memory is plain data: no pointer but Latch
 * pointers, which are in shared memory themselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_SHARED_H
#define RTSYNC_SHARED_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#define MAX_ENGINES 64
#define STATUS_MESSAGE_SIZE 512

typedef enum EngineState
{
	ENGINE_FREE = 0,			/* entry not in use */
	ENGINE_UNKNOWN,				/* database not looked at yet */
	ENGINE_ABSENT,				/* no extension there, nothing runs */
	ENGINE_STARTING,			/* worker registered or starting */
	ENGINE_RUNNING,				/* decoding */
	ENGINE_WAITING,				/* cannot run for the reason in message; the
								 * launcher tries again */
	ENGINE_HELD					/* stopped for DROP DATABASE and the like */
} EngineState;

typedef struct EngineEntry
{
	Oid			dboid;
	EngineState state;
	pid_t		pid;			/* of the engine, 0 if none */
	uint32		generation;		/* incremented at each start */
	pid_t		held_by;		/* backend that wants the database for itself */
	TimestampTz started;
	TimestampTz retry_at;		/* when the launcher tries again */
	int			failures;		/* consecutive, for the backoff */
	char		message[STATUS_MESSAGE_SIZE];	/* why it waits, with hint */

	/* written by the engine alone, read without lock for the wake-up */
	Latch	   *latch;			/* the engine's, NULL if none runs */
	pg_atomic_uint32 sleeping;	/* 1: wake me at the next commit */
	pg_atomic_uint32 stop_requested;	/* set by others: end soon */
	pg_atomic_uint32 check_extension;	/* set by others: is the extension
										 * still there? */

	/* written by the engine alone, under the lock, about once a second */
	uint64		epoch;
	XLogRecPtr	decoded_lsn;	/* decoded up to here */
	XLogRecPtr	routed_lsn;		/* delivered up to here */
	XLogRecPtr	history_lsn;	/* the oldest transaction still in the history */
	uint64		transactions;	/* since the start */
	uint64		changes;
	uint64		events;
	uint64		policy_errors;
	int32		gateways;
	int32		connections;
	int32		channels;
	int32		groups;
} EngineEntry;

typedef struct SharedState
{
	LWLock	   *lock;
	Latch	   *launcher_latch; /* NULL if the launcher does not run */
	pid_t		launcher_pid;
	EngineEntry engines[MAX_ENGINES];
} SharedState;

extern SharedState *shared_state;	/* NULL if not preloaded */

extern void shared_init(void);	/* from _PG_init: installs the shmem hooks */
extern EngineEntry *shared_find(Oid dboid); /* lock held */

#endif							/* RTSYNC_SHARED_H */
