/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  Channels with an interval that get the same in each batch.
 *
 * A hundred viewers of one chart ask for the same changes with the same
 * interval.  Such channels are a flock: their interval, gateway, role and
 * bindings are the same, and so are their claims, unless these decide nothing.
 *
 * A flock goes in step.  The first one whose time has come says where the
 * batch ends and when the next one is due, and the others end theirs there
 * too; so after one batch all are at the same place of the history.  From then
 * on those at the place of the one that is served follow it: what is decided
 * and rendered for its groups is sent to theirs as well (route.c), and their
 * places move with its.
 *
 * Nobody needs to follow.  A channel that is in any special state does not,
 * nor does anybody when a slice is served with precautions: then each is
 * served by itself.
 *
 * Whether the claims decide something is seen as with groups that are for all
 * principals of a role: from what the decision was made with, behind it, and
 * before anything is sent.  A flock for all claims loses a channel for which they
 * decide something, and that gets back when they do so no more.
 *
 * Called by late.c and route.c for the channel that is served, and by
 * subscription.c when one leaves its groups.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "engine/batch.h"
#include "engine/policy.h"
#include "engine/tables.h"

typedef struct Flock
{
	uint64		hash;			/* hash key: of the key */
	char	   *key;			/* what the channels have in common, as text */
	bool		all_claims;		/* the claims are not in it */
	uint64		end;			/* of the last batch that began, in the
								 * history */
	ClockTime	due;			/* of the next one */
	dlist_head	channels;		/* Channel.in_flock; never empty */
} Flock;

static MemoryContext FlockContext = NULL;
static HTAB *flocks = NULL;

static void
create_flocks(void)
{
	HASHCTL		ctl = {
		.keysize = sizeof(uint64),
		.entrysize = sizeof(Flock),
	};

	FlockContext = AllocSetContextCreate(TopMemoryContext, "rtsync flocks",
										 ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = FlockContext;
	flocks = hash_create("rtsync flocks", 64, &ctl,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Is there nothing that concerns the channel and not its equals? */
static bool
is_ordinary(const Channel *channel)
{
	return channel->pace == CHANNEL_LATE && !channel->paused &&
		!channel->access_changed && channel->seen == NULL &&
		channel->place.position >= channel->unmerged_end;
}

/* Could bindings of this group get the same as equal ones of other channels? */
static bool
may_follow(const SubscriptionGroup *group)
{
	return group->spec.schema != NULL && group->spec.table != NULL &&
		group->payer == NULL;
}

static char *
flock_key(const Channel *channel, bool all_claims)
{
	StringInfoData key;

	initStringInfo(&key);
	appendStringInfo(&key, "%d;%d;%u;", channel->link->number,
					 channel->interval, channel->principal.roleid);
	binding_append_part(&key, all_claims ? NULL : channel->principal.claims);
	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].group != NULL)
			binding_append_key(&key, &channel->bindings[i].spec);
		else
			appendStringInfoChar(&key, '-');
	return key.data;
}

/* Put a channel, that has just begun a batch, into its flock, if it may be in one. */
static void
join_flock(Channel *channel, bool all_claims)
{
	char	   *key;
	uint64		hash;
	bool		found;
	Flock	   *flock;

	batch_leave(channel);
	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].group != NULL &&
			!may_follow(channel->bindings[i].group))
			return;
	if (flocks == NULL)
		create_flocks();
	key = flock_key(channel, all_claims);
	hash = hash_bytes_extended((unsigned char *) key, strlen(key), 0);
	flock = hash_search(flocks, &hash, HASH_ENTER, &found);
	if (!found)
	{
		flock->key = MemoryContextStrdup(FlockContext, key);
		flock->all_claims = all_claims;
		flock->end = channel->batch_end;
		flock->due = channel->due;
		dlist_init(&flock->channels);
	}
	if (strcmp(flock->key, key) == 0)	/* else another has the same hash */
	{
		channel->flock = flock;
		dlist_push_tail(&flock->channels, &channel->in_flock);
	}
	pfree(key);
}

/* The channel is served alone from now on: it loses its groups, perhaps. */
void
batch_leave(Channel *channel)
{
	Flock	   *flock = channel->flock;

	if (flock == NULL)
		return;
	channel->flock = NULL;
	dlist_delete(&channel->in_flock);
	if (dlist_is_empty(&flock->channels))
	{
		pfree(flock->key);
		hash_search(flocks, &flock->hash, HASH_REMOVE, NULL);
	}
}

/*
 * The channel's last batch was sent, and it is served again, since its time has
 * come or, before that, because it is far behind: say where the next one ends,
 * and when the one behind it is due.  Returns false if it has had that already.
 */
