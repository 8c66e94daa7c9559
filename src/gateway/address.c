/*-------------------------------------------------------------------------
 *
 * address.c
 *	  How many connections there are from where.
 *
 * One entry for each address that has connections, or handshakes that wait
 * for their verdict.  Of an IPv6 address the first half counts: the rest is
 * the client's to choose.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/address.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/gateway.h"

#define KEY_SIZE 16

struct Address
{
	TableNode	by_key;
	uint32_t	count;
	unsigned char key[KEY_SIZE];
};

/* What is counted of the address.  False if it is not known. */
static bool
key_of(const PeerAddress *peer, unsigned char *key)
{
	memset(key, 0, KEY_SIZE);
	memcpy(key, peer->bytes, peer_is_ipv4(peer) ? KEY_SIZE : KEY_SIZE / 2);
	return peer_is_known(peer);
}

/*
 * Count one more from where the client is, unless there are as many as the
 * limit says, 0 being none; then the result is false.  *address becomes what
 * address_leave takes.
 */
bool
address_enter(const PeerAddress *peer, uint32_t limit, Address **address)
{
	Table	   *table = &gateway.addresses.by_key;
	unsigned char key[KEY_SIZE];
	uint64_t	hash;
	TableNode  *node;
	Address    *entry = NULL;

	*address = NULL;
	if (!key_of(peer, key))
		return true;
	hash = hash_bytes(key, KEY_SIZE, 0);
	for (node = table_find(table, hash); node != NULL; node = table_find_next(node))
		if (memcmp(TABLE_OWNER(Address, by_key, node)->key, key, KEY_SIZE) == 0)
			entry = TABLE_OWNER(Address, by_key, node);
	if (entry != NULL && limit > 0 && entry->count >= limit)
		return false;
	if (entry == NULL)
	{
		entry = allocate_zero(sizeof(Address));
		memcpy(entry->key, key, KEY_SIZE);
		table_insert(table, &entry->by_key, hash);
	}
	entry->count++;
	*address = entry;
	return true;
}

/* One less; NULL is nowhere. */
void
address_leave(Address *address)
{
	if (address == NULL || --address->count > 0)
		return;
	table_remove(&gateway.addresses.by_key, &address->by_key);
	free(address);
}
