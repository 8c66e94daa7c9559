// What the machine does to a server: sets the time of day, and has no room on
// its disk.  The server and its gateways preload faults.c, which is told here.

import { execFile } from 'node:child_process';
import { chmod, mkdir, open, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { until } from '../../e2e/lib/tap.mjs';
import { environment, gatewayPids, restart, running, server } from './cluster.mjs';

const run = promisify(execFile);
const dir = process.env.CLUSTER_DIR;
const library = `${dir}/faults.so`;
const path = `${dir}/faults`;
let file;

async function put(offset, size, value) {
  const bytes = Buffer.alloc(size);
  if (size === 8) bytes.writeBigInt64LE(BigInt(value));
  else bytes.writeInt32LE(value);
  await file.write(bytes, 0, size, offset);
}

// The engine gives its gateways an environment of their own.
async function wrapGateway() {
  const { stdout } = await server('sh', '-c', 'dirname "$(command -v rtsync-gateway)"');
  const bin = stdout.trim();
  await mkdir(`${bin}/real`, { recursive: true });
  await rename(`${bin}/rtsync-gateway`, `${bin}/real/rtsync-gateway`);
  await writeFile(`${bin}/rtsync-gateway`,
    `#!/bin/sh\nFAULTS_FILE=${path} LD_PRELOAD=${library} exec ${bin}/real/rtsync-gateway "$@"\n`);
  await chmod(`${bin}/rtsync-gateway`, 0o755);
}

// Restarts the server with the library; once, before all that follows.
export async function prepareFaults() {
  await run(process.env.CC ?? 'cc', ['-O2', '-Wall', '-shared', '-fPIC', '-o', library,
    new URL('faults.c', import.meta.url).pathname, '-ldl']);
  await writeFile(path, Buffer.alloc(4096));
  await chmod(path, 0o666);
  file = await open(path, 'r+');
  await wrapGateway();
  Object.assign(environment, { LD_PRELOAD: library, FAULTS_FILE: path });
  await restart('fast');
  await running();
  await until('the gateway behind its wrapper', async () => (await gatewayPids()).length > 0);
}

// The time of day is wrong by so many seconds, for the server alone.
export const setClock = (seconds) => put(0, 8, Math.round(seconds * 1e6));

// No file can grow.
export const fillDisk = () => put(8, 4, 1);
export const clearDisk = () => put(8, 4, 0);

// How many writes were refused so far
export async function refusedWrites() {
  const bytes = Buffer.alloc(4);
  await file.read(bytes, 0, 4, 12);
  return bytes.readInt32LE();
}
