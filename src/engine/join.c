/*-------------------------------------------------------------------------
 *
 * join.c
 *	  Clients join channels.
 *
 * What a join says is read, its token is verified, and its bindings find their
 * groups; where it asks to go on from somewhere, or for stored messages, that
 * is looked up.  Whatever is wrong refuses the join, with the reason.
 *
 * Called by requests.c, in a transaction on the present.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "engine/attempt.h"
#include "engine/join.h"
#include "engine/late.h"
#include "engine/message.h"
#include "engine/messages_table.h"
#include "engine/metrics.h"
#include "engine/rights.h"
#include "engine/session.h"
#include "engine/settings.h"
#include "engine/snapshot.h"

/* Answer a join that is refused. */
void
join_refuse(Link *link, uint64 id, const char *reason)
{
	link_begin(&link->out, LINK_JOIN_REPLY);
	link_put_u64(&link->out, id);
	link_put_u8(&link->out, 0);
	link_put_u8(&link->out, 0);
	linkio_put_text(link, reason);
	link_put_u32(&link->out, 0);
	linkio_end(link);
}

/* The EVENT_xxx that a binding's "event" names */
static int
parse_event(const char *event)
{
	if (event == NULL)
		return EVENT_ALL;
	if (pg_strcasecmp(event, "INSERT") == 0)
		return EVENT_INSERT;
	if (pg_strcasecmp(event, "UPDATE") == 0)
		return EVENT_UPDATE;
	if (pg_strcasecmp(event, "DELETE") == 0)
		return EVENT_DELETE;
	return EVENT_ALL;
}

/* "*" and nothing at all both mean any */
static char *
wildcard(char *name)
{
	return name != NULL && strcmp(name, "*") == 0 ? NULL : name;
}

/* Read one binding of LINK_JOIN into the current memory context. */
static void
read_binding(LinkReader *body, BindingSpec *spec)
{
	uint32		nselect;

	spec->events = parse_event(linkio_cstring(link_get_string(body)));
	spec->schema = linkio_cstring(link_get_string(body));
	spec->table = linkio_cstring(link_get_string(body));
	spec->filter = linkio_cstring(link_get_string(body));
	if (spec->filter != NULL && spec->filter[strspn(spec->filter, " \t\r\n")] == '\0')
		spec->filter = NULL;
	spec->empty = spec->schema == NULL && spec->table == NULL;
	spec->options = linkio_cstring(link_get_string(body));
	if (spec->options != NULL && strcmp(spec->options, "null") == 0)
		spec->options = NULL;
	if (spec->schema == NULL && spec->table != NULL)
		spec->schema = pstrdup("public");
	spec->schema = wildcard(spec->schema);
	spec->table = wildcard(spec->table);

	nselect = link_get_u32(body);
	spec->nselect = -1;
	spec->select = NULL;
	if (nselect == LINK_NULL || body->failed)
		return;
	if (nselect > (size_t) (body->end - body->next) / sizeof(uint32))
	{
		body->failed = true;
		return;
	}
	spec->nselect = (int) nselect;
	spec->select = palloc0(sizeof(char *) * (nselect + 1));
	for (uint32 i = 0; i < nselect; i++)
	{
		spec->select[i] = linkio_cstring(link_get_string(body));
	}
}

/* Set the channel's topic; NULL if it is malformed. */
static void
read_topic(Channel *channel, LinkString topic)
{
	channel->topic = linkio_cstring(topic);
	if (channel->topic == NULL)
		return;
	channel->topic_sent.length = topic.length;
	if (GetDatabaseEncoding() == PG_UTF8)
		channel->topic_sent.data = channel->topic;
	else
		channel->topic_sent.data = pnstrdup(topic.data, topic.length);
}

/*
 * Make a channel of what LINK_JOIN says, for now in the memory context of the
 * call; NULL if that is malformed.
 */
