/*-------------------------------------------------------------------------
 *
 * presence.c
 *	  Who is there: what members of a channel tell about themselves.
 *
 * A member of a room can be tracked: it has a key, shared with others perhaps,
 * and what it says about itself, its meta.  Members that asked for presence
 * are sent the room's state when they join, and then what changes.
 *
 * Changes are collected for presence_interval, over all rooms, and longer in
 * large ones, so that many at once cost each member a few messages: for each tracked member we keep
 * what the others know of it ("told") and what they are to know ("present").
 * What is told is the difference, whatever happened in between.  Who joins
 * meanwhile is sent the state that the others know, and the difference with
 * them.
 *
 * The leaves go out in one message, then the joins in another.  Clients from
 * 2.100 to 2.110 get it wrong when a meta is replaced in one.
 *
 * Members that are connected to other gateways of the server are among them:
 * each gateway tells the others, through the engine, what its own members say,
 * and, when one begins, all that they said.  When a gateway ends, the engine
 * says so, and its members leave.
 *
 * Each meta carries a reference of its own, phx_ref, by which clients tell it
 * from others; the numbers begin at random, so that a client that comes back
 * to another gateway does not mistake a new one for an old one.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/presence.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "gateway/gateway.h"
#include "gateway/jsontext.h"
#include "gateway/uuid.h"

#define CALLS_WINDOW 30000		/* ms that max_presence_calls are for */
#define SENDS_PER_TURN 20000	/* and metas, about */
#define MEMBERS_PER_INTERVAL 100	/* more wait for longer */
#define MAX_INTERVALS 10		/* but no longer than so many */

/* What a member said about itself at a time */
typedef struct Version
{
	uint64_t	ref;
	uint64_t	previous_ref;	/* of what it replaced, or 0 */
	size_t		length;
	char		text[];			/* a JSON object */
} Version;

/* A tracked member; lives until the others know that it is not any more. */
typedef struct Meta
{
	ListLink	key_link;		/* in Key.metas, in order of tracking */
	ListLink	changed_link;	/* in Presence.changed */
	struct Key *key;
	Version    *told;			/* NULL: the others do not know it */
	Version    *present;		/* NULL: it has gone */
	ListLink	tracked_link;	/* in Presences.tracked, ... */
	Channel    *channel;		/* ... while this one has it */
} Meta;

/* A tracked member on another gateway */
typedef struct Remote
{
	TableNode	by_id;
	ListLink	link;			/* in Presences.elsewhere */
	uint64_t	id;
	struct Presence *presence;
	Meta	   *meta;
} Remote;

typedef struct Key
{
	TableNode	by_text;
	ListLink	link;			/* in Presence.keys */
	Slice		text;			/* a JSON string */
	List		metas;
	uint64_t	visit;			/* the last telling that looked at it */
} Key;

/* What a room knows; exists while a meta does */
typedef struct Presence
{
	Room	   *room;
	ListLink	link;			/* in Presences.changed */
	uint64_t	told_at;		/* when its members were told last, ms */
	Table		by_text;
	List		keys;
	List		changed;		/* metas whose members are to be told */
	uint32_t	n_remotes;
	Frame	   *states[2];		/* the state as told, for each version, once
								 * it was asked for */
} Presence;

static void on_timer(uv_timer_t *timer);

static Presences *
presences(void)
{
	return &gateway.presences;
}

void
presence_init(void)
{
	uint64_t	random = 0;

	uv_timer_init(gateway.loop, &presences()->timer);
	list_init(&presences()->changed);
	list_init(&presences()->tracked);
	for (int i = 0; i <= GATEWAY_MAX_NUMBER; i++)
		list_init(&presences()->elsewhere[i]);
	if (getrandom(&random, sizeof(random), 0) == sizeof(random))
		presences()->last_ref = random >> 16;
}

/*-------------------------------- encoding -------------------------------*/

