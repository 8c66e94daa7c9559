/*-------------------------------------------------------------------------
 *
 * jwk.c
 *	  Keys that tokens are signed with, and the algorithms that they are for.
 *
 * A key comes from a JSON Web Key Set (RFC 7517), and is for one algorithm
 * (RFC 7518, 8037), which the key says and never the token:
 *
 *		kty		"alg" of the key	without "alg"
 *		oct		HS256 HS384 HS512	HS256
 *		RSA		RS256 ... PS512		RS256
 *		EC		ES256 ES384 ES512	by the curve: P-256, P-384, P-521
 *		OKP		EdDSA, Ed25519,		EdDSA, which in a token may also be
 *				Ed448				called by the curve
 *
 * A token is verified with the key that has its "kid" and its "alg"; one
 * without "kid" with the only key for its "alg", if there is only one.  The
 * shared secret, which is no part of a set, is for HS256, HS384 and HS512: for
 * tokens without "kid", and for those with one that no key of the set has.
 *
 * Keys that we have no use for are skipped, as RFC 7517 wants it: of other
 * types and curves, for encryption, and those that are too weak.  Elements are
 * public keys; private parts, if there are any, are not looked at.
 *
 * Pure: knows OpenSSL, but no catalog, and builds without a server for the
 * fuzzers.  Keys are kept with malloc, as OpenSSL's are.  Called by keyring.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

#include "engine/jsontree.h"
#include "engine/jwk.h"

#define MAX_KEYS 100
#define MAX_KID_SIZE 256

#define MIN_SECRET_SIZE 32		/* of an "oct" key: RFC 7518, section 3.2 */
#define MAX_SECRET_SIZE 1024
#define MIN_RSA_BITS 2048
#define MAX_RSA_BITS 8192
#define MAX_EXPONENT_SIZE 4		/* bytes; what is larger is slow, and unusual */

typedef enum KeyType
{
	KEY_SECRET,
	KEY_RSA,
	KEY_EC,
	KEY_ED
} KeyType;

typedef struct Algorithm
{
	const char *name;
	KeyType		type;
	const char *curve;			/* "crv", of KEY_EC and KEY_ED */
	const char *group;			/* OpenSSL's name for it */
	int			coordinate;		/* bytes of a coordinate, or of a public key */
	const EVP_MD *(*digest) (void);
	bool		pss;
	const char *other_name;
} Algorithm;

/* The first of a type, and curve if it has one, is what a key without "alg" is for */
static const Algorithm algorithms[] = {
	{"HS256", KEY_SECRET, NULL, NULL, 0, EVP_sha256},
	{"HS384", KEY_SECRET, NULL, NULL, 0, EVP_sha384},
	{"HS512", KEY_SECRET, NULL, NULL, 0, EVP_sha512},
	{"RS256", KEY_RSA, NULL, NULL, 0, EVP_sha256},
	{"RS384", KEY_RSA, NULL, NULL, 0, EVP_sha384},
	{"RS512", KEY_RSA, NULL, NULL, 0, EVP_sha512},
	{"PS256", KEY_RSA, NULL, NULL, 0, EVP_sha256, true},
	{"PS384", KEY_RSA, NULL, NULL, 0, EVP_sha384, true},
	{"PS512", KEY_RSA, NULL, NULL, 0, EVP_sha512, true},
	{"ES256", KEY_EC, "P-256", "prime256v1", 32, EVP_sha256},
	{"ES384", KEY_EC, "P-384", "secp384r1", 48, EVP_sha384},
	{"ES512", KEY_EC, "P-521", "secp521r1", 66, EVP_sha512},
	{"EdDSA", KEY_ED, "Ed25519", "ED25519", 32, NULL, false, "Ed25519"},
	{"EdDSA", KEY_ED, "Ed448", "ED448", 57, NULL, false, "Ed448"},
};

/* A key; one of secret and public is there */
typedef struct Jwk
{
	char	   *kid;			/* or NULL */
	const Algorithm *algorithm;
	unsigned char *secret;
	Size		secret_length;
	EVP_PKEY   *public;
	uint64		number;			/* the caller's, see jwk_verify */
} Jwk;

