/*-------------------------------------------------------------------------
 *
 * jwks.c
 *	  Fuzzing key sets, and tokens that are verified with what was read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/jwk.h"
#include "fuzz/standalone.h"

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
