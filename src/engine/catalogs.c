/*-------------------------------------------------------------------------
 *
 * catalogs.c
 *	  Keeps the catalogs of the past and of the present apart.
 *
 * The engine reads the catalogs in two ways: while it decodes, as they were
 * at that place of the WAL; while it decides and renders, as they are now.
 * Both fill the same relcache and syscaches, which know only one truth.  As
 * long as every catalog change has been decoded, the two are the same and
 * share their entries.  When invalidation messages say that somebody changed
 * a catalog, they may differ until decoding has passed that change, and the
 * caches are emptied at each passage from one to the other: an old policy
 * must not decide about a new row, nor a new column layout be used to read an
 * old one.
 *
 * Called by engine.c, outside any transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "storage/sinval.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"

#include "engine/catalogs.h"

/* SharedInvalidMessageCounter when we last looked */
static uint64 seen_messages;

/* catalog changes that we have heard of are in the WAL before this place */
static XLogRecPtr changed_until;

/* the caches were filled from the past and not emptied since */
static bool in_past;

/*
 * Take note of catalog changes, and say whether past and present may differ.
 */
static bool
may_differ(XLogRecPtr decoded)
{
	AcceptInvalidationMessages();
	if (SharedInvalidMessageCounter != seen_messages)
	{
		seen_messages = SharedInvalidMessageCounter;

		/*
		 * Messages are sent after the commit record is written, so that the
		 * changes are before the end of the WAL as it is now.
		 */
		changed_until = GetXLogInsertRecPtr();
	}
	return decoded < changed_until;
}

/* From here on decoding reads the catalogs; "decoded" is how far it got. */
void
catalogs_enter_past(XLogRecPtr decoded)
{
	if (in_past)
		return;
	if (may_differ(decoded))
		InvalidateSystemCaches();
	in_past = true;
}

/* From here on the catalogs are read as they are now. */
static void
enter_present(XLogRecPtr decoded)
{
	if (!in_past)
		return;

	/*
	 * Even if decoding has just passed the last change: entries loaded while
	 * it had not may still be there.
	 */
	if (changed_until != InvalidXLogRecPtr)
	{
		InvalidateSystemCaches();
		if (!may_differ(decoded))
			changed_until = InvalidXLogRecPtr;
	}
	else if (may_differ(decoded))
		InvalidateSystemCaches();
	in_past = false;
}

/*
 * Begin a read-only transaction on the present, with a snapshot; "decoded" is
 * how far decoding got.
 */
void
catalogs_begin(XLogRecPtr decoded)
{
	enter_present(decoded);
	SetCurrentStatementStartTimestamp();	/* what now() says */
	StartTransactionCommand();
	XactReadOnly = true;
	PushActiveSnapshot(GetTransactionSnapshot());
}

/* End it. */
void
catalogs_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* End it after an error. */
void
catalogs_abort(void)
{
	AbortCurrentTransaction();
}
