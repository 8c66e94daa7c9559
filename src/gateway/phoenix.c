/*-------------------------------------------------------------------------
 *
 * phoenix.c
 *	  The messages of Phoenix channels, as Supabase Realtime uses them.
 *
 * Pure: bytes to messages, messages to frames.  Both versions of the
 * serializer are here and nowhere else:
 *
 *	1.0.0	{"topic":T,"event":E,"payload":P,"ref":R,"join_ref":J}
 *			(we send no join_ref; a phx_close or phx_error carries it as ref)
 *	2.0.0	[J,R,T,E,P]
 *			and binary frames, see phoenix_decode_binary
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/phoenix.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/jsontext.h"

#define BROADCAST_PUSH 3		/* kind of a binary frame from the client */
#define BROADCAST_PUSH_HEADER 7
#define BROADCAST 4				/* kind of a binary frame from us */
#define ENCODING_RAW 0
#define ENCODING_JSON 1
#define MAX_BINARY_NAME 255		/* their lengths are single bytes */

/*-------------------------------- decoding -------------------------------*/

/* The five elements of a text message, as JSON text; data NULL if absent */
typedef struct Elements
{
	Slice		join_ref;
	Slice		ref;
	Slice		topic;
	Slice		event;
	Slice		payload;
} Elements;

/*
 * Keep a reference as JSON text.  Clients send strings, some send integers.
 * Returns NULL for what cannot be a reference.
 */
static char *
reference_text(Slice reference)
{
	Buffer		text = {0};
	Buffer		unquoted = {0};

	if (reference.data == NULL || slice_equals(reference, "null"))
		return copy_bytes("null", 4);
	if (json_is_integer_text(reference) &&
		reference.length <= PHOENIX_MAX_INTEGER_REF)
		return copy_bytes(reference.data, reference.length);
	if (!json_is_string_text(reference) ||
		!json_unquote(reference, &unquoted) || unquoted.length > PHOENIX_MAX_REF)
	{
		buffer_release(&unquoted);
		return NULL;
	}
	/* Written our way, so that equal references have equal texts. */
	buffer_append_json_string(&text, buffer_slice(&unquoted));
	buffer_append(&text, "", 1);
	buffer_release(&unquoted);
	return text.data;
}

/* Keep a name that a JSON string says; false if it is none or too long. */
static bool
take_name(PhoenixMessage *message, Slice string, size_t limit, Slice *name)
{
	size_t		start = message->names.length;

	if (!json_is_string_text(string) || !json_unquote(string, &message->names))
		return false;
	*name = (Slice) {message->names.data + start, message->names.length - start};
	return name->length <= limit;
}

/* Fill in the message from its elements; false if one does not fit. */
static bool
take_elements(PhoenixMessage *message, const Elements *elements)
{
	if (elements->payload.data == NULL)
		return false;
	/* The names must not move once something points at them. */
	buffer_reserve(&message->names,
				   elements->topic.length + elements->event.length);
	if (!take_name(message, elements->topic, PHOENIX_MAX_TOPIC, &message->topic) ||
		!take_name(message, elements->event, PHOENIX_MAX_EVENT, &message->event))
		return false;
	message->join_ref = reference_text(elements->join_ref);
	message->ref = reference_text(elements->ref);
	message->payload = elements->payload;
	message->payload_is_json = true;
	return message->join_ref != NULL && message->ref != NULL;
}

/* {"topic":T,"event":E,"payload":P,"ref":R,"join_ref":J} in any order */
static bool
find_elements_v1(Slice text, Elements *elements)
{
	const struct
	{
		const char *name;
		Slice	   *place;
	}			members[] = {
		{"topic", &elements->topic}, {"event", &elements->event},
		{"payload", &elements->payload}, {"ref", &elements->ref},
		{"join_ref", &elements->join_ref},
	};
	JsonCursor	cursor;
	Slice		key;
	Slice		value;

	if (!json_enter(text, '{', &cursor))
		return false;
	while (json_next(&cursor, &key, &value))
		for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
			if (json_string_equals(key, members[i].name))
				*members[i].place = value;
	return json_left(&cursor);
}

