/*-------------------------------------------------------------------------
 *
 * topic.c
 *	  Topics that are joined, and who is in which.
 *
 * A topic exists while a channel refers to it, joined or not.  Its channels
 * enter one of its two rooms when they are joined.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/topic.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/gateway.h"

/* Has the topic a name, behind the prefix that all have? */
bool
topic_is_valid(Slice name)
{
	return name.length >= TOPIC_PREFIX_LENGTH &&
		memcmp(name.data, TOPIC_PREFIX, TOPIC_PREFIX_LENGTH) == 0;
}

/* The topic without "realtime:", as the engine and system messages want it */
Slice
topic_sub_topic(Slice name)
{
	return (Slice) {name.data + TOPIC_PREFIX_LENGTH,
		name.length - TOPIC_PREFIX_LENGTH};
}

static Topic *
find(Slice name, uint64_t hash)
{
	TableNode  *node = table_find(&gateway.topics.by_name, hash);

	for (; node != NULL; node = table_find_next(node))
	{
		Topic	   *topic = TABLE_OWNER(Topic, by_name, node);

		if (topic->name.length == name.length &&
			memcmp(topic->name.data, name.data, name.length) == 0)
			return topic;
	}
	return NULL;
}

/* The topic of this name, or NULL if no channel has it */
Topic *
topic_find(Slice name)
{
	return find(name, hash_bytes(name.data, name.length, 0));
}

/* The topic of this name, for one channel more */
Topic *
topic_share(Slice name)
{
	uint64_t	hash = hash_bytes(name.data, name.length, 0);
	Topic	   *topic = find(name, hash);
	Buffer		json = {0};

	if (topic == NULL)
	{
		topic = allocate_zero(sizeof(Topic));
		topic->name = (Slice) {copy_bytes(name.data, name.length), name.length};
		buffer_append_json_string(&json, name);
		topic->json = buffer_slice(&json);
		topic->rooms[0].topic = topic->rooms[1].topic = topic;
		table_insert(&gateway.topics.by_name, &topic->by_name, hash);
	}
	topic->references++;
	return topic;
}

void
topic_release(Topic *topic)
{
	if (--topic->references > 0)
		return;
	table_remove(&gateway.topics.by_name, &topic->by_name);
	free(topic->rooms[0].members);
	free(topic->rooms[1].members);
	free((char *) topic->name.data);
	free((char *) topic->json.data);
	free(topic);
}

void
room_enter(Room *room, Channel *channel)
{
	if (room->n_members == room->capacity)
	{
		room->capacity = room->capacity > 0 ? room->capacity * 2 : 2;
		room->members = reallocate(room->members,
								   room->capacity * sizeof(Channel *));
	}
	channel->room = room;
	channel->room_position = room->n_members;
	room->members[room->n_members++] = channel;
}

/* Take the channel out of its room, if it is in one. */
void
room_leave(Channel *channel)
{
	Room	   *room = channel->room;
	Channel    *last;

	if (room == NULL)
		return;
	last = room->members[--room->n_members];
	room->members[channel->room_position] = last;
	last->room_position = channel->room_position;
	channel->room = NULL;
}
