/*-------------------------------------------------------------------------
 *
 * jsontree.c
 *	  Small JSON texts that come from strangers, as a tree.
 *
 * PostgreSQL's parser does the work.  What it would raise errors for is kept
 * from it: nesting is limited before it sees the text.  Refused are also what
 * jsonb could not hold (numbers out of numeric's range), and a name that
 * appears twice in an object: readers disagree on which value counts.
 *
 * The caller limits the length.  In a database whose encoding is not UTF-8,
 * escapes of characters that it lacks raise errors.
 *
 * Pure: knows no catalog, and builds without a server for the fuzzers.  Called
 * by jwt.c, jwk.c and token.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

#include "engine/compat.h"
#include "engine/jsontree.h"

#define MAX_DEPTH 64
#define MAX_NUMBER_DIGITS 1000
#define MAX_NUMBER_EXPONENT 1000

/* A tree that is growing */
typedef struct TreeBuilder
{
	JsonTree   *root;
	JsonTree   *open;			/* the innermost object or array not closed */
	char	   *name;			/* of the member whose value comes next */
	bool		invalid;
} TreeBuilder;

/* Looks at brackets outside strings, well-formed or not. */
static bool
nested_too_deeply(const char *text, Size length)
{
	int			depth = 0;
	bool		quoted = false;

	for (Size i = 0; i < length; i++)
	{
		char		c = text[i];

		if (quoted && c == '\\')
			i++;
		else if (c == '"')
			quoted = !quoted;
		else if (quoted)
			continue;
		else if ((c == '{' || c == '[') && ++depth > MAX_DEPTH)
			return true;
		else if (c == '}' || c == ']')
			depth--;
	}
	return false;
}

/* Does numeric, as which jsonb keeps it, have room for this JSON number? */
static bool
number_in_range(const char *number)
{
	const char *exponent = strpbrk(number, "eE");
	Size		digits = exponent ? exponent - number : strlen(number);

	if (digits > MAX_NUMBER_DIGITS)
		return false;
	if (exponent == NULL)
		return true;
	return strlen(exponent + 1) <= 5 &&
		abs(atoi(exponent + 1)) <= MAX_NUMBER_EXPONENT;
}

static JsonTree *
add_value(TreeBuilder *builder, char kind)
{
	JsonTree   *value = palloc0(sizeof(JsonTree));
	JsonTree   *parent = builder->open;

	value->kind = kind;
	value->name = builder->name;
	value->parent = parent;
	builder->name = NULL;
	if (parent == NULL)
		builder->root = value;
	else if (parent->last == NULL)
		parent->first = parent->last = value;
	else
		parent->last = parent->last->next = value;
	return value;
}

static CompatJsonResult
object_start_cb(void *state)
{
	TreeBuilder *builder = state;

	builder->open = add_value(builder, '{');
	COMPAT_JSON_RETURN;
}

static CompatJsonResult
array_start_cb(void *state)
{
	TreeBuilder *builder = state;

	builder->open = add_value(builder, '[');
	COMPAT_JSON_RETURN;
}

static CompatJsonResult
end_cb(void *state)
{
	TreeBuilder *builder = state;

	builder->open = builder->open->parent;
	COMPAT_JSON_RETURN;
}

static CompatJsonResult
field_cb(void *state, char *name, bool isnull)
{
	TreeBuilder *builder = state;

	if (jsontree_member(builder->open, name) != NULL)
		builder->invalid = true;
	builder->name = name;
	COMPAT_JSON_RETURN;
}

static CompatJsonResult
scalar_cb(void *state, char *text, JsonTokenType type)
{
	TreeBuilder *builder = state;
	JsonTree   *value;

	if (type == JSON_TOKEN_NUMBER && !number_in_range(text))
		builder->invalid = true;
	value = add_value(builder, type == JSON_TOKEN_STRING ? 's' :
					  type == JSON_TOKEN_NUMBER ? '0' : text[0]);
	value->value = text;
	COMPAT_JSON_RETURN;
}

/*
 * Parse a text.  NULL if it is not JSON in UTF-8, or is one of those that the
 * head of this file says are refused.
 */
JsonTree *
jsontree_parse(const char *text, Size length)
{
	TreeBuilder builder = {0};
	JsonSemAction actions = {
		.semstate = &builder,
		.object_start = object_start_cb,
		.object_end = end_cb,
		.array_start = array_start_cb,
		.array_end = end_cb,
		.object_field_start = field_cb,
		.scalar = scalar_cb
	};

	if (length == 0 || length > INT_MAX || nested_too_deeply(text, length) ||
		pg_encoding_verifymbstr(PG_UTF8, text, (int) length) != (int) length)
		return NULL;
	if (pg_parse_json(compat_json_lex(text, length), &actions) != JSON_SUCCESS ||
		builder.invalid)
		return NULL;
	return builder.root;
}

/* A member of an object, or NULL; also if it is no object. */
const JsonTree *
jsontree_member(const JsonTree *object, const char *name)
{
	if (object->kind != '{')
		return NULL;
	for (const JsonTree *member = object->first; member != NULL;
		 member = member->next)
		if (strcmp(member->name, name) == 0)
			return member;
	return NULL;
}

/* The value of a member that is a string, else NULL. */
const char *
jsontree_string(const JsonTree *object, const char *name)
{
	const JsonTree *member = jsontree_member(object, name);

	return member != NULL && member->kind == 's' ? member->value : NULL;
}