/* [J,R,T,E,P] and perhaps more */
static bool
find_elements_v2(Slice text, Elements *elements)
{
	Slice	   *const places[] = {&elements->join_ref, &elements->ref,
	&elements->topic, &elements->event, &elements->payload};
	JsonCursor	cursor;
	Slice		key;
	Slice		value;
	size_t		n = 0;

	if (!json_enter(text, '[', &cursor))
		return false;
	while (json_next(&cursor, &key, &value))
		if (n < sizeof(places) / sizeof(places[0]))
			*places[n++] = value;
	return json_left(&cursor);
}

/*
 * Decode a text frame.  Returns false if it is malformed.  In both cases the
 * caller calls phoenix_release.
 */
bool
phoenix_decode_text(PhoenixVersion version, const char *data, size_t length,
					PhoenixMessage *message)
{
	Elements	elements = {0};
	Slice		text = {data, length};

	memset(message, 0, sizeof(*message));
	return (version == PHOENIX_V1 ? find_elements_v1(text, &elements) :
			find_elements_v2(text, &elements)) &&
		take_elements(message, &elements);
}

/* Take "length" bytes off the front of the rest; false if it is shorter. */
static bool
take_bytes(Slice *rest, size_t length, Slice *taken)
{
	if (rest->length < length)
		return false;
	*taken = (Slice) {rest->data, length};
	rest->data += length;
	rest->length -= length;
	return true;
}

/*
 * Keep a name of a binary frame.  Clients before 2.111 send the low bytes of
 * UTF-16 where UTF-8 is due.  That is Latin-1, as far as it can be read back.
 * False if the name contains NUL.
 */
static bool
take_binary_name(PhoenixMessage *message, Slice bytes, Slice *name)
{
	Buffer	   *names = &message->names;
	size_t		start = names->length;

	if (bytes.length > 0 && memchr(bytes.data, '\0', bytes.length) != NULL)
		return false;
	if (utf8_is_valid(bytes))
		buffer_append_slice(names, bytes);
	else
		for (size_t i = 0; i < bytes.length; i++)
		{
			unsigned char c = (unsigned char) bytes.data[i];
			char		pair[2] = {(char) (0xc0 | c >> 6), (char) (0x80 | (c & 0x3f))};

			if (c < 0x80)
				buffer_append(names, bytes.data + i, 1);
			else
				buffer_append(names, pair, 2);
		}
	*name = (Slice) {names->data + start, names->length - start};
	return true;
}

/* A reference of a binary frame as JSON text; NULL if it contains NUL */
static char *
binary_reference(PhoenixMessage *message, Slice bytes)
{
	Buffer		text = {0};
	Slice		name;

	if (bytes.length == 0)
		return copy_bytes("null", 4);
	if (!take_binary_name(message, bytes, &name))
		return NULL;
	buffer_append_json_string(&text, name);
	buffer_append(&text, "", 1);
	return text.data;
}

/*
 * Decode a binary frame.  The only kind that clients send is the broadcast
 * push: a header of seven bytes
 *
 *	u8 3, u8 lengths of join_ref, ref, topic, user event, metadata,
 *	u8 encoding of the payload (0 raw, 1 JSON)
 *
 * then those five, and the payload to the end.  Returns false if it is
 * malformed; in both cases the caller calls phoenix_release.
 */
