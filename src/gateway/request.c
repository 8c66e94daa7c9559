/*-------------------------------------------------------------------------
 *
 * request.c
 *	  Reading the head of an HTTP request.
 *
 * Pure, and strict (RFC 9112): every line ends in CR LF, header names are
 * tokens directly before the colon, no line is folded, values hold no control
 * characters, the headers that decide something occur once.  Nothing that a
 * proxy before us might read otherwise is let through.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/request.h"

#include <string.h>

#define WEBSOCKET_KEY_LENGTH 24 /* 16 bytes in base64 */

/*
 * The length of the head including its empty line, or 0 if data does not yet
 * hold all of it.  *scanned says how far an earlier call looked.
 */
size_t
request_head_length(const char *data, size_t length, size_t *scanned)
{
	size_t		from = *scanned > 3 ? *scanned - 3 : 0;
	const char *end = length > from ?
		memmem(data + from, length - from, "\r\n\r\n", 4) : NULL;

	*scanned = length;
	return end != NULL ? (size_t) (end - data) + 4 : 0;
}

static bool
is_token_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') ||
		(c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool
is_token(Slice text)
{
	for (size_t i = 0; i < text.length; i++)
		if (!is_token_char(text.data[i]))
			return false;
	return text.length > 0;
}

/* Take a line off the rest, without its CR LF; false at the end. */
static bool
next_line(Slice *rest, Slice *line)
{
	const char *end = memmem(rest->data, rest->length, "\r\n", 2);

	if (end == NULL)
		return false;
	*line = (Slice) {rest->data, (size_t) (end - rest->data)};
	rest->length -= line->length + 2;
	rest->data = end + 2;
	return true;
}

static Slice
trim(Slice text)
{
	while (text.length > 0 && (text.data[0] == ' ' || text.data[0] == '\t'))
	{
		text.data++;
		text.length--;
	}
	while (text.length > 0 && (text.data[text.length - 1] == ' ' ||
							   text.data[text.length - 1] == '\t'))
		text.length--;
	return text;
}

/* Is the word an element of the list separated by commas? */
static bool
list_has(Slice list, const char *word)
{
	size_t		start = 0;

	for (size_t i = 0; i <= list.length; i++)
	{
		Slice		element = {list.data + start, i - start};

		if (i < list.length && list.data[i] != ',')
			continue;
		if (slice_equals_nocase(trim(element), word))
			return true;
		start = i + 1;
	}
	return false;
}

/* METHOD SP target SP HTTP/1.x */
static bool
parse_request_line(Slice line, Request *request)
{
	const char *first = memchr(line.data, ' ', line.length);
	const char *end = line.data + line.length;
	const char *second;
	const char *question;
	Slice		target;
	Slice		version;

	if (first == NULL)
		return false;
	request->method = (Slice) {line.data, (size_t) (first - line.data)};
	second = memchr(first + 1, ' ', (size_t) (end - first - 1));
	if (second == NULL || !is_token(request->method))
		return false;
	target = (Slice) {first + 1, (size_t) (second - first - 1)};
	version = (Slice) {second + 1, (size_t) (end - second - 1)};

	if (version.length != 8 || memcmp(version.data, "HTTP/1.", 7) != 0 ||
		(version.data[7] != '0' && version.data[7] != '1'))
		return false;
	request->minor_version = version.data[7] - '0';

	if (target.length == 0 ||
		(target.data[0] != '/' && !slice_equals(target, "*")))
		return false;
	for (size_t i = 0; i < target.length; i++)
		if (target.data[i] <= ' ' || target.data[i] == 0x7f)
			return false;
	question = memchr(target.data, '?', target.length);
	request->path = target;
	if (question != NULL)
	{
		request->path.length = (size_t) (question - target.data);
		request->query = (Slice) {question + 1,
			target.length - request->path.length - 1};
	}
	return true;
}

/* Keep a value that may occur only once. */
static bool
set_once(Slice *place, Slice value)
{
	if (place->data != NULL)
		return false;
	*place = value;
	return true;
}

/* Keep one more line of a header; false if there are too many. */
static bool
add_line(RequestLines *lines, Slice value)
{
	if (lines->count == REQUEST_MAX_LINES)
		return false;
	lines->values[lines->count++] = value;
	return true;
}

typedef struct UpgradeHeaders
{
	bool		upgrade_websocket;
	bool		connection_upgrade;
} UpgradeHeaders;

static bool
parse_header(Slice line, Request *request, UpgradeHeaders *upgrade)
{
	const char *colon = memchr(line.data, ':', line.length);
	Slice		name;
	Slice		value;

	if (colon == NULL)
		return false;
	name = (Slice) {line.data, (size_t) (colon - line.data)};
	value = trim((Slice) {colon + 1, line.length - name.length - 1});
	if (!is_token(name))
		return false;
	for (size_t i = 0; i < value.length; i++)
	{
		unsigned char c = (unsigned char) value.data[i];

		if ((c < 0x20 && c != '\t') || c == 0x7f)
			return false;
	}

	if (slice_equals_nocase(name, "host"))
		return set_once(&request->host, value);
	if (slice_equals_nocase(name, "origin"))
		return set_once(&request->origin, value);
	if (slice_equals_nocase(name, "x-api-key"))
		return set_once(&request->api_key, value);
	if (slice_equals_nocase(name, "apikey"))
		return set_once(&request->apikey_header, value);
	if (slice_equals_nocase(name, "authorization"))
		return set_once(&request->authorization, value);
	if (slice_equals_nocase(name, "content-type"))
		return set_once(&request->content_type, value);
	if (slice_equals_nocase(name, "sec-websocket-key"))
		return set_once(&request->websocket_key, value);
	if (slice_equals_nocase(name, "sec-websocket-version"))
		return set_once(&request->websocket_version, value);
	if (slice_equals_nocase(name, "x-forwarded-for"))
		return add_line(&request->x_forwarded_for, value);
	if (slice_equals_nocase(name, "forwarded"))
		return add_line(&request->forwarded, value);
	if (slice_equals_nocase(name, "upgrade"))
		upgrade->upgrade_websocket |= list_has(value, "websocket");
	else if (slice_equals_nocase(name, "connection"))
		upgrade->connection_upgrade |= list_has(value, "upgrade");
	else if (slice_equals_nocase(name, "expect"))
		request->expects_continue |= slice_equals_nocase(value, "100-continue");
	else if (slice_equals_nocase(name, "transfer-encoding"))
		request->has_body = request->is_chunked = true;
	else if (slice_equals_nocase(name, "content-length"))
	{
		request->has_body |= !slice_equals(value, "0");
		return set_once(&request->content_length, value);
	}
	return true;
}

/*
 * Parse a whole head, as request_head_length measured it.  Returns false if
 * it is malformed.
 */
bool
request_parse(const char *head, size_t length, Request *request)
{
	Slice		rest = {head, length};
	Slice		line;
	UpgradeHeaders upgrade = {false, false};

	memset(request, 0, sizeof(*request));
	if (!next_line(&rest, &line) || !parse_request_line(line, request))
		return false;
	while (next_line(&rest, &line) && line.length > 0)
		if (!parse_header(line, request, &upgrade))
			return false;
	if (rest.length > 0)
		return false;
	if (request->minor_version >= 1 && request->host.data == NULL)
		return false;
	request->upgrades = upgrade.upgrade_websocket && upgrade.connection_upgrade;
	return true;
}

static bool
is_base64_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') || c == '+' || c == '/';
}

