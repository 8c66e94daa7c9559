/*-------------------------------------------------------------------------
 *
 * connection.c
 *	  WebSocket connections: what they receive, queue, and how they end.
 *
 * Sending.  connection_send takes a reference to a frame and puts the
 * connection on the dirty list; at the end of the turn each dirty connection
 * is flushed: what is queued goes to the library in as few writes as
 * possible, concatenated while it is small.  Whole frames only: the library
 * may put a pong between two writes.  What the socket does not take of a write
 * stays with the library, the rest with us, until the socket is writable.
 *
 * To a client that speaks TLS the writes go to tls.c instead of the library,
 * which knows nothing of it; everything else is the same.
 *
 * The library reads little at a time.  When a client has sent many messages
 * for many others, their frames are held until the rest of its messages was
 * read too, for HOLD_TURNS at most, so that they leave in one write.
 *
 * A client that does not read as fast as we send costs its own connection
 * time, and nobody anything else.  When HIGH_MARK of send_queue_size waits for
 * it, the engine is told to pause its channels, and to go on when no more than
 * LOW_MARK waits; what was under way meanwhile has room up to send_queue_size.
 * A client that has more than that waiting, or took nothing for send_timeout,
 * is closed.
 *
 * Closing.  connection_close may be called from anywhere.  It takes the
 * channels away at once; the rest happens at the end of the turn, because
 * the library must not free a socket within its own callback and would, told
 * to close in the midst of what it has read, take the rest for the start of a
 * frame; and callers must not lose the connection under their hands.  The library sends the
 * Close frame and waits for the client's.  Its list of such waits is sorted, so
 * when many connections are closing, and when it still holds unsent bytes, we
 * send a Close frame of our own and have it end the connection.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "gateway/gateway.h"
#include "gateway/log.h"
#include "gateway/socket.h"
#include "gateway/tls.h"

#define GATHER_SIZE 65536		/* of frames concatenated for one write */
#define WRITES_PER_TURN 16		/* for one connection */
#define HOLD_TURNS 16			/* in which frames wait for more */
#define HOLD_RECEIVERS 8		/* if they are for so many */
#define HIGH_MARK(size) ((size) / 4)	/* bytes waiting that pause channels */
#define LOW_MARK(size) ((size) / 16)	/* and that let them go on */
#define MAX_POLITE_CLOSES 256	/* that wait for the client's Close frame */

/* RFC 6455, section 7.4.1, and the IANA registry */
#define CLOSE_NORMAL 1000
#define CLOSE_POLICY_VIOLATION 1008
#define CLOSE_TOO_BIG 1009
#define CLOSE_INTERNAL_ERROR 1011
#define CLOSE_TRY_AGAIN_LATER 1013

static Connections *
connections(void)
{
	return &gateway.connections;
}

static uint64_t
now(void)
{
	return uv_now(gateway.loop);
}

void
connections_init(void)
{
	uv_idle_init(gateway.loop, &connections()->holding);
	list_init(&connections()->all);
	list_init(&connections()->by_activity);
	list_init(&connections()->no_channel);
	list_init(&connections()->dirty);
	list_init(&connections()->blocked);
	list_init(&connections()->paused);
	list_init(&connections()->heartbeats);
	list_init(&connections()->closing);
	list_init(&connections()->dead);
}

/*-------------------------------- opening -------------------------------*/

static void
free_connection(Connection *connection)
{
	tls_release(connection->tls);
	address_leave(connection->address);
	free((char *) connection->token.data);
	free((char *) connection->session.data);
	free(connection->heartbeat);
	free(connection->queue);
	buffer_release(&connection->message);
	free(connection);
}

/*
 * Open a WebSocket on a socket whose handshake was admitted.  Takes over the
 * socket with its TLS, if any, and the place where it is counted; returns false
 * if it had to be closed.
 */
bool
connection_open(int fd, Tls *tls, const PeerAddress *peer, Address *address,
				Slice key, Slice token, Slice session, uint64_t credential,
				PhoenixVersion version)
{
	Connection *connection = allocate_zero(sizeof(Connection));

	connection->version = version;
	connection->tls = tls;
	connection->peer = *peer;
	connection->address = address;
	connection->credential = credential;
	connection->token = (Slice) {copy_bytes(token.data, token.length), token.length};
	if (session.length > 0)
		connection->session = (Slice) {copy_bytes(session.data, session.length), session.length};
	list_init(&connection->channels);
	list_init(&connection->held_back);
	if (tls != NULL)
		tls_attach(tls, connection);
	if (websocket_adopt(connection, fd, key))
		return true;
	if (!connection->established)
		free_connection(connection);
	return false;
}

