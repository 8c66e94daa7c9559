/*-------------------------------------------------------------------------
 *
 * config.h
 *	  The settings that the engine sends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_CONFIG_H
#define GATEWAY_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/memory.h"

/*
 * Sizes in bytes, times in milliseconds.  0 turns off the timeouts that allow
 * for it, and the limits per second or address.
 */
#define GATEWAY_MAX_NUMBER 15

typedef struct Config
{
	char	   *allowed_origins;	/* list separated by commas, "*" for any */
	char	   *trusted_proxies;	/* likewise: addresses and networks */
	char	   *ssl_certificate;	/* PEM, with what it is signed by */
	char	   *ssl_key;		/* PEM, not encrypted; certificate.c clears it */
	char	   *ssl_ciphers;
	char	   *ssl_min_protocol_version;	/* TLSv1.2 or TLSv1.3; "" sets none */
	char	   *ssl_max_protocol_version;	/* likewise */
	char	   *http_root;		/* a directory whose files are served; "": none */
	char	   *metrics_token;	/* who knows it gets the metrics; "": nobody */
	uint32_t	max_connections;
	uint32_t	max_channels_per_connection;
	uint32_t	max_connections_per_address;
	uint32_t	max_joins_per_second;	/* of one connection */
	uint32_t	max_messages_per_second;	/* likewise, of all kinds */
	uint32_t	max_requests_per_second;	/* of all, that broadcast by HTTP */
	uint32_t	max_message_size;	/* of a message from a client */
	uint32_t	max_payload_size;	/* of a broadcast */
	uint32_t	max_presence_size;	/* of what a member says about itself */
	uint32_t	max_presence_calls; /* of one channel within 30 s */
	uint32_t	presence_interval;	/* in which its changes are collected */
	uint32_t	send_queue_size;	/* unsent bytes for one client */
	uint32_t	send_timeout;	/* without the client taking any of them */
	uint32_t	handshake_timeout;	/* for the whole request head */
	uint32_t	idle_timeout;	/* without any message from the client */
	uint32_t	no_channel_timeout; /* of a connection that joined nothing */
	uint32_t	error_delay;	/* before a refusal of a join */
	uint32_t	shutdown_spread;	/* in which clients are told that we end */
	uint32_t	gateway;		/* the number of this one, ... */
	uint32_t	gateways;		/* ... among so many */
	uint32_t	allow_anonymous;	/* 1: clients may show no token */
	uint32_t	ssl;			/* 1: speak nothing but TLS */
} Config;

extern void config_init(Config *config);
extern void config_set(Config *config, Slice name, Slice value);
extern bool config_next_element(const char **rest, Slice *element);
extern bool config_allows_any_origin(const Config *config);
extern bool config_allows_origin(const Config *config, Slice origin);
extern void config_release(Config *config);

#endif							/* GATEWAY_CONFIG_H */
