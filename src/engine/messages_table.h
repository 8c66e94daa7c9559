/*-------------------------------------------------------------------------
 *
 * messages_table.h
 *	  The table of messages: whose row security gives the rights on private
 *	  channels, and which holds what is to be replayed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_MESSAGES_TABLE_H
#define RTSYNC_MESSAGES_TABLE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "engine/message.h"

extern Oid	messages_table_oid(void);
extern void messages_table_store(const Message *message, const Interval *ttl);
extern void messages_table_store_in_engine(const Message *message,
										   const Interval *ttl);
extern List *messages_table_replay(const char *topic, uint64 since_ms,
								   uint32 limit);
extern void messages_table_maintain(void);

#endif							/* RTSYNC_MESSAGES_TABLE_H */
