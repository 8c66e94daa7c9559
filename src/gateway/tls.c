/*-------------------------------------------------------------------------
 *
 * tls.c
 *	  TLS between a client's socket and a plain one that we read ourselves.
 *
 * Whoever reads a client's requests and messages, admission.c or the library,
 * reads a socket.  For a client that speaks TLS that is one end of a socket
 * pair, the plain one; this file holds the other, local one, and passes on what
 * arrives: what the client sent, decrypted, and what the reader writes,
 * encrypted.  Each way holds back what comes when the other side does not take
 * it, and passes on the end of the stream, of one half alone, too.
 *
 * Frames that are fanned out do not take that way: connection.c gives them to
 * tls_write, which encrypts at once.  So a delivered frame costs no more calls
 * than without TLS.  What the library writes itself (the 101, pongs, Close) are
 * whole frames as well, so the order between the two ways does not matter; only
 * the library's Close must be the last, and connection.c sees to that.
 *
 * The reader closes the plain end when it is done with it and then calls
 * tls_release.  What is unsent then has END_TIMEOUT to leave.  Before that, a
 * client's time is limited by the reader: a handshake that does not end is a
 * request that does not come.
 *
 *	client's socket ──SSL_read──▶ in ──▶ local ═ plain ──▶ the reader
 *	client's socket ◀─SSL_write── out ◀── local ═ plain ◀── the reader
 *	                              out ◀── tls_write
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/certificate.h"
#include "gateway/gateway.h"
#include "gateway/log.h"

#define PIECE 16384				/* what a TLS record holds at most */
#define PIECES_PER_TURN 4		/* from one client */
#define LOCAL_BUFFER 16384		/* SO_SNDBUF of our end */
#define HANDSHAKES_PER_TURN 16	/* they are the slowest thing that we do */
#define END_TIMEOUT 2000		/* ms */
#define MAX_ENDING 1024			/* that have it */

struct Tls
{
	SSL		   *ssl;
	int			fd;				/* the client's socket */
	int			local;			/* our end of the pair */
	uv_poll_t	network_poll;	/* of fd */
	uv_poll_t	local_poll;
	int			network_events; /* that are polled for now */
	int			local_events;
	int			n_handles;		/* that are not closed yet */
	struct Connection *connection;	/* to be told when "out" has left */

	Buffer		in;				/* decrypted, not taken by the reader */
	size_t		in_done;
	Buffer		out;			/* to be encrypted, not taken by the client */
	size_t		out_done;

	bool		established;
	bool		wants_write;	/* the handshake does */
	bool		client_done;	/* nothing more comes from the client */
	bool		reader_done;	/* nor from the reader */
	bool		goodbye_sent;	/* the client knows */
	bool		broken;			/* the client's socket is of no use */
	bool		released;		/* the reader has gone */
	uint64_t	deadline;		/* ms, in the list of those that end */
	ListLink	ending_link;
};

static void on_network(uv_poll_t *handle, int status, int events);
static void on_local(uv_poll_t *handle, int status, int events);

static TlsState *
state(void)
{
	return &gateway.tls;
}

void
tls_init(void)
{
	list_init(&state()->ending);
}

/*--------------------------- beginning and end --------------------------*/

static void
poll_for(uv_poll_t *poll, int *current, int wanted, uv_poll_cb callback)
{
	if (wanted == *current)
		return;
	*current = wanted;
	if (wanted == 0)
		uv_poll_stop(poll);
	else
		uv_poll_start(poll, wanted, callback);
}

/* Poll for what we can make use of. */
static void
update_polls(Tls *tls)
{
	int			network = 0;
	int			local = 0;

	if (!tls->broken && !tls->established)
		network = tls->wants_write ? UV_WRITABLE : UV_READABLE;
	else if (!tls->broken)
	{
		if (tls->in.length == 0 && !tls->client_done && !tls->released)
			network |= UV_READABLE;
		if (tls->out.length > 0)
			network |= UV_WRITABLE;
		if (tls->out.length == 0 && !tls->reader_done)
			local |= UV_READABLE;
	}
	if (tls->in.length > 0)
		local |= UV_WRITABLE;
	if (tls->released)
		local = 0;
	poll_for(&tls->network_poll, &tls->network_events, network, on_network);
	poll_for(&tls->local_poll, &tls->local_events, local, on_local);
}

static void
on_closed(uv_handle_t *handle)
{
	Tls		   *tls = handle->data;

	if (--tls->n_handles == 0)
		free(tls);
}

static void
end(Tls *tls)
{
	if (list_contains(&tls->ending_link))
		state()->n_ending--;
	list_remove(&tls->ending_link);
	uv_close((uv_handle_t *) &tls->network_poll, on_closed);
	uv_close((uv_handle_t *) &tls->local_poll, on_closed);
	SSL_free(tls->ssl);
	close(tls->fd);
	close(tls->local);
	buffer_release(&tls->in);
	buffer_release(&tls->out);
	tls->ssl = NULL;
	tls->fd = tls->local = -1;
}

