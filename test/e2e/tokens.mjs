// Who may connect, and what those are told who may not.

import { assert, atEnd, sleep, test, until } from './lib/tap.mjs';
import { connect, subscribe, versions } from './lib/clients.mjs';
import { RawClient, refusedHandshake } from './lib/raw.mjs';
import { createRole, createTable, secret, signToken, sql, token } from './lib/server.mjs';

await createRole('e2e_reader');
await sql(`DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'e2e_stranger') THEN CREATE ROLE e2e_stranger; END IF;
END $$`);
await createTable('owned', 'id int PRIMARY KEY, owner uuid', { roles: ['e2e_reader'], full: true });
await sql(`ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
  CREATE POLICY own ON owned FOR SELECT TO e2e_reader USING (owner = (SELECT rtsync.uid()))`);

const users = [1, 2].map((n) => `00000000-0000-4000-8000-00000000000${n}`);
const tokenOf = (n, claims = {}) => token('e2e_reader', { sub: users[n], ...claims });
const now = () => Math.floor(Date.now() / 1000);
const onOwned = { event: '*', schema: 'public', table: 'owned' };

const required = 'Fields `role` and `exp` are required in JWT';
const notValid = 'The token provided is not a valid JWT';
const badSignature = 'Failed to validate JWT signature';

// what is presented, the answer at the handshake, the reason at a join
const refused = [
  ['an expired token', token('e2e_reader', { exp: now() - 100 }),
    'Token has expired', /^InvalidJWTToken: Token has expired \d+ seconds ago$/],
  ['no exp', signToken({ role: 'e2e_reader', exp: undefined }, secret), required, `InvalidJWTToken: ${required}`],
  ['no role', signToken({}, secret), required, `InvalidJWTToken: ${required}`],
  ['another secret', signToken({ role: 'e2e_reader' }, 'another secret'), badSignature, `JwtSignatureError: ${badSignature}`],
  ['a changed payload', (() => {
    const parts = token('e2e_reader').split('.');
    parts[1] = Buffer.from(JSON.stringify({ role: 'postgres', exp: now() + 1000 })).toString('base64url');
    return parts.join('.');
  })(), badSignature, `JwtSignatureError: ${badSignature}`],
  ['no JWT at all', 'nonsense', notValid, `MalformedJWT: ${notValid}`],
  ['two parts', 'a.b', notValid, `MalformedJWT: ${notValid}`],
  ['parts that are not JSON', 'YWJj.YWJj.YWJj', notValid, `MalformedJWT: ${notValid}`],
];

// Refused too, in words that are ours to choose
const refusedSomehow = [
  ['algorithm "none"', `${signToken({ role: 'e2e_reader' }, '', { alg: 'none' }).replace(/[^.]*$/, '')}`],
  ['algorithm "none" with a signature', signToken({ role: 'e2e_reader' }, secret, { alg: 'none' })],
  ['an algorithm unknown', signToken({ role: 'e2e_reader' }, secret, { alg: 'HS1' })],
  ['not valid yet', token('e2e_reader', { nbf: now() + 1000 })],
  ['a role not granted to rtsync_authenticator', token('e2e_stranger')],
  ['a role that does not exist', token('e2e_nobody')],
  ['a superuser', token('postgres')],
  ['the authenticator itself is no way around', token('pg_read_all_data')],
  ['exp that is no number', signToken({ role: 'e2e_reader', exp: 'tomorrow' }, secret)],
  ['a role that is no string', signToken({ role: 5 }, secret)],
  ['100 kB', `${'a'.repeat(100_000)}.b.c`],
];

test('handshake without a token', async () => {
  const { status, body, headers } = await refusedHandshake({});
  assert.equal(status, 401);
  assert.deepEqual(JSON.parse(body), { error: 'API key is missing' });
  assert.match(headers['content-type'], /^application\/json/);
});

for (const [what, apikey, error] of refused) {
  test(`handshake with ${what}`, async () => {
    const { status, body } = await refusedHandshake({ apikey });
    assert.equal(status, 401);
    assert.deepEqual(JSON.parse(body), { error });
  });
}

