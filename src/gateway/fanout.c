/*-------------------------------------------------------------------------
 *
 * fanout.c
 *	  Who receives which change.
 *
 * The engine names the groups that a change is for; a group's members are
 * bindings.  A channel that is hit through several bindings gets one message
 * that names them all.  Channels with the same topic, version and ids share
 * one frame, which hangs on the topic while the change is being sent.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/fanout.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/gateway.h"
#include "gateway/join.h"

/* Of so many frames of one topic a match is looked for; then they multiply. */
#define MAX_COMPARED 8

/* So many groups, with what hangs on them, may be in no cache. */
#define LARGE_TABLE 1000

#define CACHE_LINE 64

/* Four hexadecimal numbers of 64 bits at most, and what is between them */
#define CURSOR_SIZE 80

typedef struct Group
{
	TableNode	node;
	uint32_t	number;
	uint32_t	n_members;
	uint32_t	capacity;
	Binding   **members;
	Binding    *only;			/* "members" of most groups */
} Group;

/* A frame for one version and one set of ids, shared during a change */
typedef struct ChangeFrame
{
	struct ChangeFrame *next;
	Frame	   *frame;
	PhoenixVersion version;
	bool		cursor;
	bool		awaiting;		/* it is the one before */
	uint64_t	access;			/* at its end */
	uint32_t	n_ids;
	uint32_t	ids[];
} ChangeFrame;

/*------------------------------- membership -----------------------------*/

static Group *
find_group(uint32_t number)
{
	TableNode  *node = table_find(&gateway.fanout.groups, hash_number(number));

	for (; node != NULL; node = table_find_next(node))
	{
		Group	   *group = TABLE_OWNER(Group, node, node);

		if (group->number == number)
			return group;
	}
	return NULL;
}

static Group *
create_group(uint32_t number)
{
	Group	   *group = allocate_zero(sizeof(Group));

	group->number = number;
	group->members = &group->only;
	group->capacity = 1;
	table_insert(&gateway.fanout.groups, &group->node, hash_number(number));
	return group;
}

static void
make_room(Group *group)
{
	bool		first = group->members == &group->only;

	group->capacity *= 4;
	group->members = reallocate(first ? NULL : group->members,
								group->capacity * sizeof(Binding *));
	if (first)
		group->members[0] = group->only;
}

/* Make the binding a member of the group, and of no other; 0 is no group. */
void
fanout_subscribe(Binding *binding, uint32_t number)
{
	Group	   *group;

	if (binding->group == number)
		return;
	fanout_unsubscribe(binding);
	if (number == 0)
		return;
	group = find_group(number);
	if (group == NULL)
		group = create_group(number);
	if (group->n_members == group->capacity)
		make_room(group);
	binding->group = number;
	binding->position = group->n_members;
	group->members[group->n_members++] = binding;
}

/* Take the binding out of its group, if it has one. */
void
fanout_unsubscribe(Binding *binding)
{
	Group	   *group;
	Binding    *last;

	if (binding->group == 0)
		return;
	group = find_group(binding->group);
	last = group->members[--group->n_members];
	group->members[binding->position] = last;
	last->position = binding->position;
	binding->group = 0;
	if (group->n_members > 0)
		return;
	table_remove(&gateway.fanout.groups, &group->node);
	if (group->members != &group->only)
		free(group->members);
	free(group);
}

/*-------------------------------- sending -------------------------------*/

/* What is read of an object, from its start */
static void
prefetch(const void *object)
{
	__builtin_prefetch(object);
	__builtin_prefetch((const char *) object + CACHE_LINE);
}

/*
 * Have the memory fetched that a change for these groups will need, at most
 * FANOUT_PREFETCH of them.  With very many channels none of it is in a cache,
 * and one thing leads to the other: so it is fetched for all at once, in steps.
 */
void
fanout_prefetch(const uint32_t *numbers, size_t n)
{
	Table	   *groups = &gateway.fanout.groups;
	const Channel *channels[FANOUT_PREFETCH];
	const Group *found[FANOUT_PREFETCH];
	size_t		n_found = 0;

	if (groups->count < LARGE_TABLE)
		return;
	for (size_t i = 0; i < n; i++)
		table_prefetch(groups, hash_number(numbers[i]), 0);
	for (size_t i = 0; i < n; i++)
		table_prefetch(groups, hash_number(numbers[i]), 1);
	for (size_t i = 0; i < n; i++)
		if ((found[n_found] = find_group(numbers[i])) != NULL)
			prefetch(found[n_found++]->members[0]);
	for (size_t i = 0; i < n_found; i++)
	{
		channels[i] = found[i]->members[0]->channel;
		prefetch(channels[i]);
	}
	for (size_t i = 0; i < n_found; i++)
		prefetch(channels[i]->topic);
	for (size_t i = 0; i < n_found; i++)
		prefetch(channels[i]->topic->json.data);
}

static void
add_hit(Channel *channel)
{
	Fanout	   *fanout = &gateway.fanout;

	if (fanout->n_hits == fanout->hits_capacity)
	{
		fanout->hits_capacity = fanout->hits_capacity > 0 ?
			fanout->hits_capacity * 2 : 64;
		fanout->hits = reallocate(fanout->hits,
								  fanout->hits_capacity * sizeof(Channel *));
	}
	fanout->hits[fanout->n_hits++] = channel;
}

/* Mark the group's bindings, and note their channels, each once. */
static void
hit_group(const Group *group, uint64_t change)
{
	for (uint32_t i = 0; i < group->n_members; i++)
	{
		Binding    *binding = group->members[i];
		Channel    *channel = binding->channel;

		binding->hit_by = change;
		if (channel->hit_by == change)
			continue;
		channel->hit_by = change;
		add_hit(channel);
	}
}

