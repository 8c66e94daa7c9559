// API keys instead of tokens, their end, and clients that show nothing.

import { assert, atEnd, test, until } from './lib/tap.mjs';
import { connect, subscribe, versions } from './lib/clients.mjs';
import { RawClient, refusedHandshake } from './lib/raw.mjs';
import { createRole, createTable, httpUrl, sql, status, token } from './lib/server.mjs';
import { configure } from './lib/settings.mjs';

for (const role of ['e2e_anon', 'e2e_user', 'e2e_service']) await createRole(role);
await sql('ALTER ROLE e2e_service BYPASSRLS');
await sql(`DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'e2e_outsider') THEN CREATE ROLE e2e_outsider; END IF;
END $$`);
await createTable('notices', 'id int PRIMARY KEY, public boolean', { roles: ['e2e_anon', 'e2e_user', 'e2e_service'] });
await sql(`ALTER TABLE notices ENABLE ROW LEVEL SECURITY;
  CREATE POLICY anybody ON notices FOR SELECT TO e2e_anon USING (public AND (rtsync.jwt() ->> 'role') = 'e2e_anon');
  CREATE POLICY users ON notices FOR SELECT TO e2e_user USING (true)`);
const onNotices = { event: '*', schema: 'public', table: 'notices' };
await sql('DELETE FROM rtsync.api_keys');
atEnd(() => configure({ 'rtsync.anonymous_role': null }));

let names = 0;
const createKey = async (role, name = `key ${++names}`) =>
  (await sql('SELECT rtsync.create_api_key($1::text::regrole, $2) AS key', [role, name]))[0].key;
const revoke = (name) => sql('SELECT rtsync.revoke_api_key($1)', [name]);

async function sees(events, ids) {
  await sql('DELETE FROM notices');
  await sql('INSERT INTO notices VALUES (1, true), (2, false), (3, true)');
  await until('row 3', () => events().some((id) => id === 3));
  assert.deepEqual(events().filter((id) => id), ids);
}

test('a key is shown once, and kept as its hash', async () => {
  const key = await createKey('e2e_anon', 'web');
  assert.match(key, /^sb_publishable_[\w-]{32}$/);
  assert.match(await createKey('e2e_service', 'server'), /^sb_secret_[\w-]{32}$/);
  const [row] = await sql(`SELECT role, hash = sha256($1) AS right FROM rtsync.api_keys WHERE name = 'web'`, [Buffer.from(key)]);
  assert.deepEqual(row, { role: 'e2e_anon', right: true });
  await assert.rejects(createKey('e2e_anon', 'web'), /duplicate key/);
  for (const role of ['e2e_outsider', 'postgres', 'rtsync_authenticator', '4711'])
    await assert.rejects(createKey(role), /clients cannot have role|does not exist/, role);
  await assert.rejects(revoke('nothing'), /API key "nothing" does not exist/);
});

test('only superusers, or whom they allow, make and see keys', async () => {
  for (const text of ['SELECT * FROM rtsync.api_keys', `SELECT rtsync.create_api_key('e2e_anon', 'x')`,
    `SELECT rtsync.revoke_api_key('web')`, 'SELECT rtsync.api_keys_changed()'])
    await assert.rejects(sql(`SET ROLE e2e_service; ${text}`), /permission denied/, text);
  await sql('RESET ROLE');
});

for (const version of versions) {
  test(`${version.name}: a key stands for its role`, async () => {
    const client = connect(version, await createKey('e2e_anon'));
    atEnd(() => client.disconnect());
    const subscription = await subscribe(client, 'notices', [onNotices]);
    await sees(() => subscription.events.map((e) => e.new.id), [1, 3]);
    await client.disconnect();
  });
}

for (const version of versions) {
  // As supabase-js does it: the API key in the URL, and as the access token until a user has logged in.
  test(`${version.name}: a user who logs in has more rights than the key`, async () => {
    const key = await createKey('e2e_anon');
    let accessToken = key;
    const client = connect(version, key, { accessToken: async () => accessToken });
    atEnd(() => client.disconnect());
    await client.setAuth();
    const { events } = await subscribe(client, 'notices', [onNotices]);
    await sees(() => events.map((e) => e.new.id), [1, 3]);
    accessToken = token('e2e_user');
    await client.setAuth();
    await until('the rights of the user', async () => {
      await sql('DELETE FROM notices');
      await sql('INSERT INTO notices VALUES (2, false)');
      return events.some((e) => e.new.id === 2);
    }, { every: 50 });
    await client.disconnect();
  });
}

test('a key that is unknown is refused', async () => {
  for (const apikey of ['sb_', 'sb_publishable_', `sb_publishable_${'x'.repeat(32)}`, `sb_secret_${'y'.repeat(10_000)}`, 'sb_\0', 'sb_é']) {
    const { status: code, body } = await refusedHandshake({ apikey });
    assert.deepEqual([code, JSON.parse(body)], [401, { error: 'Invalid API key' }], apikey.slice(0, 40));
  }
  assert.equal((await post('sb_publishable_x')).status, 401);
});

