// cluster: -c rtsync.history_size=1MB -c logical_decoding_work_mem=64kB -c log_temp_files=0 -c rtsync.send_queue_size=1GB -c rtsync.send_timeout=5min -c rtsync.idle_timeout=0
//
// What the history holds back of dead rows in the catalogs; and a transaction
// much larger than it, which goes through a file: those who listen get all of it
// once and in order, those who come later are told.

import { assert, atEnd, note, sleep, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, sql, status, token } from '../e2e/lib/server.mjs';
import { memoryOf } from '../../bench/lib/measure.mjs';
import { log } from './lib/cluster.mjs';

const ROWS = 40_000;
const FILLER = 30 * 32; // bytes of each
const SEEN = 20; // one in so many is seen
const LIMIT = 16; // MB of WAL

await createRole('reader');
await createTable('big', 'id int PRIMARY KEY, seen bool, filler text', { roles: ['reader'] });
const apikey = token('reader');
const binding = { event: 'INSERT', schema: 'public', table: 'big', filter: 'seen=eq.true' };

async function join(rtsync, bindings = [binding]) {
  const client = await RawClient.open({ apikey });
  atEnd(() => client.close());
  const { response } = await client.joinOk('big', bindings, { config: { rtsync } });
  client.rtsync = response.rtsync;
  client.ids = () => client.changes().map(({ record }) => record.id);
  client.refetches = () => client.frames.filter((f) => f.event === 'system' && f.payload.status === 'refetch');
  return client;
}

await sql('CREATE TABLE unpublished (filler text)');
await sql(`ALTER SYSTEM SET rtsync.max_retained_wal = '${LIMIT}MB'`);
await sql('SELECT pg_reload_conf()');

const row = (id) => sql('INSERT INTO big VALUES ($1, true)', [id]);
const has = (client, id) => until(`row ${id}`, () => client.ids().includes(id), { timeout: 120_000, every: 20 });

test('dead rows of catalogs are held back as far as the history reaches, and no further', async () => {
  await row(-100);
  await sql('CREATE TABLE going ()');
  const [{ xid }] = await sql('SELECT pg_current_xact_id()::text AS xid');
  await sql('DROP TABLE going');
  const { epoch } = await status();
  const [{ began }] = await sql('SELECT pg_current_wal_lsn() AS began');
  // Once the engine has seen all that was written: how much that is, and whether
  // the slot still holds back what was dropped
  const look = async () => {
    const [{ now, lsn }] = await sql('SELECT clock_timestamp()::text AS now, pg_current_wal_lsn() AS lsn');
    return until('the engine to look', async () => (await sql(`SELECT pg_wal_lsn_diff($2, $4) / 1048576.0 AS mb,
        age(r.catalog_xmin) >= age($3::text::xid) AS held
      FROM rtsync.pg_stat_rtsync AS s JOIN pg_replication_slots AS r ON r.slot_name = 'rtsync_' || s.datid
      WHERE s.datname = current_database() AND s.updated > $1::timestamptz AND s.routed_lsn >= $2`, [now, lsn, xid, began]))[0],
    { timeout: 60_000, every: 20 });
  };
  let seen = await look();
  for (let n = 1; seen.held && n <= 30; n++) {
    await row(-100 - n); // few rows are published, among much else
    await sql('INSERT INTO unpublished SELECT repeat(md5(g::text), 30) FROM generate_series(1, 1000) g');
    const before = seen;
    seen = await look();
    if (!seen.held) note(`held back for ${Number(before.mb).toFixed(1)} MB of WAL, and no more after ${Number(seen.mb).toFixed(1)}`);
    else assert.ok(seen.mb < LIMIT, `held back for ${seen.mb} MB`);
  }
  assert.equal(seen.held, false);
  assert.ok(seen.mb > LIMIT / 2, 'the history reaches as far back as half of the limit');
  assert.equal((await status()).epoch, epoch);
}, { timeout: 240_000 });

test('who listens gets all of it, once and in order; who was away is told', async () => {
  await sql("ALTER SYSTEM SET rtsync.max_retained_wal = '1GB'");
  await sql('SELECT pg_reload_conf()');
  await until('the setting', async () => (await sql('SHOW rtsync.max_retained_wal'))[0]['rtsync.max_retained_wal'] === '1GB');
  const { pid } = await status();
  const live = [await join({}), await join({ cursor: true })];
  const all = await join({ cursor: true }, [{ ...binding, filter: undefined }]);
  const away = await join({ cursor: true });
  await row(-1);
  for (const client of [...live, all, away]) await has(client, -1);
  const since = away.frames.find((f) => f.event === 'postgres_changes').payload.rtsync.cursor;
  away.close();
  await until('it to be away', async () => (await status()).connections === 3);
  const before = await memoryOf(pid, 'RssAnon');
  let most = 0;
  let over = false;
  const watch = (async () => {
    while (!over) {
      most = Math.max(most, await memoryOf(pid, 'RssAnon'));
      await sleep(5);
    }
  })();
  await sql(`INSERT INTO big SELECT g, g % ${SEEN} = 0, repeat(md5(g::text), ${FILLER / 32}) FROM generate_series(1, ${ROWS}) g`);
  await row(-2);
  for (const client of [...live, all]) await has(client, -2);
  over = true;
  await watch;
  note(`${ROWS * FILLER / 1e6} MB in one transaction; the engine's memory was ${Math.round(before / 1024)} kB, and ${Math.round(most / 1024)} kB at most`);
  assert.ok(most - before < ROWS * FILLER / 2, `${most - before} bytes`);
  for (const client of [...live, all]) {
    const step = client === all ? 1 : SEEN;
    assert.deepEqual(client.ids(), [-1, ...Array.from({ length: ROWS / step }, (_, n) => step * (n + 1)), -2]);
    assert.deepEqual(client.refetches(), []);
  }
  assert.equal((await status()).pid, pid);
  const [, bytes] = (await log()).match(/temporary file: path "[^"]*", size (\d{7,})/);
  note(`${bytes} bytes went to a file`);
  assert.ok(Number(bytes) > ROWS * FILLER * 0.8);

  const back = await join({ since });
  assert.deepEqual({ ...back.rtsync, cursor: undefined }, { cursor: undefined, resumed: false, refetch: 'the cursor is too old' });
  await row(-3);
  await has(back, -3);
  assert.deepEqual(back.ids(), [-3]);
}, { timeout: 300_000 });
