/*-------------------------------------------------------------------------
 *
 * snapshot_worker.c
 *	  The background worker that reads the rows of one snapshot.
 *
 * It reads tables as the subscriber's role, with its claims, under row
 * security, in one read-only transaction with one MVCC snapshot, and sends
 * them as the JSON that the subscriber will receive.  The tables are locked
 * before the snapshot is taken: whoever has rewritten or truncated one is then
 * either in the snapshot or waits until it has been read.
 *
 * The transaction lasts as long as the queries, and not as long as a slow
 * client: what the engine does not take meanwhile goes to a temporary file
 * (bounded by temp_file_limit) and follows when the transaction has ended.
 *
 * The engine starts the worker and says what it wants in dynamic shared memory
 * (snapshot_worker.h).  When it loses interest it detaches from the queue, and
 * the worker ends at its next message; a query that runs is cancelled.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "rewrite/rewriteHandler.h"
#include "storage/buffile.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "engine/binding.h"
#include "engine/compat.h"
#include "engine/filter.h"
#include "engine/policy.h"
#include "engine/principal.h"
#include "engine/publication.h"
#include "engine/render.h"
#include "engine/schema.h"
#include "engine/settings.h"
#include "engine/snapshot_worker.h"
#include "link/link.h"

/* A page is sent when its messages to a client have about this size. */
#define PAGE_SIZE 65536

/* What a client's message has around "data", about */
#define MESSAGE_OVERHEAD 100

extern PGDLLEXPORT void snapshot_main(Datum main_arg);

/* What is to be read */
typedef struct Request
{
	Principal	principal;
	int			ntables;
	BindingSpec *tables;
} Request;

/* The way to the engine */
typedef struct Outlet
{
	shm_mq_handle *queue;
	StringInfoData sending;		/* begun to be sent; empty: nothing */
	BufFile    *file;			/* what comes behind that; NULL: nothing */
	int			read_file;		/* where in the file the next message is */
	off_t		read_offset;
	int			write_file;		/* where it ends */
	off_t		write_offset;
} Outlet;

/* One table is being read: what its rows go through */
typedef struct RowReceiver
{
	DestReceiver pub;			/* first */
	Outlet	   *outlet;
	uint32		table;
	RowRenderer *renderer;
	int			natts;			/* of the table */
	AttrNumber *attnums;		/* of the query's columns */
	Datum	   *values;			/* by attnum - 1 */
	bool	   *nulls;
	MemoryContext row_context;
	StringInfoData page;
	int			size_at;		/* where the page has its size ... */
	int			count_at;		/* ... and the number of its rows */
	uint32		nrows;
	uint32		size;			/* of the messages it will become, about */
	bool		small;			/* values were left out of its rows */
} RowReceiver;

static MemoryContext SendContext = NULL;

/*--------------------------------------------------------------------------
 * To the engine
 *--------------------------------------------------------------------------
 */

/* The engine wants no more, or is gone: nobody is left to tell anything. */
static _Noreturn void
end_unwanted(void)
{
	proc_exit(0);
}

/* Send what was begun; false if that would mean to wait, and we must not. */
static bool
send_begun(Outlet *outlet, bool wait)
{
	shm_mq_result result;

	if (outlet->sending.len == 0)
		return true;
	result = shm_mq_send(outlet->queue, outlet->sending.len,
						 outlet->sending.data, !wait, true);
	if (result == SHM_MQ_DETACHED)
		end_unwanted();
	if (result == SHM_MQ_WOULD_BLOCK)
		return false;
	resetStringInfo(&outlet->sending);
	return true;
}

