/*-------------------------------------------------------------------------
 *
 * subscription.c
 *	  Who listens to what: channels, their bindings, and groups of bindings.
 *
 * Answers the gateway's messages.  Nothing in a message is trusted: tokens
 * are verified here, names and filters are looked up with the rights of the
 * token's role, and a message that does not have its form breaks the link.
 * Each message is handled in a transaction of its own inside PG_TRY, so that
 * whatever a client sends costs at most its own request.
 *
 * A channel lives in a context of its own, and so does a group; both hang
 * under SubscriptionContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "engine/apikey.h"
#include "engine/attempt.h"
#include "engine/authorize.h"
#include "engine/budget.h"
#include "engine/catalogs.h"
#include "engine/clock.h"
#include "engine/credential.h"
#include "engine/late.h"
#include "engine/links.h"
#include "engine/message.h"
#include "engine/messages_table.h"
#include "engine/metrics.h"
#include "engine/policy.h"
#include "engine/relay.h"
#include "engine/report.h"
#include "engine/session.h"
#include "engine/settings.h"
#include "engine/snapshot.h"
#include "engine/subscription.h"
#include "engine/tables.h"
#include "engine/token.h"
#include "engine/wal.h"

/* At most one error message per group in this time */
#define TELL_INTERVAL_MS 1000

/* Of an error's text, clients are told no more than this later. */
#define MAX_UNTOLD 500

/* An error while a message is stored is logged this often, at most */
#define STORE_LOG_INTERVAL_MS 10000

typedef struct GroupEntry
{
	char	   *key;
	SubscriptionGroup *group;
} GroupEntry;

static MemoryContext SubscriptionContext = NULL;
static MemoryContext MessageContext_ = NULL;
static HTAB *channels = NULL;
static HTAB *groups_by_key = NULL;
static dlist_head cursors = DLIST_STATIC_INIT(cursors); /* channels that want
														 * them */
static dlist_head groups = DLIST_STATIC_INIT(groups);
static int	ngroups;
static Size memory_used;		/* by channels and groups, about */
static bool some_untold;		/* some group has "untold" or "withheld" set */
static uint32 last_group_id;
static uint64 binding_seed;		/* so that nobody can make ids collide */
static GatewayCounts gateway_counts;
static int64 next_expiry = PG_INT64_MAX;	/* no token expires before it */
static bool roles_changed;		/* since the channels' roles were checked */
static bool rights_changed;		/* likewise the rights on private topics, ... */
static uint64 rights_seen;		/* ... known only after so many changes */

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

