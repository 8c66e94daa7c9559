/*-------------------------------------------------------------------------
 *
 * rtsync_test.c
 *	  The engine's row security, filters and tokens as SQL functions.
 *
 * For tests only.  It is linked with copies of the modules under test, which
 * rtsync.so does not export, and stands in for the settings they read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/typcache.h"

#include "engine/filter.h"
#include "engine/keyring.h"
#include "engine/policy.h"
#include "engine/settings.h"
#include "engine/token.h"

PG_MODULE_MAGIC;

int			rtsync_policy_timeout = 60000;
int			rtsync_max_in_list_size = 100;
int			rtsync_max_filter_time = 100;
char	   *rtsync_jwt_secret = NULL;
char	   *rtsync_jwt_secret_file = NULL;
char	   *rtsync_jwt_jwks_file = NULL;
char	   *rtsync_jwt_audience = NULL;
char	   *rtsync_jwt_issuer = NULL;
int			rtsync_jwt_leeway = 0;
char	   *rtsync_anonymous_role = NULL;

PG_FUNCTION_INFO_V1(rt_access);
PG_FUNCTION_INFO_V1(rt_bench);
PG_FUNCTION_INFO_V1(rt_check);
PG_FUNCTION_INFO_V1(rt_check_kept);
PG_FUNCTION_INFO_V1(rt_dependencies);
PG_FUNCTION_INFO_V1(rt_filter);
PG_FUNCTION_INFO_V1(rt_filter_syntax);
PG_FUNCTION_INFO_V1(rt_keep);
PG_FUNCTION_INFO_V1(rt_set);
PG_FUNCTION_INFO_V1(rt_set_check);
PG_FUNCTION_INFO_V1(rt_sign);
PG_FUNCTION_INFO_V1(rt_token);

/* What rt_keep keeps */
static RelSchema kept_schema;
static HeapTupleData kept_tuple;

static const char *
verdict_name(Verdict verdict)
{
	return verdict == VERDICT_YES ? "yes" : verdict == VERDICT_NO ? "no" : "unknown";
}

static Bitmapset *
attnums_arg(Datum array)
{
	Datum	   *elements;
	int			count;
	Bitmapset  *result = bms_make_singleton(0);

	deconstruct_array(DatumGetArrayTypeP(array), INT4OID, 4, true, TYPALIGN_INT,
					  &elements, NULL, &count);
	for (int i = 0; i < count; i++)
		result = bms_add_member(result, DatumGetInt32(elements[i]));
	return result;
}

static void
principal_arg(Principal *principal, const char *rolename, const char *claims)
{
	memset(principal, 0, sizeof(*principal));
	principal->roleid = get_role_oid(rolename, false);
	principal->rolename = pstrdup(rolename);
	principal->claims = pstrdup(claims);
}

static void
row_arg(Oid relid, HeapTupleHeader header, RelSchema *schema, HeapTuple tuple)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
											  HeapTupleHeaderGetTypMod(header));

	memset(schema, 0, sizeof(*schema));
	schema->refcount = 1;
	schema->relid = relid;
	schema->desc = CreateTupleDescCopy(desc);
	ReleaseTupleDesc(desc);

	tuple->t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple->t_self);
	tuple->t_tableOid = InvalidOid;
	tuple->t_data = header;
}

/*
 * Does the check with the principal's parameters say the same?  It may not be
 * possible, and evaluating the parameters may fail where the policy does not.
 */
static void
compare_folded(TableAccess *access, const PolicyRow *row, Verdict expected)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ParamListInfo params;
	List	   *quals;
	volatile bool possible = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		possible = policy_fold(access, context, &quals, &params);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (possible && access->readable &&
		policy_check_folded(access, params, row) != expected)
		elog(ERROR, "the answer with parameters differs");
}

static Verdict
check_as(Oid relid, const Principal *principal, const PolicyRow *row)
{
	PrincipalScope scope;
	TableAccess *access;
	Verdict		verdict;

	policy_init();
	principal_enter(principal, &scope);
	access = policy_table_access(relid, principal->roleid);
	verdict = policy_check(access, row);
	/* what the first evaluation does must not matter to the next */
	if (policy_check(access, row) != verdict)
		elog(ERROR, "the second answer differs from the first");
	compare_folded(access, row, verdict);
	principal_leave(&scope);
	return verdict;
}

/* rt_check(table regclass, role text, claims text, row record, known int[]) */
Datum
rt_check(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Principal	principal;
	RelSchema	schema;
	HeapTupleData tuple;
	PolicyRow	row = {&schema, &tuple, NULL};

	principal_arg(&principal, text_to_cstring(PG_GETARG_TEXT_PP(1)),
				  text_to_cstring(PG_GETARG_TEXT_PP(2)));
	row_arg(relid, PG_GETARG_HEAPTUPLEHEADER(3), &schema, &tuple);
	if (!PG_ARGISNULL(4))
		row.known = attnums_arg(PG_GETARG_DATUM(4));
	PG_RETURN_TEXT_P(cstring_to_text(verdict_name(check_as(relid, &principal,
														   &row))));
}

