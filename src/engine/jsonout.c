/*-------------------------------------------------------------------------
 *
 * jsonout.c
 *	  Values as JSON text, as to_jsonb() gives them.
 *
 * The text is what to_json() would write, so that casting it to jsonb gives
 * what to_jsonb() gives: numbers bare, or as strings where JSON has no such
 * number (NaN, Infinity); dates and timestamps in ISO form; json and jsonb as
 * they are; types of users that have a cast to json by that cast; arrays and
 * composites by structure; everything else as the string that the type's
 * output function gives.  The types that most rows are made of have a path of
 * their own here.  (PostgreSQL's own functions below to_json() are exported
 * only from 17 on, and look up everything for each value.)
 *
 * One thing differs from to_json(): line breaks between the tokens of a json
 * value become spaces, so that the text is always one line.
 *
 * The settings that to_jsonb() depends on (TimeZone, DateStyle, IntervalStyle,
 * bytea_output, extra_float_digits) are the caller's to set.
 *
 * Text is in the server's encoding.  Who sends it where UTF-8 is expected
 * calls jsonout_to_utf8 once at the end.
 *
 * Temporary allocations stay in the current memory context: the caller resets
 * it after each change.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>
#include <math.h>

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "engine/compat.h"
#include "engine/jsonout.h"

typedef enum JsonCategory
{
	JSON_BOOL,
	JSON_INT2,
	JSON_INT4,
	JSON_INT8,
	JSON_FLOAT4,
	JSON_FLOAT8,
	JSON_NUMERIC,
	JSON_TEXT,					/* text, varchar, bpchar: bytes are the value */
	JSON_UUID,
	JSON_DATETIME,				/* date, timestamp, timestamptz */
	JSON_JSON,
	JSON_JSONB,
	JSON_BARE_BYTEA,
	JSON_CAST,					/* a user's type with a cast to json */
	JSON_ARRAY,
	JSON_COMPOSITE,
	JSON_OUTPUT					/* output function, as string */
} JsonCategory;

/* Longest text of a 64-bit integer, or of a shortest-precision float */
#define NUMBER_SPACE Max(MAXINT8LEN + 1, DOUBLE_SHORTEST_DECIMAL_LEN)

static JsonCategory categorize(const JsonOut *out, Oid *funcid);
static JsonCategory categorize_other(Oid typid, bool no_user_code,
									 Oid *funcid);
static void prepare(JsonOut *out, Oid typid, MemoryContext context);
static Oid	json_cast(Oid typid);
static bool is_c_function(Oid funcid);
static void prepare_array(JsonOut *out);
static void prepare_attributes(JsonOut *out, TupleDesc desc);
static void append_integer(StringInfo buf, int64 value);
static void append_float4(StringInfo buf, float4 value);
static void append_float8(StringInfo buf, float8 value);
static void append_numeric(StringInfo buf, Datum value);
static void append_text(StringInfo buf, Datum value);
static void append_uuid(StringInfo buf, const pg_uuid_t *uuid);
static void append_datetime(StringInfo buf, Oid typid, Datum value);
static void append_json(StringInfo buf, Datum value);
static void append_jsonb(StringInfo buf, Datum value);
static void append_bare_bytea(StringInfo buf, Datum value);
static void append_array(StringInfo buf, JsonOut *out, Datum value);
static int	append_dimension(StringInfo buf, JsonOut *element,
							 const ArrayType *array, int dim, int item,
							 const Datum *values, const bool *nulls);
static void append_composite(StringInfo buf, JsonOut *out, Datum value);
static void append_escaped(StringInfo buf, const char *s, Size len);
static Size plain_prefix(const char *s, Size len);

static const char hex_digits[] = "0123456789abcdef";

/*
 * Find out how to write values of type "typid".  What it allocates lives in
 * "context", now and when values are written.
 */
void
jsonout_prepare(JsonOut *out, Oid typid, bool bare_bytea,
				MemoryContext context)
{
	memset(out, 0, sizeof(*out));
	out->bare_bytea = bare_bytea;
	prepare(out, typid, context);
}

/* The same for use under a historic snapshot; see there. */
void
jsonout_prepare_decoding(JsonOut *out, Oid typid, MemoryContext context)
{
	memset(out, 0, sizeof(*out));
	out->no_user_code = true;
	prepare(out, typid, context);
}

