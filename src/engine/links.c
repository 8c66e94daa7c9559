/*-------------------------------------------------------------------------
 *
 * links.c
 *	  The links to all gateways of the server, and what goes to all of them.
 *
 * Each gateway has a number below rtsync.gateways, which is part of the
 * numbers of its channels and connections.  What concerns groups and topics
 * is sent to all of them: a gateway ignores what none of its clients wants.
 * What a gateway's client says to the others of its topic goes to all but that
 * gateway (relay.c).
 *
 * A gateway that is slow slows the routing of changes for all, as a single one
 * does.  One that takes nothing for LINKS_STALLED_MS does not: what there is
 * for it is kept up to LIMIT, then it is ended.  A broadcast of a client is
 * relayed only to those gateways that have less than RELAY_LIMIT waiting; it
 * may get lost, as the protocol allows.  Presence must not: a gateway that has
 * no room for it is ended, and the next one is told the state.
 *
 * Called by engine.c, route.c, snapshot.c, report.c, relay.c and subscription.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "engine/links.h"

/* Routing waits for gateways that have more than this to take. */
#define HIGH_WATER ((Size) 1024 * 1024)

#define RELAY_LIMIT ((Size) 8 * 1024 * 1024)
#define LIMIT ((Size) 64 * 1024 * 1024)

/* The scratch buffer is freed when it has become larger than this. */
#define KEEP_SIZE ((Size) 1024 * 1024)

static Link *links[LINKS_MAX];
static int	nlinks;
static LinkWriter scratch;		/* a message for several */

static bool
grow_scratch(LinkWriter *writer, size_t size)
{
	return linkio_grow(writer, size, TopMemoryContext, 8192);
}

/* The gateway of this number has been started. */
void
links_add(Link *link, int number)
{
	Assert(links[number] == NULL);
	scratch.grow = grow_scratch;
	link->number = number;
	links[number] = link;
	nlinks++;
}

/*
 * The gateway is gone; to be called before its link is closed.  Its members
 * leave, as far as the others are concerned.
 */
void
links_remove(Link *link)
{
	links[link->number] = NULL;
	nlinks--;
	for (int i = 0; i < LINKS_MAX; i++)
	{
		if (links[i] == NULL)
			continue;
		link_begin(&links[i]->out, LINK_GATEWAY_ENDED);
		link_put_u32(&links[i]->out, link->number);
		linkio_end(links[i]);
	}
}

/* How many gateways are there? */
int
links_count(void)
{
	return nlinks;
}

/* The link to the gateway of this number, or NULL */
Link *
links_get(int number)
{
	return links[number];
}

/* The only link that there is, or NULL */
static Link *
single_link(void)
{
	for (int i = 0; nlinks == 1 && i < LINKS_MAX; i++)
		if (links[i] != NULL)
			return links[i];
	return NULL;
}

/*
 * Begin a message for one link, or for all if "only" is NULL; to be followed
 * by links_end.  Nothing else may be sent to all in between.
 */
LinkWriter *
links_begin(Link *only, LinkType type)
{
	LinkWriter *out = &scratch;

	if (only == NULL)
		only = single_link();
	if (only != NULL)
		out = &only->out;
	else
	{
		scratch.grow = grow_scratch;
		scratch.length = 0;
	}
	link_begin(out, type);
	return out;
}

/* Finish the message in the scratch buffer; false if it is too large. */
static bool
end_scratch(LinkHeader *header)
{
	bool		ok = link_end(&scratch);

	if (ok)
		memcpy(header, scratch.data, sizeof(*header));
	return ok;
}

/* Send a link the message in the scratch buffer. */
static void
put_message(Link *link, const LinkHeader *header)
{
	link_begin(&link->out, (LinkType) header->type);
	link_put_parts(&link->out, scratch.data + sizeof(*header), header->length);
	linkio_end(link);
}

/* The message has been sent to whom it is for. */
static void
free_scratch(void)
{
	if (scratch.capacity > KEEP_SIZE)
	{
		pfree(scratch.data);
		scratch.data = NULL;
		scratch.capacity = 0;
	}
	scratch.length = 0;
}

