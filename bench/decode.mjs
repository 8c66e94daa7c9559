// Changes per second from the WAL: into rtsync's history, against
// pg_recvlogical with pgoutput in binary form, on the same WAL.
//
// The engine is held (SIGSTOP) while a backlog is written.  It is then timed
// from the moment it goes on until a client receives a row that was committed
// behind the backlog: decoding, history and routing (to nobody, but for that
// row).  pg_recvlogical is timed from its start until it has reached the same
// place; what it receives is thrown away.

import { RawClient } from '../test/e2e/lib/raw.mjs';
import { createRole, createTable, figure, running, server, sleep, sql, status, token, until } from './lib/measure.mjs';

const WORKLOADS = [
  { name: '1row', rows: 1, transactions: 150_000 },
  { name: '10rows', rows: 10, transactions: 50_000 },
  { name: '1000rows', rows: 1000, transactions: 500 },
];
const ROUNDS = 3;

await createRole('reader');
await createTable('sentinel', 'id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY', { roles: ['reader'] });
await createTable('backlog', 'id bigserial PRIMARY KEY, a int, b text, c timestamptz DEFAULT now()');
await sql('CREATE PUBLICATION backlog FOR TABLE backlog');
await sql('ALTER SYSTEM SET synchronous_commit = off');
await sql('SELECT pg_reload_conf()');
const apikey = token('reader');

async function writeBacklog({ rows, transactions }) {
  const statement = `INSERT INTO backlog (a, b) SELECT i, repeat('x', 120) FROM generate_series(1, ${rows}) i;`;
  const script = `/tmp/rtsync-bench-${process.pid}.sql`;
  await server('sh', '-c', `echo "${statement}" > ${script}`);
  const clients = Math.min(4, transactions);
  await server('pgbench', '-n', '-M', 'prepared', '-c', String(clients), '-j', '2', '-t', String(transactions / clients), '-f', script, 'postgres');
  await server('rm', script);
}

async function round(workload) {
  const changes = workload.rows * workload.transactions;
  await sql('TRUNCATE backlog');
  const { pid } = await running();
  const client = await RawClient.open({ apikey });
  await client.joinOk('sentinel', [{ event: 'INSERT', schema: 'public', table: 'sentinel' }]);
  await sql("SELECT pg_create_logical_replication_slot('bench', 'pgoutput')");
  await sleep(1500); // for the engine to catch up with that

  process.kill(pid, 'SIGSTOP');
  await writeBacklog(workload);
  const [{ id }] = await sql('INSERT INTO sentinel DEFAULT VALUES RETURNING id');
  const [{ lsn }] = await sql('SELECT pg_switch_wal(), pg_current_wal_flush_lsn()::text AS lsn');
  await sleep(500);

  const theirStart = performance.now();
  await server('pg_recvlogical', '-d', 'postgres', '-S', 'bench', '--start', '--no-loop', '-E', lsn, '-f', '/dev/null',
    '-o', 'proto_version=1', '-o', 'publication_names=backlog', '-o', 'binary=true');
  const theirs = changes / ((performance.now() - theirStart) / 1000);

  const start = performance.now();
  process.kill(pid, 'SIGCONT');
  const arrived = await until('the sentinel', () =>
    client.frames.find((f) => f.payload?.data?.record?.id === id)?.at, { timeout: 120_000, every: 1 });
  const ours = changes / ((arrived - start) / 1000);

  if ((await status()).pid !== pid) throw new Error('the engine was started anew');
  client.close();
  await sql("SELECT pg_drop_replication_slot('bench')");
  return { ours, theirs };
}

for (const workload of WORKLOADS) {
  const results = [];
  for (let n = 0; n < ROUNDS; n++) results.push(await round(workload));
  const text = (side) => results.map((r) => `${Math.round(r[side] / 1000)}k`).join(' ');
  const best = (side) => Math.max(...results.map((r) => r[side]));
  console.log(`${workload.rows} rows a transaction, changes/s`);
  console.log(`  rtsync into history             ${text('ours')}`);
  console.log(`  pg_recvlogical pgoutput binary  ${text('theirs')}`);
  figure(`decode.${workload.name}.ratio_to_pgoutput`, best('ours') / best('theirs'));
}
process.exit(0);
