// cluster: -c rtsync.history_size=256MB -c rtsync.send_timeout=10min -c rtsync.idle_timeout=10min
//
// A client that does not read costs no more than its send queue: it keeps its
// place in the history and catches up when it reads again, or is told to refetch
// if the place is gone, or is closed if it takes nothing for long.  Others notice
// nothing.

import { assert, atEnd, note, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, sql, token } from '../e2e/lib/server.mjs';
import { memoryOf } from '../../bench/lib/measure.mjs';
import { gatewayPids, log } from './lib/cluster.mjs';

const MB = 1024 * 1024;
const ROWS = 1000; // of a transaction
const FILLER = 1500; // bytes of each
const MANY = 24; // transactions: more than sockets hold
const QUEUE = 4 * MB; // rtsync.send_queue_size

await createRole('reader');
await createTable('stream', 'id int PRIMARY KEY, filler text', { roles: ['reader'] });
const apikey = token('reader');

async function join() {
  const client = await RawClient.open({ apikey });
  atEnd(() => client.close());
  await client.joinOk('stream', [{ event: 'INSERT', schema: 'public', table: 'stream' }]);
  client.count = 0;
  client.onFrame = ({ event }) => (client.count += event === 'postgres_changes');
  client.ids = () => client.changes().map(({ record }) => record.id);
  client.refetches = () => client.frames.filter((f) => f.event === 'system' && f.payload.status === 'refetch');
  return client;
}

let written = 0;
async function write(rows = ROWS) {
  await sql(`INSERT INTO stream SELECT g, repeat('x', ${FILLER}) FROM generate_series($1::int, $2::int) g`, [written + 1, written + rows]);
  written += rows;
}

const from = (first) => Array.from({ length: written - first + 1 }, (_, n) => first + n);
const engine = async () => (await sql('SELECT * FROM rtsync.pg_stat_rtsync WHERE datname = current_database()'))[0];
const set = async (name, value) => {
  await sql(`ALTER SYSTEM SET ${name} = '${value}'`);
  await sql('SELECT pg_reload_conf()');
};

// A client stops reading, and more is written than sockets and its queue hold, but
// no faster than another one reads, which gets all of it.  Returns the slow one.
async function fallBehind() {
  const bystander = await join();
  const slow = await join();
  const first = written + 1;
  slow.socket.pause();
  for (let n = 0; n < MANY; n++) {
    await write();
    await until('the bystander to have it', () => bystander.count === written - first + 1, { timeout: 60_000 });
  }
  assert.deepEqual(bystander.ids(), from(first));
  assert.deepEqual(bystander.refetches(), []);
  bystander.close();
  return { slow, first };
}

test('it is paused, keeps its place, and gets everything once when it reads again', async () => {
  const [pid] = await gatewayPids();
  const before = await memoryOf(pid, 'RssAnon');
  const { slow, first } = await fallBehind();
  const connection = await until('it to be paused', async () =>
    (await sql("SELECT queue_bytes::int FROM rtsync.pg_stat_rtsync_connection WHERE state = 'paused'"))[0]);
  const growth = (await memoryOf(pid, 'RssAnon')) - before;
  note(`${connection.queue_bytes} bytes wait for it; the gateway's memory grew by ${Math.round(growth / 1024)} kB; ` +
    `${MANY * ROWS * FILLER / MB | 0} MB were written`);
  assert.ok(connection.queue_bytes <= QUEUE);
  assert.ok(growth < 4 * QUEUE, `${growth} bytes`);
  const [{ state, lag }] = await until('the bystander to be gone', async () => {
    const rows = await sql("SELECT state, lag_bytes::int AS lag FROM rtsync.pg_stat_rtsync_subscription WHERE topic = 'stream'");
    return rows.length === 1 && rows;
  });
  assert.deepEqual([state, lag > MB], ['paused', true]);
  slow.socket.resume();
  await until('the last row', () => slow.ids().at(-1) === written, { timeout: 120_000, every: 20 });
  assert.deepEqual(slow.ids(), from(first));
  assert.deepEqual(slow.refetches(), []);
  await until('it to be live', async () =>
    (await sql("SELECT state FROM rtsync.pg_stat_rtsync_subscription WHERE topic = 'stream'"))[0].state === 'live', { every: 50 });
  await write(1);
  await until('a new row', () => slow.ids().at(-1) === written);
  slow.close();
}, { timeout: 300_000 });

test('it is told to refetch if the history has forgotten its place', async () => {
  await set('rtsync.history_size', '1MB');
  const overrun = async () => Number((await sql("SELECT refetches FROM rtsync.pg_stat_rtsync_refetch WHERE reason = 'overrun'"))[0].refetches);
  const before = await overrun();
  const { slow, first } = await fallBehind();
  slow.socket.resume();
  await until('it to be told', () => slow.refetches().length > 0, { timeout: 120_000, every: 20 });
  await write(1);
  await until('a new row', () => slow.ids().at(-1) === written, { timeout: 60_000 });
  const ids = slow.ids();
  note(`it has ${ids.length} of ${written - first + 1} rows: ${slow.refetches()[0].payload.message}`);
  assert.ok(ids.every((id, n) => n === 0 || id > ids[n - 1]), 'in order, and none twice');
  assert.equal(slow.refetches().length, 1);
  // what came before it was told is without a gap, and so is what came behind
  const at = slow.frames.indexOf(slow.refetches()[0]);
  const gaps = (frames) => frames.filter((f) => f.event === 'postgres_changes').map((f) => f.payload.data.record.id)
    .filter((id, n, all) => n > 0 && id !== all[n - 1] + 1);
  assert.deepEqual([gaps(slow.frames.slice(0, at)), gaps(slow.frames.slice(at))], [[], []]);
  await until('it to be counted', async () => (await overrun()) === before + 1, { every: 50 });
  slow.close();
}, { timeout: 300_000 });

test('it is closed if it takes nothing for rtsync.send_timeout', async () => {
  const { closed_slow: before } = await engine();
  await set('rtsync.send_timeout', '5s');
  const { slow } = await fallBehind();
  await until('it to be closed', async () => Number((await engine()).closed_slow) > Number(before), { timeout: 60_000, every: 100 });
  assert.match(await log(), /closing the connection of 127\.0\.0\.1: the client does not read fast enough/);
  slow.socket.resume();
  const { code } = await slow.waitClosed({ timeout: 60_000 });
  note(`closed with ${code}`);
  assert.ok(code === 1013 || code === 1006, `${code}`); // the reason arrives if there is room for it
  const next = await join();
  await write(1);
  await until('a new row', () => next.ids().at(-1) === written);
  next.close();
}, { timeout: 300_000 });
