/*-------------------------------------------------------------------------
 *
 * apikey.c
 *	  Clients without a token of their own: opaque API keys, and nobody.
 *
 * An API key ("sb_publishable_...", "sb_secret_...") stands for a role.  The
 * table rtsync.api_keys has the SHA-256 of each; keys are long and random, so
 * that this is enough.  Clients that show nothing at all may stand for a role
 * too, rtsync.anonymous_role, which counts here as a key without bytes.
 *
 * The engine keeps a copy of the table.  Whoever changes it fires a trigger
 * that sends an invalidation message, and so the copy is read anew.  Each key
 * that was used has a number (credential.c), by which those are found who came
 * with one that has been revoked, or is now for another role.
 *
 * Called by token.c and subscription.c in the engine; the trigger runs in
 * backends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "engine/apikey.h"
#include "engine/credential.h"
#include "engine/settings.h"

PG_FUNCTION_INFO_V1(rtsync_sql_api_keys_changed);

typedef struct ApiKey
{
	uint8		hash[PG_SHA256_DIGEST_LENGTH];	/* hash key; zero: no key */
	NameData	rolename;
	uint64		number;			/* credential.c's; 0: not used yet */
	bool		present;		/* found by the last reading */
} ApiKey;

static HTAB *keys = NULL;		/* NULL: never read */
static Oid	table_oid = InvalidOid; /* as far as we know */
static uint64 changes = 1;		/* of the table, that we have heard of ... */
static uint64 seen = 0;			/* ... and that the copy has */

static const uint8 no_key[PG_SHA256_DIGEST_LENGTH];

/*--------------------------------------------------------------------------
 * The table
 *--------------------------------------------------------------------------
 */

static void
relation_changed_cb(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == table_oid || table_oid == InvalidOid)
		changes++;
}

/* The key is gone, or stands for somebody else. */
static void
end_key(ApiKey *key)
{
	if (key->number != 0)
		credential_revoke(key->number, CREDENTIAL_API_KEY);
}

/* Note a key that there is now. */
static void
add_key(const uint8 *hash, const char *rolename)
{
	bool		found;
	ApiKey	   *key = hash_search(keys, hash, HASH_ENTER, &found);

	key->present = true;
	if (found && strcmp(NameStr(key->rolename), rolename) == 0)
		return;
	if (found)
		end_key(key);
	namestrcpy(&key->rolename, rolename);
	key->number = 0;
}

static void
read_row(TupleTableSlot *slot, int role_column, int hash_column)
{
	bool		role_null;
	bool		hash_null;
	Datum		role = slot_getattr(slot, role_column, &role_null);
	Datum		hash = slot_getattr(slot, hash_column, &hash_null);
	bytea	   *bytes;

	if (role_null || hash_null)
		return;
	bytes = DatumGetByteaPP(hash);
	if (VARSIZE_ANY_EXHDR(bytes) == PG_SHA256_DIGEST_LENGTH)
		add_key((uint8 *) VARDATA_ANY(bytes), NameStr(*DatumGetName(role)));
}

/* The number of a column of this type, 0 if there is none */
static int
find_column(Relation rel, const char *name, Oid type)
{
	AttrNumber	number = get_attnum(RelationGetRelid(rel), name);

	return number > 0 &&
		TupleDescAttr(RelationGetDescr(rel), number - 1)->atttypid == type ?
		number : 0;
}

/*
 * Read the table without asking for privileges; nothing if there is none.
 * Returns false if somebody has locked it: everybody would wait with us.
 */
static bool
read_table(void)
{
	Relation	rel;
	int			role_column;
	int			hash_column;

	table_oid = get_relname_relid("api_keys",
								  get_namespace_oid("rtsync", true));
	if (!OidIsValid(table_oid))
		return true;
	if (!ConditionalLockRelationOid(table_oid, AccessShareLock))
		return false;
	rel = try_table_open(table_oid, NoLock);
	if (rel == NULL)
		return true;
	role_column = find_column(rel, "role", NAMEOID);
	hash_column = find_column(rel, "hash", BYTEAOID);
	if (rel->rd_rel->relkind == RELKIND_RELATION && role_column && hash_column)
	{
		TupleTableSlot *slot = table_slot_create(rel, NULL);
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
		TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);

		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
			read_row(slot, role_column, hash_column);
		table_endscan(scan);
		UnregisterSnapshot(snapshot);
		ExecDropSingleTupleTableSlot(slot);
	}
	table_close(rel, AccessShareLock);
	return true;
}

