// What the engine costs those who write: pgbench with the engine running, and
// without, in alternating rounds.  Beside the throughput, the CPU time: of the
// backends, for what committing costs them, and of the engine.  wal_level is
// logical on both sides.

import { readFile } from 'node:fs/promises';
import { RawClient } from '../test/e2e/lib/raw.mjs';
import { cpuTime, figure, median, running, server, sleep, sql, status, token, until, createRole } from './lib/measure.mjs';

const ROUNDS = Number(process.env.ROUNDS ?? 8);
const SECONDS = Number(process.env.SECONDS ?? 5);

await server('pgbench', '-i', '-q', '-s', '20', 'postgres');
await sql('ALTER PUBLICATION rtsync ADD TABLE pgbench_accounts, pgbench_tellers, pgbench_branches');

async function start() {
  await sql('CREATE EXTENSION IF NOT EXISTS rtsync');
  await running();
}

async function stop() {
  await sql('DROP EXTENSION IF EXISTS rtsync');
  await until('the engine to stop', async () =>
    (await sql("SELECT FROM pg_replication_slots WHERE plugin = 'rtsync'")).length === 0);
}

const stat = async (pid) => (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1].split(' ');
const [{ pid: backend }] = await sql('SELECT pg_backend_pid() AS pid');
const postmaster = (await stat(backend))[1];

// The CPU time of backends that have ended, in microseconds
async function endedTime() {
  const fields = await stat(postmaster);
  return (Number(fields[13]) + Number(fields[14])) * 10_000;
}

let backendTime; // us of CPU for a transaction of the last pgbench

async function tps() {
  await sql('CHECKPOINT');
  await sleep(500);
  const before = await endedTime();
  const { stdout } = await server('pgbench', '-n', '-N', '-M', 'prepared', '-c', '4', '-j', '2', '-T', String(SECONDS), 'postgres');
  await sleep(200); // until the backends have ended
  backendTime = (await endedTime() - before) / Number(/processed: (\d+)/.exec(stdout)[1]);
  return Number(/tps = ([\d.]+)/.exec(stdout)[1]);
}

async function compare(name, subscribe = async () => () => {}) {
  const results = { with: [], without: [] };
  const backends = { with: [], without: [] };
  let engineTime = 0;
  await start();
  await tps(); // to warm up
  for (let round = 0; round < ROUNDS; round++) {
    // Each side goes first in turn.
    for (const side of round % 2 ? ['without', 'with'] : ['with', 'without']) {
      await (side === 'with' ? start() : stop());
      const pid = (await status().catch(() => null))?.pid;
      const before = pid ? await cpuTime(pid) : 0;
      const unsubscribe = await (side === 'with' ? subscribe() : () => {});
      results[side].push(await tps());
      backends[side].push(backendTime);
      if (pid) engineTime += (await cpuTime(pid)) - before;
      unsubscribe?.();
    }
  }
  const text = (values) => values.map((v) => v.toFixed(0)).join(' ');
  // Neighbours in time are compared: the machine may be faster later.
  const ratio = median(results.with.map((tps, n) => tps / results.without[n]));
  console.log(`${name}: pgbench -N, 4 clients, TPS`);
  console.log(`  with the engine     ${text(results.with)}`);
  console.log(`  without the engine  ${text(results.without)}`);
  const share = (100 * engineTime) / (ROUNDS * SECONDS * 1e6);
  console.log(`  median of the rounds' ratios ${ratio.toFixed(3)}; the engine took ${share.toFixed(1)} % of a core`);
  console.log(`  CPU of a backend for a transaction ${median(backends.with).toFixed(1)} us with, ` +
    `${median(backends.without).toFixed(1)} us without; of the engine ` +
    `${(engineTime / (SECONDS * results.with.reduce((a, b) => a + b))).toFixed(1)} us`);
  return ratio;
}

const durable = await compare('durable commits (fsync = on)');
await sql('ALTER SYSTEM SET fsync = off');
await sql('SELECT pg_reload_conf()');
await compare('no waiting for the disk (fsync = off)');
await createRole('reader');
await sql('GRANT SELECT ON pgbench_accounts TO reader');
await compare('likewise, and a client sees one row of each 100,000', async () => {
  const client = await RawClient.open({ apikey: token('reader') });
  await client.joinOk('accounts', [{ event: '*', schema: 'public', table: 'pgbench_accounts', filter: 'aid=eq.1' }]);
  return () => client.close();
});
figure('writers.tps_ratio', durable, 3);
process.exit(0);
