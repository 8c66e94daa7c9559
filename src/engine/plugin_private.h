/*-------------------------------------------------------------------------
 *
 * plugin_private.h
 *	  What the files of the output plugin share among themselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_PLUGIN_PRIVATE_H
#define RTSYNC_PLUGIN_PRIVATE_H

#include "postgres.h"

#include "access/attmap.h"
#include "executor/tuptable.h"
#include "lib/ilist.h"
#include "nodes/execnodes.h"

#include "engine/jsonout.h"
#include "engine/plugin.h"
#include "engine/publication.h"
#include "engine/schema.h"

/* Options of the text format; the engine's sink needs none of them */
typedef struct PluginOptions
{
	char	   *publication;	/* NULL: what rtsync.publication says */
	bool		include_xids;
	bool		include_lsn;
	bool		include_timestamp;
	bool		include_types;
	bool		include_transaction;
	bool		include_messages;
	bool		skip_empty_xacts;
} PluginOptions;

/* A column in the text format */
typedef struct TextColumn
{
	bool		published;
	bool		identity;
	char	   *key;			/* "name": escaped, with quotes and colon */
	char	   *type;			/* quoted; NULL unless include-types */
	JsonOut		out;
} TextColumn;

/*
 * What the plugin knows of one table.  Made, remade and freed by plugin_rel.c
 * alone.  An entry stays where it is as long as the decoding session lives or
 * until it is swept out between two transactions.
 *
 * For the engine, the changes of a table that inherits from others appear as
 * changes of these too: there is a list of further entries then, each with the
 * same relid, but pub and what depends on it are those of a table above.
 */
typedef struct RelEntry
{
	dlist_node	node;			/* in PluginState.entries */
	Oid			relid;			/* the changed table */
	bool		built;			/* what follows is complete ... */
	bool		stale;			/* ... but something it depends on changed */
	PublicationRel pub;
	struct RelEntry *above;		/* next of the table's entries, or NULL */

	TransactionId touched_by;	/* the last transaction whose touch was given
								 * out */

	/* what the entry depends on; in context */
	Oid		   *ancestors;		/* partitioned or inherited tables above */
	int			nancestors;
	uint32	   *type_hashes;	/* of the columns' types, in TYPEOID */
	int			ntypes;

	/* NULL and unset if the table is not published */
	RelSchema  *schema;			/* one reference */
	MemoryContext context;		/* of all that follows, and of pub */
	int			natts;			/* of the changed table */
	bool		has_missing;	/* tuples may be shorter than natts */
	bool		vague;			/* the WAL does not tell enough of old rows */
	AttrMap    *map;			/* to schema's layout, NULL if the same */
	AttrNumber *published_as;	/* attnum in schema by changed attnum - 1 */
	Datum	   *values,
			   *old_values,
			   *out_values;
	bool	   *nulls,
			   *old_nulls,
			   *out_nulls;

	/* row filter, NULL if there is none */
	ExprState  *filter;
	bool		identity_decides;	/* what it reads is part of the identity */
	ExprContext *econtext;
	TupleTableSlot *slot;

	/* text format only */
	TextColumn *columns;		/* by attnum - 1 */
	char	   *header;			/* "schema":..,"table":.. */
} RelEntry;

/* One decoding session */
typedef struct PluginState
{
	MemoryContext context;		/* lives as long as the session */
	MemoryContext change_context;	/* reset after each change */
	PluginOptions options;
	const PluginSink *sink;		/* NULL: text format */
	char	   *publication;
	bool		begun;			/* the transaction's begin was given out */

	/* plugin_rel.c's */
	dlist_node	node;			/* in the list of live sessions */
	MemoryContextCallback reset_cb;
	struct relhash_hash *by_relid;
	dlist_head	entries;
	RelEntry   *last;			/* the entry found last, or NULL */
	int			nstale;			/* entries marked since the last sweep */
	int			nbelow;			/* entries that have ancestors */
} PluginState;

/* plugin_rel.c: tables */
extern void rel_cache_init(PluginState *state);
extern void rel_cache_begin(PluginState *state);
extern void rel_cache_invalidate(PluginState *state);
extern RelEntry *rel_cache_lookup(PluginState *state, Relation relation);
extern bool rel_make_change(PluginState *state, RelEntry *entry,
							Relation relation, ReorderBufferChange *change,
							PluginChange *out);

/* plugin_text.c: the text format */
extern void text_prepare(PluginState *state, RelEntry *entry);
extern void text_begin(LogicalDecodingContext *ctx, ReorderBufferTXN *txn);
extern void text_commit(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
						XLogRecPtr commit_lsn);
extern void text_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
						RelEntry *entry, const PluginChange *change);
extern void text_truncate(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
						  RelEntry *entry, XLogRecPtr lsn,
						  bool cascade, bool restart_identity);
extern void text_message(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
						 XLogRecPtr lsn, bool transactional,
						 const char *prefix, Size size, const char *message);

#endif							/* RTSYNC_PLUGIN_PRIVATE_H */
