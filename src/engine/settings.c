/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The rtsync.* settings: definitions, defaults and checks.
 *
 * All but rtsync.topic may be set in the configuration file, where a reload changes
 * them, and for one database with ALTER DATABASE, where they take effect when
 * its engine starts again (hooks.c sees to that at once).  Only superusers
 * may set them: the engine acts on them with all rights.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>

#include "utils/guc.h"
#include "utils/varlena.h"

#include "engine/compat.h"
#include "engine/links.h"
#include "engine/settings.h"
#include "link/link.h"

#define KILOBYTE 1024
#define MEGABYTE (1024 * 1024)

char	   *rtsync_publication;
char	   *rtsync_jwt_secret;
char	   *rtsync_jwt_secret_file;
char	   *rtsync_jwt_jwks_file;
char	   *rtsync_jwt_audience;
char	   *rtsync_jwt_issuer;
int			rtsync_jwt_leeway;
char	   *rtsync_anonymous_role;
int			rtsync_delete_visibility = DELETE_VISIBILITY_POLICY;
bool		rtsync_leave_events;
int			rtsync_policy_timeout;

char	   *rtsync_messages_table;
int			rtsync_messages_retention;
bool		rtsync_private_only;
static char *topic;

int			rtsync_coalesce_delay;
int			rtsync_history_size;
int			rtsync_max_retained_wal;
int			rtsync_max_event_size;
int			rtsync_max_in_list_size = 100;
int			rtsync_resume_window;
int			rtsync_max_filter_time;
int			rtsync_max_bindings_per_channel;
int			rtsync_max_subscription_memory;
int			rtsync_max_snapshot_workers;
int			rtsync_snapshot_timeout;

char	   *rtsync_listen_addresses;
int			rtsync_port;
int			rtsync_gateways;
char	   *rtsync_allowed_origins;
char	   *rtsync_trusted_proxies;
bool		rtsync_ssl;
char	   *rtsync_ssl_cert_file;
char	   *rtsync_ssl_key_file;
static int	ssl_min_protocol_version;
static int	ssl_max_protocol_version;
char	   *rtsync_http_root;
char	   *rtsync_metrics_token;
int			rtsync_max_connections;
int			rtsync_max_channels_per_connection;
int			rtsync_max_payload_size;
int			rtsync_send_queue_size;
int			rtsync_max_presence_size;

/* Numbers that are only handed on to the gateway */
static int	max_connections_per_address;
static int	max_joins_per_second;
static int	max_messages_per_second;
static int	max_requests_per_second;
static int	max_message_size;
static int	max_presence_calls;
static int	presence_interval;
static int	send_timeout;
static int	handshake_timeout;
static int	idle_timeout;
static int	no_channel_timeout;
static int	error_delay;
static int	shutdown_spread;

static const struct config_enum_entry delete_visibility_options[] = {
	{"policy", DELETE_VISIBILITY_POLICY, false},
	{"key", DELETE_VISIBILITY_KEY, false},
	{NULL, 0, false}
};

/* What it is, the gateway is told by name; "" is the server's. */
static const struct config_enum_entry protocol_version_options[] = {
	{"", 0, false},
	{"TLSv1.2", 2, false},
	{"TLSv1.3", 3, false},
	{NULL, 0, false}
};

static bool
check_publication(char **newval, void **extra, GucSource source)
{
	if (**newval == '\0')
	{
		GUC_check_errdetail("The name of a publication cannot be empty.");
		return false;
	}
	return true;
}

/* Which schema an unqualified name is in would be up to whoever sends. */
static bool
check_messages_table(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *names;
	bool		ok = SplitIdentifierString(copy, '.', &names) &&
		list_length(names) == 2;

	if (!ok)
		GUC_check_errdetail("It must be the name of a table with its schema.");
	pfree(copy);
	return ok;
}

/*
 * Whoever sets the secret with ALTER DATABASE or ALTER ROLE puts it where
 * everybody can read it.  It still works, for development.
 */
static bool
check_jwt_secret(char **newval, void **extra, GucSource source)
{
	if (source == PGC_S_TEST && **newval != '\0')
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("every user can read a secret that is set for a database or a role"),
				 errdetail("The catalog pg_db_role_setting is readable by all."),
				 errhint("Set \"rtsync.jwt_secret_file\" instead, or \"rtsync.jwt_secret\" in the configuration file.")));
	return true;
}

/* Not even those who may read all settings are to read the secret. */
static const char *
show_jwt_secret(void)
{
	return rtsync_jwt_secret && rtsync_jwt_secret[0] ? "********" : "";
}

