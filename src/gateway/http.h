/*-------------------------------------------------------------------------
 *
 * http.h
 *	  Answers to HTTP requests that do not become WebSockets.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_HTTP_H
#define GATEWAY_HTTP_H

#include "gateway/config.h"
#include "gateway/request.h"

extern bool http_is_websocket_path(Slice path);
extern Slice http_without_prefix(Slice path);
extern void http_answer(const Request *request, const Config *config,
						Buffer *response);
extern void http_respond(int status, const char *headers, const char *type,
						 Slice body, const Request *request,
						 const Config *config, Buffer *response);
extern void http_json(int status, Slice body, const Request *request,
					  const Config *config, Buffer *response);
extern void http_error(int status, Slice text, const Request *request,
					   const Config *config, Buffer *response);

#endif							/* GATEWAY_HTTP_H */
