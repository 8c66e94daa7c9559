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
 * An entry changes its state only through the functions below, one for each
 * transition, named after who makes it:
 *
 *	launcher   shared_launcher_starting	  UNKNOWN, WAITING -> STARTING
 *			   shared_launcher_postponed  STARTING -> UNKNOWN
 *			   shared_launcher_failed	  STARTING -> WAITING
 *	engine	   shared_engine_attach		  STARTING: this process is the engine
 *			   shared_engine_found		  STARTING: the extension is there
 *			   shared_engine_running	  STARTING -> RUNNING
 *			   shared_engine_waiting	  STARTING, RUNNING -> WAITING
 *			   shared_engine_absent		  STARTING, RUNNING -> ABSENT
 *			   (its exit)				  STARTING, RUNNING -> HELD if a backend
 *										  holds the database, UNKNOWN if it was
 *										  asked to stop, else WAITING
 *	backend	   shared_request_check		  FREE, ABSENT, WAITING -> UNKNOWN
 *			   shared_release			  HELD -> UNKNOWN
 *			   shared_forget			  any -> FREE
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_SHARED_H
#define RTSYNC_SHARED_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "engine/clock.h"
#include "engine/refetch.h"

#define MAX_ENGINES 64
#define STATUS_MESSAGE_SIZE 512
#define STATUS_LISTEN_SIZE 128
#define MAX_BLAMED 16

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

/* What an engine counts from its start on */
typedef struct EngineCounts
{
	uint64		transactions;
	uint64		changes;
	uint64		events;
	uint64		policy_errors;
	uint64		refetches[REFETCH_REASONS]; /* channels that were told to */
	uint64		snapshots;		/* completed */
	uint64		snapshots_failed;
	uint64		gateway_starts;
	uint64		frames_sent;	/* these as the gateways last said */
	uint64		bytes_sent;
	uint64		closed_slow;
} EngineCounts;

/* A table whose policies ended an engine */
typedef struct BlamedTable
{
	Oid			relid;			/* InvalidOid: not used */
	bool		preparing;		/* that happened while they were prepared */
	int			times;
	ClockTime	until;			/* they are to rest for so long */
} BlamedTable;

typedef struct EngineEntry
{
	Oid			dboid;			/* read without lock by wake-ups */
	NameData	dbname;			/* as it was when the engine was started */
	EngineState state;
	bool		probing;		/* STARTING, and the engine has not yet seen
								 * whether the extension is there */
	pid_t		pid;			/* of the engine, 0 if none */
	uint32		generation;		/* incremented at each start */
	pid_t		held_by;		/* backend that wants the database for itself */
	TimestampTz started;		/* last start of an engine, 0: never */
	ClockTime	attached;		/* likewise */
	ClockTime	retry_at;		/* when the launcher tries again; 0: at once */
	int			failures;		/* consecutive, for the backoff */
	char		message[STATUS_MESSAGE_SIZE];	/* why it waits, or what is
												 * wrong while it runs */
	char		hint[STATUS_MESSAGE_SIZE];

	/* written by the engine alone, read without lock for the wake-up */
	Latch	   *latch;			/* the engine's, NULL if none runs */
	pg_atomic_uint32 sleeping;	/* 1: wake me at the next commit */
	pg_atomic_uint32 stop_requested;	/* set by others: end soon */
	pg_atomic_uint32 check_extension;	/* set by others: is the extension
										 * still there? */

	/* written by the engine alone, under the lock, about once a second */
	TimestampTz updated;		/* when it did; 0: not yet */
	uint64		epoch;
	XLogRecPtr	flushed_lsn;	/* the WAL's end */
	XLogRecPtr	decoded_lsn;	/* decoded up to here */
	XLogRecPtr	routed_lsn;		/* delivered up to here */
	XLogRecPtr	history_lsn;	/* the oldest transaction still in the history */
	XLogRecPtr	confirmed_lsn;	/* the slot's positions */
	XLogRecPtr	restart_lsn;
	ClockTime	behind_since;	/* when all had been delivered; 0: it is */
	uint64		history_bytes;
	TimestampTz history_since;	/* when its oldest transaction committed; 0:
								 * there is none */
	EngineCounts counts;
	int32		gateways;
	int32		connections;
	int32		channels;
	int32		groups;
	int32		snapshots_running;
	int32		snapshots_waiting;

	/* written by pg_stat_rtsync_reset(), under the lock */
	EngineCounts reset_counts;	/* what they were at the last reset */
	TimestampTz stats_reset;

	/* who is connected: see report.c */
	pg_atomic_uint32 reports_wanted;	/* incremented by who asks */
	pg_atomic_uint32 reports_done;	/* by the engine: the last one that it has
									 * written for */
	ConditionVariable report_written;

	/*
	 * tables whose policies could only be ended with the engine: written by
	 * the engine alone, in a signal handler, for the next one
	 */
	BlamedTable blamed[MAX_BLAMED];

	/* written by the engine through shared_engine_listening */
	char		listen_addresses[STATUS_LISTEN_SIZE];	/* empty: nowhere */
	int32		port;
} EngineEntry;

