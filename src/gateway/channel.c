/*-------------------------------------------------------------------------
 *
 * channel.c
 *	  Channels: joining, leaving, tokens, system messages.
 *
 * A connection has at most one channel per topic.  A phx_join makes a channel
 * and asks the engine (LINK_JOIN); only its answer makes us answer the client.
 * From LINK_JOIN on the engine knows the channel, until we send LINK_LEAVE or
 * it refuses the join; whatever it sends about a channel that is gone here is
 * ignored, the LINK_LEAVE is on its way.
 *
 * channel_message is the one place that decides what an event means.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/channel.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/broadcast.h"
#include "gateway/gateway.h"
#include "gateway/join.h"
#include "gateway/log.h"

static const Slice no_response = {"{}", 2};

/*---------------------------- finding channels --------------------------*/

static Channel *
find_by_id(uint64_t id)
{
	TableNode  *node = table_find(&gateway.channels.by_id, hash_number(id));

	for (; node != NULL; node = table_find_next(node))
	{
		Channel    *channel = TABLE_OWNER(Channel, by_id, node);

		if (channel->id == id)
			return channel;
	}
	return NULL;
}

static uint64_t
topic_hash(const Connection *connection, Slice topic)
{
	return hash_bytes(topic.data, topic.length, (uint64_t) (uintptr_t) connection);
}

static Channel *
find_by_topic(const Connection *connection, Slice topic)
{
	TableNode  *node = table_find(&gateway.channels.by_topic,
								  topic_hash(connection, topic));

	for (; node != NULL; node = table_find_next(node))
	{
		Channel    *channel = TABLE_OWNER(Channel, by_topic, node);

		if (channel->connection == connection &&
			channel->topic->name.length == topic.length &&
			memcmp(channel->topic->name.data, topic.data, topic.length) == 0)
			return channel;
	}
	return NULL;
}

/*
 * The channel that a message is for, or NULL.  The names in a binary message
 * may be garbled (see phoenix.c): then its join_ref tells, unless that is
 * ambiguous.
 */
static Channel *
find_for(const Connection *connection, const PhoenixMessage *message)
{
	Channel    *channel = find_by_topic(connection, message->topic);
	ListLink   *link = list_first(&connection->channels);

	if (channel != NULL || !message->binary)
		return channel;
	for (; link != NULL; link = list_next(&connection->channels, link))
	{
		Channel    *candidate = LIST_OWNER(Channel, link, link);

		if (strcmp(candidate->join_ref, message->join_ref) != 0)
			continue;
		if (channel != NULL)
			return NULL;
		channel = candidate;
	}
	return channel;
}

/*-------------------------------- replies -------------------------------*/

static void
send_and_release(Connection *connection, Frame *frame)
{
	connection_send(connection, frame);
	frame_release(frame);
}

/* Reply to a message, whether or not its topic is joined. */
static void
reply(Connection *connection, const PhoenixMessage *message,
	  const char *join_ref, bool ok, Slice response)
{
	Buffer		topic_json = {0};

	buffer_append_json_string(&topic_json, message->topic);
	send_and_release(connection,
					 phoenix_encode_reply(connection->version, join_ref,
										  message->ref, buffer_slice(&topic_json),
										  ok, response));
	buffer_release(&topic_json);
}

static void
reply_unmatched(Connection *connection, const PhoenixMessage *message)
{
	reply(connection, message, NULL, false,
		  SLICE("{\"reason\":\"unmatched topic\"}"));
}

/* Refuse a join that the engine never saw; the reply is held back. */
static void
refuse(Connection *connection, const PhoenixMessage *message, Slice reason)
{
	Buffer		topic_json = {0};
	Frame	   *frame;

	metrics_count_join(&gateway.metrics, reason);
	buffer_append_json_string(&topic_json, message->topic);
	frame = phoenix_encode_error(connection->version, message->join_ref,
								 message->ref, buffer_slice(&topic_json), reason);
	buffer_release(&topic_json);
	brake_hold(connection, frame);
}

/* Send phx_close or phx_error for the instance of the channel that join_ref joined. */
static void
send_close(Channel *channel, const char *join_ref, const char *event)
{
	send_and_release(channel->connection,
					 phoenix_encode_close(channel->connection->version, join_ref,
										  channel->topic->json, event));
}

/*------------------------------- lifetime -------------------------------*/