bool
phoenix_decode_binary(const char *data, size_t length, PhoenixMessage *message)
{
	const unsigned char *header = (const unsigned char *) data;
	Slice		rest = {data, length};
	Slice		skipped,
				join_ref,
				ref,
				topic,
				event;

	memset(message, 0, sizeof(*message));
	message->binary = true;
	if (!take_bytes(&rest, BROADCAST_PUSH_HEADER, &skipped) ||
		header[0] != BROADCAST_PUSH ||
		!take_bytes(&rest, header[1], &join_ref) ||
		!take_bytes(&rest, header[2], &ref) ||
		!take_bytes(&rest, header[3], &topic) ||
		!take_bytes(&rest, header[4], &event) ||
		!take_bytes(&rest, header[5], &message->metadata) ||
		(header[6] != ENCODING_RAW && header[6] != ENCODING_JSON))
		return false;
	message->event = SLICE("broadcast");
	message->payload = rest;
	message->payload_is_json = header[6] == ENCODING_JSON;

	/* The names must not move once something points at them. */
	buffer_reserve(&message->names, 2 * 4 * MAX_BINARY_NAME);
	message->join_ref = binary_reference(message, join_ref);
	message->ref = binary_reference(message, ref);
	if (message->join_ref == NULL || message->ref == NULL ||
		!take_binary_name(message, topic, &message->topic) ||
		!take_binary_name(message, event, &message->user_event))
		return false;
	if (message->metadata.length > 0 && !json_is_object_text(message->metadata))
		return false;
	return !message->payload_is_json || json_is_value(message->payload);
}

/*
 * Decode a frame of either kind.  Version 1.0.0 has no binary frames.
 */
bool
phoenix_decode(PhoenixVersion version, bool binary, const char *data,
			   size_t length, PhoenixMessage *message)
{
	if (!binary)
		return phoenix_decode_text(version, data, length, message);
	memset(message, 0, sizeof(*message));
	return version == PHOENIX_V2 &&
		phoenix_decode_binary(data, length, message);
}

void
phoenix_release(PhoenixMessage *message)
{
	free(message->join_ref);
	free(message->ref);
	buffer_release(&message->names);
	memset(message, 0, sizeof(*message));
}

/* Does the client expect a reply to be possible? */
bool
phoenix_has_ref(const PhoenixMessage *message)
{
	return strcmp(message->ref, "null") != 0;
}

/*-------------------------------- encoding -------------------------------*/

/*
 * Encode a message whose payload consists of several pieces of JSON text.
 * join_ref and ref are JSON text, NULL meaning null.
 */
static Frame *
encode_parts(PhoenixVersion version, const char *join_ref, const char *ref,
			 Slice topic_json, const char *event, const Slice *payload,
			 size_t n_payload)
{
	Slice		parts[20];
	size_t		n = 0;

	if (version == PHOENIX_V1)
	{
		parts[n++] = SLICE("{\"topic\":");
		parts[n++] = topic_json;
		parts[n++] = SLICE(",\"event\":\"");
		parts[n++] = slice_of(event);
		parts[n++] = SLICE("\",\"payload\":");
	}
	else
	{
		parts[n++] = SLICE("[");
		parts[n++] = slice_of(join_ref != NULL ? join_ref : "null");
		parts[n++] = SLICE(",");
		parts[n++] = slice_of(ref != NULL ? ref : "null");
		parts[n++] = SLICE(",");
		parts[n++] = topic_json;
		parts[n++] = SLICE(",\"");
		parts[n++] = slice_of(event);
		parts[n++] = SLICE("\",");
	}
	for (size_t i = 0; i < n_payload; i++)
		parts[n++] = payload[i];
	if (version == PHOENIX_V1)
	{
		parts[n++] = SLICE(",\"ref\":");
		parts[n++] = slice_of(ref != NULL ? ref : "null");
		parts[n++] = SLICE("}");
	}
	else
		parts[n++] = SLICE("]");
	return frame_build(FRAME_TEXT, parts, n);
}

/* Encode any message.  event must need no escaping. */
Frame *
phoenix_encode(PhoenixVersion version, const char *join_ref, const char *ref,
			   Slice topic_json, const char *event, Slice payload)
{
	return encode_parts(version, join_ref, ref, topic_json, event, &payload, 1);
}

/* Encode a reply whose response is the JSON text given. */
Frame *
phoenix_encode_reply(PhoenixVersion version, const char *join_ref,
					 const char *ref, Slice topic_json, bool ok, Slice response)
{
	Slice		payload[3];

	payload[0] = ok ? SLICE("{\"status\":\"ok\",\"response\":") :
		SLICE("{\"status\":\"error\",\"response\":");
	payload[1] = response;
	payload[2] = SLICE("}");
	return encode_parts(version, join_ref, ref, topic_json, "phx_reply",
						payload, 3);
}

