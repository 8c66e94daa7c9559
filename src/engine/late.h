/*-------------------------------------------------------------------------
 *
 * late.h
 *	  Channels that are behind the others.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_LATE_H
#define RTSYNC_LATE_H

#include "engine/subscription.h"

extern void late_begun(Channel *channel);
extern bool late_untold(Channel *channel);
extern void late_tell_dependencies(Channel *channel);
extern void late_pause(Channel *channel);
extern void late_continue(Channel *channel);
extern const char *late_resume(Channel *channel, const char *since);
extern void late_forget(Channel *channel);
extern bool late_run(Link *link);

#endif							/* RTSYNC_LATE_H */
