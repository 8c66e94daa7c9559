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
 * A channel that asked for an interval is late on purpose, and never goes live:
 * when its time has come, it is served what is behind its place up to the
 * present, the changes of one row merged into one (merge.c), and then waits
 * again.  What it is still to get costs no memory but the history's; it is
 * served before its time when it has fallen behind by a part of that.  Those
 * that get the same are served together (batch.c).
 *
 * Called by requests.c and join.c for what the gateway says, by subscription.c,
 * and by engine.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "lib/ilist.h"

#include "engine/batch.h"
#include "engine/boundary.h"
#include "engine/catalogs.h"
#include "engine/clock.h"
#include "engine/cursor.h"
#include "engine/late.h"
#include "engine/links.h"
#include "engine/route.h"
#include "engine/session.h"
#include "engine/settings.h"
#include "engine/snapshot.h"
#include "engine/tables.h"
#include "engine/wal.h"

/* Channels that are CHANNEL_LATE; the first is served next */
static dlist_head late = DLIST_STATIC_INIT(late);

/* What the channel asks for and may see, but for rows, as a number; 0: not known */
static uint64
access_signature(const Channel *channel)
{
	uint64		result = 1;

	for (int i = 0; i < channel->nbindings; i++)
	{
		SubscriptionGroup *group = channel->bindings[i].group;
		uint64		signature;

		if (group == NULL)
			continue;
		signature = tables_group_signature(group);
		if (signature == 0)
			return 0;
		result = hash_combine64(hash_combine64(result, group->form),
								signature + i);
	}
	return result != 0 ? result : 1;
}

/* Likewise, also of one that is paused; false: not known */
bool
late_access_signature(const Channel *channel, uint64 *signature)
{
	*signature = channel->pace == CHANNEL_PAUSED ?
		channel->access_signature : access_signature(channel);
	return *signature != 0;
}

/* The cursor of the last change that the channel was sent, or would have been */
void
late_cursor(const Channel *channel, Cursor *cursor)
{
	RoutePosition now;

	route_position(&now);
	route_cursor(channel->pace == CHANNEL_LIVE ? &now : &channel->place, cursor);
}

/* Is the channel still to be told of changed rows that its policies read? */
bool
late_untold(Channel *channel)
{
	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].group != NULL &&
			tables_group_untold(channel->bindings[i].group))
			return true;
	return false;
}

/*
 * Is the channel still to be told of anything that came before its place?  Who
 * goes on from there would never hear of it.
 */
bool
late_is_owed(Channel *channel)
{
	if (channel->access_changed || late_untold(channel))
		return true;
	for (int i = 0; i < channel->nbindings; i++)
	{
		SubscriptionGroup *group = channel->bindings[i].group;

		if (group != NULL && (group->withheld || group->untold != NULL))
			return true;
	}
	return false;
}

/*
 * What the channel's client may see, with the claims that it has, as a number
 * for its cursors.  0 if that cannot be said, or while it is still to be told
 * of something: who comes back with such a cursor has to refetch.
 */
uint64
late_cursor_access(Channel *channel)
{
	uint64		access;

	if (late_is_owed(channel) || !late_access_signature(channel, &access))
		return 0;
	if (channel->claims_number == 0)
		channel->claims_number = session_claims(channel) | 1;
	return hash_combine64(access, channel->claims_number) | 1;
}

/* Tell the channel that it has to fetch anew what its policies let through. */
void
late_tell_dependencies(Channel *channel)
{
	subscription_refetch(channel, REFETCH_DEPENDENCY,
						 "rows that row security depends on have changed");
}

/*
 * The channel, served from its place, has its groups: tell it if rows that its
 * policies read were changed meanwhile.  The history says so itself only where
 * somebody depended on them when they were decoded.
 */
void
late_begun(Channel *channel)
{
	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].group != NULL &&
			tables_group_changed(channel->bindings[i].group, channel->since))
		{
			late_tell_dependencies(channel);
			return;
		}
}

static void
tell_access_changed(Channel *channel)
{
	subscription_refetch(channel, REFETCH_ACCESS,
						 "access to tables has changed");
}

static void
tell_overrun(Channel *channel)
{
	subscription_refetch(channel, REFETCH_OVERRUN,
						 "changes were missed because they were not read in time");
}

/*
 * The channel is about to leave its groups.  If these are still to be told once
 * more of a changed access, it is told so by itself: it may not be there then,
 * or not have got what came before that.
 */
static void
take_over_telling(Channel *channel)
{
	XLogRecPtr	lsn = InvalidXLogRecPtr;

	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].group != NULL)
			lsn = Max(lsn, tables_group_tell_again(channel->bindings[i].group));
	if (lsn != InvalidXLogRecPtr)
		subscription_tell_again(channel, lsn);
}

/*
 * The channel leaves its groups, and what these were still to be told might not
 * reach it any more: it is told now.
 */
