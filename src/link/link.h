/*-------------------------------------------------------------------------
 *
 * link.h
 *	  The messages between the engine and its gateway.
 *
 * The engine (a PostgreSQL background worker) and the gateway (a plain
 * process that owns the client sockets) are joined by one Unix stream socket
 * pair.  Everything that they say to each other is written down here; both
 * include this header and nothing else of each other.
 *
 * A message is a LinkHeader followed by "length" bytes of body.  Numbers are
 * in host byte order (both ends run on one machine) and unaligned.  A string
 * is a uint32 length and that many bytes, not terminated; the length
 * LINK_NULL stands for "absent".  The receiver checks every length: a body
 * that is too short, or has bytes left over, is malformed, and a malformed
 * message ends the link.
 *
 * The order of messages is the order of effects: an event that follows a
 * LINK_JOIN_REPLY belongs to the subscription that it confirmed.
 *
 * Channel and group numbers are never used twice in the life of a link, so
 * that a message which crosses a leave cannot reach somebody else.
 *
 * These functions take and return plain memory: they know neither palloc nor
 * the event loop, and build without a server for tests and fuzzers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_LINK_H
#define RTSYNC_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINK_VERSION 1

/* The descriptors that the engine leaves open in the gateway it starts */
#define LINK_FD 3				/* this socket pair's gateway end */
#define LINK_LISTEN_FD 4		/* the first listening socket, others follow */

/*
 * Bodies larger than this are malformed.  With several gateways those that are
 * relayed may have so much beside a payload of the largest size allowed.
 */
#define LINK_MAX_TO_ENGINE (1024 * 1024)
#define LINK_MAX_TO_GATEWAY (256 * 1024 * 1024)

/*
 * The numbers that a gateway gives to channels and connections begin with its
 * own, which is the setting "gateway", among those of "gateways".
 */
#define LINK_NUMBER_SHIFT 48
#define LINK_TO_ALL UINT32_MAX

/* A string's length that says that there is no string. */
#define LINK_NULL UINT32_MAX

typedef struct LinkHeader
{
	uint32_t	length;			/* of the body, in bytes */
	uint32_t	type;			/* a LinkType */
} LinkHeader;

