/*-------------------------------------------------------------------------
 *
 * channel.h
 *	  Channels: topics that connections have joined.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_CHANNEL_H
#define GATEWAY_CHANNEL_H

#include "gateway/list.h"
#include "gateway/phoenix.h"
#include "gateway/rate.h"
#include "gateway/table.h"
#include "gateway/topic.h"
#include "link/link.h"

struct Connection;
struct Channel;
struct Meta;

/* One entry of a channel's postgres_changes */
typedef struct Binding
{
	struct Channel *channel;
	uint32_t	id;				/* what the client is told */
	uint32_t	group;			/* 0: receives nothing */
	uint32_t	position;		/* among the group's members */
	uint64_t	hit_by;			/* the last change for it */
} Binding;

/*
 * Until "joined" the engine has not answered: join_request is the ref to reply
 * to, and entry_texts what to reply with.  From then on it is in a room.
 */
typedef struct Channel
{
	/* what each change needs, close together */
	uint64_t	hit_by;			/* the last change for any of its bindings */
	struct Connection *connection;
	Topic	   *topic;
	Binding    *bindings;
	uint32_t	n_bindings;
	bool		wants_cursor;	/* with each change */
	uint64_t	awaits;			/* this one comes in another form, too */
	uint64_t	access;			/* ends the cursor; 0: it ends without */
	uint64_t	changes_sent;

	TableNode	by_id;
	TableNode	by_topic;		/* and connection */
	ListLink	link;			/* in the connection's channels */
	uint64_t	id;				/* on the link; never used again */
	char	   *join_ref;		/* JSON text, as are the other two */
	char	   *join_request;
	char	   *replaced_join_ref;	/* of the instance that this one replaces */
	uint64_t	token_hash;
	bool		joined;
	bool		has_session;	/* the engine remembers how far it got */
	bool		paused;			/* LINK_PAUSE was sent, LINK_CONTINUE not yet */
	bool		is_private;
	bool		broadcast_ack;
	bool		broadcast_self;
	bool		replication_ready;	/* is to be told, when it is joined */
	bool		wants_replay;	/* of past broadcasts, when it is joined */
	bool		presence;		/* wants to know who is there */
	uint8_t		rights;			/* a sum of LinkRights */
	uint64_t	missed;			/* kept broadcasts up to this one were sent
								 * before it joined; 0: none */
	Room	   *room;
	uint32_t	room_position;	/* among its members */
	Slice		presence_key;	/* a JSON string; data NULL: not needed yet */
	struct Meta *meta;			/* how it is tracked, or NULL */
	Rate		presence_calls;
	Slice	   *replayed;		/* ids of broadcasts that it got as past ones */
	uint32_t	n_replayed;
	char	  **entry_texts;
} Channel;

typedef struct Channels
{
	Table		by_id;
	Table		by_topic;
	uint64_t	last_id;
} Channels;

/* From the client */
extern void channel_message(struct Connection *connection,
							const PhoenixMessage *message);
extern void channels_leave(struct Connection *connection);
extern void channels_reject(struct Connection *connection, Slice text);

/* When the connection's queue has grown long, or short again */
extern void channels_pause(struct Connection *connection);
extern void channels_continue(struct Connection *connection);

/* From the engine; false means that the message was malformed */
extern bool channel_joined(uint64_t id, uint8_t rights, Slice rtsync,
						   LinkReader *bindings);
extern bool channel_rebound(uint64_t id, LinkReader *bindings);
extern void channel_refused(uint64_t id, Slice reason);
extern void channels_heartbeat_answered(uint64_t number);
extern void channel_set_rights(uint64_t id, uint8_t rights);
extern void channel_set_awaiting(uint64_t id, uint64_t change);
extern void channel_set_access(uint64_t id, uint64_t access);
extern bool channel_replay(uint64_t id, Slice message_id,
						   const PhoenixBroadcast *broadcast);
extern void channel_persisted(uint64_t id, Slice ref, Slice message_id,
							  Slice error);
extern void channel_system(uint64_t id, Slice extension, Slice status,
						   Slice text, LinkThen then);

#endif							/* GATEWAY_CHANNEL_H */
