// A client that keeps its last cursor and comes back with it gets every change
// once and in order, whatever ended its connection: itself, the gateway, the
// engine or the server.

import { assert, note, sleep, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, pg, sql, status, token } from '../e2e/lib/server.mjs';
import { gatewayPids, restart, running, served } from './lib/cluster.mjs';

await createRole('reader');
await createTable('journal', 'id int PRIMARY KEY, filler text', { roles: ['reader'] });
const apikey = token('reader');
const binding = { event: 'INSERT', schema: 'public', table: 'journal' };
const join = (client, rtsync) => client.joinOk('journal', [binding], { config: { rtsync } });

// Follows the table over any number of connections.
class Follower {
  ids = [];
  cursor = null;
  connections = 0;
  refetches = 0;
  wanted = true;

  async run() {
    while (this.wanted) {
      try {
        this.client = await RawClient.open({ apikey });
        // what comes may come before the reply has been looked at
        this.client.onFrame = (frame) => this.#note(frame);
        const { response } = await join(this.client, this.cursor ? { since: this.cursor } : { cursor: true });
        if (this.cursor && !response.rtsync.resumed) this.refetches++;
        this.cursor ??= response.rtsync.cursor;
        this.connections++;
        await until('the end of the connection', () => this.client.closed || !this.wanted, { timeout: 600_000 });
      } catch {
        await sleep(20);
      }
    }
    this.drop();
  }

  #note({ event, payload }) {
    if (event !== 'postgres_changes') return;
    this.ids.push(payload.data.record.id);
    this.cursor = payload.rtsync.cursor;
  }

  drop() {
    this.client?.socket.terminate();
  }
}

let written = 0;

// Transactions of one to fifty rows, until told to stop; one that a restart
// interrupts is written again.
async function write(until_) {
  while (!until_()) {
    const n = 1 + (written % 50);
    try {
      await sql(
        `INSERT INTO journal SELECT g, repeat('x', 100) FROM generate_series($1::int, $2::int) g
         ON CONFLICT DO NOTHING`, [written + 1, written + n]);
      written += n;
    } catch {
      await sleep(50);
    }
  }
}

test('a transaction that commits right where the history begins is behind the cursor of who came before', async () => {
  const writer = new pg.Client();
  await writer.connect();
  await writer.query('BEGIN; INSERT INTO journal VALUES (0)');
  // enough for the slot to follow, up to a commit: nothing comes behind that
  await sql("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1200000))");
  await sql('SELECT pg_current_xact_id()');
  await until('the slot to follow', async () => (await sql(`SELECT confirmed_flush_lsn >= pg_current_wal_flush_lsn() AS yes
    FROM pg_replication_slots WHERE slot_name LIKE 'rtsync%'`))[0].yes, { timeout: 120_000, every: 50 });
  const client = await RawClient.open({ apikey });
  const { response } = await join(client, { cursor: true });
  client.close();
  await writer.query('COMMIT');
  await writer.end();
  const again = await RawClient.open({ apikey });
  const { response: { rtsync } } = await join(again, { since: response.rtsync.cursor });
  assert.equal(rtsync.resumed, true);
  await until('the row', () => again.changes().some(({ record }) => record.id === 0));
  const frame = again.frames.find((f) => f.event === 'postgres_changes');
  note(`the cursor ${response.rtsync.cursor}, the row at ${frame.payload.rtsync.cursor}`);
  again.close();
});

test('20 clients get each of the rows once and in order over drops, kills and restarts', async () => {
  const followers = Array.from({ length: 20 }, () => new Follower());
  const ends = followers.map((f) => f.run());
  await until('all to be there', () => followers.every((f) => f.connections > 0));

  let stop = false;
  const writer = write(() => stop);
  const drops = (async () => {
    while (!stop) {
      followers[Math.floor(Math.random() * followers.length)].drop();
      await sleep(30);
    }
  })();
  const faults = [
    async () => process.kill((await gatewayPids())[0], 'SIGKILL'),
    async () => sql('SELECT pg_terminate_backend($1)', [(await status()).pid]),
    () => restart('fast'),
    () => restart('immediate'),
  ];
  for (const fault of faults) {
    await sleep(1500); // under load
    await fault();
    await running();
  }
  await sleep(1500);
  stop = true;
  await Promise.all([writer, drops]);

  await until('the last row', () => followers.every((f) => f.ids.at(-1) === written), { timeout: 120_000 });
  for (const follower of followers) follower.wanted = false;
  await Promise.all(ends);
  note(`${written} rows, ${followers.reduce((n, f) => n + f.connections, 0)} connections, ${faults.length} faults`);
  for (const follower of followers) {
    assert.equal(follower.refetches, 0);
    assert.deepEqual(follower.ids, Array.from({ length: written }, (_, i) => i + 1));
  }
}, { timeout: 400_000 });

