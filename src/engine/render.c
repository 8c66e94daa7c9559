/*-------------------------------------------------------------------------
 *
 * render.c
 *	  A change as the JSON that clients receive.
 *
 * This is the "data" object of a postgres_changes message, in the shape that
 * Supabase gives it.  Values are written by jsonout.c; what it takes to write
 * a type is kept per type until a catalog change.
 *
 * Called by route.c inside a transaction, as the role that will receive the
 * event, since writing a value can run code that a user wrote.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "pgtime.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "engine/jsonout.h"
#include "engine/render.h"
#include "engine/settings.h"

/* With an event that is too large, values up to this size are still shown. */
#define SMALL_VALUE 64

typedef struct TypeEntry
{
	Oid			typid;			/* hash key */
	bool		ready;
	JsonOut		out;
} TypeEntry;

static MemoryContext TypeContext = NULL;
static HTAB *types = NULL;
static bool types_valid = false;

static void
invalidate_cb(Datum arg, int cacheid, uint32 hashvalue)
{
	types_valid = false;
}

/* Prepare; once in the life of the engine. */
void
render_init(void)
{
	TypeContext = AllocSetContextCreate(TopMemoryContext, "rtsync types",
										ALLOCSET_DEFAULT_SIZES);
	CacheRegisterSyscacheCallback(TYPEOID, invalidate_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, invalidate_cb, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, invalidate_cb, (Datum) 0);
}

/* How to write values of a type; may raise an error. */
static JsonOut *
type_output(Oid typid)
{
	TypeEntry  *entry;
	bool		found;

	if (!types_valid)
	{
		HASHCTL		ctl = {
			.keysize = sizeof(Oid),
			.entrysize = sizeof(TypeEntry),
			.hcxt = TypeContext
		};

		MemoryContextReset(TypeContext);
		types = hash_create("rtsync types", 64, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		types_valid = true;
	}
	entry = hash_search(types, &typid, HASH_ENTER, &found);
	if (!found)
		entry->ready = false;
	if (!entry->ready)
	{
		jsonout_prepare(&entry->out, typid, true, TypeContext);
		entry->ready = true;
	}
	return &entry->out;
}

/* UTC, with milliseconds: 2026-01-02T03:04:05.678Z */
static void
append_timestamp(StringInfo buf, TimestampTz when)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(when, NULL, &tm, &fsec, NULL, NULL) != 0)
	{
		appendStringInfoString(buf, "null");
		return;
	}
	appendStringInfo(buf, "\"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ\"",
					 tm.tm_year, tm.tm_mon, tm.tm_mday,
					 tm.tm_hour, tm.tm_min, tm.tm_sec, (int) (fsec / 1000));
}

/* [{"name":"id","type":"int4"},...] */
static void
append_columns(StringInfo buf, const RelSchema *schema,
			   const Bitmapset *columns)
{
	const char *separator = "";
	int			attnum = -1;

	appendStringInfoChar(buf, '[');
	while ((attnum = bms_next_member(columns, attnum)) >= 0)
	{
		appendStringInfo(buf, "%s{\"name\":", separator);
		jsonout_append_string(buf, NameStr(TupleDescAttr(schema->desc, attnum - 1)->attname));
		appendStringInfoString(buf, ",\"type\":");
		jsonout_append_string(buf, schema->typnames[attnum - 1]);
		appendStringInfoChar(buf, '}');
		separator = ",";
	}
	appendStringInfoChar(buf, ']');
}

/*
 * {"id":1,...}; with "known" not NULL, without the values that are not in it; with "small", without values longer than SMALL_VALUE.
 */
