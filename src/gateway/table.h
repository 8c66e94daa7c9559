/*-------------------------------------------------------------------------
 *
 * table.h
 *	  Hash tables whose links are members of the objects that they hold.
 *
 * The caller hashes, and compares what table_find gives with what it wants:
 *
 *	for (node = table_find(table, hash); node; node = table_find_next(node))
 *
 * hash_bytes is keyed (SipHash-1-3 under a random key made at start), so that
 * clients cannot choose topics that collide.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_TABLE_H
#define GATEWAY_TABLE_H

#include <stddef.h>
#include <stdint.h>

typedef struct TableNode
{
	struct TableNode *next;
	uint64_t	hash;
} TableNode;

/* All zero is a valid empty table. */
typedef struct Table
{
	TableNode **buckets;
	size_t		n_buckets;		/* a power of two, or 0 */
	size_t		count;
} Table;

#define TABLE_OWNER(type, member, node) \
	((type *) ((char *) (node) - offsetof(type, member)))

extern void table_insert(Table *table, TableNode *node, uint64_t hash);
extern void table_remove(Table *table, TableNode *node);
extern void table_prefetch(const Table *table, uint64_t hash, int step);
extern TableNode *table_find(const Table *table, uint64_t hash);
extern TableNode *table_find_next(const TableNode *node);

extern void hash_init(void);
extern uint64_t hash_bytes(const void *data, size_t length, uint64_t salt);
extern uint64_t hash_number(uint64_t number);

#endif							/* GATEWAY_TABLE_H */