/* The library has sent the 101. */
void
connection_established(Connection *connection, struct lws *wsi)
{
	connection->wsi = wsi;
	connection->established = true;
	connection->number = gateway_unique(++connections()->last_number);
	connection->opened_at = connection->active_at = now();
	gateway.metrics.opened++;
	list_append(&connections()->all, &connection->all_link);
	list_append(&connections()->by_activity, &connection->activity_link);
	connection_count_channels(connection, 0);
	gateway.stats.connections++;
}

/* The connection has a channel more, or less. */
void
connection_count_channels(Connection *connection, int change)
{
	connection->n_channels += (uint32_t) change;
	list_remove(&connection->no_channel_link);
	if (connection->n_channels > 0)
		return;
	connection->no_channel_since = now();
	list_append(&connections()->no_channel, &connection->no_channel_link);
}

/* The connection after this one, or the first (NULL); NULL: there is none */
Connection *
connections_next(const Connection *connection)
{
	ListLink   *link = connection == NULL ? list_first(&connections()->all) :
		list_next(&connections()->all, &connection->all_link);

	return link != NULL ? LIST_OWNER(Connection, all_link, link) : NULL;
}

/* The socket that the client is connected to */
int
connection_socket(const Connection *connection)
{
	return connection->tls != NULL ? tls_fd(connection->tls) :
		lws_get_socket_fd(connection->wsi);
}

/*------------------------------ heartbeats ------------------------------*/

/* The answer to a heartbeat, whose ref this is, waits for the engine's. */
void
connection_hold_heartbeat(Connection *connection, const char *ref)
{
	connection->heartbeat = strdup(ref);
	connection->heartbeat_number = ++connections()->last_heartbeat;
	list_append(&connections()->heartbeats, &connection->heartbeat_link);
}

/*
 * The connection whose heartbeat has this number, or NULL if it is gone.  The
 * engine answers them in their order.
 */
Connection *
connections_release_heartbeat(uint64_t number)
{
	ListLink   *link = list_first(&connections()->heartbeats);
	Connection *connection;

	if (link == NULL)
		return NULL;
	connection = LIST_OWNER(Connection, heartbeat_link, link);
	if (connection->heartbeat_number != number)
		return NULL;
	list_remove(link);
	return connection;
}

/*-------------------------------- sending -------------------------------*/

static Frame *
queue_peek(const Connection *connection, uint32_t position)
{
	return connection->queue[(connection->queue_head + position) &
							 (connection->queue_capacity - 1)];
}

static void
queue_push(Connection *connection, Frame *frame)
{
	if (connection->queue_count == connection->queue_capacity)
	{
		uint32_t	capacity = connection->queue_capacity > 0 ?
			connection->queue_capacity * 2 : 4;
		Frame	  **queue = allocate(capacity * sizeof(Frame *));

		for (uint32_t i = 0; i < connection->queue_count; i++)
			queue[i] = queue_peek(connection, i);
		free(connection->queue);
		connection->queue = queue;
		connection->queue_capacity = capacity;
		connection->queue_head = 0;
	}
	connection->queue[(connection->queue_head + connection->queue_count) &
					  (connection->queue_capacity - 1)] = frame;
	connection->queue_count++;
	connection->queued_bytes += frame->length;
	gateway.metrics.queued_bytes += frame->length;
}

static void
queue_pop(Connection *connection)
{
	Frame	   *frame = queue_peek(connection, 0);

	connection->queue_head = (connection->queue_head + 1) &
		(connection->queue_capacity - 1);
	connection->queue_count--;
	connection->queued_bytes -= frame->length;
	gateway.metrics.queued_bytes -= frame->length;
	frame_release(frame);
	if (connection->queue_count == 0 && connection->queue_capacity > 64)
	{
		free(connection->queue);
		connection->queue = NULL;
		connection->queue_capacity = connection->queue_head = 0;
	}
}

static void
queue_clear(Connection *connection)
{
	while (connection->queue_count > 0)
		queue_pop(connection);
}

/*
 * Queue a frame for the client; takes its own reference.  It leaves at the end
 * of the turn.
 */
