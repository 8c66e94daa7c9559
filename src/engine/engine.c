/*-------------------------------------------------------------------------
 *
 * engine.c
 *	  The background worker that serves one database.
 *
 * One loop does everything: it decodes what is new in the WAL into the
 * history, routes from the history to the subscribers, talks with the
 * gateway, and looks after the gateway's process and its own state.  Each of
 * these gets a bounded turn.  No transaction is open while it waits.
 *
 * Sleeping: committing backends signal only an engine that sleeps
 * (shared_engine_sleep_begin).  After a turn that found something to decode
 * it naps for rtsync.coalesce_delay without asking to be woken, so that busy
 * committers do not pay for signals, and for longer if there are no clients;
 * only when a turn finds nothing does it go to sleep, for a second at most.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/extension.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "engine/apikey.h"
#include "engine/budget.h"
#include "engine/catalogs.h"
#include "engine/certificate.h"
#include "engine/clock.h"
#include "engine/compat.h"
#include "engine/crashes.h"
#include "engine/decide.h"
#include "engine/gatewayproc.h"
#include "engine/history.h"
#include "engine/keyring.h"
#include "engine/late.h"
#include "engine/launcher.h"
#include "engine/links.h"
#include "engine/message.h"
#include "engine/messages_table.h"
#include "engine/metrics.h"
#include "engine/plugin.h"
#include "engine/policy.h"
#include "engine/render.h"
#include "engine/report.h"
#include "engine/requests.h"
#include "engine/rights.h"
#include "engine/route.h"
#include "engine/session.h"
#include "engine/settings.h"
#include "engine/shared.h"
#include "engine/snapshot.h"
#include "engine/subscription.h"
#include "engine/tables.h"
#include "engine/wal.h"
#include "engine/watch.h"

/* Decoding rests while this much history waits for being routed. */
#define DECODE_AHEAD ((Size) 4 * 1024 * 1024)

/* Confirm a position to the slot when it moved this far, or after a while. */
#define CONFIRM_BYTES (1024 * 1024)
#define CONFIRM_MS 10000

#define HOUSEKEEPING_MS 1000

/* Look after the partitions of the table of messages this often. */
#define MAINTENANCE_MS 60000

/* While there is no slot, because transactions have to end first */
#define NO_SLOT_MS 100

/* While somebody is to be told of something once more WAL is flushed */
#define UNTOLD_MS 20

/* While a transaction is committed but not visible */
#define BLOCKED_MS 5

/* So often changes are decoded that nobody listens to.  A client that comes is
 * noticed at once. */
#define UNHEARD_MS 10

/*
 * A gateway that takes nothing for so long hangs.  As long as it does, nothing
 * is decoded, and the WAL that the slot holds back grows.
 */
#define GATEWAY_PATIENCE_MS 10000

/* The gateway is told no figures while so much waits for it. */
#define MONITOR_BYTES ((Size) 64 * 1024)

/*
 * Of rtsync.max_retained_wal, half is for the history; the rest is for what is
 * needed to decode from there, and what is not decoded yet.  It is looked at
 * whenever this many changes of one transaction were decoded, too.
 */
#define HISTORY_SHARE 2
#define CONFIRM_SHARE 4
#define LOG_RUNNING_SHARE 32
#define CHANGES_PER_LOOK 1024

/* A turn of decoding ends after this time, so that others get theirs. */
#define DECODE_MS 20

/* Who joins waits so long for what was committed before, and no longer. */
#define BEFORE_JOIN_MS 1000

/* Complain about a port that stays in use only after so many attempts. */
#define LISTEN_PATIENCE 3

/* So long the start waits for a lock on the key of messages from SQL. */
#define KEY_PATIENCE_MS 1000

extern PGDLLEXPORT void engine_main(Datum main_arg);

static bool decode_turn(bool *more);
static void obey(void);
static bool caught_up(void);
static void flush_links(void);

