/*-------------------------------------------------------------------------
 *
 * authorize.h
 *	  What may somebody do on a topic?  The row security of the table of
 *	  messages says it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_AUTHORIZE_H
#define RTSYNC_AUTHORIZE_H

#include "postgres.h"

#include "engine/message.h"
#include "engine/principal.h"

extern uint8 authorize_topic(const Principal *principal, const char *topic);
extern bool authorize_send(const Message *message, const char *topic,
						   const char *event, const char *extension);
extern uint64 authorize_generation(Oid roleid);

#endif							/* RTSYNC_AUTHORIZE_H */
