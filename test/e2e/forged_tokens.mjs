// More than a thousand tokens that nobody must believe: each is shown in a join.
// Beside them stand good ones, so that it is not everything that is refused.

import { constants, createHmac, privateEncrypt, randomBytes } from 'node:crypto';
import { assert, atEnd, note, test, until } from './lib/tap.mjs';
import { RawClient, refusedHandshake } from './lib/raw.mjs';
import { createRole, secret, status, token } from './lib/server.mjs';
import { encode, jwk, keySet, makeKey, signRaw, signature, soon, writeKeys } from './lib/keys.mjs';
import { configure } from './lib/settings.mjs';

const role = 'e2e_believed';
await createRole(role);
const shared = { alg: 'HS256', secret: Buffer.from(secret) };
const keys = Object.fromEntries(
  ['HS256', 'RS256', 'PS384', 'ES256', 'ES384', 'ES512', 'Ed25519', 'Ed448'].map((alg) => [alg, makeKey(alg, alg)]));
await writeKeys(keySet(...Object.values(keys).map((key) => jwk(key))));
await configure({ 'rtsync.max_joins_per_second': '0', 'rtsync.max_messages_per_second': '0' });
atEnd(() => configure({
  'rtsync.jwt_jwks_file': null, 'rtsync.max_joins_per_second': null, 'rtsync.max_messages_per_second': null,
}));

const good = { role, exp: soon() };
const goodText = JSON.stringify(good);
const hs = (header, claims = good) => signRaw(shared, header?.alg?.startsWith?.('HS') ? header.alg : 'HS256', header, claims);
const payload = (text) => hs({ alg: 'HS256' }, text); // claims as text, rightly signed
const claims = (more) => payload(JSON.stringify({ ...good, ...more }));
const raw = (...parts) => parts.map((part) => encode(part)).join('.');
const key = (alg) => keys[alg];
const signed = (alg) => signRaw(key(alg), key(alg).alg, { alg: key(alg).alg, kid: alg }, good);

const kinds = {};

// "alg" none, in all spellings, with and without something in the place of a signature
kinds.none = ['none', 'None', 'NONE', 'nOnE', 'none ', ' none', 'none\u0000', 'null', '', 'undefined', 'nоne'].flatMap((alg) =>
  [{ alg }, { alg, typ: 'JWT' }, { alg, kid: 'RS256' }, { alg, kid: '' }].flatMap((header) =>
    ['', 'A', 'AA', 'AAAA', encode(randomBytes(32)), hs({ alg: 'HS256' }).split('.')[2]].map((s) => `${raw(header, good)}.${s}`)));

// names of algorithms that there are not, or not here, rightly signed with the secret
kinds.algorithm = ['HS1', 'HS224', 'HS0', 'hs256', 'Hs256', 'HS-256', 'HS256 ', ' HS256', 'HS256\u0000', 'HMAC', 'HMACSHA256', 'MD5', 'HS2560',
  'HS25', 'RS1', 'ES256K', 'ES', 'A128KW', 'dir', 'RSA-OAEP', 'ECDH-ES', 'PBES2-HS256+A128KW', 'SHA256', 'http://www.w3.org/2001/04/xmldsig-more#hmac-sha256',
  5, null, true, [], ['HS256'], { alg: 'HS256' }, 1e9, '\ud83d\ude00', 'ＨＳ２５６', 'x'.repeat(500)].flatMap((alg) =>
  [{ alg }, { typ: 'JWT', alg }, { alg, kid: 'HS256' }].map((header) => signRaw(shared, 'HS256', header, good)))
  .concat([{}, { typ: 'JWT' }, { Alg: 'HS256' }, { 'alg ': 'HS256' }, { ALG: 'HS256' }, []].map((header) => signRaw(shared, 'HS256', header, good)));

// HMAC with something public as the secret
const publics = (one) => {
  const k = one.publicKey;
  const der = k.export({ type: 'spki', format: 'der' });
  const pem = k.export({ type: 'spki', format: 'pem' });
  const json = k.export({ format: 'jwk' });
  return [der, pem, pem.trim(), pem.replaceAll('\n', ''), pem.split('\n').slice(1, -2).join(''), pem.split('\n').slice(1, -2).join('\n'),
    JSON.stringify(json), JSON.stringify(jwk(one)), json.n ?? json.x, Buffer.from(json.n ?? json.x, 'base64url'), json.x ?? '', json.y ?? '', one.kid]
    .filter((text) => text.length > 0);
};
kinds.confusion = ['RS256', 'PS384', 'ES256', 'ES384', 'ES512', 'Ed25519', 'Ed448'].flatMap((name) =>
  publics(key(name)).flatMap((text) =>
    ['HS256', 'HS384', 'HS512'].flatMap((alg) =>
      [{ alg, kid: name }, { alg }].map((header) => signRaw({ secret: Buffer.from(text) }, alg, header, good)))));

