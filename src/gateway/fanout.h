/*-------------------------------------------------------------------------
 *
 * fanout.h
 *	  Who receives which change.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_FANOUT_H
#define GATEWAY_FANOUT_H

#include "gateway/channel.h"
#include "gateway/table.h"

typedef struct Fanout
{
	Table		groups;
	uint64_t	change;			/* number of the change being sent */
	Channel   **hits;			/* the channels that it is for */
	size_t		n_hits;
	size_t		hits_capacity;
} Fanout;

/* Groups of one call of fanout_prefetch */
#define FANOUT_PREFETCH 64

/*
 * A change, as LINK_EVENT tells it: what "groups" and "awaiting" are at has been
 * checked.  "cursor" is its place in the history, for the channels that want it,
 * and "before" that of the change before, for those of them that it has not
 * come to in all its forms.
 */
typedef struct FanoutChange
{
	uint32_t	n_groups;
	LinkReader	groups;
	Slice		data;			/* JSON text of the message's "data" */
	Slice		cursor;
	Slice		before;
	uint32_t	n_awaiting;
	LinkReader	awaiting;
} FanoutChange;

extern void fanout_subscribe(Binding *binding, uint32_t group);
extern void fanout_unsubscribe(Binding *binding);
extern void fanout_prefetch(const uint32_t *numbers, size_t n);
extern void fanout_change(FanoutChange *change);
extern void fanout_transaction_end(LinkReader *groups, uint32_t n_groups,
								   Slice cursor);
extern void fanout_rows(LinkReader *groups, uint32_t n_groups,
						const PhoenixRows *rows);

#endif							/* GATEWAY_FANOUT_H */
