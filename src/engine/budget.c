/*-------------------------------------------------------------------------
 *
 * budget.c
 *	  The time that clients' own conditions may take.
 *
 * Patterns, regular expressions and "where" are written by clients, who can
 * make them as slow as they like; while one is evaluated, everybody waits.  A
 * single evaluation is limited (filter.c), but there may be any number of them.
 * So all of them together may take rtsync.max_filter_time percent of the
 * engine's time, over about a second; compiling them counts, too.
 *
 * Who pays is a principal: the same role and claims.  When the time is used
 * up, the principal who used most of it lately is suspended: for a while its
 * costly conditions are not evaluated, their changes withheld, and those
 * concerned told so, and to refetch when it is over (subscription.c).  If that
 * does not suffice, because there are many who use little each, whoever comes
 * next is suspended, too, until there is time again.
 *
 * A payer is kept for as long as somebody holds it, and some seconds longer,
 * so that nobody gets rid of a debt by leaving and joining again.
 *
 * Called by subscription.c, binding.c, filter.c and decide.c, in the engine.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "engine/budget.h"
#include "engine/settings.h"

/* So much can be saved up, in seconds at the permitted rate */
#define BURST_SECONDS 1.0

/* What was used counts for less and less: half after this time */
#define HALF_LIFE_SECONDS 5.0

#define SUSPENSION_SECONDS 10.0

/* Who used less than this part of the burst lately is not to blame. */
#define LIGHT_USE 0.1

struct Payer
{
	uint64		key;			/* hash key: of role and claims */
	int			holders;
	double		used;			/* seconds, as they counted at ... */
	double		used_at;		/* ... this time */
	double		suspended_until;
};

static HTAB *payers = NULL;
static uint64 seed;				/* so that nobody can make keys collide */
static double balance;			/* seconds that may be used now */
static double balance_at;		/* when that was so */

/* Prepare; once in the life of the engine. */
void
budget_init(void)
{
	HASHCTL		ctl = {
		.keysize = sizeof(uint64),
		.entrysize = sizeof(Payer),
		.hcxt = TopMemoryContext
	};

	payers = hash_create("rtsync payers", 64, &ctl,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	if (!pg_strong_random(&seed, sizeof(seed)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random numbers")));
}

static double
seconds_now(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_DOUBLE(now);
}

/*
 * Who pays for what this principal's conditions take; to be closed again.
 * NULL outside of the engine, where everybody uses their own time.
 */
Payer *
budget_open(const Principal *principal)
{
	uint64		key;
	Payer	   *payer;
	bool		found;

	if (payers == NULL)
		return NULL;
	key = hash_bytes_extended((const unsigned char *) principal->claims,
							  strlen(principal->claims),
							  hash_combine64(seed, principal->roleid));
	payer = hash_search(payers, &key, HASH_ENTER, &found);
	if (!found)
		memset((char *) payer + sizeof(uint64), 0,
			   sizeof(Payer) - sizeof(uint64));
	payer->holders++;
	return payer;
}

void
budget_close(Payer *payer)
{
	if (payer != NULL)
		payer->holders--;
}

/* What the payer has used lately */
static double
recent_use(const Payer *payer, double now)
{
	return payer->used *
		exp2((payer->used_at - now) / HALF_LIFE_SECONDS);
}

/* Bring the balance up to date; returns the permitted rate. */
static double
refill(double now)
{
	double		rate = rtsync_max_filter_time / 100.0;

	balance = Min(balance + (now - balance_at) * rate, BURST_SECONDS * rate);
	balance_at = now;
	return rate;
}

static void
suspend(Payer *payer, double now)
{
	payer->suspended_until = now + SUSPENSION_SECONDS;
	ereport(DEBUG1,
			(errmsg_internal("rtsync suspended the conditions of a client that took %.0f ms lately",
							 recent_use(payer, now) * 1000)));
}

/*
 * Must the payer's conditions not be evaluated for now?  NULL is nobody, and
 * never suspended.
 */
bool
budget_suspended(Payer *payer)
{
	double		now;
	double		rate;

	if (payer == NULL)
		return false;
	now = seconds_now();
	if (payer->suspended_until > now)
		return true;
	rate = refill(now);
	if (rate >= 1.0 || balance > -BURST_SECONDS * rate)
		return false;
	suspend(payer, now);
	return true;
}

/*
 * Suspend who used most lately, of those that are not; but nobody who used
 * next to nothing.  What a suspended payer owes is not to be paid by others.
 */
static void
suspend_heaviest(double now, double burst)
{
	HASH_SEQ_STATUS scan;
	Payer	   *payer;
	Payer	   *heaviest = NULL;

	hash_seq_init(&scan, payers);
	while ((payer = hash_seq_search(&scan)) != NULL)
		if (payer->suspended_until <= now &&
			(heaviest == NULL || recent_use(payer, now) > recent_use(heaviest, now)))
			heaviest = payer;
	if (heaviest == NULL || recent_use(heaviest, now) < burst * LIGHT_USE)
		return;
	suspend(heaviest, now);
	balance = Max(balance, -burst / 2);
}

/* The payer's conditions have run since "start". */
void
budget_charge(Payer *payer, instr_time start)
{
	double		now;
	double		time;
	double		rate;

	if (payer == NULL)
		return;
	now = seconds_now();
	time = now - INSTR_TIME_GET_DOUBLE(start);
	payer->used = recent_use(payer, now) + time;
	payer->used_at = now;
	rate = refill(now);
	if (rate >= 1.0)
		return;
	balance -= time;
	if (balance < 0)
		suspend_heaviest(now, BURST_SECONDS * rate);
}

/* Forget payers whom nobody holds and who owe nothing; about once a second. */
void
budget_sweep(void)
{
	HASH_SEQ_STATUS scan;
	Payer	   *payer;
	double		now = seconds_now();

	hash_seq_init(&scan, payers);
	while ((payer = hash_seq_search(&scan)) != NULL)
		if (payer->holders == 0 && payer->suspended_until <= now &&
			recent_use(payer, now) < 0.001)
			hash_search(payers, &payer->key, HASH_REMOVE, NULL);
}
