// The disk never fills: whatever happens, the replication slot holds back no
// more WAL than rtsync.max_retained_wal, and who missed something is told.

import { assert, atEnd, note, sleep, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, pg, sql, status, token } from '../e2e/lib/server.mjs';
import { gatewayPids, log, restart, running, server } from './lib/cluster.mjs';
import { holdCommits, releaseCommits } from './lib/syncrep.mjs';

const LIMIT = 16; // MB; the smallest that there is
const SLACK = 12; // what may be written until the engine has looked, about once a second
const PIECE = 6; // MB that are written without waiting until it has

await createRole('reader');
await createTable('live', 'id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, filler text', { roles: ['reader'] });
await sql('CREATE TABLE unpublished (filler text)');
await sql(`ALTER SYSTEM SET rtsync.max_retained_wal = '${LIMIT}MB'`);
await sql("ALTER SYSTEM SET rtsync.history_size = '4MB'");
await sql('SELECT pg_reload_conf()');

const filler = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 30) i)";
const fill = (table, mb) => `INSERT INTO ${table} (filler) SELECT ${filler} FROM generate_series(1, ${mb * 1000})`;
const connect = async () => {
  const client = await RawClient.open({ apikey: token('reader') });
  await client.joinOk('live', [{ event: '*', schema: 'public', table: 'live' }], { config: { rtsync: { cursor: true } } });
  client.refetches = () => client.frames.filter((f) => f.event === 'system' && f.payload.status === 'refetch').length;
  atEnd(() => client.close());
  return client;
};

// A connection of its own, which restarts may end.
async function session(options) {
  const client = new pg.Client(options);
  client.on('error', () => {});
  await client.connect();
  atEnd(() => client.end());
  return client;
}

// What the slot holds back, in MB; 0 if there is none.
async function retained() {
  const [row] = await sql(`SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn) / 1048576.0 AS mb
    FROM pg_replication_slots WHERE slot_name LIKE 'rtsync%' AND database = current_database()`);
  return row ? Number(row.mb) : 0;
}

// The most that is held back while something runs.
async function most(run) {
  let most_ = 0;
  let over = false;
  const watch = (async () => {
    while (!over) {
      most_ = Math.max(most_, await retained().catch(() => 0));
      await sleep(20);
    }
  })();
  try {
    await run();
  } finally {
    over = true;
    await watch;
  }
  return most_;
}

async function bounded(what, run, limit = LIMIT + SLACK) {
  const mb = await most(run);
  note(`${what}: ${mb.toFixed(1)} MB at most`);
  assert.ok(mb < limit, `${what}: ${mb.toFixed(1)} MB were held back`);
}

// A row that is written now arrives.
async function arrives(client) {
  const [{ id }] = await sql("INSERT INTO live (filler) VALUES ('x') RETURNING id");
  await until('a new row', () => client.changes().some(({ record }) => record?.id === Number(id)), { timeout: 30_000, every: 20 });
}

// Waits until the engine has looked, after what was written until now; one that
// has no slot holds nothing back.
async function looked() {
  const [{ t }] = await sql('SELECT clock_timestamp()::text AS t');
  await until('the engine to look', async () => {
    const [row] = await sql('SELECT updated > $1::timestamptz AS yes FROM rtsync.pg_stat_rtsync WHERE datname = current_database()', [t]);
    return row?.yes || (await retained()) === 0;
  }, { every: 20 });
}

// Writes so many MB, each with a statement.
async function write(table, mb, run = sql) {
  for (let done = 1; done <= mb; done++) {
    await run(fill(table, 1));
    if (done % PIECE === 0) await looked();
  }
}

const epoch = async () => (await status()).epoch;

// The epoch, when what was held back before can no longer cost the slot. Epoch
// and position are of one look of the engine: a new slot has another epoch.
const settled = (limit = LIMIT) => until('the slot to settle', async () => {
  const [row] = await sql(`SELECT epoch, pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn) / 1048576.0 < $1 AS yes
    FROM rtsync.pg_stat_rtsync WHERE datname = current_database()`, [limit]);
  return row?.yes && row.epoch;
}, { every: 20 });

const follows = async () => (await sql(`SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), decoded_lsn) < 2000000 AS yes
  FROM rtsync.status() WHERE database = current_database()`))[0].yes;

async function toldAnew(client, before) {
  await until('the new slot', async () => {
    const now = await epoch();
    return now && now !== before;
  }, { timeout: 30_000, every: 50 });
  await until('the refetch', () => client.refetches() > 0, { timeout: 30_000 });
  await arrives(client);
  assert.match(await log(), /rtsync gives up replication slot "rtsync_\d+" and its history: it keeps \d+ MB of WAL/);
}

test('no subscriber: tables that are published, tables that are not', async () => {
  await bounded('published', () => write('live', 40));
  await bounded('not published', () => write('unpublished', 40));
}, { timeout: 90_000 });

