/*-------------------------------------------------------------------------
 *
 * topic.h
 *	  Topics that are joined, and who is in which.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_TOPIC_H
#define GATEWAY_TOPIC_H

#include <stdbool.h>

#include "gateway/memory.h"
#include "gateway/table.h"

struct Channel;
struct Presence;

/*
 * The joined channels of a topic that hear each other: the public ones of a
 * topic, or its private ones.
 */
typedef struct Room
{
	struct Topic *topic;
	struct Channel **members;	/* in no order */
	uint32_t	n_members;
	uint32_t	capacity;
	struct Presence *presence;	/* see presence.c; NULL: nobody is tracked */
} Room;

/* A topic's name, shared by all channels that have it */
typedef struct Topic
{
	TableNode	by_name;
	uint32_t	references;
	Slice		name;			/* with "realtime:" */
	Slice		json;			/* as a JSON string */
	struct ChangeFrame *frames; /* of the change being sent, see fanout.c */
	Room		rooms[2];		/* public, private */
} Topic;

typedef struct Topics
{
	Table		by_name;
} Topics;

#define TOPIC_PREFIX "realtime:"
#define TOPIC_PREFIX_LENGTH (sizeof(TOPIC_PREFIX) - 1)

extern bool topic_is_valid(Slice name);
extern Topic *topic_share(Slice name);
extern Topic *topic_find(Slice name);
extern void topic_release(Topic *topic);
extern Slice topic_sub_topic(Slice name);
extern void room_enter(Room *room, struct Channel *channel);
extern void room_leave(struct Channel *channel);

#endif							/* GATEWAY_TOPIC_H */
