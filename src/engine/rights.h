/*-------------------------------------------------------------------------
 *
 * rights.h
 *	  What channels may do, and for how long.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_RIGHTS_H
#define RTSYNC_RIGHTS_H

#include "engine/subscription.h"
#include "engine/token.h"

/* Without any of these, a channel cannot be joined. */
#define RIGHTS_TO_READ (LINK_MAY_READ_BROADCAST | LINK_MAY_READ_PRESENCE)

extern void rights_init(void);
extern void rights_set_token(Channel *channel, const Token *token);
extern void rights_set(Channel *channel);
extern bool rights_set_again(Channel *channel);
extern void rights_changed(void);
extern void rights_recheck(void);
extern void rights_check_expiry(void);

#endif							/* RTSYNC_RIGHTS_H */