/* The client's socket is of no use any more: let the reader know. */
static void
give_up(Tls *tls)
{
	tls->broken = true;
	buffer_release(&tls->in);
	buffer_release(&tls->out);
	tls->in_done = tls->out_done = 0;
	shutdown(tls->local, SHUT_RDWR);
}

/*
 * Speak TLS with the client at the socket, which is ours from now on.  *plain
 * becomes the socket that takes its place; when it is closed, or given away
 * for good, the result goes to tls_release.  NULL if that cannot be done; then
 * the socket is closed.
 */
Tls *
tls_open(int fd, int *plain)
{
	SSL_CTX    *context = certificate_context();
	SSL		   *ssl = context != NULL ? SSL_new(context) : NULL;
	int			size = LOCAL_BUFFER;
	int			pair[2];
	Tls		   *tls;

	if (ssl == NULL || SSL_set_fd(ssl, fd) != 1 ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0)
	{
		log_client("could not speak TLS: %s",
				   context == NULL ? "there is no certificate" : strerror(errno));
		SSL_free(ssl);
		close(fd);
		return NULL;
	}
	(void) setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	SSL_set_accept_state(ssl);
	tls = allocate_zero(sizeof(Tls));
	tls->ssl = ssl;
	tls->fd = fd;
	tls->local = pair[1];
	/* Sockets that are new cannot fail to be polled. */
	uv_poll_init(gateway.loop, &tls->network_poll, fd);
	uv_poll_init(gateway.loop, &tls->local_poll, tls->local);
	tls->network_poll.data = tls->local_poll.data = tls;
	tls->n_handles = 2;
	update_polls(tls);
	*plain = pair[0];
	return tls;
}

/*------------------------------- handshake ------------------------------*/

/* Take a step, unless others have had theirs in this turn. */
static void
shake_hands(Tls *tls)
{
	int			result;

	if (state()->handshakes >= HANDSHAKES_PER_TURN)
		return;					/* the socket stays readable */
	state()->handshakes++;
	ERR_clear_error();
	result = SSL_do_handshake(tls->ssl);
	if (result == 1)
	{
		tls->established = true;
		tls->wants_write = false;
		return;
	}
	switch (SSL_get_error(tls->ssl, result))
	{
		case SSL_ERROR_WANT_READ:
			tls->wants_write = false;
			break;
		case SSL_ERROR_WANT_WRITE:
			tls->wants_write = true;
			break;
		default:
			ERR_clear_error();
			give_up(tls);
	}
}

void
tls_end_turn(void)
{
	state()->handshakes = 0;
}

/*-------------------------- to the client's socket ----------------------*/

/* Say that nothing more will come. */
static void
say_goodbye(Tls *tls)
{
	if (tls->goodbye_sent || tls->broken || !tls->established)
		return;
	tls->goodbye_sent = true;
	ERR_clear_error();
	(void) SSL_shutdown(tls->ssl);
	ERR_clear_error();
	shutdown(tls->fd, SHUT_WR);
}

/*
 * Encrypt and send as much as the socket takes; the number of bytes that are
 * done with, all of them if the socket is broken.
 */
static size_t
encrypt(Tls *tls, const char *data, size_t length)
{
	size_t		done = 0;

	while (done < length && !tls->broken)
	{
		size_t		part = length - done > PIECE ? PIECE : length - done;
		size_t		written = 0;
		int			result;

		ERR_clear_error();
		result = SSL_write_ex(tls->ssl, data + done, part, &written);
		done += written;
		if (result == 1)
			continue;
		result = SSL_get_error(tls->ssl, result);
		if (result == SSL_ERROR_WANT_WRITE || result == SSL_ERROR_WANT_READ)
			return done;
		ERR_clear_error();
		give_up(tls);
	}
	return length;
}

/* Send what waits; its end may have to follow. */
static void
send_out(Tls *tls)
{
	Buffer	   *out = &tls->out;

	if (out->length > 0)
	{
		tls->out_done += encrypt(tls, out->data + tls->out_done,
								 out->length - tls->out_done);
		if (!tls->broken && tls->out_done < out->length)
			return;
		buffer_release(out);
		tls->out_done = 0;
	}
	if (tls->reader_done)
		say_goodbye(tls);
}

static bool
write_out(Tls *tls, const char *data, size_t length)
{
	if (tls->out.length == 0)
	{
		size_t		done = encrypt(tls, data, length);

		data += done;
		length -= done;
	}
	if (!tls->broken)
		buffer_append(&tls->out, data, length);
	return !tls->broken;
}

/*
 * Send whole frames to the client.  What its socket does not take is kept, and
 * counted by tls_unsent; connection_writable is called when it has left.
 * Returns false if the socket is broken.
 */
