/*-------------------------------------------------------------------------
 *
 * binding.c
 *	  What one entry of "postgres_changes" asks for, and whether it can be
 *	  served.
 *
 * Called by subscription.c when bindings are made, and by decide.c when they
 * are compiled for a table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/rel.h"

#include "engine/attempt.h"
#include "engine/binding.h"
#include "engine/budget.h"
#include "engine/compat.h"
#include "engine/filter.h"
#include "engine/policy.h"
#include "engine/publication.h"
#include "engine/settings.h"

/*
 * Append a part of a key: length first, so that no two lists of parts are
 * alike.
 */
void
binding_append_part(StringInfo key, const char *part)
{
	if (part == NULL)
		appendStringInfoString(key, "-;");
	else
		appendStringInfo(key, "%zu:%s;", strlen(part), part);
}

/* All of the specification but its options */
static void
append_spec(StringInfo key, const BindingSpec *spec)
{
	appendStringInfo(key, "%d;", spec->events);
	binding_append_part(key, spec->schema);
	binding_append_part(key, spec->table);
	binding_append_part(key, spec->filter);
	appendStringInfo(key, "%d;", spec->nselect);
	for (int i = 0; i < spec->nselect; i++)
		binding_append_part(key, spec->select[i]);
}

/* Append all of a specification to a key. */
void
binding_append_key(StringInfo key, const BindingSpec *spec)
{
	append_spec(key, spec);
	binding_append_part(key, spec->options);
}

/*
 * A number for what the binding shows its client: which rows, columns and
 * events, whenever and by whomever it is asked.
 */
uint64
binding_form(const BindingSpec *spec, const BindingOptions *options)
{
	StringInfoData key;
	uint64		result;

	initStringInfo(&key);
	append_spec(&key, spec);
	binding_append_part(&key, options->where);
	appendStringInfo(&key, "%d;", options->view);
	result = hash_bytes_extended((unsigned char *) key.data, key.len, 0);
	pfree(key.data);
	return result;
}

static char *
copy_string(const char *string)
{
	return string != NULL ? pstrdup(string) : NULL;
}

/* Copy a specification into the current memory context. */
void
binding_copy(BindingSpec *to, const BindingSpec *from)
{
	*to = *from;
	to->schema = copy_string(from->schema);
	to->table = copy_string(from->table);
	to->filter = copy_string(from->filter);
	to->options = copy_string(from->options);
	to->select = NULL;
	if (from->nselect > 0)
	{
		to->select = palloc(sizeof(char *) * from->nselect);
		for (int i = 0; i < from->nselect; i++)
			to->select[i] = copy_string(from->select[i]);
	}
}

static void
unknown_option(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_RAISE_EXCEPTION),
			 errmsg("invalid rtsync option \"%s\"", name)));
}

static bool
option_bool(const char *name, const JsonbValue *value)
{
	if (value->type != jbvBool)
		unknown_option(name);
	return value->val.boolean;
}

static char *
option_string(const char *name, const JsonbValue *value)
{
	if (value->type != jbvString)
		unknown_option(name);
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static int
option_interval(const JsonbValue *value)
{
	double		number;

	if (value->type != jbvNumeric)
		unknown_option("interval");
	number = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
												NumericGetDatum(value->val.numeric)));
	if (!(number >= MIN_INTERVAL && number <= MAX_INTERVAL) ||
		number != floor(number))
		ereport(ERROR,
				(errcode(ERRCODE_RAISE_EXCEPTION),
				 errmsg("\"interval\" must be a whole number of milliseconds from %d to %d",
						MIN_INTERVAL, MAX_INTERVAL)));
	return (int) number;
}

/*
 * Read the binding's options, which are
 *
 *		view	boolean: an UPDATE that brings a row into the view is an INSERT
 *		where	string: a condition over the row, in SQL (where.c)
 *		snapshot	boolean: the rows that there are, before the changes
 *		interval	number: milliseconds, in which there is one batch at most
 *
 * Anything else, or not of that type, is an error.
 */
