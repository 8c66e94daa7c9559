/*-------------------------------------------------------------------------
 *
 * send.c
 *	  The SQL functions that broadcast.
 *
 *	  rtsync.send, send_binary		raise an error for who may not
 *	  rtsync.send_or_warn, ...		what Supabase's functions of that name are
 *									made of: a warning, whatever goes wrong
 *	  rtsync.broadcast_changes		a row's change, called from a trigger or
 *									as one
 *
 * The sender needs what row security on the table of messages gives its role
 * for INSERT (authorize.c).  The message goes into the WAL (message.c) and, if
 * it is to be replayed, into the table too (messages_table.c).
 *
 * Runs in backends, as the caller.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "engine/attempt.h"
#include "engine/authorize.h"
#include "engine/compat.h"
#include "engine/message.h"
#include "engine/messages_table.h"
#include "engine/settings.h"

PG_FUNCTION_INFO_V1(rtsync_sql_send);
PG_FUNCTION_INFO_V1(rtsync_sql_send_binary);
PG_FUNCTION_INFO_V1(rtsync_sql_send_or_warn);
PG_FUNCTION_INFO_V1(rtsync_sql_send_binary_or_warn);
PG_FUNCTION_INFO_V1(rtsync_sql_broadcast_changes);
PG_FUNCTION_INFO_V1(rtsync_sql_broadcast_changes_or_warn);
PG_FUNCTION_INFO_V1(rtsync_sql_broadcast_trigger);

/* Something to be sent; texts in the server's encoding */
typedef struct Sending
{
	char	   *topic;
	char	   *event;
	char	   *payload;
	Size		payload_length;
	bool		json;
	bool		private;
	bool		transactional;
	bool		persist;
	bool		check_persistence;	/* it takes a right of its own */
	const Interval *ttl;		/* NULL: as long as messages are kept */
	pg_uuid_t	id;
} Sending;

/*--------------------------------------------------------------------------
 * Sending
 *--------------------------------------------------------------------------
 */

/* Measure a name as it will be on the wire, in UTF-8. */
static MessagePart
name_part(const char *what, const char *name, int max)
{
	MessagePart part;

	part.data = pg_server_to_any(name, strlen(name), PG_UTF8);
	part.length = strlen(part.data);
	if (part.length == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of a message cannot be empty", what)));
	if (part.length > max)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s of a message is too long", what),
				 errdetail("It has %u bytes in UTF-8; the maximum is %d.",
						   part.length, max)));
	return part;
}

static MessagePart
payload_part(const Sending *sending)
{
	MessagePart part = {sending->payload, sending->payload_length};

	if (sending->json && sending->payload_length > 0)
	{
		part.data = pg_server_to_any(sending->payload,
									 sending->payload_length, PG_UTF8);
		if (part.data != sending->payload)
			part.length = strlen(part.data);
	}
	if (part.length > rtsync_max_payload_size)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("payload of a message is too large"),
				 errdetail("It has %u bytes; the maximum is %d.",
						   part.length, rtsync_max_payload_size),
				 errhint("Send a reference to the data instead, or raise \"rtsync.max_payload_size\".")));
	return part;
}

static void
check_right(const Sending *sending, const Message *message,
			const char *extension)
{
	if (authorize_send(message, sending->topic, sending->event, extension))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to send to topic \"%s\"",
					sending->topic),
			 errdetail("Row security of table %s does not let role \"%s\" insert a row with extension \"%s\" for this topic.",
					   rtsync_messages_table,
					   GetUserNameFromId(GetUserId(), false), extension)));
}

/* The message's parts as they are stored, in the server's encoding */
static void
store(const Sending *sending, const Message *message)
{
	Message		stored = *message;

	stored.topic.data = sending->topic;
	stored.topic.length = strlen(sending->topic);
	stored.event.data = sending->event;
	stored.event.length = strlen(sending->event);
	stored.payload.data = sending->payload;
	stored.payload.length = sending->payload_length;
	messages_table_store(&stored, sending->ttl);
}

