// Somebody sets the clock, forth and back: events come as ever, nobody loses
// connection or place, and what ends comes back.  Only what is dated goes by
// the time of day: tokens expire when it says so.

import { randomUUID } from 'node:crypto';
import { assert, atEnd, note, sleep, test, until } from '../e2e/lib/tap.mjs';
import { refusedHandshake } from '../e2e/lib/raw.mjs';
import { createRole, createTable, pg, sql, status, token } from '../e2e/lib/server.mjs';
import { gatewayPids, running, served } from './lib/cluster.mjs';
import { prepareFaults, setClock } from './lib/faults.mjs';

const HOUR = 3600;
const STEPS = [6 * HOUR, -6 * HOUR, 0];
const LATER = Math.floor(Date.now() / 1000) + 1000 * HOUR;

await createRole('reader');
await createTable('notes', 'id int PRIMARY KEY, n int', { roles: ['reader'] });
const binding = (rtsync) => ({ event: '*', schema: 'public', table: 'notes', ...(rtsync && { rtsync }) });
await prepareFaults();

async function step(seconds) {
  await setClock(seconds);
  const [{ off }] = await sql(`SELECT extract(epoch FROM clock_timestamp()) - ${Date.now() / 1000} AS off`);
  assert.ok(Math.abs(Number(off) - seconds) < 30, `the server's clock is ${off} s off`);
}

async function join(topic, { bindings = [binding()], key = token('reader', { sub: topic, exp: LATER }), ...options } = {}) {
  const client = await served({ apikey: key });
  atEnd(() => client.close());
  const { response } = await client.joinOk(topic, bindings, { config: { rtsync: options } });
  client.rtsync = response.rtsync;
  client.refetches = () => client.frames.filter((f) => f.event === 'system' && f.payload.status !== 'ok');
  return client;
}

// Waits until the engine has done once more what it does once a second.
async function looked() {
  const last = async () => (await sql('SELECT updated::text FROM rtsync.pg_stat_rtsync'))[0].updated;
  const before = await last();
  await until('the engine to look', async () => (await last()) !== before);
}

let written = 0;
const write = () => sql('INSERT INTO notes VALUES ($1, 0)', [++written]);
const has = (client, id) => client.changes().some(({ record }) => record?.id === id);
const arrives = async (what, ...clients) => {
  await write();
  for (const client of clients)
    await until(`a row to reach ${what}`, () => client.closed || has(client, written));
  for (const client of clients) assert.equal(client.closed, null);
};

test('live and throttled clients get events as ever, and nobody is closed', async () => {
  const live = await join('live');
  const throttled = await join('throttled', { bindings: [binding({ interval: 50 })] });
  await arrives('both', live, throttled);
  for (const seconds of STEPS) {
    await arrives('both', live, throttled);
    await step(seconds);
    for (let i = 0; i < 5; i++) await arrives(`both after a step to ${seconds} s`, live, throttled);
    await Promise.all([live.heartbeat(), throttled.heartbeat()]);
    const [row] = await sql('SELECT lag < interval \'1 min\' AND lag >= interval \'0\' AS ok FROM rtsync.pg_stat_rtsync');
    assert.equal(row?.ok, true, 'the lag is none');
  }
  assert.deepEqual([...live.refetches(), ...throttled.refetches()], []);
});

test('what is done once a second is done', async () => {
  for (const seconds of STEPS) {
    await step(seconds);
    await until('the statistics of now', async () => {
      const [{ age }] = await sql('SELECT abs(extract(epoch FROM clock_timestamp() - updated)) AS age FROM rtsync.pg_stat_rtsync');
      return Number(age) < 10;
    });
  }
});

test('a session is as old as it is', async () => {
  for (const seconds of STEPS) {
    const session = randomUUID();
    const first = await join('session', { session });
    await arrives('the first', first);
    for (let i = 0; i < 3; i++) await first.heartbeat();
    first.close();
    await until('the first to be gone', async () =>
      (await sql("SELECT FROM rtsync.pg_stat_rtsync_subscription WHERE topic = 'session'")).length === 0);
    await write();
    await step(seconds);
    await looked();
    const second = await join('session', { session });
    assert.equal(second.rtsync.resumed, true, second.rtsync.refetch);
    await until('what was missed', () => has(second, written));
    second.close();
  }
});

test('a gateway that is busy for a moment is not taken for one that hangs', async () => {
  await step(0);
  const client = await join('busy');
  const [pid] = await gatewayPids();
  const writer = new pg.Client();
  await writer.connect();
  await writer.query('BEGIN; INSERT INTO notes SELECT g, 1 FROM generate_series(100001, 120000) g');
  process.kill(pid, 'SIGSTOP');
  try {
    await writer.query('COMMIT');
    await sleep(500);
    await step(6 * HOUR);
    await sleep(500);
  } finally {
    process.kill(pid, 'SIGCONT');
    await writer.end();
  }
  await until('all rows', () => client.closed || has(client, 120_000), { timeout: 60_000 });
  assert.equal(client.closed, null);
  assert.deepEqual(await gatewayPids(), [pid]);
  await step(0);
});

test('a gateway and an engine that ended before the clock was set back return', async () => {
  await step(6 * HOUR);
  process.kill((await gatewayPids())[0], 'SIGKILL');
  await until('another gateway', async () => join('again').then(() => true, () => false), { every: 50 });
  process.kill((await gatewayPids())[0], 'SIGKILL'); // now it waits a little
  await step(0);
  await arrives('a client of the next gateway', await until('another gateway', () => join('again').catch(() => null), { every: 50 }));

  const { pid } = await status();
  await sql('SELECT pg_terminate_backend($1)', [pid]);
  await until('the engine to end', async () => (await status()).pid !== pid, { every: 5 });
  await step(-6 * HOUR);
  await running();
  await arrives('a client of the next engine', await until('a gateway', () => join('again').catch(() => null), { every: 50 }));
  await step(0);
});

test('a token expires by the time of day', async () => {
  const exp = Math.floor(Date.now() / 1000) + HOUR;
  const key = token('reader', { exp });
  const client = await join('expires', { key });
  const without = await join('stays');
  await step(-HOUR);
  await arrives('both', client, without);
  await step(2 * HOUR);
  await until('the end', () => client.frames.some((f) => f.event === 'phx_close'));
  const { payload } = client.frames.find((f) => f.event === 'system' && f.payload.status === 'error');
  note(payload.message);
  assert.match(payload.message, /^Token has expired 36\d\d seconds ago$/);
  assert.equal((await refusedHandshake({ apikey: key })).status, 401);
  await arrives('the other', without);
  await step(0);
  await arrives('who comes with the same token again', await join('expires', { key }), without);
});
