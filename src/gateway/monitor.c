/*-------------------------------------------------------------------------
 *
 * monitor.c
 *	  Health and metrics over HTTP, and the list of connections.
 *
 * The engine says about once a second how it is (LINK_MONITOR); what we answer
 * is what it said last, so that nobody who asks reaches it.  If it has said
 * nothing for SILENCE we are not ready, whatever the reason.
 *
 *	/health		200 or 503, and {"live":true,"ready":...,"reason":"..."}
 *	/metrics	Prometheus' text, for who knows rtsync.metrics_token; without
 *				that setting there is no such path
 *
 * The list of connections (LINK_LIST) is put together a few at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/monitor.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "gateway/gateway.h"
#include "gateway/http.h"

#define SILENCE 10000			/* ms */
#define LISTED_PER_TURN 256		/* connections ... */
#define LISTED_BYTES (256 * 1024)	/* ... or so many bytes */

static Monitor *
monitor(void)
{
	return &gateway.monitor;
}

void
monitor_init(void)
{
	uv_idle_init(gateway.loop, &monitor()->lister);
	gateway.metrics.started = (uint64_t) time(NULL);
}

/*------------------------------- the engine -----------------------------*/

static void
replace(Buffer *buffer, Slice text)
{
	buffer->length = 0;
	buffer_append_slice(buffer, text);
}

/* LINK_MONITOR */
void
monitor_heard(bool ready, Slice reason, Slice metrics)
{
	monitor()->ready = ready;
	monitor()->heard_at = uv_now(gateway.loop);
	replace(&monitor()->reason, reason);
	replace(&monitor()->metrics, metrics);
}

static uint64_t
wall_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

/* LINK_COMMITTED: what came before it leaves with the end of this turn. */
void
monitor_committed(uint64_t commit_time)
{
	if (monitor()->n_commits == MONITOR_MAX_COMMITS)
		monitor_flushed();
	monitor()->commits[monitor()->n_commits++] = commit_time;
}

/* What was queued has been sent, as far as the clients take it. */
void
monitor_flushed(void)
{
	uint64_t	now;

	if (monitor()->n_commits == 0)
		return;
	now = wall_clock();
	for (uint32_t i = 0; i < monitor()->n_commits; i++)
		metrics_sent_after(&gateway.metrics,
						   ((double) now - (double) monitor()->commits[i]) / 1e6);
	monitor()->n_commits = 0;
}

/*--------------------------------- HTTP ---------------------------------*/

bool
monitor_concerns(const Request *request)
{
	return slice_equals(request->path, "/health") ||
		slice_equals(request->path, "/metrics");
}

/* Why clients are not served; NULL if they are. */
static const char *
not_ready(Buffer *text)
{
	uint64_t	silence = uv_now(gateway.loop) - monitor()->heard_at;

	if (monitor()->heard_at == 0)
		buffer_append_string(text, "the gateway has not heard of the engine yet");
	else if (silence > SILENCE)
	{
		buffer_append_string(text, "the engine has not been heard of for ");
		buffer_append_number(text, silence / 1000);
		buffer_append_string(text, " seconds");
	}
	else if (!monitor()->ready)
		buffer_append_slice(text, monitor()->reason.length > 0 ?
							buffer_slice(&monitor()->reason) : SLICE("unknown"));
	else
		return NULL;
	return text->data;
}

static void
answer_health(const Request *request, Buffer *response)
{
	Buffer		body = {0};
	Buffer		reason = {0};
	bool		ready = not_ready(&reason) == NULL;

	buffer_append_string(&body, "{\"live\":true,\"ready\":");
	buffer_append_string(&body, ready ? "true" : "false");
	if (!ready)
	{
		buffer_append_string(&body, ",\"reason\":");
		buffer_append_json_string(&body, buffer_slice(&reason));
	}
	buffer_append_string(&body, "}\n");
	http_json(ready ? 200 : 503, buffer_slice(&body), request, &gateway.config,
			  response);
	buffer_release(&body);
	buffer_release(&reason);
}

