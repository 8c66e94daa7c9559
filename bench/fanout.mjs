// One committed row to 1,000 sockets: the gateway's CPU time for each frame,
// against a program that only calls send().

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Crowd, greetGateway } from './lib/crowd.mjs';
import { cpuTime, createRole, createTable, figure, gatewayPids, hostname, median, port, run, sleep, sql, token } from './lib/measure.mjs';

const CONNECTIONS = 1000;
const FRAME = 300;
const ROUNDS = 6;
const MESSAGES = 100; // of each side in a round

await createRole('reader');
await createTable('fanout', 'id int GENERATED ALWAYS AS IDENTITY, body text', { roles: ['reader'] });
await sql('ALTER TABLE fanout ADD PRIMARY KEY (id)');

const crowd = new Crowd();
await crowd.connect(CONNECTIONS, hostname, port,
  greetGateway(token('reader'), [{ event: 'INSERT', schema: 'public', table: 'fanout' }]));
await sleep(500);

const insert = (filler) => sql('INSERT INTO fanout (body) VALUES ($1)', ['x'.repeat(filler)]);

// How large is a frame with an empty body?  Then fill it up to 300 bytes.
await sql("SELECT setval(pg_get_serial_sequence('fanout', 'id'), 1000)"); // as many digits in all
let before = crowd.bytes;
await insert(0);
await sleep(1000);
const empty = (crowd.bytes - before) / CONNECTIONS;
const filler = Math.max(0, FRAME - Math.round(empty));
before = crowd.bytes;
await insert(filler);
await sleep(1000);
const frame = (crowd.bytes - before) / CONNECTIONS;

const program = `${process.env.BENCH_SCRATCH}/send_loop`;
await run('cc', ['-O2', '-o', program, new URL('send_loop.c', import.meta.url).pathname]);
const loop = spawn(program, [CONNECTIONS, frame], { stdio: ['pipe', 'pipe', 'inherit'] });
const [line] = await once(loop.stdout, 'data');
const bare = new Crowd();
await bare.connect(CONNECTIONS, '127.0.0.1', Number(line));

// CPU time per frame of this process while "send" is called and received by
// everybody, one message in flight
async function measure(pid, receivers, send) {
  const start = await cpuTime(pid);
  for (let n = 0; n < MESSAGES; n++) {
    const seen = receivers.bytes;
    await send();
    await receivers.received(seen, CONNECTIONS * frame);
  }
  return ((await cpuTime(pid)) - start) / (MESSAGES * CONNECTIONS);
}

const [gateway] = await gatewayPids();
const ours = [];
const theirs = [];
for (let round = 0; round < ROUNDS; round++) {
  ours.push(await measure(gateway, crowd, () => insert(filler)));
  theirs.push(await measure(loop.pid, bare, () => loop.stdin.write('x')));
}
loop.kill();

const text = (values) => values.map((v) => v.toFixed(2)).join(' ');
console.log(`frames of ${frame} bytes to ${CONNECTIONS} sockets, one message in flight, CPU µs per frame`);
console.log(`  gateway  ${text(ours)}`);
console.log(`  send()   ${text(theirs)}`);
figure('fanout.us_per_frame', median(ours));
figure('fanout.ratio_to_send', median(ours) / median(theirs));
process.exit(0);