static void
check_options(const Sending *sending)
{
	if (sending->persist && !sending->private)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only private messages can be persisted")));
	if (sending->persist && !sending->transactional)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only transactional messages can be persisted")));
	if (sending->ttl != NULL && !sending->persist)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a message that is not persisted has no time to live")));
}

static void
make_id(pg_uuid_t *id)
{
	memcpy(id, DatumGetUUIDP(DirectFunctionCall1(gen_random_uuid, (Datum) 0)),
		   sizeof(*id));
}

/* Send, with all checks.  The id has been made. */
static void
send_message(void *arg)
{
	Sending    *sending = arg;
	Message		message = {
		.id = sending->id,
		.private = sending->private,
		.json = sending->json
	};

	PreventCommandDuringRecovery("rtsync.send()");
	PreventCommandIfReadOnly("rtsync.send()");
	check_options(sending);
	message.topic = name_part("topic", sending->topic, MESSAGE_MAX_TOPIC);
	message.event = name_part("event", sending->event, MESSAGE_MAX_EVENT);
	message.payload = payload_part(sending);

	check_right(sending, &message, "broadcast");
	if (sending->persist && sending->check_persistence)
		check_right(sending, &message, "persistence");
	if (sending->persist)
		store(sending, &message);
	message_emit(&message, sending->transactional);
}

/* Send, and turn an error into a warning. */
static void
send_or_warn(Sending *sending)
{
	ErrorData  *error = attempt(send_message, sending);

	if (error == NULL)
		return;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("WarnSendingBroadcastMessage: %s", error->message)));
	FreeErrorData(error);
}

/*--------------------------------------------------------------------------
 * Arguments
 *--------------------------------------------------------------------------
 */

static char *
text_arg(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of a message cannot be null", name)));
	return text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static bool
bool_arg(FunctionCallInfo fcinfo, int n, bool by_default)
{
	return n < PG_NARGS() && !PG_ARGISNULL(n) ? PG_GETARG_BOOL(n) : by_default;
}

/* Payload, event, topic, private; the payload as JSON or as bytes */
static void
get_message(FunctionCallInfo fcinfo, Sending *sending, bool json)
{
	memset(sending, 0, sizeof(*sending));
	make_id(&sending->id);
	sending->json = json;
	sending->transactional = true;
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("payload of a message cannot be null")));
	if (json)
	{
		Jsonb	   *value = PG_GETARG_JSONB_P(0);

		sending->payload = JsonbToCString(NULL, &value->root, VARSIZE(value));
		sending->payload_length = strlen(sending->payload);
	}
	else
	{
		bytea	   *value = PG_GETARG_BYTEA_PP(0);

		sending->payload = VARDATA_ANY(value);
		sending->payload_length = VARSIZE_ANY_EXHDR(value);
	}
	sending->event = text_arg(fcinfo, 1, "event");
	sending->topic = text_arg(fcinfo, 2, "topic");
	sending->private = bool_arg(fcinfo, 3, true);
}

static pg_uuid_t *
copy_id(const pg_uuid_t *id)
{
	pg_uuid_t  *copy = palloc(sizeof(*copy));

	*copy = *id;
	return copy;
}

static Datum
send_with_options(FunctionCallInfo fcinfo, bool json)
{
	Sending		sending;

	get_message(fcinfo, &sending, json);
	sending.transactional = bool_arg(fcinfo, 4, true);
	sending.persist = bool_arg(fcinfo, 5, false);
	sending.check_persistence = true;
	if (!PG_ARGISNULL(6))
		sending.ttl = PG_GETARG_INTERVAL_P(6);
	send_message(&sending);
	PG_RETURN_UUID_P(copy_id(&sending.id));
}

/*
 * send(payload jsonb, event text, topic text, private boolean,
 *		transactional boolean, persist boolean, ttl interval) returns uuid
 */