static GatewayProc gateways[LINKS_MAX];
static int	ngateways;			/* how many there shall be */
static int	listen_fds[LINKS_MAX][GATEWAY_MAX_LISTEN];
static int	nlisten;			/* for each gateway */
static int	listen_failures;
static bool may_listen;			/* false: it would have to be without TLS */
static ClockTime listen_at;		/* when to try again */
static WaitEventSet *wait_set = NULL;
static int	wait_link_pos[LINKS_MAX];
static XLogRecPtr serve_from;	/* what is older was committed before we came */
static ClockTime housekept;
static ClockTime confirmed;
static ClockTime delivered_until;	/* what was committed before it is */
static uint64 gateway_starts;
static bool key_wanted;			/* the key of messages is still to be read */
static bool ready;				/* as the gateway was told last */
static ClockTime maintained;
static PluginSink history_sink;
static PluginSink sink;			/* the same, with what concerns others, too */
static LinkShutdown shutdown_reason = LINK_SHUTDOWN_SERVER;

/*--------------------------------------------------------------------------
 * Start
 *--------------------------------------------------------------------------
 */

static bool
extension_exists(void)
{
	bool		exists;

	StartTransactionCommand();
	exists = OidIsValid(get_extension_oid("rtsync", true));
	CommitTransactionCommand();
	return exists;
}

/*
 * Read the key that messages from SQL are proven by.  A lock on its table is
 * not waited for: housekeeping_turn tries again.
 */
static void
load_message_key(void)
{
	bool		before = key_wanted;

	catalogs_begin(wal_decoded_lsn());
	key_wanted = !message_load_key();
	catalogs_commit();
	if (key_wanted && !before)
		ereport(WARNING,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("table \"rtsync.secret\" is locked: messages from SQL may not be delivered until it no longer is")));
}

/*
 * Likewise at the start, where messages would be lost without it: a lock that is
 * soon gone is waited for.
 */
