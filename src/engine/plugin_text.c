/*-------------------------------------------------------------------------
 *
 * plugin_text.c
 *	  The output plugin's text format: one JSON object per change.
 *
 *	{"action":"B"}												begin
 *	{"action":"I","schema":s,"table":t,"record":{...}}			INSERT
 *	{"action":"U","schema":s,"table":t,"record":{...},			UPDATE
 *	 "unchanged":[column,...],"old_key":{...}|"old_record":{...}}
 *	{"action":"D","schema":s,"table":t,							DELETE
 *	 "old_key":{...}|"old_record":{...}}
 *	{"action":"T","schema":s,"table":t,"cascade":b,				TRUNCATE
 *	 "restart_identity":b}
 *	{"action":"M","transactional":b,"prefix":s,					message
 *	 "content":s|"content_base64":s}
 *	{"action":"C"}												commit
 *
 * After "action" come "xid", "lsn" and "timestamp" if asked for, after the
 * table's name "types".  Values are as to_jsonb() has them (jsonout.c), keys in
 * the order of the columns.  "old_record" is the whole old row (REPLICA
 * IDENTITY FULL), "old_key" its replica identity, in an UPDATE only if it
 * changed.  "unchanged" lists the columns that "record" lacks because the WAL
 * does not hold their value, stored out of line and not changed.
 *
 * All of this runs under the historic snapshot of the change, so nothing here
 * may call a function that is not written in C: it would see tables as they
 * never were, and it would run with the reader's rights.
 *
 * A line holds one object and an object takes one line.  Its text is in the
 * server's encoding; who reads it over a connection gets what the connection
 * makes of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/base64.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/plugin_private.h"

static void begin_object(LogicalDecodingContext *ctx, char action,
						 ReorderBufferTXN *txn, XLogRecPtr lsn);
static void end_object(LogicalDecodingContext *ctx);
static void append_key(StringInfo buf, const char *key);
static void append_types(StringInfo buf, const RelEntry *entry);
static void append_row(StringInfo buf, RelEntry *entry, HeapTuple tuple,
					   bool identity_only, const Bitmapset *missing);
static void append_old_row(StringInfo buf, RelEntry *entry, HeapTuple tuple);
static void append_unchanged(StringInfo buf, const RelEntry *entry,
							 const Bitmapset *missing);
static bool is_valid_text(const char *data, Size size);
static void append_base64(StringInfo buf, const char *data, Size size);

/*
 * Make ready what the rows of a table need.  Called while its entry is made,
 * in the entry's memory context.
 */
void
text_prepare(PluginState *state, RelEntry *entry)
{
	RelSchema  *schema = entry->schema;
	TupleDesc	desc = schema->desc;
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, ",\"schema\":");
	jsonout_append_string(&buf, schema->nspname);
	appendStringInfoString(&buf, ",\"table\":");
	jsonout_append_string(&buf, schema->relname);
	entry->header = pstrdup(buf.data);

	entry->columns = palloc0(sizeof(TextColumn) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		TextColumn *column = &entry->columns[i];

		column->published = bms_is_member(att->attnum, schema->published);
		if (!column->published)
			continue;
		column->identity = bms_is_member(att->attnum, schema->identity);

		resetStringInfo(&buf);
		jsonout_append_string(&buf, NameStr(att->attname));
		appendStringInfoChar(&buf, ':');
		column->key = pstrdup(buf.data);

		if (state->options.include_types)
		{
			resetStringInfo(&buf);
			jsonout_append_string(&buf,
								  format_type_with_typemod(att->atttypid,
														   att->atttypmod));
			column->type = pstrdup(buf.data);
		}
		jsonout_prepare_decoding(&column->out, att->atttypid, entry->context);
	}
}

void
text_begin(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	begin_object(ctx, 'B', txn, txn->final_lsn);
	end_object(ctx);
}

void
text_commit(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
			XLogRecPtr commit_lsn)
{
	begin_object(ctx, 'C', txn, commit_lsn);
	end_object(ctx);
}

void
text_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
			RelEntry *entry, const PluginChange *change)
{
	begin_object(ctx, change->kind, txn, change->lsn);
	appendStringInfoString(ctx->out, entry->header);
	append_types(ctx->out, entry);
	if (change->newtuple != NULL)
	{
		append_key(ctx->out, "record");
		append_row(ctx->out, entry, change->newtuple, false, change->missing);
		append_unchanged(ctx->out, entry, change->missing);
	}
	if (change->oldtuple != NULL)
		append_old_row(ctx->out, entry, change->oldtuple);
	end_object(ctx);
}

void
text_truncate(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
			  RelEntry *entry, XLogRecPtr lsn,
			  bool cascade, bool restart_identity)
{
	begin_object(ctx, CHANGE_TRUNCATE, txn, lsn);
	appendStringInfo(ctx->out, "%s,\"cascade\":%s,\"restart_identity\":%s",
					 entry->header,
					 cascade ? "true" : "false",
					 restart_identity ? "true" : "false");
	end_object(ctx);
}

