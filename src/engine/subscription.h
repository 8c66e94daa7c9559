/*-------------------------------------------------------------------------
 *
 * subscription.h
 *	  Who listens to what: channels, their bindings, and groups of bindings.
 *
 * A channel is one client's membership in one topic, with the token it joined
 * with.  A binding is one entry of its "postgres_changes".  Bindings that must
 * always get the same answer (same principal, table, filter, columns) form a
 * group; decisions are made per group, and the gateway knows which channels a
 * group stands for.  Where a table's row security does not read the claims, all
 * principals of a role share a group.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_SUBSCRIPTION_H
#define RTSYNC_SUBSCRIPTION_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "utils/hsearch.h"

#include "engine/binding.h"
#include "engine/budget.h"
#include "engine/clock.h"
#include "engine/linkio.h"
#include "engine/metrics.h"
#include "engine/plugin.h"
#include "engine/principal.h"
#include "engine/route.h"

/* Has a group been sent events of a transaction whose end it was not told? */
typedef enum BoundaryState
{
	BOUNDARY_NONE,
	BOUNDARY_OPEN,				/* yes */
	BOUNDARY_TOLD				/* it was, if the slice that says so is sent */
} BoundaryState;

typedef struct SubscriptionGroup
{
	dlist_node	node;			/* in the list of all groups */
	uint32		id;				/* never 0, never used twice */
	char	   *key;			/* hash key: all that follows, as text */
	MemoryContext context;		/* of the group and what hangs on it */
	Principal  *principal;		/* own copy */
	BindingSpec spec;			/* own copy */
	BindingOptions options;		/* of spec */
	uint64		form;			/* binding_form() of both */
	Payer	   *payer;			/* for the time that its conditions take; NULL
								 * if they cannot take long */
	bool		may_share;		/* it names one table, and its conditions
								 * cannot take long ... */
	bool		shared;			/* ... and the claims decide nothing there: it
								 * is for all principals of the role */
	bool		late;			/* of one channel that is behind the others */
	bool		homeless;		/* owned by tables.c: the table that it names
								 * was not there when it was made, nor since */
	dlist_head	bindings;		/* Binding.in_group */
	dlist_head	tables;			/* TableGroup.in_group, owned by tables.c */
	ClockTime	told_at;		/* when its channels were last told of an
								 * error */
	char	   *untold;			/* an error since then, in context, or NULL */
	bool		withheld;		/* changes, while the payer was suspended ... */
	bool		withheld_told;	/* ... and its channels know */
	Size		weight;			/* about how much memory it takes */
	int			cursors;		/* bindings of channels that want cursors */
	BoundaryState boundary;		/* if it has some, and is not late ... */
	dlist_node	in_boundary;	/* ... in boundary.c's list for the state */
	uint64		awaits;			/* of route.c: it is still to get this one */
} SubscriptionGroup;

/* How a channel gets its changes */
typedef enum ChannelPace
{
	CHANNEL_LIVE,				/* as they are routed */
	CHANNEL_PAUSED,				/* not for now: the client does not keep up */
	CHANNEL_LATE,				/* from its place in the history */
	CHANNEL_SNAPSHOT			/* first the rows that there are, then from
								 * its place in the history */
} ChannelPace;

struct Channel;
struct Session;

typedef struct Binding
{
	dlist_node	in_group;
	struct Channel *channel;
	SubscriptionGroup *group;	/* NULL: it gets nothing for now */
	bool		served;			/* it is to get changes */
	bool		snapshot;		/* ... and asked for a snapshot before them */
	uint32		table;			/* likewise: which of those that are read */
	uint32		id;				/* what the client knows it by */
	Size		filter_weight;	/* about the bytes of its compiled filter */
	BindingSpec spec;
} Binding;