Datum
rtsync_sql_send(PG_FUNCTION_ARGS)
{
	return send_with_options(fcinfo, true);
}

/* The same with a payload of bytes */
Datum
rtsync_sql_send_binary(PG_FUNCTION_ARGS)
{
	return send_with_options(fcinfo, false);
}

/*--------------------------------------------------------------------------
 * As Supabase has them: stored if they are private, with the id in the payload
 * too, and never an error
 *--------------------------------------------------------------------------
 */

/* Put the message's id into a payload that is an object and has none. */
static void
add_id(Sending *sending)
{
	Jsonb	   *value = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
														   CStringGetDatum(sending->payload)));
	JsonbValue	key = {.type = jbvString,.val.string = {2, "id"}};
	char	   *id;

	if (!JB_ROOT_IS_OBJECT(value) ||
		findJsonbValueFromContainer(&value->root, JB_FOBJECT, &key) != NULL)
		return;
	id = DatumGetCString(DirectFunctionCall1(uuid_out,
											 UUIDPGetDatum(&sending->id)));
	sending->payload = psprintf("{\"id\": \"%s\"%s%s", id,
								JB_ROOT_COUNT(value) > 0 ? ", " : "",
								sending->payload + 1);
	sending->payload_length = strlen(sending->payload);
}

static void
get_message_or_warn(FunctionCallInfo fcinfo, bool json)
{
	Sending		sending;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
	{
		ereport(WARNING,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("WarnSendingBroadcastMessage: %s of a message cannot be null",
						PG_ARGISNULL(0) ? "payload" :
						PG_ARGISNULL(1) ? "event" : "topic")));
		return;
	}
	get_message(fcinfo, &sending, json);
	sending.persist = sending.private;
	if (json)
		add_id(&sending);
	send_or_warn(&sending);
}

Datum
rtsync_sql_send_or_warn(PG_FUNCTION_ARGS)
{
	get_message_or_warn(fcinfo, true);
	PG_RETURN_VOID();
}

Datum
rtsync_sql_send_binary_or_warn(PG_FUNCTION_ARGS)
{
	get_message_or_warn(fcinfo, false);
	PG_RETURN_VOID();
}

/*--------------------------------------------------------------------------
 * Changes of rows
 *--------------------------------------------------------------------------
 */

/* A row as JSON text, "null" for none */
static char *
row_json(Datum row, bool isnull)
{
	if (isnull)
		return "null";
	return TextDatumGetCString(DirectFunctionCall1(row_to_json, row));
}

static void
append_member(StringInfo buf, const char *key, const char *value)
{
	appendStringInfo(buf, "%s\"%s\":", buf->len > 1 ? "," : "", key);
	escape_json(buf, value);
}

/* The payload that Supabase's broadcast_changes sends */
static void
set_change(Sending *sending, const char *operation, const char *table,
		   const char *schema, const char *record, const char *old_record)
{
	StringInfoData buf;

	if (strcmp(operation, "INSERT") != 0 && strcmp(operation, "UPDATE") != 0 &&
		strcmp(operation, "DELETE") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("operation \"%s\" cannot be broadcast", operation),
				 errhint("Supported are INSERT, UPDATE and DELETE.")));

	memset(sending, 0, sizeof(*sending));
	make_id(&sending->id);
	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	append_member(&buf, "schema", schema);
	append_member(&buf, "table", table);
	append_member(&buf, "operation", operation);
	appendStringInfo(&buf, ",\"record\":%s,\"old_record\":%s}", record,
					 old_record);
	sending->payload = buf.data;
	sending->payload_length = buf.len;
	sending->json = true;
	sending->private = true;
	sending->transactional = true;
}

