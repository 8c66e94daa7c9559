/*-------------------------------------------------------------------------
 *
 * rest.c
 *	  Broadcasts that come as HTTP requests: reading them.
 *
 * Pure.  There are two forms:
 *
 *	POST /api/broadcast
 *		{"messages":[{"topic":T,"event":E,"payload":{...},"private":B},...]}
 *	POST /api/broadcast/T/events/E?private=B&persist=B&persist[ttl]=N
 *		the payload, JSON or raw as Content-Type says
 *
 * each with the prefix that http.c strips or without.  The first is refused
 * whole if a message is not right, and says what is wrong with which, as the
 * original does.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/rest.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/http.h"
#include "gateway/jsontext.h"
#include "gateway/phoenix.h"

#define BASE "/api/broadcast"
#define EVENTS "/events/"

static bool
fail(RestError *error, int status, const char *body)
{
	error->status = status;
	buffer_append_string(&error->body, body);
	return false;
}

static bool
starts_with(Slice text, const char *start)
{
	size_t		length = strlen(start);

	return text.length >= length && memcmp(text.data, start, length) == 0;
}

/* Is it for us to answer?  http.c answers preflights. */
bool
rest_concerns(const Request *request)
{
	Slice		path = http_without_prefix(request->path);

	return !slice_equals(request->method, "OPTIONS") &&
		(slice_equals(path, BASE) || starts_with(path, BASE "/"));
}

/*---------------------------------- heads --------------------------------*/

static bool
is_name(const Buffer *name, size_t limit)
{
	Slice		text = buffer_slice(name);

	return text.length > 0 && text.length <= limit && utf8_is_valid(text) &&
		memchr(text.data, '\0', text.length) == NULL;
}

/* Read topic and event from "/T/events/E"; false if it is another path. */
static bool
read_path(Slice path, RestMessage *message)
{
	const char *topic = path.data + 1;
	const char *end = path.data + path.length;
	const char *topic_end = memchr(topic, '/', path.length - 1);
	const char *event;

	if (topic_end == NULL ||
		!starts_with((Slice) {topic_end, (size_t) (end - topic_end)}, EVENTS))
		return false;
	event = topic_end + strlen(EVENTS);
	if (memchr(event, '/', (size_t) (end - event)) != NULL)
		return false;
	request_decode_path((Slice) {topic, (size_t) (topic_end - topic)}, &message->topic);
	request_decode_path((Slice) {event, (size_t) (end - event)}, &message->event);
	return is_name(&message->topic, PHOENIX_MAX_TOPIC - strlen("realtime:")) &&
		is_name(&message->event, PHOENIX_MAX_EVENT);
}

static bool
is_true_parameter(Slice query, const char *name)
{
	Buffer		value = {0};
	bool		result;

	result = request_query_parameter(query, name, &value) &&
		slice_equals_nocase(buffer_slice(&value), "true");
	buffer_release(&value);
	return result;
}

/* A number of seconds: 1 to 999,999,999; 0 if it is none */
static uint32_t
read_seconds(Slice text)
{
	uint32_t	seconds = 0;

	if (text.length > 9)
		return 0;
	for (size_t i = 0; i < text.length; i++)
	{
		if (text.data[i] < '0' || text.data[i] > '9')
			return 0;
		seconds = seconds * 10 + (uint32_t) (text.data[i] - '0');
	}
	return seconds;
}

/*
 * Read whether the message is to be stored, and for how long.  False if that
 * makes no sense.
 */
static bool
read_persist(Slice query, RestMessage *message)
{
	static const char *const names[] = {"persist[ttl]", "persist%5Bttl%5D",
	"persist%5bttl%5d"};
	Buffer		value = {0};
	bool		valid = true;

	for (int i = 0; i < 3 && !message->persist; i++)
		if (request_query_parameter(query, names[i], &value))
		{
			message->persist = true;
			message->ttl = read_seconds(buffer_slice(&value));
			valid = message->ttl > 0;
		}
	if (!message->persist && request_query_parameter(query, "persist", &value))
	{
		message->persist = slice_equals_nocase(buffer_slice(&value), "true");
		valid = message->persist ||
			slice_equals_nocase(buffer_slice(&value), "false");
	}
	buffer_release(&value);
	return valid;
}

/* The media type without its parameters */
static Slice
media_type(Slice header)
{
	size_t		length = 0;

	while (length < header.length && header.data[length] != ';' &&
		   header.data[length] != ' ' && header.data[length] != '\t')
		length++;
	return (Slice) {header.data, length};
}