/* Encode a reply with status "error" and this reason. */
Frame *
phoenix_encode_error(PhoenixVersion version, const char *join_ref,
					 const char *ref, Slice topic_json, Slice reason)
{
	Buffer		response = {0};
	Frame	   *frame;

	buffer_append_string(&response, "{\"reason\":");
	buffer_append_json_string(&response, reason);
	buffer_append_string(&response, "}");
	frame = phoenix_encode_reply(version, join_ref, ref, topic_json, false,
								 buffer_slice(&response));
	buffer_release(&response);
	return frame;
}

/* Encode phx_close or phx_error for the channel that join_ref joined. */
Frame *
phoenix_encode_close(PhoenixVersion version, const char *join_ref,
					 Slice topic_json, const char *event)
{
	return phoenix_encode(version, join_ref, join_ref, topic_json, event,
						  SLICE("{}"));
}

/* Encode a "system" message; "channel" is the topic without "realtime:". */
Frame *
phoenix_encode_system(PhoenixVersion version, const char *join_ref,
					  Slice topic_json, Slice extension, Slice status,
					  Slice text, Slice channel)
{
	Buffer		payload = {0};
	Frame	   *frame;

	buffer_append_string(&payload, "{\"message\":");
	buffer_append_json_string(&payload, text);
	buffer_append_string(&payload, ",\"status\":");
	buffer_append_json_string(&payload, status);
	buffer_append_string(&payload, ",\"extension\":");
	buffer_append_json_string(&payload, extension);
	buffer_append_string(&payload, ",\"channel\":");
	buffer_append_json_string(&payload, channel);
	buffer_append_string(&payload, "}");
	frame = phoenix_encode(version, join_ref, NULL, topic_json, "system",
						   buffer_slice(&payload));
	buffer_release(&payload);
	return frame;
}

static void
append_ids(Buffer *buffer, const uint32_t *ids, size_t n_ids)
{
	buffer_append_string(buffer, "{\"ids\":[");
	for (size_t i = 0; i < n_ids; i++)
	{
		if (i > 0)
			buffer_append(buffer, ",", 1);
		buffer_append_number(buffer, ids[i]);
	}
	buffer_append_string(buffer, "],\"data\":");
}

/*
 * Encode a "postgres_changes" message for the bindings named by ids, with the
 * change's cursor unless that is empty.  It names no join_ref, so it fits
 * every channel of this topic that has those ids.
 */
Frame *
phoenix_encode_change(PhoenixVersion version, Slice topic_json,
					  const uint32_t *ids, size_t n_ids, Slice data,
					  Slice cursor)
{
	Buffer		head = {0};
	Slice		payload[5];
	size_t		n = 0;
	Frame	   *frame;

	append_ids(&head, ids, n_ids);
	payload[n++] = buffer_slice(&head);
	payload[n++] = data;
	if (cursor.length > 0)
	{
		payload[n++] = SLICE(",\"rtsync\":{\"cursor\":\"");
		payload[n++] = cursor;
	}
	payload[n++] = cursor.length > 0 ? SLICE("\"}}") : SLICE("}");
	frame = encode_parts(version, NULL, NULL, topic_json, "postgres_changes",
						 payload, n);
	buffer_release(&head);
	return frame;
}

/*
 * Encode the "system" message behind a transaction's last change, with the
 * cursor of its end.  It names no channel: there may be many of them.
 */
Frame *
phoenix_encode_transaction_end(PhoenixVersion version, Slice topic_json,
							   Slice cursor)
{
	Buffer		payload = {0};
	Frame	   *frame;

	buffer_append_string(&payload,
						 "{\"message\":\"Transaction is complete\",\"status\":\"commit\","
						 "\"extension\":\"rtsync\",\"rtsync\":{\"cursor\":");
	buffer_append_json_string(&payload, cursor);
	buffer_append_string(&payload, "}}");
	frame = phoenix_encode(version, NULL, NULL, topic_json, "system",
						   buffer_slice(&payload));
	buffer_release(&payload);
	return frame;
}