static Channel *
read_channel(Link *link, LinkReader *body, uint64 id, LinkString *token)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "rtsync channel",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Channel    *channel = palloc0(sizeof(Channel));

	channel->context = context;
	channel->link = link;
	channel->id = id;
	read_topic(channel, link_get_string(body));
	channel->private = link_get_u8(body) != 0;
	channel->wait = link_get_u8(body) != 0;
	channel->replay = link_get_u8(body);
	channel->replay_since = link_get_u64(body);
	channel->replay_limit = link_get_u32(body);
	*token = link_get_string(body);
	channel->options = linkio_cstring(link_get_string(body));
	channel->nbindings = (int) link_get_count(body, 6 * sizeof(uint32));
	channel->bindings = palloc0(sizeof(Binding) * (channel->nbindings + 1));
	for (int i = 0; i < channel->nbindings && !body->failed; i++)
	{
		Binding    *binding = &channel->bindings[i];

		binding->channel = channel;
		read_binding(body, &binding->spec);
		if (channel->nbindings <= rtsync_max_bindings_per_channel)
			subscription_number(channel, binding);
	}
	MemoryContextSwitchTo(old);

	if (!link_finished(body) || channel->topic == NULL)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	return channel;
}

/* What a join's options ask for */
typedef struct JoinOptions
{
	bool		cursor;			/* each change with its cursor */
	char	   *since;			/* go on behind this one; NULL: from now */
	char	   *session;		/* or from where this one is; NULL: likewise */
} JoinOptions;

/* How a channel begins */
typedef struct JoinBegin
{
	char	   *rtsync;			/* for the reply, or NULL */
	const Refetch *refetch;		/* why its client must read its rows anew; it
								 * is told so also where it does not see the
								 * reply */
} JoinBegin;

static JsonbValue *
json_member(Jsonb *jsonb, const char *name)
{
	return getKeyJsonValueFromContainer(&jsonb->root, name, strlen(name),
										NULL);
}

/* The text of a member, palloc'd, or NULL if it is no string */
static char *
json_text(Jsonb *jsonb, const char *name)
{
	JsonbValue *value = json_member(jsonb, name);

	return value != NULL && value->type == jbvString ?
		pnstrdup(value->val.string.val, value->val.string.len) : NULL;
}

/* Read the channel's options; what is not understood counts as absent. */
static void
read_join_options(const Channel *channel, JoinOptions *options)
{
	Jsonb	   *jsonb;
	JsonbValue *value;

	memset(options, 0, sizeof(*options));
	if (channel->options == NULL)
		return;
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											   CStringGetDatum(channel->options)));
	if (!JB_ROOT_IS_OBJECT(jsonb))
		return;
	value = json_member(jsonb, "cursor");
	options->cursor = value != NULL && value->type == jbvBool &&
		value->val.boolean;
	options->since = json_text(jsonb, "since");
	options->session = json_text(jsonb, "session");
	options->cursor |= options->since != NULL;
}

/* The text for the reply to a client that asked to go on, or for cursors */
static char *
begin_text(const char *cursor, bool asked, const Refetch *problem)
{
	if (!asked)
		return psprintf("{\"cursor\":\"%s\"}", cursor);
	if (problem == NULL)
		return psprintf("{\"cursor\":\"%s\",\"resumed\":true}", cursor);
	return psprintf("{\"cursor\":\"%s\",\"resumed\":false,\"refetch\":\"%s\"}",
					cursor, problem->message);
}

/* The cursor of what comes now */
static void
format_now(uint64 access, char *buf)
{
	RoutePosition now;
	Cursor		cursor;

	route_position(&now);
	route_cursor(&now, &cursor);
	cursor_format(&cursor, access, buf);
}

/* The channel, which has its groups, cannot go on where its client left off. */
static void
begin_with_snapshot(Channel *channel)
{
	if (!snapshot_wanted(channel))
		return;
	subscription_detach(channel);
	late_forget(channel);
	snapshot_request(channel);
	subscription_attach(channel, true);
}

