/*-------------------------------------------------------------------------
 *
 * late.c
 *	  Channels that are behind the others.
 *
 * A client that reads slowly must not cost more memory than its send queue.
 * When the gateway says that the queue is long, the channel leaves its groups
 * and keeps its place in the history instead; when the queue has drained, the
 * channel is served from that place, in slices between those for everybody,
 * in groups of its own, with its rights as they are now, until it has caught
 * up and joins the common groups again.  Nothing is missed or sent twice: the
 * order of the messages on the link says which events each side of such a
 * move belong to.
 *
 * A client that comes back with the cursor of the last event it got is the
 * same case: it is late from the start.
 *
 * If the history has meanwhile forgotten the place, the client is told to
 * refetch, and the channel goes on from now.
 *
 * Called by subscription.c for what the gateway says, and by engine.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"

#include "engine/catalogs.h"
#include "engine/cursor.h"
#include "engine/late.h"
#include "engine/route.h"
#include "engine/tables.h"
#include "engine/wal.h"

/* Channels that are CHANNEL_LATE; the first is served next */
static dlist_head late = DLIST_STATIC_INIT(late);

/* Send the channel no more changes, but keep its place. */
void
late_pause(Channel *channel)
{
	if (channel->pace == CHANNEL_PAUSED)
		return;
	if (channel->pace == CHANNEL_LATE)
		dlist_delete(&channel->in_late);
	else
		route_position(&channel->place);
	channel->pace = CHANNEL_PAUSED;
	channel->access_changes = tables_access_changes();
	subscription_detach(channel);
	subscription_send_bindings(channel);
}

/* Serve the channel from its place.  Called in a transaction on the present. */
void
late_continue(Channel *channel)
{
	if (channel->pace != CHANNEL_PAUSED)
		return;
	channel->pace = CHANNEL_LATE;
	dlist_push_tail(&late, &channel->in_late);
	subscription_attach(channel, true);
	subscription_send_bindings(channel);

	/* nobody told it in the meantime, whomever it concerned */
	if (channel->access_changes != tables_access_changes())
		subscription_tell(channel, "rtsync", "refetch",
						  "access to tables has changed");
}

/*
 * Let a new channel, that has no groups yet, go on from a cursor that its
 * client was given earlier.  Returns NULL if it will get everything behind
 * it, else why that cannot be; the channel then begins with what comes now.
 */
const char *
late_resume(Channel *channel, const char *since)
{
	Cursor		cursor;
	RoutePosition now;

	if (!cursor_parse(since, &cursor))
		return "invalid cursor";
	if (cursor.epoch != wal_epoch())
		return "the cursor is of another history";
	if (!history_find(cursor.lsn, cursor.seq, &channel->place.position,
					  &channel->place.txn))
		return "the cursor is too old";
	route_position(&now);
	if (channel->place.position > now.position)
		channel->place = now;
	channel->pace = CHANNEL_LATE;
	dlist_push_tail(&late, &channel->in_late);
	return NULL;
}

/* The channel is about to be freed. */
void
late_forget(Channel *channel)
{
	if (channel->pace == CHANNEL_LATE)
		dlist_delete(&channel->in_late);
}

/* The channel gets its changes with the others from now on. */
static void
go_live(Channel *channel, bool lost)
{
	dlist_delete(&channel->in_late);
	channel->pace = CHANNEL_LIVE;

	catalogs_begin(wal_decoded_lsn());
	if (lost)
		subscription_tell(channel, "rtsync", "refetch",
						  "changes were missed because they were not read in time");
	subscription_detach(channel);
	subscription_attach(channel, false);
	subscription_send_bindings(channel);
	catalogs_commit();
}

/*
 * Serve one slice to one channel that is late; returns true if there is more
 * to do.  Called outside of any transaction.
 */
bool
late_run(Link *link)
{
	Channel    *channel;
	bool		lost;

	if (dlist_is_empty(&late) || route_congested(link))
		return false;
	channel = dlist_head_element(Channel, in_late, &late);
	lost = !route_late(channel);
	if (lost || route_caught_up(&channel->place))
		go_live(channel, lost);
	else
		dlist_move_tail(&late, &channel->in_late);
	return !dlist_is_empty(&late);
}
