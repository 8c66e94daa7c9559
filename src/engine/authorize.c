/*-------------------------------------------------------------------------
 *
 * authorize.c
 *	  What may somebody do on a topic?  The row security of the table of
 *	  messages says it.
 *
 * Nobody reads or writes a row: the policies are asked about a row that stands
 * for the topic, with "extension" naming what is to be done ("broadcast",
 * "presence", "persistence"), and with the topic in rtsync.topic().  SELECT
 * means to receive, INSERT to send.  The privilege on the table or on a
 * column of it is needed as well, as for a real row.
 *
 * The engine asks for the clients of a private channel; what raises an error
 * is not allowed.  A backend that sends asks for its own user, under the
 * claims of its session, and gets the error.
 *
 * Called by subscription.c and send.c, in a transaction with an active
 * snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "engine/attempt.h"
#include "engine/authorize.h"
#include "engine/clock.h"
#include "engine/compat.h"
#include "engine/messages_table.h"
#include "engine/policy.h"
#include "link/link.h"

/* An error in a policy is logged this often, at most */
#define ERROR_LOG_INTERVAL_MS 10000

/* What the virtual row has in its columns; the others are null */
typedef struct TopicRow
{
	const char *topic;			/* in the server's encoding, as the others */
	const char *extension;
	const char *event;			/* NULL: null */
	bool		private;
	pg_uuid_t  *id;				/* NULL: null */
} TopicRow;

/* The table as it is now, open */
typedef struct MessagesTable
{
	Oid			relid;
	Relation	rel;
	RelSchema	schema;			/* as far as policies look at it */
} MessagesTable;

/* Keeps the lock until the end of the transaction. */
static void
close_table(MessagesTable *table)
{
	table_close(table->rel, NoLock);
}

/* The engine must not wait for whoever holds a lock. */
static void
lock_table(Oid relid)
{
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("the table of messages is locked")));
}

