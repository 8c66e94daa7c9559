/*-------------------------------------------------------------------------
 *
 * http.c
 *	  Answers to HTTP requests that do not become WebSockets.
 *
 * Pure: a request in, the bytes of a response out.  Every response closes the
 * connection.  A path may come with the prefix that Supabase's own gateway
 * maps (/realtime/v1/...) or without.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/http.h"

#include <string.h>

static const char *
status_text(int status)
{
	switch (status)
	{
		case 200:
			return "OK";
		case 202:
			return "Accepted";
		case 204:
			return "No Content";
		case 400:
			return "Bad Request";
		case 401:
			return "Unauthorized";
		case 403:
			return "Forbidden";
		case 404:
			return "Not Found";
		case 405:
			return "Method Not Allowed";
		case 408:
			return "Request Timeout";
		case 411:
			return "Length Required";
		case 413:
			return "Payload Too Large";
		case 415:
			return "Unsupported Media Type";
		case 422:
			return "Unprocessable Entity";
		case 426:
			return "Upgrade Required";
		case 429:
			return "Too Many Requests";
		case 431:
			return "Request Header Fields Too Large";
		case 500:
			return "Internal Server Error";
		case 503:
			return "Service Unavailable";
		default:
			return "Error";
	}
}

/* Tell browsers whether the page may read the answer. */
static void
append_cors(const Request *request, const Config *config, Buffer *response)
{
	if (config_allows_any_origin(config))
		buffer_append_string(response, "Access-Control-Allow-Origin: *\r\n");
	else if (request != NULL && request->origin.length > 0 &&
			 config_allows_origin(config, request->origin))
	{
		buffer_append_string(response, "Access-Control-Allow-Origin: ");
		buffer_append_slice(response, request->origin);
		buffer_append_string(response, "\r\nVary: Origin\r\n");
	}
}

/*
 * Write a response.  request is NULL if it could not be read; headers are
 * whole lines.
 */
void
http_respond(int status, const char *headers, const char *type, Slice body,
			 const Request *request, const Config *config, Buffer *response)
{
	buffer_append_string(response, "HTTP/1.1 ");
	buffer_append_number(response, (uint64_t) status);
	buffer_append_string(response, " ");
	buffer_append_string(response, status_text(status));
	buffer_append_string(response, "\r\nConnection: close\r\n");
	append_cors(request, config, response);
	buffer_append_string(response, headers);
	if (status != 204)
	{
		buffer_append_string(response, "Content-Type: ");
		buffer_append_string(response, type);
		buffer_append_string(response, "\r\nContent-Length: ");
		buffer_append_number(response, body.length);
		buffer_append_string(response, "\r\n");
	}
	buffer_append_string(response, "\r\n");
	if (status != 204 &&
		(request == NULL || !slice_equals(request->method, "HEAD")))
		buffer_append_slice(response, body);
}

/* Write a response whose body is JSON text, or empty. */
void
http_json(int status, Slice body, const Request *request, const Config *config,
		  Buffer *response)
{
	http_respond(status, "", "application/json", body, request, config, response);
}

/*
 * Write an error response with the body {"error":text}.  request is NULL if
 * it could not be read.
 */
void
http_error(int status, Slice text, const Request *request,
		   const Config *config, Buffer *response)
{
	Buffer		body = {0};
	const char *headers = "";

	if (status == 426)
		headers = "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n";
	buffer_append_string(&body, "{\"error\":");
	buffer_append_json_string(&body, text);
	buffer_append_string(&body, "}");
	http_respond(status, headers, "application/json", buffer_slice(&body), request,
			config, response);
	buffer_release(&body);
}

bool
http_is_websocket_path(Slice path)
{
	return slice_equals(path, "/realtime/v1/websocket") ||
		slice_equals(path, "/socket/websocket");
}

/* The path without the prefix, if it has it */
Slice
http_without_prefix(Slice path)
{
	static const char prefix[] = "/realtime/v1";
	size_t		length = sizeof(prefix) - 1;

	if (path.length > length && memcmp(path.data, prefix, length) == 0 &&
		path.data[length] == '/')
		return (Slice) {path.data + length, path.length - length};
	return path;
}

/* Answer any request that is not a WebSocket handshake. */
void
http_answer(const Request *request, const Config *config, Buffer *response)
{
	Slice		path = http_without_prefix(request->path);

	if (slice_equals(request->method, "OPTIONS"))
	{
		http_respond(204,
				"Access-Control-Allow-Methods: GET, POST, OPTIONS\r\n"
				"Access-Control-Allow-Headers: authorization, apikey, "
				"content-type, x-client-info, x-api-key\r\n"
				"Access-Control-Max-Age: 86400\r\n",
				"", SLICE(""), request, config, response);
		return;
	}
	if (http_is_websocket_path(request->path))
	{
		http_error(426, SLICE("This path serves WebSockets only"), request,
				   config, response);
		return;
	}
	if (!slice_equals(path, "/healthcheck") && !slice_equals(path, "/api/ping"))
	{
		http_error(404, SLICE("Not found"), request, config, response);
		return;
	}
	if (!slice_equals(request->method, "GET") &&
		!slice_equals(request->method, "HEAD"))
	{
		http_error(405, SLICE("Method not allowed"), request, config, response);
		return;
	}
	if (slice_equals(path, "/healthcheck"))
		http_respond(200, "", "text/plain", SLICE("ok"), request, config, response);
	else
		http_respond(200, "", "application/json",
				SLICE("{\"message\":\"Success\"}"), request, config, response);
}
