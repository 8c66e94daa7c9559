/*-------------------------------------------------------------------------
 *
 * setseek.h
 *	  From rows through other tables to those whom they may concern.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_SETSEEK_H
#define RTSYNC_SETSEEK_H

#include "postgres.h"

#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"

/* The relations of the query about rows and principals (setcheck.c) */
#define ROWS_VARNO 1
#define PRINCIPALS_VARNO 2

/*
 * A pair of row and principal can only match if these conditions hold, for the
 * row, the principal's parameters and what was found for the row.
 */
typedef struct SetSeek
{
	List	   *quals;			/* Var of PREDICATE_FOUND_VARNO: the value
								 * found by the query of that number */
	List	   *queries;		/* of Query: number of the row, value */
} SetSeek;

extern bool setseek_prepare(const Query *query, SetSeek *seek);

#endif							/* RTSYNC_SETSEEK_H */
