/*-------------------------------------------------------------------------
 *
 * broadcast.c
 *	  Messages from one to all others of a channel.
 *
 * What the sender wrote as payload goes to the receivers byte for byte.  There
 * is one frame for each version of the serializer, shared by all receivers.
 * Whoever sends, a client, the database or an HTTP request, it comes out the
 * same; a receiver whose version cannot express it gets nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/broadcast.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/gateway.h"
#include "gateway/jsontext.h"
#include "gateway/uuid.h"

/* Has the channel had this broadcast already, as one of the past? */
static bool
was_replayed(const Channel *channel, const PhoenixBroadcast *broadcast)
{
	if (broadcast->id.data == NULL)
		return false;
	for (uint32_t i = 0; i < channel->n_replayed; i++)
		if (channel->replayed[i].length == broadcast->id.length &&
			memcmp(channel->replayed[i].data, broadcast->id.data,
				   broadcast->id.length) == 0)
			return true;
	return false;
}

/* Send to one channel. */
static void
send_to(const Channel *channel, const PhoenixBroadcast *broadcast)
{
	Frame	   *frame = phoenix_encode_broadcast(channel->connection->version,
												 channel->topic->name,
												 channel->topic->json, broadcast);

	if (frame != NULL)
		connection_send(channel->connection, frame);
	frame_release(frame);
}

/*
 * A channel that asked for past broadcasts has joined its room.  Those that
 * are being stored were sent before, and are not among the past ones.
 */
void
broadcast_joined(Channel *channel)
{
	channel->missed = kept_last(channel->room);
}

/* Send the channel what it missed while its join was under way. */
static void
catch_up(Channel *channel)
{
	const Kept *kept = NULL;

	while ((kept = kept_next(kept, channel->room)) != NULL &&
		   kept->number <= channel->missed)
		if ((channel->rights & LINK_MAY_READ_BROADCAST) &&
			!was_replayed(channel, &kept->broadcast))
			send_to(channel, &kept->broadcast);
	channel->missed = 0;
}

/* The engine has stored the broadcast with this id, or cannot. */
void
broadcast_stored(Slice id)
{
	const Kept *kept = kept_find(id);

	if (kept == NULL)
		return;
	for (uint32_t i = 0; i < kept->room->n_members; i++)
		if (kept->room->members[i]->missed != 0)
			catch_up(kept->room->members[i]);
	kept_remove_to(kept);
}

/* Send to the members of the room that may read, but for one perhaps. */
static void
send_to_room(const Room *room, const PhoenixBroadcast *broadcast,
			 const Channel *except)
{
	Frame	   *frames[2] = {NULL, NULL};
	bool		encoded[2] = {false, false};

	for (uint32_t i = 0; i < room->n_members; i++)
	{
		Channel    *member = room->members[i];
		PhoenixVersion version = member->connection->version;

		if (member->missed != 0)
			catch_up(member);
		if (member == except ||
			!(member->rights & LINK_MAY_READ_BROADCAST) ||
			was_replayed(member, broadcast))
			continue;
		if (!encoded[version])
			frames[version] = phoenix_encode_broadcast(version, room->topic->name,
													   room->topic->json, broadcast);
		encoded[version] = true;
		if (frames[version] != NULL)
			connection_send(member->connection, frames[version]);
	}
	frame_release(frames[PHOENIX_V1]);
	frame_release(frames[PHOENIX_V2]);
}

/*
 * Send a broadcast of the past to one channel, and remember it.  Returns false
 * if there are too many of them.
 */
bool
broadcast_replay(Channel *channel, Slice id, const PhoenixBroadcast *broadcast)
{
	if (channel->n_replayed == LINK_MAX_REPLAY)
		return false;
	if (channel->replayed == NULL)
		channel->replayed = allocate(LINK_MAX_REPLAY * sizeof(Slice));
	channel->replayed[channel->n_replayed++] =
		(Slice) {copy_bytes(id.data, id.length), id.length};
	send_to(channel, broadcast);
	return true;
}

/* The channel ends. */
void
broadcast_forget_replayed(Channel *channel)
{
	for (uint32_t i = 0; i < channel->n_replayed; i++)
		free((char *) channel->replayed[i].data);
	free(channel->replayed);
	channel->replayed = NULL;
	channel->n_replayed = 0;
}

/* Send what does not come from a member, to a topic without "realtime:". */
void
broadcast_send(bool is_private, Slice sub_topic,
			   const PhoenixBroadcast *broadcast)
{
	Buffer		name = {0};
	Topic	   *topic;

	buffer_append_string(&name, TOPIC_PREFIX);
	buffer_append_slice(&name, sub_topic);
	topic = topic_find(buffer_slice(&name));
	if (topic != NULL)
		send_to_room(&topic->rooms[is_private], broadcast, NULL);
	buffer_release(&name);
}