static void
make_copy(void)
{
	HASHCTL		ctl = {
		.keysize = PG_SHA256_DIGEST_LENGTH,
		.entrysize = sizeof(ApiKey),
		.hcxt = TopMemoryContext
	};

	keys = hash_create("rtsync API keys", 16, &ctl,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(relation_changed_cb, (Datum) 0);
}

/*
 * See to it that the copy is right.  Returns false if that cannot be done now.
 * Needs a transaction.
 */
static bool
read_anew(void)
{
	HASH_SEQ_STATUS scan;
	ApiKey	   *key;
	uint64		reading = changes;	/* others may come while we do */

	if (seen == changes)
		return true;
	if (keys == NULL)
		make_copy();
	hash_seq_init(&scan, keys);
	while ((key = hash_seq_search(&scan)) != NULL)
		key->present = false;

	if (!read_table())
		return false;
	if (rtsync_anonymous_role != NULL && rtsync_anonymous_role[0] != '\0')
		add_key(no_key, rtsync_anonymous_role);

	hash_seq_init(&scan, keys);
	while ((key = hash_seq_search(&scan)) != NULL)
	{
		if (key->present)
			continue;
		end_key(key);
		hash_search(keys, key->hash, HASH_REMOVE, NULL);
	}
	seen = reading;
	return true;
}

/*--------------------------------------------------------------------------
 * Looking up
 *--------------------------------------------------------------------------
 */

/* Is this an API key, good or not, rather than a token? */
bool
apikey_is_one(const char *data, Size length)
{
	return length >= strlen(APIKEY_PREFIX) &&
		memcmp(data, APIKEY_PREFIX, strlen(APIKEY_PREFIX)) == 0;
}

static bool
find(const uint8 *hash, uint64 *number, const char **rolename)
{
	ApiKey	   *key;

	if (!read_anew())
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("the table of API keys is locked")));
	key = hash_search(keys, hash, HASH_FIND, NULL);
	if (key == NULL)
		return false;
	if (key->number == 0)
		key->number = credential_number();
	*number = key->number;
	*rolename = pstrdup(NameStr(key->rolename));
	return true;
}

static void
make_hash(const char *data, Size length, uint8 *hash)
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

	if (context == NULL || pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) data, length) < 0 ||
		pg_cryptohash_final(context, hash, PG_SHA256_DIGEST_LENGTH) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute %s hash", "SHA-256")));
	pg_cryptohash_free(context);
}

/*
 * Which role does this API key stand for?  False if there is no such key.
 * *number is what credential.c calls it; *rolename is palloc'd, and no role may
 * have that name.
 */
bool
apikey_find(const char *data, Size length, uint64 *number,
			const char **rolename)
{
	uint8		hash[PG_SHA256_DIGEST_LENGTH];

	make_hash(data, length, hash);
	return find(hash, number, rolename);
}

/* The same for a client that shows nothing; false if such are refused. */
bool
apikey_find_anonymous(uint64 *number, const char **rolename)
{
	return find(no_key, number, rolename);
}

/*--------------------------------------------------------------------------
 * Revoking
 *--------------------------------------------------------------------------
 */

/* May keys have been revoked?  Then call apikey_find_revoked. */
bool
apikey_changed(void)
{
	return keys != NULL && seen != changes;
}

/*
 * Revoke the keys that were used and count no more, as far as that is known.
 * Needs a transaction.
 */
void
apikey_find_revoked(void)
{
	(void) read_anew();
}

void
apikey_settings_changed(void)
{
	changes++;
}

/* rtsync.api_keys_changed(): trigger that tells the engine */
Datum
rtsync_sql_api_keys_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("must be called as trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	PG_RETURN_POINTER(NULL);
}
