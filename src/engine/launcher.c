/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The launcher: one background worker of the whole server, connected to no
 *	  database, that starts an engine in each database that has the extension.
 *
 * Whether a database has it can be seen only from inside.  So the launcher
 * starts an engine in every database once, a few at a time; one that finds no
 * extension reports that and ends.  After that, the backends that create or
 * drop extensions and databases say so (hooks.c).
 *
 * The launcher sleeps on its latch, which is set by those backends, by engines
 * that start or end, and by the postmaster when one of its workers starts or
 * stops.  Each turn it looks at all entries anew: nothing is lost if several
 * of these come at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/slot.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "engine/clock.h"
#include "engine/compat.h"
#include "engine/launcher.h"
#include "engine/shared.h"

/* So many databases are probed at once, to leave worker slots to others */
#define MAX_PROBES 2

#define RESCAN_MS (10 * 60 * 1000)	/* look for databases nobody told us of */
#define WATCH_MS 1000			/* while something is under way */
#define RESTART_SECONDS 5		/* of the launcher itself */

#define SLOTS_MESSAGE "out of background worker slots"
#define SLOTS_HINT "You might need to increase max_worker_processes."

/* A database as the launcher's scan found it */
typedef struct Database
{
	Oid			oid;
	NameData	name;
} Database;

/* The worker last started for an entry, until it has stopped */
typedef struct Worker
{
	BackgroundWorkerHandle *handle; /* NULL: none, or stopped */
	uint32		generation;		/* of the entry when it was started */
} Worker;

/* All of this is the launcher process's own. */
static Worker workers[MAX_ENGINES];
static MemoryContext turn_context;	/* reset in each turn */
static List *known_databases = NIL; /* Oids, in TopMemoryContext */
static ClockTime next_scan = 0;
static bool slots_complained = false;	/* since a worker could be registered */

/*------------------------------ databases -------------------------------*/

/* datconnlimit of a database whose DROP was interrupted */
#define CONNLIMIT_INVALID (-2)

/* All databases that can be connected to; in turn_context */
static List *
scan_databases(void)
{
	List	   *databases = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;
		Database   *database;

		if (!form->datallowconn || form->datconnlimit == CONNLIMIT_INVALID)
			continue;
		old = MemoryContextSwitchTo(turn_context);
		database = palloc(sizeof(Database));
		database->oid = form->oid;
		database->name = form->datname;
		databases = lappend(databases, database);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return databases;
}

static Database *
find_database(List *databases, Oid oid)
{
	ListCell   *cell;

	foreach(cell, databases)
	{
		Database   *database = lfirst(cell);

		if (database->oid == oid)
			return database;
	}
	return NULL;
}

/* Give up the entries of databases that are gone or take no connection. */
static void
forget_gone(List *databases)
{
	for (int i = 0; i < MAX_ENGINES; i++)
	{
		EngineEntry *entry = &shared_state->engines[i];
		Oid			gone = InvalidOid;

		LWLockAcquire(shared_state->lock, LW_SHARED);
		if (entry->state != ENGINE_FREE && entry->pid == 0 &&
			entry->held_by == 0 &&
			find_database(databases, entry->dboid) == NULL)
			gone = entry->dboid;
		LWLockRelease(shared_state->lock);
		if (OidIsValid(gone))
			shared_forget(gone);
	}
}

static bool
watch_new_database(Database *database)
{
	bool		room;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	room = shared_allot(database->oid) != NULL;
	LWLockRelease(shared_state->lock);
	return room;
}

/*
 * Have databases that were not there before looked at.  Returns false if the
 * entries have no room for all of them: the rest has to wait until others have
 * turned out not to have the extension.
 */
static bool
watch_new(List *databases)
{
	MemoryContext old;
	List	   *oids = NIL;
	ListCell   *cell;
	bool		room = true;

	old = MemoryContextSwitchTo(TopMemoryContext);
	foreach(cell, databases)
	{
		Database   *database = lfirst(cell);

		if (!list_member_oid(known_databases, database->oid))
			room = room && watch_new_database(database);
		if (room || list_member_oid(known_databases, database->oid))
			oids = lappend_oid(oids, database->oid);
	}
	list_free(known_databases);
	known_databases = oids;
	MemoryContextSwitchTo(old);
	return room;
}

static void
complain_of_entries(void)
{
	static bool complained = false;

	if (!complained)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("rtsync cannot serve more than %d databases",
						MAX_ENGINES)));
	complained = true;
}

/*------------------------------ workers ---------------------------------*/

