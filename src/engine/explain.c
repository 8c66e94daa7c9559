/*-------------------------------------------------------------------------
 *
 * explain.c
 *	  SQL functions that show what a subscriber would get, and why:
 *	  rtsync.explain() and rtsync.decide().
 *
 * Both make a subscription that exists only to be asked (probe.c).  An error
 * in what users wrote is part of the answer; each question is asked in a
 * subtransaction.  A cancel of the caller's own statement is not: it ends the
 * function like any other.
 *
 * Run in ordinary backends, preloaded or not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_policy.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "rewrite/rowsecurity.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

#include "engine/attempt.h"
#include "engine/compat.h"
#include "engine/policy.h"
#include "engine/probe.h"
#include "engine/settings.h"
#include "engine/token.h"

#define EXPLAIN_COLUMNS 4
#define DECIDE_COLUMNS 6

PG_FUNCTION_INFO_V1(rtsync_sql_explain);
PG_FUNCTION_INFO_V1(rtsync_sql_decide);

/* What is being explained */
typedef struct Explain
{
	Probe	   *probe;
	PolicyRow	row;
	HeapTupleData tuple;		/* of row */
	ReturnSetInfo *result;
	StringInfoData refused_by;	/* steps that were not passed */
} Explain;

/*--------------------------------------------------------------------------
 * Arguments
 *--------------------------------------------------------------------------
 */

static Jsonb *
jsonb_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : PG_GETARG_JSONB_P(n);
}

static char *
text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static Oid
oid_arg(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", name)));
	return PG_GETARG_OID(n);
}

/* The options of a binding as the client writes them, or NULL */
static char *
make_options(const char *where, bool view)
{
	StringInfoData buf;

	if (where == NULL && !view)
		return NULL;
	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"view\":%s", view ? "true" : "false");
	if (where != NULL)
	{
		appendStringInfoString(&buf, ",\"where\":");
		escape_json(&buf, where);
	}
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

static int
events_arg(FunctionCallInfo fcinfo, int n)
{
	const char *name = text_arg(fcinfo, n);

	if (name == NULL || strcmp(name, "*") == 0)
		return EVENT_ALL;
	if (pg_strcasecmp(name, "INSERT") == 0)
		return EVENT_INSERT;
	if (pg_strcasecmp(name, "UPDATE") == 0)
		return EVENT_UPDATE;
	if (pg_strcasecmp(name, "DELETE") == 0)
		return EVENT_DELETE;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid event \"%s\"", name),
			 errhint("Events are INSERT, UPDATE, DELETE and *.")));
}

static void
select_arg(FunctionCallInfo fcinfo, int n, BindingSpec *spec)
{
	Datum	   *elements;
	bool	   *nulls;

	spec->nselect = -1;
	if (PG_ARGISNULL(n))
		return;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(n), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, &nulls, &spec->nselect);
	spec->select = palloc0(sizeof(char *) * Max(spec->nselect, 1));
	for (int i = 0; i < spec->nselect; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a column's name must not be null")));
		spec->select[i] = TextDatumGetCString(elements[i]);
	}
}

/*--------------------------------------------------------------------------
 * Questions that may fail
 *--------------------------------------------------------------------------
 */

/* Is it the cancel of the caller's statement, and not one of principal.c? */
static bool
is_cancel(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		!principal_timed_out() && error->funcname != NULL &&
		strcmp(error->funcname, "ProcessInterrupts") == 0;
}

/* Like attempt(), but who cancels the statement, cancels it. */
static ErrorData *
ask(void (*function) (void *arg), void *arg)
{
	ErrorData  *error = attempt(function, arg);

	if (error != NULL && is_cancel(error))
		ReThrowError(error);
	return error;
}

static const char *
verdict_name(Verdict verdict)
{
	return verdict == VERDICT_YES ? "yes" :
		verdict == VERDICT_NO ? "no" : "unknown";
}

/* One condition, or with "qual" NULL all policies, about the row */
typedef struct PolicyQuestion
{
	Explain    *explain;
	Node	   *qual;
	Verdict		verdict;
	const char *undecidable;
} PolicyQuestion;

