/*-------------------------------------------------------------------------
 *
 * stat.c
 *	  SQL functions behind the views pg_stat_rtsync, pg_stat_rtsync_connection
 *	  and pg_stat_rtsync_subscription.
 *
 * Run in ordinary backends.  As in pg_stat_activity, everybody sees that
 * somebody is there; what he or she does, only pg_read_all_stats and the
 * members of the role concerned.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "engine/binding.h"
#include "engine/clock.h"
#include "engine/metrics.h"
#include "engine/report.h"
#include "engine/shared.h"

#define MAX_COLUMNS 40

PG_FUNCTION_INFO_V1(rtsync_sql_stat_engines);
PG_FUNCTION_INFO_V1(rtsync_sql_stat_refetches);
PG_FUNCTION_INFO_V1(rtsync_sql_stat_connections);
PG_FUNCTION_INFO_V1(rtsync_sql_stat_subscriptions);
PG_FUNCTION_INFO_V1(rtsync_sql_stat_reset);

/* A row under construction: columns are added from left to right */
typedef struct Row
{
	Datum		values[MAX_COLUMNS];
	bool		nulls[MAX_COLUMNS];
	int			n;
} Row;

static void
put(Row *row, Datum value, bool isnull)
{
	Assert(row->n < MAX_COLUMNS);
	row->values[row->n] = isnull ? (Datum) 0 : value;
	row->nulls[row->n] = isnull;
	row->n++;
}

static void
put_text(Row *row, const char *value)
{
	put(row, value != NULL ? CStringGetTextDatum(value) : (Datum) 0,
		value == NULL);
}

static void
put_int64(Row *row, int64 value)
{
	put(row, Int64GetDatum(value), false);
}

static void
put_lsn(Row *row, XLogRecPtr value)
{
	put(row, LSNGetDatum(value), XLogRecPtrIsInvalid(value));
}

static void
put_time(Row *row, TimestampTz value)
{
	put(row, TimestampTzGetDatum(value), value == 0);
}

static void
put_interval(Row *row, int64 microseconds)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = Max(microseconds, 0);
	put(row, IntervalPGetDatum(interval), false);
}

static void
put_nulls(Row *row, int n)
{
	while (n-- > 0)
		put(row, (Datum) 0, true);
}

static void
put_name(Row *row, const char *value)
{
	Name		name = palloc0(sizeof(NameData));

	if (value != NULL)
		namestrcpy(name, value);
	put(row, NameGetDatum(name), value == NULL);
}

static void
end_row(ReturnSetInfo *result, const Row *row)
{
	if (row->n != result->setDesc->natts)
		elog(ERROR, "rtsync's library and extension are of different versions");
	tuplestore_putvalues(result->setResult, result->setDesc,
						 (Datum *) row->values, (bool *) row->nulls);
}

static void
require_preload(void)
{
	if (shared_state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rtsync must be loaded via shared_preload_libraries"),
				 errhint("Add rtsync to shared_preload_libraries in the configuration file and restart the server.")));
}

/* May the user see what this role does? */
static bool
may_see(Oid roleid)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
		(OidIsValid(roleid) && has_privs_of_role(GetUserId(), roleid));
}

/*--------------------------------------------------------------------------
 * Engines
 *--------------------------------------------------------------------------
 */

static XLogRecPtr
wal_end(void)
{
	TimeLineID	tli;

	return RecoveryInProgress() ?
		GetXLogReplayRecPtr(&tli) : GetFlushRecPtr(&tli);
}

static int64
distance(XLogRecPtr from, XLogRecPtr to)
{
	return from != InvalidXLogRecPtr && to > from ? (int64) (to - from) : 0;
}

static void
put_positions(Row *row, const EngineEntry *entry)
{
	TimestampTz now = GetCurrentTimestamp();
	XLogRecPtr	end = wal_end();

	put_text(row, psprintf("%016llx", (unsigned long long) entry->epoch));
	put_lsn(row, entry->restart_lsn);
	put_lsn(row, entry->confirmed_lsn);
	put_lsn(row, entry->history_lsn);
	put_lsn(row, entry->decoded_lsn);
	put_lsn(row, entry->routed_lsn);
	put_int64(row, distance(entry->routed_lsn, end));
	put_interval(row, entry->behind_since == 0 ? 0 :
				 clock_now() - entry->behind_since);
	put_int64(row, distance(entry->restart_lsn, end));
	put_int64(row, entry->history_bytes);
	if (entry->history_since == 0)
		put_nulls(row, 1);
	else
		put_interval(row, Max(now - entry->history_since, 0));
}

/* For one reason */
static int64
refetches_for(const EngineEntry *entry, RefetchReason reason)
{
	return entry->counts.refetches[reason] -
		entry->reset_counts.refetches[reason];
}

static int64
count_refetches(const EngineEntry *entry)
{
	int64		sum = 0;

	for (int reason = 0; reason < REFETCH_REASONS; reason++)
		sum += refetches_for(entry, reason);
	return sum;
}