/* What we have counted, and hold now */
static MetricsShare
own_share(void)
{
	Buffer		reason = {0};
	MetricsShare share = {.counted = gateway.metrics};

	share.now = (MetricsNow) {
		.ready = not_ready(&reason) == NULL,
		.engine_silence = (double) (uv_now(gateway.loop) - monitor()->heard_at) / 1000,
		.connections = gateway.stats.connections,
		.max_connections = gateway.config.max_connections,
		.channels = gateway.stats.channels,
		.frames_sent = gateway.stats.frames_sent,
		.bytes_sent = gateway.stats.bytes_sent,
		.closed_slow = gateway.stats.closed_slow,
	};
	buffer_release(&reason);
	return share;
}

/* Tell the other gateways, if there are any. */
void
monitor_tell(void)
{
	MetricsShare share;

	if (gateway.config.gateways == 1 || engine_link_congested())
		return;
	share = own_share();
	link_put_bytes(engine_link_begin(LINK_COUNTS), (const char *) &share,
				   sizeof(share));
	engine_link_end();
}

/* LINK_COUNTED: another gateway, of the same build as we are, has told us. */
void
monitor_counted(uint32_t number, Slice share)
{
	MetricsShare **other = &monitor()->others[number];

	if (share.length != sizeof(MetricsShare))
		return;
	if (*other == NULL)
		*other = allocate(sizeof(MetricsShare));
	memcpy(*other, share.data, sizeof(MetricsShare));
}

/* LINK_GATEWAY_ENDED */
void
monitor_gone(uint32_t number)
{
	free(monitor()->others[number]);
	monitor()->others[number] = NULL;
}

static void
answer_metrics(const Request *request, Buffer *response)
{
	Buffer		body = {0};
	MetricsShare sum = own_share();

	for (int i = 0; i <= GATEWAY_MAX_NUMBER; i++)
		if (monitor()->others[i] != NULL)
			metrics_add(&sum, monitor()->others[i]);
	metrics_write(&sum.counted, &sum.now, &body);
	buffer_append_slice(&body, buffer_slice(&monitor()->metrics));
	http_respond(200, "Cache-Control: no-store\r\n",
				 "text/plain; version=0.0.4; charset=utf-8",
				 buffer_slice(&body), request, &gateway.config, response);
	buffer_release(&body);
}

/* The token of "Authorization: Bearer TOKEN", or nothing */
static Slice
bearer(const Request *request)
{
	Slice		header = request->authorization;

	if (header.length < 7 ||
		!slice_equals_nocase((Slice) {header.data, 7}, "bearer "))
		return SLICE("");
	return (Slice) {header.data + 7, header.length - 7};
}

/* Does the request know the token?  Takes as long whatever it says. */
static bool
is_authorized(const Request *request)
{
	const char *token = gateway.config.metrics_token;
	size_t		length = strlen(token);
	Slice		given = bearer(request);
	unsigned char difference = given.length != length;

	for (size_t i = 0; i < given.length; i++)
		difference |= (unsigned char) (given.data[i] ^ token[i % (length + 1)]);
	return difference == 0;
}

/* Answer a request that monitor_concerns(). */
void
monitor_answer(const Request *request, Buffer *response)
{
	bool		health = slice_equals(request->path, "/health");

	if (!health && gateway.config.metrics_token[0] == '\0')
		http_error(404, SLICE("Not found"), request, &gateway.config, response);
	else if (!slice_equals(request->method, "GET") &&
			 !slice_equals(request->method, "HEAD"))
		http_error(405, SLICE("Method not allowed"), request, &gateway.config,
				   response);
	else if (health)
		answer_health(request, response);
	else if (!is_authorized(request))
		http_error(401, SLICE("The token of rtsync.metrics_token is required"),
				   request, &gateway.config, response);
	else
		answer_metrics(request, response);
}

