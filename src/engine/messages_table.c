/*-------------------------------------------------------------------------
 *
 * messages_table.c
 *	  The table of messages: whose row security gives the rights on private
 *	  channels, and which holds what is to be replayed.
 *
 * The setting rtsync.messages_table names it.  If it is partitioned, the
 * engine keeps a partition for each day, called messages_YYYY_MM_DD, from
 * today to DAYS_AHEAD days ahead, and drops those whose messages are all older
 * than rtsync.messages_retention.  A day without a partition of its own (the
 * engine did not run) goes to the default partition, so that storing a message
 * never fails for want of one.
 *
 * The engine makes its changes in transactions of its own, each step by
 * itself: with a lock_timeout, since it must not wait for others, and what
 * fails is tried again the next time.  It makes them as the owner of the table,
 * who need not be trusted with more: triggers may run, and are limited as
 * policies are.
 *
 * Times in the table are in UTC and without a time zone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "engine/attempt.h"
#include "engine/catalogs.h"
#include "engine/messages_table.h"
#include "engine/principal.h"
#include "engine/settings.h"
#include "engine/shared.h"
#include "engine/wal.h"

#define DAYS_AHEAD 2
#define LOCK_TIMEOUT "100ms"

/* Rows deleted in one step */
#define DELETE_ROWS 1000

/* "messages_YYYY_MM_DD" */
#define PARTITION_NAME "messages_%04d_%02d_%02d"

/*
 * The table that rtsync.messages_table names, InvalidOid if there is none.
 * No privilege is asked for.
 */
Oid
messages_table_oid(void)
{
	char	   *copy = pstrdup(rtsync_messages_table);
	List	   *names;
	Oid			nspid;
	Oid			relid = InvalidOid;

	if (SplitIdentifierString(copy, '.', &names) && list_length(names) == 2)
	{
		nspid = get_namespace_oid(linitial(names), true);
		if (OidIsValid(nspid))
			relid = get_relname_relid(lsecond(names), nspid);
	}
	list_free(names);
	pfree(copy);
	return relid;
}

