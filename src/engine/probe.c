/*-------------------------------------------------------------------------
 *
 * probe.c
 *	  A subscription that exists only to be asked.
 *
 * It has the structures that the engine makes for a binding of a client, but
 * no channel, and no other subscription beside it; the change that it is asked
 * about was never made, but put together from JSON as the WAL would hold it.
 * Everything is decided by decide.c and rendered by render.c, as it is there.
 *
 * Who asks must be able to become the role with SET ROLE.  What users wrote
 * (policies, filters, input and output functions) runs as that role, like in
 * the engine; but it shares the session with who asks.
 *
 * Called by explain.c in ordinary backends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/policy.h"
#include "engine/probe.h"
#include "engine/refill.h"
#include "engine/render.h"
#include "engine/settings.h"

/* The engine's caches, in this backend */
static void
init_caches(void)
{
	static bool done = false;

	policy_init();
	if (!done)
		render_init();
	done = true;
}

/* Refuse what principal.c would refuse in other words. */
static void
check_caller(void)
{
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	if (sec_context != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("row security cannot be explained inside a security-definer function or a security-restricted operation")));
}

/* The claims as JSON text; "role" is added where it is missing. */
static char *
make_claims(const char *rolename, Jsonb *claims)
{
	StringInfoData buf;
	Datum		jsonb;

	if (claims != NULL && !JB_ROOT_IS_OBJECT(claims))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the claims must be a JSON object")));
	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"role\":");
	escape_json(&buf, rolename);
	appendStringInfoChar(&buf, '}');
	jsonb = DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
	if (claims != NULL)
		jsonb = DirectFunctionCall2(jsonb_concat, jsonb,
									JsonbPGetDatum(claims));
	return JsonbToCString(NULL, &DatumGetJsonbP(jsonb)->root, 0);
}

static void
make_principal(Probe *probe, Oid roleid, Jsonb *claims)
{
	PrincipalScope scope;

	probe->principal.roleid = roleid;
	probe->principal.rolename = GetUserNameFromId(roleid, false);
	probe->principal.claims = make_claims(probe->principal.rolename, claims);

	/* raises an error unless the session may SET ROLE to it */
	principal_enter(&probe->principal, &scope);
	principal_leave(&scope);
}

static void
unref_schema_cb(void *schema)
{
	schema_unref(schema);
}

static void
open_table(Probe *probe, Oid relid)
{
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));
	Relation	rel = table_open(relid, AccessShareLock);

	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", RelationGetRelationName(rel)),
				 errdetail("Only the changes of tables can be subscribed to.")));
	probe->rel = rel;
	publication_describe(rtsync_publication, relid, &probe->published);
	probe->schema = schema_create(rel, rel,
								  probe->published.publish_as == relid ?
								  probe->published.columns : NULL);
	callback->func = unref_schema_cb;
	callback->arg = probe->schema;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
}

/* The group, and the table's view of it, as tables.c would make them */
static void
make_group(Probe *probe, const BindingSpec *spec)
{
	SubscriptionGroup *group = &probe->group;

	probe->route.relid = RelationGetRelid(probe->rel);
	probe->route.schema = probe->schema;
	dlist_init(&probe->route.roles);

	probe->role.route = &probe->route;
	probe->role.roleid = probe->principal.roleid;
	dlist_init(&probe->role.groups);
	dlist_init(&probe->role.scan);
	probe->role.context = CurrentMemoryContext;
	probe->role.index = predicate_create(CurrentMemoryContext);

	group->context = CurrentMemoryContext;
	group->principal = &probe->principal;
	binding_copy(&group->spec, spec);
	group->spec.schema = probe->schema->nspname;
	group->spec.table = probe->schema->relname;
	binding_options(&group->spec, &group->options);
	dlist_init(&group->bindings);
	dlist_init(&group->tables);

	probe->tg.group = group;
	probe->tg.id = group->id;
	probe->tg.events = group->spec.events;
	probe->tg.view = group->options.view;
	probe->tg.role = &probe->role;
	dlist_push_tail(&probe->role.groups, &probe->tg.in_role);
	dlist_push_tail(&probe->role.scan, &probe->tg.in_scan);
	dlist_push_tail(&group->tables, &probe->tg.in_group);
}

/*
 * A subscription to the table, by the role and with the claims given (NULL:
 * none); schema and table of the specification are set here.  Raises an error
 * if who asks may not be the role.
 */
Probe *
probe_open(Oid roleid, Jsonb *claims, Oid relid, const BindingSpec *spec)
{
	Probe	   *probe = palloc0(sizeof(Probe));

	init_caches();
	check_caller();
	make_principal(probe, roleid, claims);
	open_table(probe, relid);
	make_group(probe, spec);
	return probe;
}

