// A client's own broadcasts that are to be stored: "persist" in a message.

import { assert, atEnd, test, until } from './lib/tap.mjs';
import { connect, versions } from './lib/clients.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, pg, sql, token } from './lib/server.mjs';

const latest = versions.find(({ name }) => name === '2.119');
for (const role of ['e2e_keeper', 'e2e_sender']) await createRole(role);
await sql(`DROP POLICY IF EXISTS persist_read ON rtsync.messages;
  DROP POLICY IF EXISTS persist_write ON rtsync.messages;
  DROP POLICY IF EXISTS persist_keep ON rtsync.messages;
  CREATE POLICY persist_read ON rtsync.messages FOR SELECT TO e2e_keeper, e2e_sender USING (topic LIKE 'kept%');
  CREATE POLICY persist_write ON rtsync.messages FOR INSERT TO e2e_keeper, e2e_sender
    WITH CHECK (topic LIKE 'kept%' AND extension = 'broadcast');
  CREATE POLICY persist_keep ON rtsync.messages FOR INSERT TO e2e_keeper
    WITH CHECK (topic LIKE 'kept%' AND extension = 'persistence')`);

// A real client in a private channel.
async function member(topic, { role = 'e2e_keeper', broadcast = {} } = {}) {
  const client = connect(latest, token(role));
  atEnd(() => client.disconnect());
  await client.setAuth(token(role));
  const channel = client.channel(topic, { config: { private: true, broadcast: { ack: true, ...broadcast } } });
  const got = [];
  channel.on('broadcast', { event: '*' }, (message) => got.push(message));
  await new Promise((resolve, reject) =>
    channel.subscribe((status, error) => (status === 'SUBSCRIBED' ? resolve() : reject(error ?? new Error(status)))));
  return { client, channel, got };
}

const stored = (topic) =>
  sql(`SELECT id, event, payload, binary_payload, private, extension, expires_at - inserted_at AS ttl
       FROM rtsync.messages WHERE topic = $1 ORDER BY inserted_at`, [topic]);
const send = (one, event, payload, persist) => one.channel.send({ type: 'broadcast', event, payload, ...(persist && { persist }) });

test('what is to be kept is stored, sent, and replayed', async () => {
  const [sender, receiver] = [await member('kept one'), await member('kept one')];
  assert.equal(await send(sender, 'first', { n: 1 }, true), 'ok');
  assert.equal(await send(sender, 'unkept', { n: 2 }), 'ok');
  assert.equal(await send(sender, 'third', { n: 3 }, { ttl: 90 }), 'ok');
  await until('all three', () => receiver.got.length === 3);
  assert.deepEqual(receiver.got.map(({ event }) => event), ['first', 'unkept', 'third']);
  const rows = await stored('kept one');
  assert.deepEqual(rows.map(({ event, payload }) => [event, payload]), [['first', { n: 1 }], ['third', { n: 3 }]]);
  assert.deepEqual(rows.map(({ id }) => id), [receiver.got[0].meta.id, receiver.got[2].meta.id]);
  assert.ok(rows.every((row) => row.private && row.extension === 'broadcast'));
  assert.deepEqual([rows[0].ttl, rows[1].ttl.seconds + 60 * rows[1].ttl.minutes], [null, 90]);

  const late = await member('kept one', { broadcast: { replay: { since: Date.now() - 60_000, limit: 25 } } });
  await until('the past', () => late.got.length === 2);
  assert.deepEqual(late.got.map(({ event, payload, meta }) => [event, payload, meta]),
    rows.map(({ id, event, payload }) => [event, payload, { replayed: true, id }]));
});

test('bytes are kept, too', async () => {
  const [sender, receiver] = [await member('kept bytes'), await member('kept bytes')];
  assert.equal(await send(sender, 'bytes', new Uint8Array([0, 1, 254, 255]).buffer, true), 'ok');
  await until('them', () => receiver.got.length === 1);
  assert.deepEqual([...new Uint8Array(receiver.got[0].payload)], [0, 1, 254, 255]);
  const [row] = await stored('kept bytes');
  assert.deepEqual([...row.binary_payload], [0, 1, 254, 255]);
});

test('who may send but not keep is told so, and nothing is sent', async () => {
  const [sender, receiver] = [await member('kept two', { role: 'e2e_sender' }), await member('kept two')];
  assert.equal(await send(sender, 'no', {}, true), 'unauthorized');
  assert.equal(await send(sender, 'yes', {}), 'ok');
  await until('what may be sent', () => receiver.got.length === 1);
  assert.deepEqual(receiver.got.map(({ event }) => event), ['yes']);
  assert.deepEqual(await stored('kept two'), []);
});

