/*-------------------------------------------------------------------------
 *
 * jwt.c
 *	  The form of a JSON Web Token: its parts and its header.
 *
 * RFC 7515, compact serialization: HEADER.PAYLOAD.SIGNATURE, each part in
 * base64url.  Here a token is taken apart; whether it is good is for others to
 * say, who look at the payload only when the signature has been found right.
 *
 * Pure: knows no catalog, and builds without a server for the fuzzers.  Called
 * by token.c; jwk.c decodes keys with jwt_decode_base64url.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/jsontree.h"
#include "engine/jwt.h"

#define MAX_HEADER_SIZE 2048

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Undo URL-encoding and remove white space; NULL if it cannot be a token. */
static char *
clean_token(const char *data, Size length)
{
	char	   *result = palloc(length + 1);
	char	   *to = result;

	for (Size i = 0; i < length; i++)
	{
		char		c = data[i];

		if (c == '%')
		{
			int			high = i + 2 < length ? hex_digit(data[i + 1]) : -1;
			int			low = i + 2 < length ? hex_digit(data[i + 2]) : -1;

			if (high < 0 || low < 0)
				return NULL;
			c = (char) (high * 16 + low);
			i += 2;
		}
		if (c == '\0')
			return NULL;
		if (c != ' ' && !(c >= '\t' && c <= '\r'))
			*to++ = c;
	}
	*to = '\0';
	return result;
}

static int
base64url_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/*
 * Decode base64url as RFC 7515 has it: no padding, no other characters.  Bits
 * left over must be zero, so that a token has one spelling only.  False for
 * anything else, and for nothing at all.
 */
bool
jwt_decode_base64url(const char *text, Size length, JwtBytes *result)
{
	uint32		bits = 0;
	int			nbits = 0;

	if (length == 0 || length % 4 == 1)
		return false;
	result->data = palloc(length * 3 / 4 + 1);
	result->length = 0;
	for (Size i = 0; i < length; i++)
	{
		int			digit = base64url_digit(text[i]);

		if (digit < 0)
			return false;
		bits = (bits << 6) | digit;
		nbits += 6;
		if (nbits >= 8)
		{
			nbits -= 8;
			result->data[result->length++] = (char) (bits >> nbits);
			bits &= (1 << nbits) - 1;
		}
	}
	result->data[result->length] = '\0';
	return bits == 0;
}

/* Take the three parts apart and decode them. */
static bool
split(char *token, Jwt *jwt, JwtBytes *header)
{
	char	   *first = strchr(token, '.');
	char	   *second = first ? strchr(first + 1, '.') : NULL;

	if (second == NULL || strchr(second + 1, '.') != NULL)
		return false;
	jwt->signed_part.data = token;
	jwt->signed_part.length = second - token;
	return jwt_decode_base64url(token, first - token, header) &&
		jwt_decode_base64url(first + 1, second - first - 1, &jwt->payload) &&
		jwt_decode_base64url(second + 1, strlen(second + 1), &jwt->signature) &&
		header->length <= MAX_HEADER_SIZE;
}

/*
 * Take a token apart.  False if it has not the form of one, or asks for an
 * extension ("crit"): we know none.  Fills *jwt.
 */
bool
jwt_parse(const char *data, Size length, Jwt *jwt)
{
	char	   *token = clean_token(data, length);
	JwtBytes	header;
	JsonTree   *tree;
	const JsonTree *kid;

	memset(jwt, 0, sizeof(*jwt));
	if (token == NULL || !split(token, jwt, &header))
		return false;
	tree = jsontree_parse(header.data, header.length);
	if (tree == NULL || tree->kind != '{' ||
		jsontree_member(tree, "crit") != NULL)
		return false;
	kid = jsontree_member(tree, "kid");
	if (kid != NULL && kid->kind != 's')
		return false;
	jwt->kid = kid != NULL ? kid->value : NULL;
	jwt->algorithm = jsontree_string(tree, "alg");
	return jwt->algorithm != NULL;
}
