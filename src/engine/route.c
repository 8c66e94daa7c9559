/*-------------------------------------------------------------------------
 *
 * route.c
 *	  Takes transactions from the history to the groups that may see them.
 *
 * The history is read in slices: as many changes as are visible to everybody
 * and fit the bounds below.  A slice is decided in one read-only transaction
 * (decide.c) and then sent change by change, in commit order; groups that see
 * the same of a change share its rendering.
 *
 * A channel that has an interval is served in batches, and in each slice of
 * these the changes of one row are merged (merge.c).  Such a slice is sent as
 * a whole, and only an event that ends it has the cursor of its end; the others
 * have that of its beginning, so that whoever goes on from there gets all of it.
 * To such a one nothing is merged that it may have had already: of a row that
 * it has, it must learn that the row went, not that it came and went.  Channels
 * that get the same follow the one that is served (batch.c).
 *
 * Broadcasts from SQL go to the gateway in their place among the changes.  They
 * are not among what a channel that is late gets again: it had them already.
 *
 * What users wrote (policies, filters, output functions) can fail.  A slice
 * is first tried without precautions; if anything in it raises an error, it
 * is done again with a subtransaction around each step, so that exactly what
 * cannot be decided or rendered for a group is withheld from it, and its
 * channels are told.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "datatype/timestamp.h"
#include "portability/instr_time.h"
#include "storage/procarray.h"
#include "utils/memutils.h"

#include "engine/attempt.h"
#include "engine/batch.h"
#include "engine/boundary.h"
#include "engine/catalogs.h"
#include "engine/crashes.h"
#include "engine/decide.h"
#include "engine/links.h"
#include "engine/merge.h"
#include "engine/message.h"
#include "engine/metrics.h"
#include "engine/refill.h"
#include "engine/render.h"
#include "engine/route.h"
#include "engine/snapshot.h"
#include "engine/tables.h"
#include "engine/wal.h"

/* Bounds of a slice: of what it reads, and of what it sends */
#define SLICE_CHANGES 512
#define SLICE_BYTES ((Size) 1024 * 1024)
#define SLICE_OUTPUT ((Size) 512 * 1024)

/* Slices are this small, or larger, after one that had to be cut short. */
#define MIN_SLICE_CHANGES 16

/* Bounds of one in which changes are merged: of what comes out, and goes in */
#define MERGED_CHANGES 2048
#define MERGED_RECORDS 16384

/* From PostgreSQL's epoch to the Unix one, in microseconds */
#define UNIX_EPOCH_OFFSET \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * USECS_PER_SEC)

typedef struct Slice
{
	int			limit;			/* room for so many changes */
	int			count;
	int			sent;			/* the first so many of them */
	Size		bytes;
	RoutedChange *changes;
	List	   *routes;			/* of TableRoute with changes in it */
	Link	   *link;
	struct Channel *late;		/* for whom it is; NULL: for all */
	bool		seen;			/* its transactions are in that channel's
								 * snapshot */
	bool		touch_told;		/* that channel was told of a change of what
								 * policies read, which counts for all in it */
	List	   *followers;		/* channels that get the same as that one */
	MergeTable *merge;			/* or NULL: each change for itself */
	RoutePosition begin;		/* if they are merged */
	bool		ended;			/* a transaction ends before the first ... */
	XLogRecPtr	ended_lsn;		/* ... whose commit is this */
} Slice;

static MemoryContext SliceContext = NULL;
static HistoryCursor cursor;	/* up to where changes were routed to all */
static RoutePosition live;		/* likewise, with the transaction there */
static int	slice_changes = SLICE_CHANGES;	/* bound of the next slice */
static XLogRecPtr done_lsn;
static TransactionId visible_before = InvalidTransactionId;
static uint64 events;
static uint64 renderings;		/* number of the one being sent */

/*
 * Prepare, the history too; once in the life of the engine.  "confirmed" is
 * the slot's confirmed position.
 */
void
route_init(XLogRecPtr confirmed)
{
	history_init(confirmed, &cursor);
	SliceContext = AllocSetContextCreate(TopMemoryContext, "rtsync slice",
										 ALLOCSET_DEFAULT_SIZES);
}

/*--------------------------------------------------------------------------
 * Sending
 *--------------------------------------------------------------------------
 */

