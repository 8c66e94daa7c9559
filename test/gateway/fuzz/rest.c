/*-------------------------------------------------------------------------
 *
 * rest.c
 *	  Fuzzing broadcasts by HTTP: the head and, behind it, the body.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "gateway/jsontext.h"
#include "gateway/rest.h"

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool condition)
{
	if (!condition)
		abort();
}

static void
require_messages(const RestRequest *rest, Slice body)
{
	require(rest->n_messages <= REST_MAX_MESSAGES);
	for (size_t i = 0; i < rest->n_messages; i++)
	{
		const RestMessage *message = &rest->messages[i];

		require(message->topic.length > 0 && utf8_is_valid(buffer_slice(&message->topic)));
		require(message->event.length > 0 && utf8_is_valid(buffer_slice(&message->event)));
		require(message->payload.data >= body.data &&
				message->payload.data + message->payload.length <= body.data + body.length);
		require(!message->is_json || json_is_value(message->payload));
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *) data;
	size_t		scanned = 0;
	size_t		length = request_head_length(text, size, &scanned);
	Request		request;
	RestRequest rest = {0};
	RestError	error = {0};
	Config		config;
	Slice		body = {text + length, size - length};

	if (length == 0 || !request_parse(text, length, &request) ||
		!rest_concerns(&request))
		return 0;
	config_init(&config);
	if (!rest_read_head(&request, &config, &rest, &error))
		require(error.status >= 400 && json_is_value(buffer_slice(&error.body)));
	else
	{
		require(rest.body_length <= config.max_message_size && rest.token.length > 0);
		if (rest_read_body(&rest, body, &config, &error))
			require_messages(&rest, body);
		else
			require(error.status >= 400 && json_is_value(buffer_slice(&error.body)));
	}
	buffer_release(&error.body);
	rest_release(&rest);
	config_release(&config);
	return 0;
}
