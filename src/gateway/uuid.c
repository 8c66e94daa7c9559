/*-------------------------------------------------------------------------
 *
 * uuid.c
 *	  Random UUIDs.
 *
 * Pure.  Called by presence.c for keys and by broadcast.c for ids.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/uuid.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* Write a UUID of version 4 (RFC 9562) into text, of UUID_TEXT_SIZE bytes. */
void
uuid_make(char *text)
{
	unsigned char random[16];

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		memset(random, 0, sizeof(random));
	random[6] = (random[6] & 0x0f) | 0x40;
	random[8] = (random[8] & 0x3f) | 0x80;
	for (int i = 0; i < 16; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*text++ = '-';
		text += snprintf(text, 3, "%02x", random[i]);
	}
}