typedef enum LinkType
{
	/*--------------------- engine to gateway ----------------------------*/

	/*
	 * The first message.  u32 LINK_VERSION, u32 number of listening sockets
	 * from LINK_LISTEN_FD on.
	 */
	LINK_HELLO = 1,

	/*
	 * Settings, sent after LINK_HELLO and again when they change.  u32 n, n
	 * times (string name, string value).  The names are those of the GUCs
	 * without "rtsync."; sizes are in bytes, times in milliseconds.  Unknown
	 * names are ignored.
	 */
	LINK_CONFIG,

	/*
	 * Answer to LINK_AUTH.  u64 connection, u32 HTTP status (200: accepted,
	 * anything else is the status to refuse the handshake with), string error
	 * text (absent when accepted), i64 expiry of the token in seconds of the
	 * Unix epoch (0: never), u64 what LINK_REVOKED calls it (0: it will not).
	 */
	LINK_AUTH_REPLY,

	/*
	 * Answer to LINK_JOIN.  u64 channel, u8 ok, u8 LinkRights, string text,
	 * then the bindings as in LINK_BINDINGS (none when refused).  The text is
	 * the reply's "reason" when refused; else, if there is one, JSON for the
	 * reply's "rtsync".  Events may follow at once.
	 */
	LINK_JOIN_REPLY,

	/*
	 * The groups of a channel's bindings changed: a new token, a pause, or
	 * its end.  u64 channel, u32 n, n times (u32 id, u32 group), in the order
	 * of the join.  Equal bindings have equal ids.  The id is what the client
	 * is told (never 0); group 0 means that the binding receives nothing (for
	 * a lasting reason, which follows as LINK_SYSTEM, or while it is paused).
	 */
	LINK_BINDINGS,

	/*
	 * One change for all members of the groups named.  u64 epoch, u64 commit
	 * LSN, u32 number within the transaction (the cursor), u32 n, n times u32
	 * group, string data: the JSON text of the message's "data" object, u32
	 * n, n times u64 channel: these are members to whom another form of the
	 * same change follows, and so have the cursor of the number before.
	 */
	LINK_EVENT,

	/*
	 * A "system" message for one channel.  u64 channel, string extension,
	 * string status, string message, u8 LinkThen.
	 */
	LINK_SYSTEM,

	/* The engine stops: tell the clients, then exit.  u32 LinkShutdown. */
	LINK_SHUTDOWN,

	/* What a joined channel may do has changed.  u64 channel, u8 LinkRights. */
	LINK_RIGHTS,

	/*
	 * A broadcast from the database, for the public or the private channels
	 * of a topic.  u8 private, string topic (without "realtime:"), string
	 * event, u8 encoding (0 raw, 1 JSON), string payload, string id (absent:
	 * it has none).
	 */
	LINK_BROADCAST,

	/*
	 * Answer to LINK_REST, or to LINK_REST_PERSIST.  u64 request, u32 HTTP
	 * status (200, 401: the token is not valid, 403, 500; 422: the message is
	 * not one that can be stored, 503: it cannot be stored now), u8
	 * LinkRights (0 if it was LINK_REST_PERSIST).
	 */
	LINK_REST_REPLY,

	/*
	 * A stored broadcast for one channel that asked for some; these come
	 * between its LINK_JOIN_REPLY and anything else for it, the oldest first,
	 * at most LINK_MAX_REPLAY.  It may come as LINK_BROADCAST too, and goes
	 * to the client once.  u64 channel, string event, u8 encoding (0 raw, 1
	 * JSON), string payload, string id.
	 */
	LINK_REPLAY,

	/* Answer to LINK_HEARTBEAT.  u64 number. */
	LINK_HEARTBEAT_REPLY,

	/*
	 * Rows of a snapshot, each for all members of the groups named.  u32 n, n
	 * times u32 group, u32 size, string before, string behind, u32 n, n times
	 * string row: "before", the row and "behind" in a row are the JSON text
	 * of a message's "data" object.  "size" is about what the messages will
	 * have; the gateway answers it with LINK_ROWS_TAKEN.
	 */
	LINK_ROWS,

	/*
	 * Close the connections whose LINK_AUTH_REPLY had this number: what they
	 * came with has been revoked.  u64 number, u8 whether also those that
	 * have channels left (the API key is gone; else the key that the token is
	 * signed with, and channels may have another token).
	 */
	LINK_REVOKED,

	/*
	 * What a channel that wants cursors may see now, as a number that ends
	 * the cursors of the events that follow; 0: it cannot be said, and they
	 * end without.  u64 channel, u64 number.
	 */
	LINK_ACCESS,

	/*
	 * What was sent of a transaction to the members of these groups is all
	 * that they get of it: for those that want cursors.  u64 epoch, u64
	 * commit LSN, u32 number behind its changes (the cursor), u32 n, n times
	 * u32 group.
	 */
	LINK_TRANSACTION_END,

	/*
	 * How the engine is, about once a second: the gateway answers those who
	 * ask with what it was told last.  u8 ready (it serves clients), string
	 * why not (absent if it is), string its metrics in Prometheus' text
	 * format.
	 */
	LINK_MONITOR = 50,

	/*
	 * The changes of a transaction were sent, if somebody got any.  u64
	 * commit time in microseconds of the Unix epoch.
	 */
	LINK_COMMITTED,

	/* Somebody wants to know who is connected.  u32 request. */
	LINK_LIST,

	/*
	 * Answer to LINK_PERSIST.  u64 channel, string ref and string id of that,
	 * string error (absent: it is stored).
	 */
	LINK_PERSIST_REPLY,

	/*
	 * A client of another gateway has sent a broadcast.  u8 private, string
	 * topic (without "realtime:"), then as in LINK_RELAY behind the channel.
	 * What a client said is handed on unread.
	 */
	LINK_RELAYED,

	/*
	 * What a member on another gateway says of itself.  u64 its channel, u8
	 * private, string topic (without "realtime:"), then as in LINK_TRACK
	 * behind the channel.
	 */
	LINK_TRACKED,

	/* That member is tracked no more.  u64 its channel. */
	LINK_UNTRACKED,

	/*
	 * The gateway of this number has ended: forget what LINK_TRACKED said of
	 * its members, and LINK_COUNTED.  u32 number.
	 */
	LINK_GATEWAY_ENDED,

	/*
	 * A gateway has begun: tell it with LINK_TRACK who is tracked here.  u32
	 * number.
	 */
	LINK_PRESENCE_WANTED,

	/* What another gateway counts.  u32 its number, string as LINK_COUNTS. */
	LINK_COUNTED,

	/*--------------------- gateway to engine ----------------------------*/

	/* The first message.  u32 LINK_VERSION. */
	LINK_READY = 101,

	/*
	 * A WebSocket handshake awaits its verdict.  u64 connection, string token
	 * (absent: the client sent none).
	 */
	LINK_AUTH,

	/*
	 * A channel is being joined.  u64 channel, string topic (without
	 * "realtime:"), u8 private, u8 wait (refuse the join when a binding
	 * cannot be served), u8 LinkReplay, u64 since when (milliseconds of the
	 * Unix epoch) and u32 how many at most to replay, string token, string
	 * options, u32 n, n times a binding: string event, string schema, string
	 * table, string filter (each may be absent), string options, u32 number
	 * of selected columns (LINK_NULL: none named), that many strings.
	 *
	 * Options are the JSON text of the key "rtsync" of the join's "config" or
	 * of the binding, absent without it.  What should be a string in the
	 * client's JSON but is not comes as its JSON text, a selected column that
	 * is none as an absent string.
	 */
	LINK_JOIN,

	/*
	 * A channel is gone, for whatever reason but a refused join; also after a
	 * LINK_SYSTEM that ended it.  u64 channel.
	 */
	LINK_LEAVE,

	/* A joined channel has a new token.  u64 channel, string token. */
	LINK_TOKEN,

	/*
	 * Now and then, for the views.  u32 connections, u32 channels, u64 frames
	 * sent, u64 bytes sent, u64 connections closed for being slow.
	 */
	LINK_STATS,

	/*
	 * Much waits to be sent to the client of this channel: send it no more
	 * events until LINK_CONTINUE, but keep its place.  u64 channel.
	 */
	LINK_PAUSE,

	/* The client has caught up: go on from there.  u64 channel. */
	LINK_CONTINUE,

	/*
	 * An HTTP request wants to send to a topic, or, with an empty one, to
	 * know whether its token is valid.  u64 request, u8 private, string topic
	 * (without "realtime:"), string token.
	 */
	LINK_REST,

	/*
	 * A client sent a heartbeat, having had the answer to the last one, on a
	 * connection with channels whose options name a session.  What the engine
	 * sends before its answer goes to the client before the client's.  u64
	 * number, u32 n, n times u64 channel.
	 */
	LINK_HEARTBEAT,

	/* A LINK_ROWS has been handled.  u32 its size. */
	LINK_ROWS_TAKEN,

	/*
	 * A private channel's client wants to have the broadcast stored that it
	 * sends.  u64 channel, string ref (JSON text, absent: it waits for no
	 * answer), string id (a UUID), string event, u8 encoding (0 raw, 1 JSON),
	 * string payload, u32 seconds for which to keep it (0: as long as
	 * others).
	 */
	LINK_PERSIST,

	/*
	 * An HTTP request wants to have the broadcast stored that it will send to
	 * a private topic.  u64 request, string topic (without "realtime:"),
	 * string token, then as in LINK_PERSIST: string id, string event, u8
	 * encoding, string payload, u32 seconds.
	 */
	LINK_REST_PERSIST = 120,

	/*
	 * Answer to LINK_LIST, in parts.  u32 request, u8 last, u32 n, n times a
	 * connection: u64 number, string address (4 or 16 bytes, absent if it has
	 * none), u32 port, u64 milliseconds that it exists, u64 milliseconds
	 * since it last sent something, u32 version of the protocol (1, 2), u8
	 * TLS, u8 paused, u64 frames sent, u64 bytes sent, u64 bytes that wait,
	 * u32 m, m times a channel: u64 channel, u64 changes sent.
	 */
	LINK_LISTED = 150,

	/*
	 * A channel's client has sent a broadcast, which clients of other
	 * gateways are to have.  The engine hands it on if the channel may send
	 * any.  u64 channel, string event, u8 encoding (0 raw, 1 JSON), string
	 * payload, string map (the whole of a message with other members than
	 * these, else absent), string id (absent: it is not stored).
	 */
	LINK_RELAY = 160,

	/*
	 * The same by HTTP.  u8 private, string topic (without "realtime:"),
	 * string token, then as in LINK_RELAY behind the channel.
	 */
	LINK_RELAY_REST,

	/*
	 * What a channel's client says of itself, for other gateways; handed on
	 * if the channel may.  u32 number of the gateway that it is for (or
	 * LINK_TO_ALL), u64 channel, string key (a JSON string), string meta (a
	 * JSON object), u64 its reference, u64 the reference of what it replaced
	 * (0: none).
	 */
	LINK_TRACK,

	/*
	 * It is tracked no more.  It is not either when the channel ends, or may
	 * not be any more.  u64 channel.
	 */
	LINK_UNTRACK,

	/*
	 * What this gateway counts for /metrics, about once a second if there are
	 * others.  string: a MetricsShare (src/gateway/metrics.h); the engine
	 * does not read it.
	 */
	LINK_COUNTS
} LinkType;