/*
 * Append a value that is not NULL.  It may be compressed, but not stored
 * outside of its row.
 */
void
jsonout_append(StringInfo buf, JsonOut *out, Datum value)
{
	switch ((JsonCategory) out->category)
	{
		case JSON_BOOL:
			appendStringInfoString(buf, DatumGetBool(value) ? "true" : "false");
			break;
		case JSON_INT2:
			append_integer(buf, DatumGetInt16(value));
			break;
		case JSON_INT4:
			append_integer(buf, DatumGetInt32(value));
			break;
		case JSON_INT8:
			append_integer(buf, DatumGetInt64(value));
			break;
		case JSON_FLOAT4:
			append_float4(buf, DatumGetFloat4(value));
			break;
		case JSON_FLOAT8:
			append_float8(buf, DatumGetFloat8(value));
			break;
		case JSON_NUMERIC:
			append_numeric(buf, value);
			break;
		case JSON_TEXT:
			append_text(buf, value);
			break;
		case JSON_UUID:
			append_uuid(buf, DatumGetUUIDP(value));
			break;
		case JSON_DATETIME:
			append_datetime(buf, out->typid, value);
			break;
		case JSON_JSON:
			append_json(buf, value);
			break;
		case JSON_JSONB:
			append_jsonb(buf, value);
			break;
		case JSON_BARE_BYTEA:
			append_bare_bytea(buf, value);
			break;
		case JSON_ARRAY:
			append_array(buf, out, value);
			break;
		case JSON_COMPOSITE:
			append_composite(buf, out, value);
			break;
		case JSON_CAST:
			append_json(buf, FunctionCall1(&out->finfo, value));
			break;
		case JSON_OUTPUT:
			jsonout_append_string(buf, OutputFunctionCall(&out->finfo, value));
			break;
	}
}

/* Append a string, quoted and escaped. */
void
jsonout_append_string(StringInfo buf, const char *string)
{
	jsonout_append_string_len(buf, string, strlen(string));
}

/* The same for a string that needs no end mark; it must hold no zero byte. */
void
jsonout_append_string_len(StringInfo buf, const char *string, Size len)
{
	appendStringInfoCharMacro(buf, '"');
	append_escaped(buf, string, len);
	appendStringInfoCharMacro(buf, '"');
}

/*
 * Convert what stands in "buf" from "start" on to UTF-8.  Raises an error if
 * that cannot be done: a character without equivalent, or, where the server's
 * encoding is SQL_ASCII and therefore unknown, bytes that are not UTF-8.
 */
void
jsonout_to_utf8(StringInfo buf, int start)
{
	char	   *text = buf->data + start;
	int			len = buf->len - start;
	char	   *converted;

	if (GetDatabaseEncoding() == PG_UTF8)
		return;

	converted = (char *) pg_do_encoding_conversion((unsigned char *) text, len,
												   GetDatabaseEncoding(),
												   PG_UTF8);
	if (converted == text)
		return;

	buf->len = start;
	appendStringInfoString(buf, converted);
	pfree(converted);
}

/* Fill the rest of "out", which has the caller's flags. */
static void
prepare(JsonOut *out, Oid typid, MemoryContext context)
{
	Oid			funcid = InvalidOid;

	out->context = context;
	out->typid = getBaseType(typid);
	out->category = categorize(out, &funcid);
	if (OidIsValid(funcid))
		fmgr_info_cxt(funcid, &out->finfo, context);

	/* what a composite is made of is seen when there is a value */
	out->runs_user_code = !out->no_user_code &&
		((out->category == JSON_CAST && !is_c_function(funcid)) ||
		 (out->category == JSON_COMPOSITE &&
		  out->typid >= FirstNormalObjectId));
	if (out->category == JSON_ARRAY)
		prepare_array(out);
}

/*
 * Which path a base type takes.  *funcid is set to the function that the path
 * needs, if any.
 */
