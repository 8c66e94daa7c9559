/*-------------------------------------------------------------------------
 *
 * requests.c
 *	  What the gateways ask for.
 *
 * Nothing in a message is trusted: tokens are verified, names and filters are
 * looked up with the rights of the token's role, and a message that does not
 * have its form breaks the link.  Each message is handled in a transaction of
 * its own inside PG_TRY, so that whatever a client sends costs at most its own
 * request.
 *
 * Called by engine.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "engine/attempt.h"
#include "engine/authorize.h"
#include "engine/boundary.h"
#include "engine/catalogs.h"
#include "engine/clock.h"
#include "engine/join.h"
#include "engine/late.h"
#include "engine/links.h"
#include "engine/message.h"
#include "engine/messages_table.h"
#include "engine/relay.h"
#include "engine/report.h"
#include "engine/requests.h"
#include "engine/rights.h"
#include "engine/session.h"
#include "engine/settings.h"
#include "engine/snapshot.h"
#include "engine/wal.h"

/* An error while a message is stored is logged this often, at most */
#define STORE_LOG_INTERVAL_MS 10000

static MemoryContext RequestContext = NULL;
static GatewayCounts gateway_counts;

/* Prepare; once in the life of the engine. */
void
requests_init(void)
{
	RequestContext = AllocSetContextCreate(TopMemoryContext, "rtsync request",
										   ALLOCSET_DEFAULT_SIZES);
}

/* What the gateways have sent */
const GatewayCounts *
requests_gateway_counts(void)
{
	return &gateway_counts;
}

/* The token is NULL unless the status is 200. */
static void
put_auth_reply(Link *link, uint64 connection, int status, const char *problem,
			   const Token *token)
{
	link_begin(&link->out, LINK_AUTH_REPLY);
	link_put_u64(&link->out, connection);
	link_put_u32(&link->out, status);
	link_put_string(&link->out, problem);
	link_put_u64(&link->out, token != NULL ? (uint64) token->expires : 0);
	link_put_u64(&link->out, token != NULL ? token->key : 0);
	linkio_end(link);
}

static void
handle_auth(Link *link, LinkReader *body)
{
	uint64		connection = link_get_u64(body);
	LinkString	string = link_get_string(body);
	Token		token;
	TokenError	error;

	if (!link_finished(body))
		link->broken = true;
	else if (token_check(string.data, string.length, &token, &error))
		put_auth_reply(link, connection, 200, NULL, &token);
	else
		put_auth_reply(link, connection, 401, error.handshake, NULL);
}

/* What somebody may do on a topic without joining it */
static uint8
rest_rights(const Token *token, bool private, const char *topic)
{
	Principal	principal = {
		.roleid = token->roleid,
		.rolename = token->rolename,
		.claims = token->claims
	};

	if (!private)
		return rtsync_private_only ? 0 : LINK_MAY_ALL;
	return authorize_topic(&principal, topic);
}

/*
 * The HTTP status for somebody with this token who wants to send to a topic
 * without joining it, or to none if it is empty; *rights is what it may do
 * there.
 */
static int
rest_status(LinkString string, bool private, LinkString topic, uint8 *rights)
{
	char	   *name = linkio_cstring(topic);
	Token		token;
	TokenError	error;

	*rights = 0;
	if (!token_check(string.data, string.length, &token, &error))
		return 401;
	if (name == NULL)
		return 403;
	if (name[0] == '\0')
		return 200;
	*rights = rest_rights(&token, private, name);
	return *rights & LINK_MAY_WRITE_BROADCAST ? 200 : 403;
}

static void
put_rest_reply(Link *link, uint64 request, int status, uint8 rights)
{
	link_begin(&link->out, LINK_REST_REPLY);
	link_put_u64(&link->out, request);
	link_put_u32(&link->out, status);
	link_put_u8(&link->out, rights);
	linkio_end(link);
}

/* Whether an HTTP request may send to a topic */
static void
handle_rest(Link *link, LinkReader *body)
{
	uint64		request = link_get_u64(body);
	bool		private = link_get_u8(body) != 0;
	LinkString	topic = link_get_string(body);
	LinkString	token = link_get_string(body);
	uint8		rights;
	int			status;

	if (!link_finished(body) || topic.data == NULL)
	{
		link->broken = true;
		return;
	}
	status = rest_status(token, private, topic, &rights);
	put_rest_reply(link, request, status, rights);
}