typedef struct Channel
{
	uint64		id;				/* hash key: the gateway's number */
	MemoryContext context;		/* of the channel and its bindings */
	Link	   *link;
	char	   *topic;
	LinkString	topic_sent;		/* the same, as the gateway said it */
	char	   *options;		/* JSON text, or NULL */
	bool		wait;			/* refuse the join if a binding cannot be
								 * served */
	Principal	principal;
	bool		private;
	bool		ending;			/* it is told nothing more */
	bool		tracked;		/* as the other gateways know */
	uint8		rights;			/* LinkRights, what it may do on its topic */
	LinkReplay	replay;			/* of stored messages, at the join */
	uint64		replay_since;	/* milliseconds of the Unix epoch */
	uint32		replay_limit;
	uint64		rights_generation;	/* if private: of what they were made from */
	int64		expires;		/* of the token, seconds of the Unix epoch */
	uint64		key;			/* Token.key */
	TimestampTz joined;			/* 0: it is being joined */
	ChannelPace pace;
	dlist_node	in_late;		/* if CHANNEL_LATE: in late.c's list */
	int			interval;		/* milliseconds between batches; 0: it has
								 * none, and may be CHANNEL_LIVE */
	ClockTime	due;			/* likewise: of the next batch */
	uint64		batch_end;		/* likewise: of the last one, in the history */
	int			batch_limit;	/* likewise: changes in one slice of it */
	struct Flock *flock;		/* likewise: of its equals, or NULL */
	dlist_node	in_flock;
	uint64		unmerged_end;	/* if it has an interval: its client may have
								 * had what is before it, merged otherwise */
	RoutePosition place;		/* unless CHANNEL_LIVE: what it got */
	XLogRecPtr	since;			/* likewise: of what was committed from here
								 * on it does not know if policies read it */
	uint64		access_signature;	/* if CHANNEL_PAUSED, or while a snapshot
									 * is read: of what it could see then */
	bool		wants_cursor;	/* with each change ... */
	dlist_node	in_cursors;		/* ... and it is in this list */
	bool		open;			/* unless CHANNEL_LIVE: it got changes of a
								 * transaction whose end it was not told */
	uint64		claims_number;	/* if it wants cursors: for its claims; 0: not
								 * known */
	uint64		access_told;	/* likewise: the end of its cursors, or 0 */
	uint64		access_before;	/* likewise, before what can be taken back ... */
	uint64		access_mark;	/* ... if it was told since this mark ... */
	dlist_node	in_told;		/* ... which is the last, and it in this list */
	char	   *session_uuid;	/* as its client names it, or NULL */
	struct Session *session;	/* that it is part of, or NULL */
	Size		weight;			/* about how much memory it takes */
	struct SnapshotJob *snapshot;	/* if CHANNEL_SNAPSHOT */
	dlist_node	in_snapshot;	/* likewise: in the job's list */
	bool		paused;			/* likewise: the client does not keep up */
	bool		access_changed; /* if CHANNEL_PAUSED or CHANNEL_LATE: while it
								 * was */
	XLogRecPtr	tell_lsn;		/* likewise: what was committed before here is
								 * to be routed before it is told so again */
	uint64		tell_behind;	/* if it has an interval: the place in the
								 * history where it was; 0: not known yet */
	struct SnapshotView *seen;	/* if CHANNEL_PAUSED or CHANNEL_LATE: what its
								 * snapshot bindings had already, or NULL */
	int			nbindings;
	Binding    *bindings;
} Channel;

extern void subscription_init(void);
extern void subscription_number(Channel *channel, Binding *binding);
extern void subscription_add(Channel *channel);
extern void subscription_weigh(Channel *channel);
extern Size subscription_memory(void);
extern char *subscription_begin(Channel *channel, bool snapshot,
								char **problems, char **hints);
extern void subscription_report(Channel *channel, char **problems,
								char **hints);
extern void subscription_want_cursors(Channel *channel);
extern void subscription_free(Channel *channel);
extern void subscription_drop_link(Link *link);

extern void subscription_attach(Channel *channel, bool late);
extern void subscription_detach(Channel *channel);
extern void subscription_regroup(SubscriptionGroup *group);
extern void subscription_put_bindings(const Channel *channel);
extern void subscription_send_bindings(Channel *channel);
extern void subscription_send_access(Channel *channel);
extern void subscription_send_accesses(void);
extern void subscription_send_group_access(SubscriptionGroup *group);
extern void subscription_mark(void);
extern void subscription_rollback(void);
extern void subscription_close(Channel *channel, const char *message);
extern void subscription_break(Channel *channel, const char *message);
extern void subscription_tell(Channel *channel, const char *extension,
							  const char *status, const char *message);

extern dlist_head *subscription_groups(void);
extern int	subscription_group_count(void);
extern int	subscription_channel_count(void);
extern int	subscription_connection_count(void);
extern Channel *subscription_channel(const Link *link, uint64 id);
extern void subscription_scan(HASH_SEQ_STATUS *scan);
extern Channel *subscription_next(HASH_SEQ_STATUS *scan);
extern void subscription_tell_group(SubscriptionGroup *group, const char *extension,
									const char *status, const char *message);
extern void subscription_tell_error(SubscriptionGroup *group,
									const char *message);
extern void subscription_withhold(SubscriptionGroup *group);
extern void subscription_tell_late(void);
extern void subscription_refetch(Channel *channel, RefetchReason reason,
								 const char *message);
extern void subscription_tell_again(Channel *channel, XLogRecPtr lsn);
extern void subscription_refetch_group(SubscriptionGroup *group,
									   RefetchReason reason,
									   const char *message);
extern void subscription_refetch_all(int pace, RefetchReason reason,
									 const char *message);

#endif							/* RTSYNC_SUBSCRIPTION_H */
