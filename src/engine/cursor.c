/*-------------------------------------------------------------------------
 *
 * cursor.c
 *	  The place of an event in the history of a database, as text.
 *
 * A cursor is "EPOCH:LSN:SEQ", all in hexadecimal.  Clients keep it as it is.
 * The gateway writes it too, from what LINK_EVENT says.
 *
 * Pure: takes bytes, gives a struct.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <inttypes.h>

#include "engine/cursor.h"

/*
 * Write a cursor into buf, which has CURSOR_SIZE bytes; with a number for what
 * the client may see there, unless that is 0.
 */
void
cursor_format(const Cursor *cursor, uint64 access, char *buf)
{
	int			length;

	length = snprintf(buf, CURSOR_SIZE,
					  "%" PRIx64 ":%" PRIx64 ":%x",
					  cursor->epoch, cursor->lsn, cursor->seq);
	if (access != 0)
		snprintf(buf + length, CURSOR_SIZE - length, ":%" PRIx64, access);
}

/* Read 1 to max hexadecimal digits. */
static bool
parse_hex(const char **text, int max, uint64 *value)
{
	int			digits = 0;

	*value = 0;
	for (;; (*text)++, digits++)
	{
		char		c = **text;

		if (c >= '0' && c <= '9')
			*value = *value << 4 | (uint64) (c - '0');
		else if (c >= 'a' && c <= 'f')
			*value = *value << 4 | (uint64) (c - 'a' + 10);
		else
			break;
		if (digits == max)
			return false;
	}
	return digits > 0;
}

/* Read a cursor, and that number, or 0; false if the text is none. */
bool
cursor_parse(const char *text, Cursor *cursor, uint64 *access)
{
	uint64		seq;

	*access = 0;
	if (!parse_hex(&text, 16, &cursor->epoch) || *text++ != ':' ||
		!parse_hex(&text, 16, &cursor->lsn) || *text++ != ':' ||
		!parse_hex(&text, 8, &seq))
		return false;
	if (*text == ':')
	{
		text++;
		if (!parse_hex(&text, 16, access))
			return false;
	}
	cursor->seq = (uint32) seq;
	return *text == '\0';
}