struct JwkSet
{
	int			count;
	Jwk			keys[MAX_KEYS];
};

/* Is the algorithm called this? */
static bool
is_called(const Algorithm *algorithm, const char *name)
{
	return strcmp(algorithm->name, name) == 0 ||
		(algorithm->other_name != NULL &&
		 strcmp(algorithm->other_name, name) == 0);
}

/*--------------------------------------------------------------------------
 * Reading keys
 *--------------------------------------------------------------------------
 */

/* Decode a member that is a number or bytes in base64url. */
static bool
get_bytes(const JsonTree *key, const char *name, JwtBytes *result)
{
	const char *text = jsontree_string(key, name);

	return text != NULL && jwt_decode_base64url(text, strlen(text), result);
}

/*
 * What the key is for by its "kty", "crv" and "alg"; NULL if we have no use for
 * it.
 */
static const Algorithm *
find_algorithm(const JsonTree *key)
{
	static const char *const types[] = {"oct", "RSA", "EC", "OKP"};
	const char *type = jsontree_string(key, "kty");
	const char *curve = jsontree_string(key, "crv");
	const JsonTree *name = jsontree_member(key, "alg");

	if (type == NULL || (name != NULL && name->kind != 's'))
		return NULL;
	for (int i = 0; i < lengthof(algorithms); i++)
	{
		const Algorithm *algorithm = &algorithms[i];

		if (strcmp(types[algorithm->type], type) != 0)
			continue;
		if (algorithm->curve != NULL &&
			(curve == NULL || strcmp(algorithm->curve, curve) != 0))
			continue;
		if (name == NULL || is_called(algorithm, name->value))
			return algorithm;
	}
	return NULL;
}

/* Is it for verifying signatures, as far as it says what it is for? */
static bool
may_verify(const JsonTree *key)
{
	const JsonTree *use = jsontree_member(key, "use");
	const JsonTree *operations = jsontree_member(key, "key_ops");

	if (use != NULL && (use->kind != 's' || strcmp(use->value, "sig") != 0))
		return false;
	if (operations == NULL)
		return true;
	for (const JsonTree *one = operations->first; one != NULL; one = one->next)
		if (operations->kind == '[' && one->kind == 's' &&
			strcmp(one->value, "verify") == 0)
			return true;
	return false;
}

static EVP_PKEY *
make_public(const char *type, OSSL_PARAM * params)
{
	EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
	EVP_PKEY_CTX *check = NULL;
	EVP_PKEY   *key = NULL;

	if (context != NULL && EVP_PKEY_fromdata_init(context) > 0 &&
		EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, params) > 0)
		check = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
	if (check == NULL || EVP_PKEY_public_check(check) <= 0)
	{
		EVP_PKEY_free(key);
		key = NULL;
	}
	EVP_PKEY_CTX_free(check);
	EVP_PKEY_CTX_free(context);
	return key;
}

static EVP_PKEY *
read_rsa(const JsonTree *key)
{
	JwtBytes	modulus;
	JwtBytes	exponent;
	BIGNUM	   *n;
	BIGNUM	   *e;
	OSSL_PARAM_BLD *build;
	OSSL_PARAM *params = NULL;
	EVP_PKEY   *result = NULL;

	if (!get_bytes(key, "n", &modulus) || !get_bytes(key, "e", &exponent) ||
		modulus.length > MAX_RSA_BITS / 8 + 1 ||
		exponent.length > MAX_EXPONENT_SIZE)
		return NULL;
	n = BN_bin2bn((unsigned char *) modulus.data, (int) modulus.length, NULL);
	e = BN_bin2bn((unsigned char *) exponent.data, (int) exponent.length, NULL);
	build = OSSL_PARAM_BLD_new();
	if (n != NULL && e != NULL && build != NULL &&
		BN_num_bits(n) >= MIN_RSA_BITS && BN_num_bits(n) <= MAX_RSA_BITS &&
		BN_is_odd(n) && BN_is_odd(e) && !BN_is_one(e) &&
		OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, n) &&
		OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, e))
		params = OSSL_PARAM_BLD_to_param(build);
	if (params != NULL)
		result = make_public("RSA", params);
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(build);
	BN_free(n);
	BN_free(e);
	return result;
}

