/*-------------------------------------------------------------------------
 *
 * send_loop.c
 *	  What a gateway cannot do without: one send() of the same bytes to each
 *	  of its sockets.
 *
 *	send_loop CONNECTIONS BYTES
 *
 * Listens on a free loopback port and prints it, accepts that many
 * connections, and sends that many bytes to each whenever a byte arrives at
 * its standard input.
 *
 *-------------------------------------------------------------------------
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void
fail(const char *what)
{
	perror(what);
	exit(1);
}

static int
listen_on_loopback(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t	length = sizeof(address);
	int			listener = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (listener < 0 ||
		bind(listener, (struct sockaddr *) &address, sizeof(address)) < 0 ||
		listen(listener, 1024) < 0 ||
		getsockname(listener, (struct sockaddr *) &address, &length) < 0)
		fail("could not listen");
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	return listener;
}

int
main(int argc, char **argv)
{
	int			n = argc == 3 ? atoi(argv[1]) : 0;
	int			bytes = argc == 3 ? atoi(argv[2]) : 0;
	int			listener;
	int		   *sockets;
	char	   *data;
	char		command;

	if (n <= 0 || bytes <= 0)
	{
		fprintf(stderr, "usage: send_loop CONNECTIONS BYTES\n");
		return 2;
	}
	sockets = calloc(n, sizeof(int));
	data = malloc(bytes);
	if (sockets == NULL || data == NULL)
		fail("out of memory");
	memset(data, 'x', bytes);

	listener = listen_on_loopback();
	for (int i = 0; i < n; i++)
	{
		int			one = 1;

		sockets[i] = accept(listener, NULL, NULL);
		if (sockets[i] < 0)
			fail("could not accept");
		setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	}
	while (read(STDIN_FILENO, &command, 1) == 1)
		for (int i = 0; i < n; i++)
			if (send(sockets[i], data, bytes, MSG_NOSIGNAL) != bytes)
				fail("could not send");
	return 0;
}
