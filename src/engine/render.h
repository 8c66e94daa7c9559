/*-------------------------------------------------------------------------
 *
 * render.h
 *	  A change as the JSON that clients receive.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_RENDER_H
#define RTSYNC_RENDER_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "engine/history.h"

/* What of a change is to be shown */
typedef struct RenderSpec
{
	ChangeKind	kind;			/* as which it is shown: a row that left the
								 * view is a DELETE */
	const Bitmapset *columns;	/* attnums described in "columns" */
	const Bitmapset *record;	/* attnums in "record" */
	const Bitmapset *old_record;	/* attnums in "old_record" */
} RenderSpec;

extern void render_init(void);
extern void render_event(StringInfo buf, TimestampTz commit_time,
						 ChangeRows *rows, const RenderSpec *spec);

/* The rows of a snapshot, which all have the same form */
typedef struct RowRenderer RowRenderer;

extern RowRenderer *render_rows_begin(TimestampTz when, const RelSchema *schema,
									  const Bitmapset *columns,
									  const Bitmapset *record);
extern const char *render_rows_head(const RowRenderer *renderer);
extern const char *render_rows_tail(bool small);
extern bool render_row(StringInfo buf, RowRenderer *renderer,
					   const Datum *values, const bool *nulls);

#endif							/* RTSYNC_RENDER_H */
