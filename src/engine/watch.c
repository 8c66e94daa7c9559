/*-------------------------------------------------------------------------
 *
 * watch.c
 *	  Says in the log when something crosses a threshold.
 *
 * For who reads the log at night and not the views: once when it begins, with
 * what to look at, and once when it is over.
 *
 * Called by engine.c about once a second.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"


#include "engine/clock.h"
#include "engine/settings.h"
#include "engine/watch.h"

/* So late is worth a line. */
#define LAG_SECONDS 10

/*
 * The history is cut at half of rtsync.max_retained_wal, and the slot given up
 * at all of it (engine.c): between the two something holds it back.
 */
#define TOO_MUCH_RETAINED(limit) ((limit) / 4 * 3)
#define ENOUGH_RETAINED(limit) ((limit) / 8 * 5)

#define MB_OF(bytes) ((unsigned long long) (bytes) / (1024 * 1024))

static void
watch_lag(const EngineEntry *entry)
{
	static ClockTime behind_since;	/* since when, if that was said */
	ClockTime	now = clock_now();

	if (behind_since == 0 && entry->behind_since != 0 &&
		now - entry->behind_since > LAG_SECONDS * USECS_PER_SEC)
	{
		behind_since = entry->behind_since;
		ereport(LOG,
				(errmsg("rtsync engine for database \"%s\" is %d seconds behind",
						NameStr(entry->dbname), LAG_SECONDS),
				 errdetail("%llu MB of WAL are not delivered yet.",
						   MB_OF(entry->flushed_lsn - entry->routed_lsn)),
				 errhint("A large transaction, slow policies, or a commit that waits for a standby can be the cause.")));
	}
	else if (behind_since != 0 &&
			 (entry->behind_since == 0 ||
			  now - entry->behind_since < USECS_PER_SEC))
	{
		ereport(LOG,
				(errmsg("rtsync engine for database \"%s\" has caught up after %lld seconds",
						NameStr(entry->dbname),
						(long long) ((now - behind_since) / USECS_PER_SEC))));
		behind_since = 0;
	}
}

static void
watch_retained_wal(const EngineEntry *entry)
{
	static bool said;
	uint64		limit = (uint64) rtsync_max_retained_wal * 1024 * 1024;
	uint64		retained = entry->flushed_lsn > entry->restart_lsn ?
		entry->flushed_lsn - entry->restart_lsn : 0;

	if (!said && retained > TOO_MUCH_RETAINED(limit))
	{
		said = true;
		ereport(WARNING,
				(errmsg("replication slot of the rtsync engine for database \"%s\" keeps %llu MB of WAL",
						NameStr(entry->dbname), MB_OF(retained)),
				 errdetail("At %d MB it is given up, and clients are told to fetch their rows again.",
						   rtsync_max_retained_wal),
				 errhint("Look for transactions that have been open for long, in pg_stat_activity and pg_prepared_xacts, or increase \"rtsync.max_retained_wal\".")));
	}
	else if (said && retained <= ENOUGH_RETAINED(limit))
	{
		said = false;
		ereport(LOG,
				(errmsg("replication slot of the rtsync engine for database \"%s\" keeps only %llu MB of WAL again",
						NameStr(entry->dbname), MB_OF(retained))));
	}
}

/* Look at the engine's state, as it is published. */
void
watch_thresholds(const EngineEntry *entry)
{
	watch_lag(entry);
	watch_retained_wal(entry);
}