// the right key, but a header that says another algorithm, and the other way round
const names = ['HS256', 'HS384', 'HS512', 'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519', 'Ed448'];
kinds.crossed = Object.entries(keys).flatMap(([kid, one]) =>
  names.filter((alg) => alg !== one.alg && alg !== kid).flatMap((alg) =>
    [{ alg, kid }, { alg, kid: undefined, jwk: jwk(one) }].map((header) => signRaw(one, one.alg, header, good))));

// keys that the token brings along or points at
const mine = makeKey('RS256', 'mine');
kinds.brought = [{ jwk: jwk(mine) }, { jku: 'http://localhost/keys' }, { x5u: 'http://localhost/x' }, { x5c: ['MIIB'] }, { x5t: 'AAAA' }]
  .flatMap((more) => ['mine', 'RS256', undefined].map((kid) => signRaw(mine, 'RS256', { alg: 'RS256', kid, ...more }, good)));

// key names
kinds.kid = ['', 'x', 'rs256', 'RS256 ', 'RS256\u0000', '../../../dev/null', '/dev/null', `' OR '1'='1`, '$(id)', 'a'.repeat(300), 5, null, [], {}, ['RS256'], '*', '%', '\ud83d\ude00']
  .flatMap((kid) => [signRaw(key('RS256'), 'RS256', { alg: 'RS256', kid }, good), signRaw({ secret: Buffer.alloc(0) }, 'HS256', { alg: 'HS256', kid }, good),
    signRaw(mine, 'RS256', { alg: 'RS256', kid }, good)]);

// extensions and encodings
kinds.crit = [['exp'], [], 'exp', null, 5, ['b64'], ['b64', 'exp'], {}, [''], ['http://example.com/UNDEFINED']]
  .flatMap((crit) => [{ alg: 'HS256', crit }, { alg: 'HS256', crit, b64: false }, { alg: 'HS256', crit, exp: good.exp }].map((header) => hs(header)))
  .concat(signRaw(shared, 'HS256', '{"alg":"HS256","\\u0063rit":["b64"]}', good));

// signatures that are nearly right
kinds.signature = Object.keys(keys).flatMap((alg) => {
  const [h, p, s] = signed(alg).split('.');
  const bytes = Buffer.from(s, 'base64url');
  const flipped = (i) => Buffer.from(bytes.map((b, j) => (j === i ? b ^ 1 : b)));
  return [flipped(0), flipped(bytes.length >> 1), flipped(bytes.length - 1), bytes.subarray(1), bytes.subarray(0, -1), Buffer.concat([bytes, Buffer.from([0])]),
    Buffer.concat([Buffer.from([0]), bytes]), Buffer.alloc(bytes.length), Buffer.alloc(bytes.length, 255), Buffer.from([...bytes].reverse()), bytes.subarray(0, 16),
    Buffer.concat([bytes, bytes]), Buffer.alloc(2000, 1)].map((b) => `${h}.${p}.${encode(b)}`)
    .concat(`${h}.${p}.`, `${h}.${p}`, `${h}..${s}`, `.${p}.${s}`, `${h}.${p}.${s}.`, `${h}.${p}.${s}.${s}`, `.${h}.${p}.${s}`, `${h}.${p}.${s}=`, `${h}=.${p}.${s}`,
      `${h}.${p}.${s}A`, `${h}.${p}.${s}!`, `${h}.${p}.${s}\u00e9`, `${p}.${h}.${s}`, `${h}.${p}.${h}`, `${h},${p},${s}`, `${h}.${p}.${s.toLowerCase()}`, `"${h}.${p}.${s}"`,
      `Bearer%20${h}.${p}.${s}`, `${h}.${encode({ ...good, role: 'postgres' })}.${s}`, `${encode({ alg: key(alg).alg, kid: alg, x: 1 })}.${p}.${s}`, `${h}.${p}.${s}%`, `${h}.${p}.${s}%0`, `${h}.${p}.${s}%00`);
});

