/*-------------------------------------------------------------------------
 *
 * snapshot.c
 *	  Channels that get the rows that there are before the changes.
 *
 * A channel with bindings that ask for a snapshot keeps its place in the
 * history, as a late one does, while a worker (snapshot_worker.c) reads the
 * rows of all of them in one MVCC snapshot.  Every transaction before that
 * place was visible to all when the channel joined, so the snapshot sees it.
 * Of those behind it, the channel then gets exactly what the snapshot does not
 * see: the transaction's number tells, and not where it stands in the WAL, as
 * the two orders are not the same.  From the place in the WAL on before which
 * all that it sees was committed, nothing needs to be compared any more, and
 * the channel may go live.
 *
 * Channels that want the same, and whose worker has not started, share one
 * (SnapshotJob).  A worker sends no faster than the slowest of them receives;
 * one that holds the others up for long gets a job of its own, and begins
 * anew.
 *
 * What the snapshot sees is passed over at once, so that only what is new has
 * to stay in the history.
 *
 * Whatever prevents a snapshot from being completed, its clients are told to
 * refetch, and get the changes from then on.  So does one that would be told
 * to refetch for another reason meanwhile, as the rows on their way are no
 * longer what it may see.
 *
 * Called by subscription.c and join.c for the channels, by late.c for their pace, by
 * route.c for the visibility, and by engine.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/dsm.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "utils/memutils.h"

#include "engine/attempt.h"
#include "engine/catalogs.h"
#include "engine/clock.h"
#include "engine/late.h"
#include "engine/links.h"
#include "engine/settings.h"
#include "engine/snapshot.h"
#include "engine/snapshot_worker.h"
#include "engine/tables.h"
#include "engine/wal.h"

/*
 * So much may be on its way to the clients, or in the gateway's hands, and not
 * yet accounted for by the gateway; the send queues have room for it when it
 * asks for a pause.
 */
#define ROWS_WINDOW (1024 * 1024)

/* A channel that takes nothing for so long holds up no others. */
#define SHARED_PATIENCE_MS 1000

/* So often another snapshot is taken if the history has passed it by. */
#define MAX_ATTEMPTS 5

/* If there is no worker slot now, there may be one then. */
#define RETRY_MS 1000

/* Binding.table of one that is not read */
#define NO_TABLE PG_UINT32_MAX

typedef struct SnapshotJob
{
	dlist_node	node;			/* in jobs */
	MemoryContext context;		/* of the job and what hangs on it */
	char	   *key;			/* what is to be read, and as whom */
	bool		shareable;
	dlist_head	channels;		/* Channel.in_snapshot; a job without channels
								 * is ended */
	char	   *request;		/* for the worker */
	Size		request_length;

	/* once it is started */
	dsm_segment *segment;		/* NULL: it waits for its turn */
	BackgroundWorkerHandle *worker;
	shm_mq_handle *queue;
	SnapshotView *view;			/* NULL: not known yet */
	RoutePosition place;		/* from where channels that want nothing else
								 * will go on */
	int			attempts;		/* that came too late for the history */
	ClockTime	started;
	ClockTime	stalled;		/* since when some channel holds up the
								 * others; 0: none does */
} SnapshotJob;

/* In the order in which they were asked for */
static dlist_head jobs = DLIST_STATIC_INIT(jobs);
static MemoryContext SnapshotContext = NULL;
static MemoryContext TurnContext = NULL;
static ClockTime retry_at;
static bool complained;
static SnapshotCounts ended;	/* those that did so */

/*--------------------------------------------------------------------------
 * What is asked for
 *--------------------------------------------------------------------------
 */

/* Has the channel a binding that asks for a snapshot and can be served? */
bool
snapshot_wanted(const Channel *channel)
{
	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].snapshot)
			return true;
	return false;
}

/*
 * The next binding to be read, from number i on, or -1: those that ask for a
 * snapshot, but of equal ones only the first, as its rows reach all of them.
 */
static int
next_table(const Channel *channel, int i)
{
	for (; i < channel->nbindings; i++)
	{
		int			j = 0;

		if (!channel->bindings[i].snapshot)
			continue;
		while (channel->bindings[j].id != channel->bindings[i].id)
			j++;
		if (j == i)
			return i;
	}
	return -1;
}