static void
free_entry_texts(Channel *channel)
{
	if (channel->entry_texts == NULL)
		return;
	for (uint32_t i = 0; i < channel->n_bindings; i++)
		free(channel->entry_texts[i]);
	free(channel->entry_texts);
	channel->entry_texts = NULL;
}

/* Take a channel out of everything and free it.  Tells nobody. */
static void
free_channel(Channel *channel)
{
	for (uint32_t i = 0; i < channel->n_bindings; i++)
		fanout_unsubscribe(&channel->bindings[i]);
	if (channel->room != NULL)
		presence_leave(channel);
	room_leave(channel);
	table_remove(&gateway.channels.by_id, &channel->by_id);
	table_remove(&gateway.channels.by_topic, &channel->by_topic);
	list_remove(&channel->link);
	connection_count_channels(channel->connection, -1);
	gateway.stats.channels--;
	topic_release(channel->topic);
	free_entry_texts(channel);
	broadcast_forget_replayed(channel);
	free(channel->bindings);
	free((char *) channel->presence_key.data);
	free(channel->join_ref);
	free(channel->join_request);
	free(channel->replaced_join_ref);
	free(channel);
}

/* End a channel that the engine knows. */
static void
leave(Channel *channel)
{
	link_put_u64(engine_link_begin(LINK_LEAVE), channel->id);
	engine_link_end();
	free_channel(channel);
}

/* End all channels of a connection that ends. */
void
channels_leave(Connection *connection)
{
	ListLink   *link;

	while ((link = list_first(&connection->channels)) != NULL)
		leave(LIST_OWNER(Channel, link, link));
}

/*------------------------------ flow control ----------------------------*/

static void
set_paused(Channel *channel, bool paused)
{
	if (channel->paused == paused || channel->n_bindings == 0)
		return;
	channel->paused = paused;
	link_put_u64(engine_link_begin(paused ? LINK_PAUSE : LINK_CONTINUE),
				 channel->id);
	engine_link_end();
}

/*
 * Have the engine send no more changes for a connection with a long queue.  A
 * channel that is still being joined is paused when it is.
 */
void
channels_pause(Connection *connection)
{
	ListLink   *link = list_first(&connection->channels);

	for (; link != NULL; link = list_next(&connection->channels, link))
	{
		Channel    *channel = LIST_OWNER(Channel, link, link);

		if (channel->joined)
			set_paused(channel, true);
	}
}

/* The queue is short again: the engine goes on where it stopped. */
void
channels_continue(Connection *connection)
{
	ListLink   *link = list_first(&connection->channels);

	for (; link != NULL; link = list_next(&connection->channels, link))
		set_paused(LIST_OWNER(Channel, link, link), false);
}

/*------------------------------- creating -------------------------------*/

static Channel *
create_channel(Connection *connection, const PhoenixMessage *message,
			   JoinRequest *request, Slice token)
{
	Channel    *channel = allocate_zero(sizeof(Channel));

	channel->id = gateway_unique(++gateway.channels.last_id);
	channel->connection = connection;
	channel->topic = topic_share(message->topic);
	/* A client that sends no join_ref knows its channel by the ref. */
	channel->join_ref = strdup(strcmp(message->join_ref, "null") != 0 ?
							   message->join_ref : message->ref);
	channel->join_request = strdup(message->ref);
	channel->token_hash = hash_bytes(token.data, token.length, 0);
	channel->is_private = request->is_private;
	channel->broadcast_ack = request->broadcast_ack;
	channel->broadcast_self = request->broadcast_self;
	channel->replication_ready = request->replication_ready;
	channel->wants_replay = request->replay == LINK_REPLAY_WANTED;
	channel->presence = request->presence;
	channel->wants_cursor = request->wants_cursor;
	channel->has_session = request->has_session;
	if (request->presence_key != NULL)
		channel->presence_key = slice_of(request->presence_key);
	request->presence_key = NULL;
	channel->n_bindings = request->n_entries;
	if (request->n_entries > 0)
	{
		channel->bindings = allocate_zero(request->n_entries * sizeof(Binding));
		channel->entry_texts = allocate(request->n_entries * sizeof(char *));
	}
	for (uint32_t i = 0; i < request->n_entries; i++)
	{
		channel->bindings[i].channel = channel;
		channel->entry_texts[i] = join_entry_text(request->entries[i]);
	}
	table_insert(&gateway.channels.by_id, &channel->by_id, hash_number(channel->id));
	table_insert(&gateway.channels.by_topic, &channel->by_topic,
				 topic_hash(connection, message->topic));
	list_append(&connection->channels, &channel->link);
	connection_count_channels(connection, 1);
	gateway.stats.channels++;
	return channel;
}

