/*-------------------------------------------------------------------------
 *
 * table.c
 *	  Hash tables whose links are members of the objects that they hold.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "gateway/memory.h"

/* The key of hash_bytes; constant until hash_init, which suits tests */
static uint64_t hash_key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};

static void
grow(Table *table)
{
	size_t		n_buckets = table->n_buckets > 0 ? table->n_buckets * 2 : 16;
	TableNode **buckets = allocate_zero(n_buckets * sizeof(TableNode *));

	for (size_t i = 0; i < table->n_buckets; i++)
	{
		TableNode  *node = table->buckets[i];

		while (node != NULL)
		{
			TableNode  *next = node->next;
			TableNode **bucket = &buckets[node->hash & (n_buckets - 1)];

			node->next = *bucket;
			*bucket = node;
			node = next;
		}
	}
	free(table->buckets);
	table->buckets = buckets;
	table->n_buckets = n_buckets;
}

void
table_insert(Table *table, TableNode *node, uint64_t hash)
{
	TableNode **bucket;

	if (table->count >= table->n_buckets)
		grow(table);
	bucket = &table->buckets[hash & (table->n_buckets - 1)];
	node->hash = hash;
	node->next = *bucket;
	*bucket = node;
	table->count++;
}

/* Remove a node that is in the table. */
void
table_remove(Table *table, TableNode *node)
{
	TableNode **place = &table->buckets[node->hash & (table->n_buckets - 1)];

	while (*place != node)
		place = &(*place)->next;
	*place = node->next;
	node->next = NULL;
	table->count--;
}

static TableNode *
same_hash(TableNode *node, uint64_t hash)
{
	while (node != NULL && node->hash != hash)
		node = node->next;
	return node;
}

/*
 * Have the memory fetched that table_find will read: in step 0 the bucket, in
 * step 1, when that may have come, its first node.
 */
void
table_prefetch(const Table *table, uint64_t hash, int step)
{
	TableNode **bucket;

	if (table->n_buckets == 0)
		return;
	bucket = &table->buckets[hash & (table->n_buckets - 1)];
	__builtin_prefetch(step == 0 ? (const void *) bucket : *bucket);
}

/* The first node with this hash, or NULL */
TableNode *
table_find(const Table *table, uint64_t hash)
{
	if (table->n_buckets == 0)
		return NULL;
	return same_hash(table->buckets[hash & (table->n_buckets - 1)], hash);
}

/* The next node with the same hash, or NULL */
TableNode *
table_find_next(const TableNode *node)
{
	return same_hash(node->next, node->hash);
}

/* Choose the key of hash_bytes.  Call once, before the first table is used. */
void
hash_init(void)
{
	uint64_t	key[2];

	if (getrandom(key, sizeof(key), 0) == sizeof(key))
		memcpy(hash_key, key, sizeof(key));
}

#define ROTATE(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

static inline void
sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = ROTATE(v[1], 13) ^ v[0];
	v[0] = ROTATE(v[0], 32);
	v[2] += v[3];
	v[3] = ROTATE(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = ROTATE(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = ROTATE(v[1], 17) ^ v[2];
	v[2] = ROTATE(v[2], 32);
}

/* SipHash-1-3 of the bytes, different for each salt */
uint64_t
hash_bytes(const void *data, size_t length, uint64_t salt)
{
	const unsigned char *bytes = data;
	uint64_t	k0 = hash_key[0];
	uint64_t	k1 = hash_key[1] ^ salt;
	uint64_t	v[4] = {k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d,
	k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573};
	uint64_t	word;
	size_t		i;

	for (i = 0; i + 8 <= length; i += 8)
	{
		memcpy(&word, bytes + i, 8);
		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
	}
	word = (uint64_t) length << 56;
	for (int shift = 0; i < length; i++, shift += 8)
		word |= (uint64_t) bytes[i] << shift;
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
	v[2] ^= 0xff;
	for (int round = 0; round < 3; round++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* A mix of a number that no client chooses */
uint64_t
hash_number(uint64_t number)
{
	number ^= number >> 33;
	number *= 0xff51afd7ed558ccd;
	number ^= number >> 33;
	number *= 0xc4ceb9fe1a85ec53;
	number ^= number >> 33;
	return number;
}
