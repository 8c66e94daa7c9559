/*-------------------------------------------------------------------------
 *
 * jwt.c
 *	  Fuzzing tokens: their form, their signature, their payload.
 *
 * No input can be signed with the secret or the key, which no corpus has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/jsontree.h"
#include "engine/jwk.h"
#include "fuzz/standalone.h"

/* Every name and value must be terminated. */
static size_t
walk(const JsonTree *tree)
{
	size_t		sum = tree->name != NULL ? strlen(tree->name) : 0;

	if (tree->value != NULL)
		sum += strlen(tree->value);
	for (const JsonTree *child = tree->first; child != NULL; child = child->next)
	{
		if (child->parent != tree || (child->name != NULL) != (tree->kind == '{'))
			abort();
		sum += walk(child);
	}
	return sum;
}

static JwkSet *
make_set(void)
{
	static const char text[] = "{\"keys\":["
		"{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"a\",\"x\":\"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\","
		"\"y\":\"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\"},"
		"{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"a\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}";
	const char *problem;
	int			skipped;
	JwkSet	   *set = jwk_parse_set(text, strlen(text), &problem, &skipped);

	if (set == NULL || jwk_count(set) != 2)
		abort();
	return set;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static JwkSet *set = NULL;
	static const char secret[] = "a secret that no fuzzer will guess";
	Jwt			jwt;
	JsonTree   *tree;
	uint64	   *number;

	if (set == NULL)
		set = make_set();
	if (jwt_parse((const char *) data, size, &jwt))
	{
		if (jwk_verify(set, secret, strlen(secret), &jwt, &number) == JWK_GOOD)
			abort();
		tree = jsontree_parse(jwt.payload.data, jwt.payload.length);
		if (tree != NULL)
			walk(tree);
	}
	tree = jsontree_parse((const char *) data, size);
	if (tree != NULL)
		walk(tree);
	memory_reset();
	return 0;
}