/*
 * Is a request that upgrades a complete WebSocket handshake (RFC 6455,
 * section 4.2.1), apart from its version?
 */
bool
request_is_handshake(const Request *request)
{
	Slice		key = request->websocket_key;

	if (!slice_equals(request->method, "GET") ||
		request->minor_version < 1 || request->has_body ||
		key.length != WEBSOCKET_KEY_LENGTH ||
		key.data[22] != '=' || key.data[23] != '=')
		return false;
	for (size_t i = 0; i < 22; i++)
		if (!is_base64_char(key.data[i]))
			return false;
	return true;
}

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static void
decode_percent(Slice text, bool form, Buffer *value)
{
	for (size_t i = 0; i < text.length; i++)
	{
		char		c = text.data[i];

		if (c == '+' && form)
			c = ' ';
		else if (c == '%' && i + 2 < text.length &&
				 hex_value(text.data[i + 1]) >= 0 &&
				 hex_value(text.data[i + 2]) >= 0)
		{
			c = (char) (hex_value(text.data[i + 1]) * 16 +
						hex_value(text.data[i + 2]));
			i += 2;
		}
		buffer_append(value, &c, 1);
	}
}

/*
 * Append the decoded value of the query parameter to the buffer; of several,
 * the last counts.  Returns false if there is none.
 */
bool
request_query_parameter(Slice query, const char *name, Buffer *value)
{
	size_t		start = 0;
	size_t		name_length = strlen(name);
	Slice		found = {NULL, 0};

	for (size_t i = 0; i <= query.length && query.length > 0; i++)
	{
		size_t		length = i - start;

		if (i < query.length && query.data[i] != '&')
			continue;
		if (length > name_length && query.data[start + name_length] == '=' &&
			memcmp(query.data + start, name, name_length) == 0)
			found = (Slice) {query.data + start + name_length + 1,
				length - name_length - 1};
		start = i + 1;
	}
	if (found.data == NULL)
		return false;
	decode_percent(found, true, value);
	return true;
}

/* Append a decoded part of the path to the buffer. */
void
request_decode_path(Slice part, Buffer *value)
{
	decode_percent(part, false, value);
}

/*
 * Append the token that the client presents: the header X-Api-Key, else the
 * query's "apikey"; without any whitespace.  Nothing if there is none.
 */
void
request_token(const Request *request, Buffer *token)
{
	Buffer		raw = {0};

	if (request->api_key.length > 0)
		decode_percent(request->api_key, true, &raw);
	else
		request_query_parameter(request->query, "apikey", &raw);
	for (size_t i = 0; i < raw.length; i++)
		if (strchr(" \t\r\n\f\v", raw.data[i]) == NULL || raw.data[i] == '\0')
			buffer_append(token, raw.data + i, 1);
	buffer_release(&raw);
}
