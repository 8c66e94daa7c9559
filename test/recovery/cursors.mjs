// cluster: -c rtsync.max_filter_time=1 -c rtsync.send_timeout=10min
//
// A cursor vouches for everything before it: a client that was still to be told
// of something when it got a cursor, and comes back with that, is told to read
// its rows again, though meanwhile all others have been told.

import { randomUUID } from 'node:crypto';
import { assert, atEnd, note, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, pg, sql, token } from '../e2e/lib/server.mjs';

await createRole('reader');
for (const table of ['calm', 'other', 'flood']) await createTable(table, 'id int PRIMARY KEY, filler text', { roles: ['reader'] });
const guarded = ['guarded', 'also_guarded'];
for (const table of guarded) await createTable(table, 'id int PRIMARY KEY, team int', { roles: ['reader'] });
// a value that has no text: to show it is an error
await sql(`CREATE TYPE label AS ENUM ('fine', 'gone'); CREATE TABLE odd AS SELECT 'gone'::label AS label;
SET allow_system_table_mods = on; DELETE FROM pg_enum WHERE enumlabel = 'gone'; RESET allow_system_table_mods`);
await createTable('labelled', 'id int PRIMARY KEY, label label, filler text', { roles: ['reader'] });
await createTable('fragile', 'id int PRIMARY KEY, divisor int', { roles: ['reader'] });
await sql(`
CREATE TABLE members (who text PRIMARY KEY, team int);
GRANT SELECT ON members TO reader;
INSERT INTO members VALUES ('ann', 1);
${guarded.map((table) => `
ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON ${table} USING (team IN (SELECT m.team FROM members m
  WHERE who = current_setting('request.jwt.claims', true)::json ->> 'sub'));`).join('')}
CREATE FUNCTION slow(text) RETURNS bool LANGUAGE plpgsql STABLE AS $$BEGIN PERFORM pg_sleep(0.03); RETURN $1 = 'wanted'; END$$;
ALTER TABLE fragile ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON fragile USING (1 / divisor = 1)`);
const apikey = token('reader', { sub: 'ann' });
const on = (table, rtsync) => ({ event: '*', schema: 'public', table, rtsync });

async function open(topic, bindings, rtsync) {
  const client = await RawClient.open({ apikey });
  atEnd(() => client.close());
  client.systems = [];
  client.events = [];
  client.errors = client.refetches = 0;
  client.onFrame = ({ event, payload }) => {
    if (event === 'system') client.systems.push(payload);
    if (event === 'system' && payload.status === 'error') client.errors++;
    if (event === 'system' && payload.status === 'refetch') client.refetches++;
    if (event === 'postgres_changes') client.events.push({ id: payload.data.record.id, cursor: payload.rtsync?.cursor, errors: client.errors, refetches: client.refetches });
  };
  client.began = (await client.joinOk(topic, bindings, { config: { rtsync } })).response.rtsync;
  client.told = (status, pattern) => client.systems.filter((s) => s.status === status && pattern.test(s.message)).length;
  client.event = (id) => until(`row ${id}`, () => client.events.find((event) => event.id === id));
  return client;
}

let last = 0;
const place = (cursor) => cursor.split(':').slice(0, 3).join(':');

// Transactions that the engine gets at once: no commit waits for the WAL to be
// flushed.
async function write(...transactions) {
  const writer = new pg.Client();
  await writer.connect();
  await writer.query('SET synchronous_commit = off');
  await writer.query(transactions.map((text) => `BEGIN; ${text}; COMMIT`).join('; '));
  await writer.end();
}

function mustRefetch({ began }, pattern = /^access to tables at the cursor is not known$/) {
  assert.equal(began.resumed, false);
  assert.match(began.refetch, pattern);
}

test('a change of what policies read, of which others are told later', async () => {
  const bindings = [on('calm'), on('guarded')];
  const [client, other] = [await open('one', bindings, { cursor: true }), await open('one', bindings)];
  const id = ++last;
  const touch = "UPDATE members SET team = team + 1 WHERE who = 'ann'";
  await write(touch, touch, `INSERT INTO calm VALUES (${id})`);
  const { cursor, refetches } = await client.event(id);
  client.close();
  await until('the other one to be told twice', () => other.told('refetch', /depends on/) === 2);
  const again = await open('one', bindings, { cursor: true, since: cursor });
  if (refetches === 2) note('the machine stalled: it was told of both');
  else mustRefetch(again);
});

test('a change of what policies read, of which it was told', async () => {
  const bindings = [on('calm'), on('also_guarded')];
  const client = await open('one', bindings, { cursor: true });
  const id = ++last;
  await write(`UPDATE members SET team = team + 1 WHERE who = 'ann'; INSERT INTO calm VALUES (${id})`);
  await client.event(id);
  await until('it to be told', () => client.told('refetch', /depends on/) === 1);
  const { rtsync: { cursor } } = await until('the end', () => client.systems.find(({ status }) => status === 'commit'));
  const again = await open('one', bindings, { cursor: true, since: cursor });
  assert.equal(again.began.resumed, true, again.began.refetch);
  await write(`INSERT INTO calm VALUES (${++last})`);
  await again.event(last);
  assert.equal(again.told('refetch', /./), 0);
});

