/*-------------------------------------------------------------------------
 *
 * link.c
 *	  Writing and reading the messages that link.h describes.
 *
 * Pure: takes bytes, gives bytes.  Used by the engine and by the gateway, and
 * fuzzed by itself in test/gateway.
 *
 *-------------------------------------------------------------------------
 */
#include "link.h"

#include <string.h>

/* Make room for "size" more bytes and return where they go, or NULL. */
static char *
reserve(LinkWriter *writer, size_t size)
{
	char	   *place;

	if (writer->failed)
		return NULL;
	if (size > SIZE_MAX - writer->length ||
		(writer->length + size > writer->capacity &&
		 !writer->grow(writer, writer->length + size)))
	{
		writer->failed = true;
		return NULL;
	}
	place = writer->data + writer->length;
	writer->length += size;
	return place;
}

static void
put(LinkWriter *writer, const void *value, size_t size)
{
	char	   *place = reserve(writer, size);

	if (place != NULL && size > 0)
		memcpy(place, value, size);
}

/*
 * Begin a message of the given type behind what the writer holds already.
 */
void
link_begin(LinkWriter *writer, LinkType type)
{
	LinkHeader	header = {0, type};

	writer->start = writer->length;
	put(writer, &header, sizeof(header));
}

/*
 * Finish the message that link_begin began.  Returns false, and removes the
 * unfinished message, if memory did not suffice or a body of that size cannot
 * be described; the writer can be used again in any case.
 */
bool
link_end(LinkWriter *writer)
{
	size_t		body = writer->length - writer->start - sizeof(LinkHeader);
	uint32_t	length = (uint32_t) body;

	if (writer->failed || body > LINK_MAX_TO_GATEWAY)
	{
		writer->length = writer->start;
		writer->failed = false;
		return false;
	}
	memcpy(writer->data + writer->start + offsetof(LinkHeader, length),
		   &length, sizeof(length));
	return true;
}

void
link_put_u8(LinkWriter *writer, uint8_t value)
{
	put(writer, &value, sizeof(value));
}

void
link_put_u32(LinkWriter *writer, uint32_t value)
{
	put(writer, &value, sizeof(value));
}

void
link_put_u64(LinkWriter *writer, uint64_t value)
{
	put(writer, &value, sizeof(value));
}

/* Put a string of known length; data NULL puts an absent string. */
void
link_put_bytes(LinkWriter *writer, const char *data, size_t length)
{
	if (data == NULL)
		link_put_u32(writer, LINK_NULL);
	else if (length >= LINK_NULL)
		writer->failed = true;
	else
	{
		link_put_u32(writer, (uint32_t) length);
		put(writer, data, length);
	}
}

/* Put a terminated string; NULL puts an absent string. */
void
link_put_string(LinkWriter *writer, const char *string)
{
	link_put_bytes(writer, string, string != NULL ? strlen(string) : 0);
}

/* Put parts of a body that have their form already. */
void
link_put_parts(LinkWriter *writer, const char *data, size_t length)
{
	put(writer, data, length);
}

/*
 * Look whether data begins with a whole message.
 *
 * Returns 1 and the header if so (the body follows it), 0 if more bytes must
 * come first, and -1 if the sender announces a body larger than max_body.
 */
int
link_next_message(const char *data, size_t length, size_t max_body,
				  LinkHeader *header)
{
	if (length < sizeof(LinkHeader))
		return 0;
	memcpy(header, data, sizeof(LinkHeader));
	if (header->length > max_body)
		return -1;
	return length - sizeof(LinkHeader) >= header->length ? 1 : 0;
}

/* Start reading a message's body. */
void
link_read(LinkReader *reader, const char *body, size_t length)
{
	reader->next = body;
	reader->end = body + length;
	reader->failed = false;
}

static void
get(LinkReader *reader, void *value, size_t size)
{
	if (reader->failed || (size_t) (reader->end - reader->next) < size)
	{
		reader->failed = true;
		memset(value, 0, size);
		return;
	}
	memcpy(value, reader->next, size);
	reader->next += size;
}

uint8_t
link_get_u8(LinkReader *reader)
{
	uint8_t		value;

	get(reader, &value, sizeof(value));
	return value;
}

uint32_t
link_get_u32(LinkReader *reader)
{
	uint32_t	value;

	get(reader, &value, sizeof(value));
	return value;
}

uint64_t
link_get_u64(LinkReader *reader)
{
	uint64_t	value;

	get(reader, &value, sizeof(value));
	return value;
}

/* Get a string: it points into the body and lives as long as that. */
LinkString
link_get_string(LinkReader *reader)
{
	LinkString	string = {NULL, 0};
	uint32_t	length = link_get_u32(reader);

	if (reader->failed || length == LINK_NULL)
		return string;
	if ((size_t) (reader->end - reader->next) < length)
	{
		reader->failed = true;
		return string;
	}
	string.data = reader->next;
	string.length = length;
	reader->next += length;
	return string;
}

/*
 * Get the number of elements that follow, each of at least min_size bytes.
 * Fails when the body cannot hold that many, so that the number can safely be
 * used to size memory.
 */
uint32_t
link_get_count(LinkReader *reader, size_t min_size)
{
	uint32_t	count = link_get_u32(reader);

	if (!reader->failed &&
		count > (size_t) (reader->end - reader->next) / min_size)
		reader->failed = true;
	return reader->failed ? 0 : count;
}

/* True if the body was read to its end and was well formed. */
bool
link_finished(const LinkReader *reader)
{
	return !reader->failed && reader->next == reader->end;
}
