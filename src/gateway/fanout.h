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

extern void fanout_subscribe(Binding *binding, uint32_t group);
extern void fanout_unsubscribe(Binding *binding);
extern void fanout_prefetch(const uint32_t *numbers, size_t n);
extern void fanout_change(LinkReader *groups, uint32_t n_groups, Slice data,
						  Slice cursor);
extern void fanout_transaction_end(LinkReader *groups, uint32_t n_groups,
								   Slice cursor);
extern void fanout_rows(LinkReader *groups, uint32_t n_groups,
						const PhoenixRows *rows);

#endif							/* GATEWAY_FANOUT_H */
