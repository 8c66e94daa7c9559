/*-------------------------------------------------------------------------
 *
 * jsontree.h
 *	  Small JSON texts that come from strangers, as a tree.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_JSONTREE_H
#define RTSYNC_JSONTREE_H

#include "postgres.h"

/* A value; immutable.  All of a tree is in the memory context of the call. */
typedef struct JsonTree
{
	char		kind;			/* '{', '[', 's' string, '0' number, else its
								 * first letter: n, t, f */
	char	   *name;			/* if it is a member of an object */
	char	   *value;			/* a string without its escapes, or a number */
	struct JsonTree *parent;
	struct JsonTree *first;		/* of what an object or array holds */
	struct JsonTree *last;
	struct JsonTree *next;		/* beside it in its object or array */
} JsonTree;

extern JsonTree *jsontree_parse(const char *text, Size length);
extern const JsonTree *jsontree_member(const JsonTree *object,
									   const char *name);
extern const char *jsontree_string(const JsonTree *object, const char *name);

#endif							/* RTSYNC_JSONTREE_H */