void
binding_options(const BindingSpec *spec, BindingOptions *options)
{
	Jsonb	   *jsonb;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	value;

	memset(options, 0, sizeof(*options));
	if (spec->options == NULL)
		return;
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											   CStringGetDatum(spec->options)));
	if (!JB_ROOT_IS_OBJECT(jsonb))
		unknown_option(spec->options);
	iterator = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(key.val.string.val, key.val.string.len);
		JsonbIteratorNext(&iterator, &value, true);
		if (strcmp(name, "view") == 0)
			options->view = option_bool(name, &value);
		else if (strcmp(name, "where") == 0)
			options->where = option_string(name, &value);
		else if (strcmp(name, "snapshot") == 0)
			options->snapshot = option_bool(name, &value);
		else if (strcmp(name, "interval") == 0)
			options->interval = option_interval(&value);
		else
			unknown_option(name);
	}
}

/* Can checking rows for this binding take long? */
bool
binding_costly(const BindingSpec *spec, const BindingOptions *options)
{
	return options->where != NULL ||
		(spec->filter != NULL && filter_costly(spec->filter));
}

/* Does a binding concern this table? */
bool
binding_matches(const BindingSpec *spec, const char *schema,
				const char *table)
{
	return (spec->schema == NULL || strcmp(spec->schema, schema) == 0) &&
		(spec->table == NULL || strcmp(spec->table, table) == 0);
}

/* Supabase's way of showing subscription parameters in messages */
static char *
describe_spec(const BindingSpec *spec)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "[event: %s, schema: %s, table: %s, filters: [%s], select: ",
					 spec->events == EVENT_INSERT ? "INSERT" :
					 spec->events == EVENT_UPDATE ? "UPDATE" :
					 spec->events == EVENT_DELETE ? "DELETE" : "*",
					 spec->schema ? spec->schema : "*",
					 spec->table ? spec->table : "*",
					 spec->filter ? spec->filter : "");
	if (spec->nselect < 0)
		appendStringInfoString(&buf, "nil]");
	else
	{
		for (int i = 0; i < spec->nselect; i++)
			appendStringInfo(&buf, "%s\"%s\"", i == 0 ? "[" : ", ",
							 spec->select[i]);
		appendStringInfoString(&buf, spec->nselect == 0 ? "[]]" : "]]");
	}
	return buf.data;
}

/*
 * The attnums of the selected columns.  A column that is not among "allowed",
 * that is in no tuple, or that does not exist, is an error.
 */
Bitmapset *
binding_selected(const BindingSpec *spec, TupleDesc desc,
				 const Bitmapset *allowed)
{
	Bitmapset  *result = NULL;

	for (int i = 0; i < spec->nselect; i++)
	{
		int			attnum = 0;

		for (int j = 0; j < desc->natts; j++)
		{
			Form_pg_attribute att = TupleDescAttr(desc, j);

			if (!att->attisdropped && !compat_att_is_virtual(att) &&
				strcmp(NameStr(att->attname), spec->select[i]) == 0)
				attnum = j + 1;
		}
		if (attnum == 0 || !bms_is_member(attnum, allowed))
			ereport(ERROR,
					(errcode(ERRCODE_RAISE_EXCEPTION),
					 errmsg("invalid column for select %s", spec->select[i])));
		result = bms_add_member(result, attnum);
	}
	return result;
}

/* A binding that is being checked */
typedef struct CheckAttempt
{
	const Principal *principal;
	const BindingSpec *spec;
	Payer	   *payer;			/* for what it takes */
	bool		costly;			/* that may be long */
	char	   *hint;			/* result; NULL: none */
	Size		weight;			/* result: bytes that its filter takes */
} CheckAttempt;

/* The published table that a binding names, or InvalidOid */
static Oid
published_table(const BindingSpec *spec)
{
	Oid			nspid = get_namespace_oid(spec->schema, true);
	Oid			relid = OidIsValid(nspid) ?
		get_relname_relid(spec->table, nspid) : InvalidOid;

	if (!OidIsValid(relid) || !publication_publishes(rtsync_publication, relid))
		return InvalidOid;
	return relid;
}

/* Is everything that a decision reads known of the old row of a DELETE? */
static bool
identity_suffices(Relation rel, TableAccess *access, Filter *filter)
{
	bool		all = false;
	const Bitmapset *needed = policy_needed_columns(access, &all);
	Bitmapset  *identity;
	Bitmapset  *known = NULL;
	int			attnum = -1;

	if (rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL)
		return true;
	identity = RelationGetIndexAttrBitmap(rel,
										  INDEX_ATTR_BITMAP_IDENTITY_KEY);
	while ((attnum = bms_next_member(identity, attnum)) >= 0)
		known = bms_add_member(known,
							   attnum + FirstLowInvalidHeapAttributeNumber);
	return !all && bms_is_subset(needed, known) &&
		(filter == NULL || bms_is_subset(filter_needed_columns(filter), known));
}

