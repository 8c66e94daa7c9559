/*-------------------------------------------------------------------------
 *
 * json.c
 *	  Fuzzing the scanner of JSON text, beside a parser.
 *
 *-------------------------------------------------------------------------
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/jsontext.h"

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool condition)
{
	if (!condition)
		abort();
}

/* Visit the parts of a value; returns how many there are. */
static size_t
visit(Slice text)
{
	JsonCursor	cursor;
	Slice		key;
	Slice		value;
	size_t		n = 0;

	if (!json_enter(text, '[', &cursor) && !json_enter(text, '{', &cursor))
		return 0;
	while (json_next(&cursor, &key, &value))
	{
		Buffer		name = {0};

		require(value.data >= text.data && value.length > 0 &&
				value.data + value.length <= text.data + text.length);
		require(json_is_value(value));
		if (key.data != NULL)
		{
			require(json_is_string_text(key) && json_is_value(key));
			if (json_unquote(key, &name))
				require(name.length <= key.length && utf8_is_valid(buffer_slice(&name)));
			buffer_release(&name);
		}
		n++;
	}
	require(json_left(&cursor) == json_is_value(text));
	return n;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Slice		text = {(const char *) data, size};
	bool		valid = json_is_value(text);
	size_t		n = visit(text);
	json_error_t error;
	json_t	   *value = NULL;

	if (size > 0)
		value = json_loadb(text.data, text.length,
						   JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
	if (value != NULL)
	{
		/* jansson allows for deeper nesting, and takes NUL for the end. */
		require(valid || size > 2 * JSON_MAX_DEPTH ||
				memchr(data, '\0', size) != NULL);
		if (valid && json_is_array(value))
			require(json_array_size(value) == n);
		if (valid && json_is_object(value))
			require(json_object_size(value) <= n);
	}
	/* It has no numbers as large as they come, and no half surrogate pairs. */
	else if (valid && json_error_code(&error) != json_error_numeric_overflow)
		require(memmem(text.data, text.length, "\\u", 2) != NULL);
	json_decref(value);
	return 0;
}
