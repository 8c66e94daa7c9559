/*-------------------------------------------------------------------------
 *
 * connection.h
 *	  WebSocket connections: what they receive, queue, and how they end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_CONNECTION_H
#define GATEWAY_CONNECTION_H

#include <uv.h>

#include "gateway/address.h"
#include "gateway/peer.h"
#include "gateway/frame.h"
#include "gateway/list.h"
#include "gateway/memory.h"
#include "gateway/phoenix.h"
#include "gateway/rate.h"

struct Tls;
struct lws;

/*
 * A connection lives from its admission until the end of the turn in which
 * the library let go of it (wsi is NULL from then on).  Once close_code is
 * set it receives and sends no more messages, and has no channels.
 */
typedef struct Connection
{
	struct lws *wsi;
	uint64_t	number;			/* never used again */
	uint64_t	opened_at;		/* ms */
	PhoenixVersion version;
	uint16_t	close_code;		/* 0 while open */
	bool		established;
	bool		closes_politely;	/* waits for the client's Close frame */
	const char *close_reason;	/* a literal */

	struct Tls *tls;			/* NULL: it speaks none */
	PeerAddress peer;
	Address    *address;		/* where it is counted, or NULL */
	Slice		token;			/* of the handshake; ours to free */
	uint64_t	credential;		/* what LINK_REVOKED calls it */
	Slice		session;		/* that its channels are part of, or empty; likewise */
	char	   *heartbeat;		/* ref, as JSON text, of the one that waits for
								 * the engine, or NULL */
	uint64_t	heartbeat_number;	/* by which the engine knows it */

	/* Inbound: the message that is being received in pieces */
	Buffer		message;
	uint64_t	active_at;		/* when something was received, ms */
	Rate		messages;
	Rate		joins;

	/* Outbound: a ring of references to frames; what has left it */
	Frame	  **queue;
	uint32_t	queue_head;
	uint32_t	queue_count;
	uint32_t	queue_capacity;
	size_t		queued_bytes;
	size_t		unsent_bytes;	/* at most this much of the last write waits */
	uint64_t	blocked_at;		/* when the socket last took something, ms */
	uint64_t	acknowledged;	/* bytes that the client had then, at least */
	bool		paused;			/* its channels are */
	uint64_t	frames_sent;
	uint64_t	bytes_sent;

	/* What others attach */
	List		channels;
	uint32_t	n_channels;
	uint64_t	no_channel_since;	/* ms */
	List		held_back;		/* refusals, see brake.c */
	size_t		held_back_bytes;
	size_t		presence_bytes; /* of what its channels say about themselves */

	/* Membership in the lists of Connections */
	ListLink	all_link;
	ListLink	activity_link;
	ListLink	no_channel_link;
	ListLink	dirty_link;
	ListLink	blocked_link;
	ListLink	paused_link;
	ListLink	heartbeat_link;
	ListLink	end_link;
} Connection;

typedef struct Connections
{
	List		all;			/* the oldest first */
	uint64_t	last_number;
	List		by_activity;	/* all, the longest silent first */
	List		no_channel;		/* without one, the longest first */
	List		dirty;			/* with frames to be sent this turn */
	List		blocked;		/* with frames that wait for the socket */
	List		paused;			/* whose channels are paused */
	List		heartbeats;		/* whose heartbeat waits for the engine, in
								 * the order of their numbers */
	uint64_t	last_heartbeat;
	List		closing;		/* to be closed at the end of this turn */
	List		dead;			/* to be freed at the end of this turn */
	Connection *receiving;		/* who sent us something last this turn */
	uint32_t	turns_held;		/* in a row, in which nothing was flushed */
	uv_idle_t	holding;		/* active then: the loop must not wait */
	uint32_t	polite_closes;	/* how many wait for the client's Close frame */
} Connections;

extern void connections_init(void);
extern void connections_end_turn(void);
extern void connections_check_timeouts(void);
extern void connections_check_paused(void);
extern void connections_close_all(uint16_t code, uint32_t spread);
extern void connections_revoke(uint64_t credential, bool all);
extern Connection *connections_next(const Connection *connection);
extern int	connection_socket(const Connection *connection);

extern bool connection_open(int fd, struct Tls *tls, const PeerAddress *peer,
							Address *address, Slice key, Slice token,
							Slice session, uint64_t credential,
							PhoenixVersion version);
extern void connection_hold_heartbeat(Connection *connection, const char *ref);
extern Connection *connections_release_heartbeat(uint64_t number);
extern void connection_count_channels(Connection *connection, int change);
extern void connection_send(Connection *connection, Frame *frame);
extern void connection_close(Connection *connection, uint16_t code,
							 const char *reason);

/* Called by websocket.c and tls.c */
extern void connection_established(Connection *connection, struct lws *wsi);
extern void connection_receive(Connection *connection, const char *data,
							   size_t length);
extern bool connection_writable(Connection *connection);
extern void connection_gone(Connection *connection);

#endif							/* GATEWAY_CONNECTION_H */
