/*-------------------------------------------------------------------------
 *
 * plugin.c
 *	  The output plugin: WAL changes of published tables, in commit order.
 *
 * This file has the plugin's callbacks and its options.  plugin_rel.c knows
 * the tables and makes published changes of decoded ones; they then go to one
 * of two outlets: to the sink that the engine has set (plugin.h), in the
 * engine's process, or, without a sink, through plugin_text.c to whoever reads
 * the slot.  The output format and the options are described in
 * docs/output-plugin.md.
 *
 * The begin of a transaction is given out with the first thing in it that is
 * published, so that transactions without any leave no trace.  Neither
 * streaming of transactions in progress nor two-phase decoding is offered:
 * what comes out is committed, and in the order of the commits.
 *
 * Runs in the engine, in backends that call the slot functions and in
 * walsenders; in the latter two also without preloading.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "engine/compat.h"
#include "engine/message.h"
#include "engine/plugin_private.h"
#include "engine/settings.h"

/* An option that is on or off */
typedef struct BoolOption
{
	const char *name;
	size_t		offset;			/* in PluginOptions */
} BoolOption;

static const BoolOption bool_options[] = {
	{"include-xids", offsetof(PluginOptions, include_xids)},
	{"include-lsn", offsetof(PluginOptions, include_lsn)},
	{"include-timestamp", offsetof(PluginOptions, include_timestamp)},
	{"include-types", offsetof(PluginOptions, include_types)},
	{"include-transaction", offsetof(PluginOptions, include_transaction)},
	{"include-messages", offsetof(PluginOptions, include_messages)},
	{"skip-empty-xacts", offsetof(PluginOptions, skip_empty_xacts)},
};

static const PluginSink *current_sink = NULL;

static void startup_cb(LogicalDecodingContext *ctx,
					   OutputPluginOptions *opt, bool is_init);
static void begin_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn);
static void change_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
					  Relation relation, ReorderBufferChange *change);
static void truncate_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
						int nrelations, Relation relations[],
						ReorderBufferChange *change);
static void message_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
					   XLogRecPtr message_lsn, bool transactional,
					   const char *prefix, Size size, const char *message);
static void commit_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
					  XLogRecPtr commit_lsn);
static PluginState *create_state(LogicalDecodingContext *ctx);
static void set_option(PluginOptions *options, DefElem *elem);
static bool bool_option(DefElem *elem);
static void unknown_option(const char *name);
static void check_publication(const char *name);
static void follow_publication_setting(PluginState *state);
static void give_begin(LogicalDecodingContext *ctx, ReorderBufferTXN *txn);
static bool publishes_action(const RelEntry *entry,
							 ReorderBufferChangeType action);
static bool truncates_too(int nrelations, Relation relations[], Oid relid);

/* What PostgreSQL looks for in a library that is named as output plugin. */
void
_PG_output_plugin_init(OutputPluginCallbacks *cb)
{
	cb->startup_cb = startup_cb;
	cb->begin_cb = begin_cb;
	cb->change_cb = change_cb;
	cb->truncate_cb = truncate_cb;
	cb->message_cb = message_cb;
	cb->commit_cb = commit_cb;
}

void
plugin_set_sink(const PluginSink *sink)
{
	current_sink = sink;
}

/* ----- session and options ----- */

static void
startup_cb(LogicalDecodingContext *ctx, OutputPluginOptions *opt, bool is_init)
{
	PluginState *state = create_state(ctx);
	ListCell   *lc;

	opt->output_type = OUTPUT_PLUGIN_TEXTUAL_OUTPUT;
	opt->receive_rewrites = false;
	ctx->output_plugin_private = state;

	foreach(lc, ctx->output_plugin_options)
		set_option(&state->options, lfirst(lc));

	follow_publication_setting(state);

	/*
	 * The engine may run before there is a publication, and a slot may be
	 * made before it.
	 */
	if (!is_init && state->sink == NULL)
		check_publication(state->publication);
}

/*
 * The session's state has a memory context of its own below the decoding
 * context, with which it goes away after an error too.
 */
