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
#include "storage/procarray.h"
#include "utils/memutils.h"

#include "engine/attempt.h"
#include "engine/catalogs.h"
#include "engine/decide.h"
#include "engine/render.h"
#include "engine/route.h"
#include "engine/tables.h"
#include "engine/wal.h"

/* Bounds of a slice */
#define SLICE_CHANGES 512
#define SLICE_BYTES ((Size) 1024 * 1024)

/* Routing rests while the gateway has not taken this much. */
#define LINK_HIGH_WATER ((Size) 8 * 1024 * 1024)

typedef struct Slice
{
	int			count;
	RoutedChange changes[SLICE_CHANGES];
	List	   *routes;			/* of TableRoute with changes in it */
} Slice;

static MemoryContext SliceContext = NULL;
static HistoryCursor cursor;
static HistoryTxn current;		/* the transaction at the cursor */
static XLogRecPtr done_lsn;
static TransactionId visible_before = InvalidTransactionId;
static uint64 events;

/* Prepare; once in the life of the engine. */
void
route_init(void)
{
	SliceContext = AllocSetContextCreate(TopMemoryContext, "rtsync slice",
										 ALLOCSET_DEFAULT_SIZES);
}

/*--------------------------------------------------------------------------
 * Sending
 *--------------------------------------------------------------------------
 */

static const Bitmapset *
old_columns(const Match *match)
{
	return match->old == OLD_KEY ? match->tg->key :
		match->old == OLD_IDENTITY ? match->tg->identity : NULL;
}

/* May two groups be sent the same bytes? */
static bool
same_rendering(const Match *a, const Match *b)
{
	return a->outcome == b->outcome && a->old == b->old &&
		a->tg->group->principal->roleid == b->tg->group->principal->roleid &&
		bms_equal(a->tg->columns, b->tg->columns) &&
		bms_equal(a->tg->record, b->tg->record) &&
		bms_equal(old_columns(a), old_columns(b));
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

	spec.kind = match->outcome == OUTCOME_INSERT ? CHANGE_INSERT :
		match->outcome == OUTCOME_UPDATE ? CHANGE_UPDATE : CHANGE_DELETE;
	spec.columns = match->tg->columns;
	spec.record = match->tg->record;
	spec.old_record = old_columns(match);
	initStringInfo(&what->buf);
	principal_enter_role(match->tg->group->principal->roleid, &scope);
	render_event(&what->buf, what->change->commit_time, &what->change->rows,
				 &spec);
	principal_leave(&scope);
}