/* Append the version as clients get it: what was said, and the references */
static void
append_version(Buffer *buffer, const Version *version)
{
	Slice		inner = {version->text, version->length - 1};
	char		refs[80];
	bool		empty = true;

	for (size_t i = 1; i < inner.length && empty; i++)
		empty = memchr(" \t\r\n", inner.data[i], 4) != NULL;
	buffer_append_slice(buffer, inner);
	/* Last, for the last one counts if the client said something of the name. */
	snprintf(refs, sizeof(refs), "%s\"phx_ref\":\"%llx\"", empty ? "" : ",",
			 (unsigned long long) version->ref);
	buffer_append_string(buffer, refs);
	if (version->previous_ref != 0)
	{
		snprintf(refs, sizeof(refs), ",\"phx_ref_prev\":\"%llx\"",
				 (unsigned long long) version->previous_ref);
		buffer_append_string(buffer, refs);
	}
	buffer_append(buffer, "}", 1);
}

/* What of a meta is told: in the state, as having gone, as having come */
typedef Version *(*Selector) (const Meta *meta);

static Version *
told(const Meta *meta)
{
	return meta->told;
}

static Version *
gone(const Meta *meta)
{
	return meta->told != meta->present ? meta->told : NULL;
}

static Version *
come(const Meta *meta)
{
	return meta->told != meta->present ? meta->present : NULL;
}

/* Append "key":{"metas":[...]} with what is selected, if anything is. */
static void
append_key(Buffer *buffer, const Key *key, Selector select)
{
	ListLink   *link = list_first(&key->metas);
	bool		first = true;

	for (; link != NULL; link = list_next(&key->metas, link))
	{
		const Version *version = select(LIST_OWNER(Meta, key_link, link));

		if (version == NULL)
			continue;
		if (first)
		{
			if (buffer->length > 0)
				buffer_append(buffer, ",", 1);
			buffer_append_slice(buffer, key->text);
			buffer_append_string(buffer, ":{\"metas\":[");
		}
		else
			buffer_append(buffer, ",", 1);
		append_version(buffer, version);
		first = false;
	}
	if (!first)
		buffer_append_string(buffer, "]}");
}

/*--------------------------------- states --------------------------------*/

static void
forget_states(Presence *presence)
{
	for (int version = 0; version < 2; version++)
	{
		frame_release(presence->states[version]);
		presence->states[version] = NULL;
	}
}

static Frame *
encode_state(const Room *room, PhoenixVersion version)
{
	const Presence *presence = room->presence;
	ListLink   *link = presence != NULL ? list_first(&presence->keys) : NULL;
	Buffer		members = {0};
	Buffer		state = {0};
	Frame	   *frame;

	for (; link != NULL; link = list_next(&presence->keys, link))
		append_key(&members, LIST_OWNER(Key, link, link), told);
	buffer_append(&state, "{", 1);
	buffer_append_slice(&state, buffer_slice(&members));
	buffer_append(&state, "}", 1);
	frame = phoenix_encode(version, NULL, NULL, room->topic->json,
						   "presence_state", buffer_slice(&state));
	buffer_release(&members);
	buffer_release(&state);
	return frame;
}

static bool
is_told(const Channel *channel)
{
	return channel->presence && (channel->rights & LINK_MAY_READ_PRESENCE);
}

/*
 * Send the state to a channel that was joined with presence.  It names no
 * join_ref, so that all who join between two changes share it.
 */
void
presence_enter(Channel *channel)
{
	PhoenixVersion version = channel->connection->version;
	Presence   *presence = channel->room->presence;
	Frame	   *frame;

	if (!is_told(channel))
		return;
	if (presence == NULL)
		frame = encode_state(channel->room, version);
	else
	{
		if (presence->states[version] == NULL)
			presence->states[version] = encode_state(channel->room, version);
		frame = frame_share(presence->states[version]);
	}
	connection_send(channel->connection, frame);
	frame_release(frame);
}

/*-------------------------------- tracking -------------------------------*/

/* What the room knows.  It keeps the topic, for nobody here may be in it. */
static Presence *
share_presence(Room *room)
{
	Presence   *presence = room->presence;

	if (presence == NULL)
	{
		presence = room->presence = allocate_zero(sizeof(Presence));
		presence->room = room;
		topic_share(room->topic->name);
		list_init(&presence->keys);
		list_init(&presence->changed);
	}
	return presence;
}