static EVP_PKEY *
read_ec(const JsonTree *key, const Algorithm *algorithm)
{
	unsigned char point[1 + 2 * 66];
	Size		size = algorithm->coordinate;
	JwtBytes	x;
	JwtBytes	y;
	OSSL_PARAM	params[3];

	if (!get_bytes(key, "x", &x) || !get_bytes(key, "y", &y) ||
		x.length != size || y.length != size)
		return NULL;
	point[0] = POINT_CONVERSION_UNCOMPRESSED;
	memcpy(point + 1, x.data, size);
	memcpy(point + 1 + size, y.data, size);
	params[0] = OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME,
												 (char *) algorithm->group, 0);
	params[1] = OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY,
												  point, 1 + 2 * size);
	params[2] = OSSL_PARAM_construct_end();
	return make_public("EC", params);
}

static EVP_PKEY *
read_ed(const JsonTree *key, const Algorithm *algorithm)
{
	JwtBytes	x;

	if (!get_bytes(key, "x", &x) || x.length != algorithm->coordinate)
		return NULL;
	return EVP_PKEY_new_raw_public_key_ex(NULL, algorithm->group, NULL,
										  (unsigned char *) x.data, x.length);
}

static bool
read_secret(const JsonTree *key, Jwk *result)
{
	JwtBytes	bytes;

	if (!get_bytes(key, "k", &bytes) || bytes.length < MIN_SECRET_SIZE ||
		bytes.length > MAX_SECRET_SIZE)
		return false;
	result->secret = malloc(bytes.length);
	if (result->secret == NULL)
		return false;
	memcpy(result->secret, bytes.data, bytes.length);
	result->secret_length = bytes.length;
	OPENSSL_cleanse(bytes.data, bytes.length);
	return true;
}

static void
free_key(Jwk *key)
{
	EVP_PKEY_free(key->public);
	if (key->secret != NULL)
		OPENSSL_cleanse(key->secret, key->secret_length);
	free(key->secret);
	free(key->kid);
}

/* Read a key; false if we have no use for it. */
static bool
read_key(const JsonTree *tree, Jwk *key)
{
	const JsonTree *kid = jsontree_member(tree, "kid");

	memset(key, 0, sizeof(*key));
	if (!may_verify(tree) || (key->algorithm = find_algorithm(tree)) == NULL ||
		(kid != NULL &&
		 (kid->kind != 's' || strlen(kid->value) > MAX_KID_SIZE)))
		return false;
	if (key->algorithm->type == KEY_RSA)
		key->public = read_rsa(tree);
	else if (key->algorithm->type == KEY_EC)
		key->public = read_ec(tree, key->algorithm);
	else if (key->algorithm->type == KEY_ED)
		key->public = read_ed(tree, key->algorithm);
	if (key->algorithm->type == KEY_SECRET ?
		!read_secret(tree, key) : key->public == NULL)
		return false;
	if (kid != NULL && (key->kid = strdup(kid->value)) == NULL)
	{
		free_key(key);
		return false;
	}
	return true;
}

