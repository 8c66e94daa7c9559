/*-------------------------------------------------------------------------
 *
 * jsontext.c
 *	  JSON as text: checking it, and finding the parts of it.
 *
 * Pure.  What clients say to each other passes through unchanged, down to the
 * digits of numbers and the escapes in strings, so it is never parsed into
 * values; but it is checked, strictly (RFC 8259, valid UTF-8, a limit of
 * nesting), since a text that is no JSON would throw within the receivers.
 *
 * A value's slice has no blanks around it.  Nothing here recurses.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/jsontext.h"

#include <string.h>

/*---------------------------------- UTF-8 --------------------------------*/

static bool
is_continuation(const char *at, const char *end)
{
	return at < end && ((unsigned char) *at & 0xc0) == 0x80;
}

/*
 * The number of bytes of the character that begins here, which is not ASCII;
 * 0 if it is malformed (RFC 3629: no overlong form, no surrogate, nothing
 * beyond U+10FFFF).
 */
static size_t
utf8_length(const char *at, const char *end)
{
	unsigned char first = (unsigned char) at[0];
	unsigned char second;
	size_t		length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;

	if (first < 0xc2 || first > 0xf4)
		return 0;
	for (size_t i = 1; i < length; i++)
		if (!is_continuation(at + i, end))
			return 0;
	second = (unsigned char) at[1];
	if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
		(first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f))
		return 0;
	return length;
}

bool
utf8_is_valid(Slice text)
{
	size_t		length;

	for (size_t i = 0; i < text.length; i += length)
	{
		const char *at = text.data + i;

		length = (unsigned char) *at < 0x80 ? 1 :
			utf8_length(at, text.data + text.length);
		if (length == 0)
			return false;
	}
	return true;
}

/* Append a code point. */
static void
append_utf8(Buffer *buffer, uint32_t code)
{
	char		bytes[4];
	size_t		length;

	if (code < 0x80)
	{
		bytes[0] = (char) code;
		length = 1;
	}
	else if (code < 0x800)
	{
		bytes[0] = (char) (0xc0 | code >> 6);
		length = 2;
	}
	else if (code < 0x10000)
	{
		bytes[0] = (char) (0xe0 | code >> 12);
		length = 3;
	}
	else
	{
		bytes[0] = (char) (0xf0 | code >> 18);
		length = 4;
	}
	for (size_t i = 1; i < length; i++)
		bytes[i] = (char) (0x80 | (code >> (6 * (length - 1 - i)) & 0x3f));
	buffer_append(buffer, bytes, length);
}

/*--------------------------------- scanning ------------------------------*
 *
 * These functions take the place where something is to begin, and return the
 * place behind it, or NULL if it is malformed.
 */

static const char *
skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
		at++;
	return at;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* What follows a backslash */
static const char *
skip_escape(const char *at, const char *end)
{
	if (at == end)
		return NULL;
	if (*at != 'u')
		return *at != '\0' && strchr("\"\\/bfnrt", *at) != NULL ? at + 1 : NULL;
	at++;
	for (int i = 0; i < 4; i++, at++)
		if (at == end || hex_digit(*at) < 0)
			return NULL;
	return at;
}

/* The text of a string, and its closing quote */
static const char *
skip_string_rest(const char *at, const char *end)
{
	while (at != NULL && at < end)
	{
		unsigned char c = (unsigned char) *at;

		if (c == '"')
			return at + 1;
		if (c < 0x20)
			return NULL;
		if (c == '\\')
			at = skip_escape(at + 1, end);
		else if (c < 0x80)
			at++;
		else
		{
			size_t		length = utf8_length(at, end);

			at = length > 0 ? at + length : NULL;
		}
	}
	return NULL;
}

/* One digit at least */
static const char *
skip_digits(const char *at, const char *end)
{
	const char *start = at;

	while (at < end && *at >= '0' && *at <= '9')
		at++;
	return at > start ? at : NULL;
}

static const char *
skip_number(const char *at, const char *end)
{
	if (at < end && *at == '-')
		at++;
	if (at < end && *at == '0')
		at++;
	else
		at = skip_digits(at, end);
	if (at != NULL && at < end && *at == '.')
		at = skip_digits(at + 1, end);
	if (at != NULL && at < end && (*at == 'e' || *at == 'E'))
	{
		at++;
		if (at < end && (*at == '+' || *at == '-'))
			at++;
		at = skip_digits(at, end);
	}
	return at;
}

