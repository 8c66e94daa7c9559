/*-------------------------------------------------------------------------
 *
 * plugin.h
 *	  The output plugin: WAL changes of published tables, in commit order.
 *
 * The plugin has two outlets.  Without a sink it is an ordinary output plugin
 * that writes one JSON object per change.  The engine, which runs the decoding
 * in its own process, sets a sink before it creates the decoding context, and
 * receives the changes as tuples instead.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_PLUGIN_H
#define RTSYNC_PLUGIN_H

#include "postgres.h"

#include "access/htup.h"
#include "replication/logical.h"
#include "replication/output_plugin.h"
#include "replication/reorderbuffer.h"

#include "engine/schema.h"

typedef enum ChangeKind
{
	CHANGE_INSERT = 'I',
	CHANGE_UPDATE = 'U',
	CHANGE_DELETE = 'D',
	CHANGE_TRUNCATE = 'T'
} ChangeKind;

/*
 * One change of one published table, with the publication's operations, row
 * filter, column list and partition root applied (like pgoutput, an UPDATE
 * that enters or leaves the row filter has become an INSERT or DELETE).
 *
 * Tuples are in schema->desc's layout and hold no external value.  Everything
 * lives until the callback returns.
 */
typedef struct PluginChange
{
	ChangeKind	kind;
	XLogRecPtr	lsn;
	RelSchema  *schema;
	HeapTuple	oldtuple;		/* NULL if nothing of the old row is known;
								 * else only schema->identity's columns are,
								 * the others read as NULL but are unknown */
	HeapTuple	newtuple;		/* NULL for DELETE and TRUNCATE */
	Bitmapset  *missing;		/* attnums of newtuple whose unchanged TOAST
								 * value the WAL does not hold, or that are
								 * too large for a tuple (they read as NULL
								 * but are unknown); usually NULL */
	bool		partial;		/* TRUNCATE: of a table below this one, by
								 * partitioning or inheritance, or another
								 * change there that the WAL does not tell
								 * enough of; some rows have changed or are
								 * gone, not all */
} PluginChange;

/*
 * Where the engine takes the changes; called outside any engine transaction,
 * under the historic snapshot: no current catalog may be read there.
 *
 * begin_cb and commit_cb come only for transactions that have at least one
 * change, touch or transactional message in between.  A message that is not
 * transactional comes by itself, between transactions; its txn may be NULL.
 * Only messages with the prefix MESSAGE_PREFIX come.
 * What the callbacks allocate in the current memory context is gone when they
 * return.  A callback that raises an error ends the decoding; its transaction
 * then has no commit_cb.
 */
typedef struct PluginSink
{
	void		(*begin_cb) (ReorderBufferTXN *txn);
	void		(*change_cb) (ReorderBufferTXN *txn, const PluginChange *change);

	/*
	 * watches_cb hears of each table that a transaction changes, published or
	 * not, before its first change; if it says so, touch_cb is called.  A
	 * partition, or a table that inherits, stands for those above it.
	 */
	bool		(*watches_cb) (Oid relid, ReorderBufferTXN *txn);
	void		(*touch_cb) (ReorderBufferTXN *txn, Oid relid);
	void		(*message_cb) (ReorderBufferTXN *txn, XLogRecPtr lsn,
							   bool transactional, const char *prefix,
							   Size size, const char *message);
	void		(*commit_cb) (ReorderBufferTXN *txn, XLogRecPtr commit_lsn);
} PluginSink;

/* Must be called before the decoding context is made, which keeps the sink
 * that it finds (NULL: none). */
extern void plugin_set_sink(const PluginSink *sink);
extern bool plugin_filtered(ChangeKind *kind, bool *has_old, bool *has_new,
							bool old_passes, bool new_passes);
extern PGDLLEXPORT void _PG_output_plugin_init(OutputPluginCallbacks *cb);

#endif							/* RTSYNC_PLUGIN_H */