/*
 * The channel goes on from a cursor, and has its groups: could its client see
 * what it can see now?  If not, it begins with what comes now after all;
 * returns the reason, or NULL.
 */
static const Refetch *
check_access(Channel *channel, uint64 access)
{
	static const Refetch changed = {REFETCH_ACCESS, "the claims, the postgres_changes, or access to tables have changed"};
	static const Refetch unknown = {REFETCH_ACCESS, "access to tables at the cursor is not known"};

	if (access != 0 && access == late_cursor_access(channel))
		return NULL;
	late_abandon(channel);
	begin_with_snapshot(channel);
	return access != 0 ? &changed : &unknown;
}

/*
 * Let the channel, which has its token, go on where its client left off, if it
 * says so, and put its bindings into their groups.  Returns why that cannot be
 * now, or NULL.
 */
static char *
channel_begin(Channel *channel, char **problems, char **hints, JoinBegin *begin)
{
	JoinOptions options;
	Cursor		from;
	uint64		access = 0;
	char		buf[CURSOR_SIZE];
	const Refetch *problem = NULL;
	char	   *lock_problem;

	memset(begin, 0, sizeof(*begin));
	read_join_options(channel, &options);
	if (options.since != NULL)
		problem = late_resume(channel, options.since, &access);
	else if (options.session != NULL)
	{
		channel->session_uuid = MemoryContextStrdup(channel->context,
													options.session);
		problem = session_join(channel, &from);
	}
	lock_problem = subscription_begin(channel, channel->pace == CHANNEL_LIVE,
									  problems, hints);
	if (lock_problem != NULL)
		return lock_problem;
	if (options.cursor)
		subscription_want_cursors(channel);
	if (options.since != NULL)
	{
		if (problem == NULL)
			problem = check_access(channel, access);
		if (problem != NULL)
			metrics_refetch(problem->reason);
	}
	if (options.since == NULL && options.session != NULL)
	{
		if (problem == NULL)
		{
			problem = session_check(channel);
			if (problem != NULL)
				begin_with_snapshot(channel);
		}
		begin->refetch = problem;
	}
	if (problem != NULL || channel->pace != CHANNEL_LATE ||
		(options.since == NULL && options.session == NULL))
		format_now(late_cursor_access(channel), buf);
	else if (options.since != NULL)
		strlcpy(buf, options.since, sizeof(buf));
	else
		cursor_format(&from, late_cursor_access(channel), buf);
	if (options.cursor || options.session != NULL)
		begin->rtsync = begin_text(buf, options.since != NULL || options.session != NULL,
								   problem);
	return NULL;
}

/*
 * Why this join must be refused, palloc'd, or NULL.  On success the channel
 * has its token and its groups.
 */
static char *
join_problem(Channel *channel, LinkString string,
			 char **problems, char **hints, JoinBegin *begin)
{
	Token		token;
	TokenError	error;
	char	   *problem;

	if (!token_check(string.data, string.length, &token, &error))
		return psprintf("%s: %s", error.code, error.message);
	if (channel->nbindings > rtsync_max_bindings_per_channel)
		return psprintf("RealtimeDisabledForConfiguration: A channel can have at most %d postgres_changes",
						rtsync_max_bindings_per_channel);
	if (subscription_memory() / 1024 > rtsync_max_subscription_memory)
		return pstrdup("ChannelRateLimitReached: Too many channels");
	if (rtsync_private_only && !channel->private)
		return pstrdup("PrivateOnly: This project only allows private channels");
	rights_set_token(channel, &token);
	rights_set(channel);
	if (!(channel->rights & RIGHTS_TO_READ))
		return psprintf("Unauthorized: You do not have permissions to read from this Channel topic: %s",
						channel->topic);
	problem = channel_begin(channel, problems, hints, begin);
	if (problem != NULL)
		return psprintf("UnableToSubscribeToPostgres: %s", problem);
	if (channel->wait)
		for (int i = 0; i < channel->nbindings; i++)
			if (problems[i] != NULL)
				return psprintf("RealtimeDisabledForConfiguration: %s",
								problems[i]);
	return NULL;
}