/* May two groups be sent the same bytes? */
static bool
same_rendering(const Match *a, const Match *b)
{
	const ColumnSets *one = a->tg->sets;
	const ColumnSets *other = b->tg->sets;

	if (a->outcome != b->outcome || a->old != b->old ||
		a->tg->role->roleid != b->tg->role->roleid)
		return false;
	return one == other ||
		(bms_equal(one->columns, other->columns) &&
		 bms_equal(one->record, other->record) &&
		 bms_equal(decide_old_columns(a), decide_old_columns(b)));
}

typedef struct RenderAttempt
{
	RoutedChange *change;
	Match	   *match;
	StringInfoData buf;
} RenderAttempt;

static void
attempt_render(void *arg)
{
	RenderAttempt *what = arg;
	Match	   *match = what->match;
	PrincipalScope scope;
	RenderSpec	spec;

	decide_render_spec(match, &spec);
	initStringInfo(&what->buf);
	principal_enter_role(match->tg->role->roleid, &scope);
	render_event(&what->buf, what->change->place.txn.commit_time, &what->change->rows,
				 &spec);
	principal_leave(&scope);
}

/*
 * Is nothing sent behind the change in the slice, neither an event nor that
 * there is something to read again?
 */
static bool
last_sent(const Slice *slice, const RoutedChange *change)
{
	while (++change < slice->changes + slice->count)
		if (change->rows.schema == NULL || change->matches != NULL)
			return false;
	return true;
}

/*
 * Mark the groups that are sent a change behind the first one and those that
 * share its rendering; returns whether there are any.
 */
static bool
mark_awaiting(const Match *first)
{
	bool		some = false;

	renderings++;
	for (Match *match = first->next; match != NULL; match = match->next)
	{
		if (match->sent || match->outcome == OUTCOME_REFETCH ||
			same_rendering(first, match))
			continue;
		match->tg->group->awaits = renderings;
		some = true;
	}
	return some;
}

/* Is a channel to get something of the change in one of the marked groups? */
static bool
is_awaiting(const Channel *channel)
{
	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].group != NULL &&
			channel->bindings[i].group->awaits == renderings)
			return true;
	return false;
}

/* Those among a group's channels that want cursors */
static List *
add_awaiting(List *result, SubscriptionGroup *group)
{
	dlist_iter	iter;

	if (group->cursors == 0)
		return result;
	dlist_foreach(iter, &group->bindings)
	{
		Channel    *channel = dlist_container(Binding, in_group,
											  iter.cur)->channel;

		if (channel->wants_cursor && is_awaiting(channel))
			result = lappend(result, channel);
	}
	return result;
}

/*
 * The cursor of an event.  "more": another rendering of the change follows.  All
 * that is in a slice for one channel is for it, so there its cursor is that of
 * the change before; of what is for all, the gateway is told for whom.
 */
static void
event_cursor(const Slice *slice, const RoutedChange *change, bool more,
			 Cursor *result)
{
	if (slice->merge != NULL)
	{
		route_cursor(!more && last_sent(slice, change) ? &slice->late->place :
					 &slice->begin, result);
		return;
	}
	result->epoch = wal_epoch();
	result->lsn = change->place.txn.commit_lsn;
	result->seq = change->seq - (more && slice->late != NULL ? 1 : 0);
}

/* A group is sent an event, and so are those of the channels that follow. */
static void
note_event(const Slice *slice, const Match *match)
{
	if (slice->late != NULL)
		slice->late->open = true;
	else
		boundary_event(match->tg->group);
}

/* Say that a transaction ends to those who got something of it. */
static void
send_end(Slice *slice, XLogRecPtr commit_lsn)
{
	Cursor		at = {wal_epoch(), commit_lsn, CURSOR_WHOLE};

	if (slice->late != NULL)
		boundary_send_late(slice->late, slice->followers, &at);
	else
		boundary_send(&at);
}

