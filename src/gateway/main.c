/*-------------------------------------------------------------------------
 *
 * main.c
 *	  rtsync-gateway: the network side of rtsync.
 *
 * Started by the engine, which leaves it two things: the link on descriptor 3
 * and listening sockets from descriptor 4 on.  It holds no secret and no
 * state that outlives it, so it ends whenever something is beyond repair, and
 * the engine starts another one.
 *
 * The order at start: LINK_HELLO says how many sockets there are, the first
 * LINK_CONFIG how many connections to prepare for.  Only then do we accept.
 *
 *-------------------------------------------------------------------------
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "gateway/certificate.h"
#include "gateway/gateway.h"
#include "gateway/log.h"
#include "link/link.h"

#define HOUSEKEEPING_INTERVAL 1000	/* ms */
#define SPARE_DESCRIPTORS 64	/* besides those of clients */
#define FAREWELLS_PER_MS 1		/* at most, on average */
#define MIN_FAREWELL_TIME 50	/* ms; what is over sooner is done at once */
#define DESCRIPTORS_FOR_TLS 3	/* of a client, see tls.c */

Gateway		gateway;

static uv_prepare_t end_of_turn;
static uv_timer_t housekeeping;
static uv_signal_t terminate;
static GatewayStats reported;
static bool running;			/* the first LINK_CONFIG was applied */
static uint32_t prepared_connections;	/* that RLIMIT_NOFILE suffices for */

static void
report_stats(void)
{
	LinkWriter *writer;

	if (memcmp(&reported, &gateway.stats, sizeof(reported)) == 0 ||
		engine_link_congested())
		return;
	reported = gateway.stats;
	writer = engine_link_begin(LINK_STATS);
	link_put_u32(writer, reported.connections);
	link_put_u32(writer, reported.channels);
	link_put_u64(writer, reported.frames_sent);
	link_put_u64(writer, reported.bytes_sent);
	link_put_u64(writer, reported.closed_slow);
	engine_link_end();
}

/*
 * When we come late we were held up, and what the clients sent meanwhile is
 * still unread: then silence is no proof.
 */
static void
on_housekeeping(uv_timer_t *timer)
{
	static uint64_t last_run;
	uint64_t	now = uv_now(gateway.loop);

	(void) timer;
	if (now - last_run <= 2 * HOUSEKEEPING_INTERVAL)
		connections_check_timeouts();
	connections_check_paused();
	tls_check_timeouts();
	last_run = now;
	report_stats();
	monitor_tell();
}

/* Runs before the loop waits for anything: what the turn left behind */
static void
on_end_of_turn(uv_prepare_t *handle)
{
	(void) handle;
	connections_end_turn();
	tls_end_turn();
	engine_link_flush();
}

static void
on_terminate(uv_signal_t *handle, int number)
{
	(void) handle;
	(void) number;
	gateway_stop(1012);
}

/*
 * In how many ms the clients are to be told.  Clients come back a fixed time
 * after they were: those who are told together come back together.
 */
static uint32_t
farewell_time(uint16_t close_code)
{
	uint32_t	time = gateway.stats.connections / FAREWELLS_PER_MS;

	if (time > gateway.config.shutdown_spread)
		time = gateway.config.shutdown_spread;
	return close_code == 1012 && time >= MIN_FAREWELL_TIME ? time : 0;
}

/*
 * Go on in a process that nobody waits for: the engine does for this one, and
 * the server's shutdown for the engine.  The ports are free at once.  Returns
 * false, and nothing has happened, if that is not possible.
 */
static bool
detach(void)
{
	pid_t		pid = fork();
	int			null;

	if (pid > 0)
		_exit(EXIT_SUCCESS);
	if (pid < 0)
		return false;
	setsid();
	signal(SIGTERM, SIG_DFL);
	admission_stop();
	close(LINK_FD);
	null = open("/dev/null", O_RDWR);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
	return true;
}

/* Tell the clients and end.  Never returns. */
void
gateway_stop(uint16_t close_code)
{
	uint32_t	time;

	if (!running)
		exit(EXIT_SUCCESS);
	time = farewell_time(close_code);
	if (time == 0 || !detach())
	{
		connections_close_all(close_code, 0);
		exit(EXIT_SUCCESS);
	}
	connections_close_all(close_code, time);
	_exit(EXIT_SUCCESS);
}

/* LINK_HELLO: take over the listening sockets. */
void
gateway_open(uint32_t n_listeners)
{
	if (!admission_start(LINK_LISTEN_FD, n_listeners))
	{
		log_message("FATAL", "the engine left no %u listening sockets", n_listeners);
		exit(EXIT_FAILURE);
	}
}

/*
 * Have as many descriptors as the connections need, and hardly more: the
 * library walks over the whole table of possible ones at each accept.
 */
static void
limit_descriptors(void)
{
	struct rlimit limit;
	rlim_t		each = gateway.config.ssl ? DESCRIPTORS_FOR_TLS : 1;
	rlim_t		others = each * ADMISSION_MAX_PENDING + SPARE_DESCRIPTORS;

	prepared_connections = gateway.config.max_connections;
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	limit.rlim_cur = each * prepared_connections + others;
	if (limit.rlim_max != RLIM_INFINITY && limit.rlim_cur > limit.rlim_max)
	{
		limit.rlim_cur = limit.rlim_max;
		prepared_connections = limit.rlim_max > others ?
			(uint32_t) ((limit.rlim_max - others) / each) : 1;
		log_message("WARNING", "max_connections is %u, but the limit of open files allows for %u",
					gateway.config.max_connections, prepared_connections);
	}
	setrlimit(RLIMIT_NOFILE, &limit);
}

/* LINK_CONFIG: the settings have changed, or are there for the first time. */
void
gateway_configured(void)
{
	if (!running)
	{
		limit_descriptors();
		if (!websocket_start())
			exit(EXIT_FAILURE);
		running = true;
	}
	if (gateway.config.max_connections > prepared_connections)
	{
		log_message("LOG", "max_connections stays at %u until the gateway restarts",
					prepared_connections);
		gateway.config.max_connections = prepared_connections;
	}
	/* Without a certificate, who asks for TLS is let go. */
	if (gateway.config.ssl && gateway.config.ssl_key[0] != '\0')
		certificate_apply(&gateway.config);
	admission_accept();
}

int
main(int argc, char **argv)
{
	if (argc > 1)
	{
		printf("%s is started by the rtsync extension of PostgreSQL.\n", argv[0]);
		return strcmp(argv[1], "--help") == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	hash_init();
	config_init(&gateway.config);
	gateway.loop = uv_default_loop();
	connections_init();
	brake_init();
	tls_init();
	kept_init();
	presence_init();
	monitor_init();
	uv_prepare_init(gateway.loop, &end_of_turn);
	uv_prepare_start(&end_of_turn, on_end_of_turn);
	uv_timer_init(gateway.loop, &housekeeping);
	uv_timer_start(&housekeeping, on_housekeeping, HOUSEKEEPING_INTERVAL,
				   HOUSEKEEPING_INTERVAL);
	uv_signal_init(gateway.loop, &terminate);
	uv_signal_start(&terminate, on_terminate, SIGTERM);
	engine_link_start(LINK_FD);
	uv_run(gateway.loop, UV_RUN_DEFAULT);
	return EXIT_FAILURE;		/* the loop never runs dry */
}
