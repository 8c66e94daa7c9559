/*-------------------------------------------------------------------------
 *
 * jsonout.h
 *	  Values as JSON text, as to_jsonb() gives them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_JSONOUT_H
#define RTSYNC_JSONOUT_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"

/*
 * How to write values of one type: filled by jsonout_prepare, which may read
 * catalogs and raise errors; lives in the memory context given there.  It is
 * stale after any invalidation of the type, or of pg_cast: its owner makes it
 * anew.
 */
typedef struct JsonOut
{
	Oid			typid;
	int			category;		/* private to jsonout.c */
	bool		bare_bytea;		/* bytea as bare hex digits, as Supabase has
								 * it, not as to_jsonb has it */
	bool		runs_user_code; /* writing a value may call a function that an
								 * ordinary user wrote (a cast to json) */
	FmgrInfo	finfo;
} JsonOut;

extern void jsonout_prepare(JsonOut *out, Oid typid, bool bare_bytea,
							MemoryContext context);
extern void jsonout_append(StringInfo buf, JsonOut *out, Datum value);
extern void jsonout_append_string(StringInfo buf, const char *string);
extern void jsonout_append_string_len(StringInfo buf, const char *string,
									  Size len);
extern void jsonout_to_utf8(StringInfo buf, int start);

#endif							/* RTSYNC_JSONOUT_H */
