/*-------------------------------------------------------------------------
 *
 * list.h
 *	  Doubly linked lists whose links are members of the objects listed.
 *
 * A ListLink that is in no list is all zero; list_remove on it does nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_LIST_H
#define GATEWAY_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ListLink
{
	struct ListLink *previous;
	struct ListLink *next;
} ListLink;

/* The head is a link that closes the circle.  list_init makes it empty. */
typedef ListLink List;

#define LIST_OWNER(type, member, link) \
	((type *) ((char *) (link) - offsetof(type, member)))

static inline void
list_init(List *list)
{
	list->previous = list->next = list;
}

static inline bool
list_is_empty(const List *list)
{
	return list->next == list;
}

static inline bool
list_contains(const ListLink *link)
{
	return link->next != NULL;
}

static inline void
list_append(List *list, ListLink *link)
{
	link->previous = list->previous;
	link->next = list;
	list->previous->next = link;
	list->previous = link;
}

static inline void
list_remove(ListLink *link)
{
	if (link->next == NULL)
		return;
	link->previous->next = link->next;
	link->next->previous = link->previous;
	link->previous = link->next = NULL;
}

/* The first link, or NULL if the list is empty */
static inline ListLink *
list_first(const List *list)
{
	return list->next == list ? NULL : list->next;
}

/* The link after this one, or NULL at the end */
static inline ListLink *
list_next(const List *list, const ListLink *link)
{
	return link->next == list ? NULL : link->next;
}

#endif							/* GATEWAY_LIST_H */