bool
batch_begin(Channel *channel)
{
	Flock	   *flock = is_ordinary(channel) ? channel->flock : NULL;
	ClockTime	now = clock_now();
	ClockTime	due = now + (ClockTime) channel->interval * 1000;
	RoutePosition here;

	route_position(&here);
	if (flock != NULL && channel->due <= now && flock->due > now)
	{
		/* the others have begun */
		channel->batch_end = flock->end;
		channel->due = flock->due;
		return channel->place.position < channel->batch_end;
	}
	channel->batch_end = here.position;
	channel->due = due;
	if (flock != NULL)
	{
		flock->end = channel->batch_end;
		flock->due = channel->due;
	}
	return true;
}

/*
 * The channels that may be sent what the leader is, from its place to the end
 * of its batch.  A list in the current memory context.
 */
List *
batch_followers(Channel *leader)
{
	List	   *result = NIL;
	dlist_iter	iter;

	if (leader->flock == NULL || !is_ordinary(leader))
		return NIL;
	dlist_foreach(iter, &leader->flock->channels)
	{
		Channel    *channel = dlist_container(Channel, in_flock, iter.cur);

		if (channel != leader && is_ordinary(channel) &&
			channel->place.position == leader->place.position &&
			channel->open == leader->open &&
			(channel->place.position >= channel->batch_end ||
			 channel->batch_end == leader->batch_end))
			result = lappend(result, channel);
	}
	return result;
}

/* What the leader's slice was decided with, as far as that is known */
typedef struct Grounds
{
	bool		claims;			/* what decided may have read the claims */
	bool		unknown;		/* so may what decides about other tables */
} Grounds;

static void
look_at_grounds(SubscriptionGroup *group, Grounds *grounds)
{
	dlist_iter	iter;

	dlist_foreach(iter, &group->tables)
	{
		TableGroup *tg = dlist_container(TableGroup, in_group, iter.cur);
		TableRoute *route = tg->role->route;
		TableAccess *access = policy_known_access(route->relid,
												  tg->role->roleid);
		bool		certain = access != NULL && !access->reads_session;

		if (!certain)
			grounds->unknown = true;
		if (route->first != NULL &&
			(!certain || tg->access_basis != access->basis))
			grounds->claims = true;
	}
}

/* Do the groups, of equal bindings, listen to the same tables, in the same way? */
static bool
same_tables(SubscriptionGroup *a, SubscriptionGroup *b)
{
	dlist_node *one = a->tables.head.next;
	dlist_node *other = b->tables.head.next;

	for (; one != &a->tables.head && other != &b->tables.head;
		 one = one->next, other = other->next)
	{
		TableGroup *tg = dlist_container(TableGroup, in_group, one);
		TableGroup *like = dlist_container(TableGroup, in_group, other);

		if (tg->role != like->role || tg->misnamed != like->misnamed ||
			tg->displaced != like->displaced ||
			tg->failures > 0 || like->failures > 0)
			return false;
	}
	return one == &a->tables.head && other == &b->tables.head;
}

static bool
is_equal(const Channel *leader, const Channel *channel)
{
	for (int i = 0; i < leader->nbindings; i++)
		if (leader->bindings[i].group != NULL &&
			!same_tables(leader->bindings[i].group, channel->bindings[i].group))
			return false;
	return true;
}

/*
 * The leader's slice was decided: see who of the followers can be sent it.
 * Called in the transaction in which it was, before its changes leave their
 * routes.
 */
List *
batch_confirm(Channel *leader, List *followers)
{
	Grounds		grounds = {false, false};
	Flock	   *flock = leader->flock;
	List	   *result = NIL;
	ListCell   *lc;

	for (int i = 0; i < leader->nbindings; i++)
		if (leader->bindings[i].group != NULL)
			look_at_grounds(leader->bindings[i].group, &grounds);
	if (flock == NULL ||
		(flock->all_claims ? grounds.claims :
		 !grounds.claims && !grounds.unknown))
	{
		join_flock(leader, !grounds.claims);
		return NIL;
	}
	if (!is_ordinary(leader))
		return NIL;
	foreach(lc, followers)
	{
		Channel    *channel = lfirst(lc);

		if (is_ordinary(channel) && is_equal(leader, channel))
			result = lappend(result, channel);
	}
	return result;
}

/* The follower's group that stands where this one of its leader's does */
SubscriptionGroup *
batch_group(const Channel *follower, SubscriptionGroup *group)
{
	Binding    *binding = dlist_head_element(Binding, in_group,
											 &group->bindings);

	return follower->bindings[binding - binding->channel->bindings].group;
}

/* The followers have got what their leader has. */
void
batch_move(const Channel *leader, List *followers)
{
	ListCell   *lc;

	foreach(lc, followers)
	{
		Channel    *channel = lfirst(lc);

		channel->place = leader->place;
		channel->batch_end = leader->batch_end;
		channel->batch_limit = leader->batch_limit;
		channel->due = leader->due;
		channel->open = leader->open;
	}
}