/*------------------------- messages from clients ------------------------*/

/* Ask the engine to serve the channel.  False if the message is too large. */
static bool
ask_engine(const Channel *channel, const JoinRequest *request, Slice token)
{
	LinkWriter *writer = engine_link_begin(LINK_JOIN);
	Slice		topic = topic_sub_topic(channel->topic->name);

	link_put_u64(writer, channel->id);
	link_put_bytes(writer, topic.data, topic.length);
	link_put_u8(writer, request->is_private);
	link_put_u8(writer, request->wait);
	link_put_u8(writer, (uint8_t) request->replay);
	link_put_u64(writer, request->replay_since);
	link_put_u32(writer, request->replay_limit);
	link_put_bytes(writer, token.data, token.length);
	join_put_entries(request, writer);
	return engine_link_end();
}

/*
 * A second join of a topic ends the first instance of the channel.  Returns
 * what the client knew it by, for the phx_close that follows the new reply.
 */
static char *
replace_channel(Channel *old)
{
	char	   *join_ref = old->join_ref;

	if (old->replaced_join_ref != NULL)
		send_close(old, old->replaced_join_ref, "phx_close");
	old->join_ref = NULL;
	leave(old);
	return join_ref;
}

static void
start_join(Connection *connection, const PhoenixMessage *message,
		   JoinRequest *request)
{
	Slice		token = request->token.data != NULL ? request->token :
		connection->token;
	Channel    *old = find_by_topic(connection, message->topic);
	char	   *replaced = old != NULL ? replace_channel(old) : NULL;
	Channel    *channel;

	if (connection->n_channels >= gateway.config.max_channels_per_connection)
	{
		refuse(connection, message,
			   SLICE("ChannelRateLimitReached: Too many channels"));
		free(replaced);
		return;
	}
	channel = create_channel(connection, message, request, token);
	channel->replaced_join_ref = replaced;
	if (!ask_engine(channel, request, token))
	{
		free_channel(channel);
		refuse(connection, message, SLICE("InvalidJoinPayload: The join is too large"));
	}
}

/*
 * The payload of a message that concerns the channel itself.  NULL, as if there
 * were none, if it holds what we cannot represent.
 */
static json_t *
parse_payload(const PhoenixMessage *message)
{
	return json_loadb(message->payload.data, message->payload.length,
					  JSON_DECODE_ANY, NULL);
}

static void
on_join(Connection *connection, const PhoenixMessage *message)
{
	JoinRequest request;
	json_t	   *payload;

	if (!rate_allows(&connection->joins, uv_now(gateway.loop),
					 gateway.config.max_joins_per_second, 1000))
	{
		metrics_count_join(&gateway.metrics, SLICE("ClientJoinRateLimitReached"));
		reply(connection, message, message->join_ref, false,
			  SLICE("{\"reason\":\"ClientJoinRateLimitReached: Too many joins per second\"}"));
		connection_close(connection, 1001, "Too many joins per second");
		return;
	}
	if (!topic_is_valid(message->topic))
	{
		reply(connection, message, message->join_ref, false,
			  SLICE("{\"reason\":\"unmatched topic\"}"));
		return;
	}
	if (message->topic.length == TOPIC_PREFIX_LENGTH)
	{
		refuse(connection, message,
			   SLICE("TopicNameRequired: You must provide a topic name"));
		return;
	}
	if (engine_link_congested())
	{
		refuse(connection, message,
			   SLICE("RealtimeRestarting: Realtime is restarting, please standby"));
		return;
	}
	payload = parse_payload(message);
	if (payload == NULL)
	{
		refuse(connection, message,
			   SLICE("InvalidJoinPayload: The payload cannot be read"));
		return;
	}
	if (join_parse(payload, connection->session, &request))
		start_join(connection, message, &request);
	else
		refuse(connection, message,
			   SLICE("InvalidJoinPayload: Too many postgres_changes"));
	join_release(&request);
	json_decref(payload);
}

