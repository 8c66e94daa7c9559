/*-------------------------------------------------------------------------
 *
 * admission.c
 *	  Sockets from their accept to the verdict about their request.
 *
 * libwebsockets decides about an upgrade within a callback, but the verdict
 * about a token comes from the engine, later.  So the request is read here, and
 * the library gets the socket when the engine has said yes.  All other
 * requests are answered here.
 *
 * A pending socket is in one state, and in that state's list:
 *
 *	reading		the head is not complete yet; at most REQUEST_MAX_HEAD bytes
 *	asking		LINK_AUTH, LINK_REST or LINK_REST_PERSIST was sent
 *	receiving	the body of a broadcast by HTTP is being read; this comes when
 *				the engine has accepted the token, and once all of it is here
 *				we may have to ask again
 *	delaying	the refusal is held back, against storms of retries
 *	sending		the client has not taken all of a long answer yet
 *	lingering	the answer was sent; what still comes is thrown away, so that
 *				closing does not make the kernel reset the connection before
 *				the client has read the answer
 *
 * Each state has a deadline, so nothing that a client does or omits keeps a
 * pending socket.  There are at most ADMISSION_MAX_PENDING of them: when all
 * are taken, one that lingers gives way, or one whose refusal is held back, or
 * the oldest that is still being read, or takes its answer the slowest, if it
 * had a second; else we stop to accept for a moment.  So we do when descriptors
 * run out, and when the engine does not keep up.
 *
 * With TLS, a socket is a pending one until its first byte.  If that begins
 * TLS, tls.c takes the socket and leaves us one that is plain, in its place and
 * with its deadline; who speaks plainly instead is told so.
 *
 * A pending socket is freed in the close callback of its poll handle.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/admission.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/broadcast.h"
#include "gateway/files.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/log.h"
#include "gateway/request.h"
#include "gateway/rest.h"
#include "gateway/tls.h"

#define ACCEPTS_PER_EVENT 64
#define RESUME_AFTER 100		/* ms until we accept again */
#define FIRST_READ 2048			/* bytes; most heads are smaller */
#define BODY_READ 65536			/* bytes */
#define VERDICT_TIMEOUT 30000	/* ms for the engine to answer */
#define LINGER_TIMEOUT 1000		/* ms */
#define LINGER_BYTES (2 * 1024 * 1024)	/* that are thrown away */
#define MAX_DELAY 1000			/* ms that a refusal is held back at most */
#define SEND_BUFFER 65536		/* SO_SNDBUF: idle clients are many */
#define EVICT_AFTER 1000		/* ms that everybody gets to send the head */
#define TLS_HANDSHAKE 0x16		/* the first byte of a client that speaks TLS */
#define CANNOT_STORE "{\"error\":\"unable_to_connect_to_project\"}"
#define MAX_BODY_BYTES (64 * 1024 * 1024)	/* of bodies held at a time */
#define MAX_RESPONSE_BYTES (64 * 1024 * 1024)	/* likewise of long responses */
#define LONG_RESPONSE 16384		/* bytes; a socket takes what is shorter */

typedef struct Pending
{
	TableNode	by_id;			/* while asking */
	ListLink	link;			/* in the list of its state */
	List	   *state;
	uv_poll_t	poll;
	int			fd;				/* -1 once it was given away */
	Tls		   *tls;			/* what fd is the plain end of, or NULL */
	bool		wants_tls;		/* and speaks nothing else */
	PeerAddress peer;			/* the client's, where proxies are trusted */
	uint64_t	id;
	uint64_t	started;		/* ms */
	uint64_t	deadline;		/* ms */
	Buffer		in;				/* the head, then (asking) token and key in
								 * it; of a REST request then the body */
	size_t		scanned;
	size_t		discarded;		/* bytes, while lingering */
	Buffer		response;		/* while delaying or sending */
	size_t		response_sent;
	size_t		response_bytes; /* that it is counted with, if it is long */
	Slice		key;			/* points into "in" */
	Buffer		token;
	Buffer		session;		/* that it is to be part of, or empty */
	PhoenixVersion version;
	Address    *address;		/* where it is counted, or NULL */
	RestRequest *rest;			/* NULL: a handshake */
	bool		takes_body;		/* it is counted in body_bytes */
} Pending;

static void on_readable(uv_poll_t *handle, int status, int events);
static void on_deadline(uv_timer_t *timer);

static Admission *
admission(void)
{
	return &gateway.admission;
}

static uint64_t
now(void)
{
	return uv_now(gateway.loop);
}

/*-------------------------------- states --------------------------------*/

