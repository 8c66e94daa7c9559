/*-------------------------------------------------------------------------
 *
 * report.c
 *	  Who is connected and what they subscribe to, for the statistics views.
 *
 * Only the gateway knows the connections, only the engine what their channels
 * are.  A backend that wants to know asks the engine (shared_request_report);
 * the engine asks the gateway (LINK_LIST), which answers in parts, so that no
 * turn of either loop becomes long; to each connection in a part the engine
 * adds what it knows of its channels, and appends all that to a file.  When
 * the last part is there, the file gets its name, and the backends that wait
 * are told.  There is no shared memory to be sized by the number of clients,
 * and the engine never waits for who asks.
 *
 * The file is beside those of the server's own statistics, readable by the
 * server alone.  It goes with the engine, or is replaced by the next one.
 *
 * The views show the state of some moment; the parts are not of the same one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "engine/cursor.h"
#include "engine/links.h"
#include "engine/report.h"
#include "engine/route.h"
#include "engine/shared.h"
#include "engine/subscription.h"
#include "engine/tables.h"

/* A backend waits this long: a gateway that hangs is ended after ten seconds. */
#define PATIENCE_MS 12000

static LinkWriter out;			/* what is not in the file yet */
static MemoryContext ReportContext = NULL;
static File file = -1;			/* while a report is being written */
static off_t file_end;
static uint32 serving;			/* the requests up to this one */

static void
report_path(char *path, const char *suffix)
{
	snprintf(path, MAXPGPATH, "%s/rtsync_%u.%s", PG_STAT_TMP_DIR, MyDatabaseId,
			 suffix);
}

/*--------------------------------------------------------------------------
 * The engine's side
 *--------------------------------------------------------------------------
 */

static bool
grow_report(LinkWriter *writer, size_t size)
{
	return linkio_grow(writer, size, ReportContext, 65536);
}

static void
remove_files(int code, Datum arg)
{
	char		path[MAXPGPATH];

	report_path(path, "stat");
	unlink(path);
	report_path(path, "tmp");
	unlink(path);
}

/* Write what has been collected; a failure leaves the report incomplete. */
static void
write_out(void)
{
	if (out.length > 0 &&
		FileWrite(file, out.data, out.length, file_end,
				  PG_WAIT_EXTENSION) != out.length)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("rtsync could not write statistics of connections: %m")));
		FileClose(file);
		file = -1;
	}
	file_end += out.length;
	out.length = 0;
	out.failed = false;
}

/* The report is complete: give it its name, and tell those who wait. */
static void
end_report(void)
{
	char		from[MAXPGPATH];
	char		to[MAXPGPATH];

	report_path(from, "tmp");
	report_path(to, "stat");
	if (file >= 0)
	{
		FileClose(file);
		file = -1;
		if (rename(from, to) != 0)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not rename file \"%s\" to \"%s\": %m",
							from, to)));
	}
	shared_engine_report_done(serving);
}

/*
 * Begin a report, if somebody wants one and none is under way.  Unless the
 * gateways answer yet, it is empty.
 */
void
report_turn(bool answered)
{
	uint32		number;
	char		path[MAXPGPATH];

	if (file >= 0 || !shared_engine_report_wanted(&number))
		return;
	if (ReportContext == NULL)
	{
		ReportContext = AllocSetContextCreate(TopMemoryContext,
											  "rtsync report",
											  ALLOCSET_DEFAULT_SIZES);
		out.grow = grow_report;
		before_shmem_exit(remove_files, (Datum) 0);
	}
	serving = number;
	file_end = 0;
	out.length = 0;
	report_path(path, "tmp");
	file = PathNameOpenFile(path, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);
	if (file < 0)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	if (file < 0 || !answered || links_count() == 0)
	{
		end_report();
		return;
	}
	for (int i = 0; i < LINKS_MAX; i++)
		if (links_get(i) != NULL)
			links_get(i)->listing = true;
	link_put_u32(links_begin(NULL, LINK_LIST), number);
	links_end(NULL);
}

/* The gateway has said all, or is gone: without others to wait for, the report
 * ends with what there is. */
void
report_link_ended(Link *link)
{
	link->listing = false;
	for (int i = 0; i < LINKS_MAX; i++)
		if (links_get(i) != NULL && links_get(i)->listing)
			return;
	if (file >= 0)
		end_report();
}

