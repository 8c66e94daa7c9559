// 1,000 clients lose their connections, stay away for five seconds under load,
// and come back at once with their cursors: how long until all are live again,
// and what a client that stayed connected notices of it.
//
// The load is 1,000 rows a second, each for one of them.  A client is live when
// it has everything it missed, and a row for all that was written after it came
// back.  The clock of the one that stayed starts when COMMIT is sent.

import { fork } from 'node:child_process';
import { RawClient } from '../test/e2e/lib/raw.mjs';
import { createRole, createTable, figure, pg, quantile, sleep, sql, token, until } from './lib/measure.mjs';

const CLIENTS = Number(process.env.CLIENTS ?? 1000);
const RATE = 200; // transactions a second, of
const ROWS = 5;
const OUTAGE_MS = 5000;
const ROUNDS = Number(process.env.ROUNDS ?? 5);
const BEAT_MS = 100;

await createRole('member');
await createRole('watcher');
await createTable('items', 'id int PRIMARY KEY, owner int, body text', { roles: ['member'] });
await createTable('beats', 'id int PRIMARY KEY', { roles: ['member'] });
await createTable('watched', 'id int PRIMARY KEY', { roles: ['watcher'] });
await sql(`ALTER TABLE items ENABLE ROW LEVEL SECURITY;
  CREATE POLICY own ON items FOR SELECT USING (owner = (rtsync.jwt() ->> 'sub')::int)`);

// The one that stays
const sent = new Map();
let latencies = [];
const bystander = await RawClient.open({ apikey: token('watcher') });
await bystander.joinOk('watched', [{ event: 'INSERT', schema: 'public', table: 'watched' }]);
bystander.onFrame = ({ event, payload }) => {
  bystander.frames.pop();
  if (event === 'postgres_changes') latencies.push(performance.now() - sent.get(payload.data.record.id));
};
const beating = setInterval(() => bystander.send('phoenix', 'heartbeat'), 20_000);

// The load
let written = 0;
let stop = false;
async function write() {
  const writer = new pg.Client();
  await writer.connect();
  const start = performance.now();
  for (let n = 0; !stop; n++) {
    const wait = start + (n * 1000) / RATE - performance.now();
    if (wait > 1) await sleep(wait);
    const rows = Array.from({ length: ROWS }, () => `(${++written}, ${written % CLIENTS}, repeat('x', 100))`);
    await writer.query(`BEGIN; INSERT INTO items VALUES ${rows.join()}; INSERT INTO watched VALUES (${n})`);
    sent.set(n, performance.now());
    await writer.query('COMMIT');
    sent.delete(n - 10_000);
  }
  await writer.end();
}

// The others are a process of their own.
const crowd = fork(new URL('lib/returning.mjs', import.meta.url));
crowd.send({ what: 'come', tokens: Array.from({ length: CLIENTS }, (_, i) => token('member', { sub: String(i) })) });
const said = [];
crowd.on('message', (message) => said.push(message));
crowd.on('exit', (code) => code && process.exit(code));
const hear = async (what) => {
  await until(`the crowd to be ${what}`, () => said.some((m) => m.what === what), { timeout: 120_000, every: 1 });
  return said.splice(said.findIndex((m) => m.what === what), 1)[0];
};

await hear('live');
const writing = write();
let beats = 0;
const times = [];
const meanwhile = [];
const before = [];
const missed = [];
for (let round = 0; round < ROUNDS; round++) {
  await sleep(2000);
  latencies = [];
  await sleep(3000);
  before.push(...latencies);
  crowd.send({ what: 'leave' });
  await hear('away');
  await sleep(OUTAGE_MS);
  latencies = [];
  crowd.send({ what: 'return', beat: beats });
  const beat = setInterval(() => sql('INSERT INTO beats VALUES ($1)', [++beats]), BEAT_MS);
  const { ms, events } = await hear('live');
  clearInterval(beat);
  meanwhile.push(...latencies);
  times.push(ms / 1000);
  missed.push(events);
  console.log(`round ${round + 1}: ${CLIENTS} clients live after ${(ms / 1000).toFixed(2)} s with ${events} events; ` +
    `the other one: p50 ${quantile(latencies, 0.5).toFixed(1)} ms, p99 ${quantile(latencies, 0.99).toFixed(1)} ms, ` +
    `most ${Math.max(...latencies).toFixed(1)} ms (${latencies.length} commits)`);
}
stop = true;
await writing;
clearInterval(beating);
crowd.send({ what: 'stop' });
bystander.close();
console.log(`the other one, while nobody comes back: p50 ${quantile(before, 0.5).toFixed(1)} ms, p99 ${quantile(before, 0.99).toFixed(1)} ms`);
figure('resume.all_live_s', quantile(times, 0.5));
figure('resume.bystander_p99_ms', quantile(meanwhile, 0.99), 1);
process.exit(0);