static const char *
skip_word(const char *at, const char *end, const char *word)
{
	size_t		length = strlen(word);

	if ((size_t) (end - at) < length || memcmp(at, word, length) != 0)
		return NULL;
	return at + length;
}

/* A value that is neither an array nor an object */
static const char *
skip_scalar(const char *at, const char *end)
{
	if (at == end)
		return NULL;
	switch (*at)
	{
		case '"':
			return skip_string_rest(at + 1, end);
		case 't':
			return skip_word(at, end, "true");
		case 'f':
			return skip_word(at, end, "false");
		case 'n':
			return skip_word(at, end, "null");
		default:
			return skip_number(at, end);
	}
}

/* A member's name, the colon, and the blanks around them */
static const char *
skip_key(const char *at, const char *end)
{
	at = skip_space(at, end);
	if (at == end || *at != '"')
		return NULL;
	at = skip_string_rest(at + 1, end);
	if (at == NULL)
		return NULL;
	at = skip_space(at, end);
	if (at == end || *at != ':')
		return NULL;
	return skip_space(at + 1, end);
}

/* The arrays and objects around a value, the outermost first: is it an object? */
typedef struct Nesting
{
	size_t		depth;
	bool		object[JSON_MAX_DEPTH];
} Nesting;

/*
 * Behind a value: close what it completes.  Returns where the next value
 * begins, or, with no depth left, the place behind the outermost one.
 */
static const char *
skip_closings(const char *at, const char *end, Nesting *nesting)
{
	while (nesting->depth > 0)
	{
		bool		object = nesting->object[nesting->depth - 1];

		at = skip_space(at, end);
		if (at == end)
			return NULL;
		if (*at == ',')
			return object ? skip_key(at + 1, end) : skip_space(at + 1, end);
		if (*at != (object ? '}' : ']'))
			return NULL;
		at++;
		nesting->depth--;
	}
	return at;
}

/* A value with all that it contains */
static const char *
skip_value(const char *at, const char *end)
{
	Nesting		nesting;

	nesting.depth = 0;
	do
	{
		if (at < end && (*at == '[' || *at == '{'))
		{
			bool		object = *at == '{';

			if (nesting.depth == JSON_MAX_DEPTH)
				return NULL;
			nesting.object[nesting.depth++] = object;
			at = skip_space(at + 1, end);
			if (at < end && *at == (object ? '}' : ']'))
				at = skip_closings(at, end, &nesting);
			else if (object)
				at = skip_key(at, end);
		}
		else
		{
			at = skip_scalar(at, end);
			if (at != NULL)
				at = skip_closings(at, end, &nesting);
		}
	} while (at != NULL && nesting.depth > 0);
	return at;
}

/*---------------------------------- values -------------------------------*/

/* Take the value at the front off the rest, and the blanks around it. */
static bool
take_value(Slice *rest, Slice *value)
{
	const char *end;
	const char *start;
	const char *behind;

	if (rest->length == 0)
		return false;
	end = rest->data + rest->length;
	start = skip_space(rest->data, end);
	behind = skip_value(start, end);
	if (behind == NULL)
		return false;
	*value = (Slice) {start, (size_t) (behind - start)};
	rest->data = skip_space(behind, end);
	rest->length = (size_t) (end - rest->data);
	return true;
}

/* Is the text one JSON value, of whatever type? */
bool
json_is_value(Slice text)
{
	Slice		value;

	return take_value(&text, &value) && text.length == 0;
}

/* Is the text a JSON object? */
bool
json_is_object_text(Slice text)
{
	Slice		value;

	return take_value(&text, &value) && text.length == 0 && value.data[0] == '{';
}

/*
 * Enter an array ('[') or object ('{').  False if the text does not begin
 * with one.  Only json_left says whether the whole of it is well formed.
 */
bool
json_enter(Slice text, char opening, JsonCursor *cursor)
{
	const char *end;
	const char *start;

	if (text.length == 0)
		return false;
	end = text.data + text.length;
	start = skip_space(text.data, end);
	if (start == end || *start != opening)
		return false;
	start = skip_space(start + 1, end);
	*cursor = (JsonCursor) {.rest = {start, (size_t) (end - start)},
		.closing = opening == '[' ? ']' : '}'};
	return true;
}