/* What an HTTP request has sent, for the other gateways */
static void
handle_relay_rest(Link *link, LinkReader *body)
{
	bool		private = link_get_u8(body) != 0;
	LinkString	topic = link_get_string(body);
	LinkString	token = link_get_string(body);
	uint8		rights;

	if (topic.length > 0 && rest_status(token, private, topic, &rights) == 200)
		relay_broadcast(link, private, topic, body);
	link->broken |= body->failed;
}

static void
handle_leave(Link *link, LinkReader *body)
{
	uint64		id = link_get_u64(body);
	Channel    *channel = subscription_channel(link, id);

	if (!link_finished(body))
		link->broken = true;
	else if (channel != NULL)	/* else it was refused or closed by us */
		subscription_free(channel);
}

static void
handle_token(Link *link, LinkReader *body)
{
	uint64		id = link_get_u64(body);
	LinkString	string = link_get_string(body);
	Channel    *channel = subscription_channel(link, id);
	Token		token;
	TokenError	error;
	char	  **problems;
	char	  **hints;
	bool		untold;

	if (!link_finished(body))
	{
		link->broken = true;
		return;
	}
	if (channel == NULL)
		return;
	if (!token_check(string.data, string.length, &token, &error))
	{
		subscription_close(channel, error.message);
		return;
	}
	untold = late_untold(channel);
	if (channel->pace == CHANNEL_LIVE)
		channel->open = boundary_is_open(channel);
	subscription_detach(channel);
	rights_set_token(channel, &token);
	session_token(channel);
	if (!rights_set_again(channel))
		return;
	problems = palloc0(sizeof(char *) * (channel->nbindings + 1));
	hints = palloc0(sizeof(char *) * (channel->nbindings + 1));
	snapshot_forget(channel);
	(void) subscription_begin(channel, channel->pace == CHANNEL_SNAPSHOT,
							  problems, hints);
	if (channel->pace == CHANNEL_LIVE)
		boundary_enter(channel);

	subscription_send_bindings(channel);
	subscription_send_access(channel);
	subscription_report(channel, problems, hints);
	if (untold)
		late_tell_dependencies(channel);
}

static void
put_heartbeat_reply(Link *link, uint64 number)
{
	link_begin(&link->out, LINK_HEARTBEAT_REPLY);
	link_put_u64(&link->out, number);
	linkio_end(link);
}

/*
 * A client sends a heartbeat on a connection with channels that are part of
 * sessions.  The answer follows all that was sent to them.
 */
static void
handle_heartbeat(Link *link, LinkReader *body)
{
	uint64		number = link_get_u64(body);
	uint32		count = link_get_count(body, sizeof(uint64));

	for (uint32 i = 0; i < count && !body->failed; i++)
	{
		Channel    *channel = subscription_channel(link, link_get_u64(body));

		if (channel != NULL)
			session_heartbeat(channel);
	}
	if (!link_finished(body))
	{
		link->broken = true;
		return;
	}
	put_heartbeat_reply(link, number);
}

/* Not for every message: clients would fill the log. */
static void
log_store_error(const ErrorData *error)
{
	static ClockTime logged_at = 0;

	if (!clock_passed(logged_at, STORE_LOG_INTERVAL_MS))
		return;
	logged_at = clock_now();
	ereport(LOG,
			(errmsg("could not store a client's message: %s", error->message)));
}

/* A message that a client wants to have stored */
typedef struct StoreAttempt
{
	Message		message;		/* its parts in the server's encoding */
	uint32		ttl;			/* seconds, or 0 */
} StoreAttempt;

static void
attempt_store(void *arg)
{
	StoreAttempt *what = arg;
	Interval	ttl = {.time = what->ttl * USECS_PER_SEC};

	messages_table_store_in_engine(&what->message, what->ttl > 0 ? &ttl : NULL);
}

/*
 * Read what LINK_PERSIST says about the message to the topic.  False if it
 * cannot be stored.
 */
static bool
read_message(LinkReader *body, const char *topic, const char *id,
			 StoreAttempt *what)
{
	char	   *event = linkio_cstring(link_get_string(body));
	bool		json = link_get_u8(body) != 0;
	LinkString	payload = link_get_string(body);
	char	   *text = json ? linkio_cstring(payload) : NULL;

	what->ttl = link_get_u32(body);
	if (!link_finished(body) || event == NULL || payload.data == NULL ||
		(json && text == NULL) || payload.length > rtsync_max_payload_size)
		return false;
	what->message.id =
		*DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(id)));
	what->message.private = true;
	what->message.json = json;
	what->message.topic = (MessagePart)
	{
		topic, strlen(topic)
	};
	what->message.event = (MessagePart)
	{
		event, strlen(event)
	};
	what->message.payload = json ? (MessagePart)
	{
		text, strlen(text)
	} :
		(MessagePart)
	{
		payload.data, payload.length
	};
	return true;
}

