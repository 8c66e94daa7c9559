/*-------------------------------------------------------------------------
 *
 * boundary.c
 *	  Where transactions end, for clients that want cursors.
 *
 * A client that applies a transaction's changes together has to know which is
 * the last.  Which one that will be for a group cannot be known when it is
 * sent, for the rest of the transaction may be in slices to come; so the end is
 * a message of its own, to those who got something of the transaction.
 *
 * Such a group is open from its first event to the end.  A channel that is
 * served from a place of its own (late.c) is that itself, instead of its
 * groups, and what is open when it goes from one to the other stays open.  To
 * be told once too often does no harm; never to be told would.
 *
 * Called by route.c, subscription.c and late.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/batch.h"
#include "engine/boundary.h"
#include "engine/links.h"

/* Groups that are BOUNDARY_OPEN, and those that are BOUNDARY_TOLD */
static dlist_head open_groups = DLIST_STATIC_INIT(open_groups);
static dlist_head told_groups = DLIST_STATIC_INIT(told_groups);

/* Put the group into the list for its state, and take it out of another. */
static void
set_boundary(SubscriptionGroup *group, BoundaryState state)
{
	if (group->boundary == state)
		return;
	if (group->boundary != BOUNDARY_NONE)
		dlist_delete(&group->in_boundary);
	group->boundary = state;
	if (state != BOUNDARY_NONE)
		dlist_push_tail(state == BOUNDARY_OPEN ? &open_groups : &told_groups,
						&group->in_boundary);
}

static void
set_all(dlist_head *groups, BoundaryState state)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, groups)
		set_boundary(dlist_container(SubscriptionGroup, in_boundary, iter.cur),
					 state);
}

/* The group, of channels that are live, is sent an event. */
void
boundary_event(SubscriptionGroup *group)
{
	if (group->cursors > 0)
		set_boundary(group, BOUNDARY_OPEN);
}

/* Is the channel, which is live, still to be told of a transaction's end? */
bool
boundary_is_open(const Channel *channel)
{
	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].group != NULL &&
			channel->bindings[i].group->boundary == BOUNDARY_OPEN)
			return true;
	return false;
}

/* A binding goes over from one group to another. */
void
boundary_move(const SubscriptionGroup *from, SubscriptionGroup *to)
{
	if (from->boundary == BOUNDARY_OPEN)
		boundary_event(to);
}

/* The group is about to be freed. */
void
boundary_forget(SubscriptionGroup *group)
{
	set_boundary(group, BOUNDARY_NONE);
}

/* The channel, which was late, goes live, and has its groups. */
void
boundary_enter(Channel *channel)
{
	if (!channel->open)
		return;
	channel->open = false;
	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].group != NULL)
			boundary_event(channel->bindings[i].group);
}

static LinkWriter *
begin_message(Link *link, const Cursor *at, uint32 ngroups)
{
	LinkWriter *out = links_begin(link, LINK_TRANSACTION_END);

	link_put_u64(out, at->epoch);
	link_put_u64(out, at->lsn);
	link_put_u32(out, at->seq);
	link_put_u32(out, ngroups);
	return out;
}

/*
 * A transaction that ends at this cursor was routed to all: tell those who got
 * something of it.  Counts when boundary_sent says so.
 */
void
boundary_send(const Cursor *at)
{
	LinkWriter *out;
	uint32		ngroups = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &open_groups)
		ngroups++;
	if (ngroups == 0)
		return;
	out = begin_message(NULL, at, ngroups);
	dlist_foreach(iter, &open_groups)
		link_put_u32(out, dlist_container(SubscriptionGroup, in_boundary,
										  iter.cur)->id);
	links_end(NULL);
	set_all(&open_groups, BOUNDARY_TOLD);
}

/* The groups of a channel, if it wants to know where transactions end */
static List *
add_groups(List *result, const Channel *channel)
{
	for (int i = 0; i < channel->nbindings && channel->wants_cursor; i++)
		if (channel->bindings[i].group != NULL)
			result = lappend(result, channel->bindings[i].group);
	return result;
}

/*
 * Likewise for a channel that is late, and those that get the same.  Allocates
 * in the current memory context.
 */
void
boundary_send_late(Channel *channel, List *followers, const Cursor *at)
{
	List	   *groups = NIL;
	LinkWriter *out;
	ListCell   *lc;

	if (!channel->open)
		return;
	channel->open = false;
	groups = add_groups(groups, channel);
	foreach(lc, followers)
		groups = add_groups(groups, lfirst(lc));
	if (groups == NIL)
		return;
	out = begin_message(channel->link, at, list_length(groups));
	foreach(lc, groups)
		link_put_u32(out, ((SubscriptionGroup *) lfirst(lc))->id);
	links_end(channel->link);
	list_free(groups);
}

/* What was put into the links will be sent ... */
void
boundary_sent(void)
{
	set_all(&told_groups, BOUNDARY_NONE);
}

/* ... or was taken back. */
void
boundary_undo(void)
{
	set_all(&told_groups, BOUNDARY_OPEN);
}