static Key *
share_key(Presence *presence, Slice text)
{
	uint64_t	hash = hash_bytes(text.data, text.length, 0);
	TableNode  *node = table_find(&presence->by_text, hash);
	Key		   *key;

	for (; node != NULL; node = table_find_next(node))
	{
		key = TABLE_OWNER(Key, by_text, node);
		if (key->text.length == text.length &&
			memcmp(key->text.data, text.data, text.length) == 0)
			return key;
	}
	key = allocate_zero(sizeof(Key));
	key->text = (Slice) {copy_bytes(text.data, text.length), text.length};
	list_init(&key->metas);
	list_append(&presence->keys, &key->link);
	table_insert(&presence->by_text, &key->by_text, hash);
	return key;
}

static void
free_key(Presence *presence, Key *key)
{
	table_remove(&presence->by_text, &key->by_text);
	list_remove(&key->link);
	free((char *) key->text.data);
	free(key);
}

static void
free_meta(Presence *presence, Meta *meta)
{
	Key		   *key = meta->key;

	if (meta->told != meta->present)
		free(meta->told);
	free(meta->present);
	list_remove(&meta->key_link);
	list_remove(&meta->changed_link);
	list_remove(&meta->tracked_link);
	free(meta);
	if (list_is_empty(&key->metas))
		free_key(presence, key);
}

static void
free_presence(Presence *presence)
{
	Topic	   *topic = presence->room->topic;
	ListLink   *link;

	/* A key ends with its last meta. */
	while ((link = list_first(&presence->keys)) != NULL)
	{
		link = list_first(&LIST_OWNER(Key, link, link)->metas);
		free_meta(presence, LIST_OWNER(Meta, key_link, link));
	}
	forget_states(presence);
	list_remove(&presence->link);
	free(presence->by_text.buckets);
	presence->room->presence = NULL;
	free(presence);
	topic_release(topic);
}

/* Start the timer for the time when the next rooms may be told. */
static void
start_timer(void)
{
	uint64_t	now = uv_now(gateway.loop);
	uint64_t	due = presences()->told_at + gateway.config.presence_interval;

	if (!uv_is_active((uv_handle_t *) &presences()->timer))
		uv_timer_start(&presences()->timer, on_timer, due > now ? due - now : 0, 0);
}

/* Have it known that the meta is now this, or NULL. */
static void
change_meta(Presence *presence, Meta *meta, Version *version)
{
	if (meta->present != meta->told)
		free(meta->present);
	meta->present = version;
	if (version == NULL && meta->told == NULL)
	{
		/* It came and went, and nobody has noticed. */
		free_meta(presence, meta);
		if (list_is_empty(&presence->keys))
			free_presence(presence);
		return;
	}
	if (!list_contains(&meta->changed_link))
		list_append(&presence->changed, &meta->changed_link);
	if (!list_contains(&presence->link))
		list_append(&presences()->changed, &presence->link);
	start_timer();
}

/* Tell another gateway, or all, what a member here says of itself. */
static void
tell_gateway(uint32_t number, const Channel *channel, const Version *version)
{
	LinkWriter *writer;

	if (gateway.config.gateways == 1)
		return;
	writer = engine_link_begin(LINK_TRACK);
	link_put_u32(writer, number);
	link_put_u64(writer, channel->id);
	link_put_bytes(writer, channel->presence_key.data,
				   channel->presence_key.length);
	link_put_bytes(writer, version->text, version->length);
	link_put_u64(writer, version->ref);
	link_put_u64(writer, version->previous_ref);
	engine_link_end();
}

/* Tell all other gateways that a member here is tracked no more. */
static void
tell_untracked(const Channel *channel)
{
	if (gateway.config.gateways == 1)
		return;
	link_put_u64(engine_link_begin(LINK_UNTRACK), channel->id);
	engine_link_end();
}

