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

#define BROADCAST_PUSH 3		/* kind of a binary frame from the client */
#define BROADCAST_HEADER 7
#define ENCODING_RAW 0
#define ENCODING_JSON 1

static Slice
json_slice(const json_t *string)
{
	return (Slice) {json_string_value(string), json_string_length(string)};
}

/*
 * Keep a reference as JSON text.  Clients send strings, some send integers.
 * Returns NULL for what cannot be a reference.
 */
static char *
reference_text(const json_t *reference)
{
	Buffer		text = {0};

	if (reference == NULL || json_is_null(reference))
		return copy_bytes("null", 4);
	if (json_is_integer(reference))
		return json_dumps(reference, JSON_ENCODE_ANY);
	if (!json_is_string(reference) ||
		json_string_length(reference) > PHOENIX_MAX_REF)
		return NULL;
	buffer_append_json_string(&text, json_slice(reference));
	buffer_append(&text, "", 1);
	return text.data;
}

/* Fill in the message from its five elements; false if one does not fit. */
static bool
take_elements(PhoenixMessage *message, const json_t *join_ref,
			  const json_t *ref, const json_t *topic, const json_t *event,
			  json_t *payload)
{
	if (!json_is_string(topic) || !json_is_string(event) || payload == NULL)
		return false;
	if (json_string_length(topic) > PHOENIX_MAX_TOPIC ||
		json_string_length(event) > PHOENIX_MAX_EVENT)
		return false;
	message->join_ref = reference_text(join_ref);
	message->ref = reference_text(ref);
	if (message->join_ref == NULL || message->ref == NULL)
		return false;
	message->topic = json_slice(topic);
	message->event = json_slice(event);
	message->payload = payload;
	return true;
}

/*
 * Decode a text frame.  Returns false if it is malformed.  In both cases the
 * caller calls phoenix_release.
 */
bool
phoenix_decode_text(PhoenixVersion version, const char *data, size_t length,
					PhoenixMessage *message)
{
	json_t	   *root;

	memset(message, 0, sizeof(*message));
	if (length == 0)
		return false;
	root = message->root = json_loadb(data, length, 0, NULL);
	if (root == NULL)
		return false;

	if (version == PHOENIX_V1)
		return json_is_object(root) &&
			take_elements(message,
						  json_object_get(root, "join_ref"),
						  json_object_get(root, "ref"),
						  json_object_get(root, "topic"),
						  json_object_get(root, "event"),
						  json_object_get(root, "payload"));

	return json_is_array(root) && json_array_size(root) >= 5 &&
		take_elements(message,
					  json_array_get(root, 0), json_array_get(root, 1),
					  json_array_get(root, 2), json_array_get(root, 3),
					  json_array_get(root, 4));
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

/* The text as a JSON string if it is valid UTF-8 without NUL, else NULL */
static json_t *
string_of(Slice text)
{
	if (memchr(text.data, '\0', text.length) != NULL)
		return NULL;
	return json_stringn(text.data, text.length);
}

static char *
binary_reference(Slice bytes)
{
	json_t	   *string;
	char	   *text;

	if (bytes.length == 0)
		return copy_bytes("null", 4);
	string = string_of(bytes);
	text = reference_text(string);
	if (string == NULL)
	{
		free(text);
		return NULL;
	}
	json_decref(string);
	return text;
}

/* Is the text valid JSON (of the given type, if it must be an object)? */
static bool
is_json(Slice text, bool object)
{
	json_t	   *value;
	bool		valid;

	if (text.length == 0)
		return false;
	value = json_loadb(text.data, text.length,
					   JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL,
					   NULL);
	valid = value != NULL && (!object || json_is_object(value));
	json_decref(value);
	return valid;
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
				topic;

	memset(message, 0, sizeof(*message));
	message->binary = true;
	if (!take_bytes(&rest, BROADCAST_HEADER, &skipped) ||
		header[0] != BROADCAST_PUSH ||
		!take_bytes(&rest, header[1], &join_ref) ||
		!take_bytes(&rest, header[2], &ref) ||
		!take_bytes(&rest, header[3], &topic) ||
		!take_bytes(&rest, header[4], &message->user_event) ||
		!take_bytes(&rest, header[5], &message->metadata) ||
		(header[6] != ENCODING_RAW && header[6] != ENCODING_JSON))
		return false;
	message->user_payload = rest;
	message->user_payload_is_json = header[6] == ENCODING_JSON;

	message->join_ref = binary_reference(join_ref);
	message->ref = binary_reference(ref);
	message->root = string_of(topic);
	if (message->join_ref == NULL || message->ref == NULL ||
		message->root == NULL)
		return false;
	message->topic = json_slice(message->root);
	message->event = SLICE("broadcast");

	/* What is forwarded one day must not break the receivers. */
	if (message->user_event.length > 0)
	{
		json_t	   *event = string_of(message->user_event);

		if (event == NULL)
			return false;
		json_decref(event);
	}
	if (message->metadata.length > 0 && !is_json(message->metadata, true))
		return false;
	return !message->user_payload_is_json ||
		is_json(message->user_payload, false);
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
	json_decref(message->root);
	memset(message, 0, sizeof(*message));
}

/* Does the client expect a reply to be possible? */
bool
phoenix_has_ref(const PhoenixMessage *message)
{
	return strcmp(message->ref, "null") != 0;
}

/*
 * Encode a message whose payload consists of several pieces of JSON text.
 * join_ref and ref are JSON text, NULL meaning null.
 */
static Frame *
encode_parts(PhoenixVersion version, const char *join_ref, const char *ref,
			 Slice topic_json, const char *event, const Slice *payload,
			 size_t n_payload)
{
	Slice		parts[16];
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

/*
 * Encode a "postgres_changes" message for the bindings named by ids.  It
 * names no join_ref, so it fits every channel of this topic that has those
 * ids.
 */
Frame *
phoenix_encode_change(PhoenixVersion version, Slice topic_json,
					  const uint32_t *ids, size_t n_ids, Slice data)
{
	Buffer		head = {0};
	Slice		payload[3];
	Frame	   *frame;

	buffer_append_string(&head, "{\"ids\":[");
	for (size_t i = 0; i < n_ids; i++)
	{
		if (i > 0)
			buffer_append(&head, ",", 1);
		buffer_append_number(&head, ids[i]);
	}
	buffer_append_string(&head, "],\"data\":");
	payload[0] = buffer_slice(&head);
	payload[1] = data;
	payload[2] = SLICE("}");
	frame = encode_parts(version, NULL, NULL, topic_json, "postgres_changes",
						 payload, 3);
	buffer_release(&head);
	return frame;
}
