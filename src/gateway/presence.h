/*-------------------------------------------------------------------------
 *
 * presence.h
 *	  Who is there: what members of a channel tell about themselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_PRESENCE_H
#define GATEWAY_PRESENCE_H

#include <uv.h>

#include "gateway/config.h"
#include "gateway/list.h"
#include "gateway/phoenix.h"
#include "gateway/table.h"

struct Channel;

typedef struct Presences
{
	uv_timer_t	timer;
	List		changed;		/* rooms whose members are to be told */
	uint64_t	told_at;		/* when rooms were told last, ms */
	uint64_t	last_ref;
	List		tracked;		/* channels' metas */
	Table		remotes;		/* members on other gateways, by channel */
	List		elsewhere[GATEWAY_MAX_NUMBER + 1];	/* the same, by gateway */
} Presences;

/* What a member on another gateway says about itself; see LINK_TRACKED */
typedef struct RemoteMeta
{
	uint64_t	id;
	bool		is_private;
	Slice		topic;
	Slice		key;
	Slice		text;
	uint64_t	ref;
	uint64_t	previous_ref;
} RemoteMeta;

typedef enum PresenceResult
{
	PRESENCE_OK,
	PRESENCE_FAILED,
	PRESENCE_NOT_A_MAP,
	PRESENCE_TOO_LARGE,			/* the channel is to be closed, as for: */
	PRESENCE_TOO_OFTEN
} PresenceResult;

extern void presence_init(void);
extern void presence_enter(struct Channel *channel);
extern PresenceResult presence_push(struct Channel *channel,
									const PhoenixMessage *message);
extern void presence_rights_changed(struct Channel *channel, uint8_t before);
extern void presence_leave(struct Channel *channel);
extern void presence_tracked(const RemoteMeta *what);
extern void presence_untracked(uint64_t id);
extern void presence_gone(uint32_t number);
extern void presence_wanted(uint32_t number);

#endif							/* GATEWAY_PRESENCE_H */
