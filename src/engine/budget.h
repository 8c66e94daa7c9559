/*-------------------------------------------------------------------------
 *
 * budget.h
 *	  The time that clients' own conditions may take.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_BUDGET_H
#define RTSYNC_BUDGET_H

#include "postgres.h"

#include "portability/instr_time.h"

#include "engine/principal.h"

typedef struct Payer Payer;

extern void budget_init(void);
extern Payer *budget_open(const Principal *principal);
extern void budget_close(Payer *payer);
extern bool budget_suspended(Payer *payer);
extern void budget_charge(Payer *payer, instr_time start);
extern void budget_sweep(void);

#endif							/* RTSYNC_BUDGET_H */