static PluginState *
create_state(LogicalDecodingContext *ctx)
{
	MemoryContext context = AllocSetContextCreate(ctx->context,
												  "rtsync output plugin",
												  ALLOCSET_DEFAULT_SIZES);
	PluginState *state = MemoryContextAllocZero(context, sizeof(PluginState));

	state->context = context;
	state->change_context = AllocSetContextCreate(context,
												  "rtsync decoded change",
												  ALLOCSET_DEFAULT_SIZES);
	state->sink = current_sink;
	state->options.include_transaction = true;
	state->options.include_messages = true;
	state->options.skip_empty_xacts = true;
	rel_cache_init(state);
	return state;
}

static void
set_option(PluginOptions *options, DefElem *elem)
{
	if (strcmp(elem->defname, "publication") == 0)
	{
		if (elem->arg == NULL || strVal(elem->arg)[0] == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("output plugin option \"%s\" requires a value",
							elem->defname)));
		options->publication = strVal(elem->arg);
		return;
	}

	for (int i = 0; i < lengthof(bool_options); i++)
	{
		if (strcmp(elem->defname, bool_options[i].name) == 0)
		{
			*(bool *) ((char *) options + bool_options[i].offset) =
				bool_option(elem);
			return;
		}
	}
	unknown_option(elem->defname);
}

/* An option without value (pg_recvlogical can send such) means "on". */
static bool
bool_option(DefElem *elem)
{
	bool		value = true;

	if (elem->arg != NULL && !parse_bool(strVal(elem->arg), &value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for output plugin option \"%s\": \"%s\"",
						elem->defname, strVal(elem->arg)),
				 errhint("The option takes a Boolean value.")));
	return value;
}

static void
unknown_option(const char *name)
{
	StringInfoData names;

	initStringInfo(&names);
	appendStringInfoString(&names, "publication");
	for (int i = 0; i < lengthof(bool_options); i++)
		appendStringInfo(&names, ", %s", bool_options[i].name);

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized output plugin option \"%s\"", name),
			 errhint("Valid options are: %s.", names.data)));
}

/*
 * Complain if there is no such publication now.  While changes are decoded,
 * its not existing yet just means that they were not published.
 */
static void
check_publication(const char *name)
{
	bool		own_transaction = !IsTransactionState();
	MemoryContext oldcontext = CurrentMemoryContext;
	bool		exists;

	if (own_transaction)
		StartTransactionCommand();
	exists = publication_exists(name);
	if (own_transaction)
		CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);

	if (!exists)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("publication \"%s\" does not exist", name),
				 errhint("Create it with CREATE PUBLICATION, or name another one with the output plugin option \"publication\" or the setting \"rtsync.publication\".")));
}

/* The setting can change while the session lives. */
static void
follow_publication_setting(PluginState *state)
{
	const char *name = state->options.publication;

	if (name == NULL)
		name = rtsync_publication != NULL ? rtsync_publication : "rtsync";
	if (state->publication != NULL && strcmp(state->publication, name) == 0)
		return;

	if (state->publication != NULL)
		pfree(state->publication);
	state->publication = MemoryContextStrdup(state->context, name);
	rel_cache_invalidate(state);
}

/* ----- transactions ----- */

static void
begin_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	PluginState *state = ctx->output_plugin_private;

	state->begun = false;
	follow_publication_setting(state);
	rel_cache_begin(state);
	if (state->sink == NULL && !state->options.skip_empty_xacts)
		give_begin(ctx, txn);
}

/* Give out the begin of the transaction unless that is done. */
static void
give_begin(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	PluginState *state = ctx->output_plugin_private;

	if (state->begun)
		return;
	state->begun = true;
	if (state->sink != NULL)
		state->sink->begin_cb(txn);
	else if (state->options.include_transaction)
		text_begin(ctx, txn);
}

static void
commit_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
		  XLogRecPtr commit_lsn)
{
	PluginState *state = ctx->output_plugin_private;
	bool		begun = state->begun;

	OutputPluginUpdateProgress(ctx, !begun);
	state->begun = false;
	if (!begun)
		return;
	if (state->sink != NULL)
		state->sink->commit_cb(txn, commit_lsn);
	else if (state->options.include_transaction)
		text_commit(ctx, txn, commit_lsn);
}

/* ----- changes ----- */

static void
give_touch(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, Oid relid)
{
	PluginState *state = ctx->output_plugin_private;

	if (!state->sink->watches_cb(relid, txn))
		return;
	give_begin(ctx, txn);
	state->sink->touch_cb(txn, relid);
}

