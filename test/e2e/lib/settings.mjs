// The server's settings, set for all of its processes.

import { randomUUID } from 'node:crypto';
import { atEnd, until } from './tap.mjs';
import { httpUrl, sql } from './server.mjs';

// The status of a request that shows this token; 0 without an answer
const plainly = (path, authorization) =>
  fetch(httpUrl + path, { headers: { authorization } }).then(({ status }) => status, () => 0);

async function write(settings) {
  for (const [name, value] of Object.entries(settings))
    await sql(value === null ? `ALTER SYSTEM RESET ${name}` : `ALTER SYSTEM SET ${name} = '${value}'`);
  await sql('SELECT pg_reload_conf()');
}

// Sets settings; null resets one.  Files that settings name are read again.  When
// it returns, the engine and its gateway go by all of it: the gateway shows its
// metrics to whom it did not before.  "get" asks where TLS is spoken.
export async function configure(settings, { get = plainly } = {}) {
  const mark = randomUUID();
  await write({ ...settings, 'rtsync.metrics_token': mark });
  await until('the gateway to have the settings', async () => (await get('/metrics', `Bearer ${mark}`)) === 200);
}

atEnd(() => write({ 'rtsync.metrics_token': null }));