for (const [what, accessToken, , reason] of refused) {
  test(`join with ${what}`, async () => {
    const client = await RawClient.open({ apikey: tokenOf(0) });
    const reply = await client.join('refused', [onOwned], { accessToken });
    assert.equal(reply.status, 'error');
    if (reason instanceof RegExp) assert.match(reply.response.reason, reason);
    else assert.equal(reply.response.reason, reason);
    await client.joinOk('allowed', [onOwned]); // the connection lives on
    client.close();
  });
}

for (const [what, bad] of refusedSomehow) {
  test(`refused at the handshake and at a join: ${what}`, async () => {
    const { status } = await refusedHandshake({ apikey: bad });
    assert.ok(status >= 400 && status < 500, `status ${status}`);
    const client = await RawClient.open({ apikey: tokenOf(0) });
    const reply = await client.join('refused', [onOwned], { accessToken: bad });
    assert.equal(reply.status, 'error');
    assert.equal(typeof reply.response.reason, 'string');
    await client.heartbeat();
    client.close();
  });
}

test('the header x-api-key is a token too', async () => {
  const client = await RawClient.open({ headers: { 'x-api-key': tokenOf(0) } });
  await client.joinOk('header', [onOwned]);
  client.close();
});

test('a token may be URL-encoded and hold blanks', async () => {
  const client = await RawClient.open({ apikey: ` ${tokenOf(0)}\n` });
  await client.joinOk('blanks', [onOwned]);
  client.close();
});

test("the join's token is the one that counts", async () => {
  const client = await RawClient.open({ apikey: tokenOf(0) });
  await client.joinOk('second', [onOwned], { accessToken: tokenOf(1) });
  await client.joinOk('key', [onOwned], { accessToken: 'sb_publishable_x' }); // ignored: the apikey's
  await sql('TRUNCATE owned; INSERT INTO owned VALUES (1, $1)'.replace('$1', `'${users[1]}'`));
  await sql(`INSERT INTO owned VALUES (2, '${users[0]}')`);
  await client.frame('both', () => client.changes().length >= 2);
  assert.deepEqual(client.changes('second').map((c) => c.record.id), [1]);
  assert.deepEqual(client.changes('key').map((c) => c.record.id), [2]);
  client.close();
});

for (const version of versions) {
  test(`${version.name}: setAuth changes what a live subscription sees`, async () => {
    const client = connect(version, tokenOf(0));
    atEnd(() => client.disconnect());
    await client.setAuth(tokenOf(0));
    const subscription = await subscribe(client, 'refresh', [onOwned]);
    await sql(`TRUNCATE owned; INSERT INTO owned VALUES (1, '${users[0]}')`);
    await until('the first row', () => subscription.events.length === 1);

    await client.setAuth(tokenOf(1));
    // There is no reply to a new token; rows tell when it has taken effect.
    let id = 10;
    await until('a row of the second user', async () => {
      await sql(`INSERT INTO owned VALUES (${id++}, '${users[1]}')`);
      await sleep(20);
      return subscription.events.some((e) => e.new.owner === users[1]);
    });
    const seen = subscription.events.length;
    await sql(`INSERT INTO owned VALUES (8, '${users[0]}'), (9, '${users[1]}')`);
    await until('row 9', () => subscription.events.some((e) => e.new.id === 9));
    assert.ok(!subscription.events.slice(seen).some((e) => e.new.owner === users[0]));
    await client.disconnect();
  });
}

test('a bad new token closes the channel, and the channel alone', async () => {
  const client = await RawClient.open({ apikey: tokenOf(0) });
  await client.joinOk('doomed', [onOwned]);
  await client.joinOk('fine', [onOwned]);
  client.send('realtime:doomed', 'access_token', { access_token: signToken({ role: 'e2e_reader' }, 'x') }, '1');
  const system = await client.frame('a system message', (f) => f.event === 'system' && f.payload.status === 'error');
  assert.equal(system.topic, 'realtime:doomed');
  await client.frame('phx_close', (f) => f.event === 'phx_close' && f.topic === 'realtime:doomed');
  await sql(`TRUNCATE owned; INSERT INTO owned VALUES (1, '${users[0]}')`);
  await client.frame('the row', () => client.changes('fine').length === 1);
  assert.equal(client.changes('doomed').length, 0);
  client.close();
});

