// Very many events: neither the engine nor the gateway keeps memory or
// descriptors of any.
//
// EVENTS (a million) says how many; ten million is the long form.

import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import net from 'node:net';
import { assert, atEnd, note, test, until } from '../e2e/lib/tap.mjs';
import { createRole, createTable, hostname, port, sql, status, token } from '../e2e/lib/server.mjs';
import { memoryOf } from '../../bench/lib/measure.mjs';
import { converse, handshake, textFrame } from '../../bench/lib/frames.mjs';
import { gatewayPids } from './lib/cluster.mjs';

const COUNT = Number(process.env.EVENTS ?? 1_000_000);
const STEPS = 10;
const WARM = 3; // steps until what is allocated once is there
const ALLOWED = 3 * 1024 * 1024; // bytes of growth after that
const SPARE = { engine: 20, gateway: 0 }; // descriptors
const BATCH = 500; // changes in a transaction

// Who listens, and how; all of them see every change.
const VIEWERS = [
  {}, {}, {}, { filter: 'n=gte.0' }, { cursor: true }, { cursor: true }, { session: randomUUID() }, { session: randomUUID() },
  { role: 'owner' }, { role: 'owner' },
];

await sql("ALTER SYSTEM SET rtsync.history_size = '4MB'");
await sql('SELECT pg_reload_conf()');
for (const role of ['reader', 'owner']) await createRole(role);
await createTable('busy', 'id int PRIMARY KEY, n int, owner text, pad text', { roles: ['reader', 'owner'], full: true });
await sql(`ALTER TABLE busy ENABLE ROW LEVEL SECURITY;
  CREATE POLICY every ON busy TO reader USING (true);
  CREATE POLICY own ON busy TO owner USING (owner = rtsync.jwt() ->> 'sub')`);

class Viewer {
  mark = 0; // the last one seen
  closed = false;

  async open({ role = 'reader', filter, ...rtsync }) {
    const key = token(role, { sub: 'me', exp: Math.floor(Date.now() / 1000) + 86_400 });
    const bindings = [{ event: '*', schema: 'public', table: 'busy', ...(filter && { filter }) }];
    this.socket = net.connect({ port, host: hostname });
    await converse(this.socket, [
      { send: handshake(`/realtime/v1/websocket?apikey=${key}&vsn=2.0.0`), answer: '101 Switching' },
      { send: textFrame(JSON.stringify(['1', '1', 'realtime:events', 'phx_join', { config: { postgres_changes: bindings, rtsync } }])),
        answer: 'Subscribed to PostgreSQL' },
    ]);
    let rest = '';
    this.socket.on('data', (data) => {
      const text = rest + data.toString('latin1');
      for (const [, n] of text.matchAll(/"mark (\d+)"/g)) this.mark = Number(n);
      rest = text.slice(-20);
    });
    this.socket.on('error', () => {}).on('close', () => { this.closed = true; });
    const beat = setInterval(() => this.socket.write(textFrame('[null,"2","phoenix","heartbeat",{}]')), 5000);
    atEnd(() => { clearInterval(beat); this.socket.destroy(); });
    return this;
  }
}

// Transactions of new rows, changed rows, and rows that go; returns how many
// changes these are.
async function write(changes) {
  const part = Math.floor(BATCH / 3);
  let done = 0;
  for (; done < changes; done += part * 3)
    await sql(`BEGIN;
      INSERT INTO busy SELECT g, g, 'me', md5(g::text) FROM generate_series(1, ${part}) g;
      UPDATE busy SET n = n + 1;
      DELETE FROM busy;
      COMMIT`);
  return done;
}

async function figures(pids) {
  const found = {};
  for (const [name, pid] of Object.entries(pids))
    found[name] = { memory: await memoryOf(pid, 'RssAnon'), descriptors: (await readdir(`/proc/${pid}/fd`)).length };
  return found;
}

test(`${COUNT} events leave nothing behind`, async () => {
  const viewers = await Promise.all(VIEWERS.map((viewer) => new Viewer().open(viewer)));
  const pids = { engine: (await status()).pid, gateway: (await gatewayPids())[0] };
  let warm;
  const started = Date.now();
  let changes = 0;
  let mark = 0;
  for (let step = 1; step <= STEPS; step++) {
    while (changes < COUNT / VIEWERS.length * step / STEPS) {
      changes += await write(Math.min(2000, COUNT / VIEWERS.length / STEPS));
      await sql(`INSERT INTO busy VALUES (0, 0, 'me', 'mark ${++mark}'); DELETE FROM busy WHERE id = 0`);
      changes += 2;
      await until('all to have all', () => viewers.every((v) => v.closed || v.mark === mark), { timeout: 60_000, every: 1 });
    }
    assert.ok(viewers.every((v) => !v.closed), 'nobody was closed');
    const now = await figures(pids);
    const sent = await until('the statistics', async () => {
      const [row] = await sql('SELECT frames_sent FROM rtsync.pg_stat_rtsync WHERE datname = current_database()');
      return Number(row.frames_sent) >= COUNT * step / STEPS * 0.9 && Number(row.frames_sent);
    });
    note(`${sent} events, ${Math.round(sent / (Date.now() - started) * 1000)}/s:` + Object.entries(now).map(([name, { memory, descriptors }]) =>
      ` ${name} ${Math.round(memory / 1024)} kB, ${descriptors} descriptors;`).join(''));
    if (step === WARM) warm = now;
    if (step === STEPS)
      for (const name of Object.keys(pids)) {
        const growth = now[name].memory - warm[name].memory;
        assert.ok(growth < ALLOWED, `${name} grew by ${growth} bytes`);
        assert.ok(now[name].descriptors <= warm[name].descriptors + SPARE[name], `${name} has ${now[name].descriptors} descriptors`);
      }
  }
  const [{ refetches }] = await sql('SELECT refetches FROM rtsync.pg_stat_rtsync WHERE datname = current_database()');
  note(`${refetches} refetches`);
  assert.equal((await status()).pid, pids.engine);
  assert.deepEqual(await gatewayPids(), [pids.gateway]);
}, { timeout: 120_000 + COUNT / 5 });
