/*-------------------------------------------------------------------------
 *
 * gatewayproc.c
 *	  The gateway as a process: its listening sockets, its start, its end.
 *
 * Runs in the engine, which calls it from its main loop.  Nothing here waits,
 * but for the resolution of host names in rtsync.listen_addresses.
 *
 * The gateway is an ordinary child process.  A background worker leaves
 * SIGCHLD at its default, so a gateway that has ended stays a zombie until
 * gateway_reap asks for it; the engine learns of the end sooner, by the
 * end-of-file on the link.
 *
 * The gateway is in a process group of its own, since the postmaster and
 * pg_terminate_backend signal an engine's whole group: a gateway ends when its
 * link does, and not before the engine had it say goodbye to its clients.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "port.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/varlena.h"

#include "engine/clock.h"
#include "engine/gatewayproc.h"
#include "link/link.h"

#define GATEWAY_PROGRAM "rtsync-gateway"
#define LISTEN_BACKLOG 4096		/* the kernel's somaxconn may be less */

/* A gateway that lived for this long does not count as a failure. */
#define STABLE_MS 10000

/*
 * A dying process closes its end of the link a moment before it can be
 * reaped: look again so many times, a millisecond apart.
 */
#define REAP_ATTEMPTS 10

/* How often that is done when the engine ends, before the gateway is killed */
#define EXIT_ATTEMPTS 2000

/* Those that were ever started, for exit_cb */
static GatewayProc *known_gateways;

/*------------------------------ listening -------------------------------*/

/* The sockets that gateway_listen has opened so far, and why it failed */
typedef struct ListenState
{
	int		   *fds;
	int			nfds;
	int			max;
	ListenMode	mode;
	char	   *why;			/* NULL: no failure yet */
	int			errcode;
} ListenState;

static void
listen_failed(ListenState *state, int code, char *why)
{
	if (state->why)
		pfree(state->why);
	state->why = why;
	state->errcode = code;
}

/*
 * The failure of a system call on an address, as errno has it, which is kept
 */
static void
listen_failed_errno(ListenState *state, const char *action,
					const struct addrinfo *addr)
{
	int			save_errno = errno;
	char		host[NI_MAXHOST] = "?";
	char		service[NI_MAXSERV] = "?";

	(void) getnameinfo(addr->ai_addr, addr->ai_addrlen, host, sizeof(host),
					   service, sizeof(service),
					   NI_NUMERICHOST | NI_NUMERICSERV);
	listen_failed(state,
				  save_errno == EADDRINUSE ? ERRCODE_OBJECT_IN_USE :
				  save_errno == EACCES ? ERRCODE_INSUFFICIENT_PRIVILEGE :
				  ERRCODE_INSUFFICIENT_RESOURCES,
				  psprintf("could not %s \"%s\", port %s: %s",
						   action, host, service, strerror(save_errno)));
	errno = save_errno;
}

static bool
same_address(const struct sockaddr *a, const struct sockaddr *b)
{
	const struct sockaddr_in *a4 = (const struct sockaddr_in *) a;
	const struct sockaddr_in *b4 = (const struct sockaddr_in *) b;
	const struct sockaddr_in6 *a6 = (const struct sockaddr_in6 *) a;
	const struct sockaddr_in6 *b6 = (const struct sockaddr_in6 *) b;

	if (a->sa_family != b->sa_family)
		return false;
	if (a->sa_family == AF_INET)
		return a4->sin_addr.s_addr == htonl(INADDR_ANY) ||
			a4->sin_addr.s_addr == b4->sin_addr.s_addr;
	return IN6_IS_ADDR_UNSPECIFIED(&a6->sin6_addr) ||
		(IN6_ARE_ADDR_EQUAL(&a6->sin6_addr, &b6->sin6_addr) &&
		 a6->sin6_scope_id == b6->sin6_scope_id);
}

/*
 * Do we listen there already?  Names often resolve to the same address twice,
 * and "*" covers them all.
 */