/* Tell the sink of the first change of a table in a transaction. */
static void
note_touch(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
		   RelEntry *entry)
{
	PluginState *state = ctx->output_plugin_private;

	if (state->sink == NULL || entry->touched_by == txn->xid)
		return;
	entry->touched_by = txn->xid;
	give_touch(ctx, txn, entry->relid);
	for (int i = 0; i < entry->nancestors; i++)
		give_touch(ctx, txn, entry->ancestors[i]);
}

static void
change_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
		  Relation relation, ReorderBufferChange *change)
{
	PluginState *state = ctx->output_plugin_private;
	RelEntry   *entry = rel_cache_lookup(state, relation);
	PluginChange out;
	MemoryContext oldcontext;
	bool		given = false;

	note_touch(ctx, txn, entry);
	oldcontext = MemoryContextSwitchTo(state->change_context);
	for (; entry != NULL; entry = entry->above)
	{
		if (!publishes_action(entry, change->action) ||
			!rel_make_change(state, entry, relation, change, &out))
			continue;
		given = true;
		give_begin(ctx, txn);
		if (state->sink != NULL)
			state->sink->change_cb(txn, &out);
		else
			text_change(ctx, txn, entry, &out);
	}
	if (!given)
		compat_change_skipped(ctx);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(state->change_context);
}

static bool
publishes_action(const RelEntry *entry, ReorderBufferChangeType action)
{
	switch (action)
	{
		case REORDER_BUFFER_CHANGE_INSERT:
			return entry->pub.insert;
		case REORDER_BUFFER_CHANGE_UPDATE:
			return entry->pub.update;
		case REORDER_BUFFER_CHANGE_DELETE:
			return entry->pub.delete;
		default:
			return false;
	}
}

/*
 * One change for each table.  A TRUNCATE of a partitioned or inherited table
 * names those below it too; as what is published as the table itself, they say
 * nothing new.  Where only one below is truncated, the built-in replication is
 * silent, and so is the text format; the sink is told.
 */
static void
truncate_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
			int nrelations, Relation relations[], ReorderBufferChange *change)
{
	PluginState *state = ctx->output_plugin_private;
	MemoryContext oldcontext = MemoryContextSwitchTo(state->change_context);

	for (int i = 0; i < nrelations; i++)
	{
		RelEntry   *entry = rel_cache_lookup(state, relations[i]);

		note_touch(ctx, txn, entry);
		for (; entry != NULL; entry = entry->above)
		{
			bool		as_another = entry->pub.publish_as != entry->relid;
			PluginChange out = {
				.kind = CHANGE_TRUNCATE,
				.lsn = change->lsn,
				.schema = entry->schema,
				.partial = as_another
			};

			if (!entry->pub.truncate ||
				(as_another &&
				 (state->sink == NULL ||
				  truncates_too(nrelations, relations, entry->pub.publish_as))))
				continue;
			give_begin(ctx, txn);
			if (state->sink != NULL)
				state->sink->change_cb(txn, &out);
			else
				text_truncate(ctx, txn, entry, change->lsn,
							  change->data.truncate.cascade,
							  change->data.truncate.restart_seqs);
		}
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(state->change_context);
}

static bool
truncates_too(int nrelations, Relation relations[], Oid relid)
{
	for (int i = 0; i < nrelations; i++)
	{
		if (RelationGetRelid(relations[i]) == relid)
			return true;
	}
	return false;
}

/* txn may be NULL if the message is not transactional. */
static void
message_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
		   XLogRecPtr message_lsn, bool transactional,
		   const char *prefix, Size size, const char *message)
{
	PluginState *state = ctx->output_plugin_private;
	MemoryContext oldcontext;

	if (state->sink == NULL ? !state->options.include_messages :
		strcmp(prefix, MESSAGE_PREFIX) != 0)
		return;

	oldcontext = MemoryContextSwitchTo(state->change_context);
	if (transactional)
		give_begin(ctx, txn);
	if (state->sink != NULL)
		state->sink->message_cb(txn, message_lsn, transactional, prefix,
								size, message);
	else
		text_message(ctx, txn, message_lsn, transactional, prefix,
					 size, message);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(state->change_context);
}
