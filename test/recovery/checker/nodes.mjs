// The servers that take the primary's place one after the other.
//
// Each has a directory, and ports, of its own below CLUSTER_DIR; the present
// one's is what "data" links to, and what "port" names, so that everything
// that is done to the server is done to that one.

import { chown, mkdir, readFile, readdir, readlink, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { atEnd, sleep, until } from '../../e2e/lib/tap.mjs';
import { sql, url } from '../../e2e/lib/server.mjs';
import { listening, running, server } from '../lib/cluster.mjs';

const dir = process.env.CLUSTER_DIR;
const patience = { timeout: 120_000, every: 20 };

// Where the clients find the primary; PGPORT is where everybody else does.
export const place = { url };

let made = 1;
const nameOf = (number) => `node_${number}`;
const pathOf = (number) => `${dir}/${nameOf(number)}`;

export const shell = (text) => server('sh', '-c', text);
const quietly = (text) => shell(`${text} >/dev/null 2>&1 </dev/null`);

async function linkData(number) {
  await symlink(nameOf(number), `${dir}/data.new`);
  await rename(`${dir}/data.new`, `${dir}/data`);
}

// Gives the server a place of its own; once, before all that follows.
export async function prepareNodes() {
  await quietly('pg_ctl stop -w -m fast');
  await rename(`${dir}/data`, pathOf(made));
  await linkData(made);
  await quietly(`pg_ctl start -w -l '${dir}/log'`);
  await running();
  // one that was being made when the test failed
  atEnd(() => quietly(`pg_ctl stop -w -m immediate -D '${pathOf(made)}'`).catch(() => {}));
}

const given = new Set();

// Below those that outgoing connections get; another one each time
async function freePort() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 10_000);
    if (given.has(port) || (await listening(port))) continue;
    given.add(port);
    return port;
  }
}

// Makes a standby that follows the primary.
async function makeStandby() {
  const number = ++made;
  const path = pathOf(number);
  const { uid, gid } = await stat(`${dir}/data/PG_VERSION`);
  await mkdir(path, { mode: 0o700 });
  await chown(path, uid, gid);
  const standby = { number, path, port: await freePort(), rtsyncPort: await freePort() };
  await shell(`pg_basebackup -D '${path}' -R -X stream -c fast`);
  await shell(`printf 'port = ${standby.port}\\nrtsync.port = ${standby.rtsyncPort}\\n' >>'${path}/postgresql.conf'`);
  await quietly(`pg_ctl start -w -D '${path}' -l '${dir}/log'`);
  await until('the standby to follow', async () =>
    (await sql("SELECT FROM pg_stat_replication WHERE state = 'streaming'")).length > 0, patience);
  return standby;
}

async function ask(standby, question) {
  return (await shell(`psql -p ${standby.port} -X -A -t -c "${question}"`)).stdout.trim();
}

// The processes of a server that has been killed may take a moment.
async function ended(path) {
  await until('the old primary to end', async () => {
    for (const pid of await readdir('/proc')) {
      if (!/^\d+$/.test(pid)) continue;
      const exe = await readlink(`/proc/${pid}/exe`).catch(() => '');
      if (exe.startsWith(`${dir}/root/`) && exe.endsWith('/postgres') &&
        (await readlink(`/proc/${pid}/cwd`).catch(() => '')) === path) return false;
    }
    return true;
  }, patience);
}

// Its last checkpoint is the last thing that a server writes when it stops.
async function hasAll(standby, old) {
  const { stdout } = await shell(`pg_controldata -D '${old}'`);
  const last = /^Latest checkpoint location: +(\S+)$/m.exec(stdout)[1];
  await until('the standby to have all', async () =>
    (await ask(standby, `SELECT pg_last_wal_replay_lsn() > '${last}'`)) === 't', patience);
}

async function promote(standby) {
  const old = `${dir}/${await readlink(`${dir}/data`)}`;
  await ended(old);
  await quietly(`pg_ctl promote -w -D '${standby.path}'`);
  await linkData(standby.number);
  await writeFile(`${dir}/port`, `${standby.port}\n`);
  process.env.PGPORT = String(standby.port);
  place.url = `ws://127.0.0.1:${standby.rtsyncPort}`;
  await rm(old, { recursive: true });
}

// A standby is promoted when the primary has been stopped in good order ...
export async function switchOver() {
  const standby = await makeStandby();
  const old = `${dir}/data`;
  await quietly('pg_ctl stop -w -m fast');
  await hasAll(standby, old);
  await promote(standby);
}

// ... when it was killed while it waited for the standby at each commit ...
export async function failOver() {
  const standby = await makeStandby();
  await sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
  await sql('SELECT pg_reload_conf()');
  await until('the standby to be synchronous', async () =>
    (await sql("SELECT FROM pg_stat_replication WHERE sync_state = 'sync'")).length > 0, patience);
  await killPrimary();
  await promote(standby);
}

// ... and when it was killed while the standby lagged: what was committed in
// that time, and seen by the clients, has never been.
export async function failBehind() {
  const standby = await makeStandby();
  await ask(standby, "ALTER SYSTEM SET primary_conninfo = ''");
  await ask(standby, 'SELECT pg_reload_conf()');
  await until('the standby to stay behind', async () =>
    (await sql('SELECT FROM pg_stat_replication')).length === 0, patience);
  await sleep(1000);
  await killPrimary();
  await promote(standby);
}

async function killPrimary() {
  process.kill(Number((await readFile(`${dir}/data/postmaster.pid`, 'utf8')).split('\n')[0]), 'SIGKILL');
}
