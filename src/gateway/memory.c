/*-------------------------------------------------------------------------
 *
 * memory.c
 *	  Allocation that cannot fail, byte buffers, and slices of them.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static void *
checked(void *memory)
{
	static const char message[] = "FATAL:  gateway: out of memory\n";

	if (memory == NULL)
	{
		if (write(STDERR_FILENO, message, sizeof(message) - 1) < 0)
			_exit(2);
		_exit(1);
	}
	return memory;
}

void *
allocate(size_t size)
{
	return checked(malloc(size > 0 ? size : 1));
}

void *
allocate_zero(size_t size)
{
	return checked(calloc(1, size > 0 ? size : 1));
}

void *
reallocate(void *old, size_t size)
{
	return checked(realloc(old, size > 0 ? size : 1));
}

/* A terminated copy, which the caller frees. */
char *
copy_bytes(const char *data, size_t length)
{
	char	   *copy = allocate(length + 1);

	if (length > 0)
		memcpy(copy, data, length);
	copy[length] = '\0';
	return copy;
}

Slice
slice_of(const char *string)
{
	return (Slice) {string, strlen(string)};
}

bool
slice_equals(Slice slice, const char *string)
{
	size_t		length = strlen(string);

	return slice.length == length &&
		(length == 0 || memcmp(slice.data, string, length) == 0);
}

bool
slice_equals_nocase(Slice slice, const char *string)
{
	size_t		length = strlen(string);

	return slice.length == length &&
		(length == 0 || strncasecmp(slice.data, string, length) == 0);
}

/* Make room for "more" bytes behind what the buffer holds. */
void
buffer_reserve(Buffer *buffer, size_t more)
{
	size_t		needed = buffer->length + more;
	size_t		capacity = buffer->capacity;

	if (needed <= capacity)
		return;
	capacity = capacity < 64 ? 64 : capacity * 2;
	if (capacity < needed)
		capacity = needed;
	buffer->data = reallocate(buffer->data, capacity);
	buffer->capacity = capacity;
}

void
buffer_append(Buffer *buffer, const char *data, size_t length)
{
	if (length == 0)
		return;
	buffer_reserve(buffer, length);
	memcpy(buffer->data + buffer->length, data, length);
	buffer->length += length;
}

void
buffer_append_string(Buffer *buffer, const char *string)
{
	buffer_append(buffer, string, strlen(string));
}

void
buffer_append_slice(Buffer *buffer, Slice slice)
{
	buffer_append(buffer, slice.data, slice.length);
}

void
buffer_append_number(Buffer *buffer, uint64_t number)
{
	char		digits[24];
	int			length = snprintf(digits, sizeof(digits), "%llu",
								  (unsigned long long) number);

	buffer_append(buffer, digits, (size_t) length);
}

/* Append text, which must be valid UTF-8, as a JSON string with its quotes. */
void
buffer_append_json_string(Buffer *buffer, Slice text)
{
	size_t		done = 0;

	buffer_append(buffer, "\"", 1);
	for (size_t i = 0; i < text.length; i++)
	{
		unsigned char c = (unsigned char) text.data[i];
		char		escape[8];

		if (c >= 0x20 && c != '"' && c != '\\')
			continue;
		buffer_append(buffer, text.data + done, i - done);
		if (c == '"' || c == '\\')
			snprintf(escape, sizeof(escape), "\\%c", c);
		else
			snprintf(escape, sizeof(escape), "\\u%04x", c);
		buffer_append_string(buffer, escape);
		done = i + 1;
	}
	if (text.length > done)
		buffer_append(buffer, text.data + done, text.length - done);
	buffer_append(buffer, "\"", 1);
}

void
buffer_release(Buffer *buffer)
{
	free(buffer->data);
	*buffer = (Buffer) {0};
}

Slice
buffer_slice(const Buffer *buffer)
{
	return (Slice) {buffer->data, buffer->length};
}
