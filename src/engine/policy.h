/*-------------------------------------------------------------------------
 *
 * policy.h
 *	  May this principal see this row?  The table's own row security, asked on
 *	  a tuple that need not be in the table any more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_POLICY_H
#define RTSYNC_POLICY_H

#include "postgres.h"

#include "access/htup.h"
#include "nodes/bitmapset.h"

#include "engine/principal.h"
#include "engine/schema.h"

/* NO for a NULL result too; UNKNOWN if a column that matters is not known */
typedef enum Verdict
{
	VERDICT_NO,
	VERDICT_YES,
	VERDICT_UNKNOWN
} Verdict;

/* A row as the history holds it */
typedef struct PolicyRow
{
	RelSchema  *schema;
	HeapTuple	tuple;			/* in schema->desc's layout */
	const Bitmapset *known;		/* attnums whose values are known; NULL: all */
} PolicyRow;

/*
 * What a role may see of a table: privileges and compiled policies.  Cached
 * per (table, role); a pointer is good until the current transaction ends or
 * an invalidation is accepted, whichever comes first, so get it anew.
 */
typedef struct TableAccess
{
	Oid			relid;			/* hash key */
	Oid			roleid;			/* hash key */
	bool		valid;
	bool		readable;		/* SELECT on the table or on some column, and
								 * USAGE on its schema */
	Bitmapset  *columns;		/* attnums that the role may SELECT */
	bool		row_security;	/* policies apply to this role */
	struct CompiledPolicy *compiled;	/* private to policy.c; NULL: no row
										 * security */
} TableAccess;

extern void policy_init(void);
extern TableAccess *policy_table_access(Oid relid, Oid roleid);
extern const Bitmapset *policy_needed_columns(TableAccess *access,
											  bool *all);
extern Verdict policy_check(TableAccess *access, const PolicyRow *row);

#endif							/* RTSYNC_POLICY_H */