void
connection_send(Connection *connection, Frame *frame)
{
	if (connection->close_code != 0 || connection->wsi == NULL)
		return;
	queue_push(connection, frame_share(frame));
	if (!list_contains(&connection->dirty_link))
		list_append(&connections()->dirty, &connection->dirty_link);
}

/*
 * Concatenate the frames at the head of the queue.  Returns the bytes to write
 * and how many frames they are: a single frame is written from where it is.
 */
static Slice
gather(const Connection *connection, uint32_t *n_frames)
{
	static char gathered[GATHER_SIZE];
	Frame	   *first = queue_peek(connection, 0);
	size_t		length = 0;
	uint32_t	n = 0;

	*n_frames = 1;
	if (connection->queue_count == 1 ||
		first->length + queue_peek(connection, 1)->length > GATHER_SIZE)
		return (Slice) {(char *) first->data, first->length};

	while (n < connection->queue_count)
	{
		Frame	   *frame = queue_peek(connection, n);

		if (length + frame->length > GATHER_SIZE)
			break;
		memcpy(gathered + length, frame->data, frame->length);
		length += frame->length;
		n++;
	}
	*n_frames = n;
	return (Slice) {gathered, length};
}

/* Does a part of an earlier write still wait for the socket? */
static bool
is_blocked(Connection *connection)
{
	if (connection->tls != NULL)
	{
		connection->unsent_bytes = tls_unsent(connection->tls);
		return connection->unsent_bytes > 0;
	}
	if (lws_partial_buffered(connection->wsi))
		return true;
	connection->unsent_bytes = 0;
	return false;
}

/*
 * Write whole frames; what the socket does not take is kept behind it.
 * Returns false if the connection is broken.
 */
static bool
write_frames(Connection *connection, Slice data)
{
	connection->unsent_bytes = data.length;
	if (connection->tls != NULL)
		return tls_write(connection->tls, data.data, data.length);
	/* A raw write does not change the bytes, whatever its type says. */
	return lws_write(connection->wsi, (unsigned char *) data.data, data.length,
					 LWS_WRITE_RAW) >= 0;
}

/* Write once from the queue.  Returns false if the connection is broken. */
static bool
write_once(Connection *connection)
{
	uint32_t	n_frames;
	Slice		data = gather(connection, &n_frames);

	if (!write_frames(connection, data))
		return false;
	gateway.stats.frames_sent += n_frames;
	gateway.stats.bytes_sent += data.length;
	connection->frames_sent += n_frames;
	connection->bytes_sent += data.length;
	for (; n_frames > 0; n_frames--)
		queue_pop(connection);
	return true;
}

static void
close_as_slow(Connection *connection)
{
	gateway.stats.closed_slow++;
	log_client("closing the connection of %s: the client does not read fast enough",
			   peer_text(&connection->peer));
	connection_close(connection, CLOSE_TRY_AGAIN_LATER, "client too slow");
}

/*
 * What the client's machine has acknowledged.  What the library or tls.c holds of a
 * large frame moves without our knowing it; this tells.
 */
static uint64_t
acknowledged_bytes(const Connection *connection)
{
	return socket_acknowledged_bytes(connection_socket(connection));
}

/* What waits for the client, also of what was written */
static size_t
waiting_bytes(const Connection *connection)
{
	return connection->queued_bytes + connection->unsent_bytes;
}

/* Keep the account of a connection whose frames wait for the socket. */
static void
note_blocked(Connection *connection, bool progress)
{
	size_t		waiting = waiting_bytes(connection);
	size_t		limit = gateway.config.send_queue_size;

	if (!list_contains(&connection->blocked_link))
		metrics_blocked(&gateway.metrics, waiting);
	if (!list_contains(&connection->blocked_link))
		connection->acknowledged = acknowledged_bytes(connection);
	if (progress || !list_contains(&connection->blocked_link))
	{
		connection->blocked_at = now();
		list_remove(&connection->blocked_link);
		list_append(&connections()->blocked, &connection->blocked_link);
	}
	/*
	 * A single frame may be larger than the limit.  If the socket is writable
	 * now, it is not the client who is slow, but we who did not come round to
	 * it.
	 */
	if (waiting > limit && connection->queue_count > 0 &&
		(waiting / 2 > limit ||
		 !socket_is_writable(connection_socket(connection))))
		close_as_slow(connection);
}

/*
 * Pause the channels of a connection whose queue has grown long, or let them
 * go on.  While the engine does not read, both wait: it sends nothing then.
 */