static bool
register_worker(int index, const Database *database)
{
	BackgroundWorker worker = {0};
	MemoryContext old;
	bool		registered;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_name, BGW_MAXLEN, ENGINE_TYPE " %s",
			 NameStr(database->name));
	strlcpy(worker.bgw_type, ENGINE_TYPE, BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "rtsync", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, ENGINE_FUNCTION, BGW_MAXLEN);
	worker.bgw_main_arg = ObjectIdGetDatum(database->oid);
	worker.bgw_notify_pid = MyProcPid;

	old = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker,
												 &workers[index].handle);
	MemoryContextSwitchTo(old);
	return registered;
}

static void
fail_start(EngineEntry *entry, uint32 generation, const char *message,
		   const char *hint)
{
	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	if (entry->state == ENGINE_STARTING && entry->pid == 0 &&
		entry->generation == generation)
		shared_launcher_failed(entry, message, hint);
	LWLockRelease(shared_state->lock);
}

/* A worker slot is free again: who waits for one need not wait longer. */
static void
retry_those_without_slot(void)
{
	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_ENGINES; i++)
	{
		EngineEntry *entry = &shared_state->engines[i];

		if (entry->state == ENGINE_WAITING &&
			strcmp(entry->message, SLOTS_MESSAGE) == 0)
			entry->retry_at = 0;
	}
	LWLockRelease(shared_state->lock);
}

/*
 * Forget workers that have stopped.  Usually they have cleaned up their entry
 * themselves; one that never came so far is a failed start.  Returns how many
 * of the others are starting, probing, or about to end.
 */
static int
check_workers(void)
{
	int			busy = 0;

	for (int i = 0; i < MAX_ENGINES; i++)
	{
		Worker	   *worker = &workers[i];
		EngineEntry *entry = &shared_state->engines[i];
		pid_t		pid;

		if (worker->handle == NULL)
			continue;
		if (GetBackgroundWorkerPid(worker->handle, &pid) == BGWH_STOPPED)
		{
			pfree(worker->handle);
			worker->handle = NULL;
			fail_start(entry, worker->generation,
					   "the engine could not be started",
					   "The server's log may say why.");
			retry_those_without_slot();
			continue;
		}
		LWLockAcquire(shared_state->lock, LW_SHARED);
		if (entry->pid == 0 || entry->probing)
			busy++;
		LWLockRelease(shared_state->lock);
	}
	return busy;
}

/* An entry's engine is to be started, at *when.  Lock held. */
static bool
wants_start(const EngineEntry *entry, ClockTime * when)
{
	if (entry->state != ENGINE_UNKNOWN && entry->state != ENGINE_WAITING)
		return false;
	if (entry->held_by != 0 || entry->pid != 0)
		return false;
	*when = entry->retry_at;
	return true;
}

static void
complain_of_slots(const Database *database, bool same)
{
	if (!slots_complained && !same)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("rtsync engine for database \"%s\": %s",
						NameStr(database->name), SLOTS_MESSAGE),
				 errhint("%s", SLOTS_HINT)));
	slots_complained = true;
}

/*
 * Start one engine; false if there is no worker slot for it now.  If others of
 * ours are starting or ending that may pass, so it just stays due.
 */
static bool
start_engine(int index, const Database *database, bool others_busy)
{
	EngineEntry *entry = &shared_state->engines[index];
	ClockTime	when;
	bool		same;

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	if (entry->dboid != database->oid || !wants_start(entry, &when))
	{
		LWLockRelease(shared_state->lock);
		return true;
	}
	shared_launcher_starting(entry, NameStr(database->name));
	workers[index].generation = entry->generation;
	same = strcmp(entry->message, SLOTS_MESSAGE) == 0;
	LWLockRelease(shared_state->lock);

	if (register_worker(index, database))
	{
		slots_complained = false;
		return true;
	}
	workers[index].handle = NULL;
	if (others_busy)
	{
		LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
		shared_launcher_postponed(entry);
		LWLockRelease(shared_state->lock);
		return false;
	}
	fail_start(entry, workers[index].generation, SLOTS_MESSAGE, SLOTS_HINT);
	complain_of_slots(database, same);
	return false;
}

/*------------------------------ the loop --------------------------------*/

/* What the entries ask of the launcher, seen at one moment */
typedef struct Agenda
{
	int			ndue;
	int			due[MAX_ENGINES];	/* entries whose engine is to start now */
	ClockTime	next;			/* the next after those, 0: none */
	bool		held;			/* some database is held */
} Agenda;

