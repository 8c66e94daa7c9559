/*-------------------------------------------------------------------------
 *
 * socket.h
 *	  What a socket says about its peer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_SOCKET_H
#define GATEWAY_SOCKET_H

#include <stdbool.h>
#include <stdint.h>

extern bool socket_is_readable(int fd);
extern bool socket_is_writable(int fd);
extern uint64_t socket_acknowledged_bytes(int fd);

#endif							/* GATEWAY_SOCKET_H */
