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

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "gateway/gateway.h"

#define KEY_SIZE 16

struct Address
{
	TableNode	by_key;
	uint32_t	count;
	unsigned char key[KEY_SIZE];
};

/* Where the socket's peer is.  False if it has no such address. */
static bool
read_key(int fd, unsigned char *key)
{
	struct sockaddr_storage peer = {0};
	socklen_t	length = sizeof(peer);

	memset(key, 0, KEY_SIZE);
	if (getpeername(fd, (struct sockaddr *) &peer, &length) != 0)
		return false;
	if (peer.ss_family == AF_INET)
	{
		memcpy(key + 12, &((struct sockaddr_in *) &peer)->sin_addr, 4);
		return true;
	}
	if (peer.ss_family == AF_INET6)
	{
		const struct in6_addr *address = &((struct sockaddr_in6 *) &peer)->sin6_addr;

		if (IN6_IS_ADDR_V4MAPPED(address))
			memcpy(key + 12, address->s6_addr + 12, 4);
		else
			memcpy(key, address->s6_addr, 8);
		return true;
	}
	return false;
}

/*
 * Count one more from where the socket's peer is, unless there are as many as
 * the limit says, 0 being none; then the result is false.  *address becomes
 * what address_leave takes.
 */
bool
address_enter(int fd, uint32_t limit, Address **address)
{
	Table	   *table = &gateway.addresses.by_key;
	unsigned char key[KEY_SIZE];
	uint64_t	hash;
	TableNode  *node;
	Address    *entry = NULL;

	*address = NULL;
	if (!read_key(fd, key))
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