static void
load_first_message_key(void)
{
	ClockTime	until = clock_in(KEY_PATIENCE_MS);

	for (load_message_key(); key_wanted && clock_now() < until; load_message_key())
	{
		obey();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 20,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* The extension is not, or no longer, in this database. */
static void
end_without_extension(void)
{
	shutdown_reason = LINK_SHUTDOWN_EXTENSION;
	wal_drop_slot();
	shared_engine_absent();
	proc_exit(0);
}

static void
set_session(void)
{
	settings_fix_session();
	/* a large transaction must get through */
	SetConfigOption("temp_file_limit", "-1", PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * Tell the gateways to go, as the process exits, and leave the sessions to the
 * next one.
 */
static void
say_goodbye(int code, Datum arg)
{
	wal_goodbye();
	if (shutdown_reason != LINK_SHUTDOWN_EXTENSION)
		session_save();
	snapshot_cancel_all();
	for (int i = 0; i < LINKS_MAX; i++)
	{
		Link	   *link = links_get(i);

		if (link == NULL)
			continue;
		link_begin(&link->out, LINK_SHUTDOWN);
		link_put_u32(&link->out, shutdown_reason);
		if (link_end(&link->out))
			linkio_flush(link);
	}
}

/*--------------------------------------------------------------------------
 * The gateways
 *--------------------------------------------------------------------------
 */

/*
 * Read the certificate.  Without one we do not begin to listen, but go on with
 * the one that we had.
 */
static void
load_certificate(bool reload)
{
	char	   *why;
	const char *hint;

	if (certificate_load(reload, &why, &hint))
	{
		if (!may_listen)
			shared_engine_trouble(0, NULL, NULL);
		may_listen = true;
		return;
	}
	may_listen = certificate_key() != NULL;
	if (may_listen)
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("%s", why),
				 errdetail("rtsync's certificate was not reloaded."),
				 hint ? errhint("%s", hint) : 0));
	else
		shared_engine_trouble(ERRCODE_CONFIG_FILE_ERROR, why, hint);
	pfree(why);
}

/*
 * Open listening sockets for each gateway, which stay open when it ends.  The
 * arguments and the result are gateway_listen's.
 */
static int
listen_for_all(char **why, int *errcode)
{
	const char *addresses = rtsync_listen_addresses;
	int			n;

	if (ngateways == 1)
		return gateway_listen(addresses, rtsync_port, LISTEN_ALONE,
							  listen_fds[0], GATEWAY_MAX_LISTEN, why, errcode);
	n = gateway_listen(addresses, rtsync_port, LISTEN_PROBE, listen_fds[0],
					   GATEWAY_MAX_LISTEN, why, errcode);
	if (n > 0)
		gateway_unlisten(listen_fds[0], n);
	for (int i = 0; n > 0 && i < ngateways; i++)
	{
		n = gateway_listen(addresses, rtsync_port, LISTEN_SHARED, listen_fds[i],
						   n, why, errcode);
		for (int j = 0; n == 0 && j < i; j++)
			gateway_unlisten(listen_fds[j], nlisten);
		nlisten = n;
	}
	return n;
}

/*
 * Say that we run: clients can connect, or it is known why they cannot.  Until
 * then another gateway, for one, may have the port.
 */
static void
say_running(void)
{
	static bool said = false;

	if (!said)
		shared_engine_running();
	said = true;
}

/* Open the listening sockets, if it is time to try. */
static void
listen_turn(void)
{
	char	   *why;
	int			errcode;

	if (!may_listen)
		say_running();
	if (nlisten > 0 || clock_now() < listen_at || !may_listen)
		return;
	nlisten = listen_for_all(&why, &errcode);
	if (nlisten > 0)
	{
		listen_failures = 0;
		shared_engine_trouble(0, NULL, NULL);
		shared_engine_listening(rtsync_listen_addresses, rtsync_port);
		say_running();
		return;
	}
	if (why != NULL)
		listen_failures++;		/* else it shall not listen */
	listen_at = clock_in(listen_failures < LISTEN_PATIENCE ?
						 100 : HOUSEKEEPING_MS);
	if (why != NULL && listen_failures == LISTEN_PATIENCE)
	{
		shared_engine_trouble(errcode, why,
							  "Set another rtsync.port or rtsync.listen_addresses for this database with ALTER DATABASE.");
		shared_engine_listening(NULL, 0);
	}
	if (listen_failures == 0 || listen_failures >= LISTEN_PATIENCE)
		say_running();
	if (why != NULL)
		pfree(why);
}

static void
put_setting(LinkWriter *out, const char *name, const char *value)
{
	link_put_string(out, name);
	link_put_string(out, value);
}

static void
put_number(LinkWriter *out, const char *name, int64 value)
{
	char		buf[32];

	snprintf(buf, sizeof(buf), INT64_FORMAT, value);
	put_setting(out, name, buf);
}

/* Send a gateway its settings. */
static void
send_config(Link *link)
{
	LinkWriter *out = &link->out;
	bool		certified = certificate_key() != NULL;
	int			count = 0;

	while (gateway_numbers[count].name != NULL)
		count++;
	link_begin(out, LINK_CONFIG);
	link_put_u32(out, count + 8 + (certified ? 5 : 0));
	put_setting(out, "allowed_origins", rtsync_allowed_origins);
	put_setting(out, "trusted_proxies", rtsync_trusted_proxies);
	put_number(out, "allow_anonymous", rtsync_anonymous_role[0] != '\0');
	put_number(out, "ssl", rtsync_ssl);
	if (certified)
	{
		put_setting(out, "ssl_certificate", certificate_chain());
		put_setting(out, "ssl_key", certificate_key());
		put_setting(out, "ssl_ciphers", certificate_ciphers());
		put_setting(out, "ssl_min_protocol_version", certificate_min_protocol());
		put_setting(out, "ssl_max_protocol_version", certificate_max_protocol());
	}
	put_setting(out, "http_root", rtsync_http_root);
	put_setting(out, "metrics_token", rtsync_metrics_token);
	for (const GatewayNumber *number = gateway_numbers; number->name != NULL;
		 number++)
		put_number(out, number->name + strlen("rtsync."),
				   number->variable == &rtsync_max_connections ?
				   (rtsync_max_connections + ngateways - 1) / ngateways :
				   *number->variable);
	if (ngateways > 1)
		link->max_body = Max(link->max_body, (Size) rtsync_max_payload_size +
							 LINK_MAX_TO_ENGINE);
	put_number(out, "gateway", link->number);
	put_number(out, "gateways", ngateways);
	linkio_end(link);
}

/*
 * After a start, decoding begins in the past, to have the history again.
 * Whoever joins is to get what is committed from then on; so nobody is served
 * until the history has reached the present.  The gateway runs, and says so
 * where it is asked for its health; what clients ask waits in the link.
 */
static bool
history_is_back(void)
{
	static bool reached = false;
	static bool back = false;
	static uint64 end;
	RoutePosition place;

	if (back)
		return true;
	route_position(&place);
	if (!reached && (wal_decoded_lsn() >= serve_from || !wal_has_more()))
	{
		reached = true;
		end = place.position + route_unread();
	}
	back = reached && place.position >= end;
	return back;
}

/*
 * Tell the gateways how the engine is, for those who ask them.  Not while one
 * takes nothing: it will see for itself that it hears nothing.
 */
static void
send_monitor(void)
{
	StringInfoData text;

	ready = history_is_back();
	if (links_count() == 0)
		return;
	initStringInfo(&text);
	metrics_render(&text, shared_my_engine,
				   NameStr(shared_my_engine->dbname));
	for (int i = 0; i < LINKS_MAX; i++)
	{
		Link	   *link = links_get(i);

		if (link == NULL || linkio_pending(link) > MONITOR_BYTES)
			continue;
		link_begin(&link->out, LINK_MONITOR);
		link_put_u8(&link->out, ready);
		link_put_string(&link->out, ready ? NULL :
						"the engine reads the history again after its start");
		link_put_bytes(&link->out, text.data, text.len);
		linkio_end(link);
		linkio_flush(link);
	}
	pfree(text.data);
}

/* Have the set of what is waited for made anew. */
static void
forget_wait_set(void)
{
	if (wait_set != NULL)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
}

static void
start_gateway(int number)
{
	int			fd;
	Link	   *link;

	if (!gateway_spawn(&gateways[number], &fd, listen_fds[number], nlisten))
		return;
	gateway_starts++;
	link = linkio_open(fd);
	links_add(link, number);
	forget_wait_set();
	link_begin(&link->out, LINK_HELLO);
	link_put_u32(&link->out, LINK_VERSION);
	link_put_u32(&link->out, nlisten);
	linkio_end(link);
	send_config(link);
}

/* A link is broken: forget its channels, and the gateway if it still runs. */
static void
end_gateway(int number)
{
	Link	   *link = links_get(number);

	links_remove(link);
	subscription_drop_link(link);
	report_link_ended(link);
	linkio_close(link);
	forget_wait_set();
	if (!gateway_reap(&gateways[number], false))
		gateway_kill(&gateways[number]);
}

/* Start the gateway if it is time to; returns its link, or NULL. */
static Link *
ensure_gateway(int number)
{
	GatewayProc *gateway = &gateways[number];

	if (links_get(number) != NULL)
		return links_get(number);
	if (gateway->pid != 0 && !gateway_reap(gateway, true))
		return NULL;
	if (nlisten == 0 || gateway_respawn_delay(gateway) > 0)
		return NULL;
	start_gateway(number);
	if (links_get(number) != NULL)
		send_monitor();
	return links_get(number);
}

/* Must the gateway be ended because it does not read? */
static bool
gateway_hangs(Link *link)
{
	if (!linkio_stuck(link, GATEWAY_PATIENCE_MS) && !links_overdue(link))
		return false;
	ereport(LOG,
			(errmsg("rtsync-gateway does not answer and is started anew")));
	return true;
}

/*
 * Before a join by this link, deliver what is committed, as far as that can be
 * done at once: not what is behind a transaction that nobody sees yet, nor
 * while gateways are busy.
 */
static void
deliver_committed(const Link *link)
{
	XLogRecPtr	target = wal_flushed_lsn();
	ClockTime	until = clock_in(BEFORE_JOIN_MS);
	bool		decoded;
	RouteState	state;

	if (caught_up())
		return;
	do
	{
		bool		cut;

		decoded = decode_turn(&cut);
		state = route_run();
		flush_links();
	} while ((state == ROUTE_MORE ||
			  (state == ROUTE_IDLE && decoded && wal_decoded_lsn() < target)) &&
			 !link->broken && clock_now() < until);
}

/*
 * A message of a gateway.  Who joins hears of what is committed from then on:
 * the rest is delivered to the others first.
 */
static void
gateway_message(Link *link, LinkType type, LinkReader *body)
{
	if (type == LINK_JOIN)
		deliver_committed(link);
	requests_handle(link, type, body);
}

/*
 * Keep the gateways running and exchange messages with them.  Returns true if
 * one has more to say.
 */
static bool
gateways_turn(void)
{
	bool		more = false;

	listen_turn();
	for (int i = 0; i < ngateways; i++)
	{
		Link	   *link = ensure_gateway(i);

		if (link == NULL)
			continue;
		if (!ready && history_is_back())
			send_monitor();
		if (history_is_back())
			more |= linkio_receive(link, gateway_message);
	}
	for (int i = 0; i < ngateways; i++)
	{
		Link	   *link = links_get(i);

		if (link == NULL)
			continue;
		linkio_flush(link);
		if (link->broken || gateway_hangs(link))
		{
			end_gateway(i);
			more = true;
		}
	}
	return more;
}

static void
flush_links(void)
{
	for (int i = 0; i < ngateways; i++)
		if (links_get(i) != NULL)
			linkio_flush(links_get(i));
}

/*--------------------------------------------------------------------------
 * WAL and history
 *--------------------------------------------------------------------------
 */

/*
 * Decode what is new; returns true if there was something, and sets *more if
 * this turn's time ended it.
 */
static bool
decode_turn(bool *more)
{
	XLogRecPtr	before = wal_decoded_lsn();

	if (route_unread() > DECODE_AHEAD || !wal_has_more())
		return false;
	catalogs_enter_past(before);
	if (!wal_decode(DECODE_AHEAD, route_unread, history_gap, DECODE_MS))
		*more = true;
	return wal_decoded_lsn() != before;
}

/* The bytes of WAL that the slot may hold back */
static XLogRecPtr
retained_limit(void)
{
	return (XLogRecPtr) rtsync_max_retained_wal * 1024 * 1024;
}

/* The sink's: a single transaction, too, can be too much. */
static void
change_cb(ReorderBufferTXN *txn, const PluginChange *change)
{
	static uint32 count = 0;

	if (++count % CHANGES_PER_LOOK == 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (wal_retained() > retained_limit())
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("the replication slot keeps more WAL than \"rtsync.max_retained_wal\"")));
	}
	history_sink.change_cb(txn, change);
}