/* Does a join ask for broadcasts of the past? */
typedef enum LinkReplay
{
	LINK_REPLAY_NONE = 0,
	LINK_REPLAY_WANTED = 1,
	LINK_REPLAY_INVALID = 2		/* it does, but in a way that makes no sense */
} LinkReplay;

#define LINK_MAX_REPLAY 25

/* More bindings than this a channel cannot have. */
#define LINK_MAX_BINDINGS 1000

/* What a channel may do beyond receiving its changes; any sum of these */
typedef enum LinkRights
{
	LINK_MAY_READ_BROADCAST = 1,
	LINK_MAY_READ_PRESENCE = 2,
	LINK_MAY_WRITE_BROADCAST = 4,
	LINK_MAY_WRITE_PRESENCE = 8,
	LINK_MAY_ALL = 15,			/* of the public channels */
	LINK_MAY_PERSIST = 16
} LinkRights;

/* What a LINK_SYSTEM message is followed by on the channel */
typedef enum LinkThen
{
	LINK_THEN_NOTHING = 0,
	LINK_THEN_CLOSE = 1,		/* phx_close: the client does not rejoin */
	LINK_THEN_ERROR = 2			/* phx_error: the client rejoins */
} LinkThen;

/* Why the engine stops */
typedef enum LinkShutdown
{
	LINK_SHUTDOWN_SERVER = 0,	/* server stops or restarts: close 1012 */
	LINK_SHUTDOWN_EXTENSION = 1 /* extension dropped: close 1001 */
} LinkShutdown;

