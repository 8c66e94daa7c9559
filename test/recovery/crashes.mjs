// A transaction that kills the engine, and with it all of PostgreSQL's
// processes, when it is decoded or when its changes are decided and rendered, is
// tried three times and then skipped: the server does not restart for ever.

import { readFile } from 'node:fs/promises';
import { assert, atEnd, note, test, until } from '../e2e/lib/tap.mjs';
import { createRole, createTable, pg, sql, status, token } from '../e2e/lib/server.mjs';
import { log, restart, running, served } from './lib/cluster.mjs';

await createRole('reader');
await createTable('calm', 'id int PRIMARY KEY', { roles: ['reader'] });
await createTable('deadly', 'id int, filler text', { roles: ['reader'] });
const bindings = ['calm', 'deadly'].map((table) => ({ event: '*', schema: 'public', table }));
const [{ slot }] = await sql("SELECT slot_name AS slot FROM pg_replication_slots WHERE slot_name LIKE 'rtsync%'");
const path = `${process.env.CLUSTER_DIR}/data/pg_replslot/${slot}/rtsync.decoding`;

// What is at hand, and what was found to have died in, how often
async function notes() {
  const bytes = await readFile(path);
  return {
    current: bytes.readBigUInt64LE(8), last: bytes.readBigUInt64LE(32), routed: bytes.readUInt32LE(48) !== 0,
    suspect: bytes.readBigUInt64LE(16), times: bytes.readUInt32LE(24),
  };
}

async function join(options) {
  const client = await served({ apikey: token('reader') });
  atEnd(() => client.close());
  const { response } = await client.joinOk('crashes', bindings, { config: { rtsync: options } });
  client.rtsync = response.rtsync;
  return client;
}
const has = (client, id) => client.changes().some(({ table, record }) => table === 'calm' && record?.id === id);
const told = (client) => client.frames.some((f) => f.payload?.status === 'refetch' && f.payload.message === 'a transaction could not be decoded');
const count = async (text) => (await log()).split(text).length - 1;

const insertLsn = async () => BigInt((await sql("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS lsn"))[0].lsn);

// A transaction that takes a while to decode; a small one would be gone at
// once.  Returns between which places it commits.
async function writeLarge() {
  const from = await insertLsn();
  await sql("INSERT INTO deadly SELECT g, repeat('x', 40) FROM generate_series(1, 300000) g");
  return { from, to: await insertLsn() };
}

const engine = () => status().then((row) => row.state === 'running' && row.pid, () => null);
const decodedLsn = () =>
  sql("SELECT decoded_lsn - '0/0'::pg_lsn AS lsn FROM rtsync.pg_stat_rtsync WHERE datname = current_database()")
    .then(([row]) => BigInt(row?.lsn ?? 0)).catch(() => 0n);

// Stops the engine while it decodes that transaction, looks at it again when it is
// stopped, and does something to it.  Then waits for the next engine.  Returns
// false if it was not noticed until it was decoded.
async function strike({ from, to }, how) {
  const isDecoded = ({ current, routed }) => !routed && current >= from && current < to;
  const struck = await until('the engine to decode', async () => {
    if (!isDecoded(await notes())) return (await decodedLsn()) >= to && 'too late';
    const pid = await engine();
    if (!pid) return false;
    try {
      process.kill(pid, 'SIGSTOP');
      if (isDecoded(await notes())) return pid;
      process.kill(pid, 'SIGCONT');
    } catch {
      // it had ended
    }
    return false;
  }, { every: 1, timeout: 60_000 });
  if (struck === 'too late') return false;
  await how(struck);
  await until('the next engine', async () => {
    const pid = await engine();
    return pid && pid !== struck;
  }, { every: 1, timeout: 60_000 });
  return true;
}

// Does something so many times while the same transaction is decoded; anew,
// with another, if the machine was too busy for that.
async function strikes(times, how) {
  for (;;) {
    const large = await writeLarge();
    let n = 0;
    while (n < times && (await strike(large, how))) n++;
    if (n === times) return;
    note(`number ${n + 1} came too late`);
  }
}

let deaths = 0;
function kill(pid) {
  process.kill(pid, 'SIGKILL');
  deaths++;
}

// Another process crashes, and the postmaster tells all others to quit.
async function quit(pid) {
  const victim = new pg.Client();
  victim.on('error', () => {});
  await victim.connect();
  const { rows } = await victim.query('SELECT pg_backend_pid() AS pid');
  process.kill(rows[0].pid, 'SIGKILL');
  await until('the engine to be told', async () => {
    const pending = (await readFile(`/proc/${pid}/status`, 'utf8')).match(/^(?:Sig|Shd)Pnd:\t[0-9a-f]+/gm);
    return pending.some((line) => Number.parseInt(line.slice(8), 16) & 4);
  }, { every: 1 }); // five seconds later it is killed
  process.kill(pid, 'SIGCONT');
}

await sql("ALTER SYSTEM SET logical_decoding_work_mem = '64kB'");
await sql("ALTER SYSTEM SET rtsync.max_retained_wal = '1GB'");
await sql("ALTER SYSTEM SET checkpoint_timeout = '1h'");
await sql("ALTER SYSTEM SET rtsync.policy_timeout = '10min'");
await restart('fast');
await running();

