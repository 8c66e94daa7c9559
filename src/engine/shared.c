/*-------------------------------------------------------------------------
 *
 * shared.c
 *	  What the launcher, the engines and the backends share.
 *
 * This file owns the shared memory, and holds the only code that changes an
 * engine's state: see shared.h for the list of transitions.  It decides
 * nothing: launcher.c, engine.c and hooks.c do.
 *
 * The lock is held for a few instructions at a time, and never while anything
 * is waited for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "engine/clock.h"
#include "engine/shared.h"

#define TRANCHE_NAME "rtsync"

/* An engine that ran for this long does not count as a failed start. */
#define STABLE_SECONDS 60

/*
 * Policies that ended an engine rest for a minute, the next time for two, and
 * so on up to about an hour.
 */
#define BLAME_MS 60000
#define MAX_BLAME_DOUBLED 6

SharedState *shared_state = NULL;
EngineEntry *shared_my_engine = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
static emit_log_hook_type prev_emit_log_hook = NULL;

/* The text of the last error this engine reported, "" if none */
static char last_error[STATUS_MESSAGE_SIZE];
static char last_error_hint[STATUS_MESSAGE_SIZE];
static bool terminated;			/* somebody asked this engine to end ... */
static bool gave_up;			/* ... but that was itself */

/*------------------------------ start-up --------------------------------*/

static void
shmem_request_cb(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(sizeof(SharedState));
	RequestNamedLWLockTranche(TRANCHE_NAME, 1);
}

static void
initialize_state(SharedState *state)
{
	memset(state, 0, sizeof(SharedState));
	state->lock = &GetNamedLWLockTranche(TRANCHE_NAME)->lock;
	pg_atomic_init_u32(&state->allotments, 1);
	for (int i = 0; i < MAX_ENGINES; i++)
	{
		pg_atomic_init_u32(&state->engines[i].sleeping, 0);
		pg_atomic_init_u32(&state->engines[i].stop_requested, 0);
		pg_atomic_init_u32(&state->engines[i].check_extension, 0);
		pg_atomic_init_u32(&state->engines[i].reports_wanted, 0);
		pg_atomic_init_u32(&state->engines[i].reports_done, 0);
		ConditionVariableInit(&state->engines[i].report_written);
	}
}

static void
shmem_startup_cb(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared_state = ShmemInitStruct("rtsync", sizeof(SharedState), &found);
	if (!found)
		initialize_state(shared_state);
	LWLockRelease(AddinShmemInitLock);
}

/* From _PG_init, in the postmaster */
void
shared_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request_cb;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup_cb;
}

/*------------------------------ entries ---------------------------------*/

/* The entry of a database, NULL if it has none.  The lock is held. */
EngineEntry *
shared_find(Oid dboid)
{
	Assert(LWLockHeldByMe(shared_state->lock));

	for (int i = 0; i < MAX_ENGINES; i++)
	{
		EngineEntry *entry = &shared_state->engines[i];

		if (entry->state != ENGINE_FREE && entry->dboid == dboid)
			return entry;
	}
	return NULL;
}

/* Can the entry be given to another database? */
static bool
entry_is_spare(const EngineEntry *entry)
{
	return entry->state == ENGINE_FREE ||
		(entry->state == ENGINE_ABSENT && entry->pid == 0 && entry->held_by == 0);
}

static void
clear_counters(EngineEntry *entry)
{
	entry->updated = 0;
	entry->epoch = 0;
	entry->flushed_lsn = InvalidXLogRecPtr;
	entry->decoded_lsn = InvalidXLogRecPtr;
	entry->routed_lsn = InvalidXLogRecPtr;
	entry->history_lsn = InvalidXLogRecPtr;
	entry->confirmed_lsn = InvalidXLogRecPtr;
	entry->restart_lsn = InvalidXLogRecPtr;
	entry->behind_since = 0;
	entry->history_bytes = 0;
	entry->history_since = 0;
	memset(&entry->counts, 0, sizeof(entry->counts));
	memset(&entry->reset_counts, 0, sizeof(entry->reset_counts));
	entry->stats_reset = GetCurrentTimestamp();
	entry->gateways = 0;
	entry->connections = 0;
	entry->channels = 0;
	entry->groups = 0;
	entry->listen_addresses[0] = '\0';
	entry->port = 0;
}