/* Start the timer for the deadline that comes first. */
static void
start_deadline_timer(void)
{
	List	   *states[] = {&admission()->reading, &admission()->asking,
		&admission()->receiving, &admission()->delaying,
	&admission()->sending, &admission()->lingering};
	uint64_t	first = UINT64_MAX;

	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
	{
		ListLink   *link = list_first(states[i]);

		if (link != NULL && LIST_OWNER(Pending, link, link)->deadline < first)
			first = LIST_OWNER(Pending, link, link)->deadline;
	}
	if (first == UINT64_MAX)
		uv_timer_stop(&admission()->deadline_timer);
	else
		uv_timer_start(&admission()->deadline_timer, on_deadline,
					   first > now() ? first - now() : 0, 0);
}

/* Put the socket into a state for at most "timeout" milliseconds. */
static void
enter_state(Pending *pending, List *state, uint64_t timeout)
{
	list_remove(&pending->link);
	pending->state = state;
	pending->deadline = now() + timeout;
	list_append(state, &pending->link);
	if (list_first(state) == &pending->link)
		start_deadline_timer();
}

static void
on_closed(uv_handle_t *handle)
{
	free(LIST_OWNER(Pending, poll, handle));
}

/* Forget the REST request, with the body. */
static void
end_rest(Pending *pending)
{
	if (pending->rest == NULL)
		return;
	if (pending->takes_body)
		admission()->body_bytes -= pending->rest->body_length;
	pending->takes_body = false;
	rest_release(pending->rest);
	free(pending->rest);
	pending->rest = NULL;
}

/* Forget the response. */
static void
end_response(Pending *pending)
{
	admission()->response_bytes -= pending->response_bytes;
	pending->response_bytes = 0;
	buffer_release(&pending->response);
}

/* End the admission, and close the socket unless it was given away. */
static void
end_pending(Pending *pending)
{
	if (pending->state == &admission()->asking)
		table_remove(&admission()->waiting, &pending->by_id);
	list_remove(&pending->link);
	pending->state = NULL;
	admission()->n_pending--;
	uv_poll_stop(&pending->poll);
	uv_close((uv_handle_t *) &pending->poll, on_closed);
	if (pending->fd >= 0)
		close(pending->fd);
	pending->fd = -1;
	tls_release(pending->tls);
	end_rest(pending);
	address_leave(pending->address);
	buffer_release(&pending->in);
	end_response(pending);
	buffer_release(&pending->token);
	buffer_release(&pending->session);
}

/* The first of the list, if it had its second, else NULL */
static Pending *
first_evictable(List *state)
{
	ListLink   *link = list_first(state);

	if (link == NULL || now() - LIST_OWNER(Pending, link, link)->started < EVICT_AFTER)
		return NULL;
	return LIST_OWNER(Pending, link, link);
}

/*------------------------------- answering ------------------------------*/

/*
 * May a response of this length be held until its client has taken it?  Those
 * who take theirs the slowest give way.
 */
static bool
may_hold_response(size_t length)
{
	while (length > LONG_RESPONSE &&
		   admission()->response_bytes + length > MAX_RESPONSE_BYTES)
	{
		Pending    *slowest = first_evictable(&admission()->sending);

		if (slowest == NULL)
			return false;
		end_pending(slowest);
	}
	return true;
}

/*
 * Send as much of the response as the client takes.  When that is all, let the
 * client read it.
 */
