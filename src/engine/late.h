/*-------------------------------------------------------------------------
 *
 * late.h
 *	  Channels that are behind the others.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_LATE_H
#define RTSYNC_LATE_H

#include "engine/cursor.h"
#include "engine/subscription.h"

extern void late_begun(Channel *channel);
extern bool late_untold(Channel *channel);
extern bool late_is_owed(Channel *channel);
extern void late_tell_dependencies(Channel *channel);
extern void late_pause(Channel *channel);
extern void late_continue(Channel *channel);
extern const Refetch *late_resume(Channel *channel, const char *since,
								  uint64 *access);
extern uint64 late_cursor_access(Channel *channel);
extern const Refetch *late_resume_at(Channel *channel, const Cursor *from);
extern void late_abandon(Channel *channel);
extern void late_cursor(const Channel *channel, Cursor *cursor);
extern bool late_access_signature(const Channel *channel, uint64 *signature);
extern void late_follow(Channel *channel);
extern void late_throttle(Channel *channel);
extern long late_delay(void);
extern void late_forget(Channel *channel);
extern bool late_run(void);

#endif							/* RTSYNC_LATE_H */