static bool
same_kid(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* Could a token with "kid" mean this key as well as one that is in the set? */
static bool
is_ambiguous(const JwkSet *set, const Jwk *key)
{
	for (int i = 0; i < set->count; i++)
		if (key->kid != NULL && same_kid(set->keys[i].kid, key->kid) &&
			set->keys[i].algorithm == key->algorithm)
			return true;
	return false;
}

/* Put the keys into the set; returns what is wrong, or NULL. */
static const char *
read_keys(const JsonTree *keys, JwkSet *set, int *skipped)
{
	for (const JsonTree *one = keys->first; one != NULL; one = one->next)
	{
		Jwk			key;

		if (one->kind != '{')
			return "a key is not a JSON object";
		if (!read_key(one, &key))
		{
			(*skipped)++;
			continue;
		}
		if (set->count == MAX_KEYS || is_ambiguous(set, &key))
		{
			free_key(&key);
			return set->count == MAX_KEYS ? "there are too many keys" :
				"two keys have the same \"kid\" and the same algorithm";
		}
		set->keys[set->count++] = key;
	}
	if (set->count == 0 && *skipped > 0)
		return "no key in it can be used";
	return NULL;
}

/*
 * Read a JSON Web Key Set.  Returns NULL if it is none, and sets *problem to
 * why.  *skipped is the number of keys that we have no use for.
 */
JwkSet *
jwk_parse_set(const char *text, Size length, const char **problem, int *skipped)
{
	JsonTree   *tree = jsontree_parse(text, length);
	const JsonTree *keys = tree != NULL ? jsontree_member(tree, "keys") : NULL;
	JwkSet	   *set;

	*problem = NULL;
	*skipped = 0;
	if (keys == NULL || keys->kind != '[')
	{
		*problem = "it is not a JSON object with an array \"keys\"";
		return NULL;
	}
	set = calloc(1, sizeof(JwkSet));
	*problem = set != NULL ? read_keys(keys, set, skipped) : "out of memory";
	ERR_clear_error();			/* of keys that OpenSSL did not like */
	if (*problem == NULL)
		return set;
	jwk_free(set);
	return NULL;
}

/* How many keys are in the set? */
int
jwk_count(const JwkSet *set)
{
	return set->count;
}

/* Forget a set, which may be NULL. */
void
jwk_free(JwkSet *set)
{
	if (set == NULL)
		return;
	for (int i = 0; i < set->count; i++)
		free_key(&set->keys[i]);
	free(set);
}

/* Would the one accept the same tokens as the other? */
static bool
same_key(const Jwk *one, const Jwk *other)
{
	if (one->algorithm != other->algorithm || !same_kid(one->kid, other->kid))
		return false;
	if (one->public != NULL)
		return EVP_PKEY_eq(one->public, other->public) == 1;
	return one->secret_length == other->secret_length &&
		CRYPTO_memcmp(one->secret, other->secret, one->secret_length) == 0;
}

/*
 * A set takes the place of another; either may be NULL.  Its keys get the
 * numbers that they had there; "gone" is called with those of keys that it has
 * not.
 */
void
jwk_succeed(JwkSet *set, const JwkSet *old, void (*gone) (uint64 number))
{
	for (int i = 0; old != NULL && i < old->count; i++)
	{
		const Jwk  *before = &old->keys[i];
		int			n = 0;

		if (before->number == 0)
			continue;
		while (set != NULL && n < set->count && !same_key(&set->keys[n], before))
			n++;
		if (set != NULL && n < set->count)
			set->keys[n].number = before->number;
		else
			gone(before->number);
	}
}

/*--------------------------------------------------------------------------
 * Verifying
 *--------------------------------------------------------------------------
 */

static bool
verify_mac(const Algorithm *algorithm, const unsigned char *secret,
		   Size secret_length, const Jwt *jwt)
{
	unsigned char expected[EVP_MAX_MD_SIZE];
	unsigned int length = 0;
	bool		good;

	good = HMAC(algorithm->digest(), secret, (int) secret_length,
				(const unsigned char *) jwt->signed_part.data,
				jwt->signed_part.length, expected, &length) != NULL &&
		length == jwt->signature.length &&
		CRYPTO_memcmp(expected, jwt->signature.data, length) == 0;
	OPENSSL_cleanse(expected, sizeof(expected));
	return good;
}

/*
 * An ECDSA signature in JOSE is two numbers side by side; OpenSSL wants DER.
 * Returns its length, or 0; free the result with OPENSSL_free.
 */
static int
make_der(const Algorithm *algorithm, const JwtBytes *signature,
		 unsigned char **der)
{
	const unsigned char *bytes = (const unsigned char *) signature->data;
	int			size = algorithm->coordinate;
	ECDSA_SIG  *pair;
	BIGNUM	   *r;
	BIGNUM	   *s;
	int			length = 0;

	*der = NULL;
	if (signature->length != 2 * size)
		return 0;
	pair = ECDSA_SIG_new();
	r = BN_bin2bn(bytes, size, NULL);
	s = BN_bin2bn(bytes + size, size, NULL);
	if (pair != NULL && r != NULL && s != NULL && ECDSA_SIG_set0(pair, r, s))
	{
		r = s = NULL;			/* the pair has them now */
		length = i2d_ECDSA_SIG(pair, der);
	}
	BN_free(r);
	BN_free(s);
	ECDSA_SIG_free(pair);
	return Max(length, 0);
}

static bool
verify_public(const Jwk *key, const Jwt *jwt)
{
	const Algorithm *algorithm = key->algorithm;
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	EVP_PKEY_CTX *parameters;	/* belongs to the context */
	unsigned char *signature = (unsigned char *) jwt->signature.data;
	Size		length = jwt->signature.length;
	unsigned char *der = NULL;
	bool		good = true;

	if (algorithm->type == KEY_EC)
	{
		length = make_der(algorithm, &jwt->signature, &der);
		signature = der;
		good = length > 0;
	}

	/*
	 * RFC 8017, 8.1.2 and 8.2.2: it is as long as the modulus.  Of PSS
	 * OpenSSL takes one that leaves out leading zeros.
	 */
	if (algorithm->type == KEY_RSA)
		good = length == (Size) EVP_PKEY_size(key->public);
	good = good && context != NULL &&
		EVP_DigestVerifyInit(context, &parameters,
							 algorithm->digest != NULL ? algorithm->digest() : NULL,
							 NULL, key->public) > 0;
	if (good && algorithm->pss)
		good = EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PSS_PADDING) > 0 &&
			EVP_PKEY_CTX_set_rsa_pss_saltlen(parameters, RSA_PSS_SALTLEN_DIGEST) > 0;
	good = good &&
		EVP_DigestVerify(context, signature, length,
						 (const unsigned char *) jwt->signed_part.data,
						 jwt->signed_part.length) == 1;
	OPENSSL_free(der);
	EVP_MD_CTX_free(context);
	ERR_clear_error();
	return good;
}