/*
 * Bound the history, and let the slot follow its tail.
 */
static void
confirm(void)
{
	XLogRecPtr	decoded = wal_decoded_lsn();
	XLogRecPtr	flushed = wal_flushed_lsn();
	XLogRecPtr	retained = retained_limit() / HISTORY_SHARE;
	XLogRecPtr	resume;

	if (!wal_is_open())
		return;
	history_forget(flushed > retained ? flushed - retained : 0);
	if (wal_retained() > retained_limit() / CONFIRM_SHARE)
		wal_log_running(retained_limit() / LOG_RUNNING_SHARE);
	resume = history_resume_lsn(decoded);
	if (resume > wal_confirmed_lsn() + CONFIRM_BYTES ||
		(resume > wal_confirmed_lsn() &&
		 clock_passed(confirmed, CONFIRM_MS)))
	{
		wal_confirm(resume);
		confirmed = clock_now();
	}
}

/* Once a second is not enough where much is written. */
static void
confirm_under_load(void)
{
	static XLogRecPtr last = InvalidXLogRecPtr;
	XLogRecPtr	flushed = wal_flushed_lsn();

	if (wal_retained() <= retained_limit() / CONFIRM_SHARE ||
		flushed < last + retained_limit() / LOG_RUNNING_SHARE)
		return;
	last = flushed;
	confirm();
}