static void
ask_policy(void *arg)
{
	PolicyQuestion *what = arg;
	Probe	   *probe = what->explain->probe;
	PrincipalScope scope;
	TableAccess *access;

	principal_enter(&probe->principal, &scope);
	access = what->qual != NULL ?
		policy_single(probe->rel, probe->principal.roleid, what->qual) :
		policy_table_access(probe->schema->relid, probe->principal.roleid);
	what->verdict = policy_check(access, &what->explain->row);
	what->undecidable = access->undecidable;
	principal_leave(&scope);
}

typedef struct FilterQuestion
{
	Explain    *explain;
	const char *filter;
	const char *where;
	Verdict		verdict;
} FilterQuestion;

static void
ask_filter(void *arg)
{
	FilterQuestion *what = arg;
	Probe	   *probe = what->explain->probe;
	PrincipalScope scope;
	TableAccess *access;
	Filter	   *filter;

	principal_enter(&probe->principal, &scope);
	access = policy_table_access(probe->schema->relid,
								 probe->principal.roleid);
	filter = filter_compile(what->filter, what->where, probe->schema->relid,
							access->columns, probe->group.context);
	what->verdict = filter_check(filter, &what->explain->row);
	principal_leave(&scope);
}

static void
ask_row_filter(void *arg)
{
	PolicyQuestion *what = arg;

	what->verdict = probe_row_filter(what->explain->probe,
									 &what->explain->row);
}

typedef struct DecideQuestion
{
	Probe	   *probe;
	ChangeRows *rows;
	Outcome		outcome;
	Match		match;
	Verdict		old_verdict;
	Verdict		new_verdict;
	char	   *event;
} DecideQuestion;

static void
ask_decision(void *arg)
{
	DecideQuestion *what = arg;

	what->outcome = probe_decide(what->probe, what->rows, &what->match);
	decide_verdicts(&what->probe->tg, what->rows,
					&what->old_verdict, &what->new_verdict);
	if (what->outcome != OUTCOME_NOTHING)
		what->event = probe_render(what->probe, what->rows, &what->match);
}

typedef struct EvaluationQuestion
{
	Probe	   *probe;
	bool		set;			/* the policies can be asked about many
								 * subscribers at once */
} EvaluationQuestion;

static void
ask_evaluation(void *arg)
{
	EvaluationQuestion *what = arg;
	Probe	   *probe = what->probe;
	TableAccess *access = probe_prepare(probe);
	PrincipalScope scope;
	ParamListInfo params;
	List	   *quals;

	if (access == NULL || !policy_is_query(access))
		return;
	principal_enter(&probe->principal, &scope);
	what->set = policy_fold_set(access, probe->group.context, &quals, &params);
	principal_leave(&scope);
}

/*--------------------------------------------------------------------------
 * rtsync.explain()
 *--------------------------------------------------------------------------
 */

static Datum
text_or_null(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text != NULL ? CStringGetTextDatum(text) : (Datum) 0;
}

/* Add a line; what is unknown did neither pass nor fail. */
static void
put_step(Explain *explain, const char *step, const char *object,
		 Verdict passed, const char *detail)
{
	Datum		values[EXPLAIN_COLUMNS];
	bool		nulls[EXPLAIN_COLUMNS];

	values[0] = text_or_null(step, &nulls[0]);
	values[1] = text_or_null(object, &nulls[1]);
	values[2] = BoolGetDatum(passed == VERDICT_YES);
	nulls[2] = passed == VERDICT_UNKNOWN;
	values[3] = text_or_null(detail, &nulls[3]);
	tuplestore_putvalues(explain->result->setResult,
						 explain->result->setDesc, values, nulls);
}

/* Likewise, for a step that decides about the result */
static void
put_deciding_step(Explain *explain, const char *step, const char *object,
				  Verdict passed, const char *detail)
{
	put_step(explain, step, object, passed, detail);
	if (passed != VERDICT_YES)
		appendStringInfo(&explain->refused_by, "%s%s",
						 explain->refused_by.len > 0 ? ", " : "", step);
}

static Verdict
verdict(bool passed)
{
	return passed ? VERDICT_YES : VERDICT_NO;
}

static char *
table_name(const Explain *explain)
{
	return quote_qualified_identifier(explain->probe->schema->nspname,
									  explain->probe->schema->relname);
}