static void
leave_groups(Channel *channel)
{
	if (late_untold(channel))
		late_tell_dependencies(channel);
	subscription_detach(channel);
}

/* Send the channel no more changes, but keep its place. */
void
late_pause(Channel *channel)
{
	if (channel->pace == CHANNEL_PAUSED)
		return;
	if (channel->pace == CHANNEL_SNAPSHOT)
	{
		channel->paused = true;
		return;
	}
	if (channel->pace == CHANNEL_LATE)
		dlist_delete(&channel->in_late);
	else
		route_position(&channel->place);
	if (channel->pace == CHANNEL_LIVE)
		channel->open = boundary_is_open(channel);
	channel->pace = CHANNEL_PAUSED;
	channel->paused = false;
	channel->since = channel->place.txn.commit_lsn + 1;
	channel->access_signature = access_signature(channel);
	take_over_telling(channel);
	leave_groups(channel);
	subscription_send_bindings(channel);
}

/* Serve the channel from its place.  Called in a transaction on the present. */
void
late_continue(Channel *channel)
{
	channel->paused = false;
	if (channel->pace != CHANNEL_PAUSED)
		return;
	channel->pace = CHANNEL_LATE;
	dlist_push_tail(&late, &channel->in_late);
	subscription_attach(channel, true);
	subscription_send_bindings(channel);

	/* nobody told it in the meantime */
	if (channel->access_signature != access_signature(channel))
	{
		XLogRecPtr	lsn = wal_written_lsn();

		wal_flush_soon(lsn);
		subscription_tell_again(channel, lsn);
		tell_access_changed(channel);
	}
	else
		late_begun(channel);
	subscription_send_access(channel);
}

/*
 * Let a new channel, that has no groups yet, go on from a cursor that its
 * client was given earlier.  Returns NULL if it will get everything behind
 * it, else why that cannot be; the channel then begins with what comes now.
 * *access is what the client could see then, as late_cursor_access had it.
 */
const Refetch *
late_resume(Channel *channel, const char *since, uint64 *access)
{
	static const Refetch invalid = {REFETCH_CURSOR, "invalid cursor"};
	Cursor		cursor;

	if (!cursor_parse(since, &cursor, access))
		return &invalid;
	return late_resume_at(channel, &cursor);
}

/* Likewise, with the cursor as such */
const Refetch *
late_resume_at(Channel *channel, const Cursor *from)
{
	static const Refetch other = {REFETCH_EPOCH, "the cursor is of another history"};
	static const Refetch too_old = {REFETCH_TOO_OLD, "the cursor is too old"};
	RoutePosition now;

	if (from->epoch != wal_epoch())
		return &other;
	if (!history_find(from->lsn, from->seq, &channel->place.position,
					  &channel->place.txn))
		return &too_old;
	channel->place.seq = channel->place.txn.commit_lsn == from->lsn ?
		from->seq : CURSOR_WHOLE;
	route_position(&now);
	if (channel->place.position >= now.position)
		channel->place = now;
	channel->unmerged_end = now.position;

	/* what a transaction changed may have been told behind a cursor inside it */
	channel->since = from->lsn + (from->seq == CURSOR_WHOLE ? 1 : 0);
	channel->open = from->seq != CURSOR_WHOLE;
	channel->pace = CHANNEL_LATE;
	dlist_push_tail(&late, &channel->in_late);
	return NULL;
}

/*
 * The channel, which has its groups but was sent nothing yet, begins with what
 * comes now after all.  Called in a transaction on the present.
 */
void
late_abandon(Channel *channel)
{
	dlist_delete(&channel->in_late);
	channel->pace = CHANNEL_LIVE;
	channel->open = false;
	subscription_detach(channel);
	if (channel->interval > 0)
		late_throttle(channel);
	subscription_attach(channel, channel->pace != CHANNEL_LIVE);
}

/* A channel that has had a snapshot, or was to have one, goes on behind it. */
void
late_follow(Channel *channel)
{
	channel->pace = CHANNEL_LATE;
	dlist_push_tail(&late, &channel->in_late);
}

/*
 * A channel that has an interval, and no groups, begins with what comes now.
 */
void
late_throttle(Channel *channel)
{
	route_position(&channel->place);
	channel->batch_end = channel->place.position;
	channel->since = channel->place.txn.commit_lsn + 1;
	late_follow(channel);
}

/* The channel gets no more from its place: it is about to be freed, or to
 * have a snapshot. */
void
late_forget(Channel *channel)
{
	if (channel->pace == CHANNEL_LATE)
		dlist_delete(&channel->in_late);
}

/* The channel gets its changes with the others from now on. */
static void
go_live(Channel *channel)
{
	dlist_delete(&channel->in_late);
	channel->pace = CHANNEL_LIVE;
	if (channel->seen != NULL)
		pfree(channel->seen);
	channel->seen = NULL;

	catalogs_begin(wal_decoded_lsn());
	if (channel->access_changed)
		tell_access_changed(channel);	/* behind what it got meanwhile */
	channel->access_changed = false;
	leave_groups(channel);
	subscription_attach(channel, false);
	boundary_enter(channel);
	subscription_send_bindings(channel);
	subscription_send_access(channel);
	catalogs_commit();
}

