/*-------------------------------------------------------------------------
 *
 * request.h
 *	  Reading the head of an HTTP request.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_REQUEST_H
#define GATEWAY_REQUEST_H

#include "gateway/memory.h"

/* Heads that are longer are refused with 431. */
#define REQUEST_MAX_HEAD 16384

#define REQUEST_MAX_LINES 8		/* of one header that may have several */

typedef struct RequestLines
{
	Slice		values[REQUEST_MAX_LINES];
	uint32_t	count;
} RequestLines;

/* All slices point into the head; data is NULL where the header is absent. */
typedef struct Request
{
	Slice		method;
	Slice		path;			/* as sent, without the query */
	Slice		query;			/* without the "?" */
	int			minor_version;	/* of HTTP/1 */
	Slice		host;
	Slice		origin;
	Slice		api_key;		/* X-Api-Key */
	Slice		apikey_header;	/* Apikey */
	Slice		authorization;
	Slice		content_type;
	Slice		content_length;
	RequestLines x_forwarded_for;
	RequestLines forwarded;
	Slice		websocket_key;
	Slice		websocket_version;
	bool		upgrades;		/* Upgrade: websocket, Connection: upgrade */
	bool		has_body;
	bool		is_chunked;		/* or otherwise encoded */
	bool		expects_continue;
} Request;

extern size_t request_head_length(const char *data, size_t length,
								  size_t *scanned);
extern bool request_parse(const char *head, size_t length, Request *request);
extern bool request_is_handshake(const Request *request);
extern bool request_query_parameter(Slice query, const char *name,
									Buffer *value);
extern void request_decode_path(Slice part, Buffer *value);
extern void request_token(const Request *request, Buffer *token);

#endif							/* GATEWAY_REQUEST_H */
