/*-------------------------------------------------------------------------
 *
 * jsontext.h
 *	  JSON as text: checking it, and finding the parts of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_JSONTEXT_H
#define GATEWAY_JSONTEXT_H

#include "gateway/memory.h"

/* Values nested deeper are malformed. */
#define JSON_MAX_DEPTH 512

/* Where we are within an array or object */
typedef struct JsonCursor
{
	Slice		rest;
	char		closing;		/* ']' or '}' */
	bool		started;
	bool		finished;		/* the closing one was read */
} JsonCursor;

extern bool json_is_value(Slice text);
extern bool json_is_object_text(Slice text);
extern bool json_enter(Slice text, char opening, JsonCursor *cursor);
extern bool json_next(JsonCursor *cursor, Slice *key, Slice *value);
extern bool json_left(const JsonCursor *cursor);

extern bool json_is_string_text(Slice value);
extern bool json_is_integer_text(Slice value);
extern bool json_unquote(Slice string, Buffer *text);
extern bool json_string_equals(Slice string, const char *text);

extern bool utf8_is_valid(Slice text);

#endif							/* GATEWAY_JSONTEXT_H */
