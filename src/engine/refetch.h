/*-------------------------------------------------------------------------
 *
 * refetch.h
 *	  Why clients are told to read their rows again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_REFETCH_H
#define RTSYNC_REFETCH_H

/* Why a client is told to read its rows again */
typedef enum RefetchReason
{
	REFETCH_TRUNCATE,			/* TRUNCATE */
	REFETCH_DEPENDENCY,			/* rows that policies read */
	REFETCH_ACCESS,				/* policies, grants, columns */
	REFETCH_TABLE,				/* another table has its name now */
	REFETCH_OVERRUN,			/* it did not read in time */
	REFETCH_TOO_OLD,			/* its place is not in the history any more */
	REFETCH_EPOCH,				/* its place is in another history */
	REFETCH_CURSOR,				/* it named no place */
	REFETCH_SESSION,			/* its session cannot go on */
	REFETCH_SNAPSHOT,			/* its snapshot was not completed */
	REFETCH_WITHHELD,			/* its conditions took too much time, or what
								 * policies read was locked */
	REFETCH_UNDECODED,			/* a transaction that cannot be decoded */
	REFETCH_RETAINED,			/* the slot was given up */
	REFETCH_REASONS				/* how many there are */
} RefetchReason;

/* Why a client cannot go on where it was */
typedef struct Refetch
{
	RefetchReason reason;
	const char *message;
} Refetch;

#endif							/* RTSYNC_REFETCH_H */