// numbers that make bad curve signatures: 0, 1, the order, and DER instead of r and s
const orders = { ES256: 'ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551' };
kinds.ecdsa = ['ES256', 'ES384', 'ES512'].flatMap((alg) => {
  const size = { ES256: 32, ES384: 48, ES512: 66 }[alg];
  const number = (n) => Buffer.from(n.toString(16).padStart(size * 2, '0'), 'hex');
  const [h, p, s] = signed(alg).split('.');
  const good_ = Buffer.from(s, 'base64url');
  const odd = [0n, 1n, 2n, (1n << BigInt(size * 8)) - 1n, BigInt(`0x${orders.ES256}`), 1n << 200n].map(number);
  const pairs = odd.flatMap((r) => odd.map((t) => Buffer.concat([r, t])));
  const half = [Buffer.concat([good_.subarray(0, size), odd[0]]), Buffer.concat([odd[0], good_.subarray(size)]), Buffer.concat([good_.subarray(size), good_.subarray(0, size)])];
  const der = Buffer.concat([Buffer.from([0x30, 2 * size + 4, 2, size]), good_.subarray(0, size), Buffer.from([2, size]), good_.subarray(size)]);
  return [...pairs, ...half, der].map((b) => `${h}.${p}.${encode(b)}`);
});

// RSA signatures that begin with a zero, and leave it out
kinds.shortened = ['RS256', 'PS384'].map((alg) => {
  for (let n = 0; ; n++) {
    const text = raw({ alg, kid: alg }, { ...good, n });
    const bytes = signature(key(alg), alg, text);
    if (bytes[0] === 0) return `${text}.${encode(bytes.subarray(1))}`;
  }
});

// RSA padding made by hand: no digest info, another digest, PSS with other salts
kinds.rsa = (() => {
  const text = raw({ alg: 'RS256', kid: 'RS256' }, good);
  const { privateKey } = key('RS256');
  const digest = createHmac('sha256', '').update(text).digest();
  const block = (data) => privateEncrypt({ key: privateKey, padding: constants.RSA_NO_PADDING }, data);
  const filled = (tail) => Buffer.concat([Buffer.from([0, 1]), Buffer.alloc(256 - 3 - tail.length, 255), Buffer.from([0]), tail]);
  return [block(filled(digest)), block(filled(Buffer.from('3031300d060960864801650304020105000420', 'hex'))), block(Buffer.concat([Buffer.from([0, 1, 255, 0]), digest, Buffer.alloc(220, 7)])),
    signature(key('RS256'), 'RS384', text), signature(key('RS256'), 'RS512', text), signature(key('RS256'), 'PS256', text), block(Buffer.concat([Buffer.alloc(255), Buffer.from([1])]))]
    .map((b) => `${text}.${encode(b)}`);
})();

// times
const now = Math.floor(Date.now() / 1000);
kinds.times = [now - 1, now - 3600, 0, -1, 1, -1e14, 1e15, 1e16, 1e300, -1e300, 1e999, '', 'soon', `${soon()}`, null, true, false, [], [soon()], {}, { $date: soon() }]
  .map((exp) => payload(JSON.stringify({ role, exp })))
  .concat(['1e9999', '1e-9999', 'NaN', 'Infinity', '-Infinity', '0x7fffffff', '+4102444800', '4102444800.', '.5', '04102444800', '4102444800e', '9'.repeat(1500), '1e99999999999999999999', '--5']
    .map((exp) => payload(`{"role":"${role}","exp":${exp}}`)))
  .concat([now + 3600, now + 1e9, 'now', null, true, [], {}, 1e300].map((nbf) => claims({ nbf })))
  .concat(['x', null, true, [], {}, 1e300, '5'].map((iat) => claims({ iat })))
  .concat(payload(JSON.stringify({ role })), payload(JSON.stringify({ role, Exp: soon() })));

// roles
kinds.roles = ['', 'postgres', 'e2e_nobody', 'rtsync_authenticator', 'none', 'public', 'pg_read_all_data', 'pg_monitor', role.toUpperCase(), `${role} `, ` ${role}`, `${role}\u0000`, `"${role}"`,
  `${role};`, 'x'.repeat(63), 'x'.repeat(64), 'x'.repeat(5000), 5, 0, null, true, [], [role], {}, { role }, '\u00e9', '16384', 'current_user', 'session_user', `${role}/*`]
  .map((name) => claims({ role: name }))
  .concat(payload(JSON.stringify({ exp: soon() })), payload(JSON.stringify({ exp: soon(), Role: role })), payload('{}'));

