/*-------------------------------------------------------------------------
 *
 * broadcast.h
 *	  Messages from one to all others of a channel.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_BROADCAST_H
#define GATEWAY_BROADCAST_H

#include "gateway/phoenix.h"
#include "gateway/topic.h"

struct Channel;

/* What becomes of a message that a member sends */
typedef enum PushResult
{
	PUSH_SENT,
	PUSH_REFUSED,
	PUSH_STORED_LATER			/* sent; the engine's answer comes later */
} PushResult;

extern PushResult broadcast_push(struct Channel *channel,
								 const PhoenixMessage *message, Slice *response);
extern void broadcast_joined(struct Channel *channel);
extern void broadcast_stored(Slice id);
extern bool broadcast_replay(struct Channel *channel, Slice id,
							 const PhoenixBroadcast *broadcast);
extern void broadcast_forget_replayed(struct Channel *channel);
extern void broadcast_send(bool is_private, Slice sub_topic,
						   const PhoenixBroadcast *broadcast);
extern void broadcast_send_rest(bool is_private, Slice sub_topic, Slice token,
								const PhoenixBroadcast *broadcast);
extern void broadcast_relayed(bool is_private, Slice sub_topic,
							  const PhoenixBroadcast *broadcast);

#endif							/* GATEWAY_BROADCAST_H */
