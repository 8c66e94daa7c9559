// What goes wrong while the checker runs.

import { readFile } from 'node:fs/promises';
import { sleep, until } from '../../e2e/lib/tap.mjs';
import { database, sql, status } from '../../e2e/lib/server.mjs';
import { gatewayPids, restart, running, server } from '../lib/cluster.mjs';
import { clearDisk, fillDisk, refusedWrites, setClock } from '../lib/faults.mjs';
import { failBehind, failOver, switchOver } from './nodes.mjs';
import { dropSlot, invalidateSlot, overfillSlot, takeSlot } from './slots.mjs';

const dir = process.env.CLUSTER_DIR;

// Whoever was hit before may still be about to end.
const patience = { timeout: 120_000, every: 20 };
const engine = async () => (await running(patience)).pid;

const parentOf = (pid) =>
  readFile(`/proc/${pid}/stat`, 'utf8').then((text) => Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[1]), () => 0);

// The engine's own: one that says goodbye to the clients of the last engine is
// another.
const gateway = () => until('a gateway', async () => {
  const parent = await engine();
  for (const pid of await gatewayPids()) if ((await parentOf(pid)) === parent) return pid;
  return null;
}, patience);

// Until its end is noticed, everything still seems to run.
async function killEngine() {
  const pid = await engine();
  process.kill(pid, 'SIGKILL');
  await until('the engine to be gone', async () => (await status().catch(() => null))?.pid !== pid, patience);
}

async function killGateway() {
  process.kill(await gateway(), 'SIGKILL');
}

// The engine gives up a gateway that takes nothing for ten seconds.
async function freezeGateway(ms) {
  const pid = await gateway();
  process.kill(pid, 'SIGSTOP');
  await sleep(ms);
  try {
    process.kill(pid, 'SIGCONT');
  } catch {
    // it was replaced
  }
}

const startAgain = () => server('sh', '-c', `pg_ctl start -w -l '${dir}/log' >/dev/null 2>&1 </dev/null`);

// Waits until the engine runs, and starts the server as often as it has ended.
async function runningAgain() {
  const deadline = performance.now() + 180_000;
  for (;;) {
    if (await running({ timeout: 1000 }).catch(() => null)) return;
    if (performance.now() > deadline) throw new Error('waited 180 s for the engine to run');
    await server('sh', '-c', 'pg_ctl status >/dev/null 2>&1').catch(() => startAgain().catch(() => {}));
  }
}

async function killPostmaster() {
  const { stdout } = await server('sh', '-c', 'head -n 1 "$PGDATA/postmaster.pid"');
  process.kill(Number(stdout), 'SIGKILL');
  await sleep(100);
}

// Waits for all sessions to end, so that the writers go and come back; if some
// stay, it becomes a fast one.
async function restartSmart({ writers }) {
  for (const writer of writers) writer.paused = true;
  const { idleTimeoutMillis } = database.options;
  database.options.idleTimeoutMillis = 100;
  const smart = restart('smart').catch(() => {});
  if (!(await Promise.race([smart.then(() => true), sleep(15_000)]))) {
    await server('sh', '-c', 'kill -INT $(head -n 1 "$PGDATA/postmaster.pid")').catch(() => {});
    await smart;
  }
  database.options.idleTimeoutMillis = idleTimeoutMillis;
  for (const writer of writers) writer.paused = false;
}

// Some clients are away while more is written than the history holds, and those
// who see all read nothing, and are sent more before than sockets hold: they
// must be told.
async function overrunHistory({ followers }) {
  let thaw;
  const thawed = new Promise((resolve) => {
    thaw = resolve;
  });
  for (const follower of followers) if (follower.number % 50 === 0) follower.freeze(thawed);
  const gone = followers.filter(({ number }) => number % 15 === 1 || number % 15 === 4);
  for (const follower of gone) follower.vanish(60_000);
  try {
    await sleep(200);
    await sql(`INSERT INTO items_c SELECT 2000 + g, g, g % 10, 0 FROM generate_series(0, 19) g ON CONFLICT DO NOTHING`);
    for (let n = 0; n < 12; n++)
      await sql("UPDATE items_c SET pad = repeat(md5(random()::text), 1500) WHERE id BETWEEN 2000 AND 2019");
    await sql("UPDATE items_c SET pad = '' WHERE id BETWEEN 2000 AND 2019");
    for (let n = 0; n < 8; n++)
      await sql(`INSERT INTO journal SELECT nextval('journal_id'), g % 20, g % 10, repeat(md5(g::text), 40)
        FROM generate_series(1, 200) g`);
    await sleep(1000);
  } finally {
    thaw();
    for (const follower of gone) follower.come();
  }
}

// There is no room for anything new until some writes have failed, and for a
// while then: WAL comes to need another segment, and the server panics.
async function diskFull() {
  const before = await refusedWrites();
  await fillDisk();
  try {
    for (let n = 0; n < 100 && (await refusedWrites()) === before; n++) {
      await sql('INSERT INTO board VALUES (0, 0) ON CONFLICT (id) DO UPDATE SET n = 0; SELECT pg_switch_wal()').catch(() => {});
      await sleep(20);
    }
    await sleep(Math.random() * 2000);
  } finally {
    await clearDisk();
  }
}

// Less than tokens last, or their clients would be closed, and rightly.
const setTheClock = () => setClock((Math.random() * 2 - 1) * 2700);

// "anew": everybody is told to refetch, and what was lost before comes to no light
export const FAULTS = [
  { name: 'disk full', often: 1, run: diskFull },
  { name: 'clock set', often: 3, run: setTheClock },
  { name: 'history overrun', often: 1, run: overrunHistory },
  { name: 'gateway killed', often: 4, run: killGateway },
  { name: 'gateway frozen', often: 3, run: () => freezeGateway(500 + Math.random() * 2000) },
  { name: 'gateway frozen for long', often: 1, long: true, run: () => freezeGateway(14_000) },
  { name: 'engine terminated', often: 3, run: async () => sql('SELECT pg_terminate_backend($1)', [await engine()]) },
  { name: 'engine killed', often: 2, run: killEngine },
  { name: 'postmaster killed', often: 1, run: killPostmaster },
  { name: 'restart fast', often: 2, run: () => restart('fast') },
  { name: 'restart immediate', often: 1, run: () => restart('immediate') },
  { name: 'restart smart', often: 1, run: restartSmart },
  { name: 'standby promoted after a stop', often: 1, anew: true, run: switchOver },
  { name: 'standby promoted after a crash', often: 1, long: true, anew: true, run: failOver },
  { name: 'standby promoted that lags', often: 1, anew: true, run: failBehind },
  { name: 'slot dropped', often: 1, anew: true, run: dropSlot },
  { name: 'slot invalidated', often: 1, anew: true, run: invalidateSlot },
  { name: 'slot stuck', often: 1, anew: true, run: overfillSlot },
  { name: 'slot taken', often: 1, anew: true, run: takeSlot },
];

// Does one of them, and waits until the engine runs again.
export async function inject(fault, world) {
  await fault.run(world);
  await runningAgain();
}