test('the right comes and goes with the policies', async () => {
  const sender = await member('kept three', { role: 'e2e_sender' });
  await sql('ALTER POLICY persist_keep ON rtsync.messages TO e2e_keeper, e2e_sender');
  await until('the right', async () => (await send(sender, 'kept', {}, true)) === 'ok', { every: 50 });
  await sql('ALTER POLICY persist_keep ON rtsync.messages TO e2e_keeper');
  await until('its end', async () => (await send(sender, 'kept', {}, true)) === 'unauthorized', { every: 50 });
});

// What the real client does not send: a frame of kind 3 with this metadata
function push(client, joinRef, topic, metadata, payload = '{}') {
  const ref = String(++client.lastRef);
  const parts = [joinRef, ref, `realtime:${topic}`, 'ev', metadata].map((part) => Buffer.from(part));
  client.socket.send(Buffer.concat([Buffer.from([3, ...parts.map((p) => p.length), 1]), ...parts, Buffer.from(payload)]));
  return client.reply(ref);
}

test('times to live that make no sense, and public channels', async () => {
  const client = await RawClient.open({ apikey: token('e2e_keeper') });
  const config = { private: true, broadcast: { ack: true } };
  const joinRef = String(client.lastRef + 1);
  await client.joinOk('kept four', [], { config });
  for (const persist of ['5', '"true"', '{}', '{"ttl":0}', '{"ttl":-1}', '{"ttl":1.5}', '{"ttl":"60"}', '{"ttl":null}', '{"ttl":10000000000}', '[]', '{"ttl":[1]}']) {
    const { status, response } = await push(client, joinRef, 'kept four', `{"persist":${persist}}`);
    assert.deepEqual([status, response], ['error', { error: 'invalid_persist_ttl' }], persist);
  }
  for (const metadata of ['', '{}', '{"persist":false}', '{"persist":null}', '{"other":true}'])
    assert.deepEqual(await push(client, joinRef, 'kept four', metadata), { status: 'ok', response: {} }, metadata);
  assert.deepEqual(await stored('kept four'), []);
  const { status, response } = await push(client, joinRef, 'kept four', '{"persist":{"ttl":60}}');
  assert.equal(status, 'ok');
  assert.deepEqual((await stored('kept four')).map(({ id }) => id), [response.id]);

  const publicRef = String(client.lastRef + 1);
  await client.joinOk('kept public', [], { config: { broadcast: { ack: true } } });
  assert.deepEqual(await push(client, publicRef, 'kept public', '{"persist":true}'), { status: 'error', response: { error: 'unauthorized' } });
  client.close();
});

test('what the database cannot store does not end the channel, nor does a lock hold up the engine', async () => {
  const [sender, receiver] = [await member('kept five'), await member('kept five')];
  const client = await RawClient.open({ apikey: token('e2e_keeper') });
  const joinRef = String(client.lastRef + 1);
  await client.joinOk('kept five', [], { config: { private: true, broadcast: { ack: true } } });
  const { status, response } = await push(client, joinRef, 'kept five', '{"persist":true}', '{"a":"\\u0000"}');
  assert.deepEqual([status, response], ['error', { error: 'unable_to_connect_to_project' }]);
  client.close();

  const locker = new pg.Client();
  await locker.connect();
  await locker.query('BEGIN; LOCK TABLE rtsync.messages IN SHARE ROW EXCLUSIVE MODE');
  const start = performance.now();
  assert.equal(await send(sender, 'locked out', {}, true), 'unable_to_connect_to_project');
  assert.ok(performance.now() - start < 10_000);
  await locker.query('ROLLBACK');
  await locker.end();
  assert.equal(await send(sender, 'kept', {}, true), 'ok');
  await until('the last', () => receiver.got.at(-1)?.event === 'kept');
});

test('a message that is kept keeps its place among those of its sender', async () => {
  const [sender, receiver] = [await member('kept order', { broadcast: { ack: false } }), await member('kept order')];
  for (let i = 0; i < 200; i++) send(sender, 'n', { i }, i % 3 === 0);
  await until('all', () => receiver.got.length === 200);
  assert.deepEqual(receiver.got.map(({ payload }) => payload.i), Array.from({ length: 200 }, (_, i) => i));
  await until('the rows', async () => (await stored('kept order')).length === 67);
  assert.deepEqual((await stored('kept order')).map(({ payload }) => payload.i), Array.from({ length: 67 }, (_, i) => 3 * i));
});

