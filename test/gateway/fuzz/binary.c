/*-------------------------------------------------------------------------
 *
 * binary.c
 *	  Fuzzing binary frames.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>

#include "gateway/jsontext.h"
#include "gateway/phoenix.h"

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require_within(Slice slice, const uint8_t *data, size_t size)
{
	const uint8_t *start = (const uint8_t *) slice.data;

	if (start < data || start > data + size ||
		slice.length > (size_t) (data + size - start))
		abort();
}

/* What is passed on must not break the receivers. */
static void
require_broadcast(const PhoenixMessage *message)
{
	PhoenixBroadcast broadcast = {.event = message->user_event,
		.payload = message->payload, .payload_is_json = message->payload_is_json,
	.metadata = message->metadata};
	Buffer		topic = {0};
	Frame	   *frame;

	buffer_append_json_string(&topic, message->topic);
	frame = phoenix_encode_broadcast(PHOENIX_V1, message->topic,
									 buffer_slice(&topic), &broadcast);
	if ((frame != NULL) != message->payload_is_json)
		abort();
	if (frame != NULL)
	{
		size_t		header = frame->data[1] < 126 ? 2 : 4;

		if (frame->data[1] < 127 &&
			!json_is_value((Slice) {(char *) frame->data + header, frame->length - header}))
			abort();
	}
	frame_release(frame);
	frame_release(phoenix_encode_broadcast(PHOENIX_V2, message->topic,
										   buffer_slice(&topic), &broadcast));
	buffer_release(&topic);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	PhoenixMessage message;

	if (phoenix_decode(PHOENIX_V2, true, (const char *) data, size, &message))
	{
		require_within(message.metadata, data, size);
		require_within(message.payload, data, size);
		if (!utf8_is_valid(message.topic) || !utf8_is_valid(message.user_event) ||
			message.topic.length > 510 || message.join_ref == NULL ||
			message.ref == NULL)
			abort();
		require_broadcast(&message);
	}
	phoenix_release(&message);
	return 0;
}