/* What is asked in a subtransaction */
typedef struct SetTest
{
	TableAccess *access;
	const Principal *principal;
	const PolicyRow *rows;
	int			nrows;
	ParamListInfo params;
	bool		possible;
	ParamListInfo *principals;
	int			nprincipals;
	SetAnswers *answers;
	Verdict		verdict;
} SetTest;

static void
fold_set(SetTest *test)
{
	PrincipalScope scope;
	List	   *quals;

	principal_enter(test->principal, &scope);
	test->possible = policy_fold_set(test->access, CurrentMemoryContext,
									 &quals, &test->params);
	principal_leave(&scope);
}

static void
check_set(SetTest *test)
{
	PrincipalScope scope;

	test->answers = setcheck_answers(test->nrows, test->nprincipals);
	principal_enter_role(test->access->roleid, &scope);
	policy_check_set(test->access, test->rows, test->nrows, test->principals,
					 test->nprincipals, test->answers);
	principal_leave(&scope);
}

static void
check_one(SetTest *test)
{
	PrincipalScope scope;

	principal_enter(test->principal, &scope);
	test->verdict = policy_check(test->access, test->rows);
	principal_leave(&scope);
}

/* false: it raised an error */
static bool
in_subtransaction(void (*function) (SetTest *test), SetTest *test)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool ok = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		function(test);
		ReleaseCurrentSubTransaction();
		ok = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return ok;
}

/* Each row for each principal: is it as the set has it? */
static char *
compare_set(SetTest *test, const Principal *people)
{
	int			seen = 0;

	for (int i = 0; i < test->nprincipals; i++)
		for (int j = 0; j < test->nrows; j++)
		{
			SetTest		one = {.access = test->access,.principal = &people[i],
			.rows = &test->rows[j]};
			Verdict		verdict = setcheck_verdict(test->answers, j, i);

			if (!in_subtransaction(check_one, &one))
				continue;		/* the set may know without the part that fails */
			if (one.verdict != verdict)
				return psprintf("DIFFER: row %d is %s to principal %d, in the set %s",
								j + 1, verdict_name(one.verdict), i + 1,
								verdict_name(verdict));
			seen += verdict == VERDICT_YES;
		}
	return psprintf("set: %d of %d pairs", seen,
					test->nprincipals * test->nrows);
}

/*
 * rt_set_check(table regclass, role text, claims text[], rows anyarray,
 * known int[]): do many at once get the same answers as each alone?
 */
Datum
rt_set_check(PG_FUNCTION_ARGS)
{
	SetTest		test = {0};
	char	   *rolename = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Datum	   *claims;
	Datum	   *rows;
	int			nclaims;
	Principal  *people;
	PolicyRow  *policy_rows;

	policy_init();
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), TEXTOID, -1, false, TYPALIGN_INT,
					  &claims, NULL, &nclaims);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(3),
					  ARR_ELEMTYPE(PG_GETARG_ARRAYTYPE_P(3)), -1, false,
					  TYPALIGN_DOUBLE, &rows, NULL, &test.nrows);
	policy_rows = palloc0(sizeof(PolicyRow) * test.nrows);
	for (int i = 0; i < test.nrows; i++)
	{
		RelSchema  *schema = palloc0(sizeof(RelSchema));
		HeapTuple	tuple = palloc0(sizeof(HeapTupleData));

		row_arg(PG_GETARG_OID(0), DatumGetHeapTupleHeader(rows[i]), schema, tuple);
		policy_rows[i].schema = schema;
		policy_rows[i].tuple = tuple;
		if (!PG_ARGISNULL(4))
			policy_rows[i].known = attnums_arg(PG_GETARG_DATUM(4));
	}
	test.rows = policy_rows;
	people = palloc0(sizeof(Principal) * nclaims);
	test.principals = palloc0(sizeof(ParamListInfo) * nclaims);
	test.access = policy_table_access(PG_GETARG_OID(0),
									  get_role_oid(rolename, false));
	for (int i = 0; i < nclaims; i++)
	{
		Principal  *one = &people[test.nprincipals];

		principal_arg(one, rolename, TextDatumGetCString(claims[i]));
		test.principal = one;
		if (!in_subtransaction(fold_set, &test))
			continue;			/* is asked alone */
		if (!test.possible)
			PG_RETURN_TEXT_P(cstring_to_text("no set"));
		test.principals[test.nprincipals++] = test.params;
	}
	if (!in_subtransaction(check_set, &test))
		PG_RETURN_TEXT_P(cstring_to_text("error"));
	PG_RETURN_TEXT_P(cstring_to_text(compare_set(&test, people)));
}

