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

#include "access/tupdesc.h"
#include "nodes/bitmapset.h"
#include "nodes/params.h"
#include "nodes/pg_list.h"

#include "engine/clock.h"
#include "engine/principal.h"
#include "engine/rowcheck.h"
#include "engine/setcheck.h"

/*
 * What a role may see of a table, or with CMD_INSERT add to it: privileges
 * and compiled policies.  Cached per (table, role, command).  The struct stays
 * where it is for the life of the process; what it says is good until the
 * current transaction ends or an invalidation is accepted, whichever comes
 * first, so get it anew.
 */
typedef struct TableAccess
{
	Oid			relid;			/* hash key */
	Oid			roleid;			/* hash key */
	CmdType		command;		/* hash key: CMD_SELECT or CMD_INSERT */
	bool		valid;
	uint64		generation;		/* changes whenever the access was looked at
								 * anew: what was derived from it (filters,
								 * column lists) is to be made again */
	uint64		basis;			/* stays the same when the access was looked
								 * at anew and what groups are compiled from
								 * is still the same: columns, and parameters
								 * of policies that are asked by them */
	uint64		signature;		/* the same for as long as the role may see
								 * the same of the table, never 0 */
	uint32		function_changes;	/* of functions that the policies call */
	bool		readable;		/* the privilege for the command on the table
								 * or on some column, and USAGE on its schema */
	Bitmapset  *columns;		/* attnums that the role has it for */
	bool		row_security;	/* policies apply to this role */
	bool		reads_session;	/* the answer may depend on the claims, or on
								 * anything else but the row and the role */
	const char *undecidable;	/* why policies cannot be evaluated on a
								 * tuple, for the subscriber; NULL: they can */
	/* private to policy.c */
	uint32	   *functions;		/* hash values in PROCOID of those that the
								 * policies called when they were last
								 * planned; in PolicyContext */
	int			nfunctions;
	ClockTime	suspended_until;	/* policies took too long; 0: they did not */
	bool		slow_to_prepare;	/* ... before they were asked about a row */
	ClockTime	set_suspended_until;	/* likewise, for many principals */
	TupleDesc	desc;			/* the table's columns; NULL: no such table */
	struct CompiledPolicy *compiled;	/* NULL: no row security */
	MemoryContext context;		/* holds all of this; NULL at first */
} TableAccess;

extern void policy_init(void);
extern void policy_blame(Oid relid, bool preparing, ClockTime until);
extern TableAccess *policy_table_access(Oid relid, Oid roleid);
extern TableAccess *policy_insert_access(Oid relid, Oid roleid);
extern TableAccess *policy_known_access(Oid relid, Oid roleid);
extern uint64 policy_invalidations(void);
extern void policy_sweep(void);
extern const Bitmapset *policy_needed_columns(TableAccess *access,
											  bool *all);
extern Verdict policy_check(TableAccess *access, const PolicyRow *row);
extern void policy_prepare(TableAccess *access);
extern bool policy_prepared(TableAccess *access);
extern bool policy_has_folded(TableAccess *access);
extern bool policy_fold(TableAccess *access, MemoryContext context,
						List **quals, ParamListInfo *params);
extern bool policy_cover(TableAccess *access, MemoryContext context,
						 List **quals, ParamListInfo *params);
extern Verdict policy_check_folded(TableAccess *access, ParamListInfo params,
								   const PolicyRow *row);
extern void policy_prepare_set(TableAccess *access);
extern bool policy_fold_set(TableAccess *access, MemoryContext context,
							List **quals, ParamListInfo *params);
extern bool policy_set_suspended(TableAccess *access);
extern double policy_set_cost(TableAccess *access);
extern void policy_check_set(TableAccess *access, const PolicyRow *rows,
							 int nrows, ParamListInfo *principals,
							 int nprincipals, SetAnswers *answers);
extern void policy_seek_set(TableAccess *access, const PolicyRow *rows,
							int nrows, SetFinds *finds);
extern List *policy_dependencies(TableAccess *access);
extern uint64 policy_query_signature(TableAccess *access);
extern TableAccess *policy_single(Relation rel, Oid roleid, Node *qual);
extern bool policy_is_query(TableAccess *access);

#endif							/* RTSYNC_POLICY_H */
