/*-------------------------------------------------------------------------
 *
 * same.c
 *	  What makes a fuzzer do the same each time: hash tables whose keys are
 *	  not random.
 *
 * Linked into each of the fuzzers.  They are run without address space layout
 * randomization, too: libFuzzer looks at the values that are compared, and
 * addresses are among them.
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>
#include <sys/random.h>

#include <jansson.h>

int			LLVMFuzzerInitialize(int *argc, char ***argv);

/* In place of the C library's */
ssize_t
getrandom(void *buffer, size_t length, unsigned int flags)
{
	(void) flags;
	memset(buffer, 1, length);
	return (ssize_t) length;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void) argc;
	(void) argv;
	json_object_seed(1);
	return 0;
}