/* Send one rendering to the groups that share it, and mark them sent. */
static void
send_event(Slice *slice, RoutedChange *change, Match *first, StringInfo data)
{
	Link	   *link = slice->link;
	uint32		ngroups = 0;
	Cursor		at;
	Match	   *match;
	LinkWriter *out;
	bool		cursors = slice->followers != NIL;
	bool		more;
	List	   *awaiting = NIL;
	ListCell   *lc;

	for (match = first; match != NULL; match = match->next)
		if (!match->sent && same_rendering(first, match))
		{
			ngroups += 1 + list_length(slice->followers);
			cursors |= match->tg->group->cursors > 0;
		}

	more = cursors && mark_awaiting(first);
	out = links_begin(link, LINK_EVENT);
	event_cursor(slice, change, more, &at);
	link_put_u64(out, at.epoch);
	link_put_u64(out, at.lsn);
	link_put_u32(out, at.seq);
	link_put_u32(out, ngroups);
	for (match = first; match != NULL; match = match->next)
	{
		if (match->sent || !same_rendering(first, match))
			continue;
		note_event(slice, match);
		if (more && slice->late == NULL)
			awaiting = add_awaiting(awaiting, match->tg->group);
		link_put_u32(out, match->tg->id);
		foreach(lc, slice->followers)
			link_put_u32(out, batch_group(lfirst(lc), match->tg->group)->id);
		if (match != first)
			match->sent = true;
	}
	first->sent = true;
	link_put_bytes(out, data->data, data->len);
	link_put_u32(out, list_length(awaiting));
	foreach(lc, awaiting)
		link_put_u64(out, ((Channel *) lfirst(lc))->id);
	links_end(link);
	list_free(awaiting);
	events += ngroups;
}

/* The rendering failed: nobody who shares it gets the change. */
static void
withhold_event(Match *first, const ErrorData *error)
{
	for (Match *match = first->next; match != NULL; match = match->next)
	{
		if (!match->sent && same_rendering(first, match))
		{
			match->sent = true;
			decide_report_error(match->tg, error);
		}
	}
	first->sent = true;
	decide_report_error(first->tg, error);
}

/* Tell the channel that the slice is for, and those that follow it. */
static void
refetch_late(Slice *slice, RefetchReason reason, const char *message)
{
	ListCell   *lc;

	subscription_refetch(slice->late, reason, message);
	foreach(lc, slice->followers)
		subscription_refetch(lfirst(lc), reason, message);
}

static void
tell_refetch(Slice *slice, RoutedChange *change, Match *match)
{
	RelSchema  *schema = change->rows.schema;
	char	   *message = psprintf("table %s.%s was truncated",
								   schema->nspname, schema->relname);

	match->sent = true;
	if (slice->late != NULL)
		refetch_late(slice, REFETCH_TRUNCATE, message);
	else
		subscription_refetch_group(match->tg->group, REFETCH_TRUNCATE,
								   message);
}

/* The group of a late channel's binding, if it is to get what is in the slice */
static SubscriptionGroup *
late_group(const Slice *slice, int i)
{
	Binding    *binding = &slice->late->bindings[i];

	return slice->seen && binding->snapshot ? NULL : binding->group;
}

/* Is nobody to get what is in the slice? */
static bool
unwanted(const Slice *slice)
{
	if (!slice->seen)
		return false;
	for (int i = 0; i < slice->late->nbindings; i++)
		if (late_group(slice, i) != NULL)
			return false;
	return true;
}

/* Rows that policies read have changed: tell those who depend on them. */
static void
send_touch(Slice *slice, Oid relid)
{
	if (slice->late == NULL)
	{
		tables_touched(relid);
		return;
	}
	for (int i = 0; i < slice->late->nbindings && !slice->touch_told; i++)
	{
		SubscriptionGroup *group = late_group(slice, i);

		if (group != NULL && tables_group_depends(group, relid))
		{
			slice->touch_told = true;
			refetch_late(slice, REFETCH_DEPENDENCY,
						 "rows that row security depends on have changed");
			return;
		}
	}
}

/* A transaction could not be decoded: whom it concerned is not known. */
static void
send_gap(Slice *slice)
{
	const char *message = "a transaction could not be decoded";

	if (slice->late != NULL)
		refetch_late(slice, REFETCH_UNDECODED, message);
	else
		subscription_refetch_all(CHANNEL_LIVE, REFETCH_UNDECODED, message);
}