/* The claim "sub" of a principal, or NULL */
static char *
subject_of(const Principal *principal)
{
	Jsonb	   *claims = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
															CStringGetDatum(principal->claims)));
	JsonbValue *value = NULL;

	if (JB_ROOT_IS_OBJECT(claims))
		value = getKeyJsonValueFromContainer(&claims->root, "sub", 3, NULL);
	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* How the changes of a table are decided, from the fastest way on */
typedef enum Evaluation
{
	EVALUATION_UNKNOWN,			/* none was yet */
	EVALUATION_EVERY_ROW,
	EVALUATION_INDEXED,
	EVALUATION_PARAMETERS,
	EVALUATION_SET_QUERY,
	EVALUATION_QUERY,
	EVALUATION_ROW_BY_ROW
} Evaluation;

/* The names that rtsync.explain() has for them */
static const char *const evaluation_names[] = {
	NULL, "every row", "indexed", "parameters", "set query", "query",
	"row by row"
};

static Evaluation
table_evaluation(const TableGroup *tg)
{
	if (!tg->valid)
		return EVALUATION_UNKNOWN;
	if (tg->item.indexed)
		return EVALUATION_INDEXED;
	if (tg->open)
		return EVALUATION_EVERY_ROW;
	if (tg->pure)
		return EVALUATION_PARAMETERS;
	if (tg->in_set)
		return EVALUATION_SET_QUERY;
	return tg->query ? EVALUATION_QUERY : EVALUATION_ROW_BY_ROW;
}

/* Of a group that has several tables, the slowest way, or NULL */
static const char *
evaluation_of(const SubscriptionGroup *group)
{
	Evaluation	slowest = EVALUATION_UNKNOWN;
	dlist_iter	iter;

	dlist_foreach(iter, unconstify(dlist_head *, &group->tables))
	{
		const TableGroup *tg = dlist_container(TableGroup, in_group, iter.cur);

		slowest = Max(slowest, table_evaluation(tg));
	}
	return evaluation_names[slowest];
}

static void
put_cursor(const Channel *channel)
{
	RoutePosition now;
	Cursor		cursor;
	char		text[CURSOR_SIZE];
	uint64		behind;

	route_position(&now);
	behind = route_unread();
	if (channel->pace == CHANNEL_LIVE)
		route_cursor(&now, &cursor);
	else
	{
		route_cursor(&channel->place, &cursor);
		if (now.position > channel->place.position)
			behind += now.position - channel->place.position;
	}
	cursor_format(&cursor, channel->access_told, text);
	link_put_string(&out, text);
	link_put_u64(&out, behind);
}

static ReportPace
pace_of(const Channel *channel, const Binding *binding)
{
	if (binding != NULL && !binding->served)
		return REPORT_REFUSED;
	switch (channel->pace)
	{
		case CHANNEL_PAUSED:
			return REPORT_PAUSED;
		case CHANNEL_LATE:
			return channel->interval > 0 ? REPORT_THROTTLED : REPORT_LATE;
		case CHANNEL_SNAPSHOT:
			return REPORT_SNAPSHOT;
		case CHANNEL_LIVE:
			break;
	}
	return REPORT_LIVE;
}

static void
put_subscription(uint64 connection, const Channel *channel,
				 const Binding *binding, const char *subject, uint64 sent)
{
	const BindingSpec *spec = binding != NULL ? &binding->spec : NULL;
	const SubscriptionGroup *group = binding != NULL ? binding->group : NULL;

	link_begin(&out, (LinkType) REPORT_SUBSCRIPTION);
	link_put_u64(&out, connection);
	link_put_u64(&out, channel->id);
	link_put_u32(&out, channel->principal.roleid);
	link_put_string(&out, subject);
	link_put_string(&out, channel->topic);
	link_put_u8(&out, channel->private);
	link_put_u64(&out, (uint64) channel->joined);
	link_put_u32(&out, binding != NULL ? binding->id : 0);
	link_put_string(&out, spec != NULL ? spec->schema : NULL);
	link_put_string(&out, spec != NULL ? spec->table : NULL);
	link_put_u32(&out, spec != NULL ? spec->events : 0);
	link_put_string(&out, spec != NULL ? spec->filter : NULL);
	link_put_string(&out, group != NULL ? group->options.where : NULL);
	link_put_string(&out, group != NULL ? evaluation_of(group) : NULL);
	link_put_u32(&out, group != NULL ? group->id : 0);
	link_put_u8(&out, pace_of(channel, binding));
	put_cursor(channel);
	link_put_u64(&out, sent);
	link_end(&out);
}