/*
 * Number the tables as they are read, for their rows: looking for them again and
 * again would take long with many bindings.
 */
static void
number_tables(Channel *channel)
{
	uint32		n = 0;

	for (int i = 0; i < channel->nbindings; i++)
		channel->bindings[i].table = NO_TABLE;
	for (int i = next_table(channel, 0); i >= 0; i = next_table(channel, i + 1))
	{
		for (int j = i; j < channel->nbindings; j++)
			if (channel->bindings[j].id == channel->bindings[i].id)
				channel->bindings[j].table = n;
		n++;
	}
}

/* What is to be read, and as whom: the same for channels that can share it */
static char *
request_key(const Channel *channel)
{
	StringInfoData key;

	initStringInfo(&key);
	appendStringInfo(&key, "%u;", channel->principal.roleid);
	binding_append_part(&key, channel->principal.claims);
	for (int i = next_table(channel, 0); i >= 0; i = next_table(channel, i + 1))
		binding_append_key(&key, &channel->bindings[i].spec);
	return key.data;
}

static bool
grow_request(LinkWriter *writer, size_t size)
{
	writer->capacity = Max(writer->capacity * 2, Max(size, 1024));
	writer->data = writer->data == NULL ? palloc(writer->capacity) :
		repalloc(writer->data, writer->capacity);
	return true;
}

static void
put_table(LinkWriter *out, const BindingSpec *spec)
{
	link_put_string(out, spec->schema);
	link_put_string(out, spec->table);
	link_put_string(out, spec->filter);
	link_put_string(out, spec->options);
	link_put_u32(out, spec->nselect < 0 ? LINK_NULL : spec->nselect);
	for (int i = 0; i < spec->nselect; i++)
		link_put_string(out, spec->select[i]);
}

/* Write the request as snapshot_worker.h describes it. */
static void
write_request(SnapshotJob *job, const Channel *channel)
{
	LinkWriter	out = {.grow = grow_request};
	uint32		n = 0;

	for (int i = next_table(channel, 0); i >= 0; i = next_table(channel, i + 1))
		n++;
	link_put_u32(&out, channel->principal.roleid);
	link_put_string(&out, channel->principal.rolename);
	link_put_string(&out, channel->principal.claims);
	link_put_u32(&out, n);
	for (int i = next_table(channel, 0); i >= 0; i = next_table(channel, i + 1))
		put_table(&out, &channel->bindings[i].spec);
	job->request = out.data;
	job->request_length = out.length;
}

static SnapshotJob *
job_create(const Channel *channel, char *key, bool shareable)
{
	MemoryContext context;
	MemoryContext old;
	SnapshotJob *job;

	if (SnapshotContext == NULL)
	{
		SnapshotContext = AllocSetContextCreate(TopMemoryContext,
												"rtsync snapshots",
												ALLOCSET_DEFAULT_SIZES);
		TurnContext = AllocSetContextCreate(SnapshotContext,
											"rtsync snapshot turn",
											ALLOCSET_DEFAULT_SIZES);
	}
	context = AllocSetContextCreate(SnapshotContext, "rtsync snapshot",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	job = palloc0(sizeof(SnapshotJob));
	job->context = context;
	job->key = pstrdup(key);
	job->shareable = shareable;
	dlist_init(&job->channels);
	write_request(job, channel);
	MemoryContextSwitchTo(old);
	dlist_push_tail(&jobs, &job->node);
	return job;
}

/* A job that waits for its turn and will read the same */
static SnapshotJob *
job_find(const char *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, &jobs)
	{
		SnapshotJob *job = dlist_container(SnapshotJob, node, iter.cur);

		if (job->segment == NULL && job->shareable &&
			strcmp(job->key, key) == 0)
			return job;
	}
	return NULL;
}

static void
request(Channel *channel, bool shareable)
{
	char	   *key = request_key(channel);
	SnapshotJob *job = shareable ? job_find(key) : NULL;

	if (job == NULL)
		job = job_create(channel, key, shareable);
	pfree(key);
	number_tables(channel);
	channel->snapshot = job;
	dlist_push_tail(&job->channels, &channel->in_snapshot);
}

/*
 * Let a channel that has no groups yet begin with a snapshot, or with another
 * one than that it was about to have.
 */