test('a subscriber that reads', async () => {
  const before = await settled(LIMIT / 2); // what was written so fast before may have cost the slot
  const client = await connect();
  await arrives(client);
  const received = client.changes().length;
  await bounded('with a subscriber', async () => {
    // as fast as the engine decodes: one that cannot follow gives up the slot
    for (let mb = 0; mb < 40; mb++) {
      await write('live', 1);
      if ((await retained()) > LIMIT * 0.85) await looked(); // at rest it may well keep that much
    }
    await arrives(client);
  });
  assert.equal(await epoch(), before, 'the same epoch');
  note(`${client.changes().length} changes, ${client.refetches()} refetches`);
  assert.ok(client.changes().length - received === 40_001 || client.refetches() > 0, 'everything, or a refetch');
  client.close();
}, { timeout: 90_000 });

// A history of little that is published among much else costs the slot no more
// than it may.
async function growsOld(what, publish) {
  const before = await settled(); // under the limit of the test before
  await sql("ALTER SYSTEM SET rtsync.max_retained_wal = '64MB'");
  await sql('SELECT pg_reload_conf()');
  const mb = await most(async () => {
    for (let i = 0; i < 160; i++) {
      await publish();
      await write('unpublished', 1);
      if (i % 8 !== 0) continue;
      await until('the engine to follow', follows, { every: 50, timeout: 30_000 });
      await looked();
    }
  });
  const after = await epoch();
  await sql(`ALTER SYSTEM SET rtsync.max_retained_wal = '${LIMIT}MB'`);
  await sql('SELECT pg_reload_conf()');
  note(`a history of ${what}, 32 MB: ${mb.toFixed(1)} MB at most`);
  assert.equal(after, before);
  assert.ok(mb > 25 && mb < 62, `${mb.toFixed(1)} MB were held back`);
}

test('a history that reaches back as far as it may costs the slot no more than that', async () => {
  await growsOld('rows', () => sql("INSERT INTO live (filler) VALUES ('x')"));
}, { timeout: 120_000 });

test('so does one of nothing but messages that are not transactional', async () => {
  await growsOld('messages', () => sql("SELECT rtsync.send('{}', 'e', 't', false, transactional => false)"));
}, { timeout: 120_000 });

test('only another database writes', async () => {
  await sql('CREATE DATABASE another');
  const another = await session({ database: 'another' });
  await another.query('CREATE TABLE unpublished (filler text)');
  await bounded('another database', async () => {
    await write('unpublished', 40, (text) => another.query(text)); // nobody wakes the engine for it
    await until('the slot to move on', async () => (await retained()) < LIMIT / 2, { timeout: 30_000, every: 100 });
  });
}, { timeout: 90_000 });

test('a gateway that hangs', async () => {
  const client = await connect();
  const [pid] = await gatewayPids();
  process.kill(pid, 'SIGSTOP');
  await bounded('a hanging gateway', () => write('live', 48));
  try {
    process.kill(pid, 'SIGCONT');
  } catch {
    // it was replaced
  }
  await until('the client to be told', () => client.closed || client.refetches() > 0, { timeout: 30_000 });
  client.close();
  const next = await until('another to be served', () => connect().catch(() => null), { timeout: 30_000, every: 200 });
  await arrives(next);
  next.close();
}, { timeout: 120_000 });

test('a huge transaction', async () => {
  const before = await settled();
  const client = await connect();
  const writer = await session();
  await writer.query('BEGIN');
  await bounded('a huge transaction', async () => {
    await write('live', 40, (text) => writer.query(text));
    await writer.query('COMMIT');
  });
  await toldAnew(client, before);
  client.close();
}, { timeout: 120_000 });

test('a transaction that does not end', async () => {
  const before = await settled();
  const client = await connect();
  const old = await session();
  await old.query("BEGIN; INSERT INTO live (filler) VALUES ('old')");
  await bounded('an old transaction', () => write('live', 40));
  const { state, message } = await status();
  assert.equal(state, 'running');
  assert.match(message, /is made anew when all transactions have ended/);
  assert.equal(await retained(), 0, 'there is no slot');
  await old.query('COMMIT');
  await toldAnew(client, before);
  assert.equal((await status()).message, null);
  client.close();
}, { timeout: 120_000 });

test('a transaction that stays invisible: its synchronous standby is down', async () => {
  const before = await settled();
  const client = await connect();
  await holdCommits();
  const waits = await session();
  const commit = waits.query("INSERT INTO live (filler) VALUES ('invisible')");
  await until('it to wait', async () => (await sql("SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'")).length > 0);
  const others = await session();
  await others.query("SET synchronous_commit = 'local'");
  await bounded('an invisible transaction', () => write('live', 40, (text) => others.query(text)));
  await releaseCommits();
  await commit;
  await toldAnew(client, before);
  client.close();
}, { timeout: 120_000 });

