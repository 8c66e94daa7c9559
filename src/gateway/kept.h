/*-------------------------------------------------------------------------
 *
 * kept.h
 *	  Broadcasts that the engine is storing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_KEPT_H
#define GATEWAY_KEPT_H

#include "gateway/list.h"
#include "gateway/phoenix.h"
#include "gateway/topic.h"

typedef struct Kept
{
	ListLink	link;
	Room	   *room;
	uint64_t	number;
	PhoenixBroadcast broadcast; /* points into "bytes" */
	Buffer		bytes;
} Kept;

typedef struct KeptList
{
	List		all;			/* in the order in which they were sent */
	uint64_t	last_number;
} KeptList;

extern void kept_init(void);
extern void kept_add(Room *room, const PhoenixBroadcast *broadcast);
extern uint64_t kept_last(const Room *room);
extern const Kept *kept_next(const Kept *kept, const Room *room);
extern const Kept *kept_find(Slice id);
extern void kept_remove_to(const Kept *last);

#endif							/* GATEWAY_KEPT_H */
