/*-------------------------------------------------------------------------
 *
 * probe.h
 *	  A subscription that exists only to be asked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_PROBE_H
#define RTSYNC_PROBE_H

#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/rel.h"

#include "engine/decide.h"
#include "engine/publication.h"

/* One binding of a table, by itself; lives in the context it was made in */
typedef struct Probe
{
	Relation	rel;			/* open and locked */
	PublicationRel published;
	RelSchema  *schema;			/* of the table as it is now */
	Principal	principal;
	SubscriptionGroup group;
	TableRoute	route;
	TableRole	role;
	TableGroup	tg;
} Probe;

extern Probe *probe_open(Oid roleid, Jsonb *claims, Oid relid,
						 const BindingSpec *spec);
extern void probe_close(Probe *probe);

extern void probe_row(Probe *probe, Jsonb *jsonb, HeapTuple row);
extern bool probe_is_key(Probe *probe, Jsonb *jsonb);
extern bool probe_look_up(Probe *probe, HeapTuple row);

extern void probe_change(Probe *probe, HeapTuple old, HeapTuple new,
						 ChangeRows *rows);
extern Verdict probe_row_filter(Probe *probe, const PolicyRow *row);
extern bool probe_publish(Probe *probe, ChangeRows *rows);
extern TableAccess *probe_prepare(Probe *probe);
extern Outcome probe_decide(Probe *probe, ChangeRows *rows, Match *match);
extern char *probe_render(Probe *probe, ChangeRows *rows, const Match *match);

#endif							/* RTSYNC_PROBE_H */
