/*-------------------------------------------------------------------------
 *
 * websocket.c
 *	  libwebsockets: its context on our loop, and its callbacks.
 *
 * The library gets a socket only once the handshake was admitted, together
 * with a handshake that we write ourselves from what admission.c checked.  So
 * it answers the 101 and speaks WebSocket, and its HTTP parser never sees a
 * byte that came from the network; nor does a client get an extension or a
 * subprotocol.  It does so within websocket_adopt, synchronously: a handshake
 * that it sees at any other time was not admitted, and is refused.
 *
 * The library does not refuse frames that a client left unmasked (RFC 6455,
 * section 5.1), and has no call that tells them from others.  The mask protects
 * proxies from pages in browsers, and browsers always mask.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/websocket.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/gateway.h"
#include "gateway/log.h"

#define RX_BUFFER_SIZE 1024		/* held by each connection */
#define TX_PACKET_SIZE 1000000	/* the default would send 4 kB a turn */

static int	callback(struct lws *wsi, enum lws_callback_reasons reason,
					 void *user, void *in, size_t length);

static const struct lws_protocols protocols[] = {
	{
		.name = "realtime",
		.callback = callback,
		.rx_buffer_size = RX_BUFFER_SIZE,
		.tx_packet_size = TX_PACKET_SIZE,
	},
	{0}
};

/* No pings of the library's: its timers are kept in one sorted list. */
static const lws_retry_bo_t no_timers = {0};

/* Peers can make the library log errors; only those at start matter. */
static void
log_library(int level, const char *line)
{
	(void) level;
	log_message("WARNING", "libwebsockets: %s", line);
}

/*
 * Create the library's context on our loop.  RLIMIT_NOFILE must have its
 * final value: the library sizes its tables by it.
 */
bool
websocket_start(void)
{
	WebSocket  *websocket = &gateway.websocket;
	struct lws_context_creation_info info = {0};
	void	   *loops[1] = {gateway.loop};

	lws_set_log_level(LLL_ERR, log_library);
	info.port = CONTEXT_PORT_NO_LISTEN_SERVER;
	info.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_LIBUV |
		LWS_SERVER_OPTION_VALIDATE_UTF8;
	info.foreign_loops = loops;
	info.protocols = protocols;
	info.retry_and_idle_policy = &no_timers;
	info.max_http_header_pool = 16;
	websocket->context = lws_create_context(&info);
	if (websocket->context != NULL)
	{
		info.vhost_name = "gateway";
		websocket->vhost = lws_create_vhost(websocket->context, &info);
	}
	if (websocket->vhost == NULL)
	{
		log_message("FATAL", "could not start libwebsockets");
		return false;
	}
	lws_set_log_level(0, log_library);
	return true;
}

/*
 * Hand the socket of an admitted handshake to the library, which sends the
 * 101.  "key" is the client's Sec-WebSocket-Key.  Returns false if that
 * failed; the socket is closed then.
 */
bool
websocket_adopt(struct Connection *connection, int fd, Slice key)
{
	WebSocket  *websocket = &gateway.websocket;
	Buffer		head = {0};

	buffer_append_string(&head, "GET / HTTP/1.1\r\nHost: gateway\r\n"
						 "Upgrade: websocket\r\nConnection: Upgrade\r\n"
						 "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ");
	buffer_append_slice(&head, key);
	buffer_append_string(&head, "\r\n\r\n");

	websocket->adopting = connection;
	lws_adopt_socket_vhost_readbuf(websocket->vhost, fd, head.data, head.length);
	websocket->adopting = NULL;
	buffer_release(&head);
	return connection->wsi != NULL;
}

/*
 * The one callback.  A wsi carries its Connection as opaque user data from the
 * moment that it is established until it is destroyed.
 */
static int
callback(struct lws *wsi, enum lws_callback_reasons reason, void *user,
		 void *in, size_t length)
{
	Connection *connection = lws_get_opaque_user_data(wsi);

	(void) user;
	switch (reason)
	{
		case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
			return gateway.websocket.adopting != NULL ? 0 : -1;

		case LWS_CALLBACK_ESTABLISHED:
			connection = gateway.websocket.adopting;
			if (connection == NULL || connection->wsi != NULL)
				return -1;
			lws_set_opaque_user_data(wsi, connection);
			connection_established(connection, wsi);
			return 0;

		case LWS_CALLBACK_RECEIVE:
			if (connection == NULL)
				return -1;
			connection_receive(connection, in, length);
			return 0;

		case LWS_CALLBACK_SERVER_WRITEABLE:
			if (connection == NULL)
				return -1;
			return connection_writable(connection) ? 0 : -1;

		case LWS_CALLBACK_CLOSED:
		case LWS_CALLBACK_WSI_DESTROY:
			if (connection != NULL)
			{
				lws_set_opaque_user_data(wsi, NULL);
				connection_gone(connection);
			}
			return 0;

		case LWS_CALLBACK_HTTP:
		case LWS_CALLBACK_HTTP_BODY:
			return -1;			/* admission.c answers HTTP */

		default:
			return 0;
	}
}
