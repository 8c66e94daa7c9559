// cluster: -c rtsync.history_size=1MB
//
// Who hears that access to a table has changed may be sent changes from before
// that afterwards, as the table was then, since they are not decoded or not visible
// yet: it is told once more behind them, so that a client that has read its rows in
// between does not keep what came then.  However often it was told, that ends.
//
// A commit that waits for a synchronous standby holds up all that come behind it
// in the WAL, also those that are visible.

import { assert, atEnd, note, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, pg, sql, token } from '../e2e/lib/server.mjs';
import { holdCommits, releaseCommits } from './lib/syncrep.mjs';

await createRole('reader');
await createTable('line', 'id int PRIMARY KEY', { roles: ['reader'] });
await createTable('stream', 'filler text', { roles: ['reader'] });
const isChange = (f) => f.event === 'postgres_changes';
const isRefetch = (f) => f.event === 'system' && f.payload.status === 'refetch';

async function open(apikey) {
  const client = await RawClient.open({ apikey });
  atEnd(() => client.close());
  return Object.assign(client, { apikey });
}

const binding = (table, rtsync) => ({ event: '*', schema: 'public', table, rtsync });

async function join(table, rtsync = {}, options = { cursor: true }, apikey = token('reader')) {
  const client = await open(apikey);
  const { response } = await client.joinOk(table, [binding(table, rtsync)], { config: { rtsync: options } });
  return Object.assign(client, {
    table,
    resumed: response.rtsync?.resumed,
    ids: () => client.changes().map((d) => d.record.id),
    last: () => client.frames.findLast(isChange),
    refetches: () => client.frames.filter(isRefetch).length,
    toldBehind: () => client.frames.slice(client.frames.findLastIndex(isChange)).some(isRefetch),
  });
}

// What does not wait for a standby
const local = new pg.Client();
await local.connect();
await local.query("SET synchronous_commit = 'local'");
atEnd(() => local.end());

const channels = (client) =>
  sql('SELECT state, lag_bytes FROM rtsync.pg_stat_rtsync_subscription WHERE topic = $1', [client.table]);

let held = 0;
// A commit that waits; returns what lets it go on.
async function hold() {
  const writer = new pg.Client();
  await writer.connect();
  const [{ pid }] = (await writer.query('SELECT pg_backend_pid() AS pid')).rows;
  const done = writer.query('INSERT INTO line VALUES ($1)', [++held]).then(() => writer.end());
  await until('the commit to wait', async () =>
    (await sql("SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'", [pid])).length > 0);
  return async () => {
    await sql('SELECT pg_cancel_backend($1)', [pid]);
    await done;
  };
}

// What can be delivered now is, as somebody who joins hears of nothing older.
const delivered = async () => (await join('line')).close();

async function release() {
  await releaseCommits();
  await until('all to be visible', async () => (await sql('SELECT FROM line')).length === held);
}

async function whileHeld(run) {
  await holdCommits();
  try {
    await run();
  } finally {
    await release();
  }
}

// The client stops reading, and what others say fills its queue.
async function stall(client) {
  const talker = await open(token('reader'));
  await talker.joinOk(client.table, [], { config: { broadcast: { ack: true, self: false } } });
  client.socket.pause();
  const message = { type: 'broadcast', event: 'filler', payload: { text: 'x'.repeat(200_000) } };
  await until('the client to be paused', async () => {
    await talker.call(`realtime:${client.table}`, 'broadcast', message);
    return (await channels(client)).some((row) => row.state === 'paused');
  }, { every: 1 });
  talker.close();
  await until('the other one to be gone', async () => (await channels(client)).length === 1);
}

async function readAgain(client) {
  client.socket.resume();
  await until('it to go on', async () => (await channels(client))[0].state !== 'paused');
}

// A row in the old layout, of which decoding hears when the table has the new one
const alter = ({ table }) => local.query(`INSERT INTO ${table} VALUES (10, 1); ALTER TABLE ${table} ADD COLUMN more int DEFAULT 7`);
const told = (client, times = 1) => until('it to be told', () => client.refetches() >= times);

