/*-------------------------------------------------------------------------
 *
 * gatewayproc.h
 *	  The gateway as a process: its listening sockets, its start, its end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_GATEWAYPROC_H
#define RTSYNC_GATEWAYPROC_H

#include "postgres.h"

#include <sys/types.h>

#include "engine/clock.h"

#define GATEWAY_MAX_LISTEN 16

/* Sockets that share a port do so with all of the same user: look first. */
typedef enum ListenMode
{
	LISTEN_ALONE,
	LISTEN_PROBE,				/* only find out whether the port is free */
	LISTEN_SHARED				/* the system spreads clients over the sockets */
} ListenMode;

/*
 * Open listening sockets for "addresses" (as PostgreSQL's listen_addresses: a
 * list of names and IP addresses, "*" for all).  Stores up to "max" sockets in
 * fds and returns their number.  The sockets stay open in the engine for as
 * long as it listens there, so that nobody is refused while a gateway starts.
 *
 * Returns 0 if it cannot listen; *why (palloc'd in the current context) is
 * then the reason, ready for an error message, and *errcode its SQLSTATE.
 * That may be a passing state (for some milliseconds, the gateway of an engine
 * that has just ended still holds the port): try again soon, and complain only
 * if it lasts.  An empty list of addresses returns 0 with *why NULL: listen
 * nowhere.  No ERROR but out of memory.
 */
extern int	gateway_listen(const char *addresses, int port, ListenMode mode,
						   int *fds, int max, char **why, int *errcode);
extern void gateway_unlisten(int *fds, int nfds);

/*
 * A gateway process as the engine sees it.  A static variable, zeroed before
 * the first use: when the engine's process ends, it looks here for a gateway
 * to see off.
 */
typedef struct GatewayProc
{
	pid_t		pid;			/* 0: none */
	ClockTime	started;
	ClockTime	respawn_at;		/* not before; 0: at once */
	int			failures;		/* consecutive short lives */
	int			link_fd;		/* of the running one; private */
	bool		known;			/* private, as is: */
	struct GatewayProc *next_known;
} GatewayProc;

/*
 * Start a gateway with its end of a new link as LINK_FD and the listening
 * sockets from LINK_LISTEN_FD on.  *link_fd receives the engine's end
 * (non-blocking, close-on-exec), which the caller closes.  The caller sends
 * LINK_HELLO.  Returns false, having logged why and set respawn_at, if it
 * cannot be started.  gateway->pid must be 0.
 */
extern bool gateway_spawn(GatewayProc *gateway, int *link_fd,
						  const int *listen_fds, int nlisten);

/*
 * Has the gateway ended?  If so, logs how unless "expected", sets pid to 0 and
 * respawn_at, and returns true.  To be called when the link has broken, with
 * "expected" false: that waits some milliseconds at most, for one that is just
 * about to end.  Then, after gateway_kill, in each turn of the loop with
 * "expected" true, which does not wait at all.
 */
extern bool gateway_reap(GatewayProc *gateway, bool expected);

/* Milliseconds until it may be started again: 0 now */
extern long gateway_respawn_delay(const GatewayProc *gateway);

/* SIGKILL, for one that does not end after its link was closed */
extern void gateway_kill(GatewayProc *gateway);

#endif							/* RTSYNC_GATEWAYPROC_H */