static void
put_counts(Row *row, const EngineEntry *entry)
{
	const EngineCounts *now = &entry->counts;
	const EngineCounts *then = &entry->reset_counts;

	put_int64(row, now->transactions - then->transactions);
	put_int64(row, now->changes - then->changes);
	put_int64(row, now->events - then->events);
	put_int64(row, now->policy_errors - then->policy_errors);
	put_int64(row, count_refetches(entry));
	put_int64(row, now->snapshots - then->snapshots);
	put_int64(row, now->snapshots_failed - then->snapshots_failed);
	put_int64(row, now->frames_sent - then->frames_sent);
	put_int64(row, now->bytes_sent - then->bytes_sent);
	put_int64(row, now->closed_slow - then->closed_slow);
	put_int64(row, now->gateway_starts - then->gateway_starts);
	put(row, Int32GetDatum(entry->connections), false);
	put(row, Int32GetDatum(entry->channels), false);
	put(row, Int32GetDatum(entry->groups), false);
	put(row, Int32GetDatum(entry->snapshots_running), false);
	put(row, Int32GetDatum(entry->snapshots_waiting), false);
	put_time(row, entry->updated);
	put_time(row, entry->stats_reset);
}

/* Call a function for each engine that runs, to put its rows. */
static void
for_each_engine(FunctionCallInfo fcinfo,
				void (*function) (ReturnSetInfo *result,
								  const EngineEntry *entry))
{
	EngineEntry *entries;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);

	/* A copy, since names cannot be looked up under the lock */
	entries = palloc(sizeof(shared_state->engines));
	LWLockAcquire(shared_state->lock, LW_SHARED);
	memcpy(entries, shared_state->engines, sizeof(shared_state->engines));
	LWLockRelease(shared_state->lock);

	for (int i = 0; i < MAX_ENGINES; i++)
		if (entries[i].state == ENGINE_RUNNING)
			function((ReturnSetInfo *) fcinfo->resultinfo, &entries[i]);
}

static void
put_engine(ReturnSetInfo *result, const EngineEntry *entry)
{
	Row			row = {.n = 0};

	put(&row, ObjectIdGetDatum(entry->dboid), false);
	put_name(&row, get_database_name(entry->dboid));
	put(&row, Int32GetDatum(entry->pid), false);
	put_time(&row, entry->started);
	put_positions(&row, entry);
	put_counts(&row, entry);
	end_row(result, &row);
}

/* One row for each engine that runs */
Datum
rtsync_sql_stat_engines(PG_FUNCTION_ARGS)
{
	for_each_engine(fcinfo, put_engine);
	return (Datum) 0;
}

static void
put_refetches(ReturnSetInfo *result, const EngineEntry *entry)
{
	char	   *datname = get_database_name(entry->dboid);

	for (int reason = 0; reason < REFETCH_REASONS; reason++)
	{
		Row			row = {.n = 0};

		put(&row, ObjectIdGetDatum(entry->dboid), false);
		put_name(&row, datname);
		put_text(&row, metrics_refetch_name(reason));
		put_int64(&row, refetches_for(entry, reason));
		put_time(&row, entry->stats_reset);
		end_row(result, &row);
	}
}

/* One row for each engine that runs, and each reason to refetch */
Datum
rtsync_sql_stat_refetches(PG_FUNCTION_ARGS)
{
	for_each_engine(fcinfo, put_refetches);
	return (Datum) 0;
}

/* pg_stat_rtsync_reset(datid): of one database's engine, or of all */
Datum
rtsync_sql_stat_reset(PG_FUNCTION_ARGS)
{
	require_preload();
	shared_reset_stats(PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0));
	PG_RETURN_VOID();
}

/*--------------------------------------------------------------------------
 * Connections and subscriptions
 *--------------------------------------------------------------------------
 */

static char *
get_string(LinkReader *body)
{
	LinkString	string = link_get_string(body);

	return string.data == NULL ? NULL : pnstrdup(string.data, string.length);
}

/* An address as the gateway sends it: 4 or 16 bytes */
static void
put_address(Row *row, LinkString address)
{
	inet	   *value = palloc0(sizeof(inet));

	if (address.data == NULL || (address.length != 4 && address.length != 16))
	{
		put_nulls(row, 1);
		return;
	}
	ip_family(value) = address.length == 4 ? PGSQL_AF_INET : PGSQL_AF_INET6;
	ip_bits(value) = ip_maxbits(value);
	memcpy(ip_addr(value), address.data, address.length);
	SET_INET_VARSIZE(value);
	put(row, InetPGetDatum(value), false);
}

static void
put_role(Row *row, Oid roleid)
{
	put(row, ObjectIdGetDatum(roleid), !OidIsValid(roleid));
	put_name(row, OidIsValid(roleid) ? GetUserNameFromId(roleid, true) : NULL);
}

