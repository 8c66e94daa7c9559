/*-------------------------------------------------------------------------
 *
 * peer.h
 *	  Where clients are, also behind proxies.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_PEER_H
#define GATEWAY_PEER_H

#include <sys/socket.h>

#include "gateway/request.h"

/* An IPv6 address, or one of IPv4 mapped into it; all zero: not known */
typedef struct PeerAddress
{
	unsigned char bytes[16];
} PeerAddress;

extern PeerAddress peer_of_socket(const struct sockaddr_storage *address);
extern bool peer_is_known(const PeerAddress *peer);
extern bool peer_is_ipv4(const PeerAddress *peer);
extern const char *peer_text(const PeerAddress *peer);
extern bool peer_parse(Slice text, PeerAddress *peer);
extern PeerAddress peer_behind_proxies(const PeerAddress *peer,
									   const Request *request,
									   const char *trusted_proxies);

#endif							/* GATEWAY_PEER_H */