// names twice
kinds.twice = [`{"role":"postgres",${goodText.slice(1)}`, `${goodText.slice(0, -1)},"role":"${role}"}`, `{"r\\u006fle":"postgres",${goodText.slice(1)}`, `${goodText.slice(0, -1)},"exp":9999999999}`,
  `{"exp":1,${goodText.slice(1)}`, `${goodText.slice(0, -1)},"sub":"a","sub":"b"}`, `${goodText.slice(0, -1)},"x":{"a":1,"a":2}}`, `${goodText.slice(0, -1)},"x":[{"a":1,"a":2}]}`, `${goodText.slice(0, -1)},"":1,"":2}`]
  .map(payload)
  .concat(['{"alg":"HS256","alg":"HS256"}', '{"alg":"none","alg":"HS256"}', '{"alg":"HS256","alg":"none"}', '{"alg":"HS256","\\u0061lg":"HS256"}', '{"alg":"HS256","kid":"a","kid":"b"}', '{"alg":"HS256","x":{"a":1,"a":1}}']
    .map((header) => signRaw(shared, 'HS256', header, good)));

// what is not JSON, not an object, not UTF-8, too deep, too long
const bytes = (...list) => Buffer.concat(list.map((one) => Buffer.from(one)));
const inString = (b) => payload(bytes(`{"role":"${role}","exp":${good.exp},"x":"`, b, '"}'));
kinds.text = ['', ' ', 'null', 'true', '5', '"x"', '[]', `[${goodText}]`, JSON.stringify(goodText), goodText.slice(0, -1), `${goodText}}`, `${goodText}x`, `${goodText}${goodText}`, `${goodText.slice(0, -1)},}`, `,${goodText}`,
  goodText.replaceAll('"', "'"), `\ufeff${goodText}`, `${goodText}\u0000`, `/**/${goodText}`, `${goodText}//`, goodText.replace('{', '{role:1,'), goodText.replace(':', '='), `${goodText.slice(0, -1)},"x":undefined}`,
  `${goodText.slice(0, -1)},"x":"\n"}`, `${goodText.slice(0, -1)},"x":"\\x"}`, `${goodText.slice(0, -1)},"x":"\\u00"}`, `${goodText.slice(0, -1)},"x":"\\u0000"}`, `${goodText.slice(0, -1)},"\\u0000":1}`, `${goodText.slice(0, -1)},"x":"\\ud800"}`,
  `${goodText.slice(0, -1)},"x":"\\udc00\\ud800"}`, `${goodText.slice(0, -1)},"x":"\\ud800\\ud800"}`, `${goodText.slice(0, -1)},"x":01}`, `${goodText.slice(0, -1)},"x":1e}`, `${goodText.slice(0, -1)},"x":-}`, `${goodText.slice(0, -1)},"x":1${'0'.repeat(1001)}}`,
  `${goodText.slice(0, -1)},"x":1e1001}`, `${goodText.slice(0, -1)},"x":1e-1001}`, `${goodText.slice(0, -1)},"x":tru}`, `${goodText.slice(0, -1)},"x":TRUE}`]
  .map((text) => (text === '' ? `${raw({ alg: 'HS256' })}..${encode(signature(shared, 'HS256', `${raw({ alg: 'HS256' })}.`))}` : payload(text)))
  .concat([[0xff], [0xfe], [0x80], [0xc0, 0x80], [0xc3], [0xe2, 0x82], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xf8, 0x88, 0x80, 0x80, 0x80], [0], [1], [0x1f], [0xc1, 0xbf], [0xf0, 0x80, 0x80, 0x80]].map(inString))
  .concat([65, 100, 500, 1000, 3000, 5000].flatMap((depth) =>
    [['[', ']'], ['{"a":', '}'], ['[{"a":', '}]']].flatMap(([open, close]) =>
      [`${open.repeat(depth)}1${close.repeat(depth)}`, open.repeat(depth), `${'{"a":'}${open.repeat(depth)}`].map((x) => payload(`${goodText.slice(0, -1)},"x":${x}}`)))))
  .concat([17_000, 50_000, 200_000].flatMap((size) =>
    [claims({ x: 'x'.repeat(size) }), 'x'.repeat(size), `${'x'.repeat(size)}.x.x`, '.'.repeat(size), '%41'.repeat(size / 3), ' '.repeat(size), `${raw({ alg: 'HS256', x: 'x'.repeat(size) }, good)}.AAAA`]))
  .concat([2100, 5000, 10_000].map((size) => hs({ alg: 'HS256', x: 'x'.repeat(size) })))
  .concat(['{"alg":"HS256"', '{"alg":"HS256"}x', '["HS256"]', '"HS256"', 'null', '{"alg":"HS256"}{}', '{"alg":"HS256",}', "{'alg':'HS256'}", '\ufeff{"alg":"HS256"}'].map((header) => signRaw(shared, 'HS256', header, good)));

