/*-------------------------------------------------------------------------
 *
 * request.c
 *	  Fuzzing the request head, and what is answered to it.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "gateway/config.h"
#include "gateway/files.h"
#include "gateway/http.h"
#include "gateway/peer.h"
#include "gateway/request.h"

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool condition)
{
	if (!condition)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *head = (const char *) data;
	size_t		scanned = size / 2;
	size_t		length = request_head_length(head, size, &scanned);
	Config		config;
	Request		request;
	Buffer		buffer = {0};
	PeerAddress peer = {{0}};
	FilePath	file;

	if (length == 0)
		return 0;
	require(length <= size);
	if (!request_parse(head, length, &request))
		return 0;

	/* A path of a file is made of plain names. */
	if (files_path(request.path, &file))
		for (uint32_t i = 0; i < file.n_names; i++)
			require(file.names[i][0] != '.' && file.names[i][0] != '\0' &&
					strpbrk(file.names[i], "/\\%:~ ") == NULL);

	request_token(&request, &buffer);
	require(buffer.length <= length);
	buffer_release(&buffer);
	require(!request_is_handshake(&request) || request.websocket_key.length == 24);

	peer_parse(SLICE("10.0.0.1"), &peer);
	peer = peer_behind_proxies(&peer, &request, "10.0.0.0/8, 2001:db8::/32");
	require(peer_is_known(&peer) && strlen(peer_text(&peer)) > 0);

	/* A response is one head and a body, whatever the request held. */
	config_init(&config);
	config_set(&config, SLICE("allowed_origins"), SLICE("a, http://b"));
	http_answer(&request, &config, &buffer);
	require(memcmp(buffer.data, "HTTP/1.1 ", 9) == 0);
	require(memmem(buffer.data, buffer.length, "\r\n\r\n", 4) ==
			memmem(buffer.data, buffer.length, "\n\r\n", 3) - 1);
	buffer_release(&buffer);
	config_release(&config);
	return 0;
}
