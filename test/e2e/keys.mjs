// Keys: every algorithm, the JWKS file, its rotation; audience, issuer, leeway.

import { assert, atEnd, test, until } from './lib/tap.mjs';
import { connect, subscribe, versions } from './lib/clients.mjs';
import { RawClient, refusedHandshake } from './lib/raw.mjs';
import { createRole, createTable, secret, signToken, sql, token } from './lib/server.mjs';
import { algorithms, encode, jwk, keySet, makeKey, signRaw, signWith, soon, writeKeys } from './lib/keys.mjs';
import { configure } from './lib/settings.mjs';

await createRole('e2e_keyed');
await createTable('keyed', 'id int PRIMARY KEY', { roles: ['e2e_keyed'] });
const onKeyed = { event: '*', schema: 'public', table: 'keyed' };
const role = 'e2e_keyed';

// One connection for all questions: the tokens are those of joins.
const asker = await RawClient.open({ apikey: token(role) });
let topics = 0;
const ask = async (accessToken) => {
  const topic = `t${++topics}`;
  const reply = await asker.join(topic, [], { accessToken });
  if (reply.status === 'ok') asker.send(`realtime:${topic}`, 'phx_leave'); // there may be only so many
  return reply;
};
const accepted = async (one) => (await ask(one)).status === 'ok';
const reason = async (one) => (await ask(one)).response.reason;
atEnd(() => asker.close());
atEnd(() => configure({
  'rtsync.jwt_jwks_file': null, 'rtsync.jwt_audience': null, 'rtsync.jwt_issuer': null, 'rtsync.jwt_leeway': null,
}));

const keys = algorithms.map((alg) => makeKey(alg, `key of ${alg}`));
const key = (alg) => keys[algorithms.indexOf(alg)];

test('a token of every algorithm is accepted once its key is there', async () => {
  for (const one of keys) assert.equal(await accepted(signWith(one, { role })), false, one.kid);
  await writeKeys(keySet(...keys.map((one) => jwk(one))));
  for (const one of keys) await until(`${one.kid} to be accepted`, () => accepted(signWith(one, { role })));
  assert.ok(await accepted(token(role)), 'the secret still counts');
  for (const alg of ['HS384', 'HS512']) assert.ok(await accepted(signWith({ alg, secret: Buffer.from(secret) }, { role })), alg);
});

for (const version of versions) {
  test(`${version.name}: subscribes with a key of the set`, async () => {
    for (const alg of ['RS256', 'ES256', 'Ed25519']) {
      const client = connect(version, signWith(key(alg), { role }));
      atEnd(() => client.disconnect());
      const subscription = await subscribe(client, `real ${alg}`, [onKeyed]);
      await sql('DELETE FROM keyed; INSERT INTO keyed VALUES (1)');
      await until('the row', () => subscription.events.some((e) => e.new.id === 1));
      await client.disconnect();
    }
  });
}