/* Give the member something new to be known, or NULL. */
static void
change(Channel *channel, Version *version)
{
	Meta	   *meta = channel->meta;

	channel->connection->presence_bytes -=
		meta->present != NULL ? meta->present->length : 0;
	channel->connection->presence_bytes += version != NULL ? version->length : 0;
	if (version == NULL)
	{
		channel->meta = NULL;
		meta->channel = NULL;
		list_remove(&meta->tracked_link);
		tell_untracked(channel);
	}
	else
		tell_gateway(LINK_TO_ALL, channel, version);
	change_meta(channel->room->presence, meta, version);
}

/* A key for those who brought none: a random UUID, as a JSON string */
static Slice
make_key(void)
{
	char		text[UUID_TEXT_SIZE + 2];

	text[0] = '"';
	uuid_make(text + 1);
	text[UUID_TEXT_SIZE] = '"';
	return (Slice) {copy_bytes(text, UUID_TEXT_SIZE + 1), UUID_TEXT_SIZE + 1};
}

static Version *
make_version(Slice text, uint64_t ref, uint64_t previous_ref)
{
	Version    *version = allocate(sizeof(Version) + text.length);

	version->ref = ref;
	version->previous_ref = previous_ref;
	version->length = text.length;
	memcpy(version->text, text.data, text.length);
	return version;
}

static PresenceResult
track(Channel *channel, Slice text)
{
	Meta	   *meta = channel->meta;
	size_t		held = channel->connection->presence_bytes;
	Version    *version;

	if (!(channel->rights & LINK_MAY_WRITE_PRESENCE))
		return PRESENCE_FAILED;
	if (text.data[0] != '{')
		return PRESENCE_NOT_A_MAP;
	if (channel->presence_key.data == NULL)
		channel->presence_key = make_key();
	if (text.length + channel->presence_key.length > gateway.config.max_presence_size ||
		held + text.length > gateway.config.max_message_size)
		return PRESENCE_TOO_LARGE;
	if (meta == NULL)
	{
		Presence   *presence = share_presence(channel->room);

		meta = channel->meta = allocate_zero(sizeof(Meta));
		meta->key = share_key(presence, channel->presence_key);
		list_append(&meta->key->metas, &meta->key_link);
		meta->channel = channel;
		list_append(&presences()->tracked, &meta->tracked_link);
	}
	else if (meta->present->length == text.length &&
			 memcmp(meta->present->text, text.data, text.length) == 0)
		return PRESENCE_OK;
	version = make_version(text, ++presences()->last_ref,
						   meta->present != NULL ? meta->present->ref : 0);
	change(channel, version);
	/* Who is seen, sees. */
	if (!channel->presence)
	{
		channel->presence = true;
		presence_enter(channel);
	}
	return PRESENCE_OK;
}

static void
untrack(Channel *channel)
{
	if (channel->meta != NULL)
		change(channel, NULL);
}

/* The event's name is compared without regard to case. */
static bool
is_event(Slice event, const char *name)
{
	Buffer		text = {0};
	bool		equal;

	equal = json_is_string_text(event) && json_unquote(event, &text) &&
		slice_equals_nocase(buffer_slice(&text), name);
	buffer_release(&text);
	return equal;
}

/*
 * A member says what is to be known of it:
 * {"event":"track"|"untrack","payload":{...}}
 */
PresenceResult
presence_push(Channel *channel, const PhoenixMessage *message)
{
	Slice		event = {NULL, 0};
	Slice		payload = SLICE("{}");
	JsonCursor	cursor;
	Slice		key;
	Slice		value;

	if (!rate_allows(&channel->presence_calls, uv_now(gateway.loop),
					 gateway.config.max_presence_calls, CALLS_WINDOW))
		return PRESENCE_TOO_OFTEN;
	if (message->binary || !json_enter(message->payload, '{', &cursor))
		return PRESENCE_FAILED;
	while (json_next(&cursor, &key, &value))
	{
		if (json_string_equals(key, "event"))
			event = value;
		else if (json_string_equals(key, "payload"))
			payload = value;
	}
	if (is_event(event, "track"))
		return track(channel, payload);
	if (!is_event(event, "untrack"))
		return PRESENCE_FAILED;
	untrack(channel);
	return PRESENCE_OK;
}