void
snapshot_request(Channel *channel)
{
	request(channel, true);
	if (channel->pace != CHANNEL_SNAPSHOT)
		route_position(&channel->place);
	channel->pace = CHANNEL_SNAPSHOT;
}

/*--------------------------------------------------------------------------
 * The worker
 *--------------------------------------------------------------------------
 */

static void
fill_worker(BackgroundWorker *worker, dsm_segment *segment)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker->bgw_name, SNAPSHOT_TYPE, BGW_MAXLEN);
	strlcpy(worker->bgw_type, SNAPSHOT_TYPE, BGW_MAXLEN);
	strlcpy(worker->bgw_library_name, "rtsync", sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, SNAPSHOT_FUNCTION, BGW_MAXLEN);
	worker->bgw_main_arg = UInt32GetDatum(dsm_segment_handle(segment));
	worker->bgw_notify_pid = MyProcPid;
}

static void
complain(const char *why)
{
	if (!complained)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("rtsync could not start a process for a snapshot, and tries again"),
				 why != NULL ? errdetail_internal("%s", why) :
				 errhint("You might need to increase max_worker_processes.")));
	complained = true;
}

/* Shared memory that is about to be made */
typedef struct SegmentAttempt
{
	Size		size;
	dsm_segment *segment;		/* result */
} SegmentAttempt;

static void
attempt_segment(void *arg)
{
	SegmentAttempt *what = arg;

	what->segment = dsm_create(what->size, DSM_CREATE_NULL_IF_MAXSEGMENTS);
	if (what->segment != NULL)
		dsm_pin_mapping(what->segment);
}

/*
 * Make shared memory, which may be used up or limited; NULL if that fails.
 * The transaction is there for what an error leaves behind.
 */
static dsm_segment *
create_shared(Size size)
{
	MemoryContext old = CurrentMemoryContext;
	SegmentAttempt what = {size, NULL};
	ErrorData  *error;

	catalogs_begin(wal_decoded_lsn());
	MemoryContextSwitchTo(TurnContext);
	error = attempt(attempt_segment, &what);
	catalogs_commit();
	MemoryContextSwitchTo(old);
	if (error != NULL)
		complain(error->message);
	return error == NULL ? what.segment : NULL;
}

/* Make the shared memory; returns the queue in it, or NULL */
static shm_mq *
create_segment(SnapshotJob *job)
{
	Size		queue_offset = MAXALIGN(offsetof(SnapshotShared, request) +
										job->request_length);
	SnapshotShared *shared;
	shm_mq	   *queue;

	job->segment = create_shared(queue_offset + SNAPSHOT_QUEUE_SIZE);
	if (job->segment == NULL)
		return NULL;
	shared = dsm_segment_address(job->segment);
	shared->dboid = MyDatabaseId;
	shared->request_length = job->request_length;
	shared->queue_offset = queue_offset;
	memcpy(shared->request, job->request, job->request_length);
	queue = shm_mq_create((char *) shared + queue_offset, SNAPSHOT_QUEUE_SIZE);
	shm_mq_set_receiver(queue, MyProc);
	return queue;
}

/* What the channel may see, but for rows, as a number */
static uint64
access_signature(const Channel *channel)
{
	uint64		result = 0;

	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].group != NULL)
			result ^= tables_group_signature(channel->bindings[i].group) + i;
	return result;
}

/*
 * Does the channel want nothing but what it asked a snapshot of?  Then it need
 * not remember where it joined: the snapshot sees all that was routed when its
 * worker is started.
 */
static bool
wants_only_snapshot(const Channel *channel)
{
	for (int i = 0; i < channel->nbindings; i++)
		if (channel->bindings[i].served && !channel->bindings[i].snapshot)
			return false;
	return true;
}