static bool
already_listening(const ListenState *state, const struct addrinfo *addr)
{
	for (int i = 0; i < state->nfds; i++)
	{
		struct sockaddr_storage bound;
		socklen_t	length = sizeof(bound);

		if (getsockname(state->fds[i], (struct sockaddr *) &bound, &length) == 0 &&
			same_address((struct sockaddr *) &bound, addr->ai_addr))
			return true;
	}
	return false;
}

/* Bind and listen; false with errno, and *action the step that failed. */
static bool
bind_and_listen(int fd, const struct addrinfo *addr, ListenMode mode,
				const char **action)
{
	int			one = 1;

	*action = "set up a socket for";
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
		return false;
	if (mode == LISTEN_SHARED &&
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) < 0)
		return false;
	if (addr->ai_family == AF_INET6 &&
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0)
		return false;
	*action = "bind to";
	if (bind(fd, addr->ai_addr, addr->ai_addrlen) < 0)
		return false;
	*action = "listen on";
	return mode == LISTEN_PROBE || listen(fd, LISTEN_BACKLOG) == 0;
}

/*
 * Listen on one address.  Returns false if that must not be passed over: only
 * an address of a protocol that this machine does not have may be.
 */
static bool
listen_on_address(ListenState *state, const struct addrinfo *addr)
{
	const char *action = "create a socket for";
	int			fd;

	if (addr->ai_family != AF_INET && addr->ai_family != AF_INET6)
		return true;
	if (already_listening(state, addr))
		return true;
	if (state->nfds == state->max)
	{
		listen_failed(state, ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
					  psprintf("cannot listen on more than %d addresses",
							   state->max));
		return false;
	}

	fd = socket(addr->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && bind_and_listen(fd, addr, state->mode, &action))
	{
		ReserveExternalFD();
		state->fds[state->nfds++] = fd;
		return true;
	}

	listen_failed_errno(state, action, addr);
	if (fd >= 0)
	{
		int			save_errno = errno;

		close(fd);
		errno = save_errno;
	}
	return errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL;
}

/* Listen on all addresses of one name. */
static bool
listen_on_name(ListenState *state, const char *name, int port)
{
	struct addrinfo hints = {0};
	struct addrinfo *addrs = NULL;
	char		service[16];
	bool		ok = true;
	int			rc;

	hints.ai_family = AF_UNSPEC;
	hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
	hints.ai_socktype = SOCK_STREAM;
	snprintf(service, sizeof(service), "%d", port);

	rc = getaddrinfo(strcmp(name, "*") == 0 ? NULL : name, service,
					 &hints, &addrs);
	if (rc != 0)
	{
		listen_failed(state, ERRCODE_CONFIG_FILE_ERROR,
					  psprintf("could not translate host name \"%s\" to address: %s",
							   name, gai_strerror(rc)));
		return false;
	}
	for (struct addrinfo *addr = addrs; ok && addr; addr = addr->ai_next)
		ok = listen_on_address(state, addr);
	freeaddrinfo(addrs);
	return ok;
}

/* See gatewayproc.h */
int
gateway_listen(const char *addresses, int port, ListenMode mode,
			   int *fds, int max, char **why, int *errcode)
{
	ListenState state = {.fds = fds,.max = max,.mode = mode};
	char	   *copy = pstrdup(addresses);
	List	   *names;
	ListCell   *cell;
	bool		ok = true;

	*why = NULL;
	*errcode = 0;
	if (!SplitGUCList(copy, ',', &names))
		names = NIL;			/* the setting's check hook was here before */
	foreach(cell, names)
	{
		ok = listen_on_name(&state, lfirst(cell), port);
		if (!ok)
			break;
	}
	list_free(names);
	pfree(copy);

	if (!ok)
		gateway_unlisten(fds, state.nfds);
	if (!ok || state.nfds == 0)
	{
		*why = state.why;
		*errcode = state.errcode;
		return 0;
	}
	if (state.why)
		pfree(state.why);
	return state.nfds;
}

void
gateway_unlisten(int *fds, int nfds)
{
	for (int i = 0; i < nfds; i++)
	{
		close(fds[i]);
		ReleaseExternalFD();
		fds[i] = -1;
	}
}

/*------------------------------ starting --------------------------------*/