/* "a, b": the names of columns */
static char *
column_names(const RelSchema *schema, const Bitmapset *columns)
{
	StringInfoData buf;
	int			attnum = -1;

	initStringInfo(&buf);
	while ((attnum = bms_next_member(columns, attnum)) >= 0)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
						 quote_identifier(NameStr(TupleDescAttr(schema->desc,
																attnum - 1)->attname)));
	return buf.data;
}

static char *
error_detail(const ErrorData *error)
{
	return psprintf("error: %s", error->message);
}

static void
explain_role(Explain *explain)
{
	const Principal *principal = &explain->probe->principal;
	const char *detail = "a token may name it";
	bool		passed = token_role_allowed(principal->rolename,
											principal->roleid);

	if (!passed)
		detail = superuser_arg(principal->roleid) ?
			"tokens for a superuser are refused" :
			psprintf("tokens are refused: GRANT %s TO rtsync_authenticator",
					 quote_identifier(principal->rolename));
	put_deciding_step(explain, "role", principal->rolename, verdict(passed),
					  detail);
}

/* Which operations, as the columns of pg_publication have them */
static char *
operations(const PublicationRel *published)
{
	StringInfoData buf;

	initStringInfo(&buf);
	if (published->insert)
		appendStringInfoString(&buf, ", INSERT");
	if (published->update)
		appendStringInfoString(&buf, ", UPDATE");
	if (published->delete)
		appendStringInfoString(&buf, ", DELETE");
	if (published->truncate)
		appendStringInfoString(&buf, ", TRUNCATE");
	return buf.len > 0 ? buf.data + 2 : buf.data;
}

static void
explain_publication(Explain *explain)
{
	const PublicationRel *published = &explain->probe->published;
	const RelSchema *schema = explain->probe->schema;
	const char *detail;
	bool		passed = published->published &&
		published->publish_as == schema->relid;

	if (passed)
		detail = psprintf("%s; columns %s", operations(published),
						  column_names(schema, schema->published));
	else if (published->published)
		detail = psprintf("changes of this partition are those of table %s: subscribe to that one",
						  get_rel_name(published->publish_as));
	else if (!publication_exists(rtsync_publication))
		detail = psprintf("it does not exist: CREATE PUBLICATION %s FOR TABLE %s",
						  quote_identifier(rtsync_publication),
						  table_name(explain));
	else if (explain->probe->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		detail = psprintf("it does not have the table, or has its partitions by themselves: "
						  "ALTER PUBLICATION %s ADD TABLE %s, and SET (publish_via_partition_root)",
						  quote_identifier(rtsync_publication),
						  table_name(explain));
	else
		detail = psprintf("it does not have the table: ALTER PUBLICATION %s ADD TABLE %s",
						  quote_identifier(rtsync_publication),
						  table_name(explain));
	put_deciding_step(explain, "publication", rtsync_publication,
					  verdict(passed), detail);
}

static char *
deparse(const Explain *explain, Node *expr)
{
	Datum		tree = CStringGetTextDatum(nodeToString(expr));
	Oid			relid = explain->probe->schema->relid;

	return TextDatumGetCString(DirectFunctionCall2(pg_get_expr, tree,
												   ObjectIdGetDatum(relid)));
}

static void
explain_row_filter(Explain *explain)
{
	Node	   *filter = explain->probe->published.row_filter;
	PolicyQuestion what = {.explain = explain};
	ErrorData  *error;

	if (filter == NULL)
		return;
	error = ask(ask_row_filter, &what);
	put_deciding_step(explain, "row filter", rtsync_publication,
					  error != NULL ? VERDICT_NO : what.verdict,
					  error != NULL ? error_detail(error) :
					  psprintf("WHERE %s", deparse(explain, filter)));
}

static void
explain_privileges(Explain *explain, const TableAccess *access)
{
	const RelSchema *schema = explain->probe->schema;
	const char *role = quote_identifier(explain->probe->principal.rolename);
	Oid			nspid = RelationGetNamespace(explain->probe->rel);
	bool		usage = compat_namespace_usage(nspid, access->roleid);
	Bitmapset  *hidden;
	const char *detail;

	put_deciding_step(explain, "schema", schema->nspname, verdict(usage),
					  usage ? "USAGE" : psprintf("GRANT USAGE ON SCHEMA %s TO %s",
												 quote_identifier(schema->nspname),
												 role));
	if (!usage)
		return;
	hidden = bms_difference(schema->published, access->columns);
	if (bms_is_empty(access->columns))
		detail = psprintf("GRANT SELECT ON %s TO %s", table_name(explain), role);
	else if (bms_is_empty(hidden))
		detail = "SELECT";
	else
		detail = psprintf("SELECT, but not for the columns %s, which are left out",
						  column_names(schema, hidden));
	put_deciding_step(explain, "table", table_name(explain),
					  verdict(access->readable), detail);
}

/* Why policies do or do not apply */
static void
explain_row_security(Explain *explain, const TableAccess *access)
{
	Form_pg_class form = explain->probe->rel->rd_rel;
	const char *detail;

	if (access->row_security)
		detail = "enabled: policies decide";
	else if (!form->relrowsecurity)
		detail = "not enabled: every row passes";
	else if (has_bypassrls_privilege(access->roleid))
		detail = "the role bypasses it: every row passes";
	else
		detail = "the role owns the table, and row security is not forced: every row passes";
	put_step(explain, "row security", table_name(explain), VERDICT_UNKNOWN,
			 detail);
}

/* "TO a, b" */
static char *
policy_roles(const RowSecurityPolicy *policy)
{
	Oid		   *roles = (Oid *) ARR_DATA_PTR(policy->roles);
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < ARR_DIMS(policy->roles)[0]; i++)
		appendStringInfo(&buf, "%s%s", i > 0 ? ", " : "TO ",
						 roles[i] == ACL_ID_PUBLIC ? "PUBLIC" :
						 quote_identifier(GetUserNameFromId(roles[i], true)));
	return buf.data;
}

