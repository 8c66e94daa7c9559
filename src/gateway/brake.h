/*-------------------------------------------------------------------------
 *
 * brake.h
 *	  Holding back refusals for a while.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_BRAKE_H
#define GATEWAY_BRAKE_H

#include <uv.h>

#include "gateway/frame.h"
#include "gateway/list.h"

struct Connection;

typedef struct Brake
{
	uv_timer_t	timer;
	List		held_back;		/* by the time they are due */
} Brake;

extern void brake_init(void);
extern void brake_hold(struct Connection *connection, Frame *frame);
extern void brake_forget(struct Connection *connection);

#endif							/* GATEWAY_BRAKE_H */