static void
append_row(StringInfo buf, const RelSchema *schema, HeapTuple tuple,
		   const Bitmapset *columns, const Bitmapset *known, bool small)
{
	int			natts = schema->desc->natts;
	Datum	   *values = palloc(sizeof(Datum) * natts);
	bool	   *nulls = palloc(sizeof(bool) * natts);
	const char *separator = "";
	int			attnum = -1;

	heap_deform_tuple(tuple, schema->desc, values, nulls);
	appendStringInfoChar(buf, '{');
	while ((attnum = bms_next_member(columns, attnum)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(schema->desc, attnum - 1);
		int			start = buf->len;
		int			value_start;

		if (known != NULL && !bms_is_member(attnum, known))
			continue;
		appendStringInfoString(buf, separator);
		jsonout_append_string(buf, NameStr(att->attname));
		appendStringInfoChar(buf, ':');
		value_start = buf->len;
		if (nulls[attnum - 1])
			appendStringInfoString(buf, "null");
		else
			jsonout_append(buf, type_output(att->atttypid), values[attnum - 1]);
		if (small && buf->len - value_start > SMALL_VALUE)
		{
			buf->len = start;
			buf->data[start] = '\0';
			continue;
		}
		separator = ",";
	}
	appendStringInfoChar(buf, '}');
	pfree(values);
	pfree(nulls);
}

/* What the rows come behind */
static void
append_head(StringInfo buf, ChangeKind kind, TimestampTz commit_time,
			const RelSchema *schema, const Bitmapset *columns)
{
	appendStringInfo(buf, "{\"type\":\"%s\",\"schema\":",
					 kind == CHANGE_INSERT ? "INSERT" :
					 kind == CHANGE_UPDATE ? "UPDATE" : "DELETE");
	jsonout_append_string(buf, schema->nspname);
	appendStringInfoString(buf, ",\"table\":");
	jsonout_append_string(buf, schema->relname);
	appendStringInfoString(buf, ",\"commit_timestamp\":");
	append_timestamp(buf, commit_time);
	appendStringInfoString(buf, ",\"columns\":");
	append_columns(buf, schema, columns);
}

/* What comes behind the rows */
static const char *
tail(bool small)
{
	return small ? ",\"errors\":[\"Error 413: Payload Too Large\"]}" :
		",\"errors\":null}";
}

static void
append_event(StringInfo buf, TimestampTz commit_time, ChangeRows *rows,
			 const RenderSpec *spec, bool small)
{
	const RelSchema *schema = rows->schema;

	append_head(buf, spec->kind, commit_time, schema, spec->columns);
	if (spec->kind != CHANGE_DELETE && rows->has_new)
	{
		appendStringInfoString(buf, ",\"record\":");
		append_row(buf, schema, &rows->newtuple, spec->record,
				   rows->new_known, small);
	}
	if (spec->kind != CHANGE_INSERT && (rows->has_old || rows->has_new))
	{
		/* no old row in the WAL: its identity is the new one's */
		appendStringInfoString(buf, ",\"old_record\":");
		append_row(buf, schema,
				   rows->has_old ? &rows->oldtuple : &rows->newtuple,
				   spec->old_record, rows->has_old ? NULL : rows->new_known,
				   small);
	}
	appendStringInfoString(buf, tail(small));
}

/*
 * Append the JSON object to buf, in UTF-8.  If it is larger than rtsync.max_event_size,
 * long values are left out and "errors" says so.
 */
void
render_event(StringInfo buf, TimestampTz commit_time, ChangeRows *rows,
			 const RenderSpec *spec)
{
	int			start = buf->len;

	append_event(buf, commit_time, rows, spec, false);
	if (buf->len - start > rtsync_max_event_size)
	{
		buf->len = start;
		append_event(buf, commit_time, rows, spec, true);
	}
	jsonout_to_utf8(buf, start);
}

/*--------------------------------------------------------------------------
 * Rows of a snapshot
 *--------------------------------------------------------------------------
 */

/* How one column of the rows is written */
typedef struct RowColumn
{
	int			index;			/* in the row's values */
	JsonOut		out;
	int			label_length;
	char	   *label;			/* "name": */
} RowColumn;

struct RowRenderer
{
	StringInfoData head;
	int			ncolumns;
	RowColumn	columns[FLEXIBLE_ARRAY_MEMBER];
};

static void
prepare_column(RowColumn *column, const RelSchema *schema, int attnum)
{
	Form_pg_attribute att = TupleDescAttr(schema->desc, attnum - 1);
	StringInfoData label;

	initStringInfo(&label);
	jsonout_append_string(&label, NameStr(att->attname));
	appendStringInfoChar(&label, ':');
	column->index = attnum - 1;
	column->label = label.data;
	column->label_length = label.len;
	jsonout_prepare(&column->out, att->atttypid, true, CurrentMemoryContext);
}

/*
 * Prepare to write rows as the INSERTs that render_event would write of them,
 * cut into what is the same for all, and the record.  "columns" are described,
 * "record" shown.  All of it is in the current memory context, and good as
 * long as the table is locked.
 */
RowRenderer *
render_rows_begin(TimestampTz when, const RelSchema *schema,
				  const Bitmapset *columns, const Bitmapset *record)
{
	RowRenderer *renderer = palloc0(offsetof(RowRenderer, columns) +
									bms_num_members(record) * sizeof(RowColumn));
	int			attnum = -1;

	initStringInfo(&renderer->head);
	append_head(&renderer->head, CHANGE_INSERT, when, schema, columns);
	appendStringInfoString(&renderer->head, ",\"record\":");
	jsonout_to_utf8(&renderer->head, 0);
	while ((attnum = bms_next_member(record, attnum)) >= 0)
		prepare_column(&renderer->columns[renderer->ncolumns++], schema,
					   attnum);
	return renderer;
}

/* What comes before each record */
const char *
render_rows_head(const RowRenderer *renderer)
{
	return renderer->head.data;
}

/* What comes behind it; "small" as render_row returned it */
const char *
render_rows_tail(bool small)
{
	return tail(small);
}

static void
append_values(StringInfo buf, RowRenderer *renderer, const Datum *values,
			  const bool *nulls, bool small)
{
	char		separator = '{';

	for (int i = 0; i < renderer->ncolumns; i++)
	{
		RowColumn  *column = &renderer->columns[i];
		int			start = buf->len;
		int			value_start;

		appendStringInfoChar(buf, separator);
		appendBinaryStringInfo(buf, column->label, column->label_length);
		value_start = buf->len;
		if (nulls[column->index])
			appendBinaryStringInfo(buf, "null", 4);
		else
			jsonout_append(buf, &column->out, values[column->index]);
		if (small && buf->len - value_start > SMALL_VALUE)
		{
			buf->len = start;
			buf->data[start] = '\0';
		}
		else
			separator = ',';
	}
	if (separator == '{')
		appendStringInfoChar(buf, '{');
	appendStringInfoChar(buf, '}');
}

/*
 * Append the record, in UTF-8; values and nulls are by attnum - 1.  Returns
 * whether long values were left out, as in an event that would be too large.
 */
bool
render_row(StringInfo buf, RowRenderer *renderer, const Datum *values,
		   const bool *nulls)
{
	int			start = buf->len;
	Size		around = renderer->head.len + strlen(tail(false));
	bool		small = false;

	append_values(buf, renderer, values, nulls, false);
	if (buf->len - start + around > (Size) rtsync_max_event_size)
	{
		small = true;
		buf->len = start;
		append_values(buf, renderer, values, nulls, true);
	}
	jsonout_to_utf8(buf, start);
	return small;
}