/* Send a broadcast to whoever is on its topic: the gateway knows them. */
static void
send_broadcast(Link *link, HistoryMessage *record)
{
	LinkWriter *out;
	Message		message;

	message_read(record->data, record->size, &message);
	out = links_begin(link, LINK_BROADCAST);
	link_put_u8(out, message.private);
	link_put_bytes(out, message.topic.data, message.topic.length);
	link_put_bytes(out, message.event.data, message.event.length);
	link_put_u8(out, message.json);
	link_put_bytes(out, message.payload.data, message.payload.length);
	link_put_string(out, message_id_text(&message));
	links_end(link);
}

/* Events of this change's transaction were sent: the gateway measures how
 * long that took from its commit. */
static void
send_committed(Link *link, const RoutedChange *change)
{
	LinkWriter *out = links_begin(link, LINK_COMMITTED);

	link_put_u64(out, (uint64) (change->place.txn.commit_time +
								UNIX_EPOCH_OFFSET));
	links_end(link);
}

/*
 * Send the slice's changes; those behind so much output are left for the next
 * one, for what is on its way to a client that has just stopped reading must
 * fit its send queue.
 */
static void
send_slice(Slice *slice, bool carefully)
{
	Size		before = links_output(slice->link);
	uint64		events_before = events;

	slice->sent = 0;
	slice->touch_told = false;
	if (slice->ended)
		send_end(slice, slice->ended_lsn);
	while (slice->sent < slice->count &&
		   (links_output(slice->link) - before < SLICE_OUTPUT ||
			(slice->merge != NULL && slice->count == 1)))
	{
		RoutedChange *change = &slice->changes[slice->sent++];

		if (slice->sent > 1 && slice->late == NULL && events > events_before &&
			change->place.txn.commit_lsn != change[-1].place.txn.commit_lsn)
		{
			send_committed(slice->link, &change[-1]);
			events_before = events;
		}
		if (change->message != NULL)
			send_broadcast(slice->link, change->message);
		else if (change->gap)
			send_gap(slice);
		else if (change->rows.schema == NULL)
			send_touch(slice, change->touched);
		for (Match *match = change->matches; match != NULL; match = match->next)
		{
			RenderAttempt what = {change, match};
			ErrorData  *error = NULL;

			if (match->sent)
				continue;
			if (match->outcome == OUTCOME_REFETCH)
			{
				tell_refetch(slice, change, match);
				continue;
			}
			if (carefully || match->tg->failures > 0)
				error = attempt(attempt_render, &what);
			else
				attempt_render(&what);
			if (error != NULL)
				withhold_event(match, error);
			else
			{
				send_event(slice, change, match, &what.buf);
				pfree(what.buf.data);
			}
		}
		if (change->ends && slice->merge == NULL)
			send_end(slice, change->place.txn.commit_lsn);
	}
	if (slice->late == NULL && events > events_before)
		send_committed(slice->link, &slice->changes[slice->sent - 1]);
}

static void
attempt_refill(void *arg)
{
	refill_rows(arg);
}

static void
decide_slice(Slice *slice, bool carefully)
{
	for (int i = 0; i < slice->count; i++)
	{
		ChangeRows *rows = &slice->changes[i].rows;

		if (rows->schema == NULL || rows->new_known == NULL)
			continue;
		if (!carefully)
			refill_rows(rows);
		else if (attempt(attempt_refill, rows) != NULL)
			continue;			/* its values stay unknown */
	}
	if (slice->late == NULL)
	{
		decide_changes(slice->routes, carefully);
		return;
	}
	for (int i = 0; i < slice->late->nbindings; i++)
		if (late_group(slice, i) != NULL)
			decide_changes_for(late_group(slice, i), carefully);
}

static void
forget_matches(Slice *slice)
{
	for (int i = 0; i < slice->count; i++)
		slice->changes[i].matches = slice->changes[i].last_match = NULL;
}

/* Note whose changes are decided and rendered, in case that ends the process. */
static void
note_transactions(const Slice *slice)
{
	XLogRecPtr	first = InvalidXLogRecPtr;
	XLogRecPtr	last = InvalidXLogRecPtr;

	for (int i = 0; i < slice->count; i++)
	{
		if (slice->changes[i].rows.schema == NULL)
			continue;
		last = slice->changes[i].place.txn.commit_lsn;
		if (first == InvalidXLogRecPtr)
			first = last;
	}
	if (first != InvalidXLogRecPtr)
		crashes_begin_routing(first, last);
}