static void
set_message(EngineEntry *entry, const char *message, const char *hint)
{
	strlcpy(entry->message, message ? message : "", STATUS_MESSAGE_SIZE);
	strlcpy(entry->hint, hint ? hint : "", STATUS_MESSAGE_SIZE);
}

/* Make an entry that nobody uses the database's, in state UNKNOWN. */
static void
initialize_entry(EngineEntry *entry, Oid dboid)
{
	Assert(entry_is_spare(entry));

	entry->dboid = dboid;
	NameStr(entry->dbname)[0] = '\0';
	entry->state = ENGINE_UNKNOWN;
	entry->probing = false;
	entry->pid = 0;
	entry->held_by = 0;
	entry->started = 0;
	entry->retry_at = 0;
	entry->failures = 0;
	set_message(entry, NULL, NULL);
	clear_counters(entry);
	memset(entry->blamed, 0, sizeof(entry->blamed));

	entry->latch = NULL;
	pg_atomic_write_u32(&entry->sleeping, 0);
	pg_atomic_write_u32(&entry->stop_requested, 0);
	pg_atomic_write_u32(&entry->check_extension, 0);
	pg_atomic_fetch_add_u32(&shared_state->allotments, 1);
}

/*
 * The entry of a database, made if there is none: a free one, or that of a
 * database without the extension, of which it is remembered only to save time.
 * NULL if all are in use.  The lock is held exclusively.
 */
EngineEntry *
shared_allot(Oid dboid)
{
	EngineEntry *entry = shared_find(dboid);
	EngineEntry *absent = NULL;

	if (entry)
		return entry;

	for (int i = 0; i < MAX_ENGINES; i++)
	{
		entry = &shared_state->engines[i];

		if (entry->state == ENGINE_FREE)
		{
			initialize_entry(entry, dboid);
			return entry;
		}
		if (absent == NULL && entry_is_spare(entry))
			absent = entry;
	}
	if (absent)
		initialize_entry(absent, dboid);
	return absent;
}

static void
wake_launcher(void)
{
	Latch	   *latch = shared_state->launcher_latch;

	if (latch)
		SetLatch(latch);
}

static void
wake_entry(EngineEntry *entry)
{
	Latch	   *latch = *(Latch *volatile *) &entry->latch;

	if (latch)
		SetLatch(latch);
}

/* Seconds to the next try after so many failures in a row */
static int
retry_seconds(int failures)
{
	static const int delays[] = {1, 2, 5, 10, 30, 60};

	return delays[Min(Max(failures, 1), (int) lengthof(delays)) - 1];
}

/*
 * Count a failed start, or a short life, and set when to try again.  Who was
 * asked to end has not failed.
 */
static void
schedule_retry(EngineEntry *entry)
{
	if (terminated && !gave_up)
	{
		entry->retry_at = clock_in(1000 * retry_seconds(1));
		return;
	}
	if (entry->attached != 0 &&
		clock_passed(entry->attached, STABLE_SECONDS * 1000))
		entry->failures = 0;
	entry->failures++;
	entry->retry_at = clock_in(1000 * retry_seconds(entry->failures));
}

/*------------------------------ the engine ------------------------------*/

/* Keep the text of an error that ends this engine, for status(). */
static void
emit_log_cb(ErrorData *edata)
{
	if (edata->elevel >= ERROR && edata->message)
	{
		strlcpy(last_error, edata->message, STATUS_MESSAGE_SIZE);
		strlcpy(last_error_hint, edata->hint ? edata->hint : "",
				STATUS_MESSAGE_SIZE);
		terminated = edata->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN;
	}
	if (prev_emit_log_hook)
		prev_emit_log_hook(edata);
}

/* The engine ends without having said why: asked to, or by an error. */
static void
engine_ended(EngineEntry *entry)
{
	if (entry->held_by != 0)
		entry->state = ENGINE_HELD;
	else if (pg_atomic_read_u32(&entry->stop_requested))
	{
		entry->state = ENGINE_UNKNOWN;
		entry->retry_at = 0;
	}
	else
	{
		entry->state = ENGINE_WAITING;
		schedule_retry(entry);
		set_message(entry,
					last_error[0] ? last_error : "the engine was terminated",
					last_error_hint);
	}
}