test('by HTTP: stored, sent once, and replayed', async () => {
  const [sender, receiver] = [await member('kept http/é'), await member('kept http/é')];
  const replays = () => member('kept http/é', { broadcast: { replay: { since: Date.now() - 60_000, limit: 25 } } });
  assert.deepEqual(await sender.channel.httpSend('first', { n: 1 }, { persist: true }), { success: true });
  const middle = await replays();
  assert.deepEqual(await sender.channel.httpSend('unkept', { n: 2 }), { success: true });
  assert.deepEqual(await sender.channel.httpSend('third', { n: 3 }, { persist: { ttl: 90 } }), { success: true });
  assert.deepEqual(await sender.channel.httpSend('bytes', new Uint8Array([0, 255]).buffer, { persist: true }), { success: true });
  for (const one of [sender, receiver]) {
    await until('all', () => one.got.length === 4);
    assert.deepEqual(one.got.map(({ event }) => event), ['first', 'unkept', 'third', 'bytes']);
  }
  const rows = await stored('kept http/é');
  assert.deepEqual(rows.map(({ event, payload }) => [event, payload]), [['first', { n: 1 }], ['third', { n: 3 }], ['bytes', null]]);
  assert.deepEqual([...rows[2].binary_payload], [0, 255]);
  assert.deepEqual(rows.map(({ ttl }) => ttl && ttl.seconds + 60 * ttl.minutes), [null, 90, null]);
  assert.deepEqual(rows.map(({ id }) => id), [0, 2, 3].map((i) => receiver.got[i].meta.id));
  await until('what came later', () => middle.got.length === 4);
  assert.deepEqual(middle.got.map(({ event, meta }) => [event, meta?.replayed]),
    [['first', true], ['unkept', undefined], ['third', undefined], ['bytes', undefined]]);
  const late = await replays();
  await until('the past', () => late.got.length === 3);
  assert.deepEqual(late.got.map(({ event, meta }) => [event, meta]), rows.map(({ id, event }) => [event, { replayed: true, id }]));
});

test('by HTTP: refused without the right, and when it cannot be stored; nothing is sent then', async () => {
  const [sender, receiver] = [await member('kept refused', { role: 'e2e_sender' }), await member('kept refused')];
  await assert.rejects(sender.channel.httpSend('e', {}, { persist: true }), /Unauthorized/);
  await assert.rejects(receiver.channel.httpSend('e', {}, { persist: { ttl: 0.5 } }), /invalid_persist_ttl/);
  await assert.rejects(receiver.channel.httpSend('e', { a: '\0' }, { persist: true }), /unable_to_connect_to_project/);
  const locker = new pg.Client();
  await locker.connect();
  await locker.query('BEGIN; LOCK TABLE rtsync.messages IN SHARE ROW EXCLUSIVE MODE');
  await assert.rejects(receiver.channel.httpSend('e', {}, { persist: true }), /unable_to_connect_to_project/);
  await locker.query('ROLLBACK');
  await locker.end();
  assert.deepEqual(await sender.channel.httpSend('sent', {}), { success: true });
  await until('it', () => receiver.got.length > 0);
  assert.deepEqual(receiver.got.map(({ event }) => event), ['sent']);
  assert.deepEqual(await stored('kept refused'), []);
});

// Who joins while messages are being stored has each of them once: as one of the past, or live.
for (const how of ['by HTTP', 'from a client'])
  test(`nothing is lost or doubled for those who join meanwhile, ${how}`, async () => {
    const topic = `kept meanwhile ${how}`;
    const N = 25;
    const sender = await member(topic, { broadcast: { ack: true } });
    const clients = [];
    const joins = [];
    const join = async () => {
      const client = await RawClient.open({ apikey: token('e2e_keeper') });
      clients.push(client);
      await client.joinOk(topic, [], { config: { private: true, broadcast: { replay: { since: Date.now() - 60_000, limit: 25 } } } });
    };
    for (let n = 0; n < N; n++) {
      for (let i = 0; i < 3; i++) joins.push(join());
      if (how === 'by HTTP') await sender.channel.httpSend('e', { n }, { persist: true });
      else assert.equal(await send(sender, 'e', { n }, true), 'ok');
    }
    await Promise.all(joins);
    assert.equal((await stored(topic)).length, N);
    const heard = ({ frames }) => frames.filter((f) => f.binary).map((f) => Number(/"n":\s*(\d+)/.exec(f.binary)[1]));
    for (const client of clients) {
      await until('the last message', () => heard(client).includes(N - 1));
      assert.deepEqual(heard(client).sort((a, b) => a - b), Array.from({ length: N }, (_, n) => n));
      client.close();
    }
  });
