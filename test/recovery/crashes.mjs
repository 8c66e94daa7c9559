// A transaction whose decoding kills the engine, and with it all of
// PostgreSQL's processes, is decoded three times and then skipped: the server
// does not restart for ever.

import { readFile } from 'node:fs/promises';
import { assert, atEnd, note, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, sql, status, token } from '../e2e/lib/server.mjs';
import { log, restart, running } from './lib/cluster.mjs';

await createRole('reader');
await createTable('calm', 'id int PRIMARY KEY', { roles: ['reader'] });
await createTable('deadly', 'id int, filler text', { roles: ['reader'] });
const bindings = ['calm', 'deadly'].map((table) => ({ event: '*', schema: 'public', table }));
const [{ slot }] = await sql("SELECT slot_name AS slot FROM pg_replication_slots WHERE slot_name LIKE 'rtsync%'");
const path = `${process.env.CLUSTER_DIR}/data/pg_replslot/${slot}/rtsync.decoding`;

// What is being decoded, and what was found to have died in, how often
async function notes() {
  const bytes = await readFile(path);
  return { current: bytes.readBigUInt64LE(8), suspect: bytes.readBigUInt64LE(16), times: bytes.readUInt32LE(24) };
}

async function join(options) {
  const client = await until('a gateway', () => RawClient.open({ apikey: token('reader') }).catch(() => null), { every: 50, timeout: 30_000 });
  atEnd(() => client.close());
  const { response } = await client.joinOk('crashes', bindings, { config: { rtsync: options } });
  client.rtsync = response.rtsync;
  return client;
}
const has = (client, id) => client.changes().some(({ table, record }) => table === 'calm' && record?.id === id);
const told = (client) => client.frames.some((f) => f.payload?.status === 'refetch' && f.payload.message === 'a transaction could not be decoded');
const count = async (text) => (await log()).split(text).length - 1;

// A transaction that takes a while to decode; a small one would be gone at
// once.  Returns where it begins.
async function writeLarge() {
  const [{ lsn }] = await sql("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS lsn");
  await sql("INSERT INTO deadly SELECT g, repeat('x', 40) FROM generate_series(1, 300000) g");
  return BigInt(lsn);
}

// Kills the engine while it decodes the large transaction that began there: the
// first that commits behind it.  It is stopped, and then looked at again.
async function kill(from) {
  const engine = () => status().then((row) => row.state === 'running' && row.pid, () => null);
  const killed = await until('the engine to decode', async () => {
    const pid = await engine();
    if (!pid) return false;
    try {
      const { current } = await notes();
      if (current < from) return false;
      process.kill(pid, 'SIGSTOP');
      const still = (await notes()).current === current;
      process.kill(pid, still ? 'SIGKILL' : 'SIGCONT');
      return still && pid;
    } catch {
      return false; // it had ended
    }
  }, { every: 1, timeout: 60_000 });
  await until('the next engine', async () => {
    const pid = await engine();
    return pid && pid !== killed;
  }, { every: 1, timeout: 60_000 });
}

await sql("ALTER SYSTEM SET logical_decoding_work_mem = '64kB'");
await sql("ALTER SYSTEM SET rtsync.max_retained_wal = '1GB'");
await sql("ALTER SYSTEM SET checkpoint_timeout = '1h'");
await restart('fast');
await running();

test('two deaths prove nothing', async () => {
  const from = await writeLarge();
  for (let n = 1; n <= 2; n++) await kill(from);
  await running({ timeout: 60_000 });
  await sql('INSERT INTO calm VALUES (1)');
  await until('it to be decoded', async () => {
    const { current, suspect, times } = await notes();
    return current === 0n && suspect === 0n && times === 0;
  }, { timeout: 60_000 });
  assert.equal(await count('rtsync skipped transaction'), 0);
  assert.equal(await count('rtsync engine died while it decoded'), 2);
}, { timeout: 180_000 });

let first;
test('after three it is skipped, and told', async () => {
  const client = await join({ cursor: true });
  first = client.rtsync.cursor;
  const from = await writeLarge();
  for (let n = 1; n <= 3; n++) await kill(from);
  await running({ timeout: 60_000 });
  const { pid } = await status();
  await sql('INSERT INTO calm VALUES (2)');
  const again = await join({ since: first });
  await until('what follows', () => has(again, 2), { timeout: 30_000 });
  assert.equal((await status()).pid, pid, 'the engine lives');
  assert.equal(await count('rtsync engine died while it decoded'), 5);
  const [line] = (await log()).match(/rtsync skipped transaction \d+, .*/g);
  note(line);
  assert.match(line, /which committed at [0-9A-F]+\/[0-9A-F]+: the engine has died 3 times in it/);
  assert.ok(again.rtsync.resumed === false || told(again), JSON.stringify(again.rtsync));
}, { timeout: 180_000 });

test('the next engine skips it at once', async () => {
  await restart('fast');
  const { pid } = await running({ timeout: 60_000 });
  await sql('INSERT INTO calm VALUES (3)');
  const again = await join({ since: first });
  await until('what follows', () => again.rtsync.resumed === false || has(again, 3), { timeout: 30_000 });
  assert.ok(again.rtsync.resumed === false || told(again), 'and says so');
  note(`resumed: ${again.rtsync.resumed}`);
  assert.equal((await status()).pid, pid);
  assert.equal(await count('rtsync engine died while it decoded'), 5);
}, { timeout: 120_000 });