/* A new slot was made: changes may have been missed since the last one. */
static void
begin_anew(void)
{
	route_reset(wal_confirmed_lsn());
	shared_engine_trouble(0, NULL, NULL);
	subscription_refetch_all(-1, REFETCH_RETAINED,
							 "changes were given up because too much WAL was kept for them");
}

/*
 * The slot must not hold back more WAL than it may, whatever the reason: a
 * transaction that does not end or is not seen yet, a gateway that hangs,
 * decoding that is slower than writing.  Beyond that, give it up.
 */
static void
bound_turn(void)
{
	if (!wal_is_open())
	{
		if (wal_open())
			begin_anew();
		return;
	}
	confirm_under_load();
	if (wal_retained() <= retained_limit())
		return;
	wal_give_up();
	route_reset(wal_confirmed_lsn());
	shared_engine_trouble(ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						  "the replication slot kept more WAL than \"rtsync.max_retained_wal\" and is made anew when all transactions have ended that ran then",
						  "Look for old transactions in pg_stat_activity and pg_prepared_xacts, and consider increasing the setting.");
}

/*--------------------------------------------------------------------------
 * Housekeeping
 *--------------------------------------------------------------------------
 */

/* Is all delivered that was committed? */
static bool
caught_up(void)
{
	return route_unread() == 0 && !wal_has_more();
}

