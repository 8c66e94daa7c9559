// A snapshot that something kills: its client gets another one when it has
// joined again, and what it holds at the end equals SELECT.

import { assert, note, sleep, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, sql, status, token } from '../e2e/lib/server.mjs';
import { gatewayPids, restart, running } from './lib/cluster.mjs';

await createRole('reader');
await createTable('shelf', 'id int PRIMARY KEY, n int, filler text', { roles: ['reader'], full: true });
await sql("INSERT INTO shelf SELECT g, 0, repeat('x', 300) FROM generate_series(1, 20000) g");
const apikey = token('reader');
const binding = { event: '*', schema: 'public', table: 'shelf', rtsync: { snapshot: true } };

// Keeps a replica over any number of connections, as an application would.
class Replica {
  rows = new Map();
  complete = false;
  snapshots = 0;
  wanted = true;

  async run() {
    while (this.wanted) {
      try {
        this.client = await RawClient.open({ apikey });
        this.client.onFrame = (frame) => this.#take(frame);
        await this.client.joinOk('shelf', [binding]);
        await until('the end of the connection', () => this.client.closed || !this.wanted, { timeout: 600_000 });
      } catch {
        await sleep(20);
      }
      this.complete = false;
    }
    this.drop();
  }

  #take({ event, payload }) {
    this.client.frames.length = Math.min(this.client.frames.length, 5);
    if (event === 'system' && payload.status === 'snapshot_begin') {
      this.rows.clear();
      this.snapshots++;
    } else if (event === 'system' && payload.status === 'snapshot_end') this.complete = true;
    else if (event === 'system' && payload.status === 'refetch') this.drop();
    else if (event === 'postgres_changes') {
      const { type, record, old_record: old } = payload.data;
      if (type === 'DELETE') this.rows.delete(old.id);
      else this.rows.set(record.id, record.n);
    }
  }

  drop() {
    this.complete = false;
    if (!this.client) return;
    this.client.onFrame = null; // what had arrived already does not count
    this.client.socket.terminate();
  }
}

async function write(until_) {
  while (!until_()) {
    const id = Math.floor(Math.random() * 22000);
    try {
      await sql(`INSERT INTO shelf VALUES (${id}, 0, 'new') ON CONFLICT (id) DO UPDATE SET n = shelf.n + 1`);
      await sql(`DELETE FROM shelf WHERE id = ${(id * 7) % 22000}`);
    } catch {
      await sleep(50);
    }
  }
}

test('replicas equal SELECT after workers, gateways, engines and servers were killed under load', async () => {
  const replicas = Array.from({ length: 4 }, () => new Replica());
  const ends = replicas.map((r) => r.run());
  let stop = false;
  const writers = [write(() => stop), write(() => stop)];
  // each replica begins anew again and again, so that something is always under way
  const drops = (async () => {
    while (!stop) {
      await sleep(150);
      replicas[Math.floor(Math.random() * replicas.length)].drop();
    }
  })();
  const worker = () => until('a worker', async () => {
    const rows = await sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'rtsync snapshot'").catch(() => []);
    return rows[0]?.pid;
  });
  const killWorker = (signal) => async () => {
    try {
      process.kill(await worker(), signal);
    } catch (error) {
      if (error.code !== 'ESRCH') throw error; // it was faster
    }
  };
  const faults = [
    killWorker('SIGTERM'),
    async () => process.kill((await gatewayPids())[0], 'SIGKILL'),
    async () => sql('SELECT pg_terminate_backend($1)', [(await status()).pid]),
    killWorker('SIGINT'),
    killWorker('SIGKILL'), // PostgreSQL restarts all processes
    () => restart('immediate'),
  ];
  for (const fault of faults) {
    await sleep(400);
    await fault();
    await until('the engine', async () => (await status().catch(() => null))?.state === 'running', { timeout: 60_000 });
  }
  await running();
  stop = true;
  await Promise.all([...writers, drops]);
  await until('all to be complete', () => replicas.every((r) => r.complete), { timeout: 120_000 });
  await sql('INSERT INTO shelf VALUES (99999, 0, NULL)');
  await until('the mark', () => replicas.every((r) => r.complete && r.rows.has(99999)), { timeout: 60_000 });
  const expected = await sql('SELECT id, n FROM shelf ORDER BY id');
  for (const replica of replicas) {
    const rows = [...replica.rows].map(([id, n]) => ({ id, n })).sort((a, b) => a.id - b.id);
    assert.deepEqual(rows, expected);
    replica.wanted = false;
  }
  await Promise.all(ends);
  note(`${faults.length} faults, ${replicas.reduce((n, r) => n + r.snapshots, 0)} snapshots`);
}, { timeout: 500_000 });
