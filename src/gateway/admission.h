/*-------------------------------------------------------------------------
 *
 * admission.h
 *	  Sockets from their accept to the verdict about their request.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_ADMISSION_H
#define GATEWAY_ADMISSION_H

#include <uv.h>

#include "gateway/list.h"
#include "gateway/memory.h"
#include "gateway/rate.h"
#include "gateway/table.h"

#define ADMISSION_MAX_LISTENERS 64
#define ADMISSION_MAX_PENDING 1024	/* sockets under admission at a time */

typedef struct Admission
{
	uv_poll_t	listeners[ADMISSION_MAX_LISTENERS];
	uint32_t	n_listeners;
	bool		accepting;
	uv_timer_t	resume_timer;	/* starts to accept again */
	uv_timer_t	deadline_timer;
	Table		waiting;		/* for the engine's verdict, by number */
	uint64_t	last_id;
	uint32_t	n_pending;
	size_t		body_bytes;		/* of bodies that we agreed to take */
	size_t		response_bytes; /* of long responses that wait */
	Rate		requests;		/* that broadcast */

	/* Lists of pending sockets, each by deadline */
	List		reading;		/* the request is being read */
	List		asking;			/* the engine was asked */
	List		receiving;		/* the body of a request is being read */
	List		delaying;		/* the refusal is held back */
	List		sending;		/* the rest of the answer waits for the client */
	List		lingering;		/* answered, until the client closes */
} Admission;

extern bool admission_start(int first_fd, uint32_t n_listeners);
extern void admission_accept(void);
extern void admission_stop(void);
extern void admission_verdict(uint64_t id, int status, Slice error,
							  uint64_t credential);
extern void admission_rest_verdict(uint64_t id, int status, uint8_t rights);

#endif							/* GATEWAY_ADMISSION_H */
