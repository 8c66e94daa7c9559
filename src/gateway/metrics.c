/*-------------------------------------------------------------------------
 *
 * metrics.c
 *	  What the gateway counts and measures for Prometheus.
 *
 * Pure: counters in, Prometheus' text format (version 0.0.4) out.  With several
 * gateways each tells the others its own, and who is asked gives the sums.  Labels have
 * the values that are listed here, and "other": what clients send never makes
 * a new one.  The names are listed in docs/manual.md; those of the engine come
 * from there, see monitor.c.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* Upper bounds of the buckets */
static const double seconds_bounds[] = {
	0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10
};
static const double bytes_bounds[] = {
	1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216
};

/* Values of labels; the last is that of all others. */
static const char *const close_codes[] = {
	"client", "1000", "1001", "1002", "1007", "1008", "1009", "1011", "1012",
	"1013", "other"
};
static const char *const statuses[] = {
	"200", "202", "204", "400", "401", "403", "404", "405", "408", "411", "413",
	"415", "422", "426", "429", "431", "500", "503", "other"
};
static const char *const join_results[] = {
	"ok", "InvalidJWTToken", "MalformedJWT", "JwtSignatureError",
	"JwtSignerError", "Unauthorized", "PrivateOnly", "TopicNameRequired",
	"InvalidJoinPayload", "ChannelRateLimitReached",
	"ClientJoinRateLimitReached", "RealtimeDisabledForConfiguration",
	"RealtimeRestarting", "UnableToReplayMessages",
	"UnableToSubscribeToPostgres", "other"
};

static void
count(uint64_t *counters, const char *const *labels, size_t n, Slice label)
{
	size_t		i = 0;

	while (i < n - 1 && !slice_equals(label, labels[i]))
		i++;
	counters[i]++;
}

/* A WebSocket has ended: code 0 is by the client. */
void
metrics_count_close(Metrics *metrics, uint16_t code)
{
	char		text[8];

	snprintf(text, sizeof(text), "%u", (unsigned int) code);
	count(metrics->closed, close_codes, LENGTH(close_codes),
		  code == 0 ? SLICE("client") : slice_of(text));
}

/* A request was answered with this response, which begins "HTTP/1.1 ". */
void
metrics_count_response(Metrics *metrics, Slice response)
{
	Slice		status = SLICE("");

	if (response.length >= 12)
		status = (Slice) {response.data + 9, 3};
	count(metrics->responses, statuses, LENGTH(statuses), status);
}

/* A join was answered: reason.data is NULL if it was accepted. */
void
metrics_count_join(Metrics *metrics, Slice reason)
{
	const char *colon = reason.data != NULL ?
		memchr(reason.data, ':', reason.length) : NULL;

	if (reason.data == NULL)
		reason = SLICE("ok");
	else if (colon != NULL)
		reason.length = (size_t) (colon - reason.data);
	count(metrics->joins, join_results, LENGTH(join_results), reason);
}

static void
observe(Histogram *histogram, const double *bounds, size_t n, double value)
{
	size_t		i = 0;

	while (i < n && value > bounds[i])
		i++;
	histogram->buckets[i]++;
	histogram->sum += value;
}

/* The changes of a transaction were sent so long after its commit. */
void
metrics_sent_after(Metrics *metrics, double seconds)
{
	observe(&metrics->commit_to_send, seconds_bounds, LENGTH(seconds_bounds),
			seconds > 0 ? seconds : 0);
}

/* A client takes no more for now, and so much waits for it. */
void
metrics_blocked(Metrics *metrics, uint64_t bytes)
{
	observe(&metrics->blocked_queue, bytes_bounds, LENGTH(bytes_bounds),
			(double) bytes);
}

/*------------------------------- adding ---------------------------------*/

static void
add_all(uint64_t *sums, const uint64_t *values, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sums[i] += values[i];
}

static void
add_histogram(Histogram *sum, const Histogram *other)
{
	add_all(sum->buckets, other->buckets, METRICS_MAX_BUCKETS);
	sum->sum += other->sum;
}

/*
 * Add what another gateway has counted and holds.  It started when the first
 * of them did; whether clients are served stays what we know of it.
 */
void
metrics_add(MetricsShare *sum, const MetricsShare *other)
{
	Metrics    *to = &sum->counted;
	const Metrics *from = &other->counted;

	if (from->started < to->started)
		to->started = from->started;
	to->opened += from->opened;
	add_all(to->closed, from->closed, METRICS_MAX_LABELS);
	add_all(to->responses, from->responses, METRICS_MAX_LABELS);
	add_all(to->joins, from->joins, METRICS_MAX_LABELS);
	to->received_messages += from->received_messages;
	to->received_bytes += from->received_bytes;
	to->queued_bytes += from->queued_bytes;
	add_histogram(&to->commit_to_send, &from->commit_to_send);
	add_histogram(&to->blocked_queue, &from->blocked_queue);
	sum->now.connections += other->now.connections;
	sum->now.max_connections += other->now.max_connections;
	sum->now.channels += other->now.channels;
	sum->now.frames_sent += other->now.frames_sent;
	sum->now.bytes_sent += other->now.bytes_sent;
	sum->now.closed_slow += other->now.closed_slow;
}

