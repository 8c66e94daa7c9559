// Connections that come and go in every way, very many of them: neither the
// engine nor the gateway keeps memory or descriptors of any.
//
// CONNECTIONS (20,000) says how many; a million is the long form.

import { randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import net from 'node:net';
import { assert, note, test, until } from '../e2e/lib/tap.mjs';
import { createRole, createTable, hostname, port, sql, status, token } from '../e2e/lib/server.mjs';
import { memoryOf } from '../../bench/lib/measure.mjs';
import { binaryFrame, clientFrame, handshake, textFrame } from '../../bench/lib/frames.mjs';
import { gatewayPids } from './lib/cluster.mjs';

const COUNT = Number(process.env.CONNECTIONS ?? 20_000);
const AT_ONCE = 64;
const STEPS = 10;
const WARM = 3; // steps until what is allocated once is there
const ALLOWED = 3 * 1024 * 1024; // bytes of growth after that
// PostgreSQL keeps some files of tables open for the engine, now more, now fewer.
const SPARE = { engine: 20, gateway: 0 };

await createRole('visitor');
await createTable('visited', 'id int PRIMARY KEY', { roles: ['visitor'] });
const good = handshake(`/realtime/v1/websocket?apikey=${token('visitor')}&vsn=2.0.0`);
const bad = handshake(`/realtime/v1/websocket?apikey=${token('nobody at all')}&vsn=2.0.0`);
const join = textFrame(JSON.stringify(['1', '1', 'realtime:visit', 'phx_join', { config: {
  broadcast: { self: true }, presence: { key: 'me' },
  postgres_changes: [{ event: '*', schema: 'public', table: 'visited', filter: 'id=gt.7' }] } }]));
const track = textFrame(JSON.stringify(['1', '2', 'realtime:visit', 'presence', { type: 'presence', event: 'track', payload: { a: 1 } }]));
const opened = '101 Switching';

// What a client does: writes, what it waits for after each, and how it ends
const WAYS = [
  { steps: [[good, opened]] },
  { steps: [[good, opened]], reset: true },
  { steps: [[good, opened], [clientFrame(8, Buffer.from([3, 232])), '\x88\x02\x03\xe8']] },
  { steps: [[good, opened], [join, '"ok"']] },
  { steps: [[good, opened], [join, '"ok"']], reset: true },
  { steps: [[good, opened], [join, '"ok"'], [track, '"ok"']] },
  { steps: [[good, opened], [join, null]] },
  { steps: [[good, opened], [textFrame('nonsense'), null], [binaryFrame(randomBytes(50)), null]] },
  { steps: [[good, opened], [randomBytes(50), null]] },
  { steps: [[good, null]] },
  { steps: [[bad, ' 401 ']] },
  { steps: [[good.slice(0, 100), null]], reset: true },
  { steps: [['GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n', 'ok']] },
  { steps: [[randomBytes(30), null]] },
  { steps: [['\x16\x03\x01\x02\x00\x01', null]] },
  { steps: [] },
];

function visit(i) {
  const { steps, reset } = WAYS[i % WAYS.length];
  return new Promise((resolve, reject) => {
    let received = '';
    let step = 0;
    // ports of one address would not do for so many
    const socket = net.connect({ port, host: hostname, localAddress: `127.0.0.${2 + i % 200}` });
    const timer = setTimeout(() => reject(new Error(`way ${i % WAYS.length} waits for ${steps[step]?.[1]}, has ${received}`)), 60_000);
    const end = () => {
      clearTimeout(timer);
      if (reset) socket.resetAndDestroy();
      else socket.destroy();
      resolve();
    };
    const go = () => {
      for (; step < steps.length; step++) {
        const [bytes, answer] = steps[step];
        socket.write(bytes, 'latin1');
        if (answer !== null) return;
      }
      // what is written before a FIN arrives; a reset may overtake it
      if (reset) end();
      else socket.end(end);
    };
    socket.setNoDelay(true);
    socket.on('connect', go);
    socket.on('data', (data) => {
      received += data.toString('latin1');
      if (step >= steps.length || !received.includes(steps[step][1])) return;
      received = '';
      step++;
      go();
    });
    socket.on('error', end);
    socket.on('close', end);
  });
}

async function figures(pids) {
  const found = {};
  for (const [name, pid] of Object.entries(pids))
    found[name] = { memory: await memoryOf(pid, 'RssAnon'), descriptors: (await readdir(`/proc/${pid}/fd`)).length };
  return found;
}

test(`${COUNT} connections leave nothing behind`, async () => {
  const pids = { engine: (await status()).pid, gateway: (await gatewayPids())[0] };
  for (let i = 0; i < WAYS.length * 2; i++) await visit(i);
  // as engine and gateway say when they are asked, and as they have counted
  const quiet = () => until('everybody to be gone', async () => {
    if ((await sql('SELECT FROM rtsync.pg_stat_rtsync_connection')).length > 0) return false;
    const { connections, channels } = await status();
    return Number(connections) === 0 && Number(channels) === 0;
  });
  await quiet();
  const before = await figures(pids);
  let warm;
  let next = 0;
  const started = Date.now();
  for (let step = 1; step <= STEPS; step++) {
    const last = Math.floor((COUNT * step) / STEPS);
    await Promise.all(Array.from({ length: AT_ONCE }, async () => { while (next < last) await visit(next++); }));
    await quiet();
    const now = await figures(pids);
    note(`${next} connections, ${Math.round(next / (Date.now() - started) * 1000)}/s:` + Object.entries(now).map(([name, { memory, descriptors }]) =>
      ` ${name} ${Math.round(memory / 1024)} kB, ${descriptors} descriptors;`).join(''));
    if (step === WARM) warm = now;
    if (step === STEPS)
      for (const name of Object.keys(pids)) {
        await until(`${name}'s descriptors`, async () =>
          (await figures(pids))[name].descriptors <= before[name].descriptors + SPARE[name]);
        const growth = now[name].memory - warm[name].memory;
        assert.ok(growth < ALLOWED, `${name} grew by ${growth} bytes`);
      }
  }
  assert.equal((await status()).pid, pids.engine);
  assert.deepEqual(await gatewayPids(), [pids.gateway]);
}, { timeout: 60_000 + 10 * COUNT });
