// What others do to the engine's replication slot.

import { randomInt } from 'node:crypto';
import { sleep, until } from '../../e2e/lib/tap.mjs';
import { pg, sql, status } from '../../e2e/lib/server.mjs';

const patience = { timeout: 120_000, every: 50 };
const mine = 'database = current_database() AND slot_name LIKE \'rtsync%\'';

async function connect(options) {
  const connection = new pg.Client(options);
  connection.on('error', () => {});
  await connection.connect();
  return connection;
}

async function withSetting(name, value, run) {
  await sql(`ALTER SYSTEM SET ${name} = '${value}'`);
  await sql('SELECT pg_reload_conf()');
  try {
    await run();
  } finally {
    await sql(`ALTER SYSTEM RESET ${name}`);
    await sql('SELECT pg_reload_conf()');
  }
}

// A transaction that has written something, and is open meanwhile
async function withTransaction(run) {
  const connection = await connect();
  try {
    await connection.query("BEGIN; INSERT INTO journal VALUES (nextval('journal_id'), 1, 1, 'old')");
    await run();
    await connection.query('COMMIT');
  } finally {
    await connection.end().catch(() => {});
  }
}

// All of these have to lead to it.
async function anotherEpoch(run) {
  const { epoch } = await until('the slot', async () => {
    const row = await status();
    return row?.state === 'running' && row.epoch && row;
  }, patience);
  await run();
  await until('another epoch', async () => {
    const row = await status();
    return row?.state === 'running' && row.epoch && row.epoch !== epoch;
  }, patience);
}

// Ends the engine until something succeeds before the next one has the slot.
const whileFree = (what, run) =>
  until(what, async () => {
    const row = await status();
    if (row?.pid) await sql('SELECT pg_terminate_backend($1)', [row.pid]);
    return run().catch(() => false);
  }, { timeout: 120_000, every: 1 });

export const dropSlot = () =>
  anotherEpoch(() => whileFree('the slot to be dropped', async () =>
    (await sql(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE ${mine}`)).length > 0));

// The server removes WAL that the slot needs.
export const invalidateSlot = () =>
  anotherEpoch(() => withSetting('max_slot_wal_keep_size', '1MB', () => withTransaction(() =>
    until('the slot to be invalidated', async () => {
      await sql('SELECT pg_switch_wal(); CHECKPOINT');
      return (await sql(`SELECT FROM pg_replication_slots WHERE ${mine}
        AND confirmed_flush_lsn IS NOT NULL AND wal_status <> 'lost'`)).length === 0;
    }, patience))));

// It cannot move on for an old transaction, and the engine gives it up.
export const overfillSlot = () =>
  anotherEpoch(() => withSetting('rtsync.max_retained_wal', '16MB', () => withTransaction(() =>
    until('the slot to be given up', async () => {
      await sql("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))");
      return (await sql(`SELECT FROM pg_replication_slots WHERE ${mine}
        AND confirmed_flush_lsn IS NOT NULL`)).length === 0;
    }, patience))));

// Somebody else reads from it, and perhaps says that it has what there is.
export async function takeSlot() {
  const other = await connect({ replication: 'database' });
  try {
    const [{ name, lsn }] = await sql(`SELECT slot_name AS name, pg_current_wal_flush_lsn() - '0/0' AS lsn
      FROM pg_replication_slots WHERE ${mine}`);
    const started = new Promise((resolve) => other.connection.once('replicationStart', () => resolve(true)));
    await whileFree('the slot to be taken', () =>
      Promise.race([started, other.query(`START_REPLICATION SLOT ${name} LOGICAL 0/0`)]));
    await sleep(randomInt(2000));
    if (randomInt(2)) {
      const feedback = Buffer.alloc(34, 'r');
      for (const at of [1, 9, 17]) feedback.writeBigUInt64BE(BigInt(lsn), at);
      feedback.writeBigUInt64BE(0n, 25);
      feedback.writeUInt8(0, 33);
      other.connection.sendCopyFromChunk(feedback);
      await until('the slot to move', async () =>
        (await sql(`SELECT FROM pg_replication_slots WHERE ${mine} AND confirmed_flush_lsn >= '0/0'::pg_lsn + ${lsn}`)).length > 0, patience);
    }
  } finally {
    // Its server's process ends when the connection does.
    other.connection.stream.destroy();
  }
}