/* Milliseconds to the next start after so many short lives in a row */
static int
respawn_ms(int failures)
{
	static const int delays[] = {0, 50, 200, 500, 1000, 2000, 5000, 10000};

	return delays[Min(Max(failures, 1), (int) lengthof(delays)) - 1];
}

static void
schedule_respawn(GatewayProc *gateway)
{
	if (gateway->started != 0 && clock_passed(gateway->started, STABLE_MS))
		gateway->failures = 0;
	gateway->failures++;
	gateway->respawn_at = clock_in(respawn_ms(gateway->failures));
}

/* rtsync-gateway is installed beside the server. */
static void
gateway_path(char *path)
{
	strlcpy(path, my_exec_path, MAXPGPATH);
	get_parent_directory(path);
	join_path_components(path, path, GATEWAY_PROGRAM);
}

/*
 * Duplicates of the descriptors to hand over, all of them above the numbers
 * that they are to get, so that none is overwritten by another on the way.
 */
static bool
duplicate_fds(const int *fds, int nfds, int *copies)
{
	int			lowest = LINK_FD + nfds;

	for (int i = 0; i < nfds; i++)
	{
		copies[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, lowest);
		if (copies[i] < 0)
		{
			int			save_errno = errno;

			while (--i >= 0)
				close(copies[i]);
			errno = save_errno;
			return false;
		}
	}
	return true;
}

/* Descriptors of the new process: fds from LINK_FD on, standard error as ours */
static int
fill_file_actions(posix_spawn_file_actions_t * actions, const int *fds, int nfds)
{
	int			rc;

	rc = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null",
										  O_RDONLY, 0);
	if (rc == 0)
		rc = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO,
											  "/dev/null", O_WRONLY, 0);
	for (int i = 0; rc == 0 && i < nfds; i++)
		rc = posix_spawn_file_actions_adddup2(actions, fds[i], LINK_FD + i);

	/* the postmaster's death pipe, data files, and all other things */
	if (rc == 0)
		rc = posix_spawn_file_actions_addclosefrom_np(actions, LINK_FD + nfds);
	return rc;
}

/* No signal blocked or ignored, own process group */
static int
fill_attributes(posix_spawnattr_t * attr)
{
	sigset_t	none,
				all;
	int			rc;

	sigemptyset(&none);
	sigfillset(&all);
	rc = posix_spawnattr_setsigmask(attr, &none);
	if (rc == 0)
		rc = posix_spawnattr_setsigdefault(attr, &all);
	if (rc == 0)
		rc = posix_spawnattr_setpgroup(attr, 0);
	if (rc == 0)
		rc = posix_spawnattr_setflags(attr,
									  POSIX_SPAWN_SETSIGMASK |
									  POSIX_SPAWN_SETSIGDEF |
									  POSIX_SPAWN_SETPGROUP);
	return rc;
}

