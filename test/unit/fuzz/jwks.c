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

		if (jwk_verify(set, NULL, 0, &jwt) == JWK_GOOD)
			abort();
	}
	jwk_free(set);
	memory_reset();
	return 0;
}
