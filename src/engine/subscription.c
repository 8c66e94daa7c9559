/*-------------------------------------------------------------------------
 *
 * subscription.c
 *	  Who listens to what: channels, their bindings, and groups of bindings.
 *
 * A channel lives in a context of its own, and so does a group; both hang
 * under SubscriptionContext.
 *
 * Called by join.c, requests.c and rights.c for what becomes of a channel, and
 * by all that have something to tell one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "engine/batch.h"
#include "engine/boundary.h"
#include "engine/budget.h"
#include "engine/clock.h"
#include "engine/late.h"
#include "engine/links.h"
#include "engine/metrics.h"
#include "engine/policy.h"
#include "engine/relay.h"
#include "engine/session.h"
#include "engine/snapshot.h"
#include "engine/subscription.h"
#include "engine/tables.h"

/* At most one error message per group in this time */
#define TELL_INTERVAL_MS 1000

/* Of an error's text, clients are told no more than this later. */
#define MAX_UNTOLD 500

typedef struct GroupEntry
{
	char	   *key;
	SubscriptionGroup *group;
} GroupEntry;

static MemoryContext SubscriptionContext = NULL;
static HTAB *channels = NULL;
static HTAB *groups_by_key = NULL;
static dlist_head cursors = DLIST_STATIC_INIT(cursors); /* channels that want
														 * them */
static dlist_head groups = DLIST_STATIC_INIT(groups);
static int	ngroups;
static Size memory_used;		/* by channels and groups, about */
static bool some_untold;		/* some group has "untold" or "withheld" set */
static uint64 mark = 1;			/* counts subscription_mark */
static dlist_head told = DLIST_STATIC_INIT(told);	/* channels whose access
													 * was sent since then */
static uint64 accesses_seen;	/* tables_moves() when all cursors were told */
static uint32 last_group_id;
static uint64 binding_seed;		/* so that nobody can make ids collide */

/*
 * Hash tables keyed by a string that the entry points to
 */
static uint32
key_hash(const void *key, Size size)
{
	const char *string = *(char *const *) key;

	return hash_bytes((const unsigned char *) string, strlen(string));
}

static int
key_match(const void *a, const void *b, Size size)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

