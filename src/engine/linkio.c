/*-------------------------------------------------------------------------
 *
 * linkio.c
 *	  The engine's end of the link to its gateway.
 *
 * The socket never blocks: what the gateway does not take stays in the out
 * buffer, and route.c stops while that is large.  What the gateway sends is
 * not trusted: a message that is too long or malformed breaks the link, and
 * the engine starts another gateway.
 *
 * Used by engine.c (socket), subscription.c and route.c (messages).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "engine/clock.h"
#include "engine/linkio.h"

#define RECEIVE_SIZE ((Size) 64 * 1024)
#define KEEP_IN ((Size) 1024 * 1024)

/* A larger out buffer is given back when it is empty. */
#define KEEP_OUT ((Size) 8 * 1024 * 1024)

/* A turn of handling messages ends after this time, so that routing gets its
 * own; one message can take many times as long as another. */
#define TURN_MS 20

/*
 * For a LinkWriter's grow: memory of the context, which may be huge, of "least"
 * bytes at first.  Raises an error if there is none.
 */
bool
linkio_grow(LinkWriter *writer, size_t size, MemoryContext context, size_t least)
{
	size_t		capacity = Max(writer->capacity, least);

	while (capacity < size)
		capacity *= 2;
	if (writer->data == NULL)
		writer->data = MemoryContextAllocHuge(context, capacity);
	else
		writer->data = repalloc_huge(writer->data, capacity);
	writer->capacity = capacity;
	return true;
}

static bool
grow_out(LinkWriter *writer, size_t size)
{
	Link	   *link = (Link *) ((char *) writer - offsetof(Link, out));

	return linkio_grow(writer, size, link->context, 8192);
}

/* Take over a connected socket. */
Link *
linkio_open(pgsocket sock)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "rtsync link",
												  ALLOCSET_DEFAULT_SIZES);
	Link	   *link = MemoryContextAllocZero(context, sizeof(Link));

	link->context = context;
	link->sock = sock;
	link->out.grow = grow_out;
	link->max_body = LINK_MAX_TO_ENGINE;
	link->in_capacity = RECEIVE_SIZE;
	link->in = MemoryContextAlloc(context, link->in_capacity);
	return link;
}

/* Close the socket and free everything. */
void
linkio_close(Link *link)
{
	close(link->sock);
	MemoryContextDelete(link->context);
}

/* Finish the message in "out"; a message that cannot be sent is an error. */
void
linkio_end(Link *link)
{
	if (!link_end(&link->out))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("message to the gateway is too large")));
}

/* Convert to UTF-8; NULL if that cannot be done, or not now. */
static const char *
try_convert(const char *text, int length, int encoding)
{
	int			size;
	char	   *result;
	Oid			function;

	if (encoding == PG_SQL_ASCII)
		return pg_verify_mbstr(PG_UTF8, text, length, true) ? text : NULL;
	if (!IsTransactionState() || length > MaxAllocSize / MAX_CONVERSION_GROWTH - 1)
		return NULL;
	function = FindDefaultConversionProc(encoding, PG_UTF8);
	if (!OidIsValid(function))
		return NULL;
	size = length * MAX_CONVERSION_GROWTH + 1;
	result = palloc(size);
	if (pg_do_encoding_conversion_buf(function, encoding, PG_UTF8,
									  (unsigned char *) unconstify(char *, text),
									  length, (unsigned char *) result,
									  size, true) != length)
		return NULL;
	return result;
}

/*
 * Put a string of ours, in the server's encoding, into the message in "out".
 * Raises no error, since nobody would complete the message then: of what has
 * no form in UTF-8, or cannot be converted because there is no transaction,
 * only ASCII gets through.
 */
void
linkio_put_text(Link *link, const char *text)
{
	int			encoding = GetDatabaseEncoding();

	if (text != NULL && encoding != PG_UTF8)
	{
		const char *converted = try_convert(text, strlen(text), encoding);

		if (converted == NULL)
		{
			char	   *copy = pstrdup(text);

			for (char *c = copy; *c != '\0'; c++)
				if (IS_HIGHBIT_SET(*c))
					*c = '?';
			converted = copy;
		}
		text = converted;
	}
	link_put_string(&link->out, text);
}

