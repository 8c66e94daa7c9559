/*-------------------------------------------------------------------------
 *
 * kept.c
 *	  Broadcasts that the engine is storing.
 *
 * What a member sends to be stored goes to the others at once, and to the
 * engine.  A channel whose join reaches the engine before it gets no replay of
 * it, and was not there either when it was sent, if the answer to its join is
 * still under way.  So the message is kept until the engine has answered, and
 * such a channel gets it from here; see broadcast.c.
 *
 * The engine answers in the order in which it was asked.  How much is kept is
 * bounded by what the link holds.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/kept.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/gateway.h"

static KeptList *
list(void)
{
	return &gateway.kept;
}

void
kept_init(void)
{
	list_init(&list()->all);
}

/* Move the pointer of a slice from the place that was copied to the copy. */
static Slice
take_slice(Slice slice, Buffer *bytes, size_t *at)
{
	Slice		taken = {bytes->data + *at, slice.length};

	*at += slice.length;
	return taken;
}

/* The engine was asked to store the broadcast, which the room was sent. */
void
kept_add(Room *room, const PhoenixBroadcast *broadcast)
{
	Kept	   *kept = allocate_zero(sizeof(Kept));
	size_t		at = 0;

	topic_share(room->topic->name);
	kept->room = room;
	kept->number = ++list()->last_number;
	buffer_append_slice(&kept->bytes, broadcast->event);
	buffer_append_slice(&kept->bytes, broadcast->payload);
	buffer_append_slice(&kept->bytes, broadcast->metadata);
	buffer_append_slice(&kept->bytes, broadcast->id);
	kept->broadcast = (PhoenixBroadcast) {
		.payload_is_json = broadcast->payload_is_json,
		.event = take_slice(broadcast->event, &kept->bytes, &at),
		.payload = take_slice(broadcast->payload, &kept->bytes, &at),
		.metadata = take_slice(broadcast->metadata, &kept->bytes, &at),
		.id = take_slice(broadcast->id, &kept->bytes, &at),
	};
	list_append(&list()->all, &kept->link);
}

/* The one after this one, or the first (NULL), of the room; NULL: none */
const Kept *
kept_next(const Kept *kept, const Room *room)
{
	ListLink   *link = kept == NULL ? list_first(&list()->all) :
		list_next(&list()->all, &kept->link);

	while (link != NULL && LIST_OWNER(Kept, link, link)->room != room)
		link = list_next(&list()->all, link);
	return link != NULL ? LIST_OWNER(Kept, link, link) : NULL;
}

/* The number of the last one of the room, 0 if there is none */
uint64_t
kept_last(const Room *room)
{
	uint64_t	number = 0;

	for (const Kept *kept = kept_next(NULL, room); kept != NULL;
		 kept = kept_next(kept, room))
		number = kept->number;
	return number;
}

/* The one with this id, or NULL */
const Kept *
kept_find(Slice id)
{
	ListLink   *link = list_first(&list()->all);

	for (; link != NULL; link = list_next(&list()->all, link))
	{
		const Kept *kept = LIST_OWNER(Kept, link, link);

		if (kept->broadcast.id.length == id.length &&
			memcmp(kept->broadcast.id.data, id.data, id.length) == 0)
			return kept;
	}
	return NULL;
}

/* The engine has answered about this one, and so about those before. */
void
kept_remove_to(const Kept *last)
{
	Kept	   *kept;

	do
	{
		kept = LIST_OWNER(Kept, link, list_first(&list()->all));
		list_remove(&kept->link);
		topic_release(kept->room->topic);
		buffer_release(&kept->bytes);
		free(kept);
	} while (kept != last);
}