test('two deaths prove nothing', async () => {
  await strikes(2, kill);
  await running({ timeout: 60_000 });
  await sql('INSERT INTO calm VALUES (1)');
  await until('it to be decoded', async () => {
    const { current, suspect, times } = await notes();
    return current === 0n && suspect === 0n && times === 0;
  }, { timeout: 60_000 });
  assert.equal(await count('rtsync skipped transaction'), 0);
  assert.equal(await count('rtsync engine died while it decoded'), deaths);
}, { timeout: 400_000 });

test('that another process crashes, or the server is stopped at once, counts for nothing', async () => {
  const before = await count('rtsync engine died while it');
  await strikes(3, quit);
  await running({ timeout: 60_000 });
  const client = await join({ cursor: true });
  await sql('INSERT INTO calm VALUES (10)');
  await until('what follows', () => has(client, 10), { timeout: 60_000 });
  assert.equal(await count('rtsync skipped transaction'), 0);
  assert.equal(await count('rtsync engine died while it'), before);
}, { timeout: 400_000 });

let first;
test('after three it is skipped, and told', async () => {
  const client = await join({ cursor: true });
  first = client.rtsync.cursor;
  await strikes(3, kill);
  await running({ timeout: 60_000 });
  const { pid } = await status();
  await sql('INSERT INTO calm VALUES (2)');
  const again = await join({ since: first });
  await until('what follows', () => has(again, 2), { timeout: 120_000 });
  assert.equal((await status()).pid, pid, 'the engine lives');
  assert.equal(await count('rtsync engine died while it decoded'), deaths);
  const [line] = (await log()).match(/rtsync skipped transaction \d+, .*/g);
  note(line);
  assert.match(line, /which committed at [0-9A-F]+\/[0-9A-F]+: the engine has died 3 times in it/);
  assert.ok(again.rtsync.resumed === false || told(again), JSON.stringify(again.rtsync));
}, { timeout: 400_000 });

test('the next engine skips it at once', async () => {
  await restart('fast');
  const { pid } = await running({ timeout: 60_000 });
  await sql('INSERT INTO calm VALUES (3)');
  const again = await join({ since: first });
  await until('what follows', () => again.rtsync.resumed === false || has(again, 3), { timeout: 120_000 });
  assert.ok(again.rtsync.resumed === false || told(again), 'and says so');
  note(`resumed: ${again.rtsync.resumed}`);
  assert.equal((await status()).pid, pid);
  assert.equal(await count('rtsync engine died while it decoded'), deaths);
}, { timeout: 200_000 });

const routedDeaths = () => count('rtsync engine died while it routed');
const arrived = (client) => client.changes().filter(({ table }) => table === 'slow').map(({ record }) => record.id);

test('deaths when changes are decided count, too, and the transaction is found among others', async () => {
  await createTable('slow', 'id int PRIMARY KEY', { roles: ['reader'] });
  await sql(`CREATE FUNCTION sleeps(id int) RETURNS bool LANGUAGE plpgsql AS
      'BEGIN IF id = 13 THEN PERFORM pg_sleep(600); END IF; RETURN true; END';
    ALTER TABLE slow ENABLE ROW LEVEL SECURITY;
    CREATE POLICY sleeps ON slow USING (sleeps(id))`);
  bindings.push({ event: '*', schema: 'public', table: 'slow' });
  const client = await join({ cursor: true });
  const since = client.rtsync.cursor;
  client.close();
  await until('nobody to listen', async () =>
    (await sql("SELECT FROM rtsync.pg_stat_rtsync_subscription WHERE relname = 'slow'")).length === 0);
  for (const values of ['(1)', '(12), (13), (14)', '(2)']) await sql(`INSERT INTO slow VALUES ${values}`);

  const found = [];
  for (let n = 1; n <= 3; n++) {
    const { pid } = await running({ timeout: 60_000 });
    const victim = await served({ apikey: token('reader') });
    victim.join('crashes', bindings, { config: { rtsync: { since } } }).catch(() => {});
    found.push(await until('the policy to sleep', async () => {
      const [row] = await sql("SELECT wait_event FROM pg_stat_activity WHERE pid = $1", [pid]);
      const now = await notes();
      return row?.wait_event === 'PgSleep' && now.routed && now.current !== 0n && now;
    }, { timeout: 60_000 }));
    process.kill(pid, 'SIGKILL');
    await until('the next engine', async () => (await routedDeaths()) === n, { timeout: 60_000, every: 50 });
    victim.close();
  }
  assert.ok(found[0].current < found[0].last, 'several at first');
  assert.ok(found[1].current === found[1].last && found[2].current === found[1].current, 'one then');

  const { pid } = await running({ timeout: 60_000 });
  const again = await join({ since });
  assert.equal(again.rtsync.resumed, true);
  await until('all the others', () => arrived(again).includes(2), { timeout: 120_000 });
  assert.deepEqual(arrived(again), [1, 2]);
  await until('it to be told', () => told(again));

  const [epoch, , , access] = again.rtsync.cursor.split(':');
  const middle = await join({ since: `${epoch}:${found[2].current.toString(16)}:1:${access}` });
  assert.equal(middle.rtsync.resumed, true);
  await until('what follows', () => arrived(middle).includes(2), { timeout: 120_000 });
  await until('who had a part of it to be told, too', () => told(middle));
  assert.equal((await status()).pid, pid);
}, { timeout: 400_000 });
