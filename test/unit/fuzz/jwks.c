/*-------------------------------------------------------------------------
 *
 * jwks.c
 *	  Fuzzing key sets, and tokens that are verified with what was read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/rand.h>

#include "engine/jwk.h"
#include "fuzz/standalone.h"

int			LLVMFuzzerInitialize(int *argc, char ***argv);

/*
 * OpenSSL looks by random numbers whether a modulus is one of RSA.  Made up
 * ones would be taken at one time and not at another: have them the same.
 */
static int
same_bytes(unsigned char *bytes, int length)
{
	memset(bytes, 1, length);
	return 1;
}

static int
always_ready(void)
{
	return 1;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const RAND_METHOD same = {
		.bytes = same_bytes,
		.pseudorand = same_bytes,
		.status = always_ready
	};

	if (RAND_set_rand_method(&same) != 1)
		abort();
	return 0;
}

static void
not_gone(uint64 number)
{
	abort();
}

/* The same keys, read again, are the same keys. */
static void
check_succession(JwkSet *set, const char *data, size_t size)
{
	const char *problem;
	int			skipped;
	JwkSet	   *again = jwk_parse_set(data, size, &problem, &skipped);

	jwk_succeed(again, set, not_gone);
	jwk_free(again);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const headers[] = {"HS256", "RS256", "PS512", "ES256", "ES512", "EdDSA"};
	const char *problem;
	int			skipped;
	JwkSet	   *set = jwk_parse_set((const char *) data, size, &problem, &skipped);

	if ((set == NULL) != (problem != NULL))
		abort();
	for (int i = 0; set != NULL && i < lengthof(headers); i++)
	{
		char		signature[256] = "not a signature";
		Jwt			jwt = {
			.algorithm = headers[i],
			.kid = i % 2 == 0 ? "a" : NULL,
			.signed_part = {"x.y", 3},
			.signature = {signature, i == 4 ? 132 : i == 3 ? 64 : 256}
		};
		uint64	   *number;

		if (jwk_verify(set, NULL, 0, &jwt, &number) == JWK_GOOD)
			abort();
		if (number != NULL)
			*number = i + 1;
	}
	check_succession(set, (const char *) data, size);
	jwk_free(set);
	memory_reset();
	return 0;
}