/* The channel's rights are others than they were. */
void
presence_rights_changed(Channel *channel, uint8_t before)
{
	if (!(channel->rights & LINK_MAY_WRITE_PRESENCE))
		untrack(channel);
	if (!(before & LINK_MAY_READ_PRESENCE))
		presence_enter(channel);
}

/* The channel is about to leave its room. */
void
presence_leave(Channel *channel)
{
	Presence   *presence;

	untrack(channel);
	presence = channel->room->presence;
	if (presence != NULL && channel->room->n_members == 1 &&
		presence->n_remotes == 0)
		free_presence(presence);	/* nobody is left to be told */
}

/*---------------------------- other gateways -----------------------------*/

static Remote *
find_remote(uint64_t id)
{
	TableNode  *node = table_find(&presences()->remotes, hash_number(id));

	for (; node != NULL; node = table_find_next(node))
		if (TABLE_OWNER(Remote, by_id, node)->id == id)
			return TABLE_OWNER(Remote, by_id, node);
	return NULL;
}

static Remote *
create_remote(const RemoteMeta *what)
{
	Remote	   *remote = allocate_zero(sizeof(Remote));
	Buffer		name = {0};
	Topic	   *topic;

	buffer_append_string(&name, TOPIC_PREFIX);
	buffer_append_slice(&name, what->topic);
	topic = topic_share(buffer_slice(&name));
	buffer_release(&name);
	remote->id = what->id;
	remote->presence = share_presence(&topic->rooms[what->is_private]);
	remote->presence->n_remotes++;
	topic_release(topic);		/* it is kept by what the room knows */
	remote->meta = allocate_zero(sizeof(Meta));
	remote->meta->key = share_key(remote->presence, what->key);
	list_append(&remote->meta->key->metas, &remote->meta->key_link);
	table_insert(&presences()->remotes, &remote->by_id, hash_number(remote->id));
	list_append(&presences()->elsewhere[remote->id >> LINK_NUMBER_SHIFT],
				&remote->link);
	return remote;
}

static void
end_remote(Remote *remote)
{
	table_remove(&presences()->remotes, &remote->by_id);
	list_remove(&remote->link);
	remote->presence->n_remotes--;
	change_meta(remote->presence, remote->meta, NULL);
	free(remote);
}

/* Is it what a member here could say?  The engine has not read it. */
static bool
is_meta(const RemoteMeta *what)
{
	return what->topic.data != NULL && json_is_string_text(what->key) &&
		json_is_value(what->key) && what->text.length >= 2 &&
		what->text.data[0] == '{' &&
		what->text.data[what->text.length - 1] == '}' &&
		json_is_object_text(what->text);
}

/*
 * LINK_TRACKED: what a member on another gateway says of itself now.  That may
 * be known already.
 */
void
presence_tracked(const RemoteMeta *what)
{
	Remote	   *remote = find_remote(what->id);

	if (!is_meta(what))
		return;
	if (remote == NULL)
		remote = create_remote(what);
	else if (remote->meta->present->ref == what->ref)
		return;
	change_meta(remote->presence, remote->meta,
				make_version(what->text, what->ref, what->previous_ref));
}

/* LINK_UNTRACKED: that member, if it was tracked, is not any more. */
void
presence_untracked(uint64_t id)
{
	Remote	   *remote = find_remote(id);

	if (remote != NULL)
		end_remote(remote);
}

/* LINK_GATEWAY_ENDED: a gateway has ended. */
void
presence_gone(uint32_t number)
{
	ListLink   *link;

	while ((link = list_first(&presences()->elsewhere[number])) != NULL)
		end_remote(LIST_OWNER(Remote, link, link));
}

