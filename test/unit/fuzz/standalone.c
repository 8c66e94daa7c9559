/*-------------------------------------------------------------------------
 *
 * standalone.c
 *	  What the pure modules need of the server, without a server.
 *
 * Memory is malloc'd, so that the sanitizer sees every byte, and freed all at
 * once by memory_reset.  libpgcommon has the rest, the JSON parser included.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fuzz/standalone.h"

typedef struct Chunk
{
	struct Chunk *next;
	Size		size;
} Chunk;

static Chunk *chunks = NULL;

void *
palloc(Size size)
{
	Chunk	   *chunk = malloc(sizeof(Chunk) + size);

	if (chunk == NULL)
		abort();
	chunk->next = chunks;
	chunk->size = size;
	chunks = chunk;
	return chunk + 1;
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void *
palloc_extended(Size size, int flags)
{
	return palloc0(size);
}

void
pfree(void *pointer)
{
}

void *
repalloc(void *pointer, Size size)
{
	Chunk	   *old = (Chunk *) pointer - 1;

	return memcpy(palloc(size), pointer, Min(size, old->size));
}

char *
pstrdup(const char *string)
{
	Size		size = strlen(string) + 1;

	return memcpy(palloc(size), string, size);
}

char *
pnstrdup(const char *string, Size length)
{
	length = strnlen(string, length);
	return memcpy(palloc0(length + 1), string, length);
}

/* libpgcommon's own names for the same */
extern void *pg_malloc(size_t size);
extern void *pg_malloc0(size_t size);
extern void *pg_malloc_extended(size_t size, int flags);
extern void *pg_realloc(void *pointer, size_t size);
extern char *pg_strdup(const char *string);
extern void pg_free(void *pointer);

void *
pg_malloc(size_t size)
{
	return palloc(size);
}

void *
pg_malloc0(size_t size)
{
	return palloc0(size);
}

void *
pg_malloc_extended(size_t size, int flags)
{
	return palloc0(size);
}

void *
pg_realloc(void *pointer, size_t size)
{
	return pointer != NULL ? repalloc(pointer, size) : palloc(size);
}

char *
pg_strdup(const char *string)
{
	return pstrdup(string);
}

void
pg_free(void *pointer)
{
}

/* Free what was allocated since the last call. */
void
memory_reset(void)
{
	while (chunks != NULL)
	{
		Chunk	   *next = chunks->next;

		free(chunks);
		chunks = next;
	}
}
