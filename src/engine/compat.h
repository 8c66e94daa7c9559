/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  The differences between PostgreSQL 15, 16, 17 and 18, all of them here.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_COMPAT_H
#define RTSYNC_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "rtsync needs PostgreSQL 15 or newer"
#endif

#include "access/attmap.h"
#include "access/genam.h"
#include "access/stratnum.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_database.h"
#include "common/jsonapi.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parse_relation.h"
#include "postmaster/bgworker.h"
#include "replication/logical.h"
#include "replication/message.h"
#include "replication/output_plugin.h"
#include "replication/reorderbuffer.h"
#include "replication/slot.h"
#include "rewrite/rewriteManip.h"
#include "storage/buffile.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/resowner.h"

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
#if PG_VERSION_NUM >= 180000
#include "access/amapi.h"
#include "rewrite/rewriteHandler.h"
#include "storage/waiteventset.h"
#endif

/* The flag became a kind of process in 17 */
static inline bool
compat_is_background_worker(void)
{
#if PG_VERSION_NUM >= 170000
	return AmBackgroundWorkerProcess();
#else
	return IsBackgroundWorker;
#endif
}

/* The tuple of a ReorderBufferChange was wrapped before 17 */
static inline HeapTuple
compat_change_oldtuple(ReorderBufferChange *change)
{
#if PG_VERSION_NUM >= 170000
	return change->data.tp.oldtuple;
#else
	return change->data.tp.oldtuple ? &change->data.tp.oldtuple->tuple : NULL;
#endif
}

static inline HeapTuple
compat_change_newtuple(ReorderBufferChange *change)
{
#if PG_VERSION_NUM >= 170000
	return change->data.tp.newtuple;
#else
	return change->data.tp.newtuple ? &change->data.tp.newtuple->tuple : NULL;
#endif
}

/* Map from the layout "from" to the layout "to", NULL if they are the same */
static inline AttrMap *
compat_attrmap(TupleDesc from, TupleDesc to)
{
#if PG_VERSION_NUM >= 160000
	return build_attrmap_by_name_if_req(from, to, false);
#else
	return build_attrmap_by_name_if_req(from, to);
#endif
}

/* Is the column computed when it is read, and in no tuple? */
static inline bool
compat_att_is_virtual(Form_pg_attribute att)
{
#if PG_VERSION_NUM >= 180000
	return att->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL;
#else
	return false;
#endif
}

/*
 * Let a walsender keep its connection alive while it skips changes.  From 16
 * on decoding does that by itself.
 */
static inline void
compat_change_skipped(LogicalDecodingContext *ctx)
{
#if PG_VERSION_NUM < 160000
	static int	skipped = 0;

	if (++skipped >= 100)
	{
		skipped = 0;
		OutputPluginUpdateProgress(ctx, false);
	}
#endif
}

/* Create an ephemeral logical slot of this database that does not fail over */
static inline void
compat_slot_create(const char *name)
{
#if PG_VERSION_NUM >= 170000
	ReplicationSlotCreate(name, true, RS_EPHEMERAL, false, false, false);
#else
	ReplicationSlotCreate(name, true, RS_EPHEMERAL, false);
#endif
}

/* Acquire a slot, also one that the server has given up. */
static inline void
compat_slot_acquire(const char *name)
{
#if PG_VERSION_NUM >= 180000
	ReplicationSlotAcquire(name, true, false);
#else
	ReplicationSlotAcquire(name, true);
#endif
}

/* Has the server given up the WAL or the rows that the acquired slot needs? */
static inline bool
compat_slot_invalidated(void)
{
#if PG_VERSION_NUM >= 160000
	return MyReplicationSlot->data.invalidated != RS_INVAL_NONE;
#else
	return MyReplicationSlot->data.invalidated_at != InvalidXLogRecPtr;
#endif
}

/*
 * From 17 on a limit to the time of a transaction ends the whole process, and
 * counts as soon as it is set: have none, and let no policy set one.
 */
static inline void
compat_no_transaction_timeout(void)
{
#if PG_VERSION_NUM >= 170000
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	find_option("transaction_timeout", false, false, ERROR)->context = PGC_SIGHUP;
#endif
}

/* Write a logical message; it is not flushed */
static inline XLogRecPtr
compat_log_message(const char *prefix, const char *data, Size size,
				   bool transactional)
{
#if PG_VERSION_NUM >= 170000
	return LogLogicalMessage(prefix, data, size, transactional, false);
#else
	return LogLogicalMessage(prefix, data, size, transactional);
#endif
}

/* Does the current user own a database? */
static inline bool
compat_owns_database(Oid dboid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, dboid, GetUserId());
#else
	return pg_database_ownercheck(dboid, GetUserId());
