/*-------------------------------------------------------------------------
 *
 * status.c
 *	  SQL functions about rtsync itself: rtsync.status(), and the check that
 *	  CREATE EXTENSION makes.
 *
 * Run in ordinary backends, preloaded or not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "engine/shared.h"

#define STATUS_COLUMNS 21

PG_FUNCTION_INFO_V1(rtsync_sql_check_preload);
PG_FUNCTION_INFO_V1(rtsync_sql_status);

static void
require_preload(void)
{
	if (shared_state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rtsync must be loaded via shared_preload_libraries"),
				 errhint("Add rtsync to shared_preload_libraries in the configuration file and restart the server.")));
}

/*
 * Called by the install script: an extension that nobody serves would look
 * like one that works.
 */
Datum
rtsync_sql_check_preload(PG_FUNCTION_ARGS)
{
	require_preload();
	PG_RETURN_VOID();
}

static const char *
state_name(EngineState state)
{
	switch (state)
	{
		case ENGINE_UNKNOWN:
			return "unknown";
		case ENGINE_ABSENT:
			return "absent";
		case ENGINE_STARTING:
			return "starting";
		case ENGINE_RUNNING:
			return "running";
		case ENGINE_WAITING:
			return "waiting";
		case ENGINE_HELD:
			return "held";
		case ENGINE_FREE:
			break;
	}
	elog(ERROR, "unexpected engine state: %d", state);
	return NULL;				/* keep compiler quiet */
}

/* A row under construction: columns are added from left to right */
typedef struct Row
{
	Datum		values[STATUS_COLUMNS];
	bool		nulls[STATUS_COLUMNS];
	int			n;
} Row;

static void
put(Row *row, Datum value, bool isnull)
{
	Assert(row->n < STATUS_COLUMNS);
	row->values[row->n] = isnull ? (Datum) 0 : value;
	row->nulls[row->n] = isnull;
	row->n++;
}

/* Empty texts, invalid positions and times that never were are null. */
static void
put_text(Row *row, const char *value)
{
	bool		isnull = value == NULL || value[0] == '\0';

	put(row, isnull ? (Datum) 0 : CStringGetTextDatum(value), isnull);
}

static void
put_name(Row *row, const char *value)
{
	Name		name = palloc0(sizeof(NameData));

	if (value)
		namestrcpy(name, value);
	put(row, NameGetDatum(name), value == NULL);
}

static void
put_lsn(Row *row, XLogRecPtr value)
{
	put(row, LSNGetDatum(value), XLogRecPtrIsInvalid(value));
}

/* Counts are null when no engine counts */
static void
put_count(Row *row, bool running, int64 value)
{
	put(row, Int64GetDatum(value), !running);
}

static void
put_small_count(Row *row, bool running, int32 value)
{
	put(row, Int32GetDatum(value), !running);
}

static void
put_entry(ReturnSetInfo *result, const EngineEntry *entry)
{
	Row			row = {.n = 0};
	bool		running = entry->pid != 0;

	put(&row, ObjectIdGetDatum(entry->dboid), false);
	put_name(&row, get_database_name(entry->dboid));
	put_text(&row, state_name(entry->state));
	put_small_count(&row, running, entry->pid);
	put_text(&row, entry->message);
	put_text(&row, entry->hint);
	put(&row, TimestampTzGetDatum(entry->started), entry->started == 0);
	put_text(&row, entry->listen_addresses);
	put(&row, Int32GetDatum(entry->port), entry->port == 0);
	put_text(&row, entry->epoch == 0 ? NULL :
			 psprintf("%016llx", (unsigned long long) entry->epoch));
	put_lsn(&row, entry->decoded_lsn);
	put_lsn(&row, entry->routed_lsn);
	put_lsn(&row, entry->history_lsn);
	put_count(&row, running, entry->counts.transactions);
	put_count(&row, running, entry->counts.changes);
	put_count(&row, running, entry->counts.events);
	put_count(&row, running, entry->counts.policy_errors);
	put_small_count(&row, running, entry->gateways);
	put_small_count(&row, running, entry->connections);
	put_small_count(&row, running, entry->channels);
	put_small_count(&row, running, entry->groups);
	Assert(row.n == STATUS_COLUMNS);

	tuplestore_putvalues(result->setResult, result->setDesc,
						 row.values, row.nulls);
}

/*
 * Is the entry worth a row?  Databases without the extension, which are only
 * remembered in order not to look again, are not; but this database always is.
 */
static bool
is_shown(const EngineEntry *entry)
{
	if (entry->state == ENGINE_FREE)
		return false;
	if (entry->dboid == MyDatabaseId)
		return true;
	return entry->state != ENGINE_ABSENT && entry->state != ENGINE_UNKNOWN &&
		!entry->probing;
}

/* This database, if the launcher does not know it: then why */
static void
put_unknown(ReturnSetInfo *result, bool launcher_runs)
{
	EngineEntry entry;

	memset(&entry, 0, sizeof(entry));
	entry.dboid = MyDatabaseId;
	entry.state = ENGINE_UNKNOWN;
	if (RecoveryInProgress())
		strlcpy(entry.message, "the server is in recovery",
				STATUS_MESSAGE_SIZE);
	else if (!launcher_runs)
	{
		strlcpy(entry.message, "the launcher does not run",
				STATUS_MESSAGE_SIZE);
		strlcpy(entry.hint, "The server's log may say why; max_worker_processes may be too low.",
				STATUS_MESSAGE_SIZE);
	}
	put_entry(result, &entry);
}

/* rtsync.status(): one row for each database that has an engine or should */
Datum
rtsync_sql_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	EngineEntry *entries;
	bool		launcher_runs;
	bool		seen = false;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);

	/* A copy, since names cannot be looked up under the lock */
	entries = palloc(sizeof(shared_state->engines));
	LWLockAcquire(shared_state->lock, LW_SHARED);
	memcpy(entries, shared_state->engines, sizeof(shared_state->engines));
	launcher_runs = shared_state->launcher_pid != 0;
	LWLockRelease(shared_state->lock);

	for (int i = 0; i < MAX_ENGINES; i++)
	{
		if (!is_shown(&entries[i]))
			continue;
		put_entry(result, &entries[i]);
		seen |= entries[i].dboid == MyDatabaseId;
	}
	if (!seen)
		put_unknown(result, launcher_runs);
	return (Datum) 0;
}
