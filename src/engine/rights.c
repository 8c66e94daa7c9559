/*-------------------------------------------------------------------------
 *
 * rights.c
 *	  What channels may do, and for how long.
 *
 * A channel is joined with a token, and may do on its topic what row security
 * on the table of messages lets its role do.  All of that can change while it
 * is joined: policies and privileges, the role, the keys that tokens are signed
 * with, API keys, and the time.  Then the gateway is told, or the channel is
 * closed.
 *
 * Called by join.c and requests.c for one channel, by engine.c for all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "engine/apikey.h"
#include "engine/attempt.h"
#include "engine/authorize.h"
#include "engine/catalogs.h"
#include "engine/credential.h"
#include "engine/links.h"
#include "engine/policy.h"
#include "engine/relay.h"
#include "engine/rights.h"
#include "engine/wal.h"

static bool changed;			/* a setting, since the rights were checked */
static uint64 seen;				/* likewise policies and so on, known only
								 * after so many changes */
static bool roles_changed;		/* since the channels' roles were checked */
static int64 next_expiry = PG_INT64_MAX;	/* no token expires before it */

static void
roles_changed_cb(Datum arg, int cacheid, uint32 hashvalue)
{
	roles_changed = true;
}

/* Prepare; once in the life of the engine. */
void
rights_init(void)
{
	CacheRegisterSyscacheCallback(AUTHOID, roles_changed_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, roles_changed_cb, (Datum) 0);
}

/* Let the channel stand for what the token says, of which it keeps a copy. */
void
rights_set_token(Channel *channel, const Token *token)
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
	subscription_weigh(channel);
}

/*
 * Find out what the channel, which has its token, may do on its topic.  Called
 * in a transaction on the present; may raise what policies raise.
 */
void
rights_set(Channel *channel)
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
	subscription_close(channel,
					   psprintf("You no longer have permission to read from this Channel topic: %s",
								channel->topic));
}

/*
 * The rights of a joined channel may have changed: tell the gateway.  Returns
 * false if one to read is gone, and with it the channel.
 */
bool
rights_set_again(Channel *channel)
{
	uint8		before = channel->rights;

	rights_set(channel);
	if (before & RIGHTS_TO_READ & ~channel->rights)
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
attempt_set_again(void *arg)
{
	rights_set_again(arg);
}

/* It cannot be said now what the channel may do: the client may ask again. */
static void
close_undecided(Channel *channel)
{
	subscription_break(channel,
					   "Realtime was unable to connect to the project database");
}

/* The settings have changed. */
void
rights_changed(void)
{
	changed = true;
}

/*
 * If policies, privileges or whatever else the rights on private channels
 * depend on have changed: see what the channels may still do.
 */
static void
recheck_topics(void)
{
	HASH_SEQ_STATUS scan;
	Channel    *channel;
	List	   *roles = NIL;
	MemoryContext context;
	MemoryContext old;

	if (!changed && seen == policy_invalidations())
		return;
	changed = false;
	seen = policy_invalidations();
	if (subscription_channel_count() == 0)
		return;

	context = AllocSetContextCreate(TopMemoryContext, "rtsync rights",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	catalogs_begin(wal_decoded_lsn());
	MemoryContextSwitchTo(context);
	subscription_scan(&scan);
	while ((channel = subscription_next(&scan)) != NULL)
	{
		if (!channel->private ||
			channel->rights_generation ==
			role_generation(&roles, channel->principal.roleid))
			continue;
		if (attempt(attempt_set_again, channel) != NULL)
			close_undecided(channel);
	}
	catalogs_commit();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * If roles have changed: close the channels whose role would no longer be
 * accepted.
 */
static void
recheck_roles(void)
{
	HASH_SEQ_STATUS scan;
	Channel    *channel;
	const Principal *allowed = NULL;

	if (!roles_changed)
		return;
	catalogs_begin(wal_decoded_lsn());
	roles_changed = false;
	subscription_scan(&scan);
	while ((channel = subscription_next(&scan)) != NULL)
	{
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
	Channel    *channel;

	subscription_scan(&scan);
	while ((channel = subscription_next(&scan)) != NULL)
	{
		if (channel->key != revoked->number)
			continue;
		if (api_key)
			subscription_close(channel, "The API key has been revoked");
		else
			subscription_break(channel, "The key of the token has been revoked");
	}
}

/*
 * If API keys, or the keys of tokens, have changed: close the channels that
 * were joined with one that counts no more, and the connections that came with
 * it.
 */
static void
recheck_keys(void)
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
 * If anything has changed that decides what channels may do: see what they may
 * still do.  Called outside of any transaction.
 */
void
rights_recheck(void)
{
	recheck_roles();
	recheck_keys();
	recheck_topics();
}

/*
 * Close the channels whose tokens have expired; about once a second, outside
 * of any transaction.
 */
void
rights_check_expiry(void)
{
	int64		now = (int64) time(NULL);
	HASH_SEQ_STATUS scan;
	Channel    *channel;

	if (now < next_expiry)
		return;
	next_expiry = PG_INT64_MAX;
	subscription_scan(&scan);
	while ((channel = subscription_next(&scan)) != NULL)
	{
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
		subscription_close(channel, message);
	}
}