/* Needed only if no error was raised. */
void
probe_close(Probe *probe)
{
	table_close(probe->rel, NoLock);
}

/*--------------------------------------------------------------------------
 * Rows
 *--------------------------------------------------------------------------
 */

/* A name that is no column's is more likely a mistake than meant. */
static void
check_names(Probe *probe, Jsonb *jsonb)
{
	JsonbIterator *iterator = JsonbIteratorInit(&jsonb->root);
	JsonbIteratorToken token;
	JsonbValue	key;

	if (!JB_ROOT_IS_OBJECT(jsonb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a row must be a JSON object")));
	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(key.val.string.val, key.val.string.len);
		if (get_attnum(probe->schema->relid, name) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of table \"%s\" does not exist",
							name, probe->schema->relname)));
	}
}

/* jsonb_populate_record, by its function: names need not be looked up */
static Datum
populate(Oid rowtype, Jsonb *jsonb)
{
	Expr	   *null = (Expr *) makeNullConst(rowtype, -1, InvalidOid);
	Expr	   *value = (Expr *) makeConst(JSONBOID, -1, InvalidOid, -1,
										   JsonbPGetDatum(jsonb), false, false);
	Expr	   *expr = (Expr *) makeFuncExpr(F_JSONB_POPULATE_RECORD, rowtype,
											 list_make2(null, value),
											 InvalidOid, InvalidOid,
											 COERCE_EXPLICIT_CALL);
	ExprContext *econtext = CreateStandaloneExprContext();
	bool		isnull;

	/* the result is in the current memory context */
	return ExecEvalExpr(ExecInitExpr(expr, NULL), econtext, &isnull);
}

/*
 * The row that an object describes, in the current memory context.  Columns
 * that it does not have are null.  Values are read as the principal.
 */
void
probe_row(Probe *probe, Jsonb *jsonb, HeapTuple row)
{
	MemoryContext context = CurrentMemoryContext;
	PrincipalScope scope;
	HeapTupleHeader header;

	check_names(probe, jsonb);
	principal_enter(&probe->principal, &scope);
	header = DatumGetHeapTupleHeader(populate(probe->rel->rd_rel->reltype,
											  jsonb));
	principal_leave(&scope);
	MemoryContextSwitchTo(context);

	memset(row, 0, sizeof(*row));
	row->t_len = HeapTupleHeaderGetDatumLength(header);
	row->t_data = header;
	ItemPointerSetInvalid(&row->t_self);
	row->t_tableOid = probe->schema->relid;
}

static Bitmapset *
live_columns(TupleDesc desc)
{
	Bitmapset  *result = NULL;

	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			result = bms_add_member(result, i + 1);
	return result;
}

/*
 * Does the object have the columns of the primary key, and no others?  Where
 * the table has no others, it is a row.
 */
bool
probe_is_key(Probe *probe, Jsonb *jsonb)
{
	Bitmapset  *all = live_columns(probe->schema->desc);
	int			attnum = -1;

	if (bms_is_empty(probe->schema->pkey) || !JB_ROOT_IS_OBJECT(jsonb) ||
		bms_equal(probe->schema->pkey, all) ||
		JB_ROOT_COUNT(jsonb) != bms_num_members(probe->schema->pkey))
		return false;
	while ((attnum = bms_next_member(probe->schema->pkey, attnum)) >= 0)
	{
		char	   *name = NameStr(TupleDescAttr(probe->schema->desc,
												 attnum - 1)->attname);
		JsonbValue	value;

		if (getKeyJsonValueFromContainer(&jsonb->root, name, strlen(name),
										 &value) == NULL)
			return false;
	}
	return true;
}

/*
 * Complete a row of which the primary key is known by what the table has.
 * False if there is no such row.  Without regard to anybody's rights.
 */
bool
probe_look_up(Probe *probe, HeapTuple row)
{
	ChangeRows	rows = {
		.kind = CHANGE_INSERT,
		.schema = probe->schema,
		.has_new = true,
		.newtuple = *row,
		.new_known = bms_copy(probe->schema->pkey),
	};
	int			known = bms_num_members(rows.new_known);

	refill_rows(&rows);
	*row = rows.newtuple;
	return bms_num_members(rows.new_known) > known;
}

/*--------------------------------------------------------------------------
 * Changes
 *--------------------------------------------------------------------------
 */