test('a key is for its own algorithm only', async () => {
  const families = [['HS256', 'HS384', 'HS512'], ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512']];
  for (const family of families)
    for (const own of family)
      for (const alg of family.filter((other) => other !== own)) {
        const forged = signRaw(key(own), alg, { alg, kid: key(own).kid }, { exp: soon(), role });
        assert.equal(await accepted(forged), false, `${key(own).kid} as ${alg}`);
      }
});

test('a token without kid is verified with the only key for its algorithm', async () => {
  assert.ok(await accepted(signWith(key('RS256'), { role }, { kid: undefined })));
  assert.ok(await accepted(signWith(key('ES512'), { role }, { kid: undefined })));
  // two curves, one name
  assert.equal(await accepted(signWith(key('Ed448'), { role }, { kid: undefined })), false);
  assert.ok(await accepted(signRaw(key('Ed448'), 'EdDSA', { alg: 'Ed448' }, { exp: soon(), role })));
});

test('an unknown kid is named to who shows it', async () => {
  const text = 'Failed to generate JWT signer for key ID (kid) "né \\"x\\"", check your JWT secret or JWKS configuration';
  const stranger = signWith(makeKey('ES256', 'né "x"'), { role });
  assert.equal(await reason(stranger), `JwtSignerError: ${text.replaceAll('\\', '')}`);
  const { status, body } = await refusedHandshake({ apikey: stranger });
  assert.deepEqual([status, JSON.parse(body)], [401, { error: text.replaceAll('\\', '') }]);
});

test('keys are rotated while clients are connected', async () => {
  const [old, next] = [makeKey('ES256', 'old'), makeKey('ES256', 'next')];
  await writeKeys(keySet(jwk(old)));
  await until('the old key', () => accepted(signWith(old, { role })));
  assert.equal(await accepted(signWith(key('ES256'), { role })), false);
  const client = connect(versions[2], signWith(old, { role }));
  atEnd(() => client.disconnect());
  const subscription = await subscribe(client, 'rotation', [onKeyed]);
  await writeKeys(keySet(jwk(old), jwk(next)));
  await until('both keys', async () => (await accepted(signWith(next, { role }))) && accepted(signWith(old, { role })));
  await client.setAuth(signWith(next, { role }));
  await until('the new token to count', () =>
    subscription.systems.filter(({ message }) => message === 'Subscribed to PostgreSQL').length === 2);
  await writeKeys(keySet(jwk(next)));
  await until('the new key alone', async () => !(await accepted(signWith(old, { role }))));
  assert.ok(await accepted(signWith(next, { role })));
  await sql('DELETE FROM keyed; INSERT INTO keyed VALUES (2)');
  await until('a row', () => subscription.events.some((e) => e.new.id === 2));
  assert.deepEqual(subscription.statuses.map(({ status }) => status), ['SUBSCRIBED']);
  await client.disconnect();
});

// What a client sees when the key of its token is gone: its channels end, and so does the connection.
async function seesTheEnd(client, topics) {
  assert.deepEqual(await client.waitClosed(), { code: 1008, reason: 'key of the token revoked' });
  for (const topic of topics) {
    const of = (event) => client.frames.filter((f) => f.event === event && f.topic === `realtime:${topic}`);
    assert.deepEqual(of('system').at(-1).payload,
      { extension: 'system', status: 'error', message: 'The key of the token has been revoked', channel: topic });
    assert.equal(of('phx_error').length, 1);
  }
}

test('a key that leaves the file ends what was opened with its tokens, and nothing else', async () => {
  const [gone, stays] = [makeKey('ES256', 'gone'), makeKey('RS256', 'stays')];
  await writeKeys(keySet(jwk(gone), jwk(stays)));
  await until('both keys', async () => (await accepted(signWith(gone, { role }))) && accepted(signWith(stays, { role })));
  const [old, other] = [signWith(gone, { role }), signWith(stays, { role })];
  const idle = await RawClient.open({ apikey: old });
  const all = await RawClient.open({ apikey: old });
  for (const topic of ['one', 'two']) await all.joinOk(topic, [onKeyed]);
  const mixed = await RawClient.open({ apikey: other });
  await mixed.joinOk('with the old', [onKeyed], { accessToken: old });
  await mixed.joinOk('with the other', [onKeyed]);
  const renewed = await RawClient.open({ apikey: old });
  await renewed.joinOk('renewed', [onKeyed]);
  renewed.send('realtime:renewed', 'access_token', { access_token: other });
  await until('the new token to count', () =>
    renewed.frames.filter((f) => f.payload.message === 'Subscribed to PostgreSQL').length === 2);
  const kept = await RawClient.open({ apikey: other });
  await kept.joinOk('kept', [onKeyed]);
  const real = connect(versions[2], old);
  atEnd(() => real.disconnect());
  const subscription = await subscribe(real, 'real', [onKeyed]);

  // the same keys in another order, and one more
  await writeKeys(keySet(jwk(stays), jwk(makeKey('ES256', 'new')), jwk(gone)));
  await until('the reload', async () => !/JwtSigner/.test(await reason(signWith(makeKey('ES256', 'new'), { role }))));
  for (const one of [idle, all, mixed, renewed, kept]) assert.equal(one.closed, null);
  await writeKeys(keySet(jwk(stays)));
  await seesTheEnd(idle, []);
  await seesTheEnd(all, ['one', 'two']);
  await mixed.frame('the end of one', (f) => f.event === 'phx_error' && f.topic === 'realtime:with the old');
  await until('the real client to notice', () => subscription.statuses.some(({ status }) => status === 'CHANNEL_ERROR'));
  await sql('DELETE FROM keyed; INSERT INTO keyed VALUES (3)');
  for (const one of [mixed, renewed, kept])
    await until('the row', () => one.changes().some((c) => c.record?.id === 3));
  assert.equal(renewed.frames.some((f) => f.event === 'phx_error'), false);
  assert.equal((await renewed.join('again', [])).status, 'error');
  assert.equal((await refusedHandshake({ apikey: old })).status, 401);
  for (const one of [mixed, renewed, kept]) one.close();
  await real.disconnect();
});

test('a client whose token has lost its key comes back with another', async () => {
  const [gone, stays] = [makeKey('PS384', 'gone'), makeKey('ES384', 'stays')];
  await writeKeys(keySet(jwk(gone), jwk(stays)));
  await until('both keys', async () => (await accepted(signWith(gone, { role }))) && accepted(signWith(stays, { role })));
  for (const version of versions) {
    let current = signWith(gone, { role });
    const client = connect(version, signWith(stays, { role }), { accessToken: async () => current });
    atEnd(() => client.disconnect());
    await client.setAuth();
    const subscription = await subscribe(client, 'comes back', [onKeyed]);
    current = signWith(stays, { role });
    await writeKeys(keySet(jwk(stays)));
    await until('the end', () => subscription.statuses.some(({ status }) => status === 'CHANNEL_ERROR'));
    await client.setAuth();
    await until('the return', () => subscription.statuses.at(-1).status === 'SUBSCRIBED');
    await client.disconnect();
    await writeKeys(keySet(jwk(gone), jwk(stays)));
    await until('both keys', () => accepted(signWith(gone, { role })));
  }
});

test('a broken file keeps the keys that were there', async () => {
  const kept = makeKey('PS256', 'kept');
  await writeKeys(keySet(jwk(kept)));
  await until('the key', () => accepted(signWith(kept, { role })));
  const weak = makeKey('RS256', 'weak');
  const broken = ['', 'nonsense', '{"keys":', '{"keys":5}', '{"keys":[5]}', '[]', '{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}',
    keySet(jwk(weak, { e: 'AQ' })), keySet(jwk(weak), jwk(weak)), `${'['.repeat(100)}${']'.repeat(100)}`, ' '.repeat(1_100_000)];
  for (const [n, text] of broken.entries()) {
    await writeKeys(text);
    // one more reload, by whose effect it is seen that this one is over
    await configure({ 'rtsync.jwt_audience': `after ${n}` });
    await until('the reload', async () => /audience/.test(await reason(token(role, { aud: 'x' }))));
    assert.ok(await accepted(signWith(kept, { role, aud: `after ${n}` })), JSON.stringify(text.slice(0, 100)));
    await configure({ 'rtsync.jwt_audience': null });
    await until('the reload', () => accepted(token(role)));
  }
  await writeKeys(keySet());
  await until('no key', async () => !(await accepted(signWith(kept, { role }))));
});

test('keys that are not for signatures, or too weak, do not count', async () => {
  const useful = makeKey('RS256', 'useful');
  const one = (kid, alg = 'RS256') => makeKey(alg, kid);
  const small = { ...useful, kid: 'small' };
  const useless = [
    [one('enc'), { use: 'enc' }], [one('ops'), { key_ops: ['sign'] }], [one('none'), { key_ops: [] }],
    [one('bad ops'), { key_ops: 'verify' }], [one('other alg'), { alg: 'RSA-OAEP' }], [one('alg 5'), { alg: 5 }],
    [one('type'), { kty: 'rsa' }], [one('curve', 'ES256'), { crv: 'secp256k1' }], [one('crossed', 'ES256'), { crv: 'P-384' }],
    [one('point', 'ES256'), { y: encode(Buffer.alloc(32, 7)) }], [one('short', 'HS256'), { k: encode(Buffer.alloc(31, 1)) }],
    [one('exponent'), { e: 'AQ' }], [one('even'), { e: 'Ag' }], [small, { n: encode(Buffer.alloc(128, 0xff)) }],
    [one('padded'), { n: `${jwk(useful).n}=` }], [one('kid'), { kid: 5 }],
  ];
  await writeKeys(keySet(...useless.map(([k, more]) => jwk(k, more)), jwk(useful, { key_ops: ['verify', 'sign'] })));
  await until('the useful one', () => accepted(signWith(useful, { role })));
  for (const [k] of useless) assert.equal(await accepted(signWith(k, { role })), false, k.kid);
});

test('audience, issuer and leeway', async () => {
  await configure({ 'rtsync.jwt_audience': 'authenticated', 'rtsync.jwt_issuer': 'https://auth.example.com/', 'rtsync.jwt_leeway': '60s' });
  const iss = 'https://auth.example.com/';
  const aud = 'authenticated';
  await until('the settings', async () => !(await accepted(token(role))));
  assert.ok(await accepted(token(role, { aud, iss })));
  assert.ok(await accepted(token(role, { aud: ['x', aud], iss })));
  for (const claims of [{ iss }, { aud }, { aud: 'x', iss }, { aud: ['x'], iss }, { aud: [[aud]], iss }, { aud: { 0: aud }, iss }, { aud, iss: 'x' }, { aud, iss: [iss] }, { aud: [], iss }])
    assert.equal(await accepted(token(role, { aud, iss, aud: undefined, iss: undefined, ...claims })), false, JSON.stringify(claims));
  const now = Math.floor(Date.now() / 1000);
  assert.ok(await accepted(token(role, { aud, iss, exp: now - 30 })));
  assert.ok(await accepted(token(role, { aud, iss, nbf: now + 30 })));
  assert.equal(await accepted(token(role, { aud, iss, exp: now - 90 })), false);
  assert.equal(await accepted(token(role, { aud, iss, nbf: now + 90 })), false);
  await configure({ 'rtsync.jwt_audience': null, 'rtsync.jwt_issuer': null, 'rtsync.jwt_leeway': null });
  await until('the settings', () => accepted(token(role)));
  assert.equal(await accepted(signToken({ role, exp: now - 1 }, secret)), false);
});

test('so it is with the secret, and a key set that is turned off', async () => {
  const [ring, secretOne] = [makeKey('ES256', 'of the ring'), signToken({ role, exp: soon() }, 'x'.repeat(40))];
  await writeKeys(keySet(jwk(ring)));
  await until('the key', () => accepted(signWith(ring, { role })));
  const [byKey, bySecret] = [await RawClient.open({ apikey: signWith(ring, { role }) }), await RawClient.open({ apikey: token(role) })];
  for (const one of [byKey, bySecret]) await one.joinOk('t', [onKeyed]);
  await configure({ 'rtsync.jwt_jwks_file': null });
  await seesTheEnd(byKey, ['t']);
  await configure({ 'rtsync.jwt_secret': 'x'.repeat(40) });
  await seesTheEnd(bySecret, ['t']);
  const after = await RawClient.open({ apikey: secretOne });
  await after.joinOk('t', [onKeyed]);
  await configure({ 'rtsync.jwt_secret': null });
  await seesTheEnd(after, ['t']);
  await until('the secret', async () => (await refusedHandshake({ apikey: secretOne }).catch(() => null))?.status === 401);
  const again = await RawClient.open({ apikey: token(role) });
  await again.joinOk('t', [onKeyed]);
  again.close();
});
