/*-------------------------------------------------------------------------
 *
 * restartpoint.c
 *	  Where decoding could start again, and what the slot needs for that.
 *
 * Decoding finds such places in the WAL where the running transactions are
 * logged, and leaves one in the slot as its candidate, which counts once the
 * place is confirmed; until then the slot takes no other.  That suits a receiver
 * that confirms at once.  Ours stays behind on purpose, by as much as its
 * history needs, and the slot would go on in steps of that size, keeping twice
 * as much WAL, and dead rows of catalogs, as is needed.  So the candidates are
 * kept here, and the slot gets back the latest that counts.
 *
 * Called by wal.c, while the slot is acquired.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "replication/slot.h"
#include "storage/spin.h"

#include "engine/restartpoint.h"

/* So many are kept, about evenly spread over what is not confirmed */
#define MAX_POINTS 64

typedef struct RestartPoint
{
	XLogRecPtr	lsn;			/* counts when this is confirmed */
	XLogRecPtr	restart_lsn;	/* invalid: says nothing of it */
	TransactionId catalog_xmin; /* likewise */
} RestartPoint;

static RestartPoint points[MAX_POINTS]; /* in the order of the WAL */
static int	npoints;

/* Take the slot's candidate, if it has one; false if not. */
static bool
take_candidate(RestartPoint *point)
{
	ReplicationSlot *slot = MyReplicationSlot;

	if (slot->candidate_restart_valid == InvalidXLogRecPtr &&
		slot->candidate_xmin_lsn == InvalidXLogRecPtr)
		return false;
	SpinLockAcquire(&slot->mutex);
	point->lsn = Max(slot->candidate_restart_valid, slot->candidate_xmin_lsn);
	point->restart_lsn = slot->candidate_restart_lsn;
	point->catalog_xmin = slot->candidate_catalog_xmin;
	slot->candidate_restart_valid = InvalidXLogRecPtr;
	slot->candidate_restart_lsn = InvalidXLogRecPtr;
	slot->candidate_xmin_lsn = InvalidXLogRecPtr;
	slot->candidate_catalog_xmin = InvalidTransactionId;
	SpinLockRelease(&slot->mutex);
	return true;
}

/* Add to a point what only an earlier one says. */
static void
complete(RestartPoint *point, const RestartPoint *earlier)
{
	if (point->restart_lsn == InvalidXLogRecPtr)
		point->restart_lsn = earlier->restart_lsn;
	if (!TransactionIdIsValid(point->catalog_xmin))
		point->catalog_xmin = earlier->catalog_xmin;
}

/*
 * Keep what decoding may have found since the last call.  The latest is always
 * kept, of the others those that are "distance" bytes apart.
 */
void
restartpoint_take(XLogRecPtr distance)
{
	RestartPoint point;

	if (!take_candidate(&point))
		return;
	if (npoints > 0)
		complete(&point, &points[npoints - 1]);
	if (npoints == MAX_POINTS ||
		(npoints > 1 &&
		 points[npoints - 1].lsn < points[npoints - 2].lsn + distance))
		npoints--;
	points[npoints++] = point;
}

static void
give_candidate(const RestartPoint *point)
{
	ReplicationSlot *slot = MyReplicationSlot;

	SpinLockAcquire(&slot->mutex);
	if (point->restart_lsn > slot->data.restart_lsn)
	{
		slot->candidate_restart_lsn = point->restart_lsn;
		slot->candidate_restart_valid = point->lsn;
	}
	if (TransactionIdIsValid(point->catalog_xmin) &&
		TransactionIdFollows(point->catalog_xmin, slot->data.catalog_xmin))
	{
		slot->candidate_catalog_xmin = point->catalog_xmin;
		slot->candidate_xmin_lsn = point->lsn;
	}
	SpinLockRelease(&slot->mutex);
}

/* This is about to be confirmed: give the slot what counts then. */
void
restartpoint_offer(XLogRecPtr lsn)
{
	int			n = 0;

	restartpoint_take(0);
	while (n < npoints && points[n].lsn <= lsn)
		n++;
	if (n == 0)
		return;
	give_candidate(&points[n - 1]);
	npoints -= n;
	memmove(points, points + n, npoints * sizeof(RestartPoint));
}

/* Another slot, or decoding begins again: what was found before is void. */
void
restartpoint_reset(void)
{
	npoints = 0;
}