/* Read a request of one message. */
static bool
read_single(const Request *request, Slice path, RestRequest *rest,
			RestError *error)
{
	RestMessage *message = rest->messages = allocate_zero(sizeof(RestMessage));
	Slice		type = media_type(request->content_type);

	rest->n_messages = 1;
	if (!read_path(path, message))
		return fail(error, 404, "{\"error\":\"Not found\"}");
	message->is_private = is_true_parameter(request->query, "private");
	if (!read_persist(request->query, message))
		return fail(error, 422, "{\"error\":\"invalid_persist_ttl\"}");
	if (message->persist && !message->is_private)
		return fail(error, 422, "{\"error\":\"Only messages to private channels can be stored\"}");
	message->is_json = slice_equals_nocase(type, "application/json");
	if (!message->is_json && !slice_equals_nocase(type, "application/octet-stream"))
		return fail(error, 415, "{\"error\":\"Unsupported Media Type. "
					"Use application/json or application/octet-stream\"}");
	return true;
}

/* How long is the body?  False if that is not said, or more than we take. */
static bool
read_length(const Request *request, const Config *config, RestRequest *rest,
			RestError *error)
{
	Slice		length = request->content_length;

	if (request->is_chunked || length.data == NULL)
		return fail(error, 411, "{\"error\":\"Content-Length is required\"}");
	if (length.length == 0 || length.length > 18)
		return fail(error, 400, "{\"error\":\"Malformed request\"}");
	for (size_t i = 0; i < length.length; i++)
	{
		if (length.data[i] < '0' || length.data[i] > '9')
			return fail(error, 400, "{\"error\":\"Malformed request\"}");
		rest->body_length = rest->body_length * 10 + (size_t) (length.data[i] - '0');
	}
	if (rest->body_length > config->max_message_size)
		return fail(error, 413, "{\"error\":\"Payload Too Large\"}");
	return true;
}

/* The token is that of "Authorization: Bearer", else the header "apikey". */
static void
read_token(const Request *request, RestRequest *rest)
{
	Slice		header = request->authorization;

	if (header.length > 7 &&
		slice_equals_nocase((Slice) {header.data, 7}, "Bearer "))
		header = (Slice) {header.data + 7, header.length - 7};
	else
		header = request->apikey_header;
	for (size_t i = 0; i < header.length; i++)
		if (header.data[i] != ' ' && header.data[i] != '\t')
			buffer_append(&rest->token, header.data + i, 1);
}

/*
 * Read what the head of a request says that rest_concerns us.  False: answer
 * with the error.  In both cases the caller calls rest_release.
 */
bool
rest_read_head(const Request *request, const Config *config, RestRequest *rest,
			   RestError *error)
{
	Slice		path = http_without_prefix(request->path);

	path.data += strlen(BASE);
	path.length -= strlen(BASE);
	rest->is_batch = path.length == 0;
	rest->expects_continue = request->expects_continue;
	buffer_append_slice(&rest->origin, request->origin);
	if (!slice_equals(request->method, "POST"))
		return fail(error, 405, "{\"error\":\"Method not allowed\"}");
	if (!rest->is_batch && !read_single(request, path, rest, error))
		return false;
	if (!read_length(request, config, rest, error))
		return false;
	read_token(request, rest);
	if (rest->token.length == 0 && !config->allow_anonymous)
		return fail(error, 401, "{\"message\":\"Unauthorized\"}");
	return true;
}

/*--------------------------------- bodies --------------------------------*/

/* Note what is wrong with a message's field: "field":["text"] */
static void
complain(Buffer *complaints, const char *field, const char *text)
{
	if (complaints->length > 0)
		buffer_append(complaints, ",", 1);
	buffer_append(complaints, "\"", 1);
	buffer_append_string(complaints, field);
	buffer_append_string(complaints, "\":[\"");
	buffer_append_string(complaints, text);
	buffer_append_string(complaints, "\"]");
}

/* Read a name that is required. */
static void
read_name(Slice value, const char *field, size_t limit, Buffer *name,
		  Buffer *complaints)
{
	if (value.data == NULL || slice_equals(value, "null") ||
		slice_equals(value, "\"\""))
		complain(complaints, field, "can't be blank");
	else if (!json_is_string_text(value) || !json_unquote(value, name) ||
			 !is_name(name, limit))
		complain(complaints, field, "is invalid");
}

static void
read_payload(Slice value, const Config *config, RestMessage *message,
			 Buffer *complaints)
{
	message->is_json = true;
	message->payload = value;
	if (value.data == NULL || slice_equals(value, "null"))
		complain(complaints, "payload", "can't be blank");
	else if (value.data[0] != '{')
		complain(complaints, "payload", "is invalid");
	else if (value.length > config->max_payload_size)
		complain(complaints, "payload", "Payload size exceeds tenant limit");
}

