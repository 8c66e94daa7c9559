/*-------------------------------------------------------------------------
 *
 * socket.c
 *	  What a socket says about its peer.
 *
 * A file of its own because the kernel's <linux/tcp.h>, which alone knows the
 * number of acknowledged bytes, and <netinet/tcp.h>, which libuv includes,
 * exclude each other.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/socket.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

static bool
is_ready(int fd, short event)
{
	struct pollfd request = {fd, event, 0};

	return poll(&request, 1, 0) == 1 && (request.revents & event) != 0;
}

/* Are there bytes to be read now? */
bool
socket_is_readable(int fd)
{
	return is_ready(fd, POLLIN);
}

/* Does the socket take bytes now? */
bool
socket_is_writable(int fd)
{
	return is_ready(fd, POLLOUT);
}

/* How many bytes the peer has acknowledged since the connection began */
uint64_t
socket_acknowledged_bytes(int fd)
{
	struct tcp_info info = {0};
	socklen_t	length = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0)
		return 0;
	return info.tcpi_bytes_acked;
}