/* LINK_PRESENCE_WANTED: a gateway has begun. */
void
presence_wanted(uint32_t number)
{
	ListLink   *link = list_first(&presences()->tracked);

	for (; link != NULL; link = list_next(&presences()->tracked, link))
	{
		const Meta *meta = LIST_OWNER(Meta, tracked_link, link);

		tell_gateway(number, meta->channel, meta->present);
	}
}

/*-------------------------------- telling --------------------------------*/

/* Send a presence_diff of joins or of leaves, if there are any. */
static void
send_diff(const Room *room, Slice joins, Slice leaves)
{
	Frame	   *frames[2] = {NULL, NULL};
	Buffer		diff = {0};

	if (joins.length == 0 && leaves.length == 0)
		return;
	buffer_append_string(&diff, "{\"joins\":{");
	buffer_append_slice(&diff, joins);
	buffer_append_string(&diff, "},\"leaves\":{");
	buffer_append_slice(&diff, leaves);
	buffer_append_string(&diff, "}}");
	for (uint32_t i = 0; i < room->n_members; i++)
	{
		Channel    *member = room->members[i];
		PhoenixVersion version = member->connection->version;

		if (!is_told(member))
			continue;
		if (frames[version] == NULL)
			frames[version] = phoenix_encode(version, NULL, NULL,
											 room->topic->json, "presence_diff",
											 buffer_slice(&diff));
		connection_send(member->connection, frames[version]);
	}
	frame_release(frames[PHOENIX_V1]);
	frame_release(frames[PHOENIX_V2]);
	buffer_release(&diff);
}

/* The others know the meta as it is now. */
static void
settle(Presence *presence, Meta *meta)
{
	list_remove(&meta->changed_link);
	if (meta->present == NULL)
	{
		free_meta(presence, meta);
		return;
	}
	if (meta->told != meta->present)
		free(meta->told);
	meta->told = meta->present;
}

/* Tell the members of a room what has changed.  Returns what it cost. */
static size_t
tell(Presence *presence)
{
	static uint64_t visit;
	Buffer		joins = {0};
	Buffer		leaves = {0};
	ListLink   *link = list_first(&presence->changed);
	size_t		cost = presence->room->n_members;

	presence->told_at = uv_now(gateway.loop);
	visit++;
	for (; link != NULL; link = list_next(&presence->changed, link))
	{
		Key		   *key = LIST_OWNER(Meta, changed_link, link)->key;

		cost++;
		if (key->visit == visit)
			continue;
		key->visit = visit;
		append_key(&leaves, key, gone);
		append_key(&joins, key, come);
	}
	send_diff(presence->room, (Slice) {NULL, 0}, buffer_slice(&leaves));
	send_diff(presence->room, buffer_slice(&joins), (Slice) {NULL, 0});
	buffer_release(&joins);
	buffer_release(&leaves);

	while ((link = list_first(&presence->changed)) != NULL)
		settle(presence, LIST_OWNER(Meta, changed_link, link));
	forget_states(presence);
	list_remove(&presence->link);
	if (list_is_empty(&presence->keys))
		free_presence(presence);
	return cost;
}

/* May the room's members be told again?  Large rooms cost more. */
static bool
is_due(const Presence *presence)
{
	uint64_t	intervals = 1 + presence->room->n_members / MEMBERS_PER_INTERVAL;

	if (intervals > MAX_INTERVALS)
		intervals = MAX_INTERVALS;
	return uv_now(gateway.loop) >=
		presence->told_at + intervals * gateway.config.presence_interval;
}

/* Tell the rooms that are due, or as many as one turn has time for. */
static void
on_timer(uv_timer_t *timer)
{
	size_t		cost = 0;
	ListLink   *link = list_first(&presences()->changed);

	while (link != NULL && cost < SENDS_PER_TURN)
	{
		Presence   *presence = LIST_OWNER(Presence, link, link);

		link = list_next(&presences()->changed, link);
		if (is_due(presence))
			cost += tell(presence);
	}
	if (link == NULL)
		presences()->told_at = uv_now(gateway.loop);
	if (!list_is_empty(&presences()->changed))
		uv_timer_start(timer, on_timer,
					   link != NULL ? 0 : gateway.config.presence_interval, 0);
}
