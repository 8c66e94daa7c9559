/*-------------------------------------------------------------------------
 *
 * rtsync.c
 *	  Where the library is loaded.
 *
 * The library comes into three kinds of processes.  With
 * shared_preload_libraries, into the postmaster and so into every process:
 * then rtsync serves.  As an output plugin, into whoever decodes with it, and
 * by a C function, into a backend: without preloading, these get the settings
 * and nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "engine/hooks.h"
#include "engine/launcher.h"
#include "engine/settings.h"
#include "engine/shared.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	settings_define();

	if (!process_shared_preload_libraries_in_progress)
		return;

	shared_init();
	hooks_init();
	launcher_register();
}
