/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  The differences between PostgreSQL 15, 16, 17 and 18, all of them here.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_COMPAT_H
#define RTSYNC_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "rtsync needs PostgreSQL 15 or newer"
#endif

#include "executor/executor.h"
#include "replication/reorderbuffer.h"
#include "replication/slot.h"
#include "storage/latch.h"
#include "utils/resowner.h"

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif

/* The tuple of a ReorderBufferChange was wrapped before 17 */
static inline HeapTuple
compat_change_oldtuple(ReorderBufferChange *change)
{
#if PG_VERSION_NUM >= 170000
	return change->data.tp.oldtuple;
#else
	return change->data.tp.oldtuple ? &change->data.tp.oldtuple->tuple : NULL;
#endif
}

static inline HeapTuple
compat_change_newtuple(ReorderBufferChange *change)
{
#if PG_VERSION_NUM >= 170000
	return change->data.tp.newtuple;
#else
	return change->data.tp.newtuple ? &change->data.tp.newtuple->tuple : NULL;
#endif
}

/* Create a persistent logical slot of this database that does not fail over */
static inline void
compat_slot_create(const char *name)
{
#if PG_VERSION_NUM >= 170000
	ReplicationSlotCreate(name, true, RS_PERSISTENT, false, false, false);
#else
	ReplicationSlotCreate(name, true, RS_PERSISTENT, false);
#endif
}

static inline void
compat_slot_acquire(const char *name)
{
#if PG_VERSION_NUM >= 180000
	ReplicationSlotAcquire(name, true, true);
#else
	ReplicationSlotAcquire(name, true);
#endif
}

static inline WaitEventSet *
compat_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

static inline void
compat_executor_run(QueryDesc *query_desc, uint64 count)
{
#if PG_VERSION_NUM >= 180000
	ExecutorRun(query_desc, ForwardScanDirection, count);
#else
	ExecutorRun(query_desc, ForwardScanDirection, count, true);
#endif
}

#endif							/* RTSYNC_COMPAT_H */