static void
control_flow(Connection *connection)
{
	size_t		size = gateway.config.send_queue_size;
	size_t		waiting = waiting_bytes(connection);

	if (waiting <= LOW_MARK(size) ? !connection->paused :
		connection->paused || waiting <= HIGH_MARK(size))
		return;
	if (connection->close_code != 0 || engine_link_congested())
		return;
	connection->paused = !connection->paused;
	if (connection->paused)
	{
		list_append(&connections()->paused, &connection->paused_link);
		channels_pause(connection);
	}
	else
	{
		list_remove(&connection->paused_link);
		channels_continue(connection);
	}
}

/* Let those go on that could not be when the engine did not read. */
void
connections_check_paused(void)
{
	ListLink   *link = list_first(&connections()->paused);

	while (link != NULL)
	{
		Connection *connection = LIST_OWNER(Connection, paused_link, link);

		link = list_next(&connections()->paused, link);
		control_flow(connection);
	}
}

/*
 * Write what is queued, as far as the socket takes it.  Returns false if the
 * connection is broken.
 */
static bool
flush(Connection *connection)
{
	bool		progress = false;

	for (int i = 0; connection->queue_count > 0; i++)
	{
		if (is_blocked(connection))
			break;
		if (i == WRITES_PER_TURN)
		{
			lws_callback_on_writable(connection->wsi);
			break;
		}
		if (!write_once(connection))
			return false;
		progress = true;
	}
	/* Who holds unsent bytes calls connection_writable when they have left. */
	if (is_blocked(connection) || connection->queue_count > 0)
		note_blocked(connection, progress);
	else
		list_remove(&connection->blocked_link);
	control_flow(connection);
	return true;
}

/* The socket takes bytes again, and none are left of earlier writes. */
bool
connection_writable(Connection *connection)
{
	if (connection->close_code != 0)
		return true;
	list_remove(&connection->blocked_link);
	return flush(connection);
}

/*------------------------------- receiving ------------------------------*/

/* Handle a whole message; those beyond the limit are not even looked at. */
static void
handle_message(Connection *connection, const char *data, size_t length,
			   bool binary)
{
	PhoenixMessage message;

	if (!rate_allows(&connection->messages, now(),
					 gateway.config.max_messages_per_second, 1000))
	{
		channels_reject(connection, SLICE("Too many messages per second"));
		return;
	}
	if (phoenix_decode(connection->version, binary, data, length, &message))
		channel_message(connection, &message);
	else
		log_client("malformed %s message of %zu bytes from %s was dropped",
				   binary ? "binary" : "text", length,
				   peer_text(&connection->peer));
	phoenix_release(&message);
}

/* A piece of a message. */
void
connection_receive(Connection *connection, const char *data, size_t length)
{
	struct lws *wsi = connection->wsi;
	bool		final = lws_is_final_fragment(wsi);
	Buffer	   *message = &connection->message;

	if (connection->close_code != 0)
		return;
	gateway.metrics.received_bytes += length;
	gateway.metrics.received_messages += final;
	connections()->receiving = connection;
	connection->active_at = now();
	list_remove(&connection->activity_link);
	list_append(&connections()->by_activity, &connection->activity_link);

	if (message->length + length + lws_remaining_packet_payload(wsi) >
		gateway.config.max_message_size)
	{
		log_client("%s sent a message larger than %u bytes",
				   peer_text(&connection->peer),
				   gateway.config.max_message_size);
		connection_close(connection, CLOSE_TOO_BIG, "message too big");
	}
	else if (final && message->length == 0)
		handle_message(connection, data, length, lws_frame_is_binary(wsi));
	else
	{
		buffer_append(message, data, length);
		if (final)
			handle_message(connection, message->data, message->length,
						   lws_frame_is_binary(wsi));
	}
	if (final)
		buffer_release(message);
}

/*-------------------------------- closing -------------------------------*/

/*
 * Close the connection, with a Close frame of this code and reason (a literal
 * of at most 123 bytes).  Its channels end here, the rest at the end of the
 * turn.
 */
void
connection_close(Connection *connection, uint16_t code, const char *reason)
{
	if (connection->close_code != 0 || connection->wsi == NULL)
		return;
	channels_leave(connection);
	brake_forget(connection);
	connection->close_code = code;
	connection->close_reason = reason;
	list_remove(&connection->activity_link);
	list_remove(&connection->no_channel_link);
	list_remove(&connection->blocked_link);
	list_remove(&connection->paused_link);
	list_remove(&connection->heartbeat_link);
	list_append(&connections()->closing, &connection->end_link);
}