/* Start the program; returns an errno value, 0 for success. */
static int
spawn_program(const char *path, const int *fds, int nfds, pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	char	   *argv[] = {GATEWAY_PROGRAM, NULL};
	char	   *envp[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", NULL};
	int			rc;

	rc = posix_spawn_file_actions_init(&actions);
	if (rc != 0)
		return rc;
	rc = posix_spawnattr_init(&attr);
	if (rc == 0)
	{
		rc = fill_file_actions(&actions, fds, nfds);
		if (rc == 0)
			rc = fill_attributes(&attr);
		if (rc == 0)
			rc = posix_spawn(pid, path, &actions, &attr, argv, envp);
		posix_spawnattr_destroy(&attr);
	}
	posix_spawn_file_actions_destroy(&actions);
	return rc;
}

/* Start the program with these descriptors; logs what fails. */
static bool
start_program(const int *fds, int nfds, pid_t *pid)
{
	char		path[MAXPGPATH];
	int			copies[1 + GATEWAY_MAX_LISTEN];
	int			rc;

	if (!duplicate_fds(fds, nfds, copies))
	{
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not duplicate a descriptor for the rtsync gateway: %m")));
		return false;
	}

	gateway_path(path);
	rc = spawn_program(path, copies, nfds, pid);
	for (int i = 0; i < nfds; i++)
		close(copies[i]);
	if (rc != 0)
	{
		errno = rc;
		ereport(WARNING,
				(errcode_for_file_access(),
				 errmsg("could not start \"%s\": %m", path),
				 rc == ENOENT ?
				 errhint("The program is part of rtsync's installation.") : 0));
		return false;
	}
	return true;
}

/* waitpid that waits for a moment only */
static pid_t
wait_for_process(pid_t pid, int *status, int attempts)
{
	for (;;)
	{
		pid_t		rc = waitpid(pid, status, WNOHANG);

		if (rc < 0 && errno == EINTR)
			continue;
		if (rc != 0 || --attempts <= 0)
			return rc;
		pg_usleep(1000);
	}
}

/*
 * on_proc_exit callback: see the gateways off, so that whoever starts next
 * finds the port free.  Each has been told to end, or sees now that its link is closed.
 * PostgreSQL's part of this process has ended by now; only the process remains.
 */
static void
exit_cb(int code, Datum arg)
{
	int			attempts = EXIT_ATTEMPTS;

	for (GatewayProc *gateway = known_gateways; gateway != NULL;
		 gateway = gateway->next_known)
		if (gateway->pid != 0)
			close(gateway->link_fd);
	for (GatewayProc *gateway = known_gateways; gateway != NULL;
		 gateway = gateway->next_known)
	{
		int			status;

		if (gateway->pid == 0)
			continue;
		if (wait_for_process(gateway->pid, &status, attempts) == 0)
		{
			kill(gateway->pid, SIGKILL);
			(void) wait_for_process(gateway->pid, &status, REAP_ATTEMPTS);
			attempts = 1;		/* all have had the same time */
		}
	}
}

/* See gatewayproc.h */
bool
gateway_spawn(GatewayProc *gateway, int *link_fd,
			  const int *listen_fds, int nlisten)
{
	int			pair[2];
	int			fds[1 + GATEWAY_MAX_LISTEN];
	bool		started;

	Assert(gateway->pid == 0);
	Assert(nlisten <= GATEWAY_MAX_LISTEN);

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
				   pair) < 0)
	{
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not create a socket pair for the rtsync gateway: %m")));
		schedule_respawn(gateway);
		return false;
	}

	fds[0] = pair[1];
	memcpy(&fds[1], listen_fds, sizeof(int) * nlisten);
	started = start_program(fds, 1 + nlisten, &gateway->pid);
	close(pair[1]);
	if (!started)
	{
		close(pair[0]);
		gateway->pid = 0;
		schedule_respawn(gateway);
		return false;
	}
	gateway->started = clock_now();
	gateway->link_fd = pair[0];
	if (!gateway->known)
	{
		if (known_gateways == NULL)
			on_proc_exit(exit_cb, (Datum) 0);
		gateway->next_known = known_gateways;
		known_gateways = gateway;
		gateway->known = true;
	}
	*link_fd = pair[0];
	return true;
}

/*------------------------------ ending ----------------------------------*/

/* See gatewayproc.h */
bool
gateway_reap(GatewayProc *gateway, bool expected)
{
	int			status;
	pid_t		rc;

	if (gateway->pid == 0)
		return false;
	rc = wait_for_process(gateway->pid, &status,
						  expected ? 1 : REAP_ATTEMPTS);
	if (rc == 0)
		return false;

	if (rc > 0 && !expected)
	{
		char	   *how = wait_result_to_str(status);

		ereport(LOG,
				(errmsg("rtsync gateway (PID %d) has ended: %s",
						(int) gateway->pid, how)));
		pfree(how);
	}
	gateway->pid = 0;
	schedule_respawn(gateway);
	return true;
}

/* See gatewayproc.h */
long
gateway_respawn_delay(const GatewayProc *gateway)
{
	return clock_ms_until(gateway->respawn_at);
}

/* See gatewayproc.h */
void
gateway_kill(GatewayProc *gateway)
{
	if (gateway->pid != 0)
		kill(gateway->pid, SIGKILL);
}
