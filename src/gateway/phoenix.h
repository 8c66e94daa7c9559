/*-------------------------------------------------------------------------
 *
 * phoenix.h
 *	  The messages of Phoenix channels, as Supabase Realtime uses them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_PHOENIX_H
#define GATEWAY_PHOENIX_H

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
 * text ("null" if absent) and echo it.  The payload points into the bytes that
 * were decoded; it is well formed JSON, but for the raw one of a binary frame.
 *
 * A binary message is a broadcast push: event is "broadcast", and payload what
 * the user sent, as the event user_event.
 */
typedef struct PhoenixMessage
{
	Slice		topic;
	Slice		event;
	Slice		payload;
	bool		binary;
	bool		payload_is_json;
	Slice		user_event;		/* if binary */
	Slice		metadata;		/* if binary: a JSON object's text, or empty */
	char	   *join_ref;
	char	   *ref;
	Buffer		names;			/* what topic and events point into */
} PhoenixMessage;

/*
 * A broadcast as it goes to the members of a channel.  If "map" is there, it
 * is the JSON text that a client sent as payload of an event "broadcast", to
 * be passed on whole because there is more in it than event and payload.
 */
typedef struct PhoenixBroadcast
{
	Slice		event;
	Slice		payload;
	bool		payload_is_json;
	Slice		metadata;		/* a JSON object's text, or empty */
	Slice		id;				/* what is also in metadata; data NULL: none */
	Slice		map;			/* data NULL: there is none */
} PhoenixBroadcast;

/* Longer names and references make a message malformed. */
#define PHOENIX_MAX_TOPIC 4096
#define PHOENIX_MAX_EVENT 255
#define PHOENIX_MAX_REF 255

/* Characters of a reference that is an integer: what 64 bits hold for sure */
#define PHOENIX_MAX_INTEGER_REF 18

/* Rows of a snapshot: JSON text, and what is around each as its "data" */
typedef struct PhoenixRows
{
	Slice		before;
	Slice		behind;
	const Slice *rows;
	size_t		n_rows;
} PhoenixRows;

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
									Slice data, Slice cursor);
extern Frame *phoenix_encode_transaction_end(PhoenixVersion version,
											 Slice topic_json, Slice cursor);
extern Frame *phoenix_encode_rows(PhoenixVersion version, Slice topic_json,
								  const uint32_t *ids, size_t n_ids,
								  const PhoenixRows *rows);
extern Frame *phoenix_encode_broadcast(PhoenixVersion version, Slice topic,
									   Slice topic_json,
									   const PhoenixBroadcast *broadcast);

#endif							/* GATEWAY_PHOENIX_H */