/* What becomes of old rows that do not suffice to decide, and what to do */
static char *
identity_hint(const BindingSpec *spec)
{
	const char *table = psprintf("%s.%s", spec->schema, spec->table);
	const char *what;

	if (rtsync_delete_visibility == DELETE_VISIBILITY_KEY)
		what = rtsync_leave_events ?
			"The key of a row that is deleted from table %s goes to all its subscribers, and an UPDATE that takes a row out of view may be withheld" :
			"The key of a row that is deleted from table %s goes to all its subscribers";
	else
		what = rtsync_leave_events ?
			"A DELETE from table %s, or an UPDATE that takes a row out of view, may be withheld" :
			"A DELETE from table %s may be withheld";
	return psprintf("%s: what decides about it is not part of the table's replica identity. "
					"Use ALTER TABLE %s REPLICA IDENTITY FULL.",
					psprintf(what, table), table);
}

/*
 * A hint for who subscribes to what may be read, but has no changes; NULL if
 * it is no view.
 */
static char *
view_hint(const BindingSpec *spec, Oid roleid)
{
	Oid			nspid = get_namespace_oid(spec->schema, true);
	Oid			relid = OidIsValid(nspid) ?
		get_relname_relid(spec->table, nspid) : InvalidOid;
	char		relkind = OidIsValid(relid) ? get_rel_relkind(relid) : '\0';

	if ((relkind != RELKIND_VIEW && relkind != RELKIND_MATVIEW) ||
		(pg_class_aclcheck(relid, roleid, ACL_SELECT) != ACLCHECK_OK &&
		 pg_attribute_aclcheck_all(relid, roleid, ACL_SELECT,
								   ACLMASK_ANY) != ACLCHECK_OK))
		return NULL;
	return psprintf("%s.%s is a view, and views have no changes of their own. "
					"Subscribe to the tables that it reads.",
					spec->schema, spec->table);
}

/* The columns that events can have: those that may be read and are published */
static const Bitmapset *
shown_columns(Oid relid, TableAccess *access)
{
	PublicationRel published;

	publication_describe(rtsync_publication, relid, &published);
	return published.columns == NULL ? access->columns :
		bms_intersect(access->columns, published.columns);
}

static void
check_table_binding(CheckAttempt *what, const BindingOptions *options)
{
	const BindingSpec *spec = what->spec;
	Oid			relid = published_table(spec);
	TableAccess *access;
	Filter	   *filter = NULL;
	Relation	rel;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "rtsync binding check",
												  ALLOCSET_SMALL_SIZES);

	if (!OidIsValid(relid))
	{
		what->hint = view_hint(spec, what->principal->roleid);
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"%s.%s\" is not published",
						spec->schema, spec->table)));
	}
	/* the engine does not wait for whoever holds a lock */
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("table \"%s.%s\" is locked",
						spec->schema, spec->table)));
	access = policy_table_access(relid, what->principal->roleid);
	if (!access->readable)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table %s", spec->table)));
	if (access->undecidable != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s", access->undecidable)));
	rel = table_open(relid, AccessShareLock);
	if (spec->nselect >= 0)
		binding_selected(spec, RelationGetDescr(rel),
						 shown_columns(relid, access));
	if (spec->filter != NULL || options->where != NULL)
	{
		filter = filter_compile(spec->filter, options->where, relid,
								access->columns, context);
		what->weight = MemoryContextMemAllocated(context, true);
	}
	if ((spec->events & EVENT_DELETE) &&
		!identity_suffices(rel, access, filter))
		what->hint = identity_hint(spec);
	table_close(rel, AccessShareLock);
	MemoryContextDelete(context);
}

/*
 * The OIDs of the published tables that a binding concerns, in the current
 * memory context.  Needs a transaction on the present.
 */
List *
binding_tables(const BindingSpec *spec)
{
	List	   *result = NIL;
	ListCell   *lc;

	if (spec->schema != NULL && spec->table != NULL)
	{
		Oid			relid = published_table(spec);

		return OidIsValid(relid) ? list_make1_oid(relid) : NIL;
	}
	foreach(lc, publication_tables(rtsync_publication))
	{
		Oid			relid = lfirst_oid(lc);
		char	   *table = get_rel_name(relid);
		char	   *schema = get_namespace_name(get_rel_namespace(relid));

		if (table != NULL && schema != NULL &&
			binding_matches(spec, schema, table))
			result = lappend_oid(result, relid);
	}
	return result;
}