/* before_shmem_exit callback of the engine */
static void
engine_exit_cb(int code, Datum arg)
{
	EngineEntry *entry = shared_my_engine;

	if (entry == NULL)
		return;
	shared_my_engine = NULL;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	Assert(entry->pid == MyProcPid);
	if (entry->state == ENGINE_STARTING || entry->state == ENGINE_RUNNING)
		engine_ended(entry);
	else if ((entry->state == ENGINE_ABSENT ||
			  entry->state == ENGINE_WAITING) &&
			 pg_atomic_read_u32(&entry->check_extension))
	{
		/* The extension came or went after it had looked. */
		entry->state = ENGINE_UNKNOWN;
		entry->retry_at = 0;
	}
	entry->pid = 0;
	entry->latch = NULL;
	entry->probing = false;
	clear_counters(entry);
	pg_atomic_write_u32(&entry->sleeping, 0);
	pg_atomic_write_u32(&entry->stop_requested, 0);
	pg_atomic_write_u32(&entry->check_extension, 0);
	wake_launcher();
	LWLockRelease(shared_state->lock);
}

/* STARTING, nobody's -> STARTING, this process's; see shared.h */
bool
shared_engine_attach(Oid dboid)
{
	EngineEntry *entry;
	bool		mine;

	Assert(shared_my_engine == NULL);

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	entry = shared_find(dboid);
	mine = entry && entry->state == ENGINE_STARTING && entry->pid == 0;
	if (mine && entry->held_by != 0)
	{
		entry->state = ENGINE_HELD;
		entry->probing = false;
		mine = false;
	}
	if (mine)
	{
		entry->pid = MyProcPid;
		entry->latch = MyLatch;
		entry->started = GetCurrentTimestamp();
		entry->attached = clock_now();
		clear_counters(entry);
		pg_atomic_write_u32(&entry->stop_requested, 0);
		pg_atomic_write_u32(&entry->check_extension, 0);
		shared_my_engine = entry;
	}
	LWLockRelease(shared_state->lock);

	if (mine)
	{
		before_shmem_exit(engine_exit_cb, (Datum) 0);
		prev_emit_log_hook = emit_log_hook;
		emit_log_hook = emit_log_cb;
	}
	return mine;
}

void
shared_engine_terminated(void)
{
	terminated = true;
}

/* No lock is taken: nobody else writes there, and nobody reads it now. */
void
shared_engine_blame(Oid relid, bool preparing)
{
	EngineEntry *entry = shared_my_engine;
	BlamedTable *table;
	int64		rest_ms;

	if (entry == NULL)
		return;
	gave_up = true;
	if (!OidIsValid(relid))
		return;
	table = &entry->blamed[0];
	for (int i = 0; i < MAX_BLAMED; i++)
	{
		/* its own place, or that of the one which is over, or over first */
		if (entry->blamed[i].relid == relid)
		{
			table = &entry->blamed[i];
			break;
		}
		if (entry->blamed[i].until < table->until)
			table = &entry->blamed[i];
	}
	if (table->relid != relid)
		table->times = 0;
	table->relid = relid;
	table->preparing = preparing;
	rest_ms = (int64) BLAME_MS << Min(table->times, MAX_BLAME_DOUBLED);
	table->until = clock_in(rest_ms);
	table->times++;
}

bool
shared_engine_blamed(Oid relid)
{
	const EngineEntry *entry = shared_my_engine;

	for (int i = 0; i < MAX_BLAMED; i++)
		if (entry->blamed[i].relid == relid &&
			entry->blamed[i].until > clock_now())
			return true;
	return false;
}

void
shared_engine_found(void)
{
	EngineEntry *entry = shared_my_engine;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	Assert(entry->state == ENGINE_STARTING && entry->pid == MyProcPid);
	entry->probing = false;
	wake_launcher();
	LWLockRelease(shared_state->lock);
}

void
shared_engine_running(void)
{
	EngineEntry *entry = shared_my_engine;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	Assert(entry->state == ENGINE_STARTING && entry->pid == MyProcPid);
	Assert(!entry->probing);
	entry->state = ENGINE_RUNNING;
	LWLockRelease(shared_state->lock);
}

/* Set the message; true if it is another one than before.  Lock held. */
static bool
replace_message(EngineEntry *entry, const char *message, const char *hint)
{
	char		old[STATUS_MESSAGE_SIZE];

	strlcpy(old, entry->message, STATUS_MESSAGE_SIZE);
	set_message(entry, message, hint);
	return strcmp(old, entry->message) != 0;
}