static void
roles_changed_cb(Datum arg, int cacheid, uint32 hashvalue)
{
	roles_changed = true;
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
	MessageContext_ = AllocSetContextCreate(TopMemoryContext,
											"rtsync link message",
											ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = SubscriptionContext;
	channels = hash_create("rtsync channels", 256, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	groups_by_key = string_table("rtsync groups", sizeof(GroupEntry));
	if (!pg_strong_random(&binding_seed, sizeof(binding_seed)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random numbers")));
	CacheRegisterSyscacheCallback(AUTHOID, roles_changed_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, roles_changed_cb, (Datum) 0);
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
static void
binding_number(Channel *channel, Binding *binding)
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
	pfree(key);
}

static void
binding_detach(Binding *binding)
{
	SubscriptionGroup *group = binding->group;

	if (group == NULL)
		return;
	dlist_delete(&binding->in_group);
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

/* What the gateways have sent */
const GatewayCounts *
subscription_gateway_counts(void)
{
	return &gateway_counts;
}

static void
channel_free(Channel *channel)
{
	session_leave(channel);
	late_forget(channel);
	relay_untrack(channel);
	if (channel->wants_cursor)
		dlist_delete(&channel->in_cursors);
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
	ChannelEntry *entry;

	hash_seq_init(&scan, channels);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->channel->link != link)
			continue;
		entry->channel->tracked = false;	/* all know that the gateway ended */
		channel_free(entry->channel);
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
	channel_free(channel);
}

/*
 * Likewise; if a snapshot is under way, what makes it out of date ends it.
 */
static void
tell_channel(Channel *channel, const char *extension, const char *status,
			 const char *message, LinkThen then)
{
	bool		interrupted = channel->pace == CHANNEL_SNAPSHOT &&
		strcmp(status, "error") == 0 && snapshot_interrupt(channel);

	send_system(channel, extension, status, message, then);
	if (interrupted && then == LINK_THEN_NOTHING)
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

/* Send a "system" message. */
void
subscription_tell(Channel *channel, const char *extension, const char *status,
				  const char *message)
{
	tell_channel(channel, extension, status, message, LINK_THEN_NOTHING);
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

		tell_channel(binding->channel, extension, status, message,
					 LINK_THEN_NOTHING);
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
	ChannelEntry *entry;

	hash_seq_init(&scan, channels);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->channel->nbindings > 0 &&
			(pace < 0 || entry->channel->pace == pace))
			subscription_refetch(entry->channel, reason, message);
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
		if (group->untold == NULL)
			group->untold = MemoryContextStrdup(group->context,
												clipped(message));
		some_untold = true;
		return;
	}
	group->told_at = clock_now();
	subscription_tell_group(group, "postgres_changes", "error", message);
}

/* A change may be missing in a group whose payer is suspended. */
void
subscription_withhold(SubscriptionGroup *group)
{
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
static char *
channel_subscribe(Channel *channel, bool snapshot, char **problems,
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
static void
put_bindings(LinkWriter *out, const Channel *channel)
{
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
	put_bindings(out, channel);
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
	static uint64 seen = 0;
	MemoryContext old;
	dlist_iter	iter;

	if (seen == tables_moves())
		return;
	seen = tables_moves();
	old = MemoryContextSwitchTo(MessageContext_);
	dlist_foreach(iter, &cursors)
	{
		Channel    *channel = dlist_container(Channel, in_cursors, iter.cur);

		if (channel->joined != 0)
			subscription_send_access(channel);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(MessageContext_);
}

/* Tell the client how its bindings fared. */
static void
report_bindings(Channel *channel, char **problems, char **hints)
{
	bool		ok = channel->nbindings > 0;

	for (int i = 0; i < channel->nbindings; i++)
	{
		if (problems[i] == NULL)
			continue;
		tell_channel(channel, "postgres_changes", "error", problems[i],
					 LINK_THEN_NOTHING);
		ok = false;
	}
	if (ok)
		tell_channel(channel, "postgres_changes", "ok",
					 "Subscribed to PostgreSQL", LINK_THEN_NOTHING);
	for (int i = 0; i < channel->nbindings; i++)
		if (hints[i] != NULL)
			tell_channel(channel, "rtsync", "hint", hints[i],
						 LINK_THEN_NOTHING);
}

/*--------------------------------------------------------------------------
 * Private channels
 *--------------------------------------------------------------------------
 */

#define READ_RIGHTS (LINK_MAY_READ_BROADCAST | LINK_MAY_READ_PRESENCE)

/* Find out what the channel may do on its topic. */
static void
channel_authorize(Channel *channel)
{
	if (!channel->private)
	{
		channel->rights = LINK_MAY_ALL;
		return;
	}
	channel->rights = authorize_topic(&channel->principal, channel->topic);
	channel->rights_generation =
		authorize_generation(channel->principal.roleid);
}

static void
close_unauthorized(Channel *channel)
{
	tell_channel(channel, "system", "error",
				 psprintf("You no longer have permission to read from this Channel topic: %s",
						  channel->topic),
				 LINK_THEN_CLOSE);
	channel_free(channel);
}

/*
 * The rights of a joined channel may have changed: tell the gateway.  Returns
 * false if one to read is gone, and with it the channel.
 */
static bool
channel_authorize_again(Channel *channel)
{
	uint8		before = channel->rights;

	channel_authorize(channel);
	if (before & READ_RIGHTS & ~channel->rights)
	{
		close_unauthorized(channel);
		return false;
	}
	if (!(channel->rights & LINK_MAY_WRITE_PRESENCE))
		relay_untrack(channel);
	if (channel->rights != before)
	{
		link_begin(&channel->link->out, LINK_RIGHTS);
		link_put_u64(&channel->link->out, channel->id);
		link_put_u8(&channel->link->out, channel->rights);
		linkio_end(channel->link);
	}
	return true;
}

/* What the rights of a role are made from now */
typedef struct RoleGeneration
{
	Oid			roleid;
	uint64		generation;		/* 0: cannot be said */
} RoleGeneration;

static void
attempt_generation(void *arg)
{
	RoleGeneration *role = arg;

	role->generation = authorize_generation(role->roleid);
}

/* Look a role up in the list, or put it there; channels have few of them. */
static uint64
role_generation(List **roles, Oid roleid)
{
	RoleGeneration *role;
	ListCell   *lc;

	foreach(lc, *roles)
	{
		role = lfirst(lc);
		if (role->roleid == roleid)
			return role->generation;
	}
	role = palloc0(sizeof(RoleGeneration));
	role->roleid = roleid;
	if (attempt(attempt_generation, role) != NULL)
		role->generation = 0;
	*roles = lappend(*roles, role);
	return role->generation;
}

static void
attempt_authorize_again(void *arg)
{
	channel_authorize_again(arg);
}

/* It cannot be said now what the channel may do: the client may ask again. */
static void
close_undecided(Channel *channel)
{
	tell_channel(channel, "system", "error",
				 "Realtime was unable to connect to the project database",
				 LINK_THEN_ERROR);
	channel_free(channel);
}

/* The settings have changed. */
void
subscription_rights_changed(void)
{
	rights_changed = true;
}

/*
 * If policies, privileges or whatever else the rights on private channels
 * depend on have changed: see what the channels may still do.  Called outside
 * of any transaction.
 */
void
subscription_recheck_rights(void)
{
	HASH_SEQ_STATUS scan;
	ChannelEntry *entry;
	List	   *roles = NIL;
	MemoryContext old;

	if (!rights_changed && rights_seen == policy_invalidations())
		return;
	rights_changed = false;
	rights_seen = policy_invalidations();
	if (hash_get_num_entries(channels) == 0)
		return;

	old = MemoryContextSwitchTo(MessageContext_);
	catalogs_begin(wal_decoded_lsn());
	MemoryContextSwitchTo(MessageContext_);
	hash_seq_init(&scan, channels);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		Channel    *channel = entry->channel;

		if (!channel->private ||
			channel->rights_generation ==
			role_generation(&roles, channel->principal.roleid))
			continue;
		if (attempt(attempt_authorize_again, channel) != NULL)
			close_undecided(channel);
	}
	catalogs_commit();
	MemoryContextSwitchTo(old);
	MemoryContextReset(MessageContext_);
}

/*--------------------------------------------------------------------------
 * Messages
 *--------------------------------------------------------------------------
 */

static bool
verify(LinkString string, Token *token, TokenError *error)
{
	if (string.data == NULL || string.length == 0)
		return token_anonymous(token, error);
	return token_verify(string.data, string.length, token, error);
}

static void
handle_auth(Link *link, LinkReader *body)
{
	uint64		connection = link_get_u64(body);
	LinkString	string = link_get_string(body);
	Token		token;
	TokenError	error;
	bool		ok;

	if (!link_finished(body))
	{
		link->broken = true;
		return;
	}
	ok = verify(string, &token, &error);
	link_begin(&link->out, LINK_AUTH_REPLY);
	link_put_u64(&link->out, connection);
	link_put_u32(&link->out, ok ? 200 : 401);
	link_put_string(&link->out, ok ? NULL : error.handshake);
	link_put_u64(&link->out, ok ? (uint64) token.expires : 0);
	link_put_u64(&link->out, ok ? token.key : 0);
	linkio_end(link);
}

/* What somebody may do on a topic without joining it */
static uint8
rest_rights(const Token *token, bool private, const char *topic)
{
	Principal	principal = {
		.roleid = token->roleid,
		.rolename = token->rolename,
		.claims = token->claims
	};

	if (!private)
		return rtsync_private_only ? 0 : LINK_MAY_ALL;
	return authorize_topic(&principal, topic);
}

/*
 * The HTTP status for somebody with this token who wants to send to a topic
 * without joining it, or to none if it is empty; *rights is what it may do
 * there.
 */
static int
rest_status(LinkString string, bool private, LinkString topic, uint8 *rights)
{
	char	   *name = linkio_cstring(topic);
	Token		token;
	TokenError	error;

	*rights = 0;
	if (!verify(string, &token, &error))
		return 401;
	if (name == NULL)
		return 403;
	if (name[0] == '\0')
		return 200;
	*rights = rest_rights(&token, private, name);
	return *rights & LINK_MAY_WRITE_BROADCAST ? 200 : 403;
}

static void
put_rest_reply(Link *link, uint64 request, int status, uint8 rights)
{
	link_begin(&link->out, LINK_REST_REPLY);
	link_put_u64(&link->out, request);
	link_put_u32(&link->out, status);
	link_put_u8(&link->out, rights);
	linkio_end(link);
}

/* Whether an HTTP request may send to a topic */
static void
handle_rest(Link *link, LinkReader *body)
{
	uint64		request = link_get_u64(body);
	bool		private = link_get_u8(body) != 0;
	LinkString	topic = link_get_string(body);
	LinkString	token = link_get_string(body);
	uint8		rights;
	int			status;

	if (!link_finished(body) || topic.data == NULL)
	{
		link->broken = true;
		return;
	}
	status = rest_status(token, private, topic, &rights);
	put_rest_reply(link, request, status, rights);
}

/* What an HTTP request has sent, for the other gateways */
static void
handle_relay_rest(Link *link, LinkReader *body)
{
	bool		private = link_get_u8(body) != 0;
	LinkString	topic = link_get_string(body);
	LinkString	token = link_get_string(body);
	uint8		rights;

	if (topic.length > 0 && rest_status(token, private, topic, &rights) == 200)
		relay_broadcast(link, private, topic, body);
	link->broken |= body->failed;
}

static void
refuse_join(Link *link, uint64 id, const char *reason)
{
	link_begin(&link->out, LINK_JOIN_REPLY);
	link_put_u64(&link->out, id);
	link_put_u8(&link->out, 0);
	link_put_u8(&link->out, 0);
	linkio_put_text(link, reason);
	link_put_u32(&link->out, 0);
	linkio_end(link);
}

/* The EVENT_xxx that a binding's "event" names */
static int
parse_event(const char *event)
{
	if (event == NULL)
		return EVENT_ALL;
	if (pg_strcasecmp(event, "INSERT") == 0)
		return EVENT_INSERT;
	if (pg_strcasecmp(event, "UPDATE") == 0)
		return EVENT_UPDATE;
	if (pg_strcasecmp(event, "DELETE") == 0)
		return EVENT_DELETE;
	return EVENT_ALL;
}

/* "*" and nothing at all both mean any */
static char *
wildcard(char *name)
{
	return name != NULL && strcmp(name, "*") == 0 ? NULL : name;
}

/* Read one binding of LINK_JOIN into the current memory context. */
static void
read_binding(LinkReader *body, BindingSpec *spec)
{
	uint32		nselect;

	spec->events = parse_event(linkio_cstring(link_get_string(body)));
	spec->schema = linkio_cstring(link_get_string(body));
	spec->table = linkio_cstring(link_get_string(body));
	spec->filter = linkio_cstring(link_get_string(body));
	if (spec->filter != NULL && spec->filter[strspn(spec->filter, " \t\r\n")] == '\0')
		spec->filter = NULL;
	spec->empty = spec->schema == NULL && spec->table == NULL;
	spec->options = linkio_cstring(link_get_string(body));
	if (spec->options != NULL && strcmp(spec->options, "null") == 0)
		spec->options = NULL;
	if (spec->schema == NULL && spec->table != NULL)
		spec->schema = pstrdup("public");
	spec->schema = wildcard(spec->schema);
	spec->table = wildcard(spec->table);

	nselect = link_get_u32(body);
	spec->nselect = -1;
	spec->select = NULL;
	if (nselect == LINK_NULL || body->failed)
		return;
	if (nselect > (size_t) (body->end - body->next) / sizeof(uint32))
	{
		body->failed = true;
		return;
	}
	spec->nselect = (int) nselect;
	spec->select = palloc0(sizeof(char *) * (nselect + 1));
	for (uint32 i = 0; i < nselect; i++)
	{
		spec->select[i] = linkio_cstring(link_get_string(body));
	}
}

/* Set the channel's topic; NULL if it is malformed. */
static void
read_topic(Channel *channel, LinkString topic)
{
	channel->topic = linkio_cstring(topic);
	if (channel->topic == NULL)
		return;
	channel->topic_sent.length = topic.length;
	if (GetDatabaseEncoding() == PG_UTF8)
		channel->topic_sent.data = channel->topic;
	else
		channel->topic_sent.data = pnstrdup(topic.data, topic.length);
}

/* Make a channel of what LINK_JOIN says; NULL if that is malformed. */
static Channel *
read_channel(Link *link, LinkReader *body, uint64 id, LinkString *token)
{
	MemoryContext context = AllocSetContextCreate(MessageContext_,
												  "rtsync channel",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Channel    *channel = palloc0(sizeof(Channel));

	channel->context = context;
	channel->link = link;
	channel->id = id;
	read_topic(channel, link_get_string(body));
	channel->private = link_get_u8(body) != 0;
	channel->wait = link_get_u8(body) != 0;
	channel->replay = link_get_u8(body);
	channel->replay_since = link_get_u64(body);
	channel->replay_limit = link_get_u32(body);
	*token = link_get_string(body);
	channel->options = linkio_cstring(link_get_string(body));
	channel->nbindings = (int) link_get_count(body, 6 * sizeof(uint32));
	channel->bindings = palloc0(sizeof(Binding) * (channel->nbindings + 1));
	for (int i = 0; i < channel->nbindings && !body->failed; i++)
	{
		Binding    *binding = &channel->bindings[i];

		binding->channel = channel;
		read_binding(body, &binding->spec);
		if (channel->nbindings <= rtsync_max_bindings_per_channel)
			binding_number(channel, binding);
	}
	MemoryContextSwitchTo(old);

	if (!link_finished(body) || channel->topic == NULL)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	MemoryContextSetParent(context, SubscriptionContext);
	return channel;
}

/* Let the channel stand for what the token says. */
static void
channel_set_token(Channel *channel, const Token *token)
{
	MemoryContext old = MemoryContextSwitchTo(channel->context);

	if (channel->principal.claims != NULL)
	{
		pfree(channel->principal.rolename);
		pfree(channel->principal.claims);
	}
	channel->principal.roleid = token->roleid;
	channel->principal.rolename = pstrdup(token->rolename);
	channel->principal.claims = pstrdup(token->claims);
	channel->claims_number = 0;
	channel->expires = token->expires;
	channel->key = token->key;
	if (channel->expires != 0)
		next_expiry = Min(next_expiry, channel->expires);
	MemoryContextSwitchTo(old);
	memory_used -= channel->weight;
	channel->weight = MemoryContextMemAllocated(channel->context, true);
	memory_used += channel->weight;
}

/* What a join's options ask for */
typedef struct JoinOptions
{
	bool		cursor;			/* each change with its cursor */
	char	   *since;			/* go on behind this one; NULL: from now */
	char	   *session;		/* or from where this one is; NULL: likewise */
} JoinOptions;

/* How a channel begins */
typedef struct JoinBegin
{
	char	   *rtsync;			/* for the reply, or NULL */
	const Refetch *refetch;		/* why its client must read its rows anew; it
								 * is told so also where it does not see the
								 * reply */
} JoinBegin;

static JsonbValue *
json_member(Jsonb *jsonb, const char *name)
{
	return getKeyJsonValueFromContainer(&jsonb->root, name, strlen(name),
										NULL);
}

/* The text of a member, palloc'd, or NULL if it is no string */
static char *
json_text(Jsonb *jsonb, const char *name)
{
	JsonbValue *value = json_member(jsonb, name);

	return value != NULL && value->type == jbvString ?
		pnstrdup(value->val.string.val, value->val.string.len) : NULL;
}

/* Read the channel's options; what is not understood counts as absent. */
static void
read_join_options(const Channel *channel, JoinOptions *options)
{
	Jsonb	   *jsonb;
	JsonbValue *value;

	memset(options, 0, sizeof(*options));
	if (channel->options == NULL)
		return;
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											   CStringGetDatum(channel->options)));
	if (!JB_ROOT_IS_OBJECT(jsonb))
		return;
	value = json_member(jsonb, "cursor");
	options->cursor = value != NULL && value->type == jbvBool &&
		value->val.boolean;
	options->since = json_text(jsonb, "since");
	options->session = json_text(jsonb, "session");
	options->cursor |= options->since != NULL;
}

/* The text for the reply to a client that asked to go on, or for cursors */
static char *
begin_text(const char *cursor, bool asked, const Refetch *problem)
{
	if (!asked)
		return psprintf("{\"cursor\":\"%s\"}", cursor);
	if (problem == NULL)
		return psprintf("{\"cursor\":\"%s\",\"resumed\":true}", cursor);
	return psprintf("{\"cursor\":\"%s\",\"resumed\":false,\"refetch\":\"%s\"}",
					cursor, problem->message);
}

/* The cursor of what comes now */
static void
format_now(uint64 access, char *buf)
{
	RoutePosition now;
	Cursor		cursor;

	route_position(&now);
	route_cursor(&now, &cursor);
	cursor_format(&cursor, access, buf);
}

/* The channel, which has its groups, cannot go on where its client left off. */
static void
begin_with_snapshot(Channel *channel)
{
	if (!snapshot_wanted(channel))
		return;
	subscription_detach(channel);
	late_forget(channel);
	snapshot_request(channel);
	subscription_attach(channel, true);
}

/*
 * The channel goes on from a cursor, and has its groups: could its client see
 * what it can see now?  If not, it begins with what comes now after all;
 * returns the reason, or NULL.
 */
static const Refetch *
check_access(Channel *channel, uint64 access)
{
	static const Refetch changed = {REFETCH_ACCESS, "the claims, or access to tables, have changed"};
	static const Refetch unknown = {REFETCH_ACCESS, "access to tables at the cursor is not known"};

	if (access != 0 && access == late_cursor_access(channel))
		return NULL;
	late_abandon(channel);
	begin_with_snapshot(channel);
	return access != 0 ? &changed : &unknown;
}

/*
 * Let the channel, which has its token, go on where its client left off, if it
 * says so, and put its bindings into their groups.  Returns why that cannot be
 * now, or NULL.
 */
static char *
channel_begin(Channel *channel, char **problems, char **hints, JoinBegin *begin)
{
	JoinOptions options;
	Cursor		from;
	uint64		access = 0;
	char		buf[CURSOR_SIZE];
	const Refetch *problem = NULL;
	char	   *lock_problem;

	memset(begin, 0, sizeof(*begin));
	read_join_options(channel, &options);
	if (options.since != NULL)
		problem = late_resume(channel, options.since, &access);
	else if (options.session != NULL)
	{
		channel->session_uuid = MemoryContextStrdup(channel->context,
													options.session);
		problem = session_join(channel, &from);
	}
	lock_problem = channel_subscribe(channel, channel->pace == CHANNEL_LIVE,
									 problems, hints);
	if (lock_problem != NULL)
		return lock_problem;
	if (options.cursor)
	{
		channel->wants_cursor = true;
		dlist_push_tail(&cursors, &channel->in_cursors);
	}
	if (options.since != NULL)
	{
		if (problem == NULL)
			problem = check_access(channel, access);
		if (problem != NULL)
			metrics_refetch(problem->reason);
	}
	if (options.since == NULL && options.session != NULL)
	{
		if (problem == NULL)
		{
			problem = session_check(channel);
			if (problem != NULL)
				begin_with_snapshot(channel);
		}
		begin->refetch = problem;
	}
	if (problem != NULL || channel->pace != CHANNEL_LATE ||
		(options.since == NULL && options.session == NULL))
		format_now(late_cursor_access(channel), buf);
	else if (options.since != NULL)
		strlcpy(buf, options.since, sizeof(buf));
	else
		cursor_format(&from, late_cursor_access(channel), buf);
	if (options.cursor || options.session != NULL)
		begin->rtsync = begin_text(buf, options.since != NULL || options.session != NULL,
								   problem);
	return NULL;
}

/*
 * Why this join must be refused, palloc'd, or NULL.  On success the channel
 * has its token and its groups.
 */
static char *
join_problem(Channel *channel, LinkString string,
			 char **problems, char **hints, JoinBegin *begin)
{
	Token		token;
	TokenError	error;
	char	   *problem;

	if (!verify(string, &token, &error))
		return psprintf("%s: %s", error.code, error.message);
	if (channel->nbindings > rtsync_max_bindings_per_channel)
		return psprintf("RealtimeDisabledForConfiguration: A channel can have at most %d postgres_changes",
						rtsync_max_bindings_per_channel);
	if (memory_used / 1024 > rtsync_max_subscription_memory)
		return pstrdup("ChannelRateLimitReached: Too many channels");
	if (rtsync_private_only && !channel->private)
		return pstrdup("PrivateOnly: This project only allows private channels");
	channel_set_token(channel, &token);
	channel_authorize(channel);
	if (!(channel->rights & READ_RIGHTS))
		return psprintf("Unauthorized: You do not have permissions to read from this Channel topic: %s",
						channel->topic);
	problem = channel_begin(channel, problems, hints, begin);
	if (problem != NULL)
		return psprintf("UnableToSubscribeToPostgres: %s", problem);
	if (channel->wait)
		for (int i = 0; i < channel->nbindings; i++)
			if (problems[i] != NULL)
				return psprintf("RealtimeDisabledForConfiguration: %s",
								problems[i]);
	return NULL;
}

typedef struct ReplayAttempt
{
	Channel    *channel;
	List	   *messages;		/* result */
} ReplayAttempt;

static void
attempt_replay(void *arg)
{
	ReplayAttempt *what = arg;
	Channel    *channel = what->channel;

	what->messages = messages_table_replay(channel->topic,
										   channel->replay_since,
										   Min(channel->replay_limit,
											   LINK_MAX_REPLAY));
}

/*
 * Look up the stored messages that the channel asked for.  Returns why the
 * join must be refused, or NULL.
 */
static char *
find_replay(Channel *channel, List **messages)
{
	ReplayAttempt what = {channel, NIL};
	ErrorData  *error;

	*messages = NIL;
	if (channel->replay == LINK_REPLAY_NONE)
		return NULL;
	if (!channel->private)
		return "UnableToReplayMessages: Replay is not allowed for public channels";
	if (channel->replay != LINK_REPLAY_WANTED)
		return "UnableToReplayMessages: Replay params are not valid";
	if (!(channel->rights & LINK_MAY_READ_BROADCAST))
		return NULL;
	error = attempt(attempt_replay, &what);
	if (error != NULL)
	{
		ereport(LOG,
				(errmsg("rtsync could not replay messages: %s", error->message)));
		return "UnableToReplayMessages: Realtime was unable to replay messages";
	}
	*messages = what.messages;
	return NULL;
}

static void
send_replay(Channel *channel, List *messages)
{
	LinkWriter *out = &channel->link->out;
	ListCell   *lc;

	foreach(lc, messages)
	{
		Message    *message = lfirst(lc);

		link_begin(out, LINK_REPLAY);
		link_put_u64(out, channel->id);
		link_put_bytes(out, message->event.data, message->event.length);
		link_put_u8(out, message->json);
		link_put_bytes(out, message->payload.data, message->payload.length);
		link_put_string(out, message_id_text(message));
		linkio_end(channel->link);
	}
}

static void
handle_join(Link *link, LinkReader *body)
{
	uint64		id = link_get_u64(body);
	LinkString	token;
	Channel    *channel;
	ChannelEntry *entry;
	char	  **problems;
	char	  **hints;
	char	   *reason;
	JoinBegin	begin = {NULL, NULL};
	List	   *replay = NIL;

	if (id >> LINK_NUMBER_SHIFT != link->number ||
		subscription_channel(link, id) != NULL ||
		hash_get_num_entries(channels) >=
		(int64) rtsync_max_connections * rtsync_max_channels_per_connection ||
		(channel = read_channel(link, body, id, &token)) == NULL)
	{
		link->broken = true;
		return;
	}
	entry = hash_search(channels, &id, HASH_ENTER, NULL);
	entry->channel = channel;

	problems = palloc0(sizeof(char *) * (channel->nbindings + 1));
	hints = palloc0(sizeof(char *) * (channel->nbindings + 1));
	reason = join_problem(channel, token, problems, hints, &begin);
	if (reason == NULL)
		reason = find_replay(channel, &replay);
	if (reason != NULL)
	{
		refuse_join(link, id, reason);
		channel_free(channel);
		return;
	}
	link_begin(&link->out, LINK_JOIN_REPLY);
	link_put_u64(&link->out, id);
	link_put_u8(&link->out, 1);
	link_put_u8(&link->out, channel->rights);
	link_put_string(&link->out, begin.rtsync);
	put_bindings(&link->out, channel);
	linkio_end(link);
	channel->joined = GetCurrentTimestamp();
	subscription_send_access(channel);
	send_replay(channel, replay);
	report_bindings(channel, problems, hints);
	if (begin.refetch != NULL)
		subscription_refetch(channel, begin.refetch->reason,
							 begin.refetch->message);
	if (channel->pace == CHANNEL_LATE)
		late_begun(channel);
}

static void
handle_leave(Link *link, LinkReader *body)
{
	uint64		id = link_get_u64(body);
	Channel    *channel = subscription_channel(link, id);

	if (!link_finished(body))
		link->broken = true;
	else if (channel != NULL)	/* else it was refused or closed by us */
		channel_free(channel);
}

static void
handle_token(Link *link, LinkReader *body)
{
	uint64		id = link_get_u64(body);
	LinkString	string = link_get_string(body);
	Channel    *channel = subscription_channel(link, id);
	Token		token;
	TokenError	error;
	char	  **problems;
	char	  **hints;
	bool		untold;

	if (!link_finished(body))
	{
		link->broken = true;
		return;
	}
	if (channel == NULL)
		return;
	if (!verify(string, &token, &error))
	{
		tell_channel(channel, "system", "error", error.message,
					 LINK_THEN_CLOSE);
		channel_free(channel);
		return;
	}
	untold = late_untold(channel);
	subscription_detach(channel);
	channel_set_token(channel, &token);
	session_token(channel);
	if (!channel_authorize_again(channel))
		return;
	problems = palloc0(sizeof(char *) * (channel->nbindings + 1));
	hints = palloc0(sizeof(char *) * (channel->nbindings + 1));
	snapshot_forget(channel);
	(void) channel_subscribe(channel, channel->pace == CHANNEL_SNAPSHOT,
							 problems, hints);

	subscription_send_bindings(channel);
	subscription_send_access(channel);
	report_bindings(channel, problems, hints);
	if (untold)
		late_tell_dependencies(channel);
}

/*
 * A client sends a heartbeat on a connection with channels that are part of
 * sessions.  The answer follows all that was sent to them.
 */
static void
handle_heartbeat(Link *link, LinkReader *body)
{
	uint64		number = link_get_u64(body);
	uint32		count = link_get_count(body, sizeof(uint64));

	for (uint32 i = 0; i < count && !body->failed; i++)
	{
		Channel    *channel = subscription_channel(link, link_get_u64(body));

		if (channel != NULL)
			session_heartbeat(channel);
	}
	if (!link_finished(body))
	{
		link->broken = true;
		return;
	}
	link_begin(&link->out, LINK_HEARTBEAT_REPLY);
	link_put_u64(&link->out, number);
	linkio_end(link);
}

/* Not for every message: clients would fill the log. */
static void
log_store_error(const ErrorData *error)
{
	static ClockTime logged_at = 0;

	if (!clock_passed(logged_at, STORE_LOG_INTERVAL_MS))
		return;
	logged_at = clock_now();
	ereport(LOG,
			(errmsg("could not store a client's message: %s", error->message)));
}

/* A message that a client wants to have stored */
typedef struct StoreAttempt
{
	Message		message;		/* its parts in the server's encoding */
	uint32		ttl;			/* seconds, or 0 */
} StoreAttempt;

static void
attempt_store(void *arg)
{
	StoreAttempt *what = arg;
	Interval	ttl = {.time = what->ttl * USECS_PER_SEC};

	messages_table_store_in_engine(&what->message, what->ttl > 0 ? &ttl : NULL);
}

/*
 * Read what LINK_PERSIST says about the message to the topic.  False if it
 * cannot be stored.
 */
static bool
read_message(LinkReader *body, const char *topic, const char *id,
			 StoreAttempt *what)
{
	char	   *event = linkio_cstring(link_get_string(body));
	bool		json = link_get_u8(body) != 0;
	LinkString	payload = link_get_string(body);
	char	   *text = json ? linkio_cstring(payload) : NULL;

	what->ttl = link_get_u32(body);
	if (!link_finished(body) || event == NULL || payload.data == NULL ||
		(json && text == NULL) || payload.length > rtsync_max_payload_size)
		return false;
	what->message.id =
		*DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(id)));
	what->message.private = true;
	what->message.json = json;
	what->message.topic = (MessagePart)
	{
		topic, strlen(topic)
	};
	what->message.event = (MessagePart)
	{
		event, strlen(event)
	};
	what->message.payload = json ? (MessagePart)
	{
		text, strlen(text)
	} :
		(MessagePart)
	{
		payload.data, payload.length
	};
	return true;
}

static void
put_persist_reply(Link *link, uint64 channel, LinkString ref, const char *id,
				  const char *problem)
{
	link_begin(&link->out, LINK_PERSIST_REPLY);
	link_put_u64(&link->out, channel);
	link_put_bytes(&link->out, ref.data, ref.length);
	link_put_string(&link->out, id);
	link_put_string(&link->out, problem);
	linkio_end(link);
}

/*
 * The right was asked for when the channel was joined, and since then.  There
 * is an answer in any case: the gateway keeps the message until then.
 */
static void
handle_persist(Link *link, LinkReader *body)
{
	uint64		number = link_get_u64(body);
	Channel    *channel = subscription_channel(link, number);
	LinkString	ref = link_get_string(body);
	char	   *id = linkio_cstring(link_get_string(body));
	StoreAttempt what = {0};
	const char *problem = NULL;
	ErrorData  *error;

	if (body->failed || id == NULL)
	{
		link->broken = true;
		return;
	}
	if (channel == NULL || !channel->private ||
		!(channel->rights & LINK_MAY_PERSIST))
		problem = "unauthorized";
	else if (!read_message(body, channel->topic, id, &what))
		problem = "invalid_payload";
	else if ((error = attempt(attempt_store, &what)) != NULL)
	{
		problem = error->sqlerrcode == ERRCODE_QUERY_CANCELED ?
			"query_canceled" : "unable_to_connect_to_project";
		log_store_error(error);
	}
	put_persist_reply(link, number, ref, id, problem);
}

/* An HTTP request wants to have its message stored, before it is sent. */
static void
handle_rest_persist(Link *link, LinkReader *body)
{
	uint64		request = link_get_u64(body);
	char	   *topic = linkio_cstring(link_get_string(body));
	LinkString	string = link_get_string(body);
	char	   *id = linkio_cstring(link_get_string(body));
	const uint8 needed = LINK_MAY_WRITE_BROADCAST | LINK_MAY_PERSIST;
	StoreAttempt what = {0};
	Token		token;
	TokenError	token_error;
	ErrorData  *error;
	int			status = 200;

	if (body->failed || topic == NULL || id == NULL)
	{
		link->broken = true;
		return;
	}
	if (!verify(string, &token, &token_error))
		status = 401;
	else if ((rest_rights(&token, true, topic) & needed) != needed)
		status = 403;
	else if (!read_message(body, topic, id, &what))
		status = 422;
	else if ((error = attempt(attempt_store, &what)) != NULL)
	{
		status = 503;
		log_store_error(error);
	}
	put_rest_reply(link, request, status, 0);
}

static void
handle_pace(Link *link, LinkReader *body, void (*change) (Channel *channel))
{
	Channel    *channel = subscription_channel(link, link_get_u64(body));

	if (!link_finished(body))
		link->broken = true;
	else if (channel != NULL)
		change(channel);
}

static void
handle_stats(Link *link, LinkReader *body)
{
	uint32		connections = link_get_u32(body);
	GatewayCounts counts;

	link_get_u32(body);			/* channels: we know better */
	counts.frames_sent = link_get_u64(body);
	counts.bytes_sent = link_get_u64(body);
	counts.closed_slow = link_get_u64(body);
	if (!link_finished(body))
	{
		link->broken = true;
		return;
	}
	gateway_counts.frames_sent += counts.frames_sent - link->frames_sent;
	gateway_counts.bytes_sent += counts.bytes_sent - link->bytes_sent;
	gateway_counts.closed_slow += counts.closed_slow - link->closed_slow;
	link->connections = (int) connections;
	link->frames_sent = counts.frames_sent;
	link->bytes_sent = counts.bytes_sent;
	link->closed_slow = counts.closed_slow;
}

static void
handle_rows_taken(Link *link, LinkReader *body)
{
	uint32		size = link_get_u32(body);

	if (!link_finished(body))
		link->broken = true;
	else
		snapshot_taken(link, size);
}

static void
dispatch(Link *link, LinkType type, LinkReader *body)
{
	if (body->end - body->next > LINK_MAX_TO_ENGINE && type != LINK_RELAY &&
		type != LINK_RELAY_REST)
	{
		link->broken = true;
		return;
	}
	switch (type)
	{
		case LINK_READY:
			if (link_get_u32(body) != LINK_VERSION || !link_finished(body))
			{
				ereport(LOG,
						(errmsg("rtsync-gateway is of another version than rtsync"),
						 errhint("Install both from the same build.")));
				link->broken = true;
			}
			else
				links_presence_wanted(link);
			break;
		case LINK_AUTH:
			handle_auth(link, body);
			break;
		case LINK_REST:
			handle_rest(link, body);
			break;
		case LINK_JOIN:
			handle_join(link, body);
			break;
		case LINK_LEAVE:
			handle_leave(link, body);
			break;
		case LINK_TOKEN:
			handle_token(link, body);
			break;
		case LINK_PERSIST:
			handle_persist(link, body);
			break;
		case LINK_REST_PERSIST:
			handle_rest_persist(link, body);
			break;
		case LINK_PAUSE:
			handle_pace(link, body, late_pause);
			break;
		case LINK_CONTINUE:
			handle_pace(link, body, late_continue);
			break;
		case LINK_HEARTBEAT:
			handle_heartbeat(link, body);
			break;
		case LINK_ROWS_TAKEN:
			handle_rows_taken(link, body);
			break;
		case LINK_STATS:
			handle_stats(link, body);
			break;
		case LINK_LISTED:
			report_message(link, body);
			link->broken |= body->failed;
			break;
		case LINK_RELAY_REST:
			handle_relay_rest(link, body);
			break;
		case LINK_RELAY:
		case LINK_TRACK:
		case LINK_UNTRACK:
		case LINK_COUNTS:
			relay_message(link, type, body);
			break;
		default:
			link->broken = true;
			break;
	}
}

/* Does handling this message read catalogs? */
static bool
needs_catalogs(LinkType type)
{
	return type == LINK_AUTH || type == LINK_REST || type == LINK_JOIN || type == LINK_TOKEN ||
		type == LINK_CONTINUE || type == LINK_PERSIST || type == LINK_REST_PERSIST ||
		type == LINK_RELAY_REST;
}

/*
 * A message could not be handled because of an error inside: tell its client,
 * as far as it waits for something.
 */
static void
answer_failure(Link *link, LinkType type, const char *start, Size length)
{
	LinkReader	body;
	uint64		id;
	Channel    *channel;

	if (type == LINK_LISTED)
		report_link_ended(link);
	if (type == LINK_LISTED || type == LINK_RELAY_REST)
		return;
	link_read(&body, start, length);
	id = link_get_u64(&body);
	channel = subscription_channel(link, id);
	if (type == LINK_AUTH)
	{
		link_begin(&link->out, LINK_AUTH_REPLY);
		link_put_u64(&link->out, id);
		link_put_u32(&link->out, 500);
		link_put_string(&link->out, "Error connecting to Realtime");
		link_put_u64(&link->out, 0);
		link_put_u64(&link->out, 0);
		linkio_end(link);
	}
	else if (type == LINK_REST || type == LINK_REST_PERSIST)
	{
		put_rest_reply(link, id, 500, 0);
		return;
	}
	else if (type == LINK_PERSIST)
	{
		LinkString	ref = link_get_string(&body);
		char	   *message_id = linkio_cstring(link_get_string(&body));

		if (message_id != NULL)
			put_persist_reply(link, id, ref, message_id,
							  "unable_to_connect_to_project");
		return;
	}
	else if (type == LINK_HEARTBEAT)
	{
		link_begin(&link->out, LINK_HEARTBEAT_REPLY);
		link_put_u64(&link->out, id);
		linkio_end(link);
		return;
	}
	else if (type == LINK_JOIN)
		refuse_join(link, id, "Unknown Error on Channel");
	else if (channel != NULL)
		tell_channel(channel, "system", "error", "Unknown Error on Channel",
					 LINK_THEN_ERROR);
	if (channel != NULL)
		channel_free(channel);
}

/*
 * Handle a message from the gateway.  Raises no error: one inside costs the
 * client concerned its request, and nobody else anything.
 */
void
subscription_message(Link *link, LinkType type, LinkReader *body)
{
	volatile bool transaction = needs_catalogs(type);
	const char *start = body->next;
	Size		length = body->end - body->next;
	MemoryContext old = MemoryContextSwitchTo(MessageContext_);

	links_mark();
	PG_TRY();
	{
		if (transaction)
			catalogs_begin(wal_decoded_lsn());
		MemoryContextSwitchTo(MessageContext_);
		dispatch(link, type, body);
		if (transaction)
			catalogs_commit();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(MessageContext_);
		EmitErrorReport();
		FlushErrorState();
		if (transaction)
			catalogs_abort();
		links_rollback();
		answer_failure(link, type, start, length);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextReset(MessageContext_);
}

/*
 * If roles have changed: close the channels whose role would no longer be
 * accepted.  Called outside of any transaction.
 */
void
subscription_recheck_roles(void)
{
	HASH_SEQ_STATUS scan;
	ChannelEntry *entry;
	const Principal *allowed = NULL;

	if (!roles_changed)
		return;
	catalogs_begin(wal_decoded_lsn());
	roles_changed = false;
	hash_seq_init(&scan, channels);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		Channel    *channel = entry->channel;
		const Principal *principal = &channel->principal;

		/* most channels have the role that the last one had */
		if (allowed != NULL && allowed->roleid == principal->roleid &&
			strcmp(allowed->rolename, principal->rolename) == 0)
			continue;
		if (token_role_allowed(principal->rolename, principal->roleid))
		{
			allowed = principal;
			continue;
		}
		close_unauthorized(channel);
	}
	catalogs_commit();
}

/*
 * Close the channels that were joined with what has been revoked.  A client
 * whose token was signed with a key that is gone may come with another one.
 */
static void
close_revoked(const Revoked *revoked)
{
	bool		api_key = revoked->kind == CREDENTIAL_API_KEY;
	HASH_SEQ_STATUS scan;
	ChannelEntry *entry;

	hash_seq_init(&scan, channels);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		Channel    *channel = entry->channel;

		if (channel->key != revoked->number)
			continue;
		tell_channel(channel, "system", "error",
					 api_key ? "The API key has been revoked" :
					 "The key of the token has been revoked",
					 api_key ? LINK_THEN_CLOSE : LINK_THEN_ERROR);
		channel_free(channel);
	}
}

/*
 * If API keys, or the keys of tokens, have changed: close the channels that
 * were joined with one that counts no more, and the connections that came with
 * it.  Called outside of any transaction.
 */
void
subscription_recheck_keys(void)
{
	List	   *revoked;
	ListCell   *lc;

	if (apikey_changed())
	{
		catalogs_begin(wal_decoded_lsn());
		apikey_find_revoked();
		catalogs_commit();
	}
	if (!credential_any_revoked())
		return;
	revoked = credential_take_revoked();
	foreach(lc, revoked)
	{
		const Revoked *one = lfirst(lc);
		LinkWriter *out;

		close_revoked(one);
		out = links_begin(NULL, LINK_REVOKED);
		link_put_u64(out, one->number);
		link_put_u8(out, one->kind == CREDENTIAL_API_KEY);
		links_end(NULL);
	}
	list_free_deep(revoked);
}

/*
 * Close the channels whose tokens have expired; about once a second, outside
 * of any transaction.
 */
void
subscription_check_expiry(void)
{
	int64		now = (int64) time(NULL);
	HASH_SEQ_STATUS scan;
	ChannelEntry *entry;

	if (now < next_expiry)
		return;
	next_expiry = PG_INT64_MAX;
	hash_seq_init(&scan, channels);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		Channel    *channel = entry->channel;
		char		message[64];

		if (channel->expires == 0)
			continue;
		if (channel->expires > now)
		{
			next_expiry = Min(next_expiry, channel->expires);
			continue;
		}
		snprintf(message, sizeof(message),
				 "Token has expired " INT64_FORMAT " seconds ago",
				 now - channel->expires);
		tell_channel(channel, "system", "error", message, LINK_THEN_CLOSE);
		channel_free(channel);
	}
}