static void
seek_file(BufFile *file, int fileno, off_t offset)
{
	if (BufFileSeek(file, fileno, offset, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not seek in temporary file of a snapshot")));
}

/* Take the next message out of the file; false if there is none. */
static bool
take_from_file(Outlet *outlet)
{
	uint32		length;

	if (outlet->file == NULL)
		return false;
	if (outlet->read_file == outlet->write_file &&
		outlet->read_offset == outlet->write_offset)
	{
		BufFileClose(outlet->file);
		outlet->file = NULL;
		return false;
	}
	seek_file(outlet->file, outlet->read_file, outlet->read_offset);
	compat_buffile_read(outlet->file, &length, sizeof(length));
	enlargeStringInfo(&outlet->sending, length);
	compat_buffile_read(outlet->file, outlet->sending.data, length);
	outlet->sending.len = length;
	BufFileTell(outlet->file, &outlet->read_file, &outlet->read_offset);
	return true;
}

/* Send all that can be sent without waiting, or all there is. */
static bool
send_waiting(Outlet *outlet, bool wait)
{
	do
	{
		if (!send_begun(outlet, wait))
			return false;
	} while (take_from_file(outlet));
	return true;
}

/* The file is not bound to the transaction in which it is begun. */
static void
create_file(Outlet *outlet)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext old = MemoryContextSwitchTo(SendContext);

	CurrentResourceOwner = NULL;
	outlet->file = BufFileCreateTemp(true);
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
	BufFileTell(outlet->file, &outlet->read_file, &outlet->read_offset);
	outlet->write_file = outlet->read_file;
	outlet->write_offset = outlet->read_offset;
}

/* Send a message, now or later, without waiting. */
static void
outlet_put(Outlet *outlet, const char *data, uint32 length)
{
	if (send_waiting(outlet, false))
	{
		appendBinaryStringInfo(&outlet->sending, data, length);
		(void) send_begun(outlet, false);
		return;
	}
	if (outlet->file == NULL)
		create_file(outlet);
	seek_file(outlet->file, outlet->write_file, outlet->write_offset);
	BufFileWrite(outlet->file, &length, sizeof(length));
	BufFileWrite(outlet->file, unconstify(char *, data), length);
	BufFileTell(outlet->file, &outlet->write_file, &outlet->write_offset);
}

static void
put_u32(StringInfo buf, uint32 value)
{
	appendBinaryStringInfo(buf, (char *) &value, sizeof(value));
}

static void
put_text(StringInfo buf, const char *text)
{
	put_u32(buf, strlen(text));
	appendBinaryStringInfo(buf, text, strlen(text));
}

/*
 * The place in the WAL before which everything that the snapshot sees was
 * committed.  It is flushed, so that the engine will come by.
 */
static XLogRecPtr
snapshot_lsn(void)
{
	XLogRecPtr	lsn = GetXLogInsertRecPtr();

	/* no record ends within a page's header */
	if (lsn % XLOG_BLCKSZ <= SizeOfXLogLongPHD)
		lsn -= lsn % XLOG_BLCKSZ;
	XLogFlush(lsn);
	return lsn;
}

/* Say which transactions the snapshot sees. */
static void
send_view(Outlet *outlet, Snapshot snapshot)
{
	StringInfoData buf;
	uint64		lsn = snapshot_lsn();

	initStringInfo(&buf);
	appendStringInfoChar(&buf, SNAPSHOT_VIEW);
	put_u32(&buf, snapshot->xmin);
	put_u32(&buf, snapshot->xmax);
	appendBinaryStringInfo(&buf, (char *) &lsn, sizeof(lsn));
	put_u32(&buf, snapshot->xcnt);
	for (uint32 i = 0; i < snapshot->xcnt; i++)
		put_u32(&buf, snapshot->xip[i]);
	outlet_put(outlet, buf.data, buf.len);
	pfree(buf.data);
}

/* Rows that were not sent yet do not matter any more. */
static void
send_error(Outlet *outlet, const char *message)
{
	(void) send_begun(outlet, true);
	appendStringInfoChar(&outlet->sending, SNAPSHOT_ERROR);
	put_text(&outlet->sending, message);
	(void) send_begun(outlet, true);
}

/*--------------------------------------------------------------------------
 * Rows
 *--------------------------------------------------------------------------
 */

static void
begin_page(RowReceiver *receiver, bool small)
{
	StringInfo	page = &receiver->page;

	resetStringInfo(page);
	appendStringInfoChar(page, SNAPSHOT_ROWS);
	put_u32(page, receiver->table);
	receiver->size_at = page->len;
	put_u32(page, 0);
	put_text(page, render_rows_head(receiver->renderer));
	put_text(page, render_rows_tail(small));
	receiver->count_at = page->len;
	put_u32(page, 0);
	receiver->nrows = 0;
	receiver->size = 0;
	receiver->small = small;
}

static void
send_page(RowReceiver *receiver)
{
	if (receiver->nrows == 0)
		return;
	memcpy(receiver->page.data + receiver->size_at, &receiver->size,
		   sizeof(uint32));
	memcpy(receiver->page.data + receiver->count_at, &receiver->nrows,
		   sizeof(uint32));
	outlet_put(receiver->outlet, receiver->page.data, receiver->page.len);
}

/* A row was appended, and some of its values were left out unlike before. */
static void
move_to_new_page(RowReceiver *receiver, int start, bool small)
{
	int			length = receiver->page.len - start;
	char	   *row = palloc(length);

	memcpy(row, receiver->page.data + start, length);
	receiver->page.len = start;
	send_page(receiver);
	begin_page(receiver, small);
	appendBinaryStringInfo(&receiver->page, row, length);
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;
	StringInfo	page = &receiver->page;
	int			start = page->len;
	MemoryContext old = MemoryContextSwitchTo(receiver->row_context);
	bool		small;
	uint32		length;

	slot_getallattrs(slot);
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
	{
		receiver->values[receiver->attnums[i] - 1] = slot->tts_values[i];
		receiver->nulls[receiver->attnums[i] - 1] = slot->tts_isnull[i];
	}
	put_u32(page, 0);
	small = render_row(page, receiver->renderer, receiver->values,
					   receiver->nulls);
	length = page->len - start - sizeof(uint32);
	memcpy(page->data + start, &length, sizeof(length));
	if (small != receiver->small)
		move_to_new_page(receiver, start, small);
	receiver->nrows++;
	receiver->size += length + MESSAGE_OVERHEAD +
		strlen(render_rows_head(receiver->renderer));
	if (receiver->size >= PAGE_SIZE)
	{
		send_page(receiver);
		begin_page(receiver, false);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(receiver->row_context);
	return true;
}

static void
receiver_startup(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static void
receiver_shutdown(DestReceiver *self)
{
}

static void
receiver_destroy(DestReceiver *self)
{
}

/*--------------------------------------------------------------------------
 * The query
 *--------------------------------------------------------------------------
 */

/*
 * SELECT of all columns that the role may read; which these are is put into
 * attnums.  Names are quoted, and the schema is named: no search_path matters.
 */
static char *
query_text(Relation rel, const Bitmapset *selectable, AttrNumber *attnums)
{
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData buf;
	int			n = 0;

	initStringInfo(&buf);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || compat_att_is_virtual(att) ||
			!bms_is_member(i + 1, selectable))
			continue;
		appendStringInfo(&buf, "%s %s", n == 0 ? "SELECT" : ",",
						 quote_identifier(NameStr(att->attname)));
		attnums[n++] = i + 1;
	}
	if (n == 0)
		appendStringInfoString(&buf, "SELECT");

	appendStringInfo(&buf, " FROM %s",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												RelationGetRelationName(rel)));
	return buf.data;
}

