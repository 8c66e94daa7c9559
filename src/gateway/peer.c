/*-------------------------------------------------------------------------
 *
 * peer.c
 *	  Where clients are, also behind proxies.
 *
 * Pure.  A proxy adds the address that a request came to it from to the end of
 * the header X-Forwarded-For (or Forwarded, RFC 7239), behind what the client
 * may have written there itself.  So the list is read from its end: as long as
 * an address belongs to a proxy that we trust, what it says about where the
 * request came from counts; the first that does not is the client's.
 *
 * A proxy writes one of the two headers and passes the other on as the client
 * sent it.  When both are there and do not agree, neither counts.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "gateway/config.h"

static const unsigned char mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/*------------------------------- addresses ------------------------------*/

static PeerAddress
from_ipv4(const struct in_addr *address)
{
	PeerAddress peer;

	memcpy(peer.bytes, mapped_prefix, sizeof(mapped_prefix));
	memcpy(peer.bytes + sizeof(mapped_prefix), address, 4);
	return peer;
}

/* The peer's address, as accept says it */
PeerAddress
peer_of_socket(const struct sockaddr_storage *address)
{
	PeerAddress peer = {0};

	if (address->ss_family == AF_INET)
		return from_ipv4(&((const struct sockaddr_in *) address)->sin_addr);
	if (address->ss_family == AF_INET6)
		memcpy(peer.bytes, &((const struct sockaddr_in6 *) address)->sin6_addr, 16);
	return peer;
}

bool
peer_is_known(const PeerAddress *peer)
{
	static const PeerAddress none;

	return memcmp(peer, &none, sizeof(none)) != 0;
}

bool
peer_is_ipv4(const PeerAddress *peer)
{
	return memcmp(peer->bytes, mapped_prefix, sizeof(mapped_prefix)) == 0;
}

/* For the log; the text is valid until the next call. */
const char *
peer_text(const PeerAddress *peer)
{
	static char text[INET6_ADDRSTRLEN];

	if (!peer_is_known(peer))
		return "a client";
	if (peer_is_ipv4(peer))
		inet_ntop(AF_INET, peer->bytes + sizeof(mapped_prefix), text, sizeof(text));
	else
		inet_ntop(AF_INET6, peer->bytes, text, sizeof(text));
	return text;
}

/* Read "192.0.2.1" or "2001:db8::1". */
static bool
parse_bare(Slice text, PeerAddress *peer)
{
	char		copy[INET6_ADDRSTRLEN];
	struct in_addr ipv4;

	if (text.length == 0 || text.length >= sizeof(copy))
		return false;
	memcpy(copy, text.data, text.length);
	copy[text.length] = '\0';
	if (strlen(copy) != text.length)
		return false;
	if (inet_pton(AF_INET, copy, &ipv4) == 1)
	{
		*peer = from_ipv4(&ipv4);
		return true;
	}
	return inet_pton(AF_INET6, copy, peer->bytes) == 1;
}

/*
 * Read an address as proxies write it: perhaps in quotes, with a port or, of
 * IPv6, in brackets.  Returns false for names and all else.
 */
bool
peer_parse(Slice text, PeerAddress *peer)
{
	const char *end;

	if (text.length >= 2 && text.data[0] == '"' && text.data[text.length - 1] == '"')
		text = (Slice) {text.data + 1, text.length - 2};
	if (text.length > 0 && text.data[0] == '[')
	{
		end = memchr(text.data, ']', text.length);
		return end != NULL &&
			parse_bare((Slice) {text.data + 1, (size_t) (end - text.data - 1)}, peer) &&
			peer_is_known(peer);
	}
	end = text.length > 0 ? memchr(text.data, ':', text.length) : NULL;
	/* one colon: a port; several: IPv6 */
	if (end != NULL && memchr(end + 1, ':', (size_t) (text.data + text.length - end - 1)) == NULL)
		text.length = (size_t) (end - text.data);
	return parse_bare(text, peer) && peer_is_known(peer);
}

/*-------------------------------- proxies -------------------------------*/