static void
continue_sending(Pending *pending)
{
	Buffer	   *response = &pending->response;
	ssize_t		sent = send(pending->fd, response->data + pending->response_sent,
							response->length - pending->response_sent,
							MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return;
	if (sent > 0)
		pending->response_sent += (size_t) sent;
	if (sent > 0 && pending->response_sent < response->length)
	{
		enter_state(pending, &admission()->sending, gateway.config.send_timeout);
		return;
	}
	if (sent <= 0 || shutdown(pending->fd, SHUT_WR) != 0)
	{
		end_pending(pending);
		return;
	}
	end_response(pending);
	enter_state(pending, &admission()->lingering, LINGER_TIMEOUT);
	uv_poll_start(&pending->poll, UV_READABLE, on_readable);
}

/* Send a response, which becomes the socket's. */
static void
send_response(Pending *pending, Buffer *response)
{
	metrics_count_response(&gateway.metrics, buffer_slice(response));
	end_rest(pending);
	buffer_release(&pending->in);
	end_response(pending);
	pending->response = *response;
	pending->response_sent = 0;
	if (response->length > LONG_RESPONSE)
		pending->response_bytes = response->length;
	admission()->response_bytes += pending->response_bytes;
	*response = (Buffer) {0};
	enter_state(pending, &admission()->sending, gateway.config.send_timeout);
	uv_poll_start(&pending->poll, UV_WRITABLE, on_readable);
	continue_sending(pending);
}

static void
send_error(Pending *pending, int status, Slice text, const Request *request)
{
	Buffer		response = {0};

	http_error(status, text, request, &gateway.config, &response);
	send_response(pending, &response);
}

/* Send the response that is prepared, after the delay. */
static void
delay_response(Pending *pending)
{
	uint64_t	delay = gateway.config.error_delay;

	enter_state(pending, &admission()->delaying,
				delay < MAX_DELAY ? delay : MAX_DELAY);
}

/* Refuse a handshake, after the delay. */
static void
refuse_handshake(Pending *pending, int status, Slice text,
				 const Request *request)
{
	if (pending->state == &admission()->asking)
		table_remove(&admission()->waiting, &pending->by_id);
	buffer_release(&pending->response);
	http_error(status, text, request, &gateway.config, &pending->response);
	address_leave(pending->address);
	pending->address = NULL;
	delay_response(pending);
}

/*---------------------------- broadcasts by HTTP -------------------------*/

static void
append_header(Buffer *headers, const char *name, uint32_t value)
{
	buffer_append_string(headers, name);
	buffer_append_string(headers, ": ");
	buffer_append_number(headers, value);
	buffer_append_string(headers, "\r\n");
}

/* Say how many requests there may be, and were lately, as a string. */
static void
append_rate(Buffer *headers)
{
	uint32_t	limit = gateway.config.max_requests_per_second;
	uint32_t	left;

	if (limit == 0)
		return;
	left = rate_left(&admission()->requests, now(), limit, 1000);
	append_header(headers, "X-Rate-Rolling", limit - left);
	append_header(headers, "X-Rate-Limit", limit);
	append_header(headers, "X-Rate-Limit-Remaining", left);
	buffer_append(headers, "", 1);
}

/* Answer a REST request; the body is JSON text or empty. */
static void
answer_rest(Pending *pending, int status, Slice body)
{
	Request		request = {.origin = buffer_slice(&pending->rest->origin)};
	Buffer		headers = {0};
	Buffer		response = {0};

	append_rate(&headers);
	http_respond(status, headers.data != NULL ? headers.data : "",
				 "application/json", body, &request, &gateway.config, &response);
	buffer_release(&headers);
	send_response(pending, &response);
}

/*
 * Answer what is wrong with it; an invalid token after the delay, in which the
 * body stays in the socket.
 */
static void
refuse_rest(Pending *pending, int status, Slice body)
{
	Request		request = {.origin = buffer_slice(&pending->rest->origin)};

	if (status != 401)
	{
		answer_rest(pending, status, body);
		return;
	}
	http_json(status, body, &request, &gateway.config, &pending->response);
	uv_poll_stop(&pending->poll);
	end_rest(pending);
	delay_response(pending);
}

/*
 * The engine was asked, under the number that comes next.  What the client
 * sends meanwhile stays in the socket.
 */
static void
wait_for_engine(Pending *pending)
{
	pending->id = gateway_unique(++admission()->last_id);
	table_insert(&admission()->waiting, &pending->by_id, hash_number(pending->id));
	uv_poll_stop(&pending->poll);
	enter_state(pending, &admission()->asking, VERDICT_TIMEOUT);
}

/* Ask the engine whether the request may send to the topic. */
static void
ask_about_rest(Pending *pending, bool is_private, Slice topic)
{
	LinkWriter *writer = engine_link_begin(LINK_REST);
	Slice		token = buffer_slice(&pending->rest->token);

	link_put_u64(writer, gateway_unique(admission()->last_id + 1));
	link_put_u8(writer, is_private);
	link_put_bytes(writer, topic.data, topic.length);
	link_put_bytes(writer, token.data, token.length);
	engine_link_end();
	wait_for_engine(pending);
}

/* The head of a REST request is complete. */
static void
begin_rest(Pending *pending, const Request *request, size_t head_length)
{
	RestError	error = {0};
	RestRequest *rest = pending->rest = allocate_zero(sizeof(RestRequest));
	Buffer	   *in = &pending->in;
	Slice		topic = SLICE("");

	if (!rest_read_head(request, &gateway.config, rest, &error))
		refuse_rest(pending, error.status, buffer_slice(&error.body));
	else if (!rate_allows(&admission()->requests, now(),
						  gateway.config.max_requests_per_second, 1000))
		refuse_rest(pending, 429, SLICE("{\"message\":\"Too many requests\"}"));
	else if (in->length - head_length > rest->body_length)
		refuse_rest(pending, 400, SLICE("{\"error\":\"Malformed request\"}"));
	else
	{
		memmove(in->data, in->data + head_length, in->length - head_length);
		in->length -= head_length;
		if (!rest->is_batch)
			topic = buffer_slice(&rest->messages[0].topic);
		ask_about_rest(pending, !rest->is_batch && rest->messages[0].is_private,
					   topic);
	}
	buffer_release(&error.body);
}

/*
 * Ask the engine to store the message.  It is sent when that is done, so that
 * who joins meanwhile gets it once: live, or as one of the past.
 */
static void
store_message(Pending *pending)
{
	RestRequest *rest = pending->rest;
	const RestMessage *message = &rest->messages[0];
	Slice		topic = buffer_slice(&message->topic);
	Slice		token = buffer_slice(&rest->token);
	Slice		event = buffer_slice(&message->event);
	LinkWriter *writer;

	if (engine_link_congested())
	{
		answer_rest(pending, 503, SLICE(CANNOT_STORE));
		return;
	}
	uuid_make(rest->id);
	writer = engine_link_begin(LINK_REST_PERSIST);
	link_put_u64(writer, gateway_unique(admission()->last_id + 1));
	link_put_bytes(writer, topic.data, topic.length);
	link_put_bytes(writer, token.data, token.length);
	link_put_string(writer, rest->id);
	link_put_bytes(writer, event.data, event.length);
	link_put_u8(writer, message->is_json);
	link_put_bytes(writer, message->payload.data, message->payload.length);
	link_put_u32(writer, message->ttl);
	if (!engine_link_end())
	{
		answer_rest(pending, 422, SLICE("{\"message\":\"Payload size exceeds tenant limit\"}"));
		return;
	}
	rest->storing = true;
	wait_for_engine(pending);
}

/* What a message that is sent by HTTP looks like */
static PhoenixBroadcast
broadcast_of(const RestRequest *rest, const RestMessage *message,
			 Buffer *metadata)
{
	PhoenixBroadcast broadcast = {.event = buffer_slice(&message->event),
		.payload = message->payload,
	.payload_is_json = message->is_json};

	if (message->persist)
	{
		buffer_append_string(metadata, "{\"id\":\"");
		buffer_append_string(metadata, rest->id);
		buffer_append_string(metadata, "\"}");
		broadcast.id = slice_of(rest->id);
		broadcast.metadata = buffer_slice(metadata);
	}
	return broadcast;
}

/* Send the messages that are allowed. */
static void
finish_rest(Pending *pending)
{
	const RestRequest *rest = pending->rest;

	for (size_t i = 0; i < rest->n_messages; i++)
	{
		const RestMessage *message = &rest->messages[i];
		Buffer		metadata = {0};
		PhoenixBroadcast broadcast = broadcast_of(rest, message, &metadata);

		if (message->allowed)
			broadcast_send_rest(message->is_private,
								buffer_slice(&message->topic),
								buffer_slice(&rest->token), &broadcast);
		buffer_release(&metadata);
	}
	answer_rest(pending, 202, SLICE(""));
}

/* The message before this one with the same topic in the same room, or NULL */
static const RestMessage *
find_alike(const RestRequest *rest, const RestMessage *message)
{
	for (const RestMessage *other = rest->messages; other < message; other++)
		if (other->is_private && other->topic.length == message->topic.length &&
			memcmp(other->topic.data, message->topic.data, message->topic.length) == 0)
			return other;
	return NULL;
}

/*
 * Decide which messages may be sent: public ones always, for the token is
 * valid; for private ones the engine decides, once for each topic.
 */
static void
decide_messages(Pending *pending)
{
	RestRequest *rest = pending->rest;

	for (; rest->n_decided < rest->n_messages; rest->n_decided++)
	{
		RestMessage *message = &rest->messages[rest->n_decided];
		const RestMessage *alike;

		if (!message->is_private || !rest->is_batch)
			message->allowed = true;
		else if ((alike = find_alike(rest, message)) != NULL)
			message->allowed = alike->allowed;
		else
		{
			ask_about_rest(pending, true, buffer_slice(&message->topic));
			return;
		}
	}
	if (!rest->is_batch && rest->messages[0].persist)
		store_message(pending);
	else
		finish_rest(pending);
}

/* The body is complete. */
static void
read_rest(Pending *pending)
{
	RestError	error = {0};

	if (rest_read_body(pending->rest, buffer_slice(&pending->in),
					   &gateway.config, &error))
		decide_messages(pending);
	else
		refuse_rest(pending, error.status, buffer_slice(&error.body));
	buffer_release(&error.body);
}

/* The token is valid: take the body. */
static void
receive_body(Pending *pending)
{
	static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
	RestRequest *rest = pending->rest;

	if (admission()->body_bytes + rest->body_length > MAX_BODY_BYTES)
	{
		answer_rest(pending, 503, SLICE("{\"error\":\"Too many requests at once\"}"));
		return;
	}
	admission()->body_bytes += rest->body_length;
	pending->takes_body = true;
	if (pending->in.length == rest->body_length)
	{
		read_rest(pending);
		return;
	}
	/* It is small and the first thing sent: the socket takes it. */
	if (rest->expects_continue &&
		send(pending->fd, go_on, sizeof(go_on) - 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
	{
		end_pending(pending);
		return;
	}
	enter_state(pending, &admission()->receiving, gateway.config.handshake_timeout);
	uv_poll_start(&pending->poll, UV_READABLE, on_readable);
}

static Pending *
find_waiting(uint64_t id)
{
	TableNode  *node = table_find(&admission()->waiting, hash_number(id));

	while (node != NULL && TABLE_OWNER(Pending, by_id, node)->id != id)
		node = table_find_next(node);
	return node != NULL ? TABLE_OWNER(Pending, by_id, node) : NULL;
}

/* The engine has stored the message that is to be sent, or says why not. */
static void
message_stored(Pending *pending, int status)
{
	if (status == 200)
		finish_rest(pending);
	else if (status == 401 || status == 403)
		refuse_rest(pending, status, SLICE("{\"message\":\"Unauthorized\"}"));
	else if (status == 422)
		answer_rest(pending, 422, SLICE("{\"error\":\"invalid_payload\"}"));
	else
		answer_rest(pending, 503, SLICE(CANNOT_STORE));
}

/* The engine's verdict about a REST request */
void
admission_rest_verdict(uint64_t id, int status, uint8_t rights)
{
	Pending    *pending = find_waiting(id);
	bool		allowed = status == 200 && (rights & LINK_MAY_WRITE_BROADCAST);
	RestRequest *rest;

	if (pending == NULL || pending->rest == NULL)
		return;					/* it took too long */
	rest = pending->rest;
	if (!rest->is_batch && rest->messages[0].persist)
		allowed = allowed && (rights & LINK_MAY_PERSIST);
	table_remove(&admission()->waiting, &pending->by_id);
	list_remove(&pending->link);
	pending->state = NULL;
	if (rest->storing)
		message_stored(pending, status);
	else if (pending->takes_body)
	{
		rest->messages[rest->n_decided++].allowed = allowed;
		decide_messages(pending);
	}
	else if (status == 200 && (rest->is_batch || allowed))
		receive_body(pending);
	else
		refuse_rest(pending, status == 200 ? 403 : status,
					status >= 500 ? SLICE("{\"error\":\"Error connecting to Realtime\"}") :
					SLICE("{\"message\":\"Unauthorized\"}"));
}

/*------------------------------- deciding -------------------------------*/

/* Which serializer does the client ask for?  False if we do not have it. */
static bool
choose_version(const Request *request, PhoenixVersion *version)
{
	Buffer		vsn = {0};
	Slice		text;
	bool		known = true;

	*version = PHOENIX_V1;
	if (request_query_parameter(request->query, "vsn", &vsn))
	{
		text = buffer_slice(&vsn);
		if (text.length >= 4 && memcmp(text.data, "2.0.", 4) == 0)
			*version = PHOENIX_V2;
		else
			known = text.length >= 4 && memcmp(text.data, "1.0.", 4) == 0;
	}
	buffer_release(&vsn);
	return known;
}

static bool
is_full(void)
{
	return gateway.stats.connections + admission()->waiting.count >=
		gateway.config.max_connections;
}

static void
ask_engine(Pending *pending)
{
	LinkWriter *writer = engine_link_begin(LINK_AUTH);

	pending->id = gateway_unique(++admission()->last_id);
	link_put_u64(writer, pending->id);
	link_put_bytes(writer, pending->token.data, pending->token.length);
	engine_link_end();
	table_insert(&admission()->waiting, &pending->by_id, hash_number(pending->id));
	enter_state(pending, &admission()->asking, VERDICT_TIMEOUT);
}

static void
decide_handshake(Pending *pending, const Request *request)
{
	if (!request_is_handshake(request))
		send_error(pending, 400, SLICE("Malformed WebSocket handshake"), request);
	else if (!slice_equals(request->websocket_version, "13"))
		send_error(pending, 426, SLICE("WebSocket version 13 is required"), request);
	else if (request->origin.data != NULL &&
			 !config_allows_origin(&gateway.config, request->origin))
		refuse_handshake(pending, 403, SLICE("Origin is not allowed"), request);
	else if (!choose_version(request, &pending->version))
		refuse_handshake(pending, 403, SLICE("Unsupported vsn"), request);
	else if (is_full())
		refuse_handshake(pending, 429, SLICE("Too many connected users"), request);
	else
	{
		request_token(request, &pending->token);
		if (pending->token.length == 0 && !gateway.config.allow_anonymous)
		{
			refuse_handshake(pending, 401, SLICE("API key is missing"), request);
			return;
		}
		if (!address_enter(&pending->peer, gateway.config.max_connections_per_address,
						   &pending->address))
		{
			refuse_handshake(pending, 429, SLICE("Too many connected users"),
							 request);
			return;
		}
		pending->key = request->websocket_key;
		request_query_parameter(request->query, "rtsync_session",
								&pending->session);
		ask_engine(pending);
	}
}

/* The head is complete: decide what it asks for. */
static void
decide(Pending *pending, size_t head_length)
{
	Request		request;
	Buffer		response = {0};

	if (!request_parse(pending->in.data, head_length, &request))
	{
		send_error(pending, 400, SLICE("Malformed request"), NULL);
		return;
	}
	pending->peer = peer_behind_proxies(&pending->peer, &request,
										gateway.config.trusted_proxies);
	if (pending->wants_tls)
		send_error(pending, 400, SLICE("This port speaks TLS: use wss:// or https://"),
				   &request);
	else if (http_is_websocket_path(request.path) && request.upgrades)
	{
		/* A client must wait for the 101 before it sends on. */
		if (pending->in.length > head_length)
			send_error(pending, 400, SLICE("Malformed WebSocket handshake"),
					   &request);
		else
			decide_handshake(pending, &request);
	}
	else if (rest_concerns(&request))
		begin_rest(pending, &request, head_length);
	else
	{
		if (monitor_concerns(&request))
			monitor_answer(&request, &response);
		else if (!files_answer(&request, &gateway.config, may_hold_response,
							   &response))
			http_answer(&request, &gateway.config, &response);
		send_response(pending, &response);
	}
}

static void
admit(Pending *pending, uint64_t credential)
{
	int			fd = pending->fd;
	Buffer		head = pending->in;
	Buffer		token = pending->token;
	Buffer		session = pending->session;
	Slice		key = pending->key;
	PhoenixVersion version = pending->version;
	Address    *address = pending->address;
	PeerAddress peer = pending->peer;
	Tls		   *tls = pending->tls;

	if (gateway.stats.connections >= gateway.config.max_connections)
	{
		refuse_handshake(pending, 429, SLICE("Too many connected users"), NULL);
		return;
	}
	/* Our poll handle must let go of the descriptor before the library's. */
	pending->fd = -1;
	pending->address = NULL;
	pending->tls = NULL;
	pending->in = pending->token = pending->session = (Buffer) {0};
	end_pending(pending);
	if (!connection_open(fd, tls, &peer, address, key, buffer_slice(&token),
						 buffer_slice(&session), credential, version))
		log_client("could not open a WebSocket for %s", peer_text(&peer));
	buffer_release(&head);
	buffer_release(&token);
	buffer_release(&session);
}

/*
 * The engine's verdict about a handshake; credential is what it calls the key
 * that the client came with, or that its token is signed with
 */
void
admission_verdict(uint64_t id, int status, Slice error, uint64_t credential)
{
	Pending    *pending = find_waiting(id);

	if (pending == NULL || pending->rest != NULL)
		return;					/* the client has gone meanwhile */
	if (status == 200)
		admit(pending, credential);
	else
		refuse_handshake(pending, status,
						 error.data != NULL ? error : SLICE("Error"), NULL);
}

/*------------------------------- beginning ------------------------------*/

static void
set_option(int fd, int level, int option, int value)
{
	/* A socket without the option still works. */
	(void) setsockopt(fd, level, option, &value, sizeof(value));
}

static void
set_socket_options(int fd)
{
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 20);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
	set_option(fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER);
}

/* Begin to read; NULL, and the socket closed, if that cannot be done. */
static Pending *
begin_pending(int fd, PeerAddress peer, uint64_t timeout)
{
	Pending    *pending = allocate_zero(sizeof(Pending));

	if (uv_poll_init(gateway.loop, &pending->poll, fd) != 0)
	{
		close(fd);
		free(pending);
		return NULL;
	}
	pending->fd = fd;
	pending->peer = peer;
	pending->started = now();
	admission()->n_pending++;
	enter_state(pending, &admission()->reading, timeout);
	uv_poll_start(&pending->poll, UV_READABLE, on_readable);
	return pending;
}

/* A client has connected. */
static void
begin_client(int fd, const struct sockaddr_storage *address)
{
	Pending    *pending;

	set_socket_options(fd);
	pending = begin_pending(fd, peer_of_socket(address),
							gateway.config.handshake_timeout);
	if (pending != NULL)
		pending->wants_tls = gateway.config.ssl != 0;
}

static bool
begins_tls(int fd)
{
	unsigned char first;

	return recv(fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) == 1 &&
		first == TLS_HANDSHAKE;
}

/* Go on with the plain end of the client's socket, as if nothing had been. */
static void
begin_tls(Pending *pending)
{
	uint64_t	left = pending->deadline > now() ? pending->deadline - now() : 0;
	uint64_t	started = pending->started;
	PeerAddress peer = pending->peer;
	ListLink   *behind = pending->link.next;
	int			fd = pending->fd;
	int			plain;
	Tls		   *tls;
	Pending    *successor;

	pending->fd = -1;
	end_pending(pending);
	tls = tls_open(fd, &plain);
	if (tls == NULL)
		return;
	successor = begin_pending(plain, peer, left);
	if (successor == NULL)
	{
		tls_release(tls);
		return;
	}
	successor->tls = tls;
	successor->started = started;

	/* The list is in the order of deadlines: it takes its predecessor's place. */
	list_remove(&successor->link);
	list_append(behind, &successor->link);
	start_deadline_timer();
}

/*-------------------------------- reading -------------------------------*/

/*
 * Read once into a buffer.  Returns the number of bytes, 0 if there are none
 * now, -1 at the end of the stream or on an error.
 */
static ssize_t
receive(const Pending *pending, char *place, size_t size)
{
	ssize_t		received = recv(pending->fd, place, size, MSG_DONTWAIT);

	if (received > 0)
		return received;
	if (received < 0 &&
		(errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return 0;
	return -1;
}

static void
read_head(Pending *pending)
{
	Buffer	   *in = &pending->in;
	size_t		room = REQUEST_MAX_HEAD - in->length;
	size_t		head_length;
	ssize_t		received;

	if (room > FIRST_READ)
		room = FIRST_READ;
	buffer_reserve(in, room);
	received = receive(pending, in->data + in->length, room);
	if (received < 0)
	{
		end_pending(pending);
		return;
	}
	in->length += (size_t) received;
	if (in->length == 0)
		return;
	if (in->data[0] < 'A' || in->data[0] > 'Z')
	{
		/* Not a request at all, perhaps TLS: do not wait for its end. */
		send_error(pending, 400, SLICE("Malformed request"), NULL);
		return;
	}
	head_length = request_head_length(in->data, in->length, &pending->scanned);
	if (head_length > 0)
		decide(pending, head_length);
	else if (in->length >= REQUEST_MAX_HEAD)
		send_error(pending, 431, SLICE("Request head is too large"), NULL);
}

/* Read more of a body. */
static void
read_body(Pending *pending)
{
	Buffer	   *in = &pending->in;
	size_t		room = pending->rest->body_length - in->length;
	ssize_t		received;

	if (room > BODY_READ)
		room = BODY_READ;
	buffer_reserve(in, room);
	received = receive(pending, in->data + in->length, room);
	if (received < 0)
	{
		end_pending(pending);
		return;
	}
	in->length += (size_t) received;
	if (in->length == pending->rest->body_length)
	{
		list_remove(&pending->link);
		pending->state = NULL;
		read_rest(pending);
	}
}

/*
 * While the client waits for us it has nothing to say: it has gone, or does
 * not keep to the protocol.
 */
static void
read_while_waiting(Pending *pending)
{
	char		byte;

	if (receive(pending, &byte, 1) != 0)
		end_pending(pending);
}

static void
read_while_lingering(Pending *pending)
{
	static char thrown_away[16384];
	ssize_t		received = receive(pending, thrown_away, sizeof(thrown_away));

	if (received > 0)
		pending->discarded += (size_t) received;
	if (received < 0 || pending->discarded > LINGER_BYTES)
		end_pending(pending);
}

static void
on_readable(uv_poll_t *handle, int status, int events)
{
	Pending    *pending = LIST_OWNER(Pending, poll, handle);

	(void) events;
	if (status < 0)
		end_pending(pending);
	else if (pending->state == &admission()->reading &&
			 pending->wants_tls && pending->in.length == 0 &&
			 begins_tls(pending->fd))
		begin_tls(pending);
	else if (pending->state == &admission()->sending)
		continue_sending(pending);
	else if (pending->state == &admission()->reading)
		read_head(pending);
	else if (pending->state == &admission()->receiving)
		read_body(pending);
	else if (pending->state == &admission()->lingering)
		read_while_lingering(pending);
	else
		read_while_waiting(pending);
}

/*------------------------------- deadlines ------------------------------*/

/* The first of the list if its deadline has passed, else NULL */
static Pending *
first_due(List *state)
{
	ListLink   *link = list_first(state);

	if (link == NULL || LIST_OWNER(Pending, link, link)->deadline > now())
		return NULL;
	return LIST_OWNER(Pending, link, link);
}

/* Send the refusal that was held back. */
static void
send_delayed(Pending *pending)
{
	Buffer		response = pending->response;

	pending->response = (Buffer) {0};
	send_response(pending, &response);
}

static void
on_deadline(uv_timer_t *timer)
{
	Pending    *pending;

	(void) timer;
	while ((pending = first_due(&admission()->reading)) != NULL)
	{
		if (pending->in.length > 0)
			send_error(pending, 408, SLICE("Request timeout"), NULL);
		else
			end_pending(pending);
	}
	while ((pending = first_due(&admission()->asking)) != NULL)
		refuse_handshake(pending, 500, SLICE("Error connecting to Realtime"), NULL);
	while ((pending = first_due(&admission()->receiving)) != NULL)
		send_error(pending, 408, SLICE("Request timeout"), NULL);
	while ((pending = first_due(&admission()->delaying)) != NULL)
		send_delayed(pending);
	while ((pending = first_due(&admission()->sending)) != NULL)
		end_pending(pending);
	while ((pending = first_due(&admission()->lingering)) != NULL)
		end_pending(pending);
	start_deadline_timer();
}

/*------------------------------- accepting ------------------------------*/

static void
on_resume(uv_timer_t *timer)
{
	(void) timer;
	admission_accept();
}

/* Stop to accept for a moment; connections wait in the backlog. */
static void
pause_accepting(void)
{
	for (uint32_t i = 0; i < admission()->n_listeners; i++)
		uv_poll_stop(&admission()->listeners[i]);
	admission()->accepting = false;
	uv_timer_start(&admission()->resume_timer, on_resume, RESUME_AFTER, 0);
}

/* Is there room for another pending socket?  Makes some if it can. */
static bool
make_room(void)
{
	Pending    *pending;
	ListLink   *link;

	if (engine_link_congested())
		return false;
	if (admission()->n_pending < ADMISSION_MAX_PENDING)
		return true;
	if (list_is_empty(&admission()->lingering) &&
		(link = list_first(&admission()->delaying)) != NULL)
		send_delayed(LIST_OWNER(Pending, link, link));
	if ((link = list_first(&admission()->lingering)) != NULL)
		pending = LIST_OWNER(Pending, link, link);
	else if ((pending = first_evictable(&admission()->reading)) == NULL)
		pending = first_evictable(&admission()->sending);
	if (pending == NULL)
		return admission()->n_pending < ADMISSION_MAX_PENDING;
	end_pending(pending);
	return true;
}

static void
on_connection(uv_poll_t *handle, int status, int events)
{
	int			listener = -1;

	(void) status;
	(void) events;
	uv_fileno((uv_handle_t *) handle, &listener);
	for (int i = 0; i < ACCEPTS_PER_EVENT; i++)
	{
		struct sockaddr_storage address = {0};
		socklen_t	length = sizeof(address);
		int			fd;

		if (!make_room())
		{
			pause_accepting();
			return;
		}
		fd = accept4(listener, (struct sockaddr *) &address, &length,
					 SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
		{
			begin_client(fd, &address);
			continue;
		}
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return;
		if (errno == EINTR || errno == ECONNABORTED || errno == EPROTO)
			continue;
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
			errno == ENOMEM)
			log_client("could not accept a connection: %s", strerror(errno));
		pause_accepting();
		return;
	}
}

/* Accept connections, from now on. */
void
admission_accept(void)
{
	if (admission()->accepting)
		return;
	admission()->accepting = true;
	for (uint32_t i = 0; i < admission()->n_listeners; i++)
		uv_poll_start(&admission()->listeners[i], UV_READABLE, on_connection);
}

/*
 * Take over the listening sockets, without accepting yet.  Returns false if
 * one is no socket.
 */
bool
admission_start(int first_fd, uint32_t n_listeners)
{
	list_init(&admission()->reading);
	list_init(&admission()->asking);
	list_init(&admission()->receiving);
	list_init(&admission()->delaying);
	list_init(&admission()->sending);
	list_init(&admission()->lingering);
	uv_timer_init(gateway.loop, &admission()->resume_timer);
	uv_timer_init(gateway.loop, &admission()->deadline_timer);
	for (uint32_t i = 0; i < n_listeners; i++)
	{
		int			fd = first_fd + (int) i;

		if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0 ||
			fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 ||
			uv_poll_init(gateway.loop, &admission()->listeners[i], fd) != 0)
			return false;
		admission()->n_listeners++;
	}
	return true;
}

static void
close_pending(const List *list)
{
	ListLink   *link = list_first(list);

	for (; link != NULL; link = list_next(list, link))
		close(LIST_OWNER(Pending, link, link)->fd);
}

/*
 * Give up the listening sockets and those that are not admitted yet, in a
 * process that does nothing more with them.
 */
void
admission_stop(void)
{
	for (uint32_t i = 0; i < admission()->n_listeners; i++)
		close(LINK_LISTEN_FD + (int) i);
	close_pending(&admission()->reading);
	close_pending(&admission()->asking);
	close_pending(&admission()->receiving);
	close_pending(&admission()->delaying);
	close_pending(&admission()->sending);
	close_pending(&admission()->lingering);
}