/* Plan it with further conditions; row security comes in here. */
static PlannedStmt *
plan_query(const char *text, List *quals)
{
	RawStmt    *raw = linitial_node(RawStmt, raw_parser(text, RAW_PARSE_DEFAULT));
	Query	   *query = parse_analyze_fixedparams(raw, text, NULL, 0, NULL);
	List	   *rewritten;

	if (quals != NIL)
		query->jointree->quals = (Node *) make_ands_explicit(quals);
	rewritten = QueryRewrite(query);
	if (list_length(rewritten) != 1)
		elog(ERROR, "unexpected rewrite result");
	return pg_plan_query(linitial_node(Query, rewritten), text, 0, NULL);
}

static void
run_query(const char *text, PlannedStmt *plan, DestReceiver *receiver)
{
	QueryDesc  *query_desc = CreateQueryDesc(plan, text, GetActiveSnapshot(),
											 InvalidSnapshot, receiver, NULL,
											 NULL, 0);

	ExecutorStart(query_desc, 0);
	compat_executor_run(query_desc, 0);
	ExecutorFinish(query_desc);
	ExecutorEnd(query_desc);
	FreeQueryDesc(query_desc);
}

/* What the subscription's events have, as decide.c has it */
static RowRenderer *
make_renderer(Relation rel, const BindingSpec *spec,
			  const Bitmapset *selectable, Bitmapset *published)
{
	RelSchema  *schema = schema_create(rel, rel, published);
	Bitmapset  *shown = bms_intersect(selectable, schema->published);
	Bitmapset  *record = shown;
	Bitmapset  *columns = shown;

	if (spec->nselect >= 0)
	{
		record = binding_selected(spec, schema->desc, shown);
		columns = bms_union(record, bms_intersect(schema_key(schema), shown));
	}
	return render_rows_begin(GetCurrentTransactionStartTimestamp(), schema,
							 columns, record);
}