/* A leave may concern an instance that was replaced: then nothing is left. */
static void
on_leave(Connection *connection, Channel *channel, const PhoenixMessage *message)
{
	if (channel == NULL || (strcmp(message->join_ref, "null") != 0 &&
							strcmp(message->join_ref, channel->join_ref) != 0))
	{
		reply(connection, message, message->join_ref, true, no_response);
		return;
	}
	reply(connection, message, channel->join_ref, true, no_response);
	if (channel->replaced_join_ref != NULL)
		send_close(channel, channel->replaced_join_ref, "phx_close");
	send_close(channel, channel->join_ref, "phx_close");
	leave(channel);
}

/* The channel goes on under another token. */
static void
set_token(Channel *channel, Slice token)
{
	Connection *connection = channel->connection;
	uint64_t	hash = hash_bytes(token.data, token.length, 0);
	LinkWriter *writer;

	if (hash == channel->token_hash)
		return;
	if (engine_link_congested())
	{
		/* To go on under the old token could show too much. */
		connection_close(connection, 1013, "overloaded");
		return;
	}
	channel->token_hash = hash;
	writer = engine_link_begin(LINK_TOKEN);
	link_put_u64(writer, channel->id);
	link_put_bytes(writer, token.data, token.length);
	if (!engine_link_end())
		connection_close(connection, 1009, "token too big");
}

/* A new token for the channel.  There is no reply. */
static void
on_access_token(Channel *channel, const PhoenixMessage *message)
{
	json_t	   *payload = parse_payload(message);
	Slice		token = join_token(payload);

	if (token.data != NULL)
		set_token(channel, token);
	json_decref(payload);
}

/* A message for the other members: answered if the join asked for that */
static void
on_broadcast(Channel *channel, const PhoenixMessage *message)
{
	Slice		response;
	PushResult	result = broadcast_push(channel, message, &response);

	if (result != PUSH_STORED_LATER && channel->broadcast_ack &&
		phoenix_has_ref(message))
		reply(channel->connection, message, channel->join_ref,
			  result == PUSH_SENT, response);
}

/* Send a system message, and what it is followed by. */
static void
send_system(Channel *channel, Slice extension, Slice status, Slice text,
			LinkThen then)
{
	send_and_release(channel->connection,
					 phoenix_encode_system(channel->connection->version,
										   channel->join_ref,
										   channel->topic->json, extension,
										   status, text,
										   topic_sub_topic(channel->topic->name)));
	if (then == LINK_THEN_NOTHING)
		return;
	send_close(channel, channel->join_ref,
			   then == LINK_THEN_CLOSE ? "phx_close" : "phx_error");
	leave(channel);
}

/* End all channels of a connection for this reason. */
void
channels_reject(Connection *connection, Slice text)
{
	ListLink   *link;

	while ((link = list_first(&connection->channels)) != NULL)
		send_system(LIST_OWNER(Channel, link, link), SLICE("system"),
					SLICE("error"), text, LINK_THEN_CLOSE);
}

/* What a member says about itself; its client always expects an answer. */
static void
on_presence(Channel *channel, const PhoenixMessage *message)
{
	Connection *connection = channel->connection;
	PresenceResult result = presence_push(channel, message);
	Slice		response = no_response;

	if (result == PRESENCE_TOO_LARGE || result == PRESENCE_TOO_OFTEN)
	{
		send_system(channel, SLICE("system"), SLICE("error"),
					result == PRESENCE_TOO_LARGE ?
					SLICE("Track message size exceeded") :
					SLICE("Client presence rate limit exceeded"),
					LINK_THEN_CLOSE);
		return;
	}
	if (result == PRESENCE_NOT_A_MAP)
		response = SLICE("{\"reason\":\"Presence track payload must be a map\"}");
	if (phoenix_has_ref(message))
		reply(connection, message, channel->join_ref, result == PRESENCE_OK,
			  response);
}

/* How many of a connection's channels are part of sessions? */
static uint32_t
count_sessions(const Connection *connection)
{
	ListLink   *link = list_first(&connection->channels);
	uint32_t	count = 0;

	for (; link != NULL; link = list_next(&connection->channels, link))
	{
		const Channel *channel = LIST_OWNER(Channel, link, link);

		count += channel->has_session && channel->joined;
	}
	return count;
}

/*
 * A client that sends a heartbeat has had the answer to the last one, and all
 * that came before it.  The engine keeps account of that for sessions: it is
 * asked first, so that it knows what the answer will follow.
 */
