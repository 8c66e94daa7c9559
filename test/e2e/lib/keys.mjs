// Keys of every kind, tokens signed with them, and the server's JWKS file.

import { constants, createHmac, createSign, generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { sql } from './server.mjs';
import { configure } from './settings.mjs';

export { configure };

export const encode = (value) =>
  Buffer.from(typeof value === 'string' || Buffer.isBuffer(value) ? value : JSON.stringify(value)).toString('base64url');

// All algorithms that a token may be signed with, and what makes a key for each.
const makers = {
  oct: () => ({ secret: randomBytes(64) }),
  rsa: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
  'P-256': () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  'P-384': () => generateKeyPairSync('ec', { namedCurve: 'P-384' }),
  'P-521': () => generateKeyPairSync('ec', { namedCurve: 'P-521' }),
  ed25519: () => generateKeyPairSync('ed25519'),
  ed448: () => generateKeyPairSync('ed448'),
};
const kinds = {
  HS256: 'oct', HS384: 'oct', HS512: 'oct',
  RS256: 'rsa', RS384: 'rsa', RS512: 'rsa', PS256: 'rsa', PS384: 'rsa', PS512: 'rsa',
  ES256: 'P-256', ES384: 'P-384', ES512: 'P-521', Ed25519: 'ed25519', Ed448: 'ed448',
};
export const algorithms = Object.keys(kinds);

// A key for an algorithm: { kid, alg, publicKey, privateKey } or { kid, alg, secret }
export function makeKey(alg, kid) {
  return { alg: alg.startsWith('Ed') ? 'EdDSA' : alg, kid, ...makers[kinds[alg]]() };
}

// The key as a member of a JWKS; more members are added to it.
export function jwk({ alg, kid, publicKey, secret }, more = {}) {
  const key = secret ? { kty: 'oct', k: encode(secret) } : publicKey.export({ format: 'jwk' });
  return { ...key, kid, alg, use: 'sig', ...more };
}

export function signature(key, alg, text) {
  const digest = `sha${alg.slice(2)}`;
  if (key.secret) return createHmac(digest, key.secret).update(text).digest();
  if (alg.startsWith('RS')) return createSign(digest).update(text).sign(key.privateKey);
  if (alg.startsWith('PS'))
    return sign(digest, Buffer.from(text), {
      key: key.privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
    });
  if (alg.startsWith('ES')) return sign(digest, Buffer.from(text), { key: key.privateKey, dsaEncoding: 'ieee-p1363' });
  return sign(null, Buffer.from(text), key.privateKey);
}

// A token signed with the key; header and claims as given, objects or texts.
export function signRaw(key, alg, header, claims) {
  const text = `${encode(header)}.${encode(claims)}`;
  return `${text}.${signature(key, alg, text).toString('base64url')}`;
}

export const soon = () => Math.floor(Date.now() / 1000) + 3600;

export function signWith(key, claims, header = {}) {
  return signRaw(key, key.alg, { typ: 'JWT', alg: key.alg, kid: key.kid, ...header }, { exp: soon(), ...claims });
}

// Writes a text to the server's JWKS file, and has it read that.
export async function writeKeys(text, file = 'jwks.json') {
  await sql(`DO $do$ BEGIN
    EXECUTE format('COPY (SELECT %L) TO %L', $jwks$${text}$jwks$, current_setting('data_directory') || '/${file}');
  END $do$`);
  await configure({ 'rtsync.jwt_jwks_file': file });
}

export const keySet = (...keys) => JSON.stringify({ keys });

