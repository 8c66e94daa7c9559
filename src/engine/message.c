/*-------------------------------------------------------------------------
 *
 * message.c
 *	  Broadcasts from SQL as logical messages in the WAL: their form, and the
 *	  proof that they are ours.
 *
 * Everybody may call pg_logical_emit_message, with any prefix.  A message
 * counts only with a MAC under the key in the table rtsync.secret, which no
 * role but a superuser can read, and which a standby has like any table.  It
 * is made with the extension, and never dumped.
 *
 * The MAC is HMAC-SHA-256 over everything before it:
 *
 *		u8		version, 1
 *		u8		flags: 1 private, 2 JSON, 4 transactional
 *		u32		OID of the database (a copied database has the same key)
 *		u64		the transaction, as full transaction ID; 0 if not transactional
 *		u64		transactional: its number, which grows within the transaction;
 *				else the end of the WAL when it was written
 *		16		id
 *		u32, topic, u32, event, u32, payload
 *		32		MAC
 *
 * with numbers in network byte order.  So the bytes of a message, read from
 * the WAL by somebody who may, cannot be used again: not in another
 * transaction, not a second time in the same one, and not outside of one after
 * FRESH_BYTES more of WAL.
 *
 * message_emit is called by send.c in backends, the rest in the engine:
 * message_genuine while it decodes, where it reads no catalog.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "engine/compat.h"
#include "engine/message.h"
#include "engine/shared.h"

#define FORMAT_VERSION 1

#define FLAG_PRIVATE 1
#define FLAG_JSON 2
#define FLAG_TRANSACTIONAL 4

#define KEY_SIZE 32
#define MAC_SIZE 32

/* How far behind in the WAL a message that is not transactional may be found */
#define FRESH_BYTES ((uint64) 64 * 1024 * 1024)

/* What comes before the parts */
typedef struct MessageHead
{
	uint8		flags;
	uint64		xid;
	uint64		number;
	pg_uuid_t	id;
} MessageHead;

/* The engine's copy of the key */
static unsigned char engine_key[KEY_SIZE];
static bool engine_has_key = false;

/* The transaction whose messages were read last, and the last one's number */
static uint64 last_xid = 0;
static uint64 last_number = 0;

/*--------------------------------------------------------------------------
 * The key
 *--------------------------------------------------------------------------
 */

/* Copy the key out of its row. */
static bool
key_from_slot(TupleTableSlot *slot, unsigned char *key)
{
	bool		isnull;
	Datum		datum = slot_getattr(slot, 1, &isnull);
	bytea	   *value;

	if (isnull)
		return false;
	value = DatumGetByteaPP(datum);
	if (VARSIZE_ANY_EXHDR(value) != KEY_SIZE)
		return false;
	memcpy(key, VARDATA_ANY(value), KEY_SIZE);
	return true;
}

static Oid
key_table(void)
{
	return get_relname_relid("secret", get_namespace_oid("rtsync", true));
}

/* Read the key without asking for privileges; false if there is none. */
static bool
read_key(unsigned char *key)
{
	Oid			relid = key_table();
	Relation	rel = OidIsValid(relid) ?
		try_table_open(relid, AccessShareLock) : NULL;
	bool		found = false;

	if (rel == NULL)
		return false;
	if (rel->rd_rel->relkind == RELKIND_RELATION &&
		TupleDescAttr(RelationGetDescr(rel), 0)->atttypid == BYTEAOID)
	{
		TupleTableSlot *slot = table_slot_create(rel, NULL);
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
		TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);

		if (table_scan_getnextslot(scan, ForwardScanDirection, slot))
			found = key_from_slot(slot, key);
		table_endscan(scan);
		UnregisterSnapshot(snapshot);
		ExecDropSingleTupleTableSlot(slot);
	}
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * Read the key for message_genuine.  To be called in a transaction on the
 * present, at the engine's start and when the extension may be another one.
 * Returns false, and leaves things as they are, if somebody has locked the
 * table.
 */
bool
message_load_key(void)
{
	Oid			relid = key_table();

	if (OidIsValid(relid) && !ConditionalLockRelationOid(relid, AccessShareLock))
		return false;
	engine_has_key = read_key(engine_key);
	if (!engine_has_key)
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"rtsync.secret\" has no key: messages from SQL will not be delivered")));
	return true;
}