/* Log lines of background workers do not say which database: this one does. */
static void
log_message(int sqlerrcode, const char *message, const char *hint)
{
	ereport(WARNING,
			(errcode(sqlerrcode),
			 errmsg("rtsync engine for database \"%s\": %s",
					NameStr(shared_my_engine->dbname), message),
			 hint ? errhint("%s", hint) : 0));
}

/* STARTING, RUNNING -> WAITING */
void
shared_engine_waiting(int sqlerrcode, const char *message, const char *hint)
{
	EngineEntry *entry = shared_my_engine;
	bool		news;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	Assert(entry->state == ENGINE_STARTING || entry->state == ENGINE_RUNNING);
	entry->state = ENGINE_WAITING;
	entry->probing = false;
	schedule_retry(entry);
	news = replace_message(entry, message, hint);
	LWLockRelease(shared_state->lock);

	if (news)
		log_message(sqlerrcode, message, hint);
}

/* STARTING, RUNNING -> ABSENT */
void
shared_engine_absent(void)
{
	EngineEntry *entry = shared_my_engine;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	Assert(entry->state == ENGINE_STARTING || entry->state == ENGINE_RUNNING);
	entry->state = ENGINE_ABSENT;
	entry->probing = false;
	entry->failures = 0;
	set_message(entry, NULL, NULL);
	LWLockRelease(shared_state->lock);
}

void
shared_engine_trouble(int sqlerrcode, const char *message, const char *hint)
{
	EngineEntry *entry = shared_my_engine;
	bool		news;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	news = replace_message(entry, message, hint);
	LWLockRelease(shared_state->lock);

	if (news && message)
		log_message(sqlerrcode, message, hint);
}

void
shared_engine_listening(const char *addresses, int port)
{
	EngineEntry *entry = shared_my_engine;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	strlcpy(entry->listen_addresses, addresses ? addresses : "",
			STATUS_LISTEN_SIZE);
	entry->port = addresses ? port : 0;
	LWLockRelease(shared_state->lock);
}

/*
 * A committer makes its WAL readable and then looks at "sleeping"; the engine
 * sets "sleeping" and then looks for WAL.  With a full barrier between the
 * two steps on either side, at least one of them sees the other.
 */
void
shared_engine_sleep_begin(void)
{
	pg_atomic_write_u32(&shared_my_engine->sleeping, 1);
	pg_memory_barrier();
}

void
shared_engine_sleep_end(void)
{
	pg_atomic_write_u32(&shared_my_engine->sleeping, 0);
}

bool
shared_engine_stop_requested(void)
{
	return pg_atomic_read_u32(&shared_my_engine->stop_requested) != 0;
}

bool
shared_engine_check_requested(void)
{
	EngineEntry *entry = shared_my_engine;

	return pg_atomic_read_u32(&entry->check_extension) != 0 &&
		pg_atomic_exchange_u32(&entry->check_extension, 0) != 0;
}

/* Does somebody ask who is connected?  *number: up to which request */
bool
shared_engine_report_wanted(uint32 *number)
{
	*number = pg_atomic_read_u32(&shared_my_engine->reports_wanted);
	return *number != pg_atomic_read_u32(&shared_my_engine->reports_done);
}

/* The report for the requests up to this one is written. */
void
shared_engine_report_done(uint32 number)
{
	pg_atomic_write_u32(&shared_my_engine->reports_done, number);
	ConditionVariableBroadcast(&shared_my_engine->report_written);
}

/*------------------------------ the launcher ----------------------------*/

/* before_shmem_exit callback of the launcher */
static void
launcher_exit_cb(int code, Datum arg)
{
	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	shared_state->launcher_latch = NULL;
	shared_state->launcher_pid = 0;
	LWLockRelease(shared_state->lock);
}

/*
 * Become the launcher.  What an earlier launcher has registered and nobody has
 * attached to yet is started again: the second to come exits.
 */
void
shared_launcher_attach(void)
{
	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	Assert(shared_state->launcher_pid == 0);
	shared_state->launcher_pid = MyProcPid;
	shared_state->launcher_latch = MyLatch;
	for (int i = 0; i < MAX_ENGINES; i++)
	{
		EngineEntry *entry = &shared_state->engines[i];

		if (entry->state == ENGINE_STARTING && entry->pid == 0)
		{
			entry->state = ENGINE_UNKNOWN;
			entry->probing = false;
			entry->retry_at = 0;
		}
	}
	LWLockRelease(shared_state->lock);
	before_shmem_exit(launcher_exit_cb, (Datum) 0);
}

