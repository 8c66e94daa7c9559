/*-------------------------------------------------------------------------
 *
 * keyring.h
 *	  The secret and the keys that tokens are verified with.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_KEYRING_H
#define RTSYNC_KEYRING_H

#include "postgres.h"

#include "engine/jwk.h"

extern JwkVerdict keyring_verify(const Jwt *jwt, uint64 *number);

/* The settings or the files have changed: read them, in a transaction */
extern void keyring_reload(void);

#endif							/* RTSYNC_KEYRING_H */
