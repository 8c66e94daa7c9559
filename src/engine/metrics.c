/*-------------------------------------------------------------------------
 *
 * metrics.c
 *	  What the engine counts and measures for Prometheus.
 *
 * The counters of the modules are read where they are; this file owns those
 * that have no other place, and writes all of them in Prometheus' text format
 * (version 0.0.4).  The gateway, which gets that text about once a second,
 * answers scrapes with it, so that nobody who asks can hold up the engine.
 *
 * The names are listed in docs/manual.md.  They count from the engine's start,
 * whatever pg_stat_rtsync_reset() does: a counter never goes back for
 * Prometheus but at a restart.
 *
 * Called by engine.c, route.c, join.c and subscription.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/timestamp.h"

#include "engine/clock.h"
#include "engine/metrics.h"
#include "engine/settings.h"

/* Upper bounds of the buckets, in seconds; one more has no bound */
static const double decision_bounds[] = {
	0.00001, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5,
	1, 2.5, 10
};

static uint64 decision_buckets[lengthof(decision_bounds) + 1];
static double decision_sum;

/* By RefetchReason: the label's value */
static const char *const refetch_reasons[REFETCH_REASONS] = {
	"truncate", "dependency", "access", "table", "overrun", "too_old", "epoch",
	"cursor", "session", "snapshot", "withheld", "undecoded", "retained_wal"
};

static uint64 refetches[REFETCH_REASONS];

/* A slice was decided that was begun at this time. */
void
metrics_decided(const instr_time *started)
{
	instr_time	took;
	double		seconds;
	int			bucket = 0;

	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, *started);
	seconds = INSTR_TIME_GET_DOUBLE(took);
	while (bucket < lengthof(decision_bounds) &&
		   seconds > decision_bounds[bucket])
		bucket++;
	decision_buckets[bucket]++;
	decision_sum += seconds;
}

/* A channel is told to refetch. */
void
metrics_refetch(RefetchReason reason)
{
	refetches[reason]++;
}

/* How often channels were told to since the start, for each reason */
void
metrics_refetches(uint64 *counts)
{
	memcpy(counts, refetches, sizeof(refetches));
}

/* The reason, as those who look at the statistics know it */
const char *
metrics_refetch_name(RefetchReason reason)
{
	return refetch_reasons[reason];
}

static void
put_head(StringInfo out, const char *name, const char *type, const char *help)
{
	appendStringInfo(out, "# HELP rtsync_%s %s\n# TYPE rtsync_%s %s\n",
					 name, help, name, type);
}

static void
put_gauge(StringInfo out, const char *name, double value, const char *help)
{
	put_head(out, name, "gauge", help);
	appendStringInfo(out, "rtsync_%s %.15g\n", name, value);
}

static void
put_counter(StringInfo out, const char *name, uint64 value, const char *help)
{
	put_head(out, name, "counter", help);
	appendStringInfo(out, "rtsync_%s " UINT64_FORMAT "\n", name, value);
}

/*
 * A label's value: the three characters that have a meaning are escaped.  The
 * format is UTF-8.
 */
static void
put_label(StringInfo out, const char *name, const char *value)
{
	appendStringInfo(out, "%s=\"", name);
	for (; *value != '\0'; value++)
	{
		if (*value == '"' || *value == '\\')
			appendStringInfoChar(out, '\\');
		if (*value == '\n')
			appendStringInfoString(out, "\\n");
		else if (IS_HIGHBIT_SET(*value) && GetDatabaseEncoding() != PG_UTF8)
			appendStringInfoChar(out, '?');
		else
			appendStringInfoChar(out, *value);
	}
	appendStringInfoChar(out, '"');
}

static void
put_info(StringInfo out, const EngineEntry *entry, const char *database)
{
	put_head(out, "engine_info", "gauge", "The database that is served, and the epoch of its cursors.");
	appendStringInfoString(out, "rtsync_engine_info{");
	put_label(out, "database", database);
	appendStringInfo(out, ",epoch=\"%016llx\"} 1\n",
					 (unsigned long long) entry->epoch);
}