static void
read_agenda(Agenda *agenda, ClockTime now)
{
	memset(agenda, 0, sizeof(*agenda));
	LWLockAcquire(shared_state->lock, LW_SHARED);
	for (int i = 0; i < MAX_ENGINES; i++)
	{
		EngineEntry *entry = &shared_state->engines[i];
		ClockTime	when;

		if (entry->held_by != 0)
			agenda->held = true;
		if (!wants_start(entry, &when))
			continue;
		if (when <= now)
			agenda->due[agenda->ndue++] = i;
		else if (agenda->next == 0 || when < agenda->next)
			agenda->next = when;
	}
	LWLockRelease(shared_state->lock);
}

/*
 * Start what is due, as far as there are worker slots and not too many are
 * starting already.  When the slots run out while others of ours start or end,
 * the rest waits for those.
 */
static void
start_due(const Agenda *agenda, List *databases, int busy)
{
	for (int i = 0; i < agenda->ndue; i++)
	{
		int			index = agenda->due[i];
		EngineEntry *entry = &shared_state->engines[index];
		Database   *database = find_database(databases, entry->dboid);

		if (busy >= MAX_PROBES)
			break;
		/* its last worker must have ended, or it still holds the slot */
		if (database == NULL || workers[index].handle != NULL)
			continue;
		if (start_engine(index, database, busy > 0))
			busy++;
	}
}

static bool
scan_due(ClockTime now)
{
	if (now < next_scan)
		return false;
	next_scan = clock_in(RESCAN_MS);
	return true;
}

/* One turn; returns for how many milliseconds there is nothing to do. */
static long
launcher_turn(void)
{
	ClockTime	now = clock_now();
	Agenda		agenda;
	int			busy;
	bool		scan = scan_due(now);
	bool		room = true;

	MemoryContextReset(turn_context);
	busy = check_workers();
	read_agenda(&agenda, now);
	if (agenda.held)
		shared_launcher_release_dead_holders();

	if (scan || agenda.ndue > 0)
	{
		List	   *databases = scan_databases();

		forget_gone(databases);
		room = watch_new(databases);
		read_agenda(&agenda, now);
		start_due(&agenda, databases, busy);
		read_agenda(&agenda, now);
		busy = check_workers();
	}
	if (!room && busy == 0 && agenda.ndue == 0)
		complain_of_entries();
	else if (!room)
		next_scan = now;

	if (busy > 0 || agenda.held || agenda.ndue > 0)
		return WATCH_MS;
	if (agenda.next != 0)
		return clock_ms_until(Min(agenda.next, next_scan));
	return clock_ms_until(next_scan);
}

static void
launcher_loop(void)
{
	for (;;)
	{
		long		timeout;

		/* not 0: then the postmaster would not start it again */
		if (ProcDiePending)
			proc_exit(1);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		timeout = launcher_turn();

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* The launcher's main function */
void
launcher_main(Datum main_arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	SetConfigOption("application_name", MyBgworkerEntry->bgw_name,
					PGC_USERSET, PGC_S_SESSION);
	shared_launcher_attach();
	turn_context = AllocSetContextCreate(TopMemoryContext,
										 "rtsync launcher turn",
										 ALLOCSET_DEFAULT_SIZES);
	ereport(DEBUG1, (errmsg_internal("rtsync launcher started")));

	launcher_loop();
}

/* From _PG_init, in the postmaster */
void
launcher_register(void)
{
	BackgroundWorker worker = {0};

	/* pg_upgrade wants nobody at work. */
	if (IsBinaryUpgrade)
		return;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_name, "rtsync launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "rtsync launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "rtsync", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "launcher_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/*------------------------------ requirements ----------------------------*/

/* Does the slot exist, or is there room for it? */
static bool
slot_available(const char *slot_name)
{
	bool		available = false;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots && !available; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];

		available = !slot->in_use ||
			strcmp(NameStr(slot->data.name), slot_name) == 0;
	}
	LWLockRelease(ReplicationSlotControlLock);
	return available;
}

/* See launcher.h */
bool
launcher_can_decode(const char *slot_name, int *sqlerrcode,
					const char **message, const char **hint)
{
	if (wal_level < WAL_LEVEL_LOGICAL)
	{
		*sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
		*message = "wal_level is below logical";
		*hint = "Set wal_level = logical and restart the server.";
		return false;
	}
	if (max_replication_slots == 0)
	{
		*sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
		*message = "max_replication_slots is zero";
		*hint = "Increase max_replication_slots and restart the server.";
		return false;
	}
	if (!slot_available(slot_name))
	{
		*sqlerrcode = ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
		*message = "all replication slots are in use";
		*hint = "Free one or increase max_replication_slots.";
		return false;
	}
	return true;
}
