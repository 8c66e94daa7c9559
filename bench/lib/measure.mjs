// What the benchmarks have in common: figures, processes, statistics.

import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

export { pg, sql, status, token, createRole, createTable, database, hostname, port } from '../../test/e2e/lib/server.mjs';
export { gatewayPids, server, running } from '../../test/recovery/lib/cluster.mjs';
export { sleep, until } from '../../test/e2e/lib/tap.mjs';

export const run = promisify(execFile);

// Prints a figure for scripts.
export function figure(name, value, digits = 2) {
  console.log(`FIGURE ${name} ${value.toFixed(digits)}`);
}

export function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}

// Of an even number of values, it is the mean of the two in the middle.
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

// The CPU time of a process so far, in microseconds
export async function cpuTime(pid) {
  const text = await readFile(`/proc/${pid}/schedstat`, 'utf8');
  return Number(text.split(' ')[0]) / 1000;
}

// A field of /proc/PID/status, in bytes
export async function memoryOf(pid, field) {
  const text = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)[1]) * 1024;
}