static void
put_slice(LinkWriter *writer, Slice slice)
{
	if (slice.data == NULL)
		link_put_string(writer, NULL);
	else
		link_put_bytes(writer, slice.data, slice.length);
}

/*
 * Is the broadcast to be handed on to other gateways?  It is lost to them if
 * the engine does not keep up.
 */
static bool
is_relayed(void)
{
	return gateway.config.gateways > 1 && !engine_link_congested();
}

static void
put_broadcast(LinkWriter *writer, const PhoenixBroadcast *broadcast)
{
	put_slice(writer, broadcast->event);
	link_put_u8(writer, broadcast->payload_is_json);
	put_slice(writer, broadcast->map.data == NULL ? broadcast->payload :
			  (Slice) {NULL, 0});
	put_slice(writer, broadcast->map);
	put_slice(writer, broadcast->id);
	engine_link_end_relay();
}

/* Send what a member says to the others, here and elsewhere. */
static void
send_from_member(const Channel *channel, const PhoenixBroadcast *broadcast)
{
	LinkWriter *writer;

	send_to_room(channel->room, broadcast,
				 channel->broadcast_self ? NULL : channel);
	if (!is_relayed())
		return;
	writer = engine_link_begin(LINK_RELAY);
	link_put_u64(writer, channel->id);
	put_broadcast(writer, broadcast);
}

/* Send what came by HTTP, with a token that may, here and elsewhere. */
void
broadcast_send_rest(bool is_private, Slice sub_topic, Slice token,
					const PhoenixBroadcast *broadcast)
{
	LinkWriter *writer;

	broadcast_send(is_private, sub_topic, broadcast);
	if (!is_relayed())
		return;
	writer = engine_link_begin(LINK_RELAY_REST);
	link_put_u8(writer, is_private);
	put_slice(writer, sub_topic);
	put_slice(writer, token);
	put_broadcast(writer, broadcast);
}

/*
 * Read what a client sent in a text message: an object with the members
 * "type", "event" and "payload".  With others, or without one of these, it is
 * passed on as it is.  False if it is none that the receivers could bear: they
 * take an event that is there for a string.  event keeps the event's name.
 */
static bool
read_map(Slice map, Buffer *event, PhoenixBroadcast *broadcast)
{
	JsonCursor	cursor;
	Slice		key;
	Slice		value;
	Slice		event_json = {NULL, 0};
	bool		typed = false;
	bool		others = false;

	*broadcast = (PhoenixBroadcast) {.payload_is_json = true};
	if (!json_enter(map, '{', &cursor))
		return false;
	while (json_next(&cursor, &key, &value))
	{
		if (json_string_equals(key, "event"))
			event_json = value;
		else if (json_string_equals(key, "payload"))
			broadcast->payload = value;
		else if (json_string_equals(key, "type"))
			typed = json_is_string_text(value) &&
				json_string_equals(value, "broadcast");
		else
			others = true;
	}
	if (!json_is_string_text(event_json))
		return false;
	if (!json_unquote(event_json, event) || others || !typed ||
		broadcast->payload.data == NULL)
		broadcast->map = map;
	broadcast->event = buffer_slice(event);
	return true;
}

/*
 * Does the metadata of a message ask to have it stored?  {"persist":true} or
 * {"persist":{"ttl":seconds}}; *ttl becomes 0 without a time.  *valid tells
 * whether it makes sense.
 */
static bool
wants_persistence(Slice metadata, uint32_t *ttl, bool *valid)
{
	JsonCursor	cursor;
	Slice		key;
	Slice		value;
	Slice		persist = {NULL, 0};
	Slice		seconds = {NULL, 0};

	*ttl = 0;
	*valid = true;
	if (metadata.length == 0 || !json_enter(metadata, '{', &cursor))
		return false;
	while (json_next(&cursor, &key, &value))
		if (json_string_equals(key, "persist"))
			persist = value;
	if (persist.data == NULL || slice_equals(persist, "false") ||
		slice_equals(persist, "null"))
		return false;
	if (slice_equals(persist, "true"))
		return true;
	*valid = false;
	if (!json_enter(persist, '{', &cursor))
		return true;
	while (json_next(&cursor, &key, &value))
		if (json_string_equals(key, "ttl"))
			seconds = value;
	if (seconds.length == 0 || seconds.length > 9)
		return true;
	for (size_t i = 0; i < seconds.length; i++)
	{
		if (seconds.data[i] < '0' || seconds.data[i] > '9')
			return true;
		*ttl = *ttl * 10 + (uint32_t) (seconds.data[i] - '0');
	}
	*valid = *ttl > 0;
	return true;
}

