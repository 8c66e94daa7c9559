/*-------------------------------------------------------------------------
 *
 * websocket.h
 *	  libwebsockets, as far as the gateway uses it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_WEBSOCKET_H
#define GATEWAY_WEBSOCKET_H

#include <libwebsockets.h>

#include "gateway/memory.h"

struct Connection;

typedef struct WebSocket
{
	struct lws_context *context;
	struct lws_vhost *vhost;
	struct Connection *adopting;	/* during websocket_adopt */
} WebSocket;

extern bool websocket_start(void);
extern bool websocket_adopt(struct Connection *connection, int fd, Slice key);

#endif							/* GATEWAY_WEBSOCKET_H */
