/*-------------------------------------------------------------------------
 *
 * rest.h
 *	  Broadcasts that come as HTTP requests.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_REST_H
#define GATEWAY_REST_H

#include "gateway/config.h"
#include "gateway/request.h"
#include "gateway/uuid.h"

/* More messages in one request are refused. */
#define REST_MAX_MESSAGES 1000

typedef struct RestMessage
{
	Buffer		topic;			/* without "realtime:" */
	Buffer		event;
	Slice		payload;		/* points into the body */
	bool		is_json;
	bool		is_private;
	bool		persist;		/* store it, too */
	uint32_t	ttl;			/* ... for so many seconds; 0: as others */
	bool		allowed;		/* once that is decided */
} RestMessage;

/*
 * A request: of one message, whose topic and event the path names and whose
 * payload is the body, or of a batch, which the body names.
 */
typedef struct RestRequest
{
	bool		is_batch;
	bool		expects_continue;	/* before it sends the body */
	size_t		body_length;
	Buffer		token;
	Buffer		origin;
	RestMessage *messages;
	size_t		n_messages;
	size_t		n_decided;		/* of the messages of a batch */
	bool		storing;		/* the engine is asked to store the message */
	char		id[UUID_TEXT_SIZE]; /* likewise: what it is called */
} RestRequest;

/* What is wrong: a status and the JSON text of the body; status 0: nothing */
typedef struct RestError
{
	int			status;
	Buffer		body;
} RestError;

extern bool rest_concerns(const Request *request);
extern bool rest_read_head(const Request *request, const Config *config,
						   RestRequest *rest, RestError *error);
extern bool rest_read_body(RestRequest *rest, Slice body, const Config *config,
						   RestError *error);
extern void rest_release(RestRequest *rest);

#endif							/* GATEWAY_REST_H */