/* Read a message of a batch; the complaints say what is wrong with it. */
static void
read_message(Slice text, const Config *config, RestMessage *message,
			 Buffer *complaints)
{
	Slice		topic = {NULL, 0};
	Slice		event = {NULL, 0};
	Slice		payload = {NULL, 0};
	Slice		is_private = SLICE("false");
	JsonCursor	cursor;
	Slice		key;
	Slice		value;

	if (json_enter(text, '{', &cursor))
		while (json_next(&cursor, &key, &value))
		{
			if (json_string_equals(key, "topic"))
				topic = value;
			else if (json_string_equals(key, "event"))
				event = value;
			else if (json_string_equals(key, "payload"))
				payload = value;
			else if (json_string_equals(key, "private"))
				is_private = value;
		}
	read_name(topic, "topic", PHOENIX_MAX_TOPIC - strlen("realtime:"),
			  &message->topic, complaints);
	read_name(event, "event", PHOENIX_MAX_EVENT, &message->event, complaints);
	read_payload(payload, config, message, complaints);
	if (slice_equals(is_private, "true") || slice_equals_nocase(is_private, "\"true\""))
		message->is_private = true;
	else if (!slice_equals(is_private, "false") && !slice_equals(is_private, "null") &&
			 !slice_equals_nocase(is_private, "\"false\""))
		complain(complaints, "private", "is invalid");
}

/* Find the list of messages.  False if the body is not JSON. */
static bool
find_messages(Slice body, Slice *messages)
{
	JsonCursor	cursor;
	Slice		key;
	Slice		value;

	*messages = (Slice) {NULL, 0};
	if (!json_enter(body, '{', &cursor))
		return false;
	while (json_next(&cursor, &key, &value))
		if (json_string_equals(key, "messages"))
			*messages = value;
	return json_left(&cursor);
}

static bool
read_batch(RestRequest *rest, Slice messages, const Config *config,
		   RestError *error)
{
	JsonCursor	cursor;
	Slice		key;
	Slice		value;
	Buffer		all = {0};		/* what is wrong, message by message */
	bool		valid = true;

	rest->messages = allocate_zero(REST_MAX_MESSAGES * sizeof(RestMessage));
	json_enter(messages, '[', &cursor);
	while (json_next(&cursor, &key, &value))
	{
		Buffer		complaints = {0};

		if (rest->n_messages == REST_MAX_MESSAGES)
		{
			buffer_release(&all);
			return fail(error, 429, "{\"message\":\"Too many messages to broadcast, "
						"please reduce the batch size\"}");
		}
		read_message(value, config, &rest->messages[rest->n_messages++], &complaints);
		valid = valid && complaints.length == 0;
		buffer_append_string(&all, all.length > 0 ? ",{" : "{");
		buffer_append_slice(&all, buffer_slice(&complaints));
		buffer_append(&all, "}", 1);
		buffer_release(&complaints);
	}
	if (!valid)
	{
		fail(error, 422, "{\"errors\":{\"messages\":[");
		buffer_append_slice(&error->body, buffer_slice(&all));
		buffer_append_string(&error->body, "]}}");
	}
	buffer_release(&all);
	return valid;
}

/*
 * Read the body, which must outlive the request.  False: answer with the
 * error.
 */
bool
rest_read_body(RestRequest *rest, Slice body, const Config *config,
			   RestError *error)
{
	Slice		messages;

	if (!rest->is_batch)
	{
		rest->messages[0].payload = body;
		if (body.length > config->max_payload_size)
			return fail(error, 422, "{\"message\":\"Payload size exceeds tenant limit\"}");
		if (rest->messages[0].is_json && !json_is_value(body))
			return fail(error, 400, "{\"error\":\"The body is not valid JSON\"}");
		return true;
	}
	if (!find_messages(body, &messages))
		return fail(error, 400, "{\"error\":\"The body is not a valid JSON object\"}");
	if (messages.data == NULL || slice_equals(messages, "null"))
		return fail(error, 422, "{\"errors\":{\"messages\":[\"can't be blank\"]}}");
	if (messages.data[0] != '[')
		return fail(error, 422, "{\"errors\":{\"messages\":[\"is invalid\"]}}");
	return read_batch(rest, messages, config, error);
}

void
rest_release(RestRequest *rest)
{
	for (size_t i = 0; i < rest->n_messages; i++)
	{
		buffer_release(&rest->messages[i].topic);
		buffer_release(&rest->messages[i].event);
	}
	free(rest->messages);
	buffer_release(&rest->token);
	buffer_release(&rest->origin);
	memset(rest, 0, sizeof(*rest));
}