static JsonCategory
categorize(const JsonOut *out, Oid *funcid)
{
	Oid			typid = out->typid;

	switch (typid)
	{
		case BOOLOID:
			return JSON_BOOL;
		case INT2OID:
			return JSON_INT2;
		case INT4OID:
			return JSON_INT4;
		case INT8OID:
			return JSON_INT8;
		case FLOAT4OID:
			return JSON_FLOAT4;
		case FLOAT8OID:
			return JSON_FLOAT8;
		case NUMERICOID:
			return JSON_NUMERIC;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return JSON_TEXT;
		case UUIDOID:
			return JSON_UUID;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return JSON_DATETIME;
		case JSONOID:
			return JSON_JSON;
		case JSONBOID:
			return JSON_JSONB;
		case BYTEAOID:
			if (out->bare_bytea)
				return JSON_BARE_BYTEA;
			break;
	}
	return categorize_other(typid, out->no_user_code, funcid);
}

static JsonCategory
categorize_other(Oid typid, bool no_user_code, Oid *funcid)
{
	bool		typisvarlena;

	if (OidIsValid(get_element_type(typid)) || typid == RECORDARRAYOID)
		return JSON_ARRAY;
	if (type_is_rowtype(typid))
		return JSON_COMPOSITE;

	*funcid = json_cast(typid);
	if (OidIsValid(*funcid) && (!no_user_code || is_c_function(*funcid)))
		return JSON_CAST;

	getTypeOutputInfo(typid, funcid, &typisvarlena);
	return JSON_OUTPUT;
}

/* The function that casts a user's type to json, if there is one.  Like for
 * to_jsonb(), casts of built-in types do not count. */
static Oid
json_cast(Oid typid)
{
	Oid			funcid = InvalidOid;

	if (typid < FirstNormalObjectId ||
		find_coercion_pathway(JSONOID, typid, COERCION_EXPLICIT,
							  &funcid) != COERCION_PATH_FUNC)
		return InvalidOid;
	return funcid;
}

/* Written in C, so by a superuser, and not in need of a snapshot? */
static bool
is_c_function(Oid funcid)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Oid			language;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	language = ((Form_pg_proc) GETSTRUCT(tuple))->prolang;
	ReleaseSysCache(tuple);
	return language == INTERNALlanguageId || language == ClanguageId;
}

static void
prepare_array(JsonOut *out)
{
	Oid			element_type = get_element_type(out->typid);
	JsonOut    *element;

	if (out->typid == RECORDARRAYOID)
		element_type = RECORDOID;
	get_typlenbyvalalign(element_type, &out->elmlen, &out->elmbyval,
						 &out->elmalign);

	element = MemoryContextAllocZero(out->context, sizeof(JsonOut));
	element->no_user_code = out->no_user_code;
	prepare(element, element_type, out->context);
	out->runs_user_code = element->runs_user_code;
	out->element = element;
}

/*
 * Make out->attributes for values of the row type "desc", unless it is the one
 * that they were made for.  The identifier changes when the type does.
 */
static void
prepare_attributes(JsonOut *out, TupleDesc desc)
{
	uint64		id = assign_record_type_identifier(desc->tdtypeid,
												   desc->tdtypmod);
	JsonOut    *attributes;

	if (out->attributes != NULL && out->rowtype_id == id)
		return;

	out->attributes = NULL;
	if (out->attributes_context == NULL)
		out->attributes_context = AllocSetContextCreate(out->context,
														"rtsync row type",
														ALLOCSET_SMALL_SIZES);
	else
		MemoryContextReset(out->attributes_context);

	attributes = MemoryContextAllocZero(out->attributes_context,
										sizeof(JsonOut) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		attributes[i].no_user_code = out->no_user_code;
		prepare(&attributes[i], TupleDescAttr(desc, i)->atttypid,
				out->attributes_context);
	}
	out->attributes = attributes;
	out->rowtype_id = id;
}

static void
append_integer(StringInfo buf, int64 value)
{
	enlargeStringInfo(buf, NUMBER_SPACE);
	buf->len += pg_lltoa(value, buf->data + buf->len);
}

static void
append_float4(StringInfo buf, float4 value)
{
	if (isnan(value) || isinf(value))
	{
		jsonout_append_string(buf, isnan(value) ? "NaN" :
							  value < 0 ? "-Infinity" : "Infinity");
	}
	else if (extra_float_digits > 0)
	{
		enlargeStringInfo(buf, NUMBER_SPACE);
		buf->len += float_to_shortest_decimal_buf(value, buf->data + buf->len);
	}
	else
		appendStringInfoString(buf, DatumGetCString(DirectFunctionCall1(float4out,
																		Float4GetDatum(value))));
}