static const char *
show_metrics_token(void)
{
	return rtsync_metrics_token && rtsync_metrics_token[0] ? "********" : "";
}

static bool
check_http_root(char **newval, void **extra, GucSource source)
{
	if (**newval != '\0' && **newval != '/')
	{
		GUC_check_errdetail("It must be an absolute path.");
		return false;
	}
	return true;
}

static bool
check_listen_addresses(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *addresses;
	ListCell   *cell;

	if (!SplitGUCList(copy, ',', &addresses))
	{
		GUC_check_errdetail("List syntax is invalid.");
		pfree(copy);
		return false;
	}
	foreach(cell, addresses)
	{
		if (strlen(lfirst(cell)) >= NI_MAXHOST)
		{
			GUC_check_errdetail("A host name is too long.");
			return false;
		}
	}
	list_free(addresses);
	pfree(copy);
	return true;
}

/* Is it an address, or a network as PostgreSQL's inet has it? */
static bool
is_network(const char *text)
{
	unsigned char address[sizeof(struct in6_addr)];
	char	   *copy = pstrdup(text);
	char	   *slash = strchr(copy, '/');
	int			family = strchr(copy, ':') != NULL ? AF_INET6 : AF_INET;
	int			bits = 0;
	char	   *end = "";
	bool		ok;

	if (slash != NULL)
	{
		*slash++ = '\0';
		bits = *slash >= '0' && *slash <= '9' ? strtol(slash, &end, 10) : -1;
	}
	ok = inet_pton(family, copy, address) == 1 && *end == '\0' &&
		bits >= 0 && bits <= (family == AF_INET ? 32 : 128);
	pfree(copy);
	return ok;
}

static bool
check_trusted_proxies(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *networks;
	ListCell   *cell;

	if (!SplitGUCList(copy, ',', &networks))
	{
		GUC_check_errdetail("List syntax is invalid.");
		return false;
	}
	foreach(cell, networks)
	{
		if (!is_network(lfirst(cell)))
		{
			GUC_check_errdetail("\"%s\" is neither an IP address nor a network such as \"10.0.0.0/8\".",
								(char *) lfirst(cell));
			return false;
		}
	}
	return true;
}

static void
define_int(const char *name, const char *description, const char *more,
		   int *variable, int boot, int min, int max, int flags)
{
	DefineCustomIntVariable(name, description, more, variable,
							boot, min, max, PGC_SUSET, flags,
							NULL, NULL, NULL);
}

static void
define_string(const char *name, const char *description, const char *more,
			  char **variable, const char *boot, int flags,
			  GucStringCheckHook check_hook)
{
	DefineCustomStringVariable(name, description, more, variable,
							   boot, PGC_SUSET, flags,
							   check_hook, NULL, NULL);
}

static void
define_secret(void)
{
	DefineCustomStringVariable("rtsync.jwt_secret",
							   "Sets the secret that clients' tokens are signed with.",
							   "For algorithms HS256, HS384 and HS512.",
							   &rtsync_jwt_secret, "",
							   PGC_SUSET,
							   GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   check_jwt_secret, NULL, show_jwt_secret);
}