/* The table's name as SQL text; an error if it has been dropped meanwhile */
static char *
table_name(Oid relid)
{
	char	   *relname = get_rel_name(relid);
	char	   *nspname = get_namespace_name(get_rel_namespace(relid));

	if (relname == NULL || nspname == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table with OID %u does not exist", relid)));
	return quote_qualified_identifier(nspname, relname);
}

/* Its owner, as whom it is read and written */
static Oid
table_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*--------------------------------------------------------------------------
 * Storing, in a backend that sends
 *--------------------------------------------------------------------------
 */

/* The time of a message: later than that of the one before */
static Timestamp
next_time(void)
{
	static Timestamp last = 0;
	Timestamp	now = GetCurrentTimestamp();

	if (now <= last)
		now = last + 1;
	last = now;
	return now;
}

/* Insert the row, as the current user. */
static void
insert_message(Oid relid, const Message *message, const Interval *ttl)
{
	char	   *sql;
	pg_uuid_t	id = message->id;
	Oid			types[] = {UUIDOID, TEXTOID, TEXTOID, TEXTOID, BYTEAOID,
	BOOLOID, TIMESTAMPOID, INTERVALOID};
	Datum		values[8];
	char		nulls[] = "        ";
	int			result;

	values[0] = UUIDPGetDatum(&id);
	values[1] = PointerGetDatum(cstring_to_text_with_len(message->topic.data,
														 message->topic.length));
	values[2] = PointerGetDatum(cstring_to_text_with_len(message->event.data,
														 message->event.length));
	values[3] = values[4] =
		PointerGetDatum(cstring_to_text_with_len(message->payload.data,
												 message->payload.length));
	nulls[message->json ? 4 : 3] = 'n';
	values[5] = BoolGetDatum(message->private);
	values[6] = TimestampGetDatum(next_time());
	if (ttl != NULL)
		values[7] = IntervalPGetDatum(ttl);
	else
		nulls[7] = 'n';

	sql = psprintf("INSERT INTO %s (id, topic, event, payload, binary_payload, private,"
				   " extension, inserted_at, updated_at, expires_at)"
				   " VALUES ($1, $2, $3, $4::pg_catalog.jsonb, $5, $6,"
				   " 'broadcast', $7, $7, $7 OPERATOR(pg_catalog.+) $8)",
				   table_name(relid));
	if ((result = SPI_execute_with_args(sql, lengthof(types), types, values,
										nulls, false, 0)) != SPI_OK_INSERT)
		elog(ERROR, "could not store message: %s",
			 SPI_result_code_string(result));
}

/*
 * Store a message for replay; its parts are in the server's encoding here.
 * The right to do so has been checked: the row is written as the table's
 * owner.
 */
void
messages_table_store(const Message *message, const Interval *ttl)
{
	Oid			relid = messages_table_oid();
	Relation	rel = table_open(relid, RowExclusiveLock);
	Oid			userid;
	int			sec_context;
	int			nestlevel = NewGUCNestLevel();

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(table_owner(relid),
						   sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	set_local("search_path", "pg_catalog, pg_temp");
	SPI_connect();
	insert_message(relid, message, ttl);
	SPI_finish();
	AtEOXact_GUC(false, nestlevel);
	SetUserIdAndSecContext(userid, sec_context);
	table_close(rel, NoLock);
}

/*
 * In the engine, be the table's owner and allowed to write, in a transaction
 * that is read-only until then, until leave_owner.  It waits for locks only
 * shortly; what triggers of the table do is limited as policies are.
 */
static void
enter_owner(Oid relid, PrincipalScope *scope)
{
	principal_enter_role(table_owner(relid), scope);
	XactReadOnly = false;
	set_local("search_path", "pg_catalog, pg_temp");
	set_local("lock_timeout", LOCK_TIMEOUT);
	principal_run_policies(relid, false);
}

static void
leave_owner(PrincipalScope *scope)
{
	principal_run_policies(InvalidOid, false);
	principal_leave(scope);
	XactReadOnly = true;
}

/* The same in the engine, in a transaction that is read-only until then. */
void
messages_table_store_in_engine(const Message *message, const Interval *ttl)
{
	Oid			relid = messages_table_oid();
	PrincipalScope scope;

	if (RecoveryInProgress() || !OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("messages cannot be stored here")));
	enter_owner(relid, &scope);
	SPI_connect();
	insert_message(relid, message, ttl);
	SPI_finish();
	leave_owner(&scope);
}

/*--------------------------------------------------------------------------
 * Replaying, in the engine
 *--------------------------------------------------------------------------
 */

/* A payload takes at most so many times as much in the table, as jsonb. */
#define STORED_GROWTH 8

/* The columns of the query for a replay */
#define REPLAY_ID 1
#define REPLAY_EVENT 2
#define REPLAY_PAYLOAD 3
#define REPLAY_BINARY 4

/* Text in UTF-8, in the current memory context */
static MessagePart
text_part(char *text)
{
	MessagePart part;

	part.data = GetDatabaseEncoding() == PG_UTF8 ? text :
		pg_server_to_any(text, strlen(text), PG_UTF8);
	part.length = strlen(part.data);
	return part;
}

/* A column as text, in the current memory context; data NULL: null */
static MessagePart
replay_text(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		datum = SPI_getbinval(tuple, desc, column, &isnull);
	Oid			function;
	bool		varlena;

	if (isnull)
		return (MessagePart)
	{
		NULL, 0
	};
	getTypeOutputInfo(SPI_gettypeid(desc, column), &function, &varlena);
	return text_part(OidOutputFunctionCall(function, datum));
}

/* Likewise one of bytes */
static MessagePart
replay_bytes(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		datum = SPI_getbinval(tuple, desc, column, &isnull);
	bytea	   *value;

	if (isnull)
		return (MessagePart)
	{
		NULL, 0
	};
	value = DatumGetByteaPCopy(datum);
	return (MessagePart)
	{
		VARDATA(value), VARSIZE(value) - VARHDRSZ
	};
}

/* About how long a column is, without reading what is stored elsewhere */
static Size
replay_size(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		datum = SPI_getbinval(tuple, desc, column, &isnull);

	if (isnull || TupleDescAttr(desc, column - 1)->attlen != -1)
		return 0;
	return toast_raw_datum_size(datum) - VARHDRSZ;
}

/* The message of a row, in the memory context given; NULL if it has no payload */
static Message *
replay_message(HeapTuple tuple, TupleDesc desc, MemoryContext context)
{
	bool		isnull;
	Datum		id = SPI_getbinval(tuple, desc, REPLAY_ID, &isnull);
	MemoryContext old = MemoryContextSwitchTo(context);
	Message    *message = palloc0(sizeof(Message));

	message->id = *DatumGetUUIDP(id);
	message->private = true;
	message->event = replay_text(tuple, desc, REPLAY_EVENT);
	message->payload = replay_text(tuple, desc, REPLAY_PAYLOAD);
	message->json = message->payload.data != NULL;
	if (!message->json)
		message->payload = replay_bytes(tuple, desc, REPLAY_BINARY);
	MemoryContextSwitchTo(old);
	return message->payload.data != NULL ? message : NULL;
}

/* Can it be sent at all?  What was stored by hand may be too large. */
static bool
may_send(const Message *message)
{
	return message->payload.length <= rtsync_max_payload_size &&
		message->event.length <= MESSAGE_MAX_EVENT;
}

/*
 * Of rows, the newest first, those that are replayed, the oldest first: as many
 * as a client's queue has room for.  What is too large is not even read.
 */
static List *
collect_replay(SPITupleTable *rows, uint64 nrows, MemoryContext context)
{
	TupleDesc	desc = rows->tupdesc;
	Size		room = rtsync_send_queue_size / 2;
	Size		to_read = (Size) rtsync_max_payload_size * STORED_GROWTH;
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *list = NIL;

	for (uint64 i = 0; i < nrows; i++)
	{
		HeapTuple	tuple = rows->vals[i];
		Size		size = replay_size(tuple, desc, REPLAY_EVENT) +
			replay_size(tuple, desc, REPLAY_PAYLOAD) +
			replay_size(tuple, desc, REPLAY_BINARY);
		Message    *message;

		if (size > (Size) rtsync_max_payload_size * STORED_GROWTH)
			continue;
		if (size > to_read)
			break;
		to_read -= size;
		message = replay_message(tuple, desc, context);
		if (message == NULL || !may_send(message))
			continue;
		if (message->payload.length > room && list != NIL)
			break;
		room -= Min(message->payload.length, room);
		list = lcons(message, list);
	}
	MemoryContextSwitchTo(old);
	return list;
}

static List *
select_replay(Oid relid, const char *topic, Timestamp since, uint32 limit,
			  MemoryContext context)
{
	Oid			types[] = {TEXTOID, TIMESTAMPOID, INT4OID, TIMESTAMPOID};
	Timestamp	now = GetCurrentTimestamp();
	Datum		values[4];
	char	   *sql;

	values[0] = CStringGetTextDatum(topic);
	values[1] = TimestampGetDatum(since);
	values[2] = Int32GetDatum((int32) limit);
	values[3] = TimestampGetDatum(now);
	sql = psprintf("SELECT id, event, payload, binary_payload FROM %s"
				   " WHERE topic = $1 AND private AND extension = 'broadcast'"
				   " AND event IS NOT NULL AND id IS NOT NULL"
				   " AND inserted_at >= $2 AND inserted_at < $4 + '1 minute'::pg_catalog.interval"
				   " AND (expires_at IS NULL OR expires_at > $4)"
				   " ORDER BY inserted_at DESC LIMIT $3",
				   table_name(relid));
	if (SPI_execute_with_args(sql, lengthof(types), types, values, NULL, true,
							  0) != SPI_OK_SELECT)
		elog(ERROR, "could not select messages to be replayed");
	return collect_replay(SPI_tuptable, SPI_processed, context);
}

/*
 * The newest stored messages of a private topic, as many as "limit" and not
 * older than "since", the oldest first: a list of Message, in UTF-8, without
 * the topic.  Of large ones there may be fewer.  The right to read them has
 * been checked.  Called in a transaction; errors are raised.
 */
List *
messages_table_replay(const char *topic, uint64 since_ms, uint32 limit)
{
	const int64 epoch_ms = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
		SECS_PER_DAY * 1000;
	Timestamp	since = ((int64) Min(since_ms, (uint64) PG_INT32_MAX * 10000) - epoch_ms) * 1000;
	Timestamp	oldest = GetCurrentTimestamp() -
		(int64) rtsync_messages_retention * USECS_PER_MINUTE;
	Oid			relid = messages_table_oid();
	MemoryContext context = CurrentMemoryContext;
	PrincipalScope scope;
	List	   *list;

	if (!OidIsValid(relid))
		return NIL;
	principal_enter_role(table_owner(relid), &scope);
	set_local("search_path", "pg_catalog, pg_temp");
	SPI_connect();
	list = select_replay(relid, topic, Max(since, oldest), limit, context);
	SPI_finish();
	principal_leave(&scope);
	return list;
}

/*--------------------------------------------------------------------------
 * Keeping the partitions, in the engine
 *--------------------------------------------------------------------------
 */

/* One step of the maintenance */
typedef struct Step
{
	void		(*function) (struct Step *step);
	Oid			relid;
	int			day;			/* days since 2000-01-01 */
	Oid			partition;
} Step;

static void
execute(const char *sql)
{
	int			result;

	SPI_connect();
	if ((result = SPI_execute(sql, false, 0)) < 0)
		elog(ERROR, "\"%s\" failed: %s", sql, SPI_result_code_string(result));
	SPI_finish();
}

/* Today, in days since 2000-01-01 */
static int
today(void)
{
	return (int) (GetCurrentTimestamp() / USECS_PER_DAY);
}

static char *
day_text(const char *format, int day)
{
	int			year;
	int			month;
	int			mday;

	j2date(day + POSTGRES_EPOCH_JDATE, &year, &month, &mday);
	return psprintf(format, year, month, mday);
}

/* The day that a partition is for, -1 if its name does not say */
static int
partition_day(Oid partition)
{
	char	   *name = get_rel_name(partition);
	int			year;
	int			month;
	int			mday;
	int			day;

	if (name == NULL ||
		sscanf(name, PARTITION_NAME, &year, &month, &mday) != 3)
		return -1;
	day = date2j(year, month, mday) - POSTGRES_EPOCH_JDATE;
	return strcmp(name, day_text(PARTITION_NAME, day)) == 0 ? day : -1;
}

/* Does the extension own the table?  Then it is to own its partitions too. */
static bool
is_member(Oid relid)
{
	return getExtensionOfObject(RelationRelationId, relid) ==
		get_extension_oid("rtsync", true);
}

/*
 * Make the partition of a day.  The lock waits for those who are inserting:
 * they have chosen the default partition, which will not take their rows any
 * more.
 */
static void
create_partition(Step *step)
{
	char	   *parent = table_name(step->relid);
	char	   *name;

	name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(step->relid)),
									  day_text(PARTITION_NAME, step->day));
	execute(psprintf("LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE",
					 parent));
	execute(psprintf("CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
					 name, parent));
	execute(psprintf("REVOKE ALL ON TABLE %s FROM PUBLIC", name));
	execute(psprintf("ALTER TABLE %s ENABLE ROW LEVEL SECURITY", name));
	execute(psprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')",
					 parent, name,
					 day_text("%04d-%02d-%02d", step->day),
					 day_text("%04d-%02d-%02d", step->day + 1)));
	if (is_member(step->relid))
		execute(psprintf("ALTER EXTENSION rtsync ADD TABLE %s", name));
}