typedef struct SharedState
{
	LWLock	   *lock;
	Latch	   *launcher_latch; /* NULL if the launcher does not run */
	pid_t		launcher_pid;
	pg_atomic_uint32 allotments;	/* counts entries given to databases: a
									 * backend that found none need not look
									 * again until this changes */
	EngineEntry engines[MAX_ENGINES];
} SharedState;

extern SharedState *shared_state;	/* NULL if not preloaded */

extern void shared_init(void);	/* from _PG_init: installs the shmem hooks */
extern EngineEntry *shared_find(Oid dboid); /* lock held */

/*------------------------------ the engine ------------------------------*/

/* This engine's own entry; NULL in every other process */
extern EngineEntry *shared_my_engine;

/*
 * Become the engine of a database.  To be called before connecting to it.
 * Returns false if this process must not run and should exit(0) at once: the
 * database is held or forgotten, or has an engine already.  From then on the
 * entry is cleaned up when the process exits, in whatever way: an ERROR's text
 * becomes the entry's message, and the launcher tries again with backoff.
 */
extern bool shared_engine_attach(Oid dboid);

/* This engine ends because it was asked to: the next one may follow soon. */
extern void shared_engine_terminated(void);

/* The extension is there: lets the launcher go on with other databases. */
extern void shared_engine_found(void);

/* Decoding begins: clears the message. */
extern void shared_engine_running(void);

/*
 * The engine cannot run for now: logs the reason unless it is the same as the
 * last time.  The caller then exits with proc_exit(0); the launcher tries
 * again with backoff.  hint may be NULL.
 */
extern void shared_engine_waiting(int sqlerrcode, const char *message,
								  const char *hint);

/* The extension is not there (any more).  The caller then proc_exit(0)s. */
extern void shared_engine_absent(void);

/*
 * Something is wrong though the engine runs (its port is in use, say): shown
 * by status(), and logged unless it is the same as the last time.  NULL: all
 * is well.
 */
extern void shared_engine_trouble(int sqlerrcode, const char *message,
								  const char *hint);

/* Where the gateway is reached, for status(); addresses NULL: nowhere */
extern void shared_engine_listening(const char *addresses, int port);

/*
 * Going to sleep without missing a commit: shared_engine_sleep_begin, look
 * again whether there is WAL to read, and only if not, WaitLatch.  Then
 * shared_engine_sleep_end, after which committers do not signal.
 */
extern void shared_engine_sleep_begin(void);
extern void shared_engine_sleep_end(void);

/*
 * What runs can only be ended with this process.  If it is the policies of a
 * table, and not InvalidOid, remember that for the next one.  Called in a signal
 * handler.
 */
extern void shared_engine_blame(Oid relid, bool preparing);

/* Is it remembered of this table, by this process or an earlier one? */
extern bool shared_engine_blamed(Oid relid);

/* To be asked in every turn of the engine's loop */
extern bool shared_engine_stop_requested(void); /* then: proc_exit(0) */
extern bool shared_engine_report_wanted(uint32 *number);
extern void shared_engine_report_done(uint32 number);
extern bool shared_engine_check_requested(void);	/* look for the extension;
													 * clears the request */

/*------------------------------ the launcher ----------------------------*/

extern void shared_launcher_attach(void);
extern EngineEntry *shared_allot(Oid dboid);	/* lock held exclusively */
extern void shared_launcher_starting(EngineEntry *entry, const char *dbname);	/* lock held */
extern void shared_launcher_postponed(EngineEntry *entry);	/* lock held */
extern void shared_launcher_failed(EngineEntry *entry, const char *message,
								   const char *hint);	/* lock held */
extern void shared_launcher_release_dead_holders(void);

/*------------------------------ backends --------------------------------*/

extern void shared_wake_engine(void);
extern bool shared_request_report(uint32 *number);
extern bool shared_await_report(uint32 number, int ms);
extern void shared_reset_stats(Oid dboid);
extern bool shared_request_check(Oid dboid);
extern void shared_request_restart(Oid dboid);
extern void shared_forget(Oid dboid);
extern bool shared_note_absent(Oid dboid);
extern pid_t shared_hold(Oid dboid, bool *absent);
extern void shared_terminate(Oid dboid, pid_t pid);
extern void shared_release(Oid dboid);

#endif							/* RTSYNC_SHARED_H */