/* rt_keep(table regclass, row record): for rt_check_kept, after an ALTER */
Datum
rt_keep(PG_FUNCTION_ARGS)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	HeapTupleData tuple;

	row_arg(PG_GETARG_OID(0), PG_GETARG_HEAPTUPLEHEADER(1), &kept_schema, &tuple);
	kept_tuple = *heap_copytuple(&tuple);
	MemoryContextSwitchTo(oldcontext);
	PG_RETURN_VOID();
}

/* rt_check_kept(role text, claims text) */
Datum
rt_check_kept(PG_FUNCTION_ARGS)
{
	PolicyRow	row = {&kept_schema, &kept_tuple, NULL};
	Principal	principal;

	principal_arg(&principal, text_to_cstring(PG_GETARG_TEXT_PP(0)),
				  text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_TEXT_P(cstring_to_text(verdict_name(check_as(kept_schema.relid,
														   &principal, &row))));
}

/* rt_access(table regclass, role text) */
Datum
rt_access(PG_FUNCTION_ARGS)
{
	StringInfoData buf;
	TableAccess *access;
	bool		all;
	const Bitmapset *needed;
	int			i = -1;

	policy_init();
	access = policy_table_access(PG_GETARG_OID(0),
								 get_role_oid(text_to_cstring(PG_GETARG_TEXT_PP(1)), true));
	initStringInfo(&buf);
	appendStringInfo(&buf, "readable=%d columns=", access->readable);
	while ((i = bms_next_member(access->columns, i)) >= 0)
		appendStringInfo(&buf, "%d ", i);
	i = -1;
	needed = policy_needed_columns(access, &all);
	appendStringInfo(&buf, "rls=%d session=%d all=%d needed=",
					 access->row_security, access->reads_session, all);
	while ((i = bms_next_member(needed, i)) >= 0)
		appendStringInfo(&buf, "%d ", i);
	if (access->undecidable)
		appendStringInfo(&buf, "(%s)", access->undecidable);
	PG_RETURN_TEXT_P(cstring_to_text(buf.data));
}

/* rt_dependencies(table regclass, role text) */
Datum
rt_dependencies(PG_FUNCTION_ARGS)
{
	TableAccess *access;
	ListCell   *lc;
	ArrayBuildState *result = initArrayResult(REGCLASSOID, CurrentMemoryContext, false);

	policy_init();
	access = policy_table_access(PG_GETARG_OID(0),
								 get_role_oid(text_to_cstring(PG_GETARG_TEXT_PP(1)), false));
	foreach(lc, policy_dependencies(access))
		result = accumArrayResult(result, ObjectIdGetDatum(lfirst_oid(lc)), false,
								  REGCLASSOID, CurrentMemoryContext);
	PG_RETURN_DATUM(makeArrayResult(result, CurrentMemoryContext));
}

/* rt_filter(table regclass, role text, filter text, row record, known int[]) */
Datum
rt_filter(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Principal	principal;
	PrincipalScope scope;
	RelSchema	schema;
	HeapTupleData tuple;
	PolicyRow	row = {&schema, &tuple, NULL};
	TableAccess *access;
	Filter	   *filter;
	Verdict		verdict;

	policy_init();
	principal_arg(&principal, text_to_cstring(PG_GETARG_TEXT_PP(1)), "{}");
	row_arg(relid, PG_GETARG_HEAPTUPLEHEADER(3), &schema, &tuple);
	if (!PG_ARGISNULL(4))
		row.known = attnums_arg(PG_GETARG_DATUM(4));
	access = policy_table_access(relid, principal.roleid);
	principal_enter(&principal, &scope);
	filter = filter_compile(text_to_cstring(PG_GETARG_TEXT_PP(2)), NULL, relid,
							access->columns, CurrentMemoryContext);
	verdict = filter_check(filter, &row);
	Assert(verdict == filter_check(filter, &row));
	principal_leave(&scope);
	PG_RETURN_TEXT_P(cstring_to_text(verdict_name(verdict)));
}

Datum
rt_filter_syntax(PG_FUNCTION_ARGS)
{
	char	   *error = filter_syntax_error(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	if (error == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(error));
}

/* rt_set(name text, value text) */
Datum
rt_set(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *value = MemoryContextStrdup(TopMemoryContext,
											text_to_cstring(PG_GETARG_TEXT_PP(1)));

	if (strcmp(name, "policy_timeout") == 0)
		rtsync_policy_timeout = atoi(value);
	else if (strcmp(name, "jwt_secret") == 0)
		rtsync_jwt_secret = value;
	else if (strcmp(name, "jwt_secret_file") == 0)
		rtsync_jwt_secret_file = value;
	else if (strcmp(name, "jwt_jwks_file") == 0)
		rtsync_jwt_jwks_file = value;
	else if (strcmp(name, "jwt_audience") == 0)
		rtsync_jwt_audience = value;
	else if (strcmp(name, "jwt_issuer") == 0)
		rtsync_jwt_issuer = value;
	else if (strcmp(name, "jwt_leeway") == 0)
		rtsync_jwt_leeway = atoi(value);
	else
		elog(ERROR, "no such setting");
	keyring_reload();
	PG_RETURN_VOID();
}

/* rt_token(token bytea) */
Datum
rt_token(PG_FUNCTION_ARGS)
{
	bytea	   *data = PG_GETARG_BYTEA_PP(0);
	Token		token;
	TokenError	error;
	char	   *result;

	if (token_verify(VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), &token, &error))
		result = psprintf("%s %s", token.rolename, token.claims);
	else
	{
		result = psprintf("%s: %s", error.code, error.message);
		if (strcmp(error.message, error.handshake) != 0)
			result = psprintf("%s [%s]", result, error.handshake);
	}
	PG_RETURN_TEXT_P(cstring_to_text(result));
}

static void
append_base64url(StringInfo buf, const char *data, int length)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	uint32		bits = 0;
	int			nbits = 0;

	for (int i = 0; i < length; i++)
	{
		bits = (bits << 8) | (unsigned char) data[i];
		for (nbits += 8; nbits >= 6; nbits -= 6)
			appendStringInfoChar(buf, digits[(bits >> (nbits - 6)) & 63]);
	}
	if (nbits > 0)
		appendStringInfoChar(buf, digits[(bits << (6 - nbits)) & 63]);
}