/* Read "address" or "address/bits"; the bits count from the first of IPv6. */
static bool
parse_network(Slice text, PeerAddress *base, int *bits)
{
	const char *slash = memchr(text.data, '/', text.length);
	const char *end = text.data + text.length;

	if (slash != NULL)
		text.length = (size_t) (slash - text.data);
	if (!parse_bare(text, base))
		return false;
	*bits = 128;
	if (slash == NULL)
		return true;
	*bits = 0;
	if (slash + 1 == end || end - slash > 4)
		return false;
	while (++slash < end)
	{
		if (*slash < '0' || *slash > '9')
			return false;
		*bits = *bits * 10 + (*slash - '0');
	}
	if (memchr(text.data, ':', text.length) == NULL)
		*bits += 96;
	return *bits <= 128;
}

static bool
is_in(const PeerAddress *peer, Slice network)
{
	PeerAddress base;
	int			bits;

	if (!parse_network(network, &base, &bits))
		return false;
	for (int i = 0; i < bits; i += 8)
	{
		int			mask = bits - i >= 8 ? 0xff : (0xff << (8 - (bits - i))) & 0xff;

		if ((peer->bytes[i / 8] & mask) != (base.bytes[i / 8] & mask))
			return false;
	}
	return true;
}

static bool
is_trusted(const PeerAddress *peer, const char *trusted_proxies)
{
	Slice		network;

	while (config_next_element(&trusted_proxies, &network))
		if (is_in(peer, network))
			return true;
	return false;
}

static Slice
trim(Slice text)
{
	while (text.length > 0 && (text.data[0] == ' ' || text.data[0] == '\t'))
		text = (Slice) {text.data + 1, text.length - 1};
	while (text.length > 0 && (text.data[text.length - 1] == ' ' ||
							   text.data[text.length - 1] == '\t'))
		text.length--;
	return text;
}

/* Take what follows the last separator off the end; false if nothing is left. */
static bool
take_last(Slice *list, char separator, Slice *element)
{
	size_t		start = list->length;

	if (list->data == NULL)
		return false;
	while (start > 0 && list->data[start - 1] != separator)
		start--;
	*element = trim((Slice) {list->data + start, list->length - start});
	if (start == 0)
		list->data = NULL;
	else
		list->length = start - 1;
	return true;
}

/* The value of "for" in an element of Forwarded: for=192.0.2.60;proto=http */
static Slice
forwarded_for(Slice element)
{
	Slice		part;

	while (take_last(&element, ';', &part))
		if (part.length > 4 && slice_equals_nocase((Slice) {part.data, 4}, "for="))
			return (Slice) {part.data + 4, part.length - 4};
	return SLICE("");
}

/* Follow the lines of a header from the last, as far as those are trusted */
static PeerAddress
follow(PeerAddress peer, const RequestLines *lines, bool is_forwarded,
	   const char *trusted_proxies)
{
	for (uint32_t i = lines->count; i > 0; i--)
	{
		Slice		list = lines->values[i - 1];
		Slice		element;

		while (take_last(&list, ',', &element))
		{
			PeerAddress next;

			if (!is_trusted(&peer, trusted_proxies) ||
				!peer_parse(is_forwarded ? forwarded_for(element) : element, &next))
				return peer;
			peer = next;
		}
	}
	return peer;
}

/*
 * Where the client of this request is: the peer itself, unless that is one of
 * the trusted proxies (a list of addresses and networks, separated by commas)
 * and says otherwise.
 */
PeerAddress
peer_behind_proxies(const PeerAddress *peer, const Request *request,
					const char *trusted_proxies)
{
	PeerAddress by_x,
				by_forwarded;

	if (!is_trusted(peer, trusted_proxies))
		return *peer;
	by_x = follow(*peer, &request->x_forwarded_for, false, trusted_proxies);
	by_forwarded = follow(*peer, &request->forwarded, true, trusted_proxies);
	if (request->forwarded.count == 0)
		return by_x;
	if (request->x_forwarded_for.count > 0 &&
		memcmp(&by_x, &by_forwarded, sizeof(by_x)) != 0)
		return *peer;
	return by_forwarded;
}