static HTAB *
string_table(const char *name, Size entrysize)
{
	HASHCTL		ctl = {
		.keysize = sizeof(char *),
		.entrysize = entrysize,
		.hash = key_hash,
		.match = key_match,
		.hcxt = SubscriptionContext
	};

	return hash_create(name, 256, &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

/* Prepare; once in the life of the engine. */
void
subscription_init(void)
{
	HASHCTL		ctl = {
		.keysize = sizeof(uint64),
		.entrysize = sizeof(uint64) + sizeof(Channel *),
	};

	SubscriptionContext = AllocSetContextCreate(TopMemoryContext,
												"rtsync subscriptions",
												ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = SubscriptionContext;
	channels = hash_create("rtsync channels", 256, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	groups_by_key = string_table("rtsync groups", sizeof(GroupEntry));
	if (!pg_strong_random(&binding_seed, sizeof(binding_seed)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random numbers")));
}

static char *
binding_key(const Binding *binding)
{
	StringInfoData key;

	initStringInfo(&key);
	binding_append_key(&key, &binding->spec);
	return key.data;
}

/*
 * Give a binding the number that its client will know it by: never 0, the
 * same as an equal one's, and different from that of others of the channel.
 * (Nothing is kept for it: who joins again and again costs no memory.)
 */
void
subscription_number(Channel *channel, Binding *binding)
{
	char	   *key = binding_key(binding);
	Binding    *other = channel->bindings;

	binding->id = (uint32) hash_bytes_extended((unsigned char *) key,
											   strlen(key), binding_seed);
	binding->id = (binding->id & PG_INT32_MAX) | 1;
	while (other < binding)
	{
		char	   *other_key;
		bool		equal;

		if (other->id != binding->id)
		{
			other++;
			continue;
		}
		other_key = binding_key(other);
		equal = strcmp(other_key, key) == 0;
		pfree(other_key);
		if (equal)
			break;
		binding->id = (binding->id + 2) & PG_INT32_MAX;
		other = channel->bindings;
	}
	pfree(key);
}

/*--------------------------------------------------------------------------
 * Groups
 *--------------------------------------------------------------------------
 */

/* Could a group of such bindings be for all principals of a role? */
static bool
may_share(const BindingSpec *spec, const BindingOptions *options)
{
	return spec->schema != NULL && spec->table != NULL &&
		!binding_costly(spec, options);
}

static void
group_free(SubscriptionGroup *group)
{
	boundary_forget(group);
	tables_remove_group(group);
	hash_search(groups_by_key, &group->key, HASH_REMOVE, NULL);
	dlist_delete(&group->node);
	ngroups--;
	memory_used -= group->weight;
	budget_close(group->payer);
	MemoryContextDelete(group->context);
}

/* Of a group that is for all principals of a role, in the place of claims: no
 * policy may be decided by these, so it is best if they let nothing through. */
#define NO_CLAIMS "{}"

static void tell_departing(Channel *channel, SubscriptionGroup *group);

static SubscriptionGroup *
group_create(char *key, const Binding *binding, bool late, bool shared)
{
	const Principal *principal = &binding->channel->principal;
	const BindingSpec *spec = &binding->spec;
	MemoryContext context = AllocSetContextCreate(SubscriptionContext,
												  "rtsync group",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SubscriptionGroup *group = palloc0(sizeof(SubscriptionGroup));
	GroupEntry *entry;

	group->context = context;
	group->key = pstrdup(key);
	group->id = ++last_group_id;
	group->late = late;
	group->shared = shared;
	group->principal = palloc0(sizeof(Principal));
	group->principal->roleid = principal->roleid;
	group->principal->rolename = pstrdup(principal->rolename);
	group->principal->claims = pstrdup(shared ? NO_CLAIMS : principal->claims);
	binding_copy(&group->spec, spec);
	binding_options(spec, &group->options);
	group->form = binding_form(spec, &group->options);
	group->may_share = !late && may_share(spec, &group->options);
	dlist_init(&group->bindings);
	dlist_init(&group->tables);
	if (binding_costly(spec, &group->options))
		group->payer = budget_open(principal);
	MemoryContextSwitchTo(old);

	entry = hash_search(groups_by_key, &group->key, HASH_ENTER, NULL);
	entry->key = group->key;
	entry->group = group;
	dlist_push_tail(&groups, &group->node);
	ngroups++;
	PG_TRY();
	{
		tables_add_group(group);
	}
	PG_CATCH();
	{
		/* nobody must find it who would then wait for its changes in vain */
		group_free(group);
		PG_RE_THROW();
	}
	PG_END_TRY();
	group->weight = MemoryContextMemAllocated(context, true) +
		binding->filter_weight;
	memory_used += group->weight;
	return group;
}

/*
 * Do the claims certainly decide nothing for the binding?  What is not known
 * yet is not certain, but subscription_regroup comes when it is.
 */
static bool
is_same_for_all(const Binding *binding)
{
	BindingOptions options;
	List	   *tables;
	TableAccess *access;

	binding_options(&binding->spec, &options);
	if (!may_share(&binding->spec, &options))
		return false;
	tables = binding_tables(&binding->spec);
	if (tables == NIL)
		return false;
	access = policy_known_access(linitial_oid(tables),
								 binding->channel->principal.roleid);
	return access != NULL && !access->reads_session;
}

static char *
group_key(const Binding *binding, bool late, bool shared)
{
	const Principal *principal = &binding->channel->principal;
	StringInfoData key;

	initStringInfo(&key);
	if (late)
		appendStringInfo(&key, "late " UINT64_FORMAT " %d;",
						 binding->channel->id,
						 (int) (binding - binding->channel->bindings));
	appendStringInfo(&key, "%u;", principal->roleid);
	binding_append_part(&key, shared ? NULL : principal->claims);
	binding_append_key(&key, &binding->spec);
	return key.data;
}

/* The group that has this key, made for the binding if there is none */
static SubscriptionGroup *
group_find(char *key, const Binding *binding, bool late, bool shared)
{
	GroupEntry *entry = hash_search(groups_by_key, &key, HASH_FIND, NULL);

	return entry != NULL ? entry->group :
		group_create(key, binding, late, shared);
}

/*
 * Put a binding into the group it belongs to: one that it shares with its
 * equals, or if it is late, one for it alone.
 */
static void
binding_attach(Binding *binding, bool late)
{
	bool		shared = !late && is_same_for_all(binding);
	char	   *key = group_key(binding, late, shared);

	binding->group = group_find(key, binding, late, shared);
	dlist_push_tail(&binding->group->bindings, &binding->in_group);
	binding->group->cursors += binding->channel->wants_cursor;
	pfree(key);
}

static void
binding_detach(Binding *binding)
{
	SubscriptionGroup *group = binding->group;

	if (group == NULL)
		return;
	dlist_delete(&binding->in_group);
	group->cursors -= binding->channel->wants_cursor;
	binding->group = NULL;
	tell_departing(binding->channel, group);
	if (dlist_is_empty(&group->bindings))
		group_free(group);
}

/*
 * Let a binding go over to another group.  Until that is there it stays where
 * it is, to be told what there is to tell.
 */
static void
binding_move(Binding *binding, bool shared)
{
	SubscriptionGroup *from = binding->group;
	char	   *key = group_key(binding, false, shared);
	SubscriptionGroup *to = group_find(key, binding, false, shared);

	dlist_delete(&binding->in_group);
	dlist_push_tail(&to->bindings, &binding->in_group);
	from->cursors -= binding->channel->wants_cursor;
	to->cursors += binding->channel->wants_cursor;
	boundary_move(from, to);
	binding->group = to;
	tell_departing(binding->channel, from);
	subscription_send_bindings(binding->channel);
	pfree(key);
}

/*
 * Whether the claims decide something for the group is not what it was: move
 * its bindings into the groups that they belong to now, and then free it.  They
 * miss nothing: what is sent after this goes to those groups.  Called in a
 * transaction on the present.
 */
void
subscription_regroup(SubscriptionGroup *group)
{
	bool		shared = !group->shared;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &group->bindings)
		binding_move(dlist_container(Binding, in_group, iter.cur), shared);
	group_free(group);
}

/*
 * Put the bindings of a channel that can be served into their groups.  Called
 * in a transaction on the present.
 */
void
subscription_attach(Channel *channel, bool late)
{
	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].served)
			binding_attach(&channel->bindings[i], late);
}

/* Take the bindings of a channel out of their groups. */
void
subscription_detach(Channel *channel)
{
	batch_leave(channel);
	for (int i = 0; i < channel->nbindings; i++)
		binding_detach(&channel->bindings[i]);
}

/* All groups, a list of SubscriptionGroup.node */
dlist_head *
subscription_groups(void)
{
	return &groups;
}

/* How many groups, channels and (about) connections there are */
int
subscription_group_count(void)
{
	return ngroups;
}

int
subscription_channel_count(void)
{
	return (int) hash_get_num_entries(channels);
}

int
subscription_connection_count(void)
{
	int			count = 0;

	for (int i = 0; i < LINKS_MAX; i++)
		if (links_get(i) != NULL)
			count += links_get(i)->connections;
	return count;
}

/*--------------------------------------------------------------------------
 * Channels
 *--------------------------------------------------------------------------
 */

typedef struct ChannelEntry
{
	uint64		id;
	Channel    *channel;
} ChannelEntry;

/* The channel of this number, if it is one of this gateway, or NULL */
Channel *
subscription_channel(const Link *link, uint64 id)
{
	ChannelEntry *entry = hash_search(channels, &id, HASH_FIND, NULL);

	return entry != NULL && entry->channel->link == link ? entry->channel : NULL;
}

/*
 * Take in a channel, with the context that is its own.  Nothing is in a group
 * yet.
 */
void
subscription_add(Channel *channel)
{
	ChannelEntry *entry = hash_search(channels, &channel->id, HASH_ENTER, NULL);

	entry->channel = channel;
	MemoryContextSetParent(channel->context, SubscriptionContext);
}

/* The channel takes more or less memory than before. */
void
subscription_weigh(Channel *channel)
{
	memory_used -= channel->weight;
	channel->weight = MemoryContextMemAllocated(channel->context, true);
	memory_used += channel->weight;
}

/* The bytes that channels and groups take, about */
Size
subscription_memory(void)
{
	return memory_used;
}

/*
 * All channels: subscription_next() gives one after the other, and then NULL.
 * The one that it gave last may be freed, and no other.
 */
void
subscription_scan(HASH_SEQ_STATUS *scan)
{
	hash_seq_init(scan, channels);
}

Channel *
subscription_next(HASH_SEQ_STATUS *scan)
{
	ChannelEntry *entry = hash_seq_search(scan);

	return entry != NULL ? entry->channel : NULL;
}

/* Each change is to come with its cursor, and the end of each transaction is to
 * be told. */
void
subscription_want_cursors(Channel *channel)
{
	channel->wants_cursor = true;
	dlist_push_tail(&cursors, &channel->in_cursors);
	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].group != NULL)
			channel->bindings[i].group->cursors++;
}

/* The client has left, or never came: nothing is told. */
void
subscription_free(Channel *channel)
{
	session_leave(channel);
	late_forget(channel);
	relay_untrack(channel);
	if (channel->wants_cursor)
		dlist_delete(&channel->in_cursors);
	if (channel->access_mark == mark)
		dlist_delete(&channel->in_told);
	channel->ending = true;
	snapshot_forget(channel);
	subscription_detach(channel);
	memory_used -= channel->weight;
	hash_search(channels, &channel->id, HASH_REMOVE, NULL);
	MemoryContextDelete(channel->context);
}

/* The gateway is gone: forget its channels. */
void
subscription_drop_link(Link *link)
{
	HASH_SEQ_STATUS scan;
	Channel    *channel;

	subscription_scan(&scan);
	while ((channel = subscription_next(&scan)) != NULL)
	{
		if (channel->link != link)
			continue;
		channel->tracked = false;	/* all know that the gateway ended */
		subscription_free(channel);
	}
}

/* Send a "system" message, perhaps with the end of the channel. */
static void
send_system(Channel *channel, const char *extension, const char *status,
			const char *message, LinkThen then)
{
	LinkWriter *out = &channel->link->out;

	link_begin(out, LINK_SYSTEM);
	link_put_u64(out, channel->id);
	link_put_string(out, extension);
	link_put_string(out, status);
	linkio_put_text(channel->link, message);
	link_put_u8(out, then);
	linkio_end(channel->link);
}

static void
send_refetch(Channel *channel, RefetchReason reason, const char *message)
{
	metrics_refetch(reason);
	send_system(channel, "rtsync", "refetch", message, LINK_THEN_NOTHING);
}

/* Close the channel for this reason; its client does not join again by itself. */
void
subscription_close(Channel *channel, const char *message)
{
	send_system(channel, "system", "error", message, LINK_THEN_CLOSE);
	subscription_free(channel);
}

/* Likewise, but its client joins again. */
void
subscription_break(Channel *channel, const char *message)
{
	send_system(channel, "system", "error", message, LINK_THEN_ERROR);
	subscription_free(channel);
}

/*
 * Send a "system" message.  If a snapshot is under way, what makes it out of
 * date ends it.
 */
void
subscription_tell(Channel *channel, const char *extension, const char *status,
				  const char *message)
{
	bool		interrupted = channel->pace == CHANNEL_SNAPSHOT &&
		strcmp(status, "error") == 0 && snapshot_interrupt(channel);

	send_system(channel, extension, status, message, LINK_THEN_NOTHING);
	if (interrupted)
		send_refetch(channel, REFETCH_SNAPSHOT, "the snapshot was not completed");
}

/* Tell the channel to read its rows again, unless a snapshot is to come. */
void
subscription_refetch(Channel *channel, RefetchReason reason, const char *message)
{
	if (channel->pace == CHANNEL_SNAPSHOT && !snapshot_interrupt(channel))
		return;
	send_refetch(channel, reason, message);
}

/*
 * The channel, which is not live, is told that access to its tables has changed.
 * Changes from before that, in the layout of then, may still come up to where
 * routing gets to when it has passed this place in the WAL: it is told once more
 * behind these.
 */
void
subscription_tell_again(Channel *channel, XLogRecPtr lsn)
{
	channel->access_changed = true;
	channel->tell_lsn = Max(channel->tell_lsn, lsn);
	channel->tell_behind = 0;
}

/* The beginning of a text that may be long */
static char *
clipped(const char *text)
{
	return pnstrdup(text, pg_mbcliplen(text, strlen(text), MAX_UNTOLD));
}

/* Tell the channels of a group something that concerns all of them. */
void
subscription_tell_group(SubscriptionGroup *group, const char *extension,
						const char *status, const char *message)
{
	dlist_iter	iter;

	dlist_foreach(iter, &group->bindings)
	{
		Binding    *binding = dlist_container(Binding, in_group, iter.cur);

		subscription_tell(binding->channel, extension, status, message);
	}
}

/* Tell the channels of a group to read their rows again. */
void
subscription_refetch_group(SubscriptionGroup *group, RefetchReason reason,
						   const char *message)
{
	dlist_iter	iter;

	dlist_foreach(iter, &group->bindings)
		subscription_refetch(dlist_container(Binding, in_group, iter.cur)->channel,
							 reason, message);
}

/*
 * Likewise all channels with this ChannelPace, or all if it is -1, that are
 * subscribed to changes.
 */
void
subscription_refetch_all(int pace, RefetchReason reason, const char *message)
{
	HASH_SEQ_STATUS scan;
	Channel    *channel;

	subscription_scan(&scan);
	while ((channel = subscription_next(&scan)) != NULL)
		if (channel->nbindings > 0 && (pace < 0 || channel->pace == pace))
			subscription_refetch(channel, reason, message);
}

/*
 * Tell them of an error; if they were told of one less than a second ago,
 * later (subscription_tell_late), and then of the first since.
 */
void
subscription_tell_error(SubscriptionGroup *group, const char *message)
{
	if (!clock_passed(group->told_at, TELL_INTERVAL_MS))
	{
		some_untold = true;
		if (group->untold == NULL)
		{
			group->untold = MemoryContextStrdup(group->context,
												clipped(message));
			tables_moved();
			subscription_send_group_access(group);
		}
		return;
	}
	group->told_at = clock_now();
	subscription_tell_group(group, "postgres_changes", "error", message);
}

/* A change may be missing in a group whose payer is suspended. */
void
subscription_withhold(SubscriptionGroup *group)
{
	if (!group->withheld)
		tables_moved();
	group->withheld = some_untold = true;
}

static void
tell_untold(SubscriptionGroup *group)
{
	if (group->untold == NULL ||
		!clock_passed(group->told_at, TELL_INTERVAL_MS))
		return;
	group->told_at = clock_now();
	subscription_tell_group(group, "postgres_changes", "error", group->untold);
	pfree(group->untold);
	group->untold = NULL;
	tables_moved();
}

static void
tell_withheld(SubscriptionGroup *group)
{
	if (!group->withheld)
		return;
	if (!group->withheld_told)
	{
		group->withheld_told = true;
		subscription_tell_group(group, "postgres_changes", "error",
								"Changes are withheld for now because the patterns and conditions of this client took too much time");
	}
	if (!budget_suspended(group->payer))
	{
		group->withheld = group->withheld_told = false;
		tables_moved();
		subscription_refetch_group(group, REFETCH_WITHHELD,
								   "changes were withheld because patterns and conditions took too much time");
	}
}

/*
 * Tell groups what could not be told at once; about once a second, outside of
 * any transaction.
 */
void
subscription_tell_late(void)
{
	bool		rest = false;
	dlist_iter	iter;

	if (!some_untold)
		return;
	dlist_foreach(iter, &groups)
	{
		SubscriptionGroup *group = dlist_container(SubscriptionGroup, node,
												   iter.cur);

		tell_untold(group);
		tell_withheld(group);
		rest |= group->untold != NULL || group->withheld;
	}
	some_untold = rest;
}

/* A channel leaves a group: what it was still to be told it is told now. */
static void
tell_departing(Channel *channel, SubscriptionGroup *group)
{
	if (channel->ending)
		return;
	if (group->untold != NULL)
		subscription_tell(channel, "postgres_changes", "error", group->untold);
	if (group->withheld)
		subscription_refetch(channel, REFETCH_WITHHELD,
							 "changes were withheld because patterns and conditions took too much time");
}

/* Does a binding that can be served ask for a snapshot? */
static bool
asks_for_snapshot(const Binding *binding)
{
	BindingOptions options;

	if (!binding->served)
		return false;
	binding_options(&binding->spec, &options);
	return options.snapshot;
}

/*
 * A binding can be served: see how often.  Returns why it cannot, because of
 * the channel's others, or NULL.
 */
static char *
take_interval(Channel *channel, const Binding *binding, bool *taken)
{
	BindingOptions options;

	binding_options(&binding->spec, &options);
	if (*taken && channel->interval != options.interval)
		return pstrdup("Unable to subscribe to changes with given parameters: "
					   "all postgres_changes of a channel need the same rtsync option \"interval\"");
	channel->interval = options.interval;
	*taken = true;
	return NULL;
}

/*
 * See which bindings of a channel can be served, and put these into their
 * groups; with "snapshot", it begins with one if some of them ask for it.
 * problems[i] becomes the reason where one cannot be, else NULL, and
 * hints[i] what the client's author should know, or NULL.  Returns the reason
 * if that of one is that somebody has locked its table, so that its client had
 * better try again; in a channel that is joined already, it is then served if
 * it was before, since each change is decided about by itself anyway.
 */
char *
subscription_begin(Channel *channel, bool snapshot, char **problems,
				   char **hints)
{
	bool		taken = channel->interval > 0;
	char	   *lock_problem = NULL;

	for (int i = 0; i < channel->nbindings; i++)
	{
		Binding    *binding = &channel->bindings[i];
		Size		weight;
		bool		locked;

		problems[i] = binding_problem(&channel->principal, &binding->spec,
									  &hints[i], &weight, &locked);
		if (locked && channel->joined != 0 && binding->served)
			problems[i] = NULL;
		else
			binding->filter_weight = weight;
		if (locked && lock_problem == NULL)
			lock_problem = problems[i];
		if (problems[i] == NULL)
			problems[i] = take_interval(channel, binding, &taken);
		binding->served = problems[i] == NULL;
		binding->snapshot = asks_for_snapshot(binding);
	}
	if (snapshot && snapshot_wanted(channel))
		snapshot_request(channel);
	else if (channel->pace == CHANNEL_SNAPSHOT)
		late_follow(channel);
	if (channel->interval > 0 && channel->pace == CHANNEL_LIVE)
		late_throttle(channel);
	if (channel->pace != CHANNEL_PAUSED)
		subscription_attach(channel, channel->pace != CHANNEL_LIVE);
	return lock_problem;
}

/* Put the list of bindings that ends LINK_JOIN_REPLY and LINK_BINDINGS. */
void
subscription_put_bindings(const Channel *channel)
{
	LinkWriter *out = &channel->link->out;

	link_put_u32(out, channel->nbindings);
	for (int i = 0; i < channel->nbindings; i++)
	{
		Binding    *binding = &channel->bindings[i];

		link_put_u32(out, binding->id);
		link_put_u32(out, binding->group != NULL ? binding->group->id : 0);
	}
}

/* Tell the gateway which groups the channel is in now. */
void
subscription_send_bindings(Channel *channel)
{
	LinkWriter *out = &channel->link->out;

	link_begin(out, LINK_BINDINGS);
	link_put_u64(out, channel->id);
	subscription_put_bindings(channel);
	linkio_end(channel->link);
}

/* Tell the gateway how the channel's cursors end now, if that has changed. */
void
subscription_send_access(Channel *channel)
{
	LinkWriter *out = &channel->link->out;
	uint64		access;

	if (!channel->wants_cursor)
		return;
	access = late_cursor_access(channel);
	if (access == channel->access_told)
		return;
	if (channel->access_mark != mark)
	{
		channel->access_mark = mark;
		channel->access_before = channel->access_told;
		dlist_push_tail(&told, &channel->in_told);
	}
	channel->access_told = access;
	link_begin(out, LINK_ACCESS);
	link_put_u64(out, channel->id);
	link_put_u64(out, access);
	linkio_end(channel->link);
}

/*
 * Likewise for all channels, if what they may see may have changed, or what
 * they are still to be told.  They were told of it before.
 */
void
subscription_send_accesses(void)
{
	MemoryContext context;
	MemoryContext old;
	dlist_iter	iter;

	if (accesses_seen == tables_moves())
		return;
	context = AllocSetContextCreate(TopMemoryContext, "rtsync accesses",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	dlist_foreach(iter, &cursors)
	{
		Channel    *channel = dlist_container(Channel, in_cursors, iter.cur);

		if (channel->joined != 0)
			subscription_send_access(channel);
	}
	accesses_seen = tables_moves();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * Likewise for the channels of a group, which are still to be told something:
 * before the cursor of a change behind it is sent.
 */
void
subscription_send_group_access(SubscriptionGroup *group)
{
	dlist_iter	iter;

	if (group->cursors == 0)
		return;
	dlist_foreach(iter, &group->bindings)
	{
		Channel    *channel = dlist_container(Binding, in_group,
											  iter.cur)->channel;

		if (channel->joined != 0)
			subscription_send_access(channel);
	}
}

/* What is put into the links from here on may be taken back. */
void
subscription_mark(void)
{
	links_mark();
	mark++;
	dlist_init(&told);
}

/* Take it back. */
void
subscription_rollback(void)
{
	dlist_iter	iter;

	links_rollback();
	dlist_foreach(iter, &told)
	{
		Channel    *channel = dlist_container(Channel, in_told, iter.cur);

		channel->access_told = channel->access_before;
		accesses_seen = tables_moves() - 1;
	}
	mark++;
	dlist_init(&told);
}

/* Is the text one of the first n, of which some are NULL? */
static bool
is_among(const char *text, char **texts, int n)
{
	for (int i = 0; i < n; i++)
		if (texts[i] != NULL && strcmp(text, texts[i]) == 0)
			return true;
	return false;
}

/* Tell the client how its bindings fared; what several have in common, once. */
void
subscription_report(Channel *channel, char **problems, char **hints)
{
	bool		ok = channel->nbindings > 0;

	for (int i = 0; i < channel->nbindings; i++)
	{
		if (problems[i] == NULL)
			continue;
		subscription_tell(channel, "postgres_changes", "error", problems[i]);
		ok = false;
	}
	if (ok)
		subscription_tell(channel, "postgres_changes", "ok",
						  "Subscribed to PostgreSQL");
	for (int i = 0; i < channel->nbindings; i++)
		if (hints[i] != NULL && !is_among(hints[i], hints, i))
			subscription_tell(channel, "rtsync", "hint", hints[i]);
}
