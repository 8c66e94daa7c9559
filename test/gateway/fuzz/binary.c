/*-------------------------------------------------------------------------
 *
 * binary.c
 *	  Fuzzing binary frames.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>

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

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	PhoenixMessage message;

	if (phoenix_decode(PHOENIX_V2, true, (const char *) data, size, &message))
	{
		require_within(message.user_event, data, size);
		require_within(message.metadata, data, size);
		require_within(message.user_payload, data, size);
		if (message.topic.length > 255 || message.join_ref == NULL ||
			message.ref == NULL)
			abort();
	}
	phoenix_release(&message);
	return 0;
}