/*-------------------------- the list of connections ---------------------*/

/* The client's port; 0 behind a proxy, where it is not known */
static uint32_t
port_of(const Connection *connection)
{
	struct sockaddr_storage address = {0};
	socklen_t	length = sizeof(address);
	PeerAddress socket_peer;

	if (getpeername(connection_socket(connection),
					(struct sockaddr *) &address, &length) != 0)
		return 0;
	socket_peer = peer_of_socket(&address);
	if (memcmp(&socket_peer, &connection->peer, sizeof(socket_peer)) != 0)
		return 0;
	return address.ss_family == AF_INET ?
		ntohs(((struct sockaddr_in *) &address)->sin_port) :
		ntohs(((struct sockaddr_in6 *) &address)->sin6_port);
}

static void
put_address(LinkWriter *writer, const Connection *connection)
{
	const PeerAddress *peer = &connection->peer;

	if (!peer_is_known(peer))
		link_put_string(writer, NULL);
	else if (peer_is_ipv4(peer))
		link_put_bytes(writer, (const char *) peer->bytes + 12, 4);
	else
		link_put_bytes(writer, (const char *) peer->bytes, 16);
	link_put_u32(writer, port_of(connection));
}

static void
put_connection(LinkWriter *writer, const Connection *connection)
{
	uint64_t	now = uv_now(gateway.loop);
	ListLink   *link = list_first(&connection->channels);

	link_put_u64(writer, connection->number);
	put_address(writer, connection);
	link_put_u64(writer, now - connection->opened_at);
	link_put_u64(writer, now - connection->active_at);
	link_put_u32(writer, connection->version == PHOENIX_V1 ? 1 : 2);
	link_put_u8(writer, connection->tls != NULL);
	link_put_u8(writer, connection->paused);
	link_put_u64(writer, connection->frames_sent);
	link_put_u64(writer, connection->bytes_sent);
	link_put_u64(writer, connection->queued_bytes + connection->unsent_bytes);
	link_put_u32(writer, connection->n_channels);
	for (; link != NULL; link = list_next(&connection->channels, link))
	{
		const Channel *channel = LIST_OWNER(Channel, link, link);

		link_put_u64(writer, channel->id);
		link_put_u64(writer, channel->changes_sent);
	}
}

/* Send a part of the list: count first, then as many. */
static void
send_part(void)
{
	LinkWriter *writer;
	size_t		start;
	size_t		count_at;
	uint32_t	count = 0;
	Connection *connection = monitor()->list_next;

	writer = engine_link_begin(LINK_LISTED);
	start = writer->length;
	link_put_u32(writer, monitor()->list_request);
	link_put_u8(writer, 0);
	count_at = writer->length;
	link_put_u32(writer, 0);
	while (connection != NULL && count < LISTED_PER_TURN &&
		   writer->length - start < LISTED_BYTES)
	{
		if (connection->n_channels < LISTED_BYTES / 16)
		{
			put_connection(writer, connection);
			count++;
		}
		connection = connections_next(connection);
	}
	memcpy(writer->data + count_at, &count, sizeof(count));
	writer->data[count_at - 1] = connection == NULL;
	engine_link_end();
	monitor()->list_next = connection;
	monitor()->listing = connection != NULL;
}

static void
on_list(uv_idle_t *handle)
{
	if (engine_link_congested())
		return;
	send_part();
	if (!monitor()->listing)
		uv_idle_stop(handle);
}

/* LINK_LIST: a new request replaces one that is under way. */
void
monitor_list(uint32_t request)
{
	monitor()->list_request = request;
	monitor()->list_next = connections_next(NULL);
	monitor()->listing = true;
	uv_idle_start(&monitor()->lister, on_list);
}

/* The connection is about to be no more in the list of all. */
void
monitor_forget(const Connection *connection)
{
	if (monitor()->list_next == connection)
		monitor()->list_next = connections_next(connection);
}