static void
drop_partition(Step *step)
{
	char	   *name = table_name(step->partition);

	if (is_member(step->partition))
		execute(psprintf("ALTER EXTENSION rtsync DROP TABLE %s", name));
	execute(psprintf("DROP TABLE %s", name));
}

/* Delete what is too old where it cannot be dropped, and what has expired. */
static void
delete_rows(Step *step)
{
	char	   *name = table_name(step->partition);

	execute(psprintf("DELETE FROM %s WHERE ctid IN (SELECT ctid FROM %s"
					 " WHERE inserted_at < (pg_catalog.now() AT TIME ZONE 'UTC') - '%d minutes'::pg_catalog.interval"
					 " OR expires_at < (pg_catalog.now() AT TIME ZONE 'UTC') LIMIT %d)",
					 name, name, rtsync_messages_retention, DELETE_ROWS));
}

static void
attempt_step(void *arg)
{
	Step	   *step = arg;
	PrincipalScope scope;

	enter_owner(step->relid, &scope);
	step->function(step);
	leave_owner(&scope);
}

/* Do a step, or leave it for the next time. */
static void
try_step(void (*function) (Step *step), Step *step)
{
	ErrorData  *error;

	step->function = function;
	error = attempt(attempt_step, step);
	if (error != NULL)
		ereport(DEBUG1,
				(errmsg_internal("rtsync could not maintain table %u: %s",
								 step->relid, error->message)));
}