/*
 * Take the next value, and in an object its name, a JSON string.  False behind
 * the last one and where the text is malformed.
 */
bool
json_next(JsonCursor *cursor, Slice *key, Slice *value)
{
	Slice	   *rest = &cursor->rest;
	const char *end = rest->data + rest->length;
	const char *at;

	if (rest->length == 0 || cursor->finished)
		return false;
	if (*rest->data == cursor->closing)
	{
		cursor->finished = true;
		at = skip_space(rest->data + 1, end);
		*rest = (Slice) {at, (size_t) (end - at)};
		return false;
	}
	if (cursor->started)
	{
		if (*rest->data != ',')
			return false;
		at = skip_space(rest->data + 1, end);
		*rest = (Slice) {at, (size_t) (end - at)};
	}
	cursor->started = true;
	*key = (Slice) {NULL, 0};
	if (cursor->closing == '}')
	{
		at = skip_key(rest->data, end);
		if (at == NULL)
			return false;
		*key = (Slice) {rest->data,
			(size_t) (skip_string_rest(rest->data + 1, end) - rest->data)};
		*rest = (Slice) {at, (size_t) (end - at)};
	}
	return take_value(rest, value);
}

/* Has the array or object been read to its end, with nothing behind it? */
bool
json_left(const JsonCursor *cursor)
{
	return cursor->finished && cursor->rest.length == 0;
}

/*--------------------------------- strings -------------------------------*/

bool
json_is_string_text(Slice value)
{
	return value.length > 0 && value.data[0] == '"';
}

bool
json_is_integer_text(Slice value)
{
	for (size_t i = 0; i < value.length; i++)
		if ((value.data[i] < '0' || value.data[i] > '9') &&
			(i > 0 || value.data[i] != '-'))
			return false;
	return value.length > 0;
}

/* The number that four hexadecimal digits give */
static uint32_t
hex_number(const char *digits)
{
	uint32_t	number = 0;

	for (int i = 0; i < 4; i++)
		number = number * 16 + (uint32_t) hex_digit(digits[i]);
	return number;
}

/*
 * The code point of the escape \uXXXX whose digits begin here, which may take
 * a second escape.  *at moves behind it.  0 for NUL and for half a pair.
 */
static uint32_t
read_unicode_escape(const char **at, const char *end)
{
	uint32_t	code = hex_number(*at);
	uint32_t	low;

	*at += 4;
	if (code < 0xd800 || code > 0xdfff)
		return code;
	if (code > 0xdbff || end - *at < 6 || (*at)[0] != '\\' || (*at)[1] != 'u')
		return 0;
	low = hex_number(*at + 2);
	if (low < 0xdc00 || low > 0xdfff)
		return 0;
	*at += 6;
	return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
}

/*
 * Append what a JSON string, as json_next gives it, says.  False if that
 * cannot be a name: it contains NUL or half of a surrogate pair.  The result
 * is never longer than the string.
 */
bool
json_unquote(Slice string, Buffer *text)
{
	static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
	const char *at = string.data + 1;
	const char *end = string.data + string.length - 1;

	while (at < end)
	{
		const char *backslash = memchr(at, '\\', (size_t) (end - at));
		const char *plain_end = backslash != NULL ? backslash : end;
		uint32_t	code;

		buffer_append(text, at, (size_t) (plain_end - at));
		if (backslash == NULL)
			break;
		at = backslash + 2;
		if (backslash[1] != 'u')
		{
			const char *pair = escapes;

			while (*pair != backslash[1])
				pair += 2;
			buffer_append(text, pair + 1, 1);
			continue;
		}
		code = read_unicode_escape(&at, end);
		if (code == 0)
			return false;
		append_utf8(text, code);
	}
	return true;
}

/* Does the JSON string, as json_next gives it, say this? */
bool
json_string_equals(Slice string, const char *text)
{
	size_t		length = strlen(text);
	Buffer		unquoted = {0};
	bool		equal;

	if (memchr(string.data, '\\', string.length) == NULL)
		return string.length == length + 2 &&
			memcmp(string.data + 1, text, length) == 0;
	equal = json_unquote(string, &unquoted) &&
		slice_equals(buffer_slice(&unquoted), text);
	buffer_release(&unquoted);
	return equal;
}
