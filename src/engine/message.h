/*-------------------------------------------------------------------------
 *
 * message.h
 *	  Broadcasts from SQL as logical messages in the WAL: their form, and the
 *	  proof that they are ours.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_MESSAGE_H
#define RTSYNC_MESSAGE_H

#include "postgres.h"

#include "access/transam.h"
#include "access/xlogdefs.h"
#include "utils/uuid.h"

/* The prefix of our logical messages */
#define MESSAGE_PREFIX "rtsync"

/* In UTF-8; bounded by the length bytes of the protocol's frames */
#define MESSAGE_MAX_TOPIC (255 - 9) /* "realtime:" goes before it */
#define MESSAGE_MAX_EVENT 255

/* A part of a message: not terminated */
typedef struct MessagePart
{
	const char *data;
	uint32		length;
} MessagePart;

/* A broadcast; the parts are in UTF-8, but for a payload that is not JSON */
typedef struct Message
{
	pg_uuid_t	id;
	bool		private;
	bool		json;			/* the payload is JSON text, else any bytes */
	MessagePart topic;			/* without "realtime:" */
	MessagePart event;
	MessagePart payload;
} Message;

/* Writing, in any backend */
extern void message_emit(const Message *message, bool transactional);

extern char *message_id_text(const Message *message);

/* Reading, in the engine */
extern bool message_load_key(void);
extern bool message_genuine(const char *data, Size size, bool transactional,
							TransactionId xid, XLogRecPtr lsn);
extern void message_read(const char *data, Size size, Message *message);

#endif							/* RTSYNC_MESSAGE_H */