/* Put a channel of a connection; those that are not joined are left out. */
static void
put_channel(uint64 connection, const Channel *channel, uint64 sent)
{
	char	   *subject;

	if (channel->joined == 0)
		return;
	subject = subject_of(&channel->principal);
	if (channel->nbindings == 0)
		put_subscription(connection, channel, NULL, subject, sent);
	for (int i = 0; i < channel->nbindings; i++)
		put_subscription(connection, channel, &channel->bindings[i], subject,
						 sent);
}

/* Read one connection of LINK_LISTED, and put it into the report. */
static void
read_connection(Link *link, LinkReader *body)
{
	const char *start = body->next;
	uint64		connection = link_get_u64(body);
	LinkReader	channels;
	uint32		nchannels;
	Oid			roleid = InvalidOid;
	Size		length;

	(void) link_get_string(body);
	(void) link_get_u32(body);	/* port */
	(void) link_get_u64(body);	/* age */
	(void) link_get_u64(body);	/* silence */
	(void) link_get_u32(body);	/* version */
	(void) link_get_u8(body);	/* TLS */
	(void) link_get_u8(body);	/* paused */
	(void) link_get_u64(body);	/* frames, bytes, queue */
	(void) link_get_u64(body);
	(void) link_get_u64(body);
	length = body->next - start;
	nchannels = link_get_count(body, 2 * sizeof(uint64));
	channels = *body;
	for (uint32 i = 0; i < nchannels && !body->failed; i++)
	{
		Channel    *channel = subscription_channel(link, link_get_u64(body));

		link_get_u64(body);
		if (channel != NULL && channel->joined != 0 && !OidIsValid(roleid))
			roleid = channel->principal.roleid;
	}
	if (body->failed || file < 0)
		return;

	link_begin(&out, (LinkType) REPORT_CONNECTION);
	link_put_bytes(&out, start, length);
	link_put_u32(&out, roleid);
	link_put_u32(&out, nchannels);
	link_end(&out);
	for (uint32 i = 0; i < nchannels; i++)
	{
		Channel    *channel = subscription_channel(link, link_get_u64(&channels));
		uint64		sent = link_get_u64(&channels);

		if (channel != NULL)
			put_channel(connection, channel, sent);
	}
}

/*
 * LINK_LISTED: a part of the list of connections.  What is malformed makes the
 * reader "failed"; an answer that nobody waits for is ignored.
 */
void
report_message(Link *link, LinkReader *body)
{
	uint32		number = link_get_u32(body);
	bool		last = link_get_u8(body) != 0;
	uint32		n = link_get_count(body, 8);

	for (uint32 i = 0; i < n && !body->failed; i++)
		read_connection(link, body);
	if (!link_finished(body) || file < 0 || number != serving || !link->listing)
	{
		out.length = 0;
		return;
	}
	write_out();
	if (file < 0)
		end_report();
	else if (last)
		report_link_ended(link);
}

/*--------------------------------------------------------------------------
 * A backend's side
 *--------------------------------------------------------------------------
 */

static char *
read_file(const char *path, Size *length)
{
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	struct stat st;
	char	   *data;

	if (fd < 0 || fstat(fd, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	data = MemoryContextAllocHuge(CurrentMemoryContext, st.st_size + 1);
	*length = 0;
	while (*length < (Size) st.st_size)
	{
		ssize_t		n = read(fd, data + *length, st.st_size - *length);

		if (n <= 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", path)));
		*length += n;
	}
	CloseTransientFile(fd);
	return data;
}

/*
 * Get a report of this database's engine, palloc'd: messages of the types in
 * ReportType.  NULL if no engine runs.  An engine or gateway that does not
 * answer is an error.
 */
char *
report_get(Size *length)
{
	char		path[MAXPGPATH];
	uint32		number;

	if (!shared_request_report(&number))
		return NULL;
	if (!shared_await_report(number, PATIENCE_MS))
	{
		if (!shared_request_report(&number))
			return NULL;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the rtsync engine of this database did not answer in time"),
				 errhint("See rtsync.pg_stat_rtsync and the server's log.")));
	}
	report_path(path, "stat");
	return read_file(path, length);
}