static void
prepare_receiver(RowReceiver *receiver, Outlet *outlet, uint32 table,
				 int natts)
{
	memset(receiver, 0, sizeof(*receiver));
	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = receiver_startup;
	receiver->pub.rShutdown = receiver_shutdown;
	receiver->pub.rDestroy = receiver_destroy;
	receiver->pub.mydest = DestNone;
	receiver->outlet = outlet;
	receiver->table = table;
	receiver->natts = natts;
	receiver->attnums = palloc0((natts + 1) * sizeof(AttrNumber));
	receiver->values = palloc0((natts + 1) * sizeof(Datum));
	receiver->nulls = palloc0((natts + 1) * sizeof(bool));
	receiver->row_context = AllocSetContextCreate(CurrentMemoryContext,
												  "rtsync snapshot row",
												  ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&receiver->page);
}

/* Read a table, as the role. */
static void
read_table(Outlet *outlet, const Principal *principal,
		   const BindingSpec *spec, Oid relid, uint32 number)
{
	TableAccess *access = policy_table_access(relid, principal->roleid);
	Bitmapset  *selectable = bms_copy(access->columns);
	PublicationRel published;
	BindingOptions options;
	RowReceiver receiver;
	Relation	rel;
	List	   *quals = NIL;
	char	   *text;

	if (!access->readable)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table %s", spec->table)));
	publication_describe(rtsync_publication, relid, &published);
	if (!published.published || published.publish_as != relid)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"%s.%s\" is not published",
						spec->schema, spec->table)));
	binding_options(spec, &options);
	rel = table_open(relid, NoLock);
	prepare_receiver(&receiver, outlet, number, RelationGetDescr(rel)->natts);
	receiver.renderer = make_renderer(rel, spec, selectable,
									  published.columns);
	text = query_text(rel, selectable, receiver.attnums);
	quals = filter_conditions(spec->filter, options.where, rel, selectable);
	if (published.row_filter != NULL)
		quals = lappend(quals,
						compat_expand_generated(published.row_filter, rel));
	begin_page(&receiver, false);
	run_query(text, plan_query(text, quals), &receiver.pub);
	send_page(&receiver);
	table_close(rel, NoLock);
}

/*--------------------------------------------------------------------------
 * The worker
 *--------------------------------------------------------------------------
 */

static char *
get_string(LinkReader *reader)
{
	LinkString	string = link_get_string(reader);

	return string.data != NULL ? pnstrdup(string.data, string.length) : NULL;
}

static void
read_table_request(LinkReader *reader, BindingSpec *spec)
{
	uint32		nselect;

	spec->events = EVENT_ALL;
	spec->schema = get_string(reader);
	spec->table = get_string(reader);
	spec->filter = get_string(reader);
	spec->options = get_string(reader);
	nselect = link_get_u32(reader);
	spec->nselect = nselect == LINK_NULL ? -1 : (int) nselect;
	if (spec->nselect <= 0)
		return;
	spec->select = palloc0(sizeof(char *) * nselect);
	for (uint32 i = 0; i < nselect; i++)
		spec->select[i] = get_string(reader);
}

