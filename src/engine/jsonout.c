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
 * their own here.  Arrays and composites go through to_json() itself, whose
 * innards are not exported before PostgreSQL 17.
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

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
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
	JSON_TO_JSON,				/* arrays, composites */
	JSON_OUTPUT					/* output function, as string */
} JsonCategory;

/* Longest text of a 64-bit integer, or of a shortest-precision float */
#define NUMBER_SPACE Max(MAXINT8LEN + 1, DOUBLE_SHORTEST_DECIMAL_LEN)

static JsonCategory categorize(Oid typid, bool bare_bytea, Oid *funcid);
static JsonCategory categorize_other(Oid typid, Oid *funcid);
static void prepare_to_json(JsonOut *out, MemoryContext context);
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
static void append_escaped(StringInfo buf, const char *s, Size len);
static Size plain_prefix(const char *s, Size len);

static const char hex_digits[] = "0123456789abcdef";

/*
 * Find out how to write values of type "typid".  What it allocates lives in
 * "context".
 */
void
jsonout_prepare(JsonOut *out, Oid typid, bool bare_bytea,
				MemoryContext context)
{
	Oid			funcid = InvalidOid;

	memset(out, 0, sizeof(*out));
	out->bare_bytea = bare_bytea;
	out->typid = getBaseType(typid);
	out->category = categorize(out->typid, bare_bytea, &funcid);
	if (OidIsValid(funcid))
		fmgr_info_cxt(funcid, &out->finfo, context);
	if (out->category == JSON_TO_JSON)
		prepare_to_json(out, context);

	/* an array or composite may hold a type with such a cast */
	out->runs_user_code = out->category == JSON_CAST ||
		(out->category == JSON_TO_JSON &&
		 out->typid >= FirstNormalObjectId);
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
		case JSON_CAST:
		case JSON_TO_JSON:
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

/*
 * Which path a base type takes.  *funcid is set to the function that the path
 * needs, if any.
 */
static JsonCategory
categorize(Oid typid, bool bare_bytea, Oid *funcid)
{
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
			if (bare_bytea)
				return JSON_BARE_BYTEA;
			break;
	}
	return categorize_other(typid, funcid);
}

static JsonCategory
categorize_other(Oid typid, Oid *funcid)
{
	bool		typisvarlena;

	if (OidIsValid(get_element_type(typid)) || typid == RECORDARRAYOID ||
		type_is_rowtype(typid))
	{
		*funcid = F_TO_JSON;
		return JSON_TO_JSON;
	}

	/* Like to_jsonb: casts of built-in types do not count. */
	if (typid >= FirstNormalObjectId &&
		find_coercion_pathway(JSONOID, typid, COERCION_EXPLICIT,
							  funcid) == COERCION_PATH_FUNC &&
		OidIsValid(*funcid))
		return JSON_CAST;

	getTypeOutputInfo(typid, funcid, &typisvarlena);
	return JSON_OUTPUT;
}

/* to_json() asks for its argument's type: give it an expression to look at. */
static void
prepare_to_json(JsonOut *out, MemoryContext context)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	Const	   *arg = makeNullConst(out->typid, -1, InvalidOid);
	FuncExpr   *expr = makeFuncExpr(F_TO_JSON, JSONOID, list_make1(arg),
									InvalidOid, InvalidOid,
									COERCE_EXPLICIT_CALL);

	fmgr_info_set_expr((Node *) expr, &out->finfo);
	MemoryContextSwitchTo(oldcontext);
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