static bool
open_table(MessagesTable *table, bool wait)
{
	memset(table, 0, sizeof(*table));
	table->relid = messages_table_oid();
	if (OidIsValid(table->relid) && !wait)
		lock_table(table->relid);
	table->rel = OidIsValid(table->relid) ?
		try_table_open(table->relid, wait ? AccessShareLock : NoLock) : NULL;
	if (table->rel == NULL)
		return false;
	if (table->rel->rd_rel->relkind != RELKIND_RELATION &&
		table->rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
	{
		/* a view has no row security */
		close_table(table);
		return false;
	}
	table->schema.relid = table->relid;
	table->schema.desc = RelationGetDescr(table->rel);
	return true;
}

/* The value of one column; false: null */
static bool
column_value(Form_pg_attribute att, const TopicRow *row, Datum *value)
{
	const char *name = NameStr(att->attname);
	const char *text = NULL;
	TimestampTz now = GetCurrentTimestamp();

	if (strcmp(name, "topic") == 0)
		text = row->topic;
	else if (strcmp(name, "extension") == 0)
		text = row->extension;
	else if (strcmp(name, "event") == 0)
		text = row->event;
	else if (strcmp(name, "private") == 0 && att->atttypid == BOOLOID)
	{
		*value = BoolGetDatum(row->private);
		return true;
	}
	else if (strcmp(name, "id") == 0 && att->atttypid == UUIDOID &&
			 row->id != NULL)
	{
		*value = UUIDPGetDatum(row->id);
		return true;
	}
	else if ((strcmp(name, "inserted_at") == 0 ||
			  strcmp(name, "updated_at") == 0) &&
			 (att->atttypid == TIMESTAMPOID ||
			  att->atttypid == TIMESTAMPTZOID))
	{
		/* without a time zone, it is UTC */
		*value = TimestampTzGetDatum(now);
		return true;
	}

	if (text == NULL ||
		(att->atttypid != TEXTOID && att->atttypid != VARCHAROID))
		return false;
	*value = CStringGetTextDatum(text);
	return true;
}

static HeapTuple
make_row(TupleDesc desc, const TopicRow *row)
{
	Datum	   *values = palloc0(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		isnull[i] = att->attisdropped || !column_value(att, row, &values[i]);
	}
	return heap_form_tuple(desc, values, isnull);
}

/* Does the principal that has been entered have this right on the row? */
static bool
has_right(MessagesTable *table, CmdType command, const TopicRow *row)
{
	TableAccess *access;
	PolicyRow	policy_row = {.schema = &table->schema};

	policy_row.tuple = make_row(table->schema.desc, row);
	access = command == CMD_INSERT ?
		policy_insert_access(table->relid, GetUserId()) :
		policy_table_access(table->relid, GetUserId());
	return policy_check(access, &policy_row) == VERDICT_YES;
}

/*--------------------------------------------------------------------------
 * In the engine
 *--------------------------------------------------------------------------
 */

typedef struct RightAttempt
{
	MessagesTable *table;
	Principal	principal;
	CmdType		command;
	TopicRow	row;
	bool		result;
} RightAttempt;

static void
attempt_right(void *arg)
{
	RightAttempt *what = arg;
	PrincipalScope scope;

	principal_enter(&what->principal, &scope);
	what->result = has_right(what->table, what->command, &what->row);
	principal_leave(&scope);
}

/* Not for every client that tries: one would fill the log. */
static void
log_error(const ErrorData *error)
{
	static ClockTime logged_at = 0;

	if (!clock_passed(logged_at, ERROR_LOG_INTERVAL_MS))
		return;
	logged_at = clock_now();
	ereport(LOG,
			(errmsg("row security of the table of messages failed, and so denied: %s",
					error->message)));
}

/*
 * What may the principal do on the private topic?  LinkRights.  Whatever
 * raises an error is not allowed.
 */
uint8
authorize_topic(const Principal *principal, const char *topic)
{
	static const struct
	{
		uint8		right;
		CmdType		command;
		const char *extension;
	}			questions[] = {
		{LINK_MAY_READ_BROADCAST, CMD_SELECT, "broadcast"},
		{LINK_MAY_READ_PRESENCE, CMD_SELECT, "presence"},
		{LINK_MAY_WRITE_BROADCAST, CMD_INSERT, "broadcast"},
		{LINK_MAY_WRITE_PRESENCE, CMD_INSERT, "presence"},
		{LINK_MAY_PERSIST, CMD_INSERT, "persistence"},
	};
	MessagesTable table;
	uint8		rights = 0;

	if (!open_table(&table, false))
		return 0;
	for (int i = 0; i < lengthof(questions); i++)
	{
		RightAttempt what = {
			.table = &table,
			.principal = *principal,
			.command = questions[i].command,
			.row = {
				.topic = topic,
				.extension = questions[i].extension,
				.private = true
			}
		};
		ErrorData  *error;

		/* who may not send has nothing to store */
		if (questions[i].right == LINK_MAY_PERSIST &&
			!(rights & LINK_MAY_WRITE_BROADCAST))
			continue;
		what.principal.topic = topic;
		error = attempt(attempt_right, &what);
		if (error != NULL)
			log_error(error);
		else if (what.result)
			rights |= questions[i].right;
	}
	close_table(&table);
	return rights;
}

/*
 * A number that changes when the rights of a role may have changed, for other
 * reasons than rows of other tables
 */
uint64
authorize_generation(Oid roleid)
{
	Oid			relid = messages_table_oid();

	if (!OidIsValid(relid))
		return 0;
	return Max(policy_table_access(relid, roleid)->generation,
			   policy_insert_access(relid, roleid)->generation);
}

/*--------------------------------------------------------------------------
 * In a backend that sends
 *--------------------------------------------------------------------------
 */

/* The claims that the session has set */
static char *
session_claims(void)
{
	const char *claims = GetConfigOption("request.jwt.claims", true, false);

	return pstrdup(claims != NULL ? claims : "");
}

/*
 * May the current user send the message?  Extension is "broadcast" or
 * "persistence"; topic and event are the message's, in the server's encoding.
 */
bool
authorize_send(const Message *message, const char *topic, const char *event,
			   const char *extension)
{
	MessagesTable table;
	PrincipalScope scope;
	pg_uuid_t	id = message->id;
	TopicRow	row = {topic, extension, event, message->private, &id};
	Principal	principal = {
		.roleid = GetUserId(),
		.rolename = GetUserNameFromId(GetUserId(), false),
		.claims = session_claims(),
		.topic = topic
	};
	bool		result;

	policy_init();
	if (!open_table(&table, true))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("what \"rtsync.messages_table\" names is not a table")));
	principal_enter_session(&principal, &scope);
	result = has_right(&table, CMD_INSERT, &row);
	principal_leave(&scope);
	close_table(&table);
	return result;
}