/*------------------------------- writing --------------------------------*/

static void
put_head(Buffer *out, const char *name, const char *type, const char *help)
{
	buffer_append_string(out, "# HELP rtsync_");
	buffer_append_string(out, name);
	buffer_append_string(out, " ");
	buffer_append_string(out, help);
	buffer_append_string(out, "\n# TYPE rtsync_");
	buffer_append_string(out, name);
	buffer_append_string(out, " ");
	buffer_append_string(out, type);
	buffer_append_string(out, "\n");
}

static void
put_number(Buffer *out, double value)
{
	char		text[32];

	snprintf(text, sizeof(text), "%.17g", value);
	buffer_append_string(out, text);
}

/* One line; "suffix" and the label may be empty. */
static void
put_sample(Buffer *out, const char *name, const char *suffix,
		   const char *label, const char *label_value, double value)
{
	buffer_append_string(out, "rtsync_");
	buffer_append_string(out, name);
	buffer_append_string(out, suffix);
	if (label != NULL)
	{
		buffer_append_string(out, "{");
		buffer_append_string(out, label);
		buffer_append_string(out, "=\"");
		buffer_append_string(out, label_value);
		buffer_append_string(out, "\"}");
	}
	buffer_append_string(out, " ");
	put_number(out, value);
	buffer_append_string(out, "\n");
}

static void
put_single(Buffer *out, const char *name, const char *type, double value,
		   const char *help)
{
	put_head(out, name, type, help);
	put_sample(out, name, "", NULL, NULL, value);
}

static void
put_labelled(Buffer *out, const char *name, const char *label,
			 const char *const *labels, size_t n, const uint64_t *values,
			 const char *help)
{
	put_head(out, name, "counter", help);
	for (size_t i = 0; i < n; i++)
		put_sample(out, name, "", label, labels[i], (double) values[i]);
}

static void
put_histogram(Buffer *out, const char *name, const double *bounds, size_t n,
			  const Histogram *histogram, const char *help)
{
	uint64_t	total = 0;
	char		bound[32];

	put_head(out, name, "histogram", help);
	for (size_t i = 0; i <= n; i++)
	{
		total += histogram->buckets[i];
		if (i < n)
			snprintf(bound, sizeof(bound), "%.15g", bounds[i]);
		put_sample(out, name, "_bucket", "le", i < n ? bound : "+Inf",
				   (double) total);
	}
	put_sample(out, name, "_sum", NULL, NULL, histogram->sum);
	put_sample(out, name, "_count", NULL, NULL, (double) total);
}

/* Write the gateway's metrics. */
void
metrics_write(const Metrics *metrics, const MetricsNow *now, Buffer *out)
{
	put_single(out, "ready", "gauge", now->ready,
			   "1 if clients are served.");
	put_single(out, "engine_silence_seconds", "gauge", now->engine_silence,
			   "Age of the engine's figures.");
	put_single(out, "gateway_start_time_seconds", "gauge",
			   (double) metrics->started,
			   "When the gateway started, since the Unix epoch.");
	put_single(out, "connections", "gauge", now->connections,
			   "WebSocket connections.");
	put_single(out, "max_connections", "gauge", now->max_connections,
			   "The setting rtsync.max_connections.");
	put_single(out, "channels", "gauge", now->channels,
			   "Channels, joined or being joined.");
	put_single(out, "connections_opened_total", "counter",
			   (double) metrics->opened, "WebSocket connections opened.");
	put_labelled(out, "connections_closed_total", "code", close_codes,
				 LENGTH(close_codes), metrics->closed,
				 "WebSocket connections ended, by close code.");
	put_single(out, "slow_client_closes_total", "counter",
			   (double) now->closed_slow,
			   "Connections closed because the client did not read.");
	put_labelled(out, "http_responses_total", "status", statuses,
				 LENGTH(statuses), metrics->responses,
				 "HTTP responses, refused handshakes among them.");
	put_labelled(out, "joins_total", "result", join_results,
				 LENGTH(join_results), metrics->joins,
				 "Joins of channels answered.");
	put_single(out, "sent_frames_total", "counter", (double) now->frames_sent,
			   "WebSocket frames sent.");
	put_single(out, "sent_bytes_total", "counter", (double) now->bytes_sent,
			   "Bytes of these frames.");
	put_single(out, "received_messages_total", "counter",
			   (double) metrics->received_messages,
			   "Messages received from clients.");
	put_single(out, "received_bytes_total", "counter",
			   (double) metrics->received_bytes, "Bytes of these messages.");
	put_single(out, "send_queue_bytes", "gauge",
			   (double) metrics->queued_bytes,
			   "Bytes that wait for clients, of all connections.");
	put_histogram(out, "blocked_queue_bytes", bytes_bounds,
				  LENGTH(bytes_bounds), &metrics->blocked_queue,
				  "Bytes that waited for a client when it took no more.");
	put_histogram(out, "commit_to_send_seconds", seconds_bounds,
				  LENGTH(seconds_bounds), &metrics->commit_to_send,
				  "Time from a commit until its changes were sent.");
}