/* Is the policy for SELECT, and for the role?  As the server has it. */
static bool
policy_applies(const RowSecurityPolicy *policy, Oid roleid, const char **why)
{
	Oid		   *roles = (Oid *) ARR_DATA_PTR(policy->roles);

	if (policy->polcmd != '*' && policy->polcmd != ACL_SELECT_CHR)
	{
		*why = "does not apply: not for SELECT";
		return false;
	}
	for (int i = 0; i < ARR_DIMS(policy->roles)[0]; i++)
		if (roles[i] == ACL_ID_PUBLIC || has_privs_of_role(roleid, roles[i]))
			return true;
	*why = psprintf("does not apply: %s", policy_roles(policy));
	return false;
}

static void
explain_policy(Explain *explain, const RowSecurityPolicy *policy)
{
	PolicyQuestion what = {.explain = explain,.qual = (Node *) policy->qual};
	const char *why;
	char	   *text;
	ErrorData  *error = NULL;

	if (!policy_applies(policy, explain->probe->principal.roleid, &why))
	{
		put_step(explain, "policy", policy->policy_name, VERDICT_UNKNOWN, why);
		return;
	}
	if (policy->qual == NULL)
		return;
	text = psprintf("%s, %s USING (%s)",
					policy->permissive ? "permissive" : "restrictive",
					policy_roles(policy),
					deparse(explain, (Node *) policy->qual));
	error = ask(ask_policy, &what);
	if (error != NULL)
		text = psprintf("%s; %s", error_detail(error), text);
	else if (what.undecidable != NULL)
		text = psprintf("%s; %s", what.undecidable, text);
	put_step(explain, "policy", policy->policy_name,
			 error != NULL ? VERDICT_NO : what.verdict, text);
}

static int
compare_policies(const ListCell *a, const ListCell *b)
{
	const RowSecurityPolicy *first = lfirst(a);
	const RowSecurityPolicy *second = lfirst(b);

	if (first->permissive != second->permissive)
		return first->permissive ? -1 : 1;
	return strcmp(first->policy_name, second->policy_name);
}