/*
 * Decide and send a slice; returns false, with nothing sent, if an error
 * prevented it.
 */
static bool
try_slice(Slice *slice, bool carefully)
{
	uint64		events_before = events;
	bool		open = slice->late != NULL && slice->late->open;
	volatile bool done = false;
	instr_time	started;
	ListCell   *lc;

	forget_matches(slice);
	note_transactions(slice);
	subscription_mark();
	PG_TRY();
	{
		catalogs_begin(wal_decoded_lsn());
		MemoryContextSwitchTo(SliceContext);
		foreach(lc, slice->routes)
			tables_regroup(lfirst(lc));
		subscription_mark();	/* that counts in any case */
		INSTR_TIME_SET_CURRENT(started);
		decide_slice(slice, carefully);
		metrics_decided(&started);
		if (slice->merge != NULL)
			slice->followers = carefully ? NIL :
				batch_confirm(slice->late, slice->followers);

		/* what is withheld is known before a cursor goes past it */
		subscription_send_accesses();
		subscription_mark();
		send_slice(slice, carefully);
		catalogs_commit();
		if (slice->merge != NULL && slice->sent < slice->count)
		{
			/* as a whole, or not at all */
			subscription_rollback();
			events = events_before;
		}
		boundary_sent();
		done = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(SliceContext);
		if (carefully)
			PG_RE_THROW();
		FlushErrorState();
		catalogs_abort();
		subscription_rollback();
		boundary_undo();
		if (open)
			slice->late->open = true;
		events = events_before;
	}
	PG_END_TRY();
	crashes_end(false);
	return done;
}

/*--------------------------------------------------------------------------
 * Reading the history
 *--------------------------------------------------------------------------
 */

/*
 * Does everybody see this transaction?  A transaction is in the WAL before
 * it is visible; a client that hears of it must find its rows.
 */
static bool
is_visible(TransactionId xid)
{
	if (TransactionIdIsValid(visible_before) &&
		TransactionIdPrecedes(xid, visible_before))
		return true;
	visible_before = GetOldestActiveTransactionId();
	return TransactionIdPrecedes(xid, visible_before) ||
		!TransactionIdIsInProgress(xid);
}

static RoutedChange *
slice_append(Slice *slice, const RoutePosition *place)
{
	RoutedChange *added = &slice->changes[slice->count++];

	memset(added, 0, sizeof(*added));
	added->place = *place;
	return added;
}

/* Put the change behind the others of its table. */
static void
link_change(Slice *slice, TableRoute *route, RoutedChange *added)
{
	added->next = NULL;
	if (route->first == NULL)
	{
		route->first = added;
		slice->routes = list_append_unique_ptr(slice->routes, route);
	}
	else
		route->last->next = added;
	route->last = added;
}

/* Merge a change into one that is in the slice; false if there is none. */
static bool
slice_merge(Slice *slice, const RoutePosition *place, HistoryChange *change)
{
	ChangeRows	rows;
	int			number;

	if (slice->merge == NULL)
		return false;
	history_rows(change, &rows);
	number = merge_into(slice->merge, &rows);
	if (number < 0)
		return false;
	slice->changes[number].place = *place;
	slice->changes[number].seq = change->seq;
	return true;
}

/*
 * Would this tell the table's subscribers to read their rows again because of
 * the commit that they were just told of?  (A table below that is truncated,
 * and each row that changed there of which the WAL says too little, does.)  Not
 * if changes are merged: their places are not certain yet.
 */
static bool
told_already(const Slice *slice, const TableRoute *route,
			 const RoutePosition *place, const HistoryChange *change)
{
	return change->kind == CHANGE_TRUNCATE && slice->merge == NULL &&
		route->last != NULL && route->last->rows.kind == CHANGE_TRUNCATE &&
		route->last->place.txn.commit_lsn == place->txn.commit_lsn;
}

static void
slice_add_change(Slice *slice, const RoutePosition *place,
				 HistoryChange *change)
{
	TableRoute *route = tables_route(change->schema);
	RoutedChange *added;

	if (dlist_is_empty(&route->roles) ||
		told_already(slice, route, place, change))
		return;
	added = slice_append(slice, place);
	history_rows(change, &added->rows);
	added->seq = change->seq;
	link_change(slice, route, added);
	if (slice->merge != NULL)
		merge_enter(slice->merge, slice->count - 1, &added->rows);
}

