/*-------------------------------------------------------------------------
 *
 * uuid.h
 *	  Random UUIDs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_UUID_H
#define GATEWAY_UUID_H

#define UUID_TEXT_SIZE 37		/* with the terminating zero */

extern void uuid_make(char *text);

#endif							/* GATEWAY_UUID_H */
