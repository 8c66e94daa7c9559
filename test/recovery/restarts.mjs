// The server restarts, fast and immediately, with 100 clients connected; the
// engine is terminated; the configuration is reloaded.
//
// cluster: -c rtsync.handshake_timeout=60s

import { once } from 'node:events';
import net from 'node:net';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { assert, atEnd, note, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, port, sql, status, token } from '../e2e/lib/server.mjs';
import { gatewayPids, listening, processes, restart, running, server } from './lib/cluster.mjs';

await createRole('reader');
await createTable('rows', 'id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY', { roles: ['reader'] });
const apikey = token('reader');
const binding = { event: '*', schema: 'public', table: 'rows' };

async function connectMany(n) {
  const clients = await Promise.all(Array.from({ length: n }, () => RawClient.open({ apikey })));
  await Promise.all(clients.map((c) => c.joinOk('rows', [binding])));
  atEnd(() => clients.forEach((c) => c.close()));
  return clients;
}

// A row reaches a new client.
async function works() {
  const client = await until('a client to be served', async () => {
    try {
      const attempt = await RawClient.open({ apikey });
      await attempt.joinOk('rows', [binding]);
      return attempt;
    } catch {
      return null;
    }
  }, { every: 50 });
  const [{ id }] = await sql('INSERT INTO rows DEFAULT VALUES RETURNING id');
  await client.frame('the row', () => client.changes().some((c) => c.record.id === id));
  client.close();
}

for (const mode of ['fast', 'immediate']) {
  test(`restart -m ${mode} with 100 clients: engine and gateway are back, nothing is left`, async () => {
    const clients = await connectMany(100);
    const before = (await processes()).map((p) => p.pid);
    const start = performance.now();
    await restart(mode);
    await running();
    note(`running again ${(performance.now() - start).toFixed(0)} ms after the command`);
    await until('all clients to be told', () => clients.every((c) => c.closed));
    const codes = [...new Set(clients.map((c) => c.closed.code))];
    note(`clients were closed with ${codes}`);
    if (mode === 'fast') assert.deepEqual(codes, [1012]);
    await until('the old processes to be gone', async () => !(await processes()).some(({ pid }) => before.includes(pid)));
    await until('one gateway', async () => (await gatewayPids()).length === 1);
    await works();
  });
}

test('many clients are not told in the same moment, and the shutdown does not wait for that', async () => {
  const clients = await connectMany(500);
  const beats = setInterval(() => clients.forEach((c) => !c.closed && c.send('phoenix', 'heartbeat')), 100);
  const closed = [];
  for (const client of clients) client.socket.once('close', () => closed.push(performance.now()));
  const delay = monitorEventLoopDelay({ resolution: 10 }); // we may be late ourselves
  delay.enable();
  const start = performance.now();
  await server('sh', '-c', 'pg_ctl stop -w -m fast >/dev/null 2>&1');
  const stopped = performance.now();
  await until('the port to be free', async () => !(await listening(port)));
  await until('all clients to be told', () => clients.every((c) => c.closed));
  clearInterval(beats);
  delay.disable();
  note(`the server stopped after ${(stopped - start).toFixed(0)} ms, and the clients were told within ` +
    `${(closed.at(-1) - closed[0]).toFixed(0)} ms`);
  assert.deepEqual([...new Set(clients.map((c) => c.closed.code))], [1012]);
  await restart('fast');
  await running();
  await works();
  assert.ok(closed.at(-1) - closed[0] + delay.max / 1e6 > 200);
});

test('a stopped server holds no port and leaves no process', async () => {
  await connectMany(100);
  await server('sh', '-c', 'pg_ctl stop -w -m immediate >/dev/null 2>&1');
  await until('all processes to end', async () => (await processes()).length === 0);
  assert.equal(await listening(port), false);
  await restart('fast');
  await running();
  await works();
});

test('an engine that is terminated comes back', async () => {
  const { pid } = await status();
  await sql('SELECT pg_terminate_backend($1)', [pid]);
  await until('another engine', async () => {
    const row = await status();
    return row.state === 'running' && row.pid !== pid;
  });
  await works();
});

test('an engine that is terminated again and again comes back each time as soon', async () => {
  for (let round = 1; round <= 5; round++) {
    const { pid } = await running();
    await sql('SELECT pg_terminate_backend($1)', [pid]);
    const start = performance.now();
    await until('another engine', async () => {
      const row = await status();
      return row.state === 'running' && row.pid !== pid;
    }, { timeout: 60_000, every: 20 });
    const ms = performance.now() - start;
    assert.ok(ms < 8000, `${ms} ms in round ${round}`);
  }
  await works();
}, { timeout: 400_000 });

test('an engine says that it runs when it can be connected to, or why it cannot', async () => {
  const taken = net.createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const move = async (to) => {
    const { pid } = await status();
    await sql(to ? `ALTER SYSTEM SET rtsync.port = ${to}` : `ALTER SYSTEM RESET rtsync.port`);
    await sql('SELECT pg_reload_conf()');
    return until('another engine', async () => {
      const row = await status();
      return row.state === 'running' && row.pid !== pid && row;
    }, { timeout: 60_000, every: 2 });
  };
  assert.match((await move(taken.address().port)).message ?? 'nothing', /could not listen|in use/);
  taken.close();
  const row = await move(null);
  assert.deepEqual([row.message, row.port], [null, Number(port)]);
  assert.equal(await listening(port), true);
  await works();
});

test('a crash of another backend restarts everything, and it works again', async () => {
  const pid = (await sql('SELECT pg_backend_pid() AS pid'))[0].pid;
  const { pid: engine } = await status();
  process.kill(pid, 'SIGKILL');
  await until('the crash recovery', async () => {
    const row = await status().catch(() => null);
    return row?.pid && row.pid !== engine;
  }, { timeout: 60_000, every: 100 });
  await running();
  await works();
});

test('a reload changes what may change', async () => {
  await sql('ALTER SYSTEM SET rtsync.max_channels_per_connection = 2');
  await sql('SELECT pg_reload_conf()');
  await until('the new limit', async () => {
    const client = await RawClient.open({ apikey });
    const replies = [];
    for (const topic of ['a', 'b', 'c']) replies.push(await client.join(topic, []));
    client.close();
    return replies[2].status === 'error';
  }, { every: 100 });
  await sql('ALTER SYSTEM RESET rtsync.max_channels_per_connection');
  await sql('SELECT pg_reload_conf()');
});
