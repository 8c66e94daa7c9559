/*-------------------------------------------------------------------------
 *
 * report.h
 *	  Who is connected and what they subscribe to, for the statistics views.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_REPORT_H
#define RTSYNC_REPORT_H

#include "postgres.h"

#include "engine/linkio.h"

/*
 * What a report consists of: messages as link.h has them, of these types.
 *
 * REPORT_CONNECTION: string what LINK_LISTED says of a connection, but for its
 * channels; u32 the role's OID, u32 number of channels.
 *
 * REPORT_SUBSCRIPTION: u64 connection, u64 channel, u32 role, string subject,
 * string topic, u8 private, i64 when it joined, u32 binding (0: none, and
 * what follows is empty), string schema, string table, u32 events, string
 * filter, string where, string evaluation, u32 group, u8 ReportPace, string
 * cursor, u64 bytes of history that it has not got, u64 changes sent.
 */
typedef enum ReportType
{
	REPORT_CONNECTION = 1,
	REPORT_SUBSCRIPTION
} ReportType;

typedef enum ReportPace
{
	REPORT_LIVE,
	REPORT_PAUSED,
	REPORT_LATE,
	REPORT_SNAPSHOT,
	REPORT_THROTTLED,			/* live, but in batches */
	REPORT_REFUSED				/* the binding cannot be served */
} ReportPace;

/* in the engine */
extern void report_turn(bool answered);
extern void report_message(Link *link, LinkReader *body);
extern void report_link_ended(Link *link);

/* in backends */
extern char *report_get(Size *length);

#endif							/* RTSYNC_REPORT_H */
