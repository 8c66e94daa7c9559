/*-------------------------------------------------------------------------
 *
 * standalone.h
 *	  What the pure modules need of the server, without a server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_STANDALONE_H
#define RTSYNC_STANDALONE_H

extern void memory_reset(void);

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif							/* RTSYNC_STANDALONE_H */