// All is visible now.
async function toldBehind(client, rtsync) {
  await until('the change from before', () => client.ids().includes(10));
  assert.equal(client.last().payload.data.record.more, undefined);
  await until('it to be told behind that', () => client.toldBehind());
  const follow = async (ids) => {
    for (const id of ids) {
      await sql(`INSERT INTO ${client.table} VALUES (${id}, 1)`);
      await until('another change', () => client.ids().includes(id));
      assert.equal(client.last().payload.data.record.more, 7);
    }
    return client.refetches();
  };
  const refetches = await follow([20, 21]);
  note(`${refetches} times told to read again`);
  assert.ok(refetches <= 5);
  assert.equal(await follow([22, 23]), refetches);
  // it has been told all, and its cursors say so
  client.close();
  const again = await join(client.table, rtsync, { since: client.last().payload.rtsync.cursor }, client.apikey);
  assert.equal(again.resumed, true);
  again.close();
}

let number = 0;
async function makeTable() {
  const table = `altered_${++number}`;
  await createTable(table, 'id int PRIMARY KEY, n int', { roles: ['reader'] });
  return table;
}

for (const [name, rtsync] of [['at once', {}], ['in intervals', { interval: 200 }]]) {
  const begin = async () => {
    const client = await join(await makeTable(), rtsync);
    await local.query(`INSERT INTO ${client.table} VALUES (1, 1)`);
    await until('the first change', () => client.ids().includes(1));
    return client;
  };

  for (const times of [1, 2])
    test(`it did not read when access changed, ${times} times (${name})`, async () => {
      const client = await begin();
      await stall(client);
      await local.query(`INSERT INTO ${client.table} VALUES (2, 1)`);
      await whileHeld(async () => {
        await hold();
        await alter(client);
        await readAgain(client);
        await told(client);
        await until('what it missed', () => client.ids().includes(2));
        if (times === 1) return;
        await stall(client);
        await readAgain(client);
      });
      await toldBehind(client, rtsync);
    });

  for (const early of [true, false])
    test(`it does not read when it has heard of it, until ${early ? 'before' : 'after'} what is held up (${name})`, async () => {
      const client = await begin();
      await local.query(`INSERT INTO ${client.table} VALUES (2, 1)`);
      await whileHeld(async () => {
        await hold();
        await alter(client);
        await told(client);
        await until('the change before', () => client.ids().includes(2));
        await stall(client);
        if (early) await readAgain(client);
      });
      if (!early) {
        await delivered();
        await readAgain(client);
      }
      await toldBehind(client, rtsync);
    });

  test(`the history has forgotten its place (${name})`, async () => {
    const client = await begin();
    await stall(client);
    await local.query(`INSERT INTO ${client.table} VALUES (2, 1)`);
    await local.query("INSERT INTO stream SELECT repeat('x', 1500) FROM generate_series(1, 2000)");
    await delivered();
    await whileHeld(async () => {
      await hold();
      await alter(client);
      await readAgain(client);
      await told(client, 2); // and of that
    });
    await toldBehind(client, rtsync);
    assert.ok(!client.ids().includes(2));
  });

  test(`another token comes in between (${name})`, async () => {
    const client = await begin();
    client.apikey = token('reader', { jti: 'another' });
    await whileHeld(async () => {
      await hold();
      await alter(client);
      await told(client);
      client.send(`realtime:${client.table}`, 'access_token', { access_token: client.apikey });
      await told(client, 2);
    });
    await toldBehind(client, rtsync);
  });

  test(`it has had a snapshot, and is behind (${name})`, async () => {
    const table = await makeTable();
    let client;
    await whileHeld(async () => {
      const goOn = await hold();
      client = await join(table, { ...rtsync, snapshot: true });
      await client.frame('the end of the snapshot', (f) => f.payload?.status === 'snapshot_end');
      await local.query(`INSERT INTO ${table} VALUES (1, 1)`);
      await hold();
      await alter(client);
      await told(client);
      await goOn();
      await until('the change behind the snapshot', () => client.ids().includes(1));
    });
    await toldBehind(client, { ...rtsync, snapshot: true });
  });
}