/* Send one rendering to the groups that share it, and mark them sent. */
static void
send_event(Link *link, RoutedChange *change, Match *first, StringInfo data)
{
	uint32		ngroups = 0;
	Match	   *match;

	for (match = first; match != NULL; match = match->next)
		if (!match->sent && same_rendering(first, match))
			ngroups++;

	link_begin(&link->out, LINK_EVENT);
	link_put_u64(&link->out, wal_epoch());
	link_put_u64(&link->out, change->commit_lsn);
	link_put_u32(&link->out, change->seq);
	link_put_u32(&link->out, ngroups);
	for (match = first; match != NULL; match = match->next)
	{
		if (match->sent || !same_rendering(first, match))
			continue;
		link_put_u32(&link->out, match->tg->group->id);
		if (match != first)
			match->sent = true;
	}
	first->sent = true;
	link_put_bytes(&link->out, data->data, data->len);
	linkio_end(link);
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

static void
tell_refetch(RoutedChange *change, Match *match)
{
	RelSchema  *schema = change->rows.schema;

	match->sent = true;
	match->tg->group->told_at = 0;
	subscription_tell_group(match->tg->group, "rtsync", "refetch",
							psprintf("table %s.%s was truncated",
									 schema->nspname, schema->relname));
}

static void
send_slice(Link *link, Slice *slice, bool carefully)
{
	for (int i = 0; i < slice->count; i++)
	{
		RoutedChange *change = &slice->changes[i];

		if (change->rows.schema == NULL)
			tables_touched(change->touched);
		for (Match *match = change->matches; match != NULL; match = match->next)
		{
			RenderAttempt what = {change, match};
			ErrorData  *error = NULL;

			if (match->sent)
				continue;
			if (match->outcome == OUTCOME_REFETCH)
			{
				tell_refetch(change, match);
				continue;
			}
			if (carefully)
				error = attempt(attempt_render, &what);
			else
				attempt_render(&what);
			if (error != NULL)
				withhold_event(match, error);
			else
			{
				send_event(link, change, match, &what.buf);
				pfree(what.buf.data);
			}
		}
	}
}

static void
forget_matches(Slice *slice)
{
	for (int i = 0; i < slice->count; i++)
		slice->changes[i].matches = slice->changes[i].last_match = NULL;
}

/*
 * Decide and send a slice; returns false, with nothing sent, if an error
 * prevented it.
 */
static bool
try_slice(Link *link, Slice *slice, bool carefully)
{
	Size		out_length = link->out.length;
	uint64		events_before = events;
	volatile bool done = false;

	forget_matches(slice);
	PG_TRY();
	{
		catalogs_begin(wal_decoded_lsn());
		MemoryContextSwitchTo(SliceContext);
		decide_changes(slice->routes, carefully);
		send_slice(link, slice, carefully);
		catalogs_commit();
		done = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(SliceContext);
		if (carefully)
			PG_RE_THROW();
		FlushErrorState();
		catalogs_abort();
		link->out.length = out_length;
		events = events_before;
	}
	PG_END_TRY();
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
slice_append(Slice *slice)
{
	RoutedChange *added = &slice->changes[slice->count++];

	memset(added, 0, sizeof(*added));
	added->commit_lsn = current.commit_lsn;
	added->commit_time = current.commit_time;
	return added;
}

static void
slice_add(Slice *slice, HistoryChange *change)
{
	TableRoute *route = tables_route(change->schema);
	RoutedChange *added;

	if (dlist_is_empty(&route->roles))
		return;
	added = slice_append(slice);
	history_rows(change, &added->rows);
	added->seq = change->seq;
	if (route->first == NULL)
	{
		route->first = added;
		slice->routes = lappend(slice->routes, route);
	}
	else
		route->last->next = added;
	route->last = added;
}

/* Collect the next slice. */
static RouteState
slice_collect(Slice *slice)
{
	Size		bytes = 0;
	HistoryRecord *record;

	while ((record = history_peek(&cursor)) != NULL)
	{
		if (record->type == HISTORY_BEGIN)
		{
			current = *(HistoryTxn *) record;
			if (!is_visible(current.xid))
				return ROUTE_BLOCKED;
		}
		else if (record->type == HISTORY_COMMIT)
			done_lsn = current.end_lsn;
		else if (subscription_group_count() > 0)
		{
			if (slice->count == SLICE_CHANGES || bytes > SLICE_BYTES)
				return ROUTE_MORE;
			if (record->type == HISTORY_TOUCH)
				slice_append(slice)->touched = ((HistoryTouch *) record)->relid;
			else if (tables_route_pending(((HistoryChange *) record)->schema))
				return ROUTE_MORE;
			else
				slice_add(slice, (HistoryChange *) record);
			bytes += record->size;
		}
		history_next(&cursor);
	}
	return ROUTE_IDLE;
}

static void
slice_forget(Slice *slice)
{
	ListCell   *lc;

	foreach(lc, slice->routes)
	{
		TableRoute *route = lfirst(lc);

		route->first = route->last = NULL;
	}
}

/*
 * Route a slice of what the history holds behind the last one.  Without a
 * link there are no groups, and the history is just passed.  Called outside
 * of any transaction.
 */
RouteState
route_run(Link *link)
{
	RouteState	state;
	Slice	   *slice;
	MemoryContext old;

	if (link != NULL && linkio_pending(link) > LINK_HIGH_WATER)
		return ROUTE_CONGESTED;

	old = MemoryContextSwitchTo(SliceContext);
	slice = palloc(sizeof(Slice));
	slice->count = 0;
	slice->routes = NIL;
	state = slice_collect(slice);
	if (slice->count > 0 && !try_slice(link, slice, false))
		try_slice(link, slice, true);
	slice_forget(slice);
	MemoryContextSwitchTo(old);
	MemoryContextReset(SliceContext);
	return state;
}

/* Bytes of history not yet routed */
Size
route_unread(void)
{
	return history_unread(&cursor);
}

/* Let the history forget what is routed and too much or too old. */
void
route_forget_history(XLogRecPtr older_than)
{
	history_forget(&cursor, older_than);
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