/* Each policy by itself, then what they say together. */
static void
explain_policies(Explain *explain)
{
	PolicyQuestion what = {.explain = explain};
	RowSecurityDesc *security = explain->probe->rel->rd_rsdesc;
	List	   *policies = security != NULL ? list_copy(security->policies) : NIL;
	ErrorData  *error;
	const char *detail;
	ListCell   *lc;

	list_sort(policies, compare_policies);
	foreach(lc, policies)
		explain_policy(explain, lfirst(lc));

	error = ask(ask_policy, &what);
	detail = error != NULL ? error_detail(error) :
		what.undecidable != NULL ? what.undecidable :
		what.verdict == VERDICT_YES ? "one permissive policy passes, and every restrictive one" :
		"no permissive policy passes, or a restrictive one does not";
	put_deciding_step(explain, "policies", table_name(explain),
					  error != NULL ? VERDICT_NO : what.verdict, detail);
}

static void
explain_filter(Explain *explain, const char *step, const char *filter,
			   const char *where)
{
	FilterQuestion what = {explain, filter, where};
	ErrorData  *error;

	if (filter == NULL && where == NULL)
		return;
	error = ask(ask_filter, &what);
	put_deciding_step(explain, step, filter != NULL ? filter : where,
					  error != NULL ? VERDICT_NO : what.verdict,
					  error != NULL ? error_detail(error) : NULL);
}

static const char *
identity_name(char replident)
{
	switch (replident)
	{
		case REPLICA_IDENTITY_FULL:
			return "full";
		case REPLICA_IDENTITY_INDEX:
			return "index";
		case REPLICA_IDENTITY_NOTHING:
			return "nothing";
		default:
			return "default";
	}
}

/* What a client is told when it subscribes, and what of old rows can be
 * decided */
static void
explain_subscription(Explain *explain)
{
	const RelSchema *schema = explain->probe->schema;
	const BindingSpec *spec = &explain->probe->group.spec;
	char	   *hint;
	Size		weight;
	bool		locked;
	char	   *problem = binding_problem(&explain->probe->principal, spec,
										  &hint, &weight, &locked);

	put_deciding_step(explain, "subscription", table_name(explain),
					  verdict(problem == NULL),
					  problem != NULL ? problem : "can be served");
	if (problem != NULL)
		return;
	put_step(explain, "replica identity", identity_name(schema->replident),
			 verdict(hint == NULL),
			 hint != NULL ? hint :
			 "it can be decided who sees a DELETE, or a row that leaves the view");
}

static void
put_evaluation(Explain *explain, const char *how, const char *detail)
{
	put_step(explain, "evaluation", how, VERDICT_UNKNOWN, detail);
}

static void
explain_evaluation(Explain *explain, TableAccess *access)
{
	const TableGroup *tg = &explain->probe->tg;
	EvaluationQuestion what = {.probe = explain->probe};
	ErrorData  *error = ask(ask_evaluation, &what);

	if (error != NULL)
		put_evaluation(explain, "none", error_detail(error));
	else if (tg->item.indexed && tg->in_set)
		put_evaluation(explain, "indexed",
					   "the sub-queries lead from a changed row to the subscriptions that it can concern");
	else if (tg->item.indexed && tg->pure)
		put_evaluation(explain, "indexed",
					   "the values of a changed row lead to the subscriptions that it can concern");
	else if (tg->item.indexed)
		put_evaluation(explain, "indexed",
					   "the values of a changed row lead to the subscriptions that it can concern, each of which is asked by itself");
	else if (!access->row_security && tg->filter == NULL)
		put_evaluation(explain, "every row", "there is nothing to decide");
	else if (tg->pure)
		put_evaluation(explain, "parameters",
					   "one expression for all subscribers of the role, each with its own values of the claims");
	else if (what.set)
		put_evaluation(explain, "set query",
					   "the policies have sub-queries, which can be run for many rows and subscribers at once");
	else if (policy_is_query(access))
		put_evaluation(explain, "query",
					   "the policies have sub-queries, which are run for each row and subscriber");
	else
		put_evaluation(explain, "row by row",
					   "the conditions call functions that are not known to depend on the row and the claims alone");
}

