/*-------------------------------------------------------------------------
 *
 * relay.c
 *	  What clients of one gateway say to those of others.
 *
 * A gateway names the channel whose client speaks.  Which topic that is, in
 * the public or the private space, and whether it may, the engine knows from
 * the channel's join; it believes the gateway nothing of it, so that a gateway
 * that was taken over speaks only where the tokens of its clients may.  What
 * the client says is handed on as it is: its form is for the other gateways to
 * check, as they check their own clients.
 *
 * A gateway's message about a channel that has ended, or may not any more, has
 * crossed ours that said so, and is ignored.
 *
 * Nothing is kept here but that a channel is tracked, so that the others are
 * told when it ends, whatever its gateway says.
 *
 * Called by requests.c, and where channels end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/links.h"
#include "engine/relay.h"
#include "engine/settings.h"

/* What a gateway counts takes less. */
#define COUNTS_MAX 65536

/*
 * Hand a broadcast on to the other gateways, for a topic on which its sender
 * may: what is behind the channel in LINK_RELAY.  A malformed one makes the
 * reader "failed".
 */
void
relay_broadcast(const Link *from, bool private, LinkString topic,
				LinkReader *body)
{
	LinkReader	rest = *body;
	LinkWriter *out;

	link_get_string(body);		/* event */
	link_get_u8(body);			/* encoding */
	link_get_string(body);		/* payload */
	link_get_string(body);		/* map */
	link_get_string(body);		/* id */
	if (!link_finished(body))
	{
		body->failed = true;
		return;
	}
	out = links_begin_relay(LINK_RELAYED);
	link_put_u8(out, private);
	link_put_bytes(out, topic.data, topic.length);
	link_put_parts(out, rest.next, rest.end - rest.next);
	links_end_relay(from, LINK_TO_ALL);
}

/* LINK_RELAY */
static void
handle_relay(Link *link, LinkReader *body)
{
	Channel    *channel = subscription_channel(link, link_get_u64(body));

	if (channel != NULL && channel->rights & LINK_MAY_WRITE_BROADCAST)
		relay_broadcast(link, channel->private, channel->topic_sent, body);
}

/* LINK_TRACK */
static void
handle_track(Link *link, LinkReader *body)
{
	uint32		to = link_get_u32(body);
	Channel    *channel = subscription_channel(link, link_get_u64(body));
	LinkString	key = link_get_string(body);
	LinkString	meta = link_get_string(body);
	uint64		ref = link_get_u64(body);
	uint64		previous_ref = link_get_u64(body);
	LinkWriter *out;

	if (!link_finished(body) || key.data == NULL || meta.data == NULL)
	{
		body->failed = true;
		return;
	}
	if (channel == NULL || !(channel->rights & LINK_MAY_WRITE_PRESENCE) ||
		(Size) key.length + meta.length > rtsync_max_presence_size)
		return;
	channel->tracked = true;
	out = links_begin_relay(LINK_TRACKED);
	link_put_u64(out, channel->id);
	link_put_u8(out, channel->private);
	link_put_bytes(out, channel->topic_sent.data, channel->topic_sent.length);
	link_put_bytes(out, key.data, key.length);
	link_put_bytes(out, meta.data, meta.length);
	link_put_u64(out, ref);
	link_put_u64(out, previous_ref);
	links_end_relay(link, to);
}

/* Tell the other gateways, if they think it is, that it is tracked no more. */
void
relay_untrack(Channel *channel)
{
	if (!channel->tracked)
		return;
	channel->tracked = false;
	link_put_u64(links_begin_relay(LINK_UNTRACKED), channel->id);
	links_end_relay(channel->link, LINK_TO_ALL);
}

/* LINK_UNTRACK */
static void
handle_untrack(Link *link, LinkReader *body)
{
	Channel    *channel = subscription_channel(link, link_get_u64(body));

	if (!link_finished(body))
		body->failed = true;
	else if (channel != NULL)
		relay_untrack(channel);
}

/* LINK_COUNTS */
static void
handle_counts(Link *link, LinkReader *body)
{
	LinkString	counts = link_get_string(body);
	LinkWriter *out;

	if (!link_finished(body) || counts.length > COUNTS_MAX)
	{
		body->failed = true;
		return;
	}
	out = links_begin_relay(LINK_COUNTED);
	link_put_u32(out, link->number);
	link_put_bytes(out, counts.data, counts.length);
	links_end_relay(link, LINK_TO_ALL);
}

/*
 * LINK_RELAY, LINK_TRACK, LINK_UNTRACK: hand on what a channel's client says;
 * LINK_COUNTS: what its gateway counts.  A malformed one breaks the link that
 * it came from, not those that it is for.
 */
void
relay_message(Link *link, LinkType type, LinkReader *body)
{
	if (type == LINK_RELAY)
		handle_relay(link, body);
	else if (type == LINK_TRACK)
		handle_track(link, body);
	else if (type == LINK_UNTRACK)
		handle_untrack(link, body);
	else
		handle_counts(link, body);
	link->broken |= body->failed;
}
