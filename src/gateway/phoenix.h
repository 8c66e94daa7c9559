/*-------------------------------------------------------------------------
 *
 * phoenix.h
 *	  The messages of Phoenix channels, as Supabase Realtime uses them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_PHOENIX_H
#define GATEWAY_PHOENIX_H

#include <jansson.h>

#include "gateway/frame.h"
#include "gateway/memory.h"

/* The serializer that the client asked for ("vsn" in the URL) */
typedef enum PhoenixVersion
{
	PHOENIX_V1,					/* 1.0.0: objects */
	PHOENIX_V2					/* 2.0.0: arrays, and binary broadcasts */
} PhoenixVersion;

/*
 * A message from a client.  join_ref and ref are opaque: we keep their JSON
 * text ("null" if absent) and echo it.
 *
 * A binary message is a broadcast push: event is "broadcast", payload NULL,
 * and the user's event, metadata and payload point into the bytes that were
 * decoded.
 */
typedef struct PhoenixMessage
{
	Slice		topic;
	Slice		event;
	json_t	   *payload;		/* any type; NULL in a binary message */

	bool		binary;
	Slice		user_event;
	Slice		metadata;		/* a JSON object's text, or empty */
	Slice		user_payload;
	bool		user_payload_is_json;

	char	   *join_ref;
	char	   *ref;
	json_t	   *root;			/* what topic and event point into */
} PhoenixMessage;

/* Longer names and references make a message malformed. */
#define PHOENIX_MAX_TOPIC 4096
#define PHOENIX_MAX_EVENT 255
#define PHOENIX_MAX_REF 255

extern bool phoenix_decode(PhoenixVersion version, bool binary,
						   const char *data, size_t length,
						   PhoenixMessage *message);
extern bool phoenix_decode_text(PhoenixVersion version, const char *data,
								size_t length, PhoenixMessage *message);
extern bool phoenix_decode_binary(const char *data, size_t length,
								  PhoenixMessage *message);
extern void phoenix_release(PhoenixMessage *message);
extern bool phoenix_has_ref(const PhoenixMessage *message);

extern Frame *phoenix_encode(PhoenixVersion version, const char *join_ref,
							 const char *ref, Slice topic_json,
							 const char *event, Slice payload);
extern Frame *phoenix_encode_reply(PhoenixVersion version, const char *join_ref,
								   const char *ref, Slice topic_json,
								   bool ok, Slice response);
extern Frame *phoenix_encode_error(PhoenixVersion version, const char *join_ref,
								   const char *ref, Slice topic_json,
								   Slice reason);
extern Frame *phoenix_encode_close(PhoenixVersion version, const char *join_ref,
								   Slice topic_json, const char *event);
extern Frame *phoenix_encode_system(PhoenixVersion version, const char *join_ref,
									Slice topic_json, Slice extension,
									Slice status, Slice text, Slice channel);
extern Frame *phoenix_encode_change(PhoenixVersion version, Slice topic_json,
									const uint32_t *ids, size_t n_ids,
									Slice data);

#endif							/* GATEWAY_PHOENIX_H */
