/*-------------------------------------------------------------------------
 *
 * filter_parse.c
 *	  From the text of a binding's "filter" to its conditions.
 *
 * Everything of one result is in one block of memory whose size follows from
 * the text's length alone: no part of the result is longer than twice the text
 * that it comes from.  The text is untrusted.
 *
 * In the server the block is palloc'd; with RTSYNC_STANDALONE defined it comes
 * from malloc.
 *
 * Used by filter.c.
 *
 *-------------------------------------------------------------------------
 */
#ifdef RTSYNC_STANDALONE
#include <stdlib.h>
#define block_alloc(size) malloc(size)
#define block_free(block) free(block)
#else
#include "postgres.h"
#define block_alloc(size) palloc(size)
#define block_free(block) pfree(block)
#endif

#include <string.h>

#include "engine/filter_parse.h"

/* A part of the text */
typedef struct Span
{
	const char *start;
	const char *end;
} Span;

typedef struct Parser
{
	FilterParse *result;
	char	   *strings;		/* where the next string goes */
} Parser;

/* In the order of FilterOp */
static const char *const operator_names[] = {
	"eq", "neq", "lt", "lte", "gt", "gte", "in", "like", "ilike", "is",
	"match", "imatch", "isdistinct"
};

#define NOPERATORS ((int) (sizeof(operator_names) / sizeof(operator_names[0])))

static Span
make_span(const char *start, const char *end)
{
	Span		span;

	span.start = start;
	span.end = end;
	return span;
}