/* The engine's own decision, as if the row had just been inserted. */
static void
explain_result(Explain *explain)
{
	ChangeRows	rows;
	DecideQuestion what = {.probe = explain->probe,.rows = &rows};
	ErrorData  *error;
	bool		passed;

	probe_change(explain->probe, NULL, &explain->tuple, &rows);
	error = ask(ask_decision, &what);
	passed = error == NULL && what.outcome == OUTCOME_INSERT &&
		explain->refused_by.len == 0;
	put_step(explain, "result", NULL, verdict(passed),
			 passed ? "the subscriber gets the changes of this row" :
			 explain->refused_by.len > 0 ?
			 psprintf("refused by: %s", explain->refused_by.data) :
			 error != NULL ? error_detail(error) : "refused");
}

/* May the caller see all of the table's rows? */
static void
require_table(Explain *explain)
{
	Oid			relid = explain->probe->schema->relid;

	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
		check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to look up a row of table \"%s\"",
						explain->probe->schema->relname),
				 errhint("Give the whole row instead of its key.")));
}

/* The row that the caller means; false if there is none. */
static bool
explain_row(Explain *explain, Jsonb *jsonb)
{
	Probe	   *probe = explain->probe;
	const char *given;
	bool		found;

	if (jsonb == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a row, or its key, must be given")));
	probe_row(probe, jsonb, &explain->tuple);
	given = JsonbToCString(NULL, &jsonb->root, 0);
	explain->row.schema = probe->schema;
	explain->row.tuple = &explain->tuple;
	if (!probe_is_key(probe, jsonb))
	{
		put_step(explain, "row", given, VERDICT_YES, "as given");
		return true;
	}
	require_table(explain);
	found = probe_look_up(probe, &explain->tuple);
	put_deciding_step(explain, "row", given, verdict(found),
					  found ? "found in the table" : "not in the table");
	return found;
}

/* What depends on the row */
static void
explain_conditions(Explain *explain, TableAccess *access)
{
	const BindingSpec *spec = &explain->probe->group.spec;

	explain_row_filter(explain);
	if (!access->readable)
		return;
	if (access->row_security)
		explain_policies(explain);
	explain_filter(explain, "filter", spec->filter, NULL);
	explain_filter(explain, "where", NULL, explain->probe->group.options.where);
}

/*
 * rtsync.explain(role, claims, relation, data, filter, where_): what each step
 * on the way of a row to a subscriber says
 */
Datum
rtsync_sql_explain(PG_FUNCTION_ARGS)
{
	Oid			roleid = oid_arg(fcinfo, 0, "role");
	Oid			relid = oid_arg(fcinfo, 2, "relation");
	BindingSpec spec = {.events = EVENT_ALL,.nselect = -1};
	Explain		explain = {.result = (ReturnSetInfo *) fcinfo->resultinfo};
	TableAccess *access;
	bool		found;

	InitMaterializedSRF(fcinfo, 0);
	initStringInfo(&explain.refused_by);
	spec.filter = text_arg(fcinfo, 4);
	spec.options = make_options(text_arg(fcinfo, 5), false);
	explain.probe = probe_open(roleid, jsonb_arg(fcinfo, 1), relid, &spec);

	explain_role(&explain);
	found = explain_row(&explain, jsonb_arg(fcinfo, 3));
	explain_publication(&explain);
	access = policy_table_access(relid, roleid);
	explain_privileges(&explain, access);
	if (access->readable)
		explain_row_security(&explain, access);
	if (found)
		explain_conditions(&explain, access);
	explain_subscription(&explain);
	if (access->readable)
		explain_evaluation(&explain, access);
	if (found)
		explain_result(&explain);
	else
		put_step(&explain, "result", NULL, VERDICT_NO, "there is no such row");
	probe_close(explain.probe);
	return (Datum) 0;
}

/*--------------------------------------------------------------------------
 * rtsync.decide()
 *--------------------------------------------------------------------------
 */

static const char *
outcome_name(Outcome outcome)
{
	switch (outcome)
	{
		case OUTCOME_INSERT:
			return "INSERT";
		case OUTCOME_UPDATE:
			return "UPDATE";
		case OUTCOME_DELETE:
			return "DELETE";
		case OUTCOME_REFETCH:
			return "refetch";
		default:
			return "nothing";
	}
}

/* Was nothing sent because the old row is not known well enough? */
static bool
is_undecidable(const DecideQuestion *what)
{
	if (what->outcome != OUTCOME_NOTHING)
		return false;
	if (what->rows->kind == CHANGE_DELETE)
		return what->old_verdict == VERDICT_UNKNOWN;
	return what->new_verdict == VERDICT_UNKNOWN ||
		(what->rows->kind == CHANGE_UPDATE &&
		 what->new_verdict == VERDICT_NO &&
		 what->old_verdict == VERDICT_UNKNOWN && rtsync_leave_events);
}

/* A field of a JSON object, as it is written there; none if it has none */
static Datum
json_field(const char *json, const char *name, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum		result;

	*isnull = true;
	if (json == NULL)
		return (Datum) 0;
	InitFunctionCallInfoData(*fcinfo, NULL, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = CStringGetTextDatum(json);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = CStringGetTextDatum(name);
	fcinfo->args[1].isnull = false;
	result = json_object_field(fcinfo);
	*isnull = fcinfo->isnull;
	return result;
}

static void
put_decision(ReturnSetInfo *result, const char *event, const char *json,
			 const char *old_row, const char *new_row, const char *detail)
{
	Datum		values[DECIDE_COLUMNS];
	bool		nulls[DECIDE_COLUMNS];

	values[0] = text_or_null(event, &nulls[0]);
	values[1] = json_field(json, "record", &nulls[1]);
	values[2] = json_field(json, "old_record", &nulls[2]);
	values[3] = text_or_null(old_row, &nulls[3]);
	values[4] = text_or_null(new_row, &nulls[4]);
	values[5] = text_or_null(detail, &nulls[5]);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Why nothing can be decided about the change */
static const char *
undecidable_reason(const Probe *probe)
{
	TableAccess *access = policy_table_access(probe->schema->relid,
											  probe->principal.roleid);

	if (access->undecidable != NULL)
		return access->undecidable;
	return "columns that decide are not part of the replica identity";
}

/* What becomes of a change that is published, with the reason */
static void
decide_change(ReturnSetInfo *result, Probe *probe, ChangeRows *rows)
{
	DecideQuestion what = {.probe = probe,.rows = rows};
	ErrorData  *error = ask(ask_decision, &what);
	bool		undecidable;

	if (error != NULL)
	{
		put_decision(result, "error", NULL, NULL, NULL, error->message);
		return;
	}
	undecidable = is_undecidable(&what);
	put_decision(result,
				 undecidable ? "undecidable" : outcome_name(what.outcome),
				 what.event,
				 rows->kind == CHANGE_INSERT ? NULL :
				 verdict_name(what.old_verdict),
				 rows->has_new ? verdict_name(what.new_verdict) : NULL,
				 undecidable ? undecidable_reason(probe) : NULL);
}

/*
 * rtsync.decide(role, claims, relation, old, new, filter, where_, events,
 * columns, view): what a subscriber gets of a change from one row to another
 */
Datum
rtsync_sql_decide(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			roleid = oid_arg(fcinfo, 0, "role");
	Oid			relid = oid_arg(fcinfo, 2, "relation");
	Jsonb	   *old = jsonb_arg(fcinfo, 3);
	Jsonb	   *new = jsonb_arg(fcinfo, 4);
	HeapTupleData old_row;
	HeapTupleData new_row;
	BindingSpec spec = {.filter = text_arg(fcinfo, 5)};
	ChangeRows	rows;
	Probe	   *probe;

	if (old == NULL && new == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("an old row or a new one must be given")));
	InitMaterializedSRF(fcinfo, 0);
	spec.options = make_options(text_arg(fcinfo, 6),
								!PG_ARGISNULL(9) && PG_GETARG_BOOL(9));
	spec.events = events_arg(fcinfo, 7);
	select_arg(fcinfo, 8, &spec);

	probe = probe_open(roleid, jsonb_arg(fcinfo, 1), relid, &spec);
	if (old != NULL)
		probe_row(probe, old, &old_row);
	if (new != NULL)
		probe_row(probe, new, &new_row);
	probe_change(probe, old != NULL ? &old_row : NULL,
				 new != NULL ? &new_row : NULL, &rows);
	if (probe_publish(probe, &rows))
		decide_change(result, probe, &rows);
	else
		put_decision(result, "nothing", NULL, NULL, NULL,
					 "the publication does not have it");
	probe_close(probe);
	return (Datum) 0;
}