/* What is published, and to whom */
static void
define_access_settings(void)
{
	define_string("rtsync.publication",
				  "Sets the publication whose tables are live.",
				  NULL,
				  &rtsync_publication, "rtsync", GUC_IS_NAME,
				  check_publication);

	define_secret();

	define_string("rtsync.jwt_secret_file",
				  "Sets the file that holds the secret that clients' tokens are signed with.",
				  "Counts if \"rtsync.jwt_secret\" is set too.",
				  &rtsync_jwt_secret_file, "", GUC_SUPERUSER_ONLY,
				  NULL);

	define_string("rtsync.jwt_jwks_file",
				  "Sets the file with the JSON Web Key Set that clients' tokens are signed with.",
				  "It is read again when the configuration is reloaded.",
				  &rtsync_jwt_jwks_file, "", GUC_SUPERUSER_ONLY,
				  NULL);

	define_string("rtsync.jwt_audience",
				  "Sets the audience that clients' tokens must be for.",
				  "An empty string accepts any.",
				  &rtsync_jwt_audience, "", 0, NULL);

	define_string("rtsync.jwt_issuer",
				  "Sets the issuer that clients' tokens must be from.",
				  "An empty string accepts any.",
				  &rtsync_jwt_issuer, "", 0, NULL);

	define_int("rtsync.jwt_leeway",
			   "Sets the time for which a token counts beyond the times that it says.",
			   "Allows for clocks that differ.",
			   &rtsync_jwt_leeway, 0, 0, 3600, GUC_UNIT_S);

	define_string("rtsync.anonymous_role",
				  "Sets the role of clients that show neither a token nor an API key.",
				  "An empty string refuses them.",
				  &rtsync_anonymous_role, "", GUC_IS_NAME, NULL);

	DefineCustomEnumVariable("rtsync.delete_visibility",
							 "Sets who receives a DELETE that row security cannot be checked for.",
							 "\"policy\" withholds it, \"key\" sends its key to every subscriber of the table.",
							 &rtsync_delete_visibility,
							 DELETE_VISIBILITY_POLICY,
							 delete_visibility_options,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("rtsync.leave_events",
							 "Sends a DELETE when an UPDATE takes a row out of a subscriber's view.",
							 NULL,
							 &rtsync_leave_events,
							 true,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	define_int("rtsync.policy_timeout",
			   "Sets the maximum time that the policies of a table may take for one decision.",
			   NULL,
			   &rtsync_policy_timeout, 1000, 10, 3600 * 1000, GUC_UNIT_MS);
}

/* Broadcasts from SQL, and what private channels are decided by */
static void
define_message_settings(void)
{
	define_string("rtsync.messages_table",
				  "Sets the table whose row security decides about private channels.",
				  "Messages that are to be replayed are stored in it, too.",
				  &rtsync_messages_table, "rtsync.messages", 0,
				  check_messages_table);

	define_int("rtsync.messages_retention",
			   "Sets the time for which stored messages are kept.",
			   NULL,
			   &rtsync_messages_retention, 72 * 60, 1, 365 * 24 * 60,
			   GUC_UNIT_MIN);

	DefineCustomBoolVariable("rtsync.private_only",
							 "Refuses public channels.",
							 NULL,
							 &rtsync_private_only, false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	/* read by rtsync.topic(); what a session sets itself is never believed */
	DefineCustomStringVariable("rtsync.topic",
							   "Shows the topic that row security is asked about.",
							   "Set by rtsync while a policy is evaluated.",
							   &topic, "",
							   PGC_USERSET,
							   GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE,
							   NULL, NULL, NULL);
}

/* From the WAL to the link */
static void
define_engine_settings(void)
{
	define_int("rtsync.coalesce_delay",
			   "Sets the time in microseconds for which commits are collected under load.",
			   "Zero wakes the engine at every commit.",
			   &rtsync_coalesce_delay, 300, 0, 1000 * 1000, 0);

	define_int("rtsync.history_size",
			   "Sets the memory for recent changes that clients can catch up from.",
			   NULL,
			   &rtsync_history_size, 64 * KILOBYTE, KILOBYTE, MAX_KILOBYTES,
			   GUC_UNIT_KB);

	define_int("rtsync.max_retained_wal",
			   "Sets the size of WAL that the replication slot may keep.",
			   "Half of it is for the history.  Beyond it, the slot is made anew, and clients fetch their rows again.",
			   &rtsync_max_retained_wal, 1024, 16, INT_MAX, GUC_UNIT_MB);

	define_int("rtsync.max_event_size",
			   "Sets the size above which the values of a change are left out.",
			   NULL,
			   &rtsync_max_event_size, MEGABYTE, KILOBYTE, 64 * MEGABYTE,
			   GUC_UNIT_BYTE);

	define_int("rtsync.max_in_list_size",
			   "Sets the maximum number of values in a filter \"in\".",
			   NULL,
			   &rtsync_max_in_list_size, 100, 1, 10000, 0);

	define_int("rtsync.resume_window",
			   "Sets the time for which it is remembered what a client has received.",
			   "It goes on from there if it comes back with its session.  0 turns sessions off.",
			   &rtsync_resume_window, 120, 0, 24 * 3600, GUC_UNIT_S);

	define_int("rtsync.max_filter_time",
			   "Sets the percentage of the engine's time that patterns and conditions of clients may take.",
			   "Who uses most of it is suspended when it is used up.  100 sets no limit.",
			   &rtsync_max_filter_time, 25, 1, 100, 0);

	define_int("rtsync.max_bindings_per_channel",
			   "Sets the maximum number of subscriptions to changes in a channel.",
			   NULL,
			   &rtsync_max_bindings_per_channel, 100, 1, LINK_MAX_BINDINGS, 0);

	define_int("rtsync.max_subscription_memory",
			   "Sets the memory for what joined channels subscribe to, above which joins are refused.",
			   NULL,
			   &rtsync_max_subscription_memory, 1024 * KILOBYTE, KILOBYTE,
			   MAX_KILOBYTES, GUC_UNIT_KB);
	define_int("rtsync.max_snapshot_workers",
			   "Sets the maximum number of processes that read snapshots of tables at the same time.",
			   "More requests wait.  0 refuses snapshots.",
			   &rtsync_max_snapshot_workers, 2, 0, 64, 0);

	define_int("rtsync.snapshot_timeout",
			   "Sets the maximum time that the query of a snapshot may take.",
			   NULL,
			   &rtsync_snapshot_timeout, 60 * 1000, 10, 24 * 3600 * 1000,
			   GUC_UNIT_MS);
}

/* The numbers that the gateway is told; the end is marked by a NULL name */
const GatewayNumber gateway_numbers[] = {
	{"rtsync.max_connections",
		"Sets the maximum number of clients' connections.",
		NULL,
	&rtsync_max_connections, 10000, 1, 1000 * 1000, 0},
	{"rtsync.max_channels_per_connection",
		"Sets the maximum number of channels that a connection may join.",
		NULL,
	&rtsync_max_channels_per_connection, 100, 1, 100 * 1000, 0},
	{"rtsync.max_connections_per_address",
		"Sets the maximum number of connections from one address.",
		"0 sets no limit.",
	&max_connections_per_address, 0, 0, 1000 * 1000, 0},
	{"rtsync.max_joins_per_second",
		"Sets the maximum number of joins per second on a connection.",
		"A connection that exceeds it is closed.  0 sets no limit.",
	&max_joins_per_second, 500, 0, 1000 * 1000, 0},
	{"rtsync.max_messages_per_second",
		"Sets the maximum number of messages per second on a connection.",
		"A connection that exceeds it is closed.  0 sets no limit.",
	&max_messages_per_second, 1000, 0, 1000 * 1000, 0},
	{"rtsync.max_requests_per_second",
		"Sets the maximum number of requests per second that broadcast by HTTP.",
		"All clients share it.  0 sets no limit.",
	&max_requests_per_second, 1000, 0, 1000 * 1000, 0},
	{"rtsync.max_message_size",
		"Sets the maximum size of a message from a client.",
		NULL,
		&max_message_size, 3000 * KILOBYTE, KILOBYTE, 64 * MEGABYTE,
	GUC_UNIT_BYTE},
	{"rtsync.max_payload_size",
		"Sets the maximum size of a broadcast.",
		NULL,
	&rtsync_max_payload_size, 3000 * 1000, 100, 64 * MEGABYTE, GUC_UNIT_BYTE},
	{"rtsync.max_presence_size",
		"Sets the maximum size of what a member of a channel says about itself.",
		NULL,
	&rtsync_max_presence_size, 10 * KILOBYTE, 100, MEGABYTE, GUC_UNIT_BYTE},
	{"rtsync.max_presence_calls",
		"Sets how often a member of a channel may change its presence in 30 seconds.",
		"0 sets no limit.",
	&max_presence_calls, 300, 0, 1000 * 1000, 0},
	{"rtsync.presence_interval",
		"Sets the time in which changes of presence are collected.",
		NULL,
	&presence_interval, 50, 0, 10 * 1000, GUC_UNIT_MS},
	{"rtsync.send_queue_size",
		"Sets the memory for what a slow client has not received yet.",
		"From a quarter of it on, the client's changes wait in the history.",
		&rtsync_send_queue_size, 4 * MEGABYTE, 4 * MEGABYTE, 1024 * MEGABYTE,
	GUC_UNIT_BYTE},
	{"rtsync.send_timeout",
		"Sets the time after which a client that takes nothing is disconnected.",
		NULL,
	&send_timeout, 30 * 1000, 100, 24 * 3600 * 1000, GUC_UNIT_MS},
	{"rtsync.handshake_timeout",
		"Sets the maximum time for a connection to become a WebSocket.",
		NULL,
	&handshake_timeout, 10 * 1000, 100, 600 * 1000, GUC_UNIT_MS},
	{"rtsync.idle_timeout",
		"Sets the time without a message after which a client is disconnected.",
		"0 turns it off.",
	&idle_timeout, 60 * 1000, 0, 24 * 3600 * 1000, GUC_UNIT_MS},
	{"rtsync.no_channel_timeout",
		"Sets the time after which a connection without a channel is closed.",
		"0 turns it off.",
	&no_channel_timeout, 600 * 1000, 0, 24 * 3600 * 1000, GUC_UNIT_MS},
	{"rtsync.error_delay",
		"Sets the delay of answers that refuse something.",
		"Slows down clients that try again without end.",
	&error_delay, 1000, 0, 60 * 1000, GUC_UNIT_MS},
	{"rtsync.shutdown_spread",
		"Sets the maximum time in which clients are told that the server stops.",
		"At most a thousand are told in a second, so that they do not return together.",
	&shutdown_spread, 10 * 1000, 0, 60 * 1000, GUC_UNIT_MS},
	{NULL}
};

static void
define_ssl_settings(void)
{
	DefineCustomBoolVariable("rtsync.ssl",
							 "Speaks TLS with clients, and nothing else.",
							 NULL,
							 &rtsync_ssl, false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	define_string("rtsync.ssl_cert_file",
				  "Sets the file with the certificate that clients are shown.",
				  "If empty, it is that of the server, \"ssl_cert_file\".",
				  &rtsync_ssl_cert_file, "", GUC_SUPERUSER_ONLY,
				  NULL);

	define_string("rtsync.ssl_key_file",
				  "Sets the file with the private key of the certificate.",
				  "If empty, it is that of the server, \"ssl_key_file\".",
				  &rtsync_ssl_key_file, "", GUC_SUPERUSER_ONLY,
				  NULL);

	DefineCustomEnumVariable("rtsync.ssl_min_protocol_version",
							 "Sets the minimum version of TLS.",
							 "If empty, it is that of the server, but at least TLSv1.2.",
							 &ssl_min_protocol_version, 0,
							 protocol_version_options,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomEnumVariable("rtsync.ssl_max_protocol_version",
							 "Sets the maximum version of TLS.",
							 "If empty, it is that of the server.",
							 &ssl_max_protocol_version, 0,
							 protocol_version_options,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
}

static void
define_gateway_settings(void)
{
	define_string("rtsync.listen_addresses",
				  "Sets the host names or IP addresses to listen on for clients.",
				  NULL,
				  &rtsync_listen_addresses, "localhost", GUC_LIST_INPUT,
				  check_listen_addresses);

	define_int("rtsync.port",
			   "Sets the TCP port to listen on for clients.",
			   "Each database that has the extension needs its own.",
			   &rtsync_port, 8585, 1, 65535, 0);

	define_int("rtsync.gateways",
			   "Sets the number of processes that serve the clients of a database.",
			   "They share the port, rtsync.max_connections, and all channels.",
			   &rtsync_gateways, 1, 1, LINKS_MAX, 0);

	define_string("rtsync.allowed_origins",
				  "Sets the web origins whose pages may connect.",
				  "A list of origins such as \"https://app.example.com\", or \"*\".",
				  &rtsync_allowed_origins, "*", GUC_LIST_INPUT,
				  NULL);

	define_string("rtsync.trusted_proxies",
				  "Sets the proxies that are believed about where clients are.",
				  "A list of addresses and networks whose X-Forwarded-For and Forwarded headers count.",
				  &rtsync_trusted_proxies, "", GUC_LIST_INPUT,
				  check_trusted_proxies);

	define_ssl_settings();

	define_string("rtsync.http_root",
				  "Sets the directory whose files are served over HTTP.",
				  "Empty serves none.",
				  &rtsync_http_root, "", GUC_SUPERUSER_ONLY,
				  check_http_root);

	DefineCustomStringVariable("rtsync.metrics_token",
							   "Sets the token that opens the metrics over HTTP.",
							   "If it is empty, nobody gets them.",
							   &rtsync_metrics_token, "",
							   PGC_SUSET,
							   GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   NULL, NULL, show_metrics_token);

	for (const GatewayNumber *number = gateway_numbers; number->name != NULL;
		 number++)
		define_int(number->name, number->description, number->more,
				   number->variable, number->boot, number->min, number->max,
				   number->flags);
}

/*
 * Define the settings.  Called whenever the library is loaded, preloaded or
 * not, for the output plugin needs some of them.
 */
void
settings_define(void)
{
	define_access_settings();
	define_message_settings();
	define_engine_settings();
	define_gateway_settings();

	MarkGUCPrefixReserved("rtsync");
}

/*
 * Set what the work of a process of ours depends on, whatever the server's
 * settings are; once, when it has connected to its database.
 */
void
settings_fix_session(void)
{
	static const char *const settings[][2] = {
		{"timezone", "UTC"},
		{"datestyle", "ISO, MDY"},
		{"intervalstyle", "postgres"},
		{"extra_float_digits", "1"},
		{"bytea_output", "hex"},
		{"xmlbinary", "base64"},
		{"row_security", "on"},
		{"default_transaction_isolation", "read committed"},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"synchronous_commit", "off"},	/* nobody waits with us for a disk or
										 * a standby */
		{"deadlock_timeout", "10ms"},	/* rather we than whom we wait for */
		{"jit", "off"},
		{"max_parallel_workers_per_gather", "0"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1],
						PGC_SUSET, PGC_S_OVERRIDE);
	compat_no_transaction_timeout();
}