static bool
is_blank(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static Span
trim(Span span)
{
	while (span.start < span.end && is_blank(span.start[0]))
		span.start++;
	while (span.start < span.end && is_blank(span.end[-1]))
		span.end--;
	return span;
}

static bool
span_is(Span span, const char *string)
{
	size_t		length = strlen(string);

	return (size_t) (span.end - span.start) == length &&
		memcmp(span.start, string, length) == 0;
}

static bool
span_starts(Span span, const char *string)
{
	size_t		length = strlen(string);

	return (size_t) (span.end - span.start) >= length &&
		memcmp(span.start, string, length) == 0;
}

/* Split at the first c; false if there is none. */
static bool
split_at(Span span, char c, Span *before, Span *after)
{
	const char *found = NULL;

	if (span.start < span.end)
		found = memchr(span.start, c, span.end - span.start);
	if (found == NULL)
		return false;
	*before = make_span(span.start, found);
	*after = make_span(found + 1, span.end);
	return true;
}

static char *
keep(Parser *parser, Span span)
{
	char	   *result = parser->strings;
	size_t		length = span.end - span.start;

	if (length > 0)
		memcpy(result, span.start, length);
	result[length] = '\0';
	parser->strings += length + 1;
	return result;
}

/*
 * Take the conditions apart: the next one ends at a comma outside parentheses
 * and quotes, or at the end.  Sets *more if a comma follows.
 */
static Span
next_condition(Span rest, bool *more)
{
	const char *p;
	int			depth = 0;
	bool		quoted = false;
	char		prev = '\0';

	for (p = rest.start; p < rest.end; prev = *p++)
	{
		if (quoted)
		{
			if (*p == '\\' && p + 1 < rest.end)
				p++;
			else if (*p == '"')
				quoted = false;
		}
		else if (*p == '"' && (prev == '.' || prev == '(' || prev == ','))
			quoted = true;
		else if (*p == '(')
			depth++;
		else if (*p == ')' && depth > 0)
			depth--;
		else if (*p == ',' && depth == 0)
			break;
	}
	*more = p < rest.end;
	return make_span(rest.start, p);
}

/* A value without the quotes around all of it, if it has such. */
static char *
keep_value(Parser *parser, Span span)
{
	char	   *result = parser->strings;
	char	   *to = result;
	const char *p = span.start;

	if (p == span.end || *p != '"')
		return keep(parser, span);
	for (p++; p < span.end && *p != '"'; p++)
	{
		if (*p == '\\' && ++p == span.end)
			break;
		*to++ = *p;
	}
	if (p == span.end || p + 1 != span.end)
		return keep(parser, span);
	*to++ = '\0';
	parser->strings = to;
	return result;
}

/* The list of "in": parentheses become the braces of an array. */
static char *
keep_list(Parser *parser, Span span)
{
	char	   *result;

	if (span.end - span.start < 2 ||
		span.start[0] != '(' || span.end[-1] != ')')
		return NULL;
	result = keep(parser, span);
	result[0] = '{';
	result[span.end - span.start - 1] = '}';
	return result;
}

static void
fail(Parser *parser, const char *error)
{
	parser->result->error =
		keep(parser, make_span(error, error + strlen(error)));
}

static void
append_quoted(Parser *parser, Span span)
{
	char	   *to = parser->strings;

	*to++ = '"';
	for (const char *p = span.start; p < span.end; p++)
	{
		char		escaped = *p == '\n' ? 'n' : *p == '\t' ? 't' :
			*p == '\r' ? 'r' : *p == '"' || *p == '\\' ? *p : '\0';

		if (escaped != '\0')
			*to++ = '\\';
		*to++ = escaped != '\0' ? escaped : *p;
	}
	*to++ = '"';
	parser->strings = to;
}

/* The error that lists what could not be understood: ["foo", "hey"] */
static void
fail_parts(Parser *parser, const Span *parts, int nparts)
{
	parser->result->error = parser->strings;
	*parser->strings++ = '[';
	for (int i = 0; i < nparts; i++)
	{
		if (i > 0)
		{
			*parser->strings++ = ',';
			*parser->strings++ = ' ';
		}
		append_quoted(parser, parts[i]);
	}
	*parser->strings++ = ']';
	*parser->strings++ = '\0';
}

static bool
parse_condition(Parser *parser, Span text, FilterCondition *condition)
{
	Span		column;
	Span		rest;
	Span		parts[2];
	int			op;

	if (!split_at(text, '=', &column, &rest))
	{
		fail_parts(parser, &text, 1);
		return false;
	}
	condition->negate = span_starts(rest, "not.");
	if (condition->negate)
		rest.start += strlen("not.");
	if (!split_at(rest, '.', &parts[0], &parts[1]))
	{
		fail_parts(parser, &rest, 1);
		return false;
	}
	for (op = 0; op < NOPERATORS; op++)
	{
		if (span_is(parts[0], operator_names[op]))
			break;
	}
	if (op == NOPERATORS)
	{
		fail_parts(parser, parts, 2);
		return false;
	}

	condition->op = (FilterOp) op;
	condition->column = keep(parser, column);
	condition->value = op == FILTER_IN ?
		keep_list(parser, parts[1]) : keep_value(parser, parts[1]);
	if (condition->value == NULL)
	{
		fail(parser, "`in` filter value must be wrapped by parentheses");
		return false;
	}
	return true;
}

/*
 * Parse a filter.  Returns false and sets result->error if it is malformed.
 * The result, also of a failure, is freed with filter_parse_free.
 *
 * A NUL byte ends the text.
 */
bool
filter_parse(const char *bytes, size_t length, FilterParse *result)
{
	const char *nul = length > 0 ? memchr(bytes, '\0', length) : NULL;
	Span		rest = make_span(bytes, nul ? nul : bytes + length);
	size_t		size = rest.end - rest.start;
	size_t		max_conditions = 1;
	bool		more = true;
	Parser		parser;

	memset(result, 0, sizeof(*result));
	for (const char *p = rest.start; p < rest.end; p++)
		max_conditions += *p == ',';

	/*
	 * Strings: column and value of each condition with their ends, then at
	 * most one error, in which every byte may be escaped.
	 */
	result->memory = block_alloc(max_conditions * sizeof(FilterCondition) +
								 3 * size + 2 * max_conditions + 128);
	if (result->memory == NULL)
	{
		result->error = (char *) "out of memory";
		return false;
	}
	result->conditions = result->memory;
	parser.result = result;
	parser.strings = (char *) (result->conditions + max_conditions);

	rest = trim(rest);
	if (rest.start == rest.end)
		return true;
	while (more)
	{
		Span		condition = next_condition(rest, &more);

		rest.start = condition.end + (more ? 1 : 0);
		condition = trim(condition);
		if (condition.start == condition.end)
		{
			fail(&parser,
				 "filter must not contain empty segments (check for extra commas)");
			return false;
		}
		if (!parse_condition(&parser, condition,
							 &result->conditions[result->nconditions]))
			return false;
		result->nconditions++;
	}
	return true;
}

void
filter_parse_free(FilterParse *result)
{
	if (result->memory != NULL)
		block_free(result->memory);
	memset(result, 0, sizeof(*result));
}