/*
 * Encode a page of a snapshot: a message like the above for each row, marked
 * as such.
 */
Frame *
phoenix_encode_rows(PhoenixVersion version, Slice topic_json,
					const uint32_t *ids, size_t n_ids, const PhoenixRows *rows)
{
	Buffer		before = {0};
	Buffer		behind = {0};
	Frame	   *frame;

	if (version == PHOENIX_V1)
	{
		buffer_append_string(&before, "{\"topic\":");
		buffer_append(&before, topic_json.data, topic_json.length);
		buffer_append_string(&before, ",\"event\":\"postgres_changes\",\"payload\":");
	}
	else
	{
		buffer_append_string(&before, "[null,null,");
		buffer_append(&before, topic_json.data, topic_json.length);
		buffer_append_string(&before, ",\"postgres_changes\",");
	}
	append_ids(&before, ids, n_ids);
	buffer_append(&before, rows->before.data, rows->before.length);
	buffer_append(&behind, rows->behind.data, rows->behind.length);
	buffer_append_string(&behind, ",\"rtsync\":{\"snapshot\":true}}");
	buffer_append_string(&behind, version == PHOENIX_V1 ? ",\"ref\":null}" : "]");
	frame = frame_build_series(FRAME_TEXT, buffer_slice(&before), rows->rows,
							   rows->n_rows, buffer_slice(&behind));
	buffer_release(&before);
	buffer_release(&behind);
	return frame;
}

/* As {"type":"broadcast","event":E,"payload":P,"meta":M} in a text frame */
static Frame *
encode_text_broadcast(PhoenixVersion version, Slice topic_json,
					  const PhoenixBroadcast *broadcast)
{
	Buffer		event_json = {0};
	Slice		payload[7];
	size_t		n = 0;
	Frame	   *frame;

	if (broadcast->map.data != NULL)
		return phoenix_encode(version, NULL, NULL, topic_json, "broadcast",
							  broadcast->map);
	buffer_append_json_string(&event_json, broadcast->event);
	payload[n++] = SLICE("{\"type\":\"broadcast\",\"event\":");
	payload[n++] = buffer_slice(&event_json);
	if (broadcast->metadata.length > 0)
	{
		payload[n++] = SLICE(",\"meta\":");
		payload[n++] = broadcast->metadata;
	}
	payload[n++] = SLICE(",\"payload\":");
	payload[n++] = broadcast->payload;
	payload[n++] = SLICE("}");
	frame = encode_parts(version, NULL, NULL, topic_json, "broadcast", payload, n);
	buffer_release(&event_json);
	return frame;
}

/*
 * As a binary frame: a header of five bytes
 *
 *	u8 4, u8 lengths of topic, event, metadata, u8 encoding of the payload
 *
 * then those three, and the payload to the end
 */
static Frame *
encode_binary_broadcast(Slice topic, const PhoenixBroadcast *broadcast)
{
	char		header[5] = {BROADCAST, (char) topic.length,
	(char) broadcast->event.length, (char) broadcast->metadata.length,
	broadcast->payload_is_json ? ENCODING_JSON : ENCODING_RAW};
	Slice		parts[5] = {{header, sizeof(header)}, topic, broadcast->event,
	broadcast->metadata, broadcast->payload};

	return frame_build(FRAME_BINARY, parts, 5);
}

/*
 * Encode a broadcast.  It names no join_ref, so it fits every channel of this
 * topic.  NULL if this version cannot express it: raw bytes go into binary
 * frames alone, and those have room for short names only.
 */
Frame *
phoenix_encode_broadcast(PhoenixVersion version, Slice topic, Slice topic_json,
						 const PhoenixBroadcast *broadcast)
{
	if (version == PHOENIX_V2 && broadcast->map.data == NULL &&
		topic.length <= MAX_BINARY_NAME &&
		broadcast->event.length <= MAX_BINARY_NAME &&
		broadcast->metadata.length <= MAX_BINARY_NAME)
		return encode_binary_broadcast(topic, broadcast);
	if (!broadcast->payload_is_json)
		return NULL;
	return encode_text_broadcast(version, topic_json, broadcast);
}