static void
make_mac(const unsigned char *key, const char *data, Size size,
		 unsigned char *mac)
{
	unsigned int length = 0;

	if (HMAC(EVP_sha256(), key, KEY_SIZE, (const unsigned char *) data, size,
			 mac, &length) == NULL || length != MAC_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute the MAC of a message")));
}

/*--------------------------------------------------------------------------
 * Writing
 *--------------------------------------------------------------------------
 */

/* The number of the next message in the transaction */
static uint64
next_number(uint64 xid)
{
	static uint64 number_xid = 0;
	static uint64 number = 0;

	if (number_xid != xid)
	{
		number_xid = xid;
		number = 0;
	}
	return ++number;
}

static void
put_part(StringInfo buf, const MessagePart *part)
{
	pq_sendint32(buf, part->length);
	pq_sendbytes(buf, part->data, part->length);
}

/*
 * Write a message into the WAL.  Transactional: as part of the current
 * transaction.  Else it stands when this returns, whatever becomes of the
 * transaction.
 */
void
message_emit(const Message *message, bool transactional)
{
	unsigned char key[KEY_SIZE];
	unsigned char mac[MAC_SIZE];
	uint64		xid = 0;
	uint64		number;
	StringInfoData buf;
	XLogRecPtr	lsn;

	if (!read_key(key))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"rtsync.secret\" has no key"),
				 errhint("Drop the extension and create it again.")));
	if (transactional)
	{
		xid = U64FromFullTransactionId(GetTopFullTransactionId());
		number = next_number(xid);
	}
	else
		number = GetXLogInsertRecPtr();

	initStringInfo(&buf);
	pq_sendint8(&buf, FORMAT_VERSION);
	pq_sendint8(&buf, (message->private ? FLAG_PRIVATE : 0) |
				(message->json ? FLAG_JSON : 0) |
				(transactional ? FLAG_TRANSACTIONAL : 0));
	pq_sendint32(&buf, MyDatabaseId);
	pq_sendint64(&buf, xid);
	pq_sendint64(&buf, number);
	pq_sendbytes(&buf, (const char *) message->id.data, UUID_LEN);
	put_part(&buf, &message->topic);
	put_part(&buf, &message->event);
	put_part(&buf, &message->payload);
	make_mac(key, buf.data, buf.len, mac);
	OPENSSL_cleanse(key, sizeof(key));
	pq_sendbytes(&buf, (const char *) mac, MAC_SIZE);

	lsn = compat_log_message(MESSAGE_PREFIX, buf.data, buf.len, transactional);
	pfree(buf.data);
	if (!transactional)
	{
		XLogFlush(lsn);
		if (shared_state != NULL)
			shared_wake_engine();
	}
}

/* A message's id as clients know it, palloc'd */
char *
message_id_text(const Message *message)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out,
											   UUIDPGetDatum(&message->id)));
}

/*--------------------------------------------------------------------------
 * Reading
 *--------------------------------------------------------------------------
 */

/* A message's bytes while they are being read; failed sticks. */
typedef struct Reader
{
	const char *next;
	Size		left;
	bool		failed;
} Reader;

static const char *
get_bytes(Reader *reader, Size size)
{
	const char *data = reader->next;

	if (reader->failed || size > reader->left)
	{
		reader->failed = true;
		return NULL;
	}
	reader->next += size;
	reader->left -= size;
	return data;
}

static uint32
get_u32(Reader *reader)
{
	const char *data = get_bytes(reader, sizeof(uint32));
	uint32		value = 0;

	if (data != NULL)
		memcpy(&value, data, sizeof(value));
	return pg_ntoh32(value);
}

static uint64
get_u64(Reader *reader)
{
	uint64		high = get_u32(reader);

	return high << 32 | get_u32(reader);
}

static uint8
get_u8(Reader *reader)
{
	const char *data = get_bytes(reader, 1);

	return data != NULL ? (uint8) *data : 0;
}

/* Read what comes before the parts; fails for what cannot be ours. */
static void
get_head(Reader *reader, MessageHead *head)
{
	const char *id;

	if (get_u8(reader) != FORMAT_VERSION)
		reader->failed = true;
	head->flags = get_u8(reader);
	if (get_u32(reader) != MyDatabaseId)
		reader->failed = true;
	head->xid = get_u64(reader);
	head->number = get_u64(reader);
	id = get_bytes(reader, UUID_LEN);
	if (id != NULL)
		memcpy(head->id.data, id, UUID_LEN);
}

static void
get_part(Reader *reader, MessagePart *part)
{
	part->length = get_u32(reader);
	part->data = get_bytes(reader, part->length);
}

/* A transaction ID with its epoch; the transaction is of the recent past. */
static uint64
full_xid(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return (uint64) epoch << 32 | xid;
}

/* Is it where it was written, and there for the first time? */
static bool
in_its_place(const MessageHead *head, TransactionId xid, XLogRecPtr lsn)
{
	if (!(head->flags & FLAG_TRANSACTIONAL))
		return head->xid == 0 && head->number <= lsn &&
			lsn - head->number < FRESH_BYTES;
	if (head->xid != full_xid(xid))
		return false;
	return head->xid != last_xid || head->number > last_number;
}

/*
 * Did message_emit write this, here?  "xid" is the transaction in which it was
 * found, if it is transactional.  Every genuine message must be asked about
 * once, in the order of the WAL.
 */
bool
message_genuine(const char *data, Size size, bool transactional,
				TransactionId xid, XLogRecPtr lsn)
{
	Reader		reader = {data, size};
	MessageHead head;
	unsigned char mac[MAC_SIZE];

	if (!engine_has_key || size <= MAC_SIZE)
		return false;
	reader.left -= MAC_SIZE;
	get_head(&reader, &head);
	if (reader.failed ||
		transactional != ((head.flags & FLAG_TRANSACTIONAL) != 0) ||
		!in_its_place(&head, xid, lsn))
		return false;

	make_mac(engine_key, data, size - MAC_SIZE, mac);
	if (CRYPTO_memcmp(mac, data + size - MAC_SIZE, MAC_SIZE) != 0)
		return false;
	if (transactional)
	{
		last_xid = head.xid;
		last_number = head.number;
	}
	return true;
}

/* Take a genuine message apart; the parts point into it. */
void
message_read(const char *data, Size size, Message *message)
{
	Reader		reader = {data, size - MAC_SIZE};
	MessageHead head;

	get_head(&reader, &head);
	message->id = head.id;
	message->private = (head.flags & FLAG_PRIVATE) != 0;
	message->json = (head.flags & FLAG_JSON) != 0;
	get_part(&reader, &message->topic);
	get_part(&reader, &message->event);
	get_part(&reader, &message->payload);
	if (reader.failed || reader.left != 0)
		elog(ERROR, "malformed message in the history");
}