/* Bytes that the gateway has not taken yet */
Size
linkio_pending(const Link *link)
{
	return link->out.length - link->sent;
}

/* All is sent: what a burst took is not needed any more. */
static void
empty_out(Link *link)
{
	link->out.length = link->sent = 0;
	if (link->out.capacity <= KEEP_OUT)
		return;
	pfree(link->out.data);
	link->out.data = NULL;
	link->out.capacity = 0;
}

/* Send what the socket takes. */
void
linkio_flush(Link *link)
{
	while (!link->broken && linkio_pending(link) > 0)
	{
		ssize_t		n = send(link->sock, link->out.data + link->sent,
							 linkio_pending(link), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0)
		{
			link->sent += n;
			link->stuck_since = 0;
		}
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			break;
		else if (errno != EINTR)
			link->broken = true;
	}
	if (linkio_pending(link) == 0)
		link->stuck_since = 0;
	else if (link->stuck_since == 0)
		link->stuck_since = clock_now();

	if (link->sent == link->out.length)
		empty_out(link);
	else if (link->sent > link->out.capacity / 2)
	{
		memmove(link->out.data, link->out.data + link->sent,
				linkio_pending(link));
		link->out.length -= link->sent;
		link->sent = 0;
	}
}

/* Has the gateway taken nothing of what there is for it for so long? */
bool
linkio_stuck(const Link *link, int ms)
{
	return link->stuck_since != 0 && clock_passed(link->stuck_since, ms);
}

/*
 * Hand on the whole messages in the in buffer; false if the time was up before
 * the last of them.
 */
static bool
dispatch(Link *link, LinkHandler handler, ClockTime until)
{
	Size		done = 0;
	LinkHeader	header;
	int			state;

	while ((state = link_next_message(link->in + done, link->in_length - done,
									  link->max_body, &header)) == 1 &&
		   clock_now() < until && !link->broken)
	{
		LinkReader	body;

		link_read(&body, link->in + done + sizeof(LinkHeader), header.length);
		handler(link, (LinkType) header.type, &body);
		done += sizeof(LinkHeader) + header.length;
	}
	if (state < 0)
		link->broken = true;
	link->in_length -= done;
	memmove(link->in, link->in + done, link->in_length);
	return state != 1;
}

/* Make room behind what is in the in buffer, and none that is not needed. */
static void
reserve_in(Link *link)
{
	if (link->in_capacity - link->in_length < RECEIVE_SIZE ||
		(link->in_length == 0 && link->in_capacity > KEEP_IN))
	{
		link->in_capacity = link->in_length + RECEIVE_SIZE;
		link->in = repalloc_huge(link->in, link->in_capacity);
	}
}

/*
 * Receive what is there and call the handler for each whole message; returns
 * true if this turn's allowance ended it, so that there may be more.  The
 * handler must not raise errors; it says that a message is malformed by
 * setting link->broken.
 */
bool
linkio_receive(Link *link, LinkHandler handler)
{
	ClockTime	until = clock_in(TURN_MS);
	bool		all_done = dispatch(link, handler, until);

	while (all_done && !link->broken)
	{
		ssize_t		n;

		reserve_in(link);
		n = recv(link->sock, link->in + link->in_length, RECEIVE_SIZE,
				 MSG_DONTWAIT);
		if (n > 0)
		{
			link->in_length += n;
			all_done = dispatch(link, handler, until);
			if (n < (ssize_t) RECEIVE_SIZE)
				break;
		}
		else if (n == 0)
			link->broken = true;
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			break;
		else if (errno != EINTR)
			link->broken = true;
	}
	return !all_done;
}

/*
 * A received string as a palloc'd C string in the server's encoding; NULL if
 * it is absent, contains a zero byte, or is not valid UTF-8.
 */
char *
linkio_cstring(LinkString string)
{
	if (string.data == NULL ||
		memchr(string.data, '\0', string.length) != NULL ||
		!pg_verify_mbstr(PG_UTF8, string.data, string.length, true))
		return NULL;
	if (GetDatabaseEncoding() != PG_UTF8)
	{
		char	   *copy = pnstrdup(string.data, string.length);

		return pg_any_to_server(copy, string.length, PG_UTF8);
	}
	return pnstrdup(string.data, string.length);
}