/* UNKNOWN, WAITING -> STARTING.  Lock held exclusively. */
void
shared_launcher_starting(EngineEntry *entry, const char *dbname)
{
	Assert(entry->state == ENGINE_UNKNOWN || entry->state == ENGINE_WAITING);
	Assert(entry->pid == 0 && entry->held_by == 0);

	entry->state = ENGINE_STARTING;
	entry->probing = true;
	entry->generation++;
	namestrcpy(&entry->dbname, dbname);
}

/* STARTING, but there is no worker slot yet -> UNKNOWN.  Lock held exclusively. */
void
shared_launcher_postponed(EngineEntry *entry)
{
	Assert(entry->state == ENGINE_STARTING && entry->pid == 0);

	entry->state = ENGINE_UNKNOWN;
	entry->probing = false;
	entry->retry_at = 0;
}

/* STARTING, but no worker came -> WAITING.  Lock held exclusively. */
void
shared_launcher_failed(EngineEntry *entry, const char *message,
					   const char *hint)
{
	Assert(entry->state == ENGINE_STARTING && entry->pid == 0);

	entry->state = entry->held_by != 0 ? ENGINE_HELD : ENGINE_WAITING;
	entry->probing = false;
	schedule_retry(entry);
	set_message(entry, message, hint);
}

/* Nobody wants the database for itself any more.  Lock held exclusively. */
static void
release_entry(EngineEntry *entry)
{
	entry->held_by = 0;
	if (entry->state == ENGINE_HELD)
	{
		entry->state = ENGINE_UNKNOWN;
		entry->retry_at = 0;
		entry->failures = 0;
	}
}

/* Release the databases that are held by backends which are gone. */
void
shared_launcher_release_dead_holders(void)
{
	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_ENGINES; i++)
	{
		EngineEntry *entry = &shared_state->engines[i];

		if (entry->held_by != 0 && BackendPidGetProc(entry->held_by) == NULL)
			release_entry(entry);
	}
	LWLockRelease(shared_state->lock);
}

/*------------------------------ backends --------------------------------*/

/*
 * This transaction has committed: wake the engine of this database if it
 * sleeps.  Called at every commit that wrote, so it must cost nothing: the
 * entry is looked up once.  Without a lock, the entry may become another
 * database's while we look; the worst is that its engine wakes for nothing.
 */
void
shared_wake_engine(void)
{
	static EngineEntry *entry = NULL;
	static uint32 seen_allotments = 0;

	if (entry == NULL || entry->dboid != MyDatabaseId)
	{
		uint32		allotments = pg_atomic_read_u32(&shared_state->allotments);

		if (entry == NULL && allotments == seen_allotments)
			return;
		LWLockAcquire(shared_state->lock, LW_SHARED);
		entry = shared_find(MyDatabaseId);
		LWLockRelease(shared_state->lock);
		seen_allotments = allotments;
		if (entry == NULL)
			return;
	}

	pg_memory_barrier();		/* see shared_engine_sleep_begin */
	if (pg_atomic_read_u32(&entry->sleeping) != 0 &&
		pg_atomic_exchange_u32(&entry->sleeping, 0) != 0)
		wake_entry(entry);
}

/*
 * The extension may have come or gone in a database: have it looked at.
 * Returns false if there is no room to keep track of it.
 */
bool
shared_request_check(Oid dboid)
{
	EngineEntry *entry;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	entry = shared_allot(dboid);
	if (entry && entry->pid != 0)
	{
		pg_atomic_write_u32(&entry->check_extension, 1);
		wake_entry(entry);
	}
	else if (entry)
	{
		if (entry->state == ENGINE_ABSENT || entry->state == ENGINE_WAITING)
			entry->state = ENGINE_UNKNOWN;
		entry->retry_at = 0;
		entry->failures = 0;
		wake_launcher();
	}
	LWLockRelease(shared_state->lock);
	return entry != NULL;
}

/* The settings of a database have changed: its engine is to start again. */
void
shared_request_restart(Oid dboid)
{
	EngineEntry *entry;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	entry = shared_find(dboid);
	if (entry && entry->pid != 0)
	{
		pg_atomic_write_u32(&entry->stop_requested, 1);
		wake_entry(entry);
	}
	else if (entry && entry->state == ENGINE_WAITING)
	{
		entry->retry_at = 0;
		wake_launcher();
	}
	LWLockRelease(shared_state->lock);
}