static void
check_wildcard_binding(const BindingSpec *spec)
{
	if (binding_tables(spec) == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("no published table matches")));
}

/* The message for an error raised while a binding was checked */
static char *
explain_error(const BindingSpec *spec, const ErrorData *error)
{
	if (strncmp(error->message, "Error parsing", 13) == 0)
		return pstrdup(error->message);
	return psprintf("Unable to subscribe to changes with given parameters. "
					"An exception happened so please check your connect parameters: %s. "
					"Exception: ERROR %s %s%s",
					describe_spec(spec), unpack_sql_state(error->sqlerrcode),
					error->sqlerrcode == ERRCODE_RAISE_EXCEPTION ?
					"(raise_exception) " : "", error->message);
}

static void
check_options(const BindingSpec *spec, const BindingOptions *options)
{
	bool		one_table = spec->schema != NULL && spec->table != NULL;

	if (options->where != NULL && !one_table)
		ereport(ERROR,
				(errcode(ERRCODE_RAISE_EXCEPTION),
				 errmsg("\"where\" needs a schema and a table")));
	if (!options->snapshot)
		return;
	if (!one_table)
		ereport(ERROR,
				(errcode(ERRCODE_RAISE_EXCEPTION),
				 errmsg("\"snapshot\" needs a schema and a table")));
	if (!(spec->events & EVENT_INSERT))
		ereport(ERROR,
				(errcode(ERRCODE_RAISE_EXCEPTION),
				 errmsg("\"snapshot\" needs the event INSERT or *")));
	if (rtsync_max_snapshot_workers == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("snapshots are turned off")));
}

static void
attempt_check(void *arg)
{
	CheckAttempt *what = arg;
	BindingOptions options;
	PrincipalScope scope;

	binding_options(what->spec, &options);
	what->costly = binding_costly(what->spec, &options);
	if (what->costly && budget_suspended(what->payer))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("patterns and conditions of this client took too much time and are suspended")));
	check_options(what->spec, &options);
	if (what->spec->schema == NULL || what->spec->table == NULL)
		check_wildcard_binding(what->spec);
	else
	{
		principal_enter(what->principal, &scope);
		check_table_binding(what, &options);
		principal_leave(&scope);
	}
}

/*
 * Why this binding cannot be served to this principal: the message for the
 * client, palloc'd, or NULL if it can.  *hint is what the client's author
 * should know, or NULL, and *weight about how many bytes its compiled filter
 * will take.  *locked is set if it cannot be said for now, as somebody else has
 * locked the table.  Called inside a transaction on the
 * present; names and filters are looked up with the principal's rights.
 */
char *
binding_problem(const Principal *principal, const BindingSpec *spec,
				char **hint, Size *weight, bool *locked)
{
	CheckAttempt what = {principal, spec};
	ErrorData  *error;
	instr_time	start;

	*hint = NULL;
	*weight = 0;
	*locked = false;

	for (int i = 0; i < spec->nselect; i++)
		if (spec->select[i] == NULL)
			return pstrdup("Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]");
	if (spec->empty)
		return pstrdup("No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: %{}");
	if ((spec->schema == NULL || spec->table == NULL) &&
		(spec->filter != NULL || spec->nselect >= 0))
		return pstrdup("Column selection is not supported for wildcard subscriptions. "
					   "Provide an explicit schema and table name.");
	what.payer = budget_open(principal);
	INSTR_TIME_SET_CURRENT(start);
	error = attempt(attempt_check, &what);
	if (what.costly)
		budget_charge(what.payer, start);
	budget_close(what.payer);
	*hint = what.hint;
	if (error == NULL)
	{
		*weight = what.weight;
		return NULL;
	}
	*locked = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
	if (error->sqlerrcode == ERRCODE_UNDEFINED_TABLE ||
		error->sqlerrcode == ERRCODE_INVALID_SCHEMA_NAME)
		return psprintf("Unable to subscribe to changes with given parameters. "
						"Please check Realtime is enabled for the given connect parameters: %s",
						describe_spec(spec));
	return explain_error(spec, error);
}
