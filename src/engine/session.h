/*-------------------------------------------------------------------------
 *
 * session.h
 *	  What clients that keep no cursor have certainly received.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_SESSION_H
#define RTSYNC_SESSION_H

#include "engine/cursor.h"
#include "engine/subscription.h"

extern uint64 session_claims(const Channel *channel);
extern void session_init(void);
extern void session_save(void);
extern void session_housekeeping(void);

extern const Refetch *session_join(Channel *channel, Cursor *from);
extern const Refetch *session_check(Channel *channel);
extern void session_heartbeat(Channel *channel);
extern void session_token(Channel *channel);
extern void session_leave(Channel *channel);

#endif							/* RTSYNC_SESSION_H */
