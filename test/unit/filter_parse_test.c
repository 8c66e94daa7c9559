/*-------------------------------------------------------------------------
 *
 * filter_parse_test.c
 *	  The filter grammar, without a server; built with sanitizers.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/filter_parse.h"

static int	failed = 0;

/* What a filter is parsed to: "column op value; ..." or "! error" */
static const char *
describe(const char *text, size_t length)
{
	static const char *const names[] = {
		"eq", "neq", "lt", "lte", "gt", "gte", "in", "like", "ilike", "is",
		"match", "imatch", "isdistinct"
	};
	static char result[4096];
	/* exactly as long as it says, for the sanitizer */
	char	   *copy = malloc(length);
	FilterParse parse;
	int			at = 0;

	if (length > 0)
		memcpy(copy, text, length);
	result[0] = '\0';
	if (!filter_parse(copy, length, &parse))
		snprintf(result, sizeof(result), "! %s", parse.error);
	else
	{
		for (int i = 0; i < parse.nconditions; i++)
			at += snprintf(result + at, sizeof(result) - at, "%s%s %s%s %s",
						   i ? "; " : "", parse.conditions[i].column,
						   parse.conditions[i].negate ? "not " : "",
						   names[parse.conditions[i].op],
						   parse.conditions[i].value);
	}
	free(copy);
	filter_parse_free(&parse);
	return result;
}

static void
expect(const char *text, const char *expected)
{
	const char *got = describe(text, strlen(text));

	if (strcmp(got, expected) == 0)
		printf("ok - filter %s\n", text);
	else
	{
		printf("not ok - filter %s\n# got      %s\n# expected %s\n",
			   text, got, expected);
		failed++;
	}
}

/* Any bytes: parse them, let the sanitizers look, and touch every string. */
static void
try_random(uint32_t rounds)
{
	static const char *const pieces[] = {
		"id", "=", "eq", ".", ",", "(", ")", "\"", "\\", "not.", "in", " ",
		"\n", "is", "{", "}", "a", "\xff", "\0", "like"
	};
	const uint32_t npieces = sizeof(pieces) / sizeof(pieces[0]);
	uint32_t	state = 2463534242u;

	for (uint32_t round = 0; round < rounds; round++)
	{
		char		text[256];
		size_t		length = 0;

		for (uint32_t i = 0; i < round % 40; i++)
		{
			const char *piece;
			size_t		size;

			state ^= state << 13;
			state ^= state >> 17;
			state ^= state << 5;
			piece = pieces[state % npieces];
			size = piece[0] == '\0' ? 1 : strlen(piece);
			memcpy(text + length, piece, size);
			length += size;
		}
		(void) describe(text, length);
	}
	printf("ok - %u random filters\n", rounds);
}

int
main(void)
{
	expect("", "");
	expect(" \t\n", "");
	expect("id=eq.1", "id eq 1");
	expect(" id=eq.1 , name=not.like.%x% ", "id eq 1; name not like %x%");
	expect("id=eq.", "id eq ");
	expect("a=eq.b=c.d", "a eq b=c.d");
	expect("a=in.(1,2),b=lt.3", "a in {1,2}; b lt 3");
	expect("a=in.()", "a in {}");
	expect("a=in.(\"x,y\",\"(\",z)", "a in {\"x,y\",\"(\",z}");
	expect("a=in.(\"x\\\"),y\",z),b=eq.1", "a in {\"x\\\"),y\",z}; b eq 1");
	expect("a=eq.\"x,y\",b=eq.1", "a eq x,y; b eq 1");
	expect("a=eq.\"x\\\"\\\\y\"", "a eq x\"\\y");
	expect("a=eq.\"x\"y", "a eq \"x\"y");
	expect("a=eq.\"x", "a eq \"x");
	expect("a=eq.\"x\\", "a eq \"x\\");
	expect("a=eq.x\"y,z\"", "! [\"z\\\"\"]");
	expect("a=eq.(x,y", "a eq (x,y");
	expect("a=eq.x),b=eq.y)", "a eq x); b eq y)");
	expect("a=is.null", "a is null");
	expect("a=not.in.(1)", "a not in {1}");
	expect("\xc3\xa9=eq.\xe2\x82\xac", "\xc3\xa9 eq \xe2\x82\xac");
	expect("undefined", "! [\"undefined\"]");
	expect("a=eq", "! [\"eq\"]");
	expect("a=foo.hey", "! [\"foo\", \"hey\"]");
	expect("a=not.foo.hey", "! [\"foo\", \"hey\"]");
	expect("a=not.not.eq.1", "! [\"not\", \"eq.1\"]");
	expect("a=in.1", "! `in` filter value must be wrapped by parentheses");
	expect("a=in.(", "! `in` filter value must be wrapped by parentheses");
	expect("a=eq.1,,b=eq.2", "! filter must not contain empty segments (check for extra commas)");
	expect(",", "! filter must not contain empty segments (check for extra commas)");
	expect("a\"\\\n=x.\t", "! [\"x\", \"\"]");
	try_random(300000);
	return failed > 0;
}