static void
on_heartbeat(Connection *connection, const PhoenixMessage *message)
{
	uint32_t	count = count_sessions(connection);
	ListLink   *link = list_first(&connection->channels);
	LinkWriter *writer;

	if (count == 0 || connection->heartbeat != NULL || engine_link_congested())
	{
		reply(connection, message, NULL, true, no_response);
		return;
	}
	connection_hold_heartbeat(connection, message->ref);
	writer = engine_link_begin(LINK_HEARTBEAT);
	link_put_u64(writer, connection->heartbeat_number);
	link_put_u32(writer, count);
	for (; link != NULL; link = list_next(&connection->channels, link))
	{
		const Channel *channel = LIST_OWNER(Channel, link, link);

		if (channel->has_session && channel->joined)
			link_put_u64(writer, channel->id);
	}
	engine_link_end();
}

/* The engine knows of the heartbeat of this number: answer it. */
void
channels_heartbeat_answered(uint64_t number)
{
	Connection *connection = connections_release_heartbeat(number);

	if (connection == NULL)
		return;
	send_and_release(connection,
					 phoenix_encode_reply(connection->version, NULL,
										  connection->heartbeat,
										  SLICE("\"phoenix\""), true,
										  no_response));
	free(connection->heartbeat);
	connection->heartbeat = NULL;
}

/* Events of the topic "phoenix", which is not a channel */
static void
on_phoenix(Connection *connection, const PhoenixMessage *message)
{
	if (slice_equals(message->event, "heartbeat"))
		on_heartbeat(connection, message);
	else
		reply_unmatched(connection, message);
}

/* Handle a message from a client. */
void
channel_message(Connection *connection, const PhoenixMessage *message)
{
	Slice		event = message->event;
	Channel    *channel;

	if (slice_equals(message->topic, "phoenix"))
	{
		on_phoenix(connection, message);
		return;
	}
	if (slice_equals(event, "phx_join"))
	{
		on_join(connection, message);
		return;
	}
	channel = find_for(connection, message);
	if (slice_equals(event, "phx_leave"))
		on_leave(connection, channel, message);
	else if (channel == NULL)
		reply_unmatched(connection, message);
	else if (slice_equals(event, "access_token"))
		on_access_token(channel, message);
	else if (!channel->joined)
		reply_unmatched(connection, message);
	else if (slice_equals(event, "broadcast"))
		on_broadcast(channel, message);
	else if (slice_equals(event, "presence"))
		on_presence(channel, message);
	else
		log_client("%s sent an unknown event", peer_text(&connection->peer));
}

/*------------------------ messages from the engine ----------------------*/

/*
 * Read the ids and groups of a channel's bindings and apply them if there is
 * such a channel.  Returns false if the message is malformed or does not fit
 * the channel.
 */
static bool
read_bindings(Channel *channel, LinkReader *reader)
{
	uint32_t	count = link_get_count(reader, 8);
	LinkReader	check = *reader;

	for (uint32_t i = 0; i < count * 2; i++)
		link_get_u32(&check);
	if (!link_finished(&check))
		return false;
	if (channel == NULL)
		return true;
	if (count != channel->n_bindings)
		return false;
	for (uint32_t i = 0; i < count; i++)
	{
		uint32_t	id = link_get_u32(reader);
		uint32_t	group = link_get_u32(reader);

		channel->bindings[i].id = id;
		fanout_subscribe(&channel->bindings[i], group);
	}
	return true;
}

static void
send_join_reply(Channel *channel, Slice rtsync)
{
	Connection *connection = channel->connection;
	Buffer		response = {0};

	buffer_append_string(&response, "{\"postgres_changes\":[");
	for (uint32_t i = 0; i < channel->n_bindings; i++)
	{
		if (i > 0)
			buffer_append(&response, ",", 1);
		buffer_append_string(&response, channel->entry_texts[i]);
		buffer_append_string(&response, "\"id\":");
		buffer_append_number(&response, channel->bindings[i].id);
		buffer_append(&response, "}", 1);
	}
	buffer_append_string(&response, "]");
	if (rtsync.data != NULL)
	{
		buffer_append_string(&response, ",\"rtsync\":");
		buffer_append(&response, rtsync.data, rtsync.length);
	}
	buffer_append_string(&response, "}");
	send_and_release(connection,
					 phoenix_encode_reply(connection->version, channel->join_ref,
										  channel->join_request,
										  channel->topic->json, true,
										  buffer_slice(&response)));
	buffer_release(&response);
}