/* rt_sign(header bytea, payload bytea, secret text): a token */
Datum
rt_sign(PG_FUNCTION_ARGS)
{
	bytea	   *header = PG_GETARG_BYTEA_PP(0);
	bytea	   *payload = PG_GETARG_BYTEA_PP(1);
	char	   *key = text_to_cstring(PG_GETARG_TEXT_PP(2));
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int length = 0;
	StringInfoData buf;

	initStringInfo(&buf);
	append_base64url(&buf, VARDATA_ANY(header), VARSIZE_ANY_EXHDR(header));
	appendStringInfoChar(&buf, '.');
	append_base64url(&buf, VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload));
	HMAC(EVP_sha256(), key, strlen(key), (unsigned char *) buf.data, buf.len,
		 digest, &length);
	appendStringInfoChar(&buf, '.');
	append_base64url(&buf, (char *) digest, length);
	PG_RETURN_TEXT_P(cstring_to_text(buf.data));
}

/*
 * rt_bench(table regclass, role text, claims text, row record, rounds int,
 * how text): ns per round
 */
Datum
rt_bench(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	int			rounds = PG_GETARG_INT32(4);
	char	   *how = text_to_cstring(PG_GETARG_TEXT_PP(5));
	Principal	principal;
	PrincipalScope scope;
	RelSchema	schema;
	HeapTupleData tuple;
	PolicyRow	row = {&schema, &tuple, NULL};
	TableAccess *access;
	instr_time	start;
	instr_time	end;

	principal_arg(&principal, text_to_cstring(PG_GETARG_TEXT_PP(1)),
				  text_to_cstring(PG_GETARG_TEXT_PP(2)));
	row_arg(relid, PG_GETARG_HEAPTUPLEHEADER(3), &schema, &tuple);
	check_as(relid, &principal, &row);

	INSTR_TIME_SET_CURRENT(start);
	if (strcmp(how, "enter") == 0)
	{
		for (int i = 0; i < rounds; i++)
		{
			principal_enter(&principal, &scope);
			principal_leave(&scope);
		}
	}
	else if (strcmp(how, "role") == 0)
	{
		for (int i = 0; i < rounds; i++)
		{
			principal_enter_role(principal.roleid, &scope);
			principal_leave(&scope);
		}
	}
	else if (strcmp(how, "each") == 0)
	{
		for (int i = 0; i < rounds; i++)
			check_as(relid, &principal, &row);
	}
	else
	{
		principal_enter(&principal, &scope);
		access = policy_table_access(relid, principal.roleid);
		for (int i = 0; i < rounds; i++)
		{
			policy_check(access, &row);
			if (strcmp(how, "rebuild") == 0)
				access->valid = false;
		}
		principal_leave(&scope);
	}
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	PG_RETURN_FLOAT8(INSTR_TIME_GET_DOUBLE(end) * 1e9 / rounds);
}