/* The one key of the set that the token is to be verified with, or NULL */
static Jwk *
find_key(JwkSet *set, const Jwt *jwt)
{
	Jwk		   *found = NULL;

	for (int i = 0; set != NULL && i < set->count; i++)
	{
		Jwk		   *key = &set->keys[i];

		if (!is_called(key->algorithm, jwt->algorithm) ||
			(jwt->kid != NULL && !same_kid(key->kid, jwt->kid)))
			continue;
		if (found != NULL)
			return NULL;
		found = key;
	}
	return found;
}

/* The algorithm, if it is one that the shared secret is for, else NULL */
static const Algorithm *
find_mac(const char *name)
{
	for (int i = 0; algorithms[i].type == KEY_SECRET; i++)
		if (is_called(&algorithms[i], name))
			return &algorithms[i];
	return NULL;
}

/*
 * Is the token's signature right?  The set may be NULL, and so the secret: no
 * keys, no secret.  *number is where the caller may note what it calls the key,
 * 0 at first; NULL if it was the secret.
 */
JwkVerdict
jwk_verify(JwkSet *set, const char *secret, Size secret_length,
		   const Jwt *jwt, uint64 **number)
{
	const Algorithm *mac = secret != NULL ? find_mac(jwt->algorithm) : NULL;
	Jwk		   *key = mac != NULL && jwt->kid == NULL ? NULL :
		find_key(set, jwt);
	bool		good;

	*number = key != NULL ? &key->number : NULL;
	if (key != NULL)
		good = key->public != NULL ? verify_public(key, jwt) :
			verify_mac(key->algorithm, key->secret, key->secret_length, jwt);
	else if (mac != NULL)
		good = verify_mac(mac, (const unsigned char *) secret, secret_length,
						  jwt);
	else
		return JWK_NO_KEY;
	return good ? JWK_GOOD : JWK_WRONG_SIGNATURE;
}