/* The arguments of broadcast_changes */
static void
get_change(FunctionCallInfo fcinfo, Sending *sending)
{
	char	   *topic = text_arg(fcinfo, 0, "topic");
	char	   *event = text_arg(fcinfo, 1, "event");
	char	   *level = PG_ARGISNULL(7) ? "ROW" :
		text_to_cstring(PG_GETARG_TEXT_PP(7));

	if (strcmp(level, "ROW") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("changes can be broadcast only from a trigger for each row")));
	set_change(sending, text_arg(fcinfo, 2, "operation"),
			   text_arg(fcinfo, 3, "table"), text_arg(fcinfo, 4, "schema"),
			   row_json(PG_GETARG_DATUM(5), PG_ARGISNULL(5)),
			   row_json(PG_GETARG_DATUM(6), PG_ARGISNULL(6)));
	sending->topic = topic;
	sending->event = event;
}

/*
 * broadcast_changes(topic text, event text, operation text, "table" text,
 *					 "schema" text, new record, old record, level text)
 */
Datum
rtsync_sql_broadcast_changes(PG_FUNCTION_ARGS)
{
	Sending		sending;

	get_change(fcinfo, &sending);
	send_message(&sending);
	PG_RETURN_VOID();
}

Datum
rtsync_sql_broadcast_changes_or_warn(PG_FUNCTION_ARGS)
{
	Sending		sending;

	get_change(fcinfo, &sending);
	sending.persist = true;
	add_id(&sending);
	send_or_warn(&sending);
	PG_RETURN_VOID();
}

/* Put the row's values in the place of {column} in the template. */
static char *
expand_topic(const char *template, HeapTuple tuple, TupleDesc desc)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (const char *p = template; *p != '\0';)
	{
		const char *end = *p == '{' ? strchr(p, '}') : NULL;
		char	   *column;
		char	   *value;
		int			attnum;

		if (end == NULL)
		{
			appendStringInfoChar(&buf, *p++);
			continue;
		}
		column = pnstrdup(p + 1, end - p - 1);
		attnum = SPI_fnumber(desc, column);
		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" named in topic \"%s\" does not exist",
							column, template)));
		value = SPI_getvalue(tuple, desc, attnum);
		appendStringInfoString(&buf, value != NULL ? value : "");
		p = end + 1;
	}
	return buf.data;
}

static char *
tuple_json(HeapTuple tuple, TupleDesc desc)
{
	return tuple == NULL ? "null" :
		row_json(heap_copy_tuple_as_datum(tuple, desc), false);
}

/*
 * broadcast_changes(topic [, event]) as a trigger for each row: {column} in the
 * topic stands for the value in the row; the event is the operation's name
 * unless it is given.
 */
Datum
rtsync_sql_broadcast_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	HeapTuple	new = NULL;
	HeapTuple	old = NULL;
	const char *operation;
	Sending		sending;
	char	  **args;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("rtsync.broadcast_changes() without arguments must be called as a trigger")));
	args = data->tg_trigger->tgargs;
	if (!TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		!TRIGGER_FIRED_AFTER(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("rtsync.broadcast_changes() must be fired AFTER and FOR EACH ROW")));
	if (data->tg_trigger->tgnargs < 1 || data->tg_trigger->tgnargs > 2)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("rtsync.broadcast_changes() takes a topic and perhaps an event")));

	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
	{
		operation = "INSERT";
		new = data->tg_trigtuple;
	}
	else if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
	{
		operation = "UPDATE";
		new = data->tg_newtuple;
		old = data->tg_trigtuple;
	}
	else
	{
		operation = "DELETE";
		old = data->tg_trigtuple;
	}
	desc = RelationGetDescr(data->tg_relation);
	set_change(&sending, operation,
			   RelationGetRelationName(data->tg_relation),
			   get_namespace_name(RelationGetNamespace(data->tg_relation)),
			   tuple_json(new, desc), tuple_json(old, desc));
	sending.topic = expand_topic(args[0], new != NULL ? new : old, desc);
	sending.event = data->tg_trigger->tgnargs > 1 ? args[1] :
		pstrdup(operation);
	send_message(&sending);
	return PointerGetDatum(NULL);
}
