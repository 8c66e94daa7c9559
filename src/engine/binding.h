/*-------------------------------------------------------------------------
 *
 * binding.h
 *	  What one entry of "postgres_changes" asks for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_BINDING_H
#define RTSYNC_BINDING_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"

#include "engine/principal.h"

#define EVENT_INSERT	1
#define EVENT_UPDATE	2
#define EVENT_DELETE	4
#define EVENT_ALL		(EVENT_INSERT | EVENT_UPDATE | EVENT_DELETE)

/* Bounds of BindingOptions.interval, in milliseconds */
#define MIN_INTERVAL	10
#define MAX_INTERVAL	60000

/* A binding as the client wrote it */
typedef struct BindingSpec
{
	int			events;			/* EVENT_xxx */
	bool		empty;			/* neither schema nor table was given */
	char	   *schema;			/* NULL: any */
	char	   *table;			/* NULL: any */
	char	   *filter;			/* NULL: none */
	int			nselect;		/* -1: all columns */
	char	  **select;			/* a NULL among them was no string */
	char	   *options;		/* JSON text, or NULL */
} BindingSpec;

/* What "options" says */
typedef struct BindingOptions
{
	bool		view;			/* a row that enters the view is an INSERT */
	char	   *where;			/* condition in SQL; NULL: none */
	bool		snapshot;		/* first the rows that there are */
	int			interval;		/* milliseconds between batches; 0: none */
} BindingOptions;

extern void binding_append_part(StringInfo key, const char *part);
extern void binding_append_key(StringInfo key, const BindingSpec *spec);
extern uint64 binding_form(const BindingSpec *spec,
						   const BindingOptions *options);
extern void binding_copy(BindingSpec *to, const BindingSpec *from);
extern bool binding_matches(const BindingSpec *spec, const char *schema,
							const char *table);
extern Bitmapset *binding_selected(const BindingSpec *spec, TupleDesc desc,
								   const Bitmapset *allowed);
extern bool binding_costly(const BindingSpec *spec,
						   const BindingOptions *options);
extern void binding_options(const BindingSpec *spec, BindingOptions *options);
extern List *binding_tables(const BindingSpec *spec);
extern char *binding_problem(const Principal *principal,
							 const BindingSpec *spec, char **hint,
							 Size *weight, bool *locked);

#endif							/* RTSYNC_BINDING_H */