static void
count(EngineCounts *counts)
{
	const GatewayCounts *sent = requests_gateway_counts();

	counts->transactions = history_transactions();
	counts->changes = history_changes();
	counts->events = route_events();
	counts->policy_errors = decide_errors();
	metrics_refetches(counts->refetches);
	counts->gateway_starts = gateway_starts;
	counts->frames_sent = sent->frames_sent;
	counts->bytes_sent = sent->bytes_sent;
	counts->closed_slow = sent->closed_slow;
}

static void
publish_snapshots(EngineEntry *entry)
{
	SnapshotCounts counts;

	snapshot_count(&counts);
	entry->counts.snapshots = counts.completed;
	entry->counts.snapshots_failed = counts.failed;
	entry->snapshots_running = counts.running;
	entry->snapshots_waiting = counts.waiting;
}

static void
publish_state(void)
{
	EngineEntry *entry = shared_my_engine;
	char		activity[128];

	LWLockAcquire(shared_state->lock, LW_EXCLUSIVE);
	entry->updated = GetCurrentTimestamp();
	entry->epoch = wal_epoch();
	entry->flushed_lsn = wal_flushed_lsn();
	entry->confirmed_lsn = wal_confirmed_lsn();
	entry->restart_lsn = wal_restart_lsn();
	entry->behind_since = caught_up() ? 0 : delivered_until;
	entry->history_bytes = history_size();
	entry->history_since = history_oldest();
	entry->decoded_lsn = wal_decoded_lsn();
	entry->routed_lsn = route_unread() == 0 ? wal_decoded_lsn() :
		Max(route_done_lsn(), wal_confirmed_lsn());
	entry->history_lsn = history_resume_lsn(wal_decoded_lsn());
	count(&entry->counts);
	publish_snapshots(entry);
	entry->gateways = links_count();
	entry->connections = subscription_connection_count();
	entry->channels = subscription_channel_count();
	entry->groups = subscription_group_count();
	LWLockRelease(shared_state->lock);

	snprintf(activity, sizeof(activity),
			 "streaming to %d channels in %d groups",
			 subscription_channel_count(), subscription_group_count());
	pgstat_report_activity(STATE_RUNNING, activity);
}