static int
compare_places(const void *a, const void *b)
{
	uint64		one = ((const RoutedChange *) a)->place.position;
	uint64		other = ((const RoutedChange *) b)->place.position;

	return one < other ? -1 : one > other;
}

/*
 * What was to be merged is: put the changes in the order of their places.
 * (The rows are moved, so nothing more can be merged into them.)
 */
static void
finish_merging(Slice *slice)
{
	int			count = 0;
	ListCell   *lc;

	for (int i = 0; i < slice->count; i++)
		if (!merge_is_nothing(slice->merge, i))
			slice->changes[count++] = slice->changes[i];
	slice->count = count;
	qsort(slice->changes, count, sizeof(RoutedChange), compare_places);
	foreach(lc, slice->routes)
	{
		TableRoute *route = lfirst(lc);

		route->first = route->last = NULL;
	}
	for (int i = 0; i < count; i++)
		if (slice->changes[i].rows.schema != NULL)
			link_change(slice, tables_route(slice->changes[i].rows.schema),
						&slice->changes[i]);
}

/*
 * Add the record at a place to the slice; false if the slice must be ended
 * before it.
 */
static bool
slice_add(Slice *slice, const RoutePosition *place, HistoryRecord *record)
{
	if (record->type == HISTORY_MESSAGE ?
		subscription_channel_count() == 0 || slice->late != NULL :
		subscription_group_count() == 0 || unwanted(slice))
		return true;
	if (record->type == HISTORY_CHANGE &&
		!tables_route_pending(((HistoryChange *) record)->schema) &&
		slice_merge(slice, place, (HistoryChange *) record))
		return true;
	if (slice->count >= slice->limit || slice->bytes > SLICE_BYTES)
		return false;
	if (record->type == HISTORY_MESSAGE)
		slice_append(slice, place)->message = (HistoryMessage *) record;
	else if (record->type == HISTORY_TOUCH)
		slice_append(slice, place)->touched = ((HistoryTouch *) record)->relid;
	else if (record->type == HISTORY_GAP)
		slice_append(slice, place)->gap = true;
	else if (record->type == HISTORY_CHANGE)
	{
		HistoryChange *change = (HistoryChange *) record;

		if (tables_route_pending(change->schema))
			return false;
		slice_add_change(slice, place, change);
	}
	slice->bytes += record->size;
	return true;
}

/*
 * The transaction at the place ends there: note it where what is sent of it
 * ends.  What is merged is in no order yet, and ends with its batch.
 */
static void
slice_end_transaction(Slice *slice, const RoutePosition *place)
{
	RoutedChange *last = slice->count > 0 ? &slice->changes[slice->count - 1] :
		NULL;

	if (slice->merge != NULL)
		return;
	if (last == NULL && !slice->ended)
	{
		slice->ended = true;
		slice->ended_lsn = place->txn.commit_lsn;
	}
	else if (last != NULL &&
			 last->place.txn.commit_lsn == place->txn.commit_lsn)
		last->ends = true;
}

/* A record is passed: move the place behind it. */
static void
pass_record(RoutePosition *place, HistoryRecord *record)
{
	if (record->type == HISTORY_COMMIT)
		place->seq = CURSOR_WHOLE;
	else if (record->type == HISTORY_CHANGE)
		place->seq = ((HistoryChange *) record)->seq;
	place->position += record->size;
}

static void
begin_transaction(RoutePosition *place, HistoryRecord *record)
{
	place->txn = *(HistoryTxn *) record;
	place->seq = 0;
}

/* Must the slice end before this transaction, since one of both killed engines? */
static bool
must_part(const Slice *slice, const HistoryTxn *txn)
{
	return slice->count > 0 &&
		(crashes_suspects(txn->commit_lsn) ||
		 crashes_suspects(slice->changes[slice->count - 1].place.txn.commit_lsn));
}