/*
 * A message under construction.  The memory belongs to the caller, who gives
 * a function that enlarges it: "grow" makes data hold at least "size" bytes
 * and returns false if it cannot, which makes the message "failed".
 */
typedef struct LinkWriter
{
	char	   *data;
	size_t		length;
	size_t		capacity;
	size_t		start;			/* where the current message's header is */
	bool		failed;
	bool		(*grow) (struct LinkWriter *writer, size_t size);
} LinkWriter;

/* A received body while it is being read; "failed" sticks. */
typedef struct LinkReader
{
	const char *next;
	const char *end;
	bool		failed;
} LinkReader;

/* A string within a received body: not terminated; data NULL if absent */
typedef struct LinkString
{
	const char *data;
	uint32_t	length;
} LinkString;

extern void link_begin(LinkWriter *writer, LinkType type);
extern bool link_end(LinkWriter *writer);
extern void link_put_u8(LinkWriter *writer, uint8_t value);
extern void link_put_u32(LinkWriter *writer, uint32_t value);
extern void link_put_u64(LinkWriter *writer, uint64_t value);
extern void link_put_bytes(LinkWriter *writer, const char *data, size_t length);
extern void link_put_string(LinkWriter *writer, const char *string);
extern void link_put_parts(LinkWriter *writer, const char *data, size_t length);

extern int	link_next_message(const char *data, size_t length, size_t max_body,
							  LinkHeader *header);
extern void link_read(LinkReader *reader, const char *body, size_t length);
extern uint8_t link_get_u8(LinkReader *reader);
extern uint32_t link_get_u32(LinkReader *reader);
extern uint64_t link_get_u64(LinkReader *reader);
extern LinkString link_get_string(LinkReader *reader);
extern uint32_t link_get_count(LinkReader *reader, size_t min_size);
extern bool link_finished(const LinkReader *reader);

#endif							/* RTSYNC_LINK_H */
