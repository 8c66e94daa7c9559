// The scratch server of a recovery test, from the outside: its processes, its
// log, its restarts.

import { execFile } from 'node:child_process';
import { readFile, readdir, readlink } from 'node:fs/promises';
import net from 'node:net';
import { promisify } from 'node:util';
import { until } from '../../e2e/lib/tap.mjs';
import { RawClient } from '../../e2e/lib/raw.mjs';
import { status } from '../../e2e/lib/server.mjs';

const run = promisify(execFile);
const dir = process.env.CLUSTER_DIR;
const command = new URL('../../../dev/cluster', import.meta.url).pathname;

if (!dir) throw new Error('start this through test/recovery/run');

// What a server that is started from here finds in its environment
export const environment = {};

// Runs one of the server's programs as its user.
export const server = (...args) =>
  run(command, ['run', dir, 'env', ...Object.entries(environment).map(([name, value]) => `${name}=${value}`), ...args]);

// The output of pg_ctl would keep its pipe open in the server: send it away.
export const restart = (mode) =>
  server('sh', '-c', `pg_ctl restart -w -m ${mode} -l '${dir}/log' >/dev/null 2>&1 </dev/null`);

export const log = () => readFile(`${dir}/log`, 'utf8');

// The processes that run this cluster's programs: [{ pid, program }]
export async function processes() {
  const found = [];
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const exe = await readlink(`/proc/${pid}/exe`).catch(() => '');
    if (exe.startsWith(`${dir}/root/`))
      found.push({ pid: Number(pid), program: exe.replace(/ \(deleted\)$/, '').split('/').at(-1) });
  }
  return found;
}

export async function gatewayPids() {
  return (await processes()).filter((p) => p.program === 'rtsync-gateway').map((p) => p.pid);
}

// Waits until the engine of the tests' database runs.
export const running = (options) =>
  until('the engine to run', async () => {
    const row = await status().catch(() => null);
    return row?.state === 'running' && row;
  }, { timeout: 60_000, every: 20, ...options });

// A connection, once somebody serves: until the gateway of the last engine has
// gone, the next one may run and not listen yet.
export const served = (options) =>
  until('to be served', () => RawClient.open(options).catch(() => null), { timeout: 60_000, every: 50 });

// Does anybody listen on this port?
export const listening = (port) =>
  new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    socket.on('connect', () => resolve(socket.destroy() && true));
    socket.on('error', () => resolve(false));
  });

const given = new Set();

// Below the ports that outgoing connections get, which anybody may take at any
// time; another one each time
export async function freePort() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    if (given.has(port) || (await listening(port))) continue;
    given.add(port);
    return port;
  }
}
