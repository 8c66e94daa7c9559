/*-------------------------------------------------------------------------
 *
 * memory.h
 *	  Allocation that cannot fail, byte buffers, and slices of them.
 *
 * Everything that the network can make us keep is limited by its owner before
 * it is allocated.  What remains is small, so running out of memory here ends
 * the gateway: the engine starts a new one and the clients reconnect.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_MEMORY_H
#define GATEWAY_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that belong to somebody else; not terminated */
typedef struct Slice
{
	const char *data;
	size_t		length;
} Slice;

/* A growing buffer.  All zero is a valid empty one. */
typedef struct Buffer
{
	char	   *data;
	size_t		length;
	size_t		capacity;
} Buffer;

#define SLICE(literal) ((Slice) {(literal), sizeof(literal) - 1})

extern void *allocate(size_t size);
extern void *allocate_zero(size_t size);
extern void *reallocate(void *old, size_t size);
extern char *copy_bytes(const char *data, size_t length);

extern Slice slice_of(const char *string);
extern bool slice_equals(Slice slice, const char *string);
extern bool slice_equals_nocase(Slice slice, const char *string);

extern void buffer_reserve(Buffer *buffer, size_t more);
extern void buffer_append(Buffer *buffer, const char *data, size_t length);
extern void buffer_append_string(Buffer *buffer, const char *string);
extern void buffer_append_slice(Buffer *buffer, Slice slice);
extern void buffer_append_number(Buffer *buffer, uint64_t number);
extern void buffer_append_json_string(Buffer *buffer, Slice text);
extern void buffer_release(Buffer *buffer);
extern Slice buffer_slice(const Buffer *buffer);

#endif							/* GATEWAY_MEMORY_H */
