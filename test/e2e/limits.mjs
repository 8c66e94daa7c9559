// What clients may cost everybody: the number of their bindings, the memory of
// what they subscribe to, and the time that their own conditions take.

import { assert, atEnd, note, sleep, test, until } from './lib/tap.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, sql, token } from './lib/server.mjs';

await createRole('limits_reader');
await sql('DROP SCHEMA IF EXISTS limits CASCADE; CREATE SCHEMA limits; GRANT USAGE ON SCHEMA limits TO PUBLIC');
await createTable('busy', 'id int PRIMARY KEY, body text', { roles: ['limits_reader'] });
await createTable('calm', 'id int PRIMARY KEY', { roles: ['limits_reader'] });
await sql(`CREATE FUNCTION limits.slow(int) RETURNS bool LANGUAGE plpgsql STABLE AS
  'BEGIN PERFORM pg_sleep(0.05); RETURN true; END'`);

const set = (name, value) => sql(`ALTER SYSTEM ${value ? `SET ${name} = '${value}'` : `RESET ${name}`}`)
  .then(() => sql('SELECT pg_reload_conf()'));
const on = (table, more) => ({ event: '*', schema: 'public', table, ...more });
async function connect(sub) {
  const client = await RawClient.open({ apikey: token('limits_reader', { sub }) });
  atEnd(() => client.close());
  return client;
}
const ids = (client, topic) => client.changes(topic).map(({ record }) => record.id);
const system = (client) => client.frames.filter((f) => f.event === 'system').map((f) => f.payload);
const copies = (n, entry) => Array.from({ length: n }, () => entry);

test('a channel has no more bindings than rtsync.max_bindings_per_channel', async () => {
  const client = await connect('ann');
  await client.joinOk('most', copies(100, on('calm')));
  const reply = await client.join('more', copies(101, on('calm')));
  assert.equal(reply.status, 'error');
  assert.equal(reply.response.reason,
    'RealtimeDisabledForConfiguration: A channel can have at most 100 postgres_changes');
  await set('rtsync.max_bindings_per_channel', '2');
  await until('the new limit', async () => (await client.join('x', copies(3, on('calm')))).status === 'error');
  await client.joinOk('few', copies(2, on('calm')));
  await set('rtsync.max_bindings_per_channel');
  client.close();
});

test('joins are refused while channels hold more than rtsync.max_subscription_memory', async () => {
  const client = await connect('ann');
  const filter = Array.from({ length: 90 }, (_, i) => `id=neq.${i}`).join(',');
  const join = (topic) => client.join(topic, copies(5, null).map((_, i) => on('calm', { filter: `${filter},id=gt.${topic * 5 + i}` })));
  await set('rtsync.max_subscription_memory', '2MB');
  let joined = 0;
  let reply;
  do reply = await join(joined);
  while (reply.status === 'ok' && ++joined < 90);
  note(`${joined} channels joined`);
  assert.equal(reply.status, 'error');
  assert.equal(reply.response.reason, 'ChannelRateLimitReached: Too many channels');
  assert.ok(joined > 0);
  for (let i = 0; i < joined; i++) await client.call(`realtime:${i}`, 'phx_leave');
  assert.equal((await join(0)).status, 'ok', 'what is left is free again');
  await set('rtsync.max_subscription_memory');
  client.close();
});

test('slow conditions of one client take a bounded part of the time of all', async () => {
  const mallory = await connect('mallory');
  const bob = await connect('bob');
  const ann = await connect('ann');
  for (let i = 0; i < 4; i++)
    await mallory.joinOk(`slow${i}`, copies(10, null).map((_, k) => on('busy', { rtsync: { where: `limits.slow(id) AND id <> ${-1 - i * 10 - k}` } })));
  await bob.joinOk('busy', [on('busy', { filter: 'body=like.x%' })]);
  await ann.joinOk('calm', [on('calm')]);
  // each row of busy would take 2 s
  const waited = [];
  for (let id = 1; id <= 30; id++) {
    const start = performance.now();
    await sql(`INSERT INTO busy VALUES (${id}, 'x'); INSERT INTO calm VALUES (${id})`);
    await until('the others', () => ids(ann).includes(id) && ids(bob).includes(id)).catch((e) => { console.log(ids(ann), ids(bob), JSON.stringify(system(bob)), JSON.stringify(system(ann)), JSON.stringify(system(mallory).slice(-2)), mallory.closed); throw e; });
    waited.push(performance.now() - start);
  }
  note(`the others waited ${Math.round(Math.max(...waited))} ms at most, ${Math.round(waited.reduce((a, b) => a + b))} ms in all`);
  assert.ok(waited.reduce((a, b) => a + b) < 6000);
  assert.deepEqual(system(bob).filter((m) => m.status === 'error'), []);

  const refused = await mallory.join('another', [on('busy', { rtsync: { where: 'limits.slow(id) AND id < 0' } })]);
  assert.equal(refused.status, 'ok', 'the channel is joined all the same');
  await until('the reason', () => system(mallory).some((m) => /this client took too much time and are suspended/.test(m.message)));
  await until('every channel to be told', () => [0, 1, 2, 3].every((i) =>
    system(mallory).some((m) => m.channel === `slow${i}` && m.status === 'error' && /Changes are withheld for now/.test(m.message))));
  await until('every channel to be told to refetch when it is over', () => [0, 1, 2, 3].every((i) =>
    system(mallory).some((m) => m.channel === `slow${i}` && m.status === 'refetch' && /too much time/.test(m.message))),
  { timeout: 30_000 });
  for (const i of [1, 2, 3]) await mallory.call(`realtime:slow${i}`, 'phx_leave');
  await sleep(1000);
  await sql("INSERT INTO busy VALUES (1000, 'x')");
  await until('a change, by those who are asked first', () => ids(mallory, 'slow0').includes(1000));
  for (const client of [mallory, bob, ann]) client.close();
}, { timeout: 90_000 });

test('a condition that always fails costs the others little, and every error is told in the end', async () => {
  const clients = await Promise.all(Array.from({ length: 20 }, (_, i) => connect(`user${i}`)));
  for (const [i, client] of clients.entries())
    await client.joinOk('t', [on('busy', { rtsync: { where: `id % 20 = ${i}` } })]);
  const load = async (from) => {
    const start = performance.now();
    for (let n = 0; n < 20; n++) await sql(`INSERT INTO busy SELECT g, 'y' FROM generate_series(${from + n * 100}, ${from + n * 100 + 99}) g`);
    await until('all of it', () => clients.every((c, i) => ids(c).includes(from + 1980 + i)));
    return performance.now() - start;
  };
  await load(100_000);
  const without = await load(200_000);
  const failing = await connect('failing');
  await failing.joinOk('t', [on('busy', { rtsync: { where: '1 / (id * 0) = 1' } })]);
  const errors = () => system(failing).filter((m) => m.status === 'error').length;
  await load(300_000);
  const withIt = await load(400_000);
  note(`2000 rows for 20 clients: ${Math.round(without)} ms, with a condition that fails ${Math.round(withIt)} ms`);
  await until('the error', () => errors() > 0);
  await sleep(1200);
  const before = errors();
  await sql("INSERT INTO busy VALUES (2000, 'y')");
  await until('an error', () => errors() === before + 1);
  await sql("INSERT INTO busy VALUES (2001, 'y')");
  await until('the next error, though it was within a second', () => errors() === before + 2);
  for (const client of [...clients, failing]) client.close();
}, { timeout: 90_000 });