/* Start the worker; false if that cannot be done now. */
static bool
job_start(SnapshotJob *job)
{
	MemoryContext old = MemoryContextSwitchTo(job->context);
	shm_mq	   *queue = create_segment(job);
	BackgroundWorker worker;
	bool		started = false;
	dlist_iter	iter;

	if (queue != NULL)
	{
		fill_worker(&worker, job->segment);
		started = RegisterDynamicBackgroundWorker(&worker, &job->worker);
		if (!started)
			dsm_detach(job->segment);
	}
	if (started)
		job->queue = shm_mq_attach(queue, job->segment, job->worker);
	else
		job->segment = NULL;
	MemoryContextSwitchTo(old);
	if (!started)
	{
		complain(NULL);
		return false;
	}
	complained = false;
	job->started = clock_now();
	route_position(&job->place);
	dlist_foreach(iter, &job->channels)
	{
		Channel    *channel = dlist_container(Channel, in_snapshot, iter.cur);

		channel->access_signature = access_signature(channel);
	}
	return true;
}

/* Let go of the worker; one that runs a query is told to stop. */
static void
job_stop(SnapshotJob *job)
{
	pid_t		pid;

	if (job->segment == NULL)
		return;
	dsm_detach(job->segment);
	job->segment = NULL;
	job->view = NULL;
	if (GetBackgroundWorkerPid(job->worker, &pid) == BGWH_STARTED)
		kill(pid, SIGINT);
}

static void
job_end(SnapshotJob *job)
{
	job_stop(job);
	dlist_delete(&job->node);
	MemoryContextDelete(job->context);
}

/* End all of them: this process exits. */
void
snapshot_cancel_all(void)
{
	while (!dlist_is_empty(&jobs))
		job_end(dlist_head_element(SnapshotJob, node, &jobs));
}

/*--------------------------------------------------------------------------
 * Channels
 *--------------------------------------------------------------------------
 */

/* The channel leaves its job, if it has one. */
static void
leave_job(Channel *channel)
{
	if (channel->snapshot == NULL)
		return;
	dlist_delete(&channel->in_snapshot);
	channel->snapshot = NULL;
}

/*
 * The channel, if it waits for a snapshot, is about to be freed or to change.
 * (A job without channels is ended in its turn.)
 */
void
snapshot_forget(Channel *channel)
{
	if (channel->pace == CHANNEL_SNAPSHOT)
		leave_job(channel);
}

/* The channel is served its changes, from where it joined. */
static void
follow(Channel *channel)
{
	leave_job(channel);
	late_follow(channel);
}

/* It has to refetch, and then to know what comes from now on. */
static void
give_up(Channel *channel, const char *why)
{
	if (wants_only_snapshot(channel))
		route_position(&channel->place);
	follow(channel);
	subscription_refetch(channel, REFETCH_SNAPSHOT, why);
}

/*
 * The channel is to be told that it must refetch, or that its access to a
 * table is gone.  Returns false if there is no need to, because the snapshot
 * has not begun.  If it has, it ends here, as far as this channel goes.
 */
bool
snapshot_interrupt(Channel *channel)
{
	if (channel->snapshot == NULL || channel->snapshot->segment == NULL)
		return false;
	if (wants_only_snapshot(channel))
		route_position(&channel->place);
	follow(channel);
	return true;
}

/* It could not be completed: tell all, and let them go on. */
static void
job_fail(SnapshotJob *job, const char *why)
{
	ended.failed++;
	while (!dlist_is_empty(&job->channels))
		give_up(dlist_head_element(Channel, in_snapshot, &job->channels), why);
}

/* Did the snapshot see what this transaction did?  NULL: there is none. */
bool
snapshot_sees(const SnapshotView *view, TransactionId xid)
{
	if (view == NULL || TransactionIdFollowsOrEquals(xid, view->xmax))
		return false;
	if (TransactionIdPrecedes(xid, view->xmin))
		return true;
	for (uint32 i = 0; i < view->nxids; i++)
		if (view->xids[i] == xid)
			return false;
	return true;
}

/*--------------------------------------------------------------------------
 * What the worker says
 *--------------------------------------------------------------------------
 */

static void
tell_all(SnapshotJob *job, const char *status, const char *message)
{
	dlist_iter	iter;

	dlist_foreach(iter, &job->channels)
		subscription_tell(dlist_container(Channel, in_snapshot, iter.cur),
						  "rtsync", status, message);
}

