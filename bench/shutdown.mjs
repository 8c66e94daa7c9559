// A fast shutdown of the server with 10,000 clients: how much longer it takes,
// and how many clients are told within the same second.

import { Crowd, greetGateway } from './lib/crowd.mjs';
import { createRole, createTable, figure, hostname, port, running, server, token, until } from './lib/measure.mjs';

const CLIENTS = Number(process.env.CLIENTS ?? 9000); // each takes two descriptors of this machine
const dir = process.env.CLUSTER_DIR;

await createRole('reader');
await createTable('idle', 'id int PRIMARY KEY', { roles: ['reader'] });
const stop = () => server('sh', '-c', 'pg_ctl stop -w -m fast >/dev/null 2>&1');
const start = () => server('sh', '-c', `pg_ctl start -w -l '${dir}/log' >/dev/null 2>&1 </dev/null`);

async function shutdown() {
  const begin = performance.now();
  await stop();
  return performance.now() - begin;
}

const alone = await shutdown();
await start();
await running();
const apikey = token('reader');
const crowd = new Crowd();
await until('the gateway', () => crowd.connect(1, hostname, port, greetGateway(apikey)).then(() => true, () => false), { every: 50 });
await crowd.connect(CLIENTS, hostname, port, greetGateway(apikey, [{ event: '*', schema: 'public', table: 'idle' }]));

const told = [];
for (const socket of crowd.sockets) socket.once('data', () => told.push(performance.now()));
for (const socket of crowd.sockets) socket.on('error', () => {}).once('close', () => {});
const with_ = await shutdown();
await until('all to be told', () => told.length === CLIENTS, { timeout: 60_000 });
const first = Math.min(...told);
const seconds = [];
for (const at of told) {
  const n = Math.floor((at - first) / 1000);
  seconds[n] = (seconds[n] ?? 0) + 1;
}
console.log(`fast shutdown: ${alone.toFixed(0)} ms without clients, ${with_.toFixed(0)} ms with ${CLIENTS}`);
console.log(`told in each second: ${seconds.map((n) => n ?? 0).join(' ')}`);
figure('shutdown.delay_ms', with_ - alone, 0);
figure('shutdown.told_in_one_second', Math.max(...seconds.filter(Boolean)), 0);
crowd.close();
process.exit(0);
