/*-------------------------------------------------------------------------
 *
 * join.h
 *	  What a client asks for when it joins a channel.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_JOIN_H
#define GATEWAY_JOIN_H

#include <jansson.h>

#include "gateway/memory.h"
#include "link/link.h"

/* Joins with more bindings are refused. */
#define JOIN_MAX_BINDINGS LINK_MAX_BINDINGS

/* Slices and entries point into the payload that was parsed. */
typedef struct JoinRequest
{
	bool		is_private;
	bool		wait;			/* refuse rather than serve a part */
	bool		broadcast_ack;
	bool		broadcast_self;
	bool		replication_ready;	/* wants to be told of that */
	LinkReplay	replay;
	uint64_t	replay_since;	/* milliseconds of the Unix epoch */
	uint32_t	replay_limit;
	bool		presence;
	char	   *presence_key;	/* a JSON string, or NULL; ours to free */
	Slice		token;			/* data NULL: that of the connection */
	json_t	   *options;		/* "rtsync", or NULL; a reference */
	bool		wants_cursor;	/* with each change */
	bool		has_session;	/* it is part of one */
	uint32_t	n_entries;
	json_t	  **entries;		/* the postgres_changes, objects all */
} JoinRequest;

extern bool join_parse(json_t *payload, Slice session, JoinRequest *request);
extern void join_release(JoinRequest *request);
extern Slice join_token(const json_t *payload);
extern void join_put_entries(const JoinRequest *request, LinkWriter *writer);
extern char *join_entry_text(json_t *entry);

#endif							/* GATEWAY_JOIN_H */