static void
on_view(SnapshotJob *job, LinkReader *reader)
{
	TransactionId xmin = link_get_u32(reader);
	TransactionId xmax = link_get_u32(reader);
	XLogRecPtr	lsn = link_get_u64(reader);
	uint32		nxids = link_get_count(reader, sizeof(uint32));
	SnapshotView *view = MemoryContextAlloc(job->context,
											offsetof(SnapshotView, xids) +
											nxids * sizeof(TransactionId));

	view->xmin = xmin;
	view->xmax = xmax;
	view->lsn = lsn;
	view->nxids = nxids;
	for (uint32 i = 0; i < nxids; i++)
		view->xids[i] = link_get_u32(reader);
	job->view = view;
	if (!route_skip(&job->place, view) && job->attempts++ < MAX_ATTEMPTS)
	{
		/* nobody has got anything yet: another snapshot will do */
		job_stop(job);
		return;
	}
	tell_all(job, "snapshot_begin", "The rows that there are follow");
}

/* The groups of the channels' n-th table */
static uint32
put_groups(SnapshotJob *job, uint32 number, LinkWriter *out)
{
	uint32		count = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &job->channels)
	{
		Channel    *channel = dlist_container(Channel, in_snapshot, iter.cur);

		for (int i = 0; i < channel->nbindings; i++)
		{
			Binding    *binding = &channel->bindings[i];

			if (binding->table != number || binding->group == NULL)
				continue;
			if (out != NULL)
				link_put_u32(out, binding->group->id);
			count++;
		}
	}
	return count;
}

static void
on_rows(SnapshotJob *job, LinkReader *reader)
{
	LinkWriter *out;
	uint32		number = link_get_u32(reader);

	LinkReader	body = *reader;

	out = links_begin(NULL, LINK_ROWS);
	link_put_u32(out, put_groups(job, number, NULL));
	put_groups(job, number, out);
	link_put_parts(out, body.next, body.end - body.next);
	links_end(NULL);
	links_count_rows(link_get_u32(reader));
}

/* The gateway has handled rows of this size, about. */
void
snapshot_taken(Link *link, uint32 size)
{
	if (size > link->rows_size)
		link->broken = true;
	else
		link->rows_size -= size;
}

/* All rows are sent: what the snapshot did not see comes next. */
static void
on_end(SnapshotJob *job)
{
	Size		size = offsetof(SnapshotView, xids) +
		job->view->nxids * sizeof(TransactionId);

	ended.completed++;
	tell_all(job, "snapshot_end", "Changes follow");
	while (!dlist_is_empty(&job->channels))
	{
		Channel    *channel = dlist_head_element(Channel, in_snapshot,
												 &job->channels);

		channel->seen = MemoryContextAlloc(channel->context, size);
		memcpy(channel->seen, job->view, size);
		if (wants_only_snapshot(channel))
			channel->place = job->place;
		follow(channel);
	}
}

static void
on_error(SnapshotJob *job, LinkReader *reader)
{
	LinkString	string = link_get_string(reader);
	char	   *text = pnstrdup(string.data != NULL ? string.data : "",
								string.length);

	job_fail(job, psprintf("the snapshot was not completed: %s", text));
}

/* Handle a message.  The worker is of our own making, and is believed. */
static void
on_message(SnapshotJob *job, const char *data, Size length)
{
	LinkReader	reader;

	link_read(&reader, data + 1, length - 1);
	if (data[0] == SNAPSHOT_VIEW)
		on_view(job, &reader);
	else if (data[0] == SNAPSHOT_ROWS)
		on_rows(job, &reader);
	else if (data[0] == SNAPSHOT_END)
		on_end(job);
	else
		on_error(job, &reader);
}

/*--------------------------------------------------------------------------
 * Turns
 *--------------------------------------------------------------------------
 */

/* Does the history still have what the channel is to get next? */
static bool
place_is_there(SnapshotJob *job, Channel *channel, bool job_place_is_there)
{
	HistoryCursor cursor;

	return wants_only_snapshot(channel) ? job_place_is_there :
		history_seek(&cursor, channel->place.position);
}

/* End it for channels for which it has become pointless. */
static void
check_channels(SnapshotJob *job)
{
	bool		place = job->view == NULL || route_skip(&job->place, job->view);
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &job->channels)
	{
		Channel    *channel = dlist_container(Channel, in_snapshot, iter.cur);

		if (channel->access_signature != access_signature(channel))
			give_up(channel, "access to tables has changed");
		else if (!place_is_there(job, channel, place))
			give_up(channel, "the history does not reach back to the beginning of the snapshot");
	}
}