static void
put_persist_reply(Link *link, uint64 channel, LinkString ref, const char *id,
				  const char *problem)
{
	link_begin(&link->out, LINK_PERSIST_REPLY);
	link_put_u64(&link->out, channel);
	link_put_bytes(&link->out, ref.data, ref.length);
	link_put_string(&link->out, id);
	link_put_string(&link->out, problem);
	linkio_end(link);
}

/*
 * The right was asked for when the channel was joined, and since then.  There
 * is an answer in any case: the gateway keeps the message until then.
 */
static void
handle_persist(Link *link, LinkReader *body)
{
	uint64		number = link_get_u64(body);
	Channel    *channel = subscription_channel(link, number);
	LinkString	ref = link_get_string(body);
	char	   *id = linkio_cstring(link_get_string(body));
	StoreAttempt what = {0};
	const char *problem = NULL;
	ErrorData  *error;

	if (body->failed || id == NULL)
	{
		link->broken = true;
		return;
	}
	if (channel == NULL || !channel->private ||
		!(channel->rights & LINK_MAY_PERSIST))
		problem = "unauthorized";
	else if (!read_message(body, channel->topic, id, &what))
		problem = "invalid_payload";
	else if ((error = attempt(attempt_store, &what)) != NULL)
	{
		problem = error->sqlerrcode == ERRCODE_QUERY_CANCELED ?
			"query_canceled" : "unable_to_connect_to_project";
		log_store_error(error);
	}
	put_persist_reply(link, number, ref, id, problem);
}

/* An HTTP request wants to have its message stored, before it is sent. */
static void
handle_rest_persist(Link *link, LinkReader *body)
{
	uint64		request = link_get_u64(body);
	char	   *topic = linkio_cstring(link_get_string(body));
	LinkString	string = link_get_string(body);
	char	   *id = linkio_cstring(link_get_string(body));
	const uint8 needed = LINK_MAY_WRITE_BROADCAST | LINK_MAY_PERSIST;
	StoreAttempt what = {0};
	Token		token;
	TokenError	token_error;
	ErrorData  *error;
	int			status = 200;

	if (body->failed || topic == NULL || id == NULL)
	{
		link->broken = true;
		return;
	}
	if (!token_check(string.data, string.length, &token, &token_error))
		status = 401;
	else if ((rest_rights(&token, true, topic) & needed) != needed)
		status = 403;
	else if (!read_message(body, topic, id, &what))
		status = 422;
	else if ((error = attempt(attempt_store, &what)) != NULL)
	{
		status = 503;
		log_store_error(error);
	}
	put_rest_reply(link, request, status, 0);
}

static void
handle_pace(Link *link, LinkReader *body, void (*change) (Channel *channel))
{
	Channel    *channel = subscription_channel(link, link_get_u64(body));

	if (!link_finished(body))
		link->broken = true;
	else if (channel != NULL)
		change(channel);
}

static void
handle_stats(Link *link, LinkReader *body)
{
	uint32		connections = link_get_u32(body);
	GatewayCounts counts;

	link_get_u32(body);			/* channels: we know better */
	counts.frames_sent = link_get_u64(body);
	counts.bytes_sent = link_get_u64(body);
	counts.closed_slow = link_get_u64(body);
	if (!link_finished(body))
	{
		link->broken = true;
		return;
	}
	gateway_counts.frames_sent += counts.frames_sent - link->frames_sent;
	gateway_counts.bytes_sent += counts.bytes_sent - link->bytes_sent;
	gateway_counts.closed_slow += counts.closed_slow - link->closed_slow;
	link->connections = (int) connections;
	link->frames_sent = counts.frames_sent;
	link->bytes_sent = counts.bytes_sent;
	link->closed_slow = counts.closed_slow;
}

static void
handle_rows_taken(Link *link, LinkReader *body)
{
	uint32		size = link_get_u32(body);

	if (!link_finished(body))
		link->broken = true;
	else
		snapshot_taken(link, size);
}

