// One of several gateways has been taken over: what it says for others goes
// only where the tokens of its clients may, and costs the others nothing.

import { randomUUID } from 'node:crypto';
import { assert, atEnd, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, signToken, sql, status, token } from '../e2e/lib/server.mjs';
import { Body, JOIN, LEAVE, PERSIST, RELAY, RELAY_REST, REST_PERSIST, TRACK, UNTRACK } from '../gateway/engine.mjs';
import { running } from './lib/cluster.mjs';
import { HostileGateway } from './lib/hostile_gateway.mjs';

await createRole('mortal');
await createRole('boss');
await sql(`CREATE POLICY boss_reads ON rtsync.messages FOR SELECT TO boss USING (true);
  CREATE POLICY boss_writes ON rtsync.messages FOR INSERT TO boss WITH CHECK (true);
  CREATE POLICY mortal_reads ON rtsync.messages FOR SELECT TO mortal USING (topic IN ('mine', 'readable'));
  CREATE POLICY mortal_writes ON rtsync.messages FOR INSERT TO mortal WITH CHECK (topic = 'mine')`);
const mortal = token('mortal');

const hostile = await HostileGateway.prepare();
atEnd(() => hostile.close());
await sql('ALTER SYSTEM SET rtsync.gateways = 2');
await sql('SELECT pg_reload_conf()');
await until('the two gateways', async () => hostile.number !== null && (await status())?.gateways === 2, { timeout: 60_000 });
await running();

// The one hears what reaches the clients of the other gateway: a client for each topic, public and private.
const topics = ['room', 'mine', 'readable', 'other'];
const heard = new Map();
for (const closed of [false, true]) {
  for (const topic of topics) {
    // Connections that the kernel gives the hostile one get no answer.
    const client = await until('a connection to the honest gateway', async () => {
      const one = new RawClient({ apikey: token('boss'), vsn: '1.0.0' });
      const opened = await Promise.race([one.opened.catch(() => null), new Promise((resolve) => setTimeout(resolve, 1000, null))]);
      if (!opened) one.close();
      return opened;
    }, { timeout: 55_000 });
    atEnd(() => client.close());
    await client.joinOk(topic, [], { config: { private: closed, presence: { key: 'boss', enabled: true } } });
    heard.set(`${closed ? 'private' : 'public'} ${topic}`, client);
  }
}
const boss = heard.get('public room');

const content = (event, body = new Body()) => body.string(event).u8(1).string('{}').string(null).string(null);
const relay = (n, event, gateway) => hostile.send(RELAY, content(event, new Body().u64(hostile.id(n, gateway))));
const relayRest = (closed, topic, apikey, event) =>
  hostile.send(RELAY_REST, content(event, new Body().u8(closed ? 1 : 0).string(topic).string(apikey)));
const track = (n, key, { gateway, meta = '{}', to = 0xffffffff } = {}) =>
  hostile.send(TRACK, new Body().u32(to).u64(hostile.id(n, gateway)).string(JSON.stringify(key)).string(meta).u64(n).u64(0));

// Where has the event been heard?
const places = (event) =>
  [...heard].filter(([, c]) => c.frames.some((f) => f.event === 'broadcast' && f.payload.event === event)).map(([name]) => name);
let marks = 0;
// Everything said so far has reached whom it was for.
async function settled() {
  const mark = `mark${++marks}`;
  relayRest(false, 'room', mortal, mark);
  await until('the mark', () => places(mark).length === 1);
  for (const c of heard.values()) await c.heartbeat();
}

test('broadcasts go where the channel may send, and nowhere else', async () => {
  assert.equal(await hostile.join(JOIN, 1, 'room', false, mortal), 15);
  assert.ok(await hostile.join(JOIN, 2, 'mine', true, mortal) & 4);
  assert.equal(await hostile.join(JOIN, 3, 'readable', true, mortal) & 12, 0);
  assert.equal(await hostile.join(JOIN, 4, 'other', true, mortal), null);
  assert.equal(await hostile.join(JOIN, 5, 'other', true, 'nonsense'), null);
  assert.equal(await hostile.join(JOIN, 6, 'other', false, mortal), 15);
  for (const n of [1, 2, 3, 4, 5, 6, 7]) relay(n, `by${n}`);
  for (const n of [1, 2, 3]) relay(n, `as-other${n}`, 1 - hostile.number);
  relay(1, 'as-nobody', 9);
  await settled();
  assert.deepEqual([1, 2, 3, 4, 5, 6, 7].map((n) => places(`by${n}`)),
    [['public room'], ['private mine'], [], [], [], ['public other'], []]);
  for (const event of ['as-other1', 'as-other2', 'as-other3', 'as-nobody']) assert.deepEqual(places(event), []);
});

test('broadcasts by HTTP likewise, by their token', async () => {
  for (const topic of topics) {
    relayRest(true, topic, mortal, 'http');
    relayRest(true, topic, null, 'none');
    relayRest(true, topic, signToken({ role: 'boss' }, 'guessed'), 'forged');
    relayRest(false, topic, 'x', 'forged');
  }
  relayRest(true, '', mortal, 'empty');
  await settled();
  assert.deepEqual(places('http'), ['private mine']);
  for (const event of ['none', 'forged', 'empty']) assert.deepEqual(places(event), []);
});