/* May transactions still come that the channel's snapshot has seen? */
static bool
must_compare(const Channel *channel)
{
	return channel->seen != NULL && !route_passed(channel->seen->lsn);
}

/* May changes still come behind which it is to be told of a changed access? */
static bool
must_tell_later(const Channel *channel)
{
	return channel->access_changed && !route_passed(channel->tell_lsn);
}

/* Has it got everything, but cannot go live yet? */
static bool
must_wait(const Channel *channel)
{
	return route_caught_up(&channel->place) &&
		(must_compare(channel) || must_tell_later(channel));
}

/* Has a channel with an interval fallen far behind? */
static bool
far_behind(const Channel *channel, uint64 head)
{
	return head - channel->place.position > (uint64) rtsync_history_size * 1024 / 8;
}

/* Is there anything to do for a channel with an interval? */
static bool
batch_is_due(const Channel *channel, ClockTime now)
{
	RoutePosition live;

	if (channel->paused)
		return true;
	if (route_caught_up(&channel->place))
		return channel->access_changed && !must_tell_later(channel);
	if (channel->due <= now || channel->place.position < channel->batch_end)
		return true;
	route_position(&live);
	return far_behind(channel, live.position);
}

/*
 * How many milliseconds there is nothing to do for channels with an interval;
 * -1: until there are other changes.
 */
long
late_delay(void)
{
	Channel    *first = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &late)
	{
		Channel    *channel = dlist_container(Channel, in_late, iter.cur);

		if (channel->interval > 0 && !route_caught_up(&channel->place) &&
			(first == NULL || channel->due < first->due))
			first = channel;
	}
	return first != NULL ? clock_ms_until(first->due) : -1;
}

/*
 * A channel that can be served now, or NULL: not one that has everything, and
 * cannot go live yet.
 */
static Channel *
next_channel(void)
{
	ClockTime	now = clock_now();
	dlist_iter	iter;

	dlist_foreach(iter, &late)
	{
		Channel    *channel = dlist_container(Channel, in_late, iter.cur);

		if (links_congested(channel->link))
			continue;
		if (channel->interval > 0 ? batch_is_due(channel, now) :
			!must_wait(channel) || channel->paused)
			return channel;
	}
	return NULL;
}

/* The channel has missed changes: it goes on from now. */
static void
skip_lost(Channel *channel)
{
	catalogs_begin(wal_decoded_lsn());
	tell_overrun(channel);
	catalogs_commit();
	channel->open = false;
	route_position(&channel->place);
	channel->batch_end = channel->place.position;
}

/*
 * A channel that got its batch knows that access to its tables has changed, and
 * is to be told once more.  If changes from before that are behind the batch, it
 * goes on up to there; if they are still to be routed, a later batch does.
 */
static void
tell_behind_batch(Channel *channel)
{
	RoutePosition now;

	if (must_tell_later(channel))
		return;
	if (channel->tell_behind == 0)
	{
		route_position(&now);
		channel->tell_behind = now.position;
	}
	if (channel->place.position < channel->tell_behind)
	{
		channel->batch_end = channel->tell_behind;
		return;
	}
	channel->access_changed = false;
	catalogs_begin(wal_decoded_lsn());
	tell_access_changed(channel);
	subscription_send_access(channel);
	catalogs_commit();
}

/* Serve a slice of a batch, to the channel and those that follow it. */
static void
serve_batch(Channel *channel)
{
	if (channel->place.position >= channel->batch_end && !batch_begin(channel))
		return;
	if (!route_late(channel))
		skip_lost(channel);
	else if (channel->access_changed &&
			 channel->place.position >= channel->batch_end)
		tell_behind_batch(channel);
	if (channel->seen != NULL && !must_compare(channel) &&
		route_caught_up(&channel->place))
	{
		pfree(channel->seen);
		channel->seen = NULL;
	}
}

/*
 * Serve one slice to one channel that is late; returns true if there is more
 * to do.  Called outside of any transaction.
 */
bool
late_run(void)
{
	Channel    *channel;

	if ((channel = next_channel()) == NULL)
		return false;
	if (channel->paused)
	{
		late_pause(channel);
		return true;
	}
	if (channel->interval > 0)
	{
		serve_batch(channel);
		dlist_delete(&channel->in_late);
		dlist_push_tail(&late, &channel->in_late);
		return next_channel() != NULL;
	}
	if (!route_late(channel))
		skip_lost(channel);
	if (route_caught_up(&channel->place) && !must_wait(channel))
		go_live(channel);
	else
	{
		dlist_delete(&channel->in_late);
		dlist_push_tail(&late, &channel->in_late);
	}
	return next_channel() != NULL;
}
