/*-------------------------------------------------------------------------
 *
 * gateway.h
 *	  The state of the gateway: one process, one thread, one loop.
 *
 * Each module owns the member of its type and is the only one that writes it;
 * the counters are written where the thing counted happens.
 *
 * What a module calls, from the top of the picture down:
 *
 *	main			starts and stops everything
 *	engine_link		the engine's messages, in and out
 *	admission		sockets up to the verdict about their handshake
 *	channel			channels: joined, left, and what is said on them
 *	broadcast, presence, fanout		what members of a topic are sent
 *	kept			broadcasts that the engine is storing
 *	topic			topics, and who is in which
 *	monitor			health, metrics, and the list of connections
 *	brake			refusals that are held back
 *	connection		WebSockets: send queue, limits, closing
 *	websocket		libwebsockets
 *	tls, certificate		TLS, below all that reads or writes a socket
 *	address			connections by where they come from
 *	files, metrics, rest, http, peer, request, phoenix, join, jsontext, frame,
 *	socket, config, memory, table, list, rate, log
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H

#include <uv.h>

#include "gateway/address.h"
#include "gateway/admission.h"
#include "gateway/brake.h"
#include "gateway/channel.h"
#include "gateway/config.h"
#include "gateway/connection.h"
#include "gateway/engine_link.h"
#include "gateway/fanout.h"
#include "gateway/kept.h"
#include "gateway/metrics.h"
#include "gateway/monitor.h"
#include "gateway/presence.h"
#include "gateway/tls.h"
#include "gateway/topic.h"
#include "gateway/websocket.h"

typedef struct GatewayStats
{
	uint32_t	connections;
	uint32_t	channels;
	uint64_t	frames_sent;
	uint64_t	bytes_sent;
	uint64_t	closed_slow;
} GatewayStats;

typedef struct Gateway
{
	uv_loop_t  *loop;
	Config		config;
	GatewayStats stats;
	EngineLink	link;
	Admission	admission;
	Addresses	addresses;
	Connections connections;
	Brake		brake;
	Channels	channels;
	Fanout		fanout;
	KeptList	kept;
	Metrics		metrics;
	Monitor		monitor;
	Presences	presences;
	TlsState	tls;
	Topics		topics;
	WebSocket	websocket;
} Gateway;

extern Gateway gateway;

/* A number that no other gateway gives, from a count */
static inline uint64_t
gateway_unique(uint64_t count)
{
	return (uint64_t) gateway.config.gateway << LINK_NUMBER_SHIFT | count;
}

extern void gateway_open(uint32_t n_listeners);
extern void gateway_configured(void);
extern void gateway_stop(uint16_t close_code) __attribute__((noreturn));

#endif							/* GATEWAY_GATEWAY_H */
