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
	Oid			typid;			/* domains looked through */
	int			category;		/* private to jsonout.c, as is what follows
								 * the flags */
	bool		bare_bytea;		/* bytea as bare hex digits, as Supabase has
								 * it, not as to_jsonb has it */
	bool		no_user_code;	/* pass over casts to json that are not
								 * written in C */
	bool		runs_user_code; /* writing a value may call a function that an
								 * ordinary user wrote: such a cast */
	FmgrInfo	finfo;
	MemoryContext context;
	struct JsonOut *element;	/* of an array */
	int16		elmlen;
	bool		elmbyval;
	char		elmalign;
	struct JsonOut *attributes; /* of a composite, by attnum - 1 */
	uint64		rowtype_id;		/* the row type's state when they were made */
	MemoryContext attributes_context;
} JsonOut;

/*
 * jsonout_prepare_decoding is for use under a historic snapshot, where no
 * function of a user can run: a cast to json that is written in SQL or in a
 * procedural language does not count then, and such a type's values are the
 * strings that its output function gives.
 */
extern void jsonout_prepare(JsonOut *out, Oid typid, bool bare_bytea,
							MemoryContext context);
extern void jsonout_prepare_decoding(JsonOut *out, Oid typid,
									 MemoryContext context);
extern void jsonout_append(StringInfo buf, JsonOut *out, Datum value);
extern void jsonout_append_string(StringInfo buf, const char *string);
extern void jsonout_append_string_len(StringInfo buf, const char *string,
									  Size len);
extern void jsonout_to_utf8(StringInfo buf, int start);

#endif							/* RTSYNC_JSONOUT_H */
