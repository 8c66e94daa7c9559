/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  The launcher: which databases have an engine, and when it starts.
 *
 * The launcher starts engine_main (engine.c) with the database's Oid as its
 * argument.  What engine_main must do, in this order:
 *
 *	- pqsignal(SIGHUP, SignalHandlerForConfigReload), pqsignal(SIGTERM, die),
 *	  BackgroundWorkerUnblockSignals();
 *	- if (!shared_engine_attach(dboid)) proc_exit(0);
 *	- BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
 *	- look for the extension: if it is not there, shared_engine_absent() and
 *	  proc_exit(0), else shared_engine_found();
 *	- if (!launcher_can_decode(...)), shared_engine_waiting(...) and
 *	  proc_exit(0);
 *	- create or acquire the slot, shared_engine_running(), and work.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_LAUNCHER_H
#define RTSYNC_LAUNCHER_H

#include "postgres.h"

#define ENGINE_FUNCTION "engine_main"
#define ENGINE_TYPE "rtsync engine"

extern void launcher_register(void);	/* from _PG_init */
extern PGDLLEXPORT void launcher_main(Datum main_arg);

/*
 * Can an engine decode with the slot named here (which need not exist yet)?
 * If not, says why in static strings for shared_engine_waiting.
 */
extern bool launcher_can_decode(const char *slot_name, int *sqlerrcode,
								const char **message, const char **hint);

#endif							/* RTSYNC_LAUNCHER_H */
