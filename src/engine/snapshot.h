/*-------------------------------------------------------------------------
 *
 * snapshot.h
 *	  Channels that get the rows that there are before the changes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_SNAPSHOT_H
#define RTSYNC_SNAPSHOT_H

#include "engine/subscription.h"

/* Which transactions a snapshot saw */
typedef struct SnapshotView
{
	TransactionId xmin;
	TransactionId xmax;
	XLogRecPtr	lsn;			/* all of them committed before this place */
	uint32		nxids;
	TransactionId xids[FLEXIBLE_ARRAY_MEMBER];	/* it did not see these */
} SnapshotView;

/* Snapshots now, and since the engine's start; one that many share is one */
typedef struct SnapshotCounts
{
	int			running;
	int			waiting;		/* for a worker */
	uint64		completed;
	uint64		failed;
} SnapshotCounts;

extern bool snapshot_wanted(const Channel *channel);
extern void snapshot_request(Channel *channel);
extern void snapshot_forget(Channel *channel);
extern bool snapshot_interrupt(Channel *channel);
extern bool snapshot_sees(const SnapshotView *view, TransactionId xid);
extern void snapshot_taken(Link *link, uint32 size);
extern void snapshot_run(void);
extern void snapshot_cancel_all(void);
extern void snapshot_count(SnapshotCounts *counts);

#endif							/* RTSYNC_SNAPSHOT_H */