// base64 of another kind
kinds.base64 = [(s) => s.replaceAll('.', '=.'), (s) => `${s}=`, (s) => `${s}==`, (s) => s.replace('.', '..'), (s) => s.replace('.', '\u200b.'), (s) => s.replace('.', '%2'), (s) => s.replace('.', '+.'), (s) => s.replace('.', '/.'), (s) => s.replace('.', '-.'),
  (s) => `${s}\u00a0`, (s) => `\ufeff${s}`, (s) => s.split('.').map((part) => Buffer.from(part, 'base64url').toString('base64') + '=').join('.'), (s) => Buffer.from(s).toString('base64'), (s) => encode(s), (s) => s.split('.').map((p) => Buffer.from(p, 'base64url').toString('hex')).join('.'),
  (s) => s.split('').reverse().join(''), (s) => `${s},${s}`, (s) => `{"token":"${s}"}`, (s) => s.replaceAll('.', '%252E')]
  .flatMap((change) => ['HS256', 'RS256', 'ES256', 'Ed25519'].map((alg) => change(signed(alg))));

// secrets that people use
kinds.secrets = ['', ' ', 'secret', 'password', 'your-256-bit-secret', 'super-secret-jwt-token-with-at-least-32-characters-long', 'jwt', 'null', 'undefined', '0', '\0', '\0'.repeat(32), '********', `${secret} `, ` ${secret}`, `${secret}\n`, secret.slice(0, -1), secret.slice(1), secret.toUpperCase(), encode(secret)]
  .flatMap((text) => ['HS256', 'HS384', 'HS512'].map((alg) => signRaw({ secret: Buffer.from(text) }, alg, { alg }, good)));

// Shows tokens in joins of one connection; returns the replies.
async function show(tokens) {
  const client = await RawClient.open({ apikey: token(role) });
  const refs = tokens.map((one, i) => {
    const ref = String(i + 10);
    client.sendText(JSON.stringify([ref, ref, `realtime:forged ${i}`, 'phx_join', { config: {}, access_token: one }]));
    return ref;
  });
  const replies = new Map();
  await until('all replies', () => {
    for (const f of client.frames.splice(0)) if (f.event === 'phx_reply') replies.set(f.ref, f.payload);
    assert.equal(client.closed, null);
    return replies.size === tokens.length;
  }, { timeout: 30_000 });
  client.close();
  return refs.map((ref) => replies.get(ref));
}

test('the good ones are believed', async () => {
  await until('the keys', async () => (await show(Object.keys(keys).map(signed))).every(({ status: s }) => s === 'ok'));
  const fine = [hs({ alg: 'HS256' }), hs({ alg: 'HS512', kid: 'nobody' }), payload(` ${goodText}\n`), claims({ x: '[['.repeat(100), nbf: now, iat: now + 1000, aud: ['x'] })];
  for (const [i, reply] of (await show(fine)).entries()) assert.equal(reply.status, 'ok', `${i}: ${JSON.stringify(reply)}`);
});

let total = 0;
for (const [kind, tokens] of Object.entries(kinds)) {
  test(`refused: ${tokens.length} of kind ${kind}`, async () => {
    total += tokens.length;
    for (let at = 0; at < tokens.length; at += 90) {
      const slice = tokens.slice(at, at + 90);
      const replies = await show(slice);
      for (const [i, { status: result, response }] of replies.entries()) {
        assert.equal(result, 'error', `number ${at + i} was believed: ${slice[i].slice(0, 300)}`);
        assert.match(response.reason, /^(MalformedJWT|JwtSignatureError|JwtSignerError|InvalidJWTToken|Unauthorized): /);
      }
    }
  });
}

test('some of each kind are refused at the handshake, too', async () => {
  for (const [kind, tokens] of Object.entries(kinds))
    for (const apikey of [tokens[0], tokens.at(-1)]) {
      if (apikey.length > 8000) continue;
      const { status: code } = await refusedHandshake({ apikey });
      assert.ok([400, 401].includes(code), `${kind}: ${code}`);
    }
});

test('there were more than a thousand, and the engine is the same', async () => {
  note(`${total} tokens`);
  assert.ok(total > 1000);
  const { state, message } = await status();
  assert.deepEqual([state, message], ['running', null]);
});