static void
put_refetches(StringInfo out)
{
	put_head(out, "refetches_total", "counter", "Channels told to read their rows again.");
	for (int i = 0; i < REFETCH_REASONS; i++)
		appendStringInfo(out, "rtsync_refetches_total{reason=\"%s\"} " UINT64_FORMAT "\n",
						 refetch_reasons[i], refetches[i]);
}

static void
put_snapshots(StringInfo out, const EngineEntry *entry)
{
	put_gauge(out, "snapshots", entry->snapshots_running,
			  "Snapshots that are being read.");
	put_gauge(out, "snapshots_waiting", entry->snapshots_waiting,
			  "Snapshots that wait for a worker.");
	put_head(out, "snapshots_total", "counter", "Snapshots that have ended.");
	appendStringInfo(out, "rtsync_snapshots_total{outcome=\"completed\"} " UINT64_FORMAT "\n"
					 "rtsync_snapshots_total{outcome=\"failed\"} " UINT64_FORMAT "\n",
					 entry->counts.snapshots, entry->counts.snapshots_failed);
}

static void
put_decisions(StringInfo out)
{
	uint64		count = 0;

	put_head(out, "decision_seconds", "histogram", "Time to decide who sees the changes of a slice.");
	for (int i = 0; i <= lengthof(decision_bounds); i++)
	{
		count += decision_buckets[i];
		if (i < lengthof(decision_bounds))
			appendStringInfo(out, "rtsync_decision_seconds_bucket{le=\"%g\"} " UINT64_FORMAT "\n",
							 decision_bounds[i], count);
		else
			appendStringInfo(out, "rtsync_decision_seconds_bucket{le=\"+Inf\"} " UINT64_FORMAT "\n",
							 count);
	}
	appendStringInfo(out, "rtsync_decision_seconds_sum %.9g\n", decision_sum);
	appendStringInfo(out, "rtsync_decision_seconds_count " UINT64_FORMAT "\n",
					 count);
}

static double
seconds_since(TimestampTz when, TimestampTz now)
{
	return when == 0 || when > now ? 0 : (now - when) / (double) USECS_PER_SEC;
}

/*
 * Write all metrics of the engine.  "entry" is its own, as it is published,
 * "database" the database's name in UTF-8.
 */
void
metrics_render(StringInfo out, const EngineEntry *entry, const char *database)
{
	TimestampTz now = GetCurrentTimestamp();

	put_info(out, entry, database);
	put_gauge(out, "wal_lag_bytes", entry->flushed_lsn > entry->routed_lsn ?
			  entry->flushed_lsn - entry->routed_lsn : 0,
			  "WAL that is written but not delivered.");
	put_gauge(out, "wal_lag_seconds",
			  seconds_since(entry->behind_since, clock_now()),
			  "Time since everything that was committed had been delivered.");
	put_gauge(out, "retained_wal_bytes", entry->flushed_lsn > entry->restart_lsn ?
			  entry->flushed_lsn - entry->restart_lsn : 0,
			  "WAL that the replication slot keeps.");
	put_gauge(out, "max_retained_wal_bytes",
			  (double) rtsync_max_retained_wal * 1024 * 1024,
			  "The setting rtsync.max_retained_wal.");
	put_gauge(out, "history_bytes", entry->history_bytes,
			  "Memory of the history.");
	put_gauge(out, "max_history_bytes", (double) rtsync_history_size * 1024,
			  "The setting rtsync.history_size.");
	put_gauge(out, "history_span_seconds",
			  seconds_since(entry->history_since, now),
			  "Age of the oldest transaction in the history.");
	put_counter(out, "transactions_total", entry->counts.transactions,
				"Transactions decoded that change what is published.");
	put_counter(out, "changes_total", entry->counts.changes,
				"Row changes decoded.");
	put_counter(out, "events_total", entry->counts.events,
				"Changes sent, one for each group of equal subscriptions.");
	put_counter(out, "decision_errors_total", entry->counts.policy_errors,
				"Decisions that failed, and so denied.");
	put_counter(out, "gateway_starts_total", entry->counts.gateway_starts,
				"Gateways started.");
	put_gauge(out, "subscription_groups", entry->groups,
			  "Groups of equal subscriptions.");
	put_refetches(out);
	put_snapshots(out, entry);
	put_decisions(out);
}
