// What a chart of a hot table costs: 200 viewers that get every change, and as
// many that get a batch in 500 ms, in alternating phases.  Then, the engine's part
// with 100 viewers of either kind, and with one: it follows each commit as soon as
// somebody listens, which costs the more, the less else the machine has to do.

import { Crowd, greetGateway } from './lib/crowd.mjs';
import { cpuTime, createRole, createTable, database, figure, gatewayPids, hostname, median, port, sleep, sql, status, token, until } from './lib/measure.mjs';

const VIEWERS = 200;
const ROWS = 50;
const RATE = 2000; // changes a second
const SECONDS = 5;
const ROUNDS = 3;
const INTERVAL = 500;

await createRole('viewer');
await createTable('prices', 'id int PRIMARY KEY, price int, at timestamptz', { roles: ['viewer'] });
await sql(`INSERT INTO prices SELECT g, 0, now() FROM generate_series(1, ${ROWS}) g`);
const pids = { engine: (await status()).pid, gateway: (await gatewayPids())[0] };

// Updates one row in each transaction, at the rate.
async function write() {
  const connection = await database.connect();
  const started = performance.now();
  let n = 0;
  while (performance.now() - started < SECONDS * 1000) {
    const due = Math.floor((performance.now() - started) / 1000 * RATE);
    for (; n < due; n++) await connection.query(`UPDATE prices SET price = ${n}, at = now() WHERE id = 1 + ${n} % ${ROWS}`);
    await sleep(2);
  }
  connection.release();
  return n;
}

async function phase(rtsync, viewers = VIEWERS) {
  const crowd = new Crowd();
  const bindings = [{ event: '*', schema: 'public', table: 'prices', ...(rtsync && { rtsync }) }];
  if (rtsync !== null) await crowd.connect(viewers, hostname, port, greetGateway(token('viewer'), bindings));
  await sleep(1200);
  const before = { engine: await cpuTime(pids.engine), gateway: await cpuTime(pids.gateway), bytes: crowd.bytes };
  const changes = await write();
  await sleep(700);
  const result = {
    changes,
    engine: (await cpuTime(pids.engine) - before.engine) / 1e4 / SECONDS, // percent of a core
    gateway: (await cpuTime(pids.gateway) - before.gateway) / 1e4 / SECONDS,
    bytes: (crowd.bytes - before.bytes) / viewers / SECONDS,
  };
  crowd.close();
  await until('them to be gone', async () => Number((await status()).connections) === 0, { timeout: 30_000, every: 50 });
  return result;
}

const kinds = { none: null, live: undefined, throttled: { interval: INTERVAL } };
const rounds = { none: [], live: [], throttled: [], live_100: [], throttled_100: [], live_1: [], throttled_1: [] };
for (let round = 0; round < ROUNDS; round++) {
  for (const [kind, rtsync] of Object.entries(kinds)) rounds[kind].push(await phase(rtsync));
  for (const viewers of [100, 1])
    for (const kind of ['live', 'throttled']) rounds[`${kind}_${viewers}`].push(await phase(kinds[kind], viewers));
}
const of = (kind, what) => median(rounds[kind].map((r) => r[what]));

console.log(`${VIEWERS} viewers, ${ROWS} rows, ${Math.round(of('live', 'changes') / SECONDS)} changes/s, each in a transaction; interval ${INTERVAL} ms`);
console.log('viewers      engine  gateway  bytes/s to each');
for (const kind of Object.keys(rounds))
  console.log(`${kind.padEnd(12)} ${of(kind, 'engine').toFixed(1).padStart(5)}%  ${of(kind, 'gateway').toFixed(1).padStart(6)}%  ${of(kind, 'bytes').toFixed(0)}`);
figure('interval.bytes_ratio', of('throttled', 'bytes') / of('live', 'bytes'), 4);
figure('interval.cpu_ratio', (of('throttled', 'engine') + of('throttled', 'gateway')) / (of('live', 'engine') + of('live', 'gateway')));
for (const kind of ['live_100', 'throttled_100', 'live_1', 'throttled_1']) figure(`interval.engine_percent_${kind}`, of(kind, 'engine'), 1);
figure('interval.viewer_bytes_per_s', of('throttled', 'bytes'), 0);
await database.end();