test('errors, of which only the first is told at once', async () => {
  const bindings = [on('calm'), on('fragile')];
  const [client, other] = [await open('two', bindings, { cursor: true }), await open('two', bindings)];
  const id = ++last;
  await write(`INSERT INTO fragile VALUES (${++last}, 0)`, `INSERT INTO fragile VALUES (${++last}, 0)`,
    `INSERT INTO fragile VALUES (${++last}, 1)`, `INSERT INTO calm VALUES (${id})`);
  const { cursor, errors } = await client.event(id);
  client.close();
  await until('the other one to be told twice', () => other.told('error', /withheld.*division by zero/) === 2);
  const again = await open('two', bindings, { cursor: true, since: cursor });
  if (errors === 2) note('the machine stalled: it was told of both');
  else mustRefetch(again);
});

test('a TRUNCATE behind the last change of a batch', async () => {
  const bindings = [on('calm', { interval: 200 }), on('other', { interval: 200 })];
  const client = await open('three', bindings, { cursor: true });
  await write(`INSERT INTO calm VALUES (${++last})`); // batches are merged behind the first
  await client.event(last);
  const id = ++last;
  await write(`INSERT INTO calm VALUES (${id}); TRUNCATE other`);
  const { cursor } = await client.event(id);
  await until('it to be told', () => client.told('refetch', /truncated/) === 1);
  client.close();
  const again = await open('three', bindings, { cursor: true, since: cursor });
  assert.equal(again.began.resumed, true, again.began.refetch);
  await write(`INSERT INTO calm VALUES (${++last})`);
  await again.event(last);
  assert.equal(again.told('refetch', /truncated/), 1);
});

test('changes withheld because conditions took too much time', async () => {
  const bindings = [on('calm', { where: 'slow(filler)' }), on('other')];
  const session = randomUUID();
  const clients = [await open('four', bindings, { cursor: true }), await open('four', bindings, { session }), await open('four', bindings)];
  const suspended = (client) => client.told('error', /withheld for now because the patterns/) === 1;
  await until('the conditions to take too much', async () => {
    await write(`INSERT INTO calm VALUES (${++last}, 'unwanted')`);
    return clients.every(suspended);
  }, { every: 20 });
  const missed = ++last;
  const id = ++last;
  await write(`INSERT INTO calm VALUES (${missed}, 'wanted')`, `INSERT INTO other VALUES (${id})`);
  const [client, holder, other] = clients;
  const { cursor } = await client.event(id);
  await holder.event(id);
  for (let i = 0; i < 3; i++) await holder.heartbeat();
  client.close();
  holder.close();
  await until('the other one to be told', () => other.told('refetch', /took too much time/) > 0, { timeout: 60_000 });
  assert.ok(!other.events.some(({ id }) => id === missed));
  mustRefetch(await open('four', bindings, { cursor: true, since: cursor }));
  mustRefetch(await open('four', bindings, { session }), /./);
});

// The second of two errors is told later.  The batch is larger than what is sent
// at once, and begun again when that is seen.
test('errors in a batch that has to be sent in parts', async () => {
  const client = await open('five', [on('labelled', { interval: 500 })], { cursor: true });
  await write(`INSERT INTO labelled VALUES (${++last}, 'fine')`);
  const begin = place((await client.event(last)).cursor);
  const first = last + 1;
  last += 1000;
  await write(`INSERT INTO labelled SELECT g, CASE WHEN g < ${first + 2} THEN (SELECT label FROM odd) ELSE 'fine' END, repeat('x', 1500)
    FROM generate_series(${first}, ${last}) g`);
  await client.event(last);
  const behind = client.events.filter(({ id, cursor }) => id >= first && place(cursor) !== begin);
  assert.ok(behind.length > 1, `${behind.length} events that end a part`);
  assert.deepEqual(behind.filter(({ errors, cursor }) => errors === 0 && cursor.split(':').length === 4), []);
  await until('it to be told', () => client.told('error', /enum/) > 0);
});

// It is in other groups when it is told, or in none.
test('changes withheld because of a lock, before the client stops reading', async () => {
  const bindings = [on('flood', { interval: 50 }), on('guarded', { interval: 50 })];
  const [client, other] = [await open('six', bindings), await open('six', [on('guarded')])];
  const locker = new pg.Client();
  await locker.connect();
  await locker.query('BEGIN; LOCK TABLE members IN ACCESS EXCLUSIVE MODE');
  const withheld = /withheld for now because a table that its row security reads is locked/;
  await write(`INSERT INTO guarded VALUES (${++last}, 1)`);
  await until('it to be told that they are', () => client.told('error', withheld) === 1);
  client.socket.pause();
  await until('it to be paused', async () => {
    const first = last + 1;
    last += 1000;
    await write(`INSERT INTO flood SELECT g, repeat('x', 1500) FROM generate_series(${first}, ${last}) g`);
    const [{ n }] = await sql("SELECT count(*)::int AS n FROM rtsync.pg_stat_rtsync_connection WHERE state = 'paused'");
    return n > 0;
  }, { every: 100, timeout: 60_000 });
  await locker.query('ROLLBACK');
  await locker.end();
  await until('the other one to be told', () => other.told('refetch', /were withheld/) > 0, { timeout: 60_000 });
  client.socket.resume();
  await until('it to be told', () => client.told('refetch', /./) > 0, { timeout: 60_000 });
});