/* Collect the next slice for all. */
static RouteState
collect_live(Slice *slice)
{
	HistoryRecord *record;

	live.position = history_tell(&cursor);
	while ((record = history_peek(&cursor)) != NULL)
	{
		if (record->type == HISTORY_BEGIN)
		{
			if (must_part(slice, (HistoryTxn *) record))
				return ROUTE_MORE;
			begin_transaction(&live, record);
			if (!is_visible(live.txn.xid))
				return ROUTE_BLOCKED;
		}
		else if (record->type == HISTORY_COMMIT)
		{
			done_lsn = live.txn.end_lsn;
			slice_end_transaction(slice, &live);
		}
		else if (!slice_add(slice, &live, record))
			return ROUTE_MORE;
		pass_record(&live, record);
		history_next(&cursor);
	}
	visible_before = InvalidTransactionId;	/* the next one may be far away */
	return ROUTE_IDLE;
}

/*
 * May this transaction be in the slice?  All in one are in the channel's
 * snapshot, or none is.
 */
static bool
slice_accepts(Slice *slice, const HistoryTxn *txn)
{
	bool		seen = snapshot_sees(slice->late->seen, txn->xid);

	if (slice->count > 0 && slice->seen != seen)
		return false;
	slice->seen = seen;
	return true;
}

/* Collect the next slice from a place behind the others. */
static void
collect_late(Slice *slice, HistoryCursor *from, RoutePosition *place)
{
	uint64		end = history_tell(&cursor);
	int			records = 0;

	if (slice->late->interval > 0)
		end = Min(end, slice->merge != NULL ? slice->late->batch_end :
				  slice->late->unmerged_end);
	while (place->position < end)
	{
		HistoryRecord *record = history_peek(from);

		if (slice->merge != NULL && ++records > MERGED_RECORDS)
			break;
		if (record->type == HISTORY_BEGIN)
		{
			if (!slice_accepts(slice, (HistoryTxn *) record) ||
				must_part(slice, (HistoryTxn *) record))
				break;
			begin_transaction(place, record);
		}
		else if (record->type == HISTORY_COMMIT)
			slice_end_transaction(slice, place);
		else if (!slice_add(slice, place, record))
			break;
		pass_record(place, record);
		history_next(from);
	}
}

static Slice *
slice_create(Link *link, struct Channel *late)
{
	Slice	   *slice = palloc(sizeof(Slice));

	slice->merge = NULL;
	slice->followers = NIL;
	slice->limit = slice_changes;
	if (late != NULL && late->interval > 0 &&
		late->place.position >= late->unmerged_end)
	{
		slice->limit = late->batch_limit > 0 ? late->batch_limit : MERGED_CHANGES;
		slice->merge = merge_create(slice->limit);
		slice->begin = late->place;
		slice->followers = batch_followers(late);
	}
	slice->changes = palloc(sizeof(RoutedChange) * slice->limit);
	slice->count = slice->sent = 0;
	slice->bytes = 0;
	slice->ended = false;
	slice->routes = NIL;
	slice->link = link;
	slice->late = late;
	slice->seen = late != NULL &&
		snapshot_sees(late->seen, late->place.txn.xid);
	return slice;
}

/*
 * Decide and send a slice; returns the place from which the next one has to
 * begin if it could not be sent as a whole, else NULL.
 */
static const RoutePosition *
slice_route(Slice *slice)
{
	ListCell   *lc;

	if (slice->count > 0)
	{
		if (!try_slice(slice, false))
			try_slice(slice, true);
	}
	else if (slice->ended)
	{
		send_end(slice, slice->ended_lsn);
		boundary_sent();
	}
	foreach(lc, slice->routes)
	{
		TableRoute *route = lfirst(lc);

		route->first = route->last = NULL;
	}
	if (slice->merge != NULL)
	{
		bool		whole = slice->sent == slice->count;

		slice->late->batch_limit = whole ?
			Min(slice->limit * 2, MERGED_CHANGES) : slice->sent;
		if (whole && slice->late->place.seq == CURSOR_WHOLE &&
			slice->late->place.position >= slice->late->batch_end)
			send_end(slice, slice->late->place.txn.commit_lsn);
		return whole ? NULL : &slice->begin;
	}
	if (slice->sent == slice->count)
	{
		slice_changes = Min(slice_changes * 2, SLICE_CHANGES);
		return NULL;
	}
	slice_changes = Min(Max(slice->sent * 2, MIN_SLICE_CHANGES), SLICE_CHANGES);
	return &slice->changes[slice->sent].place;
}

