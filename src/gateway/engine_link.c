/*-------------------------------------------------------------------------
 *
 * engine_link.c
 *	  The gateway's end of the link to the engine.
 *
 * Reads messages and hands them to their modules, in order; a bounded number
 * in each turn of the loop, so that the sockets get theirs in between.  What
 * we write is collected and leaves at the end of the turn.  When the link ends
 * or the engine sends what we cannot read, the gateway ends.
 *
 * Nothing here waits for the engine.  If it does not read, "out" grows up to
 * OUT_LIMIT; from there on engine_link_congested tells the others to send
 * nothing but what frees something in the engine (LINK_LEAVE), and those are
 * bounded by the number of channels.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/engine_link.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/broadcast.h"
#include "gateway/gateway.h"
#include "gateway/jsontext.h"
#include "gateway/log.h"

#define READ_SIZE (256 * 1024)	/* of one read */
#define KEEP_SIZE (1024 * 1024) /* larger buffers are freed once empty */
#define MESSAGES_PER_TURN 64
#define BYTES_PER_TURN (256 * 1024) /* but one message at least */
#define OUT_LIMIT (4 * 1024 * 1024)

static void on_poll(uv_poll_t *handle, int status, int events);
static void on_more(uv_idle_t *handle);

/* The engine is gone or cannot be understood: nothing is left to serve. */
static void
end_of_link(const char *what)
{
	if (what != NULL)
		log_message("WARNING", "link to the engine ended: %s", what);
	gateway_stop(1012);
}

static bool
grow_writer(LinkWriter *writer, size_t size)
{
	size_t		capacity = writer->capacity * 2;

	if (capacity < 4096)
		capacity = 4096;
	if (capacity < size)
		capacity = size;
	writer->data = reallocate(writer->data, capacity);
	writer->capacity = capacity;
	return true;
}

static void
wait_for(int events)
{
	EngineLink *link = &gateway.link;

	if (events == link->events)
		return;
	link->events = events;
	uv_poll_start(&link->poll, events, on_poll);
}

/* Begin to talk with the engine over the socket fd. */
void
engine_link_start(int fd)
{
	EngineLink *link = &gateway.link;

	link->fd = fd;
	link->out.grow = grow_writer;
	if (uv_poll_init(gateway.loop, &link->poll, fd) != 0)
	{
		log_message("FATAL", "descriptor %d is not the link to an engine", fd);
		_exit(1);
	}
	uv_idle_init(gateway.loop, &link->more);
	wait_for(UV_READABLE);
}

/*------------------------------- sending --------------------------------*/

/* Begin a message; put its body into the writer, then call engine_link_end. */
LinkWriter *
engine_link_begin(LinkType type)
{
	link_begin(&gateway.link.out, type);
	return &gateway.link.out;
}

static bool
end_message(size_t max_body)
{
	LinkWriter *out = &gateway.link.out;

	if (!out->failed &&
		out->length - out->start - sizeof(LinkHeader) > max_body)
		out->failed = true;
	return link_end(out);
}

/*
 * Finish the message.  Returns false, and sends nothing, if it is larger than
 * the engine accepts.
 */
bool
engine_link_end(void)
{
	return end_message(LINK_MAX_TO_ENGINE);
}

/* Likewise, for one that is relayed to other gateways. */
bool
engine_link_end_relay(void)
{
	return end_message(LINK_MAX_TO_ENGINE + (size_t) gateway.config.max_payload_size);
}

