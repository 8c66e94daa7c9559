/*-------------------------------------------------------------------------
 *
 * unnest.h
 *	  Turning conditions with sub-queries into joins.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_UNNEST_H
#define RTSYNC_UNNEST_H

#include "postgres.h"

#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"

extern Node *unnest_trivial(Node *node, bool everywhere);
extern void unnest_security(Query *query);
extern List *unnest_arms(List *quals);
extern Node *unnest_arrays(Node *clause);
extern bool unnest_sublinks(Query *query, Index varno);

#endif							/* RTSYNC_UNNEST_H */
