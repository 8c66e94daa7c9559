/*-------------------------------------------------------------------------
 *
 * link.c
 *	  Fuzzing the reader of the link's messages.
 *
 * The input is a stream of messages; the type of each says, digit by digit,
 * what to read from its body.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>

#include "link/link.h"

#define MAX_BODY 100000

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool condition)
{
	if (!condition)
		abort();
}

static void
read_body(const char *body, LinkHeader header)
{
	LinkReader	reader;

	link_read(&reader, body, header.length);
	for (uint32_t type = header.type; type > 0; type /= 5)
	{
		LinkString	string = {NULL, 0};
		uint32_t	count;

		switch (type % 5)
		{
			case 0:
				link_get_u8(&reader);
				break;
			case 1:
				link_get_u32(&reader);
				break;
			case 2:
				link_get_u64(&reader);
				break;
			case 3:
				string = link_get_string(&reader);
				require(string.data == NULL ||
						(string.data >= body &&
						 string.data + string.length <= body + header.length));
				break;
			case 4:
				count = link_get_count(&reader, 4);
				require(count <= header.length / 4);
				while (count-- > 0)
					link_get_u32(&reader);
				require(!reader.failed || count == UINT32_MAX);
				break;
		}
		require(reader.next >= body && reader.next <= reader.end);
	}
	require(!link_finished(&reader) || reader.next == body + header.length);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *next = (const char *) data;
	LinkHeader	header;

	while (link_next_message(next, size, MAX_BODY, &header) == 1)
	{
		require(header.length <= MAX_BODY && header.length <= size - sizeof(header));
		read_body(next + sizeof(header), header);
		next += sizeof(header) + header.length;
		size -= sizeof(header) + header.length;
	}
	return 0;
}