static void
housekeeping_turn(void)
{
	if (!clock_passed(housekept, HOUSEKEEPING_MS))
		return;
	housekept = clock_now();
	AcceptInvalidationMessages();	/* what no other turn has asked for */
	confirm();
	if (key_wanted)
		load_message_key();
	rights_check_expiry();
	session_housekeeping();
	if (clock_passed(maintained, MAINTENANCE_MS))
	{
		maintained = clock_now();
		messages_table_maintain();
	}
	tables_tell_late(history_resume_lsn(wal_decoded_lsn()));
	tables_sweep();
	subscription_tell_late();
	budget_sweep();
	publish_state();
	watch_thresholds(shared_my_engine);
	send_monitor();
	pgstat_report_stat(false);
}

/* Read the configuration; another address or port needs another start. */
static void
reload(void)
{
	char	   *addresses = pstrdup(rtsync_listen_addresses);
	char	   *publication = pstrdup(rtsync_publication);
	int			port = rtsync_port;

	ProcessConfigFile(PGC_SIGHUP);
	if (port != rtsync_port || ngateways != rtsync_gateways ||
		strcmp(addresses, rtsync_listen_addresses) != 0)
		shared_request_restart(MyDatabaseId);
	if (strcmp(publication, rtsync_publication) != 0)
		tables_recheck_all();
	pfree(addresses);
	pfree(publication);
}

/* The secret and the keys of tokens may be others. */
static void
reload_keys(void)
{
	catalogs_begin(wal_decoded_lsn());
	keyring_reload();
	catalogs_commit();
}

/* What others ask of us */
static void
obey(void)
{
	if (ProcDiePending || shared_engine_stop_requested())
	{
		shared_engine_terminated();
		proc_exit(0);
	}
	CHECK_FOR_INTERRUPTS();
	if (shared_engine_check_requested())
	{
		if (!extension_exists())
			end_without_extension();
		load_message_key();		/* it may be another one */
	}
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		reload();
		load_certificate(true);
		reload_keys();
		apikey_settings_changed();
		rights_changed();
		for (int i = 0; i < LINKS_MAX; i++)
			if (links_get(i) != NULL)
				send_config(links_get(i));
	}
}

/*--------------------------------------------------------------------------
 * The loop
 *--------------------------------------------------------------------------
 */

static void
make_wait_set(void)
{
	wait_set = compat_create_wait_event_set(2 + LINKS_MAX);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL,
					  NULL);
	for (int i = 0; i < LINKS_MAX; i++)
		if (links_get(i) != NULL)
			wait_link_pos[i] = AddWaitEventToSet(wait_set, WL_SOCKET_READABLE,
												 links_get(i)->sock, NULL,
												 NULL);
}

/* Wait for the latch, the gateway, or the time given. */
static void
wait(long timeout_ms)
{
	WaitEvent	event;

	if (!history_is_back())
	{
		/* what the gateway says must wait, and would wake us all the time */
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout_ms, PG_WAIT_EXTENSION);
		return;
	}
	if (wait_set == NULL)
		make_wait_set();
	for (int i = 0; i < LINKS_MAX; i++)
		if (links_get(i) != NULL)
			ModifyWaitEvent(wait_set, wait_link_pos[i],
							WL_SOCKET_READABLE |
							(linkio_pending(links_get(i)) > 0 ?
							 WL_SOCKET_WRITEABLE : 0), NULL);
	WaitEventSetWait(wait_set, timeout_ms, &event, 1, PG_WAIT_EXTENSION);
}

static long
sleep_time(RouteState state)
{
	long		time = HOUSEKEEPING_MS;
	long		delay = late_delay();

	if (state == ROUTE_BLOCKED)
		time = BLOCKED_MS;
	if (delay >= 0)
		time = Min(time, Max(1, delay));
	if (!wal_is_open())
		time = Min(time, NO_SLOT_MS);
	if (state == ROUTE_CONGESTED)
		time = Min(time, LINKS_STALLED_MS);
	if (nlisten == 0)
		return Min(time, listen_failures > 0 ? 100 : time);
	for (int i = 0; i < ngateways; i++)
		if (links_get(i) == NULL)
			time = Min(time, Max(1, gateway_respawn_delay(&gateways[i])));
	return time;
}

/* Let work gather after some was done; no commit wakes the engine meanwhile. */
static void
nap(void)
{
	if (subscription_channel_count() == 0)
		wait(UNHEARD_MS);
	else if (rtsync_coalesce_delay > 0)
		pg_usleep(rtsync_coalesce_delay);
}