static void
append_float8(StringInfo buf, float8 value)
{
	if (isnan(value) || isinf(value))
	{
		jsonout_append_string(buf, isnan(value) ? "NaN" :
							  value < 0 ? "-Infinity" : "Infinity");
	}
	else if (extra_float_digits > 0)
	{
		enlargeStringInfo(buf, NUMBER_SPACE);
		buf->len += double_to_shortest_decimal_buf(value, buf->data + buf->len);
	}
	else
		appendStringInfoString(buf, float8out_internal(value));
}

static void
append_numeric(StringInfo buf, Datum value)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out, value));
	bool		is_number = isdigit((unsigned char) text[0]) ||
		(text[0] == '-' && isdigit((unsigned char) text[1]));

	/* NaN and Infinity are no JSON numbers */
	if (is_number)
		appendStringInfoString(buf, text);
	else
		jsonout_append_string(buf, text);
	pfree(text);
}

static void
append_text(StringInfo buf, Datum value)
{
	text	   *txt = DatumGetTextPP(value);

	jsonout_append_string_len(buf, VARDATA_ANY(txt), VARSIZE_ANY_EXHDR(txt));
}

static void
append_uuid(StringInfo buf, const pg_uuid_t *uuid)
{
	char	   *p;

	enlargeStringInfo(buf, 2 * UUID_LEN + 6);
	p = buf->data + buf->len;
	*p++ = '"';
	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = hex_digits[uuid->data[i] >> 4];
		*p++ = hex_digits[uuid->data[i] & 0xF];
	}
	*p++ = '"';
	*p = '\0';
	buf->len = p - buf->data;
}

static void
append_datetime(StringInfo buf, Oid typid, Datum value)
{
	char	   *p;

	enlargeStringInfo(buf, MAXDATELEN + 3);
	p = buf->data + buf->len;
	*p++ = '"';
	JsonEncodeDateTime(p, value, typid, NULL);
	p += strlen(p);
	*p++ = '"';
	*p = '\0';
	buf->len = p - buf->data;
}

/*
 * Append a json value as it is, but on one line.  Inside of its strings there
 * can be no line break, so those there are stand between tokens.
 */
static void
append_json(StringInfo buf, Datum value)
{
	text	   *txt = DatumGetTextPP(value);
	int			start = buf->len;

	appendBinaryStringInfo(buf, VARDATA_ANY(txt), VARSIZE_ANY_EXHDR(txt));
	for (char *p = buf->data + start; (p = strpbrk(p, "\n\r")) != NULL; p++)
		*p = ' ';
}

static void
append_jsonb(StringInfo buf, Datum value)
{
	Jsonb	   *jsonb = DatumGetJsonbP(value);

	(void) JsonbToCString(buf, &jsonb->root, VARSIZE(jsonb));
}

static void
append_bare_bytea(StringInfo buf, Datum value)
{
	bytea	   *bytes = DatumGetByteaPP(value);
	const unsigned char *data = (const unsigned char *) VARDATA_ANY(bytes);
	int			len = VARSIZE_ANY_EXHDR(bytes);
	char	   *p;

	if (len > (MaxAllocSize - 3) / 2)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("binary value of %d bytes is too long for JSON", len)));

	enlargeStringInfo(buf, 2 * len + 2);
	p = buf->data + buf->len;
	*p++ = '"';
	for (int i = 0; i < len; i++)
	{
		*p++ = hex_digits[data[i] >> 4];
		*p++ = hex_digits[data[i] & 0xF];
	}
	*p++ = '"';
	*p = '\0';
	buf->len = p - buf->data;
}

static void
append_array(StringInfo buf, JsonOut *out, Datum value)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	Datum	   *values;
	bool	   *nulls;
	int			nitems;

	if (ARR_NDIM(array) == 0)
	{
		appendStringInfoString(buf, "[]");
		return;
	}
	deconstruct_array(array, ARR_ELEMTYPE(array), out->elmlen, out->elmbyval,
					  out->elmalign, &values, &nulls, &nitems);
	(void) append_dimension(buf, out->element, array, 0, 0, values, nulls);
	pfree(values);
	pfree(nulls);
}