/* The library lets go of the connection; it is freed at the end of the turn. */
void
connection_gone(Connection *connection)
{
	if (connection->wsi == NULL)
		return;
	channels_leave(connection);
	brake_forget(connection);
	connection->wsi = NULL;
	if (connection->tls != NULL)
		tls_attach(connection->tls, NULL);
	if (connections()->receiving == connection)
		connections()->receiving = NULL;
	gateway.stats.connections--;
	metrics_count_close(&gateway.metrics, connection->close_code);
	monitor_forget(connection);
	list_remove(&connection->all_link);
	if (connection->closes_politely)
		connections()->polite_closes--;
	list_remove(&connection->activity_link);
	list_remove(&connection->no_channel_link);
	list_remove(&connection->dirty_link);
	list_remove(&connection->blocked_link);
	list_remove(&connection->paused_link);
	list_remove(&connection->heartbeat_link);
	list_remove(&connection->end_link);
	list_append(&connections()->dead, &connection->end_link);
}

/* Have the library close the socket.  It may be gone when this returns. */
static void
finish_close(Connection *connection)
{
	struct lws *wsi = connection->wsi;

	if (!is_blocked(connection))
	{
		/* What was said before the reason to close arose */
		while (connection->queue_count > 0 && !is_blocked(connection))
			if (!write_once(connection))
				break;
	}
	queue_clear(connection);
	buffer_release(&connection->message);
	if (is_blocked(connection) ||
		connections()->polite_closes >= MAX_POLITE_CLOSES)
	{
		Frame	   *frame = frame_close(connection->close_code,
										connection->close_reason);

		write_frames(connection, (Slice) {(char *) frame->data, frame->length});
		frame_release(frame);
	}
	else
	{
		connection->closes_politely = true;
		connections()->polite_closes++;
		lws_close_reason(wsi, connection->close_code,
						 (unsigned char *) connection->close_reason,
						 strlen(connection->close_reason));
	}
	lws_set_timeout(wsi, PENDING_TIMEOUT_CLOSE_SEND, LWS_TO_KILL_SYNC);
}

static void
on_holding(uv_idle_t *handle)
{
	(void) handle;				/* it is enough that it is active */
}

/* Will there be more for the same receivers at once? */
static bool
must_hold(void)
{
	const Connection *sender = connections()->receiving;
	ListLink   *link = list_first(&connections()->dirty);

	connections()->receiving = NULL;
	for (int n = 1; link != NULL && n < HOLD_RECEIVERS; n++)
		link = list_next(&connections()->dirty, link);
	if (link == NULL || sender == NULL || sender->close_code != 0 ||
		connections()->turns_held >= HOLD_TURNS ||
		!socket_is_readable(lws_get_socket_fd(sender->wsi)))
	{
		connections()->turns_held = 0;
		uv_idle_stop(&connections()->holding);
		return false;
	}
	connections()->turns_held++;
	uv_idle_start(&connections()->holding, on_holding);
	return true;
}

static void
flush_all(void)
{
	ListLink   *link;

	while ((link = list_first(&connections()->dirty)) != NULL)
	{
		Connection *connection = LIST_OWNER(Connection, dirty_link, link);

		list_remove(link);
		if (connection->close_code == 0 && !flush(connection))
			connection_close(connection, CLOSE_INTERNAL_ERROR, "");
	}
}

/*
 * Flush, close and free what this turn left behind.  Called outside of all
 * callbacks of the library.
 */
void
connections_end_turn(void)
{
	ListLink   *link;

	if (!must_hold())
	{
		flush_all();
		monitor_flushed();
	}
	while ((link = list_first(&connections()->closing)) != NULL)
	{
		list_remove(link);
		finish_close(LIST_OWNER(Connection, end_link, link));
	}
	while ((link = list_first(&connections()->dead)) != NULL)
	{
		Connection *connection = LIST_OWNER(Connection, end_link, link);

		list_remove(link);
		queue_clear(connection);
		free_connection(connection);
	}
}

