/*-------------------------------------------------------------------------
 *
 * frame.c
 *	  WebSocket frames as they leave (RFC 6455, section 5.2), built once.
 *
 * Pure.  A server's frames carry no mask, so the same bytes can go to every
 * receiver; we send each message as one final frame, without extensions.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/frame.h"

#include <stdlib.h>
#include <string.h>

#define FINAL 0x80

static size_t
header_size(size_t payload)
{
	return payload < 126 ? 2 : payload < 65536 ? 4 : 10;
}

static void
write_header(unsigned char *place, FrameKind kind, size_t payload)
{
	place[0] = (unsigned char) (FINAL | kind);
	if (payload < 126)
		place[1] = (unsigned char) payload;
	else if (payload < 65536)
	{
		place[1] = 126;
		place[2] = (unsigned char) (payload >> 8);
		place[3] = (unsigned char) payload;
	}
	else
	{
		place[1] = 127;
		for (int i = 0; i < 8; i++)
			place[2 + i] = (unsigned char) ((uint64_t) payload >> (56 - 8 * i));
	}
}

/*
 * Build a frame whose payload is the parts in a row.  The caller owns the one
 * reference.  Together the parts must stay below 4 GB, as all that comes over
 * the link does.
 */
Frame *
frame_build(FrameKind kind, const Slice *parts, size_t n_parts)
{
	size_t		payload = 0;
	size_t		header;
	Frame	   *frame;
	unsigned char *place;

	for (size_t i = 0; i < n_parts; i++)
		payload += parts[i].length;
	header = header_size(payload);
	frame = allocate(sizeof(Frame) + header + payload);
	frame->references = 1;
	frame->length = (uint32_t) (header + payload);
	write_header(frame->data, kind, payload);
	place = frame->data + header;
	for (size_t i = 0; i < n_parts; i++)
	{
		if (parts[i].length > 0)
			memcpy(place, parts[i].data, parts[i].length);
		place += parts[i].length;
	}
	return frame;
}

static unsigned char *
put_slice(unsigned char *place, Slice slice)
{
	if (slice.length > 0)
		memcpy(place, slice.data, slice.length);
	return place + slice.length;
}

/*
 * Build a frame for each of n middles, whose payload is that between "before"
 * and "behind".  Otherwise as frame_build.
 */
Frame *
frame_build_series(FrameKind kind, Slice before, const Slice *middles, size_t n,
				   Slice behind)
{
	size_t		around = before.length + behind.length;
	size_t		length = 0;
	Frame	   *frame;
	unsigned char *place;

	for (size_t i = 0; i < n; i++)
		length += header_size(around + middles[i].length) + around + middles[i].length;
	frame = allocate(sizeof(Frame) + length);
	frame->references = 1;
	frame->length = (uint32_t) length;
	place = frame->data;
	for (size_t i = 0; i < n; i++)
	{
		size_t		payload = around + middles[i].length;

		write_header(place, kind, payload);
		place = put_slice(place + header_size(payload), before);
		place = put_slice(place, middles[i]);
		place = put_slice(place, behind);
	}
	return frame;
}

/* A Close frame.  The reason is cut to what a control frame can hold. */
Frame *
frame_close(uint16_t code, const char *reason)
{
	char		code_bytes[2] = {(char) (code >> 8), (char) code};
	Slice		parts[2] = {{code_bytes, 2}, slice_of(reason)};

	if (parts[1].length > 123)
		parts[1].length = 123;
	return frame_build(FRAME_CLOSE, parts, 2);
}

Frame *
frame_share(Frame *frame)
{
	frame->references++;
	return frame;
}

void
frame_release(Frame *frame)
{
	if (frame != NULL && --frame->references == 0)
		free(frame);
}