static void
read_request(const SnapshotShared *shared, Request *request)
{
	LinkReader	reader;

	link_read(&reader, shared->request, shared->request_length);
	memset(request, 0, sizeof(*request));
	request->principal.roleid = link_get_u32(&reader);
	request->principal.rolename = get_string(&reader);
	request->principal.claims = get_string(&reader);
	request->ntables = (int) link_get_u32(&reader);
	request->tables = palloc0(sizeof(BindingSpec) * (request->ntables + 1));
	for (int i = 0; i < request->ntables; i++)
		read_table_request(&reader, &request->tables[i]);
	if (!link_finished(&reader))
		elog(ERROR, "malformed request for a snapshot");
}

/* Lock the tables, in the order of their names in the request. */
static Oid *
lock_tables(const Request *request)
{
	Oid		   *relids = palloc(sizeof(Oid) * (request->ntables + 1));

	for (int i = 0; i < request->ntables; i++)
	{
		BindingSpec *spec = &request->tables[i];

		relids[i] = RangeVarGetRelid(makeRangeVar(spec->schema, spec->table, -1),
									 AccessShareLock, true);
		if (!OidIsValid(relids[i]))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("table \"%s.%s\" is not published",
							spec->schema, spec->table)));
	}
	return relids;
}

static void
read_snapshot(Outlet *outlet, const Request *request)
{
	PrincipalScope scope;
	Oid		   *relids;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactReadOnly = true;
	XactIsoLevel = XACT_REPEATABLE_READ;
	enable_timeout_after(STATEMENT_TIMEOUT, rtsync_snapshot_timeout);
	relids = lock_tables(request);
	PushActiveSnapshot(GetTransactionSnapshot());
	send_view(outlet, GetActiveSnapshot());
	for (int i = 0; i < request->ntables; i++)
	{
		principal_enter(&request->principal, &scope);
		read_table(outlet, &request->principal, &request->tables[i],
				   relids[i], i);
		principal_leave(&scope);
	}
	PopActiveSnapshot();
	disable_timeout(STATEMENT_TIMEOUT, false);
	CommitTransactionCommand();
}

/* Send what has been read and not been taken meanwhile. */
static void
send_rest(Outlet *outlet)
{
	char		end = SNAPSHOT_END;

	MemoryContextSwitchTo(SendContext);
	pgstat_report_activity(STATE_RUNNING, "sending a snapshot");
	outlet_put(outlet, &end, 1);
	(void) send_waiting(outlet, true);
}

/* Read and send everything, or why that cannot be. */
static void
serve(Outlet *outlet, const Request *request)
{
	PG_TRY();
	{
		read_snapshot(outlet, request);
		send_rest(outlet);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(SendContext);
		error = CopyErrorData();
		FlushErrorState();
		disable_timeout(STATEMENT_TIMEOUT, false);
		AbortCurrentTransaction();
		MemoryContextSwitchTo(SendContext);
		send_error(outlet, error->message);
		proc_exit(0);
	}
	PG_END_TRY();
}

/*
 * Entry point; the argument is the handle of the dynamic shared memory.
 */
void
snapshot_main(Datum main_arg)
{
	dsm_segment *segment;
	SnapshotShared *shared;
	shm_mq	   *queue;
	Outlet		outlet = {0};
	Request		request;

	BackgroundWorkerUnblockSignals();
	SendContext = AllocSetContextCreate(TopMemoryContext, "rtsync snapshot",
										ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(SendContext);
	CurrentResourceOwner = NULL;
	segment = dsm_attach(DatumGetUInt32(main_arg));
	if (segment == NULL)
		proc_exit(0);			/* the engine has given up meanwhile */
	shared = dsm_segment_address(segment);
	queue = (shm_mq *) ((char *) shared + shared->queue_offset);
	shm_mq_set_sender(queue, MyProc);
	outlet.queue = shm_mq_attach(queue, segment, NULL);
	initStringInfo(&outlet.sending);
	read_request(shared, &request);

	BackgroundWorkerInitializeConnectionByOid(shared->dboid, InvalidOid, 0);
	settings_fix_session();
	/* the query is what is limited here, not the single decision */
	rtsync_policy_timeout = rtsync_snapshot_timeout;
	policy_init();
	render_init();
	pgstat_report_activity(STATE_RUNNING,
						   psprintf("reading a snapshot for role %s",
									request.principal.rolename));
	serve(&outlet, &request);
	proc_exit(0);
}