test('what is stored takes the right of a channel or a token, and is one', async () => {
  const engine = (await status()).pid;
  const message = (body, event, { id = randomUUID(), payload = '{}', ttl = 0 } = {}) => body.string(id).string(event).u8(1).string(payload).u32(ttl);
  const keep = (n, event, { gateway, ...more } = {}) =>
    hostile.send(PERSIST, message(new Body().u64(hostile.id(n, gateway)).string('"1"'), event, more));
  const keepRest = (topic, apikey, event, more) =>
    hostile.send(REST_PERSIST, message(new Body().u64(hostile.id(99)).string(topic).string(apikey), event, more));
  for (const n of [1, 2, 3, 4, 5, 6, 7]) keep(n, `kept by ${n}`);
  for (const n of [1, 2, 3]) keep(n, 'as another', { gateway: 1 - hostile.number });
  for (const topic of topics) {
    keepRest(topic, mortal, `kept in ${topic}`);
    keepRest(topic, null, 'nobody');
    keepRest(topic, signToken({ role: 'boss' }, 'guessed'), 'forged');
  }
  for (const bad of [{ id: 'x' }, { id: '' }, { payload: '{' }, { payload: '' }, { payload: JSON.stringify('x'.repeat(5_000)), ttl: 0xffffffff }]) {
    keep(2, 'bad', bad);
    keepRest('mine', mortal, 'bad', bad);
  }
  keep(2, 'kept last');
  await until('the last', async () => (await sql(`SELECT FROM rtsync.messages WHERE event = 'kept last'`)).length === 1);
  const stored = await sql(`SELECT DISTINCT topic, event FROM rtsync.messages WHERE octet_length(payload::text) < 100 ORDER BY 2`);
  assert.deepEqual(stored, ['kept by 2', 'kept in mine', 'kept last'].map((event) => ({ topic: 'mine', event })));
  assert.equal((await status()).pid, engine);
  assert.equal(hostile.ended, false);
});

test('a right that is taken away ends at once', async () => {
  await sql(`ALTER POLICY mortal_writes ON rtsync.messages WITH CHECK (false)`);
  await until('the loss', async () => {
    relay(2, 'late');
    relayRest(true, 'mine', mortal, 'late');
    await settled();
    const before = heard.get('private mine').frames.length;
    relay(2, 'late');
    relayRest(true, 'mine', mortal, 'late');
    await settled();
    return heard.get('private mine').frames.filter((f, i) => i >= before && f.event === 'broadcast').length === 0;
  });
  await sql(`ALTER POLICY mortal_writes ON rtsync.messages WITH CHECK (topic = 'mine')`);
});

// What a client was told of who is there
function members(client) {
  const keys = new Set();
  for (const { event, payload } of client.frames) {
    if (event === 'presence_state') for (const key of Object.keys(payload)) keys.add(key);
    if (event !== 'presence_diff') continue;
    for (const key of Object.keys(payload.leaves)) keys.delete(key);
    for (const key of Object.keys(payload.joins)) keys.add(key);
  }
  return [...keys].sort();
}

test('presence likewise; who leaves is gone, whatever the gateway says', async () => {
  await boss.call('realtime:room', 'presence', { type: 'presence', event: 'track', payload: {} });
  for (const n of [1, 3, 4, 7]) track(n, `ghost${n}`);
  for (const n of [1, 2, 3]) track(n, 'stolen', { gateway: 1 - hostile.number });
  track(6, 'huge', { meta: JSON.stringify({ x: 'x'.repeat(20_000) }) });
  await until('the one that may', () => members(boss).join() === 'boss,ghost1');
  // of others it can say nothing
  for (let n = 0; n < 20; n++) {
    hostile.send(UNTRACK, new Body().u64(hostile.id(n, 1 - hostile.number)));
    hostile.send(LEAVE, new Body().u64(hostile.id(n, 1 - hostile.number)));
  }
  await settled();
  for (const [name, client] of heard)
    assert.deepEqual(members(client), name === 'public room' ? ['boss', 'ghost1'] : [], name);
  hostile.send(LEAVE, new Body().u64(hostile.id(1)));
  await until('the leave', () => members(boss).join() === 'boss');
  relay(1, 'left');
  track(1, 'left');
  await settled();
  assert.deepEqual(places('left'), []);
  assert.deepEqual(members(boss), ['boss']);
});

test('a malformed message ends the gateway, and with it its members', async () => {
  const starts = async () => Number((await sql('SELECT gateway_starts FROM rtsync.pg_stat_rtsync WHERE datname = current_database()'))[0].gateway_starts);
  const engine = (await status()).pid;
  const before = await starts();
  assert.equal(await hostile.join(JOIN, 8, 'room', false, mortal), 15);
  track(8, 'last');
  await until('the last', () => members(boss).includes('last'));
  hostile.send(RELAY, content('cut off', new Body().u64(hostile.id(8))).bytes().subarray(0, -2));
  await until('its end', () => hostile.ended);
  await until('the leave', () => members(boss).join() === 'boss');
  assert.deepEqual(places('cut off'), []);
  await until('another in its place', async () => (await starts()) > before && (await status()).gateways === 2);
  assert.equal((await status()).pid, engine);
  for (const client of heard.values()) assert.equal(client.closed, null);
});
