/*-------------------------------------------------------------------------
 *
 * snapshot_worker.h
 *	  What the engine and the workers that read snapshots say to each other.
 *
 * A worker's dynamic shared memory holds a SnapshotShared, the request, and a
 * queue (shm_mq) from the worker to the engine.
 *
 * The request, written and read with link.h's functions: u32 role, string its
 * name, string claims, u32 n, n times a table: string schema, string table,
 * string filter, string options, u32 number of selected columns (LINK_NULL:
 * all), that many strings.
 *
 * Messages in the queue begin with a byte:
 *
 *	SNAPSHOT_VIEW	u32 xmin, u32 xmax, u64 LSN, u32 n, n times u32 xid: a
 *					transaction is in the snapshot if it committed before the
 *					LSN, and its number is below xmax and not among the n.
 *	SNAPSHOT_ROWS	u32 number of the table in the request, then as from
 *					"u32 size" on in LINK_ROWS.
 *	SNAPSHOT_END	all rows have been sent.
 *	SNAPSHOT_ERROR	string message, in the server's encoding: there is no more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_SNAPSHOT_WORKER_H
#define RTSYNC_SNAPSHOT_WORKER_H

#include "postgres.h"

#define SNAPSHOT_VIEW	'V'
#define SNAPSHOT_ROWS	'R'
#define SNAPSHOT_END	'E'
#define SNAPSHOT_ERROR	'X'

#define SNAPSHOT_QUEUE_SIZE ((Size) 512 * 1024)
#define SNAPSHOT_FUNCTION "snapshot_main"
#define SNAPSHOT_TYPE "rtsync snapshot"

typedef struct SnapshotShared
{
	Oid			dboid;
	Size		request_length;
	Size		queue_offset;	/* from the beginning of this */
	char		request[FLEXIBLE_ARRAY_MEMBER];
} SnapshotShared;

#endif							/* RTSYNC_SNAPSHOT_WORKER_H */