/* Finish the message that links_begin began. */
void
links_end(Link *only)
{
	LinkHeader	header;

	if (only == NULL)
		only = single_link();
	if (only != NULL)
	{
		linkio_end(only);
		return;
	}
	if (!end_scratch(&header))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("message to the gateways is too large")));
	for (int i = 0; i < LINKS_MAX; i++)
		if (links[i] != NULL)
			put_message(links[i], &header);
	free_scratch();
}

/* Remember what each link has been sent so far. */
void
links_mark(void)
{
	for (int i = 0; i < LINKS_MAX; i++)
		if (links[i] != NULL)
			links[i]->mark = links[i]->out.length;
}

/* Take back what was put into the links since; nothing has been flushed. */
void
links_rollback(void)
{
	for (int i = 0; i < LINKS_MAX; i++)
		if (links[i] != NULL)
			links[i]->out.length = links[i]->mark;
}

/* Bytes that the one holds, or all do on average */
Size
links_output(Link *only)
{
	Size		sum = 0;

	if (only != NULL)
		return only->out.length;
	for (int i = 0; i < LINKS_MAX; i++)
		if (links[i] != NULL)
			sum += links[i]->out.length;
	return nlinks > 0 ? sum / nlinks : 0;
}

/* May no more be sent to the one, or to all, because they do not take it? */
bool
links_congested(Link *only)
{
	int			behind = 0;
	int			stalled = 0;

	if (only != NULL)
		return linkio_pending(only) > HIGH_WATER;
	for (int i = 0; i < LINKS_MAX; i++)
	{
		if (links[i] == NULL || linkio_pending(links[i]) <= HIGH_WATER)
			continue;
		behind++;
		if (linkio_stuck(links[i], LINKS_STALLED_MS))
			stalled++;
	}
	return behind > stalled || (behind > 0 && behind == nlinks);
}

/* Is there more for a gateway that takes nothing than may be kept? */
bool
links_overdue(Link *link)
{
	return nlinks > 1 && linkio_pending(link) > LIMIT &&
		linkio_stuck(link, LINKS_STALLED_MS);
}

/* Has a gateway that is alive more rows of snapshots to handle than this? */
bool
links_rows_wait(Size window)
{
	for (int i = 0; i < LINKS_MAX; i++)
		if (links[i] != NULL && links[i]->rows_size >= window &&
			(nlinks == 1 || !linkio_stuck(links[i], LINKS_STALLED_MS)))
			return true;
	return false;
}

/* LINK_ROWS was sent to all. */
void
links_count_rows(Size size)
{
	for (int i = 0; i < LINKS_MAX; i++)
		if (links[i] != NULL)
			links[i]->rows_size += size;
}

/*--------------------------------------------------------------------------
 * What clients of one gateway say to those of others
 *--------------------------------------------------------------------------
 */

/*
 * Begin a message that comes from a client of one gateway and is for others;
 * to be followed by links_end_relay.  Nothing else may be sent to all in
 * between.
 */
LinkWriter *
links_begin_relay(LinkType type)
{
	scratch.grow = grow_scratch;
	scratch.length = 0;
	link_begin(&scratch, type);
	return &scratch;
}

static bool
may_get_lost(LinkType type)
{
	return type == LINK_RELAYED || type == LINK_COUNTED;
}

/*
 * Finish it: it is for the gateway of this number, or for all but the one that
 * it comes from if that is LINK_TO_ALL.
 */
void
links_end_relay(const Link *from, uint32 to)
{
	LinkHeader	header;

	if (!end_scratch(&header))
		return;
	for (int i = 0; i < LINKS_MAX; i++)
	{
		Link	   *link = links[i];

		if (link == NULL || link == from || link->broken ||
			(to != LINK_TO_ALL && to != (uint32) i))
			continue;
		if (may_get_lost((LinkType) header.type) &&
			linkio_pending(link) > RELAY_LIMIT)
			continue;
		if (linkio_pending(link) > LIMIT)
			link->broken = true;
		else
			put_message(link, &header);
	}
	free_scratch();
}

/* The gateway has begun: the others tell it who is tracked. */
void
links_presence_wanted(Link *link)
{
	for (int i = 0; i < LINKS_MAX; i++)
	{
		if (links[i] == NULL || links[i] == link)
			continue;
		link_begin(&links[i]->out, LINK_PRESENCE_WANTED);
		link_put_u32(&links[i]->out, link->number);
		linkio_end(links[i]);
	}
}
