/*-------------------------------------------------------------------------
 *
 * hooks.h
 *	  What ordinary backends do for the engines.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_HOOKS_H
#define RTSYNC_HOOKS_H

extern void hooks_init(void);	/* from _PG_init */

#endif							/* RTSYNC_HOOKS_H */