const post = (key, header = 'apikey') =>
  fetch(`${httpUrl}/api/broadcast`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(key && { [header]: header === 'apikey' ? key : `Bearer ${key}` }) },
    body: JSON.stringify({ messages: [{ topic: 't', event: 'e', payload: {} }] }),
  });

test('broadcast over HTTP with a key', async () => {
  const key = await createKey('e2e_anon');
  assert.equal((await post(key)).status, 202);
  assert.equal((await post(key, 'authorization')).status, 202);
});

test('a key that is revoked ends at once what came with it', async () => {
  const [gone, stays] = [await createKey('e2e_anon', 'gone'), await createKey('e2e_anon', 'stays')];
  const client = await RawClient.open({ apikey: gone });
  const other = await RawClient.open({ apikey: stays });
  const idle = await RawClient.open({ apikey: gone });
  const user = await RawClient.open({ apikey: gone });
  for (const one of [client, other]) await one.joinOk('notices', [onNotices]);
  await user.joinOk('notices', [onNotices], { accessToken: token('e2e_user') });
  await revoke('gone');
  for (const one of [client, idle, user])
    assert.deepEqual(await one.waitClosed(), { code: 1008, reason: 'API key revoked' });
  const system = client.frames.filter((f) => f.event === 'system').at(-1);
  assert.deepEqual([system.payload.status, system.payload.message], ['error', 'The API key has been revoked']);
  assert.ok(client.frames.some((f) => f.event === 'phx_close'));
  assert.equal((await refusedHandshake({ apikey: gone })).status, 401);
  assert.equal((await post(gone)).status, 401);
  await sees(() => other.changes().map((c) => c.record?.id), [1, 3]);
  other.close();
});

test('a key may be changed by hand: to another role it is another key', async () => {
  const key = await createKey('e2e_anon', 'moved');
  const client = await RawClient.open({ apikey: key });
  await client.joinOk('notices', [onNotices]);
  await sql(`UPDATE rtsync.api_keys SET name = 'renamed' WHERE name = 'moved'`);
  await client.joinOk('again', [onNotices]);
  await sql(`UPDATE rtsync.api_keys SET role = 'e2e_user' WHERE name = 'renamed'`);
  await client.waitClosed();
  const after = await RawClient.open({ apikey: key });
  await after.joinOk('notices', [onNotices]);
  await sees(() => after.changes().map((c) => c.record?.id), [1, 2, 3]);
  await sql('TRUNCATE rtsync.api_keys');
  await after.waitClosed();
  assert.equal((await refusedHandshake({ apikey: key })).status, 401);
});

test('a revocation that is rolled back changes nothing', async () => {
  const client = await RawClient.open({ apikey: await createKey('e2e_anon', 'kept') });
  await client.joinOk('notices', [onNotices]);
  await sql(`BEGIN; SELECT rtsync.revoke_api_key('kept'); ROLLBACK`);
  await sees(() => client.changes().map((c) => c.record?.id), [1, 3]);
  await client.joinOk('still', [onNotices]);
  client.close();
});

test('a role that clients may not have makes its key worthless', async () => {
  await createRole('e2e_passing');
  await sql('GRANT SELECT ON notices TO e2e_passing');
  const apikey = await createKey('e2e_passing');
  const client = await RawClient.open({ apikey });
  await client.joinOk('notices', [onNotices]);
  await sql('REVOKE e2e_passing FROM rtsync_authenticator');
  await client.frame('the end', (f) => f.event === 'phx_close');
  assert.equal((await refusedHandshake({ apikey })).status, 401);
  client.close();
});

test('without a key: refused, or the anonymous role', async () => {
  assert.equal((await refusedHandshake({})).status, 401);
  assert.equal((await post(null)).status, 401);
  await configure({ 'rtsync.anonymous_role': 'e2e_anon' });
  const client = await until('a connection', async () => {
    try {
      return await RawClient.open({});
    } catch {
      return null;
    }
  });
  await client.joinOk('notices', [onNotices]);
  await sees(() => client.changes().map((c) => c.record?.id), [1, 3]);
  assert.equal((await post(null)).status, 202);
  assert.equal((await refusedHandshake({ apikey: 'x.y.z' })).status, 401);
  // who shows a token has its rights
  await client.joinOk('user', [onNotices], { accessToken: token('e2e_user') });
  await configure({ 'rtsync.anonymous_role': null });
  await client.waitClosed();
  assert.equal((await refusedHandshake({})).status, 401);
  await configure({ 'rtsync.anonymous_role': 'e2e_outsider' });
  await until('the reload', async () => {
    const { body } = await refusedHandshake({});
    return /not allowed/.test(body);
  });
  assert.equal((await status()).state, 'running');
});