/*
 * May more be sent to all channels?  If one of many cannot take it for long,
 * it leaves the others, and begins anew by itself.
 */
static bool
channels_ready(SnapshotJob *job)
{
	int			npaused = 0;
	int			n = 0;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &job->channels)
	{
		npaused += dlist_container(Channel, in_snapshot, iter.cur)->paused;
		n++;
	}
	if (npaused == 0 || npaused == n)
	{
		job->stalled = 0;
		return npaused == 0;
	}
	if (job->stalled == 0)
		job->stalled = clock_now();
	if (!clock_passed(job->stalled, SHARED_PATIENCE_MS))
		return false;
	dlist_foreach_modify(iter, &job->channels)
	{
		Channel    *channel = dlist_container(Channel, in_snapshot, iter.cur);

		if (!channel->paused)
			continue;
		leave_job(channel);
		request(channel, false);
	}
	return true;
}

/* Let a job go on, as far as its clients and the gateway take it. */
static void
job_turn(SnapshotJob *job)
{
	check_channels(job);
	while (job->segment != NULL && !dlist_is_empty(&job->channels) &&
		   channels_ready(job) && !links_congested(NULL) &&
		   !links_rows_wait(ROWS_WINDOW))
	{
		void	   *data;
		Size		length;
		shm_mq_result result;

		result = shm_mq_receive(job->queue, &length, &data, true);
		if (result == SHM_MQ_WOULD_BLOCK)
			break;
		if (result == SHM_MQ_SUCCESS && length > 0)
			on_message(job, data, length);
		else
			job_fail(job, "the snapshot was not completed: its process has ended");
	}
}

/*
 * Is the client too slow, while others wait?  (The query itself is limited by
 * the worker.)
 */
static bool
overdue(SnapshotJob *job, bool others_wait)
{
	return others_wait &&
		clock_passed(job->started, 2 * (int64) rtsync_snapshot_timeout);
}

/* Start what waits, in its order, as far as there may be workers. */
static void
start_jobs(int running)
{
	dlist_iter	iter;

	if (clock_now() < retry_at)
		return;
	dlist_foreach(iter, &jobs)
	{
		SnapshotJob *job = dlist_container(SnapshotJob, node, iter.cur);

		if (job->segment != NULL || dlist_is_empty(&job->channels))
			continue;
		if (rtsync_max_snapshot_workers == 0)
		{
			job_fail(job, "snapshots are turned off");
			continue;
		}
		if (running++ >= rtsync_max_snapshot_workers)
			return;
		if (!job_start(job))
		{
			retry_at = clock_in(RETRY_MS);
			return;
		}
	}
}

/*
 * Let snapshots go on, and start others.  Called outside of any transaction.
 * What it waits for (the worker, the gateway) wakes the engine.
 */
void
snapshot_run(void)
{
	MemoryContext old;
	int			running = 0;
	int			waiting = 0;
	dlist_mutable_iter iter;

	if (dlist_is_empty(&jobs))
		return;
	old = MemoryContextSwitchTo(TurnContext);
	dlist_foreach_modify(iter, &jobs)
		waiting += dlist_container(SnapshotJob, node, iter.cur)->segment == NULL;
	dlist_foreach_modify(iter, &jobs)
	{
		SnapshotJob *job = dlist_container(SnapshotJob, node, iter.cur);

		if (job->segment != NULL && overdue(job, waiting > 0))
			job_fail(job, "the snapshot was not read in time");
		if (job->segment != NULL && !dlist_is_empty(&job->channels))
			job_turn(job);
		if (dlist_is_empty(&job->channels))
			job_end(job);
		else if (job->segment != NULL)
			running++;
	}
	start_jobs(running);
	MemoryContextSwitchTo(old);
	MemoryContextReset(TurnContext);
}

/* How many there are, and have been */
void
snapshot_count(SnapshotCounts *counts)
{
	dlist_iter	iter;

	*counts = ended;
	dlist_foreach(iter, &jobs)
	{
		if (dlist_container(SnapshotJob, node, iter.cur)->segment != NULL)
			counts->running++;
		else
			counts->waiting++;
	}
}
