/*-------------------------------------------------------------------------
 *
 * text.c
 *	  Fuzzing text frames of both versions, and what is made of them.
 *
 * The first byte chooses the version.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "gateway/join.h"
#include "gateway/phoenix.h"

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool
grow(LinkWriter *writer, size_t size)
{
	writer->data = reallocate(writer->data, size * 2);
	writer->capacity = size * 2;
	return true;
}

static void
require_json(const char *text, size_t length)
{
	json_t	   *value = json_loadb(text, length, 0, NULL);

	if (value == NULL)
		abort();
	json_decref(value);
}

static void
join(json_t *payload)
{
	JoinRequest request;
	LinkWriter	writer = {.grow = grow};

	if (join_parse(payload, SLICE("s"), &request))
	{
		link_begin(&writer, LINK_JOIN);
		join_put_entries(&request, &writer);
		if (!link_end(&writer))
			abort();
		for (uint32_t i = 0; i < request.n_entries; i++)
		{
			char	   *start = join_entry_text(request.entries[i]);
			Buffer		entry = {0};

			buffer_append_string(&entry, start);
			buffer_append_string(&entry, "\"id\":1}");
			require_json(entry.data, entry.length);
			buffer_release(&entry);
			free(start);
		}
	}
	join_release(&request);
	free(writer.data);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	PhoenixMessage message;
	PhoenixVersion version;

	if (size == 0)
		return 0;
	version = data[0] % 2 == 0 ? PHOENIX_V1 : PHOENIX_V2;
	if (phoenix_decode_text(version, (const char *) data + 1, size - 1, &message))
	{
		Buffer		topic = {0};
		Frame	   *frame;
		size_t		header;
		json_t	   *payload;

		/* A reply to any message is valid JSON again. */
		buffer_append_json_string(&topic, message.topic);
		frame = phoenix_encode_error(version, message.join_ref, message.ref,
									 buffer_slice(&topic), message.event);
		header = frame->data[1] < 126 ? 2 : 4;
		require_json((char *) frame->data + header, frame->length - header);
		frame_release(frame);
		buffer_release(&topic);
		payload = json_loadb(message.payload.data, message.payload.length,
							 JSON_DECODE_ANY, NULL);
		join(payload);
		json_decref(payload);
	}
	phoenix_release(&message);
	return 0;
}