test('a token that expires ends its channel, and nothing is sent after that', async () => {
  const client = await RawClient.open({ apikey: tokenOf(0) });
  await client.joinOk('short', [onOwned], { accessToken: tokenOf(0, { exp: now() + 6 }) });
  await client.joinOk('long', [onOwned]);
  const system = await client.frame('expiry', (f) => f.event === 'system' && f.payload.status === 'error');
  assert.equal(system.topic, 'realtime:short');
  assert.match(system.payload.message, /^Token has expired \d+ seconds ago$/);
  await client.frame('phx_close', (f) => f.event === 'phx_close' && f.topic === 'realtime:short');
  await sql(`TRUNCATE owned; INSERT INTO owned VALUES (1, '${users[0]}')`);
  await client.frame('the row', () => client.changes('long').length === 1);
  assert.equal(client.changes('short').length, 0);
  client.close();
});

test('a role that is taken from rtsync_authenticator may not join any more', async () => {
  await createRole('e2e_leaver');
  await sql('GRANT SELECT ON owned TO e2e_leaver');
  const client = await RawClient.open({ apikey: tokenOf(0) });
  await client.joinOk('before', [onOwned], { accessToken: token('e2e_leaver') });
  await sql('REVOKE e2e_leaver FROM rtsync_authenticator');
  await until('the refusal', async () => {
    const reply = await client.join('after', [onOwned], { accessToken: token('e2e_leaver') });
    return reply.status === 'error';
  });
  client.close();
});

for (const version of versions) {
  test(`${version.name}: expiry closes the channel alone; a new token, and a new channel is served`, async () => {
    const client = connect(version, tokenOf(0));
    atEnd(() => client.disconnect());
    await client.setAuth(tokenOf(0, { exp: now() + 6 }));
    const { statuses, systems } = await subscribe(client, 'ending', [onOwned]);
    await until('CLOSED', () => statuses.at(-1).status === 'CLOSED');
    assert.match(systems.at(-1).message, /^Token has expired \d+ seconds ago$/);
    assert.deepEqual([systems.at(-1).status, systems.at(-1).extension], ['error', 'system']);
    assert.ok(client.isConnected());
    await client.setAuth(tokenOf(0));
    const again = await subscribe(client, 'ending', [onOwned]);
    await sql(`TRUNCATE owned; INSERT INTO owned VALUES (1, '${users[0]}')`);
    await until('the row', () => again.events.some((e) => e.new.id === 1));
    assert.deepEqual(statuses.map(({ status }) => status), ['SUBSCRIBED', 'CLOSED']);
    await client.disconnect();
  });

  test(`${version.name}: a token that is refreshed in time keeps the channel`, async () => {
    const client = connect(version, tokenOf(0));
    atEnd(() => client.disconnect());
    const first = now() + 8;
    await client.setAuth(tokenOf(0, { exp: first }));
    const { statuses, events } = await subscribe(client, 'lasting', [onOwned]);
    await client.setAuth(tokenOf(0));
    await until('the end of the first token', () => now() > first + 1, { every: 100 });
    await sql(`TRUNCATE owned; INSERT INTO owned VALUES (1, '${users[0]}')`);
    await until('the row', () => events.some((e) => e.new.id === 1));
    assert.deepEqual(statuses.map(({ status }) => status), ['SUBSCRIBED']);
    await client.disconnect();
  });
}

test('access_token is not answered; null, the same one and API keys change nothing', async () => {
  const client = await RawClient.open({ apikey: tokenOf(0) });
  const accessToken = tokenOf(0, { n: 1 });
  await client.joinOk('tokens', [onOwned], { accessToken });
  await client.frame('the subscription', (f) => f.event === 'system');
  const before = client.frames.length;
  for (const one of [null, accessToken, 'sb_publishable_x', undefined, 5]) client.send('realtime:tokens', 'access_token', { access_token: one }, '1');
  await client.heartbeat();
  assert.equal(client.frames.length, before + 1);
  client.send('realtime:tokens', 'access_token', { access_token: tokenOf(0, { n: 2 }) }, '1');
  await until('the subscription to be told again', () => client.frames.length === before + 2);
  assert.equal(client.frames.at(-1).payload.message, 'Subscribed to PostgreSQL');
  client.close();
});