/* Write a logical message: as a string if it is text, else in base64. */
void
text_message(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
			 XLogRecPtr lsn, bool transactional, const char *prefix,
			 Size size, const char *message)
{
	begin_object(ctx, 'M', transactional ? txn : NULL, lsn);
	append_key(ctx->out, "transactional");
	appendStringInfoString(ctx->out, transactional ? "true" : "false");
	append_key(ctx->out, "prefix");
	jsonout_append_string(ctx->out, prefix);
	if (is_valid_text(message, size))
	{
		append_key(ctx->out, "content");
		jsonout_append_string_len(ctx->out, message, size);
	}
	else
	{
		append_key(ctx->out, "content_base64");
		append_base64(ctx->out, message, size);
	}
	end_object(ctx);
}

/* Start an object; txn is NULL outside of transactions. */
static void
begin_object(LogicalDecodingContext *ctx, char action, ReorderBufferTXN *txn,
			 XLogRecPtr lsn)
{
	PluginState *state = ctx->output_plugin_private;
	PluginOptions *options = &state->options;

	OutputPluginPrepareWrite(ctx, true);
	appendStringInfo(ctx->out, "{\"action\":\"%c\"", action);
	if (options->include_xids && txn != NULL)
		appendStringInfo(ctx->out, ",\"xid\":%u", txn->xid);
	if (options->include_lsn)
		appendStringInfo(ctx->out, ",\"lsn\":\"%X/%X\"", LSN_FORMAT_ARGS(lsn));
	if (options->include_timestamp && txn != NULL)
	{
		char		timestamp[MAXDATELEN + 1];

		JsonEncodeDateTime(timestamp,
						   TimestampTzGetDatum(txn->xact_time.commit_time),
						   TIMESTAMPTZOID, NULL);
		appendStringInfo(ctx->out, ",\"timestamp\":\"%s\"", timestamp);
	}
}

static void
end_object(LogicalDecodingContext *ctx)
{
	appendStringInfoChar(ctx->out, '}');
	OutputPluginWrite(ctx, true);
}

static void
append_key(StringInfo buf, const char *key)
{
	appendStringInfo(buf, ",\"%s\":", key);
}

static void
append_types(StringInfo buf, const RelEntry *entry)
{
	bool		first = true;

	for (int i = 0; i < entry->schema->desc->natts; i++)
	{
		TextColumn *column = &entry->columns[i];

		if (column->type == NULL)
			continue;
		appendStringInfoString(buf, first ? ",\"types\":{" : ",");
		appendStringInfoString(buf, column->key);
		appendStringInfoString(buf, column->type);
		first = false;
	}
	if (!first)
		appendStringInfoChar(buf, '}');
}

/* Append the published columns of a row, or those of its identity. */
static void
append_row(StringInfo buf, RelEntry *entry, HeapTuple tuple,
		   bool identity_only, const Bitmapset *missing)
{
	TupleDesc	desc = entry->schema->desc;
	bool		first = true;

	heap_deform_tuple(tuple, desc, entry->out_values, entry->out_nulls);
	appendStringInfoChar(buf, '{');
	for (int i = 0; i < desc->natts; i++)
	{
		TextColumn *column = &entry->columns[i];

		if (!column->published || (identity_only && !column->identity) ||
			(missing != NULL && bms_is_member(i + 1, missing)))
			continue;

		if (!first)
			appendStringInfoChar(buf, ',');
		first = false;
		appendStringInfoString(buf, column->key);
		if (entry->out_nulls[i])
			appendStringInfoString(buf, "null");
		else
			jsonout_append(buf, &column->out, entry->out_values[i]);
	}
	appendStringInfoChar(buf, '}');
}

static void
append_old_row(StringInfo buf, RelEntry *entry, HeapTuple tuple)
{
	bool		full = SCHEMA_OLD_FULL(entry->schema);

	append_key(buf, full ? "old_record" : "old_key");
	append_row(buf, entry, tuple, !full, NULL);
}

static void
append_unchanged(StringInfo buf, const RelEntry *entry,
				 const Bitmapset *missing)
{
	bool		first = true;
	int			attnum = -1;

	while ((attnum = bms_next_member(missing, attnum)) >= 0)
	{
		TextColumn *column = &entry->columns[attnum - 1];

		if (!column->published)
			continue;
		appendStringInfoString(buf, first ? ",\"unchanged\":[" : ",");
		/* the key without its colon */
		appendBinaryStringInfo(buf, column->key, strlen(column->key) - 1);
		first = false;
	}
	if (!first)
		appendStringInfoChar(buf, ']');
}

/*
 * Anybody can write any bytes into a message.  Where the server's encoding is
 * SQL_ASCII and says nothing, take for text what is UTF-8.
 */
static bool
is_valid_text(const char *data, Size size)
{
	int			encoding = GetDatabaseEncoding();

	if (encoding == PG_SQL_ASCII)
		encoding = PG_UTF8;
	return memchr(data, '\0', size) == NULL &&
		pg_verify_mbstr(encoding, data, size, true);
}

static void
append_base64(StringInfo buf, const char *data, Size size)
{
	int			space = pg_b64_enc_len(size);
	int			len;

	appendStringInfoChar(buf, '"');
	enlargeStringInfo(buf, space);
	len = pg_b64_encode((const void *) data, size, buf->data + buf->len,
						space);
	if (len < 0)
		elog(ERROR, "could not encode message");
	buf->len += len;
	buf->data[buf->len] = '\0';
	appendStringInfoChar(buf, '"');
}