/* Have the engine store the message.  False if the link cannot carry it. */
static bool
ask_to_store(const Channel *channel, const PhoenixMessage *message,
			 const PhoenixBroadcast *broadcast, uint32_t ttl)
{
	LinkWriter *writer = engine_link_begin(LINK_PERSIST);

	link_put_u64(writer, channel->id);
	link_put_string(writer, channel->broadcast_ack && phoenix_has_ref(message) ?
					message->ref : NULL);
	link_put_bytes(writer, broadcast->id.data, broadcast->id.length);
	link_put_bytes(writer, broadcast->event.data, broadcast->event.length);
	link_put_u8(writer, broadcast->payload_is_json);
	link_put_bytes(writer, broadcast->payload.data, broadcast->payload.length);
	link_put_u32(writer, ttl);
	return engine_link_end();
}

/*
 * A member sends a message that is to be stored.  The others get it at once,
 * in its place among the member's messages; what becomes of it in the database
 * is what the member hears.
 */
static PushResult
push_persistent(Channel *channel, const PhoenixMessage *message,
				PhoenixBroadcast *broadcast, uint32_t ttl, Slice *response)
{
	char		id[UUID_TEXT_SIZE];
	char		metadata[UUID_TEXT_SIZE + 16];

	if (!channel->is_private || !(channel->rights & LINK_MAY_PERSIST))
		*response = SLICE("{\"error\":\"unauthorized\"}");
	else if (engine_link_congested())
		*response = SLICE("{\"error\":\"unable_to_connect_to_project\"}");
	else
	{
		uuid_make(id);
		snprintf(metadata, sizeof(metadata), "{\"id\":\"%s\"}", id);
		broadcast->id = slice_of(id);
		broadcast->metadata = slice_of(metadata);
		if (ask_to_store(channel, message, broadcast, ttl))
		{
			send_from_member(channel, broadcast);
			kept_add(channel->room, broadcast);
			return PUSH_STORED_LATER;
		}
		*response = SLICE("{\"error\":\"payload_size_exceeded\"}");
	}
	return PUSH_REFUSED;
}

/*
 * A member sends a message.  The response is what to answer if the member
 * wants to know, unless that comes later.
 */
PushResult
broadcast_push(Channel *channel, const PhoenixMessage *message, Slice *response)
{
	PhoenixBroadcast broadcast = {
		.event = message->user_event,
		.payload = message->payload,
		.payload_is_json = message->payload_is_json,
	};
	Buffer		event = {0};
	bool		readable = message->binary ||
		read_map(message->payload, &event, &broadcast);
	uint32_t	ttl = 0;
	bool		valid = true;
	bool		persistent = message->binary &&
		wants_persistence(message->metadata, &ttl, &valid);
	PushResult	result = PUSH_REFUSED;

	if (!(channel->rights & LINK_MAY_WRITE_BROADCAST))
		*response = SLICE("{\"error\":\"unauthorized\"}");
	else if (!readable)
		*response = SLICE("{\"error\":\"invalid_payload\"}");
	else if ((broadcast.map.data != NULL ? broadcast.map.length :
			  broadcast.payload.length) > gateway.config.max_payload_size)
		*response = SLICE("{\"error\":\"payload_size_exceeded\"}");
	else if (persistent && !valid)
		*response = SLICE("{\"error\":\"invalid_persist_ttl\"}");
	else if (persistent)
		result = push_persistent(channel, message, &broadcast, ttl, response);
	else
	{
		send_from_member(channel, &broadcast);
		*response = SLICE("{}");
		result = PUSH_SENT;
	}
	buffer_release(&event);
	return result;
}

/* Is it what a member here could send?  The engine has not read it. */
static bool
is_broadcast(const PhoenixBroadcast *broadcast)
{
	PhoenixBroadcast read;
	Buffer		event = {0};
	Slice		map = broadcast->map;
	Slice		payload = broadcast->payload;
	bool		ok;

	if (map.data != NULL)
	{
		ok = map.length <= gateway.config.max_payload_size &&
			json_is_object_text(map) && read_map(map, &event, &read);
		buffer_release(&event);
		return ok && broadcast->payload_is_json;
	}
	return broadcast->event.data != NULL && utf8_is_valid(broadcast->event) &&
		payload.data != NULL &&
		payload.length <= gateway.config.max_payload_size &&
		(!broadcast->payload_is_json || json_is_value(payload));
}

/*
 * LINK_RELAYED: send what a client of another gateway has sent.  For the topic
 * the engine answers.
 */
void
broadcast_relayed(bool is_private, Slice sub_topic,
				  const PhoenixBroadcast *broadcast)
{
	if (sub_topic.data != NULL && is_broadcast(broadcast))
		broadcast_send(is_private, sub_topic, broadcast);
}
