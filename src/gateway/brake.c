/*-------------------------------------------------------------------------
 *
 * brake.c
 *	  Holding back refusals for error_delay, against storms of retries.
 *
 * Clients answer a refused join with another join.  What is held back counts
 * against the connection's send queue; who has more than that refused at once
 * is disconnected.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/brake.h"

#include <stdlib.h>

#include "gateway/gateway.h"
#include "gateway/log.h"

typedef struct Refusal
{
	ListLink	due_link;		/* in Brake.held_back */
	ListLink	connection_link;	/* in Connection.held_back */
	Connection *connection;
	Frame	   *frame;
	uint64_t	due;			/* ms */
} Refusal;

static void on_timer(uv_timer_t *timer);

void
brake_init(void)
{
	uv_timer_init(gateway.loop, &gateway.brake.timer);
	list_init(&gateway.brake.held_back);
}

static void
free_refusal(Refusal *refusal)
{
	refusal->connection->held_back_bytes -=
		refusal->frame->length + sizeof(Refusal);
	list_remove(&refusal->due_link);
	list_remove(&refusal->connection_link);
	frame_release(refusal->frame);
	free(refusal);
}

static void
start_timer(void)
{
	ListLink   *link = list_first(&gateway.brake.held_back);
	uint64_t	now = uv_now(gateway.loop);
	uint64_t	due;

	if (link == NULL)
		return;
	due = LIST_OWNER(Refusal, due_link, link)->due;
	uv_timer_start(&gateway.brake.timer, on_timer, due > now ? due - now : 0, 0);
}

/* Send what is due. */
static void
on_timer(uv_timer_t *timer)
{
	ListLink   *link;

	(void) timer;
	while ((link = list_first(&gateway.brake.held_back)) != NULL)
	{
		Refusal    *refusal = LIST_OWNER(Refusal, due_link, link);

		if (refusal->due > uv_now(gateway.loop))
			break;
		connection_send(refusal->connection, refusal->frame);
		free_refusal(refusal);
	}
	start_timer();
}

/* Send the frame after the delay.  Takes over the caller's reference. */
void
brake_hold(Connection *connection, Frame *frame)
{
	Refusal    *refusal;
	size_t		bytes = frame->length + sizeof(Refusal);

	if (connection->close_code != 0 || gateway.config.error_delay == 0)
	{
		connection_send(connection, frame);
		frame_release(frame);
		return;
	}
	if (connection->held_back_bytes + bytes > gateway.config.send_queue_size)
	{
		frame_release(frame);
		log_client("closing the connection of %s: too many of its joins were refused",
				   peer_text(&connection->peer));
		connection_close(connection, 1001, "Too many joins per second");
		return;
	}
	refusal = allocate_zero(sizeof(Refusal));
	refusal->connection = connection;
	refusal->frame = frame;
	refusal->due = uv_now(gateway.loop) + gateway.config.error_delay;
	connection->held_back_bytes += bytes;
	list_append(&connection->held_back, &refusal->connection_link);
	list_append(&gateway.brake.held_back, &refusal->due_link);
	if (!uv_is_active((uv_handle_t *) &gateway.brake.timer))
		start_timer();
}

/* Drop what is held back for a connection that ends. */
void
brake_forget(Connection *connection)
{
	ListLink   *link;

	while ((link = list_first(&connection->held_back)) != NULL)
		free_refusal(LIST_OWNER(Refusal, connection_link, link));
}
