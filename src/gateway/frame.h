/*-------------------------------------------------------------------------
 *
 * frame.h
 *	  WebSocket frames as they leave, built once and shared.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_FRAME_H
#define GATEWAY_FRAME_H

#include "gateway/memory.h"

typedef enum FrameKind
{
	FRAME_TEXT = 0x1,
	FRAME_BINARY = 0x2,
	FRAME_CLOSE = 0x8
} FrameKind;

/*
 * One frame, or a series of them, that leave together.  Never changed once
 * built; freed with its last reference.
 */
typedef struct Frame
{
	uint32_t	references;
	uint32_t	length;			/* of data */
	unsigned char data[];		/* header and payload */
} Frame;

extern Frame *frame_build(FrameKind kind, const Slice *parts, size_t n_parts);
extern Frame *frame_build_series(FrameKind kind, Slice before,
								 const Slice *middles, size_t n, Slice behind);
extern Frame *frame_close(uint16_t code, const char *reason);
extern Frame *frame_share(Frame *frame);
extern void frame_release(Frame *frame);

#endif							/* GATEWAY_FRAME_H */