typedef struct ReplayAttempt
{
	Channel    *channel;
	List	   *messages;		/* result */
} ReplayAttempt;

static void
attempt_replay(void *arg)
{
	ReplayAttempt *what = arg;
	Channel    *channel = what->channel;

	what->messages = messages_table_replay(channel->topic,
										   channel->replay_since,
										   Min(channel->replay_limit,
											   LINK_MAX_REPLAY));
}

/*
 * Look up the stored messages that the channel asked for.  Returns why the
 * join must be refused, or NULL.
 */
static char *
find_replay(Channel *channel, List **messages)
{
	ReplayAttempt what = {channel, NIL};
	ErrorData  *error;

	*messages = NIL;
	if (channel->replay == LINK_REPLAY_NONE)
		return NULL;
	if (!channel->private)
		return "UnableToReplayMessages: Replay is not allowed for public channels";
	if (channel->replay != LINK_REPLAY_WANTED)
		return "UnableToReplayMessages: Replay params are not valid";
	if (!(channel->rights & LINK_MAY_READ_BROADCAST))
		return NULL;
	error = attempt(attempt_replay, &what);
	if (error != NULL)
	{
		ereport(LOG,
				(errmsg("rtsync could not replay messages: %s", error->message)));
		return "UnableToReplayMessages: Realtime was unable to replay messages";
	}
	*messages = what.messages;
	return NULL;
}

static void
send_replay(Channel *channel, List *messages)
{
	LinkWriter *out = &channel->link->out;
	ListCell   *lc;

	foreach(lc, messages)
	{
		Message    *message = lfirst(lc);

		link_begin(out, LINK_REPLAY);
		link_put_u64(out, channel->id);
		link_put_bytes(out, message->event.data, message->event.length);
		link_put_u8(out, message->json);
		link_put_bytes(out, message->payload.data, message->payload.length);
		link_put_string(out, message_id_text(message));
		linkio_end(channel->link);
	}
}

/*
 * Handle LINK_JOIN, and answer it.  What raises an error leaves the channel, if
 * there is one by then, to the caller.
 */
void
join_handle(Link *link, LinkReader *body)
{
	uint64		id = link_get_u64(body);
	LinkString	token;
	Channel    *channel;
	char	  **problems;
	char	  **hints;
	char	   *reason;
	JoinBegin	begin = {NULL, NULL};
	List	   *replay = NIL;

	if (id >> LINK_NUMBER_SHIFT != link->number ||
		subscription_channel(link, id) != NULL ||
		subscription_channel_count() >=
		(int64) rtsync_max_connections * rtsync_max_channels_per_connection ||
		(channel = read_channel(link, body, id, &token)) == NULL)
	{
		link->broken = true;
		return;
	}
	subscription_add(channel);
	problems = palloc0(sizeof(char *) * (channel->nbindings + 1));
	hints = palloc0(sizeof(char *) * (channel->nbindings + 1));
	reason = join_problem(channel, token, problems, hints, &begin);
	if (reason == NULL)
		reason = find_replay(channel, &replay);
	if (reason != NULL)
	{
		join_refuse(link, id, reason);
		subscription_free(channel);
		return;
	}
	link_begin(&link->out, LINK_JOIN_REPLY);
	link_put_u64(&link->out, id);
	link_put_u8(&link->out, 1);
	link_put_u8(&link->out, channel->rights);
	link_put_string(&link->out, begin.rtsync);
	subscription_put_bindings(channel);
	linkio_end(link);
	channel->joined = GetCurrentTimestamp();
	subscription_send_access(channel);
	send_replay(channel, replay);
	subscription_report(channel, problems, hints);
	if (begin.refetch != NULL)
		subscription_refetch(channel, begin.refetch->reason,
							 begin.refetch->message);
	if (channel->pace == CHANNEL_LATE)
		late_begun(channel);
}
