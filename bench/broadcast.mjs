// One client says something to 1,000 others: the gateway's CPU time for each
// frame that is delivered, beside servers that do the same.  "In flight" is how
// many messages are said before it is waited for all of them to arrive.

import { readdir, readFile } from 'node:fs/promises';
import net from 'node:net';
import { once } from 'node:events';
import { Crowd } from './lib/crowd.mjs';
import { createRole, figure, gatewayPids, hostname, median, port, sleep, token } from './lib/measure.mjs';
import { gatewayServer, mosquittoServer, nchanServer, socketIoServer, wsServer } from './lib/rivals.mjs';

const SUBSCRIBERS = Number(process.env.SUBSCRIBERS ?? 1000);
const TEXT = 'x'.repeat(200);
const ROUNDS = Number(process.env.ROUNDS ?? 3);
const MESSAGES = { 1: 40, 8: 160 }; // of each server in a round

// The CPU time of processes so far, with all their threads, in microseconds
async function cpuOf(pids) {
  let total = 0;
  for (const pid of pids)
    for (const task of await readdir(`/proc/${pid}/task`)) {
      const text = await readFile(`/proc/${pid}/task/${task}/schedstat`, 'utf8').catch(() => '0');
      total += Number(text.split(' ')[0]) / 1000;
    }
  return total;
}

// Subscribes everybody, opens the publisher, and finds out how long a delivered
// frame is.
async function prepare(server) {
  server.crowd = new Crowd();
  await server.crowd.connect(SUBSCRIBERS, '127.0.0.1', server.port, server.subscribe);
  server.speaker = net.connect(server.port, '127.0.0.1');
  server.speaker.setNoDelay(true);
  await once(server.speaker, 'connect');
  await server.publisher(server.speaker);
  server.speaker.on('data', () => {}); // replies, if there are any
  await sleep(300);
  const before = server.crowd.bytes;
  server.speaker.write(server.publish(TEXT));
  await sleep(1000);
  server.frame = (server.crowd.bytes - before) / SUBSCRIBERS;
  if (server.frame < TEXT.length || server.frame % 1 !== 0)
    throw new Error(`${server.name} delivered ${server.frame} bytes to each subscriber`);
  if (process.env.VERBOSE) console.log(`${server.name}: ${server.frame} bytes`);
  server.figures = { 1: [], 8: [] };
}

// CPU time per delivered frame
async function measure(server, inFlight) {
  const start = await cpuOf(server.pids);
  for (let n = 0; n < MESSAGES[inFlight]; n += inFlight) {
    const { bytes } = server.crowd;
    server.speaker.write(Buffer.concat(Array.from({ length: inFlight }, () => server.publish(TEXT))));
    await server.crowd.received(bytes, inFlight * SUBSCRIBERS * server.frame)
      .catch((error) => { throw new Error(`${server.name}: ${error.message}; ${server.crowd.bytes - bytes} came`); });
  }
  return ((await cpuOf(server.pids)) - start) / (MESSAGES[inFlight] * SUBSCRIBERS);
}

await createRole('speaker');
const [gateway] = await gatewayPids();
const servers = [gatewayServer('rtsync', port, gateway, token('speaker'))];
for (const start of [nchanServer, wsServer, socketIoServer, mosquittoServer]) {
  const server = await start();
  if (server) servers.push(server);
}
if (hostname !== '127.0.0.1') throw new Error('the gateway is elsewhere');
for (const server of servers) await prepare(server);

for (let round = 0; round < ROUNDS; round++)
  for (const inFlight of [1, 8])
    for (const server of servers) {
      server.figures[inFlight].push(await measure(server, inFlight));
      if (process.env.VERBOSE) console.log(round, inFlight, server.name, server.figures[inFlight].at(-1));
    }

const text = (values) => values.map((v) => v.toFixed(2).padStart(6)).join(' ');
for (const inFlight of [1, 8]) {
  console.log(`${SUBSCRIBERS} subscribers, ${inFlight} in flight, CPU µs per delivered frame`);
  for (const { name, frame, figures } of servers)
    console.log(`  ${name.padEnd(10)} ${text(figures[inFlight])}   (frames of ${frame} bytes)`);
}
for (const { name, figures } of servers)
  for (const inFlight of [1, 8]) figure(`broadcast.${name}.${inFlight}.us_per_frame`, median(figures[inFlight]));
const nchan = servers.find(({ name }) => name === 'nchan');
if (nchan)
  for (const inFlight of [1, 8])
    figure(`broadcast.${inFlight}.ratio_to_nchan`, median(servers[0].figures[inFlight]) / median(nchan.figures[inFlight]));
process.exit(0);
