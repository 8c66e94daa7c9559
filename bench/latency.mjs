// From COMMIT to the client, at 200 transactions a second: a row through
// rtsync, against a NOTIFY in the same kind of transaction.
//
// The clock starts when COMMIT is sent; writer and receivers are one process.

import { RawClient } from '../test/e2e/lib/raw.mjs';
import { createRole, createTable, figure, pg, quantile, sleep, sql, token, until } from './lib/measure.mjs';

const RATE = 200;
const ROUNDS = 5;
const SECONDS = 3; // of each side in a round

await createRole('reader');
await createTable('events', 'id int PRIMARY KEY, body text', { roles: ['reader'] });
await sql('CREATE TABLE notified (id int PRIMARY KEY, body text)');

const writer = new pg.Client();
const listener = new pg.Client();
await writer.connect();
await listener.connect();
await listener.query('LISTEN bench');
const client = await RawClient.open({ apikey: token('reader') });
await client.joinOk('events', [{ event: 'INSERT', schema: 'public', table: 'events' }]);

const sent = new Map();
const latencies = { rtsync: [], notify: [] };
function arrived(side, id) {
  latencies[side].push(performance.now() - sent.get(id));
  sent.delete(id);
}
client.socket.on('message', (data) => {
  const [, , , event, payload] = JSON.parse(data.toString());
  if (event === 'postgres_changes') arrived('rtsync', payload.data.record.id);
});
listener.on('notification', ({ payload }) => arrived('notify', Number(payload)));

const statements = {
  rtsync: (id) => `INSERT INTO events VALUES (${id}, repeat('x', 100))`,
  notify: (id) => `INSERT INTO notified VALUES (${id}, repeat('x', 100)); NOTIFY bench, '${id}'`,
};

let next = 0;
async function phase(side) {
  const start = performance.now();
  for (let n = 0; n < RATE * SECONDS; n++) {
    const wait = start + (n * 1000) / RATE - performance.now();
    if (wait > 1) await sleep(wait);
    const id = ++next;
    await writer.query(`BEGIN; ${statements[side](id)}`);
    sent.set(id, performance.now());
    await writer.query('COMMIT');
  }
  await until('everything to arrive', () => sent.size === 0);
}

for (const side of ['rtsync', 'notify']) await phase(side);
latencies.rtsync.length = latencies.notify.length = 0; // that was to warm up
for (let round = 0; round < ROUNDS; round++) for (const side of ['rtsync', 'notify']) await phase(side);

for (const [side, values] of Object.entries(latencies)) {
  const [p50, p90, p99] = [0.5, 0.9, 0.99].map((q) => quantile(values, q).toFixed(3));
  console.log(`${side.padEnd(7)} ${values.length} commits at ${RATE}/s: p50 ${p50} ms, p90 ${p90} ms, p99 ${p99} ms`);
}
figure('latency.p50_ms', quantile(latencies.rtsync, 0.5), 3);
figure('latency.p99_ms', quantile(latencies.rtsync, 0.99), 3);
figure('latency.p50_ratio_to_notify', quantile(latencies.rtsync, 0.5) / quantile(latencies.notify, 0.5));
process.exit(0);