/* Send what can be sent without waiting.  Called at the end of each turn. */
void
engine_link_flush(void)
{
	EngineLink *link = &gateway.link;
	LinkWriter *out = &link->out;

	while (link->out_sent < out->length)
	{
		ssize_t		sent = send(link->fd, out->data + link->out_sent,
								out->length - link->out_sent,
								MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		if (sent < 0)
			end_of_link(NULL);
		link->out_sent += (size_t) sent;
	}
	if (link->out_sent == out->length)
	{
		link->out_sent = out->length = 0;
		if (out->capacity > KEEP_SIZE)
		{
			free(out->data);
			out->data = NULL;
			out->capacity = 0;
		}
		wait_for(UV_READABLE);
		return;
	}
	if (link->out_sent > out->length / 2)
	{
		memmove(out->data, out->data + link->out_sent,
				out->length - link->out_sent);
		out->length -= link->out_sent;
		link->out_sent = 0;
	}
	wait_for(UV_READABLE | UV_WRITABLE);
}

/* Does the engine leave so much unread that we must not ask it for more? */
bool
engine_link_congested(void)
{
	return gateway.link.out.length - gateway.link.out_sent > OUT_LIMIT;
}

/*------------------------------- receiving ------------------------------*/

static Slice
get_slice(LinkReader *reader)
{
	LinkString	string = link_get_string(reader);

	return (Slice) {string.data, string.length};
}

static bool
on_hello(LinkReader *reader)
{
	uint32_t	version = link_get_u32(reader);
	uint32_t	n_listeners = link_get_u32(reader);

	if (!link_finished(reader) || gateway.link.greeted || n_listeners > 64)
		return false;
	if (version != LINK_VERSION)
	{
		log_message("FATAL", "the engine speaks version %u of the link, this gateway version %d",
					version, LINK_VERSION);
		return false;
	}
	gateway.link.greeted = true;
	link_put_u32(engine_link_begin(LINK_READY), LINK_VERSION);
	engine_link_end();
	gateway_open(n_listeners);
	return true;
}

static bool
on_config(LinkReader *reader)
{
	uint32_t	count = link_get_count(reader, 8);

	for (uint32_t i = 0; i < count; i++)
	{
		Slice		name = get_slice(reader);
		Slice		value = get_slice(reader);

		if (!reader->failed)
			config_set(&gateway.config, name, value);
	}
	if (!link_finished(reader))
		return false;
	gateway_configured();
	return true;
}

static bool
on_auth_reply(LinkReader *reader)
{
	uint64_t	id = link_get_u64(reader);
	uint32_t	status = link_get_u32(reader);
	Slice		error = get_slice(reader);

	uint64_t	credential;

	link_get_u64(reader);		/* expiry: the engine ends the channels */
	credential = link_get_u64(reader);
	if (!link_finished(reader) || (status != 200 && (status < 400 || status > 599)))
		return false;
	admission_verdict(id, (int) status, error, credential);
	return true;
}

static bool
on_persist_reply(LinkReader *reader)
{
	uint64_t	id = link_get_u64(reader);
	Slice		ref = get_slice(reader);
	Slice		message_id = get_slice(reader);
	Slice		error = get_slice(reader);

	if (!link_finished(reader))
		return false;
	channel_persisted(id, ref, message_id, error);
	return true;
}

static bool
on_revoked(LinkReader *reader)
{
	uint64_t	number = link_get_u64(reader);
	bool		all = link_get_u8(reader) != 0;

	if (!link_finished(reader) || number == 0)
		return false;
	connections_revoke(number, all);
	return true;
}

static bool
on_rest_reply(LinkReader *reader)
{
	uint64_t	id = link_get_u64(reader);
	uint32_t	status = link_get_u32(reader);
	uint8_t		rights = link_get_u8(reader);

	if (!link_finished(reader) || (status != 200 && (status < 400 || status > 599)))
		return false;
	admission_rest_verdict(id, (int) status, rights);
	return true;
}

static bool
on_join_reply(LinkReader *reader)
{
	uint64_t	id = link_get_u64(reader);
	bool		ok = link_get_u8(reader) != 0;
	uint8_t		rights = link_get_u8(reader);
	Slice		text = get_slice(reader);

	if (ok)
		return channel_joined(id, rights, text, reader);
	if (!reader->failed && reader->next < reader->end &&
		link_get_u32(reader) != 0)
		return false;
	if (!link_finished(reader))
		return false;
	channel_refused(id, text);
	return true;
}

static bool
on_bindings(LinkReader *reader)
{
	return channel_rebound(link_get_u64(reader), reader);
}

/* Room for a cursor without its end */
#define CURSOR_TEXT 48

typedef struct Place
{
	uint64_t	epoch;
	uint64_t	lsn;
	uint32_t	seq;
} Place;

static Place
get_place(LinkReader *reader)
{
	Place		place;

	place.epoch = link_get_u64(reader);
	place.lsn = link_get_u64(reader);
	place.seq = link_get_u32(reader);
	return place;
}

/* Its cursor as text, in the buffer */
static Slice
cursor_text(Place place, char *text)
{
	int			length;

	length = snprintf(text, CURSOR_TEXT, "%" PRIx64 ":%" PRIx64 ":%" PRIx32,
					  place.epoch, place.lsn, place.seq);
	return (Slice) {text, (size_t) length};
}

static bool
on_event(LinkReader *reader)
{
	char		cursor[CURSOR_TEXT];
	char		before[CURSOR_TEXT];
	FanoutChange change = {0};
	Place		place = get_place(reader);

	change.cursor = cursor_text(place, cursor);
	change.n_groups = link_get_count(reader, sizeof(uint32_t));
	change.groups = *reader;
	for (uint32_t i = 0; i < change.n_groups; i++)
		link_get_u32(reader);
	change.data = get_slice(reader);
	change.n_awaiting = link_get_count(reader, sizeof(uint64_t));
	change.awaiting = *reader;
	for (uint32_t i = 0; i < change.n_awaiting; i++)
		link_get_u64(reader);
	if (!link_finished(reader) || change.data.data == NULL)
		return false;
	if (change.n_awaiting > 0)
	{
		place.seq--;
		change.before = cursor_text(place, before);
	}
	fanout_change(&change);
	return true;
}

static bool
on_transaction_end(LinkReader *reader)
{
	char		cursor[CURSOR_TEXT];
	Slice		text = cursor_text(get_place(reader), cursor);
	uint32_t	n_groups = link_get_count(reader, sizeof(uint32_t));
	LinkReader	groups = *reader;

	for (uint32_t i = 0; i < n_groups; i++)
		link_get_u32(reader);
	if (!link_finished(reader))
		return false;
	fanout_transaction_end(&groups, n_groups, text);
	return true;
}

static bool
on_rows(LinkReader *reader)
{
	uint32_t	n_groups = link_get_count(reader, sizeof(uint32_t));
	LinkReader	groups = *reader;
	PhoenixRows rows;
	uint32_t	n_rows;
	uint32_t	size;
	Slice	   *texts;

	for (uint32_t i = 0; i < n_groups; i++)
		link_get_u32(reader);
	size = link_get_u32(reader);
	rows.before = get_slice(reader);
	rows.behind = get_slice(reader);
	n_rows = link_get_count(reader, sizeof(uint32_t));
	texts = allocate(((size_t) n_rows + 1) * sizeof(Slice));
	for (uint32_t i = 0; i < n_rows; i++)
	{
		texts[i] = get_slice(reader);
		if (texts[i].data == NULL)
			reader->failed = true;
	}
	rows.rows = texts;
	rows.n_rows = n_rows;
	if (link_finished(reader) && rows.before.data != NULL &&
		rows.behind.data != NULL)
	{
		fanout_rows(&groups, n_groups, &rows);
		link_put_u32(engine_link_begin(LINK_ROWS_TAKEN), size);
		engine_link_end();
	}
	else
		reader->failed = true;
	free(texts);
	return !reader->failed;
}

static bool
on_system(LinkReader *reader)
{
	uint64_t	id = link_get_u64(reader);
	Slice		extension = get_slice(reader);
	Slice		status = get_slice(reader);
	Slice		text = get_slice(reader);
	uint8_t		then = link_get_u8(reader);

	if (!link_finished(reader) || then > LINK_THEN_ERROR)
		return false;
	channel_system(id, extension, status, text, (LinkThen) then);
	return true;
}

static bool
on_rights(LinkReader *reader)
{
	uint64_t	id = link_get_u64(reader);
	uint8_t		rights = link_get_u8(reader);

	if (!link_finished(reader))
		return false;
	channel_set_rights(id, rights);
	return true;
}

static bool
on_access(LinkReader *reader)
{
	uint64_t	id = link_get_u64(reader);
	uint64_t	access = link_get_u64(reader);

	if (!link_finished(reader))
		return false;
	channel_set_access(id, access);
	return true;
}

/* LINK_BROADCAST, or, from another gateway, LINK_RELAYED */
static bool
on_broadcast(LinkReader *reader, bool relayed)
{
	PhoenixBroadcast broadcast = {0};
	Buffer		metadata = {0};
	bool		is_private = link_get_u8(reader) != 0;
	Slice		topic = get_slice(reader);
	Slice		id;

	broadcast.event = get_slice(reader);
	broadcast.payload_is_json = link_get_u8(reader) != 0;
	broadcast.payload = get_slice(reader);
	if (relayed)
		broadcast.map = get_slice(reader);
	id = get_slice(reader);
	if (!link_finished(reader))
		return false;
	if (!relayed && (topic.data == NULL || broadcast.event.data == NULL ||
					 broadcast.payload.data == NULL))
		return false;
	if (id.data != NULL && utf8_is_valid(id))
	{
		buffer_append_string(&metadata, "{\"id\":");
		buffer_append_json_string(&metadata, id);
		buffer_append(&metadata, "}", 1);
		broadcast.metadata = buffer_slice(&metadata);
		broadcast.id = id;
	}
	if (relayed)
		broadcast_relayed(is_private, topic, &broadcast);
	else
		broadcast_send(is_private, topic, &broadcast);
	buffer_release(&metadata);
	return true;
}

static bool
on_replay(LinkReader *reader)
{
	PhoenixBroadcast broadcast = {0};
	Buffer		metadata = {0};
	uint64_t	channel = link_get_u64(reader);
	Slice		id;
	bool		ok;

	broadcast.event = get_slice(reader);
	broadcast.payload_is_json = link_get_u8(reader) != 0;
	broadcast.payload = get_slice(reader);
	id = get_slice(reader);
	if (!link_finished(reader) || broadcast.event.data == NULL ||
		broadcast.payload.data == NULL || id.data == NULL)
		return false;
	buffer_append_string(&metadata, "{\"replayed\":true,\"id\":");
	buffer_append_json_string(&metadata, id);
	buffer_append(&metadata, "}", 1);
	broadcast.metadata = buffer_slice(&metadata);
	ok = channel_replay(channel, id, &broadcast);
	buffer_release(&metadata);
	return ok;
}

static bool
on_heartbeat_reply(LinkReader *reader)
{
	uint64_t	number = link_get_u64(reader);

	if (!link_finished(reader))
		return false;
	channels_heartbeat_answered(number);
	return true;
}

static bool
on_monitor(LinkReader *reader)
{
	bool		ready = link_get_u8(reader) != 0;
	Slice		reason = get_slice(reader);
	Slice		metrics = get_slice(reader);

	if (!link_finished(reader) || metrics.data == NULL)
		return false;
	monitor_heard(ready, reason, metrics);
	return true;
}

static bool
on_committed(LinkReader *reader)
{
	uint64_t	commit_time = link_get_u64(reader);

	if (!link_finished(reader))
		return false;
	monitor_committed(commit_time);
	return true;
}

static bool
on_list(LinkReader *reader)
{
	uint32_t	request = link_get_u32(reader);

	if (!link_finished(reader))
		return false;
	monitor_list(request);
	return true;
}

static bool
on_tracked(LinkReader *reader)
{
	RemoteMeta	meta;

	meta.id = link_get_u64(reader);
	meta.is_private = link_get_u8(reader) != 0;
	meta.topic = get_slice(reader);
	meta.key = get_slice(reader);
	meta.text = get_slice(reader);
	meta.ref = link_get_u64(reader);
	meta.previous_ref = link_get_u64(reader);
	if (!link_finished(reader) || meta.id >> LINK_NUMBER_SHIFT > GATEWAY_MAX_NUMBER)
		return false;
	presence_tracked(&meta);
	return true;
}

static bool
on_untracked(LinkReader *reader)
{
	uint64_t	id = link_get_u64(reader);

	if (!link_finished(reader))
		return false;
	presence_untracked(id);
	return true;
}

static bool
on_gateway_ended(LinkReader *reader)
{
	uint32_t	number = link_get_u32(reader);

	if (!link_finished(reader) || number > GATEWAY_MAX_NUMBER)
		return false;
	presence_gone(number);
	monitor_gone(number);
	return true;
}

static bool
on_counted(LinkReader *reader)
{
	uint32_t	number = link_get_u32(reader);
	Slice		share = get_slice(reader);

	if (!link_finished(reader) || number > GATEWAY_MAX_NUMBER)
		return false;
	monitor_counted(number, share);
	return true;
}

static bool
on_presence_wanted(LinkReader *reader)
{
	uint32_t	number = link_get_u32(reader);

	if (!link_finished(reader) || number > GATEWAY_MAX_NUMBER)
		return false;
	presence_wanted(number);
	return true;
}

static bool
on_shutdown(LinkReader *reader)
{
	uint32_t	why = link_get_u32(reader);

	if (!link_finished(reader))
		return false;
	gateway_stop(why == LINK_SHUTDOWN_EXTENSION ? 1001 : 1012);
}

/* Handle one message.  Returns false if it is malformed. */
static bool
dispatch(uint32_t type, const char *body, size_t length)
{
	LinkReader	reader;

	link_read(&reader, body, length);
	if (!gateway.link.greeted && type != LINK_HELLO)
		return false;
	switch (type)
	{
		case LINK_HELLO:
			return on_hello(&reader);
		case LINK_CONFIG:
			return on_config(&reader);
		case LINK_AUTH_REPLY:
			return on_auth_reply(&reader);
		case LINK_JOIN_REPLY:
			return on_join_reply(&reader);
		case LINK_BINDINGS:
			return on_bindings(&reader);
		case LINK_EVENT:
			return on_event(&reader);
		case LINK_TRANSACTION_END:
			return on_transaction_end(&reader);
		case LINK_ROWS:
			return on_rows(&reader);
		case LINK_SYSTEM:
			return on_system(&reader);
		case LINK_SHUTDOWN:
			return on_shutdown(&reader);
		case LINK_RIGHTS:
			return on_rights(&reader);
		case LINK_ACCESS:
			return on_access(&reader);
		case LINK_BROADCAST:
			return on_broadcast(&reader, false);
		case LINK_RELAYED:
			return on_broadcast(&reader, true);
		case LINK_TRACKED:
			return on_tracked(&reader);
		case LINK_UNTRACKED:
			return on_untracked(&reader);
		case LINK_GATEWAY_ENDED:
			return on_gateway_ended(&reader);
		case LINK_COUNTED:
			return on_counted(&reader);
		case LINK_PRESENCE_WANTED:
			return on_presence_wanted(&reader);
		case LINK_REPLAY:
			return on_replay(&reader);
		case LINK_HEARTBEAT_REPLY:
			return on_heartbeat_reply(&reader);
		case LINK_PERSIST_REPLY:
			return on_persist_reply(&reader);
		case LINK_REVOKED:
			return on_revoked(&reader);
		case LINK_REST_REPLY:
			return on_rest_reply(&reader);
		case LINK_MONITOR:
			return on_monitor(&reader);
		case LINK_COMMITTED:
			return on_committed(&reader);
		case LINK_LIST:
			return on_list(&reader);
		default:
			return false;
	}
}

/* The first group that an event is for; 0 if there is none */
static uint32_t
first_group(const char *body, size_t length)
{
	LinkReader	reader;
	uint32_t	n_groups;
	uint32_t	group;

	link_read(&reader, body, length);
	link_get_u64(&reader);		/* the cursor, as in on_event */
	link_get_u64(&reader);
	link_get_u32(&reader);
	n_groups = link_get_count(&reader, sizeof(uint32_t));
	group = n_groups > 0 ? link_get_u32(&reader) : 0;
	return reader.failed ? 0 : group;
}

/*
 * Have the memory fetched that the events among the next messages will need.
 * Returns how many messages that were.
 */
static int
look_ahead(const char *message, size_t available)
{
	uint32_t	groups[FANOUT_PREFETCH];
	size_t		n_groups = 0;
	LinkHeader	header;
	int			n = 0;

	while (n < FANOUT_PREFETCH &&
		   link_next_message(message, available, LINK_MAX_TO_GATEWAY,
							 &header) > 0)
	{
		size_t		size = sizeof(header) + header.length;
		uint32_t	group = header.type != LINK_EVENT ? 0 :
			first_group(message + sizeof(header), header.length);

		if (group != 0)
			groups[n_groups++] = group;
		message += size;
		available -= size;
		n++;
	}
	fanout_prefetch(groups, n_groups);
	return n;
}

/*
 * Handle the messages that have arrived, at most MESSAGES_PER_TURN of them and
 * hardly more than BYTES_PER_TURN.  Returns true if whole messages are left.
 */
static bool
dispatch_messages(void)
{
	EngineLink *link = &gateway.link;
	LinkHeader	header;
	int			whole;
	int			ahead = 0;

	for (int n = 0;; n++)
	{
		const char *message = link->in.data + link->in_start;
		size_t		available = link->in.length - link->in_start;

		whole = link_next_message(message, available, LINK_MAX_TO_GATEWAY,
								  &header);
		if (whole < 0)
			end_of_link("a message is too large");
		if (whole == 0 || n >= MESSAGES_PER_TURN ||
			link->in_start >= BYTES_PER_TURN)
			break;
		if (ahead-- == 0)
			ahead = look_ahead(message, available) - 1;
		if (!dispatch(header.type, message + sizeof(header), header.length))
		{
			log_message("WARNING", "malformed message of type %u from the engine",
						header.type);
			end_of_link("malformed message");
		}
		link->in_start += sizeof(header) + header.length;
	}
	return whole > 0;
}

/* Move what is left to the front, and give back what a large message took. */
static void
compact_input(void)
{
	Buffer	   *in = &gateway.link.in;
	size_t		left = in->length - gateway.link.in_start;

	if (left > 0 && gateway.link.in_start > 0)
		memmove(in->data, in->data + gateway.link.in_start, left);
	in->length = left;
	gateway.link.in_start = 0;
	if (left == 0 && in->capacity > KEEP_SIZE)
		buffer_release(in);
}

/* Read once.  Returns false if nothing came. */
static bool
read_some(void)
{
	EngineLink *link = &gateway.link;
	Buffer	   *in = &link->in;
	size_t		wanted = READ_SIZE;
	LinkHeader	header;
	ssize_t		received;

	/* Make room for a large message at once, not by doubling. */
	if (link_next_message(in->data, in->length, LINK_MAX_TO_GATEWAY, &header) == 0 &&
		in->length >= sizeof(header) &&
		sizeof(header) + header.length - in->length > wanted)
		wanted = sizeof(header) + header.length - in->length;
	buffer_reserve(in, wanted);
	do
		received = recv(link->fd, in->data + in->length, wanted, MSG_DONTWAIT);
	while (received < 0 && errno == EINTR);
	if (received == 0 || (received < 0 && errno != EAGAIN && errno != EWOULDBLOCK))
		end_of_link(NULL);
	if (received < 0)
		return false;
	in->length += (size_t) received;
	return true;
}

static void
process_input(void)
{
	bool		more = dispatch_messages();

	compact_input();
	if (more)
		uv_idle_start(&gateway.link.more, on_more);
	else
		uv_idle_stop(&gateway.link.more);
}

static void
on_more(uv_idle_t *handle)
{
	(void) handle;
	process_input();
}

static void
on_poll(uv_poll_t *handle, int status, int events)
{
	(void) handle;
	if (status < 0)
		end_of_link(NULL);
	if (events & UV_WRITABLE)
		engine_link_flush();
	/* While messages wait in memory, the socket's buffer holds back more. */
	if ((events & UV_READABLE) && !uv_is_active((uv_handle_t *) &gateway.link.more) &&
		read_some())
		process_input();
}