/* The database is gone. */
void
shared_forget(Oid dboid)
{
	EngineEntry *entry;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	entry = shared_find(dboid);
	if (entry && entry->pid != 0)
		pg_atomic_write_u32(&entry->stop_requested, 1);
	else if (entry)
	{
		entry->state = ENGINE_FREE;
		entry->dboid = InvalidOid;
		entry->held_by = 0;
	}
	LWLockRelease(shared_state->lock);
}

/* A new database is known not to have the extension; false if no room */
bool
shared_note_absent(Oid dboid)
{
	EngineEntry *entry;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	entry = shared_allot(dboid);
	if (entry && entry->state == ENGINE_UNKNOWN)
		entry->state = ENGINE_ABSENT;
	LWLockRelease(shared_state->lock);
	return entry != NULL;
}

/*
 * This backend wants a database for itself: ask its engine to end, and let
 * none start until shared_release.  Returns the pid of the engine, whose end
 * the caller awaits; 0 if none runs.  *absent says that the database is known
 * not to have the extension.  If another backend holds it already, that
 * backend goes on to be the holder.
 */
pid_t
shared_hold(Oid dboid, bool *absent)
{
	EngineEntry *entry;
	pid_t		pid = 0;

	*absent = false;
	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	entry = shared_find(dboid);
	if (entry)
	{
		if (entry->held_by == 0 || BackendPidGetProc(entry->held_by) == NULL)
			entry->held_by = MyProcPid;
		*absent = entry->state == ENGINE_ABSENT;
		pid = entry->pid;
		if (pid != 0)
		{
			pg_atomic_write_u32(&entry->stop_requested, 1);
			wake_entry(entry);
		}
	}
	LWLockRelease(shared_state->lock);
	return pid;
}

/* Send SIGTERM to the engine of a database if it is still the one with pid. */
void
shared_terminate(Oid dboid, pid_t pid)
{
	EngineEntry *entry;

	LWLockAcquire(shared_state->lock, LW_SHARED);
	entry = shared_find(dboid);
	if (entry && entry->pid == pid)
		kill(pid, SIGTERM);
	LWLockRelease(shared_state->lock);
}

/* End what shared_hold began, if this backend is still the holder. */
void
shared_release(Oid dboid)
{
	EngineEntry *entry;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	entry = shared_find(dboid);
	if (entry && entry->held_by == MyProcPid)
	{
		release_entry(entry);
		wake_launcher();
	}
	LWLockRelease(shared_state->lock);
}

/*
 * Ask this database's engine who is connected; *number becomes what
 * shared_await_report takes.  False if no engine runs.
 */
bool
shared_request_report(uint32 *number)
{
	EngineEntry *entry;
	bool		runs;

	LWLockAcquire(shared_state->lock, LW_SHARED);
	entry = shared_find(MyDatabaseId);
	runs = entry != NULL && entry->state == ENGINE_RUNNING;
	if (runs)
	{
		*number = pg_atomic_add_fetch_u32(&entry->reports_wanted, 1);
		wake_entry(entry);
	}
	LWLockRelease(shared_state->lock);
	return runs;
}

/*
 * Wait until this database's engine has written the report, for so many
 * milliseconds at most; false if it has not.
 */
bool
shared_await_report(uint32 number, int ms)
{
	ClockTime	until = clock_in(ms);
	EngineEntry *entry;
	bool		done = false;

	LWLockAcquire(shared_state->lock, LW_SHARED);
	entry = shared_find(MyDatabaseId);
	LWLockRelease(shared_state->lock);
	if (entry == NULL)
		return false;

	ConditionVariablePrepareToSleep(&entry->report_written);
	while (!(done = (int32) (pg_atomic_read_u32(&entry->reports_done) - number) >= 0) &&
		   clock_now() < until)
		ConditionVariableTimedSleep(&entry->report_written, 100,
									PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
	return done;
}

/* Count anew in an engine, or in all of them (InvalidOid). */
void
shared_reset_stats(Oid dboid)
{
	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_ENGINES; i++)
	{
		EngineEntry *entry = &shared_state->engines[i];

		if (entry->state == ENGINE_FREE ||
			(OidIsValid(dboid) && entry->dboid != dboid))
			continue;
		entry->reset_counts = entry->counts;
		entry->stats_reset = GetCurrentTimestamp();
	}
	LWLockRelease(shared_state->lock);
}