/* REPORT_CONNECTION */
static void
put_connection(Row *row, LinkReader *body)
{
	LinkString	from_gateway = link_get_string(body);
	Oid			roleid = link_get_u32(body);
	uint32		nchannels = link_get_u32(body);
	bool		visible = may_see(roleid);
	TimestampTz now = GetCurrentTimestamp();
	LinkReader	in;
	uint64		number;
	LinkString	address;
	uint32		port;
	int64		age;
	int64		silence;
	uint32		version;
	bool		ssl;
	bool		paused;

	link_read(&in, from_gateway.data, from_gateway.length);
	number = link_get_u64(&in);
	address = link_get_string(&in);
	port = link_get_u32(&in);
	age = (int64) link_get_u64(&in) * 1000;
	silence = (int64) link_get_u64(&in) * 1000;
	version = link_get_u32(&in);
	ssl = link_get_u8(&in) != 0;
	paused = link_get_u8(&in) != 0;

	put_int64(row, number);
	put_role(row, roleid);
	if (!visible)
	{
		put_nulls(row, 11);
		return;
	}
	put_address(row, address);
	put(row, Int32GetDatum(port), port == 0);
	put_time(row, now - age);
	put_time(row, now - silence);
	put_text(row, version == 1 ? "1.0.0" : "2.0.0");
	put(row, BoolGetDatum(ssl), false);
	put_text(row, paused ? "paused" : "active");
	put(row, Int32GetDatum(nchannels), false);
	put_int64(row, link_get_u64(&in));
	put_int64(row, link_get_u64(&in));
	put_int64(row, link_get_u64(&in));
}

static char *
events_text(uint32 events)
{
	static const struct
	{
		uint32		event;
		const char *name;
	}			names[] = {{EVENT_INSERT, "INSERT"}, {EVENT_UPDATE, "UPDATE"},
	{EVENT_DELETE, "DELETE"}};
	StringInfoData text;

	if (events == EVENT_ALL)
		return "*";
	initStringInfo(&text);
	for (int i = 0; i < lengthof(names); i++)
		if (events & names[i].event)
			appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "",
							 names[i].name);
	return text.data;
}

static const char *
pace_name(uint8 pace)
{
	switch ((ReportPace) pace)
	{
		case REPORT_LIVE:
			return "live";
		case REPORT_PAUSED:
			return "paused";
		case REPORT_LATE:
			return "catching up";
		case REPORT_SNAPSHOT:
			return "snapshot";
		case REPORT_THROTTLED:
			return "throttled";
		case REPORT_REFUSED:
			break;
	}
	return "refused";
}

/* REPORT_SUBSCRIPTION */
static void
put_subscription(Row *row, LinkReader *body)
{
	Oid			roleid;
	uint32		binding;

	put_int64(row, link_get_u64(body));
	put_int64(row, link_get_u64(body));
	roleid = link_get_u32(body);
	put_role(row, roleid);
	if (!may_see(roleid))
	{
		put_nulls(row, 16);
		return;
	}
	put_text(row, get_string(body));
	put_text(row, get_string(body));
	put(row, BoolGetDatum(link_get_u8(body) != 0), false);
	put_time(row, (TimestampTz) link_get_u64(body));
	binding = link_get_u32(body);
	put_int64(row, binding);
	row->nulls[row->n - 1] = binding == 0;
	put_name(row, get_string(body));
	put_name(row, get_string(body));
	put_text(row, events_text(link_get_u32(body)));
	row->nulls[row->n - 1] = binding == 0;
	put_text(row, get_string(body));
	put_text(row, get_string(body));
	put_text(row, get_string(body));
	put_int64(row, link_get_u32(body));
	row->nulls[row->n - 1] |= row->values[row->n - 1] == 0;
	put_text(row, pace_name(link_get_u8(body)));
	put_text(row, get_string(body));
	put_int64(row, link_get_u64(body));
	put_int64(row, link_get_u64(body));
}

/* Return the rows of one type of a report. */
static Datum
stat_rows(FunctionCallInfo fcinfo, ReportType type,
		  void (*put_columns) (Row *row, LinkReader *body))
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext context;
	MemoryContext old;
	LinkHeader	header;
	char	   *report;
	Size		length;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	report = report_get(&length);
	if (report == NULL)
		return (Datum) 0;

	context = AllocSetContextCreate(CurrentMemoryContext, "rtsync report row",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	while (link_next_message(report, length, LINK_MAX_TO_GATEWAY, &header) == 1)
	{
		Row			row = {.n = 0};
		LinkReader	body;

		link_read(&body, report + sizeof(header), header.length);
		if (header.type == (uint32) type)
		{
			CHECK_FOR_INTERRUPTS();
			put_columns(&row, &body);
			end_row(result, &row);
			MemoryContextReset(context);
		}
		report += sizeof(header) + header.length;
		length -= sizeof(header) + header.length;
	}
	MemoryContextSwitchTo(old);
	return (Datum) 0;
}

/* One row for each client connected to this database's gateway */
Datum
rtsync_sql_stat_connections(PG_FUNCTION_ARGS)
{
	return stat_rows(fcinfo, REPORT_CONNECTION, put_connection);
}

/* One row for each of their channels and each table that these listen to */
Datum
rtsync_sql_stat_subscriptions(PG_FUNCTION_ARGS)
{
	return stat_rows(fcinfo, REPORT_SUBSCRIPTION, put_subscription);
}