/*
 * Collect the ids of the channel's bindings that the change hit, in the order
 * of the join, each once.  ids has room for all of them.
 */
static uint32_t
collect_ids(const Channel *channel, uint64_t change, uint32_t *ids)
{
	uint32_t	n_ids = 0;

	for (uint32_t i = 0; i < channel->n_bindings; i++)
	{
		const Binding *binding = &channel->bindings[i];
		uint32_t	known = 0;

		if (binding->hit_by != change)
			continue;
		while (known < n_ids && ids[known] != binding->id)
			known++;
		if (known == n_ids)
			ids[n_ids++] = binding->id;
	}
	return n_ids;
}

/* What is being sent: a change, a page of rows, or the end of a transaction */
typedef struct Content
{
	Slice		data;
	Slice		cursor;			/* for the channels that want it */
	Slice		before;			/* for those that await more of the change */
	const PhoenixRows *rows;	/* NULL: something else */
	bool		end;			/* only for those channels */
} Content;

static Frame *
encode(const Content *content, const Channel *channel, bool awaiting,
	   const uint32_t *ids, uint32_t n_ids)
{
	Slice		place = awaiting ? content->before : content->cursor;
	PhoenixVersion version = channel->connection->version;
	Slice		topic = channel->topic->json;
	char		cursor[CURSOR_SIZE];
	int			length = 0;

	if (content->rows != NULL)
		return phoenix_encode_rows(version, topic, ids, n_ids, content->rows);
	if (channel->wants_cursor)
		length = snprintf(cursor, sizeof(cursor),
						  channel->access != 0 ? "%.*s:%" PRIx64 : "%.*s",
						  (int) place.length, place.data,
						  channel->access);
	if (content->end)
		return phoenix_encode_transaction_end(version, topic,
											  (Slice) {cursor, (size_t) length});
	return phoenix_encode_change(version, topic, ids, n_ids, content->data,
								 (Slice) {cursor, (size_t) length});
}

/* The frame for this channel: one that another channel uses, or a new one. */
static Frame *
frame_for(const Channel *channel, uint64_t change, const Content *content)
{
	static uint32_t ids[JOIN_MAX_BINDINGS];
	uint32_t	n_ids = collect_ids(channel, change, ids);
	PhoenixVersion version = channel->connection->version;
	bool		awaiting = channel->awaits == change;
	Topic	   *topic = channel->topic;
	ChangeFrame *shared = topic->frames;

	for (int i = 0; shared != NULL && i < MAX_COMPARED; i++)
	{
		if (shared->version == version &&
			shared->cursor == channel->wants_cursor &&
			shared->awaiting == awaiting &&
			shared->access == channel->access && shared->n_ids == n_ids &&
			memcmp(shared->ids, ids, n_ids * sizeof(uint32_t)) == 0)
			return shared->frame;
		shared = shared->next;
	}
	shared = allocate(sizeof(ChangeFrame) + n_ids * sizeof(uint32_t));
	shared->next = topic->frames;
	shared->version = version;
	shared->cursor = channel->wants_cursor;
	shared->awaiting = awaiting;
	shared->access = channel->access;
	shared->n_ids = n_ids;
	memcpy(shared->ids, ids, n_ids * sizeof(uint32_t));
	shared->frame = encode(content, channel, awaiting, ids, n_ids);
	topic->frames = shared;
	return shared->frame;
}

static void
release_frames(Topic *topic)
{
	ChangeFrame *shared;

	while ((shared = topic->frames) != NULL)
	{
		topic->frames = shared->next;
		frame_release(shared->frame);
		free(shared);
	}
}

/* Send to all members of the groups, whose numbers the reader is at. */
static void
send_content(LinkReader *groups, uint32_t n_groups, const Content *content)
{
	Fanout	   *fanout = &gateway.fanout;
	uint64_t	change = ++fanout->change;

	fanout->n_hits = 0;
	for (uint32_t i = 0; i < n_groups; i++)
	{
		const Group *group = find_group(link_get_u32(groups));

		if (group != NULL)
			hit_group(group, change);
	}
	for (size_t i = 0; i < fanout->n_hits; i++)
	{
		Channel    *channel = fanout->hits[i];

		if (content->end && !channel->wants_cursor)
			continue;
		if (!content->end)
			channel->changes_sent++;
		connection_send(channel->connection,
						frame_for(channel, change, content));
	}
	for (size_t i = 0; i < fanout->n_hits; i++)
		release_frames(fanout->hits[i]->topic);
}

/* Send the change to all members of its groups. */
void
fanout_change(FanoutChange *change)
{
	Content		content = {.data = change->data,.cursor = change->cursor,
		.before = change->before};

	for (uint32_t i = 0; i < change->n_awaiting; i++)
		channel_set_awaiting(link_get_u64(&change->awaiting),
							 gateway.fanout.change + 1);
	send_content(&change->groups, change->n_groups, &content);
}

/* Tell them, if they want cursors, that a transaction ends at this one. */
void
fanout_transaction_end(LinkReader *groups, uint32_t n_groups, Slice cursor)
{
	Content		content = {.cursor = cursor,.end = true};

	send_content(groups, n_groups, &content);
}

/* Send them a page of a snapshot. */
void
fanout_rows(LinkReader *groups, uint32_t n_groups, const PhoenixRows *rows)
{
	Content		content = {.rows = rows};

	send_content(groups, n_groups, &content);
}
