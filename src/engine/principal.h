/*-------------------------------------------------------------------------
 *
 * principal.h
 *	  Whose eyes a decision is made with: a role and the claims of a token.
 *
 * Whatever users wrote (policies, type output functions, filter expressions)
 * runs only between principal_enter and principal_leave: as the principal's
 * role, with role changes and other restricted operations forbidden, under a
 * GUC nest level that is rolled back, and under rtsync.policy_timeout.
 *
 * After an ERROR between the two, principal_leave must not be called: the
 * abort of the transaction or subtransaction in which principal_enter was
 * called undoes everything, the timeout included.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_PRINCIPAL_H
#define RTSYNC_PRINCIPAL_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* Owned by whoever allocated it (subscription.c, rights.c); immutable */
typedef struct Principal
{
	Oid			roleid;
	char	   *rolename;
	char	   *claims;			/* the token's payload, JSON text, valid in
								 * the server's encoding and valid jsonb */
	const char *topic;			/* the channel that it is about, for
								 * rtsync.topic(); NULL: none */
} Principal;

/* What principal_leave needs to restore */
typedef struct PrincipalScope
{
	Oid			save_userid;
	int			save_sec_context;
	int			save_nestlevel;
	int			save_depth;
	const Principal *save_principal;
} PrincipalScope;

/* Told which table's policies had to be ended with the process */
typedef void (*PrincipalGaveUp) (Oid relid, bool preparing);

extern void principal_enter(const Principal *principal, PrincipalScope *scope);
extern void principal_leave(PrincipalScope *scope);

/* The principal is this session's user, with the claims that it has set */
extern void principal_enter_session(const Principal *principal,
									PrincipalScope *scope);

/* For role only, without claims (catalog lookups, planning, rendering) */
extern void principal_enter_role(Oid roleid, PrincipalScope *scope);

/* Whoever was entered last and not left; NULL: nobody, or a role only */
extern const Principal *principal_current(void);

/* All that tells it from others of its role, palloc'd */
extern char *principal_identity(void);

/* One evaluation ends, another begins: each has the whole timeout */
extern void principal_progress(void);

/* What runs next has this many ms instead, or with 0 the usual time again */
extern void principal_limit(int ms);

/* Whose policies, or triggers, run from here on; InvalidOid: nobody's */
extern void principal_run_policies(Oid relid, bool preparing);

/* Have it called, in a signal handler, when only the process can be ended */
extern void principal_on_give_up(PrincipalGaveUp function);

/* Was the last query cancel caused by the timeout?  (For the error's text.) */
extern bool principal_timed_out(void);

#endif							/* RTSYNC_PRINCIPAL_H */