static void
maintain_partitions(Oid relid)
{
	Step		step = {.relid = relid};
	List	   *partitions = find_inheritance_children(relid, NoLock);
	int			oldest = today() - (rtsync_messages_retention + 60 * 24 - 1) / (60 * 24);
	Bitmapset  *days = NULL;
	ListCell   *lc;

	foreach(lc, partitions)
	{
		int			day;

		step.partition = lfirst_oid(lc);
		day = partition_day(step.partition);
		if (day >= today() && day <= today() + DAYS_AHEAD)
			days = bms_add_member(days, day - today());
		if (day >= 0 && day < oldest)
			try_step(drop_partition, &step);
		else if (day <= today())
			try_step(delete_rows, &step);
	}
	for (int i = 0; i <= DAYS_AHEAD; i++)
	{
		step.day = today() + i;
		if (!bms_is_member(i, days))
			try_step(create_partition, &step);
	}
}

/*
 * Make the partitions that will be needed and give up those that are not.
 * Called by the engine now and then, outside of any transaction.
 */
void
messages_table_maintain(void)
{
	MemoryContext old = CurrentMemoryContext;

	if (RecoveryInProgress())
		return;
	PG_TRY();
	{
		Oid			relid;

		catalogs_begin(wal_decoded_lsn());
		relid = messages_table_oid();
		if (OidIsValid(relid) && !shared_engine_blamed(relid) &&
			get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
			maintain_partitions(relid);
		catalogs_commit();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		EmitErrorReport();
		FlushErrorState();
		catalogs_abort();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
}