/* Have columns of the replica identity changed? */
static bool
identity_changed(Probe *probe, HeapTuple old, HeapTuple new)
{
	TupleDesc	desc = probe->schema->desc;
	int			attnum = -1;

	while ((attnum = bms_next_member(probe->schema->identity, attnum)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(desc, attnum - 1);
		bool		old_null;
		bool		new_null;
		Datum		old_value = heap_getattr(old, attnum, desc, &old_null);
		Datum		new_value = heap_getattr(new, attnum, desc, &new_null);

		if (old_null != new_null ||
			(!old_null && !datumIsEqual(old_value, new_value,
										att->attbyval, att->attlen)))
			return true;
	}
	return false;
}

/* What the WAL holds of the old row */
static HeapTuple
identity_of(Probe *probe, HeapTuple old)
{
	TupleDesc	desc = probe->schema->desc;
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);

	heap_deform_tuple(old, desc, values, nulls);
	for (int i = 0; i < desc->natts; i++)
		if (!bms_is_member(i + 1, probe->schema->identity))
			nulls[i] = true;
	return heap_form_tuple(desc, values, nulls);
}

/*
 * The change from one row to another as it would come from the WAL: without an
 * old row (NULL) an INSERT, without a new one a DELETE.
 */
void
probe_change(Probe *probe, HeapTuple old, HeapTuple new, ChangeRows *rows)
{
	memset(rows, 0, sizeof(*rows));
	rows->kind = old == NULL ? CHANGE_INSERT :
		new == NULL ? CHANGE_DELETE : CHANGE_UPDATE;
	rows->schema = probe->schema;
	rows->has_new = new != NULL;
	if (new != NULL)
		rows->newtuple = *new;
	rows->has_old = old != NULL && !bms_is_empty(probe->schema->identity) &&
		(new == NULL || SCHEMA_OLD_FULL(probe->schema) ||
		 identity_changed(probe, old, new));
	if (rows->has_old)
		rows->oldtuple = *identity_of(probe, old);
}

/* Does a row pass the publication's row filter, if there is one? */
Verdict
probe_row_filter(Probe *probe, const PolicyRow *row)
{
	Expr	   *filter = (Expr *) probe->published.row_filter;
	TupleDesc	desc = CreateTupleDescCopyConstr(RelationGetDescr(probe->rel));
	RowColumns	columns;
	RowCheck   *check;

	if (filter == NULL)
		return VERDICT_YES;
	filter = expression_planner((Expr *) compat_expand_generated((Node *) filter,
																 probe->rel));
	rowcheck_columns((Node *) filter, desc, &columns);
	check = rowcheck_create(list_make1(filter), desc, columns.attnums,
							CurrentMemoryContext);
	return rowcheck_run(check, row);
}

/*
 * Do with the change what the output plugin does: apply the publication's
 * operations and row filter, which may make it another change.  False if
 * nothing is published.
 */
bool
probe_publish(Probe *probe, ChangeRows *rows)
{
	PublicationRel *published = &probe->published;
	PolicyRow	old = {rows->schema, &rows->oldtuple, rows->schema->identity};
	PolicyRow	new = {rows->schema, &rows->newtuple, NULL};
	bool		old_passes;
	bool		new_passes;

	if (!published->published ||
		published->publish_as != rows->schema->relid ||
		!(rows->kind == CHANGE_INSERT ? published->insert :
		  rows->kind == CHANGE_UPDATE ? published->update : published->delete))
		return false;
	if (published->row_filter == NULL)
		return true;
	old_passes = rows->has_old && probe_row_filter(probe, &old) == VERDICT_YES;
	new_passes = rows->has_new && probe_row_filter(probe, &new) == VERDICT_YES;
	return plugin_filtered(&rows->kind, &rows->has_old, &rows->has_new,
						   old_passes, new_passes);
}

/*
 * Compile the subscription, and index it if that is possible: see tg.  NULL
 * if the role may see nothing of the table.  Errors of what users wrote are
 * raised.
 */
TableAccess *
probe_prepare(Probe *probe)
{
	TableAccess *access = policy_table_access(probe->schema->relid,
											  probe->principal.roleid);

	if (!access->readable)
		return NULL;
	if (!probe->tg.placed)
		decide_prepare(&probe->tg, access);
	return access;
}

/* What the subscriber gets of a change.  Errors likewise. */
Outcome
probe_decide(Probe *probe, ChangeRows *rows, Match *match)
{
	RoutedChange change = {.rows = *rows};

	(void) probe_prepare(probe);
	probe->route.first = probe->route.last = &change;
	decide_changes_for(&probe->group, false);
	probe->route.first = probe->route.last = NULL;
	if (change.matches == NULL)
		return OUTCOME_NOTHING;
	*match = *change.matches;
	return match->outcome;
}

/* The JSON of the event, in the server's encoding */
char *
probe_render(Probe *probe, ChangeRows *rows, const Match *match)
{
	StringInfoData buf;
	PrincipalScope scope;
	RenderSpec	spec;

	decide_render_spec(match, &spec);
	initStringInfo(&buf);
	principal_enter_role(probe->principal.roleid, &scope);
	render_event(&buf, GetCurrentTimestamp(), rows, &spec);
	principal_leave(&scope);
	return pg_any_to_server(buf.data, buf.len, PG_UTF8);
}
