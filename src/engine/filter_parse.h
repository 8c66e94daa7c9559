/*-------------------------------------------------------------------------
 *
 * filter_parse.h
 *	  The grammar of a binding's "filter".
 *
 *	filter	:= blank | condition (',' condition)*		all of them hold
 *	condition := column '=' ['not.'] operator '.' value
 *	operator := eq | neq | lt | lte | gt | gte | in | like | ilike | is |
 *				match | imatch | isdistinct
 *
 * The value of "in" is a list in parentheses, kept as the text of an array in
 * braces; any other value may be written in double quotes, in which a backslash
 * escapes a quote or a backslash.  A comma separates conditions outside
 * parentheses and quotes; a quote opens after '.', '(' and ',' only.
 *
 * Knows nothing of PostgreSQL: takes bytes and returns structs, so that it can
 * be tested and fuzzed without a server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_FILTER_PARSE_H
#define RTSYNC_FILTER_PARSE_H

#include <stdbool.h>
#include <stddef.h>

typedef enum FilterOp
{
	FILTER_EQ,
	FILTER_NEQ,
	FILTER_LT,
	FILTER_LTE,
	FILTER_GT,
	FILTER_GTE,
	FILTER_IN,
	FILTER_LIKE,
	FILTER_ILIKE,
	FILTER_IS,
	FILTER_MATCH,
	FILTER_IMATCH,
	FILTER_ISDISTINCT
} FilterOp;

typedef struct FilterCondition
{
	char	   *column;
	FilterOp	op;
	bool		negate;
	char	   *value;			/* for FILTER_IN "{...}" */
} FilterCondition;

typedef struct FilterParse
{
	int			nconditions;	/* 0: no filter */
	FilterCondition *conditions;
	char	   *error;			/* what follows "Error parsing `filter`
								 * params: ", if filter_parse returned false */
	void	   *memory;			/* holds all of this */
} FilterParse;

extern bool filter_parse(const char *bytes, size_t length, FilterParse *result);
extern void filter_parse_free(FilterParse *result);

#endif							/* RTSYNC_FILTER_PARSE_H */