/*
 * Append one dimension of an array, from item number "item" on.  Returns the
 * number of the item after it.
 */
static int
append_dimension(StringInfo buf, JsonOut *element, const ArrayType *array,
				 int dim, int item, const Datum *values, const bool *nulls)
{
	int			size = ARR_DIMS(array)[dim];

	appendStringInfoCharMacro(buf, '[');
	for (int i = 0; i < size; i++)
	{
		if (i > 0)
			appendStringInfoCharMacro(buf, ',');
		if (dim + 1 < ARR_NDIM(array))
		{
			item = append_dimension(buf, element, array, dim + 1, item,
									values, nulls);
			continue;
		}
		if (nulls[item])
			appendStringInfoString(buf, "null");
		else
			jsonout_append(buf, element, values[item]);
		item++;
	}
	appendStringInfoCharMacro(buf, ']');
	return item;
}

static void
append_composite(StringInfo buf, JsonOut *out, Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
											  HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple;
	bool		first = true;

	/* composites can nest without end */
	check_stack_depth();

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;

	prepare_attributes(out, desc);
	appendStringInfoCharMacro(buf, '{');
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		isnull;
		Datum		attribute;

		if (att->attisdropped)
			continue;
		if (!first)
			appendStringInfoCharMacro(buf, ',');
		first = false;

		jsonout_append_string(buf, NameStr(att->attname));
		appendStringInfoCharMacro(buf, ':');
		attribute = heap_getattr(&tuple, i + 1, desc, &isnull);
		if (isnull)
			appendStringInfoString(buf, "null");
		else
			jsonout_append(buf, &out->attributes[i], attribute);
	}
	appendStringInfoCharMacro(buf, '}');
	ReleaseTupleDesc(desc);
}

/*
 * Append "len" bytes of text, escaped, without quotes.  All server encodings
 * have ASCII bytes for ASCII characters only, so bytes can be looked at one by
 * one.
 */
static void
append_escaped(StringInfo buf, const char *s, Size len)
{
	while (len > 0)
	{
		Size		plain = plain_prefix(s, len);
		unsigned char c;

		if (plain > 0)
			appendBinaryStringInfo(buf, s, plain);
		if (plain == len)
			return;

		c = (unsigned char) s[plain];
		switch (c)
		{
			case '"':
				appendBinaryStringInfo(buf, "\\\"", 2);
				break;
			case '\\':
				appendBinaryStringInfo(buf, "\\\\", 2);
				break;
			case '\b':
				appendBinaryStringInfo(buf, "\\b", 2);
				break;
			case '\f':
				appendBinaryStringInfo(buf, "\\f", 2);
				break;
			case '\n':
				appendBinaryStringInfo(buf, "\\n", 2);
				break;
			case '\r':
				appendBinaryStringInfo(buf, "\\r", 2);
				break;
			case '\t':
				appendBinaryStringInfo(buf, "\\t", 2);
				break;
			default:
				appendStringInfo(buf, "\\u%04x", c);
				break;
		}
		s += plain + 1;
		len -= plain + 1;
	}
}

/* Byte by byte: nonzero where the bytes of "word" are less than 0x20, a quote
 * or a backslash (and sometimes, harmlessly, in the byte above such a one) */
#define BYTES(b) (UINT64CONST(0x0101010101010101) * (b))
#define LOW_BYTES(word, n) (((word) - BYTES(n)) & ~(word) & BYTES(0x80))
#define SPECIAL_BYTES(word) \
	(LOW_BYTES(word, 0x20) | \
	 LOW_BYTES((word) ^ BYTES('"'), 1) | \
	 LOW_BYTES((word) ^ BYTES('\\'), 1))

/* How many bytes stand before the first that must be escaped? */
static Size
plain_prefix(const char *s, Size len)
{
	Size		i = 0;

	for (; i + sizeof(uint64) <= len; i += sizeof(uint64))
	{
		uint64		word;

		memcpy(&word, s + i, sizeof(word));
		if (SPECIAL_BYTES(word) != 0)
			break;
	}
	for (; i < len; i++)
	{
		unsigned char c = (unsigned char) s[i];

		if (c < 0x20 || c == '"' || c == '\\')
			break;
	}
	return i;
}