static void
engine_loop(void)
{
	for (;;)
	{
		ClockTime	begun = clock_now();
		bool		more;
		bool		decoded;
		bool		cut = false;	/* there is more to decode */
		bool		untold;
		RouteState	state;

		ResetLatch(MyLatch);
		obey();
		more = gateways_turn();
		decoded = decode_turn(&cut);
		rights_recheck();
		tables_recheck_access();
		subscription_send_accesses();
		state = route_run();
		untold = tables_tell_again();
		subscription_send_accesses();
		if (route_unread() == 0 && !cut)
			delivered_until = begun;
		more |= cut;
		more |= late_run();
		snapshot_run();
		report_turn(history_is_back());
		flush_links();
		history_forget(InvalidXLogRecPtr);
		bound_turn();
		housekeeping_turn();

		if (more || state == ROUTE_MORE)
			continue;
		if (decoded)
		{
			nap();
			continue;
		}
		shared_engine_sleep_begin();
		if (state == ROUTE_CONGESTED || state == ROUTE_BLOCKED ||
			!wal_has_more())
			wait(untold ? UNTOLD_MS : sleep_time(state));
		shared_engine_sleep_end();
	}
}

/* Why decoding cannot begin, if so; then this process ends. */
static void
check_requirements(void)
{
	const char *message;
	const char *hint;
	int			sqlerrcode;

	if (launcher_can_decode(wal_slot_name(), &sqlerrcode, &message, &hint))
		return;
	shared_engine_waiting(sqlerrcode, message, hint);
	proc_exit(0);
}

/* What ended engines before this one must not end it at once. */
static void
take_blame(void)
{
	ClockTime	now = clock_now();

	principal_on_give_up(shared_engine_blame);
	for (int i = 0; i < MAX_BLAMED; i++)
	{
		BlamedTable *table = &shared_my_engine->blamed[i];

		if (!OidIsValid(table->relid) || table->until <= now)
			continue;
		policy_blame(table->relid, table->preparing, table->until);
		ereport(LOG,
				(errmsg("rtsync suspends the row security of table with OID %u for %d seconds, because the engine could only be ended in it",
						table->relid, (int) ((table->until - now) / 1000000)),
				 errhint("Its policies call code that catches its own cancellation.  Changing them ends the suspension.")));
	}
}

/* Open the slot; to make one, transactions that run may have to end first. */
static void
open_slot(void)
{
	while (!wal_open())
	{
		obey();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 100,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/*
 * The server is stopped at once, or another process has crashed: this is no
 * death of what we were doing.
 */
static void
quit_cb(SIGNAL_ARGS)
{
	crashes_end(false);
	SignalHandlerForCrashExit(postgres_signal_arg);
}

/*
 * Entry point; the argument is the database's Oid.  See launcher.h for the
 * order in which things happen here.
 */
void
engine_main(Datum main_arg)
{
	Oid			dboid = DatumGetObjectId(main_arg);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGQUIT, quit_cb);
	BackgroundWorkerUnblockSignals();
	if (!shared_engine_attach(dboid))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	set_session();

	if (!extension_exists())
		end_without_extension();
	shared_engine_found();
	check_requirements();

	before_shmem_exit(say_goodbye, (Datum) 0);
	pgstat_report_activity(STATE_RUNNING, "opening the replication slot");
	history_fill_sink(&history_sink);
	sink = history_sink;
	sink.watches_cb = tables_watches;
	sink.change_cb = change_cb;
	plugin_set_sink(&sink);
	wal_init(retained_limit());
	open_slot();
	policy_init();
	take_blame();
	render_init();
	budget_init();
	subscription_init();
	rights_init();
	requests_init();
	session_init();
	tables_init();
	route_init(wal_confirmed_lsn());
	serve_from = wal_flushed_lsn();
	load_first_message_key();
	ngateways = rtsync_gateways;
	load_certificate(false);
	engine_loop();
}