test('what is read again from the WAL has the cursors that it had before', async () => {
  const client = await RawClient.open({ apikey });
  const { response: { rtsync: { cursor } } } = await join(client, { cursor: true });
  const from = written;
  for (let n = 1; n <= 40; n++) {
    const rows = 1 + (n % 7);
    await sql('INSERT INTO journal SELECT g FROM generate_series($1::int, $2::int) g', [written + 1, written + rows]);
    written += rows;
  }
  const received = (c) => c.frames.filter((f) => f.event === 'postgres_changes')
    .map(({ payload }) => [payload.data.record.id, payload.rtsync.cursor]);
  await until('all rows', () => received(client).length === written - from);
  for (const mode of ['immediate', 'fast']) {
    await restart(mode);
    await running();
    const again = await served({ apikey });
    assert.equal((await join(again, { since: cursor })).response.rtsync.resumed, true);
    await until('all rows again', () => received(again).length === written - from);
    assert.deepEqual(received(again), received(client));
    again.close();
  }
});

test('a cursor that cannot be gone on from is answered with the reason', async () => {
  const client = await RawClient.open({ apikey });
  const { response: { rtsync: { cursor } } } = await join(client, { cursor: true });
  const [epoch, lsn, seq] = cursor.split(':');
  for (const [since, reason] of [
    ['', 'invalid cursor'],
    ['nonsense', 'invalid cursor'],
    [`${cursor}:1`, 'invalid cursor'],
    [`${epoch}:${'f'.repeat(17)}:1`, 'invalid cursor'],
    [`1:${lsn}:${seq}`, 'the cursor is of another history'],
    [`${epoch}:1:1`, 'the cursor is too old'],
  ]) {
    const { response } = await join(client, { since });
    assert.equal(response.rtsync.resumed, false, since);
    assert.equal(response.rtsync.refetch, reason, since);
    assert.equal(typeof response.rtsync.cursor, 'string');
  }
  client.close();
});

test('who does not ask for cursors gets none', async () => {
  const client = await RawClient.open({ apikey });
  const { response } = await client.joinOk('journal', [binding]);
  assert.deepEqual(Object.keys(response), ['postgres_changes']);
  await sql('INSERT INTO journal VALUES ($1)', [++written]);
  const frame = await client.frame('the row', (f) => f.event === 'postgres_changes');
  assert.deepEqual(Object.keys(frame.payload), ['ids', 'data']);
  client.close();
});

test('a cursor of a transaction that is being told does not bring the rest of it into memory', async () => {
  await sql("ALTER SYSTEM SET rtsync.history_size = '4MB'");
  await sql('SELECT pg_reload_conf()');
  await until('the setting', async () => (await sql('SHOW rtsync.history_size'))[0]['rtsync.history_size'] === '4MB');
  await createTable('slow', 'id int PRIMARY KEY, filler text', { roles: ['reader'] });
  await sql(`CREATE FUNCTION slow() RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.002); RETURN true; END';
    ALTER TABLE slow ENABLE ROW LEVEL SECURITY; CREATE POLICY slow ON slow USING (slow())`);
  const slow = { event: 'INSERT', schema: 'public', table: 'slow' };
  const follow = async (rtsync) => {
    const client = await RawClient.open({ apikey });
    const { response } = await client.joinOk('slow', [slow], { config: { rtsync } });
    return Object.assign(client, { rtsync: response.rtsync });
  };
  const client = await follow({ cursor: true });
  await sql("INSERT INTO slow SELECT g, repeat('x', 90) FROM generate_series(1, 60000) g");
  const { payload } = await client.frame('the first rows', (f) => f.event === 'postgres_changes', { timeout: 60_000 });
  const since = payload.rtsync.cursor.replace(/^(\w+:\w+):\w+/, '$1:ffffffff');
  const again = await follow({ since });
  const look = async () => (await sql('SELECT events, history_bytes FROM rtsync.pg_stat_rtsync WHERE datname = current_database()'))[0];
  const before = (await look()).events;
  const { history_bytes: bytes } = await until('another look at it', async () => {
    const row = await look();
    return row.events !== before && row;
  }, { timeout: 60_000, every: 20 });
  const told = client.changes().length;
  note(`${bytes} bytes with ${told} of 60000 rows told, ${JSON.stringify(again.rtsync)}`);
  assert.ok(told < 60000, 'in the midst of it');
  assert.ok(bytes < 6_000_000, `${bytes} bytes`);
  client.close();
  again.close();
  await sql('DROP TABLE slow');
  await sql('ALTER SYSTEM RESET rtsync.history_size');
  await sql('SELECT pg_reload_conf()');
});

test('where another publication is decoded, a cursor of the first means nothing', async () => {
  const client = await RawClient.open({ apikey });
  const { response } = await join(client, { cursor: true });
  client.close();
  await sql('CREATE PUBLICATION another FOR TABLE journal');
  await sql("ALTER SYSTEM SET rtsync.publication = 'another'");
  await restart('fast');
  await running();
  const again = await served({ apikey });
  const { response: { rtsync } } = await join(again, { since: response.rtsync.cursor });
  assert.equal(rtsync.refetch, 'the cursor is of another history');
  again.close();
});