bool
tls_write(Tls *tls, const char *data, size_t length)
{
	bool		ok = !tls->broken && write_out(tls, data, length);

	update_polls(tls);
	return ok;
}

/* How many bytes the client's socket has not taken yet */
size_t
tls_unsent(const Tls *tls)
{
	return tls->out.length - tls->out_done;
}

/* The client's socket, to be asked about the client */
int
tls_fd(const Tls *tls)
{
	return tls->fd;
}

/* Tell the connection when there is room again; NULL: nobody any more. */
void
tls_attach(Tls *tls, struct Connection *connection)
{
	tls->connection = connection;
}

/* Take what the reader has written, a piece of it unless "all" is wanted. */
static void
read_local(Tls *tls, bool all)
{
	static char piece[PIECE];
	ssize_t		received;

	do
	{
		received = recv(tls->local, piece, sizeof(piece), MSG_DONTWAIT);
		if (received > 0)
			write_out(tls, piece, (size_t) received);
	} while (all && received > 0 && !tls->broken);
	if (received == 0 ||
		(received < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
	{
		tls->reader_done = true;
		send_out(tls);
	}
}

/*------------------------------ to the reader ---------------------------*/

/* Pass on what was received, then the end of it. */
static void
send_in(Tls *tls)
{
	Buffer	   *in = &tls->in;

	while (tls->in_done < in->length)
	{
		ssize_t		sent = send(tls->local, in->data + tls->in_done,
								in->length - tls->in_done,
								MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (sent < 0)
			break;				/* the reader wants no more of it */
		tls->in_done += (size_t) sent;
	}
	buffer_release(in);
	tls->in_done = 0;
	if (tls->client_done)
		shutdown(tls->local, SHUT_WR);
}

static void
read_network(Tls *tls)
{
	static char piece[PIECE];

	for (int i = 0; i < PIECES_PER_TURN && tls->in.length == 0; i++)
	{
		int			received;

		ERR_clear_error();
		received = SSL_read(tls->ssl, piece, sizeof(piece));
		if (received > 0)
		{
			buffer_append(&tls->in, piece, (size_t) received);
			send_in(tls);
			continue;
		}
		switch (SSL_get_error(tls->ssl, received))
		{
			case SSL_ERROR_WANT_READ:
			case SSL_ERROR_WANT_WRITE:
				return;
			case SSL_ERROR_ZERO_RETURN:
				tls->client_done = true;
				send_in(tls);
				return;
			default:
				ERR_clear_error();
				give_up(tls);
				return;
		}
	}
}

/*-------------------------------- events --------------------------------*/

static void
on_network(uv_poll_t *handle, int status, int events)
{
	Tls		   *tls = handle->data;
	bool		had_unsent = tls->out.length > 0;

	if (status < 0)
		give_up(tls);
	if (!tls->broken && !tls->established)
		shake_hands(tls);
	if ((events & UV_WRITABLE) && tls->established)
		send_out(tls);
	if ((events & UV_READABLE) && tls->established && !tls->broken &&
		!tls->client_done && !tls->released)
		read_network(tls);
	if (tls->released && (tls->broken || tls->out.length == 0))
	{
		end(tls);
		return;
	}
	update_polls(tls);
	if (had_unsent && tls->out.length == 0 && tls->connection != NULL)
		connection_writable(tls->connection);
}

static void
on_local(uv_poll_t *handle, int status, int events)
{
	Tls		   *tls = handle->data;

	(void) status;				/* the calls tell */
	if (events & UV_WRITABLE)
		send_in(tls);
	if ((events & UV_READABLE) && !tls->reader_done && !tls->broken &&
		tls->out.length == 0)
		read_local(tls, false);
	update_polls(tls);
}

/*
 * The reader has closed the plain end.  What it wrote before, and what else is
 * unsent, has a moment to leave.
 */
void
tls_release(Tls *tls)
{
	if (tls == NULL)
		return;
	tls->connection = NULL;
	tls->released = true;
	if (!tls->broken && tls->established && !tls->reader_done)
		read_local(tls, true);
	tls->reader_done = true;
	if (!tls->broken && tls->established && tls->out.length == 0)
		say_goodbye(tls);
	if (tls->broken || tls->out.length == 0 || state()->n_ending >= MAX_ENDING)
	{
		end(tls);
		return;
	}
	tls->deadline = uv_now(gateway.loop) + END_TIMEOUT;
	list_append(&state()->ending, &tls->ending_link);
	state()->n_ending++;
	update_polls(tls);
}

/* End those whose client did not take the rest in time. */
void
tls_check_timeouts(void)
{
	ListLink   *link;

	while ((link = list_first(&state()->ending)) != NULL &&
		   LIST_OWNER(Tls, ending_link, link)->deadline <= uv_now(gateway.loop))
		end(LIST_OWNER(Tls, ending_link, link));
}
