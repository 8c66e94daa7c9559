/*-------------------------------------------------------------------------
 *
 * apikey.h
 *	  Clients without a token of their own: opaque API keys, and nobody.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_APIKEY_H
#define RTSYNC_APIKEY_H

#include "postgres.h"

/* What all keys begin with; no JSON Web Token can */
#define APIKEY_PREFIX "sb_"

extern bool apikey_is_one(const char *data, Size length);
extern bool apikey_find(const char *data, Size length, uint64 *number,
						const char **rolename);
extern bool apikey_find_anonymous(uint64 *number, const char **rolename);

extern bool apikey_changed(void);
extern void apikey_find_revoked(void);

/* The settings have changed */
extern void apikey_settings_changed(void);

#endif							/* RTSYNC_APIKEY_H */