static void
dispatch(Link *link, LinkType type, LinkReader *body)
{
	if (body->end - body->next > LINK_MAX_TO_ENGINE && type != LINK_RELAY &&
		type != LINK_RELAY_REST)
	{
		link->broken = true;
		return;
	}
	switch (type)
	{
		case LINK_READY:
			if (link_get_u32(body) != LINK_VERSION || !link_finished(body))
			{
				ereport(LOG,
						(errmsg("rtsync-gateway is of another version than rtsync"),
						 errhint("Install both from the same build.")));
				link->broken = true;
			}
			else
				links_presence_wanted(link);
			break;
		case LINK_AUTH:
			handle_auth(link, body);
			break;
		case LINK_REST:
			handle_rest(link, body);
			break;
		case LINK_JOIN:
			join_handle(link, body);
			break;
		case LINK_LEAVE:
			handle_leave(link, body);
			break;
		case LINK_TOKEN:
			handle_token(link, body);
			break;
		case LINK_PERSIST:
			handle_persist(link, body);
			break;
		case LINK_REST_PERSIST:
			handle_rest_persist(link, body);
			break;
		case LINK_PAUSE:
			handle_pace(link, body, late_pause);
			break;
		case LINK_CONTINUE:
			handle_pace(link, body, late_continue);
			break;
		case LINK_HEARTBEAT:
			handle_heartbeat(link, body);
			break;
		case LINK_ROWS_TAKEN:
			handle_rows_taken(link, body);
			break;
		case LINK_STATS:
			handle_stats(link, body);
			break;
		case LINK_LISTED:
			report_message(link, body);
			link->broken |= body->failed;
			break;
		case LINK_RELAY_REST:
			handle_relay_rest(link, body);
			break;
		case LINK_RELAY:
		case LINK_TRACK:
		case LINK_UNTRACK:
		case LINK_COUNTS:
			relay_message(link, type, body);
			break;
		default:
			link->broken = true;
			break;
	}
}

/* Does handling this message read catalogs? */
static bool
needs_catalogs(LinkType type)
{
	return type == LINK_AUTH || type == LINK_REST || type == LINK_JOIN || type == LINK_TOKEN ||
		type == LINK_CONTINUE || type == LINK_PERSIST || type == LINK_REST_PERSIST ||
		type == LINK_RELAY_REST;
}

/*
 * A message could not be handled because of an error inside: tell its client,
 * as far as it waits for something.
 */
static void
answer_failure(Link *link, LinkType type, const char *start, Size length)
{
	LinkReader	body;
	uint64		id;
	Channel    *channel;

	if (type == LINK_LISTED)
		report_link_ended(link);
	if (type == LINK_LISTED || type == LINK_RELAY_REST)
		return;
	link_read(&body, start, length);
	id = link_get_u64(&body);
	channel = subscription_channel(link, id);
	if (type == LINK_AUTH)
		put_auth_reply(link, id, 500, "Error connecting to Realtime", NULL);
	else if (type == LINK_REST || type == LINK_REST_PERSIST)
		put_rest_reply(link, id, 500, 0);
	else if (type == LINK_PERSIST)
	{
		LinkString	ref = link_get_string(&body);
		char	   *message_id = linkio_cstring(link_get_string(&body));

		if (message_id != NULL)
			put_persist_reply(link, id, ref, message_id,
							  "unable_to_connect_to_project");
	}
	else if (type == LINK_HEARTBEAT)
		put_heartbeat_reply(link, id);
	else if (type == LINK_JOIN)
	{
		join_refuse(link, id, "Unknown Error on Channel");
		if (channel != NULL)
			subscription_free(channel);
	}
	else if (channel != NULL)
		subscription_break(channel, "Unknown Error on Channel");
}

/*
 * Handle a message from the gateway.  Raises no error: one inside costs the
 * client concerned its request, and nobody else anything.
 */
void
requests_handle(Link *link, LinkType type, LinkReader *body)
{
	volatile bool transaction = needs_catalogs(type);
	const char *start = body->next;
	Size		length = body->end - body->next;
	MemoryContext old = MemoryContextSwitchTo(RequestContext);

	subscription_mark();
	PG_TRY();
	{
		if (transaction)
			catalogs_begin(wal_decoded_lsn());
		MemoryContextSwitchTo(RequestContext);
		dispatch(link, type, body);
		if (transaction)
			catalogs_commit();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(RequestContext);
		EmitErrorReport();
		FlushErrorState();
		if (transaction)
			catalogs_abort();
		subscription_rollback();
		answer_failure(link, type, start, length);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextReset(RequestContext);
}