/* The engine serves the channel.  False if the message is malformed. */
bool
channel_joined(uint64_t id, uint8_t rights, Slice rtsync,
			   LinkReader *bindings)
{
	Channel    *channel = find_by_id(id);

	if (!read_bindings(channel, bindings) || (channel != NULL && channel->joined))
		return false;
	if (channel == NULL)
		return true;
	metrics_count_join(&gateway.metrics, (Slice) {NULL, 0});
	send_join_reply(channel, rtsync);
	channel->joined = true;
	free_entry_texts(channel);
	channel->rights = rights;
	room_enter(&channel->topic->rooms[channel->is_private], channel);
	if (channel->wants_replay)
		broadcast_joined(channel);
	/* The client waits for the state before it believes any presence. */
	presence_enter(channel);
	/* An engine that answers reads the WAL. */
	if (channel->replication_ready)
		send_system(channel, SLICE("system"), SLICE("ok"),
					SLICE("Replication connection established"),
					LINK_THEN_NOTHING);
	if (channel->replaced_join_ref != NULL)
		send_close(channel, channel->replaced_join_ref, "phx_close");
	free(channel->replaced_join_ref);
	free(channel->join_request);
	channel->replaced_join_ref = channel->join_request = NULL;
	if (channel->connection->paused)
		set_paused(channel, true);
	return true;
}

/* A broadcast of the past.  False if the message is malformed. */
bool
channel_replay(uint64_t id, Slice message_id, const PhoenixBroadcast *broadcast)
{
	Channel    *channel = find_by_id(id);

	if (channel == NULL)
		return true;
	return channel->joined && broadcast_replay(channel, message_id, broadcast);
}

/* The channel's groups changed.  False if the message is malformed. */
bool
channel_rebound(uint64_t id, LinkReader *bindings)
{
	return read_bindings(find_by_id(id), bindings);
}

/* The engine does not serve the channel, and has forgotten it. */
void
channel_refused(uint64_t id, Slice reason)
{
	Channel    *channel = find_by_id(id);
	Connection *connection;
	Frame	   *frame;

	if (channel == NULL || channel->joined)
		return;
	metrics_count_join(&gateway.metrics, reason.data != NULL ? reason : SLICE(""));
	connection = channel->connection;
	frame = phoenix_encode_error(connection->version, channel->join_ref,
								 channel->join_request, channel->topic->json,
								 reason);
	if (channel->replaced_join_ref != NULL)
		send_close(channel, channel->replaced_join_ref, "phx_close");
	free_channel(channel);
	brake_hold(connection, frame);
}

/* The channel may do more, or less. */
void
channel_set_rights(uint64_t id, uint8_t rights)
{
	Channel    *channel = find_by_id(id);
	uint8_t		before;

	if (channel == NULL || !channel->joined)
		return;
	before = channel->rights;
	channel->rights = rights;
	presence_rights_changed(channel, before);
}

/* Another form of the change of this number follows for the channel. */
void
channel_set_awaiting(uint64_t id, uint64_t change)
{
	Channel    *channel = find_by_id(id);

	if (channel != NULL)
		channel->awaits = change;
}

/* What the channel's client may see has another number. */
void
channel_set_access(uint64_t id, uint64_t access)
{
	Channel    *channel = find_by_id(id);

	if (channel != NULL)
		channel->access = access;
}

/* A message that the channel's client sent is stored, or why it is not. */
void
channel_persisted(uint64_t id, Slice ref, Slice message_id, Slice error)
{
	Channel    *channel = find_by_id(id);
	Buffer		response = {0};
	char	   *text;

	broadcast_stored(message_id);
	if (channel == NULL || ref.data == NULL)
		return;
	text = copy_bytes(ref.data, ref.length);
	buffer_append_string(&response, error.data != NULL ? "{\"error\":" : "{\"id\":");
	buffer_append_json_string(&response, error.data != NULL ? error : message_id);
	buffer_append(&response, "}", 1);
	send_and_release(channel->connection,
					 phoenix_encode_reply(channel->connection->version,
										  channel->join_ref, text,
										  channel->topic->json,
										  error.data == NULL,
										  buffer_slice(&response)));
	buffer_release(&response);
	free(text);
}

/* Pass on a system message, and what it is followed by. */
void
channel_system(uint64_t id, Slice extension, Slice status, Slice text,
			   LinkThen then)
{
	Channel    *channel = find_by_id(id);

	if (channel != NULL)
		send_system(channel, extension, status, text, then);
}