test('a slot that somebody drops is made anew, under a new epoch', async () => {
  const before = await settled();
  const mark = (await log()).length;
  await until('the slot to be dropped', async () => {
    const { pid } = await status();
    if (pid) await sql('SELECT pg_terminate_backend($1)', [pid]);
    return sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'rtsync%'").then((rows) => rows.length > 0, () => false);
  }, { every: 1 });
  await running();
  assert.notEqual(await epoch(), before);
  assert.match((await log()).slice(mark), /rtsync created replication slot/);
  const client = await until('a client to be served', () => connect().catch(() => null), { every: 100 });
  await arrives(client);
  client.close();
}, { timeout: 90_000 });

test('a slot that the server invalidated is made anew, under a new epoch', async () => {
  const before = await settled();
  await sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'");
  await sql('SELECT pg_reload_conf()');
  const old = await session();
  await old.query("BEGIN; INSERT INTO live (filler) VALUES ('old')");
  await until('the slot to be invalidated', async () => {
    await sql('SELECT pg_switch_wal(); CHECKPOINT');
    return /was invalidated and is created anew|invalidating/.test(await log());
  }, { every: 50, timeout: 30_000 });
  await old.query('COMMIT');
  await sql('ALTER SYSTEM RESET max_slot_wal_keep_size');
  await sql('SELECT pg_reload_conf()');
  await until('another epoch', async () => {
    const row = await status();
    return row.state === 'running' && row.epoch && row.epoch !== before;
  }, { timeout: 60_000, every: 100 });
  const client = await until('a client to be served', () => connect().catch(() => null), { every: 100 });
  await arrives(client);
  client.close();
}, { timeout: 120_000 });

const [{ idle }] = await sql("SELECT count(*) = 1 AS idle FROM pg_settings WHERE name = 'idle_replication_slot_timeout'");
if (idle)
  test('a slot that was idle for too long, while no engine ran, is made anew', async () => {
    const before = await settled();
    const mark = (await log()).length;
    await sql("ALTER SYSTEM SET idle_replication_slot_timeout = '1s'");
    // ALTER SYSTEM would make of '' a library without a name.
    await server('sh', '-c', `echo "shared_preload_libraries = ''" >>"$PGDATA/postgresql.auto.conf"`);
    await restart('fast');
    await until('the slot to be invalidated', async () => {
      await sql('CHECKPOINT');
      const [slot] = await sql("SELECT invalidation_reason AS reason FROM pg_replication_slots WHERE slot_name LIKE 'rtsync%'");
      return slot.reason === 'idle_timeout';
    }, { every: 200, timeout: 30_000 });
    await sql('ALTER SYSTEM RESET idle_replication_slot_timeout');
    await sql('ALTER SYSTEM RESET shared_preload_libraries');
    await restart('fast');
    await running({ timeout: 60_000 });
    assert.notEqual(await epoch(), before);
    assert.match((await log()).slice(mark), /was invalidated and is created anew/);
    const client = await until('a client to be served', () => connect().catch(() => null), { every: 100 });
    await arrives(client);
    client.close();
  }, { timeout: 120_000 });

test('a large transaction gets through temp_file_limit', async () => {
  await sql("ALTER SYSTEM SET temp_file_limit = '64kB'");
  await sql("ALTER SYSTEM SET logical_decoding_work_mem = '64kB'");
  await sql("ALTER SYSTEM SET rtsync.history_size = '1MB'");
  await sql("ALTER SYSTEM SET rtsync.max_retained_wal = '128MB'"); // not what is tested here
  await restart('fast');
  await running();
  const client = await until('a client to be served', () => connect().catch(() => null), { every: 100 });
  const { pid } = await status();
  await sql(fill('live', 8));
  await until('all of it, or a refetch', () => client.changes().length >= 8000 || client.refetches() > 0, { timeout: 30_000 });
  assert.equal((await status()).pid, pid);
  client.close();
}, { timeout: 90_000 });

test('a full disk for temporary files: it goes on when there is room again', async () => {
  const { stdout } = await server('sh', '-c', 'echo $PGDATA');
  const dir = `${stdout.trim()}/base/pgsql_tmp`;
  const { execFileSync } = await import('node:child_process');
  try {
    execFileSync('sh', ['-c', `mkdir -p ${dir} && chown --reference=${dir}/.. ${dir} && mount -t tmpfs -o size=1m tmpfs ${dir} && chown --reference=${dir}/.. ${dir}`], { stdio: 'ignore' });
  } catch {
    return note('no file system can be mounted here');
  }
  try {
    await sql(fill('live', 8));
    await until('the engine to notice', async () => /could not write (to )?file .*No space left on device/.test(await log()), { timeout: 30_000, every: 100 });
  } finally {
    execFileSync('umount', ['-l', dir]);
  }
  await running({ timeout: 60_000 });
  const client = await until('a client to be served', () => connect().catch(() => null), { every: 100, timeout: 30_000 });
  await arrives(client);
  client.close();
}, { timeout: 150_000 });