#endif
}

static inline IndexScanDesc
compat_index_beginscan(Relation rel, Relation index, Snapshot snapshot,
					   int nkeys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(rel, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(rel, index, snapshot, nkeys, 0);
#endif
}

/*
 * The strategy number of equality in an operator family, and with it the one
 * for the type; false if there is none.
 */
static inline bool
compat_equality(Relation index, int column, StrategyNumber *strategy, Oid *opno)
{
	Oid			opfamily = index->rd_opfamily[column];
	Oid			type = index->rd_opcintype[column];

#if PG_VERSION_NUM >= 180000
	*strategy = IndexAmTranslateCompareType(COMPARE_EQ, index->rd_rel->relam,
											opfamily, true);
#else
	*strategy = BTEqualStrategyNumber;
#endif
	if (*strategy == InvalidStrategy)
		return false;
	*opno = get_opfamily_member(opfamily, type, type, *strategy);
	return OidIsValid(*opno);
}

/* Read exactly so much from a BufFile, or raise an error */
static inline void
compat_buffile_read(BufFile *file, void *data, Size size)
{
#if PG_VERSION_NUM >= 160000
	BufFileReadExact(file, data, size);
#else
	if (BufFileRead(file, data, size) != size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read temporary file: %m")));
#endif
}

static inline WaitEventSet *
compat_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

static inline void
compat_executor_run(QueryDesc *query_desc, uint64 count)
{
#if PG_VERSION_NUM >= 180000
	ExecutorRun(query_desc, ForwardScanDirection, count);
#else
	ExecutorRun(query_desc, ForwardScanDirection, count, true);
#endif
}

/*--------------------------------------------------------------------------
 * Privileges and row security
 *--------------------------------------------------------------------------
 */

static inline bool
compat_namespace_usage(Oid nspid, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(NamespaceRelationId, nspid, roleid,
						   ACL_USAGE) == ACLCHECK_OK;
#else
	return pg_namespace_aclcheck(nspid, roleid, ACL_USAGE) == ACLCHECK_OK;
#endif
}

/* Make a hand-made range table entry one that needs this privilege */
static inline void
compat_require_privilege(Query *query, RangeTblEntry *rte, AclMode mode)
{
#if PG_VERSION_NUM >= 160000
	addRTEPermissionInfo(&query->rteperminfos, rte)->requiredPerms = mode;
#else
	rte->requiredPerms = mode;
#endif
}

/* Put their expressions in the place of a table's columns computed when read */
static inline Node *
compat_expand_generated(Node *node, Relation rel)
{
#if PG_VERSION_NUM >= 180000
	return expand_generated_columns_in_expr(node, rel, 1);
#else
	return node;
#endif
}

/* Make the tables of a sub-query tables of the query, behind its own */
static inline void
compat_combine_range_tables(Query *query, Query *sub)
{
#if PG_VERSION_NUM >= 160000
	CombineRangeTables(&query->rtable, &query->rteperminfos,
					   sub->rtable, sub->rteperminfos);
#else
	query->rtable = list_concat(query->rtable, sub->rtable);
#endif
}

/* Is it one of the SQL/JSON nodes, which may run a type's code? */
static inline bool
compat_is_json_expr(Node *node)
{
#if PG_VERSION_NUM >= 170000
	if (IsA(node, JsonExpr))
		return true;
#endif
#if PG_VERSION_NUM >= 160000
	return IsA(node, JsonConstructorExpr) || IsA(node, JsonIsPredicate) ||
		IsA(node, JsonValueExpr);
#else
	return false;
#endif
}

/*--------------------------------------------------------------------------
 * JSON
 *--------------------------------------------------------------------------
 */

/* What callbacks of JsonSemAction return, and how they end */
#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType CompatJsonResult;
#define COMPAT_JSON_RETURN return JSON_SUCCESS
#else
typedef void CompatJsonResult;
#define COMPAT_JSON_RETURN return
#endif

static inline JsonLexContext *
compat_json_lex(const char *json, Size length)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, length, PG_UTF8, true);
#else
	return makeJsonLexContextCstringLen((char *) json, (int) length, PG_UTF8,
										true);
#endif
}

/*
 * Of libpq/libpq.h, which needs the headers of GSSAPI where the server was
 * built with it: the server's own rules for keys and their passphrases.
 */
extern bool check_ssl_key_file_permissions(const char *ssl_key_file,
										   bool isServerStart);
extern int	run_ssl_passphrase_command(const char *prompt, bool is_server_start,
									   char *buf, int size);

#endif							/* RTSYNC_COMPAT_H */
