// What the engine costs those who write: pgbench with the engine running, and
// without, in alternating rounds.

import { cpuTime, figure, median, running, server, sleep, sql, status, until } from './lib/measure.mjs';

const ROUNDS = 8;
const SECONDS = 5;

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

async function tps() {
  await sql('CHECKPOINT');
  await sleep(500);
  const { stdout } = await server('pgbench', '-n', '-N', '-M', 'prepared', '-c', '4', '-j', '2', '-T', String(SECONDS), 'postgres');
  return Number(/tps = ([\d.]+)/.exec(stdout)[1]);
}

async function compare(name) {
  const results = { with: [], without: [] };
  let engineTime = 0;
  await start();
  await tps(); // to warm up
  for (let round = 0; round < ROUNDS; round++) {
    // Each side goes first in turn.
    for (const side of round % 2 ? ['without', 'with'] : ['with', 'without']) {
      await (side === 'with' ? start() : stop());
      const pid = (await status().catch(() => null))?.pid;
      const before = pid ? await cpuTime(pid) : 0;
      results[side].push(await tps());
      if (pid) engineTime += (await cpuTime(pid)) - before;
    }
  }
  const text = (values) => values.map((v) => v.toFixed(0)).join(' ');
  // Neighbours in time are compared: the machine may be faster later.
  const ratio = median(results.with.map((tps, n) => tps / results.without[n]));
  console.log(`${name}: pgbench -N, 4 clients, TPS`);
  console.log(`  with the engine     ${text(results.with)}`);
  console.log(`  without the engine  ${text(results.without)}`);
  const share = (100 * engineTime) / (ROUNDS * SECONDS * 1e6);
  console.log(`  median of the rounds' ratios ${ratio.toFixed(3)}; the engine took ${share.toFixed(0)} % of a core`);
  return ratio;
}

const durable = await compare('durable commits (fsync = on)');
await sql('ALTER SYSTEM SET fsync = off');
await sql('SELECT pg_reload_conf()');
await compare('no waiting for the disk (fsync = off)');
figure('writers.tps_ratio', durable, 3);
process.exit(0);