/* Close those whose sockets took nothing for send_timeout. */
static void
check_blocked(void)
{
	ListLink   *link;

	while ((link = list_first(&connections()->blocked)) != NULL)
	{
		Connection *connection = LIST_OWNER(Connection, blocked_link, link);
		uint64_t	acknowledged;

		if (now() - connection->blocked_at < gateway.config.send_timeout)
			break;
		acknowledged = acknowledged_bytes(connection);
		if (acknowledged == connection->acknowledged)
		{
			close_as_slow(connection);
			continue;
		}
		connection->acknowledged = acknowledged;
		connection->blocked_at = now();
		list_remove(link);
		list_append(&connections()->blocked, link);
	}
}

/* Close those that were silent for idle_timeout. */
static void
check_activity(void)
{
	ListLink   *link;

	while (gateway.config.idle_timeout > 0 &&
		   (link = list_first(&connections()->by_activity)) != NULL)
	{
		Connection *connection = LIST_OWNER(Connection, activity_link, link);

		if (now() - connection->active_at < gateway.config.idle_timeout)
			break;
		connection_close(connection, CLOSE_NORMAL, "idle timeout");
	}
}

/* Close those that had no channel for no_channel_timeout. */
static void
check_channels(void)
{
	ListLink   *link;

	while (gateway.config.no_channel_timeout > 0 &&
		   (link = list_first(&connections()->no_channel)) != NULL)
	{
		Connection *connection = LIST_OWNER(Connection, no_channel_link, link);

		if (now() - connection->no_channel_since < gateway.config.no_channel_timeout)
			break;
		connection_close(connection, CLOSE_NORMAL, "no channel");
	}
}

/* Close who has been silent, or useless, or has not read, for too long. */
void
connections_check_timeouts(void)
{
	check_activity();
	check_channels();
	check_blocked();
}

/*
 * Close the connections that came with what counts no more; or only those that
 * have no channel left, as others may have another token.
 */
void
connections_revoke(uint64_t credential, bool all)
{
	ListLink   *link = list_first(&connections()->by_activity);

	while (link != NULL)
	{
		Connection *connection = LIST_OWNER(Connection, activity_link, link);

		link = list_next(&connections()->by_activity, link);
		if (connection->credential != credential)
			continue;
		if (all)
			connection_close(connection, CLOSE_POLICY_VIOLATION, "API key revoked");
		else if (connection->n_channels == 0)
			connection_close(connection, CLOSE_POLICY_VIOLATION,
							 "key of the token revoked");
	}
}

/* Send all that waits for the client, as far as it is taken, and a Close frame. */
static void
say_goodbye(Connection *connection, Slice frame)
{
	char		unread[4096];
	int			fd = connection_socket(connection);

	while (connection->queue_count > 0 && !is_blocked(connection))
		if (!write_once(connection))
			break;
	if (connection->queue_count == 0 && !is_blocked(connection))
		write_frames(connection, frame);
	/* A socket that is closed with something unread takes back what it sent. */
	while (recv(fd, unread, sizeof(unread), MSG_DONTWAIT) > 0)
		continue;
	shutdown(fd, SHUT_WR);
}

/* Has the client closed its end already, or gone? */
static bool
has_left(const Connection *connection)
{
	char		byte;
	ssize_t		received = recv(connection_socket(connection), &byte, 1,
								MSG_PEEK | MSG_DONTWAIT);

	return received == 0 ||
		(received < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
}

/* Wait for some part of twice so many nanoseconds. */
static void
sleep_about(uint64_t duration)
{
	struct timespec wait;

	duration = duration * 2 * ((uint64_t) rand() % 1024) / 1024;
	wait.tv_sec = (time_t) (duration / 1000000000);
	wait.tv_nsec = (long) (duration % 1000000000);
	nanosleep(&wait, NULL);
}

/*
 * Tell every client that we end, one after the other within about so many ms;
 * the process exits after this.  Nothing else is done meanwhile.
 */
void
connections_close_all(uint16_t code, uint32_t spread)
{
	Frame	   *frame = frame_close(code, code == 1001 ? "service removed" :
									"service restart");
	Slice		bytes = {(char *) frame->data, frame->length};
	ListLink   *link = list_first(&connections()->by_activity);
	uint64_t	step = gateway.stats.connections == 0 ? 0 :
		(uint64_t) spread * 1000000 / gateway.stats.connections;

	for (; link != NULL; link = list_next(&connections()->by_activity, link))
	{
		Connection *connection = LIST_OWNER(Connection, activity_link, link);

		if (step > 0 && has_left(connection))
			continue;
		if (step > 0)
			sleep_about(step);
		say_goodbye(connection, bytes);
	}
	frame_release(frame);
}