/* Route again from a place that the history still holds. */
static void
go_back(const RoutePosition *place)
{
	live = *place;
	done_lsn = Min(done_lsn, live.txn.commit_lsn);
	if (!history_seek(&cursor, live.position))
		elog(ERROR, "history has forgotten what is not routed");
}

/*
 * Give up the history, also what is not routed; decoding goes on behind
 * "confirmed", under another epoch.
 */
void
route_reset(XLogRecPtr confirmed)
{
	history_reset(confirmed);
	memset(&live, 0, sizeof(live));
	done_lsn = confirmed;
}

/*
 * Route a slice of what the history holds behind the last one.  Without a
 * gateway there are no groups, and the history is just passed.  Called outside
 * of any transaction.
 */
RouteState
route_run(void)
{
	const RoutePosition *rest;
	RouteState	state;
	Slice	   *slice;
	MemoryContext old;

	if (links_congested(NULL))
		return ROUTE_CONGESTED;

	old = MemoryContextSwitchTo(SliceContext);
	slice = slice_create(NULL, NULL);
	state = collect_live(slice);
	rest = slice_route(slice);
	if (rest != NULL)
	{
		go_back(rest);
		state = ROUTE_MORE;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(SliceContext);
	return state;
}

/*
 * Route a slice from the place of a channel that is late, to it alone, and
 * move its place.  Returns false if the history has forgotten what is there.
 * Called outside of any transaction.
 */
bool
route_late(struct Channel *channel)
{
	const RoutePosition *rest;
	HistoryCursor from;
	Slice	   *slice;
	MemoryContext old;

	if (!history_seek(&from, channel->place.position))
		return false;
	old = MemoryContextSwitchTo(SliceContext);
	slice = slice_create(channel->link, channel);
	collect_late(slice, &from, &channel->place);
	if (slice->merge != NULL)
		finish_merging(slice);
	rest = slice_route(slice);
	if (rest != NULL)
		channel->place = *rest;
	batch_move(channel, slice->followers);
	MemoryContextSwitchTo(old);
	MemoryContextReset(SliceContext);
	return true;
}

/*
 * Move a place over what a snapshot sees of the history.  Returns false if the
 * history has forgotten what is there.
 */
bool
route_skip(RoutePosition *place, const SnapshotView *view)
{
	HistoryCursor from;
	uint64		end = history_tell(&cursor);

	if (place->txn.commit_lsn == live.txn.commit_lsn &&
		snapshot_sees(view, live.txn.xid))
	{
		/* the same transaction, perhaps larger than the history */
		route_position(place);
		return true;
	}
	if (!history_seek(&from, place->position))
		return false;
	while (place->position < end)
	{
		HistoryRecord *record = history_peek(&from);

		if (record->type == HISTORY_BEGIN)
		{
			if (!snapshot_sees(view, ((HistoryTxn *) record)->xid))
				break;
			begin_transaction(place, record);
		}
		pass_record(place, record);
		history_next(&from);
	}
	return true;
}

/* Where routing to all has got to */
void
route_position(RoutePosition *place)
{
	*place = live;
	place->position = history_tell(&cursor);
}

/* The cursor of a place: of the last change before it */
void
route_cursor(const RoutePosition *place, Cursor *result)
{
	result->epoch = wal_epoch();
	result->lsn = place->txn.commit_lsn;
	result->seq = place->seq;
	if (result->lsn == InvalidXLogRecPtr)
	{
		/* no change yet since the start; the next one may begin right there */
		result->lsn = history_resume_lsn(wal_confirmed_lsn());
		result->seq = 0;
	}
}

/* Is a place there? */
bool
route_caught_up(const RoutePosition *place)
{
	return place->position >= history_tell(&cursor);
}

/* Has everything been routed that was committed before a place in the WAL? */
bool
route_passed(XLogRecPtr lsn)
{
	return done_lsn >= lsn ||
		(wal_decoded_lsn() >= lsn && history_peek(&cursor) == NULL);
}

/* Bytes of history not yet routed */
Size
route_unread(void)
{
	return history_unread(&cursor);
}

/* The end of the last transaction that was routed as a whole */
XLogRecPtr
route_done_lsn(void)
{
	return done_lsn;
}

/* Events sent since the start */
uint64
route_events(void)
{
	return events;
}
