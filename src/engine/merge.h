/*-------------------------------------------------------------------------
 *
 * merge.h
 *	  Changes of one row, merged into one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_MERGE_H
#define RTSYNC_MERGE_H

#include "postgres.h"

#include "engine/history.h"

typedef struct MergeTable MergeTable;

extern MergeTable *merge_create(int max);
extern int	merge_into(MergeTable *table, const ChangeRows *change);
extern void merge_enter(MergeTable *table, int number, ChangeRows *rows);
extern bool merge_is_nothing(const MergeTable *table, int number);

#endif							/* RTSYNC_MERGE_H */
